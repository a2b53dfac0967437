//! The configuration space (`struct virtio_net_config`, VIRTIO 1.2 §5.1.4), as a pure function.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bytes of the structure up to and with the MTU.
const CONFIG_BYTES: usize = 12;

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The structure's bytes. What a feature is not on offer for is zero; the driver does not look.
fn config_space(mac: Option<MacAddress>, mtu: Option<u16>) -> [u8; CONFIG_BYTES] {
    let [a, b, c, d, e, f] = mac.map_or([0; 6], |mac| mac.0);
    // `status` and `max_virtqueue_pairs` are not on offer: the link is always up, and there is one pair.
    let [m0, m1] = mtu.unwrap_or(0).to_le_bytes();
    [a, b, c, d, e, f, 0, 0, 0, 0, m0, m1]
}

/// Answers a read at any offset and of any length; what is outside is zero.
pub(super) fn read(mac: Option<MacAddress>, mtu: Option<u16>, offset: u64, data: &mut [u8]) {
    let space = config_space(mac, mtu);
    let from = usize::try_from(offset).ok().and_then(|offset| space.get(offset..));
    let mut bytes = from.unwrap_or(&[]).iter();
    for place in data {
        *place = bytes.next().copied().unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_standard_says() {
        let address = MacAddress([2, 0, 0, 0xaa, 0xbb, 0xcc]);
        assert_eq!(address.to_string(), "02:00:00:aa:bb:cc");
        let mac = Some(address);
        let mut space = [0xff; 16];
        read(mac, Some(1500), 0, &mut space);
        assert_eq!(space, [2, 0, 0, 0xaa, 0xbb, 0xcc, 0, 0, 0, 0, 0xdc, 5, 0, 0, 0, 0]);
        let mut byte = [0xff];
        read(mac, None, 5, &mut byte);
        assert_eq!(byte, [0xcc]);
        read(mac, None, u64::MAX, &mut byte);
        assert_eq!(byte, [0]);
    }
}
