//! Builds the root file system of a sandbox and moves into it.
//!
//! Runs in the first process of new mount and pid namespaces, with all capabilities over them. Three steps, each of which needs the
//! one before: open every source on the host (nothing is resolved later), lay out a fresh tree on a memory file system, pivot.
//! The old root is detached last, so nothing of the host stays reachable. Mounts live in this namespace only and end with it.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ringwall_sys::mount::{self, MountAttributes};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use thiserror::Error;

use crate::devices;
use crate::view::{Entry, Source, View};

/// `MS_*` bits (mount(2)).
const MS_NOSUID: u64 = 2;
const MS_NODEV: u64 = 4;
const MS_NOEXEC: u64 = 8;

/// Where the fresh root is mounted before it becomes the root. Any directory will do; the host's own is only covered, in this
/// namespace, until the pivot.
const CANDIDATE_POINTS: [&str; 4] = ["/tmp", "/mnt", "/var", "/usr"];

/// The step of mounting the overlay.
const CAPTURE: &str = "capture writes of";

/// A step of building the root that failed.
#[derive(Debug, Error)]
pub enum BuildRootError {
    /// A source could not be opened.
    #[error("can't open {}", path.display())]
    Open {
        /// The source.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A source is not what it was when the run was planned.
    #[error("{} was replaced while the sandbox was being made", path.display())]
    Replaced {
        /// The source.
        path: PathBuf,
    },
    /// Other file systems are mounted below a directory whose writes are to be captured.
    #[error("can't capture writes of {}: other file systems are mounted inside it; name what is needed of it with --read or --write", path.display())]
    HasMounts {
        /// The directory.
        path: PathBuf,
    },
    /// A mount or another step failed.
    #[error("can't {step} {}", path.display())]
    Step {
        /// What was being done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl BuildRootError {
    /// Returns whether the caller's paths are the reason, and not what this machine can do.
    #[must_use]
    pub fn is_about_a_path(&self) -> bool {
        match self {
            BuildRootError::Open { .. } | BuildRootError::Replaced { .. } | BuildRootError::HasMounts { .. } => true,
            // An overlay that this kernel does not know, or not for this user, is the machine's lack; any other failure is about this
            // directory or this name, and must not lower the tier.
            BuildRootError::Step {
                step: CAPTURE, source, ..
            } => ![Errno::NODEV, Errno::PERM]
                .iter()
                .any(|errno| source.raw_os_error() == Some(errno.raw_os_error())),
            BuildRootError::Step { step, .. } => step.starts_with("attach") || *step == "hide" || *step == "clone",
        }
    }
}

fn step<'a>(name: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> BuildRootError + 'a {
    move |source| BuildRootError::Step {
        step: name,
        path: path.to_owned(),
        source,
    }
}

/// Something on the host, held by descriptor.
#[derive(Debug)]
enum Held {
    /// An open directory or file of this mount namespace.
    Opened(OwnedFd),
    /// A detached mount.
    Detached(OwnedFd),
}

/// Every source of a view, held: from here on no path of the host is looked up again, but for the fixed system tree.
#[derive(Debug)]
pub struct Sources {
    entries: Vec<(Entry, Vec<Held>)>,
    memory_size: Option<u64>,
    has_own_root: bool,
}

impl Sources {
    /// Opens all sources of `view`. Call it before the working directory or any mount changes.
    ///
    /// # Errors
    /// A source that is gone, unreadable or was replaced since the plan was made.
    pub fn open(view: View) -> Result<Self, BuildRootError> {
        let mut entries = Vec::with_capacity(view.entries.len() + 1);
        entries.push((
            Entry::Private {
                path: PathBuf::from("/dev/shm"),
                mode: 0o1777,
            },
            Vec::new(),
        ));
        for mut entry in view.entries {
            let held = match &mut entry {
                Entry::Bind { source, read_only, .. } => {
                    let mut attributes = MountAttributes::NO_SUID.and(MountAttributes::NO_DEV);
                    if *read_only {
                        attributes = attributes.and(MountAttributes::READ_ONLY);
                    }
                    let tree = match take(source)? {
                        Held::Opened(fd) => mount::clone_tree(fd.as_fd(), true).map_err(step("clone", entry.path()))?,
                        Held::Detached(tree) => tree,
                    };
                    mount::change_attributes_at(tree.as_fd(), attributes, true)
                        .map_err(step("protect", entry.path()))?;
                    vec![Held::Detached(tree)]
                }
                Entry::Captured { lowers, layer, .. } => {
                    let mut held = vec![take(layer)?];
                    for lower in lowers {
                        held.push(take(lower)?);
                    }
                    held
                }
                _ => Vec::new(),
            };
            entries.push((entry, held));
        }
        // Parents before children, so that a mount never covers what was placed below it.
        entries.sort_by(|(left, _), (right, _)| left.path().cmp(right.path()));
        Ok(Sources {
            entries,
            memory_size: view.memory_size,
            has_own_root: view.has_own_root,
        })
    }
}

fn take(source: &mut Source) -> Result<Held, BuildRootError> {
    match source {
        Source::Path { path, id } => {
            let open =
                |resolve| rustix::fs::openat2(CWD, &*path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve);
            let fd = open(ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS).map_err(|error| {
                BuildRootError::Open {
                    path: path.clone(),
                    source: error.into(),
                }
            })?;
            let stat = rustix::fs::fstat(&fd).map_err(|error| BuildRootError::Open {
                path: path.clone(),
                source: error.into(),
            })?;
            if (stat.st_dev, stat.st_ino) != *id {
                return Err(BuildRootError::Replaced { path: path.clone() });
            }
            Ok(Held::Opened(fd))
        }
        Source::Mount(fd) => {
            let fd = fd.try_clone().map_err(step("hold", Path::new("mount")))?;
            Ok(Held::Detached(fd))
        }
    }
}

/// A path below the fresh root, for calls made with that root as the working directory.
fn inside(path: &Path) -> CString {
    let bytes = path.as_os_str().as_bytes();
    let relative = bytes.strip_prefix(b"/").unwrap_or(bytes);
    // Paths come from the plan, which refuses NUL; an empty path is the root itself.
    CString::new(if relative.is_empty() { b"." } else { relative }).unwrap_or_default()
}

fn host(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}

/// Makes the directories above `path`, each once: most entries share theirs.
fn make_parents(path: &Path, made: &mut BTreeSet<PathBuf>) -> Result<(), BuildRootError> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let Some(parent) = relative.parent() else { return Ok(()) };
    let mut missing: Vec<&Path> = parent
        .ancestors()
        .take_while(|above| !above.as_os_str().is_empty() && !made.contains(*above))
        .collect();
    while let Some(directory) = missing.pop() {
        make_dir(directory, 0o755)?;
        made.insert(directory.to_owned());
    }
    Ok(())
}

fn make_dir(relative: &Path, mode: u32) -> Result<(), BuildRootError> {
    if relative.as_os_str().is_empty() {
        return Ok(());
    }
    match rustix::fs::mkdir(relative, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(step("make directory", relative)(error.into())),
    }
}

fn make_file(relative: &Path, content: &[u8], mode: u32) -> Result<(), BuildRootError> {
    if content.is_empty() {
        // One call in place of open and close.
        return match rustix::fs::mknodat(CWD, relative, FileType::RegularFile, Mode::from_raw_mode(mode), 0) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(step("make file", relative)(error.into())),
        };
    }
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = rustix::fs::open(relative, flags, Mode::from_raw_mode(mode))
        .map_err(|error| step("make file", relative)(error.into()))?;
    let mut rest = content;
    while !rest.is_empty() {
        let written = rustix::io::write(&fd, rest).map_err(|error| step("write", relative)(error.into()))?;
        rest = &rest[written.min(rest.len())..];
    }
    Ok(())
}

