//! The network card as its transport sees it.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use rustix::event::EventfdFlags;
use thiserror::Error;

use super::backend::{Backend, Offloads, Segmentation};
use super::config::{self, MacAddress};
use super::metrics::NetMetrics;
use super::receive::{Agreed, Receive};
use super::state::NetState;
use super::transmit::{Sent, Transmit};
use crate::interrupt::Cause;
use crate::rate_limiter::{BucketError, RateLimiter, RateLimiterError, RateLimiterSpec};
use crate::virtio::{ActivateError, DeviceError, Fault, RestoreError, Session, Source, VirtioDevice};

/// `VIRTIO_ID_NET` (VIRTIO 1.2 §5).
const DEVICE_ID: u32 = 1;
/// Places of each queue, as in other monitors.
pub(super) const QUEUE_SIZE: u16 = 256;
/// The queues (§5.1.2).
pub(super) const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

// Feature bits (§5.1.3). "Guest" is what the device leaves to the driver, "host" what the driver leaves to the device.
const F_CSUM: u32 = 0;
const F_GUEST_CSUM: u32 = 1;
const F_MTU: u32 = 3;
const F_MAC: u32 = 5;
const F_GUEST_TSO4: u32 = 7;
const F_GUEST_TSO6: u32 = 8;
const F_HOST_TSO4: u32 = 11;
const F_HOST_TSO6: u32 = 12;
const F_MRG_RXBUF: u32 = 15;

/// The smallest MTU that may be on offer (§5.1.4.1).
const MIN_MTU: u16 = 68;

const TOKEN_BACKEND: u32 = 0;
const TOKEN_RECEIVE_LIMITER: u32 = 1;
const TOKEN_TRANSMIT_LIMITER: u32 = 2;
const TOKEN_KICK: u32 = 3;

/// How a card is to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetOptions {
    /// Its address; without one the guest chooses.
    pub mac: Option<MacAddress>,
    /// The largest packet that the guest shall send, in bytes behind the Ethernet header.
    pub mtu: Option<u16>,
    /// What passes to the guest per time.
    pub receive_limiter: RateLimiterSpec,
    /// What passes from the guest per time.
    pub transmit_limiter: RateLimiterSpec,
}

