//! A way from plain TCP to a server that speaks TLS, for clients that know no TLS: each connection here is one there, the server's
//! certificate checked.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;

/// Passes connections on until it is dropped.
pub(crate) struct Tunnel {
    runtime: Option<Runtime>,
    address: SocketAddr,
}

impl Tunnel {
    /// Opens one to a port of this machine, whose server must prove to be `name`.
    pub(crate) fn open(port: u16, name: &'static str, config: Arc<ClientConfig>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let name = ServerName::try_from(name).expect("a name");
        let listener = runtime
            .block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .expect("a listener");
        let address = listener.local_addr().expect("its address");
        runtime.spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (config, name) = (Arc::clone(&config), name.clone());
                tokio::spawn(async move {
                    // Whatever fails is seen by the client as the end of its connection.
                    let far = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
                    let mut far = TlsConnector::from(config).connect(name, far).await?;
                    copy_bidirectional(&mut near, &mut far).await
                });
            }
        });
        Tunnel {
            runtime: Some(runtime),
            address,
        }
    }

    /// Where to connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
