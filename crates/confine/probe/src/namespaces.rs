//! Judges what the trial found about namespaces, and finds the reason and the remedy when one can't be had. Pure.

use crate::facts::Facts;
use crate::requirement::{Need, Requirement};
use crate::trial::{Outcome, Step, Trial};

/// Oldest kernel whose overlayfs can be mounted in a user namespace with `userxattr`
/// (kernel `Documentation/filesystems/overlayfs.rst`; Linux 5.11).
const OLDEST_KERNEL: (u32, u32) = (5, 11);

const NO_TIER: &str = "the namespace tier can't be used";

/// Judges every requirement that is about namespaces and mounts.
pub(crate) fn judge(facts: &Facts, trial: &Trial) -> Vec<Requirement> {
    vec![
        judge_kernel(facts),
        judge_user_namespace(facts, trial),
        judge_mounts(facts, trial),
        judge_step(
            trial,
            Step::SmallNamespaces,
            "ipc, uts, cgroup namespaces",
            "unshare works",
        ),
        judge_net(trial),
        judge_proc(facts, trial),
        judge_pivot_root(trial),
        judge_idmapped(facts, trial),
    ]
}

/// An errno as people know it.
pub(crate) fn errno_text(errno: i32) -> String {
    std::io::Error::from_raw_os_error(errno).to_string()
}

fn judge_kernel(facts: &Facts) -> Requirement {
    let (major, minor) = OLDEST_KERNEL;
    let name = "kernel version";
    if facts.kernel_is_at_least(major, minor) {
        return Requirement::found(
            name,
            Need::Useful,
            format!("{} (wanted: {major}.{minor})", facts.kernel_release),
        );
    }
    let cost = "an unprivileged user can't capture writes";
    Requirement::missing(name, Need::Useful, facts.kernel_release.clone(), cost)
        .with_fix(format!("boot Linux {major}.{minor} or later"))
}

fn judge_user_namespace(facts: &Facts, trial: &Trial) -> Requirement {
    let name = "user namespaces";
    let (what, errno) = match (trial.of(Step::UserNamespace), trial.of(Step::IdMap)) {
        (Outcome::Works, Outcome::Works) => {
            return Requirement::found(name, Need::Required, "unshare and id maps work");
        }
        (Outcome::Works, Outcome::Failed(errno)) => ("unshare works, but writing the id maps fails", errno),
        (Outcome::Failed(errno), _) => ("unshare(CLONE_NEWUSER) fails", errno),
        _ => {
            let value = "not tried: no scratch directory or no child process could be made";
            return Requirement::missing(name, Need::Required, value, NO_TIER)
                .with_fix("make the state directory writable (see \"overlayfs\")");
        }
    };
    let (why, fix) = explain(facts, errno);
    Requirement::missing(
        name,
        Need::Required,
        format!("{what} ({}): {why}", errno_text(errno)),
        NO_TIER,
    )
    .with_fix(fix)
}

