//! A registry that lies: a small HTTP server with answers made up by the test.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use ringwall_image::{
    Credentials, Digest, Limits, Owners, PullError, PullRequest, PulledImage, Silent, native_architecture, pull,
};
use serde_json::json;

use crate::net::scratch;
use crate::support::{Archive, Ground, chain};

/// Answers by path; `%` stands for any path, for those that aren't known.
type Answers = HashMap<String, Answer>;

#[derive(Clone, Default)]
struct Answer {
    status: u16,
    headers: Vec<String>,
    body: Vec<u8>,
    /// What a request has to carry, or it gets a challenge.
    wants: Option<(&'static str, String)>,
    /// Sends the body again and again, without a length.
    is_endless: bool,
}

struct Server {
    name: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(make: impl FnOnce(&str) -> Answers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let name = listener.local_addr().expect("bound").to_string();
        let (answers, requests) = (make(&name), Arc::new(Mutex::new(Vec::new())));
        let seen = Arc::clone(&requests);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                drop(serve(stream, &answers, &seen));
            }
        });
        Server { name, requests }
    }
}

fn serve(mut stream: TcpStream, answers: &Answers, seen: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut authorization = String::new();
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("authorization: ") {
            authorization = value.to_owned();
        }
    }
    seen.lock().expect("whole").push(format!("{path} {authorization}"));
    let missing = Answer {
        status: 404,
        ..Answer::default()
    };
    let answer = answers.get(&path).unwrap_or(&missing);
    if let Some((wanted, challenge)) = answer.wants.as_ref().filter(|(wanted, _)| *wanted != authorization) {
        let _ = wanted;
        let head = "HTTP/1.1 401 Unauthorized\r\nconnection: close\r\ncontent-length: 0";
        return write!(stream, "{head}\r\nwww-authenticate: {challenge}\r\n\r\n");
    }
    write!(stream, "HTTP/1.1 {} X\r\nconnection: close\r\n", answer.status)?;
    for header in &answer.headers {
        write!(stream, "{header}\r\n")?;
    }
    if answer.is_endless {
        write!(stream, "\r\n")?;
        while stream.write_all(&answer.body).is_ok() {}
        return Ok(());
    }
    write!(stream, "content-length: {}\r\n\r\n", answer.body.len())?;
    stream.write_all(&answer.body)
}

fn ok(body: &[u8]) -> Answer {
    Answer {
        status: 200,
        body: body.to_vec(),
        ..Answer::default()
    }
}

/// An honest image `x` of one layer, by path.
fn image(layers: &[&[u8]]) -> Answers {
    let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let config = json!({"os": "linux", "architecture": native_architecture(), "rootfs": {"diff_ids": diff_ids}});
    let config = config.to_string().into_bytes();
    let descriptor =
        |kind: &str, data: &[u8]| json!({"mediaType": kind, "digest": Digest::of(data).as_str(), "size": data.len()});
    let list: Vec<_> = layers
        .iter()
        .map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar", layer))
        .collect();
    let manifest = json!({"schemaVersion": 2, "config": descriptor("c", &config), "layers": list});
    let mut answers = Answers::new();
    answers.insert("/v2/x/manifests/latest".to_owned(), ok(manifest.to_string().as_bytes()));
    for blob in layers.iter().copied().chain([config.as_slice()]) {
        answers.insert(format!("/v2/x/blobs/{}", Digest::of(blob)), ok(blob));
    }
    answers
}

fn pull_from(server: &Server, ground: &Ground, password: Option<&str>) -> Result<PulledImage, PullError> {
    let cache = scratch();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let reference = format!("{}/x", server.name);
    let request = PullRequest {
        reference: &reference,
        credentials: password.map(|password| Credentials {
            user: "me".to_owned(),
            password: password.to_owned(),
        }),
        plain_http: false,
        architecture: native_architecture(),
        owners: Owners::Caller,
        limits: Limits::default(),
        cache: cache.path(),
        into: &ground.root,
    };
    let result = runtime.block_on(pull(&request, &Silent));
    ground.check_canary();
    result
}

fn refuse(server: &Server, wanted: &str) {
    let error = pull_from(server, &Ground::new(), None).expect_err(wanted);
    assert_eq!(chain(&error), wanted);
}

#[test]
fn hostile_layers_are_refused_wherever_they_lie() {
    let lower = Archive::new().symlink("out", "../canary").file("f", b"1").end();
    let upper = Archive::new().file("out/file", b"2").end();
    let server = Server::start(|_| image(&[&lower, &upper]));
    refuse(
        &server,
        &format!(
            "the layer {} can't be unpacked: out/file: the path passes through a symbolic link that leads nowhere",
            Digest::of(&upper)
        ),
    );
    let climbing = Archive::new().hardlink("mine", "../canary/sub/secret").end();
    let server = Server::start(|_| image(&[&climbing]));
    refuse(
        &server,
        &format!(
            "the layer {} can't be unpacked: mine: the hard link's target ../canary/sub/secret leads out of the tree",
            Digest::of(&climbing)
        ),
    );
}

