//! ELF kernels (`vmlinux`), by System V ABI, "ELF-64 Object File Format". A note of type 18 in the name of Xen (`XEN_ELFNOTE_PHYS32_ENTRY`,
//! xen/include/public/elfnote.h) is the PVH entry; without it the kernel is started by Linux's 64-bit protocol.

use std::ops::Range;

use crate::GuestRam;
use crate::load::{KernelFile, LoadKernelError, Source, le_u16, le_u32, le_u64, require_ram};
use crate::x86_64::kernel::{BootProtocol, LoadedKernel};
use crate::x86_64::layout::HIGH_MEMORY;

/// The first bytes of every ELF file.
pub(crate) const MAGIC: [u8; 4] = *b"\x7fELF";
/// Bytes of an ELF-64 header.
const HEADER_BYTES: usize = 64;
/// Bytes of an ELF-64 program header.
const PROGRAM_HEADER_BYTES: usize = 56;
/// Most program headers; kernels have up to about ten.
const MAX_PROGRAM_HEADERS: u16 = 64;
/// Most bytes of one note segment; a kernel's has some hundreds.
const MAX_NOTE_BYTES: u64 = 64 * 1024;

/// `ELFCLASS64`, `ELFDATA2LSB`, `EV_CURRENT` as they follow the magic.
const IDENT_64_LITTLE: [u8; 3] = [2, 1, 1];
/// `ET_EXEC` and `ET_DYN`.
const TYPES: [u16; 2] = [2, 3];
/// `EM_X86_64`.
const MACHINE: u16 = 62;
/// `EM_AARCH64` (linux/elf-em.h), only to say so.
const MACHINE_AARCH64: u16 = 183;
/// `PT_LOAD` and `PT_NOTE`.
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// `XEN_ELFNOTE_PHYS32_ENTRY`.
const NOTE_PHYS32_ENTRY: u32 = 18;

/// A program header, as far as it matters here.
struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    file_bytes: u64,
    memory_bytes: u64,
    align: u64,
}

impl Segment {
    fn parse(header: &[u8; PROGRAM_HEADER_BYTES]) -> Self {
        Self {
            kind: le_u32(header, 0),
            offset: le_u64(header, 8),
            address: le_u64(header, 24),
            file_bytes: le_u64(header, 32),
            memory_bytes: le_u64(header, 40),
            align: le_u64(header, 48),
        }
    }
}

/// Loads an ELF kernel.
pub(crate) fn load<F: KernelFile>(ram: &GuestRam, source: &mut Source<'_, F>) -> Result<LoadedKernel, LoadKernelError> {
    let header: [u8; HEADER_BYTES] = source.array("ELF header", 0)?;
    check_header(&header)?;
    let segments = segments(source, &header)?;
    let loads = check_loads(ram, &segments)?;
    let mut pvh = None;
    for segment in &segments {
        match segment.kind {
            PT_LOAD if segment.file_bytes > 0 => {
                source.copy("segment", segment.offset, segment.file_bytes, ram, segment.address)?
            }
            PT_NOTE if pvh.is_none() => pvh = pvh_entry(source, segment)?,
            _ => {}
        }
    }
    let (entry, protocol) = pvh.map_or((le_u64(&header, 24), BootProtocol::Linux64 { setup: None }), |entry| {
        (entry, BootProtocol::Pvh)
    });
    if !loads.iter().any(|load| load.contains(&entry)) {
        return Err(LoadKernelError::EntryOutside { entry });
    }
    // `check_loads` refuses a kernel without segments.
    let (start, end) = (
        loads.first().map_or(0, |load| load.start),
        loads.last().map_or(0, |load| load.end),
    );
    Ok(LoadedKernel {
        entry,
        start,
        end,
        protocol,
        initrd_end: None,
    })
}

