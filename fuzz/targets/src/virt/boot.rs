//! Boot files, and what a board says of itself.

use std::io::Cursor;

use ringwall_arch::{Board, GicDescription, GicVersion, GuestRam, aarch64, anonymous_ram, x86_64};

use super::input::Input;

/// RAM of the machine that is booted.
const RAM_BYTES: u64 = 64 << 20;

fn file(data: &[u8]) -> (Cursor<&[u8]>, u64) {
    (Cursor::new(data), u64::try_from(data.len()).unwrap_or(u64::MAX))
}

fn ram_x86_64() -> GuestRam {
    anonymous_ram(&x86_64::layout::ram_regions(RAM_BYTES)).expect("memory")
}

fn ram_aarch64() -> GuestRam {
    anonymous_ram(&aarch64::layout::ram_regions(RAM_BYTES)).expect("memory")
}

/// The smallest board.
fn small() -> Board<'static> {
    Board {
        vcpus: 1,
        ram_bytes: RAM_BYTES,
        command_line: "",
        initrd: None,
        virtio: &[],
        gic: None,
        performance_monitor: false,
        serial: true,
        keyboard: false,
        vmgenid: true,
        rng_seed: &[],
    }
}

fn gic(version: GicVersion) -> GicDescription {
    GicDescription {
        version,
        distributor: 0x800_0000..0x801_0000,
        processors: 0x80a_0000..0x8aa_0000,
        its: (version == GicVersion::V3).then_some(0x808_0000..0x80a_0000),
    }
}

/// A kernel for x86_64; what is accepted is also given its tables.
pub fn kernel_x86_64(data: &[u8]) {
    let ram = ram_x86_64();
    let (mut kernel, length) = file(data);
    let Ok(kernel) = x86_64::load_kernel(&ram, &mut kernel, length) else {
        return;
    };
    assert!(kernel.start <= kernel.entry && kernel.entry < kernel.end && kernel.end <= RAM_BYTES);
    let (mut initrd, length) = file(data);
    let initrd = x86_64::load_initrd(&ram, &mut initrd, length, &kernel).ok();
    if let Some(initrd) = &initrd {
        assert!(kernel.end <= initrd.start && initrd.end <= RAM_BYTES);
    }
    let board = Board { initrd, ..small() };
    let _refused = x86_64::write_boot_tables(&ram, &board, &kernel);
}

/// A kernel for aarch64; what is accepted is also given its tables.
pub fn kernel_aarch64(data: &[u8]) {
    let ram = ram_aarch64();
    let end = aarch64::layout::RAM_START + RAM_BYTES;
    let (mut kernel, length) = file(data);
    let Ok(kernel) = aarch64::load_kernel(&ram, &mut kernel, length) else {
        return;
    };
    assert!(kernel.start <= kernel.entry && kernel.entry <= kernel.end && kernel.end <= end);
    assert!(kernel.start >= aarch64::layout::KERNEL_START);
    let (mut initrd, length) = file(data);
    let initrd = aarch64::load_initrd(&ram, &mut initrd, length, &kernel).ok();
    if let Some(initrd) = &initrd {
        assert!(kernel.end <= initrd.start && initrd.end <= end);
    }
    let board = Board {
        initrd,
        gic: Some(gic(GicVersion::V3)),
        ..small()
    };
    let _refused = aarch64::write_boot_tables(&ram, &board, &kernel);
}

/// A board of either architecture with any number of anything: ACPI tables, or a device tree.
pub fn board(data: &[u8]) {
    let mut input = Input::new(data);
    let (vcpus, flags, count) = (input.byte(), input.byte(), usize::from(input.byte()));
    let ram_bytes = if flags & 8 == 0 { RAM_BYTES } else { input.u64() };
    let initrd = (flags & 16 != 0).then(|| input.u64()..input.u64());
    let end = if flags & 32 == 0 { 8 << 20 } else { input.u64() };
    let entry = input.u64();
    let is_x86 = flags & 128 != 0;
    let seed_bytes = usize::from(input.byte() % 64);
    let rng_seed = input.take(seed_bytes);
    let command_line = String::from_utf8_lossy(input.take(8192));
    let slot = if is_x86 {
        x86_64::layout::virtio_mmio
    } else {
        aarch64::layout::virtio_mmio
    };
    let virtio: Vec<_> = (0..count).filter_map(slot).collect();
    let board = Board {
        vcpus,
        ram_bytes,
        command_line: &command_line,
        initrd,
        virtio: &virtio,
        gic: (flags & 2 == 0).then(|| {
            gic(if flags & 64 == 0 {
                GicVersion::V2
            } else {
                GicVersion::V3
            })
        }),
        performance_monitor: flags & 32 != 0,
        serial: flags & 1 != 0,
        keyboard: flags & 2 != 0,
        vmgenid: flags & 4 != 0,
        rng_seed,
    };
    if is_x86 {
        let kernel = x86_64::LoadedKernel {
            entry,
            start: 1 << 20,
            end,
            protocol: if flags & 64 == 0 {
                x86_64::BootProtocol::Pvh
            } else {
                x86_64::BootProtocol::Linux64 {
                    setup: Some(data.to_vec()),
                }
            },
            initrd_end: None,
        };
        let _refused = x86_64::write_boot_tables(&ram_x86_64(), &board, &kernel);
    } else {
        let start = aarch64::layout::KERNEL_START;
        let end = start.saturating_add(end);
        let kernel = aarch64::LoadedKernel { entry, start, end };
        let _refused = aarch64::write_boot_tables(&ram_aarch64(), &board, &kernel);
    }
}
