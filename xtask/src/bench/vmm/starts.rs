//! Starts: from the spawn (of a prepared VMM: from the request) to the first byte that the guest writes, in interleaved rounds.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use rustix::io::ioctl_fionread;
use serde_json::{Value, json};

use super::process::{self, Client, Door, Failure, Vmm};
use super::programs::{Build, Programs};
use super::{MEMORY_MIB, Timings, millis};

/// What is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The floor boots the guest.
    FloorBoot,
    /// The floor goes on from what it saved.
    FloorLoad,
    /// `--config-file --no-api`.
    Boot,
    /// A restore over an inherited socket, whose request waits there already.
    Restore,
    /// A restore over `--api-sock`: the client connects as soon as it can.
    RestoreByPath,
    /// A restore by a `--prepared` VMM, from the request on.
    Prepared,
}

impl Way {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::FloorBoot => "floor: boot",
            Self::FloorLoad => "floor: restore",
            Self::Boot => "cold boot",
            Self::Restore => "restore",
            Self::RestoreByPath => "restore, socket awaited",
            Self::Prepared => "restore, prepared",
        }
    }

    /// What it is held against.
    pub(super) const fn floor(self) -> Self {
        match self {
            Self::FloorBoot | Self::Boot => Self::FloorBoot,
            _ => Self::FloorLoad,
        }
    }
}

/// The files that starts need, made once.
#[derive(Debug)]
pub(super) struct Ground {
    folder: PathBuf,
    floor: PathBuf,
    guest: PathBuf,
}

impl Ground {
    /// Writes the configuration, and has a snapshot made by each of floor and VMM.
    ///
    /// # Errors
    /// One of them doesn't work.
    pub(super) fn prepare(folder: &Path, programs: &Programs) -> Result<Self, Failure> {
        let ground = Self {
            folder: folder.to_owned(),
            floor: programs.floor.clone(),
            guest: programs.guest.clone(),
        };
        let config = json!({
            "boot-source": {"kernel_image_path": programs.guest, "boot_args": "console=ttyS0"},
            "machine-config": {"vcpu_count": 1, "mem_size_mib": MEMORY_MIB},
        });
        std::fs::write(ground.config(), config.to_string()).map_err(|error| error.to_string())?;
        std::fs::create_dir(ground.snapshot()).map_err(|error| error.to_string())?;
        let saved = Command::new(&programs.floor)
            .arg("save")
            .arg(&programs.guest)
            .args(ground.floor_files())
            .output();
        let saved = saved.map_err(|error| error.to_string())?;
        if !saved.status.success() {
            return Err(format!("the floor: {}", String::from_utf8_lossy(&saved.stderr)));
        }
        let (mut vmm, mut client) = ground.booted(&programs.vmm)?;
        client.ask("PATCH", "/vm", &json!({"state": "Paused"}))?;
        vmm.key(b'?')?;
        // The key is in the port when it has left the pipe, and goes into the snapshot: the guest answers it as soon as it goes on.
        let begun = Instant::now();
        while ioctl_fionread(vmm.keys()?).map_err(|error| error.to_string())? > 0 {
            if begun.elapsed() > process::PATIENCE {
                return Err("the VMM does not read its input while the guest is paused".to_owned());
            }
            std::thread::sleep(process::RETRY);
        }
        client.ask("PUT", "/snapshot/create", &process::create_body(&ground.snapshot()))?;
        Ok(ground)
    }

    fn config(&self) -> PathBuf {
        self.folder.join("config.json")
    }

    fn floor_files(&self) -> [PathBuf; 2] {
        ["floor-memory", "floor-state"].map(|name| self.folder.join(name))
    }

    /// The VMM's snapshot.
    pub(super) fn snapshot(&self) -> PathBuf {
        self.folder.join("snapshot")
    }

    /// A VMM whose guest has said READY, and its API.
    ///
    /// # Errors
    /// It doesn't come up.
    pub(super) fn booted(&self, build: &Build) -> Result<(Vmm, Client), Failure> {
        let door = Door::make(&self.folder)?;
        let client = door.client()?;
        let mut command = Command::new(&build.path);
        command
            .args(["--api-fd", &door.number(), "--config-file"])
            .arg(self.config());
        let mut vmm = Vmm::start(&mut command, &self.folder)?;
        vmm.until("READY\n")?;
        Ok((vmm, client))
    }

    /// Starts it that way; with the VMM, and the milliseconds until its guest's first byte.
    ///
    /// # Errors
    /// It failed, or another byte came than the guest's first.
    pub(super) fn start(&self, way: Way, build: &Build) -> Result<(Vmm, f64), Failure> {
        let mut launched = self.launch(way, build)?;
        launched.speak(way)?;
        Ok((launched.vmm, millis(launched.begun)))
    }

