//! A memory of files whose structure was walked and found sound, so that unsealed artifacts are walked once and not at every run.
//!
//! A file is known by device, inode, size, mtime and ctime. Losing the memory costs time only; what is in it is believed, so it is kept
//! only in a directory that nobody else can write: see [`own_dir`], which the other memories of a user lean on too.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::sys::{self, Dir, Kind, Name, Stat, Time};
use super::{Error, Result, leftover, seam};

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
        match own_dir(dir, false).and_then(|dir| records(&dir)) {
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
        let dir = own_dir(dir, true)?;
        // Read again: others may have written since.
        let mut records = records(&dir).unwrap_or_else(|error| {
            if !error.is_gone() {
                tracing::debug!(cause = %error.sentence(), "what was remembered of unsealed artifacts is forgotten");
            }
            Vec::new()
        });
        let known: HashSet<[u8; RECORD]> = records.as_chunks::<RECORD>().0.iter().copied().collect();
        records.extend(new.iter().filter(|print| !known.contains(*print)).flatten());
        let from = records.len().saturating_sub(MOST * RECORD);
        replace(&dir, &name(), &[&MAGIC[..], &records[from..]].concat())
    }
}

/// Writes a file of the user's own whole. Unflushed: it is a memory, and one that is cut is no memory.
pub fn replace(dir: &Dir, to: &Name, content: &[u8]) -> Result<()> {
    replace_as(dir, to, content, 0o600)
}

