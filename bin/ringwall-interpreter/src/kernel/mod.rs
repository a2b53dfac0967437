//! A Jupyter kernel: found by its kernelspec, started as a process, spoken to over ZeroMQ.

mod iopub;
mod launch;
mod message;
mod process;
mod running;
mod spec;
mod zmtp;

pub(crate) use launch::StartKernelError;
pub(crate) use message::{Content, KernelError, Reply};
pub(crate) use running::{Kernel, Step};
pub(crate) use spec::Places;
