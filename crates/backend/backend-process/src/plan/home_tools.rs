//! Tool roots below the home directory: what a version manager installed there is what people really call.
//!
//! A directory on the caller's PATH below its home names a tool; the table says which directories that tool needs to run, and those
//! alone become visible, read-only. What is not in the table shows just the directory on PATH itself. No entry may hold credentials
//! or history: `~/.cargo` has credentials.toml in it, so only its `bin` is shown.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::HostPath;
use super::environment::variable;

/// What a directory on PATH (its path below the home begins like this) stands for.
struct Tool {
    /// Beginning of the path below the home.
    prefix: &'static str,
    /// What is shown, below the home. `None`: the path down to one level below the prefix (`a/b` of `a/b/c` for the prefix `a`).
    shown: Option<&'static [&'static str]>,
}

const TOOLS: [Tool; 24] = [
    Tool {
        prefix: ".pyenv",
        shown: Some(&[".pyenv"]),
    },
    Tool {
        prefix: ".rbenv",
        shown: Some(&[".rbenv"]),
    },
    Tool {
        prefix: ".nodenv",
        shown: Some(&[".nodenv"]),
    },
    Tool {
        prefix: ".asdf",
        shown: Some(&[".asdf"]),
    },
    Tool {
        prefix: ".nvm/versions/node",
        shown: None,
    },
    Tool {
        prefix: ".local/share/fnm",
        shown: Some(&[".local/share/fnm"]),
    },
    Tool {
        prefix: ".volta",
        shown: Some(&[".volta/bin", ".volta/tools"]),
    },
    Tool {
        prefix: ".bun",
        shown: Some(&[".bun/bin"]),
    },
    Tool {
        prefix: ".deno",
        shown: Some(&[".deno/bin"]),
    },
    Tool {
        prefix: ".cargo/bin",
        shown: Some(&[".cargo/bin", ".rustup/toolchains", ".rustup/settings.toml"]),
    },
    Tool {
        prefix: ".rustup/toolchains",
        shown: None,
    },
    Tool {
        prefix: ".local/share/mise",
        shown: Some(&[".local/share/mise/shims", ".local/share/mise/installs"]),
    },
    Tool {
        prefix: ".sdkman/candidates",
        shown: Some(&[".sdkman/candidates"]),
    },
    Tool {
        prefix: "go",
        shown: Some(&["go/bin"]),
    },
    Tool {
        prefix: ".go",
        shown: Some(&[".go/bin", ".go/pkg/tool", ".go/src", ".go/lib"]),
    },
    Tool {
        prefix: "sdk",
        shown: None,
    },
    Tool {
        prefix: "miniconda3",
        shown: Some(&["miniconda3"]),
    },
    Tool {
        prefix: "anaconda3",
        shown: Some(&["anaconda3"]),
    },
    Tool {
        prefix: "miniforge3",
        shown: Some(&["miniforge3"]),
    },
    Tool {
        prefix: "mambaforge",
        shown: Some(&["mambaforge"]),
    },
    Tool {
        prefix: ".conda/envs",
        shown: Some(&[".conda/envs"]),
    },
    Tool {
        prefix: ".npm-global",
        shown: Some(&[".npm-global/bin", ".npm-global/lib"]),
    },
    Tool {
        prefix: ".local/bin",
        shown: Some(&[
            ".local/bin",
            ".local/lib",
            ".local/pipx/venvs",
            ".local/share/pipx/venvs",
            ".local/share/uv/python",
            ".local/share/uv/tools",
        ]),
    },
    Tool {
        prefix: ".local/share/uv",
        shown: Some(&[".local/share/uv/python", ".local/share/uv/tools"]),
    },
];

