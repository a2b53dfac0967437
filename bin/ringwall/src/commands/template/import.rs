//! `ringwall template build --from-tar` and `--from-dir`: a root file system as a template, without steps.

use std::process::ExitCode;

use serde_json::Value;

use super::context;
use crate::args::BuildArgs;
use crate::failure::Failure;
use crate::{remote, ui};

/// Imports.
pub(super) fn execute(args: &BuildArgs) -> Result<ExitCode, Failure> {
    let (file, length) = match (&args.from_tar, &args.from_dir) {
        (Some(path), _) => {
            let unreadable = |error: std::io::Error| Failure::usage(format!("can't read {}: {error}", path.display()));
            let file = std::fs::File::open(path).map_err(unreadable)?;
            let length = file.metadata().map_err(unreadable)?.len();
            (file, length)
        }
        (None, Some(path)) => context::pack_root(path)?,
        (None, None) => return Err(Failure::usage("name an archive or a directory")),
    };
    let path = format!("/ringwall/templates/{}", remote::encode(&args.name));
    remote::run(async |service| {
        let made: Value = service.put_archive("an import", &path, length, file).await?;
        if args.json {
            ui::json(&made)?;
        } else {
            ui::line(made.get("templateID").and_then(Value::as_str).unwrap_or_default());
        }
        Ok(ExitCode::SUCCESS)
    })
}
