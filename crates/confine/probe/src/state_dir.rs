//! The state directory: whether captured writes can be kept there. Makes a scratch directory for the trial and removes it.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::facts::Facts;
use crate::namespaces::errno_text;
use crate::requirement::{Need, Requirement};
use crate::trial::{Outcome, Step, Trial};

/// An empty directory on the state directory's file system. Removed when dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes it in the state directory, or, if that does not exist yet, in the nearest directory above it that does.
    pub(crate) fn make(state_dir: &Path) -> io::Result<Scratch> {
        let existing = state_dir.ancestors().find(|dir| dir.is_dir());
        let existing = existing.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        // A name that is taken can only be a leftover of a dead process: this one has the pid.
        for attempt in 0..16 {
            let path = existing.join(format!(".ringwall-doctor.{}.{attempt}", std::process::id()));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {
                    return Ok(Scratch {
                        path: fs::canonicalize(&path).unwrap_or(path),
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // overlayfs makes this one without any permissions and leaves a whiteout in it (fs/overlayfs/super.c, ovl_workdir_create;
        // dir.c, ovl_whiteout): an ordinary user must open it up before it can be emptied.
        drop(fs::set_permissions(
            self.path.join("work/work"),
            fs::Permissions::from_mode(0o700),
        ));
        drop(fs::remove_dir_all(&self.path));
    }
}

/// The name of a file system by its magic number (kernel `include/uapi/linux/magic.h`; xfs and zfs have theirs in their own code).
fn file_system_name(magic: u64) -> Option<&'static str> {
    Some(match magic {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x0102_1994 => "tmpfs",
        0x794c_7630 => "overlayfs",
        0x6969 => "nfs",
        0x6573_5546 => "fuse",
        0x0102_1997 => "9p",
        0x4d44 => "vfat",
        0x2fc1_2fc1 => "zfs",
        0xf2f5_2010 => "f2fs",
        0x8584_58f6 => "ramfs",
        _ => return None,
    })
}

/// What is known about the file system of a directory.
fn describe(path: &Path) -> String {
    let magic = rustix::fs::statfs(path)
        .ok()
        .and_then(|stat| u64::try_from(stat.f_type).ok());
    magic.map_or_else(
        || "unknown file system".to_owned(),
        |magic| file_system_name(magic).map_or_else(|| format!("file system 0x{magic:x}"), str::to_owned),
    )
}

/// Judges overlayfs in a user namespace, with its upper layer on the state directory's file system.
pub(crate) fn judge_overlay(facts: &Facts, trial: &Trial, scratch: &io::Result<Scratch>) -> Requirement {
    match scratch {
        Err(error) => {
            let cost = "captured writes can't be kept; namespaces could not be tried either";
            Requirement::missing(
                NAME,
                Need::Useful,
                format!("nothing can be written in the state directory ({error})"),
                cost,
            )
            .with_fix("make the state directory writable for this user, or choose another one")
        }
        Ok(scratch) => judge_mount(facts, trial, &describe(scratch.path())),
    }
}

const NAME: &str = "overlayfs";

fn judge_mount(facts: &Facts, trial: &Trial, file_system: &str) -> Requirement {
    let cost = "writes can't be captured: only --changes none works";
    match (trial.of(Step::Overlay), trial.of(Step::OverlayWrites)) {
        (Outcome::Works, Outcome::Works) => Requirement::found(
            NAME,
            Need::Useful,
            format!("works in a user namespace, upper layer on {file_system}"),
        ),
        (Outcome::Failed(errno), _) if errno == libc::ENODEV => {
            Requirement::missing(NAME, Need::Useful, "the kernel does not know it (ENODEV)", cost)
                .with_fix("sudo modprobe overlay (and add it to /etc/modules-load.d)")
        }
        (Outcome::Failed(errno), _) if errno == libc::EPERM && !facts.kernel_is_at_least(5, 11) => {
            Requirement::missing(NAME, Need::Useful, "this kernel allows it to root only", cost)
                .with_fix("boot Linux 5.11 or later")
        }
        (Outcome::Failed(errno), _) | (_, Outcome::Failed(errno)) => {
            // EINVAL is overlayfs's answer to an upper layer that can't serve as one.
            let value = format!("fails with its upper layer on {file_system} ({})", errno_text(errno));
            Requirement::missing(NAME, Need::Useful, value, cost).with_fix(
                "put the state directory on ext4, xfs or btrfs (not on overlayfs, NFS or FUSE; on tmpfs only since Linux 6.6)",
            )
        }
        _ => Requirement::missing(
            NAME,
            Need::Useful,
            "not tried, because what it builds on failed",
            "see what is missing above",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requirement::Status;

    #[test]
    fn each_failure_of_the_mount_has_its_fix() {
        let judged = |kernel: &str, errno| {
            let facts = Facts {
                kernel_release: kernel.to_owned(),
                ..Facts::default()
            };
            let trial = Trial::not_tried().with(Step::Overlay, Outcome::Failed(errno));
            judge_mount(&facts, &trial, "nfs").fix.expect("fix")
        };
        assert!(judged("6.1", libc::ENODEV).contains("modprobe overlay"));
        assert!(judged("5.10", libc::EPERM).contains("5.11"));
        assert!(judged("6.1", libc::EINVAL).contains("not on overlayfs"));
        // A mount that works but can't delete files is of no use.
        let trial = Trial::not_tried()
            .with(Step::Overlay, Outcome::Works)
            .with(Step::OverlayWrites, Outcome::Failed(libc::EIO));
        assert_eq!(judge_mount(&Facts::default(), &trial, "fuse").status, Status::Missing);
    }

    #[test]
    fn an_unwritable_state_directory_is_said() {
        let one = judge_overlay(
            &Facts::default(),
            &Trial::not_tried(),
            &Scratch::make(Path::new("/proc/ringwall")),
        );
        assert!(one.value.contains("nothing can be written"), "{}", one.value);
    }

    #[test]
    fn a_scratch_directory_goes_with_everything_in_it() {
        let state = tempfile::tempdir().expect("directory");
        let scratch = Scratch::make(state.path()).expect("scratch");
        fs::create_dir_all(scratch.path().join("work/work")).expect("directories");
        fs::write(scratch.path().join("work/work/#1"), "").expect("file");
        // As overlayfs leaves it: root could empty it all the same, so this tells only when run by an ordinary user.
        fs::set_permissions(scratch.path().join("work/work"), fs::Permissions::from_mode(0o000)).expect("mode");
        drop(scratch);
        assert_eq!(fs::read_dir(state.path()).expect("directory").count(), 0);
    }
}
