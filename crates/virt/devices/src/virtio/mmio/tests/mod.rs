//! The transport with a driver that keeps the rules, and with accesses that don't.

mod hostile;
#[cfg(target_arch = "x86_64")]
mod kvm;
mod snapshot;

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use ringwall_arch::GuestRam;
use vm_memory::Bytes as _;

use super::driver::{MmioDriver, offsets};
use super::{MmioTransport, MmioWindow};
use crate::bus::SharedBusDevice as _;
use crate::virtio::testing::{Buffer, DriverQueue, Used, ram};
use crate::virtio::{ActivateError, DeviceError, Fault, RestoreError, Session, VirtioDevice};

/// What the test sees of a device that the transport owns.
#[derive(Debug, Default)]
struct Seen {
    activated: AtomicU32,
    reset: AtomicU32,
}

/// Answers each chain with how many bytes it could read. What else it does depends on the first byte.
#[derive(Debug)]
struct Counter {
    seen: Arc<Seen>,
    configuration: [u8; 8],
    /// Takes chains, and answers none until it is quiesced or restored.
    held: Vec<u16>,
    refuses: bool,
}

/// A feature that the device offers.
const FEATURE: u64 = 1 << 5;

impl VirtioDevice for Counter {
    fn id(&self) -> u32 {
        42
    }
    fn name(&self) -> &str {
        "counter"
    }
    fn queue_sizes(&self) -> &[u16] {
        &[8, 16]
    }
    fn features(&self) -> u64 {
        FEATURE
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        for (place, byte) in (offset..).zip(data) {
            *byte = self
                .configuration
                .get(usize::try_from(place).unwrap())
                .copied()
                .unwrap_or(0);
        }
    }
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        for (place, byte) in (offset..).zip(data) {
            if let Some(own) = self.configuration.get_mut(usize::try_from(place).unwrap()) {
                *own = *byte;
            }
        }
    }
    fn activate(&mut self, _session: &mut Session) -> Result<(), ActivateError> {
        self.seen.activated.fetch_add(1, Ordering::SeqCst);
        if self.refuses {
            return Err(ActivateError {
                what: "a test",
                source: None,
            });
        }
        Ok(())
    }
    fn reset(&mut self) {
        self.held.clear();
        self.seen.reset.fetch_add(1, Ordering::SeqCst);
    }
    fn notified(&mut self, queue: u16, session: &mut Session) -> Result<(), DeviceError> {
        let index = usize::from(queue);
        while let Some(chain) = session.queues[index].pop(&session.memory)? {
            let first: u8 = match chain.readable.first() {
                Some(segment) => session.memory.read_obj(segment.address).unwrap(),
                None => 0,
            };
            match first {
                b'h' => self.held.push(chain.head),
                b'g' => {
                    return Err(Fault::Request {
                        queue,
                        what: "asked to",
                    }
                    .into());
                }
                b'e' => {
                    return Err(DeviceError::Host {
                        what: "a test",
                        source: io::ErrorKind::Other.into(),
                    });
                }
                _ => {
                    let bytes = u32::try_from(chain.readable_bytes()).unwrap();
                    session.queues[index].add_used(&session.memory, chain.head, bytes)?;
                }
            }
        }
        session.signal(queue)
    }
    fn save(&self) -> serde_json::Value {
        serde_json::json!({ "held": self.held })
    }
    fn restore(&mut self, state: serde_json::Value) -> Result<(), RestoreError> {
        self.held = serde_json::from_value(state["held"].clone())?;
        Ok(())
    }
}

struct Rig {
    memory: GuestRam,
    transport: Arc<Mutex<MmioTransport>>,
    window: MmioWindow,
    seen: Arc<Seen>,
}

const MEMORY_BYTES: usize = 0x20000;

impl Rig {
    fn new() -> Self {
        Rig::with(ram(MEMORY_BYTES), false)
    }

