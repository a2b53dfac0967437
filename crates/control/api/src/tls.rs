//! TLS: a certificate and its key, read from files and read again when the operator says so, and the handshake with a client.
//!
//! A handshake is bounded in time; the caller holds a place among the connections meanwhile. A client that speaks plain HTTP is told so in
//! plain HTTP, and nothing that it has sent is looked at.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use webpki::EndEntityCert;

/// Longest file read, in bytes; a chain of ten certificates has 20 KiB.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// How long a handshake may take: two round trips and a signature.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// How long somebody who speaks plain HTTP is listened to after the answer, so that the answer is not lost by a reset.
const LINGER: Duration = Duration::from_secs(1);
/// Most that is read of what they say, in bytes.
const MAX_LINGERED_BYTES: u64 = 64 << 10;
/// First byte of a TLS handshake (RFC 8446, section 5.1, `ContentType`).
const CONTENT_TYPE_HANDSHAKE: u8 = 22;
/// A fatal alert `internal_error`, as it is sent before any key is agreed on (RFC 8446, sections 5.1 and 6). TLS has none for "busy".
pub(crate) const ALERT_BUSY: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];
/// Protocols offered in the handshake (RFC 7301). Without it, clients that could do more would have to guess.
const PROTOCOLS: [&[u8]; 1] = [b"http/1.1"];
/// What somebody who speaks plain HTTP is told. No redirection: the key has been sent in the clear already, which must be noticed.
const SPEAKS_TLS: &str = "{\"code\":400,\"message\":\"this port speaks TLS: the URL must begin with https://\"}";

/// Why a certificate and its key can't be used.
#[derive(Debug, Error)]
pub enum LoadTlsError {
    /// A file can't be read.
    #[error("can't read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is longer than any certificate or key.
    #[error("{} is longer than {limit} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The longest.
        limit: u64,
    },
    /// A file is broken.
    #[error("{} is not well-formed PEM: {why}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// There is no certificate.
    #[error("{} holds no certificate in PEM form", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// There is no key.
    #[error("{} holds no private key in PEM form", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// The key needs a passphrase.
    #[error("the private key in {} is encrypted; the server needs one without a passphrase", path.display())]
    EncryptedKey {
        /// The file.
        path: PathBuf,
    },
    /// The certificate can't be understood.
    #[error("the certificate in {} can't be used", path.display())]
    UnusableCertificate {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The key is of a kind that is not supported.
    #[error("the private key in {} can't be used", path.display())]
    UnusableKey {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The key is another's.
    #[error("the private key in {} does not belong to the first certificate in {}", key.display(), certificate.display())]
    Mismatch {
        /// File of the certificates.
        certificate: PathBuf,
        /// File of the key.
        key: PathBuf,
    },
    /// The library refuses its own defaults.
    #[error("TLS can't be set up")]
    SetUp {
        /// Why.
        #[from]
        source: rustls::Error,
    },
}

/// What is in force: replaced whole.
#[derive(Debug, Clone)]
struct Pair {
    config: Arc<ServerConfig>,
    certificate: CertificateDer<'static>,
    is_key_exposed: bool,
}

/// A certificate and its key, for new connections.
#[derive(Debug)]
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    pair: RwLock<Pair>,
}

impl Tls {
    /// Reads a chain of certificates, the server's own first, and its key, both PEM.
    ///
    /// # Errors
    /// [`LoadTlsError`]: what is wrong with which file.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, LoadTlsError> {
        Ok(Tls {
            pair: RwLock::new(read_pair(certificate, key)?),
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        })
    }

    /// Reads the files again. New connections get what they hold now; if that can't be used, all stays as it was.
    ///
    /// # Errors
    /// As [`Tls::load`].
    pub fn reload(&self) -> Result<(), LoadTlsError> {
        let pair = read_pair(&self.certificate, &self.key)?;
        *self.pair.write().unwrap_or_else(PoisonError::into_inner) = pair;
        Ok(())
    }

    /// Whether the key's file is readable by everybody, going by its own mode.
    #[must_use]
    pub fn is_key_exposed(&self) -> bool {
        self.pair().is_key_exposed
    }

    /// Returns the DNS names that the certificate is for, wildcards included.
    #[must_use]
    pub fn dns_names(&self) -> Vec<String> {
        let certificate = self.pair().certificate;
        EndEntityCert::try_from(&certificate)
            .map(|parsed| parsed.valid_dns_names().map(str::to_owned).collect())
            .unwrap_or_default()
    }

    /// Whether clients that expect this host name or address will accept the certificate's names.
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        let certificate = self.pair().certificate;
        match (EndEntityCert::try_from(&certificate), ServerName::try_from(host)) {
            (Ok(parsed), Ok(name)) => parsed.verify_is_valid_for_subject_name(&name).is_ok(),
            _ => false,
        }
    }

    fn pair(&self) -> Pair {
        self.pair.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shakes hands. `Ok(None)`: the client spoke plain HTTP, and has been told.
    pub(crate) async fn accept(&self, mut stream: TcpStream) -> std::io::Result<Option<TlsStream<TcpStream>>> {
        let handshake = async {
            let mut first = [0_u8; 1];
            if stream.peek(&mut first).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            match first[0] {
                CONTENT_TYPE_HANDSHAKE => TlsAcceptor::from(self.pair().config).accept(stream).await.map(Some),
                // Every method of HTTP begins so.
                byte if byte.is_ascii_alphabetic() => {
                    tell_plain(&mut stream).await;
                    Ok(None)
                }
                _ => Err(std::io::ErrorKind::InvalidData.into()),
            }
        };
        tokio::time::timeout(HANDSHAKE_PATIENCE, handshake)
            .await
            .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
    }
}

