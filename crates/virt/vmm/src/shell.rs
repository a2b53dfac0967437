//! A VM without contents: KVM's objects, guest memory and vCPUs. Making one costs what KVM makes it wait for (memory slots and the interrupt
//! controllers, milliseconds on some hosts), so it can be made before it is known what it will run.
#![expect(unsafe_code, reason = "guest memory is given to KVM by its address")]

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use ringwall_arch::GuestRam;
use ringwall_arch::native::{self, Platform, PlatformOptions, layout};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use vm_memory::{GuestMemoryBackend as _, GuestMemoryRegion as _};

use crate::memory::{self, MemoryError, MemoryOptions};

/// What kind of VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShellOptions {
    /// 1 to 32.
    pub vcpus: u8,
    /// In bytes; whole pages.
    pub ram_bytes: u64,
    /// How the memory is made.
    pub memory: MemoryOptions,
}

/// Why there is no VM.
#[derive(Debug, Error)]
pub enum PrepareError {
    /// `/dev/kvm` lacks something.
    #[error("this host's KVM can't be used")]
    Capability(#[from] native::MissingCapability),
    /// A call to KVM failed.
    #[error("{what}")]
    Kvm {
        /// What was being done.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// No memory for the guest.
    #[error("no memory for the guest")]
    Memory(#[from] MemoryError),
    /// Interrupt controllers and timers.
    #[error("the board can't be made")]
    Platform(#[from] native::PlatformError),
    /// A vCPU.
    #[error("vCPU {index} can't be made")]
    Vcpu {
        /// Which.
        index: u8,
        /// Why.
        #[source]
        source: native::VcpuError,
    },
    /// More memory than the architecture's addresses have room for.
    #[error("{0} bytes of memory can't be laid out")]
    Layout(u64),
}

fn kvm_error(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> PrepareError {
    move |source| PrepareError::Kvm { what, source }
}

/// A VM without contents. Dropped in this order: memory outlives what KVM knows of it.
#[derive(Debug)]
pub struct Shell {
    /// Its vCPUs, as after a reset.
    pub vcpus: Vec<VcpuFd>,
    /// Interrupt controllers and timers.
    pub platform: Platform,
    /// KVM's object.
    pub vm: VmFd,
    /// Guest memory: zeroes.
    pub memory: GuestRam,
    /// What it was made as.
    pub options: ShellOptions,
    /// What the host lacks that the guest can do without.
    pub warnings: Vec<native::Warning>,
}

impl Shell {
    /// Makes one.
    ///
    /// # Errors
    /// See [`PrepareError`].
    pub fn prepare(kvm: &Kvm, options: ShellOptions) -> Result<Self, PrepareError> {
        native::check(kvm)?;
        let vm = kvm.create_vm().map_err(kvm_error("KVM makes no VM"))?;
        let regions = layout::ram_regions(options.ram_bytes);
        if regions.is_empty() {
            return Err(PrepareError::Layout(options.ram_bytes));
        }
        let memory = memory::create(&regions, options.memory)?;
        // Both mostly wait, for grace periods of different locks in the kernel: side by side they take as long as the longer one.
        let (platform, given) = std::thread::scope(|scope| {
            let giving = std::thread::Builder::new()
                .name("memory".to_owned())
                .stack_size(64 << 10)
                .spawn_scoped(scope, || give_memory(&vm, &memory, options.memory.track_dirty));
            let platform = Platform::create(kvm, &vm, PlatformOptions { vcpus: options.vcpus });
            let given = match giving {
                Ok(giving) => giving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                // No thread to be had: one after the other then.
                Err(_) => give_memory(&vm, &memory, options.memory.track_dirty),
            };
            (platform, given)
        });
        let mut platform = platform?;
        given?;
        let mut warnings = Vec::new();
        let mut vcpus = Vec::with_capacity(usize::from(options.vcpus));
        for index in 0..options.vcpus {
            let vcpu = vm
                .create_vcpu(u64::from(index))
                .map_err(kvm_error("KVM makes no vCPU"))?;
            vcpus.push(vcpu);
        }
        // All of them exist before the first is set up: the topology that one sees names the others.
        for (index, vcpu) in (0..options.vcpus).zip(&vcpus) {
            let more = platform
                .prepare_vcpu(vcpu, index)
                .map_err(|source| PrepareError::Vcpu { index, source })?;
            for warning in more {
                if !warnings.contains(&warning) {
                    warnings.push(warning);
                }
            }
        }
        warnings.extend(platform.finish(&vm, &vcpus)?);
        Ok(Shell {
            vcpus,
            platform,
            vm,
            memory,
            options,
            warnings,
        })
    }
}

/// Tells KVM where guest memory is: one slot for each region, numbered in their order.
fn give_memory(vm: &VmFd, memory: &GuestRam, track_dirty: bool) -> Result<(), PrepareError> {
    for (slot, region) in (0..).zip(memory.iter()) {
        let slot = kvm_userspace_memory_region {
            slot,
            flags: if track_dirty { KVM_MEM_LOG_DIRTY_PAGES } else { 0 },
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the region is mapped for as long as `memory` or a clone of it lives; `Shell` and `Machine` drop theirs after the VM.
        unsafe { vm.set_user_memory_region(slot) }.map_err(kvm_error("KVM does not take the guest's memory"))?;
    }
    Ok(())
}
