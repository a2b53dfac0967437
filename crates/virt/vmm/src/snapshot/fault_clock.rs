//! How long page faults have been waiting for their handler, seen from outside: nothing is done on a fault's own path.
//!
//! The kernel does not say when a fault began, but it says how many wait (a userfaultfd's fdinfo), where each thread sleeps (its wchan), and
//! how often it went to sleep (its context switches). So this looks [`LOOKS`] times in the time that a handler has:
//!
//! ```text
//! a thread of this process in the same sleep at every look, in a fault   -> that fault is too old
//! faults at every look whose threads are not ours to see, and not one
//!     page more than in the middle of that time                          -> nobody has answered for half of it, and they are too old
//! ```
//!
//! Faults without a thread of ours are KVM's asynchronous ones, which a thread of the kernel waits for; and all of them where the kernel has no
//! names of functions (no `CONFIG_KALLSYMS`). A handler that is slow, but answers, is never too old by either rule. Looks are counted and not
//! the time between them: a VM that was frozen with its handler is not held to it.
#![cfg_attr(test, expect(unsafe_code, reason = "guest memory is registered by its address"))]

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use ringwall_arch::GuestRam;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Dir, Mode, OFlags, openat};
use vm_memory::{GuestMemoryBackend as _, GuestMemoryRegion as _};

/// How often it is looked in the time that a fault may take.
const LOOKS: u32 = 8;
/// The look at which pages are counted, to be counted again at the last.
const MIDDLE: u32 = LOOKS / 2;
/// Most bytes of one of procfs's files that are read; those read here have some hundred (a thread's status 1,500).
const MOST_PROC_BYTES: u64 = 16 << 10;
/// Bit 63 of an entry of pagemap: the page is present; bit 62: swapped out (Documentation/admin-guide/mm/pagemap.rst).
const HERE: u64 = 1 << 63 | 1 << 62;

/// What one look has seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Look {
    /// This process's threads that wait in a fault: their numbers, and how often each went to sleep.
    threads: BTreeMap<i32, u64>,
    /// Whether more wait than those.
    has_hidden: bool,
}

/// What all looks together say.
#[derive(Debug, Default)]
struct Ages {
    /// For each waiting thread its sleep's number, and how many looks have seen it.
    threads: BTreeMap<i32, (u64, u32)>,
    /// How many looks in a row have seen hidden faults.
    hidden: u32,
    /// How many pages were there in the middle of that.
    pages: Option<u64>,
}

impl Ages {
    /// Takes a look; whether a fault has been there at every one of the last [`LOOKS`].
    fn take(&mut self, look: &Look, pages: impl FnOnce() -> Option<u64>) -> bool {
        let before = std::mem::take(&mut self.threads);
        for (&thread, &sleep) in &look.threads {
            let seen = match before.get(&thread) {
                Some(&(same, seen)) if same == sleep => seen + 1,
                _ => 1,
            };
            self.threads.insert(thread, (sleep, seen));
        }
        let is_old = self.threads.values().any(|&(_, seen)| seen > LOOKS);
        is_old || self.take_hidden(look.has_hidden, pages)
    }

    fn take_hidden(&mut self, has_hidden: bool, pages: impl FnOnce() -> Option<u64>) -> bool {
        if !has_hidden {
            (self.hidden, self.pages) = (0, None);
            return false;
        }
        self.hidden += 1;
        if self.hidden == MIDDLE {
            self.pages = pages();
        } else if self.hidden > LOOKS {
            let now = pages();
            if now.is_some() && now == self.pages {
                return true;
            }
            // Pages came: as if this were the middle.
            (self.hidden, self.pages) = (MIDDLE, now);
        }
        false
    }
}

/// Looks at the faults of guest memory.
#[derive(Debug)]
pub(super) struct FaultClock {
    /// `/proc/self`, opened as long as there is one.
    process: OwnedFd,
    pagemap: File,
    userfault: OwnedFd,
    /// Where guest memory is: addresses and lengths in bytes. Never accessed.
    regions: Vec<(u64, u64)>,
    ages: Ages,
}

