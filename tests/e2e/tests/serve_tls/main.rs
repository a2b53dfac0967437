//! `ringwall serve` with TLS: everything that clients do goes through it, bad files are refused, slow handshakes end, and a new
//! certificate is taken up without a restart.

mod cli;
mod clients;
mod files;
mod handshakes;
mod pki;
mod traffic;
mod tunnel;

use std::path::PathBuf;

use pki::{Authority, Pair, place};
use ringwall_e2e::serve::{Server, free_port};
use ringwall_e2e::{User, World, users};
use rustls::version::{TLS12, TLS13};
use tunnel::Tunnel;

/// What the tests' certificates are for.
const NAMES: [&str; 4] = ["127.0.0.1", "localhost", "sandbox.localhost", "*.sandbox.localhost"];

/// A server that speaks TLS, and who has signed its certificate. Its own client goes through a tunnel.
struct Ground {
    server: Server,
    authority: Authority,
    pair: Pair,
    port: u16,
    /// File of the authority's certificate.
    ca: PathBuf,
    _tunnel: Tunnel,
}

impl Ground {
    fn new(user: User, flags: &[&str]) -> Self {
        let world = World::new(user);
        let port = free_port();
        let authority = Authority::new("Ringwall tests");
        let pair = authority.certify(&NAMES);
        let certificate = place(&world, "server.pem", &pair.certificate);
        let key = place(&world, "server.key", &pair.key);
        let ca = place(&world, "ca.pem", &authority.pem());
        let tunnel = Tunnel::open(port, "127.0.0.1", authority.client(&[&TLS13, &TLS12], &["http/1.1"]));
        let files = [certificate, key].map(|path| path.to_string_lossy().into_owned());
        let flags = [&["--tls-cert", &files[0], "--tls-key", &files[1]], flags].concat();
        let server = Server::within(world, port, &flags, Some(tunnel.address()));
        Ground {
            server,
            authority,
            pair,
            port,
            ca,
            _tunnel: tunnel,
        }
    }

    fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }
}

/// Runs a check for every user there is.
fn each_user(check: impl Fn(Ground)) {
    for user in users() {
        check(Ground::new(user, &["--pool", "0"]));
    }
}
