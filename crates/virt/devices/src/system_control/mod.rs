//! The system-control device: how a guest says that it is ready, and asks for shutdown or reboot. Port I/O on x86, MMIO on aarch64; the
//! same registers, 32 bits wide, little endian:
//!
//! | offset | access | register |
//! |---|---|---|
//! | 0x0 | R | `MAGIC`: "RWSC", 0x43535752 |
//! | 0x4 | R | `VERSION`: 1 |
//! | 0x8 | W | `COMMAND`: 1 ready, 2 shutdown, 3 reboot, 4 panic; anything else is ignored. 8, 16 or 32 bits wide |
//! | 0xc | RW | `ARGUMENT`: what goes with the next command: a shutdown's exit code, a panic's reason. 0 after reset |
//!
//! Everything else reads as zero and ignores writes. The VMM hears of a command through [`SystemEvents`], where each kind is kept once:
//! a guest that repeats itself takes no memory and no time.

mod device;
mod events;

#[cfg(test)]
mod tests;

pub use device::{SystemControl, SystemControlState};
pub use events::{SystemEvent, SystemEvents};

/// Bytes of address space that the registers take, by port or by MMIO.
pub const WINDOW_BYTES: u64 = 0x10;
/// What `MAGIC` reads as.
pub const MAGIC: u32 = u32::from_le_bytes(*b"RWSC");
/// What `VERSION` reads as.
pub const VERSION: u32 = 1;
