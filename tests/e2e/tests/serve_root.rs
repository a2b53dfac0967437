//! What `root` of a sandbox that root serves can do, as in any container, and what it still can't: everything outside.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ringwall_e2e::serve::{Answered, Client, Ran, Sandbox, Server, decode_base64, envelope, eventually, stat};
use ringwall_e2e::{User, ringwall, users};
use serde_json::{Value, json};

/// A server of root's and one sandbox of it.
struct Served {
    server: Server,
    client: Client,
    sandbox: Sandbox,
}

impl Served {
    /// Says so where the tests don't run as root.
    #[expect(clippy::print_stdout, reason = "what was skipped must be seen")]
    fn of_root(flags: &[&str]) -> Option<Self> {
        if !users().contains(&User::Root) {
            println!("SKIPPED: only root's sandboxes have a root");
            return None;
        }
        let server = Server::with(User::Root, &[&["--pool", "0"], flags].concat());
        let client = server.client();
        let sandbox = client.create(&json!({"timeout": 600}));
        Some(Served {
            server,
            client,
            sandbox,
        })
    }

    fn run_in(&self, sandbox: &Sandbox, user: &str, script: &str) -> Ran {
        let message = json!({
            "process": {"cmd": "/bin/bash", "args": ["-c", script], "envs": {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}},
            "stdin": false,
        });
        self.start(sandbox, user, &message)
    }

    fn run(&self, user: &str, script: &str) -> Ran {
        self.run_in(&self.sandbox, user, script)
    }

    fn start(&self, sandbox: &Sandbox, user: &str, message: &Value) -> Ran {
        let basic = if user == "root" {
            "Basic cm9vdDo="
        } else {
            "Basic dXNlcjo="
        };
        let kind = ("Content-Type", "application/connect+json");
        let headers = [sandbox.headers().as_slice(), &[("Authorization", basic), kind]].concat();
        let body = envelope(0, message.to_string().as_bytes());
        let answer = self
            .client
            .request("POST", "/process.Process/Start", &headers, &body)
            .expect("an answer")
            .expect_status(200);
        let mut ran = Ran::default();
        let mut left = answer.body.as_slice();
        while let Some((head, rest)) = left.split_first_chunk::<5>() {
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            let (message, rest) = rest.split_at(length);
            left = rest;
            let message: Value = serde_json::from_slice(message).expect("JSON");
            assert!(message.get("error").is_none(), "{message}");
            let said = |stream: &str| {
                let bytes = message.pointer(&format!("/event/data/{stream}"));
                let bytes = bytes.and_then(Value::as_str).map(decode_base64);
                String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
            };
            ran.out += &said("stdout");
            ran.err += &said("stderr");
            if let Some(code) = message.pointer("/event/end/exitCode") {
                ran.code = code.as_i64().unwrap_or(-1);
            }
        }
        ran
    }

    #[track_caller]
    fn shell(&self, user: &str, script: &str) -> String {
        let ran = self.run(user, script);
        assert_eq!(ran.code, 0, "{user}: {script}: {ran:?}");
        ran.out
    }

    #[track_caller]
    fn refuses(&self, user: &str, script: &str) {
        let ran = self.run(user, script);
        assert!(
            ran.code != 0 && !ran.err.contains("not found"),
            "{user}: {script}: {ran:?}"
        );
    }
}

#[test]
fn root_does_what_root_does_in_a_container() {
    let Some(served) = Served::of_root(&[]) else { return };
    for (script, wanted) in [
        (
            "touch /opt/a && chown user:nogroup /opt/a && stat -c %U:%G /opt/a",
            "user:nogroup\n",
        ),
        ("su user -c 'id -u; id -g; id -G'", "1000\n1000\n1000\n"),
        ("setpriv --reuid 1 --regid 2 --clear-groups id -u", "1\n"),
        (
            "useradd -m bob && su bob -c 'cd && pwd && touch mine' && stat -c %U /home/bob/mine",
            "/home/bob\nbob\n",
        ),
        // What another user owns and has closed.
        (
            "su user -c 'echo x > ~/own; chmod 600 ~/own' && cat /home/user/own",
            "x\n",
        ),
        ("chmod 640 /home/user/own && rm /home/user/own && echo gone", "gone\n"),
        (
            "su user -c 'exec sleep 600' & sleep 0.5; pkill -u user sleep && echo killed",
            "killed\n",
        ),
        (
            "perl -MIO::Socket::INET -e 'print defined(IO::Socket::INET->new(Listen => 1, LocalAddr => \"127.0.0.1:80\"))'",
            "1",
        ),
        // A user that root has become holds nothing, in no set, and can't go back.
        (
            "su user -c 'grep -hE \"^Cap(Inh|Prm|Eff|Amb)\" /proc/self/status | grep -c 0000000000000000'",
            "4\n",
        ),
        (
            "setpriv --reuid 1000 --regid 1000 --clear-groups sh -c 'grep -c \"^Cap\\(Prm\\|Eff\\|Amb\\).*0000000000000000\" /proc/self/status'",
            "3\n",
        ),
        ("su user -c 'setpriv --reuid 0 true || echo no'", "no\n"),
    ] {
        assert_eq!(served.shell("root", script), wanted, "{script}");
    }
    // The same over the API of files.
    served.shell(
        "user",
        "mkdir -m 700 ~/closed; echo secret > ~/closed/file; chmod 600 ~/closed/file",
    );
    let file = |user: &str| {
        let path = format!("/files?path=/home/user/closed/file&username={user}");
        let answer = served.client.request("GET", &path, &served.sandbox.headers(), b"");
        answer.expect("an answer")
    };
    assert_eq!(file("root").expect_status(200).body, b"secret\n");
    served.shell("root", "chown root:root /home/user/closed");
    assert_eq!(file("user").status, 403);
    assert_eq!(file("root").status, 200);
}

