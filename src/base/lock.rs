//! The lock of a directory of artifacts: a lock file in it, locked by the kernel, so that it dies with its holder.
//!
//! Taking: make the file, or open the one that is there, lock it, then compare the descriptor's inode with the path's and start over where they differ.
//! Releasing: remove the file *while still holding the lock*, then let go. Both halves are needed. Without the comparison, one who
//! opened the file before its removal locks a file that nobody else will ever see. With removal after the letting go, one who locked
//! the file in between loses it to us. Each gives two holders (L1).
//!
//! A lock on the directory itself would leave no file behind, but any reader of the directory could hold it for ever; who cannot write
//! the directory cannot make or open this file. And who may write the directory may also remove the file from under us: other tools
//! remove `__pycache__` as a whole. Then two may hold "the" lock, of the old directory and of the new one, and W4 keeps them apart.
//!
//! Nor is a file of that name ours because of its name. Whoever may write the directory may give the name to any file, by a hard link
//! too; so a file with other names is refused, root writes only into files of its own and of the directory's owner, and only a file
//! that was made here is given to somebody, made accessible, or removed unlocked.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::sys::{self, Dir, Kind, Name, Stat, Time};
use super::{Error, Result, leftover, seam};
use crate::ignored;

/// How often the file may be replaced under us before that is called busy.
const TRIES: u32 = 100;

/// Who holds a lock, as far as the lock file says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holder {
    /// Process id.
    pub pid: Option<u32>,
    /// The command's name.
    pub command: Option<String>,
    /// When it took the lock, seconds since 1970.
    pub since: Option<i64>,
}

