//! The sources that the distributions of an environment have recorded as theirs (`*.dist-info/RECORD`).
//!
//! A record is data of whoever built the package, and the environment may be another user's: it is opened once, what is in it is reached
//! from there, and neither the letters of a record nor a link lead out of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::failure::Failure;
use super::until::Until;
use crate::base::Error;
use crate::base::source::{Source, SourceError};
use crate::base::sys::{Dir, Name};
use crate::model::Cause;

/// Largest RECORD that is read, bytes: the largest known has a few MB.
const LIMIT: u64 = 32 << 20;
/// Longest recorded path, bytes: the system takes none that is longer (`PATH_MAX`).
const LONGEST: usize = 4096;
/// So many rows are read between two looks at the clock.
const ROWS: usize = 256;

/// What an environment's records come to.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    /// The sources that are there, by directory.
    pub(crate) sources: BTreeMap<PathBuf, BTreeSet<Name>>,
    /// What cannot be read or reached: entries that failed.
    pub(crate) unusable: Vec<(PathBuf, Cause)>,
    /// Recorded, but not there.
    pub(crate) gone: u64,
    /// Recorded, but outside of the environment.
    pub(crate) outside: u64,
}

/// The recorded sources below an environment; where the time is over, those found by then.
pub(crate) fn sources(env: &Path, until: Until<'_>) -> Result<Recorded, Failure> {
    let unable = |cause| Failure::of_path("cannot use the environment", env, cause).hint("name the directory of an environment");
    let real = std::fs::canonicalize(env).map_err(unable)?;
    let whole = std::path::absolute(env).map_err(unable)?;
    let top = Arc::new(Dir::open_root(env).map_err(|error| unable(error.cause))?);
    let found = Recorded::default();
    let mut search = Search { env, whole: normal(&whole).unwrap_or(whole), real, top, found, told: BTreeSet::new() };
    let mut any = false;
    for (site, dir) in search.sites() {
        for info in search.names(&site, &dir, |name| name.ends_with(b".dist-info")) {
            if until.is_over()? {
                return Ok(search.found);
            }
            if let Some(record) = search.record(&site.join(&info)) {
                any = true;
                search.collect(&record, &site, until)?;
            }
        }
    }
    if !any && search.found.unusable.is_empty() {
        return Err(Failure::new(format!("no distribution is recorded in `{}`", super::text::path(env, None)))
            .hint("name the directory of a virtual environment, or the tree itself without `--env`"));
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
    /// `lib/python*/site-packages`, or the directory itself where it is one. Two names of one directory are one.
    fn sites(&mut self) -> BTreeMap<PathBuf, Arc<Dir>> {
        let mut sites = BTreeMap::new();
        if let Reached::There(lib, dir) = self.reach(Path::new("lib")) {
            for name in self.names(&lib, &dir, |name| name.starts_with(b"python")) {
                match self.reach(&lib.join(name).join("site-packages")) {
                    Reached::There(path, dir) => drop(sites.insert(path, dir)),
                    Reached::Outside => self.found.outside += 1,
                    Reached::Gone | Reached::Unusable => {}
                }
            }
        }
        if sites.is_empty() {
            sites.insert(PathBuf::new(), Arc::clone(&self.top));
        }
        sites
    }

    /// The names in a directory that are wanted, in order.
    fn names(&mut self, path: &Path, dir: &Dir, wanted: impl Fn(&[u8]) -> bool) -> Vec<Name> {
        let listed = dir.names();
        let mut names = listed.unwrap_or_else(|error| {
            self.tell(path, Cause::from(&error));
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

    /// The content of a distribution's record.
    fn record(&mut self, info: &Path) -> Option<Vec<u8>> {
        let (path, dir) = match self.reach(info) {
            Reached::There(path, dir) => (path, dir),
            Reached::Outside => {
                self.found.outside += 1;
                return None;
            }
            Reached::Gone | Reached::Unusable => return None,
        };
        let name = Name::new("RECORD")?;
        // As a source: opened without waiting (a FIFO), never by root through another's link, and never half.
        let cause = match Source::read(&dir, &name, LIMIT) {
            Ok(record) => return Some(record.bytes),
            Err(SourceError::System(error)) if error.is_absent() => return None,
            Err(SourceError::System(error)) => Cause::from(&error),
            Err(SourceError::NotAFile { kind, .. }) => Cause::new("record", format!("it is {}, no record of a distribution", kind.noun())),
            Err(SourceError::TooLarge { size, .. }) => {
                Cause::new("record", format!("it has {size} bytes, more than any record of a distribution ({LIMIT} at most)"))
            }
            Err(SourceError::ForeignLink { .. }) => Cause::new("record", "it is a link of another user to a file that is not theirs"),
            Err(SourceError::Dangling { .. }) => Cause::new("record", "it is a link to something that is not there"),
            Err(SourceError::Changing { .. }) => Cause::new("record", "it keeps changing while it is read"),
        };
        self.tell(&path.join("RECORD"), cause);
        None
    }

    /// Adds the sources of one record of a site directory.
    fn collect(&mut self, record: &[u8], site: &Path, until: Until<'_>) -> Result<(), Failure> {
        // Records go directory by directory. To remember more than the last one would be memory without bound.
        let mut last: Option<(PathBuf, Reached)> = None;
        for (number, row) in Rows(record).enumerate() {
            if number % ROWS == 0 && until.is_over()? {
                return Ok(());
            }
            if !row.ends_with(b".py") {
                continue;
            }
            let row = PathBuf::from(OsString::from_vec(row));
            let path = if row.is_absolute() {
                normal(&row).and_then(|row| Some(row.strip_prefix(&self.whole).ok()?.into()))
            } else {
                normal(&site.join(row))
            };
            let Some(path) = path.filter(|path| !path.starts_with("..")) else {
                self.found.outside += 1;
                continue;
            };
            let Some((dir, name)) = path.parent().zip(path.file_name().and_then(Name::new)) else { continue };
            let reached = match last.take() {
                Some((known, reached)) if known == dir => reached,
                _ => self.reach(dir),
            };
            match &reached {
                Reached::There(below, dir) => self.add(below, dir, name),
                Reached::Gone => self.found.gone += 1,
                Reached::Outside => self.found.outside += 1,
                Reached::Unusable => {}
            }
            last = Some((dir.to_path_buf(), reached));
        }
        Ok(())
    }

    fn add(&mut self, below: &Path, dir: &Dir, name: Name) {
        let path = if below.as_os_str().is_empty() { self.env.to_path_buf() } else { self.env.join(below) };
        if self.found.sources.get(&path).is_some_and(|names| names.contains(&name)) {
            return;
        }
        match dir.stat_of(&name) {
            Ok(_) => drop(self.found.sources.entry(path).or_default().insert(name)),
            // Removed since it was recorded: nothing to compile.
            Err(error) if is_no_path(&error) => self.found.gone += 1,
            // Of the directory, and once: names that cannot be looked at are as many as somebody likes.
            Err(error) => self.tell(below, Cause::from(&error)),
        }
    }

    /// Tells the first directory on the way that cannot be entered: what a record names below it may be endless.
    fn tell_closed(&mut self, path: &Path, error: &Error) {
        let mut way: Vec<&Path> = path.ancestors().filter(|level| !level.as_os_str().is_empty()).collect();
        way.reverse();
        let closed = way.iter().find_map(|level| self.top.open_beneath(level).err().map(|error| (*level, Cause::from(&error))));
        let (level, cause) = closed.unwrap_or_else(|| (path, Cause::from(error)));
        self.tell(level, cause);
    }

    fn tell(&mut self, path: &Path, cause: Cause) {
        if self.told.insert(path.to_path_buf()) {
            let path = self.env.join(path);
            self.found.unusable.push((path.clone(), cause.at(path)));
        }
    }
}

/// Is there nothing of this path, and can there be nothing?
fn is_no_path(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename)
}

/// The first field of every row of a CSV file, one after the other: quotes may enclose commas, newlines and doubled quotes. One that is too
/// long for a path is passed over.
struct Rows<'a>(&'a [u8]);

impl Iterator for Rows<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        while !self.0.is_empty() {
            let mut field = Vec::new();
            let (mut quoted, mut first) = (false, true);
            while let Some((byte, rest)) = self.0.split_first() {
                self.0 = rest;
                match byte {
                    b'"' if quoted && rest.first() == Some(&b'"') => {
                        self.0 = rest.split_first().map_or(rest, |(_, rest)| rest);
                        if first {
                            field.push(b'"');
                        }
                    }
                    b'"' => quoted = !quoted,
                    b'\n' if !quoted => break,
                    b',' if !quoted => first = false,
                    byte if first && field.len() <= LONGEST => field.push(*byte),
                    _ => {}
                }
            }
            if field.last() == Some(&b'\r') {
                field.pop();
            }
            if !field.is_empty() && field.len() <= LONGEST {
                return Some(field);
            }
        }
        None
    }
}

