//! Hostile and odd bzImage files.

use std::io::Cursor;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::x86_64::kernel::{load_initrd, load_kernel};
use crate::x86_64::layout::ram_regions;
use crate::{GuestRam, anonymous_ram};

fn ram() -> GuestRam {
    anonymous_ram(&ram_regions(32 << 20)).unwrap()
}

/// A header with these changes, one sector of setup code, and 0x1000 bytes of kernel.
fn kernel(changes: &[(usize, &[u8])]) -> Vec<u8> {
    let mut file = vec![0; 1024];
    let base: [(usize, &[u8]); 11] = [
        (0x1f1, &[1]),
        (0x1fe, &[0x55, 0xaa]),
        (0x201, &[0x66]),
        (0x202, b"HdrS"),
        (0x206, &[0x0f, 2]),
        (0x211, &[1]),
        (0x22c, &[0xff, 0xff, 0xff, 0x7f]),
        (0x230, &[0, 0, 0x20, 0]),
        (0x236, &[1, 0]),
        (0x238, &[0xff, 7, 0, 0]),
        (0x258, &[0, 0, 0x40, 0]),
    ];
    for (at, bytes) in base.iter().chain([(0x260, &[0, 0, 0x10, 0][..])].iter()).chain(changes) {
        file[*at..*at + bytes.len()].copy_from_slice(bytes);
    }
    file.extend([0x33; 0x1000]);
    file
}

fn load(file: &[u8]) -> Result<LoadedKernel, LoadKernelError> {
    load_kernel(&ram(), &mut Cursor::new(file), file.len() as u64)
}

#[test]
fn it_goes_where_it_prefers_to_be() {
    let (ram, file) = (ram(), kernel(&[]));
    let loaded = load_kernel(&ram, &mut Cursor::new(&file), file.len() as u64).unwrap();
    assert_eq!(
        (loaded.start, loaded.entry, loaded.end),
        (0x40_0000, 0x40_0200, 0x50_0000)
    );
    assert_eq!(loaded.initrd_end, Some(0x8000_0000));
    let BootProtocol::Linux64 { setup: Some(header) } = &loaded.protocol else {
        panic!("{:?}", loaded.protocol)
    };
    assert_eq!((header.len(), &header[0x11..0x15]), (0x268 - 0x1f1, &b"HdrS"[..]));
    assert_eq!(ram.read_obj::<u8>(GuestAddress(0x40_0fff)).unwrap(), 0x33);
    let initrd = load_initrd(&ram, &mut Cursor::new([1; 5000]), 5000, &loaded).unwrap();
    assert_eq!(initrd, 0x1ff_e000..0x1ff_e000 + 5000);
}

#[test]
fn a_relocatable_kernel_goes_lower_if_it_must() {
    // It prefers to be past the end of RAM.
    let file = kernel(&[(0x258, &[0, 0, 0, 0x10]), (0x234, &[1])]);
    assert_eq!(load(&file).unwrap().start, 0x20_0000);
}

#[test]
fn what_is_wrong_with_a_kernel_is_said() {
    let table: [(Vec<u8>, &str); 11] = [
        (
            kernel(&[])[..0x250].to_vec(),
            "the kernel is truncated: its setup header would be 656 bytes at byte 0, the file has 592",
        ),
        (
            kernel(&[])[..1024 + 0x200].to_vec(),
            "the kernel is truncated: its protected-mode kernel would be 512 bytes at byte 1024, the file has 1536",
        ),
        (
            kernel(&[(0x1f1, &[255])]),
            "the kernel is truncated: its protected-mode kernel would be 512 bytes at byte 131072, the file has 5120",
        ),
        (kernel(&[(0x1fe, &[0])]), "the kernel's boot_flag is 0xaa00: not 0xaa55"),
        (
            kernel(&[(0x206, &[0x0b])]),
            "the kernel's version is 0x20b: older than 2.12 (Linux 3.8)",
        ),
        (kernel(&[(0x211, &[0])]), "the kernel's loadflags is 0x0: a zImage"),
        (
            kernel(&[(0x236, &[0])]),
            "the kernel's xloadflags is 0x0: no 64-bit entry",
        ),
        (
            kernel(&[(0x238, &[0xff, 0])]),
            "the kernel's cmdline_size is 0xff: shorter than 2047",
        ),
        (
            kernel(&[(0x258, &[0xff; 8])]),
            "the kernel's bzImage of 0x100000 bytes at 0xffffffffffffffff is not in RAM between 0x100000 and its end",
        ),
        (
            kernel(&[(0x260, &[0xff; 4])]),
            "the kernel's bzImage of 0xffffffff bytes at 0x400000 is not in RAM between 0x100000 and its end",
        ),
        (
            kernel(&[(0x258, &[0xff; 8]), (0x234, &[1]), (0x230, &[3])]),
            "the kernel's kernel_alignment is 0x200003: not a power of two",
        ),
    ];
    for (file, message) in table {
        assert_eq!(load(&file).unwrap_err().to_string(), message);
    }
}

#[test]
fn an_initrd_stays_where_the_kernel_can_reach_it() {
    let ram = ram();
    let file = kernel(&[(0x22c, &[0xff, 0xff, 0x7f, 0])]);
    let loaded = load_kernel(&ram, &mut Cursor::new(&file), file.len() as u64).unwrap();
    assert_eq!(
        load_initrd(&ram, &mut Cursor::new([1; 10]), 10, &loaded).unwrap(),
        0x7f_f000..0x7f_f00a
    );
    let error = |bytes: u64, file: &[u8]| {
        load_initrd(&ram, &mut Cursor::new(file), bytes, &loaded)
            .unwrap_err()
            .to_string()
    };
    let no_room =
        |bytes: u64| format!("no room for an initrd of {bytes} bytes between the kernel's end at 5242880 and 8388608");
    assert_eq!(error(0, &[]), "the initrd is empty");
    for bytes in [0x30_0001, u64::MAX] {
        let message = error(bytes, &[]);
        assert_eq!(
            message,
            no_room(bytes)
                .replace("5242880", "0x500000")
                .replace("8388608", "0x800000")
        );
    }
    assert_eq!(
        error(4096, &[1; 100]),
        "can't read 4096 bytes of the initrd into guest memory at 0x7ff000"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever a header says, loading ends, and what it loads is in RAM.
    #[test]
    fn any_header_is_refused_or_loaded_into_ram(changes in prop::collection::vec((0x1f1_usize..0x268, any::<u8>()), 1..12)) {
        let mut file = kernel(&[]);
        for (at, byte) in changes {
            file[at] = byte;
        }
        if let Ok(loaded) = load(&file) {
            prop_assert!(loaded.start >= HIGH_MEMORY && loaded.end <= 32 << 20);
            prop_assert!((loaded.start..loaded.end).contains(&loaded.entry));
        }
    }
}
