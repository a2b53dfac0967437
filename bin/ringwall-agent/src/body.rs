//! What responses are made of: bytes at hand, a stream of frames, or a file read as the client takes it.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body::{Frame, SizeHint};
use ringwall_agent_proto::rest::ErrorBody;
use serde::Serialize;

use crate::files::download::FileStream;
use crate::rpc::stream::EventStream;

/// A whole response.
pub(crate) type Reply = Response<Body>;

/// Body of a response.
#[derive(Debug)]
pub(crate) enum Body {
    /// Bytes at hand; taken when sent.
    Full(Option<Bytes>),
    /// Frames of a Connect stream.
    Events(EventStream),
    /// A file.
    File(FileStream),
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        match self.get_mut() {
            Body::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Body::Events(stream) => stream.poll_next(context).map(|bytes| Some(Ok(Frame::data(bytes?)))),
            Body::File(stream) => stream
                .poll_next(context)
                .map(|bytes| bytes.map(|bytes| bytes.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Body::Events(_) => SizeHint::default(),
            Body::File(stream) => stream.size().map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

/// A response without a body.
pub(crate) fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(Body::Full(None));
    *reply.status_mut() = status;
    reply
}

/// A response in JSON.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Reply {
    // The messages are plain structs, which always serialize.
    let text = serde_json::to_vec(value).unwrap_or_default();
    let mut reply = Response::new(Body::Full(Some(text.into())));
    *reply.status_mut() = status;
    reply
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

/// An error outside the RPCs.
pub(crate) fn error(status: StatusCode, message: impl Into<String>) -> Reply {
    let body = ErrorBody {
        code: status.as_u16(),
        message: message.into(),
    };
    json(status, &body)
}
