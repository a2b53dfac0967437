//! Uppers built by hand, in every form that overlayfs or an attacker can give them.

use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;

use ringwall_layer::{
    Capture, ChangeKind, CommitError, CommitOptions, IdShift, Note, OpenCaptureError, Pending, ProblemKind, usage_bytes,
};
use rustix::fs::{CWD, FileType, Mode};

use crate::support::{
    Fixture, LONG_AGO, change, chmod, dump, expected, fill, opaque_dir, set_time, whiteout, write, xattr,
};

const FORCE: CommitOptions = CommitOptions {
    force: true,
    crash_after: None,
};

#[test]
fn a_new_capture_is_empty_and_its_root_looks_like_the_target() {
    let fixture = Fixture::new(|target| {
        fill(target);
        chmod(target, 0o755);
    });
    assert!(fixture.capture().is_empty().unwrap());
    assert_eq!(fixture.changes(), Vec::<String>::new());
    let (upper, target) = (
        fs::metadata(fixture.upper("")).unwrap(),
        fs::metadata(&fixture.target).unwrap(),
    );
    assert_eq!(
        (upper.mode(), upper.uid(), upper.mtime()),
        (target.mode(), target.uid(), target.mtime())
    );
    let before = dump(&fixture.target, true);
    fixture.commit(CommitOptions::default()).unwrap();
    assert_eq!(dump(&fixture.target, true), before);
    assert!(fixture.is_gone());
}

#[test]
fn a_commit_does_everything_and_leaves_nothing() {
    let fixture = Fixture::new(fill);
    change(&fixture);
    assert!(!fixture.capture().is_empty().unwrap());
    let report = fixture.commit(CommitOptions::default()).unwrap();
    assert_eq!(dump(&fixture.target, true), expected());
    assert!(fixture.is_gone());
    assert!(
        report.stripped.is_empty() && report.notes.is_empty() && !report.was_resumed,
        "{report:?}"
    );
    assert!(matches!(
        Capture::open(&fixture.state),
        Err(OpenCaptureError::NotFound { .. })
    ));
}

#[test]
fn a_scan_lists_every_change_once() {
    let fixture = Fixture::new(fill);
    change(&fixture);
    let expected = [
        "A added",
        "M becomes-dir",
        "A becomes-dir/child",
        "D drop",
        "M edit",
        "M link",
        "M mode",
        "A new",
        "A new/inner",
        "A new/inner/file",
        "A new/linked",
        "D old",
        "D old/a",
        "D old/inner",
        "D old/inner/b",
        "A pipe",
        "M redo/both",
        "D redo/was",
        "M sub",
        "M sub/edit",
        "M swap",
        "D swap/s",
    ];
    assert_eq!(fixture.changes(), expected);
    let scan = fixture.capture().scan().unwrap();
    let kind = |path: &str| {
        scan.changes
            .iter()
            .find(|change| change.path.as_bytes() == path.as_bytes())
            .unwrap()
            .kind
    };
    assert_eq!(
        (kind("mode"), kind("sub"), kind("edit")),
        (ChangeKind::MetadataOnly, ChangeKind::MetadataOnly, ChangeKind::Modified)
    );
    let summary = scan.summary();
    assert_eq!(
        (summary.added, summary.modified, summary.deleted, summary.metadata_only),
        (7, 6, 7, 2)
    );
}

#[test]
fn what_was_only_copied_up_is_no_change() {
    let fixture = Fixture::new(fill);
    fs::create_dir(fixture.upper("sub")).unwrap();
    write(fixture.upper("sub/edit"), "sub/edit, as it was\n");
    set_time(fixture.upper("sub/edit"), LONG_AGO);
    assert!(fixture.capture().is_empty().unwrap());
    assert_eq!(fixture.changes(), Vec::<String>::new());
    // The same length and time, but another content: nothing may hide behind a faked time.
    write(fixture.upper("sub/edit"), "sub/edit, as it WAS\n");
    set_time(fixture.upper("sub/edit"), LONG_AGO);
    assert!(!fixture.capture().is_empty().unwrap());
    assert_eq!(fixture.changes(), ["M sub/edit"]);
}

