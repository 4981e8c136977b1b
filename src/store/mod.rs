//! Compiled code that all trees of one user share: whoever compiles a source puts the code here, and the next tree with the same source
//! starts no interpreter.
//!
//! Bytes, files and digests: what the code is, and how a name gets into it, the [`Format`](crate::model::Format) knows.
//!
//! - **T1** A value is believed only when its seal proves every byte of it, it was put there under this very key, and it was made from this
//!   very source. Any other one is a miss with a cause, and is removed where it may be.
//! - **T2** Reading takes no lock, and neither does putting: a value appears whole, by a rename, and one that goes while it is read stays
//!   readable for who has it open.
//! - **T3** A store is used only where nobody else could have written to it: see [`own_dir`].
//! - **T4** Whatever goes wrong here costs time only: what should have been a hit is compiled.
//!
//! Nothing is flushed: after a power cut a value may be torn, and T1 finds that.

mod claim;
mod house;
pub mod key;
pub mod link;
mod prune;
mod system;
mod value;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::base::digests::Digests;
use crate::base::leftover::{self, Leftover};
use crate::base::memo::{only_of, own_dir, replace, replace_as};
use crate::base::seal::Digest;
use crate::base::sys::{self, Dir, Kind, Name, Stat, Time};
use crate::base::{Error, Flaw, FlawKind, Result};
use crate::ignored;

pub use claim::{Claim, Claiming};
pub use house::{Holding, Proved, Record};
pub use key::{Key, Parts};
pub use link::{LinkMode, Links};
pub use prune::{DEFAULT_LIMIT, Pruned};
pub use system::System;
pub use value::Value;

/// The directory in a store that holds all of this version: one that keeps its things in another way has another name.
const VERSION_DIR: &str = "store-1";
/// A value that was used is marked so no more often than this, seconds: each mark is a write.
const MARK_EVERY: i64 = 3600;
/// No value of ours is larger: a source has a limit, and so has what is made of it. Bytes.
const LARGEST: u64 = 256 << 20;
/// As the specification of cache directories has it: programs that make backups leave out what lies beside this.
const TAG_NAME: &str = "CACHEDIR.TAG";
const TAG: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55\n# What is in here can be made again. Made by bytekeep.\n";

/// What a store was good for in one run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Values that were found and used.
    pub hits: u64,
    /// Keys that were asked for and not there, or not to be believed.
    pub misses: u64,
    /// Values that were put there.
    pub puts: u64,
    /// How long compiling took of what was found, but for finished artifacts that trees share: those do not say.
    pub saved: Duration,
    /// Hits of which the whole artifact was there, finished, and is shared with other trees.
    pub linked: u64,
    /// How long compiling took of what was put.
    pub spent: Duration,
}

#[derive(Debug, Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    puts: AtomicU64,
    saved_micros: AtomicU64,
    linked: AtomicU64,
    spent_micros: AtomicU64,
}

/// A store of this user's own.
#[derive(Debug)]
pub struct Store {
    top: Arc<Dir>,
    dir: Arc<Dir>,
    digests: Digests,
    claims: claim::Claims,
    /// Permission bits of its directories and of its values.
    modes: (u32, u32),
    counters: Counters,
    links: OnceLock<Links>,
    house: prune::House,
    /// There is no own one: `top` and `dir` are the system's.
    read_only: bool,
    system: Option<System>,
}

/// What is there for a key.
#[derive(Debug)]
pub enum Lookup {
    /// The code.
    Hit(Value),
    /// Nothing.
    Miss,
    /// Something that is not to be believed. It is gone now.
    Bad(Flaw),
}

impl Store {
    /// Opens the store in a directory, and makes it where it is not there. The directory must be this user's own, and on the way there
    /// nobody else may have a say: what is in it is believed.
    pub fn open(path: &Path) -> Result<Self> {
        Self::of(own_dir(path, true)?)
    }

