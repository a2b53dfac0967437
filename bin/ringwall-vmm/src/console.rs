//! The serial port's other end: standard output, or the file that the configuration names; and standard input.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use ringwall_vmm::event_loop::{EventLoop, Key};
use ringwall_vmm::files::{Access, Files, OpenFileError};
use ringwall_vmm::machine::Machine;
use ringwall_vmm_proto::Resources;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use thiserror::Error;

use crate::outlet::Outlet;

/// Most bytes of input taken at once: more than the port's FIFO holds is given back to nobody.
const INPUT_BYTES: usize = 64;

/// Why there is nowhere for the guest's output.
#[derive(Debug, Error)]
pub(crate) enum OpenConsoleError {
    #[error("standard output can't be used for the serial port")]
    StandardOutput(#[source] io::Error),
    #[error(transparent)]
    File(#[from] OpenFileError),
}

/// How long the end of the VM waits for somebody to read the guest's last words.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Opens where the guest's output goes: somewhere that does not wait.
///
/// # Errors
/// What opening says.
pub(crate) fn output(resources: &Resources, files: &Files, stdout: Option<Outlet>) -> Result<Outlet, OpenConsoleError> {
    let path = resources
        .serial
        .as_ref()
        .and_then(|serial| serial.serial_out_path.as_ref());
    match (path, stdout) {
        (None, Some(stdout)) => Ok(stdout),
        // It was used by a start that failed.
        (None, None) => Outlet::shared(io::stdout().as_fd()).map_err(OpenConsoleError::StandardOutput),
        (Some(path), _) => Ok(Outlet::own(files.open("serial output", path, Access::Output)?)),
    }
}

/// Gives the console what it has not taken, as far as it takes it, and waits for it as long as something is left. `console` is open for the
/// same as what [`output`] gave.
///
/// # Errors
/// What the kernel says.
pub(crate) fn drain(machine: &Machine, events: &EventLoop, console: &OwnedFd) -> io::Result<()> {
    // Held throughout: a byte that comes after the look at what is left is told of once more.
    let mut serial = machine.fixed().serial();
    serial.waiting_event().take();
    serial.drain_output();
    if serial.pending_output() == 0 {
        return events.remove(console);
    }
    match events.add_writable(console, Key::ConsoleWritable) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Gives the console what is left at the end, for a moment: a kernel's last words say why it ended.
pub(crate) fn finish(machine: &Machine, console: &OwnedFd) {
    let begun = Instant::now();
    loop {
        let mut serial = machine.fixed().serial();
        serial.drain_output();
        let is_done = serial.pending_output() == 0;
        drop(serial);
        let left = LAST_WORDS.saturating_sub(begun.elapsed());
        if is_done || left.is_zero() {
            return;
        }
        let mut descriptors = [PollFd::new(console, PollFlags::OUT)];
        let timeout = Timespec::try_from(left).ok();
        let _interrupted = poll(&mut descriptors, timeout.as_ref());
    }
}

/// Begins to read standard input, unless it is something that can't be waited on (a file, or nothing).
///
/// # Errors
/// What the kernel says.
pub(crate) fn connect(machine: &Machine, events: &EventLoop) -> io::Result<()> {
    let room = machine.fixed().serial().room_event();
    events.add(&*room, Key::SerialRoom)?;
    let waiting = machine.fixed().serial().waiting_event();
    events.add(&*waiting, Key::SerialWaiting)?;
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
    let serial = machine.fixed().serial();
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
    // Whoever shares standard input may have read it since; and the guest's output must not wait for a line that is not typed yet.
    drop(serial);
    let stdin = io::stdin();
    let mut descriptors = [PollFd::new(&stdin, PollFlags::IN)];
    if !poll(&mut descriptors, Some(&Timespec::default())).is_ok_and(|ready| ready > 0) {
        return Ok(());
    }
    let mut bytes = [0; INPUT_BYTES];
    match rustix::io::read(io::stdin(), bytes.get_mut(..room).unwrap_or_default()) {
        // Its end: the guest goes on without.
        Ok(0) => events.remove(io::stdin()),
        Ok(count) => {
            // Only this thread fills it, so there is as much room as before, or more.
            machine
                .fixed()
                .serial()
                .push_input(bytes.get(..count).unwrap_or_default());
            Ok(())
        }
        Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => Ok(()),
        Err(_) => events.remove(io::stdin()),
    }
}
