//! A packet's header (VIRTIO 1.2 §5.10.6): parsed once from a copy, and written.

/// The host's context id (§5.10.4).
pub(super) const HOST_CID: u64 = 2;
/// Size of `struct virtio_vsock_hdr` (§5.10.6).
pub(super) const HEADER_BYTES: usize = 44;
/// `VIRTIO_VSOCK_TYPE_STREAM` (§5.10.6).
pub(super) const STREAM: u16 = 1;
/// `VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE` (§5.10.6.6): the sender of the packet receives no more.
pub(super) const NO_MORE_RECEIVING: u32 = 1;
/// `VIRTIO_VSOCK_SHUTDOWN_F_SEND` (§5.10.6.6): the sender of the packet sends no more.
pub(super) const NO_MORE_SENDING: u32 = 2;
/// Both.
pub(super) const NO_MORE: u32 = NO_MORE_RECEIVING | NO_MORE_SENDING;

/// What a packet says (§5.10.6, `VIRTIO_VSOCK_OP_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// A connection is asked for.
    Request,
    /// It is accepted.
    Response,
    /// It is refused, or at its end.
    Reset,
    /// One side, or both, ends a direction.
    Shutdown,
    /// Data.
    Data,
    /// Tells of free space.
    CreditUpdate,
    /// Asks for a `CreditUpdate`.
    CreditRequest,
}

impl Operation {
    /// Reads the number; `None` if it has no meaning.
    pub(super) fn from_wire(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::Data,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }

    /// The number.
    pub(super) fn to_wire(self) -> u16 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Reset => 3,
            Self::Shutdown => 4,
            Self::Data => 5,
            Self::CreditUpdate => 6,
            Self::CreditRequest => 7,
        }
    }
}

/// The two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Ports {
    /// The host's.
    pub(super) host: u32,
    /// The guest's.
    pub(super) guest: u32,
}

/// A header. The numbers are as the guest wrote them; nothing is decided here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Header {
    /// Sender's context id.
    pub(super) source_cid: u64,
    /// Receiver's context id.
    pub(super) destination_cid: u64,
    /// Sender's port.
    pub(super) source_port: u32,
    /// Receiver's port.
    pub(super) destination_port: u32,
    /// How many bytes of data follow.
    pub(super) length: u32,
    /// The kind of socket.
    pub(super) kind: u16,
    /// See [`Operation`].
    pub(super) operation: u16,
    /// Of a `Shutdown`.
    pub(super) flags: u32,
    /// Size of the sender's receive buffer, in bytes.
    pub(super) capacity: u32,
    /// How many bytes the sender has taken out of its receive buffer, modulo 2^32.
    pub(super) forwarded: u32,
}

impl Header {
    /// Reads a header.
    pub(super) fn parse(bytes: &[u8; HEADER_BYTES]) -> Self {
        let mut fields = Fields(bytes);
        Header {
            source_cid: u64::from_le_bytes(fields.take()),
            destination_cid: u64::from_le_bytes(fields.take()),
            source_port: u32::from_le_bytes(fields.take()),
            destination_port: u32::from_le_bytes(fields.take()),
            length: u32::from_le_bytes(fields.take()),
            kind: u16::from_le_bytes(fields.take()),
            operation: u16::from_le_bytes(fields.take()),
            flags: u32::from_le_bytes(fields.take()),
            capacity: u32::from_le_bytes(fields.take()),
            forwarded: u32::from_le_bytes(fields.take()),
        }
    }

    /// Writes a header.
    pub(super) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let fields = self
            .source_cid
            .to_le_bytes()
            .into_iter()
            .chain(self.destination_cid.to_le_bytes())
            .chain(self.source_port.to_le_bytes())
            .chain(self.destination_port.to_le_bytes())
            .chain(self.length.to_le_bytes())
            .chain(self.kind.to_le_bytes())
            .chain(self.operation.to_le_bytes())
            .chain(self.flags.to_le_bytes())
            .chain(self.capacity.to_le_bytes())
            .chain(self.forwarded.to_le_bytes());
        for (place, byte) in bytes.iter_mut().zip(fields) {
            *place = byte;
        }
        bytes
    }

    /// The connection that a packet of the guest belongs to.
    pub(super) fn ports_from_guest(&self) -> Ports {
        Ports {
            host: self.destination_port,
            guest: self.source_port,
        }
    }
}

/// What is left of a header that is being read.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    /// The next field; zeros behind the end, which the sizes above never reach.
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk::<N>() {
            Some((field, rest)) => {
                self.0 = rest;
                *field
            }
            None => [0; N],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_has_the_layout_of_the_specification() {
        let header = Header {
            source_cid: 0x0807_0605_0403_0201,
            destination_cid: 0x100f_0e0d_0c0b_0a09,
            source_port: 0x1413_1211,
            destination_port: 0x1817_1615,
            length: 0x1c1b_1a19,
            kind: 0x1e1d,
            operation: 0x201f,
            flags: 0x2423_2221,
            capacity: 0x2827_2625,
            forwarded: 0x2c2b_2a29,
        };
        let bytes: [u8; HEADER_BYTES] = std::array::from_fn(|index| u8::try_from(index + 1).unwrap());
        assert_eq!(header.to_bytes(), bytes);
        assert_eq!(Header::parse(&bytes), header);
    }

    #[test]
    fn operations_have_their_numbers() {
        for number in 0..=u16::MAX {
            match Operation::from_wire(number) {
                Some(operation) => assert_eq!(operation.to_wire(), number),
                None => assert!(number == 0 || number > 7),
            }
        }
    }
}
