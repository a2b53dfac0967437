//! A guest's driver that can do anything, and the programs of the host beside it.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vm_memory::{Bytes as _, GuestAddress};

use crate::virtio::testing::{Buffer, Harness};
use crate::virtio::vsock::packet::{HEADER_BYTES, HOST_CID, Header, Operation, STREAM};
use crate::virtio::vsock::{PathConnector, Timeouts, Vsock, listen_at};
use crate::virtio::{DeviceError, VirtioDevice as _};

/// The guest's context id in the tests.
pub(super) const CID: u64 = 3;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// What Linux's driver gives for a packet, roughly (VIRTIO_VSOCK_DEFAULT_RX_BUF_SIZE).
pub(super) const RX_BYTES: u32 = 4096;
/// Guest memory.
const MEMORY_BYTES: usize = 32 << 20;

/// Where the transmitted packets lie.
const TX_SLOTS: u64 = 128;
const TX_SLOT_BYTES: u64 = 128 * 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) harness: Harness<Vsock>,
    pub(super) folder: tempfile::TempDir,
    /// What the device sent, until a test looks at it.
    pub(super) inbox: VecDeque<(Header, Vec<u8>)>,
    /// Give buffers that were used to the device again.
    pub(super) gives_back: bool,
    has_event_index: bool,
    /// The available indices at which it was decided last whether to notify.
    decided: [u16; 3],
    rx: VecDeque<(u64, u32)>,
    tx: u64,
    tx_next: u64,
}

impl Guest {
    /// Starts a device with 200 buffers to write packets to.
    pub(super) fn new() -> Self {
        let mut guest = Self::starved(Timeouts::default());
        guest.give(200);
        guest
    }