/// Returns what of `home` is needed for the tools on the caller's PATH and for the command itself; only what exists, no entry below
/// another.
pub(crate) fn roots(caller: &[(OsString, OsString)], home: &Path, command: &[OsString]) -> Vec<PathBuf> {
    let path = variable(caller, "PATH").map(OsString::from).unwrap_or_default();
    let mut directories: Vec<PathBuf> = std::env::split_paths(&path)
        .filter(|entry| entry.is_absolute())
        .collect();
    // A command given by path may itself lie below the home: `~/.venvs/x/bin/python`.
    if let Some(command) = command.first().map(Path::new)
        && command.is_absolute()
        && let Some(parent) = command.parent()
    {
        directories.push(parent.to_owned());
    }
    directories.sort();
    directories.dedup();
    let mut found: Vec<PathBuf> = Vec::new();
    for directory in directories {
        let Ok(below) = directory.strip_prefix(home) else {
            continue;
        };
        found.extend(needed(below, home).into_iter().map(|path| home.join(path)));
    }
    found.sort();
    found.dedup();
    // Only what exists, at this very path: a link could lead anywhere.
    found.retain(|path| path != home && HostPath::find(path).is_ok_and(|host| host.path == *path));
    let all = found.clone();
    found.retain(|path| !all.iter().any(|above| above != path && path.starts_with(above)));
    found
}

/// Returns what a directory on PATH needs, both below the home.
fn needed(below: &Path, home: &Path) -> Vec<PathBuf> {
    for tool in &TOOLS {
        let Ok(rest) = below.strip_prefix(tool.prefix) else {
            continue;
        };
        return match tool.shown {
            Some(shown) => shown.iter().map(PathBuf::from).collect(),
            None => rest
                .components()
                .next()
                .map(|version| Path::new(tool.prefix).join(version))
                .into_iter()
                .collect(),
        };
    }
    // A virtual environment: its interpreter and libraries lie beside the directory on PATH.
    if let Some(parent) = below.parent()
        && !parent.as_os_str().is_empty()
        && home.join(parent).join("pyvenv.cfg").is_file()
    {
        return vec![parent.to_owned()];
    }
    if below.as_os_str().is_empty() {
        Vec::new()
    } else {
        vec![below.to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn path(text: &str) -> Vec<(OsString, OsString)> {
        vec![("PATH".into(), text.into())]
    }

    #[test]
    fn the_table_shows_what_a_tool_needs() {
        let home = Path::new("/nonexistent");
        assert_eq!(needed(Path::new(".pyenv/shims"), home), [PathBuf::from(".pyenv")]);
        assert_eq!(
            needed(Path::new(".nvm/versions/node/v20.1.0/bin"), home),
            [PathBuf::from(".nvm/versions/node/v20.1.0")]
        );
        assert_eq!(needed(Path::new("bin"), home), [PathBuf::from("bin")]);
        assert!(needed(Path::new(""), home).is_empty());
    }

    #[test]
    fn no_entry_holds_credentials() {
        for tool in &TOOLS {
            for shown in tool.shown.into_iter().flatten() {
                for secret in [
                    ".cargo/credentials.toml",
                    ".ssh",
                    ".aws",
                    ".npmrc",
                    ".netrc",
                    ".config",
                    ".bash_history",
                    ".gnupg",
                ] {
                    assert!(!Path::new(secret).starts_with(shown), "{shown} would show {secret}");
                }
            }
        }
    }

    #[test]
    fn only_existing_real_directories_are_shown() {
        let home = tempfile::tempdir().unwrap();
        let home = fs::canonicalize(home.path()).unwrap();
        fs::create_dir_all(home.join(".pyenv/shims")).unwrap();
        fs::create_dir_all(home.join(".ssh")).unwrap();
        std::os::unix::fs::symlink(home.join(".ssh"), home.join("link")).unwrap();
        let text = format!(
            "{0}/.pyenv/shims:{0}/.pyenv/bin:{0}/link:{0}:{0}/missing:/usr/bin",
            home.display()
        );
        assert_eq!(roots(&path(&text), &home, &[]), [home.join(".pyenv")]);
    }
}
