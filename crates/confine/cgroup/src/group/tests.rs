//! Groups on this machine where it lets us make them, and the checks that guard recovery.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use super::*;
use crate::{Controller, Host, Mechanism, Request};

const V2_MAGIC: u64 = CGROUP_MAGICS[1];

/// A plan on this machine, or `None` after saying why there is none.
fn native_plan(request: &Request, name: &str) -> Option<Plan> {
    let host = Host::read().expect("the machine's control groups");
    match Plan::for_limits(request, &name.parse().expect("name"), &host) {
        Ok(plan) => Some(plan),
        Err(why) => {
            eprintln!("SKIPPED: {why}");
            None
        }
    }
}

/// A group with a shell in it that waits for a line before it runs `script`. Cleans up also when a check fails.
struct Fixture {
    group: Group,
    shell: Child,
}

impl Fixture {
    fn new(request: &Request, name: &str, script: &str) -> Option<Fixture> {
        let plan = native_plan(request, name)?;
        let group = Group::create(&plan).expect("group");
        let shell = Command::new("/bin/sh")
            .args(["-c", &format!("read go; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("shell");
        group.add(i32::try_from(shell.id()).expect("pid")).expect("add");
        Some(Fixture { group, shell })
    }

    fn go(&mut self) {
        self.shell.stdin.as_mut().expect("stdin").write_all(b"\n").expect("go");
    }

    fn output(&mut self) -> String {
        let mut text = String::new();
        self.shell
            .stdout
            .as_mut()
            .expect("stdout")
            .read_to_string(&mut text)
            .expect("output");
        text
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        drop(self.group.kill_all());
        drop(self.shell.kill());
        drop(self.shell.wait());
        self.group.remove().expect("removed");
        assert!(self.group.paths().all(|path| !path.exists()));
    }
}

fn wait_until(mut is_so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if is_so() {
            return true;
        }
        thread::sleep(Duration::from_millis(10));
    }
    false
}

#[test]
fn a_memory_limit_kills_what_exceeds_it() {
    // tail keeps all of a line: it grows until the limit.
    let request = Request {
        memory: Some(16 << 20),
        ..Request::default()
    };
    let Some(mut fixture) = Fixture::new(
        &request,
        "test-memory",
        "head -c 200M /dev/zero | tail >/dev/null; true",
    ) else {
        return;
    };
    assert_eq!(fixture.group.events().oom_kills, 0);
    fixture.go();
    fixture.output();
    assert!(
        wait_until(|| fixture.group.events().oom_kills > 0),
        "{:?}",
        fixture.group.events()
    );
    let peak = fixture.group.usage().peak_memory;
    assert!(
        peak.is_none_or(|bytes| (8 << 20..=16 << 20).contains(&bytes)),
        "{peak:?}"
    );
}

#[test]
fn a_process_limit_refuses_forks() {
    let request = Request {
        pids: Some(5),
        ..Request::default()
    };
    let script = "for i in 1 2 3 4 5 6 7 8; do sleep 60 & done; wait";
    let Some(mut fixture) = Fixture::new(&request, "test-pids", script) else {
        return;
    };
    fixture.go();
    assert!(
        wait_until(|| fixture.group.events().pids_max_hits > 0),
        "{:?}",
        fixture.group.events()
    );
}

#[test]
fn a_cpu_limit_throttles() {
    let request = Request {
        cpus_millis: Some(50),
        ..Request::default()
    };
    let Some(mut fixture) = Fixture::new(&request, "test-cpu", "while :; do :; done") else {
        return;
    };
    fixture.go();
    let stat = fixture.group.dirs[0].path.join("cpu.stat");
    assert!(wait_until(
        || control_file::read_keyed(&stat, "nr_throttled").is_some_and(|count| count > 0)
    ));
}

#[test]
fn kill_all_empties_a_group_that_forks_all_the_time() {
    let request = Request {
        pids: Some(40),
        ..Request::default()
    };
    let Some(mut fixture) = Fixture::new(&request, "test-kill", "while :; do sleep 60 & done") else {
        return;
    };
    fixture.go();
    let procs = fixture.group.dirs[0].path.join("cgroup.procs");
    assert!(wait_until(
        || control_file::read_pids(&procs).is_ok_and(|pids| pids.len() > 20)
    ));
    fixture.group.kill_all().expect("killed");
    assert_eq!(control_file::read_pids(&procs).expect("list"), []);
}

/// The one part of v2 that also a hybrid machine has: a group without controllers, `cgroup.kill`, a descriptor for clone3.
#[test]
fn a_v2_group_is_killed_at_once() {
    let host = Host::read().expect("the machine's control groups");
    let place = host.v2().and_then(|v2| Some(v2.mount_point.join(v2.own.as_ref()?)));
    let Some(place) = place.filter(|place| (host.is_writable)(place)) else {
        eprintln!("SKIPPED: no writable v2 hierarchy");
        return;
    };
    let path = place.join(PARENT).join(format!("test-v2.{}", std::process::id()));
    let dir = PlannedDir {
        path: path.clone(),
        is_v2: true,
        controllers: Vec::new(),
        switch_on: Vec::new(),
        settings: Vec::new(),
        is_optional: false,
    };
    let group = Group::create(&Plan { dirs: vec![dir] }).expect("group");
    assert_eq!(
        Group::reopen(std::slice::from_ref(&path)).expect("ours"),
        group,
        "recognized as v2"
    );
    assert!(group.open_for_clone().is_some());
    let mut sleeper = Command::new("/bin/sleep").arg("60").spawn().expect("sleep");
    let pid = i32::try_from(sleeper.id()).expect("pid");
    assert_eq!(group.freezer_of(pid), None, "it is not in it");
    let added = group.add(pid);
    let freezer = group.freezer_of(pid).expect("a freezer");
    freezer.freeze().expect("frozen");
    freezer.freeze().expect("frozen still");
    assert!(freezer.is_frozen());
    freezer.thaw().expect("thawed");
    assert!(!freezer.is_frozen());
    // SIGKILL gets at what is frozen.
    freezer.freeze().expect("frozen");
    let killed = group.kill_all();
    drop(sleeper.kill());
    let status = sleeper.wait().expect("wait");
    group.remove().expect("removed");
    added.expect("added");
    killed.expect("killed");
    assert!(!status.success() && !path.exists());
}

#[test]
fn a_journalled_group_can_be_taken_up_again_and_removed() {
    let request = Request {
        pids: Some(9),
        ..Request::default()
    };
    let Some(fixture) = Fixture::new(&request, "test-reopen", "sleep 60") else {
        return;
    };
    let paths: Vec<_> = fixture.group.paths().map(Path::to_owned).collect();
    let reopened = Group::reopen(&paths).expect("ours");
    assert_eq!(reopened, fixture.group);
    assert!(
        matches!(reopened.remove(), Err(RemoveGroupError::InUse { .. })),
        "a process is in it"
    );
    reopened.kill_all().expect("killed");
    drop(fixture);
    assert_eq!(Group::reopen(&paths).expect("gone is fine").dirs, []);
}

#[test]
fn many_keepers_share_the_parent_without_tripping_over_each_other() {
    let request = Request {
        pids: Some(9),
        ..Request::default()
    };
    if native_plan(&request, "test-race").is_none() {
        return;
    }
    thread::scope(|scope| {
        for worker in 0..4 {
            scope.spawn(move || {
                for round in 0..50 {
                    let plan = native_plan(&request, &format!("test-race-{worker}-{round}")).expect("plan");
                    Group::create(&plan).expect("created").remove().expect("removed");
                }
            });
        }
    });
}

#[test]
fn a_limit_that_the_kernel_refuses_leaves_nothing() {
    let request = Request {
        pids: Some(9),
        ..Request::default()
    };
    let Some(mut plan) = native_plan(&request, "test-refused") else {
        return;
    };
    plan.dirs[0].settings[0].value = "rubbish".to_owned();
    let error = Group::create(&plan).expect_err("refused");
    assert!(error.to_string().starts_with("can't write \"rubbish\" to "), "{error}");
    assert!(plan.paths().all(|path| !path.exists()));
}

#[test]
fn all_limits_together_are_reported_with_their_mechanism() {
    let request = Request {
        memory: Some(64 << 20),
        cpus_millis: Some(1500),
        pids: Some(9),
        freezer: false,
    };
    let Some(plan) = native_plan(&request, "test-all") else {
        return;
    };
    let how: Vec<_> = plan.mechanisms().collect();
    assert_eq!(
        how.iter().map(|(controller, _)| *controller).collect::<Vec<_>>(),
        Controller::ALL
    );
    for (_, mechanism) in how {
        let (Mechanism::CgroupV1 { path } | Mechanism::CgroupV2 { path }) = mechanism;
        assert!(plan.paths().any(|planned| planned == path));
    }
    let group = Group::create(&plan).expect("group");
    assert!(group.paths().all(Path::is_dir));
    group.remove().expect("removed");
    group.remove().expect("twice is fine");
}

#[test]
fn reopening_refuses_everything_that_is_not_ours() {
    let temporary = tempfile::tempdir().expect("directory");
    let root = temporary.path();
    fs::create_dir_all(root.join("ringwall/box.1")).expect("directories");
    fs::create_dir_all(root.join("other/box.1")).expect("directories");
    fs::write(root.join("ringwall/file"), "").expect("file");
    std::os::unix::fs::symlink("../other", root.join("ringwall/link")).expect("link");
    let reopen = |path: &str| Group::reopen_if(&[root.join(path)], |_| Some(V2_MAGIC));
    assert_eq!(reopen("ringwall/box.1").expect("ours").dirs.len(), 1);
    assert_eq!(reopen("ringwall/gone").expect("gone").dirs.len(), 0);
    for bad in [
        "other/box.1",
        "ringwall",
        "ringwall/file",
        "ringwall/link",
        "ringwall/../other",
        "x/../ringwall/box.1",
    ] {
        assert!(reopen(bad).is_err(), "{bad} must be refused");
    }
    assert!(
        Group::reopen_if(&[PathBuf::from("ringwall/box.1")], |_| Some(V2_MAGIC)).is_err(),
        "relative"
    );
    assert!(
        Group::reopen(&[root.join("ringwall/box.1")]).is_err(),
        "not a control group file system"
    );
}

/// Writes v2 files into a plain directory, to check what is written where without a v2 machine.
#[test]
fn v2_values_go_to_the_right_files() {
    let temporary = tempfile::tempdir().expect("directory");
    let place = temporary.path();
    let parent = place.join(PARENT);
    let dir = parent.join("box.1");
    fs::create_dir_all(&dir).expect("directories");
    for file in [
        "cgroup.subtree_control",
        "ringwall/cgroup.subtree_control",
        "ringwall/box.1/cpu.max",
        "ringwall/box.1/memory.max",
    ] {
        fs::write(place.join(file), "").expect("file");
    }
    fs::write(dir.join("memory.events"), "low 0\noom 3\noom_kill 2\n").expect("file");
    fs::write(dir.join("pids.events"), "max 7\n").expect("file");
    fs::write(dir.join("memory.peak"), "4096\n").expect("file");
    fs::write(dir.join("cpu.stat"), "usage_usec 55\nuser_usec 5\n").expect("file");
    let setting = |file, value: &str, otherwise| crate::plan::Setting {
        file,
        value: value.to_owned(),
        otherwise,
    };
    let planned = PlannedDir {
        is_optional: false,
        path: dir.clone(),
        is_v2: true,
        controllers: vec![Controller::Memory, Controller::Cpu],
        switch_on: vec![Controller::Cpu],
        settings: vec![
            setting("memory.max", "4096", Otherwise::Fail),
            setting("memory.swap.max", "0", Otherwise::Skip),
            setting("missing", "0", Otherwise::Write("cpu.max", "150000 100000")),
        ],
    };
    prepare_parent(&parent, &planned).expect("switched on");
    apply(&planned).expect("set");
    let text = |path: &str| fs::read_to_string(place.join(path)).expect("file");
    assert_eq!(text("cgroup.subtree_control"), "+cpu");
    assert_eq!(text("ringwall/cgroup.subtree_control"), "+memory +cpu");
    assert_eq!(text("ringwall/box.1/memory.max"), "4096");
    assert_eq!(text("ringwall/box.1/cpu.max"), "150000 100000");
    let group = Group {
        dirs: vec![GroupDir {
            path: dir,
            is_v2: true,
            is_optional: false,
        }],
    };
    assert_eq!(
        group.events(),
        Events {
            oom_kills: 2,
            pids_max_hits: 7
        }
    );
    assert_eq!(
        group.usage(),
        Usage {
            peak_memory: Some(4096),
            cpu_usec: Some(55)
        }
    );
    assert!(group.open_for_clone().is_some());
    let missing = PlannedDir {
        settings: vec![setting("pids.max", "1", Otherwise::Fail)],
        ..planned
    };
    assert!(matches!(apply(&missing), Err(CreateGroupError::Set { .. })));
}
