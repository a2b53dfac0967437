//! Handshakes: versions, what is not TLS, and clients that never finish.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringwall_e2e::serve::{PATIENCE, eventually, read_answer};
use ringwall_e2e::users;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, ProtocolVersion};

use crate::pki::{Authority, place};
use crate::{Ground, each_user};

/// What a handshake has agreed on.
pub(crate) struct Agreed {
    pub(crate) certificate: CertificateDer<'static>,
    version: ProtocolVersion,
    protocol: Option<Vec<u8>>,
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    stream.set_write_timeout(Some(PATIENCE)).expect("a time limit");
    stream
}

/// Shakes hands with a port of this machine.
pub(crate) fn shake(port: u16, name: &'static str, config: Arc<ClientConfig>) -> io::Result<Agreed> {
    let name = ServerName::try_from(name).expect("a name");
    let mut tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
    let mut stream = connect(port);
    while tls.is_handshaking() {
        tls.complete_io(&mut stream)?;
    }
    let certificate = tls.peer_certificates().and_then(<[_]>::first).cloned();
    Ok(Agreed {
        certificate: certificate.expect("a certificate").into_owned(),
        version: tls.protocol_version().expect("a version"),
        protocol: tls.alpn_protocol().map(<[_]>::to_vec),
    })
}

#[test]
fn versions_and_protocols_are_agreed_on() {
    let ground = Ground::new(users()[0], &["--pool", "0"]);
    let authority = &ground.authority;
    for (version, wanted) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        let agreed = shake(
            ground.port,
            "127.0.0.1",
            authority.client(&[version], &["h2", "http/1.1"]),
        )
        .expect("a handshake");
        assert_eq!(agreed.version, wanted);
        assert_eq!(agreed.protocol.as_deref(), Some(b"http/1.1".as_slice()));
        assert_eq!(agreed.certificate, ground.pair.der);
    }
    let silent = shake(ground.port, "localhost", authority.client(&[&TLS13], &[])).expect("a handshake");
    assert_eq!(silent.protocol, None);
    // A port's own name is covered by the wildcard.
    shake(
        ground.port,
        "8000-x.sandbox.localhost",
        authority.client(&[&TLS13], &[]),
    )
    .expect("a handshake");
    let refused = shake(ground.port, "127.0.0.1", authority.client(&[&TLS13], &["h2"]))
        .err()
        .expect("no handshake");
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    for (name, authority) in [
        ("other.localhost", authority),
        ("127.0.0.1", &Authority::new("another")),
    ] {
        let refused = shake(ground.port, name, authority.client(&[&TLS13], &[]));
        assert!(refused.is_err_and(|error| error.to_string().contains("invalid peer certificate")));
    }
    ground.server.assert_sound();
}

#[test]
fn plain_http_is_told_in_plain_words() {
    each_user(|ground| {
        for request in [
            "GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
            "POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{",
        ] {
            let mut stream = connect(ground.port);
            stream.write_all(request.as_bytes()).expect("sent");
            let answer = read_answer(stream).expect("an answer").expect_status(400);
            assert!(answer.message().contains("https://"), "{answer:?}");
        }
        // Neither TLS nor HTTP: closed without a word.
        let mut stream = connect(ground.port);
        stream.write_all(b"\x80\x2e\x01\x00\x02").expect("sent");
        let mut said = Vec::new();
        drop(stream.read_to_end(&mut said));
        assert_eq!(said, b"");
        ground.server.assert_sound();
    });
}

/// Opens a connection that takes one of the server's places, and sends the start of something.
fn take_place(port: u16, start: &[u8]) -> TcpStream {
    loop {
        let mut stream = connect(port);
        stream.write_all(start).expect("sent");
        std::thread::sleep(Duration::from_millis(200));
        stream.set_nonblocking(true).expect("a mode");
        let answered = stream.peek(&mut [0]);
        stream.set_nonblocking(false).expect("a mode");
        // Answered at once is sent away: an earlier connection has not quite ended.
        if answered.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            return stream;
        }
    }
}

