//! Decompression: the format is told by the first bytes, memory is bounded, and so is how much comes out of how little.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use thiserror::Error;

use crate::limits::Limits;

/// Largest window a zstd stream may ask for: what `zstd --long` and `--ultra -22` use at most (zstd(1), `--long`).
const MAX_WINDOW_BYTES: u64 = 128 * 1024 * 1024;
const BUFFER_BYTES: usize = 64 * 1024;
/// gzip's first bytes (RFC 1952 §2.3.1).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// zstd's first bytes (RFC 8878 §3.1.1).
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// A stream can't be decompressed, or must not be. Comes out of `read` inside an [`io::Error`].
#[derive(Debug, Error)]
pub enum DecompressError {
    /// It unpacks to far more than its size.
    #[error("the archive unpacks to more than {ratio} times its size")]
    Ratio {
        /// The limit.
        ratio: u64,
    },
    /// A zstd frame that needs more memory than allowed.
    #[error("the zstd stream wants a window of {wanted} bytes; {limit} are allowed")]
    Window {
        /// What it wants, in bytes.
        wanted: u64,
        /// Most bytes.
        limit: u64,
    },
    /// A damaged zstd frame.
    #[error("the zstd stream is damaged")]
    Zstd(#[source] Box<FrameDecoderError>),
    /// A zstd frame that doesn't match its checksum.
    #[error("the zstd stream doesn't match its checksum")]
    Checksum,
    /// A damaged gzip member.
    #[error("the gzip stream is damaged")]
    Gzip(#[source] io::Error),
}

/// Detects how `reader` is compressed (gzip, zstd or not at all) and returns a reader of the plain bytes.
///
/// Of `limits` the ratio counts here, per stream; a stream that isn't compressed can't exceed it.
///
/// # Errors
/// Reading the first bytes failed. Later errors come from `read`: those of `reader`, `UnexpectedEof` for a stream that is cut off,
/// or a [`DecompressError`] inside.
pub fn decompress<R: Read>(mut reader: R, limits: &Limits) -> io::Result<Decompressed<R>> {
    let mut start = Vec::with_capacity(ZSTD_MAGIC.len());
    reader.by_ref().take(ZSTD_MAGIC.len() as u64).read_to_end(&mut start)?;
    let (is_gzip, is_zstd) = (start.starts_with(&GZIP_MAGIC), is_zstd_start(&start));
    let counted = Counted {
        reader: Cursor::new(start).chain(reader),
        bytes: 0,
        is_at_end: false,
    };
    let source = BufReader::with_capacity(BUFFER_BYTES, counted);
    let codec = if is_gzip {
        Codec::Gzip(MultiGzDecoder::new(source))
    } else if is_zstd {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_WINDOW_BYTES);
        Codec::Zstd(Box::new(Zstd {
            source,
            decoder,
            is_in_frame: false,
        }))
    } else {
        Codec::Plain(source)
    };
    Ok(Decompressed {
        codec,
        produced: 0,
        ratio: limits.ratio,
        floor: limits.ratio_floor,
    })
}

/// A stream may begin with a frame to be skipped, as those with an index do (RFC 8878 §3.1.2).
fn is_zstd_start(start: &[u8]) -> bool {
    start == ZSTD_MAGIC || matches!(start, [0x50..=0x5f, 0x2a, 0x4d, 0x18])
}

type Source<R> = BufReader<Counted<io::Chain<Cursor<Vec<u8>>, R>>>;

/// The plain bytes of a possibly compressed stream; made by [`decompress`].
#[expect(missing_debug_implementations, reason = "decoders have none")]
pub struct Decompressed<R: Read> {
    codec: Codec<R>,
    produced: u64,
    ratio: u64,
    floor: u64,
}

enum Codec<R: Read> {
    Plain(Source<R>),
    Gzip(MultiGzDecoder<Source<R>>),
    Zstd(Box<Zstd<Source<R>>>),
}

impl<R: Read> Decompressed<R> {
    fn consumed(&self) -> u64 {
        match &self.codec {
            Codec::Plain(source) => source.get_ref().bytes,
            Codec::Gzip(decoder) => decoder.get_ref().get_ref().bytes,
            Codec::Zstd(decoder) => decoder.source.get_ref().bytes,
        }
    }
}

impl<R: Read> Read for Decompressed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = match &mut self.codec {
            Codec::Plain(source) => return source.read(buffer),
            Codec::Gzip(decoder) => decoder.read(buffer).map_err(gzip_error)?,
            Codec::Zstd(decoder) => decoder.read(buffer)?,
        };
        self.produced = self.produced.saturating_add(got as u64);
        if self.produced > self.floor && self.produced > self.consumed().saturating_mul(self.ratio) {
            return Err(io::Error::other(DecompressError::Ratio { ratio: self.ratio }));
        }
        Ok(got)
    }
}

