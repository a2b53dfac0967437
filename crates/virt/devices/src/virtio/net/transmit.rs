//! From the guest to the back end. Each packet is copied once; what is sent is the copy, with a header that was checked and written anew.

use ringwall_arch::GuestRam;

use super::backend::{Backend, MAX_PACKET_BYTES, PACKET_HEADER_BYTES, Segmentation};
use super::header::PacketHeader;
use super::metrics::{NetMetrics, add};
use crate::rate_limiter::RateLimiter;
use crate::virtio::segments::copy_out;
use crate::virtio::{Chain, Fault, VirtQueue};

/// Chains taken in one call, so that a guest which never stops sending does not keep the VMM's thread.
const BATCH: u16 = 256;

/// The half of a card that sends.
#[derive(Debug)]
pub(super) struct Transmit {
    pub(super) limiter: RateLimiter,
    packet: Vec<u8>,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// Nothing is left, or the limiter's timer will tell.
    All,
    /// There may be more: the caller comes back.
    Batch,
}

impl Transmit {
    pub(super) fn new(limiter: RateLimiter) -> Self {
        Transmit {
            limiter,
            packet: Vec::new(),
        }
    }

    /// Gives memory for packets back.
    pub(super) fn reset(&mut self) {
        self.packet = Vec::new();
        self.limiter.reset();
    }

    /// Sends what is in the queue, as far as batch and rate limiter let it.
    ///
    /// # Errors
    /// A malformed ring or chain.
    pub(super) fn run(
        &mut self,
        memory: &GuestRam,
        queue: &mut VirtQueue,
        backend: &mut dyn Backend,
        agreed: Segmentation,
        metrics: &NetMetrics,
    ) -> Result<Sent, Fault> {
        self.packet.resize(MAX_PACKET_BYTES, 0);
        let mut left = BATCH;
        loop {
            queue.disable_notification(memory)?;
            while let Some(chain) = queue.pop(memory)? {
                let bytes = self.copy(memory, &chain, agreed);
                // What is malformed counts as an operation too.
                if !self.limiter.take(bytes.map_or(0, frame_bytes)) {
                    add(&metrics.sent_throttled, 1);
                    queue.undo_pop();
                    return Ok(Sent::All);
                }
                self.send(bytes, backend, metrics);
                queue.add_used(memory, chain.head, 0)?;
                left = left.saturating_sub(1);
                if left == 0 {
                    return Ok(Sent::Batch);
                }
            }
            if !queue.enable_notification(memory)? {
                return Ok(Sent::All);
            }
        }
    }

    /// Copies a packet and checks it. None if it is malformed.
    fn copy(&mut self, memory: &GuestRam, chain: &Chain, agreed: Segmentation) -> Option<usize> {
        if !chain.writable.is_empty() {
            return None;
        }
        let bytes = usize::try_from(chain.readable_bytes()).ok()?;
        let packet = self.packet.get_mut(..bytes)?;
        if copy_out(memory, &chain.readable, packet).ok()? != bytes {
            return None;
        }
        let mut header = PacketHeader::parse(packet, agreed).ok()?;
        // Both are for packets to the guest.
        header.is_valid = false;
        header.buffers = 0;
        let place = packet.first_chunk_mut::<PACKET_HEADER_BYTES>()?;
        *place = header.bytes();
        Some(bytes)
    }

    fn send(&mut self, bytes: Option<usize>, backend: &mut dyn Backend, metrics: &NetMetrics) {
        let Some(packet) = bytes.and_then(|bytes| self.packet.get(..bytes)) else {
            add(&metrics.sent_malformed, 1);
            return;
        };
        match backend.send(packet) {
            Ok(()) => {
                add(&metrics.sent, 1);
                add(&metrics.sent_bytes, frame_bytes(packet.len()));
            }
            Err(_lost) => add(&metrics.sent_failed, 1),
        }
    }
}

/// The frame's length, without the header.
pub(super) fn frame_bytes(packet_bytes: usize) -> u64 {
    u64::try_from(packet_bytes.saturating_sub(PACKET_HEADER_BYTES)).unwrap_or(u64::MAX)
}
