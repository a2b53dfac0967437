//! Unpacks archives into directories: read a header, check it, act on it below the root's descriptor, and nowhere else.
//!
//! ```text
//! stream -> ArchiveReader -> Header -> EntryPath, Look (checked) -> Tree (openat2) -> *at calls in an open directory
//! ```
//! Directories are made open to us and get their own mode, owner and time last, deepest first. Nothing an archive says leads to a path
//! being followed outside the root, to a device, to a set-id file, or to memory or disk beyond the limits.

mod dress;
pub(crate) mod error;
mod made;
mod make;
mod place;
mod remove;
pub(crate) mod tree;

use std::collections::{BTreeMap, HashSet};
use std::io::Read;
use std::path::Path;

use rustix::fs::AtFlags;
use rustix::io::Errno;

pub use error::{Refusal, UnpackError};

use crate::archive::{ArchiveReader, EntryKind, Header};
use crate::limits::Limits;
use crate::name::{EntryName, EntryPath};
use dress::Look;
use error::At as _;
use made::Made;
use tree::{Inode, Links, Tree};

/// Most bytes of all names in an archive together: some are kept until its end. Large images have a tenth of this.
const MAX_NAME_BYTES: u64 = 256 * 1024 * 1024;

/// What kind of archive it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveKind {
    /// A tree of its own. Entries below a symbolic link are refused, names like `.wh.x` mean nothing, and the end mark must be there.
    Plain,
    /// A layer of an OCI image over the layers already unpacked: whiteouts delete, links in the way are resolved within the root.
    /// The caller checks the layer's digest, so a missing end mark is forgiven, as other tools do.
    OciLayer,
}

/// Whose the files are to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// The caller's.
    Caller,
    /// Those in the archive, 0 to 65535. Needs `CAP_CHOWN`.
    Keep,
}

/// What was left out of entries that were unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Entries that had a set-id bit.
    pub set_id: u64,
    /// Extended attributes: all but `user.*`, and what the file system can't store.
    pub attributes: u64,
    /// Bookkeeping files of aufs in a layer (`.wh..wh.plnk` and the like).
    pub markers: u64,
}

/// What was unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Entries of the archive, whiteouts included, and directories made because entries lie in them.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// What was left out.
    pub dropped: Dropped,
}

/// Unpacks the tar stream `reader` into the existing directory `into`, over what is there.
///
/// Nobody else may change the directory meanwhile. To decompress first, wrap the reader with [`crate::decompress`].
///
/// # Errors
/// [`UnpackError`], at the first entry that is refused. The directory then holds what came before and should be thrown away.
pub fn unpack(
    reader: impl Read,
    into: &Path,
    kind: ArchiveKind,
    owners: Owners,
    limits: &Limits,
) -> Result<Unpacked, UnpackError> {
    let links = match kind {
        ArchiveKind::Plain => Links::Refuse,
        ArchiveKind::OciLayer => Links::Within,
    };
    let tree = Tree::open(into, links).at("open", into.as_os_str().as_encoded_bytes())?;
    let mut archive = ArchiveReader::new(reader, kind == ArchiveKind::OciLayer);
    let mut unpacker = Unpacker {
        tree,
        kind,
        owners,
        limits: *limits,
        made: Made::default(),
        hidden: HashSet::new(),
        directories: BTreeMap::new(),
        name_bytes: 0,
        report: Unpacked::default(),
    };
    while let Some(header) = archive.next_entry()? {
        unpacker.unpack_entry(&header, &mut archive)?;
    }
    unpacker.dress_directories()?;
    Ok(unpacker.report)
}

/// The state of one [`unpack`].
struct Unpacker {
    tree: Tree,
    kind: ArchiveKind,
    owners: Owners,
    limits: Limits,
    made: Made,
    /// Directories in which nothing of the layers below is left, so that looking again is in vain. Without this, a layer of many files
    /// and many whiteouts for the same directory would take time by their product.
    hidden: HashSet<Inode>,
    /// Directories that get their look at the end, by their path without links.
    directories: BTreeMap<Vec<u8>, (Inode, Look)>,
    /// Bytes of names so far.
    name_bytes: u64,
    report: Unpacked,
}

/// A failed step: a refusal that still lacks the entry's name, or an error that has it.
#[derive(Debug)]
enum Failure {
    Refused(Refusal),
    Other(UnpackError),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Failure::Refused(refusal)
    }
}

