//! The interpreters that tests run with.

use std::path::{Path, PathBuf};
use std::process::Command;

use bytekeep::python::interpreter::Interpreter;
use bytekeep::python::memo::Probes;

/// Every interpreter of this machine that can be found: pyenv's, `python3` on PATH, and those that `BYTEKEEP_TEST_PYTHONS` names
/// (separated by colons). Fails where there is none.
pub(crate) fn all() -> Vec<Interpreter> {
    let mut found: Vec<PathBuf> = Vec::new();
    let pyenv = Command::new("pyenv").arg("root").output().ok().filter(|answer| answer.status.success());
    if let Some(answer) = pyenv {
        let root = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
        let versions = std::fs::read_dir(Path::new(&root).join("versions"));
        found.extend(versions.into_iter().flatten().flatten().map(|entry| entry.path().join("bin/python")).filter(|path| path.exists()));
    }
    found.sort();
    let named = std::env::var("BYTEKEEP_TEST_PYTHONS").unwrap_or_default();
    found.extend(named.split(':').filter(|path| !path.is_empty()).map(PathBuf::from));
    let probes = Probes::open(None);
    let mut all: Vec<Interpreter> = found.iter().map(|path| Interpreter::find(path, true, &probes).unwrap()).collect();
    if all.is_empty() {
        all.extend(Interpreter::find("python3", true, &probes));
    }
    assert!(!all.is_empty(), "no interpreter found to test with");
    let tags: Vec<String> = all.iter().map(|one| format!("{} {:?}", one.target.tag, one.version)).collect();
    eprintln!("interpreters: {}", tags.join(", "));
    all
}
