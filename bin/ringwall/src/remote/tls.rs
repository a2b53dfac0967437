//! What went wrong with TLS, in words that say what to do.

use std::error::Error;

use rustls::{AlertDescription, CertificateError};
use thiserror::Error;

/// A handshake that failed.
#[derive(Debug, Clone, PartialEq, Error)]
pub(crate) enum TlsProblem {
    /// Nobody who is trusted has signed the certificate.
    #[error("its certificate is not signed by an authority that is trusted here")]
    UnknownAuthority,
    /// The certificate is for other names.
    #[error("its certificate is not for this name{}", list(presented))]
    WrongName { presented: Vec<String> },
    /// The certificate is too old, or this machine's clock is wrong.
    #[error("its certificate has expired, or this machine's clock is wrong")]
    Expired,
    /// The certificate is for the future, or this machine's clock is wrong.
    #[error("its certificate is not valid yet, or this machine's clock is wrong")]
    NotYet,
    /// Something else answers there.
    #[error("what answers there does not speak TLS")]
    NotTls,
    /// The other side ended the handshake.
    #[error("the server ended the TLS handshake: {0:?}")]
    Refused(AlertDescription),
    /// All else.
    #[error("{0}")]
    Other(rustls::Error),
}

/// Most names of a certificate that are shown: it may have hundreds.
const MAX_NAMES: usize = 5;

fn list(presented: &[String]) -> String {
    if presented.is_empty() {
        return String::new();
    }
    let shown: Vec<&str> = presented.iter().take(MAX_NAMES).map(String::as_str).collect();
    let more = if presented.len() > MAX_NAMES { ", …" } else { "" };
    format!(", but for {}{more}", shown.join(", "))
}

impl TlsProblem {
    /// Looks for one among an error's causes. An [`std::io::Error`] hides what it is made of from `source`.
    pub(super) fn find(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref::<rustls::Error>() {
                return Some(found.clone().into());
            }
            let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
            next = match inner {
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        None
    }

    /// What to do next.
    pub(super) fn hint(&self) -> &'static str {
        match self {
            TlsProblem::UnknownAuthority => {
                "RINGWALL_CA_FILE can name the certificate (PEM) of the authority that signs this server's"
            }
            TlsProblem::WrongName { .. } => "RINGWALL_URL must name the server by a name that its certificate is for",
            TlsProblem::Expired | TlsProblem::NotYet => {
                "compare `date` with the certificate's dates; a server reads a new one at SIGHUP"
            }
            TlsProblem::NotTls => "does its URL begin with http://?",
            TlsProblem::Refused(AlertDescription::InternalError) => {
                "it may have too many connections: try again in a moment"
            }
            TlsProblem::Refused(_) | TlsProblem::Other(_) => {
                "is it the server that RINGWALL_URL or E2B_API_URL is meant to name?"
            }
        }
    }
}

impl From<rustls::Error> for TlsProblem {
    fn from(error: rustls::Error) -> Self {
        match error {
            // A signature that fits no trusted key is that of another authority with the same name.
            rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
                TlsProblem::UnknownAuthority
            }
            rustls::Error::InvalidCertificate(CertificateError::NotValidForName) => {
                TlsProblem::WrongName { presented: Vec::new() }
            }
            rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }) => {
                TlsProblem::WrongName { presented }
            }
            rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
                TlsProblem::Expired
            }
            rustls::Error::InvalidCertificate(
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
            ) => TlsProblem::NotYet,
            rustls::Error::InvalidMessage(_) => TlsProblem::NotTls,
            rustls::Error::AlertReceived(alert) => TlsProblem::Refused(alert),
            other => TlsProblem::Other(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(error: rustls::Error) -> TlsProblem {
        // As it arrives: within an error of I/O, within others.
        let wrapped = std::io::Error::other(std::io::Error::new(std::io::ErrorKind::InvalidData, error));
        TlsProblem::find(&wrapped).unwrap()
    }

    #[test]
    fn problems_are_found_below_other_errors() {
        assert_eq!(
            found(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)),
            TlsProblem::UnknownAuthority
        );
        assert_eq!(
            found(rustls::Error::InvalidCertificate(CertificateError::Expired)),
            TlsProblem::Expired
        );
        assert_eq!(
            found(rustls::Error::InvalidMessage(
                rustls::InvalidMessage::InvalidContentType
            )),
            TlsProblem::NotTls
        );
        let busy = found(rustls::Error::AlertReceived(AlertDescription::InternalError));
        assert!(busy.hint().contains("connections"), "{busy}");
        assert_eq!(
            TlsProblem::find(&std::io::Error::from(std::io::ErrorKind::TimedOut)),
            None
        );
    }

    #[test]
    fn few_names_are_shown() {
        let presented: Vec<String> = (0..100).map(|n| format!("n{n}.test")).collect();
        let text = TlsProblem::WrongName { presented }.to_string();
        assert!(
            text.ends_with("n0.test, n1.test, n2.test, n3.test, n4.test, …"),
            "{text}"
        );
    }
}
