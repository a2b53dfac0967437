//! One step of a build: read, then done in a sandbox of its own, whose writable layer becomes the step's.

use std::time::Duration;

use ringwall_sandbox::service::Step;

use super::{Build, copy};
use crate::agent_process::{self, Command, Source};
use crate::ids;
use crate::keeper::{self, Keeper};
use crate::lifecycle::start::lowers;
use crate::record::Stack;

/// How long one command may take.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Longest line of a command's output that is held back for its end.
const MAX_PENDING_BYTES: usize = 4096;

/// A step understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    Run { command: String, user: Option<String> },
    Copy(copy::Copy),
    Env(Vec<(String, String)>),
    Workdir(String),
    User(String),
}

/// Reads a step.
pub(super) fn parse(step: &Step) -> Result<Parsed, String> {
    let argument = |index: usize| step.args.get(index).map(String::as_str).filter(|text| !text.is_empty());
    let needed = |index: usize, what: &str| {
        argument(index)
            .map(str::to_owned)
            .ok_or_else(|| format!("{}: {what} is missing", step.kind))
    };
    Ok(match step.kind.as_str() {
        "RUN" => Parsed::Run {
            command: needed(0, "the command")?,
            user: argument(1).map(str::to_owned),
        },
        "WORKDIR" => Parsed::Workdir(needed(0, "the directory")?),
        "USER" => Parsed::User(needed(0, "the user")?),
        "ENV" => {
            let mut variables = Vec::new();
            for pair in step.args.chunks(2) {
                match pair {
                    [name, value] if !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0') => {
                        variables.push((name.clone(), value.clone()));
                    }
                    _ => return Err(format!("ENV: {pair:?} is not a name and a value")),
                }
            }
            Parsed::Env(variables)
        }
        "COPY" => Parsed::Copy(copy::Copy {
            files: step.files.clone().ok_or("COPY: filesHash is missing")?,
            from: needed(0, "the source")?,
            to: needed(1, "the destination")?,
            user: argument(2).map(str::to_owned),
            mode: argument(3).map(copy::parse_mode).transpose()?,
        }),
        other => return Err(format!("{other:?} is no step: use RUN, COPY, ENV, WORKDIR or USER")),
    })
}

/// Does a step upon a stack; returns the new stack.
pub(super) async fn apply(build: &Build, mut stack: Stack, step: &Parsed, number: &str) -> Result<Stack, String> {
    match step {
        Parsed::Env(variables) => {
            stack.env.extend(variables.iter().cloned());
            Ok(stack)
        }
        Parsed::User(user) => {
            // Tried at once: a user that is not there must fail here and not in every sandbox.
            let bed = Bed::start(build, &stack).await?;
            let tried = bed.run("true", Some(user), None, number).await;
            bed.discard().await;
            tried?;
            stack.user = Some(user.clone());
            Ok(stack)
        }
        Parsed::Workdir(directory) => {
            let directory = absolute(&stack, directory);
            if let Some(layer) = copy::directory(build, &stack, &directory).await? {
                stack.layers.insert(0, layer);
            }
            stack.workdir = Some(directory);
            Ok(stack)
        }
        Parsed::Run { command, user } => changed(build, stack, number, command, user.as_deref()).await,
        Parsed::Copy(wanted) => {
            let to = absolute(&stack, &wanted.to);
            let layer = copy::copy(build, &stack, wanted, &to).await?;
            stack.layers.insert(0, layer);
            Ok(stack)
        }
    }
}

/// A path as seen from the working directory.
fn absolute(stack: &Stack, path: &str) -> String {
    if path.starts_with('/') {
        return path.to_owned();
    }
    let base = stack.workdir.as_deref().unwrap_or("/home/user");
    let path = path.strip_prefix("./").unwrap_or(path);
    format!("{}/{path}", base.trim_end_matches('/'))
}

/// Runs a command upon a stack and returns the stack with what it has written on top.
async fn changed(
    build: &Build,
    stack: Stack,
    number: &str,
    command: &str,
    user: Option<&str>,
) -> Result<Stack, String> {
    let bed = Bed::start(build, &stack).await?;
    let user = user.or(stack.user.as_deref());
    match bed.run(command, user, stack.workdir.as_deref(), number).await {
        Ok(()) => {
            let layer = bed.into_layer().await?;
            let mut stack = stack;
            stack.layers.insert(0, layer);
            Ok(stack)
        }
        Err(error) => {
            bed.discard().await;
            Err(error)
        }
    }
}