    fn with(memory: GuestRam, refuses: bool) -> Self {
        let seen = Arc::new(Seen::default());
        let device = Counter {
            seen: seen.clone(),
            configuration: *b"abcdefgh",
            held: Vec::new(),
            refuses,
        };
        let transport = MmioTransport::new(Box::new(device), memory.clone()).unwrap();
        let transport = Arc::new(Mutex::new(transport));
        Rig {
            window: MmioWindow::new(&transport),
            memory,
            transport,
            seen,
        }
    }

    fn driver(&self) -> MmioDriver<'_> {
        MmioDriver::new(&self.window)
    }

    fn up(&self) -> Vec<DriverQueue> {
        self.driver().bring_up(&self.memory, 0x1000, 0)
    }

    /// What the VMM's loop does for the events that are readable.
    fn turn(&self) {
        let mut transport = self.transport.lock().unwrap();
        for number in 0..2_u16 {
            if transport.queue_events()[usize::from(number)].read().is_ok() {
                transport.notified(number);
            }
        }
    }

    fn interrupted(&self) -> bool {
        self.transport.lock().unwrap().interrupt_event().read().is_ok()
    }

    fn submit(&self, queue: &mut DriverQueue, bytes: &[u8]) -> u16 {
        self.memory.write_slice(bytes, vm_memory::GuestAddress(0x8000)).unwrap();
        queue.add(&[Buffer::readable(0x8000, u32::try_from(bytes.len()).unwrap())])
    }
}

#[test]
fn a_driver_brings_a_device_up_and_uses_it() {
    let rig = Rig::new();
    let driver = rig.driver();
    let identity = [0x0, 0x4, 0x8].map(|offset| driver.read(offset));
    assert_eq!(identity, [u32::from_le_bytes(*b"virt"), 2, 42]);
    assert_eq!(driver.features(), FEATURE | 1 << 29 | 1 << 32);
    let mut queues = rig.up();
    assert!(rig.transport.lock().unwrap().is_active());
    assert!(rig.transport.lock().unwrap().take_change());
    for round in 0..50 {
        let queue = &mut queues[1];
        queue.set_used_event(queue.used_index());
        let head = rig.submit(queue, b"xyz");
        driver.write(offsets::NOTIFY, 1);
        rig.turn();
        let answer = Used {
            head: head.into(),
            written: 3,
        };
        assert_eq!(queue.take_used(), [answer], "{round}");
        assert!(rig.interrupted());
        assert_eq!(driver.read(offsets::INTERRUPT_STATUS), 1);
        driver.write(offsets::INTERRUPT_ACKNOWLEDGE, 1);
        assert_eq!(driver.read(offsets::INTERRUPT_STATUS), 0);
    }
}

#[test]
fn features_that_are_not_on_offer_are_not_agreed_on() {
    let rig = Rig::new();
    for features in [1 << 32 | 1 << 6, FEATURE, 0, u64::MAX, 1 << 32 | 1 << 63] {
        assert!(!rig.driver().negotiate(features), "{features:#x}");
        assert_eq!(rig.driver().read(offsets::STATUS), 3);
        // And what would come later doesn't come either.
        rig.driver().write(offsets::STATUS, 0xf);
        assert_eq!(rig.driver().read(offsets::STATUS), 3);
    }
    assert!(rig.driver().negotiate(1 << 32));
    // Too late for others.
    rig.driver().write(offsets::DRIVER_FEATURES, u32::MAX);
    rig.driver().write(offsets::STATUS, 0xf);
    let mut transport = rig.transport.lock().unwrap();
    let features = transport.with_device::<Counter, _>(|_, session| Ok(session.map(|session| session.features)));
    assert_eq!(features.unwrap().unwrap(), Some(1 << 32));
}

