//! What this host's processor does for guests.

use std::fs::File;
use std::io::{BufRead as _, BufReader};

use ringwall_vmm_proto::Architecture;

/// Whether there is KVM without the processor's help: every x86 host that has it says so in its flags.
pub(crate) fn is_emulated() -> bool {
    if Architecture::NATIVE != Architecture::X86_64 {
        return false;
    }
    let Ok(processors) = File::open("/proc/cpuinfo") else {
        return false;
    };
    // Only as far as the first processor's flags: the kernel writes the text while it is read, and some machines have hundreds.
    let lines = BufReader::new(processors).lines().map_while(Result::ok);
    lines
        .take(CPUINFO_LINES)
        .find(|line| line.starts_with("flags"))
        .is_some_and(|line| !line.split_ascii_whitespace().any(|flag| matches!(flag, "vmx" | "svm")))
}

/// Lines of /proc/cpuinfo before which the flags come (arch/x86/kernel/cpu/proc.c has them as the 19th).
const CPUINFO_LINES: usize = 64;
