//! Finished artifacts that several trees share: links of one file, or clones of its blocks.
//!
//! What is shared must be the same to the last byte: the code, the header, one file name in the code for all, and for a link the
//! permission bits too. A key of its own names that variant. It lies in `links/`, in shards as the values do.
//!
//! - **T5** Under a key of [`Variant::key`] lies only what its maker had flushed: a tree that gets a link of it needs to flush no more
//!   than its own directory. What nobody flushed has the other key, and is linked only by who flushes nothing. A clone is a file of its
//!   own, which is flushed as any other, so it may come from both.
//! - **T6** Nothing here is ever changed where it stands: not its bytes, and neither its mode nor its mtime, which all trees see. The
//!   mtime is a time before the source of its first tree was opened; whether it may vouch for another tree's source, who links it asks.
//! - **T7** What one link of a file suffers, all suffer. It is proved before another tree gets it, and made anew where it is bad. Who
//!   proved or made one that was flushed remembers that by inode, size and mtime; as long as those stay, its ends are looked at and no more, as
//!   `compile` does with what stands in a tree. What `repair` gives a tree, or anybody in place of what was bad, is proved anew.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::{LARGEST, Store, key::Key, name};
use crate::base::leftover::{self, Leftover};
use crate::base::lock::DirLock;
use crate::base::memo::{Memo, only_of};
use crate::base::seal::{Artifact, Digest, SEAL_LEN, Seal};
use crate::base::share::{self, Labels};
use crate::base::sys::{self, Dir, Kind, Name, Stat, Time};
use crate::base::write::Second;
use crate::base::{Error, Flaw, FlawKind, Result, seam};
use crate::ignored;

/// The directory in a store in which they lie.
const LINKS_DIR: &str = "links";
/// Nobody but its owner may write what several trees have: who may write it in one tree need not be allowed to in the others.
const MODE: u32 = 0o644;
/// The use of what has no other name is marked so often at most, seconds.
const MARK_EVERY: i64 = 3600;

/// How artifacts come from the store into a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LinkMode {
    /// Each tree has files of its own, and the code says their names.
    #[default]
    Copy,
    /// Each tree has files of its own that share their blocks until somebody writes to one (reflink).
    Clone,
    /// The trees have names of the same files.
    Hardlink,
}

impl LinkMode {
    /// The word of the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Clone => "clone",
            Self::Hardlink => "hardlink",
        }
    }
}

/// Everything that an artifact depends on and its value does not.
#[derive(Debug, Clone, Copy)]
pub struct Variant<'a> {
    /// The key of its value: source, interpreter, level.
    pub code: &'a Key,
    /// Its header.
    pub head: &'a [u8],
    /// The file name in its code.
    pub filename: &'a [u8],
    /// Its permission bits, before the umask.
    pub mode: u32,
}

impl Variant<'_> {
    /// The key of what was flushed, or of what was not.
    pub fn key(&self, flushed: bool) -> Key {
        let mut hasher = blake3::Hasher::new();
        let (mode, flushed) = (self.mode.to_le_bytes(), [u8::from(flushed || seam::without("flushed-links"))]);
        let parts: [&[u8]; 6] = [b"bytekeep link 1", self.code.hex().as_bytes(), self.head, self.filename, &mode, &flushed];
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        Key::new(Digest(*hasher.finalize().as_bytes()))
    }
}

/// The permission bits of a shared artifact, by those of its source.
pub fn shared_mode(source: u32) -> u32 {
    (source | 0o200) & MODE
}

/// What an artifact must be to be believed.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Digest of the source that it was made from.
    pub source: &'a Digest,
    /// The label in its seal.
    pub label: [u8; 8],
    /// Its header.
    pub head: &'a [u8],
    /// Is every byte proved, whatever is remembered? What rots on the disk keeps its times.
    pub proved_anew: bool,
    /// Was it flushed before it got its name? Of nothing else it is remembered that it was proved: a power cut tears what it leaves the
    /// size and times of.
    pub flushed: bool,
}

