//! An image's whole way: made by umoci, pushed by skopeo to a registry on loopback, built into a template, run, rebuilt from the cache, rebuilt
//! after a change, and garbage-collected. And the templates that need no registry: a directory and an archive.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ringwall_e2e::{Outcome, World, users};
use serde_json::Value;

/// One static program that is a whole userland.
const BUSYBOX: &str = "/bin/busybox";

/// A world whose sandboxes end with it.
struct Cli(World);

impl Drop for Cli {
    fn drop(&mut self) {
        drop(self.0.command(&["kill", "--all"]).output());
    }
}

impl Cli {
    fn run(&self, args: &[&str]) -> Outcome {
        Outcome::from(
            self.0
                .command(args)
                .stdin(Stdio::null())
                .output()
                .expect("ringwall starts"),
        )
    }

    /// Creates a sandbox, runs a script in it, ends it, and returns the script's output.
    #[track_caller]
    fn once(&self, template: &str, script: &str) -> String {
        let id = self
            .run(&["create", "--template", template])
            .expect(0)
            .trim()
            .to_owned();
        let out = self.run(&["exec", &id, "--", "sh", "-c", script]).expect(0);
        self.run(&["kill", &id]).expect(0);
        out
    }

    #[track_caller]
    fn inspect(&self, template: &str) -> Value {
        serde_json::from_str(&self.run(&["template", "inspect", template]).expect(0)).expect("JSON")
    }

