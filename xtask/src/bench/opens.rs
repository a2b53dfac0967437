//! The measured program of the benchmark `opens`: opens one file many times. It times itself, so that neither the sandbox's start
//! nor its own counts.
//!
//! It is compiled by the benchmark, not a hidden subcommand of this program: without optimization the standard library checks
//! each descriptor with one more system call before closing it, and then a sandbox's costs look smaller than they are.

use std::error::Error;
use std::path::PathBuf;
use std::process::Command;

use super::bed::Bed;
use crate::command;

/// Prints the nanoseconds that ARGV[1] opens of ARGV[2] took.
const SOURCE: &str = r#"
fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let count: u32 = arguments[1].parse().unwrap();
    let start = std::time::Instant::now();
    for _ in 0..count {
        drop(std::fs::File::open(&arguments[2]).unwrap());
    }
    println!("{}", start.elapsed().as_nanos());
}
"#;

/// Where the program is.
pub(super) fn program(bed: &Bed) -> PathBuf {
    bed.root().join("opens")
}

/// Compiles it, static, so that nothing but itself must be visible to run it.
///
/// # Errors
/// It couldn't be written or compiled.
pub(super) fn compile(bed: &Bed) -> Result<(), Box<dyn Error>> {
    let source = bed.root().join("opens.rs");
    std::fs::write(&source, SOURCE)?;
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition", "2024", "-O", "-C", "target-feature=+crt-static", "-o"]);
    command::output(rustc.arg(program(bed)).arg(source))?;
    Ok(())
}
