//! Packages of the registries that drive Firecracker, against the server with the fake VMM. `tests/e2e/tests/vmm_api.rs` runs the same against
//! the real one.
#![expect(
    clippy::print_stdout,
    reason = "a skipped test must be seen, and stdout is where tests report"
)]

use std::path::Path;
use std::process::Command;

use crate::fake::Fake;

/// Installs a client and runs it; its output is shown, with a line for each check.
fn run(script: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/e2e/clients/firecracker")
        .join(script);
    let python = || {
        let mut command = Command::new("python3");
        command.arg("-B").arg(&script);
        command
    };
    match python().arg("--prepare").output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            return println!(
                "SKIPPED: the client can't be installed: {}",
                why.lines().last().unwrap_or_default()
            );
        }
        Err(error) => return println!("SKIPPED: the client needs python3: {error}"),
    }
    let (first, second) = (Fake::start(), Fake::start());
    let status = python()
        .arg("--socket")
        .arg(first.path())
        .arg("--restore-socket")
        .arg(second.path())
        .status();
    assert!(status.unwrap().success(), "checks failed, see above");
}

#[test]
fn firecracker_python_drives_a_life() {
    run("python_client.py");
}

#[test]
fn firecracker_rs_sdk_drives_a_life() {
    run("rust_client.py");
}
