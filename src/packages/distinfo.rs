//! The sources that the distributions of a Python environment have recorded as theirs: `*.dist-info/RECORD`, and `installed-files.txt` of
//! those that are older than that.
//!
//! A record is data of whoever built the package, and the environment may be another user's: it is opened once, what is in it is reached
//! from there, and neither the letters of a record nor a link lead out of it. `SOURCES.txt` of an `egg-info` is not read: it lists what the
//! source tree had, by paths of that tree.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::record::{Row, Rows, lines, normal};
use crate::base::source::{Source, SourceError};
use crate::base::sys::{Dir, Name, Stat, Time};
use crate::base::{Error, leftover};

/// Largest RECORD that is read, bytes: the largest known has a few MB.
const LIMIT: u64 = 32 << 20;
/// Largest `direct_url.json` that is read, bytes.
const URL_LIMIT: u64 = 64 << 10;
/// So many rows are read between two looks at the clock.
const ROWS: usize = 256;
/// So many names of sources that are not there are kept: what a record names may be endless.
const GONE: usize = 1 << 16;
/// Where the directories of installed packages are, below an environment, and how the directory above them begins.
const LIBRARIES: [&str; 2] = ["lib", "lib64"];
const PYTHONS: [&[u8]; 2] = [b"python", b"pypy"];
const SITES: [&str; 2] = ["site-packages", "dist-packages"];
/// What virtualenv and uv put into an environment and record nowhere: each start of its interpreter imports it.
const OWN: &str = "_virtualenv.py";

/// What an environment's records come to. Directories are relative to the environment, without `.`, `..` and links.
#[derive(Debug, Default)]
pub struct Recorded {
    /// The directories of installed packages.
    pub sites: Vec<PathBuf>,
    /// The distributions, by the names of their directories (`django-5.0`).
    pub distributions: Vec<String>,
    /// The recorded sources that are there, by directory, each with the number of its distribution.
    pub sources: BTreeMap<PathBuf, BTreeMap<Name, usize>>,
    /// Every directory below the environment in which something is recorded.
    pub dirs: BTreeSet<PathBuf>,
    /// Sources that are recorded and not there, by directory. `None`: too many to keep.
    pub missing: Option<BTreeMap<PathBuf, BTreeSet<Name>>>,
    /// Other recorded files that are there and that a record proves by a digest or a size, if they are artifacts by their suffix.
    pub proved: BTreeMap<PathBuf, BTreeSet<Name>>,
    /// Distributions whose sources stay outside of the environment (*editable* ones), and where, as far as they say it.
    pub editable: Vec<(String, String)>,
    /// What `pip` has moved aside, less than an hour ago: it is at work, or was killed.
    pub stash: Option<PathBuf>,
    /// What cannot be read or reached, and why.
    pub unusable: Vec<(PathBuf, Unusable)>,
    /// Rows of sources that are not there.
    pub gone: u64,
    /// Rows that lead out of the environment.
    pub outside: u64,
    kept: usize,
}

/// Why a record or a directory cannot be used.
#[derive(Debug)]
pub enum Unusable {
    /// A system call failed.
    System(Error),
    /// It is no record of a distribution: why, as a sentence fragment.
    Record(String),
}

/// Why nothing can be read.
#[derive(Debug, thiserror::Error)]
pub enum NoEnvironment {
    /// The directory cannot be opened.
    #[error(transparent)]
    Closed(#[from] Error),
    /// No directory of installed packages is in it, and no distribution.
    #[error("no distribution is recorded in it")]
    Empty,
}

/// Reads the records of an environment; where `over` says that it is to end, what was found by then. `over` is asked every so often.
///
/// # Errors
/// Where the directory is no environment. A record that cannot be read is [`Recorded::unusable`].
pub fn read(env: &Path, over: &dyn Fn() -> bool) -> Result<Recorded, NoEnvironment> {
    let unable = |cause| Error::new("open", env, cause);
    let real = std::fs::canonicalize(env).map_err(unable)?;
    let whole = std::path::absolute(env).map_err(unable)?;
    let top = Arc::new(Dir::open_root(env)?);
    let found = Recorded { missing: Some(BTreeMap::new()), ..Recorded::default() };
    let mut search = Search { env, whole: normal(&whole).unwrap_or(whole), real, top, found, told: BTreeSet::new() };
    let sites = search.sites();
    let is_named = sites.keys().all(|site| site.as_os_str().is_empty());
    for (site, dir) in sites {
        for info in search.infos(&site, &dir) {
            if over() {
                return Ok(search.found);
            }
            search.distribution(&site, &info, over);
        }
        if let Some(name) = Name::new(OWN).filter(|name| dir.stat_of(name).is_ok()) {
            let number = search.begin("virtualenv");
            search.add(&site, &dir, name, number);
        }
        search.found.dirs.insert(site.clone());
        search.found.sites.push(site);
    }
    if is_named && search.found.distributions.is_empty() && search.found.unusable.is_empty() {
        return Err(NoEnvironment::Empty);
    }
    Ok(search.found)
}

/// A search under way. Its paths are relative to the environment.
struct Search<'a> {
    env: &'a Path,
    /// The environment's path, absolute and without `..`: some records name what they have by its whole path.
    whole: PathBuf,
    /// With all links resolved.
    real: PathBuf,
    top: Arc<Dir>,
    found: Recorded,
    /// What was told as unusable: once is enough.
    told: BTreeSet<PathBuf>,
}

