//! A real registry on loopback, filled by umoci and skopeo, and what we pull from it. Skips loudly where the programs are missing.

use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ringwall_image::{
    Credentials, Digest, ExposedPort, Limits, Owners, Progress, PullError, PullRequest, PulledImage, Silent,
    native_architecture, pull,
};

use crate::layout::{Layout, run};
use crate::support::{chain, list};

/// `me` with the password `right`, by bcrypt, the only form docker-registry takes.
const HTPASSWD: &str = "me:$2y$05$abcdefghijklmnopqrstuu8xaCxxL82bnl.UY74PMksDxIJShppPC\n";

/// A running registry; ends with the test.
struct Registry {
    process: Child,
    directory: tempfile::TempDir,
    port: u16,
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Says why a test can't run, if it can't.
fn is_skipped(test: &str) -> bool {
    let missing = ["docker-registry", "skopeo", "umoci"].into_iter().filter(|program| {
        let found = Command::new(program)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        found.is_err()
    });
    let missing: Vec<&str> = missing.collect();
    let is_root = rustix::process::geteuid().is_root();
    if missing.is_empty() && is_root {
        return false;
    }
    eprintln!("SKIPPED: {test}: 1 test not run: missing programs {missing:?}, root: {is_root}");
    true
}

impl Registry {
    fn start(needs_password: bool) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let passwords = directory.path().join("htpasswd");
        let auth = if needs_password {
            std::fs::write(&passwords, HTPASSWD).expect("writable");
            format!(
                "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
                passwords.display()
            )
        } else {
            String::new()
        };
        Registry::start_in(directory, IpAddr::V4(Ipv4Addr::LOCALHOST), &auth, "")
    }

