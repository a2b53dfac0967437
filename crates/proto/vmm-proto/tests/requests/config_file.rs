//! Configuration files.

use ringwall_vmm_proto::{Action, ConfigFile, ConfigFileError};

use crate::client::Client;

/// All keys, with null where Firecracker's own examples have it.
const WHOLE: &str = r#"{
    "balloon": {"amount_mib": 8, "deflate_on_oom": true, "stats_polling_interval_s": 1},
    "boot-source": {"kernel_image_path": "/k", "boot_args": "console=ttyS0", "initrd_path": null},
    "cpu-config": "/cpu.json",
    "drives": [
        {"drive_id": "data-1", "path_on_host": "/data", "is_root_device": false, "is_read_only": true},
        {"drive_id": "rootfs", "path_on_host": "/r", "is_root_device": true, "partuuid": null, "is_read_only": false, "cache_type": "Unsafe", "io_engine": "Sync", "rate_limiter": null, "socket": null}
    ],
    "entropy": {"rate_limiter": null},
    "logger": {"level": "Info"},
    "machine-config": {"vcpu_count": 2, "mem_size_mib": 1024, "smt": false, "track_dirty_pages": false, "huge_pages": "None"},
    "metrics": {"metrics_path": "/m"},
    "mmds-config": {"version": "V2", "network_interfaces": ["eth0"]},
    "network-interfaces": [{"iface_id": "eth0", "host_dev_name": "tap0", "guest_mac": "06:00:00:00:00:01"}],
    "serial": {"serial_out_path": "/s"},
    "vsock": {"guest_cid": 3, "uds_path": "/v"}
}"#;

fn configured(text: &str) -> Client {
    let mut client = Client::new();
    for action in ConfigFile::parse(text.as_bytes()).unwrap().actions {
        client.controller().decide(action).unwrap();
    }
    client
}

#[test]
fn a_whole_file_configures_everything_and_what_is_shown_can_be_read_again() {
    let file = ConfigFile::parse(WHOLE.as_bytes()).unwrap();
    assert_eq!(file.cpu_config.unwrap().as_str(), "/cpu.json");
    assert!(matches!(file.actions.first(), Some(Action::SetLogger(_))));
    let shown = configured(WHOLE).send("GET", "/vm/config", "").body.unwrap();
    insta::assert_snapshot!("whole_file", shown);
    let again = configured(&shown).send("GET", "/vm/config", "").body.unwrap();
    assert_eq!(again, shown);
}

#[test]
fn what_is_not_there_has_its_default() {
    let mut client =
        configured(r#"{"boot-source":{"kernel_image_path":"/k"},"drives":[],"machine-config":null,"vsock":null}"#);
    insta::assert_snapshot!("least_file", client.send("GET", "/vm/config", "").body.unwrap());
}

#[test]
fn bad_files_say_where() {
    for (text, wanted) in [
        ("", "isn't what it should be: EOF"),
        ("{}", "missing field `boot-source`"),
        (r#"{"boot-source":{}}"#, "missing field `kernel_image_path`"),
        (
            r#"{"boot-source":{"kernel_image_path":""}}"#,
            "boot-source: kernel_image_path is an empty path",
        ),
        (
            r#"{"boot-source":{"kernel_image_path":"/k"},"pmem":[]}"#,
            "unknown field `pmem`",
        ),
        (
            r#"{"boot-source":{"kernel_image_path":"/k"},"machine-config":{"vcpu_count":0,"mem_size_mib":1}}"#,
            "machine-config: vcpu_count is 0",
        ),
        (
            r#"{"boot-source":{"kernel_image_path":"/k"},"drives":[{"drive_id":"../a","path_on_host":"/d","is_root_device":true}]}"#,
            "drives: drive_id: an id is",
        ),
        (
            r#"{"boot-source":{"kernel_image_path":"/k"},"network-interfaces":[{"iface_id":"","host_dev_name":"t"}]}"#,
            "network-interfaces: iface_id: an id is",
        ),
        (
            r#"{"boot-source":{"kernel_image_path":"/k"},"cpu-config":""}"#,
            "cpu-config: cpu-config is an empty path",
        ),
        (
            r#"{"boot-source":{"kernel_image_path":"/k"},"boot-source":{"kernel_image_path":"/k"}}"#,
            "duplicate field `boot-source`",
        ),
    ] {
        let error = ConfigFile::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(wanted), "{text}: {error}");
    }
    assert!(matches!(
        ConfigFile::parse(&vec![b' '; (1 << 20) + 1]),
        Err(ConfigFileError::TooLong { got: 1_048_577 })
    ));
    let drive = r#"{"drive_id":"d","path_on_host":"/d","is_root_device":false},"#.repeat(65);
    let many = format!(
        r#"{{"boot-source":{{"kernel_image_path":"/k"}},"drives":[{}]}}"#,
        drive.trim_end_matches(',')
    );
    assert!(
        ConfigFile::parse(many.as_bytes())
            .unwrap_err()
            .to_string()
            .contains("drives has 65 entries")
    );
}
