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
