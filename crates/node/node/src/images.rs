//! Images as layers: pulled, unpacked into one tree, given what a sandbox needs, and kept under the image's digest.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::sync::Mutex;

use ringwall_image::{Credentials, Digest, ImageConfig, Limits, Owners, Progress, PullRequest, native_architecture};
use ringwall_sandbox::service::ImageCredentials;

use crate::base::user_ids;
use crate::build::exists;
use crate::ids;
use crate::node::Inner;
use crate::record::Stack;

/// Images of E2B's that its clients build upon when their users say nothing. They stand for the default template: the same programs from
/// the host, and no download.
const DEFAULT_IMAGES: [&str; 2] = ["e2bdev/base", "e2bdev/code-interpreter"];

/// Returns whether an image's name stands for the default template.
pub(crate) fn is_default(name: &str) -> bool {
    let bare = name.split(':').next().unwrap_or(name);
    DEFAULT_IMAGES.contains(&bare)
}

/// Whose unpacked files are: with root's privilege those that the archive says, shifted when they are shown.
pub(crate) fn owners() -> Owners {
    if rustix::process::geteuid().is_root() {
        Owners::Keep
    } else {
        Owners::Caller
    }
}

/// Turns progress into lines.
struct Lines<'a> {
    log: &'a (dyn Fn(&str) + Send + Sync),
    sizes: Mutex<BTreeMap<String, u64>>,
}

impl Progress for Lines<'_> {
    fn started(&self, digest: &Digest, total: u64) {
        (self.log)(&format!("downloading {digest} ({total} bytes)"));
        if let Ok(mut sizes) = self.sizes.lock() {
            sizes.insert(digest.to_string(), total);
        }
    }

    fn advanced(&self, _: &Digest, _: u64) {}

    fn finished(&self, digest: &Digest) {
        (self.log)(&format!("downloaded {digest}"));
    }
}

/// Pulls an image, unless it is here, and returns what stands on it.
pub(crate) async fn pull(
    inner: &Inner,
    name: &str,
    credentials: Option<&ImageCredentials>,
    log: &(dyn Fn(&str) + Send + Sync),
) -> Result<Stack, String> {
    let lines = Lines {
        log,
        sizes: Mutex::default(),
    };
    pull_with(inner, name, credentials, &lines).await
}

async fn pull_with(
    inner: &Inner,
    name: &str,
    credentials: Option<&ImageCredentials>,
    progress: &dyn Progress,
) -> Result<Stack, String> {
    let into = inner.places.fresh().join(format!("image-{}", ids::layer()));
    let failed = |error: io::Error| format!("can't keep the image: {error}");
    fs::create_dir(&into).map_err(failed)?;
    fs::set_permissions(&into, fs::Permissions::from_mode(0o755)).map_err(failed)?;
    let cache = inner.places.blobs();
    let request = PullRequest {
        reference: name,
        credentials: credentials.map(|given| Credentials {
            user: given.user.clone(),
            password: given.password.clone(),
        }),
        plain_http: inner.config.plain_http_registries.iter().any(|host| {
            name.strip_prefix(host.as_str())
                .is_some_and(|rest| rest.starts_with('/'))
        }),
        architecture: native_architecture(),
        owners: owners(),
        limits: Limits::default(),
        cache: &cache,
        into: &into,
    };
    let pulled = ringwall_image::pull(&request, progress).await;
    let pulled = match pulled {
        Ok(pulled) => pulled,
        Err(error) => {
            drop(inner.places.discard(&into));
            return Err(with_causes(&error));
        }
    };
    let digest = pulled.digest.to_string();
    let id = format!(
        "img-{}",
        digest.rsplit(':').next().and_then(|hex| hex.get(..20)).unwrap_or("0")
    );
    let layer = inner.places.layer(&id);
    if exists(&layer) {
        inner.places.discard(&into).map_err(failed)?;
    } else {
        prepare(&into).map_err(failed)?;
        fs::rename(&into, &layer).map_err(failed)?;
    }
    Ok(stack(id, pulled.config))
}

fn stack(layer: String, config: ImageConfig) -> Stack {
    // What an image starts by itself (entrypoint, cmd) is not started: a sandbox serves commands. A template says otherwise by its start
    // command.
    Stack {
        layers: vec![layer],
        host_system: false,
        env: config.env.into_iter().collect(),
        user: None,
        workdir: Some(config.working_dir).filter(|directory| !directory.is_empty() && directory != "/"),
        start_command: None,
        ready_command: None,
    }
}