/// Directory of stand-ins for hidden paths, in the fresh memory file system; nothing in it can be opened.
const STAND_INS: &str = ".hidden";
/// The same as seen from a root file system of the caller's, which lies beside `private/`.
const STAND_INS_BESIDE: &str = "../private/.hidden";

/// Makes the held sources the root of this process and detaches the old root.
///
/// # Errors
/// The step that failed; the process must then exit, its namespaces are half made.
pub fn build(sources: Sources) -> Result<(), BuildRootError> {
    rustix::process::umask(Mode::empty());
    let point = CANDIDATE_POINTS
        .iter()
        .map(Path::new)
        .find(|path| rustix::fs::stat(*path).is_ok_and(|stat| stat.st_mode & 0o170_000 == 0o040_000))
        .unwrap_or(Path::new("/"));
    let size = sources
        .memory_size
        .map_or_else(|| "25%".to_owned(), |bytes| bytes.to_string());
    let options = CString::new(format!("mode=0755,size={size}")).unwrap_or_default();
    mount::mount(c"tmpfs", &host(point), c"tmpfs", MS_NOSUID | MS_NODEV, &options)
        .map_err(step("mount tmpfs on", point))?;
    rustix::process::chdir(point).map_err(|error| step("enter", point)(error.into()))?;

    if sources.has_own_root {
        return build_on_own_root(sources);
    }
    lay_out(&sources)?;
    // Private directories are held before the tree turns read-only: a clone made later would be read-only too.
    let private = hold_private(&sources)?;
    for (entry, _) in &sources.entries {
        if let Entry::System(path) = entry {
            mount::bind(&host(path), &inside(path)).map_err(step("bind", path))?;
        }
    }
    mount_proc(c"proc", c"proc/sys")?;
    let sealed = MountAttributes::READ_ONLY
        .and(MountAttributes::NO_SUID)
        .and(MountAttributes::NO_DEV);
    mount::change_attributes(c".", sealed, MountAttributes::default(), true).map_err(step("seal", Path::new("/")))?;
    mount::change_attributes(c"proc", MountAttributes::NO_EXEC, MountAttributes::READ_ONLY, false)
        .map_err(step("open", Path::new("/proc")))?;
    place_devices(c"dev/pts")?;
    place(&sources, private, STAND_INS)?;
    enter()
}

