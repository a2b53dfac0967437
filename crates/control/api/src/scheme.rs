//! Whether a client has reached us by `http` or `https`: that is how the URLs that it is given must begin.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use http::request::Parts;

use crate::app::App;

/// Said by a proxy before us that ends TLS. Anybody may say it, which changes nothing but the URLs that they themselves are given.
const FORWARDED: &str = "x-forwarded-proto";

/// A URL's scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

impl FromRequestParts<App> for Scheme {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Infallible> {
        let is_forwarded = || {
            let said = parts.headers.get(FORWARDED);
            said.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"https"))
        };
        // The connection says so only where it is TLS (`serve`).
        let own = parts.extensions.get::<Scheme>().copied().unwrap_or(Scheme::Http);
        Ok(if is_forwarded() { Scheme::Https } else { own })
    }
}
