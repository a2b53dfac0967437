//! `GET` and `POST /files`: contents in and out, streamed, never whole in memory.
//!
//! `query` reads and checks who may, `download` and `upload` answer, `inflate` undoes the client's compression, `sink` writes to disk.

pub(crate) mod download;
mod failure;
mod inflate;
mod query;
mod sink;
pub(crate) mod upload;
