//! One header block: fixed fields at fixed places (POSIX.1-1988 ustar; GNU tar manual, "Basic Tar Format").

use crate::archive::error::ReadArchiveError;

/// Bytes in a block; headers are one, contents are padded to them.
pub(crate) const BLOCK_BYTES: usize = 512;

/// A header block.
#[derive(Debug, Clone)]
pub(crate) struct Block(pub(crate) [u8; BLOCK_BYTES]);

impl Block {
    fn bytes(&self, start: usize, length: usize) -> &[u8] {
        self.0
            .get(start..)
            .and_then(|rest| rest.get(..length))
            .unwrap_or_default()
    }

    fn text(&self, start: usize, length: usize) -> &[u8] {
        let field = self.bytes(start, length);
        field.split(|&byte| byte == 0).next().unwrap_or_default()
    }

    /// Whether every byte is zero: one half of the end mark.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|&byte| byte == 0)
    }

    /// Checks the sum over the block, with the sum's own field taken as blanks. Old tars added signed bytes.
    pub(crate) fn check_sum(&self, offset: u64) -> Result<(), ReadArchiveError> {
        let wanted = self.number(148, 8, "checksum", offset)?;
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (index, &byte) in self.0.iter().enumerate() {
            let byte = if (148..156).contains(&index) { b' ' } else { byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        if wanted == unsigned || wanted == signed {
            Ok(())
        } else {
            Err(ReadArchiveError::Checksum { offset })
        }
    }

    /// Reads a number: octal digits between blanks and NULs, or, by GNU's extension, big-endian binary if the first bit is set.
    fn number(&self, start: usize, length: usize, field: &'static str, offset: u64) -> Result<i64, ReadArchiveError> {
        let malformed = || ReadArchiveError::Field { offset, field };
        let raw = self.bytes(start, length);
        if let Some((&first, rest)) = raw.split_first().filter(|&(&first, _)| first & 0x80 != 0) {
            // The next bit is the sign: two's complement over the whole field.
            let is_negative = first & 0x40 != 0;
            let head = if is_negative {
                i64::from(first) - 0x100
            } else {
                i64::from(first & 0x3f)
            };
            return rest
                .iter()
                .try_fold(head, |value, &byte| {
                    let value = value.checked_mul(256)?;
                    value.checked_add(i64::from(byte))
                })
                .ok_or_else(malformed);
        }
        let text = raw.split(|&byte| byte == 0).next().unwrap_or_default();
        let text = text.trim_ascii();
        text.iter()
            .try_fold(0_i64, |value, &byte| {
                let digit = byte.checked_sub(b'0').filter(|&digit| digit < 8)?;
                value.checked_mul(8)?.checked_add(i64::from(digit))
            })
            .ok_or_else(malformed)
    }

    fn unsigned(&self, start: usize, length: usize, field: &'static str, offset: u64) -> Result<u64, ReadArchiveError> {
        u64::try_from(self.number(start, length, field, offset)?).map_err(|_| ReadArchiveError::Field { offset, field })
    }

    pub(crate) fn kind(&self) -> u8 {
        self.bytes(156, 1).first().copied().unwrap_or_default()
    }

    pub(crate) fn mode(&self, offset: u64) -> Result<u32, ReadArchiveError> {
        // Some tars put the file type above the permissions.
        let mode = self.unsigned(100, 8, "mode", offset)? & 0o7777;
        u32::try_from(mode).map_err(|_| ReadArchiveError::Field { offset, field: "mode" })
    }

    pub(crate) fn uid(&self, offset: u64) -> Result<u64, ReadArchiveError> {
        self.unsigned(108, 8, "owner", offset)
    }

    pub(crate) fn gid(&self, offset: u64) -> Result<u64, ReadArchiveError> {
        self.unsigned(116, 8, "group", offset)
    }

    pub(crate) fn size(&self, offset: u64) -> Result<u64, ReadArchiveError> {
        self.unsigned(124, 12, "size", offset)
    }

    pub(crate) fn modified(&self, offset: u64) -> Result<i64, ReadArchiveError> {
        self.number(136, 12, "time", offset)
    }

    pub(crate) fn link(&self) -> &[u8] {
        self.text(157, 100)
    }

    /// The path: `prefix/name` in the ustar format. GNU's own format has other things where the prefix would be.
    pub(crate) fn path(&self) -> Vec<u8> {
        let name = self.text(0, 100);
        let prefix = if self.bytes(257, 6) == b"ustar\0" {
            self.text(345, 155)
        } else {
            b""
        };
        if prefix.is_empty() {
            name.to_vec()
        } else {
            [prefix, b"/", name].concat()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(start: usize, bytes: &[u8]) -> Block {
        let mut block = Block([0; BLOCK_BYTES]);
        block.0[start..start + bytes.len()].copy_from_slice(bytes);
        block
    }

    #[test]
    fn numbers_are_octal_or_binary() {
        assert_eq!(with(124, b"00000000017\0").size(0).expect("octal"), 15);
        assert_eq!(with(124, b"       17 \0\0").size(0).expect("blanks"), 15);
        assert_eq!(
            with(124, b"\x80\0\0\0\0\0\0\x02\0\0\0\0").size(0).expect("binary"),
            1 << 33
        );
        assert_eq!(with(136, &[0xff; 12]).modified(0).expect("negative"), -1);
    }

    #[test]
    fn nonsense_numbers_are_errors() {
        for bytes in [&b"9"[..], b"-1", b"0x10", &[0xff; 12], &[0xbf; 12]] {
            assert!(with(124, bytes).size(7).is_err(), "{bytes:?}");
        }
    }
}
