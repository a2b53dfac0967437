//! Several users in one sandbox of `ringwall serve`: programs and files as `root` and as `user`, and what neither may do.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use ringwall_e2e::serve::{
    Answer, Answered, Client, Ran, Sandbox, Server, decode_base64, envelope, eventually, kill, percent, stat, text,
};
use ringwall_e2e::{ORDINARY_UID, User, users};
use serde_json::{Value, json};

/// `CAP_CHOWN`, `CAP_KILL`, `CAP_SETGID`, `CAP_SETUID`: what the agent works with.
const OF_THE_AGENT: u64 = 1 | 1 << 5 | 1 << 6 | 1 << 7;
/// These, `CAP_DAC_OVERRIDE`, `CAP_FOWNER` and `CAP_NET_BIND_SERVICE`: what programs of root hold.
const OF_ROOT: u64 = OF_THE_AGENT | 1 << 1 | 1 << 3 | 1 << 10;
/// All of them and `CAP_SETPCAP`: what the agent has to hand on.
const PERMITTED_TO_THE_AGENT: u64 = OF_ROOT | 1 << 8;
/// `CAP_CHOWN`, `CAP_DAC_OVERRIDE`, `CAP_FOWNER`, `CAP_SETGID`, `CAP_SETUID`: what its threads for file work keep.
const OF_FILE_WORK: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 6 | 1 << 7;

/// One sandbox, and a client of it that says for whom.
struct Shared {
    server: Server,
    client: Client,
    sandbox: Sandbox,
}

impl Shared {
    fn new(user: User, flags: &[&str]) -> Self {
        let server = Server::with(user, &[&["--pool", "0"], flags].concat());
        let client = server.client();
        let sandbox = Sandbox::from_json(&client.try_create(&json!({})).json_of(201));
        Shared {
            server,
            client,
            sandbox,
        }
    }

    /// As root, where the tests run as root; says so where they don't.
    #[expect(clippy::print_stdout, reason = "what was skipped must be seen")]
    fn of_root(flags: &[&str]) -> Option<Self> {
        if users().contains(&User::Root) {
            return Some(Self::new(User::Root, flags));
        }
        println!("SKIPPED: only root's sandboxes have several users");
        None
    }

    fn request(&self, user: &str, method: &str, path: &str, kind: &str, body: &[u8]) -> Answer {
        let basic = match user {
            "root" => "Basic cm9vdDo=",
            "user" => "Basic dXNlcjo=",
            "nobody" => "Basic bm9ib2R5Og==",
            _ => "Basic c29tZWJvZHk6",
        };
        let headers = [
            self.sandbox.headers().as_slice(),
            &[("Authorization", basic), ("Content-Type", kind)],
        ]
        .concat();
        self.client.request(method, path, &headers, body).expect("an answer")
    }

    fn unary(&self, user: &str, method: &str, message: &Value) -> Answer {
        let body = message.to_string();
        self.request(user, "POST", method, "application/json", body.as_bytes())
    }

    /// The code of a method's error; empty when there was none.
    fn code(&self, user: &str, method: &str, message: &Value) -> String {
        text(
            &self
                .unary(user, &format!("/filesystem.Filesystem/{method}"), message)
                .json(),
            "code",
        )
    }

    /// Runs a process to its end, or returns its stream's error.
    fn start(&self, user: &str, message: &Value) -> Result<Ran, Value> {
        let body = envelope(0, message.to_string().as_bytes());
        let kind = "application/connect+json";
        let answer = self
            .request(user, "POST", "/process.Process/Start", kind, &body)
            .expect_status(200);
        let mut ran = Ran::default();
        let mut left = answer.body.as_slice();
        while let Some((head, rest)) = left.split_first_chunk::<5>() {
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            let (message, rest) = rest.split_at(length);
            left = rest;
            let message: Value = serde_json::from_slice(message).expect("JSON");
            if let Some(error) = message.get("error") {
                return Err(error.clone());
            }
            let said = |stream: &str| {
                let bytes = message.pointer(&format!("/event/data/{stream}"));
                let bytes = bytes.and_then(Value::as_str).map(decode_base64);
                String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
            };
            ran.out += &said("stdout");
            ran.out += &said("pty");
            ran.err += &said("stderr");
            if let Some(code) = message.pointer("/event/end/exitCode") {
                ran.code = code.as_i64().unwrap_or(-1);
            }
        }
        Ok(ran)
    }

