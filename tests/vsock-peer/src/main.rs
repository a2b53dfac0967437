//! `vsock-peer`: the guest's half of the vsock test (testbed/l2/init); the host's half is testbed/guest/vmm.
//!
//! ```text
//! vsock-peer listen PORT COUNT SECONDS             echoes COUNT connections, then ends
//! vsock-peer call CID PORT COUNT BYTES SECONDS     opens COUNT connections, all at once, and sends BYTES over each
//! vsock-peer hold CID PORT WORD SECONDS               opens a connection, says WORD, and waits for the connection's end
//! ```
//! It must never wait for longer than SECONDS: the guest has other tests to run, and a hang is a finding.

mod address;
mod call;
mod hold;
mod listen;

use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

/// Exit code of a test that took too long: timeout(1)'s.
const TIMED_OUT: i32 = 124;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vsock-peer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<(), Box<dyn Error>> {
    match words {
        ["listen", port, count, seconds] => {
            end_after(Duration::from_secs(seconds.parse()?));
            listen::echo(port.parse()?, count.parse()?)?;
        }
        ["call", cid, port, count, bytes, seconds] => {
            end_after(Duration::from_secs(seconds.parse()?));
            call::exchange(cid.parse()?, port.parse()?, count.parse()?, bytes.parse()?)?;
        }
        ["hold", cid, port, word, seconds] => {
            end_after(Duration::from_secs(seconds.parse()?));
            hold::hold(cid.parse()?, port.parse()?, || writeln!(std::io::stdout(), "{word}"))?;
        }
        _ => {
            let usage =
                "usage: listen PORT COUNT SECONDS | call CID PORT COUNT BYTES SECONDS | hold CID PORT WORD SECONDS";
            return Err(usage.into());
        }
    }
    Ok(())
}

/// Ends the process when its time is over, whatever its threads are waiting for.
fn end_after(time: Duration) {
    std::thread::spawn(move || {
        std::thread::sleep(time);
        eprintln!("vsock-peer: not done after {} s", time.as_secs());
        std::process::exit(TIMED_OUT);
    });
}
