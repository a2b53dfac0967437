//! Both planes, and changed protocols, through TLS.

use std::io::{BufReader, Read as _, Write as _};

use ringwall_e2e::serve::{Answered as _, PATIENCE, eventually, read_head, text};
use serde_json::{Value, json};

use crate::each_user;

/// A server inside that says in capitals what it is told, after an upgrade.
const ECHO: &str = r#"
import socket
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(("127.0.0.1", 8000)); s.listen(50)
while True:
    c, _ = s.accept()
    head = b""
    while b"\r\n\r\n" not in head:
        more = c.recv(4096)
        if not more: break
        head += more
    if b"upgrade: echo" not in head.lower():
        c.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(head) + head)
    else:
        c.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
        while True:
            more = c.recv(65536)
            if not more: break
            c.sendall(more.upper())
    c.close()
"#;

#[test]
fn both_planes_and_upgrades_go_through_tls() {
    each_user(|ground| {
        let client = ground.server.client();
        let sandbox = client.create(&json!({}));
        assert_eq!(client.list("/v2/sandboxes").expect("a list").len(), 1);
        assert_eq!(client.shell(&sandbox, "echo $((6 * 7))"), "42\n");
        // More than many records hold, both ways.
        let content: Vec<u8> = (0..3_000_000_u32)
            .map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3])
            .collect();
        client.write(&sandbox, "/tmp/big", &content).json_of(200);
        assert!(client.read(&sandbox, "/tmp/big").expect("an answer").body == content);
        // Output arrives as it is made.
        let mut events = client
            .start(&sandbox, "echo first; sleep 60; echo last")
            .expect("it starts");
        events.pid().expect("a pid");
        assert_eq!(events.output().expect("output"), "first\n");
        drop(events);

        client.write(&sandbox, "/tmp/echo.py", ECHO.as_bytes()).json_of(200);
        client.shell(&sandbox, "nohup python3 /tmp/echo.py >/tmp/echo.log 2>&1 & echo");
        let host = format!("8000-{}.sandbox.localhost:{}", sandbox.id, ground.port);
        eventually("it listens", PATIENCE, || {
            client
                .request("GET", "/", &[("Host", &host)], b"")
                .is_ok_and(|answer| answer.status == 200)
        });
        let mut stream = client.connect().expect("a connection");
        write!(
            stream,
            "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
        )
        .expect("sent");
        let mut reader = BufReader::new(stream.try_clone().expect("a copy"));
        let head = read_head(&mut reader).expect("an answer");
        assert_eq!((head.status, head.header("upgrade")), (101, Some("echo")));
        for round in 0..50 {
            let message = format!("message {round} {}\n", "x".repeat(round * 700));
            stream.write_all(message.as_bytes()).expect("sent");
            let mut back = vec![0; message.len()];
            reader.read_exact(&mut back).expect("an echo");
            assert_eq!(back, message.to_uppercase().as_bytes());
        }
        stream.shutdown(std::net::Shutdown::Write).expect("half closed");
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).expect("its end");
        assert!(rest.is_empty());

        // Addresses that the server gives out begin as its own does.
        let made = client.post("/v3/templates", &json!({"name": "tls"})).json_of(202);
        let path = format!("/templates/{}/files/{}", text(&made, "templateID"), "a".repeat(64));
        let place = client.get(&path).json_of(201);
        assert!(text(&place, "url").starts_with("https://"), "{place}");
        assert_eq!(client.kill(&sandbox).status(), 204);
        assert_eq!(
            client
                .call(
                    "DELETE",
                    &format!("/templates/{}", text(&made, "templateID")),
                    &Value::Null
                )
                .status(),
            204
        );
        ground.server.assert_sound();
    });
}
