//! Messages between keeper, init and the program-to-be, over one socket pair that keeps message boundaries.
//!
//! Both ends are this very executable and no untrusted code ever holds the socket (it is close-on-exec), yet messages are parsed with
//! every length checked: a bug must be an error, not a panic in a keeper.

use ringwall_sys::process::{Ended, Usage};

/// From init (or the program-to-be) to the keeper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    /// Making the sandbox failed; the text is the chain of causes.
    Failed(String),
    /// The tier can't be had here; nothing of the command has run.
    Unavailable(String),
    /// The command was not found.
    NotFound,
    /// The command can't be executed.
    NotExecutable(String),
    /// The root is built; microseconds it took.
    RootBuilt(u64),
    /// About to execute; microseconds since the root was built.
    Executing(u64),
    /// The terminal's master comes with this message.
    Terminal,
    /// The seccomp listener comes with this message.
    Listener,
    /// The command has ended and nothing of the sandbox is left but init.
    Finished(Ended, Usage),
}

impl Message {
    /// Returns the bytes to send.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let text = |tag: u8, text: &str| {
            let mut end = text.len().min(ringwall_sys::pass_fd::MAX_MESSAGE - 1);
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            [&[tag], &text.as_bytes()[..end]].concat()
        };
        let numbers = |tag: u8, numbers: &[u64]| {
            let mut bytes = vec![tag];
            bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
            bytes
        };
        match self {
            Message::Failed(why) => text(b'E', why),
            Message::Unavailable(why) => text(b'U', why),
            Message::NotFound => vec![b'?'],
            Message::NotExecutable(why) => text(b'!', why),
            Message::RootBuilt(us) => numbers(b'R', &[*us]),
            Message::Executing(us) => numbers(b'X', &[*us]),
            Message::Terminal => vec![b'T'],
            Message::Listener => vec![b'L'],
            Message::Finished(ended, usage) => {
                let (kind, value) = match *ended {
                    Ended::Exited(code) => (0, code),
                    Ended::Signaled(signal) => (1, signal),
                };
                let value = u64::from(value.unsigned_abs());
                numbers(b'F', &[kind, value, usage.user_us, usage.system_us, usage.max_rss_kib])
            }
        }
    }

    /// Reads a message; `None` for anything malformed.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&tag, rest) = bytes.split_first()?;
        let number = |index: usize| -> Option<u64> {
            let start = index.checked_mul(8)?;
            Some(u64::from_le_bytes(rest.get(start..start + 8)?.try_into().ok()?))
        };
        let text = || String::from_utf8_lossy(rest).into_owned();
        Some(match tag {
            b'E' => Message::Failed(text()),
            b'U' => Message::Unavailable(text()),
            b'?' => Message::NotFound,
            b'!' => Message::NotExecutable(text()),
            b'R' => Message::RootBuilt(number(0)?),
            b'X' => Message::Executing(number(0)?),
            b'T' => Message::Terminal,
            b'L' => Message::Listener,
            b'F' => {
                let value = i32::try_from(number(1)?).ok()?;
                let ended = if number(0)? == 0 {
                    Ended::Exited(value)
                } else {
                    Ended::Signaled(value)
                };
                let usage = Usage {
                    user_us: number(2)?,
                    system_us: number(3)?,
                    max_rss_kib: number(4)?,
                };
                Message::Finished(ended, usage)
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_round_trip() {
        let usage = Usage {
            user_us: 1,
            system_us: 2,
            max_rss_kib: 3,
        };
        for message in [
            Message::Failed("why".into()),
            Message::NotFound,
            Message::NotExecutable("x".into()),
            Message::RootBuilt(7),
            Message::Executing(8),
            Message::Terminal,
            Message::Listener,
            Message::Finished(Ended::Signaled(9), usage),
            Message::Finished(Ended::Exited(255), usage),
        ] {
            assert_eq!(Message::decode(&message.encode()), Some(message));
        }
    }

    #[test]
    fn malformed_messages_are_refused() {
        for bytes in [&b""[..], b"z", b"F", b"F12345678", b"R1"] {
            assert_eq!(Message::decode(bytes), None);
        }
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        let message = Message::Failed("é".repeat(5000));
        assert!(message.encode().len() <= ringwall_sys::pass_fd::MAX_MESSAGE);
    }
}
