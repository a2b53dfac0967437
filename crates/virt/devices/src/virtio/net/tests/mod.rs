//! The network card, played with by a driver and a back end: good, mistaken and hostile.

mod hostile;
mod packets;
mod race;
mod random;
mod snapshot;
pub(super) mod support;
