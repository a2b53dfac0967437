//! COPY and WORKDIR: layers made on the host, without running anything.
//!
//! An uploaded archive is unpacked by the hardened unpacker into a directory of its own. Where its files belong is looked up in the merged
//! view of the stack, links followed as inside; then they are moved into a new layer, below directories that are given the attributes they
//! have in the view (those of an upper layer win). So neither the image's tools nor any privilege inside is needed.
//!
//! This runs with the server's rights, so it must never go through a link: archives and layers are strangers', and their links lead anywhere
//! on the host. Every directory that a path here goes through is one that was looked at and is none ([`is_real_dir`]); nobody else works on
//! these trees, so it stays so.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use ringwall_layer::MergedView;

use super::Build;
use crate::images::with_causes;
use crate::record::Stack;
use crate::{base, ids, images, templates};

/// Largest account file read.
const MAX_ACCOUNTS_BYTES: u64 = 1 << 20;
/// Deepest tree that owners and modes are set in.
const MAX_DEPTH: usize = 256;

/// A COPY step.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Copy {
    /// Hash of the uploaded archive.
    pub(super) files: String,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) user: Option<String>,
    pub(super) mode: Option<u32>,
}

/// Reads a mode as COPY has it: up to four octal digits.
pub(super) fn parse_mode(text: &str) -> Result<u32, String> {
    let is_octal = (1..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let mode = u32::from_str_radix(text, 8).ok().filter(|_| is_octal);
    mode.map(|mode| mode & 0o1777)
        .ok_or_else(|| format!("COPY: the mode {text:?} is no octal number of up to four digits"))
}

/// Makes the layer of a COPY step; `to` is absolute. Returns its id.
pub(super) async fn copy(build: &Build, stack: &Stack, wanted: &Copy, to: &str) -> Result<String, String> {
    if wanted.from.split('/').any(|part| part == "..") {
        return Err(format!("COPY: the source {:?} leaves the context", wanted.from));
    }
    let archive = templates::upload_path(&build.inner, &build.owner, &wanted.files);
    if !super::exists(&archive) {
        return Err("COPY: the files were not uploaded".to_owned());
    }
    let places = build.inner.places.clone();
    let lowers = crate::lifecycle::start::lowers(&build.inner, &stack.layers);
    let user = wanted.user.clone().or_else(|| stack.user.clone());
    let (from, to, mode) = (wanted.from.clone(), to.to_owned(), wanted.mode);
    let work = move || {
        let staged = places.fresh().join(format!("copy-{}", ids::layer()));
        let layer = places.fresh().join(format!("layer-{}", ids::layer()));
        let made = (|| {
            images::unpack_upload(&archive, &staged)?;
            let owner = find_owner(&lowers, user.as_deref())?;
            place(&staged, &from, &lowers, &layer, &to, owner, mode)
        })();
        drop(places.discard(&staged));
        finish(&places, &layer, made)
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| error.to_string())?
}

/// Makes the layer of a WORKDIR step, if the directory is not there yet.
pub(super) async fn directory(build: &Build, stack: &Stack, path: &str) -> Result<Option<String>, String> {
    let places = build.inner.places.clone();
    let lowers = crate::lifecycle::start::lowers(&build.inner, &stack.layers);
    let (user, path) = (stack.user.clone(), path.to_owned());
    let work = move || {
        let view = MergedView::open(&lowers).map_err(|error| with_causes(&error))?;
        let found = view.resolve(Path::new(&path)).map_err(|error| with_causes(&error))?;
        match found.attributes {
            Some(_) if found.is_dir => return Ok(None),
            Some(_) => return Err(format!("WORKDIR: {path} is not a directory")),
            None => {}
        }
        let layer = places.fresh().join(format!("layer-{}", ids::layer()));
        let made = (|| {
            let owner = find_owner(&lowers, user.as_deref())?;
            start_layer(&layer, &view).map_err(|error| format!("WORKDIR: {error}"))?;
            ensure_dir(&view, &layer, &found.path, owner)
        })();
        finish(&places, &layer, made).map(Some)
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| error.to_string())?
}

fn finish(places: &crate::layers::Places, layer: &Path, made: Result<(), String>) -> Result<String, String> {
    let id = ids::layer();
    let kept = made
        .and_then(|()| fs::rename(layer, places.layer(&id)).map_err(|error| format!("can't keep the layer: {error}")));
    if kept.is_err() {
        drop(places.discard(layer));
    }
    kept.map(|()| id)
}

/// User and group id of a name inside; `None` where there is one id only and it is meant.
fn find_owner(lowers: &[PathBuf], user: Option<&str>) -> Result<Option<(u32, u32)>, String> {
    let user = user.unwrap_or("user");
    let view = MergedView::open(lowers).map_err(|error| with_causes(&error))?;
    let accounts = view
        .read(Path::new("/etc/passwd"), MAX_ACCOUNTS_BYTES)
        .map_err(|error| with_causes(&error))?
        .unwrap_or_default();
    let accounts = String::from_utf8_lossy(&accounts);
    let found = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(user)).then(|| Some((fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?)))?
    });
    let found: (u32, u32) = match (found, user) {
        (Some(found), _) => found,
        (None, "root") => (0, 0),
        (None, "user") => base::user_ids(),
        (None, _) => return Err(format!("there is no user {user:?} in this template")),
    };
    if rustix::process::geteuid().is_root() {
        if found.0 >= 65_536 || found.1 >= 65_536 {
            return Err(format!("the ids of user {user:?} are above 65535"));
        }
        return Ok(Some(found));
    }
    if found.0 == base::user_ids().0 {
        Ok(None)
    } else {
        let why = "this server runs as an ordinary user, so its sandboxes have one user id";
        Err(format!("user '{user}' is not available in this sandbox: {why}"))
    }
}

