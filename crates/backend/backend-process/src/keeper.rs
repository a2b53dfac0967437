//! The keeper: the host process of one sandbox. Makes it, watches it, and settles what is left when it ends.
//!
//! One thread, one loop over a few descriptors: messages from init, signals, and where asked for a terminal, output pipes and the
//! seccomp listener. The keeper holds the name's lock for as long as it lives; when it is killed, init dies with it and the kernel
//! takes the namespaces down.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use ringwall_cgroup::Group;
use ringwall_policy::Changes;
use ringwall_sandbox::{Backend, ExitReason, Exposed, REPORT_VERSION, Report, RunSpec, Timings, Usage};
use ringwall_seccomp::{Arch, Denied, Options};
use ringwall_sys::counted::CountedAs;
use ringwall_sys::process::{self, Ended, Fork, Namespaces, Waited, fork, fork_into, kill, poll_readable, wait};
use ringwall_sys::{mount, pass_fd, signal};
use ringwall_types::{Isolation, SandboxName, Tier};
use rustix::fs::{CWD, Mode, OFlags};

use crate::control::Message;
use crate::denials::Denials;
use crate::disk_watch::DiskWatch;
use crate::error::{RunError, keeper};
use crate::guest_sockets::GuestSockets;
use crate::init::Init;
use crate::kill_tree::{kill_session, stat};
use crate::plan::{self, HostPath, Plan};
use crate::settle::{self, Layer};
use crate::state::{Record, StateDir, StoredSandbox};
use crate::terminal::{RawMode, Relay, copy_window_size};
use crate::{identity, limits, protections};

const SIGINT: i32 = 2;
const SIGQUIT: i32 = 3;
const SIGHUP: i32 = 1;
const SIGKILL: i32 = 9;
const SIGUSR1: i32 = 10;
const SIGUSR2: i32 = 12;
const SIGTERM: i32 = 15;
const SIGCONT: i32 = 18;
const SIGTSTP: i32 = 20;
const SIGWINCH: i32 = 28;

/// Signals passed on to the program as they are.
const FORWARDED: [i32; 7] = [SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGTERM, SIGCONT];
/// The real-time signal by which `ringwall kill` asks a keeper to end its sandbox.
pub const KILL_REQUEST: i32 = 40;
/// How long the program has between the polite signal and the last one when its time is up.
const GRACE: Duration = Duration::from_millis(500);

/// Runs commands in one of the process tiers.
#[derive(Debug, Clone)]
pub struct ProcessBackend {
    tier: Tier,
    state: StateDir,
}

impl ProcessBackend {
    /// Makes a backend for `tier` that keeps its state in `state`.
    #[must_use]
    pub fn new(tier: Tier, state: StateDir) -> Self {
        ProcessBackend { tier, state }
    }
}

impl Backend for ProcessBackend {
    type Error = RunError;

    fn tier(&self) -> Tier {
        self.tier
    }

    fn run(&self, spec: &RunSpec) -> Result<Report, RunError> {
        run_in_tier(spec, self.tier, &self.state)
    }
}

/// Runs a command in the strongest process tier that the machine and the request allow.
///
/// # Errors
/// When the command could not be started confined as asked.
pub fn run(spec: &RunSpec, state: &StateDir) -> Result<Report, RunError> {
    let backend = |tier| ProcessBackend::new(tier, state.clone());
    match spec.policy.isolation {
        Isolation::Namespace => backend(Tier::Namespace).run(spec),
        Isolation::Landlock => backend(Tier::Landlock).run(spec),
        Isolation::Auto => match backend(Tier::Namespace).run(spec) {
            Err(first @ RunError::Unavailable { .. })
                if spec.policy.min_isolation.is_none_or(|least| least <= Tier::Landlock) =>
            {
                match backend(Tier::Landlock).run(spec) {
                    Ok(mut report) => {
                        report.passed_over.push(first.to_string());
                        Ok(report)
                    }
                    Err(second) => Err(RunError::NoTier {
                        first: Box::new(first),
                        second: Box::new(second),
                    }),
                }
            }
            result => result,
        },
    }
}

