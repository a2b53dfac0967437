//! HTTP clients, and what is made of answers that are errors.

use std::io::Read as _;
use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use http::StatusCode;
use reqwest::{Certificate, Client, ClientBuilder, RequestBuilder, Response, Url};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;

use super::error::CallError;

/// How long a connection may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// Names a file of the authorities (PEM) that sign servers' certificates.
pub(super) const CA_FILE: &str = "RINGWALL_CA_FILE";
/// Most that is read of it, in bytes; the whole of Mozilla's list has 230 KiB.
const MAX_CA_BYTES: u64 = 4 << 20;
/// Longest answer that is kept whole; a listing of 50,000 files takes 16 MiB.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// A builder of clients. There is no time limit on answers: a fork or an image may take minutes.
fn builder() -> ClientBuilder {
    // reqwest panics without a provider. Somebody else may have chosen one: then that's it.
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    Client::builder()
        .user_agent(concat!("ringwall/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_PATIENCE)
        .tcp_nodelay(true)
        // A key must not follow a redirect to somewhere else.
        .redirect(reqwest::redirect::Policy::none())
}

/// A client for a base URL, and for another of the data plane. Certificates to trust are read only where they are needed.
pub(crate) fn client(url: &Url, data_url: Option<&Url>) -> Result<Client, CallError> {
    let mut builder = builder();
    if [Some(url), data_url]
        .into_iter()
        .flatten()
        .any(|url| url.scheme() == "https")
    {
        if let Some(path) = std::env::var_os(CA_FILE).filter(|path| !path.is_empty()) {
            builder = builder.tls_certs_only(read_authorities(Path::new(&path))?);
        }
    } else {
        builder = builder.tls_certs_only([]);
    }
    let is_loopback = match url.host_str() {
        Some("localhost") => true,
        Some(host) => host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback()),
        None => false,
    };
    if is_loopback {
        builder = builder.no_proxy();
    }
    builder
        .build()
        .map_err(|error| CallError::unreachable(url.as_str().trim_end_matches('/'), error))
}

/// Reads the authorities to trust in place of the system's.
fn read_authorities(path: &Path) -> Result<Vec<Certificate>, CallError> {
    let refused = |source| CallError::CaFile {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_CA_BYTES).read_to_end(&mut bytes))
        .map_err(|error| refused(error.into()))?;
    let authorities: Vec<Certificate> = CertificateDer::pem_slice_iter(&bytes)
        .map(|read| match read {
            Ok(der) => Certificate::from_der(&der).map_err(Into::into),
            Err(error) => Err(error.to_string().into()),
        })
        .collect::<Result<_, Box<dyn std::error::Error + Send + Sync>>>()
        .map_err(refused)?;
    if authorities.is_empty() {
        return Err(refused("it holds no certificate in PEM form".into()));
    }
    Ok(authorities)
}

/// A client for a Unix socket, whatever the URL says.
pub(crate) fn unix_client(path: &Path) -> Result<Client, reqwest::Error> {
    builder().no_proxy().tls_certs_only([]).unix_socket(path).build()
}

/// An error's body, of the service, of its proxy or of the agent.
#[derive(Debug, Deserialize)]
struct ErrorBody {
    message: String,
}

/// Sends a request; an answer that is no success is an error.
pub(crate) async fn send(url: &str, request: RequestBuilder) -> Result<Response, CallError> {
    let response = send_any(url, request).await?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let bytes = read(url, response).await?;
    Err(refused(status, &bytes))
}

/// Sends a request and returns whatever is answered.
pub(crate) async fn send_any(url: &str, request: RequestBuilder) -> Result<Response, CallError> {
    request.send().await.map_err(|error| CallError::unreachable(url, error))
}

/// Makes an error of an answer.
pub(crate) fn refused(status: StatusCode, body: &[u8]) -> CallError {
    let message = match serde_json::from_slice::<ErrorBody>(body) {
        Ok(body) if !body.message.is_empty() => body.message,
        _ => format!("the server answers {status}"),
    };
    CallError::Refused { status, message }
}

/// Reads an answer to its end.
pub(crate) async fn read(url: &str, mut response: Response) -> Result<Vec<u8>, CallError> {
    let mut bytes = Vec::new();
    while let Some(piece) = response
        .chunk()
        .await
        .map_err(|error| CallError::unreachable(url, error))?
    {
        if bytes.len() + piece.len() > MAX_ANSWER_BYTES {
            return Err(CallError::Malformed {
                what: "a request",
                why: format!("it is longer than {MAX_ANSWER_BYTES} bytes"),
            });
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}
