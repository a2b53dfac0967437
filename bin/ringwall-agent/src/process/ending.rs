//! How a process ended, in the protocol's terms and in words.

use ringwall_agent_proto::process::End;
use ringwall_sys::process::Ended;
use rustix::process::Signal;

/// The event's contents. Clients take -1 for "killed by a signal".
pub(super) fn end(ended: Ended) -> End {
    let status = describe(ended);
    let (exit_code, exited) = match ended {
        Ended::Exited(code) => (code, true),
        Ended::Signaled(_) => (-1, false),
    };
    End {
        exit_code,
        exited,
        error: (exit_code != 0).then(|| status.clone()),
        status,
    }
}

/// The words for how a process ended, as clients show them.
fn describe(ended: Ended) -> String {
    match ended {
        Ended::Exited(code) => format!("exit status {code}"),
        Ended::Signaled(number) => format!("signal: {}", signal_name(number)),
    }
}

fn signal_name(number: i32) -> String {
    let name = match Signal::from_named_raw(number) {
        Some(Signal::HUP) => "hangup",
        Some(Signal::INT) => "interrupt",
        Some(Signal::QUIT) => "quit",
        Some(Signal::ILL) => "illegal instruction",
        Some(Signal::TRAP) => "trace/breakpoint trap",
        Some(Signal::ABORT) => "aborted",
        Some(Signal::BUS) => "bus error",
        Some(Signal::FPE) => "floating point exception",
        Some(Signal::KILL) => "killed",
        Some(Signal::USR1) => "user defined signal 1",
        Some(Signal::USR2) => "user defined signal 2",
        Some(Signal::SEGV) => "segmentation fault",
        Some(Signal::PIPE) => "broken pipe",
        Some(Signal::ALARM) => "alarm clock",
        Some(Signal::TERM) => "terminated",
        Some(Signal::SYS) => "bad system call",
        Some(Signal::XCPU) => "CPU time limit exceeded",
        Some(Signal::XFSZ) => "file size limit exceeded",
        _ => return format!("signal {number}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_worded_as_clients_expect() {
        let good = end(Ended::Exited(0));
        assert_eq!((good.exit_code, good.exited, good.error), (0, true, None));
        let bad = end(Ended::Exited(3));
        assert_eq!((bad.exit_code, bad.status.as_str()), (3, "exit status 3"));
        let killed = end(Ended::Signaled(9));
        assert_eq!(
            (killed.exit_code, killed.exited, killed.status.as_str()),
            (-1, false, "signal: killed")
        );
    }
}
