//! What differs between x86_64 and aarch64 in a virtual machine. Values are pure functions, compiled and tested on every host.

mod memory;

pub use memory::GuestRam;
