//! The agent itself: command line, signals, orphans, memory.

use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};

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
    // Started at once and kept: when the sandbox is full of processes no more could be had.
    assert_eq!(sandbox.memory_kib("Threads"), 3);
    eprintln!("idle after ten commands: {memory} KiB anonymous");
    assert!(memory < 3 * 1024, "{memory} KiB");
}

#[tokio::test]
async fn as_init_it_obeys_nobody_inside() {
    let unshare = ["unshare", "--pid", "--fork", "--kill-child=KILL"];
    if !Command::new(unshare[0])
        .args(&unshare[1..])
        .arg("true")
        .status()
        .is_ok_and(|status| status.success())
    {
        eprintln!("SKIPPED: no pid namespace can be made here");
        return;
    }
    let sandbox = Sandbox::start_by(&[
        unshare[0],
        unshare[1],
        unshare[2],
        unshare[3],
        env!("CARGO_BIN_EXE_ringwall-agent"),
    ]);
    let parent = sandbox.agent.id();
    let agent = || {
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
        children.trim().parse::<u64>().ok()
    };
    until("unshare has forked", async || agent().is_some()).await;
    let agent = agent().unwrap();
    let script =
        "for s in TERM INT HUP USR1 KILL STOP SEGV CHLD; do kill -$s 1; done; (sleep 0.1 &); echo parent $PPID";
    let told = sandbox.shell(script).await.rest().await;
    assert_eq!(told.stdout, b"parent 1\n");
    assert_eq!(
        sandbox.shell("echo still here").await.rest().await.stdout,
        b"still here\n"
    );
    let children = || std::fs::read_to_string(format!("/proc/{agent}/task/{agent}/children")).unwrap_or_default();
    until("the orphan is reaped", async || children().trim().is_empty()).await;
    let mut events = sandbox.shell("setsid sleep 1000").await;
    events.pid().await;
    kill_process(Pid::from_raw(i32::try_from(agent).unwrap()).unwrap(), Signal::TERM).unwrap();
    until("the host ends it", async || !is_alive(agent)).await;
}

/// Sets a limit of the agent alone.
fn limit(sandbox: &Sandbox, resource: Resource, value: u64) {
    let pid = Pid::from_raw(i32::try_from(sandbox.agent.id()).unwrap());
    let wanted = Rlimit {
        current: Some(value),
        maximum: getrlimit(resource).maximum,
    };
    prlimit(pid, resource, wanted).unwrap();
}

#[tokio::test]
async fn limits_are_told_as_what_they_are() {
    let sandbox = Sandbox::start();
    sandbox.call("GET", "/health", &[], "").await;
    limit(&sandbox, Resource::Fsize, 100_000);
    let octets = [("content-type", "application/octet-stream")];
    let full = sandbox
        .call("POST", "/files?path=big", &octets, vec![0; 1_000_000])
        .await;
    assert_eq!(full.status.as_u16(), 507, "{}", full.json());
    let Ok(open) = std::fs::read_dir(format!("/proc/{}/fd", sandbox.agent.id())) else {
        eprintln!("SKIPPED: only root can see how many descriptors the agent has open");
        return;
    };
    limit(&sandbox, Resource::Nofile, open.count() as u64 + 3);
    let told = sandbox.shell("true").await.rest().await;
    assert_eq!(told.error.unwrap()["code"], "resource_exhausted");
    limit(&sandbox, Resource::Nofile, 1000);
    assert_eq!(sandbox.shell("echo again").await.rest().await.stdout, b"again\n");
}

#[tokio::test]
async fn listeners_that_come_and_go_leave_nothing() {
    let sandbox = Sandbox::start();
    let mut events = sandbox.shell("sleep 1000").await;
    let pid = events.pid().await;
    let join = async || {
        let which = serde_json::json!({"process": {"pid": pid}});
        sandbox.open("process.Process/Connect", &[], which).await.pid().await
    };
    join().await;
    let before = sandbox.memory_kib("RssAnon");
    for _ in 0..1000 {
        assert_eq!(join().await, pid);
    }
    let grown = sandbox.memory_kib("RssAnon").saturating_sub(before);
    assert!(grown < 1024, "{grown} KiB");
}
