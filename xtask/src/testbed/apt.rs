//! A private apt: another architecture's packages from Debian's archive, verified by apt against Debian's keys, without
//! touching the host's package database, architectures or sources. It must never install anything.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::cache::Cache;
use super::{TestbedError, at};
use crate::command::{self, CommandError, shown};

/// The Debian release that guests are made of, whatever the host runs: the tests then mean the same everywhere.
const RELEASE: &str = "bookworm";
/// Debian's keys (package debian-archive-keyring).
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Returns the mirror that the host's own apt has Debian's archive from: what comes before `/debian` in its sources.
fn host_mirror() -> Result<String, TestbedError> {
    let folder = Path::new("/etc/apt");
    let mut files = vec![folder.join("sources.list")];
    if let Ok(entries) = fs::read_dir(folder.join("sources.list.d")) {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .find_map(|text| mirror_in(&text))
        .ok_or_else(|| {
            let why = "no Debian archive in this machine's sources: name one with RINGWALL_DEBIAN_MIRROR";
            at(folder)(std::io::Error::other(why))
        })
}

/// Returns the first mirror of Debian's archive in a list of sources, of the one-line or the deb822 kind (sources.list(5)).
fn mirror_in(text: &str) -> Option<String> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(str::split_ascii_whitespace)
        .find_map(|word| {
            let mirror = word.trim_end_matches('/').strip_suffix("/debian")?;
            mirror.contains("://").then(|| mirror.to_owned())
        })
}

/// A private apt for one architecture.
#[derive(Debug)]
pub(crate) struct Apt {
    folder: PathBuf,
    config: PathBuf,
}

impl Apt {
    /// Writes the private configuration into the cache's folder `name` and fetches the package lists of an architecture, from the
    /// mirror that this machine's own apt uses or the one that `RINGWALL_DEBIAN_MIRROR` names.
    ///
    /// # Errors
    /// [`TestbedError`]: a file, or apt (no network, a bad signature).
    pub(crate) fn update(cache: &Cache, name: &str, arch: &str) -> Result<Self, TestbedError> {
        let folder = cache.tool_folder(name);
        for part in [
            "etc/apt.conf.d",
            "etc/sources.list.d",
            "etc/preferences.d",
            "state/lists/partial",
            "archives/partial",
        ] {
            let path = folder.join(part);
            fs::create_dir_all(&path).map_err(at(&path))?;
        }
        let apt = Self {
            config: folder.join("apt.conf"),
            folder,
        };
        let mirror = match std::env::var("RINGWALL_DEBIAN_MIRROR") {
            Ok(mirror) => mirror,
            Err(_) => host_mirror()?,
        };
        apt.write("etc/sources.list", &sources(&mirror, arch))?;
        apt.write("state/status", "")?; // no package is installed: a download then brings all that is needed
        apt.write("apt.conf", &configuration(&apt.folder, arch))?;
        command::output(apt.command("apt-get").args(["-q", "update"]))?;
        Ok(apt)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), TestbedError> {
        let path = self.folder.join(name);
        fs::write(&path, text).map_err(at(&path))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.config).env("LC_ALL", "C");
        command
    }

    /// The packages that a package depends on, alternatives included.
    ///
    /// # Errors
    /// [`CommandError`].
    pub(crate) fn dependencies(&self, package: &str) -> Result<Vec<String>, CommandError> {
        let text = command::text(self.command("apt-cache").args(["depends", "--important", package]))?;
        Ok(text
            .lines()
            .filter_map(|line| line.trim().split_once("Depends: ").map(|(_, name)| name.to_owned()))
            .collect())
    }

    /// The versions of a package that the archive has, newest first.
    ///
    /// # Errors
    /// [`CommandError`].
    pub(crate) fn versions(&self, package: &str) -> Result<Vec<String>, CommandError> {
        Ok(versions_in(&command::text(
            self.command("apt-cache").args(["madison", package]),
        )?))
    }

    /// Downloads one package, without what it depends on, into `folder`.
    ///
    /// # Errors
    /// [`TestbedError`].
    pub(crate) fn download(&self, package: &str, folder: &Path) -> Result<PathBuf, TestbedError> {
        command::output(
            self.command("apt-get")
                .args(["-q", "download", package])
                .current_dir(folder),
        )?;
        let found = debs_in(folder)?.pop();
        found.ok_or_else(|| TestbedError::Package {
            package: folder.to_owned(),
            wanted: "package file",
        })
    }

    /// Downloads packages with all that they depend on; returns the package files.
    ///
    /// # Errors
    /// [`TestbedError`].
    pub(crate) fn download_closure(&self, packages: &[&str]) -> Result<Vec<PathBuf>, TestbedError> {
        let archives = self.folder.join("archives");
        // Only what this list needs may be in the folder afterwards: all of it is unpacked.
        command::output(self.command("apt-get").args(["-q", "clean"]))?;
        let options = ["-q", "install", "--yes", "--download-only", "--no-install-recommends"];
        command::output(self.command("apt-get").args(options).args(packages))?;
        let debs = debs_in(&archives)?;
        if debs.is_empty() {
            return Err(TestbedError::Package {
                package: archives,
                wanted: "package file",
            });
        }
        Ok(debs)
    }

    /// Removes the downloaded package files: what was unpacked of them is kept elsewhere.
    ///
    /// # Errors
    /// [`CommandError`].
    pub(crate) fn clean(&self) -> Result<(), CommandError> {
        command::output(self.command("apt-get").args(["-q", "clean"])).map(drop)
    }
}

