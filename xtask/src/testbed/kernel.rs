//! A Debian kernel for a guest: the image and the few modules it needs, unpacked from the package into the cache, in the
//! order in which they must be loaded.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::apt::{self, Apt};
use super::cache::{Cache, key};
use super::{Machine, TestbedError, at};
use crate::command;

/// Modules that the guest loads (Debian's cloud kernels have ext4 built in). virtio for its disks; overlay for captured
/// writes; the others are what attempts try to reach, so that "the kernel has it not" isn't what stops them.
const MODULES: [&str; 12] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_rng",
    "overlay",
    "loop",
    "tun",
    "veth",
    "fuse",
    "vsock",
    "vsock_loopback",
    "af_key",
    "algif_hash",
];

/// Modules that a guest inside of the guest loads from its initramfs, when its kernel is this one.
const INNER_MODULES: [&str; 6] = [
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "virtio_balloon",
    "vmw_vsock_virtio_transport",
];

/// A kernel that can be booted.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// Its version, such as 6.1.0-56-cloud-arm64.
    pub(crate) version: String,
    /// The image.
    pub(crate) image: PathBuf,
    /// The modules, in the order to load them.
    pub(crate) modules: Vec<PathBuf>,
    /// The modules for a guest inside of the guest, in their order.
    pub(crate) inner_modules: Vec<PathBuf>,
}

/// Takes the kernel from the cache, or downloads it.
///
/// # Errors
/// [`TestbedError`].
pub(crate) fn prepare(cache: &Cache, machine: Machine, refresh: bool) -> Result<Kernel, TestbedError> {
    let modules: Vec<&str> = MODULES.iter().chain(machine.kvm_modules()).copied().collect();
    let key = key(modules
        .iter()
        .copied()
        .chain(["inner"])
        .chain(INNER_MODULES)
        .map(str::as_bytes));
    let folder = cache.entry(&format!("kernel-{machine}"), &key, refresh, |into| {
        make(cache, machine, &modules, into)
    })?;
    let version_file = folder.join("version");
    let version = fs::read_to_string(&version_file).map_err(at(&version_file))?;
    Ok(Kernel {
        version: version.trim().to_owned(),
        image: folder.join("image"),
        modules: in_turn(&folder.join("modules"))?,
        inner_modules: in_turn(&folder.join("inner-modules"))?,
    })
}

/// The modules of a folder in their order: the names begin with their turn.
fn in_turn(folder: &Path) -> Result<Vec<PathBuf>, TestbedError> {
    let entries = fs::read_dir(folder).map_err(at(folder))?;
    let mut modules: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    modules.sort();
    Ok(modules)
}

fn make(cache: &Cache, machine: Machine, modules: &[&str], into: &Path) -> Result<(), TestbedError> {
    println!("testbed {machine}: downloading the kernel");
    let apt = Apt::update(cache, &machine.apt_folder(), machine.debian_arch())?;
    let found = apt.dependencies(machine.kernel_meta())?;
    let prefix = format!("linux-image-{}.", machine.series());
    let Some(package) = found.iter().find(|name| name.starts_with(&prefix)) else {
        return Err(TestbedError::NoKernel {
            series: machine.series(),
            meta: machine.kernel_meta(),
            found,
        });
    };
    let tree = into.join("tree");
    fs::create_dir(&tree).map_err(at(&tree))?;
    let deb = apt.download(package, into)?;
    apt::unpack(&deb, &tree)?;
    fs::remove_file(&deb).map_err(at(&deb))?;

    let all_modules = ["lib/modules", "usr/lib/modules"]
        .map(|folder| tree.join(folder))
        .into_iter()
        .find(|path| path.is_dir());
    let lacks = |wanted| TestbedError::Package {
        package: tree.clone(),
        wanted,
    };
    let all_modules = all_modules.ok_or_else(|| lacks("lib/modules"))?;
    let version = fs::read_dir(&all_modules).map_err(at(&all_modules))?.flatten().next();
    let version = version
        .ok_or_else(|| lacks("kernel version"))?
        .file_name()
        .to_string_lossy()
        .into_owned();
    let image = tree.join(format!("boot/vmlinuz-{version}"));
    fs::rename(&image, into.join("image")).map_err(at(&image))?;
    let all_modules = all_modules.join(&version);
    take_modules(&all_modules, &version, modules, &into.join("modules"))?;
    take_modules(&all_modules, &version, &INNER_MODULES, &into.join("inner-modules"))?;
    fs::write(into.join("version"), &version).map_err(at(into))?;
    fs::remove_dir_all(&tree).map_err(at(&tree))
}

