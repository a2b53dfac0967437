//! `ringwall template build`: plan (flags or Dockerfile), upload what COPY needs, start the build, follow its log.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use super::dockerfile::{self, Instruction};
use super::{context, import};
use crate::args::{BuildArgs, Pair};
use crate::failure::Failure;
use crate::remote::wire::{Announced, BuildStatus, Step, UploadPlace};
use crate::remote::{self, Service, reading};
use crate::ui::{self, Progress};

/// How often a build is asked how it goes.
const PAUSE: Duration = Duration::from_millis(200);
/// Lines of its log asked for at a time.
const LINES: usize = 500;
/// Exit code of a build that failed: a step's fault, not ours.
const BUILD_FAILED: u8 = 1;
/// Template to start from when nothing is said.
const DEFAULT_BASE: &str = "base";

/// What to build.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) base: Option<Base>,
    pub(super) steps: Vec<Planned>,
    pub(super) start: Option<String>,
}

/// What to start from.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Base {
    Image(String),
    Template(String),
}

/// A step, with what it needs from here.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Planned {
    Plain {
        kind: &'static str,
        args: Vec<String>,
    },
    Copy {
        from: PathBuf,
        to: String,
        mode: Option<String>,
    },
}

impl Planned {
    pub(super) fn new<const N: usize>(kind: &'static str, args: [&str; N]) -> Self {
        Planned::Plain {
            kind,
            args: args.map(str::to_owned).to_vec(),
        }
    }
}

/// Builds.
pub(super) fn execute(args: BuildArgs) -> Result<ExitCode, Failure> {
    if args.from_tar.is_some() || args.from_dir.is_some() {
        return import::execute(&args);
    }
    let mut plan = match &args.file {
        Some(file) => from_dockerfile(file)?,
        None => from_flags(&args),
    };
    if args.start.is_some() {
        plan.start = args.start.clone();
    }
    remote::run(async |service| {
        if let Some(host) = service.host() {
            host.open_to_others();
        }
        build(service, &args, plan).await
    })
}

fn from_flags(args: &BuildArgs) -> Plan {
    let base = match (&args.from, &args.from_template) {
        (Some(image), _) => Base::Image(image.clone()),
        (None, Some(template)) => Base::Template(template.clone()),
        (None, None) => Base::Template(DEFAULT_BASE.to_owned()),
    };
    let mut steps = Vec::new();
    for Pair(name, value) in &args.env {
        steps.push(Planned::new("ENV", [name, value]));
    }
    steps.extend(args.user.as_ref().map(|user| Planned::new("USER", [user])));
    steps.extend(args.workdir.as_ref().map(|path| Planned::new("WORKDIR", [path])));
    steps.extend(args.copy.iter().map(|(from, to)| Planned::Copy {
        from: from.clone(),
        to: to.clone(),
        mode: None,
    }));
    steps.extend(args.run.iter().map(|command| Planned::new("RUN", [command])));
    Plan {
        base: Some(base),
        steps,
        start: None,
    }
}

fn from_dockerfile(file: &Path) -> Result<Plan, Failure> {
    let text =
        fs::read_to_string(file).map_err(|error| Failure::usage(format!("can't read {}: {error}", file.display())))?;
    let bad = |error: dockerfile::ParseError| Failure::usage(format!("{}: {error}", file.display()));
    let context = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut plan = Plan::default();
    let (mut command, mut entrypoint) = (None, None);
    for instruction in dockerfile::parse(&text).map_err(bad)? {
        match instruction {
            Instruction::From(image) => plan.base = Some(Base::Image(image)),
            Instruction::Run(script) => plan.steps.push(Planned::new("RUN", [&script])),
            Instruction::Env(pairs) => {
                for (name, value) in pairs {
                    plan.steps.push(Planned::new("ENV", [&name, &value]));
                }
            }
            Instruction::Workdir(path) => plan.steps.push(Planned::new("WORKDIR", [&path])),
            Instruction::User(user) => plan.steps.push(Planned::new("USER", [&user])),
            Instruction::Copy { from, to, mode } => {
                for from in from {
                    let path = context.join(from.trim_start_matches('/'));
                    plan.steps.push(Planned::Copy {
                        from: path,
                        to: to.clone(),
                        mode: mode.clone(),
                    });
                }
            }
            Instruction::Command(words) => command = Some(words),
            Instruction::Entrypoint(words) => entrypoint = Some(words),
            Instruction::Nothing(name) => ui::note(&format!("{name} changes nothing here")),
        }
    }
    plan.start = match (entrypoint, command) {
        (Some(entrypoint), Some(command)) => Some(format!("{entrypoint} {command}")),
        (entrypoint, command) => entrypoint.or(command),
    };
    Ok(plan)
}

