//! One file a command.

mod commit;
mod cp;
mod create;
mod diff;
mod discard;
mod docs;
mod doctor;
mod exec;
mod fork;
mod gc;
mod inspect;
mod key;
mod kill;
mod logs;
mod names;
mod pause;
mod policy;
mod port;
mod ps;
mod resume;
mod run;
pub(crate) mod serve;
mod shell;
mod snapshot;
mod template;

use std::process::ExitCode;

use crate::args::{Cli, Command, PolicyCommand};
use crate::failure::Failure;

/// Executes a parsed command line.
pub(crate) fn execute(cli: Cli) -> Result<ExitCode, Failure> {
    match cli.command {
        Command::Run(args) => run::execute(*args),
        Command::Diff(args) => diff::execute(&args),
        Command::Commit(args) => commit::execute(&args),
        Command::Discard(args) => discard::execute(&args.name),
        Command::Ps(args) => ps::execute(&args),
        Command::Inspect(args) => inspect::execute(&args.name),
        Command::Create(args) => create::execute(&args),
        Command::Exec(args) => exec::execute(*args),
        Command::Shell(args) => shell::execute(args),
        Command::Cp(args) => cp::execute(&args),
        Command::Pause(args) => pause::execute(&args.id),
        Command::Resume(args) => resume::execute(&args),
        Command::Snapshot(args) => snapshot::execute(&args),
        Command::Fork(args) => fork::execute(&args),
        Command::Port(args) => port::execute(&args),
        Command::Template(args) => template::execute(args.command),
        Command::Kill(args) => kill::execute(&args),
        Command::Logs(args) => logs::execute(&args),
        Command::Gc(args) => gc::execute(&args),
        Command::Doctor(args) => doctor::execute(&args),
        Command::Policy(args) => match args.command {
            PolicyCommand::Show(args) => policy::show(args.policy),
        },
        Command::Serve(args) => serve::execute(args),
        Command::Key(args) => key::execute(&args),
        Command::Keeper => ringwall_node::run_keeper()
            .map(|()| ExitCode::SUCCESS)
            .map_err(Failure::own),
        Command::Openapi => {
            crate::ui::out(&ringwall_api::openapi_document());
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { dir } => docs::man(&dir),
        Command::Completions { shell } => docs::completions(shell),
    }
}
