//! Keeping a store below its limit: what was not used for longest goes.
//!
//! Keys are spread evenly, so a shard that is kept below its share of the limit keeps the whole below it, and nobody ever needs to look at
//! all of it. A run that put something looks at some of the shards that it put to, one for each few values: as the store grows, so it is
//! looked at, and what a look costs is small beside the compiling that paid for those values.
//!
//! Looking takes no lock, nor does reading: a value that goes while it is read stays readable, and one that is gone is a miss. Who removes
//! holds the lock of the shard, tried and never waited for, so that two do not both remove for one excess.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::{Key, Store, name};
use crate::base::Result;
use crate::base::leftover::{self, Leftover};
use crate::base::lock::{Attempt, DirLock};
use crate::base::sys::{Dir, Kind, Name, Time};
use crate::ignored;

/// How much a store may hold where nobody says otherwise, bytes.
pub const DEFAULT_LIMIT: u64 = 2 << 30;

/// Shards are kept in groups whose share is no smaller than this, bytes: with a smaller one, a few large values would push out the rest.
const LEAST_SHARE: u64 = 4 << 20;
/// A run looks at one group for so many values that it put: compiling those takes some fifty times as long as the look. Till the next
/// look a group grows by about as many, 2 MB: a fourth of its share where that is the default's.
const PUTS_PER_LOOK: u64 = 128;
/// A group is too large above so many eighths of its share of the limit: what is put between two looks comes on top of that.
const FULL: u64 = 7;
/// And it is brought down to so many: so much less that it is about full at the next look.
const LOW: u64 = 5;
const SHARDS: u64 = 256;
/// What trees shared goes so long after the last of them let it go, seconds: an environment that is made anew finds it.
const UNUSED_LINKS: i64 = 86_400;

/// What a run remembers to keep the store small.
#[derive(Debug)]
pub(super) struct House {
    pub(super) limit: u64,
    /// Shards that were put to, a bit each.
    put_to: [AtomicU64; 4],
}

impl Default for House {
    fn default() -> Self {
        Self { limit: DEFAULT_LIMIT, put_to: Default::default() }
    }
}

impl House {
    pub(super) fn put_to(&self, key: &Key) {
        let shard = usize::from_str_radix(key.shard(), 16).unwrap_or(0);
        if let Some(word) = self.put_to.get(shard / 64) {
            word.fetch_or(1 << (shard % 64), Ordering::Relaxed);
        }
    }

