//! Contents in and out.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use serde_json::json;

use crate::sandbox::Sandbox;

const OCTETS: (&str, &str) = ("content-type", "application/octet-stream");

fn form(parts: &[(&str, &str)]) -> String {
    let mut body = String::new();
    for (disposition, content) in parts {
        body.push_str(&format!("--X\r\nContent-Disposition: form-data; {disposition}\r\nContent-Type: application/octet-stream\r\n\r\n{content}\r\n"));
    }
    body + "--X--\r\n"
}

#[tokio::test]
async fn forms_name_paths() {
    let sandbox = Sandbox::start();
    let kind = [("content-type", "multipart/form-data; boundary=X")];
    let target = sandbox.home().join("deep/er/one.txt");
    let first = format!("name=\"file\"; filename=\"{}\"", target.display());
    let body = form(&[
        (&first, "one"),
        ("name=\"other\"", "not a file"),
        ("name=\"file\"; filename*=UTF-8''two%2Fz%C3%A9.txt", "two"),
    ]);
    let answer = sandbox.call("POST", "/files", &kind, body).await;
    let two = sandbox.home().join("two/zé.txt");
    let wanted = json!([
        {"name": "one.txt", "type": "file", "path": target},
        {"name": "zé.txt", "type": "file", "path": two},
    ]);
    assert_eq!((answer.status, answer.json()), (StatusCode::OK, wanted));
    assert_eq!(std::fs::read_to_string(target).unwrap(), "one");
    assert_eq!(std::fs::read_to_string(two).unwrap(), "two");

    let named = form(&[("name=\"file\"; filename=\"ignored\"", "three")]);
    let answer = sandbox
        .call("POST", "/files?path=three.txt&username=user", &kind, named)
        .await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(
        std::fs::read_to_string(sandbox.home().join("three.txt")).unwrap(),
        "three"
    );
    assert!(!sandbox.home().join("ignored").exists());

    let bad = [
        form(&[("name=\"file\"", "x")]),
        form(&[]),
        "--X\r\ntruncated".to_owned(),
    ];
    for body in bad {
        let answer = sandbox.call("POST", "/files", &kind, body).await;
        assert_eq!(
            (answer.status, answer.json()["code"].clone()),
            (StatusCode::BAD_REQUEST, json!(400))
        );
    }
}

#[tokio::test]
async fn octets_may_be_compressed_and_carry_metadata() {
    let sandbox = Sandbox::start();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(&[b'z'; 1_000_000]).unwrap();
    let compressed = encoder.finish().unwrap();
    let headers = [OCTETS, ("content-encoding", "gzip")];
    let answer = sandbox.call("POST", "/files?path=z", &headers, compressed).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(std::fs::read(sandbox.home().join("z")).unwrap() == [b'z'; 1_000_000]);
    let broken = sandbox.call("POST", "/files?path=z", &headers, "no gzip").await;
    assert_eq!(broken.status, StatusCode::BAD_REQUEST);
    let unknown = sandbox
        .call("POST", "/files?path=z", &[OCTETS, ("content-encoding", "br")], "")
        .await;
    assert_eq!(unknown.status, StatusCode::BAD_REQUEST);

    let headers = [OCTETS, ("x-metadata-origin", "a test")];
    let answer = sandbox
        .call("POST", "/files?path=m", &headers, "short, over a longer one")
        .await;
    if answer.status == StatusCode::BAD_REQUEST {
        eprintln!("SKIPPED: the file system has no user attributes: {}", answer.json());
    } else {
        assert_eq!(answer.json()[0]["metadata"], json!({"origin": "a test"}));
        let stat = sandbox
            .unary("filesystem.Filesystem/Stat", json!({"path": "m"}))
            .await
            .json();
        assert_eq!(stat["entry"]["metadata"], json!({"origin": "a test"}));
    }
    sandbox.call("POST", "/files?path=m", &[OCTETS], "short").await;
    assert_eq!(std::fs::read(sandbox.home().join("m")).unwrap(), b"short");
}

