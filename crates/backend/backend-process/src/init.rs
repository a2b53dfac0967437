//! The first process of a sandbox: builds its world, starts the program, forwards signals, reaps, reports the end.
//!
//! In the namespace tier it is pid 1: when it dies, the kernel kills everything in its pid namespace. In the landlock tier it adopts
//! orphans and kills what is left of its session. It dies with the keeper (PR_SET_PDEATHSIG), at any point. It keeps no capability
//! once the root is built, but for those that an agent of several users needs, and can't be traced by the program.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use ringwall_confine::landlock::Restriction;
use ringwall_confine::lockdown::{drop_privileges, keep_privileges, keep_privileges_of_root};
use ringwall_confine::root::{self, BuildRootError, Sources};
use ringwall_confine::view::{Entry, Source, View};
use ringwall_sys::capabilities::Capabilities;
use ringwall_sys::mount::{self, MountAttributes};
use ringwall_sys::process::{Ended, Fork, Namespaces, Usage, Waited, exit_now, fork, kill, loopback_up, wait};
use ringwall_sys::{pass_fd, privilege, signal};
use ringwall_types::Tier;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, openat2};

use crate::control::Message;
use crate::kill_tree::kill_session;
use crate::launch::{Launch, OWN_FAILURE, chain};
use crate::plan::{Placed, Plan};
use crate::terminal;

const SIGKILL: i32 = 9;
const SIGCHLD: i32 = 17;
const SIGSTOP: i32 = 19;
const SIGTSTP: i32 = 20;

/// Everything init needs from the keeper.
#[derive(Debug)]
pub(crate) struct Init<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) control: BorrowedFd<'a>,
    /// The directory that holds `upper` and `work`, as the plan's other paths: found and identified.
    pub(crate) layer: Option<crate::plan::HostPath>,
    pub(crate) outputs: Option<(OwnedFd, OwnedFd)>,
    pub(crate) filter: Vec<ringwall_sys::Instruction>,
    pub(crate) listen: bool,
    pub(crate) restriction: Option<Restriction>,
    pub(crate) timed: bool,
    pub(crate) memory_size: Option<u64>,
    /// Whether to wait for the keeper's go (it maps ids, or puts init into control groups, first).
    pub(crate) waits: bool,
    /// Whether programs of `root` inside are to have capabilities there.
    pub(crate) root_has_rights: bool,
    /// The agent's executable on a mount of its own, once it is made.
    pub(crate) agent: Option<OwnedFd>,
}

/// What kept the sandbox from being made: only the machine's lack makes `auto` look for another tier, never something about a path.
enum StartFailure {
    Request(String),
    Machine(String),
}

impl From<String> for StartFailure {
    fn from(why: String) -> Self {
        StartFailure::Machine(why)
    }
}

impl StartFailure {
    fn of_root(error: BuildRootError) -> Self {
        let is_request = error.is_about_a_path();
        let why = chain(error);
        if is_request {
            StartFailure::Request(why)
        } else {
            StartFailure::Machine(why)
        }
    }
}

