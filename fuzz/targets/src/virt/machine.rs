//! A device behind its registers, its memory, and a driver that does anything.

use std::sync::{Arc, Mutex, PoisonError};

use ringwall_arch::GuestRam;
use ringwall_devices::bus::SharedBusDevice as _;
use ringwall_devices::virtio::VirtioDevice;
use ringwall_devices::virtio::mmio::driver::MmioDriver;
use ringwall_devices::virtio::mmio::{MmioState, MmioTransport, MmioWindow};
use ringwall_devices::virtio::testing::{Buffer, DriverQueue, ram};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vm_memory::{Bytes as _, GuestAddress};

use super::input::Input;

/// Guest memory: rings first, then buffers.
pub(super) const MEMORY_BYTES: usize = 0x4_0000;
const RINGS: u64 = 0x1000;
const BUFFERS: u64 = 0x2_0000;
/// What one input may do.
const MOST_STEPS: usize = 200;
/// Calls of the event loop in one step.
const MOST_CALLS: usize = 16;

/// Makes the device under test, again after each restore.
pub(super) type Make<'a> = &'a dyn Fn() -> Box<dyn VirtioDevice>;

struct Machine<'a> {
    make: Make<'a>,
    memory: GuestRam,
    transport: Arc<Mutex<MmioTransport>>,
    window: MmioWindow,
    queues: Vec<DriverQueue>,
    next_buffer: u64,
}

/// Plays `data` to the device. What is outside of the machine acts when the input says so.
pub(super) fn play(make: Make<'_>, outside: &mut dyn FnMut(&mut Input<'_>), data: &[u8]) {
    let mut input = Input::new(data);
    let mut machine = Machine::new(make);
    machine.bring_up();
    for _ in 0..MOST_STEPS {
        if input.is_empty() {
            break;
        }
        machine.step(&mut input, outside);
    }
    // Whatever was done to it, it can be had back.
    machine.save_and_restore();
    machine.bring_up();
}

/// A device that goes on from a state that somebody made up, with memory that says anything.
pub(super) fn restore(make: Make<'_>, state: MmioState) {
    let mut machine = Machine::new(make);
    let is_taken = {
        let mut transport = machine.transport.lock().unwrap_or_else(PoisonError::into_inner);
        let is_taken = transport.restore(state).is_ok();
        transport.kick_all();
        is_taken
    };
    machine.turn();
    if is_taken {
        machine.save_and_restore();
    }
    machine.bring_up();
}

fn behind_registers(make: Make<'_>, memory: &GuestRam) -> (Arc<Mutex<MmioTransport>>, MmioWindow) {
    let transport = MmioTransport::new(make(), memory.clone()).expect("event descriptors");
    let transport = Arc::new(Mutex::new(transport));
    let window = MmioWindow::new(&transport);
    (transport, window)
}

impl<'a> Machine<'a> {
    /// A device that nothing was done to.
    fn new(make: Make<'a>) -> Self {
        let memory = ram(MEMORY_BYTES);
        let (transport, window) = behind_registers(make, &memory);
        Self {
            make,
            memory,
            transport,
            window,
            queues: Vec::new(),
            next_buffer: BUFFERS,
        }
    }

