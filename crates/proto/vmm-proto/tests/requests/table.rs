//! One request each, to an instance that is fresh, runs, or is paused. The status stands here; the bodies stand in the snapshots.

use std::fmt::Write as _;

use ringwall_vmm_proto::Architecture;

use crate::client::Client;

type Row = (&'static str, &'static str, &'static str, u16);

/// Sends each row to an instance of its own and compares the statuses with the rows and everything with the snapshot.
fn check(name: &str, instance: impl Fn() -> Client, rows: &[Row]) {
    let mut text = String::new();
    for (method, path, body, status) in rows {
        let rendered = instance().send(method, path, body);
        let answer = rendered.body.unwrap_or_default();
        writeln!(text, "{method} {path} {body}\n  {} {answer}", rendered.status).unwrap();
        assert_eq!(rendered.status, *status, "{method} {path} {body}: {answer}");
        assert_eq!(answer.is_empty(), *status == 204, "{method} {path} {body}: {answer}");
        if *status >= 400 {
            let fault: serde_json::Value = serde_json::from_str(&answer).unwrap();
            assert!(
                fault.get("fault_message").is_some_and(serde_json::Value::is_string),
                "{answer}"
            );
        }
    }
    insta::assert_snapshot!(name, text);
}

const OK: u16 = 204;
const BAD: u16 = 400;

/// What configures a machine, well and badly.
const FRESH: &[Row] = &[
    // Questions.
    ("GET", "/", "", 200),
    ("GET", "", "", 200),
    ("GET", "//", "", 200),
    ("GET", "/?a=b", "", 200),
    ("GET", "http://localhost/", "", 200),
    ("GET", "http://localhost", "", 200),
    ("GET", "http://localhost/version", "", 200),
    ("GET", "/version", "", 200),
    ("GET", "/version/", "", 200),
    ("GET", "/version?x=/y", "", 200),
    ("GET", "/machine-config", "", 200),
    ("GET", "/vm/config", "", 200),
    ("GET", "/mmds", "", 200),
    ("GET", "/balloon", "", BAD),
    ("GET", "/balloon/statistics", "", BAD),
    ("GET", "/balloon/hinting/status", "", BAD),
    ("GET", "/balloon/other", "", BAD),
    ("GET", "/vm", "", BAD),
    ("GET", "/vm/config/x", "", BAD),
    ("GET", "/vm/other", "", BAD),
    ("GET", "/version/x", "", BAD),
    ("GET", "/machine-config/x", "", BAD),
    ("GET", "/mmds/config", "", BAD),
    ("GET", "/boot-source", "", BAD),
    ("GET", "/drives", "", BAD),
    ("GET", "/drives/d", "", BAD),
    ("GET", "/network-interfaces/n", "", BAD),
    ("GET", "/actions", "", BAD),
    ("GET", "/logger", "", BAD),
    ("GET", "/nothing", "", BAD),
    ("GET", "/../version", "", BAD),
    ("GET", "/%76ersion", "", BAD),
    ("GET", "/VERSION", "", BAD),
    ("GET", "version", "", 200),
    ("GET", "/version", "{}", BAD),
    ("GET", "/nothing", "{}", BAD),
    // No body, or no such path.
    ("PUT", "/boot-source", "", BAD),
    ("PUT", "/nothing", "", BAD),
    ("PUT", "/", "{}", BAD),
    ("PUT", "/nothing", "{}", BAD),
    ("PUT", "/version", "{}", BAD),
    ("PUT", "/vm", "{}", BAD),
    ("PUT", "/pmem/p", "{}", BAD),
    ("PUT", "/hotplug/memory", "{}", BAD),
    ("PUT", "/boot-source/x", r#"{"kernel_image_path":"/k"}"#, BAD),
    ("PATCH", "/vm", "", BAD),
    ("PATCH", "/nothing", "", BAD),
    ("PATCH", "/nothing", "{}", BAD),
    ("PATCH", "/boot-source", r#"{"kernel_image_path":"/k"}"#, BAD),
    ("PATCH", "/balloon/hinting/start", "{}", BAD),
    ("PATCH", "/balloon/hinting/stop", "{}", BAD),
    // Boot source.
    ("PUT", "/boot-source", r#"{"kernel_image_path":"/k"}"#, OK),
    ("PUT", "/boot-source/", r#"{"kernel_image_path":"/k"}"#, OK),
    (
        "PUT",
        "/boot-source",
        r#"{"kernel_image_path":"/k","initrd_path":"/i","boot_args":"a b"}"#,
        OK,
    ),
    (
        "PUT",
        "/boot-source",
        r#"{"kernel_image_path":"/k","initrd_path":null,"boot_args":null}"#,
        OK,
    ),
    ("PUT", "/boot-source", r#"{"kernel_image_path":"k","boot_args":""}"#, OK),
    ("PUT", "/boot-source", r#"{"kernel_image_path":""}"#, BAD),
    (
        "PUT",
        "/boot-source",
        r#"{"kernel_image_path":"/k","initrd_path":""}"#,
        BAD,
    ),
    ("PUT", "/boot-source", r#"{"kernel_image_path":"/k\u0000"}"#, BAD),
    (
        "PUT",
        "/boot-source",
        r#"{"kernel_image_path":"/k","boot_args":"a\nb"}"#,
        BAD,
    ),
    (
        "PUT",
        "/boot-source",
        r#"{"kernel_image_path":"/k","boot_args":"a\u0000b"}"#,
        BAD,
    ),
    (
        "PUT",
        "/boot-source",
        r#"{"kernel_image_path":"/k","boot_args":"é"}"#,
        BAD,
    ),
    ("PUT", "/boot-source", r#"{"kernel_image_path":1}"#, BAD),
    ("PUT", "/boot-source", r#"{"kernel_image_path":null}"#, BAD),
    ("PUT", "/boot-source", r#"{"boot_args":"a"}"#, BAD),
    ("PUT", "/boot-source", r#"{"kernel_image_path":"/k","other":1}"#, BAD),
    (
        "PUT",
        "/boot-source",
        r#"{"kernel_image_path":"/k","kernel_image_path":"/l"}"#,
        BAD,
    ),
    ("PUT", "/boot-source", r#"{"kernel_image_path":"/k"} x"#, BAD),
    ("PUT", "/boot-source", r#"["/k"]"#, BAD),
    ("PUT", "/boot-source", "null", BAD),
    ("PUT", "/boot-source", "{", BAD),
    ("PUT", "/boot-source", " ", BAD),
    // Machine.
    ("PUT", "/machine-config", r#"{"vcpu_count":1,"mem_size_mib":1}"#, OK),
    (
        "PUT",
        "/machine-config",
        r#"{"vcpu_count":32,"mem_size_mib":16777216}"#,
        OK,
    ),
    ("PUT", "/machine-config", r#"{"vcpu_count":3,"mem_size_mib":128}"#, OK),
    (
        "PUT",
        "/machine-config",
        r#"{"vcpu_count":2,"mem_size_mib":128,"smt":true,"track_dirty_pages":true}"#,
        OK,
    ),
    (
        "PUT",
        "/machine-config",
        r#"{"vcpu_count":1,"mem_size_mib":128,"smt":true}"#,
        OK,
    ),
    (
        "PUT",
        "/machine-config",
        r#"{"vcpu_count":2,"mem_size_mib":128,"huge_pages":"2M"}"#,
        OK,
    ),
    (
        "PUT",
        "/machine-config",
        r#"{"vcpu_count":2,"mem_size_mib":127,"huge_pages":"Transparent"}"#,
        OK,
    ),
    (
        "PUT",
        "/machine-config",
        r#"{"vcpu_count":2,"mem_size_mib":127,"huge_pages":"None"}"#,
        OK,
    ),
    (
        "PUT",
        "/machine-config",
        r#"{"vcpu_count":2,"mem_size_mib":128,"cpu_template":"None"}"#,
        OK,
    ),
    (
        "PUT",
        "/machine-config",
        r#"{"vcpu_count":2,"mem_size_mib":128,"cpu_template":null}"#,
        OK,
    ),
    (
        "PUT",
        "/machine-config",
        r#"{"vcpu_count":2,"mem_size_mib":128,"cpu_template":"T2"}"#,
        BAD,
    ),
    (
        "PUT",
        "/machine-config",
        r#"{"vcpu_count":2,"mem_size_mib":128,"cpu_template":"V1N1"}"#,
        BAD,
    ),
    (
        "PUT",
        "/machine-config",
        r#"{"vcpu_count":2,"mem_size_mib":128,"cpu_template":"X"}"#,
        BAD,
    ),
    ("PUT", "/machine-config", r#"{"vcpu_count":0,"mem_size_mib":128}"#, BAD),
    ("PUT", "/machine-config", r#"{"vcpu_count":33,"mem_size_mib":128}"#, BAD),
    (
        "PUT",
        "/machine-config",
        r#"{"vcpu_count":256,"mem_size_mib":128}"#,
        BAD,
    ),
    ("PUT", "/machine-config", r#"{"vcpu_count":-1,"mem_size_mib":128}"#, BAD),
    (
        "PUT",
        "/machine-config",
        r#"{"vcpu_count":1.5,"mem_size_mib":128}"#,
        BAD,
    ),
    (
        "PUT",
        "/machine-config",
        r#"{"vcpu_count":"1","mem_size_mib":128}"#,
        BAD,
    ),
    ("PUT", "/machine-config", r#"{"vcpu_count":1,"mem_size_mib":0}"#, BAD),
    ("PUT", "/machine-config", r#"{"vcpu_count":1,"mem_size_mib":-1}"#, BAD),
    (
        "PUT",
        "/machine-config",
        r#"{"vcpu_count":1,"mem_size_mib":16777217}"#,
        BAD,
    ),
    (
        "PUT",
        "/machine-config",
        r#"{"vcpu_count":1,"mem_size_mib":17592186044416}"#,
        BAD,
    ),
    (
        "PUT",
        "/machine-config",
        r#"{"vcpu_count":1,"mem_size_mib":18446744073709551615}"#,
        BAD,
    ),
    (
        "PUT",
        "/machine-config",
        r#"{"vcpu_count":1,"mem_size_mib":18446744073709551616}"#,
        BAD,
    ),
    ("PUT", "/machine-config", r#"{"vcpu_count":1,"mem_size_mib":1e3}"#, BAD),
    (
        "PUT",
        "/machine-config",
        r#"{"vcpu_count":1,"mem_size_mib":127,"huge_pages":"2M"}"#,
        BAD,
    ),
    (
        "PUT",
        "/machine-config",
        r#"{"vcpu_count":1,"mem_size_mib":128,"huge_pages":"1G"}"#,
        BAD,
    ),
    (
        "PUT",
        "/machine-config",
        r#"{"vcpu_count":1,"mem_size_mib":128,"huge_pages":null}"#,
        BAD,
    ),
    (
        "PUT",
        "/machine-config",
        r#"{"vcpu_count":3,"mem_size_mib":128,"smt":true}"#,
        BAD,
    ),
    (
        "PUT",
        "/machine-config",
        r#"{"vcpu_count":1,"mem_size_mib":128,"smt":"yes"}"#,
        BAD,
    ),
    (
        "PUT",
        "/machine-config",
        r#"{"vcpu_count":1,"mem_size_mib":128,"ht_enabled":true}"#,
        BAD,
    ),
    ("PUT", "/machine-config", r#"{"vcpu_count":1}"#, BAD),
    ("PUT", "/machine-config", r#"{"mem_size_mib":128}"#, BAD),
    ("PATCH", "/machine-config", r#"{"vcpu_count":4}"#, OK),
    (
        "PATCH",
        "/machine-config",
        r#"{"mem_size_mib":64,"huge_pages":"2M"}"#,
        OK,
    ),
    ("PATCH", "/machine-config", r#"{"smt":true}"#, OK),
    ("PATCH", "/machine-config", r#"{"smt":false}"#, OK),
    ("PATCH", "/machine-config", r#"{"track_dirty_pages":true}"#, OK),
    ("PATCH", "/machine-config", r#"{"cpu_template":"None"}"#, OK),
    ("PATCH", "/machine-config", r#"{"cpu_template":"T2S"}"#, BAD),
    ("PATCH", "/machine-config", r#"{}"#, BAD),
    ("PATCH", "/machine-config", r#"{"vcpu_count":null}"#, BAD),
    ("PATCH", "/machine-config", r#"{"vcpu_count":0}"#, BAD),
    ("PATCH", "/machine-config", r#"{"vcpu_count":3,"smt":true}"#, BAD),
    ("PATCH", "/machine-config", r#"{"other":1}"#, BAD),
    // CPU template.
    ("PUT", "/cpu-config", "{}", OK),
    (
        "PUT",
        "/cpu-config",
        r#"{"kvm_capabilities":[],"cpuid_modifiers":[],"msr_modifiers":[]}"#,
        OK,
    ),
    ("PUT", "/cpu-config", r#"{"reg_modifiers":[],"vcpu_features":[]}"#, OK),
    ("PUT", "/cpu-config", r#"{"kvm_capabilities":["!121"]}"#, BAD),
    (
        "PUT",
        "/cpu-config",
        r#"{"cpuid_modifiers":[{"leaf":"0x1","subleaf":"0x0","flags":0,"modifiers":[]}]}"#,
        BAD,
    ),
    (
        "PUT",
        "/cpu-config",
        r#"{"msr_modifiers":[{"addr":"0x10a","bitmap":"0b0"}]}"#,
        BAD,
    ),
    (
        "PUT",
        "/cpu-config",
        r#"{"reg_modifiers":[{"addr":"0x0","bitmap":"0b0"}]}"#,
        BAD,
    ),
    (
        "PUT",
        "/cpu-config",
        r#"{"vcpu_features":[{"index":0,"bitmap":"0b1"}]}"#,
        BAD,
    ),
    ("PUT", "/cpu-config", r#"{"other":[]}"#, BAD),
    ("PUT", "/cpu-config", r#"{"kvm_capabilities":"1"}"#, BAD),
    // Drives.
    (
        "PUT",
        "/drives/d",
        r#"{"drive_id":"d","path_on_host":"/d","is_root_device":true}"#,
        OK,
    ),
    (
        "PUT",
        "/drives/d",
        r#"{"drive_id":"d","path_on_host":"/d","is_root_device":false,"is_read_only":true}"#,
        OK,
    ),
    (
        "PUT",
        "/drives/d",
        r#"{"drive_id":"d","path_on_host":"/d","is_root_device":false,"is_read_only":null,"partuuid":null,"rate_limiter":null,"io_engine":null,"socket":null}"#,
        OK,
    ),
    (
        "PUT",
        "/drives/d",
        r#"{"drive_id":"d","path_on_host":"/d","is_root_device":false,"cache_type":"Writeback","io_engine":"Async"}"#,
        OK,
    ),
    (
        "PUT",
        "/drives/d",
        r#"{"drive_id":"d","path_on_host":"/d","is_root_device":true,"partuuid":"0eaa91a0-01"}"#,
        OK,
    ),
    (
        "PUT",
        "/drives/d",
        r#"{"drive_id":"d","path_on_host":"/d","is_root_device":true,"partuuid":"a b"}"#,
        BAD,
    ),
    (
        "PUT",
        "/drives/d",
        r#"{"drive_id":"d","path_on_host":"/d","is_root_device":true,"partuuid":""}"#,
        BAD,
    ),
    (
        "PUT",
        "/drives/d",
        r#"{"drive_id":"d","path_on_host":"/d","is_root_device":false,"rate_limiter":{}}"#,
        OK,
    ),
    (
        "PUT",
        "/drives/d",
        r#"{"drive_id":"d","path_on_host":"/d","is_root_device":false,"rate_limiter":{"bandwidth":{"size":1,"refill_time":1},"ops":{"size":1,"one_time_burst":1,"refill_time":1}}}"#,
        OK,
    ),
    (
        "PUT",
        "/drives/d",
        r#"{"drive_id":"d","path_on_host":"/d","is_root_device":false,"rate_limiter":{"bandwidth":{"size":0,"refill_time":0}}}"#,
        OK,
    ),
    (
        "PUT",
        "/drives/d",
        r#"{"drive_id":"d","path_on_host":"/d","is_root_device":false,"rate_limiter":{"bandwidth":{"size":1}}}"#,
        BAD,
    ),
    (
        "PUT",
        "/drives/d",
        r#"{"drive_id":"d","path_on_host":"/d","is_root_device":false,"rate_limiter":{"other":{}}}"#,
        BAD,
    ),
    (
        "PUT",
        "/drives/d",
        r#"{"drive_id":"d","path_on_host":"/d","is_root_device":false,"rate_limiter":{"ops":{"size":1,"refill_time":18446744073709551615}}}"#,
        BAD,
    ),
    (
        "PUT",
        "/drives/d",
        r#"{"drive_id":"d","path_on_host":"/d","is_root_device":false,"rate_limiter":{"ops":{"size":-1,"refill_time":1}}}"#,
        BAD,
    ),
    (
        "PUT",
        "/drives/e",
        r#"{"drive_id":"d","path_on_host":"/d","is_root_device":true}"#,
        BAD,
    ),
    (
        "PUT",
        "/drives",
        r#"{"drive_id":"d","path_on_host":"/d","is_root_device":true}"#,
        BAD,
    ),
    (
        "PUT",
        "/drives/",
        r#"{"drive_id":"","path_on_host":"/d","is_root_device":true}"#,
        BAD,
    ),
    (
        "PUT",
        "/drives//",
        r#"{"drive_id":"","path_on_host":"/d","is_root_device":true}"#,
        BAD,
    ),
    (
        "PUT",
        "/drives/../x",
        r#"{"drive_id":"..","path_on_host":"/d","is_root_device":true}"#,
        BAD,
    ),
    (
        "PUT",
        "/drives/..",
        r#"{"drive_id":"..","path_on_host":"/d","is_root_device":true}"#,
        BAD,
    ),
    (
        "PUT",
        "/drives/a-b",
        r#"{"drive_id":"a-b","path_on_host":"/d","is_root_device":true}"#,
        BAD,
    ),
    (
        "PUT",
        "/drives/%2e%2e",
        r#"{"drive_id":"%2e%2e","path_on_host":"/d","is_root_device":true}"#,
        BAD,
    ),
    (
        "PUT",
        "/drives/é",
        r#"{"drive_id":"é","path_on_host":"/d","is_root_device":true}"#,
        BAD,
    ),
    (
        "PUT",
        "/drives/d/x",
        r#"{"drive_id":"d","path_on_host":"/d","is_root_device":true}"#,
        BAD,
    ),
    ("PUT", "/drives/d", r#"{"drive_id":"d","is_root_device":true}"#, BAD),
    (
        "PUT",
        "/drives/d",
        r#"{"drive_id":"d","path_on_host":"","is_root_device":true}"#,
        BAD,
    ),
    ("PUT", "/drives/d", r#"{"drive_id":"d","path_on_host":"/d"}"#, BAD),
    (
        "PUT",
        "/drives/d",
        r#"{"path_on_host":"/d","is_root_device":true}"#,
        BAD,
    ),
    (
        "PUT",
        "/drives/d",
        r#"{"drive_id":1,"path_on_host":"/d","is_root_device":true}"#,
        BAD,
    ),
    (
        "PUT",
        "/drives/d",
        r#"{"drive_id":"d","is_root_device":false,"socket":"/s"}"#,
        BAD,
    ),
    (
        "PUT",
        "/drives/d",
        r#"{"drive_id":"d","path_on_host":"/d","is_root_device":false,"cache_type":"Unknown"}"#,
        BAD,
    ),
    (
        "PUT",
        "/drives/d",
        r#"{"drive_id":"d","path_on_host":"/d","is_root_device":false,"io_engine":"aio"}"#,
        BAD,
    ),
    ("PATCH", "/drives/d", r#"{"drive_id":"d","path_on_host":"/d"}"#, BAD),
    // Interfaces.
    (
        "PUT",
        "/network-interfaces/n",
        r#"{"iface_id":"n","host_dev_name":"tap0"}"#,
        OK,
    ),
    (
        "PUT",
        "/network-interfaces/n",
        r#"{"iface_id":"n","host_dev_name":"tap0","guest_mac":"06:00:AC:10:00:02","mtu":1500}"#,
        OK,
    ),
    (
        "PUT",
        "/network-interfaces/n",
        r#"{"iface_id":"n","host_dev_name":"tap0","guest_mac":null,"rx_rate_limiter":null}"#,
        OK,
    ),
    (
        "PUT",
        "/network-interfaces/n",
        r#"{"iface_id":"n","host_dev_name":"tap0","rx_rate_limiter":{"ops":{"size":1,"refill_time":1}},"tx_rate_limiter":{"bandwidth":{"size":1,"refill_time":1}}}"#,
        OK,
    ),
    (
        "PUT",
        "/network-interfaces/n",
        r#"{"iface_id":"n","host_dev_name":"tap0","guest_mac":"06:00:AC:10:00"}"#,
        BAD,
    ),
    (
        "PUT",
        "/network-interfaces/n",
        r#"{"iface_id":"n","host_dev_name":"tap0","guest_mac":""}"#,
        BAD,
    ),
    (
        "PUT",
        "/network-interfaces/n",
        r#"{"iface_id":"n","host_dev_name":"tap0","mtu":67}"#,
        BAD,
    ),
    (
        "PUT",
        "/network-interfaces/n",
        r#"{"iface_id":"n","host_dev_name":"tap0","mtu":65536}"#,
        BAD,
    ),
    (
        "PUT",
        "/network-interfaces/n",
        r#"{"iface_id":"n","host_dev_name":"1234567890123456"}"#,
        BAD,
    ),
    (
        "PUT",
        "/network-interfaces/n",
        r#"{"iface_id":"n","host_dev_name":"../tap"}"#,
        BAD,
    ),
    (
        "PUT",
        "/network-interfaces/n",
        r#"{"iface_id":"n","host_dev_name":""}"#,
        BAD,
    ),
    ("PUT", "/network-interfaces/n", r#"{"iface_id":"n"}"#, BAD),
    (
        "PUT",
        "/network-interfaces/n",
        r#"{"iface_id":"m","host_dev_name":"tap0"}"#,
        BAD,
    ),
    (
        "PUT",
        "/network-interfaces/n",
        r#"{"iface_id":"n","host_dev_name":"tap0","allow_mmds_requests":true}"#,
        BAD,
    ),
    (
        "PUT",
        "/network-interfaces",
        r#"{"iface_id":"n","host_dev_name":"tap0"}"#,
        BAD,
    ),
    ("PATCH", "/network-interfaces/n", r#"{"iface_id":"n"}"#, BAD),
    // Vsock.
    ("PUT", "/vsock", r#"{"guest_cid":3,"uds_path":"/v.sock"}"#, OK),
    ("PUT", "/vsock", r#"{"guest_cid":4294967294,"uds_path":"./v.sock"}"#, OK),
    (
        "PUT",
        "/vsock",
        r#"{"vsock_id":"old","guest_cid":3,"uds_path":"/v.sock"}"#,
        OK,
    ),
    ("PUT", "/vsock", r#"{"guest_cid":2,"uds_path":"/v.sock"}"#, BAD),
    ("PUT", "/vsock", r#"{"guest_cid":0,"uds_path":"/v.sock"}"#, BAD),
    ("PUT", "/vsock", r#"{"guest_cid":4294967295,"uds_path":"/v.sock"}"#, BAD),
    ("PUT", "/vsock", r#"{"guest_cid":4294967296,"uds_path":"/v.sock"}"#, BAD),
    ("PUT", "/vsock", r#"{"guest_cid":3,"uds_path":""}"#, BAD),
    ("PUT", "/vsock", r#"{"guest_cid":3}"#, BAD),
    // Entropy.
    ("PUT", "/entropy", "{}", OK),
    ("PUT", "/entropy", r#"{"rate_limiter":null}"#, OK),
    (
        "PUT",
        "/entropy",
        r#"{"rate_limiter":{"bandwidth":{"size":1000,"one_time_burst":0,"refill_time":100}}}"#,
        OK,
    ),
    ("PUT", "/entropy", r#"{"rate_limiter":{"bandwidth":{"size":"1"}}}"#, BAD),
    ("PUT", "/entropy", r#"{"some_key":1}"#, BAD),
    // Balloon.
    ("PUT", "/balloon", r#"{"amount_mib":0,"deflate_on_oom":false}"#, OK),
    (
        "PUT",
        "/balloon",
        r#"{"amount_mib":128,"deflate_on_oom":true,"stats_polling_interval_s":65535}"#,
        OK,
    ),
    (
        "PUT",
        "/balloon",
        r#"{"amount_mib":1,"deflate_on_oom":true,"free_page_hinting":false,"free_page_reporting":true}"#,
        OK,
    ),
    (
        "PUT",
        "/balloon",
        r#"{"amount_mib":1,"deflate_on_oom":true,"free_page_hinting":true}"#,
        BAD,
    ),
    ("PUT", "/balloon", r#"{"amount_mib":129,"deflate_on_oom":true}"#, BAD),
    (
        "PUT",
        "/balloon",
        r#"{"amount_mib":4294967296,"deflate_on_oom":true}"#,
        BAD,
    ),
    ("PUT", "/balloon", r#"{"amount_mib":-1,"deflate_on_oom":true}"#, BAD),
    (
        "PUT",
        "/balloon",
        r#"{"amount_mib":1,"deflate_on_oom":true,"stats_polling_interval_s":65536}"#,
        BAD,
    ),
    ("PUT", "/balloon", r#"{"amount_mib":1}"#, BAD),
    ("PUT", "/balloon", r#"{"deflate_on_oom":true}"#, BAD),
    ("PUT", "/balloon/statistics", r#"{"stats_polling_interval_s":1}"#, BAD),
    ("PATCH", "/balloon", r#"{"amount_mib":1}"#, BAD),
    ("PATCH", "/balloon/statistics", r#"{"stats_polling_interval_s":1}"#, BAD),
    // Serial, logger, metrics.
    ("PUT", "/serial", "{}", OK),
    ("PUT", "/serial", r#"{"serial_out_path":"/s"}"#, OK),
    (
        "PUT",
        "/serial",
        r#"{"serial_out_path":null,"rate_limiter":{"size":1,"refill_time":1}}"#,
        OK,
    ),
    ("PUT", "/serial", r#"{"serial_out_path":""}"#, BAD),
    ("PUT", "/serial", r#"{"other":1}"#, BAD),
    ("PUT", "/logger", "{}", OK),
    (
        "PUT",
        "/logger",
        r#"{"log_path":"/l","level":"Warning","show_level":true,"show_log_origin":true,"module":"api"}"#,
        OK,
    ),
    ("PUT", "/logger", r#"{"level":"tRaCe"}"#, OK),
    ("PUT", "/logger", r#"{"level":"Off"}"#, OK),
    ("PUT", "/logger", r#"{"level":"warn"}"#, OK),
    ("PUT", "/logger", r#"{"level":"loud"}"#, BAD),
    ("PUT", "/logger", r#"{"level":1}"#, BAD),
    ("PUT", "/logger", r#"{"log_path":""}"#, BAD),
    ("PUT", "/logger", r#"{"other":1}"#, BAD),
    ("PUT", "/metrics", r#"{"metrics_path":"/m"}"#, OK),
    ("PUT", "/metrics", r#"{"metrics_path":""}"#, BAD),
    ("PUT", "/metrics", "{}", BAD),
    ("PUT", "/metrics", r#"{"metrics_path":"/m","other":1}"#, BAD),
    // Metadata.
    ("PUT", "/mmds", r#"{"a":{"b":[1,null,"é"]}}"#, OK),
    ("PUT", "/mmds", "{}", OK),
    ("PUT", "/mmds", "[]", BAD),
    ("PUT", "/mmds", "1", BAD),
    ("PUT", "/mmds", "null", BAD),
    ("PUT", "/mmds", r#"{"a":NaN}"#, BAD),
    ("PUT", "/mmds/other", "{}", BAD),
    ("PATCH", "/mmds", r#"{"a":1}"#, BAD),
    ("PATCH", "/mmds/config", "{}", BAD),
    ("PUT", "/mmds/config", r#"{"network_interfaces":["n"]}"#, BAD),
    ("PUT", "/mmds/config", r#"{"network_interfaces":[]}"#, BAD),
    (
        "PUT",
        "/mmds/config",
        r#"{"version":"V3","network_interfaces":["n"]}"#,
        BAD,
    ),
    ("PUT", "/mmds/config", r#"{"version":"V2"}"#, BAD),
    ("PUT", "/mmds/config", r#"{"network_interfaces":["n","n"]}"#, BAD),
    (
        "PUT",
        "/mmds/config",
        r#"{"network_interfaces":["n"],"ipv4_address":"10.0.0.1"}"#,
        BAD,
    ),
    (
        "PUT",
        "/mmds/config",
        r#"{"network_interfaces":["n"],"ipv4_address":"169.254.0.1"}"#,
        BAD,
    ),
    (
        "PUT",
        "/mmds/config",
        r#"{"network_interfaces":["n"],"ipv4_address":""}"#,
        BAD,
    ),
    // Actions and states.
    ("PUT", "/actions", r#"{"action_type":"InstanceStart"}"#, BAD),
    ("PUT", "/actions", r#"{"action_type":"FlushMetrics"}"#, BAD),
    ("PUT", "/actions", r#"{"action_type":"SendCtrlAltDel"}"#, BAD),
    ("PUT", "/actions", r#"{"action_type":"BlockDeviceRescan"}"#, BAD),
    (
        "PUT",
        "/actions",
        r#"{"action_type":"InstanceStart","payload":""}"#,
        BAD,
    ),
    ("PUT", "/actions", "{}", BAD),
    ("PATCH", "/vm", r#"{"state":"Paused"}"#, BAD),
    ("PATCH", "/vm", r#"{"state":"Resumed"}"#, BAD),
    ("PATCH", "/vm", r#"{"state":"Running"}"#, BAD),
    ("PATCH", "/vm", "{}", BAD),
    // Snapshots.
    ("PUT", "/snapshot", "{}", BAD),
    ("PUT", "/snapshot/other", "{}", BAD),
    (
        "PUT",
        "/snapshot/create",
        r#"{"snapshot_path":"/s","mem_file_path":"/m"}"#,
        BAD,
    ),
    (
        "PUT",
        "/snapshot/load",
        r#"{"snapshot_path":"/s","mem_file_path":"/m"}"#,
        OK,
    ),
    (
        "PUT",
        "/snapshot/load",
        r#"{"snapshot_path":"/s","mem_backend":{"backend_type":"File","backend_path":"/m"}}"#,
        OK,
    ),
    (
        "PUT",
        "/snapshot/load",
        r#"{"snapshot_path":"/s","mem_backend":{"backend_type":"Uffd","backend_path":"/u"},"resume_vm":true}"#,
        OK,
    ),
    (
        "PUT",
        "/snapshot/load",
        r#"{"snapshot_path":"/s","mem_backend":{"backend_type":"File","backend_path":"/m"},"track_dirty_pages":true,"enable_diff_snapshots":true,"network_overrides":[{"iface_id":"n","host_dev_name":"tap1"}],"vsock_override":{"uds_path":"/v"},"clock_realtime":true}"#,
        OK,
    ),
    ("PUT", "/snapshot/load", r#"{"snapshot_path":"/s"}"#, BAD),
    (
        "PUT",
        "/snapshot/load",
        r#"{"snapshot_path":"/s","mem_file_path":"/m","mem_backend":{"backend_type":"File","backend_path":"/m"}}"#,
        BAD,
    ),
    ("PUT", "/snapshot/load", r#"{"mem_file_path":"/m"}"#, BAD),
    (
        "PUT",
        "/snapshot/load",
        r#"{"snapshot_path":"/s","mem_backend":{"backend_type":"Other","backend_path":"/m"}}"#,
        BAD,
    ),
    (
        "PUT",
        "/snapshot/load",
        r#"{"snapshot_path":"/s","mem_backend":{"backend_type":"File"}}"#,
        BAD,
    ),
    (
        "PUT",
        "/snapshot/load",
        r#"{"snapshot_path":"/s","mem_backend":{"backend_path":"/m"}}"#,
        BAD,
    ),
    (
        "PUT",
        "/snapshot/load",
        r#"{"snapshot_path":"/s","mem_backend":{"backend_type":"Uffd","backend_path":""}}"#,
        BAD,
    ),
    (
        "PUT",
        "/snapshot/load",
        r#"{"snapshot_path":"","mem_file_path":"/m"}"#,
        BAD,
    ),
    (
        "PUT",
        "/snapshot/load",
        r#"{"snapshot_path":"/s","mem_file_path":"/m","network_overrides":[{"iface_id":"n","host_dev_name":"a"},{"iface_id":"n","host_dev_name":"b"}]}"#,
        BAD,
    ),
    (
        "PUT",
        "/snapshot/load",
        r#"{"snapshot_path":"/s","mem_file_path":"/m","network_overrides":[{"iface_id":"n","host_dev_name":"a/b"}]}"#,
        BAD,
    ),
    (
        "PUT",
        "/snapshot/load",
        r#"{"snapshot_path":"/s","mem_file_path":"/m","other":1}"#,
        BAD,
    ),
];

/// What a running machine takes.
const RUNNING: &[Row] = &[
    ("GET", "/", "", 200),
    ("GET", "/version", "", 200),
    ("GET", "/machine-config", "", 200),
    ("GET", "/vm/config", "", 200),
    ("GET", "/balloon", "", 200),
    ("GET", "/balloon/statistics", "", 200),
    ("GET", "/mmds", "", 200),
    ("PUT", "/mmds", r#"{"a":1}"#, OK),
    ("PUT", "/boot-source", r#"{"kernel_image_path":"/k"}"#, BAD),
    ("PUT", "/machine-config", r#"{"vcpu_count":1,"mem_size_mib":128}"#, BAD),
    ("PATCH", "/machine-config", r#"{"vcpu_count":1}"#, BAD),
    ("PUT", "/cpu-config", "{}", BAD),
    (
        "PUT",
        "/drives/d",
        r#"{"drive_id":"d","path_on_host":"/d","is_root_device":true}"#,
        BAD,
    ),
    (
        "PUT",
        "/network-interfaces/n",
        r#"{"iface_id":"n","host_dev_name":"tap0"}"#,
        BAD,
    ),
    ("PUT", "/vsock", r#"{"guest_cid":3,"uds_path":"/v.sock"}"#, BAD),
    ("PUT", "/entropy", "{}", BAD),
    ("PUT", "/balloon", r#"{"amount_mib":1,"deflate_on_oom":true}"#, BAD),
    ("PUT", "/serial", "{}", BAD),
    ("PUT", "/logger", "{}", BAD),
    ("PUT", "/metrics", r#"{"metrics_path":"/m"}"#, BAD),
    ("PUT", "/mmds/config", r#"{"network_interfaces":["n"]}"#, BAD),
    (
        "PUT",
        "/snapshot/load",
        r#"{"snapshot_path":"/s","mem_file_path":"/m"}"#,
        BAD,
    ),
    (
        "PUT",
        "/snapshot/create",
        r#"{"snapshot_path":"/s","mem_file_path":"/m"}"#,
        BAD,
    ),
    ("PUT", "/actions", r#"{"action_type":"InstanceStart"}"#, BAD),
    ("PUT", "/actions", r#"{"action_type":"FlushMetrics"}"#, OK),
    ("PUT", "/actions", r#"{"action_type":"SendCtrlAltDel"}"#, OK),
    ("PATCH", "/vm", r#"{"state":"Paused"}"#, OK),
    ("PATCH", "/vm", r#"{"state":"Resumed"}"#, OK),
    ("PATCH", "/drives/d", r#"{"drive_id":"d"}"#, OK),
    ("PATCH", "/drives/d", r#"{"drive_id":"d","path_on_host":"/e"}"#, OK),
    (
        "PATCH",
        "/drives/d",
        r#"{"drive_id":"d","rate_limiter":{"ops":{"size":1,"refill_time":1}}}"#,
        OK,
    ),
    ("PATCH", "/drives/d", r#"{"drive_id":"d","path_on_host":""}"#, BAD),
    ("PATCH", "/drives/d", r#"{"drive_id":"e"}"#, BAD),
    ("PATCH", "/drives/e", r#"{"drive_id":"e"}"#, BAD),
    ("PATCH", "/drives/d", r#"{"drive_id":"d","is_read_only":true}"#, BAD),
    ("PATCH", "/drives", r#"{"drive_id":"d"}"#, BAD),
    (
        "PATCH",
        "/network-interfaces/n",
        r#"{"iface_id":"n","rx_rate_limiter":{"ops":{"size":1,"refill_time":1}}}"#,
        OK,
    ),
    ("PATCH", "/network-interfaces/n", r#"{"iface_id":"n"}"#, OK),
    ("PATCH", "/network-interfaces/m", r#"{"iface_id":"m"}"#, BAD),
    (
        "PATCH",
        "/network-interfaces/n",
        r#"{"iface_id":"n","host_dev_name":"tap1"}"#,
        BAD,
    ),
    ("PATCH", "/balloon", r#"{"amount_mib":128}"#, OK),
    ("PATCH", "/balloon", r#"{"amount_mib":129}"#, BAD),
    ("PATCH", "/balloon", r#"{"amount_mib":1,"deflate_on_oom":true}"#, BAD),
    ("PATCH", "/balloon/statistics", r#"{"stats_polling_interval_s":2}"#, OK),
    ("PATCH", "/balloon/statistics", r#"{"stats_polling_interval_s":0}"#, BAD),
    ("PATCH", "/balloon/other", r#"{"amount_mib":1}"#, BAD),
];

/// What a paused machine takes, where it differs.
const PAUSED: &[Row] = &[
    ("GET", "/", "", 200),
    ("PATCH", "/vm", r#"{"state":"Paused"}"#, OK),
    ("PATCH", "/vm", r#"{"state":"Resumed"}"#, OK),
    (
        "PUT",
        "/snapshot/create",
        r#"{"snapshot_path":"/s","mem_file_path":"/m"}"#,
        OK,
    ),
    (
        "PUT",
        "/snapshot/create",
        r#"{"snapshot_type":"Full","snapshot_path":"/s","mem_file_path":"/m"}"#,
        OK,
    ),
    (
        "PUT",
        "/snapshot/create",
        r#"{"snapshot_type":"Diff","snapshot_path":"/s","mem_file_path":"/m"}"#,
        OK,
    ),
    (
        "PUT",
        "/snapshot/create",
        r#"{"snapshot_type":"Other","snapshot_path":"/s","mem_file_path":"/m"}"#,
        BAD,
    ),
    (
        "PUT",
        "/snapshot/create",
        r#"{"snapshot_path":"/s","mem_file_path":"/s"}"#,
        BAD,
    ),
    ("PUT", "/snapshot/create", r#"{"snapshot_path":"/s"}"#, BAD),
    ("PUT", "/snapshot/create", r#"{"mem_file_path":"/m"}"#, BAD),
    (
        "PUT",
        "/snapshot/create",
        r#"{"snapshot_path":"/s","mem_file_path":"/m","version":"1.0"}"#,
        BAD,
    ),
    ("PATCH", "/drives/d", r#"{"drive_id":"d","path_on_host":"/e"}"#, OK),
    ("PUT", "/actions", r#"{"action_type":"InstanceStart"}"#, BAD),
];

#[test]
fn a_fresh_instance_is_configured() {
    check("fresh", Client::new, FRESH);
}

#[test]
fn a_running_instance_is_changed_but_not_configured() {
    check("running", Client::running, RUNNING);
}

#[test]
fn a_paused_instance_can_be_snapshotted() {
    check("paused", Client::paused, PAUSED);
}

#[test]
fn aarch64_has_no_threads_and_no_keyboard() {
    let rows: &[Row] = &[
        (
            "PUT",
            "/machine-config",
            r#"{"vcpu_count":2,"mem_size_mib":128,"smt":true}"#,
            BAD,
        ),
        (
            "PUT",
            "/machine-config",
            r#"{"vcpu_count":2,"mem_size_mib":128,"smt":false}"#,
            OK,
        ),
        ("PATCH", "/machine-config", r#"{"smt":true}"#, BAD),
    ];
    check("aarch64", || Client::on(Architecture::Aarch64), rows);
    let mut client = Client::on(Architecture::Aarch64);
    client.send("PUT", "/boot-source", r#"{"kernel_image_path":"/k"}"#);
    client.send("PUT", "/actions", r#"{"action_type":"InstanceStart"}"#);
    assert_eq!(
        client
            .send("PUT", "/actions", r#"{"action_type":"SendCtrlAltDel"}"#)
            .status,
        BAD
    );
}
