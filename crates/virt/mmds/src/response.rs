//! An answer, as bytes.

use crate::request::{BadRequest, TtlField};
use crate::token::Ttl;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: String,
    pub(crate) kind: Kind,
    /// The methods that there are.
    pub(crate) is_allow: bool,
    /// How long the token in the body is good, by the name that was used for asking.
    pub(crate) ttl: Option<(TtlField, Ttl)>,
}

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Json,
}

impl Response {
    pub(crate) const fn ok(body: String, kind: Kind) -> Self {
        Self {
            status: 200,
            body,
            kind,
            is_allow: false,
            ttl: None,
        }
    }

    pub(crate) fn refusal(status: u16, why: &dyn std::fmt::Display) -> Self {
        Self {
            status,
            ..Self::ok(why.to_string(), Kind::Text)
        }
    }

    /// Its bytes. Without `has_body` it still says how long the body would be (RFC 9110 §9.3.2).
    pub(crate) fn bytes(&self, keeps_alive: bool, has_body: bool) -> Vec<u8> {
        let mut text = format!(
            "HTTP/1.1 {} {}\r\nServer: Ringwall MMDS\r\n",
            self.status,
            reason(self.status)
        );
        let mut field = |name: &str, value: &dyn std::fmt::Display| {
            text.push_str(&format!("{name}: {value}\r\n"));
        };
        field("Connection", if keeps_alive { &"keep-alive" } else { &"close" });
        if self.is_allow {
            field("Allow", &"GET, PUT");
        }
        if let Some((name, ttl)) = self.ttl {
            field(name.name(), &ttl.seconds());
        }
        field(
            "Content-Type",
            match self.kind {
                Kind::Text => &"text/plain",
                Kind::Json => &"application/json",
            },
        );
        field("Content-Length", &self.body.len());
        text.push_str("\r\n");
        if has_body {
            text.push_str(&self.body);
        }
        text.into_bytes()
    }
}

impl From<BadRequest> for Response {
    fn from(error: BadRequest) -> Self {
        Self::refusal(error.status(), &error)
    }
}

/// RFC 9110 §15.
const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        404 => "Not Found",
        405 => "Method Not Allowed",
        413 => "Content Too Large",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_as_bytes() {
        let text = |response: &Response, keeps_alive, has_body| {
            String::from_utf8(response.bytes(keeps_alive, has_body)).unwrap()
        };
        assert_eq!(
            text(&Response::ok("{}".to_owned(), Kind::Json), true, true),
            "HTTP/1.1 200 OK\r\nServer: Ringwall MMDS\r\nConnection: keep-alive\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
        );
        let refused = Response {
            is_allow: true,
            ..Response::refusal(405, &"no")
        };
        assert_eq!(
            text(&refused, false, false),
            "HTTP/1.1 405 Method Not Allowed\r\nServer: Ringwall MMDS\r\nConnection: close\r\nAllow: GET, PUT\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n"
        );
    }
}