/// What a directory of a record comes to.
enum Reached {
    /// Its path without links.
    There(PathBuf, Arc<Dir>),
    Gone,
    Outside,
    /// It was told why.
    Unusable,
}

impl Search<'_> {
    /// `lib/python*/site-packages` and the like, or the directory itself where it is one. Two names of one directory are one.
    fn sites(&mut self) -> BTreeMap<PathBuf, Arc<Dir>> {
        // The older PyPy has it at the top.
        let mut ways: Vec<PathBuf> = vec![PathBuf::from("site-packages")];
        for lib in LIBRARIES {
            if let Reached::There(lib, dir) = self.reach(Path::new(lib)) {
                let pythons = self.names(&lib, &dir, |name| PYTHONS.iter().any(|python| name.starts_with(python)));
                ways.extend(pythons.iter().flat_map(|python| SITES.map(|site| lib.join(python).join(site))));
            }
        }
        let mut sites = BTreeMap::new();
        for way in ways {
            match self.reach(&way) {
                Reached::There(path, dir) => drop(sites.insert(path, dir)),
                Reached::Outside => self.found.outside += 1,
                Reached::Gone | Reached::Unusable => {}
            }
        }
        if sites.is_empty() {
            sites.insert(PathBuf::new(), Arc::clone(&self.top));
        }
        sites
    }

    /// What in a directory of packages tells of a distribution, in order. Looks for what `pip` moves aside, too.
    fn infos(&mut self, site: &Path, dir: &Dir) -> Vec<Name> {
        let mut names = self.names(site, dir, |name| {
            let ends = [&b".dist-info"[..], b".egg-info", b".egg-link"];
            name.starts_with(b"~") || ends.iter().any(|end| name.ends_with(end))
        });
        // `pip` gives back what is in there when it fails, and removes it when it succeeds. Killed, it leaves it for ever.
        names.retain(|name| {
            let is_stash = name.as_bytes().starts_with(b"~");
            // A directory that was renamed keeps its time of modification.
            let is_young = |stat: Stat| !leftover::is_old(&Stat { mtime: stat.ctime, ..stat }, Time::now());
            if is_stash && dir.stat_of(name).is_ok_and(is_young) {
                self.found.stash = Some(self.env.join(site).join(name));
            }
            !is_stash
        });
        names
    }

    /// Reads what one distribution has recorded.
    fn distribution(&mut self, site: &Path, info: &Name, over: &dyn Fn() -> bool) {
        let (name, end) = split(info);
        let dir = site.join(info);
        match end {
            "dist-info" => {
                let Some(record) = self.file(&dir, "RECORD", LIMIT) else { return };
                let number = self.begin(&name);
                if let Some(url) = self.file(&dir, "direct_url.json", URL_LIMIT).and_then(|json| editable(&json)) {
                    self.found.editable.push((name, url));
                }
                self.collect(Rows(&record), site, number, over);
            }
            "egg-info" => {
                // Often it is a file that lists nothing.
                let Some(list) = self.file(&dir, "installed-files.txt", LIMIT) else { return };
                let number = self.begin(&name);
                self.collect(lines(&list), &dir, number, over);
            }
            _ => self.found.editable.push((name, String::new())),
        }
    }

    fn begin(&mut self, name: &str) -> usize {
        self.found.distributions.push(name.to_owned());
        self.found.distributions.len() - 1
    }

    /// The names in a directory that are wanted, in order.
    fn names(&mut self, path: &Path, dir: &Dir, wanted: impl Fn(&[u8]) -> bool) -> Vec<Name> {
        let listed = dir.names();
        let mut names = listed.unwrap_or_else(|error| {
            self.tell(path, Unusable::System(error));
            Vec::new()
        });
        names.retain(|name| wanted(name.as_bytes()));
        names.sort();
        names
    }

    /// Opens a directory of the environment. A link on the way may lead elsewhere in it, and not out of it.
    fn reach(&mut self, path: &Path) -> Reached {
        let link = match self.top.open_beneath(path) {
            Ok(dir) => return Reached::There(path.to_path_buf(), dir),
            Err(error) if error.is_absent() => return Reached::Gone,
            Err(error) => error,
        };
        // What a link leads to is opened by its own path, and again without links: one that is laid meanwhile is refused.
        let opened = match std::fs::canonicalize(self.env.join(path)) {
            Ok(real) => match real.strip_prefix(&self.real) {
                Ok(below) => self.top.open_beneath(below).map(|dir| (below.to_path_buf(), dir)),
                Err(_) => return Reached::Outside,
            },
            Err(cause) => Err(Error::new("find", self.env.join(path), cause)),
        };
        match opened {
            Ok((below, dir)) => Reached::There(below, dir),
            Err(error) if is_no_path(&error) => Reached::Gone,
            Err(_) => {
                self.tell_closed(path, &link);
                Reached::Unusable
            }
        }
    }

    /// The content of a file that tells of a distribution.
    fn file(&mut self, info: &Path, name: &'static str, limit: u64) -> Option<Vec<u8>> {
        let (path, dir) = match self.reach(info) {
            Reached::There(path, dir) => (path, dir),
            Reached::Outside => {
                self.found.outside += 1;
                return None;
            }
            Reached::Gone | Reached::Unusable => return None,
        };
        // As a source: opened without waiting (a FIFO), never by root through another's link, and never half.
        let why = match Source::read(&dir, &Name::new(name)?, limit) {
            Ok(read) => return Some(read.bytes),
            Err(SourceError::System(error)) if error.is_absent() => return None,
            Err(SourceError::System(error)) => Unusable::System(error),
            Err(error) => Unusable::Record(match error {
                SourceError::NotAFile { kind, .. } => format!("it is {}, no record of a distribution", kind.noun()),
                SourceError::TooLarge { size, .. } => {
                    format!("it has {size} bytes, more than any record of a distribution ({limit} at most)")
                }
                SourceError::ForeignLink { .. } => "it is a link of another user to a file that is not theirs".to_owned(),
                SourceError::Dangling { .. } => "it is a link to something that is not there".to_owned(),
                SourceError::System(_) | SourceError::Changing { .. } => "it keeps changing while it is read".to_owned(),
            }),
        };
        self.tell(&path.join(name), why);
        None
    }

    /// Adds what one record says; its paths are relative to `base`.
    fn collect(&mut self, rows: impl Iterator<Item = Row>, base: &Path, number: usize, over: &dyn Fn() -> bool) {
        // Records go directory by directory. To remember more than the last one would be memory without bound.
        let mut last: Option<(PathBuf, Reached)> = None;
        for (count, row) in rows.enumerate() {
            if count % ROWS == 0 && over() {
                return;
            }
            let is_source = row.path.ends_with(b".py");
            let is_proved = row.proved && (row.path.ends_with(b".pyc") || row.path.ends_with(b".pyo"));
            let written = PathBuf::from(OsString::from_vec(row.path));
            let path = if written.is_absolute() {
                normal(&written).and_then(|path| Some(path.strip_prefix(&self.whole).ok()?.into()))
            } else {
                normal(&base.join(written))
            };
            let Some(path) = path.filter(|path| !path.starts_with("..")) else {
                self.found.outside += u64::from(is_source);
                continue;
            };
            let Some((dir, name)) = path.parent().zip(path.file_name().and_then(Name::new)) else { continue };
            let reached = match last.take() {
                Some((known, reached)) if known == dir => reached,
                _ => self.reach(dir),
            };
            match &reached {
                Reached::There(below, dir) => {
                    if !self.found.dirs.contains(below) {
                        self.found.dirs.insert(below.clone());
                    }
                    if is_source {
                        self.add(below, dir, name, number);
                    } else if is_proved && dir.stat_of(&name).is_ok() {
                        self.found.proved.entry(below.clone()).or_default().insert(name);
                    }
                }
                Reached::Gone => self.found.gone += u64::from(is_source),
                Reached::Outside => self.found.outside += u64::from(is_source),
                Reached::Unusable => {}
            }
            last = Some((dir.to_path_buf(), reached));
        }
    }

    fn add(&mut self, below: &Path, dir: &Dir, name: Name, number: usize) {
        if self.found.sources.get(below).is_some_and(|names| names.contains_key(&name)) {
            return;
        }
        match dir.stat_of(&name) {
            Ok(_) => drop(self.found.sources.entry(below.to_path_buf()).or_default().insert(name, number)),
            // Removed since it was recorded: nothing to compile.
            Err(error) if is_no_path(&error) => {
                self.found.gone += 1;
                self.miss(below, name);
            }
            // Of the directory, and once: names that cannot be looked at are as many as somebody likes.
            Err(error) => self.tell(below, Unusable::System(error)),
        }
    }

    /// Keeps the name of a source that is not there.
    fn miss(&mut self, below: &Path, name: Name) {
        let Some(missing) = &mut self.found.missing else { return };
        if missing.entry(below.to_path_buf()).or_default().insert(name) {
            self.found.kept += 1;
        }
        if self.found.kept > GONE {
            self.found.missing = None;
        }
    }

    /// Tells the first directory on the way that cannot be entered: what a record names below it may be endless.
    fn tell_closed(&mut self, path: &Path, error: &Error) {
        let mut way: Vec<&Path> = path.ancestors().filter(|level| !level.as_os_str().is_empty()).collect();
        way.reverse();
        let closed = way.iter().find_map(|level| self.top.open_beneath(level).err().map(|error| (*level, error)));
        let (level, error) = closed.unwrap_or_else(|| (path, error.again()));
        self.tell(level, Unusable::System(error));
    }

    fn tell(&mut self, path: &Path, why: Unusable) {
        if self.told.insert(path.to_path_buf()) {
            self.found.unusable.push((self.env.join(path), why));
        }
    }
}

