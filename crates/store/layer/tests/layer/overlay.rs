//! Uppers that overlayfs wrote: random operations inside a mount, committed, must equal the same operations done directly.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use ringwall_layer::CommitOptions;
use rustix::fs::{CWD, FileType, Mode, XattrFlags};

use crate::support::{Fixture, LONG_AGO, dump, set_time, write};

/// Random sequences, and the operations in each.
const ROUNDS: u64 = 40;
const OPERATIONS: usize = 60;

/// xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled", 2016): the same on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % u64::try_from(bound).unwrap()).unwrap()
    }

    fn path(&mut self) -> PathBuf {
        const DIRS: [&str; 7] = ["", "", "a", "b", "a/sub", "new", "new/sub"];
        const NAMES: [&str; 7] = ["f0", "f1", "f2", "sub", "a", "b", "new"];
        let dir = DIRS[self.below(DIRS.len())];
        PathBuf::from(dir).join(NAMES[self.below(NAMES.len())])
    }
}

fn base(root: &Path) {
    for dir in ["a", "a/sub", "b", "b/sub"] {
        fs::create_dir(root.join(dir)).unwrap();
    }
    for file in ["f0", "f1", "a/f0", "a/f1", "a/sub/f0", "b/f0", "b/f2", "b/sub/f1"] {
        write(root.join(file), &format!("base {file}\n"));
        rustix::fs::setxattr(root.join(file), "user.base", b"1", XattrFlags::empty()).unwrap();
        set_time(root.join(file), LONG_AGO);
    }
    symlink("f0", root.join("a/f2")).unwrap();
    for dir in ["a/sub", "a", "b/sub", "b"] {
        set_time(root.join(dir), LONG_AGO);
    }
}

fn is_real_dir(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir())
}

fn is_real_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file())
}

/// One random operation below `root`. Those that can't be done fail alike in both worlds, and are meant to.
fn operate(root: &Path, random: &mut Random) -> std::io::Result<()> {
    let (path, other) = (root.join(random.path()), root.join(random.path()));
    let number = random.below(1000);
    match random.below(19) {
        0..=2 if !path.is_symlink() => fs::write(&path, format!("written {number}\n").repeat(number % 50 + 1)),
        3 | 4 if is_real_file(&path) => {
            std::io::Write::write_all(&mut fs::OpenOptions::new().append(true).open(&path)?, b"appended\n")
        }
        5 | 6 => fs::remove_file(&path),
        // Directories that are in the lower layer can't be renamed without redirect_dir (EXDEV).
        7 | 8 if !is_real_dir(&path) => fs::rename(&path, &other),
        9 => symlink(format!("to-{number}"), &path),
        10 if is_real_file(&path) => fs::hard_link(&path, &other),
        11 if !path.is_symlink() => fs::set_permissions(
            &path,
            fs::Permissions::from_mode([0o600, 0o755, 0, 0o444, 0o1777][number % 5]),
        ),
        12 if !path.is_symlink() && path.exists() => {
            set_time(&path, LONG_AGO + i64::try_from(number).unwrap());
            Ok(())
        }
        13 if !path.is_symlink() => {
            let name = ["user.a", "user.base", "user.overlay.opaque", "user.overlay.mine"][number % 4];
            Ok(rustix::fs::setxattr(
                &path,
                name,
                format!("{number}").as_bytes(),
                XattrFlags::empty(),
            )?)
        }
        14 => fs::create_dir(&path),
        15 => fs::remove_dir(&path),
        16 if is_real_dir(&path) => {
            fs::remove_dir_all(&path)?;
            if number.is_multiple_of(2) {
                fs::create_dir(&path)?;
                fs::write(path.join("f0"), format!("anew {number}\n"))?;
            }
            Ok(())
        }
        17 if !path.is_symlink() => {
            let file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)?;
            file.set_len(8 << 20)?;
            std::os::unix::fs::FileExt::write_all_at(&file, b"end", (5 << 20) + u64::try_from(number).unwrap())
        }
        18 => {
            fs::create_dir(root.join("fresh"))?;
            fs::write(root.join("fresh/f0"), "fresh\n")?;
            rustix::fs::mknodat(
                CWD,
                root.join("fresh/pipe"),
                FileType::Fifo,
                Mode::from_raw_mode(0o600),
                0,
            )?;
            fs::rename(root.join("fresh"), &other).inspect_err(|_| fs::remove_dir_all(root.join("fresh")).unwrap())
        }
        _ => Ok(()),
    }
}

fn operate_all(root: &Path, seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    for _ in 0..OPERATIONS {
        let _as_it_comes = operate(root, &mut random);
    }
}

