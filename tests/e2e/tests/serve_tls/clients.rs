//! The real clients through TLS, with a private authority that they learn of by SSL_CERT_FILE and NODE_EXTRA_CA_CERTS alone.

use std::path::Path;
use std::process::Command;

use ringwall_e2e::users;

use crate::Ground;

/// A has the old interpreter, which speaks to nobody but by TLS to `49999-ID.DOMAIN`; the others are the newest.
const SETS: [&str; 3] = ["A", "D", "JS"];
/// All that are needed.
const PREPARED: [&str; 4] = ["A", "C", "D", "JS"];

#[test]
fn unmodified_clients_speak_tls() {
    let matrix = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/matrix.py");
    let python = || {
        let mut command = Command::new("python3");
        command.arg(&matrix);
        command
    };
    match python().args(["--prepare", "--only"]).args(PREPARED).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            println!(
                "SKIPPED: E2B's clients can't be installed: {}",
                why.lines().last().unwrap_or("no reason given")
            );
            return;
        }
        Err(error) => {
            println!("SKIPPED: E2B's clients need python3: {error}");
            return;
        }
    }
    let mut ground = Ground::new(users()[0], &["--pool", "2"]);
    let run = |more: &[&str]| {
        let status = python()
            .args(["--url", &ground.url(), "--key", ground.server.client().key()])
            .arg("--ca")
            .arg(&ground.ca)
            .args(more)
            .status()
            .expect("python3 starts");
        assert!(status.success(), "{more:?}: checks failed, see above");
    };
    run(&[&["--only"], SETS.as_slice()].concat());
    // As E2B's own users have it: https://api.DOMAIN and https://PORT-ID.DOMAIN, and no URL anywhere.
    let domain = format!("sandbox.localhost:{}", ground.port);
    run(&["--domain", &domain, "--only", "A", "C", "D"]);
    ground.server.assert_sound();
    ground.server.remove_all();
}
