//! The decisions: every system call name of both tables in exactly one [`Group`], each group with one [`Rule`].
//!
//! The groups are data. While the crate compiles they are turned into one byte per number and architecture
//! ([`group_of`]); a name that is in no group, in two, or in no table stops the build. At run time nothing compares
//! names. This module never looks at a call; [`crate::decide()`] and [`crate::compile()`] do, each in its own way, and the
//! tests hold them against each other.

mod arguments;
mod files;
mod ipc;
mod kernel;
mod memory;
mod network;
mod processes;

use crate::arch::Arch;
use crate::profile::{Network, Options, Profile};
use crate::tables::{Row, SLOTS, number_in, rows};
use crate::verdict::Verdict;

/// System calls that are decided alike.
pub(crate) struct Group {
    pub(crate) rule: Rule,
    pub(crate) names: &'static [&'static str],
}

/// A decision that may depend on the profile and the arguments.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rule {
    /// Always the same.
    Always(Verdict),
    /// By the arguments.
    Arguments(&'static Check),
    /// By the profile: the second where the need is met, else the third.
    Where(Need, &'static Rule, &'static Rule),
}

const ALLOW: Rule = Rule::Always(Verdict::Allow);
const REFUSE: Rule = Rule::Always(Verdict::EPERM);
const ABSENT: Rule = Rule::Always(Verdict::Absent);

/// What has to hold for a call to be harmless. The namespace profile meets every need but the last.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Need {
    /// The program has namespaces of its own.
    Namespaces,
    /// File metadata and other processes outside are out of reach because they have another owner.
    UniqueUid,
    /// Landlock mediates truncation (`LANDLOCK_ACCESS_FS_TRUNCATE`, ABI 3).
    MediatedTruncation,
    /// No signal gets outside (`LANDLOCK_SCOPE_SIGNAL`, ABI 6), or none would be permitted there.
    ScopedSignals,
    /// The program may use the host's network.
    Network,
    /// The program may choose its CPUs.
    FreeAffinity,
}

/// An ordered decision on the arguments: the first case whose tests all hold.
#[derive(Debug)]
pub(crate) struct Check {
    pub(crate) cases: &'static [Case],
    pub(crate) otherwise: Verdict,
}

/// One case of a [`Check`].
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) tests: &'static [Test],
    pub(crate) then: Verdict,
}

/// Whether the low half of an argument, masked, is in a set of values.
///
/// The low half only: every argument tested is an `int` (or is cut down to 32 bits before use, as the flags of `clone`
/// are), so the kernel ignores the upper half. Comparing it would refuse calls that leave garbage there, and a test
/// for inequality could be evaded by putting some.
#[derive(Debug)]
pub(crate) struct Test {
    pub(crate) argument: u8,
    pub(crate) mask: u32,
    pub(crate) set: &'static [Span],
}

/// First and last value; in a set these are ascending and don't touch.
pub(crate) type Span = (u32, u32);

impl Check {
    /// Allows the cases given as tests, and gives `otherwise` for all else.
    const fn new(cases: &'static [Case], otherwise: Verdict) -> Self {
        Self { cases, otherwise }
    }
}

impl Case {
    const fn allow(tests: &'static [Test]) -> Self {
        Self {
            tests,
            then: Verdict::Allow,
        }
    }

    const fn refuse(tests: &'static [Test], errno: u16) -> Self {
        Self {
            tests,
            then: Verdict::Refuse { errno },
        }
    }
}

impl Test {
    /// The argument, as an `int`, is one of these.
    const fn any(argument: u8, set: &'static [Span]) -> Self {
        Self {
            argument,
            mask: u32::MAX,
            set,
        }
    }

    /// The argument's bits under `mask` are one of these.
    const fn bits(argument: u8, mask: u32, set: &'static [Span]) -> Self {
        Self { argument, mask, set }
    }
}

impl Rule {
    /// Settles what depends on the profile; the result is never [`Rule::Where`].
    pub(crate) fn settle(mut self, profile: Profile, options: Options) -> Self {
        while let Self::Where(need, met, unmet) = self {
            self = if need.is_met(profile, options) { *met } else { *unmet };
        }
        self
    }
}

impl Need {
    fn is_met(self, profile: Profile, options: Options) -> bool {
        match (self, profile) {
            (Self::FreeAffinity, _) => !options.deny_setting_affinity,
            (_, Profile::Namespace) => true,
            (Self::Namespaces, Profile::Landlock { .. }) => false,
            (Self::UniqueUid, Profile::Landlock { unique_uid, .. }) => unique_uid,
            (Self::MediatedTruncation, Profile::Landlock { abi, .. }) => abi >= 3,
            (Self::ScopedSignals, Profile::Landlock { abi, unique_uid, .. }) => abi >= 6 || unique_uid,
            (Self::Network, Profile::Landlock { network, .. }) => network == Network::Host,
        }
    }
}

