//! The programs that are measured: the VMM (static musl, and glibc beside it), the floor and the guest, built before the first round.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::checkout::{self, Workspace};
use crate::command;

/// Our flags for the guest, as in tests/e2e/tests/vmm.rs: no code that needs an operating system, everything below 2 GiB.
const GUEST_FLAGS: &str = "-m64 -O2 -ffreestanding -fno-pic -no-pie -mno-sse -mgeneral-regs-only -mno-red-zone -fno-stack-protector \
                           -mcmodel=small -nostdlib -static -Wall -Wextra -Werror -Wl,-z,noexecstack -Wl,--no-warn-rwx-segments \
                           -Wl,--build-id=none";
/// The floor's: static, as a dynamic one would be slower than the VMM to start.
const FLOOR_FLAGS: &str = "-O2 -static -Wall -Wextra -Werror";

/// A VMM under test.
#[derive(Debug, Clone)]
pub(super) struct Build {
    /// What the report calls it.
    pub(super) name: &'static str,
    /// The executable.
    pub(super) path: PathBuf,
}

/// Everything that is started.
#[derive(Debug)]
pub(super) struct Programs {
    /// The VMM whose figures are held against the targets.
    pub(super) vmm: Build,
    /// The same with another C library, for comparison.
    pub(super) other: Option<Build>,
    /// floor.c.
    pub(super) floor: PathBuf,
    /// tests/e2e/payload.
    pub(super) guest: PathBuf,
}

impl Programs {
    /// Builds all of them; the guest and the floor into `folder`. `given` is measured in place of fresh release builds.
    ///
    /// # Errors
    /// A compiler that failed or is missing.
    pub(super) fn build(folder: &Path, given: Option<&Path>) -> Result<Self, Box<dyn Error>> {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
        let payload = sources.join("../tests/e2e/payload");
        let guest = folder.join("guest.elf");
        let mut gcc = Command::new("gcc");
        gcc.args(GUEST_FLAGS.split_whitespace()).arg("-T");
        gcc.args([payload.join("guest.ld"), "-o".into(), guest.clone()]);
        command::run(gcc.args([payload.join("start.S"), payload.join("guest.c")]))?;
        let floor = folder.join("floor");
        let mut gcc = Command::new("gcc");
        gcc.args(FLOOR_FLAGS.split_whitespace()).arg("-o").arg(&floor);
        command::run(gcc.arg(sources.join("src/bench/vmm/floor.c")))?;
        let (vmm, other) = match given {
            Some(path) => {
                let path = path.canonicalize();
                let path = path.map_err(|error| format!("can't find the given VMM: {error}"))?;
                (Build { name: "given", path }, None)
            }
            None => release_builds()?,
        };
        Ok(Self {
            vmm,
            other,
            floor,
            guest,
        })
    }
}

/// The musl build, and the glibc one beside it; without the musl target only the latter, and that is said.
fn release_builds() -> Result<(Build, Option<Build>), Box<dyn Error>> {
    let workspace = Workspace::load()?;
    let build = |name, triple: &str| -> Result<Build, Box<dyn Error>> {
        command::run(checkout::cargo().args([
            "build",
            "--release",
            "--package",
            "ringwall-vmm-bin",
            "--target",
            triple,
        ]))?;
        let path = workspace.target_directory.join(triple).join("release/ringwall-vmm");
        Ok(Build { name, path })
    };
    let host = checkout::host_triple()?;
    let glibc = build("glibc", &host)?;
    let musl = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let folder = command::text(Command::new("rustc").args(["--print", "target-libdir", "--target", &musl]))?;
    if musl == host || !Path::new(folder.trim()).is_dir() {
        println!("note: only the build for {host} is measured");
        return Ok((glibc, None));
    }
    Ok((build("musl", &musl)?, Some(glibc)))
}
