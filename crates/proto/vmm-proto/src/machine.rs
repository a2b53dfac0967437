//! `/machine-config`: vCPUs and memory.

use serde::{Deserialize, Serialize};

use crate::error::ValueError;

/// Most vCPUs (Firecracker's bound, which its clients know).
pub const MAX_VCPUS: u8 = 32;

/// Most memory in MiB: 16 TiB, 44 bits. Ours, so that MiB to bytes can't overflow and guest addresses stay below 2^46, the least that CPUs
/// with virtualisation translate. What the host has is found out when the memory is mapped.
pub const MAX_MEMORY_MIB: u64 = 16 * 1024 * 1024;

/// Memory in MiB if nobody says otherwise (Firecracker).
const DEFAULT_MEMORY_MIB: u64 = 128;

/// A number of vCPUs, 1 to [`MAX_VCPUS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct VcpuCount(u8);

impl VcpuCount {
    /// Checks a number.
    ///
    /// # Errors
    /// [`ValueError::VcpuCount`].
    pub const fn new(count: u8) -> Result<Self, ValueError> {
        if count == 0 || count > MAX_VCPUS {
            return Err(ValueError::VcpuCount { got: count });
        }
        Ok(Self(count))
    }

    /// The number.
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// A size of memory, 1 to [`MAX_MEMORY_MIB`] MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct MemoryMib(u64);

impl MemoryMib {
    /// Checks a size in MiB.
    ///
    /// # Errors
    /// [`ValueError::MemorySize`].
    pub const fn new(mib: u64) -> Result<Self, ValueError> {
        if mib == 0 || mib > MAX_MEMORY_MIB {
            return Err(ValueError::MemorySize { got: mib });
        }
        Ok(Self(mib))
    }

    /// The size in MiB.
    pub const fn mib(self) -> u64 {
        self.0
    }

    /// The size in bytes; the bound keeps it within 45 bits.
    pub const fn bytes(self) -> u64 {
        self.0.saturating_mul(1 << 20)
    }
}

/// Pages that back the guest's memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HugePages {
    /// The host's ordinary ones.
    #[default]
    None,
    /// Ordinary ones, which the kernel may join (`MADV_HUGEPAGE`).
    Transparent,
    /// 2 MiB each, from hugetlbfs.
    #[serde(rename = "2M")]
    Hugetlbfs2M,
}

/// Names of CPU templates that clients know. None of them is enforced, so only `None` is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum WireTemplate {
    C3,
    T2,
    T2S,
    T2CL,
    T2A,
    V1N1,
    None,
}

impl WireTemplate {
    fn check(template: Option<Self>) -> Result<(), ValueError> {
        let name = match template {
            None | Some(Self::None) => return Ok(()),
            Some(Self::C3) => "C3",
            Some(Self::T2) => "T2",
            Some(Self::T2S) => "T2S",
            Some(Self::T2CL) => "T2CL",
            Some(Self::T2A) => "T2A",
            Some(Self::V1N1) => "V1N1",
        };
        Err(ValueError::CpuTemplate { name })
    }
}

/// The body of PUT.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct WireMachine {
    vcpu_count: u8,
    mem_size_mib: u64,
    #[serde(default)]
    smt: bool,
    #[serde(default)]
    cpu_template: Option<WireTemplate>,
    #[serde(default)]
    track_dirty_pages: bool,
    #[serde(default)]
    huge_pages: HugePages,
}

/// The body of PATCH.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct WireMachineUpdate {
    #[serde(default)]
    vcpu_count: Option<u8>,
    #[serde(default)]
    mem_size_mib: Option<u64>,
    #[serde(default)]
    smt: Option<bool>,
    #[serde(default)]
    cpu_template: Option<WireTemplate>,
    #[serde(default)]
    track_dirty_pages: Option<bool>,
    #[serde(default)]
    huge_pages: Option<HugePages>,
}

/// What the machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MachineConfig {
    vcpu_count: VcpuCount,
    mem_size_mib: MemoryMib,
    smt: bool,
    track_dirty_pages: bool,
    huge_pages: HugePages,
}

impl Default for MachineConfig {
    fn default() -> Self {
        Self {
            vcpu_count: VcpuCount(1),
            mem_size_mib: MemoryMib(DEFAULT_MEMORY_MIB),
            smt: false,
            track_dirty_pages: false,
            huge_pages: HugePages::None,
        }
    }
}

impl MachineConfig {
    /// Checks that the parts fit each other.
    ///
    /// # Errors
    /// [`ValueError::OddVcpusWithSmt`], [`ValueError::OddMemoryWithHugePages`].
    pub fn new(
        vcpu_count: VcpuCount,
        memory: MemoryMib,
        smt: bool,
        track_dirty_pages: bool,
        huge_pages: HugePages,
    ) -> Result<Self, ValueError> {
        let VcpuCount(vcpus) = vcpu_count;
        if smt && vcpus > 1 && !vcpus.is_multiple_of(2) {
            return Err(ValueError::OddVcpusWithSmt { got: vcpus });
        }
        if huge_pages == HugePages::Hugetlbfs2M && !memory.mib().is_multiple_of(2) {
            return Err(ValueError::OddMemoryWithHugePages { got: memory.mib() });
        }
        Ok(Self {
            vcpu_count,
            mem_size_mib: memory,
            smt,
            track_dirty_pages,
            huge_pages,
        })
    }