impl Wanted<'_> {
    fn fits(&self, seal: &Seal, head: &[u8]) -> bool {
        (seal.source == *self.source && seal.label == self.label && !seal.adopted && head == self.head) || seam::without("link-fit")
    }
}

/// An artifact that is there, proved.
#[derive(Debug)]
pub struct Shared {
    /// Where its name is.
    pub dir: Arc<Dir>,
    /// Its name there.
    pub name: Name,
    /// Open for reading.
    pub file: File,
    /// What it is.
    pub stat: Stat,
}

/// What is there for a key.
#[derive(Debug)]
pub enum Found {
    /// An artifact.
    Hit(Shared),
    /// Nothing.
    Miss,
    /// Something that is not to be believed. Its name here is gone now; trees may still have it, and `verify` finds it there.
    Bad(Flaw),
}

/// The shared artifacts of a store.
#[derive(Debug)]
pub struct Links {
    dir: Arc<Dir>,
    /// An empty file of this process: it shows what new files are here, and whether they can be shared with a file system.
    sample: (Name, File, Stat),
    /// Why nothing is shared with a file system, by its device and how it would be.
    places: Mutex<HashMap<(u64, LinkMode), Option<String>>>,
    /// Which of them were proved.
    proved: Memo,
}

/// What is remembered of a file that was proved. Its ctime changes with each link; what is written to it changes its mtime.
fn without_links(stat: &Stat) -> Stat {
    Stat { ctime: Time { sec: 0, nsec: 0 }, ..*stat }
}

impl Links {
    fn open(store: &Arc<Dir>) -> Result<Self> {
        let links = name(LINKS_DIR)?;
        store.make_dir(&links, 0o700)?;
        let dir = Arc::new(store.open_in(&links)?);
        let (temp, file) = leftover::fresh(".tmp", dir.path(), |name| dir.open_lock_file(name, Some(0o666)))?;
        let stat = sys::stat(&file, dir.path())?;
        let proved = Memo::open(dir.path());
        Ok(Self { dir, sample: (temp, file, stat), places: Mutex::default(), proved })
    }

    fn shard(&self, key: &Key) -> Result<Arc<Dir>> {
        Ok(Arc::new(self.dir.open_in(&name(key.shard())?)?))
    }

    /// Where the artifact of a key is, or would be.
    pub fn path_of(&self, key: &Key) -> PathBuf {
        self.dir.path().join(key.relative())
    }

    /// Why no artifact of this directory can be shared. `None`: nothing speaks against it.
    pub fn refusal(&self, how: LinkMode, lock: &DirLock) -> Result<Option<String>> {
        let (dir, stat) = (lock.dir(), lock.dir_stat());
        if how == LinkMode::Hardlink {
            // A link has its owner, group and mode for all; here a new file would get others.
            if stat.mode & 0o2000 != 0 || (stat.uid != 0 && sys::effective_user() == 0) {
                return Ok(Some("its directory gives its files to another owner or group".to_owned()));
            }
            if dir.has_default_list()? {
                return Ok(Some("its directory gives its files an access list".to_owned()));
            }
        }
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = places.get(&(stat.dev, how)) {
            return Ok(known.clone());
        }
        // Tried, since neither devices nor the names of file systems tell: subvolumes, bind mounts, formats without the feature.
        let tried = match how {
            LinkMode::Copy => Ok(()),
            LinkMode::Hardlink => self.try_link(dir),
            LinkMode::Clone => self.try_clone(dir),
        };
        let refusal = match tried {
            Err(error) if error.is_gone() || error.is_out_of_descriptors() => return Err(error),
            tried => tried
                .err()
                .map(|error| format!("{}; a store on the same file system, if that can do it, is what `--store` names", error.sentence())),
        };
        places.insert((stat.dev, how), refusal.clone());
        Ok(refusal)
    }

