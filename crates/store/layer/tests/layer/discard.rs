//! Throwing captures away, hostile ones above all.

use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::symlink;

use ringwall_layer::{Capture, CommitOptions, LockHeld, OpenCaptureError, sweep, usage_bytes};
use rustix::fs::{Mode, OFlags};

use crate::support::{Fixture, change, chmod, dump, fill, write};

#[test]
fn a_discard_frees_everything_and_touches_no_target() {
    let fixture = Fixture::new(fill);
    let before = dump(&fixture.target, true);
    change(&fixture);
    write(fixture.upper("big"), &"x".repeat(1 << 20));
    fs::create_dir_all(fixture.state.join("work/work")).unwrap();
    chmod(fixture.state.join("work/work"), 0);
    symlink(&fixture.target, fixture.upper("out")).unwrap();
    let freed = fixture
        .capture()
        .discard(LockHeld::assert(fixture.lock.as_fd()))
        .unwrap();
    assert!(freed >= 1 << 20);
    assert!(fixture.is_gone());
    assert_eq!(dump(&fixture.target, true), before);
}

#[test]
fn a_tree_deeper_than_any_path_is_counted_and_removed() {
    let fixture = Fixture::new(fill);
    // 3,000 levels of 5 bytes: beyond PATH_MAX and beyond the usual limit of descriptors.
    let mut directory = rustix::fs::open(fixture.upper(""), OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&directory, "deep", Mode::RWXU).unwrap();
        directory = rustix::fs::openat(&directory, "deep", OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
    }
    rustix::fs::fchmod(&directory, Mode::empty()).unwrap();
    let error = fixture.commit(CommitOptions::default()).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("a path in the capture is longer than 3900 bytes: deep/deep/"),
        "{error}"
    );
    assert!(!fixture.capture().is_empty().unwrap());
    let usage = usage_bytes(fs::File::open(fixture.upper("")).unwrap().as_fd(), 10_000);
    assert_eq!(usage.entries, 3000);
    fixture
        .capture()
        .discard(LockHeld::assert(fixture.lock.as_fd()))
        .unwrap();
    assert!(fixture.is_gone());
}

#[test]
fn an_interrupted_discard_is_swept() {
    let fixture = Fixture::new(fill);
    change(&fixture);
    let lock = LockHeld::assert(fixture.lock.as_fd());
    assert_eq!(sweep(&fixture.state, lock).unwrap(), 0, "a whole capture is left alone");
    assert!(!fixture.capture().is_empty().unwrap());
    fs::rename(fixture.state.join("capture.json"), fixture.state.join("gone.json")).unwrap();
    assert!(matches!(
        Capture::open(&fixture.state),
        Err(OpenCaptureError::NotFound { .. })
    ));
    sweep(&fixture.state, lock).unwrap();
    assert!(fixture.is_gone());
    Capture::create(&fixture.state, &fixture.target, 1, None).unwrap();
}
