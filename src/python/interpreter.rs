//! Interpreters: found by path, name or version, and asked once what they are.

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::memo::{Probes, ask};
use crate::base::sys;
use crate::model::Target;

/// An executable that compiles, and what it said of itself.
#[derive(Debug, Clone)]
pub struct Interpreter {
    /// The executable as found, absolute: a virtual environment's own one behaves otherwise than what it is a link to.
    pub executable: PathBuf,
    /// What it is a link to in the end.
    pub real: PathBuf,
    /// What its artifacts are.
    pub target: Target,
    /// Its version.
    pub version: (u8, u8, u8),
    /// Its name: `cpython`, `pypy`.
    pub implementation: String,
    /// The directory of its standard library.
    pub stdlib: PathBuf,
    /// Is it a 64-bit program?
    pub wide: bool,
    /// What tells it from others with the same magic number that may compile otherwise: its version in full, with the build, what a
    /// build may choose (word size, width of 2.7's `unicode`, hash, repr of floats), and a number for how it compiles a sample (options that
    /// a wrapper adds). See `build.py`.
    pub build: String,
}

/// Why an interpreter cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InterpreterError {
    /// Nothing there.
    #[error("there is no interpreter `{spec}`{place}; name another one with --python")]
    Missing {
        /// What was asked for.
        spec: String,
        /// Where it was looked for.
        place: &'static str,
    },
    /// A file that cannot be run.
    #[error("`{}` is not an executable file; name another interpreter with --python", .0.display())]
    NotExecutable(PathBuf),
    /// It ran and did not answer.
    #[error("the interpreter `{}` does not work: {how}", path.display())]
    Broken {
        /// The executable.
        path: PathBuf,
        /// Exit status or signal, and the last line of its standard error.
        how: String,
    },
    /// Older than what is supported.
    #[error("the interpreter `{}` is Python {version}, which is too old: 2.7 and 3.6 or later are supported", path.display())]
    TooOld {
        /// The executable.
        path: PathBuf,
        /// Its version.
        version: String,
    },
    /// Something that we do not know how to serve.
    #[error("the interpreter `{}` is not supported: {why}", path.display())]
    Unsupported {
        /// The executable.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// It did not answer in time.
    #[error("the interpreter `{}` did not answer within {seconds} s", path.display())]
    TimedOut {
        /// The executable.
        path: PathBuf,
        /// The limit.
        seconds: u64,
    },
    /// Nobody wants the answer any more.
    #[error("stopped")]
    Stopped,
    /// Root does not run what others can change.
    #[error(
        "root does not start the interpreter `{}`, since others can write `{}`; to use it all the same, say --python {}",
        path.display(), place.display(), path.display()
    )]
    Writable {
        /// The executable.
        path: PathBuf,
        /// What of it others can write.
        place: PathBuf,
    },
    /// Root does not believe settings that lead nowhere: who knows who will put something there.
    #[error(
        "root does not start the interpreter `{}`, since `{}`, which `pyvenv.cfg` names as its home, is not there; to use it all the same, \
         say --python {}", path.display(), home.display(), path.display()
    )]
    NoHome {
        /// The executable.
        path: PathBuf,
        /// What its settings name.
        home: PathBuf,
    },
    /// Several trees with virtual environments of their own.
    #[error("the paths belong to different virtual environments (`{}` and `{}`); name the interpreter with --python", one.display(), other.display())]
    Ambiguous {
        /// One tree's interpreter.
        one: PathBuf,
        /// Another tree's.
        other: PathBuf,
    },
    /// There is no directory to start it in.
    #[error("{0}")]
    NoDirectory(String),
}

/// What a probe prints, strings in hex: nothing in a path can break the line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answer {
    tag: String,
    magic: String,
    implementation: String,
    version: (u8, u8, u8),
    variant: String,
    stdlib: String,
    pub(super) library: String,
    /// What really runs, where the system tells.
    pub(super) executable: String,
    wide: bool,
    build: String,
}

/// Bytes from hex.
pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let pairs = digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    digits.len().is_multiple_of(2).then(|| pairs.collect())?
}

impl Interpreter {
    /// Finds the interpreter of a path (with a slash), a name on `PATH`, or a version (`3.12`, `3`).
    ///
    /// `named`: the user asked for this very one. Root starts only then what others can write.
    pub fn find(spec: impl AsRef<OsStr>, named: bool, probes: &Probes) -> Result<Self, InterpreterError> {
        let spec = spec.as_ref();
        if spec.as_bytes().contains(&b'/') {
            let path = std::path::absolute(spec).unwrap_or_else(|_| PathBuf::from(spec));
            return Self::at(&path, named, probes);
        }
        let name = name_of(spec);
        let mut first_trouble = None;
        for path in on_path(&name, std::env::var_os("PATH").as_deref()) {
            match Self::at(&path, named, probes) {
                // A version manager's shim of that name stands there also where it has no such version: the next one on PATH may work.
                Err(trouble @ InterpreterError::Broken { .. }) => {
                    first_trouble.get_or_insert(trouble);
                }
                answer => return answer,
            }
        }
        Err(first_trouble.unwrap_or_else(|| InterpreterError::Missing { spec: name.to_string_lossy().into_owned(), place: " on PATH" }))
    }

