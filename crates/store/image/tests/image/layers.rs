//! What well-meant archives become: modes, times, links, attributes, and layers over layers.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt};

use ringwall_image::ArchiveKind::{OciLayer, Plain};
use ringwall_image::{Limits, Owners, unpack};

use crate::support::{Archive, Entry, Ground, mode};

#[test]
fn modes_times_and_links_are_kept_but_not_set_id_bits() {
    let ground = Ground::new();
    let archive = Archive::new()
        .mode(b'5', "./", 0o750)
        .mode(b'5', "closed", 0o500)
        .file("closed/f", b"inside")
        .mode(b'5', "tmp", 0o1777)
        .mode(b'0', "su", 0o4755)
        .mode(b'5', "sg", 0o2755)
        .hardlink("same", "closed/f")
        .symlink("abs", "/etc/passwd")
        .symlink("up", "../../x")
        .file("deep/er/f", b"")
        .end();
    let report = ground.unpack(&archive, Plain).expect("harmless");
    assert_eq!((report.entries, report.bytes, report.dropped.set_id), (12, 6, 2));
    let path = |name: &str| ground.root.join(name);
    assert_eq!(
        ["", "closed", "tmp", "su", "sg", "deep"].map(|name| mode(&path(name))),
        [0o750, 0o500, 0o1777, 0o755, 0o755, 0o755]
    );
    assert_eq!(path("closed").metadata().expect("there").mtime(), 1_600_000_000);
    assert_eq!(path("closed/f").metadata().expect("there").mtime(), 1_600_000_000);
    assert_eq!(
        path("same").metadata().expect("there").ino(),
        path("closed/f").metadata().expect("there").ino()
    );
    assert_eq!(
        std::fs::read_link(path("abs")).expect("a link").to_str(),
        Some("/etc/passwd")
    );
    assert_eq!(
        std::fs::read_link(path("up")).expect("a link").to_str(),
        Some("../../x")
    );
}

#[test]
fn the_tar_crate_writes_what_we_read() {
    let ground = Ground::new();
    let mut builder = tar::Builder::new(Vec::new());
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o640);
    builder
        .append_data(&mut header, &long, &b"abc"[..])
        .expect("into memory");
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    builder
        .append_link(&mut link, "link", "t".repeat(300))
        .expect("into memory");
    ground
        .unpack(&builder.into_inner().expect("into memory"), Plain)
        .expect("harmless");
    assert_eq!(std::fs::read(ground.root.join(long)).expect("there"), b"abc");
    assert_eq!(
        std::fs::read_link(ground.root.join("link"))
            .expect("a link")
            .as_os_str()
            .len(),
        300
    );
}

