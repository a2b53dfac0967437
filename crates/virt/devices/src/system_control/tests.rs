//! The system-control device as a guest uses and misuses it.

use std::sync::Arc;

use super::{MAGIC, SystemControl, SystemEvent, SystemEvents};
use crate::bus::BusDevice as _;

fn device() -> (SystemControl, Arc<SystemEvents>) {
    let events = Arc::new(SystemEvents::new().unwrap());
    (SystemControl::new(events.clone()), events)
}

#[test]
fn commands_become_events() {
    let (mut device, events) = device();
    device.write(0x8, &[1]);
    assert_eq!(events.take(), [SystemEvent::Ready]);
    device.write(0xc, &7_u32.to_le_bytes());
    device.write(0x8, &2_u32.to_le_bytes());
    assert_eq!(events.take(), [SystemEvent::Shutdown { code: 7 }]);
    device.write(0x8, &3_u16.to_le_bytes());
    assert_eq!(events.take(), [SystemEvent::Reboot]);
    device.write(0x8, &4_u32.to_le_bytes());
    assert_eq!(events.take(), [SystemEvent::Panic { reason: 7 }]);
    assert!(events.take().is_empty());
}

#[test]
fn the_registers_say_what_they_are() {
    let (mut device, _events) = device();
    let mut data = [0; 4];
    device.read(0, &mut data);
    assert_eq!(u32::from_le_bytes(data), MAGIC);
    device.read(4, &mut data);
    assert_eq!(u32::from_le_bytes(data), 1);
    device.read(8, &mut data);
    assert_eq!(data, [0; 4]);
}

#[test]
fn a_guest_that_repeats_itself_is_heard_once() {
    let (mut device, events) = device();
    for code in 0..10_000_u32 {
        device.write(0xc, &code.to_le_bytes());
        for command in [3, 2, 1, 4] {
            device.write(0x8, &[command]);
        }
    }
    assert_eq!(
        events.take(),
        [
            SystemEvent::Ready,
            SystemEvent::Panic { reason: 0 },
            SystemEvent::Shutdown { code: 0 },
            SystemEvent::Reboot
        ]
    );
}

#[test]
fn any_access_is_harmless() {
    let (mut device, events) = device();
    for offset in 0..0x20 {
        for width in 0..9 {
            let mut data = vec![0x55; width];
            device.write(offset, &data);
            device.read(offset, &mut data);
        }
    }
    assert!(events.take().is_empty());
    assert_eq!(device.save().argument, 0x5555_5555);
}

#[test]
fn the_argument_survives_a_snapshot() {
    let (mut device, _events) = device();
    device.write(0xc, &9_u32.to_le_bytes());
    let (mut restored, events) = self::device();
    restored.restore(device.save());
    restored.write(0x8, &[2]);
    assert_eq!(events.take(), [SystemEvent::Shutdown { code: 9 }]);
}
