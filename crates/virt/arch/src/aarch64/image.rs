//! arm64 `Image` files (Documentation/arch/arm64/booting.rst, "Call the kernel image"), plain or compressed with gzip.

use std::io::{BufReader, Read};

use flate2::bufread::GzDecoder;
use vm_memory::{Bytes, GuestAddress};

use crate::GuestRam;
use crate::aarch64::kernel::LoadedKernel;
use crate::aarch64::layout::KERNEL_START;
use crate::load::{KernelFile, LoadKernelError, Source, le_u32, le_u64, require_ram};

/// Bytes of the header.
const HEADER_BYTES: usize = 64;
/// "ARM\x64", little-endian, and its offset.
const MAGIC: u32 = 0x644d_5241;
const MAGIC_AT: usize = 56;
/// Offsets of `text_offset`, `image_size` and `flags`.
const TEXT_OFFSET: usize = 8;
const IMAGE_SIZE: usize = 16;
const FLAGS: usize = 24;
/// Flag: the kernel is big-endian.
const BIG_ENDIAN: u64 = 1;
/// What `text_offset` is if `image_size` is zero (before Linux 3.17).
const OLD_TEXT_OFFSET: u64 = 0x8_0000;
/// What gzip files begin with (RFC 1952 §2.3.1).
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// Most bytes that are unpacked: far more than any kernel has. Guest RAM is the other bound.
const MAX_UNPACKED_BYTES: u64 = 1 << 30;
/// Unpacked at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// The header's contents, checked.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    /// The guest-physical address of its first byte.
    start: u64,
    /// Bytes that it needs from there on, uninitialised data included; none if the header does not say.
    bytes: Option<u64>,
}

impl Header {
    fn parse(header: &[u8; HEADER_BYTES]) -> Result<Self, LoadKernelError> {
        if le_u32(header, MAGIC_AT) != MAGIC {
            return Err(LoadKernelError::UnknownFormat {
                architecture: "aarch64",
                found: describe(header),
            });
        }
        let flags = le_u64(header, FLAGS);
        if flags & BIG_ENDIAN != 0 {
            return Err(LoadKernelError::BadField {
                field: "flags",
                value: flags,
                reason: "a big-endian kernel",
            });
        }
        let bytes = Some(le_u64(header, IMAGE_SIZE)).filter(|bytes| *bytes != 0);
        let offset = if bytes.is_some() {
            le_u64(header, TEXT_OFFSET)
        } else {
            OLD_TEXT_OFFSET
        };
        let bad_offset = |reason| LoadKernelError::BadField {
            field: "text_offset",
            value: offset,
            reason,
        };
        if offset % 4096 != 0 {
            return Err(bad_offset("not a multiple of 4096"));
        }
        let start = KERNEL_START
            .checked_add(offset)
            .ok_or_else(|| bad_offset("past the end of memory"))?;
        Ok(Self { start, bytes })
    }

    fn loaded(&self, ram: &GuestRam, file_bytes: u64) -> Result<LoadedKernel, LoadKernelError> {
        let bytes = self.bytes.unwrap_or(0).max(file_bytes);
        require_ram(ram, "Image", self.start, bytes, KERNEL_START)?;
        Ok(LoadedKernel {
            entry: self.start,
            start: self.start,
            end: self.start.saturating_add(bytes),
        })
    }
}

/// Says what a file without the magic could be.
const fn describe(header: &[u8; HEADER_BYTES]) -> &'static str {
    match header {
        [0x7f, b'E', b'L', b'F', ..] => "an ELF file; arm64 boots from Image",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "a zstd file; unpack it first",
        [b'M', b'Z', _, _, b'z', b'i', b'm', b'g', ..] => "an EFI zboot file; unpack it first",
        _ => "no arm64 Image",
    }
}

/// Loads an Image, unpacking it if need be.
pub(crate) fn load<F: KernelFile>(ram: &GuestRam, source: &mut Source<'_, F>) -> Result<LoadedKernel, LoadKernelError> {
    let magic: [u8; 2] = source.array("magic", 0)?;
    if magic == GZIP {
        load_gzip(ram, source)
    } else {
        load_plain(ram, source)
    }
}

fn load_plain<F: KernelFile>(ram: &GuestRam, source: &mut Source<'_, F>) -> Result<LoadedKernel, LoadKernelError> {
    let header = Header::parse(&source.array("Image header", 0)?)?;
    let bytes = source.length();
    let kernel = header.loaded(ram, bytes)?;
    source.copy("Image", 0, bytes, ram, header.start)?;
    Ok(kernel)
}

fn load_gzip<F: KernelFile>(ram: &GuestRam, source: &mut Source<'_, F>) -> Result<LoadedKernel, LoadKernelError> {
    let length = source.length();
    let file = BufReader::with_capacity(CHUNK_BYTES, source.rewound()?.take(length));
    let mut unpacked = GzDecoder::new(file).take(MAX_UNPACKED_BYTES.saturating_add(1));
    let mut chunk = vec![0; CHUNK_BYTES];
    let head = fill(&mut unpacked, &mut chunk)?;
    let mut data = chunk.get(..head).unwrap_or_default();
    let header = Header::parse(data.first_chunk().ok_or(LoadKernelError::Truncated {
        part: "unpacked Image header",
        offset: 0,
        wanted: HEADER_BYTES as u64,
        length: head as u64,
    })?)?;
    // What the header says must fit before anything is written; what is unpacked beyond that is checked as it comes.
    header.loaded(ram, 0)?;
    let mut written = 0_u64;
    while !data.is_empty() {
        let total = written.saturating_add(data.len() as u64);
        if total > MAX_UNPACKED_BYTES {
            return Err(LoadKernelError::UnpackedTooLarge {
                most: MAX_UNPACKED_BYTES,
            });
        }
        header.loaded(ram, total)?;
        let address = header.start.saturating_add(written);
        ram.write_slice(data, GuestAddress(address))
            .map_err(|source| LoadKernelError::Memory { address, source })?;
        written = total;
        let count = fill(&mut unpacked, &mut chunk)?;
        data = chunk.get(..count).unwrap_or_default();
    }
    header.loaded(ram, written)
}

/// Reads until the chunk is full or nothing is left.
fn fill(from: &mut impl Read, chunk: &mut [u8]) -> Result<usize, LoadKernelError> {
    let mut filled = 0;
    while let Some(rest) = chunk.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(count) => filled = filled.saturating_add(count),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(LoadKernelError::Unpack(error)),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests;
