//! The machines that can be booted. All that differs between them is here: a new one is a new arm of each function.

use std::fmt;
use std::process::Command;

use clap::ValueEnum;

use super::GuestArch;

/// A machine: an architecture, a kernel series and, on aarch64, an interrupt controller. Each has /dev/kvm. No two differ in
/// one thing only: a boot costs minutes, and what is to be seen on each is covered by some.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Machine {
    /// GICv2 alone, as small boards have; Debian 12's kernel: Landlock ABI 2, and the oldest kernel that we test.
    #[value(name = "aarch64-gic2", alias = "aarch64-6.1")]
    Aarch64Gic2,
    /// GICv3 with ITS; Debian 13's kernel, from Debian 12's security archive: Landlock ABI 6.
    #[value(name = "aarch64-gic3", alias = "aarch64-6.12")]
    Aarch64Gic3,
    /// AMD's virtualisation, emulated; Debian 12's kernel, which boots faster than the newer one.
    #[value(name = "x86_64")]
    X86,
}

/// What runs on a machine of another architecture or kernel than the developers'.
const ALL_SUITES: &[&str] = &super::SUITES;
/// The process tiers run natively on x86_64; here it is only KVM that no other place has.
const KVM_SUITES: &[&str] = &["kvm", "vmm"];

impl Machine {
    /// Those that `cargo xtask test` boots.
    pub(crate) const ALL: [Self; 3] = [Self::Aarch64Gic2, Self::Aarch64Gic3, Self::X86];

    const fn name(self) -> &'static str {
        match self {
            Self::Aarch64Gic2 => "aarch64-gic2",
            Self::Aarch64Gic3 => "aarch64-gic3",
            Self::X86 => "x86_64",
        }
    }

    /// The suites that run when none is named.
    pub(crate) const fn suites(self) -> &'static [&'static str] {
        match self {
            Self::Aarch64Gic2 | Self::Aarch64Gic3 => ALL_SUITES,
            Self::X86 => KVM_SUITES,
        }
    }

    /// The architecture, of the machine and so of its guests.
    pub(crate) const fn guest_arch(self) -> GuestArch {
        match self {
            Self::Aarch64Gic2 | Self::Aarch64Gic3 => GuestArch::Aarch64,
            Self::X86 => GuestArch::X86_64,
        }
    }

    /// Debian's name of the architecture.
    pub(crate) const fn debian_arch(self) -> &'static str {
        match self {
            Self::Aarch64Gic2 | Self::Aarch64Gic3 => "arm64",
            Self::X86 => "amd64",
        }
    }

    /// The cache's folder of the private apt.
    pub(crate) fn apt_folder(self) -> String {
        format!("apt-{}", self.debian_arch())
    }

    /// What our binaries are built for: musl, because rust's own linker then suffices (no cross gcc, no cross libc).
    pub(crate) const fn triple(self) -> &'static str {
        match self {
            Self::Aarch64Gic2 | Self::Aarch64Gic3 => "aarch64-unknown-linux-musl",
            Self::X86 => "x86_64-unknown-linux-musl",
        }
    }

    /// The kernel's series.
    pub(crate) const fn series(self) -> &'static str {
        match self {
            Self::Aarch64Gic2 | Self::X86 => "6.1",
            Self::Aarch64Gic3 => "6.12",
        }
    }

    /// The Debian package that depends on the newest kernel of the series.
    pub(crate) const fn kernel_meta(self) -> &'static str {
        match self {
            Self::Aarch64Gic2 => "linux-image-cloud-arm64",
            Self::Aarch64Gic3 => "linux-image-6.12-cloud-arm64",
            Self::X86 => "linux-image-cloud-amd64",
        }
    }

    /// The modules that give the machine /dev/kvm; Debian's arm64 kernels have it built in.
    pub(crate) const fn kvm_modules(self) -> &'static [&'static str] {
        match self {
            Self::Aarch64Gic2 | Self::Aarch64Gic3 => &[],
            Self::X86 => &["kvm_amd"],
        }
    }

    /// QEMU with this machine's hardware.
    pub(crate) fn qemu(self) -> Command {
        // The parent's death is QEMU's: a killed task must not leave a machine that computes for minutes.
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL"]);
        match self {
            Self::Aarch64Gic2 => qemu.args([
                "qemu-system-aarch64",
                "-machine",
                "virt,virtualization=on,gic-version=2",
            ]),
            Self::Aarch64Gic3 => qemu.args([
                "qemu-system-aarch64",
                "-machine",
                "virt,virtualization=on,gic-version=3",
            ]),
            Self::X86 => qemu.args(["qemu-system-x86_64", "-machine", "q35,hpet=off"]),
        };
        match self {
            // cortex-a72: `-cpu max` is three to four times slower under TCG (measured, design/testbeds.md).
            Self::Aarch64Gic2 | Self::Aarch64Gic3 => qemu.args([
                "-cpu",
                "cortex-a72",
                "-smp",
                "2",
                "-m",
                "2048",
                "-accel",
                "tcg,thread=multi",
            ]),
            // svm and npt: what kvm-amd needs. A second processor costs more than it brings here (measured as well).
            Self::X86 => qemu.args([
                "-cpu",
                "EPYC,+svm,+npt",
                "-smp",
                "1",
                "-m",
                "2048",
                "-accel",
                "tcg,thread=multi,tb-size=512",
            ]),
        };
        qemu
    }

    /// What only this machine's kernel is told, its console first.
    pub(crate) const fn kernel_words(self) -> &'static str {
        match self {
            Self::Aarch64Gic2 | Self::Aarch64Gic3 => "console=ttyAMA0",
            // Emulated time is not regular enough for the kernel's checks of timers, and mitigations against TCG are for nothing.
            Self::X86 => "console=ttyS0 mitigations=off nokaslr tsc=reliable no_timer_check",
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