    fn run(&self, user: &str, script: &str) -> Ran {
        let message = json!({"process": {"cmd": "/bin/bash", "args": ["-c", script]}, "stdin": false});
        self.start(user, &message).expect("no error")
    }

    #[track_caller]
    fn shell(&self, user: &str, script: &str) -> String {
        let ran = self.run(user, script);
        assert_eq!(ran.code, 0, "{user}: {script}: {ran:?}");
        ran.out
    }

    fn write(&self, user: &str, path: &str, content: &str) -> Answer {
        let path = format!("/files?path={}&username={user}", percent(path));
        self.request(user, "POST", &path, "application/octet-stream", content.as_bytes())
    }

    fn read(&self, user: &str, path: &str) -> Answer {
        let path = format!("/files?path={}&username={user}", percent(path));
        self.request(user, "GET", &path, "text/plain", b"")
    }

    /// Pid of the agent, as the host sees it.
    fn agent(&self) -> i32 {
        let mut agent = 0;
        eventually("the agent is recorded", Duration::from_secs(20), || {
            agent = self.server.recorded(&self.sandbox.id, "init");
            agent != 0
        });
        agent
    }
}

/// A line of a `status` file of proc, as words.
fn field(status: &str, name: &str) -> Vec<String> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let words = line
        .unwrap_or_else(|| panic!("no {name} in {status}"))
        .split_whitespace();
    words.map(str::to_owned).collect()
}

fn capabilities(status: &str, name: &str) -> u64 {
    u64::from_str_radix(&field(status, name)[0], 16).expect("hexadecimal")
}

#[test]
fn programs_are_the_user_that_is_asked_for_and_only_roots_hold_capabilities() {
    let Some(shared) = Shared::of_root(&[]) else { return };
    for (user, id, home) in [
        ("root", "0", "/root"),
        ("user", "1000", "/home/user"),
        ("nobody", "65534", "/"),
    ] {
        let out = shared.shell(user, "id -u; id -g; id -G; pwd; echo $USER; cat /proc/self/status");
        let lines: Vec<&str> = out.lines().take(5).collect();
        assert_eq!(lines, [id, id, id, home, user], "{user}");
        for set in ["CapInh", "CapAmb"] {
            assert_eq!(capabilities(&out, set), 0, "{user}: {set}");
        }
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            let wanted = if user == "root" { OF_ROOT } else { 0 };
            assert_eq!(capabilities(&out, set), wanted, "{user}: {set}");
        }
        assert_eq!(field(&out, "Uid"), [id; 4], "{user}");
        assert_eq!(field(&out, "Gid"), [id; 4], "{user}");
        assert_eq!(field(&out, "NoNewPrivs"), ["1"], "{user}");
    }
    let error = shared
        .start("somebody", &json!({"process": {"cmd": "true"}}))
        .unwrap_err();
    assert_eq!(
        (text(&error, "code"), text(&error, "message")),
        ("unauthenticated".to_owned(), "invalid username: 'somebody'".to_owned())
    );
}

