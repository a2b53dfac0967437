//! What a user sees of `ringwall run` and of the commands around it: exit codes, signals, the terminal, what is visible, what
//! becomes of writes, limits, the report, and the two tiers' behaviour at the command line.

#![expect(
    clippy::print_stdout,
    reason = "a skipped test must be seen, and stdout is where tests report"
)]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ringwall_e2e::{ORDINARY_UID, Outcome, User, World, users};
use serde_json::Value;

/// How long something may take that takes milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes a world whose binary can be started.
///
/// Another thread's fork may hold the copied binary open for writing until its exec, and then starting it fails with ETXTBSY. Once it
/// has started it always does: nobody opens it for writing again.
fn settled(user: User) -> World {
    let world = World::new(user);
    while let Err(error) = world.command(&["--version"]).output() {
        assert_eq!(error.kind(), std::io::ErrorKind::ExecutableFileBusy, "{error}");
        std::thread::sleep(Duration::from_millis(5));
    }
    world
}

/// Runs a check once per user, each in a world of its own.
fn each_user(check: impl Fn(&World)) {
    for user in users() {
        check(&settled(user));
    }
}

/// Returns the name that the note about kept changes gives.
fn kept_name(outcome: &Outcome) -> String {
    let (_, rest) = outcome.err.split_once(" kept as ").expect("a note about kept changes");
    rest.split_whitespace()
        .next()
        .expect("a name after the note")
        .to_owned()
}

/// Returns the report that a run wrote to standard error, after whatever else stands there.
fn report(outcome: &Outcome) -> Value {
    let start = outcome
        .err
        .find("{\n")
        .unwrap_or_else(|| panic!("no report: {outcome:?}"));
    serde_json::from_str(&outcome.err[start..]).unwrap_or_else(|error| panic!("{error}: {outcome:?}"))
}

/// Waits until a condition holds.
#[track_caller]
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Starts a command whose output is kept for [`ended`].
fn start(mut command: Command) -> Child {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts")
}

fn ended(child: Child) -> Outcome {
    Outcome::from(child.wait_with_output().expect("its output"))
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).expect("a process to signal");
}

// Exit codes.

#[test]
fn the_exit_code_is_the_programs() {
    each_user(|world| {
        world.shell(&[], "exit 0").expect(0);
        world.shell(&[], "exit 7").expect(7);
        world.shell(&[], "exit 255").expect(255);
        world.shell(&[], "kill -9 $$").expect(137);
        world.shell(&[], "kill -TERM $$").expect(143);
        world.shell(&[], "kill -SEGV $$").expect(139);
    });
}

#[test]
fn codes_of_its_own() {
    each_user(|world| {
        let start = Instant::now();
        let outcome = world.ringwall(&["run", "--timeout", "1s", "--", "sleep", "60"]);
        assert!(outcome.code == 124 && outcome.err.contains("time is up"), "{outcome:?}");
        assert!(start.elapsed() < Duration::from_secs(30));
        world.write("plain", "text\n");
        world.ringwall(&["run", "--", "./plain"]).expect(126);
        world.ringwall(&["run", "--", "/usr"]).expect(126);
        world.ringwall(&["run", "--", "no-such-program"]).expect(127);
        world.ringwall(&["run", "--", "./no-such-program"]).expect(127);
        world.ringwall(&["run", "--timeout", "soon", "--", "true"]).expect(2);
        world.ringwall(&["run"]).expect(2);
    });
}

#[test]
fn an_unknown_flag_is_a_usage_error_and_not_a_command() {
    each_user(|world| {
        world.ringwall(&["run", "--no-such-flag"]).expect(2);
        world.ringwall(&["run", "--no-such-flag", "--", "true"]).expect(2);
        world.ringwall(&["run", "--no-such-flag", "true"]).expect(2);
        // A misspelt protection must not be run past.
        world.ringwall(&["run", "--denny", "/x", "--", "true"]).expect(2);
        // What follows the command or `--` is the program's.
        let out = world.ringwall(&["run", "echo", "--no-such-flag", "-m"]).expect(0);
        assert_eq!(out, "--no-such-flag -m\n");
        let out = world.ringwall(&["run", "--", "echo", "--", "-x"]).expect(0);
        assert_eq!(out, "-- -x\n");
    });
}

// Streams, signals, terminal.

