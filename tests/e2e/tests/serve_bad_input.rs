//! What nobody should send, sent to `ringwall serve`: it refuses, says why, goes on, and never panics.

#![expect(
    clippy::print_stdout,
    reason = "a skipped test must be seen, and stdout is where tests report"
)]

use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use ringwall_e2e::serve::{
    Answer, Answered, Client, PATIENCE, Sandbox, Server, envelope, eventually, percent, read_answer, read_head,
    resident_kib, text,
};
use ringwall_e2e::users;
use serde_json::{Value, json};

fn each_user(check: impl Fn(&Server)) {
    each_user_with(&["--pool", "0"], check);
}

fn each_user_with(flags: &[&str], check: impl Fn(&Server)) {
    for user in users() {
        let mut server = Server::with(user, flags);
        check(&server);
        server.set_flags(&["--pool", "0"]);
        server.crash_and_start();
        server.assert_sound();
        server.remove_all();
        server.assert_nothing_left();
    }
}

/// Sends bytes as they are and returns everything that comes back until the server closes. They say `Connection: close`, or are so wrong
/// that the server closes by itself.
fn raw(client: &Client, bytes: &[u8]) -> Vec<u8> {
    let mut stream = client.connect().expect("a connection");
    // The server may close before it has read all.
    drop(stream.write_all(bytes));
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("a timeout");
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    answer
}

