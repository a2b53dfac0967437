//! What the driver asks on the queues.

use std::sync::atomic::Ordering;

use vm_memory::{GuestAddress, GuestMemoryBackend as _, GuestMemoryRegion as _};

use super::device::{Balloon, PAGE_REPORTING, STATISTICS};
use super::discard::{Discarded, discard};
use super::pages::{MAX_PAGES, NUMBER_BYTES, PAGE_BYTES, Range, ranges};
use super::statistics::MAX_BYTES;
use crate::guest_warn;
use crate::virtio::{Chain, DeviceError, Fault, Session};

/// Most requests before the VMM's thread looks at something else. One can be a thousand calls of the host's kernel.
const MAX_TURN_REQUESTS: u32 = 32;

/// What a queue is for: without statistics, the queue of reports takes their number (as Linux counts them: queues that were not
/// negotiated have none).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Inflate,
    Deflate,
    Statistics,
    Reporting,
}

impl Balloon {
    fn role(session: &Session, queue: u16) -> Option<Role> {
        match (queue, session.has(STATISTICS), session.has(PAGE_REPORTING)) {
            (0, ..) => Some(Role::Inflate),
            (1, ..) => Some(Role::Deflate),
            (2, true, _) => Some(Role::Statistics),
            (2, false, true) | (3, true, true) => Some(Role::Reporting),
            _ => None,
        }
    }

    /// Answers what is queued, but not for ever.
    pub(super) fn serve(&mut self, number: u16, session: &mut Session) -> Result<(), DeviceError> {
        let Some(role) = Self::role(session, number) else {
            return Ok(());
        };
        for _ in 0..MAX_TURN_REQUESTS {
            let Some(queue) = session.queues.get_mut(usize::from(number)) else {
                return Ok(());
            };
            let Some(chain) = queue.pop(&session.memory)? else {
                return session.signal(number);
            };
            let fault = |what| Fault::Request { queue: number, what };
            match role {
                Role::Inflate => self.inflate(session, &chain).map_err(fault)?,
                Role::Deflate => self.deflate(&chain),
                Role::Reporting => self.take_report(session, &chain),
                Role::Statistics => {
                    self.take_statistics(session, &chain).map_err(fault)?;
                    // The guest has no use for two: the earlier goes back.
                    if let Some(earlier) = self.statistics_chain.replace(chain.head) {
                        Self::give_back(session, number, earlier)?;
                    }
                    continue;
                }
            }
            Self::give_back(session, number, chain.head)?;
        }
        // The rest comes when the event loop has been round.
        self.more.signal();
        session.signal(number)
    }

    fn give_back(session: &mut Session, number: u16, head: u16) -> Result<(), Fault> {
        match session.queues.get_mut(usize::from(number)) {
            Some(queue) => queue.add_used(&session.memory, head, 0),
            None => Ok(()),
        }
    }

    fn inflate(&self, session: &Session, chain: &Chain) -> Result<(), &'static str> {
        let wanted = chain.readable_bytes();
        if !wanted.is_multiple_of(4) || wanted == 0 || !chain.writable.is_empty() {
            return Err("a list of pages is not a list of 32-bit numbers to be read");
        }
        let list = chain
            .read_up_to(&session.memory, MAX_PAGES * NUMBER_BYTES)
            .ok_or("a list of pages is not memory any more")?;
        let pages = u64::try_from(list.len() / NUMBER_BYTES).unwrap_or(0);
        self.metrics.inflations.fetch_add(1, Ordering::Relaxed);
        self.metrics.inflated_pages.fetch_add(pages, Ordering::Relaxed);
        self.refuse((wanted / 4).saturating_sub(pages));
        for range in ranges(&list) {
            self.discard(session, range);
        }
        Ok(())
    }

    fn deflate(&self, chain: &Chain) {
        self.metrics.deflations.fetch_add(1, Ordering::Relaxed);
        self.metrics
            .deflated_pages
            .fetch_add(chain.readable_bytes() / 4, Ordering::Relaxed);
    }

    /// The buffers of a report are the free memory itself (§5.5.6.7).
    fn take_report(&self, session: &Session, chain: &Chain) {
        for segment in &chain.writable {
            self.metrics.reported_ranges.fetch_add(1, Ordering::Relaxed);
            self.discard(
                session,
                Range {
                    address: segment.address.0,
                    bytes: segment.bytes.into(),
                },
            );
        }
    }

    fn take_statistics(&mut self, session: &Session, chain: &Chain) -> Result<(), &'static str> {
        let buffer = chain
            .read_up_to(&session.memory, MAX_BYTES)
            .ok_or("statistics are not memory any more")?;
        if !buffer.is_empty() {
            self.metrics.statistics.fetch_add(1, Ordering::Relaxed);
            self.statistics.update(&buffer);
        }
        Ok(())
    }

    /// Gives a range back to the host; one that spans regions is cut where they end.
    fn discard(&self, session: &Session, range: Range) {
        let mut rest = range;
        while rest.bytes > 0 {
            // A range is at most a request's, so that there are few regions, and pages outside of all of them are left at once.
            let region = session.memory.find_region(GuestAddress(rest.address));
            let Some(region) = region else {
                let next = self.next_region(session, rest);
                let outside = next
                    .map_or(rest.bytes, |next| next.saturating_sub(rest.address))
                    .min(rest.bytes);
                self.refuse(outside.div_ceil(PAGE_BYTES));
                rest.address = rest.address.saturating_add(outside);
                rest.bytes = rest.bytes.saturating_sub(outside);
                continue;
            };
            let room = region.last_addr().0.saturating_sub(rest.address).saturating_add(1);
            let piece = Range {
                address: rest.address,
                bytes: rest.bytes.min(room),
            };
            match discard(&session.memory, piece, self.host_page_bytes) {
                Discarded::Bytes(bytes) => {
                    self.metrics.discarded_bytes.fetch_add(bytes, Ordering::Relaxed);
                }
                Discarded::NotMemory => self.refuse(piece.bytes.div_ceil(PAGE_BYTES)),
                Discarded::Failed(error) => {
                    guest_warn!(%error, address = piece.address, bytes = piece.bytes, "a balloon page can't be discarded");
                    self.metrics.discard_failures.fetch_add(1, Ordering::Relaxed);
                }
            }
            rest.address = rest.address.saturating_add(piece.bytes);
            rest.bytes = rest.bytes.saturating_sub(piece.bytes);
        }
    }

    fn next_region(&self, session: &Session, range: Range) -> Option<u64> {
        let starts = session.memory.iter().map(|region| region.start_addr().0);
        starts.filter(|start| *start > range.address).min()
    }

    fn refuse(&self, pages: u64) {
        self.metrics.refused_pages.fetch_add(pages, Ordering::Relaxed);
    }

    /// Gives the guest its buffer back, so that it fills it again.
    pub(super) fn ask_for_statistics(&mut self, session: &mut Session) -> Result<(), DeviceError> {
        if let Some(head) = self.statistics_chain.take() {
            Self::give_back(session, 2, head)?;
            session.signal(2)?;
        }
        Ok(())
    }
}