    /// The same where there is one; nothing is made.
    pub fn existing(path: &Path) -> Result<Option<Self>> {
        let top = match own_dir(path, false) {
            Err(error) if error.is_absent() => return Ok(None),
            top => top?,
        };
        let there = top.names()?.iter().any(|name| name.as_bytes() == VERSION_DIR.as_bytes() || is_aside(name));
        if there { Self::of(top).map(Some) } else { Ok(None) }
    }

    fn of(top: Arc<Dir>) -> Result<Self> {
        let dir = version_dir(&top)?;
        let own = dir.stat()?;
        only_of(sys::effective_user(), &own, dir.path())?;
        let tag = name(TAG_NAME)?;
        if top.stat_of(&tag).is_err_and(|error| error.is_gone()) {
            ignored!(replace(&top, &tag, TAG), "programs that make backups are not told that this is a cache");
        }
        let digests = Digests::in_dir(&dir);
        // It is made for its owner alone. Who has let all others read it wants that of what is in it too.
        let modes = if own.mode & 0o005 == 0o005 { (0o755, 0o644) } else { (0o700, 0o600) };
        Ok(Self {
            top,
            dir,
            digests,
            claims: claim::Claims::default(),
            modes,
            counters: Counters::default(),
            house: prune::House::default(),
            read_only: false,
            system: None,
            links: OnceLock::new(),
        })
    }

    /// With a limit for its size, bytes, instead of [`DEFAULT_LIMIT`].
    #[must_use]
    pub fn within(mut self, limit: u64) -> Self {
        self.house.limit = limit;
        self
    }

    /// With the system's store, which is asked first.
    #[must_use]
    pub fn below(mut self, system: Option<System>) -> Self {
        self.system = system;
        self
    }

    /// The system's store alone, for a user who has none: nothing is put into it.
    pub fn of_system(system: System) -> Self {
        let (dir, counters, house) = (Arc::clone(system.dir()), Counters::default(), prune::House::default());
        let (digests, claims) = (Digests::in_dir(&dir), claim::Claims::default());
        Self {
            top: Arc::clone(&dir),
            dir,
            digests,
            claims,
            modes: (0o700, 0o600),
            counters,
            house,
            read_only: true,
            system: Some(system),
            links: OnceLock::new(),
        }
    }

    /// Is nothing put there?
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// What its user should be told of the system's store, once.
    pub fn complaint(&self) -> Option<(&Path, &str)> {
        let system = self.system.as_ref()?;
        Some((system.path(), system.complaint()?))
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.dir.path().parent().unwrap_or(self.dir.path()).to_path_buf()
    }

    /// What is known of sources that several trees have by hard links.
    pub fn digests(&self) -> &Digests {
        &self.digests
    }

    /// Where the value of a key is, or would be.
    pub fn path_of(&self, key: &Key) -> PathBuf {
        self.dir.path().join(key.relative())
    }