/// A path without `.` and `..`, by its letters alone. `None`: it climbs above its start.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => match normal.components().next_back() {
                Some(Component::Normal(_)) => drop(normal.pop()),
                _ => normal.push(".."),
            },
            Component::CurDir => {}
            component => normal.push(component),
        }
    }
    (!normal.as_os_str().is_empty()).then_some(normal)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test's own files")]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn first_fields() {
        let text = b"a.py,sha256=x,12\r\n\"b,c.py\",,\n\"say \"\"hi\"\".py\",\"x\ny\",\n\nlast.py";
        let expected: [&[u8]; 4] = [b"a.py", b"b,c.py", b"say \"hi\".py", b"last.py"];
        let rows = |text| Rows(text).collect::<Vec<_>>();
        assert_eq!(rows(text), expected);
        assert!(rows(b"").is_empty());
        assert_eq!(rows(b"\"never closed,"), [b"never closed,"]);
        let long = [&b"x".repeat(LONGEST + 1)[..], b",,\na.py,,\n"].concat();
        assert_eq!(rows(&long), [b"a.py"]);
    }

    #[test]
    fn paths_by_their_letters() {
        for (path, expected) in
            [("e/lib/../bin/x.py", "e/bin/x.py"), ("./e/x.py", "e/x.py"), ("../e/x.py", "../e/x.py"), ("e/../../x.py", "../x.py")]
        {
            assert_eq!(normal(Path::new(path)).unwrap(), Path::new(expected));
        }
    }

    #[test]
    fn an_environment_is_what_its_records_say_and_nothing_outside() {
        let top = tempfile::tempdir().unwrap();
        let env = top.path().join("env");
        let site = env.join("lib/python3.13/site-packages");
        std::fs::create_dir_all(site.join("pkg")).unwrap();
        std::fs::create_dir_all(site.join("pkg-1.dist-info")).unwrap();
        std::fs::create_dir_all(env.join("bin")).unwrap();
        std::fs::create_dir_all(top.path().join("outside")).unwrap();
        std::os::unix::fs::symlink("../../../../outside", site.join("link")).unwrap();
        for file in ["pkg/a.py", "pkg/data.txt", "pkg/unrecorded.py", "../../../bin/tool.py", "../../../../outside/x.py"] {
            std::fs::write(site.join(file), "").unwrap();
        }
        let record = "pkg/a.py,,\npkg/gone.py,,\npkg/data.txt,,\n../../../bin/tool.py,,\n../../../../outside/x.py,,\nlink/x.py,,\n";
        std::fs::write(site.join("pkg-1.dist-info/RECORD"), record).unwrap();
        let stop = AtomicBool::new(false);
        let until = Until::new(&stop, None);
        let found = sources(&env, until).unwrap();
        let name = |text| BTreeSet::from([Name::new(text).unwrap()]);
        assert_eq!(Vec::from_iter(found.sources), [(env.join("bin"), name("tool.py")), (site.join("pkg"), name("a.py"))]);
        assert_eq!((found.gone, found.outside, found.unusable), (1, 2, Vec::new()));
        assert!(sources(top.path(), until).is_err());
        // What is there twice is found once, and a link may lead elsewhere in the environment.
        std::os::unix::fs::symlink("pkg", site.join("inside")).unwrap();
        std::fs::write(site.join("pkg-1.dist-info/RECORD"), "pkg/a.py,,\ninside/a.py,,\n./pkg//a.py,,\npkg/a.py,,\n").unwrap();
        assert_eq!(Vec::from_iter(sources(&env, until).unwrap().sources), [(site.join("pkg"), name("a.py"))]);
        // Out of time it comes to nothing, and interrupted to an error.
        assert!(sources(&env, Until::new(&stop, Some(Duration::ZERO))).unwrap().sources.is_empty());
        stop.store(true, Ordering::SeqCst);
        assert!(sources(&env, until).is_err());
    }
}
