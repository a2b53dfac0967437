//! Which of the guest's frames are for the service, and what Ethernet and ARP need to say.
//!
//! Ethernet II; ARP is RFC 826, IPv4 RFC 791. A frame with a VLAN tag is of another network and never for the service.

use std::net::Ipv4Addr;

/// An Ethernet address.
pub(crate) type Mac = [u8; 6];

/// The service's Ethernet address, Firecracker's: a guest that was restored from its snapshot has it in its neighbour table. Locally
/// administered.
pub(crate) const SERVICE_MAC: Mac = [0x06, 0x01, 0x23, 0x45, 0x67, 0x01];

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET_BYTES: usize = 14;
/// Bytes of an ARP packet for IPv4 over Ethernet.
const ARP_BYTES: usize = 28;
/// The least bytes of an IPv4 header.
const IPV4_BYTES: usize = 20;
/// Shortest frame of an ARP reply: Ethernet's least payload is 46 bytes.
const SHORTEST_FRAME: usize = 60;

const TYPE_IPV4: [u8; 2] = [0x08, 0x00];
const TYPE_ARP: [u8; 2] = [0x08, 0x06];
/// Ethernet (1), IPv4, addresses of 6 and 4 bytes.
const ARP_KIND: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];
const ARP_REQUEST: [u8; 2] = [0, 1];
const ARP_REPLY: [u8; 2] = [0, 2];
const PROTOCOL_TCP: u8 = 6;
/// Where a segment's flags are, and three of them (RFC 9293 §3.1).
const TCP_FLAGS: usize = 13;
const TCP_SYN: u8 = 2;
const TCP_RST: u8 = 4;
const TCP_ACK: u8 = 16;

/// A frame that is for the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ForService<'a> {
    /// Somebody asks who has the address.
    WhoHas {
        /// Who asks.
        mac: Mac,
        /// From where.
        source: Ipv4Addr,
    },
    /// A TCP segment, whole.
    Segment {
        /// Who sends it.
        mac: Mac,
        /// From where; an address of a single host.
        source: Ipv4Addr,
        /// The IPv4 packet, without what may be behind it.
        packet: &'a [u8],
        /// It begins a connection.
        is_first: bool,
    },
    /// Nothing that the service answers.
    Other,
}

/// Says whether a frame is for the service at `address`, and what it is then. Other frames are the real network's.
pub(crate) fn for_service(frame: &[u8], address: Ipv4Addr) -> Option<ForService<'_>> {
    let (header, payload) = frame.split_first_chunk::<ETHERNET_BYTES>()?;
    let [_, _, _, _, _, _, m0, m1, m2, m3, m4, m5, t0, t1] = *header;
    let mac = [m0, m1, m2, m3, m4, m5];
    match [t0, t1] {
        TYPE_IPV4 => ipv4(payload, mac, address),
        TYPE_ARP => arp(payload, address),
        _ => None,
    }
}

fn ipv4(packet: &[u8], mac: Mac, address: Ipv4Addr) -> Option<ForService<'_>> {
    let header = packet.first_chunk::<IPV4_BYTES>()?;
    let [
        version,
        _,
        l0,
        l1,
        _,
        _,
        f0,
        f1,
        _,
        protocol,
        _,
        _,
        s0,
        s1,
        s2,
        s3,
        d0,
        d1,
        d2,
        d3,
    ] = *header;
    if Ipv4Addr::new(d0, d1, d2, d3) != address {
        return None;
    }
    let header_bytes = usize::from(version & 0xf).saturating_mul(4);
    let whole = packet.get(..usize::from(u16::from_be_bytes([l0, l1])));
    // A fragment says where it goes (13 bits), or that more follow (the bit above).
    let is_fragment = u16::from_be_bytes([f0, f1]) & 0x3fff != 0;
    let source = Ipv4Addr::new(s0, s1, s2, s3);
    let is_good = version >> 4 == 4
        && header_bytes >= IPV4_BYTES
        && whole.is_some_and(|whole| whole.len() >= header_bytes)
        && !is_fragment
        && protocol == PROTOCOL_TCP
        && is_host(source)
        && source != address;
    match whole {
        Some(packet) if is_good => Some(ForService::Segment {
            mac,
            source,
            packet,
            is_first: packet
                .get(header_bytes.saturating_add(TCP_FLAGS))
                .is_some_and(|flags| flags & (TCP_SYN | TCP_RST | TCP_ACK) == TCP_SYN),
        }),
        _ => Some(ForService::Other),
    }
}

/// Whether an address can be a single host's: not of "this network" (0/8), loopback, multicast, or reserved (RFC 6890).
fn is_host(address: Ipv4Addr) -> bool {
    matches!(address.octets(), [1..=126 | 128..=223, ..])
}

fn arp(packet: &[u8], address: Ipv4Addr) -> Option<ForService<'_>> {
    let packet = packet.first_chunk::<ARP_BYTES>()?;
    let (kind, rest) = packet.split_first_chunk::<6>()?;
    let (operation, rest) = rest.split_first_chunk::<2>()?;
    let (mac, rest) = rest.split_first_chunk::<6>()?;
    let (source, rest) = rest.split_first_chunk::<4>()?;
    let (_, target) = rest.split_first_chunk::<6>()?;
    if *kind != ARP_KIND || target != address.octets() {
        return None;
    }
    Some(match *operation {
        ARP_REQUEST => ForService::WhoHas {
            mac: *mac,
            source: Ipv4Addr::from(*source),
        },
        _ => ForService::Other,
    })
}

