//! The routes of E2B's code interpreter: `/execute`, `/contexts` and `/health`.

use std::convert::Infallible;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};

use crate::client;
use crate::context::ContextView;
use crate::contexts::Contexts;
use crate::environment;
use crate::execution::{self, Cell};
use crate::request::{CreateContext, Execute, Target, read_body};
use crate::response::{self, Body, Refusal};

/// Serves one request.
pub(crate) async fn serve(contexts: Arc<Contexts>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    Ok(route(&contexts, request).await.unwrap_or_else(Refusal::into_response))
}

async fn route(contexts: &Arc<Contexts>, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let (head, body) = request.into_parts();
    let path: Vec<&str> = head.uri.path().split('/').skip(1).collect();
    match (&head.method, path.as_slice()) {
        (&Method::GET, ["health"]) => Ok(response::text("OK")),
        (&Method::POST, ["execute"]) => execute(contexts, Execute::parse(&read_body(body).await?)?).await,
        (&Method::GET, ["contexts"]) => {
            let views: Vec<ContextView> = contexts.list().iter().map(|context| context.view()).collect();
            Ok(response::json(&views))
        }
        (&Method::POST, ["contexts"]) => {
            let wanted = CreateContext::parse(&read_body(body).await?)?;
            let context = contexts.create(wanted.language, wanted.cwd.as_deref()).await?;
            Ok(response::json(&context.view()))
        }
        (&Method::DELETE, ["contexts", id]) => {
            let context = contexts.remove(id).ok_or_else(|| Refusal::no_context(id))?;
            drop(context.stop().await);
            Ok(response::json(&()))
        }
        (&Method::POST, ["contexts", id, "restart"]) => {
            let context = contexts.get(id).ok_or_else(|| Refusal::no_context(id))?;
            let mut slot = context.stop().await;
            context.ensure_kernel(&mut slot).await?;
            Ok(response::json(&()))
        }
        (_, ["health" | "execute" | "contexts"] | ["contexts", _] | ["contexts", _, "restart"]) => Err(Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("{} is not allowed here", head.method),
        )),
        _ => Err(Refusal::new(
            StatusCode::NOT_FOUND,
            "there is nothing at this path".to_owned(),
        )),
    }
}

async fn execute(contexts: &Contexts, wanted: Execute) -> Result<Response<Body>, Refusal> {
    let context = match wanted.target {
        Target::Context(id) => contexts.get(&id).ok_or_else(|| Refusal::no_context(&id))?,
        Target::Default(language) => contexts.default_of(language),
    };
    let environment = environment::snippets(context.language(), &wanted.env_vars)?;
    let ticket = context.ticket().ok_or_else(|| {
        Refusal::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too many executions wait for this context".to_owned(),
        )
    })?;
    // A kernel that can't start is best said by the status, so it starts before the answer does. Behind other
    // executions the answer starts at once, so that keepalives can flow.
    let mut slot = context.free_slot();
    if let Some(slot) = &mut slot
        && let Err(error) = context.ensure_kernel(slot).await
    {
        contexts.forget_default(context.id());
        return Err(error.into());
    }
    let (client, body) = client::channel();
    let cell = Cell {
        code: wanted.code,
        environment,
    };
    drop(tokio::spawn(execution::run(ticket, slot, cell, client)));
    Ok(response::lines(body))
}
