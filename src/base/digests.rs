//! A memory of sources' digests, so that what is hard-linked between trees is read in one of them only.
//!
//! A source is known by device, inode, size, mtime and birth time; the birth time tells an inode from an earlier one of the same number.
//! That its ctime is the same too shows that nobody wrote to it and set its mtime back. Where the ctime moved together with the number of
//! links it was `link(2)` or `unlink(2)` that moved it, as installers do that link an environment together: that is accepted. Whoever
//! writes in place, sets the mtime back and links the file on top of that is not found; `verify` reads every byte.
//!
//! Sources with one name alone are not remembered: no other tree has them. Losing all of it costs time only.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::memo::{read, replace};
use super::seal::Digest;
use super::sys::{self, Dir, Name, Stat, Time};
use super::{Error, Result};

const MAGIC: &[u8; 8] = b"BKDIGE1\n";
const RECORD: usize = 64;
/// More than this is forgotten, whichever: 13 MB.
const MOST: usize = 200_000;
const NAME: &str = "digests-1";
/// A file that changed so shortly before it was read may change again within one tick of the clock, seconds.
const RACY: i64 = 2;

type Print = [u8; 16];

/// What is remembered of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    ctime: Time,
    nlink: u32,
    digest: Digest,
}

/// Digests of files that have several names.
#[derive(Debug)]
pub struct Digests {
    dir: Arc<Dir>,
    old: OnceLock<HashMap<Print, Known>>,
    new: Mutex<HashMap<Print, Known>>,
}

impl Digests {
    /// A memory that is kept in a directory of the user's own. Nothing is read before it is needed.
    pub fn in_dir(dir: &Arc<Dir>) -> Self {
        Self { dir: Arc::clone(dir), old: OnceLock::new(), new: Mutex::default() }
    }

    /// The digest of an open file, where it is known what is in it.
    pub fn of(&self, file: &File, stat: &Stat) -> Option<Digest> {
        let print = print(file, stat)?;
        let old = self.old.get_or_init(|| self.load());
        let known = self.new.lock().unwrap_or_else(PoisonError::into_inner).get(&print).or_else(|| old.get(&print)).copied()?;
        if known.ctime == stat.ctime {
            return Some(known.digest);
        }
        let nlink = u32::try_from(stat.nlink).ok()?;
        if known.nlink == nlink {
            return None;
        }
        // From now on the ctime of today counts.
        let now = Known { ctime: stat.ctime, nlink, ..known };
        self.new.lock().unwrap_or_else(PoisonError::into_inner).insert(print, now);
        Some(known.digest)
    }

    /// Remembers what was read, from a file that did not change meanwhile; `before` is a time before the read.
    pub fn add(&self, file: &File, stat: &Stat, before: Time, digest: Digest) {
        // The mtime, not the ctime: that of a file which was just linked into a tree is always of this moment.
        if stat.mtime >= before.minus_seconds(RACY) {
            return;
        }
        if let (Some(print), Ok(nlink)) = (print(file, stat), u32::try_from(stat.nlink)) {
            let known = Known { ctime: stat.ctime, nlink, digest };
            self.new.lock().unwrap_or_else(PoisonError::into_inner).insert(print, known);
        }
    }

    fn load(&self) -> HashMap<Print, Known> {
        self.records().unwrap_or_else(|error| {
            if !error.is_gone() {
                tracing::debug!(cause = %error.sentence(), "nothing is remembered of sources");
            }
            HashMap::new()
        })
    }

    fn records(&self) -> Result<HashMap<Print, Known>> {
        let name = name();
        let bytes = read(&self.dir, &name, ((MOST * RECORD) + MAGIC.len()) as u64)?;
        let damaged = || Error::new("read", self.dir.path_of(&name), io::ErrorKind::InvalidData);
        let records = bytes.strip_prefix(MAGIC).ok_or_else(damaged)?.as_chunks::<RECORD>();
        if !records.1.is_empty() {
            return Err(damaged());
        }
        Ok(records.0.iter().map(decode).collect())
    }

    /// Writes what was learned. Another process that writes at the same time may win: that costs time only.
    pub fn save(&self) -> Result<()> {
        let new = std::mem::take(&mut *self.new.lock().unwrap_or_else(PoisonError::into_inner));
        if new.is_empty() {
            return Ok(());
        }
        // Read again: others may have written since.
        let mut all = self.load();
        let room = MOST.saturating_sub(new.len());
        if all.len() > room {
            let mut kept = 0;
            all.retain(|_, _| {
                kept += 1;
                kept <= room
            });
        }
        all.extend(new);
        let mut bytes = MAGIC.to_vec();
        all.iter().take(MOST).for_each(|(print, known)| bytes.extend_from_slice(&encode(print, known)));
        replace(&self.dir, &name(), &bytes)
    }
}

