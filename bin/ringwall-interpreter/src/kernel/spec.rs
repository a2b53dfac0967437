//! Finding kernels: `share/jupyter/kernels/*/kernel.json` ("kernelspecs", jupyter-client, "Kernel specs").

use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jupyter_protocol::JupyterKernelspec;

use crate::language::Language;

/// Longest kernel.json read; real ones have under a kilobyte.
const MAX_SPEC_BYTES: u64 = 1024 * 1024;

/// Deno publishes what is printed from another task than its state, so it may come after "idle" (seen with 2.9 on a busy
/// machine).
const DENO_LINGER: Duration = Duration::from_millis(50);

/// Where kernels are looked for, taken from the environment once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places {
    /// Directories with a `kernels` directory, in order.
    data: Vec<PathBuf>,
    /// Directories of `PATH`.
    path: Vec<PathBuf>,
}

/// A kernel that can be started.
#[derive(Debug, Clone)]
pub(crate) struct KernelSpec {
    /// The command; arguments may contain `{connection_file}` and `{resource_dir}`.
    pub(crate) argv: Vec<String>,
    /// Variables added to the environment.
    pub(crate) env: Vec<(String, String)>,
    /// How it is interrupted.
    pub(crate) interruption: Interruption,
    /// How long it may publish output after it has said that it is idle.
    pub(crate) linger: Duration,
    /// The directory of kernel.json.
    pub(crate) resources: PathBuf,
}

/// How a kernel is interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interruption {
    /// By SIGINT.
    Signal,
    /// By a message.
    Message,
    /// By a message first and by SIGINT if that doesn't help.
    MessageThenSignal,
}

impl Places {
    /// Lists the places from `JUPYTER_PATH`, `HOME` and `PATH`, and the system's.
    pub(crate) fn from_environment() -> Self {
        Self::new(
            std::env::var_os("JUPYTER_PATH"),
            std::env::var_os("HOME"),
            std::env::var_os("PATH"),
        )
    }

    fn new(jupyter_path: Option<OsString>, home: Option<OsString>, path: Option<OsString>) -> Self {
        let split = |value: Option<OsString>| -> Vec<PathBuf> {
            value
                .iter()
                .flat_map(std::env::split_paths)
                .filter(|path| path.is_absolute())
                .collect()
        };
        let path = split(path);
        let mut data = split(jupyter_path);
        data.extend(home.map(|home| Path::new(&home).join(".local/share/jupyter")));
        for directory in &path {
            // The parent of python's directory is its prefix, as in a virtual environment.
            if let (true, Some(prefix)) = (directory.join("python3").exists(), directory.parent()) {
                data.push(prefix.join("share/jupyter"));
            }
        }
        data.extend(["/usr/local/share/jupyter", "/usr/share/jupyter"].map(PathBuf::from));
        Self { data, path }
    }

    /// Finds the first kernel for `language`; of one place's, the first by name.
    pub(crate) fn find(&self, language: &Language) -> Option<KernelSpec> {
        self.data.iter().find_map(|place| {
            let mut directories: Vec<PathBuf> = std::fs::read_dir(place.join("kernels"))
                .ok()?
                .flatten()
                .map(|entry| entry.path())
                .collect();
            directories.sort();
            directories.iter().find_map(|directory| {
                let spec = read_spec(&directory.join("kernel.json"))?;
                let name = directory.file_name()?.to_string_lossy();
                language
                    .is_served_by(&spec.language, &name)
                    .then(|| self.resolve(spec, place, directory))
            })
        })
    }

    /// The pythons in `PATH`, each of which may have a kernel without a kernelspec.
    pub(crate) fn pythons(&self) -> Vec<PathBuf> {
        self.path
            .iter()
            .map(|directory| directory.join("python3"))
            .filter(|python| python.exists())
            .collect()
    }