impl Holder {
    fn own() -> Self {
        let command = std::env::args_os().take(2).map(|arg| arg.to_string_lossy().into_owned()).collect::<Vec<_>>();
        let program = command.first().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
        let verb = command.get(1).filter(|verb| verb.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'));
        let command = verb.map_or_else(|| program.to_owned(), |verb| format!("{program} {verb}"));
        Self { pid: Some(sys::process_id()), command: Some(command), since: Some(Time::now().sec) }
    }

    fn to_text(&self) -> String {
        let command = self.command.clone().unwrap_or_default().replace(|c: char| c.is_control(), " ");
        format!("{}\n{command}\n{}\n", self.pid.unwrap_or_default(), self.since.unwrap_or_default())
    }

    /// Reads what [`Holder::to_text`] wrote. The text is another's: anything in it may be missing or nonsense.
    fn parse(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let mut lines = text.lines();
        let pid = lines.next().and_then(|line| line.parse().ok());
        let command = lines.next().filter(|line| !line.is_empty()).map(|line| line.chars().filter(|c| !c.is_control()).take(60).collect());
        Self { pid, command, since: lines.next().and_then(|line| line.parse().ok()) }
    }

    fn read(file: &File, dir: &Dir) -> Self {
        let mut text = [0; 256];
        match sys::read_at(file, &mut text, 0, dir.path()) {
            Ok(length) => Self::parse(&text[..length]),
            Err(error) => {
                tracing::debug!(cause = %error.sentence(), "the lock file does not say who holds it");
                Self::default()
            }
        }
    }
}

/// What became of an attempt to take a lock.
#[derive(Debug)]
pub enum Attempt {
    /// It is ours.
    Held(DirLock),
    /// Somebody else has it. Benign: come back later.
    Busy(Holder),
}

/// The lock of one directory, released when dropped.
#[derive(Debug)]
#[must_use]
pub struct DirLock {
    dir: Arc<Dir>,
    stat: Stat,
    /// `None` where the file system has no usable lock.
    file: Option<File>,
    found: bool,
    when_empty: Mutex<WhenEmpty>,
}

/// What becomes of an empty directory when its lock is let go.
#[derive(Debug, Default)]
enum WhenEmpty {
    #[default]
    Stays,
    Goes,
    /// With those above it that are empty then, up to but without the first; the second is its own path below that.
    GoesUpTo(Arc<Dir>, PathBuf),
}

impl DirLock {
    /// Tries to take the lock of a directory. Never waits (L3).
    pub fn try_take(dir: &Arc<Dir>) -> Result<Attempt> {
        let stat = dir.stat()?;
        let held = |file, found| Attempt::Held(Self { dir: Arc::clone(dir), stat, file, found, when_empty: Mutex::default() });
        // A lock on a network file system can hang although it is only tried, so it is not even tried.
        if dir.on_network() {
            return Ok(held(None, false));
        }
        let name = leftover::lock_name();
        let path = dir.path_of(&name);
        for _ in 0..TRIES {
            // Whoever may write the directory may read and write its lock file: else a dead one's would keep the others out.
            let mode = if seam::without("lock-mode") { 0o666 } else { 0o600 | ((stat.mode & 0o022) * 3) };
            let (opened, created) = match create(dir, &name, mode, &stat) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    // A directory or a link cannot be opened for a lock, and the system's word for that says nothing of what it is.
                    match dir.stat_of(&name).map(|stat| obstacle(&stat)) {
                        Ok(None) => {}
                        Ok(Some(what)) => return Err(unusable(path, &what)),
                        Err(error) if error.is_gone() => {}
                        Err(error) => tracing::debug!(cause = %error.sentence(), "cannot tell what stands in the lock file's place"),
                    }
                    (dir.open_lock_file(&name, None), false)
                }
                made => (made, true),
            };
            let file = match opened {
                Ok(file) => file,
                // Its holder removed it between the two calls; or swept what we were about to name so.
                Err(error) if error.is_absent() => continue,
                // Another user's lock file that we may not open: they are at work, or died and their next run will sweep it.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied && dir.stat_of(&name).is_ok() => {
                    tracing::debug!(cause = %error.sentence(), "the lock counts as held");
                    return Ok(Attempt::Busy(Holder::default()));
                }
                Err(error) => return Err(error),
            };
            let own = sys::stat(&file, &path)?;
            if let Some(what) = obstacle(&own).filter(|_| !created) {
                return Err(unusable(path, &what));
            }
            match sys::try_lock(&file, &path) {
                Ok(true) => {}
                Ok(false) => return Ok(Attempt::Busy(Holder::read(&file, dir))),
                Err(error) if is_unsupported(&error) => {
                    tracing::debug!(cause = %error.sentence(), "going on without a lock");
                    if created {
                        ignored!(dir.unlink(&name), "a lock file that cannot be locked stays behind");
                    }
                    return Ok(held(None, false));
                }
                Err(error) => return Err(error),
            }
            match dir.stat_of(&name) {
                // Asked once more: of a link that was away for that moment the first question saw one name.
                Ok(named) if named.same_file(&own) => {
                    if let Some(what) = obstacle(&named).filter(|_| !created && !seam::without("names-again")) {
                        return Err(unusable(path, &what));
                    }
                }
                _ if seam::without("inode-comparison") => {}
                Ok(_) => continue,
                Err(error) if error.is_gone() => continue,
                Err(error) => return Err(error),
            }
            if created {
                share(&file, &own, &stat, mode, dir);
            } else if sys::effective_user() == 0 && own.uid != 0 && own.uid != stat.uid {
                return Err(unusable(path, "it belongs neither to root nor to the directory's owner"));
            }
            let text = Holder::own().to_text();
            // Never cut when it is empty already: ext4 and xfs write out what was cut to nothing when it is closed, and letting the lock go
            // would wait for the disk, once for each folder.
            let emptied = if own.size > 0 { sys::empty(&file, &path) } else { Ok(()) };
            ignored!(emptied.and_then(|()| sys::write_all(&file, text.as_bytes(), &path)), "the lock file does not name its holder");
            // A file that nobody has written to yet is one that somebody made a moment ago: we were faster to lock it.
            return Ok(held(Some(file), !created && own.size > 0));
        }
        Ok(Attempt::Busy(Holder::default()))
    }

    /// No lock at all, and the directory as it is now: for who removes where there is no room left for a lock file.
    pub fn without(dir: &Arc<Dir>) -> Result<Self> {
        Ok(Self { dir: Arc::clone(dir), stat: dir.stat()?, file: None, found: false, when_empty: Mutex::default() })
    }

    /// Is nobody else at work here while we hold it? `false` where the file system has no usable lock.
    pub fn excludes(&self) -> bool {
        self.file.is_some()
    }

    /// Was a lock file there that nobody held: a dead process's?
    pub fn was_left_behind(&self) -> bool {
        self.found
    }

    /// The directory that is locked.
    pub fn dir(&self) -> &Arc<Dir> {
        &self.dir
    }

    /// What the directory was when it was locked.
    pub fn dir_stat(&self) -> &Stat {
        &self.stat
    }

    /// Lets the directory be removed at the release, if nothing is in it then.
    pub fn remove_when_empty(&self) {
        *self.when_empty.lock().unwrap_or_else(PoisonError::into_inner) = WhenEmpty::Goes;
    }

    /// The same, and with it go the directories above that are empty then, up to `top`, which stays; `relative` is its path below that.
    pub fn remove_when_empty_up_to(&self, top: &Arc<Dir>, relative: &Path) {
        *self.when_empty.lock().unwrap_or_else(PoisonError::into_inner) = WhenEmpty::GoesUpTo(Arc::clone(top), relative.to_path_buf());
    }

    /// Something was written into the directory, so it is not even tried to remove it: that would tell of an error that is none.
    pub(super) fn keep_directory(&self) {
        *self.when_empty.lock().unwrap_or_else(PoisonError::into_inner) = WhenEmpty::Stays;
    }
}

