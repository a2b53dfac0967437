//! The disk as its transport sees it: takes chains, hands checked operations to the engine, and answers.
//!
//! ```text
//! pending: None --start--> operation in flight --(a write without flushes: flush in flight)--> answered: None
//! ```
//! What is popped is in flight or answered before a call returns, except that the rate limiter's next request is put back into the ring.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringwall_arch::GuestRam;
use rustix::event::EventfdFlags;
use thiserror::Error;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use vm_memory::{Bytes as _, GuestAddress};

use super::buffers::GuestBuffers;
use super::config::{self, ConfigFacts};
use super::disk::{CacheType, Disk, OpenDiskError};
use super::engine::{Completion, DEPTH, Engine, EngineChoice, Executor, Job};
use super::metrics::{BlockMetrics, add};
use super::operation::Operation;
use super::request::{Action, Limits, MAX_TRANSFER_BYTES, Request, Status, parse};
use super::state::BlockState;
use crate::rate_limiter::{BucketError, RateLimiter, RateLimiterError, RateLimiterSpec};
use crate::virtio::segments::copy_in;
use crate::virtio::{ActivateError, Chain, DeviceError, Fault, RestoreError, Session, Source, VirtioDevice};

/// Places of the queue, as in other monitors: enough for a driver to keep a fast disk busy.
const QUEUE_SIZE: u16 = 256;
/// Chains taken in one call, so that a guest which never stops asking does not keep the VMM's thread.
const BATCH: u16 = 2 * QUEUE_SIZE;
/// How long a snapshot waits for requests in flight; they are bounded in number and size.
const QUIESCE_TIMEOUT: Duration = Duration::from_secs(20);

const TOKEN_LIMITER: u32 = 0;
const TOKEN_KICK: u32 = 1;
const TOKEN_COMPLETED: u32 = 2;

/// How a disk is to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BlockOptions {
    /// The guest can't write it.
    pub is_read_only: bool,
    /// Whether the guest can flush.
    pub cache: CacheType,
    /// Goes without the host's page cache (`O_DIRECT`); the guest then sees blocks of 4,096 bytes.
    pub is_direct: bool,
    /// How operations are run.
    pub engine: EngineChoice,
    /// What passes per time.
    pub rate_limiter: RateLimiterSpec,
}

