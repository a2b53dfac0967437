//! Builds archives byte by byte, also ones that no tar would write, and looks at what became of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::net::scratch;
use ringwall_image::{ArchiveKind, Limits, Owners, UnpackError, Unpacked, unpack};

/// An archive in the making.
#[derive(Debug, Clone, Default)]
pub(crate) struct Archive(pub(crate) Vec<u8>);

/// A header, to be bent before it is added.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) kind: u8,
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: Option<u64>,
    pub(crate) content: Vec<u8>,
}

impl Entry {
    pub(crate) fn new(kind: u8, path: &[u8]) -> Self {
        Entry {
            kind,
            path: path.to_vec(),
            link: Vec::new(),
            mode: if kind == b'5' { 0o755 } else { 0o644 },
            uid: 0,
            gid: 0,
            size: None,
            content: Vec::new(),
        }
    }

    fn header(&self) -> [u8; 512] {
        let mut block = [0_u8; 512];
        let mut put = |start: usize, bytes: &[u8]| block[start..start + bytes.len()].copy_from_slice(bytes);
        put(0, &self.path[..self.path.len().min(100)]);
        put(100, format!("{:07o}\0", self.mode).as_bytes());
        put(108, format!("{:07o}\0", self.uid).as_bytes());
        put(116, format!("{:07o}\0", self.gid).as_bytes());
        let size = self.size.unwrap_or(self.content.len() as u64);
        if size < 1 << 33 {
            put(124, format!("{size:011o}\0").as_bytes());
        } else {
            put(124, &[0x80, 0, 0, 0]);
            put(128, &size.to_be_bytes());
        }
        put(136, format!("{:011o}\0", 1_600_000_000).as_bytes());
        put(156, &[self.kind]);
        put(157, &self.link[..self.link.len().min(100)]);
        put(257, b"ustar\x0000");
        sign(&mut block);
        block
    }
}

/// Writes a header's checksum.
pub(crate) fn sign(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block[..512].iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

impl Archive {
    pub(crate) fn new() -> Self {
        Archive::default()
    }

    /// Adds an entry, with GNU long names where the header is too small.
    pub(crate) fn add(mut self, entry: &Entry) -> Self {
        for (kind, name) in [(b'L', &entry.path), (b'K', &entry.link)] {
            if name.len() > 100 {
                let mut long = Entry::new(kind, b"././@LongLink");
                long.content = [name, &b"\0"[..]].concat();
                self = self.raw(&long.header(), &long.content);
            }
        }
        self.raw(&entry.header(), &entry.content)
    }

    pub(crate) fn raw(mut self, header: &[u8], content: &[u8]) -> Self {
        self.0.extend_from_slice(header);
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, path: &str, content: &[u8]) -> Self {
        let mut entry = Entry::new(b'0', path.as_bytes());
        entry.content = content.to_vec();
        self.add(&entry)
    }

    pub(crate) fn mode(self, kind: u8, path: &str, mode: u32) -> Self {
        let mut entry = Entry::new(kind, path.as_bytes());
        entry.mode = mode;
        self.add(&entry)
    }

    pub(crate) fn dir(self, path: &str) -> Self {
        self.add(&Entry::new(b'5', path.as_bytes()))
    }

    pub(crate) fn link(self, kind: u8, path: &str, target: &str) -> Self {
        let mut entry = Entry::new(kind, path.as_bytes());
        entry.link = target.as_bytes().to_vec();
        self.add(&entry)
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.link(b'2', path, target)
    }

    pub(crate) fn hardlink(self, path: &str, target: &str) -> Self {
        self.link(b'1', path, target)
    }

    /// Adds a PAX header for the next entry.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            // The length counts its own digits.
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            data.extend_from_slice(format!("{length} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.pax_raw(&data)
    }

    pub(crate) fn pax_raw(self, data: &[u8]) -> Self {
        let mut entry = Entry::new(b'x', b"PaxHeaders/x");
        entry.content = data.to_vec();
        self.add(&entry)
    }

    /// Adds the end mark.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

/// A directory to unpack into, and a canary beside it that must stay as it is.
#[derive(Debug)]
pub(crate) struct Ground {
    _directory: tempfile::TempDir,
    pub(crate) root: PathBuf,
    canary: PathBuf,
    before: BTreeMap<PathBuf, String>,
}

impl Ground {
    pub(crate) fn new() -> Self {
        let directory = scratch();
        let (root, canary) = (directory.path().join("root"), directory.path().join("canary"));
        std::fs::create_dir(&root).expect("root");
        std::fs::create_dir_all(canary.join("sub")).expect("canary");
        std::fs::write(canary.join("file"), "untouched").expect("canary");
        std::fs::write(canary.join("sub/secret"), "unread").expect("canary");
        let before = list(directory.path(), &root);
        Ground {
            _directory: directory,
            root,
            canary,
            before,
        }
    }

    pub(crate) fn unpack(&self, archive: &[u8], kind: ArchiveKind) -> Result<Unpacked, UnpackError> {
        self.unpack_within(archive, kind, &Limits::default())
    }

    pub(crate) fn unpack_within(
        &self,
        archive: &[u8],
        kind: ArchiveKind,
        limits: &Limits,
    ) -> Result<Unpacked, UnpackError> {
        let result = unpack(archive, &self.root, kind, Owners::Caller, limits);
        self.check_canary();
        result
    }

    /// Fails if anything but the root's contents has changed.
    pub(crate) fn check_canary(&self) {
        let parent = self.canary.parent().expect("has one");
        assert_eq!(
            list(parent, &self.root),
            self.before,
            "something was written outside the root"
        );
    }

    pub(crate) fn tree(&self) -> BTreeMap<PathBuf, String> {
        list(&self.root, Path::new("/none"))
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.tree().keys().map(|path| path.display().to_string()).collect()
    }
}

/// All entries below `top` but those in `skip`, with what can be seen of each but inode numbers.
pub(crate) fn list(top: &Path, skip: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![top.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(&directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            let meta = path.symlink_metadata().expect("an entry");
            if path == skip {
                continue;
            }
            let mut text = format!("{:06o} {}:{} ", meta.mode(), meta.uid(), meta.gid());
            if meta.is_dir() {
                left.push(path.clone());
            } else if meta.is_symlink() {
                let target = std::fs::read_link(&path).expect("a link");
                text.push_str(&String::from_utf8_lossy(target.as_os_str().as_bytes()));
            } else {
                let content = std::fs::read(&path).expect("a file");
                write!(text, "links {} bytes {} ", meta.nlink(), content.len()).expect("into a string");
                text.push_str(&String::from_utf8_lossy(&content[..content.len().min(64)]));
            }
            write!(text, " @{}", if meta.is_dir() { 0 } else { meta.mtime() }).expect("into a string");
            found.insert(path.strip_prefix(top).expect("below").to_owned(), text);
        }
    }
    found
}

/// The permission bits of an entry.
pub(crate) fn mode(path: &Path) -> u32 {
    path.symlink_metadata().expect("there").permissions().mode() & 0o7777
}

/// An error with its causes, as a person sees it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        write!(text, ": {error}").expect("into a string");
        cause = error.source();
    }
    text
}
