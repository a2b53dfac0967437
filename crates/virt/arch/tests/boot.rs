//! A guest of our own boots, natively: what the pure tests can't show, that KVM and a processor take the values.
#![cfg(target_arch = "x86_64")]
#![expect(unsafe_code, reason = "guest memory is given to KVM by its address")]
#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    reason = "a test: it may panic and print, and its numbers are small"
)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use ringwall_arch::native::{self, Platform, PlatformOptions, layout};
use ringwall_arch::{Board, GuestRam, anonymous_ram};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

const RAM_BYTES: u64 = 64 << 20;
const SERIAL_PORT: u16 = 0x3f8;

/// A virtual machine; dropped in this order, so that memory outlives what KVM knows of it.
struct Machine {
    vcpus: Vec<VcpuFd>,
    platform: Platform,
    vm: VmFd,
    ram: GuestRam,
}

fn kvm() -> Option<Kvm> {
    match Kvm::new() {
        Ok(kvm) => Some(kvm),
        Err(error) => {
            println!("SKIPPED: no /dev/kvm: {error}");
            None
        }
    }
}

/// Assembles and links a payload.
fn payload(name: &str) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/payload");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.elf", std::process::id()));
    let status = Command::new("gcc")
        .args([
            "-nostdlib",
            "-static",
            "-no-pie",
            "-Wl,-z,noexecstack",
            "-Wl,--no-warn-rwx-segments",
            "-Wl,--build-id=none",
            "-o",
        ])
        .arg(&target)
        .arg(sources.join(format!("{name}.S")))
        .arg("-T")
        .arg(sources.join("payload.ld"))
        .status()
        .expect("gcc is needed to assemble the payload");
    assert!(status.success(), "the payload is not assembled: {status}");
    target
}

impl Machine {
    fn new(kvm: &Kvm, vcpus: u8) -> Self {
        native::check(kvm).unwrap();
        let vm = kvm.create_vm().unwrap();
        let mut platform = Platform::create(kvm, &vm, PlatformOptions { vcpus }).unwrap();
        let ram = anonymous_ram(&layout::ram_regions(RAM_BYTES)).unwrap();
        for (slot, region) in ram.iter().enumerate() {
            let region = kvm_userspace_memory_region {
                slot: slot as u32,
                flags: 0,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            };
            // SAFETY: the region is mapped for as long as `ram` lives, which is dropped after `vm`.
            unsafe { vm.set_user_memory_region(region) }.unwrap();
        }
        let fds: Vec<_> = (0..vcpus).map(|index| vm.create_vcpu(index.into()).unwrap()).collect();
        for (index, vcpu) in fds.iter().enumerate() {
            platform.prepare_vcpu(vcpu, index as u8).unwrap();
        }
        platform.finish(&vm, &fds).unwrap();
        Self {
            vcpus: fds,
            platform,
            vm,
            ram,
        }
    }

    fn boot(&self, kernel: &Path) {
        let mut file = File::open(kernel).unwrap();
        let length = file.metadata().unwrap().len();
        let kernel = native::load_kernel(&self.ram, &mut file, length).unwrap();
        let virtio: Vec<_> = (0..2).filter_map(layout::virtio_mmio).collect();
        let board = Board {
            vcpus: self.vcpus.len() as u8,
            ram_bytes: RAM_BYTES,
            command_line: "console=ttyS0",
            initrd: None,
            virtio: &virtio,
            gic: self.platform.gic(),
            serial: true,
            keyboard: true,
            vmgenid: true,
            performance_monitor: false,
            rng_seed: &[7; 32],
        };
        let boot = native::write_boot_tables(&self.ram, &board, &kernel).unwrap();
        native::set_boot_registers(&self.vcpus[0], &boot).unwrap();
    }

    /// Runs the boot vCPU until it has written so many bytes to the serial port.
    fn serial(&mut self, bytes: usize) -> String {
        let mut seen = Vec::new();
        while seen.len() < bytes {
            match self.vcpus[0].run().unwrap() {
                VcpuExit::IoOut(SERIAL_PORT, data) => seen.extend_from_slice(data),
                exit => panic!("the guest wanted {exit:?} after {:?}", String::from_utf8_lossy(&seen)),
            }
        }
        String::from_utf8(seen).unwrap()
    }
}

#[test]
fn a_kernel_boots_by_pvh() {
    let Some(kvm) = kvm() else { return };
    let mut machine = Machine::new(&kvm, 1);
    machine.boot(&payload("boot"));
    assert_eq!(machine.serial(9), "KBOOT\nabc");
    let _: &VmFd = &machine.vm;
}

#[test]
fn a_saved_guest_goes_on_in_another_machine() {
    let Some(kvm) = kvm() else { return };
    let mut first = Machine::new(&kvm, 2);
    first.boot(&payload("boot"));
    assert_eq!(first.serial(6), "KBOOT\n");
    // The last `out` is completed before anything is read.
    first.vcpus[0].set_kvm_immediate_exit(1);
    assert_eq!(first.vcpus[0].run().unwrap_err().errno(), 4, "EINTR");
    let vcpus: Vec<String> = first
        .vcpus
        .iter()
        .map(|vcpu| serde_json::to_string(&first.platform.save_vcpu(vcpu).unwrap()).unwrap())
        .collect();
    let platform = serde_json::to_string(&first.platform.save(&first.vm).unwrap()).unwrap();
    let memory: Vec<u8> = {
        let mut bytes = vec![0; RAM_BYTES as usize];
        first.ram.read_slice(&mut bytes, GuestAddress(0)).unwrap();
        bytes
    };
    drop(first);

    let mut second = Machine::new(&kvm, 2);
    second.ram.write_slice(&memory, GuestAddress(0)).unwrap();
    for (vcpu, state) in second.vcpus.iter().zip(&vcpus) {
        second
            .platform
            .restore_vcpu(vcpu, &serde_json::from_str(state).unwrap())
            .unwrap();
    }
    second
        .platform
        .restore(&second.vm, &serde_json::from_str(&platform).unwrap())
        .unwrap();
    for vcpu in &second.vcpus {
        native::tell_of_pause(vcpu).unwrap();
    }
    assert_eq!(second.serial(27), "abcdefghijklmnopqrstuvwxyza");
}
