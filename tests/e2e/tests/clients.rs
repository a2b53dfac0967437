//! The real E2B clients, old and new, against a real server: `clients/matrix.py` holds the checks; here it gets a server.
#![expect(
    clippy::print_stdout,
    reason = "a skipped test must be seen, and stdout is where tests report"
)]

use std::path::Path;
use std::process::Command;

use ringwall_e2e::serve::Server;
use ringwall_e2e::{User, users};

/// Runs the matrix against a server of `user`'s; its output is shown, with a line for each check.
fn run(user: User, sets: &[&str]) {
    let matrix = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/matrix.py");
    let python = || {
        let mut command = Command::new("python3");
        command.arg(&matrix);
        command
    };
    let prepared = python().arg("--prepare").arg("--only").args(sets).output();
    match prepared {
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
    let mut server = Server::with(user, &["--pool", "2"]);
    let client = server.client();
    let status = python()
        .args(["--url", &client.url(), "--key", client.key(), "--only"])
        .args(sets)
        .status()
        .expect("python3 starts");
    assert!(status.success(), "checks failed, see above");
    server.assert_sound();
    server.remove_all();
}

#[test]
fn every_client_version_works_unchanged() {
    for user in users() {
        // All versions once; the newest also against a server that has nothing but an ordinary user's rights.
        match user {
            User::Root => run(user, &["A", "B", "C", "D", "JS"]),
            User::Ordinary if users().len() > 1 => run(user, &["D", "JS"]),
            User::Ordinary => run(user, &["A", "B", "C", "D", "JS"]),
        }
    }
}
