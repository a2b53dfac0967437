//! A snapshot's memory file: the regions of guest memory one after the other, with holes where the guest never wrote.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use ringwall_arch::GuestRam;
use thiserror::Error;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend as _, GuestMemoryRegion as _};

use crate::memory::PAGE_BYTES;

/// Pages copied at a time: large enough for few calls, small enough to stay in the cache.
const BATCH_PAGES: usize = 64;
/// Bit 63 of an entry of pagemap: the page is present; bit 62: swapped out (Documentation/admin-guide/mm/pagemap.rst).
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;

/// Memory that can't be saved.
#[derive(Debug, Error)]
#[error("can't save memory: {what}")]
pub struct SaveMemoryError {
    /// What was being done.
    pub what: &'static str,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

fn failing(what: &'static str) -> impl Fn(io::Error) -> SaveMemoryError {
    move |source| SaveMemoryError { what, source }
}

/// Where the contents of guest memory lie beside its pages.
#[derive(Debug)]
pub struct Sources<'a> {
    /// `/proc/self/pagemap`, opened before confinement. Without it all of memory is read.
    pub pagemap: Option<&'a File>,
    /// Where the others are.
    pub base: Base<'a>,
}

/// Where the contents of pages are that this process has not.
#[derive(Debug, Clone, Copy)]
pub enum Base<'a> {
    /// Nowhere: they are zero.
    Zeroes,
    /// In the file that memory was restored from: pages that are untouched since are only there.
    File(&'a File),
    /// With a page fault handler, which alone knows which it has. So all of memory is read, which faults every page in: a snapshot takes as
    /// long as the handler takes for all pages, and this process has all of them afterwards.
    Handler,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// Bytes of the file that are not holes.
    pub bytes: u64,
}

/// Writes all of memory. The vCPUs must be paused and the devices at rest.
///
/// # Errors
/// See [`SaveMemoryError`].
pub fn write_full(memory: &GuestRam, sources: &Sources<'_>, file: &File) -> Result<Written, SaveMemoryError> {
    write(memory, file, |base, count| {
        let mut pages = vec![false; count];
        let (Base::Zeroes | Base::File(_), Some(pagemap)) = (sources.base, sources.pagemap) else {
            pages.fill(true);
            return Ok(pages);
        };
        mark_present(memory, pagemap, base, &mut pages).map_err(failing("reading pagemap"))?;
        if let Base::File(file) = sources.base {
            mark_data(memory, file, base, &mut pages).map_err(failing("reading the base file's layout"))?;
        }
        Ok(pages)
    })
}

/// Writes the pages that were written since the dirty log was last read.
///
/// `dirty(region base, region pages)` says which; both the guest's and the devices'.
///
/// # Errors
/// See [`SaveMemoryError`].
pub fn write_dirty(
    memory: &GuestRam,
    file: &File,
    dirty: impl Fn(GuestAddress, usize) -> Result<Vec<bool>, SaveMemoryError>,
) -> Result<Written, SaveMemoryError> {
    write_pages(memory, file, dirty, false)
}

fn write(
    memory: &GuestRam,
    file: &File,
    wanted: impl Fn(GuestAddress, usize) -> Result<Vec<bool>, SaveMemoryError>,
) -> Result<Written, SaveMemoryError> {
    write_pages(memory, file, wanted, true)
}

