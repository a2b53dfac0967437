//! Connect over HTTP/1.1 in JSON: reading requests, answering single messages and streams.

pub(crate) mod stream;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use ringwall_agent_proto::{Code, Decoder, MAX_MESSAGE_BYTES, RpcError, envelope};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::body::{self, Body, Reply};
use crate::shared_body::SharedBody;

/// Type of a stream's bodies, both ways.
const STREAM_TYPE: &str = "application/connect+json";
/// Type of a single message.
const UNARY_TYPE: &str = "application/json";
/// Silence after which a stream sends a keepalive when the client does not say.
const DEFAULT_KEEPALIVE: Duration = Duration::from_secs(90);
/// Longest silence a client may ask for; the specification has ten digits of milliseconds.
const MAX_SECONDS: u64 = 10_000_000;

/// A body up to here is collected at once: that many for every connection are affordable.
const SMALL_BODY_BYTES: usize = 64 * 1024;
/// Larger bodies are collected few at a time, or 256 connections with 4 MiB each would be a gigabyte.
static LARGE_BODIES: Semaphore = Semaphore::const_new(4);

/// What the headers of an RPC say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallOptions {
    /// When the call must be over.
    pub(crate) deadline: Option<Instant>,
    /// Silence after which a stream sends a keepalive.
    pub(crate) keepalive: Duration,
}

impl CallOptions {
    /// Reads the headers.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, RpcError> {
        let number = |name: &str| -> Result<Option<u64>, RpcError> {
            let Some(value) = headers.get(name) else {
                return Ok(None);
            };
            let number = value.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok());
            number
                .map(|number| (number > 0).then_some(number))
                .ok_or_else(|| RpcError::new(Code::InvalidArgument, format!("the header {name} is not a number")))
        };
        let timeout = number("connect-timeout-ms")?.map(|timeout| timeout.min(MAX_SECONDS.saturating_mul(1000)));
        let keepalive = number("keepalive-ping-interval")?;
        Ok(CallOptions {
            deadline: timeout.and_then(|timeout| Instant::now().checked_add(Duration::from_millis(timeout))),
            keepalive: keepalive.map_or(DEFAULT_KEEPALIVE, |seconds| {
                Duration::from_secs(seconds.min(MAX_SECONDS))
            }),
        })
    }
}

/// Answers an RPC of one message with one message.
pub(crate) async fn unary<Req, Res>(
    request: Request<SharedBody>,
    handler: impl AsyncFnOnce(Req) -> Result<Res, RpcError>,
) -> Reply
where
    Req: DeserializeOwned,
    Res: Serialize,
{
    if !has_type(request.headers(), UNARY_TYPE) {
        return unsupported_type(UNARY_TYPE);
    }
    let answer = async {
        let options = CallOptions::of(request.headers())?;
        let bytes = read_limited(request.into_body(), MAX_MESSAGE_BYTES).await?;
        let message = parse(if bytes.is_empty() { b"{}" } else { &bytes })?;
        within(options.deadline, handler(message)).await
    };
    match answer.await {
        Ok(message) => body::json(StatusCode::OK, &message),
        Err(error) => unary_error(&error),
    }
}

/// Reads the one message that asks for a stream. The answer to an error is [`stream_error`].
pub(crate) async fn stream_request<Req: DeserializeOwned>(request: Request<SharedBody>) -> Result<Req, RpcError> {
    let bytes = read_limited(
        request.into_body(),
        MAX_MESSAGE_BYTES.saturating_add(envelope::HEADER_BYTES),
    )
    .await?;
    let mut decoder = Decoder::new();
    decoder.push(&bytes);
    let first = decoder.next().map_err(framing)?;
    let Some(first) = first else {
        decoder.finish().map_err(framing)?;
        return Err(RpcError::new(Code::InvalidArgument, "the request has no message"));
    };
    if first.flags & envelope::END_STREAM != 0 {
        return Err(RpcError::new(Code::InvalidArgument, "the request has no message"));
    }
    parse(&first.payload)
}

