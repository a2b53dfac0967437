//! The device as a guest and the host's programs see it.

mod bulk;
mod closing;
mod credit;
mod guest;
mod hostile;
mod limits;
mod opening;
mod random;
mod restore;
