//! The tables are found and read back from the root on, as an operating system does it.

use super::*;
use crate::load::{le_u16, le_u32, le_u64};
use crate::x86_64::layout::{ACPI_TABLES, virtio_mmio};

fn board(virtio: &[crate::MmioSlot]) -> Board<'_> {
    Board {
        vcpus: 3,
        ram_bytes: 64 << 20,
        command_line: "",
        initrd: None,
        virtio,
        gic: None,
        serial: true,
        keyboard: true,
        vmgenid: true,
        performance_monitor: false,
        rng_seed: &[],
    }
}

/// The table at a guest-physical address, its length and checksum right.
fn table<'a>(all: &'a [u8], signature: &[u8; 4], address: u64) -> &'a [u8] {
    let at = usize::try_from(address - ACPI_TABLES).unwrap();
    let bytes = &all[at..at + le_u32(all, at + 4) as usize];
    assert_eq!(&bytes[..4], signature);
    assert_eq!(
        bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)),
        0,
        "{signature:?}"
    );
    bytes
}

/// Follows the root to FADT, MADT and DSDT.
fn parse(all: &[u8]) -> [&[u8]; 3] {
    assert_eq!(&all[..8], b"RSD PTR ");
    for bytes in [20, 36] {
        assert_eq!(all[..bytes].iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    }
    let xsdt = table(all, b"XSDT", le_u64(all, 24));
    assert_eq!(xsdt.len(), 36 + 2 * 8);
    let fadt = table(all, b"FACP", le_u64(xsdt, 36));
    [
        fadt,
        table(all, b"APIC", le_u64(xsdt, 44)),
        table(all, b"DSDT", le_u64(fadt, 140)),
    ]
}

fn count(haystack: &[u8], needle: &[u8]) -> usize {
    haystack
        .windows(needle.len())
        .filter(|window| *window == needle)
        .count()
}

#[test]
fn the_root_leads_to_everything() {
    let virtio: Vec<_> = (0..17).filter_map(virtio_mmio).collect();
    let all = tables(&board(&virtio), ACPI_TABLES).unwrap();
    let [fadt, madt, dsdt] = parse(&all);

    // FADT: reduced hardware with reset; the registers' ports (ACPI 6.5 table 5.9).
    assert_eq!(fadt.len(), 276);
    assert_eq!(le_u32(fadt, 112) & (1 << 20 | 1 << 10), 1 << 20 | 1 << 10);
    assert_eq!(le_u16(fadt, 109), 1 << 1 | 1 << 2 | 1 << 5);
    assert_eq!((fadt[116], le_u64(fadt, 120), fadt[128]), (1, 0x64, 0xfe));
    assert_eq!((le_u64(fadt, 248), le_u64(fadt, 260)), (0x610, 0x611));

    // MADT: its address, then a structure for each CPU and the IOAPIC.
    assert_eq!(le_u32(madt, 36), 0xfee0_0000);
    let mut rest = &madt[44..];
    let mut kinds = Vec::new();
    while let [kind, bytes, ..] = rest {
        kinds.push((*kind, rest[3]));
        rest = &rest[usize::from(*bytes)..];
    }
    assert_eq!(kinds, [(0, 0), (0, 1), (0, 2), (1, 0)]);

    // DSDT: a device for each slot, with its address and pin in the resources.
    assert_eq!(count(dsdt, b"LNRO0005"), 17);
    for slot in &virtio {
        let mut memory = vec![0x86, 9, 0, 1];
        memory.extend(u32::try_from(slot.base).unwrap().to_le_bytes());
        memory.extend([0, 0x10, 0, 0, 0x89, 6, 0, 0b11, 1]);
        memory.extend(slot.gsi.to_le_bytes());
        assert_eq!(count(dsdt, &memory), 1, "{slot:?}");
    }
    for name in ["COM1", "PS2_", "GED_", "_S5_"] {
        assert_eq!(count(dsdt, name.as_bytes()), 1, "{name}");
    }
}

#[test]
fn what_is_not_there_is_not_told() {
    let all = tables(
        &Board {
            serial: false,
            keyboard: false,
            vmgenid: false,
            ..board(&[])
        },
        ACPI_TABLES,
    )
    .unwrap();
    let [fadt, _, dsdt] = parse(&all);
    assert_eq!(le_u16(fadt, 109) & 1 << 1, 0);
    for name in ["LNRO", "COM1", "PS2_", "VGEN", "GED_"] {
        assert_eq!(count(dsdt, name.as_bytes()), 0, "{name}");
    }
}

#[test]
fn a_device_above_four_gibibytes_is_refused() {
    let slot = crate::MmioSlot {
        base: 1 << 32,
        bytes: 4096,
        gsi: 5,
    };
    let error = tables(&board(&[slot]), ACPI_TABLES).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the virtio device at 0x100000000 is not within the first 4 GiB"
    );
}
