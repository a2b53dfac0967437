//! `ringwall-vmm`: one virtual machine per process.

use std::process::ExitCode;

fn main() -> ExitCode {
    ringwall_vmm_bin::run::main(std::env::args_os()).into()
}
