//! Linux itself boots on the board: it finds all vCPUs, its interrupt controller, timer, serial port and clock by our tables, and ends
//! by them. Needs `RINGWALL_TEST_KERNEL` (a kernel for this architecture) and `RINGWALL_TEST_INITRD` (whose init prints "GUEST READY"
//! and switches the machine off), and a KVM that runs ordinary guests.

use std::fs::File;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use kvm_ioctls::{VcpuExit, VcpuFd};
use ringwall_arch::native::{self, layout};
use ringwall_arch::{Architecture, Reachable};

use crate::machine::Machine;

const RAM_BYTES: u64 = 256 << 20;
const VCPUS: u8 = 2;
/// Emulation below emulation is slow, and on a busy machine its clock runs several times too fast.
const TIME_LIMIT: Duration = Duration::from_secs(900);

/// What a vCPU's thread tells.
enum Event {
    Serial(u8),
    Off,
    Failed(String),
}

#[test]
fn linux_boots_and_switches_off() {
    let Some(kvm) = crate::kvm("Linux") else { return };
    let (Ok(kernel), Ok(initrd)) = (
        std::env::var("RINGWALL_TEST_KERNEL"),
        std::env::var("RINGWALL_TEST_INITRD"),
    ) else {
        println!("SKIPPED: Linux: RINGWALL_TEST_KERNEL and RINGWALL_TEST_INITRD are not set");
        return;
    };
    let mut machine = Machine::with_ram(&kvm, VCPUS, RAM_BYTES);
    let open = |path: &str| {
        let file = File::open(path).unwrap();
        let length = file.metadata().unwrap().len();
        (file, length)
    };
    let (mut file, length) = open(&kernel);
    let loaded = native::load_kernel(&machine.ram, &mut file, length).unwrap();
    let (mut file, length) = open(&initrd);
    let initrd = native::load_initrd(&machine.ram, &mut file, length, &loaded).unwrap();
    let early = match layout::serial() {
        Reachable::Port(slot) => format!("uart8250,io,{:#x}", slot.base),
        Reachable::Memory(slot) => format!("uart8250,mmio,{:#x}", slot.base),
    };
    let boot = machine.write_tables(
        &loaded,
        Some(initrd),
        &format!("earlycon={early} console=ttyS0 printk.devkmsg=on panic=-1 reboot=a"),
    );
    native::set_boot_registers(&machine.vcpus[0], &boot).unwrap();

    let (events, received) = channel();
    for vcpu in std::mem::take(&mut machine.vcpus) {
        let events = events.clone();
        // Left alone at the end: a halted vCPU waits in the kernel until the process ends.
        drop(thread::spawn(move || run(vcpu, &events)));
    }
    let (mut seen, start) = (String::new(), Instant::now());
    loop {
        match received.recv_timeout(TIME_LIMIT.saturating_sub(start.elapsed())) {
            Ok(Event::Serial(byte)) => seen.push(char::from(byte)),
            Ok(Event::Off) => break,
            Ok(Event::Failed(why)) => panic!("{why} after:\n{seen}"),
            Err(_) => panic!("time is up after:\n{seen}"),
        }
    }
    println!("{seen}");
    assert!(seen.contains("GUEST READY"), "{seen}");
    assert!(seen.contains("GUEST CPUS 2"), "{seen}");
    // The vCPUs' threads still know the memory.
    std::mem::forget(machine);
}

/// Runs a vCPU until the machine is off.
fn run(mut vcpu: VcpuFd, events: &Sender<Event>) {
    loop {
        let event = match vcpu.run() {
            Ok(VcpuExit::IoOut(port, data)) => port_write(port, data),
            Ok(VcpuExit::IoIn(port, data)) => {
                data.fill(serial_read(port.wrapping_sub(0x3f8).into()));
                None
            }
            Ok(VcpuExit::MmioWrite(address, data)) => match layout::serial() {
                Reachable::Memory(slot) if address == slot.base => data.first().copied().map(Event::Serial),
                _ => None,
            },
            Ok(VcpuExit::MmioRead(address, data)) => {
                data.fill(0);
                if let (Reachable::Memory(slot), Some(first)) = (layout::serial(), data.first_mut()) {
                    *first = if slot.range().contains(&address) {
                        serial_read(address - slot.base)
                    } else {
                        0
                    };
                }
                None
            }
            Ok(VcpuExit::SystemEvent(..) | VcpuExit::Shutdown) => Some(Event::Off),
            Ok(exit) => Some(Event::Failed(format!("{exit:?}"))),
            Err(error) if [4, 11].contains(&error.errno()) => None, // EINTR, EAGAIN
            Err(error) => Some(Event::Failed(error.to_string())),
        };
        let last = matches!(event, Some(Event::Off | Event::Failed(_)));
        if event.is_some_and(|event| events.send(event).is_err()) || last {
            return;
        }
    }
}

/// A 16550 that is always ready to send: line status, modem status, no interrupt pending.
const fn serial_read(register: u64) -> u8 {
    match register {
        2 => 1,
        5 => 0x60,
        6 => 0xb0,
        _ => 0,
    }
}

/// A byte of the serial port's, ACPI's wish to sleep, or the keyboard controller's reset.
fn port_write(port: u16, data: &[u8]) -> Option<Event> {
    match (Architecture::NATIVE, port, data) {
        (Architecture::X86_64, 0x3f8, [byte]) => Some(Event::Serial(*byte)),
        (Architecture::X86_64, 0x610, [0x34]) | (Architecture::X86_64, 0x64, [0xfe]) => Some(Event::Off),
        _ => None,
    }
}
