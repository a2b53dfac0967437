//! A virtual machine with nothing but a serial port that is listened to.

use std::io::Cursor;
use std::ops::Range;
use std::time::{Duration, Instant};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use ringwall_arch::native::{self, LoadedKernel, Platform, PlatformOptions, layout};
use ringwall_arch::{Architecture, Board, GuestRam, Reachable, anonymous_ram};
use serde_json::Value;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

const RAM_BYTES: u64 = 64 << 20;

/// A virtual machine; dropped in this order, so that memory outlives what KVM knows of it.
pub(crate) struct Machine {
    pub(crate) vcpus: Vec<VcpuFd>,
    pub(crate) platform: Platform,
    pub(crate) vm: VmFd,
    pub(crate) ram: GuestRam,
    ram_bytes: u64,
}

/// A snapshot.
pub(crate) struct Saved {
    pub(crate) vcpus: Vec<String>,
    pub(crate) platform: String,
    pub(crate) memory: Vec<u8>,
    /// When the last clock of it was read.
    pub(crate) read_at: Instant,
}

impl Machine {
    pub(crate) fn new(kvm: &Kvm, vcpus: u8) -> Self {
        Self::with_ram(kvm, vcpus, RAM_BYTES)
    }

    pub(crate) fn with_ram(kvm: &Kvm, vcpus: u8, ram_bytes: u64) -> Self {
        let mut machine = Self::made(kvm, vcpus, ram_bytes);
        for (index, vcpu) in machine.vcpus.iter().enumerate() {
            for warning in machine.platform.prepare_vcpu(vcpu, index as u8).unwrap() {
                println!("warning: {warning}");
            }
        }
        machine.platform.finish(&machine.vm, &machine.vcpus).unwrap();
        machine
    }