#[test]
fn pax_headers_win_and_only_user_attributes_stay() {
    let ground = Ground::new();
    let archive = Archive::new()
        .pax(&[
            ("path", b"name with \xc3\xa4"),
            ("mtime", b"1500000000.25"),
            ("SCHILY.xattr.user.kept", b"a\n=b\0c"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.security.capability", b"\x01\0\0\x02"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ])
        .file("short", b"x")
        .pax(&[("SCHILY.xattr.user.on", b"dir")])
        .dir("d")
        .pax(&[("SCHILY.xattr.user.no", b"link")])
        .symlink("s", "d")
        .end();
    let report = ground.unpack(&archive, Plain).expect("harmless");
    let path = ground.root.join("name with ä");
    let found = path.metadata().expect("there");
    assert_eq!((found.mtime(), found.mtime_nsec()), (1_500_000_000, 250_000_000));
    let mut names = vec![0_u8; 1000];
    let length = rustix::fs::listxattr(&path, &mut names[..]).expect("attributes");
    let names = String::from_utf8_lossy(&names[..length]).into_owned();
    if names.is_empty() {
        println!("SKIPPED: the temporary directory's file system stores no user attributes");
        return;
    }
    assert_eq!(names, "user.kept\0");
    assert_eq!(report.dropped.attributes, 4);
    let mut value = [0_u8; 100];
    let length = rustix::fs::getxattr(&path, "user.kept", &mut value[..]).expect("an attribute");
    assert_eq!(&value[..length], b"a\n=b\0c");
    let length = rustix::fs::getxattr(ground.root.join("d"), "user.on", &mut value[..]).expect("an attribute");
    assert_eq!(&value[..length], b"dir");
}

#[test]
fn owners_are_kept_for_root() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: needs root");
        return;
    }
    let ground = Ground::new();
    let mut archive = Archive::new();
    for (kind, name) in [(b'5', "d"), (b'0', "d/f"), (b'2', "d/s")] {
        let mut entry = Entry::new(kind, name.as_bytes());
        (entry.uid, entry.gid, entry.link) = (1000, 65535, if kind == b'2' { b"x".to_vec() } else { Vec::new() });
        archive = archive.add(&entry);
    }
    unpack(
        &archive.end()[..],
        &ground.root,
        Plain,
        Owners::Keep,
        &Limits::default(),
    )
    .expect("harmless");
    for name in ["d", "d/f", "d/s"] {
        let found = ground.root.join(name).symlink_metadata().expect("there");
        assert_eq!((found.uid(), found.gid()), (1000, 65535), "{name}");
    }
}

#[test]
fn whiteouts_delete_what_is_below_and_spare_their_own_layer() {
    let ground = Ground::new();
    let lower = Archive::new()
        .file("gone", b"1")
        .file("dir/a", b"1")
        .file("dir/sub/b", b"1")
        .file("opaque/old", b"1")
        .file("opaque/deep/old", b"1")
        .file("again", b"1")
        .end();
    ground.unpack(&lower, OciLayer).expect("harmless");
    let upper = Archive::new()
        .file(".wh.gone", b"")
        .file("opaque/deep/new", b"2")
        .file("opaque/new", b"2")
        .file("opaque/.wh..wh..opq", b"")
        .file("again", b"2")
        .file(".wh.again", b"")
        .file(".wh.dir", b"")
        .file(".wh.missing", b"")
        .file("nowhere/.wh.x", b"")
        .file(".wh..wh.plnk", b"")
        .end();
    let report = ground.unpack(&upper, OciLayer).expect("harmless");
    assert_eq!(report.dropped.markers, 1);
    assert_eq!(
        ground.names(),
        ["again", "opaque", "opaque/deep", "opaque/deep/new", "opaque/new"]
    );
    assert_eq!(std::fs::read(ground.root.join("again")).expect("there"), b"2");
}

#[test]
fn a_whiteout_before_the_new_entry_works_too() {
    let ground = Ground::new();
    ground
        .unpack(&Archive::new().file("d/old", b"1").end(), OciLayer)
        .expect("harmless");
    let upper = Archive::new().file(".wh.d", b"").file("d/new", b"2").end();
    ground.unpack(&upper, OciLayer).expect("harmless");
    assert_eq!(ground.names(), ["d", "d/new"]);
}

#[test]
fn entries_replace_others_of_another_kind() {
    let ground = Ground::new();
    let lower = Archive::new()
        .file("a/x", b"")
        .file("b", b"")
        .symlink("c", "a")
        .dir("e")
        .end();
    ground.unpack(&lower, OciLayer).expect("harmless");
    let upper = Archive::new()
        .file("a", b"2")
        .dir("b")
        .dir("c")
        .mode(b'5', "e", 0o711)
        .end();
    ground.unpack(&upper, OciLayer).expect("harmless");
    let is = |name: &str| ground.root.join(name).symlink_metadata().expect("there").file_type();
    assert!(is("a").is_file() && is("b").is_dir() && is("c").is_dir());
    assert_eq!(mode(&ground.root.join("e")), 0o711);
}

#[test]
fn links_made_by_lower_layers_are_resolved_inside_the_root() {
    let ground = Ground::new();
    let lower = Archive::new()
        .dir("usr/lib")
        .symlink("lib", "usr/lib")
        .symlink("abs", "/usr/lib")
        .symlink("climb", "../../../../usr/lib")
        .file("usr/lib/old", b"1")
        .end();
    ground.unpack(&lower, OciLayer).expect("harmless");
    let upper = Archive::new()
        .file("lib/one", b"2")
        .file("abs/two", b"2")
        .file("climb/three/four", b"2")
        .hardlink("lib/five", "abs/two")
        .file("lib/.wh.old", b"")
        .end();
    ground.unpack(&upper, OciLayer).expect("harmless");
    let found = ["one", "two", "three/four", "five"].map(|name| ground.root.join("usr/lib").join(name).is_file());
    assert_eq!(found, [true; 4]);
    assert!(!ground.root.join("usr/lib/old").exists());
    assert!(ground.root.join("lib").is_symlink());
}

#[test]
fn a_layer_without_end_mark_is_complete_if_its_digest_is() {
    let ground = Ground::new();
    let archive = Archive::new().file("f", b"x");
    ground.unpack(&archive.0, OciLayer).expect("forgiven");
    assert_eq!(ground.names(), ["f"]);
}

#[test]
fn times_out_of_range_are_clamped_by_the_file_system() {
    let ground = Ground::new();
    let archive = Archive::new()
        .pax(&[("mtime", b"9223372036854775807.999999999")])
        .file("late", b"")
        .pax(&[("mtime", b"-9223372036854775807.1")])
        .dir("early")
        .end();
    ground.unpack(&archive, Plain).expect("harmless");
    assert_eq!(ground.names(), ["early", "late"]);
}

#[test]
fn many_whiteouts_of_one_directory_take_no_more_time_than_one() {
    let ground = Ground::new();
    let mut archive = Archive::new();
    for number in 0..2000 {
        archive = archive
            .file(&format!("d/{number}"), b"")
            .file("d/.wh..wh..opq", b"")
            .file(".wh.d", b"");
    }
    ground.unpack(&archive.end(), OciLayer).expect("harmless");
    assert_eq!(ground.names().len(), 2001);
}

/// Runs itself again without privileges: root never meets a directory that shuts it out.
#[test]
fn closed_directories_are_opened_and_closed_again_without_privileges() {
    use std::os::unix::process::CommandExt as _;
    let name = "layers::closed_directories_are_opened_and_closed_again_without_privileges";
    if rustix::process::geteuid().is_root() {
        let copy = tempfile::tempdir().expect("a temporary directory");
        std::fs::set_permissions(copy.path(), PermissionsExt::from_mode(0o755)).expect("mine");
        let program = copy.path().join("test");
        std::fs::copy(std::env::current_exe().expect("has a name"), &program).expect("copied");
        let mut command = std::process::Command::new(program);
        command
            .args(["--exact", name, "--nocapture"])
            .env("TMPDIR", "/tmp")
            .current_dir("/");
        let output = command.uid(65534).gid(65534).output().expect("runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    let ground = Ground::new();
    let path = |name: &str| ground.root.join(name);
    let lower = Archive::new()
        .mode(b'5', ".", 0o000)
        .mode(b'5', "d", 0o500)
        .mode(b'5', "d/sub", 0o000)
        .file("d/sub/f", b"1")
        .mode(b'5', "gone", 0o000)
        .file("gone/f", b"1")
        .end();
    ground.unpack(&lower, OciLayer).expect("harmless");
    assert_eq!(mode(&path("d")), 0o500);
    let upper = Archive::new()
        .file("d/sub/g", b"2")
        .file("d/sub/.wh.f", b"")
        .file(".wh.gone", b"")
        .end();
    ground.unpack(&upper, OciLayer).expect("harmless");
    assert_eq!([".", "d", "d/sub"].map(|name| mode(&path(name))), [0o700, 0o500, 0o000]);
    for name in ["d", "d/sub"] {
        std::fs::set_permissions(path(name), PermissionsExt::from_mode(0o700)).expect("mine");
    }
    assert_eq!(ground.names(), ["d", "d/sub", "d/sub/g"]);
}

#[test]
fn directories_closed_by_a_lower_layer_stay_closed() {
    let ground = Ground::new();
    ground
        .unpack(&Archive::new().mode(b'5', "d", 0o555).end(), OciLayer)
        .expect("harmless");
    ground
        .unpack(&Archive::new().file("d/f", b"").end(), OciLayer)
        .expect("harmless");
    assert_eq!(mode(&ground.root.join("d")), 0o555);
}