#[test]
fn queues_are_configured_only_when_that_is_legal() {
    let rig = Rig::new();
    let driver = rig.driver();
    let queue = DriverQueue::new(&rig.memory, 0x1000, 8);
    // Before features are agreed on.
    assert!(!driver.set_up(0, &queue));
    assert!(driver.negotiate(driver.features()));
    // No such queue.
    assert!(!driver.set_up(2, &queue));
    assert!(!driver.set_up(u32::MAX, &queue));
    assert_eq!(driver.read(offsets::QUEUE_SIZE_MAX), 0);
    assert!(driver.set_up(0, &queue));
    // Ready: nothing changes any more.
    for (offset, value) in [
        (offsets::QUEUE_SIZE, 4),
        (offsets::RINGS[0], 0x4000),
        (offsets::RINGS[2] + 4, 1),
    ] {
        driver.write(offset, value);
    }
    let record = rig.transport.lock().unwrap().save().queues[0];
    assert_eq!(
        (record.size, record.descriptors, record.used),
        (8, queue.table, queue.used)
    );
    // Sizes that can't be.
    driver.write(offsets::QUEUE_SELECT, 1);
    for size in [0, 3, 17, 32, 0x1_0008, u32::MAX] {
        driver.write(offsets::QUEUE_SIZE, size);
        assert_eq!(rig.transport.lock().unwrap().save().queues[1].size, 16, "{size}");
    }
}

#[test]
fn rings_that_are_misaligned_or_not_in_memory_are_refused() {
    let end = MEMORY_BYTES as u64;
    for (ring, address) in [
        (0, 0x1008),
        (1, 0x1001),
        (2, 0x1002),
        (0, end),
        (0, end - 64),
        (1, end - 8),
        (2, end - 16),
        (0, !15_u64),
        (1, !15_u64),
        (2, 1 << 40),
    ] {
        let rig = Rig::new();
        let driver = rig.driver();
        assert!(driver.negotiate(driver.features()));
        let mut queue = DriverQueue::new(&rig.memory, 0x1000, 8);
        *[&mut queue.table, &mut queue.available, &mut queue.used][ring] = address;
        let _ready = driver.set_up(0, &queue);
        assert_eq!(driver.read(offsets::STATUS) & 64, 64, "{ring} at {address:#x}");
        driver.write(offsets::STATUS, 0xf);
        assert!(!rig.transport.lock().unwrap().is_active());
        // A reset helps.
        drop(rig.up());
        assert!(rig.transport.lock().unwrap().is_active());
    }
}

#[test]
fn a_reset_comes_at_any_time() {
    let rig = Rig::new();
    for round in 1..=3 {
        let mut queues = rig.up();
        rig.submit(&mut queues[0], b"h");
        rig.driver().write(offsets::NOTIFY, 0);
        rig.turn();
        rig.driver().write(offsets::NOTIFY, 1);
        rig.driver().write(offsets::STATUS, 0);
        assert_eq!(rig.driver().read(offsets::STATUS), 0);
        assert_eq!(rig.driver().read(offsets::INTERRUPT_STATUS), 0);
        assert_eq!(rig.driver().read(offsets::QUEUE_READY), 0);
        let transport = rig.transport.lock().unwrap();
        assert!(!transport.is_active());
        // The notification of before is gone.
        assert!(transport.queue_events()[1].read().is_err());
        assert_eq!(rig.seen.activated.load(Ordering::SeqCst), round);
        assert_eq!(transport.metrics().resets.load(Ordering::SeqCst), u64::from(round));
    }
}

