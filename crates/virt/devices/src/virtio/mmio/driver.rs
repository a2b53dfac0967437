//! A driver that brings a device up through its registers, for tests.

use ringwall_arch::GuestRam;

use crate::bus::SharedBusDevice;
use crate::virtio::testing::DriverQueue;

/// Offsets of registers (VIRTIO 1.2 §4.2.2), as a driver knows them.
pub mod offsets {
    /// The magic value.
    pub const MAGIC: u64 = 0x000;
    /// The device's features, half of them.
    pub const DEVICE_FEATURES: u64 = 0x010;
    /// Which half.
    pub const DEVICE_FEATURES_SELECT: u64 = 0x014;
    /// The driver's features, half of them.
    pub const DRIVER_FEATURES: u64 = 0x020;
    /// Which half.
    pub const DRIVER_FEATURES_SELECT: u64 = 0x024;
    /// Which queue.
    pub const QUEUE_SELECT: u64 = 0x030;
    /// Its largest size; 0 if there is no such queue.
    pub const QUEUE_SIZE_MAX: u64 = 0x034;
    /// Its size.
    pub const QUEUE_SIZE: u64 = 0x038;
    /// Whether it is ready.
    pub const QUEUE_READY: u64 = 0x044;
    /// Notifies a queue.
    pub const NOTIFY: u64 = 0x050;
    /// Why the device interrupts.
    pub const INTERRUPT_STATUS: u64 = 0x060;
    /// That it was seen.
    pub const INTERRUPT_ACKNOWLEDGE: u64 = 0x064;
    /// The status.
    pub const STATUS: u64 = 0x070;
    /// The three rings' addresses, low halves; the high half is 4 further.
    pub const RINGS: [u64; 3] = [0x080, 0x090, 0x0a0];
    /// Changes of the configuration space.
    pub const GENERATION: u64 = 0x0fc;
    /// The configuration space.
    pub const CONFIGURATION: u64 = 0x100;
}

/// Drives a device by its registers.
#[expect(missing_debug_implementations, reason = "a bus device has none")]
pub struct MmioDriver<'a> {
    registers: &'a dyn SharedBusDevice,
}

impl<'a> MmioDriver<'a> {
    /// A driver of the device behind these registers.
    #[must_use]
    pub fn new(registers: &'a dyn SharedBusDevice) -> Self {
        MmioDriver { registers }
    }

    /// Reads a register.
    #[must_use]
    pub fn read(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.registers.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    /// Writes a register.
    pub fn write(&self, offset: u64, value: u32) {
        self.registers.write(offset, &value.to_le_bytes());
    }

    /// What the device offers.
    #[must_use]
    pub fn features(&self) -> u64 {
        let half = |select| {
            self.write(offsets::DEVICE_FEATURES_SELECT, select);
            u64::from(self.read(offsets::DEVICE_FEATURES))
        };
        half(1) << 32 | half(0)
    }

    /// Resets the device and agrees on features. Returns whether the device took them.
    pub fn negotiate(&self, features: u64) -> bool {
        for status in [0, 1, 3] {
            self.write(offsets::STATUS, status);
        }
        for (select, half) in [(0, features & 0xffff_ffff), (1, features >> 32)] {
            self.write(offsets::DRIVER_FEATURES_SELECT, select);
            self.write(offsets::DRIVER_FEATURES, u32::try_from(half).unwrap_or(0));
        }
        self.write(offsets::STATUS, 0xb);
        self.read(offsets::STATUS) == 0xb
    }

    /// Tells the device of a queue's rings and makes it ready. Returns whether it is.
    pub fn set_up(&self, number: u32, queue: &DriverQueue) -> bool {
        self.write(offsets::QUEUE_SELECT, number);
        self.write(offsets::QUEUE_SIZE, queue.size().into());
        for (offset, address) in offsets::RINGS
            .into_iter()
            .zip([queue.table, queue.available, queue.used])
        {
            self.write(offset, u32::try_from(address & 0xffff_ffff).unwrap_or(0));
            self.write(offset + 4, u32::try_from(address >> 32).unwrap_or(0));
        }
        self.write(offsets::QUEUE_READY, 1);
        self.read(offsets::QUEUE_READY) == 1
    }

    /// Does all of it with every feature but these, rings laid out from `base`, and returns the queues.
    ///
    /// # Panics
    /// If the device does not come up.
    #[must_use]
    pub fn bring_up(&self, memory: &GuestRam, base: u64, without: u64) -> Vec<DriverQueue> {
        assert!(self.negotiate(self.features() & !without), "features are agreed on");
        let mut queues = Vec::new();
        let mut next = base;
        for number in 0.. {
            self.write(offsets::QUEUE_SELECT, number);
            let Ok(size @ 1..) = u16::try_from(self.read(offsets::QUEUE_SIZE_MAX)) else {
                break;
            };
            let queue = DriverQueue::new(memory, next, size);
            next += DriverQueue::footprint(size);
            assert!(self.set_up(number, &queue), "queue {number} is ready");
            queues.push(queue);
        }
        self.write(offsets::STATUS, 0xf);
        // With rings that another CPU of the guest rewrites it may already have been broken again, and say so (0x40).
        assert_eq!(self.read(offsets::STATUS) & 0xf, 0xf, "the device is up");
        queues
    }
}
