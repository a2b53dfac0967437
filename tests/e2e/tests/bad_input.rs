//! What must be shown 5: wrong flags, policies, paths, names and environments, each with its exact words and exit code.
//!
//! Every case runs the real binary in a home and a current directory of its own, and goes into one snapshot per table. Whatever the
//! snapshot says, a case must fail with the code of its table, say why on standard error, print no result and never panic. To take
//! over changed words after reading them: `INSTA_UPDATE=always cargo test -p ringwall-e2e bad_input`.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test's helper fails and talks like the test itself"
)]

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A request that can't be right.
const USAGE: i32 = 2;
/// A right request that can't be met.
const OWN_FAILURE: i32 = 125;

/// A directory with everything that the cases name.
struct Ground {
    root: tempfile::TempDir,
}

impl Ground {
    fn new() -> Self {
        let root = tempfile::Builder::new().prefix("ringwall-bad-").tempdir().unwrap();
        // Canonical paths are what messages hold.
        let ground = Ground { root };
        for directory in ["home", "work", "work/folder", "open"] {
            fs::create_dir(ground.path(directory)).unwrap();
        }
        fs::set_permissions(ground.path("open"), fs::Permissions::from_mode(0o777)).unwrap();
        fs::write(ground.path("work/file"), "text\n").unwrap();
        fs::write(ground.path("plain"), "").unwrap();
        std::os::unix::fs::symlink("nowhere", ground.path("work/dangling")).unwrap();
        ground
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().canonicalize().unwrap().join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(binary());
        command.arg0("ringwall").current_dir(self.path("work")).env_clear();
        command
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.path("home"));
        command.env("RINGWALL_STATE_DIR", self.path("state"));
        command
    }

    /// Returns whether a tier works here, and says so if not.
    fn has_tier(&self, tier: &str, test: &str) -> bool {
        let output = self
            .command()
            .args(["run", "--isolation", tier, "--changes", "none", "true"])
            .output()
            .unwrap();
        if !output.status.success() {
            println!(
                "SKIPPED: {test}: no {tier} tier here: {}",
                self.tidy(&output.stderr).trim_end()
            );
        }
        output.status.success()
    }

    /// Puts a name where the temporary directory's own, different every time, would be.
    fn tidy(&self, text: &[u8]) -> String {
        let text = String::from_utf8_lossy(text);
        text.replace(&*self.path("").to_string_lossy(), "[ROOT]/")
            .replace(&*self.root.path().to_string_lossy(), "[ROOT]")
    }
}

/// Collects the cases of one table.
struct Table<'g> {
    ground: &'g Ground,
    text: String,
    cases: usize,
    failures: Vec<String>,
}

impl<'g> Table<'g> {
    fn new(ground: &'g Ground) -> Self {
        Table {
            ground,
            text: String::new(),
            cases: 0,
            failures: Vec::new(),
        }
    }

    /// Runs a case, checks what must hold for each, and notes its words.
    fn case(&mut self, title: &str, command: &mut Command, wanted_code: i32) {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let stderr = self.ground.tidy(&stderr);
        let stdout = self.ground.tidy(&stdout);
        let mut must = |holds: bool, what: &str| {
            if !holds {
                self.failures
                    .push(format!("{title}: {what}: exit {:?}\n{stdout}{stderr:?}", status.code()));
            }
        };
        must(
            status.code() == Some(wanted_code),
            &format!("the exit code must be {wanted_code}"),
        );
        must(!stderr.trim().is_empty(), "a reason must be given");
        must(stdout.is_empty(), "standard output is for results");
        must(!stderr.contains("panicked"), "it must not panic");
        must(
            !stderr.contains(['\u{1b}', '\u{7}']),
            "no control character may reach the terminal",
        );
        writeln!(self.text, "$ {title}\n[{wanted_code}]\n{stderr}").unwrap();
        self.cases += 1;
    }

    /// Runs `ringwall` with words separated by spaces.
    fn words(&mut self, line: &str, wanted_code: i32) {
        let mut command = self.ground.command();
        command.args(line.split(' ').filter(|word| !word.is_empty()));
        self.case(&format!("ringwall {line}"), &mut command, wanted_code);
    }

    /// Runs `ringwall` with arguments that need not be text.
    fn bytes(&mut self, arguments: &[&[u8]], wanted_code: i32) {
        let arguments: Vec<OsString> = arguments
            .iter()
            .map(|bytes| OsString::from_vec(bytes.to_vec()))
            .collect();
        let title: Vec<String> = arguments
            .iter()
            .map(|word| word.as_bytes().escape_ascii().to_string())
            .collect();
        self.case(
            &format!("ringwall {}", title.join(" ")),
            self.ground.command().args(&arguments),
            wanted_code,
        );
    }