/// The Ethernet header of an IPv4 packet to `mac`.
pub(crate) fn ipv4_header(mac: Mac) -> [u8; ETHERNET_BYTES] {
    header(mac, TYPE_IPV4)
}

fn header(mac: Mac, kind: [u8; 2]) -> [u8; ETHERNET_BYTES] {
    let mut header = [0; ETHERNET_BYTES];
    let fields = mac.iter().chain(&SERVICE_MAC).chain(&kind);
    for (place, byte) in header.iter_mut().zip(fields) {
        *place = *byte;
    }
    header
}

/// The frame that says that the service is at `address`.
pub(crate) fn arp_reply(mac: Mac, source: Ipv4Addr, address: Ipv4Addr) -> Vec<u8> {
    let mut frame = header(mac, TYPE_ARP).to_vec();
    frame.extend(ARP_KIND);
    frame.extend(ARP_REPLY);
    frame.extend(SERVICE_MAC);
    frame.extend(address.octets());
    frame.extend(mac);
    frame.extend(source.octets());
    frame.resize(SHORTEST_FRAME, 0);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
    const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const MAC: Mac = [2, 0, 0, 0, 0, 9];

    fn ethernet(kind: [u8; 2], payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0xff; 6];
        frame.extend(MAC);
        frame.extend(kind);
        frame.extend(payload);
        frame
    }

    fn packet(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, PROTOCOL_TCP, 0, 0];
        packet.extend(GUEST.octets());
        packet.extend(ADDRESS.octets());
        packet.resize(40, 7);
        change(&mut packet);
        ethernet(TYPE_IPV4, &packet)
    }

    fn question(operation: u8, target: Ipv4Addr) -> Vec<u8> {
        let mut arp = ARP_KIND.to_vec();
        arp.extend([0, operation]);
        arp.extend(MAC);
        arp.extend(GUEST.octets());
        arp.extend([0; 6]);
        arp.extend(target.octets());
        ethernet(TYPE_ARP, &arp)
    }

    #[test]
    fn segments_are_taken_without_what_is_behind_them() {
        let frame = packet(|packet| packet.extend([9; 6]));
        let Some(ForService::Segment {
            mac,
            source,
            packet,
            is_first,
        }) = for_service(&frame, ADDRESS)
        else {
            panic!("{frame:?}");
        };
        assert_eq!((mac, source, packet.len(), is_first), (MAC, GUEST, 40, false));
        for (flags, expected) in [(2, true), (0xc2, true), (0x12, false), (6, false), (0, false)] {
            let frame = self::packet(|packet| packet[33] = flags);
            let Some(ForService::Segment { is_first, .. }) = for_service(&frame, ADDRESS) else {
                panic!("{frame:?}");
            };
            assert_eq!(is_first, expected, "{flags}");
        }
    }

    #[test]
    fn what_is_to_the_address_never_passes() {
        type Change = fn(&mut Vec<u8>);
        let changes: [Change; 10] = [
            |packet| packet[9] = 17,
            |packet| packet[0] = 0x44,
            |packet| packet[0] = 0x4f,
            |packet| packet[0] = 0x65,
            |packet| packet[3] = 41,
            |packet| packet[3] = 19,
            |packet| packet[6] = 0x20,
            |packet| packet[7] = 1,
            |packet| packet[12..16].copy_from_slice(&[224, 0, 0, 1]),
            |packet| packet[12..16].copy_from_slice(&ADDRESS.octets()),
        ];
        for change in changes {
            let frame = packet(change);
            assert_eq!(for_service(&frame, ADDRESS), Some(ForService::Other), "{frame:?}");
        }
        for source in [[0, 0, 0, 0], [127, 0, 0, 1], [255, 255, 255, 255], [240, 0, 0, 1]] {
            let frame = packet(|packet| packet[12..16].copy_from_slice(&source));
            assert_eq!(for_service(&frame, ADDRESS), Some(ForService::Other));
        }
    }

    #[test]
    fn what_is_to_others_passes() {
        let other = packet(|packet| packet[19] = 253);
        assert_eq!(for_service(&other, ADDRESS), None);
        assert_eq!(for_service(&question(1, GUEST), ADDRESS), None);
        let whole = packet(|_| ());
        // A VLAN's frame: another network.
        let mut tagged = whole.clone();
        tagged.splice(12..12, [0x81, 0, 0, 5]);
        assert_eq!(for_service(&tagged, ADDRESS), None);
        for length in 0..34 {
            assert_eq!(for_service(&whole[..length], ADDRESS), None, "{length}");
        }
        assert_eq!(for_service(&whole[..34], ADDRESS), Some(ForService::Other));
    }

    #[test]
    fn the_address_is_found_by_arp() {
        let asked = for_service(&question(1, ADDRESS), ADDRESS).map(|found| format!("{found:?}"));
        let expected = ForService::WhoHas {
            mac: MAC,
            source: GUEST,
        };
        assert_eq!(asked, Some(format!("{expected:?}")));
        assert_eq!(for_service(&question(2, ADDRESS), ADDRESS), Some(ForService::Other));
        let reply = arp_reply(MAC, GUEST, ADDRESS);
        assert_eq!(reply.len(), 60);
        assert_eq!(reply[..6], MAC);
        assert_eq!(reply[6..14], [6, 1, 0x23, 0x45, 0x67, 1, 8, 6]);
        assert_eq!(reply[20..22], [0, 2]);
        assert_eq!(reply[22..28], SERVICE_MAC);
        assert_eq!(reply[28..32], ADDRESS.octets());
        assert_eq!(reply[32..38], MAC);
        assert_eq!(reply[38..42], GUEST.octets());
    }
}