/// Descriptors between keeper and init.
struct Channels {
    control: OwnedFd,
    init_end: OwnedFd,
    /// Read ends and write ends of the output pipes.
    outputs: Option<[(OwnedFd, OwnedFd); 2]>,
}

impl Channels {
    fn open(log_output: bool) -> Result<Self, RunError> {
        let (control, init_end) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|error| keeper("make a socket pair")(error.into()))?;
        let pipe = || {
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
                .map_err(|error| keeper("make a pipe")(error.into()))
        };
        let outputs = if log_output { Some([pipe()?, pipe()?]) } else { None };
        Ok(Channels {
            control,
            init_end,
            outputs,
        })
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn run_in_tier(spec: &RunSpec, tier: Tier, state: &StateDir) -> Result<Report, RunError> {
    let begun = Instant::now();
    let mut timings = Timings::default();
    let name = spec.policy.name.clone().unwrap_or_else(random_name);
    let private = (tier == Tier::Landlock).then(|| protections::private_dir(state, &name));
    protections::check_landlock(tier)?;
    let mut plan = plan::resolve(spec, tier, state.path(), private.as_deref())?;
    // A run ends with its keeper; only what is served is paused.
    plan.limits.group.freezer = spec.guest.is_some();
    let groups = limits::plan_groups(&mut plan.limits, &name)?;
    timings.plan_us = micros(begun);

    let prepared = Instant::now();
    let (stored, is_new) = state.claim(&name)?;
    let layer = match settle::prepare(&stored, is_new, &plan) {
        Ok(layer) => layer,
        Err(error) => {
            if is_new {
                drop(stored.remove());
            }
            return Err(error);
        }
    };
    let sockets = match (&spec.guest, &mut plan.guest) {
        (Some(guest), Some(planned)) => {
            let sockets = GuestSockets::bind(stored.path()).map_err(keeper("make the agent's sockets"))?;
            plan.arguments.extend(sockets.arguments());
            planned.descriptors.extend(sockets.descriptors());
            rustix::io::write(&guest.ready, b"b")
                .map_err(|error| keeper("say that the sockets are there")(error.into()))?;
            Some(sockets)
        }
        _ => None,
    };
    timings.state_us = micros(prepared);

    let mut keeper = Keeper {
        spec,
        plan,
        stored,
        layer,
        groups,
        timings,
        begun,
        group: None,
        is_born_in_group: false,
        root_has_rights: false,
        init: 0,
        denials: None,
        stop: None,
        finished: None,
        failure: None,
        sockets,
    };
    let result = keeper.run();
    keeper.clean_up_processes();
    match result {
        Ok(()) => keeper.report(),
        Err(error) => {
            keeper.abandon(is_new);
            Err(error)
        }
    }
}

fn no_groups(why: String) -> RunError {
    RunError::Setup(format!("can't make the control groups: {why}"))
}

fn random_name() -> SandboxName {
    let mut bits = [0_u8; 8];
    if rustix::rand::getrandom(&mut bits, rustix::rand::GetRandomFlags::empty()).is_err() {
        // Before the kernel's pool is ready: unique enough, and a clash is only an error.
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        bits = now.as_nanos().to_le_bytes()[..8].try_into().unwrap_or_default();
    }
    SandboxName::from_random(u64::from_le_bytes(bits))
}

/// Why the keeper itself ends a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    Timeout,
    Disk,
}

/// Why the command did not start, as init or the program-to-be said.
#[derive(Debug)]
enum Failure {
    NotFound,
    NotExecutable(String),
    Setup(String),
    Unavailable(String),
}

pub(crate) struct Keeper<'a> {
    spec: &'a RunSpec,
    plan: Plan,
    stored: StoredSandbox,
    layer: Option<Layer>,
    groups: Option<ringwall_cgroup::Plan>,
    timings: Timings,
    begun: Instant,
    group: Option<Group>,
    /// Whether init was born in the v2 group.
    is_born_in_group: bool,
    /// Whether programs of `root` inside are to have capabilities there.
    root_has_rights: bool,
    init: i32,
    denials: Option<Denials>,
    stop: Option<Stop>,
    finished: Option<(Ended, process::Usage)>,
    failure: Option<Failure>,
    /// Held until init has them: a connection that comes too early waits, one that comes too late is refused.
    sockets: Option<GuestSockets>,
}

