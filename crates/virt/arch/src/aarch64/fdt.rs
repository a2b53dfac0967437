//! The flattened device tree (Devicetree Specification 0.4; bindings in Linux's Documentation/devicetree/bindings).

use vm_fdt::FdtWriter;

use crate::aarch64::layout::{DEVICE_RAM_BYTES, KERNEL_START, rtc, serial, system_control, vmgenid};
use crate::aarch64::registers::affinity;
use crate::board::{Board, BootTablesError, GicDescription, GicVersion, MmioSlot, Reachable};

/// Nodes that others point to.
const PHANDLE_GIC: u32 = 1;
const PHANDLE_CLOCK: u32 = 2;
const PHANDLE_ITS: u32 = 3;
/// The kinds and senses of interrupts (bindings/interrupt-controller/arm,gic-v3.yaml, include/dt-bindings/interrupt-controller/irq.h).
const SPI: u32 = 0;
const PPI: u32 = 1;
const EDGE_RISING: u32 = 1;
const LEVEL_HIGH: u32 = 4;
/// The timers' interrupts, counted from 16: secure, non-secure, virtual, hypervisor, as the Base System Architecture has them.
const TIMER_PPIS: [u32; 4] = [13, 14, 11, 10];
/// The performance monitor's, likewise.
pub(crate) const PERFORMANCE_MONITOR_PPI: u32 = 7;
/// The frequency of the clock that serial port and real-time clock say they run on. Neither has one; drivers want it told.
const CLOCK_HERTZ: u32 = 24_000_000;
/// Of the random bytes, how many place the kernel (`kaslr-seed`); the others seed its generator (`rng-seed`).
const KASLR_BYTES: usize = 8;

type Written = Result<(), BootTablesError>;

impl From<vm_fdt::Error> for BootTablesError {
    fn from(error: vm_fdt::Error) -> Self {
        Self::DeviceTree(error)
    }
}

/// Makes the device tree.
pub(crate) fn device_tree(board: &Board<'_>) -> Result<Vec<u8>, BootTablesError> {
    let gic = board.gic.as_ref().ok_or(BootTablesError::NoInterruptController)?;
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("compatible", "linux,dummy-virt")?;
    fdt.property_string("model", "ringwall")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", PHANDLE_GIC)?;
    chosen(&mut fdt, board)?;
    memory(&mut fdt, board)?;
    cpus(&mut fdt, board)?;
    interrupt_controller(&mut fdt, gic)?;
    timer(&mut fdt, board, gic)?;
    firmware(&mut fdt)?;
    devices(&mut fdt, board)?;
    fdt.end_node(root)?;
    Ok(fdt.finish()?)
}

fn chosen(fdt: &mut FdtWriter, board: &Board<'_>) -> Written {
    let node = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", board.command_line)?;
    if board.serial {
        fdt.property_string("stdout-path", &format!("/serial@{:x}", place(serial()).base))?;
    }
    if let Some(initrd) = &board.initrd {
        fdt.property_u64("linux,initrd-start", initrd.start)?;
        fdt.property_u64("linux,initrd-end", initrd.end)?;
    }
    if let Some((kaslr, seed)) = board.rng_seed.split_first_chunk::<KASLR_BYTES>() {
        fdt.property("kaslr-seed", kaslr)?;
        if !seed.is_empty() {
            fdt.property("rng-seed", seed)?;
        }
    }
    fdt.end_node(node)?;
    Ok(())
}

fn memory(fdt: &mut FdtWriter, board: &Board<'_>) -> Written {
    let node = fdt.begin_node(&format!("memory@{KERNEL_START:x}"))?;
    fdt.property_string("device_type", "memory")?;
    fdt.property_array_u64("reg", &[KERNEL_START, board.ram_bytes.saturating_sub(DEVICE_RAM_BYTES)])?;
    fdt.end_node(node)?;
    Ok(())
}

fn cpus(fdt: &mut FdtWriter, board: &Board<'_>) -> Written {
    let node = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 0)?;
    for index in 0..board.vcpus {
        let cpu = fdt.begin_node(&format!("cpu@{:x}", affinity(index)))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "arm,arm-v8")?;
        fdt.property_string("enable-method", "psci")?;
        fdt.property_u64("reg", affinity(index))?;
        fdt.end_node(cpu)?;
    }
    fdt.end_node(node)?;
    Ok(())
}

fn interrupt_controller(fdt: &mut FdtWriter, gic: &GicDescription) -> Written {
    let node = fdt.begin_node(&format!("interrupt-controller@{:x}", gic.distributor.start))?;
    fdt.property_string(
        "compatible",
        if gic.version == GicVersion::V3 {
            "arm,gic-v3"
        } else {
            "arm,cortex-a15-gic"
        },
    )?;
    fdt.property_u32("phandle", PHANDLE_GIC)?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_null("ranges")?;
    let bytes = |range: &std::ops::Range<u64>| range.end.saturating_sub(range.start);
    let (distributor, processors) = (&gic.distributor, &gic.processors);
    fdt.property_array_u64(
        "reg",
        &[
            distributor.start,
            bytes(distributor),
            processors.start,
            bytes(processors),
        ],
    )?;
    if let Some(its) = &gic.its {
        let child = fdt.begin_node(&format!("msi-controller@{:x}", its.start))?;
        fdt.property_string("compatible", "arm,gic-v3-its")?;
        fdt.property_u32("phandle", PHANDLE_ITS)?;
        fdt.property_null("msi-controller")?;
        fdt.property_u32("#msi-cells", 1)?;
        fdt.property_array_u64("reg", &[its.start, bytes(its)])?;
        fdt.end_node(child)?;
    }
    fdt.end_node(node)?;
    Ok(())
}

