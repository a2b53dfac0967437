//! A machine: a shell with devices and contents, running or paused.
//!
//! ```text
//! Shell --assemble--> Assembled --boot----> Machine (paused) <--> running
//!                               '-restore-> Machine (paused)
//! ```
//!
//! Everything here is called by the VMM's thread. The order of a snapshot: vCPUs paused, devices at rest, vCPUs and board saved, then memory
//! (on aarch64 the interrupt controller writes tables into it while it is saved).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};

use kvm_ioctls::VmFd;
use ringwall_arch::native::{self, Platform};
use ringwall_arch::{Board, BootTablesError, Fingerprint, GuestRam, LoadInitrdError, LoadKernelError, MmioSlot};
use ringwall_devices::system_control::SystemEvent;
use ringwall_devices::virtio::{DeviceError, RestoreError, VirtioDevice};
use thiserror::Error;
use vm_memory::bitmap::Bitmap as _;
use vm_memory::{GuestAddress, GuestMemoryBackend as _, GuestMemoryRegion as _};
use vmm_sys_util::eventfd::EventFd;

use crate::attach::{AttachError, Attached, attach};
use crate::board::{BoardError, Fixed};
use crate::event_loop::{EventLoop, Key, borrowed};
use crate::memory::{self, MemoryError, PAGE_BYTES};
use crate::shell::{Shell, ShellOptions};
use crate::snapshot::clocks::{GuestClocks, wall_clock_ns};
use crate::snapshot::document::{DeviceRecord, Document};
use crate::snapshot::handler_watch::LastWords;
use crate::snapshot::memory_file::Base;
use crate::snapshot::uffd::{Connection, FaultHandler, FaultHandlerError};
use crate::vcpu::{Buses, VcpuContext, VcpuError, VcpuEvent, VcpuHandle};

/// A virtio device to be put on the board, with its name in the configuration.
#[derive(Debug)]
pub struct Planned {
    /// How the configuration names it.
    pub id: String,
    /// The device.
    pub device: Box<dyn VirtioDevice>,
}

/// What a machine needs of the program around it.
pub struct Surroundings {
    /// Where the serial port's output goes; must not wait (`WouldBlock` instead), and what is left is given to it by `Serial::drain_output`.
    pub console: Box<dyn Write + Send>,
    /// Run on each vCPU's thread before the guest: the system-call filter.
    pub on_vcpu_start: fn(),
    /// `/proc/self/pagemap`, for snapshots; they take longer without it.
    pub pagemap: Option<File>,
}

impl std::fmt::Debug for Surroundings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Surroundings").finish_non_exhaustive()
    }
}

/// What a boot starts from.
#[derive(Debug)]
pub struct BootFiles<'a> {
    /// The kernel.
    pub kernel: File,
    /// The initial RAM disk.
    pub initrd: Option<File>,
    /// The kernel's command line.
    pub command_line: &'a str,
    /// Fresh random bytes for the guest's generator.
    pub rng_seed: &'a [u8],
}

/// Where a restored machine's memory is.
pub enum SavedMemory {
    /// In a file, which is mapped copy-on-write.
    File(File),
    /// With a process that answers page faults; and what to say should it be lost.
    Handler(Connection, LastWords),
}

impl std::fmt::Debug for SavedMemory {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SavedMemory::File(file) => formatter.debug_tuple("File").field(file).finish(),
            SavedMemory::Handler(connection, _) => formatter.debug_tuple("Handler").field(connection).finish(),
        }
    }
}

/// What brings the pages of guest memory that were never touched.
#[derive(Debug)]
enum Pages {
    Zeroes,
    File(File),
    Handler(FaultHandler),
}

