//! The command line as typed. Values are parsed here; what they mean together is checked by the policy.

mod service;

use std::ffi::OsString;
use std::path::PathBuf;

pub(crate) use service::*;

use clap::{Args, Parser, Subcommand};
use ringwall_policy::{Changes, EnvOverride, Mount, NetworkMode, Overrides};
use ringwall_types::{ByteSize, CpuShare, Isolation, LimitKind, SandboxName, Tier, WallTime};

/// Runs untrusted programs in the strongest sandbox that this machine has.
#[derive(Debug, Parser)]
#[command(name = "ringwall", version, about, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a command in a sandbox.
    Run(Box<RunArgs>),
    /// Show what a sandbox changed.
    Diff(DiffArgs),
    /// Apply what a sandbox changed.
    Commit(CommitArgs),
    /// Throw away what a sandbox changed.
    Discard(NameArgs),
    /// Make a sandbox that stays, and print its id.
    Create(CreateArgs),
    /// Run a command in a sandbox made by `create`.
    Exec(Box<ExecArgs>),
    /// Open a shell in a sandbox.
    Shell(ShellArgs),
    /// Copy files to or from a sandbox.
    Cp(CpArgs),
    /// List sandboxes: those of `run`, and the service's.
    Ps(PsArgs),
    /// Freeze a sandbox.
    Pause(IdArgs),
    /// Let a paused sandbox go on.
    Resume(ResumeArgs),
    /// Keep a sandbox's files as something to start from.
    Snapshot(SnapshotArgs),
    /// Make copies of a sandbox.
    Fork(ForkArgs),
    /// Say where a sandbox's port is reached, or forward it.
    Port(PortArgs),
    /// Build, list and remove templates.
    Template(TemplateArgs),
    /// Show everything known about a sandbox.
    Inspect(NameArgs),
    /// End sandboxes.
    Kill(KillArgs),
    /// Print what is logged of a sandbox: the output of `run --log`, or what happened to one of the service.
    Logs(LogsArgs),
    /// Remove what crashes left over.
    Gc(GcArgs),
    /// Serve sandboxes to E2B clients.
    Serve(ServeArgs),
    /// Make, list and remove API keys.
    Key(KeyArgs),
    /// Hold one sandbox; started by `serve`.
    #[command(hide = true)]
    Keeper,
    /// Print the description of the REST API.
    #[command(hide = true)]
    Openapi,
    /// Say what this machine offers, and what would help.
    Doctor(DoctorArgs),
    /// Work with policies.
    Policy(PolicyArgs),
    /// Write man pages into a directory.
    #[command(hide = true)]
    Man {
        /// The directory.
        dir: PathBuf,
    },
    /// Print shell completions.
    #[command(hide = true)]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) policy: PolicyFlags,
    /// Write a JSON report to FILE when the run ends (- for standard error: standard output is the program's).
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) report: Option<PathBuf>,
    /// Also store the output, for `ringwall logs`.
    #[arg(long, help_heading = "Output")]
    pub(crate) log: bool,
    /// Print nothing about the run itself.
    #[arg(short, long, help_heading = "Output")]
    pub(crate) quiet: bool,
    /// The command and its arguments.
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// Flags that make up a policy; `run` and `policy show` have the same.
#[derive(Debug, Args)]
pub(crate) struct PolicyFlags {
    /// Read the policy from a TOML file; flags override it.
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    /// The tier: auto, namespace or landlock.
    #[arg(long, value_name = "TIER", help_heading = "Isolation")]
    isolation: Option<Isolation>,
    /// Refuse to run in a weaker tier than this.
    #[arg(long, value_name = "TIER", help_heading = "Isolation")]
    min_isolation: Option<Tier>,
    /// The network: none, or the host's.
    #[arg(long, value_name = "MODE", value_parser = parse_network, help_heading = "Isolation")]
    net: Option<NetworkMode>,
    /// Give the program a terminal of its own.
    #[arg(short, long, help_heading = "Isolation")]
    tty: bool,
    /// What becomes of writes: keep, commit (if it exits 0), discard, or none (read-only).
    #[arg(long, value_name = "HOW", value_parser = parse_changes, help_heading = "Changes")]
    changes: Option<Changes>,
    /// Keep the changes under this name; continue there if it exists.
    #[arg(long, value_name = "NAME", help_heading = "Changes")]
    name: Option<SandboxName>,
    /// Show a path read-only.
    #[arg(long, value_name = "PATH", help_heading = "Files")]
    read: Vec<PathBuf>,
    /// Show a path writable: writes go straight to the host.
    #[arg(long, value_name = "PATH", help_heading = "Files")]
    write: Vec<PathBuf>,
    /// Hide a path.
    #[arg(long, value_name = "PATH", help_heading = "Files")]
    deny: Vec<PathBuf>,
    /// Show a path elsewhere.
    #[arg(long, value_name = "HOST:GUEST[:ro]", value_parser = parse_mount, help_heading = "Files")]
    mount: Vec<Mount>,
    /// Use an unpacked root file system in place of the host's.
    #[arg(long, value_name = "DIR", help_heading = "Files")]
    rootfs: Option<PathBuf>,
    /// Start the command in this directory.
    #[arg(short, long, value_name = "DIR", help_heading = "Files")]
    workdir: Option<PathBuf>,
    /// Don't show tools below the home directory.
    #[arg(long, help_heading = "Files")]
    no_home_tools: bool,
    /// Set a variable (K=V), or pass the caller's through (K).
    #[arg(short, long, value_name = "K[=V]", value_parser = parse_env, help_heading = "Environment")]
    env: Vec<EnvOverride>,
    /// Memory of all processes together, such as 512M.
    #[arg(short, long, value_name = "SIZE", help_heading = "Limits")]
    memory: Option<ByteSize>,
    /// CPUs, such as 1.5.
    #[arg(long, value_name = "N", help_heading = "Limits")]
    cpus: Option<CpuShare>,
    /// Processes and threads alive at once.
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pids: Option<u32>,
    /// Open files of one process.
    #[arg(long, value_name = "N", help_heading = "Limits")]
    files: Option<u32>,
    /// Bytes the sandbox may add, such as 1G.
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    disk: Option<ByteSize>,
    /// Wall time, such as 30s.
    #[arg(long, value_name = "TIME", help_heading = "Limits")]
    timeout: Option<WallTime>,
    /// Accept a weaker mechanism for a limit: memory, cpus, pids or disk.
    #[arg(long, value_name = "LIMIT", help_heading = "Limits")]
    allow_degraded: Vec<LimitKind>,
}