    /// Starts a device whose guest has given no buffers yet.
    pub(super) fn starved(timeouts: Timeouts) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let device = device_at(folder.path().join("v.sock"), timeouts);
        Self::with_device(device, folder, 0)
    }

    /// Likewise, with buffers, and with the event index agreed on.
    pub(super) fn with_event_index() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let device = device_at(folder.path().join("v.sock"), Timeouts::default());
        let mut guest = Self::with_device(device, folder, 1 << 29);
        guest.give(200);
        guest
    }

    /// Starts this device, whose socket lies in `folder`.
    pub(super) fn with_device(device: Vsock, folder: tempfile::TempDir, features: u64) -> Self {
        let mut harness = Harness::with_features(device, MEMORY_BYTES, features);
        let tx = harness.allocate(TX_SLOTS * TX_SLOT_BYTES);
        Guest {
            harness,
            folder,
            inbox: VecDeque::new(),
            gives_back: true,
            has_event_index: features != 0,
            decided: [0; 3],
            rx: VecDeque::new(),
            tx,
            tx_next: 0,
        }
    }

    /// Gives the device buffers.
    pub(super) fn give(&mut self, count: usize) {
        for _ in 0..count {
            let place = self.harness.allocate(RX_BYTES.into());
            self.give_at(place, RX_BYTES);
        }
    }

    /// Gives the device one buffer.
    pub(super) fn give_at(&mut self, place: u64, bytes: u32) {
        self.rx.push_back((place, bytes));
        self.harness.queue(0).add(&[Buffer::writable(place, bytes)]);
    }

    /// Notifies the device of a queue if it asked for that (VIRTIO 1.2 §2.7.10), as a driver does after it has made chains available.
    pub(super) fn notify(&mut self, number: u16) {
        let queue = self.harness.queue(number);
        let (available, used, size) = (queue.available, queue.used, u64::from(queue.size()));
        let flags = queue.used_flags();
        let load = |address| -> u16 {
            let memory = &self.harness.session.memory;
            u16::from_le(memory.read_obj(GuestAddress(address)).unwrap())
        };
        let new = load(available + 2);
        let event = load(used + 4 + 8 * size);
        let old = std::mem::replace(&mut self.decided[usize::from(number)], new);
        let is_wanted = if self.has_event_index {
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            flags & 1 == 0
        };
        if is_wanted {
            self.harness.notify(number).unwrap();
        }
    }

    /// The path of the host's socket.
    pub(super) fn path(&self) -> PathBuf {
        self.folder.path().join("v.sock")
    }

    /// Listens on the host for the guest's connections to a port.
    pub(super) fn host_listens(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.folder.path().join(format!("v.sock_{port}"))).unwrap()
    }

    /// A program of the host connects to a port of the guest.
    pub(super) fn host_connects(&self, port: u32) -> UnixStream {
        let mut stream = UnixStream::connect(self.path()).unwrap();
        stream.write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Lets the device's event loop run, without waiting, until there is nothing to do.
    pub(super) fn run(&mut self) {
        self.try_run().unwrap();
    }

    /// Likewise.
    pub(super) fn try_run(&mut self) -> Result<(), DeviceError> {
        while self.is_ready(Duration::ZERO) {
            self.harness.ready(0)?;
            self.collect();
        }
        Ok(())
    }

    /// Whether the event loop would call the device.
    pub(super) fn is_ready(&self, wait: Duration) -> bool {
        let sources = self.harness.device.sources();
        let mut descriptors = [PollFd::from_borrowed_fd(sources[0].descriptor, PollFlags::IN)];
        let wait = Timespec::try_from(wait).unwrap();
        poll(&mut descriptors, Some(&wait)).unwrap() == 1
    }

    /// Takes what the device wrote, and gives the buffers back, until it writes no more.
    pub(super) fn collect(&mut self) {
        loop {
            let used = self.harness.queue(0).take_used();
            let given = self.gives_back && !used.is_empty();
            for used in used {
                let (place, bytes) = self.rx.pop_front().unwrap();
                let whole = self.harness.read(place, used.written.try_into().unwrap());
                let header = Header::parse(whole[..HEADER_BYTES].try_into().unwrap());
                let data = whole[HEADER_BYTES..].to_vec();
                assert_eq!(data.len(), header.length as usize, "the used length fits the header");
                self.inbox.push_back((header, data));
                if self.gives_back {
                    self.give_at(place, bytes);
                }
            }
            if !given {
                break;
            }
            self.notify(0);
        }
        self.harness.queue(1).take_used();
    }

    /// Makes a packet available without notifying.
    pub(super) fn post(&mut self, header: &Header, data: &[u8]) {
        let place = self.tx + self.tx_next % TX_SLOTS * TX_SLOT_BYTES;
        self.tx_next += 1;
        let mut whole = header.to_bytes().to_vec();
        whole.extend_from_slice(data);
        self.harness
            .session
            .memory
            .write_slice(&whole, GuestAddress(place))
            .unwrap();
        let bytes = whole.len().try_into().unwrap();
        self.harness.queue(1).add(&[Buffer::readable(place, bytes)]);
    }

    /// Sends a packet.
    pub(super) fn send(&mut self, header: &Header, data: &[u8]) {
        self.post(header, data);
        self.notify(1);
        self.collect();
    }

    /// Sends an operation on a connection, with nothing used up of any credit.
    pub(super) fn say(&mut self, host: u32, guest: u32, operation: Operation) {
        self.send(&header(host, guest, operation), b"");
    }

    /// Sends a shutdown.
    pub(super) fn shut(&mut self, host: u32, guest: u32, flags: u32) {
        let mut header = header(host, guest, Operation::Shutdown);
        header.flags = flags;
        self.send(&header, b"");
    }

    /// Sends data.
    pub(super) fn data(&mut self, host: u32, guest: u32, data: &[u8]) {
        let mut header = header(host, guest, Operation::Data);
        header.length = data.len().try_into().unwrap();
        self.send(&header, data);
    }

    /// Sends as much as there is credit for, to a host's program that does not read. Returns how much that was.
    pub(super) fn fill(&mut self, host: u32, guest: u32, bytes: &[u8]) -> usize {
        let (mut sent, mut credit) = (0, 65536);
        while credit > 0 {
            let piece = &bytes[sent..sent + credit.min(5000)];
            self.data(host, guest, piece);
            sent += piece.len();
            credit -= piece.len();
            self.run();
            if let Some((packet, _)) = self.inbox.drain(..).next_back() {
                let in_flight = u32::try_from(sent).unwrap() - packet.forwarded;
                credit = (packet.capacity - in_flight) as usize;
            }
        }
        sent
    }

    /// Waits for the next packet.
    pub(super) fn next(&mut self) -> (Header, Vec<u8>) {
        let start = Instant::now();
        while self.inbox.is_empty() {
            assert!(start.elapsed() < PATIENCE, "no packet");
            if self.is_ready(Duration::from_millis(100)) {
                self.run();
            }
        }
        self.inbox.pop_front().unwrap()
    }

    /// Waits for the next packet, which must say this.
    pub(super) fn expect(&mut self, operation: Operation) -> Header {
        let (header, _) = self.next();
        assert_eq!(Operation::from_wire(header.operation), Some(operation), "{header:?}");
        assert_eq!((header.source_cid, header.destination_cid), (HOST_CID, CID));
        header
    }

    /// Waits for so many bytes of data of a connection. Other packets of it are passed over.
    pub(super) fn expect_data(&mut self, bytes: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < bytes {
            all.extend(self.next().1);
        }
        assert_eq!(all.len(), bytes);
        all
    }

    /// There is nothing for the guest.
    pub(super) fn expect_nothing(&mut self) {
        self.run();
        assert_eq!(self.inbox, []);
    }

    /// Opens a connection of the host's to `port`; returns the host's program's end and port.
    pub(super) fn open_from_host(&mut self, port: u32) -> (UnixStream, u32) {
        let stream = self.host_connects(port);
        let request = self.expect(Operation::Request);
        assert_eq!((request.destination_port, request.kind), (port, STREAM));
        self.say(request.source_port, port, Operation::Response);
        let line = read_line(&stream);
        assert_eq!(line, format!("OK {}\n", request.source_port));
        (stream, request.source_port)
    }

    /// Opens a connection of the guest's from `port` to `listener`'s.
    pub(super) fn open_from_guest(&mut self, port: u32, listener: &UnixListener, host: u32) -> UnixStream {
        self.say(host, port, Operation::Request);
        let response = self.expect(Operation::Response);
        assert_eq!((response.source_port, response.destination_port), (host, port));
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// The device's counters.
    pub(super) fn count(&self, counter: fn(&crate::virtio::vsock::Metrics) -> &std::sync::atomic::AtomicU64) -> u64 {
        counter(&self.harness.device.metrics()).load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// A device that listens at `path`.
pub(super) fn device_at(path: PathBuf, timeouts: Timeouts) -> Vsock {
    let listener = listen_at(&path).unwrap();
    let connector = Box::new(PathConnector::new(path));
    Vsock::new("vsock", u32::try_from(CID).unwrap(), listener, connector, timeouts).unwrap()
}

/// A header of the guest's, with a buffer of 256 KiB of which nothing was used.
pub(super) fn header(host: u32, guest: u32, operation: Operation) -> Header {
    Header {
        source_cid: CID,
        destination_cid: HOST_CID,
        source_port: guest,
        destination_port: host,
        kind: STREAM,
        operation: operation.to_wire(),
        capacity: 256 * 1024,
        ..Header::default()
    }
}

/// Reads a line and not a byte more.
pub(super) fn read_line(stream: &UnixStream) -> String {
    let mut line = String::new();
    BufReader::with_capacity(1, stream).read_line(&mut line).unwrap();
    line
}

/// Reads to the end.
pub(super) fn read_all(mut stream: &UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    all
}

/// Bytes that are not the same everywhere.
pub(super) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            u8::try_from(state & 0xff).unwrap()
        })
        .collect()
}
