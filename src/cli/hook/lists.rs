//! What changed since the last time, by dpkg's lists of files (`info/*.list`): each is written anew when its package is unpacked and goes
//! with it. A file of our own remembers their times, and where each package had modules: after a removal nobody else knows.
//!
//! That file may get lost: then everything counts as changed, once. So it does when a version becomes supported, or its interpreter comes:
//! no list of a package tells that.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::failure::Failure;
use super::owner::{self, Site};
use super::places::{Places, inside};
use crate::base::memo;
use crate::base::sys::{Dir, Name};
use crate::ignored;

const MAGIC: &str = "bytekeep: lists of dpkg 1";
const FILE: &str = "dpkg-lists-1";
/// What a line of one for whom was compiled begins with.
const MAKER: &[u8] = b"by ";
/// The largest such file that is read, bytes. It has a line for each package and each directory: some hundred KB on a large system.
const LIMIT: u64 = 64 << 20;

/// A list as it was: seconds and nanoseconds of its time, size, inode.
type State = (i64, i64, u64, u64);

/// A list, and where it has sources that somebody imports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct List {
    state: State,
    dirs: BTreeSet<PathBuf>,
}

type Lists = BTreeMap<OsString, List>;

/// All that is remembered.
#[derive(Debug, Default, PartialEq, Eq)]
struct Memory {
    lists: Lists,
    /// For whom was compiled: see [`owner::makers`].
    makers: BTreeSet<PathBuf>,
}

/// Where it is remembered.
pub(super) enum Cache {
    /// In a directory of ours.
    Own(PathBuf),
    /// In the system below this root that it is about. No link in it leads out.
    Below(PathBuf),
}

impl Cache {
    fn open(&self, make: bool) -> crate::base::Result<Arc<Dir>> {
        match self {
            Self::Own(dir) => memo::own_dir(dir, make),
            Self::Below(root) => memo::own_dir_beneath(root, Path::new("var/cache/bytekeep"), make),
        }
    }
}

/// What changed, and what is to be remembered when all of it is done.
pub(super) struct Changed {
    /// Where to look.
    pub(super) places: Places,
    now: Memory,
    is_new: bool,
    cache: Option<Cache>,
}

impl Changed {
    /// By the lists below a root (`None` is this system's own), against what is remembered.
    pub(super) fn since(root: Option<&Path>, cache: Option<Cache>) -> Result<Self, Failure> {
        let before = cache.as_ref().map(remembered).unwrap_or_default();
        let info = root.unwrap_or(Path::new("/")).join("var/lib/dpkg/info");
        let unable = |cause| Failure::of_path("cannot read dpkg's lists", &info, cause).hint("is this a system that dpkg manages?");
        let mut places = Places::default();
        let mut now = Lists::new();
        for file in std::fs::read_dir(&info).map_err(unable)? {
            let file = file.map_err(unable)?;
            let name = file.file_name();
            // A list that goes while we look is one that went.
            let Ok(seen) = file.metadata() else { continue };
            if !name.as_bytes().ends_with(b".list") || !seen.is_file() {
                continue;
            }
            let state = (seen.mtime(), seen.mtime_nsec(), seen.size(), seen.ino());
            let known = before.lists.get(&name);
            if let Some(known) = known.filter(|known| known.state == state) {
                now.insert(name, known.clone());
                continue;
            }
            let dirs = sources(&file.path()).map_err(unable)?;
            places.folders.extend(dirs.iter().chain(known.into_iter().flat_map(|known| &known.dirs)).cloned());
            now.insert(name, List { state, dirs });
        }
        for (_, gone) in before.lists.iter().filter(|(name, _)| !now.contains_key(*name)) {
            places.folders.extend(gone.dirs.iter().cloned());
        }
        let sites: BTreeSet<Site> = now.values().flat_map(|list| &list.dirs).filter_map(|dir| owner::site(dir)).collect();
        let makers = owner::makers(&sites, root);
        if !makers.is_subset(&before.makers) {
            places.folders.extend(now.values().flat_map(|list| &list.dirs).cloned());
        }
        let now = Memory { lists: now, makers };
        let is_new = now != before;
        Ok(Self { places, now, is_new, cache })
    }

    /// Remembers it: after the work, so that what was interrupted is found again.
    pub(super) fn keep(&self) {
        let Some(cache) = self.cache.as_ref().filter(|_| self.is_new) else { return };
        let mut text = format!("{MAGIC}\n").into_bytes();
        for maker in &self.now.makers {
            text.extend_from_slice(MAKER);
            text.extend_from_slice(maker.as_os_str().as_bytes());
            text.push(b'\n');
        }
        for (name, list) in &self.now.lists {
            let (sec, nsec, size, ino) = list.state;
            text.extend_from_slice(format!("{sec} {nsec} {size} {ino} ").as_bytes());
            text.extend_from_slice(name.as_bytes());
            text.push(b'\n');
            for dir in &list.dirs {
                text.extend_from_slice(dir.as_os_str().as_bytes());
                text.push(b'\n');
            }
        }
        let kept = cache.open(true).and_then(|dir| memo::replace(&dir, &file(), &text));
        ignored!(kept, "the next run looks at all of dpkg's packages");
    }
}

