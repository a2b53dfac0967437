//! The program `ringwall-agent`: see the library.

fn main() -> std::process::ExitCode {
    ringwall_agent::main(std::env::args_os().skip(1).collect())
}
