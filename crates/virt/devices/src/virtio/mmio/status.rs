//! The device status field (VIRTIO 1.2 §2.1) and which of the driver's writes to it are legal.
//!
//! ```text
//! 0 -> ACKNOWLEDGE -> DRIVER -> FEATURES_OK -> DRIVER_OK      each keeps the bits before it; one write may take several steps
//! any -> + FAILED            by the driver, which gives up
//! any -> + NEEDS_RESET       by the device
//! any -> 0                   reset
//! ```

/// Bits of the status (§2.1).
pub(super) const ACKNOWLEDGE: u32 = 1;
pub(super) const DRIVER: u32 = 2;
pub(super) const DRIVER_OK: u32 = 4;
pub(super) const FEATURES_OK: u32 = 8;
pub(super) const NEEDS_RESET: u32 = 64;
pub(super) const FAILED: u32 = 128;

/// The steps of initialisation in their order (§3.1.1).
const STEPS: [u32; 4] = [ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK];

/// What a write of the driver asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// Begin anew.
    Reset,
    /// Set these bits, which are new and legal; `NEEDS_RESET` is not among them.
    Set(u32),
    /// Nothing that is allowed, or nothing new.
    Ignore,
}

/// Whether a status can be: each step after the one before it, and no unknown bits.
pub(super) fn is_consistent(status: u32) -> bool {
    let known = STEPS.iter().fold(NEEDS_RESET | FAILED, |bits, step| bits | step);
    let taken = STEPS.iter().take_while(|step| status & **step != 0).count();
    let later = STEPS.iter().skip(taken).any(|step| status & step != 0);
    status & !known == 0 && !later
}

/// Decides on a write of `value` when the status is `status`.
pub(super) fn decide(status: u32, value: u32) -> Request {
    if value == 0 {
        return Request::Reset;
    }
    let new = value & !status & !NEEDS_RESET;
    // The driver must not clear bits (§2.1.1); NEEDS_RESET is the device's, so that leaving it out is no clearing.
    let cleared = status & !NEEDS_RESET & !value;
    // After FAILED only a reset helps.
    if new == 0 || cleared != 0 || status & FAILED != 0 || !is_consistent(status | new) {
        return Request::Ignore;
    }
    Request::Set(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_are_taken_in_order() {
        for (status, value, expected) in [
            (0, 1, Request::Set(1)),
            (1, 3, Request::Set(2)),
            (3, 0xb, Request::Set(8)),
            (0xb, 0xf, Request::Set(4)),
            (0, 0xf, Request::Set(0xf)),
            (0xf, 0xf, Request::Ignore),
            (0, 2, Request::Ignore),
            (3, 7, Request::Ignore),
            (3, 2, Request::Ignore),
            (0xf, 0xb, Request::Ignore),
            (0xf, 0x8f, Request::Set(0x80)),
            (0x83, 0x8b, Request::Ignore),
            (0x4f, 0xf, Request::Ignore),
            (0x4b, 0xf, Request::Set(4)),
            (0, 0x40, Request::Ignore),
            (0, 0x11, Request::Ignore),
            (0, 0xffff_ffff, Request::Ignore),
            (0xcf, 0, Request::Reset),
        ] {
            assert_eq!(decide(status, value), expected, "{status:#x} <- {value:#x}");
        }
    }

    #[test]
    fn no_write_leads_to_an_inconsistent_status() {
        for status in (0..=0xff).filter(|status| is_consistent(*status)) {
            for value in 0..=0x1ff {
                if let Request::Set(bits) = decide(status, value) {
                    assert!(is_consistent(status | bits), "{status:#x} <- {value:#x}");
                    assert_eq!(bits & (NEEDS_RESET | status), 0);
                }
            }
        }
    }
}
