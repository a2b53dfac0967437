//! What a snapshot holds of vCPUs and platform.

use serde::{Deserialize, Serialize};

use crate::board::GicVersion;
use crate::state::{Hex, List};

/// Most registers of a vCPU; kernels have about 300 without SVE.
pub(super) const MAX_REGISTERS: usize = 1024;
/// Most bytes of a register: SVE's are the longest.
pub(super) const MAX_REGISTER_BYTES: usize = 256;

/// A vCPU, stopped.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VcpuState {
    /// `kvm_mp_state`: runs, or waits to be switched on.
    pub(super) mp_state: u32,
    /// A pending system error: whether, and with which syndrome if any. None if the host does not say.
    pub(super) system_error: Option<(bool, Option<u64>)>,
    /// Number and value.
    pub(super) registers: List<(u64, Hex<MAX_REGISTER_BYTES>), MAX_REGISTERS>,
}

/// Everything that is neither a vCPU nor a device of ours.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlatformState {
    pub(super) performance_monitor: bool,
    pub(super) gic: GicState,
}

/// The interrupt controller. Values are in the order of the pure module `gic`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GicState {
    pub(super) version: GicVersion,
    /// `GICD_IIDR`.
    pub(super) revision: u32,
    pub(super) distributor: List<u32, 1024>,
    /// GICv3 only: the lines' levels of SPIs, 32 in each.
    pub(super) levels: List<u32, 32>,
    pub(super) processors: List<ProcessorState, 32>,
    pub(super) its: Option<ItsState>,
}

/// What the interrupt controller has for each CPU.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProcessorState {
    /// A redistributor, or GICv2's banked registers.
    pub(super) private: List<u32, 128>,
    /// The CPU interface.
    pub(super) interface: List<u64, 32>,
    /// GICv3 only: the lines' levels of private interrupts.
    pub(super) levels: u32,
}

/// The interrupt translation service; its tables are in guest memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ItsState {
    pub(super) registers: List<u64, 16>,
    pub(super) control: u64,
}
