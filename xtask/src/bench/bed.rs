//! Where a benchmark lies: one scratch directory with a project (the working directory of every command), ringwall's state
//! beside it, and the environment that every command gets.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// The `PATH` of every measured command. Not the caller's: directories below a home would make ringwall show the toolchains there,
/// so the figures would depend on who measures.
pub(super) const SEARCH_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A scratch directory for one benchmark.
#[derive(Debug)]
pub(super) struct Bed {
    // Before `root`, as fields are dropped in this order: what is mounted on must be free first.
    tmpfs: Option<Tmpfs>,
    root: tempfile::TempDir,
    /// The ringwall under test.
    pub(super) ringwall: PathBuf,
    before: PathBuf,
}

impl Bed {
    /// Makes the directories in `place` and enters the project.
    ///
    /// The whole process enters it, because a `Command` with a directory of its own may be started by fork instead of
    /// `posix_spawn`, and forking this process costs more than some of what is measured.
    ///
    /// # Errors
    /// What the kernel said.
    pub(super) fn make(place: &Path, ringwall: &Path, kind: Kind) -> io::Result<Self> {
        let root = tempfile::Builder::new().prefix("ringwall-bench-").tempdir_in(place)?;
        let tmpfs = match kind {
            Kind::Tmpfs if !is_tmpfs(place)? => Some(Tmpfs::mount(root.path())?),
            Kind::Tmpfs | Kind::AsItIs => None,
        };
        let bed = Self {
            tmpfs,
            root,
            ringwall: ringwall.to_owned(),
            before: std::env::current_dir()?,
        };
        std::fs::create_dir(bed.project())?;
        std::fs::create_dir(bed.state())?;
        std::env::set_current_dir(bed.project())?;
        Ok(bed)
    }

    /// Everything of the benchmark lies below this.
    pub(super) fn root(&self) -> &Path {
        self.root.path()
    }

    /// The working directory of every measured command.
    pub(super) fn project(&self) -> PathBuf {
        self.root().join("project")
    }

    /// Ringwall's state directory.
    pub(super) fn state(&self) -> PathBuf {
        self.root().join("state")
    }

    /// A command with the environment of every measured one, reading and writing nothing. `program` is a path, as a name
    /// together with another `PATH` would be started by fork.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", SEARCH_PATH)
            .env("HOME", std::env::var_os("HOME").unwrap_or_else(|| "/".into()))
            .env("LANG", "C.UTF-8")
            .env("TERM", "dumb")
            .env("RINGWALL_STATE_DIR", self.state())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// What ringwall left in its state directory.
    ///
    /// # Errors
    /// The directory couldn't be read.
    pub(super) fn left_in_state(&self) -> io::Result<Vec<String>> {
        let entries = std::fs::read_dir(self.state())?;
        entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    /// Leaves and removes the directories.
    ///
    /// # Errors
    /// What the kernel said; a directory that is still mounted somewhere is such an error.
    pub(super) fn remove(self) -> io::Result<()> {
        std::env::set_current_dir(&self.before)?;
        drop(self.tmpfs);
        self.root.close()
    }
}

/// What kind of file system a benchmark wants to lie on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Whatever is there.
    AsItIs,
    /// A tmpfs: where there is none, one is mounted. /dev/shm isn't used, as ringwall doesn't show directories below /dev.
    Tmpfs,
}

/// Why a bed of this kind can't be made in `place`; `None` if it can.
///
/// # Errors
/// The place couldn't be looked at.
pub(super) fn why_not(place: &Path, kind: Kind) -> io::Result<Option<String>> {
    let is_possible = kind == Kind::AsItIs || is_tmpfs(place)? || rustix::process::geteuid().is_root();
    Ok((!is_possible).then(|| {
        format!(
            "{} is no tmpfs, and only root can mount one: use --dir with a directory on a tmpfs (not below /dev)",
            place.display()
        )
    }))
}

/// The `f_type` of tmpfs (include/uapi/linux/magic.h).
const TMPFS_MAGIC: u64 = 0x0102_1994;

fn is_tmpfs(place: &Path) -> io::Result<bool> {
    // The type's width and sign differ by architecture, the number fits all.
    Ok(u64::try_from(rustix::fs::statfs(place)?.f_type).is_ok_and(|found| found == TMPFS_MAGIC))
}

/// A tmpfs, unmounted on drop.
#[derive(Debug)]
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: &Path) -> io::Result<Self> {
        mount(
            "tmpfs",
            at,
            "tmpfs",
            MountFlags::NOSUID | MountFlags::NODEV,
            c"mode=0755",
        )?;
        Ok(Self(at.to_owned()))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Detached, because a failed benchmark drops this while still inside.
        if let Err(error) = unmount(&self.0, UnmountFlags::DETACH) {
            eprintln!("can't unmount {}: {error}", self.0.display());
        }
    }
}
