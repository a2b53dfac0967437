//! What is fuzzed: each function takes any bytes and must come back, whatever they are, in bounded time and memory.
//!
//! `fuzz/` (a workspace of its own, for it needs a nightly compiler) gives them to libFuzzer; `tests/replay.rs` runs the corpora with
//! every `cargo test`.
#![forbid(unsafe_code)]

mod virt;

pub use virt::{
    balloon, block, board, config_file, kernel_aarch64, kernel_x86_64, mmds, mmio, net, queue, requests, snapshot,
    vsock, vsock_packets,
};

use ringwall_agent_proto::process::{StartRequest, StreamInputRequest};
use ringwall_agent_proto::{Decoder, disposition};

/// Connect's envelopes, in pieces whose sizes the first byte chooses; every whole message is also read as a request.
pub fn connect(data: &[u8]) {
    let Some((&size, rest)) = data.split_first() else {
        return;
    };
    let mut decoder = Decoder::with_limit(1 << 16);
    for piece in rest.chunks(usize::from(size).max(1)) {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(envelope)) => {
                    drop(read::<StartRequest>(&envelope.payload));
                    drop(read::<StreamInputRequest>(&envelope.payload));
                }
                Ok(None) => break,
                Err(first) => {
                    // An error stays: nothing behind it can be understood.
                    assert_eq!(decoder.next().err(), Some(first));
                    return;
                }
            }
        }
    }
    let _ = decoder.finish();
}

fn read<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}

/// The header of a part of a multipart upload, which names the file.
pub fn disposition(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        drop(disposition::parse(text));
    }
}

/// The metadata filter of list calls.
pub fn metadata(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        drop(ringwall_api::fuzz_metadata_filter(text));
    }
}

/// The unpacker of image layers and uploads.
pub fn unpack(data: &[u8]) {
    ringwall_image::fuzzing::fuzz_unpack(data);
}