    /// Runs with a policy file of this content.
    fn policy(&mut self, content: impl AsRef<[u8]>) {
        let content = content.as_ref();
        fs::write(self.ground.path("work/p.toml"), content).unwrap();
        let title = match content.len() {
            ..300 => format!(
                "ringwall run --policy p.toml true <<{}",
                String::from_utf8_lossy(content)
            ),
            bytes => format!("ringwall run --policy p.toml true <<({bytes} bytes)"),
        };
        let mut command = self.ground.command();
        self.case(&title, command.args(["run", "--policy", "p.toml", "true"]), USAGE);
    }

    /// Compares with the snapshot, which holds at least so many cases.
    fn finish(self, name: &str, least: usize) {
        assert!(
            self.failures.is_empty(),
            "{} of {name}:\n{}",
            self.failures.len(),
            self.failures.join("\n\n")
        );
        assert!(self.cases >= least, "{name} has only {} cases", self.cases);
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(name, self.text);
        });
    }
}

/// Finds the binary: `RINGWALL_BIN`, else the release build beside this test's own.
fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("RINGWALL_BIN") {
        return PathBuf::from(path);
    }
    let test = std::env::current_exe().unwrap();
    let target = test.ancestors().nth(3).unwrap_or(Path::new("."));
    let found = ["release", "debug"]
        .map(|profile| target.join(profile).join("ringwall"))
        .into_iter()
        .find(|path| path.exists());
    found.expect("no ringwall binary: run `cargo build --release`, or name one in RINGWALL_BIN")
}

#[test]
fn bad_flags() {
    let ground = Ground::new();
    let mut table = Table::new(&ground);
    for line in [
        "frobnicate",
        "--frobnicate",
        "run",
        "run --",
        "run -m",
        "run --isolation vm true",
        "run --isolation Landlock true",
        "run --min-isolation auto true",
        "run --net bridge true",
        "run --changes yes true",
        "run --memory 1X true",
        "run --memory 0 true",
        "run --memory=-1 true",
        "run --memory 1.5G true",
        "run --memory 99999999999T true",
        "run --memory 4K true",
        "run -m 1G -m 2G true",
        "run --cpus 0 true",
        "run --cpus nan true",
        "run --cpus 5000 true",
        "run --pids 0 true",
        "run --pids 1 true",
        "run --pids=-4 true",
        "run --pids 5000000000 true",
        "run --pids many true",
        "run --files 0 true",
        "run --files 15 true",
        "run --disk lots true",
        "run --timeout 0 true",
        "run --timeout 1m30 true",
        "run --timeout 366d true",
        "run --timeout 5y true",
        "run --allow-degraded everything true",
        "run --tty=yes true",
        "diff",
        "diff a b",
        "diff --stat --patch a",
        "commit",
        "commit --farce a",
        "discard",
        "inspect",
        "kill",
        "logs",
        "gc now",
        "doctor --yaml",
        "policy",
        "policy print",
        "policy show --pids x",
        "ps --json=yes",
    ] {
        // `policy` and `run` alone name what is missing; clap gives all of these the same code.
        table.words(line, USAGE);
    }
    table.finish("bad_flags", 45);
}

/// A mistyped option must not become the command.
#[test]
fn an_unknown_option_is_no_command() {
    let ground = Ground::new();
    for line in [
        "run --frobnicate",
        "run --frobnicate true",
        "run --frobnicate -- true",
        "run --raed /x true",
        "run -Z true",
    ] {
        let output = ground.command().args(line.split(' ')).output().unwrap();
        let stderr = ground.tidy(&output.stderr);
        assert_eq!(output.status.code(), Some(USAGE), "{line}: {stderr}");
        let option = line.split(' ').nth(1).unwrap();
        assert!(
            stderr.contains(&format!("unexpected argument '{option}'")),
            "{line}: {stderr}"
        );
    }
}

