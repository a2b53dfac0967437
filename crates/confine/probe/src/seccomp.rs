//! Judges seccomp: filters, their answers, and user notification with its flags (seccomp(2), seccomp_unotify(2)).

use crate::facts::Facts;
use crate::kernel_calls;
use crate::namespaces::errno_text;
use crate::requirement::{Need, Requirement};

/// The answers that Ringwall's filters give.
const WANTED_ACTIONS: [&str; 3] = ["kill_process", "errno", "allow"];

/// `SECCOMP_FILTER_FLAG_NEW_LISTENER` and `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV` (kernel `include/uapi/linux/seccomp.h`).
const NEW_LISTENER: libc::c_ulong = 1 << 3;
const WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;

/// What this kernel's seccomp has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Features {
    /// What asking for a filter without one gives: `EFAULT` where filters exist.
    pub(crate) filter_errno: i32,
    pub(crate) has_notification: bool,
    pub(crate) has_killable_wait: bool,
    pub(crate) actions: Vec<String>,
}

impl Features {
    /// Asks the kernel.
    pub(crate) fn read(facts: &Facts) -> Features {
        let knows = |flags| kernel_calls::seccomp_filter_flags(flags) == libc::EFAULT;
        Features {
            filter_errno: kernel_calls::seccomp_filter_flags(0),
            has_notification: knows(NEW_LISTENER),
            has_killable_wait: knows(NEW_LISTENER | WAIT_KILLABLE_RECV),
            actions: facts.seccomp_actions.clone(),
        }
    }

    /// Judges the filters, without which no tier works.
    pub(crate) fn judge_filter(&self) -> Requirement {
        let name = "seccomp filters";
        let cost = "system calls can't be restricted: no tier can be used";
        if self.filter_errno != libc::EFAULT {
            let value = format!("the kernel refuses filters ({})", errno_text(self.filter_errno));
            return Requirement::missing(name, Need::Required, value, cost)
                .with_fix("boot a kernel with CONFIG_SECCOMP_FILTER=y");
        }
        let lacks: Vec<_> = WANTED_ACTIONS
            .into_iter()
            .filter(|action| !self.actions.iter().any(|one| one == action))
            .collect();
        // Without the list (Linux before 4.14, or a hidden /proc) nothing can be said about it, and filters are there.
        if self.actions.is_empty() || lacks.is_empty() {
            let actions = if self.actions.is_empty() {
                "not listed".to_owned()
            } else {
                self.actions.join(" ")
            };
            return Requirement::found(name, Need::Required, format!("actions: {actions}"));
        }
        let value = format!("the kernel lacks the actions {}", lacks.join(" "));
        Requirement::missing(name, Need::Required, value, cost).with_fix("boot Linux 4.14 or later")
    }

    /// Judges user notification, which the supervisor needs.
    pub(crate) fn judge_notification(&self) -> Requirement {
        let name = "seccomp user notification";
        if !self.has_notification {
            let cost = "no supervisor can answer calls in the program's place";
            return Requirement::missing(name, Need::Useful, "the kernel has none", cost)
                .with_fix("boot Linux 5.9 or later");
        }
        if !self.has_killable_wait {
            let cost = "a signal may interrupt a call that the supervisor is answering, which is then made again";
            return Requirement::partial(name, Need::Useful, "without WAIT_KILLABLE_RECV", cost)
                .with_fix("boot Linux 5.19 or later");
        }
        Requirement::found(name, Need::Useful, "with WAIT_KILLABLE_RECV")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requirement::Status;

    fn features(filter_errno: i32, actions: &str) -> Features {
        let actions = actions.split_whitespace().map(str::to_owned).collect();
        Features {
            filter_errno,
            has_notification: true,
            has_killable_wait: false,
            actions,
        }
    }

    #[test]
    fn filters_are_judged_by_the_errno_and_the_actions() {
        assert_eq!(
            features(libc::EFAULT, "kill_process trap errno allow")
                .judge_filter()
                .status,
            Status::Found
        );
        assert_eq!(features(libc::EFAULT, "").judge_filter().status, Status::Found);
        assert_eq!(
            features(libc::EINVAL, "kill_process errno allow").judge_filter().status,
            Status::Missing
        );
        assert!(
            features(libc::EFAULT, "kill_thread errno allow")
                .judge_filter()
                .value
                .contains("kill_process")
        );
    }

    #[test]
    fn notification_without_the_killable_wait_is_partial() {
        assert_eq!(features(libc::EFAULT, "").judge_notification().status, Status::Partial);
    }
}