/// The same, with these permission bits, of which the process's mask takes some.
pub fn replace_as(dir: &Dir, to: &Name, content: &[u8], mode: u32) -> Result<()> {
    let (temp, file) = leftover::fresh(".tmp", dir.path(), |name| dir.create_new(name, mode))?;
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

fn records(dir: &Dir) -> Result<Vec<u8>> {
    let limit = ((MOST * RECORD) + MAGIC.len()) as u64;
    let bytes = read(dir, &name(), limit)?;
    let records = bytes.strip_prefix(MAGIC).map(<[u8]>::to_vec);
    records.ok_or_else(|| Error::new("read", dir.path_of(&name()), io::ErrorKind::InvalidData))
}

/// Reads a file of the user's own, of no more than so many bytes.
pub fn read(dir: &Dir, name: &Name, limit: u64) -> Result<Vec<u8>> {
    let file = dir.open_file(name)?;
    let path = dir.path_of(name);
    let stat = sys::stat(&file, &path)?;
    let bytes = if stat.kind == Kind::File { sys::read_all(&file, stat.size, limit, &path)? } else { None };
    bytes.ok_or_else(|| Error::new("read", path, io::ErrorKind::InvalidData))
}

/// How many links a path may lead through, as the kernel counts.
const MOST_LINKS: u32 = 40;

/// Opens a directory for the user's own things, made where asked, with those above it.
///
/// What is in it is believed, and the path comes from the environment, which `sudo` and the like hand on: it may be another user's home.
/// So only the effective user and root may have a say in where it leads. From `/` down, every directory and every link on the way
/// belongs to one of the two, and nobody else can write the directory in which the next name is looked up, or it is sticky (`/tmp`) and
/// the next one is a directory: such a one is no other's to rename. Whoever is left to change the way after the look could have done
/// worse without it, so it is enough to look at paths, and directories that may be searched but not read do not end it. New ones are
/// made by descriptor, only in a directory that nobody else can write; the last one is the effective user's alone.
pub fn own_dir(path: &Path, make: bool) -> Result<Arc<Dir>> {
    dir_of(sys::effective_user(), path, make)
}

/// Opens a directory for our own things some levels below a root that somebody named, made where asked. Nothing below the root is followed
/// that is a link: it would lead to what the link means on another system. The root is reached as [`own_dir`] says, and from there on
/// nobody but the effective user and root may write. New ones above the last are everybody's to read, as those of a system are.
pub fn own_dir_beneath(root: &Path, below: &Path, make: bool) -> Result<Arc<Dir>> {
    let owner = sys::effective_user();
    let mut dir = own_dir(root, false)?;
    let mut steps = steps(below);
    while let Some(step) = steps.pop() {
        let name = Name::new(step).ok_or_else(|| Error::new("create", root.join(below), io::ErrorKind::InvalidInput))?;
        if make {
            dir.make_dir(&name, if steps.is_empty() { 0o700 } else { 0o755 })?;
        }
        dir = Arc::new(dir.open_in(&name)?);
        let stat = dir.stat()?;
        only_of(if stat.uid == 0 && !steps.is_empty() { 0 } else { owner }, &stat, dir.path())?;
    }
    Ok(dir)
}

/// Opens a directory of root's, by the rules of [`own_dir`]: nobody but root has a say in where the path leads and what is in it.
pub fn roots_dir(path: &Path) -> Result<Arc<Dir>> {
    dir_of(0, path, false)
}

fn dir_of(owner: u32, path: &Path, make: bool) -> Result<Arc<Dir>> {
    let looked_at = |path: &Path| looked_at(path, owner);
    let path = std::path::absolute(path).map_err(|cause| Error::new("find", path, cause))?;
    let mut left = steps(&path);
    let (mut place, mut shared, mut links) = (PathBuf::new(), false, 0);
    let mut missing = Vec::new();
    while let Some(step) = left.pop() {
        if step.as_bytes() == b".." {
            // No link is left in `place`, so its text and the file system agree on what is above. That was looked at on the way down.
            place.pop();
            shared = looked_at(&place)?.mode() & 0o022 != 0;
            continue;
        }
        let next = place.join(&step);
        let seen = match looked_at(&next) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                missing.push(step);
                missing.extend(left.drain(..).rev());
                break;
            }
            seen => seen?,
        };
        if seen.is_symlink() {
            links += 1;
            if shared {
                return Err(distrust(&next, "it is a link in a directory that others can write"));
            }
            if links > MOST_LINKS {
                return Err(distrust(&next, "too many links lead on from it"));
            }
            left.extend(steps(&std::fs::read_link(&next).map_err(|cause| Error::new("read", &next, cause))?));
            continue;
        }
        shared = seen.mode() & 0o022 != 0;
        if shared && seen.mode() & 0o1000 == 0 {
            return Err(distrust(&next, "others can write it"));
        }
        place = next;
    }
    if !missing.is_empty() && shared {
        return Err(distrust(&place, "others can write it"));
    }
    if !missing.is_empty() && !make {
        return Err(Error::new("open", path, io::ErrorKind::NotFound));
    }
    // All names before anything is made: a `..` among them is none.
    let missing: Option<Vec<Name>> = missing.into_iter().map(Name::new).collect();
    let missing = missing.ok_or_else(|| Error::new("create", &path, io::ErrorKind::InvalidInput))?;
    let mut dir = Arc::new(Dir::open_root(&place)?);
    for name in missing {
        dir.make_dir(&name, 0o700)?;
        dir = Arc::new(dir.open_in(&name)?);
    }
    let stat = dir.stat()?;
    only_of(owner, &stat, dir.path())?;
    Ok(dir)
}

/// The components of a path, the first one last.
fn steps(path: &Path) -> Vec<OsString> {
    path.components().rev().filter(|step| *step != Component::CurDir).map(|step| step.as_os_str().to_owned()).collect()
}

/// Refuses what does not belong to this user, or what others can write.
pub fn only_of(owner: u32, stat: &Stat, path: &Path) -> Result<()> {
    if (stat.uid == owner && stat.mode & 0o022 == 0) || seam::without("trust") {
        return Ok(());
    }
    Err(distrust(path, if owner == 0 { "it is not root's alone" } else { "it is not this user's alone" }))
}

/// What a path is, if it belongs to root or to this user.
fn looked_at(path: &Path, owner: u32) -> Result<std::fs::Metadata> {
    let seen = std::fs::symlink_metadata(path).map_err(|cause| Error::new("stat", path, cause))?;
    if seen.uid() != 0 && seen.uid() != owner && !seam::without("trust") {
        return Err(distrust(path, "it belongs to somebody else"));
    }
    Ok(seen)
}

