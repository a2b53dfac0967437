//! What changes from run to run: this checkout's binaries and test executables built for the guest and the scripts of
//! testbed/guest on a small read-only disk (`/testbed` in the guest), and the initramfs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::cpio::Archive;
use super::inner;
use super::kernel::Kernel;
use super::root::{self, Root};
use super::{Machine, TestbedError, at};
use crate::checkout::{Workspace, cargo};
use crate::command;

/// Crates whose unit tests run in the guest too: those with tables or code that differ by architecture or kernel.
/// Their tests must need no file of the checkout.
const UNIT_CRATES: [&str; 5] = [
    "ringwall-types",
    "ringwall-seccomp",
    "ringwall-layer",
    "ringwall-cgroup",
    "ringwall-confine",
];
/// The tests that need a KVM with ordinary virtual machines, which few developers' machines have. Optimised, because their dependencies are
/// built for `VMM_BINARIES` anyway.
const KVM_TESTS: [&str; 5] = ["--release", "-p", "ringwall-arch", "--test", "boot"];
/// A package and its executable.
type Binary = (&'static str, &'static str);
/// What the suites of the process tiers run.
const TIER_BINARIES: [Binary; 2] = [("ringwall", "ringwall"), ("ringwall-attempts", "ringwall-attempts")];
/// What the suite `vmm` runs.
const VMM_BINARIES: [Binary; 2] = [
    ("ringwall-vmm-bin", "ringwall-vmm"),
    ("ringwall-vsock-peer", VSOCK_PEER),
];
/// The guest's half of its vsock test.
const VSOCK_PEER: &str = "ringwall-vsock-peer";

/// The images of one run.
#[derive(Debug)]
pub(crate) struct Job {
    /// The disk with binaries and scripts.
    pub(crate) disk: PathBuf,
    /// The initramfs.
    pub(crate) initramfs: PathBuf,
    /// What is booted inside of the machine; empty without the suite `vmm`.
    inner: PathBuf,
    /// Where the console's lines go.
    pub(crate) console_log: PathBuf,
}

impl Job {
    /// Removes what can be made again; the console's log stays.
    ///
    /// # Errors
    /// [`TestbedError::File`].
    pub(crate) fn remove_images(&self) -> Result<(), TestbedError> {
        for path in [&self.disk, &self.initramfs] {
            fs::remove_file(path).map_err(at(path))?;
        }
        remove_folder(&self.inner)
    }
}

fn remove_folder(path: &Path) -> Result<(), TestbedError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(at(path)(error)),
        _ => Ok(()),
    }
}

/// Builds for the guest and makes the images.
///
/// # Errors
/// [`TestbedError`].
pub(crate) fn prepare(
    workspace: &Workspace,
    machine: Machine,
    kernel: &Kernel,
    root: &Root,
    suites: &[&str],
) -> Result<Job, TestbedError> {
    let folder = workspace.scratch().join("testbed").join(machine.to_string());
    fs::create_dir_all(&folder).map_err(at(&folder))?;
    let job = Job {
        disk: folder.join("job.ext4"),
        initramfs: folder.join("initramfs.cpio"),
        inner: folder.join("inner"),
        console_log: folder.join("console.log"),
    };
    let testbed = workspace.workspace_root.join("testbed");
    let tree = tempfile::tempdir_in(&folder).map_err(at(&folder))?;
    let built = fill(tree.path(), workspace, machine, &testbed, suites)?;
    remove_folder(&job.inner)?; // what a run with --keep left
    if suites.contains(&"vmm") {
        let peer = built.join(VSOCK_PEER);
        inner::prepare(&workspace.workspace_root, machine, kernel, root, &peer, &job.inner)?;
        link_files(&job.inner, &tree.path().join("inner"))?;
    }
    drop(fs::remove_file(&job.disk)); // mke2fs would keep an old file's size
    let size_mib = folder_size(tree.path())? / (1024 * 1024) + 24;
    root::image(tree.path(), &job.disk, &format!("{size_mib}M"), "ringwall-job")?;
    fs::write(&job.initramfs, initramfs(&testbed, kernel, root)?).map_err(at(&job.initramfs))?;
    Ok(job)
}

/// Fills the disk's tree, but for what is booted inside; returns the folder with the executables.
fn fill(
    tree: &Path,
    workspace: &Workspace,
    machine: Machine,
    testbed: &Path,
    suites: &[&str],
) -> Result<PathBuf, TestbedError> {
    for name in ["bin", "unit", "kvm-tests"] {
        fs::create_dir(tree.join(name)).map_err(at(tree))?;
    }
    let scripts = testbed.join("guest");
    for entry in fs::read_dir(&scripts).map_err(at(&scripts))? {
        let entry = entry.map_err(at(&scripts))?;
        copy_program(&entry.path(), &tree.join(entry.file_name()))?;
    }
    let binaries = binaries(suites);
    let built = build(workspace, machine, &binaries)?;
    for (_, name) in binaries {
        copy_program(&built.join(name), &tree.join("bin").join(name))?;
    }
    let tests = |wanted: &[&str], folder: &str| {
        for (name, executable) in build_tests(machine, wanted)? {
            copy_program(&executable, &tree.join(folder).join(name))?;
        }
        Ok::<(), TestbedError>(())
    };
    if suites.contains(&"unit") {
        let packages = UNIT_CRATES.iter().flat_map(|name| ["-p", name]);
        tests(&["--lib"].into_iter().chain(packages).collect::<Vec<_>>(), "unit")?;
    }
    if suites.contains(&"vmm") {
        tests(&KVM_TESTS, "kvm-tests")?;
    }
    let list = tree.join("suites");
    fs::write(&list, suites.join("\n") + "\n").map_err(at(&list))?;
    // tempdir makes it private; the guest's unprivileged user must get in.
    fs::set_permissions(tree, fs::Permissions::from_mode(0o755)).map_err(at(tree))?;
    Ok(built)
}

