//! Which device answers at an address, for MMIO and for x86's ports.
//!
//! Devices are inserted before the first vCPU runs; from then on the bus is shared and only read, so finding a device takes no lock. What
//! a vCPU then waits for is the device's own lock, and a [`SharedBusDevice`] can answer without one where that matters.
//!
//! The guest chooses address and width freely: an access belongs to a device only if it lies in the device's range as a whole.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;

/// A device behind registers. Called by vCPU threads, so it must not wait for anything.
pub trait BusDevice: Send {
    /// Reads `data.len()` bytes (1 to 8, any of them, at any alignment: it is the guest's choice) at `offset` from the device's base.
    /// What is not defined reads as zero.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Writes likewise. What is not defined is ignored.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// A device behind registers that does its own locking.
pub trait SharedBusDevice: Send + Sync {
    /// See [`BusDevice::read`].
    fn read(&self, offset: u64, data: &mut [u8]);
    /// See [`BusDevice::write`].
    fn write(&self, offset: u64, data: &[u8]);
}

/// A device behind a lock.
struct Locked(Arc<Mutex<dyn BusDevice>>);

impl SharedBusDevice for Locked {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write(offset, data);
    }
}

/// Why a device can't be put on a bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InsertError {
    /// No bytes.
    #[error("the range at {base:#x} is empty")]
    Empty {
        /// Where.
        base: u64,
    },
    /// Past the last address.
    #[error("{bytes:#x} bytes at {base:#x} end past the last address")]
    Wraps {
        /// Where.
        base: u64,
        /// How long.
        bytes: u64,
    },
    /// Another device answers there.
    #[error("{bytes:#x} bytes at {base:#x} overlap the device at {other:#x}")]
    Overlap {
        /// Where.
        base: u64,
        /// How long.
        bytes: u64,
        /// The other device's base.
        other: u64,
    },
}

struct Entry {
    base: u64,
    /// The last address that belongs to it: an exclusive end could not name the last address.
    last: u64,
    device: Box<dyn SharedBusDevice>,
}

struct Shared(Arc<dyn SharedBusDevice>);

impl SharedBusDevice for Shared {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.0.read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.0.write(offset, data);
    }
}

/// Address ranges and their devices.
#[derive(Default)]
pub struct Bus {
    /// In order of their bases; no two overlap.
    entries: Vec<Entry>,
    unclaimed: AtomicU64,
}

impl fmt::Debug for Bus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_list()
            .entries(self.entries.iter().map(|entry| entry.base..=entry.last))
            .finish()
    }
}

impl Bus {
    /// A bus without devices.
    #[must_use]
    pub fn new() -> Self {
        Bus::default()
    }

    /// Puts a device at `bytes` bytes from `base`.
    ///
    /// # Errors
    /// See [`InsertError`]; the bus is then as before.
    pub fn insert(&mut self, base: u64, bytes: u64, device: Arc<Mutex<dyn BusDevice>>) -> Result<(), InsertError> {
        self.place(base, bytes, Box::new(Locked(device)))
    }

    /// Puts a device that does its own locking at `bytes` bytes from `base`.
    ///
    /// # Errors
    /// See [`InsertError`]; the bus is then as before.
    pub fn insert_shared(
        &mut self,
        base: u64,
        bytes: u64,
        device: Arc<dyn SharedBusDevice>,
    ) -> Result<(), InsertError> {
        self.place(base, bytes, Box::new(Shared(device)))
    }

    fn place(&mut self, base: u64, bytes: u64, device: Box<dyn SharedBusDevice>) -> Result<(), InsertError> {
        let further = bytes.checked_sub(1).ok_or(InsertError::Empty { base })?;
        let last = base.checked_add(further).ok_or(InsertError::Wraps { base, bytes })?;
        let position = self.entries.partition_point(|entry| entry.last < base);
        if let Some(other) = self.entries.get(position).filter(|other| other.base <= last) {
            return Err(InsertError::Overlap {
                base,
                bytes,
                other: other.base,
            });
        }
        self.entries.insert(position, Entry { base, last, device });
        Ok(())
    }

