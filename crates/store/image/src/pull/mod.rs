//! Pulls an image: reference -> (index ->) manifest -> configuration and blobs -> one tree.
//!
//! Everything is named by digest from the manifest down, and nothing is used before its digest has been checked; the tag alone is the
//! registry's word. Manifests and configurations are read to a limit, blobs to the size their descriptor gives.

mod auth;
mod blob;
mod config;
mod error;
mod flatten;
mod manifest;
mod progress;
mod registry;

use std::collections::HashSet;
use std::path::Path;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use oci_spec::distribution::Reference;

pub use auth::Credentials;
pub use config::{ExposedPort, ImageConfig};
pub use error::PullError;
pub use progress::{Progress, Silent};

use crate::digest::Digest;
use crate::limits::Limits;
use crate::unpack::{Owners, Unpacked};
use blob::Cache;
use flatten::{Layer, StopGuard};
use manifest::{Descriptor, Document};
use registry::Registry;

/// Longest manifest or index (distribution-spec, "Pushing Manifests").
const MAX_MANIFEST_BYTES: u64 = 4 * 1024 * 1024;
/// Longest configuration.
const MAX_CONFIG_BYTES: u64 = 4 * 1024 * 1024;
/// Blobs downloaded at once; registries slow down those who ask for more.
const DOWNLOADS: usize = 3;

/// What to pull, and how.
#[derive(Debug)]
pub struct PullRequest<'request> {
    /// The image, as people write it: `alpine`, `registry.example/x/y:1`, `host:5000/z@sha256:…`.
    pub reference: &'request str,
    /// Who asks. Sent only to the registry and the token service it names.
    pub credentials: Option<Credentials>,
    /// Whether the registry is spoken to in the clear. Only if the operator said so; loopback registries are anyway.
    pub plain_http: bool,
    /// For which machines, by OCI's name; see [`native_architecture`].
    pub architecture: &'request str,
    /// Whose the files are to be.
    pub owners: Owners,
    /// What all layers together may cost.
    pub limits: Limits,
    /// Directory of downloaded blobs; made if it isn't there. Only this user may be able to write to it.
    pub cache: &'request Path,
    /// Existing, empty directory for the tree.
    pub into: &'request Path,
}

/// A pulled image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PulledImage {
    /// Digest of the image's manifest; for a multi-platform reference, of the one for this platform.
    pub digest: Digest,
    /// How its program wants to be started.
    pub config: ImageConfig,
    /// Digests of the layers' blobs, lowest first.
    pub layers: Vec<Digest>,
    /// Bytes of the layers' blobs, compressed as they are.
    pub bytes: u64,
    /// What became of them.
    pub unpacked: Unpacked,
}

