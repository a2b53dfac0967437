//! `GET /files`.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response};
use ringwall_agent_proto::signature::Operation;
use tokio::task::{JoinHandle, spawn_blocking};

use super::failure::FileError;
use super::query::Query;
use crate::agent::Agent;
use crate::body::{Body, Reply};
use crate::paths;
use crate::rights::as_user;
use crate::router::Access;
use crate::shared_body::SharedBody;

/// Bytes read at a time.
const CHUNK_BYTES: u64 = 128 * 1024;

/// Answers with the file's contents.
pub(crate) async fn download(agent: &Agent, access: Access, request: Request<SharedBody>) -> Reply {
    match try_download(agent, access, request).await {
        Ok(reply) => reply,
        Err(error) => error.into_reply(),
    }
}

async fn try_download(agent: &Agent, access: Access, request: Request<SharedBody>) -> Result<Reply, FileError> {
    let (parts, _) = request.into_parts();
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let user = query.admit(agent, access, Operation::Read, &parts)?;
    let path = paths::resolve(query.path.as_deref().ok_or(FileError::NoPath)?, &user)?;
    // What is open stays readable: only the opening needs the user's rights.
    let stream = as_user(&user, move || open(path)).await??;
    let mut reply = Response::new(Body::File(stream));
    reply
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok(reply)
}

fn open(path: PathBuf) -> Result<FileStream, FileError> {
    let file = paths::open_regular(&path).map_err(FileError::at(&path))?;
    let size = file.metadata().map_err(FileError::at(&path))?.len();
    Ok(FileStream {
        // Files of /proc say 0 and have contents all the same: those are sent as long as they last.
        left: (size > 0).then_some(size),
        state: State::Idle(file),
    })
}

/// A file on its way to a client: the next piece is read when the client has taken the last.
#[derive(Debug)]
pub(crate) struct FileStream {
    /// Bytes still to send, when known.
    left: Option<u64>,
    state: State,
}

#[derive(Debug)]
enum State {
    Idle(File),
    Reading(JoinHandle<(File, io::Result<Vec<u8>>)>),
    Over,
}

impl FileStream {
    /// Bytes still to come, when known.
    pub(crate) fn size(&self) -> Option<u64> {
        self.left
    }

    /// The next piece; `None` at the end. An error cuts the connection: the client has been told the size, and sees that some is missing.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.left == Some(0) {
            self.state = State::Over;
        }
        let mut reading = match std::mem::replace(&mut self.state, State::Over) {
            State::Over => return Poll::Ready(None),
            State::Reading(reading) => reading,
            State::Idle(file) => {
                let wanted = self.left.map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
                spawn_blocking(move || read(file, wanted))
            }
        };
        let Poll::Ready(done) = std::pin::Pin::new(&mut reading).poll(context) else {
            self.state = State::Reading(reading);
            return Poll::Pending;
        };
        let (file, chunk) = done.map_err(io::Error::other)?;
        let chunk = chunk?;
        if chunk.is_empty() {
            // It has become shorter since we told its size.
            let cut = self.left.map(|_| Err(io::ErrorKind::UnexpectedEof.into()));
            return Poll::Ready(cut);
        }
        self.left = self.left.map(|left| left.saturating_sub(chunk.len() as u64));
        self.state = State::Idle(file);
        Poll::Ready(Some(Ok(chunk.into())))
    }
}

fn read(mut file: File, wanted: u64) -> (File, io::Result<Vec<u8>>) {
    let mut chunk = Vec::with_capacity(usize::try_from(wanted).unwrap_or(0));
    let result = (&mut file).take(wanted).read_to_end(&mut chunk);
    (file, result.map(|_| chunk))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_shrinks_is_an_error_and_proc_has_no_size() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        std::fs::write(&path, vec![1_u8; 10]).unwrap();
        let mut stream = open(path.clone()).unwrap();
        assert_eq!(stream.size(), Some(10));
        File::create(&path).unwrap();
        let next = std::future::poll_fn(|context| stream.poll_next(context)).await;
        assert!(next.unwrap().is_err());

        let mut stream = open("/proc/self/status".into()).unwrap();
        assert_eq!(stream.size(), None);
        let next = std::future::poll_fn(|context| stream.poll_next(context)).await;
        assert!(!next.unwrap().unwrap().is_empty());
        assert!(matches!(open(directory.path().into()), Err(FileError::Io { .. })));
    }
}
