//! The driver's side of a device, for tests: guest memory, rings laid out in it, and a driver that makes chains available, notifies the
//! device and collects what came back.
//!
//! ```text
//! Harness::new(device, memory_bytes)   -> rings for each queue, features negotiated, device activated
//! harness.request(queue, &[b"in"], &[16]) -> what the device wrote, per writable buffer, and the used length
//! harness.queue(n).add(..) / publish_raw(..) / descriptor(..)  -> anything that a hostile driver could do
//! ```
//!
//! Never used by the devices themselves. It panics on misuse by a test.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ringwall_arch::GuestRam;
use rustix::mm::{MapFlags, ProtFlags};
use virtio_queue::{Queue, QueueT as _};
use vm_memory::bitmap::AtomicBitmap;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{Bytes as _, GuestAddress, GuestRegionMmap};

use super::device::{DeviceError, Session, VirtioDevice};
use super::queue::VirtQueue;
use crate::interrupt::{Cause, Interrupt};

/// Flags of a descriptor (VIRTIO 1.2 §2.7.5).
pub const NEXT: u16 = 1;
/// The device writes the buffer.
pub const WRITE: u16 = 2;
/// The buffer holds a table of descriptors.
pub const INDIRECT: u16 = 4;
/// Bytes of a descriptor.
pub const DESCRIPTOR_BYTES: u64 = 16;

/// Guest memory of `bytes` from address 0.
///
/// # Panics
/// If it can't be mapped.
#[must_use]
pub fn ram(bytes: usize) -> GuestRam {
    ram_at(&[(0, bytes)], false)
}

/// Guest memory of these regions (address and bytes), private and anonymous, on request with a log of what the device writes.
///
/// # Panics
/// If it can't be mapped, or regions overlap.
#[must_use]
pub fn ram_at(regions: &[(u64, usize)], tracked: bool) -> GuestRam {
    let page = NonZeroUsize::new(4096).expect("not zero");
    let regions = regions.iter().map(|(base, bytes)| {
        let bitmap = tracked.then(|| AtomicBitmap::new(*bytes, page));
        let mapping = MmapRegionBuilder::new_with_bitmap(*bytes, bitmap)
            .with_mmap_prot(bits(ProtFlags::READ.bits() | ProtFlags::WRITE.bits()))
            .with_mmap_flags(bits(MapFlags::PRIVATE.bits() | MapFlags::NORESERVE.bits()) | MAP_ANONYMOUS)
            .build()
            .expect("guest memory");
        GuestRegionMmap::new(mapping, GuestAddress(*base)).expect("a region within the address space")
    });
    GuestRam::from_regions(regions.collect()).expect("regions in order")
}

/// `mmap(2)`'s MAP_ANONYMOUS, which rustix has no flag for: it has a call of its own (asm-generic/mman-common.h; all our architectures).
const MAP_ANONYMOUS: i32 = 0x20;

fn bits(flags: u32) -> i32 {
    i32::try_from(flags).expect("a few low bits")
}

/// Counts interrupts.
#[derive(Debug, Default)]
pub struct CountingInterrupt {
    queues: Mutex<BTreeMap<u16, u64>>,
    configuration: AtomicU64,
}

impl CountingInterrupt {
    /// How often a queue's interrupt was raised.
    #[must_use]
    pub fn of_queue(&self, queue: u16) -> u64 {
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.get(&queue).copied().unwrap_or(0)
    }

    /// How often a change of the configuration was told.
    #[must_use]
    pub fn of_configuration(&self) -> u64 {
        self.configuration.load(Ordering::SeqCst)
    }
}

impl Interrupt for CountingInterrupt {
    fn trigger(&self, cause: Cause) -> std::io::Result<()> {
        match cause {
            Cause::Queue(queue) => {
                let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
                *queues.entry(queue).or_default() += 1;
            }
            Cause::Configuration => {
                self.configuration.fetch_add(1, Ordering::SeqCst);
            }
        }
        Ok(())
    }
}

