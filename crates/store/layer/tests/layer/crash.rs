//! A commit that ends after any of its steps, as a kill would end it, and what is found after.

use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;

use ringwall_layer::{Capture, CommitError, CommitOptions, OpenCaptureError, Pending, sweep};

use crate::support::{Fixture, change, chmod, dump, expected, fill, write};

fn crash_after(steps: usize) -> CommitOptions {
    CommitOptions {
        crash_after: Some(steps),
        force: false,
    }
}

/// A dump without the root's line: whether its time is right depends on when the stage was removed.
fn dump_below(fixture: &Fixture) -> String {
    below(&dump(&fixture.target, true))
}

fn below(dump: &str) -> String {
    dump.split_once('\n').unwrap().1.to_owned()
}

/// Commits until it is done, or sweeps what was left of it.
fn finish(fixture: &Fixture) {
    match Capture::open(&fixture.state) {
        Ok(_) => {
            fixture.commit(CommitOptions::default()).unwrap();
        }
        Err(OpenCaptureError::NotFound { .. }) => {
            sweep(&fixture.state, ringwall_layer::LockHeld::assert(fixture.lock.as_fd())).unwrap();
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_commit_killed_at_any_step_is_finished_by_the_next() {
    let expected = below(&expected());
    let mut seen = Vec::new();
    for steps in 0.. {
        let fixture = Fixture::new(fill);
        change(&fixture);
        let before = dump_below(&fixture);
        match fixture.commit(crash_after(steps)) {
            Ok(_) => {
                assert!(steps > 60, "only {steps} steps");
                break;
            }
            Err(CommitError::Interrupted) => {}
            Err(error) => panic!("step {steps}: {error}"),
        }
        if let Ok(capture) = Capture::open(&fixture.state) {
            let pending = capture.pending().unwrap();
            match pending {
                Pending::Nothing | Pending::StaleStage => assert_eq!(dump_below(&fixture), before, "step {steps}"),
                Pending::Cleanup => assert_eq!(dump_below(&fixture), expected, "step {steps}"),
                Pending::Commit => {}
                Pending::Rollback => panic!("step {steps}: nothing failed"),
            }
            if !seen.contains(&pending) {
                seen.push(pending);
            }
            if pending == Pending::Commit {
                // A second kill, some steps later.
                match fixture.commit(crash_after(steps % 7)) {
                    Ok(_) | Err(CommitError::Interrupted) => {}
                    Err(error) => panic!("step {steps}: {error}"),
                }
            }
        }
        finish(&fixture);
        assert_eq!(dump_below(&fixture), expected, "step {steps}");
        assert!(fixture.is_gone(), "step {steps}");
    }
    assert_eq!(
        seen,
        [Pending::Nothing, Pending::StaleStage, Pending::Commit, Pending::Cleanup]
    );
}

/// A commit interrupted right after its commit point, and a target that somebody changes then, where the last operation works.
fn doomed() -> (Fixture, String) {
    let mut steps = 1;
    loop {
        let fixture = Fixture::new(fill);
        change(&fixture);
        assert!(matches!(
            fixture.commit(crash_after(steps)),
            Err(CommitError::Interrupted)
        ));
        if fixture.capture().pending().unwrap() != Pending::Commit {
            steps += 1;
            continue;
        }
        // By now `swap` can't be replaced any more; whichever operations came before it are undone.
        fs::remove_dir_all(fixture.target("swap")).unwrap();
        write(fixture.target("swap"), "somebody else's\n");
        let before = dump_below(&fixture);
        return (fixture, before);
    }
}

#[test]
fn a_commit_that_fails_is_undone_and_can_be_forced_later() {
    let (fixture, before) = doomed();
    let error = fixture.commit(CommitOptions::default()).unwrap_err();
    assert!(matches!(error, CommitError::RolledBack { cause: Some(_) }), "{error}");
    assert_eq!(dump_below(&fixture), before);
    assert_eq!(fixture.capture().pending().unwrap(), Pending::Nothing);
    // What the undoing touched is no conflict; what somebody else did is.
    let CommitError::Conflicts { conflicts } = fixture.commit(CommitOptions::default()).unwrap_err() else {
        panic!("no conflict")
    };
    let paths: Vec<_> = conflicts.shown.iter().map(|problem| problem.path.to_string()).collect();
    assert_eq!(paths, ["swap"]);
    fixture
        .commit(CommitOptions {
            force: true,
            crash_after: None,
        })
        .unwrap();
    assert_eq!(dump_below(&fixture), below(&expected()));
    assert!(fixture.is_gone());
}

#[test]
fn an_undoing_killed_at_any_step_is_finished_by_the_next() {
    for steps in 0.. {
        let (fixture, before) = doomed();
        match fixture.commit(crash_after(steps)).unwrap_err() {
            CommitError::RolledBack { cause: Some(_) } => {
                assert!(steps > 20, "only {steps} steps");
                break;
            }
            CommitError::Interrupted => {}
            error => panic!("step {steps}: {error}"),
        }
        let error = fixture.commit(CommitOptions::default()).unwrap_err();
        assert!(
            matches!(error, CommitError::RolledBack { .. } | CommitError::Conflicts { .. }),
            "step {steps}: {error}"
        );
        assert_eq!(dump_below(&fixture), before, "step {steps}");
        assert_eq!(fixture.capture().pending().unwrap(), Pending::Nothing, "step {steps}");
    }
}

#[test]
fn a_change_of_an_entry_already_in_place_survives_the_resumed_commit() {
    for steps in 1.. {
        let fixture = Fixture::new(fill);
        change(&fixture);
        if !matches!(fixture.commit(crash_after(steps)), Err(CommitError::Interrupted)) {
            panic!("never interrupted with the first entry in place");
        }
        let in_place = fs::read_to_string(fixture.target("edit")).unwrap() == "edited\n";
        if !in_place || fixture.capture().pending().unwrap() != Pending::Commit {
            continue;
        }
        fs::remove_file(fixture.target("edit")).unwrap();
        write(fixture.target("edit"), "edited after the commit\n");
        fixture.commit(CommitOptions::default()).unwrap();
        assert_eq!(
            fs::read_to_string(fixture.target("edit")).unwrap(),
            "edited after the commit\n"
        );
        return;
    }
}

/// A commit of a directory that is closed at the end, with another one in it.
#[test]
fn a_commit_that_closes_directories_is_finished_after_any_kill() {
    for steps in 0.. {
        let fixture = Fixture::new(fill);
        for dir in ["sub", "sub/deep"] {
            fs::create_dir(fixture.upper(dir)).unwrap();
            write(fixture.upper(dir).join("edit"), "edited\n");
        }
        chmod(fixture.upper("sub/deep"), 0o100);
        chmod(fixture.upper("sub"), 0);
        let result = fixture.commit(crash_after(steps));
        if result.is_err() {
            assert!(
                matches!(result, Err(CommitError::Interrupted)),
                "step {steps}: {result:?}"
            );
            finish(&fixture);
        }
        let mode = |path: &str| fs::metadata(fixture.target(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode("sub"), 0, "step {steps}");
        chmod(fixture.target("sub"), 0o700);
        assert_eq!(mode("sub/deep"), 0o100, "step {steps}");
        chmod(fixture.target("sub/deep"), 0o700);
        for file in ["sub/edit", "sub/deep/edit"] {
            assert_eq!(
                fs::read_to_string(fixture.target(file)).unwrap(),
                "edited\n",
                "step {steps}"
            );
        }
        assert!(fixture.is_gone(), "step {steps}");
        if result.is_ok() {
            assert!(steps > 20, "only {steps} steps");
            break;
        }
    }
}
