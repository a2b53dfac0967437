//! Manifests and indexes (OCI image-spec, manifest.md and image-index.md; Docker's own have the same shape).
//!
//! The document decides what it is by its shape, not by the type that the registry declares for it; one that could be both is refused,
//! as is one that declares another type than its shape (image-spec, CVE-2021-41190).

use serde::Deserialize;

use crate::digest::Digest;
use crate::pull::PullError;

/// Most layers. Docker makes at most 127.
const MAX_LAYERS: usize = 256;
/// Bytes of a text from a document that an error shows.
const SHOWN_CHARS: usize = 100;

/// Types to ask a registry for.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// A reference to content, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// A manifest or an index, checked.
#[derive(Debug)]
pub(crate) enum Document {
    Index(Vec<Offer>),
    Image {
        config: Descriptor,
        layers: Vec<Descriptor>,
    },
}

/// One image of an index.
#[derive(Debug, Clone)]
pub(crate) struct Offer {
    pub(crate) manifest: Descriptor,
    pub(crate) os: String,
    pub(crate) architecture: String,
    pub(crate) variant: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    config: Option<RawDescriptor>,
    #[serde(default)]
    layers: Option<Vec<RawDescriptor>>,
    #[serde(default)]
    manifests: Option<Vec<RawDescriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    platform: Option<RawPlatform>,
}

#[derive(Deserialize, Default)]
struct RawPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
}

impl RawDescriptor {
    fn check(&self) -> Result<Descriptor, PullError> {
        Ok(Descriptor {
            digest: Digest::parse(&self.digest)?,
            size: self.size,
        })
    }
}

fn unusable(reason: &'static str) -> PullError {
    PullError::Unusable {
        what: "manifest",
        reason,
    }
}

/// Reads a manifest or index.
pub(crate) fn parse(data: &[u8]) -> Result<Document, PullError> {
    let raw: RawDocument = serde_json::from_slice(data).map_err(|source| PullError::Malformed {
        what: "manifest",
        source,
    })?;
    if raw.schema_version != 2 {
        return Err(unusable("only schema version 2 is known"));
    }
    let says_index = raw
        .media_type
        .as_deref()
        .map(|text| text.contains("index") || text.contains("manifest.list"));
    match (raw.manifests, raw.config, raw.layers) {
        (Some(manifests), None, None) if says_index != Some(false) => {
            // Images for no platform are signatures and the like.
            let offers = manifests
                .iter()
                .filter_map(|manifest| Some((manifest, manifest.platform.as_ref()?)));
            let offers = offers.map(|(manifest, platform)| {
                Ok(Offer {
                    manifest: manifest.check()?,
                    os: cut(&platform.os),
                    architecture: cut(&platform.architecture),
                    variant: cut(platform.variant.as_deref().unwrap_or_default()),
                })
            });
            Ok(Document::Index(offers.collect::<Result<_, PullError>>()?))
        }
        (None, Some(config), Some(layers)) if says_index != Some(true) => {
            if layers.len() > MAX_LAYERS {
                return Err(unusable("it has more than 256 layers"));
            }
            Ok(Document::Image {
                config: config.check()?,
                layers: layers.iter().map(check_layer).collect::<Result<_, _>>()?,
            })
        }
        _ => Err(unusable("it is neither an image nor an index, or both")),
    }
}

fn check_layer(layer: &RawDescriptor) -> Result<Descriptor, PullError> {
    let descriptor = layer.check()?;
    // How it is compressed is told by its first bytes; what matters is that it is a tar archive, in the registry, not encrypted.
    let is_known = matches!(
        layer.media_type.as_str(),
        "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.oci.image.layer.v1.tar+zstd"
            | "application/vnd.docker.image.rootfs.diff.tar"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd"
    );
    if is_known {
        Ok(descriptor)
    } else {
        Err(PullError::LayerType {
            digest: descriptor.digest,
            media_type: cut(&layer.media_type),
        })
    }
}

