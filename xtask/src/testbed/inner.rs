//! What the suite `vmm` boots inside of the machine: two kernels (ours, and the Debian one that the machine runs itself), an
//! initramfs for each, and a disk. The guest script of all of them is testbed/l2/init.
//!
//! Debian's kernels have the virtio drivers as modules, so their initramfs packs these; ours has them built in.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cpio::Archive;
use super::guest_kernel;
use super::kernel::Kernel;
use super::root::{self, Root};
use super::{Machine, TestbedError, at};
use crate::command;

/// The disk's size: room for what testbed/l2/init writes, twice.
const DISK_SIZE: &str = "24M";
/// How many bytes there are to be read and checked.
const GIVEN_BYTES: u64 = 4 * 1024 * 1024;

/// Makes the files in `into`, which must not exist.
///
/// # Errors
/// [`TestbedError`].
pub(crate) fn prepare(
    checkout: &Path,
    machine: Machine,
    kernel: &Kernel,
    root: &Root,
    vsock_peer: &Path,
    into: &Path,
) -> Result<(), TestbedError> {
    fs::create_dir(into).map_err(at(into))?;
    let arch = machine.guest_arch();
    let ours = guest_kernel::prepare(checkout, arch, false)?;
    let copy = |from: &Path, name: &str| fs::copy(from, into.join(name)).map(drop).map_err(at(from));
    copy(&ours.image, "kernel-ringwall")?;
    copy(&kernel.image, "kernel-debian")?;
    let words = into.join("command-line");
    fs::write(&words, arch.command_line()).map_err(at(&words))?;

    let programs = Programs {
        init: checkout.join("testbed/l2/init"),
        busybox: root.busybox.clone(),
        vsock_peer: vsock_peer.to_owned(),
    };
    for (name, modules) in [("ringwall", &[][..]), ("debian", &kernel.inner_modules)] {
        let path = into.join(format!("initramfs-{name}"));
        fs::write(&path, initramfs(&programs, modules)?).map_err(at(&path))?;
    }
    disk(into)
}

/// What is in each initramfs.
struct Programs {
    init: PathBuf,
    busybox: PathBuf,
    vsock_peer: PathBuf,
}

fn initramfs(programs: &Programs, modules: &[PathBuf]) -> Result<Vec<u8>, TestbedError> {
    let read = |path: &Path| fs::read(path).map_err(at(path));
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "proc", "sys", "modules"] {
        archive.folder(folder);
    }
    archive.program("init", &read(&programs.init)?);
    archive.program("bin/busybox", &read(&programs.busybox)?);
    archive.program("bin/vsock-peer", &read(&programs.vsock_peer)?);
    for module in modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.program(&format!("modules/{name}"), &read(module)?);
    }
    Ok(archive.finish())
}

/// The disk: a file, and its checksum in the form that sha256sum reads.
fn disk(into: &Path) -> Result<(), TestbedError> {
    let tree = tempfile::tempdir_in(into).map_err(at(into))?;
    let given = tree.path().join("given");
    let mut text = String::new();
    let mut line: u64 = 0;
    // Each line differs, so that a sector in the wrong place shows.
    while u64::try_from(text.len()).unwrap_or(u64::MAX) < GIVEN_BYTES {
        // Writing to a String can't fail.
        let _ = writeln!(text, "{line:016x} {:016x}", line.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        line += 1;
    }
    fs::write(&given, &text).map_err(at(&given))?;
    let sum = command::output(Command::new("sha256sum").arg("given").current_dir(tree.path()))?;
    let sum_file = tree.path().join("given.sha256");
    fs::write(&sum_file, sum).map_err(at(&sum_file))?;
    root::image(tree.path(), &into.join("disk"), DISK_SIZE, "inner")
}
