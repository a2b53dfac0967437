//! Accepting connections and speaking HTTP/1.1 on them.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::agent::Agent;
use crate::arguments::Arguments;
use crate::shared_body::SharedBody;
use crate::{ports, router, shutdown};

/// Connections served at a time; more wait in the socket's backlog.
const MAX_CONNECTIONS: usize = 256;
/// Bytes hyper may hold per connection: a request's headers must fit.
const MAX_BUFFER_BYTES: usize = 64 * 1024;
/// Header lines in a request.
const MAX_HEADERS: usize = 128;
/// How long the next request's headers may take; long, since a pooled connection waits in it too.
const HEADER_TIMEOUT: Duration = Duration::from_secs(300);
/// Pause after an accept(2) that failed, most likely for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until told to stop.
///
/// # Errors
/// When a socket can't be listened on; never for a connection's fault.
pub(crate) async fn serve(agent: Rc<Agent>, arguments: Arguments) -> io::Result<()> {
    let listener = listener(arguments.listener)?;
    if let Some(ports) = arguments.ports {
        tokio::task::spawn_local(ports::serve(ports::listener(ports)?));
    }
    tokio::task::spawn_local(accept(agent.clone(), listener));
    shutdown::wait(&agent).await
}

fn listener(fd: OwnedFd) -> io::Result<UnixListener> {
    let listener = StdUnixListener::from(fd);
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

async fn accept(agent: Rc<Agent>, listener: UnixListener) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let agent = agent.clone();
                tokio::task::spawn_local(async move {
                    connection(agent, stream).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn connection(agent: Rc<Agent>, stream: UnixStream) {
    let service = service_fn(move |request| {
        let agent = agent.clone();
        async move {
            let request = Request::map(request, SharedBody::new);
            let body = request.body().clone();
            let reply = router::route(agent, request).await;
            body.drain_known().await;
            Ok::<_, Infallible>(reply)
        }
    });
    // A connection that fails is the client's affair: there is nobody else to tell.
    let _ended = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
