//! What must be shown 4: the keeper, the sandbox's first process or a commit is killed at 200 random moments; nothing is lost, half
//! applied or left over.
//!
//! A run writes numbered files with a checksum in them and says each one's number once it is renamed into place. Whatever it said
//! before it was killed must be in its capture, and whole after `ringwall commit`. A commit that was killed is gone over by committing
//! again, and until then each file is as before or as after. After `ringwall gc` no process, mount, control group or directory is
//! left. `RINGWALL_CRASH_SEED` repeats a test's choices; how far the killed process has come by then is up to the machine.

#![expect(clippy::unwrap_used, reason = "a trial that panics fails, and its panic is told")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use ringwall_e2e::{User, World, users};
use rustix::process::{Pid, Signal, kill_process};

/// Kills of runs: half of the keeper, half of the sandbox's first process.
const RUN_KILLS: usize = 120;
/// Kills of `ringwall commit`.
const COMMIT_KILLS: usize = 80;
/// Trials at a time: most of each is waiting.
const WORKERS: usize = 3;
/// By then what was killed, and what was to die with it, is gone.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest delay before a run is killed; starting takes 5 to 30 ms of it.
const LATEST_KILL_US: u64 = 80_000;
/// From the state directory's making to the program's start, roughly.
const START_US: u64 = 3_000;
/// Times a commit is tried again: after the first kill nothing disturbs it.
const MAX_COMMITS: u32 = 3;
/// Lines of a numbered file before its sum.
const LINES: u64 = 40;

/// Writes files until it is killed, or LIMIT of them. A second process waits beside it for ever, as a daemon would.
const WRITER: &str = r#"
(trap '' HUP TERM INT; exec sleep 1000) &
mkdir out || exit 9
n=0
while [ $n -lt LIMIT ]; do
    n=$((n + 1)) i=0 sum=0 value=$n body=
    while [ $i -lt 40 ]; do
        i=$((i + 1))
        value=$(((value * 1103515245 + 12345) % 2147483648))
        sum=$(((sum + value) % 65521))
        body="$body$value
"
    done
    printf '%ssum %s\n' "$body" $sum > out/tmp && mv out/tmp out/$n || exit 9
    if [ $((n % 4)) = 0 ]; then
        printf '%ssum %s\n' "$body" $sum > base.tmp && mv base.tmp base || exit 9
    fi
    echo $n
done
"#;

/// Every kind of change a commit knows, on the tree that `plant` makes.
const CHANGER: &str = r#"
set -e
i=0
while [ $i -lt 12 ]; do
    seq $i 4000 > f$i
    i=$((i + 1))
