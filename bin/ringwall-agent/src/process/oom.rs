//! Making children likelier victims of the OOM killer than the agent, from their first instruction on.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;

/// What children get, unless the agent's own is higher already (proc(5), `oom_score_adj`: -1000 to 1000).
const CHILD_SCORE: i32 = 500;

/// The agent's own score, to be raised while it forks: children inherit it, and no moment is left in which they have the lower one.
#[derive(Debug)]
pub(crate) struct OomScore {
    file: Option<File>,
    own: i32,
}

impl OomScore {
    /// Opens the file. While the process is still dumpable: later the file is root's. Where there is no /proc, children keep our score.
    pub(crate) fn open() -> Self {
        const PATH: &str = "/proc/self/oom_score_adj";
        let own = std::fs::read_to_string(PATH)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0);
        OomScore {
            file: OpenOptions::new().write(true).open(PATH).ok(),
            own,
        }
    }

    /// Runs `fork` with the children's score.
    pub(crate) fn raised<T>(&self, fork: impl FnOnce() -> T) -> T {
        let changed = self.own < CHILD_SCORE && self.set(CHILD_SCORE);
        let result = fork();
        if changed {
            // Lowering is allowed down to where a privileged process last put it (proc(5)), and that is where we started.
            self.set(self.own);
        }
        result
    }

    fn set(&self, score: i32) -> bool {
        let text = score.to_string();
        self.file
            .as_ref()
            .is_some_and(|file| file.write_all_at(text.as_bytes(), 0).is_ok())
    }
}