#[test]
fn root_installs_packages() {
    let Some(served) = Served::of_root(&[]) else { return };
    let tree = tempfile::tempdir().expect("a directory");
    let root = tree.path().join("root");
    let made = Command::new("sh")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/serve_root.sh"))
        .arg(&root)
        .output()
        .expect("sh");
    assert!(made.status.success(), "{made:?}");
    let built = Command::new(ringwall())
        .env("RINGWALL_URL", served.client.url())
        .env("RINGWALL_API_KEY", served.client.key())
        .args(["template", "build", "--name", "debian", "--from-dir"])
        .arg(&root)
        .output()
        .expect("a build");
    assert!(built.status.success(), "{built:?}");
    let sandbox = served.client.create(&json!({"templateID": "debian", "timeout": 600}));
    let shell = |user: &str, script: &str| {
        let ran = served.run_in(&sandbox, user, script);
        assert_eq!(ran.code, 0, "{user}: {script}: {ran:?}");
        ran.out
    };
    shell(
        "root",
        "dpkg -i /opt/repo/hello-rw_1_all.deb && dpkg -s hello-rw | grep '^Status: install ok installed'",
    );
    assert_eq!(
        shell("root", "stat -c '%U:%G %a' /opt/hello/data /opt/hello/file"),
        "hello:users 750\nuser:user 640\n"
    );
    shell("root", "dpkg -r hello-rw && test ! -e /opt/hello/file");
    // As its own user `_apt` while it fetches, which it takes by setgroups, setresgid and setresuid.
    shell(
        "root",
        "apt-get update && apt-get install -y more-rw && cat /opt/more/file /opt/hello/file",
    );
    assert_eq!(shell("root", "stat -c %U /var/cache/apt/archives/partial"), "_apt\n");
    assert_ne!(served.run_in(&sandbox, "user", "dpkg -r more-rw").code, 0);
}

#[test]
fn root_gets_at_nothing_of_the_host() {
    let Some(served) = Served::of_root(&[]) else { return };
    for attempt in [
        // What is the host's is shown as it is: no owner of it has an id inside.
        "touch /usr/bin/new",
        "chown user /usr/bin/id",
        "chmod 777 /usr/bin/id",
        "mount -o remount,rw /usr",
        "mount -t tmpfs none /mnt",
        "mount --bind /opt /mnt",
        "umount /usr",
        "chroot / true",
        "unshare --mount true",
        "unshare --user --map-root-user true",
        "nsenter --target 1 --mount true",
        "hostname other",
        "sysctl -w net.ipv4.ip_forward=1",
        "echo 1 > /proc/sys/vm/drop_caches",
        "echo h > /proc/sysrq-trigger",
        "mknod /opt/null c 1 3",
        "mknod /opt/disk b 8 0",
        "chmod 666 /dev/null",
        "chown user /dev/null",
        "ip link add dummy0 type dummy",
        "dmesg",
        "nice -n -5 sh -c 'test $(nice) -lt 0'",
        "date -s 2020-01-01",
        // What would be more than it looks to who meets it outside.
        "cp /bin/id /opt/id && chmod u+s /opt/id",
        "cp /bin/id /opt/id && chmod g+s /opt/id",
        "cp /bin/id /opt/id && setcap cap_net_raw+ep /opt/id",
        "perl -e 'open(F, q(>/opt/caps)); exit(syscall(188, q(/opt/caps), q(security.capability), pack(q(V5), 0x02000001, 1 << 21, 0, 0, 0), 20, 0) != 0)'",
        "cat /etc/shadow",
    ] {
        served.refuses("root", attempt);
    }
    // Files of the host that only its root may read.
    let closed = Command::new("find")
        .args(["/usr", "-xdev", "-type", "f", "!", "-perm", "/044", "-size", "+0"])
        .output()
        .expect("find");
    for path in String::from_utf8_lossy(&closed.stdout).lines().take(20) {
        served.refuses("root", &format!("head -c 1 '{path}'"));
    }
    // What it has made is root's on the host's disk, too, and nobody else gets there.
    served.shell("root", "touch /opt/mine; chown 1000 /opt/mine; sync");
    let upper = served.server.state().join("sandboxes").join(&served.sandbox.id);
    assert!(upper.join("upper/opt/mine").exists());
    let outside = Command::new("setpriv")
        .args(["--reuid", "1000", "--regid", "1000", "--clear-groups", "ls"])
        .arg(upper.join("upper"))
        .output()
        .expect("setpriv");
    assert!(!outside.status.success(), "{outside:?}");
}