impl Drop for DirLock {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            let name = leftover::lock_name();
            let path = self.dir.path_of(&name);
            // Somebody may have removed the whole directory and our file with it; another's file of that name is not ours to remove.
            let ours = sys::stat(file, &path).and_then(|own| Ok(self.dir.stat_of(&name)?.same_file(&own)));
            if seam::without("remove-while-held") {
                self.file = None;
            }
            match ours {
                Ok(true) if seam::without("unlock-removes") => {}
                Ok(true) => ignored!(self.dir.unlink(&name), "the lock file stays behind; the next run sweeps it"),
                Ok(false) => tracing::debug!(path = %path.display(), "somebody replaced our lock file"),
                Err(error) if error.is_gone() => tracing::debug!(cause = %error.sentence(), "somebody removed our lock file"),
                Err(error) => tracing::debug!(cause = %error.sentence(), "the lock file stays behind; the next run sweeps it"),
            }
        }
        let when_empty = std::mem::take(self.when_empty.get_mut().unwrap_or_else(PoisonError::into_inner));
        let place = self.dir.place().filter(|_| !matches!(when_empty, WhenEmpty::Stays));
        let removed = place.is_some_and(|(parent, name)| told(parent.rmdir(name)));
        if let (true, WhenEmpty::GoesUpTo(top, relative)) = (removed, when_empty) {
            remove_emptied(&top, &relative);
        }
        // The descriptor is closed after this, and with it the lock let go: the order is the point (see above).
    }
}

/// Was the directory removed?
fn told(removed: Result<bool>) -> bool {
    let is_removed = matches!(removed, Ok(true));
    ignored!(removed, "an empty directory stays behind");
    is_removed
}

/// Removes what is empty above a directory that was removed. Whoever makes one of them anew at this moment finds it gone and begins anew.
fn remove_emptied(top: &Arc<Dir>, relative: &Path) {
    for empty in relative.ancestors().skip(1) {
        let (Some(above), Some(name)) = (empty.parent(), empty.file_name().and_then(Name::new)) else { return };
        if !told(top.open_beneath(above).and_then(|dir| dir.rmdir(&name))) {
            return;
        }
    }
}

/// Makes the lock file; `AlreadyExists` where there is one. What others must be able to open gets its name only when they are: who died
/// in between would keep the directory's owner out for ever.
fn create(dir: &Dir, name: &Name, mode: u32, dir_stat: &Stat) -> Result<File> {
    let for_others = (sys::effective_user() == 0 && dir_stat.uid != 0) || dir_stat.mode & 0o022 != 0;
    if !for_others {
        return dir.open_lock_file(name, Some(mode));
    }
    if dir.stat_of(name).is_ok() {
        return Err(Error::new("create", dir.path_of(name), io::ErrorKind::AlreadyExists));
    }
    let (temp, file) = leftover::fresh(".tmp", dir.path(), |temp| dir.open_lock_file(temp, Some(mode)))?;
    let named = sys::stat(&file, &dir.path_of(&temp)).and_then(|own| {
        share(&file, &own, dir_stat, mode, dir);
        dir.rename_with(&temp, name, false)
    });
    let Err(error) = named else { return Ok(file) };
    if !error.is_absent() {
        ignored!(dir.unlink(&temp), "a lock file that got no name stays behind; the next run sweeps it");
    }
    match error.kind() {
        // A file system that cannot rename so.
        io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported => dir.open_lock_file(name, Some(mode)),
        _ => Err(error),
    }
}

