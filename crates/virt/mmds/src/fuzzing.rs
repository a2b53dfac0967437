//! A guest that sends anything: what `fuzz/` and the corpus replay give to the service.
//!
//! Most random bytes would be no TCP segment of a connection, so the guest here knows where its connections stand, and is asked to lie by
//! so much.

#![cfg_attr(
    not(test),
    expect(clippy::arithmetic_side_effects, reason = "a fuzzer is to stop at an overflow")
)]

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ringwall_vmm_proto::mmds::DEFAULT_ADDRESS;
use ringwall_vmm_proto::{MmdsConfig, MmdsStore, MmdsVersion};

use crate::alarm::When;
use crate::frame::for_service;
use crate::service::Service;
use crate::stack::Stack;

/// What one input may do.
const MOST_STEPS: usize = 300;
/// What may wait for the guest (`link.rs`).
const MOST_FRAMES: usize = 64;
const PORTS: usize = 32;
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const SYN: u8 = 2;
const ACK: u8 = 16;
/// The connection's numbers in a frame for the guest: port, sequence number.
const PORT_AT: usize = 12 + 14 + 20 + 2;
const SEQUENCE_AT: usize = 12 + 14 + 20 + 4;

/// What the guest believes of a connection.
#[derive(Clone, Copy, Default)]
struct Believed {
    sequence: u32,
    theirs: u32,
}

struct Guest {
    stack: Stack,
    now: Instant,
    mtu: u16,
    believed: [Believed; PORTS],
}

/// Bytes from the front; zeros when there are no more.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, most: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }
}

/// Plays an input to a service.
///
/// # Panics
/// Something that a guest can make the service keep is not bounded, or it does not come to rest.
pub fn fuzz_frames(data: &[u8]) {
    let mut input = Input(data);
    let mut guest = Guest::new(input.byte());
    for _ in 0..MOST_STEPS {
        if input.0.is_empty() {
            break;
        }
        guest.step(&mut input);
    }
    guest.rest();
}

impl Guest {
    fn new(choice: u8) -> Self {
        let mut store = MmdsStore::new(1 << 16);
        let long = "x".repeat(20_000);
        let metadata = serde_json::json!({"a": {"b": "c", "d": [1, 2]}, "long": long});
        if let serde_json::Value::Object(metadata) = metadata {
            store.put(metadata).expect("it fits");
        }
        let version = if choice & 1 == 0 {
            MmdsVersion::V1
        } else {
            MmdsVersion::V2
        };
        let config = MmdsConfig {
            version,
            network_interfaces: Vec::new(),
            ipv4_address: DEFAULT_ADDRESS,
            imds_compat: choice & 2 != 0,
        };
        let mtu = if choice & 4 == 0 { 1500 } else { 68 };
        let now = Instant::now();
        let service = Service::new(&config, Arc::new(Mutex::new(store))).expect("random numbers");
        Self {
            stack: Stack::new(Arc::new(service), mtu, now).expect("random numbers"),
            now,
            mtu,
            believed: [Believed::default(); PORTS],
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let choice = input.byte();
        match choice & 7 {
            0 => {
                let length = input.u16().into();
                let frame = input.take(length);
                self.send(frame);
            }
            1 => {
                // To the service, but of any protocol.
                let length = input.byte().into();
                let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 2];
                packet.extend(DEFAULT_ADDRESS.octets());
                packet.extend(input.take(length));
                if let Some(place) = packet.get_mut(3) {
                    *place = input.byte();
                }
                self.send(&framed(&packet));
            }
            2 => self.shake_hands(input.byte()),
            3 | 4 => {
                // Something like a request.
                let port = input.byte();
                let length = usize::from(input.byte());
                let payload = input.take(length);
                self.segment(port, ACK | 8, 0, 0, 0xffff, 5, payload);
                self.believed_mut(port).sequence = self.believed(port).sequence.wrapping_add(len32(payload));
            }
            5 => {
                let (port, flags) = (input.byte(), input.byte());
                // A little wrong, or as far from right as numbers go round.
                let far = if choice & 8 == 0 { 0 } else { 24 };
                let (lie, lie2) = (input.byte().cast_signed(), input.byte().cast_signed());
                let (lie, lie2) = (i32::from(lie) << far, i32::from(lie2) << far);
                let (window, words) = (input.u16(), input.byte());
                let length = input.byte().into();
                let payload = input.take(length);
                self.segment(port, flags, lie, lie2, window, words & 15, payload);
            }
            6 => self.take(input.byte().into()),
            _ => self.wait(Duration::from_millis(u64::from(input.byte()).saturating_mul(100))),
        }
    }