    /// Finds the device of an access, and the access's offset in it.
    fn find(&self, address: u64, bytes: usize) -> Option<(&dyn SharedBusDevice, u64)> {
        let further = u64::try_from(bytes).ok()?.checked_sub(1)?;
        let last = address.checked_add(further)?;
        let position = self.entries.partition_point(|entry| entry.last < address);
        let entry = self.entries.get(position)?;
        (entry.base <= address && last <= entry.last).then(|| (&*entry.device, address.wrapping_sub(entry.base)))
    }

    /// Reads for a vCPU and returns whether a device answered. Where none does, all bits read as one, as on an idle bus: that is how
    /// kernels find out that a device is absent.
    ///
    /// `data` is one access, 1 to 8 bytes; x86's string instructions are so many accesses.
    pub fn read(&self, address: u64, data: &mut [u8]) -> bool {
        if let Some((device, offset)) = self.find(address, data.len()) {
            data.fill(0);
            device.read(offset, data);
            return true;
        }
        data.fill(0xff);
        self.unclaimed.fetch_add(1, Ordering::Relaxed);
        false
    }

    /// Writes for a vCPU and returns whether a device took it.
    pub fn write(&self, address: u64, data: &[u8]) -> bool {
        if let Some((device, offset)) = self.find(address, data.len()) {
            device.write(offset, data);
            return true;
        }
        self.unclaimed.fetch_add(1, Ordering::Relaxed);
        false
    }

    /// Reads for one of x86's string instructions (`rep ins`): the same port again and again, `width` bytes each time. KVM hands all of
    /// them over at once (`kvm_run.io`: `size` is the width, `count` how often).
    pub fn read_each(&self, address: u64, width: usize, data: &mut [u8]) {
        for element in data.chunks_mut(width.max(1)) {
            self.read(address, element);
        }
    }

    /// Writes for one of x86's string instructions (`rep outs`); see [`Bus::read_each`].
    pub fn write_each(&self, address: u64, width: usize, data: &[u8]) {
        for element in data.chunks(width.max(1)) {
            self.write(address, element);
        }
    }

    /// How many accesses no device answered.
    #[must_use]
    pub fn unclaimed(&self) -> u64 {
        self.unclaimed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Answers with its own number, and checks that accesses stay within it.
    struct Numbered {
        number: u8,
        bytes: u64,
        written: Vec<(u64, Vec<u8>)>,
    }

    impl BusDevice for Numbered {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            assert!(offset + data.len() as u64 <= self.bytes);
            data.fill(self.number);
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            assert!(offset + data.len() as u64 <= self.bytes);
            self.written.push((offset, data.to_vec()));
        }
    }

    fn numbered(number: u8, bytes: u64) -> Arc<Mutex<Numbered>> {
        Arc::new(Mutex::new(Numbered {
            number,
            bytes,
            written: Vec::new(),
        }))
    }

    #[test]
    fn accesses_reach_the_device_of_their_range() {
        let mut bus = Bus::new();
        let (first, second) = (numbered(1, 0x10), numbered(2, 0x20));
        bus.insert(0x2000, 0x20, second.clone()).unwrap();
        bus.insert(0x1000, 0x10, first.clone()).unwrap();
        let mut data = [0; 4];
        assert!(bus.read(0x100c, &mut data));
        assert_eq!(data, [1; 4]);
        assert!(bus.read(0x2000, &mut data));
        assert_eq!(data, [2; 4]);
        assert!(bus.write(0x201f, &[9]));
        assert_eq!(second.lock().unwrap().written, [(0x1f, vec![9])]);
        assert!(first.lock().unwrap().written.is_empty());
        assert_eq!(bus.unclaimed(), 0);
    }