#[test]
fn whiteouts_in_the_form_of_files_count_only_where_they_are_allowed() {
    let fixture = Fixture::new(fill);
    fs::create_dir(fixture.upper("sub")).unwrap();
    write(fixture.upper("sub/edit"), "");
    xattr(fixture.upper("sub/edit"), "user.overlay.whiteout", "");
    assert_eq!(fixture.changes(), ["M sub/edit"]);
    xattr(fixture.upper("sub"), "user.overlay.opaque", "x");
    assert_eq!(fixture.changes(), ["D sub/edit"]);
    fixture.commit(CommitOptions::default()).unwrap();
    assert!(!fixture.target("sub/edit").exists() && fixture.target("sub/keep").exists());
}

#[test]
fn attributes_that_cannot_be_resolved_are_refused() {
    for attribute in ["user.overlay.redirect", "user.overlay.metacopy"] {
        let fixture = Fixture::new(fill);
        fs::create_dir(fixture.upper("moved")).unwrap();
        xattr(fixture.upper("moved"), attribute, "/old");
        let error = fixture.commit(FORCE).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("moved carries the overlay attribute {attribute}, which can't be resolved")
        );
    }
}

#[test]
fn a_target_that_changed_underneath_is_refused_and_forced() {
    let fixture = Fixture::new(fill);
    change(&fixture);
    write(fixture.target("edit"), "edited outside\n");
    write(fixture.target("added"), "added outside\n");
    write(fixture.target("old/inner/b"), "changed in what goes\n");
    write(fixture.target("redo/fresh"), "new in what is replaced\n");
    write(fixture.target("keep"), "not in the capture\n");
    let before = dump(&fixture.target, true);
    let CommitError::Conflicts { conflicts } = fixture.commit(CommitOptions::default()).unwrap_err() else {
        panic!("no conflicts")
    };
    let mut paths: Vec<_> = conflicts.shown.iter().map(|problem| problem.path.to_string()).collect();
    paths.sort();
    assert_eq!(paths, ["added", "edit", "old/inner/b", "redo", "redo/fresh"]);
    assert_eq!(dump(&fixture.target, true), before);
    assert_eq!(fixture.capture().pending().unwrap(), Pending::Nothing);
    fixture.commit(FORCE).unwrap();
    assert_eq!(fs::read_to_string(fixture.target("added")).unwrap(), "added\n");
    assert!(!fixture.target("redo/fresh").exists() && !fixture.target("old").exists());
    assert_eq!(
        fs::read_to_string(fixture.target("keep")).unwrap(),
        "not in the capture\n"
    );
}

#[test]
fn a_directory_removed_underneath_is_a_conflict() {
    let fixture = Fixture::new(fill);
    fs::create_dir(fixture.upper("sub")).unwrap();
    xattr(fixture.upper("sub"), "user.overlay.origin", "");
    write(fixture.upper("sub/edit"), "edited\n");
    fs::remove_dir_all(fixture.target("sub")).unwrap();
    let CommitError::Conflicts { conflicts } = fixture.commit(CommitOptions::default()).unwrap_err() else {
        panic!("no conflicts")
    };
    assert_eq!(conflicts.shown[0].kind, ProblemKind::VanishedUnderneath);
}

#[test]
fn many_conflicts_are_counted_not_listed() {
    let fixture = Fixture::new(|target| (0..50).for_each(|index| write(target.join(format!("f{index}")), "x")));
    for index in 0..50 {
        write(fixture.target(&format!("f{index}")), "outside");
        write(fixture.upper(&format!("f{index}")), "inside!!");
    }
    let CommitError::Conflicts { conflicts } = fixture.commit(CommitOptions::default()).unwrap_err() else {
        panic!("no conflicts")
    };
    assert_eq!((conflicts.shown.len(), conflicts.total), (20, 50));
    assert!(conflicts.to_string().ends_with("\nand 30 more"));
}

