//! The devices of the DSDT, in ACPI machine language.

use acpi_tables::aml::{
    Arg, Device, EISAName, Equal, IO, If, Interrupt, Memory32Fixed, Method, Name, Notify, ONE, Package, Path,
    ResourceTemplate, Scope, ZERO,
};
use acpi_tables::{Aml, AmlSink};

use crate::board::{Board, BootTablesError, MmioSlot, PortSlot, Reachable};
use crate::x86_64::layout::{ACPI_SLEEP_POWER_OFF, I8042, serial, vmgenid};

/// What a generation id's interrupt notifies with ("Virtual Machine Generation ID" specification, Microsoft, 2012).
const GENERATION_CHANGED: u8 = 0x80;

/// AML that is made already.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

/// Everything after the DSDT's header.
pub(super) fn aml(board: &Board<'_>) -> Result<Vec<u8>, BootTablesError> {
    let mut devices = Vec::new();
    for (index, slot) in board.virtio.iter().enumerate() {
        virtio(index, slot, &mut devices)?;
    }
    if let (true, Reachable::Port(port)) = (board.serial, serial()) {
        legacy("COM1", "PNP0501", &[(port.base, port.ports)], port, &mut devices);
    }
    if board.keyboard {
        legacy(
            "PS2_",
            "PNP0303",
            &[(I8042.base, 1), (I8042.base + 4, 1)],
            I8042,
            &mut devices,
        );
    }
    if board.vmgenid {
        generation_id(&mut devices);
    }
    let mut aml = Vec::new();
    Scope::new("_SB_".into(), vec![&Raw(devices)]).to_aml_bytes(&mut aml);
    // The sleep type that is written to the sleep control register to switch the machine off (§7.4.2.6).
    let off = ACPI_SLEEP_POWER_OFF >> 2 & 0x7;
    Name::new("_S5_".into(), &Package::new(vec![&off, &ZERO, &ZERO, &ZERO])).to_aml_bytes(&mut aml);
    Ok(aml)
}

/// An interrupt as an irqfd makes it: an edge, active high, nobody else's.
fn interrupt(gsi: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, gsi)
}

/// A virtio-mmio device, as Linux's driver knows it: "LNRO0005" (drivers/virtio/virtio_mmio.c).
fn virtio(index: usize, slot: &MmioSlot, out: &mut Vec<u8>) -> Result<(), BootTablesError> {
    let misplaced = || BootTablesError::DeviceMisplaced { base: slot.base };
    let base = u32::try_from(slot.base).map_err(|_| misplaced())?;
    let bytes = u32::try_from(slot.bytes).map_err(|_| misplaced())?;
    let index = u8::try_from(index).map_err(|_| misplaced())?;
    Device::new(
        Path::new(&format!("VR{index:02X}")),
        vec![
            &Name::new("_HID".into(), &"LNRO0005"),
            &Name::new("_UID".into(), &index),
            // It sees memory as the CPUs do.
            &Name::new("_CCA".into(), &ONE),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&Memory32Fixed::new(true, base, bytes), &interrupt(slot.gsi)]),
            ),
        ],
    )
    .to_aml_bytes(out);
    Ok(())
}

/// A device of PCs with a Plug and Play id, some runs of ports, and an interrupt.
fn legacy(name: &str, id: &str, ports: &[(u16, u16)], slot: PortSlot, out: &mut Vec<u8>) {
    let ports: Vec<_> = ports
        .iter()
        .map(|(base, count)| IO::new(*base, *base, 1, u8::try_from(*count).unwrap_or(1)))
        .collect();
    let interrupt = interrupt(slot.gsi);
    let mut resources: Vec<&dyn Aml> = ports.iter().map(|port| port as &dyn Aml).collect();
    resources.push(&interrupt);
    Device::new(
        name.into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new(id)),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_STA".into(), &0xf_u8), // present, enabled, shown, working
            &Name::new("_CRS".into(), &ResourceTemplate::new(resources)),
        ],
    )
    .to_aml_bytes(out);
}

/// The generation id's page, and the event device whose interrupt says that it changed (§5.6.9).
fn generation_id(out: &mut Vec<u8>) {
    let slot = vmgenid();
    // Its two halves; it is below 1 MiB.
    let low = u32::try_from(slot.base).unwrap_or(0);
    Device::new(
        "VGEN".into(),
        vec![
            &Name::new("_HID".into(), &"RNGW0001"),
            // What drivers look for.
            &Name::new("_CID".into(), &"VM_Gen_Counter"),
            &Name::new("_DDN".into(), &"VM_Gen_Counter"),
            &Name::new("ADDR".into(), &Package::new(vec![&low, &ZERO])),
        ],
    )
    .to_aml_bytes(out);
    let gsi = u8::try_from(slot.gsi).unwrap_or(0);
    Device::new(
        "GED_".into(),
        vec![
            &Name::new("_HID".into(), &"ACPI0013"),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&interrupt(slot.gsi)])),
            &Method::new(
                "_EVT".into(),
                1,
                true,
                vec![&If::new(
                    &Equal::new(&Arg(0), &gsi),
                    vec![&Notify::new(&Path::new("VGEN"), &GENERATION_CHANGED)],
                )],
            ),
        ],
    )
    .to_aml_bytes(out);
}
