//! Bodies and paths that no honest client sends.

use crate::client::Client;

/// Every path that takes a body.
const BODIES: &[(&str, &str)] = &[
    ("PUT", "/actions"),
    ("PUT", "/balloon"),
    ("PUT", "/boot-source"),
    ("PUT", "/cpu-config"),
    ("PUT", "/drives/d"),
    ("PUT", "/entropy"),
    ("PUT", "/logger"),
    ("PUT", "/machine-config"),
    ("PUT", "/metrics"),
    ("PUT", "/mmds"),
    ("PUT", "/mmds/config"),
    ("PUT", "/network-interfaces/n"),
    ("PUT", "/serial"),
    ("PUT", "/snapshot/create"),
    ("PUT", "/snapshot/load"),
    ("PUT", "/vsock"),
    ("PATCH", "/balloon"),
    ("PATCH", "/balloon/statistics"),
    ("PATCH", "/drives/d"),
    ("PATCH", "/machine-config"),
    ("PATCH", "/mmds"),
    ("PATCH", "/network-interfaces/n"),
    ("PATCH", "/vm"),
];

#[test]
fn what_is_no_object_is_refused_everywhere() {
    let deep = format!("{}{}", "[".repeat(25_000), "]".repeat(25_000));
    let deep_object = r#"{"a":"#.repeat(10_000);
    let bodies: Vec<Vec<u8>> = vec![
        b"null".to_vec(),
        b"true".to_vec(),
        b"1".to_vec(),
        b"\"text\"".to_vec(),
        b"NaN".to_vec(),
        b"{NaN:1}".to_vec(),
        b"{'a':1}".to_vec(),
        b"{\"a\":Infinity}".to_vec(),
        b"{\"a\":1,}".to_vec(),
        b"{\"a\"}".to_vec(),
        b"// comment\n{}".to_vec(),
        b"{} {}".to_vec(),
        b"\xef\xbb\xbf{}".to_vec(),
        b"\xff\xfe".to_vec(),
        b"{\"a\":\"\xc0\x80\"}".to_vec(),
        b"{\"a\":\"\\ud800\"}".to_vec(),
        b"\0".to_vec(),
        b"{\"unknown_field\":1e999999}".to_vec(),
        deep.into_bytes(),
        deep_object.into_bytes(),
    ];
    for (method, path) in BODIES {
        for body in &bodies {
            let rendered = Client::new().send_bytes(method, path, body);
            let text = rendered.body.unwrap_or_default();
            assert_eq!(
                rendered.status,
                400,
                "{method} {path} {:?}: {text}",
                String::from_utf8_lossy(body)
            );
            assert!(text.len() < 8192, "{} bytes of answer", text.len());
        }
    }
}

#[test]
fn duplicate_fields_are_refused() {
    for (method, path, body) in [
        (
            "PUT",
            "/machine-config",
            r#"{"vcpu_count":1,"vcpu_count":2,"mem_size_mib":128}"#,
        ),
        (
            "PUT",
            "/drives/d",
            r#"{"drive_id":"d","drive_id":"d","path_on_host":"/d","is_root_device":true}"#,
        ),
        (
            "PUT",
            "/drives/d",
            r#"{"drive_id":"d","path_on_host":"/d","is_root_device":true,"rate_limiter":{"ops":{"size":1,"size":2,"refill_time":1}}}"#,
        ),
        ("PUT", "/vsock", r#"{"guest_cid":3,"guest_cid":4,"uds_path":"/v"}"#),
        (
            "PUT",
            "/actions",
            r#"{"action_type":"InstanceStart","action_type":"InstanceStart"}"#,
        ),
    ] {
        let rendered = Client::new().send(method, path, body);
        assert_eq!(rendered.status, 400);
        assert!(rendered.body.unwrap().contains("duplicate field"), "{body}");
    }
}

#[test]
fn ids_cannot_leave_their_place() {
    for id in [
        "..",
        ".",
        "a/../b",
        "%2e%2e",
        "%2F",
        "a%00",
        "a\u{0}",
        "é",
        "𝐚",
        "а",
        "a b",
        "a\t",
        "-",
        "a.b",
        "\u{202e}a",
    ] {
        let body = serde_json::json!({ "drive_id": id, "path_on_host": "/d", "is_root_device": true }).to_string();
        let rendered = Client::new().send("PUT", &format!("/drives/{id}"), &body);
        assert_eq!(rendered.status, 400, "{id:?}");
        let body = serde_json::json!({ "iface_id": id, "host_dev_name": "tap0" }).to_string();
        let rendered = Client::new().send("PUT", &format!("/network-interfaces/{id}"), &body);
        assert_eq!(rendered.status, 400, "{id:?}");
    }
    let long = "x".repeat(65);
    let body = serde_json::json!({ "drive_id": long, "path_on_host": "/d", "is_root_device": true }).to_string();
    assert_eq!(Client::new().send("PUT", &format!("/drives/{long}"), &body).status, 400);
}

#[test]
fn answers_stay_short_whatever_they_quote() {
    let long = "x".repeat(50_000);
    let unknown_field = format!(r#"{{"{long}":1}}"#);
    let unknown_variant = format!(r#"{{"action_type":"{long}"}}"#);
    let quotes = format!(r#"{{"action_type":"{}"}}"#, "\\\"".repeat(20_000));
    let id = format!(r#"{{"drive_id":"{long}","path_on_host":"/d","is_root_device":true}}"#);
    for (method, path, body) in [
        ("PUT", "/boot-source", unknown_field.as_str()),
        ("PUT", "/actions", &unknown_variant),
        ("PUT", "/actions", &quotes),
        ("PUT", "/drives/d", &id),
        ("GET", &format!("/{long}"), ""),
    ] {
        let rendered = Client::new().send(method, path, body);
        assert_eq!(rendered.status, 400);
        assert!(rendered.body.unwrap().len() < 8192);
    }
}

#[test]
fn deep_metadata_is_refused_and_deep_merges_stay_bounded() {
    let nested = |depth: usize| format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
    let mut client = Client::new();
    assert_eq!(client.send("PUT", "/mmds", &nested(127)).status, 204);
    assert_eq!(client.send("PATCH", "/mmds", &nested(127)).status, 204);
    assert_eq!(client.send("PATCH", "/mmds", &nested(128)).status, 400);
    assert_eq!(client.send("GET", "/mmds", "").body.unwrap(), nested(127));
}

#[test]
fn long_command_lines_and_paths_are_refused() {
    let boot = |path: &str, args: &str| {
        let body = serde_json::json!({ "kernel_image_path": path, "boot_args": args }).to_string();
        Client::new().send("PUT", "/boot-source", &body).status
    };
    assert_eq!(boot("/k", &"a".repeat(2047)), 204);
    assert_eq!(boot("/k", &"a".repeat(2048)), 400);
    assert_eq!(boot(&"a".repeat(4095), ""), 204);
    assert_eq!(boot(&"a".repeat(4096), ""), 400);
    let vsock = |path: &str| {
        let body = serde_json::json!({ "guest_cid": 3, "uds_path": path }).to_string();
        Client::new().send("PUT", "/vsock", &body).status
    };
    // Room for "_4294967295".
    assert_eq!(vsock(&"a".repeat(96)), 204);
    assert_eq!(vsock(&"a".repeat(97)), 400);
}