/// `skip_zeroes`: into a new file, where a hole reads as zeroes anyway. A difference must write them.
fn write_pages(
    memory: &GuestRam,
    file: &File,
    wanted: impl Fn(GuestAddress, usize) -> Result<Vec<bool>, SaveMemoryError>,
    skip_zeroes: bool,
) -> Result<Written, SaveMemoryError> {
    let total: u64 = memory.iter().map(vm_memory::GuestMemoryRegion::len).sum();
    file.set_len(total).map_err(failing("setting the file's length"))?;
    let mut written = Written::default();
    let mut offset = 0;
    let mut batch = vec![0_u8; BATCH_PAGES * PAGE_BYTES];
    for region in memory.iter() {
        let base = region.start_addr();
        let count = usize::try_from(region.len()).unwrap_or(usize::MAX).div_ceil(PAGE_BYTES);
        let pages = wanted(base, count)?;
        for (first, length) in runs(&pages, BATCH_PAGES) {
            let start = (first * PAGE_BYTES) as u64;
            let bytes = &mut batch[..length * PAGE_BYTES];
            memory
                .read_slice(bytes, GuestAddress(base.0 + start))
                .map_err(|error| failing("reading guest memory")(io::Error::other(error)))?;
            for (page, zero) in zero_runs(bytes) {
                if zero && skip_zeroes {
                    continue;
                }
                let part = &bytes[page.start * PAGE_BYTES..page.end * PAGE_BYTES];
                let at = offset + start + (page.start * PAGE_BYTES) as u64;
                file.write_all_at(part, at).map_err(failing("writing the file"))?;
                written.bytes += part.len() as u64;
            }
        }
        offset += region.len();
    }
    Ok(written)
}

/// Runs of wanted pages, none longer than `most`: (first, count).
fn runs(pages: &[bool], most: usize) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut index = 0;
    while index < pages.len() {
        if !pages[index] {
            index += 1;
            continue;
        }
        let first = index;
        while index < pages.len() && pages[index] && index - first < most {
            index += 1;
        }
        found.push((first, index - first));
    }
    found
}

/// Splits whole pages into runs that are all zero or not.
fn zero_runs(bytes: &[u8]) -> Vec<(std::ops::Range<usize>, bool)> {
    let mut found: Vec<(std::ops::Range<usize>, bool)> = Vec::new();
    for (index, page) in bytes.chunks(PAGE_BYTES).enumerate() {
        // The compiler turns it into wide compares.
        let zero = page.iter().fold(0_u8, |all, byte| all | byte) == 0;
        match found.last_mut() {
            Some((range, is_zero)) if *is_zero == zero => range.end = index + 1,
            _ => found.push((index..index + 1, zero)),
        }
    }
    found
}

/// Marks the pages that this process has in memory or swap.
fn mark_present(memory: &GuestRam, pagemap: &File, base: GuestAddress, pages: &mut [bool]) -> io::Result<()> {
    let host = memory.get_host_address(base).map_err(io::Error::other)? as u64;
    let host_page = rustix::param::page_size() as u64;
    let per_host_page = usize::try_from(host_page).unwrap_or(PAGE_BYTES) / PAGE_BYTES;
    let entries = pages.len().div_ceil(per_host_page);
    let mut raw = vec![0_u8; 8 * 4096.min(entries)];
    let mut done = 0;
    while done < entries {
        let count = (entries - done).min(4096);
        let part = &mut raw[..count * 8];
        pagemap.read_exact_at(part, (host / host_page + done as u64) * 8)?;
        for (index, entry) in part.chunks_exact(8).enumerate() {
            let entry = u64::from_ne_bytes(entry.try_into().unwrap_or_default());
            if entry & (PRESENT | SWAPPED) != 0 {
                let first = (done + index) * per_host_page;
                let last = (first + per_host_page).min(pages.len());
                pages[first..last].fill(true);
            }
        }
        done += count;
    }
    Ok(())
}

/// Marks the pages for which a restored VM's base file has data.
fn mark_data(memory: &GuestRam, file: &File, base: GuestAddress, pages: &mut [bool]) -> io::Result<()> {
    let before: u64 = memory
        .iter()
        .take_while(|region| region.start_addr() < base)
        .map(vm_memory::GuestMemoryRegion::len)
        .sum();
    let end = before + (pages.len() * PAGE_BYTES) as u64;
    for (from, to) in data_ranges(file, before, end)? {
        let first = usize::try_from((from - before) / PAGE_BYTES as u64).unwrap_or(0);
        let last = usize::try_from((to - before).div_ceil(PAGE_BYTES as u64)).unwrap_or(usize::MAX);
        let last = last.min(pages.len());
        pages[first.min(last)..last].fill(true);
    }
    Ok(())
}

