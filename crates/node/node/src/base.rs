//! The default template, `base`: the host's own system tree, with a small writable skeleton of its own around it.
//!
//! Programs and libraries are shown in place, read-only. What is copied is configuration that programs need and that holds no secrets,
//! from the same allow-list as `ringwall run`. The layer's id is a hash of what is in it, so that an update of the host makes a new layer
//! at the next start, and sandboxes on the old one keep it.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use ringwall_backend_process::{SYSTEM_TREES, system_configuration};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::hex;
use crate::keeper::USER;
use crate::layers::Places;

/// Largest configuration file that is copied.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// Most files copied in all.
const MAX_FILES: usize = 20_000;

/// Deepest directory copied.
const MAX_COPY_DEPTH: usize = 8;
/// Files of a new user's home.
const SKELETON_FILES: [&str; 2] = [".bashrc", ".profile"];

/// Directories of the skeleton and their modes.
const DIRECTORIES: [(&str, u32); 20] = [
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("media", 0o755),
    ("mnt", 0o755),
    ("opt", 0o755),
    ("proc", 0o755),
    ("root", 0o700),
    ("run", 0o755),
    ("srv", 0o755),
    ("sys", 0o755),
    ("tmp", 0o1777),
    ("var", 0o755),
    ("var/cache", 0o755),
    ("var/lib", 0o755),
    ("var/log", 0o755),
    ("var/opt", 0o755),
    ("var/spool", 0o755),
    ("var/tmp", 0o1777),
    ("home/user", 0o755),
];

/// The layer that was made last, and of what.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Made {
    /// Hash over names, sizes and times of everything that is copied.
    survey: String,
    layer: String,
}

/// Hashes what the layer would be made of, without reading a file: hundreds of files are not copied again at each start.
fn survey() -> String {
    let mut hash = Sha256::new();
    let mut pending: Vec<(PathBuf, usize)> = system_configuration().into_iter().map(|path| (path, 0)).collect();
    pending.extend(SYSTEM_TREES.iter().map(|tree| (PathBuf::from(tree), MAX_COPY_DEPTH)));
    pending.extend(
        SKELETON_FILES
            .iter()
            .map(|file| (Path::new("/etc/skel").join(file), MAX_COPY_DEPTH)),
    );
    while let Some((path, depth)) = pending.pop() {
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            continue;
        };
        let target = fs::metadata(&path).ok();
        hash.update(path.as_os_str().as_encoded_bytes());
        for found in [Some(&metadata), target.as_ref()].into_iter().flatten() {
            for value in [
                i64::from(found.mode()),
                found.mtime(),
                found.mtime_nsec(),
                found.ctime(),
                found.ctime_nsec(),
            ] {
                hash.update(value.to_le_bytes());
            }
            hash.update(found.size().to_le_bytes());
        }
        if depth < MAX_COPY_DEPTH && target.is_some_and(|target| target.is_dir()) {
            let mut below: Vec<_> = fs::read_dir(&path)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path())
                .collect();
            below.sort();
            pending.extend(below.into_iter().map(|path| (path, depth + 1)));
        }
    }
    let (uid, gid) = user_ids();
    hash.update(format!("{uid}:{gid}:{}", env!("CARGO_PKG_VERSION")));
    hex(&hash.finalize())
}

/// A tree being made, and the hash of what went into it.
struct Skeleton {
    root: PathBuf,
    hash: Sha256,
    files: usize,
}

impl Skeleton {
    fn note(&mut self, kind: &str, path: &Path, content: &[u8]) {
        for part in [kind.as_bytes(), path.as_os_str().as_encoded_bytes(), content] {
            self.hash.update(u64::try_from(part.len()).unwrap_or(0).to_le_bytes());
            self.hash.update(part);
        }
    }

    fn directory(&mut self, path: &str, mode: u32) -> io::Result<()> {
        let full = self.root.join(path);
        fs::create_dir_all(&full)?;
        fs::set_permissions(&full, fs::Permissions::from_mode(mode))?;
        self.note("dir", Path::new(path), &mode.to_le_bytes());
        Ok(())
    }

    fn file(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        self.note("file", Path::new(path), content);
        fs::write(self.root.join(path), content)
    }

    /// Copies a file or directory of the host; links become what they point to, unless that lies in the system tree.
    fn copy(&mut self, from: &Path, depth: usize) -> io::Result<()> {
        let relative = from.strip_prefix("/").unwrap_or(from).to_owned();
        let to = self.root.join(&relative);
        if self.files >= MAX_FILES || depth > MAX_COPY_DEPTH {
            return Ok(());
        }
        let link = fs::symlink_metadata(from)?;
        if link.is_symlink() {
            let target = fs::canonicalize(from);
            if target.is_ok_and(|target| SYSTEM_TREES.iter().any(|tree| target.starts_with(tree))) {
                let text = fs::read_link(from)?;
                self.note("link", &relative, text.as_os_str().as_encoded_bytes());
                if let Some(parent) = to.parent() {
                    fs::create_dir_all(parent)?;
                }
                return symlink(text, to);
            }
        }
        let Ok(metadata) = fs::metadata(from) else {
            return Ok(());
        };
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        if metadata.is_dir() {
            fs::create_dir_all(&to)?;
            let mut names: Vec<_> = fs::read_dir(from)?.flatten().map(|entry| entry.file_name()).collect();
            names.sort();
            for name in names {
                // One entry that can't be read (a private key, say) is not there inside either.
                drop(self.copy(&from.join(name), depth + 1));
            }
            return Ok(());
        }
        // What not everybody may read is no configuration of programs.
        if !metadata.is_file() || metadata.len() > MAX_FILE_BYTES || metadata.permissions().mode() & 0o004 == 0 {
            return Ok(());
        }
        let mut content = Vec::new();
        fs::File::open(from)?.take(MAX_FILE_BYTES).read_to_end(&mut content)?;
        self.files += 1;
        self.note("file", &relative, &content);
        fs::write(&to, content)
    }
}

