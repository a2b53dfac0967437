//! The serial port with a driver that reads and writes its registers.

use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::{RestoreSerialError, Serial, SerialState};
use crate::bus::BusDevice as _;

const DATA: u64 = 0;
const INTERRUPT_ENABLE: u64 = 1;
const INTERRUPT_IDENTIFICATION: u64 = 2;
const MODEM_CONTROL: u64 = 4;
const LINE_STATUS: u64 = 5;

/// Takes so many bytes and then would wait.
#[derive(Debug, Clone, Default)]
struct Console {
    bytes: Arc<Mutex<Vec<u8>>>,
    room: Arc<AtomicUsize>,
    is_broken: bool,
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let taken = bytes.len().min(self.room.load(Ordering::SeqCst));
        if taken == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.room.fetch_sub(taken, Ordering::SeqCst);
        self.bytes.lock().unwrap().extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn read(serial: &mut Serial, offset: u64) -> u8 {
    let mut data = [0];
    serial.read(offset, &mut data);
    data[0]
}

fn interrupted(serial: &Serial) -> bool {
    serial.interrupt_event().read().is_ok()
}

fn console(room: usize) -> (Serial, Console) {
    let console = Console::default();
    console.room.store(room, Ordering::SeqCst);
    (Serial::new(Box::new(console.clone())).unwrap(), console)
}

#[test]
fn what_the_guest_writes_reaches_the_console() {
    let (mut serial, console) = console(100);
    for byte in b"hello" {
        serial.write(DATA, &[*byte]);
    }
    assert_eq!(*console.bytes.lock().unwrap(), b"hello");
    assert_eq!(serial.metrics().written.load(Ordering::Relaxed), 5);
}

#[test]
fn a_console_that_would_wait_gets_its_bytes_later() {
    let (mut serial, console) = console(2);
    for byte in b"hello" {
        serial.write(DATA, &[*byte]);
    }
    assert_eq!(*console.bytes.lock().unwrap(), b"he");
    assert_eq!(serial.pending_output(), 3);
    assert!(serial.waiting_event().take(), "whoever drains it is not told");
    assert!(!serial.waiting_event().take());
    console.room.store(10, Ordering::SeqCst);
    serial.drain_output();
    assert_eq!(*console.bytes.lock().unwrap(), b"hello");
    assert_eq!(serial.pending_output(), 0);
    // And told again when it begins again, and only then.
    console.room.store(0, Ordering::SeqCst);
    serial.write(DATA, b"!");
    assert!(serial.waiting_event().take());
    serial.write(DATA, b"!");
    assert!(!serial.waiting_event().take());
}

#[test]
fn a_console_that_takes_nothing_costs_bounded_memory() {
    let (mut serial, _console) = console(0);
    for _ in 0..100_000 {
        serial.write(DATA, b"x");
    }
    assert_eq!(serial.pending_output(), 65_536);
    assert_eq!(serial.metrics().lost.load(Ordering::Relaxed), 100_000 - 65_536);
}

#[test]
fn a_broken_console_costs_nothing() {
    let broken = Console {
        is_broken: true,
        ..Console::default()
    };
    let mut serial = Serial::new(Box::new(broken)).unwrap();
    for _ in 0..10 {
        serial.write(DATA, b"x");
    }
    assert_eq!(serial.pending_output(), 0);
    assert_eq!(serial.metrics().lost.load(Ordering::Relaxed), 10);
}

#[test]
fn input_is_taken_only_while_there_is_room() {
    let (mut serial, _console) = console(0);
    serial.write(INTERRUPT_ENABLE, &[1]);
    let input: Vec<u8> = (0..200).collect();
    let mut sent = serial.push_input(&input);
    assert_eq!(sent, 64);
    assert!(interrupted(&serial));
    assert_eq!(serial.room(), 0);
    assert_eq!(serial.push_input(&input[sent..]), 0);
    let mut received = Vec::new();
    while received.len() < input.len() {
        while read(&mut serial, LINE_STATUS) & 1 != 0 {
            received.push(read(&mut serial, DATA));
        }
        // The room event comes, once, when the FIFO is empty.
        assert_eq!(serial.room_event().take(), sent < input.len(), "{sent}");
        sent += serial.push_input(&input[sent..]);
    }
    assert_eq!(received, input);
    assert_eq!(serial.metrics().read.load(Ordering::Relaxed), 200);
}

#[test]
fn nobody_is_woken_who_does_not_wait_for_room() {
    let (mut serial, _console) = console(0);
    for _ in 0..10 {
        assert_eq!(serial.push_input(b"x"), 1);
        assert_eq!(read(&mut serial, DATA), b'x');
    }
    assert!(!serial.room_event().take());
}

#[test]
fn input_waits_while_the_port_is_looped() {
    let (mut serial, _console) = console(0);
    serial.write(MODEM_CONTROL, &[0x10]);
    assert_eq!(serial.push_input(b"x"), 0);
    assert!(!serial.room_event().take());
    serial.write(MODEM_CONTROL, &[0]);
    assert!(serial.room_event().take());
    assert_eq!(serial.push_input(b"x"), 1);
}

/// Firecracker's bug: the interrupt that announced the input was on its way when the snapshot was taken.
#[test]
fn a_restored_port_is_not_stuck() {
    let (mut serial, _console) = console(0);
    serial.write(INTERRUPT_ENABLE, &[1]);
    serial.push_input(b"ab");
    // The guest acknowledges the interrupt, and is stopped before it reads a byte.
    assert_eq!(read(&mut serial, INTERRUPT_IDENTIFICATION) & 0xf, 4);
    let state = serial.save();
    assert_eq!(state.interrupt_identification, 1);

    let mut restored = Serial::new(Box::new(io::sink())).unwrap();
    assert!(!interrupted(&restored));
    restored.restore(state).unwrap();
    assert!(interrupted(&restored));
    assert_eq!(read(&mut restored, INTERRUPT_IDENTIFICATION) & 0xf, 4);
    assert_eq!(read(&mut restored, LINE_STATUS) & 1, 1);
    assert_eq!([read(&mut restored, DATA), read(&mut restored, DATA)], *b"ab");
    // And it goes on.
    assert_eq!(restored.push_input(b"c"), 1);
    assert!(interrupted(&restored));
}

#[test]
fn a_restored_transmitter_is_not_stuck() {
    let (mut serial, _console) = console(100);
    serial.write(INTERRUPT_ENABLE, &[2]);
    assert_eq!(read(&mut serial, INTERRUPT_IDENTIFICATION) & 0xf, 2);
    let mut state = serial.save();
    state.line_status = 0;
    let mut restored = Serial::new(Box::new(io::sink())).unwrap();
    restored.restore(state).unwrap();
    assert!(interrupted(&restored));
    assert_eq!(read(&mut restored, INTERRUPT_IDENTIFICATION) & 0xf, 2);
    assert_eq!(read(&mut restored, LINE_STATUS), 0x60);
}

#[test]
fn a_saved_port_with_too_much_input_is_refused() {
    let (serial, _console) = console(0);
    let mut state = serial.save();
    state.input = vec![0; 65];
    let mut restored = Serial::new(Box::new(io::sink())).unwrap();
    assert!(matches!(
        restored.restore(state),
        Err(RestoreSerialError::TooMuchInput { bytes: 65 })
    ));
}

#[test]
fn the_state_survives_its_file_format() {
    let (mut serial, _console) = console(0);
    serial.push_input(b"xyz");
    let state = serial.save();
    let text = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<SerialState>(&text).unwrap(), state);
}

proptest! {
    #[test]
    fn any_access_is_harmless(
        accesses in prop::collection::vec((0_u64..0x1010, any::<bool>(), prop::collection::vec(any::<u8>(), 0..9)), 0..200),
        input in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let (mut serial, _console) = console(10);
        for (offset, is_write, mut data) in accesses {
            if is_write {
                serial.write(offset, &data);
            } else {
                serial.read(offset, &mut data);
            }
            serial.push_input(&input);
        }
        let state = serial.save();
        prop_assert!(state.input.len() <= 64);
        Serial::new(Box::new(io::sink())).unwrap().restore(state).unwrap();
    }
}
