//! Packages of the registries that drive Firecracker, against the real `ringwall-vmm`: `clients/firecracker` holds the checks.
//!
//! The binary is named by `RINGWALL_VMM_BIN`. It boots a payload of a few instructions, so no guest kernel is needed.
#![expect(
    clippy::print_stdout,
    reason = "a skipped test must be seen, and stdout is where tests report"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

/// The VMM, unless there can be none here.
fn binary() -> Option<PathBuf> {
    if !Path::new("/dev/kvm").exists() {
        println!("SKIPPED: there is no /dev/kvm");
        return None;
    }
    let path = std::env::var_os("RINGWALL_VMM_BIN").expect("RINGWALL_VMM_BIN names the VMM under test");
    Some(PathBuf::from(path))
}

/// Installs a client and runs it with the binary; its output is shown, with a line for each check.
fn run(name: &str, script: &str) {
    let Some(binary) = binary() else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("clients/firecracker")
        .join(script);
    let client = || {
        let mut command = Command::new("python3");
        command.arg("-B").arg(&script);
        command
    };
    match client().arg("--prepare").output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            println!(
                "SKIPPED: {name} can't be installed: {}",
                why.lines().last().unwrap_or("no reason given")
            );
            return;
        }
        Err(error) => {
            println!("SKIPPED: {name} needs python3: {error}");
            return;
        }
    }
    let status = client()
        .arg("--binary")
        .arg(binary)
        .status()
        .expect("it starts as it did before");
    assert!(status.success(), "checks failed, see above");
}

#[test]
fn firecracker_python_drives_a_life() {
    run("firecracker-python", "python_client.py");
}

#[test]
fn firecracker_rs_sdk_drives_a_life() {
    run("firecracker-rs-sdk", "rust_client.py");
}