/// With a root file system of the caller's: it is the bottom, everything else is placed upon it.
fn build_on_own_root(sources: Sources) -> Result<(), BuildRootError> {
    let new_root = Path::new("root");
    make_dir(new_root, 0o755)?;
    let mut sources = sources;
    let (root, rest): (Vec<_>, Vec<_>) = sources.entries.into_iter().partition(|(entry, _)| {
        entry.path() == Path::new("/") && matches!(entry, Entry::Bind { .. } | Entry::Captured { .. })
    });
    sources.entries = rest;
    for (entry, held) in &root {
        place_one(entry, held, c"root", STAND_INS)?;
    }
    // Private directories need memory of their own: made beside the root, attached upon it.
    let staging = Path::new("private");
    make_dir(staging, 0o755)?;
    rustix::process::chdir(staging).map_err(|error| step("enter", staging)(error.into()))?;
    lay_out(&sources)?;
    let private = hold_private(&sources)?;
    let devices = rustix::fs::open("dev", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| step("hold", Path::new("/dev"))(error.into()))?;
    let devices = mount::clone_tree(devices.as_fd(), false).map_err(step("hold", Path::new("/dev")))?;
    rustix::process::chdir("../root").map_err(|error| step("enter", new_root)(error.into()))?;
    mount::attach(devices.as_fd(), c"dev").map_err(step(
        "attach (the root file system needs this directory)",
        Path::new("/dev"),
    ))?;
    mount_proc(c"proc", c"proc/sys")?;
    place_devices(c"dev/pts")?;
    mount::change_attributes(c"dev", MountAttributes::READ_ONLY, MountAttributes::default(), false)
        .map_err(step("seal", Path::new("/dev")))?;
    place(&sources, private, STAND_INS_BESIDE)?;
    enter()
}