/// Why a machine can't be put together.
#[derive(Debug, Error)]
pub enum AssembleError {
    /// A device.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The board's own devices.
    #[error(transparent)]
    Board(#[from] BoardError),
    /// Descriptors.
    #[error("the VMM's thread can't be woken")]
    Wake(#[source] io::Error),
    /// A vCPU's thread.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
}

/// Why a guest can't be booted.
#[derive(Debug, Error)]
pub enum BootError {
    /// The kernel's or initrd's length can't be read.
    #[error("can't read the {what}")]
    File {
        /// Which.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The kernel.
    #[error("the kernel can't be loaded")]
    Kernel(#[from] LoadKernelError),
    /// The initrd.
    #[error("the initrd can't be loaded")]
    Initrd(#[from] LoadInitrdError),
    /// What the guest is told of the board.
    #[error("the guest can't be told of its board")]
    Tables(#[from] BootTablesError),
    /// The boot vCPU.
    #[error("the boot vCPU can't be set up")]
    Vcpu(#[from] native::VcpuError),
    /// Putting it together.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
}

/// Why a snapshot can't be restored.
#[derive(Debug, Error)]
pub enum RestoreMachineError {
    /// The snapshot is of another kind of VM than what was prepared.
    #[error("the snapshot is of a VM with {snapshot}, this one was prepared with {prepared}")]
    Shape {
        /// The snapshot's vCPUs and memory.
        snapshot: String,
        /// The shell's.
        prepared: String,
    },
    /// The snapshot's devices are not those that were made for it.
    #[error("the snapshot has the device {found:?} where {wanted:?} was expected")]
    Devices {
        /// The snapshot's.
        found: Option<String>,
        /// Ours.
        wanted: Option<String>,
    },
    /// Memory.
    #[error("the memory can't be restored")]
    Memory(#[from] MemoryError),
    /// Memory of a page fault handler.
    #[error("the memory can't be had from a page fault handler")]
    FaultHandler(#[from] FaultHandlerError),
    /// A vCPU.
    #[error("vCPU {index} can't be restored")]
    Vcpu {
        /// Which.
        index: usize,
        /// Why.
        #[source]
        source: native::VcpuError,
    },
    /// Interrupt controllers and timers.
    #[error("the board can't be restored")]
    Platform(#[from] native::PlatformError),
    /// The guest's clocks.
    #[error("the guest's clocks can't be restored")]
    Time(#[source] native::VcpuError),
    /// The guest's clocks are to step, and it is not known by how much.
    #[error("the snapshot does not say when it was made, so that the guest's clock can't be set to now")]
    NoTime,
    /// The board's own devices.
    #[error("the board's devices can't be restored")]
    Fixed(#[from] crate::board::RestoreBoardError),
    /// A device.
    #[error("device {id} can't be restored")]
    Device {
        /// Which.
        id: String,
        /// Why.
        #[source]
        source: RestoreError,
    },
    /// Putting it together.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
}

/// Why a machine can't be saved.
#[derive(Debug, Error)]
pub enum SaveMachineError {
    /// It runs.
    #[error("the machine runs; pause it first")]
    Running,
    /// A device does not come to rest.
    #[error("device {id} does not come to rest")]
    Device {
        /// Which.
        id: String,
        /// Why.
        #[source]
        source: DeviceError,
    },
    /// A vCPU.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// Interrupt controllers and timers.
    #[error("the board can't be saved")]
    Platform(#[from] native::PlatformError),
}

/// What a machine has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MachineEvent {
    /// By its system-control device.
    System(SystemEvent),
    /// By a vCPU.
    Vcpu(VcpuEvent),
}

/// A VM with devices. Fields are dropped in this order: vCPUs stop before anything that they use goes.
pub struct Machine {
    vcpus: Vec<VcpuHandle>,
    devices: Vec<Attached>,
    fixed: Fixed,
    platform: Arc<Platform>,
    vm: VmFd,
    memory: GuestRam,
    options: ShellOptions,
    is_running: bool,
    vcpu_events: Receiver<VcpuEvent>,
    wake: Arc<EventFd>,
    pagemap: Option<File>,
    /// For each region's base the pages that were in a log that was taken, and are in no snapshot that was finished since.
    unsaved: Mutex<BTreeMap<u64, Vec<bool>>>,
    /// After all that may wait for a page: the handler is watched until nothing does.
    pages: Pages,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Machine")
            .field("options", &self.options)
            .field("devices", &self.devices)
            .field("is_running", &self.is_running)
            .finish_non_exhaustive()
    }
}

/// A shell whose devices are in place and whose vCPUs have no threads yet.
struct Assembled {
    shell: Shell,
    devices: Vec<Attached>,
    fixed: Fixed,
    buses: Buses,
}

impl Assembled {
    fn new(
        shell: Shell,
        planned: Vec<Planned>,
        events: &EventLoop,
        console: Box<dyn Write + Send>,
    ) -> Result<Self, AssembleError> {
        let mut buses = Buses::default();
        let fixed = Fixed::place(&shell.vm, &shell.memory, &mut buses, events, console)?;
        let mut devices = Vec::with_capacity(planned.len());
        for (index, Planned { id, device }) in (0..).zip(planned) {
            let attached = attach(&shell.vm, &shell.memory, &mut buses.mmio, events, index, &id, device)?;
            devices.push(attached);
        }
        Ok(Assembled {
            shell,
            devices,
            fixed,
            buses,
        })
    }

    fn start(self, events: &EventLoop, pagemap: Option<File>, on_start: fn()) -> Result<Machine, AssembleError> {
        let Assembled {
            shell,
            devices,
            fixed,
            buses,
        } = self;
        let Shell {
            vcpus,
            platform,
            vm,
            memory,
            options,
            warnings: _,
        } = shell;
        let wake = EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK | vmm_sys_util::eventfd::EFD_CLOEXEC)
            .map_err(AssembleError::Wake)?;
        events.add(borrowed(&wake), Key::Vcpu).map_err(AssembleError::Wake)?;
        ringwall_sys::kick::install().map_err(AssembleError::Wake)?;
        let (sender, vcpu_events) = channel();
        let platform = Arc::new(platform);
        let context = VcpuContext {
            buses: Arc::new(buses),
            platform: platform.clone(),
            events: sender,
            wake: Arc::new(wake),
            on_start,
        };
        let handles: Result<Vec<_>, _> = (0..)
            .zip(vcpus)
            .map(|(index, vcpu)| VcpuHandle::start(index, vcpu, context.clone()))
            .collect();
        Ok(Machine {
            vcpus: handles?,
            devices,
            fixed,
            platform,
            vm,
            memory,
            options,
            is_running: false,
            vcpu_events,
            wake: context.wake,
            pagemap,
            unsaved: Mutex::default(),
            pages: Pages::Zeroes,
        })
    }
}

impl Machine {
    /// Puts a kernel into a shell. The machine is paused.
    ///
    /// # Errors
    /// See [`BootError`].
    pub fn boot(
        shell: Shell,
        planned: Vec<Planned>,
        files: BootFiles<'_>,
        events: &EventLoop,
        around: Surroundings,
    ) -> Result<Self, BootError> {
        let assembled = Assembled::new(shell, planned, events, around.console)?;
        let shell = &assembled.shell;
        let BootFiles {
            mut kernel,
            initrd,
            command_line,
            rng_seed,
        } = files;
        let bytes = length(&kernel, "kernel")?;
        let loaded = native::load_kernel(&shell.memory, &mut kernel, bytes)?;
        let initrd: Option<Range<u64>> = match initrd {
            None => None,
            Some(mut file) => {
                let bytes = length(&file, "initrd")?;
                Some(native::load_initrd(&shell.memory, &mut file, bytes, &loaded)?)
            }
        };
        let virtio: Vec<MmioSlot> = assembled.devices.iter().map(|device| device.slot).collect();
        let board = Board {
            vcpus: shell.options.vcpus,
            ram_bytes: shell.options.ram_bytes,
            command_line,
            initrd,
            virtio: &virtio,
            gic: shell.platform.gic(),
            serial: true,
            vmgenid: true,
            keyboard: assembled.fixed.has_keyboard(),
            performance_monitor: shell.platform.has_performance_monitor(),
            rng_seed,
        };
        let boot = native::write_boot_tables(&shell.memory, &board, &loaded)?;
        if let Some(first) = shell.vcpus.first() {
            native::set_boot_registers(first, &boot)?;
        }
        Ok(assembled.start(events, around.pagemap, around.on_vcpu_start)?)
    }

    /// Puts a snapshot into a shell that was made as the snapshot's VM. The machine is paused.
    ///
    /// # Errors
    /// See [`RestoreMachineError`].
    pub fn restore(
        shell: Shell,
        planned: Vec<Planned>,
        document: Document,
        saved_memory: SavedMemory,
        clocks: GuestClocks,
        events: &EventLoop,
        around: Surroundings,
    ) -> Result<Self, RestoreMachineError> {
        let (found, prepared) = (document.shape(), shape(&shell.options));
        if found != prepared {
            return Err(RestoreMachineError::Shape {
                snapshot: found,
                prepared,
            });
        }
        let pages = match saved_memory {
            SavedMemory::File(file) if shell.options.memory.huge_pages => {
                memory::read_into(&shell.memory, &file)?;
                Pages::Zeroes
            }
            SavedMemory::File(file) => {
                memory::map_over(&shell.memory, &file)?;
                Pages::File(file)
            }
            SavedMemory::Handler(connection, last_words) => {
                Pages::Handler(connection.take_over(&shell.memory, shell.options.memory, last_words)?)
            }
        };
        let assembled = Assembled::new(shell, planned, events, around.console)?;
        let shell = &assembled.shell;
        for (index, (vcpu, state)) in shell.vcpus.iter().zip(&document.vcpus).enumerate() {
            shell
                .platform
                .restore_vcpu(vcpu, state)
                .map_err(|source| RestoreMachineError::Vcpu { index, source })?;
        }
        shell.platform.restore(&shell.vm, &document.platform)?;
        let step = clocks
            .step(document.saved_at_ns, wall_clock_ns())
            .ok_or(RestoreMachineError::NoTime)?;
        shell
            .platform
            .restore_time(&shell.vm, &shell.vcpus, &document.vcpus, &document.platform, step)
            .map_err(RestoreMachineError::Time)?;
        assembled.fixed.restore(document.board, &shell.memory)?;
        let mut records = document.devices.into_iter();
        for attached in &assembled.devices {
            let record = records.next().filter(|record| record.id == attached.id);
            let Some(record) = record else {
                return Err(RestoreMachineError::Devices {
                    found: None,
                    wanted: Some(attached.id.clone()),
                });
            };
            attached
                .transport()
                .restore(record.state)
                .map_err(|source| RestoreMachineError::Device { id: record.id, source })?;
        }
        if let Some(more) = records.next() {
            return Err(RestoreMachineError::Devices {
                found: Some(more.id),
                wanted: None,
            });
        }
        let mut machine = assembled.start(events, around.pagemap, around.on_vcpu_start)?;
        machine.pages = pages;
        for index in 0..machine.devices.len() {
            machine.follow(events, index).map_err(AssembleError::Wake)?;
        }
        for device in &machine.devices {
            device.transport().kick_all();
        }
        if let Pages::Handler(handler) = &machine.pages {
            handler.loaded();
        }
        Ok(machine)
    }

    /// Runs the guest.
    ///
    /// # Errors
    /// A vCPU that can't be told to.
    pub fn resume(&mut self) -> Result<(), VcpuError> {
        // The last first: the boot vCPU finds the others waiting for it.
        for vcpu in self.vcpus.iter().rev() {
            vcpu.resume()?;
        }
        self.is_running = true;
        Ok(())
    }

    /// Stops the guest. Its devices go on with what they have begun.
    ///
    /// # Errors
    /// A vCPU that can't be told to.
    pub fn pause(&mut self) -> Result<(), VcpuError> {
        for vcpu in &self.vcpus {
            vcpu.pause()?;
        }
        self.is_running = false;
        Ok(())
    }

    /// Whether the guest runs.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        self.is_running
    }

    /// What it was made as.
    #[must_use]
    pub const fn options(&self) -> ShellOptions {
        self.options
    }

    /// Guest memory.
    #[must_use]
    pub const fn memory(&self) -> &GuestRam {
        &self.memory
    }

    /// KVM's object.
    #[must_use]
    pub const fn vm(&self) -> &VmFd {
        &self.vm
    }

    /// Where the contents of the pages are that were never touched.
    #[must_use]
    pub const fn base(&self) -> Base<'_> {
        match &self.pages {
            Pages::Zeroes => Base::Zeroes,
            Pages::File(file) => Base::File(file),
            Pages::Handler(_) => Base::Handler,
        }
    }

    /// `/proc/self/pagemap`.
    #[must_use]
    pub const fn pagemap(&self) -> Option<&File> {
        self.pagemap.as_ref()
    }

    /// Takes the log of the pages of the region at `base` that guest and devices have written. KVM forgets it by that; so it is kept here,
    /// and given again, until [`Machine::saved_dirty`] says that they are in a snapshot.
    ///
    /// # Errors
    /// What KVM says, above all when the machine was not made to track its pages.
    pub fn take_dirty(&self, base: GuestAddress, pages: usize) -> io::Result<Vec<bool>> {
        if !self.options.memory.track_dirty {
            return Err(io::Error::other("the machine does not track dirty pages"));
        }
        let mut regions = (0_u32..).zip(self.memory.iter());
        let (slot, region) = regions
            .find(|(_, region)| region.start_addr() == base)
            .ok_or(io::ErrorKind::NotFound)?;
        let bytes = usize::try_from(region.len()).map_err(io::Error::other)?;
        let mut unsaved = self.unsaved.lock().unwrap_or_else(PoisonError::into_inner);
        let unsaved = unsaved.entry(base.0).or_default();
        unsaved.resize(unsaved.len().max(pages), false);
        let log = self
            .vm
            .get_dirty_log(slot, bytes)
            .map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
        // KVM counts in the host's pages, devices in ours.
        let per_host_page = rustix::param::page_size() / PAGE_BYTES;
        let bitmap = region.bitmap();
        for (page, is_dirty) in unsaved.iter_mut().enumerate() {
            let host_page = page / per_host_page.max(1);
            let by_guest = log
                .get(host_page / 64)
                .is_some_and(|word| word >> (host_page % 64) & 1 == 1);
            *is_dirty |= by_guest || bitmap.dirty_at(page * PAGE_BYTES);
        }
        if let Some(written) = region.get_mmap().bitmap() {
            written.reset();
        }
        Ok(unsaved.clone())
    }

    /// Says that all pages that [`Machine::take_dirty`] gave are in a snapshot that is whole.
    pub fn saved_dirty(&self) {
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Begins the log of changed pages anew: a full snapshot has all of them.
    ///
    /// # Errors
    /// What KVM says.
    pub fn forget_dirty(&self) -> io::Result<()> {
        for region in self.memory.iter() {
            self.take_dirty(region.start_addr(), 0)?;
        }
        self.saved_dirty();
        Ok(())
    }

    /// The VM ends: from now on its page fault handler may go without that being an event of its own.
    pub fn release_handler(&self) {
        if let Pages::Handler(handler) = &self.pages {
            handler.release();
        }
    }

    /// The board's own devices.
    #[must_use]
    pub const fn fixed(&self) -> &Fixed {
        &self.fixed
    }

    /// The virtio devices, in the order of their places.
    #[must_use]
    pub fn devices(&self) -> &[Attached] {
        &self.devices
    }

    /// A virtio device, by its kind and its name in the configuration: a drive may be called as an interface is.
    #[must_use]
    pub fn device<T: VirtioDevice>(&self, id: &str) -> Option<&Attached> {
        self.devices
            .iter()
            .find(|device| device.id == id && device.transport().is::<T>())
    }

    /// Does what a ready descriptor asks for; returns what the machine has to say.
    ///
    /// # Errors
    /// A descriptor that can't be waited on.
    pub fn handle(&mut self, key: Key, events: &EventLoop) -> io::Result<Vec<MachineEvent>> {
        match key {
            Key::Queue { device, queue } => {
                if let Some(attached) = self.devices.get(usize::from(device)) {
                    attached.transport().notified(queue);
                }
            }
            Key::Source { device, token } => {
                if let Some(attached) = self.devices.get(usize::from(device)) {
                    attached.transport().ready(token);
                }
            }
            Key::Changed { device } => self.follow(events, usize::from(device))?,
            Key::System => return Ok(self.fixed.told().into_iter().map(MachineEvent::System).collect()),
            Key::Vcpu => {
                let _empty = self.wake.read();
                return Ok(self.vcpu_events.try_iter().map(MachineEvent::Vcpu).collect());
            }
            Key::Wake
            | Key::SerialInput
            | Key::SerialRoom
            | Key::SerialWaiting
            | Key::ConsoleWritable
            | Key::Other(_) => {}
        }
        Ok(Vec::new())
    }

    fn follow(&mut self, events: &EventLoop, index: usize) -> io::Result<()> {
        let Some(attached) = self.devices.get_mut(index) else {
            return Ok(());
        };
        attached.follow(events, u16::try_from(index).unwrap_or(u16::MAX))
    }

    /// Reads the state of everything but memory. The machine must be paused; it may be resumed afterwards, once memory is saved too.
    ///
    /// # Errors
    /// See [`SaveMachineError`].
    pub fn save(
        &self,
        configuration: serde_json::Value,
        fingerprint: Fingerprint,
    ) -> Result<Document, SaveMachineError> {
        if self.is_running {
            return Err(SaveMachineError::Running);
        }
        for device in &self.devices {
            device
                .transport()
                .quiesce()
                .map_err(|source| SaveMachineError::Device {
                    id: device.id.clone(),
                    source,
                })?;
        }
        let vcpus = self.vcpus.iter().map(VcpuHandle::save).collect::<Result<_, _>>()?;
        let platform = self.platform.save(&self.vm)?;
        Ok(Document {
            saved_at_ns: Some(wall_clock_ns()),
            fingerprint,
            options: self.options,
            configuration,
            vcpus,
            platform,
            board: self.fixed.save(),
            devices: self
                .devices
                .iter()
                .map(|device| DeviceRecord {
                    id: device.id.clone(),
                    state: device.transport().save(),
                })
                .collect(),
        })
    }
}

/// How a kind of VM is told in errors.
pub(crate) fn shape(options: &ShellOptions) -> String {
    format!("{} vCPUs and {} bytes of memory", options.vcpus, options.ram_bytes)
}

fn length(file: &File, what: &'static str) -> Result<u64, BootError> {
    Ok(file
        .metadata()
        .map_err(|source| BootError::File { what, source })?
        .len())
}
