//! Several requests to one instance, where what came before matters.

use ringwall_vmm_proto::{Action, Command, Method, Need, VmState, parse};

use crate::client::Client;

fn drive(id: &str, is_root: bool) -> String {
    format!(r#"{{"drive_id":"{id}","path_on_host":"/{id}","is_root_device":{is_root}}}"#)
}

#[test]
fn a_drive_with_a_known_id_is_replaced_and_the_root_comes_first() {
    let mut client = Client::new();
    for (id, is_root) in [("a", false), ("b", false), ("root", true), ("c", false)] {
        assert_eq!(
            client.send("PUT", &format!("/drives/{id}"), &drive(id, is_root)).status,
            204
        );
    }
    let second = client.send("PUT", "/drives/other", &drive("other", true));
    assert_eq!(second.status, 400);
    assert!(second.body.unwrap().contains("drive root is the root device already"));
    let order = |client: &mut Client| -> Vec<String> {
        client
            .controller()
            .resources()
            .drives
            .iter()
            .map(|drive| drive.drive_id.to_string())
            .collect()
    };
    assert_eq!(order(&mut client), ["root", "a", "b", "c"]);
    // The root may become an ordinary drive, and another one the root.
    assert_eq!(client.send("PUT", "/drives/root", &drive("root", false)).status, 204);
    assert_eq!(client.send("PUT", "/drives/b", &drive("b", true)).status, 204);
    assert_eq!(order(&mut client), ["b", "root", "a", "c"]);
}

#[test]
fn two_interfaces_share_neither_address_nor_tap() {
    let mut client = Client::new();
    let put = |client: &mut Client, id: &str, tap: &str, mac: &str| {
        let body = format!(r#"{{"iface_id":"{id}","host_dev_name":"{tap}","guest_mac":"{mac}"}}"#);
        client.send("PUT", &format!("/network-interfaces/{id}"), &body).status
    };
    assert_eq!(put(&mut client, "a", "tap0", "06:00:00:00:00:01"), 204);
    assert_eq!(put(&mut client, "b", "tap1", "06:00:00:00:00:01"), 400);
    assert_eq!(put(&mut client, "b", "tap0", "06:00:00:00:00:02"), 400);
    assert_eq!(put(&mut client, "b", "tap1", "06:00:00:00:00:02"), 204);
    assert_eq!(put(&mut client, "a", "tap0", "06:00:00:00:00:03"), 204);
    assert_eq!(put(&mut client, "b", "tap1", "06:00:00:00:00:01"), 204);
}

#[test]
fn devices_of_a_kind_are_bounded() {
    let mut client = Client::new();
    for index in 0..64 {
        let id = format!("d{index}");
        assert_eq!(
            client.send("PUT", &format!("/drives/{id}"), &drive(&id, false)).status,
            204
        );
    }
    assert_eq!(client.send("PUT", "/drives/more", &drive("more", false)).status, 400);
    assert_eq!(client.send("PUT", "/drives/d0", &drive("d0", true)).status, 204);
}

#[test]
fn a_machine_is_put_whole_and_patched_in_parts() {
    let mut client = Client::new();
    client.send(
        "PUT",
        "/machine-config",
        r#"{"vcpu_count":4,"mem_size_mib":256,"smt":true,"track_dirty_pages":true}"#,
    );
    assert_eq!(
        client.send("PATCH", "/machine-config", r#"{"vcpu_count":3}"#).status,
        400
    );
    client.send("PATCH", "/machine-config", r#"{"mem_size_mib":512}"#);
    let body = client.send("GET", "/machine-config", "").body.unwrap();
    assert_eq!(
        body,
        r#"{"vcpu_count":4,"mem_size_mib":512,"smt":true,"track_dirty_pages":true,"huge_pages":"None"}"#
    );
    client.send("PUT", "/machine-config", r#"{"vcpu_count":1,"mem_size_mib":64}"#);
    let body = client.send("GET", "/machine-config", "").body.unwrap();
    assert_eq!(
        body,
        r#"{"vcpu_count":1,"mem_size_mib":64,"smt":false,"track_dirty_pages":false,"huge_pages":"None"}"#
    );
}

#[test]
fn the_balloon_never_exceeds_the_memory() {
    let mut client = Client::new();
    assert_eq!(
        client
            .send("PUT", "/balloon", r#"{"amount_mib":100,"deflate_on_oom":true}"#)
            .status,
        204
    );
    assert_eq!(
        client.send("PATCH", "/machine-config", r#"{"mem_size_mib":99}"#).status,
        400
    );
    assert_eq!(
        client
            .send("PATCH", "/machine-config", r#"{"mem_size_mib":100}"#)
            .status,
        204
    );
}

#[test]
fn a_snapshot_is_loaded_by_a_fresh_process_only() {
    let load = r#"{"snapshot_path":"/s","mem_file_path":"/m"}"#;
    let mut logging = Client::new();
    assert_eq!(logging.send("PUT", "/logger", "{}").status, 204);
    assert_eq!(logging.send("PUT", "/metrics", r#"{"metrics_path":"/m"}"#).status, 204);
    assert_eq!(logging.send("PUT", "/metrics", r#"{"metrics_path":"/m"}"#).status, 400);
    assert_eq!(logging.send("PUT", "/snapshot/load", load).status, 204);
    assert_eq!(logging.controller().state(), VmState::Paused);
    assert_eq!(logging.send("PATCH", "/vm", r#"{"state":"Resumed"}"#).status, 204);
    for (path, body) in [
        ("/boot-source", r#"{"kernel_image_path":"/k"}"#),
        ("/machine-config", r#"{"vcpu_count":1,"mem_size_mib":128}"#),
        (
            "/drives/d",
            r#"{"drive_id":"d","path_on_host":"/d","is_root_device":true}"#,
        ),
        ("/network-interfaces/n", r#"{"iface_id":"n","host_dev_name":"tap0"}"#),
        ("/vsock", r#"{"guest_cid":3,"uds_path":"/v.sock"}"#),
        ("/entropy", "{}"),
        ("/balloon", r#"{"amount_mib":1,"deflate_on_oom":true}"#),
    ] {
        let mut client = Client::new();
        assert_eq!(client.send("PUT", path, body).status, 204);
        assert_eq!(client.send("PUT", "/snapshot/load", load).status, 400, "{path}");
        assert!(client.commands.is_empty());
    }
}

#[test]
fn a_life() {
    let mut client = Client::running();
    client.send("PUT", "/mmds", r#"{"a":1,"b":{"c":2}}"#);
    client.send("PATCH", "/mmds", r#"{"a":null,"b":{"d":3}}"#);
    assert_eq!(client.send("GET", "/mmds", "").body.unwrap(), r#"{"b":{"c":2,"d":3}}"#);
    client.send("PATCH", "/vm", r#"{"state":"Paused"}"#);
    client.send(
        "PUT",
        "/snapshot/create",
        r#"{"snapshot_path":"/s","mem_file_path":"/m"}"#,
    );
    client.send("PATCH", "/drives/d", r#"{"drive_id":"d","path_on_host":"/new"}"#);
    client.send("PATCH", "/balloon", r#"{"amount_mib":16}"#);
    client.send("PATCH", "/vm", r#"{"state":"Resumed"}"#);
    client.send("PATCH", "/vm", r#"{"state":"Resumed"}"#);
    let kinds: Vec<String> = client.commands.iter().map(|command| format!("{command:?}")).collect();
    let names: Vec<&str> = kinds
        .iter()
        .map(|kind| kind.split(['(', ' ']).next().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "Start",
            "Pause",
            "CreateSnapshot",
            "UpdateDrive",
            "UpdateBalloon",
            "Resume"
        ]
    );
    let config = client.send("GET", "/vm/config", "").body.unwrap();
    assert!(config.contains(r#""path_on_host":"/new""#), "{config}");
    assert!(config.contains(r#""amount_mib":16"#), "{config}");
}

#[test]
fn a_command_that_failed_changes_nothing() {
    let mut client = Client::new();
    client.send("PUT", "/boot-source", r#"{"kernel_image_path":"/k"}"#);
    let controller = client.controller();
    // Decided, but never settled.
    assert!(controller.decide(Action::Start).is_ok());
    assert_eq!(controller.state(), VmState::NotStarted);
    assert!(controller.decide(Action::Start).is_ok());
    controller.settle(&Command::Start);
    assert_eq!(controller.state(), VmState::Running);
}

#[test]
fn metadata_that_is_too_long_is_413() {
    let mut client = Client::new();
    let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(51_200));
    assert_eq!(client.send("PUT", "/mmds", &long).status, 413);
    assert_eq!(client.send("PUT", "/mmds", r#"{"a":1}"#).status, 204);
    let half = format!(r#"{{"b":"{}"}}"#, "x".repeat(51_190));
    assert_eq!(client.send("PATCH", "/mmds", &half).status, 413);
    assert_eq!(client.send("GET", "/mmds", "").body.unwrap(), r#"{"a":1}"#);
}

#[test]
fn deprecated_fields_are_noted() {
    for (method, path, body, is_noted) in [
        (
            Method::Put,
            "/machine-config",
            r#"{"vcpu_count":1,"mem_size_mib":1,"cpu_template":"None"}"#,
            true,
        ),
        (
            Method::Put,
            "/machine-config",
            r#"{"vcpu_count":1,"mem_size_mib":1}"#,
            false,
        ),
        (Method::Patch, "/machine-config", r#"{"cpu_template":"None"}"#, true),
        (
            Method::Put,
            "/vsock",
            r#"{"vsock_id":"v","guest_cid":3,"uds_path":"/v"}"#,
            true,
        ),
        (Method::Put, "/mmds/config", r#"{"network_interfaces":["n"]}"#, true),
        (
            Method::Put,
            "/mmds/config",
            r#"{"version":"V2","network_interfaces":["n"]}"#,
            false,
        ),
        (
            Method::Put,
            "/snapshot/load",
            r#"{"snapshot_path":"/s","mem_file_path":"/m"}"#,
            true,
        ),
        (
            Method::Put,
            "/snapshot/load",
            r#"{"snapshot_path":"/s","mem_backend":{"backend_type":"File","backend_path":"/m"}}"#,
            false,
        ),
    ] {
        let request = parse(method, path, body.as_bytes()).unwrap();
        assert_eq!(request.deprecation.is_some(), is_noted, "{path} {body}");
    }
}

#[test]
fn needs_name_what_must_be_on_the_host() {
    let needs = |method, path, body: &str| -> Vec<String> {
        let request = parse(method, path, body.as_bytes()).unwrap();
        request
            .action
            .needs()
            .iter()
            .map(|need| match need {
                Need::ReadableFile(path) => format!("r {}", path.as_str()),
                Need::WritableFile(path) => format!("w {}", path.as_str()),
                Need::Tap(name) => format!("tap {}", name.as_str()),
            })
            .collect()
    };
    assert_eq!(
        needs(
            Method::Put,
            "/boot-source",
            r#"{"kernel_image_path":"/k","initrd_path":"/i"}"#
        ),
        ["r /k", "r /i"]
    );
    assert_eq!(needs(Method::Put, "/drives/d", &drive("d", true)), ["w /d"]);
    assert_eq!(
        needs(
            Method::Put,
            "/network-interfaces/n",
            r#"{"iface_id":"n","host_dev_name":"tap0"}"#
        ),
        ["tap tap0"]
    );
    assert!(needs(Method::Put, "/entropy", "{}").is_empty());
}

#[test]
fn a_load_changes_what_it_says_and_nothing_it_cannot() {
    let mut client = Client::running();
    client.controller().resources_mut().vsock = None;
    let load = |extra: &str| {
        let body = format!(r#"{{"snapshot_path":"/s","mem_file_path":"/m",{extra}}}"#);
        match parse(Method::Put, "/snapshot/load", body.as_bytes()).unwrap().action {
            Action::LoadSnapshot(load) => load,
            other => panic!("{other:?}"),
        }
    };
    let resources = client.controller().resources_mut();
    let before = resources.clone();
    let unknown = load(r#""network_overrides":[{"iface_id":"m","host_dev_name":"tap7"}]"#);
    assert!(
        resources
            .apply_load(&unknown)
            .unwrap_err()
            .to_string()
            .contains("no such interface")
    );
    let vsock =
        load(r#""network_overrides":[{"iface_id":"n","host_dev_name":"tap7"}],"vsock_override":{"uds_path":"/new"}"#);
    assert!(
        resources
            .apply_load(&vsock)
            .unwrap_err()
            .to_string()
            .contains("no vsock")
    );
    assert_eq!(*resources, before);
    let drive = load(r#""drive_overrides":[{"drive_id":"nowhere","path_on_host":"fd:7"}]"#);
    let refused = resources.apply_load(&drive).unwrap_err().to_string();
    assert!(
        refused.contains("nowhere, and the snapshot has no such drive"),
        "{refused}"
    );
    assert_eq!(*resources, before);
    let known = before.drives.first().unwrap().drive_id.clone();
    let drive = load(&format!(
        r#""drive_overrides":[{{"drive_id":"{known}","path_on_host":"fd:7"}}]"#
    ));
    resources.apply_load(&drive).unwrap();
    assert_eq!(
        resources.drives.first().unwrap().path_on_host.place(),
        ringwall_vmm_proto::Place::Descriptor(7)
    );
    let tap = load(r#""network_overrides":[{"iface_id":"n","host_dev_name":"tap7"}],"track_dirty_pages":true"#);
    resources.apply_load(&tap).unwrap();
    assert_eq!(resources.interfaces.first().unwrap().host_dev_name.as_str(), "tap7");
    assert!(resources.machine.track_dirty_pages());
    let Action::SetVsock(device) = parse(Method::Put, "/vsock", br#"{"guest_cid":3,"uds_path":"/old"}"#)
        .unwrap()
        .action
    else {
        panic!()
    };
    resources.vsock = Some(device);
    resources
        .apply_load(&load(r#""vsock_override":{"uds_path":"/new"}"#))
        .unwrap();
    assert_eq!(resources.vsock.as_ref().unwrap().uds_path.as_str(), "/new");
    assert!(!resources.machine.track_dirty_pages());
}
