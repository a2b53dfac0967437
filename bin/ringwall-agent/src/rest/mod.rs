//! The plain HTTP routes besides files: `/init`, `/envs` and `/metrics`.

pub(crate) mod interpreter;
pub(crate) mod metrics;

use http::{Request, StatusCode};
use ringwall_agent_proto::MAX_MESSAGE_BYTES;
use ringwall_agent_proto::rest::Init;

use crate::agent::Agent;
use crate::body::{self, Reply};
use crate::rpc;
use crate::shared_body::SharedBody;

/// `POST /init`: only the host can reach the agent's socket with it, as the server passes no client's call on.
pub(crate) async fn init(agent: &Agent, request: Request<SharedBody>) -> Reply {
    let init = async {
        let bytes = rpc::read_limited(request.into_body(), MAX_MESSAGE_BYTES).await?;
        rpc::parse::<Init>(if bytes.is_empty() { b"{}" } else { &bytes })
    };
    match init.await {
        Ok(init) => {
            agent.settings.borrow_mut().replace(init);
            body::empty(StatusCode::NO_CONTENT)
        }
        Err(error) => body::error(StatusCode::BAD_REQUEST, error.message),
    }
}

/// `GET /envs`: the environment that `/init` has set.
pub(crate) fn envs(agent: &Agent) -> Reply {
    body::json(StatusCode::OK, &agent.settings.borrow().environment)
}