impl Keeper<'_> {
    fn run(&mut self) -> Result<(), RunError> {
        let channels = Channels::open(self.spec.log_output && !self.plan.tty)?;
        let (profile, options) = self.filter_choice();
        let filter = ringwall_seccomp::compile(profile, options, Arch::NATIVE)
            .map_err(|error| keeper("compile the seccomp filter")(std::io::Error::other(error)))?;
        let restriction = protections::restriction(&self.plan, self.plan.private.as_deref());
        signal::block_all().map_err(keeper("block signals"))?;
        let signals = signal::descriptor().map_err(keeper("make a signal descriptor"))?;

        let has_limits = self.groups.as_ref().is_some_and(ringwall_cgroup::Plan::has_limits);
        let waits = self.plan.identity.is_range() || has_limits || self.plan.tier == Tier::Landlock;
        let cloned = Instant::now();
        let namespaces = match self.plan.tier {
            Tier::Landlock => Namespaces::NONE,
            Tier::Namespace if self.plan.host_network => Namespaces::BASE,
            Tier::Namespace => Namespaces::BASE.with_network(),
        };
        // Before anything can change: what is found after a crash must say what was to become of it.
        self.write_record(None)?;
        let layer_path = self.layer.as_ref().map(|layer| layer.host.clone());
        if let Some(groups) = &self.groups {
            let group = Group::create(groups).map_err(|error| no_groups(crate::launch::chain(error)))?;
            self.group = Some(group);
        }
        let Channels {
            control,
            init_end,
            outputs,
        } = channels;
        let (read_ends, write_ends) = match outputs {
            Some([(out, out_end), (err, err_end)]) => (Some([out, err]), Some((out_end, err_end))),
            None => (None, None),
        };
        match self.fork(namespaces) {
            Ok(Fork::Child) => {
                // Init must see when the keeper's end closes, so it may not hold that end itself.
                drop(control);
                drop(read_ends);
                drop(signals);
                let init = Init {
                    plan: &self.plan,
                    control: init_end.as_fd(),
                    layer: layer_path,
                    outputs: write_ends,
                    filter,
                    listen: self.spec.record_denials,
                    restriction,
                    timed: self.spec.record_denials,
                    memory_size: self.plan.limits.disk,
                    waits,
                    root_has_rights: self.root_has_rights,
                    agent: None,
                };
                init.run()
            }
            Ok(Fork::Parent(pid)) => self.init = pid,
            Err(error) => {
                let why = format!("clone(2) with namespaces failed: {error}");
                return Err(RunError::Unavailable {
                    tier: self.plan.tier,
                    why,
                });
            }
        }
        drop(init_end);
        drop(write_ends);
        self.sockets = None;
        self.timings.clone_us = micros(cloned);
        if self.plan.tier == Tier::Landlock || self.plan.guest.is_some() {
            // No pid namespace ends with init in the landlock tier: gc must know the session. A guest is frozen by its first process.
            self.write_record(None)?;
        }
        if waits {
            self.let_go(control.as_fd(), layer_path.as_ref())?;
        }
        self.watch(control.as_fd(), signals.as_fd(), read_ends)
    }

    /// Forks init. Root of a served sandbox has its rights only where the processes of all users inside are counted together: who may become
    /// any user would otherwise have the limit of each.
    fn fork(&mut self, namespaces: Namespaces) -> std::io::Result<Fork> {
        if self.plan.guest.is_some()
            && self.plan.identity.is_range()
            && let Some(processes) = self.plan.limits.processes_in_all()
            && let Ok(counted) = CountedAs::enter(identity::counting_id(), processes)
        {
            self.root_has_rights = true;
            let forked = self.fork_into_group(namespaces);
            match forked {
                // Its ids are of a new user namespace now.
                Ok(Fork::Child) => counted.stay(),
                _ => counted.leave()?,
            }
            return forked;
        }
        if self.plan.guest.is_some() && self.plan.identity.is_range() {
            let note = "root inside has no capabilities: this process may not be counted as another user";
            self.plan.notes.push(note.to_owned());
        }
        self.fork_into_group(namespaces)
    }

    /// Forks, into the v2 group where there is one.
    fn fork_into_group(&mut self, namespaces: Namespaces) -> std::io::Result<Fork> {
        let Some(group) = &mut self.group else {
            return fork(namespaces);
        };
        if let Some(directory) = group.open_for_clone()
            && let Ok(forked) = fork_into(namespaces, directory.as_fd())
        {
            self.is_born_in_group = true;
            return Ok(forked);
        }
        // An old kernel, a container's filter, or what a plain clone says as well.
        group.give_up_freezing();
        fork(namespaces)
    }

    fn filter_choice(&mut self) -> (ringwall_seccomp::Profile, Options) {
        let profile = protections::profile(&self.plan);
        let denied = if self.spec.record_denials {
            Denied::Notify
        } else {
            Denied::Errno
        };
        let options = Options {
            denied,
            deny_setting_affinity: self.plan.limits.pin_cpus.is_some(),
        };
        if self.spec.record_denials {
            self.denials = Some(Denials::new(profile, options));
        }
        (profile, options)
    }

    fn write_record(&self, ended: Option<serde_json::Value>) -> Result<(), RunError> {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let record = Record {
            version: 1,
            keeper: rustix::process::getpid().as_raw_nonzero().get(),
            keeper_start: stat(rustix::process::getpid().as_raw_nonzero().get()).map_or(0, |stat| stat.start_time),
            init: self.init,
            init_start: stat(self.init).map_or(0, |stat| stat.start_time),
            tier: self.plan.tier,
            command: self.command_text(),
            started_ms: u64::try_from(now.as_millis())
                .unwrap_or(0)
                .saturating_sub(micros(self.begun) / 1000),
            cgroups: self
                .groups
                .iter()
                .flat_map(|groups| groups.paths().map(PathBuf::from))
                .collect(),
            changes: serde_json::to_value(self.plan.changes)
                .ok()
                .and_then(|value| value.as_str().map(str::to_owned))
                .unwrap_or_default(),
            ended,
        };
        Ok(self.stored.write_record(&record)?)
    }

    fn command_text(&self) -> Vec<String> {
        self.spec
            .command
            .iter()
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect()
    }

    /// Does what only the keeper can, while init waits, and lets it go on.
    fn let_go(&mut self, control: BorrowedFd<'_>, layer: Option<&HostPath>) -> Result<(), RunError> {
        if let Some(group) = &self.group {
            let added = if self.is_born_in_group {
                group.add_born_inside(self.init)
            } else {
                group.add(self.init)
            };
            added.map_err(|error| no_groups(crate::launch::chain(error)))?;
        }
        let mut mounts = Vec::new();
        if self.plan.identity.is_range() && self.plan.tier == Tier::Namespace {
            let process = self.init.to_string();
            self.plan
                .identity
                .write_maps(&process)
                .map_err(keeper("map user ids"))?;
            let path = format!("/proc/{process}/ns/user");
            let user_namespace = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|error| keeper("open the user namespace")(error.into()))?;
            for (host, is_shifted) in self.plan.sources(layer) {
                mounts.push(source_mount(host, is_shifted.then_some(user_namespace.as_fd()))?);
            }
        }
        let borrowed: Vec<_> = mounts.iter().map(AsFd::as_fd).collect();
        match pass_fd::send(control, b"g", &borrowed) {
            Ok(()) => Ok(()),
            // Init is gone: why, it has said in a message that is read next.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(keeper("let the sandbox go on")(error)),
        }
    }

    /// Watches until nothing of the sandbox is left.
    fn watch(
        &mut self,
        control: BorrowedFd<'_>,
        signals: BorrowedFd<'_>,
        pipes: Option<[OwnedFd; 2]>,
    ) -> Result<(), RunError> {
        let log = if self.spec.log_output {
            Some(self.open_log()?)
        } else {
            None
        };
        let log = log.as_ref().map(AsFd::as_fd);
        let mut deadline = self
            .plan
            .limits
            .timeout
            .and_then(|timeout| self.begun.checked_add(timeout));
        let mut disk = match (self.plan.limits.disk, &self.layer) {
            (Some(limit), Some(layer)) => Some(DiskWatch::new(limit, &layer.host.path)),
            _ => None,
        };
        let mut listener: Option<OwnedFd> = None;
        let mut terminal: Option<(OwnedFd, RawMode)> = None;
        let mut stdin_open = true;
        let mut pipes_open = [true; 2];
        loop {
            let mut fds = vec![control.as_raw_fd(), signals.as_raw_fd()];
            let mut wants = |fd: Option<i32>| {
                // A negative descriptor is skipped by poll(2).
                fds.push(fd.unwrap_or(-1));
            };
            wants(listener.as_ref().map(AsRawFd::as_raw_fd));
            wants(terminal.as_ref().map(|(master, _)| master.as_raw_fd()));
            wants((terminal.is_some() && stdin_open).then_some(0));
            for index in 0..2 {
                wants(
                    pipes
                        .as_ref()
                        .filter(|_| pipes_open[index])
                        .map(|pipes| pipes[index].as_raw_fd()),
                );
            }
            let now = Instant::now();
            let next = [deadline, disk.as_ref().map(|disk| disk.next)]
                .into_iter()
                .flatten()
                .min();
            let ready =
                poll_readable(&fds, next.map(|next| next.saturating_duration_since(now))).map_err(keeper("wait"))?;

            if ready[1] {
                while let Some(signal) = signal::next(signals) {
                    self.on_signal(signal, terminal.as_ref().map(|(master, _)| master.as_fd()));
                }
            }
            if ready[2]
                && let (Some(fd), Some(denials)) = (&listener, &mut self.denials)
                && !denials.answer(fd.as_fd())
            {
                listener = None;
            }
            if ready[4]
                && let Some((master, _)) = &terminal
            {
                stdin_open = Relay {
                    from: rustix::stdio::stdin(),
                    to: master.as_fd(),
                    copy: None,
                }
                .pump();
            }
            if ready[3]
                && let Some((master, _)) = &terminal
                && !(Relay {
                    from: master.as_fd(),
                    to: rustix::stdio::stdout(),
                    copy: log,
                })
                .pump()
            {
                terminal = None;
            }
            if let Some([out, err]) = &pipes {
                let relays = [
                    Relay {
                        from: out.as_fd(),
                        to: rustix::stdio::stdout(),
                        copy: log,
                    },
                    Relay {
                        from: err.as_fd(),
                        to: rustix::stdio::stderr(),
                        copy: log,
                    },
                ];
                for (index, relay) in relays.iter().enumerate() {
                    if ready[5 + index] {
                        pipes_open[index] = relay.pump();
                    }
                }
            }
            if ready[0] {
                match pass_fd::receive(control).map_err(keeper("hear the sandbox"))? {
                    None => break,
                    Some((bytes, mut fds)) => match Message::decode(&bytes) {
                        Some(Message::Terminal) if !fds.is_empty() => {
                            let master = fds.swap_remove(0);
                            copy_window_size(master.as_fd());
                            terminal = Some((master, RawMode::enter()));
                        }
                        Some(Message::Listener) if !fds.is_empty() => listener = Some(fds.swap_remove(0)),
                        Some(message) => self.on_message(message),
                        None => return Err(keeper("hear the sandbox")(std::io::Error::other("malformed message"))),
                    },
                }
            }
            let now = Instant::now();
            if deadline.is_some_and(|deadline| now >= deadline) {
                deadline = if self.stop.is_none() {
                    self.stop = Some(Stop::Timeout);
                    drop(kill(self.init, SIGTERM));
                    // A stopped program would not see it.
                    drop(kill(self.init, SIGCONT));
                    now.checked_add(GRACE)
                } else {
                    drop(kill(self.init, SIGKILL));
                    None
                };
            }
            if let Some(watch) = &mut disk
                && now >= watch.next
                && watch.is_over()
            {
                self.stop = Some(Stop::Disk);
                disk = None;
                drop(kill(self.init, SIGKILL));
            }
        }
        // Everything in the sandbox is dead or dying: what it wrote is in the pipes, then they end.
        if let Some((master, _)) = &terminal {
            while (Relay {
                from: master.as_fd(),
                to: rustix::stdio::stdout(),
                copy: log,
            })
            .pump()
            {}
        }
        if let Some([out, err]) = &pipes {
            while pipes_open[0]
                && (Relay {
                    from: out.as_fd(),
                    to: rustix::stdio::stdout(),
                    copy: log,
                })
                .pump()
            {}
            while pipes_open[1]
                && (Relay {
                    from: err.as_fd(),
                    to: rustix::stdio::stderr(),
                    copy: log,
                })
                .pump()
            {}
        }
        Ok(())
    }

    fn open_log(&self) -> Result<OwnedFd, RunError> {
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::open(self.stored.output_log(), flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| keeper("open the output log")(error.into()))
    }

    fn on_message(&mut self, message: Message) {
        match message {
            Message::RootBuilt(us) => self.timings.root_us = us,
            Message::Executing(us) => self.timings.lockdown_us = us,
            Message::Finished(ended, usage) => self.finished = Some((ended, usage)),
            Message::NotFound => self.failure = Some(Failure::NotFound),
            Message::NotExecutable(why) => self.failure = Some(Failure::NotExecutable(why)),
            Message::Failed(why) => self.failure = Some(Failure::Setup(why)),
            Message::Unavailable(why) => self.failure = Some(Failure::Unavailable(why)),
            Message::Terminal | Message::Listener => {}
        }
    }

    fn on_signal(&mut self, signal: i32, terminal: Option<BorrowedFd<'_>>) {
        match signal {
            SIGWINCH => {
                if let Some(terminal) = terminal {
                    copy_window_size(terminal);
                }
            }
            SIGTSTP => {
                // The program leads an orphaned process group, where SIGTSTP does nothing (setpgid(2)).
                drop(kill(self.init, SIGTSTP));
                signal::stop_self();
                drop(kill(self.init, SIGCONT));
            }
            KILL_REQUEST => drop(kill(self.init, SIGKILL)),
            _ if FORWARDED.contains(&signal) => drop(kill(self.init, signal)),
            _ => {}
        }
    }

    /// Makes sure that no process and no control group of the run is left.
    fn clean_up_processes(&mut self) {
        if self.init > 0 {
            if self.finished.is_none() {
                drop(kill(self.init, SIGKILL));
            }
            if self.plan.tier == Tier::Landlock && self.finished.is_none() {
                kill_session(self.init, rustix::process::getpid().as_raw_nonzero().get());
            }
            loop {
                match wait(Some(self.init), true) {
                    Ok(Waited::Child(..) | Waited::NoChildren) | Err(_) => break,
                    Ok(Waited::Running) => {}
                }
            }
        }
        if let Some(private) = &self.plan.private {
            protections::remove_private(private);
        }
    }

    /// Undoes what an unsuccessful start left.
    fn abandon(self, is_new: bool) {
        if let Some(group) = &self.group {
            drop(group.remove());
        }
        if is_new {
            drop(settle::discard(self.stored, self.layer));
        } else {
            drop(self.write_record(Some(serde_json::Value::String("not started".into()))));
        }
    }

    fn report(mut self) -> Result<Report, RunError> {
        match self.failure.take() {
            Some(Failure::Setup(why)) => {
                let is_new = self.spec.policy.name.is_none();
                self.abandon(is_new);
                Err(RunError::Setup(why))
            }
            Some(Failure::Unavailable(why)) => {
                let tier = self.plan.tier;
                let is_new = self.spec.policy.name.is_none();
                self.abandon(is_new);
                Err(RunError::Unavailable { tier, why })
            }
            Some(Failure::NotFound) => Ok(self.conclude(ExitReason::NotFound, 127)?),
            Some(Failure::NotExecutable(why)) => Ok(self.conclude(ExitReason::NotExecutable { why }, 126)?),
            None => {
                let (reason, code) = self.exit();
                self.conclude(reason, code)
            }
        }
    }

    /// Says why the run ended, and the code to exit with.
    fn exit(&self) -> (ExitReason, i32) {
        let events = self.group.as_ref().map(Group::events).unwrap_or_default();
        let ended = self.finished.map(|(ended, _)| ended);
        let code = match ended {
            Some(Ended::Exited(code)) => code,
            Some(Ended::Signaled(signal)) => 128 + signal,
            None => 128 + SIGKILL,
        };
        let was_killed = matches!(ended, None | Some(Ended::Signaled(SIGKILL)));
        let reason = match (self.stop, ended) {
            (Some(Stop::Timeout), _) => return (ExitReason::Timeout, 124),
            (Some(Stop::Disk), _) => ExitReason::Disk,
            _ if events.oom_kills > 0 && was_killed => ExitReason::Memory,
            _ if events.pids_max_hits > 0 && code != 0 => ExitReason::Pids { code },
            (_, Some(Ended::Exited(code))) => ExitReason::Exited { code },
            (_, Some(Ended::Signaled(signal))) => ExitReason::Signal { signal },
            (_, None) => ExitReason::Killed,
        };
        (reason, code)
    }

    /// Settles changes and state, and writes the report.
    fn conclude(mut self, exit: ExitReason, exit_code: i32) -> Result<Report, RunError> {
        let mut notes = std::mem::take(&mut self.plan.notes);
        let peak_memory_bytes = self.group.as_ref().and_then(|group| group.usage().peak_memory);
        if let Some(group) = &self.group
            && let Err(error) = group.remove()
        {
            notes.push(format!("a control group is left, `ringwall gc` removes it: {error}"));
        }
        let used = self.finished.map(|(_, usage)| usage).unwrap_or_default();
        let usage = Usage {
            wall_us: micros(self.begun),
            user_us: used.user_us,
            system_us: used.system_us,
            max_rss_kib: used.max_rss_kib,
            peak_memory_bytes,
        };
        let protections = protections::describe(&self.plan);
        let command = self.command_text();
        let denials_recorded = self.denials.is_some();
        let denials = self.denials.take().map(Denials::into_rows).unwrap_or_default();
        let ended = serde_json::to_value(&exit).ok();
        let name = self.stored.name().clone();
        let mut layer = self.layer.take();
        let keep_record = self.spec.log_output;
        let changes = settle::settle(&self, &self.stored, layer.as_mut(), exit_code, &mut notes)?;
        let kept = changes.as_ref().is_some_and(|changes| changes.state == "kept");
        if kept || keep_record || (self.spec.policy.name.is_some() && self.plan.changes == Changes::Keep) {
            self.write_record(ended)?;
        } else {
            let removed = if changes.is_none() && self.plan.changes != Changes::Discard {
                settle::remove_unchanged(self.stored, layer)
            } else {
                settle::discard(self.stored, layer)
            };
            if let Err(why) = removed {
                notes.push(format!(
                    "what the run left could not be removed, `ringwall gc` tries again: {why}"
                ));
            }
        }
        Ok(Report {
            version: REPORT_VERSION,
            name,
            command,
            tier: self.plan.tier,
            passed_over: Vec::new(),
            protections,
            limits: self.plan.limits.reports,
            exposed: Exposed {
                home_tools: self.plan.home_tools,
            },
            exit,
            exit_code,
            usage,
            timings: self.timings,
            denials,
            denials_recorded,
            changes,
            notes,
        })
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }
}

