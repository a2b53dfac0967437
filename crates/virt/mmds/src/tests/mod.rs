//! The service as a guest's TCP sees it, and as a hostile guest would have it.

mod card;
mod hostile;
mod linux;
mod talk;

pub(crate) mod support;
