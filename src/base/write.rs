//! Writing an artifact whole: temp file in the destination's own directory → write all → flush → rename → flush the directory.
//!
//! [`Staged::write`] does the first half, [`commit`] the second for many at once. A [`Staged`] owns a share of its directory's lock, so
//! the lock cannot be let go before the rename; dropped without a commit it removes its temp file (W2).
//!
//! Written by `write` alone: no mmap, no `io_uring`. What cannot be recorded cannot be crash-tested.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::lock::DirLock;
use super::share::Labels;
use super::sys::{self, Dir, Name, Stat, Time};
use super::together::together;
use super::{Result, leftover, seam, share};
use crate::ignored;

/// How safe from a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Durability {
    /// Nothing is flushed, as CPython does: a power cut may leave empty files, which `verify` finds.
    None,
    /// Many files are written, then flushed together, then renamed: little dearer than no flush at all.
    Batch,
    /// Every file is flushed and renamed on its own.
    Full,
}

impl Durability {
    /// The word of the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Batch => "batch",
            Self::Full => "full",
        }
    }
}

/// An artifact that is written under a temp name and not yet renamed.
#[derive(Debug)]
#[must_use]
pub struct Staged {
    lock: Arc<DirLock>,
    temp: Name,
    to: Name,
    file: Option<File>,
    len: u64,
    renamed: bool,
    /// Has it got its name already, as a link of a whole file?
    stands: bool,
    /// Has the temp name a file that has other names too, or will have?
    linked: bool,
    second: Option<Arc<Second>>,
}

/// Another name that an artifact gets as soon as it is flushed, for others to find it by.
#[derive(Debug)]
pub struct Second {
    /// The directory of the shards, this user's own.
    pub top: Arc<Dir>,
    /// The shard, made where it is not there.
    pub shard: Name,
    /// The name in it.
    pub name: Name,
    /// Does it replace what has this name? Else that stays.
    pub replaces: bool,
    /// What the artifact is once it has this name, or why it has not. Nothing: another file keeps the name.
    pub given: OnceLock<Result<Stat>>,
}

impl Second {
    fn give(&self, dir: &Dir, temp: &Name) -> Result<Option<Stat>> {
        let shard = match self.top.open_in(&self.shard) {
            Err(error) if error.is_absent() => {
                self.top.make_dir(&self.shard, 0o700)?;
                self.top.open_in(&self.shard)
            }
            opened => opened,
        }?;
        if self.replaces {
            match shard.unlink(&self.name) {
                Err(error) if error.is_absent() => tracing::debug!(cause = %error.sentence(), "nothing to replace"),
                removed => removed?,
            }
        }
        match shard.link_new(&self.name, dir, temp) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                tracing::debug!(cause = %error.sentence(), "somebody else was first");
                self.take(&shard, dir, temp).map(|()| None)
            }
            given => given.and_then(|()| dir.stat_of(temp).map(Some)),
        }
    }

    /// Several who made the same at one time have one file of it in the end: that of the first, under this temp name too.
    fn take(&self, shard: &Dir, dir: &Dir, temp: &Name) -> Result<()> {
        let path = shard.path_of(&self.name);
        let (own, theirs) = (dir.open_file(temp)?, shard.open_file(&self.name)?);
        let (mine, stat) = (sys::stat(&own, &path)?, sys::stat(&theirs, &path)?);
        let alike = |stat: &Stat| (stat.kind, stat.uid, stat.gid, stat.mode, stat.size);
        // An edit of the source since ours was begun must not be older than the artifact.
        if alike(&mine) != alike(&stat) || stat.mtime > mine.mtime || mine.same_file(&stat) {
            return Ok(());
        }
        let read = |file: &File| sys::read_all(file, mine.size, mine.size, &path);
        if read(&own)? != read(&theirs)? || Labels::of_file(&own, &path)? != Labels::of_file(&theirs, &path)? {
            return Ok(());
        }
        let (other, ()) = leftover::fresh(".tmp", dir.path(), |other| dir.link_new(other, shard, &self.name))?;
        let moved = if dir.stat_of(&other)?.same_file(&stat) { dir.rename(&other, temp) } else { dir.unlink(&other) };
        if moved.is_err() {
            ignored!(dir.unlink(&other), "a temp file stays behind for the next run to sweep");
        }
        moved
    }
}

