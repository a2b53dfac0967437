//! What is behind a network card: anything that takes and gives packets.
//!
//! A packet is [`PACKET_HEADER_BYTES`] of `struct virtio_net_hdr_v1` (VIRTIO 1.2 §5.1.6) and then an Ethernet frame without its check
//! sequence. The header says what is left to be done: a checksum, or a large TCP segment to be cut. What comes to a back end was copied
//! out of the guest and checked: fields are within the frame, and nothing is asked for that was not agreed on.

use std::io;
use std::os::fd::BorrowedFd;

/// Bytes of `struct virtio_net_hdr_v1`.
pub const PACKET_HEADER_BYTES: usize = 12;
/// Largest packet: the header, an Ethernet header, and what an IP packet's 16 bits of length can say, rounded up (Linux
/// `drivers/net/virtio_net.c` has buffers of the same size for it).
pub const MAX_PACKET_BYTES: usize = 65_562;

/// What may be left to the other side, in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Segmentation {
    /// A TCP or UDP checksum.
    pub checksum: bool,
    /// Cutting a large TCP segment in IPv4. Needs `checksum`.
    pub tcp4: bool,
    /// Cutting a large TCP segment in IPv6. Needs `checksum`.
    pub tcp6: bool,
}

impl Segmentation {
    /// Everything.
    pub const ALL: Self = Segmentation {
        checksum: true,
        tcp4: true,
        tcp6: true,
    };
}

/// What may be left to be done, in both directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offloads {
    /// In packets of the guest, to be done by the back end.
    pub sent: Segmentation,
    /// In packets of the back end, to be done by the guest.
    pub received: Segmentation,
}

/// Takes and gives packets. Never waits.
pub trait Backend: Send + std::fmt::Debug + 'static {
    /// What it can do. Asked once, when the card is made.
    fn offloads(&self) -> Offloads;

    /// The guest has agreed on this, which is part of what was on offer. Called at each activation.
    ///
    /// # Errors
    /// The card is not activated then.
    fn begin(&mut self, offloads: Offloads) -> io::Result<()>;

    /// Takes a packet of the guest.
    ///
    /// # Errors
    /// The packet is lost then, as it may be on any network; [`io::ErrorKind::WouldBlock`] if there was no room.
    fn send(&mut self, packet: &[u8]) -> io::Result<()>;

    /// Gives a packet for the guest, if there is one, and says how long it is. `buffer` has [`MAX_PACKET_BYTES`].
    ///
    /// # Errors
    /// The back end is broken; the card takes nothing more from it until it is activated again.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>>;

    /// Readable, as level and not as edge, while [`Backend::receive`] would give a packet. Always the same descriptor.
    fn descriptor(&self) -> BorrowedFd<'_>;
}
