//! Images: pulls them from OCI registries, and unpacks them, and archives from anywhere, into plain directory trees.
//!
//! ```text
//! registry -> pull: manifest, config, blobs (digest and size checked) -> decompress -> unpack (layer by layer) -> one tree
//! file     -> from_tar:                                                  decompress -> unpack                  -> one tree
//! operator's directory -> from_dir (a copy) -----------------------------------------------------------------> one tree
//! ```
//! Registries and archives are untrusted. What they say is checked before it costs memory or disk, and nothing is ever written outside
//! the directory that the caller names.

mod archive;
mod decompress;
mod digest;
#[doc(hidden)]
pub mod fuzzing;
mod import;
mod limits;
mod name;
mod pull;
mod unpack;

pub use archive::ReadArchiveError;
pub use decompress::{DecompressError, Decompressed, decompress};
pub use digest::{Digest, ParseDigestError};
pub use import::{Copied, CopyTreeError, Skipped, from_dir, from_tar};
pub use limits::Limits;
pub use name::EntryName;
pub use pull::{
    Credentials, ExposedPort, ImageConfig, Progress, PullError, PullRequest, PulledImage, Silent, native_architecture,
    pull,
};
pub use unpack::{ArchiveKind, Dropped, Owners, Refusal, UnpackError, Unpacked, unpack};