#[test]
fn setuid_goes_and_is_reported() {
    let fixture = Fixture::new(fill);
    write(fixture.upper("tool"), "#!/bin/sh\n");
    chmod(fixture.upper("tool"), 0o6755);
    fs::create_dir(fixture.upper("shared")).unwrap();
    chmod(fixture.upper("shared"), 0o2775);
    let report = fixture.commit(CommitOptions::default()).unwrap();
    assert_eq!(
        fs::metadata(fixture.target("tool")).unwrap().permissions().mode() & 0o7777,
        0o755
    );
    assert_eq!(
        fs::metadata(fixture.target("shared")).unwrap().permissions().mode() & 0o7777,
        0o2775
    );
    let stripped: Vec<_> = report
        .stripped
        .iter()
        .map(|one| format!("{} {}", one.path, one.what))
        .collect();
    assert_eq!(stripped, ["tool setuid", "tool setgid"]);
}

#[test]
fn sockets_are_left_out_and_devices_refused() {
    let fixture = Fixture::new(fill);
    let _listener = UnixListener::bind(fixture.upper("sock")).unwrap();
    write(fixture.upper("added"), "x");
    let scan = fixture.capture().scan().unwrap();
    assert!(matches!(scan.notes.as_slice(), [Note::SocketSkipped(path)] if path.as_bytes() == b"sock"));
    if rustix::process::geteuid().is_root() {
        rustix::fs::mknodat(
            CWD,
            fixture.upper("null"),
            FileType::CharacterDevice,
            Mode::RWXU,
            rustix::fs::makedev(1, 3),
        )
        .unwrap();
        assert!(matches!(fixture.commit(FORCE), Err(CommitError::Blocked { .. })));
        fs::remove_file(fixture.upper("null")).unwrap();
    } else {
        println!("SKIPPED: the device node, which takes root");
    }
    fixture.commit(CommitOptions::default()).unwrap();
    assert!(!fixture.target("sock").exists() && fixture.target("added").exists());
}

#[test]
fn no_symlink_of_target_or_upper_is_followed() {
    let fixture = Fixture::new(fill);
    let outside = fixture.place.path().join("outside");
    fs::create_dir(&outside).unwrap();
    write(outside.join("victim"), "untouched");
    symlink(&outside, fixture.upper("way-out")).unwrap();
    fs::create_dir(fixture.upper("sub")).unwrap();
    fs::create_dir(fixture.upper("sub/deep")).unwrap();
    write(fixture.upper("sub/deep/victim"), "overwritten");
    // Somebody puts a symlink where the capture has a directory.
    fs::remove_dir_all(fixture.target("sub/deep")).unwrap();
    symlink(&outside, fixture.target("sub/deep")).unwrap();
    assert!(matches!(
        fixture.commit(CommitOptions::default()),
        Err(CommitError::Conflicts { .. })
    ));
    fixture.commit(FORCE).unwrap();
    assert_eq!(fs::read_to_string(outside.join("victim")).unwrap(), "untouched");
    assert!(fs::symlink_metadata(fixture.target("sub/deep")).unwrap().is_dir());
    assert_eq!(fs::read_link(fixture.target("way-out")).unwrap(), outside);
}

#[test]
fn strange_names_are_committed_exactly_and_printed_escaped() {
    use std::os::unix::ffi::OsStrExt as _;
    let fixture = Fixture::new(fill);
    let name = std::ffi::OsStr::from_bytes(b"a\n\x1b[31m\xff\\");
    fs::write(fixture.upper("").join(name), "x").unwrap();
    assert_eq!(fixture.changes(), ["A a\\x0a\\x1b[31m\\xff\\\\"]);
    fixture.commit(CommitOptions::default()).unwrap();
    assert!(fixture.target.join(name).exists());
}

