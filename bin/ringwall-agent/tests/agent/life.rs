//! The agent itself: command line, signals, orphans, memory.

use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::sandbox::{Sandbox, is_alive, until};

#[test]
fn a_command_line_without_sense_is_refused() {
    let run = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_ringwall-agent"))
            .args(arguments)
            .output()
            .unwrap()
    };
    for arguments in [
        &["--nonsense"][..],
        &[],
        &["--listen-fd", "x"],
        &["--listen-fd", "0"],
        &["--listen-fd", "77"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stderr.starts_with(b"ringwall-agent: "), "{arguments:?}");
    }
}

#[tokio::test]
async fn told_to_stop_it_takes_all_with_it() {
    let mut sandbox = Sandbox::start();
    let mut events = sandbox.shell("sleep 1000").await;
    let pid = events.pid().await;
    let agent = Pid::from_raw(i32::try_from(sandbox.agent.id()).unwrap()).unwrap();
    kill_process(agent, Signal::TERM).unwrap();
    assert_eq!(sandbox.agent.wait().unwrap().code(), Some(0));
    until("the command is gone", async || !is_alive(pid)).await;
}

#[tokio::test]
async fn orphans_are_reaped() {
    let sandbox = Sandbox::start();
    sandbox
        .shell("for i in 1 2 3; do (sleep 0.2 >/dev/null 2>&1 &); done")
        .await
        .rest()
        .await;
    let id = sandbox.agent.id();
    let children = || std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    until("no child is left", async || children().trim().is_empty()).await;
}

#[tokio::test]
async fn an_idle_agent_is_small() {
    let sandbox = Sandbox::start();
    sandbox.call("GET", "/health", &[], "").await;
    for _ in 0..10 {
        sandbox.shell("echo hi; head -c 200000 /dev/zero").await.rest().await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let memory = sandbox.memory_kib("RssAnon");
    eprintln!("idle after ten commands: {memory} KiB anonymous");
    assert!(memory < 3 * 1024, "{memory} KiB");
}
