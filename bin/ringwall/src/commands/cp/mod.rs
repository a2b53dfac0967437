//! `ringwall cp`: files into a sandbox and out of it.

mod download;
mod upload;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::args::CpArgs;
use crate::failure::Failure;
use crate::remote::{self, Sandbox};

/// One side of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Side {
    /// A path in a sandbox.
    There { id: String, path: String },
    /// A path here.
    Here(PathBuf),
    /// Standard input or output.
    Stream,
}

impl Side {
    /// Reads one. Whatever has a slash before its first colon is a path here.
    fn parse(text: &str) -> Result<Self, Failure> {
        if text == "-" {
            return Ok(Side::Stream);
        }
        match text.split_once(':') {
            Some((id, path)) if !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                if path.is_empty() {
                    return Err(Failure::usage(format!("{text:?} names no path in the sandbox")));
                }
                Ok(Side::There {
                    id: id.to_owned(),
                    path: path.to_owned(),
                })
            }
            _ if text.is_empty() => Err(Failure::usage("a path is empty")),
            _ => Ok(Side::Here(PathBuf::from(text))),
        }
    }
}

/// Copies.
pub(crate) fn execute(args: &CpArgs) -> Result<ExitCode, Failure> {
    let (from, to) = (Side::parse(&args.from)?, Side::parse(&args.to)?);
    let id = match (&from, &to) {
        (Side::There { .. }, Side::There { .. }) => {
            return Err(Failure::usage("both sides are in a sandbox").hint("copy to a path here first"));
        }
        (Side::There { id, .. }, _) | (_, Side::There { id, .. }) => id.clone(),
        _ => return Err(Failure::usage("neither side is in a sandbox").hint("write that side as ID:PATH")),
    };
    remote::run(async |service| {
        let sandbox = Sandbox::open(service, &id, args.user.as_deref()).await?;
        match (from, to) {
            (Side::There { path, .. }, Side::Stream) => download::to_output(&sandbox, &path).await,
            (Side::There { path, .. }, Side::Here(to)) => download::to_path(&sandbox, &path, &to).await,
            (Side::Stream, Side::There { path, .. }) => upload::from_input(&sandbox, &path).await,
            (Side::Here(from), Side::There { path, .. }) => upload::from_path(&sandbox, &from, &path).await,
            // Refused above.
            _ => Err(Failure::usage("one side must be in a sandbox")),
        }?;
        Ok(ExitCode::SUCCESS)
    })
}

/// The last component of a path in a sandbox, if it names one.
fn last(path: &str) -> Option<&str> {
    let name = path.trim_end_matches('/').rsplit('/').next()?;
    (!name.is_empty() && name != "." && name != "..").then_some(name)
}

/// A path below another.
fn join(directory: &str, name: &str) -> String {
    format!("{}/{name}", directory.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart() {
        let there = |id: &str, path: &str| Side::There {
            id: id.to_owned(),
            path: path.to_owned(),
        };
        assert_eq!(Side::parse("iabc:/x:y").unwrap(), there("iabc", "/x:y"));
        assert_eq!(Side::parse("iabc:rel").unwrap(), there("iabc", "rel"));
        assert_eq!(Side::parse("./a:b").unwrap(), Side::Here("./a:b".into()));
        assert_eq!(Side::parse("a b:c").unwrap(), Side::Here("a b:c".into()));
        assert_eq!(Side::parse("-").unwrap(), Side::Stream);
        assert!(Side::parse("iabc:").is_err() && Side::parse("").is_err());
    }

    #[test]
    fn last_components() {
        assert_eq!(last("/a/b/"), Some("b"));
        assert_eq!(last("b"), Some("b"));
        assert_eq!((last("/"), last("/a/."), last("..")), (None, None, None));
        assert_eq!(join("/", "a"), "/a");
    }
}
