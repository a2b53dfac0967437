//! The lines of an execution's answer, as E2B's clients parse them.
//!
//! One JSON object per line and never an empty line: E2B's clients fail on one.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::Serialize;

use crate::kernel::{Content, KernelError};
use crate::rich::Rich;

/// A line.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Event {
    /// The code begins to run.
    NumberOfExecutions {
        /// How many cells the kernel has run.
        execution_count: u64,
    },
    /// Text on standard output.
    Stdout(Text),
    /// Text on standard error.
    Stderr(Text),
    /// Something to show.
    Result(Rich),
    /// An error.
    Error(ErrorEvent),
    /// Nothing happens, but the connection is alive. E2B's clients skip types they don't know.
    Keepalive,
    /// The last line.
    EndOfExecution,
}

/// Text and when it arrived.
#[derive(Debug, Serialize)]
pub(crate) struct Text {
    text: String,
    /// Nanoseconds since 1970.
    timestamp: u64,
}

/// An error of the code, or of the kernel.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorEvent {
    /// The exception's class, say.
    pub(crate) name: String,
    /// What it says.
    pub(crate) value: String,
    /// Where it came from, all lines in one text.
    pub(crate) traceback: String,
}

impl Event {
    /// Makes the line for what a kernel published; `None` if there is nothing to tell.
    pub(crate) fn from_content(content: Content) -> Option<Self> {
        Some(match content {
            Content::Stream { is_error: false, text } => Self::Stdout(Text::now(text)),
            Content::Stream { is_error: true, text } => Self::Stderr(Text::now(text)),
            Content::Display { is_main, data } => Self::Result(Rich::from_bundle(data, is_main)),
            Content::Error(error) => Self::from(error),
            Content::Input { count } => Self::NumberOfExecutions { execution_count: count },
            Content::Idle | Content::Reply(_) | Content::Other => return None,
        })
    }

    /// An error that isn't the code's own.
    pub(crate) fn trouble(name: &str, value: String) -> Self {
        Self::Error(ErrorEvent {
            name: name.to_owned(),
            value,
            traceback: String::new(),
        })
    }

    /// A remark on standard error.
    pub(crate) fn remark(text: String) -> Self {
        Self::Stderr(Text::now(text))
    }

    /// The line with its line feed.
    pub(crate) fn to_line(&self) -> Bytes {
        // Maps have text keys only, so this can't fail; a keepalive would be true in any case.
        let mut line = serde_json::to_vec(self).unwrap_or_else(|_| br#"{"type":"keepalive"}"#.to_vec());
        line.push(b'\n');
        Bytes::from(line)
    }
}

impl From<KernelError> for Event {
    fn from(error: KernelError) -> Self {
        // Bash's kernel leaves the name empty.
        let name = if error.name.is_empty() {
            "Error".to_owned()
        } else {
            error.name
        };
        Self::Error(ErrorEvent {
            name,
            value: error.value,
            traceback: error.traceback.join("\n"),
        })
    }
}

impl Text {
    fn now(text: String) -> Self {
        let timestamp = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos();
        Self {
            text,
            timestamp: u64::try_from(timestamp).unwrap_or(u64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn line(event: &Event) -> serde_json::Value {
        let line = event.to_line();
        assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1, "one line");
        serde_json::from_slice(&line).unwrap()
    }

    #[test]
    fn lines_have_the_types_clients_know() {
        assert_eq!(
            line(&Event::NumberOfExecutions { execution_count: 2 }),
            json!({"type": "number_of_executions", "execution_count": 2})
        );
        assert_eq!(line(&Event::EndOfExecution), json!({"type": "end_of_execution"}));
        assert_eq!(line(&Event::Keepalive), json!({"type": "keepalive"}));
        let text = line(
            &Event::from_content(Content::Stream {
                is_error: false,
                text: "a\nb".into(),
            })
            .unwrap(),
        );
        assert_eq!((&text["type"], &text["text"]), (&json!("stdout"), &json!("a\nb")));
        assert!(text["timestamp"].as_u64().unwrap() > 1_700_000_000_000_000_000);
    }

    #[test]
    fn an_error_has_its_traceback_in_one_text() {
        let error = KernelError {
            name: "E".into(),
            value: "v".into(),
            traceback: vec!["a".into(), "b".into()],
        };
        assert_eq!(
            line(&Event::from(error)),
            json!({"type": "error", "name": "E", "value": "v", "traceback": "a\nb"})
        );
    }
}
