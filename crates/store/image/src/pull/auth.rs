//! Answers a registry's challenge: HTTP Basic, or a token from the service that the registry names (distribution-spec; Docker's "Token
//! Authentication Specification").

use reqwest::Url;
use serde::Deserialize;

/// Name and password for a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The password or token.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Credentials")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// What a registry wants to see.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

/// What is sent along with every request.
#[derive(Clone, Default)]
pub(crate) enum Authorization {
    #[default]
    None,
    Basic(Credentials),
    Bearer(String),
}

impl Authorization {
    pub(crate) fn apply(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match self {
            Authorization::None => request,
            Authorization::Basic(credentials) => request.basic_auth(&credentials.user, Some(&credentials.password)),
            Authorization::Bearer(token) => request.bearer_auth(token),
        }
    }
}

/// The token service's answer; both names are in use.
#[derive(Deserialize)]
pub(crate) struct Token {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
}

impl Token {
    pub(crate) fn into_text(self) -> Option<String> {
        self.token.or(self.access_token).filter(|token| !token.is_empty())
    }
}

impl Challenge {
    /// Reads a `WWW-Authenticate` header (RFC 9110 §11.6.1); `None` if it asks for what isn't known.
    pub(crate) fn parse(header: &str) -> Option<Self> {
        let (scheme, parameters) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Challenge::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service) = (None, None);
        let mut rest = parameters.trim_start();
        while !rest.is_empty() {
            let (name, after) = rest.split_once('=')?;
            let (value, after) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_at(after.find(',').unwrap_or(after.len())),
            };
            match name.trim().to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value.to_owned()),
                "service" => service = Some(value.to_owned()),
                _ => {}
            }
            rest = after.trim_start().trim_start_matches(',').trim_start();
        }
        Some(Challenge::Bearer { realm: realm?, service })
    }
}

/// Builds the request to a token service; `None` if its address can't be used. Credentials go out in the clear only where the registry
/// itself is spoken to in the clear.
pub(crate) fn token_url(realm: &str, service: Option<&str>, repository: &str, allows_http: bool) -> Option<Url> {
    let mut url = Url::parse(realm).ok()?;
    if url.scheme() != "https" && !(allows_http && url.scheme() == "http") {
        return None;
    }
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = service {
            query.append_pair("service", service);
        }
        query.append_pair("scope", &format!("repository:{repository}:pull"));
    }
    Some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let header = r#"Bearer realm="https://auth.example/token",service="registry, one",scope="repository:x:pull""#;
        assert_eq!(
            Challenge::parse(header),
            Some(Challenge::Bearer {
                realm: "https://auth.example/token".to_owned(),
                service: Some("registry, one".to_owned())
            })
        );
        assert_eq!(Challenge::parse("Basic realm=x"), Some(Challenge::Basic));
        for odd in ["", "Negotiate", "Bearer", "Bearer realm=\"open", "Bearer service=x"] {
            assert_eq!(Challenge::parse(odd), None, "{odd}");
        }
    }

    #[test]
    fn tokens_come_over_https() {
        let url = token_url("https://a.example/t?x=1", Some("s"), "r/e", false).expect("usable");
        assert_eq!(
            url.as_str(),
            "https://a.example/t?x=1&service=s&scope=repository%3Ar%2Fe%3Apull"
        );
        assert!(token_url("http://a.example/t", None, "r", false).is_none());
        assert!(token_url("http://a.example/t", None, "r", true).is_some());
        assert!(token_url("file:///etc/passwd", None, "r", true).is_none());
    }

    #[test]
    fn passwords_are_not_printed() {
        let credentials = Credentials {
            user: "me".to_owned(),
            password: "secret".to_owned(),
        };
        assert!(!format!("{credentials:?}").contains("secret"));
    }
}
