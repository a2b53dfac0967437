//! A snapshot's state file: a line that says what it is, and a JSON document under a hash.
//!
//! ```text
//! ringwall-vm-snapshot 2 1234 <sha256, hex>\n    magic, version, bytes of the document, its hash
//! {"architecture":"x86_64", …}                   the document
//! ```
//!
//! Everything in it is untrusted until it has been checked, and its hash only tells accidents, not attacks: whoever can write the file can
//! write the hash.

use std::io::{self, Read};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// First word of the file.
const MAGIC: &str = "ringwall-vm-snapshot";
/// Version of the document that this program writes.
pub const VERSION: u32 = 2;
/// The oldest version that it reads. Version 1 has neither the time of the snapshot nor the counters' offsets.
pub const OLDEST_VERSION: u32 = 1;
/// Longest first line.
const MOST_HEADER_BYTES: usize = 160;
/// Longest document, in bytes: 32 vCPUs and 17 devices take less than 1 MiB.
const MOST_BYTES: usize = 16 << 20;

/// A state file that can't be used.
#[derive(Debug, Error)]
pub enum StateFileError {
    /// It can't be read.
    #[error("can't read the state file")]
    Read(#[source] io::Error),
    /// It is something else.
    #[error("this is no state file of a snapshot")]
    Foreign,
    /// It is of another version.
    #[error("the state file has version {found}, this program reads {OLDEST_VERSION} to {VERSION}")]
    Version {
        /// The file's.
        found: u32,
    },
    /// It is shorter than it says.
    #[error("the state file is cut off: {found} of {wanted} bytes")]
    Truncated {
        /// What is there.
        found: usize,
        /// What it says.
        wanted: usize,
    },
    /// It says that it is longer than any.
    #[error("the state file says it has {0} bytes, more than any has")]
    TooLong(usize),
    /// It was changed.
    #[error("the state file is damaged: its hash does not fit")]
    Damaged,
    /// Its document is not what this program writes.
    #[error("the state file's document is malformed")]
    Malformed(#[source] serde_json::Error),
}

/// Puts a document into the form of a state file.
///
/// # Errors
/// A document that can't be written as JSON; a defect of ours.
pub fn encode(document: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    Ok(around(&serde_json::to_vec(document)?))
}

/// A state file whose document is `body`, whatever that is.
#[must_use]
pub fn around(body: &[u8]) -> Vec<u8> {
    let hash = hex(&Sha256::digest(body));
    let mut file = format!("{MAGIC} {VERSION} {} {hash}\n", body.len()).into_bytes();
    file.extend_from_slice(body);
    file
}

/// Reads a state file, whole and bounded, and checks it.
///
/// # Errors
/// See [`StateFileError`].
pub fn decode<T: DeserializeOwned>(file: impl Read) -> Result<T, StateFileError> {
    parse(&read(file)?)
}

/// Reads a document that [`read`] gave.
///
/// # Errors
/// [`StateFileError::Malformed`].
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, StateFileError> {
    serde_json::from_slice(body).map_err(StateFileError::Malformed)
}

/// Reads a state file's document as it is written there, whole, bounded and with the hash that the file says.
///
/// # Errors
/// See [`StateFileError`].
pub fn read(file: impl Read) -> Result<Vec<u8>, StateFileError> {
    let mut bytes = Vec::new();
    let most = (MOST_BYTES + MOST_HEADER_BYTES) as u64;
    file.take(most).read_to_end(&mut bytes).map_err(StateFileError::Read)?;
    let end = bytes
        .iter()
        .take(MOST_HEADER_BYTES)
        .position(|&byte| byte == b'\n')
        .ok_or(StateFileError::Foreign)?;
    let (header, rest) = bytes.split_at(end);
    let body = rest.get(1..).unwrap_or_default();
    let header = std::str::from_utf8(header).map_err(|_| StateFileError::Foreign)?;
    let mut words = header.split(' ');
    if words.next() != Some(MAGIC) {
        return Err(StateFileError::Foreign);
    }
    let version: u32 = words
        .next()
        .and_then(|word| word.parse().ok())
        .ok_or(StateFileError::Foreign)?;
    if !(OLDEST_VERSION..=VERSION).contains(&version) {
        return Err(StateFileError::Version { found: version });
    }
    let wanted: usize = words
        .next()
        .and_then(|word| word.parse().ok())
        .ok_or(StateFileError::Foreign)?;
    let hash = words.next().ok_or(StateFileError::Foreign)?;
    if wanted > MOST_BYTES {
        return Err(StateFileError::TooLong(wanted));
    }
    if body.len() < wanted {
        return Err(StateFileError::Truncated {
            found: body.len(),
            wanted,
        });
    }
    if body.len() > wanted || hex(&Sha256::digest(body)) != hash {
        return Err(StateFileError::Damaged);
    }
    Ok(body.to_vec())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            // Writing to a String can't fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        encode(&serde_json::json!({"vcpus": [1, 2, 3]})).unwrap()
    }

    fn refused(bytes: &[u8]) -> String {
        decode::<serde_json::Value>(bytes).unwrap_err().to_string()
    }

    #[test]
    fn what_is_written_is_read() {
        let read: serde_json::Value = decode(&*sample()).unwrap();
        assert_eq!(read["vcpus"][2], 3);
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_refused() {
        let good = sample();
        for end in 0..good.len() {
            refused(&good[..end]);
        }
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            refused(&bad);
        }
        let mut longer = good;
        longer.push(b' ');
        assert_eq!(refused(&longer), "the state file is damaged: its hash does not fit");
    }

    #[test]
    fn refusals_say_why() {
        let cut = sample();
        let text = String::from_utf8(cut.clone()).unwrap();
        for (bytes, wanted) in [
            (Vec::new(), "this is no state file of a snapshot"),
            (b"\x7fELF\n".to_vec(), "this is no state file of a snapshot"),
            (vec![b'a'; 1 << 20], "this is no state file of a snapshot"),
            (
                text.replacen(" 2 ", " 3 ", 1).into_bytes(),
                "the state file has version 3, this program reads 1 to 2",
            ),
            (
                text.replacen(" 2 ", " 0 ", 1).into_bytes(),
                "the state file has version 0, this program reads 1 to 2",
            ),
            (
                cut[..cut.len() - 1].to_vec(),
                "the state file is cut off: 16 of 17 bytes",
            ),
            (
                format!("{MAGIC} 1 99999999999 00\n").into_bytes(),
                "the state file says it has 99999999999 bytes, more than any has",
            ),
        ] {
            assert_eq!(refused(&bytes), wanted);
        }
        let no_json = |body: &str| {
            let hash = hex(&Sha256::digest(body));
            format!("{MAGIC} 1 {} {hash}\n{body}", body.len())
        };
        assert_eq!(
            refused(no_json("{").as_bytes()),
            "the state file's document is malformed"
        );
    }
}