/// Copies the wanted modules and those they need, uncompressed, each named by its turn.
fn take_modules(tree: &Path, version: &str, wanted: &[&str], into: &Path) -> Result<(), TestbedError> {
    let mut files = BTreeMap::new();
    find_modules(&tree.join("kernel"), &mut files)?;
    let list = tree.join("modules.builtin");
    let built_in: Vec<String> = fs::read_to_string(&list)
        .map_err(at(&list))?
        .lines()
        .map(module_name)
        .collect();
    fs::create_dir(into).map_err(at(into))?;
    let mut loaded = Vec::new();
    // Depth first: a module's needs come before it. `pending` holds (name, were its needs looked at).
    let mut pending: Vec<(String, Option<Vec<u8>>)> =
        wanted.iter().rev().map(|name| ((*name).to_owned(), None)).collect();
    while let Some((name, content)) = pending.pop() {
        if loaded.contains(&name) || built_in.contains(&name) {
            continue;
        }
        if let Some(content) = content {
            let path = into.join(format!("{:02}-{name}.ko", loaded.len()));
            fs::write(&path, content).map_err(at(&path))?;
            loaded.push(name);
            continue;
        }
        let no_module = || TestbedError::NoModule {
            kernel: version.to_owned(),
            module: name.clone(),
        };
        let content = read_module(files.get(&name).ok_or_else(no_module)?)?;
        let needs = needed_modules(&content);
        pending.push((name, Some(content)));
        pending.extend(needs.into_iter().map(|need| (need, None)));
    }
    Ok(())
}

fn find_modules(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<(), TestbedError> {
    for entry in fs::read_dir(folder).map_err(at(folder))? {
        let path = entry.map_err(at(folder))?.path();
        if path.is_dir() {
            find_modules(&path, files)?;
        } else {
            files.insert(module_name(&path.to_string_lossy()), path);
        }
    }
    Ok(())
}

/// The module's name of a file such as `kernel/net/virtio-rng.ko.xz`; the kernel's own name has underscores only.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// Newer Debian kernels compress their modules, and busybox's insmod can't always load those.
fn read_module(path: &Path) -> Result<Vec<u8>, TestbedError> {
    if path.extension().is_some_and(|extension| extension == "xz") {
        return Ok(command::output(Command::new("xz").arg("-dc").arg(path))?);
    }
    fs::read(path).map_err(at(path))
}

/// The modules named in a module's `depends=` note (include/linux/module.h, MODULE_INFO: NUL-separated `key=value` texts).
fn needed_modules(module: &[u8]) -> Vec<String> {
    let note = module
        .split(|byte| *byte == 0)
        .find_map(|text| text.strip_prefix(b"depends="));
    let names = String::from_utf8_lossy(note.unwrap_or_default()).into_owned();
    names
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_names_and_needs_are_the_kernels() {
        assert_eq!(
            module_name("kernel/drivers/char/hw_random/virtio-rng.ko.xz"),
            "virtio_rng"
        );
        assert_eq!(
            needed_modules(b"\x7fELF\0license=GPL\0depends=vsock,vmw-transport\0name=x\0"),
            ["vsock", "vmw_transport"]
        );
        assert_eq!(
            needed_modules(b"\x7fELF\0depends=\0__UNIQUE_ID_depends339\0"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn needs_come_first_and_built_in_ones_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        fs::create_dir_all(tree.join("kernel/a")).unwrap();
        for name in MODULES.iter().filter(|name| **name != "fuse") {
            let needs = if *name == "overlay" { "loop" } else { "" };
            fs::write(
                tree.join(format!("kernel/a/{name}.ko")),
                format!("x\0depends={needs}\0"),
            )
            .unwrap();
        }
        fs::write(tree.join("modules.builtin"), "kernel/fs/fuse.ko\n").unwrap();
        let into = folder.path().join("out");
        take_modules(&tree, "6.1", &MODULES, &into).unwrap();
        let mut names: Vec<_> = fs::read_dir(&into)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names.len(), MODULES.len() - 1);
        let turn = |module: &str| names.iter().position(|name| name[3..] == format!("{module}.ko"));
        assert!(turn("loop") < turn("overlay"), "{names:?}");
        assert_eq!(turn("fuse"), None);
    }

    #[test]
    fn a_missing_module_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("kernel")).unwrap();
        fs::write(folder.path().join("modules.builtin"), "").unwrap();
        let result = take_modules(folder.path(), "6.1", &MODULES, &folder.path().join("out"));
        assert!(matches!(result, Err(TestbedError::NoModule { .. })), "{result:?}");
    }
}
