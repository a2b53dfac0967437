//! The service as a guest's TCP sees it, and as a hostile guest would have it.

pub(crate) mod support;