#[test]
fn no_user_can_become_another_or_more() {
    let Some(shared) = Shared::of_root(&[]) else { return };
    for attempt in [
        "setpriv --reuid 1 true",
        "setpriv --regid 1 --clear-groups true",
        "setpriv --groups 4 true",
        "touch /tmp/a && chown nobody /tmp/a",
        "su root -c true",
    ] {
        let ran = shared.run("user", attempt);
        // Not for want of the program, either.
        assert!(ran.code != 0 && !ran.err.contains("not found"), "{attempt}: {ran:?}");
    }
    for user in ["root", "user"] {
        for attempt in [
            // It does not say when it could not.
            "setpriv --inh-caps +kill --ambient-caps +kill grep -q '^CapAmb:.*[1-9a-f]' /proc/self/status",
            "chroot / true",
            "mount -t tmpfs none /mnt",
            "unshare --user true",
            "unshare --mount true",
            "nsenter --target 1 --mount true",
            "hostname other",
            "mknod /tmp/null c 1 3",
            "chown nobody /usr/bin/id",
            "cp /bin/id /tmp/id && chmod u+s /tmp/id",
            "nice -n -5 sh -c 'test $(nice) -lt 0'",
        ] {
            let ran = shared.run(user, attempt);
            // Not for want of the program, either. (setpriv fails with 127.)
            assert!(
                ran.code != 0 && !ran.err.contains("not found"),
                "{user}: {attempt}: {ran:?}"
            );
        }
        shared.shell(user, "rm -f /tmp/a /tmp/id");
    }
}

#[test]
fn the_agent_is_out_of_reach_of_all_users() {
    let Some(shared) = Shared::of_root(&[]) else { return };
    // PTRACE_ATTACH; perl is on every Debian, and knows system calls by number only.
    let ptrace = if cfg!(target_arch = "x86_64") { 101 } else { 117 };
    let attach = |pid: &str| format!("perl -e 'exit(syscall({ptrace}, 16, {pid}, 0, 0) < 0)'");
    for user in ["root", "user"] {
        assert_eq!(
            shared.shell(user, "perl -e 'print syscall(-1)'"),
            "-1",
            "the control: perl runs"
        );
        for attempt in [
            "cat /proc/1/environ",
            "cat /proc/1/maps",
            "cat /proc/1/fd/3",
            "readlink /proc/1/fd/3",
            "dd if=/proc/1/mem of=/dev/null bs=1 count=1 skip=4096",
            "cat /proc/1/syscall",
            "readlink /proc/1/exe",
            "ls /proc/1/root/",
            &attach("1"),
        ] {
            let ran = shared.run(user, attempt);
            // Not for want of the program, either.
            assert!(!matches!(ran.code, 0 | 126 | 127), "{user}: {attempt}: {ran:?}");
        }
        let script = "for s in TERM INT HUP QUIT USR1 SEGV ABRT STOP KILL; do kill -$s 1; done 2>&1; true";
        let said = shared.shell(user, script);
        // Root's programs have the agent's id and may signal it; the first process of a pid namespace does not have to care.
        assert_eq!(
            said.matches("Operation not permitted").count(),
            if user == "user" { 9 } else { 0 }
        );
        assert_eq!(shared.shell(user, "echo still here"), "still here\n");
    }
    let pid = shared.shell("root", "sleep 600 >/dev/null 2>&1 & echo $!");
    let pid = pid.trim();
    let ran = shared.run(
        "user",
        &format!("kill -KILL {pid}; kill -0 {pid}; cat /proc/{pid}/environ"),
    );
    assert_eq!(ran.err.matches("not permitted").count(), 2, "{ran:?}");
    assert_eq!(ran.out, "", "{ran:?}");
    assert_ne!(shared.run("user", &attach(pid)).code, 0);
    shared.shell("root", &format!("kill -0 {pid} && kill -KILL {pid}"));
}

