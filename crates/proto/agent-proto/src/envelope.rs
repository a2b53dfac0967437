//! Connect's stream framing: one flag byte, a big-endian u32 length, then the message.
//!
//! [`Decoder`] is fed bytes as they come and never holds more than one message and the piece it was last fed.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::Serialize;

use crate::MAX_MESSAGE_BYTES;
use crate::code::{EndOfStream, RpcError};

/// Flag of an ordinary message.
pub const MESSAGE: u8 = 0;
/// Flag bit of a compressed message; never negotiated, so always an error.
pub const COMPRESSED: u8 = 1;
/// Flag bit of the message that ends a stream.
pub const END_STREAM: u8 = 2;
/// Bytes before each message.
pub const HEADER_BYTES: usize = 5;

/// One framed message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// [`MESSAGE`] or [`END_STREAM`].
    pub flags: u8,
    /// The message, JSON.
    pub payload: Bytes,
}

/// Why framed bytes were refused. The stream can't be read on after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// A message is announced that is larger than the limit.
    #[error("a message of {size} bytes is larger than the limit of {limit} bytes")]
    TooLarge {
        /// What was announced.
        size: usize,
        /// [`MAX_MESSAGE_BYTES`], or what the decoder was made with.
        limit: usize,
    },
    /// The message is compressed, which was not agreed.
    #[error("compressed messages are not supported")]
    Compressed,
    /// The flag byte has bits that have no meaning.
    #[error("unknown envelope flags {0:#04x}")]
    UnknownFlags(u8),
    /// The stream ended inside a message.
    #[error("the stream ended within a message")]
    Truncated,
}

/// Cuts a stream of bytes into envelopes.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    limit: usize,
    failed: Option<EnvelopeError>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::with_limit(MAX_MESSAGE_BYTES)
    }
}

impl Decoder {
    /// A decoder that refuses messages above [`MAX_MESSAGE_BYTES`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A decoder that refuses messages above `limit` bytes.
    #[must_use]
    pub fn with_limit(limit: usize) -> Self {
        Decoder {
            buffer: BytesMut::new(),
            limit,
            failed: None,
        }
    }

    /// Takes the next piece of the stream. To keep memory bounded, call [`Decoder::next`] until it is empty before the next piece.
    pub fn push(&mut self, piece: &[u8]) {
        // After an error nothing more can be understood: keeping it would only cost memory.
        if self.failed.is_none() {
            self.buffer.extend_from_slice(piece);
        }
    }

    /// Returns the next whole envelope; `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`EnvelopeError`]; the decoder answers the same from then on.
    #[expect(
        clippy::should_implement_trait,
        reason = "fallible and resumable, which an Iterator is not"
    )]
    pub fn next(&mut self) -> Result<Option<Envelope>, EnvelopeError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.parse().inspect_err(|&error| {
            self.failed = Some(error);
            self.buffer = BytesMut::new();
        })
    }

    fn parse(&mut self) -> Result<Option<Envelope>, EnvelopeError> {
        let Some((&[flags, a, b, c, d], rest)) = self.buffer.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let size = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if flags & COMPRESSED != 0 {
            return Err(EnvelopeError::Compressed);
        }
        if flags & !END_STREAM != 0 {
            return Err(EnvelopeError::UnknownFlags(flags));
        }
        if size > self.limit {
            return Err(EnvelopeError::TooLarge {
                size,
                limit: self.limit,
            });
        }
        if rest.len() < size {
            return Ok(None);
        }
        self.buffer.advance(HEADER_BYTES);
        let payload = self.buffer.split_to(size).freeze();
        Ok(Some(Envelope { flags, payload }))
    }

    /// Says that the stream has ended, after `next` has returned `None`.
    ///
    /// # Errors
    /// [`EnvelopeError::Truncated`] when part of a message is left, or the error found before.
    pub fn finish(&self) -> Result<(), EnvelopeError> {
        match self.failed {
            Some(error) => Err(error),
            None if self.buffer.is_empty() => Ok(()),
            None => Err(EnvelopeError::Truncated),
        }
    }
}

/// Frames bytes. A payload above `u32::MAX` can't be framed and is cut to nothing; no caller makes one.
#[must_use]
pub fn encode(flags: u8, payload: &[u8]) -> Bytes {
    let (size, payload) = u32::try_from(payload.len()).map_or((0, &[][..]), |size| (size, payload));
    let mut framed = BytesMut::with_capacity(payload.len().saturating_add(HEADER_BYTES));
    framed.put_u8(flags);
    framed.put_u32(size);
    framed.put_slice(payload);
    framed.freeze()
}

