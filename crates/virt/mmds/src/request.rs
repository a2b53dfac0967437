//! A request: bytes of the guest to what it asks for (RFC 9112). Only what the service needs is kept.

use std::str;

/// Longest request in bytes, head and body.
pub(crate) const MAX_REQUEST_BYTES: usize = 4096;
/// Most fields in a head.
const MAX_FIELDS: usize = 32;

/// What a guest asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: Method,
    /// The path, without what may be before and behind it in the target.
    pub(crate) path: String,
    /// It would have JSON.
    pub(crate) wants_json: bool,
    /// The token that it shows.
    pub(crate) token: Option<String>,
    /// How long the token that it asks for shall be good, and by which field.
    pub(crate) ttl: Option<(TtlField, String)>,
    /// Somebody passed it on.
    pub(crate) is_forwarded: bool,
    /// Another request may follow.
    pub(crate) keeps_alive: bool,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Method {
    #[default]
    Get,
    Put,
    /// Not answered, not even with a body: its client would take that for the next answer.
    Head,
    Other,
}

/// The field that says how long a token is good, by the name that the client knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TtlField {
    /// Firecracker's.
    Plain,
    /// EC2's.
    Ec2,
}

impl TtlField {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "X-metadata-token-ttl-seconds",
            Self::Ec2 => "X-aws-ec2-metadata-token-ttl-seconds",
        }
    }
}

/// The fields of a token (docs/mmds/mmds-user-guide.md).
const TOKEN_FIELDS: [&str; 2] = ["X-metadata-token", "X-aws-ec2-metadata-token"];

/// Why bytes are no request. Nobody knows where the next one begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadRequest {
    /// It isn't HTTP.
    #[error("that is no HTTP/1 request")]
    Malformed,
    /// A field that is said once is said twice, or the values of a field aren't text.
    #[error("a field of the request can't be read")]
    Field,
    /// The body's length is not told, or in pieces of their own.
    #[error("a body needs one Content-Length")]
    Length,
    /// It is too long.
    #[error("a request has at most {MAX_REQUEST_BYTES} bytes")]
    TooLong,
}

impl BadRequest {
    pub(crate) const fn status(self) -> u16 {
        match self {
            Self::TooLong => 413,
            Self::Malformed | Self::Field | Self::Length => 400,
        }
    }
}

/// Takes a request out of what has come, if it has come whole; with how many bytes it has.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Request, usize)>, BadRequest> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut head = httparse::Request::new(&mut fields);
    let head_bytes = match head.parse(bytes) {
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Ok(httparse::Status::Partial) if bytes.len() >= MAX_REQUEST_BYTES => return Err(BadRequest::TooLong),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(BadRequest::TooLong),
        Err(_) => return Err(BadRequest::Malformed),
    };
    let (Some(method), Some(target), Some(version)) = (head.method, head.path, head.version) else {
        return Err(BadRequest::Malformed);
    };
    let mut request = Request {
        method: match method {
            "GET" => Method::Get,
            "PUT" => Method::Put,
            "HEAD" => Method::Head,
            _ => Method::Other,
        },
        path: path(target)?.to_owned(),
        // HTTP/1.1 goes on unless it says otherwise (RFC 9112 §9.3).
        keeps_alive: version == 1,
        ..Request::default()
    };
    let mut body_bytes = None;
    for field in head.headers.iter() {
        take_field(&mut request, &mut body_bytes, field.name, field.value)?;
    }
    let all = head_bytes.saturating_add(body_bytes.unwrap_or(0));
    if all > MAX_REQUEST_BYTES {
        return Err(BadRequest::TooLong);
    }
    // A body says nothing here, but the next request begins behind it.
    Ok((bytes.len() >= all).then_some((request, all)))
}

