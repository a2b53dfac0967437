//! The device as a guest and the host's programs see it.

mod guest;
mod opening;