#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// The sandbox.
    pub(crate) name: SandboxName,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// The sandbox; or, with another behind it, a sandbox or snapshot of the service.
    pub(crate) name: SandboxName,
    /// Compare the files of the first with this sandbox or snapshot of the service.
    #[arg(conflicts_with_all = ["stat", "patch"])]
    pub(crate) other: Option<SandboxName>,
    /// Show how much changed in each file.
    #[arg(long, conflicts_with = "patch")]
    pub(crate) stat: bool,
    /// Show the changes as a unified diff.
    #[arg(long)]
    pub(crate) patch: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CommitArgs {
    /// The sandbox.
    pub(crate) name: SandboxName,
    /// Apply even where the target changed meanwhile.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
#[command(after_help = WHERE)]
pub(crate) struct PsArgs {
    /// Also list what is not running: ended, and paused.
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// Only say what would be removed, and why that is safe.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Where to listen. Anywhere but on loopback everybody who can reach it can try keys.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:3000")]
    pub(crate) listen: std::net::SocketAddr,
    /// Under what name sandboxes' ports are reached: PORT-ID.DOMAIN.
    #[arg(long, value_name = "DOMAIN[:PORT]")]
    pub(crate) domain: Option<String>,
    /// Speak TLS: the server's certificate and those that signed it, PEM. Read again at SIGHUP.
    #[arg(long, value_name = "FILE", requires = "tls_key", help_heading = "TLS")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The certificate's private key, PEM, without a passphrase.
    #[arg(long, value_name = "FILE", requires = "tls_cert", help_heading = "TLS")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Directory of everything that is kept.
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Sandboxes of the default template kept ready; 0 for none.
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(crate) pool: usize,
    /// Most sandboxes at once.
    #[arg(long, value_name = "N", default_value_t = 2000)]
    pub(crate) max_sandboxes: usize,
    /// Most connections at once.
    #[arg(long, value_name = "N", default_value_t = 8192)]
    pub(crate) max_connections: usize,
    /// Requests of one key each second.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) rate: u32,
    /// Longest life of a sandbox that a caller may ask for.
    #[arg(long, value_name = "TIME", default_value = "24h")]
    pub(crate) max_timeout: WallTime,
    /// Speak to this image registry without TLS (HOST:PORT); loopback needs no leave.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) plain_http_registry: Vec<String>,
    /// Memory of each sandbox, such as 512M.
    #[arg(short, long, value_name = "SIZE", help_heading = "Limits of each sandbox")]
    pub(crate) memory: Option<ByteSize>,
    /// CPUs of each sandbox.
    #[arg(long, value_name = "N", help_heading = "Limits of each sandbox")]
    pub(crate) cpus: Option<CpuShare>,
    /// Processes and threads of each sandbox.
    #[arg(long, value_name = "N", help_heading = "Limits of each sandbox")]
    pub(crate) pids: Option<u32>,
    /// Bytes that each sandbox may add.
    #[arg(long, value_name = "SIZE", help_heading = "Limits of each sandbox")]
    pub(crate) disk: Option<ByteSize>,
    /// Accept a weaker mechanism for a limit.
    #[arg(long, value_name = "LIMIT", help_heading = "Limits of each sandbox")]
    pub(crate) allow_degraded: Vec<LimitKind>,
}

#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    #[command(subcommand)]
    pub(crate) command: KeyCommand,
    /// Directory of the server's state.
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) state: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key and print it; it is stored nowhere.
    Create {
        /// What to call it.
        name: String,
    },
    /// List the keys.
    Ls,
    /// Remove a key by name or id.
    Rm {
        /// Which.
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    pub(crate) command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Print the effective policy of a command line, ready to be saved.
    Show(Box<ShowArgs>),
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    pub(crate) policy: PolicyFlags,
    /// A command, as of `ringwall run`; not looked at.
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// Parses the process's command line.
pub(crate) fn parse() -> Result<Cli, clap::Error> {
    Cli::try_parse()
}

impl PolicyFlags {
    /// Returns the flags as overrides of a policy; the policy file, if any, is the caller's to load.
    pub(crate) fn into_overrides(self) -> Overrides {
        Overrides {
            isolation: self.isolation,
            min_isolation: self.min_isolation,
            changes: self.changes,
            name: self.name,
            tty: self.tty.then_some(true),
            read: self.read,
            write: self.write,
            deny: self.deny,
            mounts: self.mount,
            rootfs: self.rootfs,
            workdir: self.workdir,
            home_tools: self.no_home_tools.then_some(false),
            network: self.net,
            env: self.env,
            memory: self.memory,
            cpus: self.cpus,
            pids: self.pids,
            files: self.files,
            disk: self.disk,
            timeout: self.timeout,
            allow_degraded: self.allow_degraded.into_iter().collect(),
        }
    }
}

fn parse_network(word: &str) -> Result<NetworkMode, String> {
    match word {
        "none" => Ok(NetworkMode::None),
        "host" => Ok(NetworkMode::Host),
        _ => Err("use none or host".to_owned()),
    }
}

fn parse_changes(word: &str) -> Result<Changes, String> {
    match word {
        "keep" => Ok(Changes::Keep),
        "commit" => Ok(Changes::Commit),
        "discard" => Ok(Changes::Discard),
        "none" => Ok(Changes::None),
        _ => Err("use keep, commit, discard or none".to_owned()),
    }
}

fn parse_mount(text: &str) -> Result<Mount, ringwall_policy::ParseMountError> {
    Mount::parse(text.as_ref())
}

fn parse_env(text: &str) -> Result<EnvOverride, ringwall_policy::CheckPolicyError> {
    let parsed = match text.split_once('=') {
        Some((name, value)) => EnvOverride::Set {
            name: name.to_owned(),
            value: value.to_owned(),
        },
        None => EnvOverride::Pass { name: text.to_owned() },
    };
    let (EnvOverride::Set { name, .. } | EnvOverride::Pass { name }) = &parsed;
    ringwall_policy::check_env_name(name)?;
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_behind_the_command_are_its_own() {
        let cli = Cli::try_parse_from(["ringwall", "run", "-t", "ls", "-t", "--name", "X"]).unwrap();
        let Command::Run(args) = cli.command else {
            panic!("not run")
        };
        assert_eq!(args.command, ["ls", "-t", "--name", "X"]);
        assert!(args.policy.tty && args.policy.name.is_none());
    }
}
