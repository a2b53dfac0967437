//! The entropy device: fills the guest's buffers, so much for one request and so many requests at a time.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};
use vm_memory::{Address as _, Bytes as _};

use super::allowance::Allowance;
use super::metrics::RngMetrics;
use crate::event::Event;
use crate::guest_warn;
use crate::virtio::{ActivateError, Chain, DeviceError, Fault, RestoreError, Session, Source, VirtioDevice};

/// `VIRTIO_ID_RNG` (VIRTIO 1.2 §5).
const DEVICE_ID: u32 = 4;
/// The queue's places. A driver has one request in flight (Linux drivers/char/hw_random/virtio-rng.c).
const QUEUE_SIZES: [u16; 1] = [64];
/// Most bytes for one request. Linux asks for 64; descriptors may name the same page many times, so that a chain may seem to want a
/// gigabyte.
const MAX_REQUEST_BYTES: u64 = 64 * 1024;
/// Most bytes before the VMM's thread looks at something else: a guest may ask as fast as it is answered.
const MAX_TURN_BYTES: u64 = 256 * 1024;
/// Most requests in one turn, however small.
const MAX_TURN_REQUESTS: u32 = 256;
/// Bytes taken from the source at a time.
const PIECE_BYTES: usize = 4096;
/// Tokens of the sources: more requests wait; the allowance lets more through.
const MORE: u32 = 0;
const ALLOWANCE: u32 = 1;

/// Where entropy comes from.
pub trait Entropy: Send + std::fmt::Debug + 'static {
    /// Fills all of `buffer`. Must not wait.
    ///
    /// # Errors
    /// Nothing was filled then.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<()>;
}

/// The host's kernel, by `getrandom(2)`.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostEntropy;

impl Entropy for HostEntropy {
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let mut rest = buffer;
        while !rest.is_empty() {
            let filled = match getrandom(&mut *rest, GetRandomFlags::NONBLOCK) {
                Err(rustix::io::Errno::INTR) => 0,
                other => other?,
            };
            rest = rest.get_mut(filled..).unwrap_or_default();
        }
        Ok(())
    }
}

/// The entropy device.
#[derive(Debug)]
pub struct Rng {
    source: Box<dyn Entropy>,
    allowance: Option<Box<dyn Allowance>>,
    more: Event,
    metrics: Arc<RngMetrics>,
}

/// What a snapshot must know.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RngState {
    allowance: Option<serde_json::Value>,
}

impl Rng {
    /// An entropy device that gives from this source.
    ///
    /// # Errors
    /// What `eventfd2(2)` says.
    pub fn new(source: Box<dyn Entropy>) -> io::Result<Self> {
        Ok(Rng {
            source,
            allowance: None,
            more: Event::new()?,
            metrics: Arc::default(),
        })
    }

