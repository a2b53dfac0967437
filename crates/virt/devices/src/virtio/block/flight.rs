//! Requests on their way: taken out of the ring, handed to the engine, answered.
//!
//! ```text
//! pending: None --start--> operation in flight --(a write without flushes: flush in flight)--> answered: None
//! ```
//! What is popped is in flight or answered before a call returns, except that the rate limiter's next request is put back into the ring.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringwall_arch::GuestRam;
use virtio_bindings::virtio_blk::{VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_WRITE_ZEROES};
use vm_memory::{Bytes as _, GuestAddress};

use super::buffers::GuestBuffers;
use super::device::{Block, QUEUE_SIZE};
use super::disk::CacheType;
use super::engine::{Completion, DEPTH, Job};
use super::metrics::add;
use super::operation::Operation;
use super::request::{Action, Limits, MAX_TRANSFER_BYTES, Request, Status, parse};
use crate::virtio::segments::copy_in;
use crate::virtio::{Chain, DeviceError, Fault, Session, VirtQueue};

/// Chains taken in one call, so that a guest which never stops asking does not keep the VMM's thread.
const BATCH: u16 = 2 * QUEUE_SIZE;
/// How long a snapshot waits for requests in flight; they are bounded in number and size.
const QUIESCE_TIMEOUT: Duration = Duration::from_secs(20);

/// A request whose operation is in flight.
#[derive(Debug)]
pub(super) struct Pending {
    head: u16,
    status: GuestAddress,
    data_bytes: u64,
    transfer_bytes: u64,
    /// The guest can't flush, so what it writes is flushed before it is answered (§5.2.6.2).
    then_flush: bool,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Flush,
    Discard,
    Zero,
}

impl Block {
    fn limits(&self, session: &Session) -> Limits {
        Limits {
            disk_bytes: self.disk.bytes(),
            is_read_only: self.options.is_read_only,
            can_flush: session.has(VIRTIO_BLK_F_FLUSH),
            can_discard: session.has(VIRTIO_BLK_F_DISCARD),
            can_zero: session.has(VIRTIO_BLK_F_WRITE_ZEROES),
        }
    }

