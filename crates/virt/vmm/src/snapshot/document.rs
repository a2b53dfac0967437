//! What a snapshot knows beside memory.

use ringwall_arch::{Architecture, Fingerprint, native};
use ringwall_devices::virtio::mmio::MmioState;
use serde::{Deserialize, Serialize};

use crate::board::BoardState;
use crate::machine::shape;
use crate::shell::ShellOptions;

/// A device's state under its name.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceRecord {
    /// How the configuration names it.
    pub id: String,
    /// Registers, queues and the device's own.
    pub state: MmioState,
}

/// The state file's document. Its lists are bounded by the file's length.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// When the guest's clocks were read, by the host's wall clock, in nanoseconds since 1970. Version 1 does not say.
    #[serde(default)]
    pub saved_at_ns: Option<u64>,
    /// What the guest was shown of its host.
    pub fingerprint: Fingerprint,
    /// What kind of VM.
    pub options: ShellOptions,
    /// The configuration that its devices were made from, as `GET /vm/config` has it.
    pub configuration: serde_json::Value,
    /// One for each vCPU.
    pub vcpus: Vec<native::VcpuState>,
    /// Interrupt controllers and timers.
    pub platform: native::PlatformState,
    /// The board's own devices.
    pub board: BoardState,
    /// The virtio devices, in the order of their places.
    pub devices: Vec<DeviceRecord>,
}

/// As much of a document as says what host it needs, whatever else is in it: what another architecture's snapshot has too.
#[derive(Debug, Deserialize)]
pub struct Origin {
    /// What the guest was shown of its host.
    pub fingerprint: Fingerprint,
}

impl Origin {
    /// Whether it is of another architecture than this host.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        self.fingerprint.architecture() != Architecture::NATIVE
    }
}

impl Document {
    /// What the snapshot is of, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        // A made-up snapshot's names may be anything, and go to somebody's terminal.
        let names = self.devices.iter().map(|device| device.id.escape_debug().to_string());
        let devices: Vec<String> = names.collect();
        format!("{}; devices: {}", self.shape(), devices.join(", "))
    }

    /// What kind of VM, in words; a document with another number of vCPUs than it says is of no kind.
    #[must_use]
    pub fn shape(&self) -> String {
        if self.vcpus.len() == usize::from(self.options.vcpus) {
            shape(&self.options)
        } else {
            format!("{} of {} vCPUs", self.vcpus.len(), self.options.vcpus)
        }
    }
}
