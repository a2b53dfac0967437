//! What policy files are accepted, and the exact words for those that aren't.

use std::path::Path;

use proptest::prelude::*;
use ringwall_types::{ByteSize, CpuShare, Isolation, Tier};

use super::*;
use crate::policy::{Changes, NetworkMode};

fn load(text: impl AsRef<[u8]>) -> Result<Policy, LoadPolicyError> {
    load_policy(
        text.as_ref(),
        Origin {
            file: Path::new("p.toml"),
            folder: Path::new("/etc/rw"),
        },
    )
}

fn message(text: impl AsRef<[u8]>) -> String {
    load(text).expect_err("must be refused").to_string()
}

#[test]
fn an_empty_file_is_the_default_policy() {
    assert_eq!(load(""), Ok(Policy::default()));
}

#[test]
fn everything_can_be_written() {
    let policy = load(
        r#"
isolation = "namespace"
min_isolation = "landlock"
changes = "commit"
name = "step-1"
tty = true
[files]
read = ["/opt/data", "shared"]
write = ["../out"]
deny = ["/opt/data/secret"]
mounts = ["/srv/a:/a:ro", "b:/b"]
workdir = "."
home_tools = false
[network]
mode = "host"
[env]
set = { "A B" = "c\nd", X = "" }
pass = ["LANG"]
[limits]
memory = "1G"
cpus = 2
pids = 0x40
files = 1_024
disk = 1048576
timeout = 30
allow_degraded = ["cpus"]
"#,
    )
    .unwrap();
    assert_eq!(policy.isolation, Isolation::Namespace);
    assert_eq!(policy.min_isolation, Some(Tier::Landlock));
    assert_eq!(policy.changes, Some(Changes::Commit));
    assert_eq!(policy.files.read, [Path::new("/opt/data"), Path::new("/etc/rw/shared")]);
    assert_eq!(policy.files.write, [Path::new("/etc/out")]);
    assert_eq!(policy.files.mounts[1].host, Path::new("/etc/rw/b"));
    assert_eq!(policy.files.workdir.as_deref(), Some(Path::new("/etc/rw")));
    assert_eq!(policy.network.mode, NetworkMode::Host);
    assert_eq!(policy.env.set["A B"], "c\nd");
    assert_eq!(policy.limits.cpus, Some(CpuShare { millis: 2000 }));
    assert_eq!((policy.limits.pids, policy.limits.files), (Some(64), Some(1024)));
    assert_eq!(policy.limits.disk, Some(ByteSize(1 << 20)));
    assert_eq!(policy.limits.timeout.unwrap().to_string(), "30s");
    assert_eq!(policy.check(), Ok(()));
}

#[test]
fn mistakes_are_named_with_their_place() {
    for (text, wanted) in [
        (
            "[limits]\n\n    memroy = 1",
            "p.toml:3:5: unknown key \"memroy\" in [limits] (did you mean \"memory\"?)",
        ),
        (
            "memory = \"1G\"",
            "p.toml:1:1: unknown key \"memory\" at the top level (it belongs in [limits])",
        ),
        (
            "[network]\nports = 1",
            "p.toml:2:1: unknown key \"ports\" in [network] (known: mode)",
        ),
        (
            "[sandbox]",
            "p.toml:1:2: unknown key \"sandbox\" at the top level (known: isolation, min_isolation, changes, name, tty, files, network, env, limits)",
        ),
        ("tty = \"yes\"", "p.toml:1:7: tty must be true or false, not a string"),
        ("limits = 3", "p.toml:1:10: limits must be a table, not an integer"),
        (
            "files.read = \"/x\"",
            "p.toml:1:14: files.read must be a list of strings, not a string",
        ),
        (
            "files.read = [\"/x\", 3]",
            "p.toml:1:21: files.read must be a list of strings, not an integer",
        ),
        (
            "[limits]\nmemory = 1.5",
            "p.toml:2:10: limits.memory must be a size such as \"512M\", not a float",
        ),
        (
            "[limits]\nmemory = \"1.5G\"",
            "p.toml:2:10: bad limits.memory \"1.5G\": use a whole number of bytes of at least 1, or one with K, M, G or T behind it, such as 512M",
        ),
        (
            "[limits]\ncpus = nan",
            "p.toml:2:8: bad limits.cpus \"nan\": use a number of CPUs from 0.001 to 4096, such as 1.5",
        ),
        (
            "[limits]\npids = -1",
            "p.toml:2:8: limits.pids must be from 1 to 4294967295, not -1",
        ),
        (
            "[limits]\npids = 1",
            "p.toml:2:8: a pids limit of 1 is too small: no program runs with fewer than 2",
        ),
        (
            "[limits]\nallow_degraded = [\"ram\"]",
            "p.toml:2:19: bad limit name \"ram\": use memory, cpus, pids, files, disk or timeout",
        ),
        (
            "isolation = \"vm\"",
            "p.toml:1:13: unknown isolation tier \"vm\" (expected auto, namespace or landlock)",
        ),
        (
            "changes = \"yes\"",
            "p.toml:1:11: unknown choice for changes \"yes\" (expected keep, commit, discard or none)",
        ),
        (
            "[env]\nset = { \"A=B\" = \"\" }",
            "p.toml:2:9: bad environment variable name \"A=B\": it must not be empty nor hold '=' or NUL",
        ),
        (
            "[env.set]\nA = \"\\u0000\"",
            "p.toml:2:5: the value of the environment variable \"A\" holds a NUL byte, which no value can",
        ),
        (
            "[env.set]\nA = 1",
            "p.toml:2:5: env.set.A must be a string, not an integer",
        ),
        (
            "[files]\nmounts = [\"/a:/proc\"]",
            "p.toml:2:11: \"/proc\" can't be shown inside: /proc is the sandbox's own",
        ),
        (
            "[files]\nread = [\"~/x\"]",
            "p.toml:2:9: the path \"~/x\" begins with \"~\", which is not expanded here: write the home directory out",
        ),
        (
            "[files]\nrootfs = \"/r\"\nworkdir = \"x\"",
            "p.toml:3:11: the path \"x\" is not absolute",
        ),
        ("name = \"é\" # ü\nname = \"b\"", "p.toml:2:1: not TOML: duplicate key"),
        (
            "# é\n\"é\" = 1",
            "p.toml:2:1: unknown key \"é\" at the top level (known: isolation, min_isolation, changes, name, tty, files, network, env, limits)",
        ),
    ] {
        assert_eq!(message(text), wanted, "{text}");
    }
    assert_eq!(message(b"tty = true\n# \xff"), "p.toml:2:3: not UTF-8 text");
    assert!(message("tty = ").starts_with("p.toml:1:"), "{}", message("tty = "));
}

#[test]
fn a_file_that_is_too_long_is_not_parsed() {
    let text = "#".repeat(MAX_POLICY_BYTES + 1);
    assert_eq!(load(&text), Err(LoadPolicyError::TooLong { file: "p.toml".into() }));
    assert_eq!(load(&text[1..]), Ok(Policy::default()));
}

#[test]
fn deep_nesting_is_an_error_and_not_a_crash() {
    assert!(load(format!("a = {}", "[".repeat(100_000))).is_err());
    assert!(load(format!("{}x = 1", "a.".repeat(100_000))).is_err());
}

proptest! {
    #[test]
    fn no_text_crashes_the_loader(text in "(?s).{0,200}") {
        drop(load(text));
    }

    #[test]
    fn no_bytes_crash_the_loader(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(load(bytes));
    }
}
