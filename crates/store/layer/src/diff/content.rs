//! The two sides of a change, read bounded, and whether they can be compared line by line.

use std::io::Read as _;
use std::time::Duration;

use similar::{Algorithm, TextDiff};

use crate::attr::{Attr, FileKind};
use crate::capture::Capture;
use crate::change::{Change, ChangeKind};
use crate::error::PathIoError;
use crate::path::RelPath;
use crate::tree::Tree;
use crate::upper::Upper;

/// Time after which a comparison settles for a coarser result: hostile files can make the exact one take minutes.
const MAX_DIFF_TIME: Duration = Duration::from_secs(2);

/// One side of a change.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// There was, or is, nothing.
    Absent,
    /// A directory, pipe, socket or device.
    Special(FileKind),
    /// Text, or where a symlink points.
    Text(Vec<u8>),
    /// Bytes that are no text, so many.
    Binary(u64),
    /// More bytes than are compared, so many.
    TooLarge(u64),
    /// A file that the caller may not read.
    Unreadable,
}

/// Both trees, open.
pub(super) struct Sides<'capture> {
    target: Tree,
    upper: Upper<'capture>,
    max_bytes: u64,
}

impl<'capture> Sides<'capture> {
    pub(super) fn open(capture: &'capture Capture, max_bytes: u64) -> Result<Self, PathIoError> {
        Ok(Sides {
            target: capture.open_target()?,
            upper: capture.open_upper()?,
            max_bytes,
        })
    }

    /// Puts back the modes that reading changed.
    pub(super) fn close(self) -> Result<(), PathIoError> {
        self.upper.close()
    }

    pub(super) fn before(&self, change: &Change) -> Side {
        if change.kind == ChangeKind::Added {
            return Side::Absent;
        }
        let Ok(Some(attr)) = self.target.stat(&change.path) else {
            return Side::Unreadable;
        };
        match attr.kind {
            FileKind::Symlink => {
                crate::upper::read_link(&self.target, &change.path).map_or(Side::Unreadable, Side::Text)
            }
            FileKind::File => match self.target.open_file(&change.path) {
                Ok(file) => self.read(std::fs::File::from(file), &attr),
                Err(_) => Side::Unreadable,
            },
            kind => Side::Special(kind),
        }
    }

    pub(super) fn after(&mut self, change: &Change) -> Side {
        if change.kind == ChangeKind::Deleted {
            return Side::Absent;
        }
        self.upper_side(&change.path, change.file_type)
            .unwrap_or(Side::Unreadable)
    }

    fn upper_side(&mut self, path: &RelPath, kind: FileKind) -> Result<Side, PathIoError> {
        match kind {
            FileKind::Symlink => self.upper.read_link(path).map(Side::Text),
            FileKind::File => {
                let attr = self.upper.attr(path)?;
                let file = self.upper.open_file(path, &attr)?;
                Ok(self.read(std::fs::File::from(file), &attr))
            }
            kind => Ok(Side::Special(kind)),
        }
    }

    fn read(&self, file: std::fs::File, attr: &Attr) -> Side {
        if attr.size > self.max_bytes {
            return Side::TooLarge(attr.size);
        }
        let mut bytes = Vec::new();
        match file.take(self.max_bytes).read_to_end(&mut bytes) {
            Err(_) => Side::Unreadable,
            Ok(_) if bytes.contains(&0) => Side::Binary(attr.size),
            Ok(_) => Side::Text(bytes),
        }
    }
}

/// Compares two texts by lines.
pub(super) fn compare<'text>(old: &'text [u8], new: &'text [u8]) -> TextDiff<'text, 'text, [u8]> {
    TextDiff::configure()
        .algorithm(Algorithm::Myers)
        .timeout(MAX_DIFF_TIME)
        .diff_lines(old, new)
}