/// Why a card can't be made.
#[derive(Debug, Error)]
pub enum MakeNetError {
    /// The MTU is too small.
    #[error("an MTU of {mtu} is below {MIN_MTU}")]
    Mtu {
        /// As wanted.
        mtu: u16,
    },
    /// The address is one of a group, or zero.
    #[error("{mac} can't be the address of a card")]
    Mac {
        /// As wanted.
        mac: MacAddress,
    },
    /// A rate limiter can't be made.
    #[error(transparent)]
    RateLimiter(#[from] RateLimiterError),
    /// A descriptor can't be had.
    #[error("a network card's descriptors can't be had")]
    Descriptor(#[source] io::Error),
}

/// A network card.
#[derive(Debug)]
pub struct Net {
    name: String,
    options: NetOptions,
    backend: Box<dyn Backend>,
    offered: Offloads,
    receive: Receive,
    transmit: Transmit,
    /// Makes the event loop call again: after activation, or a full batch.
    kick: OwnedFd,
    is_active: bool,
    metrics: Arc<NetMetrics>,
}

impl Net {
    /// Makes a card in front of a back end.
    ///
    /// # Errors
    /// See [`MakeNetError`].
    pub fn new(name: &str, backend: Box<dyn Backend>, options: NetOptions) -> Result<Self, MakeNetError> {
        if let Some(mtu) = options.mtu.filter(|mtu| *mtu < MIN_MTU) {
            return Err(MakeNetError::Mtu { mtu });
        }
        if let Some(mac) = options.mac.filter(|mac| !is_unicast(*mac)) {
            return Err(MakeNetError::Mac { mac });
        }
        let kick = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| MakeNetError::Descriptor(error.into()))?;
        let receive = RateLimiter::new(options.receive_limiter)?;
        Ok(Net {
            name: format!("net {name}"),
            options,
            offered: backend.offloads(),
            backend,
            receive: Receive::new(receive).map_err(MakeNetError::Descriptor)?,
            transmit: Transmit::new(RateLimiter::new(options.transmit_limiter)?),
            kick,
            is_active: false,
            metrics: Arc::default(),
        })
    }

    /// Its counters.
    #[must_use]
    pub fn metrics(&self) -> Arc<NetMetrics> {
        Arc::clone(&self.metrics)
    }

    /// Its address.
    #[must_use]
    pub fn mac(&self) -> Option<MacAddress> {
        self.options.mac
    }

    /// Changes the rate limiters; see [`RateLimiter::update`].
    ///
    /// # Errors
    /// See [`BucketError`]; the limiter of packets to the guest may have changed already.
    pub fn update_rate_limiters(
        &mut self,
        receive: RateLimiterSpec,
        transmit: RateLimiterSpec,
    ) -> Result<(), BucketError> {
        self.receive.limiter.update(receive)?;
        self.transmit.limiter.update(transmit)
    }

    /// What both sides have agreed on.
    fn agreed(&self, session: &Session) -> Offloads {
        let direction = |checksum, tcp4, tcp6| {
            let checksum = session.has(checksum);
            Segmentation {
                checksum,
                // A driver that takes these without the checksum breaks the rules (§5.1.3.1); it gets none of them.
                tcp4: checksum && session.has(tcp4),
                tcp6: checksum && session.has(tcp6),
            }
        };
        Offloads {
            sent: direction(F_CSUM, F_HOST_TSO4, F_HOST_TSO6),
            received: direction(F_GUEST_CSUM, F_GUEST_TSO4, F_GUEST_TSO6),
        }
    }

    fn run_receive(&mut self, session: &mut Session) -> Result<(), DeviceError> {
        if !self.is_active {
            return Ok(());
        }
        let agreed = Agreed {
            offloads: self.agreed(session).received,
            can_split: session.has(F_MRG_RXBUF),
        };
        let Session { memory, queues, .. } = &mut *session;
        let queue = queues.get_mut(usize::from(RECEIVE)).ok_or_else(|| no_queue(RECEIVE))?;
        if !queue.is_ready() {
            // There will never be room; waiting for packets would spin.
            self.receive.reset(&*self.backend);
            return Ok(());
        }
        let is_split = self
            .receive
            .run(memory, queue, &mut *self.backend, agreed, &self.metrics)?;
        session.signal(RECEIVE)?;
        if is_split {
            // The queue counts only the last of several buffers for the event index.
            let _full = session.interrupt.trigger(Cause::Queue(RECEIVE));
        }
        Ok(())
    }

    fn run_transmit(&mut self, session: &mut Session) -> Result<(), DeviceError> {
        if !self.is_active {
            return Ok(());
        }
        let agreed = self.agreed(session).sent;
        let Session { memory, queues, .. } = &mut *session;
        let queue = queues
            .get_mut(usize::from(TRANSMIT))
            .ok_or_else(|| no_queue(TRANSMIT))?;
        let sent = self
            .transmit
            .run(memory, queue, &mut *self.backend, agreed, &self.metrics)?;
        if sent == Sent::Batch {
            self.kick();
        }
        session.signal(TRANSMIT)
    }

    fn kick(&self) {
        // Full only if nobody has read it for 2^64 kicks.
        let _full = rustix::io::write(&self.kick, &1_u64.to_ne_bytes());
    }
}

impl VirtioDevice for Net {
    fn id(&self) -> u32 {
        DEVICE_ID
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE, QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        let bit = |is_set: bool, bit: u32| u64::from(is_set) << bit;
        let Offloads { sent, received } = self.offered;
        bit(true, F_MRG_RXBUF)
            | bit(self.options.mac.is_some(), F_MAC)
            | bit(self.options.mtu.is_some(), F_MTU)
            | bit(sent.checksum, F_CSUM)
            | bit(sent.checksum && sent.tcp4, F_HOST_TSO4)
            | bit(sent.checksum && sent.tcp6, F_HOST_TSO6)
            | bit(received.checksum, F_GUEST_CSUM)
            | bit(received.checksum && received.tcp4, F_GUEST_TSO4)
            | bit(received.checksum && received.tcp6, F_GUEST_TSO6)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config::read(self.options.mac, self.options.mtu, offset, data);
    }