impl From<UnpackError> for Failure {
    fn from(error: UnpackError) -> Self {
        Failure::Other(error)
    }
}

impl Unpacker {
    fn unpack_entry(&mut self, header: &Header, archive: &mut ArchiveReader<impl Read>) -> Result<(), UnpackError> {
        self.try_entry(header, archive).map_err(|failure| match failure {
            Failure::Refused(refusal) => UnpackError::Refused {
                entry: EntryName::new(&header.path),
                refusal,
            },
            Failure::Other(error) => error,
        })
    }

    fn try_entry(&mut self, header: &Header, archive: &mut ArchiveReader<impl Read>) -> Result<(), Failure> {
        let path = self.check(header)?;
        if self.kind == ArchiveKind::OciLayer && self.apply_whiteout(header, &path)? {
            return Ok(());
        }
        let look = Look::of(header, self.owners, &mut self.report.dropped)?;
        match header.kind {
            EntryKind::Directory => self.make_directory(header, &path, look),
            EntryKind::File => self.make_file(header, &path, &look, archive),
            EntryKind::Symlink => self.make_symlink(header, &path, &look),
            EntryKind::Hardlink => self.make_hardlink(header, &path),
            EntryKind::CharacterDevice | EntryKind::BlockDevice => Err(Refusal::Device.into()),
            EntryKind::Fifo => Err(Refusal::Fifo.into()),
            EntryKind::Sparse => Err(Refusal::Sparse.into()),
            EntryKind::Unknown(kind) => Err(Refusal::Unknown { kind }.into()),
        }
    }

    /// Checks all that can be told from the header alone, and counts the entry against the limits.
    fn check(&mut self, header: &Header) -> Result<EntryPath, Refusal> {
        self.count_entry(header.path.len())?;
        let path = EntryPath::parse(&header.path)?;
        let only_files_have_content = match header.kind {
            EntryKind::Directory => "a directory",
            EntryKind::Symlink => "a symbolic link",
            EntryKind::Hardlink => "a hard link",
            _ => "",
        };
        if header.size > 0 && !only_files_have_content.is_empty() {
            return Err(Refusal::Content {
                kind: only_files_have_content,
                bytes: header.size,
            });
        }
        if header.kind == EntryKind::File {
            if header.size > self.limits.file_bytes {
                return Err(Refusal::FileTooLarge {
                    bytes: header.size,
                    limit: self.limits.file_bytes,
                });
            }
            let total = self.report.bytes.checked_add(header.size);
            self.report.bytes = total
                .filter(|&total| total <= self.limits.bytes)
                .ok_or(Refusal::TooManyBytes {
                    limit: self.limits.bytes,
                })?;
        }
        Ok(path)
    }

    /// Counts an entry against the limits: one of the archive, or a directory that it needs and doesn't have.
    fn count_entry(&mut self, name_bytes: usize) -> Result<(), Refusal> {
        self.report.entries += 1;
        self.name_bytes = self.name_bytes.saturating_add(name_bytes as u64);
        if self.report.entries > self.limits.entries {
            return Err(Refusal::TooManyEntries {
                limit: self.limits.entries,
            });
        }
        if self.name_bytes > MAX_NAME_BYTES {
            return Err(Refusal::TooManyNames { limit: MAX_NAME_BYTES });
        }
        Ok(())
    }

    /// Gives directories their looks, children before parents, so that no parent is closed while it is still needed.
    fn dress_directories(&mut self) -> Result<(), UnpackError> {
        for (path, (inode, look)) in std::mem::take(&mut self.directories).into_iter().rev() {
            let directory = match self.tree.reopen(&path) {
                // Replaced or deleted by a later entry.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                other => other.at("open", &path)?,
            };
            let found = rustix::fs::fstat(&directory).at("stat", &path)?;
            if Inode::from(&found) != inode {
                continue;
            }
            if let Some((uid, gid)) = look.owner {
                rustix::fs::chownat(&directory, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
                    .at("set the owner of", &path)?;
            }
            if let Some(mode) = look.mode {
                // The root stays open to its owner, whatever the archive says: the caller has to be able to remove it.
                let mode = if path.is_empty() { mode | 0o700 } else { mode };
                tree::set_mode(&directory, mode).at("set the mode of", &path)?;
            }
            if let Some(times) = look.times() {
                tree::set_times(&directory, &times).at("set the time of", &path)?;
            }
        }
        Ok(())
    }
}