/// Runs inside the mount, in a process of its own: works and dumps what it sees.
#[test]
fn inside_the_mount() {
    let (Some(root), Some(seed), Some(out)) = (
        std::env::var_os("LAYER_ROOT"),
        std::env::var_os("LAYER_SEED"),
        std::env::var_os("LAYER_OUT"),
    ) else {
        return; // only the other tests of this module give it work
    };
    let seed: u64 = seed.to_str().unwrap().parse().unwrap();
    operate_all(Path::new(&root), seed);
    fs::write(out, dump(Path::new(&root), true)).unwrap();
}

const SETUP: &str =
    "mount -t overlay overlay -o \"userxattr,lowerdir=$1,upperdir=$2/upper,workdir=$2/work\" \"$3\" || exit 77
exec \"$4\" --exact overlay::inside_the_mount --nocapture";

/// Does the operations of `seed` in an overlay over the fixture's target; `None` where there can be no such mount.
fn in_overlay(fixture: &Fixture, seed: u64) -> Option<String> {
    let mount = fixture.place.path().join("mount");
    let out = fixture.place.path().join("out");
    fs::create_dir(&mount).unwrap();
    // An ordinary user may have no way to where this was built, but can read what it is running.
    let program = fixture.place.path().join("program");
    fs::copy("/proc/self/exe", &program).unwrap();
    let run = Command::new("unshare")
        .args(["-Urm", "sh", "-c", SETUP, "sh"])
        .args([&fixture.target, &fixture.state, &mount])
        .arg(&program)
        .env("LAYER_ROOT", &mount)
        .env("LAYER_SEED", seed.to_string())
        .env("LAYER_OUT", &out)
        .current_dir("/")
        .output();
    match run {
        Ok(output) if output.status.success() => Some(fs::read_to_string(out).unwrap()),
        Ok(output)
            if output.status.code() == Some(77)
                || String::from_utf8_lossy(&output.stderr).contains("unshare failed") =>
        {
            println!(
                "SKIPPED: no overlay in a user namespace: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            None
        }
        Ok(output) => panic!("seed {seed}: {}", String::from_utf8_lossy(&output.stdout)),
        Err(error) => {
            println!("SKIPPED: unshare: {error}");
            None
        }
    }
}

fn without_owners_and_root(dump: &str, is_mapped: bool) -> Vec<String> {
    let own = format!(
        " {}:{}",
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw()
    );
    let seen = if is_mapped { " 0:0".to_owned() } else { own };
    dump.lines().skip(1).map(|line| line.replacen(&seen, "", 1)).collect()
}

fn without_times(lines: &[String]) -> Vec<String> {
    lines
        .iter()
        .map(|line| line.rsplit_once(" @").unwrap().0.to_owned())
        .collect()
}

fn without_links(lines: &[String]) -> Vec<String> {
    let is_link = |word: &&str| !word.starts_with('=');
    lines
        .iter()
        .map(|line| line.split(' ').filter(is_link).collect::<Vec<_>>().join(" "))
        .collect()
}

#[test]
fn a_commit_equals_the_same_operations_done_directly() {
    for seed in 1..=ROUNDS {
        let fixture = Fixture::new(base);
        let Some(merged) = in_overlay(&fixture, seed) else {
            return;
        };
        let merged = without_owners_and_root(&merged, true);
        // What the program saw as empty must be empty, and the other way round.
        let was_empty = fixture.capture().is_empty().unwrap();
        assert_eq!(
            was_empty,
            fixture.capture().scan().unwrap().changes.is_empty(),
            "seed {seed}"
        );
        let is_root = rustix::process::geteuid().is_root();
        if !is_root {
            // Files of mode 000 can't be dumped then.
            fixture
                .commit(CommitOptions::default())
                .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            assert!(fixture.is_gone(), "seed {seed}");
            continue;
        }
        fixture
            .commit(CommitOptions::default())
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(fixture.is_gone(), "seed {seed}");
        let committed = without_owners_and_root(&dump(&fixture.target, true), false);
        // Overlayfs shows hard links to a file that was copied up under different inode numbers; the direct run is compared for those.
        assert_eq!(
            without_links(&committed),
            without_links(&merged),
            "seed {seed}: the commit is not what the program saw"
        );
        let direct = fixture.place.path().join("direct");
        fs::create_dir(&direct).unwrap();
        base(&direct);
        operate_all(&direct, seed);
        let direct = without_owners_and_root(&dump(&direct, true), false);
        assert_eq!(
            without_times(&committed),
            without_times(&direct),
            "seed {seed}: the commit is not what a direct run does"
        );
    }
}
