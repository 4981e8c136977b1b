//! A memory of files whose structure was walked and found sound, so that unsealed artifacts are walked once and not at every run.
//!
//! A file is known by device, inode, size, mtime and ctime. Losing the memory costs time only; what is in it is believed, so it is kept
//! only in a directory that nobody else can write.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::sys::{self, Dir, Kind, Name, Stat, Time};
use super::{Error, Result, leftover};

const MAGIC: &[u8; 8] = b"BKMEMO1\n";
const RECORD: usize = 16;
/// More than this is forgotten, oldest first: 8 MB.
const MOST: usize = 500_000;
const NAME: &str = "walked-1";

/// Fingerprints of files that were found sound.
#[derive(Debug, Default)]
pub struct Memo {
    dir: Option<PathBuf>,
    old: OnceLock<(Vec<u8>, HashSet<[u8; RECORD]>)>,
    new: Mutex<HashSet<[u8; RECORD]>>,
}

impl Memo {
    /// A memory that is kept in a directory of the user's own. Nothing is read before it is needed.
    pub fn open(dir: impl Into<PathBuf>) -> Self {
        Self { dir: Some(dir.into()), ..Self::default() }
    }

    /// Was exactly this file found sound before?
    pub fn knows(&self, stat: &Stat) -> bool {
        let print = fingerprint(stat);
        let (_, old) = self.old.get_or_init(|| self.load());
        old.contains(&print) || self.new.lock().unwrap_or_else(PoisonError::into_inner).contains(&print)
    }

    /// Remembers that this file was found sound.
    ///
    /// One that changed within the last two seconds is not remembered: another change in the same tick of the clock would not show.
    pub fn add(&self, stat: &Stat) {
        if stat.ctime < Time::now().minus_seconds(2) {
            self.new.lock().unwrap_or_else(PoisonError::into_inner).insert(fingerprint(stat));
        }
    }

    fn load(&self) -> (Vec<u8>, HashSet<[u8; RECORD]>) {
        let Some(dir) = &self.dir else { return Default::default() };
        match read(dir) {
            Ok(records) => {
                let known = records.as_chunks::<RECORD>().0.iter().copied().collect();
                (records, known)
            }
            Err(error) => {
                tracing::debug!(cause = %error.sentence(), "nothing is remembered of unsealed artifacts");
                Default::default()
            }
        }
    }

    /// Writes what was learned. Another process that writes at the same time may win: that costs time only.
    pub fn save(&self) -> Result<()> {
        let new = std::mem::take(&mut *self.new.lock().unwrap_or_else(PoisonError::into_inner));
        let Some(dir) = self.dir.as_ref().filter(|_| !new.is_empty()) else { return Ok(()) };
        make_own_dir(dir)?;
        // Read again: others may have written since.
        let mut records = read(dir).unwrap_or_default();
        let known: HashSet<[u8; RECORD]> = records.as_chunks::<RECORD>().0.iter().copied().collect();
        records.extend(new.iter().filter(|print| !known.contains(*print)).flatten());
        let from = records.len().saturating_sub(MOST * RECORD);
        let dir = Dir::open_root(dir)?;
        let content = [&MAGIC[..], &records[from..]].concat();
        replace(&dir, &name(), &content)
    }
}

/// Writes a small file of our own whole. Unflushed: it is a memory, and one that is cut is no memory.
fn replace(dir: &Dir, to: &Name, content: &[u8]) -> Result<()> {
    let (temp, file) = leftover::fresh(".tmp", dir.path(), |name| dir.create_new(name, 0o600))?;
    let written = sys::write_all(&file, content, &dir.path_of(to)).and_then(|()| dir.rename(&temp, to));
    if written.is_err() {
        crate::ignored!(dir.unlink(&temp), "a temp file stays behind in the user's cache");
    }
    written
}

#[allow(clippy::unwrap_used, reason = "a constant that is one component")]
fn name() -> Name {
    Name::new(NAME).unwrap()
}

fn read(dir: &Path) -> Result<Vec<u8>> {
    let dir = Dir::open_root(dir)?;
    check_own(&dir)?;
    let file = dir.open_file(&name())?;
    let path = dir.path_of(&name());
    let stat = sys::stat(&file, &path)?;
    let limit = ((MOST * RECORD) + MAGIC.len()) as u64;
    let bytes = if stat.kind == Kind::File { sys::read_all(&file, stat.size, limit, &path)? } else { None };
    let records = bytes.and_then(|bytes| bytes.strip_prefix(MAGIC).map(<[u8]>::to_vec));
    records.ok_or_else(|| Error::new("read", path, std::io::ErrorKind::InvalidData))
}

/// Is the directory the user's own, and writable by nobody else?
fn check_own(dir: &Dir) -> Result<()> {
    let stat = dir.stat()?;
    if stat.uid == sys::effective_user() && stat.mode & 0o022 == 0 {
        return Ok(());
    }
    Err(Error::new("trust", dir.path(), std::io::Error::new(std::io::ErrorKind::PermissionDenied, "others can write it")))
}

/// Makes a directory for the user's own things, with those above it.
fn make_own_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|cause| Error::new("create", path, cause))?;
    check_own(&Dir::open_root(path)?)
}

fn fingerprint(stat: &Stat) -> [u8; RECORD] {
    let mut hasher = blake3::Hasher::new();
    for number in [stat.dev, stat.ino, stat.size, stat.mtime.sec.cast_unsigned(), stat.ctime.sec.cast_unsigned()] {
        hasher.update(&number.to_le_bytes());
    }
    hasher.update(&stat.mtime.nsec.to_le_bytes());
    hasher.update(&stat.ctime.nsec.to_le_bytes());
    let mut print = [0; RECORD];
    print.copy_from_slice(&hasher.finalize().as_bytes()[..RECORD]);
    print
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(ino: u64) -> Stat {
        let long_ago = Time { sec: 1000, nsec: 1 };
        Stat { dev: 1, ino, kind: Kind::File, mode: 0o644, uid: 0, gid: 0, size: 10, mtime: long_ago, ctime: long_ago }
    }

    #[test]
    fn what_was_learned_is_known_the_next_time() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("cache");
        for ino in 0..3 {
            let memo = Memo::open(&dir);
            assert!(!memo.knows(&stat(ino)));
            memo.add(&stat(ino));
            assert!(memo.knows(&stat(ino)));
            memo.save().unwrap();
        }
        let memo = Memo::open(&dir);
        assert!((0..3).all(|ino| memo.knows(&stat(ino))));
        assert!(!memo.knows(&Stat { size: 11, ..stat(0) }));
        memo.add(&Stat { ctime: Time::now(), ..stat(9) });
        assert!(!memo.knows(&Stat { ctime: Time::now(), ..stat(9) }), "too young to be remembered");
    }

    #[test]
    fn a_memory_that_others_can_write_is_not_believed() {
        use std::os::unix::fs::PermissionsExt;
        let top = tempfile::tempdir().unwrap();
        let memo = Memo::open(top.path().join("cache"));
        memo.add(&stat(1));
        memo.save().unwrap();
        std::fs::set_permissions(top.path().join("cache"), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(!Memo::open(top.path().join("cache")).knows(&stat(1)));
    }
}
