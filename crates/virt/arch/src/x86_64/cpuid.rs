//! What a guest's CPUID says: KVM's list of what it can virtualise here, edited.
//!
//! Leaf numbers and fields are from Intel SDM vol. 2A (`CPUID`) and AMD APM vol. 3 appendix E. The rule: features stay as KVM lists
//! them; what describes the host's packages, caches, model name and counters is replaced by what the guest has; nested virtualisation
//! and performance counters are taken away, since they cost attack surface and state in snapshots that no sandbox needs.

use serde::{Deserialize, Serialize};

use crate::board::MAX_VCPUS;

/// One leaf, or one sub-leaf if `flags` says so: what `kvm_cpuid_entry2` has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuidEntry {
    /// EAX that asks for it.
    pub leaf: u32,
    /// ECX that asks for it.
    pub subleaf: u32,
    /// `KVM_CPUID_FLAG_*`; bit 0: the sub-leaf matters.
    pub flags: u32,
    /// EAX, EBX, ECX, EDX of the answer.
    pub registers: [u32; 4],
}

/// `KVM_CPUID_FLAG_SIGNIFCANT_INDEX` (arch/x86/include/uapi/asm/kvm.h).
const FLAG_SUBLEAF: u32 = 1;
const EAX: usize = 0;
const EBX: usize = 1;
const ECX: usize = 2;
const EDX: usize = 3;

/// Leaf 1, ECX: VMX; PDCM (performance MSRs); TSC deadline; hypervisor.
const VMX: u32 = 1 << 5;
const PDCM: u32 = 1 << 15;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX: debug store; more than one logical processor.
const DEBUG_STORE: u32 = 1 << 21;
const HTT: u32 = 1 << 28;
/// Leaf 0x8000_0001, ECX: SVM, topology leaves, performance counter extensions.
const SVM: u32 = 1 << 2;
const CMP_LEGACY: u32 = 1 << 1;
const TOPOLOGY: u32 = 1 << 22;
const AMD_COUNTERS: u32 = (1 << 23) | (1 << 24) | (1 << 28);

/// The model name that the guest sees, 48 bytes with its zeros: the host's own would tell a sandbox what it runs on.
const BRAND: &[u8; 48] = b"Ringwall virtual processor\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// Edits KVM's supported CPUID for the vCPU with this index (which is its APIC id) among `vcpus`.
///
/// Cores without threads, all in one package: what a sandbox's scheduler should assume.
pub(crate) fn for_vcpu(supported: &[CpuidEntry], index: u8, vcpus: u8, tsc_deadline: bool) -> Vec<CpuidEntry> {
    let vcpus = vcpus.clamp(1, MAX_VCPUS);
    let topology = Topology {
        index: u32::from(index),
        vcpus: u32::from(vcpus),
        tsc_deadline,
    };
    let has_topology_leaf = |leaf: u32| {
        supported
            .iter()
            .any(|entry| entry.leaf == 0 && entry.registers[EAX] >= leaf)
    };
    let amd_topology = supported
        .iter()
        .any(|entry| entry.leaf == 0x8000_0001 && entry.registers[ECX] & TOPOLOGY != 0);
    let mut entries: Vec<CpuidEntry> = supported
        .iter()
        .filter(|entry| !matches!(entry.leaf, 0xb | 0x1f))
        .filter(|entry| entry.leaf != 0x8000_001e || amd_topology)
        .map(|entry| topology.edit(*entry))
        .collect();
    for leaf in [0xb, 0x1f] {
        if has_topology_leaf(leaf) {
            entries.extend(topology.x2apic(leaf));
        }
    }
    entries
}

/// What one vCPU's answers depend on.
#[derive(Debug, Clone, Copy)]
struct Topology {
    index: u32,
    vcpus: u32,
    tsc_deadline: bool,
}

impl Topology {
    /// How many bits of an APIC id number the vCPUs.
    const fn id_bits(self) -> u32 {
        self.vcpus.next_power_of_two().trailing_zeros()
    }