    /// Takes what is in the queue, as far as depth, batch and rate limiter let it.
    pub(super) fn process(&mut self, session: &mut Session) -> Result<(), DeviceError> {
        let Some(memory) = self.memory.clone() else {
            return Ok(());
        };
        let limits = self.limits(session);
        let mut left = BATCH;
        'queue: loop {
            queue(session)?.0.disable_notification(&memory)?;
            loop {
                // A completion looks at the queue again.
                if self.free.is_empty() || self.in_flight_bytes >= MAX_TRANSFER_BYTES {
                    break 'queue;
                }
                let Some(rest) = left.checked_sub(1) else {
                    self.kick();
                    break 'queue;
                };
                left = rest;
                let Some(chain) = queue(session)?.0.pop(&memory)? else {
                    break;
                };
                if !self.start(session, &memory, &limits, chain)? {
                    // The limiter's timer looks again.
                    queue(session)?.0.undo_pop();
                    break 'queue;
                }
            }
            if !queue(session)?.0.enable_notification(&memory)? {
                break;
            }
        }
        self.executor.flush().map_err(host("starting requests"))?;
        self.tell(session)
    }

    /// Begins a request, and ends it if that is possible at once. False if the rate limiter refuses.
    fn start(
        &mut self,
        session: &mut Session,
        memory: &Arc<GuestRam>,
        limits: &Limits,
        chain: Chain,
    ) -> Result<bool, DeviceError> {
        let Some(request) = parse(memory, chain, limits) else {
            return Err(fault("a request without a byte for its status"));
        };
        let transfer_bytes = request.transfer_bytes();
        if !self.limiter.take(transfer_bytes) {
            add(&self.metrics.throttled, 1);
            return Ok(false);
        }
        let Request {
            head,
            status,
            data_bytes,
            action,
        } = request;
        let mut pending = Pending {
            head,
            status,
            data_bytes,
            transfer_bytes,
            then_flush: self.options.cache == CacheType::Writeback && !limits.can_flush,
            kind: Kind::Flush,
        };
        let (kind, operation) = match action {
            Action::Read { offset, into } => (
                Kind::Read,
                GuestBuffers::new(memory, into).map(|buffers| Operation::Read { buffers, offset }),
            ),
            Action::Write { offset, from } => (
                Kind::Write,
                GuestBuffers::new(memory, from).map(|buffers| Operation::Write { buffers, offset }),
            ),
            Action::Flush => (Kind::Flush, Some(Operation::Flush)),
            Action::Discard(range) => (Kind::Discard, Some(Operation::Discard(range))),
            Action::Zero { range, unmap } => (Kind::Zero, Some(Operation::Zero { range, unmap })),
            Action::Identify { into } => {
                copy_in(memory, &into, &self.disk.id).map_err(|_| fault("an identifier's buffer is not in memory"))?;
                self.answer(session, &pending, Status::Ok, self.disk.id.len() as u64)?;
                return Ok(true);
            }
            Action::Nothing => {
                self.answer(session, &pending, Status::Ok, 0)?;
                return Ok(true);
            }
            Action::Refuse(status) => {
                add(&self.metrics.refused, 1);
                self.answer(session, &pending, status, 0)?;
                return Ok(true);
            }
        };
        pending.kind = kind;
        pending.then_flush &= matches!(kind, Kind::Write | Kind::Zero);
        let (Some(operation), Some(tag)) = (operation, self.free.pop()) else {
            add(&self.metrics.refused, 1);
            self.answer(session, &pending, Status::IoError, 0)?;
            return Ok(true);
        };
        self.in_flight_bytes = self.in_flight_bytes.saturating_add(transfer_bytes);
        if let Some(place) = self.pending.get_mut(usize::from(tag)) {
            *place = Some(pending);
        }
        self.submit(session, tag, operation)?;
        Ok(true)
    }

    fn submit(&mut self, session: &mut Session, tag: u16, operation: Operation) -> Result<(), DeviceError> {
        let job = Job {
            tag,
            file: Arc::clone(&self.disk.file),
            operation,
        };
        match self.executor.submit(job) {
            Some(completion) => self.finish(session, completion),
            None => Ok(()),
        }
    }

    /// An operation has ended: answers its request, or flushes first.
    fn finish(&mut self, session: &mut Session, completion: Completion) -> Result<(), DeviceError> {
        let Completion { tag, operation, result } = completion;
        let Some(place) = self.pending.get_mut(usize::from(tag)) else {
            return Ok(());
        };
        let Some(mut pending) = place.take() else {
            return Ok(());
        };
        if result.is_ok() && pending.then_flush {
            pending.then_flush = false;
            *place = Some(pending);
            return self.submit(session, tag, Operation::Flush);
        }
        self.free.push(tag);
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(pending.transfer_bytes);
        if let Operation::Read { buffers, .. } = &operation {
            // Also after a failure: a part may have come.
            buffers.mark_dirty();
        }
        let status = match result {
            Ok(()) => {
                self.count(&pending);
                Status::Ok
            }
            Err(error) => {
                add(&self.metrics.failed, 1);
                match error.kind() {
                    io::ErrorKind::Unsupported => Status::Unsupported,
                    _ => Status::IoError,
                }
            }
        };
        let is_read = pending.kind == Kind::Read && status == Status::Ok;
        let written = if is_read { pending.transfer_bytes } else { 0 };
        self.answer(session, &pending, status, written)
    }

    fn count(&self, pending: &Pending) {
        let metrics = &self.metrics;
        match pending.kind {
            Kind::Read => {
                add(&metrics.reads, 1);
                add(&metrics.read_bytes, pending.transfer_bytes);
            }
            Kind::Write => {
                add(&metrics.writes, 1);
                add(&metrics.written_bytes, pending.transfer_bytes);
            }
            Kind::Flush => add(&metrics.flushes, 1),
            Kind::Discard => add(&metrics.discards, 1),
            Kind::Zero => add(&metrics.zeroes, 1),
        }
    }

    /// Writes the status and gives the chain back. `data` bytes were written before; the used length says how many bytes from the
    /// beginning are good (§2.7.8.2), so the status counts only if there is no gap before it.
    fn answer(&mut self, session: &mut Session, to: &Pending, status: Status, data: u64) -> Result<(), DeviceError> {
        session
            .memory
            .write_obj(status.byte(), to.status)
            .map_err(|_| fault("a status byte is not in memory"))?;
        let written = if data == to.data_bytes {
            data.saturating_add(1)
        } else {
            data
        };
        let written = u32::try_from(written).unwrap_or(u32::MAX);
        let (ring, memory) = queue(session)?;
        ring.add_used(memory, to.head, written)?;
        self.has_used = true;
        Ok(())
    }

    /// Interrupts the guest if something was used.
    pub(super) fn tell(&mut self, session: &mut Session) -> Result<(), DeviceError> {
        if std::mem::take(&mut self.has_used) {
            session.signal(0)?;
        }
        Ok(())
    }

    /// Answers what the engine has done.
    pub(super) fn collect(&mut self, session: &mut Session) -> Result<(), DeviceError> {
        let mut completed = Vec::new();
        self.executor
            .take_completed(&mut completed)
            .map_err(host("taking completed requests"))?;
        for completion in completed {
            self.finish(session, completion)?;
        }
        self.executor.flush().map_err(host("starting requests"))
    }

    /// Finishes and answers what is in flight.
    pub(super) fn drain(&mut self, session: &mut Session) -> Result<(), DeviceError> {
        let until = Instant::now() + QUIESCE_TIMEOUT;
        while self.in_flight() > 0 {
            self.collect(session)?;
            if self.in_flight() > 0 {
                self.executor
                    .wait(until)
                    .map_err(host("waiting for requests in flight"))?;
            }
        }
        self.tell(session)?;
        // What the ring still holds is looked at when the event loop goes on.
        self.kick();
        Ok(())
    }

    pub(super) fn in_flight(&self) -> usize {
        usize::from(DEPTH).saturating_sub(self.free.len())
    }
}

/// The only queue, and the memory it is in.
fn queue(session: &mut Session) -> Result<(&mut VirtQueue, &GuestRam), DeviceError> {
    let Session { memory, queues, .. } = session;
    queues
        .first_mut()
        .map(|queue| (queue, &*memory))
        .ok_or_else(|| fault("there is no queue"))
}

fn fault(what: &'static str) -> DeviceError {
    DeviceError::Guest(Fault::Request { queue: 0, what })
}

fn host(what: &'static str) -> impl FnOnce(io::Error) -> DeviceError {
    move |source| DeviceError::Host { what, source }
}
