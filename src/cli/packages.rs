//! `status` by package: where in a tree something is to be done.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::env::Owners;
use super::out::Style;
use super::summary;
use super::text;
use crate::base::sys::Name;
use crate::flow::EntryEvent;
use crate::model::Verdict;

/// So many packages are shown, those with the most to do first.
const SHOWN: usize = 12;

/// Entries by package and verdict.
pub(crate) struct Packages {
    roots: Vec<PathBuf>,
    /// The distributions of sources, where records were read.
    owners: Owners,
    counts: Mutex<BTreeMap<String, BTreeMap<Verdict, u64>>>,
}

impl Packages {
    /// Those below these paths. A source of a distribution that is known counts as its.
    pub(crate) fn below(roots: Vec<PathBuf>, owners: Owners) -> Self {
        Self { roots, owners, counts: Mutex::default() }
    }

    fn owner(&self, path: &Path) -> Option<String> {
        let sources = self.owners.get(path.parent()?)?;
        sources.get(&Name::new(path.file_name()?)?).map(|name| text::name(name.as_bytes()))
    }

    /// Counts an entry.
    pub(crate) fn count(&self, event: &EntryEvent<'_>) {
        let path = event.source.unwrap_or(event.artifact);
        let below = self.roots.iter().filter_map(|root| path.strip_prefix(root).ok()).min_by_key(|below| below.components().count());
        let package = self.owner(path).unwrap_or_else(|| package(below.unwrap_or(path)));
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(package).or_default().entry(event.verdict).or_default() += 1;
    }

    /// The packages in which something is to be done; nothing where there are none.
    pub(crate) fn table(&self, style: Style) -> String {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let open = |verdicts: &BTreeMap<Verdict, u64>| -> u64 {
            verdicts.iter().filter(|(verdict, _)| !matches!(verdict, Verdict::Ok | Verdict::Unsealed)).map(|(_, count)| count).sum()
        };
        let mut packages: Vec<_> = counts.iter().filter(|(_, verdicts)| open(verdicts) > 0).collect();
        packages.sort_by_key(|(_, verdicts)| std::cmp::Reverse(open(verdicts)));
        if packages.is_empty() {
            return String::new();
        }
        let mut text = summary::grid("package", packages.iter().take(SHOWN).copied(), style);
        if packages.len() > SHOWN {
            text = format!("{text}and {} more packages; -v lists every entry\n", packages.len() - SHOWN);
        }
        format!("\n{text}")
    }
}

/// The top-level package or module that a path belongs to: what follows the innermost directory of installed packages, or the root.
fn package(below: &Path) -> String {
    let parts: Vec<_> = below.components().filter(|part| matches!(part, Component::Normal(_))).map(Component::as_os_str).collect();
    let installed = parts.iter().rposition(|part| *part == "site-packages" || *part == "dist-packages");
    let parts = &parts[installed.map_or(0, |at| at + 1)..];
    let first = parts.iter().find(|part| **part != "__pycache__").copied().unwrap_or_default();
    let name = text::name(first.as_encoded_bytes());
    let is_module = parts.iter().filter(|part| **part != "__pycache__").count() == 1;
    if is_module { name.split('.').next().unwrap_or_default().to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_belongs_to_a_top_level_package_or_module() {
        for (path, name) in [
            ("django/db/models.py", "django"),
            ("six.py", "six"),
            ("__pycache__/six.cpython-313.pyc", "six"),
            ("lib/python3.13/site-packages/numpy/core/x.py", "numpy"),
            ("lib/python3.13/os.py", "lib"),
            ("", ""),
        ] {
            assert_eq!(package(Path::new(path)), name, "{path}");
        }
    }
}
