//! The HTTP server: accepts connections on the loopback address until a signal asks it to end.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::arguments::Arguments;
use crate::contexts::Contexts;
use crate::routes;

/// Pause after a failure to accept, which is mostly a lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the interpreter can't serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// The event loop can't start.
    #[error("can't start the event loop")]
    Runtime(#[source] std::io::Error),
    /// The port can't be listened on.
    #[error("can't listen on 127.0.0.1:{port}")]
    Listen {
        /// The port.
        port: u16,
        /// What failed.
        #[source]
        source: std::io::Error,
    },
}

/// Serves until SIGTERM or SIGINT. All kernels are killed before it returns.
///
/// # Errors
/// The port can't be listened on.
pub(crate) fn serve(arguments: &Arguments) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ServeError::Runtime)?;
    // Dropping the runtime drops every task and with them the kernels, which kills their processes.
    runtime.block_on(accept(arguments.port))
}

async fn accept(port: u16) -> Result<(), ServeError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Runtime)?;
    let failed = |source| ServeError::Listen { port, source };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    // Whoever started it may wait for this line; nobody has to read it.
    drop(writeln!(
        std::io::stderr(),
        "ringwall-interpreter: listening on {address}"
    ));
    let contexts = Arc::new(Contexts::new());
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        };
        // Lines are small and each matters now. A failure here shows when the connection is used.
        drop(stream.set_nodelay(true));
        let contexts = Arc::clone(&contexts);
        drop(tokio::spawn(async move {
            let service = service_fn(|request| {
                let contexts = Arc::clone(&contexts);
                routes::serve(contexts, request)
            });
            // An error means that the client hung up or sent no HTTP; there is nobody to tell.
            drop(
                http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await,
            );
        }));
    }
}
