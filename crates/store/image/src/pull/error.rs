//! Why an image isn't pulled.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::digest::{Digest, ParseDigestError};
use crate::unpack::UnpackError;

/// An image can't be pulled.
#[derive(Debug, Error)]
pub enum PullError {
    /// A text that names no image.
    #[error("{text:?} is no image reference")]
    Reference {
        /// The text.
        text: String,
        /// Why.
        #[source]
        source: oci_spec::distribution::ParseError,
    },
    /// A digest that can't be checked.
    #[error(transparent)]
    Digest(#[from] ParseDigestError),
    /// No TLS, no system certificates.
    #[error("can't set up the HTTP client")]
    Client(#[source] reqwest::Error),
    /// The registry can't be reached, or stopped answering.
    #[error("can't talk to the registry {registry}")]
    Http {
        /// Its name.
        registry: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// It has no such image.
    #[error("the registry {registry} has no {what}")]
    NotFound {
        /// Its name.
        registry: String,
        /// What was asked for.
        what: String,
    },
    /// It wants credentials, and there are none.
    #[error("the registry {registry} wants credentials for {repository}, or has no such image")]
    CredentialsWanted {
        /// Its name.
        registry: String,
        /// What was asked for.
        repository: String,
    },
    /// It doesn't take the credentials.
    #[error("the registry {registry} refuses the credentials of {user:?} for {repository}")]
    CredentialsRefused {
        /// Its name.
        registry: String,
        /// What was asked for.
        repository: String,
        /// Whose.
        user: String,
    },
    /// It asks for credentials in a way that isn't known or isn't safe.
    #[error("the registry {registry} asks for credentials in a way that can't be answered: {challenge:?}")]
    Challenge {
        /// Its name.
        registry: String,
        /// What it said, cut when it is long.
        challenge: String,
    },
    /// Another answer than the one hoped for.
    #[error("the registry {registry} answered {status} when asked for {what}")]
    Status {
        /// Its name.
        registry: String,
        /// What was asked for.
        what: String,
        /// The HTTP status.
        status: u16,
    },
    /// An answer longer than allowed.
    #[error("the {what} is longer than {limit} bytes")]
    TooLong {
        /// What it is.
        what: &'static str,
        /// Most bytes.
        limit: u64,
    },
    /// A document that makes no sense.
    #[error("the {what} is malformed")]
    Malformed {
        /// What it is.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A document that contradicts itself or asks for what isn't done.
    #[error("the {what} can't be used: {reason}")]
    Unusable {
        /// What it is.
        what: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// A layer that isn't a tar archive.
    #[error("the layer {digest} has the type {media_type:?}, which isn't known")]
    LayerType {
        /// The layer.
        digest: Digest,
        /// Its type, cut when it is long.
        media_type: String,
    },
    /// An image for other machines.
    #[error("the image isn't made for {wanted}; it is made for {}", offered.join(", "))]
    Platform {
        /// What was wanted.
        wanted: String,
        /// What there is.
        offered: Vec<String>,
    },
    /// Content that isn't what its digest says.
    #[error("the {what} {wanted} is damaged: its digest is {found}")]
    Mismatch {
        /// What it is.
        what: &'static str,
        /// The digest it should have.
        wanted: Digest,
        /// The digest it has.
        found: Digest,
    },
    /// Content of another length than announced.
    #[error("the {what} {digest} has {found} bytes instead of {wanted}")]
    Size {
        /// What it is.
        what: &'static str,
        /// Its digest.
        digest: Digest,
        /// The length it should have.
        wanted: u64,
        /// The length it has, or had when reading was given up.
        found: u64,
    },
    /// The cache can't be used.
    #[error("can't {doing} {path}")]
    Cache {
        /// What was attempted, as a verb.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A layer can't be unpacked.
    #[error("the layer {digest} can't be unpacked")]
    Unpack {
        /// The layer.
        digest: Digest,
        /// Why.
        #[source]
        source: UnpackError,
    },
    /// The process is ending.
    #[error("unpacking was interrupted")]
    Interrupted,
}
