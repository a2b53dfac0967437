//! `struct boot_params`, the "zero page" of Linux's boot protocol (Documentation/arch/x86/{boot,zero-page}.rst).

use std::ops::Range;

use crate::x86_64::kernel::MemoryKind;
use crate::x86_64::layout::COMMAND_LINE;

/// Its size in bytes.
pub(crate) const BYTES: usize = 4096;
/// Offset of the setup header here and in a bzImage's file.
pub(crate) const SETUP_HEADER: usize = 0x1f1;
/// Offset past the longest setup header (`pad7` before `edd_mbr_sig_buffer`).
pub(crate) const SETUP_HEADER_END: usize = 0x290;

/// Offsets of the fields that a boot loader fills.
const ACPI_RSDP: usize = 0x70;
const EXT_RAMDISK_IMAGE: usize = 0xc0;
const EXT_RAMDISK_SIZE: usize = 0xc4;
const EXT_CMD_LINE_PTR: usize = 0xc8;
const E820_ENTRIES: usize = 0x1e8;
const BOOT_FLAG: usize = 0x1fe;
const HEADER_MAGIC: usize = 0x202;
const TYPE_OF_LOADER: usize = 0x210;
const LOADFLAGS: usize = 0x211;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21c;
const CMD_LINE_PTR: usize = 0x228;
const KERNEL_ALIGNMENT: usize = 0x230;
const E820_TABLE: usize = 0x2d0;

/// A loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;
/// `LOADED_HIGH`: the kernel is at or above 1 MiB.
const LOADED_HIGH: u8 = 1;
/// "HdrS" and the boot flag, as a kernel that brings no header of its own wants them.
const MAGIC: u32 = 0x5372_6448;
const FLAG: u16 = 0xaa55;
/// The alignment that Linux is configured with unless told otherwise (`CONFIG_PHYSICAL_ALIGN`, at least 2 MiB).
const ALIGNMENT: u32 = 0x100_0000;
/// Bytes of an e820 entry: start, length, kind.
const E820_BYTES: usize = 20;

/// Makes the zero page; `setup` is the kernel's own setup header, if it has one.
pub(crate) fn boot_params(
    setup: Option<&[u8]>,
    map: &[(u64, u64, MemoryKind)],
    initrd: Option<&Range<u64>>,
    rsdp: u64,
) -> Vec<u8> {
    let mut page = Page([0; BYTES]);
    if let Some(header) = setup {
        let most = header.len().min(SETUP_HEADER_END - SETUP_HEADER);
        page.put(SETUP_HEADER, header.get(..most).unwrap_or_default());
    } else {
        page.put(BOOT_FLAG, &FLAG.to_le_bytes());
        page.put(HEADER_MAGIC, &MAGIC.to_le_bytes());
        page.put(KERNEL_ALIGNMENT, &ALIGNMENT.to_le_bytes());
    }
    page.put(TYPE_OF_LOADER, &[LOADER_UNDEFINED]);
    let flags = page.0.get(LOADFLAGS).copied().unwrap_or(0);
    page.put(LOADFLAGS, &[flags | LOADED_HIGH]);
    page.put_split(COMMAND_LINE, CMD_LINE_PTR, EXT_CMD_LINE_PTR);
    page.put(ACPI_RSDP, &rsdp.to_le_bytes());
    if let Some(initrd) = initrd {
        page.put_split(initrd.start, RAMDISK_IMAGE, EXT_RAMDISK_IMAGE);
        page.put_split(initrd.end.saturating_sub(initrd.start), RAMDISK_SIZE, EXT_RAMDISK_SIZE);
    }
    // Three or four entries; 128 would fit.
    page.put(E820_ENTRIES, &[u8::try_from(map.len()).unwrap_or(0)]);
    for (index, (start, bytes, kind)) in map.iter().enumerate() {
        let at = E820_TABLE.saturating_add(index.saturating_mul(E820_BYTES));
        page.put(at, &start.to_le_bytes());
        page.put(at.saturating_add(8), &bytes.to_le_bytes());
        page.put(at.saturating_add(16), &(*kind as u32).to_le_bytes());
    }
    page.0.to_vec()
}

struct Page([u8; BYTES]);

impl Page {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = at.checked_add(bytes.len()).and_then(|end| self.0.get_mut(at..end)) {
            place.copy_from_slice(bytes);
        }
    }

    /// Puts a 64-bit number whose halves have fields of their own.
    fn put_split(&mut self, value: u64, low: usize, high: usize) {
        let (low_half, high_half) = (value & 0xffff_ffff, value >> 32);
        self.put(low, low_half.to_le_bytes().get(..4).unwrap_or_default());
        self.put(high, high_half.to_le_bytes().get(..4).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{le_u16, le_u32, le_u64};

    #[test]
    fn an_elf_kernel_gets_a_header_of_ours() {
        let map = [(0, 0x9f000, MemoryKind::Ram), (0x9f000, 0x61000, MemoryKind::Reserved)];
        let page = boot_params(None, &map, Some(&(0x1_2345_6000..0x1_2346_0000)), 0xe0000);
        assert_eq!(page.len(), BYTES);
        assert_eq!(le_u16(&page, 0x1fe), 0xaa55);
        assert_eq!(&page[0x202..0x206], b"HdrS");
        assert_eq!((page[0x210], page[0x211] & 1), (0xff, 1));
        assert_eq!((le_u32(&page, 0x218), le_u32(&page, 0xc0)), (0x2345_6000, 1));
        assert_eq!((le_u32(&page, 0x21c), le_u32(&page, 0xc4)), (0xa000, 0));
        assert_eq!(u64::from(le_u32(&page, 0x228)), COMMAND_LINE);
        assert_eq!(le_u64(&page, 0x70), 0xe0000);
        assert_eq!(page[0x1e8], 2);
        assert_eq!(
            (
                le_u64(&page, 0x2d0 + 20),
                le_u64(&page, 0x2d0 + 28),
                le_u32(&page, 0x2d0 + 36)
            ),
            (0x9f000, 0x61000, 2)
        );
    }

    #[test]
    fn a_header_of_the_kernels_is_kept_but_for_what_the_loader_fills() {
        let page = boot_params(Some(&[0xee; 4096]), &[], None, 0);
        assert_eq!(page[0x1f1], 0xee);
        assert_eq!(page[0x28f], 0xee);
        assert_eq!(page[0x290], 0);
        assert_eq!(page[0x210], 0xff);
    }
}
