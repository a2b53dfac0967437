//! A guest of `ringwall-vmm` reads its metadata, over a card whose tap sees nothing of it; and what becomes of tokens and metadata in a VM
//! that goes on from a snapshot.
#![cfg(target_arch = "x86_64")]
#![expect(
    clippy::print_stdout,
    reason = "a skipped test must be seen, and stdout is where tests report"
)]

use std::fs;
use std::process::Command;

use ringwall_e2e::vmm::{Vmm, binary, free_socket};
use serde_json::{Value, json};

/// A tap device, for as long as this lives.
struct Tap(String);

impl Tap {
    fn new(kind: &str) -> Option<Self> {
        // Interfaces' names have at most 15 bytes.
        let name = format!("rw{kind}{}", std::process::id());
        let words = ["tuntap", "add", "dev", &name, "mode", "tap", "vnet_hdr"];
        match Command::new("ip").args(words).output() {
            Ok(made) if made.status.success() => {
                let tap = Self(name);
                let up = Command::new("ip").args(["link", "set", &tap.0, "up"]).status();
                assert!(up.expect("ip").success());
                Some(tap)
            }
            Ok(made) => {
                println!("SKIPPED: no tap device: {}", String::from_utf8_lossy(&made.stderr));
                None
            }
            Err(error) => {
                println!("SKIPPED: no tap device: ip: {error}");
                None
            }
        }
    }

    /// Packets that came out of it.
    fn packets(&self) -> u64 {
        // What the guest sends is what the host receives.
        let path = format!("/sys/class/net/{}/statistics/rx_packets", self.0);
        let dropped = path.replace("rx_packets", "rx_dropped");
        let count = |path| fs::read_to_string(path).expect("a counter").trim().parse::<u64>();
        count(path).expect("a number") + count(dropped).expect("a number")
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        drop(Command::new("ip").args(["link", "delete", &self.0]).output());
    }
}

fn boot(binary: &std::path::Path, folder: &std::path::Path, tap: &Tap, mmds: &Value) -> Vmm {
    let mut vmm = Vmm::start(binary, folder, &[]);
    vmm.configure(&json!({}));
    vmm.put(
        "/network-interfaces/eth0",
        &json!({"iface_id": "eth0", "host_dev_name": tap.0, "guest_mac": "02:00:00:00:00:09"}),
    );
    vmm.put("/mmds/config", mmds);
    vmm.put("/actions", &json!({"action_type": "InstanceStart"}));
    vmm.until("READY\n");
    vmm
}

#[test]
fn a_guest_reads_metadata_with_a_token_and_a_restored_one_needs_its_own() {
    let Some(binary) = binary() else { return };
    let Some(tap) = Tap::new("m") else { return };
    let work = tempfile::tempdir().expect("a directory");
    let first = work.path().join("first");
    let mmds = json!({"network_interfaces": ["eth0"], "version": "V2"});
    let mut vmm = boot(&binary, &first, &tap, &mmds);
    assert_eq!(vmm.tell(b'n'), "mmds: 401 the token is not valid, or not any more");
    assert_eq!(vmm.tell(b'k'), "mmds: 200");
    assert_eq!(vmm.tell(b'n'), "mmds: 404 there is no such metadata");
    vmm.put("/mmds", &json!({"name": "first"}));
    assert_eq!(vmm.tell(b'n'), "mmds: 200 first");
    // What clients change is seen at once.
    vmm.patch("/mmds", &json!({"name": "second"}));
    for _ in 0..40 {
        assert_eq!(vmm.tell(b'n'), "mmds: 200 second");
    }
    assert_eq!(tap.packets(), 0, "packets for the service reached the tap");

    vmm.pause();
    let to = work.path().join("snapshot");
    vmm.snapshot("Full", &to);
    // The machine itself goes on as it was.
    vmm.resume();
    assert_eq!(vmm.tell(b'n'), "mmds: 200 second");
    drop(vmm);
    free_socket(&first);

    let mut vmm = Vmm::restore(&binary, &work.path().join("clone"), &to, &[]);
    assert_eq!(vmm.tell(b'n'), "mmds: 401 the token is not valid, or not any more");
    assert_eq!(vmm.tell(b'k'), "mmds: 200");
    // Firecracker's rule: metadata is not in the snapshot.
    assert_eq!(vmm.tell(b'n'), "mmds: 404 there is no such metadata");
    vmm.put("/mmds", &json!({"name": "clone"}));
    assert_eq!(vmm.tell(b'n'), "mmds: 200 clone");
    assert_eq!(tap.packets(), 0);
    vmm.key(b'q');
    assert_eq!(vmm.ended().code(), Some(0), "{}", vmm.log());
}

#[test]
fn another_address_and_interfaces_without_the_service() {
    let Some(binary) = binary() else { return };
    let Some(tap) = Tap::new("n") else { return };
    let work = tempfile::tempdir().expect("a directory");
    // The guest knows only the usual address: its packets go to the network then.
    let mmds = json!({"network_interfaces": ["eth0"], "ipv4_address": "169.254.170.2"});
    let mut vmm = boot(&binary, work.path(), &tap, &mmds);
    vmm.put("/mmds", &json!({"name": "first"}));
    Command::new("ip")
        .args(["link", "set", &tap.0, "up"])
        .output()
        .expect("up");
    vmm.key(b'n');
    ringwall_e2e::vmm::eventually("the guest's packet", || tap.packets() > 0);
}