#[test]
fn handshakes_that_never_end_take_places_only_for_a_while() {
    let ground = Ground::new(users()[0], &["--pool", "0", "--max-connections", "4"]);
    let begun = Instant::now();
    let mut slow = [
        &b""[..],
        b"\x16",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x16\x03\x01",
    ]
    .map(|start| take_place(ground.port, start));
    // They count: the next is sent away, by an alert (RFC 8446, section 6: fatal, internal_error).
    let mut said = Vec::new();
    drop(connect(ground.port).read_to_end(&mut said));
    assert_eq!(said, [21, 3, 3, 0, 2, 2, 80], "after {:?}", begun.elapsed());
    // The operator on this machine still gets in.
    let world = ground.server.world();
    let state = world.path("home/state");
    std::fs::create_dir(&state).expect("a directory");
    std::fs::set_permissions(&state, PermissionsExt::from_mode(0o700)).expect("permissions");
    std::os::unix::fs::symlink(ground.server.state(), state.join(".serve")).expect("a link");
    world.hand_over(&state);
    let mut command = world.command(&["create"]);
    let outcome = command
        .env("RINGWALL_STATE_DIR", &state)
        .output()
        .expect("ringwall starts");
    assert!(outcome.status.success(), "{outcome:?}");
    // One byte now and then, of a record that is well-formed so far, prolongs nothing.
    while begun.elapsed() < Duration::from_secs(8) {
        slow[2].write_all(b"\x00").expect("it is still open");
        std::thread::sleep(Duration::from_millis(500));
    }
    for mut stream in slow {
        // Its end, or a reset.
        drop(stream.read_to_end(&mut Vec::new()));
    }
    let took = begun.elapsed();
    assert!(
        took > Duration::from_secs(5) && took < Duration::from_secs(30),
        "{took:?}"
    );
    let failed = || {
        let answer = ground.server.client().request("GET", "/metrics", &[], b"").ok()?;
        let page = String::from_utf8_lossy(&answer.body).into_owned();
        let line = page
            .lines()
            .find(|line| line.starts_with("ringwall_tls_handshakes_failed_total"))?;
        line.rsplit(' ').next().map(str::to_owned)
    };
    eventually("places are free again", PATIENCE, || failed().is_some());
    // A place is free a moment before its failure is counted.
    eventually("all are counted", PATIENCE, || {
        let count = failed();
        println!("{count:?} handshakes have failed");
        count.as_deref() == Some("4")
    });
    ground.server.assert_sound();
}

#[test]
fn a_new_certificate_is_taken_up_at_sighup() {
    each_user(|ground| {
        let world = ground.server.world();
        let hang_up = || {
            let pid = rustix::process::Pid::from_raw(ground.server.pid()).expect("a pid");
            rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("a signal");
        };
        let shown = || {
            shake(ground.port, "127.0.0.1", ground.authority.client(&[&TLS13], &[]))
                .expect("a handshake")
                .certificate
        };
        let client = ground.server.client();
        let sandbox = client.create(&serde_json::json!({}));
        let mut events = client
            .start(
                &sandbox,
                "echo on; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo off",
            )
            .expect("it starts");
        events.pid().expect("a pid");
        assert_eq!(events.output().expect("output"), "on\n");

        let next = ground.authority.certify(&crate::NAMES);
        place(world, "server.pem", &next.certificate);
        assert_eq!(shown(), ground.pair.der, "not before it is told");
        place(world, "server.key", &next.key);
        hang_up();
        eventually("the new certificate", PATIENCE, || shown() == next.der);
        // Files that do not fit change nothing, and are named.
        place(world, "server.key", &ground.pair.key);
        hang_up();
        eventually("a refusal", PATIENCE, || {
            ground.server.log().contains("does not belong to the first certificate")
        });
        assert_eq!(shown(), next.der);
        std::fs::remove_file(world.path("home/server.pem")).expect("removed");
        hang_up();
        eventually("a refusal", PATIENCE, || ground.server.log().contains("can't read"));
        assert!(ground.server.log().contains("stay in use"));
        assert_eq!(shown(), next.der);
        // Connections of before go on.
        client.shell(&sandbox, "touch /tmp/go");
        assert_eq!(events.finish().expect("its end").out, "off\n");
        ground.server.assert_sound();
    });
}
