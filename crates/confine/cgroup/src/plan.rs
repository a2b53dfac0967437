//! Chooses where a sandbox's groups go and what is written into them. Reads, decides, changes nothing.
//!
//! v1: below this process's own group in each hierarchy, so that every limit above it goes on holding. v2: in the nearest
//! group above (or this process's own) in which this user may make groups, move a process (which needs write access to that
//! group's `cgroup.procs`) and have the controllers. Rules: kernel `Documentation/admin-guide/cgroup-v2.rst`, "Delegation
//! Containment" and "No Internal Process Constraint". Below the chosen place lies `ringwall/NAME.PID`: the `ringwall` level
//! switches the controllers on for itself, so that nobody above (systemd does that) can switch them off under a running
//! sandbox: the kernel refuses it while a child uses them.

use std::fmt;
use std::path::{Path, PathBuf};

use ringwall_types::SandboxName;

use crate::control_file;
use crate::controller::{Controller, Mechanism};
use crate::host::{Hierarchy, Host};
use crate::why_not::WhyNot;

/// The directory that holds all groups of ours in one place.
pub(crate) const PARENT: &str = "ringwall";

/// The limits wanted. `None`: not limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Request {
    /// Bytes of memory, page cache of its files included, swap forbidden.
    pub memory: Option<u64>,
    /// Thousandths of a CPU.
    pub cpus_millis: Option<u32>,
    /// Processes and threads.
    pub pids: Option<u32>,
    /// Whether the sandbox should be in a group that can be frozen. Where there is none to be had, the plan just has none.
    pub freezer: bool,
}

/// Where the groups go and what they are given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub(crate) dirs: Vec<PlannedDir>,
}

/// One group to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlannedDir {
    pub(crate) path: PathBuf,
    pub(crate) is_v2: bool,
    pub(crate) controllers: Vec<Controller>,
    /// What the group above `ringwall` must switch on first; empty where it has it already.
    pub(crate) switch_on: Vec<Controller>,
    pub(crate) settings: Vec<Setting>,
    /// Made for freezing alone: the sandbox can do without it.
    pub(crate) is_optional: bool,
}

/// One value for one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) file: &'static str,
    pub(crate) value: String,
    /// Written instead where `file` does not exist; `None`: the file must exist.
    pub(crate) otherwise: Otherwise,
}

/// What a missing file means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Otherwise {
    Fail,
    Skip,
    Write(&'static str, &'static str),
}

/// The limits that can't be held, each with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitsUnavailable {
    /// The controllers and why each is out of reach.
    pub reasons: Vec<(Controller, WhyNot)>,
}

impl Request {
    /// The controllers that the limits need.
    #[must_use]
    pub fn controllers(&self) -> Vec<Controller> {
        let wanted = [self.memory.is_some(), self.cpus_millis.is_some(), self.pids.is_some()];
        Controller::ALL
            .into_iter()
            .zip(wanted)
            .filter_map(|(controller, is_wanted)| is_wanted.then_some(controller))
            .collect()
    }
}

