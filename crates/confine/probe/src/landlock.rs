//! Judges Landlock: its ABI and the rights that each ABI added (kernel `Documentation/userspace-api/landlock.rst`).

use crate::facts::Facts;
use crate::kernel_calls;
use crate::namespaces::errno_text;
use crate::requirement::{Need, Requirement};

/// What each ABI added, with the kernel that brought it.
const ADDED: [(u32, &str, &str); 7] = [
    (1, "5.13", "files: read, write, execute, make, remove"),
    (2, "5.19", "moving files between directories"),
    (3, "6.2", "truncating"),
    (4, "6.7", "TCP bind and connect"),
    (5, "6.10", "ioctl on devices"),
    (6, "6.12", "abstract sockets and signals kept inside"),
    (7, "6.15", "denials in the kernel's audit log"),
];

/// The newest ABI that adds protection (7 only adds logging).
const FULL_PROTECTION: u32 = 6;

/// The ABI of this kernel, or the errno that asking for it gave.
pub(crate) fn abi() -> Result<u32, i32> {
    kernel_calls::landlock_abi()
}

/// Judges it. `need` differs between the tiers.
pub(crate) fn judge(abi: Result<u32, i32>, facts: &Facts, need: Need) -> Requirement {
    let name = "landlock";
    let cost = match need {
        Need::Required => "the landlock tier can't be used",
        Need::Useful => "the namespaces are not backed by a second boundary",
    };
    let abi = match abi {
        Ok(abi) => abi,
        Err(errno) => {
            let (why, fix) = explain(errno, facts);
            return Requirement::missing(name, need, format!("{why} ({})", errno_text(errno)), cost).with_fix(fix);
        }
    };
    let has: Vec<_> = ADDED
        .iter()
        .filter(|(since, ..)| *since <= abi)
        .map(|(.., what)| *what)
        .collect();
    let value = format!("ABI {abi}: {}", has.join("; "));
    let lacks: Vec<_> = ADDED
        .iter()
        .filter(|(since, ..)| *since > abi && *since <= FULL_PROTECTION)
        .map(|(_, kernel, what)| format!("{what} (Linux {kernel})"))
        .collect();
    if lacks.is_empty() {
        return Requirement::found(name, need, value);
    }
    // What is missing is held by seccomp and, in the namespace tier, by the namespaces as well.
    Requirement::partial(
        name,
        need,
        value,
        format!("Landlock does not restrict: {}", lacks.join("; ")),
    )
    .with_fix("boot a newer kernel")
}

fn explain(errno: i32, facts: &Facts) -> (&'static str, &'static str) {
    if errno == libc::EOPNOTSUPP {
        return (
            "the kernel has Landlock, but it is switched off",
            "add `landlock` to the kernel parameter lsm= (/sys/kernel/security/lsm shows what is on) and reboot",
        );
    }
    if facts.is_filtered && (errno == libc::EPERM || facts.kernel_is_at_least(5, 13)) {
        return (
            "a seccomp filter around this process forbids it",
            "start the container with a newer seccomp profile or --security-opt seccomp=unconfined",
        );
    }
    if errno == libc::ENOSYS && facts.kernel_is_at_least(5, 13) {
        return (
            "the kernel was built without Landlock",
            "boot a kernel with CONFIG_SECURITY_LANDLOCK=y",
        );
    }
    ("the kernel has no Landlock", "boot Linux 5.13 or later")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requirement::Status;

    fn facts(kernel: &str) -> Facts {
        Facts {
            kernel_release: kernel.to_owned(),
            ..Facts::default()
        }
    }

    #[test]
    fn each_abi_says_what_it_has_and_lacks() {
        let old = judge(Ok(2), &facts("6.1"), Need::Required);
        assert_eq!(old.status, Status::Partial);
        assert!(old.value.starts_with("ABI 2: files") && !old.value.contains("truncating"));
        let cost = old.cost.expect("cost");
        assert!(
            cost.contains("truncating (Linux 6.2)") && cost.contains("TCP") && !cost.contains("audit"),
            "{cost}"
        );
        for abi in [6, 7, 99] {
            assert_eq!(judge(Ok(abi), &facts("6.18"), Need::Required).status, Status::Found);
        }
    }

    #[test]
    fn each_absence_has_its_own_fix() {
        let fix = |errno, facts: &Facts| judge(Err(errno), facts, Need::Useful).fix.expect("fix");
        assert!(fix(libc::EOPNOTSUPP, &facts("6.1")).contains("lsm="));
        assert!(fix(libc::ENOSYS, &facts("6.1")).contains("CONFIG_SECURITY_LANDLOCK"));
        assert!(fix(libc::ENOSYS, &facts("5.10")).contains("5.13"));
        assert!(
            fix(
                libc::EPERM,
                &Facts {
                    is_filtered: true,
                    ..facts("6.1")
                }
            )
            .contains("seccomp")
        );
    }
}
