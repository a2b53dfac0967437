//! The transport under a real guest on x86_64: a program of a few instructions brings a device up, notifies it without leaving the kernel,
//! and is interrupted by it.
#![expect(unsafe_code, reason = "guest memory is given to KVM by its address")]

use std::fs::OpenOptions;
use std::io;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use kvm_bindings::{KVM_IRQCHIP_PIC_MASTER, kvm_irqchip, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{IoEventAddress, Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend as _};

use crate::bus::Bus;
use crate::virtio::mmio::driver::offsets;
use crate::virtio::mmio::{MmioTransport, MmioWindow, NOTIFY_OFFSET, WINDOW_BYTES};
use crate::virtio::rng::{Entropy, Rng};
use crate::virtio::testing::{Buffer, DriverQueue, Used, ram};

const MEMORY_BYTES: usize = 1 << 20;
/// Where the program, the rings and the device are.
const PROGRAM: u64 = 0x1000;
const RINGS: u64 = 0x2000;
const BUFFER: u64 = 0x8000;
const DEVICE: u64 = 0xd000_0000;
/// An interrupt line of the first PIC that nothing else has.
const LINE: u32 = 5;
/// The guest reports values by this port, and ends by the other.
const REPORT: u8 = 0x80;
const END: u8 = 0x81;

#[derive(Debug)]
struct Constant;

impl Entropy for Constant {
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        buffer.fill(0xa5);
        Ok(())
    }
}

/// Machine code of a guest in 32-bit mode (Intel SDM vol. 2).
#[derive(Default)]
struct Program(Vec<u8>);

impl Program {
    fn word(&mut self, word: u32) {
        self.0.extend(word.to_le_bytes());
    }

    /// `mov dword [address], value`
    fn write(&mut self, offset: u64, value: u32) {
        self.0.extend([0xc7, 0x05]);
        self.word(u32::try_from(DEVICE + offset).unwrap());
        self.word(value);
    }

    /// `mov eax, [address]; out REPORT, eax`
    fn report(&mut self, offset: u64) {
        self.0.push(0xa1);
        self.word(u32::try_from(DEVICE + offset).unwrap());
        self.0.extend([0xe7, REPORT]);
    }

    /// `out END, eax`
    fn end(&mut self) {
        self.0.extend([0xe7, END]);
    }
}

struct Guest {
    vcpu: VcpuFd,
    vm: VmFd,
    bus: Bus,
    notifications_seen: u32,
}

