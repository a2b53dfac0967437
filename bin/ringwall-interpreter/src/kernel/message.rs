//! Jupyter's messages: signing what is sent, checking and reading what arrives (jupyter-client, "Messaging").
//!
//! On the wire a message is `identities… <IDS|MSG> signature header parent metadata content buffers…`. Outgoing ones are
//! built with `jupyter-protocol`; incoming ones are read leniently, only the fields needed here, because kernels differ
//! in what they leave out and because a MIME bundle must reach the client as the kernel sent it.

use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jupyter_protocol::{JupyterMessage, JupyterMessageContent};
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::Sha256;

/// Divides the identities from the message.
const DELIMITER: &[u8] = b"<IDS|MSG>";

/// Why an incoming message is dropped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DecodeError {
    /// Frames are missing.
    #[error("a message without its frames")]
    Frames,
    /// The signature is wrong.
    #[error("a message with a wrong signature")]
    Signature,
    /// A frame isn't the JSON it should be.
    #[error("a message that can't be read")]
    Json(#[from] serde_json::Error),
}

/// An incoming message.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// Identifier of the request it belongs to; empty if it belongs to none.
    pub(crate) parent: String,
    /// What it says.
    pub(crate) content: Content,
}

/// What an incoming message says.
#[derive(Debug, PartialEq)]
pub(crate) enum Content {
    /// Text for standard output or standard error.
    Stream {
        /// Whether it is standard error.
        is_error: bool,
        /// The text.
        text: String,
    },
    /// Something to show.
    Display {
        /// Whether it is the cell's value.
        is_main: bool,
        /// Data by MIME type.
        data: Map<String, Value>,
    },
    /// The code raised an error.
    Error(KernelError),
    /// The code begins to run.
    Input {
        /// How many cells this kernel has run.
        count: u64,
    },
    /// The kernel is done with the request.
    Idle,
    /// The reply to a request.
    Reply(Reply),
    /// Anything else.
    Other,
}

/// An error the code raised.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct KernelError {
    /// The exception's class.
    #[serde(rename = "ename")]
    pub(crate) name: String,
    /// Its message.
    #[serde(rename = "evalue")]
    pub(crate) value: String,
    /// The traceback's lines.
    pub(crate) traceback: Vec<String>,
}

/// How a request ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Well.
    Ok,
    /// With an error, which most kernels have published as well.
    Error(KernelError),
    /// It was never run.
    Aborted,
}

/// A request ready to be sent.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// Its identifier, the `parent` of what answers it.
    pub(crate) id: String,
    /// Its frames.
    pub(crate) frames: Vec<Bytes>,
}

/// Signs and checks the messages of one kernel.
#[derive(Debug)]
pub(crate) struct Signer {
    key: String,
    session: String,
}

impl Signer {
    /// Makes a signer with a fresh key and session.
    pub(crate) fn new() -> Self {
        // Two identifiers: 244 random bits.
        let key = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
        Self {
            key,
            session: uuid::Uuid::new_v4().to_string(),
        }
    }

    /// The key, for the connection file.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// The session, which also serves as the sockets' identity.
    pub(crate) fn session(&self) -> &str {
        &self.session
    }

    fn digest(&self, parts: [&[u8]; 4]) -> Hmac<Sha256> {
        // HMAC takes keys of any length; the branch for others can't be reached.
        let mut mac = Hmac::<Sha256>::new_from_slice(self.key.as_bytes())
            .unwrap_or_else(|_| Hmac::<Sha256>::new(&hmac::digest::Key::<Hmac<Sha256>>::default()));
        for part in parts {
            mac.update(part);
        }
        mac
    }

    /// Makes a signed request.
    ///
    /// # Errors
    /// The content can't be written as JSON.
    pub(crate) fn encode(&self, content: impl Into<JupyterMessageContent>) -> Result<Outgoing, serde_json::Error> {
        let message = JupyterMessage::new(content, None).with_session(&self.session);
        let header = serde_json::to_vec(&message.header)?;
        let content = serde_json::to_vec(&message.content)?;
        let signature = self.digest([&header, b"{}", b"{}", &content]).finalize().into_bytes();
        let frames = vec![
            Bytes::from_static(DELIMITER),
            Bytes::from(hex(&signature)),
            Bytes::from(header),
            Bytes::from_static(b"{}"),
            Bytes::from_static(b"{}"),
            Bytes::from(content),
        ];
        Ok(Outgoing {
            id: message.header.msg_id,
            frames,
        })
    }

    /// Checks and reads a message.
    ///
    /// # Errors
    /// It isn't one, its signature is wrong, or a part isn't the JSON it should be.
    pub(crate) fn decode(&self, frames: &[Bytes]) -> Result<Incoming, DecodeError> {
        let start = frames
            .iter()
            .position(|frame| frame == DELIMITER)
            .ok_or(DecodeError::Frames)?;
        let [signature, header, parent, metadata, content, ..] = &frames[start + 1..] else {
            return Err(DecodeError::Frames);
        };
        let signature = unhex(signature).ok_or(DecodeError::Signature)?;
        self.digest([header, parent, metadata, content])
            .verify_slice(&signature)
            .map_err(|_| DecodeError::Signature)?;
        let header: Header = serde_json::from_slice(header)?;
        // Kernels write a missing parent as `{}` or `null`.
        let parent: Option<Parent> = serde_json::from_slice(parent)?;
        Ok(Incoming {
            parent: parent.map(|parent| parent.msg_id).unwrap_or_default(),
            content: read_content(&header.msg_type, content)?,
        })
    }
}

#[derive(Deserialize)]
struct Header {
    msg_type: String,
}

#[derive(Deserialize)]
struct Parent {
    #[serde(default)]
    msg_id: String,
}

#[derive(Deserialize)]
struct Stream {
    name: String,
    text: String,
}

#[derive(Deserialize)]
struct Display {
    data: Map<String, Value>,
}

#[derive(Deserialize)]
struct Input {
    execution_count: u64,
}

#[derive(Deserialize)]
struct Status {
    execution_state: String,
}

#[derive(Deserialize)]
struct ReplyStatus {
    #[serde(default)]
    status: String,
}

fn read_content(kind: &str, content: &[u8]) -> Result<Content, serde_json::Error> {
    Ok(match kind {
        "stream" => {
            let stream: Stream = serde_json::from_slice(content)?;
            Content::Stream {
                is_error: stream.name == "stderr",
                text: stream.text,
            }
        }
        "display_data" | "execute_result" => {
            let display: Display = serde_json::from_slice(content)?;
            Content::Display {
                is_main: kind == "execute_result",
                data: display.data,
            }
        }
        "error" => Content::Error(serde_json::from_slice(content)?),
        "execute_input" => Content::Input {
            count: serde_json::from_slice::<Input>(content)?.execution_count,
        },
        "status" => {
            let status: Status = serde_json::from_slice(content)?;
            if status.execution_state == "idle" {
                Content::Idle
            } else {
                Content::Other
            }
        }
        "execute_reply" | "kernel_info_reply" | "interrupt_reply" => {
            let reply: ReplyStatus = serde_json::from_slice(content)?;
            Content::Reply(match reply.status.as_str() {
                "error" => Reply::Error(serde_json::from_slice(content)?),
                "abort" | "aborted" => Reply::Aborted,
                // Old kernels leave the status out.
                _ => Reply::Ok,
            })
        }
        _ => Content::Other,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs
        .iter()
        .map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?))
        .collect()
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