impl Staged {
    /// Writes `bytes` to a temp file beside `to`, in the locked directory.
    ///
    /// `from`, the file that it is made from, gives the permission bits as CPython takes them from the source; `mtime` becomes the
    /// artifact's own.
    pub fn write(lock: &Arc<DirLock>, to: &Name, bytes: &[u8], from: &Stat, mtime: Time) -> Result<Self> {
        Self::make(lock, to, bytes.len() as u64, from, mtime, |file, path| match sys::write_all(file, bytes, path) {
            Err(_) if seam::without("write-errors") => Ok(()),
            answer => answer,
        })
    }

    /// The same with the bytes of an open file of `len` bytes, whose blocks it shares.
    pub fn clone_of(lock: &Arc<DirLock>, to: &Name, shared: &File, len: u64, from: &Stat, mtime: Time) -> Result<Self> {
        Self::make(lock, to, len, from, mtime, |file, path| share::clone(file, shared, path))
    }

    fn make(
        lock: &Arc<DirLock>,
        to: &Name,
        len: u64,
        from: &Stat,
        mtime: Time,
        fill: impl FnOnce(&File, &Path) -> Result<()>,
    ) -> Result<Self> {
        let dir = lock.dir();
        // The umask is the kernel's to apply, as it is for CPython.
        let mode = (from.mode | 0o200) & 0o666;
        let (temp, file) = leftover::fresh(".tmp", dir.path(), |name| dir.create_new(name, mode))?;
        let (lock, to) = (Arc::clone(lock), to.clone());
        let staged = Self { lock, temp, to, file: Some(file), len, renamed: false, stands: false, linked: false, second: None };
        let path = staged.path();
        if let Some(file) = &staged.file {
            fill(file, &path)?;
            follow_directory(file, staged.lock.dir_stat(), from, &path);
            sys::set_mtime(file, mtime, &path)?;
        }
        Ok(staged)
    }