    fn try_link(&self, dir: &Dir) -> Result<()> {
        let (temp, ()) = leftover::fresh(".tmp", dir.path(), |temp| dir.link_new(temp, &self.dir, &self.sample.0))?;
        dir.unlink(&temp)
    }

    fn try_clone(&self, dir: &Dir) -> Result<()> {
        let (temp, file) = leftover::fresh(".tmp", dir.path(), |temp| dir.create_new(temp, 0o600))?;
        let cloned = share::clone(&file, &self.sample.1, dir.path());
        dir.unlink(&temp)?;
        cloned
    }

    /// An artifact was made, whole and flushed, and has a name here.
    pub fn made(&self, stat: &Stat) {
        self.proved.add(&without_links(stat));
    }

    /// Is an artifact that was proved before the wanted one, by its ends?
    fn has_ends(file: &File, stat: &Stat, wanted: &Wanted<'_>, path: &Path) -> Result<bool> {
        let (mut head, mut tail) = (vec![0; wanted.head.len()], [0; SEAL_LEN]);
        sys::read_at(file, &mut head, 0, path)?;
        sys::read_at(file, &mut tail, stat.size.saturating_sub(SEAL_LEN as u64), path)?;
        Ok(matches!(Seal::parse(&tail, stat.size), Ok(Some(seal)) if wanted.fits(&seal, &head)))
    }

    /// Looks for the artifact of a key, and proves every byte of it, if that was not done before.
    ///
    /// # Errors
    /// Of the system. It says nothing of what is there.
    pub fn find(&self, key: &Key, wanted: &Wanted<'_>) -> Result<Found> {
        let found = self.shard(key).and_then(|dir| dir.open_file(&key.name()).map(|file| (dir, file)));
        let (dir, file) = match found {
            Ok(found) => found,
            Err(error) if error.is_absent() => return Ok(Found::Miss),
            Err(error) => return Err(error),
        };
        let path = self.path_of(key);
        let stat = sys::stat(&file, &path)?;
        let own = only_of(sys::effective_user(), &stat, &path).is_ok();
        let is_known = wanted.flushed && !wanted.proved_anew;
        if own && is_known && self.proved.knows(&without_links(&stat)) && Self::has_ends(&file, &stat, wanted, &path)? {
            return Ok(Found::Hit(self.hit(key, dir, file, stat)));
        }
        let readable = own && stat.kind == Kind::File;
        let bytes = if readable { sys::read_all(&file, stat.size, LARGEST, &path)? } else { None };
        match bytes.map_or_else(|| Err(corrupt("no-file", "it is no artifact of this user's alone")), |bytes| prove(&bytes, wanted)) {
            Ok(()) => {
                if wanted.flushed {
                    self.proved.add(&without_links(&stat));
                }
                Ok(Found::Hit(self.hit(key, dir, file, stat)))
            }
            Err(flaw) => {
                match dir.unlink(&key.name()) {
                    Err(error) if error.is_gone() => tracing::debug!(cause = %error.sentence(), "somebody else removed it"),
                    removed => ignored!(removed, "a bad artifact stays in the store"),
                }
                Ok(Found::Bad(flaw))
            }
        }
    }

    fn hit(&self, key: &Key, dir: Arc<Dir>, file: File, stat: Stat) -> Shared {
        if stat.nlink == 1 && stat.ctime < Time::now().minus_seconds(MARK_EVERY) {
            ignored!(share::mark_used(&file, &self.path_of(key)), "the last use of a shared artifact is not marked");
        }
        Shared { dir, name: key.name(), file, stat }
    }

    /// Is a shared artifact, as a link in this directory, what a new one of this mode would be there?
    pub fn is_at_home(&self, shared: &Shared, mode: u32, dir: &Dir) -> Result<bool> {
        let own = &self.sample.2;
        if (shared.stat.uid, shared.stat.gid, shared.stat.mode) != (own.uid, own.gid, mode & own.mode) {
            return Ok(false);
        }
        let labels = dir.labels()?;
        Ok(labels.is_empty() || labels == Labels::of_file(&shared.file, dir.path())?)
    }

