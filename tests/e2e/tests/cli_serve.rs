//! The command line against the service: without a server, with this user's own, and with one named by the environment.
//!
//! Every walk ends with `kill --all` and with nothing left.

#![expect(
    clippy::print_stdout,
    reason = "a skipped test must be seen, and stdout is where tests report"
)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ringwall_e2e::{Outcome, User, World, users};

/// Longest wait for anything; far above what is needed on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A world whose sandboxes end with it, and how commands in it find their service.
struct Cli {
    world: World,
    env: Vec<(&'static str, String)>,
}

impl Drop for Cli {
    fn drop(&mut self) {
        // As well as it can be: the test has failed already, or it has looked itself.
        drop(self.command(&["kill", "--all"]).output());
        self.env.clear();
        drop(self.command(&["kill", "--all"]).output());
    }
}

impl Cli {
    fn new(user: User) -> Self {
        let world = World::new(user);
        // Another thread's fork may hold a copied binary open for writing until its exec.
        while let Err(error) = world.command(&["--version"]).output() {
            assert_eq!(error.kind(), std::io::ErrorKind::ExecutableFileBusy, "{error}");
            std::thread::sleep(Duration::from_millis(5));
        }
        Cli { world, env: Vec::new() }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.world.command(args);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    fn run(&self, args: &[&str]) -> Outcome {
        Outcome::from(
            self.command(args)
                .stdin(Stdio::null())
                .output()
                .expect("ringwall starts"),
        )
    }

    /// Runs with an input.
    fn fed(&self, args: &[&str], input: &[u8]) -> Outcome {
        let mut child = self.piped(args).spawn().expect("ringwall starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        let input = input.to_vec();
        let feeder = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let outcome = Outcome::from(child.wait_with_output().expect("an end"));
        feeder.join().expect("no panic");
        outcome
    }

    fn piped(&self, args: &[&str]) -> Command {
        let mut command = self.command(args);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    #[track_caller]
    fn create(&self, flags: &[&str]) -> String {
        let id = self.run(&[&["create"], flags].concat()).expect(0).trim().to_owned();
        assert!(
            !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric()),
            "{id:?}"
        );
        id
    }

    /// Runs a script in a sandbox and returns its output.
    #[track_caller]
    fn sh(&self, id: &str, script: &str) -> String {
        self.run(&["exec", id, "--", "sh", "-c", script]).expect(0)
    }

    #[track_caller]
    fn listed(&self) -> String {
        self.run(&["ps", "-a"]).expect(0)
    }

    /// Ends everything, and looks whether it has.
    #[track_caller]
    fn finish(&self) {
        self.run(&["kill", "--all"]).expect(0);
        assert_eq!(self.run(&["ps", "-a", "--json"]).expect(0).trim(), "[]");
        let sandboxes = self.world.path("state/.serve/sandboxes");
        if let Ok(left) = std::fs::read_dir(sandboxes) {
            assert_eq!(left.count(), 0, "directories of sandboxes are left");
        }
    }
}

/// A server; killed on drop, which leaves its sandboxes.
struct Server {
    child: Child,
    url: String,
    key: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Server {
    fn start(world: &World) -> Self {
        let mut command = world.command(&["serve", "--listen", "127.0.0.1:0", "--pool", "0"]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("ringwall starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut value = |name: &str| loop {
            let Some(line) = lines.next() else {
                panic!("the server has ended before it said where it is: {:?}", child.wait());
            };
            if let Some(value) = line.expect("text").strip_prefix(&format!("export {name}=")) {
                break value.to_owned();
            }
        };
        let url = value("E2B_API_URL");
        let key = value("E2B_API_KEY");
        let server = Server { child, url, key };
        let address = world.path("state/.serve/address");
        eventually("the address file", || address.exists());
        server
    }

    /// Ends it as an operator does.
    fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
        assert!(self.child.wait().expect("an end").success());
    }
}

#[track_caller]
fn eventually(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a check for every user there is.
fn each_user(check: impl Fn(Cli)) {
    for user in users() {
        check(Cli::new(user));
    }
}

fn digest(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().expect("sha256sum");
    String::from_utf8_lossy(&output.stdout)[..64].to_owned()
}

/// What every way to a service must do.
fn walk(cli: &Cli) {
    let id = cli.create(&["--label", "a=b", "--env", "FROM_CREATE=1", "--timeout", "10m"]);
    executes(cli, &id);
    copies(cli, &id);
    lives(cli, &id);
    refuses(cli, &id);
    cli.finish();
}

fn executes(cli: &Cli, id: &str) {
    let outcome = cli.run(&[
        "exec",
        "-e",
        "X=2",
        "-w",
        "/tmp",
        id,
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; pwd; echo $FROM_CREATE$X; exit 7",
    ]);
    assert_eq!(outcome.code, 7, "{outcome:?}");
    assert_eq!(outcome.out, "out\n/tmp\n12\n");
    assert_eq!(outcome.err, "err\n");
    cli.run(&["exec", id, "sh", "-c", "kill -9 $$"]).expect(137);
    cli.run(&["exec", id, "no-such-program"]).expect(127);
    cli.run(&["exec", id, "/etc/passwd"]).expect(126);
    cli.run(&["exec", "-w", "/no/such", id, "true"]).expect(2);
    cli.run(&["exec", "-u", "no-such-user", id, "true"]).expect(2);
    assert_eq!(cli.run(&["exec", "--timeout", "300ms", id, "sleep", "60"]).code, 124);
    // Without -i there is nothing to read.
    assert_eq!(cli.fed(&["exec", id, "cat"], b"not seen").expect(0), "");
    assert_eq!(cli.fed(&["exec", "-i", id, "cat"], b"seen").expect(0), "seen");
    let large: Vec<u8> = (0..3_000_000_u32)
        .map(|n| b'a' + u8::try_from(n % 26).unwrap_or(0))
        .collect();
    assert_eq!(cli.fed(&["exec", "-i", id, "cat"], &large).expect(0).as_bytes(), large);
    // One that reads nothing must not be waited for.
    cli.fed(&["exec", "-i", id, "true"], &large).expect(0);
    assert_eq!(cli.fed(&["shell", id], b"echo $((6 * 7))\nexit 3\n").expect(3), "42\n");
    let mut child = cli
        .piped(&[
            "exec",
            id,
            "--",
            "sh",
            "-c",
            "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done",
        ])
        .spawn()
        .expect("ringwall starts");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("a pipe"))
        .read_line(&mut line)
        .expect("a line");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("a signal");
    assert_eq!(
        child.wait().expect("an end").code(),
        Some(9),
        "interrupts arrive as SIGTERM"
    );
}

fn copies(cli: &Cli, id: &str) {
    let project = cli.world.path("project");
    let content: Vec<u8> = (0..2_500_000_u32)
        .map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3])
        .collect();
    cli.world.write("big", &content);
    std::fs::set_permissions(project.join("big"), PermissionsExt::from_mode(0o750)).expect("permissions");
    cli.run(&["cp", "big", &format!("{id}:/tmp/big")]).expect(0);
    let sum = digest(&project.join("big"));
    assert!(cli.sh(id, "sha256sum /tmp/big").starts_with(&sum));
    assert_eq!(cli.sh(id, "stat -c %a /tmp/big"), "750\n");
    cli.run(&["cp", &format!("{id}:/tmp/big"), "back"]).expect(0);
    assert_eq!(digest(&project.join("back")), sum);
    let mode = std::fs::metadata(project.join("back"))
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o750);
    // Into a directory, by a relative path, by pipes.
    cli.run(&["cp", "big", &format!("{id}:/tmp/")]).expect(0);
    cli.run(&["cp", "big", &format!("{id}:relative")]).expect(0);
    assert!(cli.sh(id, "sha256sum ~/relative").starts_with(&sum));
    cli.fed(&["cp", "-", &format!("{id}:/tmp/piped")], b"piped").expect(0);
    assert_eq!(cli.run(&["cp", &format!("{id}:/tmp/piped"), "-"]).expect(0), "piped");
    // Trees.
    for directory in ["tree", "tree/a b", "tree/empty"] {
        std::fs::create_dir_all(project.join(directory)).expect("a directory");
        cli.world.hand_over(&project.join(directory));
    }
    cli.world.write("tree/a b/é", "x");
    cli.world.write("tree/tool", "#!/bin/sh\necho tool\n");
    std::fs::set_permissions(project.join("tree/tool"), PermissionsExt::from_mode(0o755)).expect("permissions");
    symlink("a b/é", project.join("tree/link")).expect("a link");
    cli.run(&["cp", "tree", &format!("{id}:/tmp/t")]).expect(0);
    assert_eq!(
        cli.sh(id, "cd /tmp/t && ./tool && cat link && readlink link && ls -d empty"),
        "tool\nxa b/é\nempty\n"
    );
    // Again: now /tmp/t is a directory to copy into; and what it holds, over itself.
    cli.run(&["cp", "tree", &format!("{id}:/tmp/t")]).expect(0);
    assert_eq!(cli.sh(id, "/tmp/t/tree/tool"), "tool\n");
    cli.run(&["cp", "tree/.", &format!("{id}:/tmp/t")]).expect(0);
    cli.run(&["cp", &format!("{id}:/tmp/t"), "copy"]).expect(0);
    assert_eq!(cli.world.read("copy/link").as_deref(), Some("x"));
    assert_eq!(
        std::fs::read_link(project.join("copy/tree/link")).expect("a link"),
        Path::new("a b/é")
    );
    let mode = std::fs::metadata(project.join("copy/tool"))
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o755);
    // A link that was copied leads no later copy astray.
    cli.sh(id, "mkdir /tmp/evil && ln -s /tmp /tmp/evil/out");
    cli.run(&["cp", &format!("{id}:/tmp/evil"), "evil"]).expect(0);
    cli.sh(
        id,
        "rm /tmp/evil/out && mkdir /tmp/evil/out && echo x > /tmp/evil/out/ringwall-escaped",
    );
    let outcome = cli.run(&["cp", &format!("{id}:/tmp/evil/."), "evil"]);
    assert!(
        outcome.code == 125 && outcome.err.contains("symbolic link"),
        "{outcome:?}"
    );
    assert!(!Path::new("/tmp/ringwall-escaped").exists());
    for (from, to) in [
        (format!("{id}:/no/such"), "x".to_owned()),
        ("no-such".to_owned(), format!("{id}:/tmp/x")),
        ("big".to_owned(), "x".to_owned()),
        (format!("{id}:/tmp/t"), format!("{id}:/tmp/u")),
        (format!("{id}:/tmp/t"), "-".to_owned()),
    ] {
        let outcome = cli.run(&["cp", &from, &to]);
        assert!(
            outcome.code == 2 && outcome.err.starts_with("Error: "),
            "{from} {to}: {outcome:?}"
        );
    }
}

