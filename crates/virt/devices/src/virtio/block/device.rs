//! The disk as its transport sees it. What happens to requests is in `flight.rs`.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use ringwall_arch::GuestRam;
use rustix::event::EventfdFlags;
use thiserror::Error;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use super::config::{self, ConfigFacts};
use super::disk::{CacheType, Disk, OpenDiskError};
use super::engine::{DEPTH, Engine, EngineChoice, Executor};
use super::flight::Pending;
use super::metrics::{BlockMetrics, add};
use super::state::BlockState;
use crate::rate_limiter::{BucketError, RateLimiter, RateLimiterError, RateLimiterSpec};
use crate::virtio::{ActivateError, DeviceError, RestoreError, Session, Source, VirtioDevice};

/// Places of the queue, as in other monitors: enough for a driver to keep a fast disk busy.
pub(super) const QUEUE_SIZE: u16 = 256;

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
    pub(super) options: BlockOptions,
    pub(super) disk: Disk,
    pub(super) executor: Executor,
    pub(super) limiter: RateLimiter,
    /// Makes the event loop call again: after activation, a snapshot, or a full batch.
    kick: OwnedFd,
    /// The guest's memory, from activation to reset.
    pub(super) memory: Option<Arc<GuestRam>>,
    pub(super) pending: Vec<Option<Pending>>,
    pub(super) free: Vec<u16>,
    pub(super) in_flight_bytes: u64,
    /// Something was used that the guest has not been told of.
    pub(super) has_used: bool,
    pub(super) metrics: Arc<BlockMetrics>,
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

    pub(super) fn kick(&self) {
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
