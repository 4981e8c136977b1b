//! Paths as people and lists name them, to the roots of a job.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use super::failure::Failure;
use super::text;
use super::until::Until;
use crate::base::Error;
use crate::base::sys::Name;
use crate::flow::{Root, What};
use crate::model::{Cause, Format, Layout, Recognised};

/// The most that a list of paths may have: it is kept in memory.
const LIST_LIMIT: u64 = 1 << 30;
/// How often it is looked whether reading a list shall stop.
const TICK: Duration = Duration::from_millis(40);

/// Roots, gathered so that one directory is one root however many of its files are named.
pub(crate) struct Roots<'a> {
    format: &'a dyn Format,
    /// The tree apart from the sources that holds their artifacts, absolute.
    prefix: Option<PathBuf>,
    list: Vec<Root>,
    places: HashMap<(PathBuf, Place, bool), usize>,
    /// Paths that cannot be used, each for a reason that is its own.
    pub(crate) unusable: Vec<(PathBuf, Cause)>,
    /// Listed paths that are nothing to work on.
    pub(crate) passed_over: u64,
}

/// The directory that a list is relative to. It was named; the list was not, so no link below it leads out of it.
pub(crate) struct Base {
    dir: PathBuf,
    /// With all links resolved.
    real: PathBuf,
    /// Directories below it, by how they are written and as they are reached without links; `None`: outside.
    known: HashMap<PathBuf, Option<PathBuf>>,
}

impl Base {
    /// Of a directory that is there.
    pub(crate) fn new(dir: &Path) -> Result<Self, Failure> {
        let unable =
            |cause| Failure::of_path("cannot use the directory of the list", dir, cause).hint("name one that is there with `--root`");
        let real = std::fs::canonicalize(dir).map_err(unable)?;
        if !real.is_dir() {
            return Err(unable(io::ErrorKind::NotADirectory.into()));
        }
        Ok(Self { dir: dir.to_path_buf(), real, known: HashMap::new() })
    }

    /// A directory below it, by a path without links. `None`: a link leads out of it.
    fn below(&mut self, dir: &Path) -> io::Result<Option<PathBuf>> {
        if let Some(known) = self.known.get(dir) {
            return Ok(known.clone());
        }
        let at = |below: &Path| if below.as_os_str().is_empty() { self.dir.clone() } else { self.dir.join(below) };
        let below = dir.canonicalize()?.strip_prefix(&self.real).ok().map(at);
        self.known.insert(dir.to_path_buf(), below.clone());
        Ok(below)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    Sources,
    InCache,
    Beside,
}

/// What a path is by its name and its kind.
enum Named {
    Root(Root),
    File(PathBuf, Place, Name),
    /// An artifact in the pycache prefix, by the directory of its source.
    Mirrored(PathBuf, Name),
    /// The pycache prefix itself, all of it.
    Prefix(PathBuf),
    /// It is not there, or the system does not let us see it.
    Unseen(io::Error),
    Other,
}

impl<'a> Roots<'a> {
    /// None yet.
    pub(crate) fn new(format: &'a dyn Format, prefix: Option<&Path>) -> Self {
        let prefix = prefix.map(Path::to_path_buf);
        Self { format, prefix, list: Vec::new(), places: HashMap::new(), unusable: Vec::new(), passed_over: 0 }
    }

    /// The roots in the order in which they were named.
    pub(crate) fn into_list(self) -> Vec<Root> {
        self.list
    }

    /// The directories of the roots, from the `first` one on.
    pub(crate) fn dirs(&self, first: usize) -> impl Iterator<Item = PathBuf> + '_ {
        self.list.iter().skip(first).map(|root| root.dir.clone())
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// What is named: whole directories, and single sources.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&Path, &[Name])> {
        self.list.iter().filter_map(|root| match &root.what {
            What::Tree => Some((root.dir.as_path(), &[][..])),
            What::Sources(names) => Some((root.dir.as_path(), names.as_slice())),
            _ => None,
        })
    }