    fn edit(self, mut entry: CpuidEntry) -> CpuidEntry {
        let registers = &mut entry.registers;
        match entry.leaf {
            0x1 => self.features(registers),
            // Cache sizes stay (software tunes itself by them); who shares them is the guest's topology.
            0x4 => registers[EAX] = self.cache(registers[EAX], self.vcpus - 1) & 0x03ff_ffff | (self.vcpus - 1) << 26,
            // Always-running APIC timer only; the rest is the host's heat and power.
            0x6 => *registers = [registers[EAX] & (1 << 2), 0, 0, 0],
            // Serial number; monitor; performance counters; platform QoS; SGX; trace; frequencies; PT; SoC vendor.
            0x3 | 0x5 | 0xa | 0xf | 0x10 | 0x12 | 0x14..=0x17 | 0x1b | 0x23 => *registers = [0; 4],
            0x8000_0001 => {
                registers[ECX] &= !(SVM | AMD_COUNTERS | CMP_LEGACY);
                if self.vcpus > 1 {
                    registers[ECX] |= CMP_LEGACY;
                }
            }
            leaf @ 0x8000_0002..=0x8000_0004 => *registers = brand(leaf - 0x8000_0002),
            // NC: cores less one; ApicIdCoreIdSize.
            0x8000_0008 => registers[ECX] = (self.vcpus - 1) | self.id_bits() << 12,
            // SVM; instruction-based sampling; SEV; PQoS; performance monitoring version 2.
            0x8000_000a | 0x8000_001b | 0x8000_001c | 0x8000_001f | 0x8000_0020 | 0x8000_0022 => *registers = [0; 4],
            0x8000_001d => registers[EAX] = self.cache(registers[EAX], self.vcpus - 1),
            // Extended APIC id; core id with one thread; one node.
            0x8000_001e => *registers = [self.index, self.index & 0xff, 0, 0],
            _ => {}
        }
        entry
    }

    fn features(self, registers: &mut [u32; 4]) {
        // Brand index 0, CLFLUSH size kept, logical processors, initial APIC id.
        registers[EBX] = (registers[EBX] & 0xff00) | self.vcpus << 16 | self.index << 24;
        registers[ECX] = registers[ECX] & !(VMX | PDCM | TSC_DEADLINE) | HYPERVISOR;
        if self.tsc_deadline {
            registers[ECX] |= TSC_DEADLINE; // KVM does not list it: it depends on the in-kernel APIC
        }
        registers[EDX] &= !(DEBUG_STORE | HTT);
        if self.vcpus > 1 {
            registers[EDX] |= HTT;
        }
    }

    /// A cache descriptor's EAX (leaf 4 and 0x8000_001d alike) with its sharing: first and second level by one core, the third by all.
    const fn cache(self, eax: u32, others: u32) -> u32 {
        let (kind, level) = (eax & 0x1f, eax >> 5 & 0x7);
        if kind == 0 {
            return eax;
        }
        eax & !(0xfff << 14) | (if level >= 3 { others } else { 0 }) << 14
    }

    /// The sub-leaves of the extended topology leaves: thread, core, end. EDX is the x2APIC id in all of them.
    fn x2apic(self, leaf: u32) -> [CpuidEntry; 3] {
        let entry = |subleaf, eax, ebx, ecx| CpuidEntry {
            leaf,
            subleaf,
            flags: FLAG_SUBLEAF,
            registers: [eax, ebx, ecx | subleaf, self.index],
        };
        [
            entry(0, 0, 1, 1 << 8),
            entry(1, self.id_bits(), self.vcpus, 2 << 8),
            entry(2, 0, 0, 0),
        ]
    }
}