/// One buffer of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    /// Where it is.
    pub address: u64,
    /// In bytes.
    pub bytes: u32,
    /// The device writes it.
    pub writable: bool,
}

impl Buffer {
    /// A buffer that the device reads.
    #[must_use]
    pub fn readable(address: u64, bytes: u32) -> Self {
        Buffer {
            address,
            bytes,
            writable: false,
        }
    }

    /// A buffer that the device writes.
    #[must_use]
    pub fn writable(address: u64, bytes: u32) -> Self {
        Buffer {
            address,
            bytes,
            writable: true,
        }
    }
}

/// An element of the used ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// The chain's head.
    pub head: u32,
    /// Bytes written, as the device says.
    pub written: u32,
}

/// The driver's side of one queue.
#[derive(Debug)]
pub struct DriverQueue {
    memory: GuestRam,
    size: u16,
    /// Where the descriptor table is.
    pub table: u64,
    /// Where the available ring is.
    pub available: u64,
    /// Where the used ring is.
    pub used: u64,
    next_descriptor: u16,
    available_index: u16,
    seen_used: u16,
}

impl DriverQueue {
    /// Bytes that the rings of a queue take, from an address that is a multiple of 16.
    #[must_use]
    pub fn footprint(size: u16) -> u64 {
        let size = u64::from(size);
        let available = DESCRIPTOR_BYTES * size + 6 + 2 * size;
        available.next_multiple_of(16) + (6 + 8 * size).next_multiple_of(16)
    }

    /// Lays out rings at `base`, which must be a multiple of 16.
    #[must_use]
    pub fn new(memory: &GuestRam, base: u64, size: u16) -> Self {
        let available = base + DESCRIPTOR_BYTES * u64::from(size);
        DriverQueue {
            memory: memory.clone(),
            size,
            table: base,
            available,
            used: (available + 6 + 2 * u64::from(size)).next_multiple_of(16),
            next_descriptor: 0,
            available_index: 0,
            seen_used: 0,
        }
    }

    /// Places in the rings.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Begins at other indices than 0, to test that they wrap. Call before [`DriverQueue::device_side`]'s queue is used.
    pub fn start_at(&mut self, index: u16) {
        self.available_index = index;
        self.seen_used = index;
        self.set_available_index(index);
        self.store_u16(self.used + 2, index);
    }

    /// The device's side of this queue, ready.
    ///
    /// # Panics
    /// If the layout is not valid.
    #[must_use]
    pub fn device_side(&self, number: u16, event_index: bool) -> VirtQueue {
        VirtQueue::new(self.configured(event_index), number)
    }

    /// The queue as a transport would have configured it.
    ///
    /// # Panics
    /// If the layout is not valid.
    #[must_use]
    pub fn configured(&self, event_index: bool) -> Queue {
        let mut queue = Queue::new(self.size).expect("a power of two");
        queue
            .try_set_desc_table_address(GuestAddress(self.table))
            .expect("aligned");
        queue
            .try_set_avail_ring_address(GuestAddress(self.available))
            .expect("aligned");
        queue
            .try_set_used_ring_address(GuestAddress(self.used))
            .expect("aligned");
        queue.set_event_idx(event_index);
        queue.set_next_avail(self.available_index);
        queue.set_next_used(self.seen_used);
        queue.set_ready(true);
        queue
    }

    /// Writes a descriptor, whatever it says.
    ///
    /// # Panics
    /// If the table is not in memory.
    pub fn descriptor(&self, index: u16, address: u64, bytes: u32, flags: u16, next: u16) {
        let mut raw = [0_u8; 16];
        raw[..8].copy_from_slice(&address.to_le_bytes());
        raw[8..12].copy_from_slice(&bytes.to_le_bytes());
        raw[12..14].copy_from_slice(&flags.to_le_bytes());
        raw[14..].copy_from_slice(&next.to_le_bytes());
        let place = self.table + DESCRIPTOR_BYTES * u64::from(index);
        self.memory.write_slice(&raw, GuestAddress(place)).expect("the table");
    }

