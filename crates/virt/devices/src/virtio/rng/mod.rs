//! Entropy for the guest (VIRTIO 1.2 §5.4). One queue, no configuration space, no feature.

mod allowance;
mod device;
mod metrics;

#[cfg(test)]
mod tests;

pub use allowance::Allowance;
pub use device::{Entropy, HostEntropy, Rng};
pub use metrics::RngMetrics;
