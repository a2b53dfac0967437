//! Snapshots: connections end, the guest learns of it, and everything goes on.

use std::io::Write as _;
use std::time::Duration;

use super::guest::{Guest, device_at, read_all};
use crate::virtio::testing::Buffer;
use crate::virtio::vsock::packet::Operation;
use crate::virtio::vsock::{NoConnector, PathConnector, Timeouts, Vsock, listen_at};
use crate::virtio::{RestoreError, VirtioDevice as _};

/// Gives the device a buffer for an event.
fn give_event(guest: &mut Guest) -> u64 {
    let place = guest.harness.allocate(16);
    guest.harness.session.memory_write(place, &[0xff; 16]);
    guest.harness.queue(2).add(&[Buffer::writable(place, 4)]);
    place
}

trait MemoryWrite {
    fn memory_write(&mut self, place: u64, bytes: &[u8]);
}

impl MemoryWrite for crate::virtio::Session {
    fn memory_write(&mut self, place: u64, bytes: &[u8]) {
        use vm_memory::{Bytes as _, GuestAddress};
        self.memory.write_slice(bytes, GuestAddress(place)).unwrap();
    }
}

/// Saves the device, and puts a new one in its place that was made from the state, as the transport does.
fn save_and_restore(guest: &mut Guest) {
    guest.harness.device.quiesce(&mut guest.harness.session).unwrap();
    let state = guest.harness.device.save();
    std::fs::remove_file(guest.path()).unwrap();
    let mut device = device_at(guest.path(), Timeouts::default());
    device.restore(state).unwrap();
    device.activate(&mut guest.harness.session).unwrap();
    guest.harness.device = device;
}

#[test]
fn connections_end_with_an_event_and_resets_and_new_ones_begin() {
    let mut guest = Guest::new();
    let event = give_event(&mut guest);
    let listener = guest.host_listens(80);
    let (old, port) = guest.open_from_host(52);
    let other = guest.open_from_guest(5000, &listener, 80);
    save_and_restore(&mut guest);
    assert_eq!(read_all(&old), b"");
    assert_eq!(read_all(&other), b"");
    guest.run();
    let used = guest.harness.queue(2).take_used();
    assert_eq!(used.len(), 1);
    assert_eq!(used[0].written, 4);
    assert_eq!(guest.harness.read(event, 4), [0; 4]);
    assert_eq!(guest.harness.interrupt.of_queue(2), 1);
    let mut resets: Vec<_> = (0..2)
        .map(|_| guest.expect(Operation::Reset))
        .map(|packet| (packet.source_port, packet.destination_port))
        .collect();
    resets.sort_unstable();
    assert_eq!(resets, [(80, 5000), (port, 52)]);
    // What was in flight is for nobody.
    guest.data(port, 52, b"late");
    guest.expect(Operation::Reset);
    guest.expect_nothing();
    // The same ports of the guest as before.
    let (mut new, new_port) = guest.open_from_host(52);
    assert_ne!(new_port, port);
    new.write_all(b"again").unwrap();
    assert_eq!(guest.expect_data(5), b"again");
    let mut stream = guest.open_from_guest(5000, &listener, 80);
    stream.write_all(b"too").unwrap();
    assert_eq!(guest.expect_data(3), b"too");
}

#[test]
fn the_event_waits_for_its_buffer() {
    let mut guest = Guest::new();
    save_and_restore(&mut guest);
    guest.run();
    let event = give_event(&mut guest);
    assert_eq!(guest.harness.queue(2).take_used(), []);
    guest.harness.notify(2).unwrap();
    assert_eq!(guest.harness.queue(2).take_used().len(), 1);
    assert_eq!(guest.harness.read(event, 4), [0; 4]);
    // Once.
    give_event(&mut guest);
    guest.harness.notify(2).unwrap();
    assert_eq!(guest.harness.queue(2).take_used(), []);
}

/// Firecracker: "vsock receive stuck after pause/resume".
#[test]
fn receiving_goes_on_after_a_restore_of_a_starved_device() {
    let mut guest = Guest::starved(Timeouts::default());
    guest.give(4);
    guest.gives_back = false;
    let (mut host, _) = guest.open_from_host(52);
    host.write_all(&[1; 20_000]).unwrap();
    guest.run();
    assert_eq!(guest.inbox.len(), 3);
    guest.inbox.clear();
    // Starved. The guest gives buffers and notifies; the VM is paused, and the notification is lost with the old process.
    guest.give(50);
    save_and_restore(&mut guest);
    guest.gives_back = true;
    guest.run();
    guest.inbox.clear();
    let (mut host, _) = guest.open_from_host(53);
    host.write_all(&[2; 20_000]).unwrap();
    assert_eq!(guest.expect_data(20_000), [2; 20_000]);
}

