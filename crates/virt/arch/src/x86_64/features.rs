//! What a fingerprint holds of CPUID.

use crate::fingerprint::{Fact, Rule};
use crate::x86_64::cpuid::CpuidEntry;

/// The registers that are sets of features: leaf, sub-leaf, register and its name.
const FEATURES: [(u32, u32, usize, &str); 15] = [
    (0x1, 0, 2, "ecx"),
    (0x1, 0, 3, "edx"),
    (0x7, 0, 1, "ebx"),
    (0x7, 0, 2, "ecx"),
    (0x7, 0, 3, "edx"),
    (0x7, 1, 0, "eax"),
    (0x7, 1, 3, "edx"),
    (0x7, 2, 3, "edx"),
    (0xd, 0, 0, "eax"),
    (0xd, 1, 0, "eax"),
    (0x4000_0001, 0, 0, "eax"),
    (0x8000_0001, 0, 2, "ecx"),
    (0x8000_0001, 0, 3, "edx"),
    (0x8000_0008, 0, 1, "ebx"),
    (0x8000_0021, 0, 0, "eax"),
];

/// Bits that follow the guest rather than the host: `OSXSAVE` of leaf 1 and `OSPKE` of leaf 7 mirror CR4.
const fn ignored(leaf: u32, register: usize) -> u32 {
    match (leaf, register) {
        (0x1, 2) => 1 << 27,
        (0x7, 2) => 1 << 4,
        _ => 0,
    }
}

/// The facts about a guest's CPUID, as edited: what guests are not shown is not demanded.
pub(crate) fn facts(cpuid: &[CpuidEntry]) -> Vec<Fact> {
    let find = |leaf, subleaf| {
        cpuid
            .iter()
            .find(|entry| entry.leaf == leaf && entry.subleaf == subleaf)
            .map(|entry| entry.registers)
    };
    let vendor = find(0, 0).map_or([0; 3], |[_, ebx, ecx, edx]| [ebx, edx, ecx]);
    // Twelve letters, of which eight tell them all apart.
    let vendor = u64::from(vendor[0]) | u64::from(vendor[1]) << 32;
    let mut facts = vec![Fact {
        name: "the processor's vendor".into(),
        value: vendor,
        rule: Rule::Same,
    }];
    for (leaf, subleaf, register, name) in FEATURES {
        let value = find(leaf, subleaf)
            .and_then(|registers| registers.get(register).copied())
            .unwrap_or(0)
            & !ignored(leaf, register);
        facts.push(Fact {
            name: format!("cpuid.{leaf:x}.{subleaf:x}.{name}"),
            value: value.into(),
            rule: Rule::Bits,
        });
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_named_and_dynamic_bits_left_out() {
        let cpuid = [
            CpuidEntry {
                leaf: 0,
                subleaf: 0,
                flags: 0,
                registers: [0x1c, 0x6874_7541, 0x444d_4163, 0x6974_6e65],
            },
            CpuidEntry {
                leaf: 7,
                subleaf: 0,
                flags: 1,
                registers: [1, 2, 0x10 | 0x100, 8],
            },
        ];
        let facts = facts(&cpuid);
        assert_eq!(facts[0].value.to_le_bytes(), *b"Authenti");
        let find = |name: &str| facts.iter().find(|fact| fact.name == name).unwrap().value;
        assert_eq!(
            (find("cpuid.7.0.ebx"), find("cpuid.7.0.ecx"), find("cpuid.1.0.ecx")),
            (2, 0x100, 0)
        );
    }
}