    /// The layers on disk.
    fn layers(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.0.path("state/.serve/layers")) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

/// A registry; ends with the test.
struct Registry {
    process: Child,
    data: PathBuf,
    port: u16,
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Registry {
    fn start(directory: &Path) -> Self {
        let data = directory.join("registry");
        // The port is freed again before the registry takes it: another process may be quicker, so try a few.
        for _ in 0..5 {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
            let port = listener.local_addr().expect("bound").port();
            drop(listener);
            let config = directory.join("registry.yml");
            let text = format!(
                "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
                data.display()
            );
            fs::write(&config, text).expect("writable");
            let mut process = Command::new("docker-registry")
                .arg("serve")
                .arg(&config)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("the registry starts");
            let deadline = Instant::now() + Duration::from_secs(60);
            while Instant::now() < deadline && process.try_wait().expect("a child").is_none() {
                if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                    return Registry { process, data, port };
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            drop(process.kill());
            drop(process.wait());
        }
        panic!("the registry doesn't start");
    }

    fn image(&self) -> String {
        format!("127.0.0.1:{}/toy:1", self.port)
    }

    fn push(&self, layout: &str) {
        let target = format!("docker://{}", self.image());
        let words = [
            "--insecure-policy",
            "copy",
            "--dest-tls-verify=false",
            &format!("oci:{layout}:1"),
            &target,
        ];
        run("skopeo", &words);
    }

    /// Takes the contents away: manifests and configurations stay, no layer can be fetched any more.
    fn lose_layers(&self) -> usize {
        let blobs = self.data.join("docker/registry/v2/blobs/sha256");
        let mut lost = 0;
        for group in fs::read_dir(blobs).expect("blobs").flatten() {
            for blob in fs::read_dir(group.path()).expect("a group").flatten() {
                let data = blob.path().join("data");
                // A compressed layer, by gzip's magic number.
                if fs::read(&data).is_ok_and(|bytes| bytes.starts_with(&[0x1f, 0x8b])) {
                    fs::remove_file(data).expect("removed");
                    lost += 1;
                }
            }
        }
        lost
    }
}

#[track_caller]
fn run(program: &str, words: &[&str]) {
    let done = Command::new(program).args(words).output().expect("it starts");
    let err = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{program} {words:?}: {err}");
}

/// A root file system that runs shell scripts.
fn root_file_system(root: &Path, greeting: &str) {
    fs::create_dir_all(root.join("bin")).expect("made");
    for directory in ["etc", "tmp", "proc", "dev"] {
        fs::create_dir_all(root.join(directory)).expect("made");
    }
    fs::copy(BUSYBOX, root.join("bin/busybox")).expect("copied");
    for name in ["sh", "cat", "ls", "echo"] {
        symlink("busybox", root.join("bin").join(name)).expect("linked");
    }
    fs::write(root.join("etc/greeting"), greeting).expect("written");
    // For every user: programs run as `user`, who owns nothing of an image.
    for (path, mode) in [("etc/greeting", 0o666), ("tmp", 0o1777)] {
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).expect("changed");
    }
}

fn missing() -> Vec<&'static str> {
    let is_there = |program: &&str| {
        let mut command = Command::new(program);
        command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok()
    };
    let programs = ["docker-registry", "skopeo", "umoci", BUSYBOX];
    programs.into_iter().filter(|program| !is_there(program)).collect()
}

#[test]
fn an_image_is_pulled_run_rebuilt_from_the_cache_and_collected() {
    let missing = missing();
    if !missing.is_empty() {
        println!("SKIPPED: an image's way from a registry: missing {missing:?}");
        return;
    }
    for user in users() {
        let cli = Cli(World::new(user));
        let work = tempfile::tempdir().expect("a directory");
        let registry = Registry::start(work.path());
        let image = registry.image();
        let layout = work.path().join("layout").to_string_lossy().into_owned();
        let tag = format!("{layout}:1");
        let root = work.path().join("root");
        root_file_system(&root, "first");
        let root_text = root.to_string_lossy().into_owned();
        run("umoci", &["init", "--layout", &layout]);
        run("umoci", &["new", "--image", &tag]);
        run("umoci", &["insert", "--image", &tag, &root_text, "/"]);
        run(
            "umoci",
            &[
                "config",
                "--image",
                &tag,
                "--config.env",
                "TOY=yes",
                "--config.workingdir",
                "/etc",
            ],
        );
        registry.push(&layout);

        let build = [
            "template", "build", "--name", "toy", "--from", &image, "--env", "STEP=one",
        ];
        cli.run(&build).expect(0);
        let made = cli.inspect("toy");
        assert_eq!(
            cli.once("toy", "echo $TOY $STEP; cat /etc/greeting; echo mine > /etc/greeting"),
            "yes one\nfirst"
        );
        // A sandbox's writes are its own.
        assert_eq!(cli.once("toy", "cat /etc/greeting"), "first");
        let layers = cli.layers();
        assert!(!layers.is_empty());

        // Nothing can be fetched any more, and nothing need be.
        assert!(registry.lose_layers() > 0);
        cli.run(&build).expect(0);
        assert_eq!(cli.layers(), layers, "a rebuild from the cache makes no layers");
        assert_eq!(cli.inspect("toy")["templateID"], made["templateID"]);
        assert_eq!(cli.once("toy", "cat /etc/greeting"), "first");

        // A changed image: one more layer upon those that are there.
        fs::write(root.join("etc/greeting"), "second").expect("written");
        let greeting = root.join("etc/greeting").to_string_lossy().into_owned();
        run("umoci", &["insert", "--image", &tag, &greeting, "/etc/greeting"]);
        registry.push(&layout);
        cli.run(&build).expect(0);
        assert_eq!(
            cli.inspect("toy")["templateID"],
            made["templateID"],
            "the name is stable"
        );
        assert_eq!(cli.once("toy", "cat /etc/greeting"), "second");

        // Nothing is left when nobody wants it.
        cli.run(&["template", "rm", "toy"]).expect(0);
        let gone = cli.run(&["create", "--template", "toy"]);
        assert_eq!(gone.code, 2, "{gone:?}");
        cli.run(&["kill", "--all"]).expect(0);
        cli.run(&["gc"]).expect(0);
        let left = cli.layers();
        // The host's own tree stays: the next sandbox of the default template is made of it.
        assert!(
            left.iter().all(|layer| layer.starts_with("base-")),
            "of {layers:?} are left: {left:?}"
        );
    }
}

#[test]
fn directories_and_archives_become_templates() {
    if !Path::new(BUSYBOX).exists() {
        println!("SKIPPED: templates of directories and archives: no {BUSYBOX}");
        return;
    }
    for user in users() {
        let cli = Cli(World::new(user));
        let root = cli.0.path("root");
        root_file_system(&root, "of a directory");
        cli.0.hand_over(&root);
        let tar = cli.0.path("root.tar.gz").to_string_lossy().into_owned();
        let root_text = root.to_string_lossy().into_owned();
        run("tar", &["-C", &root_text, "-czf", &tar, "."]);
        cli.run(&["template", "build", "--name", "tree", "--from-dir", &root_text])
            .expect(0);
        cli.run(&["template", "build", "--name", "ball", "--from-tar", &tar])
            .expect(0);
        fs::write(root.join("etc/greeting"), "changed later").expect("written");
        for template in ["tree", "ball"] {
            assert_eq!(cli.once(template, "cat /etc/greeting"), "of a directory", "{template}");
        }

        // Two sandboxes of one template, compared.
        let [a, b] = ["one", "two"].map(|content| {
            let id = cli.run(&["create", "--template", "tree"]).expect(0).trim().to_owned();
            let script = format!("echo {content} > /tmp/file; echo {content} > /tmp/{content}");
            cli.run(&["exec", &id, "--", "sh", "-c", &script]).expect(0);
            id
        });
        let told = cli.run(&["diff", &a, &b]);
        let told = format!("{}{}", told.out, told.err);
        for part in ["tmp/file", "tmp/one", "tmp/two"] {
            assert!(told.contains(part), "{part} is not in:\n{told}");
        }
        assert!(!told.contains("greeting"), "{told}");

        for (args, wanted) in [
            (["--from-dir", "/nowhere/at/all"], "/nowhere/at/all"),
            (["--from-tar", "/nowhere/at/all"], "/nowhere/at/all"),
        ] {
            let refused = cli.run(&[&["template", "build", "--name", "x"], &args[..]].concat());
            assert!(refused.code == 125 || refused.code == 2, "{refused:?}");
            assert!(refused.err.contains(wanted), "{refused:?}");
        }
        cli.run(&["kill", "--all"]).expect(0);
    }
}