/// Starts a sandbox from the finished stack, so that a start command that fails fails the build.
pub(super) async fn try_start(build: &Build, stack: &Stack) -> Result<(), String> {
    let bed = Bed::start(build, stack).await?;
    let started = crate::lifecycle::start::start_commands(&build.inner, &bed.id, stack, None).await;
    bed.discard().await;
    started.map_err(|error| match error {
        ringwall_sandbox::service::ServiceError::Internal { what, cause } => format!("{what}: {cause}"),
        other => other.to_string(),
    })
}

/// A sandbox that a step runs in. It is in no record: after a crash it is a stranger and is removed.
struct Bed<'a> {
    build: &'a Build,
    id: String,
    keeper: Keeper,
    env: std::collections::BTreeMap<String, String>,
}

impl<'a> Bed<'a> {
    async fn start(build: &'a Build, stack: &Stack) -> Result<Self, String> {
        let inner = &build.inner;
        let id = ids::sandbox();
        let directory = inner.places.sandbox(&id);
        let started = async {
            let _turn = inner.starting.acquire().await.map_err(|error| error.to_string())?;
            keeper::start(
                &inner.places,
                &inner.config.executable,
                &id,
                lowers(inner, &stack.layers),
                stack.host_system,
                &inner.config.limits,
            )
            .await
        };
        match started.await {
            Ok(keeper) => Ok(Bed {
                build,
                id,
                keeper,
                env: stack.env.clone(),
            }),
            Err(error) => {
                drop(inner.places.discard(&directory));
                Err(format!("can't start the step's sandbox: {error}"))
            }
        }
    }

    async fn run(&self, text: &str, user: Option<&str>, cwd: Option<&str>, number: &str) -> Result<(), String> {
        let command = Command {
            text,
            user,
            cwd,
            env: self.env.clone(),
            token: None,
        };
        let directory = self.build.inner.places.sandbox(&self.id);
        let mut pending = [Vec::new(), Vec::new()];
        let mut last = String::new();
        let mut say = |level: &str, line: &[u8]| {
            let line = String::from_utf8_lossy(line);
            let line = line.trim_end_matches('\r');
            if !line.is_empty() {
                self.build.log(level, line, Some(number));
                last = line.to_owned();
            }
        };
        let code = agent_process::run(&directory, &command, PATIENCE, |source, bytes| {
            let (level, buffer) = match source {
                Source::Output => ("info", &mut pending[0]),
                Source::Error => ("warn", &mut pending[1]),
            };
            for &byte in bytes {
                if byte == b'\n' || buffer.len() >= MAX_PENDING_BYTES {
                    say(level, buffer);
                    buffer.clear();
                }
                if byte != b'\n' {
                    buffer.push(byte);
                }
            }
        })
        .await
        .map_err(|error| error.to_string())?;
        for (level, buffer) in ["info", "warn"].into_iter().zip(&pending) {
            say(level, buffer);
        }
        match code {
            0 => Ok(()),
            code if last.is_empty() => Err(format!("{text:?} exited with {code}")),
            code => Err(format!("{text:?} exited with {code}: {last}")),
        }
    }

    /// Ends the sandbox and makes a layer of what it has written.
    async fn into_layer(self) -> Result<String, String> {
        self.keeper.end().await;
        let places = &self.build.inner.places;
        let directory = places.sandbox(&self.id);
        let layer = ids::layer();
        std::fs::rename(directory.join("upper"), places.layer(&layer))
            .map_err(|error| format!("can't keep the layer: {error}"))?;
        drop(places.discard(&directory));
        Ok(layer)
    }

    async fn discard(self) {
        self.keeper.end().await;
        drop(
            self.build
                .inner
                .places
                .discard(&self.build.inner.places.sandbox(&self.id)),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(kind: &str, args: &[&str]) -> Step {
        Step {
            kind: kind.to_owned(),
            args: args.iter().map(|text| (*text).to_owned()).collect(),
            files: None,
            force: false,
        }
    }

    #[test]
    fn steps_are_read_or_refused() {
        let run = parse(&step("RUN", &["true", "root"])).unwrap();
        assert_eq!(
            run,
            Parsed::Run {
                command: "true".into(),
                user: Some("root".into())
            }
        );
        assert!(parse(&step("RUN", &[])).is_err());
        assert!(parse(&step("ENV", &["A"])).is_err());
        assert!(parse(&step("ENV", &["A=B", "c"])).is_err());
        assert!(parse(&step("COPY", &["a", "b"])).is_err());
        assert_eq!(
            parse(&step("ONBUILD", &["x"])).unwrap_err(),
            "\"ONBUILD\" is no step: use RUN, COPY, ENV, WORKDIR or USER"
        );
    }

    #[test]
    fn relative_paths_are_below_the_working_directory() {
        assert_eq!(absolute(&Stack::default(), "./x"), "/home/user/x");
    }
}
