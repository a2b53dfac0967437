//! From the command line to the end of the VM.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read as _, Write};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use ringwall_vmm::event_loop::{Key, borrowed};
use ringwall_vmm::files::{Access, Files, OpenFileError};
use ringwall_vmm::open::{self, OpenError};
use ringwall_vmm::snapshot::document::{Document, Origin};
use ringwall_vmm::snapshot::{memory_file, state_file};
use ringwall_vmm_proto::{Action, Architecture, ConfigFile, ConfigFileError, Controller, Fault, Method};
use thiserror::Error;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::api::{
    ApiRequest, Event, EventLog, Limits, Link, ListenError, Listener, Server, ServerHandle, StartServerError,
    UnmetNeedError, check_needs,
};
use crate::args::{self, Api, Args, Exit, Mode};
use crate::confine::{self, ConfineError, Thread};
use crate::given::{Given, GivenError, Named, host_path, open_kvm};
use crate::host::{End, Host, HostParts};
use crate::jail::{self, Jail, JailError, Wishes};
use crate::logging;
use crate::outlet::Outlet;
use crate::processor::is_emulated;

/// Why there is no VM, or no more.
#[derive(Debug, Error)]
enum RunError {
    #[error(
        "this host's KVM runs ordinary guests only by emulating their instructions (no vmx or svm in /proc/cpuinfo), and --require-hardware was given"
    )]
    NoHardware,
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("can't read the CPU template")]
    Template(#[source] io::Error),
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
    #[error(transparent)]
    Given(#[from] GivenError),
    #[error(transparent)]
    File(#[from] OpenFileError),
    #[error(transparent)]
    Jail(#[from] JailError),
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
            Self::ConfigFile(_) | Self::Refused(_) | Self::Need(_) | Self::Metadata { .. } => Exit::BadUsage,
            Self::Given(error) if error.is_usage() => Exit::BadUsage,
            Self::Jail(JailError::Folder { .. }) => Exit::BadUsage,
            Self::Open(_) | Self::File(_) | Self::StateFile(_) | Self::Listen(_) => Exit::BadUsage,
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
    // Before anything is opened: what is open now is what was given.
    let mut given = Given::take(args, api)?;
    log(args, &given.files)?;
    confine::no_core_dumps()?;
    jail::limit()?;
    let jail = Jail::plan(Wishes {
        confine_to: &args.confine_to,
        no_paths: args.no_paths,
        no_landlock: args.no_landlock,
        no_seccomp: args.no_seccomp,
        no_api: args.no_api,
    })?;
    let told = EventLog::new().map_err(RunError::Wait)?;
    // Clients wait for the socket; they are answered a moment later.
    let listener = match (api, given.listener.take()) {
        (Api::Path(path), _) => Some(Listener::bind(path)?),
        (_, Some(socket)) => Some(Listener::from_fd(socket)?),
        (Api::None | Api::Descriptor(_), None) => None,
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
    let kvm = open_kvm(given.kvm.take())?;
    let mut named = Named::open(args, &given.files)?;
    let stdout = Outlet::shared(io::stdout().as_fd()).ok();
    // All that this program opens by itself is open, and there is no other thread yet.
    given.files.reach = jail.reach();
    jail.close()?;
    let clients = match listener {
        Some(listener) => Some(serve(args, listener, &told)?),
        None => None,
    };
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
    let mut host = Host::new(HostParts {
        kvm,
        controller,
        files: given.files,
        jail,
        pagemap: named.pagemap.take(),
        userfault: given.userfault,
        on_vcpu_start,
        begun,
        page_fault_patience: args.page_fault_patience(),
        told: told.clone(),
        stdout,
    })
    .map_err(RunError::Wait)?;
    // From here on there may be somebody who follows: whatever ends it is told.
    let end = set_up(&mut host, args, named, clients.as_ref()).and_then(|()| attend(&mut host, clients.as_ref()));
    host.ending();
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

/// Does what the command line says of the machine.
fn set_up(host: &mut Host, args: &Args, named: Named, clients: Option<&Clients>) -> Result<(), RunError> {
    if let (Some(text), Some(path)) = (&named.metadata, &args.metadata) {
        let value = serde_json::from_slice(text).map_err(|source| RunError::Metadata {
            path: path.clone(),
            source,
        })?;
        host.act(Action::PutMmds(value)).map_err(|fault| refused(&fault))?;
    }
    if let Some((wanted, file)) = named.metrics {
        host.count_to(wanted, file).map_err(|fault| refused(&fault))?;
    }
    if let Some(text) = &named.configuration {
        configure(host, text)?;
    }
    if args.prepared || args.prepared_for.is_some() {
        let prepared = host.prepare(named.prepared_for, args.prepared_track_dirty);
        prepared.map_err(|fault| not_started(host, &fault))?;
    }
    if let Some(clients) = clients {
        host.events()
            .add(borrowed(&clients.wake), Key::Wake)
            .map_err(RunError::Wait)?;
    }
    Ok(())
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
            let met = check_needs(&action, host.files()).map_err(Fault::from);
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
            confine::api_thread_unfiltered
        } else {
            confine::api_thread
        })?,
    })
}

/// Does what a configuration file says, and starts the machine.
fn configure(host: &mut Host, text: &[u8]) -> Result<(), RunError> {
    let file = ConfigFile::parse(text)?;
    if let Some(template) = &file.cpu_config {
        let mut body = Vec::new();
        let mut opened = host.files().open("CPU template", template, Access::Read)?;
        opened.read_to_end(&mut body).map_err(RunError::Template)?;
        let request = ringwall_vmm_proto::parse(Method::Put, "/cpu-config", &body);
        let request = request.map_err(|error| RunError::Refused(error.to_string()))?;
        host.act(request.action).map_err(|fault| refused(&fault))?;
    }
    for action in file.actions {
        check_needs(&action, host.files())?;
        host.act(action).map_err(|fault| refused(&fault))?;
    }
    let started = host.act(Action::Start);
    started.map_err(|fault| not_started(host, &fault))?;
    Ok(())
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

fn log(args: &Args, files: &Files) -> Result<(), RunError> {
    logging::begin(args.level, args.show_level, args.show_log_origin);
    if let Some(path) = &args.log_path {
        logging::to_file(files.open("log", &host_path("--log-path", path)?, Access::Record)?);
    }
    Ok(())
}