/// All groups, by subject.
const GROUPS: &[&[Group]] = &[
    files::GROUPS,
    processes::GROUPS,
    memory::GROUPS,
    network::GROUPS,
    ipc::GROUPS,
    kernel::GROUPS,
];

/// How many groups there are.
pub(crate) const COUNT: usize = {
    let (mut subject, mut count) = (0, 0);
    while subject < GROUPS.len() {
        count += GROUPS[subject].len();
        subject += 1;
    }
    assert!(count < NO_GROUP as usize, "a group's index is a byte");
    count
};

/// The rule of each group.
pub(crate) static RULES: [Rule; COUNT] = {
    let mut rules = [ABSENT; COUNT];
    let (mut subject, mut index) = (0, 0);
    while subject < GROUPS.len() {
        let mut at = 0;
        while at < GROUPS[subject].len() {
            rules[index] = GROUPS[subject][at].rule;
            index += 1;
            at += 1;
        }
        subject += 1;
    }
    rules
};

/// The mark of a number that no call has.
pub(crate) const NO_GROUP: u8 = u8::MAX;

/// Returns, by number, the index in [`RULES`] of each call of `arch`, or [`NO_GROUP`].
pub(crate) fn group_of(arch: Arch) -> &'static [u8; SLOTS] {
    static X86_64: [u8; SLOTS] = groups_by_number(Arch::X86_64);
    static AARCH64: [u8; SLOTS] = groups_by_number(Arch::Aarch64);
    match arch {
        Arch::X86_64 => &X86_64,
        Arch::Aarch64 => &AARCH64,
    }
}

/// Returns the rule for `number`, or `None` for a number that no call has.
pub(crate) fn rule_of(arch: Arch, number: u32) -> Option<Rule> {
    let group = group_of(arch).get(usize::try_from(number).ok()?)?;
    RULES.get(usize::from(*group)).copied()
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "COUNT is asserted to fit a byte; runs while compiling only"
)]
const fn groups_by_number(arch: Arch) -> [u8; SLOTS] {
    let table = rows(arch);
    let mut groups = [NO_GROUP; SLOTS];
    let (mut subject, mut index, mut decided) = (0, 0_usize, 0);
    while subject < GROUPS.len() {
        let mut at = 0;
        while at < GROUPS[subject].len() {
            let names = GROUPS[subject][at].names;
            let mut name = 0;
            while name < names.len() {
                decided += decide_one(&mut groups, table, names[name], index as u8) as usize;
                name += 1;
            }
            index += 1;
            at += 1;
        }
        subject += 1;
    }
    assert!(decided == table.len(), "a system call is in no group");
    groups
}

/// Enters `name` if this architecture has it.
const fn decide_one(groups: &mut [u8; SLOTS], table: &[Row], name: &str, group: u8) -> bool {
    let Some(number) = number_in(table, name) else {
        // aarch64's names are all x86_64's too, so this finds misspelled ones.
        assert!(
            number_in(rows(Arch::X86_64), name).is_some(),
            "a group names a call that no table has"
        );
        return false;
    };
    assert!(groups[number as usize] == NO_GROUP, "a system call is in two groups");
    groups[number as usize] = group;
    true
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn every_call_of_both_architectures_is_decided_once() {
        // The build asserts the same in const code; this says which name, and doesn't share that code.
        let mut decided: HashMap<&str, usize> = HashMap::new();
        for name in GROUPS.iter().copied().flatten().flat_map(|group| group.names) {
            *decided.entry(name).or_default() += 1;
        }
        let known: Vec<&str> = Arch::ALL.iter().flat_map(|&arch| rows(arch)).map(|row| row.0).collect();
        for name in &known {
            assert_eq!(decided.get(name), Some(&1), "{name}");
        }
        for name in decided.keys() {
            assert!(known.contains(name), "{name} is decided, but in no table");
        }
    }

    #[test]
    fn sets_are_ascending_and_apart() {
        let mut pending: Vec<Rule> = RULES.to_vec();
        let mut checked = 0;
        while let Some(rule) = pending.pop() {
            match rule {
                Rule::Always(_) => {}
                Rule::Where(_, met, unmet) => pending.extend([*met, *unmet]),
                Rule::Arguments(check) => {
                    for test in check.cases.iter().flat_map(|case| case.tests) {
                        assert!(test.argument < 6 && !test.set.is_empty());
                        assert!(test.set.iter().all(|span| span.0 <= span.1 && span.1 & !test.mask == 0));
                        assert!(
                            test.set
                                .windows(2)
                                .all(|pair| pair[0].1 < u32::MAX && pair[0].1 + 1 < pair[1].0)
                        );
                        checked += 1;
                    }
                }
            }
        }
        assert!(checked > 20, "only {checked} tests found");
    }
}
