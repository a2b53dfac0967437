//! Environment variables of a single execution: code that sets them in the kernel before, and puts back what was there
//! after.
//!
//! A process's environment can only be changed by the process, so each language needs its own pair of snippets. They
//! keep the old values in the kernel, because the code run before may have changed them there.

use std::collections::BTreeMap;

use crate::language::Language;

/// The code around an execution.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Snippets {
    /// Sets the variables.
    pub(crate) set: String,
    /// Puts the old values back.
    pub(crate) restore: String,
}

/// Why variables can't be set.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum EnvironmentError {
    /// A name no environment can hold.
    #[error("{0:?} is no name for an environment variable")]
    Name(String),
    /// A value no environment can hold.
    #[error("the value of the environment variable {0:?} has a NUL character")]
    Value(String),
    /// The language has no way to change its environment, or none known.
    #[error("env_vars of a single execution are not supported for {0}: set them when the sandbox is created")]
    Language(String),
}

/// Makes the snippets for `variables`; `None` if there are none.
///
/// # Errors
/// A name or value can't be set, or not in this language.
pub(crate) fn snippets(
    language: &Language,
    variables: &BTreeMap<String, String>,
) -> Result<Option<Snippets>, EnvironmentError> {
    if variables.is_empty() {
        return Ok(None);
    }
    for (name, value) in variables {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(EnvironmentError::Name(name.clone()));
        }
        if value.contains('\0') {
            return Err(EnvironmentError::Value(name.clone()));
        }
    }
    Ok(Some(match language {
        Language::Python => python(variables),
        Language::JavaScript => javascript(variables),
        Language::R => r(variables),
        Language::Bash => bash(variables)?,
        Language::Java | Language::Other(_) => return Err(EnvironmentError::Language(language.to_string())),
    }))
}

fn json(variables: &BTreeMap<String, String>) -> String {
    // Text keys and values: this can't fail.
    serde_json::to_string(variables).unwrap_or_else(|_| "{}".to_owned())
}

/// `text` in double quotes with JSON's escapes, which Python and JavaScript read the same way.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn python(variables: &BTreeMap<String, String>) -> Snippets {
    // Run in a namespace of their own, so the user's sees nothing of them.
    let set = "import os, json\nnew = json.loads(text)\n\
               os._ringwall_saved = {name: os.environ.get(name) for name in new}\nos.environ.update(new)\n";
    let restore = "import os\nfor name, value in os.__dict__.pop('_ringwall_saved', {}).items():\n    \
                   os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)\n";
    Snippets {
        set: format!(
            "__import__('builtins').exec({}, {{'text': {}}})",
            quoted(set),
            quoted(&json(variables))
        ),
        restore: format!("__import__('builtins').exec({}, {{}})", quoted(restore)),
    }
}

fn javascript(variables: &BTreeMap<String, String>) -> Snippets {
    let access = "const deno = globalThis.Deno; \
                  const get = (name) => deno ? deno.env.get(name) : process.env[name]; \
                  const set = (name, value) => { if (deno) deno.env.set(name, value); else process.env[name] = value; }; \
                  const remove = (name) => { if (deno) deno.env.delete(name); else delete process.env[name]; };";
    Snippets {
        set: format!(
            "(() => {{ {access} const saved = []; globalThis.__ringwallSaved = saved; \
             for (const [name, value] of Object.entries(JSON.parse({}))) \
             {{ saved.push([name, get(name)]); set(name, value); }} }})();",
            quoted(&json(variables))
        ),
        restore: format!(
            "(() => {{ {access} for (const [name, value] of globalThis.__ringwallSaved ?? []) \
             {{ if (value === undefined) remove(name); else set(name, value); }} \
             delete globalThis.__ringwallSaved; }})();"
        ),
    }
}