    /// The interpreter of the virtual environment that `path` lies in.
    pub fn of_tree(path: &Path) -> Option<PathBuf> {
        let path = std::path::absolute(path).ok()?;
        // Links resolved, since `..` behind a link would climb elsewhere.
        let path = path.canonicalize().unwrap_or(path);
        let home = path.ancestors().find(|dir| dir.join("pyvenv.cfg").is_file())?;
        Some(home.join("bin/python"))
    }

    /// The interpreter of a directory that is an environment: that of the virtual one, else the one whose prefix it is.
    pub fn of_prefix(dir: &Path) -> Option<PathBuf> {
        let named = || ["bin/python3", "bin/python", "bin/pypy3"].map(|name| dir.join(name)).into_iter().find(|path| path.is_file());
        Self::of_tree(dir).or_else(named)
    }

    /// The interpreter for these paths where none is named: their own virtual environment's, where they agree, else `python3`.
    pub fn default_for(paths: &[PathBuf], probes: &Probes) -> Result<Self, InterpreterError> {
        let mut homes = paths.iter().map(|path| Self::of_tree(path));
        let first = homes.next().flatten();
        for other in homes {
            if other != first {
                let fallback = || PathBuf::from("python3");
                return Err(InterpreterError::Ambiguous { one: first.unwrap_or_else(fallback), other: other.unwrap_or_else(fallback) });
            }
        }
        match first {
            Some(path) => Self::at(&path, false, probes),
            None => Self::find("python3", false, probes),
        }
    }

    /// The interpreter that is this file.
    fn at(path: &Path, named: bool, probes: &Probes) -> Result<Self, InterpreterError> {
        let unseen = |cause: std::io::Error| match cause.kind() {
            std::io::ErrorKind::NotFound => InterpreterError::Missing { spec: path.display().to_string(), place: "" },
            _ => InterpreterError::Broken { path: path.to_owned(), how: cause.to_string() },
        };
        let real = path.canonicalize().map_err(unseen)?;
        let seen = std::fs::metadata(&real).map_err(unseen)?;
        if !seen.is_file() || seen.permissions().mode() & 0o111 == 0 {
            return Err(InterpreterError::NotExecutable(path.to_owned()));
        }
        if !named
            && sys::effective_user() == 0
            && let Some(place) = writable_by_others(path).or_else(|| loose_home(path))
        {
            let gone = std::fs::symlink_metadata(&place).is_err_and(|cause| cause.kind() == std::io::ErrorKind::NotFound);
            let path = path.to_owned();
            return Err(if gone { InterpreterError::NoHome { path, home: place } } else { InterpreterError::Writable { path, place } });
        }
        let answer = if let Some(answer) = probes.recall(path, &real) {
            answer
        } else {
            let answer = ask(path, probes)?;
            probes.remember(path, &real, &answer);
            answer
        };
        Self::from_answer(path, real, &answer)
    }

    fn from_answer(path: &Path, real: PathBuf, answer: &Answer) -> Result<Self, InterpreterError> {
        let broken = || InterpreterError::Broken { path: path.to_owned(), how: "its answer makes no sense".to_owned() };
        let unsupported = |why: &str| InterpreterError::Unsupported { path: path.to_owned(), why: why.to_owned() };
        let text = |field: &str| unhex(field).and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(broken);
        let (major, minor, micro) = answer.version;
        let (tag, implementation) = (text(&answer.tag)?, text(&answer.implementation)?);
        let magic = unhex(&answer.magic).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()).ok_or_else(broken)?;
        if !(matches!((major, minor), (2, 7)) || (major, minor) >= (3, 6)) {
            return Err(InterpreterError::TooOld { path: path.to_owned(), version: format!("{major}.{minor}.{micro}") });
        }
        match (implementation.as_str(), major) {
            ("cpython", _) | ("pypy", 3) => {}
            ("pypy", _) => return Err(unsupported("PyPy of Python 2.7 is not known here")),
            (other, _) => return Err(unsupported(&format!("it is neither CPython nor PyPy but {other}"))),
        }
        if major > 3 {
            return Err(unsupported(&format!("Python {major} is not known here")));
        }
        if tag.is_empty() {
            return Err(unsupported("it has no cache tag (sys.implementation.cache_tag is None), so it caches nothing"));
        }
        Ok(Self {
            executable: path.to_owned(),
            real,
            target: Target { tag: Arc::from(tag), magic, variant: Arc::from(answer.variant.as_str()) },
            version: answer.version,
            implementation,
            stdlib: PathBuf::from(OsString::from_vec(unhex(&answer.stdlib).ok_or_else(broken)?)),
            wide: answer.wide,
            build: text(&answer.build)?,
        })
    }

    /// Is the level given when the interpreter starts, and not with each request?
    pub(super) fn level_is_a_flag(&self) -> bool {
        self.version.0 == 2
    }

    /// The flags that a worker of it is started with, beside those that all have.
    pub(super) fn flags(&self, level: u8) -> Vec<&'static str> {
        let mut flags = Vec::new();
        if self.version >= (3, 11, 0) {
            flags.push("-P");
        }
        if self.version >= (3, 7, 0) {
            flags.extend(["-X", "utf8"]);
        }
        match level {
            1 if self.level_is_a_flag() => flags.push("-O"),
            2 if self.level_is_a_flag() => flags.push("-OO"),
            _ => {}
        }
        flags
    }
}

