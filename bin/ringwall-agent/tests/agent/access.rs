//! Who may do what: tokens, signed URLs, users.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use http::StatusCode;
use ringwall_agent_proto::signature::{Claim, Operation, sign};
use serde_json::json;

use crate::sandbox::{Sandbox, encoded};

const TOKEN: (&str, &str) = ("x-access-token", "secret");

async fn with_token() -> Sandbox {
    let sandbox = Sandbox::start();
    let init = json!({"envVars": {"COLOUR": "blue"}, "accessToken": "secret", "timestamp": "2026-01-01T00:00:00Z"});
    let answer = sandbox.call("POST", "/init", &[], init.to_string()).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
    sandbox
}

#[tokio::test]
async fn health_and_init_need_no_token_and_the_rest_does() {
    let sandbox = with_token().await;
    assert_eq!(
        sandbox.call("GET", "/health", &[], "").await.status,
        StatusCode::NO_CONTENT
    );
    for path in ["/envs", "/metrics", "/nothing"] {
        let answer = sandbox.call("GET", path, &[], "").await;
        assert_eq!(
            (answer.status, answer.json()["code"].clone()),
            (StatusCode::UNAUTHORIZED, json!(401)),
            "{path}"
        );
    }
    let answer = sandbox.unary("process.Process/List", json!({})).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert_eq!(answer.json()["code"], "unauthenticated");
    let wrong = sandbox.call("GET", "/envs", &[("x-access-token", "secreT")], "").await;
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);

    let right = sandbox.call("GET", "/envs", &[TOKEN], "").await;
    assert_eq!(
        (right.status, right.json()),
        (StatusCode::OK, json!({"COLOUR": "blue"}))
    );
    let nothing = sandbox.call("GET", "/nothing", &[TOKEN], "").await;
    assert_eq!(
        (nothing.status, nothing.json()["code"].clone()),
        (StatusCode::NOT_FOUND, json!(404))
    );
    let metrics = sandbox.call("GET", "/metrics", &[TOKEN], "").await.json();
    assert!(metrics["mem_total"].as_u64().unwrap() > 0 && metrics["disk_total"].as_u64().unwrap() > 0);
    assert!(metrics["cpu_count"].as_u64().unwrap() > 0 && metrics["cpu_used_pct"].is_number());
}

/// The host's proxy is one: an error of its write is all that it would tell its client.
#[tokio::test]
async fn a_refusal_reaches_who_is_still_sending() {
    let sandbox = with_token().await;
    for path in [
        "/process.Process/List",
        "/filesystem.Filesystem/Stat",
        "/nothing",
        "/health",
    ] {
        let mut wire = UnixStream::connect(sandbox.agent_socket()).unwrap();
        wire.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let head = "Host: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n";
        wire.write_all(format!("POST {path} HTTP/1.1\r\n{head}").as_bytes())
            .unwrap();
        std::thread::sleep(Duration::from_millis(100));
        wire.write_all(b"{}").unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut status = [0; 12];
        wire.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 401", "{path}");
    }
}

#[tokio::test]
async fn init_replaces() {
    let sandbox = with_token().await;
    let again = json!({"envVars": {"SHAPE": "round"}, "accessToken": "other"});
    sandbox.call("POST", "/init", &[], again.to_string()).await;
    assert_eq!(
        sandbox.call("GET", "/envs", &[TOKEN], "").await.status,
        StatusCode::UNAUTHORIZED
    );
    let answer = sandbox.call("GET", "/envs", &[("x-access-token", "other")], "").await;
    assert_eq!(answer.json(), json!({"SHAPE": "round"}));
    assert_eq!(
        sandbox.call("POST", "/init", &[], "nonsense").await.status,
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test]
async fn signed_urls_open_one_file_for_one_operation() {
    let sandbox = with_token().await;
    let url = |operation, expires_at: Option<i64>| {
        let claim = Claim {
            path: "a b.txt",
            operation,
            user: "user",
            expires_at,
        };
        let signature = sign(&claim, "secret").replace('+', "%2B").replace('/', "%2F");
        let expiry = expires_at
            .map(|at| format!("&signature_expiration={at}"))
            .unwrap_or_default();
        format!("/files?path=a%20b.txt&username=user&signature={signature}{expiry}")
    };
    let octets = [("content-type", "application/octet-stream")];
    let write = sandbox
        .call("POST", &url(Operation::Write, Some(4_000_000_000)), &octets, "hi")
        .await;
    assert_eq!(write.status, StatusCode::OK, "{}", write.json());
    assert_eq!(std::fs::read(sandbox.home().join("a b.txt")).unwrap(), b"hi");
    let read = sandbox.call("GET", &url(Operation::Read, None), &[], "").await;
    assert_eq!((read.status, &read.body[..]), (StatusCode::OK, &b"hi"[..]));

    let refused = [
        url(Operation::Write, None),
        url(Operation::Read, Some(1_000)),
        url(Operation::Read, Some(4_000_000_000)).replace("4000000000", "4000000001"),
        "/files?path=a%20b.txt&username=user".to_owned(),
    ];
    for url in refused {
        let answer = sandbox.call("GET", &url, &[], "").await;
        assert_eq!(
            (answer.status, answer.json()["code"].clone()),
            (StatusCode::UNAUTHORIZED, json!(401)),
            "{url}"
        );
    }
    let wrong = sandbox
        .call("GET", &url(Operation::Read, None), &[("x-access-token", "x")], "")
        .await;
    assert_eq!(
        wrong.status,
        StatusCode::UNAUTHORIZED,
        "a wrong token must not fall back to the signature"
    );
    let token = sandbox.call("GET", "/files?path=a%20b.txt", &[TOKEN], "").await;
    assert_eq!(&token.body[..], b"hi");
}

#[tokio::test]
async fn there_is_one_user() {
    let sandbox = Sandbox::start();
    let stat = async |user: &str| {
        let basic = format!("Basic {}", encoded(format!("{user}:")));
        let headers = [("content-type", "application/json"), ("authorization", basic.as_str())];
        sandbox
            .call("POST", "/filesystem.Filesystem/Stat", &headers, r#"{"path":"~"}"#)
            .await
    };
    let unknown = stat("nobody-has-this-name").await;
    assert_eq!(unknown.status, StatusCode::UNAUTHORIZED);
    assert_eq!(unknown.json()["message"], "invalid username: 'nobody-has-this-name'");
    // Of a fixed system account that tests never run as.
    let other = stat("daemon").await;
    assert_eq!(other.json()["code"], "unauthenticated");
    assert!(
        other.json()["message"]
            .as_str()
            .unwrap()
            .starts_with("user 'daemon' is not available in this sandbox")
    );
    let by_query = sandbox.call("GET", "/files?path=x&username=daemon", &[], "").await;
    assert_eq!(by_query.status, StatusCode::UNAUTHORIZED);
    let own = stat("user").await;
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    if !passwd.lines().any(|line| line.starts_with("user:")) {
        assert_eq!(own.json()["entry"]["path"], sandbox.home().to_str().unwrap());
    }
}