    /// The shards that were put to since the last call.
    fn take(&self) -> Vec<u64> {
        let words = self.put_to.iter().map(|word| word.swap(0, Ordering::Relaxed));
        let bits = words.zip(0_u64..).flat_map(|(word, at)| (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at * 64 + bit));
        bits.collect()
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
    /// Looks after some of the shards that were put to: for the end of a run. What goes wrong leaves the store larger than it should be,
    /// and the next run tries again.
    pub fn keep_small(&self) {
        let puts = self.house.take();
        let groups = groups(self.house.limit);
        let touched: BTreeSet<u64> = puts.iter().map(|shard| shard * groups / SHARDS).collect();
        let count = self.counts().puts.div_ceil(PUTS_PER_LOOK).try_into().unwrap_or(usize::MAX);
        // Beginning anywhere: else the first ones would be looked at by every run, and the last ones by none.
        let from = u64::from(Time::now().nsec) % groups;
        let turn = touched.range(from..).chain(touched.range(..from));
        let (begun, mut looked) = (Instant::now(), 0_u64);
        for group in turn.take(count) {
            looked += 1;
            let shards: Vec<u64> = (group * SHARDS / groups..(group + 1) * SHARDS / groups).collect();
            match self.prune_group(&shards, self.house.limit / groups) {
                Ok(Pruned { values: 0, .. }) => {}
                Ok(pruned) => {
                    tracing::debug!(values = pruned.values, bytes = pruned.bytes, group, "removed from the store what was used least");
                }
                Err(error) => tracing::debug!(cause = %error.sentence(), "the store is not pruned"),
            }
        }
        if self.links.get().is_some() {
            let shards = 1 + self.counts().linked / PUTS_PER_LOOK;
            ignored!(
                self.prune_some_links(shards, Time::now().minus_seconds(UNUSED_LINKS)),
                "what no tree shares any more stays in the store"
            );
        }
        if looked > 0 {
            tracing::debug!(looked, groups, micros = begun.elapsed().as_micros(), "the store is kept below its limit");
        }
    }

    fn prune_group(&self, shards: &[u64], share: u64) -> Result<Pruned> {
        let mut seen = 0;
        for shard in shards {
            let Some(dir) = self.shard_dir(*shard)? else { continue };
            seen = held(&dir)?.iter().fold(seen, |sum: u64, held| sum.saturating_add(held.size));
        }
        if seen <= share / 8 * FULL {
            return Ok(Pruned::default());
        }
        self.prune_shards(shards, share / 8 * LOW, None)
    }

    /// Removes what no tree shares any more, what was not used since `used_before`, and then what was used least recently until no more than `limit` bytes are left;
    /// and what dead processes left behind.
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
        all.sort_by_key(|held| held.used);
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

    /// Empties the store: renames it aside, makes a new one, and removes the old one then. Whoever is at work in it puts into nothing, and
    /// finds nothing. A killed one's is swept by the next, or by [`Store::prune`].
    pub fn clean(&self) -> Result<()> {
        let version = name(super::VERSION_DIR)?;
        match leftover::remove_tree(&self.top, &version) {
            Err(error) if !error.is_gone() => return Err(error),
            _ => {}
        }
        let dir = super::version_dir(&self.top)?;
        if self.modes.0 != 0o700 {
            dir.set_mode(self.modes.0)?;
        }
        self.sweep()
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
    use std::path::PathBuf;
    use std::time::{Duration, SystemTime};

    use super::super::Parts;
    use super::*;
    use crate::base::seal::Digest;

    const MAGIC: [u8; 4] = [1, 2, b'\r', b'\n'];

    /// Puts a value, makes it as large as this, and last used at a time.
    fn put(store: &Store, number: u64, size: u64, used: u64) -> PathBuf {
        let source = Digest::of(&number.to_le_bytes());
        let key = Parts { source: &source, tag: "toy-1", magic: MAGIC, variant: "", level: 0, build: "here" }.key();
        store.put(&key, &source, MAGIC, Duration::ZERO, b"code").unwrap();
        let path = store.path_of(&key);
        std::fs::File::options().append(true).open(&path).unwrap().set_len(size).unwrap();
        set_time(&path, used);
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
    fn the_end_of_a_run_keeps_what_was_used_last() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(top.path()).unwrap().within(10_000);
        let paths: Vec<PathBuf> = (0..12).map(|number| put(&store, number, 1000, 1000 + number)).collect();
        let open = std::fs::File::open(&paths[0]).unwrap();
        store.keep_small();
        assert_eq!(there(&paths), [vec![false; 6], vec![true; 6]].concat(), "down to five eighths, the oldest first");
        assert_eq!(std::io::Read::bytes(open).count(), 1000, "who has it open reads it");
        // Nothing was put since, so nobody looks.
        set_time(&paths[11], 1);
        store.keep_small();
        assert!(Store::open(top.path()).unwrap().within(1).path().exists());
        assert!(paths[11].exists());
        assert!(std::fs::read_dir(top.path().join("store-1")).unwrap().all(|shard| !shard.unwrap().path().join(".bytekeep.lock").exists()));
    }

    #[test]
    fn a_store_that_grows_stays_small_though_each_run_looks_at_a_part() {
        let top = tempfile::tempdir().unwrap();
        // Two groups.
        let limit = 8 << 20;
        for run in 0..20_u64 {
            let store = Store::open(top.path()).unwrap().within(limit);
            for number in 0..20 {
                put(&store, run * 100 + number, 100_000, 1_000_000 + run);
            }
            store.keep_small();
        }
        let store = Store::open(top.path()).unwrap();
        let left = store.prune(Some(u64::MAX), None).unwrap();
        // 40 MB were put.
        assert!((limit / 2..limit + limit / 4).contains(&left.left_bytes), "{left:?}");
    }

    #[test]
    fn a_shard_that_another_one_prunes_is_left_to_it() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(top.path()).unwrap().within(1000);
        let path = put(&store, 1, 2000, 1000);
        let shard = Arc::new(Dir::open_root(path.parent().unwrap()).unwrap());
        let Attempt::Held(lock) = DirLock::try_take(&shard).unwrap() else { panic!() };
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
        put(&Store::open(top.path()).unwrap(), 1, 1000, 1000);
        assert!(path.exists());
    }
}
