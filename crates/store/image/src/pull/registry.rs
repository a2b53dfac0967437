//! A registry: requests to it, their authorization, and answers read no further than a limit.

use std::sync::Once;
use std::time::Duration;

use oci_spec::distribution::Reference;
use reqwest::header::{ACCEPT, WWW_AUTHENTICATE};
use reqwest::{Client, Response, StatusCode};
use tokio::sync::Mutex;

use crate::digest::Digest;
use crate::pull::PullError;
use crate::pull::auth::{Authorization, Challenge, Credentials, Token, token_url};
use crate::pull::manifest::{self, cut};

/// How long to wait for a connection, and for the next bytes of an answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Registries send blobs to one other host, seldom by way of a second.
const MAX_REDIRECTS: usize = 5;
/// Longest answer of a token service.
const MAX_TOKEN_BYTES: u64 = 1024 * 1024;

/// One repository of a registry.
pub(crate) struct Registry {
    client: Client,
    name: String,
    base: String,
    repository: String,
    credentials: Option<Credentials>,
    is_plain: bool,
    authorization: Mutex<Authorization>,
}

impl Registry {
    /// Sets up requests for `reference`. Loopback registries are spoken to in the clear, others only with `plain_http`.
    pub(crate) fn new(
        reference: &Reference,
        credentials: Option<Credentials>,
        plain_http: bool,
    ) -> Result<Self, PullError> {
        // reqwest asks for a provider when it is built without its own. Somebody else may have chosen one: then that's it.
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let name = reference.resolve_registry().to_owned();
        let is_loopback = is_loopback(&name);
        let is_plain = plain_http || is_loopback;
        let redirects = reqwest::redirect::Policy::custom(move |attempt| {
            let is_downgrade = attempt.url().scheme() != "https" && !is_plain;
            if is_downgrade || attempt.previous().len() > MAX_REDIRECTS {
                attempt.stop()
            } else {
                attempt.follow()
            }
        });
        let mut client = Client::builder()
            .user_agent(concat!("ringwall/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .redirect(redirects);
        if is_loopback {
            client = client.no_proxy();
        }
        let scheme = if is_plain { "http" } else { "https" };
        Ok(Registry {
            client: client.build().map_err(PullError::Client)?,
            base: format!("{scheme}://{name}/v2/{}", reference.repository()),
            name,
            repository: reference.repository().to_owned(),
            credentials,
            is_plain,
            authorization: Mutex::default(),
        })
    }

    /// Fetches a manifest by tag or digest, at most `limit` bytes of it.
    pub(crate) async fn manifest(&self, tag: &str, limit: u64) -> Result<Vec<u8>, PullError> {
        let what = || format!("{}:{tag}", self.repository);
        let response = self.get(&format!("manifests/{tag}"), what).await?;
        self.read(response, "manifest", limit).await
    }

    /// Begins to fetch a blob.
    pub(crate) async fn blob(&self, digest: &Digest) -> Result<Response, PullError> {
        self.get(&format!("blobs/{digest}"), || format!("blob {digest}")).await
    }

    pub(crate) fn http(&self, source: reqwest::Error) -> PullError {
        PullError::Http {
            registry: self.name.clone(),
            // The address may carry a signature that gives access to the blob.
            source: source.without_url(),
        }
    }

    /// Reads an answer of at most `limit` bytes.
    pub(crate) async fn read(
        &self,
        mut response: Response,
        what: &'static str,
        limit: u64,
    ) -> Result<Vec<u8>, PullError> {
        let mut data = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.http(error))? {
            if (data.len() as u64).saturating_add(chunk.len() as u64) > limit {
                return Err(PullError::TooLong { what, limit });
            }
            data.extend_from_slice(&chunk);
        }
        Ok(data)
    }

    async fn get(&self, path: &str, what: impl Fn() -> String) -> Result<Response, PullError> {
        let url = format!("{}/{path}", self.base);
        let send = async |authorization: Authorization| {
            let request = self.client.get(&url).header(ACCEPT, manifest::ACCEPT);
            authorization
                .apply(request)
                .send()
                .await
                .map_err(|error| self.http(error))
        };
        let authorization = self.authorization.lock().await.clone();
        let mut response = send(authorization).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let authorization = self.authorize(&response).await?;
            response = send(authorization).await?;
        }
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::NOT_FOUND => Err(PullError::NotFound {
                registry: self.name.clone(),
                what: what(),
            }),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self.denied()),
            status => Err(PullError::Status {
                registry: self.name.clone(),
                what: what(),
                status: status.as_u16(),
            }),
        }
    }

    fn denied(&self) -> PullError {
        let (registry, repository) = (self.name.clone(), self.repository.clone());
        match &self.credentials {
            Some(credentials) => PullError::CredentialsRefused {
                registry,
                repository,
                user: credentials.user.clone(),
            },
            None => PullError::CredentialsWanted { registry, repository },
        }
    }

    /// Answers a challenge, and keeps the answer for the requests that follow.
    async fn authorize(&self, response: &Response) -> Result<Authorization, PullError> {
        let headers = response.headers().get_all(WWW_AUTHENTICATE);
        let headers: Vec<&str> = headers.iter().filter_map(|header| header.to_str().ok()).collect();
        let unknown = || PullError::Challenge {
            registry: self.name.clone(),
            challenge: cut(&headers.join(", ")),
        };
        let challenge = headers
            .iter()
            .find_map(|header| Challenge::parse(header))
            .ok_or_else(unknown)?;
        let authorization = match challenge {
            Challenge::Basic => Authorization::Basic(self.credentials.clone().ok_or_else(|| self.denied())?),
            Challenge::Bearer { realm, service } => {
                let url = token_url(&realm, service.as_deref(), &self.repository, self.is_plain).ok_or_else(unknown)?;
                let mut request = self.client.get(url);
                if let Some(credentials) = &self.credentials {
                    request = request.basic_auth(&credentials.user, Some(&credentials.password));
                }
                let response = request.send().await.map_err(|error| self.http(error))?;
                if !response.status().is_success() {
                    return Err(self.denied());
                }
                let data = self.read(response, "token", MAX_TOKEN_BYTES).await?;
                let token: Token =
                    serde_json::from_slice(&data).map_err(|source| PullError::Malformed { what: "token", source })?;
                Authorization::Bearer(token.into_text().ok_or_else(|| self.denied())?)
            }
        };
        self.authorization.lock().await.clone_from(&authorization);
        Ok(authorization)
    }
}

