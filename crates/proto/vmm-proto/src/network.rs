//! `/network-interfaces/{id}`: network devices.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use crate::error::ValueError;
use crate::name::ResourceId;
use crate::path::Place;
use crate::rate_limiter::{RateLimiter, WireLimiter};

/// Longest name of a network device in bytes (`IFNAMSIZ` less the NUL, include/uapi/linux/if.h).
pub const MAX_DEVICE_NAME_BYTES: usize = 15;

/// Least MTU (RFC 791: every host takes 68 octets; `ETH_MIN_MTU`).
pub const MIN_MTU: u16 = 68;

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// Reads six pairs of hexadecimal digits between colons.
    ///
    /// # Errors
    /// [`ValueError::Mac`].
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(ValueError::Mac)?;
            // `from_str_radix` takes a sign, which is no digit.
            if !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(ValueError::Mac);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| ValueError::Mac)?;
        }
        if parts.next().is_some() {
            Err(ValueError::Mac)
        } else {
            Ok(Self(bytes))
        }
    }

    /// The six bytes, in the order of transmission.
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Serialize for MacAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A network device's name on the host, as the kernel takes it (`dev_valid_name`, net/core/dev.c), or a tap device's descriptor: no name has the
/// colon in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct DeviceName(String);

impl DeviceName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`ValueError::DeviceName`].
    pub fn new(name: String) -> Result<Self, ValueError> {
        let fits = !name.is_empty() && name.len() <= MAX_DEVICE_NAME_BYTES && name != "." && name != "..";
        // '%' would make the kernel number the device (tun(4) templates), so the name wouldn't be the one that was asked for.
        let good = name
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%'));
        if (fits && good) || crate::path::is_descriptor(&name) {
            Ok(Self(name))
        } else {
            Err(ValueError::DeviceName)
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The descriptor that it is, if it is no name.
    pub fn descriptor(&self) -> Option<u16> {
        match crate::path::place(&self.0) {
            Place::Descriptor(number) => Some(number),
            Place::Path(_) => None,
        }
    }
}

/// A largest frame, [`MIN_MTU`] or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Mtu(u16);

impl Mtu {
    /// Checks a number of bytes.
    ///
    /// # Errors
    /// [`ValueError::Mtu`].
    pub fn new(bytes: u32) -> Result<Self, ValueError> {
        match u16::try_from(bytes) {
            Ok(mtu) if mtu >= MIN_MTU => Ok(Self(mtu)),
            _ => Err(ValueError::Mtu { got: bytes }),
        }
    }

    /// The number of bytes.
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// The body of PUT.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct WireInterface {
    pub(crate) iface_id: String,
    host_dev_name: String,
    #[serde(default)]
    guest_mac: Option<String>,
    #[serde(default)]
    mtu: Option<u32>,
    #[serde(default)]
    rx_rate_limiter: Option<WireLimiter>,
    #[serde(default)]
    tx_rate_limiter: Option<WireLimiter>,
}

/// The body of PATCH.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct WireInterfaceUpdate {
    pub(crate) iface_id: String,
    #[serde(default)]
    rx_rate_limiter: Option<WireLimiter>,
    #[serde(default)]
    tx_rate_limiter: Option<WireLimiter>,
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkInterface {
    /// Its id.
    pub iface_id: ResourceId,
    /// The tap device on the host.
    pub host_dev_name: DeviceName,
    /// The guest's address; the guest makes one up without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_mac: Option<MacAddress>,
    /// The MTU that is told to the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<Mtu>,
    /// Limits of what the guest receives.
    pub rx_rate_limiter: Option<RateLimiter>,
    /// Limits of what the guest sends.
    pub tx_rate_limiter: Option<RateLimiter>,
}

/// Changes to a network device of a running machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkUpdate {
    /// Which.
    pub iface_id: ResourceId,
    /// New limits of what the guest receives.
    pub rx_rate_limiter: Option<RateLimiter>,
    /// New limits of what the guest sends.
    pub tx_rate_limiter: Option<RateLimiter>,
}

impl WireInterface {
    /// The interface with its checked id.
    pub(crate) fn check(self, iface_id: ResourceId) -> Result<NetworkInterface, ValueError> {
        Ok(NetworkInterface {
            iface_id,
            host_dev_name: DeviceName::new(self.host_dev_name)?,
            guest_mac: self.guest_mac.as_deref().map(MacAddress::parse).transpose()?,
            mtu: self.mtu.map(Mtu::new).transpose()?,
            rx_rate_limiter: RateLimiter::from_wire(self.rx_rate_limiter)?,
            tx_rate_limiter: RateLimiter::from_wire(self.tx_rate_limiter)?,
        })
    }
}

impl WireInterfaceUpdate {
    /// The update with its checked id.
    pub(crate) fn check(self, iface_id: ResourceId) -> Result<NetworkUpdate, ValueError> {
        Ok(NetworkUpdate {
            iface_id,
            rx_rate_limiter: RateLimiter::from_wire(self.rx_rate_limiter)?,
            tx_rate_limiter: RateLimiter::from_wire(self.tx_rate_limiter)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses_are_six_pairs() {
        let mac = MacAddress::parse("06:00:AC:10:00:02").unwrap();
        assert_eq!(mac.bytes(), [6, 0, 0xac, 0x10, 0, 2]);
        assert_eq!(mac.to_string(), "06:00:ac:10:00:02");
        for bad in [
            "",
            "06",
            "06:00:ac:10:00",
            "06:00:ac:10:00:02:03",
            "+6:00:ac:10:00:02",
            "06-00-ac-10-00-02",
            "6:0:ac:10:0:2",
            "é:00:ac:10:00:02",
        ] {
            assert_eq!(MacAddress::parse(bad), Err(ValueError::Mac), "{bad:?}");
        }
    }

    #[test]
    fn device_names_are_the_kernels() {
        for good in ["tap0", "fc-tap.1", "123456789012345", "fd:7"] {
            assert!(DeviceName::new(good.into()).is_ok(), "{good:?}");
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "tap%d",
            "a b",
            "1234567890123456",
            "ta\np",
            "täp",
            "fd:2",
            "fd:07",
        ] {
            assert_eq!(DeviceName::new(bad.into()), Err(ValueError::DeviceName), "{bad:?}");
        }
    }
}
