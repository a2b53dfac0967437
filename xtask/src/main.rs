//! `cargo xtask`: the project's own tasks. Each subcommand is a module; this file only parses the command line and turns a
//! failure into `Error:` / `Caused by:` lines and exit code 1.
#![expect(clippy::print_stdout, reason = "printing is what this program is for")]

mod bench;
#[cfg(test)]
mod bug_list;
mod checkout;
mod command;
mod docs;
mod fuzz;
mod layers;
mod packages;
mod stream;
mod tally;
mod test;
mod testbed;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Project tasks.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Runs all checks and tests, cheapest first.
    Test(test::TestArgs),
    /// Measures ringwall against its peers.
    Bench(bench::BenchArgs),
    /// Fails on a dependency that points upward through the layers.
    Layers,
    /// Boots a virtual machine with another kernel or architecture and runs the tests there.
    Testbed(testbed::TestbedArgs),
    /// Builds the kernel that our guests boot, and prints where it is.
    GuestKernel(testbed::GuestKernelArgs),
    /// Fuzzes what reads untrusted bytes.
    Fuzz(fuzz::FuzzArgs),
    /// Writes the man pages and shell completions to docs/.
    Docs(docs::DocsArgs),
}

fn main() -> ExitCode {
    let done: Result<bool, Box<dyn Error>> = match Args::parse().task {
        Task::Test(args) => test::run(&args).map_err(Into::into),
        Task::Bench(args) => bench::run(args).map(|()| true),
        Task::Layers => layers::run().map(|()| true).map_err(Into::into),
        Task::Testbed(args) => testbed::run(&args).map_err(Into::into),
        Task::GuestKernel(args) => testbed::run_guest_kernel(&args).map(|()| true).map_err(Into::into),
        Task::Fuzz(args) => fuzz::run(&args).map_err(Into::into),
        Task::Docs(args) => docs::run(&args).map(|()| true).map_err(Into::into),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("Error: {}", with_causes(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// Formats an error and the errors below it, one per line.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!("\nCaused by: {error}"));
        cause = error.source();
    }
    text
}