impl FaultClock {
    /// Looks at the faults of `memory`, which are told to `userfault`.
    ///
    /// # Errors
    /// No procfs, or no descriptors.
    pub(super) fn new(userfault: OwnedFd, memory: &GuestRam) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let process = openat(CWD, "/proc/self", flags, Mode::empty())?;
        let pagemap = open(&process, "pagemap")?;
        let regions = memory
            .iter()
            .map(|region| (region.as_ptr().addr() as u64, region.len()));
        let clock = FaultClock {
            process,
            pagemap,
            userfault,
            regions: regions.collect(),
            ages: Ages::default(),
        };
        // What can't be seen now is not going to be seen later either.
        clock.see()?;
        Ok(clock)
    }

    /// How long to wait between two looks, if a fault may take so long.
    pub(super) fn period(patience: Duration) -> Duration {
        patience / LOOKS
    }

    /// Looks; whether a fault is too old. What can't be read says nothing of faults: then there is none.
    pub(super) fn is_late(&mut self) -> bool {
        let look = self.see().unwrap_or_default();
        let (pagemap, regions) = (&self.pagemap, &self.regions);
        self.ages.take(&look, || present(pagemap, regions).ok())
    }

    fn see(&self) -> io::Result<Look> {
        let descriptor = format!("fdinfo/{}", self.userfault.as_raw_fd());
        // `total` of userfaultfd_show_fdinfo (fs/userfaultfd.c): faults that nobody has read, and those read and not answered.
        let faults = number(&text(&self.process, &descriptor)?, "total:").ok_or(io::ErrorKind::InvalidData)?;
        if faults == 0 && !self.has_message()? {
            return Ok(Look::default());
        }
        let mut look = Look::default();
        let mut in_faults = 0;
        for thread in self.threads()? {
            // A thread may end meanwhile.
            let Ok(place) = text(&self.process, &format!("task/{thread}/wchan")) else {
                continue;
            };
            // fs/userfaultfd.c: a fault waits in the first; whoever removes pages, until that is read, in one of the others.
            let is_fault = place == "handle_userfault";
            if !is_fault && !place.starts_with("userfaultfd_") {
                continue;
            }
            let Ok(status) = text(&self.process, &format!("task/{thread}/status")) else {
                continue;
            };
            let Some(sleeps) = number(&status, "voluntary_ctxt_switches:") else {
                continue;
            };
            in_faults += u64::from(is_fault);
            look.threads.insert(thread, sleeps);
        }
        look.has_hidden = faults > in_faults;
        Ok(look)
    }

    /// Whether a fault or event waits to be read.
    fn has_message(&self) -> io::Result<bool> {
        let mut descriptors = [PollFd::new(&self.userfault, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut descriptors, Some(&at_once))?;
        Ok(descriptors[0].revents().contains(PollFlags::IN))
    }

    fn threads(&self) -> io::Result<Vec<i32>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = Dir::new(openat(&self.process, "task", flags, Mode::empty())?)?;
        let mut threads = Vec::new();
        for entry in folder {
            threads.extend(thread_number(entry?.file_name()));
        }
        Ok(threads)
    }
}

fn thread_number(name: &CStr) -> Option<i32> {
    name.to_str().ok()?.parse().ok()
}

fn open(folder: &OwnedFd, path: &str) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(openat(folder, path, flags, Mode::empty())?.into())
}

fn text(folder: &OwnedFd, path: &str) -> io::Result<String> {
    let mut found = String::new();
    open(folder, path)?.take(MOST_PROC_BYTES).read_to_string(&mut found)?;
    Ok(found)
}

/// The number after a name at the beginning of a line.
fn number(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))?
        .trim()
        .parse()
        .ok()
}