    /// Puts an artifact there, unflushed: to be cloned.
    pub fn put(&self, key: &Key, bytes: &[u8], mode: u32, mtime: Time) -> Result<Shared> {
        let path = self.path_of(key);
        let shard = name(key.shard())?;
        self.dir.make_dir(&shard, 0o700)?;
        let dir = self.shard(key)?;
        let (temp, file) = leftover::fresh(".tmp", dir.path(), |temp| dir.open_lock_file(temp, Some(mode)))?;
        let written = sys::write_all(&file, bytes, &path)
            .and_then(|()| sys::set_mtime(&file, mtime, &path))
            .and_then(|()| sys::stat(&file, &path))
            .and_then(|stat| dir.rename(&temp, &key.name()).map(|()| stat));
        if written.is_err() {
            ignored!(dir.unlink(&temp), "a temp file stays behind in the store");
        }
        Ok(Shared { stat: written?, name: key.name(), dir, file })
    }

    /// The name here that an artifact gets once it is flushed.
    pub fn second(&self, key: &Key, replaces: bool) -> Result<Arc<Second>> {
        let (top, shard) = (Arc::clone(&self.dir), name(key.shard())?);
        Ok(Arc::new(Second { top, shard, name: key.name(), replaces, given: OnceLock::new() }))
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        ignored!(self.dir.unlink(&self.sample.0), "an empty file stays behind in the store");
        ignored!(self.proved.save(), "what was proved is not remembered");
    }
}

fn corrupt(code: &'static str, text: &str) -> Flaw {
    Flaw::new(FlawKind::Corrupt, code, text)
}

/// Proves an artifact of which is not known whose it should be.
pub(super) fn prove_any(bytes: &[u8]) -> std::result::Result<(), Flaw> {
    let artifact = Artifact::split(bytes)?;
    let whole = artifact.seal.is_some_and(|seal| !seal.adopted);
    if whole { artifact.prove() } else { Err(corrupt("no-seal", "it has no seal of ours, which every shared artifact has")) }
}

fn prove(bytes: &[u8], wanted: &Wanted<'_>) -> std::result::Result<(), Flaw> {
    let artifact = Artifact::split(bytes)?;
    let Some(seal) = artifact.seal else { return Err(corrupt("no-seal", "it has no seal, which every shared artifact has")) };
    artifact.prove()?;
    if !wanted.fits(&seal, artifact.payload.get(..wanted.head.len()).unwrap_or_default()) {
        return Err(corrupt("label", "it is another one's artifact"));
    }
    Ok(())
}

/// What was removed from a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// So many files.
    pub files: u64,
    /// Of so many bytes.
    pub bytes: u64,
}

impl Store {
    /// Its shared artifacts.
    pub fn links(&self) -> Result<&Links> {
        if let Some(links) = self.links.get() {
            return Ok(links);
        }
        let opened = Links::open(&self.dir)?;
        // Another thread may have been first: then this one is dropped, with its sample.
        Ok(self.links.get_or_init(|| opened))
    }

    /// Removes shared artifacts that no tree has a link of, and that were not put there, cloned, or let go by their last tree since then.
    /// What trees have costs nothing here. Safe beside running processes: who finds nothing makes it anew.
    pub fn prune_links(&self, unused_since: Time) -> Result<Pruned> {
        let mut pruned = Pruned::default();
        let top = match self.dir.open_in(&name(LINKS_DIR)?) {
            Err(error) if error.is_absent() => return Ok(pruned),
            opened => Arc::new(opened?),
        };
        let listing = top.list()?;
        for shard in listing.dirs {
            pruned.add_all(&top.open_in(&shard)?, unused_since)?;
        }
        for name in listing.others {
            pruned.add(prune_one(&top, &name, unused_since));
        }
        Ok(pruned)
    }

