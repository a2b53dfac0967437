//! The command line: `--port N`, and nothing else.

use std::ffi::OsString;

/// Where E2B's clients look for the code interpreter.
const DEFAULT_PORT: u16 = 49_999;

/// What the command line asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    /// TCP port on 127.0.0.1; 0 lets the system choose.
    pub(crate) port: u16,
}

/// Why a command line is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ParseArgumentsError {
    /// An argument that isn't known.
    #[error("unknown argument {0:?}; the only one is --port N")]
    Unknown(OsString),
    /// `--port` without a number.
    #[error("--port needs a number between 0 and 65535, not {0:?}")]
    Port(OsString),
}

impl Arguments {
    /// Reads the arguments after the program's name.
    ///
    /// # Errors
    /// An argument that isn't known, or a port that isn't one.
    pub(crate) fn parse(arguments: Vec<OsString>) -> Result<Self, ParseArgumentsError> {
        let mut port = DEFAULT_PORT;
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let value = match argument.to_str() {
                Some("--port") => arguments.next().unwrap_or_default(),
                Some(text) if text.starts_with("--port=") => text["--port=".len()..].into(),
                _ => return Err(ParseArgumentsError::Unknown(argument)),
            };
            port = value
                .to_str()
                .and_then(|text| text.parse().ok())
                .ok_or(ParseArgumentsError::Port(value))?;
        }
        Ok(Self { port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<u16, ParseArgumentsError> {
        Arguments::parse(arguments.iter().map(OsString::from).collect()).map(|arguments| arguments.port)
    }

    #[test]
    fn the_port_is_read_or_has_its_default() {
        assert_eq!(parse(&[]), Ok(49_999));
        assert_eq!(parse(&["--port", "8080"]), Ok(8080));
        assert_eq!(parse(&["--port=0"]), Ok(0));
    }

    #[test]
    fn anything_else_is_refused() {
        assert_eq!(parse(&["--port"]), Err(ParseArgumentsError::Port("".into())));
        assert_eq!(
            parse(&["--port", "65536"]),
            Err(ParseArgumentsError::Port("65536".into()))
        );
        assert_eq!(parse(&["serve"]), Err(ParseArgumentsError::Unknown("serve".into())));
    }
}