async fn build(service: &Service, args: &BuildArgs, plan: Plan) -> Result<ExitCode, Failure> {
    let body = json!({ "name": args.name });
    let (_, announced): (_, Announced) = service.post("a new template", "/v3/templates", &body).await?;
    let template = remote::encode(&announced.template_id);
    let progress = Progress::begin(&format!("building {}", args.name));
    let mut steps = Vec::with_capacity(plan.steps.len());
    for step in plan.steps {
        steps.push(match step {
            Planned::Plain { kind, args: words } => Step {
                kind,
                args: words,
                files_hash: None,
                force: args.no_cache,
            },
            Planned::Copy { from, to, mode } => {
                let (name, hash) = upload(service, &template, &from, &progress).await?;
                Step {
                    kind: "COPY",
                    args: vec![name, to, String::new(), mode.unwrap_or_default()],
                    files_hash: Some(hash),
                    force: args.no_cache,
                }
            }
        });
    }
    let mut body = json!({ "steps": steps, "force": args.no_cache });
    match plan.base {
        Some(Base::Image(image)) => body["fromImage"] = image.into(),
        Some(Base::Template(template)) => body["fromTemplate"] = template.into(),
        None => return Err(Failure::usage("there is no FROM")),
    }
    if let Some(start) = plan.start {
        body["startCmd"] = start.into();
    }
    if let Some(ready) = &args.ready {
        body["readyCmd"] = ready.clone().into();
    }
    let build = remote::encode(&announced.build_id);
    service
        .order(&format!("/v2/templates/{template}/builds/{build}"), &body)
        .await?;
    let ended = follow(service, &template, &build, &progress).await;
    progress.end();
    let (status, last) = ended?;
    if status.status != "ready" {
        let mut text = format!("the build of {} failed", args.name);
        // Most often the log has just said it.
        match status.reason {
            Some(reason) if reason.message != last => text.push_str(&format!(": {}", reason.message)),
            _ => {}
        }
        return Err(Failure {
            code: BUILD_FAILED,
            ..Failure::own(text)
        });
    }
    if args.json {
        ui::json(&json!({
            "name": args.name, "templateID": announced.template_id, "buildID": announced.build_id, "status": status.status,
        }))?;
    } else {
        ui::line(&announced.template_id);
    }
    Ok(ExitCode::SUCCESS)
}

/// Sees to it that the service has a file or directory; returns its name in the archive, and the archive's hash.
async fn upload(
    service: &Service,
    template: &str,
    from: &Path,
    progress: &Progress,
) -> Result<(String, String), Failure> {
    let path = from.to_owned();
    let packed = tokio::task::spawn_blocking(move || context::pack(&path))
        .await
        .map_err(Failure::own)??;
    let place: UploadPlace = service
        .get(
            "a question about files",
            &format!("/templates/{template}/files/{}", packed.hash),
        )
        .await?;
    if let (false, Some(url)) = (place.present, place.url) {
        progress.say(&format!("uploading {} ({} bytes)", from.display(), packed.length));
        service.put(&url, packed.length, reading(packed.archive)).await?;
    }
    Ok((packed.name, packed.hash))
}

/// Shows the log until the build is over; also returns its last line.
async fn follow(
    service: &Service,
    template: &str,
    build: &str,
    progress: &Progress,
) -> Result<(BuildStatus, String), Failure> {
    let mut shown = 0;
    let mut last = String::new();
    loop {
        let path = format!("/templates/{template}/builds/{build}/status?logsOffset={shown}&limit={LINES}");
        let status: BuildStatus = service.get("a question about a build", &path).await?;
        shown += status.log_entries.len();
        for line in &status.log_entries {
            progress.say(&line.message);
        }
        if let Some(line) = status.log_entries.last() {
            last.clone_from(&line.message);
        }
        let is_over = matches!(status.status.as_str(), "ready" | "error");
        // All of the log first: its end says why.
        if is_over && status.log_entries.is_empty() {
            return Ok((status, last));
        }
        if status.log_entries.len() < LINES && !is_over {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dockerfile_becomes_a_plan() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("Dockerfile");
        fs::write(&file, "FROM x\nCOPY a /b/ /to/\nENTRYPOINT [\"run me\"]\nCMD --x\n").unwrap();
        let plan = from_dockerfile(&file).unwrap();
        assert_eq!(plan.base, Some(Base::Image("x".into())));
        assert_eq!(plan.start.as_deref(), Some("'run me' --x"));
        let from: Vec<_> = plan
            .steps
            .iter()
            .map(|step| match step {
                Planned::Copy { from, .. } => from.clone(),
                Planned::Plain { .. } => panic!("not a copy"),
            })
            .collect();
        assert_eq!(from, [directory.path().join("a"), directory.path().join("b/")]);
    }
}