/// A third of the model name.
fn brand(part: u32) -> [u32; 4] {
    let (words, _) = BRAND.as_chunks::<4>();
    let start = usize::try_from(part).unwrap_or(0) * 4;
    std::array::from_fn(|register| words.get(start + register).map_or(0, |word| u32::from_le_bytes(*word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn entry(leaf: u32, subleaf: u32, registers: [u32; 4]) -> CpuidEntry {
        CpuidEntry {
            leaf,
            subleaf,
            flags: 0,
            registers,
        }
    }

    fn supported() -> Vec<CpuidEntry> {
        vec![
            entry(0, 0, [0x1f, 0, 0, 0]),
            entry(1, 0, [0xb00f21, 0x0102_0807, !HYPERVISOR, u32::MAX]),
            entry(4, 3, [0xfc1f_c163, 0x3c0_003f, 0x7fff, 0]),
            entry(6, 0, [0xff, 0xff, 0xff, 0xff]),
            entry(0xa, 0, [1, 2, 3, 4]),
            entry(0xb, 0, [9, 9, 9, 9]),
            entry(0x4000_0001, 0, [0x0100_7efb, 0, 0, 0]),
            entry(0x8000_0001, 0, [0, 0, u32::MAX, 0]),
            entry(0x8000_0002, 0, [0x65_7053; 4]),
            entry(0x8000_0008, 0, [0x3030, 5, 0x7001, 0]),
            entry(0x8000_001e, 0, [77; 4]),
        ]
    }

    fn find(entries: &[CpuidEntry], leaf: u32, subleaf: u32) -> [u32; 4] {
        entries
            .iter()
            .find(|entry| entry.leaf == leaf && entry.subleaf == subleaf)
            .unwrap()
            .registers
    }

    #[test]
    fn a_vcpu_sees_its_own_place_in_one_package() {
        let entries = for_vcpu(&supported(), 2, 3, true);
        let features = find(&entries, 1, 0);
        assert_eq!(features[EBX], 0x0203_0800);
        assert_ne!(features[ECX] & HYPERVISOR, 0);
        assert_ne!(features[ECX] & TSC_DEADLINE, 0);
        assert_ne!(features[EDX] & HTT, 0);
        assert_eq!(find(&entries, 0xb, 0), [0, 1, 1 << 8, 2]);
        assert_eq!(find(&entries, 0xb, 1), [2, 3, 2 << 8 | 1, 2]);
        assert_eq!(find(&entries, 0x1f, 2), [0, 0, 2, 2]);
        assert_eq!(find(&entries, 4, 3)[EAX], 2 << 26 | 2 << 14 | 0x163);
        assert_eq!(find(&entries, 0x8000_0008, 0)[ECX], 2 | 2 << 12);
        assert_eq!(find(&entries, 0x8000_001e, 0), [2, 2, 0, 0]);
        assert_eq!(entries.iter().filter(|entry| entry.leaf == 0xb).count(), 3);
    }

    #[test]
    fn one_vcpu_has_no_siblings() {
        let entries = for_vcpu(&supported(), 0, 1, false);
        assert_eq!(find(&entries, 1, 0)[EDX] & HTT, 0);
        assert_eq!(find(&entries, 1, 0)[ECX] & TSC_DEADLINE, 0);
        assert_eq!(find(&entries, 0xb, 1), [0, 1, 2 << 8 | 1, 0]);
        assert_eq!(find(&entries, 0x8000_0001, 0)[ECX] & CMP_LEGACY, 0);
    }

    #[test]
    fn nothing_of_the_host_shows_and_nothing_nested() {
        let entries = for_vcpu(&supported(), 0, 2, true);
        let brand: Vec<u8> = find(&entries, 0x8000_0002, 0)
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        assert_eq!(brand, b"Ringwall virtual");
        assert_eq!(find(&entries, 0xa, 0), [0; 4]);
        assert_eq!(find(&entries, 6, 0), [4, 0, 0, 0]);
        assert_eq!(find(&entries, 1, 0)[ECX] & VMX, 0);
        assert_eq!(find(&entries, 0x8000_0001, 0)[ECX] & (SVM | AMD_COUNTERS), 0);
        assert_eq!(
            find(&entries, 0x4000_0001, 0)[EAX],
            0x0100_7efb,
            "KVM's own leaves stay"
        );
    }
}
