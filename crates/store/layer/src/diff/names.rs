//! The list of names: one line per change, `A`, `M` or `D`, a space and the escaped path; directories end in a slash.

use std::io::{self, Write};

use crate::attr::FileKind;
use crate::change::Scan;

/// Writes the list of names.
///
/// # Errors
/// Writing fails.
pub fn write_names(scan: &Scan, out: &mut dyn Write) -> io::Result<()> {
    for change in &scan.changes {
        let slash = if change.file_type == FileKind::Directory && !change.path.is_root() {
            "/"
        } else {
            ""
        };
        writeln!(out, "{} {}{slash}", change.kind.letter(), change.path)?;
    }
    Ok(())
}
