//! Who wants to know how a pull is going.

use crate::digest::Digest;

/// Is told about each blob that is downloaded. Calls come from several tasks at once and must not block.
pub trait Progress: Send + Sync {
    /// A download of `total` bytes begins. A blob that is in the cache isn't announced.
    fn started(&self, digest: &Digest, total: u64);
    /// `bytes` more have arrived.
    fn advanced(&self, digest: &Digest, bytes: u64);
    /// All bytes have arrived and match the digest.
    fn finished(&self, digest: &Digest);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn started(&self, _: &Digest, _: u64) {}
    fn advanced(&self, _: &Digest, _: u64) {}
    fn finished(&self, _: &Digest) {}
}