/// Why a user namespace, or a mount inside one, is refused, and what helps: the most specific reason that fits comes first.
fn explain(facts: &Facts, errno: i32) -> (&'static str, &'static str) {
    if facts.max_user_namespaces == Some(0) {
        return (
            "the sysctl user.max_user_namespaces is 0",
            "sudo sysctl -w user.max_user_namespaces=15000",
        );
    }
    if errno == libc::ENOSPC {
        return (
            "the limit of user namespaces or of their nesting (32) is reached",
            "sudo sysctl -w user.max_user_namespaces=15000, or run it less deeply nested",
        );
    }
    if facts.unprivileged_userns_clone == Some(0) && !facts.is_root() {
        return (
            "the sysctl kernel.unprivileged_userns_clone is 0",
            "sudo sysctl -w kernel.unprivileged_userns_clone=1",
        );
    }
    if facts.apparmor_restricts.is_some_and(|value| value != 0) && !facts.is_root() {
        return (
            "AppArmor restricts unprivileged user namespaces (kernel.apparmor_restrict_unprivileged_userns=1)",
            "give ringwall an AppArmor profile with `userns,`, or sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        );
    }
    if errno == libc::EINVAL || errno == libc::ENOSYS {
        return (
            "the kernel was built without user namespaces",
            "boot a kernel with CONFIG_USER_NS=y",
        );
    }
    if facts.is_filtered || facts.is_container {
        return (
            "a seccomp filter or the container around this process forbids it",
            "start the container with --security-opt seccomp=unconfined (Docker, Podman), or use --isolation landlock",
        );
    }
    (
        "a security module, a chroot around this process or a limit forbids it",
        "run it outside of a chroot; see the kernel log (`sudo dmesg`) for the module that refused",
    )
}

fn judge_mounts(facts: &Facts, trial: &Trial) -> Requirement {
    let name = "mounts in a user namespace";
    let errno = match (trial.of(Step::MountNamespace), trial.of(Step::Mount)) {
        (Outcome::Works, Outcome::Works) => return Requirement::found(name, Need::Required, "a tmpfs can be mounted"),
        (Outcome::Failed(errno), _) | (_, Outcome::Failed(errno)) => errno,
        _ => return not_tried(name),
    };
    let (why, fix) = explain(facts, errno);
    let value = format!(
        "the namespace can be had, but mounting in it fails ({}): {why}",
        errno_text(errno)
    );
    Requirement::missing(name, Need::Required, value, NO_TIER).with_fix(fix)
}

fn judge_step(trial: &Trial, step: Step, name: &'static str, found: &str) -> Requirement {
    match trial.of(step) {
        Outcome::Works => Requirement::found(name, Need::Required, found),
        Outcome::NotTried => not_tried(name),
        Outcome::Failed(errno) => Requirement::missing(name, Need::Required, errno_text(errno), NO_TIER)
            .with_fix("boot a kernel with CONFIG_IPC_NS, CONFIG_UTS_NS, CONFIG_PID_NS and CONFIG_CGROUPS, or raise the user.max_*_namespaces sysctls"),
    }
}

fn judge_net(trial: &Trial) -> Requirement {
    let name = "network namespaces";
    match trial.of(Step::NetNamespace) {
        Outcome::Works => Requirement::found(name, Need::Required, "unshare works"),
        Outcome::NotTried => not_tried(name),
        Outcome::Failed(errno) => Requirement::missing(name, Need::Required, errno_text(errno), NO_TIER)
            .with_fix("boot a kernel with CONFIG_NET_NS=y, or sudo sysctl -w user.max_net_namespaces=15000"),
    }
}

fn judge_proc(facts: &Facts, trial: &Trial) -> Requirement {
    let name = "pid namespaces and /proc";
    match (trial.of(Step::PidNamespace), trial.of(Step::Proc)) {
        (Outcome::Works, Outcome::Works) => Requirement::found(name, Need::Required, "a new /proc can be mounted"),
        (Outcome::Failed(_), _) => judge_step(trial, Step::PidNamespace, name, ""),
        (_, Outcome::Failed(errno)) if errno == libc::EPERM => {
            // The kernel lets a new /proc be mounted only where the one already there is not covered in part
            // (fs/namespace.c, mount_too_revealing): containers cover parts of it.
            let value = "mounting a new /proc is refused (EPERM): parts of this /proc are covered by other mounts";
            let fix = if facts.is_container || facts.is_filtered {
                "start the container with --security-opt systempaths=unconfined (Docker) or unmask=ALL (Podman)"
            } else {
                "uncover /proc: `findmnt -R /proc` lists what covers it"
            };
            Requirement::missing(name, Need::Required, value, NO_TIER).with_fix(fix)
        }
        (_, Outcome::Failed(errno)) => {
            let (why, fix) = explain(facts, errno);
            let value = format!("mounting a new /proc fails ({}): {why}", errno_text(errno));
            Requirement::missing(name, Need::Required, value, NO_TIER).with_fix(fix)
        }
        _ => not_tried(name),
    }
}

fn judge_pivot_root(trial: &Trial) -> Requirement {
    let name = "pivot_root";
    match trial.of(Step::PivotRoot) {
        Outcome::Works => Requirement::found(name, Need::Required, "works"),
        Outcome::NotTried => not_tried(name),
        Outcome::Failed(errno) if errno == libc::EINVAL => {
            // pivot_root(2): the initial root file system (rootfs) can't be pivoted away.
            let value = "refused (EINVAL): this machine runs from its initial ramdisk, or in a chroot";
            Requirement::missing(name, Need::Required, value, NO_TIER)
                .with_fix("mount a real root file system (a tmpfs will do) and switch_root to it")
        }
        Outcome::Failed(errno) => Requirement::missing(name, Need::Required, errno_text(errno), NO_TIER),
    }
}

fn judge_idmapped(facts: &Facts, trial: &Trial) -> Requirement {
    let name = "idmapped mounts";
    if !facts.is_root() {
        return Requirement::found(name, Need::Useful, "not needed: only runs by root use them");
    }
    match trial.of(Step::IdmappedMount) {
        Outcome::Works => Requirement::found(name, Need::Useful, "work on the state directory's file system"),
        Outcome::NotTried => Requirement {
            need: Need::Useful,
            ..not_tried(name)
        },
        Outcome::Failed(errno) => {
            let value = format!(
                "mount_setattr fails on the state directory's file system ({})",
                errno_text(errno)
            );
            let cost = "a run by root can't give the program files under other ids than root's own";
            Requirement::missing(name, Need::Useful, value, cost)
                .with_fix("use Linux 5.19 or later and a state directory on ext4, xfs or btrfs (tmpfs: Linux 6.3)")
        }
    }
}

/// A step that an earlier failure kept from being tried.
fn not_tried(name: &'static str) -> Requirement {
    Requirement::missing(
        name,
        Need::Required,
        "not tried, because what it builds on failed",
        "see what is missing above",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requirement::Status;

    fn all_works() -> Trial {
        use Step::*;
        let steps = [
            UserNamespace,
            IdMap,
            MountNamespace,
            Mount,
            Overlay,
            OverlayWrites,
            SmallNamespaces,
            NetNamespace,
            PidNamespace,
            Proc,
            PivotRoot,
            IdmappedMount,
        ];
        steps
            .into_iter()
            .fold(Trial::not_tried(), |trial, step| trial.with(step, Outcome::Works))
    }

    fn user() -> Facts {
        Facts {
            uid: 1000,
            kernel_release: "6.1.0".to_owned(),
            max_user_namespaces: Some(100),
            ..Facts::default()
        }
    }

    fn named<'a>(all: &'a [Requirement], name: &str) -> &'a Requirement {
        all.iter().find(|one| one.name == name).expect("the requirement")
    }

    #[test]
    fn a_good_machine_lacks_nothing() {
        assert!(
            judge(&user(), &all_works())
                .iter()
                .all(|one| one.status == Status::Found)
        );
    }

    #[test]
    fn apparmor_lets_unshare_work_and_denies_the_mounts() {
        let facts = Facts {
            apparmor_restricts: Some(1),
            ..user()
        };
        let trial = all_works().with(Step::Mount, Outcome::Failed(libc::EACCES));
        let all = judge(&facts, &trial);
        assert_eq!(named(&all, "user namespaces").status, Status::Found);
        let mounts = named(&all, "mounts in a user namespace");
        assert_eq!(mounts.status, Status::Missing);
        assert!(mounts.value.contains("AppArmor restricts"), "{}", mounts.value);
        assert!(
            mounts
                .fix
                .as_deref()
                .is_some_and(|fix| fix.contains("apparmor_restrict_unprivileged_userns=0"))
        );
        // Root is not restricted by it: the reason must be another one.
        let root = Facts { uid: 0, ..facts };
        assert!(
            !named(&judge(&root, &trial), "mounts in a user namespace")
                .value
                .contains("AppArmor")
        );
    }

    #[test]
    fn each_obstacle_has_its_own_reason() {
        let value = |facts: Facts, errno| {
            let trial = Trial::not_tried().with(Step::UserNamespace, Outcome::Failed(errno));
            let one = named(&judge(&facts, &trial), "user namespaces").clone();
            format!("{} / {}", one.value, one.fix.unwrap_or_default())
        };
        let cases = [
            (
                Facts {
                    max_user_namespaces: Some(0),
                    ..user()
                },
                libc::ENOSPC,
                "user.max_user_namespaces is 0",
            ),
            (user(), libc::ENOSPC, "nesting"),
            (
                Facts {
                    unprivileged_userns_clone: Some(0),
                    ..user()
                },
                libc::EPERM,
                "kernel.unprivileged_userns_clone=1",
            ),
            (
                Facts {
                    is_filtered: true,
                    ..user()
                },
                libc::EPERM,
                "seccomp=unconfined",
            ),
            (user(), libc::EINVAL, "CONFIG_USER_NS=y"),
            (user(), libc::EPERM, "chroot"),
        ];
        for (facts, errno, wanted) in cases {
            let text = value(facts, errno);
            assert!(text.contains(wanted), "{text:?} should name {wanted:?}");
        }
    }

    #[test]
    fn a_covered_proc_in_a_container_names_the_option() {
        let facts = Facts {
            is_container: true,
            ..user()
        };
        let trial = all_works().with(Step::Proc, Outcome::Failed(libc::EPERM));
        let all = judge(&facts, &trial);
        let proc = named(&all, "pid namespaces and /proc");
        assert!(
            proc.fix
                .as_deref()
                .is_some_and(|fix| fix.contains("systempaths=unconfined")),
            "{proc:?}"
        );
    }

    #[test]
    fn an_initial_ramdisk_is_named() {
        let all = judge(
            &user(),
            &all_works().with(Step::PivotRoot, Outcome::Failed(libc::EINVAL)),
        );
        assert!(named(&all, "pivot_root").value.contains("initial ramdisk"));
    }
}
