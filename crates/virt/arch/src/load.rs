//! Reading boot files, which are hostile: every number in them is checked before it is used, and what they are told to fill is checked
//! against guest memory first. Bytes go from the file straight into guest memory where the file allows it.

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryError, Permissions, ReadVolatile};

use crate::GuestRam;

/// A file that a kernel or an initrd is read from; any `File`, or a `Cursor` in tests.
pub trait KernelFile: Read + Seek + ReadVolatile {}

impl<T: Read + Seek + ReadVolatile> KernelFile for T {}

/// Why a kernel can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadKernelError {
    /// The file can't be read.
    #[error("can't read the kernel at byte {offset}")]
    Read {
        /// Where in the file.
        offset: u64,
        /// What reading says.
        #[source]
        source: io::Error,
    },
    /// The file ends before something that it says is in it.
    #[error("the kernel is truncated: its {part} would be {wanted} bytes at byte {offset}, the file has {length}")]
    Truncated {
        /// What was to be read.
        part: &'static str,
        /// Where in the file.
        offset: u64,
        /// How many bytes.
        wanted: u64,
        /// How many the file has in all.
        length: u64,
    },
    /// The file is of no kind that this architecture boots.
    #[error("not a kernel for {architecture}: {found}")]
    UnknownFormat {
        /// The guest's architecture.
        architecture: &'static str,
        /// What the file seems to be.
        found: &'static str,
    },
    /// A field has a value that can't be right, or that is not supported.
    #[error("the kernel's {field} is {value:#x}: {reason}")]
    BadField {
        /// The field's name in its specification.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Something would have to be loaded where there is no RAM, or where the boot tables are.
    #[error("the kernel's {part} of {bytes:#x} bytes at {address:#x} is not in RAM between {lowest:#x} and its end")]
    OutsideRam {
        /// What was to be loaded.
        part: &'static str,
        /// Its guest-physical address.
        address: u64,
        /// How many bytes.
        bytes: u64,
        /// The lowest address that may be loaded to.
        lowest: u64,
    },
    /// Two segments overlap.
    #[error("the kernel's segments overlap at {address:#x}")]
    Overlap {
        /// Where the second begins.
        address: u64,
    },
    /// The kernel starts outside of what it loads.
    #[error("the kernel's entry {entry:#x} is in none of its segments")]
    EntryOutside {
        /// The entry's guest-physical address.
        entry: u64,
    },
    /// The compressed kernel can't be unpacked.
    #[error("the compressed kernel can't be unpacked")]
    Unpack(#[source] io::Error),
    /// The compressed kernel is longer than may be unpacked.
    #[error("the compressed kernel is longer than {most} bytes")]
    UnpackedTooLarge {
        /// How many bytes are unpacked at most.
        most: u64,
    },
    /// Guest memory can't be written.
    #[error("can't write the kernel to guest memory at {address:#x}")]
    Memory {
        /// The guest-physical address.
        address: u64,
        /// What the memory says.
        #[source]
        source: GuestMemoryError,
    },
}

/// Why an initrd can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadInitrdError {
    /// It is empty.
    #[error("the initrd is empty")]
    Empty,
    /// There is no room for it.
    #[error("no room for an initrd of {bytes} bytes between the kernel's end at {lowest:#x} and {highest:#x}")]
    NoRoom {
        /// Its length in bytes.
        bytes: u64,
        /// The lowest address that it may have.
        lowest: u64,
        /// The first address past the room.
        highest: u64,
    },
    /// The file can't be positioned.
    #[error("can't read the initrd")]
    Read(#[source] io::Error),
    /// The file can't be read into guest memory, or ends early.
    #[error("can't read {bytes} bytes of the initrd into guest memory at {address:#x}")]
    Copy {
        /// The guest-physical address.
        address: u64,
        /// How many bytes.
        bytes: u64,
        /// What the memory says.
        #[source]
        source: GuestMemoryError,
    },
}

/// A kernel file and its length, read with every bound checked.
pub(crate) struct Source<'a, F> {
    file: &'a mut F,
    length: u64,
}

impl<'a, F: KernelFile> Source<'a, F> {
    pub(crate) const fn new(file: &'a mut F, length: u64) -> Self {
        Self { file, length }
    }

    pub(crate) const fn length(&self) -> u64 {
        self.length
    }

