//! Signing, checking and reading of Jupyter's messages.

use super::*;
use jupyter_protocol::KernelInfoRequest;

fn signed(signer: &Signer, kind: &str, parent: &str, content: &str) -> Vec<Bytes> {
    let header = format!(r#"{{"msg_id":"x","msg_type":"{kind}"}}"#);
    let signature = signer.digest([header.as_bytes(), parent.as_bytes(), b"{}", content.as_bytes()]);
    let parts = [
        "topic",
        "<IDS|MSG>",
        &hex(&signature.finalize().into_bytes()),
        &header,
        parent,
        "{}",
        content,
    ];
    parts
        .iter()
        .map(|part| Bytes::copy_from_slice(part.as_bytes()))
        .collect()
}

fn read(kind: &str, content: &str) -> Content {
    let signer = Signer::new();
    signer
        .decode(&signed(&signer, kind, r#"{"msg_id":"p"}"#, content))
        .unwrap()
        .content
}

#[test]
fn what_is_sent_passes_the_check() {
    let signer = Signer::new();
    let sent = signer.encode(KernelInfoRequest {}).unwrap();
    let received = signer.decode(&sent.frames).unwrap();
    assert_eq!(received.parent, "");
    assert_eq!(received.content, Content::Other);
}

#[test]
fn a_changed_or_unsigned_message_is_refused() {
    let signer = Signer::new();
    let good = signed(&signer, "status", "{}", r#"{"execution_state":"idle"}"#);
    assert!(signer.decode(&good).is_ok());
    let mut changed = good.clone();
    changed[6] = Bytes::from_static(br#"{"execution_state":"busy"}"#);
    assert!(matches!(signer.decode(&changed), Err(DecodeError::Signature)));
    for signature in ["", "zz", "abc", "00"] {
        let mut unsigned = good.clone();
        unsigned[2] = Bytes::from_static(signature.as_bytes());
        assert!(
            matches!(signer.decode(&unsigned), Err(DecodeError::Signature)),
            "{signature:?}"
        );
    }
    assert!(matches!(Signer::new().decode(&good), Err(DecodeError::Signature)));
}

#[test]
fn missing_frames_are_an_error_not_a_panic() {
    let signer = Signer::new();
    let good = signed(&signer, "status", "{}", "{}");
    for length in 0..good.len() {
        assert!(signer.decode(&good[..length]).is_err(), "{length} frames");
    }
    assert!(matches!(signer.decode(&good), Err(DecodeError::Json(_))));
}

#[test]
fn contents_are_read() {
    let text = |is_error, text: &str| Content::Stream {
        is_error,
        text: text.into(),
    };
    assert_eq!(read("stream", r#"{"name":"stdout","text":"a"}"#), text(false, "a"));
    assert_eq!(read("stream", r#"{"name":"stderr","text":"b"}"#), text(true, "b"));
    assert_eq!(
        read("execute_input", r#"{"code":"1","execution_count":3}"#),
        Content::Input { count: 3 }
    );
    assert_eq!(read("status", r#"{"execution_state":"busy"}"#), Content::Other);
    assert_eq!(read("status", r#"{"execution_state":"idle"}"#), Content::Idle);
    assert_eq!(read("comm_open", "[]"), Content::Other);
    let error = KernelError {
        name: "E".into(),
        value: "v".into(),
        traceback: vec!["t".into()],
    };
    let content = r#"{"status":"error","ename":"E","evalue":"v","traceback":["t"]}"#;
    assert_eq!(read("execute_reply", content), Content::Reply(Reply::Error(error)));
    assert_eq!(
        read("execute_reply", r#"{"status":"aborted"}"#),
        Content::Reply(Reply::Aborted)
    );
    assert_eq!(read("kernel_info_reply", r#"{"banner":""}"#), Content::Reply(Reply::Ok));
}

#[test]
fn a_missing_parent_may_be_null_or_empty() {
    let signer = Signer::new();
    for parent in ["{}", "null"] {
        let frames = signed(&signer, "status", parent, r#"{"execution_state":"idle"}"#);
        assert_eq!(signer.decode(&frames).unwrap().parent, "");
    }
}