    fn step(&mut self, input: &mut Input<'_>, outside: &mut dyn FnMut(&mut Input<'_>)) {
        match input.byte() % 16 {
            0 => self.poke(input),
            1..=5 => self.submit(input),
            6 => {
                let number = usize::from(input.byte());
                if let Some(queue) = self.queues.get_mut(number % 4) {
                    queue.publish(input.u16());
                }
            }
            7 => {
                let (offset, width) = access(input);
                let value = input.array::<8>();
                self.window.write(offset, &value[..width]);
            }
            8 => {
                let (offset, width) = access(input);
                self.window.read(offset, &mut [0; 8][..width]);
            }
            9 => self.bring_up(),
            10 => self.save_and_restore(),
            11 | 12 => outside(input),
            _ => self.turn(),
        }
    }

    /// Writes anywhere into memory.
    fn poke(&mut self, input: &mut Input<'_>) {
        let address = u64::from(input.u32()) % MEMORY_BYTES as u64;
        let length = usize::from(input.byte() % 64);
        let _outside = self.memory.write_slice(input.take(length), GuestAddress(address));
    }

    /// Makes a chain available that is nearly right, and notifies.
    fn submit(&mut self, input: &mut Input<'_>) {
        let choice = input.byte();
        let number = choice % 4;
        let mut buffers = Vec::new();
        for _ in 0..=choice >> 4 & 3 {
            let kind = input.byte();
            let bytes = if kind & 1 == 0 {
                input.byte().into()
            } else {
                input.u16()
            };
            if self.next_buffer + u64::from(bytes) >= MEMORY_BYTES as u64 {
                self.next_buffer = BUFFERS;
            }
            let mut address = self.next_buffer;
            self.next_buffer += u64::from(bytes);
            if kind & 0x38 == 0x38 {
                // Anything, most likely none of memory.
                address = input.u64();
            }
            if kind & 2 == 0 {
                let _outside = self
                    .memory
                    .write_slice(input.take(usize::from(bytes).min(64)), GuestAddress(address));
                buffers.push(Buffer::readable(address, bytes.into()));
            } else {
                buffers.push(Buffer::writable(address, bytes.into()));
            }
        }
        if puts_readable_first(choice) {
            buffers.sort_by_key(|buffer| buffer.writable);
        }
        if let Some(queue) = self.queues.get_mut(usize::from(number)) {
            queue.add(&buffers);
            MmioDriver::new(&self.window).write(0x050, number.into());
        }
        if choice & 8 != 0 {
            self.turn();
        }
    }

    /// What the VMM's loop does, but not for ever.
    fn turn(&mut self) {
        let mut transport = self.transport.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..MOST_CALLS {
            let mut calls = 0;
            for number in 0..u16::try_from(transport.queue_events().len()).unwrap_or(0) {
                if transport.queue_events()[usize::from(number)].read().is_ok() {
                    transport.notified(number);
                    calls += 1;
                }
            }
            let readable: Vec<u32> = transport
                .sources()
                .iter()
                .filter(|source| {
                    let mut descriptors = [PollFd::from_borrowed_fd(source.descriptor, PollFlags::IN)];
                    poll(&mut descriptors, Some(&Timespec::default())).is_ok_and(|count| count > 0)
                })
                .map(|source| source.token)
                .collect();
            for token in readable {
                transport.ready(token);
                calls += 1;
            }
            if calls == 0 {
                break;
            }
        }
    }

    /// Resets and initialises, which always works.
    fn bring_up(&mut self) {
        let zeros = vec![0; usize::try_from(BUFFERS - RINGS).unwrap_or(0)];
        MmioDriver::new(&self.window).write(0x070, 0);
        self.memory
            .write_slice(&zeros, GuestAddress(RINGS))
            .expect("the rings are in memory");
        self.queues = MmioDriver::new(&self.window).bring_up(&self.memory, RINGS, 0);
    }

    /// Goes on in a new machine with the same memory; its own state always fits.
    fn save_and_restore(&mut self) {
        let state = {
            let mut transport = self.transport.lock().unwrap_or_else(PoisonError::into_inner);
            transport.quiesce().expect("the host did not fail");
            transport.save()
        };
        let (transport, window) = behind_registers(self.make, &self.memory);
        {
            let mut transport = transport.lock().unwrap_or_else(PoisonError::into_inner);
            transport.restore(state).expect("its own state");
            transport.kick_all();
        }
        self.transport = transport;
        self.window = window;
    }
}

/// Whether a chain's readable buffers are put first.
fn puts_readable_first(choice: u8) -> bool {
    choice & 0xc0 != 0xc0
}

/// Where and how wide a register is accessed.
fn access(input: &mut Input<'_>) -> (u64, usize) {
    let (offset, width) = (input.u16(), input.byte());
    let offset = if width & 0x80 == 0 {
        (offset % 0x120) & !3
    } else {
        offset % 0x1000
    };
    let width = if width & 0x40 == 0 {
        4
    } else {
        usize::from(width % 8) + 1
    };
    (offset.into(), width)
}
