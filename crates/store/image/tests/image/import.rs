//! Archives in files, and copies of directories.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt, symlink};
use std::path::Path;

use ringwall_image::{Limits, Owners, from_dir, from_tar};

use crate::net::scratch;
use crate::support::{Archive, Ground, chain, list};

#[test]
fn compressed_archives_are_told_by_their_content() {
    let archive = Archive::new().dir("d").file("d/f", b"x").end();
    let zstd = ruzstd::encoding::compress_to_vec(&archive[..], ruzstd::encoding::CompressionLevel::Fastest);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut gzip, &archive).expect("into memory");
    for data in [archive.clone(), zstd, gzip.finish().expect("into memory")] {
        let ground = Ground::new();
        let directory = scratch();
        let file = directory.path().join("archive");
        std::fs::write(&file, data).expect("writable");
        from_tar(&file, &ground.root, Owners::Caller, &Limits::default()).expect("harmless");
        ground.check_canary();
        assert_eq!(ground.names(), ["d", "d/f"]);
    }
}

#[test]
fn a_directory_is_copied_with_links_holes_and_times() {
    let directory = scratch();
    let (from, to) = (directory.path().join("from"), directory.path().join("to"));
    std::fs::create_dir_all(from.join("a/b")).expect("writable");
    std::fs::create_dir(&to).expect("writable");
    std::fs::write(from.join("a/f"), "content").expect("writable");
    std::fs::hard_link(from.join("a/f"), from.join("g")).expect("writable");
    symlink("../../etc/passwd", from.join("a/s")).expect("writable");
    let holes = std::fs::File::create(from.join("holes")).expect("writable");
    holes.set_len(10 << 20).expect("writable");
    std::os::unix::fs::FileExt::write_at(&holes, b"end", 9 << 20).expect("writable");
    std::fs::set_permissions(from.join("holes"), PermissionsExt::from_mode(0o4711)).expect("mine");
    std::fs::set_permissions(from.join("a/b"), PermissionsExt::from_mode(0o1555)).expect("mine");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        from.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .expect("a pipe");
    let socket = std::os::unix::net::UnixListener::bind(from.join("socket")).expect("a socket");

    let report = from_dir(&from, &to, Owners::Caller).expect("copied");
    drop(socket);
    assert_eq!(
        (report.skipped.fifos, report.skipped.sockets, report.skipped.set_id),
        (1, 1, 1)
    );
    assert_eq!((report.entries, report.bytes), (6, 7 + (10 << 20)));
    std::fs::remove_file(from.join("pipe")).expect("mine");
    std::fs::remove_file(from.join("socket")).expect("mine");
    std::fs::set_permissions(from.join("holes"), PermissionsExt::from_mode(0o711)).expect("mine");
    assert_eq!(list(&to, Path::new("/none")), list(&from, Path::new("/none")));
    let meta = to.join("holes").metadata().expect("there");
    assert!(meta.blocks() * 512 < 2 << 20, "{} blocks", meta.blocks());
    let inode = |name: &str| to.join(name).metadata().expect("there").ino();
    assert_eq!(inode("a/f"), inode("g"));
}

#[test]
fn a_copy_into_itself_is_refused() {
    let directory = scratch();
    let into = directory.path().join("into");
    std::fs::create_dir(&into).expect("writable");
    let error = from_dir(directory.path(), &into, Owners::Caller).expect_err("refused");
    assert!(
        chain(&error).ends_with("is the directory to copy into"),
        "{}",
        chain(&error)
    );
}
