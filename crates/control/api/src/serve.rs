//! Connections: accepted up to a limit, each with a time in which its request's head must have come.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
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
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower_service::Service as _;

use crate::app::App;
use crate::dispatch::{self, Target};
use crate::error::{ApiError, MAX_BODY_BYTES};
use crate::listen::{Listener, Peer, Taken, turn_away};
use crate::scheme::Scheme;
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

/// Serves connections until `stopped` is done. Connections that are open then are closed with the process.
///
/// Each listener has its own count of connections: whoever fills one does not keep others from another.
///
/// # Errors
/// What accept(2) says, other than about one connection.
pub async fn serve(listener: Listener, app: App, stopped: impl Future<Output = ()>) -> std::io::Result<()> {
    let places = Arc::new(Semaphore::new(app.config.max_connections.max(1)));
    let router = routes::router(app.clone());
    tokio::pin!(stopped);
    loop {
        let accepted = tokio::select! {
            accepted = listener.take() => accepted,
            () = &mut stopped => return Ok(()),
        };
        match accepted {
            Ok((taken, peer)) => match Arc::clone(&places).try_acquire_owned() {
                Ok(place) => {
                    let talk = Talk {
                        counted: Counted::new(&app),
                        app: app.clone(),
                        router: router.clone(),
                        peer,
                        scheme: Scheme::Http,
                        _place: place,
                    };
                    begin(taken, talk);
                }
                Err(_) => turn_away(taken),
            },
            // The peer has gone, or descriptors have run out: neither ends the service.
            Err(error) => {
                tracing::warn!(%error, "can't accept a connection");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// A connection counted as open, for as long as this lives.
#[derive(Debug)]
struct Counted(Gauge<i64, AtomicI64>);

impl Counted {
    fn new(app: &App) -> Self {
        app.measures.connections.inc();
        Counted(app.measures.connections.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// All that a connection has beside its stream.
struct Talk {
    app: App,
    router: Router,
    peer: Peer,
    scheme: Scheme,
    counted: Counted,
    _place: OwnedSemaphorePermit,
}

/// Begins to serve a connection. Small frames of a command's output must not wait for an acknowledgement, hence no delay.
fn begin(taken: Taken, mut talk: Talk) {
    match taken {
        Taken::Plain(stream) => {
            drop(stream.set_nodelay(true));
            tokio::spawn(converse(stream, talk));
        }
        Taken::Tls(stream, tls) => {
            drop(stream.set_nodelay(true));
            talk.scheme = Scheme::Https;
            tokio::spawn(async move {
                match tls.accept(stream).await {
                    Ok(Some(stream)) => converse(stream, talk).await,
                    Ok(None) => {
                        talk.app.measures.failed_handshakes.inc();
                        tracing::debug!(peer = %talk.peer, "a client spoke plain HTTP where TLS is spoken");
                    }
                    Err(error) => {
                        talk.app.measures.failed_handshakes.inc();
                        tracing::debug!(peer = %talk.peer, %error, "a TLS handshake failed");
                    }
                }
            });
        }
        Taken::Local(stream) => drop(tokio::spawn(converse(stream, talk))),
    }
}

async fn converse<S>(stream: S, talk: Talk)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Talk {
        app,
        router,
        peer,
        scheme,
        counted,
        _place,
    } = talk;
    let service = service_fn(move |request: Request<Incoming>| {
        let (app, router) = (app.clone(), router.clone());
        async move { Ok::<_, Infallible>(answer(app, router, peer, scheme, request).await) }
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
    drop(counted);
}

async fn answer(
    app: App,
    router: Router,
    peer: Peer,
    scheme: Scheme,
    mut request: Request<Incoming>,
) -> Response<Body> {
    let begun = Instant::now();
    let id = app.request_id();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let target = dispatch::target(&method, request.uri(), request.headers(), app.sandboxes.as_ref());
    if scheme == Scheme::Https {
        request.extensions_mut().insert(scheme);
    }
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
