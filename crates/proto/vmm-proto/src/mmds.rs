//! `/mmds/config`: the metadata service that a guest can ask.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::error::ValueError;
use crate::name::ResourceId;

/// The service's address if nobody says otherwise.
pub const DEFAULT_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// Most interfaces in one configuration. Ours: more than devices fit on the bus.
const MAX_INTERFACES: usize = 64;

/// How the guest asks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MmdsVersion {
    /// By plain requests; deprecated.
    #[default]
    V1,
    /// With a token that it must fetch first.
    V2,
}

/// The body of PUT.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct WireMmdsConfig {
    #[serde(default)]
    version: MmdsVersion,
    network_interfaces: Vec<String>,
    #[serde(default)]
    ipv4_address: Option<Ipv4Addr>,
    #[serde(default)]
    imds_compat: bool,
}

/// The metadata service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MmdsConfig {
    /// How the guest asks.
    pub version: MmdsVersion,
    /// Interfaces that the service is reached by; at least one, none twice.
    pub network_interfaces: Vec<ResourceId>,
    /// Its address.
    pub ipv4_address: Ipv4Addr,
    /// Whether answers are plain text whatever the guest asks for, as EC2's are.
    pub imds_compat: bool,
}

impl WireMmdsConfig {
    /// Whether the old way is asked for.
    pub(crate) fn is_deprecated(&self) -> bool {
        self.version == MmdsVersion::V1
    }

    /// The checked configuration, with ids checked by `id`.
    pub(crate) fn check(self, id: impl Fn(&str) -> Result<ResourceId, ValueError>) -> Result<MmdsConfig, ValueError> {
        let field = "network_interfaces";
        if self.network_interfaces.is_empty() {
            return Err(ValueError::NoMmdsInterfaces);
        }
        if self.network_interfaces.len() > MAX_INTERFACES {
            return Err(ValueError::LongList {
                field,
                got: self.network_interfaces.len(),
                max: MAX_INTERFACES,
            });
        }
        let mut network_interfaces: Vec<ResourceId> = Vec::with_capacity(self.network_interfaces.len());
        for name in &self.network_interfaces {
            let id = id(name)?;
            if network_interfaces.contains(&id) {
                return Err(ValueError::RepeatedId {
                    field,
                    id: id.to_string(),
                });
            }
            network_interfaces.push(id);
        }
        let ipv4_address = self.ipv4_address.unwrap_or(DEFAULT_ADDRESS);
        if !is_link_local(ipv4_address) {
            return Err(ValueError::MmdsAddress { got: ipv4_address });
        }
        Ok(MmdsConfig {
            version: self.version,
            network_interfaces,
            ipv4_address,
            imds_compat: self.imds_compat,
        })
    }
}

/// Link-local without the first and last 256 addresses, which are reserved (RFC 3927 §2.1).
fn is_link_local(address: Ipv4Addr) -> bool {
    matches!(address.octets(), [169, 254, 1..=254, _])
}
