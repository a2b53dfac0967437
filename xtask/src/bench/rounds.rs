//! Runs contestants in interleaved rounds and collects their samples.

use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::Instant;

/// Untimed rounds before the first: they bring files into the page cache.
const WARM_UP_ROUNDS: u32 = 3;

/// One contestant's command, and what follows it untimed.
pub(super) struct Runner {
    /// What is timed.
    pub(super) command: Command,
    /// Puts everything back as it was before the command.
    pub(super) restore: Box<dyn FnMut() -> Result<(), String>>,
    /// Whether the command prints the nanoseconds itself, in place of being timed from outside.
    pub(super) times_itself: bool,
    /// Exit codes besides 0 that mean the work was done.
    pub(super) also_fine: &'static [i32],
}

impl Runner {
    /// Runs the command once and returns the seconds.
    ///
    /// # Errors
    /// It couldn't be started, failed, or couldn't be undone.
    pub(super) fn sample(&mut self) -> Result<f64, String> {
        let seconds = if self.times_itself {
            let output = self.command.stdout(Stdio::piped()).stderr(Stdio::piped()).output();
            let output = output.map_err(|error| error.to_string())?;
            if !self.is_fine(output.status) {
                return Err(failed(&output));
            }
            let text = String::from_utf8_lossy(&output.stdout);
            let nanoseconds: f64 = text.trim().parse().map_err(|_| format!("printed {text:?}"))?;
            nanoseconds / 1e9
        } else {
            let start = Instant::now();
            let status = self.command.status();
            let seconds = start.elapsed().as_secs_f64();
            let status = status.map_err(|error| error.to_string())?;
            if !self.is_fine(status) {
                return Err(status.to_string());
            }
            seconds
        };
        (self.restore)()?;
        Ok(seconds)
    }

    fn is_fine(&self, status: ExitStatus) -> bool {
        status.success() || status.code().is_some_and(|code| self.also_fine.contains(&code))
    }

    /// Runs the command once, untimed, with its messages in the error.
    ///
    /// # Errors
    /// As [`Self::sample`].
    pub(super) fn try_out(&mut self) -> Result<(), String> {
        let output = self.command.stdout(Stdio::piped()).stderr(Stdio::piped()).output();
        let output = output.map_err(|error| error.to_string())?;
        self.command.stdout(Stdio::null()).stderr(Stdio::null());
        if !self.is_fine(output.status) {
            return Err(failed(&output));
        }
        (self.restore)()
    }
}

fn failed(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    format!("{}: {}", output.status, said.trim().replace('\n', "; "))
}

/// Runs every runner once per round and returns each one's samples in seconds.
///
/// Each round begins with another runner: whoever follows a heavy one finds colder caches, and that must not always be the same.
///
/// # Errors
/// The position of the runner that failed, and why.
pub(super) fn interleave(runners: &mut [Runner], rounds: u32) -> Result<Vec<Vec<f64>>, (usize, String)> {
    let mut samples = vec![Vec::new(); runners.len()];
    for round in 0..WARM_UP_ROUNDS.min(rounds) + rounds {
        let is_counted = round >= WARM_UP_ROUNDS.min(rounds);
        for step in 0..runners.len() {
            let position = (step + round as usize) % runners.len();
            let (Some(runner), Some(samples)) = (runners.get_mut(position), samples.get_mut(position)) else {
                continue; // the position is below both lengths
            };
            let sample = runner.sample().map_err(|why| (position, why))?;
            if is_counted {
                samples.push(sample);
            }
        }
    }
    Ok(samples)
}