#[tokio::test]
async fn failures_have_their_status() {
    let sandbox = Sandbox::start();
    let get = async |uri: &str| sandbox.call("GET", uri, &[], "").await;
    std::fs::write(sandbox.home().join("empty"), "").unwrap();
    let empty = get("/files?path=empty").await;
    assert_eq!((empty.status, empty.body.len()), (StatusCode::OK, 0));
    assert_eq!(get("/files?path=nothing").await.status, StatusCode::NOT_FOUND);
    assert_eq!(get("/files?path=~").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(get("/files").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(get("/files?path=/dev/zero").await.status, StatusCode::BAD_REQUEST);
    assert!(get("/files?path=/proc/self/status").await.body.starts_with(b"Name:"));
    let post = async |uri: &str| sandbox.call("POST", uri, &[OCTETS], "x").await.status;
    assert_eq!(post("/files?path=~").await, StatusCode::BAD_REQUEST);
    assert_eq!(post("/files?path=empty/below").await, StatusCode::BAD_REQUEST);
    assert_eq!(post("/files").await, StatusCode::BAD_REQUEST);
    sandbox.shell("mkfifo pipe").await.rest().await;
    assert_eq!(post("/files?path=pipe").await, StatusCode::BAD_REQUEST);
    assert_eq!(get("/files?path=pipe").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(
        sandbox
            .call("POST", "/files?path=x", &[("content-type", "text/plain")], "x")
            .await
            .status,
        StatusCode::BAD_REQUEST
    );
    if std::fs::metadata("/dev/full").is_ok() {
        assert_eq!(
            post("/files?path=/dev/full").await,
            StatusCode::BAD_REQUEST,
            "devices are not files"
        );
    }
}

/// Sends 64 MiB of which only a piece exists at a time.
async fn upload_large(
    sandbox: &Sandbox,
    kind: &str,
    uri: &str,
    before: &'static str,
    after: &'static str,
) -> StatusCode {
    let block = Bytes::from(vec![7_u8; 256 * 1024]);
    let pieces = futures_util::stream::iter(std::iter::once(Bytes::from(before)))
        .chain(futures_util::stream::iter(std::iter::repeat_n(block, 256)))
        .chain(futures_util::stream::iter(std::iter::once(Bytes::from(after))))
        .map(|piece| Ok::<_, std::io::Error>(Frame::data(piece)));
    let request = Request::post(uri).header("host", "agent").header("content-type", kind);
    let response = sandbox.send(request.body(StreamBody::new(pieces)).unwrap()).await;
    response.status()
}

#[tokio::test]
async fn large_files_pass_through_little_memory() {
    const SIZE: u64 = 64 * 1024 * 1024;
    let sandbox = Sandbox::start();
    sandbox.call("GET", "/health", &[], "").await;
    let before = sandbox.memory_kib("VmHWM");
    let form = upload_large(
        &sandbox,
        "multipart/form-data; boundary=X",
        "/files",
        "--X\r\nContent-Disposition: form-data; name=\"file\"; filename=\"form\"\r\n\r\n",
        "\r\n--X--\r\n",
    );
    assert_eq!(form.await, StatusCode::OK);
    let octets = upload_large(&sandbox, OCTETS.1, "/files?path=octets", "", "").await;
    assert_eq!(octets, StatusCode::OK);
    for name in ["form", "octets"] {
        assert_eq!(std::fs::metadata(sandbox.home().join(name)).unwrap().size(), SIZE);
    }
    let request = Request::get("/files?path=octets").header("host", "agent");
    let response = sandbox
        .send(request.body(http_body_util::Empty::<Bytes>::new()).unwrap())
        .await;
    assert_eq!(response.headers()["content-length"], SIZE.to_string().as_str());
    let mut body = response.into_body();
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap().into_data().unwrap();
        assert!(data.iter().all(|&byte| byte == 7));
        read += data.len() as u64;
    }
    assert_eq!(read, SIZE);
    let grown = sandbox.memory_kib("VmHWM") - before;
    assert!(grown < 8 * 1024, "{grown} KiB");
}