    /// Links a file that stands elsewhere, whole and flushed: `name` in `dir`, which was found to be `shared`. Nothing is written, so
    /// nothing is flushed but the directory. `Ok(None)`: another file has that name now.
    ///
    /// Where nothing stands at `to`, which `absent` supposes, the link gets its name at once: it is whole. Dropped without a
    /// commit it stays.
    pub fn link(lock: &Arc<DirLock>, to: &Name, absent: bool, dir: &Dir, name: &Name, shared: &Stat) -> Result<Option<Self>> {
        let into = lock.dir();
        if absent {
            match into.link_new(to, dir, name) {
                Ok(()) if into.stat_of(to)?.same_file(shared) || seam::without("link-inode") => {
                    let (lock, temp, to, len) = (Arc::clone(lock), to.clone(), to.clone(), shared.size);
                    return Ok(Some(Self { lock, temp, to, file: None, len, renamed: false, stands: true, linked: true, second: None }));
                }
                Ok(()) => return into.unlink(to).map(|()| None),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    tracing::debug!(cause = %error.sentence(), "somebody else made it");
                }
                Err(error) => return Err(error),
            }
        }
        let (temp, ()) = leftover::fresh(".tmp", into.path(), |temp| into.link_new(temp, dir, name))?;
        let (lock, to) = (Arc::clone(lock), to.clone());
        let staged = Self { lock, temp, to, file: None, len: shared.size, renamed: false, stands: false, linked: true, second: None };
        let same = staged.lock.dir().stat_of(&staged.temp)?.same_file(shared) || seam::without("link-inode");
        Ok(same.then_some(staged))
    }

    /// Gives it another name too, after it is flushed and before it gets its own: what has that name is as durable as this one.
    pub fn named_too(mut self, second: Arc<Second>) -> Self {
        self.linked = true;
        self.second = Some(second);
        self
    }

    /// The other name.
    pub fn second(&self) -> Option<&Arc<Second>> {
        self.second.as_ref()
    }

    /// The path that it will have.
    pub fn path(&self) -> PathBuf {
        self.lock.dir().path_of(&self.to)
    }

    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        self.len
    }

    /// The directory that it will stand in, as a number that is equal for equal directories.
    pub fn dir_id(&self) -> (u64, u64) {
        self.lock.dir_stat().id()
    }

    fn flush(&mut self, durability: Durability) -> Result<()> {
        let path = self.path();
        let Some(file) = self.file.take() else { return Ok(()) };
        if durability != Durability::None && !seam::without("file-flush") {
            match sys::sync(&file, &path) {
                Err(_) if seam::without("flush-errors") => {}
                answer => answer?,
            }
        }
        // A late write error is told at the close (NFS, quota), so it comes before the rename.
        sys::close(file, &path)
    }

    fn rename(&mut self) -> Result<Outcome> {
        let dir = self.lock.dir();
        if !seam::without("gone-directory") && !dir.is_in_place(self.lock.dir_stat())? {
            return Ok(Outcome::Gone);
        }
        if self.stands {
            self.renamed = true;
            self.lock.keep_directory();
            return Ok(Outcome::Written);
        }
        if let Some(second) = &self.second
            && let Some(given) = second.give(dir, &self.temp).transpose()
        {
            drop(second.given.set(given));
        }
        let moved = if seam::without("rename") { write_in_place(dir, &self.temp, &self.to) } else { dir.rename(&self.temp, &self.to) };
        match moved {
            Ok(()) => {
                self.renamed = true;
                if self.linked {
                    // POSIX: between two names of one file a rename does nothing.
                    match dir.unlink(&self.temp) {
                        Err(error) if error.is_absent() => {}
                        removed => ignored!(removed, "a temp file stays behind for the next run to sweep"),
                    }
                }
                self.lock.keep_directory();
                Ok(Outcome::Written)
            }
            Err(error) if error.is_gone() => {
                tracing::debug!(cause = %error.sentence(), "the temp file went away with its directory");
                Ok(Outcome::Gone)
            }
            Err(error) => Err(error),
        }
    }
}

/// What the rename saves us from. See [`seam`].
fn write_in_place(dir: &Dir, temp: &Name, to: &Name) -> Result<()> {
    let path = dir.path_of(to);
    let bytes = sys::read_all(&dir.open_file(temp)?, 0, u64::MAX, &path)?.unwrap_or_default();
    let file = match dir.open_lock_file(to, None) {
        Err(error) if error.is_gone() => dir.create_new(to, 0o644),
        opened => opened,
    }?;
    sys::empty(&file, &path)?;
    sys::write_all(&file, &bytes, &path)?;
    dir.unlink(temp)
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.renamed && !self.stands {
            ignored!(self.lock.dir().unlink(&self.temp), "a temp file stays behind for the next run to sweep, unless it is gone");
        }
    }
}

/// Whose what is made in this directory shall be, user (`None`: who makes it) and group: the directory's, where root makes it for another, or
/// the directory asks for it (setgid). Else who runs first would lock the others out. `None`: it stays with who makes it.
pub fn heirs(dir: &Stat) -> Option<(Option<u32>, u32)> {
    let root_for_another = sys::effective_user() == 0 && dir.uid != 0;
    (root_for_another || dir.mode & 0o2000 != 0).then_some((root_for_another.then_some(dir.uid), dir.gid))
}