#[test]
fn the_agent_works_with_few_capabilities() {
    let Some(shared) = Shared::of_root(&[]) else { return };
    // File work, so that its threads have been other users.
    for user in ["root", "user"] {
        assert_eq!(shared.write(user, "x", "x").status, 200);
    }
    let agent = shared.agent();
    let of = |task: &str| std::fs::read_to_string(format!("/proc/{agent}/task/{task}/status")).expect("a status");
    let main = of(&agent.to_string());
    let uid = field(&main, "Uid")[0].clone();
    assert!(
        uid.parse::<u32>().expect("an id") >= 1_879_048_192,
        "{uid} is one of the host's"
    );
    let mut threads = 0;
    for task in std::fs::read_dir(format!("/proc/{agent}/task"))
        .expect("tasks")
        .flatten()
    {
        let name = task.file_name().to_string_lossy().into_owned();
        let status = of(&name);
        let (permitted, effective) = if name == agent.to_string() {
            (PERMITTED_TO_THE_AGENT, OF_THE_AGENT)
        } else {
            (OF_FILE_WORK, OF_FILE_WORK)
        };
        threads += 1;
        assert_eq!(capabilities(&status, "CapPrm"), permitted, "{status}");
        assert_eq!(capabilities(&status, "CapEff"), effective, "{status}");
        assert_eq!(capabilities(&status, "CapBnd"), PERMITTED_TO_THE_AGENT, "{status}");
        assert_eq!(capabilities(&status, "CapInh"), 0, "{status}");
        assert_eq!(capabilities(&status, "CapAmb"), 0, "{status}");
        assert_eq!(field(&status, "Uid"), [uid.as_str(); 4], "rights were not given back");
        assert_eq!(field(&status, "Gid"), [uid.as_str(); 4]);
        assert_eq!(field(&status, "Groups"), [""; 0]);
        assert_eq!(field(&status, "NoNewPrivs"), ["1"]);
        assert_eq!(field(&status, "Seccomp"), ["2"]);
    }
    assert_eq!(threads, 3);
    let namespace = |pid: i32| {
        std::fs::metadata(format!("/proc/{pid}/ns/user"))
            .expect("a namespace")
            .ino()
    };
    let own = i32::try_from(std::process::id()).expect("a pid");
    assert_ne!(
        namespace(agent),
        namespace(own),
        "what it holds is worth nothing outside"
    );
}

#[test]
fn files_are_made_and_reached_as_the_user() {
    let Some(shared) = Shared::of_root(&[]) else { return };
    let owner = |path: &str| {
        shared
            .shell("root", &format!("stat -c '%U:%G %a' {path}"))
            .trim()
            .to_owned()
    };
    shared.shell("root", "mkdir -m 1777 /opt/all && mkdir -m 755 /opt/roots");
    for (user, home) in [("root", "/root"), ("user", "/home/user")] {
        let wanted = format!("{user}:{user} 644");
        let wanted_directory = format!("{user}:{user} 755");
        assert_eq!(
            shared.write(user, &format!("/opt/all/{user}/deep/file"), "x").status,
            200
        );
        assert_eq!(shared.write(user, "relative", user).status, 200);
        assert_eq!(shared.read(user, "~/relative").expect_status(200).body, user.as_bytes());
        for path in [&format!("/opt/all/{user}"), &format!("/opt/all/{user}/deep")] {
            assert_eq!(owner(path), wanted_directory);
        }
        assert_eq!(owner(&format!("/opt/all/{user}/deep/file")), wanted);
        assert_eq!(shared.shell(user, "cat ~/relative"), user);
        assert_eq!(shared.code(user, "MakeDir", &json!({"path": "a/b"})), "");
        let entry = shared
            .unary(user, "/filesystem.Filesystem/Stat", &json!({"path": "a/b"}))
            .json();
        assert_eq!(
            (entry["entry"]["owner"].as_str(), entry["entry"]["path"].as_str()),
            (Some(user), Some(format!("{home}/a/b").as_str()))
        );
        assert_eq!(
            shared.code(user, "Move", &json!({"source": "a/b", "destination": "c/d/e"})),
            ""
        );
        assert_eq!(shared.shell(user, "stat -c %U ~/c/d/e").trim(), user);
    }
    shared.shell("root", "echo secret > /opt/roots/secret && chmod 600 /opt/roots/secret");
    assert_eq!(
        shared.read("root", "/opt/roots/secret").expect_status(200).body,
        b"secret\n"
    );
    for path in ["/opt/roots/secret", "/root/relative"] {
        assert_eq!(shared.read("user", path).status, 403, "{path}");
        assert_eq!(shared.write("user", path, "mine").status, 403, "{path}");
    }
    assert_eq!(shared.write("user", "/opt/roots/new/file", "mine").status, 403);
    let refused = [
        ("Stat", json!({"path": "/root/relative"})),
        ("ListDir", json!({"path": "/root"})),
        ("MakeDir", json!({"path": "/opt/roots/new"})),
        ("Remove", json!({"path": "/opt/roots/secret"})),
        ("Remove", json!({"path": "/opt/all/root"})),
        (
            "Move",
            json!({"source": "/opt/roots/secret", "destination": "/home/user/secret"}),
        ),
        (
            "Move",
            json!({"source": "/home/user/relative", "destination": "/opt/roots/x"}),
        ),
        ("CreateWatcher", json!({"path": "/root", "recursive": true})),
    ];
    for (method, message) in refused {
        assert_eq!(
            shared.code("user", method, &message),
            "permission_denied",
            "{method} {message}"
        );
    }
    assert_eq!(
        shared.read("root", "/opt/roots/secret").expect_status(200).body,
        b"secret\n"
    );
    // A link is followed with the rights of who asks, not of who made it.
    shared.shell("user", "ln -s /root/relative ~/link");
    assert_eq!(shared.read("user", "link").status, 403);
    // The agent's own files in /proc are not the user's.
    assert_eq!(shared.read("user", "/proc/self/environ").status, 403);
    let here = |cwd: &str| json!({"process": {"cmd": "/bin/pwd", "cwd": cwd}, "stdin": false});
    let error = shared.start("user", &here("/root")).unwrap_err();
    assert_eq!(text(&error, "code"), "permission_denied", "{error}");
    shared.shell("user", "mkdir -m 700 ~/own");
    assert_eq!(
        shared.start("user", &here("own")).expect("no error").out,
        "/home/user/own\n"
    );
}