#[test]
fn bad_policies() {
    let ground = Ground::new();
    let mut table = Table::new(&ground);
    for content in [
        "[limits]\nmemroy = \"1G\"",
        "memory = \"1G\"",
        "[network]\nports = [80]",
        "[sandbox]\nx = 1",
        "isolation = \"vm\"",
        "isolation = 3",
        "min_isolation = \"auto\"",
        "changes = \"maybe\"",
        "name = \"No Such\"",
        "tty = \"yes\"",
        "limits = 3",
        "limits.memory = true",
        "limits.memory = \"1X\"",
        "limits.cpus = \"2\"",
        "limits.cpus = -1.5",
        "limits.pids = 1",
        "limits.pids = 0.5",
        "limits.files = 4294967296",
        "limits.timeout = \"soon\"",
        "limits.allow_degraded = \"cpus\"",
        "limits.allow_degraded = [\"ram\"]",
        "files.read = \"/srv\"",
        "files.read = [\"/srv\", 7]",
        "files.read = [\"\"]",
        "files.read = [\"~/x\"]",
        "files.read = [\"a/../b\"]",
        "files.read = [\"/\"]",
        "files.read = [\"a\\u0000b\"]",
        "files.write = [\"/proc/sys\"]",
        "files.deny = [\"/\"]",
        "files.read = [\"/srv\"]\nfiles.deny = [\"/srv/\"]",
        "files.mounts = [\"/srv\"]",
        "files.mounts = [\"/srv:/dev/x\"]",
        "files.mounts = [\"/srv:/x:rw\"]",
        "files.mounts = [\"/srv:/x\", \"/opt:/x\"]",
        "files.rootfs = \"/\"",
        "files.rootfs = \"/srv\"\nfiles.workdir = \"sub\"",
        "files.home_tools = 0",
        "network.mode = \"bridge\"",
        "env.set = { \"A=B\" = \"c\" }",
        "env.set = { \"\" = \"c\" }",
        "env.set = { A = 1 }",
        "env.set = { A = \"\\u0000\" }",
        "env.pass = [\"A=B\"]",
        "env.pass = \"A\"",
        "env = { set = { A = \"1\" }, pass = [\"A\"] }",
        "changes = \"discard\"\nname = \"x\"",
        "isolation = \"landlock\"\nmin_isolation = \"namespace\"",
        "tty = true\ntty = false",
        "tty =",
        "[files",
        "= 3",
        "\u{1b}[2J = 3",
        "\"\\u001b[2J\" = 3",
        "# é\n[limits]\n  pds = 3",
    ] {
        table.policy(content);
    }
    table.policy(b"# \xff");
    table.policy("#".repeat(1024 * 1024 + 1));
    table.policy(format!("a = {}", "[".repeat(50_000)));
    for line in [
        "run --policy missing.toml true",
        "run --policy folder true",
        "run --policy",
        "policy show --policy missing.toml",
    ] {
        table.words(line, USAGE);
    }
    table.finish("bad_policies", 58);
}

#[test]
fn bad_paths() {
    let ground = Ground::new();
    let mut table = Table::new(&ground);
    for line in [
        "run --read missing true",
        "run --write missing true",
        "run --deny missing/../x true",
        "run --read dangling true",
        "run --read= true",
        "run --read=~/x true",
        "run --read a/../b true",
        "run --read / true",
        "run --read /proc true",
        "run --write //dev/./shm true",
        "run --deny /proc true",
        "run --read folder --deny folder/ true",
        "run --read folder --write folder true",
        "run --mount folder true",
        "run --mount folder:inside true",
        "run --mount :/x true",
        "run --mount missing:/x true",
        "run --mount folder:/x:rw true",
        "run --mount folder:/proc true",
        "run --mount folder:/sys/fs true",
        "run --mount folder:/ true",
        "run --mount folder:/a/../proc true",
        "run --mount folder:/x --mount file:/x/ true",
        "run --mount folder:/x --deny /x true",
        "run --rootfs / true",
        "run --rootfs missing true",
        "run --rootfs file true",
        "run --rootfs folder -w sub true",
        "run -w a/../b true",
    ] {
        table.words(line, USAGE);
    }
    table.bytes(&[b"run", b"-w", b"", b"true"], USAGE);
    let long = format!("/{}", "x".repeat(5000));
    let mut too_long = ground.command();
    table.case(
        "ringwall run --read /(5000 bytes) true",
        too_long.args(["run", "--read", &long, "true"]),
        USAGE,
    );
    table.bytes(&[b"run", b"--mount", b"/\xff:/x:y", b"true"], USAGE);
    table.finish("bad_paths", 32);
}

