//! What a snapshot needs of the host that it is restored on, compared before anything of it is loaded.

use serde::{Deserialize, Serialize};

use crate::architecture::Architecture;
use crate::board::GicVersion;
use crate::state::List;

/// Most facts of a fingerprint.
const MAX_FACTS: usize = 256;

/// What a fact of the snapshot's host demands of this host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Rule {
    /// The same value.
    Same,
    /// Every bit that is set there is set here.
    Bits,
    /// At least as much.
    AtLeast,
}

/// A fact about a host: its name, its value, and what it demands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fact {
    pub(crate) name: String,
    pub(crate) value: u64,
    pub(crate) rule: Rule,
}

/// A host, as far as its guests can tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    architecture: Architecture,
    facts: List<Fact, MAX_FACTS>,
    gic: Option<GicVersion>,
    its: bool,
}

impl Fingerprint {
    /// Puts it together. Facts past the most that there may be are dropped; hosts have a fraction.
    pub(crate) fn new(architecture: Architecture, mut facts: Vec<Fact>, gic: Option<GicVersion>, its: bool) -> Self {
        facts.truncate(MAX_FACTS);
        // It was just cut to fit.
        let facts = List::new(facts).unwrap_or_else(|_| List::default());
        Self {
            architecture,
            facts,
            gic,
            its,
        }
    }

    /// The architecture.
    #[must_use]
    pub const fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// The interrupt controller of virtual machines here; none on x86_64.
    #[must_use]
    pub const fn gic(&self) -> Option<GicVersion> {
        self.gic
    }

    /// Says whether a snapshot with the fingerprint `saved` can be restored on the host with this one.
    ///
    /// # Errors
    /// Every reason why not, each a sentence for the user.
    pub fn fits(&self, saved: &Self) -> Result<(), Vec<String>> {
        if self.architecture != saved.architecture {
            return Err(vec![format!(
                "the snapshot is of {}, this host is {}",
                saved.architecture, self.architecture
            )]);
        }
        let mut reasons = Vec::new();
        if self.gic != saved.gic {
            reasons.push(format!(
                "the snapshot's interrupt controller is {}, this host's {}",
                gic_name(saved.gic),
                gic_name(self.gic)
            ));
        } else if self.its != saved.its {
            let with = |its: bool| if its { "with" } else { "without" };
            reasons.push(format!(
                "the snapshot's interrupt controller is {} a translation service, this host's {}",
                with(saved.its),
                with(self.its)
            ));
        }
        reasons.extend(saved.facts.as_slice().iter().filter_map(|fact| self.refuses(fact)));
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }

    /// Why this host can't do what a fact demands. The rule is this host's: a snapshot does not loosen it.
    fn refuses(&self, saved: &Fact) -> Option<String> {
        // The name is a snapshot's, and so is printed escaped; but not its apostrophes.
        let name: String = saved
            .name
            .split_inclusive('\'')
            .map(|part| match part.strip_suffix('\'') {
                Some(part) => format!("{}'", part.escape_debug()),
                None => part.escape_debug().to_string(),
            })
            .collect();
        let Some(here) = self.facts.as_slice().iter().find(|fact| fact.name == saved.name) else {
            let needless = saved.value == 0 && saved.rule != Rule::Same;
            return (!needless).then(|| format!("this host lacks {name} ({:#x} in the snapshot)", saved.value));
        };
        match here.rule {
            Rule::Same if here.value != saved.value => Some(format!(
                "{name} is {:#x} in the snapshot and {:#x} on this host",
                saved.value, here.value
            )),
            Rule::Bits if saved.value & !here.value != 0 => Some(format!(
                "this host lacks bits {:#x} of {name}",
                saved.value & !here.value
            )),
            Rule::AtLeast if saved.value > here.value => Some(format!(
                "{name} is {} in the snapshot, more than the {} of this host",
                saved.value, here.value
            )),
            _ => None,
        }
    }
}

/// A controller's name in messages.
const fn gic_name(gic: Option<GicVersion>) -> &'static str {
    match gic {
        None => "none",
        Some(GicVersion::V2) => "GICv2",
        Some(GicVersion::V3) => "GICv3",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(name: &str, value: u64, rule: Rule) -> Fact {
        Fact {
            name: name.into(),
            value,
            rule,
        }
    }

    fn host() -> Fingerprint {
        let facts = vec![
            fact("vendor", 7, Rule::Same),
            fact("cpuid.7.ebx", 0b1110, Rule::Bits),
            fact("xsave", 2696, Rule::AtLeast),
        ];
        Fingerprint::new(Architecture::X86_64, facts, None, false)
    }

    #[test]
    fn a_snapshot_fits_where_it_was_made_and_where_there_is_more() {
        assert_eq!(host().fits(&host()), Ok(()));
        let mut less = vec![
            fact("vendor", 7, Rule::Same),
            fact("cpuid.7.ebx", 0b0100, Rule::Bits),
            fact("xsave", 576, Rule::AtLeast),
        ];
        less.push(fact("unknown and unused", 0, Rule::Bits));
        assert_eq!(
            host().fits(&Fingerprint::new(Architecture::X86_64, less, None, false)),
            Ok(())
        );
    }

    #[test]
    fn every_reason_is_told() {
        // The last rule is a lie.
        let facts = vec![
            fact("cpuid.7.ebx", 0b1_0010, Rule::AtLeast),
            fact("xsave", 4096, Rule::AtLeast),
            fact("the host's cpuid.\n", 1, Rule::Bits),
            fact("vendor", 8, Rule::Bits),
        ];
        assert_eq!(
            host()
                .fits(&Fingerprint::new(Architecture::X86_64, facts, None, false))
                .unwrap_err(),
            [
                "this host lacks bits 0x10 of cpuid.7.ebx",
                "xsave is 4096 in the snapshot, more than the 2696 of this host",
                "this host lacks the host's cpuid.\\n (0x1 in the snapshot)",
                "vendor is 0x8 in the snapshot and 0x7 on this host",
            ]
        );
    }

    #[test]
    fn the_interrupt_controller_must_be_the_same() {
        let arm = |gic, its| Fingerprint::new(Architecture::Aarch64, vec![], gic, its);
        assert_eq!(
            host().fits(&arm(Some(GicVersion::V3), true)).unwrap_err(),
            ["the snapshot is of aarch64, this host is x86_64"]
        );
        assert_eq!(
            arm(Some(GicVersion::V2), false)
                .fits(&arm(Some(GicVersion::V3), true))
                .unwrap_err(),
            ["the snapshot's interrupt controller is GICv3, this host's GICv2"]
        );
        assert_eq!(
            arm(Some(GicVersion::V3), false)
                .fits(&arm(Some(GicVersion::V3), true))
                .unwrap_err(),
            ["the snapshot's interrupt controller is with a translation service, this host's without"]
        );
    }

    #[test]
    fn it_reads_back_as_written_and_no_longer() {
        let text = serde_json::to_string(&host()).unwrap();
        assert_eq!(serde_json::from_str::<Fingerprint>(&text).unwrap(), host());
        let fact = r#"{"name":"","value":0,"rule":"Bits"}"#;
        let long = format!(
            r#"{{"architecture":"x86_64","facts":[{}],"gic":null,"its":false}}"#,
            vec![fact; 257].join(",")
        );
        assert!(
            serde_json::from_str::<Fingerprint>(&long)
                .unwrap_err()
                .to_string()
                .starts_with("invalid length 257")
        );
    }
}