    /// Positions the file at `offset`, where `wanted` bytes must be.
    fn seek(&mut self, part: &'static str, offset: u64, wanted: u64) -> Result<(), LoadKernelError> {
        if offset.checked_add(wanted).is_none_or(|end| end > self.length) {
            return Err(LoadKernelError::Truncated {
                part,
                offset,
                wanted,
                length: self.length,
            });
        }
        self.file
            .seek(SeekFrom::Start(offset))
            .map_err(|source| LoadKernelError::Read { offset, source })?;
        Ok(())
    }

    /// Reads exactly `N` bytes.
    pub(crate) fn array<const N: usize>(
        &mut self,
        part: &'static str,
        offset: u64,
    ) -> Result<[u8; N], LoadKernelError> {
        let mut bytes = [0; N];
        self.fill(part, offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads exactly as many bytes as `bytes` has.
    pub(crate) fn fill(&mut self, part: &'static str, offset: u64, bytes: &mut [u8]) -> Result<(), LoadKernelError> {
        self.seek(part, offset, bytes.len() as u64)?;
        self.file
            .read_exact(bytes)
            .map_err(|source| LoadKernelError::Read { offset, source })
    }

    /// Copies `bytes` bytes at `offset` of the file to guest memory at `address`. The caller has checked that the target is in RAM.
    pub(crate) fn copy(
        &mut self,
        part: &'static str,
        offset: u64,
        bytes: u64,
        ram: &GuestRam,
        address: u64,
    ) -> Result<(), LoadKernelError> {
        self.seek(part, offset, bytes)?;
        let count = usize::try_from(bytes).unwrap_or(usize::MAX);
        ram.read_exact_volatile_from(GuestAddress(address), self.file, count)
            .map_err(|source| LoadKernelError::Memory { address, source })
    }

    /// The file, positioned at its beginning.
    pub(crate) fn rewound(&mut self) -> Result<&mut F, LoadKernelError> {
        self.seek("file", 0, 0)?;
        Ok(self.file)
    }
}

/// Whether all of `bytes` bytes from `address` on are in RAM at or above `lowest`, without a gap.
pub(crate) fn in_ram(ram: &GuestRam, address: u64, bytes: u64, lowest: u64) -> bool {
    address >= lowest
        && address.checked_add(bytes).is_some()
        && usize::try_from(bytes)
            .is_ok_and(|bytes| ram.check_range(GuestAddress(address), bytes, Permissions::ReadWrite))
}

/// Says that a part of the kernel does not fit, if it does not.
pub(crate) fn require_ram(
    ram: &GuestRam,
    part: &'static str,
    address: u64,
    bytes: u64,
    lowest: u64,
) -> Result<(), LoadKernelError> {
    if in_ram(ram, address, bytes, lowest) {
        Ok(())
    } else {
        Err(LoadKernelError::OutsideRam {
            part,
            address,
            bytes,
            lowest,
        })
    }
}

/// Pages of guest memory; both architectures' guests are told of initrds by whole ones.
const PAGE_BYTES: u64 = 4096;

/// Reads an initrd to the highest page-aligned place in `room`.
pub(crate) fn initrd_into(
    ram: &GuestRam,
    file: &mut impl KernelFile,
    bytes: u64,
    room: Range<u64>,
) -> Result<Range<u64>, LoadInitrdError> {
    if bytes == 0 {
        return Err(LoadInitrdError::Empty);
    }
    let no_room = || LoadInitrdError::NoRoom {
        bytes,
        lowest: room.start,
        highest: room.end,
    };
    let address = room.end.checked_sub(bytes).ok_or_else(no_room)? & !(PAGE_BYTES - 1);
    if !in_ram(ram, address, bytes, room.start) {
        return Err(no_room());
    }
    file.seek(SeekFrom::Start(0)).map_err(LoadInitrdError::Read)?;
    let count = usize::try_from(bytes).map_err(|_| no_room())?;
    ram.read_exact_volatile_from(GuestAddress(address), file, count)
        .map_err(|source| LoadInitrdError::Copy { address, bytes, source })?;
    Ok(address..address.saturating_add(bytes))
}

/// Reads a little-endian number at a constant place of a header. Zero if the header is shorter, which callers rule out by its type.
pub(crate) fn le_u16(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |chunk| u16::from_le_bytes(*chunk))
}

/// As [`le_u16`], of 4 bytes.
pub(crate) fn le_u32(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

/// As [`le_u16`], of 8 bytes.
pub(crate) fn le_u64(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |chunk| u64::from_le_bytes(*chunk))
}
