//! The confinement checks of `ringwall-attempts` in both tiers, as root and as an ordinary user, and the proof that each can fail.

#![expect(clippy::print_stdout, reason = "what was skipped must be seen")]

use std::path::PathBuf;
use std::process::Command;

use ringwall_e2e::{User, ringwall, users};

fn attempts() -> PathBuf {
    if let Some(path) = std::env::var_os("RINGWALL_ATTEMPTS_BIN") {
        return PathBuf::from(path);
    }
    let path = ringwall().with_file_name("ringwall-attempts");
    assert!(
        path.is_file(),
        "no {}: run `cargo build --release -p ringwall-attempts`",
        path.display()
    );
    path
}

/// Runs the suite and asserts that nothing failed and that it did not get by with skipping.
fn suite(flags: &[&str], least_passed: u32) {
    let output = Command::new(attempts())
        .arg("suite")
        .arg("--ringwall")
        .arg(ringwall())
        .args(flags)
        .output()
        .expect("the suite starts");
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    let passed: u32 = text
        .lines()
        .find_map(|line| line.split_once(" passed, ")?.0.parse().ok())
        .expect("a summary line");
    assert!(output.status.success(), "{flags:?}: an attempt was not stopped");
    assert!(
        passed >= least_passed,
        "{flags:?}: only {passed} checks were made, {least_passed} are wanted"
    );
}

fn in_tier(tier: &str) {
    for user in users() {
        let name = if user == User::Root { "root" } else { "ordinary" };
        suite(&["--tier", tier, "--user", name], 120);
    }
}

#[test]
fn nothing_escapes_the_namespace_tier() {
    in_tier("namespace");
}

#[test]
fn nothing_escapes_the_landlock_tier() {
    in_tier("landlock");
}

#[test]
fn every_check_can_fail() {
    // As an ordinary user a third of them have nothing to succeed at.
    let least = if users().contains(&User::Root) { 110 } else { 60 };
    suite(&["--prove"], least);
}
