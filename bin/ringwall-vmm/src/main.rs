//! `ringwall-vmm`: one virtual machine per process.

fn main() {}
