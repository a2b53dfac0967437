//! A vCPU's thread: runs the guest until it is told to pause, and carries the guest's accesses to the devices.
//!
//! ```text
//! VMM thread --command, then a signal--> vCPU thread: KVM_RUN returns EINTR -> command
//! vCPU thread --event, then a wake-----> VMM thread
//! ```
//!
//! The signal can come between the look for commands and KVM_RUN, and is then lost on the guest's next exit. So it is sent again until
//! the command is answered.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvm_ioctls::{VcpuExit, VcpuFd};
use ringwall_arch::native;
use ringwall_devices::bus::Bus;
use ringwall_sys::kick;
use thiserror::Error;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::signal::Killable as _;

/// How long a command waits before the signal is sent again.
const SIGNAL_AGAIN: Duration = Duration::from_millis(1);
/// How long a command that finds the vCPU waiting for it goes without a signal. A thread that only just starts takes longer than
/// [`SIGNAL_AGAIN`] on a busy machine, and the signal would interrupt the guest it has begun to run; one that runs already is asked in vain
/// for this long.
const CALM: Duration = Duration::from_millis(10);
/// How long a vCPU has to answer: KVM_RUN returns at once on a signal unless the host's kernel is stuck.
const PATIENCE: Duration = Duration::from_secs(10);
/// `KVM_SYSTEM_EVENT_SHUTDOWN`, `_RESET`, `_CRASH` (linux/kvm.h): what PSCI and others ask for.
const SYSTEM_EVENT_SHUTDOWN: u32 = 1;
const SYSTEM_EVENT_RESET: u32 = 2;

/// What the guest reaches.
#[derive(Debug, Default)]
pub struct Buses {
    /// Devices in memory.
    pub mmio: Bus,
    /// Devices behind ports; empty on aarch64.
    pub ports: Bus,
}

/// What a vCPU says by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VcpuEvent {
    /// The guest asked the firmware (PSCI) to switch off.
    Shutdown,
    /// The guest asked for a reset, or x86's triple fault made one.
    Reset,
    /// The vCPU can't go on.
    Failed {
        /// Which.
        vcpu: u8,
        /// Why.
        why: String,
    },
}

/// A vCPU that does not do what it is told.
#[derive(Debug, Error)]
pub enum VcpuError {
    /// Its thread has ended.
    #[error("vCPU {0} has ended")]
    Ended(u8),
    /// It does not answer.
    #[error("vCPU {0} does not answer")]
    Stuck(u8),
    /// The thread can't be started.
    #[error("can't start a vCPU's thread")]
    Spawn(#[source] io::Error),
    /// Its state can't be read.
    #[error("can't save vCPU {vcpu}")]
    Save {
        /// Which.
        vcpu: u8,
        /// What KVM said.
        #[source]
        source: native::VcpuError,
    },
}

enum Command {
    Pause(SyncSender<()>),
    Resume(SyncSender<()>),
    Save(SyncSender<Result<native::VcpuState, native::VcpuError>>),
    Stop,
}

/// The VMM's end of a vCPU's thread. It starts paused, and ends when this is dropped.
#[derive(Debug)]
pub struct VcpuHandle {
    index: u8,
    commands: Sender<Command>,
    thread: Option<JoinHandle<()>>,
}

/// What a vCPU's thread works with.
#[derive(Debug, Clone)]
pub struct VcpuContext {
    /// What the guest reaches.
    pub buses: Arc<Buses>,
    /// The board, which knows what a vCPU's state is.
    pub platform: Arc<native::Platform>,
    /// Where events go.
    pub events: Sender<VcpuEvent>,
    /// Wakes the VMM's thread.
    pub wake: Arc<EventFd>,
    /// Shared by all vCPU threads' system-call filters; run once on each thread before the guest.
    pub on_start: fn(),
}

impl VcpuHandle {
    /// Starts the thread of a vCPU.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(index: u8, vcpu: VcpuFd, context: VcpuContext) -> Result<Self, VcpuError> {
        let (commands, received) = channel();
        let thread = std::thread::Builder::new()
            .name(format!("vcpu{index}"))
            .stack_size(256 << 10)
            .spawn(move || {
                (context.on_start)();
                Worker {
                    index,
                    vcpu,
                    context,
                    running: false,
                }
                .work(&received);
            })
            .map_err(VcpuError::Spawn)?;
        Ok(VcpuHandle {
            index,
            commands,
            thread: Some(thread),
        })
    }