fn mount_proc(point: &std::ffi::CStr, sysctl: &std::ffi::CStr) -> Result<(), BuildRootError> {
    mount::mount(c"proc", point, c"proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, c"")
        .map_err(step("mount", Path::new("/proc")))?;
    // Sysctls of the sandbox's own namespaces belong to it; bound apart so that they can be read-only while /proc is not.
    mount::bind(sysctl, sysctl).map_err(step("bind", Path::new("/proc/sys")))?;
    mount::change_attributes(sysctl, MountAttributes::READ_ONLY, MountAttributes::default(), false)
        .map_err(step("seal", Path::new("/proc/sys")))
}

/// Makes every mount point, link and small file, while the memory file system is still writable.
fn lay_out(sources: &Sources) -> Result<(), BuildRootError> {
    for directory in ["proc", "dev", "dev/pts"] {
        make_dir(Path::new(directory), 0o755)?;
    }
    for node in devices::NODES {
        make_file(&Path::new("dev").join(node), b"", 0o666)?;
    }
    for (name, target) in devices::LINKS {
        let path = Path::new("dev").join(name);
        rustix::fs::symlink(target, &path).map_err(|error| step("make link", &path)(error.into()))?;
    }
    let mut made = BTreeSet::new();
    for (entry, _) in &sources.entries {
        let path = entry.path();
        make_parents(path, &mut made)?;
        let relative = path.strip_prefix("/").unwrap_or(path);
        match entry {
            Entry::System(source) => {
                let stat = rustix::fs::stat(source).map_err(|error| step("find", source)(error.into()))?;
                if stat.st_mode & 0o170_000 == 0o040_000 {
                    make_dir(relative, 0o755)?
                } else {
                    make_file(relative, b"", 0o644)?
                }
            }
            Entry::Link { target, .. } => match rustix::fs::symlink(target, relative) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(step("make link", path)(error.into())),
            },
            Entry::File { content, .. } => make_file(relative, content, 0o644)?,
            Entry::Private { mode, .. } => make_dir(relative, *mode)?,
            Entry::Bind { is_dir: true, .. } | Entry::Captured { .. } => make_dir(relative, 0o755)?,
            Entry::Bind { is_dir: false, .. } => make_file(relative, b"", 0o644)?,
            Entry::Hidden { is_dir, .. } => {
                make_dir(Path::new(STAND_INS), 0o755)?;
                make_dir(&Path::new(STAND_INS).join("dir"), 0o000)?;
                make_file(&Path::new(STAND_INS).join("file"), b"", 0o000)?;
                if *is_dir {
                    make_dir(relative, 0o755)?
                } else {
                    make_file(relative, b"", 0o644)?
                }
            }
        }
    }
    Ok(())
}

