//! A tap device of the host's kernel (Linux `Documentation/networking/tuntap.rst`) as a back end.
#![expect(unsafe_code, reason = "ioctl(2) of the tap device, which no crate has")]

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{IntegerSetter, Setter, Updater, ioctl, opcode};
use thiserror::Error;

use super::backend::{Backend, Offloads, PACKET_HEADER_BYTES, Segmentation};

// Linux `include/uapi/linux/if_tun.h`.
const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<libc::c_int>(b'T', 202);
const TUNSETOFFLOAD: rustix::ioctl::Opcode = opcode::write::<libc::c_uint>(b'T', 208);
const TUNGETIFF: rustix::ioctl::Opcode = opcode::read::<libc::c_uint>(b'T', 210);
const TUNSETVNETHDRSZ: rustix::ioctl::Opcode = opcode::write::<libc::c_int>(b'T', 216);
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const TUN_F_CSUM: usize = 0x01;
const TUN_F_TSO4: usize = 0x02;
const TUN_F_TSO6: usize = 0x04;
/// `IFNAMSIZ` (Linux `include/uapi/linux/if.h`), with the zero at its end.
const NAME_BYTES: usize = 16;

/// `struct ifreq` (netdevice(7)) as these calls use it: a name, flags, and padding to the size of the union.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct InterfaceRequest {
    name: [u8; NAME_BYTES],
    flags: u16,
    // As aligned and as large as the union's largest member on 64-bit machines, which is a structure with pointers.
    padding: [u8; 22],
}

