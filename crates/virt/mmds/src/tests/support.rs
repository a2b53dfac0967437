//! A service with metadata.

use std::sync::{Arc, Mutex};

use ringwall_vmm_proto::mmds_store::SharedStore;
use ringwall_vmm_proto::{MmdsStore, MmdsVersion};

use crate::service::Service;

pub(crate) fn store(metadata: &str) -> SharedStore {
    let mut store = MmdsStore::new(1 << 22);
    store.put(serde_json::from_str(metadata).unwrap()).unwrap();
    Arc::new(Mutex::new(store))
}

pub(crate) fn service(version: MmdsVersion, imds_compat: bool, metadata: &str) -> Service {
    let config = ringwall_vmm_proto::MmdsConfig {
        version,
        network_interfaces: Vec::new(),
        ipv4_address: ringwall_vmm_proto::mmds::DEFAULT_ADDRESS,
        imds_compat,
    };
    Service::new(&config, store(metadata)).unwrap()
}
