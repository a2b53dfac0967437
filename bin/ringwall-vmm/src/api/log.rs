//! `PUT /logger`: the log while the program runs. [`Log`] is a cheap clone; one is installed for all of the program's events, the others change it.

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, RwLock};

use ringwall_vmm_proto::{Level, Logger};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;

use super::output::{OpenOutputError, Output};

/// How the log is written.
#[derive(Debug, Clone)]
struct Settings {
    /// Standard error if none.
    output: Option<Arc<Output>>,
    level: Level,
    shows_level: bool,
    shows_origin: bool,
    module: Option<String>,
}

/// The log. Its settings may be changed at any time, from any thread.
#[derive(Debug, Clone)]
pub struct Log {
    settings: Arc<RwLock<Settings>>,
    id: Arc<str>,
}

impl Log {
    /// A log to standard error, of lines from `level` on. Each line has the instance's `id`.
    pub fn new(id: &str, level: Level) -> Self {
        let settings = Settings {
            output: None,
            level,
            shows_level: false,
            shows_origin: false,
            module: None,
        };
        Self {
            settings: Arc::new(RwLock::new(settings)),
            id: id.into(),
        }
    }

    /// Sends the program's events here from now on. For `tracing::subscriber::set_global_default`.
    pub fn subscriber(&self) -> impl Subscriber + Send + Sync + use<> {
        let filter = self.clone();
        // Dynamic: what is enabled isn't remembered for each place that logs, since it may change.
        let filter = dynamic_filter_fn(move |metadata, _| filter.takes(metadata));
        let lines = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .event_format(self.clone())
            .with_writer(self.clone());
        tracing_subscriber::registry().with(lines.with_filter(filter))
    }

    /// Changes what `change` says; the rest stays.
    ///
    /// # Errors
    /// The new output can't be opened; nothing is changed then.
    pub fn change(&self, change: &Logger) -> Result<(), OpenOutputError> {
        let path = change.log_path.as_ref().map(|path| PathBuf::from(path.as_path()));
        let output = path.map(|path| Output::open(&path)).transpose()?;
        // Poisoned: somebody panicked while logging. The settings are whole all the same.
        let mut settings = self.settings.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(output) = output {
            settings.output = Some(Arc::new(output));
        }
        settings.level = change.level.unwrap_or(settings.level);
        settings.shows_level = change.show_level.unwrap_or(settings.shows_level);
        settings.shows_origin = change.show_log_origin.unwrap_or(settings.shows_origin);
        if change.module.is_some() {
            settings.module.clone_from(&change.module);
        }
        Ok(())
    }

    fn takes(&self, metadata: &Metadata<'_>) -> bool {
        self.with(|settings| {
            let is_severe = rank(settings.level) >= severity(metadata.level());
            let module = settings.module.as_deref();
            is_severe && module.is_none_or(|module| metadata.target().starts_with(module))
        })
    }

    fn with<T>(&self, look: impl FnOnce(&Settings) -> T) -> T {
        look(&self.settings.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

/// How much is written: 0 is nothing.
const fn rank(level: Level) -> u8 {
    match level {
        Level::Off => 0,
        Level::Error => 1,
        Level::Warn => 2,
        Level::Info => 3,
        Level::Debug => 4,
        Level::Trace => 5,
    }
}

const fn severity(level: &tracing::Level) -> u8 {
    match *level {
        tracing::Level::ERROR => 1,
        tracing::Level::WARN => 2,
        tracing::Level::INFO => 3,
        tracing::Level::DEBUG => 4,
        tracing::Level::TRACE => 5,
    }
}

/// `TIME [ID:THREAD:LEVEL:ORIGIN] TEXT`: Firecracker's form, with the parts that were asked for.
impl<S, N> FormatEvent<S, N> for Log
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        SystemTime.format_time(&mut writer)?;
        let thread = std::thread::current();
        write!(writer, " [{}:{}", self.id, thread.name().unwrap_or("?"))?;
        let (shows_level, shows_origin) = self.with(|settings| (settings.shows_level, settings.shows_origin));
        let metadata = event.metadata();
        if shows_level {
            write!(writer, ":{}", metadata.level())?;
        }
        if shows_origin {
            write!(
                writer,
                ":{}:{}",
                metadata.file().unwrap_or("?"),
                metadata.line().unwrap_or(0)
            )?;
        }
        write!(writer, "] ")?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// One event's way out.
#[derive(Debug)]
pub struct LineWriter(Option<Arc<Output>>);

impl Write for LineWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match &self.0 {
            Some(output) => output.write_line(line),
            // Nobody is left to tell if standard error is closed.
            None => drop(io::stderr().write_all(line)),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = LineWriter;

    fn make_writer(&'a self) -> LineWriter {
        LineWriter(self.with(|settings| settings.output.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringwall_vmm_proto::{Action, Method, parse};

    fn change(log: &Log, body: &serde_json::Value) -> Result<(), OpenOutputError> {
        let request = parse(Method::Put, "/logger", body.to_string().as_bytes()).unwrap();
        let Action::SetLogger(logger) = request.action else {
            panic!()
        };
        log.change(&logger)
    }

    #[test]
    fn the_log_is_changed_while_it_is_used() {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = (directory.path().join("1"), directory.path().join("2"));
        let log = Log::new("vm-1", Level::Info);
        change(&log, &serde_json::json!({ "log_path": first })).unwrap();
        tracing::subscriber::with_default(log.subscriber(), || {
            let say = |text: &str| {
                tracing::info!(number = 7, "{text}");
                tracing::debug!("{text} in detail");
            };
            say("one");
            change(&log, &serde_json::json!({ "level": "Debug", "show_level": true })).unwrap();
            say("two");
            assert!(
                change(
                    &log,
                    &serde_json::json!({ "log_path": "/no/such/directory/log", "level": "Off" })
                )
                .is_err()
            );
            change(
                &log,
                &serde_json::json!({ "log_path": second, "show_log_origin": true, "level": "info" }),
            )
            .unwrap();
            say("three");
            change(&log, &serde_json::json!({ "module": "another_module" })).unwrap();
            say("four");
        });
        let first = std::fs::read_to_string(first).unwrap();
        let texts: Vec<&str> = first.lines().map(|line| line.split_once(' ').unwrap().1).collect();
        let thread = std::thread::current();
        let thread = thread.name().unwrap();
        assert_eq!(
            texts,
            [
                format!("[vm-1:{thread}] one number=7"),
                format!("[vm-1:{thread}:INFO] two number=7"),
                format!("[vm-1:{thread}:DEBUG] two in detail"),
            ]
        );
        let second = std::fs::read_to_string(second).unwrap();
        assert_eq!(second.lines().count(), 1, "{second}");
        assert!(
            second.contains(":INFO:") && second.contains("log.rs:") && second.contains("] three"),
            "{second}"
        );
    }

    #[test]
    fn off_is_off() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let log = Log::new("vm", Level::Off);
        change(&log, &serde_json::json!({ "log_path": path })).unwrap();
        tracing::subscriber::with_default(log.subscriber(), || tracing::error!("nobody hears this"));
        assert_eq!(std::fs::read(path).unwrap(), b"");
    }
}
