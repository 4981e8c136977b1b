//! The tree of `cleanrace`: packages of installers, and packages in which others keep files that must never change. What is read there is
//! judged here: each artifact whole or absent, each file of others as it was.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use crate::cleanrace::cleaners;
use crate::corpus::module;
use crate::mount::check;
use crate::run::{Setting, without_options};
use crate::whole::{Digest, Loader, Look, digest, files, is_artifact, is_leftover, leftovers, look};

/// Others keep files here, and nobody but us touches the artifacts.
pub(crate) const KEPT: [&str; 3] = ["kept0", "kept1", "kept1/sub"];
/// Who works in which other packages: `uv` removes whole directories, `pip` renames them aside, `deb` removes names and ends with `rmdir`.
pub(crate) const UV: [&str; 2] = ["uv0", "uv1"];
pub(crate) const PIP: [&str; 2] = ["pip0", "pip1"];
pub(crate) const DEB: [&str; 2] = ["deb0", "deb1"];
pub(crate) const MODULES: usize = 4;
pub(crate) const CACHE: &str = "__pycache__";

pub(crate) fn packages() -> impl Iterator<Item = &'static str> {
    KEPT.into_iter().chain(UV).chain(PIP).chain(DEB)
}

/// What a file was when it was laid out.
#[derive(Debug, PartialEq, Eq)]
struct Mark {
    digest: Digest,
    inode: u64,
    mtime: (i64, i64),
    mode: u32,
}

impl Mark {
    fn of(path: &Path) -> std::io::Result<Self> {
        let meta = std::fs::symlink_metadata(path)?;
        let mtime = (meta.mtime(), meta.mtime_nsec());
        Ok(Self { digest: digest(&std::fs::read(path)?), inode: meta.ino(), mtime, mode: meta.mode() })
    }
}

/// The tree, and all that is known of it.
pub(crate) struct Yard<'a> {
    pub(crate) setting: &'a Setting,
    pub(crate) room: PathBuf,
    pub(crate) tree: PathBuf,
    pub(crate) prefix: PathBuf,
    pub(crate) tag: String,
    /// what cleans instead of the command under test
    pub(crate) cleaner: Option<&'static str>,
    /// by their paths below the tree
    pub(crate) sources: BTreeMap<PathBuf, Digest>,
    theirs: BTreeMap<PathBuf, Mark>,
    loader: Mutex<Loader>,
}

impl<'a> Yard<'a> {
    pub(crate) fn lay_out(setting: &'a Setting, room: &Path, cleaner: Option<&'static str>) -> Result<Self> {
        let minor = setting.python.version.split('.').take(2).collect::<String>();
        let mut yard = Self {
            setting,
            room: room.to_owned(),
            tree: room.join("tree"),
            prefix: room.join("prefix"),
            tag: format!("cpython-{minor}"),
            cleaner,
            sources: BTreeMap::new(),
            theirs: BTreeMap::new(),
            loader: Mutex::new(Loader::start(&setting.python)?),
        };
        std::fs::create_dir(&yard.prefix)?;
        for (number, package) in packages().enumerate() {
            let (dir, keep) = (yard.tree.join(package), room.join("wheels").join(package));
            std::fs::create_dir_all(&dir)?;
            std::fs::create_dir_all(&keep)?;
            for module_number in 0..MODULES {
                let name = format!("m{module_number}.py");
                let text = module(number * MODULES + module_number, 6);
                std::fs::write(keep.join(&name), &text)?;
                let old = SystemTime::now() - Duration::from_secs(5000);
                std::fs::File::options().write(true).open(keep.join(&name))?.set_modified(old)?;
                // as installers do it: the same file under two names
                std::fs::hard_link(keep.join(&name), dir.join(&name))?;
                yard.sources.insert(Path::new(package).join(name), digest(text.as_bytes()));
            }
        }
        check(&mut yard.compile())?;
        for package in KEPT {
            yard.add_theirs(&yard.tree.join(package))?;
        }
        Ok(yard)
    }

