//! A vsock address in the kernel's form, and a socket of that family.
#![expect(
    unsafe_code,
    reason = "rustix has no type for vsock addresses; its trait for further ones is unsafe"
)]

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// Any context (VMADDR_CID_ANY, linux/vm_sockets.h).
pub(crate) const ANY: u32 = u32::MAX;

/// `struct sockaddr_vm` (linux/vm_sockets.h).
#[repr(C)]
#[derive(Debug)]
pub(crate) struct VsockAddress {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    flags: u8,
    zero: [u8; 3],
}

impl VsockAddress {
    /// The address of a port of a context.
    pub(crate) const fn new(cid: u32, port: u32) -> Self {
        Self {
            family: AddressFamily::VSOCK.as_raw(),
            reserved: 0,
            port,
            cid,
            flags: 0,
            zero: [0; 3],
        }
    }
}

// SAFETY: the pointer is to a whole `VsockAddress`, which lives through the call, has no padding, and has the kernel's layout.
unsafe impl SocketAddrArg for VsockAddress {
    unsafe fn with_sockaddr<R>(&self, f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        const SIZE: SocketAddrLen = 16;
        const { assert!(size_of::<VsockAddress>() == SIZE as usize) };
        f(std::ptr::from_ref(self).cast(), SIZE)
    }
}

/// A stream socket of the vsock family.
///
/// # Errors
/// The kernel's: EAFNOSUPPORT where it has no vsock.
pub(crate) fn socket() -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::VSOCK, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}
