//! Confinement checks: each makes a plain call that a sandbox must refuse. One static binary, so that the same checks run here, in the
//! testbeds and by hand.
//!
//! `ringwall-attempts list` names them; `attempt NAME` makes one (exit 0: it succeeded, so confinement is broken; 1: it was stopped;
//! 2: it can't be tried here); `suite` plants what they look for and runs all in a tier; `suite --prove` shows that each succeeds
//! unconfined.
#![expect(clippy::print_stdout, reason = "a test program reports on standard output")]

mod calls;
mod files;
mod kernel;
mod processes;
mod resources;
mod sockets;
mod suite;

use std::process::ExitCode;

/// What came of an attempt.
pub(crate) enum Verdict {
    /// It did what must not be possible.
    Escaped(String),
    /// It was refused.
    Stopped(String),
    /// It can't be tried here.
    Skipped(String),
}

/// Where an attempt succeeds, which shows that the check can fail.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// Unconfined, as an ordinary user.
    Ordinary,
    /// Unconfined, as root in mount and UTS namespaces of its own.
    Root,
    /// Nowhere on this kind of machine, for this reason; it is counted as skipped.
    Nowhere(&'static str),
}

/// One check.
pub(crate) struct Attempt {
    /// Its name.
    pub(crate) name: &'static str,
    /// Why it must fail.
    pub(crate) why: &'static str,
    /// Where it succeeds.
    pub(crate) proof: Proof,
    /// Flags of `ringwall run` that it needs, beside the common ones.
    pub(crate) flags: &'static [&'static str],
    /// Makes it.
    pub(crate) make: fn() -> Verdict,
}

/// Shorthand for a row of a table.
pub(crate) const fn attempt(name: &'static str, proof: Proof, make: fn() -> Verdict, why: &'static str) -> Attempt {
    Attempt {
        name,
        why,
        proof,
        flags: &[],
        make,
    }
}

fn all() -> Vec<&'static Attempt> {
    [
        files::ATTEMPTS,
        processes::ATTEMPTS,
        kernel::ATTEMPTS,
        sockets::ATTEMPTS,
        resources::ATTEMPTS,
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["list"] => {
            for attempt in all() {
                println!("{:<28} {}", attempt.name, attempt.why);
            }
            ExitCode::SUCCESS
        }
        ["attempt", name] => match all().into_iter().find(|attempt| attempt.name == *name) {
            Some(attempt) => report((attempt.make)()),
            None => {
                println!("no attempt named {name}");
                ExitCode::from(3)
            }
        },
        ["privilege-of-file"] => report(processes::privilege_of_file()),
        ["suite", rest @ ..] => suite::run(rest),
        _ => {
            println!(
                "usage: ringwall-attempts list | attempt NAME | suite --ringwall PATH --tier TIER [--user root|ordinary] [--only NAME] [--prove]"
            );
            ExitCode::from(3)
        }
    }
}

fn report(verdict: Verdict) -> ExitCode {
    let (word, text, code) = match verdict {
        Verdict::Escaped(text) => ("ESCAPED", text, 0),
        Verdict::Stopped(text) => ("stopped", text, 1),
        Verdict::Skipped(text) => ("SKIPPED", text, 2),
    };
    println!("{word}: {text}");
    ExitCode::from(code)
}
