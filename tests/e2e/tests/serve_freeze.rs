//! Pausing by control group: programs that do all they can to go on, kills and crashes in the middle.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ringwall_e2e::serve::{Answered, Client, PATIENCE, Sandbox, Server, eventually, kill};
use ringwall_e2e::{User, users};
use serde_json::json;

/// How long a paused sandbox is watched: a hundred times the period of the programs' timers.
const WATCHED: Duration = Duration::from_secs(1);

/// Runs a check as root, where a v2 group can be had; then nothing may be left.
#[expect(clippy::print_stdout, reason = "what was skipped must be seen")]
fn as_root(flags: &[&str], check: impl Fn(&mut Server)) {
    if !users().contains(&User::Root) {
        println!("SKIPPED: only root has a control group without being given one");
        return;
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
    if !mounts.contains(" - cgroup2 ") {
        println!("SKIPPED: no control groups v2 are mounted here");
        return;
    }
    let mut server = Server::with(User::Root, &[&["--pool", "0"], flags].concat());
    check(&mut server);
    server.assert_sound();
    server.remove_all();
    server.crash_and_start();
    server.assert_nothing_left();
}

/// A tree of programs that count, by appending to a file: one woken every 10 ms by a SIGCONT of its own timer (which stop signals can't hold),
/// one that has its sibling continued, and a chain that forks and ends as fast as it can. Perl is on every Debian, and knows system calls by
/// number only.
fn be_hostile(client: &Client, sandbox: &Sandbox) {
    let (create, set) = if cfg!(target_arch = "x86_64") {
        (222, 223)
    } else {
        (107, 110)
    };
    // struct sigevent: value, SIGCONT, SIGEV_SIGNAL; struct itimerspec: every 10 ms (timer_create(2), timer_settime(2)).
    let script = format!(
        r#"
        sub tick {{ my $f; open($f, '>>', '/home/user/' . shift) and syswrite($f, 'x') }}
        my $timed = fork;
        if (!$timed) {{
            $SIG{{CONT}} = sub {{ tick('timed') }};
            my ($event, $id, $every) = (pack('q l l x48', 0, 18, 0), pack('q', 0), pack('q4', 0, 10000000, 0, 10000000));
            syscall({create}, 1, $event, $id) == 0 or die "timer_create: $!";
            syscall({set}, unpack('i', $id), 0, $every, 0) == 0 or die "timer_settime: $!";
            sleep 1 while 1;
        }}
        if (!fork) {{ while (1) {{ kill 'CONT', $timed, getppid; tick('other'); select(undef, undef, undef, 0.01) }} }}
        if (!fork) {{ while (1) {{ if (fork) {{ exit }} tick('chain'); select(undef, undef, undef, 0.002) }} }}
        sleep 1 while 1;
        "#
    );
    client
        .write(sandbox, "/home/user/hostile.pl", script.as_bytes())
        .json_of(200);
    client.shell(
        sandbox,
        "touch timed other chain; perl hostile.pl </dev/null >/home/user/said 2>&1 & true",
    );
}

/// What it has counted, read from the writable layer on the host: a paused sandbox answers nothing.
fn counted(server: &Server, sandbox: &Sandbox) -> [u64; 3] {
    let home = server
        .state()
        .join("sandboxes")
        .join(&sandbox.id)
        .join("upper/home/user");
    ["timed", "other", "chain"].map(|name| std::fs::metadata(home.join(name)).map_or(0, |found| found.len()))
}

#[track_caller]
fn counts_on(server: &Server, sandbox: &Sandbox) {
    let before = counted(server, sandbox);
    eventually("all count on", PATIENCE, || {
        let now = counted(server, sandbox);
        now.iter().zip(before).all(|(now, before)| *now > before)
    });
}

#[track_caller]
fn stands_still(server: &Server, sandbox: &Sandbox) {
    let before = counted(server, sandbox);
    std::thread::sleep(WATCHED);
    assert_eq!(counted(server, sandbox), before, "something ran");
    server.assert_still(&sandbox.id);
}

fn group_of(server: &Server, sandbox: &Sandbox) -> PathBuf {
    let mut groups = server.groups(&sandbox.id);
    groups.retain(|path| path.join("cgroup.freeze").exists());
    assert_eq!(groups.len(), 1, "{groups:?}");
    groups.remove(0)
}

fn paused(client: &Client, sandbox: &Sandbox) {
    assert_eq!(client.act(sandbox, "pause", &json!({})).status(), 204);
    assert_eq!(client.state(&sandbox.id), "paused full");
}

fn is_gone(path: &Path) {
    eventually("its group is gone", PATIENCE, || !path.exists());
}

#[test]
fn no_program_makes_progress_while_it_is_paused() {
    as_root(&[], |server| {
        let client = server.client();
        let sandbox = client.create(&json!({}));
        be_hostile(&client, &sandbox);
        for _ in 0..3 {
            counts_on(server, &sandbox);
            paused(&client, &sandbox);
            stands_still(server, &sandbox);
            assert_eq!(client.resume(&sandbox, &json!({"timeout": 600})).status(), 201);
        }
        counts_on(server, &sandbox);
        let path = format!("/v2/sandboxes/{}/logs?search=paused", sandbox.id);
        let log = client.get(&path).json_of(200);
        assert_eq!(log["logs"][0]["fields"]["frozenBy"], "control-group", "{log}");
    });
}

#[test]
fn a_frozen_sandbox_can_be_killed() {
    as_root(&[], |server| {
        let client = server.client();
        let sandbox = client.create(&json!({}));
        be_hostile(&client, &sandbox);
        counts_on(server, &sandbox);
        paused(&client, &sandbox);
        let group = group_of(server, &sandbox);
        server.note_processes();
        assert_eq!(client.kill(&sandbox).status(), 204);
        is_gone(&group);
        assert!(server.left_over().is_empty());
    });
}

#[test]
fn what_a_killed_keeper_of_a_frozen_sandbox_leaves_is_removed() {
    as_root(&[], |server| {
        for is_server_there in [true, false] {
            let client = server.client();
            let sandbox = client.create(&json!({}));
            be_hostile(&client, &sandbox);
            counts_on(server, &sandbox);
            paused(&client, &sandbox);
            let group = group_of(server, &sandbox);
            server.note_processes();
            let keeper = server.recorded(&sandbox.id, "keeper");
            if !is_server_there {
                server.crash();
            }
            kill(keeper);
            if !is_server_there {
                eventually("the kernel ends all of it", PATIENCE, || server.left_over().is_empty());
                assert!(group.exists(), "nobody was there to remove it");
                server.start();
            }
            is_gone(&group);
            assert!(server.left_over().is_empty());
            let client = server.client();
            eventually("its files are kept", PATIENCE, || {
                client.state(&sandbox.id) == "paused filesystem"
            });
            assert_eq!(client.resume(&sandbox, &json!({"timeout": 600})).status(), 201);
            assert_eq!(client.shell(&sandbox, "ls hostile.pl"), "hostile.pl\n");
            assert_eq!(client.kill(&sandbox).status(), 204);
        }
    });
}

#[test]
fn a_crash_in_the_middle_of_a_pause_leaves_it_paused_or_running() {
    as_root(&[], |server| {
        let sandbox = server.client().create(&json!({"timeout": 600}));
        be_hostile(&server.client(), &sandbox);
        let mut ended = [0, 0];
        for round in 0..12_u64 {
            counts_on(server, &sandbox);
            let client = server.client();
            std::thread::scope(|scope| {
                let sandbox = &sandbox;
                scope.spawn(move || client.act(sandbox, "pause", &json!({})).map(drop));
                std::thread::sleep(Duration::from_millis(round * 2));
                server.crash();
            });
            server.start();
            let client = server.client();
            if client.state(&sandbox.id) == "paused full" {
                ended[0] += 1;
                stands_still(server, &sandbox);
                assert_eq!(client.resume(&sandbox, &json!({"timeout": 600})).status(), 201);
            } else {
                ended[1] += 1;
                assert_eq!(client.state(&sandbox.id), "running");
            }
        }
        assert!(ended[0] > 0, "it was never paused: {ended:?}");
        counts_on(server, &sandbox);
    });
}

#[test]
fn limits_and_the_freezer_go_together() {
    as_root(&["--memory", "512M", "--cpus", "1.5"], |server| {
        let client = server.client();
        let sandbox = client.create(&json!({}));
        be_hostile(&client, &sandbox);
        counts_on(server, &sandbox);
        paused(&client, &sandbox);
        stands_still(server, &sandbox);
        assert_eq!(client.resume(&sandbox, &json!({"timeout": 600})).status(), 201);
        counts_on(server, &sandbox);
    });
}
