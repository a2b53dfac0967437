//! An answer as bytes.

use ringwall_vmm_proto::{Fault, Rendered};

/// The answer to a client that waits for leave to send its body (RFC 9110 §10.1.1).
pub(crate) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The head of an answer that goes on until the VM ends: lines of JSON, each in a chunk of its own (RFC 9112 §7.1).
pub(crate) const EVENTS: &[u8] = b"HTTP/1.1 200 OK\r\nServer: Ringwall\r\nConnection: close\r\n\
    Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";

/// The chunk that is the end of such an answer.
pub(crate) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Appends a chunk, which must not be empty.
pub(crate) fn write_chunk(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes());
}

/// What an answer says besides status and body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Notes {
    /// Whether another request may follow.
    pub(crate) keeps_alive: bool,
    /// Whether the request used something that clients shouldn't use any more.
    pub(crate) is_deprecated: bool,
}

/// Appends an answer to `out`.
pub(crate) fn write(out: &mut Vec<u8>, rendered: &Rendered, notes: Notes) {
    let connection = if notes.keeps_alive { "keep-alive" } else { "close" };
    let deprecation = if notes.is_deprecated {
        "Deprecation: true\r\n"
    } else {
        ""
    };
    let head = format!(
        "HTTP/1.1 {} {}\r\nServer: Ringwall\r\nConnection: {connection}\r\n{deprecation}",
        rendered.status,
        reason(rendered.status)
    );
    out.extend_from_slice(head.as_bytes());
    match &rendered.body {
        // RFC 9110 §8.6: no length with 204.
        None => out.extend_from_slice(b"\r\n"),
        Some(body) => {
            let fields = format!(
                "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            out.extend_from_slice(fields.as_bytes());
            out.extend_from_slice(body.as_bytes());
        }
    }
}

/// An answer of the server itself: the same form as the VMM's faults, with a status that those don't have.
pub(crate) fn refusal(status: u16, message: &impl std::fmt::Display) -> Rendered {
    Rendered {
        status,
        body: Some(Fault::bad_request(message).body()),
    }
}

/// The words after the status, which nobody reads (RFC 9110 §15).
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Payload Too Large",
        417 => "Expectation Failed",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    }
}
