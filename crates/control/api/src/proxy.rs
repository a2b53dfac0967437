//! The data plane: a request goes into a sandbox and its answer comes back, both passed on piece by piece as they arrive.

use axum::body::Body;
use http::header::{AUTHORIZATION, HOST, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use ringwall_agent_proto::signature;
use ringwall_sandbox::service::{SandboxInfo, ServiceError, Stream};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::app::App;
use crate::dispatch::{AGENT_PORT, INTERPRETER_PORT};
use crate::hop::{self, Upgrade};
use crate::serve::drain;

/// Paths of the agent that only the host may ask for.
const HOST_ONLY: [&str; 2] = ["/init", "/interpreter"];

/// An error of the data plane, in the words that E2B's clients look for.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ProxyError<'a> {
    sandbox_id: &'a str,
    message: String,
    code: u16,
}

pub(crate) fn refuse(id: &str, status: StatusCode, message: impl Into<String>) -> Response<Body> {
    let error = ProxyError {
        sandbox_id: id,
        message: message.into(),
        code: status.as_u16(),
    };
    let text = serde_json::to_vec(&error).unwrap_or_default();
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Says that a sandbox is not there: the wording by which clients know that it does not run.
pub(crate) fn not_found(id: &str) -> Response<Body> {
    refuse(id, StatusCode::BAD_GATEWAY, "The sandbox was not found")
}

/// Passes a request into a sandbox.
pub(crate) async fn pass(app: &App, id: &str, port: u16, by_host: bool, request: Request<Body>) -> Response<Body> {
    let info = match app.sandboxes.find(id).await {
        Ok(info) => info,
        Err(_) => {
            drain(request.into_body()).await;
            return not_found(id);
        }
    };
    if let Some(refusal) = check_right(&info, port, by_host, &request) {
        drain(request.into_body()).await;
        return refusal;
    }
    let opened = if port == AGENT_PORT {
        app.sandboxes.open_agent(id).await
    } else {
        app.sandboxes.open_port(id, port).await
    };
    let stream = match opened {
        Ok(stream) => stream,
        Err(error) => {
            drain(request.into_body()).await;
            return refuse_unreachable(id, port, &error);
        }
    };
    let passed = match stream {
        Stream::Unix(fd) => {
            let stream = std::os::unix::net::UnixStream::from(fd);
            let ready = stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream));
            exchange(ready, &info, port, by_host, request).await
        }
        Stream::Tcp(fd) => {
            let stream = std::net::TcpStream::from(fd);
            let ready = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
            exchange(ready, &info, port, by_host, request).await
        }
    };
    passed.unwrap_or_else(|error| {
        tracing::debug!(id, port, %error, "an exchange with a sandbox failed");
        // The sandbox may have ended in the midst of it.
        refuse(
            id,
            StatusCode::BAD_GATEWAY,
            "The sandbox closed the connection before it had answered",
        )
    })
}

/// Says why there is no connection into a sandbox.
fn refuse_unreachable(id: &str, port: u16, error: &ServiceError) -> Response<Body> {
    match error {
        ServiceError::NotFound { .. } => not_found(id),
        ServiceError::PortClosed => {
            let message = format!("The sandbox is running but port is not open: nothing listens on {port}");
            refuse(id, StatusCode::BAD_GATEWAY, message)
        }
        error => {
            tracing::warn!(id, port, %error, cause = ?error, "can't reach a sandbox");
            refuse(id, StatusCode::BAD_GATEWAY, error.to_string())
        }
    }
}

/// What is checked here, before anything is opened. The agent checks its own token.
fn check_right(info: &SandboxInfo, port: u16, by_host: bool, request: &Request<Body>) -> Option<Response<Body>> {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let path = request.uri().path();
    if port == AGENT_PORT {
        return HOST_ONLY
            .contains(&path)
            .then(|| refuse(&info.id, StatusCode::NOT_FOUND, format!("there is no {path}")));
    }
    if let Some(token) = &info.traffic_token {
        let given = header("e2b-traffic-access-token").unwrap_or_default();
        if !signature::same(given, token) {
            let message = "this sandbox's ports need its token: send it as E2B-Traffic-Access-Token";
            return Some(refuse(&info.id, StatusCode::FORBIDDEN, message));
        }
    }
    if port == INTERPRETER_PORT && path == "/execute" && !by_host {
        let given = header("x-access-token").unwrap_or_default();
        if !signature::same(given, &info.token) {
            let message = "running code needs the sandbox's token: send it as X-Access-Token";
            return Some(refuse(&info.id, StatusCode::UNAUTHORIZED, message));
        }
    }
    None
}

/// Sends the request over `stream` and returns the answer, whose body goes on arriving.
async fn exchange<S>(
    stream: std::io::Result<S>,
    info: &SandboxInfo,
    port: u16,
    by_host: bool,
    mut request: Request<Body>,
) -> Result<Response<Body>, Box<dyn std::error::Error + Send + Sync>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let wants_upgrade = request.headers().contains_key(UPGRADE);
    let client_side: Option<OnUpgrade> = wants_upgrade.then(|| hyper::upgrade::on(&mut request));
    prepare(&mut request, info, port, by_host, wants_upgrade);
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .preserve_header_case(true)
        .handshake(TokioIo::new(stream?))
        .await?;
    tokio::spawn(connection.with_upgrades());
    let mut response = sender.send_request(request).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        // What is inside may say anything, also what nobody asked for.
        let Some(client_side) = client_side else {
            return Err("the sandbox has changed the protocol unasked".into());
        };
        let sandbox_side = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            if let (Ok(client), Ok(sandbox)) = (client_side.await, sandbox_side.await) {
                let (mut client, mut sandbox) = (TokioIo::new(client), TokioIo::new(sandbox));
                // Ends when both sides have; an error of either is the end of it, and nobody is left to be told.
                drop(tokio::io::copy_bidirectional(&mut client, &mut sandbox).await);
            }
        });
    } else {
        hop::strip(response.headers_mut(), Upgrade::Dropped);
    }
    Ok(response.map(Body::new))
}

/// Makes the request one for the server inside.
fn prepare(request: &mut Request<Body>, info: &SandboxInfo, port: u16, by_host: bool, wants_upgrade: bool) {
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str())
        .to_owned();
    *request.uri_mut() = path.parse().unwrap_or_else(|_| Uri::from_static("/"));
    *request.version_mut() = http::Version::HTTP_11;
    let upgrade = if wants_upgrade { Upgrade::Kept } else { Upgrade::Dropped };
    hop::strip(request.headers_mut(), upgrade);
    let headers = request.headers_mut();
    headers.remove("e2b-sandbox-id");
    headers.remove("e2b-sandbox-port");
    headers.remove("e2b-traffic-access-token");
    headers.remove("x-api-key");
    if port != AGENT_PORT && !by_host {
        // The agent's token is for the agent. (Under a port's own host name the header is the user's business.)
        headers.remove("x-access-token");
    }
    // An API key sent as a bearer token must not reach untrusted code either; the agent's `Basic` user must pass.
    let is_key = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|text| text.starts_with("Bearer e2b_"));
    if is_key {
        headers.remove(AUTHORIZATION);
    }
    if let Some(mask) = &info.network.mask_request_host
        && port != AGENT_PORT
        && let Ok(host) = HeaderValue::from_str(&mask.replace("${PORT}", &port.to_string()))
    {
        headers.insert(HOST, host);
    } else if !headers.contains_key(HOST) {
        headers.insert(HOST, HeaderValue::from_static("localhost"));
    }
}
