//! Counters: one line of JSON each time they are asked for, appended to a file or named pipe.

use std::io::{self, Write as _};
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use ringwall_vmm::machine::Machine;
use serde_json::{Map, Value, json};

use crate::outlet::Outlet;

/// Writes the counters of a machine.
///
/// # Errors
/// What writing says.
pub(crate) fn flush(file: &mut Outlet, machine: Option<&Machine>) -> io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let milliseconds = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let devices: Map<String, Value> = machine
        .into_iter()
        .flat_map(Machine::devices)
        .map(|device| {
            let transport = device.transport();
            let counters = transport.metrics();
            let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
            let values = json!({
                "activations": read(&counters.activations),
                "resets": read(&counters.resets),
                "guest_faults": read(&counters.guest_faults),
                "host_failures": read(&counters.host_failures),
                "ignored_accesses": read(&counters.ignored_accesses),
                "notifications": read(&counters.notifications),
            });
            (device.id.clone(), values)
        })
        .collect();
    let serial = machine.map(|machine| {
        let serial = machine.fixed().serial();
        let (counters, pending) = (serial.metrics(), serial.pending_output());
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        // Bytes: what the console took, what nobody read in time, what waits for somebody to read it; and what the guest read.
        let (written, lost) = (read(&counters.written), read(&counters.lost));
        json!({"written": written, "lost": lost, "pending": pending, "read": read(&counters.read)})
    });
    let line = json!({"utc_timestamp_ms": milliseconds, "serial": serial, "devices": devices});
    file.write_all(format!("{line}\n").as_bytes())
}
