//! Records denied system calls through seccomp's user notification (seccomp_unotify(2)).
//!
//! Nothing the program's memory holds is read: the answer is always the error that the filter would have given by itself, so there is
//! nothing to race. A flood of denials costs the program its own time, and here one row of a table.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use ringwall_sandbox::Denial;
use ringwall_seccomp::{Arch, Options, Profile};
use ringwall_sys::notify;

/// Answer for a call that the filter's table does not deny, which then should not have been trapped.
const EPERM: i32 = 1;
/// Most rows; there are fewer system calls than this.
const MAX_ROWS: usize = 1024;

/// What was denied so far.
#[derive(Debug)]
pub(crate) struct Denials {
    counts: BTreeMap<i32, u64>,
    profile: Profile,
    options: Options,
}

impl Denials {
    pub(crate) fn new(profile: Profile, options: Options) -> Self {
        Denials {
            counts: BTreeMap::new(),
            profile,
            options,
        }
    }

    /// Takes and answers one notice. Returns whether the listener is still of use.
    pub(crate) fn answer(&mut self, listener: BorrowedFd<'_>) -> bool {
        let Ok(trapped) = notify::receive(listener) else {
            return false;
        };
        let Some(trapped) = trapped else { return true };
        if self.counts.len() < MAX_ROWS || self.counts.contains_key(&trapped.number) {
            *self.counts.entry(trapped.number).or_default() += 1;
        }
        let number = u32::try_from(trapped.number).unwrap_or(u32::MAX);
        let verdict = ringwall_seccomp::decide(self.profile, self.options, Arch::NATIVE, number, &trapped.args);
        let errno = verdict.errno().map_or(EPERM, i32::from);
        notify::refuse(listener, &trapped, errno).is_ok()
    }

    /// Returns the rows, most frequent first.
    pub(crate) fn into_rows(self) -> Vec<Denial> {
        let mut rows: Vec<Denial> = self
            .counts
            .into_iter()
            .map(|(number, count)| {
                let name = u32::try_from(number)
                    .ok()
                    .and_then(|number| ringwall_seccomp::name_of(Arch::NATIVE, number));
                Denial {
                    syscall: name.map_or_else(|| number.to_string(), str::to_owned),
                    count,
                }
            })
            .collect();
        rows.sort_by(|left, right| {
            right
                .count
                .cmp(&left.count)
                .then_with(|| left.syscall.cmp(&right.syscall))
        });
        rows
    }
}
