//! Planning on made-up machines: a directory tree with the files that the kernel would show.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

const EVERYTHING: Request = Request {
    memory: Some(1 << 20),
    cpus_millis: Some(1500),
    pids: Some(9),
    freezer: false,
};
/// A place to be frozen in, and nothing else.
const FREEZER: Request = Request {
    memory: None,
    cpus_millis: None,
    pids: None,
    freezer: true,
};

/// Says whether this user may write to a path. The bit that stands for it is one that hinders neither the test nor its
/// clean-up, whoever runs it (root may write anywhere, others could not remove a read-only tree).
fn set_mine(path: &Path, mine: bool) {
    fs::set_permissions(path, fs::Permissions::from_mode(if mine { 0o701 } else { 0o700 })).expect("mode");
}

/// A machine below a temporary directory.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new(mounts: &[(&str, &str, &str)], own: &str) -> Machine {
        let machine = Machine(tempfile::tempdir().expect("temporary directory"));
        let mounts: String = mounts
            .iter()
            .map(|(root, at, kind)| format!("1 2 0:3 {root} {at} rw - {kind}\n"))
            .collect();
        machine.file("proc/self/mountinfo", &mounts);
        machine.file("proc/self/cgroup", own);
        machine
    }

    /// A v2 machine; `own` is the path of this process's group.
    fn v2(own: &str) -> Machine {
        Machine::new(&[("/", "/sys/fs/cgroup", "cgroup2 cgroup2 rw")], &format!("0::{own}\n"))
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().expect("parent")).expect("directories");
        fs::write(path, text).expect("file");
    }

    /// A v2 group: controllers, switched on for children, processes; `mine`: writable by this user.
    fn group(&self, path: &str, available: &str, switched_on: &str, processes: &str, mine: bool) {
        let dir = format!("sys/fs/cgroup{path}");
        self.file(&format!("{dir}/cgroup.controllers"), available);
        self.file(&format!("{dir}/cgroup.subtree_control"), switched_on);
        self.file(&format!("{dir}/cgroup.procs"), processes);
        if path != "/" {
            self.file(&format!("{dir}/cgroup.type"), "domain\n");
        }
        let dir = self.0.path().join(dir);
        set_mine(&dir.join("cgroup.procs"), mine);
        set_mine(&dir, mine);
    }

    fn plan(&self, request: &Request) -> Result<Plan, LimitsUnavailable> {
        let mut host = Host::read_below(self.0.path()).expect("host");
        host.keeper_pid = 77;
        host.is_writable = |path| fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o001 != 0);
        Plan::for_limits(request, &"box".parse().expect("name"), &host)
    }

    /// The one directory of a plan, relative to the mount.
    fn place(&self, request: &Request) -> String {
        let plan = self.plan(request).expect("a plan");
        let paths: Vec<_> = plan.paths().collect();
        assert_eq!(paths.len(), 1);
        paths[0]
            .strip_prefix(self.0.path().join("sys/fs/cgroup"))
            .expect("below the mount")
            .display()
            .to_string()
    }

    fn reasons(&self, request: &Request) -> Vec<(Controller, String)> {
        let reasons = self.plan(request).expect_err("no plan").reasons;
        let root = self.0.path().display().to_string();
        reasons
            .into_iter()
            .map(|(one, why)| (one, why.to_string().replace(&root, "")))
            .collect()
    }
}

#[test]
fn root_on_plain_v2_uses_the_root_group_although_it_holds_processes() {
    let machine = Machine::v2("/");
    machine.group("/", "cpu memory pids\n", "", "1\n2\n", true);
    assert_eq!(machine.place(&EVERYTHING), "ringwall/box.77");
    assert_eq!(
        machine.plan(&EVERYTHING).expect("plan").dirs[0].switch_on,
        Controller::ALL
    );
}

#[test]
fn a_container_whose_own_top_group_holds_processes_can_not() {
    let machine = Machine::v2("/");
    machine.group("/", "cpu memory pids\n", "", "1\n2\n", true);
    machine.file("sys/fs/cgroup/cgroup.type", "domain\n");
    let (controller, text) = machine.reasons(&EVERYTHING).remove(0);
    assert_eq!(controller, Controller::Memory);
    assert!(text.contains("/sys/fs/cgroup holds processes itself"), "{text}");
}

