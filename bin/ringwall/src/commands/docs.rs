//! Man pages and shell completions, generated from the command line's definition.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;

use crate::args::Cli;
use crate::failure::Failure;
use crate::ui;

/// Writes a page for each command into `dir`.
pub(crate) fn man(dir: &Path) -> Result<ExitCode, Failure> {
    fs::create_dir_all(dir).map_err(Failure::own)?;
    clap_mangen::generate_to(Cli::command(), dir).map_err(Failure::own)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints completions for a shell.
pub(crate) fn completions(shell: clap_complete::Shell) -> Result<ExitCode, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ringwall", &mut text);
    ui::out(&String::from_utf8_lossy(&text));
    Ok(ExitCode::SUCCESS)
}
