//! Commands that work on a service's sandboxes. Their ids are checked by the service.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use ringwall_types::WallTime;

/// How a service is found; shown behind the help of every command that needs one.
pub(super) const WHERE: &str = "The service is the one at RINGWALL_URL (with RINGWALL_API_KEY), else at E2B_API_URL (with E2B_API_KEY), else this \
user's running `ringwall serve`. RINGWALL_CA_FILE names the authority (PEM) of an https:// URL that the system does not trust. Without any service, the command works on this machine's sandboxes by itself: they live on in processes of their own, and \
their time is looked at whenever some command or server runs (`ringwall gc` does nothing else).";

/// A variable or a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pair(pub(crate) String, pub(crate) String);

impl std::str::FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok(Pair(name.to_owned(), value.to_owned())),
            _ => Err("write it as NAME=VALUE".to_owned()),
        }
    }
}

/// Turns repeated flags into a map; the last of a name wins.
pub(crate) fn map(pairs: &[Pair]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|Pair(name, value)| (name.clone(), value.clone()))
        .collect()
}

#[derive(Debug, Args)]
#[command(after_help = WHERE)]
pub(crate) struct CreateArgs {
    /// What it starts from: a template's name or id, or a snapshot's id.
    #[arg(short, long, value_name = "NAME", default_value = "base")]
    pub(crate) template: String,
    /// How long it lives; left out, 1h without a server, and what the server says (5m) with one.
    #[arg(long, value_name = "TIME")]
    pub(crate) timeout: Option<WallTime>,
    /// Set a variable for everything that runs in it.
    #[arg(short, long, value_name = "K=V")]
    pub(crate) env: Vec<Pair>,
    /// Attach a label.
    #[arg(short, long, value_name = "K=V")]
    pub(crate) label: Vec<Pair>,
    /// Pause it when its time is up, instead of ending it.
    #[arg(long)]
    pub(crate) auto_pause: bool,
    /// Print the service's whole answer as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = WHERE)]
pub(crate) struct ExecArgs {
    /// Pass standard input on.
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal.
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Run it as this user.
    #[arg(short, long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Start it in this directory.
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// Set a variable.
    #[arg(short, long, value_name = "K=V")]
    pub(crate) env: Vec<Pair>,
    /// Kill it after this time; exits with 124 then.
    #[arg(long, value_name = "TIME")]
    pub(crate) timeout: Option<WallTime>,
    /// The sandbox.
    pub(crate) id: String,
    /// The command and its arguments.
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
#[command(after_help = WHERE)]
pub(crate) struct ShellArgs {
    /// The sandbox.
    pub(crate) id: String,
    /// Be this user.
    #[arg(short, long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Start in this directory.
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
}

/// What `cp` does, beyond one line.
const CP_HELP: &str = "One side is ID:PATH, the other a path here (write ./a:b for a name with a colon). A directory is copied with all below it: \
into DST if DST is a directory, as DST otherwise; SRC/. copies what it holds. `-` is standard input or output, for one file.\n\n\
Kept are contents, permission bits and symbolic links (as links); not owners and times. Devices, sockets and pipes are left out, with a note.";

#[derive(Debug, Args)]
#[command(after_help = WHERE, after_long_help = format!("{CP_HELP}\n\n{WHERE}"))]
pub(crate) struct CpArgs {
    /// From where: ID:PATH, a path here, or - for standard input.
    pub(crate) from: String,
    /// To where: ID:PATH, a path here, or - for standard output.
    pub(crate) to: String,
    /// Whose home relative paths in the sandbox start from.
    #[arg(short, long, value_name = "USER")]
    pub(crate) user: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = WHERE)]
pub(crate) struct IdArgs {
    /// The sandbox.
    pub(crate) id: String,
}

#[derive(Debug, Args)]
#[command(after_help = WHERE)]
pub(crate) struct ResumeArgs {
    /// The sandbox.
    pub(crate) id: String,
    /// How long it lives from now on; never shortens the life of one that runs.
    #[arg(long, value_name = "TIME")]
    pub(crate) timeout: Option<WallTime>,
    /// Print the service's whole answer as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, after_help = WHERE)]
pub(crate) struct SnapshotArgs {
    #[command(subcommand)]
    pub(crate) command: Option<SnapshotCommand>,
    /// The sandbox; its files are kept, its processes start anew.
    #[arg(required = true)]
    pub(crate) id: Option<String>,
    /// A name for the snapshot.
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// List snapshots.
    Ls {
        /// Only those of this sandbox.
        #[arg(long, value_name = "ID")]
        sandbox: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove snapshots.
    Rm {
        /// Which.
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

#[derive(Debug, Args)]
#[command(after_help = WHERE)]
pub(crate) struct ForkArgs {
    /// The sandbox; its copies have its files, and processes of their own.
    pub(crate) id: String,
    /// How many copies.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1)]
    pub(crate) count: usize,
    /// How long each copy lives.
    #[arg(long, value_name = "TIME")]
    pub(crate) timeout: Option<WallTime>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = WHERE)]
pub(crate) struct KillArgs {
    /// The sandboxes: names of `ringwall run`, or ids.
    #[arg(required_unless_present = "all")]
    pub(crate) names: Vec<ringwall_types::SandboxName>,
    /// End all sandboxes of the service (not those of `ringwall run`).
    #[arg(short, long, conflicts_with = "names")]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
#[command(after_help = WHERE)]
pub(crate) struct LogsArgs {
    /// The sandbox: a name of `ringwall run --log`, or an id.
    pub(crate) name: ringwall_types::SandboxName,
    /// Print a service's lines as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = WHERE)]
pub(crate) struct PortArgs {
    /// The sandbox.
    pub(crate) id: String,
    /// The port inside.
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: u16,
    /// Listen here and pass connections on until interrupted; port 0 takes a free one. To sandboxes of this machine any TCP passes, to
    /// those of a server elsewhere HTTP and WebSockets.
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = parse_listen)]
    pub(crate) forward: Option<SocketAddr>,
    /// Print JSON.
    #[arg(long, conflicts_with = "forward")]
    pub(crate) json: bool,
}

fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let address = match text.parse::<u16>() {
        Ok(port) => Ok(SocketAddr::from(([127, 0, 0, 1], port))),
        Err(_) => text.replace("localhost:", "127.0.0.1:").parse(),
    };
    address.map_err(|_| "write it as PORT or ADDRESS:PORT".to_owned())
}

#[derive(Debug, Args)]
#[command(after_help = WHERE)]
pub(crate) struct TemplateArgs {
    #[command(subcommand)]
    pub(crate) command: TemplateCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TemplateCommand {
    /// List templates.
    Ls {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove templates.
    Rm {
        /// Names or ids.
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Show everything known about a template, as JSON.
    Inspect {
        /// Name or id.
        name: String,
    },
    /// Build a template.
    Build(Box<BuildArgs>),
}

/// What `template build` does, beyond one line.
const BUILD_HELP: &str = "Steps given by flags are done in this order: --env, --user, --workdir, --copy, --run. Of a Dockerfile these are understood: \
FROM, RUN, COPY (with --chmod), ENV, WORKDIR, USER, CMD and ENTRYPOINT (the start command); EXPOSE and LABEL change nothing. Anything else, and \
variables in it, are refused. Paths are relative to the Dockerfile's directory (to the current one for --copy); .dockerignore is not read.";

/// Flags of a build that has steps.
const STEPS: [&str; 7] = ["env", "user", "workdir", "copy", "run", "start", "ready"];

#[derive(Debug, Args)]
#[command(after_help = WHERE, after_long_help = format!("{BUILD_HELP}\n\n{WHERE}"))]
pub(crate) struct BuildArgs {
    /// The template's name.
    #[arg(short, long, value_name = "NAME")]
    pub(crate) name: String,
    /// Start from an image of a registry.
    #[arg(long, value_name = "IMAGE", group = "base")]
    pub(crate) from: Option<String>,
    /// Start from a template.
    #[arg(long, value_name = "NAME", group = "base")]
    pub(crate) from_template: Option<String>,
    /// Make it of a root file system's archive (tar, plain, gzip or zstd); no steps.
    #[arg(long, value_name = "FILE", group = "base", conflicts_with_all = STEPS)]
    pub(crate) from_tar: Option<PathBuf>,
    /// Make it of a directory that holds a root file system; no steps. Its files become root's.
    #[arg(long, value_name = "DIR", group = "base", conflicts_with_all = STEPS)]
    pub(crate) from_dir: Option<PathBuf>,
    /// Read base and steps from a Dockerfile.
    #[arg(short, long, value_name = "FILE", group = "base", conflicts_with_all = ["env", "user", "workdir", "copy", "run"])]
    pub(crate) file: Option<PathBuf>,
    /// Set a variable.
    #[arg(short, long, value_name = "K=V", help_heading = "Steps")]
    pub(crate) env: Vec<Pair>,
    /// Who runs things.
    #[arg(short, long, value_name = "USER", help_heading = "Steps")]
    pub(crate) user: Option<String>,
    /// Where things start.
    #[arg(short, long, value_name = "DIR", help_heading = "Steps")]
    pub(crate) workdir: Option<String>,
    /// Copy a file or directory in.
    #[arg(long, value_name = "SRC:DST", value_parser = parse_copy, help_heading = "Steps")]
    pub(crate) copy: Vec<(PathBuf, String)>,
    /// Run a shell command.
    #[arg(long, value_name = "COMMAND", help_heading = "Steps")]
    pub(crate) run: Vec<String>,
    /// What every sandbox of it runs in the background.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) start: Option<String>,
    /// Succeeds once the start command is ready.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) ready: Option<String>,
    /// Do every step anew.
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Print JSON when done.
    #[arg(long)]
    pub(crate) json: bool,
}

fn parse_copy(text: &str) -> Result<(PathBuf, String), String> {
    match text.rsplit_once(':') {
        Some((from, to)) if !from.is_empty() && !to.is_empty() => Ok((PathBuf::from(from), to.to_owned())),
        _ => Err("write it as SRC:DST".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_or_refused() {
        assert_eq!("A=b=c".parse::<Pair>().unwrap(), Pair("A".into(), "b=c".into()));
        assert!("=b".parse::<Pair>().is_err() && "A".parse::<Pair>().is_err());
        assert_eq!(parse_listen("80").unwrap().to_string(), "127.0.0.1:80");
        assert_eq!(parse_listen("localhost:80").unwrap().to_string(), "127.0.0.1:80");
        assert_eq!(parse_listen("[::1]:0").unwrap().to_string(), "[::1]:0");
        assert!(parse_listen("x").is_err() && parse_listen("70000").is_err());
        assert_eq!(parse_copy("a:b:/c").unwrap(), ("a:b".into(), "/c".to_owned()));
        assert!(parse_copy("a:").is_err());
    }
}