#[test]
fn standard_streams_pass_through() {
    each_user(|world| {
        let mut command = world.command(&["run", "--", "sh", "-c", "cat; echo problem >&2"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let sent = "line\n".repeat(100_000);
        let mut input = child.stdin.take().unwrap();
        let writer = std::thread::spawn({
            let sent = sent.clone();
            move || input.write_all(sent.as_bytes()).unwrap()
        });
        let outcome = ended(child);
        writer.join().unwrap();
        assert!(outcome.out == sent, "{} bytes came back", outcome.out.len());
        assert_eq!(outcome.err, "problem\n");
        assert_eq!(outcome.code, 0);
    });
}

/// Whether this process ignores a signal (proc_pid_status(5), SigIgn); its children then do too.
fn is_ignored_here(signal: rustix::process::Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("proc");
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .expect("a mask");
    let mask = u64::from_str_radix(mask.trim(), 16).expect("hexadecimal");
    mask >> (signal.as_raw() - 1) & 1 == 1
}

#[test]
fn signals_are_forwarded() {
    use rustix::process::Signal;
    each_user(|world| {
        for (sent, name) in [
            (Signal::TERM, "TERM"),
            (Signal::INT, "INT"),
            (Signal::HUP, "HUP"),
            (Signal::USR1, "USR1"),
        ] {
            if is_ignored_here(sent) {
                println!(
                    "SKIPPED: SIG{name} is ignored by whoever started the tests (nohup?), and that is inherited as it should be"
                );
                continue;
            }
            // A direct write is how a program behind the sandbox says that it is ready.
            let ready = world.path("project/ready");
            fs::create_dir_all(&ready).unwrap();
            world.hand_over(&ready);
            let script = format!(
                "trap 'echo got {name}; rm ready/now; exit 9' {name}; echo > ready/now; while :; do sleep 0.05; done"
            );
            let ready_text = ready.to_string_lossy().into_owned();
            let child = start(world.command(&[
                "run",
                "--timeout=60s",
                "--write",
                &ready_text,
                "--",
                "sh",
                "-c",
                &script,
            ]));
            eventually("the program's start", || ready.join("now").exists());
            signal(&child, sent);
            let outcome = ended(child);
            assert_eq!(
                (outcome.code, &*outcome.out),
                (9, &*format!("got {name}\n")),
                "{outcome:?}"
            );
        }
    });
}

#[test]
fn an_unhandled_signal_ends_the_program_and_shows_in_the_code() {
    each_user(|world| {
        let ready = world.path("project/ready");
        fs::create_dir(&ready).unwrap();
        world.hand_over(&ready);
        let ready_text = ready.to_string_lossy().into_owned();
        let child = start(world.command(&[
            "run",
            "--write",
            &ready_text,
            "--",
            "sh",
            "-c",
            "echo > ready/now; exec sleep 60",
        ]));
        eventually("the program's start", || ready.join("now").exists());
        signal(&child, rustix::process::Signal::TERM);
        assert_eq!(ended(child).code, 143);
    });
}

/// Runs a shell line on a terminal of 33 rows and 101 columns, made by script(1).
fn on_a_terminal(world: &World, line: &str) -> Option<Outcome> {
    if !Path::new("/usr/bin/script").exists() {
        println!("SKIPPED: terminals: script(1) is not installed");
        return None;
    }
    let mut command = world.program("/usr/bin/script");
    command.args(["-qec", &format!("stty rows 33 cols 101; {line}"), "/dev/null"]);
    command
        .env("RW", world.path("bin/ringwall"))
        .env("TERM", "xterm")
        .env("SHELL", "/bin/sh");
    Some(Outcome::from(
        command.stdin(Stdio::null()).output().expect("script(1) starts"),
    ))
}

#[test]
fn a_terminal_of_its_own() {
    each_user(|world| {
        let line = "$RW run --timeout=60s -t -- sh -c 'tty; stty size; test -t 0 && test -t 1 && test -t 2 && echo terminal; \
                    ps -o tty= -p $$; exit 5'";
        let Some(outcome) = on_a_terminal(world, line) else {
            return;
        };
        assert!(
            outcome.out.contains("/dev/pts/0\r\n33 101\r\nterminal\r\n"),
            "{outcome:?}"
        );
        assert!(outcome.out.contains("pts/0"), "no controlling terminal: {outcome:?}");
        assert_eq!(outcome.code, 5, "{outcome:?}");
    });
}

#[test]
fn an_interactive_shell_has_job_control() {
    each_user(|world| {
        let line = "(sleep 1; echo 'sleep 50 & jobs; kill %1; fg; echo \"sum $((40 + 2))\"; exit 6') | \
                    $RW run --timeout=60s -t -- bash --norc -i";
        let Some(outcome) = on_a_terminal(world, line) else {
            return;
        };
        assert!(outcome.out.contains("sum 42\r"), "{outcome:?}");
        assert!(!outcome.out.contains("no job control"), "{outcome:?}");
        assert_eq!(outcome.code, 6, "{outcome:?}");
    });
}

// What is visible.

#[test]
fn the_environment_is_clean() {
    each_user(|world| {
        let mut command = world.command(&["run", "-e", "ADDED=a b=c", "-e", "PASSED", "--", "env", "-0"]);
        command
            .env("SECRET_TOKEN", "s")
            .env("PASSED", "p")
            .env("LD_PRELOAD_X", "x")
            .env("TERM", "xterm");
        let out = Outcome::from(command.output().unwrap()).expect(0);
        let mut names: Vec<&str> = out.split_terminator('\0').collect();
        assert!(
            names.contains(&"ADDED=a b=c") && names.contains(&"PASSED=p"),
            "{names:?}"
        );
        names.retain(|entry| {
            !["PATH=", "HOME=", "LANG=", "TERM=", "ADDED=", "PASSED="]
                .iter()
                .any(|known| entry.starts_with(known))
        });
        assert_eq!(names, [""; 0], "not asked for");
        world.ringwall(&["run", "-e", "ABSENT", "--", "true"]).expect(2);
    });
}

#[test]
fn homes_and_other_files_are_invisible() {
    each_user(|world| {
        let secret = world.path("home/.ssh");
        fs::create_dir(&secret).unwrap();
        fs::write(secret.join("id"), "secret").unwrap();
        world.hand_over(&secret);
        world.hand_over(&secret.join("id"));
        let beside = world.path("beside");
        fs::write(&beside, "beside").unwrap();
        let script = format!(
            "cat $HOME/.ssh/id; ls -A $HOME /home /srv /mnt /media /boot; ls {}; cat {}; cat /etc/shadow; ls /tmp",
            world.path("").display(),
            beside.display()
        );
        let out = world.shell(&[], &script).out;
        assert!(
            !out.contains("secret") && !out.contains("beside") && !out.contains("root:"),
            "{out}"
        );
        assert!(!out.contains("state"), "the state directory shows: {out}");
        let out = world
            .shell(&[], "id -u; ps ax | grep -c .; cat /proc/net/dev | grep -c :")
            .out;
        let own = match world.user() {
            User::Root => "0\n".to_owned(),
            User::Ordinary => format!("{}\n", ordinary_uid()),
        };
        assert!(out.starts_with(&own), "{out}");
        assert!(out.ends_with("\n1\n"), "more than the loopback device: {out}");
    });
}

fn ordinary_uid() -> u32 {
    match rustix::process::geteuid() {
        uid if uid.is_root() => ORDINARY_UID,
        uid => uid.as_raw(),
    }
}

#[test]
fn the_home_directory_as_current_directory_is_not_shown() {
    each_user(|world| {
        fs::write(world.path("home/secret"), "secret").unwrap();
        let mut command = world.command(&["run", "--", "sh", "-c", "pwd; cat secret; echo x > file; ls -A"]);
        let outcome = Outcome::from(command.current_dir(world.path("home")).output().unwrap());
        assert!(!outcome.out.contains("secret"), "{outcome:?}");
        assert!(outcome.err.contains("it is your home directory"), "{outcome:?}");
        assert!(!world.path("home/file").exists());
    });
}

#[test]
fn files_shown_hidden_and_moved() {
    each_user(|world| {
        for (directory, file) in [("shown", "r"), ("direct", "w"), ("project/hidden", "h"), ("moved", "m")] {
            let path = world.path(directory);
            fs::create_dir(&path).unwrap();
            fs::write(path.join(file), format!("{file}\n")).unwrap();
            world.hand_over(&path);
            world.hand_over(&path.join(file));
        }
        let text = |relative: &str| world.path(relative).to_string_lossy().into_owned();
        let (shown, direct, hidden, moved) = (text("shown"), text("direct"), text("project/hidden"), text("moved"));
        let out = world
            .shell(
                &["--read", &shown],
                &format!("cat {shown}/r; (echo x > {shown}/x) 2> /dev/null || echo refused"),
            )
            .expect(0);
        assert_eq!(out, "r\nrefused\n");
        world
            .shell(
                &["--write", &direct],
                &format!("cat {direct}/w; echo new > {direct}/new; rm {direct}/w"),
            )
            .expect(0);
        assert_eq!(fs::read_to_string(world.path("direct/new")).unwrap(), "new\n");
        assert!(!world.path("direct/w").exists());
        let out = world
            .shell(&["--deny", &hidden], "cat hidden/h 2>/dev/null || echo hidden")
            .expect(0);
        assert_eq!(out, "hidden\n");
        let out = world
            .shell(
                &["--mount", &format!("{moved}:/data:ro")],
                "cat /data/m; (echo x > /data/x) 2> /dev/null || echo refused",
            )
            .expect(0);
        assert_eq!(out, "m\nrefused\n");
        world
            .shell(&["--mount", &format!("{moved}:/data")], "echo more >> /data/m")
            .expect(0);
        assert_eq!(fs::read_to_string(world.path("moved/m")).unwrap(), "m\nmore\n");
        let out = world.ringwall(&["run", "-w", "/usr/bin", "--", "pwd"]).expect(0);
        assert_eq!(out, "/usr/bin\n");
        let nowhere = world.ringwall(&["run", "-w", "/no/such", "--", "pwd"]);
        assert!(nowhere.code == 125 && nowhere.err.contains("/no/such"), "{nowhere:?}");
        use std::os::unix::fs::MetadataExt;
        let owner = world.path("direct/new").metadata().unwrap().uid();
        assert_eq!(
            owner,
            if world.user() == User::Root { 0 } else { ordinary_uid() },
            "a direct write's owner"
        );
    });
}

#[test]
fn another_root_file_system() {
    if !Path::new("/usr/bin/busybox").exists() {
        println!("SKIPPED: --rootfs: busybox is not installed");
        return;
    }
    if linked_dynamically() {
        println!("SKIPPED: --rootfs: this machine's busybox is not static");
        return;
    }
    each_user(|world| {
        let root = world.path("root");
        for directory in ["", "bin", "etc", "tmp", "dev", "proc", "sys"] {
            fs::create_dir_all(root.join(directory)).unwrap();
            world.hand_over(&root.join(directory));
        }
        fs::copy("/usr/bin/busybox", root.join("bin/busybox")).unwrap();
        for applet in ["sh", "cat", "ls", "rm"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        fs::write(root.join("etc/mine"), "mine\n").unwrap();
        world.hand_over(&root.join("etc/mine"));
        let root_text = root.to_string_lossy().into_owned();
        let flags = ["--rootfs", &root_text, "--name", "image"];
        let outcome = world.shell(
            &flags,
            "cat /etc/mine; ls /usr 2>&1; echo changed > /etc/mine; echo new > /new; rm /bin/rm",
        );
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert!(
            outcome.out.starts_with("mine\n") && !outcome.out.contains("lib"),
            "{outcome:?}"
        );
        assert_eq!(
            fs::read_to_string(root.join("etc/mine")).unwrap(),
            "mine\n",
            "not captured"
        );
        let diff = world.ringwall(&["diff", "image"]).expect(0);
        assert_eq!(diff, "D bin/rm\nM etc/mine\nA new\n");
        world.ringwall(&["commit", "image"]).expect(0);
        assert_eq!(fs::read_to_string(root.join("etc/mine")).unwrap(), "changed\n");
        assert!(root.join("new").exists() && root.join("bin/rm").symlink_metadata().is_err());
    });
}

/// Returns whether this machine's busybox needs a loader, which a root of its own would lack.
fn linked_dynamically() -> bool {
    let bytes = fs::read("/usr/bin/busybox").expect("a readable busybox");
    bytes.windows(10).any(|window| window == b"/ld-linux-")
}

// What becomes of writes.

#[test]
fn writes_are_captured_and_the_note_names_them() {
    each_user(|world| {
        world.write("old", "old\n");
        world.write("gone", "gone\n");
        let outcome = world.shell(&[], "echo new > new; echo more >> old; rm gone; cat new old; ls");
        assert_eq!(outcome.out, "new\nold\nmore\nnew\nold\n");
        assert_eq!(outcome.err.lines().count(), 1, "{outcome:?}");
        assert!(outcome.err.contains("(1 added, 1 modified, 1 deleted)"), "{outcome:?}");
        assert_eq!(world.read("new"), None);
        assert_eq!(world.read("old").as_deref(), Some("old\n"));
        assert_eq!(world.read("gone").as_deref(), Some("gone\n"));
        let name = kept_name(&outcome);
        assert_eq!(world.ringwall(&["diff", &name]).expect(0), "D gone\nA new\nM old\n");
        let stat = world.ringwall(&["diff", "--stat", &name]).expect(0);
        assert!(stat.contains("3 files changed, 2 insertions(+), 1 deletion"), "{stat}");
        let patch = world.ringwall(&["diff", "--patch", &name]).expect(0);
        assert!(
            patch.contains("--- a/old\n+++ b/old\n@@ -1 +1,2 @@\n old\n+more\n"),
            "{patch}"
        );
        world.ringwall(&["commit", &name]).expect(0);
        assert_eq!(world.read("new").as_deref(), Some("new\n"));
        assert_eq!(world.read("old").as_deref(), Some("old\nmore\n"));
        assert_eq!(world.read("gone"), None);
        let again = world.ringwall(&["commit", &name]);
        assert_ne!(again.code, 0, "committed twice: {again:?}");
    });
}

#[test]
fn a_run_that_changes_nothing_says_and_keeps_nothing() {
    each_user(|world| {
        let outcome = world.shell(&[], "echo quiet");
        assert_eq!((&*outcome.out, &*outcome.err), ("quiet\n", ""));
        assert_eq!(world.ringwall(&["ps", "-a", "--json"]).expect(0).trim(), "[]");
        let outcome = world.shell(&["-q"], "echo x > f");
        assert_eq!(outcome.err, "", "--quiet");
    });
}

#[test]
fn the_patch_is_one_that_patch_and_git_apply() {
    each_user(|world| {
        world.write("old", "1\n2\n3\n");
        world.write("tail", "no newline");
        world
            .shell(&["--name", "p"], "echo 4 >> old; rm tail; mkdir d; echo n > d/n")
            .expect(0);
        let patch = world.ringwall(&["diff", "--patch", "p"]).expect(0);
        world.write("../p.patch", &patch);
        let mut git = world.program("git");
        Outcome::from(git.args(["apply", "../p.patch"]).output().unwrap()).expect(0);
        assert_eq!(world.read("old").as_deref(), Some("1\n2\n3\n4\n"));
        assert_eq!(world.read("d/n").as_deref(), Some("n\n"));
        assert_eq!(world.read("tail"), None);
    });
}

#[test]
fn changes_commit_only_when_the_program_succeeds() {
    each_user(|world| {
        world.shell(&["--changes", "commit"], "echo x > good").expect(0);
        assert_eq!(world.read("good").as_deref(), Some("x\n"));
        let outcome = world.shell(&["--changes", "commit"], "echo x > bad; exit 3");
        assert_eq!((outcome.code, world.read("bad")), (3, None), "{outcome:?}");
        assert_eq!(world.ringwall(&["diff", &kept_name(&outcome)]).expect(0), "A bad\n");
    });
}

#[test]
fn changes_discard_and_none() {
    each_user(|world| {
        let out = world.shell(&["--changes", "discard"], "echo x > f; cat f").expect(0);
        assert_eq!((&*out, world.read("f")), ("x\n", None));
        assert_eq!(world.ringwall(&["ps", "-a", "--json"]).expect(0).trim(), "[]");
        let outcome = world.shell(&["--changes", "none"], "echo x > f || exit 4; cat f");
        assert_eq!((outcome.code, world.read("f")), (4, None), "{outcome:?}");
        assert!(outcome.err.contains("Read-only file system"), "{outcome:?}");
    });
}

#[test]
fn several_runs_continue_under_one_name() {
    each_user(|world| {
        world.shell(&["--name", "step"], "echo 1 > log; mkdir d").expect(0);
        world
            .shell(&["--name", "step"], "echo 2 >> log; echo x > d/x")
            .expect(0);
        let out = world
            .shell(&["--name", "step"], "echo 3 >> log; mv d e; cat log")
            .expect(0);
        assert_eq!((&*out, world.read("log")), ("1\n2\n3\n", None));
        assert_eq!(world.ringwall(&["diff", "step"]).expect(0), "A e/\nA e/x\nA log\n");
        world.ringwall(&["commit", "step"]).expect(0);
        assert_eq!(world.read("log").as_deref(), Some("1\n2\n3\n"));
        assert_eq!(world.read("e/x").as_deref(), Some("x\n"));
        assert!(!world.path("project/d").exists());
    });
}

#[test]
fn a_commit_over_a_changed_target_is_refused() {
    each_user(|world| {
        world.write("f", "before\n");
        world
            .shell(&["--name", "c"], "echo sandbox > f; echo other > other")
            .expect(0);
        world.write("f", "changed meanwhile\n");
        let outcome = world.ringwall(&["commit", "c"]);
        assert!(outcome.code != 0 && outcome.err.contains("changed"), "{outcome:?}");
        assert_eq!(world.read("f").as_deref(), Some("changed meanwhile\n"));
        assert_eq!(world.read("other"), None, "half applied");
        world.ringwall(&["commit", "--force", "c"]).expect(0);
        assert_eq!(world.read("f").as_deref(), Some("sandbox\n"));
        assert_eq!(world.read("other").as_deref(), Some("other\n"));
    });
}

#[test]
fn discard_forgets() {
    each_user(|world| {
        world
            .shell(&["--name", "d"], "mkdir -p a/b; echo x > a/b/f; chmod 0 a/b")
            .expect(0);
        world.ringwall(&["discard", "d"]).expect(0);
        world.ringwall(&["diff", "d"]).expect(2);
        world.ringwall(&["discard", "d"]).expect(2);
        assert!(!world.path("project/a").exists());
        assert!(
            fs::read_dir(world.path("state"))
                .unwrap()
                .all(|entry| entry.unwrap().file_name() != "d")
        );
    });
}

// Limits.

#[test]
fn limits_hold() {
    each_user(|world| {
        let outcome = world.shell(&["--pids", "8"], "for n in $(seq 40); do sleep 2 & done; wait");
        assert!(outcome.code != 0 && outcome.err.contains("fork"), "pids: {outcome:?}");
        let out = world.shell(&["--files", "20"], "ulimit -n; ulimit -Hn").expect(0);
        assert_eq!(out, "20\n20\n");
        let outcome = world.shell(
            &["--disk", "4M", "--timeout=60s", "--report", "-"],
            "for n in $(seq 40); do head -c 1M /dev/zero > f$n; done; sleep 50; echo survived",
        );
        assert!(
            outcome.code == 137 && !outcome.out.contains("survived"),
            "disk: {outcome:?}"
        );
        assert_eq!(report(&outcome)["exit"]["reason"], "disk");
    });
}

/// Python that takes 512 MiB.
const HOG: [&str; 4] = [
    "--",
    "/usr/bin/python3",
    "-c",
    "x = bytearray(512 << 20); print('survived')",
];

#[test]
fn root_has_a_memory_limit_for_all_processes() {
    if !users().contains(&User::Root) {
        return;
    }
    let world = settled(User::Root);
    let outcome = world.ringwall(&[&["run", "-m", "64M", "--report", "-"], &HOG[..]].concat());
    let report = report(&outcome);
    assert_eq!((outcome.code, &*outcome.out), (137, ""), "{outcome:?}");
    assert_eq!(report["exit"]["reason"], "memory");
    assert_eq!(report["limits"][0]["limit"], "memory");
    assert_eq!(report["limits"][0]["degraded"], false);
    assert!(
        report["limits"][0]["mechanism"]
            .as_str()
            .unwrap()
            .contains("control group"),
        "{report}"
    );
    world
        .ringwall(&["run", "-m", "256M", "--cpus", "0.5", "--pids", "50", "--", "true"])
        .expect(0);
}

#[test]
fn a_limit_that_cannot_be_enforced_names_its_alternatives() {
    let world = settled(User::Ordinary);
    let outcome = world.ringwall(&[&["run", "-m", "128M"], &HOG[..]].concat());
    if outcome.code == 137 {
        println!("SKIPPED: refusal of a memory limit: this machine delegates control groups to users");
        return;
    }
    assert_eq!((outcome.code, &*outcome.out), (125, ""), "{outcome:?}");
    assert!(
        outcome.err.contains("--allow-degraded memory") && outcome.err.contains("root"),
        "{outcome:?}"
    );
    let degraded = world.ringwall(
        &[
            &["run", "-m", "128M", "--allow-degraded", "memory", "--report", "-"],
            &HOG[..],
        ]
        .concat(),
    );
    assert!(
        degraded.code == 1 && degraded.err.contains("MemoryError"),
        "{degraded:?}"
    );
    assert_eq!(report_after(&degraded, "MemoryError")["limits"][0]["degraded"], true);
}

/// [`report`], where the program's own words come before it.
fn report_after(outcome: &Outcome, words: &str) -> Value {
    let (_, rest) = outcome.err.split_once(words).expect("the words before the report");
    report(&Outcome {
        err: rest.to_owned(),
        ..outcome.clone()
    })
}

// The report.

#[test]
fn the_report_says_what_held() {
    each_user(|world| {
        let path = world.path("project/report.json").to_string_lossy().into_owned();
        let outcome = world.ringwall(&[
            "run",
            "--report",
            &path,
            "--pids",
            "99",
            "--files",
            "99",
            "--timeout",
            "50s",
            "--",
            "sh",
            "-c",
            "unshare -U true; echo x > f; exit 5",
        ]);
        assert_eq!(outcome.code, 5, "{outcome:?}");
        let report: Value = serde_json::from_str(&world.read("report.json").unwrap()).unwrap();
        assert_eq!(report["tier"], "namespace");
        assert_eq!(report["exit"]["reason"], "exited");
        assert_eq!(report["exit"]["code"], 5);
        assert_eq!(report["exit_code"], 5);
        assert_eq!(report["changes"]["added"], 1, "{report}");
        let protections = report["protections"].as_array().unwrap();
        for name in [
            "user-namespace",
            "mount-namespace",
            "pid-namespace",
            "no-network",
            "seccomp",
            "no-capabilities",
            "no-new-privs",
            "captured-writes",
        ] {
            let found = protections.iter().find(|protection| protection["name"] == name);
            let found = found.unwrap_or_else(|| panic!("{name} is not reported: {report}"));
            assert_eq!(found["on"], true, "{found}");
            assert!(!found["why"].as_str().unwrap().is_empty(), "{found}");
        }
        let limits: Vec<&str> = report["limits"]
            .as_array()
            .unwrap()
            .iter()
            .map(|limit| limit["limit"].as_str().unwrap())
            .collect();
        for limit in ["pids", "files", "timeout"] {
            assert!(limits.contains(&limit), "{limit} is not reported: {limits:?}");
        }
        assert!(
            report["limits"]
                .as_array()
                .unwrap()
                .iter()
                .all(|limit| !limit["mechanism"].as_str().unwrap().is_empty())
        );
        let denials = report["denials"].as_array().unwrap();
        assert!(denials.iter().any(|denial| denial["syscall"] == "unshare"), "{report}");
        assert!(report["timings"]["clone_us"].as_u64().is_some(), "{report}");
        assert!(report["usage"]["wall_us"].as_u64().unwrap() > 0);
    });
}

#[test]
fn exit_reasons() {
    each_user(|world| {
        for (flags, script, reason, code) in [
            (&[][..], "kill -9 $$", "signal", 137),
            (&["--timeout", "300ms"][..], "sleep 60", "timeout", 124),
        ] {
            let outcome = world.shell(&[&["--report", "-"], flags].concat(), script);
            assert_eq!(
                (outcome.code, &report(&outcome)["exit"]["reason"]),
                (code, &Value::from(reason)),
                "{outcome:?}"
            );
        }
    });
}

// Around a run.

#[test]
fn running_sandboxes_are_listed_and_killed() {
    each_user(|world| {
        let child = start(world.command(&["run", "--name", "long", "--timeout=60s", "--", "sleep", "50"]));
        let listed = || world.ringwall(&["ps", "--json"]).out;
        let begun = Instant::now();
        while !listed().contains("\"long\"") {
            if begun.elapsed() > Duration::from_secs(20) {
                panic!(
                    "not in ps: {:?}; the run: {:?}",
                    world.ringwall(&["ps", "-a", "--json"]),
                    ended(child)
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let inspected: Value = serde_json::from_str(&world.ringwall(&["inspect", "long"]).expect(0)).unwrap();
        assert_eq!(
            (&inspected["name"], &inspected["state"]),
            (&"long".into(), &"running".into())
        );
        let busy = world.ringwall(&["discard", "long"]);
        assert!(busy.code == 125 && busy.err.contains("running"), "{busy:?}");
        // `kill` may still answer "is just starting; try again".
        eventually("the kill", || world.ringwall(&["kill", "long"]).code == 0);
        let outcome = ended(child);
        assert!(outcome.code == 137 && outcome.err.contains("killed"), "{outcome:?}");
        assert!(!listed().contains("\"long\""));
        let again = world.ringwall(&["kill", "long"]);
        assert!(again.code == 0 && again.err.contains("not running"), "{again:?}");
        world.ringwall(&["inspect", "no-such"]).expect(2);
        assert_eq!(world.ringwall(&["gc", "--dry-run"]).expect(0), "nothing left over\n");
        world.ringwall(&["gc"]).expect(0);
    });
}

/// `ps` looks at a state directory that a run is just making; the run must not take that for another run of its name.
#[test]
fn listing_does_not_disturb_starting_runs() {
    use std::sync::atomic::{AtomicBool, Ordering};
    each_user(|world| {
        let done = AtomicBool::new(false);
        let failed: Vec<Outcome> = std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        world.ringwall(&["ps"]);
                    }
                });
            }
            let run = |n: usize| world.ringwall(&["run", "--name", &format!("n{n}"), "--", "true"]);
            let failed = (0..100).map(run).filter(|outcome| outcome.code != 0).collect();
            done.store(true, Ordering::Relaxed);
            failed
        });
        assert!(
            failed.is_empty(),
            "{} of 100 runs failed: {:?}",
            failed.len(),
            failed[0]
        );
    });
}