fn lives(cli: &Cli, id: &str) {
    cli.sh(id, "echo kept > /tmp/kept");
    cli.run(&["pause", id]).expect(0);
    cli.run(&["pause", id]).expect(0);
    assert!(cli.listed().contains("paused"));
    assert!(!cli.run(&["ps"]).expect(0).contains(id));
    let outcome = cli.run(&["exec", id, "true"]);
    assert!(outcome.code == 125 && outcome.err.contains("resume"), "{outcome:?}");
    cli.run(&["resume", id, "--timeout", "20m"]).expect(0);
    cli.run(&["resume", id]).expect(0);
    assert_eq!(cli.sh(id, "cat /tmp/kept"), "kept\n");

    let snapshot = cli.run(&["snapshot", id, "--name", "walk"]).expect(0).trim().to_owned();
    assert!(cli.run(&["snapshot", "ls"]).expect(0).contains(&snapshot));
    assert!(
        cli.run(&["snapshot", "ls", "--json", "--sandbox", id])
            .expect(0)
            .contains("\"walk\"")
    );
    let again = cli.create(&["--template", &snapshot, "--auto-pause"]);
    assert_eq!(cli.sh(&again, "cat /tmp/kept"), "kept\n");

    let copies = cli.run(&["fork", id, "--count", "2"]).expect(0);
    assert_eq!(copies.lines().count(), 2, "{copies}");
    for copy in copies.lines() {
        assert_eq!(cli.sh(copy, "cat /tmp/kept"), "kept\n");
    }
    let rows: serde_json::Value = serde_json::from_str(&cli.run(&["ps", "--json"]).expect(0)).expect("JSON");
    let all = || cli.run(&["ps", "--all", "--json"]).expect(0) + &cli.run(&["logs", &again]).expect(0);
    assert_eq!(rows.as_array().map(Vec::len), Some(4), "{rows}\n{}", all());
    assert!(cli.run(&["logs", id]).expect(0).contains("sandbox resumed"));
    let lines: serde_json::Value = serde_json::from_str(&cli.run(&["logs", "--json", id]).expect(0)).expect("JSON");
    assert!(lines.as_array().is_some_and(|lines| lines.len() >= 3), "{lines}");

    let copies: Vec<&str> = copies.lines().collect();
    cli.run(&[&["kill"], copies.as_slice(), &[&again]].concat()).expect(0);
    cli.run(&["snapshot", "rm", &snapshot]).expect(0);
    assert!(!cli.run(&["snapshot", "ls"]).expect(0).contains(&snapshot));
}

