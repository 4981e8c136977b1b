//! Whose interpreters count for a path: those that would import what is there, and no others.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use super::super::failure::Failure;
use super::super::text;
use super::debian;
use crate::python::interpreter::{Interpreter, InterpreterError};
use crate::python::memo::Probes;

/// A directory of modules that somebody owns.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Site {
    /// Where it begins, as its system calls it. Above it nothing is looked at and nothing removed.
    pub(super) dir: PathBuf,
    /// Who imports from it.
    pub(super) whose: Whose,
}

/// Who imports from a site.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Whose {
    /// All versions that Debian supports at the time.
    Debian,
    /// One version, by the name of its executable (`python3.12`), installed below this directory.
    Version(String, PathBuf),
}

/// The site that a path lies in, by its letters: `/usr/lib/python3/dist-packages`, `…/lib/python3.12`, `…/lib64/python3.12`.
pub(super) fn site(path: &Path) -> Option<Site> {
    let mut dir = PathBuf::new();
    let mut parts = path.components();
    while let Some(part) = parts.next() {
        let is_library = matches!(part.as_os_str().to_str(), Some("lib" | "lib64"));
        let prefix = dir.clone();
        dir.push(part);
        let mut below = parts.clone();
        let Some(name) = below.next().and_then(|name| name.as_os_str().to_str()).filter(|_| is_library) else { continue };
        if name == "python3" && below.next().is_some_and(|packages| packages.as_os_str() == "dist-packages") {
            return Some(Site { dir: dir.join("python3/dist-packages"), whose: Whose::Debian });
        }
        if version(name).is_some() {
            return Some(Site { dir: dir.join(name), whose: Whose::Version(name.to_owned(), prefix) });
        }
    }
    None
}

/// The sites that are there below a directory which is none's own: `/usr`, `/usr/lib`, `/usr/lib/python3`. Each with its directory.
pub(super) fn sites_below(root: &Path, above: &Path) -> Vec<(Site, PathBuf)> {
    let mut found = Vec::new();
    for library in ["/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64"].map(Path::new) {
        let Ok(names) = std::fs::read_dir(root.join(library.strip_prefix("/").unwrap_or(library))) else { continue };
        let dirs = names.flatten().map(|entry| library.join(entry.file_name()));
        for dir in dirs.flat_map(|dir| [dir.join("dist-packages"), dir]) {
            let own = site(&dir).filter(|site| site.dir == dir && dir.starts_with(above));
            found.extend(own.map(|site| (site, dir)));
        }
    }
    found
}

/// The version in the name of an executable: `python3.12`, `python3.13t`, `pypy3.11`.
pub(super) fn version(name: &str) -> Option<(u8, u8)> {
    let digits = name.strip_prefix("python").or_else(|| name.strip_prefix("pypy"))?;
    let (major, minor) = digits.strip_suffix('t').unwrap_or(digits).split_once('.')?;
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?;
    Some((number(major)?, number(minor)?))
}

/// Finds them, each once.
pub(super) struct Owners<'a> {
    /// The root that the manager works on; `None` is this system's own.
    root: Option<&'a Path>,
    /// Those of `--python`: then no others.
    named: Vec<Interpreter>,
    probes: &'a Probes,
    known: HashMap<PathBuf, Option<Interpreter>>,
    /// What is said where somebody wants to know more.
    pub(super) notes: Vec<String>,
    /// Was there one that may answer the next time, or once somebody has mended it?
    pub(super) is_unsure: bool,
}

impl<'a> Owners<'a> {
    /// With those that `--python` names.
    pub(super) fn new(root: Option<&'a Path>, specs: &[String], probes: &'a Probes) -> Result<Self, Failure> {
        let mut named: Vec<Interpreter> = Vec::new();
        for spec in specs {
            let one = Interpreter::find(spec, true, probes)
                .map_err(|error| Failure::from(error).during(format!("cannot use the interpreter `{}`", text::message(spec))))?;
            if named.iter().all(|known| known.target != one.target) {
                named.push(one);
            }
        }
        Ok(Self { root, named, probes, known: HashMap::new(), notes: Vec::new(), is_unsure: false })
    }

    /// Those of `--python`.
    pub(super) fn named(&self) -> &[Interpreter] {
        &self.named
    }