    fn resolve(&self, spec: JupyterKernelspec, place: &Path, resources: &Path) -> KernelSpec {
        let mut argv = spec.argv;
        if let Some(program) = argv.first_mut() {
            // A kernelspec that says only "python" means the python it was installed with.
            if matches!(program.as_str(), "python" | "python3") {
                let beside = place
                    .parent()
                    .and_then(Path::parent)
                    .map(|prefix| prefix.join("bin/python3"));
                if let Some(python) = beside.filter(|python| python.exists() && self.is_in_path(python)) {
                    *program = python.to_string_lossy().into_owned();
                }
            }
        }
        let mut env: Vec<(String, String)> = spec.env.into_iter().flatten().collect();
        let is_deno = spec.language == "typescript";
        if is_deno && std::env::var_os("NO_COLOR").is_none() {
            // Deno paints its values, which are data here.
            env.push(("NO_COLOR".to_owned(), "1".to_owned()));
        }
        let interruption = match spec.interrupt_mode.as_deref() {
            Some("message") => Interruption::Message,
            // Deno understands the message (denoland/deno#32359) but doesn't say so; SIGINT ends it.
            None if is_deno => Interruption::MessageThenSignal,
            _ => Interruption::Signal,
        };
        KernelSpec {
            argv,
            env,
            interruption,
            linger: if is_deno { DENO_LINGER } else { Duration::ZERO },
            resources: resources.to_owned(),
        }
    }

    fn is_in_path(&self, program: &Path) -> bool {
        program
            .parent()
            .is_some_and(|directory| self.path.iter().any(|entry| entry == directory))
    }
}

impl KernelSpec {
    /// The kernel of a python that has ipykernel but no kernelspec.
    pub(crate) fn of_python(python: &Path) -> Self {
        let arguments = ["-m", "ipykernel_launcher", "-f", "{connection_file}"].map(String::from);
        Self {
            argv: std::iter::once(python.to_string_lossy().into_owned())
                .chain(arguments)
                .collect(),
            env: Vec::new(),
            interruption: Interruption::Signal,
            linger: Duration::ZERO,
            resources: PathBuf::new(),
        }
    }
}

fn read_spec(path: &Path) -> Option<JupyterKernelspec> {
    let file = std::fs::File::open(path).ok()?;
    let mut text = Vec::new();
    file.take(MAX_SPEC_BYTES).read_to_end(&mut text).ok()?;
    let spec: JupyterKernelspec = serde_json::from_slice(&text).ok()?;
    (!spec.argv.is_empty()).then_some(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn install(prefix: &Path, name: &str, text: &str) {
        let directory = prefix.join("kernels").join(name);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("kernel.json"), text).unwrap();
    }

    fn spec(argv: &str, language: &str) -> String {
        format!(r#"{{"argv":["{argv}"],"display_name":"d","language":"{language}","interrupt_mode":"message"}}"#)
    }

    #[test]
    fn places_are_searched_in_order() {
        let root = tempfile::tempdir().unwrap();
        let (first, home) = (root.path().join("first"), root.path().join("home"));
        install(&first, "broken", "{");
        install(&first, "ir", &spec("/r", "R"));
        install(
            &home.join(".local/share/jupyter"),
            "python3",
            &spec("/home-python", "python"),
        );
        install(&home.join(".local/share/jupyter"), "ir", &spec("/home-r", "R"));
        let places = Places::new(Some(first.into()), Some(home.into()), None);
        assert_eq!(places.find(&Language::R).unwrap().argv, ["/r"]);
        let python = places.find(&Language::Python).unwrap();
        assert_eq!(python.argv, ["/home-python"]);
        assert_eq!(python.interruption, Interruption::Message);
        assert!(places.find(&Language::Other("cobol".into())).is_none());
    }

    #[test]
    fn a_bare_python_means_the_one_beside_the_kernelspec() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("bin")).unwrap();
        std::fs::write(root.path().join("bin/python3"), "").unwrap();
        install(&root.path().join("share/jupyter"), "python3", &spec("python", "python"));
        let places = Places::new(None, None, Some(root.path().join("bin").into()));
        let expected = root.path().join("bin/python3");
        assert_eq!(
            places.find(&Language::Python).unwrap().argv,
            [expected.to_str().unwrap()]
        );
        assert_eq!(places.pythons(), [expected]);
    }
}
