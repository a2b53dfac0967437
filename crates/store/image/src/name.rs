//! Names from an archive: the text shown to people, and the path used in system calls.
//!
//! A path passes [`EntryPath::parse`] once; from then on it is relative, without `.`, `..`, empty components or NUL, and short
//! enough for every system call. What it resolves to is the tree's business (see `tree.rs`).

use std::fmt;

use crate::unpack::error::Refusal;

/// Longest path in an archive (linux/limits.h, `PATH_MAX`).
pub(crate) const MAX_PATH_BYTES: usize = 4096;
/// Longest component (linux/limits.h, `NAME_MAX`).
const MAX_NAME_BYTES: usize = 255;
/// Deepest directory. Removing a tree holds a descriptor per level; the usual limit is 1024 of them.
pub(crate) const MAX_DEPTH: usize = 256;
/// Bytes of a name that an error shows.
const SHOWN_BYTES: usize = 160;

/// An entry's name as shown to people: escaped, and cut when it is long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryName(String);

impl EntryName {
    /// Escapes `name` for printing.
    pub(crate) fn new(name: &[u8]) -> Self {
        let shown = name.get(..SHOWN_BYTES).unwrap_or(name);
        let mut text = String::new();
        for chunk in shown.utf8_chunks() {
            for character in chunk.valid().chars() {
                if character.is_control() || character == '\\' {
                    text.extend(character.escape_default());
                } else {
                    text.push(character);
                }
            }
            for byte in chunk.invalid() {
                text.push_str(&format!("\\x{byte:02x}"));
            }
        }
        if shown.len() < name.len() {
            text.push('…');
        }
        EntryName(text)
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.0.is_empty() { "(no name)" } else { &self.0 })
    }
}

/// A checked path, relative to the root of the tree; empty for the root itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EntryPath(Vec<u8>);

impl EntryPath {
    /// Checks and normalises a path as an archive has it. `./a//b/` is `a/b`.
    pub(crate) fn parse(raw: &[u8]) -> Result<Self, Refusal> {
        if raw.is_empty() {
            return Err(Refusal::EmptyPath);
        }
        if raw.len() > MAX_PATH_BYTES {
            return Err(Refusal::PathTooLong { bytes: raw.len() });
        }
        if raw.contains(&0) {
            return Err(Refusal::NulInPath);
        }
        // The root itself is what umoci's `insert` writes; nothing else absolute has a good reason.
        if raw.starts_with(b"/") && raw != b"/" {
            return Err(Refusal::AbsolutePath);
        }
        let mut path = Vec::with_capacity(raw.len());
        let mut depth = 0;
        for component in raw.split(|&byte| byte == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return Err(Refusal::ParentComponent),
                name if name.len() > MAX_NAME_BYTES => return Err(Refusal::NameTooLong { bytes: name.len() }),
                name => {
                    if !path.is_empty() {
                        path.push(b'/');
                    }
                    path.extend_from_slice(name);
                    depth += 1;
                }
            }
        }
        if depth > MAX_DEPTH {
            return Err(Refusal::TooDeep);
        }
        Ok(EntryPath(path))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Splits into the path of the parent, empty for the root, and the last name; `None` for the root itself.
    pub(crate) fn split(&self) -> Option<(&[u8], &[u8])> {
        if self.0.is_empty() {
            return None;
        }
        match self.0.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => Some((self.0.get(..slash)?, self.0.get(slash.checked_add(1)?..)?)),
            None => Some((b"", &self.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalised_and_split() {
        let path = EntryPath::parse(b"./a//b/./c/").expect("valid");
        assert_eq!(path.as_bytes(), b"a/b/c");
        assert_eq!(path.split(), Some((&b"a/b"[..], &b"c"[..])));
        assert_eq!(EntryPath::parse(b"./").expect("the root").split(), None);
        assert_eq!(EntryPath::parse(b"/").expect("the root").split(), None);
        assert_eq!(
            EntryPath::parse(b"x").expect("valid").split(),
            Some((&b""[..], &b"x"[..]))
        );
    }

    #[test]
    fn paths_that_escape_are_refused() {
        for (raw, refusal) in [
            (&b"/etc"[..], Refusal::AbsolutePath),
            (b"a/../b", Refusal::ParentComponent),
            (b"..", Refusal::ParentComponent),
            (b"a\0b", Refusal::NulInPath),
            (b"", Refusal::EmptyPath),
        ] {
            assert_eq!(EntryPath::parse(raw).expect_err("refused"), refusal);
        }
        assert_eq!(
            EntryPath::parse(&[b'n'; 256]).expect_err("refused"),
            Refusal::NameTooLong { bytes: 256 }
        );
        assert_eq!(
            EntryPath::parse(&b"d/".repeat(300)).expect_err("refused"),
            Refusal::TooDeep
        );
    }

    #[test]
    fn names_are_escaped_and_cut() {
        assert_eq!(EntryName::new(b"a\x1b[1m\xff").to_string(), "a\\u{1b}[1m\\xff");
        assert!(EntryName::new(&[b'x'; 500]).to_string().ends_with('…'));
    }
}
