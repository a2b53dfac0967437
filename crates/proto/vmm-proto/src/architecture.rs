//! The architectures, as a value: what differs in the API between them is decided by it, so every host can test both.

/// What the host is, and so the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// AMD and Intel in long mode.
    X86_64,
    /// Arm in its 64-bit state.
    Aarch64,
}

impl Architecture {
    /// The one that this program was built for.
    pub const NATIVE: Self = if cfg!(target_arch = "aarch64") {
        Self::Aarch64
    } else {
        Self::X86_64
    };

    /// Whether a guest can be told that its vCPUs are threads of one core.
    pub const fn has_smt(self) -> bool {
        matches!(self, Self::X86_64)
    }

    /// Whether there is a keyboard controller to press Ctrl+Alt+Del on.
    pub const fn has_keyboard_controller(self) -> bool {
        matches!(self, Self::X86_64)
    }
}
