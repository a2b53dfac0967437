//! Ends every process of a session: how the landlock tier, which has no pid namespace, makes an end of its processes.
//!
//! The program can't leave its session there (its seccomp filter denies setsid). Killing goes round until a whole pass over /proc
//! finds none: a process that forks faster than that still loses, for its number of processes is limited and the dead can't fork.

use std::fs;

use ringwall_sys::process::kill;

/// Most rounds; with the process limit, far fewer do.
const MAX_ROUNDS: u32 = 1000;

/// A process as /proc shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    /// Its state letter.
    pub(crate) state: u8,
    /// Its parent's pid.
    pub(crate) parent: i32,
    /// Its session.
    pub(crate) session: i32,
    /// When it started, in clock ticks since boot; with the pid this names a process for good.
    pub(crate) start_time: u64,
}

/// Reads /proc/PID/stat (proc_pid_stat(5)).
pub(crate) fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

pub(crate) fn parse_stat(text: &str) -> Option<Stat> {
    // The name, in parentheses, may itself hold parentheses and spaces: what counts is behind the last one.
    let rest = text.get(text.rfind(')')? + 1..)?;
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    let start_time = fields.nth(15)?.parse().ok()?;
    Some(Stat {
        state,
        parent,
        session,
        start_time,
    })
}

/// Sends SIGKILL to every living process of session `session` but `spare`, until there is none. Returns how many rounds it took.
pub(crate) fn kill_session(session: i32, spare: i32) -> u32 {
    for round in 0..MAX_ROUNDS {
        let mut found = false;
        for pid in pids() {
            if pid == spare {
                continue;
            }
            if stat(pid).is_some_and(|stat| stat.session == session && stat.state != b'Z' && stat.state != b'X') {
                found = true;
                // It may have ended in between, which is what is wanted.
                drop(kill(pid, 9));
            }
        }
        if !found {
            return round;
        }
    }
    MAX_ROUNDS
}

/// Returns whether a living process is in session `session`.
pub(crate) fn has_session(session: i32) -> bool {
    pids().any(|pid| stat(pid).is_some_and(|stat| stat.session == session && stat.state != b'Z'))
}

fn pids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let text = "12 (a) b (c)) S 1 12 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 99 1";
        assert_eq!(
            parse_stat(text),
            Some(Stat {
                state: b'S',
                parent: 1,
                session: 7,
                start_time: 4242
            })
        );
    }

    #[test]
    fn own_stat_is_readable() {
        let me = rustix::process::getpid().as_raw_nonzero().get();
        assert!(stat(me).is_some_and(|stat| stat.start_time > 0));
    }

    #[test]
    fn malformed_text_is_refused() {
        for text in ["", "1", "1 (x", "1 (x) S 1"] {
            assert_eq!(parse_stat(text), None);
        }
    }
}
