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

    /// Only a connection that is TLS is marked (`serve`).
    fn of(parts: &Parts) -> Self {
        let said = parts.headers.get(FORWARDED);
        if said.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"https")) {
            return Scheme::Https;
        }
        parts.extensions.get::<Scheme>().copied().unwrap_or(Scheme::Http)
    }
}

impl FromRequestParts<App> for Scheme {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Infallible> {
        Ok(Scheme::of(parts))
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn of(builder: http::request::Builder) -> &'static str {
        Scheme::of(&builder.body(()).unwrap().into_parts().0).as_str()
    }

    #[test]
    fn the_connection_or_a_proxy_says_it() {
        assert_eq!(of(Request::builder()), "http");
        assert_eq!(of(Request::builder().extension(Scheme::Https)), "https");
        assert_eq!(of(Request::builder().header(FORWARDED, "HTTPS")), "https");
        assert_eq!(of(Request::builder().header(FORWARDED, "javascript")), "http");
    }
}
