//! Hostile archives: each is refused, for the reason it should be, and nothing beside the root changes.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use ringwall_image::ArchiveKind::{OciLayer, Plain};
use ringwall_image::{ArchiveKind, Limits, Owners, decompress, unpack};

use crate::support::{Archive, Entry, Ground, chain, sign};

fn refuse(kind: ArchiveKind, archive: &[u8], wanted: &str) {
    refuse_within(kind, archive, &Limits::default(), wanted);
}

fn refuse_within(kind: ArchiveKind, archive: &[u8], limits: &Limits, wanted: &str) {
    let ground = Ground::new();
    let error = ground.unpack_within(archive, kind, limits).expect_err(wanted);
    assert_eq!(chain(&error), wanted);
}

fn refuse_both(archive: &[u8], wanted: &str) {
    refuse(Plain, archive, wanted);
    refuse(OciLayer, archive, wanted);
}

#[test]
fn paths_out_of_the_tree() {
    refuse_both(
        &Archive::new().file("../canary/file", b"x").end(),
        "../canary/file: the path contains \"..\"",
    );
    refuse_both(
        &Archive::new().file("a/../../canary/file", b"x").end(),
        "a/../../canary/file: the path contains \"..\"",
    );
    refuse_both(
        &Archive::new().file("/etc/passwd", b"x").end(),
        "/etc/passwd: the path is absolute",
    );
    refuse_both(&Archive::new().dir("..").end(), "..: the path contains \"..\"");
    refuse_both(
        &Archive::new().symlink("a/..", "x").end(),
        "a/..: the path contains \"..\"",
    );
    let pax = Archive::new()
        .pax(&[("path", b"../canary/new")])
        .file("harmless", b"x")
        .end();
    refuse_both(&pax, "../canary/new: the path contains \"..\"");
    let long = format!("{}../../canary/x", "d/".repeat(60));
    refuse_both(
        &Archive::new().file(&long, b"x").end(),
        &format!("{long}: the path contains \"..\""),
    );
}

#[test]
fn symlinks_out_of_the_tree() {
    let out = |target: &str| Archive::new().symlink("out", target).file("out/file", b"x").end();
    for target in ["../canary", "/tmp", "/proc/self/cwd", "/proc/self/fd/0", "."] {
        refuse(Plain, &out(target), "out/file: the path passes through a symbolic link");
    }
    let directory = Archive::new().symlink("out", "../canary").dir("out/new").end();
    refuse(Plain, &directory, "out/new: the path passes through a symbolic link");
    let chained = Archive::new()
        .symlink("a", "..")
        .symlink("b", "a/canary")
        .file("b/file", b"x")
        .end();
    refuse(Plain, &chained, "b/file: the path passes through a symbolic link");
    let link = Archive::new()
        .symlink("out", "../canary/sub")
        .hardlink("mine", "out/secret")
        .end();
    refuse(Plain, &link, "mine: the hard link's target out/secret doesn't exist");
}

#[test]
fn symlinks_out_of_the_tree_in_layers_lead_back_inside_or_nowhere() {
    let out = |target: &str| Archive::new().symlink("out", target).file("out/file", b"x").end();
    refuse(
        OciLayer,
        &out("../canary"),
        "out/file: the path passes through a symbolic link that leads nowhere",
    );
    refuse(
        OciLayer,
        &out("out"),
        "out/file: the path passes through a symbolic link that leads nowhere",
    );
    let link = Archive::new()
        .symlink("out", "../canary/sub")
        .hardlink("mine", "out/secret")
        .end();
    refuse(OciLayer, &link, "mine: the hard link's target out/secret doesn't exist");
    // To `/` or `..`: that is the root itself.
    for target in ["/", "..", "../../.."] {
        let ground = Ground::new();
        ground.unpack(&out(target), OciLayer).expect("stays inside");
        assert_eq!(ground.names(), ["file", "out"]);
    }
}

#[test]
fn a_file_over_a_symlink_replaces_it() {
    for kind in [Plain, OciLayer] {
        let ground = Ground::new();
        let archive = Archive::new()
            .symlink("out", "../canary/file")
            .file("out", b"mine")
            .end();
        ground.unpack(&archive, kind).expect("harmless");
        assert_eq!(std::fs::read(ground.root.join("out")).expect("a file"), b"mine");
    }
}