fn distrust(path: &Path, why: &'static str) -> Error {
    Error::new("trust", path, io::Error::new(io::ErrorKind::PermissionDenied, why))
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
        Stat { dev: 1, ino, kind: Kind::File, mode: 0o644, uid: 0, gid: 0, nlink: 1, size: 10, mtime: long_ago, ctime: long_ago }
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

    fn allow(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }

    #[test]
    fn nothing_is_made_where_others_can_write() {
        let top = tempfile::tempdir().unwrap();
        let caches = top.path().join("caches");
        std::fs::create_dir_all(&caches).unwrap();
        for mode in [0o777, 0o775, 0o1777] {
            allow(&caches, mode);
            own_dir(&caches.join("a/b"), true).unwrap_err();
            assert_eq!(std::fs::read_dir(&caches).unwrap().count(), 0, "{mode:o}");
        }
        allow(&caches, 0o755);
        assert!(own_dir(&caches.join("a/b"), false).unwrap_err().is_gone());
        assert_eq!(std::fs::read_dir(&caches).unwrap().count(), 0, "one who only reads makes nothing");
        own_dir(&caches.join("a/b"), true).unwrap();
        allow(&caches, 0o777);
        own_dir(&caches.join("a/b"), false).unwrap_err();
        // As in /tmp: others cannot touch what is the user's there, but they can add links.
        allow(&caches, 0o1777);
        own_dir(&caches.join("a/b"), false).unwrap();
        std::os::unix::fs::symlink("a", caches.join("link")).unwrap();
        own_dir(&caches.join("link/b"), false).unwrap_err();
        allow(&caches, 0o755);
        own_dir(&caches.join("link/b"), false).unwrap();
    }

    #[test]
    fn links_of_the_users_own_are_followed() {
        let top = tempfile::tempdir().unwrap();
        let real = top.path().join("real/deep");
        std::fs::create_dir_all(&real).unwrap();
        allow(&real, 0o711);
        let link = |to: &Path, name: &str| std::os::unix::fs::symlink(to, top.path().join(name)).unwrap();
        link(Path::new("real/../real/./deep"), "relative");
        link(&real, "absolute");
        link(Path::new("round"), "round");
        for name in ["relative", "absolute"] {
            own_dir(&top.path().join(name).join("new"), true).unwrap();
            assert!(real.join("new").is_dir());
            own_dir(&top.path().join(name).join("new/../new"), false).unwrap();
        }
        own_dir(&top.path().join("round/new"), true).unwrap_err();
        own_dir(&top.path().join("none/../new"), true).unwrap_err();
        assert!(!top.path().join("none").exists());
    }

    /// Only root can play another user here.
    #[test]
    fn the_home_of_somebody_else_is_left_alone() {
        use std::os::unix::fs::{chown, lchown};
        if sys::effective_user() != 0 {
            eprintln!("SKIP the home of somebody else: only root can give files away");
            return;
        }
        let top = tempfile::tempdir().unwrap();
        let (home, root) = (top.path().join("home"), top.path().join("root"));
        std::fs::create_dir_all(&home).unwrap();
        std::fs::create_dir_all(&root).unwrap();
        chown(&home, Some(1234), Some(1234)).unwrap();
        let memo = Memo::open(home.join(".cache/bytekeep"));
        memo.add(&stat(1));
        memo.save().unwrap_err();
        assert_eq!(std::fs::read_dir(&home).unwrap().count(), 0, "root made something in another user's home");

        // A directory of root's own, reached through a link of theirs: by name, and with the link itself taken from root.
        std::os::unix::fs::symlink(&root, home.join("link")).unwrap();
        own_dir(&home.join("link/new"), true).unwrap_err();
        let link = top.path().join("link");
        std::os::unix::fs::symlink(&root, &link).unwrap();
        own_dir(&link.join("new"), true).unwrap();
        lchown(&link, Some(1234), Some(1234)).unwrap();
        own_dir(&link.join("new"), false).unwrap_err();
        own_dir(&link.join("newer"), true).unwrap_err();
        assert!(!root.join("newer").exists());
    }
}
