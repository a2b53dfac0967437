//! What TLS adds to a server: its certificate, the name that clients reach it by, and the way in for this machine's own commands.

use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::Arc;

use ringwall_api::Tls;
use rustix::fs::{CWD, Mode, OFlags};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::ServeArgs;
use crate::failure::Failure;
use crate::remote::LOCAL_SOCKET;
use crate::ui;

/// Port of `https` URLs that name none (RFC 9110, section 4.2.2).
const HTTPS_PORT: u16 = 443;

/// Reads certificate and key, if TLS is asked for.
pub(super) fn load(args: &ServeArgs) -> Result<Option<Arc<Tls>>, Failure> {
    let (Some(certificate), Some(key)) = (&args.tls_cert, &args.tls_key) else {
        return Ok(None);
    };
    let tls = Tls::load(certificate, key).map_err(|error| {
        let hint = match &error {
            ringwall_api::LoadTlsError::EncryptedKey { .. } => "`openssl pkey -in OLD -out NEW` writes it without one",
            ringwall_api::LoadTlsError::Mismatch { .. } => {
                "--tls-cert wants the server's own certificate first, then those that signed it"
            }
            _ => "--tls-cert and --tls-key want PEM files: a chain of certificates, and the key of the first",
        };
        Failure::usage(error).hint(hint)
    })?;
    warn_of_exposure(&tls, key);
    Ok(Some(Arc::new(tls)))
}

/// A mode alone proves nothing: the directories above may be closed. So it is said, and not refused.
fn warn_of_exposure(tls: &Tls, key: &Path) {
    if tls.is_key_exposed() {
        ui::note(&format!(
            "every user of this machine may read the private key in {0}; `chmod o-r {0}` ends that",
            key.display()
        ));
    }
}

/// Returns the name under which sandboxes' ports are reached, if the certificate says one: that of its first wildcard.
pub(super) fn domain(tls: &Tls, port: u16) -> Option<String> {
    let names = tls.dns_names();
    let parent = names.iter().find_map(|name| name.strip_prefix("*."))?;
    Some(with_port(parent, port))
}

/// Joins a host name or address and a port, as in a URL; the port of `https` is left out.
pub(super) fn with_port(host: &str, port: u16) -> String {
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    if port == HTTPS_PORT {
        host
    } else {
        format!("{host}:{port}")
    }
}

/// Returns the host that clients are told: the address listened on where the certificate is for it, else a name that it is for.
pub(super) fn host(tls: &Tls, address: SocketAddr, domain: &str) -> String {
    let own = if address.ip().is_unspecified() {
        "127.0.0.1".to_owned()
    } else {
        address.ip().to_string()
    };
    if tls.covers(&own) {
        return own;
    }
    let parent = without_port(domain);
    // `api.DOMAIN` is where clients look that are told only a domain (E2B_DOMAIN).
    [parent.to_owned(), format!("api.{parent}")]
        .into_iter()
        .chain(tls.dns_names().into_iter().filter(|name| !name.starts_with("*.")))
        .find(|name| tls.covers(name))
        .unwrap_or(own)
}

/// Whether clients that are told only the domain get along: for the API they use `api.DOMAIN`, for sandboxes `PORT-ID.DOMAIN`.
pub(super) fn covers_domain(tls: &Tls, domain: &str) -> bool {
    let parent = without_port(domain);
    [format!("api.{parent}"), example_port(parent)]
        .iter()
        .all(|name| tls.covers(name))
}

/// Any port's name will do: a wildcard covers all or none.
fn example_port(parent: &str) -> String {
    format!("1-x.{parent}")
}

fn without_port(domain: &str) -> &str {
    domain.split(':').next().unwrap_or_default()
}

/// Says what clients will stumble over.
pub(super) fn warn_of_names(tls: &Tls, host: &str, domain: &str) {
    if !tls.covers(host) {
        ui::note(&format!("the certificate is not for {host}: clients will refuse it"));
    }
    let parent = without_port(domain);
    if !tls.covers(&example_port(parent)) {
        ui::note(&format!(
            "the certificate is not for *.{parent}: clients will refuse it under the host names of sandboxes' ports"
        ));
    }
}

/// Reads the files again at each SIGHUP, for as long as the process lives.
pub(super) fn reload_on_hangup(tls: Arc<Tls>, key: &Path) -> Result<(), Failure> {
    let mut hangup = signal(SignalKind::hangup()).map_err(Failure::own)?;
    let key = key.to_owned();
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            let tls = Arc::clone(&tls);
            // A file may lie on a file system that does not answer at once.
            let (tls, read) = match tokio::task::spawn_blocking(move || {
                let read = tls.reload();
                (tls, read)
            })
            .await
            {
                Ok(done) => done,
                Err(_) => return,
            };
            match read {
                Ok(()) => {
                    ui::note("read the TLS certificate and key again; new connections get them");
                    warn_of_exposure(&tls, &key);
                }
                Err(error) => {
                    let why = std::error::Error::source(&error).map(|why| format!(": {why}"));
                    ui::note(&format!(
                        "{error}{}; the TLS certificate and key read before stay in use",
                        why.unwrap_or_default()
                    ));
                }
            }
        }
    });
    Ok(())
}

/// Listens on a socket in the server's directory, which is closed to others. By descriptor: a path may be longer than an address can be.
pub(super) fn listen_locally(directory: &Path) -> std::io::Result<UnixListener> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(CWD, directory, flags, Mode::empty())?;
    // Left by a crash: the directory's lock is ours.
    drop(std::fs::remove_file(directory.join(LOCAL_SOCKET)));
    let listener = UnixListener::bind(format!("/proc/self/fd/{}/{LOCAL_SOCKET}", opened.as_raw_fd()))?;
    rustix::fs::chmodat(
        &opened,
        LOCAL_SOCKET,
        Mode::RUSR | Mode::WUSR,
        rustix::fs::AtFlags::empty(),
    )?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_written_as_in_urls() {
        assert_eq!(with_port("a.test", 443), "a.test");
        assert_eq!(with_port("a.test", 3000), "a.test:3000");
        assert_eq!(with_port("::1", 443), "[::1]");
        assert_eq!(with_port("::1", 3000), "[::1]:3000");
        assert_eq!(without_port("a.test:99"), "a.test");
    }
}