impl Plan {
    /// Chooses a place for every limit.
    ///
    /// # Errors
    /// At least one limit can't be held by a control group; the error names each such limit and its reason.
    pub fn for_limits(request: &Request, name: &SandboxName, host: &Host) -> Result<Plan, LimitsUnavailable> {
        let group = format!("{name}.{}", host.keeper_pid);
        let wanted = request.controllers();
        let (on_v1, on_v2): (Vec<_>, Vec<_>) = wanted
            .iter()
            .partition(|controller| host.v1_with(**controller).is_some());
        let mut dirs: Vec<PlannedDir> = Vec::new();
        let mut reasons = Vec::new();
        for controller in on_v1 {
            match place_on_v1(controller, host) {
                Ok(place) => {
                    let path = place.join(PARENT).join(&group);
                    // cpu and memory may be mounted as one hierarchy.
                    match dirs.iter_mut().find(|dir| dir.path == path) {
                        Some(dir) => dir.controllers.push(controller),
                        None => dirs.push(PlannedDir::new(path, false, vec![controller], Vec::new())),
                    }
                }
                Err(why) => reasons.push((controller, why)),
            }
        }
        if !on_v2.is_empty() {
            match place_on_v2(&on_v2, host) {
                Ok(Place { dir, switch_on }) => {
                    dirs.push(PlannedDir::new(dir.join(PARENT).join(&group), true, on_v2, switch_on));
                }
                Err(all) => reasons.extend(all),
            }
        }
        if !reasons.is_empty() {
            return Err(LimitsUnavailable { reasons });
        }
        if request.freezer
            && !dirs.iter().any(|dir| dir.is_v2)
            && let Some(place) = place_for_freezing(host)
        {
            let mut dir = PlannedDir::new(place.join(PARENT).join(&group), true, Vec::new(), Vec::new());
            dir.is_optional = true;
            dirs.push(dir);
        }
        for dir in &mut dirs {
            dir.settings = dir
                .controllers
                .iter()
                .flat_map(|one| settings(*one, dir.is_v2, request))
                .collect();
        }
        Ok(Plan { dirs })
    }

    /// Whether a limit on one controller could be held, and by which mechanism; the path is that of the place, not of a group.
    ///
    /// # Errors
    /// It could not; the reason.
    pub fn examine(controller: Controller, host: &Host) -> Result<Mechanism, WhyNot> {
        if host.v1_with(controller).is_some() {
            return place_on_v1(controller, host).map(|path| Mechanism::CgroupV1 { path });
        }
        match place_on_v2(&[controller], host) {
            Ok(place) => Ok(Mechanism::CgroupV2 { path: place.dir }),
            Err(reasons) => Err(reasons.into_iter().next().map_or(WhyNot::NotMounted, |(_, why)| why)),
        }
    }

    /// The groups that will be made: to be journalled before [`crate::Group::create`] is called. The `ringwall` directory
    /// above each is shared and goes when its last group goes.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.dirs.iter().map(|dir| dir.path.as_path())
    }

    /// Whether a group holds limits, so that the sandbox may not run outside of it.
    #[must_use]
    pub fn has_limits(&self) -> bool {
        self.dirs.iter().any(|dir| !dir.is_optional)
    }

    /// By what each limit will hold.
    pub fn mechanisms(&self) -> impl Iterator<Item = (Controller, Mechanism)> {
        self.dirs.iter().flat_map(|dir| {
            dir.controllers.iter().map(|controller| {
                let path = dir.path.clone();
                (
                    *controller,
                    if dir.is_v2 {
                        Mechanism::CgroupV2 { path }
                    } else {
                        Mechanism::CgroupV1 { path }
                    },
                )
            })
        })
    }
}

impl PlannedDir {
    fn new(path: PathBuf, is_v2: bool, controllers: Vec<Controller>, switch_on: Vec<Controller>) -> Self {
        PlannedDir {
            path,
            is_v2,
            controllers,
            switch_on,
            settings: Vec::new(),
            is_optional: false,
        }
    }
}

fn place_on_v1(controller: Controller, host: &Host) -> Result<PathBuf, WhyNot> {
    let hierarchy = host.v1_with(controller).ok_or(WhyNot::NotMounted)?;
    let own = own_dir(hierarchy)?;
    if (host.is_writable)(&own) {
        Ok(own)
    } else {
        Err(WhyNot::BelongsToRoot { dir: own })
    }
}

fn own_dir(hierarchy: &Hierarchy) -> Result<PathBuf, WhyNot> {
    let own = hierarchy.own.as_ref();
    let own = own.ok_or_else(|| WhyNot::OwnGroupHidden {
        mount_point: hierarchy.mount_point.clone(),
    })?;
    // `join("")` would leave a slash at the end.
    Ok(if own.as_os_str().is_empty() {
        hierarchy.mount_point.clone()
    } else {
        hierarchy.mount_point.join(own)
    })
}

