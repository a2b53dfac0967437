//! A card whose back end is a pair of sockets, and its driver.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::virtio::VirtioDevice as _;
use crate::virtio::net::{Backend, Net, NetOptions, Offloads, Segmentation};
use crate::virtio::testing::{Buffer, Harness};

/// Guest memory of the tests.
pub(in crate::virtio::net) const RAM: usize = 8 << 20;

/// Passes packets to and from a socket, each as a datagram.
#[derive(Debug)]
pub(in crate::virtio::net) struct Wire {
    socket: UnixDatagram,
    begun: Arc<Mutex<Vec<Offloads>>>,
}

impl Backend for Wire {
    fn offloads(&self) -> Offloads {
        Offloads {
            sent: Segmentation::ALL,
            received: Segmentation::ALL,
        }
    }

    fn begin(&mut self, offloads: Offloads) -> io::Result<()> {
        self.begun.lock().unwrap().push(offloads);
        Ok(())
    }

    fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        self.socket.send(packet).map(|_| ())
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self.socket.recv(buffer) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The other end of the wire.
#[derive(Debug)]
pub(in crate::virtio::net) struct World {
    pub(in crate::virtio::net) socket: UnixDatagram,
    pub(in crate::virtio::net) begun: Arc<Mutex<Vec<Offloads>>>,
}

impl World {
    /// What the guest has sent, one packet.
    pub(in crate::virtio::net) fn take(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 70_000];
        let bytes = self.socket.recv(&mut buffer).ok()?;
        buffer.truncate(bytes);
        Some(buffer)
    }
}

pub(in crate::virtio::net) fn wire() -> (Box<Wire>, World) {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    let begun = Arc::<Mutex<Vec<Offloads>>>::default();
    let wire = Wire {
        socket: ours,
        begun: Arc::clone(&begun),
    };
    (Box::new(wire), World { socket: theirs, begun })
}

pub(in crate::virtio::net) fn card_with(backend: Box<dyn Backend>, options: NetOptions) -> Harness<Net> {
    Harness::new(Net::new("test", backend, options).unwrap(), RAM)
}

pub(in crate::virtio::net) fn card() -> (Harness<Net>, World) {
    let (wire, world) = wire();
    (card_with(wire, NetOptions::default()), world)
}

/// A card with only these features.
pub(in crate::virtio::net) fn card_of(features: u64) -> (Harness<Net>, World) {
    let (wire, world) = wire();
    let net = Net::new("test", wire, NetOptions::default()).unwrap();
    (Harness::with_features(net, RAM, features), world)
}

/// Adds receive buffers, without notifying.
pub(in crate::virtio::net) fn give_buffers(harness: &mut Harness<Net>, count: usize, bytes: u32) -> Vec<u64> {
    (0..count)
        .map(|_| {
            let place = harness.allocate(bytes.into());
            harness.queue(0).add(&[Buffer::writable(place, bytes)]);
            place
        })
        .collect()
}

/// A packet without anything left to do: a header of zeros and a frame of this length and byte.
pub(in crate::virtio::net) fn plain(frame: usize, byte: u8) -> Vec<u8> {
    let mut packet = vec![0; 12];
    packet.resize(12 + frame, byte);
    packet
}

/// One turn of the event loop; false if there was nothing to do.
pub(in crate::virtio::net) fn poll(harness: &mut Harness<Net>, most: Duration) -> bool {
    let mut tokens = Vec::new();
    {
        let sources = harness.device.sources();
        let mut waited: Vec<_> = sources
            .iter()
            .map(|source| PollFd::new(&source.descriptor, PollFlags::IN))
            .collect();
        let most = Timespec {
            tv_sec: i64::try_from(most.as_secs()).unwrap(),
            tv_nsec: most.subsec_nanos().into(),
        };
        rustix::event::poll(&mut waited, Some(&most)).unwrap();
        for (source, waited) in sources.iter().zip(&waited) {
            if !waited.revents().is_empty() {
                tokens.push(source.token);
            }
        }
    }
    for token in &tokens {
        harness.ready(*token).unwrap();
    }
    !tokens.is_empty()
}

/// Runs the event loop until there is nothing to do any more.
pub(in crate::virtio::net) fn settle(harness: &mut Harness<Net>) {
    for _ in 0..10_000 {
        if !poll(harness, Duration::ZERO) {
            return;
        }
    }
    panic!("the card spins");
}

/// Runs the event loop until something is so.
pub(in crate::virtio::net) fn run_until(harness: &mut Harness<Net>, mut is_so: impl FnMut(&mut Harness<Net>) -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !is_so(harness) {
        assert!(Instant::now() < until, "it never was so");
        poll(harness, Duration::from_millis(200));
    }
}
