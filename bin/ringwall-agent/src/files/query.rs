//! The query of `/files`, and whether its sender may do what it asks.

use http::request::Parts;
use percent_encoding::percent_decode_str;
use ringwall_agent_proto::signature::{Claim, Operation, verify};

use super::failure::FileError;
use crate::agent::Agent;
use crate::router::Access;
use crate::users::{self, User};

/// Parameters, decoded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Query {
    pub(super) path: Option<String>,
    username: Option<String>,
    signature: Option<String>,
    expires_at: Option<String>,
}

impl Query {
    /// Reads a query; parameters without meaning here are left out.
    pub(super) fn parse(text: &str) -> Self {
        let mut query = Query::default();
        for pair in text.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let slot = match decode(name).as_str() {
                "path" => &mut query.path,
                "username" => &mut query.username,
                "signature" => &mut query.signature,
                "signature_expiration" => &mut query.expires_at,
                _ => continue,
            };
            *slot = Some(decode(value));
        }
        query
    }

    /// Lets the request pass, by token or by signature; returns whom it is for.
    pub(super) fn admit(
        &self,
        agent: &Agent,
        access: Access,
        operation: Operation,
        parts: &Parts,
    ) -> Result<User, FileError> {
        match access {
            Access::Granted => {}
            Access::Wrong => return Err(FileError::WrongToken),
            Access::Unproven => self.check_signature(agent, operation)?,
        }
        Ok(match &self.username {
            Some(name) => users::resolve(agent, Some(name))?,
            None => users::of_headers(agent, &parts.headers)?,
        })
    }

    fn check_signature(&self, agent: &Agent, operation: Operation) -> Result<(), FileError> {
        let expires_at = match self.expires_at.as_deref() {
            None | Some("") => None,
            Some(text) => Some(
                text.parse()
                    .map_err(|_| FileError::Request("signature_expiration is not a number"))?,
            ),
        };
        let claim = Claim {
            path: self.path.as_deref().unwrap_or_default(),
            operation,
            user: self.username.as_deref().unwrap_or_default(),
            expires_at,
        };
        let settings = agent.settings.borrow();
        let token = settings.access_token.as_deref().unwrap_or_default();
        let now = jiff::Timestamp::now().as_second();
        Ok(verify(&claim, self.signature.as_deref(), token, now)?)
    }
}

/// Decodes one name or value of a query (application/x-www-form-urlencoded).
fn decode(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded() {
        let query = Query::parse("path=%2Ftmp%2Fa+b%2B&username=user&x=y&signature=v1_a%2Fb");
        assert_eq!(query.path.as_deref(), Some("/tmp/a b+"));
        assert_eq!(query.username.as_deref(), Some("user"));
        assert_eq!(query.signature.as_deref(), Some("v1_a/b"));
        assert_eq!(Query::parse(""), Query::default());
    }
}
