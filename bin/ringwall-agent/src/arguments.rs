//! The command line: two inherited listening sockets.

use std::ffi::OsString;
use std::os::fd::{OwnedFd, RawFd};

/// What the agent was started with, checked and open.
#[derive(Debug)]
pub(crate) struct Arguments {
    /// Listening Unix stream socket of the HTTP server.
    pub(crate) listener: OwnedFd,
    /// Listening Unix sequenced-packet socket for ports; optional.
    pub(crate) ports: Option<OwnedFd>,
}

/// Why the command line was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArgumentsError {
    #[error("unknown argument '{0}' (known: --listen-fd N, --ports-fd N)")]
    Unknown(String),
    #[error("{0} wants the number of a descriptor")]
    NotANumber(&'static str),
    #[error("--listen-fd is missing")]
    NoListener,
    #[error("descriptor {0} is not open")]
    NotOpen(RawFd, #[source] std::io::Error),
    #[error("descriptor {0} is given twice")]
    Twice(RawFd),
}

impl Arguments {
    /// Reads the command line and takes over the descriptors it names.
    pub(crate) fn parse(arguments: Vec<OsString>) -> Result<Self, ArgumentsError> {
        let (listener, ports) = numbers(arguments)?;
        if Some(listener) == ports {
            return Err(ArgumentsError::Twice(listener));
        }
        let take = |fd: RawFd| ringwall_sys::inherited::take(fd).map_err(|source| ArgumentsError::NotOpen(fd, source));
        Ok(Arguments {
            listener: take(listener)?,
            ports: ports.map(take).transpose()?,
        })
    }
}

fn numbers(arguments: Vec<OsString>) -> Result<(RawFd, Option<RawFd>), ArgumentsError> {
    let (mut listener, mut ports) = (None, None);
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let (name, slot) = match argument.to_str() {
            Some("--listen-fd") => ("--listen-fd", &mut listener),
            Some("--ports-fd") => ("--ports-fd", &mut ports),
            _ => return Err(ArgumentsError::Unknown(argument.to_string_lossy().into_owned())),
        };
        let number = arguments.next().and_then(|value| value.to_str()?.parse().ok());
        *slot = Some(number.ok_or(ArgumentsError::NotANumber(name))?);
    }
    Ok((listener.ok_or(ArgumentsError::NoListener)?, ports))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<(RawFd, Option<RawFd>), ArgumentsError> {
        numbers(words.iter().map(Into::into).collect())
    }

    #[test]
    fn both_sockets_are_read() {
        assert_eq!(parse(&["--ports-fd", "4", "--listen-fd", "3"]).unwrap(), (3, Some(4)));
        assert_eq!(parse(&["--listen-fd", "3"]).unwrap(), (3, None));
    }

    #[test]
    fn anything_else_is_refused() {
        assert!(matches!(
            parse(&["--listen-fd", "x"]),
            Err(ArgumentsError::NotANumber(_))
        ));
        assert!(matches!(parse(&["--listen-fd"]), Err(ArgumentsError::NotANumber(_))));
        assert!(matches!(parse(&["--help"]), Err(ArgumentsError::Unknown(_))));
        assert!(matches!(parse(&[]), Err(ArgumentsError::NoListener)));
    }
}
