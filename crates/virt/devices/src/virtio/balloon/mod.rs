//! A memory balloon (VIRTIO 1.2 §5.5): the guest gives pages back to the host, because it is asked to or because they are free.
//!
//! ```text
//! API: target -> configuration space (num_pages) + interrupt -> guest's driver
//! inflate queue:   lists of page numbers -> ranges of guest memory -> discarded on the host
//! deflate queue:   lists of page numbers -> nothing: a page comes back when it is touched
//! statistics:      the guest's buffer is kept; a timer gives it back, and the guest answers with a new one, filled
//! reporting:       buffers that are free pages -> discarded, until the guest touches them again
//! ```
//!
//! Page numbers are the guest's: what lies outside of its memory is counted and passed over, and a request has a largest length.

mod device;
mod discard;
mod metrics;
mod pages;
mod requests;
mod state;
mod statistics;

#[cfg(test)]
mod tests;

pub use device::{Balloon, BalloonOptions};
pub use metrics::BalloonMetrics;
pub use state::{BalloonSummary, SetBalloonError};
pub use statistics::BalloonStatistics;