fn refuses(cli: &Cli, id: &str) {
    let nobody = "inosuchsandbox";
    for args in [
        &["exec", nobody, "true"][..],
        &["shell", nobody],
        &["cp", "inosuchsandbox:/x", "-"],
        &["logs", nobody],
        &["pause", nobody],
        &["resume", nobody],
        &["snapshot", nobody],
        &["snapshot", "rm", "nosuchsnapshot"],
        &["fork", nobody],
        &["kill", nobody],
        &["port", nobody, "80"],
        &["port", id, "0"],
        &["template", "rm", "nosuchtemplate"],
        &["template", "inspect", "nosuchtemplate"],
        &["create", "--template", "nosuchtemplate"],
        &["create", "--env", "novalue"],
        &["create", "--timeout", "1000d"],
        &["exec", id],
        &["kill"],
        &["exec", "../../x", "true"],
    ] {
        let outcome = cli.run(args);
        assert!(outcome.code == 2 && !outcome.err.is_empty(), "{args:?}: {outcome:?}");
    }
    // One that is not there does not keep the others.
    let other = cli.create(&[]);
    cli.run(&["kill", nobody, &other]).expect(2);
    assert!(!cli.listed().contains(&other));
}

#[test]
fn without_a_server_commands_serve_themselves() {
    each_user(|cli| {
        assert_eq!(cli.listed().lines().count(), 1);
        assert!(!cli.world.path("state/.serve").exists(), "ps alone makes nothing");
        walk(&cli);
        let outcome = cli.run(&["port", "x", "80"]);
        assert_eq!(outcome.code, 2);
    });
}