fn r(variables: &BTreeMap<String, String>) -> Snippets {
    let pairs: Vec<String> = variables
        .iter()
        .map(|(name, value)| format!("{}={}", r_quoted(name), r_quoted(value)))
        .collect();
    Snippets {
        set: format!(
            "local({{ new <- list({}); options(ringwall.saved = Sys.getenv(names(new), unset = NA, names = TRUE)); \
             invisible(do.call(Sys.setenv, new)) }})",
            pairs.join(", ")
        ),
        restore: "local({ old <- getOption(\"ringwall.saved\"); for (name in names(old)) { \
                  if (is.na(old[[name]])) Sys.unsetenv(name) \
                  else do.call(Sys.setenv, stats::setNames(list(old[[name]]), name)) }; \
                  options(ringwall.saved = NULL); invisible(NULL) })"
            .to_owned(),
    }
}

fn r_quoted(text: &str) -> String {
    escaped(text, "\"", "\"", '"')
}

fn bash(variables: &BTreeMap<String, String>) -> Result<Snippets, EnvironmentError> {
    let mut set = Vec::new();
    let mut restore = Vec::new();
    for (name, value) in variables {
        let is_identifier = name
            .chars()
            .all(|character| character.is_ascii_alphanumeric() || character == '_')
            && !name.starts_with(|character: char| character.is_ascii_digit());
        if !is_identifier {
            return Err(EnvironmentError::Name(name.clone()));
        }
        // `declare -p` prints the command that makes the variable again, exported or not; nothing if there is none.
        set.push(format!(
            "__ringwall_{name}=$(declare -p {name} 2>/dev/null); export {name}={}",
            escaped(value, "$'", "'", '\'')
        ));
        restore.push(format!(
            "unset {name}; eval \"$__ringwall_{name}\"; unset __ringwall_{name}"
        ));
    }
    Ok(Snippets {
        set: set.join("; "),
        restore: restore.join("; "),
    })
}

/// `text` between quotes with C's escapes, in one line.
fn escaped(text: &str, open: &str, close: &str, quote: char) -> String {
    let mut quoted = open.to_owned();
    for character in text.chars() {
        match character {
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            _ if character == quote => quoted.extend(['\\', quote]),
            // An interactive bash replaces what follows an exclamation mark.
            _ if character.is_ascii_control() || character == '!' => {
                quoted.push_str(&format!("\\x{:02x}", u32::from(character)))
            }
            _ => quoted.push(character),
        }
    }
    quoted.push_str(close);
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn no_variables_need_no_code() {
        assert_eq!(snippets(&Language::Java, &variables(&[])), Ok(None));
    }

    #[test]
    fn what_no_environment_holds_is_refused() {
        for name in ["", "a=b", "a\0"] {
            let error = snippets(&Language::Python, &variables(&[(name, "x")]));
            assert_eq!(error, Err(EnvironmentError::Name(name.to_owned())));
        }
        assert_eq!(
            snippets(&Language::Python, &variables(&[("A", "\0")])),
            Err(EnvironmentError::Value("A".to_owned()))
        );
        for name in ["1A", "A-B", "A;rm"] {
            assert!(snippets(&Language::Bash, &variables(&[(name, "x")])).is_err(), "{name}");
        }
        assert!(snippets(&Language::Java, &variables(&[("A", "x")])).is_err());
    }

    #[test]
    fn bash_puts_everything_back() {
        let values = variables(&[
            ("NEW", "a 'b'\n\t\\c $HOME `id` !!"),
            ("OLD", "changed"),
            ("LOCAL", "x"),
        ]);
        let around = snippets(&Language::Bash, &values).unwrap().unwrap();
        assert!(!around.set.contains('\n'), "one line: {}", around.set);
        let script = format!(
            "export OLD='it'\"'\"'s'; LOCAL=here\n{}\nprintf '<%s>' \"$NEW\" \"$OLD\"\n{}\n\
             printf '<%s>' \"${{NEW-unset}}\" \"$OLD\" \"$LOCAL\"; env | grep -c ^LOCAL=",
            around.set, around.restore
        );
        let output = std::process::Command::new("bash")
            .args(["-c", &script])
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "<a 'b'\n\t\\c $HOME `id` !!><changed><unset><it's><here>0\n"
        );
    }

    #[test]
    fn python_code_hides_values_in_a_text() {
        let around = snippets(&Language::Python, &variables(&[("A", "'\"\\\n")]))
            .unwrap()
            .unwrap();
        assert!(!around.set.contains('\n'), "{}", around.set);
    }
}