/// Gives an artifact to its [`heirs`], and the group's permissions follow the directory too. Best effort: unmapped users, root squash and
/// vfat refuse it.
fn follow_directory(file: &File, dir: &Stat, from: &Stat, path: &Path) {
    let Some((uid, gid)) = heirs(dir).filter(|_| !seam::without("owner")) else { return };
    // A source in their directory that is not theirs to read (a hard link may have put it there) would be theirs to read as bytecode.
    if uid.is_some() && from.uid != dir.uid && from.mode & 0o004 == 0 && !seam::without("private-sources") {
        ignored!(sys::set_mode(file, 0o600, path), "the artifact is as open as its source");
        return;
    }
    ignored!(sys::set_owner(file, uid, Some(gid), path), "the artifact keeps its owner");
    // Who may not read the source gets nothing to read here, and nothing to write either.
    let group = if from.mode & 0o040 == 0 { 0 } else { dir.mode & 0o060 };
    if group != 0 {
        let widened = sys::stat(file, path).and_then(|own| sys::set_mode(file, own.mode | group, path));
        ignored!(widened, "the artifact is not as open to the group as its directory");
    }
}

/// What became of one staged artifact.
#[derive(Debug)]
pub enum Outcome {
    /// It stands under its name, as durable as asked.
    Written,
    /// Its directory went away meanwhile: there is nothing to write into, and that is nobody's fault.
    Gone,
}

/// Renames staged artifacts to their names, in the order that the durability asks for; the outcomes are in the order given.
///
/// An error is one artifact's own: its old state stays and its temp file is removed. Only a failed flush of the directory comes after
/// the rename: then the new artifact stands there, and may be the old one again after a power cut.
pub fn commit(mut staged: Vec<Staged>, durability: Durability) -> Vec<Result<Outcome>> {
    match durability {
        Durability::Full | Durability::None => staged.into_iter().map(|one| commit_one(one, durability)).collect(),
        Durability::Batch => {
            // Without this first step each of the flushes below would be a journal commit of its own.
            for file in staged.iter().filter_map(|one| one.file.as_ref()) {
                sys::start_writeout(file);
            }
            if seam::without("flush-before-rename") {
                for one in &mut staged {
                    ignored!(one.rename(), "the flush tells");
                }
            }
            let mut outcomes = together(&mut staged, |one| one.flush(durability).map(|()| Outcome::Gone));
            for (one, outcome) in staged.iter_mut().zip(&mut outcomes) {
                if outcome.is_ok() {
                    *outcome = if one.renamed { Ok(Outcome::Written) } else { one.rename() };
                }
            }
            sync_directories(&staged, &mut outcomes);
            outcomes
        }
    }
}

fn commit_one(mut one: Staged, durability: Durability) -> Result<Outcome> {
    one.flush(durability)?;
    let outcome = one.rename()?;
    if durability == Durability::Full && matches!(outcome, Outcome::Written) {
        sync_directory(&one.lock)?;
    }
    Ok(outcome)
}

/// Flushes each directory once, and tells a failure to all that were renamed in it.
fn sync_directories(staged: &[Staged], outcomes: &mut [Result<Outcome>]) {
    let renamed = || staged.iter().zip(outcomes.iter()).filter(|(_, outcome)| matches!(outcome, Ok(Outcome::Written))).map(|(one, _)| one);
    let mut seen = HashSet::new();
    let mut locks: Vec<&DirLock> = renamed().filter(|one| seen.insert(one.dir_id())).map(|one| &*one.lock).collect();
    let failed: HashMap<_, _> =
        together(&mut locks, |lock| Some((lock.dir_stat().id(), sync_directory(lock).err()?))).into_iter().flatten().collect();
    for (one, outcome) in staged.iter().zip(outcomes) {
        if let (Ok(Outcome::Written), Some(error)) = (&outcome, failed.get(&one.dir_id())) {
            *outcome = Err(error.again());
        }
    }
}

