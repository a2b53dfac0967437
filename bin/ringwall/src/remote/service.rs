//! The control plane: one method for each kind of call.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use http::{Method, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Client, Response, Url};
use rustix::fs::{CWD, Mode, OFlags};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::CallError;
use super::host::Host;
use super::http as web;
use super::wire::Detail;

/// File of the socket by which this machine's commands reach a server that speaks TLS to all others, in its directory.
pub(crate) const LOCAL_SOCKET: &str = "api.sock";
/// What requests through it begin with: nobody resolves the name.
const LOCAL_URL: &str = "http://ringwall";
/// Header of a list's answer that says where the next page starts.
const NEXT_TOKEN: &str = "x-next-token";
/// What need not be encoded in a component of a path or query.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Where the service's sandboxes are.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// Anywhere.
    Remote,
    /// On this machine, served by this user's server.
    Served(PathBuf),
    /// On this machine, and served by this process.
    Own(PathBuf),
}

/// A service that answers.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) http: Client,
    /// What requests begin with. Without a slash at its end.
    url: String,
    /// The URL by which others know the service.
    pub(crate) public_url: String,
    /// Where the agents of sandboxes are reached.
    pub(crate) data_url: String,
    key: String,
    pub(crate) place: Place,
    host: Option<Host>,
    ending: Option<tokio::task::JoinHandle<()>>,
    /// Its directory, where `http` goes to a socket in it that it names by descriptor.
    _directory: Option<OwnedFd>,
}

/// Encodes a component of a path or a query's value.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

impl Service {
    /// A client of the service at `url`; nothing is sent yet.
    pub(crate) fn new(url: &Url, data_url: Option<&Url>, key: String, place: Place) -> Result<Self, CallError> {
        let text = url.as_str().trim_end_matches('/').to_owned();
        Ok(Service {
            http: web::client(url, data_url)?,
            data_url: data_url.map_or_else(|| text.clone(), |url| url.as_str().trim_end_matches('/').to_owned()),
            public_url: text.clone(),
            url: text,
            key,
            place,
            host: None,
            ending: None,
            _directory: None,
        })
    }

    /// A client of this user's server at `url`, by the socket in its directory; nothing is sent yet.
    pub(crate) fn by_socket(url: &Url, key: String, directory: &Path) -> Result<Self, CallError> {
        let public_url = url.as_str().trim_end_matches('/').to_owned();
        let failed = |source| CallError::Unreachable {
            url: public_url.clone(),
            source,
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(CWD, directory, flags, Mode::empty())
            .map_err(|error| failed(std::io::Error::from(error).into()))?;
        // By descriptor: a path may be longer than a socket's address can be.
        let socket = format!("/proc/self/fd/{}/{LOCAL_SOCKET}", opened.as_raw_fd());
        Ok(Service {
            http: web::unix_client(Path::new(&socket)).map_err(|error| CallError::unreachable(&public_url, error))?,
            url: LOCAL_URL.to_owned(),
            data_url: LOCAL_URL.to_owned(),
            public_url,
            key,
            place: Place::Served(directory.to_owned()),
            host: None,
            ending: None,
            _directory: Some(opened),
        })
    }

    /// Whether it answers.
    pub(crate) async fn is_there(&self) -> bool {
        self.http.get(format!("{}/health", self.url)).send().await.is_ok()
    }

    /// Takes the service in this process along, which is to end with the command.
    pub(crate) fn with_host(mut self, host: Host) -> Self {
        self.host = Some(host);
        self
    }

    /// Lets other processes have the machine's sandboxes while this one goes on with what needs no service.
    pub(crate) fn release(&mut self) {
        if let Some(host) = self.host.take() {
            self.ending = Some(tokio::spawn(host.end()));
        }
    }

    /// Ends what this process serves.
    pub(crate) async fn finish(mut self) {
        self.release();
        if let Some(ending) = self.ending.take() {
            drop(ending.await);
        }
    }

    /// The service in this process, if it is one.
    pub(crate) fn host(&self) -> Option<&Host> {
        self.host.as_ref()
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + ?Sized)>,
    ) -> Result<Response, CallError> {
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.url))
            .header("x-api-key", &self.key);
        if let Some(body) = body {
            let text = serde_json::to_vec(body).map_err(|error| CallError::Malformed {
                what: "our own request",
                why: error.to_string(),
            })?;
            request = request.header("content-type", "application/json").body(text);
        }
        web::send(&self.public_url, request).await
    }

    async fn read<T: DeserializeOwned>(&self, what: &'static str, response: Response) -> Result<T, CallError> {
        let bytes = web::read(&self.public_url, response).await?;
        parse(what, &bytes)
    }

    /// Gets something.
    pub(crate) async fn get<T: DeserializeOwned>(&self, what: &'static str, path: &str) -> Result<T, CallError> {
        let response = self.request(Method::GET, path, None::<&Value>).await?;
        self.read(what, response).await
    }

    /// Asks for something to be done, and reads the answer.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        what: &'static str,
        path: &str,
        body: &impl Serialize,
    ) -> Result<(StatusCode, T), CallError> {
        let response = self.request(Method::POST, path, Some(body)).await?;
        Ok((response.status(), self.read(what, response).await?))
    }

    /// Asks for something to be done.
    pub(crate) async fn order(&self, path: &str, body: &impl Serialize) -> Result<(), CallError> {
        self.request(Method::POST, path, Some(body)).await.map(drop)
    }

    /// Removes something.
    pub(crate) async fn delete(&self, path: &str) -> Result<(), CallError> {
        self.request(Method::DELETE, path, None::<&Value>).await.map(drop)
    }

    /// Gets a list, all its pages. `path` has a query already.
    pub(crate) async fn list(&self, what: &'static str, path: &str) -> Result<Vec<Value>, CallError> {
        let mut items: Vec<Value> = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let page = match &next {
                None => path.to_owned(),
                Some(token) => format!("{path}&nextToken={}", encode(token)),
            };
            let response = self.request(Method::GET, &page, None::<&Value>).await?;
            let token = response
                .headers()
                .get(NEXT_TOKEN)
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned);
            items.extend(self.read::<Vec<Value>>(what, response).await?);
            // The same token again would never end.
            if token.is_none() || token == next {
                return Ok(items);
            }
            next = token;
        }
    }

    /// What is known about a sandbox.
    pub(crate) async fn detail(&self, id: &str) -> Result<Detail, CallError> {
        self.get("a question about a sandbox", &format!("/sandboxes/{}", encode(id)))
            .await
    }

    /// Sends an archive and reads the answer.
    pub(crate) async fn put_archive<T: DeserializeOwned>(
        &self,
        what: &'static str,
        path: &str,
        length: u64,
        file: std::fs::File,
    ) -> Result<T, CallError> {
        let body = super::reading(file);
        let request = self
            .http
            .put(format!("{}{path}", self.url))
            .header("x-api-key", &self.key)
            .header("content-length", length)
            .body(body);
        let response = web::send(&self.public_url, request).await?;
        self.read(what, response).await
    }

    /// Uploads to a place that the service named; no key goes there.
    pub(crate) async fn put(&self, url: &str, length: u64, body: reqwest::Body) -> Result<(), CallError> {
        let request = self.http.put(url).header("content-length", length).body(body);
        web::send(&self.public_url, request).await.map(drop)
    }
}

/// Reads an answer.
pub(crate) fn parse<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, CallError> {
    serde_json::from_slice(bytes).map_err(|error| CallError::Malformed {
        what,
        why: error.to_string(),
    })
}
