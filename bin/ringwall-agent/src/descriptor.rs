//! Descriptors that the event loop watches.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// A descriptor of the event loop.
pub(crate) type Watched = AsyncFd<OwnedFd>;

/// Puts a non-blocking descriptor under the event loop's watch.
///
/// # Errors
/// What epoll_ctl(2) says.
#[expect(
    deprecated,
    reason = "the successor is unsafe, for types whose number may change; an OwnedFd's can't"
)]
pub(crate) fn watch(fd: OwnedFd) -> io::Result<Watched> {
    AsyncFd::new(fd)
}
