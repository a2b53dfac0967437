//! All running processes, by pid and by tag.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use ringwall_agent_proto::process::Selector;
use ringwall_agent_proto::{Code, RpcError};
use ringwall_sys::process::Ended;
use tokio::sync::oneshot;

use super::live::Process;

/// The processes that clients can name. One stays in it until its output is closed and it has ended.
#[derive(Debug, Default)]
pub(crate) struct Table {
    live: RefCell<BTreeMap<u32, Rc<Process>>>,
    waiting: RefCell<HashMap<i32, oneshot::Sender<Ended>>>,
}

impl Table {
    /// Adds a process that has just been started; the receiver says how it ended. No await may come between fork and this.
    pub(super) fn insert(&self, process: &Rc<Process>) -> oneshot::Receiver<Ended> {
        let (sender, receiver) = oneshot::channel();
        self.live.borrow_mut().insert(process.pid, process.clone());
        if let Ok(pid) = i32::try_from(process.pid) {
            self.waiting.borrow_mut().insert(pid, sender);
        }
        receiver
    }

    /// Takes a process out, unless another has its pid by now.
    pub(super) fn remove(&self, process: &Rc<Process>) {
        let mut live = self.live.borrow_mut();
        if live.get(&process.pid).is_some_and(|found| Rc::ptr_eq(found, process)) {
            live.remove(&process.pid);
        }
    }

    /// Notes that a child was reaped. Orphans that nobody waits for end here.
    pub(crate) fn ended(&self, pid: i32, how: Ended) {
        if let Some(waiting) = self.waiting.borrow_mut().remove(&pid) {
            // Nobody listens any more when the stream's deadline has ended everything.
            let _unheard = waiting.send(how);
        }
    }

    /// Finds the process a client means.
    pub(super) fn find(&self, selector: Option<&Selector>) -> Result<Rc<Process>, RpcError> {
        let live = self.live.borrow();
        match selector {
            Some(Selector { pid: Some(pid), .. }) => live
                .get(pid)
                .cloned()
                .ok_or_else(|| RpcError::new(Code::NotFound, format!("process with pid {pid} not found"))),
            Some(Selector { tag: Some(tag), .. }) => live
                .values()
                .find(|process| process.tag.as_ref() == Some(tag))
                .cloned()
                .ok_or_else(|| RpcError::new(Code::NotFound, format!("process with tag '{tag}' not found"))),
            _ => Err(RpcError::new(
                Code::InvalidArgument,
                "the request names no process: pid or tag is needed",
            )),
        }
    }

    /// All of them, by pid.
    pub(crate) fn all(&self) -> Vec<Rc<Process>> {
        self.live.borrow().values().cloned().collect()
    }
}