/// The directory, and the one above: whoever made this directory may have died before flushing its name.
fn sync_directory(lock: &DirLock) -> Result<()> {
    if !seam::without("directory-flush") {
        lock.dir().sync()?;
    }
    match lock.dir().place() {
        Some((parent, _)) if !seam::without("name-flush") => parent.sync(),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test's own files")]
mod tests {
    use super::super::lock::Attempt;
    use super::*;

    fn locked(top: &tempfile::TempDir) -> Arc<DirLock> {
        let root = Arc::new(Dir::open_root(top.path()).unwrap());
        root.make_dir(&Name::new("c").unwrap(), 0o777).unwrap();
        let dir = Arc::new(root.open_in(&Name::new("c").unwrap()).unwrap());
        match DirLock::try_take(&dir).unwrap() {
            Attempt::Held(lock) => Arc::new(lock),
            Attempt::Busy(holder) => panic!("busy: {holder:?}"),
        }
    }

    fn names(top: &tempfile::TempDir) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(top.path().join("c")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn w1_the_old_artifact_stands_until_the_commit_and_w2_a_dropped_one_leaves_nothing() {
        for durability in [Durability::None, Durability::Batch, Durability::Full] {
            let top = tempfile::tempdir().unwrap();
            let lock = locked(&top);
            let path = top.path().join("c/a.pyc");
            std::fs::write(&path, b"old").unwrap();
            let from = Stat { mode: 0o444, ..*lock.dir_stat() };
            let stage = |bytes: &[u8]| Staged::write(&lock, &Name::new("a.pyc").unwrap(), bytes, &from, Time { sec: 5, nsec: 6 }).unwrap();
            drop(stage(b"dropped"));
            assert_eq!(std::fs::read(&path).unwrap(), b"old");
            let staged = stage(b"new");
            assert_eq!(std::fs::read(&path).unwrap(), b"old");
            assert!(matches!(commit(vec![staged], durability)[..], [Ok(Outcome::Written)]));
            assert_eq!(std::fs::read(&path).unwrap(), b"new");
            let stat = sys::stat(&File::open(&path).unwrap(), &path).unwrap();
            assert_eq!(stat.mtime, Time { sec: 5, nsec: 6 });
            assert_eq!(stat.mode & 0o200, 0o200, "a read-only source has a writable artifact, as in CPython");
            assert_eq!(names(&top), [".bytekeep.lock", "a.pyc"]);
            drop(lock);
            assert_eq!(names(&top), ["a.pyc"]);
        }
    }

    #[test]
    fn w4_a_directory_that_went_away_is_an_answer() {
        let top = tempfile::tempdir().unwrap();
        let lock = locked(&top);
        let stage = |name: &str| Staged::write(&lock, &Name::new(name).unwrap(), b"new", lock.dir_stat(), Time::now()).unwrap();
        let staged = vec![stage("a.pyc"), stage("b.pyc")];
        std::fs::rename(top.path().join("c"), top.path().join("elsewhere")).unwrap();
        std::fs::create_dir(top.path().join("c")).unwrap();
        for outcome in commit(staged, Durability::Batch) {
            assert!(matches!(outcome, Ok(Outcome::Gone)), "{outcome:?}");
        }
        drop(lock);
        assert_eq!(names(&top), [""; 0]);
        assert_eq!(std::fs::read_dir(top.path().join("elsewhere")).unwrap().count(), 0);
    }

    #[test]
    fn w5_a_second_name_is_given_when_the_file_is_flushed_and_another_tree_gets_a_link_of_it() {
        for durability in [Durability::None, Durability::Batch, Durability::Full] {
            let (top, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let lock = locked(&top);
            let name = |text: &str| Name::new(text).unwrap();
            let dir = Arc::new(Dir::open_root(store.path()).unwrap());
            let second = |replaces| {
                let (top, shard, name) = (Arc::clone(&dir), name("ab"), name("abcd"));
                Arc::new(Second { top, shard, name, replaces, given: OnceLock::new() })
            };
            let write = |bytes: &[u8]| Staged::write(&lock, &name("a.pyc"), bytes, lock.dir_stat(), Time::now()).unwrap();
            let put = |staged, is: &[u8]| {
                assert!(matches!(commit(vec![staged], durability)[..], [Ok(Outcome::Written)]));
                assert_eq!(std::fs::read(store.path().join("ab/abcd")).unwrap(), is);
                assert_eq!(names(&top), [".bytekeep.lock", "a.pyc"]);
            };
            let staged = write(b"first").named_too(second(false));
            assert!(!store.path().join("ab").exists(), "not before it is flushed");
            put(staged, b"first");
            put(write(b"second").named_too(second(false)), b"first");
            assert_eq!(std::fs::read(top.path().join("c/a.pyc")).unwrap(), b"second");
            // The same, made later: then it is the very file.
            put(write(b"first").named_too(second(false)), b"first");
            let ino = |path: PathBuf| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap());
            let is_one = || ino(top.path().join("c/a.pyc")) == ino(store.path().join("ab/abcd"));
            assert!(is_one());
            // But not where that has a later time than the look at the source.
            let early = Staged::write(&lock, &name("a.pyc"), b"first", lock.dir_stat(), Time { sec: 5, nsec: 0 }).unwrap();
            put(early.named_too(second(false)), b"first");
            assert!(!is_one());
            put(write(b"third").named_too(second(true)), b"third");
            let shard = dir.open_beneath(Path::new("ab")).unwrap();
            let shared = shard.stat_of(&name("abcd")).unwrap();
            let link_to = |to: &str, absent| Staged::link(&lock, &name(to), absent, &shard, &name("abcd"), &shared).unwrap();
            let link = |to: &str| link_to(to, false);
            // What is wrongly supposed to be absent is replaced as well.
            put(write(b"other"), b"third");
            put(link_to("a.pyc", true).unwrap(), b"third");
            assert!(is_one());
            put(link_to("a.pyc", true).unwrap(), b"third");
            std::fs::remove_file(top.path().join("c/a.pyc")).unwrap();
            put(link_to("a.pyc", true).unwrap(), b"third");
            assert!(is_one());
            // It is the file that stands there already: a rename alone would leave the temp name.
            put(link("a.pyc").unwrap(), b"third");
            drop(link("b.pyc"));
            assert_eq!(names(&top), [".bytekeep.lock", "a.pyc"]);
            assert!(matches!(commit(vec![link("b.pyc").unwrap()], durability)[..], [Ok(Outcome::Written)]));
            assert_eq!(std::fs::read(top.path().join("c/b.pyc")).unwrap(), b"third");
            std::fs::remove_file(top.path().join("c/b.pyc")).unwrap();
            // Another file has the name since it was looked at.
            put(write(b"fourth").named_too(second(true)), b"fourth");
            assert!(link("d.pyc").is_none() && link_to("d.pyc", true).is_none());
            assert_eq!(names(&top), [".bytekeep.lock", "a.pyc"]);
        }
    }

    #[test]
    fn a_failure_is_one_artifacts_own() {
        let top = tempfile::tempdir().unwrap();
        let lock = locked(&top);
        std::fs::create_dir_all(top.path().join("c/dir.pyc/full")).unwrap();
        let stage = |name: &str| Staged::write(&lock, &Name::new(name).unwrap(), b"new", lock.dir_stat(), Time::now()).unwrap();
        let outcomes = commit(vec![stage("dir.pyc"), stage("b.pyc")], Durability::Batch);
        assert!(matches!(outcomes[..], [Err(_), Ok(Outcome::Written)]), "{outcomes:?}");
        drop(lock);
        assert_eq!(names(&top), ["b.pyc", "dir.pyc"]);
    }
}
