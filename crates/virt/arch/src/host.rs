//! What a host lacks, whichever its architecture.

use std::fmt;

/// What this host's KVM lacks, so that no virtual machine can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MissingCapability {
    /// KVM speaks another version of its interface.
    #[error("KVM's interface has version {found}, not {VERSION}")]
    Version {
        /// Its version.
        found: i32,
    },
    /// Capabilities that no virtual machine can do without.
    #[error("KVM does not offer {names}", names = .names.join(", "))]
    Capabilities {
        /// Their names in Documentation/virt/kvm/api.rst.
        names: Vec<&'static str>,
    },
}

/// The only version that there has been since Linux 2.6.22 (Documentation/virt/kvm/api.rst, `KVM_GET_API_VERSION`).
const VERSION: i32 = 12;

/// Compares what KVM has with what is required, `(capability, name)`.
pub(crate) fn require<C: Copy>(
    version: i32,
    required: &[(C, &'static str)],
    has: impl Fn(C) -> bool,
) -> Result<(), MissingCapability> {
    if version != VERSION {
        return Err(MissingCapability::Version { found: version });
    }
    let names: Vec<_> = required
        .iter()
        .filter(|(capability, _)| !has(*capability))
        .map(|(_, name)| *name)
        .collect();
    if names.is_empty() {
        Ok(())
    } else {
        Err(MissingCapability::Capabilities { names })
    }
}

/// Something that could not be had and is done without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Warning {
    /// The host has no performance monitor for guests (aarch64 only: x86_64's guests are never given one).
    NoPerformanceMonitor,
}

impl fmt::Display for Warning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPerformanceMonitor => formatter.write_str("the host offers guests no performance monitor"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_missing_is_named() {
        let required = [(1, "KVM_CAP_ONE"), (2, "KVM_CAP_TWO"), (3, "KVM_CAP_THREE")];
        assert_eq!(require(12, &required, |_| true), Ok(()));
        let error = require(12, &required, |capability| capability == 2).unwrap_err();
        assert_eq!(error.to_string(), "KVM does not offer KVM_CAP_ONE, KVM_CAP_THREE");
        assert_eq!(
            require(11, &required, |_| true).unwrap_err().to_string(),
            "KVM's interface has version 11, not 12"
        );
    }
}