/// Each command takes all sandboxes up, and most end before they have done so.
#[test]
fn short_commands_lose_no_sandbox() {
    each_user(|cli| {
        let ids: Vec<String> = (0..10).map(|_| cli.create(&[])).collect();
        for round in 0..50 {
            let listed = cli.run(&["ps"]).expect(0);
            for id in &ids {
                assert!(listed.contains(id), "round {round}: {id}\n{}{listed}", cli.listed());
            }
        }
        cli.finish();
    });
}

#[test]
fn with_a_server_commands_find_it() {
    each_user(|cli| {
        let server = Server::start(&cli.world);
        walk(&cli);
        let id = cli.create(&[]);
        let url = cli.run(&["port", &id, "8080"]).expect(0);
        assert!(url.starts_with(&format!("http://8080-{id}.")), "{url}");
        // A second server on the same state is refused, and does not disturb the first.
        let second = cli.run(&["serve", "--listen", "127.0.0.1:0"]);
        assert!(
            second.code == 125 && second.err.contains("another server"),
            "{second:?}"
        );
        assert!(cli.listed().contains(&id));
        // Stopped: the address is gone, and commands go on by themselves.
        server.stop();
        assert!(!cli.world.path("state/.serve/address").exists());
        assert_eq!(cli.sh(&id, "echo here"), "here\n");
        // Killed: the address stays, and misleads nobody.
        drop(Server::start(&cli.world));
        assert!(cli.world.path("state/.serve/address").exists());
        assert_eq!(cli.sh(&id, "echo here"), "here\n");
        assert!(!cli.world.path("state/.serve/address").exists());
        // The next server takes it up.
        let _server = Server::start(&cli.world);
        assert_eq!(cli.sh(&id, "echo here"), "here\n");
        cli.finish();
    });
}