#[test]
fn logs_repeat_what_was_printed() {
    each_user(|world| {
        let outcome = world.shell(&["--log", "--name", "l"], "echo out; echo err >&2");
        assert_eq!(
            (&*outcome.out, outcome.err.starts_with("err\n")),
            ("out\n", true),
            "{outcome:?}"
        );
        let logs = world.ringwall(&["logs", "l"]);
        let both = format!("{}{}", logs.out, logs.err);
        assert!(
            logs.code == 0 && both.contains("out\n") && both.contains("err\n"),
            "{logs:?}"
        );
    });
}

#[test]
fn killing_the_keeper_leaves_no_process() {
    each_user(|world| {
        let child = start(world.command(&[
            "run",
            "--name",
            "orphan",
            "--",
            "sh",
            "-c",
            "sleep 4321.125 & setsid sleep 4321.125 & wait",
        ]));
        let alive = || {
            fs::read_dir("/proc")
                .unwrap()
                .flatten()
                .any(|entry| fs::read(entry.path().join("cmdline")).is_ok_and(|line| line == b"sleep\x004321.125\0"))
        };
        eventually("the program's start", alive);
        signal(&child, rustix::process::Signal::KILL);
        eventually("the end of all processes", || !alive());
        assert_eq!(ended(child).code, 137);
        world.ringwall(&["gc"]).expect(0);
        assert_eq!(world.ringwall(&["gc", "--dry-run"]).expect(0), "nothing left over\n");
    });
}

