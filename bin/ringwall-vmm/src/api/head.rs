//! The head of a request: bytes to method, target and the length of the body (RFC 9112).

use ringwall_vmm_proto::Method;

/// Longest head in bytes, request line and all fields.
pub(crate) const MAX_HEAD_BYTES: usize = 8 * 1024;

/// Most fields in a head.
const MAX_FIELDS: usize = 64;

/// A checked head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    /// What is to be done; `None` if nothing here can be done so.
    pub(crate) method: Option<Method>,
    /// The method's name, as sent.
    pub(crate) method_name: String,
    /// The path, or a whole URI.
    pub(crate) target: String,
    /// The body's length in bytes.
    pub(crate) body_bytes: usize,
    /// Whether the client waits for leave to send the body.
    pub(crate) expects_continue: bool,
    /// Whether another request may follow on this connection.
    pub(crate) keeps_alive: bool,
    /// Length of the head itself.
    pub(crate) head_bytes: usize,
}

/// Why a head isn't one. The connection can't be used after it, since nobody knows where the next request starts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeadError {
    /// It isn't HTTP.
    #[error("that is no HTTP/1 request: {0}")]
    Malformed(httparse::Error),
    /// It is too long.
    #[error("the head of the request is longer than {MAX_HEAD_BYTES} bytes")]
    TooLong,
    /// The length of the body can't be read, or is said twice.
    #[error("Content-Length isn't one number")]
    BadLength,
    /// The body would come in pieces of its own lengths.
    #[error("a body needs a Content-Length; Transfer-Encoding isn't supported")]
    TransferEncoding,
    /// The body is too long.
    #[error("the body has {got} bytes; at most {max}")]
    BodyTooLong {
        /// As announced.
        got: u64,
        /// The bound.
        max: usize,
    },
    /// The client expects what isn't done.
    #[error("only 100-continue can be expected")]
    Expectation,
}

impl HeadError {
    /// The status to answer with.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Malformed(_) | Self::TooLong | Self::BadLength => 400,
            Self::TransferEncoding => 411,
            Self::BodyTooLong { .. } => 413,
            Self::Expectation => 417,
        }
    }
}

/// Reads a head from the start of `bytes`. `None`: it isn't complete yet.
pub(crate) fn read(bytes: &[u8], max_body_bytes: usize) -> Result<Option<Head>, HeadError> {
    let seen = bytes.get(..MAX_HEAD_BYTES).unwrap_or(bytes);
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let head_bytes = match request.parse(seen).map_err(HeadError::Malformed)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial if bytes.len() >= MAX_HEAD_BYTES => return Err(HeadError::TooLong),
        httparse::Status::Partial => return Ok(None),
    };
    let method_name = request.method.unwrap_or_default().to_owned();
    let mut head = Head {
        method: Method::parse(&method_name),
        method_name,
        target: request.path.unwrap_or_default().to_owned(),
        body_bytes: 0,
        expects_continue: false,
        // RFC 9112 §9.3 has it for 1.1 only. But Firecracker keeps connections of 1.0 too, and clients rely on it: firecracker-rs-sdk
        // speaks 1.0 and sends all its requests on one connection.
        keeps_alive: true,
        head_bytes,
    };
    let mut length = None;
    for field in request.headers.iter() {
        head.take_field(field, &mut length)?;
    }
    let length = length.unwrap_or(0);
    head.body_bytes = match usize::try_from(length) {
        Ok(bytes) if bytes <= max_body_bytes => bytes,
        _ => {
            return Err(HeadError::BodyTooLong {
                got: length,
                max: max_body_bytes,
            });
        }
    };
    Ok(Some(head))
}

impl Head {
    fn take_field(&mut self, field: &httparse::Header<'_>, length: &mut Option<u64>) -> Result<(), HeadError> {
        if field.name.eq_ignore_ascii_case("content-length") {
            let this = number(field.value).ok_or(HeadError::BadLength)?;
            if length.is_some() {
                // Two lengths are how requests are smuggled past whoever reads the other one.
                return Err(HeadError::BadLength);
            }
            *length = Some(this);
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(HeadError::TransferEncoding);
        } else if field.name.eq_ignore_ascii_case("expect") {
            if !field.value.trim_ascii().eq_ignore_ascii_case(b"100-continue") {
                return Err(HeadError::Expectation);
            }
            self.expects_continue = true;
        } else if field.name.eq_ignore_ascii_case("connection") {
            for option in field.value.split(|byte| *byte == b',') {
                let option = option.trim_ascii();
                if option.eq_ignore_ascii_case(b"close") {
                    self.keeps_alive = false;
                } else if option.eq_ignore_ascii_case(b"keep-alive") {
                    self.keeps_alive = true;
                }
            }
        }
        Ok(())
    }
}

