//! Watches for clients that poll: events are kept, up to a bound, until they are fetched.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use ringwall_agent_proto::filesystem::FilesystemEvent;
use ringwall_agent_proto::{Code, RpcError};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::watch::Watch;

/// Events kept per watcher. When they are not fetched, reading stops and the kernel's own bounded queue takes over.
const MAX_EVENTS: usize = 2048;
/// Watchers at a time; a client that forgets to remove them must not use up the descriptors.
const MAX_WATCHERS: usize = 64;

/// All watchers.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    all: RefCell<BTreeMap<String, Watcher>>,
    last: Cell<u64>,
}

#[derive(Debug)]
struct Watcher {
    queue: Rc<Queue>,
    task: JoinHandle<()>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug, Default)]
struct Queue {
    events: RefCell<VecDeque<FilesystemEvent>>,
    fetched: Notify,
}

impl Watchers {
    /// Refuses one more when there are too many already.
    pub(super) fn check_room(&self) -> Result<(), RpcError> {
        if self.all.borrow().len() < MAX_WATCHERS {
            return Ok(());
        }
        Err(RpcError::new(
            Code::ResourceExhausted,
            format!("there are {MAX_WATCHERS} watchers already: remove one"),
        ))
    }

    /// Keeps a watch; returns its name.
    pub(super) fn add(&self, watch: Watch) -> String {
        let number = self.last.get().wrapping_add(1);
        self.last.set(number);
        let id = format!("watcher-{number}");
        let queue = Rc::new(Queue::default());
        let task = tokio::task::spawn_local(collect(watch, queue.clone()));
        self.all.borrow_mut().insert(id.clone(), Watcher { queue, task });
        id
    }

    /// Takes the events kept since the last time.
    pub(super) fn fetch(&self, id: &str) -> Result<Vec<FilesystemEvent>, RpcError> {
        let all = self.all.borrow();
        let watcher = all.get(id).ok_or_else(|| unknown(id))?;
        let events = watcher.queue.events.take();
        watcher.queue.fetched.notify_one();
        Ok(events.into())
    }

    /// Ends a watch.
    pub(super) fn remove(&self, id: &str) -> Result<(), RpcError> {
        let removed = self.all.borrow_mut().remove(id);
        removed.map(drop).ok_or_else(|| unknown(id))
    }
}

async fn collect(mut watch: Watch, queue: Rc<Queue>) {
    while let Ok(events) = watch.next().await {
        for event in events {
            while queue.events.borrow().len() >= MAX_EVENTS {
                queue.fetched.notified().await;
            }
            let mut kept = queue.events.borrow_mut();
            // A program that writes byte by byte tells nothing new with each.
            if kept.back() != Some(&event) {
                kept.push_back(event);
            }
        }
    }
}

fn unknown(id: &str) -> RpcError {
    RpcError::new(Code::NotFound, format!("watcher with id '{id}' not found"))
}