    /// One whose vCPUs are as KVM makes them.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn unprepared(kvm: &Kvm, vcpus: u8) -> Self {
        Self::made(kvm, vcpus, RAM_BYTES)
    }

    fn made(kvm: &Kvm, vcpus: u8, ram_bytes: u64) -> Self {
        native::check(kvm).unwrap();
        let vm = kvm.create_vm().unwrap();
        let platform = Platform::create(kvm, &vm, PlatformOptions { vcpus }).unwrap();
        let ram = anonymous_ram(&layout::ram_regions(ram_bytes)).unwrap();
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
        Self {
            vcpus: fds,
            platform,
            vm,
            ram,
            ram_bytes,
        }
    }

    /// Loads a kernel and makes the boot vCPU ready to run it.
    pub(crate) fn boot(&self, kernel: &[u8]) {
        let loaded = native::load_kernel(&self.ram, &mut Cursor::new(kernel), kernel.len() as u64).unwrap();
        let boot = self.write_tables(&loaded, None, "console=ttyS0");
        native::set_boot_registers(&self.vcpus[0], &boot).unwrap();
    }

    pub(crate) fn write_tables(
        &self,
        kernel: &LoadedKernel,
        initrd: Option<Range<u64>>,
        command_line: &str,
    ) -> native::BootInfo {
        let virtio: Vec<_> = (0..2).filter_map(layout::virtio_mmio).collect();
        let board = Board {
            vcpus: self.vcpus.len() as u8,
            ram_bytes: self.ram_bytes,
            command_line,
            initrd,
            virtio: &virtio,
            gic: self.platform.gic(),
            serial: true,
            keyboard: true,
            vmgenid: true,
            performance_monitor: self.platform.has_performance_monitor(),
            rng_seed: &[7; 32],
        };
        native::write_boot_tables(&self.ram, &board, kernel).unwrap()
    }

    pub(crate) fn memory(&self, address: u64, bytes: usize) -> Vec<u8> {
        let mut memory = vec![0; bytes];
        self.ram.read_slice(&mut memory, GuestAddress(address)).unwrap();
        memory
    }

    /// Runs the boot vCPU until it has written so many bytes to the serial port.
    pub(crate) fn serial(&mut self, bytes: usize) -> String {
        let mut seen = Vec::new();
        while seen.len() < bytes {
            match (self.vcpus[0].run().unwrap(), layout::serial()) {
                (VcpuExit::IoOut(port, data), Reachable::Port(slot)) if port == slot.base => {
                    seen.extend_from_slice(data)
                }
                (VcpuExit::MmioWrite(address, data), Reachable::Memory(slot)) if address == slot.base => {
                    seen.extend_from_slice(data)
                }
                (exit, _) => panic!("the guest wanted {exit:?} after {:?}", String::from_utf8_lossy(&seen)),
            }
        }
        String::from_utf8(seen).unwrap()
    }

    /// Has a virtio device interrupt once; nobody in the guest listens, so that the interrupt stays pending.
    pub(crate) fn interrupt(&self) {
        let gsi = layout::virtio_mmio(10).unwrap().gsi;
        // aarch64: an SPI by the GIC's own number (Documentation/virt/kvm/api.rst, `KVM_IRQ_LINE`).
        let line = if Architecture::NATIVE == Architecture::Aarch64 {
            1 << 24 | (gsi + 32)
        } else {
            gsi
        };
        self.vm.set_irq_line(line, true).unwrap();
        self.vm.set_irq_line(line, false).unwrap();
    }

    pub(crate) fn save(&mut self) -> Saved {
        // The last exit is completed before anything is read.
        self.vcpus[0].set_kvm_immediate_exit(1);
        assert_eq!(self.vcpus[0].run().unwrap_err().errno(), 4, "EINTR");
        self.vcpus[0].set_kvm_immediate_exit(0);
        let vcpus = self
            .vcpus
            .iter()
            .map(|vcpu| serde_json::to_string(&self.platform.save_vcpu(vcpu).unwrap()).unwrap());
        let vcpus = vcpus.collect();
        let platform = serde_json::to_string(&self.platform.save(&self.vm).unwrap()).unwrap();
        let read_at = Instant::now();
        let start = layout::ram_regions(RAM_BYTES)[0].0.0;
        Saved {
            vcpus,
            platform,
            memory: self.memory(start, RAM_BYTES as usize),
            read_at,
        }
    }

    /// Restores all; returns when time was, which goes on from then.
    pub(crate) fn restore(&self, saved: &Saved, passed: Duration) -> Instant {
        self.ram
            .write_slice(&saved.memory, layout::ram_regions(RAM_BYTES)[0].0)
            .unwrap();
        for (vcpu, state) in self.vcpus.iter().zip(&saved.vcpus) {
            self.platform
                .restore_vcpu(vcpu, &serde_json::from_str(state).unwrap())
                .unwrap();
        }
        let platform = serde_json::from_str(&saved.platform).unwrap();
        self.platform.restore(&self.vm, &platform).unwrap();
        let states: Vec<_> = saved
            .vcpus
            .iter()
            .map(|state| serde_json::from_str(state).unwrap())
            .collect();
        let begun = Instant::now();
        self.platform
            .restore_time(&self.vm, &self.vcpus, &states, &platform, passed)
            .unwrap();
        for vcpu in &self.vcpus {
            native::tell_of_pause(vcpu).unwrap();
        }
        begun
    }
}

/// In which parts two snapshots differ, but for what time changes: counters, and what hangs on them.
pub(crate) fn differences(left: &Saved, right: &Saved) -> Vec<String> {
    let parts = |saved: &Saved| -> Vec<Value> {
        let texts = saved.vcpus.iter().chain([&saved.platform]);
        texts
            .map(|text| serde_json::from_str(text).unwrap())
            .map(without_time)
            .collect()
    };
    let mut differences = Vec::new();
    for (index, (left, right)) in parts(left).into_iter().zip(parts(right)).enumerate() {
        for (name, value) in left.as_object().unwrap() {
            compare(&format!("{index} {name}"), value, &right[name], &mut differences);
        }
    }
    differences
}