/// Reads a message.
pub(crate) fn parse<Req: DeserializeOwned>(bytes: &[u8]) -> Result<Req, RpcError> {
    serde_json::from_slice(bytes)
        .map_err(|error| RpcError::new(Code::InvalidArgument, format!("malformed message: {error}")))
}

/// The answer to bytes that are no envelopes.
pub(crate) fn framing(error: ringwall_agent_proto::EnvelopeError) -> RpcError {
    let code = match error {
        ringwall_agent_proto::EnvelopeError::TooLarge { .. } => Code::ResourceExhausted,
        ringwall_agent_proto::EnvelopeError::Compressed => Code::Unimplemented,
        _ => Code::InvalidArgument,
    };
    RpcError::new(code, error.to_string())
}

/// Gives up at the deadline.
pub(crate) async fn within<T>(
    deadline: Option<Instant>,
    work: impl Future<Output = Result<T, RpcError>>,
) -> Result<T, RpcError> {
    match deadline {
        None => work.await,
        Some(deadline) => tokio::time::timeout_at(deadline, work)
            .await
            .unwrap_or_else(|_| Err(deadline_exceeded())),
    }
}

/// The error of a call that took too long.
pub(crate) fn deadline_exceeded() -> RpcError {
    RpcError::new(Code::DeadlineExceeded, "the call's timeout has passed")
}

/// The answer to a request that is none for a stream; `None` for one that is.
pub(crate) fn refuse_unless_stream(headers: &HeaderMap) -> Option<Reply> {
    (!has_type(headers, STREAM_TYPE)).then(|| unsupported_type(STREAM_TYPE))
}

/// A failed single message.
pub(crate) fn unary_error(error: &RpcError) -> Reply {
    let status = StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    body::json(status, error)
}

/// A stream that fails before its first message: HTTP 200 all the same, or JavaScript clients see only the status.
pub(crate) fn stream_error(error: RpcError) -> Reply {
    stream_reply(Body::Full(Some(envelope::end_of_stream(Some(error)))))
}

/// A stream of one message, as client streams are answered.
pub(crate) fn stream_single(message: &impl Serialize) -> Reply {
    let mut frames = envelope::message(message).to_vec();
    frames.extend_from_slice(&envelope::end_of_stream(None));
    stream_reply(Body::Full(Some(frames.into())))
}

/// A stream.
pub(crate) fn stream_reply(body: Body) -> Reply {
    let mut reply = Response::new(body);
    reply
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(STREAM_TYPE));
    reply
}

/// The answer for a method that does not exist.
pub(crate) fn no_such_method(method: &str) -> Reply {
    unary_error(&RpcError::new(Code::Unimplemented, format!("no such method: {method}")))
}

/// Collects a body of at most `limit` bytes.
pub(crate) async fn read_limited(mut body: SharedBody, limit: usize) -> Result<Bytes, RpcError> {
    let mut collected = BytesMut::new();
    let mut place = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| RpcError::new(Code::Canceled, "the request ended before it was complete"))?;
        let Ok(piece) = frame.into_data() else { continue };
        let size = collected.len().saturating_add(piece.len());
        if size > limit {
            return Err(RpcError::new(
                Code::ResourceExhausted,
                format!("the request is larger than the limit of {limit} bytes"),
            ));
        }
        if size > SMALL_BODY_BYTES && place.is_none() {
            place = Some(LARGE_BODIES.acquire().await);
        }
        collected.extend_from_slice(&piece);
    }
    Ok(collected.freeze())
}

fn has_type(headers: &HeaderMap, wanted: &str) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|value| value.trim().eq_ignore_ascii_case(wanted))
}

fn unsupported_type(wanted: &str) -> Reply {
    let message = format!("this method takes only {wanted}");
    body::error(StatusCode::UNSUPPORTED_MEDIA_TYPE, message)
}