/// Clones, still writable, of the private directories, with where each goes.
fn hold_private(sources: &Sources) -> Result<Vec<(PathBuf, OwnedFd)>, BuildRootError> {
    let paths = sources.entries.iter().filter_map(|(entry, _)| match entry {
        Entry::Private { path, .. } => Some(path.clone()),
        _ => None,
    });
    paths
        .map(|path| {
            let relative = path.strip_prefix("/").unwrap_or(&path);
            let fd = rustix::fs::open(relative, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                .map_err(|error| step("hold", &path)(error.into()))?;
            let tree = mount::clone_tree(fd.as_fd(), false).map_err(step("hold", &path))?;
            Ok((path, tree))
        })
        .collect()
}

fn place_devices(terminals: &std::ffi::CStr) -> Result<(), BuildRootError> {
    for node in devices::NODES {
        let path = Path::new("/dev").join(node);
        match mount::bind(&host(&path), &inside(&path)) {
            Ok(()) => {}
            // A container's own /dev may lack one of them; the program then finds an empty file that it can't write.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(step("bind", &path)(error)),
        }
    }
    mount::mount(
        c"devpts",
        terminals,
        c"devpts",
        MS_NOSUID | MS_NOEXEC,
        c"newinstance,ptmxmode=0666,mode=0620",
    )
    .map_err(step("mount", Path::new("/dev/pts")))
}

/// Attaches everything that was held, parents first.
fn place(sources: &Sources, private: Vec<(PathBuf, OwnedFd)>, stand_ins: &str) -> Result<(), BuildRootError> {
    let mut private = private;
    for (entry, held) in &sources.entries {
        if let Entry::Private { path, .. } = entry {
            if let Some(index) = private.iter().position(|(held_path, _)| held_path == path) {
                let (path, tree) = private.swap_remove(index);
                mount::attach(tree.as_fd(), &inside(&path)).map_err(step("attach", &path))?;
            }
        } else {
            place_one(entry, held, &inside(entry.path()), stand_ins)?;
        }
    }
    Ok(())
}

fn place_one(entry: &Entry, held: &[Held], point: &std::ffi::CStr, stand_ins: &str) -> Result<(), BuildRootError> {
    match (entry, held) {
        (Entry::Bind { path, .. }, [Held::Detached(tree)]) => {
            mount::attach(tree.as_fd(), point).map_err(step("attach", path))
        }
        (Entry::Captured { path, .. }, [layer, lowers @ ..]) => capture(path, lowers, layer, point),
        (Entry::Hidden { path, is_dir }, _) => {
            let stand_in = format!("{stand_ins}/{}", if *is_dir { "dir" } else { "file" });
            mount::bind(&CString::new(stand_in).unwrap_or_default(), point).map_err(step("hide", path))
        }
        _ => Ok(()),
    }
}

/// Mounts an overlay whose layers are named through /proc, so that no character of a path can mean something to overlayfs.
fn capture(path: &Path, lowers: &[Held], layer: &Held, point: &std::ffi::CStr) -> Result<(), BuildRootError> {
    // Before Linux 6.15 overlayfs takes only layers that are attached in this namespace: a detached one is attached on the mount
    // point itself, one upon the other, and covered by the result.
    let name = |held: &Held| -> Result<i32, BuildRootError> {
        match held {
            Held::Opened(fd) => Ok(fd.as_raw_fd()),
            Held::Detached(tree) => {
                mount::attach(tree.as_fd(), point).map_err(step("attach layer at", path))?;
                Ok(tree.as_raw_fd())
            }
        }
    };
    // Volatile (Linux 5.10): without it the end of the mount syncs the whole file system that holds the layer, tens of milliseconds on a
    // busy disk. What must survive a power cut is committed, and a commit syncs its own copies.
    let mut lower_names = Vec::with_capacity(lowers.len());
    for lower in lowers {
        lower_names.push(format!("/proc/self/fd/{}", name(lower)?));
    }
    let lower_names = lower_names.join(":");
    let layer_fd = name(layer)?;
    let options = format!(
        "userxattr,volatile,lowerdir={lower_names},upperdir=/proc/self/fd/{layer_fd}/upper,workdir=/proc/self/fd/{layer_fd}/work"
    );
    let options = CString::new(options).unwrap_or_default();
    mount::mount(c"overlay", point, c"overlay", MS_NOSUID | MS_NODEV, &options).map_err(|source| {
        // The kernel refuses a layer that has mounts below it which this user namespace may not uncover (clone_private_mount()).
        if source.raw_os_error() == Some(Errno::INVAL.raw_os_error()) && has_mounts(path) {
            BuildRootError::HasMounts { path: path.to_owned() }
        } else {
            BuildRootError::Step {
                step: "capture writes of",
                path: path.to_owned(),
                source,
            }
        }
    })
}

/// Returns whether something is mounted below `path` (proc_pid_mountinfo(5), field 5).
fn has_mounts(path: &Path) -> bool {
    let below = format!("{}/", path.display());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts
        .lines()
        .any(|line| line.split(' ').nth(4).is_some_and(|point| point.starts_with(&below)))
}

/// Pivots into the working directory and detaches what was the root.
fn enter() -> Result<(), BuildRootError> {
    let root = Path::new("/");
    // Both arguments the same: the old root lands upon the new one and is detached from there (pivot_root(2), NOTES).
    mount::pivot_root(c".", c".").map_err(step("pivot to", root))?;
    mount::detach(c".").map_err(step("detach the old", root))?;
    rustix::process::chdir("/").map_err(|error| step("enter", root)(error.into()))
}
