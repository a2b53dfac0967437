//! The VMM's thread: waits, does what ready descriptors and requests ask for, and says how the VM ended.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use kvm_ioctls::Kvm;
use ringwall_arch::{Fingerprint, native};
use ringwall_devices::system_control::SystemEvent;
use ringwall_vmm::event_loop::{EventLoop, Key};
use ringwall_vmm::files::{Access, Files, Reach};
use ringwall_vmm::machine::{BootFiles, Machine, MachineEvent, Planned, SavedMemory, Surroundings};
use ringwall_vmm::memory::MemoryOptions;
use ringwall_vmm::plan::{self, MadeSocket};
use ringwall_vmm::shell::{PrepareError, Shell, ShellOptions};
use ringwall_vmm::snapshot::clocks::GuestClocks;
use ringwall_vmm::snapshot::document::{Document, Origin};
use ringwall_vmm::snapshot::handler_watch::LastWords;
use ringwall_vmm::snapshot::uffd::Connection;
use ringwall_vmm::snapshot::{state_file, store};
use ringwall_vmm::vcpu::VcpuEvent;
use ringwall_vmm_proto::{
    Action, Answer, Architecture, Command, ConfigFile, Controller, Decision, Fault, FullConfig, HostPath, HugePages,
    LoadSnapshot, MemoryBackend, Metrics, Place, Resources, SnapshotKind, SocketPath,
};

use crate::api::{Event, EventLog};
use crate::confine::Sockets;
use crate::jail::Jail;
use crate::outlet::Outlet;
use crate::{changes, console, logging, metrics};

/// How long the end is kept up for those who follow the events when the page fault handler is lost.
const FOLLOWERS_LAST_MOMENT: Duration = Duration::from_millis(200);

/// How a VM ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// The guest switched itself off.
    Shutdown { argument: u32 },
    /// The guest has reset its machine, which a VMM of one VM answers by ending: so Firecracker's guests switch themselves off.
    Reset,
    /// The guest has asked to be started again.
    Reboot,
    /// The guest's kernel panicked and said so.
    Panic { argument: u32 },
    /// A vCPU can't go on.
    Failed(String),
}

/// What a VMM is made of.
#[derive(Debug)]
pub(crate) struct HostParts {
    pub(crate) kvm: Kvm,
    pub(crate) controller: Controller,
    pub(crate) files: Files,
    pub(crate) jail: Jail,
    /// `/proc/self/pagemap`.
    pub(crate) pagemap: Option<File>,
    /// `/dev/userfaultfd`, if it was given.
    pub(crate) userfault: Option<File>,
    /// Confines a vCPU's thread.
    pub(crate) on_vcpu_start: fn(),
    /// When the process began, if the time until the guest is ready is asked for.
    pub(crate) begun: Option<Instant>,
    /// How long a page fault handler may take.
    pub(crate) page_fault_patience: Option<Duration>,
    /// What clients are told.
    pub(crate) told: EventLog,
    /// Standard output, made while it could be opened once more.
    pub(crate) stdout: Option<Outlet>,
}

/// The VMM.
#[derive(Debug)]
pub(crate) struct Host {
    kvm: Kvm,
    events: EventLoop,
    controller: Controller,
    machine: Option<Machine>,
    /// Made before it was known what for.
    prepared: Option<Shell>,
    /// The host's files, as far as this VMM gets.
    files: Files,
    /// What is closed when the machine is made.
    jail: Jail,
    /// Opened while it could be; none without /proc.
    pagemap: Option<File>,
    /// `/dev/userfaultfd`, if it was given.
    userfault: Option<File>,
    /// Run first on each vCPU's thread.
    on_vcpu_start: fn(),
    /// Standard output, until the serial port has it.
    stdout: Option<Outlet>,
    /// What the serial port's output goes to, to wait on.
    console: Option<OwnedFd>,
    /// Where counters go.
    metrics: Option<Outlet>,
    /// What guests are shown of this host; asked for once, because the answer costs a VM on aarch64.
    fingerprint: Option<Fingerprint>,
    /// When this process began, if it is to say how long the guest took to be ready (`--boot-timer`).
    begun: Option<Instant>,
    /// How long a page fault handler may take for a page.
    page_fault_patience: Option<Duration>,
    /// What clients are told of.
    told: EventLog,
    /// A VM could not be made for a reason that no configuration is to blame for. The API has one status for both, as Firecracker's has.
    has_failed: bool,
}

