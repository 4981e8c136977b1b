//! The system's store: the administrator's, which every user's run reads and none writes.
//!
//! What is in it is believed, so it must be root's to the last directory, and nobody else may be able to write it: [`roots_dir`] for the
//! way there, and the same of each shard and value as it is opened. No use is marked in it, and nothing bad is removed: it may lie on a
//! read-only file system, and it is not ours.

use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::value::Value;
use super::{Key, LARGEST, VERSION_DIR, name};
use crate::base::error::chain;
use crate::base::memo::{only_of, roots_dir};
use crate::base::seal::Digest;
use crate::base::sys::{self, Dir, Kind};
use crate::base::{Error, Result};

/// The administrator's store.
#[derive(Debug)]
pub struct System {
    dir: Arc<Dir>,
    complaint: OnceLock<String>,
}

impl System {
    /// Opens the store in a directory. `None`: there is none.
    ///
    /// # Errors
    /// With the operation `trust`: somebody else than root could have written to it.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let opened = roots_dir(path).and_then(|top| {
            let dir = Arc::new(top.open_in(&name(VERSION_DIR)?)?);
            only_of(0, &dir.stat()?, dir.path())?;
            Ok(dir)
        });
        match opened {
            Ok(dir) => Ok(Some(Self { dir, complaint: OnceLock::new() })),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path().parent().unwrap_or(self.dir.path())
    }

    pub(super) fn dir(&self) -> &Arc<Dir> {
        &self.dir
    }

    /// What its administrator should know of: the first thing that was wrong in it.
    pub fn complaint(&self) -> Option<&str> {
        self.complaint.get().map(String::as_str)
    }

    /// The code of a key, made from this source. What is wrong is a miss.
    pub(super) fn find(&self, key: &Key, source: &Digest) -> Option<Value> {
        let path = self.dir.path().join(key.relative());
        let why = match self.get(key) {
            Ok(None) => return None,
            Ok(Some(bytes)) => match Value::prove(bytes, key, Some(source)) {
                Ok(value) => return Some(value),
                Err(flaw) => flaw.text,
            },
            Err(error) => chain(&error),
        };
        tracing::debug!(path = %path.display(), cause = why, "nothing is taken from the system's store here");
        self.complaint.get_or_init(|| format!("the system's store holds something that is not used (`{}`): {why}", path.display()));
        None
    }

    fn get(&self, key: &Key) -> Result<Option<Vec<u8>>> {
        let read = || {
            let shard = Arc::new(self.dir.open_in(&name(key.shard())?)?);
            only_of(0, &shard.stat()?, shard.path())?;
            let (file, path) = (shard.open_file(&key.name())?, shard.path_of(&key.name()));
            let stat = sys::stat(&file, &path)?;
            only_of(0, &stat, &path)?;
            let bytes = if stat.kind == Kind::File { sys::read_all(&file, stat.size, LARGEST, &path)? } else { None };
            bytes.ok_or_else(|| Error::new("read", &path, io::ErrorKind::InvalidData))
        };
        match read() {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test's own files")]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown};
    use std::path::PathBuf;
    use std::time::Duration;

    use super::super::{Lookup, Parts, Store};
    use super::*;

    const MAGIC: [u8; 4] = [1, 2, b'\r', b'\n'];

    fn key(source: &Digest) -> Key {
        Parts { source, tag: "toy-1", magic: MAGIC, variant: "", level: 0, build: "here" }.key()
    }

    /// A store of root's with one value, and where that is.
    fn filled(top: &Path, source: &Digest) -> PathBuf {
        let store = Store::open(top).unwrap();
        store.put(&key(source), source, MAGIC, Duration::from_millis(5), b"the code").unwrap();
        store.path_of(&key(source))
    }

    fn root_or_skip() -> bool {
        if sys::effective_user() != 0 {
            eprintln!("SKIP the system's store: only root can make one");
        }
        sys::effective_user() == 0
    }

    #[test]
    fn it_is_asked_first_and_left_as_it_is() {
        if !root_or_skip() {
            return;
        }
        let (top, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let source = Digest::of(b"x");
        let path = filled(top.path(), &source);
        std::fs::File::open(&path).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        let store = || Store::open(own.path()).unwrap().below(System::open(top.path()).unwrap());
        let hits = store();
        assert!(matches!(hits.find(&key(&source), &source), Ok(Lookup::Hit(value)) if value.code() == b"the code"));
        assert!(hits.complaint().is_none());
        assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), std::time::SystemTime::UNIX_EPOCH, "a use was marked");

        let good = std::fs::read(&path).unwrap();
        std::fs::write(&path, &good[1..]).unwrap();
        let bad = store();
        assert!(matches!(bad.find(&key(&source), &source), Ok(Lookup::Miss)));
        let (_, text) = bad.complaint().unwrap();
        assert!(text.contains(path.to_str().unwrap()), "{text}");
        assert_eq!(std::fs::read(&path).unwrap(), &good[1..], "it was touched");
        // The user's own is there behind it.
        bad.put(&key(&source), &source, MAGIC, Duration::ZERO, b"own").unwrap();
        assert!(matches!(bad.find(&key(&source), &source), Ok(Lookup::Hit(value)) if value.code() == b"own"));
    }

    #[test]
    fn it_serves_who_has_none_of_their_own_and_nothing_is_put_into_it() {
        if !root_or_skip() {
            return;
        }
        let top = tempfile::tempdir().unwrap();
        let (there, not_there) = (Digest::of(b"x"), Digest::of(b"y"));
        let path = filled(top.path(), &there);
        let store = Store::of_system(System::open(top.path()).unwrap().unwrap());
        assert!(store.is_read_only() && store.path() == top.path());
        assert!(matches!(store.find(&key(&there), &there), Ok(Lookup::Hit(_))));
        assert!(matches!(store.find(&key(&not_there), &not_there), Ok(Lookup::Miss)));
        store.put(&key(&not_there), &not_there, MAGIC, Duration::ZERO, b"own").unwrap();
        store.count_hit(Duration::ZERO);
        store.keep_small();
        store.note_use();
        assert!(!store.path_of(&key(&not_there)).exists() && path.exists());
        assert_eq!((store.counts().hits, store.counts().puts), (1, 0));
        assert_eq!(std::fs::read_dir(top.path().join(VERSION_DIR)).unwrap().count(), 1, "no record of its use");
        std::fs::write(&path, b"bad").unwrap();
        assert!(matches!(store.find(&key(&there), &there), Ok(Lookup::Miss)));
        assert!(path.exists());
    }

    #[test]
    fn what_is_not_roots_alone_is_not_believed() {
        if !root_or_skip() {
            return;
        }
        let (above, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let top = above.path().join("store");
        let source = Digest::of(b"x");
        assert!(System::open(&top).unwrap().is_none(), "what is not there is no trouble");
        let value = filled(&top, &source);
        let shard = value.parent().unwrap();
        for dir in [above.path(), &top, &top.join(VERSION_DIR)] {
            for (mode, owner) in [(0o777, 0), (0o775, 0), (0o755, 1234)] {
                std::fs::set_permissions(dir, PermissionsExt::from_mode(mode)).unwrap();
                chown(dir, Some(owner), None).unwrap();
                let error = System::open(&top).unwrap_err();
                assert!(error.operation == "trust" && error.sentence().contains(dir.to_str().unwrap()), "{}", error.sentence());
                chown(dir, Some(0), None).unwrap();
                std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
            }
        }
        for place in [shard, &value] {
            for (mode, owner) in [(0o722, 0), (0o755, 1234)] {
                std::fs::set_permissions(place, PermissionsExt::from_mode(mode)).unwrap();
                chown(place, Some(owner), None).unwrap();
                let store = Store::open(own.path()).unwrap().below(System::open(&top).unwrap());
                assert!(matches!(store.find(&key(&source), &source), Ok(Lookup::Miss)));
                assert!(store.complaint().unwrap().1.contains("root's alone"));
                chown(place, Some(0), None).unwrap();
                std::fs::set_permissions(place, PermissionsExt::from_mode(0o700)).unwrap();
            }
        }
        let store = Store::open(own.path()).unwrap().below(System::open(&top).unwrap());
        assert!(matches!(store.find(&key(&source), &source), Ok(Lookup::Hit(_))));
    }
}
