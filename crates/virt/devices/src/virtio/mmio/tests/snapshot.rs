//! A transport saved and restored, and saved states that are spoilt.

use super::*;
use crate::virtio::mmio::MmioState;

/// Firecracker's bug: descriptors that were in flight at the snapshot are lost.
#[test]
fn what_is_in_flight_at_a_snapshot_is_not_lost() {
    let rig = Rig::new();
    let mut queues = rig.up();
    rig.submit(&mut queues[0], b"x");
    rig.transport.lock().unwrap().notified(0);
    rig.submit(&mut queues[0], b"h");
    rig.transport.lock().unwrap().notified(0);
    // This one's notification is still in its event.
    rig.submit(&mut queues[0], b"xx");
    rig.driver().write(offsets::NOTIFY, 0);
    let state = {
        let mut transport = rig.transport.lock().unwrap();
        transport.quiesce().unwrap();
        transport.save()
    };
    let text = serde_json::to_vec(&state).unwrap();
    let state: MmioState = serde_json::from_slice(&text).unwrap();
    assert_eq!(state.queues[0].next_available, 2);
    assert_eq!(state.queues[0].next_used, 1);

    let restored = Rig::with(rig.memory.clone(), false);
    {
        let mut transport = restored.transport.lock().unwrap();
        transport.restore(state.clone()).unwrap();
        assert_eq!(transport.save(), state);
        assert!(transport.is_active());
        transport.kick_all();
    }
    assert!(restored.interrupted());
    assert_eq!(restored.driver().read(offsets::INTERRUPT_STATUS) & 1, 1);
    restored.turn();
    assert_eq!(queues[0].take_used().len(), 2);
    let mut transport = restored.transport.lock().unwrap();
    let held = transport.with_device(|device: &mut Counter, _| Ok(device.held.clone()));
    assert_eq!(held.unwrap().unwrap(), [1]);
}

#[test]
fn a_device_that_needs_a_reset_still_does_after_a_restore() {
    let rig = Rig::new();
    let mut queues = rig.up();
    rig.submit(&mut queues[0], b"g");
    rig.transport.lock().unwrap().notified(0);
    let state = rig.transport.lock().unwrap().save();
    let restored = Rig::with(rig.memory.clone(), false);
    let mut transport = restored.transport.lock().unwrap();
    transport.restore(state.clone()).unwrap();
    transport.kick_all();
    assert!(!transport.is_active());
    assert_eq!(transport.save().queues, state.queues);
    drop(transport);
    assert_eq!(restored.driver().read(offsets::STATUS), 0x4f);
    assert_eq!(restored.driver().read(offsets::INTERRUPT_STATUS) & 2, 2);
    drop(restored.up());
}

#[test]
fn a_saved_state_that_does_not_fit_is_refused() {
    let rig = Rig::new();
    drop(rig.up());
    let good = rig.transport.lock().unwrap().save();
    type Spoil = fn(&mut MmioState);
    let table: [(&str, Spoil); 14] = [
        ("it is of device 1, not 42", |state| state.device_id = 1),
        ("its status 0x5 can't be", |state| state.status = 5),
        ("its status 0x1f can't be", |state| state.status = 0x1f),
        ("it has 1 queues, not 2", |state| state.queues.truncate(1)),
        ("features 0x40 are in use and not on offer", |state| {
            state.driver_features |= 0x40
        }),
        ("features are in use without VIRTIO_F_VERSION_1", |state| {
            state.driver_features = 0
        }),
        ("queue 0: its largest size is another", |state| {
            state.queues[0].max_size = 16
        }),
        ("queue 1: its size or the rings' alignment is not legal", |state| {
            state.queues[1].size = 3
        }),
        ("queue 1: its size or the rings' alignment is not legal", |state| {
            state.queues[1].size = 32
        }),
        ("queue 0: its size or the rings' alignment is not legal", |state| {
            state.queues[0].used = 2
        }),
        ("queue 0: its rings are not in memory", |state| {
            state.queues[0].used = 1 << 40
        }),
        ("queue 0: its rings are not in memory", |state| {
            state.queues[0].descriptors = !15_u64
        }),
        ("queue 1: it has more chains in flight than places", |state| {
            state.queues[1].next_available = 17
        }),
        ("queue 0: it has more chains in flight than places", |state| {
            state.queues[0].next_used = 1
        }),
    ];
    for (expected, spoil) in table {
        let mut state = good.clone();
        spoil(&mut state);
        let fresh = Rig::with(rig.memory.clone(), false);
        let error = fresh.transport.lock().unwrap().restore(state).unwrap_err();
        assert_eq!(error.to_string(), format!("the saved state does not fit: {expected}"));
    }
    let again = good.clone();
    let mut state = good.clone();
    state.device = serde_json::json!(7);
    let error = Rig::with(rig.memory.clone(), false)
        .transport
        .lock()
        .unwrap()
        .restore(state)
        .unwrap_err();
    assert!(matches!(error, RestoreError::Malformed(_)), "{error:?}");
    let error = Rig::with(rig.memory.clone(), true)
        .transport
        .lock()
        .unwrap()
        .restore(good)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the saved state does not fit: counter can't be activated"
    );
    let used = rig.transport.lock().unwrap().restore(again).unwrap_err();
    assert_eq!(
        used.to_string(),
        "the saved state does not fit: counter is in use already"
    );
}
