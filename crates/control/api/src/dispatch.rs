//! Which plane a request is for, and which sandbox. In this order:
//!
//! 1. `Host: <port>-<id>.…` names a port of a sandbox; everything else about the request is that port's business.
//! 2. A path of the control plane is the control plane's, whatever headers it carries (older clients send the sandbox's there, too).
//! 3. `E2b-Sandbox-Id` and `E2b-Sandbox-Port` name a port of a sandbox; the agent's if no port is named.
//! 4. Paths of the agent without a sandbox's id: the token or the URL's signature tells which sandbox is meant.
//! 5. Everything else is the control plane's, which knows what to say about unknown paths.

use http::{HeaderMap, Uri};
use percent_encoding::percent_decode_str;
use ringwall_agent_proto::signature::{self, Claim, Operation};
use ringwall_sandbox::service::SandboxService;

use crate::routes::PREFIXES;

/// Port of the agent (envd).
pub(crate) const AGENT_PORT: u16 = 49983;
/// Port of the code interpreter.
pub(crate) const INTERPRETER_PORT: u16 = 49999;
/// First components of the agent's paths.
const AGENT_PATHS: [&str; 4] = ["files", "envs", "process.Process", "filesystem.Filesystem"];
/// Longest id looked for.
const MAX_ID_BYTES: usize = 64;

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// The control plane.
    Control,
    /// A port inside a sandbox.
    Sandbox {
        id: String,
        port: u16,
        /// Whether the port was named by the host name: then the service behind it is the user's own.
        by_host: bool,
    },
    /// The agent of a sandbox that could not be told.
    Unknown,
}

/// Decides.
pub(crate) fn target(method: &http::Method, uri: &Uri, headers: &HeaderMap, sandboxes: &dyn SandboxService) -> Target {
    let host = headers
        .get(http::header::HOST)
        .and_then(|host| host.to_str().ok())
        .or_else(|| uri.host());
    if let Some((port, id)) = host.and_then(parse_host) {
        return Target::Sandbox {
            id,
            port,
            by_host: true,
        };
    }
    let first = uri.path().trim_start_matches('/').split('/').next().unwrap_or_default();
    if PREFIXES.contains(&first) {
        return Target::Control;
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(id) = text("e2b-sandbox-id") {
        let port = match text("e2b-sandbox-port") {
            None => Some(AGENT_PORT),
            Some(port) => port.parse().ok().filter(|&port| port != 0),
        };
        return match (port, is_id(id)) {
            (Some(port), true) => Target::Sandbox {
                id: id.to_owned(),
                port,
                by_host: false,
            },
            _ => Target::Unknown,
        };
    }
    if !AGENT_PATHS.contains(&first) {
        return Target::Control;
    }
    let found = match text("x-access-token") {
        Some(token) => by_token(token, sandboxes),
        None => by_signature(method, uri, sandboxes),
    };
    match found {
        Some(id) => Target::Sandbox {
            id,
            port: AGENT_PORT,
            by_host: false,
        },
        None => Target::Unknown,
    }
}

fn is_id(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_ID_BYTES && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Reads `<port>-<id>.<domain>`.
pub(crate) fn parse_host(host: &str) -> Option<(u16, String)> {
    let label = host.split('.').next()?;
    if label.len() == host.len() {
        return None;
    }
    let (port, id) = label.split_once('-')?;
    // Some resolvers and browsers keep the case that was typed.
    let id = id.to_ascii_lowercase();
    let port: u16 = port.parse().ok().filter(|&port| port != 0)?;
    is_id(&id).then_some((port, id))
}

fn by_token(token: &str, sandboxes: &dyn SandboxService) -> Option<String> {
    let tokens = sandboxes.tokens();
    let found = tokens.into_iter().find(|(_, had)| signature::same(had, token));
    found.map(|(id, _)| id)
}

/// A signed URL names no sandbox: the one whose token fits the signature is meant. The agent checks it again, with its expiry.
fn by_signature(method: &http::Method, uri: &Uri, sandboxes: &dyn SandboxService) -> Option<String> {
    let query = uri.query()?;
    let value = |name: &str| {
        query.split('&').find_map(|part| {
            let (key, value) = part.split_once('=')?;
            (key == name).then(|| {
                percent_decode_str(&value.replace('+', " "))
                    .decode_utf8_lossy()
                    .into_owned()
            })
        })
    };
    let (signature, path) = (value("signature")?, value("path")?);
    let user = value("username").unwrap_or_default();
    let operation = match *method {
        http::Method::GET => Operation::Read,
        http::Method::POST => Operation::Write,
        _ => return None,
    };
    let claim = Claim {
        path: &path,
        operation,
        user: &user,
        expires_at: value("signature_expiration").and_then(|text| text.parse().ok()),
    };
    let tokens = sandboxes.tokens();
    let found = tokens
        .into_iter()
        .find(|(_, token)| signature::same(&signature, &signature::sign(&claim, token)));
    found.map(|(id, _)| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_of_ports_are_read() {
        assert_eq!(
            parse_host("3000-iabc.sandbox.localhost:8000"),
            Some((3000, "iabc".into()))
        );
        assert_eq!(parse_host("3000-IABC.x"), Some((3000, "iabc".into())));
        for host in [
            "localhost:3000",
            "127.0.0.1:3000",
            "3000-abc",
            "0-abc.x",
            "70000-abc.x",
            "x-abc.x",
            "3000-a_b.x",
            "3000-.x",
            "",
        ] {
            assert_eq!(parse_host(host), None, "{host}");
        }
    }
}
