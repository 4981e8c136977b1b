//! What is in a store, whether it is whole, and what it was good for so far.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::link::prove_any;
use super::value::Value;
use super::{Counts, Key, Store, name, names, read_own, remove_any};
use crate::base::lock::{Attempt, DirLock};
use crate::base::memo;
use crate::base::sys::{self, Dir, Kind, Name, Time};
use crate::base::{Error, Flaw, FlawKind, Result};
use crate::ignored;

/// The file in it that says what it was good for.
const RECORD: &str = "record-2";
const RECORD_MAGIC: &[u8; 8] = b"BKUSED2\n";

/// What is in a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holding {
    /// How many values.
    pub values: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The same by the magic number of the interpreter that made them.
    pub magics: BTreeMap<[u8; 4], (u64, u64)>,
    /// How many finished artifacts trees share, or can share, and their bytes. What a tree has of those costs nothing here.
    pub shared: (u64, u64),
}

/// What a store was good for since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Record {
    /// In all runs together.
    pub counts: Counts,
    /// Since when it is counted, seconds since 1970; 0 where nothing was counted yet.
    pub since: i64,
}

/// What proving every value came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Proved {
    /// How many there are.
    pub values: u64,
    /// How many artifacts that trees share.
    pub shared: u64,
    /// How many are bad, of both.
    pub bad: u64,
    /// How many of those are artifacts that trees share.
    pub bad_shared: u64,
    /// How many of those were removed.
    pub removed: u64,
}

impl Store {
    /// Its shards, one after the other. What stands in the place of one holds no value.
    fn shards(&self) -> impl Iterator<Item = Result<Arc<Dir>>> {
        (0..256).filter_map(|shard| self.shard_dir(shard).transpose())
    }