    /// What it was good for since it was opened.
    pub fn counts(&self) -> Counts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            hits: of(&self.counters.hits),
            misses: of(&self.counters.misses),
            puts: of(&self.counters.puts),
            saved: Duration::from_micros(of(&self.counters.saved_micros)),
            linked: of(&self.counters.linked),
            spent: Duration::from_micros(of(&self.counters.spent_micros)),
        }
    }

    /// Counts code that was found and used, and took so long to compile.
    pub fn count_hit(&self, took: Duration) {
        self.counters.hits.fetch_add(1, Ordering::Relaxed);
        self.counters.saved_micros.fetch_add(took.as_micros().try_into().unwrap_or(0), Ordering::Relaxed);
    }

    /// Counts code that was looked for and has to be compiled.
    pub fn count_miss(&self) {
        self.counters.misses.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a finished artifact that a tree got.
    pub fn count_linked(&self) {
        self.counters.hits.fetch_add(1, Ordering::Relaxed);
        self.counters.linked.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts code that was put, or would be but for a dry run.
    pub fn count_put(&self, took: Duration) {
        self.counters.puts.fetch_add(1, Ordering::Relaxed);
        self.counters.spent_micros.fetch_add(took.as_micros().try_into().unwrap_or(0), Ordering::Relaxed);
    }

    /// Looks for the code of a key, made from this source. It may be looked for more than once, so this counts nothing.
    ///
    /// # Errors
    /// Of the system. It says nothing of what is there.
    pub fn find(&self, key: &Key, source: &Digest) -> Result<Lookup> {
        if let Some(value) = self.system.as_ref().and_then(|system| system.find(key, source)) {
            return Ok(Lookup::Hit(value));
        }
        if self.read_only {
            return Ok(Lookup::Miss);
        }
        let relative = key.relative();
        let path = self.path_of(key);
        let file = match self.dir.open_file_beneath(&relative) {
            Ok(file) => file,
            Err(error) if error.is_absent() => return Ok(Lookup::Miss),
            Err(error) => return Err(error),
        };
        let stat = sys::stat(&file, &path)?;
        let now = Time::now();
        match read_own(&file, &stat, &path)?.and_then(|bytes| Value::prove(bytes, key, Some(source))) {
            Ok(value) => {
                // A time to come is of a clock that went wrong: it would stay longest of all.
                if stat.mtime < now.minus_seconds(MARK_EVERY) || stat.mtime > now.minus_seconds(-MARK_EVERY) {
                    ignored!(sys::set_mtime(&file, now, &path), "the last use of a stored value is not marked");
                }
                Ok(Lookup::Hit(value))
            }
            Err(flaw) => {
                self.remove(key);
                Ok(Lookup::Bad(flaw))
            }
        }
    }

    fn remove(&self, key: &Key) {
        let removed = self.dir.open_beneath(Path::new(key.shard())).and_then(|shard| remove_any(&shard, &key.name()));
        match removed {
            Err(error) if error.is_gone() => tracing::debug!(cause = %error.sentence(), "somebody else removed it"),
            removed => ignored!(removed, "a bad value stays in the store"),
        }
    }

    /// May code of this source be put here? Not what others may not read into a store that others may.
    pub fn may_keep(&self, source: &Stat) -> bool {
        self.modes.1 & 0o004 == 0 || source.mode & 0o004 != 0
    }

    /// Puts the code of a key, made from this source within so long; nothing where it is [read-only](Store::is_read_only).
    pub fn put(&self, key: &Key, source: &Digest, magic: [u8; 4], took: Duration, code: &[u8]) -> Result<()> {
        if self.read_only {
            return Ok(());
        }
        let bytes = Value::bytes(key, source, magic, took, code);
        let written = self.shard(key).and_then(|shard| replace_as(&shard, &key.name(), &bytes, self.modes.1));
        match written {
            // Somebody cleaned the store away from under us: what is put into nothing costs time only.
            Err(error) if error.is_gone() => {
                tracing::debug!(cause = %error.sentence(), "the store went away");
                return Ok(());
            }
            written => written?,
        }
        self.count_put(took);
        self.has_put(key, bytes.len() as u64);
        Ok(())
    }

    fn shard(&self, key: &Key) -> Result<Arc<Dir>> {
        match self.dir.open_beneath(Path::new(key.shard())) {
            Err(error) if error.is_gone() => {
                self.dir.make_dir(&name(key.shard())?, self.modes.0)?;
                self.dir.open_beneath(Path::new(key.shard()))
            }
            opened => opened,
        }
    }
}

/// Reads what only this user can have written: a seal has no secret, so whoever can write it can seal it.
fn read_own(file: &File, stat: &Stat, path: &Path) -> Result<std::result::Result<Vec<u8>, Flaw>> {
    let corrupt = |code, text: &str| Flaw::new(FlawKind::Corrupt, code, text);
    if stat.kind != Kind::File {
        return Ok(Err(corrupt("no-value", "it is no file")));
    }
    if only_of(sys::effective_user(), stat, path).is_err() {
        return Ok(Err(corrupt("owner", "somebody else could have written it")));
    }
    Ok(sys::read_all(file, stat.size, LARGEST, path)?.ok_or_else(|| corrupt("no-value", "it is too large for a value")))
}

/// Removes what stands in the place of a value, whatever it is.
fn remove_any(shard: &Arc<Dir>, name: &Name) -> Result<()> {
    match shard.stat_of(name)?.kind {
        Kind::Dir => leftover::remove_below(shard, name),
        _ => shard.unlink(name),
    }
}

/// Makes and opens what holds all of this version; `clean` may take it away in between.
fn version_dir(top: &Arc<Dir>) -> Result<Arc<Dir>> {
    let version = name(VERSION_DIR)?;
    let mut tries = 0;
    loop {
        top.make_dir(&version, 0o700)?;
        match top.open_in(&version) {
            Err(error) if error.is_gone() && tries < 10 => tries += 1,
            opened => return opened.map(Arc::new),
        }
    }
}

/// The names in a shard. One that was cleaned away meanwhile has none.
fn names(shard: &Dir) -> Result<Vec<Name>> {
    match shard.names() {
        Err(error) if error.is_gone() => Ok(Vec::new()),
        names => names,
    }
}

/// Is it something that was renamed to be removed?
fn is_aside(name: &Name) -> bool {
    leftover::recognise(name) == Some(Leftover::Aside)
}

fn name(text: &str) -> Result<Name> {
    Name::new(text).ok_or_else(|| Error::new("name", text, io::ErrorKind::InvalidInput))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test's own files")]
mod tests {
    use super::*;

    const MAGIC: [u8; 4] = [1, 2, b'\r', b'\n'];

    fn key(source: &Digest, level: u8) -> Key {
        Parts { source, tag: "toy-1", magic: MAGIC, variant: "", level, build: "here" }.key()
    }

    fn put(store: &Store, source: &Digest, level: u8) -> PathBuf {
        store.put(&key(source, level), source, MAGIC, Duration::from_millis(5), b"the code").unwrap();
        store.dir.path().join(key(source, level).relative())
    }

    #[test]
    fn what_was_put_is_found_by_its_key_alone() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(&top.path().join("a/b")).unwrap();
        let source = Digest::of(b"x");
        assert!(matches!(store.find(&key(&source, 0), &source), Ok(Lookup::Miss)));
        put(&store, &source, 0);
        let Ok(Lookup::Hit(value)) = store.find(&key(&source, 0), &source) else { panic!("no hit") };
        assert_eq!((value.code(), value.took()), (&b"the code"[..], Duration::from_millis(5)));
        assert!(matches!(store.find(&key(&source, 1), &source), Ok(Lookup::Miss)));
        store.count_hit(value.took());
        store.count_miss();
        let counts = store.counts();
        assert_eq!((counts.hits, counts.misses, counts.puts, counts.saved), (1, 1, 1, Duration::from_millis(5)));
        let again = Store::open(&store.path()).unwrap();
        assert!(matches!(again.find(&key(&source, 0), &source), Ok(Lookup::Hit(_))));
        assert!(top.path().join("a/b/CACHEDIR.TAG").is_file());
    }

    #[test]
    fn what_belongs_to_others_or_is_open_to_them_is_not_believed() {
        use std::os::unix::fs::{PermissionsExt, chown};
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(top.path()).unwrap();
        let source = Digest::of(b"x");
        let found = |owner, mode| {
            let path = put(&store, &source, 0);
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            chown(&path, owner, None).unwrap();
            matches!(store.find(&key(&source, 0), &source), Ok(Lookup::Hit(_)))
        };
        assert!(found(None, 0o644) && !found(None, 0o664) && !found(None, 0o602));
        if sys::effective_user() == 0 {
            assert!(!found(Some(1234), 0o644));
        } else {
            eprintln!("SKIP a value of another user: only root can give files away");
        }
    }

    #[test]
    fn what_is_not_to_be_believed_is_removed() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(top.path()).unwrap();
        let source = Digest::of(b"x");
        let path = put(&store, &source, 0);
        let good = std::fs::read(&path).unwrap();
        let whole = good.len();
        let flipped = (0..whole).map(|at| [&good[..at], &[good[at] ^ 4], &good[at + 1..]].concat());
        let cut = (0..whole).map(|len| good[..len].to_vec());
        for bad in flipped.chain(cut) {
            std::fs::write(&path, &bad).unwrap();
            assert!(matches!(store.find(&key(&source, 0), &source), Ok(Lookup::Bad(_))));
            assert!(!path.exists());
            std::fs::write(&path, &good).unwrap();
        }
        // A sound value under another one's key, or of another source.
        let other = put(&store, &source, 1);
        std::fs::copy(&path, &other).unwrap();
        assert!(matches!(store.find(&key(&source, 1), &source), Ok(Lookup::Bad(_))));
        assert!(matches!(store.find(&key(&source, 0), &Digest::of(b"y")), Ok(Lookup::Bad(_))));
    }

    #[test]
    fn what_is_no_value_of_ours_goes_and_something_is_put_in_its_place() {
        use std::os::unix::fs::PermissionsExt;
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(top.path()).unwrap();
        let source = Digest::of(b"x");
        let path = put(&store, &source, 0);
        let others: [fn(&Path); 4] = [
            |path| std::fs::set_permissions(path, PermissionsExt::from_mode(0o622)).unwrap(),
            |path| {
                std::fs::remove_file(path).unwrap();
                std::fs::create_dir_all(path.join("in/it")).unwrap();
            },
            |path| std::fs::File::create(path).unwrap().set_len(LARGEST + 1).unwrap(),
            |path| {
                if sys::effective_user() == 0 {
                    std::os::unix::fs::chown(path, Some(1234), None).unwrap();
                } else {
                    eprintln!("SKIP a value of somebody else: only root can make one");
                    std::fs::write(path, b"").unwrap();
                }
            },
        ];
        for other in others {
            other(&path);
            assert!(store.holding().is_ok());
            assert!(matches!(store.find(&key(&source, 0), &source), Ok(Lookup::Bad(_))));
            assert!(!path.exists());
            put(&store, &source, 0);
            assert!(matches!(store.find(&key(&source, 0), &source), Ok(Lookup::Hit(_))));
        }
        // Each part of it that is none is passed over.
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path.parent().unwrap(), b"").unwrap();
        assert!(store.find(&key(&source, 0), &source).is_err());
        assert_eq!((store.holding().unwrap().values, store.prune(Some(0), None).unwrap().values), (0, 0));
        store.clean().unwrap();
        put(&Store::open(top.path()).unwrap(), &source, 0);
    }

    #[test]
    fn a_use_is_marked_also_after_a_clock_went_wrong() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(top.path()).unwrap();
        let source = Digest::of(b"x");
        let path = put(&store, &source, 0);
        let now = std::time::SystemTime::now();
        let day = Duration::from_secs(86_400);
        for (time, marked) in [(now - day, true), (now + day, true), (now - day / 48, false)] {
            std::fs::File::options().append(true).open(&path).unwrap().set_modified(time).unwrap();
            assert!(matches!(store.find(&key(&source, 0), &source), Ok(Lookup::Hit(_))));
            assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap() != time, marked);
        }
    }

    #[test]
    fn what_others_can_write_is_no_store() {
        use std::os::unix::fs::PermissionsExt;
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("loose");
        drop(Store::open(&path).unwrap());
        for (dir, mode) in [(path.clone(), 0o777), (path.join(VERSION_DIR), 0o770)] {
            std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = Store::open(&path).unwrap_err();
            assert!(error.sentence().contains(&dir.display().to_string()), "{}", error.sentence());
            std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
        }
        assert!(Store::open(&path).is_ok());
    }
}
