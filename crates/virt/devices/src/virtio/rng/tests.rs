//! The entropy device with a driver, well-behaved and not.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::atomic::Ordering;

use rustix::event::{PollFd, PollFlags, poll};

use super::{Allowance, Entropy, HostEntropy, Rng};
use crate::event::Event;
use crate::rate_limiter::{RateLimiter, RateLimiterSpec};
use crate::virtio::testing::{Buffer, Harness};
use crate::virtio::{DeviceError, Fault, RestoreError, VirtioDevice as _};

/// Gives one number, and counts.
#[derive(Debug)]
struct Constant;

impl Entropy for Constant {
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        buffer.fill(0xa5);
        Ok(())
    }
}

/// Gives `0` pieces and then fails.
#[derive(Debug)]
struct Failing(usize);

impl Entropy for Failing {
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.0 = self.0.checked_sub(1).ok_or(io::ErrorKind::Other)?;
        buffer.fill(0xa5);
        Ok(())
    }
}

fn harness(source: impl Entropy) -> Harness<Rng> {
    Harness::new(Rng::new(Box::new(source)).unwrap(), 4 << 20)
}

#[test]
fn every_buffer_of_a_request_is_filled() {
    let mut harness = harness(Constant);
    let (contents, written) = harness.request(0, &[], &[1, 64, 5000]);
    assert_eq!(written, 5065);
    assert!(contents.iter().flatten().all(|byte| *byte == 0xa5));
    assert_eq!(harness.interrupt.of_queue(0), 1);
    assert_eq!(harness.device.metrics().bytes.load(Ordering::Relaxed), 5065);
}

#[test]
fn the_hosts_entropy_is_not_constant() {
    let mut harness = harness(HostEntropy);
    let (first, _) = harness.request(0, &[], &[32]);
    let (second, _) = harness.request(0, &[], &[32]);
    assert_ne!(first, second);
}

#[test]
fn a_request_is_capped() {
    let mut harness = harness(Constant);
    // The same 1 MiB sixty times over: 60 MiB for the price of sixty descriptors.
    let place = harness.allocate(1 << 20);
    let head = harness.queue(0).add(&[Buffer::writable(place, 1 << 20); 60]);
    harness.notify(0).unwrap();
    let used = harness.queue(0).take_used();
    assert_eq!((used[0].head, used[0].written), (head.into(), 64 * 1024));
    assert_eq!(harness.device.metrics().capped.load(Ordering::Relaxed), 1);
    // What is past the cap was not touched.
    assert_eq!(harness.read(place + 64 * 1024, 16), vec![0; 16]);
}

#[test]
fn a_turn_ends_although_more_is_queued_and_goes_on_later() {
    let mut harness = harness(Constant);
    for _ in 0..64 {
        harness.submit(0, &[], &[60_000]);
    }
    harness.notify(0).unwrap();
    let first = harness.queue(0).take_used().len();
    assert!((4..10).contains(&first), "{first}");
    let mut total = first;
    for _ in 0..20 {
        let token = harness.device.sources()[0].token;
        harness.ready(token).unwrap();
        total += harness.queue(0).take_used().len();
    }
    assert_eq!(total, 64);
}

#[test]
fn a_failing_source_is_not_reported_as_entropy() {
    let mut harness = harness(Failing(1));
    let (_, written) = harness.request(0, &[], &[8192]);
    assert_eq!(written, 4096);
    let (contents, written) = harness.request(0, &[], &[16]);
    assert_eq!((contents, written), (vec![vec![0; 16]], 0));
    assert_eq!(harness.device.metrics().host_failures.load(Ordering::Relaxed), 2);
}

#[test]
fn requests_that_make_no_sense_are_faults() {
    for (readable, writable) in [(vec![&b"x"[..]], vec![16]), (vec![&b"x"[..]], vec![])] {
        let mut harness = harness(Constant);
        harness.submit(0, &readable, &writable);
        let error = harness.notify(0).unwrap_err();
        assert!(
            matches!(error, DeviceError::Guest(Fault::Request { queue: 0, .. })),
            "{error:?}"
        );
    }
    let mut harness = harness(Constant);
    harness.queue(0).descriptor(0, 0x2000, 0, 2, 0);
    harness.queue(0).publish(0);
    assert!(matches!(
        harness.notify(0),
        Err(DeviceError::Guest(Fault::Request { .. }))
    ));
}

