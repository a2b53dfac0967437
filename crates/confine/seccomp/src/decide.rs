//! The decision on one call, evaluated straight from the rules.
//!
//! A supervisor asks this for the error number of a call that the filter handed to it; the tests hold the compiled
//! program against it. It knows nothing of BPF.

use crate::arch::Arch;
use crate::profile::{Options, Profile};
use crate::rules::{Check, Rule, Test, rule_of};
use crate::verdict::Verdict;

/// Numbers from here on are x32's on x86_64 (`__X32_SYSCALL_BIT`, `asm/unistd.h`).
pub(crate) const X32_BIT: u32 = 0x4000_0000;

/// Decides on the call `number` of `arch` with the arguments `args`, as the filter of the same profile does.
#[must_use]
pub fn decide(profile: Profile, options: Options, arch: Arch, number: u32, args: &[u64; 6]) -> Verdict {
    // -1 is no x32 call but what syscall(2) is given by mistake, and what a tracer skips a call with: ENOSYS.
    if arch == Arch::X86_64 && number >= X32_BIT && number != u32::MAX {
        return Verdict::Kill;
    }
    match rule_of(arch, number).map(|rule| rule.settle(profile, options)) {
        Some(Rule::Always(verdict)) => verdict,
        Some(Rule::Arguments(check)) => check.decide(args),
        // `settle` leaves no `Where`; and what nobody decided doesn't exist.
        Some(Rule::Where(..)) | None => Verdict::Absent,
    }
}

impl Check {
    fn decide(&self, args: &[u64; 6]) -> Verdict {
        let case = self
            .cases
            .iter()
            .find(|case| case.tests.iter().all(|test| test.holds(args)));
        case.map_or(self.otherwise, |case| case.then)
    }
}

impl Test {
    #[expect(clippy::cast_possible_truncation, reason = "the low half is meant: see `Test`")]
    fn holds(&self, args: &[u64; 6]) -> bool {
        let value = args.get(usize::from(self.argument)).map_or(0, |&value| value as u32) & self.mask;
        self.set.iter().any(|&(first, last)| (first..=last).contains(&value))
    }
}