    /// The number of vCPUs.
    pub const fn vcpu_count(&self) -> VcpuCount {
        self.vcpu_count
    }

    /// The memory.
    pub const fn memory(&self) -> MemoryMib {
        self.mem_size_mib
    }

    /// Whether two vCPUs are shown as threads of a core.
    pub const fn smt(&self) -> bool {
        self.smt
    }

    /// Whether written pages are counted, so that differential snapshots can be made.
    pub const fn track_dirty_pages(&self) -> bool {
        self.track_dirty_pages
    }

    /// What backs the memory.
    pub const fn huge_pages(&self) -> HugePages {
        self.huge_pages
    }

    /// This machine after an update.
    ///
    /// # Errors
    /// The parts wouldn't fit each other; nothing is changed then.
    pub fn updated(&self, update: &MachineUpdate) -> Result<Self, ValueError> {
        Self::new(
            update.vcpu_count.unwrap_or(self.vcpu_count),
            update.memory.unwrap_or(self.mem_size_mib),
            update.smt.unwrap_or(self.smt),
            update.track_dirty_pages.unwrap_or(self.track_dirty_pages),
            update.huge_pages.unwrap_or(self.huge_pages),
        )
    }
}

impl TryFrom<WireMachine> for MachineConfig {
    type Error = ValueError;

    fn try_from(wire: WireMachine) -> Result<Self, ValueError> {
        WireTemplate::check(wire.cpu_template)?;
        Self::new(
            VcpuCount::new(wire.vcpu_count)?,
            MemoryMib::new(wire.mem_size_mib)?,
            wire.smt,
            wire.track_dirty_pages,
            wire.huge_pages,
        )
    }
}

impl WireMachine {
    /// Whether a field is used that clients shouldn't use any more.
    pub(crate) fn is_deprecated(&self) -> bool {
        self.cpu_template.is_some()
    }
}

/// Changes to a machine; what is `None` stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MachineUpdate {
    /// The number of vCPUs.
    pub vcpu_count: Option<VcpuCount>,
    /// The memory.
    pub memory: Option<MemoryMib>,
    /// Whether two vCPUs are shown as threads of a core.
    pub smt: Option<bool>,
    /// Whether written pages are counted.
    pub track_dirty_pages: Option<bool>,
    /// What backs the memory.
    pub huge_pages: Option<HugePages>,
}

impl WireMachineUpdate {
    /// Whether it says nothing at all.
    pub(crate) fn is_empty(&self) -> bool {
        let Self {
            vcpu_count,
            mem_size_mib,
            smt,
            cpu_template,
            track_dirty_pages,
            huge_pages,
        } = self;
        vcpu_count.is_none()
            && mem_size_mib.is_none()
            && smt.is_none()
            && cpu_template.is_none()
            && track_dirty_pages.is_none()
            && huge_pages.is_none()
    }

    /// Whether a field is used that clients shouldn't use any more.
    pub(crate) fn is_deprecated(&self) -> bool {
        self.cpu_template.is_some()
    }
}

impl TryFrom<WireMachineUpdate> for MachineUpdate {
    type Error = ValueError;

    fn try_from(wire: WireMachineUpdate) -> Result<Self, ValueError> {
        WireTemplate::check(wire.cpu_template)?;
        Ok(Self {
            vcpu_count: wire.vcpu_count.map(VcpuCount::new).transpose()?,
            memory: wire.mem_size_mib.map(MemoryMib::new).transpose()?,
            smt: wire.smt,
            track_dirty_pages: wire.track_dirty_pages,
            huge_pages: wire.huge_pages,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mib_to_bytes_cannot_wrap() {
        assert_eq!(MemoryMib::new(MAX_MEMORY_MIB).unwrap().bytes(), 1 << 44);
        for bad in [0, MAX_MEMORY_MIB + 1, 1 << 44, u64::MAX] {
            assert_eq!(MemoryMib::new(bad), Err(ValueError::MemorySize { got: bad }));
        }
    }

    #[test]
    fn an_update_is_checked_against_what_stays() {
        let machine = MachineConfig::default();
        let odd = MachineUpdate {
            vcpu_count: Some(VcpuCount::new(3).unwrap()),
            memory: None,
            smt: None,
            track_dirty_pages: None,
            huge_pages: None,
        };
        let three = machine.updated(&odd).unwrap();
        assert_eq!(three.vcpu_count().get(), 3);
        let threads = MachineUpdate {
            vcpu_count: None,
            smt: Some(true),
            ..odd
        };
        assert_eq!(three.updated(&threads), Err(ValueError::OddVcpusWithSmt { got: 3 }));
        assert!(machine.updated(&threads).is_ok());
    }
}