    /// Limits what the guest gets in a time.
    #[must_use]
    pub fn with_allowance(mut self, allowance: Box<dyn Allowance>) -> Self {
        self.allowance = Some(allowance);
        self
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> &Arc<RngMetrics> {
        &self.metrics
    }

    /// Answers what is queued, but not for ever.
    fn serve(&mut self, session: &mut Session) -> Result<(), DeviceError> {
        let mut given = 0_u64;
        for _ in 0..MAX_TURN_REQUESTS {
            if given >= MAX_TURN_BYTES {
                break;
            }
            let Some(queue) = session.queues.get_mut(0) else {
                return Ok(());
            };
            let Some(chain) = queue.pop(&session.memory)? else {
                return session.signal(0);
            };
            if let Some(allowance) = &mut self.allowance
                && !allowance.take(chain.writable_bytes().min(MAX_REQUEST_BYTES))
            {
                self.metrics.throttled.fetch_add(1, Ordering::Relaxed);
                queue.undo_pop();
                return session.signal(0);
            }
            let filled = self.answer(session, &chain)?;
            given = given.saturating_add(u64::from(filled));
            if let Some(queue) = session.queues.get_mut(0) {
                queue.add_used(&session.memory, chain.head, filled)?;
            }
        }
        // The rest comes when the event loop has been round.
        self.more.signal();
        session.signal(0)
    }

    /// Fills one request and returns how many bytes it got. Only entropy is counted: zeros reported as random would seed the guest.
    fn answer(&mut self, session: &Session, chain: &Chain) -> Result<u32, Fault> {
        let fault = |what| Fault::Request { queue: 0, what };
        if !chain.readable.is_empty() {
            return Err(fault(
                "a request for entropy has a buffer to be read (VIRTIO 1.2 §5.4.6.1)",
            ));
        }
        let wanted = chain.writable_bytes();
        if wanted == 0 {
            return Err(fault("a request for entropy has no room"));
        }
        if wanted > MAX_REQUEST_BYTES {
            self.metrics.capped.fetch_add(1, Ordering::Relaxed);
        }
        let mut rest = wanted.min(MAX_REQUEST_BYTES);
        let mut filled = 0_u32;
        let mut piece = [0_u8; PIECE_BYTES];
        for segment in &chain.writable {
            let mut place = segment.address;
            let mut room = u64::from(segment.bytes).min(rest);
            while room > 0 {
                let bytes = usize::try_from(room).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
                let piece = piece.get_mut(..bytes).unwrap_or_default();
                if let Err(error) = self.source.fill(piece) {
                    guest_warn!(%error, "the host's entropy source failed");
                    self.metrics.host_failures.fetch_add(1, Ordering::Relaxed);
                    return Ok(filled);
                }
                let written = session.memory.write_slice(piece, place);
                written.map_err(|_| fault("a buffer is not memory any more"))?;
                let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
                filled = filled.saturating_add(bytes);
                self.metrics.bytes.fetch_add(bytes.into(), Ordering::Relaxed);
                rest = rest.saturating_sub(bytes.into());
                room = room.saturating_sub(bytes.into());
                place = place.unchecked_add(bytes.into());
            }
        }
        self.metrics.requests.fetch_add(1, Ordering::Relaxed);
        Ok(filled)
    }
}

impl VirtioDevice for Rng {
    fn id(&self) -> u32 {
        DEVICE_ID
    }

    fn name(&self) -> &str {
        "entropy"
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        0
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, _session: &mut Session) -> Result<(), ActivateError> {
        Ok(())
    }

    fn reset(&mut self) {
        self.more.take();
        if let Some(allowance) = &mut self.allowance {
            allowance.reset();
        }
    }

    fn sources(&self) -> Vec<Source<'_>> {
        let more = Source {
            descriptor: self.more.as_fd(),
            token: MORE,
        };
        let allowance = self.allowance.as_ref().map(|allowance| Source {
            descriptor: allowance.descriptor(),
            token: ALLOWANCE,
        });
        std::iter::once(more).chain(allowance).collect()
    }

    fn notified(&mut self, _queue: u16, session: &mut Session) -> Result<(), DeviceError> {
        self.serve(session)
    }

    fn ready(&mut self, token: u32, session: &mut Session) -> Result<(), DeviceError> {
        match &mut self.allowance {
            Some(allowance) if token == ALLOWANCE => allowance.acknowledge(),
            _ => drop(self.more.take()),
        }
        self.serve(session)
    }

    fn save(&self) -> serde_json::Value {
        serde_json::json!(RngState {
            allowance: self.allowance.as_ref().map(|allowance| allowance.save()),
        })
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<(), RestoreError> {
        let state: RngState = serde_json::from_value(state)?;
        match (&mut self.allowance, state.allowance) {
            (Some(allowance), Some(state)) => allowance.restore(state),
            (_, None) => Ok(()),
            (None, Some(_)) => Err(RestoreError::Unfit {
                what: "entropy: it had an allowance".to_owned(),
            }),
        }
    }
}
