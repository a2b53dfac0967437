//! What is made once and used by every run: `${RINGWALL_CACHE:-~/.cache/ringwall}`, outside of the checkout.
//!
//! An entry is a folder that is made under another name and renamed when it is whole, so that an interrupted download or
//! unpack is never taken for the real thing. One lock: two tasks that want the same entry make it once.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::{TestbedError, at};

/// Raised when what is in an entry changes its shape, so that entries of older checkouts aren't used.
const FORMAT: u32 = 1;

/// The cache, locked until dropped.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    _lock: File,
}

impl Cache {
    /// Opens and locks the cache; waits for another task that is filling it.
    ///
    /// # Errors
    /// [`TestbedError::File`].
    pub(crate) fn open() -> Result<Self, TestbedError> {
        Self::open_locked_by("lock")
    }

    /// As [`Cache::open`], with a lock of its own: for entries that no other task fills, and that take long.
    ///
    /// # Errors
    /// [`TestbedError::File`].
    pub(crate) fn open_locked_by(lock: &str) -> Result<Self, TestbedError> {
        Self::open_at(Self::place(), lock)
    }

    /// The folder of entry `name-key` if it is there, without waiting for a task that fills the cache: an entry that is there is whole.
    pub(crate) fn look_up(name: &str, key: &str) -> Option<PathBuf> {
        Some(Self::entry_folder(&Self::place(), name, key)).filter(|folder| folder.is_dir())
    }

    fn entry_folder(cache: &Path, name: &str, key: &str) -> PathBuf {
        cache.join(format!("{name}.{FORMAT}-{key}"))
    }

    /// The cache itself.
    pub(crate) fn place() -> PathBuf {
        let set = std::env::var_os("RINGWALL_CACHE")
            .filter(|path| !path.is_empty())
            .map(PathBuf::from);
        let home = || {
            std::env::home_dir()
                .unwrap_or_else(|| "/var/tmp".into())
                .join(".cache/ringwall")
        };
        set.unwrap_or_else(home)
    }

    fn open_at(folder: PathBuf, lock: &str) -> Result<Self, TestbedError> {
        fs::create_dir_all(&folder).map_err(at(&folder))?;
        let path = folder.join(lock);
        let lock = File::create(&path).map_err(at(&path))?;
        lock.lock().map_err(at(&path))?;
        Ok(Self { folder, _lock: lock })
    }

    /// A folder for a tool's own cache (apt's lists), which that tool keeps whole itself.
    pub(crate) fn tool_folder(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The folder of entry `name-key`, made by `make` if it isn't there or is to be made anew. Entries of the same name with
    /// another key are removed then: they belong to an older list of packages.
    ///
    /// # Errors
    /// What `make` fails with, and [`TestbedError::File`].
    pub(crate) fn entry(
        &self,
        name: &str,
        key: &str,
        refresh: bool,
        make: impl FnOnce(&Path) -> Result<(), TestbedError>,
    ) -> Result<PathBuf, TestbedError> {
        let folder = Self::entry_folder(&self.folder, name, key);
        if folder.is_dir() && !refresh {
            return Ok(folder);
        }
        let unfinished = self.folder.join(format!("making-{name}"));
        remove_tree(&unfinished)?; // what an interrupted task left
        fs::create_dir(&unfinished).map_err(at(&unfinished))?;
        make(&unfinished)?;
        let prefix = format!("{name}.");
        for entry in fs::read_dir(&self.folder).map_err(at(&self.folder))? {
            let entry = entry.map_err(at(&self.folder))?;
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                remove_tree(&entry.path())?;
            }
        }
        fs::rename(&unfinished, &folder).map_err(at(&folder))?;
        Ok(folder)
    }
}

fn remove_tree(path: &Path) -> Result<(), TestbedError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(at(path)(error)),
        _ => Ok(()),
    }
}

/// A key for an entry that is made from these texts: FNV-1a, 64 bits (it tells changes apart, nobody attacks it).
pub(crate) fn key<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let mut hash = OFFSET;
    for part in parts {
        // The separator keeps ["ab"] and ["a", "b"] apart; it is not a byte of UTF-8 text.
        for byte in part.iter().chain(&[0xff]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(PRIME);
        }
    }
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_made_once_and_again_when_its_key_changes() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open_at(folder.path().join("cache"), "lock").unwrap();
        let write = |text: &'static str| move |path: &Path| fs::write(path.join("file"), text).map_err(at(path));
        let read = |path: PathBuf| fs::read_to_string(path.join("file")).unwrap();
        assert_eq!(read(cache.entry("root", "1", false, write("a")).unwrap()), "a");
        assert_eq!(read(cache.entry("root", "1", false, write("b")).unwrap()), "a");
        assert_eq!(read(cache.entry("root", "1", true, write("c")).unwrap()), "c");
        let old = cache.entry("root", "1", false, write("d")).unwrap();
        let other = cache.entry("rootless", "1", false, write("o")).unwrap();
        assert_eq!(read(cache.entry("root", "2", false, write("e")).unwrap()), "e");
        assert!(!old.exists() && other.exists());
    }

    #[test]
    fn an_interrupted_entry_is_never_used() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open_at(folder.path().to_owned(), "lock").unwrap();
        let interrupted = cache.entry("root", "1", false, |path| {
            fs::write(path.join("half"), "x").map_err(at(path))?;
            Err(at(path)(std::io::Error::other("interrupted")))
        });
        assert!(interrupted.is_err());
        let made = cache
            .entry("root", "1", false, |path| {
                fs::write(path.join("whole"), "x").map_err(at(path))
            })
            .unwrap();
        assert!(made.join("whole").exists() && !made.join("half").exists());
    }

    #[test]
    fn keys_tell_parts_apart() {
        assert_ne!(key([b"ab".as_slice()]), key([b"a".as_slice(), b"b".as_slice()]));
        assert_eq!(key([b"ab".as_slice()]), key([b"ab".as_slice()]));
    }
}