fn check_header(header: &[u8; HEADER_BYTES]) -> Result<(), LoadKernelError> {
    let bad = |field, value, reason| Err(LoadKernelError::BadField { field, value, reason });
    if header.get(4..7) != Some(&IDENT_64_LITTLE) {
        return bad(
            "e_ident",
            u64::from(le_u32(header, 4)),
            "not 64-bit, little-endian, version 1",
        );
    }
    let (kind, machine) = (le_u16(header, 16), le_u16(header, 18));
    if machine != MACHINE {
        let reason = match machine {
            MACHINE_AARCH64 => "of aarch64, not x86_64",
            _ => "not x86_64",
        };
        return bad("e_machine", u64::from(machine), reason);
    }
    if !TYPES.contains(&kind) {
        return bad("e_type", u64::from(kind), "not an executable");
    }
    let entry_bytes = le_u16(header, 54);
    if usize::from(entry_bytes) != PROGRAM_HEADER_BYTES {
        return bad(
            "e_phentsize",
            u64::from(entry_bytes),
            "not the size of a 64-bit program header",
        );
    }
    let count = le_u16(header, 56);
    if count == 0 || count > MAX_PROGRAM_HEADERS {
        return bad("e_phnum", u64::from(count), "not between 1 and 64");
    }
    Ok(())
}

fn segments<F: KernelFile>(
    source: &mut Source<'_, F>,
    header: &[u8; HEADER_BYTES],
) -> Result<Vec<Segment>, LoadKernelError> {
    let mut table = vec![0; usize::from(le_u16(header, 56)) * PROGRAM_HEADER_BYTES];
    source.fill("program headers", le_u64(header, 32), &mut table)?;
    Ok(table.as_chunks().0.iter().map(Segment::parse).collect())
}

/// The ranges of all loaded segments in order; each in RAM above the boot tables, none over another.
fn check_loads(ram: &GuestRam, segments: &[Segment]) -> Result<Vec<Range<u64>>, LoadKernelError> {
    let mut loads = Vec::new();
    for segment in segments
        .iter()
        .filter(|segment| segment.kind == PT_LOAD && segment.memory_bytes > 0)
    {
        if segment.file_bytes > segment.memory_bytes {
            return Err(LoadKernelError::BadField {
                field: "p_filesz",
                value: segment.file_bytes,
                reason: "more than p_memsz",
            });
        }
        require_ram(ram, "segment", segment.address, segment.memory_bytes, HIGH_MEMORY)?;
        loads.push(segment.address..segment.address.saturating_add(segment.memory_bytes));
    }
    loads.sort_unstable_by_key(|load| load.start);
    if let Some((_, next)) = loads
        .iter()
        .zip(loads.iter().skip(1))
        .find(|(load, next)| next.start < load.end)
    {
        return Err(LoadKernelError::Overlap { address: next.start });
    }
    if loads.is_empty() {
        return Err(LoadKernelError::BadField {
            field: "e_phnum",
            value: segments.len() as u64,
            reason: "no segment is loaded",
        });
    }
    Ok(loads)
}

/// Looks for the PVH entry in a segment of notes.
fn pvh_entry<F: KernelFile>(source: &mut Source<'_, F>, segment: &Segment) -> Result<Option<u64>, LoadKernelError> {
    if segment.file_bytes > MAX_NOTE_BYTES {
        return Err(LoadKernelError::BadField {
            field: "p_filesz",
            value: segment.file_bytes,
            reason: "too many notes",
        });
    }
    let mut notes = vec![0; usize::try_from(segment.file_bytes).unwrap_or(0)];
    source.fill("notes", segment.offset, &mut notes)?;
    // Notes are padded to 4 bytes; the ABI's 8 are used only where the segment says so.
    let align = if segment.align == 8 { 8 } else { 4 };
    Ok(find_pvh_note(&notes, align))
}

fn find_pvh_note(mut notes: &[u8], align: usize) -> Option<u64> {
    while let Some((header, rest)) = notes.split_first_chunk::<12>() {
        let name_bytes = usize::try_from(le_u32(header, 0)).ok()?;
        let description_bytes = usize::try_from(le_u32(header, 4)).ok()?;
        // Offsets are counted from the note's beginning, so that padding to 8 is right with a header of 12.
        let description_at = name_bytes.checked_add(header.len())?.checked_next_multiple_of(align)?;
        let end = description_at.checked_add(description_bytes)?;
        let name = rest.get(..name_bytes)?;
        let description = notes.get(description_at..end)?;
        if name == b"Xen\0" && le_u32(header, 8) == NOTE_PHYS32_ENTRY {
            return match description_bytes {
                4 => Some(u64::from(le_u32(description, 0))),
                // It is a 32-bit entry whatever its width; a higher address is in no segment and refused there.
                8 => Some(le_u64(description, 0)),
                _ => None,
            };
        }
        notes = notes.get(end.checked_next_multiple_of(align)?..)?;
    }
    None
}

#[cfg(test)]
mod tests;
