//! What the kernel's files say about this machine. Bounded reads below a root that tests choose; a file that is not there is `None`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Most bytes read from one file: `/proc/cpuinfo` of a machine with many CPUs is long, but the first CPU is enough.
const MAX_BYTES: u64 = 64 * 1024;

/// What the judgements are made from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Facts {
    pub(crate) uid: u32,
    pub(crate) kernel_release: String,
    /// `kernel.unprivileged_userns_clone`, a patch of Debian and others.
    pub(crate) unprivileged_userns_clone: Option<u64>,
    /// `user.max_user_namespaces`.
    pub(crate) max_user_namespaces: Option<u64>,
    /// `kernel.apparmor_restrict_unprivileged_userns`, Ubuntu 23.10 and later.
    pub(crate) apparmor_restricts: Option<u64>,
    /// Whether a seccomp filter is on this process already (`Seccomp: 2`, proc_pid_status(5)).
    pub(crate) is_filtered: bool,
    /// The actions that a filter may answer with.
    pub(crate) seccomp_actions: Vec<String>,
    /// The security modules that are on.
    pub(crate) security_modules: Option<String>,
    /// Whether the CPU says that it can do hardware virtualisation (x86: vmx or svm).
    pub(crate) has_virtualisation_flag: bool,
    /// Whether overlayfs is known to the kernel; a module that is not loaded is not listed.
    pub(crate) has_overlay: bool,
    /// Whether this runs inside a container, as far as that shows.
    pub(crate) is_container: bool,
}

impl Facts {
    /// Reads the files below `root`; user and kernel release are always this process's.
    pub(crate) fn read_below(root: &Path) -> Facts {
        let read = |path: &str| read(&root.join(path));
        let number = |path: &str| read(path).and_then(|text| text.trim().parse().ok());
        let status = read("proc/self/status").unwrap_or_default();
        Facts {
            uid: rustix::process::geteuid().as_raw(),
            kernel_release: rustix::system::uname().release().to_string_lossy().into_owned(),
            unprivileged_userns_clone: number("proc/sys/kernel/unprivileged_userns_clone"),
            max_user_namespaces: number("proc/sys/user/max_user_namespaces"),
            apparmor_restricts: number("proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            is_filtered: status.lines().any(|line| line.split_whitespace().eq(["Seccomp:", "2"])),
            seccomp_actions: words(&read("proc/sys/kernel/seccomp/actions_avail").unwrap_or_default()),
            security_modules: read("sys/kernel/security/lsm").map(|text| text.trim().to_owned()),
            has_virtualisation_flag: has_virtualisation_flag(&read("proc/cpuinfo").unwrap_or_default()),
            has_overlay: read("proc/filesystems")
                .is_some_and(|text| text.lines().any(|line| line.ends_with("\toverlay"))),
            is_container: root.join(".dockerenv").exists() || root.join("run/.containerenv").exists(),
        }
    }

    /// Whether the caller is root.
    pub(crate) fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Whether the kernel is at least this old.
    pub(crate) fn kernel_is_at_least(&self, major: u32, minor: u32) -> bool {
        version(&self.kernel_release).is_some_and(|found| found >= (major, minor))
    }
}

fn read(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Looks for `vmx` (Intel) or `svm` (AMD) in the flags of the first CPU.
fn has_virtualisation_flag(cpuinfo: &str) -> bool {
    let flags = cpuinfo
        .lines()
        .find(|line| line.starts_with("flags"))
        .unwrap_or_default();
    flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm")
}

/// Major and minor number of `6.12.4-rc1+deb13-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|byte: char| !byte.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_up_machine_is_read() {
        let root = tempfile::tempdir().expect("directory");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("parent")).expect("directories");
            std::fs::write(path, text).expect("file");
        };
        write("proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n");
        write("proc/sys/user/max_user_namespaces", "rubbish\n");
        write("proc/self/status", "Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n");
        write(
            "proc/sys/kernel/seccomp/actions_avail",
            "kill_process trap user_notif allow\n",
        );
        write("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu svm_lock vmx\n");
        write("proc/filesystems", "nodev\tproc\nnodev\toverlay\n");
        write("run/.containerenv", "");
        let facts = Facts::read_below(root.path());
        assert_eq!(facts.apparmor_restricts, Some(1));
        assert_eq!(facts.max_user_namespaces, None);
        assert!(facts.is_filtered && facts.has_virtualisation_flag && facts.has_overlay && facts.is_container);
        assert_eq!(facts.seccomp_actions.len(), 4);
    }

    #[test]
    fn flags_are_whole_words() {
        assert!(has_virtualisation_flag("flags\t\t: fpu vmx sse\n"));
        assert!(has_virtualisation_flag("flags : svm\n"));
        assert!(!has_virtualisation_flag(
            "flags : fpu svm_lock vmxnet\nvmx flags : vnmi\n"
        ));
        assert!(
            !has_virtualisation_flag("Features : fp asimd\n"),
            "aarch64 has no such line"
        );
    }

    #[test]
    fn kernel_releases_are_compared_by_number() {
        let facts = |release: &str| Facts {
            kernel_release: release.to_owned(),
            ..Facts::default()
        };
        assert!(facts("6.12.4-rc1+deb13-amd64").kernel_is_at_least(6, 2));
        assert!(!facts("5.9.0").kernel_is_at_least(5, 13));
        assert!(!facts("strange").kernel_is_at_least(3, 0));
    }
}
