//! What COPY needs, as an archive: a gzipped tar, the same for the same files, known by its hash.

use std::fs::{self, File, Metadata};
use std::io::{Read as _, Seek as _, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use crate::failure::Failure;
use crate::ui;

/// Bytes read at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// An archive in a file without a name.
#[derive(Debug)]
pub(super) struct Packed {
    /// What the source is called in it.
    pub(super) name: String,
    /// SHA-256 of the archive, hexadecimal.
    pub(super) hash: String,
    /// Its size in bytes.
    pub(super) length: u64,
    pub(super) archive: File,
}

/// Packs a file or directory. Blocks.
pub(super) fn pack(from: &Path) -> Result<Packed, Failure> {
    let unreadable = |error: std::io::Error| Failure::usage(format!("can't read {}: {error}", from.display()));
    let found = fs::metadata(from).map_err(unreadable)?;
    // Of a directory COPY takes what it holds, whatever it is called.
    let name = match from.file_name().and_then(|name| name.to_str()) {
        Some(name) if found.is_file() => name,
        _ => "context",
    };
    let full = |error: std::io::Error| Failure::own(format!("can't pack {}: {error}", from.display()));
    let file = tempfile::tempfile().map_err(full)?;
    // No name and no time in the header, so that the same files give the same hash.
    let packer = GzBuilder::new().write(file, Compression::fast());
    let mut tar = tar::Builder::new(packer);
    if found.is_dir() {
        directory(&mut tar, from, name).map_err(full)?;
    } else if found.is_file() {
        entry(&mut tar, from, Path::new(name), &found).map_err(full)?;
    } else {
        return Err(Failure::usage(format!("{} is no file or directory", from.display())));
    }
    let mut archive = tar.into_inner().and_then(|packer| packer.finish()).map_err(full)?;
    let (hash, length) = digest(&mut archive).map_err(full)?;
    Ok(Packed {
        // Quoting what a shell's pattern would take for one is left to a class of one.
        name: escape_pattern(name),
        hash,
        length,
        archive,
    })
}

/// Packs a directory that holds a root file system; returns the archive and its length. Blocks.
pub(super) fn pack_root(from: &Path) -> Result<(File, u64), Failure> {
    let found =
        fs::metadata(from).map_err(|error| Failure::usage(format!("can't read {}: {error}", from.display())))?;
    if !found.is_dir() {
        return Err(Failure::usage(format!("{} is no directory", from.display())));
    }
    let full = |error: std::io::Error| Failure::own(format!("can't pack {}: {error}", from.display()));
    let packer = GzBuilder::new().write(tempfile::tempfile().map_err(full)?, Compression::fast());
    let mut tar = tar::Builder::new(packer);
    directory(&mut tar, from, ".").map_err(full)?;
    let mut archive = tar.into_inner().and_then(|packer| packer.finish()).map_err(full)?;
    let (_, length) = digest(&mut archive).map_err(full)?;
    Ok((archive, length))
}

/// The service takes names as patterns.
fn escape_pattern(name: &str) -> String {
    name.chars()
        .map(|letter| match letter {
            '*' | '?' | '[' => format!("[{letter}]"),
            letter => letter.to_string(),
        })
        .collect()
}

fn directory<W: Write>(tar: &mut tar::Builder<W>, from: &Path, name: &str) -> std::io::Result<()> {
    let mut pending = vec![(from.to_owned(), PathBuf::from(name))];
    while let Some((path, name)) = pending.pop() {
        let found = if path == from {
            fs::metadata(&path)?
        } else {
            fs::symlink_metadata(&path)?
        };
        entry(tar, &path, &name, &found)?;
        if found.is_dir() {
            let mut names = fs::read_dir(&path)?
                .map(|entry| entry.map(|entry| entry.file_name()))
                .collect::<std::io::Result<Vec<_>>>()?;
            names.sort_unstable_by(|one, two| two.cmp(one));
            pending.extend(names.into_iter().map(|below| (path.join(&below), name.join(&below))));
        }
    }
    Ok(())
}

/// Adds one entry: its mode and contents, and nothing of who owns it or when it was made.
fn entry<W: Write>(tar: &mut tar::Builder<W>, path: &Path, name: &Path, found: &Metadata) -> std::io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_mode(found.mode() & 0o1777);
    header.set_size(0);
    if found.is_dir() {
        header.set_entry_type(EntryType::Directory);
        tar.append_data(&mut header, name, std::io::empty())
    } else if found.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        tar.append_link(&mut header, name, fs::read_link(path)?)
    } else if found.is_file() {
        let file = File::open(path)?;
        header.set_size(found.len());
        // One that grows meanwhile must not spoil what follows; one that shrinks is an error.
        tar.append_data(
            &mut header,
            name,
            Exactly {
                file,
                left: found.len(),
            },
        )
    } else {
        ui::note(&format!("{} is left out: no file, directory or link", path.display()));
        Ok(())
    }
}

/// So many bytes of a file.
struct Exactly {
    file: File,
    left: u64,
}

impl std::io::Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = (&mut self.file).take(self.left).read(buffer)?;
        if count == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(std::io::Error::new(
                std::io::ErrorKind::UnexpectedEof,
                "a file became shorter",
            ));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

fn digest(archive: &mut File) -> std::io::Result<(String, u64)> {
    archive.rewind()?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut length = 0;
    loop {
        let count = archive.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hasher.update(buffer.get(..count).unwrap_or_default());
        length += count as u64;
    }
    archive.rewind()?;
    let hash = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((hash, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_files_same_hash() {
        let one = tempfile::tempdir().unwrap();
        let two = tempfile::tempdir().unwrap();
        for directory in [&one, &two] {
            fs::create_dir(directory.path().join("d")).unwrap();
            fs::write(directory.path().join("d/x"), "same").unwrap();
            std::os::unix::fs::symlink("x", directory.path().join("d/l")).unwrap();
        }
        let pack = |directory: &tempfile::TempDir| super::pack(&directory.path().join("d")).unwrap();
        assert_eq!(pack(&one).hash, pack(&two).hash);
        assert_eq!(pack(&one).name, "context");
        fs::write(two.path().join("d/x"), "other").unwrap();
        assert_ne!(pack(&one).hash, pack(&two).hash);
        assert!(super::pack(&one.path().join("nothing")).is_err());
    }

    #[test]
    fn names_are_no_patterns() {
        assert_eq!(escape_pattern("a*[b]?"), "a[*][[]b][?]");
    }
}
