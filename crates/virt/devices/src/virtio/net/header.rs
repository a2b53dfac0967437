//! The header of a packet (`struct virtio_net_hdr_v1`, VIRTIO 1.2 §5.1.6): parsed, checked against the frame, and written anew.

use thiserror::Error;

use super::backend::{PACKET_HEADER_BYTES, Segmentation};

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CHECKSUM: u8 = 1;
/// `VIRTIO_NET_HDR_F_DATA_VALID`.
const DATA_VALID: u8 = 2;
/// `VIRTIO_NET_HDR_GSO_NONE`, `_TCPV4`, `_TCPV6`.
const GSO_NONE: u8 = 0;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
/// Bytes of an Ethernet header (`ETH_HLEN`): the shortest frame.
const ETHERNET_HEADER_BYTES: usize = 14;
/// Smallest piece that a segment may be cut into. A guest that asks for one byte would have the host make 65,000 packets out of one; no
/// TCP sends less than this (`TCP_MIN_SND_MSS`, Linux `include/net/tcp.h`).
const MIN_GSO_BYTES: u16 = 48;
/// Bytes of a checksum.
const CHECKSUM_BYTES: usize = 2;

/// How a large segment is to be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP in IPv4.
    Tcp4,
    /// TCP in IPv6.
    Tcp6,
}

/// What is left to be done for a packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PacketHeader {
    /// Where the checksummed part begins, and where in it the checksum goes, both in bytes.
    pub checksum: Option<(u16, u16)>,
    /// The checksum has been checked already.
    pub is_valid: bool,
    /// The segment is to be cut: how, its headers' length (a hint), and the bytes of data in each piece.
    pub gso: Option<(GsoKind, u16, u16)>,
    /// In how many of the guest's buffers the packet is; 0 in packets of the guest.
    pub buffers: u16,
}

/// Why a packet is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BadHeader {
    /// No room for header and Ethernet header.
    #[error("the packet is too short")]
    Short,
    /// The checksum is not within the frame.
    #[error("the checksum is not within the frame")]
    Checksum,
    /// Cutting something that is not known or was not agreed on, or without a checksum.
    #[error("the kind of segment is not on offer")]
    Kind,
    /// Pieces or headers of an impossible size.
    #[error("the segment's sizes are impossible")]
    Sizes,
    /// A checksum that was not agreed on.
    #[error("leaving the checksum was not agreed on")]
    NotAgreed,
}

impl PacketHeader {
    /// Parses the header of a packet, and checks it against the frame behind it and what was agreed on. Unknown flags are ignored, as
    /// the standard wants it (§5.1.6.2.2).
    ///
    /// # Errors
    /// See [`BadHeader`].
    pub fn parse(packet: &[u8], agreed: Segmentation) -> Result<Self, BadHeader> {
        let (raw, frame) = packet
            .split_first_chunk::<PACKET_HEADER_BYTES>()
            .ok_or(BadHeader::Short)?;
        if frame.len() < ETHERNET_HEADER_BYTES {
            return Err(BadHeader::Short);
        }
        let [flags, kind, h0, h1, g0, g1, s0, s1, o0, o1, b0, b1] = *raw;
        let header_bytes = u16::from_le_bytes([h0, h1]);
        let piece_bytes = u16::from_le_bytes([g0, g1]);
        let start = u16::from_le_bytes([s0, s1]);
        let offset = u16::from_le_bytes([o0, o1]);
        let mut header = PacketHeader {
            checksum: None,
            is_valid: flags & DATA_VALID != 0 && agreed.checksum,
            gso: None,
            buffers: u16::from_le_bytes([b0, b1]),
        };
        if flags & NEEDS_CHECKSUM != 0 {
            if !agreed.checksum {
                return Err(BadHeader::NotAgreed);
            }
            let end = usize::from(start)
                .saturating_add(usize::from(offset))
                .saturating_add(CHECKSUM_BYTES);
            if end > frame.len() {
                return Err(BadHeader::Checksum);
            }
            header.checksum = Some((start, offset));
        }
        let kind = match kind {
            GSO_NONE => return Ok(header),
            GSO_TCP4 if agreed.tcp4 => GsoKind::Tcp4,
            GSO_TCP6 if agreed.tcp6 => GsoKind::Tcp6,
            _ => return Err(BadHeader::Kind),
        };
        if header.checksum.is_none() {
            return Err(BadHeader::Kind);
        }
        if piece_bytes < MIN_GSO_BYTES || usize::from(header_bytes) > frame.len() {
            return Err(BadHeader::Sizes);
        }
        header.gso = Some((kind, header_bytes, piece_bytes));
        Ok(header)
    }

