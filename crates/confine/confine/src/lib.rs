//! Confinement: the root file system a sandbox sees, Landlock on top of it, and the last steps before exec.
//!
//! [`view::View`] says what is visible; [`root::Sources::open`] takes hold of everything on the host, [`root::build`] makes it the
//! root of the calling process. [`landlock`] and [`lockdown`] then take away what the program must not have.
#![forbid(unsafe_code)]

pub mod devices;
pub mod landlock;
pub mod lockdown;
pub mod root;
pub mod view;
