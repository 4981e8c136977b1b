//! Keeping a store below its limit: what was not used for longest goes.
//!
//! Keys are spread evenly, so a group of shards that is kept below its share of the limit keeps the whole below it, and nobody ever needs
//! to look at all of it. Who puts into a group looks at it each time that it grew by a sixteenth of its share, at once and not when the run
//! ends; and at the end of a run at some of those that grew by less, as many as that makes together. A look takes a millisecond, and is
//! paid for by the compiling of what was put since the last one, which takes some hundred times as long.
//!
//! So a store holds more than its limit only by what runs beside each other put meanwhile: less than a sixteenth of it for each, and
//! mostly nothing, since what is above fifteen sixteenths is brought down to seven eighths. What trees share by links is not counted.
//!
//! Looking takes no lock, nor does reading: a value that goes while it is read stays readable, and one that is gone is a miss. Who removes
//! holds the lock of the shard, tried and never waited for, so that two do not both remove for one excess.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::{Key, Store, name};
use crate::base::leftover::{self, Leftover};
use crate::base::lock::{Attempt, DirLock};
use crate::base::sys::{Dir, Kind, Name, Time};
use crate::base::{Error, Result};
use crate::ignored;

/// How much a store may hold where nobody says otherwise, bytes.
pub const DEFAULT_LIMIT: u64 = 2 << 30;

/// Shards are kept in groups whose share is no smaller than this, bytes: with a smaller one, a few large values would push out the rest.
const LEAST_SHARE: u64 = 4 << 20;
/// In such parts of a group's share it is counted. It is looked at each time that one was put to it;
const PARTS: u64 = 16;
/// it is too large above so many;
const FULL: u64 = 15;
/// and it is brought down to so many, so that not every look removes something.
const LOW: u64 = 14;
/// A run that shared artifacts looks at one shard of those for so many.
const LINKS_PER_LOOK: u64 = 128;
const SHARDS: u64 = 256;
const SHARDS_LEN: usize = 256;
/// What trees shared goes so long after the last of them let it go, seconds: an environment that is made anew finds it.
const UNUSED_LINKS: i64 = 86_400;

/// What a run remembers to keep the store small.
#[derive(Debug)]
pub(super) struct House {
    pub(super) limit: u64,
    /// How many bytes were put to each shard since its group was looked at.
    grown: [AtomicU64; SHARDS_LEN],
}

impl Default for House {
    fn default() -> Self {
        Self { limit: DEFAULT_LIMIT, grown: [const { AtomicU64::new(0) }; SHARDS_LEN] }
    }
}

impl House {
    /// The shards of a group.
    fn shards(&self, group: u64) -> Range<u64> {
        let groups = groups(self.limit);
        group * SHARDS / groups..(group + 1) * SHARDS / groups
    }

    fn share(&self) -> u64 {
        self.limit / groups(self.limit)
    }

    fn grown(&self, group: u64) -> impl Iterator<Item = &AtomicU64> {
        self.shards(group).filter_map(|shard| self.grown.get(usize::try_from(shard).ok()?))
    }

    /// Counts what was put. Its group, where that has grown so much that somebody should look at it.
    fn put_to(&self, key: &Key, bytes: u64) -> Option<u64> {
        let shard = usize::from_str_radix(key.shard(), 16).unwrap_or(0);
        self.grown.get(shard)?.fetch_add(bytes, Ordering::Relaxed);
        let group = shard as u64 * groups(self.limit) / SHARDS;
        let grown: u64 = self.grown(group).map(|grown| grown.load(Ordering::Relaxed)).sum();
        (grown > self.share() / PARTS).then_some(group)
    }

    /// By how much a group has grown since the last call.
    fn take(&self, group: u64) -> u64 {
        self.grown(group).map(|grown| grown.swap(0, Ordering::Relaxed)).sum()
    }
}

/// What pruning came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Values that were removed.
    pub values: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Values that stay.
    pub left: u64,
    /// Their bytes.
    pub left_bytes: u64,
    /// Shards in which another process was removing: they were left to it.
    pub busy: u64,
}

