//! Operations by io_uring(7): one ring per disk, of a fixed depth, whose completions make an event descriptor readable.
//!
//! A job stays in `slots` from its submission until its completion is taken, and so do the buffers and the file that the kernel works on.
#![expect(
    unsafe_code,
    reason = "entries of a submission queue name memory that the kernel uses until they complete"
)]

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use io_uring::register::Restriction;
use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, Probe, opcode, squeue};
use rustix::event::{EventfdFlags, PollFd, PollFlags};

use super::{Completion, Job};
use crate::virtio::block::operation::Operation;

/// How often an operation is tried again that the kernel says to (EAGAIN, EINTR).
const MAX_RETRIES: u8 = 16;

/// A ring and what is in it.
pub(in crate::virtio::block) struct Uring {
    ring: IoUring,
    event: OwnedFd,
    slots: Vec<Option<Slot>>,
    in_flight: usize,
}

#[derive(Debug)]
struct Slot {
    job: Job,
    retries: u8,
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring")
            .field("event", &self.event)
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

impl Uring {
    /// Makes a ring.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::Unsupported`] if it lacks an operation.
    pub(super) fn new(depth: u16) -> io::Result<Self> {
        // Disabled until it is restricted: what a filter of system calls can't see a ring do, the ring itself refuses (Linux 5.10).
        let ring = IoUring::builder().dontfork().setup_r_disabled().build(depth.into())?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [
            opcode::Readv::CODE,
            opcode::Writev::CODE,
            opcode::Fsync::CODE,
            opcode::Fallocate::CODE,
        ];
        // Completions must not get lost, and vectors be read at submission (Linux 5.5).
        let has_all = ring.params().is_feature_nodrop() && ring.params().is_feature_submit_stable();
        if !has_all || !needed.iter().all(|code| probe.is_supported(*code)) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        ring.submitter().register_eventfd(event.as_raw_fd())?;
        let mut allowed = needed.map(Restriction::sqe_op);
        ring.submitter().register_restrictions(&mut allowed)?;
        ring.submitter().register_enable_rings()?;
        let slots = std::iter::repeat_with(|| None).take(depth.into()).collect();
        Ok(Uring {
            ring,
            event,
            slots,
            in_flight: 0,
        })
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Puts a job in the queue; gives it back if that can't be.
    pub(super) fn submit(&mut self, job: Job) -> Option<Completion> {
        let tag = job.tag;
        match self.slots.get_mut(usize::from(tag)) {
            Some(slot @ None) => *slot = Some(Slot { job, retries: 0 }),
            _ => return Some(refused(job)),
        }
        self.in_flight = self.in_flight.saturating_add(1);
        if self.push(tag) {
            return None;
        }
        self.take(tag).map(refused)
    }

    /// Writes the queue's entry for the job in a slot.
    fn push(&mut self, tag: u16) -> bool {
        let Some(Some(slot)) = self.slots.get(usize::from(tag)) else {
            return false;
        };
        let Some(entry) = entry(&slot.job) else {
            return false;
        };
        // SAFETY: the entry's descriptor and vectors belong to the job in the slot, which stays there, unmoved as far as the vectors'
        // memory is concerned, until its completion is taken or `end` has seen all complete; its `GuestBuffers` keeps guest memory mapped.
        unsafe { self.ring.submission().push(&entry) }.is_ok()
    }

    /// Tells the kernel of new entries.
    ///
    /// # Errors
    /// What the system says. Busy is not an error: the entries stay, for the next call.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.ring.submission().is_empty() {
            return Ok(());
        }
        match self.ring.submit() {
            Ok(_) => {}
            Err(error) if is_busy(&error) => {}
            Err(error) => return Err(error),
        }
        if !self.ring.submission().is_empty() {
            // Whoever waits for the descriptor comes by again, even if nothing else completes.
            let _full = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
        Ok(())
    }

    /// Adds what has completed; what the kernel did only in part goes on.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn take_completed(&mut self, into: &mut Vec<Completion>) -> io::Result<()> {
        // First the event, then the queue: what comes between them is announced again.
        let mut count = [0_u8; 8];
        let _nothing = rustix::io::read(&self.event, &mut count);
        loop {
            let Some(completed) = self.ring.completion().next() else {
                break;
            };
            let Ok(tag) = u16::try_from(completed.user_data()) else {
                continue;
            };
            if let Some(completion) = self.finish(tag, completed.result()) {
                into.push(completion);
            }
        }
        self.flush()
    }

    fn finish(&mut self, tag: u16, result: i32) -> Option<Completion> {
        let slot = self.slots.get_mut(usize::from(tag))?.as_mut()?;
        let result = match progress(&mut slot.job, result) {
            Progress::Done => Ok(()),
            Progress::Rest => return self.again(tag),
            Progress::Again if slot.retries < MAX_RETRIES => {
                slot.retries = slot.retries.saturating_add(1);
                return self.again(tag);
            }
            Progress::Again => Err(io::ErrorKind::ResourceBusy.into()),
            Progress::Failed(error) => Err(error),
        };
        let Job {
            tag,
            file,
            mut operation,
        } = self.take(tag)?;
        let result = match (result, &operation) {
            // No call for it in this file system: zeros are written, which waits for the disk.
            (Err(error), Operation::Zero { .. }) if error.kind() == io::ErrorKind::Unsupported => operation.run(&file),
            (result, _) => result,
        };
        Some(Completion { tag, operation, result })
    }

