//! Records on their way into memory: what is kept of them, and what bounds the reading.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::base::sys::{self, Dir, Kind, Name};

/// The most that is read of one manager's records, bytes: those of 100,000 packages are less.
const LIMIT: u64 = 1 << 30;
/// Longer lines hold no path that the system takes (`PATH_MAX`) and are passed over, bytes.
const LONGEST_LINE: u64 = 16 << 10;

/// Recorded files: device and inode of the directory, and the name. By the directory and not by its path, since records say `/lib` where
/// people say `/usr/lib`.
pub(super) type Files = HashSet<((u64, u64), Vec<u8>)>;

/// Reads the records of one manager.
pub(super) struct Reading<'a> {
    /// Where recorded paths begin.
    pub(super) root: &'a Path,
    ends: &'static [&'static str],
    stop: &'a AtomicBool,
    until: Instant,
    left: u64,
    /// The directory of the last path, which is that of the next one too most times.
    dir: PathBuf,
    id: Option<(u64, u64)>,
    /// What was found.
    pub(super) files: Files,
}

impl<'a> Reading<'a> {
    /// Nothing read yet. Only names with one of these ends are kept.
    pub(super) fn new(root: &'a Path, ends: &'static [&'static str], stop: &'a AtomicBool, until: Instant) -> Self {
        Self { root, ends, stop, until, left: LIMIT, dir: PathBuf::new(), id: None, files: Files::new() }
    }

    /// Until when records may be read.
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// An error when the time is over, or when somebody wants all to end.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.stop.load(Ordering::SeqCst) {
            return Err("interrupted".to_owned());
        }
        if Instant::now() >= self.until { Err("reading them took too long".to_owned()) } else { Ok(()) }
    }

    /// A recorded path, absolute or relative to the root. It counts where its directory is there.
    pub(super) fn record(&mut self, path: &[u8]) {
        if !self.ends.iter().any(|end| path.ends_with(end.as_bytes())) {
            return;
        }
        let path = Path::new(std::ffi::OsStr::from_bytes(path));
        let path = path.strip_prefix("/").unwrap_or(path);
        let is_plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        let (Some(dir), Some(name)) = (path.parent().filter(|_| is_plain), path.file_name()) else { return };
        if self.id.is_none() || self.dir != dir {
            // A record of what is not there lists nothing.
            self.id = sys::look_up(&self.root.join(dir)).ok().map(|dir| dir.id());
            self.dir = dir.to_path_buf();
        }
        self.files.extend(self.id.map(|id| (id, name.as_bytes().to_vec())));
    }

    /// Opens a file of a database: no link is followed there, and nothing but a regular file is read.
    pub(super) fn open(dir: &Dir, name: &Name) -> Result<File, String> {
        let file = dir.open_file(name).map_err(|error| error.sentence())?;
        let path = dir.path_of(name);
        let stat = sys::stat(&file, &path).map_err(|error| error.sentence())?;
        if stat.kind == Kind::File { Ok(file) } else { Err(format!("`{}` is {}, not a file", path.display(), stat.kind.noun())) }
    }

    /// Gives each line to `take`, without its end.
    pub(super) fn lines(&mut self, from: impl Read, place: &Path, mut take: impl FnMut(&mut Self, &[u8])) -> Result<(), String> {
        let mut from = BufReader::with_capacity(64 << 10, from);
        let unread = |cause: std::io::Error| format!("cannot read `{}`: {cause}", place.display());
        let (mut line, mut number) = (Vec::new(), 0_u64);
        loop {
            line.clear();
            let length = from.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line).map_err(unread)?;
            if length == 0 {
                return self.check();
            }
            self.spend(length as u64)?;
            number += 1;
            if number % 1024 == 0 {
                self.check()?;
            }
            match line.strip_suffix(b"\n") {
                Some(line) => take(self, line),
                None if (length as u64) < LONGEST_LINE => take(self, &line),
                None => self.skip_line(&mut from).map_err(unread)?,
            }
        }
    }

    /// The rest of a line that is too long.
    fn skip_line(&mut self, from: &mut impl BufRead) -> std::io::Result<()> {
        loop {
            let held = from.fill_buf()?;
            let end = held.iter().position(|byte| *byte == b'\n');
            let length = end.map_or(held.len(), |at| at.saturating_add(1));
            from.consume(length);
            self.spend(length as u64).map_err(std::io::Error::other)?;
            if end.is_some() || length == 0 {
                return Ok(());
            }
        }
    }

    /// The whole of a file that is small enough.
    pub(super) fn whole(&mut self, file: &File, place: &Path, limit: u64) -> Result<Vec<u8>, String> {
        self.check()?;
        let size = sys::stat(file, place).map_err(|error| error.sentence())?.size;
        let bytes = sys::read_all(file, size, limit.min(self.left), place).map_err(|error| error.sentence())?;
        let bytes = bytes.ok_or_else(|| format!("`{}` is too large to be a record", place.display()))?;
        self.spend(bytes.len() as u64)?;
        Ok(bytes)
    }

    fn spend(&mut self, bytes: u64) -> Result<(), String> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| format!("they have more than {LIMIT} bytes"))?;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test's own files")]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;

    /// What a manager's records below a root come to: paths relative to it, of those whose directory is there.
    pub(in super::super) fn read(root: &Path, read: impl FnOnce(&mut Reading<'_>) -> Result<(), String>) -> Result<Vec<String>, String> {
        let stop = AtomicBool::new(false);
        let mut reading = Reading::new(root, &[".pyc"], &stop, Instant::now() + Duration::from_secs(60));
        read(&mut reading)?;
        let mut found = Vec::new();
        for entry in walkdir::WalkDir::new(root).into_iter().map(Result::unwrap).filter(|entry| entry.file_type().is_dir()) {
            let id = sys::look_up(entry.path()).unwrap().id();
            for (_, name) in reading.files.iter().filter(|(dir, _)| *dir == id) {
                let path = entry.path().join(std::ffi::OsStr::from_bytes(name));
                found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
        found.sort();
        Ok(found)
    }

    /// Writes a file with the directories above it.
    pub(in super::super) fn put(root: &Path, name: &str, text: &[u8]) {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn only_what_is_there_under_a_plain_path_counts() {
        let top = tempfile::tempdir().unwrap();
        put(top.path(), "usr/lib/p/a.py", b"");
        std::os::unix::fs::symlink("usr/lib", top.path().join("lib")).unwrap();
        let lines = b"/lib/p/a.pyc\nusr/lib/p/b.pyc\n/usr/lib/p/c.py\n/usr/lib/../lib/p/d.pyc\n/gone/e.pyc\n\n/usr/lib/p/f.pyc";
        let found = read(top.path(), |reading| reading.lines(&lines[..], Path::new("list"), Reading::record));
        assert_eq!(found.unwrap(), ["usr/lib/p/a.pyc", "usr/lib/p/b.pyc", "usr/lib/p/f.pyc"]);
    }

    #[test]
    fn a_line_without_end_is_passed_over() {
        let top = tempfile::tempdir().unwrap();
        put(top.path(), "p/a.py", b"");
        let long = [b"p/a.pyc\n".as_slice(), &vec![b'x'; 100_000], b"/p/b.pyc\np/c.pyc\n", &vec![b'y'; 100_000]].concat();
        let found = read(top.path(), |reading| reading.lines(long.as_slice(), Path::new("list"), Reading::record));
        assert_eq!(found.unwrap(), ["p/a.pyc", "p/c.pyc"]);
    }

    #[test]
    fn nothing_is_known_when_the_time_is_over() {
        let stop = AtomicBool::new(false);
        let mut reading = Reading::new(Path::new("/"), &[".pyc"], &stop, Instant::now());
        assert!(reading.lines(&b"a\n"[..], Path::new("list"), Reading::record).unwrap_err().contains("too long"));
        stop.store(true, Ordering::SeqCst);
        assert_eq!(reading.check().unwrap_err(), "interrupted");
    }
}
