//! What the service says to a request. Knows no sockets.

use std::net::Ipv4Addr;
use std::sync::PoisonError;
use std::time::Instant;

use ringwall_vmm_proto::mmds_store::{MetadataFormat, ReadMetadataError, SharedStore};
use ringwall_vmm_proto::{MmdsConfig, MmdsVersion};

use crate::request::{Method, Request};
use crate::response::{Kind, Response};
use crate::token::{Tokens, Ttl};

/// Where tokens are asked for (docs/mmds/mmds-user-guide.md).
const TOKEN_PATH: [&str; 3] = ["latest", "api", "token"];

/// The service of one machine, on all of its network cards.
#[derive(Debug)]
pub struct Service {
    store: SharedStore,
    tokens: Tokens,
    address: Ipv4Addr,
    needs_token: bool,
    is_always_text: bool,
}

impl Service {
    /// The service as it is configured, with a new key for its tokens.
    ///
    /// # Errors
    /// What getrandom(2) says.
    pub fn new(config: &MmdsConfig, store: SharedStore) -> std::io::Result<Self> {
        Ok(Self {
            store,
            tokens: Tokens::new(Instant::now())?,
            address: config.ipv4_address,
            needs_token: config.version == MmdsVersion::V2,
            is_always_text: config.imds_compat,
        })
    }

    /// Where it is.
    pub(crate) const fn address(&self) -> Ipv4Addr {
        self.address
    }

    pub(crate) fn answer(&self, request: &Request, now: Instant) -> Response {
        match request.method {
            Method::Get => self.get(request, now),
            Method::Put => self.put(request, now),
            Method::Head | Method::Other => Response {
                is_allow: true,
                ..Response::refusal(405, &"only GET and PUT are answered")
            },
        }
    }

    fn get(&self, request: &Request, now: Instant) -> Response {
        if self.needs_token {
            match &request.token {
                None => return Response::refusal(401, &"the request has no token; PUT /latest/api/token gives one"),
                Some(token) if !self.tokens.is_good(token, now) => {
                    return Response::refusal(401, &"the token is not valid, or not any more");
                }
                Some(_) => {}
            }
        }
        let is_json = request.wants_json && !self.is_always_text;
        let (format, kind) = if is_json {
            (MetadataFormat::Json, Kind::Json)
        } else {
            (MetadataFormat::Imds, Kind::Text)
        };
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        match store.read(&request.path, format) {
            Ok(body) => Response::ok(body, kind),
            Err(error @ ReadMetadataError::NotFound) => Response::refusal(404, &error),
            Err(error @ ReadMetadataError::NoText) => Response::refusal(501, &error),
        }
    }

    fn put(&self, request: &Request, now: Instant) -> Response {
        // What a proxy passes on may come from anywhere (as EC2's service has it).
        if request.is_forwarded {
            return Response::refusal(400, &"a request with X-Forwarded-For gets no token");
        }
        if !request.path.split('/').filter(|part| !part.is_empty()).eq(TOKEN_PATH) {
            return Response::refusal(404, &"only /latest/api/token can be PUT");
        }
        let Some((field, ttl)) = &request.ttl else {
            return Response::refusal(
                400,
                &"how long the token shall be good goes into X-metadata-token-ttl-seconds",
            );
        };
        let Some(ttl) = Ttl::parse(ttl) else {
            return Response::refusal(400, &"a token is good for 1 to 21600 seconds");
        };
        Response {
            ttl: Some((*field, ttl)),
            ..Response::ok(self.tokens.issue(ttl, now), Kind::Text)
        }
    }
}

