//! What is shown of a capture.

use std::fs;
use std::process::{Command, Stdio};

use ringwall_layer::diff::{DiffOptions, write_names, write_patch, write_stat};

use crate::support::{Fixture, change, chmod, fill, write};

fn patch(fixture: &Fixture, options: DiffOptions) -> String {
    let (capture, mut out) = (fixture.capture(), Vec::new());
    write_patch(&capture, &capture.scan().unwrap(), options, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn the_three_forms_agree() {
    let fixture = Fixture::new(fill);
    change(&fixture);
    let (capture, mut names, mut stat) = (fixture.capture(), Vec::new(), Vec::new());
    let scan = capture.scan().unwrap();
    write_names(&scan, &mut names).unwrap();
    let names = String::from_utf8(names).unwrap();
    assert!(
        names.contains("A new/inner/\n") && names.contains("D old/inner/b\n") && names.contains("M edit\n"),
        "{names}"
    );
    write_stat(&capture, &scan, DiffOptions::default(), &mut stat).unwrap();
    let stat = String::from_utf8(stat).unwrap();
    assert!(
        stat.contains(" edit | 2 +-\n") && stat.contains(" mode | metadata\n"),
        "{stat}"
    );
    let patch = patch(&fixture, DiffOptions::default());
    assert!(
        patch.contains("--- a/edit\n+++ b/edit\n@@ -1 +1 @@\n-edit, as it was\n+edited\n"),
        "{patch}"
    );
    assert!(
        patch.contains(
            "new file mode 120000\n--- /dev/null\n+++ b/swap\n@@ -0,0 +1 @@\n+keep\n\\ No newline at end of file\n"
        ),
        "{patch}"
    );
}

#[test]
fn a_patch_applies_with_git() {
    let fixture = Fixture::new(fill);
    write(fixture.upper("edit"), "edited\nwithout an end");
    write(fixture.upper("added"), "new\n");
    chmod(fixture.upper("added"), 0o755);
    crate::support::whiteout(fixture.upper("drop"));
    let patch = patch(&fixture, DiffOptions::default());
    let git = Command::new("git")
        .args(["apply", "-"])
        .current_dir(&fixture.target)
        .stdin(Stdio::piped())
        .spawn();
    let Ok(mut git) = git else {
        println!("SKIPPED: no git on PATH");
        return;
    };
    std::io::Write::write_all(git.stdin.as_mut().unwrap(), patch.as_bytes()).unwrap();
    assert!(git.wait().unwrap().success(), "{patch}");
    assert_eq!(
        fs::read_to_string(fixture.target("edit")).unwrap(),
        "edited\nwithout an end"
    );
    assert!(!fixture.target("drop").exists() && fixture.target("added").exists());
}

#[test]
fn binary_and_large_files_are_only_said_to_differ() {
    let fixture = Fixture::new(fill);
    write(fixture.upper("edit"), "a\0b");
    write(fixture.upper("keep"), &"line\n".repeat(100));
    let patch = patch(
        &fixture,
        DiffOptions {
            max_file_bytes: 100,
            escape_controls: false,
        },
    );
    assert!(
        patch.contains("Binary files a/edit and b/edit differ\n")
            && patch.contains("Binary files a/keep and b/keep differ\n"),
        "{patch}"
    );
}

#[test]
fn contents_for_a_terminal_are_escaped() {
    let fixture = Fixture::new(fill);
    write(fixture.upper("edit"), "\x1b]0;owned\x07\n");
    let patch = patch(
        &fixture,
        DiffOptions {
            escape_controls: true,
            ..DiffOptions::default()
        },
    );
    assert!(
        patch.contains("+\\x1b]0;owned\\x07\n") && !patch.contains('\x1b'),
        "{patch}"
    );
}