    /// A path of the command line: it must be there and of use.
    pub(crate) fn add_named(&mut self, path: &Path) -> Result<(), Failure> {
        match self.look(path) {
            Named::Root(root) => self.list.push(root),
            Named::File(dir, place, name) => self.add_file(dir, None, place, name),
            Named::Mirrored(dir, name) => self.add_file(dir, None, Place::InCache, name),
            Named::Prefix(dir) => self.add(dir, What::Prefix),
            // As a directory that cannot be read: told, and the others go on.
            Named::Unseen(cause) if cause.kind() == io::ErrorKind::PermissionDenied => self.add_unusable(path, cause),
            Named::Unseen(cause) => {
                return Err(Failure::of_path("cannot use", path, cause).hint("nothing was done: name paths that are there"));
            }
            Named::Other => {
                let shown = text::path(path, None);
                return Err(Failure::new(format!("`{shown}` is neither a directory nor a source nor an artifact"))
                    .hint("name a directory, a `.py` file or a `.pyc` file"));
            }
        }
        Ok(())
    }

    /// A path of a list. Lists come from programs and name all sorts of files; one of them is no reason to leave out the rest.
    ///
    /// What is relative to a directory that was named stays in it. A path that is absolute or climbs by `..` says itself where it leads.
    pub(crate) fn add_listed(&mut self, listed: &Path, base: Option<&mut Base>) {
        let path = base.as_ref().map_or_else(|| listed.to_path_buf(), |base| base.dir.join(listed));
        let base = base.filter(|_| listed.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)));
        match self.look(&path) {
            Named::Root(Root { dir, what, .. }) => {
                if let Some((dir, within)) = self.within(&path, dir, base) {
                    self.list.push(Root { dir, within, what });
                }
            }
            Named::File(dir, place, name) => {
                if let Some((dir, within)) = self.within(&path, dir, base) {
                    self.add_file(dir, within, place, name);
                }
            }
            // Reached through the prefix, which was named.
            Named::Mirrored(dir, name) => self.add_file(dir, None, Place::InCache, name),
            Named::Prefix(dir) => self.add(dir, What::Prefix),
            // Of what is no source, only that it is not there for sure says that there is nothing to do.
            Named::Unseen(cause)
                if !self.is_ours(&path) && matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
            {
                tracing::debug!(path = %path.display(), cause = %cause, "listed, but not there");
                self.passed_over += 1;
            }
            Named::Unseen(cause) => self.add_unusable(&path, cause),
            Named::Other => {
                tracing::debug!(path = %path.display(), "listed, but neither directory nor source nor artifact");
                self.passed_over += 1;
            }
        }
    }

    /// The directory of a listed path as it is reached, and from where. `None`: it was told why not.
    fn within(&mut self, path: &Path, dir: PathBuf, base: Option<&mut Base>) -> Option<(PathBuf, Option<PathBuf>)> {
        let Some(base) = base else { return Some((dir, None)) };
        match base.below(&dir) {
            Ok(Some(dir)) => return Some((dir, Some(base.dir.clone()))),
            Ok(None) => {
                let root = text::path(&base.dir, None);
                self.unusable
                    .push((path.to_path_buf(), Cause::new("link", format!("it was listed, but a link leads out of `{root}`")).at(path)));
            }
            Err(cause) => self.add_unusable(path, cause),
        }
        None
    }

    /// Sources that an environment has recorded, in a directory of it.
    pub(crate) fn add_recorded(&mut self, dir: &Path, names: BTreeSet<Name>, env: &Path) {
        for name in names {
            self.add_file(dir.to_path_buf(), Some(env.to_path_buf()), Place::Sources, name);
        }
    }

    /// A whole tree, or a pycache prefix.
    pub(crate) fn add(&mut self, dir: PathBuf, what: What) {
        self.list.push(Root { dir, within: None, what });
    }

    fn look(&self, path: &Path) -> Named {
        // Through links first: the user's word counts. A dangling link of a source's name is that entry's own trouble.
        let seen = match path.metadata().or_else(|cause| path.symlink_metadata().map_err(|_| cause)) {
            Ok(seen) => seen,
            Err(cause) => return Named::Unseen(cause),
        };
        if let Some(named) = self.look_in_prefix(path, seen.is_dir()) {
            return named;
        }
        if seen.is_dir() {
            return Named::Root(self.directory(path));
        }
        let Some(name) = path.file_name().and_then(Name::new) else { return Named::Other };
        let dir = parent(path);
        if self.format.is_source(&name) {
            return Named::File(dir, Place::Sources, name);
        }
        let cache = self.is_cache_dir(&dir);
        let layout = if cache { Layout::Cache } else { Layout::Beside };
        match self.format.recognise(&name, layout) {
            Recognised::Artifact { .. } if cache => Named::File(parent(&dir), Place::InCache, name),
            Recognised::Artifact { .. } => Named::File(dir, Place::Beside, name),
            Recognised::ForeignTemp { .. } | Recognised::Foreign => Named::Other,
        }
    }

    /// An artifact in the pycache prefix, where the way to a source's directory is repeated, or the prefix itself. `None`: another path.
    /// Directories in it too: there may be sources as well.
    fn look_in_prefix(&self, path: &Path, is_dir: bool) -> Option<Named> {
        let below = self.below_prefix(path, is_dir)?;
        if is_dir {
            return below.as_os_str().is_empty().then(|| self.prefix.clone().map(Named::Prefix)).flatten();
        }
        let name = Name::new(below.file_name()?)?;
        let sources = Path::new("/").join(below.parent()?);
        let is_artifact = matches!(self.format.recognise(&name, Layout::Prefix), Recognised::Artifact { .. });
        (is_artifact && sources.is_dir()).then_some(Named::Mirrored(sources, name))
    }

    /// Where in the pycache prefix a path is.
    pub(crate) fn below_prefix(&self, path: &Path, is_dir: bool) -> Option<PathBuf> {
        let prefix = self.prefix.as_deref()?.canonicalize().ok()?;
        let real = if is_dir { path.canonicalize().ok()? } else { parent(path).canonicalize().ok()?.join(path.file_name()?) };
        Some(real.strip_prefix(&prefix).ok()?.to_path_buf())
    }

    fn directory(&self, path: &Path) -> Root {
        if self.is_cache_dir(path) {
            // Behind a link the sources are beside what it leads to.
            let real = path.is_symlink().then(|| path.canonicalize().ok()).flatten();
            Root { dir: parent(real.as_deref().unwrap_or(path)), within: None, what: What::CacheDir }
        } else {
            Root { dir: path.to_path_buf(), within: None, what: What::Tree }
        }
    }

    fn is_cache_dir(&self, path: &Path) -> bool {
        let cache = self.format.cache_dir().as_os_str();
        match path.file_name() {
            Some(name) if name == cache => true,
            // `.` and `..` have names too, though not in letters; and a link may lead to one.
            _ => path.canonicalize().is_ok_and(|path| path.file_name() == Some(cache)),
        }
    }

    fn is_ours(&self, path: &Path) -> bool {
        path.file_name().and_then(Name::new).is_some_and(|name| self.format.is_source(&name))
    }

    fn add_unusable(&mut self, path: &Path, cause: io::Error) {
        let cause = match cause.kind() {
            io::ErrorKind::NotFound => Cause::new("gone", "it was listed, but it is not there").at(path),
            io::ErrorKind::NotADirectory => Cause::new("no-such-path", "it was listed, but a directory above it is a file").at(path),
            _ => Cause::from(&Error::new("find", path, cause)),
        };
        self.unusable.push((path.to_path_buf(), cause));
    }

    fn add_file(&mut self, dir: PathBuf, within: Option<PathBuf>, place: Place, name: Name) {
        let index = *self.places.entry((dir.clone(), place, within.is_some())).or_insert_with(|| {
            let what = match place {
                Place::Sources => What::Sources(Vec::new()),
                Place::InCache => What::Artifacts { names: Vec::new(), beside: false },
                Place::Beside => What::Artifacts { names: Vec::new(), beside: true },
            };
            self.list.push(Root { dir, within, what });
            self.list.len() - 1
        });
        if let What::Sources(names) | What::Artifacts { names, .. } = &mut self.list[index].what {
            names.push(name);
        }
    }
}

