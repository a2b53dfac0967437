//! An entry point for fuzzers: not part of the interface.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use ringwall_vmm_proto::{Answer, Architecture, Controller, Decision, Fault, InstanceId, parse, render};

use super::connection::Connection;
use super::response::{self, Notes};
use super::server::Limits;

/// Bytes that metadata may have.
const MMDS_BYTES: usize = 4096;

/// Sends what a client might, in pieces, to a server whose VMM does everything at once and with success.
///
/// The first byte says which architecture, the second how long the pieces are.
pub fn fuzz_requests(data: &[u8]) {
    let [architecture, piece, data @ ..] = data else {
        return;
    };
    let architecture = if architecture & 1 == 0 {
        Architecture::X86_64
    } else {
        Architecture::Aarch64
    };
    let Ok((mut client, server)) = UnixStream::pair() else {
        return;
    };
    if client.set_nonblocking(true).is_err() || server.set_nonblocking(true).is_err() {
        return;
    }
    let limits = Limits {
        body_bytes: MMDS_BYTES,
        ..Limits::default()
    };
    let mut controller = Controller::new(architecture, InstanceId::default(), "0", MMDS_BYTES);
    let mut connection = Connection::new(server, Instant::now());
    for piece in data.chunks(usize::from(*piece).saturating_add(1)) {
        if client.write(piece).is_err() {
            break;
        }
        let now = Instant::now();
        connection.read(now, &limits);
        while let Some(request) = connection.next_request(now, &limits) {
            let notes = Notes {
                keeps_alive: request.head.keeps_alive,
                is_deprecated: false,
            };
            let outcome = match request.head.method {
                None => Err(Fault::bad_request(&"there is no such method")),
                Some(method) => parse(method, &request.head.target, &request.body)
                    .map_err(Fault::from)
                    .and_then(|request| match controller.decide(request.action)? {
                        Decision::Answered(answer) => Ok(answer),
                        Decision::Perform(command) => {
                            controller.settle(&command);
                            Ok(Answer::Empty)
                        }
                    }),
            };
            connection.answer(&render(&outcome), notes, now, &limits);
        }
        if connection.is_gone() {
            break;
        }
        // So that there is room for the next answer.
        let _nothing = client.read(&mut [0; 64 * 1024]);
        connection.write(Instant::now(), &limits);
    }
    connection.refuse(&response::refusal(408, &"over"), Instant::now(), &limits);
}