    /// The header's bytes: only what was understood.
    #[must_use]
    pub fn bytes(&self) -> [u8; PACKET_HEADER_BYTES] {
        let flags = if self.checksum.is_some() {
            NEEDS_CHECKSUM
        } else if self.is_valid {
            DATA_VALID
        } else {
            0
        };
        let (start, offset) = self.checksum.unwrap_or((0, 0));
        let (kind, header_bytes, piece_bytes) = match self.gso {
            None => (GSO_NONE, 0, 0),
            Some((GsoKind::Tcp4, header_bytes, piece_bytes)) => (GSO_TCP4, header_bytes, piece_bytes),
            Some((GsoKind::Tcp6, header_bytes, piece_bytes)) => (GSO_TCP6, header_bytes, piece_bytes),
        };
        let [h0, h1] = header_bytes.to_le_bytes();
        let [g0, g1] = piece_bytes.to_le_bytes();
        let [s0, s1] = start.to_le_bytes();
        let [o0, o1] = offset.to_le_bytes();
        let [b0, b1] = self.buffers.to_le_bytes();
        [flags, kind, h0, h1, g0, g1, s0, s1, o0, o1, b0, b1]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(flags: u8, kind: u8, fields: [u16; 5], frame: usize) -> Vec<u8> {
        let mut packet = vec![flags, kind];
        packet.extend(fields.iter().flat_map(|field| field.to_le_bytes()));
        packet.resize(PACKET_HEADER_BYTES + frame, 0);
        packet
    }

    #[test]
    fn good_headers() {
        let none = PacketHeader::parse(&packet(0, 0, [1, 2, 3, 4, 5], 60), Segmentation::default());
        let expected = PacketHeader {
            buffers: 5,
            ..PacketHeader::default()
        };
        assert_eq!(none, Ok(expected), "fields without a flag do not matter");
        assert_eq!(expected.bytes(), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0]);
        let raw = packet(1, 1, [54, 1448, 34, 16, 0], 3000);
        let tcp = PacketHeader::parse(&raw, Segmentation::ALL).unwrap();
        assert_eq!(tcp.checksum, Some((34, 16)));
        assert_eq!(tcp.gso, Some((GsoKind::Tcp4, 54, 1448)));
        assert_eq!(tcp.bytes(), raw[..12]);
        // The last place where a checksum fits.
        assert!(PacketHeader::parse(&packet(1, 0, [0, 0, 40, 18, 0], 60), Segmentation::ALL).is_ok());
        // "Valid" means nothing to a guest that does not know it, and unknown flags to nobody.
        let valid = PacketHeader::parse(&packet(0xfe, 0, [0; 5], 60), Segmentation::default()).unwrap();
        assert_eq!(valid.bytes(), [0; 12]);
    }

    #[test]
    fn bad_headers() {
        let none = Segmentation::default();
        let all = Segmentation::ALL;
        let only4 = Segmentation { tcp6: false, ..all };
        for (packet, agreed, expected) in [
            (vec![], all, BadHeader::Short),
            (vec![0; 25], all, BadHeader::Short),
            (packet(1, 0, [0, 0, 10, 10, 0], 60), none, BadHeader::NotAgreed),
            (packet(1, 0, [0, 0, 40, 19, 0], 60), all, BadHeader::Checksum),
            (packet(1, 0, [0, 0, 0xffff, 0xffff, 0], 60), all, BadHeader::Checksum),
            (packet(1, 4, [54, 1448, 34, 16, 0], 3000), only4, BadHeader::Kind),
            (packet(0, 1, [54, 1448, 34, 16, 0], 3000), all, BadHeader::Kind),
            (packet(1, 3, [54, 1448, 34, 16, 0], 3000), all, BadHeader::Kind),
            (packet(1, 0x81, [54, 1448, 34, 16, 0], 3000), all, BadHeader::Kind),
            (packet(1, 1, [54, 0, 34, 16, 0], 3000), all, BadHeader::Sizes),
            (packet(1, 1, [54, 47, 34, 16, 0], 3000), all, BadHeader::Sizes),
            (packet(1, 1, [3001, 1448, 34, 16, 0], 3000), all, BadHeader::Sizes),
        ] {
            assert_eq!(
                PacketHeader::parse(&packet, agreed),
                Err(expected),
                "{:?}",
                packet.get(..12)
            );
        }
    }

    proptest! {
        /// What was accepted is accepted again as it was written, and stays the same.
        #[test]
        fn written_headers_parse(raw in prop::collection::vec(any::<u8>(), 0..200), checksum: bool, tcp4: bool, tcp6: bool) {
            let agreed = Segmentation { checksum, tcp4, tcp6 };
            let Ok(header) = PacketHeader::parse(&raw, agreed) else { return Ok(()) };
            let mut again = raw.clone();
            again[..12].copy_from_slice(&header.bytes());
            let second = PacketHeader::parse(&again, agreed).unwrap();
            prop_assert_eq!(second.bytes(), header.bytes());
        }
    }
}
