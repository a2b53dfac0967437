//! The command line: Firecracker's flags, and some of our own. As typed; [`Args::mode`] says what is to be done.
//!
//! Exit codes are in [`Exit`].

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use ringwall_vmm_proto::{DEFAULT_BODY_BYTES, InstanceId, Level};

/// Where clients connect if nobody says otherwise: Firecracker's path, which its clients know.
const DEFAULT_API_SOCKET: &str = "/run/firecracker.socket";

/// Largest `--http-api-max-payload-size` and `--mmds-size-limit` in bytes. Ours: a body is kept in memory as a whole.
const MAX_LIMIT_BYTES: u64 = 16 << 20;

/// `--page-fault-timeout` unless it is given, in seconds. Ours: longer than a slow network takes for a page.
const PAGE_FAULT_TIMEOUT: u64 = 30;

/// Largest `--page-fault-timeout` in seconds, a day: longer is never, which 0 says.
const MAX_PAGE_FAULT_TIMEOUT: u64 = 24 * 60 * 60;

/// How this program ends: as all of Ringwall's programs do, and not with Firecracker's codes, which clients of its API don't see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The guest shut itself down, or reset its machine; or there was only something to print.
    Done = 0,
    /// This program failed.
    Failure = 125,
    /// The guest reported a panic through the system-control device.
    GuestPanic = 3,
    /// The guest asked for a reboot through the system-control device.
    GuestReboot = 4,
    /// The command line or the configuration can't be.
    BadUsage = 2,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Runs one virtual machine, driven like Firecracker.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "ringwall-vmm",
    version = concat!(env!("CARGO_PKG_VERSION"), " (the API of Firecracker v1.13.0)"),
    about,
    max_term_width = 110,
    group = clap::ArgGroup::new("is_prepared").args(["prepared", "prepared_for"]).multiple(true),
    after_help = "Exit codes: 0 the guest shut down; 2 bad arguments or configuration; 3 the guest panicked;\n\
                  4 the guest asked to be started again; 5 the page fault handler has gone or stopped; 125 this program failed."
)]
pub struct Args {
    /// The Unix socket that clients connect to; nothing may be there yet.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_API_SOCKET, conflicts_with_all = ["no_api", "api_fd"])]
    pub api_sock: PathBuf,
    /// The number of an inherited descriptor: a listening Unix socket to use instead of --api-sock. Where a file is named, by a flag, in
    /// the configuration or by a client, fd:N stands for an inherited descriptor too.
    #[arg(long, value_name = "FD", conflicts_with = "no_api", value_parser = clap::value_parser!(u32).range(3..=65_535))]
    pub api_fd: Option<u32>,
    /// Don't listen; --config-file says everything.
    #[arg(long, requires = "config_file")]
    pub no_api: bool,
    /// A JSON file with the machine's configuration; the machine is started at once.
    #[arg(long, value_name = "FILE")]
    pub config_file: Option<PathBuf>,
    /// A JSON file with metadata for the MMDS.
    #[arg(long, value_name = "FILE")]
    pub metadata: Option<PathBuf>,
    /// What this instance is called: letters, digits and hyphens, at most 64.
    #[arg(long, value_name = "ID", default_value_t)]
    pub id: InstanceId,
    /// Report the time from start to the guest's signal.
    #[arg(long)]
    pub boot_timer: bool,
    /// A file or named pipe for the log.
    #[arg(long, value_name = "FILE")]
    pub log_path: Option<PathBuf>,
    /// Off, Error, Warning, Info, Debug or Trace, in any case.
    #[arg(long, value_name = "LEVEL", value_parser = level)]
    pub level: Option<Level>,
    /// Only log lines of this module.
    #[arg(long, value_name = "MODULE")]
    pub module: Option<String>,
    /// Write each line's level.
    #[arg(long)]
    pub show_level: bool,
    /// Write where each line comes from.
    #[arg(long)]
    pub show_log_origin: bool,
    /// A file or named pipe for the counters.
    #[arg(long, value_name = "FILE")]
    pub metrics_path: Option<PathBuf>,
    /// Longest body of a request in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT_BODY_BYTES as u64, value_parser = clap::value_parser!(u64).range(1..=MAX_LIMIT_BYTES))]
    pub http_api_max_payload_size: u64,
    /// Most metadata in bytes; as --http-api-max-payload-size if not given.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..=MAX_LIMIT_BYTES))]
    pub mmds_size_limit: Option<u64>,
    /// Run without system call filters. For debugging.
    #[arg(long)]
    pub no_seccomp: bool,
    /// The number of an inherited descriptor: /dev/kvm, already open.
    #[arg(long, value_name = "FD", value_parser = clap::value_parser!(u32).range(3..=65_535))]
    pub kvm_fd: Option<u32>,
    /// The number of an inherited descriptor: /dev/userfaultfd, already open, for users who may not make a userfaultfd otherwise.
    #[arg(long, value_name = "FD", value_parser = clap::value_parser!(u32).range(3..=65_535))]
    pub userfault_fd: Option<u32>,
    /// Let this process open files below a directory only, and fail where the kernel can't see to it (Landlock). May be given more than once.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["no_paths", "no_landlock"])]
    pub confine_to: Vec<PathBuf>,
    /// Let this process open no file by its path: everything is an inherited descriptor, fd:N.
    #[arg(long, conflicts_with = "no_landlock")]
    pub no_paths: bool,
    /// Run without Landlock. For debugging.
    #[arg(long)]
    pub no_landlock: bool,
    /// Refused: the filters are part of this program.
    #[arg(long, value_name = "FILE", value_parser = no_own_filter)]
    pub seccomp_filter: Option<PathBuf>,
    /// Refused: devices are on virtio-mmio.
    #[arg(long, value_parser = no_pci, num_args = 0, default_missing_value = "true")]
    pub enable_pci: Option<bool>,
    /// Exit at once if this host's KVM runs ordinary guests only by emulation.
    #[arg(long)]
    pub require_hardware: bool,
    /// Make the machine's parts now, so that a snapshot is loaded faster: of one of the default size, if --prepared-for names none.
    #[arg(long, conflicts_with = "config_file")]
    pub prepared: bool,
    /// --prepared, for this snapshot: its vCPUs, memory and huge pages. Others can be loaded too, not faster.
    #[arg(long, value_name = "STATE_FILE", conflicts_with = "config_file")]
    pub prepared_for: Option<PathBuf>,
    /// Prepare for a load with track_dirty_pages.
    #[arg(long, requires = "is_prepared")]
    pub prepared_track_dirty: bool,
    /// How long the page fault handler of a restored machine may take for a page before the machine is ended; 0: as long as it likes. 30 if
    /// not given; without --no-paths and --confine-to, for faults are seen in /proc.
    #[arg(long, value_name = "SECONDS", conflicts_with_all = ["no_paths", "confine_to"],
        value_parser = clap::value_parser!(u64).range(..=MAX_PAGE_FAULT_TIMEOUT))]
    pub page_fault_timeout: Option<u64>,
    /// When the starter started this process, in microseconds of the wall clock.
    #[arg(long, value_name = "MICROSECONDS")]
    pub start_time_us: Option<u64>,
    /// The same in CPU time.
    #[arg(long, value_name = "MICROSECONDS")]
    pub start_time_cpu_us: Option<u64>,
    /// CPU time of the starter.
    #[arg(long, value_name = "MICROSECONDS")]
    pub parent_cpu_time_us: Option<u64>,
    /// Print the version of the snapshot format, and exit.
    #[arg(long)]
    pub snapshot_version: bool,
    /// Print the version of a snapshot's state file, and exit.
    #[arg(long, value_name = "FILE", conflicts_with = "snapshot_version")]
    pub describe_snapshot: Option<PathBuf>,
    /// Put the memory file of a Diff snapshot onto that of the snapshot before it, which is changed in place, and exit. No VM may be using
    /// either.
    #[arg(long, num_args = 2, value_names = ["FULL", "DIFF"], conflicts_with_all = ["snapshot_version", "describe_snapshot"])]
    pub merge_memory: Option<Vec<PathBuf>>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Print the version of the snapshot format.
    SnapshotVersion,
    /// Print what a snapshot is.
    DescribeSnapshot(PathBuf),
    /// Put a difference (second) onto a full memory file (first).
    MergeMemory(PathBuf, PathBuf),
    /// Run a machine, with clients or without.
    Run(Api),
}

