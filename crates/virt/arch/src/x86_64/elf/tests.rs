//! Hostile and odd ELF files.

use std::io::Cursor;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::load::LoadKernelError;
use crate::x86_64::kernel::load_kernel;
use crate::x86_64::layout::ram_regions;
use crate::{GuestRam, anonymous_ram};

fn ram() -> GuestRam {
    anonymous_ram(&ram_regions(32 << 20)).unwrap()
}

fn put(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    file.resize(file.len().max(at + bytes.len()), 0);
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Program header: kind, offset, address, bytes in the file, bytes in memory, alignment.
fn segment(file: &mut Vec<u8>, index: usize, fields: [u64; 6]) {
    let at = 64 + index * 56;
    let [kind, offset, address, file_bytes, memory_bytes, align] = fields;
    put(file, at, &u32::try_from(kind).unwrap().to_le_bytes());
    for (field, value) in [
        (8, offset),
        (24, address),
        (32, file_bytes),
        (40, memory_bytes),
        (48, align),
    ] {
        put(file, at + field, &value.to_le_bytes());
    }
}

/// A kernel of two segments and room for a note at 0x800; it enters at 0x20_0010.
fn kernel() -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    for (at, value) in [(16, 2_u16), (18, 62), (54, 56), (56, 3)] {
        put(&mut file, at, &value.to_le_bytes());
    }
    put(&mut file, 24, &0x20_0010_u64.to_le_bytes());
    put(&mut file, 32, &64_u64.to_le_bytes());
    segment(&mut file, 0, [1, 0x1000, 0x20_0000, 0x1000, 0x2000, 4096]);
    segment(&mut file, 1, [1, 0x2000, 0x40_0000, 0x10, 0x10, 4096]);
    segment(&mut file, 2, [4, 0x800, 0, 0, 0, 4]);
    put(&mut file, 0x1000, &[0x11; 0x1000]);
    put(&mut file, 0x2000, &[0x22; 0x10]);
    file
}