/// The ranges of a file between `from` and `to` that are not holes (lseek(2), SEEK_DATA).
fn data_ranges(file: &File, from: u64, to: u64) -> io::Result<BTreeSet<(u64, u64)>> {
    use rustix::fs::{SeekFrom, seek};
    let mut found = BTreeSet::new();
    let mut position = from;
    while position < to {
        let start = match seek(file, SeekFrom::Data(position)) {
            Ok(start) => start,
            // No more data up to the end.
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        if start >= to {
            break;
        }
        let end = seek(file, SeekFrom::Hole(start))?.min(to);
        found.insert((start, end));
        position = end;
    }
    Ok(found)
}

/// Puts a difference onto a full memory file, which is changed in place: every range of `difference` that is not a hole.
///
/// # Errors
/// When the files' lengths differ, or what the system says.
pub fn merge(full: &File, difference: &File) -> io::Result<Written> {
    let length = difference.metadata()?.len();
    if full.metadata()?.len() != length {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the difference is of a VM with other memory: the files' lengths differ",
        ));
    }
    let mut written = Written::default();
    let mut buffer = vec![0_u8; BATCH_PAGES * PAGE_BYTES];
    for (from, to) in data_ranges(difference, 0, length)? {
        let mut at = from;
        while at < to {
            let count = usize::try_from(to - at).unwrap_or(usize::MAX).min(buffer.len());
            difference.read_exact_at(&mut buffer[..count], at)?;
            full.write_all_at(&buffer[..count], at)?;
            at += count as u64;
            written.bytes += count as u64;
        }
    }
    full.sync_data()?;
    Ok(written)
}