/// How clients reach this instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Api {
    /// Not at all.
    None,
    /// At a path.
    Path(PathBuf),
    /// By an inherited descriptor.
    Descriptor(u32),
}

impl Args {
    /// What is to be done.
    pub fn mode(&self) -> Mode {
        if self.snapshot_version {
            return Mode::SnapshotVersion;
        }
        if let Some(path) = &self.describe_snapshot {
            return Mode::DescribeSnapshot(path.clone());
        }
        if let Some([full, difference]) = self.merge_memory.as_deref() {
            return Mode::MergeMemory(full.clone(), difference.clone());
        }
        Mode::Run(match self.api_fd {
            _ if self.no_api => Api::None,
            Some(fd) => Api::Descriptor(fd),
            None => Api::Path(self.api_sock.clone()),
        })
    }

    /// How long a page fault may take; `None` if that is not looked at.
    pub fn page_fault_patience(&self) -> Option<Duration> {
        let sees_faults = !self.no_paths && self.confine_to.is_empty();
        let unasked = if sees_faults { PAGE_FAULT_TIMEOUT } else { 0 };
        let seconds = self.page_fault_timeout.unwrap_or(unasked);
        (seconds > 0).then(|| Duration::from_secs(seconds))
    }

    /// Longest body of a request in bytes.
    pub fn max_body_bytes(&self) -> usize {
        bytes(self.http_api_max_payload_size)
    }

