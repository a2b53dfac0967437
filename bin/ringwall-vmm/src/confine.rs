//! What the VMM's threads may do.

/// Called on each vCPU's thread before it runs the guest.
pub(crate) fn vcpu_thread() {}

/// Called on the API server's thread before it serves anybody.
pub(crate) fn api_thread() {}