/// Gives a lock file that was made here to those who own the directory, as far as the system lets us.
fn share(file: &File, own: &Stat, dir_stat: &Stat, mode: u32, dir: &Dir) {
    let path = dir.path_of(&leftover::lock_name());
    let uid = (sys::effective_user() == 0 && own.uid != dir_stat.uid).then_some(dir_stat.uid);
    let gid = (own.gid != dir_stat.gid).then_some(dir_stat.gid);
    if uid.is_some() || gid.is_some() {
        ignored!(sys::set_owner(file, uid, gid, &path), "the lock file keeps its owner");
    }
    if own.mode != mode {
        ignored!(sys::set_mode(file, mode, &path), "the lock file keeps its mode");
    }
}

/// Why something in the lock file's place can be nobody's lock and nobody's left-over, where that is so. A file without any name was
/// removed meanwhile, which is another matter.
pub fn obstacle(stat: &Stat) -> Option<String> {
    match stat.kind {
        Kind::File if stat.nlink <= 1 || seam::without("hard-links") => None,
        Kind::File => Some("it has other names (hard links)".to_owned()),
        kind => Some(format!("it is {}", kind.noun())),
    }
}

fn unusable(path: PathBuf, what: &str) -> Error {
    Error::new("lock", path, io::Error::other(what))
}

fn is_unsupported(error: &Error) -> bool {
    // ENOLCK, EOPNOTSUPP, ENOSYS, EINVAL: different file systems say "no locks here" in different words.
    error.kind() == io::ErrorKind::Unsupported || matches!(error.cause.raw_os_error(), Some(37 | 77 | 95 | 102 | 38 | 78 | 22))
}

/// Is there a lock file, held or left behind? Where none is, nobody has the lock.
pub fn is_there(dir: &Dir) -> bool {
    !dir.stat_of(&leftover::lock_name()).is_err_and(|error| error.is_gone())
}