    /// What stands in the place of a shard.
    fn in_the_way(&self) -> Result<Vec<Name>> {
        let is_shard = |name: &Name| matches!(name.as_bytes(), [a, b] if [a, b].iter().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')));
        let others = self.dir.list()?.others;
        Ok(others.into_iter().filter(is_shard).collect())
    }

    /// Counts what is in it, by the first bytes of each value. Nothing is proved.
    pub fn holding(&self) -> Result<Holding> {
        let mut holding = Holding::default();
        for shard in self.shards() {
            let shard = shard?;
            for value in names(&shard)?.iter().filter(|name| Key::of_name(name).is_some()) {
                let path = shard.path_of(value);
                let look = || -> Result<_> {
                    let mut magic = [0; 4];
                    // What else stands there, some of that cannot even be opened.
                    let stat = shard.stat_of(value)?;
                    if stat.kind == Kind::File {
                        sys::read_at(&shard.open_file(value)?, &mut magic, 0, &path)?;
                    }
                    Ok((stat, magic))
                };
                match look() {
                    Ok((stat, magic)) if stat.kind == Kind::File => {
                        holding.values += 1;
                        holding.bytes = holding.bytes.saturating_add(stat.size);
                        let of_magic = holding.magics.entry(magic).or_default();
                        *of_magic = (of_magic.0.saturating_add(1), of_magic.1.saturating_add(stat.size));
                    }
                    Ok(_) => {}
                    Err(error) if error.is_absent() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        for shard in self.link_shards()? {
            for link in names(&shard)?.iter().filter(|name| Key::of_name(name).is_some()) {
                match shard.stat_of(link) {
                    Ok(stat) if stat.kind == Kind::File => {
                        holding.shared = (holding.shared.0.saturating_add(1), holding.shared.1.saturating_add(stat.size));
                    }
                    Ok(_) => {}
                    Err(error) if error.is_gone() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(holding)
    }

    /// Proves every value and every artifact that trees share, and removes what is bad where asked: of the latter the name here, and not
    /// those in trees. Bad ones are told with their cause as they are found. `true` from `stop` ends it.
    pub fn prove(&self, remove: bool, stop: &dyn Fn() -> bool, tell: &mut dyn FnMut(&Path, &Flaw)) -> Result<Proved> {
        let mut proved = Proved::default();
        for other in self.in_the_way()? {
            proved.bad += 1;
            let flaw = Flaw::new(FlawKind::Corrupt, "no-shard", "it is no directory, and keeps values from being put");
            tell(&self.dir.path_of(&other), &flaw);
            if remove {
                remove_there(&self.dir, &other)?;
                proved.removed += 1;
            }
        }
        let values = self.shards().map(|shard| shard.map(|shard| (shard, false)));
        let links = self.link_shards()?.into_iter().map(|shard| Ok((shard, true)));
        for shard in values.chain(links) {
            let (shard, shared) = shard?;
            for name in names(&shard)? {
                if stop() {
                    return Ok(proved);
                }
                let Some(key) = Key::of_name(&name) else { continue };
                let flaw = match if shared { prove_link(&shard, &name) } else { prove(&shard, &name, &key) } {
                    Err(Bad::Gone) => continue,
                    Err(Bad::Flaw(flaw)) => Some(flaw),
                    Ok(()) => None,
                };
                *(if shared { &mut proved.shared } else { &mut proved.values }) += 1;
                let Some(flaw) = flaw else { continue };
                proved.bad += 1;
                proved.bad_shared += u64::from(shared);
                tell(&shard.path_of(&name), &flaw);
                if remove {
                    remove_there(&shard, &name)?;
                    proved.removed += 1;
                }
            }
        }
        Ok(proved)
    }

    /// What it was good for so far.
    pub fn record(&self) -> Record {
        name(RECORD).and_then(|name| memo::read(&self.dir, &name, 1024)).ok().and_then(|bytes| Record::parse(&bytes)).unwrap_or_default()
    }

    /// Adds what this run had of it to what all had: for the end of a run. Where another one is at the same it is lost, and costs the
    /// statistic only.
    pub fn note_use(&self) {
        let counts = self.counts();
        if counts == Counts::default() || self.read_only {
            return;
        }
        let note = || {
            let Attempt::Held(_lock) = DirLock::try_take(&self.dir)? else {
                tracing::debug!("what the store was good for is not counted: another run is just at it");
                return Ok(());
            };
            let old = self.record();
            let since = if old.since == 0 { Time::now().sec } else { old.since };
            let record = Record { counts: old.counts.and(&counts), since };
            memo::replace(&self.dir, &name(RECORD)?, &record.to_bytes())
        };
        let noted: Result<()> = note();
        match noted {
            // Cleaned away.
            Err(error) if error.is_gone() => tracing::debug!(cause = %error.sentence(), "the store went away"),
            noted => ignored!(noted, "what the store was good for is not counted"),
        }
    }
}

/// Removes what is bad, unless somebody else did.
fn remove_there(dir: &Arc<Dir>, name: &Name) -> Result<()> {
    match remove_any(dir, name) {
        Err(error) if !error.is_gone() => Err(error),
        _ => Ok(()),
    }
}

enum Bad {
    Gone,
    Flaw(Flaw),
}

impl From<Error> for Bad {
    fn from(error: Error) -> Self {
        if error.is_absent() { Self::Gone } else { Self::Flaw(Flaw::new(FlawKind::Corrupt, "unreadable", error.sentence())) }
    }
}

fn prove_link(shard: &Arc<Dir>, link: &Name) -> std::result::Result<(), Bad> {
    let path = shard.path_of(link);
    let file = shard.open_file(link)?;
    let stat = sys::stat(&file, &path)?;
    let proved = read_own(&file, &stat, &path)?.and_then(|bytes| prove_any(&bytes));
    proved.map_err(|flaw| Bad::Flaw(Flaw { text: format!("{}, and so it is in each tree that has it by a link", flaw.text), ..flaw }))
}

fn prove(shard: &Arc<Dir>, value: &Name, key: &Key) -> std::result::Result<(), Bad> {
    let flaw = |code, text: &str| Bad::Flaw(Flaw::new(FlawKind::Corrupt, code, text));
    let path = shard.path_of(value);
    if shard.path().file_name().is_none_or(|name| name != key.shard()) {
        return Err(flaw("place", "it lies in the directory of other keys, where nobody looks for it"));
    }
    let file = shard.open_file(value)?;
    let stat = sys::stat(&file, &path)?;
    read_own(&file, &stat, &path)?.and_then(|bytes| Value::prove(bytes, key, None)).map(drop).map_err(Bad::Flaw)
}

impl Counts {
    fn and(&self, other: &Self) -> Self {
        Self {
            hits: self.hits.saturating_add(other.hits),
            misses: self.misses.saturating_add(other.misses),
            puts: self.puts.saturating_add(other.puts),
            saved: self.saved.saturating_add(other.saved),
            linked: self.linked.saturating_add(other.linked),
            spent: self.spent.saturating_add(other.spent),
        }
    }
}

impl Record {
    /// How much compiling it saved: what is known of values, and for artifacts that trees share, which do not say how long they took, as
    /// much each as what was put and found took on the average.
    pub fn saved(&self) -> Duration {
        let Counts { hits, puts, saved, linked, spent, .. } = self.counts;
        let known = hits.saturating_sub(linked).saturating_add(puts);
        let average = saved.saturating_add(spent).checked_div(u32::try_from(known).unwrap_or(u32::MAX)).unwrap_or_default();
        saved.saturating_add(average.saturating_mul(u32::try_from(linked).unwrap_or(u32::MAX)))
    }

    fn to_bytes(self) -> Vec<u8> {
        let Counts { hits, misses, puts, saved, linked, spent } = self.counts;
        let [saved, spent] = [saved, spent].map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        let numbers = [hits, misses, puts, saved, linked, spent, self.since.cast_unsigned()];
        RECORD_MAGIC.iter().copied().chain(numbers.iter().flat_map(|number| number.to_le_bytes())).collect()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (numbers, []) = bytes.strip_prefix(RECORD_MAGIC)?.as_chunks::<8>() else { return None };
        let numbers: Vec<u64> = numbers.iter().map(|number| u64::from_le_bytes(*number)).collect();
        let &[hits, misses, puts, saved, linked, spent, since] = numbers.as_slice() else { return None };
        let [saved, spent] = [saved, spent].map(Duration::from_micros);
        Some(Self { counts: Counts { hits, misses, puts, saved, linked, spent }, since: since.cast_signed() })
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test's own files")]
mod tests {
    use super::super::Parts;
    use super::*;
    use crate::base::seal::Digest;

    fn put(store: &Store, number: u8, magic: [u8; 4]) -> std::path::PathBuf {
        let source = Digest::of(&[number]);
        let key = Parts { source: &source, tag: "toy-1", magic, variant: "", level: 0, build: "here" }.key();
        store.put(&key, &source, magic, Duration::from_millis(3), b"code").unwrap();
        store.find(&key, &source).unwrap();
        store.path_of(&key)
    }

    #[test]
    fn what_is_there_is_counted_by_magic_and_what_it_was_good_for_by_run() {
        let top = tempfile::tempdir().unwrap();
        assert!(Store::existing(top.path()).unwrap().is_none());
        assert_eq!(std::fs::read_dir(top.path()).unwrap().count(), 0, "who only looks makes nothing");
        let milli = Duration::from_millis(1);
        for run in 1..4_u8 {
            let store = Store::open(top.path()).unwrap();
            put(&store, run, [run / 2, 0, b'\r', b'\n']);
            store.count_hit(Duration::from_millis(3));
            store.note_use();
            let record = Store::existing(top.path()).unwrap().unwrap().record();
            let count = u64::from(run);
            assert_eq!(
                record.counts,
                Counts { hits: count, puts: count, saved: 3 * milli * run.into(), spent: 3 * milli * run.into(), ..Counts::default() }
            );
            // What trees shared took as long as the rest, most likely.
            let linked = Counts { linked: 2 * count, hits: 3 * count, ..record.counts };
            assert_eq!(Record { counts: linked, ..record }.saved(), 3 * milli * 3 * run.into());
            assert!(record.since > 0);
        }
        let store = Store::open(top.path()).unwrap();
        let size = 4 + 112;
        let magics = [([0, 0, b'\r', b'\n'], (1, size)), ([1, 0, b'\r', b'\n'], (2, 2 * size))].into();
        assert_eq!(store.holding().unwrap(), Holding { values: 3, bytes: 3 * size, magics, shared: (0, 0) });
        for bad in [&b""[..], b"BKUSED2\n", &[b'x'; 48]] {
            std::fs::write(top.path().join("store-1").join(RECORD), bad).unwrap();
            assert_eq!(store.record(), Record::default());
        }
    }

    #[test]
    fn every_value_is_proved_and_bad_ones_go_where_asked() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(top.path()).unwrap();
        let magic = [1, 2, b'\r', b'\n'];
        let paths: Vec<_> = (0..6).map(|number| put(&store, number, magic)).collect();
        let prove = |remove| {
            let mut told = BTreeMap::new();
            let proved = store.prove(remove, &|| false, &mut |path, flaw| told.extend([(path.to_path_buf(), flaw.code)])).unwrap();
            (proved, told)
        };
        assert_eq!(prove(true).0, Proved { values: 6, ..Proved::default() });
        std::fs::write(&paths[0], b"").unwrap();
        std::fs::copy(&paths[2], &paths[1]).unwrap();
        let misplaced = top.path().join("store-1").join(if paths[2].parent().unwrap().ends_with("00") { "01" } else { "00" });
        std::fs::create_dir_all(&misplaced).unwrap();
        let misplaced = misplaced.join(paths[2].file_name().unwrap());
        std::fs::copy(&paths[2], &misplaced).unwrap();
        std::fs::remove_file(&paths[3]).unwrap();
        std::os::unix::fs::symlink(&paths[2], &paths[3]).unwrap();
        let codes = [(paths[1].clone(), "label"), (misplaced.clone(), "place"), (paths[3].clone(), "unreadable")];
        for (remove, removed) in [(false, 0), (true, 4)] {
            let (proved, told) = prove(remove);
            assert_eq!(proved, Proved { values: 7, bad: 4, removed, ..Proved::default() });
            assert!(told.contains_key(&paths[0]) && codes.iter().all(|(path, code)| told[path] == *code), "{told:?}");
        }
        assert_eq!(prove(false), (Proved { values: 3, ..Proved::default() }, BTreeMap::new()));
        assert!(paths[2].exists() && !misplaced.exists());
    }
}