    /// Writes a chain into the next descriptors and makes it available. Returns its head. Descriptors are taken round and round; the
    /// test must not have more of them in flight than there are.
    ///
    /// # Panics
    /// If `buffers` is empty.
    pub fn add(&mut self, buffers: &[Buffer]) -> u16 {
        assert!(!buffers.is_empty(), "a chain has a descriptor");
        let head = self.next_descriptor % self.size;
        for (position, buffer) in buffers.iter().enumerate() {
            let index = self.next_descriptor % self.size;
            self.next_descriptor = (index + 1) % self.size;
            let more = if position + 1 < buffers.len() { NEXT } else { 0 };
            let direction = if buffer.writable { WRITE } else { 0 };
            self.descriptor(
                index,
                buffer.address,
                buffer.bytes,
                more | direction,
                self.next_descriptor,
            );
        }
        self.publish(head);
        head
    }

    /// Makes a chain available whose descriptors are written already, or any number that a hostile driver likes.
    pub fn publish(&mut self, head: u16) {
        let slot = u64::from(self.available_index % self.size);
        self.store_u16(self.available + 4 + 2 * slot, head);
        self.available_index = self.available_index.wrapping_add(1);
        self.set_available_index(self.available_index);
    }

    /// Sets the available ring's index, without adding anything.
    pub fn set_available_index(&self, index: u16) {
        self.store_u16(self.available + 2, index);
    }

    /// Sets the available ring's flags (1: no interrupts).
    pub fn set_available_flags(&self, flags: u16) {
        self.store_u16(self.available, flags);
    }

    /// Sets after which used element the driver wants an interrupt.
    pub fn set_used_event(&self, index: u16) {
        self.store_u16(self.available + 4 + 2 * u64::from(self.size), index);
    }

    /// After which available chain the device wants a notification, with the event index.
    #[must_use]
    pub fn available_event(&self) -> u16 {
        self.load_u16(self.used + 4 + 8 * u64::from(self.size))
    }

    /// The used ring's flags (1: no notifications).
    #[must_use]
    pub fn used_flags(&self) -> u16 {
        self.load_u16(self.used)
    }

    /// The used ring's index.
    #[must_use]
    pub fn used_index(&self) -> u16 {
        self.load_u16(self.used + 2)
    }

    /// What came back since the last call, in order.
    ///
    /// # Panics
    /// If the used ring is not in memory.
    pub fn take_used(&mut self) -> Vec<Used> {
        let end = self.used_index();
        let mut out = Vec::new();
        while self.seen_used != end {
            let slot = u64::from(self.seen_used % self.size);
            let place = self.used + 4 + 8 * slot;
            let read = |at: u64| -> u32 { self.memory.read_obj(GuestAddress(at)).expect("the used ring") };
            out.push(Used {
                head: u32::from_le(read(place)),
                written: u32::from_le(read(place + 4)),
            });
            self.seen_used = self.seen_used.wrapping_add(1);
        }
        out
    }

    fn store_u16(&self, address: u64, value: u16) {
        self.memory
            .write_obj(value.to_le(), GuestAddress(address))
            .expect("the rings are in memory");
    }

    fn load_u16(&self, address: u64) -> u16 {
        let raw: u16 = self
            .memory
            .read_obj(GuestAddress(address))
            .expect("the rings are in memory");
        u16::from_le(raw)
    }
}

/// An activated device and the driver that plays with it.
#[derive(Debug)]
pub struct Harness<D> {
    /// The device under test.
    pub device: D,
    /// What the transport would own.
    pub session: Session,
    /// The driver's sides, one for each queue.
    pub queues: Vec<DriverQueue>,
    /// Counts what the device signalled.
    pub interrupt: Arc<CountingInterrupt>,
    next_free: u64,
}

