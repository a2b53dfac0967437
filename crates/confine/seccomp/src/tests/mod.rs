//! Tests of the compiled programs, for both architectures on every host: by simulation against [`crate::decide()`], and
//! against what `seccompiler` makes of the same rules.

mod policy;
mod reference;
mod search;
mod semantics;
mod simulator;

use crate::{Arch, Denied, Network, Options, Profile};

/// Every profile that differs from another, with every choice of options, on both architectures.
fn all_filters() -> Vec<(Profile, Options, Arch)> {
    let mut profiles = vec![Profile::Namespace];
    // The ABIs at which a rule changes.
    for abi in [1, 3, 6] {
        for unique_uid in [false, true] {
            for network in [Network::None, Network::Host] {
                profiles.push(Profile::Landlock {
                    abi,
                    unique_uid,
                    network,
                });
            }
        }
    }
    let mut filters = Vec::new();
    for profile in profiles {
        for denied in [Denied::Errno, Denied::Notify] {
            for deny_setting_affinity in [false, true] {
                let options = Options {
                    denied,
                    deny_setting_affinity,
                };
                filters.extend(Arch::ALL.map(|arch| (profile, options, arch)));
            }
        }
    }
    filters
}

/// Argument values that rules turn on, with their neighbours.
fn interesting_values() -> Vec<u32> {
    use crate::rules::{RULES, Rule};

    let mut values = vec![0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX];
    let mut pending: Vec<Rule> = RULES.to_vec();
    while let Some(rule) = pending.pop() {
        match rule {
            Rule::Always(_) => {}
            Rule::Where(_, met, unmet) => pending.extend([*met, *unmet]),
            Rule::Arguments(check) => {
                for test in check.cases.iter().flat_map(|case| case.tests) {
                    values.extend([test.mask, !test.mask]);
                    for &(first, last) in test.set {
                        values.extend([first, last, first.wrapping_sub(1), last.wrapping_add(1)]);
                    }
                }
            }
        }
    }
    values.extend((0..32).map(|bit| 1 << bit));
    values.sort_unstable();
    values.dedup();
    values
}
