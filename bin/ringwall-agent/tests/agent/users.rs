//! Several users: the agent with the four capabilities that a keeper of root's leaves it.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::process::Command;

use http::StatusCode;
use serde_json::json;

use crate::sandbox::{Sandbox, encoded, shell};

/// What stands before the agent: as uid 0, with exactly these capabilities, ambient, and securebits under which an exec gives none.
const KEEPER: [&str; 12] = [
    "setpriv",
    "--clear-groups",
    "--inh-caps",
    "-all,+chown,+kill,+setgid,+setuid",
    "--ambient-caps",
    "-all,+chown,+kill,+setgid,+setuid",
    "--bounding-set",
    "-all,+chown,+kill,+setgid,+setuid",
    "--securebits",
    "+noroot,+noroot_locked,+no_setuid_fixup,+no_setuid_fixup_locked",
    "--no-new-privs",
    "--",
];

fn start() -> Option<Sandbox> {
    let works = Command::new(KEEPER[0]).args(&KEEPER[1..]).arg("true").status();
    if !rustix::process::geteuid().is_root() || !works.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: only root can give capabilities away");
        return None;
    }
    Some(Sandbox::start_by(
        &[&KEEPER[..], &[env!("CARGO_BIN_EXE_ringwall-agent")]].concat(),
    ))
}

/// Of a fixed system account: uid and gid 1.
fn as_daemon() -> (&'static str, String) {
    ("authorization", format!("Basic {}", encoded("daemon:")))
}

#[tokio::test]
async fn programs_get_their_user_and_nothing_else() {
    let Some(sandbox) = start() else { return };
    let (name, daemon) = as_daemon();
    let root = format!("Basic {}", encoded("root:"));
    for (user, id) in [(&daemon, "1"), (&root, "0")] {
        let script = "id -u; id -g; id -G; grep -E 'Cap(Inh|Prm|Eff|Amb)' /proc/self/status; echo x > /dev/stderr";
        let headers = [(name, user.as_str())];
        let told = sandbox
            .open("process.Process/Start", &headers, shell(script))
            .await
            .rest()
            .await;
        let text = String::from_utf8(told.stdout).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..3], [id; 3]);
        assert_eq!(lines.len(), 7, "{text}");
        assert!(
            lines[3..].iter().all(|line| line.ends_with("\t0000000000000000")),
            "{text}"
        );
        assert_eq!(told.stderr, b"x\n");
    }
    // A program of another user is still the agent's to end.
    let headers = [(name, daemon.as_str())];
    let mut events = sandbox
        .open("process.Process/Start", &headers, shell("sleep 1000"))
        .await;
    let kill = json!({"process": {"pid": events.pid().await}, "signal": "SIGNAL_SIGKILL"});
    assert_eq!(
        sandbox.unary("process.Process/SendSignal", kill).await.status,
        StatusCode::OK
    );
    assert_eq!(events.rest().await.end.unwrap()["status"], "signal: killed");
}

#[tokio::test]
async fn files_are_the_users() {
    let Some(sandbox) = start() else { return };
    let (name, daemon) = as_daemon();
    let path = |relative: &str| sandbox.home().join(relative).to_str().unwrap().to_owned();
    // Down to here everybody may come.
    for directory in [sandbox.home().parent().unwrap().to_owned(), sandbox.home()] {
        std::fs::set_permissions(directory, PermissionsExt::from_mode(0o755)).unwrap();
    }
    std::fs::create_dir(path("all")).unwrap();
    std::fs::set_permissions(path("all"), PermissionsExt::from_mode(0o1777)).unwrap();
    std::fs::write(path("secret"), "secret").unwrap();
    std::fs::set_permissions(path("secret"), PermissionsExt::from_mode(0o600)).unwrap();

    let octets = ("content-type", "application/octet-stream");
    let files = |relative: &str, user: &str| format!("/files?path={}&username={user}", path(relative));
    for (user, id) in [("daemon", 1), ("root", 0), ("daemon", 1)] {
        let written = sandbox
            .call("POST", &files(&format!("all/{user}/x"), user), &[octets], "x")
            .await;
        assert_eq!(written.status, StatusCode::OK, "{}", written.json());
        for made in ["", "/x"] {
            let found = std::fs::metadata(path(&format!("all/{user}{made}"))).unwrap();
            assert_eq!((found.uid(), found.gid()), (id, id));
        }
    }
    let read = async |user: &str| sandbox.call("GET", &files("secret", user), &[], "").await;
    assert_eq!(&read("root").await.body[..], b"secret");
    assert_eq!(read("daemon").await.status, StatusCode::FORBIDDEN);
    let refused = sandbox.call("POST", &files("new", "daemon"), &[octets], "x").await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    let headers = [("content-type", "application/json"), (name, daemon.as_str())];
    for (method, message) in [
        ("Remove", json!({"path": path("all/root")})),
        ("MakeDir", json!({"path": path("new")})),
        (
            "Move",
            json!({"source": path("secret"), "destination": path("all/secret")}),
        ),
    ] {
        let uri = format!("/filesystem.Filesystem/{method}");
        let answer = sandbox.call("POST", &uri, &headers, message.to_string()).await;
        assert_eq!(answer.json()["code"], "permission_denied", "{method}");
    }
}
