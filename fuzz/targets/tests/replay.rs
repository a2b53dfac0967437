//! Runs every corpus. Findings are added to them, under a name that says what they were.

use std::path::Path;

fn replay(name: &str, target: fn(&[u8]), least: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(name);
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus") {
        let path = entry.expect("an entry").path();
        target(&std::fs::read(&path).expect("a file"));
        count += 1;
    }
    assert!(
        count >= least,
        "{} holds {count} files, not at least {least}",
        folder.display()
    );
}

#[test]
fn connect() {
    replay("connect", ringwall_fuzz_targets::connect, 8);
}

#[test]
fn disposition() {
    replay("disposition", ringwall_fuzz_targets::disposition, 6);
}

#[test]
fn metadata() {
    replay("metadata", ringwall_fuzz_targets::metadata, 6);
}

#[test]
fn unpack() {
    replay("unpack", ringwall_fuzz_targets::unpack, 5);
}

#[test]
fn queue() {
    replay("queue", ringwall_fuzz_targets::queue, 13);
}

#[test]
fn mmio() {
    replay("mmio", ringwall_fuzz_targets::mmio, 11);
}

#[test]
fn vsock() {
    replay("vsock", ringwall_fuzz_targets::vsock, 14);
}

#[test]
fn vsock_packets() {
    replay("vsock_packets", ringwall_fuzz_targets::vsock_packets, 6);
}

#[test]
fn block() {
    replay("block", ringwall_fuzz_targets::block, 12);
}

#[test]
fn net() {
    replay("net", ringwall_fuzz_targets::net, 8);
}

#[test]
fn balloon() {
    replay("balloon", ringwall_fuzz_targets::balloon, 7);
}

#[test]
fn kernel_x86_64() {
    replay("kernel_x86_64", ringwall_fuzz_targets::kernel_x86_64, 19);
}

#[test]
fn kernel_aarch64() {
    replay("kernel_aarch64", ringwall_fuzz_targets::kernel_aarch64, 14);
}

#[test]
fn board() {
    replay("board", ringwall_fuzz_targets::board, 18);
}

#[test]
fn snapshot() {
    replay("snapshot", ringwall_fuzz_targets::snapshot, 8);
}

#[test]
fn config_file() {
    replay("config_file", ringwall_fuzz_targets::config_file, 14);
}

#[test]
fn requests() {
    replay("requests", ringwall_fuzz_targets::requests, 13);
}

#[test]
fn mmds() {
    replay("mmds", ringwall_fuzz_targets::mmds, 31);
}
