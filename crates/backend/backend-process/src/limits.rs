//! Limits: which mechanism holds each, and a refusal where none does.
//!
//! | limit | first choice | else |
//! |---|---|---|
//! | memory | control group | per process only (RLIMIT_DATA): degraded |
//! | cpus | control group | a fixed set of CPUs, for whole numbers; rounded up: degraded |
//! | pids | RLIMIT_NPROC in the sandbox's own user namespace, else control group | per user (RLIMIT_NPROC): degraded |
//! | files | RLIMIT_NOFILE | |
//! | disk | the keeper measures and kills; one file: RLIMIT_FSIZE; `/tmp`: size of its file system | |
//! | timeout | the keeper's clock | |
//!
//! The cheap mechanism comes first where it is as strong: control groups cost about a millisecond a run.

use std::time::Duration;

use ringwall_cgroup::{Controller, Host, Plan as CgroupPlan, Request};
use ringwall_policy::Limits;
use ringwall_sandbox::LimitReport;
use ringwall_sys::process::Rlimit;
use ringwall_types::{LimitKind, SandboxName, Tier};

use crate::identity::Identity;
use crate::plan::PlanError;

/// Processes a sandbox may have when nobody says: enough for a parallel build, no fork bomb.
const DEFAULT_PIDS: u32 = 4096;
/// Processes left to the other users of a sandbox when one has used up all that it may have.
const PIDS_FOR_OTHERS: u64 = 64;
/// First kernel that counts RLIMIT_NPROC per user namespace (Linux 5.14, commit 21d1c5e386bc).
const NPROC_PER_NAMESPACE: (u32, u32) = (5, 14);

/// Limits resolved.
#[derive(Debug, Default)]
pub(crate) struct LimitPlan {
    /// Resource limits to set on the program.
    pub(crate) rlimits: Vec<(Rlimit, u64)>,
    /// What control groups must hold.
    pub(crate) group: Request,
    /// Number of CPUs to pin to.
    pub(crate) pin_cpus: Option<usize>,
    /// Bytes the sandbox may add.
    pub(crate) disk: Option<u64>,
    /// Wall time.
    pub(crate) timeout: Option<Duration>,
    /// One line for each limit asked for; control group lines are completed when the groups are planned.
    pub(crate) reports: Vec<LimitReport>,
}

impl LimitPlan {
    /// Returns whether control groups are needed.
    pub(crate) fn needs_groups(&self) -> bool {
        self.group != Request::default()
    }
}

/// What the machine offers, as far as limits depend on it; read only when a limit needs it.
struct Offer {
    tier: Tier,
    is_own_user_namespace_counted: bool,
}

/// Chooses a mechanism for each limit.
///
/// `writes_directly`: whether some writes go straight to the host, where nobody counts them.
pub(crate) fn plan(limits: &Limits, tier: Tier, writes_directly: bool) -> Result<LimitPlan, PlanError> {
    let offer = Offer {
        tier,
        is_own_user_namespace_counted: tier == Tier::Namespace && kernel_version() >= NPROC_PER_NAMESPACE,
    };
    let mut plan = LimitPlan::default();
    let mut wanted = Request {
        memory: limits.memory.map(|size| size.0),
        cpus_millis: limits.cpus.map(|share| share.millis),
        pids: limits.pids,
        freezer: false,
    };
    // First choice for processes: a count that the kernel keeps per user namespace.
    if offer.is_own_user_namespace_counted {
        let count = limits.pids.unwrap_or(DEFAULT_PIDS);
        // The init process of the sandbox counts too.
        plan.rlimits.push((Rlimit::Processes, u64::from(count) + 1));
        if let Some(pids) = wanted.pids.take() {
            plan.report(
                LimitKind::Pids,
                pids.to_string(),
                "RLIMIT_NPROC, counted in the sandbox's own user namespace",
                false,
            );
        }
    } else if limits.pids.is_none() && Identity::choose().is_range() {
        // A uid of its own: nothing else is counted.
        plan.rlimits.push((Rlimit::Processes, u64::from(DEFAULT_PIDS)));
    }
    if wanted != Request::default() {
        place_in_groups(&mut plan, limits, wanted, &offer)?;
    }
    if let Some(files) = limits.files {
        plan.rlimits.push((Rlimit::OpenFiles, u64::from(files)));
        plan.report(
            LimitKind::Files,
            files.to_string(),
            "RLIMIT_NOFILE, for each process",
            false,
        );
    }
    if let Some(disk) = limits.disk {
        let uncounted = tier == Tier::Landlock || writes_directly;
        if uncounted && !limits.allow_degraded.contains(&LimitKind::Disk) {
            let why = "writes that go straight to the host (--write, --mount, the landlock tier) are not counted";
            return Err(refuse(
                LimitKind::Disk,
                why,
                "captured writes and /tmp, and elsewhere each file alone by RLIMIT_FSIZE",
            ));
        }
        plan.disk = Some(disk.0);
        plan.rlimits.push((Rlimit::FileSize, disk.0));
        let mechanism = "the keeper measures what was added and kills the sandbox over the limit; RLIMIT_FSIZE for each file; \
                         size of the memory file system for /tmp";
        plan.report(LimitKind::Disk, disk.to_string(), mechanism, uncounted);
    }
    if let Some(timeout) = limits.timeout {
        plan.timeout = Some(timeout.0);
        plan.report(LimitKind::Timeout, timeout.to_string(), "the keeper's clock", false);
    }
    Ok(plan)
}

