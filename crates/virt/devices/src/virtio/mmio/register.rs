//! The registers of the transport and their offsets (VIRTIO 1.2 §4.2.2, table 4.1).

/// Where the driver writes a queue's number: the address for an ioeventfd of 4 bytes with the number as its datamatch.
pub const NOTIFY_OFFSET: u64 = 0x050;
/// Where the configuration space begins.
pub(super) const CONFIGURATION_OFFSET: u64 = 0x100;

/// What the identification registers say: "virt", and version 2 (not legacy).
pub(super) const MAGIC: u32 = 0x7472_6976;
pub(super) const VERSION: u32 = 2;
/// A subsystem vendor of our own choice: "RWLL".
pub(super) const VENDOR: u32 = u32::from_le_bytes(*b"RWLL");

/// A register that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readable {
    Magic,
    Version,
    DeviceId,
    Vendor,
    DeviceFeatures,
    QueueSizeMax,
    QueueReady,
    InterruptStatus,
    Status,
    /// Length or base of a shared memory region: there is none.
    SharedMemory,
    ConfigurationGeneration,
}

impl Readable {
    pub(super) fn at(offset: u64) -> Option<Self> {
        Some(match offset {
            0x000 => Readable::Magic,
            0x004 => Readable::Version,
            0x008 => Readable::DeviceId,
            0x00c => Readable::Vendor,
            0x010 => Readable::DeviceFeatures,
            0x034 => Readable::QueueSizeMax,
            0x044 => Readable::QueueReady,
            0x060 => Readable::InterruptStatus,
            0x070 => Readable::Status,
            0x0b0 | 0x0b4 | 0x0b8 | 0x0bc => Readable::SharedMemory,
            0x0fc => Readable::ConfigurationGeneration,
            _ => return None,
        })
    }
}

/// One of a queue's three rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ring {
    Descriptors,
    Available,
    Used,
}

/// A register that can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writable {
    DeviceFeaturesSelect,
    DriverFeatures,
    DriverFeaturesSelect,
    QueueSelect,
    QueueSize,
    QueueReady,
    Notify,
    InterruptAcknowledge,
    Status,
    /// Half of the address of a ring.
    Address {
        ring: Ring,
        high: bool,
    },
}

impl Writable {
    pub(super) fn at(offset: u64) -> Option<Self> {
        let address = |ring, high| Writable::Address { ring, high };
        Some(match offset {
            0x014 => Writable::DeviceFeaturesSelect,
            0x020 => Writable::DriverFeatures,
            0x024 => Writable::DriverFeaturesSelect,
            0x030 => Writable::QueueSelect,
            0x038 => Writable::QueueSize,
            0x044 => Writable::QueueReady,
            NOTIFY_OFFSET => Writable::Notify,
            0x064 => Writable::InterruptAcknowledge,
            0x070 => Writable::Status,
            0x080 => address(Ring::Descriptors, false),
            0x084 => address(Ring::Descriptors, true),
            0x090 => address(Ring::Available, false),
            0x094 => address(Ring::Available, true),
            0x0a0 => address(Ring::Used, false),
            0x0a4 => address(Ring::Used, true),
            _ => return None,
        })
    }
}
