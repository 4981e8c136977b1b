//! What a user may do in a directory: its owner, group and mode, and the search permission of every directory on the way to it. Asked once
//! for each directory of a run.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::base::sys::{self, Kind, Stat};
use crate::base::user::{Right, User};
use crate::model::Cause;

/// What somebody may do in a directory that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rights {
    /// Reach what is in it.
    pub(super) search: bool,
    /// See what is in it.
    pub(super) list: bool,
    /// Make and remove names in it, as far as permissions say.
    pub(super) write: bool,
}

/// The rights of one user.
pub(super) struct Reach {
    pub(super) user: User,
    known: Mutex<HashMap<PathBuf, Rights>>,
}

impl Reach {
    pub(super) fn of(user: User) -> Self {
        Self { user, known: Mutex::default() }
    }

    /// In the directory of an absolute path. Nothing where it is not there or its stat cannot be had.
    pub(super) fn rights(&self, dir: &Path) -> Rights {
        if let Some(rights) = self.recall(dir) {
            return rights;
        }
        let mut rights = self.along(dir);
        // What the path says may be links; what they lead to has a way of its own.
        if let Ok(real) = std::fs::canonicalize(dir)
            && real != dir
        {
            let there = self.along(&real);
            rights = Rights { search: rights.search && there.search, list: rights.list && there.list, write: rights.write && there.write };
        }
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(dir.to_path_buf(), rights);
        rights
    }

    fn recall(&self, dir: &Path) -> Option<Rights> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(dir).copied()
    }

    /// From the root down, for the last step all rights.
    fn along(&self, dir: &Path) -> Rights {
        let way: Vec<&Path> = dir.ancestors().collect();
        let mut rights = Rights { search: true, list: true, write: true };
        for step in way.into_iter().rev() {
            let Ok(stat) = sys::look_up(step) else { return Rights { search: false, list: false, write: false } };
            let may = |right| rights.search && self.user.may(&stat, right);
            let search = may(Right::Search);
            rights = Rights { search, list: may(Right::Read), write: search && may(Right::Write) };
        }
        rights
    }

    /// Why this user can keep nothing in a directory, which need not be there yet: then it is made.
    pub(super) fn obstacle(&self, dir: &Path) -> Option<Cause> {
        let mut at = dir;
        let stat = loop {
            match sys::look_up(at) {
                Ok(stat) => break stat,
                // A link that leads nowhere is no directory and stays in the place of one.
                Err(error) if error.is_absent() && !at.is_symlink() => at = at.parent()?,
                Err(error) => return Some(Cause::from(&error)),
            }
        };
        if stat.kind != Kind::Dir {
            let text = format!("`{}` is {}, not a directory", at.display(), stat.kind.noun());
            return Some(Cause::new("not-a-directory", text).at(at));
        }
        if sys::is_read_only(at) {
            return Some(Cause::new("read-only", format!("`{}` is on a file system that is mounted read-only", at.display())).at(at));
        }
        let text = match self.rights(at) {
            Rights { search: false, .. } => format!("`{}` cannot be reached", at.display()),
            Rights { write: false, .. } if at == dir => format!("`{}` cannot be written", at.display()),
            Rights { write: false, .. } => format!("`{}` is not there, and `{}` cannot be written", dir.display(), at.display()),
            _ => return None,
        };
        Some(Cause::new("unwritable", text).at(at))
    }

    /// May a file in a directory be replaced, where names may be made and removed in it?
    pub(super) fn may_replace(&self, dir: &Stat, file: &Stat) -> bool {
        let sticky = dir.mode & 0o1000 != 0;
        !sticky || self.user.uid == 0 || [dir.uid, file.uid].contains(&self.user.uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn the_way_counts_and_so_does_what_links_lead_to() {
        let top = tempfile::tempdir().unwrap();
        let path = |name: &str| top.path().join(name);
        std::fs::create_dir_all(path("open/deep")).unwrap();
        std::fs::create_dir_all(path("closed/deep")).unwrap();
        symlink("closed/deep", path("link")).unwrap();
        symlink("nowhere", path("dangling")).unwrap();
        std::fs::File::create_new(path("file")).unwrap();
        let mode = |name: &str, mode| std::fs::set_permissions(path(name), std::fs::Permissions::from_mode(mode)).unwrap();
        for (name, bits) in [("", 0o755), ("open", 0o755), ("open/deep", 0o777), ("closed", 0o700), ("closed/deep", 0o777)] {
            mode(name, bits);
        }
        // Somebody who owns nothing here.
        let reach = Reach::of(User { name: None, uid: 3_000_000_000, gids: vec![3_000_000_000] });
        let rights = |name: &str| {
            let rights = reach.rights(&path(name));
            (rights.search, rights.list, rights.write)
        };
        assert_eq!(rights("open"), (true, true, false));
        assert_eq!(rights("open/deep"), (true, true, true));
        assert_eq!(rights("closed"), (false, false, false));
        assert_eq!(rights("closed/deep"), (false, false, false));
        assert_eq!(rights("link"), (false, false, false));
        assert_eq!(rights("gone"), (false, false, false));
        let code = |name: &str| reach.obstacle(&path(name)).map(|cause| cause.code);
        assert_eq!(code("open/deep"), None);
        assert_eq!(code("open/deep/new/newer"), None);
        assert_eq!(code("open/new"), Some("unwritable"));
        assert_eq!(code("closed/deep"), Some("unwritable"));
        assert_eq!(code("file"), Some("not-a-directory"));
        assert_eq!(code("dangling"), Some("gone"));
    }
}