/// A v2 group that the sandbox's can be made below.
struct Place {
    dir: PathBuf,
    /// The controllers that it must switch on for that.
    switch_on: Vec<Controller>,
}

/// Finds the nearest group that can hold a child with these controllers.
fn place_on_v2(wanted: &[Controller], host: &Host) -> Result<Place, Vec<(Controller, WhyNot)>> {
    let fail = |why: WhyNot| {
        wanted
            .iter()
            .map(|controller| (*controller, why.clone()))
            .collect::<Vec<_>>()
    };
    let hierarchy = host.v2().ok_or_else(|| fail(WhyNot::NotMounted))?;
    let own = own_dir(hierarchy).map_err(fail)?;
    let mut reasons: Vec<Option<WhyNot>> = vec![None; wanted.len()];
    let mut possible = vec![false; wanted.len()];
    let mut delegated = false;
    for place in own
        .ancestors()
        .take_while(|dir| dir.starts_with(&hierarchy.mount_point))
    {
        if !(host.is_writable)(place) || !(host.is_writable)(&place.join("cgroup.procs")) {
            continue;
        }
        delegated = true;
        let state = PlaceState::read(place, hierarchy.is_whole && place == hierarchy.mount_point);
        let verdicts: Vec<_> = wanted
            .iter()
            .map(|controller| state.offers(*controller, place))
            .collect();
        if let Ok(needs) = verdicts.iter().cloned().collect::<Result<Vec<bool>, WhyNot>>() {
            let switch_on = wanted
                .iter()
                .zip(needs)
                .filter_map(|(one, needed)| needed.then_some(*one))
                .collect();
            return Ok(Place {
                dir: place.to_owned(),
                switch_on,
            });
        }
        for (index, verdict) in verdicts.into_iter().enumerate() {
            match verdict {
                Ok(_) => possible[index] = true,
                // The outermost group's reason is the one that helps: what it lacks, no group below can have.
                Err(why) => reasons[index] = Some(why),
            }
        }
    }
    if !delegated {
        let top = control_file::read(&hierarchy.mount_point.join("cgroup.controllers")).unwrap_or_default();
        return Err(wanted
            .iter()
            .map(|controller| {
                let why = if controller.is_in(&top) {
                    WhyNot::NotDelegated { dir: own.clone() }
                } else {
                    WhyNot::NotMounted
                };
                (*controller, why)
            })
            .collect());
    }
    let mut failed: Vec<_> = wanted
        .iter()
        .zip(reasons)
        .zip(&possible)
        .filter_map(|((controller, why), possible)| why.filter(|_| !possible).map(|why| (*controller, why)))
        .collect();
    if failed.is_empty() {
        failed = fail(WhyNot::NotTogether);
    }
    Err(failed)
}

/// Finds the nearest v2 group that can hold a child to be frozen: every one can that this user may write to, unless it is threaded.
///
/// v2 only (`cgroup.freeze`, Linux 5.2), also beside v1 hierarchies that hold the controllers: a process is born into a v2 group
/// (`CLONE_INTO_CGROUP`) for nothing, but would have to be moved into a v1 group, which waits tens of milliseconds for a lock.
fn place_for_freezing(host: &Host) -> Option<PathBuf> {
    let place = place_on_v2(&[], host).ok()?.dir;
    let kind = control_file::read(&place.join("cgroup.type"));
    kind.map_or(true, |kind| kind.trim() == "domain").then_some(place)
}

/// What the files of a v2 group say.
struct PlaceState {
    available: String,
    switched_on: String,
    holds_processes: bool,
    is_threaded: bool,
    is_root: bool,
}