    /// Most metadata in bytes.
    pub fn max_mmds_bytes(&self) -> usize {
        bytes(self.mmds_size_limit.unwrap_or(self.http_api_max_payload_size))
    }
}

/// Reads the command line, or says what is wrong with it and how to end.
///
/// # Errors
/// Help and version too: clap's error knows what to print and where.
pub fn parse(args: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Args, (clap::Error, Exit)> {
    Args::try_parse_from(args).map_err(|error| {
        let exit = if error.use_stderr() { Exit::BadUsage } else { Exit::Done };
        (error, exit)
    })
}

/// The parser bounds it far below 32 bits.
fn bytes(limit: u64) -> usize {
    usize::try_from(limit).unwrap_or(DEFAULT_BODY_BYTES)
}

fn level(name: &str) -> Result<Level, &'static str> {
    Level::parse(name).ok_or("it is Off, Error, Warning, Info, Debug or Trace")
}

fn no_own_filter(_: &str) -> Result<PathBuf, &'static str> {
    Err("the system call filters are part of this program and no others are taken")
}

fn no_pci(_: &str) -> Result<bool, &'static str> {
    Err("there is no PCI; devices are on virtio-mmio")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Result<Args, (clap::Error, Exit)> {
        parse(
            std::iter::once("ringwall-vmm")
                .chain(line.split_whitespace())
                .map(Into::into),
        )
    }

    fn refused(line: &str) -> String {
        let (error, exit) = args(line).unwrap_err();
        assert_eq!(exit, Exit::BadUsage);
        error.to_string()
    }

    #[test]
    fn firecrackers_flags_are_taken() {
        let line = "--api-sock /tmp/s --id my-vm-1 --config-file /c --metadata /m --boot-timer --log-path /l --level wArN --module a \
                    --show-level --show-log-origin --metrics-path /x --http-api-max-payload-size 100 --mmds-size-limit 50 --no-seccomp \
                    --start-time-us 1 --start-time-cpu-us 2 --parent-cpu-time-us 3";
        let args = args(line).unwrap();
        assert_eq!(args.mode(), Mode::Run(Api::Path("/tmp/s".into())));
        assert_eq!(args.level, Some(Level::Warn));
        assert_eq!((args.max_body_bytes(), args.max_mmds_bytes()), (100, 50));
    }

    #[test]
    fn what_is_left_out_has_firecrackers_defaults() {
        assert_eq!(args("--no-paths").unwrap().page_fault_patience(), None);
        let args = args("").unwrap();
        assert_eq!(args.mode(), Mode::Run(Api::Path("/run/firecracker.socket".into())));
        assert_eq!(args.id.as_str(), "anonymous-instance");
        assert_eq!((args.max_body_bytes(), args.max_mmds_bytes()), (51_200, 51_200));
        assert_eq!(args.page_fault_patience(), Some(Duration::from_secs(30)));
        let never = super::tests::args("--page-fault-timeout 0").unwrap();
        assert_eq!(never.page_fault_patience(), None);
    }

    #[test]
    fn modes() {
        assert_eq!(args("--config-file /c --no-api").unwrap().mode(), Mode::Run(Api::None));
        assert_eq!(args("--api-fd 7").unwrap().mode(), Mode::Run(Api::Descriptor(7)));
        assert_eq!(args("--snapshot-version").unwrap().mode(), Mode::SnapshotVersion);
        assert_eq!(
            args("--describe-snapshot /s").unwrap().mode(),
            Mode::DescribeSnapshot("/s".into())
        );
        assert!(args("--prepared --require-hardware").unwrap().prepared);
        let pool = args("--prepared-for fd:4 --prepared-track-dirty --no-paths --kvm-fd 5").unwrap();
        assert_eq!(pool.prepared_for, Some("fd:4".into()));
        assert!(args("--prepared --prepared-track-dirty").is_ok());
        assert_eq!(args("--confine-to /a --confine-to /b").unwrap().confine_to.len(), 2);
    }

    #[test]
    fn bad_command_lines_are_refused_with_a_reason() {
        for (line, wanted) in [
            ("--no-api", "--config-file"),
            ("--no-api --config-file /c --api-sock /s", "--api-sock"),
            ("--id a_b", "letters, digits and hyphens"),
            ("--id é", "letters, digits and hyphens"),
            ("--level loud", "Off, Error"),
            ("--seccomp-filter /f", "part of this program"),
            ("--enable-pci", "there is no PCI"),
            ("--api-fd 2", "3..=65535"),
            ("--http-api-max-payload-size 0", "1..="),
            ("--page-fault-timeout 86401", "86400"),
            ("--page-fault-timeout 9 --no-paths", "--no-paths"),
            ("--prepared --config-file /c", "--config-file"),
            ("--prepared-for /s --config-file /c", "--config-file"),
            ("--prepared-track-dirty", "--prepared"),
            ("--no-paths --confine-to /d", "--confine-to"),
            ("--no-paths --no-landlock", "--no-landlock"),
            ("--kvm-fd 0", "3..=65535"),
            ("--start-time-us -1", "unexpected argument"),
            ("--other", "unexpected argument"),
            ("file", "unexpected argument"),
        ] {
            let text = refused(line);
            assert!(text.contains(wanted), "{line}: {text}");
        }
    }

    #[test]
    fn the_version_names_the_api() {
        let (error, exit) = args("--version").unwrap_err();
        assert_eq!(exit, Exit::Done);
        assert!(
            error
                .to_string()
                .contains(&format!("Firecracker v{}", ringwall_vmm_proto::API_VERSION)),
            "{error}"
        );
    }
}
