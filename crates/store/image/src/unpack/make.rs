//! Makes entries: directories, files, symbolic and hard links. Every name is made new (`O_EXCL`, `mkdirat`, `symlinkat`, `linkat`), so
//! none is ever followed.

use std::io::Read;

use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::archive::{ArchiveReader, Header};
use crate::name::{EntryName, EntryPath};
use crate::unpack::dress::{self, Look};
use crate::unpack::error::{At as _, Refusal, UnpackError};
use crate::unpack::tree;
use crate::unpack::{Failure, Unpacker};

/// Longest target of a symbolic link: a path with its NUL (symlink(2), `ENAMETOOLONG`).
const MAX_LINK_BYTES: usize = 4095;
/// Bytes copied at once.
const COPY_BYTES: usize = 128 * 1024;

impl Unpacker {
    /// Makes a directory, or takes the one that is there and changes its look.
    pub(super) fn make_directory(&mut self, header: &Header, path: &EntryPath, look: Look) -> Result<(), Failure> {
        let entry = header.path.as_slice();
        let directory = if path.split().is_none() {
            self.tree.resolve(b"").at("open", entry)?
        } else {
            let place = self.place(path)?;
            let found = tree::stat(&place.parent, place.name).at("stat", entry)?;
            let is_directory = found.is_some_and(|found| tree::file_type(&found) == FileType::Directory);
            if !is_directory {
                self.clear(&place)?;
                rustix::fs::mkdirat(&place.parent, tree::os(place.name), Mode::RWXU).at("make", entry)?;
            }
            self.note_made(place.inode, place.name);
            let opened = tree::name_dir(&place.parent, place.name);
            self.sort(opened, "open", entry)?
        };
        if !header.attributes.is_empty() {
            self.open_up(&directory, entry)?;
            let readable = tree::readable(&directory).at("open", entry)?;
            dress::set_attributes(readable.as_fd(), &header.attributes, &mut self.report.dropped)
                .at("set the attributes of", entry)?;
        }
        self.dress_later(&directory, look, entry)
    }

    pub(super) fn make_file(
        &mut self,
        header: &Header,
        path: &EntryPath,
        look: &Look,
        archive: &mut ArchiveReader<impl Read>,
    ) -> Result<(), Failure> {
        let entry = header.path.as_slice();
        let place = self.place(path)?;
        self.clear(&place)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&place.parent, tree::os(place.name), flags, Mode::from_raw_mode(0o600))
            .at("make", entry)?;
        self.note_made(place.inode, place.name);
        fill(&file, header, archive)?;
        if let Some((uid, gid)) = look.owner {
            rustix::fs::fchown(&file, Some(uid), Some(gid)).at("set the owner of", entry)?;
        }
        dress::set_attributes(file.as_fd(), &header.attributes, &mut self.report.dropped)
            .at("set the attributes of", entry)?;
        if let Some(mode) = look.mode {
            rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).at("set the mode of", entry)?;
        }
        if let Some(times) = look.times() {
            rustix::fs::futimens(&file, &times).at("set the time of", entry)?;
        }
        Ok(())
    }

    /// Makes a symbolic link. Its text is kept as it is: it means something inside the sandbox only, and is never followed here
    /// without `RESOLVE_IN_ROOT`.
    pub(super) fn make_symlink(&mut self, header: &Header, path: &EntryPath, look: &Look) -> Result<(), Failure> {
        let entry = header.path.as_slice();
        let text = header.link.as_slice();
        if text.is_empty() {
            return Err(Refusal::EmptyLink.into());
        }
        if text.len() > MAX_LINK_BYTES {
            return Err(Refusal::LinkTooLong {
                bytes: text.len(),
                limit: MAX_LINK_BYTES,
            }
            .into());
        }
        if text.contains(&0) {
            return Err(Refusal::NulInLink.into());
        }
        let place = self.place(path)?;
        self.clear(&place)?;
        let name = tree::os(place.name);
        match rustix::fs::symlinkat(tree::os(text), &place.parent, name) {
            // Some file systems keep links in one block.
            Err(Errno::NAMETOOLONG) => {
                return Err(Refusal::LinkTooLong {
                    bytes: text.len(),
                    limit: MAX_LINK_BYTES,
                }
                .into());
            }
            other => other.at("make", entry)?,
        }
        self.note_made(place.inode, place.name);
        // Links can't have `user.*` attributes (xattr(7)), and no others are kept.
        self.report.dropped.attributes += header.attributes.len() as u64;
        if let Some((uid, gid)) = look.owner {
            rustix::fs::chownat(&place.parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .at("set the owner of", entry)?;
        }
        if let Some(times) = look.times() {
            rustix::fs::utimensat(&place.parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
                .at("set the time of", entry)?;
        }
        Ok(())
    }

    /// Makes a hard link. Everything about it is its target's.
    pub(super) fn make_hardlink(&mut self, header: &Header, path: &EntryPath) -> Result<(), Failure> {
        let entry = header.path.as_slice();
        let (target, target_inode, target_name) = self.find_target(header)?;
        let place = self.place(path)?;
        if target_inode == place.inode && target_name == place.name {
            return Err(Refusal::HardlinkSelf.into());
        }
        self.clear(&place)?;
        let linked = rustix::fs::linkat(
            &target,
            tree::os(&target_name),
            &place.parent,
            tree::os(place.name),
            AtFlags::empty(),
        );
        match linked {
            // The target lay in the directory that the link has just replaced.
            Err(Errno::NOENT) => {
                return Err(Refusal::HardlinkMissing {
                    target: EntryName::new(&header.link),
                }
                .into());
            }
            other => other.at("make", entry)?,
        }
        self.note_made(place.inode, place.name);
        Ok(())
    }
}

/// Writes the content of the current entry.
fn fill(file: &OwnedFd, header: &Header, archive: &mut ArchiveReader<impl Read>) -> Result<(), UnpackError> {
    let size = usize::try_from(header.size).unwrap_or(COPY_BYTES);
    let mut buffer = vec![0_u8; size.clamp(1, COPY_BYTES)];
    loop {
        let got = archive
            .read_content(&mut buffer)
            .map_err(|source| UnpackError::Content {
                entry: EntryName::new(&header.path),
                source,
            })?;
        let mut rest = buffer.get(..got).unwrap_or_default();
        if rest.is_empty() {
            return Ok(());
        }
        while !rest.is_empty() {
            let written = match rustix::io::write(file, rest) {
                Err(Errno::INTR) => continue,
                Ok(0) => Err(Errno::IO),
                other => other,
            }
            .at("write", &header.path)?;
            rest = rest.get(written..).unwrap_or_default();
        }
    }
}
