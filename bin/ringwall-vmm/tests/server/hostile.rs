//! What other clients do. After each, an honest one is served.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use ringwall_vmm_bin::api::Limits;

use crate::fake::{Client, Fake, request};

/// Limits that a test can wait for.
fn short() -> Limits {
    let timeout = Duration::from_millis(400);
    Limits {
        request_timeout: timeout,
        write_timeout: timeout,
        ..Limits::default()
    }
}

#[test]
fn what_is_no_request_is_refused_and_the_connection_ends() {
    let fake = Fake::start();
    let long_head = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(9000));
    let many_fields = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(65));
    for (text, status) in [
        ("\u{16}\u{3}\u{1}\r\n\r\n", 400),
        ("GET /\r\n\r\n", 400),
        ("GET / HTTP/9.9\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nbad field\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nA: \u{0}\r\n\r\n", 400),
        (long_head.as_str(), 400),
        (&many_fields, 400),
        (
            "PUT /mmds HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
            400,
        ),
        ("PUT /mmds HTTP/1.1\r\nContent-Length: -2\r\n\r\n{}", 400),
        (
            "PUT /mmds HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            411,
        ),
        (
            "PUT /mmds HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
            411,
        ),
        ("PUT /mmds HTTP/1.1\r\nContent-Length: 51201\r\n\r\n", 413),
        (
            "PUT /mmds HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
            413,
        ),
        ("PUT /mmds HTTP/1.1\r\nContent-Length: 2\r\nExpect: tea\r\n\r\n{}", 417),
        ("DELETE /drives/d HTTP/1.1\r\n\r\n", 400),
        ("POST /actions HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", 400),
        ("HEAD / HTTP/1.1\r\n\r\n", 400),
        ("OPTIONS * HTTP/1.1\r\n\r\n", 400),
        ("CONNECT localhost:80 HTTP/1.1\r\n\r\n", 400),
        ("get / HTTP/1.1\r\n\r\n", 400),
    ] {
        let mut client = fake.client();
        client.send(text.as_bytes());
        let reply = client.reply().unwrap();
        assert_eq!(reply.status, status, "{text:?} {}", reply.body);
        assert!(reply.body.starts_with(r#"{"fault_message":"#), "{}", reply.body);
        assert!(reply.head.contains("\r\nConnection: close\r\n"), "{}", reply.head);
        assert!(client.is_closed(), "{text:?}");
    }
    assert_eq!(fake.ask("GET", "/", "").status, 200);
}

#[test]
fn a_refused_body_that_is_still_being_sent_does_not_cost_the_client_the_answer() {
    let fake = Fake::start();
    let mut client = fake.client();
    let body = vec![b'x'; 600_000];
    client.send(format!("PUT /mmds HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes());
    client.send(&body);
    assert_eq!(client.reply().unwrap().status, 413);
}

#[test]
fn a_request_that_comes_too_slowly_is_given_up() {
    let fake = Fake::with(short(), Duration::ZERO);
    let mut slow = fake.client();
    let began = Instant::now();
    for byte in b"GET / HTTP/1.1\r\nA: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb" {
        // A byte now and then keeps nothing alive: the time is for the whole request.
        if slow.stream.write_all(&[*byte]).is_err() || began.elapsed() > Duration::from_secs(2) {
            break;
        }
        std::thread::sleep(Duration::from_millis(40));
    }
    assert_eq!(slow.reply().unwrap().status, 408);
    assert!(slow.is_closed());
    let mut silent_body = fake.client();
    silent_body.send(b"PUT /mmds HTTP/1.1\r\nContent-Length: 10\r\n\r\n{");
    assert_eq!(silent_body.reply().unwrap().status, 408);
}

#[test]
fn slow_clients_block_nobody() {
    let fake = Fake::start();
    let mut slow: Vec<Client> = (0..9).map(|_| fake.client()).collect();
    for client in &mut slow {
        client.send(b"PUT /mmds HTTP/1.1\r\nContent-Le");
    }
    let began = Instant::now();
    for _ in 0..50 {
        assert_eq!(fake.ask("GET", "/", "").status, 200);
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn a_client_that_does_not_read_is_given_up_and_keeps_little() {
    let fake = Fake::with(short(), Duration::ZERO);
    let body = format!(r#"{{"a":"{}"}}"#, "x".repeat(50_000));
    assert_eq!(fake.ask("PUT", "/mmds", &body).status, 204);
    let mut deaf = fake.client();
    deaf.stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    // 20,000 answers would be a gigabyte. The server stops reading when an answer isn't taken, so sending stalls; then it gives up.
    let bytes = request("GET", "/mmds", "").repeat(20_000);
    assert!(deaf.stream.write_all(bytes.as_bytes()).is_err());
    assert_eq!(fake.ask("GET", "/", "").status, 200);
}

#[test]
fn an_eleventh_client_is_told_so() {
    let fake = Fake::start();
    let mut busy: Vec<Client> = (0..10).map(|_| fake.client()).collect();
    for client in &mut busy {
        client.send(b"GET / HTTP/1.1\r\n");
    }
    // Only who is seen to be busy can't be sent away.
    std::thread::sleep(Duration::from_millis(100));
    let mut more = fake.client();
    assert_eq!(more.reply().unwrap().status, 503);
    assert!(more.is_closed());
    for client in &mut busy {
        client.send(b"\r\n");
        assert_eq!(client.reply().unwrap().status, 200);
    }
    // Now all ten are idle; the one that has been so longest makes place.
    assert_eq!(fake.ask("GET", "/", "").status, 200);
    assert!(busy.first_mut().unwrap().is_closed());
    assert_eq!(busy.last_mut().unwrap().ask("GET", "/", "").status, 200);
}

#[test]
fn a_client_that_says_nothing_has_a_moment() {
    let fake = Fake::start();
    let mut silent: Vec<Client> = (0..10).map(|_| fake.client()).collect();
    assert_eq!(fake.ask("GET", "/", "").status, 503);
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(fake.ask("GET", "/", "").status, 200);
    assert!(silent.first_mut().unwrap().is_closed());
    assert_eq!(silent.last_mut().unwrap().ask("GET", "/", "").status, 200);
}

#[test]
fn a_thousand_clients_come_and_go() {
    let fake = Fake::start();
    let mut served = 0;
    for batch in 0..10 {
        let mut clients: Vec<Client> = (0..100).map(|_| fake.client()).collect();
        for client in &mut clients {
            // Those that were sent away can't send any more.
            drop(client.stream.write_all(request("GET", "/", "").as_bytes()));
        }
        for client in &mut clients {
            match client.reply() {
                Some(reply) if reply.status == 200 => served += 1,
                Some(reply) => assert_eq!(reply.status, 503, "batch {batch}"),
                // Reset before the answer was read: it was sent away with its request unread.
                None => {}
            }
        }
    }
    assert!(served >= 10, "{served}");
    let began = Instant::now();
    while fake.ask_if_possible() != Some(200) {
        assert!(began.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn clients_that_vanish_leave_nothing() {
    let fake = Fake::start();
    for index in 0..200 {
        let stream = UnixStream::connect(fake.path()).unwrap();
        let text = request("GET", "/", "");
        let part = text.len() * (index % 10) / 10;
        drop((&stream).write_all(&text.as_bytes()[..part]));
        drop(stream);
    }
    let began = Instant::now();
    while fake.ask_if_possible() != Some(200) {
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn any_bytes_in_any_pieces_leave_an_honest_client_served() {
    let fake = Fake::start();
    // A small generator of its own: the same bytes in each run, so that a failure can be looked at.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    let whole = request("PUT", "/mmds", r#"{"a":{"b":[1,2,3]}}"#);
    for _ in 0..300 {
        let mut bytes = whole.clone().into_bytes();
        for _ in 0..next(6) {
            let at = next(bytes.len());
            match next(3) {
                0 => bytes[at] = u8::try_from(next(256)).unwrap(),
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, u8::try_from(next(256)).unwrap()),
            }
        }
        let mut client = fake.client();
        for piece in bytes.chunks(1 + next(40)) {
            if client.stream.write_all(piece).is_err() {
                break;
            }
        }
        if next(2) == 0 {
            drop(client.stream.shutdown(std::net::Shutdown::Write));
            // Whatever it was, the server comes to an end with it.
            while client.reply().is_some() {}
        }
    }
    let began = Instant::now();
    while fake.ask_if_possible() != Some(200) {
        assert!(began.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Fake {
    /// The status, unless the connection was refused without a word.
    fn ask_if_possible(&self) -> Option<u16> {
        let mut client = self.client();
        client.stream.write_all(request("GET", "/", "").as_bytes()).ok()?;
        client.reply().map(|reply| reply.status)
    }
}