/// The directory that holds a path, as a path that can be opened.
fn parent(path: &Path) -> PathBuf {
    match (path.file_name(), path.parent()) {
        (Some(_), Some(parent)) if parent.as_os_str().is_empty() => PathBuf::from("."),
        (Some(_), Some(parent)) => parent.to_path_buf(),
        _ => path.join(".."),
    }
}

/// The paths in a list, `-` being standard input, ended by newlines or NUL bytes. None where the time is over.
pub(crate) fn read_list(file: &Path, null: bool, root: Option<&Path>, until: Until<'_>) -> Result<Vec<PathBuf>, Failure> {
    let bytes = read_until(file, until)?;
    if bytes.len() as u64 == LIST_LIMIT {
        return Err(Failure::new("the list of paths is longer than 1 GB").hint("name directories instead of files"));
    }
    split_list(&bytes, null, root)
}

/// Reads a list, or gives up when it is told to: a pipe may say nothing for ever. A thread of its own does it, since neither opening a
/// FIFO nor reading can be called off; it ends with the process.
pub(crate) fn read_until(file: &Path, until: Until<'_>) -> Result<Vec<u8>, Failure> {
    let unable = |cause| Failure::of_path("cannot read the list of paths", file, cause).hint("name a file that can be read, or `-`");
    let (done, answer) = channel();
    let path = file.to_path_buf();
    let reader = std::thread::Builder::new().name("bytekeep-list".to_owned()).spawn(move || {
        // Nobody hears it who has given up.
        drop(done.send(read_all(&path)));
    });
    reader.map_err(unable)?;
    loop {
        match answer.recv_timeout(TICK) {
            Ok(bytes) => return bytes.map_err(unable),
            Err(RecvTimeoutError::Timeout) if until.is_over()? => return Ok(Vec::new()),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(unable(io::ErrorKind::Interrupted.into())),
        }
    }
}