#[test]
fn hardlinks_out_of_the_tree() {
    let link = |target: &str| Archive::new().hardlink("mine", target).end();
    for target in ["../canary/sub/secret", "/etc/shadow", "a/../../canary/file"] {
        refuse_both(
            &link(target),
            &format!("mine: the hard link's target {target} leads out of the tree"),
        );
    }
    refuse_both(&link("missing"), "mine: the hard link's target missing doesn't exist");
    refuse_both(&link("mine"), "mine: the hard link's target mine doesn't exist");
    refuse_both(&link(""), "mine: the link has no target");
    refuse_both(
        &Archive::new().dir("d").hardlink("mine", "d").end(),
        "mine: the hard link's target d is no regular file",
    );
    refuse_both(
        &Archive::new()
            .symlink("s", "../canary/file")
            .hardlink("mine", "s")
            .end(),
        "mine: the hard link's target s is no regular file",
    );
    refuse_both(
        &Archive::new().file("f", b"x").hardlink("f", "./f").end(),
        "f: the hard link points at itself",
    );
    refuse_both(
        &Archive::new().file("d/f", b"x").hardlink("d", "d/f").end(),
        "d: the hard link's target d/f doesn't exist",
    );
}

#[test]
fn devices_and_pipes() {
    refuse_both(
        &Archive::new().mode(b'3', "null", 0o666).end(),
        "null: device nodes are refused",
    );
    refuse_both(
        &Archive::new().mode(b'4', "sda", 0o666).end(),
        "sda: device nodes are refused",
    );
    refuse_both(
        &Archive::new().mode(b'6', "pipe", 0o666).end(),
        "pipe: named pipes are refused",
    );
    refuse_both(
        &Archive::new().mode(b'S', "sparse", 0o666).end(),
        "sparse: sparse files are refused",
    );
    refuse_both(
        &Archive::new().mode(b'V', "label", 0o666).end(),
        "label: the type 0x56 isn't known",
    );
    let sparse = Archive::new()
        .pax(&[("GNU.sparse.major", b"1")])
        .file("sparse", b"x")
        .end();
    refuse_both(&sparse, "sparse: sparse files are refused");
}

#[test]
fn names_no_system_call_takes() {
    let long = "n".repeat(256);
    let start = "n".repeat(160);
    refuse_both(
        &Archive::new().file(&long, b"x").end(),
        &format!("{start}…: a name in the path has 256 bytes; 255 are allowed"),
    );
    let start = "d/".repeat(80);
    refuse_both(
        &Archive::new().file(&"d/".repeat(2100), b"").end(),
        &format!("{start}…: the path has 4200 bytes; 4096 are allowed"),
    );
    refuse_both(
        &Archive::new().dir(&"d/".repeat(257)).end(),
        &format!("{start}…: the path is deeper than 256 directories"),
    );
    let nul = Archive::new().pax(&[("path", b"a\0b")]).file("x", b"").end();
    refuse_both(
        &nul,
        "a\\0b: the path contains a NUL byte".replace("\\0", "\\u{0}").as_str(),
    );
    refuse_both(&Archive::new().file("", b"x").end(), "(no name): the path is empty");
    refuse_both(
        &Archive::new().file(".", b"x").end(),
        ".: the root of the tree can only be a directory",
    );
    refuse_both(
        &Archive::new().symlink("./", "x").end(),
        "./: the root of the tree can only be a directory",
    );
}

#[test]
fn links_no_system_call_takes() {
    let target = "t".repeat(4096);
    refuse_both(
        &Archive::new().symlink("s", &target).end(),
        "s: the link's target has 4096 bytes; 4095 are allowed",
    );
    refuse_both(&Archive::new().symlink("s", "").end(), "s: the link has no target");
    let nul = Archive::new().pax(&[("linkpath", b"a\0b")]).symlink("s", "x").end();
    refuse_both(&nul, "s: the link's target contains a NUL byte");
}