done
rm f12 f13 f14 f15
mv f16 renamed
mv f17 d0/f17
mv f18 f19
mv d1 e1
rm -r d2 d3 f20
echo 'was a directory' > d3
mkdir -p f20 new/deep
echo 'was a file' > f20/in
for name in a b c d e f; do seq 1 2000 > new/deep/$name; done
ln -s f0 link
ln new/deep/a hard
chmod 600 f21
chmod 700 d4
touch -d @1600000000 f0 f1 f2 f3 f4 f5 f6 f7 f8 f9 f10 f11 d3 f20/in new/deep/*
"#;

/// The content of a numbered file, as `WRITER` makes it.
fn numbered(n: u64) -> String {
    let (mut text, mut value, mut sum) = (String::new(), n, 0);
    for _ in 0..LINES {
        value = (value * 1_103_515_245 + 12_345) % 2_147_483_648;
        sum = (sum + value) % 65_521;
        text.push_str(&format!("{value}\n"));
    }
    text.push_str(&format!("sum {sum}\n"));
    text
}

/// Random numbers that a seed repeats (`SplitMix64`, Steele et al. 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        let at = self.below(u64::try_from(all.len()).unwrap());
        all[usize::try_from(at).unwrap()]
    }
}

// What is looked for afterwards.

fn numeric_entries(directory: &str) -> Vec<i32> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

/// Returns the processes that `parent` started and that live.
fn children(parent: u32) -> Vec<i32> {
    let is_child = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // After the name, which ends with the last parenthesis: state, parent (proc_pid_stat(5)).
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let mut fields = fields.split_whitespace();
        fields.next().is_some_and(|state| state != "Z") && fields.next() == Some(parent.to_string().as_str())
    };
    numeric_entries("/proc").into_iter().filter(is_child).collect()
}

/// Returns the processes with `marker` in their arguments or environment.
fn marked(marker: &str) -> Vec<i32> {
    let holds =
        |path: String| fs::read(path).is_ok_and(|bytes| bytes.windows(marker.len()).any(|at| at == marker.as_bytes()));
    numeric_entries("/proc")
        .into_iter()
        .filter(|pid| holds(format!("/proc/{pid}/cmdline")) || holds(format!("/proc/{pid}/environ")))
        .collect()
}

/// Adds the control groups of sandbox `name` at or below `directory`; they are called `ringwall/NAME.PID`.
fn control_groups(directory: &Path, name: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let is_named = entry.file_name().to_string_lossy().starts_with(&format!("{name}."));
            if is_named && directory.ends_with("ringwall") {
                found.push(entry.path());
            }
            control_groups(&entry.path(), name, found);
        }
    }
}

/// Where root's sandbox `name` has its private directory in the landlock tier.
fn private_directory(name: &str) -> PathBuf {
    Path::new("/tmp").join(format!("ringwall-{name}"))
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Waits until `holds`, or returns false.
fn eventually(holds: impl Fn() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether nobody holds the lock of any sandbox.
fn is_unlocked(state: &Path) -> bool {
    names_in(state).iter().all(|name| {
        let Ok(lock) = File::open(state.join(name).join("lock")) else {
            return true;
        };
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok()
    })
}

/// How far the killed processes had come: a test whose kills all come too late or too early shows nothing.
#[derive(Debug, Default)]
struct Moments {
    /// Before the program's first acknowledged file; before a commit's journal.
    early: AtomicUsize,
    /// Later.
    midway: AtomicUsize,
    /// It had ended by itself.
    late: AtomicUsize,
}

/// One trial's place and choices.
struct Trial<'a> {
    moments: &'a Moments,
    world: &'a World,
    random: Random,
    /// In the arguments and the environment of all its processes.
    marker: String,
}

type Verdict = Result<(), String>;

macro_rules! ensure {
    ($holds:expr, $($why:tt)+) => {
        if !$holds {
            return Err(format!($($why)+));
        }
    };
}

impl Trial<'_> {
    fn project(&self) -> PathBuf {
        self.world.path("project")
    }

    fn state(&self) -> PathBuf {
        self.world.path("state")
    }

    /// Runs `ringwall gc` and looks for all it must not leave of the sandboxes `names`; tells everything that it finds.
    fn collect(&self, names: &[String]) -> Verdict {
        let gc = self.world.ringwall(&["gc"]);
        let mut found = Vec::new();
        if gc.code != 0 {
            found.push(format!("gc: exit {}", gc.code));
        }
        // A killed process needs a moment to go.
        if !eventually(|| marked(&self.marker).is_empty()) {
            found.push(format!("processes left: {:?}", marked(&self.marker)));
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let base = self.world.path("home").parent().unwrap().to_string_lossy().into_owned();
        found.extend(
            mounts
                .lines()
                .filter(|line| line.contains(&base))
                .map(|line| format!("mount left: {line}")),
        );
        for name in names {
            let mut groups = Vec::new();
            control_groups(Path::new("/sys/fs/cgroup"), name, &mut groups);
            found.extend(
                groups
                    .iter()
                    .map(|group| format!("control group left: {}", group.display())),
            );
            let private = private_directory(name);
            if private.exists() {
                found.push(format!("directory left: {}", private.display()));
                // The test leaves the machine as it was, also where ringwall does not.
                drop(fs::remove_dir_all(private));
            }
        }
        ensure!(found.is_empty(), "{}; gc said: {}{}", found.join(", "), gc.out, gc.err);
        Ok(())
    }

    /// The state directory must hold nothing at all, and the target no stage.
    fn nothing_left(&self) -> Verdict {
        let gc = self.world.ringwall(&["gc"]);
        ensure!(gc.code == 0, "last gc: exit {}: {}{}", gc.code, gc.out, gc.err);
        if let Some(name) = names_in(&self.state()).into_iter().next() {
            let held = names_in(&self.state().join(&name));
            return Err(format!(
                "{name} is left in the state directory, with {held:?}; gc said: {}",
                gc.out
            ));
        }
        let stages = names_in(&self.project());
        let stage = stages.iter().find(|name| name.starts_with(".ringwall"));
        ensure!(stage.is_none(), "{stage:?} is left in the target");
        Ok(())
    }

    /// Removes what a failed trial left: it must not make the next one fail too.
    fn make_clean(&self) {
        for pid in marked(&self.marker) {
            kill(pid);
        }
        // overlayfs leaves directories that an ordinary user can't look into.
        let mut chmod = self.world.program("chmod");
        drop(chmod.arg("-R").arg("u+rwx").arg(self.state()).output());
        empty(&self.state());
    }

    /// Commits until that succeeds, or nothing is left to commit.
    fn commit(&self, name: &str) -> Verdict {
        let mut last = String::new();
        for _ in 0..MAX_COMMITS {
            if !self.state().join(name).exists() {
                return Ok(());
            }
            let commit = self.world.ringwall(&["commit", name]);
            if commit.code == 0 {
                return Ok(());
            }
            last = format!("exit {}: {}", commit.code, commit.err);
        }
        Err(format!(
            "commit again: {last}; state: {:?}",
            names_in(&self.state().join(name))
        ))
    }
}

/// Collects what a program prints in a thread of its own; the answer comes when the last writer is gone.
fn collect_output(mut from: impl Read + Send + 'static) -> Receiver<String> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        drop(from.read_to_end(&mut bytes));
        drop(send.send(String::from_utf8_lossy(&bytes).into_owned()));
    });
    receive
}

fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It may have ended by itself: that is one of the moments.
        let _gone = kill_process(pid, Signal::KILL);
    }
}

fn wait(child: &mut Child) -> Option<i32> {
    use std::os::unix::process::ExitStatusExt;
    let end = Instant::now() + PATIENCE;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return status.code().or_else(|| Some(128 + status.signal().unwrap_or(0)));
        }
        if Instant::now() > end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

// Runs.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Keeper,
    Init,
}

/// What becomes of its writes, and in which tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Keep,
    KeepWithLimits,
    Commit,
    Discard,
    Landlock,
}

const KINDS: [Kind; 6] = [
    Kind::Keep,
    Kind::KeepWithLimits,
    Kind::Commit,
    Kind::Discard,
    Kind::Landlock,
    Kind::Commit,
];

fn kill_a_run(trial: &mut Trial<'_>, name: &str, kind: Kind, victim: Victim) -> Verdict {
    let world = trial.world;
    world.write("base", "as it was\n");
    let project = trial.project().to_string_lossy().into_owned();
    let mark = format!("RW_MARK={}", trial.marker);
    let mut flags = vec!["run", "-q", "-e", &mark];
    if kind == Kind::Landlock {
        // Root's programs run as somebody else in this tier.
        fs::set_permissions(&project, PermissionsExt::from_mode(0o777)).unwrap();
        fs::set_permissions(Path::new(&project).join("base"), PermissionsExt::from_mode(0o666)).unwrap();
        flags.extend(["--isolation", "landlock", "--changes", "none", "--write", &project]);
    } else {
        flags.extend(["--isolation", "namespace"]);
    }
    let mut limit = "100000";
    match kind {
        Kind::KeepWithLimits => {
            flags.extend(["--name", name, "--files", "64", "--timeout", "60s"]);
            if world.user() == User::Root {
                flags.extend(["-m", "200M", "--pids", "100"]);
            }
        }
        Kind::Keep => flags.extend(["--name", name]),
        Kind::Commit => {
            // It ends by itself, so that the kill also meets the commit at the end.
            limit = trial.random.one_of(&["0", "4", "12"]);
            flags.extend(["--name", name, "--changes", "commit"]);
        }
        Kind::Discard => flags.extend(["--changes", "discard"]),
        Kind::Landlock => {}
    }
    // What an earlier run of the name captured must outlive the kill of a later one.
    let continues = matches!(kind, Kind::Keep | Kind::KeepWithLimits) && trial.random.below(3) == 0;
    if continues {
        world.shell(&["-q", "--name", name], "echo earlier > earlier").expect(0);
    }
    let script = WRITER.replace("LIMIT", limit);
    let mut command = world.command(&flags);
    command.args(["--", "sh", "-c", &script, "sh", &trial.marker]);
    let mut keeper = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let said = collect_output(keeper.stdout.take().unwrap());
    let complaints = collect_output(keeper.stderr.take().unwrap());

    match trial.random.below(3) {
        // The state directory comes first and little is on record yet: seldom met by chance, and the hardest to recover from.
        0 => {
            while names_in(&trial.state()).is_empty() && matches!(keeper.try_wait(), Ok(None)) {}
            std::thread::sleep(Duration::from_micros(trial.random.below(START_US)));
        }
        1 => std::thread::sleep(Duration::from_micros(trial.random.below(LATEST_KILL_US / 4))),
        _ => std::thread::sleep(Duration::from_micros(trial.random.below(LATEST_KILL_US))),
    }
    match victim {
        Victim::Keeper => drop(keeper.kill()),
        Victim::Init => {
            // The first process there is, however early.
            while let Ok(None) = keeper.try_wait() {
                if let Some(init) = children(keeper.id()).first() {
                    kill(*init);
                    break;
                }
            }
        }
    }
    let Some(code) = wait(&mut keeper) else {
        drop(keeper.kill());
        drop(keeper.wait());
        return Err(format!("{victim:?} was killed and the keeper did not end"));
    };
    let as_wanted = match victim {
        Victim::Keeper => matches!(code, 0 | 137),
        // 125: it was killed while the sandbox was being made.
        Victim::Init => matches!(code, 0 | 125 | 137),
    };

    let receive = |from: &Receiver<String>, what: &str| match from.recv_timeout(PATIENCE) {
        Ok(text) => Ok(text),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Err(format!(
            "{what}: processes still hold the output: {:?}",
            marked(&trial.marker)
        )),
    };
    // Without a pid namespace nothing but gc ends what the program left behind.
    let early = if kind == Kind::Landlock {
        None
    } else {
        Some(receive(&said, "before gc")?)
    };
    ensure!(eventually(|| is_unlocked(&trial.state())), "a lock is still held");
    let mut names = names_in(&trial.state());
    names.push(name.to_owned());
    trial.collect(&names)?;
    let said = match early {
        Some(said) => said,
        None => receive(&said, "after gc")?,
    };
    let complaints = receive(&complaints, "after gc")?;
    ensure!(as_wanted, "the keeper exited {code}: {complaints}");
    let acknowledged: Vec<u64> = said.lines().filter_map(|line| line.parse().ok()).collect();
    let moment = match code {
        0 => &trial.moments.late,
        _ if acknowledged.is_empty() => &trial.moments.early,
        _ => &trial.moments.midway,
    };
    moment.fetch_add(1, Ordering::Relaxed);

    if kind == Kind::Discard {
        untouched(trial)?;
        return trial.nothing_left();
    }
    if matches!(kind, Kind::Keep | Kind::KeepWithLimits) {
        untouched(trial)?;
    }
    ensure!(
        !continues || trial.state().join(name).exists(),
        "what an earlier run captured is lost"
    );
    if kind != Kind::Landlock && trial.state().join(name).exists() {
        if kind != Kind::Commit {
            let diff = world.ringwall(&["diff", name]);
            ensure!(diff.code == 0, "diff: exit {}: {}", diff.code, diff.err);
            let earlier = continues.then(|| "A earlier".to_owned());
            for line in acknowledged.iter().map(|n| format!("A out/{n}")).chain(earlier) {
                ensure!(
                    diff.out.lines().any(|one| one == line),
                    "{line} is lost: diff says: {}",
                    diff.out
                );
            }
        }
        trial.commit(name)?;
    }
    whole(trial, &acknowledged)?;
    let earlier = world.read("earlier");
    ensure!(
        !continues || earlier.as_deref() == Some("earlier\n"),
        "an earlier run's file is {earlier:?}"
    );
    trial.nothing_left()
}

/// Captured writes must not have reached the target.
fn untouched(trial: &Trial<'_>) -> Verdict {
    let names = names_in(&trial.project());
    ensure!(names == ["base"], "the target was touched: {names:?}");
    let base = trial.world.read("base");
    ensure!(base.as_deref() == Some("as it was\n"), "base was touched: {base:?}");
    Ok(())
}

/// All that was acknowledged is in the target, and every file there is whole.
fn whole(trial: &Trial<'_>, acknowledged: &[u64]) -> Verdict {
    for n in acknowledged {
        let path = format!("out/{n}");
        let content = trial.world.read(&path);
        ensure!(
            content == Some(numbered(*n)),
            "{path} was acknowledged and is {content:?}"
        );
    }
    for name in names_in(&trial.project().join("out")) {
        let Ok(n) = name.parse() else { continue };
        let content = trial.world.read(&format!("out/{name}"));
        ensure!(content == Some(numbered(n)), "out/{name} is half written: {content:?}");
    }
    let base = trial.world.read("base").unwrap_or_default();
    let last = acknowledged.last().copied().unwrap_or(0) / 4 * 4;
    // The one after may have been under way.
    let is_known =
        (last == 0 && base == "as it was\n") || [last, last + 4].iter().any(|n| *n > 0 && base == numbered(*n));
    ensure!(is_known, "base is neither old nor new after {last}: {base:?}");
    Ok(())
}

// Commits.

/// What a path holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    mode: u32,
    owner: (u32, u32),
    links: u64,
    /// Of regular files only: directories change theirs with every trial.
    modified: i64,
    content: Vec<u8>,
}

type Snapshot = BTreeMap<String, Entry>;

fn snapshot(root: &Path) -> Snapshot {
    fn walk(directory: &Path, prefix: &str, found: &mut Snapshot) {
        for name in names_in(directory) {
            let path = directory.join(&name);
            let relative = format!("{prefix}{name}");
            let metadata = fs::symlink_metadata(&path).unwrap();
            let is_file = metadata.is_file();
            let content = if metadata.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else if is_file {
                fs::read(&path).unwrap()
            } else {
                walk(&path, &format!("{relative}/"), found);
                Vec::new()
            };
            let entry = Entry {
                mode: metadata.mode(),
                owner: (metadata.uid(), metadata.gid()),
                links: if is_file { metadata.nlink() } else { 1 },
                modified: if is_file { metadata.mtime() } else { 0 },
                content,
            };
            found.insert(relative, entry);
        }
    }
    let mut found = Snapshot::new();
    walk(root, "", &mut found);
    found
}

/// Makes the tree that `CHANGER` changes.
fn plant(world: &World) {
    let write = |path: String, content: String| {
        world.write(&path, content);
        let file = File::open(world.path("project").join(&path)).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000))
            .unwrap();
    };
    for n in 0..30 {
        write(format!("f{n}"), format!("old {n}\n").repeat(1000));
    }
    for n in 0..5 {
        let directory = world.path("project").join(format!("d{n}"));
        fs::create_dir(&directory).unwrap();
        world.hand_over(&directory);
        for m in 0..4 {
            write(format!("d{n}/g{m}"), format!("old {n} {m}\n"));
        }
    }
}

fn empty(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            fs::remove_dir_all(entry.path()).unwrap();
        } else {
            fs::remove_file(entry.path()).unwrap();
        }
    }
}

/// What commits of one user are expected to do.
struct Expected {
    old: Snapshot,
    new: Snapshot,
    /// How long a commit takes when nothing disturbs it.
    usual: Duration,
}

impl Expected {
    /// Makes the changes without a sandbox, then once with one.
    fn find(user: User) -> Self {
        let world = World::new(user);
        let project = world.path("project");
        plant(&world);
        let old = snapshot(&project);
        let plain = world.program("sh").args(["-c", CHANGER]).output().unwrap();
        assert!(plain.status.success(), "the changes fail without a sandbox: {plain:?}");
        let new = snapshot(&project);
        empty(&project);
        plant(&world);
        world.shell(&["-q", "--name", "measure"], CHANGER).expect(0);
        assert_eq!(
            different(&snapshot(&project), &old),
            None,
            "a captured write reached the target"
        );
        let begun = Instant::now();
        world.ringwall(&["commit", "measure"]).expect(0);
        let usual = begun.elapsed();
        assert_eq!(
            different(&snapshot(&project), &new),
            None,
            "an undisturbed commit is wrong"
        );
        Expected { old, new, usual }
    }
}

/// Names the first path where `found` is not as `wanted`.
fn different(found: &Snapshot, wanted: &Snapshot) -> Option<String> {
    let short = |entry: Option<&Entry>| {
        entry.map(|entry| {
            let text = String::from_utf8_lossy(&entry.content);
            let start: String = text.chars().take(20).collect();
            let (mode, owner) = (entry.mode, entry.owner);
            format!(
                "mode {mode:o}, owner {owner:?}, {} links, modified {}, {} bytes {start:?}",
                entry.links,
                entry.modified,
                entry.content.len()
            )
        })
    };
    let mut paths = found.keys().chain(wanted.keys());
    let path = paths.find(|path| found.get(*path) != wanted.get(*path))?;
    Some(format!(
        "{path}: {:?}, not {:?}",
        short(found.get(path)),
        short(wanted.get(path))
    ))
}

/// While a commit is interrupted each file is old or new: never missing where both have it, never a mixture.
fn old_or_new(found: &Snapshot, expected: &Expected) -> Verdict {
    for (path, entry) in found {
        if path.starts_with(".ringwall-commit-") || entry.mode & 0o170_000 == 0o040_000 {
            continue;
        }
        let known = [&expected.old, &expected.new];
        let is_known = known
            .iter()
            .any(|tree| tree.get(path).is_some_and(|one| one.content == entry.content));
        ensure!(
            is_known,
            "half applied: {path} holds {} bytes of neither old nor new",
            entry.content.len()
        );
    }
    for path in expected.old.keys().filter(|path| expected.new.contains_key(*path)) {
        ensure!(
            found.contains_key(path),
            "{path} is missing in between: it is in the old tree and in the new"
        );
    }
    Ok(())
}

fn kill_a_commit(trial: &mut Trial<'_>, name: &str, expected: &Expected) -> Verdict {
    let (world, project) = (trial.world, trial.project());
    plant(world);
    world.shell(&["-q", "--name", name], CHANGER).expect(0);
    let entry = trial.state().join(name);
    let usual_us = u64::try_from(expected.usual.as_micros()).unwrap();
    let kills = 1 + trial.random.below(2);
    let mut wrong = Vec::new();
    for _ in 0..kills {
        if !entry.exists() {
            break;
        }
        let mut commit = world
            .command(&["commit", name])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = collect_output(commit.stderr.take().unwrap());
        if trial.random.below(3) == 0 {
            // Once there is a journal the target is being changed: that is over in a moment, and seldom met by chance.
            while !entry.join("journal.json").exists() && matches!(commit.try_wait(), Ok(None)) {}
            std::thread::sleep(Duration::from_micros(trial.random.below(usual_us / 4 + 1)));
        } else {
            std::thread::sleep(Duration::from_micros(trial.random.below(usual_us + usual_us / 10)));
        }
        drop(commit.kill());
        let code = wait(&mut commit);
        let said = said.recv_timeout(PATIENCE).unwrap_or_default();
        let is_applying = names_in(&entry)
            .iter()
            .any(|name| matches!(name.as_str(), "journal.json" | "journal.done"));
        let moment = match code {
            Some(0) => &trial.moments.late,
            _ if entry.join("capture.json").exists() && !is_applying => &trial.moments.early,
            _ => &trial.moments.midway,
        };
        moment.fetch_add(1, Ordering::Relaxed);
        if !matches!(code, Some(0 | 137)) {
            wrong.push(format!("commit: exit {code:?}: {said}; state: {:?}", names_in(&entry)));
            break;
        }
        old_or_new(&snapshot(&project), expected)?;
        if trial.random.below(2) == 0 {
            trial.collect(&[name.to_owned()])?;
            old_or_new(&snapshot(&project), expected)?;
        }
    }
    // All of what is wrong is told: a refusal to go on matters less where the tree is as it should be.
    wrong.extend(trial.commit(name).err());
    if let Some(path) = different(&snapshot(&project), &expected.new) {
        wrong.push(format!("after committing again: {path}"));
    }
    wrong.extend(trial.collect(&[name.to_owned()]).err());
    wrong.extend(trial.nothing_left().err());
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

// The trials.

/// Says something that a passing test shows as well.
fn say(line: &str) {
    drop(writeln!(io::stderr(), "{line}"));
}

/// Lets one test run at a time: together they would disturb each other's moments.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn seed() -> u64 {
    match std::env::var("RINGWALL_CRASH_SEED") {
        Ok(text) => text.parse().expect("RINGWALL_CRASH_SEED is a number"),
        Err(_) => SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs() << 20 | u64::from(since.subsec_micros())),
    }
}

/// Runs `count` trials, each as the next user, and fails with everything that went wrong.
fn run_trials(what: &str, count: usize, trial: impl Fn(&mut Trial<'_>, usize, &str) -> Verdict + Sync) {
    let (seed, users) = (seed(), users());
    say(&format!("{what}: RINGWALL_CRASH_SEED={seed}"));
    let (next, moments) = (AtomicUsize::new(0), Moments::default());
    // Made before there are threads: a process forked while a copy of the binary is being written holds it open for writing, and it
    // can't be run then (ETXTBSY).
    let worlds: Vec<Vec<World>> = (0..WORKERS)
        .map(|_| users.iter().map(|user| World::new(*user)).collect())
        .collect();
    let trials = |worlds: &[World]| {
        let mut failures = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return failures;
            }
            let user = users[index % users.len()];
            let world = worlds.iter().find(|world| world.user() == user).unwrap();
            let name = format!("c{index}");
            let mut one = Trial {
                moments: &moments,
                world,
                random: Random(seed ^ (u64::try_from(index).unwrap() << 40)),
                marker: format!("rwcrash-{}-{what}-{index}.", std::process::id()),
            };
            let verdict = catch_unwind(AssertUnwindSafe(|| trial(&mut one, index, &name)))
                .unwrap_or_else(|_| Err("panicked: see above".to_owned()));
            if let Err(why) = verdict {
                let failure = format!("FAILED: {what} {index} as {user:?}: {why}");
                say(&failure);
                failures.push(failure);
                one.make_clean();
            }
            empty(&one.project());
        }
    };
    let failures: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = worlds.iter().map(|worlds| scope.spawn(|| trials(worlds))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let failed = failures.len();
    say(&format!("{what}: killed {moments:?}"));
    // Without root every trial is an ordinary user's: none is left out.
    say(&format!(
        "crash: {} passed, {failed} failed, 0 skipped ({what})",
        count - failed
    ));
    assert!(
        failures.is_empty(),
        "RINGWALL_CRASH_SEED={seed}\n{}",
        failures.join("\n")
    );
}

#[test]
fn killed_runs_lose_and_leave_nothing() {
    let _turn = turn();
    run_trials("run", RUN_KILLS, |trial, index, name| {
        let victim = if index / 2 % 2 == 0 {
            Victim::Keeper
        } else {
            Victim::Init
        };
        let kind = KINDS[index / 4 % KINDS.len()];
        kill_a_run(trial, name, kind, victim).map_err(|why| format!("{kind:?}, killed {victim:?}: {why}"))
    });
}

#[test]
fn killed_commits_are_finished_by_committing_again() {
    let _turn = turn();
    let expected: Vec<(User, Expected)> = users().into_iter().map(|user| (user, Expected::find(user))).collect();
    for (user, one) in &expected {
        say(&format!("commit: as {user:?} it takes {:?} undisturbed", one.usual));
    }
    run_trials("commit", COMMIT_KILLS, |trial, _, name| {
        let user = trial.world.user();
        let (_, expected) = expected.iter().find(|(one, _)| *one == user).unwrap();
        kill_a_commit(trial, name, expected)
    });
}

/// The searches that find nothing after a kill find what is there before it.
#[test]
fn the_searches_find_what_is_there() {
    let _turn = turn();
    for user in users() {
        let world = World::new(user);
        let marker = format!("rwcrash-{}-search.", std::process::id());
        let mut flags = vec!["run", "-q", "--name", "found"];
        if user == User::Root {
            flags.extend(["-m", "200M"]);
        }
        let mut command = world.command(&flags);
        command.args(["--", "sh", "-c", "touch new; echo; exec sleep 1000", "sh", &marker]);
        command
            .env("RW_MARK", &marker)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut keeper = command.spawn().unwrap();
        let mut line = [0];
        keeper.stdout.take().unwrap().read_exact(&mut line).unwrap();
        assert_eq!(children(keeper.id()).len(), 1);
        assert!(!marked(&marker).is_empty());
        assert!(!is_unlocked(&world.path("state")));
        if user == User::Root {
            let mut groups = Vec::new();
            control_groups(Path::new("/sys/fs/cgroup"), "found", &mut groups);
            assert!(!groups.is_empty(), "a memory limit without a control group");
        }
        keeper.kill().unwrap();
        keeper.wait().unwrap();
        assert!(eventually(
            || marked(&marker).is_empty() && is_unlocked(&world.path("state"))
        ));
        world.ringwall(&["gc"]).expect(0);
        // Its work directory could not be removed with the world by an ordinary user.
        world.ringwall(&["discard", "found"]).expect(0);
    }
}