/// Returns OCI's name of the architecture this program is built for.
#[must_use]
pub fn native_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Pulls an image into a directory.
///
/// When the returned future is dropped, unpacking stops soon after; the directory must then be thrown away, as after an error.
///
/// # Errors
/// [`PullError`]. Blobs that were fetched stay in the cache.
pub async fn pull(request: &PullRequest<'_>, progress: &dyn Progress) -> Result<PulledImage, PullError> {
    let reference: Reference = request.reference.parse().map_err(|source| PullError::Reference {
        text: manifest::cut(request.reference),
        source,
    })?;
    let cache = Cache::open(request.cache)?;
    let registry = Registry::new(&reference, request.credentials.clone(), request.plain_http)?;
    let Image { digest, config, layers } = find_image(&registry, &reference, request.architecture).await?;

    let config = fetch_config(&registry, &config).await?;
    if config.os != "linux" || config.architecture != request.architecture {
        return Err(PullError::Platform {
            wanted: format!("linux/{}", request.architecture),
            offered: vec![format!("{}/{}", config.os, config.architecture)],
        });
    }
    if config.diff_ids.len() != layers.len() {
        return Err(PullError::Unusable {
            what: "image configuration",
            reason: "it lists another number of layers than the manifest",
        });
    }
    let bytes = layers.iter().try_fold(0_u64, |sum, layer| sum.checked_add(layer.size));
    let bytes = bytes
        .filter(|&bytes| bytes <= request.limits.bytes)
        .ok_or(PullError::TooLong {
            what: "image",
            limit: request.limits.bytes,
        })?;

    let mut seen = HashSet::new();
    // Collected: a lazy iterator's closures, held over the wait, keep the whole future from being Send for every lifetime.
    let mut downloads = Vec::new();
    for layer in &layers {
        if seen.insert(&layer.digest) {
            downloads.push(cache.fetch(&registry, layer, progress));
        }
    }
    stream::iter(downloads)
        .buffer_unordered(DOWNLOADS)
        .try_collect::<()>()
        .await?;

    let pairs = layers.iter().zip(config.diff_ids);
    let stack: Vec<Layer> = pairs
        .map(|(layer, diff_id)| Layer {
            blob: layer.digest.clone(),
            diff_id,
        })
        .collect();
    let guard = StopGuard::default();
    let stop = std::sync::Arc::clone(&guard.0);
    let (into, owners, limits) = (request.into.to_owned(), request.owners, request.limits);
    let work = tokio::task::spawn_blocking(move || flatten::flatten(&cache, &stack, &into, owners, &limits, &stop));
    let unpacked = work.await.map_err(|_| PullError::Interrupted)??;
    drop(guard);
    Ok(PulledImage {
        digest,
        config: config.config,
        layers: layers.into_iter().map(|layer| layer.digest).collect(),
        bytes,
        unpacked,
    })
}

/// A manifest for the wanted platform.
struct Image {
    digest: Digest,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

async fn find_image(registry: &Registry, reference: &Reference, architecture: &str) -> Result<Image, PullError> {
    let wanted = reference.digest().map(Digest::parse).transpose()?;
    let tag = wanted
        .as_ref()
        .map(Digest::as_str)
        .or(reference.tag())
        .unwrap_or("latest");
    let data = registry.manifest(tag, MAX_MANIFEST_BYTES).await?;
    let found = Digest::of(&data);
    if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
        return Err(PullError::Mismatch {
            what: "manifest",
            wanted,
            found,
        });
    }
    let offers = match manifest::parse(&data)? {
        Document::Image { config, layers } => {
            return Ok(Image {
                digest: found,
                config,
                layers,
            });
        }
        Document::Index(offers) => offers,
    };
    let chosen = &manifest::choose(&offers, architecture)?.manifest;
    let data = registry.manifest(chosen.digest.as_str(), MAX_MANIFEST_BYTES).await?;
    check("manifest", chosen, &data)?;
    match manifest::parse(&data)? {
        Document::Image { config, layers } => Ok(Image {
            digest: chosen.digest.clone(),
            config,
            layers,
        }),
        Document::Index(_) => Err(PullError::Unusable {
            what: "index",
            reason: "it refers to another index",
        }),
    }
}

async fn fetch_config(registry: &Registry, config: &Descriptor) -> Result<config::Parsed, PullError> {
    let response = registry.blob(&config.digest).await?;
    let data = registry.read(response, "image configuration", MAX_CONFIG_BYTES).await?;
    check("image configuration", config, &data)?;
    config::parse(&data)
}

fn check(what: &'static str, wanted: &Descriptor, data: &[u8]) -> Result<(), PullError> {
    let length = data.len() as u64;
    if length != wanted.size {
        return Err(PullError::Size {
            what,
            digest: wanted.digest.clone(),
            wanted: wanted.size,
            found: length,
        });
    }
    let found = Digest::of(data);
    if found == wanted.digest {
        Ok(())
    } else {
        Err(PullError::Mismatch {
            what,
            wanted: wanted.digest.clone(),
            found,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_can_be_spawned() {
        fn is_send(_: &impl Send) {}
        let request = PullRequest {
            reference: "not a reference",
            credentials: None,
            plain_http: false,
            architecture: native_architecture(),
            owners: Owners::Caller,
            limits: Limits::default(),
            cache: Path::new("/none"),
            into: Path::new("/none"),
        };
        is_send(&pull(&request, &Silent));
    }
}
