//! The methods of `filesystem.Filesystem`.

use std::path::PathBuf;
use std::rc::Rc;

use http::Request;
use ringwall_agent_proto::filesystem::{
    ListDirRequest, MoveRequest, PathRequest, WatchEvent, WatchRequest, WatcherEvents, WatcherRef,
};
use ringwall_agent_proto::process::Empty;
use ringwall_agent_proto::{Code, RpcError};

use super::operations;
use super::watch::{self, Watch};
use crate::agent::Agent;
use crate::body::{Body, Reply};
use crate::paths;
use crate::rights::as_user;
use crate::rpc::stream::EventStream;
use crate::rpc::{self, CallOptions};
use crate::shared_body::SharedBody;
use crate::users::{self, User};

/// Answers a method by name.
pub(crate) async fn call(agent: Rc<Agent>, method: &str, request: Request<SharedBody>) -> Reply {
    let user = users::of_headers(&agent, request.headers())
        .map_err(|error| RpcError::new(Code::Unauthenticated, error.to_string()));
    match method {
        "Stat" => rpc::unary(request, async |it| one_path(user, it, operations::stat).await).await,
        "MakeDir" => rpc::unary(request, async |it| one_path(user, it, operations::make_dir).await).await,
        "Remove" => rpc::unary(request, async |it| one_path(user, it, operations::remove).await).await,
        "ListDir" => {
            rpc::unary(request, async |it: ListDirRequest| {
                let user = user?;
                let path = resolve(&it.path, &user)?;
                as_user(&user, move || operations::list(&path, it.depth)).await?
            })
            .await
        }
        "Move" => {
            rpc::unary(request, async |it: MoveRequest| {
                let user = user?;
                let (source, destination) = (resolve(&it.source, &user)?, resolve(&it.destination, &user)?);
                as_user(&user, move || operations::rename(&source, &destination)).await?
            })
            .await
        }
        "WatchDir" => watch_dir(user, request).await,
        "CreateWatcher" => rpc::unary(request, async |it| create_watcher(&agent, &user?, it).await).await,
        "GetWatcherEvents" => {
            rpc::unary(request, async |it: WatcherRef| {
                let events = agent.watchers.fetch(&it.watcher_id)?;
                Ok(WatcherEvents { events })
            })
            .await
        }
        "RemoveWatcher" => {
            rpc::unary(request, async |it: WatcherRef| {
                agent.watchers.remove(&it.watcher_id)?;
                Ok(Empty {})
            })
            .await
        }
        _ => rpc::no_such_method(method),
    }
}

async fn one_path<Res: Send + 'static>(
    user: Result<User, RpcError>,
    request: PathRequest,
    operation: impl FnOnce(&std::path::Path) -> Result<Res, RpcError> + Send + 'static,
) -> Result<Res, RpcError> {
    let user = user?;
    let path = resolve(&request.path, &user)?;
    as_user(&user, move || operation(&path)).await?
}

async fn create_watcher(agent: &Agent, user: &User, request: WatchRequest) -> Result<WatcherRef, RpcError> {
    agent.watchers.check_room()?;
    let path = resolve(&request.path, user)?;
    let watch = Watch::open(&request, path, user.clone()).await?;
    // Again: others may have come in while this one was opened.
    agent.watchers.check_room()?;
    Ok(WatcherRef {
        watcher_id: agent.watchers.add(watch),
    })
}

async fn watch_dir(user: Result<User, RpcError>, request: Request<SharedBody>) -> Reply {
    if let Some(reply) = rpc::refuse_unless_stream(request.headers()) {
        return reply;
    }
    let opened = async {
        let options = CallOptions::of(request.headers())?;
        let message: WatchRequest = rpc::stream_request(request).await?;
        let user = user?;
        let path = resolve(&message.path, &user)?;
        let watch = Watch::open(&message, path, user).await?;
        Ok((options, watch))
    };
    match opened.await {
        Ok((options, watch)) => {
            let (listener, stream) = EventStream::new(options, WatchEvent::Keepalive(Empty {}).into_frame());
            tokio::task::spawn_local(watch::stream(watch, listener));
            rpc::stream_reply(Body::Events(stream))
        }
        Err(error) => rpc::stream_error(error),
    }
}

fn resolve(path: &str, user: &User) -> Result<PathBuf, RpcError> {
    paths::resolve(path, user).map_err(|error| RpcError::new(Code::InvalidArgument, error.to_string()))
}
