//! What a kernel finds in memory, by each protocol.

use vm_memory::Bytes;

use super::*;
use crate::anonymous_ram;
use crate::load::{le_u32, le_u64};
use crate::x86_64::layout::{ram_regions, virtio_mmio};

fn kernel(protocol: BootProtocol) -> LoadedKernel {
    LoadedKernel {
        entry: 0x20_0000,
        start: 0x20_0000,
        end: 0x80_0000,
        protocol,
        initrd_end: None,
    }
}

fn board(virtio: &[crate::MmioSlot]) -> Board<'_> {
    Board {
        vcpus: 2,
        ram_bytes: 64 << 20,
        command_line: "console=ttyS0",
        initrd: Some(0x100_0000..0x100_1234),
        virtio,
        gic: None,
        serial: true,
        keyboard: true,
        vmgenid: true,
        performance_monitor: false,
        rng_seed: &[],
    }
}

fn read(ram: &GuestRam, address: u64, bytes: usize) -> Vec<u8> {
    let mut copy = vec![0; bytes];
    ram.read_slice(&mut copy, GuestAddress(address)).unwrap();
    copy
}

#[test]
fn a_pvh_kernel_finds_its_start_info() {
    let ram = anonymous_ram(&ram_regions(64 << 20)).unwrap();
    let virtio: Vec<_> = (0..17).filter_map(virtio_mmio).collect();
    let boot = write_boot_tables(&ram, &board(&virtio), &kernel(BootProtocol::Pvh)).unwrap();
    let registers = boot.registers;
    assert_eq!(
        (registers.rip, registers.cr0, registers.cr3, registers.efer),
        (0x20_0000, 0x11, 0, 0)
    );
    let info = read(&ram, registers.rbx, 56);
    assert_eq!(
        (le_u32(&info, 0), le_u32(&info, 4), le_u32(&info, 12)),
        (0x336e_c578, 1, 1)
    );
    assert_eq!(read(&ram, le_u64(&info, 24), 14), b"console=ttyS0\0");
    assert_eq!(read(&ram, le_u64(&info, 32), 8), b"RSD PTR ");
    let module = read(&ram, le_u64(&info, 16), 32);
    assert_eq!((le_u64(&module, 0), le_u64(&module, 8)), (0x100_0000, 0x1234));
    let entries = le_u32(&info, 48) as usize;
    let map: Vec<_> = read(&ram, le_u64(&info, 40), entries * 24)
        .chunks(24)
        .map(|entry| (le_u64(entry, 0), le_u64(entry, 8), le_u32(entry, 16)))
        .collect();
    assert_eq!(
        map,
        [(0, 0x9_f000, 1), (0x9_f000, 0x6_1000, 2), (0x10_0000, 63 << 20, 1)]
    );
}

#[test]
fn a_64_bit_kernel_finds_boot_params_and_paging() {
    let ram = anonymous_ram(&ram_regions(64 << 20)).unwrap();
    let boot = write_boot_tables(&ram, &board(&[]), &kernel(BootProtocol::Linux64 { setup: None })).unwrap();
    let registers = boot.registers;
    assert_eq!(
        (registers.cr0, registers.cr4, registers.efer),
        (0x8000_0011, 0x20, 0x500)
    );
    let page = read(&ram, registers.rsi, 4096);
    assert_eq!(&page[0x202..0x206], b"HdrS");
    assert_eq!(le_u64(&read(&ram, registers.cr3, 8), 0), registers.cr3 + 0x1000 + 3);
    // The descriptors are at the selectors that the registers have.
    let (base, limit) = registers.gdt;
    let gdt = read(&ram, base, usize::from(limit) + 1);
    assert_eq!(le_u64(&gdt, 0x10), 0x00af_9b00_0000_ffff);
    assert_eq!(le_u64(&gdt, 0x18), 0x00cf_9300_0000_ffff);
    assert_eq!(le_u64(&gdt, 0x20), 0x0000_8b00_0000_0067);
    assert_eq!(
        (registers.segments.code.selector, registers.segments.data.selector),
        (0x10, 0x18)
    );
}

#[test]
fn ram_goes_on_above_the_gap() {
    let map = memory_map(5 << 30);
    assert_eq!(
        map.iter().map(|(start, bytes, _)| (*start, *bytes)).collect::<Vec<_>>(),
        [
            (0, 0x9_f000),
            (0x9_f000, 0x6_1000),
            (0x10_0000, (3 << 30) - 0x10_0000),
            (4 << 30, 2 << 30)
        ]
    );
    assert_eq!(ram_regions(3 << 30), [(GuestAddress(0), 3 << 30)]);
    assert_eq!(ram_regions(u64::MAX), []);
}

#[test]
fn what_is_wrong_with_a_board_is_said() {
    let ram = anonymous_ram(&ram_regions(64 << 20)).unwrap();
    let long = "x".repeat(2048);
    let table: Vec<(Board<'_>, &str)> = vec![
        (Board { vcpus: 0, ..board(&[]) }, "0 vCPUs are not between 1 and 32"),
        (
            Board {
                vcpus: 33,
                ..board(&[])
            },
            "33 vCPUs are not between 1 and 32",
        ),
        (
            Board {
                command_line: &long,
                ..board(&[])
            },
            "the kernel's command line has 2048 bytes, more than 2047",
        ),
        (
            Board {
                command_line: "a\0b",
                ..board(&[])
            },
            "the kernel's command line has a zero byte",
        ),
        (
            Board {
                initrd: Some(0x7f_f000..0x80_1000),
                ..board(&[])
            },
            "the initrd at 0x7ff000..0x801000 is not above the kernel, which ends at 0x800000, and within RAM",
        ),
        (
            Board {
                initrd: Some(std::ops::Range {
                    start: 0x100_1000,
                    end: 0x100_0000,
                }),
                ..board(&[])
            },
            "the initrd at 0x1001000..0x1000000 is not above the kernel, which ends at 0x800000, and within RAM",
        ),
    ];
    for (board, message) in table {
        assert_eq!(
            write_boot_tables(&ram, &board, &kernel(BootProtocol::Pvh))
                .unwrap_err()
                .to_string(),
            message
        );
    }
    let tiny = anonymous_ram(&[(GuestAddress(0), 0x8000)]).unwrap();
    let error = write_boot_tables(
        &tiny,
        &Board {
            initrd: None,
            ..board(&[])
        },
        &kernel(BootProtocol::Pvh),
    )
    .unwrap_err();
    assert_eq!(error.to_string(), "no RAM at 0xe0000 for the ACPI tables");
}