    /// What other tools keep, and what looks most like ours of it: whole artifacts under names that are not ours to judge.
    fn add_theirs(&mut self, dir: &Path) -> Result<()> {
        let cache = dir.join(CACHE);
        let artifact = std::fs::read(cache.join(format!("m0.{}.pyc", self.tag)))?;
        let plain = artifact[..artifact.len() - 96].to_vec();
        let mut newer = plain.clone();
        newer[..2].copy_from_slice(&[0xFE, 0x7E]);
        std::fs::create_dir(cache.join("sub"))?;
        for (name, bytes) in [
            ("m0.f-3.py313.nbi".to_owned(), &b"numba's index"[..]),
            ("m0.f-3.py313.1.nbc".to_owned(), b"numba's code"),
            ("_cffi_x.c".to_owned(), b"int x;"),
            ("_cffi_x.so".to_owned(), b"\x7fELF"),
            ("notes.txt".to_owned(), b"a person's"),
            (format!("m0.{}-pytest-8.0.0.pyc", self.tag), &plain),
            (format!("gone.{}-pytest-8.0.0.pyc", self.tag), &plain),
            (format!("m1.{}.pyc.bak", self.tag), &plain),
            (format!("sub/m2.{}.pyc", self.tag), &plain),
            ("m0.cpython-399.pyc".to_owned(), &newer),
            ("m0.cpython-399.opt-1.pyc".to_owned(), &newer),
            ("gone.cpython-399.pyc".to_owned(), &newer),
            ("../only.pyc".to_owned(), &plain),
            ("../data.txt".to_owned(), b"a package's"),
        ] {
            let path = match name.strip_prefix("../") {
                Some(name) => dir.join(name),
                None => cache.join(&name),
            };
            std::fs::write(&path, bytes)?;
            let old = SystemTime::now() - Duration::from_secs(9000);
            std::fs::File::options().write(true).open(&path)?.set_modified(old)?;
            let below = path.strip_prefix(&self.tree)?.to_owned();
            self.theirs.insert(below, Mark::of(&path)?);
        }
        Ok(())
    }

    pub(crate) fn loader_id(&self) -> u32 {
        self.loader.lock().unwrap().id()
    }

