//! Flow control (VIRTIO 1.2 §5.10.6.3): counters that wrap at 2^32, for either direction.

use super::connection::Violation;

/// How much of the guest's data a connection holds at most while the host's socket is full, in bytes; the guest is told so as
/// `buf_alloc`. As large as the largest packet of Linux (`VIRTIO_VSOCK_MAX_PKT_BUF_SIZE`, include/linux/virtio_vsock.h), so that
/// one window is one packet.
pub(super) const BUFFER_BYTES: u32 = 64 * 1024;
/// What of a guest's receive buffer is believed: far more than is ever in flight, and small enough that what is ahead and what is
/// behind can be told apart in counters that wrap.
const MOST_IN_FLIGHT: u32 = 1 << 30;
/// Space that the guest does not know of yet, at which it is told. It knows of the other half, so that it is never stuck.
const WORTH_TELLING: u32 = BUFFER_BYTES / 2;

/// What the guest may be sent.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct GuestCredit {
    sent: u32,
    forwarded: u32,
    capacity: u32,
}

impl GuestCredit {
    /// Begins with what the guest's first packet says.
    pub(super) fn new(capacity: u32) -> Self {
        GuestCredit {
            sent: 0,
            forwarded: 0,
            capacity: capacity.min(MOST_IN_FLIGHT),
        }
    }

    /// Takes what any packet of the guest says. Linux may send two packets in another order than it counted for them, so an
    /// older count is passed over.
    pub(super) fn update(&mut self, capacity: u32, forwarded: u32) -> Result<(), Violation> {
        let in_flight = self.sent.wrapping_sub(forwarded);
        let known = self.sent.wrapping_sub(self.forwarded);
        if in_flight > u32::MAX / 2 {
            return Err(Violation::CreditAhead);
        }
        if in_flight <= known {
            self.forwarded = forwarded;
        }
        self.capacity = capacity.min(MOST_IN_FLIGHT);
        Ok(())
    }

    /// How many bytes may be sent now. None if the guest has made its buffer smaller than what is in flight, which it may.
    pub(super) fn available(&self) -> u32 {
        self.capacity.saturating_sub(self.sent.wrapping_sub(self.forwarded))
    }

    /// Notes that `bytes`, at most [`GuestCredit::available`], were sent.
    pub(super) fn spend(&mut self, bytes: u32) {
        self.sent = self.sent.wrapping_add(bytes);
    }

    /// A connection that has run for long.
    #[cfg(test)]
    pub(super) fn after(mut self, bytes: u32) -> Self {
        self.sent = self.sent.wrapping_add(bytes);
        self.forwarded = self.forwarded.wrapping_add(bytes);
        self
    }
}

/// What the guest may send.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct HostCredit {
    received: u32,
    forwarded: u32,
    told: u32,
}

impl HostCredit {
    /// Notes that the guest has sent `bytes`.
    pub(super) fn receive(&mut self, bytes: u32) -> Result<(), Violation> {
        let held = self.received.wrapping_sub(self.forwarded);
        if bytes > BUFFER_BYTES.saturating_sub(held) {
            return Err(Violation::CreditExceeded);
        }
        self.received = self.received.wrapping_add(bytes);
        Ok(())
    }

    /// Notes that `bytes` of them have left for the host's socket.
    pub(super) fn forward(&mut self, bytes: u32) {
        self.forwarded = self.forwarded.wrapping_add(bytes);
    }

    /// What a packet says of it; from then on the guest knows.
    pub(super) fn tell(&mut self) -> u32 {
        self.told = self.forwarded;
        self.forwarded
    }

    /// Whether the guest should be told, if no packet does so anyway.
    pub(super) fn worth_telling(&self) -> bool {
        self.forwarded.wrapping_sub(self.told) >= WORTH_TELLING
    }

    /// A connection that has run for long.
    #[cfg(test)]
    pub(super) fn after(mut self, bytes: u32) -> Self {
        self.received = self.received.wrapping_add(bytes);
        self.forwarded = self.forwarded.wrapping_add(bytes);
        self.told = self.told.wrapping_add(bytes);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn credit_wraps() {
        let mut credit = GuestCredit::new(1000).after(u32::MAX - 100);
        assert_eq!(credit.available(), 1000);
        credit.spend(600);
        assert_eq!(credit.available(), 400);
        credit.update(1000, 99).unwrap();
        assert_eq!(credit.available(), 600, "200 of 600 were taken, across the wrap");
        credit.update(1000, 499).unwrap();
        assert_eq!(credit.available(), 1000);
        assert_eq!(credit.update(1000, 500), Err(Violation::CreditAhead));

        let mut credit = HostCredit::default().after(u32::MAX - 10);
        credit.receive(BUFFER_BYTES).unwrap();
        assert_eq!(credit.receive(1), Err(Violation::CreditExceeded));
        credit.forward(BUFFER_BYTES - 1);
        assert!(credit.worth_telling());
        assert_eq!(credit.tell(), BUFFER_BYTES - 12);
        assert!(!credit.worth_telling());
        credit.receive(BUFFER_BYTES - 1).unwrap();
        assert_eq!(credit.receive(1), Err(Violation::CreditExceeded));
    }

    #[test]
    fn an_older_count_is_passed_over() {
        let mut credit = GuestCredit::new(100);
        credit.spend(100);
        credit.update(100, 60).unwrap();
        credit.update(100, 50).unwrap();
        assert_eq!(credit.available(), 60);
    }

    #[test]
    fn a_buffer_that_shrinks_gives_no_credit() {
        let mut credit = GuestCredit::new(100);
        credit.spend(80);
        credit.update(50, 0).unwrap();
        assert_eq!(credit.available(), 0);
        credit.update(50, 40).unwrap();
        assert_eq!(credit.available(), 10);
    }

    proptest! {
        /// Two ends that keep the rules never see a violation, lose no byte of credit, and are never stuck.
        #[test]
        fn honest_ends_agree(start in any::<u32>(), steps in prop::collection::vec((any::<u32>(), 0..3_u8), 1..200)) {
            let mut host = HostCredit::default().after(start);
            let mut guest = GuestCredit::new(BUFFER_BYTES).after(start);
            let mut held = 0;
            for (amount, step) in steps {
                match step {
                    0 => {
                        let bytes = amount.checked_rem(guest.available()).unwrap_or(0);
                        guest.spend(bytes);
                        host.receive(bytes).unwrap();
                        held += bytes;
                    }
                    1 => {
                        let bytes = amount.checked_rem(held).unwrap_or(0);
                        host.forward(bytes);
                        held -= bytes;
                    }
                    _ if host.worth_telling() => guest.update(BUFFER_BYTES, host.tell()).unwrap(),
                    _ => {}
                }
                prop_assert!(guest.available() <= BUFFER_BYTES - held);
            }
            host.forward(held);
            if host.worth_telling() {
                guest.update(BUFFER_BYTES, host.tell()).unwrap();
            }
            prop_assert!(guest.available() > BUFFER_BYTES / 2);
        }

        /// Whatever the guest says, what may be in flight stays bounded and nothing panics.
        #[test]
        fn hostile_counts_are_bounded(steps in prop::collection::vec((any::<u32>(), any::<u32>()), 1..200)) {
            let mut credit = GuestCredit::new(u32::MAX);
            for (capacity, forwarded) in steps {
                if credit.update(capacity, forwarded).is_err() {
                    break;
                }
                prop_assert!(credit.available() <= MOST_IN_FLIGHT);
                credit.spend(credit.available());
                prop_assert!(credit.sent.wrapping_sub(credit.forwarded) <= MOST_IN_FLIGHT);
            }
        }
    }
}