    fn activate(&mut self, session: &mut Session) -> Result<(), ActivateError> {
        let failed = |what| {
            move |source| ActivateError {
                what,
                source: Some(source),
            }
        };
        let agreed = self.agreed(session);
        self.backend
            .begin(agreed)
            .map_err(failed("setting the network's offloads"))?;
        self.receive
            .begin(&*self.backend)
            .map_err(failed("waiting for the network's back end"))?;
        self.is_active = true;
        // After a restore there may be chains that nobody will notify of again.
        self.kick();
        Ok(())
    }

    fn reset(&mut self) {
        self.is_active = false;
        self.receive.reset(&*self.backend);
        self.transmit.reset();
    }

    fn sources(&self) -> Vec<Source<'_>> {
        let source = |descriptor, token| Source { descriptor, token };
        vec![
            source(self.receive.descriptor(), TOKEN_BACKEND),
            source(self.receive.limiter.descriptor(), TOKEN_RECEIVE_LIMITER),
            source(self.transmit.limiter.descriptor(), TOKEN_TRANSMIT_LIMITER),
            source(self.kick.as_fd(), TOKEN_KICK),
        ]
    }

    fn notified(&mut self, queue: u16, session: &mut Session) -> Result<(), DeviceError> {
        match queue {
            RECEIVE => self.run_receive(session),
            TRANSMIT => self.run_transmit(session),
            _ => Ok(()),
        }
    }

    fn ready(&mut self, token: u32, session: &mut Session) -> Result<(), DeviceError> {
        match token {
            TOKEN_BACKEND => self.run_receive(session),
            TOKEN_RECEIVE_LIMITER => {
                self.receive.limiter.acknowledge();
                self.run_receive(session)
            }
            TOKEN_TRANSMIT_LIMITER => {
                self.transmit.limiter.acknowledge();
                self.run_transmit(session)
            }
            TOKEN_KICK => {
                let mut count = [0_u8; 8];
                // Nothing to read: somebody was faster, and the queues are looked at all the same.
                let _nothing = rustix::io::read(&self.kick, &mut count);
                self.run_receive(session)?;
                self.run_transmit(session)
            }
            _ => Ok(()),
        }
    }

    fn save(&self) -> serde_json::Value {
        let state = NetState {
            mac: self.options.mac,
            mtu: self.options.mtu,
            receive_limiter: self.receive.limiter.save(),
            transmit_limiter: self.transmit.limiter.save(),
        };
        // A plain structure of numbers always becomes a value.
        serde_json::to_value(state).unwrap_or_default()
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<(), RestoreError> {
        let state: NetState = serde_json::from_value(state)?;
        let unfit = |what: &str| RestoreError::Unfit { what: what.to_owned() };
        if state.mac != self.options.mac {
            return Err(unfit("the network cards' addresses differ"));
        }
        if state.mtu != self.options.mtu {
            return Err(unfit("the network cards' MTUs differ"));
        }
        let limiter = |error: BucketError| RestoreError::Unfit {
            what: error.to_string(),
        };
        self.receive.limiter.restore(state.receive_limiter).map_err(limiter)?;
        self.transmit.limiter.restore(state.transmit_limiter).map_err(limiter)
    }
}

fn is_unicast(mac: MacAddress) -> bool {
    let [first, ..] = mac.0;
    first & 1 == 0 && mac.0 != [0; 6]
}

fn no_queue(queue: u16) -> Fault {
    Fault::Request {
        queue,
        what: "there is no such queue",
    }
}