/// The timer, and the performance monitor: both interrupt each CPU by a line of its own.
fn timer(fdt: &mut FdtWriter, board: &Board<'_>, gic: &GicDescription) -> Written {
    // GICv2's binding wants the CPUs that the line goes to, GICv3's has no place for them.
    let cpus = match gic.version {
        GicVersion::V2 => (1_u32.checked_shl(board.vcpus.into()).unwrap_or(0).wrapping_sub(1) & 0xff) << 8,
        GicVersion::V3 => 0,
    };
    let node = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    fdt.property_null("always-on")?;
    let interrupts: Vec<u32> = TIMER_PPIS
        .iter()
        .flat_map(|ppi| [PPI, *ppi, LEVEL_HIGH | cpus])
        .collect();
    fdt.property_array_u32("interrupts", &interrupts)?;
    fdt.end_node(node)?;
    if board.performance_monitor {
        let node = fdt.begin_node("pmu")?;
        fdt.property_string("compatible", "arm,armv8-pmuv3")?;
        fdt.property_array_u32("interrupts", &[PPI, PERFORMANCE_MONITOR_PPI, LEVEL_HIGH | cpus])?;
        fdt.end_node(node)?;
    }
    Ok(())
}

fn firmware(fdt: &mut FdtWriter) -> Written {
    let node = fdt.begin_node("psci")?;
    fdt.property_string_list("compatible", vec!["arm,psci-1.0".into(), "arm,psci-0.2".into()])?;
    fdt.property_string("method", "hvc")?;
    fdt.end_node(node)?;
    let node = fdt.begin_node("apb-pclk")?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", CLOCK_HERTZ)?;
    fdt.property_string("clock-output-names", "clk24mhz")?;
    fdt.property_u32("phandle", PHANDLE_CLOCK)?;
    fdt.end_node(node)?;
    Ok(())
}

/// The memory that a device answers to; every device of this architecture is in memory.
fn place(reachable: Reachable) -> MmioSlot {
    match reachable {
        Reachable::Memory(slot) => slot,
        Reachable::Port(slot) => MmioSlot {
            base: slot.base.into(),
            bytes: slot.ports.into(),
            gsi: slot.gsi,
        },
    }
}

/// Begins a device's node with its registers.
fn begin(
    fdt: &mut FdtWriter,
    name: &str,
    compatible: &[&str],
    slot: &MmioSlot,
) -> Result<vm_fdt::FdtWriterNode, BootTablesError> {
    let node = fdt.begin_node(&format!("{name}@{:x}", slot.base))?;
    fdt.property_string_list("compatible", compatible.iter().map(|name| (*name).to_owned()).collect())?;
    fdt.property_array_u64("reg", &[slot.base, slot.bytes])?;
    Ok(node)
}

/// An interrupt as an irqfd makes it: an edge.
fn interrupt(fdt: &mut FdtWriter, gsi: u32) -> Written {
    Ok(fdt.property_array_u32("interrupts", &[SPI, gsi, EDGE_RISING])?)
}

fn devices(fdt: &mut FdtWriter, board: &Board<'_>) -> Written {
    if board.serial {
        let slot = place(serial());
        let node = begin(fdt, "serial", &["ns16550a"], &slot)?;
        interrupt(fdt, slot.gsi)?;
        fdt.property_u32("clock-frequency", CLOCK_HERTZ)?;
        fdt.end_node(node)?;
    }
    if let Some(slot) = rtc() {
        let node = begin(fdt, "rtc", &["arm,pl031", "arm,primecell"], &slot)?;
        interrupt(fdt, slot.gsi)?;
        fdt.property_u32("clocks", PHANDLE_CLOCK)?;
        fdt.property_string("clock-names", "apb_pclk")?;
        fdt.end_node(node)?;
    }
    let node = begin(
        fdt,
        "system-control",
        &["ringwall,system-control"],
        &place(system_control()),
    )?;
    fdt.end_node(node)?;
    for slot in board.virtio {
        let node = begin(fdt, "virtio_mmio", &["virtio,mmio"], slot)?;
        interrupt(fdt, slot.gsi)?;
        fdt.property_null("dma-coherent")?;
        fdt.end_node(node)?;
    }
    if board.vmgenid {
        let page = vmgenid();
        let node = begin(
            fdt,
            "vmgenid",
            &["microsoft,vmgenid"],
            &MmioSlot {
                base: page.base,
                bytes: 0x1000,
                gsi: page.gsi,
            },
        )?;
        interrupt(fdt, page.gsi)?;
        fdt.end_node(node)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