/// Firecracker: "vsock receive stuck after pause/resume".
#[test]
fn receiving_goes_on_after_a_pause() {
    for was_notified in [true, false] {
        let mut guest = Guest::starved(Timeouts::default());
        guest.give(3);
        guest.gives_back = false;
        let (mut host, _) = guest.open_from_host(52);
        host.write_all(&[1; 20_000]).unwrap();
        guest.run();
        assert_eq!(guest.inbox.len(), 2);
        // Paused, and a snapshot is made; the guest's last act was to give buffers.
        guest.give(50);
        guest.harness.device.quiesce(&mut guest.harness.session).unwrap();
        let _state = guest.harness.device.save();
        if was_notified {
            guest.harness.notify(0).unwrap();
        }
        // Goes on. The VMM notifies every queue once, for it can't know what it has missed.
        for queue in 0..3 {
            guest.harness.notify(queue).unwrap();
        }
        guest.gives_back = true;
        guest.collect();
        let sum: usize = 20_000 - guest.inbox.drain(..).map(|(_, data)| data.len()).sum::<usize>();
        assert_eq!(guest.expect_data(sum), vec![1; sum]);
        host.write_all(b"more").unwrap();
        assert_eq!(guest.expect_data(4), b"more");
    }
}

#[test]
fn the_context_id_may_be_another_one() {
    let mut guest = Guest::new();
    let state = guest.harness.device.save();
    let path = guest.folder.path().join("other.sock");
    let connector = Box::new(PathConnector::new(&path));
    let mut device = Vsock::new("v", 77, listen_at(&path).unwrap(), connector, Timeouts::default()).unwrap();
    device.restore(state).unwrap();
    let mut config = [0; 8];
    device.read_config(0, &mut config);
    assert_eq!(u64::from_le_bytes(config), 77);
    guest.harness.device = device;
    guest.harness.device.activate(&mut guest.harness.session).unwrap();
    guest.say(1, 2, Operation::Data);
    guest.expect_nothing();
    assert_eq!(guest.count(|m| &m.malformed), 1, "from the old id");
}

#[test]
fn bad_context_ids_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (number, cid) in [0, 1, 2, u32::MAX].into_iter().enumerate() {
        let listener = listen_at(&folder.path().join(number.to_string())).unwrap();
        let error = Vsock::new("v", cid, listener, Box::new(NoConnector), Timeouts::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{cid} can't be a guest's context id: it must be from 3 to 4294967294")
        );
    }
}

#[test]
fn a_state_that_does_not_fit_is_refused() {
    let mut guest = Guest::new();
    let good = guest.harness.device.save();
    assert_eq!(
        good,
        serde_json::json!({"cid": 3, "next_port": 1_u32 << 30, "connections": []})
    );
    let many = vec![(1_u32, 2_u32); 3073];
    for bad in [
        serde_json::json!(null),
        serde_json::json!({}),
        serde_json::json!({"cid": 3, "next_port": 5, "connections": []}),
        serde_json::json!({"cid": 3, "next_port": 1_u32 << 31, "connections": []}),
        serde_json::json!({"cid": 3, "next_port": -1, "connections": []}),
        serde_json::json!({"cid": 3, "next_port": 1_u32 << 30, "connections": [[1]]}),
        serde_json::json!({"cid": 3, "next_port": 1_u32 << 30, "connections": many}),
        serde_json::json!({"cid": 3, "next_port": 1_u32 << 30, "connections": [], "more": 1}),
    ] {
        let error = guest.harness.device.restore(bad.clone()).unwrap_err();
        assert!(
            matches!(error, RestoreError::Malformed(_) | RestoreError::Unfit { .. }),
            "{bad}"
        );
    }
}

#[test]
fn a_reset_by_the_driver_forgets_everything() {
    let mut guest = Guest::new();
    let (host, port) = guest.open_from_host(52);
    let silent = std::os::unix::net::UnixStream::connect(guest.path()).unwrap();
    guest.run();
    guest.harness.device.reset();
    assert_eq!(read_all(&host), b"");
    assert_eq!(read_all(&silent), b"");
    // Clients wait in the listener's backlog, in silence.
    let waiting = guest.host_connects(53);
    assert!(!guest.is_ready(Duration::from_millis(10)));
    guest.harness.device.activate(&mut guest.harness.session).unwrap();
    assert_eq!(guest.expect(Operation::Request).destination_port, 53);
    guest.say(port, 52, Operation::Data);
    guest.expect(Operation::Reset);
    drop(waiting);
}
