//! Makes a captured file or directory readable for as long as it is read, and puts its mode back, even after a crash.
//!
//! A program may leave a directory with mode 000 behind. Without `CAP_DAC_OVERRIDE` its owner can only read it after a `chmod`,
//! but the mode is part of what was captured. So the old mode is noted in `NAME_DIR/modes` *before* the change.

use std::io::{ErrorKind, Read as _, Write as _};

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{At, PathIoError};
use crate::path::RelPath;
use crate::tree::Tree;

/// The note's name in the state directory.
pub(crate) const FILE: &str = "modes";
/// Most bytes read back: beyond it nobody of good will has been.
const MAX_BYTES: u64 = 256 << 20;

/// The modes that were changed.
#[derive(Debug, Default)]
pub(crate) struct Unlock {
    log: Option<std::fs::File>,
    changed: Vec<(RelPath, u32)>,
}

impl Unlock {
    /// Notes the mode of an entry that is about to be changed.
    pub(crate) fn note(&mut self, state: &OwnedFd, path: &RelPath, mode: u32) -> Result<(), PathIoError> {
        let log = match &mut self.log {
            Some(log) => log,
            none => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                let file = rustix::fs::openat(state, FILE, flags, Mode::from_raw_mode(0o600)).at_file("open", FILE)?;
                none.insert(std::fs::File::from(file))
            }
        };
        log.write_all(format!("{mode:o} {}\n", String::from(path.clone())).as_bytes())
            .at_file("write", FILE)?;
        self.changed.push((path.clone(), mode));
        Ok(())
    }

    /// Adds `bits` to the mode of an entry that is a file or directory, noting the old one first.
    pub(crate) fn widen(
        &mut self,
        state: &OwnedFd,
        tree: &Tree,
        path: &RelPath,
        mode: u32,
        bits: u32,
    ) -> Result<(), PathIoError> {
        self.note(state, path, mode)?;
        tree.chmod(path, mode | bits).at("make readable", path)
    }

    /// Puts every mode back, the deepest first.
    pub(crate) fn restore(&mut self, state: &OwnedFd, tree: &Tree) -> Result<(), PathIoError> {
        if self.log.is_none() && self.changed.is_empty() {
            return Ok(());
        }
        while let Some((path, mode)) = self.changed.pop() {
            match tree.chmod(&path, mode) {
                // Nothing there: the tree was removed meanwhile, or a crash came between the note and an older removal.
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => return Err(error).at("restore the mode of", &path),
            }
        }
        self.log = None;
        match rustix::fs::unlinkat(state, FILE, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error).at_file("remove", FILE),
        }
    }

    /// Puts back what a crashed reader left changed.
    pub(crate) fn recover(state: &OwnedFd, tree: &Tree) -> Result<(), PathIoError> {
        let file = match rustix::fs::openat(
            state,
            FILE,
            OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::empty(),
        ) {
            Ok(file) => std::fs::File::from(file),
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error).at_file("open", FILE),
        };
        let mut text = String::new();
        match file.take(MAX_BYTES).read_to_string(&mut text) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::InvalidData => {}
            Err(error) => return Err(error).at_file("read", FILE),
        }
        let mut unlock = Unlock::default();
        // A last line without its end was cut by a crash before the change it announces.
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            if let Some((mode, path)) = line.split_once(' ')
                && let (Ok(mode), Ok(path)) = (u32::from_str_radix(mode, 8), RelPath::decode(path))
            {
                unlock.changed.push((path, mode & 0o7777));
            }
        }
        // The first note of a path is the true one: a second is from a reader that already found it changed. Restoring goes
        // from the last to the first, so that the first wins, and a parent is closed after its children.
        if unlock.changed.is_empty() {
            let _gone = rustix::fs::unlinkat(state, FILE, AtFlags::empty());
            return Ok(());
        }
        unlock.restore(state, tree)
    }
}