    /// Starts it that way without waiting for anything that the clock would count.
    ///
    /// # Errors
    /// It can't be started.
    pub(super) fn launch(&self, way: Way, build: &Build) -> Result<Launched, Failure> {
        let folder = &self.folder;
        let body = process::load_body(&self.snapshot());
        let mut command = Command::new(&build.path);
        match way {
            Way::FloorBoot => {
                command = Command::new(&self.floor);
                command.arg("boot").arg(&self.guest);
            }
            Way::FloorLoad => {
                command = Command::new(&self.floor);
                command.arg("load").args(self.floor_files());
            }
            Way::Boot => {
                command.args(["--no-api", "--config-file"]).arg(self.config());
            }
            Way::Restore | Way::Prepared => {
                let door = Door::make(folder)?;
                let mut client = door.client()?;
                command.args(["--api-fd", &door.number()]);
                let mut begun = Instant::now();
                if way == Way::Prepared {
                    command.arg("--prepared");
                }
                let vmm = Vmm::start(&mut command, folder)?;
                if way == Way::Prepared {
                    // Answered only by a VMM that has made its VM.
                    client.ask("GET", "/", &Value::Null)?;
                    begun = Instant::now();
                }
                client.send("PUT", "/snapshot/load", &body)?;
                return Ok(Launched::new(vmm, Some(client), begun));
            }
            Way::RestoreByPath => {
                let socket = folder.join("api");
                // The VMM removes it at its end, but these are killed.
                let _gone = std::fs::remove_file(&socket);
                command.arg("--api-sock").arg(&socket);
                let begun = Instant::now();
                let vmm = Vmm::start(&mut command, folder)?;
                let mut client = Client::connect(&socket)?;
                client.send("PUT", "/snapshot/load", &body)?;
                return Ok(Launched::new(vmm, Some(client), begun));
            }
        }
        let begun = Instant::now();
        let vmm = Vmm::start(&mut command, folder)?;
        Ok(Launched::new(vmm, None, begun))
    }
}

/// A start whose guest has not been heard yet.
#[derive(Debug)]
pub(super) struct Launched {
    /// What runs.
    pub(super) vmm: Vmm,
    /// Who asked it to load.
    client: Option<Client>,
    /// When the clock began.
    begun: Instant,
}

impl Launched {
    const fn new(vmm: Vmm, client: Option<Client>, begun: Instant) -> Self {
        Self { vmm, client, begun }
    }

    /// Waits for the guest's first byte.
    ///
    /// # Errors
    /// None comes, or another than the first of what it should say.
    pub(super) fn speak(&mut self, way: Way) -> Result<(), Failure> {
        let wanted = match way {
            Way::FloorBoot | Way::Boot => b'B', // of BOOT
            _ => b'w',                          // of what?, the answer to the key
        };
        match self.vmm.byte() {
            Ok(byte) if byte == wanted => Ok(()),
            Ok(byte) => Err(format!(
                "{}: the guest's first byte is {byte:#x}, not {wanted:#x}",
                way.name()
            )),
            Err(why) => {
                let answer = self.client.as_mut().map(Client::receive);
                Err(format!("{}: {why}; the API: {answer:?}", way.name()))
            }
        }
    }
}

/// Runs every way once per round, each round beginning with another one; three rounds before the first aren't counted.
///
/// # Errors
/// A start that failed: no figure is worth anything then.
pub(super) fn measure(ground: &Ground, programs: &Programs, rounds: u32) -> Result<Vec<Timings>, Failure> {
    let ways = [
        Way::FloorBoot,
        Way::Boot,
        Way::FloorLoad,
        Way::Restore,
        Way::RestoreByPath,
        Way::Prepared,
    ];
    let mut all: Vec<Timings> = ways.iter().map(|&way| Timings::of(way, &programs.vmm)).collect();
    if let Some(other) = &programs.other {
        let ways = [Way::Boot, Way::Restore, Way::Prepared];
        all.extend(ways.map(|way| Timings::of(way, other)));
    }
    for round in 0..WARM_UP_ROUNDS + rounds {
        let shift = round as usize % all.len();
        let (before, after) = all.split_at_mut(shift);
        for timings in after.iter_mut().chain(before) {
            let (_running, took) = ground.start(timings.way, &timings.build)?;
            if round >= WARM_UP_ROUNDS {
                timings.samples.push(took);
            }
        }
    }
    Ok(all)
}

/// Untimed rounds before the first: they bring files into the page cache.
const WARM_UP_ROUNDS: u32 = 3;
