//! What compileall comes to, in its order: directories listed by sorted names, files told or passed over. Only names are looked at here;
//! what is compiled is opened by the pipeline, beneath what was named.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering as Atomic};

use super::args::Asked;
use super::names::{Renamed, Renaming, directory, join, split};
use super::texts::Texts;
use crate::base::Result;
use crate::base::sys::{Dir, Name};
use crate::python::words::Words;

/// A source that is to be compiled.
#[derive(Debug, Clone)]
pub(super) struct File {
    /// Its path as compileall writes it.
    pub(super) path: Vec<u8>,
    /// Its directory and its name in it.
    pub(super) dir: PathBuf,
    pub(super) name: Name,
    /// The directory that was named, where this lies in one.
    pub(super) within: Option<PathBuf>,
    /// The name that its code carries.
    pub(super) code_name: Vec<u8>,
}

impl File {
    /// Its directory, opened from what was named: no link below that is followed.
    pub(super) fn open_dir(&self) -> Result<Arc<Dir>> {
        match &self.within {
            Some(within) => Arc::new(Dir::open_root(within)?).open_beneath(self.dir.strip_prefix(within).unwrap_or(Path::new(""))),
            None => Ok(Arc::new(Dir::open_root(&self.dir)?)),
        }
    }
}

/// One thing after the other.
#[derive(Debug)]
pub(super) enum Step {
    /// A line is told.
    Say(String),
    /// A source's turn.
    File(usize),
    /// It breaks off, as by an exception that nobody catches: its last line.
    Break(String),
}

/// What there is to do.
#[derive(Debug, Default)]
pub(super) struct Walk {
    pub(super) steps: Vec<Step>,
    pub(super) files: Vec<File>,
    /// Somebody wanted it to end.
    pub(super) stopped: bool,
}

/// How the walk is made.
pub(super) struct Walker<'a> {
    pub(super) asked: &'a Asked,
    pub(super) version: (u8, u8, u8),
    pub(super) texts: &'a Texts<'a>,
    pub(super) words: &'a Words<'a>,
    pub(super) stop: &'a AtomicBool,
}

/// A directory whose names are not all seen yet.
struct Level {
    dir: Vec<u8>,
    names: std::vec::IntoIter<Vec<u8>>,
    renaming: Renaming,
    left: i64,
}