impl Host {
    /// A VMM without a machine.
    pub(crate) fn new(parts: HostParts) -> io::Result<Self> {
        Ok(Self {
            kvm: parts.kvm,
            events: EventLoop::new()?,
            controller: parts.controller,
            machine: None,
            prepared: None,
            files: parts.files,
            jail: parts.jail,
            pagemap: parts.pagemap,
            userfault: parts.userfault,
            on_vcpu_start: parts.on_vcpu_start,
            stdout: parts.stdout,
            console: None,
            metrics: None,
            fingerprint: None,
            begun: parts.begun,
            page_fault_patience: parts.page_fault_patience,
            told: parts.told,
            has_failed: false,
        })
    }

    /// Does what `PUT /metrics` does, with a file that is open already.
    pub(crate) fn count_to(&mut self, wanted: Metrics, file: File) -> Result<(), Fault> {
        if let Decision::Perform(command) = self.controller.decide(Action::SetMetrics(wanted))? {
            self.metrics = Some(Outlet::own(file));
            self.controller.settle(&command);
        }
        Ok(())
    }

    /// The host's files.
    pub(crate) const fn files(&self) -> &Files {
        &self.files
    }

    /// What it waits with.
    pub(crate) const fn events(&self) -> &EventLoop {
        &self.events
    }

    /// Makes a VM now, to be used by the first start or load that wants such a one: of a snapshot's kind, or the default's.
    pub(crate) fn prepare(&mut self, like: Option<File>, track_dirty: bool) -> Result<(), Fault> {
        let mut options = match like {
            None => options_of(&Resources::new(Architecture::NATIVE)),
            Some(state) => {
                // A load asks for it, which can take a VM of its own.
                self.fingerprint()?;
                options_of(&resources_of(&document(state)?)?)
            }
        };
        options.memory.track_dirty = track_dirty;
        self.prepared = Some(Shell::prepare(&self.kvm, options).map_err(|error| self.not_prepared(&error))?);
        Ok(())
    }

    fn not_prepared(&mut self, error: &PrepareError) -> Fault {
        // More memory than there is room for is asked for; all else is this host's.
        self.has_failed = !matches!(error, PrepareError::Memory(_) | PrepareError::Layout(_));
        fault(error)
    }

    /// Whether what was refused last was refused for what this host lacks.
    pub(crate) const fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Does what an action asks for.
    pub(crate) fn act(&mut self, action: Action) -> Result<Answer, Fault> {
        match self.controller.decide(action)? {
            Decision::Answered(answer) => Ok(answer),
            Decision::Perform(command) => {
                let answer = self.perform(&command)?;
                self.controller.settle(&command);
                Ok(answer)
            }
        }
    }

    /// Waits for what is ready and does it; returns the keys that are not the machine's, and how the VM ended, if it did.
    pub(crate) fn turn(&mut self) -> io::Result<(Vec<Key>, Option<End>)> {
        let mut others = Vec::new();
        for key in self.events.wait()? {
            let Some(machine) = self.machine.as_mut() else {
                others.push(key);
                continue;
            };
            match key {
                Key::Wake | Key::Other(_) => others.push(key),
                Key::SerialInput | Key::SerialRoom => console::feed(machine, &self.events, key)?,
                Key::SerialWaiting | Key::ConsoleWritable => {
                    if let Some(output) = &self.console {
                        console::drain(machine, &self.events, output)?;
                    }
                }
                key => {
                    for event in machine.handle(key, &self.events)? {
                        if event == MachineEvent::System(SystemEvent::Ready) {
                            if self.told.post(&Event::Ready) {
                                tracing::info!("the guest is ready");
                            }
                            if let Some(begun) = self.begun.take() {
                                // Asked for, so it is said at every level but "off".
                                tracing::error!(us = begun.elapsed().as_micros(), "the guest is ready");
                            }
                        }
                        if let Some(end) = end_of(event) {
                            return Ok((others, Some(end)));
                        }
                    }
                }
            }
        }
        Ok((others, None))
    }

    /// The files of drives that were given as descriptors.
    fn given_disks(&self) -> Result<Vec<File>, Fault> {
        let drives = self.controller.resources().drives.iter();
        drives
            .filter_map(|drive| match drive.path_on_host.place() {
                Place::Descriptor(number) => Some(self.files.duplicate("drive", number)),
                Place::Path(_) => None,
            })
            .map(|file| file.map(File::from).map_err(|error| fault(&error)))
            .collect()
    }

    /// The VM ends: what it has done is its end, and not what others do on hearing of it.
    pub(crate) fn ending(&self) {
        if let Some(machine) = &self.machine {
            machine.release_handler();
        }
    }

