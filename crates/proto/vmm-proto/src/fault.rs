//! What a client is told when something wasn't done.

use std::fmt;

use serde_json::json;

use crate::controller::RefusedError;
use crate::error::RequestError;
use crate::state::WrongStateError;

/// Longest message in bytes. Some quote the client, who may have sent much.
const MAX_MESSAGE_BYTES: usize = 1024;

/// The status of an answer that isn't a success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultStatus {
    /// 400: everything that a client could do otherwise, as Firecracker has it.
    BadRequest,
    /// 413: body or metadata too long.
    PayloadTooLarge,
    /// 500: this program's own failure.
    Internal,
    /// 503: too many connections.
    Unavailable,
}

impl FaultStatus {
    /// The number in the status line.
    pub const fn code(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::PayloadTooLarge => 413,
            Self::Internal => 500,
            Self::Unavailable => 503,
        }
    }
}

/// An answer that isn't a success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    status: FaultStatus,
    message: String,
}

impl Fault {
    /// A fault with a message, which is cut if it is long.
    pub fn new(status: FaultStatus, message: &impl fmt::Display) -> Self {
        let mut message = message.to_string();
        if message.len() > MAX_MESSAGE_BYTES {
            let end = (0..=MAX_MESSAGE_BYTES)
                .rev()
                .find(|at| message.is_char_boundary(*at))
                .unwrap_or(0);
            message.truncate(end);
            message.push('…');
        }
        Self { status, message }
    }

    /// A fault of the client.
    pub fn bad_request(message: &impl fmt::Display) -> Self {
        Self::new(FaultStatus::BadRequest, message)
    }

    /// The status.
    pub const fn status(&self) -> FaultStatus {
        self.status
    }

    /// The text for the client.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The body of the answer.
    pub fn body(&self) -> String {
        json!({ "fault_message": self.message }).to_string()
    }
}

impl From<RequestError> for Fault {
    fn from(error: RequestError) -> Self {
        Self::bad_request(&error)
    }
}

impl From<WrongStateError> for Fault {
    fn from(error: WrongStateError) -> Self {
        Self::bad_request(&error)
    }
}

impl From<RefusedError> for Fault {
    fn from(error: RefusedError) -> Self {
        Self::bad_request(&error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_are_cut_between_characters() {
        let fault = Fault::bad_request(&"é".repeat(5000));
        assert!(fault.message().len() <= MAX_MESSAGE_BYTES + 3);
        assert!(fault.message().ends_with('…'));
        assert_eq!(Fault::bad_request(&"a\"b").body(), r#"{"fault_message":"a\"b"}"#);
    }
}
