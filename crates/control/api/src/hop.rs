//! Headers that are about one hop only (RFC 9110, section 7.6.1): whoever passes a message on takes them out, and sets its own.

use http::header::{CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Those that no `Connection` header need name. Bodies are framed anew on each hop.
const OF_ONE_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
];

/// What becomes of a wish to change the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upgrade {
    /// It is passed on.
    Kept,
    /// It is taken out.
    Dropped,
}

/// Removes what is about one hop only.
pub fn strip(headers: &mut HeaderMap, upgrade: Upgrade) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name| *name != UPGRADE)
        .collect();
    for name in named.iter().chain(&OF_ONE_HOP) {
        headers.remove(name);
    }
    match upgrade {
        Upgrade::Kept => drop(headers.insert(CONNECTION, HeaderValue::from_static("upgrade"))),
        Upgrade::Dropped => drop(headers.remove(UPGRADE)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("close, X-Secret, Upgrade"));
        headers.insert("x-secret", HeaderValue::from_static("1"));
        headers.insert("keep-alive", HeaderValue::from_static("1"));
        headers.insert("upgrade", HeaderValue::from_static("websocket"));
        headers.insert("x-kept", HeaderValue::from_static("1"));
        headers
    }

    #[test]
    fn headers_of_one_hop_are_removed() {
        let mut headers = example();
        strip(&mut headers, Upgrade::Dropped);
        assert_eq!(headers.len(), 1);
        assert!(headers.contains_key("x-kept"));
    }

    #[test]
    fn a_wish_to_upgrade_is_said_anew() {
        let mut headers = example();
        strip(&mut headers, Upgrade::Kept);
        assert_eq!(headers.len(), 3);
        assert_eq!(headers[CONNECTION], "upgrade");
        assert_eq!(headers[UPGRADE], "websocket");
    }
}