/// Tells damage from a failing source: the decoder's own errors are of these kinds (flate2, `gz` and `zio`).
fn gzip_error(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => io::Error::other(DecompressError::Gzip(error)),
        _ => error,
    }
}

/// Counts what is read, and notes the end.
struct Counted<R> {
    reader: R,
    bytes: u64,
    is_at_end: bool,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.reader.read(buffer)?;
        self.bytes = self.bytes.saturating_add(got as u64);
        self.is_at_end |= got == 0 && !buffer.is_empty();
        Ok(got)
    }
}

/// All frames of a zstd stream, one after another.
struct Zstd<S> {
    source: S,
    decoder: FrameDecoder,
    is_in_frame: bool,
}

impl<R: Read> Zstd<BufReader<Counted<R>>> {
    /// Begins the next frame, past those to be skipped; `false` at the end of the stream.
    fn begin_frame(&mut self) -> io::Result<bool> {
        loop {
            if self.source.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.reset(&mut self.source) {
                Ok(()) => {
                    self.is_in_frame = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let skipped = io::copy(&mut self.source.by_ref().take(u64::from(length)), &mut io::sink())?;
                    if skipped < u64::from(length) {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(self.error(error)),
            }
        }
    }

    fn error(&self, error: FrameDecoderError) -> io::Error {
        if let FrameDecoderError::WindowSizeTooBig { requested, max } = error {
            return io::Error::other(DecompressError::Window {
                wanted: requested,
                limit: max,
            });
        }
        if self.source.get_ref().is_at_end {
            return io::ErrorKind::UnexpectedEof.into();
        }
        io::Error::other(DecompressError::Zstd(Box::new(error)))
    }
}

impl<R: Read> Read for Zstd<BufReader<Counted<R>>> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.is_in_frame && !self.begin_frame()? {
                return Ok(0);
            }
            if self.decoder.can_collect() > 0 {
                return self.decoder.read(buffer);
            }
            if self.decoder.is_finished() {
                self.is_in_frame = false;
                let stored = self.decoder.get_checksum_from_data();
                if stored.is_some() && stored != self.decoder.get_calculated_checksum() {
                    return Err(io::Error::other(DecompressError::Checksum));
                }
                continue;
            }
            // One block at a time, 128 KiB at most, so that memory stays at the window's size.
            let decoded = self
                .decoder
                .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1));
            decoded.map_err(|error| self.error(error))?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(data).expect("into memory");
        encoder.finish().expect("into memory")
    }

    fn read(data: &[u8], limits: &Limits) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        decompress(data, limits)?.read_to_end(&mut plain)?;
        Ok(plain)
    }

    #[test]
    fn formats_are_detected_and_frames_joined() {
        let text = b"some text, twice: some text".repeat(1000);
        let zstd = compress_to_vec(&text[..], CompressionLevel::Fastest);
        let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zstd, &zstd].concat();
        let limits = Limits::default();
        assert_eq!(read(&text, &limits).expect("plain"), text);
        assert_eq!(read(b"", &limits).expect("empty"), b"");
        assert_eq!(read(&gzip(&text), &limits).expect("gzip"), text);
        assert_eq!(
            read(&[gzip(&text), gzip(&text)].concat(), &limits).expect("two members"),
            text.repeat(2)
        );
        assert_eq!(read(&zstd, &limits).expect("zstd"), text);
        assert_eq!(read(&skipped, &limits).expect("frames"), text.repeat(2));
    }

    #[test]
    fn cut_streams_end_unexpectedly() {
        let text = b"some text, twice: some text".repeat(1000);
        for whole in [gzip(&text), compress_to_vec(&text[..], CompressionLevel::Fastest)] {
            for length in [whole.len() - 1, whole.len() / 2, 12] {
                let error = read(&whole[..length], &Limits::default()).expect_err("cut off");
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
            }
        }
    }

    #[test]
    fn bombs_are_refused_early() {
        let limits = Limits {
            ratio: 50,
            ratio_floor: 1 << 20,
            ..Limits::default()
        };
        let zeros = vec![0_u8; 8 << 20];
        for bomb in [gzip(&zeros), compress_to_vec(&zeros[..], CompressionLevel::Fastest)] {
            let error = read(&bomb, &limits).expect_err("refused");
            assert_eq!(error.to_string(), "the archive unpacks to more than 50 times its size");
        }
        // Window descriptor 0x90: exponent 18, a window of 2^28 bytes.
        let error = read(&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x90, 0, 0, 0], &limits).expect_err("refused");
        assert!(
            error
                .to_string()
                .starts_with("the zstd stream wants a window of 268435456 bytes"),
            "{error}"
        );
    }
}
