//! Files of a sandbox: single ones by HTTP, directories by calls.

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use reqwest::{Method, Response};
use ringwall_agent_proto::filesystem::{
    EntryInfo, EntryResponse, ListDirRequest, ListDirResponse, PathRequest, SERVICE,
};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::agent::Sandbox;
use super::error::CallError;
use super::http as web;
use super::service::encode;

/// Bytes of a file sent at a time.
const CHUNK_BYTES: usize = 256 * 1024;

impl Sandbox {
    /// What a path is; `None` if it is nothing.
    pub(crate) async fn stat(&self, path: &str) -> Result<Option<EntryInfo>, CallError> {
        let request = PathRequest { path: path.to_owned() };
        match self.call::<EntryResponse>(SERVICE, "Stat", &request).await {
            Ok(found) => Ok(Some(found.entry)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What a directory holds, one level of it.
    pub(crate) async fn list(&self, path: &str) -> Result<Vec<EntryInfo>, CallError> {
        let request = ListDirRequest {
            path: path.to_owned(),
            depth: 1,
        };
        let listed: ListDirResponse = self.call(SERVICE, "ListDir", &request).await?;
        Ok(listed.entries)
    }

    /// Makes a directory with its parents; one that is there already is fine.
    pub(crate) async fn make_dir(&self, path: &str) -> Result<(), CallError> {
        let request = PathRequest { path: path.to_owned() };
        match self.call::<EntryResponse>(SERVICE, "MakeDir", &request).await {
            Err(CallError::Rpc(error)) if error.code == ringwall_agent_proto::Code::AlreadyExists => Ok(()),
            result => result.map(drop),
        }
    }

    /// Begins to read a file.
    pub(crate) async fn download(&self, path: &str) -> Result<Response, CallError> {
        let request = self.request(Method::GET, &format!("/files?path={}", encode(path)));
        web::send(&self.url(), request).await
    }

    /// Writes a file, making its parents.
    pub(crate) async fn upload(&self, path: &str, body: reqwest::Body) -> Result<(), CallError> {
        let request = self
            .request(Method::POST, &format!("/files?path={}", encode(path)))
            .header("content-type", "application/octet-stream")
            .body(body);
        web::send(&self.url(), request).await.map(drop)
    }
}

/// Makes pieces of what is read.
pub(crate) fn chunks(
    from: impl AsyncRead + Unpin + Send + 'static,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    stream::try_unfold(from, |mut from| async move {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let count = (&mut from).take(CHUNK_BYTES as u64).read_buf(&mut chunk).await?;
        Ok((count > 0).then(|| (Bytes::from(chunk), from)))
    })
}

/// A file here as the body of a request.
pub(crate) fn reading(file: std::fs::File) -> reqwest::Body {
    reqwest::Body::wrap_stream(chunks(tokio::fs::File::from_std(file)))
}