impl Init<'_> {
    /// Runs to the end of the sandbox.
    pub(crate) fn run(mut self) -> ! {
        privilege::set_name(c"ringwall-init");
        match self.start() {
            Ok(program) => self.serve(program),
            Err(failure) => {
                let message = match failure {
                    StartFailure::Request(why) => Message::Failed(why),
                    StartFailure::Machine(why) => Message::Unavailable(why),
                };
                drop(pass_fd::send(self.control, &message.encode(), &[]));
                exit_now(OWN_FAILURE)
            }
        }
    }

    /// Builds the world and forks the program; returns its pid.
    fn start(&mut self) -> Result<i32, StartFailure> {
        let begun = Instant::now();
        self.tie_to_keeper()?;
        rustix::process::setsid().map_err(|error| format!("can't make a session: {error}"))?;
        let terminal = match self.plan.tier {
            Tier::Namespace => self.enter_namespaces()?,
            Tier::Landlock => self.stay_outside()?,
        };
        let built = Instant::now();
        if self.timed {
            let us = u64::try_from(built.duration_since(begun).as_micros()).unwrap_or(u64::MAX);
            self.send(&Message::RootBuilt(us), &[])?;
        }
        let filter = std::mem::take(&mut self.filter);
        let launch = Launch {
            plan: self.plan,
            control: self.control,
            terminal,
            outputs: self.outputs.as_ref(),
            filter: &filter,
            listen: self.listen,
            restriction: self.restriction.take(),
            user: (self.plan.tier == Tier::Landlock && self.plan.identity.is_range())
                .then(|| self.plan.identity.outside()),
            since: built,
            timed: self.timed,
            agent: self.agent.take(),
        };
        if self.plan.guest.is_some() {
            // The agent takes init's place: the first process of a pid namespace can't be killed from within.
            launch.go()
        }
        match fork(Namespaces::NONE).map_err(|error| format!("can't fork: {error}"))? {
            Fork::Child => {
                if self.plan.tier == Tier::Landlock {
                    // No pid namespace here: each link of the chain is tied to the one above.
                    drop(privilege::die_with_parent(SIGKILL));
                }
                launch.go()
            }
            Fork::Parent(pid) => Ok(pid),
        }
    }

    fn send(&self, message: &Message, fds: &[BorrowedFd<'_>]) -> Result<(), String> {
        pass_fd::send(self.control, &message.encode(), fds).map_err(|error| format!("can't reach the keeper: {error}"))
    }

    /// From here on init dies with the keeper; it exits if that happened before.
    fn tie_to_keeper(&self) -> Result<(), String> {
        privilege::die_with_parent(SIGKILL).map_err(|error| format!("can't tie init to its keeper: {error}"))?;
        let mut set = [rustix::event::PollFd::new(
            &self.control,
            rustix::event::PollFlags::empty(),
        )];
        // What matters is read from the set: an error leaves it empty.
        let _ = rustix::event::poll(&mut set, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 }));
        if set[0].revents().contains(rustix::event::PollFlags::HUP) {
            exit_now(OWN_FAILURE);
        }
        Ok(())
    }

    /// Waits for the keeper's go and takes the mounts that came with it.
    fn wait_for_go(&self) -> Result<Vec<OwnedFd>, String> {
        if !self.waits {
            return Ok(Vec::new());
        }
        match pass_fd::receive(self.control) {
            Ok(Some((_, fds))) => Ok(fds),
            Ok(None) => exit_now(OWN_FAILURE),
            Err(error) => Err(format!("can't hear the keeper: {error}")),
        }
    }

    fn enter_namespaces(&mut self) -> Result<Option<OwnedFd>, StartFailure> {
        let plan = self.plan;
        if !plan.identity.is_range() {
            plan.identity.write_maps("self").map_err(|error| {
                format!("can't map user ids: {error} (unprivileged user namespaces are restricted here; `ringwall doctor` says how)")
            })?;
        }
        let mounts = self.wait_for_go()?;
        let sources = Sources::open(self.view(mounts)).map_err(StartFailure::of_root)?;
        if let Some(guest) = &plan.guest {
            self.agent = Some(read_only(&guest.agent).map_err(|error| format!("can't hold the agent: {error}"))?);
        }
        if plan.identity.is_range() {
            privilege::become_user(0, 0).map_err(|error| format!("can't change the user: {error}"))?;
            // The change of user cleared both; /proc/self must stay usable until the root is built.
            privilege::set_dumpable(true).map_err(|error| format!("can't stay dumpable: {error}"))?;
            self.tie_to_keeper()?;
        }
        rustix::system::sethostname(b"ringwall").map_err(|error| format!("can't set the host name: {error}"))?;
        if !plan.host_network {
            loopback_up().map_err(|error| format!("can't bring the loopback device up: {error}"))?;
        }
        root::build(sources).map_err(StartFailure::of_root)?;
        let terminal = self.open_terminal()?;
        if self.root_has_rights {
            // The same, and it hands some of it on to the programs of root.
            keep_privileges_of_root(Capabilities::LOOK_AFTER_ROOT).map_err(chain)?;
        } else if plan.guest.is_some() && plan.identity.is_range() {
            // The agent runs programs of several users: it stays uid 0 inside, with what it takes to become them and to end them.
            keep_privileges(Capabilities::LOOK_AFTER_USERS).map_err(chain)?;
        } else {
            drop_privileges().map_err(chain)?;
        }
        privilege::set_dumpable(false).map_err(|error| format!("can't hide init: {error}"))?;
        Ok(terminal)
    }

    fn stay_outside(&mut self) -> Result<Option<OwnedFd>, String> {
        drop(self.wait_for_go()?);
        privilege::adopt_orphans().map_err(|error| format!("can't adopt orphans: {error}"))?;
        privilege::set_dumpable(false).map_err(|error| format!("can't hide init: {error}"))?;
        let terminal = self.open_terminal()?;
        if let Some(slave) = &terminal {
            // Init leads the session, so it is the one that can take the terminal.
            rustix::process::ioctl_tiocsctty(slave).map_err(|error| format!("can't take the terminal: {error}"))?;
        }
        Ok(terminal)
    }

    fn open_terminal(&self) -> Result<Option<OwnedFd>, String> {
        if !self.plan.tty {
            return Ok(None);
        }
        let (master, slave) = terminal::open_pair().map_err(|error| format!("can't make a terminal: {error}"))?;
        self.send(&Message::Terminal, &[master.as_fd()])?;
        Ok(Some(slave))
    }

    /// Turns the plan into entries. `mounts` are what the keeper made of [`Plan::sources`], in their order; none when init opens paths.
    fn view(&self, mounts: Vec<OwnedFd>) -> View {
        let mut mounts = mounts.into_iter();
        let mut source = |host: &crate::plan::HostPath| match mounts.next() {
            Some(mount) => Source::Mount(mount),
            None => Source::Path {
                path: host.path.clone(),
                id: host.id,
            },
        };
        let mut entries = Vec::with_capacity(self.plan.placed.len() + 1);
        if let (Some(captured), Some(layer)) = (&self.plan.captured, &self.layer) {
            let path = if self.plan.is_root_captured {
                "/".into()
            } else {
                captured.path.clone()
            };
            let mut lowers = vec![source(captured)];
            lowers.extend(self.plan.lowers_below.iter().map(&mut source));
            entries.push(Entry::Captured {
                lowers,
                layer: source(layer),
                path,
            });
        }
        for placed in &self.plan.placed {
            entries.push(match placed {
                Placed::System(path) => Entry::System(path.clone()),
                Placed::Link { path, target } => Entry::Link {
                    path: path.clone(),
                    target: target.clone(),
                },
                Placed::File { path, content } => Entry::File {
                    path: path.clone(),
                    content: content.clone(),
                },
                Placed::Private { path, mode } => Entry::Private {
                    path: path.clone(),
                    mode: *mode,
                },
                Placed::Hidden { path, is_dir } => Entry::Hidden {
                    path: path.clone(),
                    is_dir: *is_dir,
                },
                Placed::Bind {
                    host,
                    target,
                    read_only,
                    ..
                } => Entry::Bind {
                    source: source(host),
                    path: target.clone(),
                    is_dir: host.is_dir,
                    read_only: *read_only,
                },
            });
        }
        View {
            entries,
            memory_size: self.memory_size,
            has_own_root: self.plan.has_own_root,
        }
    }

    /// Forwards signals and reaps until the program has ended; then ends everything else and reports.
    fn serve(self, program: i32) -> ! {
        let mut total = Usage::default();
        let mut count = |usage: Usage| {
            total.user_us += usage.user_us;
            total.system_us += usage.system_us;
            total.max_rss_kib = total.max_rss_kib.max(usage.max_rss_kib);
        };
        let keeper = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
        let ended = 'ended: loop {
            // Reap first: the program may have ended before the first signal is taken.
            loop {
                match wait(None, false) {
                    Ok(Waited::Child(pid, ended, usage)) => {
                        count(usage);
                        if pid == program {
                            break 'ended ended;
                        }
                    }
                    Ok(Waited::Running) => break,
                    // Without children there is no program either; only a bug leads here.
                    Ok(Waited::NoChildren) | Err(_) => break 'ended Ended::Exited(OWN_FAILURE),
                }
            }
            match signal::take() {
                Ok(received) if received.signal == SIGCHLD => {}
                // In a pid namespace the keeper is outside of, its pid shows as 0, as `keeper` does. The program may not use init to
                // signal others.
                Ok(received) if received.sender == keeper && !received.from_kernel => {
                    // The program leads an orphaned process group, in which SIGTSTP has no effect (setpgid(2)).
                    let signal = if received.signal == SIGTSTP {
                        SIGSTOP
                    } else {
                        received.signal
                    };
                    drop(kill(-program, signal));
                }
                Ok(_) => {}
                Err(_) => break Ended::Exited(OWN_FAILURE),
            }
        };
        self.end_all();
        while let Ok(Waited::Child(_, _, usage)) = wait(None, true) {
            count(usage);
        }
        drop(pass_fd::send(
            self.control,
            &Message::Finished(ended, total).encode(),
            &[],
        ));
        exit_now(0)
    }

    fn end_all(&self) {
        match self.plan.tier {
            // Everything in this pid namespace but init itself (kill(2)).
            Tier::Namespace => drop(kill(-1, SIGKILL)),
            Tier::Landlock => {
                // Orphans come to init: when it has no children, there is nobody left, and /proc need not be searched.
                if matches!(wait(None, false), Ok(Waited::NoChildren)) {
                    return;
                }
                // Init made the session; the program and its children can't leave it.
                let session = rustix::process::getpid().as_raw_nonzero().get();
                kill_session(session, session);
            }
        }
    }
}

/// Clones the mount at an executable, read-only: whoever gets hold of it inside, say by /proc/PID/exe, can't write to the host's file.
fn read_only(executable: &crate::plan::HostPath) -> std::io::Result<OwnedFd> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    // Opened here and not by the keeper: only what this mount namespace holds can be cloned.
    let fd = openat2(
        CWD,
        &executable.path,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )?;
    let found = fstat(&fd)?;
    if (found.st_dev, found.st_ino) != executable.id {
        return Err(std::io::Error::other(
            "it was replaced while the sandbox was being made",
        ));
    }
    let tree = mount::clone_tree(fd.as_fd(), false)?;
    let attributes = MountAttributes::READ_ONLY.and(MountAttributes::NO_SUID);
    mount::change_attributes_at(tree.as_fd(), attributes, false)?;
    Ok(tree)
}
