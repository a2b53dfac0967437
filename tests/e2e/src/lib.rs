//! Support for tests that drive the real binary: finding it, scratch directories, and running as root's and as an ordinary user's.
//!
//! A test that needs root runs everything a second time as [`User::Ordinary`]; without root that user is whoever runs the tests, and
//! the root part says `SKIPPED`.

pub mod serve;
pub mod vmm;

use std::ffi::OsStr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// A user id that no ordinary machine has.
pub const ORDINARY_UID: u32 = 54321;

/// Who runs `ringwall`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// Root.
    Root,
    /// Somebody else.
    Ordinary,
}

/// Returns the users that tests can run as here; says `SKIPPED` of the one that they can't.
#[must_use]
#[expect(
    clippy::print_stdout,
    reason = "a skipped test must be seen, and stdout is where tests report"
)]
pub fn users() -> Vec<User> {
    if rustix::process::geteuid().is_root() {
        vec![User::Root, User::Ordinary]
    } else {
        println!("SKIPPED: as root: the tests are not run by root");
        vec![User::Ordinary]
    }
}

static BINARY: OnceLock<PathBuf> = OnceLock::new();

/// Chooses the binary under test for this process, before any other choice. Only the first call counts.
pub fn use_binary(path: &Path) {
    drop(BINARY.set(path.to_owned()));
}

/// Returns the binary under test: `RINGWALL_BIN`, else the newest build in `target/`.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn ringwall() -> PathBuf {
    if let Some(path) = BINARY.get() {
        return path.clone();
    }
    if let Some(path) = std::env::var_os("RINGWALL_BIN") {
        return PathBuf::from(path);
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let mut found: Vec<PathBuf> = Vec::new();
    for triple in [
        "x86_64-unknown-linux-gnu",
        "x86_64-unknown-linux-musl",
        "aarch64-unknown-linux-gnu",
        ".",
    ] {
        for profile in ["release", "debug"] {
            found.push(target.join(triple).join(profile).join("ringwall"));
        }
    }
    let modified = |path: &PathBuf| path.metadata().and_then(|metadata| metadata.modified()).ok();
    found
        .into_iter()
        .filter(|path| path.is_file())
        .max_by_key(modified)
        .expect("no ringwall binary: run `cargo build --release -p ringwall`, or set RINGWALL_BIN")
}

/// A world of its own for one test: a home, a state directory and a project directory, owned by one user and removed at the end.
#[derive(Debug)]
pub struct World {
    user: User,
    base: tempfile::TempDir,
    binary: PathBuf,
}

impl World {
    /// Makes one below `/tmp`.
    ///
    /// # Panics
    /// When it can't be made.
    #[must_use]
    pub fn new(user: User) -> Self {
        let base = tempfile::Builder::new()
            .prefix("rw-e2e-")
            .tempdir_in("/tmp")
            .expect("a scratch directory");
        let world = World {
            user,
            binary: base.path().join("bin/ringwall"),
            base,
        };
        for directory in ["home", "project", "state", "bin"] {
            std::fs::create_dir(world.path(directory)).expect("a directory");
        }
        // The build directory may lie where the ordinary user can't reach it.
        // A link where that is possible: a copy is busy (ETXTBSY) for as long as a process forked meanwhile holds it open for writing.
        if std::fs::hard_link(ringwall(), &world.binary).is_err() {
            std::fs::copy(ringwall(), &world.binary).expect("a copy of the binary");
        }
        std::fs::set_permissions(world.base.path(), PermissionsExt::from_mode(0o755)).expect("permissions");
        std::fs::set_permissions(world.path("state"), PermissionsExt::from_mode(0o700)).expect("permissions");
        for directory in ["home", "project", "state"] {
            world.hand_over(&world.path(directory));
        }
        world
    }

    /// Returns whose it is.
    #[must_use]
    pub fn user(&self) -> User {
        self.user
    }

    /// Returns a path in it: `home`, `project` (the current directory of commands), `state`, or below.
    #[must_use]
    pub fn path(&self, relative: &str) -> PathBuf {
        self.base.path().join(relative)
    }

    /// Gives a file or directory to the user.
    ///
    /// # Panics
    /// When that fails.
    pub fn hand_over(&self, path: &Path) {
        if self.user == User::Ordinary && rustix::process::geteuid().is_root() {
            chown(path, Some(ORDINARY_UID), Some(ORDINARY_UID)).expect("chown");
        }
    }

    /// Writes a file in the project, as the user's.
    ///
    /// # Panics
    /// When that fails.
    pub fn write(&self, relative: &str, content: impl AsRef<[u8]>) {
        let path = self.path("project").join(relative);
        std::fs::write(&path, content).expect("write");
        self.hand_over(&path);
    }

    /// Reads a file of the project.
    #[must_use]
    pub fn read(&self, relative: &str) -> Option<String> {
        std::fs::read_to_string(self.path("project").join(relative)).ok()
    }

    /// Returns any program, to be run by the user in the project, with its environment.
    pub fn program(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.path("project"))
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.path("home"))
            .env("LANG", "C.UTF-8")
            .env("RINGWALL_STATE_DIR", self.path("state"));
        if self.user == User::Ordinary && rustix::process::geteuid().is_root() {
            command.uid(ORDINARY_UID).gid(ORDINARY_UID);
        }
        command
    }

    /// Returns `ringwall ARGS`.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.program(&self.binary);
        command.args(args);
        command
    }

    /// Runs `ringwall ARGS` to its end.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn ringwall(&self, args: &[&str]) -> Outcome {
        Outcome::from(self.command(args).output().expect("ringwall starts"))
    }

    /// Runs a shell script in a default sandbox.
    pub fn shell(&self, flags: &[&str], script: &str) -> Outcome {
        self.ringwall(&[&["run"], flags, &["--", "sh", "-c", script]].concat())
    }
}

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Its exit code; 128+n for a signal.
    pub code: i32,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let code = output
            .status
            .code()
            .unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0));
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Outcome {
            code,
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}

impl Outcome {
    /// Asserts the exit code and returns the output.
    ///
    /// # Panics
    /// When the code differs; with everything that was said.
    #[track_caller]
    pub fn expect(self, code: i32) -> String {
        assert_eq!(self.code, code, "out: {}\nerr: {}", self.out, self.err);
        self.out
    }
}
