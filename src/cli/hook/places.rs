//! Where to look: what a manager's input comes to, whatever its form. Paths are those of the system that the manager works on; its root
//! comes before them later.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::super::setup;
use super::owner::Site;
use crate::base::sys::Name;

/// More directories than any system has with Python in them: what goes beyond is left, and told.
const MOST: usize = 200_000;

/// Directories to look at. A list of a million files comes to some thousands of them, which is all that is kept.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Places {
    /// With all below them.
    pub(super) trees: BTreeSet<PathBuf>,
    /// Whose some of the trees are, where that was said: not by their letters then.
    pub(super) sites: BTreeMap<PathBuf, Site>,
    /// Each by itself.
    pub(super) folders: BTreeSet<PathBuf>,
    /// Sources that are about to go, by directory: their artifacts go first.
    pub(super) doomed: BTreeMap<PathBuf, BTreeSet<Name>>,
    /// Is it only cleaned, and nothing compiled?
    pub(super) only_clean: bool,
    /// What was handed over and had no room.
    pub(super) left: u64,
    /// The directory of the last source, as it was written: in lists they stand together, and a list may have a million lines.
    last: Vec<u8>,
}

impl Places {
    /// None yet.
    pub(super) fn new(only_clean: bool) -> Self {
        Self { only_clean, ..Self::default() }
    }

    /// Is there nowhere to look?
    pub(super) fn is_empty(&self) -> bool {
        self.trees.is_empty() && self.folders.is_empty() && self.doomed.is_empty()
    }

    /// The directory of a file, where the file is a source.
    pub(super) fn add_source(&mut self, path: &[u8]) {
        let written = path.iter().rposition(|byte| *byte == b'/').and_then(|cut| path.get(..cut)).unwrap_or_default();
        if !written.is_empty() && written == self.last {
            return;
        }
        let Some((dir, _)) = source(path) else { return };
        written.clone_into(&mut self.last);
        if self.folders.len() < MOST {
            self.folders.insert(dir);
        } else if !self.folders.contains(&dir) {
            self.left += 1;
        }
    }

    /// A source that is about to be removed.
    pub(super) fn add_doomed(&mut self, path: &[u8]) {
        let Some((dir, name)) = source(path) else { return };
        if self.doomed.len() < MOST || self.doomed.contains_key(&dir) {
            self.doomed.entry(dir).or_default().insert(name);
        } else {
            self.left += 1;
        }
    }

    /// A directory with all below it. `false`: it is no path that can be meant.
    pub(super) fn add_tree(&mut self, path: &OsStr) -> bool {
        let Some(dir) = inside(path.as_bytes()) else { return false };
        self.trees.insert(dir);
        true
    }
}

/// The directory and the name of a source.
fn source(path: &[u8]) -> Option<(PathBuf, Name)> {
    // Most of what is listed is something else: that is seen before anything is made of it.
    if !path.ends_with(b".py") {
        return None;
    }
    let path = inside(path)?;
    let name = Name::new(path.file_name()?)?;
    setup::format().is_source(&name).then_some(())?;
    Some((path.parent()?.to_path_buf(), name))
}

/// A path of that system, absolute. What climbs by `..` leads nobody can say where, and is not followed.
pub(super) fn inside(path: &[u8]) -> Option<PathBuf> {
    let path = Path::new("/").join(OsStr::from_bytes(path));
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let whole = !path.as_os_str().as_bytes().contains(&0) && path.parent().is_some();
    // By its components: `//` and a slash at the end are no other path.
    (plain && whole).then(|| path.components().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_become_their_directories_once() {
        let mut places = Places::default();
        for path in [&b"/usr/lib/p/a.py"[..], b"usr/lib/p/b.py", b"/usr/lib/p/data", b"/usr/lib/p/", b"/usr/lib/../x.py", b"a\0/b.py", b""]
        {
            places.add_source(path);
            places.add_doomed(path);
        }
        assert_eq!(places.folders, BTreeSet::from([PathBuf::from("/usr/lib/p")]));
        let names = ["a.py", "b.py"].map(|name| Name::new(name).unwrap());
        assert_eq!(places.doomed, BTreeMap::from([(PathBuf::from("/usr/lib/p"), BTreeSet::from(names))]));
    }

    #[test]
    fn trees_are_paths_without_steps_upwards() {
        let mut places = Places::default();
        for (path, taken) in [("/usr//lib/p/", true), ("usr/lib/p", true), ("/", false), ("", false), ("/a/../b", false)] {
            assert_eq!(places.add_tree(OsStr::new(path)), taken, "{path}");
        }
        assert_eq!(places.trees, BTreeSet::from([PathBuf::from("/usr/lib/p")]));
    }
}