/// Copies a memory file into memory that is all zero: for huge pages, which no file of another file system can be mapped with. Its holes take
/// no memory.
///
/// # Errors
/// What the system says. The file must be as long as the memory.
pub fn read_into(memory: &GuestRam, file: &File) -> io::Result<()> {
    let mut buffer = vec![0_u8; BATCH_PAGES * PAGE_BYTES];
    let mut before = 0;
    for region in memory.iter() {
        for (from, to) in data_ranges(file, before, before + region.len())? {
            let mut at = from;
            while at < to {
                let count = usize::try_from(to - at).unwrap_or(usize::MAX).min(buffer.len());
                file.read_exact_at(&mut buffer[..count], at)?;
                let place = GuestAddress(region.start_addr().0 + (at - before));
                memory.write_slice(&buffer[..count], place).map_err(io::Error::other)?;
                at += count as u64;
            }
        }
        before += region.len();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{MemoryOptions, create, map_over};
    use vm_memory::Address as _;

    #[test]
    fn what_is_read_is_what_was_written() {
        let (saved, again) = (memory(), memory());
        saved.write_slice(&[7; 5000], GuestAddress((1 << 20) - 5000)).unwrap();
        saved
            .write_slice(&[9; 300], GuestAddress((4 << 30) + (3 << 20) + 17))
            .unwrap();
        let file = tempfile::tempfile().unwrap();
        let pagemap = pagemap();
        write_full(&saved, &sources(&pagemap, Base::Zeroes), &file).unwrap();
        read_into(&again, &file).unwrap();
        for (first, second) in saved.iter().zip(again.iter()) {
            let mut bytes = [vec![0; 1 << 20], vec![1; 1 << 20]];
            for at in (0..first.len()).step_by(1 << 20) {
                let at = first.start_addr().unchecked_add(at);
                saved.read_slice(&mut bytes[0], at).unwrap();
                again
                    .read_slice(
                        &mut bytes[1],
                        second.start_addr().unchecked_add(at.0 - first.start_addr().0),
                    )
                    .unwrap();
                assert_eq!(bytes[0], bytes[1]);
            }
        }
    }

    fn memory() -> GuestRam {
        let regions = [(GuestAddress(0), 1 << 20), (GuestAddress(4 << 30), 8 << 20)];
        create(&regions, MemoryOptions::default()).unwrap()
    }

    fn pagemap() -> File {
        File::open("/proc/self/pagemap").unwrap()
    }

    const fn sources<'a>(pagemap: &'a File, base: Base<'a>) -> Sources<'a> {
        Sources {
            pagemap: Some(pagemap),
            base,
        }
    }

    #[test]
    fn only_what_was_touched_is_in_the_file() {
        let (memory, pagemap) = (memory(), pagemap());
        memory.write_obj(1_u64, GuestAddress(5 * 4096)).unwrap();
        memory.write_obj(2_u64, GuestAddress((4 << 30) + (4 << 20))).unwrap();
        let file = tempfile::tempfile().unwrap();
        let written = write_full(&memory, &sources(&pagemap, Base::Zeroes), &file).unwrap();
        assert_eq!(written.bytes, 2 * 4096);
        assert_eq!(file.metadata().unwrap().len(), 9 << 20);
        let again = self::memory();
        map_over(&again, &file).unwrap();
        assert_eq!(again.read_obj::<u64>(GuestAddress(5 * 4096)).unwrap(), 1);
        assert_eq!(again.read_obj::<u64>(GuestAddress((4 << 30) + (4 << 20))).unwrap(), 2);
    }

    #[test]
    fn a_restored_vm_saves_what_it_never_touched_too() {
        let (memory, pagemap) = (memory(), pagemap());
        memory.write_obj(1_u64, GuestAddress(0)).unwrap();
        memory.write_obj(2_u64, GuestAddress((4 << 30) + 4096)).unwrap();
        let first = tempfile::tempfile().unwrap();
        write_full(&memory, &sources(&pagemap, Base::Zeroes), &first).unwrap();
        let restored = self::memory();
        map_over(&restored, &first).unwrap();
        restored.write_obj(3_u64, GuestAddress(8192)).unwrap();
        // A page that the first file has is made zero: the second must not have the old contents.
        restored.write_obj(0_u64, GuestAddress(0)).unwrap();
        let second = tempfile::tempfile().unwrap();
        write_full(&restored, &sources(&pagemap, Base::File(&first)), &second).unwrap();
        let last = self::memory();
        map_over(&last, &second).unwrap();
        let read = |address| last.read_obj::<u64>(GuestAddress(address)).unwrap();
        assert_eq!((read(0), read(8192), read((4 << 30) + 4096)), (0, 3, 2));
    }

    #[test]
    fn a_difference_carries_zeroes_and_merges() {
        let (memory, pagemap) = (memory(), pagemap());
        for page in 0..4 {
            memory.write_obj(page + 1, GuestAddress(page * 4096)).unwrap();
        }
        let full = tempfile::tempfile().unwrap();
        write_full(&memory, &sources(&pagemap, Base::Zeroes), &full).unwrap();
        memory.write_obj(0_u64, GuestAddress(4096)).unwrap();
        memory.write_obj(9_u64, GuestAddress(2 * 4096)).unwrap();
        let difference = tempfile::tempfile().unwrap();
        let dirty = |base: GuestAddress, count| {
            let mut pages = vec![false; count];
            if base.0 == 0 {
                pages[1..3].fill(true);
            }
            Ok(pages)
        };
        assert_eq!(write_dirty(&memory, &difference, dirty).unwrap().bytes, 2 * 4096);
        merge(&full, &difference).unwrap();
        let merged = self::memory();
        map_over(&merged, &full).unwrap();
        let read = |page: u64| merged.read_obj::<u64>(GuestAddress(page * 4096)).unwrap();
        assert_eq!([read(0), read(1), read(2), read(3)], [1, 0, 9, 4]);
        difference.set_len(4096).unwrap();
        assert!(merge(&full, &difference).is_err());
    }

    #[test]
    fn runs_are_bounded() {
        assert_eq!(runs(&[true, true, true, false, true], 2), [(0, 2), (2, 1), (4, 1)]);
        assert_eq!(runs(&[false; 3], 2), []);
    }
}