    /// Gives the console what the guest said last.
    pub(crate) fn finish_console(&self) {
        if let (Some(machine), Some(output)) = (&self.machine, &self.console) {
            console::finish(machine, output);
        }
    }

    fn perform(&mut self, command: &Command) -> Result<Answer, Fault> {
        match command {
            Command::Start => self.start()?,
            Command::LoadSnapshot(load) => self.load(load)?,
            Command::CreateSnapshot(create) => {
                let configuration = serde_json::to_value(FullConfig::from(self.controller.resources()))
                    .map_err(|error| fault(&error))?;
                let fingerprint = self.fingerprint()?;
                let machine = self.machine.as_ref().ok_or_else(no_machine)?;
                let document = machine
                    .save(configuration, fingerprint)
                    .map_err(|error| fault(&error))?;
                let disks = self.given_disks()?;
                let written = match create.kind {
                    SnapshotKind::Full => store::write_full(machine, &document, create, &self.files, &disks),
                    SnapshotKind::Diff => store::write_difference(machine, &document, create, &self.files, &disks),
                };
                let written = written.map_err(|error| fault(&error))?;
                tracing::info!(bytes = written.bytes, "a snapshot was written");
            }
            Command::Pause => self.machine()?.pause().map_err(|error| fault(&error))?,
            Command::Resume => self.machine()?.resume().map_err(|error| fault(&error))?,
            Command::SendCtrlAltDel => {
                changes::control_alt_delete(self.machine()?).map_err(|error| fault(&error))?;
            }
            Command::UpdateDrive(update) => {
                let drives = &self.controller.resources().drives;
                let known = drives.iter().find(|drive| drive.drive_id == update.drive_id).cloned();
                let known = known.ok_or_else(no_machine)?;
                let machine = self.machine.as_ref().ok_or_else(no_machine)?;
                changes::drive(machine, &known, update, &self.files).map_err(|error| fault(&error))?;
            }
            Command::UpdateBalloon(update) => {
                changes::balloon(self.machine()?, *update).map_err(|error| fault(&error))?;
            }
            Command::UpdateBalloonStatistics(update) => {
                changes::balloon_interval(self.machine()?, *update).map_err(|error| fault(&error))?;
            }
            Command::ReadBalloonStatistics => {
                return changes::balloon_statistics(self.machine()?).map_err(|error| fault(&error));
            }
            Command::UpdateNetworkInterface(update) => {
                changes::interface(self.machine()?, update).map_err(|error| fault(&error))?;
            }
            Command::SetLogger(logger) => {
                if let Some(path) = &logger.log_path {
                    logging::to_file(self.open("log", path, Access::Record)?);
                }
                if let Some(level) = logger.level {
                    logging::set_level(level);
                }
            }
            Command::SetMetrics(wanted) => {
                let file = self.open("metrics file", &wanted.metrics_path, Access::Record)?;
                self.metrics = Some(Outlet::own(file));
            }
            Command::FlushMetrics => {
                // Without a file nothing is kept, and nothing is left to be written.
                if let Some(file) = &mut self.metrics {
                    metrics::flush(file, self.machine.as_ref()).map_err(|error| fault(&error))?;
                }
            }
        }
        Ok(Answer::Empty)
    }

    fn machine(&mut self) -> Result<&mut Machine, Fault> {
        self.machine.as_mut().ok_or_else(no_machine)
    }

    fn fingerprint(&mut self) -> Result<Fingerprint, Fault> {
        if let Some(known) = &self.fingerprint {
            return Ok(known.clone());
        }
        let found = native::fingerprint(&self.kvm).map_err(|error| fault(&error))?;
        Ok(self.fingerprint.insert(found).clone())
    }

    /// The VM that was prepared if it fits, else a new one.
    fn shell(&mut self, options: ShellOptions) -> Result<Shell, Fault> {
        let shell = match self.prepared.take() {
            Some(shell) if shell.options == options => shell,
            other => {
                if let Some(prepared) = other {
                    let (prepared, wanted) = (&prepared.options, &options);
                    tracing::warn!(
                        ?prepared,
                        ?wanted,
                        "the VM that was prepared is of another kind, so one is made now"
                    );
                }
                Shell::prepare(&self.kvm, options).map_err(|error| self.not_prepared(&error))?
            }
        };
        for warning in &shell.warnings {
            tracing::warn!("{warning}");
        }
        Ok(shell)
    }

