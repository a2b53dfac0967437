//! `/cpu-config`: a custom CPU template. This VMM enforces its own CPU model and nothing of a client's, so a template is taken only if there is
//! nothing in it: an accepted modifier without effect would be a protection that isn't there.

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::error::ValueError;

/// The body of PUT: lists, of which each must be empty. What would be in them doesn't matter then.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct WireCpuConfig {
    #[serde(default)]
    kvm_capabilities: Vec<IgnoredAny>,
    #[serde(default)]
    cpuid_modifiers: Vec<IgnoredAny>,
    #[serde(default)]
    msr_modifiers: Vec<IgnoredAny>,
    #[serde(default)]
    reg_modifiers: Vec<IgnoredAny>,
    #[serde(default)]
    vcpu_features: Vec<IgnoredAny>,
}

/// A template that changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuTemplate;

impl TryFrom<WireCpuConfig> for CpuTemplate {
    type Error = ValueError;

    fn try_from(wire: WireCpuConfig) -> Result<Self, ValueError> {
        let lists = [
            ("kvm_capabilities", wire.kvm_capabilities.len()),
            ("cpuid_modifiers", wire.cpuid_modifiers.len()),
            ("msr_modifiers", wire.msr_modifiers.len()),
            ("reg_modifiers", wire.reg_modifiers.len()),
            ("vcpu_features", wire.vcpu_features.len()),
        ];
        match lists.into_iter().find(|(_, entries)| *entries > 0) {
            Some((field, _)) => Err(ValueError::CpuModifiers { field }),
            None => Ok(Self),
        }
    }
}