/// Whether a registry's name, possibly with a port, is this machine's.
fn is_loopback(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => registry,
    };
    let is_address = host
        .parse::<std::net::Ipv4Addr>()
        .is_ok_and(|address| address.is_loopback());
    is_address || host.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_for_registries_elsewhere_can_be_set_up() {
        let reference: Reference = "registry.example/x".parse().expect("valid");
        let registry = Registry::new(&reference, None, false).expect("TLS is set up");
        assert_eq!(registry.base, "https://registry.example/v2/x");
        let registry = Registry::new(&reference, None, true).expect("set up");
        assert_eq!(registry.base, "http://registry.example/v2/x");
        let hub: Reference = "alpine".parse().expect("valid");
        let registry = Registry::new(&hub, None, false).expect("set up");
        // Where a bare name leads is the reference parser's to know.
        assert!(
            registry.base.starts_with("https://") && registry.base.ends_with("/v2/library/alpine"),
            "{}",
            registry.base
        );
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for name in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.1.2.3"] {
            assert!(is_loopback(name), "{name}");
        }
        for name in [
            "localhost.example",
            "127.0.0.1.example:80",
            "10.0.0.1",
            "registry.example",
            "128.0.0.1:127",
        ] {
            assert!(!is_loopback(name), "{name}");
        }
    }
}