/// Makes an empty layer whose root has the attributes of the view's.
fn start_layer(layer: &Path, view: &MergedView<'_>) -> io::Result<()> {
    fs::create_dir(layer)?;
    let root = view.resolve(Path::new("/")).map_err(io::Error::other)?;
    dress(layer, root.attributes.unwrap_or((0o755, 0, 0)))
}

fn dress(path: &Path, (mode, uid, gid): (u32, u32, u32)) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        lchown(path, Some(uid), Some(gid))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o1777))
}

/// Makes a directory of the view in the layer, with those above it; new ones belong to `owner`.
fn ensure_dir(view: &MergedView<'_>, layer: &Path, path: &Path, owner: Option<(u32, u32)>) -> Result<(), String> {
    let mut here = PathBuf::new();
    for component in path.components() {
        here.push(component);
        let full = layer.join(&here);
        if is_real_dir(&full) {
            continue;
        }
        let found = view
            .resolve(&Path::new("/").join(&here))
            .map_err(|error| with_causes(&error))?;
        if found.attributes.is_some() && !found.is_dir {
            return Err(format!("/{} is not a directory", here.display()));
        }
        let (uid, gid) = owner.unwrap_or((0, 0));
        fs::create_dir(&full)
            .and_then(|()| dress(&full, found.attributes.unwrap_or((0o755, uid, gid))))
            .map_err(|error| format!("can't make /{}: {error}", here.display()))?;
    }
    Ok(())
}

/// Moves what was unpacked to where it belongs: a directory's content into the destination; files as it, or into it.
fn place(
    staged: &Path,
    from: &str,
    lowers: &[PathBuf],
    layer: &Path,
    to: &str,
    owner: Option<(u32, u32)>,
    mode: Option<u32>,
) -> Result<(), String> {
    let failed = |error: io::Error| format!("COPY: {error}");
    let view = MergedView::open(lowers).map_err(|error| with_causes(&error))?;
    start_layer(layer, &view).map_err(failed)?;
    let sources = find_sources(staged, from).map_err(failed)?;
    if sources.is_empty() {
        return Err(format!("COPY: {from:?} is not among the files"));
    }
    own(staged, owner, mode, 0).map_err(failed)?;
    let target = view.resolve(Path::new(to)).map_err(|error| with_causes(&error))?;
    let is_into = to.ends_with('/') || target.is_dir || sources.len() > 1;
    for source in sources {
        if fs::symlink_metadata(&source).map_err(failed)?.is_dir() {
            ensure_dir(&view, layer, &target.path, owner)?;
            for entry in fs::read_dir(&source).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                merge(
                    &entry.path(),
                    &layer.join(&target.path).join(entry.file_name()),
                    &view,
                    layer,
                )
                .map_err(failed)?;
            }
        } else if is_into {
            ensure_dir(&view, layer, &target.path, owner)?;
            let name = source.file_name().unwrap_or_default();
            fs::rename(&source, layer.join(&target.path).join(name)).map_err(failed)?;
        } else {
            let parent = target.path.parent().unwrap_or(Path::new(""));
            ensure_dir(&view, layer, parent, owner)?;
            fs::rename(&source, layer.join(&target.path)).map_err(failed)?;
        }
    }
    Ok(())
}

/// Moves an entry into the layer; a directory that the view has already keeps its attributes there.
fn merge(from: &Path, to: &Path, view: &MergedView<'_>, layer: &Path) -> io::Result<()> {
    let is_dir = fs::symlink_metadata(from)?.is_dir();
    if is_dir && let Ok(inside) = to.strip_prefix(layer) {
        let found = view.resolve(&Path::new("/").join(inside)).map_err(io::Error::other)?;
        if found.is_dir && found.path == inside {
            if !is_real_dir(to) {
                // Another source's file or link: the later one wins.
                if super::exists(to) {
                    fs::remove_file(to)?;
                }
                fs::create_dir(to)?;
                dress(to, found.attributes.unwrap_or((0o755, 0, 0)))?;
            }
            for entry in fs::read_dir(from)? {
                let entry = entry?;
                merge(&entry.path(), &to.join(entry.file_name()), view, layer)?;
            }
            return Ok(());
        }
    }
    fs::rename(from, to)
}