/// How many pages of the regions this process has. A page that is answered counts, of whatever kind.
fn present(pagemap: &File, regions: &[(u64, u64)]) -> io::Result<u64> {
    let page = rustix::param::page_size() as u64;
    let mut entries = vec![0_u8; 64 << 10];
    let mut found = 0;
    for &(start, bytes) in regions {
        let (mut at, end) = (start / page * 8, (start + bytes) / page * 8);
        while at < end {
            let wanted = usize::try_from(end - at).map_or(entries.len(), |left| left.min(entries.len()));
            let part = entries.get_mut(..wanted).unwrap_or_default();
            pagemap.read_exact_at(part, at)?;
            let here = part
                .chunks_exact(8)
                .map(|entry| u64::from_ne_bytes(entry.try_into().unwrap_or_default()))
                .filter(|entry| entry & HERE != 0);
            found += here.count() as u64;
            at += wanted as u64;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{self, MemoryOptions};
    use ringwall_sys::userfaultfd;
    use std::os::fd::AsFd as _;
    use std::process::Command;
    use std::sync::{Arc, Mutex};
    use vm_memory::{Bytes as _, GuestAddress};

    fn waiting(threads: &[(i32, u64)], has_hidden: bool) -> Look {
        Look {
            threads: threads.iter().copied().collect(),
            has_hidden,
        }
    }

    /// At which look one is too old, of at most 40.
    fn late_at(look: impl Fn(u32) -> Look, pages: impl Fn(u32) -> u64) -> Option<u32> {
        let mut ages = Ages::default();
        (1..=40).find(|&turn| ages.take(&look(turn), || Some(pages(turn))))
    }

    #[test]
    fn one_sleep_at_every_look_is_too_old_whatever_others_do() {
        let late = late_at(|turn| waiting(&[(7, 100), (8, u64::from(turn))], false), |_| 0);
        assert_eq!(late, Some(LOOKS + 1));
        // It began at the third look.
        let late = late_at(|turn| waiting(&[(7, u64::from(turn.min(3)))], false), |_| 0);
        assert_eq!(late, Some(LOOKS + 3));
    }

    #[test]
    fn a_new_sleep_at_each_look_and_one_with_a_gap_are_not() {
        assert_eq!(late_at(|turn| waiting(&[(7, u64::from(turn / 4))], false), |_| 0), None);
        let gaps = |turn: u32| match turn % 6 {
            0 => Look::default(),
            _ => waiting(&[(7, 1)], true),
        };
        assert_eq!(late_at(gaps, |_| 0), None);
    }

    #[test]
    fn hidden_faults_are_too_old_when_no_page_comes() {
        assert_eq!(late_at(|_| waiting(&[], true), |_| 5), Some(LOOKS + 1));
        assert_eq!(late_at(|_| waiting(&[], true), |turn| u64::from(turn / 3)), None);
        // Pages come up to the tenth look.
        let late = late_at(|_| waiting(&[], true), |turn| u64::from(turn.min(10)));
        assert_eq!(late, Some(LOOKS + 1 + 2 * (LOOKS + 1 - MIDDLE)));
    }

    /// One test at a time: a process has one clock, which takes all faults of its threads for those that it looks at.
    static ALONE: Mutex<()> = Mutex::new(());

    /// Memory whose faults are told to a userfaultfd, and a clock that looks at them; none where this user may not.
    fn faulting() -> Option<(GuestRam, OwnedFd, FaultClock)> {
        let userfault = match userfaultfd::create() {
            Ok(userfault) => userfault,
            Err(error) => {
                println!("SKIPPED: {error}");
                return None;
            }
        };
        let memory = memory::create(&[(GuestAddress(0), 1 << 20)], MemoryOptions::default()).unwrap();
        userfaultfd::handshake(userfault.as_fd(), userfaultfd::EVENT_REMOVE).unwrap();
        for region in memory.iter() {
            // SAFETY: the range is one mapping that `memory` keeps alive, and it is only ever accessed volatilely.
            let registered = unsafe { userfaultfd::register_missing(userfault.as_fd(), region.as_ptr(), region.len()) };
            registered.unwrap();
        }
        let mut clock = FaultClock::new(userfault.try_clone().unwrap(), &memory).unwrap();
        for _ in 0..=LOOKS {
            assert!(!clock.is_late(), "nothing waits");
        }
        Some((memory, userfault, clock))
    }

    /// Whether the fault of a thread is too old within so many looks, when `answer` is all that its handler does.
    fn is_late_within(looks: u32, answer: impl FnOnce(&OwnedFd) + Send + 'static) -> Option<bool> {
        let _alone = ALONE.lock();
        let (memory, userfault, mut clock) = faulting()?;
        let userfault = Arc::new(userfault);
        std::thread::scope(|scope| {
            scope.spawn(|| memory.read_obj::<u64>(GuestAddress(8192)).unwrap());
            let theirs = userfault.clone();
            let handler = scope.spawn(move || answer(&theirs));
            let late = (0..looks).any(|_| {
                std::thread::sleep(Duration::from_millis(25));
                clock.is_late()
            });
            handler.join().unwrap();
            // With the last of them closed, who waits goes on.
            drop((clock, userfault));
            Some(late)
        })
    }

    /// Reads a page of another process, as a thread of KVM's does: `process_vm_readv(2)`.
    const READER: &str = "
import ctypes, sys
class Vector(ctypes.Structure): _fields_ = [('base', ctypes.c_void_p), ('bytes', ctypes.c_size_t)]
here = ctypes.create_string_buffer(8)
local, remote = Vector(ctypes.addressof(here), 8), Vector(int(sys.argv[2]), 8)
libc = ctypes.CDLL(None, use_errno=True)
libc.process_vm_readv.restype = ctypes.c_ssize_t
sys.exit(libc.process_vm_readv(int(sys.argv[1]), ctypes.byref(local), 1, ctypes.byref(remote), 1, 0) != 8)
";

    #[test]
    fn a_fault_of_a_thread_that_is_not_ours_is_too_old_too() {
        let Some((memory, userfault, mut clock)) = faulting() else {
            return;
        };
        let base = memory.get_host_address(GuestAddress(8192)).unwrap().addr();
        let reader = Command::new("python3")
            .args(["-c", READER, &std::process::id().to_string(), &base.to_string()])
            .spawn();
        let Ok(mut reader) = reader else {
            return println!("SKIPPED: there is no python3");
        };
        let mut seen = Look::default();
        for _ in 0..400 {
            std::thread::sleep(Duration::from_millis(25));
            seen = clock.see().unwrap();
            if seen.has_hidden || reader.try_wait().unwrap().is_some() {
                break;
            }
        }
        if seen == Look::default() {
            return println!("SKIPPED: this user may not read another process's memory");
        }
        assert_eq!(seen, waiting(&[], true));
        let looks = (1..=40).find(|_| clock.is_late());
        assert_eq!(looks, Some(LOOKS + 1));
        drop((clock, userfault));
        assert!(reader.wait().unwrap().success(), "it was not woken");
    }

    fn read_one(userfault: &OwnedFd) {
        let mut ready = [PollFd::new(userfault, PollFlags::IN)];
        poll(&mut ready, None).unwrap();
        rustix::io::read(userfault, &mut [0; 32]).unwrap();
    }

    #[test]
    fn a_fault_is_too_old_whether_it_was_read_or_not() {
        for late in [is_late_within(LOOKS + 20, |_| {}), is_late_within(LOOKS + 20, read_one)] {
            assert_ne!(late, Some(false));
        }
        assert_ne!(is_late_within(LOOKS / 2, read_one), Some(true));
    }

    #[test]
    fn what_is_read_of_procfs_is_there() {
        let process = openat(CWD, "/proc/self", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let status = text(&process, "status").unwrap();
        assert!(number(&status, "voluntary_ctxt_switches:").is_some(), "{status}");
        let memory = memory::create(&[(GuestAddress(0), 1 << 20)], MemoryOptions::default()).unwrap();
        let base = memory.get_host_address(GuestAddress(0)).unwrap() as u64;
        let pagemap = File::open("/proc/self/pagemap").unwrap();
        assert_eq!(present(&pagemap, &[(base, 1 << 20)]).unwrap(), 0);
        memory.write_obj(1_u64, GuestAddress(0)).unwrap();
        memory.write_obj(1_u64, GuestAddress(1 << 19)).unwrap();
        assert_eq!(present(&pagemap, &[(base, 1 << 20)]).unwrap(), 2);
    }
}