#[test]
fn a_shown_policy_gives_the_same_policy_back() {
    each_user(|world| {
        let flags = [
            "--read",
            "/opt",
            "--deny",
            "/usr/share",
            "-e",
            "A=b",
            "--pids",
            "50",
            "--timeout",
            "90s",
            "--changes",
            "discard",
            "--no-home-tools",
        ];
        let shown = world.ringwall(&[&["policy", "show"], &flags[..]].concat()).expect(0);
        world.write("policy.toml", &shown);
        assert_eq!(
            world.ringwall(&["policy", "show", "--policy", "policy.toml"]).expect(0),
            shown
        );
        let out = world
            .shell(
                &["--policy", "policy.toml"],
                "echo $A; ls /usr/share 2>/dev/null | head -n 1; echo x > f",
            )
            .expect(0);
        assert_eq!((&*out, world.read("f")), ("b\n", None));
        let out = world
            .shell(&["--policy", "policy.toml", "-e", "A=flag"], "echo $A")
            .expect(0);
        assert_eq!(out, "flag\n", "flags override the file");
    });
}

// Tiers.

#[test]
fn the_landlock_tier() {
    each_user(|world| {
        fs::write(world.path("home/secret"), "secret").unwrap();
        let landlock = ["--isolation", "landlock"];
        let outcome = world.shell(
            &[&landlock[..], &["--report", "-"]].concat(),
            "cat $HOME/secret; echo x > f; exit 6",
        );
        assert_eq!(
            (outcome.code, &*outcome.out, world.read("f")),
            (6, "", None),
            "{outcome:?}"
        );
        assert_eq!(report(&outcome)["tier"], "landlock");
        for how in ["keep", "commit", "discard"] {
            let refused = world.shell(&[&landlock[..], &["--changes", how]].concat(), "true");
            assert!(
                refused.code == 2 && refused.err.contains("capture writes") && refused.err.contains("--write"),
                "{refused:?}"
            );
        }
        world
            .shell(&[&landlock[..], &["--timeout", "1s"]].concat(), "sleep 60")
            .expect(124);
        world
            .ringwall(&["run", "--isolation", "landlock", "--", "no-such-program"])
            .expect(127);
        world.shell(&landlock, "kill -9 $$").expect(137);
        let network = world.ringwall(&[
            "run",
            "--isolation",
            "landlock",
            "--",
            "/usr/bin/python3",
            "-c",
            "import socket; socket.socket()",
        ]);
        assert!(network.code == 1 && network.err.contains("Error"), "{network:?}");
    });
}

