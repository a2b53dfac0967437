//! `ringwall-interpreter`: the code interpreter as a program of its own.

fn main() -> std::process::ExitCode {
    ringwall_interpreter::main(std::env::args_os().skip(1).collect())
}
