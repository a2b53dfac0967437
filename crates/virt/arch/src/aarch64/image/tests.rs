//! Hostile and odd Images.

use std::io::{Cursor, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use vm_memory::Bytes;

use super::*;
use crate::aarch64::kernel::{load_initrd, load_kernel};
use crate::aarch64::layout::ram_regions;
use crate::anonymous_ram;

fn ram() -> GuestRam {
    anonymous_ram(&ram_regions(32 << 20)).unwrap()
}

/// An Image of 0x3000 bytes with this `text_offset`, `image_size` and flags.
fn kernel(text_offset: u64, image_size: u64, flags: u64) -> Vec<u8> {
    let mut file: Vec<u8> = [0, text_offset, image_size, flags, 0, 0, 0]
        .iter()
        .flat_map(|field| field.to_le_bytes())
        .collect();
    file.extend(b"ARM\x64\0\0\0\0");
    file.resize(0x3000, 0x44);
    file
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn load(file: &[u8]) -> Result<LoadedKernel, LoadKernelError> {
    load_kernel(&ram(), &mut Cursor::new(file), file.len() as u64)
}

#[test]
fn an_image_goes_to_its_offset_plain_or_compressed() {
    let plain = kernel(0x8_0000, 0x10_0000, 0xa);
    for file in [plain.clone(), gzip(&plain)] {
        let ram = ram();
        let loaded = load_kernel(&ram, &mut Cursor::new(&file), file.len() as u64).unwrap();
        assert_eq!(
            (loaded.start, loaded.entry, loaded.end),
            (0x8028_0000, 0x8028_0000, 0x8038_0000)
        );
        let mut copy = vec![0; plain.len() + 1];
        ram.read_slice(&mut copy, GuestAddress(loaded.start)).unwrap();
        assert_eq!((&copy[..plain.len()], copy[plain.len()]), (&plain[..], 0));
    }
}

#[test]
fn an_old_image_without_a_size_has_the_old_offset() {
    let loaded = load(&kernel(0x1234, 0, 0)).unwrap();
    assert_eq!((loaded.start, loaded.end), (0x8028_0000, 0x8028_3000));
}

#[test]
fn what_is_wrong_with_a_kernel_is_said() {
    let good = kernel(0, 0x4000, 0);
    let change = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let table: Vec<(Vec<u8>, &str)> = vec![
        (
            vec![7],
            "the kernel is truncated: its magic would be 2 bytes at byte 0, the file has 1",
        ),
        (
            good[..63].to_vec(),
            "the kernel is truncated: its Image header would be 64 bytes at byte 0, the file has 63",
        ),
        (
            gzip(&good[..63]),
            "the kernel is truncated: its unpacked Image header would be 64 bytes at byte 0, the file has 63",
        ),
        (change(56, b"MRA"), "not a kernel for aarch64: no arm64 Image"),
        (gzip(&change(56, b"MRA")), "not a kernel for aarch64: no arm64 Image"),
        (
            {
                let mut file = change(56, b"MRA");
                file[..4].copy_from_slice(b"\x7fELF");
                file
            },
            "not a kernel for aarch64: an ELF file; arm64 boots from Image",
        ),
        (kernel(0, 0x4000, 1), "the kernel's flags is 0x1: a big-endian kernel"),
        (
            kernel(0x123, 0x4000, 0),
            "the kernel's text_offset is 0x123: not a multiple of 4096",
        ),
        (
            kernel(u64::MAX - 0xfff, 0x4000, 0),
            "the kernel's text_offset is 0xfffffffffffff000: past the end of memory",
        ),
        (
            kernel(0x1e0_0000, 0x4000, 0),
            "the kernel's Image of 0x4000 bytes at 0x82000000 is not in RAM between 0x80200000 and its end",
        ),
        (
            gzip(&kernel(0, u64::MAX, 0)),
            "the kernel's Image of 0xffffffffffffffff bytes at 0x80200000 is not in RAM between 0x80200000 and its end",
        ),
        (gzip(&good)[..20].to_vec(), "the compressed kernel can't be unpacked"),
        (
            {
                let mut file = gzip(&good);
                let last = file.len() - 5;
                file[last] ^= 1;
                file
            },
            "the compressed kernel can't be unpacked",
        ),
    ];
    for (file, message) in table {
        assert_eq!(load(&file).unwrap_err().to_string(), message);
    }
}

#[test]
fn a_file_that_unpacks_to_more_than_ram_is_stopped() {
    // It says 16 KiB and brings 64 MiB.
    let mut file = kernel(0, 0x4000, 0);
    file.resize(64 << 20, 0);
    let error = load(&gzip(&file)).unwrap_err().to_string();
    assert_eq!(
        error,
        "the kernel's Image of 0x1e10000 bytes at 0x80200000 is not in RAM between 0x80200000 and its end"
    );
}

#[test]
fn an_initrd_is_right_below_the_device_tree() {
    let (ram, file) = (ram(), kernel(0, 0x4000, 0));
    let loaded = load_kernel(&ram, &mut Cursor::new(&file), file.len() as u64).unwrap();
    assert_eq!(
        load_initrd(&ram, &mut Cursor::new([1; 5000]), 5000, &loaded).unwrap(),
        0x81df_e000..0x81df_e000 + 5000
    );
    let error = load_initrd(&ram, &mut Cursor::new([]), 0x1bf_c001, &loaded)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "no room for an initrd of 29343745 bytes between the kernel's end at 0x80204000 and 0x81e00000"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever a header says, loading ends, and what it loads is in RAM.
    #[test]
    fn any_header_is_refused_or_loaded_into_ram(changes in prop::collection::vec((0_usize..64, any::<u8>()), 1..8), compress: bool) {
        let mut file = kernel(0, 0x4000, 0);
        for (at, byte) in changes {
            file[at] = byte;
        }
        if let Ok(loaded) = load(&if compress { gzip(&file) } else { file }) {
            prop_assert!(loaded.start >= KERNEL_START && loaded.end <= 0x8200_0000 && loaded.entry == loaded.start);
        }
    }

    /// Broken compression is an error or a kernel, never a panic.
    #[test]
    fn any_compressed_bytes_are_refused_or_unpacked(at in 2_usize..200, byte: u8) {
        let mut file = gzip(&kernel(0, 0x4000, 0));
        let at = at % file.len();
        file[at] = byte;
        if let Ok(loaded) = load(&file) {
            prop_assert!(loaded.end <= 0x8200_0000);
        }
    }
}
