//! The compiled programs against [`decide`], over all numbers and many arguments.

use proptest::prelude::*;

use super::simulator::{check, run, unreachable};
use super::{all_filters, interesting_values};
use crate::rules::{Rule, rule_of};
use crate::{Arch, Denied, Options, Profile, Verdict, compile, decide};

/// What the kernel must be told for a verdict; written out again, so as not to share the compiler's.
fn expected(verdict: Verdict, denied: Denied) -> u32 {
    match (verdict, denied) {
        (Verdict::Allow, _) => libc::SECCOMP_RET_ALLOW,
        (Verdict::Refuse { .. }, Denied::Notify) => libc::SECCOMP_RET_USER_NOTIF,
        (Verdict::Refuse { errno }, Denied::Errno) => libc::SECCOMP_RET_ERRNO + u32::from(errno),
        (Verdict::Absent, _) => libc::SECCOMP_RET_ERRNO + libc::ENOSYS.unsigned_abs(),
        (Verdict::Kill, _) => libc::SECCOMP_RET_KILL_PROCESS,
    }
}

fn assert_same(program: &[libc::sock_filter], filter: (Profile, Options, Arch), number: u32, args: &[u64; 6]) {
    let (profile, options, arch) = filter;
    let wanted = expected(decide(profile, options, arch, number, args), options.denied);
    let (got, _) = run(program, arch.audit_value(), number, args).expect("the program runs");
    assert_eq!(
        got, wanted,
        "{filter:?} number {number:#x} args {args:x?}: {got:#x}, not {wanted:#x}"
    );
}

#[test]
fn the_kernel_would_take_every_program() {
    for filter in all_filters() {
        let program = compile(filter.0, filter.1, filter.2).expect("compiles");
        assert_eq!(check(&program), Ok(()), "{filter:?}");
        assert_eq!(unreachable(&program), 0, "{filter:?}: dead instructions");
        // The cost of an install is the length: this is a ratchet, not a limit of the kernel.
        assert!(program.len() <= 330, "{filter:?}: {} instructions", program.len());
    }
}

#[test]
fn every_number_is_decided_as_the_rules_say() {
    let boundaries = [
        0x3fff_ffff,
        0x4000_0000,
        0x4000_0001,
        0x4000_0200,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_fffe,
        u32::MAX,
    ];
    for filter in all_filters() {
        let program = compile(filter.0, filter.1, filter.2).expect("compiles");
        for number in (0..=600).chain(boundaries) {
            assert_same(&program, filter, number, &[0; 6]);
            assert_same(&program, filter, number, &[u64::MAX; 6]);
        }
    }
}

#[test]
fn every_interesting_argument_is_decided_as_the_rules_say() {
    let values = interesting_values();
    let garbage = 0xdead_beef_0000_0000;
    for filter in all_filters() {
        let (profile, options, arch) = filter;
        if options.deny_setting_affinity {
            continue; // turns one check into a constant, nothing else
        }
        let program = compile(profile, options, arch).expect("compiles");
        for number in 0..512 {
            let rule = rule_of(arch, number).map(|rule| rule.settle(profile, options));
            if !matches!(rule, Some(Rule::Arguments(_))) {
                continue;
            }
            for &value in &values {
                for argument in 0..3 {
                    for others in [0, 1, 16] {
                        let mut args = [others; 6];
                        args[argument] = garbage | u64::from(value);
                        assert_same(&program, filter, number, &args);
                    }
                }
            }
        }
    }
}

#[test]
fn another_architecture_is_killed_whatever_the_number() {
    const I386: u32 = 0x4000_0003;
    const ARM: u32 = 0x4000_0028;
    for (profile, options, arch) in all_filters() {
        let program = compile(profile, options, arch).expect("compiles");
        let others = Arch::ALL
            .iter()
            .filter(|&&other| other != arch)
            .map(|other| other.audit_value());
        for other in others.chain([I386, ARM, 0, u32::MAX]) {
            for number in 0..600 {
                assert_eq!(
                    run(&program, other, number, &[0; 6]).map(|ran| ran.0),
                    Ok(libc::SECCOMP_RET_KILL_PROCESS)
                );
            }
        }
    }
}

#[test]
fn a_call_is_found_in_few_steps() {
    // The kernel runs the program once for every number at install, and for each call that isn't always allowed.
    for filter in all_filters() {
        let (profile, options, arch) = filter;
        let program = compile(profile, options, arch).expect("compiles");
        let steps = |number| run(&program, arch.audit_value(), number, &[0; 6]).expect("runs").1;
        let worst = (0..512).map(steps).max();
        assert!(worst <= Some(40), "{filter:?}: {worst:?} steps");
    }
}

proptest! {
    #[test]
    fn random_calls_are_decided_as_the_rules_say(
        index in 0_usize..1000,
        number in prop_oneof![9 => 0_u32..512, 1 => any::<u32>()],
        args in prop::array::uniform6(prop_oneof![any::<u64>(), 0_u64..64, any::<u32>().prop_map(|low| u64::from(low) << 32)]),
    ) {
        let filters = all_filters();
        let filter = filters[index % filters.len()];
        let program = compile(filter.0, filter.1, filter.2).expect("compiles");
        assert_same(&program, filter, number, &args);
    }
}