#[test]
fn deep_trees_made_by_way_of_links() {
    // Each step is short; only the links make the real path deep.
    let mut archive = Archive::new();
    let deep = "d/".repeat(200);
    archive = archive.dir(&deep).symlink("short", &deep);
    archive = archive.dir(&format!("short/{deep}"));
    let start: String = format!("short/{deep}").chars().take(160).collect();
    refuse(
        OciLayer,
        &archive.end(),
        &format!("{start}…: the path is deeper than 256 directories"),
    );
}

#[test]
fn files_in_the_way() {
    refuse_both(
        &Archive::new().file("f", b"x").file("f/g", b"x").end(),
        "f/g: the path passes through a file that is no directory",
    );
}

#[test]
fn more_than_the_limits() {
    let limits = Limits {
        entries: 3,
        bytes: 100,
        file_bytes: 60,
        ..Limits::default()
    };
    let many = Archive::new().dir("a").dir("b").dir("c").dir("d").end();
    refuse_within(Plain, &many, &limits, "d: the archive has more than 3 entries");
    // Directories on the way count, too: they cost an inode each.
    let deep = Archive::new().file("a/b/c/f", b"").end();
    refuse_within(Plain, &deep, &limits, "a/b/c/f: the archive has more than 3 entries");
    let large = Archive::new().file("f", &[0; 61]).end();
    refuse_within(Plain, &large, &limits, "f: the file has 61 bytes; 60 are allowed");
    let total = Archive::new().file("f", &[0; 60]).file("g", &[0; 41]).end();
    refuse_within(
        OciLayer,
        &total,
        &limits,
        "g: the archive unpacks to more than 100 bytes",
    );
}

#[test]
fn sizes_that_lie() {
    let mut entry = Entry::new(b'0', b"huge");
    entry.size = Some(1 << 40);
    refuse_both(
        &Archive::new().add(&entry).end(),
        "huge: the file has 1099511627776 bytes; 17179869184 are allowed",
    );
    entry.size = Some(u64::MAX >> 1);
    refuse_both(
        &Archive::new().add(&entry).end(),
        "huge: the file has 9223372036854775807 bytes; 17179869184 are allowed",
    );
    entry.size = Some(1 << 20);
    refuse_both(
        &Archive::new().add(&entry).end(),
        "huge can't be read from the archive: the archive is cut off at byte 1536",
    );
    let pax = Archive::new().pax(&[("size", b"99999")]).file("pax", b"short").end();
    refuse_both(
        &pax,
        "pax can't be read from the archive: the archive is cut off at byte 3072",
    );
    for (kind, what) in [(b'5', "a directory"), (b'2', "a symbolic link"), (b'1', "a hard link")] {
        let mut entry = Entry::new(kind, b"e");
        entry.content = b"hidden".to_vec();
        entry.link = b"x".to_vec();
        refuse_both(
            &Archive::new().add(&entry).end(),
            &format!("e: {what} can't have 6 bytes of content"),
        );
    }
    entry.size = Some(u64::MAX);
    refuse_both(
        &Archive::new().add(&entry).end(),
        "the header at byte 0 has a malformed size",
    );
}

#[test]
fn archives_cut_off() {
    let whole = Archive::new().dir("d").file("d/f", &[7; 2000]).end();
    refuse_both(
        &whole[..1500],
        "d/f can't be read from the archive: the archive is cut off at byte 1500",
    );
    refuse_both(&whole[..800], "the archive is cut off at byte 800");
    refuse(
        Plain,
        &whole[..512 * 6],
        "the archive has no end mark: it may be cut off",
    );
    refuse(Plain, b"", "the archive has no end mark: it may be cut off");
    let dangling = Archive::new().pax(&[("path", b"x")]).end();
    refuse_both(&dangling, "the archive ends with an extension header");
}

#[test]
fn damaged_headers() {
    let mut archive = Archive::new().dir("d").file("f", b"x").end();
    archive[512] = b'F';
    refuse_both(&archive, "the header at byte 512 doesn't match its checksum");
    let mut archive = Archive::new().file("f", b"x").end();
    archive[124..136].copy_from_slice(b"not a number");
    sign(&mut archive);
    refuse_both(&archive, "the header at byte 0 has a malformed size");
    refuse_both(&[b'x'; 1024], "the header at byte 0 has a malformed checksum");
}

