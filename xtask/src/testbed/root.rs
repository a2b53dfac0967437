//! The guest's root file system: a small Debian made of unpacked packages (no maintainer script ever runs, no root needed),
//! as an ext4 image in the cache. A guest writes to a throw-away copy of it.

use std::fs;
use std::path::{Path, PathBuf};

use super::apt::{self, Apt};
use super::cache::{Cache, key};
use super::{Machine, TestbedError, at};
use crate::command;

/// How large the file system is; the image's file is sparse and holds only what is used.
const SIZE: &str = "3G";
/// The folders that a merged /usr has as symlinks (Debian's usrmerge).
const MERGED: [&str; 3] = ["bin", "sbin", "lib"];
/// Mount points and homes. Owners and modes are set by testbed/guest/init, since a user can't make root's files.
const FOLDERS: [&str; 13] = [
    "dev",
    "proc",
    "sys",
    "run",
    "tmp",
    "root",
    "home/user",
    "work",
    "testbed",
    "var/tmp",
    "var/lib",
    "mnt",
    "etc",
];

/// A root file system that can be booted.
#[derive(Debug)]
pub(crate) struct Root {
    /// The ext4 image.
    pub(crate) image: PathBuf,
    /// The guest architecture's static busybox, for the initramfs.
    pub(crate) busybox: PathBuf,
}

/// Takes the root from the cache, or makes it.
///
/// # Errors
/// [`TestbedError`].
pub(crate) fn prepare(cache: &Cache, machine: Machine, checkout: &Path, refresh: bool) -> Result<Root, TestbedError> {
    let list = checkout.join("testbed/packages.txt");
    let packages = fs::read_to_string(&list).map_err(at(&list))?;
    let skeleton = skeleton(&checkout.join("testbed/skeleton"))?;
    let texts = skeleton.iter().flat_map(|(name, content)| [name.as_bytes(), content]);
    let key = key([packages.as_bytes()].into_iter().chain(texts));
    let name = format!("root-{}", machine.debian_arch());
    let folder = cache.entry(&name, &key, refresh, |into| {
        make(cache, machine, &packages, &skeleton, into)
    })?;
    Ok(Root {
        image: folder.join("root.ext4"),
        busybox: folder.join("busybox"),
    })
}

/// The files of testbed/skeleton/etc, by their path in the guest.
fn skeleton(folder: &Path) -> Result<Vec<(String, Vec<u8>)>, TestbedError> {
    let etc = folder.join("etc");
    let mut files = Vec::new();
    for entry in fs::read_dir(&etc).map_err(at(&etc))? {
        let path = entry.map_err(at(&etc))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        files.push((format!("etc/{name}"), fs::read(&path).map_err(at(&path))?));
    }
    files.sort();
    Ok(files)
}

fn make(
    cache: &Cache,
    machine: Machine,
    packages: &str,
    skeleton: &[(String, Vec<u8>)],
    into: &Path,
) -> Result<(), TestbedError> {
    println!("testbed {machine}: downloading the root file system");
    let apt = Apt::update(cache, &machine.apt_folder(), machine.debian_arch())?;
    let names: Vec<&str> = packages
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let debs = apt.download_closure(&names)?;
    let tree = into.join("tree");
    let make_folder = |path: &str| fs::create_dir_all(tree.join(path)).map_err(at(&tree));
    for folder in MERGED {
        make_folder(&format!("usr/{folder}"))?;
        std::os::unix::fs::symlink(format!("usr/{folder}"), tree.join(folder)).map_err(at(&tree))?;
    }
    for folder in FOLDERS {
        make_folder(folder)?;
    }
    for deb in &debs {
        apt::unpack(deb, &tree)?;
    }
    apt.clean()?;
    for (name, content) in skeleton {
        let path = tree.join(name);
        fs::write(&path, content).map_err(at(&path))?;
    }
    let busybox = tree.join("usr/bin/busybox");
    fs::copy(&busybox, into.join("busybox")).map_err(at(&busybox))?;
    image(&tree, &into.join("root.ext4"), SIZE, "ringwall-root")?;
    fs::remove_dir_all(&tree).map_err(at(&tree))
}

/// Makes an ext4 image of a folder, without mounting anything. No journal: the guests are thrown away.
///
/// # Errors
/// [`TestbedError`].
pub(crate) fn image(folder: &Path, image: &Path, size: &str, label: &str) -> Result<(), TestbedError> {
    let mut mke2fs = command::sbin("mke2fs");
    mke2fs
        .args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-L", label, "-d"])
        .arg(folder)
        .arg(image)
        .arg(size);
    Ok(command::output(&mut mke2fs).map(drop)?)
}
