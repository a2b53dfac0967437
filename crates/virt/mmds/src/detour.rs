//! A back end in front of another: takes out what is for the service, and puts its answers in.
//!
//! A card without the service has none of this. One with it pays a look at each frame's addresses.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use ringwall_devices::virtio::net::{Backend, Offloads, PACKET_HEADER_BYTES};
use rustix::event::epoll;

use crate::alarm::{Alarm, When};
use crate::frame::for_service;
use crate::service::Service;
use crate::stack::Stack;

/// Longest packet of the service: Ethernet's.
const MTU: u16 = 1500;

/// A back end with the service in front of it.
#[derive(Debug)]
pub struct Detour {
    behind: Box<dyn Backend>,
    service: Arc<Service>,
    mtu: u16,
    /// Made by the first frame; gone with the driver, and its connections with it.
    stack: Option<Stack>,
    /// Goes off when frames wait for the guest, and when the stack has something to do.
    alarm: Alarm,
    /// Readable when either side is.
    either: OwnedFd,
}

/// Why there is no detour.
#[derive(Debug, thiserror::Error)]
#[error("the metadata service's descriptors can't be had")]
pub struct MakeDetourError(#[source] io::Error);

impl Detour {
    /// Puts `service` in front of `behind`, for a card with this MTU (or without one).
    ///
    /// # Errors
    /// There are no descriptors.
    pub fn new(behind: Box<dyn Backend>, service: Arc<Service>, mtu: Option<u16>) -> Result<Self, MakeDetourError> {
        let alarm = Alarm::new().map_err(MakeDetourError)?;
        let either = both(&alarm, &*behind).map_err(|error| MakeDetourError(error.into()))?;
        Ok(Self {
            behind,
            service,
            mtu: mtu.unwrap_or(MTU).min(MTU),
            stack: None,
            alarm,
            either,
        })
    }

    /// The next frame of the service, if there is one now.
    fn next(&mut self) -> Option<Vec<u8>> {
        let stack = self.stack.as_mut()?;
        if !self.alarm.is_due(Instant::now) {
            return None;
        }
        let now = Instant::now();
        if !stack.has_frames() {
            stack.run(now);
        }
        let frame = stack.pop();
        if !stack.has_frames() {
            // There is room again for what had none.
            stack.run(now);
        }
        self.alarm.set(stack.next(now), now);
        frame
    }
}

fn both(alarm: &Alarm, behind: &dyn Backend) -> rustix::io::Result<OwnedFd> {
    let either = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for descriptor in [alarm.as_fd(), behind.descriptor()] {
        epoll::add(&either, descriptor, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
    }
    Ok(either)
}

impl Backend for Detour {
    fn offloads(&self) -> Offloads {
        // The service takes whatever a card may be given: it checks no checksums, and takes segments of any size.
        self.behind.offloads()
    }

    fn begin(&mut self, offloads: Offloads) -> io::Result<()> {
        self.behind.begin(offloads)?;
        self.stack = None;
        self.alarm.set(When::Never, Instant::now());
        Ok(())
    }

    fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        let frame = packet.get(PACKET_HEADER_BYTES..).unwrap_or_default();
        let Some(found) = for_service(frame, self.service.address()) else {
            return self.behind.send(packet);
        };
        let now = Instant::now();
        let stack = match &mut self.stack {
            Some(stack) => stack,
            none => none.insert(Stack::new(Arc::clone(&self.service), self.mtu, now)?),
        };
        stack.take(found, now);
        self.alarm.set(stack.next(now), now);
        Ok(())
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        if let Some(frame) = self.next() {
            // It fits: a buffer takes the largest packet there is.
            if let Some(place) = buffer.get_mut(..frame.len()) {
                place.copy_from_slice(&frame);
                return Ok(Some(frame.len()));
            }
        }
        self.behind.receive(buffer)
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.either.as_fd()
    }
}
