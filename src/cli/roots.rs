//! Paths as people and lists name them, to the roots of a job.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use super::failure::Failure;
use super::text;
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
    places: HashMap<(PathBuf, Place), usize>,
    /// Paths that cannot be used, each for a reason that is its own.
    pub(crate) unusable: Vec<(PathBuf, Cause)>,
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
    /// The pycache prefix itself, all of it.
    Prefix(PathBuf),
    /// It is not there, or the system does not let us see it.
    Unseen(io::Error),
    Other,
}

impl<'a> Roots<'a> {
    /// None yet.
    pub(crate) fn new(format: &'a dyn Format, prefix: Option<&Path>) -> Self {
        Self { format, prefix: prefix.map(Path::to_path_buf), list: Vec::new(), places: HashMap::new(), unusable: Vec::new() }
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
            Named::File(dir, place, name) => self.add_file(dir, place, name),
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
    pub(crate) fn add_listed(&mut self, path: &Path) {
        match self.look(path) {
            Named::Root(root) => self.list.push(root),
            Named::File(dir, place, name) => self.add_file(dir, place, name),
            Named::Prefix(dir) => self.add(dir, What::Prefix),
            Named::Unseen(cause) if self.is_ours(path) || cause.kind() == io::ErrorKind::PermissionDenied => self.add_unusable(path, cause),
            Named::Unseen(cause) => tracing::debug!(path = %path.display(), cause = %cause, "listed, but not there"),
            Named::Other => {
                tracing::debug!(path = %path.display(), "listed, but neither directory nor source nor artifact");
            }
        }
    }

    /// Sources of a directory.
    pub(crate) fn add_sources(&mut self, dir: &Path, names: Vec<OsString>) {
        for name in names.into_iter().filter_map(Name::new) {
            self.add_file(dir.to_path_buf(), Place::Sources, name);
        }
    }

    /// A whole tree, or a pycache prefix.
    pub(crate) fn add(&mut self, dir: PathBuf, what: What) {
        self.list.push(Root { dir, what });
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
        (is_artifact && sources.is_dir()).then_some(Named::File(sources, Place::InCache, name))
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
            Root { dir: parent(real.as_deref().unwrap_or(path)), what: What::CacheDir }
        } else {
            Root { dir: path.to_path_buf(), what: What::Tree }
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

    fn add_file(&mut self, dir: PathBuf, place: Place, name: Name) {
        let index = *self.places.entry((dir.clone(), place)).or_insert_with(|| {
            let what = match place {
                Place::Sources => What::Sources(Vec::new()),
                Place::InCache => What::Artifacts { names: Vec::new(), beside: false },
                Place::Beside => What::Artifacts { names: Vec::new(), beside: true },
            };
            self.list.push(Root { dir, what });
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

/// The paths in a list, `-` being standard input, ended by newlines or NUL bytes and relative to `root`.
pub(crate) fn read_list(file: &Path, null: bool, root: Option<&Path>, stop: &AtomicBool) -> Result<Vec<PathBuf>, Failure> {
    let bytes = read_until(file, stop).map_err(|cause| Failure::of_path("cannot read the list of paths", file, cause))?;
    if bytes.len() as u64 == LIST_LIMIT {
        return Err(Failure::new("the list of paths is longer than 1 GB").hint("name directories instead of files"));
    }
    Ok(split_list(&bytes, null, root))
}

/// Reads a list, or gives up when it is told to: a pipe may say nothing for ever. A thread of its own does it, since neither opening a
/// FIFO nor reading can be called off; it ends with the process.
fn read_until(file: &Path, stop: &AtomicBool) -> io::Result<Vec<u8>> {
    let (done, answer) = channel();
    let path = file.to_path_buf();
    std::thread::Builder::new().name("bytekeep-list".to_owned()).spawn(move || {
        // Nobody hears it who has given up.
        drop(done.send(read_all(&path)));
    })?;
    loop {
        match answer.recv_timeout(TICK) {
            Ok(bytes) => return bytes,
            Err(RecvTimeoutError::Timeout) if !stop.load(Ordering::SeqCst) => {}
            Err(_) => return Err(io::ErrorKind::Interrupted.into()),
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

fn split_list(bytes: &[u8], null: bool, root: Option<&Path>) -> Vec<PathBuf> {
    let end = if null { 0 } else { b'\n' };
    let paths = bytes.split(|byte| *byte == end).filter(|path| !path.is_empty() && !path.contains(&0));
    paths
        .map(|path| {
            let path = PathBuf::from(OsString::from_vec(path.to_vec()));
            match root {
                Some(root) => root.join(path),
                None => path,
            }
        })
        .collect()
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
        assert_eq!(list, expected.map(|what| Root { dir: pkg.clone(), what }));
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
        let long = top.path().join(format!("{}.py", "x".repeat(300)));
        let list = b"pkg/a.py\0pkg/data.txt\0pkg/gone.py\0pkg/gone.txt\0\0pkg/a.py/x.py\0";
        for path in split_list(list, true, Some(top.path())).iter().chain([&long]) {
            roots.add_listed(path);
        }
        let unusable: Vec<_> = roots.unusable.iter().map(|(path, cause)| (path.clone(), cause.code)).collect();
        assert_eq!(
            unusable,
            [(top.path().join("pkg/gone.py"), "gone"), (top.path().join("pkg/a.py/x.py"), "no-such-path"), (long, "name-too-long")]
        );
        assert_eq!(roots.into_list(), [Root { dir: top.path().join("pkg"), what: What::Sources(vec![name("a.py")]) }]);
    }

    #[test]
    fn lists_end_their_paths_as_said() {
        assert_eq!(split_list(b"a\nb c\n\n/d", false, Some(Path::new("/r"))), ["/r/a", "/r/b c", "/d"].map(PathBuf::from));
        assert_eq!(split_list(b"a\nb\0c", true, None), ["a\nb", "c"].map(PathBuf::from));
    }

    #[test]
    fn parents_can_be_opened() {
        for (path, expected) in [("a.py", "."), ("x/a.py", "x"), ("/a.py", "/"), ("..", "../.."), (".", "./..")] {
            assert_eq!(parent(Path::new(path)), Path::new(expected));
        }
    }
}
