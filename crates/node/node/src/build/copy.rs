//! COPY: an uploaded archive is unpacked on the host by the hardened unpacker, placed in the step's own layer, and put where it belongs by
//! the sandbox's own `cp`, which alone knows its links and owners.

use std::path::PathBuf;

use super::Build;
use super::step::quote;
use crate::{images, templates};

/// Name of the staging directory at the root of the step's layer.
pub(super) const STAGE: &str = ".ringwall-copy";

/// A COPY step.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Copy {
    /// Hash of the uploaded archive.
    pub(super) files: String,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) user: Option<String>,
    pub(super) mode: Option<String>,
}

/// Unpacks the archive and returns the directory.
pub(super) async fn stage(build: &Build, wanted: &Copy) -> Result<PathBuf, String> {
    if wanted.from.split('/').any(|part| part == "..") {
        return Err(format!("COPY: the source {:?} leaves the context", wanted.from));
    }
    if let Some(mode) = &wanted.mode
        && (mode.is_empty() || mode.len() > 4 || !mode.bytes().all(|byte| (b'0'..=b'7').contains(&byte)))
    {
        return Err(format!("COPY: the mode {mode:?} is no octal number"));
    }
    let archive = templates::upload_path(&build.inner, &build.owner, &wanted.files);
    if !super::exists(&archive) {
        return Err("COPY: the files were not uploaded".to_owned());
    }
    let into = build.inner.places.fresh().join(format!("copy-{}", crate::ids::layer()));
    let target = into.clone();
    tokio::task::spawn_blocking(move || images::unpack_upload(&archive, &target))
        .await
        .map_err(|error| error.to_string())??;
    Ok(into)
}

/// The script that puts the files where they belong: a directory's content into the destination; files as it, or into it.
///
/// `owner` is whom they are given to, where there is more than one user.
pub(super) fn script(wanted: &Copy, to: &str, owner: Option<&str>) -> String {
    let from = wanted
        .from
        .trim_start_matches("./")
        .trim_start_matches('/')
        .trim_end_matches('/');
    let to_text = quote(to);
    // Patterns must stay open to the shell; everything else of the name is quoted.
    let pattern: String = from
        .chars()
        .map(|letter| match letter {
            '*' | '?' | '[' | ']' => letter.to_string(),
            letter => quote(&letter.to_string()),
        })
        .collect();
    let into = if to.ends_with('/') { "yes" } else { "" };
    let mode = wanted
        .mode
        .as_ref()
        .map(|mode| format!("chmod -R {mode} \"$made\"\n"))
        .unwrap_or_default();
    let own = owner
        .map(|owner| format!("chown -R -h {} \"$made\"\n  ", quote(owner)))
        .unwrap_or_default();
    format!(
        r#"set -e
to={to_text}
cd /{STAGE}
set -- {pattern}
if [ "$#" -eq 0 ] || {{ [ ! -e "$1" ] && [ ! -L "$1" ]; }}; then echo "COPY: no such file" >&2; exit 1; fi
for from in "$@"; do
  if [ -d "$from" ] && [ ! -L "$from" ]; then
    mkdir -p "$to"; cp -R "$from/." "$to/"; made=$to
  elif [ -n "{into}" ] || [ -d "$to" ] || [ "$#" -gt 1 ]; then
    mkdir -p "$to"; cp -R -P "$from" "$to/"; made=$to/${{from##*/}}
  else
    mkdir -p "$(dirname "$to")"; cp -R -P "$from" "$to"; made=$to
  fi
  {own}{mode}done
cd /
rm -rf /{STAGE}
"#,
        pattern = if pattern.is_empty() { "." } else { &pattern },
    )
}