#[test]
fn a_server_elsewhere_is_named_by_the_environment() {
    each_user(|mut cli| {
        let there = World::new(cli.world.user());
        let server = Server::start(&there);
        cli.env = vec![
            ("RINGWALL_URL", server.url.clone()),
            ("RINGWALL_API_KEY", server.key.clone()),
        ];
        walk(&cli);
        assert!(!cli.world.path("state/.serve").exists(), "nothing is done here");
        forwards(&cli);
        cli.finish();

        cli.env = vec![("E2B_API_URL", server.url.clone()), ("E2B_API_KEY", server.key.clone())];
        assert_eq!(cli.listed().lines().count(), 1);
        cli.env = vec![
            ("RINGWALL_URL", server.url.clone()),
            ("RINGWALL_API_KEY", "e2b_0000".to_owned()),
        ];
        let outcome = cli.run(&["create"]);
        assert!(
            outcome.code == 125 && outcome.err.contains("RINGWALL_API_KEY"),
            "{outcome:?}"
        );
        cli.env = vec![("RINGWALL_URL", server.url.clone())];
        cli.run(&["create"]).expect(2);
        cli.env = vec![
            ("RINGWALL_URL", "nonsense".to_owned()),
            ("RINGWALL_API_KEY", "x".to_owned()),
        ];
        cli.run(&["create"]).expect(2);

        cli.env = vec![
            ("RINGWALL_URL", server.url.clone()),
            ("RINGWALL_API_KEY", server.key.clone()),
        ];
        let id = cli.create(&[]);
        let child = cli
            .piped(&["exec", &id, "sleep", "1000"])
            .spawn()
            .expect("ringwall starts");
        eventually("the command", || cli.sh(&id, "ps ax").contains("sleep 1000"));
        server.stop();
        let outcome = Outcome::from(child.wait_with_output().expect("an end"));
        assert!(outcome.code == 125 && outcome.err.contains("lost"), "{outcome:?}");
        let outcome = cli.run(&["create"]);
        assert!(
            outcome.code == 125 && outcome.err.contains("can't reach http://"),
            "{outcome:?}"
        );
        // A list that can't be complete says so.
        let outcome = cli.run(&["ps"]);
        assert!(outcome.code == 125 && outcome.out.starts_with("NAME"), "{outcome:?}");
        // Its own user gets at it there.
        there.command(&["kill", "--all"]).output().expect("ringwall starts");
        cli.env.clear();
    });
}

/// A port of a sandbox, reached from here.
fn forwards(cli: &Cli) {
    if !Path::new("/usr/bin/python3").exists() {
        println!("SKIPPED: port --forward: python3 is not installed on this machine");
        return;
    }
    let id = cli.create(&[]);
    cli.sh(&id, "mkdir /tmp/www && echo page > /tmp/www/index.html");
    let mut serving = cli
        .piped(&[
            "exec",
            &id,
            "--",
            "sh",
            "-c",
            "cd /tmp/www && exec /usr/bin/python3 -m http.server 8123 --bind 127.0.0.1",
        ])
        .spawn()
        .expect("ringwall starts");
    let mut child = cli
        .piped(&["port", &id, "8123", "--forward", "0"])
        .spawn()
        .expect("ringwall starts");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("a pipe"))
        .read_line(&mut line)
        .expect("a line");
    eventually("the page", || {
        let mut stream = TcpStream::connect(line.trim()).expect("it listens");
        stream
            .write_all(b"GET /index.html HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .expect("sent");
        let mut text = String::new();
        drop(stream.read_to_string(&mut text));
        text.ends_with("page\n")
    });
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("a signal");
    assert!(child.wait().expect("an end").success());
    cli.run(&["kill", &id]).expect(0);
    assert_eq!(
        serving.wait().expect("an end").code(),
        Some(125),
        "its sandbox was killed"
    );
}

