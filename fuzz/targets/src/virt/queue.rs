//! Rings and descriptor tables that say anything.

use ringwall_devices::virtio::testing::{DriverQueue, ram};
use vm_memory::{Bytes as _, GuestAddress};

use super::input::Input;

const MEMORY_BYTES: u16 = 0x4000;
/// Most of what a chain may name (`MAX_CHAIN_BYTES`).
const MOST_CHAIN_BYTES: u64 = 1 << 30;

/// A queue of a size that the first byte chooses; then memory is written, chains are taken and given back, in any order.
pub fn queue(data: &[u8]) {
    let mut input = Input::new(data);
    let memory = ram(MEMORY_BYTES.into());
    let choice = input.byte();
    let mut driver = DriverQueue::new(&memory, 0x1000, 1 << (choice & 7));
    driver.start_at(input.u16());
    let mut queue = driver.device_side(0, choice & 0x80 != 0);
    let mut held = Vec::new();
    for _ in 0..500 {
        if input.is_empty() {
            break;
        }
        match input.byte() % 8 {
            0 | 1 => {
                let address = u64::from(input.u16() % MEMORY_BYTES);
                let length = usize::from(input.byte() % 64);
                // Past the end of memory it is refused, as it would be a guest's fault.
                let _outside = memory.write_slice(input.take(length), GuestAddress(address));
            }
            2 => {
                let index = u16::from(input.byte()) % driver.size();
                driver.descriptor(
                    index,
                    input.u16().into(),
                    input.u16().into(),
                    input.byte().into(),
                    input.byte().into(),
                );
            }
            3 => driver.publish(input.byte().into()),
            4 => {
                if let Ok(Some(chain)) = queue.pop(&memory) {
                    assert!(chain.readable_bytes() + chain.writable_bytes() <= MOST_CHAIN_BYTES);
                    for segment in chain.readable.iter().chain(&chain.writable) {
                        assert!(segment.bytes > 0);
                        let end = segment.address.0 + u64::from(segment.bytes);
                        assert!(end <= MEMORY_BYTES.into(), "{segment:?} is memory");
                    }
                    assert!(chain.head < driver.size());
                    assert!(chain.readable.len() + chain.writable.len() <= driver.size().into());
                    held.push(chain.head);
                    assert!(held.len() <= driver.size().into(), "what is in flight is bounded");
                }
            }
            5 => {
                if let Some(head) = held.pop() {
                    let _broken = queue.add_used(&memory, head, input.u32());
                }
            }
            6 => {
                let _broken = queue.enable_notification(&memory);
                let _broken = queue.disable_notification(&memory);
            }
            _ => {
                let _broken = queue.needs_interrupt(&memory);
            }
        }
    }
}
