//! A target and a state directory in a temporary place, ways to write an upper as overlayfs does, and a comparable dump of a tree.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ringwall_layer::{Capture, CommitError, CommitOptions, CommitReport, LockHeld};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use tempfile::TempDir;

/// A target with something in it, and a capture of it.
pub(crate) struct Fixture {
    pub(crate) place: TempDir,
    pub(crate) target: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) lock: fs::File,
}

/// A time long ago, in seconds.
pub(crate) const LONG_AGO: i64 = 1_000_000_000;

impl Fixture {
    /// Fills the target by `fill`, then begins a capture.
    pub(crate) fn new(fill: impl FnOnce(&Path)) -> Self {
        let place = tempfile::Builder::new().prefix("ringwall-layer-").tempdir().unwrap();
        let target = place.path().join("target");
        let state = place.path().join("name");
        fs::create_dir(&target).unwrap();
        fs::create_dir(&state).unwrap();
        fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
        fill(&target);
        set_time(&target, LONG_AGO);
        let lock = fs::File::create(state.join("lock")).unwrap();
        let fixture = Fixture {
            place,
            target,
            state,
            lock,
        };
        Capture::create(&fixture.state, &fixture.target, now_ns(), None).unwrap();
        // Files are stamped by a clock that lags by a tick: what comes next must be seen as later.
        std::thread::sleep(Duration::from_millis(12));
        fixture
    }

    pub(crate) fn upper(&self, path: &str) -> PathBuf {
        self.state.join("upper").join(path)
    }

    pub(crate) fn target(&self, path: &str) -> PathBuf {
        self.target.join(path)
    }

    pub(crate) fn capture(&self) -> Capture {
        Capture::open(&self.state).unwrap()
    }

    pub(crate) fn commit(&self, options: CommitOptions) -> Result<CommitReport, CommitError> {
        self.capture().commit(LockHeld::assert(self.lock.as_fd()), options)
    }

    /// The changes as lines `A path`.
    pub(crate) fn changes(&self) -> Vec<String> {
        let scan = self.capture().scan().unwrap();
        scan.changes
            .iter()
            .map(|change| format!("{} {}", change.kind.letter(), change.path))
            .collect()
    }

    /// Whether nothing but the lock is left of the capture, and no stage.
    pub(crate) fn is_gone(&self) -> bool {
        let left = |dir: &Path| {
            fs::read_dir(dir)
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect::<Vec<_>>()
        };
        left(&self.state) == ["lock"]
            && !left(&self.target)
                .iter()
                .any(|name| name.to_string_lossy().starts_with(".ringwall-commit-"))
    }
}

impl Drop for Fixture {
    /// Opens the directories that a test closed, which the owner of the place could not remove otherwise.
    fn drop(&mut self) {
        let mut pending = vec![self.place.path().to_owned()];
        while let Some(dir) = pending.pop() {
            let _as_far_as_it_goes = fs::set_permissions(&dir, fs::Permissions::from_mode(0o700));
            let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
            pending.extend(
                entries
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                    .map(|entry| entry.path()),
            );
        }
    }
}

pub(crate) fn now_ns() -> u64 {
    u64::try_from(
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_nanos(),
    )
    .unwrap()
}

pub(crate) fn write(path: impl AsRef<Path>, text: &str) {
    fs::write(path, text).unwrap();
}