/// Digits and nothing else (RFC 9110 §8.6). More than fit are a large number, so that the answer is about the size.
fn number(value: &[u8]) -> Option<u64> {
    let digits = value.trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits.iter().fold(0_u64, |sum, digit| {
        sum.saturating_mul(10)
            .saturating_add(u64::from(digit.saturating_sub(b'0')))
    });
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(text: &str) -> Result<Option<Head>, HeadError> {
        read(text.as_bytes(), 100)
    }

    #[test]
    fn a_whole_head_is_read() {
        let text = "PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length:  7 \r\nExpect: 100-Continue\r\n\r\n{}";
        let head = head(text).unwrap().unwrap();
        assert_eq!(head.method, Some(Method::Put));
        assert_eq!((head.target.as_str(), head.body_bytes), ("/x", 7));
        assert!(head.expects_continue && head.keeps_alive);
        assert_eq!(head.head_bytes, text.len() - 2);
    }

    #[test]
    fn connections_are_kept_unless_the_client_says_otherwise() {
        let keeps = |version: &str, field: &str| {
            head(&format!("GET / HTTP/{version}\r\n{field}\r\n"))
                .unwrap()
                .unwrap()
                .keeps_alive
        };
        assert!(keeps("1.1", ""));
        assert!(keeps("1.0", ""));
        assert!(!keeps("1.0", "Connection: close\r\n"));
        assert!(!keeps("1.1", "Connection: foo, Close\r\n"));
        assert!(keeps("1.0", "connection: Keep-Alive\r\n"));
    }

    #[test]
    fn lengths_are_one_number() {
        let with = |fields: &str| head(&format!("PUT / HTTP/1.1\r\n{fields}\r\n"));
        for bad in [
            "Content-Length: +1",
            "Content-Length: -1",
            "Content-Length: 1 2",
            "Content-Length: 0x1",
            "Content-Length:",
        ] {
            assert_eq!(with(&format!("{bad}\r\n")), Err(HeadError::BadLength), "{bad}");
        }
        assert_eq!(
            with("Content-Length: 1\r\nContent-Length: 1\r\n"),
            Err(HeadError::BadLength)
        );
        assert_eq!(
            with("Content-Length: 101\r\n"),
            Err(HeadError::BodyTooLong { got: 101, max: 100 })
        );
        assert_eq!(
            with("Content-Length: 99999999999999999999999\r\n"),
            Err(HeadError::BodyTooLong {
                got: u64::MAX,
                max: 100
            })
        );
        assert_eq!(with("Transfer-Encoding: chunked\r\n"), Err(HeadError::TransferEncoding));
        assert_eq!(with("Expect: tea\r\n"), Err(HeadError::Expectation));
    }

    #[test]
    fn long_and_odd_heads_are_refused() {
        assert_eq!(head(&"a".repeat(MAX_HEAD_BYTES)), Err(HeadError::TooLong));
        assert_eq!(head("GET / HTTP/1.1\r\nA: b\r\n"), Ok(None));
        assert!(matches!(head("GET / HTTP/2.0\r\n\r\n"), Err(HeadError::Malformed(_))));
        assert!(matches!(head("\x16\x03\x01"), Err(HeadError::Malformed(_))));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(65));
        assert!(matches!(head(&many), Err(HeadError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_head_or_none(bytes in prop::collection::vec(any::<u8>(), 0..300), max in 0_usize..200) {
            if let Ok(Some(head)) = read(&bytes, max) {
                prop_assert!(head.head_bytes <= bytes.len());
                prop_assert!(head.body_bytes <= max);
            }
        }

        #[test]
        fn a_head_that_comes_in_parts_is_the_same(fields in prop::collection::vec(("[a-zA-Z-]{1,12}", "[ -~]{0,12}"), 0..8), cut in 0_usize..200) {
            let mut text = "PUT /path HTTP/1.1\r\n".to_owned();
            for (name, value) in &fields {
                text.push_str(&format!("{name}: {value}\r\n"));
            }
            text.push_str("\r\n");
            let part = text.get(..cut).unwrap_or(&text);
            if part.len() < text.len() {
                // A part is never taken for a whole; it may be refused already.
                prop_assert!(!matches!(read(part.as_bytes(), 100), Ok(Some(_))));
            }
            let more = format!("{text}whatever follows");
            prop_assert_eq!(read(text.as_bytes(), 100), read(more.as_bytes(), 100));
        }
    }
}