/// Clones the mount at a source for a run by root, with owners shifted into the sandbox's range if its user namespace is given.
fn source_mount(host: &HostPath, user_namespace: Option<BorrowedFd<'_>>) -> Result<OwnedFd, RunError> {
    let failed =
        |step: &str, error: std::io::Error| RunError::Setup(format!("can't {step} {}: {error}", host.path.display()));
    let resolve = rustix::fs::ResolveFlags::NO_SYMLINKS | rustix::fs::ResolveFlags::NO_MAGICLINKS;
    let fd = rustix::fs::openat2(CWD, &host.path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
        .map_err(|error| failed("open", error.into()))?;
    let found = rustix::fs::fstat(&fd).map_err(|error| failed("look at", error.into()))?;
    if (found.st_dev, found.st_ino) != host.id {
        return Err(RunError::Setup(format!(
            "{} was replaced while the sandbox was being made",
            host.path.display()
        )));
    }
    let tree = mount::clone_tree(fd.as_fd(), false).map_err(|error| failed("clone the mount of", error))?;
    if let Some(user_namespace) = user_namespace {
        mount::map_ids(tree.as_fd(), user_namespace).map_err(|error| {
            failed("shift the owners of (its file system or this kernel has no idmapped mounts; run as an ordinary user instead)", error)
        })?;
    }
    Ok(tree)
}
