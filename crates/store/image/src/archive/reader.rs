//! Walks an archive: header, content, header, content. Extension headers are folded into the entry they describe.

use std::io::{self, Read};

use crate::archive::block::{BLOCK_BYTES, Block};
use crate::archive::error::ReadArchiveError;
use crate::archive::pax::{self, PaxRecords};

/// Longest extension header. The longest that can be of use holds two paths of 4 KiB and some attributes of up to 64 KiB.
const MAX_EXTENSION_BYTES: u64 = 1024 * 1024;
/// Most extension headers before one entry; a sane one has three at most.
const MAX_EXTENSIONS: u32 = 8;
/// Bytes skipped at once.
const SKIP_BYTES: usize = 32 * 1024;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    Directory,
    Symlink,
    Hardlink,
    CharacterDevice,
    BlockDevice,
    Fifo,
    Sparse,
    /// The type as it stands in the header.
    Unknown(u8),
}

/// An entry's description, with extensions applied. Nothing in it has been checked yet.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: EntryKind,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    /// Bytes of content that follow.
    pub(crate) size: u64,
    pub(crate) modified: (i64, u32),
    pub(crate) link: Vec<u8>,
    pub(crate) attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads entries one after another.
#[derive(Debug)]
pub(crate) struct ArchiveReader<R> {
    stream: R,
    offset: u64,
    /// Bytes of the current content not read yet, and of the padding after it.
    content_left: u64,
    padding: u64,
    /// Whether an archive may end without its end mark.
    is_end_mark_optional: bool,
    is_finished: bool,
}

#[derive(Default)]
struct Extensions {
    count: u32,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: PaxRecords,
}

impl<R: Read> ArchiveReader<R> {
    /// Reads `stream`. Pass `is_end_mark_optional` only if a digest tells whether the stream is complete.
    pub(crate) fn new(stream: R, is_end_mark_optional: bool) -> Self {
        ArchiveReader {
            stream,
            offset: 0,
            content_left: 0,
            padding: 0,
            is_end_mark_optional,
            is_finished: false,
        }
    }