    fn again(&mut self, tag: u16) -> Option<Completion> {
        if self.push(tag) {
            return None;
        }
        self.take(tag).map(refused)
    }

    fn take(&mut self, tag: u16) -> Option<Job> {
        let slot = self.slots.get_mut(usize::from(tag))?.take()?;
        self.in_flight = self.in_flight.saturating_sub(1);
        Some(slot.job)
    }

    /// Waits until nothing is in flight. What is in flight is bounded in number and bytes, and files always answer.
    pub(super) fn end(&mut self) {
        let mut dropped = Vec::new();
        while self.in_flight > 0 {
            if self.take_completed(&mut dropped).is_err() {
                break;
            }
            dropped.clear();
            if self.in_flight == 0 {
                break;
            }
            let mut waited = [PollFd::new(&self.event, PollFlags::IN)];
            // Interrupted: look again.
            let _interrupted = rustix::event::poll(&mut waited, None);
        }
        for slot in self.slots.iter_mut().filter_map(Option::take) {
            // The ring is broken, and nobody knows what the kernel still does: rather lose the memory than reuse it.
            std::mem::forget(slot);
        }
        self.in_flight = 0;
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.end();
    }
}

/// How far a job has come.
enum Progress {
    Done,
    Rest,
    Again,
    Failed(io::Error),
}

fn progress(job: &mut Job, result: i32) -> Progress {
    let Ok(bytes) = usize::try_from(result) else {
        let error = io::Error::from_raw_os_error(result.saturating_neg());
        return if is_busy(&error) {
            Progress::Again
        } else {
            Progress::Failed(error)
        };
    };
    match &mut job.operation {
        Operation::Read { buffers, offset } | Operation::Write { buffers, offset } => {
            if bytes == 0 && buffers.rest_bytes() > 0 {
                // The file has become shorter.
                return Progress::Failed(io::ErrorKind::UnexpectedEof.into());
            }
            buffers.advance(bytes);
            *offset = offset.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
            if buffers.rest_bytes() == 0 {
                Progress::Done
            } else {
                Progress::Rest
            }
        }
        Operation::Flush | Operation::Discard(_) | Operation::Zero { .. } => Progress::Done,
    }
}

/// The queue's entry for a job. None if it is more than an entry can say.
fn entry(job: &Job) -> Option<squeue::Entry> {
    let file = Fd(job.file.as_raw_fd());
    let entry = match &job.operation {
        Operation::Read { buffers, offset } => {
            let vectors = buffers.rest();
            opcode::Readv::new(file, vectors.as_ptr(), u32::try_from(vectors.len()).ok()?)
                .offset(*offset)
                .build()
        }
        Operation::Write { buffers, offset } => {
            let vectors = buffers.rest();
            opcode::Writev::new(file, vectors.as_ptr(), u32::try_from(vectors.len()).ok()?)
                .offset(*offset)
                .build()
        }
        Operation::Flush => opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build(),
        Operation::Discard(_) | Operation::Zero { .. } => {
            let (range, mode) = job.operation.allocation()?;
            opcode::Fallocate::new(file, range.bytes)
                .offset(range.offset)
                .mode(i32::try_from(mode.bits()).ok()?)
                .build()
        }
    };
    Some(entry.user_data(job.tag.into()))
}

fn is_busy(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY | libc::EINTR))
}

/// A job that never got into the ring.
fn refused(job: Job) -> Completion {
    Completion {
        tag: job.tag,
        operation: job.operation,
        result: Err(io::ErrorKind::ResourceBusy.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_does_what_disks_need_and_nothing_else() {
        let mut uring = match Uring::new(4) {
            Ok(uring) => uring,
            Err(error) => return println!("SKIPPED: no io_uring here: {error}"),
        };
        let path = c"/etc/passwd";
        let forbidden = [
            opcode::Nop::new().build().user_data(1),
            opcode::OpenAt::new(Fd(-100), path.as_ptr()).build().user_data(2),
            opcode::Socket::new(2, 1, 0).build().user_data(3),
        ];
        for entry in &forbidden {
            // SAFETY: the path is static, and the call waits for the completion.
            unsafe { uring.ring.submission().push(entry) }.unwrap();
            uring.ring.submit_and_wait(1).unwrap();
            let completed = uring.ring.completion().next().unwrap();
            // io_uring_register(2), IORING_REGISTER_RESTRICTIONS.
            assert_eq!(completed.result(), -13, "EACCES for {}", completed.user_data());
        }
        let file = tempfile::tempfile().unwrap();
        let fsync = opcode::Fsync::new(Fd(file.as_raw_fd())).build();
        // SAFETY: the file is open until the completion is there.
        unsafe { uring.ring.submission().push(&fsync) }.unwrap();
        uring.ring.submit_and_wait(1).unwrap();
        assert_eq!(uring.ring.completion().next().unwrap().result(), 0);
    }
}