    /// The command under test over the tree, or over the prefix alone.
    pub(crate) fn ours(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.setting.bin);
        command.args(words).env("XDG_CACHE_HOME", self.room.join("cache")).env("LC_ALL", "C");
        if matches!(words[0], "compile" | "repair") {
            command.arg("--python").arg(&self.setting.python.path);
        }
        without_options(&mut command);
        command
    }

    pub(crate) fn compile(&self) -> Command {
        let mut command = self.ours(&["compile", "--jobs", "2"]);
        command.arg(&self.tree);
        command
    }

    /// What cleans the tree, or another place: the command under test, or a stand-in for it.
    pub(crate) fn clean(&self, place: &Path) -> Command {
        if let Some(bug) = self.cleaner {
            return cleaners::command(bug, &self.tag, place);
        }
        if place == self.prefix {
            return self.with_prefix("clean");
        }
        let mut command = self.ours(&["clean", "-v"]);
        command.arg(place);
        command
    }

    pub(crate) fn with_prefix(&self, verb: &str) -> Command {
        let mut command = self.ours(&[verb, "-v"]);
        command.arg("--pycache-prefix").arg(&self.prefix);
        if verb != "clean" {
            command.arg(&self.tree);
        }
        command
    }

    /// Every file of others must be what and where it was. How many there are.
    pub(crate) fn check_theirs(&self, complain: &dyn Fn(String)) -> u64 {
        for (below, mark) in &self.theirs {
            match Mark::of(&self.tree.join(below)) {
                Ok(now) if now == *mark => {}
                Ok(_) => complain(format!("{} is not ours and was changed", below.display())),
                Err(error) => complain(format!("{} is not ours and is gone: {error}", below.display())),
            }
        }
        self.theirs.len() as u64
    }

    /// Walks a tree or a copy of it while others work in it; says what is torn in it, and how many artifacts it saw.
    pub(crate) fn walk(&self, top: &Path, complain: &dyn Fn(String)) -> Result<u64> {
        let (mut seen, mut dirs) = (0, vec![top.to_owned()]);
        while let Some(dir) = dirs.pop() {
            let listed = std::fs::read_dir(&dir).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
            let Some(entries) = absent(listed).with_context(|| dir.display().to_string())? else { continue };
            for entry in entries {
                let path = entry.path();
                if entry.file_type()?.is_dir() {
                    dirs.push(path);
                } else if is_artifact(&path) && !is_leftover(&path) {
                    let Some(bytes) = absent(std::fs::read(&path)).with_context(|| path.display().to_string())? else { continue };
                    seen += 1;
                    if let Some(why) = self.flaw(top, &path, &bytes)? {
                        complain(format!("{}: {why}", path.display()));
                    }
                }
            }
        }
        Ok(seen)
    }

    fn flaw(&self, top: &Path, path: &Path, bytes: &[u8]) -> Result<Option<String>> {
        let below = path.strip_prefix(top)?;
        if let Some(mark) = self.theirs.get(below) {
            return Ok((digest(bytes) != mark.digest).then(|| "not ours, and not what it was".to_owned()));
        }
        match look(bytes) {
            Look::Sealed { source, adopted: false } if self.source_of(below) == Some(&source) => self.loader.lock().unwrap().refuses(bytes),
            Look::Sealed { .. } => Ok(Some("sealed, and not for its source".to_owned())),
            Look::Unsealed => Ok(Some("without a seal".to_owned())),
            Look::Torn(why) => Ok(Some(why)),
        }
    }

    /// By name: `pkg/__pycache__/m0.TAG.pyc`, what pip has renamed aside, or below a prefix the path from the root on.
    fn source_of(&self, below: &Path) -> Option<&Digest> {
        let stem = below.file_name()?.to_str()?.split('.').next()?;
        let dir = below.parent()?;
        let tree = self.tree.strip_prefix("/").ok()?;
        let dir = match dir.file_name() {
            Some(name) if name == CACHE || name == OsStr::new(ASIDE) => dir.parent()?,
            _ => dir.strip_prefix(tree).unwrap_or(dir),
        };
        self.sources.get(&dir.join(format!("{stem}.py")))
    }

    /// Removes every artifact by name and then the directory, as py3clean does. `Some(why)`: the directory does not go.
    pub(crate) fn py3clean(&self, package: &str) -> Result<Option<String>> {
        let dir = self.tree.join(package).join(CACHE);
        let listed = std::fs::read_dir(&dir).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
        let Some(entries) = absent(listed)? else { return Ok(None) };
        for entry in entries.iter().filter(|entry| is_artifact(&entry.path())) {
            absent(std::fs::remove_file(entry.path()))?;
        }
        match std::fs::remove_dir(&dir) {
            Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => {
                let names: Vec<_> = std::fs::read_dir(&dir)?.flatten().map(|entry| entry.file_name()).collect();
                Ok(Some(format!("{}: rmdir says {error}: {names:?}", dir.display())))
            }
            done => absent(done).map(|_| None).with_context(|| dir.display().to_string()),
        }
    }

    /// After one `clean`: nothing is there but sources and what is not ours, and no directory that held only ours.
    pub(crate) fn check_cleaned(&self, complain: &dyn Fn(String)) {
        for path in files(&self.tree) {
            let below = path.strip_prefix(&self.tree).unwrap_or(&path);
            if !self.sources.contains_key(below) && !self.theirs.contains_key(below) {
                complain(format!("{} is there after clean", path.display()));
            }
        }
        for package in packages().filter(|package| !KEPT.contains(package)) {
            let dir = self.tree.join(package).join(CACHE);
            if dir.exists() {
                complain(format!("{} is there after clean, and nobody keeps anything in it", dir.display()));
            }
        }
        for path in leftovers(&self.tree) {
            complain(format!("{} is left over after clean", path.display()));
        }
        self.check_theirs(complain);
    }
}

/// What pip calls a directory that it has renamed aside.
pub(crate) const ASIDE: &str = "~ycache__";

/// What vanishes while somebody works is no error.
pub(crate) fn absent<T>(result: std::io::Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}