#[test]
fn a_terminal_in_the_users_manager_uses_the_slice_above_it() {
    let machine = Machine::v2("/user.slice/u.service/app.slice/term.scope");
    machine.group("/", "cpu memory pids", "cpu memory pids", "1\n", false);
    machine.group("/user.slice", "cpu memory pids", "memory pids", "", false);
    machine.group("/user.slice/u.service", "memory pids", "memory pids", "", true);
    machine.group("/user.slice/u.service/app.slice", "memory pids", "memory", "", true);
    machine.group(
        "/user.slice/u.service/app.slice/term.scope",
        "memory pids",
        "",
        "5\n",
        true,
    );
    let request = Request {
        cpus_millis: None,
        ..EVERYTHING
    };
    assert_eq!(
        machine.place(&request),
        "user.slice/u.service/app.slice/ringwall/box.77"
    );
    assert_eq!(
        machine.plan(&request).expect("plan").dirs[0].switch_on,
        [Controller::Pids]
    );
    // cpu was not handed down to this user: only that limit fails, and it says why.
    let reasons = machine.reasons(&EVERYTHING);
    assert_eq!(reasons.len(), 1);
    assert_eq!(reasons[0].0, Controller::Cpu);
    assert!(
        reasons[0]
            .1
            .contains("not delegated to /sys/fs/cgroup/user.slice/u.service"),
        "{reasons:?}"
    );
}

#[test]
fn a_login_session_that_belongs_to_root_can_not() {
    let machine = Machine::v2("/user.slice/session-3.scope");
    machine.group("/", "cpu memory pids", "cpu memory pids", "", false);
    machine.group("/user.slice", "cpu memory pids", "cpu memory pids", "", false);
    machine.group("/user.slice/session-3.scope", "cpu memory pids", "", "5\n", false);
    let unavailable = machine.plan(&EVERYTHING).expect_err("not delegated");
    assert_eq!(unavailable.reasons.len(), 3);
    assert!(unavailable.reasons[0].1.hint().contains("systemd-run --user --scope"));
    assert!(
        unavailable
            .to_string()
            .starts_with("no control group can hold these limits: memory (")
    );
}

#[test]
fn a_writable_directory_without_its_process_list_is_not_delegated() {
    let machine = Machine::v2("/a");
    machine.group("/", "memory", "memory", "", false);
    machine.group("/a", "memory", "memory", "", true);
    let procs = machine.0.path().join("sys/fs/cgroup/a/cgroup.procs");
    set_mine(&procs, false);
    assert!(
        machine
            .plan(&Request {
                memory: Some(1),
                ..Request::default()
            })
            .is_err()
    );
}

#[test]
fn a_threaded_group_is_passed_over() {
    let machine = Machine::v2("/a/b");
    machine.group("/", "pids", "pids", "", false);
    machine.group("/a", "pids", "pids", "", true);
    machine.group("/a/b", "pids", "pids", "", true);
    machine.file("sys/fs/cgroup/a/b/cgroup.type", "threaded\n");
    assert_eq!(
        machine.place(&Request {
            pids: Some(3),
            ..Request::default()
        }),
        "a/ringwall/box.77"
    );
}

