//! One request each, to an instance that is fresh, runs, or is paused. The rows (status, method, path, body) stand in the text files beside
//! this one, the bodies of the answers in the snapshots.

use std::fmt::Write as _;

use ringwall_vmm_proto::Architecture;

use crate::client::Client;

/// Sends each row to an instance of its own and compares the statuses with the rows and everything with the snapshot. Returns how many.
fn check(name: &str, instance: impl Fn() -> Client, rows: &str) -> usize {
    let mut text = String::new();
    let mut count = 0;
    for row in rows.lines().filter(|row| !row.is_empty() && !row.starts_with('#')) {
        let mut parts = row.splitn(4, ' ');
        let (status, method, path) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
        let status: u16 = status.parse().unwrap();
        let rendered = instance().send(method, path, parts.next().unwrap_or(""));
        let answer = rendered.body.unwrap_or_default();
        writeln!(text, "{row}\n  {} {answer}", rendered.status).unwrap();
        assert_eq!(rendered.status, status, "{row}: {answer}");
        assert_eq!(answer.is_empty(), status == 204, "{row}: {answer}");
        if status >= 400 {
            let fault: serde_json::Value = serde_json::from_str(&answer).unwrap();
            assert!(
                fault.get("fault_message").is_some_and(serde_json::Value::is_string),
                "{answer}"
            );
        }
        count += 1;
    }
    insta::assert_snapshot!(name, text);
    count
}

#[test]
fn a_fresh_instance_is_configured() {
    assert!(check("fresh", Client::new, include_str!("fresh.txt")) > 250);
}

#[test]
fn a_running_instance_is_changed_but_not_configured() {
    assert!(check("running", Client::running, include_str!("running.txt")) > 40);
}

#[test]
fn a_paused_instance_can_be_snapshotted() {
    assert!(check("paused", Client::paused, include_str!("paused.txt")) > 10);
}

#[test]
fn aarch64_has_no_threads_and_no_keyboard() {
    let rows = r#"
400 PUT /machine-config {"vcpu_count":2,"mem_size_mib":128,"smt":true}
204 PUT /machine-config {"vcpu_count":2,"mem_size_mib":128,"smt":false}
400 PATCH /machine-config {"smt":true}
"#;
    assert_eq!(check("aarch64", || Client::on(Architecture::Aarch64), rows), 3);
    let mut client = Client::on(Architecture::Aarch64);
    client.send("PUT", "/boot-source", r#"{"kernel_image_path":"/k"}"#);
    client.send("PUT", "/actions", r#"{"action_type":"InstanceStart"}"#);
    assert_eq!(
        client
            .send("PUT", "/actions", r#"{"action_type":"SendCtrlAltDel"}"#)
            .status,
        400
    );
}

#[test]
fn a_target_may_have_no_path() {
    for target in ["", "http://localhost", "http://localhost?query"] {
        assert_eq!(Client::new().send("GET", target, "").status, 200, "{target:?}");
    }
    for body in [" ", "\r\n"] {
        assert_eq!(Client::new().send("PUT", "/boot-source", body).status, 400);
    }
}
