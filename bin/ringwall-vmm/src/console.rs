//! The serial port's other end: standard output, or the file that the configuration names; and standard input.

use std::io::{self, Write};

use ringwall_vmm::event_loop::{EventLoop, Key};
use ringwall_vmm::files::{Access, Files, OpenFileError};
use ringwall_vmm::machine::Machine;
use ringwall_vmm_proto::Resources;

/// Most bytes of input taken at once: more than the port's FIFO holds is given back to nobody.
const INPUT_BYTES: usize = 64;

/// Opens where the guest's output goes.
///
/// # Errors
/// What opening says.
pub(crate) fn output(resources: &Resources, files: &Files) -> Result<Box<dyn Write + Send>, OpenFileError> {
    let path = resources
        .serial
        .as_ref()
        .and_then(|serial| serial.serial_out_path.as_ref());
    let Some(path) = path else {
        return Ok(Box::new(io::stdout()));
    };
    Ok(Box::new(files.open("serial output", path, Access::Output)?))
}

/// Begins to read standard input, unless it is something that can't be waited on (a file, or nothing).
///
/// # Errors
/// What the kernel says.
pub(crate) fn connect(machine: &Machine, events: &EventLoop) -> io::Result<()> {
    let room = machine.fixed().serial().room_event();
    events.add(&*room, Key::SerialRoom)?;
    match events.add(io::stdin(), Key::SerialInput) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        other => other,
    }
}

/// Gives the guest what standard input has, as far as there is room for it.
///
/// # Errors
/// What the kernel says.
pub(crate) fn feed(machine: &Machine, events: &EventLoop, key: Key) -> io::Result<()> {
    let mut serial = machine.fixed().serial();
    if key == Key::SerialRoom {
        serial.room_event().take();
        // It was left while there was no room.
        return match events.add(io::stdin(), Key::SerialInput) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::AlreadyExists
                ) =>
            {
                Ok(())
            }
            other => other,
        };
    }
    let room = serial.room().min(INPUT_BYTES);
    if room == 0 {
        return events.remove(io::stdin());
    }
    let mut bytes = [0; INPUT_BYTES];
    match rustix::io::read(io::stdin(), bytes.get_mut(..room).unwrap_or_default()) {
        // Its end: the guest goes on without.
        Ok(0) => events.remove(io::stdin()),
        Ok(count) => {
            serial.push_input(bytes.get(..count).unwrap_or_default());
            Ok(())
        }
        Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => Ok(()),
        Err(_) => events.remove(io::stdin()),
    }
}
