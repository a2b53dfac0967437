//! An image in an OCI layout, made by umoci: layers with deletions, replacements and links of both kinds; and indexes over it.

use std::ffi::OsStr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use ringwall_image::{Digest, native_architecture};

use crate::support::list;

/// Runs a program that has to succeed.
pub(crate) fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S]) {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .expect("the program runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {text}");
}

/// Gives all that isn't a directory a time in whole seconds: Go's tar rounds them to the nearest.
fn settle(tree: &Path) {
    let time = rustix::fs::Timespec {
        tv_sec: 1_600_000_000,
        tv_nsec: 0,
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    for name in list(tree, Path::new("/none")).into_keys().map(|name| tree.join(name)) {
        if name.is_symlink() || !name.is_dir() {
            rustix::fs::utimensat(rustix::fs::CWD, &name, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).expect("mine");
        }
    }
}

/// An image as umoci made it, and the tree it has to become.
pub(crate) struct Layout {
    _directory: tempfile::TempDir,
    pub(crate) path: PathBuf,
    pub(crate) tree: PathBuf,
}

impl Layout {
    /// Three layers: files; then deletions, links and replacements; then one more, all by umoci.
    pub(crate) fn build() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (path, bundle) = (directory.path().join("layout"), directory.path().join("bundle"));
        let image = format!("{}:plain", path.display());
        let umoci = |arguments: &[&str]| run("umoci", arguments);
        let text = |path: &Path| path.to_str().expect("plain text").to_owned();
        umoci(&["init", "--layout", &text(&path)]);
        umoci(&["new", "--image", &image]);
        umoci(&["unpack", "--image", &image, &text(&bundle)]);
        let tree = bundle.join("rootfs");
        let write = |name: &str, content: &str| {
            let path = tree.join(name);
            std::fs::create_dir_all(path.parent().expect("has one")).expect("writable");
            std::fs::write(path, content).expect("writable");
        };
        write("usr/lib/one", "1");
        write("etc/gone", "soon");
        write("etc/stays", "here");
        write("dir/a/b/c", "deep");
        write("becomes/a/directory", "x");
        write("big", &"many bytes ".repeat(100_000));
        symlink("usr/lib", tree.join("lib")).expect("writable");
        std::fs::hard_link(tree.join("etc/stays"), tree.join("etc/same")).expect("writable");
        std::os::unix::fs::chown(tree.join("etc/stays"), Some(1000), Some(1001)).expect("root");
        settle(&tree);
        umoci(&["repack", "--refresh-bundle", "--image", &image, &text(&bundle)]);
        std::fs::remove_file(tree.join("etc/gone")).expect("mine");
        std::fs::remove_dir_all(tree.join("dir/a")).expect("mine");
        std::fs::remove_dir_all(tree.join("becomes")).expect("mine");
        write("becomes", "a file");
        write("dir/new", "2");
        symlink("/etc/passwd", tree.join("absolute")).expect("writable");
        std::fs::hard_link(tree.join("dir/new"), tree.join("dir/newer")).expect("writable");
        settle(&tree);
        umoci(&["repack", "--refresh-bundle", "--image", &image, &text(&bundle)]);
        write("usr/lib/three", "3");
        settle(&tree);
        umoci(&["repack", "--refresh-bundle", "--image", &image, &text(&bundle)]);
        #[rustfmt::skip]
        umoci(&[
            "config", "--image", &image, "--config.env", "A=b c", "--config.workingdir", "/usr", "--config.user", "1000:1001",
            "--config.entrypoint", "/bin/x", "--config.cmd", "-v", "--config.exposedports", "8080/tcp",
        ]);
        let other = if native_architecture() == "amd64" {
            "arm64"
        } else {
            "amd64"
        };
        umoci(&["config", "--image", &image, "--tag", "foreign", "--architecture", other]);
        let layout = Layout {
            _directory: directory,
            path,
            tree,
        };
        layout.join("both", &[("plain", native_architecture()), ("foreign", other)]);
        layout.join("others", &[("foreign", other), ("plain", "s390x")]);
        layout
    }

    /// Adds an index over tagged images, and tags it.
    fn join(&self, tag: &str, images: &[(&str, &str)]) {
        let file = self.path.join("index.json");
        let text = std::fs::read(&file).expect("a layout");
        let mut top: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        let all = top["manifests"].as_array_mut().expect("a list");
        let manifests: Vec<serde_json::Value> = images
            .iter()
            .map(|(tag, architecture)| {
                let found = all
                    .iter()
                    .find(|entry| entry["annotations"]["org.opencontainers.image.ref.name"] == *tag);
                let mut entry = found.expect("tagged").clone();
                entry["platform"] = serde_json::json!({"os": "linux", "architecture": architecture});
                entry.as_object_mut().expect("an object").remove("annotations");
                entry
            })
            .collect();
        let kind = "application/vnd.oci.image.index.v1+json";
        let index = serde_json::json!({"schemaVersion": 2, "mediaType": kind, "manifests": manifests}).to_string();
        let digest = Digest::of(index.as_bytes());
        std::fs::write(self.path.join("blobs/sha256").join(digest.hex()), &index).expect("writable");
        all.push(
            serde_json::json!({"mediaType": kind, "digest": digest.as_str(), "size": index.len(),
            "annotations": {"org.opencontainers.image.ref.name": tag}}),
        );
        std::fs::write(&file, top.to_string()).expect("writable");
    }
}
