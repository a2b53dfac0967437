//! The fuzzers' corpus, run as a test: each file must neither panic nor write outside the root.

use std::path::Path;

use ringwall_image::fuzzing::fuzz_unpack_into;

use crate::support::{Archive, Ground};

/// The seeds. `RINGWALL_WRITE_CORPUS=1` writes them to the corpus; findings of fuzzers are added there by hand.
fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (
            "plain.tar",
            Archive::new()
                .dir("d")
                .file("d/f", b"x")
                .symlink("s", "d")
                .hardlink("h", "d/f")
                .end(),
        ),
        (
            "whiteouts.tar",
            Archive::new()
                .file("a/b", b"")
                .file("a/.wh.b", b"")
                .file("a/.wh..wh..opq", b"")
                .end(),
        ),
        (
            "links.tar",
            Archive::new().symlink("l", "../canary").file("l/file", b"x").end(),
        ),
        (
            "pax.tar",
            Archive::new()
                .pax(&[("path", b"p"), ("SCHILY.xattr.user.a", b"1"), ("size", b"1")])
                .file("f", b"x")
                .end(),
        ),
        (
            "long.tar",
            Archive::new()
                .file(&"n/".repeat(100), b"")
                .symlink("s", &"t".repeat(200))
                .end(),
        ),
        ("climb.tar", Archive::new().file("../canary/file", b"x").end()),
        ("cut.tar", Archive::new().file("f", &[1; 600]).0[..700].to_vec()),
        ("empty.tar", Archive::new().end()),
        (
            "frame.zst",
            ruzstd::encoding::compress_to_vec(
                &Archive::new().file("f", b"x").end()[..],
                ruzstd::encoding::CompressionLevel::Fastest,
            ),
        ),
    ]
}

#[test]
fn corpus() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    if std::env::var_os("RINGWALL_WRITE_CORPUS").is_some() {
        for (name, data) in seeds() {
            std::fs::write(directory.join(name), data).expect("the corpus is writable");
        }
    }
    let mut runs = 0;
    for entry in std::fs::read_dir(directory).expect("the corpus") {
        let data = std::fs::read(entry.expect("an entry").path()).expect("readable");
        // Whole, and cut off at many places.
        for length in (0..data.len()).step_by(97).chain([data.len()]) {
            let ground = Ground::new();
            drop(fuzz_unpack_into(&data[..length], &ground.root));
            ground.check_canary();
            runs += 1;
        }
    }
    assert!(runs > seeds().len());
}