/// Tells a client that it must speak TLS.
async fn tell_plain(stream: &mut TcpStream) {
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{SPEAKS_TLS}",
        SPEAKS_TLS.len()
    );
    // Whoever is gone need not be told.
    if stream.write_all(answer.as_bytes()).await.is_err() || stream.shutdown().await.is_err() {
        return;
    }
    let mut rest = stream.take(MAX_LINGERED_BYTES);
    let mut nowhere = tokio::io::sink();
    drop(tokio::time::timeout(LINGER, tokio::io::copy(&mut rest, &mut nowhere)).await);
}

/// Reads a file that may be anything, also a pipe; returns whether its mode lets everybody read it, too.
fn read(path: &Path) -> Result<(Vec<u8>, bool), LoadTlsError> {
    let failed = |source| LoadTlsError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode();
    let mut bytes = Vec::new();
    let count = file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if count as u64 > MAX_FILE_BYTES {
        return Err(LoadTlsError::TooLong {
            path: path.to_owned(),
            limit: MAX_FILE_BYTES,
        });
    }
    Ok((bytes, mode & 0o004 != 0))
}

fn malformed(path: &Path, error: &pem::Error) -> LoadTlsError {
    LoadTlsError::Malformed {
        path: path.to_owned(),
        why: match error {
            pem::Error::MissingSectionEnd { .. } => "a section has no end".to_owned(),
            pem::Error::IllegalSectionStart { .. } => "a section begins wrongly".to_owned(),
            pem::Error::Base64Decode(why) => format!("a section is no base64: {why}"),
            // The file's content does not belong into a message.
            _ => "it can't be read".to_owned(),
        },
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, LoadTlsError> {
    let (bytes, _) = read(path)?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| malformed(path, &error))?;
    if chain.is_empty() {
        return Err(LoadTlsError::NoCertificate { path: path.to_owned() });
    }
    Ok(chain)
}

fn read_key(path: &Path) -> Result<(PrivateKeyDer<'static>, bool), LoadTlsError> {
    let (bytes, is_exposed) = read(path)?;
    match PrivateKeyDer::from_pem_slice(&bytes) {
        Ok(key) => Ok((key, is_exposed)),
        Err(pem::Error::NoItemsFound) if holds(&bytes, b"-----BEGIN ENCRYPTED PRIVATE KEY-----") => {
            Err(LoadTlsError::EncryptedKey { path: path.to_owned() })
        }
        Err(pem::Error::NoItemsFound) => Err(LoadTlsError::NoKey { path: path.to_owned() }),
        // The older form: a header line within the section (RFC 1421, section 4.6.1.1), which the parser takes for base64.
        Err(_) if holds(&bytes, b"Proc-Type: 4,ENCRYPTED") => Err(LoadTlsError::EncryptedKey { path: path.to_owned() }),
        Err(error) => Err(malformed(path, &error)),
    }
}

fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

fn read_pair(certificate_path: &Path, key_path: &Path) -> Result<Pair, LoadTlsError> {
    let chain = read_certificates(certificate_path)?;
    let (key, is_key_exposed) = read_key(key_path)?;
    let unusable = |source| LoadTlsError::UnusableCertificate {
        path: certificate_path.to_owned(),
        source,
    };
    let certificate = chain.first().cloned().ok_or_else(|| LoadTlsError::NoCertificate {
        path: certificate_path.to_owned(),
    })?;
    let provider = Arc::new(ring::default_provider());
    let signer = provider
        .key_provider
        .load_private_key(key)
        .map_err(|source| LoadTlsError::UnusableKey {
            path: key_path.to_owned(),
            source,
        })?;
    let certified = CertifiedKey::new(chain, signer);
    match certified.keys_match() {
        // Unknown: the signer can't say what its public key is; then the first handshake says.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(rustls::Error::InconsistentKeys(_)) => {
            return Err(LoadTlsError::Mismatch {
                certificate: certificate_path.to_owned(),
                key: key_path.to_owned(),
            });
        }
        Err(source) => return Err(unusable(source)),
    }
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    config.alpn_protocols = PROTOCOLS.iter().map(|name| name.to_vec()).collect();
    Ok(Pair {
        config: Arc::new(config),
        certificate,
        is_key_exposed,
    })
}
