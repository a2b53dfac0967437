//! The system tree: what every program needs of the host and nobody's secrets are in.

use std::fs;
use std::path::{Path, PathBuf};

use ringwall_types::Tier;

use super::paths::{HostPath, Placed};
use crate::identity::Identity;

/// Top-level directories of programs and libraries; symbolic links into `/usr` on merged systems.
const PROGRAM_TREES: [&str; 8] = [
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/libo32",
];

/// Entries of `/etc` that programs read and that hold no secrets, on Debian, Fedora, Arch, Alpine and openSUSE. An allow-list:
/// what is not here is not there, and every entry costs a mount at each start. Left out on purpose: shadow, ssl/private, ssh, sudoers, machine-id, fstab, cron, apt, netrc.
const ETC: [&str; 29] = [
    // What R needs to start; not the site files beside them.
    "R/Makeconf",
    "R/Renviron",
    "R/ldpaths",
    "R/repositories",
    "alternatives",
    "bash.bashrc",
    "bashrc",
    "crypto-policies",
    "fonts",
    "inputrc",
    "java-11-openjdk",
    "java-17-openjdk",
    "java-21-openjdk",
    "java-25-openjdk",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "matplotlibrc",
    "mime.types",
    "nsswitch.conf",
    "os-release",
    "pki/ca-trust/extracted",
    "pki/tls/certs",
    "profile",
    "protocols",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
];

/// State of the package database that `dpkg -l` and `rpm -q` read.
const DATABASES: [&str; 2] = ["/var/lib/dpkg", "/usr/lib/sysimage/rpm"];

/// Files of `/proc` that a program of the landlock tier may read, beside its own: facts about the machine, nothing about other processes.
const PROC_FILES: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/filesystems",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys/kernel",
    "/proc/sys/vm/overcommit_memory",
    "/proc/uptime",
    "/proc/version",
    "/proc/self",
];

/// Returns the configuration files and directories of the host that programs need and that hold no secrets, as far as they exist.
#[must_use]
pub fn configuration() -> Vec<PathBuf> {
    let paths = ETC.iter().map(|entry| Path::new("/etc").join(entry));
    paths.filter(|path| path.exists()).collect()
}

/// Returns whether the system tree shows a (canonical) path anyway.
pub(crate) fn shows(path: &Path) -> bool {
    PROGRAM_TREES.iter().any(|tree| path.starts_with(tree))
}

/// Returns what of the system is visible.
pub(crate) fn tree(tier: Tier, host_network: bool, home: &Option<PathBuf>, identity: Identity) -> Vec<Placed> {
    let mut placed = Vec::with_capacity(64);
    let mut add = |path: PathBuf| {
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            return;
        };
        if !metadata.is_symlink() {
            placed.push(Placed::System(path));
        } else if let Ok(target) = fs::read_link(&path) {
            // A link into the system tree stays a link; one into elsewhere (/run, say) shows what it points to, as that file.
            match HostPath::find(&path) {
                Ok(found) if shows(&found.path) => placed.push(Placed::Link { path, target }),
                Ok(found) if !found.is_dir => placed.push(Placed::System(path)),
                _ => {}
            }
        }
    };
    for tree in PROGRAM_TREES {
        add(PathBuf::from(tree));
    }
    for entry in ETC {
        add(Path::new("/etc").join(entry));
    }
    for database in DATABASES {
        if !shows(Path::new(database)) {
            add(PathBuf::from(database));
        }
    }
    if host_network {
        add(PathBuf::from("/etc/resolv.conf"));
    }
    match tier {
        Tier::Namespace => placed.extend(own_files(home, host_network, identity)),
        Tier::Landlock => {
            for file in ["/etc/passwd", "/etc/group", "/etc/hosts"]
                .into_iter()
                .chain(PROC_FILES)
            {
                placed.push(Placed::System(PathBuf::from(file)));
            }
        }
    }
    placed
}

/// Small files that name nobody of the host, and directories of the sandbox's own.
fn own_files(home: &Option<PathBuf>, host_network: bool, identity: Identity) -> Vec<Placed> {
    let (uid, gid) = identity.inside();
    let home_text = home.as_ref().map_or("/tmp".into(), |home| home.to_string_lossy());
    // A home with a colon or newline would change the meaning of the line.
    let home_text = if home_text.contains([':', '\n']) {
        "/tmp".into()
    } else {
        home_text
    };
    let mut passwd = String::new();
    let mut group = String::new();
    if uid != 0 {
        passwd.push_str("root:x:0:0:root:/root:/usr/sbin/nologin\n");
        group.push_str("root:x:0:\n");
    }
    let user = if uid == 0 { "root" } else { "sandbox" };
    passwd.push_str(&format!("{user}:x:{uid}:{gid}:{user}:{home_text}:/bin/sh\n"));
    passwd.push_str("nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n");
    group.push_str(&format!("{user}:x:{gid}:\nnogroup:x:65534:\n"));
    let mut files = vec![
        ("/etc/passwd", passwd),
        ("/etc/group", group),
        ("/etc/hostname", "ringwall\n".to_owned()),
    ];
    let hosts = if host_network {
        fs::read_to_string("/etc/hosts").ok()
    } else {
        None
    };
    files.push((
        "/etc/hosts",
        hosts.unwrap_or_else(|| "127.0.0.1 localhost ringwall\n::1 localhost\n".to_owned()),
    ));
    let mut placed: Vec<Placed> = files
        .into_iter()
        .map(|(path, content)| Placed::File {
            path: PathBuf::from(path),
            content: content.into_bytes(),
        })
        .collect();
    placed.push(Placed::Private {
        path: PathBuf::from("/tmp"),
        mode: 0o1777,
    });
    placed.push(Placed::Link {
        path: PathBuf::from("/var/tmp"),
        target: PathBuf::from("/tmp"),
    });
    placed.push(Placed::Link {
        path: PathBuf::from("/var/run"),
        target: PathBuf::from("/run"),
    });
    placed.push(Placed::Link {
        path: PathBuf::from("/etc/mtab"),
        target: PathBuf::from("/proc/self/mounts"),
    });
    if let Some(home) = home
        && home != Path::new("/")
        && !shows(home)
    {
        placed.push(Placed::Private {
            path: home.clone(),
            mode: 0o700,
        });
    }
    placed
}
