//! One sandbox's agent: single calls and streams of events (Connect in JSON).
//!
//! Behind a server it is reached through that server. A sandbox that this process itself took up is reached by its own socket, and the
//! service is released: a long command must not keep others from this machine's sandboxes.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, RequestBuilder, Response};
use ringwall_agent_proto::code::EndOfStream;
use ringwall_agent_proto::process::{Event, EventMessage};
use ringwall_agent_proto::{Decoder, RpcError, envelope};
use ringwall_backend_process::{AGENT_SOCKET, PORTS_SOCKET};
use rustix::fs::{CWD, Mode, OFlags};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::error::CallError;
use super::http as web;
use super::service::{Place, Service, encode, parse};
use super::wire::Made;
use crate::failure::Failure;

/// Port of the agent (envd).
const AGENT_PORT: &str = "49983";
/// Seconds of silence after which the agent says that it is still there.
const KEEPALIVE_S: &str = "30";
/// Directory of the sandboxes' own directories, below the node's.
const SANDBOXES: &str = "sandboxes";

/// A running sandbox.
#[derive(Debug, Clone)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    http: Client,
    /// Without a slash at its end.
    base: String,
    headers: HeaderMap,
    /// Its directory, where it is this machine's; kept open for the paths that name it.
    local: Option<Arc<Local>>,
}

/// The sockets of a sandbox of this machine. By descriptor, since a path may be longer than a socket's address can be.
#[derive(Debug)]
struct Local {
    directory: OwnedFd,
}

impl Local {
    fn open(directory: &Path) -> std::io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, directory, flags, Mode::empty())?;
        Ok(Local { directory })
    }

    fn path(&self, socket: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{socket}", self.directory.as_raw_fd()))
    }
}

impl Sandbox {
    /// Finds a sandbox that runs; one that resumes by traffic is resumed.
    pub(crate) async fn open(service: &mut Service, id: &str, user: Option<&str>) -> Result<Self, Failure> {
        let detail = service.detail(id).await?;
        if detail.state != "running" {
            if !detail.lifecycle.auto_resume {
                return Err(Failure::own(format!("sandbox {id} is {}", detail.state))
                    .hint(format!("`ringwall resume {id}` lets it go on")));
            }
            let path = format!("/v2/sandboxes/{}/connect", encode(id));
            service.post::<Made>("a resume", &path, &json!({})).await?;
        }
        let mut headers = HeaderMap::new();
        let mut set = |name: HeaderName, text: &str| -> Result<(), Failure> {
            let value = HeaderValue::from_str(text).map_err(|_| {
                Failure::usage(format!(
                    "{:?} can't be sent as {name}",
                    text.chars().take(64).collect::<String>()
                ))
            })?;
            headers.insert(name, value);
            Ok(())
        };
        set(HeaderName::from_static("e2b-sandbox-id"), &detail.sandbox_id)?;
        set(HeaderName::from_static("e2b-sandbox-port"), AGENT_PORT)?;
        if let Some(token) = &detail.envd_access_token {
            set(HeaderName::from_static("x-access-token"), token)?;
        }
        if let Some(user) = user {
            set(AUTHORIZATION, &format!("Basic {}", STANDARD.encode(format!("{user}:"))))?;
        }
        let local = match &service.place {
            Place::Remote => None,
            Place::Served(root) | Place::Own(root) => {
                let directory = root.join(SANDBOXES).join(&detail.sandbox_id);
                Some(Arc::new(Local::open(&directory).map_err(Failure::own)?))
            }
        };
        let (http, base) = match (&service.place, &local) {
            (Place::Own(_), Some(local)) => {
                let base = "http://agent".to_owned();
                let http = web::unix_client(&local.path(AGENT_SOCKET))
                    .map_err(|error| CallError::unreachable(&base, error))?;
                service.release();
                (http, base)
            }
            _ => (service.http.clone(), service.data_url.clone()),
        };
        Ok(Sandbox {
            id: detail.sandbox_id,
            http,
            base,
            headers,
            local,
        })
    }

    /// The socket that gives connections to ports inside, if the sandbox is this machine's.
    pub(super) fn ports_socket(&self) -> Option<PathBuf> {
        self.local.as_ref().map(|local| local.path(PORTS_SOCKET))
    }

    pub(super) fn request(&self, method: reqwest::Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.base))
            .headers(self.headers.clone())
    }

    /// What the sandbox is called in errors.
    pub(super) fn url(&self) -> String {
        format!("sandbox {}", self.id)
    }

    /// Makes a call of one message each way.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        service: &str,
        method: &'static str,
        message: &impl Serialize,
    ) -> Result<T, CallError> {
        let body = serde_json::to_vec(message).map_err(|error| CallError::Malformed {
            what: method,
            why: error.to_string(),
        })?;
        let request = self
            .request(reqwest::Method::POST, &format!("/{service}/{method}"))
            .header("content-type", "application/json")
            .header("connect-protocol-version", "1")
            .body(body);
        let response = web::send_any(&self.url(), request).await?;
        let status = response.status();
        let bytes = web::read(&self.url(), response).await?;
        if status.is_success() {
            return parse(method, &bytes);
        }
        match serde_json::from_slice::<RpcError>(&bytes) {
            Ok(error) => Err(error.into()),
            Err(_) => Err(web::refused(status, &bytes)),
        }
    }

    /// Asks for a stream of events.
    pub(super) async fn stream(
        &self,
        service: &str,
        method: &'static str,
        message: &impl Serialize,
        timeout: Option<Duration>,
    ) -> Result<Events, CallError> {
        let mut request = self
            .request(reqwest::Method::POST, &format!("/{service}/{method}"))
            .header("content-type", "application/connect+json")
            .header("connect-protocol-version", "1")
            .header("keepalive-ping-interval", KEEPALIVE_S);
        if let Some(timeout) = timeout {
            // 0 would mean none.
            request = request.header("connect-timeout-ms", timeout.as_millis().max(1).to_string());
        }
        let response = web::send(&self.url(), request.body(envelope::message(message))).await?;
        Ok(Events {
            response,
            decoder: Decoder::new(),
        })
    }
}

/// The events of a process, as they come.
#[derive(Debug)]
pub(crate) struct Events {
    response: Response,
    decoder: Decoder,
}

impl Events {
    /// The next event but keepalives. Nothing is lost when this is given up half-way.
    pub(crate) async fn next(&mut self) -> Result<Event, CallError> {
        loop {
            if let Some(envelope) = self.decoder.next()? {
                if envelope.flags & envelope::END_STREAM != 0 {
                    let end: EndOfStream = parse("a stream", &envelope.payload)?;
                    return Err(end.error.map_or(CallError::Lost { source: None }, CallError::Rpc));
                }
                let message: EventMessage = parse("a stream", &envelope.payload)?;
                if !matches!(message.event, Event::Keepalive {}) {
                    return Ok(message.event);
                }
                continue;
            }
            match self.response.chunk().await {
                Ok(Some(piece)) => self.decoder.push(&piece),
                Ok(None) => return Err(CallError::Lost { source: None }),
                Err(error) => {
                    return Err(CallError::Lost {
                        source: Some(error.without_url().into()),
                    });
                }
            }
        }
    }
}
