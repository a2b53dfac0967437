//! Rings and chains against drivers that keep the rules, and against those that don't.

use proptest::prelude::*;
use virtio_queue::{Queue, QueueT as _};
use vm_memory::{Bytes as _, GuestAddress};

use super::chain::{Chain, ChainError, Segment};
use super::device::Fault;
use super::queue::{VirtQueue, check_rings};
use super::testing::{Buffer, DriverQueue, INDIRECT, NEXT, Used, WRITE, ram, ram_at};

const SIZE: u16 = 8;
/// Two regions that touch, and one after a hole.
const REGIONS: [(u64, usize); 3] = [(0, 0x8000), (0x8000, 0x8000), (0x2_0000, 0x1000)];

fn pop_of(prepare: impl FnOnce(&mut DriverQueue)) -> Result<Option<Chain>, ChainError> {
    let memory = ram_at(&REGIONS, false);
    let mut driver = DriverQueue::new(&memory, 0x1000, SIZE);
    let mut queue = driver.device_side(3, false);
    prepare(&mut driver);
    queue.pop(&memory).map_err(|fault| match fault {
        Fault::Chain { queue: 3, source } => source,
        other => panic!("{other:?}"),
    })
}

fn segment(address: u64, bytes: u32) -> Segment {
    Segment {
        address: GuestAddress(address),
        bytes,
    }
}

#[test]
fn a_chain_is_copied_out_by_direction() {
    let chain = pop_of(|driver| {
        driver.add(&[
            Buffer::readable(0x100, 16),
            Buffer::readable(0x7fff, 2),
            Buffer::readable(0x300, 0),
            Buffer::writable(0x200, 1),
            Buffer::writable(0x2_0000, 0x1000),
        ]);
    });
    let chain = chain.unwrap().unwrap();
    assert_eq!(chain.readable, [segment(0x100, 16), segment(0x7fff, 2)]);
    assert_eq!(chain.writable, [segment(0x200, 1), segment(0x2_0000, 0x1000)]);
    assert_eq!((chain.readable_bytes(), chain.writable_bytes()), (18, 0x1001));
}

#[test]
fn an_empty_ring_gives_nothing() {
    assert_eq!(pop_of(|_| ()), Ok(None));
}

#[test]
fn malformed_chains_are_told_apart() {
    type Prepare = fn(&mut DriverQueue);
    let unmapped = |address, bytes| ChainError::Unmapped {
        index: 0,
        address,
        bytes,
    };
    let table: [(&str, ChainError, Prepare); 13] = [
        ("head outside", ChainError::BadIndex(8), |driver| driver.publish(8)),
        ("head far outside", ChainError::BadIndex(0xffff), |driver| {
            driver.publish(0xffff)
        }),
        ("next outside", ChainError::BadIndex(9), |driver| {
            driver.descriptor(0, 0x100, 1, NEXT, 9);
            driver.publish(0);
        }),
        ("its own next", ChainError::Loop(2), |driver| {
            driver.descriptor(2, 0x100, 1, NEXT, 2);
            driver.publish(2);
        }),
        ("a ring of all", ChainError::Loop(1), |driver| {
            for index in 0..SIZE {
                driver.descriptor(index, 0x100, 1, NEXT | WRITE, (index + 1) % SIZE);
            }
            driver.publish(1);
        }),
        ("a loop of nothing", ChainError::Loop(0), |driver| {
            driver.descriptor(0, 0x100, 0, NEXT, 0);
            driver.publish(0);
        }),
        ("readable after writable", ChainError::Order(1), |driver| {
            driver.add(&[Buffer::writable(0x100, 1), Buffer::readable(0x100, 1)]);
        }),
        ("in the hole", unmapped(0x1_0000, 1), |driver| {
            driver.add(&[Buffer::readable(0x1_0000, 1)]);
        }),
        ("into the hole", unmapped(0xffff, 2), |driver| {
            driver.add(&[Buffer::readable(0xffff, 2)]);
        }),
        ("over the hole", unmapped(0xfff0, 0x1_0020), |driver| {
            driver.add(&[Buffer::writable(0xfff0, 0x1_0020)]);
        }),
        ("past the last address", unmapped(u64::MAX, 2), |driver| {
            driver.add(&[Buffer::readable(u64::MAX, 2)]);
        }),
        ("everything", unmapped(0, u32::MAX), |driver| {
            driver.add(&[Buffer::readable(0, u32::MAX)]);
        }),
        ("indirect", ChainError::Indirect(0), |driver| {
            driver.descriptor(0, 0x100, 16, INDIRECT, 0);
            driver.publish(0);
        }),
    ];
    for (what, expected, prepare) in table {
        assert_eq!(pop_of(prepare), Err(expected), "{what}");
    }
}

