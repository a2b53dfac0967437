//! Whatever is sent, there is an answer, and the machine is told legal things only.

use proptest::prelude::*;
use ringwall_vmm_proto::{ConfigFile, Method, parse};
use serde_json::{Value, json};

use crate::client::Client;

const PATHS: &[&str] = &[
    "/",
    "/version",
    "/machine-config",
    "/boot-source",
    "/cpu-config",
    "/drives/d",
    "/drives/",
    "/network-interfaces/n",
    "/vsock",
    "/entropy",
    "/balloon",
    "/balloon/statistics",
    "/serial",
    "/logger",
    "/metrics",
    "/actions",
    "/vm",
    "/vm/config",
    "/snapshot/create",
    "/snapshot/load",
    "/mmds",
    "/mmds/config",
];

const FIELDS: &[&str] = &[
    "vcpu_count",
    "mem_size_mib",
    "smt",
    "huge_pages",
    "kernel_image_path",
    "boot_args",
    "drive_id",
    "path_on_host",
    "is_root_device",
    "rate_limiter",
    "bandwidth",
    "ops",
    "size",
    "refill_time",
    "iface_id",
    "host_dev_name",
    "guest_mac",
    "mtu",
    "guest_cid",
    "uds_path",
    "amount_mib",
    "deflate_on_oom",
    "stats_polling_interval_s",
    "action_type",
    "state",
    "snapshot_path",
    "mem_file_path",
    "mem_backend",
    "backend_type",
    "backend_path",
    "network_interfaces",
    "ipv4_address",
    "version",
    "level",
];

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (0_u64..300).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        ".{0,20}".prop_map(Value::from),
        prop::sample::select(vec![
            "d",
            "n",
            "/k",
            "tap0",
            "InstanceStart",
            "Paused",
            "Resumed",
            "2M",
            "V2",
            "File",
            "Uffd"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(prop::sample::select(FIELDS.to_vec()), inner, 0..6).prop_map(|map| {
                Value::Object(map.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
            }),
        ]
    })
}

fn method() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["GET", "PUT", "PATCH"])
}

proptest! {
    #[test]
    fn any_bytes_have_an_answer(method in method(), path in ".{0,40}", body in prop::collection::vec(any::<u8>(), 0..200)) {
        let method = Method::parse(method).unwrap();
        drop(parse(method, &path, &body));
        for path in PATHS {
            drop(parse(method, path, &body));
        }
        drop(ConfigFile::parse(&body));
    }

    #[test]
    fn any_json_has_an_answer_in_any_order(requests in prop::collection::vec((method(), prop::sample::select(PATHS.to_vec()), value()), 1..20)) {
        let mut client = Client::new();
        for (method, path, body) in requests {
            let rendered = client.send(method, path, &body.to_string());
            prop_assert!([200, 204, 400, 413].contains(&rendered.status));
            prop_assert_eq!(rendered.body.is_none(), rendered.status == 204);
        }
        let shown = client.send("GET", "/vm/config", "");
        prop_assert_eq!(shown.status, 200);
    }

    #[test]
    fn every_machine_that_is_taken_fits(vcpus in any::<u16>(), mib in any::<u64>(), smt in any::<bool>(), huge in any::<bool>()) {
        let body = json!({ "vcpu_count": vcpus, "mem_size_mib": mib, "smt": smt, "huge_pages": if huge { "2M" } else { "None" } });
        let mut client = Client::new();
        if client.send("PUT", "/machine-config", &body.to_string()).status == 204 {
            let machine = client.controller().resources().machine;
            prop_assert!((1..=32).contains(&machine.vcpu_count().get()));
            prop_assert_eq!(machine.memory().bytes() >> 20, mib);
        }
    }
}
