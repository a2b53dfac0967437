//! The same rules through `seccompiler`: an independent compiler and dispatch must allow the same calls.
//!
//! It knows one error number per filter and no ENOSYS for unknown calls, so only "allowed or not" is compared.

use std::collections::BTreeMap;

use libc::sock_filter;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use super::simulator::run;
use super::{all_filters, interesting_values};
use crate::rules::{Check, Rule, Test};
use crate::tables::rows;
use crate::{Arch, Denied, Options, Profile, Verdict, compile};

fn reference(profile: Profile, options: Options, arch: Arch) -> Vec<sock_filter> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for &(name, number) in rows(arch) {
        let rule = crate::rules::rule_of(arch, u32::from(number)).expect(name);
        match rule.settle(profile, options) {
            Rule::Always(Verdict::Allow) => drop(rules.insert(i64::from(number), Vec::new())),
            Rule::Arguments(check) => {
                let alternatives = alternatives(check);
                if !alternatives.is_empty() {
                    rules.insert(i64::from(number), alternatives);
                }
            }
            Rule::Always(_) => {}
            Rule::Where(..) => panic!("{name} isn't settled"),
        }
    }
    let target = match arch {
        Arch::X86_64 => TargetArch::x86_64,
        Arch::Aarch64 => TargetArch::aarch64,
    };
    let filter = SeccompFilter::new(rules, SeccompAction::Errno(1), SeccompAction::Allow, target).expect("a filter");
    let program: BpfProgram = filter.try_into().expect("a program");
    program
        .iter()
        .map(|line| sock_filter {
            code: line.code,
            jt: line.jt,
            jf: line.jf,
            k: line.k,
        })
        .collect()
}

/// The allowing cases as a disjunction of conjunctions. Refusing cases must come last, or this would be wrong.
fn alternatives(check: &Check) -> Vec<SeccompRule> {
    let allowing = check.cases.iter().take_while(|case| case.then == Verdict::Allow);
    assert_eq!(
        allowing.clone().count(),
        check.cases.iter().filter(|case| case.then == Verdict::Allow).count()
    );
    let mut rules = Vec::new();
    for case in allowing {
        let mut conjunctions: Vec<Vec<SeccompCondition>> = vec![Vec::new()];
        for test in case.tests {
            let mut longer = Vec::new();
            for conjunction in &conjunctions {
                for condition in conditions(test) {
                    longer.push(conjunction.iter().cloned().chain(condition).collect());
                }
            }
            conjunctions = longer;
        }
        rules.extend(
            conjunctions
                .into_iter()
                .map(|conditions| SeccompRule::new(conditions).expect("a rule")),
        );
    }
    rules
}

/// The ways in which a test can hold, each a conjunction.
fn conditions(test: &Test) -> Vec<Vec<SeccompCondition>> {
    let condition = |operation, value: u32| {
        SeccompCondition::new(test.argument, SeccompCmpArgLen::Dword, operation, u64::from(value)).expect("a condition")
    };
    let span = |&(first, last): &(u32, u32)| match test.mask {
        u32::MAX => vec![vec![
            condition(SeccompCmpOp::Ge, first),
            condition(SeccompCmpOp::Le, last),
        ]],
        mask => (first..=last)
            .map(|value| vec![condition(SeccompCmpOp::MaskedEq(u64::from(mask)), value)])
            .collect(),
    };
    test.set.iter().flat_map(span).collect()
}

#[test]
fn seccompiler_allows_the_same_calls() {
    let values = interesting_values();
    for (profile, options, arch) in all_filters() {
        if options.denied == Denied::Notify {
            continue; // the same allowed calls as with error numbers, by semantics.rs
        }
        let (ours, theirs) = (
            compile(profile, options, arch).expect("compiles"),
            reference(profile, options, arch),
        );
        let allowed = |program: &[sock_filter], number, args: &[u64; 6]| {
            run(program, arch.audit_value(), number, args).expect("runs").0 == libc::SECCOMP_RET_ALLOW
        };
        let mut compared = 0;
        for number in (0..600).chain([0x4000_0000, 0x4000_0027, u32::MAX]) {
            // Only calls decided by arguments need more than one set of them.
            let rule = crate::rules::rule_of(arch, number).map(|rule| rule.settle(profile, options));
            let values = if matches!(rule, Some(Rule::Arguments(_))) {
                values.as_slice()
            } else {
                &[0]
            };
            for (at, &value) in values.iter().enumerate() {
                let other = u64::from(values[(at * 7 + 3) % values.len()]);
                for args in [
                    [u64::from(value); 6],
                    [u64::from(value), other, 0, 0, 0, 0],
                    [other, u64::from(value) | 1 << 40, 0, 0, 0, 0],
                    [1, u64::from(value), other, 0, 0, 0],
                    [2, 1 << 32 | 1, u64::from(value), 0, 0, 0],
                ] {
                    let (us, them) = (allowed(&ours, number, &args), allowed(&theirs, number, &args));
                    assert_eq!(us, them, "{profile:?} {options:?} {arch:?} {number:#x} {args:x?}");
                    compared += 1;
                }
            }
        }
        assert!(compared > 5000, "only {compared} calls compared");
    }
}