#[test]
fn an_empty_buffer_may_be_anywhere() {
    let chain = pop_of(|driver| {
        driver.add(&[Buffer::readable(u64::MAX, 0)]);
    });
    assert_eq!(chain.unwrap().unwrap().readable, []);
}

#[test]
fn a_chain_has_bounded_bytes() {
    // 64 times the same 32 MiB: 2 GiB.
    let memory = ram(33 << 20);
    let mut driver = DriverQueue::new(&memory, 0x1000, 64);
    let mut queue = driver.device_side(0, false);
    driver.add(&[Buffer::readable(0x10_0000, 32 << 20); 64]);
    let fault = queue.pop(&memory).unwrap_err();
    assert_eq!(
        fault,
        Fault::Chain {
            queue: 0,
            source: ChainError::TooLong(0)
        }
    );
}

#[test]
fn a_jump_of_the_available_index_is_a_fault() {
    for jump in [SIZE + 1, 100, 0x7fff, 0x8000, 0xffff] {
        let popped = pop_of(|driver| driver.set_available_index(jump));
        let expected = ChainError::TooManyAvailable {
            available: jump,
            seen: 0,
        };
        assert_eq!(popped, Err(expected), "{jump}");
    }
}

/// A driver may not hand in chains for ever without waiting for their return: what a device must keep would have no bound.
#[test]
fn more_chains_in_flight_than_places_are_a_fault() {
    let memory = ram(0x10000);
    let mut driver = DriverQueue::new(&memory, 0x1000, SIZE);
    let mut queue = driver.device_side(0, false);
    driver.descriptor(0, 0x100, 1, 0, 0);
    for taken in 1..=SIZE {
        driver.publish(0);
        assert!(queue.pop(&memory).unwrap().is_some());
        assert_eq!(queue.in_flight(), taken);
    }
    driver.publish(0);
    let expected = Fault::Chain {
        queue: 0,
        source: ChainError::TooManyAvailable { available: 9, seen: 8 },
    };
    assert_eq!(queue.pop(&memory), Err(expected));
    queue.add_used(&memory, 0, 0).unwrap();
    assert!(queue.pop(&memory).unwrap().is_some());
}

#[test]
fn indices_wrap() {
    for event_index in [false, true] {
        let memory = ram(0x10000);
        let mut driver = DriverQueue::new(&memory, 0x1000, SIZE);
        driver.start_at(0xfff0);
        let mut queue = driver.device_side(0, event_index);
        for round in 0..100_u32 {
            driver.set_used_event(driver.used_index());
            let head = driver.add(&[Buffer::readable(0x100, 4), Buffer::writable(0x200, 8)]);
            let chain = queue.pop(&memory).unwrap().unwrap();
            assert_eq!(chain.head, head);
            assert!(queue.pop(&memory).unwrap().is_none());
            queue.add_used(&memory, chain.head, round).unwrap();
            assert!(queue.needs_interrupt(&memory).unwrap());
            let expected = Used {
                head: head.into(),
                written: round,
            };
            assert_eq!(driver.take_used(), [expected]);
        }
    }
}

#[test]
fn a_chain_that_is_put_back_comes_again() {
    let memory = ram(0x10000);
    let mut driver = DriverQueue::new(&memory, 0x1000, SIZE);
    let mut queue = driver.device_side(0, false);
    driver.add(&[Buffer::readable(0x100, 4)]);
    let first = queue.pop(&memory).unwrap();
    queue.undo_pop();
    assert_eq!(queue.in_flight(), 0);
    // There is nothing else to put back.
    queue.undo_pop();
    assert_eq!(queue.in_flight(), 0);
    assert_eq!(queue.pop(&memory).unwrap(), first);
}

#[test]
fn an_interrupt_is_raised_only_for_something_and_if_wanted() {
    let memory = ram(0x10000);
    let mut driver = DriverQueue::new(&memory, 0x1000, SIZE);
    let mut queue = driver.device_side(0, false);
    assert!(!queue.needs_interrupt(&memory).unwrap());
    let use_one = |driver: &mut DriverQueue, queue: &mut VirtQueue| {
        driver.add(&[Buffer::readable(0x100, 4)]);
        let chain = queue.pop(&memory).unwrap().unwrap();
        queue.add_used(&memory, chain.head, 0).unwrap();
    };
    use_one(&mut driver, &mut queue);
    assert!(queue.needs_interrupt(&memory).unwrap());
    assert!(!queue.needs_interrupt(&memory).unwrap());
    driver.set_available_flags(1);
    use_one(&mut driver, &mut queue);
    assert!(!queue.needs_interrupt(&memory).unwrap());
    driver.set_available_flags(0);
    use_one(&mut driver, &mut queue);
    assert!(queue.needs_interrupt(&memory).unwrap());
}