/// Why a disk can't be made.
#[derive(Debug, Error)]
pub enum MakeBlockError {
    /// The file can't be one.
    #[error(transparent)]
    Disk(#[from] OpenDiskError),
    /// The rate limiter can't be made.
    #[error(transparent)]
    RateLimiter(#[from] RateLimiterError),
    /// The engine can't be had.
    #[error("the disk's engine can't be had")]
    Engine(#[source] io::Error),
}

/// Why a disk's file can't be replaced. The old one stays.
#[derive(Debug, Error)]
pub enum ReplaceDiskError {
    /// The new file can't be one.
    #[error(transparent)]
    Disk(#[from] OpenDiskError),
    /// Requests in flight could not be finished.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Without the page cache the blocks' size is part of what the guest has seen.
    #[error("the new disk's blocks are of {new} bytes, the old one's of {old}")]
    BlockSize {
        /// What the guest knows.
        old: u32,
        /// Of the new file.
        new: u32,
    },
}

/// A disk.
#[derive(Debug)]
pub struct Block {
    name: String,
    options: BlockOptions,
    disk: Disk,
    executor: Executor,
    limiter: RateLimiter,
    /// Makes the event loop call again: after activation, a snapshot, or a full batch.
    kick: OwnedFd,
    /// The guest's memory, from activation to reset.
    memory: Option<Arc<GuestRam>>,
    pending: Vec<Option<Pending>>,
    free: Vec<u16>,
    in_flight_bytes: u64,
    /// Something was used that the guest has not been told of.
    has_used: bool,
    metrics: Arc<BlockMetrics>,
}

/// A request whose operation is in flight.
#[derive(Debug)]
struct Pending {
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
    /// Makes a disk out of an open file, which must not be used by anybody else.
    ///
    /// # Errors
    /// See [`MakeBlockError`].
    pub fn new(name: &str, file: File, options: BlockOptions) -> Result<Self, MakeBlockError> {
        let disk = Disk::open(file, options.is_read_only, options.is_direct)?;
        let executor = Executor::new(options.engine).map_err(MakeBlockError::Engine)?;
        let kick = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| MakeBlockError::Engine(error.into()))?;
        Ok(Block {
            name: format!("block {name}"),
            options,
            disk,
            executor,
            limiter: RateLimiter::new(options.rate_limiter)?,
            kick,
            memory: None,
            pending: std::iter::repeat_with(|| None).take(DEPTH.into()).collect(),
            free: (0..DEPTH).rev().collect(),
            in_flight_bytes: 0,
            has_used: false,
            metrics: Arc::default(),
        })
    }

    /// How its operations are run.
    #[must_use]
    pub fn engine(&self) -> Engine {
        self.executor.engine()
    }

    /// Its counters.
    #[must_use]
    pub fn metrics(&self) -> Arc<BlockMetrics> {
        Arc::clone(&self.metrics)
    }

    /// The capacity, in units of 512 bytes.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.disk.sectors
    }

    /// Puts another file behind the disk. What is in flight is finished on the old one; then the guest is told to look at the capacity.
    /// `session` is that of the active device, if it is active.
    ///
    /// # Errors
    /// See [`ReplaceDiskError`].
    pub fn replace_disk(&mut self, file: File, session: Option<&mut Session>) -> Result<(), ReplaceDiskError> {
        let new = Disk::open(file, self.options.is_read_only, self.options.is_direct)?;
        if new.block_bytes != self.disk.block_bytes {
            return Err(ReplaceDiskError::BlockSize {
                old: self.disk.block_bytes,
                new: new.block_bytes,
            });
        }
        match session {
            Some(session) if self.memory.is_some() => {
                self.drain(session)?;
                self.disk = new;
                session.signal_configuration();
            }
            _ => self.disk = new,
        }
        add(&self.metrics.replacements, 1);
        Ok(())
    }

    /// Changes the rate limiter; see [`RateLimiter::update`].
    ///
    /// # Errors
    /// See [`BucketError`].
    pub fn update_rate_limiter(&mut self, spec: RateLimiterSpec) -> Result<(), BucketError> {
        self.limiter.update(spec)
    }

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
    fn process(&mut self, session: &mut Session) -> Result<(), DeviceError> {
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
                self.buffers(memory, into)
                    .map(|buffers| Operation::Read { buffers, offset }),
            ),
            Action::Write { offset, from } => (
                Kind::Write,
                self.buffers(memory, from)
                    .map(|buffers| Operation::Write { buffers, offset }),
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

    /// The buffers of a transfer. None if the disk can't take them: too many parts, or not aligned without the page cache.
    fn buffers(&self, memory: &Arc<GuestRam>, segments: Vec<crate::virtio::Segment>) -> Option<GuestBuffers> {
        GuestBuffers::new(memory, segments)
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
    fn tell(&mut self, session: &mut Session) -> Result<(), DeviceError> {
        if std::mem::take(&mut self.has_used) {
            session.signal(0)?;
        }
        Ok(())
    }

    /// Answers what the engine has done.
    fn collect(&mut self, session: &mut Session) -> Result<(), DeviceError> {
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
    fn drain(&mut self, session: &mut Session) -> Result<(), DeviceError> {
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

    fn in_flight(&self) -> usize {
        usize::from(DEPTH).saturating_sub(self.free.len())
    }

    fn kick(&self) {
        // Full only if nobody has read it for 2^64 kicks.
        let _full = rustix::io::write(&self.kick, &1_u64.to_ne_bytes());
    }
}

impl VirtioDevice for Block {
    fn id(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        let mut features = 1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_BLK_SIZE;
        if self.options.cache == CacheType::Writeback {
            features |= 1 << VIRTIO_BLK_F_FLUSH;
        }
        if self.options.is_read_only {
            features |= 1 << VIRTIO_BLK_F_RO;
        } else {
            features |= 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES;
        }
        features
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let space = config::config_space(ConfigFacts {
            sectors: self.disk.sectors,
            // A header and a status besides (§5.2.5).
            seg_max: u32::from(QUEUE_SIZE).saturating_sub(2),
            block_bytes: self.disk.block_bytes,
            has_cache: self.options.cache == CacheType::Writeback,
        });
        config::read(&space, offset, data);
    }

    fn activate(&mut self, session: &mut Session) -> Result<(), ActivateError> {
        self.executor.begin().map_err(|source| ActivateError {
            what: "starting the disk's threads",
            source: Some(source),
        })?;
        self.memory = Some(Arc::new(session.memory.clone()));
        // After a restore there may be chains that nobody will notify of again.
        self.kick();
        Ok(())
    }

    fn reset(&mut self) {
        self.executor.end();
        self.memory = None;
        self.pending.fill_with(|| None);
        self.free = (0..DEPTH).rev().collect();
        self.in_flight_bytes = 0;
        self.has_used = false;
        self.limiter.reset();
    }

    fn sources(&self) -> Vec<Source<'_>> {
        let mut sources = vec![
            Source {
                descriptor: self.limiter.descriptor(),
                token: TOKEN_LIMITER,
            },
            Source {
                descriptor: self.kick.as_fd(),
                token: TOKEN_KICK,
            },
        ];
        if let Some(descriptor) = self.executor.descriptor() {
            sources.push(Source {
                descriptor,
                token: TOKEN_COMPLETED,
            });
        }
        sources
    }

    fn notified(&mut self, _queue: u16, session: &mut Session) -> Result<(), DeviceError> {
        self.process(session)
    }

    fn ready(&mut self, token: u32, session: &mut Session) -> Result<(), DeviceError> {
        match token {
            TOKEN_LIMITER => self.limiter.acknowledge(),
            TOKEN_KICK => {
                let mut count = [0_u8; 8];
                // Nothing to read: somebody was faster, and the queue is looked at all the same.
                let _nothing = rustix::io::read(&self.kick, &mut count);
            }
            TOKEN_COMPLETED => self.collect(session)?,
            _ => return Ok(()),
        }
        self.process(session)
    }

    fn quiesce(&mut self, session: &mut Session) -> Result<(), DeviceError> {
        self.drain(session)
    }

    fn save(&self) -> serde_json::Value {
        let state = BlockState {
            sectors: self.disk.sectors,
            block_bytes: self.disk.block_bytes,
            is_read_only: self.options.is_read_only,
            cache: self.options.cache,
            id: self.disk.id,
            limiter: self.limiter.save(),
        };
        // A plain structure of numbers always becomes a value.
        serde_json::to_value(state).unwrap_or_default()
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<(), RestoreError> {
        let state: BlockState = serde_json::from_value(state)?;
        let unfit = |what: String| Err(RestoreError::Unfit { what });
        if state.sectors != self.disk.sectors {
            return unfit(format!(
                "the disk had {} sectors and has {}",
                state.sectors, self.disk.sectors
            ));
        }
        if state.block_bytes != self.disk.block_bytes {
            return unfit(format!(
                "the disk's blocks had {} bytes and have {}",
                state.block_bytes, self.disk.block_bytes
            ));
        }
        if state.is_read_only != self.options.is_read_only {
            return unfit("one of the disks is read-only".to_owned());
        }
        if state.cache != self.options.cache {
            return unfit("the disks' cache types differ".to_owned());
        }
        self.limiter
            .restore(state.limiter)
            .map_err(|error| RestoreError::Unfit {
                what: error.to_string(),
            })?;
        self.disk.id = state.id;
        Ok(())
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // The engine ends by itself; this is for the order: before the file and the guest's memory are let go.
        self.executor.end();
    }
}

/// The only queue, and the memory it is in.
fn queue(session: &mut Session) -> Result<(&mut crate::virtio::VirtQueue, &GuestRam), DeviceError> {
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