fn take_field(
    request: &mut Request,
    body_bytes: &mut Option<usize>,
    name: &str,
    value: &[u8],
) -> Result<(), BadRequest> {
    let is = |known: &str| name.eq_ignore_ascii_case(known);
    let text = || str::from_utf8(value).map(str::trim).map_err(|_| BadRequest::Field);
    let lists = |wanted: &str| -> Result<bool, BadRequest> {
        let mut items = text()?.split(',').map(|item| item.split(';').next().unwrap_or(item));
        Ok(items.any(|item| item.trim().eq_ignore_ascii_case(wanted)))
    };
    if is("Accept") {
        request.wants_json |= lists("application/json")?;
    } else if is("Connection") {
        request.keeps_alive = !lists("close")? && (request.keeps_alive || lists("keep-alive")?);
    } else if is("Content-Length") {
        let length = text()?;
        let is_number = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
        // One that does not fit is one that is too long.
        let length = is_number.then(|| length.parse().unwrap_or(usize::MAX));
        if length.is_none() || body_bytes.is_some() {
            return Err(BadRequest::Length);
        }
        *body_bytes = length;
    } else if is("Transfer-Encoding") {
        return Err(BadRequest::Length);
    } else if is("X-Forwarded-For") {
        request.is_forwarded = true;
    } else if TOKEN_FIELDS.iter().any(|known| is(known)) {
        once(&mut request.token, text()?.to_owned())?;
    } else if let Some(field) = [TtlField::Plain, TtlField::Ec2]
        .into_iter()
        .find(|field| is(field.name()))
    {
        once(&mut request.ttl, (field, text()?.to_owned()))?;
    }
    Ok(())
}

fn once<T>(place: &mut Option<T>, value: T) -> Result<(), BadRequest> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(BadRequest::Field),
    }
}