pub(crate) fn chmod(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Marks `path` in an upper as deleted.
pub(crate) fn whiteout(path: impl AsRef<Path>) {
    rustix::fs::mknodat(CWD, path.as_ref(), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
}

pub(crate) fn xattr(path: impl AsRef<Path>, name: &str, value: &str) {
    rustix::fs::setxattr(path.as_ref(), name, value.as_bytes(), XattrFlags::empty()).unwrap();
}

pub(crate) fn opaque_dir(path: impl AsRef<Path>) {
    fs::create_dir(&path).unwrap();
    xattr(&path, "user.overlay.opaque", "y");
}

pub(crate) fn set_time(path: impl AsRef<Path>, seconds: i64) {
    let stamp = Timespec {
        tv_sec: seconds,
        tv_nsec: 123_456_789,
    };
    let times = Timestamps {
        last_access: stamp,
        last_modification: stamp,
    };
    rustix::fs::utimensat(CWD, path.as_ref(), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Everything that can be told about a tree, as lines; the entries of `without` and stages left out.
pub(crate) fn dump(root: &Path, with_times: bool) -> String {
    let mut lines = BTreeMap::new();
    let mut first_names: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut pending = vec![PathBuf::new()];
    let mut all = Vec::new();
    while let Some(path) = pending.pop() {
        all.push(path.clone());
        let full = root.join(&path);
        if fs::symlink_metadata(&full).unwrap().is_dir() {
            for entry in fs::read_dir(&full).unwrap() {
                let name = entry.unwrap().file_name();
                if !name.to_string_lossy().starts_with(".ringwall-commit-") {
                    pending.push(path.join(name));
                }
            }
        }
    }
    all.sort();
    for path in all {
        let full = root.join(&path);
        let meta = fs::symlink_metadata(&full).unwrap();
        let mut line = format!("{} {:o} {}:{}", path.display(), meta.mode(), meta.uid(), meta.gid());
        if meta.is_symlink() {
            write!(line, " -> {}", fs::read_link(&full).unwrap().display()).unwrap();
        } else if meta.is_file() {
            let bytes = fs::read(&full).unwrap();
            let mut hasher = DefaultHasher::new();
            bytes.hash(&mut hasher);
            write!(line, " {} {:x}", bytes.len(), hasher.finish()).unwrap();
            let first = first_names.entry(meta.ino()).or_insert_with(|| path.clone());
            write!(line, " ={}", first.display()).unwrap();
        }
        if meta.is_file() || meta.is_dir() {
            for name in xattr_names(&full) {
                let mut value = vec![0; 1024];
                let length = rustix::fs::getxattr(&full, name.as_str(), value.as_mut_slice()).unwrap();
                write!(line, " {name}={}", String::from_utf8_lossy(&value[..length])).unwrap();
            }
        }
        if with_times {
            write!(line, " @{}.{:09}", meta.mtime(), meta.mtime_nsec()).unwrap();
        }
        lines.insert(path, line);
    }
    lines.into_values().collect::<Vec<_>>().join("\n")
}

fn xattr_names(path: &Path) -> Vec<String> {
    let mut list = vec![0; 4096];
    let length = rustix::fs::listxattr(path, list.as_mut_slice()).unwrap();
    let names = String::from_utf8_lossy(&list[..length]).into_owned();
    let mut names: Vec<String> = names
        .split('\0')
        .filter(|name| name.starts_with("user."))
        .map(str::to_owned)
        .collect();
    names.sort();
    names
}

/// Fills a target with one of everything.
pub(crate) fn fill(target: &Path) {
    for dir in ["sub", "sub/deep", "old", "old/inner", "redo", "swap"] {
        fs::create_dir(target.join(dir)).unwrap();
    }
    for file in [
        "keep",
        "edit",
        "drop",
        "mode",
        "sub/edit",
        "sub/keep",
        "sub/deep/x",
        "old/a",
        "old/inner/b",
        "redo/was",
        "redo/both",
        "swap/s",
        "becomes-dir",
    ] {
        write(target.join(file), &format!("{file}, as it was\n"));
        set_time(target.join(file), LONG_AGO);
    }
    symlink("keep", target.join("link")).unwrap();
    for dir in ["sub/deep", "sub", "old/inner", "old", "redo", "swap"] {
        set_time(target.join(dir), LONG_AGO);
    }
}

/// Changes one of everything in the upper of a target that [`fill`] filled. The same changes come from [`expected`].
pub(crate) fn change(fixture: &Fixture) {
    let upper = |path: &str| fixture.upper(path);
    write(upper("edit"), "edited\n");
    write(upper("added"), "added\n");
    whiteout(upper("drop"));
    whiteout(upper("old"));
    write(upper("mode"), "mode, as it was\n");
    chmod(upper("mode"), 0o600);
    fs::create_dir(upper("sub")).unwrap();
    xattr(upper("sub"), "user.overlay.origin", "");
    xattr(upper("sub"), "user.kind", "sub");
    chmod(upper("sub"), 0o750);
    write(upper("sub/edit"), "edited below\n");
    xattr(upper("sub/edit"), "user.overlay.origin", "");
    xattr(upper("sub/edit"), "user.overlay.overlay.opaque", "mine");
    xattr(upper("sub/edit"), "user.note", "kept");
    opaque_dir(upper("redo"));
    write(upper("redo/both"), "written anew\n");
    fs::create_dir_all(upper("new/inner")).unwrap();
    write(upper("new/inner/file"), "deep\n");
    fs::hard_link(upper("added"), upper("new/linked")).unwrap();
    opaque_dir(upper("becomes-dir"));
    write(upper("becomes-dir/child"), "child\n");
    symlink("keep", upper("swap")).unwrap();
    symlink("elsewhere\n", upper("link")).unwrap();
    rustix::fs::mknodat(CWD, upper("pipe"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    chmod(upper("pipe"), 0o640);
    for (index, path) in UPPER_PATHS.iter().enumerate() {
        set_time(upper(path), LONG_AGO + 100 + i64::try_from(index).unwrap());
    }
}

const UPPER_PATHS: [&str; 16] = [
    "edit",
    "added",
    "mode",
    "sub/edit",
    "sub",
    "redo/both",
    "redo",
    "new/inner/file",
    "new/inner",
    "new",
    "becomes-dir/child",
    "becomes-dir",
    "swap",
    "link",
    "pipe",
    "",
];

/// Does to a directory directly what [`change`] wrote to an upper, and dumps the result.
pub(crate) fn expected() -> String {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("target");
    fs::create_dir(&target).unwrap();
    fill(&target);
    let at = |path: &str| target.join(path);
    write(at("edit"), "edited\n");
    write(at("added"), "added\n");
    fs::remove_file(at("drop")).unwrap();
    fs::remove_dir_all(at("old")).unwrap();
    chmod(at("mode"), 0o600);
    xattr(at("sub"), "user.kind", "sub");
    chmod(at("sub"), 0o750);
    write(at("sub/edit"), "edited below\n");
    xattr(at("sub/edit"), "user.overlay.opaque", "mine");
    xattr(at("sub/edit"), "user.note", "kept");
    fs::remove_file(at("redo/was")).unwrap();
    write(at("redo/both"), "written anew\n");
    fs::create_dir_all(at("new/inner")).unwrap();
    write(at("new/inner/file"), "deep\n");
    fs::hard_link(at("added"), at("new/linked")).unwrap();
    fs::remove_file(at("becomes-dir")).unwrap();
    fs::create_dir(at("becomes-dir")).unwrap();
    write(at("becomes-dir/child"), "child\n");
    fs::remove_dir_all(at("swap")).unwrap();
    symlink("keep", at("swap")).unwrap();
    fs::remove_file(at("link")).unwrap();
    symlink("elsewhere\n", at("link")).unwrap();
    rustix::fs::mknodat(CWD, at("pipe"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    chmod(at("pipe"), 0o640);
    for (index, path) in UPPER_PATHS.iter().enumerate() {
        set_time(at(path), LONG_AGO + 100 + i64::try_from(index).unwrap());
    }
    dump(&target, true)
}