/// Gives a tree what every sandbox needs: mount points, the account `user` with a home, and a directory for temporary files. What is
/// there already stays.
pub(crate) fn prepare(tree: &Path) -> io::Result<()> {
    for (path, mode) in [
        ("dev", 0o755),
        ("proc", 0o755),
        ("tmp", 0o1777),
        ("etc", 0o755),
        ("home", 0o755),
    ] {
        let path = tree.join(path);
        if !exists(&path) {
            fs::create_dir(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        } else if !fs::symlink_metadata(&path)?.is_dir() {
            let why = format!(
                "/{} of the image is not a directory",
                path.file_name().unwrap_or_default().to_string_lossy()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
    }
    let (uid, gid) = user_ids();
    add_account(
        &tree.join("etc/passwd"),
        &[format!("user:x:{uid}:{gid}:user:/home/user:/bin/sh")],
    )?;
    add_account(&tree.join("etc/group"), &[format!("user:x:{gid}:")])?;
    for (file, content) in [
        ("etc/hosts", "127.0.0.1 localhost ringwall\n::1 localhost\n"),
        ("etc/resolv.conf", ""),
    ] {
        let path = tree.join(file);
        if !exists(&path) {
            fs::write(path, content)?;
        }
    }
    let home = tree.join("home/user");
    if !exists(&home) {
        fs::create_dir(&home)?;
        if rustix::process::geteuid().is_root() {
            chown(&home, Some(uid), Some(gid))?;
        }
    }
    Ok(())
}

/// Adds lines to an account file unless their names are there. A link is not followed: it may point out of the tree.
fn add_account(path: &Path, lines: &[String]) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return Ok(());
    }
    let had = fs::read_to_string(path).unwrap_or_default();
    let mut text = had.clone();
    if text.is_empty() {
        let root = if path.ends_with("group") {
            "root:x:0:\n"
        } else {
            "root:x:0:0:root:/root:/bin/sh\n"
        };
        text.push_str(root);
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    for line in lines {
        let name = line.split(':').next().unwrap_or_default();
        if !had.lines().any(|line| line.split(':').next() == Some(name)) {
            text.push_str(line);
            text.push('\n');
        }
    }
    let fresh = path.with_extension("ringwall-new");
    let mut file = fs::File::create_new(&fresh)?;
    file.write_all(text.as_bytes())?;
    fs::rename(fresh, path)
}

/// Unpacks an uploaded archive into a new directory.
pub(crate) fn unpack_upload(archive: &Path, into: &Path) -> Result<(), String> {
    fs::create_dir(into).map_err(|error| format!("COPY: {error}"))?;
    fs::set_permissions(into, fs::Permissions::from_mode(0o755)).map_err(|error| format!("COPY: {error}"))?;
    // The caller's ids mean nothing here: COPY says whose the files are.
    ringwall_image::from_tar(archive, into, Owners::Caller, &Limits::default())
        .map_err(|error| format!("COPY: {}", with_causes(&error)))?;
    Ok(())
}

/// Unpacks an archive of a root file system into a new directory, and gives it what every sandbox needs.
pub(crate) fn unpack_root(archive: &Path, into: &Path) -> Result<(), String> {
    let failed = |error: io::Error| format!("can't keep the root file system: {error}");
    fs::create_dir(into).map_err(failed)?;
    fs::set_permissions(into, fs::Permissions::from_mode(0o755)).map_err(failed)?;
    ringwall_image::from_tar(archive, into, owners(), &Limits::default()).map_err(|error| with_causes(&error))?;
    prepare(into).map_err(failed)
}

pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_tree_becomes_one_that_serves() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("etc/passwd"), "root:x:0:0::/root:/bin/sh").unwrap();
        prepare(dir.path()).unwrap();
        prepare(dir.path()).unwrap();
        let passwd = fs::read_to_string(dir.path().join("etc/passwd")).unwrap();
        assert_eq!(passwd.lines().count(), 2, "{passwd}");
        assert!(dir.path().join("home/user").is_dir());
    }

    #[test]
    fn a_link_in_place_of_a_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("etc")).unwrap();
        assert!(prepare(dir.path()).is_err());
    }
}