/// Why there is no tap device.
#[derive(Debug, Error)]
pub enum OpenTapError {
    /// The name is empty, too long, or not plain text.
    #[error("{name:?} can't be the name of an interface")]
    Name {
        /// As given.
        name: String,
    },
    /// `/dev/net/tun` can't be opened.
    #[error("/dev/net/tun can't be opened")]
    Open(#[source] io::Error),
    /// The interface can't be had.
    #[error("the tap device {name:?} can't be had{}", why(source))]
    Attach {
        /// Its name.
        name: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The descriptor is not that of a tap device with packet headers.
    #[error("the descriptor is not a tap device with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR (its flags are {flags:#x})")]
    Kind {
        /// What it has.
        flags: u16,
    },
    /// Setting it up failed.
    #[error("the tap device can't be set up: {what}")]
    SetUp {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// What TUNSETIFF's errors mean (drivers/net/tun.c), which their own texts hide.
fn why(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::INVAL) => " (a network device of another kind has that name)",
        Some(Errno::BUSY) => " (another program has it)",
        Some(Errno::PERM) => " (it belongs to another user; or there is none, and this user may not make one)",
        _ => "",
    }
}

/// An attached tap device.
#[derive(Debug)]
pub struct Tap {
    descriptor: OwnedFd,
    name: String,
}

impl Tap {
    /// Opens `/dev/net/tun` and attaches to an interface, which is made if it is not there and the process may (`CAP_NET_ADMIN`).
    ///
    /// # Errors
    /// See [`OpenTapError`].
    pub fn open(name: &str) -> Result<Self, OpenTapError> {
        let mut request = InterfaceRequest {
            name: interface_name(name)?,
            flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR,
            padding: [0; 22],
        };
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let descriptor =
            rustix::fs::open("/dev/net/tun", flags, Mode::empty()).map_err(|error| OpenTapError::Open(error.into()))?;
        // SAFETY: the call reads and writes a `struct ifreq`, which `InterfaceRequest` is laid out as and no smaller than.
        let attach = unsafe { Updater::<TUNSETIFF, InterfaceRequest>::new(&mut request) };
        // SAFETY: `attach` is right for its operation code, and touches nothing but `request`.
        unsafe { ioctl(&descriptor, attach) }.map_err(|error| OpenTapError::Attach {
            name: name.to_owned(),
            source: error.into(),
        })?;
        Tap::from_descriptor(descriptor)
    }

    /// Takes a descriptor that is attached already. It is made not to wait, and its header is set to the card's.
    ///
    /// # Errors
    /// See [`OpenTapError`].
    pub fn from_descriptor(descriptor: OwnedFd) -> Result<Self, OpenTapError> {
        let set_up = |what| {
            move |error: Errno| OpenTapError::SetUp {
                what,
                source: error.into(),
            }
        };
        let mut request = InterfaceRequest {
            name: [0; NAME_BYTES],
            flags: 0,
            padding: [0; 22],
        };
        // SAFETY: the call writes a `struct ifreq`, which `InterfaceRequest` is laid out as and no smaller than.
        let query = unsafe { Updater::<TUNGETIFF, InterfaceRequest>::new(&mut request) };
        // SAFETY: `query` is right for its operation code, and touches nothing but `request`.
        unsafe { ioctl(&descriptor, query) }.map_err(set_up("asking for its flags"))?;
        let needed = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
        if request.flags & needed != needed {
            return Err(OpenTapError::Kind { flags: request.flags });
        }
        let header_bytes = libc::c_int::try_from(PACKET_HEADER_BYTES).unwrap_or(libc::c_int::MAX);
        // SAFETY: the call reads an `int`.
        let set_header = unsafe { Setter::<TUNSETVNETHDRSZ, libc::c_int>::new(header_bytes) };
        // SAFETY: `set_header` is right for its operation code, which writes no memory.
        unsafe { ioctl(&descriptor, set_header) }.map_err(set_up("setting its header's size"))?;
        let flags = rustix::fs::fcntl_getfl(&descriptor).map_err(set_up("making it not wait"))?;
        rustix::fs::fcntl_setfl(&descriptor, flags | OFlags::NONBLOCK).map_err(set_up("making it not wait"))?;
        let name = request.name.iter().take_while(|byte| **byte != 0).copied().collect();
        Ok(Tap {
            descriptor,
            name: String::from_utf8(name).unwrap_or_default(),
        })
    }

    /// The interface's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Backend for Tap {
    fn offloads(&self) -> Offloads {
        Offloads {
            sent: Segmentation::ALL,
            received: Segmentation::ALL,
        }
    }

    fn begin(&mut self, offloads: Offloads) -> io::Result<()> {
        // What the reader of the descriptor, which is the guest, can finish by itself. The other direction needs no agreement.
        let flags = offload_flags(offloads.received);
        // SAFETY: the call's argument is a number.
        let set = unsafe { IntegerSetter::<TUNSETOFFLOAD>::new_usize(flags) };
        // SAFETY: `set` is right for its operation code, which touches no memory.
        unsafe { ioctl(&self.descriptor, set) }.map_err(io::Error::from)
    }

    fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        loop {
            match rustix::io::write(&self.descriptor, packet) {
                Err(Errno::INTR) => {}
                other => return other.map(|_all| ()).map_err(io::Error::from),
            }
        }
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match rustix::io::read(&self.descriptor, &mut *buffer) {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

fn offload_flags(agreed: Segmentation) -> usize {
    let flag = |is_set, flag| if is_set { flag } else { 0 };
    // Without the checksum's flag the kernel refuses the others.
    flag(agreed.checksum, TUN_F_CSUM)
        | flag(agreed.checksum && agreed.tcp4, TUN_F_TSO4)
        | flag(agreed.checksum && agreed.tcp6, TUN_F_TSO6)
}

fn interface_name(name: &str) -> Result<[u8; NAME_BYTES], OpenTapError> {
    // What the kernel's dev_valid_name refuses, and `%`, which would have it choose a number.
    let is_plain = name
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !b"/:%".contains(&byte));
    let mut out = [0; NAME_BYTES];
    if name.is_empty() || name.len() >= NAME_BYTES || !is_plain || name == "." || name == ".." {
        return Err(OpenTapError::Name { name: name.to_owned() });
    }
    for (place, byte) in out.iter_mut().zip(name.bytes()) {
        *place = byte;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_as_large_as_the_kernels() {
        assert_eq!(size_of::<InterfaceRequest>(), size_of::<libc::ifreq>());
    }

    #[test]
    fn names_are_checked() {
        assert!(interface_name("tap0").is_ok());
        for name in [
            "",
            "fifteen-bytes-ok",
            "a/b",
            "tap%d",
            "a b",
            "ä",
            ".",
            "..",
            "a\0b",
            "a:1",
        ] {
            let error = interface_name(name).unwrap_err();
            assert!(matches!(error, OpenTapError::Name { .. }), "{name:?}");
        }
    }

    #[test]
    fn offloads_need_the_checksum() {
        assert_eq!(offload_flags(Segmentation::ALL), 7);
        let without = Segmentation {
            checksum: false,
            ..Segmentation::ALL
        };
        assert_eq!(offload_flags(without), 0);
    }

    #[test]
    fn another_descriptor_is_refused() {
        let file = OwnedFd::from(tempfile::tempfile().unwrap());
        assert!(matches!(Tap::from_descriptor(file), Err(OpenTapError::SetUp { .. })));
    }
    /// `struct ifreq` with an IPv4 address in it.
    #[repr(C)]
    struct AddressRequest {
        name: [u8; NAME_BYTES],
        family: u16,
        port: u16,
        address: [u8; 4],
        padding: [u8; 16],
    }

    /// Gives an interface an address and switches it on (netdevice(7)).
    fn bring_up(name: &str, address: [u8; 4]) {
        const SIOCSIFFLAGS: u32 = 0x8914;
        const SIOCSIFADDR: u32 = 0x8916;
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let name = interface_name(name).unwrap();
        let request = AddressRequest {
            name,
            family: 2, // AF_INET
            port: 0,
            address,
            padding: [0; 16],
        };
        // SAFETY: the call reads a `struct ifreq`, as large as `AddressRequest`.
        let set = unsafe { Setter::<SIOCSIFADDR, AddressRequest>::new(request) };
        // SAFETY: `set` is right for its operation code.
        unsafe { ioctl(&socket, set) }.unwrap();
        let request = InterfaceRequest {
            name,
            flags: 0x41, // IFF_UP, IFF_RUNNING
            padding: [0; 22],
        };
        // SAFETY: the call reads a `struct ifreq`, as large as `InterfaceRequest`.
        let set = unsafe { Setter::<SIOCSIFFLAGS, InterfaceRequest>::new(request) };
        // SAFETY: `set` is right for its operation code.
        unsafe { ioctl(&socket, set) }.unwrap();
    }

    /// Who has 10.9.9.1? Tell 10.9.9.2.
    fn question() -> Vec<u8> {
        let me = [2, 0, 0, 0, 0, 2];
        let mut packet = vec![0; PACKET_HEADER_BYTES];
        packet.extend([0xff; 6]);
        packet.extend(me);
        packet.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        packet.extend(me);
        packet.extend([10, 9, 9, 2, 0, 0, 0, 0, 0, 0, 10, 9, 9, 1]);
        packet.resize(PACKET_HEADER_BYTES + 60, 0);
        packet
    }

    #[test]
    fn the_kernel_answers_a_guest() {
        use super::super::tests::support::{card_with, give_buffers, run_until};
        use crate::virtio::VirtioDevice as _;
        // In a network namespace of the thread's own.
        let thread = std::thread::spawn(|| {
            // SAFETY: only this thread's network changes; no descriptor is closed and no memory unmapped.
            if let Err(error) = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) } {
                println!("SKIPPED: no network namespace: {error}");
                return;
            }
            let tap = match Tap::open("ringwall-test") {
                Ok(tap) => tap,
                Err(error) => {
                    println!("SKIPPED: {error}: {:?}", std::error::Error::source(&error));
                    return;
                }
            };
            assert_eq!(tap.name(), "ringwall-test");
            bring_up("ringwall-test", [10, 9, 9, 1]);
            let second = Tap::from_descriptor(tap.descriptor.try_clone().unwrap()).unwrap();
            assert_eq!(second.name(), "ringwall-test");
            drop(second);
            let mut harness = card_with(Box::new(tap), super::super::NetOptions::default());
            let places = give_buffers(&mut harness, 32, 2048);
            let sent = harness.place(&question());
            harness
                .queue(1)
                .add(&[crate::virtio::testing::Buffer::readable(sent, 72)]);
            harness.notify(1).unwrap();
            let mut seen = 0;
            run_until(&mut harness, |harness| {
                seen += harness.queue(0).take_used().len();
                let answers = places.iter().take(seen).map(|place| harness.read(*place, 72));
                // An answer (2) to 02:00:00:00:00:02.
                let is_answer = |packet: &Vec<u8>| {
                    packet[12..18] == [2, 0, 0, 0, 0, 2] && packet[24..34] == [8, 6, 0, 1, 8, 0, 6, 4, 0, 2]
                };
                answers.filter(is_answer).count() == 1
            });
            assert_eq!(
                harness.device.metrics().sent.load(std::sync::atomic::Ordering::Relaxed),
                1
            );
            harness.device.reset();
        });
        thread.join().unwrap();
    }
}