/// By root, the tier runs the program as another uid, to which root's directories are closed.
#[test]
fn the_landlock_tier_writes_where_it_is_told_to() {
    each_user(|world| {
        let direct = world.path("direct");
        fs::create_dir(&direct).unwrap();
        world.hand_over(&direct);
        let direct = direct.to_string_lossy().into_owned();
        let flags = ["--isolation", "landlock", "--write", &direct];
        if world.user() == User::Root {
            // Without idmapped mounts nothing can be made the program's: refused, and said why, before anything runs.
            let refused = world.shell(&flags, "true");
            assert!(
                refused.code == 2 && refused.err.contains("becomes another user"),
                "{refused:?}"
            );
            fs::set_permissions(world.path("direct"), fs::Permissions::from_mode(0o777)).unwrap();
        }
        world.shell(&flags, &format!("echo x > {direct}/f")).expect(0);
        assert_eq!(fs::read_to_string(world.path("direct/f")).unwrap(), "x\n");
    });
}

#[test]
fn a_minimum_tier_is_kept() {
    each_user(|world| {
        let refused = world.ringwall(&[
            "run",
            "--isolation",
            "landlock",
            "--min-isolation",
            "namespace",
            "--",
            "true",
        ]);
        assert!(refused.code == 2 && refused.err.contains("weaker"), "{refused:?}");
        world
            .ringwall(&["run", "--min-isolation", "namespace", "--", "true"])
            .expect(0);
        world
            .ringwall(&["run", "--min-isolation", "landlock", "--", "true"])
            .expect(0);
    });
}