#[test]
fn long_commands_keep_nobody_waiting() {
    each_user(|cli| {
        let id = cli.create(&[]);
        let mut long = cli.piped(&["exec", "-i", &id, "cat"]).spawn().expect("ringwall starts");
        let mut stdin = long.stdin.take().expect("a pipe");
        stdin.write_all(b"one\n").expect("sent");
        let mut reader = BufReader::new(long.stdout.take().expect("a pipe"));
        let mut line = String::new();
        reader.read_line(&mut line).expect("a line");
        assert_eq!(line, "one\n");
        // Others work meanwhile, several at once; a server comes and goes.
        let ids: Vec<String> = std::thread::scope(|scope| {
            let each: Vec<_> = (0..3).map(|_| scope.spawn(|| cli.create(&[]))).collect();
            each.into_iter()
                .map(|thread| thread.join().expect("no panic"))
                .collect()
        });
        for other in &ids {
            assert_eq!(cli.sh(other, "echo hi"), "hi\n");
        }
        Server::start(&cli.world).stop();
        stdin.write_all(b"two\n").expect("sent");
        drop(stdin);
        line.clear();
        reader.read_to_string(&mut line).expect("text");
        assert_eq!((line.as_str(), long.wait().expect("an end").code()), ("two\n", Some(0)));
        forwards(&cli);
        cli.finish();
    });
}

#[test]
fn gc_ends_what_is_overdue() {
    each_user(|cli| {
        let id = cli.create(&["--timeout", "1s"]);
        std::thread::sleep(Duration::from_millis(1500));
        assert_eq!(cli.run(&["gc", "--dry-run"]).expect(0), "nothing left over\n");
        let said = cli.run(&["gc"]).expect(0);
        assert!(said.contains(&id), "{said}");
        assert!(!cli.listed().contains(&id));
        cli.finish();
    });
}

#[test]
fn terminals_are_real() {
    if !Path::new("/usr/bin/script").exists() {
        println!("SKIPPED: terminals: script(1) is not installed on this machine");
        return;
    }
    each_user(|cli| {
        let id = cli.create(&[]);
        let binary = cli.world.path("bin/ringwall");
        let inside = format!(
            "stty cols 91 rows 17; {} exec -it {id} -- sh -c 'tty; stty size; read line; echo \"got $line\"; exit 5'",
            binary.display()
        );
        let mut command = cli.world.program("/usr/bin/script");
        command
            .args(["-qec", &inside, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("script starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        let mut reader = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut said = String::new();
        // Typed only once the command reads: what comes sooner may meet the terminal before it is raw.
        while !said.contains("17 91") {
            let mut line = String::new();
            assert!(reader.read_line(&mut line).expect("text") > 0, "{said}");
            said.push_str(&line);
        }
        assert!(said.contains("/dev/pts/"), "{said}");
        stdin.write_all(b"typed\n").expect("sent");
        reader.read_to_string(&mut said).expect("text");
        assert!(said.contains("got typed"), "{said}");
        assert_eq!(child.wait().expect("an end").code(), Some(5), "{said}");
        cli.finish();
    });
}

#[test]
fn templates_are_built() {
    each_user(|cli| {
        let built = cli.run(&[
            "template",
            "build",
            "--name",
            "flags",
            "--env",
            "A=1",
            "--run",
            "echo $A > /tmp/built",
        ]);
        assert!(built.err.contains("RUN"), "{built:?}");
        built.expect(0);
        let id = cli.create(&["--template", "flags"]);
        assert_eq!(cli.sh(&id, "cat /tmp/built; echo $A"), "1\n1\n");
        assert!(cli.run(&["template", "ls"]).expect(0).contains("flags"));
        assert!(
            cli.run(&["template", "inspect", "flags"])
                .expect(0)
                .contains("\"ready\"")
        );
        let failed = cli.run(&["template", "build", "--name", "bad", "--run", "echo why; exit 4"]);
        assert!(failed.code == 1 && failed.err.contains("why"), "{failed:?}");

        cli.world.write("hello.txt", "hello\n");
        let built = cli.run(&[
            "template",
            "build",
            "--name",
            "copied",
            "--copy",
            "hello.txt:/tmp/hello.txt",
        ]);
        built.expect(0);
        let id = cli.create(&["--template", "copied"]);
        assert_eq!(cli.sh(&id, "cat /tmp/hello.txt"), "hello\n");

        cli.world.write("Dockerfile", "FROM scratch\n");
        cli.run(&["template", "build", "--name", "x", "-f", "Dockerfile"])
            .expect(2);
        cli.world.write("Dockerfile", "FROM debian:12\nARG X=1\n");
        let refused = cli.run(&["template", "build", "--name", "x", "-f", "Dockerfile"]);
        assert!(refused.code == 2 && refused.err.contains("line 2: ARG"), "{refused:?}");
        cli.run(&["template", "rm", "flags", "bad", "copied"]).expect(0);
        cli.finish();
    });
}