impl Walker<'_> {
    /// What was named, in its order.
    pub(super) fn of_dests(&self, dests: &[Vec<u8>]) -> std::result::Result<Walk, String> {
        let mut walk = Walk::default();
        let depth = if self.version < (3, 9, 0) { 10 } else { 1000 };
        let depth = self.asked.recursion.unwrap_or(if self.asked.flat { 0 } else { depth });
        for dest in dests {
            if metadata(dest).is_some_and(|seen| seen.is_file()) {
                self.file(&mut walk, dest, None, &Renaming::of_file(self.asked, self.version));
            } else if self.asked.workers.is_some_and(|workers| workers < 0) {
                walk.steps.push(Step::Break("ValueError: workers must be greater or equal to 0".to_owned()));
            } else {
                self.directory(&mut walk, dest, depth, Renaming::of_directory(self.asked, self.version, dest));
            }
            if walk.is_over() {
                break;
            }
        }
        self.leave_out(&mut walk)?;
        Ok(walk)
    }

    /// The interpreter's path, each directory without those below it.
    pub(super) fn of_path(&self, path: &[Vec<u8>]) -> Walk {
        let mut walk = Walk::default();
        for dir in path {
            if dir.is_empty() || dir == b"." {
                walk.say(self.asked.quiet < 2, || "Skipping current directory".to_owned());
            } else {
                self.directory(&mut walk, dir, 0, Renaming::default());
            }
            if walk.is_over() {
                break;
            }
        }
        walk
    }

    fn directory(&self, walk: &mut Walk, dest: &[u8], depth: i64, renaming: Renaming) {
        let mut levels = vec![self.list(walk, dest.to_vec(), depth, renaming)];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.next() else {
                levels.pop();
                continue;
            };
            if name == b"__pycache__" {
                continue;
            }
            let path = join(&level.dir, &name);
            if !metadata(&path).is_some_and(|seen| seen.is_dir()) {
                self.file(walk, &path, Some(dest), &level.renaming);
            } else if level.left > 0 && !as_path(&path).is_symlink() {
                let (left, renaming) = (level.left - 1, level.renaming.below(&name));
                levels.push(self.list(walk, path, left, renaming));
            }
            walk.stopped |= self.stop.load(Atomic::SeqCst);
            if walk.is_over() {
                return;
            }
        }
    }

    fn list(&self, walk: &mut Walk, dir: Vec<u8>, left: i64, renaming: Renaming) -> Level {
        walk.say(self.asked.quiet == 0, || format!("Listing {}...", self.texts.repr(&dir)));
        let mut names: Vec<Vec<u8>> = Vec::new();
        // To `os.listdir` the empty path is none; to the system neither.
        match std::fs::read_dir(as_path(&dir)).and_then(Iterator::collect::<std::io::Result<Vec<_>>>) {
            Ok(entries) => names.extend(entries.iter().map(|entry| entry.file_name().as_bytes().to_vec())),
            Err(cause) => {
                tracing::debug!(path = %as_path(&dir).display(), %cause, "cannot be listed");
                walk.say(self.asked.quiet < 2, || format!("Can't list {}", self.texts.repr(&dir)));
            }
        }
        names.sort_by(|one, other| as_python_sorts(one, other));
        Level { dir, names: names.into_iter(), renaming, left }
    }

    fn file(&self, walk: &mut Walk, path: &[u8], dest: Option<&[u8]>, renaming: &Renaming) {
        let code_name = match renaming.of(path) {
            Renamed::Own => path.to_vec(),
            Renamed::To(name) => name,
            Renamed::Unstripped(name) => {
                walk.say(self.asked.quiet < 2, || {
                    let (strip, source) = (self.texts.repr(renaming.stripped()), self.texts.repr(path));
                    format!("The stripdir path {strip} is not a valid prefix for source path {source}; ignoring")
                });
                name.unwrap_or_else(|| path.to_vec())
            }
            Renamed::Nothing => {
                return walk.steps.push(Step::Break("TypeError: join() missing 1 required positional argument: 'a'".to_owned()));
            }
        };
        if self.asked.hardlink_dupes && self.asked.levels.len() < 2 {
            let text = "ValueError: Hardlinking of duplicated bytecode makes sense only for more than one optimization level";
            return walk.steps.push(Step::Break(text.to_owned()));
        }
        let (_, tail) = split(path);
        let is_source = tail.ends_with(b".py") && metadata(path).is_some_and(|seen| seen.is_file());
        let Some(name) = Name::from_bytes(tail).filter(|_| is_source && !self.leads_out(path)) else { return };
        let within = dest.map(|dest| as_path(dest).to_path_buf());
        walk.steps.push(Step::File(walk.files.len()));
        walk.files.push(File { path: path.to_vec(), dir: directory(path), name, within, code_name });
    }

    /// `-e`: a link that leads out of that directory.
    fn leads_out(&self, path: &[u8]) -> bool {
        let Some(limit) = self.asked.limit_links.as_ref().filter(|_| as_path(path).is_symlink()) else { return false };
        let real = |path: &Path| path.canonicalize().or_else(|_| std::path::absolute(path));
        match (real(as_path(path)), real(Path::new(limit))) {
            (Ok(real), Ok(limit)) => !real.parent().is_some_and(|above| above.starts_with(limit)),
            _ => true,
        }
    }

    /// `-x`: what matches is not looked at any further.
    fn leave_out(&self, walk: &mut Walk) -> std::result::Result<(), String> {
        if self.asked.pattern.is_none() {
            return Ok(());
        }
        let paths: Vec<&[u8]> = walk.files.iter().map(|file| file.path.as_slice()).collect();
        let found = self.words.found(&paths)?;
        walk.steps.retain(|step| !matches!(step, Step::File(index) if found.get(*index) == Some(&true)));
        Ok(())
    }
}

impl Walk {
    fn say(&mut self, is_wanted: bool, line: impl FnOnce() -> String) {
        if is_wanted {
            self.steps.push(Step::Say(line() + "\n"));
        }
    }

    fn is_over(&self) -> bool {
        self.stopped || matches!(self.steps.last(), Some(Step::Break(_)))
    }
}

pub(super) fn as_path(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}

/// Through links, as `os.path.isfile` and `isdir` look.
fn metadata(path: &[u8]) -> Option<std::fs::Metadata> {
    as_path(path).metadata().ok()
}

/// By code points; a byte that is no UTF-8 is the lone surrogate that Python makes of it.
fn as_python_sorts(one: &[u8], other: &[u8]) -> Ordering {
    fn points(text: &[u8]) -> impl Iterator<Item = u32> + '_ {
        text.utf8_chunks()
            .flat_map(|chunk| chunk.valid().chars().map(u32::from).chain(chunk.invalid().iter().map(|byte| 0xDC00 + u32::from(*byte))))
    }
    points(one).cmp(points(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorted_as_python_sorts() {
        let mut names: Vec<&[u8]> = vec![b"\xff", "\u{e000}".as_bytes(), "\u{10000}".as_bytes(), "é".as_bytes(), b"a", b"Z", b"a\xff"];
        names.sort_by(|one, other| as_python_sorts(one, other));
        let sorted: Vec<&[u8]> = vec![b"Z", b"a", b"a\xff", "é".as_bytes(), b"\xff", "\u{e000}".as_bytes(), "\u{10000}".as_bytes()];
        assert_eq!(names, sorted);
    }
}