#[test]
fn watches_see_what_their_user_may() {
    let Some(shared) = Shared::of_root(&[]) else { return };
    shared.shell("root", "mkdir -m 1777 /opt/all");
    let mut watchers = Vec::new();
    for user in ["root", "user"] {
        let request = json!({"path": "/opt/all", "recursive": true, "includeEntry": true});
        let made = shared
            .unary(user, "/filesystem.Filesystem/CreateWatcher", &request)
            .expect_status(200);
        watchers.push(json!({"watcherId": text(&made.json(), "watcherId")}));
    }
    shared.shell(
        "root",
        "mkdir -m 700 /opt/all/closed; mkdir /opt/all/open; sleep 0.5; touch /opt/all/closed/x /opt/all/open/x",
    );
    shared.shell("user", "touch /opt/all/last");
    let mut names = vec![Vec::new(); 2];
    for (names, watcher) in names.iter_mut().zip(&watchers) {
        eventually("the last event came", Duration::from_secs(20), || {
            let fetched = shared
                .unary("user", "/filesystem.Filesystem/GetWatcherEvents", watcher)
                .json();
            let events = fetched["events"].as_array().cloned().unwrap_or_default();
            names.extend(events.iter().map(|event| text(event, "name")));
            names.contains(&"last".to_owned())
        });
    }
    for name in ["closed", "open", "open/x"] {
        assert!(
            names.iter().all(|names| names.contains(&name.to_owned())),
            "{name}: {names:?}"
        );
    }
    assert!(names[0].contains(&"closed/x".to_owned()), "{names:?}");
    assert!(!names[1].contains(&"closed/x".to_owned()), "{names:?}");
}

