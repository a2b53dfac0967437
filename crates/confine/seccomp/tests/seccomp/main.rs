//! The filters in this machine's kernel.

mod native;
mod numbers;
