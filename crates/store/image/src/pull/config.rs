//! The image's configuration (OCI image-spec, config.md): how its program wants to be started, and what its layers are.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::digest::Digest;
use crate::pull::PullError;
use crate::pull::manifest::cut;

/// How an image's program wants to be started. Texts are the image's and untrusted; none contains NUL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// Environment variables, in order.
    pub env: Vec<(String, String)>,
    /// Working directory; empty if the image doesn't say.
    pub working_dir: String,
    /// `user`, `uid`, `user:group` or `uid:gid`; empty if the image doesn't say.
    pub user: String,
    /// The program and its fixed arguments.
    pub entrypoint: Vec<String>,
    /// Arguments that the caller may replace, or the whole command if there is no entrypoint.
    pub cmd: Vec<String>,
    /// Ports the program listens on.
    pub exposed_ports: Vec<ExposedPort>,
}

/// A port that an image's program listens on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExposedPort {
    /// Its number.
    pub port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
}

/// The part of a configuration that matters while pulling.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) config: ImageConfig,
    /// Digests of the layers' plain archives, lowest first.
    pub(crate) diff_ids: Vec<Digest>,
    pub(crate) os: String,
    pub(crate) architecture: String,
}

#[derive(Deserialize)]
struct RawImage {
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    config: Option<RawConfig>,
    rootfs: RawRootfs,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default)]
    diff_ids: Option<Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawConfig {
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
}

/// Reads a configuration.
pub(crate) fn parse(data: &[u8]) -> Result<Parsed, PullError> {
    let raw: RawImage = serde_json::from_slice(data).map_err(|source| PullError::Malformed {
        what: "image configuration",
        source,
    })?;
    let config = raw.config.unwrap_or_default();
    let env = config.env.unwrap_or_default();
    let config = ImageConfig {
        env: env.iter().filter_map(|text| variable(text)).collect(),
        working_dir: config.working_dir.unwrap_or_default(),
        user: config.user.unwrap_or_default(),
        entrypoint: config.entrypoint.unwrap_or_default(),
        cmd: config.cmd.unwrap_or_default(),
        exposed_ports: config
            .exposed_ports
            .unwrap_or_default()
            .keys()
            .filter_map(|text| port(text))
            .collect(),
    };
    if has_nul(&config) {
        return Err(PullError::Unusable {
            what: "image configuration",
            reason: "a text in it contains a NUL byte",
        });
    }
    let diff_ids = raw.rootfs.diff_ids.unwrap_or_default();
    Ok(Parsed {
        config,
        diff_ids: diff_ids
            .iter()
            .map(|text| Digest::parse(text))
            .collect::<Result<_, _>>()?,
        os: cut(raw.os.as_deref().unwrap_or("linux")),
        architecture: cut(raw.architecture.as_deref().unwrap_or_default()),
    })
}

/// `NAME=VALUE`; a name alone is empty, as Docker has it, and a text without a name is no variable.
fn variable(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
}

/// `80/tcp` or `80`. Ports are advice: what can't be read is left out.
fn port(text: &str) -> Option<ExposedPort> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    if !matches!(protocol, "tcp" | "udp" | "sctp") {
        return None;
    }
    Some(ExposedPort {
        port: port.parse().ok()?,
        protocol: protocol.to_owned(),
    })
}

fn has_nul(config: &ImageConfig) -> bool {
    let env = config.env.iter().flat_map(|(name, value)| [name, value]);
    let lists = config.entrypoint.iter().chain(&config.cmd);
    let mut texts = env.chain(lists).chain([&config.working_dir, &config.user]);
    texts.any(|text| text.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_and_odd_values_are_understood() {
        let text = br#"{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":null},"config":{
            "Env":["PATH=/bin:/usr/bin","A=b=c","EMPTY","=x"],"Entrypoint":null,"Cmd":["sh"],"User":"1000:1000",
            "ExposedPorts":{"80/tcp":{},"53/udp":{},"99999/tcp":{},"8080":{}}}}"#;
        let config = parse(text).expect("valid").config;
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            config.env,
            [pair("PATH", "/bin:/usr/bin"), pair("A", "b=c"), pair("EMPTY", "")]
        );
        assert_eq!(
            (config.entrypoint.len(), config.cmd.len(), config.exposed_ports.len()),
            (0, 1, 3)
        );
    }

    #[test]
    fn texts_with_nul_are_refused() {
        let text = br#"{"rootfs":{},"config":{"Cmd":["a\u0000b"]}}"#;
        assert!(parse(text).expect_err("refused").to_string().contains("NUL"));
    }
}