impl<D: VirtioDevice> Harness<D> {
    /// Activates a device with every feature that it offers, in so much memory.
    ///
    /// # Panics
    /// If the rings do not fit in the memory, or the device refuses.
    #[must_use]
    pub fn new(device: D, memory_bytes: usize) -> Self {
        let features = device.features();
        Self::with_features(device, memory_bytes, features)
    }

    /// Activates a device with these features. Bit 29 (`VIRTIO_F_RING_EVENT_IDX`) switches the event index on.
    ///
    /// # Panics
    /// If the rings do not fit in the memory, or the device refuses.
    #[must_use]
    pub fn with_features(device: D, memory_bytes: usize, features: u64) -> Self {
        Self::in_memory(device, ram(memory_bytes), features)
    }

    /// Likewise, in memory that the test has made. The rings and buffers are taken from address 0x1000 on.
    ///
    /// # Panics
    /// If the rings do not fit in the memory, or the device refuses.
    #[must_use]
    pub fn in_memory(mut device: D, memory: GuestRam, features: u64) -> Self {
        let event_index = features >> 29 & 1 == 1;
        let mut next_free = 0x1000_u64;
        let mut queues = Vec::new();
        let mut rings = Vec::new();
        for (number, size) in (0_u16..).zip(device.queue_sizes().to_vec()) {
            let queue = DriverQueue::new(&memory, next_free, size);
            next_free += DriverQueue::footprint(size);
            rings.push(queue.device_side(number, event_index));
            queues.push(queue);
        }
        let interrupt = Arc::new(CountingInterrupt::default());
        let mut session = Session {
            memory,
            queues: rings,
            features,
            interrupt: interrupt.clone(),
        };
        device.activate(&mut session).expect("activation");
        Harness {
            device,
            session,
            queues,
            interrupt,
            next_free,
        }
    }

    /// The driver's side of a queue.
    ///
    /// # Panics
    /// If there is no such queue.
    pub fn queue(&mut self, number: u16) -> &mut DriverQueue {
        self.queues.get_mut(usize::from(number)).expect("a queue of the device")
    }

    /// Takes memory for a buffer; never given back.
    pub fn allocate(&mut self, bytes: u64) -> u64 {
        let address = self.next_free.next_multiple_of(16);
        self.next_free = address + bytes;
        address
    }

    /// Puts bytes into guest memory and returns where.
    ///
    /// # Panics
    /// If the memory is used up.
    pub fn place(&mut self, bytes: &[u8]) -> u64 {
        let address = self.allocate(u64::try_from(bytes.len()).expect("a length"));
        self.session
            .memory
            .write_slice(bytes, GuestAddress(address))
            .expect("room in guest memory");
        address
    }

    /// Reads guest memory.
    ///
    /// # Panics
    /// If it is not there.
    #[must_use]
    pub fn read(&self, address: u64, bytes: usize) -> Vec<u8> {
        let mut out = vec![0; bytes];
        self.session
            .memory
            .read_slice(&mut out, GuestAddress(address))
            .expect("guest memory");
        out
    }

    /// Notifies the device of a queue.
    ///
    /// # Errors
    /// What the device says.
    pub fn notify(&mut self, queue: u16) -> Result<(), DeviceError> {
        self.device.notified(queue, &mut self.session)
    }

    /// Tells the device that one of its sources is readable.
    ///
    /// # Errors
    /// What the device says.
    pub fn ready(&mut self, token: u32) -> Result<(), DeviceError> {
        self.device.ready(token, &mut self.session)
    }

    /// Adds a chain with these contents to be read and these lengths to be written, without notifying. Returns the head, and the
    /// addresses of the writable buffers.
    pub fn submit(&mut self, queue: u16, readable: &[&[u8]], writable: &[u32]) -> (u16, Vec<u64>) {
        let mut buffers = Vec::new();
        for bytes in readable {
            let address = self.place(bytes);
            buffers.push(Buffer::readable(address, u32::try_from(bytes.len()).expect("a length")));
        }
        let mut places = Vec::new();
        for bytes in writable {
            let address = self.allocate(u64::from(*bytes));
            places.push(address);
            buffers.push(Buffer::writable(address, *bytes));
        }
        (self.queue(queue).add(&buffers), places)
    }

