//! A port of a sandbox on this machine's own: connection by connection for sandboxes of this machine, else request by request.

use std::convert::Infallible;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http::header::{HOST, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, BodyStream, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ringwall_api::hop::{self, Upgrade};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use super::agent::Sandbox;
use super::service::Service;
use crate::ui;

/// How long the agent may take to connect.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause after a connection that could not be taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where a port is passed to.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// A sandbox of this machine.
    Local { sandbox: Sandbox, port: u16 },
    /// A sandbox behind a server.
    Server(Arc<Route>),
}

/// A port behind a server.
#[derive(Debug)]
pub(crate) struct Route {
    http: reqwest::Client,
    base: String,
    headers: HeaderMap,
}

type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

impl Target {
    /// A port of a sandbox that was opened.
    pub(crate) fn new(service: &Service, sandbox: &Sandbox, port: u16, traffic_token: Option<&str>) -> Self {
        if sandbox.ports_socket().is_some() {
            return Target::Local {
                sandbox: sandbox.clone(),
                port,
            };
        }
        let mut headers = HeaderMap::new();
        headers.insert("e2b-sandbox-port", HeaderValue::from(port));
        for (name, text) in [
            ("e2b-sandbox-id", Some(sandbox.id.as_str())),
            ("e2b-traffic-access-token", traffic_token),
        ] {
            if let Some(value) = text.and_then(|text| HeaderValue::from_str(text).ok()) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        Target::Server(Arc::new(Route {
            http: service.http.clone(),
            base: service.data_url.clone(),
            headers,
        }))
    }

    /// Passes connections on, until this is given up.
    pub(crate) async fn serve(self, listener: TcpListener) {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    ui::note(&format!("can't take a connection: {error}"));
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            drop(stream.set_nodelay(true));
            match &self {
                Target::Local { sandbox, port } => {
                    let (sandbox, port) = (sandbox.clone(), *port);
                    tokio::spawn(async move {
                        if let Err(error) = pass(&sandbox, port, stream).await {
                            ui::note(&format!("port {port}: {error}"));
                        }
                    });
                }
                Target::Server(route) => {
                    let route = Arc::clone(route);
                    let service = service_fn(move |request| {
                        let route = Arc::clone(&route);
                        async move { Ok::<_, Infallible>(route.answer(request).await) }
                    });
                    tokio::spawn(async move {
                        // A connection that ends badly is its client's affair.
                        drop(
                            hyper::server::conn::http1::Builder::new()
                                .serve_connection(TokioIo::new(stream), service)
                                .with_upgrades()
                                .await,
                        );
                    });
                }
            }
        }
    }
}

/// Joins a connection with one to the port inside. One that ends badly once joined is nobody's news.
async fn pass(sandbox: &Sandbox, port: u16, mut here: TcpStream) -> io::Result<()> {
    let path = sandbox
        .ports_socket()
        .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    let mut inside = tokio::time::timeout(PATIENCE, connect_inside(&path, port))
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the sandbox does not answer")))?;
    drop(tokio::io::copy_bidirectional(&mut here, &mut inside).await);
    Ok(())
}

/// Asks the agent for a connection to a port inside: the number goes in, a status and a descriptor come back.
async fn connect_inside(path: &Path, port: u16) -> io::Result<TcpStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::send(&socket, &port.to_le_bytes(), rustix::net::SendFlags::NOSIGNAL)?;
    // For tokio only a descriptor to wait on: no byte is read but by recvmsg(2) below.
    let socket = UnixStream::from_std(socket.into())?;
    let answer = loop {
        socket.readable().await?;
        match socket.try_io(tokio::io::Interest::READABLE, || {
            ringwall_sys::pass_fd::receive(socket.as_fd())
        }) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            answer => break answer?,
        }
    };
    let Some((bytes, mut fds)) = answer else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    match (bytes.first(), fds.pop()) {
        (Some(0), Some(fd)) => {
            let stream = std::net::TcpStream::from(fd);
            stream.set_nonblocking(true)?;
            TcpStream::from_std(stream)
        }
        (Some(1), _) => Err(io::Error::new(
            io::ErrorKind::ConnectionRefused,
            "nothing listens there in the sandbox",
        )),
        _ => Err(io::Error::other("the sandbox could not connect")),
    }
}

impl Route {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        self.pass(request).await.unwrap_or_else(|error| {
            let text = format!("ringwall port --forward: {error}\n");
            let mut response = Response::new(
                Full::new(Bytes::from(text))
                    .map_err(|never| match never {})
                    .boxed_unsync(),
            );
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        })
    }

    /// Sends the request on: as it came, but for the host and what is about one hop only.
    async fn pass(&self, mut request: Request<Incoming>) -> Result<Response<Body>, reqwest::Error> {
        let here = request
            .headers()
            .contains_key(UPGRADE)
            .then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut headers = parts.headers;
        // reqwest sets the server's own: proxies before it go by that.
        headers.remove(HOST);
        let upgrade = if here.is_some() {
            Upgrade::Kept
        } else {
            Upgrade::Dropped
        };
        hop::strip(&mut headers, upgrade);
        headers.extend(self.headers.clone());
        let has_body = !http_body_is_empty(&body);
        let mut onward = self
            .http
            .request(parts.method, format!("{}{path}", self.base))
            .headers(headers);
        if has_body {
            let data = BodyStream::new(body).try_filter_map(|frame| async move { Ok(frame.into_data().ok()) });
            onward = onward.body(reqwest::Body::wrap_stream(data));
        }
        let answer = onward.send().await?;
        let mut response = Response::builder().status(answer.status());
        let mut headers = answer.headers().clone();
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(here) = here
        {
            if let Some(own) = response.headers_mut() {
                own.extend(headers);
            }
            tokio::spawn(async move {
                if let (Ok(here), Ok(mut there)) = (here.await, answer.upgrade().await) {
                    drop(tokio::io::copy_bidirectional(&mut TokioIo::new(here), &mut there).await);
                }
            });
            let nothing = Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync();
            return Ok(response.body(nothing).unwrap_or_default());
        }
        hop::strip(&mut headers, Upgrade::Dropped);
        if let Some(own) = response.headers_mut() {
            own.extend(headers);
        }
        let frames = answer.bytes_stream().map_ok(Frame::data).map_err(Into::into);
        Ok(response
            .body(StreamBody::new(frames).boxed_unsync())
            .unwrap_or_default())
    }
}

fn http_body_is_empty(body: &Incoming) -> bool {
    hyper::body::Body::is_end_stream(body)
}
