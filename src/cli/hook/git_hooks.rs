//! Where a repository has its hooks. Git is asked: `core.hooksPath` may come from four files and from what they include, and a linked
//! work tree shares those of the main one.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::super::failure::Failure;
use super::super::text;
use crate::base::place;
use crate::base::sys::Dir;

/// The directory of hooks that counts for the work tree at `at`, and the same opened, where it is there. With `make` it is made.
pub(super) fn directory(at: &Path, make: bool) -> Result<(PathBuf, Option<Arc<Dir>>), Failure> {
    let path = ask(at)?;
    // The path is the user's own, through whatever links; only its last part may be missing.
    let (Some(above), Some(last)) = (path.parent(), path.file_name()) else {
        return Err(Failure::new(format!("`{}` is no directory of hooks", text::path(&path, None))));
    };
    let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
    let dir = match std::fs::metadata(&path) {
        Ok(_) => Some(Arc::new(Dir::open_root(&path)?)),
        Err(_) => place::dir_below(above, Path::new(last), make)?,
    };
    Ok((path, dir))
}

/// Is this in the work tree of a repository, as far as git can tell?
pub(super) fn is_here(at: &Path) -> bool {
    ask(at).is_ok()
}

fn ask(at: &Path) -> Result<PathBuf, Failure> {
    let mut git = Command::new("git");
    git.arg("-C").arg(at).args(["rev-parse", "--is-inside-work-tree", "--git-path", "hooks"]).stdin(Stdio::null());
    let done = git.output().map_err(|cause| {
        Failure::from(cause).during("cannot start `git`, which knows where a repository has its hooks").hint("install git")
    })?;
    let no_tree = |cause: String| {
        Failure::new(cause).during(format!("`{}` is in no work tree of git", text::path(at, None))).hint("`--root DIR` names another place")
    };
    if !done.status.success() {
        return Err(no_tree(String::from_utf8_lossy(&done.stderr).trim().to_owned()));
    }
    // The first line is the answer to the first question; all behind it is a path, which may have line ends of its own.
    let rest = done.stdout.strip_prefix(b"true\n").ok_or_else(|| no_tree("the repository is a bare one".to_owned()))?;
    let path = rest.strip_suffix(b"\n").unwrap_or(rest);
    Ok(at.join(OsStr::from_bytes(path)))
}
