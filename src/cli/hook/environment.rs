//! pip, uv and conda: environments. pip and uv have no hooks, so somebody calls this behind them; conda says in PREFIX which one it is.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::super::args_hook::Kind;
use super::super::failure::Failure;
use super::super::settings::variable;
use super::super::text;
use super::owner::{self, Site, Whose};
use super::places::Places;
use crate::base::memo;
use crate::base::sys::{Dir, Name};
use crate::flow::Root;
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

/// Where they have their modules. Whose those are is said by who named the environment, and not by the letters of its path: it may stand
/// below `…/lib/python3.9`.
pub(super) fn places(kind: Kind, environments: &[PathBuf]) -> Result<Places, Failure> {
    let mut places = Places::default();
    for environment in environments {
        let library = environment.join("lib");
        let unable =
            |cause| Failure::of_path("cannot use the environment", environment, cause).hint("name the directory of an environment");
        let before = places.sites.len();
        for entry in std::fs::read_dir(&library).map_err(unable)? {
            let name = entry.map_err(unable)?.file_name();
            let dir = library.join(&name);
            let packages = dir.join("site-packages");
            if let Some(name) = name.to_str().filter(|name| owner::version(name).is_some() && packages.is_dir()) {
                places.trees.insert(packages.clone());
                places.sites.insert(packages, Site { dir, whose: Whose::Version(name.to_owned(), environment.clone()) });
            }
        }
        // Those of conda need not have Python in them.
        if places.sites.len() == before && kind != Kind::Conda {
            return Err(Failure::new(format!(
                "nothing is done in `{}`: it has no directory like `lib/python3.12/site-packages`",
                text::path(environment, None)
            ))
            .hint("name the directory of an environment"));
        }
    }
    Ok(places)
}

/// Why nothing is done where somebody named an environment, but for what its interpreters say.
pub(super) fn left(places: &Places, found: &[(Site, Root)], is_read_only: bool) -> Vec<String> {
    let is_left = |site: &&Site| found.iter().all(|(found, _)| found != *site);
    let why = if is_read_only { "its file system is mounted read-only" } else { "it is not there" };
    places.sites.values().filter(is_left).map(|site| format!("nothing is done in `{}`: {why}", text::path(&site.dir, None))).collect()
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
