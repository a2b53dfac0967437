//! The service `filesystem.Filesystem`.
//!
//! `rpc` reads requests; `operations` are the calls that end at once, on a blocking thread; `entry` and `metadata` describe a path; `tree`
//! is inotify over a directory tree, which `watch` streams to a client and `watchers` keeps for clients that poll.

pub(crate) mod entry;
mod failure;
pub(crate) mod metadata;
mod operations;
pub(crate) mod rpc;
mod tree;
mod watch;
pub(crate) mod watchers;