/// Makes the layer, if this very one is not there yet, and returns its id.
pub(crate) fn ensure(places: &Places) -> io::Result<String> {
    let record = places.root.join("base.json");
    let survey = survey();
    if let Ok(text) = fs::read(&record)
        && let Ok(made) = serde_json::from_slice::<Made>(&text)
        && made.survey == survey
        && places.layer(&made.layer).is_dir()
    {
        return Ok(made.layer);
    }
    let layer = make(places)?;
    let made = Made { survey, layer };
    fs::write(&record, serde_json::to_vec(&made)?)?;
    Ok(made.layer)
}

fn make(places: &Places) -> io::Result<String> {
    let root = places.fresh().join("base");
    ringwall_layer::remove_hostile_tree(&root)?;
    fs::create_dir(&root)?;
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755))?;
    let mut skeleton = Skeleton {
        root: root.clone(),
        hash: Sha256::new(),
        files: 0,
    };
    for (path, mode) in DIRECTORIES {
        skeleton.directory(path, mode)?;
    }
    for tree in SYSTEM_TREES {
        let path = Path::new(tree);
        let Ok(metadata) = fs::symlink_metadata(path) else {
            continue;
        };
        let relative = tree.trim_start_matches('/');
        if metadata.is_symlink() {
            let target = fs::read_link(path)?;
            skeleton.note("link", path, target.as_os_str().as_encoded_bytes());
            symlink(target, root.join(relative))?;
        } else if metadata.is_dir() {
            skeleton.directory(relative, 0o755)?;
        }
    }
    symlink("../run", root.join("var/run"))?;
    symlink("/proc/self/mounts", root.join("etc/mtab"))?;
    for path in system_configuration() {
        skeleton.copy(&path, 0)?;
    }
    accounts(&mut skeleton)?;
    for file in SKELETON_FILES {
        let from = Path::new("/etc/skel").join(file);
        if let Ok(content) = fs::read(&from) {
            skeleton.file(&format!("home/user/{file}"), &content)?;
        }
    }
    if rustix::process::geteuid().is_root() {
        own(&root.join("home/user"))?;
    }
    let digest = hex(&skeleton.hash.finalize());
    let id = format!("base-{}", digest.get(..20).unwrap_or(&digest));
    let layer = places.layer(&id);
    if layer.exists() {
        places.discard(&root)?;
    } else {
        fs::rename(&root, &layer)?;
    }
    Ok(id)
}

/// Names: root, and `user`, who runs everything. Without root's privilege `user` is the operator's own id, the only one there is.
fn accounts(skeleton: &mut Skeleton) -> io::Result<()> {
    let (uid, gid) = user_ids();
    let passwd = format!(
        "root:x:0:0:root:/root:/bin/bash\nuser:x:{uid}:{gid}:user:/home/user:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    );
    let group = format!("root:x:0:\nuser:x:{gid}:\nnogroup:x:65534:\n");
    skeleton.file("etc/passwd", passwd.as_bytes())?;
    skeleton.file("etc/group", group.as_bytes())?;
    // For `su` and its like as root, who needs no password; nobody else becomes another user here, set-id programs being what they are inside.
    fs::create_dir_all(skeleton.root.join("etc/pam.d"))?;
    let pam = "auth sufficient pam_rootok.so\nauth required pam_deny.so\naccount required pam_permit.so\npassword required pam_unix.so\n\
               session required pam_permit.so\n";
    skeleton.file("etc/pam.d/other", pam.as_bytes())?;
    skeleton.file("etc/hostname", b"ringwall\n")?;
    skeleton.file("etc/hosts", b"127.0.0.1 localhost ringwall\n::1 localhost\n")?;
    skeleton.file("etc/resolv.conf", b"")
}

/// User and group id that `user` has inside.
pub(crate) fn user_ids() -> (u32, u32) {
    let uid = rustix::process::geteuid();
    if uid.is_root() {
        (USER, USER)
    } else {
        (uid.as_raw(), rustix::process::getegid().as_raw())
    }
}

fn own(directory: &Path) -> io::Result<()> {
    chown(directory, Some(USER), Some(USER))?;
    for entry in fs::read_dir(directory)? {
        chown(entry?.path(), Some(USER), Some(USER))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_host_gives_the_same_layer() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::new(dir.path().to_owned());
        places.prepare().unwrap();
        let one = ensure(&places).unwrap();
        assert_eq!(ensure(&places).unwrap(), one);
        fs::remove_file(dir.path().join("base.json")).unwrap();
        assert_eq!(ensure(&places).unwrap(), one, "made again it is the same");
        let layer = places.layer(&one);
        assert!(layer.join("etc/passwd").is_file());
        assert!(layer.join("home/user").is_dir());
        assert!(!layer.join("etc/shadow").exists());
        assert_eq!(
            fs::symlink_metadata(layer.join("tmp")).unwrap().permissions().mode() & 0o7777,
            0o1777
        );
    }
}