#[test]
fn a_driver_is_asked_not_to_notify() {
    let memory = ram(0x10000);
    let mut driver = DriverQueue::new(&memory, 0x1000, SIZE);
    let mut queue = driver.device_side(0, false);
    queue.disable_notification(&memory).unwrap();
    assert_eq!(driver.used_flags(), 1);
    assert!(!queue.enable_notification(&memory).unwrap());
    assert_eq!(driver.used_flags(), 0);
    driver.add(&[Buffer::readable(0x100, 4)]);
    assert!(queue.enable_notification(&memory).unwrap());
}

/// With the event index a driver notifies only of the chain that it was asked for. A device that finds the ring empty and does not ask
/// is never called again.
#[test]
fn an_empty_queue_has_asked_for_the_next_notification() {
    let memory = ram(0x10000);
    let mut driver = DriverQueue::new(&memory, 0x1000, SIZE);
    driver.start_at(0xfffe);
    let mut queue = driver.device_side(0, true);
    for round in 0..5_u16 {
        driver.add(&[Buffer::readable(0x100, 4)]);
        let chain = queue.pop(&memory).unwrap().unwrap();
        queue.add_used(&memory, chain.head, 0).unwrap();
        assert_eq!(queue.pop(&memory), Ok(None));
        assert_eq!(driver.available_event(), 0xffff_u16.wrapping_add(round));
    }
}

#[test]
fn an_unready_queue_does_nothing() {
    let memory = ram(0x10000);
    let mut driver = DriverQueue::new(&memory, 0x1000, SIZE);
    driver.add(&[Buffer::readable(0x100, 4)]);
    let mut queue = VirtQueue::new(Queue::new(SIZE).unwrap(), 0);
    assert_eq!(queue.pop(&memory), Ok(None));
    assert_eq!(queue.needs_interrupt(&memory), Ok(false));
}

#[test]
fn rings_must_be_in_one_region_and_aligned() {
    let memory = ram_at(&REGIONS, false);
    let footprint = DriverQueue::footprint(SIZE);
    let at = |base: u64| check_rings(&DriverQueue::new(&memory, base, SIZE).configured(false), &memory);
    assert_eq!(at(0x1000), Ok(()));
    assert_eq!(at(0x2_0000), Ok(()));
    assert_eq!(at(0x2_1000 - footprint), Ok(()));
    // Over the seam of two regions, over an end, nowhere.
    assert_eq!(at(0x8000 - 16), Err(ChainError::BadRings));
    assert_eq!(at(0x2_1000 - footprint + 16), Err(ChainError::BadRings));
    assert_eq!(at(0x1_0000), Err(ChainError::BadRings));
    assert_eq!(at(1 << 40), Err(ChainError::BadRings));
}

/// Rings that vanish under a running device are a fault of the guest's, never a panic. (A transport has checked them; this is the second line.)
#[test]
fn rings_outside_of_memory_are_faults() {
    let memory = ram(0x10000);
    let elsewhere = ram(0x1000);
    let driver = DriverQueue::new(&memory, 0x8000, SIZE);
    for event_index in [false, true] {
        let mut queue = driver.device_side(0, event_index);
        let bad = Fault::Chain {
            queue: 0,
            source: ChainError::BadRings,
        };
        assert_eq!(queue.pop(&elsewhere), Err(bad.clone()));
        assert_eq!(queue.add_used(&elsewhere, 0, 0), Err(bad.clone()));
        assert_eq!(queue.enable_notification(&elsewhere), Err(bad.clone()));
        queue.add_used(&memory, 0, 0).unwrap();
        assert_eq!(queue.needs_interrupt(&elsewhere), Err(bad.clone()));
        // No such descriptor.
        assert_eq!(queue.add_used(&memory, SIZE, 0), Err(bad));
    }
}