/// What must be built for these suites: the linker takes its minutes for each.
fn binaries(suites: &[&str]) -> Vec<Binary> {
    let mut binaries = Vec::new();
    if suites.iter().any(|suite| !matches!(*suite, "kvm" | "vmm")) {
        binaries.extend(TIER_BINARIES);
    }
    if suites.contains(&"vmm") {
        binaries.extend(VMM_BINARIES);
    }
    binaries
}

fn link_files(from: &Path, to: &Path) -> Result<(), TestbedError> {
    fs::create_dir(to).map_err(at(to))?;
    for entry in fs::read_dir(from).map_err(at(from))? {
        let entry = entry.map_err(at(from))?;
        fs::hard_link(entry.path(), to.join(entry.file_name())).map_err(at(&entry.path()))?;
    }
    Ok(())
}

fn copy_program(from: &Path, to: &Path) -> Result<(), TestbedError> {
    fs::copy(from, to).map_err(at(from))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).map_err(at(to))
}

/// Builds executables for the guest; returns the folder with them.
fn build(workspace: &Workspace, machine: Machine, binaries: &[Binary]) -> Result<PathBuf, TestbedError> {
    let mut build = cargo();
    build.args(["build", "--quiet", "--release", "--target", machine.triple()]);
    build.args(binaries.iter().flat_map(|(package, _)| ["-p", package]));
    if !binaries.is_empty() {
        command::run(&mut build)?;
    }
    Ok(workspace.target_directory.join(machine.triple()).join("release"))
}

/// One line of `cargo --message-format=json` (cargo's documentation, "External tools").
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Builds tests for the guest, those that cargo's words say; returns their names and executables.
fn build_tests(machine: Machine, wanted: &[&str]) -> Result<Vec<(String, PathBuf)>, TestbedError> {
    let mut build = cargo();
    build.args([
        "test",
        "--quiet",
        "--no-run",
        "--message-format",
        "json",
        "--target",
        machine.triple(),
    ]);
    build.args(wanted);
    let messages = command::text(&mut build)?;
    Ok(messages.lines().filter_map(test_executable).collect())
}

/// The test executable that a message of cargo tells of, if it tells of one.
fn test_executable(message: &str) -> Option<(String, PathBuf)> {
    let message: Message = serde_json::from_str(message).ok()?;
    if !message.profile?.test {
        return None;
    }
    Some((message.target?.name, message.executable?))
}

fn initramfs(testbed: &Path, kernel: &Kernel, root: &Root) -> Result<Vec<u8>, TestbedError> {
    let read = |path: &Path| fs::read(path).map_err(at(path));
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "proc", "sys", "root", "modules"] {
        archive.folder(folder);
    }
    archive.program("init", &read(&testbed.join("initramfs/init"))?);
    archive.program("bin/busybox", &read(&root.busybox)?);
    for module in &kernel.modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.program(&format!("modules/{name}"), &read(module)?);
    }
    Ok(archive.finish())
}

fn folder_size(folder: &Path) -> Result<u64, TestbedError> {
    let mut total = 0;
    for entry in fs::read_dir(folder).map_err(at(folder))? {
        let entry = entry.map_err(at(folder))?;
        let found = entry.metadata().map_err(at(folder))?;
        total += if found.is_dir() {
            folder_size(&entry.path())?
        } else {
            found.len()
        };
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_suites_run_is_built() {
        assert_eq!(binaries(&["kvm"]), []);
        assert_eq!(binaries(&["vmm", "kvm"]), VMM_BINARIES);
        assert_eq!(binaries(&["doctor"]), TIER_BINARIES);
        assert_eq!(binaries(&super::super::SUITES).len(), 4);
    }

    #[test]
    fn only_test_executables_are_taken_from_cargo() {
        let built = r#"{"reason":"compiler-artifact","target":{"name":"ringwall_types"},"profile":{"test":true},"executable":"/t/x"}"#;
        assert_eq!(
            test_executable(built),
            Some(("ringwall_types".to_owned(), "/t/x".into()))
        );
        assert_eq!(test_executable(&built.replace("true", "false")), None);
        assert_eq!(test_executable(&built.replace("\"/t/x\"", "null")), None);
        assert_eq!(test_executable(r#"{"reason":"build-finished","success":true}"#), None);
    }
}
