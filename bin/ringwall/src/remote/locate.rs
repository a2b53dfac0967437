//! Where the service is: named by the environment, this user's running server, or this very process.
//!
//! A running server is known by two files in its directory: `address`, and `lock`, which it holds with flock(2) for as long as it lives. An
//! address without a held lock was left by a crash. Whoever takes the lock removes it, so that a key is never sent to a stranger's port.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use reqwest::Url;
use rustix::fs::{FlockOperation, Mode, OFlags};

use super::host::{self, Host, Settings, StartError};
use super::service::{LOCAL_SOCKET, Place, Service};
use crate::commands::serve;
use crate::failure::Failure;
use crate::ui;

/// File of the server's URL, in its directory.
const ADDRESS_FILE: &str = "address";
/// File that whoever serves holds locked; the node makes it.
const LOCK_FILE: &str = "lock";
/// How long another command that works on the directory is waited for. A build may take longer, but it lets others in.
const TURN_PATIENCE: Duration = Duration::from_secs(120);
/// How often it is looked whether it is done.
const TURN_PAUSE: Duration = Duration::from_millis(20);
/// After this long the user is told what is waited for.
const SILENCE: Duration = Duration::from_secs(2);
/// How long this machine's own server may take to answer that it is there.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// Seconds a sandbox lives when there is no server and its creator does not say.
const DEFAULT_TIMEOUT_S: u64 = 3600;

/// What may be done to find a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Search {
    /// Start one in this process if there is none.
    OrStart,
    /// The same, but only where there have been sandboxes before.
    IfAny,
}

/// Finds the service.
pub(super) async fn locate(search: Search) -> Result<Option<Service>, Failure> {
    if let Some(service) = from_environment()? {
        return Ok(Some(service));
    }
    locate_here(search).await
}

/// Finds this machine's.
pub(super) async fn locate_here(search: Search) -> Result<Option<Service>, Failure> {
    let directory = serve::directory(None)?;
    if search == Search::IfAny && !directory.join(LOCK_FILE).exists() {
        return Ok(None);
    }
    let begun = Instant::now();
    let mut was_told = false;
    loop {
        if let Some(service) = running(&directory).await? {
            return Ok(Some(service));
        }
        match start(&directory).await {
            Ok(service) => return Ok(Some(service)),
            Err(StartError::InUse) if begun.elapsed() < TURN_PATIENCE => {}
            Err(StartError::InUse) => {
                return Err(
                    Failure::own(format!("another ringwall still works on {}", directory.display()))
                        .hint("wait for it, or find it with `fuser -v` on the file `lock` there"),
                );
            }
            Err(StartError::Failed(failure)) => return Err(failure),
        }
        if !was_told && begun.elapsed() > SILENCE {
            was_told = true;
            ui::note("waiting for another ringwall to finish what it does to this machine's sandboxes");
        }
        tokio::time::sleep(TURN_PAUSE).await;
    }
}

fn from_environment() -> Result<Option<Service>, Failure> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (url_name, key_name) = if set("RINGWALL_URL").is_some() {
        ("RINGWALL_URL", "RINGWALL_API_KEY")
    } else {
        ("E2B_API_URL", "E2B_API_KEY")
    };
    let Some(url) = set(url_name) else { return Ok(None) };
    let parse = |name: &str, text: &str| -> Result<Url, Failure> {
        let url = Url::parse(text).map_err(|error| Failure::usage(format!("{name}: {text:?} is no URL: {error}")))?;
        match url.scheme() {
            "http" | "https" if url.host_str().is_some() => Ok(url),
            _ => Err(Failure::usage(format!(
                "{name}: {text:?} is no http:// or https:// URL"
            ))),
        }
    };
    let key = set(key_name).ok_or_else(|| {
        Failure::usage(format!("{url_name} is set, {key_name} is not"))
            .hint("`ringwall key create NAME`, where the server runs, makes a key")
    })?;
    if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::usage(format!("{key_name} holds what no key does")));
    }
    // A server of ours serves both planes; others may not.
    let data_url = match set("E2B_SANDBOX_URL") {
        Some(text) if url_name == "E2B_API_URL" => Some(parse("E2B_SANDBOX_URL", &text)?),
        _ => None,
    };
    let service = Service::new(&parse(url_name, &url)?, data_url.as_ref(), key, Place::Remote)?;
    Ok(Some(service))
}

/// Returns this user's server if one runs and answers.
async fn running(directory: &Path) -> Result<Option<Service>, Failure> {
    let Ok(address) = fs::read_to_string(directory.join(ADDRESS_FILE)) else {
        return Ok(None);
    };
    if !is_held(directory) {
        return Ok(None);
    }
    let (Ok(url), Ok(key)) = (Url::parse(address.trim()), serve::read_key(directory)) else {
        return Ok(None);
    };
    let service = match url.scheme() {
        "https" => Service::by_socket(&url, key, directory)?,
        _ => Service::new(&url, None, key, Place::Served(directory.to_owned()))?,
    };
    match tokio::time::timeout(ANSWER_PATIENCE, service.is_there()).await {
        Ok(true) => Ok(Some(service)),
        // On its way up or down: it is asked again, or takes its turn.
        _ => Ok(None),
    }
}

/// Whether somebody serves the directory.
fn is_held(directory: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let Ok(lock) = rustix::fs::open(directory.join(LOCK_FILE), flags, Mode::empty()) else {
        return false;
    };
    // Shared, and let go at once: a server that starts in this moment tries again.
    matches!(
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared),
        Err(rustix::io::Errno::WOULDBLOCK)
    )
}

/// Serves the directory by this process.
async fn start(directory: &Path) -> Result<Service, StartError> {
    let host = Host::start(Settings {
        default_timeout_s: DEFAULT_TIMEOUT_S,
        ..host::Settings::of_a_command(directory.to_owned())
    })
    .await?;
    let url =
        Url::parse(&format!("http://{}", host.address)).map_err(|error| StartError::Failed(Failure::own(error)))?;
    let service = Service::new(&url, None, host.key.clone(), Place::Own(directory.to_owned()))
        .map_err(|error| StartError::Failed(error.into()))?;
    Ok(service.with_host(host))
}

/// Says where the server of this directory is.
pub(crate) fn publish(directory: &Path, url: &str) -> std::io::Result<()> {
    let path = address_file(directory);
    let fresh = path.with_extension("new");
    let mut file = fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)?;
    writeln!(file, "{url}")?;
    fs::rename(&fresh, &path)
}

/// Takes the word back. Only for who holds the lock.
pub(crate) fn withdraw(directory: &Path) {
    // Most often there is none of them.
    drop(fs::remove_file(address_file(directory)));
    drop(fs::remove_file(directory.join(LOCAL_SOCKET)));
}

fn address_file(directory: &Path) -> PathBuf {
    directory.join(ADDRESS_FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_lock_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!is_held(directory.path()));
        let lock = fs::File::create(directory.path().join(LOCK_FILE)).unwrap();
        assert!(!is_held(directory.path()));
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert!(is_held(directory.path()));
    }

    #[test]
    fn addresses_come_and_go() {
        let directory = tempfile::tempdir().unwrap();
        publish(directory.path(), "http://127.0.0.1:1").unwrap();
        let text = fs::read_to_string(address_file(directory.path())).unwrap();
        assert_eq!(text, "http://127.0.0.1:1\n");
        withdraw(directory.path());
        withdraw(directory.path());
        assert!(!address_file(directory.path()).exists());
    }
}