/// Whether a path is a directory and not a link to one.
fn is_real_dir(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

/// Finds what a COPY names: a path, or one whose last part is a pattern.
fn find_sources(staged: &Path, from: &str) -> io::Result<Vec<PathBuf>> {
    let mut parts: Vec<&str> = from
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    let Some(name) = parts.pop() else {
        return Ok(vec![staged.to_owned()]);
    };
    let mut parent = staged.to_owned();
    for part in parts {
        parent.push(part);
        if part == ".." || !is_real_dir(&parent) {
            return Ok(Vec::new());
        }
    }
    let path = parent.join(name);
    if name != ".." && super::exists(&path) {
        return Ok(vec![path]);
    }
    // The client has resolved the pattern by what it has packed: at its last part, everything there is meant.
    if !name.contains(['*', '?', '[']) {
        return Ok(Vec::new());
    }
    let mut found: Vec<PathBuf> = fs::read_dir(parent)?.flatten().map(|entry| entry.path()).collect();
    found.sort();
    Ok(found)
}

/// Gives a tree of ours to its owner, and files their mode. Nobody else works on it, so no path in it can be swapped.
fn own(path: &Path, owner: Option<(u32, u32)>, mode: Option<u32>, depth: usize) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::other("the files lie too deep"));
    }
    let metadata = fs::symlink_metadata(path)?;
    if let Some((uid, gid)) = owner {
        lchown(path, Some(uid), Some(gid))?;
    }
    if let Some(mode) = mode
        && !metadata.is_symlink()
        && depth > 0
    {
        // A directory that can't be entered would be of no use to anybody.
        let mode = if metadata.is_dir() {
            mode | (mode & 0o444) >> 2
        } else {
            mode
        };
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            own(&entry?.path(), owner, mode, depth + 1)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn files_go_where_they_would_go_inside() {
        let dir = tempfile::tempdir().unwrap();
        let (base, staged, layer) = (
            dir.path().join("base"),
            dir.path().join("staged"),
            dir.path().join("layer"),
        );
        fs::create_dir_all(base.join("real/kept")).unwrap();
        fs::set_permissions(base.join("real/kept"), fs::Permissions::from_mode(0o700)).unwrap();
        symlink("/real", base.join("alias")).unwrap();
        fs::create_dir_all(staged.join("app/kept")).unwrap();
        fs::write(staged.join("app/kept/f"), "1").unwrap();
        fs::write(staged.join("one"), "2").unwrap();
        let lowers = [base];
        let placed = |from: &str, to: &str, layer: &Path| place(&staged, from, &lowers, layer, to, None, None);
        placed("app", "/alias", &layer).unwrap();
        assert_eq!(fs::read_to_string(layer.join("real/kept/f")).unwrap(), "1");
        let mode = fs::metadata(layer.join("real/kept")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "a directory that was there keeps its mode");
        let second = dir.path().join("second");
        placed("one", "/new/deep/name", &second).unwrap();
        assert_eq!(fs::read_to_string(second.join("new/deep/name")).unwrap(), "2");
        let third = dir.path().join("third");
        assert!(
            placed("missing", "/x", &third)
                .unwrap_err()
                .contains("is not among the files")
        );
    }

    /// What an uploaded archive holds is a stranger's, links included: none may lead out of the layer or of the upload.
    #[test]
    fn links_of_the_upload_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (base, staged, host) = (
            dir.path().join("base"),
            dir.path().join("staged"),
            dir.path().join("host"),
        );
        fs::create_dir_all(base.join("app/sub")).unwrap();
        fs::create_dir_all(&host).unwrap();
        fs::write(host.join("secret"), "of the host").unwrap();
        let lowers = [base];
        // A link as part of the source's path.
        fs::create_dir_all(&staged).unwrap();
        for from in ["link/secret", "link/*", "link/", "./link/secret"] {
            // The link itself may be copied; then it is a link inside.
            drop(fs::remove_file(staged.join("link")));
            symlink(&host, staged.join("link")).unwrap();
            let layer = dir.path().join(format!("layer-{}", ids::layer()));
            let placed = place(&staged, from, &lowers, &layer, "/app/", None, None);
            assert!(
                host.join("secret").exists(),
                "{from}: the host's file was taken: {placed:?}"
            );
            assert!(!layer.join("app/secret").exists(), "{from}");
        }
        // A link that one source puts where another then has a directory.
        drop(fs::remove_file(staged.join("link")));
        symlink(&host, staged.join("sub")).unwrap();
        fs::create_dir_all(staged.join("z/sub")).unwrap();
        fs::write(staged.join("z/sub/planted"), "by the stranger").unwrap();
        let layer = dir.path().join("layer");
        let placed = place(&staged, "*", &lowers, &layer, "/app", None, None);
        assert!(!host.join("planted").exists(), "written through a link: {placed:?}");
        assert_eq!(
            fs::read_to_string(layer.join("app/sub/planted")).unwrap(),
            "by the stranger"
        );
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!(parse_mode("0640").unwrap(), 0o640);
        assert_eq!(parse_mode("6755").unwrap(), 0o755);
        for text in ["", "8", "00640", "x"] {
            assert!(parse_mode(text).is_err(), "{text}");
        }
    }
}