/// Wants an interrupt for used index `event` when the device goes from `old` to `new` (§2.7.7.2, `vring_need_event`).
fn wants(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

proptest! {
    #[test]
    fn any_bytes_as_rings_are_walked_without_harm(
        bytes in prop::collection::vec(any::<u8>(), usize::try_from(DriverQueue::footprint(SIZE)).unwrap()),
        pops in 1_usize..20,
    ) {
        let memory = ram_at(&REGIONS, false);
        let driver = DriverQueue::new(&memory, 0x1000, SIZE);
        let mut queue = driver.device_side(0, true);
        memory.write_slice(&bytes, GuestAddress(0x1000)).unwrap();
        for _ in 0..pops {
            if let Ok(Some(chain)) = queue.pop(&memory) {
                for segment in chain.readable.iter().chain(&chain.writable) {
                    prop_assert!(segment.bytes > 0);
                    let mut all = vec![0; usize::try_from(segment.bytes).unwrap()];
                    memory.read_slice(&mut all, segment.address).unwrap();
                }
            }
            let _wanted = queue.needs_interrupt(&memory);
        }
    }

    /// A plausible table: indices, flags and addresses that mean something, so that chains are long.
    #[test]
    fn a_chain_is_what_a_plain_walk_says(
        table in prop::collection::vec((prop::sample::select(vec![0x100_u64, 0x7ff0, 0xfff0, 0x1_0000, 0x2_0ff0]), 0_u32..40, 0_u16..4, 0_u16..10), usize::from(SIZE)),
        head in 0_u16..10,
    ) {
        let got = pop_of(|driver| {
            for (index, (address, bytes, flags, next)) in (0_u16..).zip(&table) {
                driver.descriptor(index, *address, *bytes, *flags, *next);
            }
            driver.publish(head);
        });
        let mut expected = Chain { head, readable: vec![], writable: vec![] };
        let mut index = head;
        let mut outcome = Err(ChainError::Loop(head));
        for _ in 0..SIZE {
            let Some((address, bytes, flags, next)) = table.get(usize::from(index)).copied() else {
                outcome = Err(ChainError::BadIndex(index));
                break;
            };
            let writable = flags & WRITE != 0;
            if !writable && !expected.writable.is_empty() {
                outcome = Err(ChainError::Order(index));
                break;
            }
            let end = address + u64::from(bytes);
            let mapped = end <= 0x1_0000 || address >= 0x2_0000 && end <= 0x2_1000;
            if bytes > 0 && !mapped {
                outcome = Err(ChainError::Unmapped { index, address, bytes });
                break;
            }
            if bytes > 0 {
                let list = if writable { &mut expected.writable } else { &mut expected.readable };
                list.push(segment(address, bytes));
            }
            if flags & NEXT == 0 {
                outcome = Ok(Some(expected.clone()));
                break;
            }
            index = next;
        }
        prop_assert_eq!(got, outcome);
    }

    #[test]
    fn the_event_index_is_honoured(start in any::<u16>(), steps in prop::collection::vec((1_u16..=SIZE, any::<u16>(), 0_u16..20), 1..20)) {
        let memory = ram(0x10000);
        let mut driver = DriverQueue::new(&memory, 0x1000, SIZE);
        driver.start_at(start);
        let mut queue = driver.device_side(0, true);
        let mut old = start;
        for (count, anywhere, near) in steps {
            let event = if anywhere % 2 == 0 { anywhere } else { old.wrapping_add(near).wrapping_sub(10) };
            driver.set_used_event(event);
            for _ in 0..count {
                driver.add(&[Buffer::readable(0x100, 4)]);
            }
            for _ in 0..count {
                let chain = queue.pop(&memory).unwrap().unwrap();
                queue.add_used(&memory, chain.head, 0).unwrap();
            }
            let new = old.wrapping_add(count);
            prop_assert_eq!(queue.needs_interrupt(&memory).unwrap(), wants(event, new, old));
            prop_assert_eq!(driver.take_used().len(), usize::from(count));
            old = new;
        }
    }

    #[test]
    fn any_available_index_is_in_order_or_a_fault(start in any::<u16>(), taken in 0_u16..=SIZE, index in any::<u16>()) {
        let memory = ram(0x10000);
        let mut driver = DriverQueue::new(&memory, 0x1000, SIZE);
        driver.start_at(start);
        let mut queue = driver.device_side(0, false);
        for place in 0..SIZE {
            driver.descriptor(place, 0x100, 4, 0, 0);
        }
        for _ in 0..taken {
            driver.publish(0);
            queue.pop(&memory).unwrap().unwrap();
        }
        driver.set_available_index(index);
        let waiting = index.wrapping_sub(start.wrapping_add(taken));
        let popped = queue.pop(&memory);
        if waiting == 0 {
            prop_assert_eq!(popped, Ok(None));
        } else if u32::from(waiting) + u32::from(taken) <= u32::from(SIZE) {
            prop_assert!(popped.unwrap().is_some());
        } else {
            prop_assert!(popped.is_err());
        }
    }
}