/// Does a living process hold the lock of this directory? Makes nothing, waits for nothing; for those who only look.
pub fn is_held(dir: &Dir) -> bool {
    let name = leftover::lock_name();
    match dir.open_file(&name) {
        Ok(file) => match sys::try_lock_shared(&file, &dir.path_of(&name)) {
            Ok(free) => !free,
            Err(error) => {
                tracing::debug!(cause = %error.sentence(), "cannot tell whether the lock is held");
                false
            }
        },
        Err(error) if error.is_gone() => false,
        Err(error) => {
            tracing::debug!(cause = %error.sentence(), "cannot tell whether the lock is held");
            // It is there and not ours to open: its owner is at work, for all that we can tell.
            error.kind() == io::ErrorKind::PermissionDenied
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn dir(top: &tempfile::TempDir) -> Arc<Dir> {
        Arc::new(Dir::open_root(top.path()).unwrap())
    }

    #[test]
    fn l1_a_second_holder_is_told_who_the_first_is() {
        let top = tempfile::tempdir().unwrap();
        let Attempt::Held(lock) = DirLock::try_take(&dir(&top)).unwrap() else { panic!("the first attempt is busy") };
        assert!(is_held(&dir(&top)));
        let Attempt::Busy(holder) = DirLock::try_take(&dir(&top)).unwrap() else { panic!("two holders") };
        assert_eq!(holder.pid, Some(std::process::id()));
        drop(lock);
        assert!(!is_held(&dir(&top)));
        assert_eq!(std::fs::read_dir(top.path()).unwrap().count(), 0, "a release leaves nothing");
    }

    #[test]
    fn what_is_empty_above_goes_too_up_to_the_top() {
        let top = tempfile::tempdir().unwrap();
        let root = dir(&top);
        let leave = |path: &str| {
            let path = Path::new(path);
            let above = root.open_beneath(path.parent().unwrap()).unwrap();
            let own = Arc::new(above.open_in(&Name::new(path.file_name().unwrap()).unwrap()).unwrap());
            let Attempt::Held(lock) = DirLock::try_take(&own).unwrap() else { panic!() };
            lock.remove_when_empty_up_to(&root, path);
        };
        std::fs::create_dir_all(top.path().join("a/b/c")).unwrap();
        std::fs::create_dir_all(top.path().join("a/d")).unwrap();
        leave("a/b/c");
        assert!(top.path().join("a/d").exists() && !top.path().join("a/b").exists());
        leave("a/d");
        assert_eq!(std::fs::read_dir(top.path()).unwrap().count(), 0);
    }

    #[test]
    fn l1_a_removed_lock_file_is_not_a_lock() {
        let top = tempfile::tempdir().unwrap();
        let Attempt::Held(first) = DirLock::try_take(&dir(&top)).unwrap() else { panic!() };
        dir(&top).unlink(&leftover::lock_name()).unwrap();
        let Attempt::Held(second) = DirLock::try_take(&dir(&top)).unwrap() else { panic!("the removed file still locks") };
        drop(first);
        assert!(is_held(&dir(&top)), "the first one's release took the second one's file away");
        drop(second);
    }

    #[test]
    fn many_threads_never_hold_it_together() {
        let top = tempfile::tempdir().unwrap();
        let inside = AtomicBool::new(false);
        let taken = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let dir = dir(&top);
                    for _ in 0..500 {
                        if let Attempt::Held(_lock) = DirLock::try_take(&dir).unwrap() {
                            assert!(!inside.swap(true, Ordering::SeqCst), "two holders");
                            taken.fetch_add(1, Ordering::SeqCst);
                            inside.store(false, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        assert!(taken.into_inner() > 0);
    }

    #[test]
    fn another_ones_text_is_read_with_care() {
        assert_eq!(Holder::parse(b""), Holder::default());
        assert_eq!(Holder::parse(b"x\n\x1b[31mred\n\xff"), Holder { pid: None, command: Some("[31mred".into()), since: None });
        let own = Holder::own();
        assert_eq!(Holder::parse(own.to_text().as_bytes()), own);
    }

    #[test]
    fn a_file_with_other_names_is_not_written_to() {
        use std::os::unix::fs::MetadataExt;
        let top = tempfile::tempdir().unwrap();
        let (victim, lock) = (top.path().join("victim"), top.path().join(".bytekeep.lock"));
        for content in ["precious", ""] {
            #[allow(clippy::disallowed_methods, reason = "a test's own file")]
            std::fs::write(&victim, content).unwrap();
            let before = std::fs::metadata(&victim).unwrap();
            std::fs::hard_link(&victim, &lock).unwrap();
            let error = DirLock::try_take(&dir(&top)).unwrap_err();
            assert!(error.sentence().contains("other names"), "{}", error.sentence());
            let after = std::fs::metadata(&victim).unwrap();
            assert_eq!(std::fs::read_to_string(&victim).unwrap(), content);
            assert_eq!((before.uid(), before.gid(), before.mode()), (after.uid(), after.gid(), after.mode()));
            assert!(lock.exists(), "it was not ours to remove");
            dir(&top).unlink(&leftover::lock_name()).unwrap();
        }
    }

    /// Only root can give files away, so only root can run this.
    #[test]
    fn root_gives_away_only_what_it_made_and_writes_into_no_strangers_file() {
        use std::os::unix::fs::{MetadataExt, chown};
        if sys::effective_user() != 0 {
            eprintln!("SKIP root and the lock files of others: only root can give files away");
            return;
        }
        let top = tempfile::tempdir().unwrap();
        let lock = top.path().join(".bytekeep.lock");
        chown(top.path(), Some(1234), Some(1234)).unwrap();
        let owner = || std::fs::metadata(&lock).unwrap().uid();
        let put = |owner: u32| {
            #[allow(clippy::disallowed_methods, reason = "a test's own file")]
            std::fs::write(&lock, b"").unwrap();
            chown(&lock, Some(owner), None).unwrap();
        };

        let Attempt::Held(made) = DirLock::try_take(&dir(&top)).unwrap() else { panic!() };
        assert_eq!(owner(), 1234, "the directory's owner can do nothing with root's file");
        drop(made);

        put(0);
        let Attempt::Held(found) = DirLock::try_take(&dir(&top)).unwrap() else { panic!() };
        assert_eq!(owner(), 0, "root gave away a file that it did not make");
        drop(found);

        put(1234);
        drop(DirLock::try_take(&dir(&top)).unwrap());
        assert!(!lock.exists(), "the owner's own file is as good as root's");

        put(4321);
        assert!(DirLock::try_take(&dir(&top)).is_err());
        assert_eq!(std::fs::read(&lock).unwrap(), b"", "root wrote into a stranger's file");
    }

    #[test]
    fn a_link_as_lock_file_is_refused() {
        let top = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", top.path().join(".bytekeep.lock")).unwrap();
        assert!(DirLock::try_take(&dir(&top)).is_err());
    }
}