    /// Sends a command and signals until it is answered, from `calm` after it on.
    fn ask<T>(&self, calm: Duration, command: impl FnOnce(SyncSender<T>) -> Command) -> Result<T, VcpuError> {
        let (reply, answer) = sync_channel(1);
        self.commands
            .send(command(reply))
            .map_err(|_| VcpuError::Ended(self.index))?;
        let begun = Instant::now();
        loop {
            let passed = begun.elapsed();
            let wait = if passed < calm {
                calm - passed
            } else {
                self.kick();
                SIGNAL_AGAIN
            };
            match answer.recv_timeout(wait) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Disconnected) => return Err(VcpuError::Ended(self.index)),
                Err(RecvTimeoutError::Timeout) if begun.elapsed() > PATIENCE => {
                    return Err(VcpuError::Stuck(self.index));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn kick(&self) {
        if let Some(thread) = &self.thread
            && !thread.is_finished()
        {
            // A thread that has just ended needs no signal.
            let _gone = thread.kill(kick::signal());
        }
    }

    /// Stops running the guest; returns when it does not run any more, with the last exit completed.
    ///
    /// # Errors
    /// See [`VcpuError`].
    pub fn pause(&self) -> Result<(), VcpuError> {
        self.ask(Duration::ZERO, Command::Pause)
    }

    /// Runs the guest.
    ///
    /// # Errors
    /// See [`VcpuError`].
    pub fn resume(&self) -> Result<(), VcpuError> {
        self.ask(CALM, Command::Resume)
    }

    /// Reads the state of a paused vCPU.
    ///
    /// # Errors
    /// See [`VcpuError`].
    pub fn save(&self) -> Result<native::VcpuState, VcpuError> {
        self.ask(CALM, Command::Save)?.map_err(|source| VcpuError::Save {
            vcpu: self.index,
            source,
        })
    }
}

impl Drop for VcpuHandle {
    fn drop(&mut self) {
        let _ended = self.commands.send(Command::Stop);
        let Some(thread) = self.thread.take() else { return };
        let begun = Instant::now();
        while !thread.is_finished() && begun.elapsed() < PATIENCE {
            let _gone = thread.kill(kick::signal());
            std::thread::sleep(Duration::from_micros(200));
        }
        if thread.is_finished() {
            let _panicked = thread.join();
        }
    }
}

struct Worker {
    index: u8,
    vcpu: VcpuFd,
    context: VcpuContext,
    running: bool,
}

/// The width in bytes of one access of an exit for port I/O.
#[expect(unsafe_code, reason = "the exit's fields are a union")]
fn access_width(vcpu: &mut VcpuFd) -> usize {
    // SAFETY: called right after an exit for port I/O, which has filled this member; any bits are a valid number.
    let width = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.io.size };
    usize::from(width)
}

/// Where the answer to an exit for port input goes, which the width had to be read around.
#[expect(unsafe_code, reason = "the exit borrows the vCPU for as long as it lives")]
fn answer_of(_vcpu: &mut VcpuFd, place: *mut [u8]) -> &mut [u8] {
    // SAFETY: it lies in the vCPU's page shared with KVM, which lives as long as the vCPU; the guest does not run, and nobody else has
    // a reference into it while the vCPU is borrowed.
    unsafe { &mut *place }
}

/// Whether the guest may go on.
enum Next {
    Run,
    /// It can't: the event was sent, and the vCPU waits for its end.
    Halt,
}

impl Worker {
    fn work(mut self, commands: &Receiver<Command>) {
        loop {
            let command = if self.running {
                commands.try_recv().ok()
            } else {
                match commands.recv() {
                    Ok(command) => Some(command),
                    Err(_) => return,
                }
            };
            match command {
                Some(Command::Pause(reply)) => {
                    self.complete_exit();
                    self.running = false;
                    let _nobody = reply.send(());
                }
                Some(Command::Resume(reply)) => {
                    // A guest that is not told takes the pause for a stuck CPU, and no worse.
                    let _untold = native::tell_of_pause(&self.vcpu);
                    self.running = true;
                    let _nobody = reply.send(());
                }
                Some(Command::Save(reply)) => {
                    let _nobody = reply.send(self.context.platform.save_vcpu(&self.vcpu));
                }
                Some(Command::Stop) => return,
                None => {
                    if let Next::Halt = self.run() {
                        self.running = false;
                    }
                }
            }
        }
    }