#[test]
fn bad_names() {
    let ground = Ground::new();
    let mut table = Table::new(&ground);
    let long = "a".repeat(65);
    for name in ["", ".", "..", "A", "a/b", "a b", "é", "_x", "a\u{1b}[2J", "a\nb", &long] {
        table.bytes(&[b"run", format!("--name={name}").as_bytes(), b"true"], USAGE);
    }
    table.bytes(&[b"run", b"--name", b"a\xff", b"true"], USAGE);
    table.bytes(&[b"diff", b"../state"], USAGE);
    table.bytes(&[b"kill", b"A"], USAGE);
    for line in [
        "run --name x --changes discard true",
        "run --name x --changes none true",
    ] {
        table.words(line, USAGE);
    }
    for command in ["diff", "commit", "discard", "inspect", "kill", "logs"] {
        table.words(&format!("{command} nosuch"), USAGE);
    }
    table.finish("bad_names", 22);
}

#[test]
fn bad_environments() {
    let ground = Ground::new();
    let mut table = Table::new(&ground);
    for variable in [&b""[..], b"=", b"=x", b"A=\xff", b"\xff=x", b"\xff"] {
        table.bytes(&[b"run", b"-e", variable, b"true"], USAGE);
    }
    table.words("run -e NOT_SET true", USAGE);
    fs::write(ground.path("work/pass.toml"), "env.pass = [\"NOT_SET\"]").unwrap();
    table.words("run --policy pass.toml true", USAGE);

    let place = |directory: &str| Some(ground.path(directory).into_os_string());
    for (title, directory, has_home, code) in [
        ("-u RINGWALL_STATE_DIR -u HOME", None, false, USAGE),
        ("-u HOME RINGWALL_STATE_DIR=state", Some("state".into()), false, USAGE),
        ("RINGWALL_STATE_DIR=[ROOT]/plain", place("plain"), true, OWN_FAILURE),
        ("RINGWALL_STATE_DIR=[ROOT]/open", place("open"), true, OWN_FAILURE),
    ] {
        let mut command = ground.command();
        command
            .args(["run", "--name", "a", "true"])
            .env_remove("RINGWALL_STATE_DIR");
        if let Some(directory) = directory {
            command.env("RINGWALL_STATE_DIR", directory);
        }
        if !has_home {
            command.env_remove("HOME");
        }
        table.case(&format!("env {title} ringwall run --name a true"), &mut command, code);
    }

    let mut gone = Command::new("/bin/sh");
    gone.arg("-c")
        .arg("mkdir gone && cd gone && rmdir ../gone && exec \"$0\" run true")
        .arg(binary());
    gone.current_dir(ground.path("work"))
        .env_clear()
        .env("HOME", ground.path("home"));
    gone.env("RINGWALL_STATE_DIR", ground.path("state"));
    table.case("(in a removed directory) ringwall run true", &mut gone, USAGE);
    table.finish("bad_environments", 12);
}

#[test]
fn impossible_requests() {
    let ground = Ground::new();
    if !ground.has_tier("landlock", "impossible_requests") {
        return;
    }
    let mut table = Table::new(&ground);
    for line in [
        "run --isolation landlock --min-isolation namespace true",
        "run --isolation landlock --changes keep true",
        "run --isolation landlock --changes commit true",
        "run --isolation landlock --changes discard true",
        "run --isolation landlock --rootfs folder true",
        "run --isolation landlock --mount folder:/x true",
        "run --isolation landlock --changes keep --name x true",
    ] {
        table.words(line, USAGE);
    }
    table.finish("impossible_requests", 7);
}

#[test]
fn commands_that_cannot_be_executed() {
    let ground = Ground::new();
    if !ground.has_tier("namespace", "commands_that_cannot_be_executed") {
        return;
    }
    fs::write(ground.path("work/plain"), "#!/bin/sh\n").unwrap();
    fs::write(ground.path("work/broken"), "#!/no/such/interpreter\n").unwrap();
    fs::write(ground.path("work/noise"), "\u{1}\u{2}\u{3}").unwrap();
    for script in ["broken", "noise"] {
        fs::set_permissions(ground.path("work").join(script), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut table = Table::new(&ground);
    for (line, code) in [
        ("run no-such-command", 127),
        ("run ./no-such-command", 127),
        ("run /no/such/command", 127),
        ("run ./plain", 126),
        ("run ./folder", 126),
        ("run ./noise", 126),
        ("run ./file/x", 127),
        ("run -w /no/such/directory true", OWN_FAILURE),
        ("run -w /etc/passwd true", OWN_FAILURE),
    ] {
        table.words(line, code);
    }
    // An interpreter that is missing: the shell's own code for it differs between shells, ours is "can't be executed".
    table.words("run ./broken", 126);
    table.bytes(&[b"run", b""], 127);
    table.bytes(&[b"run", b"\x1b[2J"], 127);
    table.finish("commands_that_cannot_be_executed", 12);
}