#[test]
fn streams_and_terminals_belong_to_the_user() {
    let Some(shared) = Shared::of_root(&[]) else { return };
    for user in ["root", "user", "nobody"] {
        let ran = shared.run(user, "echo out > /dev/stdout; echo err > /dev/stderr");
        assert_eq!(
            (ran.code, ran.out.as_str(), ran.err.as_str()),
            (0, "out\n", "err\n"),
            "{user}"
        );
        let script = "stat -c %U $(tty); echo by name > $(tty); echo over";
        let message = json!({
            "process": {"cmd": "/bin/bash", "args": ["-c", script]},
            "pty": {"size": {"cols": 80, "rows": 24}},
        });
        let ran = shared.start(user, &message).expect("no error");
        let lines: Vec<&str> = ran.out.lines().collect();
        assert_eq!(
            lines[lines.len().saturating_sub(2)..],
            ["by name", "over"],
            "{user}: {ran:?}"
        );
        assert!(lines.contains(&user), "{ran:?}");
    }
}

#[test]
fn the_agent_ends_programs_of_every_user() {
    let Some(shared) = Shared::of_root(&[]) else { return };
    for user in ["root", "user"] {
        let out = std::thread::scope(|scope| {
            let shared = &shared;
            let running = scope.spawn(move || shared.run(user, "sleep 600 & sleep 600"));
            let mut pid = Value::Null;
            eventually("it runs", Duration::from_secs(20), || {
                let list = shared.unary("user", "/process.Process/List", &json!({})).json();
                pid = list["processes"][0]["pid"].clone();
                pid.is_u64()
            });
            let signal = json!({"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"});
            assert_eq!(shared.unary("user", "/process.Process/SendSignal", &signal).status, 200);
            running.join().expect("its end")
        });
        assert_eq!(out.code, -1, "{user}: {out:?}");
        assert_eq!(shared.shell(user, "pgrep -c sleep || true").trim(), "0");
    }
}

#[test]
fn each_user_has_the_limit_of_processes() {
    let Some(shared) = Shared::of_root(&["--pids", "60"]) else {
        return;
    };
    let script = "ulimit -u; perl -e 'while (defined(my $pid = fork)) { if (!$pid) { sleep 3; exit } $n++ } print $n'";
    for user in ["root", "user"] {
        let out = shared.shell(user, script);
        let numbers: Vec<u32> = out.lines().filter_map(|line| line.parse().ok()).collect();
        // What runs besides: the shell, perl, and for root the agent's threads.
        assert!(matches!(numbers[..], [61, 50..=60]), "{user}: {out}");
    }
}

#[test]
fn the_agent_dies_with_its_keeper_after_file_work() {
    let Some(shared) = Shared::of_root(&[]) else { return };
    for _ in 0..5 {
        for user in ["root", "user"] {
            assert_eq!(shared.write(user, "x", "x").status, 200);
            shared.shell(user, "true");
        }
    }
    let agent = shared.agent();
    kill(shared.server.recorded(&shared.sandbox.id, "keeper"));
    eventually("the agent is gone", Duration::from_secs(20), || {
        stat(agent).is_none_or(|stat| stat.state == 'Z')
    });
}

#[test]
fn an_ordinary_users_sandbox_has_one_user() {
    let shared = Shared::new(User::Ordinary, &[]);
    let uid = if users().contains(&User::Root) {
        ORDINARY_UID
    } else {
        rustix::process::geteuid().as_raw()
    };
    let out = shared.shell("user", "id -u; cat /proc/self/status");
    assert_eq!(out.lines().next(), Some(uid.to_string().as_str()));
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(set == "CapBnd" || capabilities(&out, set) == 0, "{set}");
    }
    let wanted = format!("user 'root' is not available in this sandbox: it has the one user id {uid}");
    let error = shared.start("root", &json!({"process": {"cmd": "true"}})).unwrap_err();
    assert_eq!(
        (text(&error, "code"), text(&error, "message")),
        ("unauthenticated".to_owned(), wanted.clone())
    );
    let refused = shared.read("root", "/etc/passwd");
    assert_eq!((refused.status, refused.message()), (401, wanted));
    assert_eq!(shared.write("user", "x", "mine").status, 200);
    assert_eq!(shared.shell("user", "stat -c %u ~/x; cat ~/x"), format!("{uid}\nmine"));
}