fn read_all(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if file == Path::new("-") {
        io::stdin().lock().take(LIST_LIMIT).read_to_end(&mut bytes)?;
    } else {
        std::fs::File::open(file)?.take(LIST_LIMIT).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// A list that is ended in another way than was said names nothing that is there: that is no reason to do nothing and say so to nobody.
fn split_list(bytes: &[u8], null: bool, root: Option<&Path>) -> Result<Vec<PathBuf>, Failure> {
    let is_there = |path: &[u8]| {
        let path = Path::new(OsStr::from_bytes(path));
        root.map_or_else(|| path.to_path_buf(), |root| root.join(path)).symlink_metadata().is_ok()
    };
    let has_null = bytes.contains(&0);
    if has_null && !null {
        return Err(Failure::new("the list of paths has NUL bytes, and its paths are to end with newlines")
            .hint("give `-0` too: its paths end with NUL bytes"));
    }
    if null && !has_null && bytes.contains(&b'\n') && !is_there(bytes) {
        return Err(Failure::new("the list of paths has newlines and no NUL byte, with which its paths are to end")
            .hint("leave `-0` away: its paths end with newlines"));
    }
    let end = if null { 0 } else { b'\n' };
    let paths = bytes.split(|byte| *byte == end).map(|path| match path.strip_suffix(b"\r") {
        // Written where lines end with two characters. A name may end so too, and then it is there.
        Some(shorter) if !null && !is_there(path) => shorter,
        _ => path,
    });
    Ok(paths.filter(|path| !path.is_empty()).map(|path| PathBuf::from(OsString::from_vec(path.to_vec()))).collect())
}

/// Does a path have nothing in it? The system would say "not found" of it, which helps nobody.
pub(crate) fn is_empty(path: &Path) -> bool {
    path.as_os_str().as_bytes().is_empty()
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test's own files")]
mod tests {
    use super::super::setup;
    use super::*;

    fn tree() -> tempfile::TempDir {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(top.path().join("pkg/__pycache__")).unwrap();
        for file in ["pkg/a.py", "pkg/b.py", "pkg/c.pyc", "pkg/__pycache__/a.cpython-313.pyc", "pkg/data.txt"] {
            std::fs::write(top.path().join(file), "").unwrap();
        }
        std::os::unix::fs::symlink("nowhere", top.path().join("pkg/dangling.py")).unwrap();
        top
    }

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    #[test]
    fn paths_become_roots() {
        let top = tree();
        let at = |path: &str| top.path().join(path);
        let mut roots = Roots::new(setup::format(), None);
        for path in [
            "pkg",
            "pkg/a.py",
            "pkg/__pycache__",
            "pkg/c.pyc",
            "pkg/b.py",
            "pkg/__pycache__/a.cpython-313.pyc",
            "pkg/dangling.py",
            "pkg/__pycache__/.",
        ] {
            roots.add_named(&at(path)).unwrap();
        }
        let list: Vec<Root> = roots.into_list();
        let pkg = at("pkg");
        let expected = [
            What::Tree,
            What::Sources(vec![name("a.py"), name("b.py"), name("dangling.py")]),
            What::CacheDir,
            What::Artifacts { names: vec![name("c.pyc")], beside: true },
            What::Artifacts { names: vec![name("a.cpython-313.pyc")], beside: false },
            What::CacheDir,
        ];
        assert_eq!(list, expected.map(|what| Root { dir: pkg.clone(), within: None, what }));
    }

    #[test]
    fn what_is_not_there_or_of_no_use_is_told_before_anything_runs() {
        let top = tree();
        let mut roots = Roots::new(setup::format(), None);
        assert!(roots.add_named(&top.path().join("no")).is_err());
        assert!(roots.add_named(&top.path().join("pkg/data.txt")).is_err());
        assert!(roots.add_named(Path::new("/dev/null")).is_err());
    }

    #[test]
    fn lists_name_all_sorts_of_files() {
        let top = tree();
        let mut roots = Roots::new(setup::format(), None);
        let mut base = Base::new(top.path()).unwrap();
        let long = top.path().join(format!("{}.py", "x".repeat(300)));
        let list = b"pkg/a.py\0pkg/data.txt\0pkg/gone.py\0pkg/gone.txt\0\0pkg/a.py/x.py\0";
        for path in split_list(list, true, Some(top.path())).unwrap().iter().chain([&long]) {
            roots.add_listed(path, Some(&mut base));
        }
        assert_eq!(roots.passed_over, 2);
        let unusable: Vec<_> = roots.unusable.iter().map(|(path, cause)| (path.clone(), cause.code)).collect();
        assert_eq!(
            unusable,
            [(top.path().join("pkg/gone.py"), "gone"), (top.path().join("pkg/a.py/x.py"), "no-such-path"), (long, "name-too-long")]
        );
        let within = Some(top.path().to_path_buf());
        assert_eq!(roots.into_list(), [Root { dir: top.path().join("pkg"), within, what: What::Sources(vec![name("a.py")]) }]);
    }

    #[test]
    fn a_list_stays_in_its_directory_unless_it_says_otherwise() {
        let top = tree();
        std::os::unix::fs::symlink("..", top.path().join("pkg/out")).unwrap();
        std::os::unix::fs::symlink(".", top.path().join("pkg/in")).unwrap();
        let pkg = top.path().join("pkg");
        let mut base = Base::new(&pkg).unwrap();
        let mut roots = Roots::new(setup::format(), None);
        for path in ["in/in/a.py", "b.py", "out/pkg/out/pkg/b.py", "out/pkg/..", "out", "../pkg/a.py"] {
            roots.add_listed(Path::new(path), Some(&mut base));
        }
        let unusable: Vec<_> = roots.unusable.iter().map(|(path, cause)| (path.clone(), cause.code)).collect();
        assert_eq!(unusable, [(pkg.join("out"), "link")]);
        let root = |path: &str, within: bool, what| Root { dir: pkg.join(path), within: within.then(|| pkg.clone()), what };
        let within = What::Sources(vec![name("a.py"), name("b.py"), name("b.py")]);
        let expected = [
            Root { dir: pkg.clone(), ..root("", true, within) },
            root("out/pkg/..", false, What::Tree),
            root("../pkg", false, What::Sources(vec![name("a.py")])),
        ];
        assert_eq!(roots.into_list(), expected);
    }

    #[test]
    fn lists_end_their_paths_as_said() {
        assert_eq!(split_list(b"a\nb c\n\n/d", false, None).unwrap(), ["a", "b c", "/d"].map(PathBuf::from));
        assert_eq!(split_list(b"a\nb\0c", true, None).unwrap(), ["a\nb", "c"].map(PathBuf::from));
        assert_eq!(split_list(b"a\r\n\r\nb\r\n", false, None).unwrap(), ["a", "b"].map(PathBuf::from));
        assert!(split_list(b"a\0b\0", false, None).is_err());
        assert!(split_list(b"a\nb\n", true, None).is_err());
        assert_eq!(split_list(b"a", true, None).unwrap(), ["a"].map(PathBuf::from));
        let top = tempfile::tempdir().unwrap();
        for name in ["a\nb", "c\r"] {
            std::fs::write(top.path().join(name), "").unwrap();
            let list = split_list(name.as_bytes(), name.contains('\n'), Some(top.path()));
            assert_eq!(list.unwrap(), [PathBuf::from(name)], "it is there by this very name");
        }
    }

    #[test]
    fn parents_can_be_opened() {
        for (path, expected) in [("a.py", "."), ("x/a.py", "x"), ("/a.py", "/"), ("..", "../.."), (".", "./..")] {
            assert_eq!(parent(Path::new(path)), Path::new(expected));
        }
    }
}
