//! The state directory of a capture: made on the start path of a run, read back and checked by everything later.
//!
//! ```text
//! NAME_DIR/            mode 0700, the caller's; also holds the caller's lock
//!   upper/  work/      overlayfs's
//!   capture.json       version, target, start, id shift. Written last: without it there is no capture
//!   gone.json          its name once the capture is being removed (see discard.rs)
//!   journal.json       a commit past its commit point; journal.done when applied; journal.rollback when being undone
//!   accepted.json      entries of the target that a rolled-back commit touched, and so are not somebody else's changes
//!   modes              modes changed in order to read the upper (see unlock.rs)
//! ```

use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::attr::{Attr, IdShift, stat_at};
use crate::change::Scan;
use crate::error::{At, PathIoError, ScanError};
use crate::path::ByteText;
use crate::survey::{Goal, Survey};
use crate::tree::{DIRECTORY, Tree};
use crate::upper::Upper;

pub(crate) const UPPER: &str = "upper";
pub(crate) const WORK: &str = "work";
pub(crate) const META: &str = "capture.json";
const META_NEW: &str = "capture.json.new";
/// How every stage's name begins. Such names in an upper are left out, so that no sandbox can touch a commit's stage.
pub(crate) const STAGE_PREFIX: &str = ".ringwall-commit-";
const VERSION: u32 = 1;
/// A path of 4096 bytes, each escaped to four, and the rest.
const MAX_META_BYTES: u64 = 32 * 1024;

/// A claim that the caller holds the exclusive lock on `NAME_DIR/lock`, by the descriptor that holds it.
///
/// Nothing here can check it (flock(2) belongs to the open file, and asking again through the same one always succeeds), so it is
/// a reminder with a lifetime: the descriptor can't be closed, and so the lock can't be lost, while a commit or discard runs.
#[derive(Debug, Clone, Copy)]
pub struct LockHeld<'fd>(#[expect(dead_code, reason = "keeps the lock's descriptor borrowed")] BorrowedFd<'fd>);

impl<'fd> LockHeld<'fd> {
    /// Claims that `lock` is `NAME_DIR/lock`, open and locked exclusively by this process.
    #[must_use]
    pub fn assert(lock: BorrowedFd<'fd>) -> Self {
        LockHeld(lock)
    }
}

/// A capture can't be made.
#[derive(Debug, Error)]
pub enum CreateCaptureError {
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] PathIoError),
    /// There is one already.
    #[error("{dir} already holds a capture")]
    Exists {
        /// The state directory.
        dir: PathBuf,
    },
    /// The target or the shift makes no sense.
    #[error("a capture needs an absolute target and ids that fit 32 bits")]
    Invalid,
}

/// A capture can't be opened.
#[derive(Debug, Error)]
pub enum OpenCaptureError {
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] PathIoError),
    /// There is none. What is left of one, if anything, goes with [`crate::sweep`].
    #[error("{dir} holds no capture")]
    NotFound {
        /// The state directory.
        dir: PathBuf,
    },
    /// Its description can't be read.
    #[error("{file} is damaged")]
    Malformed {
        /// The description.
        file: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Its description says what can't be.
    #[error("{file} holds values that can't be used")]
    Invalid {
        /// The description.
        file: PathBuf,
    },
    /// It was made by another version.
    #[error("{file} has version {found}; this is version {VERSION}")]
    Version {
        /// The description.
        file: PathBuf,
        /// Its version.
        found: u32,
    },
}

/// What an interrupted commit left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pending {
    /// Nothing.
    Nothing,
    /// Copies beside the target that never came to be used; the next commit or discard removes them.
    StaleStage,
    /// A commit that is to be finished, by committing again.
    Commit,
    /// A commit that failed and is to be undone completely, by committing again.
    Rollback,
    /// A commit that was applied; only its leftovers are to be removed, by committing again.
    Cleanup,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Meta {
    version: u32,
    target: ByteText,
    started_ns: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id_shift: Option<IdShift>,
}

/// A capture's state directory, open.
#[derive(Debug)]
pub struct Capture {
    pub(crate) dir: PathBuf,
    pub(crate) state: OwnedFd,
    pub(crate) target: PathBuf,
    pub(crate) started_ns: u64,
    pub(crate) shift: Option<IdShift>,
}

