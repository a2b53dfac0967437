//! `ringwall key`: API keys of the server on this machine. A running server sees a change within a second.

use std::process::ExitCode;

use ringwall_node::Keys;

use super::serve;
use crate::args::{KeyArgs, KeyCommand};
use crate::failure::Failure;
use crate::ui;

pub(crate) fn execute(args: &KeyArgs) -> Result<ExitCode, Failure> {
    let keys = Keys::open(&serve::directory(args.state.as_deref())?).map_err(serve::explain)?;
    let listed = keys.list().map_err(serve::explain)?;
    match &args.command {
        KeyCommand::Create { name } => {
            if name.is_empty() || name.len() > 64 || name.chars().any(char::is_control) {
                return Err(Failure::usage(
                    "a key's name has 1 to 64 characters, none of them a control character",
                ));
            }
            if listed.iter().any(|key| key.name == *name) {
                return Err(Failure::usage(format!("there is a key named {name} already"))
                    .hint("remove it first, or choose another name"));
            }
            let (_, key) = keys.create(name).map_err(serve::explain)?;
            ui::line(&key);
            ui::note("this is the only time the key is shown; the server keeps a hash of it");
        }
        KeyCommand::Ls => {
            for key in listed {
                ui::line(&format!("{}  {}", key.id, key.name));
            }
        }
        KeyCommand::Rm { name } => {
            if !keys.remove(name).map_err(serve::explain)? {
                return Err(Failure::usage(format!("there is no key {name}")).hint("`ringwall key ls` lists them"));
            }
            ui::note("removed; its sandboxes stay until their time is up");
        }
    }
    Ok(ExitCode::SUCCESS)
}
