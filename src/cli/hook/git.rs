//! git: the work tree of a repository after a checkout, a merge or a rebase. Modules that went away leave artifacts behind, and those are
//! what makes tests pass that should fail.

use std::collections::{BTreeSet, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use super::super::failure::Failure;
use super::super::out::Style;
use super::super::setup;
use crate::base::sys::Name;

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

/// What git has in a work tree, by absolute paths.
#[derive(Debug, Default)]
pub(super) struct Tracked {
    /// Directories in which there are sources of git's, or were until just now.
    pub(super) dirs: BTreeSet<PathBuf>,
    /// Artifacts that git keeps itself.
    pub(super) artifacts: HashSet<PathBuf>,
}

impl Tracked {
    /// Asks git. All else in the tree is not the repository's, be it below it: the tree of somebody's settings is his whole home.
    pub(super) fn below(top: &Path, words: &[OsString]) -> Result<Self, Failure> {
        let mut tracked = Self::default();
        for path in ask(&["ls-files", "--full-name", "-z", ":/"])?.split(|byte| *byte == 0) {
            tracked.add(top, path);
        }
        let (old, new) = match words {
            [word, old, new, ..] if word == "post-checkout" => (old.as_os_str(), new.as_os_str()),
            _ => (OsStr::new("ORIG_HEAD"), OsStr::new("HEAD")),
        };
        let gone = ["diff", "--name-only", "--no-renames", "--diff-filter=D", "-z"].map(OsStr::new);
        match ask(&[&gone[..], &[old, new, OsStr::new("--")]].concat()) {
            Ok(paths) => paths.split(|byte| *byte == 0).for_each(|path| tracked.add(top, path)),
            // The first checkout of all comes from no commit.
            Err(failure) => tracing::debug!(cause = %failure.render(Style(false)), "what went is not known"),
        }
        Ok(tracked)
    }

    fn add(&mut self, top: &Path, path: &[u8]) {
        let path = Path::new(OsStr::from_bytes(path));
        let is_plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        let Some(name) = path.file_name().and_then(Name::new).filter(|_| is_plain) else { return };
        if setup::format().is_source(&name) {
            self.dirs.extend(path.parent().map(|dir| top.join(dir)));
        } else if setup::ARTIFACT_ENDS.iter().any(|end| name.as_bytes().ends_with(end.as_bytes())) {
            self.artifacts.insert(top.join(path));
        }
    }
}

/// Asks git from where it started us, with all that it said in variables.
fn ask(words: &[impl AsRef<OsStr>]) -> Result<Vec<u8>, Failure> {
    let done =
        Command::new("git").args(words).stdin(Stdio::null()).output().map_err(|cause| Failure::from(cause).during("cannot start `git`"))?;
    if done.status.success() {
        return Ok(done.stdout);
    }
    let told = String::from_utf8_lossy(&done.stderr);
    Err(Failure::new(told.trim().to_owned()).during("git does not tell what belongs to the repository"))
}