/// The versions in what `apt-cache madison` prints: `package | version | where` (apt-cache(8)).
fn versions_in(text: &str) -> Vec<String> {
    let columns = text.lines().filter_map(|line| line.split('|').nth(1));
    columns.map(|version| version.trim().to_owned()).collect()
}

fn debs_in(folder: &Path) -> Result<Vec<PathBuf>, TestbedError> {
    let mut debs = Vec::new();
    for entry in fs::read_dir(folder).map_err(at(folder))? {
        let path = entry.map_err(at(folder))?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            debs.push(path);
        }
    }
    debs.sort();
    Ok(debs)
}

fn sources(mirror: &str, arch: &str) -> String {
    let options = format!("[arch={arch} signed-by={KEYRING}]");
    let suites = [
        ("debian", RELEASE.to_owned()),
        ("debian", format!("{RELEASE}-updates")),
        ("debian-security", format!("{RELEASE}-security")), // the 6.12 kernel of Debian 12 is here
    ];
    suites
        .map(|(archive, suite)| format!("deb {options} {mirror}/{archive} {suite} main\n"))
        .concat()
}

/// apt.conf(5). The host's own configuration (proxies above all) is still read; folders and architectures are ours.
fn configuration(folder: &Path, arch: &str) -> String {
    let folder = folder.display();
    format!(
        "APT::Architecture \"{arch}\";\n\
         #clear APT::Architectures;\nAPT::Architectures {{ \"{arch}\"; }};\n\
         Dir::Etc::sourcelist \"{folder}/etc/sources.list\";\n\
         Dir::Etc::sourceparts \"{folder}/etc/sources.list.d\";\n\
         Dir::Etc::preferences \"/dev/null\";\n\
         Dir::Etc::preferencesparts \"{folder}/etc/preferences.d\";\n\
         Dir::State \"{folder}/state\";\n\
         Dir::State::status \"{folder}/state/status\";\n\
         Dir::Cache \"{folder}\";\n\
         Dir::Cache::archives \"{folder}/archives\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::Retries \"3\";\n\
         #clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n#clear DPkg::Post-Invoke;\n\
         APT::Sandbox::User \"\";\n"
    )
}

/// Unpacks a package's files into a folder. A symlink there that stands for one of the package's folders (`/bin` on a merged
/// /usr) is followed, which `dpkg -x` would replace. Run as root, owners and setuid bits are the package's.
///
/// # Errors
/// [`CommandError`]: the package is damaged, or the disk full.
pub(crate) fn unpack(deb: &Path, folder: &Path) -> Result<(), CommandError> {
    let mut extract = Command::new("dpkg-deb");
    extract.arg("--fsys-tarfile").arg(deb);
    let name = shown(&extract);
    let started = extract.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut extracting = started.map_err(|source| CommandError::Start {
        command: name.clone(),
        source,
    })?;
    let archive = extracting.stdout.take().map_or_else(Stdio::null, Stdio::from);
    let mut tar = Command::new("tar");
    tar.args(["-x", "-p", "--keep-directory-symlink", "-C"])
        .arg(folder)
        .stdin(archive);
    let unpacked = tar.status().map_err(|source| CommandError::Start {
        command: shown(&tar),
        source,
    });
    let status = extracting.wait().map_err(|source| CommandError::Read {
        command: name.clone(),
        source,
    })?;
    if !status.success() {
        return Err(CommandError::Failed {
            command: name,
            status,
            stderr: String::new(),
        });
    }
    let status = unpacked?;
    if !status.success() {
        return Err(CommandError::Failed {
            command: shown(&tar),
            status,
            stderr: String::new(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_is_signed_and_of_one_architecture() {
        let text = sources("http://mirror", "arm64");
        assert_eq!(text.lines().count(), 3);
        assert!(
            text.lines()
                .all(|line| line.starts_with("deb [arch=arm64 signed-by=/usr/share/keyrings/")),
            "{text}"
        );
        assert!(
            text.contains("http://mirror/debian-security bookworm-security main"),
            "{text}"
        );
    }

    #[test]
    fn versions_are_the_second_column() {
        let text = " linux-source-6.12 | 6.12.9-1~deb12u1 | http://mirror x/main amd64 Packages\n linux-source-6.12 | 6.12.8-1 | http://mirror\n";
        assert_eq!(versions_in(text), ["6.12.9-1~deb12u1", "6.12.8-1"]);
    }

    #[test]
    fn the_mirror_is_found_in_both_kinds_of_lists() {
        let old =
            "# deb http://old.example/debian x main\ndeb [signed-by=/k] http://mirror.example/debian/ bookworm main\n";
        let new = "Types: deb\nURIs: https://mirror.example/some/debian\nSuites: bookworm\n";
        assert_eq!(super::mirror_in(old).as_deref(), Some("http://mirror.example"));
        assert_eq!(super::mirror_in(new).as_deref(), Some("https://mirror.example/some"));
        assert_eq!(super::mirror_in("deb http://mirror.example/ubuntu jammy main"), None);
    }
}
