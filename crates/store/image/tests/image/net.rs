//! A net under these tests: a thread that unpacks hostile archives can write only below a directory of its own.
//!
//! The archives try to write and delete all over the file system, and tests often run as root. Should the code under test ever let one
//! through, Landlock stops it; a test must find a bug, not live through it.

use std::cell::OnceCell;
use std::path::Path;

use landlock::{ABI, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus};
use tempfile::TempDir;

thread_local! {
    static BASE: OnceCell<TempDir> = const { OnceCell::new() };
}

/// Makes a temporary directory in which this thread, and those it starts from now on, may write; nowhere else may they.
pub(crate) fn scratch() -> TempDir {
    BASE.with(|base| {
        let base = base.get_or_init(|| {
            // Root's go below the build's directory: the place of the rule below has to be as small as possible.
            let is_root = rustix::process::geteuid().is_root();
            let parent = if is_root {
                env!("CARGO_TARGET_TMPDIR").into()
            } else {
                std::env::temp_dir()
            };
            let base = tempfile::tempdir_in(&parent).expect("a temporary directory");
            confine(&base, &parent);
            base
        });
        tempfile::tempdir_in(base.path()).expect("a temporary directory")
    })
}

fn confine(base: &TempDir, parent: &Path) {
    let access = AccessFs::from_write(ABI::V3);
    let ruleset = Ruleset::default()
        .handle_access(access)
        .and_then(Ruleset::create)
        .expect("a ruleset");
    let rule = PathBeneath::new(PathFd::new(base.path()).expect("there"), access);
    // To remove the directory itself when the thread ends. It is empty then, and full ones can't be removed.
    let end = PathBeneath::new(PathFd::new(parent).expect("there"), AccessFs::RemoveDir);
    let ruleset = ruleset
        .add_rule(rule)
        .and_then(|ruleset| ruleset.add_rule(end))
        .expect("two rules");
    let status = ruleset.restrict_self().expect("restricted");
    if status.ruleset == RulesetStatus::NotEnforced {
        assert!(
            !rustix::process::geteuid().is_root(),
            "this kernel has no Landlock: run these tests as a user who can't harm the machine"
        );
        eprintln!("SKIPPED: the net under these tests: this kernel has no Landlock");
    }
}

#[test]
fn nothing_outside_can_be_written() {
    let outside = tempfile::tempdir().expect("a temporary directory");
    let file = outside.path().join("file");
    std::fs::write(&file, "1").expect("not confined");
    // In a thread of its own, so that this one can clean up.
    std::thread::scope(|threads| {
        let work = threads.spawn(|| {
            let inside = scratch();
            std::fs::write(inside.path().join("file"), "1").expect("allowed");
            std::fs::create_dir(inside.path().join("d")).expect("allowed");
            std::fs::hard_link(inside.path().join("file"), inside.path().join("d/link")).expect("allowed");
            if rustix::process::geteuid().is_root() {
                std::fs::write(&file, "2").expect_err("stopped");
                std::fs::write(outside.path().join("new"), "2").expect_err("stopped");
                std::fs::remove_file(&file).expect_err("stopped");
            }
        });
        work.join().expect("as said");
    });
    assert_eq!(std::fs::read(&file).expect("there"), b"1");
}