#[test]
fn the_names_of_stages_are_out_of_reach() {
    let fixture = Fixture::new(fill);
    fs::create_dir(fixture.target(".ringwall-commit-other-1")).unwrap();
    whiteout(fixture.upper(".ringwall-commit-other-1"));
    write(fixture.upper("added"), "x");
    let report = fixture.commit(CommitOptions::default()).unwrap();
    assert!(matches!(report.notes.as_slice(), [Note::ReservedName(_)]));
    assert!(fixture.target(".ringwall-commit-other-1").exists());
}

#[test]
fn holes_stay_holes() {
    let fixture = Fixture::new(fill);
    let file = fs::File::create(fixture.upper("sparse")).unwrap();
    file.set_len(256 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"data", 100 << 20).unwrap();
    fixture.commit(CommitOptions::default()).unwrap();
    let meta = fs::metadata(fixture.target("sparse")).unwrap();
    assert_eq!(meta.len(), 256 << 20);
    assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
    let mut found = [0; 4];
    std::os::unix::fs::FileExt::read_exact_at(
        &fs::File::open(fixture.target("sparse")).unwrap(),
        &mut found,
        100 << 20,
    )
    .unwrap();
    assert_eq!(&found, b"data");
}

#[test]
fn closed_directories_and_files_are_read_and_stay_closed() {
    let fixture = Fixture::new(fill);
    fs::create_dir(fixture.upper("shut")).unwrap();
    write(fixture.upper("shut/inside"), "x\n");
    chmod(fixture.upper("shut/inside"), 0);
    chmod(fixture.upper("shut"), 0);
    assert_eq!(fixture.changes(), ["A shut", "A shut/inside"]);
    assert_eq!(fs::metadata(fixture.upper("shut")).unwrap().mode() & 0o777, 0);
    fixture.commit(CommitOptions::default()).unwrap();
    assert_eq!(fs::metadata(fixture.target("shut")).unwrap().mode() & 0o777, 0);
    chmod(fixture.target("shut"), 0o700);
    assert_eq!(fs::metadata(fixture.target("shut/inside")).unwrap().mode() & 0o777, 0);
    assert!(fixture.is_gone());
}

#[test]
fn a_directory_of_the_target_that_its_owner_closed_is_written_and_stays_closed() {
    let fixture = Fixture::new(|target| {
        fill(target);
        chmod(target.join("sub"), 0o555);
        chmod(target.join("old"), 0o555);
    });
    fs::create_dir(fixture.upper("sub")).unwrap();
    write(fixture.upper("sub/edit"), "edited\n");
    chmod(fixture.upper("sub"), 0o555);
    whiteout(fixture.upper("old"));
    fixture.commit(CommitOptions::default()).unwrap();
    assert_eq!(fs::read_to_string(fixture.target("sub/edit")).unwrap(), "edited\n");
    assert_eq!(fs::metadata(fixture.target("sub")).unwrap().mode() & 0o777, 0o555);
    assert!(!fixture.target("old").exists());
    chmod(fixture.target("sub"), 0o755);
}

#[test]
fn a_root_that_the_program_closed_is_read_and_stays_open_in_the_target() {
    let fixture = Fixture::new(|target| chmod(target, 0o755));
    write(fixture.upper("added"), "x\n");
    chmod(fixture.upper(""), 0);
    assert_eq!(fixture.changes(), ["M .", "A added"]);
    assert_eq!(fs::metadata(fixture.upper("")).unwrap().mode() & 0o777, 0);
    let report = fixture.commit(CommitOptions::default()).unwrap();
    assert!(
        matches!(report.notes.as_slice(), [Note::OwnerAccessKept(_)]),
        "{report:?}"
    );
    assert_eq!(fs::metadata(&fixture.target).unwrap().mode() & 0o777, 0o700);
    assert!(fixture.target("added").exists() && fixture.is_gone());
}

