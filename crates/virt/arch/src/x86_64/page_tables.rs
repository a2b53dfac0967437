//! The page tables of the 64-bit boot protocol: the first 4 GiB onto themselves, by 2 MiB pages (Intel SDM vol. 3 §4.5).

use crate::x86_64::layout::PAGE_TABLES;

/// Bytes of a table.
const TABLE_BYTES: u64 = 0x1000;
/// Bytes that an entry of a page directory maps.
const LARGE_PAGE_BYTES: u64 = 2 << 20;
/// Page directories, each for 1 GiB.
const DIRECTORIES: u64 = 4;
/// Entries of a table.
const ENTRIES: u64 = 512;
/// Present and writable; a page of 2 MiB rather than a table.
const PRESENT: u64 = 0x3;
const LARGE: u64 = 0x80;

/// The tables, one after the other, as they go to `PAGE_TABLES`: PML4, page directory pointers, page directories.
pub(crate) fn identity() -> Vec<u8> {
    let pointers = PAGE_TABLES + TABLE_BYTES;
    let directories = pointers + TABLE_BYTES;
    let top = (0..ENTRIES).map(|index| if index == 0 { pointers | PRESENT } else { 0 });
    let middle = (0..ENTRIES).map(|index| {
        if index < DIRECTORIES {
            (directories + index * TABLE_BYTES) | PRESENT
        } else {
            0
        }
    });
    let pages = (0..DIRECTORIES * ENTRIES).map(|index| (index * LARGE_PAGE_BYTES) | PRESENT | LARGE);
    top.chain(middle).chain(pages).flat_map(u64::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::le_u64;

    /// Walks the tables as a processor does.
    fn translate(tables: &[u8], address: u64) -> Option<u64> {
        let entry = |table: u64, index: u64| {
            let at = usize::try_from(table - PAGE_TABLES + index % ENTRIES * 8).unwrap();
            Some(le_u64(tables, at)).filter(|entry| entry & 1 == 1)
        };
        let pointers = entry(PAGE_TABLES, address >> 39)? & !0xfff;
        let directory = entry(pointers, address >> 30)? & !0xfff;
        let page = entry(directory, address >> 21)?;
        assert_eq!(page & 0xfff, PRESENT | LARGE);
        Some((page & !0xfff) + address % LARGE_PAGE_BYTES)
    }

    #[test]
    fn the_first_four_gibibytes_are_mapped_onto_themselves() {
        let tables = identity();
        for address in [0, 0x1234, 0x10_0000, 0x3fff_ffff, 0x4000_0000, 0xc012_3456, 0xffff_ffff] {
            assert_eq!(translate(&tables, address), Some(address));
        }
        assert_eq!(translate(&tables, 1 << 32), None);
        assert_eq!(translate(&tables, 1 << 40), None);
    }
}
