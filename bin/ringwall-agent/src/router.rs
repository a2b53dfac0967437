//! From path and token to the code that answers.

use std::rc::Rc;

use http::{Method, Request, StatusCode};
use ringwall_agent_proto::{Code, RpcError, filesystem, process, signature};

use crate::agent::Agent;
use crate::body::{self, Reply};
use crate::shared_body::SharedBody;
use crate::{files, rest, rpc};

/// Header of the sandbox's access token.
const TOKEN_HEADER: &str = "x-access-token";

/// Whether a request showed the access token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// It did, or none is needed.
    Granted,
    /// It showed none.
    Unproven,
    /// It showed another.
    Wrong,
}

/// Answers one request.
pub(crate) async fn route(agent: Rc<Agent>, request: Request<SharedBody>) -> Reply {
    let access = access(&agent, &request);
    let path = request.uri().path().to_owned();
    let is_get = request.method() == Method::GET;
    let is_post = request.method() == Method::POST;
    match path.as_str() {
        "/health" if is_get => return body::empty(StatusCode::NO_CONTENT),
        "/init" if is_post => return rest::init(&agent, request).await,
        "/files" if is_get => return files::download::download(&agent, access, request).await,
        "/files" if is_post => return files::upload::upload(&agent, access, request).await,
        _ => {}
    }
    let method = rpc_method(&path);
    if access != Access::Granted {
        let message = match access {
            Access::Unproven => "no access token provided: this sandbox wants the header X-Access-Token",
            _ => "invalid access token",
        };
        return match method {
            Some(_) => rpc::unary_error(&RpcError::new(Code::Unauthenticated, message)),
            None => body::error(StatusCode::UNAUTHORIZED, message),
        };
    }
    match (path.as_str(), method) {
        ("/interpreter", _) if is_post => rest::interpreter::start(&agent).await,
        ("/envs", _) if is_get => rest::envs(&agent),
        ("/metrics", _) if is_get => rest::metrics::metrics(&agent).await,
        (_, Some(_)) if !is_post => body::error(StatusCode::METHOD_NOT_ALLOWED, "an RPC is called by POST"),
        (_, Some((process::SERVICE, method))) => crate::process::rpc::call(agent, method, request).await,
        (_, Some((_, method))) => crate::filesystem::rpc::call(agent, method, request).await,
        _ => body::error(StatusCode::NOT_FOUND, format!("no such path: {path}")),
    }
}

/// Splits the path of an RPC into service and method.
fn rpc_method(path: &str) -> Option<(&str, &str)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    matches!(service, process::SERVICE | filesystem::SERVICE).then_some((service, method))
}

fn access(agent: &Agent, request: &Request<SharedBody>) -> Access {
    let settings = agent.settings.borrow();
    let Some(wanted) = &settings.access_token else {
        return Access::Granted;
    };
    match request.headers().get(TOKEN_HEADER).map(|value| value.to_str()) {
        None => Access::Unproven,
        Some(Ok(given)) if signature::same(given, wanted) => Access::Granted,
        Some(_) => Access::Wrong,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_two_services_are_rpcs() {
        assert_eq!(rpc_method("/process.Process/Start"), Some(("process.Process", "Start")));
        assert_eq!(
            rpc_method("/filesystem.Filesystem/Stat").map(|(_, method)| method),
            Some("Stat")
        );
        assert_eq!(rpc_method("/other.Service/Stat"), None);
        assert_eq!(rpc_method("/files"), None);
    }
}