impl Guest {
    fn new(kvm: &Kvm, memory: &ringwall_arch::GuestRam, bus: Bus) -> Self {
        let vm = kvm.create_vm().unwrap();
        vm.create_irq_chip().unwrap();
        let slot = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: MEMORY_BYTES as u64,
            userspace_addr: memory.get_host_address(GuestAddress(0)).unwrap() as u64,
        };
        // SAFETY: the test keeps `memory` until after the guest is dropped.
        unsafe { vm.set_user_memory_region(slot) }.unwrap();
        let vcpu = vm.create_vcpu(0).unwrap();
        let mut special = vcpu.get_sregs().unwrap();
        let flat = |selector, kind| kvm_segment {
            base: 0,
            limit: u32::MAX,
            selector,
            type_: kind,
            present: 1,
            dpl: 0,
            db: 1,
            s: 1,
            l: 0,
            g: 1,
            ..kvm_segment::default()
        };
        special.cs = flat(8, 0xb);
        let data = flat(16, 0x3);
        (special.ds, special.es, special.ss) = (data, data, data);
        special.cr0 |= 1;
        vcpu.set_sregs(&special).unwrap();
        Guest {
            vcpu,
            vm,
            bus,
            notifications_seen: 0,
        }
    }

    /// Runs a program to its end and returns what it reported.
    fn run(&mut self, memory: &ringwall_arch::GuestRam, program: &Program) -> Vec<u32> {
        memory.write_slice(&program.0, GuestAddress(PROGRAM)).unwrap();
        let mut registers = self.vcpu.get_regs().unwrap();
        registers.rip = PROGRAM;
        registers.rflags = 2;
        self.vcpu.set_regs(&registers).unwrap();
        let mut reports = Vec::new();
        loop {
            match self.vcpu.run().unwrap() {
                VcpuExit::MmioRead(address, data) => assert!(self.bus.read(address, data)),
                VcpuExit::MmioWrite(address, data) => {
                    self.notifications_seen += u32::from(address == DEVICE + NOTIFY_OFFSET);
                    assert!(self.bus.write(address, data));
                }
                VcpuExit::IoOut(port, _) if port == u16::from(END) => return reports,
                VcpuExit::IoOut(port, data) if port == u16::from(REPORT) => {
                    reports.push(u32::from_le_bytes(data.try_into().unwrap()));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// KVM may interrupt from a worker (virt/kvm/eventfd.c, `irqfd_inject`).
    fn wait_for_interrupt(&self) {
        let patience = Instant::now() + Duration::from_secs(10);
        while !self.is_interrupted() {
            assert!(Instant::now() < patience, "no interrupt");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether the interrupt controller has seen an edge on the device's line.
    fn is_interrupted(&self) -> bool {
        let mut chip = kvm_irqchip {
            chip_id: KVM_IRQCHIP_PIC_MASTER,
            ..kvm_irqchip::default()
        };
        self.vm.get_irqchip(&mut chip).unwrap();
        // SAFETY: KVM has filled in the state of the kind of chip that was asked for, a PIC's; any bytes are one.
        let pic = unsafe { chip.chip.pic };
        pic.irr >> LINE & 1 == 1
    }
}

#[test]
fn a_guest_uses_a_device() {
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        println!("SKIPPED: /dev/kvm can't be opened: {error}");
        return;
    }
    let kvm = Kvm::new().unwrap();
    let memory = ram(MEMORY_BYTES);
    let device = Rng::new(Box::new(Constant)).unwrap();
    let transport = Arc::new(Mutex::new(
        MmioTransport::new(Box::new(device), memory.clone()).unwrap(),
    ));
    let mut bus = Bus::new();
    bus.insert_shared(DEVICE, WINDOW_BYTES, Arc::new(MmioWindow::new(&transport)))
        .unwrap();
    let mut guest = Guest::new(&kvm, &memory, bus);
    {
        let transport = transport.lock().unwrap();
        let notify = IoEventAddress::Mmio(DEVICE + NOTIFY_OFFSET);
        guest
            .vm
            .register_ioevent(&transport.queue_events()[0], &notify, 0_u32)
            .unwrap();
        guest.vm.register_irqfd(transport.interrupt_event(), LINE).unwrap();
    }

    let mut queue = DriverQueue::new(&memory, RINGS, 64);
    let mut program = Program::default();
    program.report(offsets::MAGIC);
    for status in [0, 1, 3] {
        program.write(offsets::STATUS, status);
    }
    program.write(offsets::DRIVER_FEATURES_SELECT, 1);
    program.write(offsets::DRIVER_FEATURES, 1);
    program.write(offsets::STATUS, 0xb);
    program.report(offsets::STATUS);
    program.report(offsets::QUEUE_SIZE_MAX);
    program.write(offsets::QUEUE_SIZE, 64);
    for (offset, address) in offsets::RINGS
        .into_iter()
        .zip([queue.table, queue.available, queue.used])
    {
        program.write(offset, u32::try_from(address).unwrap());
    }
    program.write(offsets::QUEUE_READY, 1);
    program.report(offsets::QUEUE_READY);
    program.write(offsets::STATUS, 0xf);
    program.report(offsets::STATUS);
    program.end();
    let magic = u32::from_le_bytes(*b"virt");
    assert_eq!(guest.run(&memory, &program), [magic, 0xb, 64, 1, 0xf]);
    assert!(transport.lock().unwrap().is_active());

    // Notified inside the kernel, interrupted by it.
    let head = queue.add(&[Buffer::writable(BUFFER, 100)]);
    let mut program = Program::default();
    program.write(offsets::NOTIFY, 0);
    program.end();
    guest.run(&memory, &program);
    assert_eq!(guest.notifications_seen, 0);
    assert!(!guest.is_interrupted());
    {
        let mut transport = transport.lock().unwrap();
        assert_eq!(transport.queue_events()[0].read().unwrap(), 1);
        transport.notified(0);
    }
    let answer = Used {
        head: head.into(),
        written: 100,
    };
    assert_eq!(queue.take_used(), [answer]);
    let mut filled = [0; 101];
    memory.read_slice(&mut filled, GuestAddress(BUFFER)).unwrap();
    assert_eq!((filled[0], filled[99], filled[100]), (0xa5, 0xa5, 0));
    guest.wait_for_interrupt();
    let mut program = Program::default();
    program.report(offsets::INTERRUPT_STATUS);
    program.write(offsets::INTERRUPT_ACKNOWLEDGE, 1);
    program.report(offsets::INTERRUPT_STATUS);
    program.end();
    assert_eq!(guest.run(&memory, &program), [1, 0]);

    // Restored into another VM: what was not notified of is done, and the guest is interrupted although nothing was registered yet.
    let head = queue.add(&[Buffer::writable(BUFFER, 50)]);
    let state = transport.lock().unwrap().save();
    let device = Rng::new(Box::new(Constant)).unwrap();
    let mut restored = MmioTransport::new(Box::new(device), memory.clone()).unwrap();
    restored.restore(state).unwrap();
    restored.kick_all();
    let other = Guest::new(&kvm, &memory, Bus::new());
    assert!(!other.is_interrupted());
    other.vm.register_irqfd(restored.interrupt_event(), LINE).unwrap();
    restored.notified(0);
    let answer = Used {
        head: head.into(),
        written: 50,
    };
    assert_eq!(queue.take_used(), [answer]);
    other.wait_for_interrupt();
}