/// Is there nothing of this path, and can there be nothing?
fn is_no_path(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename)
}

/// The name of a distribution, and what kind of file or directory tells of it.
fn split(info: &Name) -> (String, &str) {
    let text = info.as_os_str().to_string_lossy();
    let kind = ["dist-info", "egg-info"].into_iter().find(|kind| text.ends_with(kind)).unwrap_or("egg-link");
    let name = text.strip_suffix(kind).and_then(|name| name.strip_suffix('.')).unwrap_or(&text);
    (name.to_owned(), kind)
}

/// Where the sources of an editable installation stay, by its `direct_url.json`; `None`: it is another one.
fn editable(json: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(json).ok()?;
    let is_editable = value.get("dir_info")?.get("editable")?.as_bool()?;
    let url = value.get("url").and_then(serde_json::Value::as_str).unwrap_or_default();
    is_editable.then(|| url.to_owned())
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test's own files")]
mod tests {
    use super::*;

    /// Where sources are, relative to the site directory of the environment.
    fn places(found: &Recorded) -> Vec<(PathBuf, Vec<String>)> {
        let names = |names: &BTreeMap<Name, usize>| names.keys().map(|name| name.as_os_str().to_string_lossy().into_owned()).collect();
        found.sources.iter().map(|(dir, of)| (dir.clone(), names(of))).collect()
    }

    fn write(path: &Path, content: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    const SITE: &str = "lib/python3.13/site-packages";

    #[test]
    fn an_environment_is_what_its_records_say_and_nothing_outside() {
        let top = tempfile::tempdir().unwrap();
        let env = top.path().join("env");
        let site = env.join(SITE);
        std::fs::create_dir_all(top.path().join("outside")).unwrap();
        std::fs::create_dir_all(env.join("bin")).unwrap();
        for file in ["pkg/a.py", "pkg/data.txt", "pkg/unrecorded.py", "pkg/c.pyc", "pkg/d.pyc", "../../../bin/tool.py"] {
            write(&site.join(file), "");
        }
        write(&top.path().join("outside/x.py"), "");
        std::os::unix::fs::symlink("../../../../outside", site.join("link")).unwrap();
        let record = "pkg/a.py,,\npkg/gone.py,,\npkg/data.txt,,\n../../../bin/tool.py,,\n../../../../outside/x.py,,\nlink/x.py,,\n\
            pkg/c.pyc,,\npkg/d.pyc,sha256=x,3\nnowhere/e.pyc,,3\nnowhere/f.py,,3\n/etc/passwd.py,,\n";
        write(&site.join("pkg-1.dist-info/RECORD"), record);
        let found = read(&env, &|| false).unwrap();
        let pkg = PathBuf::from(SITE).join("pkg");
        assert_eq!(places(&found), [("bin".into(), vec!["tool.py".to_owned()]), (pkg.clone(), vec!["a.py".to_owned()])]);
        assert_eq!((found.gone, found.outside, found.unusable.len()), (2, 3, 0));
        let name = |text| BTreeSet::from([Name::new(text).unwrap()]);
        assert_eq!(found.missing, Some([(pkg.clone(), name("gone.py"))].into()));
        assert_eq!(found.proved, [(pkg.clone(), name("d.pyc"))].into());
        assert_eq!((found.sites, found.distributions), (vec![SITE.into()], vec!["pkg-1".to_owned()]));
        assert!(matches!(read(top.path(), &|| false), Err(NoEnvironment::Empty)));
        // What is there twice is found once, and a link may lead elsewhere in the environment.
        std::os::unix::fs::symlink("pkg", site.join("inside")).unwrap();
        write(&site.join("pkg-1.dist-info/RECORD"), "pkg/a.py,,\ninside/a.py,,\n./pkg//a.py,,\npkg/a.py,,\n");
        assert_eq!(places(&read(&env, &|| false).unwrap()), [(pkg, vec!["a.py".to_owned()])]);
        // Told to end, it ends.
        assert!(read(&env, &|| true).unwrap().sources.is_empty());
    }

    #[test]
    fn older_records_and_what_is_editable() {
        let env = tempfile::tempdir().unwrap();
        let site = env.path().join(SITE);
        write(&site.join("old/a.py"), "");
        write(&site.join("old-1.egg-info/installed-files.txt"), "../old/a.py\n../old/__pycache__/a.pyc\nPKG-INFO\n");
        write(&site.join("file-1.egg-info"), "Name: file\n");
        write(&site.join("dev-1.dist-info/RECORD"), "__editable__.dev-1.pth,,\n");
        write(&site.join("dev-1.dist-info/direct_url.json"), r#"{"url": "file:///src/dev", "dir_info": {"editable": true}}"#);
        write(&site.join("local-1.dist-info/RECORD"), "");
        write(&site.join("local-1.dist-info/direct_url.json"), r#"{"url": "file:///src/local", "dir_info": {}}"#);
        write(&site.join("odd-1.dist-info/RECORD"), "");
        write(&site.join("odd-1.dist-info/direct_url.json"), "[[[{");
        write(&site.join("linked.egg-link"), "/src/linked\n.");
        let found = read(env.path(), &|| false).unwrap();
        assert_eq!(places(&found), [(PathBuf::from(SITE).join("old"), vec!["a.py".to_owned()])]);
        assert_eq!(found.distributions, ["dev-1", "local-1", "odd-1", "old-1"]);
        assert_eq!(found.editable, [("dev-1".to_owned(), "file:///src/dev".to_owned()), ("linked".to_owned(), String::new())]);
        assert!(found.unusable.is_empty() && found.stash.is_none());
    }

    #[test]
    fn what_pip_moves_aside_is_seen_while_it_is_young() {
        let env = tempfile::tempdir().unwrap();
        let site = env.path().join(SITE);
        write(&site.join("~kg-1.dist-info/RECORD"), "");
        let found = read(env.path(), &|| false).unwrap();
        assert_eq!(found.stash, Some(site.join("~kg-1.dist-info")));
        assert!(found.distributions.is_empty(), "an environment may have none");
    }

    #[test]
    fn where_packages_are() {
        for site in ["lib64/python3.13/site-packages", "lib/pypy3.11/site-packages", "lib/python3/dist-packages", "site-packages", "."] {
            let env = tempfile::tempdir().unwrap();
            write(&env.path().join(site).join("a.py"), "");
            write(&env.path().join(site).join("a-1.dist-info/RECORD"), "a.py,,\n");
            assert_eq!(read(env.path(), &|| false).unwrap().sources.len(), 1, "{site}");
        }
    }
}