#[allow(clippy::unwrap_used, reason = "a constant that is one component")]
fn file() -> Name {
    Name::new(FILE).unwrap()
}

fn remembered(cache: &Cache) -> Memory {
    let read = cache.open(false).and_then(|dir| memo::read(&dir, &file(), LIMIT));
    match read {
        Ok(text) => parse(&text).unwrap_or_default(),
        Err(error) => {
            tracing::debug!(cause = %error.sentence(), "nothing is remembered of dpkg's packages");
            Memory::default()
        }
    }
}

/// `None`: it is not what we wrote. A package has a line that begins with its list's state, a directory one that begins with a slash.
fn parse(text: &[u8]) -> Option<Memory> {
    let mut lines = text.strip_suffix(b"\n")?.split(|byte| *byte == b'\n');
    if lines.next() != Some(MAGIC.as_bytes()) {
        return None;
    }
    let (mut lists, mut makers) = (Lists::new(), BTreeSet::new());
    let mut last: Option<(OsString, List)> = None;
    for line in lines {
        if line.starts_with(b"/") {
            last.as_mut()?.1.dirs.insert(PathBuf::from(OsStr::from_bytes(line)));
            continue;
        }
        if let Some(maker) = line.strip_prefix(MAKER) {
            makers.insert(PathBuf::from(OsStr::from_bytes(maker)));
            continue;
        }
        lists.extend(last.take());
        let mut fields = line.splitn(5, |byte| *byte == b' ');
        let mut number = || std::str::from_utf8(fields.next()?).ok()?.parse::<i64>().ok();
        let (sec, nsec) = (number()?, number()?);
        let (size, ino) = (number()?.try_into().ok()?, number()?.try_into().ok()?);
        let name = OsString::from_vec(fields.next()?.to_vec());
        last = Some((name, List { state: (sec, nsec, size, ino), dirs: BTreeSet::new() }));
    }
    lists.extend(last);
    Some(Memory { lists, makers })
}

/// The directories of the sources in a list that somebody owns.
fn sources(list: &Path) -> std::io::Result<BTreeSet<PathBuf>> {
    let mut dirs = BTreeSet::new();
    let mut file = match std::fs::File::open(list) {
        Ok(file) => BufReader::new(file),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(dirs),
        Err(cause) => return Err(cause),
    };
    let mut line = Vec::new();
    while {
        line.clear();
        file.read_until(b'\n', &mut line)?
    } > 0
    {
        let path = line.strip_suffix(b"\n").unwrap_or(&line);
        if !path.ends_with(b".py") {
            continue;
        }
        let dir = inside(path).and_then(|path| path.parent().map(Path::to_path_buf));
        dirs.extend(dir.filter(|dir| owner::site(dir).is_some()));
    }
    Ok(dirs)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test's own files")]
mod tests {
    use super::*;

    fn folders(changed: &Changed) -> Vec<&str> {
        changed.places.folders.iter().map(|path| path.to_str().unwrap()).collect()
    }

    #[test]
    fn only_what_changed_is_looked_at() {
        let top = tempfile::tempdir().unwrap();
        let (info, cache) = (top.path().join("var/lib/dpkg/info"), top.path().join("cache"));
        std::fs::create_dir_all(&info).unwrap();
        std::fs::write(info.join("a.list"), "/.\n/usr/lib/python3/dist-packages/a/x.py\n/usr/share/a/y.py\n/usr/bin/z.py\n").unwrap();
        std::fs::write(info.join("b:amd64.list"), "/usr/lib/python3.11/b.py").unwrap();
        std::fs::write(info.join("c.list"), "/usr/share/doc/c\n").unwrap();
        std::fs::write(info.join("c.md5sums"), "/usr/lib/python3.11/c.py\n").unwrap();
        let look = || Changed::since(Some(top.path()), Some(Cache::Own(cache.clone()))).unwrap();
        let (a, b) = ("/usr/lib/python3/dist-packages/a", "/usr/lib/python3.11");
        assert_eq!(folders(&look()), [a, b]);
        assert_eq!(folders(&look()), [a, b], "what was not done is to be done");
        look().keep();
        assert_eq!(folders(&look()), [""; 0]);
        std::fs::write(info.join("c.list"), "/usr/share/doc/c\n/usr/share/doc/d\n").unwrap();
        assert_eq!(folders(&look()), [""; 0], "no Python was touched");
        std::fs::remove_file(info.join("a.list")).unwrap();
        assert_eq!(folders(&look()), [a], "where it was");
        look().keep();
        std::fs::write(info.join("b:amd64.list"), "/usr/lib/python3.11/other/bb.py\n").unwrap();
        assert_eq!(folders(&look()), [b, "/usr/lib/python3.11/other"], "where it was and where it is");
        for damage in [&b""[..], b"bytekeep: lists of dpkg 1\n/x\n", b"bytekeep: lists of dpkg 1\n1 2 3 b.list\n", b"other\n"] {
            std::fs::write(cache.join(FILE), damage).unwrap();
            assert_eq!(folders(&look()), ["/usr/lib/python3.11/other"], "all, where nothing is remembered");
        }
        assert!(Changed::since(Some(&top.path().join("no")), None).is_err());
    }
}
