//! From the command line to the end of the VM.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use kvm_ioctls::Kvm;
use ringwall_vmm::event_loop::{Key, borrowed};
use ringwall_vmm::open::{self, OpenError};
use ringwall_vmm::snapshot::document::{Document, Origin};
use ringwall_vmm::snapshot::{memory_file, state_file};
use ringwall_vmm_proto::{
    Action, Architecture, ConfigFile, ConfigFileError, Controller, Fault, HostPath, Method, Metrics, Resources,
};
use thiserror::Error;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::api::{
    ApiRequest, Event, EventLog, Limits, Link, ListenError, Listener, Server, ServerHandle, StartServerError,
    UnmetNeedError, check_needs,
};
use crate::args::{self, Api, Args, Exit, Mode};
use crate::confine::{self, ConfineError, Thread};
use crate::host::{End, Host, options_of};
use crate::logging;
use crate::outlet::OpenOutletError;

/// Why there is no VM, or no more.
#[derive(Debug, Error)]
enum RunError {
    #[error("can't open /dev/kvm: {hint}")]
    Kvm {
        hint: &'static str,
        source: kvm_ioctls::Error,
    },
    #[error(
        "this host's KVM runs ordinary guests only by emulating their instructions (no vmx or svm in /proc/cpuinfo), and --require-hardware was given"
    )]
    NoHardware,
    #[error("can't read the {what} {path}")]
    Read {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    OpenOutlet(#[from] OpenOutletError),
    #[error("can't merge the memory files")]
    Merge(#[source] io::Error),
    #[error("the metadata {path} is no JSON")]
    Metadata { path: PathBuf, source: serde_json::Error },
    #[error(transparent)]
    ConfigFile(#[from] ConfigFileError),
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    NotStarted(String),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Server(#[from] StartServerError),
    #[error("there is no descriptor {0}")]
    NoDescriptor(u32),
    #[error(transparent)]
    Need(#[from] UnmetNeedError),
    #[error("the VMM can't wait for events")]
    Wait(#[source] io::Error),
    #[error(transparent)]
    Confine(#[from] ConfineError),
    #[error(transparent)]
    StateFile(#[from] state_file::StateFileError),
}

impl RunError {
    const fn exit(&self) -> Exit {
        match self {
            Self::ConfigFile(_) | Self::Refused(_) | Self::Need(_) | Self::NoDescriptor(_) => Exit::BadUsage,
            Self::Read { .. } | Self::Open(_) | Self::OpenOutlet(_) | Self::Metadata { .. } => Exit::BadUsage,
            Self::StateFile(_) | Self::Listen(_) => Exit::BadUsage,
            _ => Exit::Failure,
        }
    }
}

/// Does what a command line says.
pub fn main(words: impl IntoIterator<Item = OsString>) -> Exit {
    let args = match args::parse(words) {
        Ok(args) => args,
        Err((error, exit)) => {
            // A closed output is no reason for another exit code.
            let _closed = error.print();
            return exit;
        }
    };
    match perform(&args) {
        Ok(exit) => exit,
        Err(error) => {
            logging::say(&format!("Error: {}", with_causes(&error)));
            error.exit()
        }
    }
}

fn print(text: &str) {
    let _closed = writeln!(io::stdout(), "{text}");
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str("\nCaused by: ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn perform(args: &Args) -> Result<Exit, RunError> {
    match args.mode() {
        Mode::SnapshotVersion => print(&format!("v{}", state_file::VERSION)),
        Mode::DescribeSnapshot(path) => {
            let file = open::file("state file", &path, false)?;
            let body = state_file::read(file)?;
            let told = match state_file::parse::<Document>(&body) {
                Ok(document) => document.describe(),
                // Another architecture's registers can't be read here; what it is can.
                Err(error) => match state_file::parse::<Origin>(&body) {
                    Ok(origin) if origin.is_foreign() => format!("of {}", origin.fingerprint.architecture()),
                    _ => return Err(error.into()),
                },
            };
            print(&format!("v{}: {told}", state_file::VERSION));
        }
        Mode::MergeMemory(full, difference) => merge(&full, &difference)?,
        Mode::Run(api) => return run(args, &api),
    }
    Ok(Exit::Done)
}

fn merge(full: &Path, difference: &Path) -> Result<(), RunError> {
    let difference = open::file("difference", difference, false)?;
    let full = open::file("memory file", full, true)?;
    let written = memory_file::merge(&full, &difference).map_err(RunError::Merge)?;
    print(&format!("{} bytes merged", written.bytes));
    Ok(())
}

/// The VMM's end of the API: the server's thread, and what it asks for.
struct Clients {
    wake: EventFd,
    requests: Receiver<ApiRequest>,
    server: ServerHandle,
}

impl Clients {
    /// Waits until those who follow the events know all of them, but not long.
    fn finish(self, told: &EventLog) {
        // First those who wait for an answer: the server waits with them.
        drop(self.requests);
        if !told.finish(LAST_EVENTS) {
            tracing::warn!("not all who follow the events have taken the last one");
        }
        drop(self.server);
    }
}

/// How long the end of the VM waits until clients have taken its last event.
const LAST_EVENTS: Duration = Duration::from_secs(1);

fn run(args: &Args, api: &Api) -> Result<Exit, RunError> {
    log(args)?;
    confine::no_core_dumps()?;
    let told = EventLog::new().map_err(RunError::Wait)?;
    // Before anything that takes time: clients wait for the socket.
    let clients = match api {
        Api::None => None,
        Api::Path(path) => Some(serve(args, Listener::bind(path)?, &told)?),
        Api::Descriptor(number) => Some(serve(args, Listener::from_fd(inherited(*number)?)?, &told)?),
    };
    let socket = SocketFile(match api {
        Api::Path(path) => Some(path),
        _ => None,
    });
    if is_emulated() {
        if args.require_hardware {
            return Err(RunError::NoHardware);
        }
        tracing::warn!(
            "this host's KVM has neither VMX nor SVM below it (PVM?): an ordinary guest's kernel is emulated, thousands of times too slowly"
        );
    }
    let kvm = Kvm::new().map_err(|source| RunError::Kvm {
        hint: kvm_hint(source.errno()),
        source,
    })?;
    let controller = Controller::new(
        Architecture::NATIVE,
        args.id.clone(),
        env!("CARGO_PKG_VERSION"),
        args.max_mmds_bytes(),
    );
    let on_vcpu_start = if args.no_seccomp {
        tracing::warn!("without system call filters (--no-seccomp)");
        confine::not_at_all
    } else {
        confine::restrict(Thread::Vmm)?;
        confine::vcpu_thread
    };
    let begun = args.boot_timer.then(Instant::now);
    let patience = args.page_fault_patience();
    let mut host = Host::new(kvm, controller, on_vcpu_start, begun, patience, told.clone()).map_err(RunError::Wait)?;
    if let Some(path) = &args.metadata {
        let text = read("metadata", path)?;
        let value = serde_json::from_slice(&text).map_err(|source| RunError::Metadata {
            path: path.clone(),
            source,
        })?;
        host.act(Action::PutMmds(value)).map_err(|fault| refused(&fault))?;
    }
    if let Some(path) = &args.metrics_path {
        let metrics_path = HostPath::new("--metrics-path", path.display().to_string())
            .map_err(|error| RunError::Refused(error.to_string()))?;
        host.act(Action::SetMetrics(Metrics { metrics_path }))
            .map_err(|fault| refused(&fault))?;
    }
    if let Some(path) = &args.config_file {
        let file = ConfigFile::parse(&read("configuration", path)?)?;
        if let Some(template) = &file.cpu_config {
            let mut body = Vec::new();
            let path = template.as_path();
            let mut file = open::file("CPU template", path, false)?;
            file.read_to_end(&mut body).map_err(|source| RunError::Read {
                what: "CPU template",
                path: path.to_owned(),
                source,
            })?;
            let request = ringwall_vmm_proto::parse(Method::Put, "/cpu-config", &body);
            let request = request.map_err(|error| RunError::Refused(error.to_string()))?;
            host.act(request.action).map_err(|fault| refused(&fault))?;
        }
        for action in file.actions {
            check_needs(&action)?;
            host.act(action).map_err(|fault| refused(&fault))?;
        }
        let started = host.act(Action::Start);
        started.map_err(|fault| not_started(&host, &fault))?;
    }
    if args.prepared {
        let options = options_of(&Resources::new(Architecture::NATIVE));
        let prepared = host.prepare(options);
        prepared.map_err(|fault| not_started(&host, &fault))?;
    }
    if let Some(clients) = &clients {
        host.events()
            .add(borrowed(&clients.wake), Key::Wake)
            .map_err(RunError::Wait)?;
    }
    let end = attend(&mut host, clients.as_ref());
    told.post(&match &end {
        Ok(end) => last_event(end),
        Err(error) => Event::Failed {
            reason: error.to_string(),
        },
    });
    host.finish_console();
    if let Some(clients) = clients {
        clients.finish(&told);
    }
    drop(socket);
    Ok(conclude(&end?))
}

fn attend(host: &mut Host, clients: Option<&Clients>) -> Result<End, RunError> {
    loop {
        let (keys, end) = host.turn().map_err(RunError::Wait)?;
        if let Some(end) = end {
            return Ok(end);
        }
        let Some(clients) = clients.filter(|_| keys.contains(&Key::Wake)) else {
            continue;
        };
        let _empty = clients.wake.read();
        for request in clients.requests.try_iter() {
            let (action, reply) = request.into_parts();
            let met = check_needs(&action).map_err(Fault::from);
            reply(met.and_then(|()| host.act(action)));
        }
    }
}

fn last_event(end: &End) -> Event {
    match end {
        End::Shutdown { argument } => Event::Shutdown { argument: *argument },
        End::Reset => Event::Reset,
        End::Reboot => Event::Reboot,
        End::Panic { argument } => Event::Panic { argument: *argument },
        End::Failed(why) => Event::Failed { reason: why.clone() },
    }
}

fn conclude(end: &End) -> Exit {
    match end {
        End::Shutdown { argument } => {
            tracing::info!(argument, "the guest has switched itself off");
            Exit::Done
        }
        End::Reset => {
            tracing::info!("the guest has reset its machine");
            Exit::Done
        }
        End::Reboot => {
            tracing::info!("the guest wants to be started again");
            Exit::GuestReboot
        }
        End::Panic { argument } => {
            tracing::error!(argument, "the guest's kernel has panicked");
            Exit::GuestPanic
        }
        End::Failed(why) => {
            tracing::error!("{why}");
            Exit::Failure
        }
    }
}

/// The API's socket; removed at the end, as Firecracker's clients expect to have to do only after a crash.
struct SocketFile<'a>(Option<&'a Path>);

impl Drop for SocketFile<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.0 {
            let _gone = fs::remove_file(path);
        }
    }
}

fn serve(args: &Args, listener: Listener, told: &EventLog) -> Result<Clients, RunError> {
    let wake = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(RunError::Wait)?;
    let (link, requests) = Link::new(wake.try_clone().map_err(RunError::Wait)?);
    let limits = Limits {
        body_bytes: args.max_body_bytes(),
        ..Limits::default()
    };
    let server = Server::new(listener, link, limits)?.with_events(told.clone());
    Ok(Clients {
        wake,
        requests,
        server: server.spawn(if args.no_seccomp {
            confine::not_at_all
        } else {
            confine::api_thread
        })?,
    })
}

#[expect(unsafe_code, reason = "an inherited descriptor is known by its number only")]
fn inherited(number: u32) -> Result<OwnedFd, RunError> {
    let path = format!("/proc/self/fd/{number}");
    if fs::symlink_metadata(path).is_err() {
        return Err(RunError::NoDescriptor(number));
    }
    let number = i32::try_from(number).map_err(|_| RunError::NoDescriptor(number))?;
    // SAFETY: it is open, from 3 up, and whoever started this process says by the flag that it is ours; nothing here has opened any yet.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn not_started(host: &Host, fault: &Fault) -> RunError {
    if host.has_failed() {
        RunError::NotStarted(fault.message().to_owned())
    } else {
        refused(fault)
    }
}

fn refused(fault: &Fault) -> RunError {
    RunError::Refused(fault.message().to_owned())
}

/// Not by [`open`]: a shell gives a configuration by a pipe too.
fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, RunError> {
    fs::read(path).map_err(|source| RunError::Read {
        what,
        path: path.to_owned(),
        source,
    })
}

const fn kvm_hint(errno: i32) -> &'static str {
    match errno {
        2 => "this machine has none; virtualization may be off in its firmware, or the module kvm is not loaded",
        13 => "this user may not; the group kvm may on most systems",
        _ => "it does not answer",
    }
}

/// Whether there is KVM without the processor's help: every x86 host that has it says so in its flags.
fn is_emulated() -> bool {
    if Architecture::NATIVE != Architecture::X86_64 {
        return false;
    }
    let Ok(processors) = File::open("/proc/cpuinfo") else {
        return false;
    };
    // Only as far as the first processor's flags: the kernel writes the text while it is read, and some machines have hundreds.
    let lines = BufReader::new(processors).lines().map_while(Result::ok);
    lines
        .take(CPUINFO_LINES)
        .find(|line| line.starts_with("flags"))
        .is_some_and(|line| !line.split_ascii_whitespace().any(|flag| matches!(flag, "vmx" | "svm")))
}

/// Lines of /proc/cpuinfo before which the flags come (arch/x86/kernel/cpu/proc.c has them as the 19th).
const CPUINFO_LINES: usize = 64;

fn log(args: &Args) -> Result<(), RunError> {
    logging::begin(args.level, args.show_level, args.show_log_origin);
    match &args.log_path {
        None => Ok(()),
        Some(path) => Ok(logging::to_file(path)?),
    }
}