impl LimitPlan {
    /// Returns how many processes all users of a sandbox may have together: those that each may have, and some that one who uses up all of them
    /// leaves to the others.
    pub(crate) fn processes_in_all(&self) -> Option<u64> {
        let each = self
            .rlimits
            .iter()
            .find_map(|&(resource, value)| (resource == Rlimit::Processes).then_some(value));
        each.map(|each| each.saturating_add(PIDS_FOR_OTHERS))
    }

    fn report(&mut self, limit: LimitKind, value: String, mechanism: &str, degraded: bool) {
        self.reports.push(LimitReport {
            limit,
            value,
            mechanism: mechanism.to_owned(),
            degraded,
        });
    }
}

/// Places what is wanted in control groups, or by what is weaker, if that is allowed.
fn place_in_groups(plan: &mut LimitPlan, limits: &Limits, wanted: Request, offer: &Offer) -> Result<(), PlanError> {
    let host = Host::read();
    let examine = |controller: Controller| match &host {
        Ok(host) => CgroupPlan::examine(controller, host).map_err(|why| format!("{why}; {}", why.hint())),
        Err(error) => Err(error.to_string()),
    };
    let may_degrade = |limit: LimitKind| limits.allow_degraded.contains(&limit);
    if let Some(bytes) = wanted.memory {
        let value = limits.memory.map(|size| size.to_string()).unwrap_or_default();
        match examine(Controller::Memory) {
            Ok(mechanism) => {
                plan.group.memory = Some(bytes);
                plan.report(LimitKind::Memory, value, &mechanism.to_string(), false);
            }
            Err(_) if may_degrade(LimitKind::Memory) => {
                plan.rlimits.push((Rlimit::Data, bytes));
                plan.report(
                    LimitKind::Memory,
                    value,
                    "RLIMIT_DATA, for each process and not for all together",
                    true,
                );
            }
            Err(why) => return Err(refuse(LimitKind::Memory, &why, "each process alone by RLIMIT_DATA")),
        }
    }
    if let Some(millis) = wanted.cpus_millis {
        let value = limits.cpus.map(|share| share.to_string()).unwrap_or_default();
        let whole = usize::try_from(millis.div_ceil(1000)).unwrap_or(usize::MAX);
        match examine(Controller::Cpu) {
            Ok(mechanism) => {
                plan.group.cpus_millis = Some(millis);
                plan.report(LimitKind::Cpus, value, &mechanism.to_string(), false);
            }
            Err(_) if millis.is_multiple_of(1000) || may_degrade(LimitKind::Cpus) => {
                plan.pin_cpus = Some(whole);
                let mechanism = format!("sched_setaffinity(2) to {whole} CPU(s), which the program can't change");
                plan.report(LimitKind::Cpus, value, &mechanism, !millis.is_multiple_of(1000));
            }
            Err(why) => {
                return Err(refuse(
                    LimitKind::Cpus,
                    &why,
                    "the next whole number of CPUs by sched_setaffinity",
                ));
            }
        }
    }
    if let Some(pids) = wanted.pids {
        let value = pids.to_string();
        let is_own_user = Identity::choose().is_range();
        match examine(Controller::Pids) {
            Ok(mechanism) => {
                plan.group.pids = Some(pids);
                plan.report(LimitKind::Pids, value, &mechanism.to_string(), false);
            }
            Err(_) if is_own_user || may_degrade(LimitKind::Pids) => {
                plan.rlimits.push((Rlimit::Processes, u64::from(pids)));
                let mechanism = if is_own_user {
                    "RLIMIT_NPROC of a user id of its own"
                } else {
                    "RLIMIT_NPROC, counted for all processes of this user"
                };
                plan.report(LimitKind::Pids, value, mechanism, !is_own_user);
            }
            Err(why) => {
                let weaker = match offer.tier {
                    Tier::Landlock => "all processes of this user together by RLIMIT_NPROC",
                    Tier::Namespace => {
                        "all processes of this user together by RLIMIT_NPROC (per sandbox from Linux 5.14)"
                    }
                };
                return Err(refuse(LimitKind::Pids, &why, weaker));
            }
        }
    }
    Ok(())
}

fn refuse(limit: LimitKind, why: &str, weaker: &str) -> PlanError {
    PlanError::Limit {
        limit,
        why: format!("{why}. With --allow-degraded {limit} it limits {weaker}"),
    }
}

/// Plans the control groups of a sandbox, and says in the reports where they are.
pub(crate) fn plan_groups(plan: &mut LimitPlan, name: &SandboxName) -> Result<Option<CgroupPlan>, PlanError> {
    if !plan.needs_groups() {
        return Ok(None);
    }
    let failed = |limit, why: String| PlanError::Limit { limit, why };
    let host = match Host::read() {
        Ok(host) => host,
        // To freeze it there are other ways.
        Err(_) if plan.group.controllers().is_empty() => return Ok(None),
        Err(error) => return Err(failed(LimitKind::Memory, error.to_string())),
    };
    let groups = CgroupPlan::for_limits(&plan.group, name, &host).map_err(|unavailable| {
        let (controller, why) = unavailable.reasons.into_iter().next().map_or(
            (Controller::Memory, "no reason given".to_owned()),
            |(controller, why)| (controller, format!("{why}; {}", why.hint())),
        );
        failed(controller.limit(), why)
    })?;
    for (controller, mechanism) in groups.mechanisms() {
        if let Some(report) = plan
            .reports
            .iter_mut()
            .find(|report| report.limit == controller.limit())
        {
            report.mechanism = mechanism.to_string();
        }
    }
    let is_empty = groups.paths().next().is_none();
    Ok((!is_empty).then_some(groups))
}

/// Returns the running kernel's version.
pub(crate) fn kernel_version() -> (u32, u32) {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release
        .split(|character: char| !character.is_ascii_digit())
        .map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