fn status_of(answer: &[u8]) -> Option<u16> {
    let text = String::from_utf8_lossy(answer);
    text.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

/// Asks with a body as it is.
fn ask(client: &Client, method: &str, path: &str, body: &[u8]) -> Answer {
    let headers = [("X-API-Key", client.key()), ("Content-Type", "application/json")];
    client.request(method, path, &headers, body).expect("an answer")
}

#[test]
fn wrong_and_missing_keys_are_refused_everywhere() {
    each_user(|server| {
        let client = server.client();
        let sandbox = client.create(&json!({}));
        let id = &sandbox.id;
        let long = "e2b_".repeat(100);
        let almost = format!("{}0", client.key());
        for (method, path) in [
            ("POST", "/sandboxes".to_owned()),
            ("POST", "/v2/sandboxes".to_owned()),
            ("GET", "/sandboxes".to_owned()),
            ("GET", "/v2/sandboxes".to_owned()),
            ("GET", "/sandboxes/metrics?sandbox_ids=a".to_owned()),
            ("GET", format!("/sandboxes/{id}")),
            ("DELETE", format!("/sandboxes/{id}")),
            ("POST", format!("/sandboxes/{id}/connect")),
            ("POST", format!("/v2/sandboxes/{id}/connect")),
            ("POST", format!("/sandboxes/{id}/resume")),
            ("POST", format!("/sandboxes/{id}/timeout")),
            ("POST", format!("/sandboxes/{id}/refreshes")),
            ("POST", format!("/sandboxes/{id}/pause")),
            ("GET", format!("/sandboxes/{id}/metrics")),
            ("PUT", format!("/sandboxes/{id}/network")),
            ("GET", format!("/sandboxes/{id}/logs")),
            ("GET", format!("/v2/sandboxes/{id}/logs")),
            ("POST", format!("/sandboxes/{id}/snapshots")),
            ("POST", format!("/sandboxes/{id}/fork")),
            ("GET", "/snapshots".to_owned()),
            ("GET", "/templates".to_owned()),
            ("GET", "/v2/templates".to_owned()),
            ("POST", "/v3/templates".to_owned()),
            ("POST", "/templates/tags".to_owned()),
            ("DELETE", "/templates/tags".to_owned()),
            ("GET", "/templates/aliases/base".to_owned()),
            ("GET", "/templates/base".to_owned()),
            ("DELETE", "/templates/base".to_owned()),
            ("GET", "/templates/base/tags".to_owned()),
            ("GET", format!("/templates/base/files/{}", "0".repeat(64))),
            ("POST", "/v2/templates/base/builds/x".to_owned()),
            ("GET", "/templates/base/builds/x/status".to_owned()),
            ("GET", "/volumes".to_owned()),
            ("GET", "/secrets".to_owned()),
            ("GET", "/teams".to_owned()),
        ] {
            for key in [None, Some(""), Some("wrong"), Some("é"), Some(&*long), Some(&*almost)] {
                let headers: Vec<(&str, &str)> = key.map(|key| ("X-API-Key", key)).into_iter().collect();
                let answer = client.request(method, &path, &headers, b"{}").expect("an answer");
                assert_eq!(answer.status, 401, "{method} {path} {key:?}: {answer:?}");
                assert_eq!(answer.json()["code"], json!(401));
            }
        }
        let bearer = format!("Bearer {}", client.key());
        let by_bearer = client.request("GET", "/v2/sandboxes", &[("Authorization", &bearer)], b"");
        assert_eq!(by_bearer.status(), 200);
        assert_eq!(client.state(id), "running");
    });
}

#[test]
fn the_data_plane_wants_its_token() {
    each_user(|server| {
        let client = server.client();
        let (sandbox, other) = (client.create(&json!({})), client.create(&json!({})));
        for token in ["", "wrong", other.token.as_str(), client.key()] {
            let wrong = Sandbox {
                id: sandbox.id.clone(),
                token: token.to_owned(),
            };
            let started = client.start(&wrong, "true").expect_err("it is refused").to_string();
            assert!(
                started.contains("401") || started.contains("unauthenticated"),
                "{started}"
            );
            assert_eq!(client.read(&wrong, "/etc/passwd").status(), 401, "{token:?}");
            assert_eq!(client.write(&wrong, "/tmp/f", b"x").status(), 401, "{token:?}");
            let stat = client.unary(&wrong, "/filesystem.Filesystem/Stat", &json!({"path": "/"}));
            assert_eq!(stat.status(), 401, "{token:?}");
        }
        // Without a sandbox's id the token alone tells which one is meant, and nothing does without.
        let by_token = client.request(
            "GET",
            "/files?path=/etc/hostname",
            &[("X-Access-Token", &sandbox.token)],
            b"",
        );
        assert_eq!(by_token.status(), 200);
        for headers in [
            vec![],
            vec![("X-Access-Token", "wrong")],
            vec![("X-API-Key", client.key())],
        ] {
            assert_eq!(
                client
                    .request("GET", "/files?path=/etc/hostname", &headers, b"")
                    .status(),
                401
            );
        }
        for query in [
            "path=/etc/hostname&signature=v1_x",
            "signature=v1_",
            "path=%FF&signature=%FF",
            "path=a&signature=v1_x&signature_expiration=-9999999999999999999",
        ] {
            assert_eq!(
                client.request("GET", &format!("/files?{query}"), &[], b"").status(),
                401,
                "{query}"
            );
        }
        // What only the host may ask of the agent.
        let host = format!("49983-{}.sandbox.localhost", sandbox.id);
        for path in [
            "/init",
            "/interpreter",
            "//init",
            "/init/",
            "/init?x=1",
            "/./init",
            "/%69nit",
            "/x/../init",
            "/interpreter?a",
        ] {
            let body = json!({"accessToken": "taken", "envVars": {"A": "b"}}).to_string();
            for headers in [
                sandbox.headers().to_vec(),
                vec![("Host", host.as_str()), ("X-Access-Token", &sandbox.token)],
            ] {
                let answer = client
                    .request("POST", path, &headers, body.as_bytes())
                    .expect("an answer");
                assert!((400..500).contains(&answer.status), "{path}: {answer:?}");
            }
        }
        let absolute = format!(
            "POST http://{host}/init HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}"
        );
        assert_eq!(status_of(&raw(&client, absolute.as_bytes())), Some(404));
        assert_eq!(client.shell(&sandbox, "echo ${A-unset}"), "unset\n");
    });
}

#[test]
fn unknown_ids_are_404_whatever_they_look_like() {
    each_user(|server| {
        let client = server.client();
        let long = "a".repeat(5000);
        for id in [
            "inone",
            "..",
            "..%2f..",
            "%2e%2e",
            "..%2F..%2Fkey",
            ".",
            "%00",
            "a%00b",
            "%FF%FE",
            "a%0d%0ab",
            "base",
            "lock",
            "%20",
            "ü",
            "i'--",
            long.as_str(),
        ] {
            for (method, path) in [
                ("GET", format!("/sandboxes/{id}")),
                ("DELETE", format!("/sandboxes/{id}")),
                ("POST", format!("/sandboxes/{id}/connect")),
                ("POST", format!("/v2/sandboxes/{id}/connect")),
                ("POST", format!("/sandboxes/{id}/resume")),
                ("POST", format!("/sandboxes/{id}/timeout")),
                ("POST", format!("/sandboxes/{id}/refreshes")),
                ("POST", format!("/sandboxes/{id}/pause")),
                ("GET", format!("/sandboxes/{id}/metrics")),
                ("PUT", format!("/sandboxes/{id}/network")),
                ("GET", format!("/sandboxes/{id}/logs")),
                ("GET", format!("/v2/sandboxes/{id}/logs")),
                ("POST", format!("/sandboxes/{id}/snapshots")),
                ("POST", format!("/sandboxes/{id}/fork")),
            ] {
                let answer = ask(&client, method, &path, br#"{"timeout": 10}"#);
                // Bytes that are no text are a request that can't be understood.
                let wanted = if id.contains("%FF") { [400, 404] } else { [404, 404] };
                assert!(wanted.contains(&answer.status), "{method} {path}: {answer:?}");
                assert_eq!(
                    answer.json()["code"],
                    json!(answer.status),
                    "{method} {path}: {answer:?}"
                );
            }
            for (method, path) in [
                ("GET", format!("/templates/x{id}")),
                ("DELETE", format!("/templates/x{id}")),
                ("GET", format!("/templates/aliases/x{id}")),
                ("GET", format!("/templates/x{id}/tags")),
                ("POST", format!("/v2/templates/x{id}/builds/x")),
                ("GET", format!("/templates/x{id}/builds/{id}/status")),
                ("GET", format!("/templates/x{id}/files/{}", "0".repeat(64))),
            ] {
                let answer = ask(&client, method, &path, br#"{"fromTemplate": "base"}"#);
                assert!(matches!(answer.status, 400 | 404), "{method} {path}: {answer:?}");
            }
            let headers = [("E2b-Sandbox-Id", id), ("E2b-Sandbox-Port", "49983")];
            let answer = client
                .request("GET", "/files?path=/etc/passwd", &headers, b"")
                .expect("an answer");
            assert!(matches!(answer.status, 401 | 502), "{id}: {answer:?}");
        }
        for hash in ["..%2f..%2fkey", "x", &"g".repeat(64), &"0".repeat(63)] {
            let announced = client.post("/v3/templates", &json!({"name": "hashes"})).json_of(202);
            let path = format!("/templates/{}/files/{hash}", text(&announced, "templateID"));
            assert_eq!(client.get(&path).status(), 400, "{hash}");
        }
        for path in [
            "/uploads/a/b/c",
            "/uploads/a/b/c?token=",
            "/uploads/..%2f/..%2f/..%2fx?token=AAAA",
            "/uploads/a/b/c?token=%FF",
        ] {
            let status = client.request("PUT", path, &[], b"data").status();
            assert!(matches!(status, 400 | 401), "{path}: {status}");
        }
        assert_eq!(server.names("uploads"), Vec::<String>::new());
        for template in [
            "nothing",
            "../base",
            "base:none",
            "base:",
            ":",
            "a:b:c",
            " ",
            "\u{0}",
            &long,
        ] {
            assert_eq!(
                client.try_create(&json!({"templateID": template})).status(),
                404,
                "{template:?}"
            );
        }
    });
}

#[test]
fn bodies_that_make_no_sense_are_refused_with_a_reason() {
    each_user(|server| {
        let client = server.client();
        let sandbox = client.create(&json!({}));
        let paths = [
            "/v2/sandboxes".to_owned(),
            "/sandboxes".to_owned(),
            format!("/sandboxes/{}/timeout", sandbox.id),
            format!("/sandboxes/{}/connect", sandbox.id),
            format!("/sandboxes/{}/pause", sandbox.id),
            format!("/sandboxes/{}/snapshots", sandbox.id),
            format!("/sandboxes/{}/fork", sandbox.id),
            "/v3/templates".to_owned(),
            "/templates/tags".to_owned(),
        ];
        let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
        for path in &paths {
            let bodies: [&[u8]; 10] = [
                b"{",
                b"nonsense",
                b"[]",
                b"\"text\"",
                b"7",
                b"\xff\xfe",
                b"{} {}",
                b"{\"a\":\"\\ud800\"}x",
                b"{\"timeout\": NaN}",
                &deep,
            ];
            for body in bodies {
                let answer = ask(&client, "POST", path, body);
                let shown = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
                assert_eq!(answer.status, 400, "{path} {shown}: {answer:?}");
                assert!(answer.message().len() > 10, "{path} {shown}: {answer:?}");
            }
            let huge = vec![b' '; (1 << 20) + 1];
            assert_eq!(ask(&client, "POST", path, &huge).status, 413, "{path}");
        }
        for timeout in [
            json!(-1),
            json!(1.5),
            json!("10"),
            json!(86_401),
            json!(u64::MAX),
            json!(1e300),
            json!([1]),
            json!({}),
        ] {
            for path in [
                "/v2/sandboxes".to_owned(),
                "/sandboxes".to_owned(),
                format!("/sandboxes/{}/timeout", sandbox.id),
                format!("/v2/sandboxes/{}/connect", sandbox.id),
                format!("/sandboxes/{}/fork", sandbox.id),
            ] {
                let body = json!({"templateID": "base", "timeout": timeout});
                assert_eq!(
                    ask(&client, "POST", &path, body.to_string().as_bytes()).status,
                    400,
                    "{path} {timeout}"
                );
            }
            let path = format!("/sandboxes/{}/refreshes", sandbox.id);
            let body = json!({"duration": timeout});
            assert_eq!(
                ask(&client, "POST", &path, body.to_string().as_bytes()).status,
                400,
                "{timeout}"
            );
        }
        let big = "x".repeat(70_000);
        for body in [
            json!({"templateID": 7}),
            json!({"templateID": ""}),
            json!({"templateID": null}),
            json!({"metadata": {"a": 1}}),
            json!({"metadata": [1]}),
            json!({"metadata": {"a": big}}),
            json!({"envVars": {"A": big}}),
            json!({"envVars": {"": "x"}}),
            json!({"envVars": {"A=B": "x"}}),
            json!({"envVars": {"A": "x\u{0}y"}}),
            json!({"autoPause": "yes"}),
            json!({"autoResume": {"enabled": true}}),
            json!({"network": 1}),
            json!({"network": {"httpsPorts": [70000]}}),
        ] {
            let shown = body.to_string();
            assert_eq!(
                client.try_create(&body).status(),
                400,
                "{}",
                shown.get(..100).unwrap_or(&shown)
            );
        }
        for count in [json!(0), json!(101), json!(-1), json!(u64::MAX)] {
            assert_eq!(
                client.act(&sandbox, "fork", &json!({"count": count})).status(),
                400,
                "{count}"
            );
        }
        for name in [
            "",
            "a b",
            "../x",
            "a:b:c",
            "ü",
            "base",
            "code-interpreter-v1",
            &"n".repeat(200),
        ] {
            let status = client.post("/v3/templates", &json!({"name": name})).status();
            // A path's dots do no harm in a name: it never becomes one.
            assert!(matches!(status, 400 | 409) || name == "../x", "{name}: {status}");
        }
        let announced = client.post("/v3/templates", &json!({"name": "bad"})).json_of(202);
        let build = format!(
            "/v2/templates/{}/builds/{}",
            text(&announced, "templateID"),
            text(&announced, "buildID")
        );
        for body in [
            json!({}),
            json!({"fromImage": "a", "fromTemplate": "b"}),
            json!({"fromTemplate": "base", "steps": {}}),
            json!({"fromTemplate": "base", "steps": [1]}),
            json!({"fromTemplate": "base", "steps": vec![json!({"type": "RUN", "args": ["true"]}); 201]}),
            json!({"fromImage": "a", "fromImageRegistry": {"type": "aws"}}),
        ] {
            assert_eq!(client.post(&build, &body).status(), 400, "{build}");
        }
        // None of it has changed anything.
        assert_eq!(client.state(&sandbox.id), "running");
        assert_eq!(client.list("/v2/sandboxes").expect("a list").len(), 1);
        assert_eq!(client.list("/snapshots").expect("a list").len(), 0);
    });
}

#[test]
fn build_steps_that_make_no_sense_fail_the_build() {
    each_user(|server| {
        let client = server.client();
        for step in [
            json!({"type": "NONSENSE", "args": ["x"]}),
            json!({"type": "RUN"}),
            json!({"type": "RUN", "args": ["true", "nobody-of-this-name"]}),
            json!({"type": "ENV", "args": ["ONE"]}),
            json!({"type": "ENV", "args": ["A=B", "x"]}),
            json!({"type": "COPY", "args": ["a", "b"]}),
            json!({"type": "COPY", "args": ["a", "b"], "filesHash": "../../key"}),
            json!({"type": "COPY", "args": ["../a", "b"], "filesHash": "0".repeat(64)}),
            json!({"type": "COPY", "args": ["a", "b"], "filesHash": "0".repeat(64)}),
            json!({"type": "USER", "args": ["nobody-of-this-name"]}),
        ] {
            let announced = client.post("/v3/templates", &json!({"name": "bad"})).json_of(202);
            let (template, build) = (text(&announced, "templateID"), text(&announced, "buildID"));
            let body = json!({"fromTemplate": "base", "steps": [step]});
            assert_eq!(
                client
                    .post(&format!("/v2/templates/{template}/builds/{build}"), &body)
                    .status(),
                202,
                "{step}"
            );
            let mut last = Value::Null;
            eventually("it fails", PATIENCE, || {
                last = client
                    .get(&format!("/templates/{template}/builds/{build}/status"))
                    .json_of(200);
                text(&last, "status") == "error"
            });
            assert_eq!(text(&last["reason"], "step"), "1", "{step}: {last}");
            assert!(text(&last["reason"], "message").len() > 10, "{step}: {last}");
        }
    });
}

#[test]
fn hostile_queries_are_answered() {
    each_user(|server| {
        let client = server.client();
        let sandbox = client.create(&json!({"metadata": {"a": "1"}}));
        let many = percent(
            &(0..65)
                .map(|number| format!("k{number}=v"))
                .collect::<Vec<_>>()
                .join("&"),
        );
        for query in [
            "metadata=a",
            "metadata=%25FF%3Dx%25FF",
            "metadata=a%3D%2525FF",
            "limit=0",
            "limit=-1",
            "limit=x",
            "limit=99999999999999999999",
            "nextToken=x",
            "nextToken=x-y",
            "state=sleeping",
            "state=running,",
            "startedAfter=yesterday",
            "order=up",
            many.as_str(),
            "limit=1&limit=2",
            "metadata=%FF",
        ] {
            let query = if query == many {
                format!("metadata={many}")
            } else {
                query.to_owned()
            };
            let answer = client.get(&format!("/v2/sandboxes?{query}")).expect("an answer");
            assert_eq!(answer.status, 400, "{query}: {answer:?}");
        }
        for (query, count) in [
            ("metadata=", 1),
            ("metadata=&", 1),
            ("metadata=%3D", 0),
            ("metadata=a%3D1", 1),
            ("metadata=a%3D1%26%26", 1),
            ("metadata=a%3D%3D", 0),
            ("metadata=a%3D%25", 0),
            ("", 1),
            ("&&&=", 1),
            ("unknown=1", 1),
            ("state=", 1),
            ("limit=100000", 1),
            ("startedAfter=9999-01-01T00:00:00Z", 0),
            ("startedAfter=1969-01-01T00:00:00Z", 1),
            ("nextToken=18446744073709551615-i", 1),
            ("nextToken=0-", 0),
        ] {
            let answer = client.get(&format!("/v2/sandboxes?{query}")).json_of(200);
            assert_eq!(answer.as_array().map(Vec::len), Some(count), "{query}");
        }
        let id = &sandbox.id;
        for path in [
            format!("/sandboxes/{id}/metrics?start=x"),
            format!("/sandboxes/{id}/logs?limit=-1"),
            format!("/v2/sandboxes/{id}/logs?cursor=-1"),
            "/sandboxes/metrics".to_owned(),
            format!("/sandboxes/metrics?sandbox_ids={}", vec!["i"; 101].join(",")),
            "/snapshots?limit=0".to_owned(),
        ] {
            assert_eq!(client.get(&path).status(), 400, "{path}");
        }
        for path in [
            format!("/sandboxes/{id}/metrics?start=-9223372036854775808&end=9223372036854775807"),
            format!("/sandboxes/{id}/logs?start=18446744073709551615&limit=0"),
            "/sandboxes/metrics?sandbox_ids=%FF,..%2f..".to_owned(),
        ] {
            assert_eq!(client.get(&path).status(), 200, "{path}");
        }
    });
}

#[test]
fn absurd_heads_are_refused() {
    each_user(|server| {
        let client = server.client();
        let head = |extra: &str| {
            format!(
                "GET /v2/sandboxes HTTP/1.1\r\nHost: x\r\nX-API-Key: {}\r\nConnection: close\r\n{extra}\r\n",
                client.key()
            )
        };
        assert_eq!(status_of(&raw(&client, head("").as_bytes())), Some(200));
        let many: String = (0..200).map(|number| format!("X-{number}: y\r\n")).collect();
        let large = format!("X-Large: {}\r\n", "y".repeat(400_000));
        for extra in [many.as_str(), large.as_str()] {
            let answer = raw(&client, head(extra).as_bytes());
            assert!(
                matches!(status_of(&answer), Some(431) | None),
                "{:?}",
                status_of(&answer)
            );
        }
        for (extra, wanted) in [
            ("Bad Name: x\r\n", 400),
            ("Content-Length: 5\r\nContent-Length: 6\r\n", 400),
            ("Content-Length: -5\r\n", 400),
            ("Content-Length: 99999999999999999999999\r\n", 400),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", 400),
            ("Transfer-Encoding: gzip\r\n", 400),
            (": empty\r\n", 400),
            ("X: a\0b\r\n", 400),
            ("Host: y\r\n", 200),
            ("Expect: nonsense\r\n", 200),
            ("Upgrade: h2c\r\n", 200),
            ("E2b-Sandbox-Id: ../..\r\n", 200),
            ("E2b-Sandbox-Port: 99999\r\n", 200),
        ] {
            let answer = raw(&client, head(extra).as_bytes());
            let text = String::from_utf8_lossy(&answer).into_owned();
            // hyper may take a length that comes with chunks: the chunks then decide (RFC 9112, 6.3).
            let is_right = status_of(&answer) == Some(wanted) || extra.starts_with("Transfer-Encoding: chunked");
            assert!(is_right, "{extra:?}: {text}");
        }
        let sandbox = client.create(&json!({}));
        for port in ["0", "65536", "-1", "x", ""] {
            let headers = [("E2b-Sandbox-Id", sandbox.id.as_str()), ("E2b-Sandbox-Port", port)];
            assert_eq!(client.request("GET", "/", &headers, b"").status(), 401, "{port:?}");
        }
        for host in ["", "..", "1-.x", "99999-a.x", "a-b.c", "-.-", "\u{fc}-i.x"] {
            let answer = client.request(
                "GET",
                "/v2/sandboxes",
                &[("Host", host), ("X-API-Key", client.key())],
                b"",
            );
            assert!(matches!(answer.status(), 200 | 400), "{host:?}");
        }
        // The head of a request smuggled in a body that the server inside would not read.
        let smuggled = format!("GET /sandboxes/{} HTTP/1.1\r\nHost: x\r\n\r\n", sandbox.id);
        let host = format!("8000-{}.x", sandbox.id);
        let answer = client
            .request("POST", "/", &[("Host", &host)], smuggled.as_bytes())
            .expect("an answer");
        assert_eq!(answer.status, 502);
        // Pipelined requests are answered in order.
        let one = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
        let last = "GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let answers = raw(&client, format!("{}{last}", one.repeat(20)).as_bytes());
        assert_eq!(String::from_utf8_lossy(&answers).matches("HTTP/1.1 200").count(), 20);
    });
}

#[test]
fn bad_connect_frames_end_in_an_error_and_hurt_nobody() {
    each_user(|server| {
        let client = server.client();
        let sandbox = client.create(&json!({}));
        let good = json!({"process": {"cmd": "/bin/true"}}).to_string();
        let mut oversize = vec![0];
        oversize.extend_from_slice(&u32::MAX.to_be_bytes());
        oversize.extend_from_slice(good.as_bytes());
        let whole = envelope(0, good.as_bytes());
        let bodies: Vec<(&str, Vec<u8>)> = vec![
            ("none", Vec::new()),
            ("half a head", vec![0, 0, 0]),
            ("a length beyond everything", oversize),
            ("compressed", envelope(1, good.as_bytes())),
            ("truncated", whole[..whole.len() - 4].to_vec()),
            ("an end only", envelope(2, b"{}")),
            ("unknown flags", envelope(0xfc, good.as_bytes())),
            ("no JSON", envelope(0, b"{")),
            ("another type", envelope(0, b"[1]")),
            ("empty", envelope(0, b"")),
            ("no process", envelope(0, b"{}")),
            ("no command", envelope(0, br#"{"process":{"cmd":""}}"#)),
            (
                "NUL",
                envelope(0, br#"{"process":{"cmd":"/bin/true","args":["a\u0000b"]}}"#),
            ),
            ("not UTF-8", envelope(0, b"{\"process\":{\"cmd\":\"\xff\"}}")),
            ("JSON without an envelope", good.clone().into_bytes()),
            ("two", [whole.clone(), whole.clone()].concat()),
            ("deep", envelope(0, "[".repeat(100_000).as_bytes())),
            (
                "no such program",
                envelope(0, br#"{"process":{"cmd":"/no/such/program"}}"#),
            ),
            (
                "no such directory",
                envelope(0, br#"{"process":{"cmd":"/bin/true","cwd":"/no/such"}}"#),
            ),
        ];
        for (what, body) in bodies {
            let headers = [
                sandbox.headers().as_slice(),
                &[
                    ("Content-Type", "application/connect+json"),
                    ("Connect-Protocol-Version", "1"),
                ],
            ]
            .concat();
            for method in ["Start", "Connect", "StreamInput", "NoSuchMethod"] {
                let path = format!("/process.Process/{method}");
                let answer = client.request("POST", &path, &headers, &body).expect("an answer");
                let text = String::from_utf8_lossy(&answer.body).into_owned();
                let is_error = text.contains("\"error\"") || answer.status >= 400;
                let may_work = method == "Start" && matches!(what, "two" | "unknown flags") || method == "StreamInput";
                assert!(is_error || may_work, "{method}, {what}: {answer:?}");
            }
            assert_eq!(client.shell(&sandbox, "echo on"), "on\n", "after {what}");
        }
        for (content, path) in [
            ("text/plain", "/process.Process/Start"),
            ("application/grpc", "/process.Process/Start"),
            ("application/proto", "/filesystem.Filesystem/Stat"),
            ("", "/filesystem.Filesystem/Stat"),
        ] {
            let headers = [sandbox.headers().as_slice(), &[("Content-Type", content)]].concat();
            let status = client.request("POST", path, &headers, b"x").status();
            assert!((200..500).contains(&status), "{content}: {status}");
        }
        // A stream whose reader half-closes and is gone: the process goes on and the agent too.
        for _ in 0..20 {
            let headers = [
                sandbox.headers().as_slice(),
                &[("Content-Type", "application/connect+json")],
            ]
            .concat();
            let body = envelope(0, br#"{"process":{"cmd":"/bin/sh","args":["-c","yes"]},"tag":"yes"}"#);
            let stream = client
                .send("POST", "/process.Process/Start", &headers, &body)
                .expect("sent");
            drop(stream.shutdown(Shutdown::Write));
            let mut some = [0; 1000];
            drop((&stream).read(&mut some));
            drop(stream);
        }
        assert_eq!(client.shell(&sandbox, "pkill yes; echo on"), "on\n");
    });
}

#[test]
fn slow_and_silent_clients_are_dropped_and_hold_up_nobody() {
    each_user(|server| {
        let client = server.client();
        let sandbox = client.create(&json!({}));
        let silent: Vec<TcpStream> = (0..50).map(|_| client.connect().expect("a connection")).collect();
        let mut slow = client.connect().expect("a connection");
        slow.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            .expect("sent");
        // Bodies that never come: with a key, and to the agent.
        let begun: Vec<TcpStream> = (0..50)
            .map(|number| {
                let mut stream = client.connect().expect("a connection");
                let head = if number % 2 == 0 {
                    format!(
                        "POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nX-API-Key: {}\r\nContent-Length: 10\r\n\r\n",
                        client.key()
                    )
                } else {
                    let headers: String = sandbox
                        .headers()
                        .iter()
                        .map(|(name, value)| format!("{name}: {value}\r\n"))
                        .collect();
                    format!("POST /files?path=/tmp/f HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: 10\r\n\r\n")
                };
                stream.write_all(head.as_bytes()).expect("sent");
                stream
            })
            .collect();
        let start = Instant::now();
        let mut closed = false;
        while start.elapsed() < Duration::from_secs(26) && !closed {
            let asked = Instant::now();
            assert_eq!(client.get("/v2/sandboxes").status(), 200);
            assert_eq!(client.shell(&sandbox, "echo on"), "on\n");
            assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
            slow.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
            closed = match slow.write_all(b"y").and_then(|()| slow.read(&mut [0; 100])) {
                Ok(0) => true,
                Ok(_) => true,
                Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
            };
        }
        assert!(closed, "a head that never ends is not waited for");
        let took = start.elapsed();
        assert!(took > Duration::from_secs(10), "{took:?}");
        for mut stream in silent {
            stream
                .set_read_timeout(Some(Duration::from_secs(10)))
                .expect("a timeout");
            let answer = stream.read(&mut [0; 1000]);
            assert!(
                !matches!(&answer, Err(error) if error.kind() == io::ErrorKind::WouldBlock),
                "{answer:?}"
            );
        }
        drop(begun);
    });
}

#[test]
fn bodies_that_never_come_do_not_use_the_server_up() {
    each_user(|server| {
        let client = server.client();
        let Some(_) = more_descriptors(4000) else { return };
        let head = format!(
            "POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nX-API-Key: {}\r\nContent-Length: 10\r\n\r\n",
            client.key()
        );
        let mut held = Vec::new();
        for _ in 0..1100 {
            let mut stream = client.connect().expect("a connection");
            stream.write_all(head.as_bytes()).expect("sent");
            held.push(stream);
        }
        std::thread::sleep(Duration::from_millis(500));
        let answer = client.request("GET", "/health", &[], b"").expect("an answer");
        assert_eq!(answer.status, 200, "one key's 1,100 bodies that never come: {answer:?}");
        drop(held);
    });
}

#[test]
fn bodies_without_a_key_do_not_fill_the_memory() {
    const COUNT: usize = 600;
    each_user(|server| {
        let client = server.client();
        if more_descriptors(4000).is_none() {
            return;
        }
        let head = "POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nX-API-Key: wrong\r\nContent-Length: 1048576\r\n\r\n";
        let almost = vec![b' '; (1 << 20) - 1];
        let held: Vec<TcpStream> = (0..COUNT)
            .map(|_| {
                let mut stream = client.connect().expect("a connection");
                stream
                    .set_write_timeout(Some(Duration::from_secs(2)))
                    .expect("a timeout");
                // Refused without having been read is fine.
                drop(
                    stream
                        .write_all(head.as_bytes())
                        .and_then(|()| stream.write_all(&almost)),
                );
                stream
            })
            .collect();
        let resident = resident_kib(server.pid());
        assert!(resident < 300 << 10, "{COUNT} strangers' bodies take {resident} KiB");
        assert_eq!(client.get("/v2/sandboxes").status(), 200);
        drop(held);
    });
}

/// Raises this process's limit of descriptors; nothing, and `SKIPPED`, when it can't be raised so far.
fn more_descriptors(wanted: u64) -> Option<u64> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|most| most < wanted) {
        limit.maximum = Some(wanted);
    }
    limit.current = limit.maximum;
    if setrlimit(Resource::Nofile, limit).is_err()
        || getrlimit(Resource::Nofile).current.is_some_and(|now| now < wanted)
    {
        println!("SKIPPED: no {wanted} descriptors for this process");
        return None;
    }
    Some(wanted)
}

#[test]
fn ten_thousand_connections_are_borne() {
    const COUNT: usize = 10_000;
    const THREADS: usize = 10;
    for user in users() {
        if more_descriptors(COUNT as u64 + 500).is_none() {
            return;
        }
        // Fewer places than connections, so that some are turned away however fast they come.
        let mut server = Server::with(user, &["--pool", "0", "--max-connections", "5000"]);
        let client = server.client();
        let sandbox = client.create(&json!({}));
        let opening = Instant::now();
        // Several at a time: the server closes those that say nothing for 20 s, so all must be there by then.
        let held: Vec<TcpStream> = std::thread::scope(|scope| {
            let openers: Vec<_> = (0..THREADS)
                .map(|_| {
                    scope.spawn(|| {
                        let open = |number| {
                            let mut stream = client.connect().expect("a connection");
                            // Half of them say something.
                            if number % 2 == 0 {
                                drop(stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"));
                            }
                            stream
                        };
                        (0..COUNT / THREADS).map(open).collect::<Vec<_>>()
                    })
                })
                .collect();
            openers
                .into_iter()
                .flat_map(|opener| opener.join().expect("no panic"))
                .collect()
        });
        let opened = opening.elapsed();
        std::thread::sleep(Duration::from_secs(2));
        let resident = resident_kib(server.pid());
        let (mut served, mut refused, mut whole, mut closed) = (0, 0, 0, 0);
        for stream in held.iter().step_by(2) {
            stream
                .set_read_timeout(Some(Duration::from_secs(10)))
                .expect("a timeout");
            let mut reader = BufReader::new(stream.try_clone().expect("a copy"));
            match read_head(&mut reader) {
                Ok(head) if head.status == 200 => served += 1,
                Ok(head) if head.status == 503 => {
                    refused += 1;
                    assert!(head.header("retry-after").is_some(), "{head:?}");
                    let mut body = Vec::new();
                    drop(reader.read_to_end(&mut body));
                    let length: usize = head
                        .header("content-length")
                        .and_then(|text| text.parse().ok())
                        .expect("a length");
                    assert_eq!(body.len(), length, "{}", String::from_utf8_lossy(&body));
                    whole += usize::from(serde_json::from_slice::<Value>(&body).is_ok());
                }
                Ok(head) => panic!("{head:?}"),
                Err(_) => closed += 1,
            }
        }
        println!(
            "as {user:?}: {served} served, {refused} told 503, {closed} closed, {resident} KiB, opened in {opened:?}"
        );
        assert!(resident < 300 << 10, "{resident} KiB");
        drop(held);
        eventually("it answers", PATIENCE, || {
            client
                .request("GET", "/health", &[], b"")
                .is_ok_and(|answer| answer.status == 200)
        });
        assert_eq!(client.shell(&sandbox, "echo on"), "on\n");
        server.assert_sound();
        server.remove_all();
        server.assert_nothing_left();
        assert!(served > 0, "{COUNT} connections");
        assert_eq!(whole, refused, "every refusal is whole");
        assert!(
            refused > 0,
            "those beyond --max-connections are told so: {closed} were just closed"
        );
    }
}

#[test]
fn connections_too_many_are_told_503() {
    each_user_with(&["--pool", "0", "--max-connections", "3"], |server| {
        let client = server.client();
        // Connections of the start give their places back a moment after they are closed.
        std::thread::sleep(Duration::from_millis(500));
        let held: Vec<TcpStream> = (0..3)
            .map(|_| {
                let mut stream = client.connect().expect("a connection");
                stream
                    .write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                    .expect("sent");
                let mut reader = BufReader::new(stream.try_clone().expect("a copy"));
                assert_eq!(read_head(&mut reader).expect("an answer").status, 200);
                stream
            })
            .collect();
        let mut stream = client.connect().expect("a connection");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("an answer and the end");
        let shown = String::from_utf8_lossy(&all).into_owned();
        assert_eq!(status_of(&all), Some(503), "{shown:?}");
        let (head, body) = shown.split_once("\r\n\r\n").expect("a head and a body");
        assert!(
            head.to_lowercase().contains(&format!("content-length: {}", body.len())),
            "{shown}"
        );
        assert_eq!(serde_json::from_str::<Value>(body).expect("JSON")["code"], json!(503));
        // A client that has already sent its request sees the answer, too.
        let told = (0..20)
            .filter(|_| {
                client
                    .request("GET", "/health", &[], b"")
                    .is_ok_and(|answer| answer.status == 503)
            })
            .count();
        assert!(told >= 15, "{told} of 20 were told");
        drop(held);
        eventually("places are given back", PATIENCE, || {
            client
                .request("GET", "/health", &[], b"")
                .is_ok_and(|answer| answer.status == 200)
        });
    });
}

#[test]
fn a_key_that_asks_too_fast_is_told_429() {
    each_user_with(&["--pool", "0", "--rate", "5"], |server| {
        let client = server.client();
        // The bucket may still be filling.
        std::thread::sleep(Duration::from_secs(2));
        let answers: Vec<Answer> = (0..40)
            .map(|_| client.get("/v2/sandboxes").expect("an answer"))
            .collect();
        let told: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 429).collect();
        assert!(answers.iter().filter(|answer| answer.status == 200).count() >= 10);
        assert!(told.len() >= 10, "{answers:?}");
        for answer in told {
            assert_eq!(answer.header("retry-after"), Some("1"), "{answer:?}");
            assert_eq!(answer.header("should-retry"), Some("true"), "{answer:?}");
        }
        // Guessing keys does not use up anybody's rate.
        for number in 0..40 {
            let guess = server
                .client_with(&format!("guess{number}"))
                .get("/v2/sandboxes")
                .status();
            assert!(matches!(guess, 401 | 429), "{guess}");
        }
        eventually("it may ask again", Duration::from_secs(3), || {
            client.get("/v2/sandboxes").status() == 200
        });
        std::thread::sleep(Duration::from_millis(500));
    });
}

#[test]
fn more_sandboxes_than_allowed_are_told_503() {
    each_user_with(&["--pool", "0", "--max-sandboxes", "2"], |server| {
        let client = server.client();
        let one = client.create(&json!({}));
        let two = client.create(&json!({}));
        let answer = client.try_create(&json!({})).expect("an answer");
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
        let forked = client.act(&one, "fork", &json!({"count": 2})).json_of(201);
        assert_eq!(forked[0]["error"]["code"], json!(503), "{forked}");
        assert_eq!(client.state(&one.id), "running");
        assert_eq!(client.kill(&two).status(), 204);
        assert_eq!(client.try_create(&json!({})).status(), 201);
        let at_once: Vec<u16> = std::thread::scope(|scope| {
            assert_eq!(client.kill(&one).status(), 204);
            let makers: Vec<_> = (0..10)
                .map(|_| scope.spawn(|| client.try_create(&json!({})).status()))
                .collect();
            makers
                .into_iter()
                .map(|maker| maker.join().expect("no panic"))
                .collect()
        });
        assert_eq!(
            at_once.iter().filter(|&&status| status == 201).count(),
            1,
            "{at_once:?}"
        );
    });
}

#[test]
fn random_bytes_hurt_nothing() {
    each_user(|server| {
        let client = server.client();
        let sandbox = client.create(&json!({}));
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let good = format!(
            "POST /process.Process/Start HTTP/1.1\r\nHost: x\r\nE2b-Sandbox-Id: {}\r\nX-Access-Token: {}\r\nContent-Type: application/connect+json\r\nContent-Length: 40\r\n\r\n\0\0\0\0#{{\"process\":{{\"cmd\":\"/bin/true\"}}}}     ",
            sandbox.id, sandbox.token
        );
        for round in 0..300 {
            let bytes: Vec<u8> = if round % 2 == 0 {
                (0..random() % 3000).map(|_| random().to_le_bytes()[3]).collect()
            } else {
                // A good request with some bytes changed.
                let mut bytes = good.clone().into_bytes();
                for _ in 0..=random() % 5 {
                    let at = usize::try_from(random()).unwrap_or(0) % bytes.len();
                    bytes[at] = random().to_le_bytes()[3];
                }
                bytes
            };
            let mut stream = client.connect().expect("a connection");
            drop(stream.write_all(&bytes));
            drop(stream.shutdown(Shutdown::Write));
            stream
                .set_read_timeout(Some(Duration::from_millis(20)))
                .expect("a timeout");
            drop(stream.read(&mut [0; 4096]));
        }
        assert_eq!(client.shell(&sandbox, "echo on"), "on\n");
        let stream = client.send("GET", "/health", &[], b"").expect("sent");
        assert_eq!(read_answer(stream).status(), 200);
    });
}
