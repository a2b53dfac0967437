//! What a filter says about one call.

/// The outcome for one system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The kernel runs it.
    Allow,
    /// Known and denied: it fails with this error number, and a supervisor may hear of it.
    Refuse {
        /// The error number, such as `EPERM`.
        errno: u16,
    },
    /// Fails with `ENOSYS`, as on a kernel that doesn't have it: unknown numbers, and calls that programs do without
    /// when they are missing.
    Absent,
    /// The whole process is killed with `SIGSYS`: a call of another architecture's table, whose numbers would mean
    /// something else here.
    Kill,
}

/// Every error number that a filter returns; the values are those of both architectures (`asm-generic/errno*.h`).
pub(crate) mod errno {
    pub(crate) const EPERM: u16 = 1;
    pub(crate) const ENOSYS: u16 = 38;
    pub(crate) const EPROTONOSUPPORT: u16 = 93;
    pub(crate) const EOPNOTSUPP: u16 = 95;
    pub(crate) const EAFNOSUPPORT: u16 = 97;
}

impl Verdict {
    /// Denied with `EPERM`.
    pub(crate) const EPERM: Self = Self::Refuse { errno: errno::EPERM };

    /// Returns the error number that the call fails with, or `None` if it runs or kills.
    #[must_use]
    pub const fn errno(self) -> Option<u16> {
        match self {
            Self::Refuse { errno } => Some(errno),
            Self::Absent => Some(errno::ENOSYS),
            Self::Allow | Self::Kill => None,
        }
    }
}
