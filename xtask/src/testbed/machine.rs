//! The machines that can be booted. All that differs between them is here: a new one is a new arm of each function.

use std::fmt;
use std::process::Command;

use clap::ValueEnum;

/// A machine: an architecture and a kernel series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Machine {
    /// Debian 12's kernel: Landlock ABI 2, and the oldest kernel that we test.
    #[value(name = "aarch64-6.1")]
    Aarch64Linux61,
    /// Debian 13's kernel, from Debian 12's security archive: Landlock ABI 6.
    #[value(name = "aarch64-6.12")]
    Aarch64Linux612,
}

impl Machine {
    /// Those that `cargo xtask test` boots.
    pub(crate) const ALL: [Self; 2] = [Self::Aarch64Linux61, Self::Aarch64Linux612];

    /// Debian's name of the architecture.
    pub(crate) const fn debian_arch(self) -> &'static str {
        match self {
            Self::Aarch64Linux61 | Self::Aarch64Linux612 => "arm64",
        }
    }

    /// The folder below testbed/ with what only this architecture's guests need.
    pub(crate) const fn folder(self) -> &'static str {
        match self {
            Self::Aarch64Linux61 | Self::Aarch64Linux612 => "aarch64",
        }
    }

    /// What our binaries are built for: musl, because rust's own linker then suffices (no cross gcc, no cross libc).
    pub(crate) const fn triple(self) -> &'static str {
        match self {
            Self::Aarch64Linux61 | Self::Aarch64Linux612 => "aarch64-unknown-linux-musl",
        }
    }

    /// The kernel's series.
    pub(crate) const fn series(self) -> &'static str {
        match self {
            Self::Aarch64Linux61 => "6.1",
            Self::Aarch64Linux612 => "6.12",
        }
    }

    /// The Debian package that depends on the newest kernel of the series.
    pub(crate) const fn kernel_meta(self) -> &'static str {
        match self {
            Self::Aarch64Linux61 => "linux-image-cloud-arm64",
            Self::Aarch64Linux612 => "linux-image-6.12-cloud-arm64",
        }
    }

    /// QEMU with this machine's hardware.
    pub(crate) fn qemu(self) -> Command {
        // The parent's death is QEMU's: a killed task must not leave a machine that computes for minutes.
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL"]);
        match self {
            Self::Aarch64Linux61 | Self::Aarch64Linux612 => {
                // cortex-a72: `-cpu max` is three to four times slower under TCG (measured, design/testbeds.md).
                qemu.args([
                    "qemu-system-aarch64",
                    "-machine",
                    "virt,gic-version=3",
                    "-cpu",
                    "cortex-a72",
                ]);
                qemu.args(["-smp", "2", "-m", "2048", "-accel", "tcg,thread=multi"]);
            }
        }
        qemu
    }

    /// The kernel's name of the serial console.
    pub(crate) const fn console(self) -> &'static str {
        match self {
            Self::Aarch64Linux61 | Self::Aarch64Linux612 => "ttyAMA0",
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.folder(), self.series())
    }
}
