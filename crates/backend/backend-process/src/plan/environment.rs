//! The program's environment: PATH, HOME, LANG and TERM, and what was asked for. Nothing else of the caller's passes.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use ringwall_policy::EnvPolicy;

use super::{HostPath, PlanError, c_string};

/// PATH where the caller's says nothing usable, and always with a root file system of its own.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Returns a variable of the caller.
pub(crate) fn variable<'a>(caller: &'a [(OsString, OsString)], name: &str) -> Option<&'a OsStr> {
    caller
        .iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.as_os_str())
}

/// Returns the caller's home directory, canonical where it exists.
pub(crate) fn home(caller: &[(OsString, OsString)]) -> Option<PathBuf> {
    let home = PathBuf::from(variable(caller, "HOME")?);
    (home.is_absolute() && home != Path::new("/")).then(|| HostPath::find(&home).map_or(home, |found| found.path))
}

/// Returns the directories of the caller's PATH that exist inside, in order and once each.
pub(crate) fn search_path(
    caller: &[(OsString, OsString)],
    has_own_root: bool,
    policy: &EnvPolicy,
    visible: impl Fn(&Path) -> bool,
) -> Vec<PathBuf> {
    let given = policy.set.get("PATH").map(OsString::from);
    let is_given = given.is_some();
    let text = given
        .or_else(|| variable(caller, "PATH").filter(|_| !has_own_root).map(OsStr::to_owned))
        .unwrap_or_else(|| OsString::from(DEFAULT_PATH));
    let mut path: Vec<PathBuf> = Vec::new();
    for entry in std::env::split_paths(&text) {
        if entry.is_absolute() && !path.contains(&entry) && (is_given || has_own_root || visible(&entry)) {
            path.push(entry);
        }
    }
    if path.is_empty() {
        std::env::split_paths(DEFAULT_PATH).collect()
    } else {
        path
    }
}

/// Returns the environment as `K=V`, sorted by name.
pub(crate) fn resolve(
    caller: &[(OsString, OsString)],
    policy: &EnvPolicy,
    search_path: &[PathBuf],
    home: Option<&Path>,
    has_own_root: bool,
    private: Option<&Path>,
) -> Result<Vec<CString>, PlanError> {
    let mut variables: BTreeMap<OsString, OsString> = BTreeMap::new();
    let path = std::env::join_paths(search_path).unwrap_or_else(|_| OsString::from(DEFAULT_PATH));
    variables.insert("PATH".into(), path);
    // Without a mount namespace the home directory is there but closed: a private one serves programs better than errors.
    let home = private
        .or(if has_own_root { Some(Path::new("/root")) } else { home })
        .unwrap_or(Path::new("/tmp"));
    variables.insert("HOME".into(), home.into());
    if let Some(private) = private {
        variables.insert("TMPDIR".into(), private.into());
    }
    variables.insert(
        "LANG".into(),
        variable(caller, "LANG").map_or("C.UTF-8".into(), OsStr::to_owned),
    );
    if let Some(term) = variable(caller, "TERM") {
        variables.insert("TERM".into(), term.to_owned());
    }
    for name in &policy.pass {
        let value = variable(caller, name).ok_or_else(|| PlanError::NoVariable { name: name.clone() })?;
        variables.insert(name.into(), value.to_owned());
    }
    for (name, value) in &policy.set {
        variables.insert(name.into(), value.into());
    }
    variables
        .into_iter()
        .map(|(name, value)| {
            let what = format!("the environment variable {}", name.to_string_lossy());
            let mut text = name.into_vec();
            text.push(b'=');
            text.extend_from_slice(value.as_bytes());
            c_string(&what, OsString::from_vec(text))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(key, value)| (key.into(), value.into())).collect()
    }

    #[test]
    fn only_visible_directories_are_searched() {
        let caller = caller(&[("PATH", "/usr/bin:/home/u/secret:relative::/usr/bin:/bin")]);
        let path = search_path(&caller, false, &EnvPolicy::default(), |path| !path.starts_with("/home"));
        assert_eq!(path, [PathBuf::from("/usr/bin"), PathBuf::from("/bin")]);
    }

    #[test]
    fn nothing_else_of_the_caller_passes() {
        let caller = caller(&[("AWS_SECRET", "x"), ("LANG", "de_DE.UTF-8"), ("KEEP", "1")]);
        let policy = EnvPolicy {
            pass: ["KEEP".to_owned()].into(),
            ..EnvPolicy::default()
        };
        let variables = resolve(&caller, &policy, &[], None, false, None).unwrap();
        let text: Vec<_> = variables.iter().map(|variable| variable.to_str().unwrap()).collect();
        assert_eq!(text, ["HOME=/tmp", "KEEP=1", "LANG=de_DE.UTF-8", "PATH="]);
        let policy = EnvPolicy {
            pass: ["MISSING".to_owned()].into(),
            ..EnvPolicy::default()
        };
        assert!(matches!(
            resolve(&caller, &policy, &[], None, false, None),
            Err(PlanError::NoVariable { .. })
        ));
    }
}