/// Frames a message as JSON.
#[must_use]
pub fn message(message: &impl Serialize) -> Bytes {
    frame_json(MESSAGE, message)
}

/// Frames the message that ends a stream.
#[must_use]
pub fn end_of_stream(error: Option<RpcError>) -> Bytes {
    frame_json(END_STREAM, &EndOfStream { error })
}

/// Writes the JSON behind its header without a second copy: output chunks are the hot path.
fn frame_json(flags: u8, value: &impl Serialize) -> Bytes {
    let mut framed = BytesMut::with_capacity(256);
    framed.put_bytes(0, HEADER_BYTES);
    let mut framed = framed.writer();
    // The messages of this crate have no map with other than string keys, the one thing that could fail here.
    let written = serde_json::to_writer(&mut framed, value).is_ok();
    let mut framed = framed.into_inner();
    let size = u32::try_from(framed.len().saturating_sub(HEADER_BYTES));
    let (Ok(size), true) = (size, written) else {
        return encode(flags, b"{}");
    };
    let [a, b, c, d] = size.to_be_bytes();
    if let Some(header) = framed.first_chunk_mut::<HEADER_BYTES>() {
        *header = [flags, a, b, c, d];
    }
    framed.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;
    use proptest::prelude::*;

    /// Inputs that once were thought hard; the fuzz target starts from them as well.
    const CORPUS: &[&[u8]] = &[
        b"",
        b"\0",
        b"\0\0\0\0\0",
        b"\x02\0\0\0\x02{}",
        b"\x01\0\0\0\0",
        b"\x80\0\0\0\0",
        b"\0\xff\xff\xff\xff",
        b"\0\0\x40\0\x01",
        b"\0\0\0\0\x02{}\0\0\0",
    ];

    #[test]
    fn corpus_never_panics_and_errors_stick() {
        for input in CORPUS {
            let mut decoder = Decoder::new();
            decoder.push(input);
            let mut seen = 0;
            let end = loop {
                match decoder.next() {
                    Ok(Some(_)) => seen += 1,
                    Ok(None) => break decoder.finish(),
                    Err(error) => break Err(error),
                }
            };
            assert!(seen <= 2);
            if let Err(error) = end
                && error != EnvelopeError::Truncated
            {
                decoder.push(b"\0\0\0\0\0");
                assert_eq!(decoder.next(), Err(error));
            }
        }
    }

    #[test]
    fn announced_size_is_refused_before_the_bytes_come() {
        let mut decoder = Decoder::with_limit(10);
        decoder.push(&[0, 0, 0, 0, 11]);
        assert_eq!(decoder.next(), Err(EnvelopeError::TooLarge { size: 11, limit: 10 }));
    }

    #[test]
    fn end_of_stream_is_what_clients_expect() {
        assert_eq!(&end_of_stream(None)[..], b"\x02\0\0\0\x02{}");
        let framed = end_of_stream(Some(RpcError::new(Code::NotFound, "x")));
        assert_eq!(&framed[5..], br#"{"error":{"code":"not_found","message":"x"}}"#);
        assert_eq!(usize::from(framed[4]), framed.len() - 5);
    }

    proptest! {
        #[test]
        fn any_cut_of_the_stream_gives_the_same_messages(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..8),
            cut in 1_usize..64,
        ) {
            let stream: Vec<u8> = messages.iter().flat_map(|payload| encode(MESSAGE, payload)).collect();
            let mut decoder = Decoder::new();
            let mut found = Vec::new();
            for piece in stream.chunks(cut) {
                decoder.push(piece);
                while let Some(envelope) = decoder.next().unwrap() {
                    found.push(envelope.payload.to_vec());
                }
            }
            prop_assert_eq!(decoder.finish(), Ok(()));
            prop_assert_eq!(found, messages);
        }

        #[test]
        fn arbitrary_bytes_never_panic(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 0..16)) {
            let mut decoder = Decoder::with_limit(128);
            for piece in pieces {
                decoder.push(&piece);
                while let Ok(Some(envelope)) = decoder.next() {
                    prop_assert!(envelope.payload.len() <= 128);
                }
            }
        }
    }
}
