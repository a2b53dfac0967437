//! Any policy that passes the check, printed and loaded back, is the same policy.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use ringwall_types::{ByteSize, CpuShare, Isolation, LimitKind, SandboxName, Tier, WallTime};

use super::*;
use crate::load::{Origin, load_policy};
use crate::mount::Mount;
use crate::policy::{Changes, EnvPolicy, FilePolicy, Limits, NetworkMode, NetworkPolicy};

fn reload(policy: &Policy) -> Policy {
    let text = policy.to_toml().unwrap();
    load_policy(
        text.as_bytes(),
        Origin {
            file: Path::new("p"),
            folder: Path::new("/nowhere"),
        },
    )
    .unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// Absolute paths of odd characters: quotes, newlines, control characters, anything but NUL, with a first letter that keeps
/// them out of the reserved directories.
fn path() -> impl Strategy<Value = PathBuf> {
    "/x[^\0/]{0,8}(/y[^\0/]{0,8}){0,2}".prop_map(PathBuf::from)
}

fn mount() -> impl Strategy<Value = Mount> {
    let part = || "/x[^\0/:]{0,8}".prop_map(PathBuf::from);
    (part(), part(), any::<bool>()).prop_map(|(host, guest, read_only)| Mount { host, guest, read_only })
}

fn files() -> impl Strategy<Value = FilePolicy> {
    let paths = || vec(path(), 0..3);
    (
        paths(),
        paths(),
        paths(),
        vec(mount(), 0..3),
        option::of(path()),
        option::of(path()),
        any::<bool>(),
    )
        .prop_map(|(read, write, deny, mounts, rootfs, workdir, home_tools)| FilePolicy {
            read,
            write,
            deny,
            mounts,
            rootfs,
            workdir,
            home_tools,
        })
}

fn limits() -> impl Strategy<Value = Limits> {
    let size = || option::of((1_u64 << 20..1 << 62).prop_map(ByteSize));
    let time = (1_u64..365 * 24 * 3600 * 1000).prop_map(|ms| WallTime(Duration::from_millis(ms)));
    let kinds = prop::sample::select(vec![LimitKind::Memory, LimitKind::Cpus, LimitKind::Timeout]);
    (
        size(),
        option::of((1_u32..=4_096_000).prop_map(|millis| CpuShare { millis })),
        option::of(2_u32..),
        option::of(16_u32..),
        size(),
        option::of(time),
        btree_set(kinds, 0..3),
    )
        .prop_map(|(memory, cpus, pids, files, disk, timeout, allow_degraded)| Limits {
            memory,
            cpus,
            pids,
            files,
            disk,
            timeout,
            allow_degraded,
        })
}

fn policies() -> impl Strategy<Value = Policy> {
    let choices = (
        prop::sample::select(vec![Isolation::Auto, Isolation::Namespace, Isolation::Landlock]),
        option::of(prop::sample::select(vec![Tier::Landlock, Tier::Namespace])),
        option::of(prop::sample::select(vec![
            Changes::Keep,
            Changes::Commit,
            Changes::Discard,
            Changes::None,
        ])),
        option::of(any::<u64>().prop_map(SandboxName::from_random)),
        any::<bool>(),
        prop::sample::select(vec![NetworkMode::None, NetworkMode::Host]),
    );
    let env = (
        btree_map("[^=\0]{1,8}", "[^\0]{0,20}", 0..4),
        btree_set("[^=\0]{1,8}", 0..4),
    );
    (choices, files(), env, limits()).prop_map(
        |((isolation, min_isolation, changes, name, tty, mode), files, (set, pass), limits)| Policy {
            isolation,
            min_isolation,
            changes,
            name,
            tty,
            files,
            network: NetworkPolicy { mode },
            env: EnvPolicy { set, pass },
            limits,
        },
    )
}

proptest! {
    #[test]
    fn a_printed_policy_loads_back_to_the_same(policy in policies()) {
        prop_assert_eq!(reload(&policy), policy);
    }
}

#[test]
fn the_default_policy_prints_and_loads() {
    assert_eq!(reload(&Policy::default()), Policy::default());
}

#[test]
fn a_path_that_is_no_text_is_named() {
    let mut policy = Policy::default();
    policy.files.read.push(PathBuf::from(OsStr::from_bytes(b"/a\xff")));
    assert_eq!(
        policy.to_toml().unwrap_err().to_string(),
        r#"the path "/a\xFF" can't be written in a policy file"#
    );
    let mut policy = Policy::default();
    policy.files.mounts.push(Mount {
        host: "/a".into(),
        guest: "/b:c".into(),
        read_only: false,
    });
    assert_eq!(
        policy.to_toml().unwrap_err().to_string(),
        r#"the path "/b:c" can't be written in a policy file"#
    );
}
