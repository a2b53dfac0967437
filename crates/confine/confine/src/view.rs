//! What a sandbox of the namespace tier sees: a list of values, made by the plan, acted on by [`crate::root`].

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Where something on the host is taken from.
#[derive(Debug)]
pub enum Source {
    /// A canonical path; opened without following any symbolic link, and it must be this very inode.
    Path {
        /// The canonical path.
        path: PathBuf,
        /// Device and inode number seen when the plan was made: a swap in between is refused.
        id: (u64, u64),
    },
    /// A detached mount that the keeper has made (a run by root: it shows owners shifted).
    Mount(OwnedFd),
}

/// One thing placed in the new root. Targets are absolute and lexically clean.
#[derive(Debug)]
pub enum Entry {
    /// A part of the host's own system tree, bound read-only.
    System(PathBuf),
    /// A symbolic link in the fresh root.
    Link {
        /// Where it is.
        path: PathBuf,
        /// What it says.
        target: PathBuf,
    },
    /// A small file of our own making.
    File {
        /// Where it is.
        path: PathBuf,
        /// What it holds.
        content: Vec<u8>,
    },
    /// An empty directory of the sandbox's own, in memory.
    Private {
        /// Where it is.
        path: PathBuf,
        /// Its mode bits.
        mode: u32,
    },
    /// A file or directory of the host.
    Bind {
        /// What.
        source: Source,
        /// Where.
        path: PathBuf,
        /// Whether it is a directory.
        is_dir: bool,
        /// Whether writes are refused.
        read_only: bool,
    },
    /// A directory whose writes are captured.
    Captured {
        /// The read-only lower directories, the topmost first; never empty.
        lowers: Vec<Source>,
        /// The directory that holds `upper` and `work`.
        layer: Source,
        /// Where the result is seen; `/` for a root file system.
        path: PathBuf,
    },
    /// Something hidden by an empty, unreadable stand-in.
    Hidden {
        /// What.
        path: PathBuf,
        /// Whether it is a directory.
        is_dir: bool,
    },
}

impl Entry {
    /// Returns where the entry is placed.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Entry::System(path)
            | Entry::Link { path, .. }
            | Entry::File { path, .. }
            | Entry::Private { path, .. }
            | Entry::Bind { path, .. }
            | Entry::Captured { path, .. }
            | Entry::Hidden { path, .. } => path,
        }
    }
}

/// Everything that the sandbox sees.
#[derive(Debug, Default)]
pub struct View {
    /// The entries, in any order.
    pub entries: Vec<Entry>,
    /// Size limit of the memory file system that holds `/tmp` and all private directories, in bytes.
    pub memory_size: Option<u64>,
    /// The root file system to use in place of a fresh one; an [`Entry::Captured`] or [`Entry::Bind`] at `/`.
    pub has_own_root: bool,
}