#[test]
fn endless_answers_are_cut() {
    let endless = Answer {
        is_endless: true,
        ..ok(&[b' '; 65536])
    };
    let layer = Archive::new().file("f", b"1").end();
    let mut answers = image(&[&layer]);
    answers.insert("/v2/x/manifests/latest".to_owned(), endless.clone());
    refuse(&Server::start(|_| answers), "the manifest is longer than 4194304 bytes");

    let mut answers = image(&[&layer]);
    for (path, answer) in &mut answers {
        if path.contains("blobs") && !path.contains(Digest::of(&layer).as_str()) {
            *answer = endless.clone();
        }
    }
    refuse(
        &Server::start(|_| answers),
        "the image configuration is longer than 4194304 bytes",
    );

    let mut answers = image(&[&layer]);
    answers.insert(format!("/v2/x/blobs/{}", Digest::of(&layer)), endless);
    let text = chain(&pull_from(&Server::start(|_| answers), &Ground::new(), None).expect_err("refused"));
    assert!(text.ends_with(&format!("bytes instead of {}", layer.len())), "{text}");
}

#[test]
fn a_layer_that_is_not_the_one_in_the_configuration_is_refused() {
    let (honest, other) = (
        Archive::new().file("f", b"1").end(),
        Archive::new().file("f", b"2").end(),
    );
    let mut answers = image(&[&honest]);
    let manifest = answers.get_mut("/v2/x/manifests/latest").expect("there");
    let text = String::from_utf8(manifest.body.clone()).expect("text");
    manifest.body = text
        .replace(Digest::of(&honest).as_str(), Digest::of(&other).as_str())
        .into_bytes();
    answers.insert(format!("/v2/x/blobs/{}", Digest::of(&other)), ok(&other));
    refuse(
        &Server::start(|_| answers),
        &format!(
            "the unpacked layer {} is damaged: its digest is {}",
            Digest::of(&honest),
            Digest::of(&other)
        ),
    );
}

#[test]
fn tokens_are_fetched_and_sent() {
    let layer = Archive::new().file("f", b"1").end();
    let make = |name: &str| {
        let challenge = format!("Bearer realm=\"http://{name}/token\",service=\"here\",scope=\"repository:x:pull\"");
        let mut answers = image(&[&layer]);
        for answer in answers.values_mut() {
            answer.wants = Some(("Bearer secret-token", challenge.clone()));
        }
        let token = Answer {
            // `me:right`
            wants: Some(("Basic bWU6cmlnaHQ=", "Basic".to_owned())),
            ..ok(br#"{"token":"secret-token"}"#)
        };
        answers.insert("/token?service=here&scope=repository%3Ax%3Apull".to_owned(), token);
        answers
    };
    let server = Server::start(make);
    let ground = Ground::new();
    pull_from(&server, &ground, Some("right")).expect("pulled");
    assert_eq!(ground.names(), ["f"]);
    let asked = server
        .requests
        .lock()
        .expect("whole")
        .iter()
        .filter(|line| line.starts_with("/token"))
        .count();
    assert_eq!(asked, 1, "one token serves all requests");
    let text = chain(&pull_from(&server, &Ground::new(), Some("wrong")).expect_err("refused"));
    assert_eq!(
        text,
        format!("the registry {} refuses the credentials of \"me\" for x", server.name)
    );
}

#[test]
fn challenges_that_cannot_be_answered_are_shown() {
    let layer = Archive::new().file("f", b"1").end();
    let server = Server::start(|_| {
        let mut answers = image(&[&layer]);
        for answer in answers.values_mut() {
            answer.wants = Some(("x", "Negotiate".to_owned()));
        }
        answers
    });
    refuse(
        &server,
        &format!(
            "the registry {} asks for credentials in a way that can't be answered: \"Negotiate\"",
            server.name
        ),
    );
}

#[test]
fn passwords_do_not_follow_redirects_to_other_hosts() {
    let layer = Archive::new().file("f", b"1").end();
    let path = format!("/v2/x/blobs/{}", Digest::of(&layer));
    let elsewhere = Server::start(|_| Answers::from([(String::from("/store"), ok(&layer))]));
    let target = format!("http://{}/store", elsewhere.name);
    let server = Server::start(|_| {
        let mut answers = image(&[&layer]);
        answers.insert(
            path,
            Answer {
                status: 307,
                headers: vec![format!("location: {target}")],
                ..Answer::default()
            },
        );
        for answer in answers.values_mut() {
            answer.wants = Some(("Basic bWU6cmlnaHQ=", "Basic realm=\"x\"".to_owned()));
        }
        answers
    });
    let ground = Ground::new();
    pull_from(&server, &ground, Some("right")).expect("pulled");
    assert_eq!(ground.names(), ["f"]);
    assert_eq!(
        *elsewhere.requests.lock().expect("whole"),
        ["/store "],
        "without authorization"
    );
}
