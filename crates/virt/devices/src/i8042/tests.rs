//! The controller as Linux's driver talks to it, and as nobody does.

use std::sync::Arc;

use proptest::prelude::*;

use super::{I8042, PressError};
use crate::bus::BusDevice as _;
use crate::system_control::{SystemEvent, SystemEvents};

fn controller() -> (I8042, Arc<SystemEvents>) {
    let events = Arc::new(SystemEvents::new().unwrap());
    (I8042::new(events.clone()).unwrap(), events)
}

fn read(device: &mut I8042, offset: u64) -> u8 {
    let mut data = [0xee];
    device.read(offset, &mut data);
    data[0]
}

fn read_all(device: &mut I8042) -> Vec<u8> {
    let mut bytes = Vec::new();
    while read(device, 4) & 1 != 0 {
        bytes.push(read(device, 0));
    }
    bytes
}

fn interrupts(device: &I8042) -> u64 {
    device.interrupt_event().read().unwrap_or(0)
}

#[test]
fn a_pulse_on_the_reset_line_reboots() {
    for command in [0xfe, 0xf0] {
        let (mut device, events) = controller();
        device.write(4, &[command]);
        assert_eq!(events.take(), [SystemEvent::Reboot], "{command:#x}");
    }
    let (mut device, events) = controller();
    device.write(4, &[0xff]);
    device.write(0, &[0xfe]);
    assert!(events.take().is_empty());
    device.write(4, &[0xd1]);
    device.write(0, &[0xfe]);
    assert_eq!(events.take(), [SystemEvent::Reboot]);
}

#[test]
fn a_driver_finds_a_controller_and_a_keyboard() {
    let (mut device, _events) = controller();
    type Row = (&'static [(u64, u8)], &'static [u8]);
    let table: [Row; 8] = [
        (&[(4, 0xaa)], &[0x55]),
        (&[(4, 0xab)], &[0x00]),
        (&[(4, 0x20)], &[0x05]),
        (&[(4, 0x60), (0, 0x74), (4, 0x20)], &[0x14]),
        (&[(4, 0xae), (4, 0x20)], &[0x04]),
        (&[(0, 0xf2)], &[0xfa, 0xab, 0x83]),
        (&[(0, 0xff)], &[0xfa, 0xaa]),
        (&[(0, 0xed), (0, 0xf2)], &[0xfa, 0xfa]),
    ];
    for (writes, expected) in table {
        for (offset, value) in writes {
            device.write(*offset, &[*value]);
        }
        assert_eq!(read_all(&mut device), expected, "{writes:x?}");
    }
    // There is no second port, and Linux's probe is told so without waiting: the byte does not come back as that port's (bit 5 of the
    // status), and its test fails.
    device.write(4, &[0xd3]);
    device.write(0, &[0x5a]);
    assert_eq!(read(&mut device, 4) & 0x21, 0x01);
    device.write(4, &[0xa9]);
    assert_eq!(read_all(&mut device), [0x01]);
    device.write(4, &[0xd4]);
    device.write(0, &[0xf2]);
    assert!(read_all(&mut device).is_empty());
}

#[test]
fn three_keys_are_pressed() {
    let (mut device, _events) = controller();
    assert_eq!(interrupts(&device), 0);
    device.press_control_alt_delete().unwrap();
    assert_eq!(interrupts(&device), 1);
    assert_eq!(device.press_control_alt_delete(), Err(PressError::Full));
    let bytes = read_all(&mut device);
    assert_eq!(bytes[..4], [0x14, 0x11, 0xe0, 0x71]);
    assert_eq!(bytes.len(), 11);
    // One for each byte but the first, whose interrupt was taken above.
    assert_eq!(interrupts(&device), 10);
    // Without the interrupt, or with the keyboard off, nobody would notice.
    for control in [0x04, 0x15] {
        device.write(4, &[0x60]);
        device.write(0, &[control]);
        assert_eq!(device.press_control_alt_delete(), Err(PressError::Deaf));
    }
}

#[test]
fn what_was_pressed_survives_a_snapshot() {
    let (mut device, _events) = controller();
    device.press_control_alt_delete().unwrap();
    assert_eq!(read(&mut device, 0), 0x14);
    device.write(4, &[0x60]);
    let saved = device.save();
    let (mut restored, _events) = controller();
    restored.restore(&saved);
    assert_eq!(restored.save(), saved);
    assert_eq!(interrupts(&restored), 1);
    restored.write(0, &[0x01]);
    assert_eq!(read_all(&mut restored).len(), 10);
}

proptest! {
    #[test]
    fn any_access_is_harmless(
        accesses in prop::collection::vec((0_u64..8, any::<bool>(), prop::collection::vec(any::<u8>(), 0..9)), 0..200),
    ) {
        let (mut device, _events) = controller();
        for (offset, is_write, mut data) in accesses {
            if is_write {
                device.write(offset, &data);
            } else {
                device.read(offset, &mut data);
            }
            prop_assert!(device.save().output.len() <= 16);
        }
        let saved = device.save();
        let (mut restored, _events) = controller();
        restored.restore(&saved);
        prop_assert_eq!(restored.save(), saved);
    }
}
