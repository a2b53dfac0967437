//! The devices of a virtual machine. Everything that a guest says is untrusted: copied once, checked, bounded.
//!
//! ```text
//! vCPU thread: MMIO or port exit -> bus -> transport (registers) -> device (configuration space)
//! VMM thread:  ioeventfd, or a device's own descriptor -> transport -> device -> used ring -> interrupt
//! ```

pub mod bus;
pub mod event;
pub mod guest_log;
pub mod i8042;
pub mod interrupt;
pub mod rate_limiter;
pub mod rtc;
pub mod serial;
pub mod system_control;
pub mod virtio;
pub mod vmgenid;