#[test]
fn root_gets_at_nothing_of_the_agent() {
    let Some(served) = Served::of_root(&[]) else { return };
    let (trace, read, get) = if cfg!(target_arch = "x86_64") {
        (101, 310, 438)
    } else {
        (117, 270, 438)
    };
    for attempt in [
        "cat /proc/1/environ".to_owned(),
        "cat /proc/1/maps".to_owned(),
        "head -c 1 /proc/1/mem".to_owned(),
        "echo x > /proc/1/mem".to_owned(),
        "cat /proc/1/fd/3".to_owned(),
        "readlink /proc/1/exe".to_owned(),
        "ls /proc/1/root/".to_owned(),
        "ls /proc/1/map_files/".to_owned(),
        "cat /proc/1/stack".to_owned(),
        "cat /proc/1/syscall".to_owned(),
        format!("perl -e 'exit(syscall({trace}, 16, 1, 0, 0) < 0)'"),
        format!("perl -e 'exit(syscall({trace}, 0x4206, 1, 0, 0) < 0)'"),
        format!("perl -e 'exit(syscall({read}, 1, 0, 0, 0, 0, 0) < 0)'"),
        format!("perl -e 'my $p = syscall(434, 1, 0); exit(syscall({get}, $p, 0, 0) < 0)'"),
        "gdb -p 1 -batch 2>/dev/null | grep -q attached".to_owned(),
    ] {
        let ran = served.run("root", &attempt);
        assert_ne!(ran.code, 0, "{attempt}: {ran:?}");
    }
    served.shell(
        "root",
        "for s in TERM INT HUP QUIT USR1 SEGV ABRT STOP KILL CONT; do kill -$s 1; done; kill -KILL -1; true",
    );
    assert_eq!(served.shell("root", "echo still here"), "still here\n");
}

#[test]
fn all_users_of_a_sandbox_together_have_a_limit_of_processes() {
    let Some(served) = Served::of_root(&["--pids", "60"]) else {
        return;
    };
    // As ten users in turn, each with its own count: without a limit for all it would get to 600.
    let script = "perl -e 'for my $u (2000 .. 2009) { my $p = fork; next if $p; $< = $> = $u; my $n = 0; \
                  while (1) { my $c = fork; last if !defined $c; if (!$c) { sleep 5; exit } $n++ } print \"$n\\n\"; sleep 5; exit } wait for 1 .. 10'";
    let out = served.run("root", script).out;
    let sum: u32 = out.lines().filter_map(|line| line.parse::<u32>().ok()).sum();
    assert!((60..=125).contains(&sum), "{sum}: {out}");
}

/// What the attempts look for, on the host.
struct Field {
    tree: tempfile::TempDir,
    canary: Child,
    listener: TcpListener,
    _socket: UnixListener,
}

const SECRET: &str = "the secret that was planted";

impl Field {
    fn plant() -> Self {
        let tree = tempfile::tempdir().expect("a directory");
        let outside = tree.path().join("outside");
        std::fs::create_dir(&outside).expect("a directory");
        for (file, content) in [("secret", SECRET), ("victim", "unharmed")] {
            std::fs::write(outside.join(file), content).expect("a file");
        }
        let canary = Command::new("sleep")
            .arg("100000")
            .current_dir(&outside)
            .env("RW_CANARY", "secret")
            .stdin(Stdio::null())
            .spawn()
            .expect("a canary");
        Field {
            canary,
            listener: TcpListener::bind("127.0.0.1:0").expect("a port"),
            _socket: UnixListener::bind(outside.join("sock")).expect("a socket"),
            tree,
        }
    }

