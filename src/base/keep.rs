//! Copies of files that are about to go, in a directory of evidence, each with a report beside it.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::sys::{self, Dir, Name};
use super::{Error, Result};
use crate::ignored;

/// The most of a bad artifact that is kept: what is larger is told in the report beside it.
const KEPT: u64 = 256 << 20;
const PIECE: usize = 1 << 20;

/// Copies a file that will go to a directory of evidence, with reports beside it, of which `object` is the one for programs:
/// `<path>-<bytes>-<name>`, and the same with `.txt` and `.json`, where the first two are digests of the absolute path and of the bytes. So
/// files of two trees never share a name, and neither do two states of one file: each is kept. What was kept before with the same bytes
/// stays as it is, with its reports: the first look tells most.
pub fn keep_copy(keep: &Dir, file: &File, from: &Path, name: &Name, report: &str, object: Option<&[u8]>) -> Result<()> {
    let absolute = absolute(from);
    let size = sys::stat(file, from)?.size;
    let path_digest = short(blake3::hash(absolute.as_os_str().as_encoded_bytes()));
    let named = |stem: &[u8], suffix: &[u8]| {
        let bytes = [&stem[..stem.len().min(200)], suffix].concat();
        Name::from_bytes(&bytes).ok_or_else(|| Error::new("name a copy of", from, std::io::ErrorKind::InvalidInput))
    };
    let mut digest = blake3::Hasher::new();
    // Not a temp file by our names: this directory is not locked, and where it lies in a tree they would be swept at once. Only the
    // holder of the artifact's own lock copies it, so what is there is a dead one's.
    let part = named(&[path_digest.as_bytes(), b"-", name.as_bytes()].concat(), b".part")?;
    let copied = fill(keep, &part, |made, path| {
        let mut piece = vec![0; PIECE];
        let mut at = 0;
        while at < size.min(KEPT) {
            let got = sys::read_at(file, &mut piece, at, from)?;
            if got == 0 {
                break;
            }
            digest.update(&piece[..got]);
            sys::write_all(made, &piece[..got], path)?;
            at += got as u64;
        }
        Ok(())
    });
    let kept = copied.and_then(|()| {
        let stem = [path_digest.as_bytes(), b"-", short(digest.finalize()).as_bytes(), b"-", name.as_bytes()].concat();
        let absolute = PathBuf::from(one_line(&absolute.to_string_lossy()));
        let cut = if size > KEPT { format!("only the first {KEPT} of its {size} bytes are kept\n") } else { String::new() };
        let note = format!("{}\n{report}{cut}", absolute.display());
        let to = named(&stem, b"")?;
        if keep.stat_of(&to).is_ok() {
            return keep.unlink(&part);
        }
        // The reports come first: a copy is never there without them.
        for (suffix, text) in [(".txt", Some(note.as_bytes())), (".json", object)] {
            let Some(text) = text else { continue };
            let half = named(&stem, format!("{suffix}.part").as_bytes())?;
            fill(keep, &half, |made, path| sys::write_all(made, text, path))?;
            keep.rename(&half, &named(&stem, suffix.as_bytes())?)?;
        }
        keep.rename(&part, &to)
    });
    if kept.is_err() {
        ignored!(keep.unlink(&part), "half a copy stays in the directory of evidence");
    }
    kept
}

/// A new file of this name, in place of one that a dead process left.
fn fill(keep: &Dir, name: &Name, write: impl FnOnce(&File, &Path) -> Result<()>) -> Result<()> {
    match keep.unlink(name) {
        Err(error) if !error.is_gone() => return Err(error),
        _ => {}
    }
    let made = keep.create_new(name, 0o600)?;
    write(&made, &keep.path_of(name))
}

/// The path from the root of the file system, through links where that can be told: one file has one name here, however it was spelled.
pub fn absolute(path: &Path) -> PathBuf {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (dir.canonicalize(), path.file_name()) {
        (Ok(dir), Some(name)) => dir.join(name),
        _ => std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()),
    }
}

/// Text as one line of a report: a path or a name may hold anything, and none of it shall pass for a line of the report's own.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

fn short(digest: blake3::Hash) -> String {
    digest.to_hex()[..12].to_owned()
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test's own files")]
mod tests {
    use super::*;

    fn kept(top: &Path) -> Vec<(String, Vec<u8>)> {
        let entries = std::fs::read_dir(top.join("keep")).unwrap().map(|entry| entry.unwrap().path());
        let mut all: Vec<_> =
            entries.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap())).collect();
        all.sort();
        all
    }

    #[test]
    fn every_state_of_every_file_is_kept_once() {
        let top = tempfile::tempdir().unwrap();
        for dir in ["keep", "one", "two"] {
            std::fs::create_dir(top.path().join(dir)).unwrap();
        }
        let keep = Dir::open_root(&top.path().join("keep")).unwrap();
        let name = Name::new("a.pyc").unwrap();
        let copy = |dir: &str, bytes: &[u8], report: &str| {
            let path = top.path().join(dir).join("a.pyc");
            std::fs::write(&path, bytes).unwrap();
            keep_copy(&keep, &File::open(&path).unwrap(), &path, &name, report, None).unwrap();
        };
        copy("one", b"torn", "first\n");
        copy("one", b"torn", "second\n");
        assert_eq!(kept(top.path()).len(), 2);
        copy("two", b"torn", "third\n");
        copy("one", b"torn otherwise", "fourth\n");
        copy("two/../one", b"torn", "fifth\n");
        let all = kept(top.path());
        assert_eq!(all.len(), 6, "{all:?}");
        let copies: Vec<&[u8]> = all.iter().filter(|(name, _)| name.ends_with(".pyc")).map(|(_, bytes)| &bytes[..]).collect();
        assert_eq!(copies.iter().filter(|bytes| **bytes == b"torn").count(), 2);
        assert!(copies.contains(&&b"torn otherwise"[..]));
        let notes: String =
            all.iter().filter(|(name, _)| name.ends_with(".txt")).map(|(_, text)| String::from_utf8_lossy(text).into_owned()).collect();
        for (report, is_there) in [("first", true), ("second", false), ("third", true), ("fourth", true), ("fifth", false)] {
            assert_eq!(notes.contains(report), is_there, "{notes}");
        }
        assert!(notes.starts_with('/'), "the path is absolute: {notes}");
    }

    #[test]
    fn a_dead_ones_half_copy_is_replaced() {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir(top.path().join("keep")).unwrap();
        let path = top.path().join("a.pyc");
        std::fs::write(&path, b"torn").unwrap();
        let half = format!("{}-a.pyc.part", short(blake3::hash(absolute(&path).as_os_str().as_encoded_bytes())));
        std::fs::write(top.path().join("keep").join(&half), b"to").unwrap();
        let keep = Dir::open_root(&top.path().join("keep")).unwrap();
        keep_copy(&keep, &File::open(&path).unwrap(), &path, &Name::new("a.pyc").unwrap(), "", None).unwrap();
        let all = kept(top.path());
        assert!(all.len() == 2 && all.iter().all(|(name, _)| !name.ends_with(".part")), "{all:?}");
    }
}
