//! inotify over a directory, or over a tree of them that grows and shrinks.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use ringwall_agent_proto::filesystem::EventType;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

/// Most directories under one watch; the rest of a larger tree is not watched.
const MAX_DIRECTORIES: usize = 8192;
/// Room for events in one read(2); one with the longest name takes 272 bytes.
const BUFFER_BYTES: usize = 8 * 1024;
/// What is asked for, as upstream's library does.
const WANTED: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::ONLYDIR);

/// A change, with the path relative to the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) path: PathBuf,
    pub(super) kind: EventType,
}

/// A watched directory or tree.
#[derive(Debug)]
pub(super) struct Tree {
    queue: OwnedFd,
    root: PathBuf,
    is_recursive: bool,
    directories: HashMap<i32, PathBuf>,
}

impl Tree {
    /// Starts watching. Blocks for as long as walking the tree takes.
    ///
    /// # Errors
    /// What inotify_init1(2) or inotify_add_watch(2) says of the root; what fails below it is left out.
    pub(super) fn open(root: PathBuf, is_recursive: bool) -> io::Result<Self> {
        let mut tree = Tree {
            queue: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?,
            root,
            is_recursive,
            directories: HashMap::new(),
        };
        let id = inotify::add_watch(&tree.queue, &tree.root, WANTED)?;
        tree.directories.insert(id, PathBuf::new());
        if is_recursive {
            tree.descend(PathBuf::new());
        }
        Ok(tree)
    }

    /// The directory itself.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// A second descriptor of the queue, to wait for events with.
    pub(super) fn queue(&self) -> io::Result<OwnedFd> {
        self.queue.try_clone()
    }

    /// Reads some of what has happened; `None` when there is nothing more.
    ///
    /// # Errors
    /// What read(2) says, other than that there is nothing.
    pub(super) fn read(&mut self) -> io::Result<Option<Vec<Change>>> {
        let mut events = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut reader = Reader::new(&self.queue, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event
                        .file_name()
                        .map(|name| OsStr::from_bytes(name.to_bytes()).to_owned());
                    events.push((event.wd(), event.events(), name));
                }
                Err(Errno::AGAIN) if events.is_empty() => return Ok(None),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            // One buffer at a time: a busy tree must not keep us here.
            if reader.is_buffer_empty() {
                break;
            }
        }
        let mut changes = Vec::new();
        for (id, flags, name) in events {
            self.apply(id, flags, name.as_deref(), &mut changes);
        }
        Ok(Some(changes))
    }

    fn apply(&mut self, id: i32, flags: ReadFlags, name: Option<&OsStr>, changes: &mut Vec<Change>) {
        if flags.contains(ReadFlags::IGNORED) {
            self.directories.remove(&id);
            return;
        }
        let Some(directory) = self.directories.get(&id) else {
            return;
        };
        let Some(name) = name else {
            // Of the directory itself: its parent's watch has told already, unless it is the root.
            if flags.contains(ReadFlags::DELETE_SELF) && directory.as_os_str().is_empty() {
                let (path, kind) = (PathBuf::from("."), EventType::Remove);
                changes.push(Change { path, kind });
            }
            return;
        };
        let path = directory.join(name);
        let kind = if flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
            EventType::Create
        } else if flags.contains(ReadFlags::MODIFY) {
            EventType::Write
        } else if flags.contains(ReadFlags::DELETE) {
            EventType::Remove
        } else if flags.contains(ReadFlags::MOVED_FROM) {
            EventType::Rename
        } else if flags.contains(ReadFlags::ATTRIB) {
            EventType::Chmod
        } else {
            return;
        };
        let (is_new, is_moved) = (kind == EventType::Create, kind == EventType::Rename);
        changes.push(Change {
            path: path.clone(),
            kind,
        });
        if self.is_recursive && flags.contains(ReadFlags::ISDIR) {
            if is_new && self.add(path.clone()) {
                // What was made in it before the watch was on; seen twice is better than not at all.
                let found = self.descend(path);
                let kind = EventType::Create;
                changes.extend(found.into_iter().map(|path| Change { path, kind }));
            } else if is_moved {
                self.forget(&path);
            }
        }
    }

    fn add(&mut self, path: PathBuf) -> bool {
        if self.directories.len() >= MAX_DIRECTORIES {
            return false;
        }
        // No links below the root: a loop would never end.
        let flags = WANTED | WatchFlags::DONT_FOLLOW;
        match inotify::add_watch(&self.queue, self.root.join(&path), flags) {
            Ok(id) => self.directories.insert(id, path).is_none(),
            Err(_) => false,
        }
    }

    /// Watches all directories below one that is watched; returns what it has seen, at most so many as directories are allowed.
    fn descend(&mut self, top: PathBuf) -> Vec<PathBuf> {
        let mut seen = Vec::new();
        let mut pending = vec![top];
        while let Some(directory) = pending.pop() {
            let Ok(entries) = std::fs::read_dir(self.root.join(&directory)) else {
                continue;
            };
            for entry in entries.flatten() {
                let path = directory.join(entry.file_name());
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) && self.add(path.clone()) {
                    pending.push(path.clone());
                }
                if seen.len() < MAX_DIRECTORIES {
                    seen.push(path);
                }
            }
        }
        seen
    }

    /// Stops watching a subtree that was moved: its events would carry a name that is no longer right.
    fn forget(&mut self, top: &Path) {
        let queue = &self.queue;
        self.directories.retain(|&id, path| {
            let keep = !path.starts_with(top);
            if !keep {
                // It may be gone already.
                let _gone = inotify::remove_watch(queue, id);
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(tree: &mut Tree) -> Vec<(String, EventType)> {
        let mut all = Vec::new();
        while let Some(some) = tree.read().unwrap() {
            all.extend(
                some.into_iter()
                    .map(|it| (it.path.to_string_lossy().into_owned(), it.kind)),
            );
        }
        all
    }

    #[test]
    fn new_directories_are_watched_with_what_is_in_them() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let mut tree = Tree::open(root.to_owned(), true).unwrap();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/b/early"), "").unwrap();
        let seen = changes(&mut tree);
        for path in ["a", "a/b", "a/b/early"] {
            assert!(seen.contains(&(path.to_owned(), EventType::Create)), "{path}: {seen:?}");
        }
        std::fs::write(root.join("a/b/late"), "x").unwrap();
        assert!(changes(&mut tree).contains(&("a/b/late".to_owned(), EventType::Write)));
        std::fs::rename(root.join("a"), root.join("z")).unwrap();
        let seen = changes(&mut tree);
        assert!(
            seen.contains(&("a".to_owned(), EventType::Rename)) && seen.contains(&("z".to_owned(), EventType::Create))
        );
        std::fs::remove_file(root.join("z/b/late")).unwrap();
        assert_eq!(changes(&mut tree), [("z/b/late".to_owned(), EventType::Remove)]);
    }

    #[test]
    fn flat_watches_stay_flat() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        std::fs::create_dir(root.join("a")).unwrap();
        let mut tree = Tree::open(root.to_owned(), false).unwrap();
        std::fs::write(root.join("a/x"), "").unwrap();
        assert_eq!(changes(&mut tree), []);
        std::fs::remove_dir_all(root).unwrap();
        assert_eq!(changes(&mut tree).last().unwrap().0, ".");
    }
}