    /// Starts a registry at a loopback address, with more sections and more settings of the last one, `http`, in its configuration.
    fn start_in(directory: tempfile::TempDir, address: IpAddr, sections: &str, http: &str) -> Self {
        // The port is freed again before the registry takes it: another process may be quicker, so try a few.
        for _ in 0..5 {
            let listener = TcpListener::bind((address, 0)).expect("a free port");
            let port = listener.local_addr().expect("bound").port();
            drop(listener);
            let root = directory.path().join("data");
            let config = format!(
                "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n{sections}http:\n  addr: {address}:{port}\n{http}",
                root.display()
            );
            let file = directory.path().join("config.yml");
            std::fs::write(&file, config).expect("writable");
            let mut process = Command::new("docker-registry")
                .arg("serve")
                .arg(&file)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("the registry starts");
            let deadline = Instant::now() + Duration::from_secs(20);
            while Instant::now() < deadline && process.try_wait().expect("a child").is_none() {
                if TcpStream::connect((address, port)).is_ok() {
                    return Registry {
                        process,
                        directory,
                        port,
                    };
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            drop(process.kill());
            drop(process.wait());
        }
        panic!("the registry doesn't start");
    }

    fn reference(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }

    fn push(&self, layout: &Layout, tag: &str, name: &str, options: &[&str]) {
        let mut arguments: Vec<String> = vec![
            "--insecure-policy".into(),
            "copy".into(),
            "--dest-tls-verify=false".into(),
        ];
        arguments.extend(options.iter().map(|&option| option.to_owned()));
        arguments.push(format!("oci:{}:{tag}", layout.path.display()));
        arguments.push(format!("docker://{}", self.reference(name)));
        run("skopeo", &arguments);
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        let blobs = self.directory.path().join("data/docker/registry/v2/blobs/sha256");
        blobs.join(&digest.hex()[..2]).join(digest.hex()).join("data")
    }
}

/// Writes down what it is told.
#[derive(Default)]
struct Notes(Mutex<(u64, u64, u64, u64)>);

impl Progress for Notes {
    fn started(&self, _: &Digest, total: u64) {
        let mut notes = self.0.lock().expect("whole");
        notes.0 += 1;
        notes.1 += total;
    }
    fn advanced(&self, _: &Digest, bytes: u64) {
        self.0.lock().expect("whole").2 += bytes;
    }
    fn finished(&self, _: &Digest) {
        self.0.lock().expect("whole").3 += 1;
    }
}

/// A cache and a place for trees.
struct Site {
    directory: tempfile::TempDir,
    trees: std::cell::Cell<u32>,
}

impl Site {
    fn new() -> Self {
        Site {
            directory: tempfile::tempdir().expect("a temporary directory"),
            trees: std::cell::Cell::new(0),
        }
    }

    fn pull(
        &self,
        reference: &str,
        password: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<(PulledImage, PathBuf), PullError> {
        self.trees.set(self.trees.get() + 1);
        let into = self.directory.path().join(format!("tree{}", self.trees.get()));
        std::fs::create_dir(&into).expect("writable");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let request = PullRequest {
            reference,
            credentials: password.map(|password| Credentials {
                user: "me".to_owned(),
                password: password.to_owned(),
            }),
            plain_http: false,
            architecture: native_architecture(),
            owners: Owners::Keep,
            limits: Limits::default(),
            cache: &self.directory.path().join("cache"),
            into: &into,
        };
        let image = runtime.block_on(pull(&request, progress))?;
        Ok((image, into))
    }

    fn refuse(&self, reference: &str, password: Option<&str>) -> String {
        chain(&self.pull(reference, password, &Silent).expect_err("refused"))
    }
}

fn compare(pulled: &Path, wanted: &Path) {
    let none = Path::new("/none");
    let (pulled, wanted) = (list(pulled, none), list(wanted, none));
    assert!(wanted.len() > 10);
    assert_eq!(pulled, wanted);
}

#[test]
fn images_become_the_trees_that_umoci_had() {
    if is_skipped("images_become_the_trees_that_umoci_had") {
        return;
    }
    let (registry, layout, site) = (Registry::start(false), Layout::build(), Site::new());
    registry.push(&layout, "plain", "test/plain:1", &[]);
    let notes = Notes::default();
    let (image, tree) = site
        .pull(&registry.reference("test/plain:1"), None, &notes)
        .expect("pulled");
    compare(&tree, &layout.tree);
    assert_eq!(image.layers.len(), 3);
    assert_eq!(*notes.0.lock().expect("whole"), (3, image.bytes, image.bytes, 3));
    assert!(
        image.config.env.contains(&("A".to_owned(), "b c".to_owned())),
        "{:?}",
        image.config.env
    );
    assert_eq!(
        (image.config.working_dir.as_str(), image.config.user.as_str()),
        ("/usr", "1000:1001")
    );
    assert_eq!(
        (image.config.entrypoint, image.config.cmd),
        (vec!["/bin/x".to_owned()], vec!["-v".to_owned()])
    );
    let port = ExposedPort {
        port: 8080,
        protocol: "tcp".to_owned(),
    };
    assert_eq!(image.config.exposed_ports, [port]);

    // Again, by digest: all blobs come from the cache.
    let notes = Notes::default();
    let by_digest = registry.reference(&format!("test/plain@{}", image.digest));
    let (again, tree) = site.pull(&by_digest, None, &notes).expect("pulled");
    compare(&tree, &layout.tree);
    assert_eq!((again.digest, notes.0.lock().expect("whole").0), (image.digest, 0));

    // A damaged blob in the cache is fetched anew.
    let cached = site.directory.path().join("cache/sha256").join(image.layers[0].hex());
    let length = cached.metadata().expect("there").len();
    std::fs::write(&cached, vec![0; usize::try_from(length).expect("small")]).expect("writable");
    let notes = Notes::default();
    let (_, tree) = site.pull(&by_digest, None, &notes).expect("pulled");
    compare(&tree, &layout.tree);
    assert_eq!(notes.0.lock().expect("whole").0, 1);
    let names = std::fs::read_dir(site.directory.path().join("cache/sha256")).expect("there");
    assert_eq!(names.count(), 3, "no partial downloads are left");
}

#[test]
fn zstd_layers_are_pulled() {
    if is_skipped("zstd_layers_are_pulled") {
        return;
    }
    let (registry, layout, site) = (Registry::start(false), Layout::build(), Site::new());
    registry.push(&layout, "plain", "test/zstd:1", &["--dest-compress-format", "zstd"]);
    let (image, tree) = site
        .pull(&registry.reference("test/zstd:1"), None, &Silent)
        .expect("pulled");
    compare(&tree, &layout.tree);
    for layer in &image.layers {
        let blob = std::fs::read(registry.blob(layer)).expect("stored");
        assert_eq!(blob[..4], [0x28, 0xb5, 0x2f, 0xfd], "zstd");
    }
}

#[test]
fn indexes_offer_platforms() {
    if is_skipped("indexes_offer_platforms") {
        return;
    }
    let (registry, layout, site) = (Registry::start(false), Layout::build(), Site::new());
    registry.push(&layout, "both", "test/both:1", &["--all"]);
    registry.push(&layout, "others", "test/others:1", &["--all"]);
    registry.push(&layout, "foreign", "test/foreign:1", &[]);
    let (_, tree) = site
        .pull(&registry.reference("test/both:1"), None, &Silent)
        .expect("pulled");
    compare(&tree, &layout.tree);
    let (native, other) = match native_architecture() {
        "amd64" => ("amd64", "arm64"),
        native => (native, "amd64"),
    };
    assert_eq!(
        site.refuse(&registry.reference("test/others:1"), None),
        format!("the image isn't made for linux/{native}; it is made for linux/{other}, linux/s390x")
    );
    assert_eq!(
        site.refuse(&registry.reference("test/foreign:1"), None),
        format!("the image isn't made for linux/{native}; it is made for linux/{other}")
    );
}

#[test]
fn passwords_are_asked_for_and_checked() {
    if is_skipped("passwords_are_asked_for_and_checked") {
        return;
    }
    let (registry, layout, site) = (Registry::start(true), Layout::build(), Site::new());
    registry.push(&layout, "plain", "test/closed:1", &["--dest-creds", "me:right"]);
    let (reference, name) = (
        registry.reference("test/closed:1"),
        format!("127.0.0.1:{}", registry.port),
    );
    let (_, tree) = site.pull(&reference, Some("right"), &Silent).expect("pulled");
    compare(&tree, &layout.tree);
    assert_eq!(
        site.refuse(&reference, Some("wrong")),
        format!("the registry {name} refuses the credentials of \"me\" for test/closed")
    );
    assert_eq!(
        site.refuse(&reference, None),
        format!("the registry {name} wants credentials for test/closed, or has no such image")
    );
}

#[test]
fn missing_and_damaged_images_are_refused() {
    if is_skipped("missing_and_damaged_images_are_refused") {
        return;
    }
    let (registry, layout, site) = (Registry::start(false), Layout::build(), Site::new());
    registry.push(&layout, "plain", "test/plain:1", &[]);
    let name = format!("127.0.0.1:{}", registry.port);
    let reference = registry.reference("test/plain:1");
    assert_eq!(
        site.refuse(&registry.reference("test/plain:none"), None),
        format!("the registry {name} has no test/plain:none")
    );
    assert_eq!(
        site.refuse(&registry.reference("test/none"), None),
        format!("the registry {name} has no test/none:latest")
    );
    let (image, _) = site.pull(&reference, None, &Silent).expect("pulled");

    let damaged = registry.blob(&image.layers[1]);
    let mut data = std::fs::read(&damaged).expect("stored");
    let middle = data.len() / 2;
    data[middle] ^= 1;
    std::fs::write(&damaged, &data).expect("writable");
    let fresh = Site::new();
    let found = Digest::of(&data);
    assert_eq!(
        fresh.refuse(&reference, None),
        format!("the blob {} is damaged: its digest is {found}", image.layers[1])
    );
    let cached = fresh.directory.path().join("cache/sha256").join(image.layers[1].hex());
    assert!(!cached.exists(), "a damaged blob isn't kept");

    data.truncate(middle);
    std::fs::write(&damaged, &data).expect("writable");
    let text = Site::new().refuse(&reference, None);
    let short = text.starts_with(&format!("the blob {} has {middle} bytes instead of", image.layers[1]));
    assert!(short || text.starts_with("can't talk to the registry"), "{text}");

    std::fs::remove_file(&damaged).expect("stored");
    let text = Site::new().refuse(&reference, None);
    assert!(text.contains(&format!("blob {}", image.layers[1])), "{text}");

    // The manifest itself, asked for by digest.
    let manifest = registry.blob(&image.digest);
    let mut data = std::fs::read(&manifest).expect("stored");
    let place = data.len() - 2;
    data[place] ^= 1;
    std::fs::write(&manifest, data).expect("writable");
    let text = site.refuse(&registry.reference(&format!("test/plain@{}", image.digest)), None);
    // The registry may notice before we do.
    assert!(
        text.contains("damaged") || text.contains("answered 5") || text.contains("has no"),
        "{text}"
    );
}

/// Makes an authority and a certificate for `host` by it, and returns the settings that make a registry use them.
fn make_certificates(directory: &Path, host: &str) -> String {
    let file = |name: &str| directory.join(name).display().to_string();
    let (ca, ca_key, key, request, certificate) = (
        file("ca.pem"),
        file("ca.key"),
        file("key.pem"),
        file("request.pem"),
        file("certificate.pem"),
    );
    let extensions = file("extensions");
    std::fs::write(
        &extensions,
        format!("subjectAltName=DNS:{host}\nbasicConstraints=CA:FALSE\n"),
    )
    .expect("writable");
    #[rustfmt::skip]
    run("openssl", &["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test", "-days", "2", "-keyout", &ca_key, "-out", &ca]);
    let subject = format!("/CN={host}");
    run(
        "openssl",
        &[
            "req", "-newkey", "rsa:2048", "-nodes", "-subj", &subject, "-keyout", &key, "-out", &request,
        ],
    );
    #[rustfmt::skip]
    run("openssl", &[
        "x509", "-req", "-in", &request, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial", "-days", "2",
        "-extfile", &extensions, "-out", &certificate,
    ]);
    format!("  tls:\n    certificate: {certificate}\n    key: {key}\n")
}

/// This machine's own name isn't taken for loopback, so its registry is spoken to with TLS. Runs itself again with and without trust in
/// the authority, which is told by an environment variable.
#[test]
fn certificates_are_checked() {
    let name = "registry::certificates_are_checked";
    if let Ok(reference) = std::env::var("RINGWALL_TEST_REFERENCE") {
        match Site::new().pull(&reference, None, &Silent) {
            Ok((image, _)) => println!("PULLED {}", image.digest),
            Err(error) => println!("REFUSED {}", chain(&error)),
        }
        return;
    }
    if is_skipped(name) {
        return;
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let found = (host.as_str(), 0).to_socket_addrs().ok();
    let address = found.and_then(|mut found| found.find(|found| found.is_ipv4() && found.ip().is_loopback()));
    let has_openssl = Command::new("openssl")
        .arg("version")
        .stdout(Stdio::null())
        .status()
        .is_ok();
    let (Some(address), true) = (address, has_openssl) else {
        eprintln!("SKIPPED: {name}: 1 test not run: {host} isn't a name of a loopback address, or there is no openssl");
        return;
    };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tls = make_certificates(directory.path(), &host);
    let registry = Registry::start_in(directory, address.ip(), "", &tls);
    let layout = Layout::build();
    let reference = format!("{host}:{}/test/tls:1", registry.port);
    let source = format!("oci:{}:plain", layout.path.display());
    let target = format!("docker://{reference}");
    run(
        "skopeo",
        &["--insecure-policy", "copy", "--dest-tls-verify=false", &source, &target],
    );
    let pull = |trusted: Option<&Path>| {
        let mut command = Command::new(std::env::current_exe().expect("has a name"));
        command
            .args(["--exact", name, "--nocapture"])
            .env("RINGWALL_TEST_REFERENCE", &reference);
        command
            .env_remove("SSL_CERT_FILE")
            .env_remove("SSL_CERT_DIR")
            .env("NO_PROXY", &host);
        if let Some(trusted) = trusted {
            command.env("SSL_CERT_FILE", trusted);
        }
        let output = command.output().expect("runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let text = pull(Some(&registry.directory.path().join("ca.pem")));
    assert!(text.contains("PULLED sha256:"), "{text}");
    let text = pull(None);
    assert!(
        text.contains("REFUSED can't talk to the registry") && text.contains("certificate"),
        "{text}"
    );
}

#[test]
fn registries_that_are_not_there_are_named() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    drop(listener);
    let site = Site::new();
    let text = site.refuse(&format!("127.0.0.1:{port}/x"), None);
    assert!(
        text.starts_with(&format!("can't talk to the registry 127.0.0.1:{port}: ")),
        "{text}"
    );
    let text = site.refuse("Not A Reference", None);
    assert_eq!(
        text,
        "\"Not A Reference\" is no image reference: invalid reference format"
    );
}
