//! Requests that are not what they should be.

use http::StatusCode;
use ringwall_agent_proto::{MAX_MESSAGE_BYTES, envelope};
use serde_json::json;

use crate::sandbox::{Sandbox, shell};

#[tokio::test]
async fn malformed_streams_end_with_an_error() {
    let sandbox = Sandbox::start();
    let good = envelope::message(&shell("true"));
    let cases: &[(&[u8], &str)] = &[
        (b"", "invalid_argument"),
        (b"\0\0", "invalid_argument"),
        (b"\0\0\0\0\x05{", "invalid_argument"),
        (b"\0\0\0\0\x04nope", "invalid_argument"),
        (b"\x02\0\0\0\x02{}", "invalid_argument"),
        (b"\x40\0\0\0\x02{}", "invalid_argument"),
        (b"\x01\0\0\0\x02{}", "unimplemented"),
        (b"\0\xff\xff\xff\xff", "resource_exhausted"),
        (&good[..good.len() - 1], "invalid_argument"),
    ];
    for method in [
        "process.Process/Start",
        "filesystem.Filesystem/WatchDir",
        "process.Process/Connect",
    ] {
        for (body, code) in cases {
            let told = sandbox.open_raw(method, &[], body.to_vec().into()).await.rest().await;
            assert_eq!(told.error.unwrap()["code"], *code, "{method} {body:?}");
        }
    }
    let input = sandbox
        .open_raw(
            "process.Process/StreamInput",
            &[],
            b"\0\0\0\0\x09{\"data\":1".to_vec().into(),
        )
        .await;
    assert_eq!(input.rest().await.error.unwrap()["code"], "invalid_argument");
    assert_eq!(sandbox.shell("echo fine").await.rest().await.stdout, b"fine\n");
}

#[tokio::test]
async fn oversize_messages_are_refused() {
    let sandbox = Sandbox::start();
    let long = "x".repeat(MAX_MESSAGE_BYTES);
    let told = sandbox
        .open("process.Process/Start", &[], shell(&long))
        .await
        .rest()
        .await;
    assert_eq!(told.error.unwrap()["code"], "resource_exhausted");
    let unary = sandbox.unary("filesystem.Filesystem/Stat", json!({"path": long})).await;
    assert_eq!(unary.json()["code"], "resource_exhausted");
    assert_eq!(unary.status, StatusCode::TOO_MANY_REQUESTS);
    // Just inside the limit, but more than an argument may be (128 KiB).
    let told = sandbox
        .open("process.Process/Start", &[], shell(&"x".repeat(1024 * 1024)))
        .await
        .rest()
        .await;
    assert_eq!(told.error.unwrap()["code"], "invalid_argument");
}

#[tokio::test]
async fn wrong_types_methods_and_headers_are_told_apart() {
    let sandbox = Sandbox::start();
    let plain = [("content-type", "text/plain")];
    let answer = sandbox.call("POST", "/process.Process/List", &plain, "{}").await;
    assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let answer = sandbox
        .call(
            "POST",
            "/process.Process/Start",
            &[("content-type", "application/json")],
            "{}",
        )
        .await;
    assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let answer = sandbox.call("GET", "/process.Process/List", &[], "").await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    let answer = sandbox.unary("process.Process/Dance", json!({})).await;
    assert_eq!(
        (answer.status, answer.json()["code"].clone()),
        (StatusCode::NOT_IMPLEMENTED, json!("unimplemented"))
    );
    let answer = sandbox.unary("process.Process/List", json!([1])).await;
    assert_eq!(answer.json()["code"], "invalid_argument");
    let headers = [("connect-timeout-ms", "soon")];
    let told = sandbox
        .open("process.Process/Start", &headers, shell("true"))
        .await
        .rest()
        .await;
    assert_eq!(told.error.unwrap()["code"], "invalid_argument");
    let answer = sandbox
        .call(
            "POST",
            "/process.Process/List",
            &[("content-type", "application/json")],
            "",
        )
        .await;
    assert_eq!(
        (answer.status, answer.json()),
        (StatusCode::OK, json!({"processes": []}))
    );
}