/// A note of Xen's with this entry, in `bytes` bytes, and padded to `align`.
fn note(kind: u32, entry: u64, bytes: usize, align: usize) -> Vec<u8> {
    let mut note = Vec::new();
    for field in [4, u32::try_from(bytes).unwrap(), kind] {
        note.extend(field.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.resize(note.len().next_multiple_of(align), 0);
    note.extend(&entry.to_le_bytes()[..bytes]);
    note.resize(note.len().next_multiple_of(align), 0);
    note
}

fn with_notes(notes: &[u8], align: u64) -> Vec<u8> {
    let mut file = kernel();
    segment(&mut file, 2, [4, 0x800, 0, notes.len() as u64, 0, align]);
    put(&mut file, 0x800, notes);
    file
}

fn load(file: &[u8]) -> Result<LoadedKernel, LoadKernelError> {
    load_kernel(&ram(), &mut Cursor::new(file), file.len() as u64)
}

#[test]
fn segments_are_where_they_want_to_be() {
    let (ram, file) = (ram(), kernel());
    let loaded = load_kernel(&ram, &mut Cursor::new(&file), file.len() as u64).unwrap();
    assert_eq!(
        (loaded.start, loaded.end, loaded.entry),
        (0x20_0000, 0x40_0010, 0x20_0010)
    );
    assert_eq!(loaded.protocol, BootProtocol::Linux64 { setup: None });
    let read = |address| ram.read_obj::<u8>(GuestAddress(address)).unwrap();
    assert_eq!(
        [0x20_0000, 0x20_0fff, 0x20_1000, 0x40_000f, 0x40_0010].map(read),
        [0x11, 0x11, 0, 0x22, 0]
    );
}

#[test]
fn a_pvh_note_is_found_among_others_and_in_either_width() {
    let other = note(1, 7, 8, 4);
    for (bytes, align) in [(4, 4), (8, 4), (4, 8), (8, 8)] {
        let mut notes = if align == 4 { other.clone() } else { note(2, 9, 8, 8) };
        notes.extend(note(18, 0x20_0100, bytes, align));
        let loaded = load(&with_notes(&notes, align as u64)).unwrap();
        assert_eq!(
            (loaded.entry, loaded.protocol),
            (0x20_0100, BootProtocol::Pvh),
            "{bytes} {align}"
        );
    }
}

#[test]
fn a_broken_note_is_no_entry() {
    let good = note(18, 0x20_0100, 8, 4);
    let mut endless_name = good.clone();
    put(&mut endless_name, 0, &u32::MAX.to_le_bytes());
    let mut endless_description = good.clone();
    put(&mut endless_description, 4, &u32::MAX.to_le_bytes());
    let mut other_name = good.clone();
    put(&mut other_name, 12, b"Xon\0");
    for notes in [
        &good[..good.len() - 1],
        &endless_name,
        &endless_description,
        &other_name,
        &[0; 64],
        &note(18, 0, 2, 4),
    ] {
        assert_eq!(
            load(&with_notes(notes, 4)).unwrap().protocol,
            BootProtocol::Linux64 { setup: None },
            "{notes:x?}"
        );
    }
}

#[test]
fn what_is_wrong_with_a_kernel_is_said() {
    let change = |at: usize, bytes: &[u8]| {
        let mut file = kernel();
        put(&mut file, at, bytes);
        file
    };
    let first = |fields| {
        let mut file = kernel();
        segment(&mut file, 0, fields);
        file
    };
    let table: Vec<(Vec<u8>, &str)> = vec![
        (
            vec![],
            "the kernel is truncated: its magic would be 4 bytes at byte 0, the file has 0",
        ),
        (
            kernel()[..63].to_vec(),
            "the kernel is truncated: its ELF header would be 64 bytes at byte 0, the file has 63",
        ),
        (
            kernel()[..100].to_vec(),
            "the kernel is truncated: its program headers would be 168 bytes at byte 64, the file has 100",
        ),
        (
            kernel()[..0x1800].to_vec(),
            "the kernel is truncated: its segment would be 4096 bytes at byte 4096, the file has 6144",
        ),
        (
            change(0, b"ELF\x7f"),
            "not a kernel for x86_64: neither ELF nor bzImage",
        ),
        (
            b"\x1f\x8b\x08\0\0".to_vec(),
            "not a kernel for x86_64: a gzip file; unpack it first",
        ),
        (
            change(4, &[1]),
            "the kernel's e_ident is 0x10101: not 64-bit, little-endian, version 1",
        ),
        (
            change(18, &[183]),
            "the kernel's e_machine is 0xb7: of aarch64, not x86_64",
        ),
        (change(16, &[1]), "the kernel's e_type is 0x1: not an executable"),
        (
            change(54, &[32]),
            "the kernel's e_phentsize is 0x20: not the size of a 64-bit program header",
        ),
        (change(56, &[0, 0]), "the kernel's e_phnum is 0x0: not between 1 and 64"),
        (
            change(56, &[0xff, 0xff]),
            "the kernel's e_phnum is 0xffff: not between 1 and 64",
        ),
        (
            change(32, &u64::MAX.to_le_bytes()),
            "the kernel is truncated: its program headers would be 168 bytes at byte 18446744073709551615, the file has 8208",
        ),
        (
            first([1, u64::MAX, 0x20_0000, 0x1000, 0x2000, 0]),
            "the kernel is truncated: its segment would be 4096 bytes at byte 18446744073709551615, the file has 8208",
        ),
        (
            first([1, 0x1000, 0x20_0000, 0x1000, 0xfff, 0]),
            "the kernel's p_filesz is 0x1000: more than p_memsz",
        ),
        (
            first([1, 0x1000, 0xf_f000, 0x1000, 0x2000, 0]),
            "the kernel's segment of 0x2000 bytes at 0xff000 is not in RAM between 0x100000 and its end",
        ),
        (
            first([1, 0x1000, 0x1ff_f000, 0x1000, 0x2000, 0]),
            "the kernel's segment of 0x2000 bytes at 0x1fff000 is not in RAM between 0x100000 and its end",
        ),
        (
            first([1, 0x1000, u64::MAX - 1, 0x1000, 0x2000, 0]),
            "the kernel's segment of 0x2000 bytes at 0xfffffffffffffffe is not in RAM between 0x100000 and its end",
        ),
        (
            first([1, 0x1000, 0x20_0000, 0, u64::MAX, 0]),
            "the kernel's segment of 0xffffffffffffffff bytes at 0x200000 is not in RAM between 0x100000 and its end",
        ),
        (
            first([1, 0x1000, 0x3f_f000, 0x1000, 0x1001, 0]),
            "the kernel's segments overlap at 0x400000",
        ),
        (
            change(24, &0x30_0000_u64.to_le_bytes()),
            "the kernel's entry 0x300000 is in none of its segments",
        ),
        (
            with_notes(&note(18, 0x7000, 8, 4), 4),
            "the kernel's entry 0x7000 is in none of its segments",
        ),
        (
            {
                let mut file = kernel();
                segment(&mut file, 0, [6, 0, 0, 0, 0, 0]);
                segment(&mut file, 1, [1, 0, 0x20_0000, 0, 0, 0]);
                file
            },
            "the kernel's e_phnum is 0x3: no segment is loaded",
        ),
        (
            {
                let mut file = kernel();
                segment(&mut file, 2, [4, 0, 0, 1 << 40, 0, 4]);
                file
            },
            "the kernel's p_filesz is 0x10000000000: too many notes",
        ),
    ];
    for (file, message) in table {
        assert_eq!(load(&file).unwrap_err().to_string(), message);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever a file says, loading ends, and what it loads is in RAM.
    #[test]
    fn any_header_is_refused_or_loaded_into_ram(changes in prop::collection::vec((0_usize..0x900, any::<u8>()), 1..12)) {
        let mut file = with_notes(&note(18, 0x20_0100, 8, 4), 4);
        for (at, byte) in changes {
            file[at] = byte;
        }
        if let Ok(loaded) = load(&file) {
            prop_assert!(loaded.start >= HIGH_MEMORY && loaded.end <= 32 << 20);
            prop_assert!((loaded.start..loaded.end).contains(&loaded.entry));
        }
    }
}
