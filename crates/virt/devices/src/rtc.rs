//! A real-time clock (ARM PL031), on top of `vm-superio`, for aarch64. It shows the host's time, moved by what the guest set: after a
//! restore it is right at once. It raises no alarm.

use serde::{Deserialize, Serialize};
use vm_superio::{Rtc as Clock, RtcState as ClockState, rtc_pl031::NoEvents};

use crate::bus::BusDevice;

/// Bytes of address space that the clock takes (ARM DDI 0224, identification registers at its end).
pub const WINDOW_BYTES: u64 = 0x1000;

/// The clock.
#[derive(Debug)]
pub struct Rtc(Clock<NoEvents>);

/// What a snapshot must know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RtcState {
    /// The load register.
    pub load: u32,
    /// How far the guest has moved the clock, in seconds.
    pub offset_s: i64,
    /// The match register.
    pub matched: u32,
    /// The interrupt mask.
    pub mask: u32,
}

impl Rtc {
    /// A clock that shows the host's time.
    #[must_use]
    pub fn new() -> Self {
        Rtc(Clock::new())
    }

    /// What a snapshot must know.
    #[must_use]
    pub fn save(&self) -> RtcState {
        let state = self.0.state();
        RtcState {
            load: state.lr,
            offset_s: state.offset,
            matched: state.mr,
            mask: state.imsc,
        }
    }

    /// Takes a saved state; any is valid.
    pub fn restore(&mut self, state: RtcState) {
        let state = ClockState {
            lr: state.load,
            offset: state.offset_s,
            mr: state.matched,
            imsc: state.mask,
            ris: 0,
        };
        self.0 = Clock::from_state(&state, NoEvents);
    }
}

impl Default for Rtc {
    fn default() -> Self {
        Rtc::new()
    }
}

impl BusDevice for Rtc {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        // Registers are 32 bits wide and accessed as such.
        if let (Ok(offset), Ok(data)) = (u16::try_from(offset), <&mut [u8; 4]>::try_from(data)) {
            self.0.read(offset, data);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (Ok(offset), Ok(data)) = (u16::try_from(offset), <&[u8; 4]>::try_from(data)) {
            self.0.write(offset, data);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    fn read(clock: &mut Rtc, offset: u64) -> u32 {
        let mut data = [0; 4];
        clock.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn it_shows_the_hosts_time_moved_by_the_guest_also_after_a_restore() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut clock = Rtc::new();
        let shown = u64::from(read(&mut clock, 0));
        assert!((now..now + 5).contains(&shown), "{now} {shown}");
        clock.write(8, &1_000_u32.to_le_bytes());
        let mut restored = Rtc::new();
        restored.restore(clock.save());
        assert_eq!(restored.save(), clock.save());
        assert!((1_000..1_005).contains(&read(&mut restored, 0)));
    }

    #[test]
    fn a_driver_identifies_it() {
        let mut clock = Rtc::new();
        let id: Vec<u32> = (0..8).map(|index| read(&mut clock, 0xfe0 + 4 * index)).collect();
        // Part 0x031 of ARM (0x41), class 0xf: PrimeCell.
        assert_eq!(id, [0x31, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1]);
    }

    #[test]
    fn any_access_is_harmless() {
        for offset in (0..0x40).chain(0xfc0..0x1010).chain([0xffff, 0x1_0000, u64::MAX]) {
            let mut clock = Rtc::new();
            for width in 0..9 {
                let mut data = vec![0xff; width];
                clock.write(offset, &data);
                clock.read(offset, &mut data);
            }
        }
        for offset_s in [i64::MIN, -1, i64::MAX] {
            let mut clock = Rtc::new();
            clock.restore(RtcState {
                load: 0,
                offset_s,
                matched: 0,
                mask: 0,
            });
            let _time = read(&mut clock, 0);
        }
    }
}