    fn variables(&self) -> BTreeMap<&'static str, String> {
        let path = |name: &str| {
            self.tree
                .path()
                .join("outside")
                .join(name)
                .to_string_lossy()
                .into_owned()
        };
        BTreeMap::from([
            ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
            ("RW_SECRET_TEXT", SECRET.to_owned()),
            ("RW_SECRET_FILE", path("secret")),
            ("RW_HOME_SECRET", path("secret")),
            ("RW_VICTIM", path("victim")),
            ("RW_OUTSIDE_DIR", path("")),
            ("RW_STATE", path("")),
            ("RW_UNIX_PATH", path("sock")),
            ("RW_UNIX_DGRAM", path("dgram")),
            ("RW_SETUID", path("setuid")),
            ("RW_FILECAPS", path("filecaps")),
            ("RW_HOST_PID", self.canary.id().to_string()),
            (
                "RW_HOST_PORT",
                self.listener.local_addr().expect("a port").port().to_string(),
            ),
            ("RW_ABSTRACT", format!("rw-served-{}", std::process::id())),
            ("RW_OUTLIVE", format!("rw-outlive-served-{}", std::process::id())),
        ])
    }

    fn assert_unharmed(&mut self, after: &str) {
        assert!(matches!(self.canary.try_wait(), Ok(None)), "{after} killed the canary");
        let outside = self.tree.path().join("outside");
        let read = |file: &str| std::fs::read_to_string(outside.join(file)).unwrap_or_default();
        assert_eq!(
            (read("secret").as_str(), read("victim").as_str()),
            (SECRET, "unharmed"),
            "{after}"
        );
        assert!(
            !outside.join("written").exists() && !outside.join("renamed").exists(),
            "{after}"
        );
    }
}

impl Drop for Field {
    fn drop(&mut self) {
        drop(self.canary.kill());
        drop(self.canary.wait());
    }
}

/// Attempts on limits that this sandbox was not given, which `escapes` makes with each; and one on the parent, which is nobody else's here.
const LEFT_OUT: [&str; 9] = [
    "kill-init",
    "fork-bomb",
    "thread-bomb",
    "descriptor-exhaustion",
    "memory-bomb",
    "disk-filling",
    "tmp-filling",
    "many-small-files",
    "time",
];
/// What root may do inside: write to its own /etc and become its own users.
const RIGHTS_OF_ROOT: [&str; 3] = ["write-etc", "setuid", "setgroups"];

fn attempts() -> PathBuf {
    std::env::var_os("RINGWALL_ATTEMPTS_BIN")
        .map_or_else(|| ringwall().with_file_name("ringwall-attempts"), PathBuf::from)
}

#[test]
fn nothing_escapes_a_served_sandbox() {
    let Some(served) = Served::of_root(&[]) else { return };
    let mut field = Field::plant();
    let list = Command::new(attempts()).arg("list").output().expect("the attempts");
    let names: Vec<String> = String::from_utf8_lossy(&list.stdout)
        .lines()
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect();
    assert!(names.len() > 100, "{names:?}");
    let mut binary = Vec::new();
    std::fs::File::open(attempts())
        .and_then(|mut file| file.read_to_end(&mut binary))
        .expect("the attempts");
    served
        .client
        .write(&served.sandbox, "/tmp/attempts", &binary)
        .json_of(200);
    served.shell("root", "install -m 755 /tmp/attempts /opt/attempts && rm /tmp/attempts");
    for user in ["root", "user"] {
        let (mut stopped, mut skipped, mut escaped) = (0, 0, Vec::new());
        for name in &names {
            if LEFT_OUT.contains(&name.as_str()) {
                continue;
            }
            // Into a file: some leave processes behind that would hold a pipe open.
            let script = format!(
                "timeout -k 1 20 /opt/attempts attempt {name} > /tmp/said 2>&1 < /dev/null; code=$?; cat /tmp/said; rm -f /tmp/said; exit $code"
            );
            let message = json!({
                "process": {"cmd": "/bin/bash", "args": ["-c", script], "envs": field.variables()},
                "stdin": false,
            });
            let ran = served.start(&served.sandbox, user, &message);
            field.assert_unharmed(name);
            match ran.code {
                0 if user == "root" && RIGHTS_OF_ROOT.contains(&name.as_str()) => {}
                0 => escaped.push(format!("{name}: {}", ran.out.trim())),
                2 => {
                    skipped += 1;
                    println!("SKIPPED: {name}: {}", ran.out.trim());
                }
                _ => stopped += 1,
            }
            drop(std::io::stdout().flush());
        }
        println!(
            "{user}: {stopped} stopped, {skipped} skipped, {} not stopped",
            escaped.len()
        );
        assert!(escaped.is_empty(), "{user}: {escaped:#?}");
        assert!(stopped > 100, "only {stopped} were made");
    }
    eventually("the agent lives", Duration::from_secs(20), || {
        stat(served.server.recorded(&served.sandbox.id, "init")).is_some_and(|stat| stat.state != 'Z')
    });
}
