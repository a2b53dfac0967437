//! Snapshots created: the time of the request, until both files are on the disk, and what they take there.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Instant;

use serde_json::json;

use super::millis;
use super::process::{self, Failure};
use super::programs::Build;
use super::starts::Ground;

/// What the guest touches, in bytes.
const TOUCHED: usize = 8 << 20;
/// Bytes of a block of `st_blocks` (stat(2)).
const BLOCK_BYTES: u64 = 512;

/// What was measured.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    /// Milliseconds of each.
    pub(super) create: Vec<f64>,
    /// Milliseconds of writing as much as the guest touched to a file beside it, and `fdatasync`.
    pub(super) floor: Vec<f64>,
    /// Bytes on disk of the memory file.
    pub(super) memory_bytes: u64,
    /// Bytes on disk of the state file.
    pub(super) state_bytes: u64,
}

/// Writes one snapshot per round of a paused guest, and the floor's file before or after it by turns.
///
/// # Errors
/// A snapshot that failed.
pub(super) fn measure(ground: &Ground, build: &Build, folder: &Path, rounds: u32) -> Result<Snapshots, Failure> {
    let (_vmm, mut client) = ground.booted(build)?;
    client.ask("PATCH", "/vm", &json!({"state": "Paused"}))?;
    let mut found = Snapshots::default();
    let plain = folder.join("plain");
    // Not zeroes, which a file system may leave out.
    let bytes = vec![0x5a; TOUCHED];
    for round in 0..rounds {
        if round % 2 == 0 {
            found
                .floor
                .push(write(&plain, &bytes).map_err(|error| error.to_string())?);
        }
        let to = folder.join(format!("snapshot{round}"));
        std::fs::create_dir(&to).map_err(|error| error.to_string())?;
        let begun = Instant::now();
        client.ask("PUT", "/snapshot/create", &process::create_body(&to))?;
        found.create.push(millis(begun));
        found.memory_bytes = found.memory_bytes.max(on_disk(&to.join("memory"))?);
        found.state_bytes = found.state_bytes.max(on_disk(&to.join("state"))?);
        std::fs::remove_dir_all(&to).map_err(|error| error.to_string())?;
        if round % 2 == 1 {
            found
                .floor
                .push(write(&plain, &bytes).map_err(|error| error.to_string())?);
        }
    }
    Ok(found)
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<f64> {
    let begun = Instant::now();
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    let took = millis(begun);
    std::fs::remove_file(path)?;
    Ok(took)
}

fn on_disk(path: &Path) -> Result<u64, Failure> {
    let found = path
        .metadata()
        .map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(found.blocks() * BLOCK_BYTES)
}
