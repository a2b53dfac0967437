//! `POST /files`: a multipart form whose file names are paths, or one file as the body.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt as _};
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, Request, StatusCode};
use multer::Multipart;
use ringwall_agent_proto::disposition;
use ringwall_agent_proto::rest::WrittenFile;
use ringwall_agent_proto::signature::Operation;

use super::failure::FileError;
use super::inflate::{Encoding, contents};
use super::query::Query;
use super::sink::Sink;
use crate::agent::Agent;
use crate::body::{self, Reply};
use crate::paths;
use crate::router::Access;
use crate::shared_body::SharedBody;
use crate::users::User;

/// Start of headers that are stored with the file.
const METADATA_PREFIX: &str = "x-metadata-";
/// The form field of files.
const FILE_FIELD: &str = "file";
/// Files in one form: each is named in the answer.
const MAX_FILES: usize = 10_000;

/// Writes what the request carries.
pub(crate) async fn upload(agent: &Agent, access: Access, request: Request<SharedBody>) -> Reply {
    let (parts, body) = request.into_parts();
    let result = try_upload(agent, access, &parts, body.clone()).await;
    body.drain().await;
    match result {
        Ok(written) => body::json(StatusCode::OK, &written),
        Err(error) => error.into_reply(),
    }
}

async fn try_upload(
    agent: &Agent,
    access: Access,
    parts: &Parts,
    body: SharedBody,
) -> Result<Vec<WrittenFile>, FileError> {
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let user = query.admit(agent, access, Operation::Write, parts)?;
    let stored = metadata(&parts.headers)?;
    let contents = contents(body, Encoding::of(&parts.headers)?);
    let kind = parts
        .headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    if let Ok(boundary) = multer::parse_boundary(kind) {
        return upload_form(
            Multipart::new(contents, boundary),
            query.path.as_deref(),
            &user,
            &stored,
        )
        .await;
    }
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/octet-stream") {
        return Err(FileError::Request(
            "the content type must be multipart/form-data or application/octet-stream",
        ));
    }
    let path = query.path.as_deref().ok_or(FileError::NoPath)?;
    Ok(vec![upload_one(path, &user, contents, stored).await?])
}

async fn upload_form(
    mut form: Multipart<'_>,
    target: Option<&str>,
    user: &User,
    stored: &BTreeMap<String, String>,
) -> Result<Vec<WrittenFile>, FileError> {
    let mut written = Vec::new();
    while let Some(field) = form.next_field().await.map_err(malformed)? {
        let header = field.headers().get(CONTENT_DISPOSITION).map(|value| value.as_bytes());
        // Read here and not by multer: it takes the name's last part only in some forms, and `filename*` not at all.
        let found = disposition::parse(&String::from_utf8_lossy(header.unwrap_or_default()));
        if found.name.as_deref() != Some(FILE_FIELD) {
            continue;
        }
        if target.is_some() && !written.is_empty() {
            return Err(FileError::Request("the query parameter 'path' allows one file only"));
        }
        if written.len() >= MAX_FILES {
            return Err(FileError::Request("too many files in one form"));
        }
        let path = target
            .or(found.filename.as_deref())
            .ok_or(FileError::Request("a file of the form has no name"))?;
        written.push(upload_one(path, user, field.map_err(malformed), stored.clone()).await?);
    }
    if written.is_empty() {
        return Err(FileError::Request("the form has no field 'file'"));
    }
    Ok(written)
}

async fn upload_one(
    path: &str,
    user: &User,
    mut contents: impl Stream<Item = Result<Bytes, FileError>> + Unpin,
    stored: BTreeMap<String, String>,
) -> Result<WrittenFile, FileError> {
    let mut sink = Sink::create(paths::resolve(path, user)?, user.clone()).await?;
    while let Some(piece) = contents.try_next().await? {
        sink = sink.write(piece).await?;
    }
    sink.finish(stored).await
}

fn metadata(headers: &HeaderMap) -> Result<BTreeMap<String, String>, FileError> {
    let mut found = BTreeMap::new();
    for (name, value) in headers {
        if let Some(name) = name
            .as_str()
            .strip_prefix(METADATA_PREFIX)
            .filter(|name| !name.is_empty())
        {
            let value = value
                .to_str()
                .map_err(|_| FileError::Request("metadata must be printable ASCII"))?;
            found.insert(name.to_owned(), value.to_owned());
        }
    }
    Ok(found)
}

fn malformed(error: multer::Error) -> FileError {
    FileError::Body(error.to_string())
}