/// A value as its directory has it.
#[derive(Debug, Clone)]
struct Held {
    shard: Arc<Dir>,
    name: Name,
    size: u64,
    used: Time,
}

impl Store {
    /// Counts a value that was put, and looks at its group where that has grown enough.
    pub(super) fn has_put(&self, key: &Key, bytes: u64) {
        let Some(group) = self.house.put_to(key, bytes) else { return };
        let grown = self.house.take(group);
        // Who is at it may have looked before this was put: then it is still to be looked at.
        if self.look_at(group).is_some_and(|pruned| pruned.busy > 0) {
            self.house.put_to(key, grown);
        }
    }

    /// Looks at some of the groups that were put to: for the end of a run. What goes wrong leaves the store larger than it should be, and
    /// the next run tries again.
    pub fn keep_small(&self) {
        let groups = groups(self.house.limit);
        let grown: Vec<(u64, u64)> = (0..groups).map(|group| (group, self.house.take(group))).filter(|(_, bytes)| *bytes > 0).collect();
        let all: u64 = grown.iter().map(|(_, bytes)| bytes).sum();
        let count = all.div_ceil((self.house.share() / PARTS).max(1)).try_into().unwrap_or(usize::MAX);
        // Beginning anywhere: else the first ones would be looked at by every run, and the last ones by none.
        let from = Time::now().nsec as usize % grown.len().max(1);
        let begun = Instant::now();
        let looked = count.min(grown.len());
        for (group, _) in grown.iter().cycle().skip(from).take(looked) {
            self.look_at(*group);
        }
        if self.links.get().is_some() {
            let shards = 1 + self.counts().linked / LINKS_PER_LOOK;
            ignored!(
                self.prune_some_links(shards, Time::now().minus_seconds(UNUSED_LINKS)),
                "what no tree shares any more stays in the store"
            );
        }
        if looked > 0 {
            tracing::debug!(looked, groups, micros = begun.elapsed().as_micros(), "the store is kept below its limit");
        }
    }

    fn look_at(&self, group: u64) -> Option<Pruned> {
        let pruned = self.prune_group(&self.house.shards(group).collect::<Vec<_>>(), self.house.share());
        match &pruned {
            Ok(Pruned { values: 0, .. }) => {}
            Ok(Pruned { values, bytes, .. }) => tracing::debug!(values, bytes, group, "removed from the store what was used least"),
            Err(error) => tracing::debug!(cause = %error.sentence(), "the store is not pruned"),
        }
        pruned.ok()
    }

    fn prune_group(&self, shards: &[u64], share: u64) -> Result<Pruned> {
        let mut seen = 0;
        for shard in shards {
            let Some(dir) = self.shard_dir(*shard)? else { continue };
            seen = held(&dir)?.iter().fold(seen, |sum: u64, held| sum.saturating_add(held.size));
        }
        if seen <= share / PARTS * FULL {
            return Ok(Pruned::default());
        }
        self.prune_shards(shards, share / PARTS * LOW, None)
    }

    /// Removes what no tree shares any more, what was not used since `used_before`, and then what was used least recently until no more than
    /// `limit` bytes are left; and what dead processes left behind.
    pub fn prune(&self, limit: Option<u64>, used_before: Option<Time>) -> Result<Pruned> {
        self.sweep()?;
        let shards: Vec<u64> = (0..SHARDS).collect();
        let links = self.prune_links(used_before.unwrap_or(Time::now().minus_seconds(UNUSED_LINKS)))?;
        let mut pruned = self.prune_shards(&shards, limit.unwrap_or(self.house.limit), used_before)?;
        pruned.values += links.files;
        pruned.bytes = pruned.bytes.saturating_add(links.bytes);
        Ok(pruned)
    }

