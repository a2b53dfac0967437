//! Running a command through the agent, as clients do, for the node's own ends: start commands and build steps.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use ringwall_agent_proto::code::EndOfStream;
use ringwall_agent_proto::process::{Event, EventMessage, ProcessConfig, StartRequest};
use ringwall_agent_proto::{Decoder, envelope};

use crate::agent::connect_agent;

/// `END_STREAM` of an envelope's flags (Connect protocol).
const END_STREAM: u8 = 2;

/// A command.
#[derive(Debug, Clone, Default)]
pub(crate) struct Command<'a> {
    pub(crate) text: &'a str,
    pub(crate) user: Option<&'a str>,
    pub(crate) cwd: Option<&'a str>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) token: Option<&'a str>,
}

/// What a command wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Output,
    Error,
}

/// Runs a command to its end, or for `patience`; returns its exit code. `heard` gets what it writes.
pub(crate) async fn run(
    directory: &Path,
    command: &Command<'_>,
    patience: Duration,
    mut heard: impl FnMut(Source, &[u8]),
) -> io::Result<i32> {
    let exchange = async {
        let mut stream = start(directory, command).await?;
        loop {
            match stream.next().await? {
                Some(Event::Data(output)) => {
                    if let Some(bytes) = output.stdout {
                        heard(Source::Output, &bytes);
                    }
                    if let Some(bytes) = output.stderr {
                        heard(Source::Error, &bytes);
                    }
                }
                Some(Event::End(end)) => return Ok(end.exit_code),
                Some(Event::Start { .. } | Event::Keepalive {}) => {}
                None => return Err(io::Error::other("the command's stream ended early")),
            }
        }
    };
    tokio::time::timeout(patience, exchange)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the command takes too long")))
}

/// Starts a command that goes on by itself.
pub(crate) async fn launch(directory: &Path, command: &Command<'_>) -> io::Result<()> {
    match start(directory, command).await?.next().await? {
        Some(Event::Start { .. }) => Ok(()),
        _ => Err(io::Error::other("the command did not start")),
    }
}

/// Events of a command.
struct Events {
    body: hyper::body::Incoming,
    decoder: Decoder,
    _driver: tokio::task::JoinHandle<Result<(), hyper::Error>>,
}

impl Events {
    async fn next(&mut self) -> io::Result<Option<Event>> {
        loop {
            if let Some(envelope) = self.decoder.next().map_err(io::Error::other)? {
                if envelope.flags & END_STREAM != 0 {
                    let end: EndOfStream = serde_json::from_slice(&envelope.payload)?;
                    return match end.error {
                        Some(error) => Err(io::Error::other(error.message)),
                        None => Ok(None),
                    };
                }
                let message: EventMessage = serde_json::from_slice(&envelope.payload)?;
                return Ok(Some(message.event));
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame.map_err(io::Error::other)?.into_data() {
                        self.decoder.push(&data);
                    }
                }
                None => return Ok(None),
            }
        }
    }
}

async fn start(directory: &Path, command: &Command<'_>) -> io::Result<Events> {
    // bash where there is one, as for clients' commands; images without it have at least sh.
    let script = r#"if [ -x /bin/bash ]; then exec /bin/bash -l -c "$0"; else exec /bin/sh -l -c "$0"; fi"#;
    let wanted = StartRequest {
        process: Some(ProcessConfig {
            cmd: "/bin/sh".to_owned(),
            args: vec!["-c".to_owned(), script.to_owned(), command.text.to_owned()],
            envs: command.env.clone(),
            cwd: command.cwd.map(str::to_owned),
        }),
        stdin: Some(false),
        ..StartRequest::default()
    };
    let stream = connect_agent(directory).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let driver = tokio::spawn(connection);
    let mut request = Request::builder()
        .method(Method::POST)
        .uri("/process.Process/Start")
        .header("host", "agent")
        .header("content-type", "application/connect+json")
        .header("connect-protocol-version", "1");
    if let Some(user) = command.user {
        use base64::Engine as _;
        let user = base64::engine::general_purpose::STANDARD.encode(format!("{user}:"));
        request = request.header("authorization", format!("Basic {user}"));
    }
    if let Some(token) = command.token {
        request = request.header("x-access-token", token);
    }
    let body = Full::new(envelope::message(&wanted));
    let answer = sender
        .send_request(request.body(body).map_err(io::Error::other)?)
        .await
        .map_err(io::Error::other)?;
    if !answer.status().is_success() {
        let status = answer.status();
        let text = answer.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
        return Err(io::Error::other(format!(
            "{status}: {}",
            String::from_utf8_lossy(&text)
        )));
    }
    Ok(Events {
        body: answer.into_body(),
        decoder: Decoder::new(),
        _driver: driver,
    })
}
