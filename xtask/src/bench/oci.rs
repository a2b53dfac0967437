//! The bundle that crun runs: the same trees and namespaces as bubblewrap's command line, as an OCI `config.json`.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use serde_json::{Value, json};

use super::bed::{Bed, SEARCH_PATH};
use super::contestant::root_entries;

/// Writes the bundle and returns crun's arguments.
///
/// # Errors
/// It couldn't be written.
pub(super) fn bundle(bed: &Bed, shown: &[&Path], payload: &[OsString]) -> io::Result<Vec<OsString>> {
    let bundle = bed.root().join("bundle");
    let rootfs = bundle.join("rootfs");
    let state = bed.root().join("crun");
    if !rootfs.exists() {
        std::fs::create_dir_all(&rootfs)?;
        for (path, target) in root_entries() {
            if let (Some(name), Some(target)) = (path.file_name(), target) {
                std::os::unix::fs::symlink(target, rootfs.join(name))?;
            }
        }
    }
    std::fs::write(bundle.join("config.json"), config(bed, shown, payload).to_string())?;
    let words: [OsString; 8] = [
        "--cgroup-manager=disabled".into(), // bubblewrap makes no control group either
        "--root".into(),
        state.into(),
        "run".into(),
        "--bundle".into(),
        bundle.into(),
        "--".into(),
        "ringwall-bench".into(),
    ];
    Ok(words.into())
}

/// The configuration (OCI runtime specification 1.0, config.md and config-linux.md).
fn config(bed: &Bed, shown: &[&Path], payload: &[OsString]) -> Value {
    let bind = |path: &Path, access: &str| json!({"destination": path, "type": "bind", "source": path, "options": ["rbind", access]});
    let project = bed.project();
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc"}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]}),
        json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev"]}),
        bind(Path::new("/usr"), "ro"),
        bind(Path::new("/etc"), "ro"),
    ];
    mounts.extend(
        root_entries()
            .iter()
            .filter(|(_, link)| link.is_none())
            .map(|(path, _)| bind(path, "ro")),
    );
    mounts.extend(shown.iter().map(|path| bind(path, "ro")));
    mounts.push(bind(&project, "rw"));
    let map = |host: u32| json!([{"containerID": 0, "hostID": host, "size": 1}]);
    let namespaces = ["user", "mount", "pid", "network", "ipc", "uts", "cgroup"].map(|kind| json!({"type": kind}));
    let payload: Vec<_> = payload.iter().map(|word| word.to_string_lossy()).collect();
    json!({
        "ociVersion": "1.0.0",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": payload,
            "env": [format!("PATH={SEARCH_PATH}"), "HOME=/", "LANG=C.UTF-8"],
            "cwd": project,
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": false},
        "mounts": mounts,
        "linux": {
            "uidMappings": map(rustix::process::geteuid().as_raw()),
            "gidMappings": map(rustix::process::getegid().as_raw()),
            "namespaces": namespaces,
        },
    })
}
