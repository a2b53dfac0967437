//! A sandbox as the node holds it in memory: its record, its keeper, and the lock that makes its transitions one at a time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ringwall_sandbox::service::{Metrics, PauseMode, SandboxInfo, SandboxState, ServiceError};

use crate::keeper::Keeper;
use crate::record::{Phase, SandboxRecord};
use crate::store::{Store, Table};

/// One sandbox.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) id: String,
    record: Mutex<SandboxRecord>,
    /// Whether the record was removed; changed only with the record's lock held.
    is_gone: AtomicBool,
    keeper: Mutex<Option<Arc<Keeper>>>,
    /// Held for the length of a transition.
    pub(crate) transition: tokio::sync::Mutex<()>,
    /// Newest last.
    pub(crate) metrics: Mutex<std::collections::VecDeque<Metrics>>,
}

impl Live {
    pub(crate) fn new(record: SandboxRecord) -> Arc<Self> {
        Arc::new(Live {
            id: record.id.clone(),
            record: Mutex::new(record),
            is_gone: AtomicBool::new(false),
            keeper: Mutex::new(None),
            transition: tokio::sync::Mutex::new(()),
            metrics: Mutex::default(),
        })
    }

    pub(crate) fn record(&self) -> SandboxRecord {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at the record without copying it.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&SandboxRecord) -> T) -> T {
        look(&self.record.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the record: on disk first, then here.
    pub(crate) fn change(&self, store: &Store, change: impl FnOnce(&mut SandboxRecord)) -> Result<(), ServiceError> {
        let mut held = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_gone.load(Ordering::Acquire) {
            return Err(ServiceError::no_sandbox(&self.id));
        }
        let mut record = held.clone();
        change(&mut record);
        store
            .put(Table::Sandboxes, &self.id, &record)
            .map_err(ServiceError::internal("can't write the sandbox's record"))?;
        *held = record;
        Ok(())
    }

    /// Removes the record for good: nothing can write it again.
    pub(crate) fn forget(&self, store: &Store) -> Result<(), ServiceError> {
        let _held = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        store
            .remove(Table::Sandboxes, &self.id)
            .map_err(ServiceError::internal("can't remove the sandbox's record"))?;
        self.is_gone.store(true, Ordering::Release);
        Ok(())
    }

    pub(crate) fn phase(&self) -> Phase {
        self.look(|record| record.phase.clone())
    }

    pub(crate) fn keeper(&self) -> Option<Arc<Keeper>> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_keeper(&self, keeper: Option<Arc<Keeper>>) {
        *self.keeper.lock().unwrap_or_else(PoisonError::into_inner) = keeper;
    }

    /// What callers are told.
    pub(crate) fn info(&self, facts: &Facts) -> SandboxInfo {
        self.look(|record| {
            let pause_mode = match record.phase {
                Phase::Paused(mode) => Some(mode),
                Phase::Pausing => Some(PauseMode::Full),
                Phase::Freezing { was_running: false, .. } => Some(PauseMode::Filesystem),
                _ => None,
            };
            SandboxInfo {
                id: record.id.clone(),
                template_id: record.template_id.clone(),
                template_name: record.template_name.clone(),
                started_ms: record.started_ms,
                end_ms: record.end_ms,
                state: if pause_mode.is_some() {
                    SandboxState::Paused
                } else {
                    SandboxState::Running
                },
                pause_mode,
                on_timeout: record.on_timeout,
                auto_resume: record.auto_resume,
                metadata: record.metadata.clone(),
                token: record.token.clone(),
                traffic_token: record.traffic_token.clone(),
                network: record.network.clone(),
                cpu_count: record
                    .size
                    .cpu_count
                    .map_or(facts.cpu_count, |count| count.min(facts.cpu_count)),
                memory_mb: record
                    .size
                    .memory_mb
                    .map_or(facts.memory_mb, |mb| mb.min(facts.memory_mb)),
                disk_mb: facts.disk_mb,
                tier: ringwall_types::Tier::Namespace,
            }
        })
    }
}

/// What every sandbox may use, as told to callers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    pub(crate) cpu_count: u32,
    pub(crate) memory_mb: u64,
    pub(crate) disk_mb: u64,
}

impl Facts {
    /// The limits where there are some, else what the machine has.
    pub(crate) fn read(limits: &ringwall_policy::Limits, directory: &std::path::Path) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1));
        let info = rustix::system::sysinfo();
        let memory = info.totalram.saturating_mul(u64::from(info.mem_unit));
        let disk = rustix::fs::statvfs(directory).map_or(0, |found| found.f_blocks.saturating_mul(found.f_frsize));
        Facts {
            cpu_count: limits.cpus.map_or(cpus, |share| share.millis.div_ceil(1000)),
            memory_mb: limits.memory.map_or(memory, |size| size.0) >> 20,
            disk_mb: limits.disk.map_or(disk, |size| size.0) >> 20,
        }
    }
}
