//! What several tests share: the interpreters of this machine.

#![allow(dead_code, unreachable_pub, clippy::print_stdout, reason = "each test uses a part of it, and prints what it ran on")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A real interpreter, described by itself.
#[derive(Debug, Clone)]
pub struct Python {
    /// The executable, links resolved.
    pub path: PathBuf,
    /// Major and minor version of the language.
    pub version: (u8, u8),
    /// The cache tag; for 2.7, which has none, `cpython-27`.
    pub tag: String,
    /// The magic number.
    pub magic: [u8; 4],
    /// Is it PyPy?
    pub pypy: bool,
}

impl Python {
    /// The interpreter, with nothing in its environment that would change what it writes.
    pub fn command(&self) -> Command {
        clean(&self.path)
    }
}

fn clean(path: &Path) -> Command {
    let mut command = Command::new(path);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PYTHON") || name == "SOURCE_DATE_EPOCH" {
            command.env_remove(name);
        }
    }
    command
}

const ASK: &str = "
import sys, binascii
try:
    from importlib.util import MAGIC_NUMBER as magic
except ImportError:
    import imp
    magic = imp.get_magic()
tag = getattr(getattr(sys, 'implementation', None), 'cache_tag', None) or 'cpython-%d%d' % sys.version_info[:2]
print('\\t'.join([sys.executable, str(sys.version_info[0]), str(sys.version_info[1]), tag,
    binascii.hexlify(magic).decode('ascii'), str(int('__pypy__' in sys.builtin_module_names))]))
";

fn ask(path: &Path) -> Option<Python> {
    let output = clean(path).args(["-S", "-c", ASK]).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut parts = text.trim_end().split('\t');
    let own = PathBuf::from(parts.next()?).canonicalize().unwrap_or_else(|_| path.to_owned());
    let version = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let tag = parts.next()?.to_owned();
    let magic = u32::from_str_radix(parts.next()?, 16).ok()?.to_be_bytes();
    let pypy = parts.next()? == "1";
    // What a wrapper script starts may not start by itself.
    let path = if own == path || runs(&own) { own } else { path.to_owned() };
    Some(Python { path, version, tag, magic, pypy })
}

/// The interpreter at a path, where one is.
pub fn interpreter_at(path: &Path) -> Option<Python> {
    if path.is_file() { ask(path) } else { None }
}

fn runs(path: &Path) -> bool {
    clean(path)
        .args(["-S", "-c", "import marshal, encodings"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|end| end.success())
}

fn pyenv_versions() -> Vec<PathBuf> {
    let root = Command::new("pyenv")
        .arg("root")
        .stderr(Stdio::null())
        .output()
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map(|root| PathBuf::from(root.trim_end()))
        .or_else(|| std::env::var_os("PYENV_ROOT").map(PathBuf::from))
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".pyenv")));
    let Some(Ok(versions)) = root.map(|root| root.join("versions").read_dir()) else { return Vec::new() };
    versions.flatten().map(|version| version.path().join("bin/python")).filter(|python| python.exists()).collect()
}

/// One interpreter for each cache tag and magic number: those in `BYTEKEEP_TEST_PYTHONS` (separated by colons), pyenv's, those on PATH.
///
/// Prints what it found, and fails where there is none: a test without an interpreter would prove nothing.
pub fn interpreters() -> Vec<Python> {
    let mut paths: Vec<PathBuf> = std::env::var_os("BYTEKEEP_TEST_PYTHONS").iter().flat_map(std::env::split_paths).collect();
    paths.extend(pyenv_versions());
    let dirs: Vec<PathBuf> = std::env::var_os("PATH").iter().flat_map(std::env::split_paths).collect();
    let names = (6..=16).map(|minor| format!("python3.{minor}")).chain(["python3", "pypy3", "python2.7"].map(String::from));
    for name in names {
        paths.extend(dirs.iter().map(|dir| dir.join(&name)).filter(|path| path.is_file()));
    }
    let mut found = BTreeMap::new();
    for python in paths.iter().filter(|path| !path.as_os_str().is_empty()).filter_map(|path| ask(path)) {
        found.entry((python.pypy, python.version, python.magic)).or_insert(python);
    }
    assert!(!found.is_empty(), "no Python interpreter: put one on PATH or into BYTEKEEP_TEST_PYTHONS");
    for python in found.values() {
        println!("interpreter {} ({})", python.tag, python.path.display());
    }
    found.into_values().collect()
}