impl PlaceState {
    fn read(place: &Path, is_top: bool) -> PlaceState {
        let read = |file: &str| control_file::read(&place.join(file));
        let kind = read("cgroup.type").ok();
        PlaceState {
            available: read("cgroup.controllers").unwrap_or_default(),
            switched_on: read("cgroup.subtree_control").unwrap_or_default(),
            // An unreadable list counts as full.
            holds_processes: read("cgroup.procs").map_or(true, |pids| !pids.trim().is_empty()),
            // Only the real root has no cgroup.type, and only it may hold processes beside groups with controllers.
            is_root: is_top && kind.is_none(),
            is_threaded: kind.is_some_and(|kind| kind.trim() != "domain"),
        }
    }

    /// Says whether a child could have the controller: `Ok(true)` if it must be switched on first.
    fn offers(&self, controller: Controller, place: &Path) -> Result<bool, WhyNot> {
        let dir = place.to_owned();
        if self.is_threaded {
            Err(WhyNot::Threaded { dir })
        } else if controller.is_in(&self.switched_on) {
            Ok(false)
        } else if !controller.is_in(&self.available) {
            Err(WhyNot::ControllerAbsent { dir })
        } else if self.holds_processes && !self.is_root {
            Err(WhyNot::HoldsProcesses { dir })
        } else {
            Ok(true)
        }
    }
}

/// The values that put a limit into effect.
fn settings(controller: Controller, is_v2: bool, request: &Request) -> Vec<Setting> {
    let must = |file, value: String| Setting {
        file,
        value,
        otherwise: Otherwise::Fail,
    };
    let may = |file, value: &str| Setting {
        file,
        value: value.to_owned(),
        otherwise: Otherwise::Skip,
    };
    let settings = match (controller, is_v2) {
        (Controller::Memory, true) => request.memory.map(|bytes| {
            // A kernel without swap has no memory.swap.max. oom.group (Linux 4.19): a sandbox with a random half of its
            // processes gone is of no use to anybody.
            vec![
                must("memory.max", bytes.to_string()),
                may("memory.swap.max", "0"),
                may("memory.oom.group", "1"),
            ]
        }),
        (Controller::Memory, false) => request.memory.map(|bytes| {
            // memsw counts memory and swap together and may not be below the memory limit, so it comes second. Without
            // swap accounting the group is kept out of swap instead (kernel Documentation/admin-guide/cgroup-v1/memory.rst, 5.3).
            let swap = Setting {
                file: "memory.memsw.limit_in_bytes",
                value: bytes.to_string(),
                otherwise: Otherwise::Write("memory.swappiness", "0"),
            };
            vec![must("memory.limit_in_bytes", bytes.to_string()), swap]
        }),
        (Controller::Cpu, _) => request.cpus_millis.map(|millis| {
            let (quota_us, period_us) = bandwidth(millis);
            if is_v2 {
                vec![must("cpu.max", format!("{quota_us} {period_us}"))]
            } else {
                vec![
                    must("cpu.cfs_period_us", period_us.to_string()),
                    must("cpu.cfs_quota_us", quota_us.to_string()),
                ]
            }
        }),
        (Controller::Pids, _) => request.pids.map(|pids| vec![must("pids.max", pids.to_string())]),
    };
    settings.unwrap_or_default()
}

/// Quota and period in microseconds. The kernel wants both between 1 ms and 1 s (`kernel/sched/core.c`,
/// `min_cfs_quota_period`; a quota may be longer), so a very small share needs the longest period.
fn bandwidth(millis: u32) -> (u64, u64) {
    let period_us = if millis < 10 { 1_000_000 } else { 100_000 };
    (u64::from(millis) * period_us / 1000, period_us)
}

impl fmt::Display for LimitsUnavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no control group can hold these limits: ")?;
        for (index, (controller, why)) in self.reasons.iter().enumerate() {
            write!(
                f,
                "{}{} ({why})",
                if index == 0 { "" } else { ", " },
                controller.limit()
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for LimitsUnavailable {}

#[cfg(test)]
mod tests;
