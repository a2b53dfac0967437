//! The VMM thread's waiting: one epoll descriptor, and for each registered descriptor a key that says what it means.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use vmm_sys_util::eventfd::EventFd;

/// Most events taken at once.
const MOST_EVENTS: usize = 32;

/// What a descriptor's readiness means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// The VMM was woken: a request came.
    Wake,
    /// The driver of a device has notified a queue.
    Queue {
        /// Which device.
        device: u16,
        /// Which of its queues.
        queue: u16,
    },
    /// A device's own descriptor.
    Source {
        /// Which device.
        device: u16,
        /// The device's name for it.
        token: u32,
    },
    /// A device was activated or reset, or has failed.
    Changed {
        /// Which device.
        device: u16,
    },
    /// The guest said something by the system-control device.
    System,
    /// A vCPU said something.
    Vcpu,
    /// The serial port has room for input again.
    SerialRoom,
    /// Input for the serial port.
    SerialInput,
    /// The serial port has output that the console has not taken.
    SerialWaiting,
    /// The console takes output again.
    ConsoleWritable,
    /// A descriptor that the program around the VM waits on, by its own number.
    Other(u32),
}

impl Key {
    fn pack(self) -> u64 {
        let (kind, device, low): (u8, u16, u32) = match self {
            Key::Wake => (0, 0, 0),
            Key::Queue { device, queue } => (1, device, u32::from(queue)),
            Key::Source { device, token } => (2, device, token),
            Key::SerialInput => (3, 0, 0),
            Key::Other(number) => (5, 0, number),
            Key::Changed { device } => (6, device, 0),
            Key::System => (7, 0, 0),
            Key::Vcpu => (8, 0, 0),
            Key::SerialRoom => (9, 0, 0),
            Key::SerialWaiting => (10, 0, 0),
            Key::ConsoleWritable => (11, 0, 0),
        };
        u64::from(kind) << 48 | u64::from(device) << 32 | u64::from(low)
    }

    fn unpack(packed: u64) -> Self {
        let [l0, l1, l2, l3, d0, d1, kind, _] = packed.to_le_bytes();
        let low = u32::from_le_bytes([l0, l1, l2, l3]);
        let device = u16::from_le_bytes([d0, d1]);
        match kind {
            1 => Key::Queue {
                device,
                queue: u16::from_le_bytes([l0, l1]),
            },
            2 => Key::Source { device, token: low },
            3 => Key::SerialInput,
            5 => Key::Other(low),
            6 => Key::Changed { device },
            7 => Key::System,
            8 => Key::Vcpu,
            9 => Key::SerialRoom,
            10 => Key::SerialWaiting,
            11 => Key::ConsoleWritable,
            _ => Key::Wake,
        }
    }
}

/// The descriptor of an event, which has no safe form in its crate.
#[expect(unsafe_code, reason = "vmm-sys-util gives the number only")]
#[must_use]
pub fn borrowed(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as `event` is borrowed.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

/// An epoll descriptor.
#[derive(Debug)]
pub struct EventLoop {
    epoll: OwnedFd,
}

impl EventLoop {
    /// Makes one that waits on nothing yet.
    ///
    /// # Errors
    /// What epoll_create1(2) says.
    pub fn new() -> io::Result<Self> {
        Ok(EventLoop {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
        })
    }

    /// Waits on a descriptor from now on, until it is readable (level-triggered).
    ///
    /// # Errors
    /// What epoll_ctl(2) says.
    pub fn add(&self, descriptor: impl AsFd, key: Key) -> io::Result<()> {
        epoll::add(&self.epoll, descriptor, EventData::new_u64(key.pack()), EventFlags::IN)?;
        Ok(())
    }

    /// Waits on a descriptor from now on, until it is writable (level-triggered).
    ///
    /// # Errors
    /// What epoll_ctl(2) says.
    pub fn add_writable(&self, descriptor: impl AsFd, key: Key) -> io::Result<()> {
        epoll::add(&self.epoll, descriptor, EventData::new_u64(key.pack()), EventFlags::OUT)?;
        Ok(())
    }

    /// Waits on a descriptor no more; one that is not waited on is no error.
    ///
    /// # Errors
    /// What epoll_ctl(2) says.
    pub fn remove(&self, descriptor: impl AsFd) -> io::Result<()> {
        match epoll::delete(&self.epoll, descriptor) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until something is ready. An interruption by a signal returns nothing.
    ///
    /// # Errors
    /// What epoll_wait(2) says.
    pub fn wait(&self) -> io::Result<Vec<Key>> {
        let mut events = [Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        }; MOST_EVENTS];
        match epoll::wait(&self.epoll, &mut events, None) {
            Ok(count) => Ok(events
                .iter()
                .take(count)
                .map(|event| Key::unpack(event.data.u64()))
                .collect()),
            Err(Errno::INTR) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_packing() {
        for key in [
            Key::Wake,
            Key::Queue {
                device: 0xabcd,
                queue: 0xffff,
            },
            Key::Source {
                device: 3,
                token: u32::MAX,
            },
            Key::SerialInput,
            Key::Other(7),
            Key::Changed { device: 9 },
            Key::System,
            Key::Vcpu,
            Key::SerialRoom,
            Key::SerialWaiting,
            Key::ConsoleWritable,
        ] {
            assert_eq!(Key::unpack(key.pack()), key);
        }
    }

    #[test]
    fn what_is_removed_is_not_reported() {
        let events = EventLoop::new().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let (other, other_writer) = rustix::pipe::pipe().unwrap();
        events.add(&reader, Key::Other(1)).unwrap();
        events.add(&other, Key::Other(2)).unwrap();
        rustix::io::write(&writer, b"x").unwrap();
        rustix::io::write(&other_writer, b"x").unwrap();
        events.remove(&reader).unwrap();
        events.remove(&reader).unwrap();
        assert_eq!(events.wait().unwrap(), [Key::Other(2)]);
    }
}