    fn believed(&self, port: u8) -> Believed {
        self.believed
            .get(usize::from(port) % PORTS)
            .copied()
            .unwrap_or_default()
    }

    fn believed_mut(&mut self, port: u8) -> &mut Believed {
        let index = usize::from(port) % PORTS;
        self.believed.get_mut(index).expect("it is within")
    }

    fn shake_hands(&mut self, port: u8) {
        self.segment(port, SYN, 0, 0, 0xffff, 5, &[]);
        self.believed_mut(port).sequence = self.believed(port).sequence.wrapping_add(1);
        self.take(MOST_FRAMES);
        self.segment(port, ACK, 0, 0, 0xffff, 5, &[]);
    }

    #[expect(clippy::too_many_arguments, reason = "a segment's fields")]
    fn segment(&mut self, port: u8, flags: u8, lie: i32, lie2: i32, window: u16, words: u8, payload: &[u8]) {
        let known = self.believed(port);
        let number = u16::from(port) % u16::try_from(PORTS).unwrap_or(1);
        let mut packet = vec![0x45, 0];
        let length = u16::try_from(payload.len().saturating_add(40)).unwrap_or(u16::MAX);
        packet.extend(length.to_be_bytes());
        packet.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        packet.extend(GUEST.octets());
        packet.extend(DEFAULT_ADDRESS.octets());
        packet.extend(number.saturating_add(1).to_be_bytes());
        packet.extend(80_u16.to_be_bytes());
        packet.extend(known.sequence.wrapping_add_signed(lie).to_be_bytes());
        packet.extend(known.theirs.wrapping_add_signed(lie2).to_be_bytes());
        packet.extend([words << 4, flags]);
        packet.extend(window.to_be_bytes());
        packet.extend([0; 4]);
        packet.extend(payload);
        self.send(&framed(&packet));
    }

    fn send(&mut self, frame: &[u8]) {
        if let Some(found) = for_service(frame, DEFAULT_ADDRESS) {
            self.stack.take(found, self.now);
        }
    }

    /// Takes frames, and believes what they say.
    fn take(&mut self, most: usize) {
        for _ in 0..most {
            let Some(frame) = self.stack.pop() else {
                self.stack.run(self.now);
                return;
            };
            assert!(frame.len() <= usize::from(self.mtu).max(46) + 26, "{}", frame.len());
            let word = |at: usize| frame.get(at..).and_then(|rest| rest.first_chunk::<4>().copied());
            if let (Some([p0, p1, ..]), Some(sequence)) = (word(PORT_AT), word(SEQUENCE_AT)) {
                let port = u16::from_be_bytes([p0, p1]).wrapping_sub(1);
                if let Some(known) = self.believed.get_mut(usize::from(port)) {
                    let payload = len32(frame.get(SEQUENCE_AT + 16..).unwrap_or_default());
                    // SYN and FIN count too.
                    let flags = frame.get(SEQUENCE_AT + 9).copied().unwrap_or(0);
                    let marks = u32::from(flags & 3 != 0);
                    known.theirs = u32::from_be_bytes(sequence)
                        .wrapping_add(if flags & SYN == 0 { payload } else { 0 })
                        .wrapping_add(marks);
                }
            }
        }
    }

    /// Lets time pass, with the alarm that the event loop would hear.
    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        // Once in 10 ms at most, and some for frames.
        let most = time.as_millis() / 10 + 2000;
        for _ in 0..most {
            match self.stack.next(self.now) {
                When::Now => self.take(MOST_FRAMES + 1),
                When::At(then) if then <= end => {
                    assert!(then > self.now, "it does not ask again at once");
                    self.now = then;
                    self.stack.run(then);
                }
                When::At(_) | When::Never => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("the stack does not come to rest");
    }

    /// Nobody says anything any more.
    fn rest(&mut self) {
        self.wait(Duration::from_secs(200));
        assert_eq!(self.stack.next(self.now), When::Never, "all connections are over");
    }
}

fn framed(packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x52, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0];
    frame.extend(packet);
    frame
}

fn len32(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}
