//! Signals: children that ended, and being told to stop.

use std::io;
use std::os::fd::AsFd as _;

use crate::descriptor;
use ringwall_sys::process::Waited;
use ringwall_sys::{signal, signal_sender};
use rustix::process::Signal;

use crate::agent::Agent;

/// Reaps children until told to stop.
pub(crate) async fn wait(agent: &Agent) -> io::Result<()> {
    let descriptor = descriptor::watch(signal::descriptor()?)?;
    let is_init = std::process::id() == 1;
    loop {
        let mut ready = descriptor.readable().await?;
        while let Some(sent) = signal_sender::next(ready.get_inner().as_fd()) {
            match Signal::from_named_raw(sent.signal) {
                // As PID 1, obey only the host: a program in the sandbox has the same user id and may signal us.
                Some(Signal::TERM | Signal::INT) if sent.from_outside || !is_init => return Ok(()),
                Some(Signal::CHILD) => reap(agent),
                _ => {}
            }
        }
        ready.clear_ready();
    }
}

/// Reaps all that have ended: signals coalesce, so one may stand for many.
fn reap(agent: &Agent) {
    while let Ok(Waited::Child(pid, ended, _)) = ringwall_sys::process::wait(None, false) {
        agent.processes.ended(pid, ended);
    }
}

/// Kills all that runs in the sandbox.
pub(crate) fn kill_everything(agent: &Agent) {
    if std::process::id() == 1 {
        // -1 is everyone in this pid namespace but PID 1. Whoever is gone already is no failure.
        let _gone = ringwall_sys::process::kill(-1, Signal::KILL.as_raw());
    }
    for process in agent.processes.all() {
        let _gone = process.signal_group(Signal::KILL.as_raw());
    }
}