    /// Goes to the next entry, past what is left of the current one.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Header>, ReadArchiveError> {
        self.skip_content()?;
        let mut extensions = Extensions::default();
        while !self.is_finished {
            let offset = self.offset;
            let block = match self.read_block()? {
                Some(block) if !block.is_empty() => block,
                end => {
                    // One empty block is enough: whatever follows it is ignored by every tar.
                    self.is_finished = true;
                    if end.is_none() && !self.is_end_mark_optional {
                        return Err(ReadArchiveError::NoEndMark);
                    }
                    break;
                }
            };
            block.check_sum(offset)?;
            if matches!(block.kind(), b'x' | b'g' | b'L' | b'K') {
                self.read_extension(&block, offset, &mut extensions)?;
            } else {
                return self.finish_header(&block, offset, extensions).map(Some);
            }
        }
        if extensions.count > 0 {
            return Err(ReadArchiveError::DanglingExtension);
        }
        Ok(None)
    }

    /// Reads content of the current entry; 0 at its end.
    pub(crate) fn read_content(&mut self, buffer: &mut [u8]) -> Result<usize, ReadArchiveError> {
        let wanted = usize::try_from(self.content_left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let Some(part) = buffer.get_mut(..wanted).filter(|part| !part.is_empty()) else {
            return Ok(0);
        };
        let got = self.read_some(part)?;
        self.content_left = self.content_left.saturating_sub(got);
        Ok(usize::try_from(got).unwrap_or(wanted))
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<u64, ReadArchiveError> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Err(ReadArchiveError::Truncated { offset: self.offset }),
                Ok(got) => {
                    let got = got as u64;
                    self.offset = self.offset.saturating_add(got);
                    return Ok(got);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ReadArchiveError::from_io(error, self.offset)),
            }
        }
    }

    /// Reads a block; `None` if the stream ends where it would begin.
    fn read_block(&mut self) -> Result<Option<Block>, ReadArchiveError> {
        let mut block = Block([0; BLOCK_BYTES]);
        let mut filled = 0;
        while let Some(rest) = block.0.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.stream.read(rest) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(ReadArchiveError::Truncated { offset: self.offset }),
                Ok(got) => {
                    filled += got;
                    self.offset = self.offset.saturating_add(got as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ReadArchiveError::from_io(error, self.offset)),
            }
        }
        Ok(Some(block))
    }

    fn skip_content(&mut self) -> Result<(), ReadArchiveError> {
        let (content, padding) = (self.content_left, self.padding);
        (self.content_left, self.padding) = (0, 0);
        self.skip(content)?;
        match self.skip(padding) {
            // umoci's `insert` ends its layers with the content itself; the digest says that this is the end.
            Err(ReadArchiveError::Truncated { .. }) if self.is_end_mark_optional => Ok(()),
            skipped => skipped,
        }
    }

    fn skip(&mut self, mut left: u64) -> Result<(), ReadArchiveError> {
        let mut buffer = [0_u8; SKIP_BYTES];
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(SKIP_BYTES).min(SKIP_BYTES);
            let part = buffer.get_mut(..wanted).unwrap_or_default();
            left = left.saturating_sub(self.read_some(part)?);
        }
        Ok(())
    }

    fn expect_content(&mut self, size: u64) {
        self.content_left = size;
        self.padding = size.wrapping_neg() % BLOCK_BYTES as u64;
    }

    fn read_extension(&mut self, block: &Block, offset: u64, into: &mut Extensions) -> Result<(), ReadArchiveError> {
        into.count += 1;
        if into.count > MAX_EXTENSIONS {
            return Err(ReadArchiveError::TooManyExtensions {
                offset,
                limit: MAX_EXTENSIONS,
            });
        }
        let size = block.size(offset)?;
        if size > MAX_EXTENSION_BYTES {
            return Err(ReadArchiveError::ExtensionTooLong {
                offset,
                bytes: size,
                limit: MAX_EXTENSION_BYTES,
            });
        }
        self.expect_content(size);
        // Memory grows with what is there, not with what the header promises.
        let mut data = Vec::new();
        let mut buffer = [0_u8; SKIP_BYTES];
        loop {
            let got = self.read_content(&mut buffer)?;
            if got == 0 {
                break;
            }
            data.extend_from_slice(buffer.get(..got).unwrap_or_default());
        }
        self.skip_content()?;
        match block.kind() {
            b'x' => into.pax = pax::parse(&data, offset)?,
            b'L' => into.path = Some(without_nul(data)),
            b'K' => into.link = Some(without_nul(data)),
            // Defaults for all entries that follow: only comments are in use, and no container tool honours the rest.
            _ => {}
        }
        Ok(())
    }

    fn finish_header(
        &mut self,
        block: &Block,
        offset: u64,
        extensions: Extensions,
    ) -> Result<Header, ReadArchiveError> {
        let Extensions { path, link, pax, .. } = extensions;
        let path = pax.path.or(path).unwrap_or_else(|| block.path());
        let size = match pax.size {
            Some(size) => size,
            None => block.size(offset)?,
        };
        let kind = match block.kind() {
            _ if pax.is_sparse => EntryKind::Sparse,
            // Before there was a type for directories, a slash marked them.
            0 | b'0' | b'7' if path.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'7' => EntryKind::File,
            b'1' => EntryKind::Hardlink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::CharacterDevice,
            b'4' => EntryKind::BlockDevice,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            b'S' => EntryKind::Sparse,
            other => EntryKind::Unknown(other),
        };
        let header = Header {
            path,
            kind,
            mode: block.mode(offset)?,
            uid: pax.uid.map_or_else(|| block.uid(offset), Ok)?,
            gid: pax.gid.map_or_else(|| block.gid(offset), Ok)?,
            size,
            modified: match pax.modified {
                Some(modified) => modified,
                None => (block.modified(offset)?, 0),
            },
            link: pax.link.or(link).unwrap_or_else(|| block.link().to_vec()),
            attributes: pax.attributes,
        };
        self.expect_content(size);
        Ok(header)
    }
}

/// GNU long names end with a NUL, as C strings do.
fn without_nul(mut data: Vec<u8>) -> Vec<u8> {
    while data.last() == Some(&0) {
        data.pop();
    }
    data
}