/// Fills a buffer with random bytes.
pub(crate) fn fill_random(buffer: &mut [u8]) -> rustix::io::Result<()> {
    // Up to 256 bytes come whole (getrandom(2)).
    let got = rustix::rand::getrandom(&mut *buffer, rustix::rand::GetRandomFlags::empty())?;
    if got == buffer.len() {
        Ok(())
    } else {
        Err(rustix::io::Errno::IO)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::request::TtlField;
    use crate::tests::support::service;

    fn get(path: &str, token: Option<&str>) -> Request {
        Request {
            path: path.to_owned(),
            token: token.map(str::to_owned),
            ..Request::default()
        }
    }

    fn put(path: &str, ttl: &str) -> Request {
        Request {
            method: Method::Put,
            path: path.to_owned(),
            ttl: Some((TtlField::Ec2, ttl.to_owned())),
            ..Request::default()
        }
    }

    fn said(service: &Service, request: &Request) -> (u16, String) {
        let response = service.answer(request, Instant::now());
        (response.status, response.body)
    }

    #[test]
    fn without_a_token_version_2_says_nothing() {
        let service = service(MmdsVersion::V2, false, r#"{"a": "secret"}"#);
        let now = Instant::now();
        for token in [None, Some(""), Some("abc")] {
            let response = service.answer(&get("/a", token), now);
            assert_eq!(response.status, 401);
            assert!(!response.body.contains("secret"));
            // Not even whether it is there.
            assert_eq!(service.answer(&get("/b", token), now), response);
        }
        let issued = service.answer(&put("/latest/api/token", "5"), now);
        assert_eq!(issued.status, 200);
        assert_eq!(
            issued.ttl.map(|(field, ttl)| (field, ttl.seconds())),
            Some((TtlField::Ec2, 5))
        );
        let with = get("/a", Some(&issued.body));
        assert_eq!(
            service.answer(&with, now),
            Response::ok("secret".to_owned(), Kind::Text)
        );
        let later = now + Duration::from_secs(5);
        assert_eq!(service.answer(&with, later).status, 401);
    }

    #[test]
    fn version_1_needs_no_token_and_looks_at_none() {
        let service = service(MmdsVersion::V1, false, r#"{"a": "b"}"#);
        for token in [None, Some("abc")] {
            assert_eq!(said(&service, &get("/a", token)), (200, "b".to_owned()));
        }
        assert_eq!(said(&service, &put("//latest/api/token/", "21600")).0, 200);
    }

    #[test]
    fn tokens_that_are_not_given() {
        for version in [MmdsVersion::V1, MmdsVersion::V2] {
            let service = service(version, false, "{}");
            for ttl in ["0", "21601", "", "x"] {
                assert_eq!(said(&service, &put("/latest/api/token", ttl)).0, 400);
            }
            let without = Request {
                ttl: None,
                ..put("/latest/api/token", "")
            };
            assert_eq!(said(&service, &without).0, 400);
            let forwarded = Request {
                is_forwarded: true,
                ..put("/latest/api/token", "5")
            };
            assert_eq!(said(&service, &forwarded).0, 400);
            for path in ["/", "/latest/api", "/latest/api/token/x", "/a"] {
                assert_eq!(said(&service, &put(path, "5")).0, 404);
            }
            for method in [Method::Head, Method::Other] {
                let other = Request {
                    method,
                    ..get("/", None)
                };
                let response = service.answer(&other, Instant::now());
                assert_eq!((response.status, response.is_allow), (405, true));
            }
        }
    }

    #[test]
    fn formats() {
        let store = r#"{"a": {"b": "c", "d": 5}}"#;
        let json = |path: &str| Request {
            wants_json: true,
            ..get(path, None)
        };
        let plain = service(MmdsVersion::V1, false, store);
        assert_eq!(
            plain.answer(&json("/a"), Instant::now()),
            Response::ok(r#"{"b":"c","d":5}"#.to_owned(), Kind::Json)
        );
        assert_eq!(said(&plain, &json("/a/d")), (200, "5".to_owned()));
        assert_eq!(said(&plain, &get("/a/", None)), (200, "b\nd".to_owned()));
        assert_eq!(said(&plain, &get("/a/d", None)).0, 501);
        assert_eq!(said(&plain, &get("/a/e", None)).0, 404);
        assert_eq!(said(&plain, &json("/a/e")).0, 404);
        // As EC2 has it: text, whatever is asked for.
        let compat = service(MmdsVersion::V1, true, store);
        assert_eq!(
            compat.answer(&json("/a"), Instant::now()),
            Response::ok("b\nd".to_owned(), Kind::Text)
        );
    }
}