#[test]
fn extension_headers_that_would_fill_memory() {
    for kind in [b'x', b'L', b'K', b'g'] {
        let mut entry = Entry::new(kind, b"long");
        entry.size = Some(1 << 32);
        refuse_both(
            &Archive::new().add(&entry).end(),
            "the extension header at byte 0 has 4294967296 bytes; 1048576 are allowed",
        );
    }
    let mut archive = Archive::new();
    for _ in 0..9 {
        archive = archive.pax(&[("comment", b"x")]);
    }
    refuse_both(
        &archive.end(),
        "the header at byte 8192 follows 8 extension headers without an entry",
    );
    for records in [&b"99 path=x\n"[..], b"7 size=", b"-1 path=x\n", b"12 size=-10\n", b"zz"] {
        let archive = Archive::new().pax_raw(records).file("f", b"").end();
        refuse_both(&archive, "the PAX header at byte 0 is malformed");
    }
}

#[test]
fn hostile_whiteouts() {
    let layer = |name: &str| Archive::new().file(name, b"").end();
    refuse(OciLayer, &layer(".wh."), ".wh.: the whiteout names no entry");
    refuse(OciLayer, &layer(".wh.."), ".wh..: the whiteout names no entry");
    refuse(OciLayer, &layer("a/.wh..."), "a/.wh...: the whiteout names no entry");
    refuse(
        OciLayer,
        &layer("../.wh.canary"),
        "../.wh.canary: the path contains \"..\"",
    );
    refuse(
        OciLayer,
        &layer(".wh.d/f"),
        ".wh.d/f: the path passes through a whiteout",
    );
    refuse(
        OciLayer,
        &Archive::new().dir(".wh.d").end(),
        ".wh.d: a whiteout can only be a file",
    );
    refuse(
        OciLayer,
        &Archive::new().symlink(".wh.d", "x").end(),
        ".wh.d: a whiteout can only be a file",
    );
    refuse(
        OciLayer,
        &Archive::new().mode(b'3', "d", 0).end(),
        "d: device nodes are refused",
    );
    // By way of a link: what they name doesn't exist inside the root.
    for name in ["out/.wh.file", "out/.wh..wh..opq"] {
        let ground = Ground::new();
        let layer = Archive::new().symlink("out", "../canary").file(name, b"").end();
        ground.unpack(&layer, OciLayer).expect("deletes nothing");
    }
}

#[test]
fn owners_out_of_range() {
    let ground = Ground::new();
    let archive = Archive::new().pax(&[("uid", b"65536")]).file("f", b"").end();
    let error = unpack(&archive[..], &ground.root, Plain, Owners::Keep, &Limits::default()).expect_err("refused");
    assert_eq!(
        chain(&error),
        "f: the owner 65536:0 is out of range; ids up to 65535 are allowed"
    );
}

#[test]
fn bombs() {
    let limits = Limits {
        ratio_floor: 1 << 20,
        ..Limits::default()
    };
    let archive = Archive::new().file("zeros", &vec![0; 8 << 20]).end();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&archive).expect("into memory");
    let bomb = encoder.finish().expect("into memory");
    let ground = Ground::new();
    let reader = decompress(&bomb[..], &limits).expect("begins well");
    let error = unpack(reader, &ground.root, Plain, Owners::Caller, &limits).expect_err("refused");
    ground.check_canary();
    assert_eq!(
        chain(&error),
        "zeros can't be read from the archive: the archive unpacks to more than 200 times its size"
    );
    let written = std::fs::metadata(ground.root.join("zeros")).expect("there").len();
    assert!(written < 2 << 20, "stopped at once, not after {written} bytes");
}

#[test]
fn compressed_archives_cut_off() {
    let archive = Archive::new()
        .file("f", &(0..100_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>())
        .end();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&archive).expect("into memory");
    let gzip = encoder.finish().expect("into memory");
    let ground = Ground::new();
    let reader = decompress(&gzip[..gzip.len() / 2], &Limits::default()).expect("begins well");
    let error = unpack(reader, &ground.root, Plain, Owners::Caller, &Limits::default()).expect_err("refused");
    let text = chain(&error);
    assert!(
        text.starts_with("f can't be read from the archive: the archive is cut off at byte "),
        "{text}"
    );
}
