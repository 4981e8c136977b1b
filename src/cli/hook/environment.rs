//! pip, uv and conda: environments. pip and uv have no hooks, so somebody calls this behind them; conda says in PREFIX which one it is.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::super::args_hook::Kind;
use super::super::failure::Failure;
use super::super::settings::variable;
use super::owner;
use super::places::Places;
use crate::base::memo;
use crate::base::sys::{Dir, Name};
use crate::ignored;

/// More than conda's messages ever are, bytes.
const LIMIT: u64 = 1 << 20;

/// The environments: those that are named, else the one that is meant.
pub(super) fn named(kind: Kind, words: &[OsString]) -> Result<Vec<PathBuf>, Failure> {
    if !words.is_empty() {
        return words.iter().map(|word| std::path::absolute(word).map_err(Failure::from)).collect();
    }
    let variables: &[&str] = if kind == Kind::Conda { &["PREFIX", "CONDA_PREFIX"] } else { &["VIRTUAL_ENV", "CONDA_PREFIX"] };
    let found = variables.iter().find_map(|name| variable(name)).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let list = variables.join(" nor ");
    found.map(|dir| vec![dir]).ok_or_else(|| {
        Failure::new(format!("no environment is named, and neither {list} says which one is meant")).hint("name it behind the kind")
    })
}

/// Where they have their modules.
pub(super) fn places(environments: &[PathBuf]) -> Result<Places, Failure> {
    let mut places = Places::default();
    for environment in environments {
        let library = environment.join("lib");
        let unable =
            |cause| Failure::of_path("cannot use the environment", environment, cause).hint("name the directory of an environment");
        for entry in std::fs::read_dir(&library).map_err(unable)? {
            let dir = library.join(entry.map_err(unable)?.file_name());
            let packages = dir.join("site-packages");
            if owner::site(&dir).is_some_and(|site| site.dir == dir) && packages.is_dir() {
                places.trees.insert(packages);
            }
        }
    }
    Ok(places)
}

/// Says something where conda shows it: at the end of its transaction.
pub(super) fn speak(environment: &Path, text: &str) {
    let Some(name) = Name::new(".messages.txt") else { return };
    let add = || {
        let dir = Dir::open_root(environment)?;
        let mut all = match memo::read(&dir, &name, LIMIT) {
            Err(error) if error.is_absent() => Vec::new(),
            all => all?,
        };
        all.extend_from_slice(text.as_bytes());
        memo::replace_as(&dir, &name, &all, 0o644)
    };
    ignored!(add(), "conda shows nothing of it");
}
