//! Who is compared: a bare process, ringwall's tiers, and the peers found on the `PATH`, each with the command line that puts a
//! program into the most similar sandbox it has.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::bed::{Bed, SEARCH_PATH};
use super::oci;

/// The name under which ringwall keeps the changes of a round, so that they can be thrown away after it.
const KEPT_AS: &str = "bench";

/// One way to run a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contestant {
    /// No sandbox: what everything is compared with.
    Bare,
    /// Ringwall's default: namespaces, with captured writes that are kept.
    Ringwall,
    /// The default, with the caller's own `PATH`: what it costs to show toolchains below the home directory.
    RingwallOwnPath,
    /// Namespaces, nothing captured.
    RingwallReadOnly,
    /// Landlock and seccomp alone.
    RingwallLandlock,
    /// bubblewrap, showing the same trees.
    Bubblewrap,
    /// crun, with a bundle that shows the same trees.
    Crun,
    /// firejail without a profile.
    Firejail,
    /// The same namespaces and nothing else: a lower bound.
    Unshare,
}

impl Contestant {
    /// Its name in the tables.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Ringwall => "ringwall",
            Self::RingwallOwnPath => "ringwall, caller's PATH",
            Self::RingwallReadOnly => "ringwall --changes none",
            Self::RingwallLandlock => "ringwall landlock",
            Self::Bubblewrap => "bubblewrap",
            Self::Crun => "crun",
            Self::Firejail => "firejail",
            Self::Unshare => "unshare",
        }
    }

    /// Whether its failure ends the benchmark. A peer may not work on a machine; ringwall and bare processes must.
    pub(super) fn is_required(self) -> bool {
        !matches!(self, Self::Bubblewrap | Self::Crun | Self::Firejail | Self::Unshare)
    }

    /// The command that runs `payload` (a path and arguments) this way, in the project, with `shown` readable besides.
    ///
    /// # Errors
    /// Why this contestant can't take part: it isn't installed, or its files couldn't be written.
    pub(super) fn command(self, bed: &Bed, shown: &[&Path], payload: &[OsString]) -> Result<Command, String> {
        let words = |list: &[&str]| list.iter().map(OsString::from).collect::<Vec<_>>();
        let (program, before) = match self {
            Self::Bare => {
                let (program, arguments) = payload.split_first().ok_or("nothing to run")?;
                let mut command = bed.command(Path::new(program));
                command.args(arguments);
                return Ok(command);
            }
            Self::Ringwall | Self::RingwallOwnPath | Self::RingwallReadOnly | Self::RingwallLandlock => {
                let tier = if self == Self::RingwallLandlock {
                    "landlock"
                } else {
                    "namespace"
                };
                let mut before = words(&["run", "--quiet", "--isolation", tier]);
                if matches!(self, Self::RingwallReadOnly | Self::RingwallLandlock) {
                    before.extend(words(&["--changes", "none"]));
                }
                for path in shown {
                    before.extend(["--read".into(), OsString::from(path)]);
                }
                before.push("--".into());
                (bed.ringwall.clone(), before)
            }
            Self::Bubblewrap => (on_path("bwrap")?, bubblewrap(bed, shown)),
            Self::Crun => {
                let program = on_path("crun")?;
                // The bundle holds the command too, so there is nothing to append.
                let arguments = oci::bundle(bed, shown, payload).map_err(|error| error.to_string())?;
                let mut command = bed.command(&program);
                command.args(arguments);
                return Ok(command);
            }
            Self::Firejail => (
                on_path("firejail")?,
                words(&[
                    "--quiet",
                    "--noprofile",
                    "--net=none",
                    "--caps.drop=all",
                    "--seccomp",
                    "--",
                ]),
            ),
            Self::Unshare => (
                on_path("unshare")?,
                words(&[
                    "--user",
                    "--map-root-user",
                    "--mount",
                    "--pid",
                    "--fork",
                    "--net",
                    "--ipc",
                    "--uts",
                    "--cgroup",
                    "--",
                ]),
            ),
        };
        let mut command = bed.command(&program);
        command.args(before).args(payload);
        if self == Self::RingwallOwnPath {
            command.env("PATH", std::env::var_os("PATH").unwrap_or_else(|| SEARCH_PATH.into()));
        }
        Ok(command)
    }

    /// Like [`Self::command`], for a program that writes: ringwall keeps what it captured until [`Self::forget`].
    ///
    /// # Errors
    /// As [`Self::command`].
    pub(super) fn writing(self, bed: &Bed, shown: &[&Path], payload: &[OsString]) -> Result<Command, String> {
        if self != Self::Ringwall {
            return self.command(bed, shown, payload);
        }
        let mut command = bed.command(&bed.ringwall);
        command.args(["run", "--quiet", "--isolation", "namespace", "--name", KEPT_AS]);
        for path in shown {
            command.arg("--read").arg(path);
        }
        command.arg("--").args(payload);
        Ok(command)
    }

    /// The command that throws away what [`Self::writing`] kept; `None` for contestants that write directly.
    pub(super) fn forget(self, bed: &Bed) -> Option<Command> {
        (self == Self::Ringwall).then(|| {
            let mut command = bed.command(&bed.ringwall);
            command.args(["discard", KEPT_AS]);
            command
        })
    }
}

/// The directories and links at the root that programs need besides `/usr`: links where the host has merged them into it.
pub(super) fn root_entries() -> Vec<(PathBuf, Option<PathBuf>)> {
    let candidates = ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];
    let existing = candidates.map(PathBuf::from).into_iter().filter(|path| path.exists());
    existing
        .map(|path| {
            let link = path.read_link().ok();
            (path, link)
        })
        .collect()
}

fn bubblewrap(bed: &Bed, shown: &[&Path]) -> Vec<OsString> {
    let mut words: Vec<OsString> = Vec::new();
    let mut push =
        |list: &[&dyn AsRef<std::ffi::OsStr>]| words.extend(list.iter().map(|word| word.as_ref().to_owned()));
    push(&[&"--unshare-all", &"--die-with-parent"]);
    push(&[&"--ro-bind", &"/usr", &"/usr", &"--ro-bind", &"/etc", &"/etc"]);
    for (path, link) in root_entries() {
        match link {
            Some(target) => push(&[&"--symlink", &target, &path]),
            None => push(&[&"--ro-bind", &path, &path]),
        }
    }
    push(&[&"--proc", &"/proc", &"--dev", &"/dev", &"--tmpfs", &"/tmp"]);
    for path in shown {
        push(&[&"--ro-bind", path, path]);
    }
    let project = bed.project();
    push(&[&"--bind", &project, &project, &"--chdir", &project, &"--"]);
    words
}

/// Finds a program on this process's `PATH`.
///
/// # Errors
/// It isn't there, in words for the report.
pub(super) fn on_path(program: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file());
    found.ok_or_else(|| format!("{program} is not on the PATH"))
}