impl Capture {
    /// Makes an empty capture of the writes below `target` (absolute, resolved) in the existing directory `dir`.
    ///
    /// `started_ns` is now, by `CLOCK_REALTIME`. Files are stamped by a clock that may lag it by a tick (4 ms at 250 Hz; current_time(),
    /// fs/inode.c), so a change outside within the first tick can go unnoticed; the coarse clock would instead take a file written
    /// just before the start for a later change. Nothing is synced: a capture that a power cut loses
    /// is one whose run the power cut ended as well.
    ///
    /// # Errors
    /// [`CreateCaptureError`]. What it made so far stays; creating again goes on from there.
    pub fn create(
        dir: &Path,
        target: &Path,
        started_ns: u64,
        shift: Option<IdShift>,
    ) -> Result<Self, CreateCaptureError> {
        let bytes = target.as_os_str().as_bytes();
        if !target.is_absolute()
            || bytes.contains(&0)
            || bytes.len() > 4096
            || shift.is_some_and(|shift| !shift.is_valid())
        {
            return Err(CreateCaptureError::Invalid);
        }
        let named = &dir.to_string_lossy();
        let state = open_state(dir).at_file("open", named)?;
        if stat_at(&state, META).is_ok() {
            return Err(CreateCaptureError::Exists { dir: dir.to_owned() });
        }
        for name in [UPPER, WORK] {
            match rustix::fs::mkdirat(&state, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => Err(error).at_file("create", name)?,
            }
        }
        let target_attr = Attr::from(rustix::fs::stat(target).at_file("stat", &target.to_string_lossy())?);
        dress_root(&state, &target_attr, shift).at_file("set the mode of", UPPER)?;
        let meta = Meta {
            version: VERSION,
            target: ByteText(bytes.to_vec()),
            started_ns,
            id_shift: shift,
        };
        let text = serde_json::to_vec(&meta)
            .map_err(io::Error::from)
            .at_file("write", META)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file =
            rustix::fs::openat(&state, META_NEW, flags, Mode::from_raw_mode(0o600)).at_file("create", META_NEW)?;
        std::fs::File::from(file).write_all(&text).at_file("write", META_NEW)?;
        rustix::fs::renameat(&state, META_NEW, &state, META).at_file("create", META)?;
        Ok(Capture {
            dir: dir.to_owned(),
            state,
            target: target.to_owned(),
            started_ns,
            shift,
        })
    }

    /// Opens the capture in `dir`, and puts back modes that a crashed scan left changed.
    ///
    /// Call with the lock held: another process's scan in progress is taken for a crashed one.
    ///
    /// # Errors
    /// [`OpenCaptureError`]. A damaged description is never guessed around.
    pub fn open(dir: &Path) -> Result<Self, OpenCaptureError> {
        let not_found = || OpenCaptureError::NotFound { dir: dir.to_owned() };
        let state = match open_state(dir) {
            Err(Errno::NOENT) => return Err(not_found()),
            other => other.at_file("open", &dir.to_string_lossy())?,
        };
        let file = dir.join(META);
        let Some(text) = read_bounded(&state, META, MAX_META_BYTES).at_file("read", META)? else {
            return Err(not_found());
        };
        let meta: Meta = match serde_json::from_slice(&text) {
            Ok(meta) => meta,
            Err(source) => return Err(OpenCaptureError::Malformed { file, source }),
        };
        if meta.version != VERSION {
            return Err(OpenCaptureError::Version {
                file,
                found: meta.version,
            });
        }
        let target = PathBuf::from(std::ffi::OsString::from_vec(meta.target.0));
        let has_nul = target.as_os_str().as_bytes().contains(&0);
        if !target.is_absolute() || has_nul || meta.id_shift.is_some_and(|shift| !shift.is_valid()) {
            return Err(OpenCaptureError::Invalid { file });
        }
        Ok(Capture {
            dir: dir.to_owned(),
            state,
            target,
            started_ns: meta.started_ns,
            shift: meta.id_shift,
        })
    }

    /// Returns the directory whose writes are captured.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Returns when the capture began, in nanoseconds since the epoch.
    #[must_use]
    pub fn started_ns(&self) -> u64 {
        self.started_ns
    }

    /// Whether nothing changed. Stops at the first change, so it is quick unless a large file was copied up and left as it was.
    ///
    /// A directory of which only the time changed is no change: a temporary file came and went.
    ///
    /// # Errors
    /// [`ScanError`].
    pub fn is_empty(&self) -> Result<bool, ScanError> {
        Ok(self.survey(Goal::AnyChange)?.changes.is_empty())
    }

