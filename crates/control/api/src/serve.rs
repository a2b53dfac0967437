//! Connections: accepted up to a limit, each with a time in which its request's head must have come.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower_service::Service as _;

use crate::app::App;
use crate::dispatch::{self, Target};
use crate::error::{ApiError, MAX_BODY_BYTES};
use crate::{caller, proxy, routes};

/// How long a client may take to send a request's head: against those that never finish it.
const HEAD_PATIENCE: Duration = Duration::from_secs(20);
/// Longest head, in bytes, and most headers.
const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_HEADERS: usize = 128;
/// How long a control-plane request's body may take.
const BODY_PATIENCE: Duration = Duration::from_secs(30);
/// Most that is read of a body nobody wants, and for how long.
const MAX_DRAINED_BYTES: usize = 4 << 20;
const DRAIN_PATIENCE: Duration = Duration::from_secs(2);
/// Names a request in answers and logs.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What a connection too many is told.
const TOO_MANY: &str = "{\"code\":503,\"message\":\"too many connections at once\"}";

/// Serves connections until `stopped` is done. Connections that are open then are closed with the process.
///
/// # Errors
/// What accept(2) says, other than about one connection.
pub async fn serve(listener: TcpListener, app: App, stopped: impl Future<Output = ()>) -> std::io::Result<()> {
    let places = Arc::new(Semaphore::new(app.config.max_connections.max(1)));
    let router = routes::router(app.clone());
    tokio::pin!(stopped);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stopped => return Ok(()),
        };
        match accepted {
            Ok((stream, peer)) => match Arc::clone(&places).try_acquire_owned() {
                Ok(place) => {
                    let (app, router) = (app.clone(), router.clone());
                    tokio::spawn(async move { converse(stream, peer, app, router, place).await });
                }
                Err(_) => turn_away(stream),
            },
            // The peer has gone, or descriptors have run out: neither ends the service.
            Err(error) => {
                tracing::warn!(%error, "can't accept a connection");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Answers a connection too many without reading from it; what does not fit into its send buffer is not sent.
fn turn_away(stream: TcpStream) {
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\nshould-retry: true\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{TOO_MANY}",
        TOO_MANY.len()
    );
    drop(stream.try_write(answer.as_bytes()));
    tokio::spawn(async move {
        let mut stream = stream;
        drop(tokio::time::timeout(Duration::from_secs(1), stream.shutdown()).await);
    });
}

async fn converse(stream: TcpStream, peer: SocketAddr, app: App, router: Router, place: OwnedSemaphorePermit) {
    // Small frames of a command's output must not wait for an acknowledgement.
    drop(stream.set_nodelay(true));
    app.measures.connections.inc();
    let connections = app.measures.connections.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (app, router) = (app.clone(), router.clone());
        async move { Ok::<_, Infallible>(answer(app, router, peer, request).await) }
    });
    let result = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .half_close(false)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "a connection ended badly");
    }
    connections.dec();
    drop(place);
}

async fn answer(app: App, router: Router, peer: SocketAddr, request: Request<Incoming>) -> Response<Body> {
    let begun = Instant::now();
    let id = app.request_id();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let target = dispatch::target(&method, request.uri(), request.headers(), app.sandboxes.as_ref());
    let request = request.map(Body::new);
    let (plane, mut response) = match target {
        Target::Control => ("control", control(&app, router, request).await),
        Target::Unknown => {
            drain(request.into_body()).await;
            let message = "no sandbox fits this request: its id, token or signature is missing or wrong";
            ("data", proxy::refuse("", StatusCode::UNAUTHORIZED, message))
        }
        Target::Sandbox { id, port, by_host } => ("data", proxy::pass(&app, &id, port, by_host, request).await),
    };
    let status = response.status().as_u16();
    app.measures.count(plane, status, begun.elapsed());
    tracing::info!(request = id, plane, %peer, %method, path, status, us = begun.elapsed().as_micros(), "answered");
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// Reads a body that nobody wants, up to a limit, and keeps nothing of it: a client in the midst of sending would otherwise see its
/// connection break and not the answer.
pub(crate) async fn drain(body: Body) {
    let read = async {
        let mut body = Limited::new(body, MAX_DRAINED_BYTES);
        while let Some(Ok(_)) = body.frame().await {}
    };
    drop(tokio::time::timeout(DRAIN_PATIENCE, read).await);
}

/// Answers a request of the control plane. Who asks is settled by the head; a body is kept only of those who may ask, and it is read before
/// anything else is decided, small as it is, so that a refusal breaks no connection. Uploads are passed on as they come.
async fn control(app: &App, mut router: Router, mut request: Request<Body>) -> Response<Body> {
    let path = request.uri().path();
    let is_upload = ["/uploads/", "/ringwall/templates/"]
        .iter()
        .any(|prefix| path.starts_with(prefix));
    // Those that need no key take no body either; an upload's URL is the right to it.
    if !["/health", "/metrics", "/openapi.json"].contains(&path) && !path.starts_with("/uploads/") {
        match caller::authenticate(app, request.headers()) {
            Ok(owner) => drop(request.extensions_mut().insert(owner)),
            Err(error) => {
                drain(request.into_body()).await;
                return error.into_response();
            }
        }
    }
    let length = request.body().size_hint().upper().unwrap_or(MAX_BODY_BYTES as u64);
    let Some(_bytes) = app.limits.hold(if is_upload {
        0
    } else {
        length.min(MAX_BODY_BYTES as u64)
    }) else {
        drain(request.into_body()).await;
        return busy();
    };
    let request = if is_upload {
        request
    } else {
        let (parts, body) = request.into_parts();
        match tokio::time::timeout(BODY_PATIENCE, Limited::new(body, MAX_BODY_BYTES).collect()).await {
            Ok(Ok(body)) => Request::from_parts(parts, Body::from(body.to_bytes())),
            Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => {
                let message = format!("the body is longer than {MAX_BODY_BYTES} bytes");
                return ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message).into_response();
            }
            Ok(Err(_)) => return ApiError::bad_request("the body could not be read to its end").into_response(),
            Err(_) => {
                return ApiError::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time").into_response();
            }
        }
    };
    let Some(_place) = app.limits.enter() else {
        return busy();
    };
    match router.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

fn busy() -> Response<Body> {
    ApiError {
        status: StatusCode::SERVICE_UNAVAILABLE,
        message: "too many requests at once; try again in 1 s".to_owned(),
        retry_after_s: Some(1),
    }
    .into_response()
}