/// Chooses the image for `linux/architecture`.
pub(crate) fn choose<'offers>(offers: &'offers [Offer], architecture: &str) -> Result<&'offers Offer, PullError> {
    let matching = |offer: &&Offer| offer.os == "linux" && offer.architecture == architecture;
    let mut candidates: Vec<&Offer> = offers.iter().filter(matching).collect();
    // amd64 variants such as v3 need newer processors than the plain one; arm64 is v8 whether it says so or not.
    candidates.sort_by_key(|offer| !matches!(offer.variant.as_str(), "" | "v8" | "v1"));
    candidates.first().copied().ok_or_else(|| PullError::Platform {
        wanted: format!("linux/{architecture}"),
        offered: offered(offers),
    })
}

fn offered(offers: &[Offer]) -> Vec<String> {
    let known = offers.iter().filter(|offer| offer.os != "unknown");
    let mut names: Vec<String> = known
        .map(|offer| {
            let mut name = format!("{}/{}", offer.os, offer.architecture);
            if !offer.variant.is_empty() {
                name.push('/');
                name.push_str(&offer.variant);
            }
            name
        })
        .collect();
    names.dedup();
    if names.is_empty() {
        names.push("no platform at all".to_owned());
    }
    names.truncate(64);
    names
}

/// Cuts a text and escapes what would disturb a terminal.
pub(crate) fn cut(text: &str) -> String {
    let shown = text.chars().take(SHOWN_CHARS);
    shown
        .map(|character| if character.is_control() { '\u{fffd}' } else { character })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn index(platforms: &[(&str, &str, &str)]) -> Document {
        let manifests: Vec<_> = platforms
            .iter()
            .map(|(os, architecture, variant)| {
                serde_json::json!({"digest": DIGEST, "size": 3,
                    "platform": {"os": os, "architecture": architecture, "variant": variant}})
            })
            .collect();
        let text = serde_json::json!({"schemaVersion": 2, "manifests": manifests}).to_string();
        parse(text.as_bytes()).expect("an index")
    }

    #[test]
    fn the_plain_variant_is_preferred_and_the_error_lists_what_there_is() {
        let Document::Index(offers) = index(&[
            ("linux", "amd64", "v3"),
            ("linux", "amd64", ""),
            ("linux", "arm64", "v8"),
            ("windows", "amd64", ""),
            ("unknown", "unknown", ""),
        ]) else {
            panic!("no index")
        };
        assert_eq!(choose(&offers, "amd64").expect("there").variant, "");
        assert_eq!(choose(&offers, "arm64").expect("there").variant, "v8");
        assert_eq!(
            choose(&offers, "riscv64").expect_err("not there").to_string(),
            "the image isn't made for linux/riscv64; it is made for linux/amd64/v3, linux/amd64, linux/arm64/v8, windows/amd64"
        );
    }

    #[test]
    fn ambiguous_and_odd_documents_are_refused() {
        let layer = |kind: &str| format!(r#"{{"mediaType":"{kind}","digest":"{DIGEST}","size":1}}"#);
        let image = |layers: &str| format!(r#"{{"schemaVersion":2,"config":{},"layers":[{layers}]}}"#, layer("c"));
        let tar = layer("application/vnd.oci.image.layer.v1.tar");
        assert!(parse(image(&tar).as_bytes()).is_ok());
        let many = vec![tar.as_str(); 257].join(",");
        for (text, wanted) in [
            (
                image(&layer("application/vnd.oci.image.layer.nondistributable.v1.tar")),
                "isn't known",
            ),
            (
                image(&tar).replace("\"layers\"", "\"manifests\":[],\"layers\""),
                "or both",
            ),
            (
                image(&tar).replace(
                    "\"config\"",
                    "\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"config\"",
                ),
                "or both",
            ),
            (image(&tar).replace(":2", ":1"), "schema version 2"),
            (image(&tar).replace("sha256:e3", "sha256:../"), "no SHA-256 digest"),
            (image(&tar).replace("\"size\":1", "\"size\":-1"), "malformed"),
            (image(&many), "more than 256 layers"),
            ("[]".to_owned(), "malformed"),
        ] {
            let error = parse(text.as_bytes()).expect_err(wanted).to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