    fn prune_shards(&self, shards: &[u64], limit: u64, used_before: Option<Time>) -> Result<Pruned> {
        let (mut pruned, mut locks, mut all) = (Pruned::default(), Vec::new(), Vec::new());
        for shard in shards {
            let Some(dir) = self.shard_dir(*shard)? else { continue };
            match DirLock::try_take(&dir) {
                Ok(Attempt::Held(lock)) => locks.push(lock),
                Ok(Attempt::Busy(_)) => {
                    pruned.busy += 1;
                    continue;
                }
                // It was cleaned away.
                Err(error) if error.is_gone() => continue,
                Err(error) => return Err(error),
            }
            // Looked at again: who had the lock until now may have done what was to be done.
            all.extend(held(&dir)?);
        }
        // What cannot stay whatever goes, goes first: else all others would go for it.
        all.sort_by_key(|held| (held.size <= limit, held.used));
        let mut left = all.iter().fold(0_u64, |sum, held| sum.saturating_add(held.size));
        for held in all {
            let is_old = used_before.is_some_and(|before| held.used < before);
            if is_old || left > limit {
                match held.shard.unlink(&held.name) {
                    Err(error) if !error.is_gone() => return Err(error),
                    _ => {}
                }
                left = left.saturating_sub(held.size);
                pruned.values += 1;
                pruned.bytes = pruned.bytes.saturating_add(held.size);
            } else {
                pruned.left += 1;
                pruned.left_bytes = pruned.left_bytes.saturating_add(held.size);
            }
        }
        drop(locks);
        Ok(pruned)
    }

