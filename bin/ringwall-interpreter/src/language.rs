//! The languages clients name, and which kernels speak them.

use std::fmt;

/// A language, after its aliases are resolved.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Language {
    /// Python.
    Python,
    /// JavaScript and TypeScript.
    JavaScript,
    /// R.
    R,
    /// Java.
    Java,
    /// Bash.
    Bash,
    /// Any other, by the name of its kernel or language in lower case.
    Other(String),
}

impl Language {
    /// Resolves a name as clients write it.
    pub(crate) fn parse(name: &str) -> Self {
        let name = name.trim().to_lowercase();
        match name.as_str() {
            "python" | "python3" | "py" => Self::Python,
            "javascript" | "js" | "typescript" | "ts" | "deno" => Self::JavaScript,
            "r" => Self::R,
            "java" => Self::Java,
            "bash" | "sh" | "shell" => Self::Bash,
            _ => Self::Other(name),
        }
    }

    /// The name shown to clients.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Python => "python",
            Self::JavaScript => "javascript",
            Self::R => "r",
            Self::Java => "java",
            Self::Bash => "bash",
            Self::Other(name) => name,
        }
    }

    /// Whether a kernelspec with this language, in the directory of this name, serves this language.
    pub(crate) fn is_served_by(&self, language: &str, directory: &str) -> bool {
        let language = language.to_lowercase();
        match self {
            // Deno's kernelspec says "typescript".
            Self::JavaScript => language == "javascript" || language == "typescript",
            Self::Other(name) => language == *name || directory.to_lowercase() == *name,
            known => language == known.name(),
        }
    }

    /// What to do when there is no kernel.
    pub(crate) fn advice(&self) -> &'static str {
        match self {
            Self::Python => "install it with `pip install ipykernel`",
            Self::JavaScript => {
                "install Deno and run `deno jupyter --install`, or `npm install -g ijavascript && ijsinstall`"
            }
            Self::R => "install it with `R -e 'install.packages(\"IRkernel\"); IRkernel::installspec()'`",
            Self::Java => "install rapaio-jupyter-kernel or IJava",
            Self::Bash => "install it with `pip install bash_kernel && python3 -m bash_kernel.install`",
            Self::Other(_) => "install one that `jupyter kernelspec list` shows under this name",
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_are_resolved() {
        for name in ["js", "ts", "typescript", "Deno", " javascript "] {
            assert_eq!(Language::parse(name), Language::JavaScript, "{name}");
        }
        assert_eq!(Language::parse("Python3"), Language::Python);
        assert_eq!(Language::parse("R"), Language::R);
        assert_eq!(Language::parse("sh"), Language::Bash);
        assert_eq!(Language::parse("Julia"), Language::Other("julia".into()));
    }

    #[test]
    fn kernelspecs_are_matched_by_language_or_for_others_by_directory() {
        assert!(Language::R.is_served_by("R", "ir"));
        assert!(Language::JavaScript.is_served_by("typescript", "deno"));
        assert!(!Language::Python.is_served_by("julia", "python"));
        assert!(Language::parse("xeus-sql").is_served_by("sqlite", "xeus-sql"));
    }
}
