//! A request's body as a stream of pieces, decompressed if the client has compressed it.

use std::collections::VecDeque;
use std::io::Write as _;

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use futures_util::Stream;
use futures_util::stream::unfold;
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use http_body_util::BodyExt as _;

use super::failure::FileError;
use crate::shared_body::SharedBody;

/// Compressed bytes undone at a time: gzip makes at most about 1000 of one, and that much memory may be needed for a moment.
const STEP_BYTES: usize = 512;

/// How the body is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
}

impl Encoding {
    /// Reads `Content-Encoding`.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, FileError> {
        let value = headers.get(CONTENT_ENCODING).map(|value| value.to_str().unwrap_or("?"));
        match value.map(|value| value.trim().to_ascii_lowercase()).as_deref() {
            None | Some("" | "identity") => Ok(Encoding::Identity),
            Some("gzip" | "x-gzip") => Ok(Encoding::Gzip),
            Some(_) => Err(FileError::Request("the only content encoding taken is gzip")),
        }
    }
}

/// The body's contents.
pub(super) fn contents(
    body: SharedBody,
    encoding: Encoding,
) -> impl Stream<Item = Result<Bytes, FileError>> + Send + Unpin + 'static {
    let decoder = (encoding == Encoding::Gzip).then(Inflater::default);
    Box::pin(unfold(Some((body, decoder)), |state| async {
        let (mut body, mut decoder) = state?;
        match next(&mut body, decoder.as_mut()).await {
            Ok(piece) => Some((Ok(piece?), Some((body, decoder)))),
            Err(error) => Some((Err(error), None)),
        }
    }))
}

async fn next(body: &mut SharedBody, mut decoder: Option<&mut Inflater>) -> Result<Option<Bytes>, FileError> {
    loop {
        if let Some(decoder) = &mut decoder
            && let Some(piece) = decoder.step()?
        {
            return Ok(Some(piece));
        }
        let Some(frame) = body.frame().await else {
            return decoder.map_or(Ok(None), Inflater::finish);
        };
        let frame = frame.map_err(|error| FileError::Body(error.to_string()))?;
        match (frame.into_data(), &mut decoder) {
            (Ok(piece), None) => return Ok(Some(piece)),
            (Ok(piece), Some(decoder)) => decoder
                .waiting
                .extend(piece.chunks(STEP_BYTES).map(|step| piece.slice_ref(step))),
            (Err(_trailers), _) => {}
        }
    }
}

/// Undoes gzip in small steps.
struct Inflater {
    decoder: Option<MultiGzDecoder<Vec<u8>>>,
    waiting: VecDeque<Bytes>,
}

impl Default for Inflater {
    fn default() -> Self {
        Inflater {
            decoder: Some(MultiGzDecoder::new(Vec::new())),
            waiting: VecDeque::new(),
        }
    }
}

impl Inflater {
    /// Undoes what waits until something comes out.
    fn step(&mut self) -> Result<Option<Bytes>, FileError> {
        let Some(decoder) = &mut self.decoder else {
            return Ok(None);
        };
        while let Some(compressed) = self.waiting.pop_front() {
            decoder.write_all(&compressed).map_err(malformed)?;
            if !decoder.get_ref().is_empty() {
                return Ok(Some(std::mem::take(decoder.get_mut()).into()));
            }
        }
        Ok(None)
    }

    /// The rest, and whether the stream was whole.
    fn finish(&mut self) -> Result<Option<Bytes>, FileError> {
        let Some(decoder) = self.decoder.take() else {
            return Ok(None);
        };
        let rest = decoder.finish().map_err(malformed)?;
        Ok((!rest.is_empty()).then(|| rest.into()))
    }
}

fn malformed(error: std::io::Error) -> FileError {
    FileError::Body(format!("malformed gzip: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inflate(compressed: &[u8]) -> Result<Vec<u8>, FileError> {
        let mut inflater = Inflater::default();
        let whole = Bytes::copy_from_slice(compressed);
        inflater
            .waiting
            .extend(whole.chunks(STEP_BYTES).map(|step| whole.slice_ref(step)));
        let mut all = Vec::new();
        while let Some(piece) = inflater.step()? {
            all.extend_from_slice(&piece);
        }
        all.extend(inflater.finish()?.unwrap_or_default());
        Ok(all)
    }

    #[test]
    fn what_was_compressed_comes_back() {
        let wanted: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&wanted).unwrap();
        let compressed = encoder.finish().unwrap();
        assert!(inflate(&compressed).unwrap() == wanted);
        assert!(inflate(&compressed[..compressed.len() / 2]).is_err());
        assert!(inflate(b"not gzip at all").is_err());
    }
}