/// Looks for the smallest parts that differ.
fn compare(name: &str, left: &Value, right: &Value, differences: &mut Vec<String>) {
    match (left, right) {
        (Value::Array(lefts), Value::Array(rights)) if lefts.len() == rights.len() && lefts.len() > 2 => {
            for (index, (left, right)) in lefts.iter().zip(rights).enumerate() {
                compare(&format!("{name}[{index}]"), left, right, differences);
            }
        }
        (Value::Object(lefts), Value::Object(rights)) => {
            for (key, left) in lefts {
                compare(
                    &format!("{name}.{key}"),
                    left,
                    rights.get(key).unwrap_or(&Value::Null),
                    differences,
                );
            }
        }
        _ if left != right => differences.push(format!("{name}: {left} / {right}")),
        _ => {}
    }
}

fn without_time(mut state: Value) -> Value {
    let all = state.as_object_mut().unwrap();
    all.remove("clock");
    all.remove("tsc_offset");
    for (list, times) in [("msrs", TIMES_X86_64), ("registers", TIMES_AARCH64)] {
        if let Some(Value::Array(values)) = all.get_mut(list) {
            values.retain(|value| !times.contains(&value[0].as_u64().unwrap()));
        }
    }
    state
}

/// `IA32_TIME_STAMP_COUNTER`.
const TIMES_X86_64: &[u64] = &[0x10];
/// `KVM_REG_ARM_TIMER_CNT` and `KVM_REG_ARM_PTIMER_CNT`.
const TIMES_AARCH64: &[u64] = &[0x6030_0000_0013_df1a, 0x6030_0000_0013_df01];

/// Spoils of a vCPU's state, by name.
pub(crate) fn forgeries(vcpu: &str) -> Vec<(&'static str, String)> {
    let good: Value = serde_json::from_str(vcpu).unwrap();
    let spoil = |change: &dyn Fn(&mut Value)| {
        let mut state = good.clone();
        change(&mut state);
        state.to_string()
    };
    vec![
        ("truncated", vcpu[..vcpu.len() / 2].to_owned()),
        ("an unknown field", spoil(&|state| state["extra"] = 1.into())),
        (
            "a field missing",
            spoil(&|state| drop(state.as_object_mut().unwrap().remove("mp_state"))),
        ),
        #[cfg(target_arch = "x86_64")]
        ("registers too short", spoil(&|state| state["regs"] = "00".into())),
        #[cfg(target_arch = "x86_64")]
        (
            "too many MSRs",
            spoil(&|state| state["msrs"] = vec![Value::from(vec![0x10, 0]); 257].into()),
        ),
        #[cfg(target_arch = "x86_64")]
        (
            "an unknown MSR",
            spoil(&|state| state["msrs"] = vec![Value::from(vec![0xdead_beef_u32, 0])].into()),
        ),
        #[cfg(target_arch = "x86_64")]
        (
            "too much XSAVE",
            spoil(&|state| state["xsave"] = "ff".repeat(65536).into()),
        ),
        #[cfg(target_arch = "x86_64")]
        (
            "an impossible processor state",
            spoil(&|state| state["mp_state"] = "ffffffff".into()),
        ),
        #[cfg(target_arch = "aarch64")]
        (
            "a register too short",
            spoil(&|state| state["registers"][0][1] = "00".into()),
        ),
        #[cfg(target_arch = "aarch64")]
        (
            "an unknown register",
            spoil(&|state| state["registers"][0][0] = 1.into()),
        ),
        #[cfg(target_arch = "aarch64")]
        (
            "too many registers",
            spoil(&|state| {
                let first = state["registers"][0].clone();
                state["registers"] = vec![first; 1025].into();
            }),
        ),
    ]
}
