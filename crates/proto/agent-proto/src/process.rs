//! Messages of the service `process.Process`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::json::{base64_bytes, nullable, uint32};

/// Name of the service in paths.
pub const SERVICE: &str = "process.Process";

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessConfig {
    /// Program; looked up in PATH.
    #[serde(deserialize_with = "nullable")]
    pub cmd: String,
    /// Arguments after the program's name.
    #[serde(deserialize_with = "nullable")]
    pub args: Vec<String>,
    /// Environment, above the sandbox's own.
    #[serde(deserialize_with = "nullable")]
    pub envs: BTreeMap<String, String>,
    /// Working directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Size {
    /// Width.
    #[serde(deserialize_with = "uint32::deserialize")]
    pub cols: u32,
    /// Height.
    #[serde(deserialize_with = "uint32::deserialize")]
    pub rows: u32,
}

/// A terminal to run in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Pty {
    /// Its size; the agent's default when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
}

/// Which process: one of the two.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Selector {
    /// By pid.
    #[serde(deserialize_with = "uint32::optional", skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// By the tag it was started with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

/// Request of `Start`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StartRequest {
    /// What to run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessConfig>,
    /// Run it in a terminal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pty: Option<Pty>,
    /// A name for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Whether stdin is a pipe; it is when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin: Option<bool>,
}

/// Request of `Connect`, `CloseStdin`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SelectRequest {
    /// Which.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Selector>,
}

/// Request of `Update`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UpdateRequest {
    /// Which.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Selector>,
    /// The terminal's new size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pty: Option<Pty>,
}

/// Bytes for a process: one of the two.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Input {
    /// For a pipe.
    #[serde(with = "base64_bytes", skip_serializing_if = "Option::is_none")]
    pub stdin: Option<Vec<u8>>,
    /// For a terminal.
    #[serde(with = "base64_bytes", skip_serializing_if = "Option::is_none")]
    pub pty: Option<Vec<u8>>,
}

/// Request of `SendInput`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SendInputRequest {
    /// Which.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Selector>,
    /// What.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<Input>,
}

/// One message of `StreamInput`: the first is a start.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamInputRequest {
    /// Says which process the rest is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<SelectRequest>,
    /// Bytes for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<InputData>,
    /// Nothing, to keep the connection open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keepalive: Option<Empty>,
}

/// Bytes in a `StreamInput`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InputData {
    /// What.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<Input>,
}

/// A message without fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Empty {}

/// A signal that clients may send; by name or protobuf number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "SignalText", into = "&'static str")]
pub enum Signal {
    /// Not said.
    #[default]
    Unspecified,
    /// SIGTERM.
    Terminate,
    /// SIGKILL.
    Kill,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SignalText {
    Name(String),
    Number(i32),
}

impl TryFrom<SignalText> for Signal {
    type Error = UnknownSignal;

    fn try_from(text: SignalText) -> Result<Self, UnknownSignal> {
        match text {
            SignalText::Name(name) => match name.as_str() {
                "SIGNAL_SIGTERM" => Ok(Signal::Terminate),
                "SIGNAL_SIGKILL" => Ok(Signal::Kill),
                "SIGNAL_UNSPECIFIED" => Ok(Signal::Unspecified),
                _ => Err(UnknownSignal(name)),
            },
            SignalText::Number(15) => Ok(Signal::Terminate),
            SignalText::Number(9) => Ok(Signal::Kill),
            SignalText::Number(0) => Ok(Signal::Unspecified),
            SignalText::Number(number) => Err(UnknownSignal(number.to_string())),
        }
    }
}

impl From<Signal> for &'static str {
    fn from(signal: Signal) -> &'static str {
        match signal {
            Signal::Unspecified => "SIGNAL_UNSPECIFIED",
            Signal::Terminate => "SIGNAL_SIGTERM",
            Signal::Kill => "SIGNAL_SIGKILL",
        }
    }
}

/// A signal that the protocol does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown signal {0}")]
pub struct UnknownSignal(pub String);

/// Request of `SendSignal`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SendSignalRequest {
    /// Which.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Selector>,
    /// What.
    #[serde(deserialize_with = "nullable")]
    pub signal: Signal,
}

/// One running process.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// What runs.
    pub config: ProcessConfig,
    /// Its pid.
    pub pid: u32,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

/// Answer of `List`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ListResponse {
    /// Those that have not ended.
    pub processes: Vec<ProcessInfo>,
}

/// One message of the streams `Start` and `Connect`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventMessage {
    /// What happened.
    pub event: Event,
}

/// What happened to a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// It runs; always the first.
    Start {
        /// Its pid.
        pid: u32,
    },
    /// It wrote something.
    Data(Output),
    /// It is over; always the last.
    End(End),
    /// Nothing, to keep the connection open.
    Keepalive {},
}

impl Event {
    /// Frames the event for a stream.
    #[must_use]
    pub fn into_frame(self) -> bytes::Bytes {
        crate::envelope::message(&EventMessage { event: self })
    }
}

/// What a process wrote: one of the three.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Output {
    /// To standard output.
    #[serde(with = "base64_bytes", skip_serializing_if = "Option::is_none")]
    pub stdout: Option<Vec<u8>>,
    /// To standard error.
    #[serde(with = "base64_bytes", skip_serializing_if = "Option::is_none")]
    pub stderr: Option<Vec<u8>>,
    /// To its terminal.
    #[serde(with = "base64_bytes", skip_serializing_if = "Option::is_none")]
    pub pty: Option<Vec<u8>>,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct End {
    /// What it returned; -1 when a signal ended it.
    pub exit_code: i32,
    /// Whether it returned by itself.
    pub exited: bool,
    /// The same in words.
    pub status: String,
    /// Set unless it returned 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_real_clients_are_read() {
        let text = r#"{"process":{"cmd":"/bin/bash","args":["-l","-c","echo hi"],"envs":{},"cwd":null},"stdin":false,"unknown":{"x":1}}"#;
        let request: StartRequest = serde_json::from_str(text).unwrap();
        assert_eq!(request.process.unwrap().args.len(), 3);
        assert_eq!(request.stdin, Some(false));
        let text = r#"{"process":{"pid":"12"},"signal":"SIGNAL_SIGKILL"}"#;
        let request: SendSignalRequest = serde_json::from_str(text).unwrap();
        assert_eq!((request.process.unwrap().pid, request.signal), (Some(12), Signal::Kill));
        let text = r#"{"process":{"tag":"t"},"input":{"stdin":"aGk"}}"#;
        let request: SendInputRequest = serde_json::from_str(text).unwrap();
        assert_eq!(request.input.unwrap().stdin.unwrap(), b"hi");
    }

    #[test]
    fn events_are_written_as_clients_read_them() {
        let text = |event| serde_json::to_string(&EventMessage { event }).unwrap();
        assert_eq!(text(Event::Start { pid: 3 }), r#"{"event":{"start":{"pid":3}}}"#);
        assert_eq!(text(Event::Keepalive {}), r#"{"event":{"keepalive":{}}}"#);
        let output = Output {
            stdout: Some(b"hi".to_vec()),
            ..Output::default()
        };
        assert_eq!(text(Event::Data(output)), r#"{"event":{"data":{"stdout":"aGk="}}}"#);
    }

    #[test]
    fn unknown_signals_and_bad_bytes_are_refused() {
        assert!(serde_json::from_str::<SendSignalRequest>(r#"{"signal":"SIGNAL_SIGHUP"}"#).is_err());
        assert!(serde_json::from_str::<Input>(r#"{"stdin":"*"}"#).is_err());
    }
}