#[test]
fn owners_are_shifted() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: giving files away takes root");
        return;
    }
    let fixture = Fixture::new(fill);
    fs::remove_file(fixture.state.join("capture.json")).unwrap();
    let shift = IdShift {
        inside_start: 0,
        outside_start: 100_000,
        count: 1000,
    };
    Capture::create(&fixture.state, &fixture.target, crate::support::now_ns(), Some(shift)).unwrap();
    assert_eq!(fs::metadata(fixture.upper("")).unwrap().uid(), 100_000);
    assert!(fixture.capture().is_empty().unwrap());
    for (name, id) in [("added", 100_007), ("foreign", 5)] {
        write(fixture.upper(name), "x");
        std::os::unix::fs::chown(fixture.upper(name), Some(id), Some(id)).unwrap();
    }
    fixture.commit(CommitOptions::default()).unwrap();
    assert_eq!(fs::metadata(fixture.target("added")).unwrap().uid(), 7);
    assert_eq!(fs::metadata(fixture.target("foreign")).unwrap().gid(), 5);
}

#[test]
fn a_damaged_description_is_refused() {
    let fixture = Fixture::new(fill);
    for text in ["", "{", "{\"version\":1}", "[]"] {
        write(fixture.state.join("capture.json"), text);
        assert!(
            matches!(Capture::open(&fixture.state), Err(OpenCaptureError::Malformed { .. })),
            "{text}"
        );
    }
    write(
        fixture.state.join("capture.json"),
        r#"{"version":2,"target":"/x","started_ns":1}"#,
    );
    assert!(matches!(
        Capture::open(&fixture.state),
        Err(OpenCaptureError::Version { found: 2, .. })
    ));
    write(
        fixture.state.join("capture.json"),
        r#"{"version":1,"target":"x/y","started_ns":1}"#,
    );
    assert!(matches!(
        Capture::open(&fixture.state),
        Err(OpenCaptureError::Invalid { .. })
    ));
    write(fixture.state.join("capture.json"), &" ".repeat(1 << 20));
    assert!(matches!(Capture::open(&fixture.state), Err(OpenCaptureError::Io(_))));
}

#[test]
fn usage_counts_blocks_and_stops_at_its_bound() {
    let fixture = Fixture::new(fill);
    write(fixture.upper("big"), &"x".repeat(1 << 20));
    opaque_dir(fixture.upper("dir"));
    write(fixture.upper("dir/small"), "x");
    let upper = fs::File::open(fixture.upper("")).unwrap();
    let usage = usage_bytes(upper.as_fd(), 1000);
    assert!(usage.is_complete && usage.entries == 3, "{usage:?}");
    assert!((1 << 20..2 << 20).contains(&usage.bytes), "{usage:?}");
    assert!(!usage_bytes(upper.as_fd(), 2).is_complete);
}

#[test]
fn a_capture_on_another_file_system_is_copied_over() {
    let Ok(elsewhere) = tempfile::tempdir_in("/dev/shm") else {
        println!("SKIPPED: no /dev/shm");
        return;
    };
    let mut fixture = Fixture::new(fill);
    fixture.state = elsewhere.path().to_owned();
    if fs::metadata(&fixture.state).unwrap().dev() == fs::metadata(&fixture.target).unwrap().dev() {
        println!("SKIPPED: /dev/shm is no file system of its own");
        return;
    }
    fixture.lock = fs::File::create(fixture.state.join("lock")).unwrap();
    Capture::create(&fixture.state, &fixture.target, crate::support::now_ns(), None).unwrap();
    if rustix::fs::setxattr(fixture.upper(""), "user.probe", b"", rustix::fs::XattrFlags::empty()).is_err() {
        println!("SKIPPED: no user attributes in /dev/shm (Linux < 6.6)");
        return;
    }
    rustix::fs::removexattr(fixture.upper(""), "user.probe").unwrap();
    change(&fixture);
    fixture.commit(CommitOptions::default()).unwrap();
    assert_eq!(dump(&fixture.target, true), expected());
    assert!(fixture.is_gone());
}
