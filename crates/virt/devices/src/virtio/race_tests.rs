//! A guest with a second CPU, which rewrites rings, descriptors and registers while the devices work on them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use vm_memory::{Bytes as _, GuestAddress};

use super::VirtioDevice;
use super::balloon::{Balloon, BalloonOptions};
use super::mmio::driver::{MmioDriver, offsets};
use super::mmio::{MmioTransport, MmioWindow};
use super::rng::{HostEntropy, Rng};
use super::testing::{NEXT, WRITE, ram};

const MEMORY_BYTES: usize = 4 << 20;
/// Where the rings are, and how much of it is rewritten.
const RINGS: u64 = 0x1000;
const RINGS_BYTES: u64 = 0x4000;
/// How often the guest breaks the device and brings it up again, and how long a busy machine may take for that.
const ACTIVATIONS: u64 = 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// Numbers that look random (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn race(device: Box<dyn VirtioDevice>) {
    let memory = ram(MEMORY_BYTES);
    let transport = Arc::new(Mutex::new(MmioTransport::new(device, memory.clone()).unwrap()));
    let window = MmioWindow::new(&transport);
    let driver = MmioDriver::new(&window);
    let stop = AtomicBool::new(false);
    let until = Instant::now() + PATIENCE;
    let activations = || transport.lock().unwrap().metrics().activations.load(Ordering::Relaxed);
    thread::scope(|scope| {
        // Rewrites: sometimes a plausible descriptor, sometimes anything anywhere in the rings.
        scope.spawn(|| {
            let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
            while !stop.load(Ordering::Relaxed) {
                let number = numbers.next();
                let place = RINGS + number % RINGS_BYTES;
                if number >> 40 & 1 == 0 {
                    memory.write_obj(numbers.next(), GuestAddress(place)).unwrap();
                    continue;
                }
                let mut descriptor = [0_u8; 16];
                descriptor[..8].copy_from_slice(&(numbers.next() % (5 << 20)).to_le_bytes());
                descriptor[8..12].copy_from_slice(&[number.to_le_bytes()[3], 1, 0, 0]);
                let flags = u16::try_from(number >> 50 & 3).unwrap() & (NEXT | WRITE);
                descriptor[12..14].copy_from_slice(&flags.to_le_bytes());
                descriptor[14] = number.to_le_bytes()[2] & 63;
                memory.write_slice(&descriptor, GuestAddress(place & !15)).unwrap();
            }
        });
        // Notifies, and resets what has given up.
        scope.spawn(|| {
            let mut numbers = Numbers(0x2545_f491_4f6c_dd1d);
            while !stop.load(Ordering::Relaxed) {
                if driver.read(offsets::STATUS) != 0xf {
                    // The rings may be anything, but the device must come up with them.
                    drop(driver.bring_up(&memory, RINGS, numbers.next() & 1 << 29));
                }
                let queue = u32::try_from(numbers.next() % 5).unwrap();
                driver.write(offsets::NOTIFY, queue);
                driver.write(offsets::INTERRUPT_ACKNOWLEDGE, 3);
            }
        });
        // The VMM's thread.
        while activations() < ACTIVATIONS && Instant::now() < until {
            for queue in 0..4 {
                transport.lock().unwrap().notified(queue);
            }
            let tokens: Vec<u32> = {
                let transport = transport.lock().unwrap();
                transport.sources().iter().map(|source| source.token).collect()
            };
            for token in tokens {
                transport.lock().unwrap().ready(token);
            }
            // The lock is not fair, and the guest's turn must come.
            thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(activations() >= ACTIVATIONS, "only {} in time", activations());
}

#[test]
fn the_entropy_device_survives_a_racing_guest() {
    race(Box::new(Rng::new(Box::new(HostEntropy)).unwrap()));
}

#[test]
fn the_balloon_survives_a_racing_guest() {
    let options = BalloonOptions {
        target_mib: 1,
        deflate_on_oom: true,
        statistics_interval_s: 1,
        reporting: true,
    };
    race(Box::new(Balloon::new(options, MEMORY_BYTES as u64).unwrap()));
}
