//! The disk, played with by a driver: good, mistaken and hostile.

mod engines;
mod hostile;
mod race;
mod random;
mod requests;
mod snapshot;
mod support;