    /// Lists what changed, by path.
    ///
    /// # Errors
    /// [`ScanError`].
    pub fn scan(&self) -> Result<Scan, ScanError> {
        let survey = self.survey(Goal::Changes)?;
        Ok(Scan {
            changes: survey.changes,
            notes: survey.notes,
            blocked: survey.blocked,
        })
    }

    /// Says what an interrupted commit left.
    ///
    /// # Errors
    /// [`PathIoError`]: the state directory or the target can't be read.
    pub fn pending(&self) -> Result<Pending, PathIoError> {
        let has = |name: &str| {
            crate::tree::stat_entry(&self.state, name)
                .at_file("stat", name)
                .map(|found| found.is_some())
        };
        if has(crate::journal::DONE)? {
            return Ok(Pending::Cleanup);
        }
        if has(crate::journal::JOURNAL)? {
            return Ok(if has(crate::journal::ROLLBACK)? {
                Pending::Rollback
            } else {
                Pending::Commit
            });
        }
        let stage = self.target.join(self.stage_name());
        match rustix::fs::lstat(&stage) {
            Ok(_) => Ok(Pending::StaleStage),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(Pending::Nothing),
            Err(error) => Err(error).at_file("stat", &stage.to_string_lossy()),
        }
    }

    /// The name of the directory in the target that holds a commit's copies: one per capture, so that a later commit finds it.
    pub(crate) fn stage_name(&self) -> String {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let name: String = self
            .dir
            .file_name()
            .map(|name| {
                name.as_bytes()
                    .iter()
                    .copied()
                    .filter(plain)
                    .take(64)
                    .map(char::from)
                    .collect()
            })
            .unwrap_or_default();
        format!("{STAGE_PREFIX}{name}-{:x}", self.started_ns)
    }

    pub(crate) fn open_target(&self) -> Result<Tree, PathIoError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, &self.target, flags, Mode::empty());
        root.map(Tree::new).at_file("open", &self.target.to_string_lossy())
    }

    pub(crate) fn open_upper(&self) -> Result<Upper<'_>, PathIoError> {
        Upper::open(&self.state)
    }

    fn survey(&self, goal: Goal) -> Result<Survey, ScanError> {
        let target = self.open_target()?;
        let mut upper = self.open_upper()?;
        let survey = Survey::run(self, &mut upper, &target, goal, &crate::journal::Accepted::default());
        let closed = upper.close();
        let survey = survey?;
        closed?;
        Ok(survey)
    }
}

/// Gives the upper's root the look of the target: overlayfs shows the upper's mode, owner and times for the merged root.
fn dress_root(state: &OwnedFd, target: &Attr, shift: Option<IdShift>) -> rustix::io::Result<()> {
    let upper = rustix::fs::openat(state, UPPER, DIRECTORY, Mode::empty())?;
    let own = Attr::from(rustix::fs::fstat(&upper)?);
    let unshift = |id| shift.map_or(id, |shift: IdShift| shift.to_upper(id));
    let (uid, gid) = (unshift(target.uid), unshift(target.gid));
    if (own.uid, own.gid) != (uid, gid) {
        // Somebody else's directory: the sandbox then sees it as the caller's own, which only the caller's commit could apply.
        match rustix::fs::fchown(upper.as_fd(), Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) {
            Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
            Err(error) => return Err(error),
        }
    }
    rustix::fs::fchmod(&upper, Mode::from_raw_mode(target.mode))?;
    rustix::fs::futimens(&upper, &target.times())
}

pub(crate) fn open_state(dir: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(CWD, dir, DIRECTORY, Mode::empty())
}

/// Reads a file of the state directory; `None` if there is none.
pub(crate) fn read_bounded(state: &OwnedFd, name: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match rustix::fs::openat(
        state,
        name,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
    ) {
        Ok(file) => std::fs::File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut text = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut text)?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > limit {
        return Err(io::Error::from(Errno::FBIG));
    }
    Ok(Some(text))
}

/// Removes a file of the state directory, if it is there.
pub(crate) fn remove_file(state: &OwnedFd, name: &str) -> Result<(), PathIoError> {
    match rustix::fs::unlinkat(state, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error).at_file("remove", name),
    }
}