    /// A shard, where it is there. Where something else stands in its place, that holds no value: `verify` tells of it.
    pub(super) fn shard_dir(&self, shard: u64) -> Result<Option<Arc<Dir>>> {
        match self.dir.open_beneath(Path::new(&format!("{shard:02x}"))) {
            Ok(dir) => Ok(Some(dir)),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                tracing::debug!(cause = %error.sentence(), "it is no shard");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes what was renamed aside to be removed, by somebody who died over it or is just at it.
    pub(super) fn sweep(&self) -> Result<()> {
        // Who has not seen yet that it went aside may put something in behind us.
        for _ in 0..3 {
            let asides: Vec<Name> = self.top.names()?.into_iter().filter(super::is_aside).collect();
            if asides.is_empty() {
                break;
            }
            for aside in asides {
                match leftover::remove_below(&self.top, &aside) {
                    Err(error) if !error.is_gone() => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Empties the store: puts an empty one in its place, and removes the old one then. Whoever is at work in it puts into nothing, and
    /// finds nothing. A killed one's is swept by the next, or by [`Store::prune`].
    pub fn clean(&self) -> Result<()> {
        let version = name(super::VERSION_DIR)?;
        match self.exchange(&version) {
            Ok(aside) => leftover::remove_below(&self.top, &aside)?,
            // Not every file system can.
            Err(error) => {
                tracing::debug!(cause = %error.sentence(), "renamed aside instead");
                match leftover::remove_tree(&self.top, &version) {
                    Err(error) if !error.is_gone() => return Err(error),
                    _ => {}
                }
                super::version_dir(&self.top)?.set_mode(self.modes.0)?;
            }
        }
        self.sweep()
    }

    /// Puts an empty store in the place of this one, at once with its mode: who is killed over it leaves either. The name of the old one.
    fn exchange(&self, version: &Name) -> Result<Name> {
        let (aside, ()) = leftover::fresh(".old", self.top.path(), |fresh| {
            let made = self.top.make_dir(fresh, self.modes.0)?;
            if made { Ok(()) } else { Err(Error::new("create", self.top.path_of(fresh), io::ErrorKind::AlreadyExists)) }
        })?;
        let exchanged =
            self.top.open_in(&aside).and_then(|dir| dir.set_mode(self.modes.0)).and_then(|()| self.top.rename_with(&aside, version, true));
        if exchanged.is_err() {
            ignored!(self.top.rmdir(&aside), "an empty directory stays behind in the store");
        }
        exchanged.map(|()| aside)
    }
}

/// The values of a shard. Temp files of dead writers go: no lock tells of those, so age does.
fn held(dir: &Arc<Dir>) -> Result<Vec<Held>> {
    let (now, mut all) = (Time::now(), Vec::new());
    for name in super::names(dir)? {
        let kind = leftover::recognise(&name);
        if kind != Some(Leftover::Temp) && Key::of_name(&name).is_none() {
            continue;
        }
        match dir.stat_of(&name) {
            Ok(stat) if stat.kind != Kind::File => {}
            Ok(stat) if kind.is_none() => all.push(Held { shard: Arc::clone(dir), name, size: stat.size, used: stat.mtime }),
            Ok(stat) if leftover::is_old(&stat, now) => ignored!(dir.unlink(&name), "a temp file stays behind in the store"),
            Ok(_) => {}
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// Into how many groups the shards fall: a power of two.
fn groups(limit: u64) -> u64 {
    let most = (limit / LEAST_SHARE).clamp(1, SHARDS);
    1 << most.ilog2()
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test's own files")]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;
    use std::time::{Duration, SystemTime};

    use super::super::Parts;
    use super::*;
    use crate::base::seal::Digest;

    const MAGIC: [u8; 4] = [1, 2, b'\r', b'\n'];

    /// Puts a value of this size, last used at a time.
    fn put(store: &Store, number: u64, size: usize, used: u64) -> PathBuf {
        let source = Digest::of(&number.to_le_bytes());
        let key = Parts { source: &source, tag: "toy-1", magic: MAGIC, variant: "", level: 0, build: "here" }.key();
        store.put(&key, &source, MAGIC, Duration::ZERO, &vec![b'x'; size - 112]).unwrap();
        let path = store.path_of(&key);
        if path.exists() {
            set_time(&path, used);
        }
        path
    }

    fn set_time(path: &Path, seconds: u64) {
        std::fs::File::options()
            .append(true)
            .open(path)
            .unwrap()
            .set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
            .unwrap();
    }

    fn there(paths: &[PathBuf]) -> Vec<bool> {
        paths.iter().map(|path| path.exists()).collect()
    }

    #[test]
    fn shares_are_no_smaller_than_they_may_be() {
        for (limit, wanted) in [(0, 1), (4 << 20, 1), (9 << 20, 2), (1 << 30, 256), (DEFAULT_LIMIT, 256), (u64::MAX, 256)] {
            assert_eq!(groups(limit), wanted, "{limit}");
        }
    }

    #[test]
    fn what_was_used_last_is_kept() {
        let top = tempfile::tempdir().unwrap();
        let store = || Store::open(top.path()).unwrap().within(10_000);
        let paths: Vec<PathBuf> = (0..9).map(|number| put(&store(), number, 1000, 1000 + number)).collect();
        store().keep_small();
        assert_eq!(there(&paths), [true; 9], "nothing goes that may stay");
        let open = std::fs::File::open(&paths[0]).unwrap();
        let last = put(&store(), 9, 1000, 1000);
        assert_eq!(there(&paths), [[false; 2].as_slice(), &[true; 7]].concat(), "down to seven eighths, the oldest first");
        assert!(last.exists());
        assert_eq!(std::io::Read::bytes(open).count(), 1000, "who has it open reads it");
        let large = put(&store(), 10, 9500, 1);
        assert!(!large.exists() && paths[2..].iter().all(|path| path.exists()), "what is too large for it pushes nothing out");
        // Nothing was put since, so nobody looks.
        let store = Store::open(top.path()).unwrap().within(1);
        store.keep_small();
        assert!(paths[8].exists());
        assert!(std::fs::read_dir(top.path().join("store-1")).unwrap().all(|shard| !shard.unwrap().path().join(".bytekeep.lock").exists()));
    }

    fn held(top: &Path) -> u64 {
        Store::open(top).unwrap().holding().unwrap().bytes
    }

    /// Values of all sizes, from nearly nothing to a twentieth of a share.
    fn sizes() -> impl Iterator<Item = (u64, usize)> {
        (0_u64..).map(|number| (number, 200 + (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize % 200_000))
    }

    /// One run that never ends is kept in bounds while it runs, and each of many small ones that look at a part of what they put.
    #[test]
    fn a_store_is_never_larger_than_its_limit_by_more_than_an_eighth_and_nothing_goes_needlessly() {
        // Four groups.
        let limit = 16 << 20;
        for runs_of in [usize::MAX, 20, 1] {
            let top = tempfile::tempdir().unwrap();
            let mut store = Store::open(top.path()).unwrap().within(limit);
            let mut most = 0;
            for (number, size) in sizes().take(350) {
                let source = Digest::of(&number.to_le_bytes());
                let key = Parts { source: &source, tag: "toy-1", magic: MAGIC, variant: "", level: 0, build: "here" }.key();
                store.put(&key, &source, MAGIC, Duration::ZERO, &vec![b'x'; size]).unwrap();
                let at = usize::try_from(number).unwrap();
                if at % runs_of == 0 {
                    store.keep_small();
                    store = Store::open(top.path()).unwrap().within(limit);
                }
                if at % 25 == 0 {
                    most = most.max(held(top.path()));
                }
            }
            let left = held(top.path());
            assert!(most <= limit + limit / 8, "{most} of {limit} in runs of {runs_of}");
            assert!(left >= limit / 16 * 13, "{left} of {limit} in runs of {runs_of}");
        }
    }

    #[test]
    fn a_shard_that_another_one_prunes_is_left_to_it() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(top.path()).unwrap().within(1000);
        let shard = put(&store, 1, 500, 1000).parent().unwrap().to_path_buf();
        let Attempt::Held(lock) = DirLock::try_take(&Arc::new(Dir::open_root(&shard).unwrap())).unwrap() else { panic!() };
        let path = put(&store, 1, 2000, 1000);
        store.keep_small();
        assert_eq!(store.prune(Some(0), None).unwrap().busy, 1);
        assert!(path.exists());
        drop(lock);
        assert_eq!(store.prune(Some(0), None).unwrap(), Pruned { values: 1, bytes: 2000, ..Pruned::default() });
    }

    #[test]
    fn all_of_it_by_age_and_by_size_and_what_the_dead_left() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(top.path()).unwrap();
        let paths: Vec<PathBuf> = (0..6).map(|number| put(&store, number, 1000, 1000 + number)).collect();
        let shard = paths[0].parent().unwrap();
        let (dead, living, alien) = (shard.join(".bytekeep-a1.tmp"), shard.join(".bytekeep-a2.tmp"), shard.join("alien"));
        for path in [&dead, &living, &alien] {
            std::fs::write(path, b"x").unwrap();
        }
        set_time(&dead, 1000);
        set_time(&alien, 1000);
        std::fs::create_dir_all(top.path().join(".bytekeep-a3.old/ab")).unwrap();
        let before = Time { sec: 1002, nsec: 0 };
        let pruned = store.prune(Some(3500), Some(before)).unwrap();
        assert_eq!(pruned, Pruned { values: 3, bytes: 3000, left: 3, left_bytes: 3000, busy: 0 });
        assert_eq!(there(&paths), [false, false, false, true, true, true]);
        assert!(!dead.exists() && living.exists() && alien.exists() && !top.path().join(".bytekeep-a3.old").exists());
    }

    #[test]
    fn who_works_in_a_store_that_is_cleaned_goes_on() {
        let top = tempfile::tempdir().unwrap();
        let (store, other) = (Store::open(top.path()).unwrap(), Store::open(top.path()).unwrap());
        let path = put(&store, 1, 1000, 1000);
        other.clean().unwrap();
        assert!(!path.exists());
        let source = Digest::of(&1_u64.to_le_bytes());
        let key = Parts { source: &source, tag: "toy-1", magic: MAGIC, variant: "", level: 0, build: "here" }.key();
        assert!(matches!(store.find(&key, &source), Ok(super::super::Lookup::Miss)));
        store.put(&key, &source, MAGIC, Duration::ZERO, b"code").unwrap();
        assert_eq!(store.counts().puts, 1, "what was put into nothing does not count");
        store.keep_small();
        let names: Vec<_> = std::fs::read_dir(top.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        // Who opened it to all finds it open, and its runs put what all can read.
        let mode = || std::fs::metadata(top.path().join("store-1")).unwrap().permissions().mode() & 0o777;
        std::fs::set_permissions(top.path().join("store-1"), PermissionsExt::from_mode(0o755)).unwrap();
        Store::open(top.path()).unwrap().clean().unwrap();
        assert_eq!(mode(), 0o755);
        put(&Store::open(top.path()).unwrap(), 1, 1000, 1000);
        assert!(path.exists());
    }
}
