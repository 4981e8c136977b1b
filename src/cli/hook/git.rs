//! git: the work tree of a repository after a checkout, a merge or a rebase. Modules that went away leave artifacts behind, and those are
//! what makes tests pass that should fail.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// The work tree to look at. `None`: nothing changed in it, or there is none.
///
/// git starts these hooks at the top of the work tree, with `GIT_DIR` set, which may be elsewhere; `GIT_WORK_TREE` says more than the working
/// directory where somebody set it.
pub(super) fn work_tree(words: &[OsString]) -> Option<PathBuf> {
    let mut words = words.iter().map(|word| word.to_str().unwrap_or_default());
    match words.next()? {
        "post-checkout" => {
            let (old, new, branch) = (words.next()?, words.next()?, words.next()?);
            // Single files that were checked out take no module away; and a new branch of the same commit changes nothing.
            if branch != "1" || old == new {
                return None;
            }
        }
        "post-merge" | "post-rewrite" => {}
        _ => return None,
    }
    let top = super::super::settings::variable("GIT_WORK_TREE").map_or_else(|| PathBuf::from("."), PathBuf::from);
    let top = top.canonicalize().ok()?;
    let is_repository = std::env::var_os("GIT_DIR").is_some() || top.join(".git").exists();
    // A bare repository has its hooks run in itself.
    let is_bare = top.join("objects").is_dir() && top.join("refs").is_dir();
    (is_repository && !is_bare).then_some(top)
}

/// Is a directory in a work tree not part of it: git's own things, another repository, an environment?
pub(super) fn is_foreign(path: &Path, top: &Path) -> bool {
    if path == top || path.extension() == Some(OsStr::new("py")) {
        return false;
    }
    path.file_name() == Some(OsStr::new(".git")) || path.join(".git").exists() || path.join("pyvenv.cfg").exists()
}