    /// Those of a site.
    pub(super) fn of(&mut self, site: &Site) -> Vec<Interpreter> {
        let names = match &site.whose {
            Whose::Debian => debian::supported(self.root.unwrap_or(Path::new("/"))),
            Whose::Version(name, _) => vec![name.clone()],
        };
        if !self.named.is_empty() {
            let versions: Vec<(u8, u8)> = names.iter().filter_map(|name| version(name)).collect();
            let fits = |one: &&Interpreter| versions.is_empty() || versions.contains(&(one.version.0, one.version.1));
            let fitting: Vec<Interpreter> = self.named.iter().filter(fits).cloned().collect();
            if fitting.is_empty() {
                self.notes.push(format!("nothing is compiled for `{}`: `--python` names no such version", names.join("`, `")));
            }
            return fitting;
        }
        let mut found: Vec<Interpreter> = Vec::new();
        for name in names {
            if let Some(one) = self.find(&name, site).filter(|one| found.iter().all(|known| known.target != one.target)) {
                found.push(one);
            }
        }
        found
    }

    fn find(&mut self, name: &str, site: &Site) -> Option<Interpreter> {
        let (mut trouble, mut is_unsure) = (None, false);
        for path in executables(name, site, self.root) {
            let probes = self.probes;
            let found = self.known.entry(path).or_insert_with_key(|path| match Interpreter::find(path, false, probes) {
                Ok(interpreter) => Some(interpreter),
                Err(error) => {
                    // Of these nothing changes before another one is installed there.
                    is_unsure |= !matches!(
                        error,
                        InterpreterError::Missing { .. } | InterpreterError::TooOld { .. } | InterpreterError::Unsupported { .. }
                    );
                    if !matches!(error, InterpreterError::Missing { .. }) {
                        trouble = Some(crate::base::error::chain(&error));
                    }
                    None
                }
            });
            if let Some(found) = found {
                return Some(found.clone());
            }
        }
        self.is_unsure |= is_unsure;
        let why = trouble.unwrap_or_else(|| "it is not installed".to_owned());
        self.notes.push(format!("nothing is compiled for `{name}`: {why}"));
        None
    }
}

/// Where an executable may be. One below another root is never started: it may be of another machine, and it is that root's to say
/// what it does. This system's own one of the same name makes the same artifacts.
fn executables(name: &str, site: &Site, root: Option<&Path>) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    if let (Whose::Version(_, prefix), None) = (&site.whose, root) {
        if prefix.join("pyvenv.cfg").is_file() {
            return vec![prefix.join("bin/python")];
        }
        paths.push(prefix.join("bin").join(name));
    }
    paths.extend(["/usr/bin", "/usr/local/bin"].map(|dir| Path::new(dir).join(name)));
    paths.dedup();
    paths
}

/// Whom these sites are compiled for, as far as it shows without starting anybody: the versions that are supported, and the executables
/// that are there.
pub(super) fn makers(sites: &BTreeSet<Site>, root: Option<&Path>) -> BTreeSet<PathBuf> {
    let supported = debian::supported(root.unwrap_or(Path::new("/")));
    let mut makers: BTreeSet<PathBuf> = supported.iter().map(PathBuf::from).collect();
    for site in sites {
        let names = match &site.whose {
            Whose::Debian => supported.as_slice(),
            Whose::Version(name, _) => std::slice::from_ref(name),
        };
        makers.extend(names.iter().flat_map(|name| executables(name, site, root)).filter(|path| path.is_file()));
    }
    makers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_a_path_is() {
        let debian = |dir: &str| Some(Site { dir: dir.into(), whose: Whose::Debian });
        let version =
            |dir: &str, name: &str, prefix: &str| Some(Site { dir: dir.into(), whose: Whose::Version(name.into(), prefix.into()) });
        for (path, expected) in [
            ("/usr/lib/python3/dist-packages", debian("/usr/lib/python3/dist-packages")),
            ("/usr/lib/python3/dist-packages/a/b", debian("/usr/lib/python3/dist-packages")),
            ("/usr/lib/python3.12/site-packages/a", version("/usr/lib/python3.12", "python3.12", "/usr")),
            ("/usr/lib64/python3.13t/x", version("/usr/lib64/python3.13t", "python3.13t", "/usr")),
            ("/usr/local/lib/python3.11/dist-packages", version("/usr/local/lib/python3.11", "python3.11", "/usr/local")),
            ("/v/lib/python3.9/site-packages/lib/python3.8/x", version("/v/lib/python3.9", "python3.9", "/v")),
            ("/usr/lib/pypy3.11/site-packages", version("/usr/lib/pypy3.11", "pypy3.11", "/usr")),
            ("/usr/lib/python3/other", None),
            ("/usr/lib/python3.x/a", None),
            ("/usr/lib/python", None),
            ("/usr/share/app", None),
            ("/", None),
        ] {
            assert_eq!(site(Path::new(path)), expected, "{path}");
        }
    }
}
