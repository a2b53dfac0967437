//! A serial port (16550A), on top of `vm-superio`: port I/O on x86, MMIO on aarch64.
//!
//! ```text
//! guest writes a byte -> Serial -> Output -> the console's descriptor      (never waits; what does not fit is counted and lost)
//! console -> the VMM's thread -> Serial::push_input -> FIFO -> interrupt   (only as much as the FIFO has room for)
//!                ^-- room event: the guest has read it empty --'
//! ```

mod device;
mod metrics;
mod output;
mod state;

#[cfg(test)]
mod tests;

pub use device::Serial;
pub use metrics::SerialMetrics;
pub use output::Output;
pub use state::{RestoreSerialError, SerialState};

/// Bytes of address space that the port takes.
pub const WINDOW_BYTES: u64 = 8;
