//! Starts QEMU, prints and logs the guest's console, and ends it when its time is over.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use super::console::Console;
use super::job::Job;
use super::kernel::Kernel;
use super::root::Root;
use super::{Machine, TestbedError, at};
use crate::command;
use crate::stream::{Ended, stream};

/// What a boot left: the console as read, and how QEMU ended.
#[derive(Debug)]
pub(crate) struct Booted {
    /// What the guest said.
    pub(crate) console: Console,
    /// How QEMU ended.
    pub(crate) ended: Ended,
}

/// Boots the machine and follows its console to the end.
///
/// # Errors
/// [`TestbedError`]: QEMU couldn't be started, or the log not be written. What goes wrong in the guest is in [`Booted`].
pub(crate) fn boot(
    machine: Machine,
    kernel: &Kernel,
    root: &Root,
    job: &Job,
    timeout: Duration,
    show_command: bool,
) -> Result<Booted, TestbedError> {
    // A user can't make files of root's in an image, so the guest is told to make them so.
    let owner = if rustix::process::geteuid().is_root() {
        ""
    } else {
        " testbed.chown"
    };
    // panic=-1 with -no-reboot: a panic ends QEMU at once.
    let append = format!(
        "{} quiet loglevel=4 panic=-1 random.trust_cpu=on{owner}",
        machine.kernel_words()
    );
    let mut qemu = machine.qemu();
    qemu.args([
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-serial",
        "stdio",
        "-net",
        "none",
    ]);
    qemu.arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(&job.initramfs)
        .args(["-append", &append]);
    // The guest tells its disks apart by their serial numbers, not by the order in which they turn up.
    qemu.args(disk("root", &root.image, "snapshot=on,cache=unsafe"));
    qemu.args(disk("job", &job.disk, "readonly=on"));
    qemu.args([
        "-object",
        "rng-random,filename=/dev/urandom,id=random",
        "-device",
        "virtio-rng-pci,rng=random",
    ]);
    if show_command {
        println!("{}", command::shown(&qemu));
    }
    let mut log = File::create(&job.console_log).map_err(at(&job.console_log))?;
    let mut console = Console::default();
    let mut log_failure = None;
    let ended = stream(qemu, timeout, |line| {
        println!("  {machine}| {line}");
        if let Err(error) = writeln!(log, "{line}") {
            log_failure.get_or_insert(error);
        }
        console.feed(line);
    })?;
    match log_failure {
        Some(error) => Err(at(&job.console_log)(error)),
        None => Ok(Booted { console, ended }),
    }
}

fn disk(name: &str, image: &Path, options: &str) -> [String; 4] {
    // QEMU takes a doubled comma in a value as a comma (qemu(1), -drive).
    let image = image.to_string_lossy().replace(',', ",,");
    [
        "-drive".to_owned(),
        format!("if=none,id={name},format=raw,file={image},{options}"),
        "-device".to_owned(),
        format!("virtio-blk-pci,drive={name},serial=ringwall-{name}"),
    ]
}
