//! What a guest, or whoever made its kernel, can do to the virtual machine monitor.

mod boot;
mod devices;
mod input;
mod machine;
mod queue;
mod snapshot;

pub use boot::{board, kernel_aarch64, kernel_x86_64};
pub use devices::{balloon, block, mmio, net, vsock};
pub use queue::queue;
pub use ringwall_devices::virtio::vsock::fuzzing::fuzz_packets as vsock_packets;
pub use ringwall_mmds::fuzzing::fuzz_frames as mmds;
pub use ringwall_vmm_bin::api::fuzzing::fuzz_requests as requests;
pub use snapshot::{config_file, snapshot};