#[test]
fn a_hybrid_machine_chooses_for_each_controller() {
    let mounts = [
        ("/", "/sys/fs/cgroup/memory", "cgroup cgroup rw,memory"),
        ("/", "/sys/fs/cgroup/cpu,cpuacct", "cgroup cgroup rw,cpu,cpuacct"),
        ("/", "/sys/fs/cgroup", "cgroup2 cgroup2 rw"),
    ];
    let machine = Machine::new(&mounts, "4:memory:/m/n\n1:cpu,cpuacct:/\n0::/\n");
    machine.group("/", "pids", "", "", true);
    machine.file("sys/fs/cgroup/memory/m/n/cgroup.procs", "");
    machine.file("sys/fs/cgroup/cpu,cpuacct/cgroup.procs", "");
    let plan = machine.plan(&EVERYTHING).expect("plan");
    let root = machine.0.path().display().to_string();
    let mechanisms: Vec<_> = plan
        .mechanisms()
        .map(|(one, how)| (one, how.to_string().replace(&root, "")))
        .collect();
    assert_eq!(
        mechanisms,
        [
            (
                Controller::Memory,
                "control group v1 /sys/fs/cgroup/memory/m/n/ringwall/box.77".to_owned()
            ),
            (
                Controller::Cpu,
                "control group v1 /sys/fs/cgroup/cpu,cpuacct/ringwall/box.77".to_owned()
            ),
            (
                Controller::Pids,
                "control group v2 /sys/fs/cgroup/ringwall/box.77".to_owned()
            ),
        ]
    );
    // The user who may not write to one of them loses that limit, and only that.
    let own = machine.0.path().join("sys/fs/cgroup/memory/m/n");
    set_mine(&own, false);
    let reasons = machine.plan(&EVERYTHING).expect_err("memory").reasons;
    assert!(
        matches!(reasons.as_slice(), [(Controller::Memory, WhyNot::BelongsToRoot { .. })]),
        "{reasons:?}"
    );
    assert!(
        !reasons[0].1.hint().contains("systemd-run"),
        "version 1 can't be delegated"
    );
}

#[test]
fn no_hierarchy_at_all_is_said() {
    let machine = Machine::new(&[], "");
    let reasons = machine.plan(&EVERYTHING).expect_err("nothing mounted").reasons;
    assert!(reasons.iter().all(|(_, why)| *why == WhyNot::NotMounted), "{reasons:?}");
    assert_eq!(reasons.len(), 3);
}

#[test]
fn values_are_what_the_kernel_expects() {
    let values = |controller, is_v2| -> Vec<(&str, String)> {
        settings(controller, is_v2, &EVERYTHING)
            .into_iter()
            .map(|one| (one.file, one.value))
            .collect()
    };
    assert_eq!(values(Controller::Cpu, true), [("cpu.max", "150000 100000".to_owned())]);
    assert_eq!(values(Controller::Pids, true), [("pids.max", "9".to_owned())]);
    assert_eq!(
        values(Controller::Memory, true)[0],
        ("memory.max", "1048576".to_owned())
    );
    assert_eq!(
        values(Controller::Memory, false)[1].0,
        "memory.memsw.limit_in_bytes",
        "the limit itself comes first"
    );
    // Every share gives a quota that the kernel takes: at least 1 ms.
    for millis in [1, 9, 10, 999, 4_096_000] {
        let (quota_us, period_us) = bandwidth(millis);
        assert!(quota_us >= 1000 && period_us <= 1_000_000, "{millis}");
        assert_eq!(quota_us * 1000 / period_us, u64::from(millis));
    }
}

#[test]
fn a_place_for_freezing_is_found_or_done_without() {
    let paths = |plan: &Plan| plan.paths().map(Path::to_owned).collect::<Vec<_>>();
    // Delegated without any controller, and holding processes itself: good enough to be frozen in.
    let machine = Machine::v2("/user/own");
    machine.group("/", "cpu", "", "1\n", false);
    machine.group("/user", "", "", "", false);
    machine.group("/user/own", "", "", "7\n", true);
    let plan = machine.plan(&FREEZER).expect("a plan");
    assert!(!plan.has_limits());
    assert!(
        paths(&plan)[0].to_string_lossy().contains("/user/own/ringwall/"),
        "{plan:?}"
    );
    // Not where the group is threaded, or somebody else's.
    machine.file("sys/fs/cgroup/user/own/cgroup.type", "threaded\n");
    assert_eq!(paths(&machine.plan(&FREEZER).expect("no error")), Vec::<PathBuf>::new());
    let other = Machine::v2("/user/own");
    other.group("/user/own", "", "", "7\n", false);
    assert_eq!(paths(&other.plan(&FREEZER).expect("no error")), Vec::<PathBuf>::new());
    // Limits on v2 and the freezer share one group.
    let both = Machine::v2("/");
    both.group("/", "cpu memory pids", "", "1\n", true);
    let plan = both
        .plan(&Request {
            freezer: true,
            ..EVERYTHING
        })
        .expect("a plan");
    assert!(plan.has_limits());
    assert_eq!(paths(&plan).len(), 1, "{plan:?}");
}