#[test]
fn a_fault_of_the_driver_needs_a_reset() {
    let rig = Rig::new();
    let mut queues = rig.up();
    rig.submit(&mut queues[0], b"g");
    rig.driver().write(offsets::NOTIFY, 0);
    rig.turn();
    assert_eq!(rig.driver().read(offsets::STATUS), 0x4f);
    assert_eq!(rig.driver().read(offsets::INTERRUPT_STATUS), 2);
    assert!(rig.interrupted());
    assert_eq!(
        rig.transport
            .lock()
            .unwrap()
            .metrics()
            .guest_faults
            .load(Ordering::SeqCst),
        1
    );
    // Not called any more.
    rig.submit(&mut queues[0], b"x");
    rig.driver().write(offsets::NOTIFY, 0);
    rig.turn();
    assert!(queues[0].take_used().is_empty());
    assert!(rig.transport.lock().unwrap().sources().is_empty());
    let mut queues = rig.up();
    rig.submit(&mut queues[0], b"x");
    rig.driver().write(offsets::NOTIFY, 0);
    rig.turn();
    assert_eq!(queues[0].take_used().len(), 1);
}

#[test]
fn a_failure_of_the_host_is_counted_and_the_device_goes_on() {
    let rig = Rig::new();
    let mut queues = rig.up();
    rig.submit(&mut queues[0], b"e");
    rig.transport.lock().unwrap().notified(0);
    rig.submit(&mut queues[0], b"x");
    rig.transport.lock().unwrap().notified(0);
    assert_eq!(rig.driver().read(offsets::STATUS), 0xf);
    assert_eq!(queues[0].take_used().len(), 1);
    assert_eq!(
        rig.transport
            .lock()
            .unwrap()
            .metrics()
            .host_failures
            .load(Ordering::SeqCst),
        1
    );
}

#[test]
fn a_driver_that_gives_up_takes_its_memory_back() {
    let rig = Rig::new();
    drop(rig.up());
    let resets = rig.seen.reset.load(Ordering::SeqCst);
    rig.driver().write(offsets::STATUS, 0x8f);
    assert_eq!(rig.driver().read(offsets::STATUS), 0x8f);
    assert_eq!(rig.seen.reset.load(Ordering::SeqCst), resets + 1);
    assert!(!rig.transport.lock().unwrap().is_active());
}

#[test]
fn a_device_that_can_not_be_activated_says_so() {
    let rig = Rig::with(ram(MEMORY_BYTES), true);
    let driver = rig.driver();
    assert!(driver.negotiate(driver.features()));
    driver.write(offsets::STATUS, 0xf);
    assert_eq!(driver.read(offsets::STATUS), 0x4f);
    assert_eq!(driver.read(offsets::INTERRUPT_STATUS), 2);
    assert!(!rig.transport.lock().unwrap().is_active());
}

#[test]
fn the_configuration_space_is_read_and_written_in_any_width() {
    let rig = Rig::new();
    let mut data = [0; 8];
    rig.window.read(0x100, &mut data);
    assert_eq!(data, *b"abcdefgh");
    let mut data = [0; 2];
    rig.window.read(0x107, &mut data);
    assert_eq!(data, *b"h\0");
    // Not before there is a driver.
    rig.window.write(0x100, b"X");
    rig.driver().write(offsets::STATUS, 1);
    rig.driver().write(offsets::STATUS, 3);
    rig.window.write(0x101, b"YZ");
    let mut data = [0; 4];
    rig.window.read(0x100, &mut data);
    assert_eq!(data, *b"aYZd");
}

#[test]
fn a_change_of_the_configuration_is_told_and_counted() {
    let rig = Rig::new();
    drop(rig.up());
    let before = rig.driver().read(offsets::GENERATION);
    let mut transport = rig.transport.lock().unwrap();
    let changed = transport.with_device(|device: &mut Counter, session| {
        device.configuration[0] = b'!';
        session.unwrap().signal_configuration();
        Ok(())
    });
    changed.unwrap().unwrap();
    let wrong = transport.with_device(|_: &mut crate::virtio::rng::Rng, _| Ok(()));
    assert!(wrong.is_none());
    drop(transport);
    assert_eq!(rig.driver().read(offsets::GENERATION), before + 1);
    assert_eq!(rig.driver().read(offsets::INTERRUPT_STATUS), 2);
}