    /// The shards of its shared artifacts.
    pub(super) fn link_shards(&self) -> Result<Vec<Arc<Dir>>> {
        let top = match self.dir.open_in(&name(LINKS_DIR)?) {
            Err(error) if error.is_absent() || error.kind() == io::ErrorKind::NotADirectory => return Ok(Vec::new()),
            opened => Arc::new(opened?),
        };
        let shards = top.list()?.dirs.into_iter().map(|shard| top.open_in(&shard).map(Arc::new));
        shards.filter(|opened| !opened.as_ref().is_err_and(Error::is_absent)).collect()
    }

    /// The same in some shards, beginning anywhere: for the end of a run that shared something.
    pub(super) fn prune_some_links(&self, shards: u64, unused_since: Time) -> Result<Pruned> {
        let mut pruned = Pruned::default();
        let Some(links) = self.links.get() else { return Ok(pruned) };
        let from = u64::from(Time::now().nsec);
        for shard in (0..shards.min(256)).map(|at| format!("{:02x}", from.wrapping_add(at) % 256)) {
            match links.dir.open_in(&name(&shard)?) {
                Err(error) if error.is_absent() => {}
                opened => pruned.add_all(&Arc::new(opened?), unused_since)?,
            }
        }
        Ok(pruned)
    }
}

impl Pruned {
    fn add_all(&mut self, dir: &Dir, unused_since: Time) -> Result<()> {
        for name in dir.names()? {
            self.add(prune_one(dir, &name, unused_since));
        }
        Ok(())
    }

    fn add(&mut self, bytes: Result<Option<u64>>) {
        match bytes {
            Ok(Some(bytes)) => {
                self.files += 1;
                self.bytes += bytes;
            }
            Ok(None) => {}
            Err(error) => ignored!(Err::<(), Error>(error), "it stays in the store, unless it is gone"),
        }
    }
}