    #[test]
    fn an_absent_device_reads_as_ones() {
        let mut bus = Bus::new();
        bus.insert(0x1000, 0x10, numbered(1, 0x10)).unwrap();
        let mut accesses = 0;
        for (address, bytes) in [
            (0xfff, 1),
            (0xffe, 4),
            (0x100d, 4),
            (0x1010, 8),
            (u64::MAX, 8),
            (0x1000, 0),
        ] {
            let mut data = vec![0; bytes];
            assert!(!bus.read(address, &mut data), "{address:#x}, {bytes}");
            assert_eq!(data, vec![0xff; bytes]);
            assert!(!bus.write(address, &data));
            accesses += 2;
        }
        assert_eq!(bus.unclaimed(), accesses);
    }

    #[test]
    fn a_string_instruction_is_so_many_accesses() {
        let mut bus = Bus::new();
        let device = numbered(7, 4);
        bus.insert(0x3f8, 4, device.clone()).unwrap();
        bus.write_each(0x3f8, 1, b"hello, world");
        bus.write_each(0x3f8, 2, b"abcde");
        bus.write_each(0x3f8, 0, b"x");
        let written = device.lock().unwrap().written.clone();
        let all: Vec<u8> = written
            .iter()
            .flat_map(|(offset, data)| {
                assert_eq!(*offset, 0);
                data.clone()
            })
            .collect();
        assert_eq!((written.len(), all), (12 + 3 + 1, b"hello, worldabcdex".to_vec()));
        let mut data = [0; 5000];
        bus.read_each(0x3fb, 1, &mut data);
        assert_eq!(data, [7; 5000]);
        bus.read_each(0x3fb, 2, &mut data);
        assert_eq!(data[..4999], [0xff; 4999]);
    }

    #[test]
    fn overlaps_are_refused() {
        let mut bus = Bus::new();
        bus.insert(0x1000, 0x1000, numbered(1, 0x1000)).unwrap();
        bus.insert(u64::MAX, 1, numbered(2, 1)).unwrap();
        for (base, bytes) in [
            (0x1000, 0x1000),
            (0, 0x1001),
            (0x1fff, 1),
            (0x1800, 0x10),
            (0x1fff, 0x1000),
        ] {
            let refused = bus.insert(base, bytes, numbered(3, bytes)).unwrap_err();
            assert_eq!(
                refused,
                InsertError::Overlap {
                    base,
                    bytes,
                    other: 0x1000
                }
            );
        }
        assert_eq!(
            bus.insert(5, 0, numbered(3, 0)).unwrap_err(),
            InsertError::Empty { base: 5 }
        );
        assert_eq!(
            bus.insert(u64::MAX, 2, numbered(3, 2)).unwrap_err(),
            InsertError::Wraps {
                base: u64::MAX,
                bytes: 2
            }
        );
        bus.insert(0x2000, 1, numbered(4, 1)).unwrap();
        bus.insert(0xfff, 1, numbered(5, 1)).unwrap();
    }

    proptest! {
        #[test]
        fn a_bus_finds_what_a_linear_search_finds(
            ranges in prop::collection::vec((0_u64..256, 1_u64..32), 0..20),
            accesses in prop::collection::vec((0_u64..300, 0_usize..9), 0..50),
        ) {
            let mut bus = Bus::new();
            let mut placed: Vec<(u64, u64, u8)> = Vec::new();
            for (number, (base, bytes)) in (0_u8..).zip(ranges) {
                let overlaps = placed.iter().any(|(other, length, _)| base < other + length && *other < base + bytes);
                prop_assert_eq!(bus.insert(base, bytes, numbered(number, bytes)).is_err(), overlaps);
                if !overlaps {
                    placed.push((base, bytes, number));
                }
            }
            for (address, bytes) in accesses {
                let expected = placed
                    .iter()
                    .find(|(base, length, _)| bytes > 0 && address >= *base && address + bytes as u64 <= base + length);
                let mut data = vec![0; bytes];
                let found = bus.read(address, &mut data);
                prop_assert_eq!(found, expected.is_some());
                if let Some((_, _, number)) = expected {
                    prop_assert_eq!(data, vec![*number; bytes]);
                }
            }
        }
    }
}
