//! The patch: unified differences with the extended headers of git-diff(1), so that both `git apply` and `patch` take it.

use std::fmt::Write as _;
use std::io::Write;

use super::content::{Side, Sides, compare};
use super::{DiffError, DiffOptions};
use crate::attr::FileKind;
use crate::capture::Capture;
use crate::change::{Change, ChangeKind, Scan};

/// Lines shown around a change.
const CONTEXT: usize = 3;

/// Writes the patch.
///
/// # Errors
/// [`DiffError`].
pub fn write_patch(capture: &Capture, scan: &Scan, options: DiffOptions, out: &mut dyn Write) -> Result<(), DiffError> {
    let mut sides = Sides::open(capture, options.max_file_bytes)?;
    let result = write_all(&mut sides, scan, options, out);
    sides.close()?;
    result
}

fn write_all(sides: &mut Sides<'_>, scan: &Scan, options: DiffOptions, out: &mut dyn Write) -> Result<(), DiffError> {
    for change in &scan.changes {
        let mut text = Vec::new();
        let (before, after) = (sides.before(change), sides.after(change));
        if change.old_type.is_some() {
            // Another type is another thing: shown as the end of one and the start of the other.
            let gone = Change {
                kind: ChangeKind::Deleted,
                file_type: change.old_type.unwrap_or(change.file_type),
                ..change.clone()
            };
            let made = Change {
                kind: ChangeKind::Added,
                old_type: None,
                ..change.clone()
            };
            write_one(&gone, before, Side::Absent, &mut text)?;
            write_one(&made, Side::Absent, after, &mut text)?;
        } else {
            write_one(change, before, after, &mut text)?;
        }
        if options.escape_controls {
            text = escape_controls(&text).into_bytes();
        }
        out.write_all(&text)?;
    }
    Ok(())
}

fn write_one(change: &Change, before: Side, after: Side, out: &mut Vec<u8>) -> Result<(), DiffError> {
    let (old_name, new_name) = (
        quote(b"a/", change.path.as_bytes()),
        quote(b"b/", change.path.as_bytes()),
    );
    if !matches!(change.file_type, FileKind::File | FileKind::Symlink) {
        let word = match change.kind {
            ChangeKind::Added => "new",
            ChangeKind::Deleted => "removed",
            ChangeKind::Modified | ChangeKind::MetadataOnly => "changed",
        };
        let kind = format!("{:?}", change.file_type).to_lowercase();
        let mode = change
            .new_mode
            .map(|mode| format!(" (mode {mode:o})"))
            .unwrap_or_default();
        writeln!(out, "# {word} {kind} {}{mode}", change.path)?; // git has no header for it; readers of patches skip it
        return Ok(());
    }
    writeln!(out, "diff --git {old_name} {new_name}")?;
    let (old_mode, new_mode) = (
        git_mode(change.file_type, change.old_mode),
        git_mode(change.file_type, change.new_mode),
    );
    match change.kind {
        ChangeKind::Added => writeln!(out, "new file mode {new_mode}")?,
        ChangeKind::Deleted => writeln!(out, "deleted file mode {old_mode}")?,
        _ if old_mode != new_mode => writeln!(out, "old mode {old_mode}\nnew mode {new_mode}")?,
        _ => {}
    }
    let old_header = if change.kind == ChangeKind::Added {
        "/dev/null"
    } else {
        &old_name
    };
    let new_header = if change.kind == ChangeKind::Deleted {
        "/dev/null"
    } else {
        &new_name
    };
    match (&before, &after) {
        (Side::Unreadable, _) | (_, Side::Unreadable) => writeln!(out, "# {} can't be read", change.path)?,
        (Side::Text(_) | Side::Absent, Side::Text(_) | Side::Absent) => {
            let empty = Vec::new();
            let bytes = |side| {
                if let Side::Text(bytes) = side {
                    bytes
                } else {
                    empty.clone()
                }
            };
            let (old, new) = (bytes(before), bytes(after));
            compare(&old, &new)
                .unified_diff()
                .context_radius(CONTEXT)
                .header(old_header, new_header)
                .to_writer(&mut *out)?;
        }
        _ => writeln!(out, "Binary files {old_header} and {new_header} differ")?,
    }
    Ok(())
}

/// The mode as git writes it: a type and only the owner's right to execute (git-fast-import(1), "filemodify").
fn git_mode(kind: FileKind, mode: Option<u32>) -> &'static str {
    match (kind, mode.unwrap_or(0) & 0o100) {
        (FileKind::Symlink, _) => "120000",
        (_, 0) => "100644",
        _ => "100755",
    }
}

/// A name as git writes it: quoted with octal escapes if anything in it is unusual (git-config(1), `core.quotePath`).
fn quote(prefix: &[u8], path: &[u8]) -> String {
    let name = [prefix, path].concat();
    let is_plain = |byte: u8| (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\';
    if name.iter().copied().all(is_plain) {
        return name.iter().copied().map(char::from).collect();
    }
    let mut quoted = String::from("\"");
    for byte in name {
        if is_plain(byte) {
            quoted.push(char::from(byte));
        } else {
            let _infallible = write!(quoted, "\\{byte:03o}");
        }
    }
    quoted.push('"');
    quoted
}

/// Makes text harmless for a terminal; line ends and tabs stay.
fn escape_controls(text: &[u8]) -> String {
    let mut safe = String::with_capacity(text.len());
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        let (line, end) = line.strip_suffix(b"\n").map_or((line, ""), |line| (line, "\n"));
        for (index, part) in line.split(|&byte| byte == b'\t').enumerate() {
            if index > 0 {
                safe.push('\t');
            }
            safe.push_str(&crate::path::escape_only_deceptive(part));
        }
        safe.push_str(end);
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusual_names_are_quoted_as_git_does() {
        assert_eq!(quote(b"a/", b"src/x y.rs"), "a/src/x y.rs");
        assert_eq!(quote(b"a/", "é\n\"".as_bytes()), r#""a/\303\251\012\042""#);
    }

    #[test]
    fn contents_cannot_drive_a_terminal() {
        assert_eq!(
            escape_controls(b"+a\\b\t\x1b[2J\r\n-\xff"),
            "+a\\b\t\\x1b[2J\\x0d\n-\\xff"
        );
    }
}