    /// Makes a request, notifies, and returns what the device wrote into each writable buffer, and the length it said.
    ///
    /// # Panics
    /// If the device fails, or does not answer at once with just this request.
    pub fn request(&mut self, queue: u16, readable: &[&[u8]], writable: &[u32]) -> (Vec<Vec<u8>>, u32) {
        let (head, places) = self.submit(queue, readable, writable);
        self.notify(queue).expect("the device");
        let used = self.queue(queue).take_used();
        assert_eq!(used.len(), 1, "one answer to one request: {used:?}");
        assert_eq!(used[0].head, u32::from(head), "the answer is to the request");
        let contents = places
            .iter()
            .zip(writable)
            .map(|(address, bytes)| self.read(*address, usize::try_from(*bytes).expect("a length")))
            .collect();
        (contents, used[0].written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::{ActivateError, RestoreError};

    /// Copies what it reads into what it may write.
    #[derive(Debug)]
    struct Echo;

    impl VirtioDevice for Echo {
        fn id(&self) -> u32 {
            42
        }
        fn name(&self) -> &str {
            "echo"
        }
        fn queue_sizes(&self) -> &[u16] {
            &[8]
        }
        fn features(&self) -> u64 {
            0
        }
        fn read_config(&self, _offset: u64, data: &mut [u8]) {
            data.fill(0);
        }
        fn activate(&mut self, _session: &mut Session) -> Result<(), ActivateError> {
            Ok(())
        }
        fn reset(&mut self) {}
        fn notified(&mut self, queue: u16, session: &mut Session) -> Result<(), DeviceError> {
            while let Some(chain) = session.queues[usize::from(queue)].pop(&session.memory)? {
                let from = chain.readable[0];
                let into = chain.writable[0];
                let mut bytes = vec![0; from.bytes.min(into.bytes) as usize];
                session.memory.read_slice(&mut bytes, from.address).unwrap();
                session.memory.write_slice(&bytes, into.address).unwrap();
                let written = u32::try_from(bytes.len()).unwrap();
                session.queues[usize::from(queue)].add_used(&session.memory, chain.head, written)?;
            }
            session.signal(queue)
        }
        fn save(&self) -> serde_json::Value {
            serde_json::Value::Null
        }
        fn restore(&mut self, _state: serde_json::Value) -> Result<(), RestoreError> {
            Ok(())
        }
    }

    #[test]
    fn a_request_is_answered() {
        let mut harness = Harness::new(Echo, 0x10000);
        for round in 0..100_u64 {
            let (written, length) = harness.request(0, &[b"hello"], &[8]);
            assert_eq!(written, [b"hello\0\0\0".to_vec()]);
            assert_eq!(length, 5);
            assert_eq!(harness.interrupt.of_queue(0), round + 1);
        }
    }

    #[test]
    fn writes_of_the_device_are_tracked_in_tracked_memory() {
        let memory = ram_at(&[(0, 0x10000), (0x10_0000, 0x1000)], true);
        let mut harness = Harness::in_memory(Echo, memory, 0);
        let (head, places) = harness.submit(0, &[b"x"], &[1]);
        harness.notify(0).unwrap();
        assert_eq!(
            harness.queue(0).take_used(),
            [Used {
                head: head.into(),
                written: 1
            }]
        );
        let region = vm_memory::GuestMemoryBackend::iter(&harness.session.memory)
            .next()
            .unwrap();
        let bitmap = region.get_mmap();
        let bitmap = bitmap.bitmap().as_ref().unwrap();
        assert!(bitmap.is_addr_set(usize::try_from(places[0]).unwrap()));
    }
}