fn prune_one(dir: &Dir, name: &Name, unused_since: Time) -> Result<Option<u64>> {
    let stat = dir.stat_of(name)?;
    let temp = leftover::recognise(name) == Some(Leftover::Temp) && leftover::is_old(&Stat { mtime: stat.ctime, ..stat }, Time::now());
    let unused = Key::of_name(name).is_some() && stat.nlink == 1 && stat.ctime < unused_since;
    if stat.kind != Kind::File || !(temp || unused) {
        return Ok(None);
    }
    dir.unlink(name)?;
    Ok(Some(stat.size))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test's own files")]
mod tests {
    use super::*;
    use crate::base::seal;
    use crate::store::Parts;

    const HEAD: &[u8] = b"headhead";

    fn code(source: &Digest) -> Key {
        Parts { source, tag: "toy-1", magic: [1, 2, 13, 10], variant: "", level: 0, build: "here" }.key()
    }

    #[test]
    fn every_part_of_a_variant_counts() {
        let (one, two) = (code(&Digest::of(b"1")), code(&Digest::of(b"2")));
        let variant = Variant { code: &one, head: HEAD, filename: b"<m.py>", mode: 0o644 };
        let others = [
            Variant { code: &two, ..variant },
            Variant { head: b"headhea", ..variant },
            Variant { filename: b"<n.py>", ..variant },
            Variant { mode: 0o600, ..variant },
            Variant { head: b"headhead<", filename: b"m.py>", ..variant },
        ];
        let mut keys: Vec<_> =
            others.iter().chain([&variant]).flat_map(|variant| [true, false].map(|flushed| variant.key(flushed))).collect();
        keys.sort_by(|a, b| a.hex().cmp(b.hex()));
        keys.dedup();
        assert_eq!(keys.len(), 12);
        assert!(!keys.contains(&one));
    }

    #[test]
    fn only_what_is_proved_is_found() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(top.path()).unwrap();
        let links = store.links().unwrap();
        let source = Digest::of(b"x");
        let key = Variant { code: &code(&source), head: HEAD, filename: b"<m.py>", mode: 0o644 }.key(false);
        let wanted = Wanted { source: &source, label: *b"a label.", head: HEAD, proved_anew: false, flushed: true };
        assert!(matches!(links.find(&key, &wanted), Ok(Found::Miss)));
        let good = seal::sealed([HEAD, b"code"].concat(), source, wanted.label, false);
        let made = Time { sec: 1_500_000_000, nsec: 5 };
        links.put(&key, &good, 0o640, made).unwrap();
        let Ok(Found::Hit(shared)) = links.find(&key, &wanted) else { panic!("no hit") };
        assert_eq!((shared.stat.mtime, shared.stat.size, shared.stat.mode & !0o640), (made, good.len() as u64, 0));
        let other = Digest::of(b"y");
        let bad = [
            (good[..good.len() - 96].to_vec(), wanted),
            (good[..50].to_vec(), wanted),
            ([&good[..9], b"X", &good[10..]].concat(), wanted),
            (good.clone(), Wanted { source: &other, ..wanted }),
            (good.clone(), Wanted { label: *b"another.", ..wanted }),
            (good.clone(), Wanted { head: b"headheaD", ..wanted }),
            (seal::sealed([HEAD, b"code"].concat(), source, wanted.label, true), wanted),
        ];
        for (bytes, wanted) in bad {
            std::fs::write(links.path_of(&key), bytes).unwrap();
            assert!(matches!(links.find(&key, &wanted), Ok(Found::Bad(_))));
            assert!(matches!(links.find(&key, &wanted), Ok(Found::Miss)));
        }
        // Changed where it stands, by somebody who was not there when it was proved.
        links.put(&key, &good, 0o644, made).unwrap();
        assert!(matches!(links.find(&key, &wanted), Ok(Found::Hit(_))));
        std::fs::write(links.path_of(&key), [&good[..9], b"X", &good[10..]].concat()).unwrap();
        assert!(matches!(links.find(&key, &wanted), Ok(Found::Bad(_))));
        // What was never flushed is torn by a power cut, and keeps its times: nobody remembers to have proved it.
        let unflushed = Wanted { flushed: false, ..wanted };
        links.put(&key, &good, 0o644, Time { sec: 1_500_000_001, nsec: 5 }).unwrap();
        let Ok(Found::Hit(shared)) = links.find(&key, &unflushed) else { panic!("no hit") };
        assert!(!links.proved.knows(&without_links(&shared.stat)));
        // What was proved under one key is not what another one wants.
        links.put(&key, &good, 0o644, made).unwrap();
        assert!(matches!(links.find(&key, &Wanted { label: *b"another.", ..wanted }), Ok(Found::Bad(_))));
    }

    #[test]
    fn what_no_tree_has_goes_when_it_is_old_and_what_a_tree_has_stays() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(&top.path().join("store")).unwrap();
        assert_eq!(store.prune_links(Time::now()).unwrap(), Pruned::default(), "nothing was ever shared");
        let links = store.links().unwrap();
        let keys = [1_u8, 2].map(|number| code(&Digest::of(&[number])));
        for key in &keys {
            links.put(key, b"12345", 0o644, Time::now()).unwrap();
        }
        std::fs::hard_link(links.path_of(&keys[0]), top.path().join("tree.pyc")).unwrap();
        let hour = |hours: i64| Time::now().minus_seconds(3600 * hours);
        assert_eq!(store.prune_links(hour(5)).unwrap(), Pruned::default());
        assert_eq!(store.prune_some_links(256, hour(5)).unwrap(), Pruned::default());
        assert_eq!(store.prune_some_links(256, hour(-1)).unwrap(), Pruned { files: 1, bytes: 5 });
        assert!(links.path_of(&keys[0]).exists() && !links.path_of(&keys[1]).exists());
        let samples = || {
            let files = std::fs::read_dir(top.path().join("store/store-1/links")).unwrap().flatten();
            files.filter(|entry| entry.path().extension().is_some_and(|end| end == "tmp")).count()
        };
        assert_eq!(samples(), 1, "a temp file of a running process stays");
        drop(store);
        assert_eq!(samples(), 0);
    }
}