/// What to look for on `PATH`: a version means `python` with that version.
fn name_of(spec: &OsStr) -> OsString {
    let is_version = spec.as_bytes().first().is_some_and(u8::is_ascii_digit);
    if is_version { OsString::from_vec([b"python", spec.as_bytes()].concat()) } else { spec.to_owned() }
}

fn on_path(name: &OsStr, path: Option<&OsStr>) -> Vec<PathBuf> {
    // Relative entries mean the working directory, which is data, not a guide.
    let dirs = path.into_iter().flat_map(std::env::split_paths).filter(|dir| dir.is_absolute());
    let runs = |file: &PathBuf| std::fs::metadata(file).is_ok_and(|seen| seen.is_file() && seen.permissions().mode() & 0o111 != 0);
    dirs.map(|dir| dir.join(name)).filter(runs).collect()
}

/// What of the way to an executable somebody other than root and the caller can write: the file, a directory above it, or a link on the way.
pub(super) fn writable_by_others(path: &Path) -> Option<PathBuf> {
    let own = sys::effective_user();
    let loose = |place: &Path| match std::fs::symlink_metadata(place) {
        Ok(seen) if seen.file_type().is_symlink() => seen.uid() != 0 && seen.uid() != own,
        Ok(seen) => {
            // In a sticky directory only the owner of an entry can replace it, and the entry is looked at too.
            let sticky = seen.is_dir() && seen.mode() & 0o1000 != 0;
            (seen.uid() != 0 && seen.uid() != own) || (seen.mode() & 0o022 != 0 && !sticky)
        }
        Err(_) => true,
    };
    let mut path = path.to_owned();
    for _ in 0..40 {
        let parent = path.parent()?;
        let real = parent.canonicalize().unwrap_or_else(|_| parent.to_owned());
        let places = std::iter::once(path.as_path()).chain(parent.ancestors()).chain(real.ancestors());
        if let Some(place) = places.into_iter().find(|place| loose(place)) {
            return Some(place.to_owned());
        }
        match std::fs::read_link(&path) {
            Ok(next) => path = real.join(next),
            Err(_) => return None,
        }
    }
    Some(path)
}

/// The directory in a line `home = …`.
fn home_of(line: &[u8]) -> Option<&Path> {
    let mut parts = line.splitn(2, |&byte| byte == b'=');
    let key = parts.next()?.trim_ascii();
    key.eq_ignore_ascii_case(b"home").then(|| parts.next().map(|home| Path::new(OsStr::from_bytes(home.trim_ascii()))))?
}

/// What of a virtual environment's settings others can write: `pyvenv.cfg` names the directory that the standard library is found by.
fn loose_home(executable: &Path) -> Option<PathBuf> {
    let bin = executable.parent()?;
    for config in [Some(bin), bin.parent()].into_iter().flatten().map(|dir| dir.join("pyvenv.cfg")) {
        // As bytes: the interpreter reads a file that is no UTF-8 all the same.
        let text = match std::fs::read(&config) {
            Ok(text) => text,
            Err(cause) if matches!(cause.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => continue,
            Err(_) => return Some(config),
        };
        if let Some(place) = writable_by_others(&config) {
            return Some(place);
        }
        let loose = text.split(|&byte| matches!(byte, b'\n' | b'\r')).filter_map(home_of).find_map(writable_by_others);
        if loose.is_some() {
            return loose;
        }
    }
    None
}

#[cfg(test)]
#[path = "interpreter_tests.rs"]
mod tests;