    /// Lets KVM finish the last exit without running the guest: until then the registers don't have what the guest has read
    /// (Documentation/virt/kvm/api.rst, KVM_RUN, the note on KVM_EXIT_IO and KVM_EXIT_MMIO).
    fn complete_exit(&mut self) {
        self.vcpu.set_kvm_immediate_exit(1);
        // An exit that spans pages comes in two parts; each must be answered. Two are the most.
        for _ in 0..4 {
            match self.step() {
                Step::Interrupted => break,
                Step::Done => {}
                // Said once only: it must not be lost because it came during a pause.
                Step::Event(event) => {
                    self.tell(event);
                    break;
                }
            }
        }
        self.vcpu.set_kvm_immediate_exit(0);
    }

    fn run(&mut self) -> Next {
        match self.step() {
            Step::Done | Step::Interrupted => Next::Run,
            Step::Event(event) => {
                self.tell(event);
                Next::Halt
            }
        }
    }

    fn tell(&self, event: VcpuEvent) {
        let _nobody = self.context.events.send(event);
        let _full = self.context.wake.write(1);
    }

    fn step(&mut self) -> Step {
        let buses = &self.context.buses;
        let failed = |why: String| Step::Event(VcpuEvent::Failed { vcpu: self.index, why });
        match self.vcpu.run() {
            Ok(VcpuExit::IoOut(port, data)) => {
                // Copied, because the width of one access is beside the data: `rep outs` comes as one exit with many.
                let data = data.to_vec();
                let width = access_width(&mut self.vcpu);
                buses.ports.write_each(u64::from(port), width, &data);
                Step::Done
            }
            Ok(VcpuExit::IoIn(port, data)) => {
                let place = std::ptr::from_mut(data);
                let width = access_width(&mut self.vcpu);
                buses
                    .ports
                    .read_each(u64::from(port), width, answer_of(&mut self.vcpu, place));
                Step::Done
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                buses.mmio.write(address, data);
                Step::Done
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                buses.mmio.read(address, data);
                Step::Done
            }
            // Without vCPUs in user space, HLT and WFI are the kernel's; this one means that there is no interrupt to wait for.
            Ok(VcpuExit::Hlt | VcpuExit::Intr | VcpuExit::IrqWindowOpen) => Step::Done,
            Ok(VcpuExit::Shutdown) => Step::Event(VcpuEvent::Reset),
            Ok(VcpuExit::SystemEvent(SYSTEM_EVENT_SHUTDOWN, _)) => Step::Event(VcpuEvent::Shutdown),
            Ok(VcpuExit::SystemEvent(SYSTEM_EVENT_RESET, _)) => Step::Event(VcpuEvent::Reset),
            Ok(VcpuExit::FailEntry(reason, cpu)) => failed(format!(
                "the host's processor refused to enter the guest: reason {reason:#x}, cpu {cpu}"
            )),
            Ok(VcpuExit::InternalError) => failed("KVM could not emulate an instruction of the guest".to_owned()),
            Ok(other) => failed(format!("an exit that is not expected: {other:?}")),
            Err(error) => match error.errno() {
                EINTR | EAGAIN => Step::Interrupted,
                errno => failed(format!("KVM_RUN: {}", io::Error::from_raw_os_error(errno))),
            },
        }
    }
}

enum Step {
    Done,
    Interrupted,
    Event(VcpuEvent),
}

const EINTR: i32 = rustix::io::Errno::INTR.raw_os_error();
const EAGAIN: i32 = rustix::io::Errno::AGAIN.raw_os_error();