/// The path in a request's target: that of a whole URI too (RFC 9112 §3.2.2), without a query.
fn path(target: &str) -> Result<&str, BadRequest> {
    let path = match target.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => {
            rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/")
        }
        _ => target,
    };
    if !path.starts_with('/') {
        return Err(BadRequest::Malformed);
    }
    Ok(path.split('?').next().unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(text: &str) -> Request {
        let (request, bytes) = parse(text.as_bytes()).unwrap().expect("it is whole");
        assert_eq!(bytes, text.len());
        request
    }

    #[test]
    fn what_is_asked_for() {
        assert_eq!(
            whole("GET /latest/meta-data HTTP/1.1\r\nHost: x\r\n\r\n"),
            Request {
                path: "/latest/meta-data".to_owned(),
                keeps_alive: true,
                ..Request::default()
            }
        );
        let put =
            whole("PUT /latest/api/token HTTP/1.1\r\nx-metadata-token-TTL-seconds: 60 \r\nContent-Length: 0\r\n\r\n");
        assert_eq!(put.method, Method::Put);
        assert_eq!(put.ttl, Some((TtlField::Plain, "60".to_owned())));
        let alias = whole(
            "PUT /t HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: 5\r\nX-Forwarded-For: 1.1.1.1\r\nContent-Length: 3\r\n\r\nabc",
        );
        assert_eq!(alias.ttl, Some((TtlField::Ec2, "5".to_owned())));
        assert!(alias.is_forwarded);
        for field in TOKEN_FIELDS {
            let get = whole(&format!("GET / HTTP/1.1\r\n{field}: abc\r\n\r\n"));
            assert_eq!(get.token.as_deref(), Some("abc"));
        }
        assert_eq!(whole("HEAD / HTTP/1.1\r\n\r\n").method, Method::Head);
        assert_eq!(whole("PATCH / HTTP/1.1\r\n\r\n").method, Method::Other);
        // Two requests at once: the first is taken.
        let both = b"GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n";
        let (first, bytes) = parse(both).unwrap().unwrap();
        assert_eq!((first.path.as_str(), bytes), ("/a", 19));
    }

    #[test]
    fn targets() {
        for (target, expected) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a?b=/c", "/a"),
            ("http://169.254.169.254/a", "/a"),
            ("HTTP://x", "/"),
            ("/a://b", "/a://b"),
        ] {
            assert_eq!(whole(&format!("GET {target} HTTP/1.1\r\n\r\n")).path, expected);
        }
        for bad in ["a", "*", "ftp://x/y"] {
            assert_eq!(
                parse(format!("GET {bad} HTTP/1.1\r\n\r\n").as_bytes()),
                Err(BadRequest::Malformed)
            );
        }
    }

    #[test]
    fn what_may_follow() {
        for (version, field, keeps_alive) in [
            ("1.1", "Host: x", true),
            ("1.1", "Connection: close", false),
            ("1.1", "Connection: upgrade, Close", false),
            ("1.0", "Host: x", false),
            ("1.0", "Connection: Keep-Alive", true),
        ] {
            let request = whole(&format!("GET / HTTP/{version}\r\n{field}\r\n\r\n"));
            assert_eq!(request.keeps_alive, keeps_alive, "{version} {field}");
        }
    }

    #[test]
    fn what_is_accepted() {
        for (accept, wants_json) in [
            ("application/json", true),
            ("text/html, Application/JSON;q=0.9", true),
            ("*/*", false),
            ("plain/text", false),
            ("", false),
        ] {
            let request = whole(&format!("GET / HTTP/1.1\r\nAccept: {accept}\r\n\r\n"));
            assert_eq!(request.wants_json, wants_json, "{accept}");
        }
    }

    #[test]
    fn bad_requests() {
        let long = "x".repeat(MAX_REQUEST_BYTES);
        let many = "a: b\r\n".repeat(MAX_FIELDS + 1);
        for (text, expected) in [
            ("\u{1}\r\n\r\n", BadRequest::Malformed),
            ("GET / HTTP/2.0\r\n\r\n", BadRequest::Malformed),
            ("GET  HTTP/1.1\r\n\r\n", BadRequest::Malformed),
            (
                "PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
                BadRequest::Length,
            ),
            ("PUT / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", BadRequest::Length),
            (
                "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
                BadRequest::Length,
            ),
            (
                "PUT / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
                BadRequest::TooLong,
            ),
            ("PUT / HTTP/1.1\r\nContent-Length: 4096\r\n\r\n", BadRequest::TooLong),
            (
                "GET / HTTP/1.1\r\nX-metadata-token: a\r\nX-aws-ec2-metadata-token: b\r\n\r\n",
                BadRequest::Field,
            ),
            (&format!("GET /{long}"), BadRequest::TooLong),
            (&format!("GET / HTTP/1.1\r\n{many}\r\n"), BadRequest::TooLong),
        ] {
            assert_eq!(parse(text.as_bytes()), Err(expected), "{text:.80}");
        }
        assert_eq!(
            parse(b"GET / HTTP/1.1\r\nX-metadata-token: \xff\r\n\r\n"),
            Err(BadRequest::Field)
        );
    }

    #[test]
    fn a_request_in_pieces() {
        let text = "PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: 60\r\nContent-Length: 2\r\n\r\nab";
        for length in 0..text.len() {
            assert_eq!(parse(&text.as_bytes()[..length]), Ok(None), "{length}");
        }
        whole(text);
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(Some((_, taken))) = parse(&bytes) {
                prop_assert!(taken <= bytes.len() && taken > 0);
            }
        }

        #[test]
        fn almost_requests(start in "(GET|PUT|A) /[a-z/?:]{0,9} HTTP/1.[01]\r\n", rest in "([A-Za-z-]{1,16}: [ -~\u{e9}]{0,9}\r\n){0,4}\r?\n?.{0,9}") {
            let text = format!("{start}{rest}");
            if let Ok(Some((_, taken))) = parse(text.as_bytes()) {
                prop_assert!(taken <= text.len() && taken > 0);
            }
        }
    }
}