#[test]
fn a_saved_state_that_is_anything_is_refused() {
    let mut rng = Rng::new(Box::new(Constant)).unwrap();
    rng.restore(rng.save()).unwrap();
    rng.restore(serde_json::json!({"x": 1})).unwrap_err();
}

/// Allows so many bytes until it is acknowledged, then so many again.
#[derive(Debug)]
struct Purse {
    left: u64,
    again: Event,
}

impl Allowance for Purse {
    fn take(&mut self, bytes: u64) -> bool {
        let rest = self.left.checked_sub(bytes);
        match rest {
            Some(rest) => self.left = rest,
            None => self.again.signal(),
        }
        rest.is_some()
    }
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.again.as_fd()
    }
    fn acknowledge(&mut self) {
        assert!(self.again.take());
        self.left = 100;
    }
    fn reset(&mut self) {
        self.again.take();
    }
    fn save(&self) -> serde_json::Value {
        self.left.into()
    }
    fn restore(&mut self, state: serde_json::Value) -> Result<(), RestoreError> {
        self.left = serde_json::from_value(state)?;
        Ok(())
    }
}

fn limited() -> Rng {
    let purse = Purse {
        left: 100,
        again: Event::new().unwrap(),
    };
    Rng::new(Box::new(Constant)).unwrap().with_allowance(Box::new(purse))
}

#[test]
fn an_allowance_makes_requests_wait_and_loses_none() {
    let mut harness = Harness::new(limited(), 4 << 20);
    for _ in 0..3 {
        harness.submit(0, &[], &[60]);
    }
    for _ in 0..3 {
        harness.notify(0).unwrap();
        assert_eq!(harness.session.queues[0].in_flight(), 0);
    }
    assert_eq!(harness.queue(0).take_used().len(), 1);
    let token = harness.device.sources()[1].token;
    for _ in 0..2 {
        harness.ready(token).unwrap();
        assert_eq!(harness.queue(0).take_used().len(), 1);
    }
    assert_eq!(harness.device.metrics().throttled.load(Ordering::Relaxed), 4);
    let mut restored = limited();
    restored.restore(harness.device.save()).unwrap();
    assert_eq!(restored.save(), serde_json::json!({"allowance": 40}));
    Rng::new(Box::new(Constant))
        .unwrap()
        .restore(restored.save())
        .unwrap_err();
    restored.restore(Rng::new(Box::new(Constant)).unwrap().save()).unwrap();
}

#[test]
fn a_rate_limiter_is_an_allowance() {
    let spec = serde_json::json!({"ops": {"size": 2, "refill_time": 100}});
    let limiter = RateLimiter::new(serde_json::from_value::<RateLimiterSpec>(spec).unwrap()).unwrap();
    let rng = Rng::new(Box::new(Constant)).unwrap().with_allowance(Box::new(limiter));
    let mut harness = Harness::new(rng, 4 << 20);
    for _ in 0..3 {
        harness.submit(0, &[], &[60]);
    }
    harness.notify(0).unwrap();
    assert_eq!(harness.queue(0).take_used().len(), 2);
    {
        let sources = harness.device.sources();
        let mut wait = [PollFd::from_borrowed_fd(sources[1].descriptor, PollFlags::IN)];
        let limit = rustix::time::Timespec { tv_sec: 10, tv_nsec: 0 };
        assert_eq!(poll(&mut wait, Some(&limit)).unwrap(), 1);
    }
    harness.ready(1).unwrap();
    assert_eq!(harness.queue(0).take_used().len(), 1);
    let saved = harness.device.save();
    harness.device.restore(saved).unwrap();
    harness.device.restore(serde_json::json!({"allowance": 7})).unwrap_err();
}