    fn around(&mut self) -> Result<Surroundings, Fault> {
        let stdout = self.stdout.take();
        let output =
            console::output(self.controller.resources(), &self.files, stdout).map_err(|error| fault(&error))?;
        let waited = output.as_fd().try_clone_to_owned().map_err(|error| fault(&error))?;
        self.console = Some(waited);
        let pagemap = self.pagemap.as_ref().map(File::try_clone).transpose();
        Ok(Surroundings {
            console: Box::new(output),
            on_vcpu_start: self.on_vcpu_start,
            pagemap: pagemap.map_err(|error| fault(&error))?,
        })
    }

    fn open(&self, what: &'static str, path: &HostPath, access: Access) -> Result<File, Fault> {
        self.files.open(what, path, access).map_err(|error| fault(&error))
    }

    /// Everything that takes a capability (a tap, a disk) is open now, and without an API everything is. vCPUs' threads are started after
    /// this and have no more than this one.
    fn close(&self, resources: &Resources) -> Result<(), Fault> {
        crate::confine::drop_capabilities().map_err(|error| fault(&error))?;
        let vsock = resources.vsock.as_ref().map(|vsock| vsock.uds_path.place());
        let sockets = match vsock {
            Some(Place::Path(_)) => Sockets::Used,
            Some(Place::Descriptor(_)) | None => Sockets::Refused,
        };
        self.jail.seal(sockets).map_err(|error| fault(&error))
    }

    fn start(&mut self) -> Result<(), Fault> {
        let resources = self.controller.resources().clone();
        let Some(boot) = &resources.boot_source else {
            return Err(Fault::bad_request(&"there is no kernel to boot"));
        };
        let shell = self.shell(options_of(&resources))?;
        let command_line = command_line(&resources, boot.command_line());
        let mut seed = [0; 64];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty()).map_err(|error| fault(&error))?;
        let files = BootFiles {
            kernel: self.open("kernel", &boot.kernel, Access::Read)?,
            initrd: match &boot.initrd {
                Some(path) => Some(self.open("initrd", path, Access::Read)?),
                None => None,
            },
            command_line: &command_line,
            rng_seed: &seed,
        };
        let (planned, socket) = self.planned(&resources)?;
        let around = self.around()?;
        self.close(&resources)?;
        let machine = Machine::boot(shell, planned, files, &self.events, around).map_err(|error| fault(&error))?;
        self.run(machine, true)?;
        socket.keep();
        Ok(())
    }

    fn planned(&self, resources: &Resources) -> Result<(Vec<Planned>, MadeSocket), Fault> {
        plan::devices(resources, self.controller.mmds(), &self.files).map_err(|error| fault(&error))
    }

    fn load(&mut self, load: &LoadSnapshot) -> Result<(), Fault> {
        let state = self.open("state file", &load.snapshot_path, Access::Read)?;
        let body = state_file::read(state).map_err(|error| fault(&error))?;
        let here = self.fingerprint()?;
        let mut document: Document = match state_file::parse(&body) {
            Ok(document) => document,
            Err(error) => {
                // Registers of another architecture are not malformed: they are of another host.
                if let Ok(origin) = state_file::parse::<Origin>(&body) {
                    fits(&here, &origin.fingerprint)?;
                }
                return Err(fault(&error));
            }
        };
        fits(&here, &document.fingerprint)?;
        let mut resources = resources_of(&document)?;
        // The configuration's values are bounded by their parser; a snapshot that says something else of its memory is made up.
        let configured = options_of(&resources);
        if (configured.vcpus, configured.ram_bytes) != (document.options.vcpus, document.options.ram_bytes) {
            return Err(Fault::bad_request(
                &"the snapshot's configuration is of another machine than its state",
            ));
        }
        resources.apply_load(load).map_err(|error| fault(&error))?;
        let memory = match &load.memory {
            MemoryBackend::File(path) => SavedMemory::File(self.open("memory file", path, Access::Read)?),
            MemoryBackend::Uffd(path) => SavedMemory::Handler(self.handler(path)?, last_words(self.told.clone())),
        };
        document.options.memory.track_dirty = load.track_dirty_pages;
        let shell = self.shell(document.options)?;
        let (planned, socket) = self.planned(&resources)?;
        let around = self.around()?;
        let clocks = if load.clock_realtime {
            GuestClocks::CatchUp
        } else {
            GuestClocks::GoOn
        };
        self.close(&resources)?;
        let machine = Machine::restore(shell, planned, document, memory, clocks, &self.events, around)
            .map_err(|error| fault(&error))?;
        self.run(machine, load.resume_vm)?;
        // Where the serial port goes was said to this VMM, or to nobody.
        resources.serial.clone_from(&self.controller.resources().serial);
        *self.controller.resources_mut() = resources;
        socket.keep();
        Ok(())
    }

    /// A connection to a page fault handler.
    fn handler(&mut self, at: &SocketPath) -> Result<Connection, Fault> {
        let what = "page fault handler";
        if self.page_fault_patience.is_none() && self.files.reach != Reach::Anywhere {
            tracing::warn!(
                "a page fault handler that stalls is not noticed with --no-paths or --confine-to, only one that has gone"
            );
        }
        let connected = match at.place() {
            Place::Path(path) => {
                self.files.reach_socket(what, path).map_err(|error| fault(&error))?;
                Connection::open(path, self.userfault.as_ref(), self.page_fault_patience)
            }
            Place::Descriptor(number) => {
                let socket = self.files.take_connection(what, number);
                let socket = socket.map_err(|error| fault(&error))?;
                Connection::over(socket.into(), self.userfault.as_ref(), self.page_fault_patience)
            }
        };
        connected.map_err(|error| fault(&error))
    }

    fn run(&mut self, mut machine: Machine, is_to_run: bool) -> Result<(), Fault> {
        if is_to_run {
            machine.resume().map_err(|error| fault(&error))?;
        }
        console::connect(&machine, &self.events).map_err(|error| fault(&error))?;
        self.machine = Some(machine);
        Ok(())
    }
}

