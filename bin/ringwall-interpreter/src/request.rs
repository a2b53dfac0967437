//! What clients send: the one place where request bodies are read and checked.

use std::collections::BTreeMap;
use std::path::PathBuf;

use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::StatusCode;
use hyper::body::Incoming;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::language::Language;
use crate::response::Refusal;

/// Longest request body.
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

/// `POST /execute`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Execute {
    /// The code.
    pub(crate) code: String,
    /// Where to run it.
    pub(crate) target: Target,
    /// Environment variables for this execution only.
    pub(crate) env_vars: BTreeMap<String, String>,
}

/// Where code runs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// In the context with this identifier.
    Context(String),
    /// In the default context of this language.
    Default(Language),
}

/// `POST /contexts`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CreateContext {
    /// The language.
    pub(crate) language: Language,
    /// The working directory.
    pub(crate) cwd: Option<PathBuf>,
}

#[derive(Deserialize)]
struct ExecuteBody {
    code: String,
    context_id: Option<String>,
    language: Option<String>,
    env_vars: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
struct CreateContextBody {
    language: Option<String>,
    cwd: Option<String>,
}

impl Execute {
    /// Reads a body.
    ///
    /// # Errors
    /// It isn't JSON, lacks a field, or names both a context and a language.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let body: ExecuteBody = parse_json(body)?;
        let target = match (present(body.context_id), present(body.language)) {
            (Some(_), Some(_)) => {
                return Err(Refusal::new(
                    StatusCode::BAD_REQUEST,
                    "Only one of context_id or language can be provided".to_owned(),
                ));
            }
            (Some(id), None) => Target::Context(id),
            (None, language) => Target::Default(language.map_or(Language::Python, |name| Language::parse(&name))),
        };
        Ok(Self {
            code: body.code,
            target,
            env_vars: body.env_vars.unwrap_or_default(),
        })
    }
}

impl CreateContext {
    /// Reads a body; an empty one asks for the defaults.
    ///
    /// # Errors
    /// It isn't JSON.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let body = if body.is_empty() {
            CreateContextBody::default()
        } else {
            parse_json(body)?
        };
        Ok(Self {
            language: present(body.language).map_or(Language::Python, |name| Language::parse(&name)),
            cwd: present(body.cwd).map(PathBuf::from),
        })
    }
}

/// Collects a request's body.
///
/// # Errors
/// It is too long, or the client hung up.
pub(crate) async fn read_body(body: Incoming) -> Result<Vec<u8>, Refusal> {
    match Limited::new(body, MAX_BODY_BYTES).collect().await {
        Ok(body) => Ok(body.to_bytes().into()),
        Err(error) if error.is::<LengthLimitError>() => Err(Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the request body is longer than {MAX_BODY_BYTES} bytes"),
        )),
        Err(error) => Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            format!("the request body ends early: {error}"),
        )),
    }
}

/// Clients send missing values as `null` or as empty text.
fn present(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.trim().is_empty())
}

fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| {
        let status = if error.is_data() {
            StatusCode::UNPROCESSABLE_ENTITY
        } else {
            StatusCode::BAD_REQUEST
        };
        Refusal::new(status, format!("the request body can't be read: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(body: &str) -> u16 {
        Execute::parse(body.as_bytes()).unwrap_err().status().as_u16()
    }

    #[test]
    fn an_execution_is_read() {
        let body = br#"{"code":"1","context_id":null,"language":null,"env_vars":null}"#;
        let python = Execute {
            code: "1".into(),
            target: Target::Default(Language::Python),
            env_vars: BTreeMap::new(),
        };
        assert_eq!(Execute::parse(body).unwrap(), python);
        assert_eq!(Execute::parse(br#"{"code":"1","language":""}"#).unwrap(), python);
        let body = br#"{"code":"","context_id":"x","env_vars":{"A":"b"}}"#;
        let execute = Execute::parse(body).unwrap();
        assert_eq!(execute.target, Target::Context("x".into()));
        assert_eq!(execute.env_vars["A"], "b");
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        assert_eq!(status("{"), 400);
        assert_eq!(status(""), 400);
        assert_eq!(status("[]"), 422);
        assert_eq!(status("{}"), 422);
        assert_eq!(status(r#"{"code":1}"#), 422);
        assert_eq!(status(r#"{"code":"","env_vars":{"A":1}}"#), 422);
        assert_eq!(status(r#"{"code":"1","context_id":"x","language":"python"}"#), 400);
    }

    #[test]
    fn a_context_has_defaults() {
        let default = CreateContext {
            language: Language::Python,
            cwd: None,
        };
        assert_eq!(CreateContext::parse(b"").unwrap(), default);
        assert_eq!(CreateContext::parse(b"{}").unwrap(), default);
        let js = CreateContext::parse(br#"{"language":"js","cwd":"/tmp"}"#).unwrap();
        assert_eq!(
            js,
            CreateContext {
                language: Language::JavaScript,
                cwd: Some("/tmp".into())
            }
        );
    }
}