/// What a file is known by. `None`: it has one name alone, or its file system does not say when it was born.
fn print(file: &File, stat: &Stat) -> Option<Print> {
    if stat.nlink < 2 {
        return None;
    }
    let birth = sys::birth(file)?;
    let mut hasher = blake3::Hasher::new();
    for number in [stat.dev, stat.ino, stat.size, stat.mtime.sec.cast_unsigned(), birth.sec.cast_unsigned()] {
        hasher.update(&number.to_le_bytes());
    }
    hasher.update(&stat.mtime.nsec.to_le_bytes()).update(&birth.nsec.to_le_bytes());
    let mut print = [0; 16];
    print.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    Some(print)
}

fn encode(print: &Print, known: &Known) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..16].copy_from_slice(print);
    record[16..24].copy_from_slice(&known.ctime.sec.to_le_bytes());
    record[24..28].copy_from_slice(&known.ctime.nsec.to_le_bytes());
    record[28..32].copy_from_slice(&known.nlink.to_le_bytes());
    record[32..].copy_from_slice(&known.digest.0);
    record
}

fn decode(record: &[u8; RECORD]) -> (Print, Known) {
    let (mut print, mut sec, mut nsec, mut nlink, mut digest) = ([0; 16], [0; 8], [0; 4], [0; 4], [0; 32]);
    print.copy_from_slice(&record[..16]);
    sec.copy_from_slice(&record[16..24]);
    nsec.copy_from_slice(&record[24..28]);
    nlink.copy_from_slice(&record[28..32]);
    digest.copy_from_slice(&record[32..]);
    let ctime = Time { sec: i64::from_le_bytes(sec), nsec: u32::from_le_bytes(nsec) };
    (print, Known { ctime, nlink: u32::from_le_bytes(nlink), digest: Digest(digest) })
}

#[allow(clippy::unwrap_used, reason = "a constant that is one component")]
fn name() -> Name {
    Name::new(NAME).unwrap()
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test's own files")]
mod tests {
    use super::*;
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    fn looked(path: &Path) -> (File, Stat) {
        let file = File::open(path).unwrap();
        let stat = sys::stat(&file, path).unwrap();
        (file, stat)
    }

    /// A file of two names that was written long ago, and a memory of it.
    fn known() -> (tempfile::TempDir, Arc<Dir>, std::path::PathBuf, SystemTime) {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("a");
        std::fs::write(&path, b"1").unwrap();
        std::fs::hard_link(&path, top.path().join("b")).unwrap();
        let long_ago = SystemTime::now() - Duration::from_secs(1000);
        File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
        let dir = Arc::new(Dir::open_root(top.path()).unwrap());
        let digests = Digests::in_dir(&dir);
        let (file, stat) = looked(&path);
        digests.add(&file, &stat, Time::now(), Digest::of(b"1"));
        digests.save().unwrap();
        (top, dir, path, long_ago)
    }

    #[test]
    fn what_was_read_is_known_and_more_links_change_nothing() {
        let (top, dir, path, _) = known();
        for round in 0..3 {
            let digests = Digests::in_dir(&dir);
            std::fs::hard_link(&path, top.path().join(format!("more{round}"))).unwrap();
            let (file, stat) = looked(&path);
            if sys::birth(&file).is_none() {
                return; // a file system that does not say when its files were born
            }
            assert_eq!(digests.of(&file, &stat), Some(Digest::of(b"1")));
            digests.save().unwrap();
        }
    }

    #[test]
    fn what_was_written_since_is_not_known() {
        let (_top, dir, path, long_ago) = known();
        // The same size, and the time set back: the ctime tells.
        std::fs::write(&path, b"2").unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
        let (file, stat) = looked(&path);
        assert_eq!(Digests::in_dir(&dir).of(&file, &stat), None);
    }

    #[test]
    fn what_is_racy_or_alone_is_not_remembered_and_damage_is_no_memory() {
        let (top, dir, path, _) = known();
        let digests = Digests::in_dir(&dir);
        for (name, links) in [("fresh", 2), ("alone", 1)] {
            let fresh = top.path().join(name);
            std::fs::write(&fresh, b"1").unwrap();
            if links == 2 {
                std::fs::hard_link(&fresh, top.path().join("other")).unwrap();
            } else {
                File::options().write(true).open(&fresh).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
            }
            let (file, stat) = looked(&fresh);
            digests.add(&file, &stat, Time::now(), Digest::of(b"1"));
            assert_eq!(digests.of(&file, &stat), None, "{name}");
        }
        let memory = top.path().join(NAME);
        let whole = std::fs::read(&memory).unwrap();
        for damaged in [&whole[..whole.len() - 1], b"nonsense", b""] {
            std::fs::write(&memory, damaged).unwrap();
            let (file, stat) = looked(&path);
            assert_eq!(Digests::in_dir(&dir).of(&file, &stat), None);
        }
    }
}