/// What is said when the page fault handler is lost. The thread that says it is not waited for longer than a moment.
fn last_words(told: EventLog) -> LastWords {
    Box::new(move |lost| {
        tracing::error!("{lost}");
        let reason = lost.to_string();
        told.post(&Event::PageFaultHandlerLost { reason });
        told.finish(FOLLOWERS_LAST_MOMENT);
    })
}

fn fits(here: &Fingerprint, saved: &Fingerprint) -> Result<(), Fault> {
    here.fits(saved).map_err(|reasons| {
        let reasons = reasons.join("; ");
        Fault::bad_request(&format_args!("the snapshot can't be restored here: {reasons}"))
    })
}

fn no_machine() -> Fault {
    Fault::bad_request(&"there is no machine")
}

/// An error with its causes: the client sees all of them, since it is who can mend them.
fn fault(error: &dyn std::error::Error) -> Fault {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    Fault::bad_request(&text)
}

/// What kind of VM a configuration asks for.
fn options_of(resources: &Resources) -> ShellOptions {
    let machine = &resources.machine;
    ShellOptions {
        vcpus: machine.vcpu_count().get(),
        ram_bytes: machine.memory().bytes(),
        memory: MemoryOptions {
            track_dirty: machine.track_dirty_pages(),
            huge_pages: machine.huge_pages() == HugePages::Hugetlbfs2M,
        },
    }
}

/// The kernel's command line: as configured, with the root device if there is one.
fn command_line(resources: &Resources, configured: &str) -> String {
    let Some(root) = resources.root_drive() else {
        return configured.to_owned();
    };
    let device = match &root.partuuid {
        Some(partition) => format!("PARTUUID={partition}"),
        None => "/dev/vda".to_owned(),
    };
    let mode = if root.is_read_only { "ro" } else { "rw" };
    format!("{configured} root={device} {mode}")
}

/// A snapshot's state.
fn document(state: File) -> Result<Document, Fault> {
    state_file::decode(state).map_err(|error| fault(&error))
}

/// The configuration that a snapshot's devices were made from.
fn resources_of(document: &Document) -> Result<Resources, Fault> {
    let bytes = serde_json::to_vec(&document.configuration).map_err(|error| fault(&error))?;
    let file = ConfigFile::parse(&bytes).map_err(|error| fault(&error))?;
    let mut resources = Resources::new(Architecture::NATIVE);
    for action in file.actions {
        resources.configure(action).map_err(|error| fault(&error))?;
    }
    Ok(resources)
}

fn end_of(event: MachineEvent) -> Option<End> {
    match event {
        MachineEvent::System(SystemEvent::Ready) => None,
        MachineEvent::System(SystemEvent::Shutdown { code }) => Some(End::Shutdown { argument: code }),
        MachineEvent::Vcpu(VcpuEvent::Shutdown) => Some(End::Shutdown { argument: 0 }),
        MachineEvent::System(SystemEvent::Reboot) => Some(End::Reboot),
        MachineEvent::Vcpu(VcpuEvent::Reset) => Some(End::Reset),
        MachineEvent::System(SystemEvent::Panic { reason }) => Some(End::Panic { argument: reason }),
        MachineEvent::Vcpu(VcpuEvent::Failed { vcpu, why }) => Some(End::Failed(format!("vCPU {vcpu}: {why}"))),
    }
}
