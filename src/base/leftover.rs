//! What a killed process leaves behind, how it is recognised, and how it goes.
//!
//! Temp files are made only under the folder's lock, so whoever holds that lock knows that their makers are dead. Where the file system
//! has no usable lock, and for temp files of other programs, age decides, by this machine's clock.

use std::io;
use std::sync::Arc;

use super::sys::{Dir, Kind, Name, Stat, Time};
use super::{Error, Result, seam};

/// How old something must be, in seconds, to be called dead where no lock can tell.
///
/// Its age is its file system's stamp against this machine's clock. They need agree only within this long: a server whose clock is
/// further behind makes what a living process holds look dead, and that one's write then fails or is done again; nothing is torn.
pub const DEAD_AFTER: i64 = 3600;

const PREFIX: &[u8] = b".bytekeep-";
const LOCK: &str = ".bytekeep.lock";

/// The name of the lock file in a directory of artifacts.
#[allow(clippy::missing_panics_doc, clippy::unwrap_used, reason = "a constant that is one component")]
pub fn lock_name() -> Name {
    Name::new(LOCK).unwrap()
}

/// What kind of left-over a name may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftover {
    /// A lock file.
    Lock,
    /// A temp file.
    Temp,
    /// A tree that was renamed aside to be removed.
    Aside,
}

/// Is this a name that only we give?
pub fn recognise(name: &Name) -> Option<Leftover> {
    let bytes = name.as_bytes();
    if bytes == LOCK.as_bytes() {
        return Some(Leftover::Lock);
    }
    let rest = bytes.strip_prefix(PREFIX)?;
    let kind =
        |suffix: &[u8]| rest.strip_suffix(suffix).is_some_and(|random| !random.is_empty() && random.iter().all(u8::is_ascii_alphanumeric));
    if kind(b".tmp") {
        Some(Leftover::Temp)
    } else if kind(b".old") {
        Some(Leftover::Aside)
    } else {
        None
    }
}

/// Is something of this age dead, where no lock can tell? `now` is this machine's clock: see [`DEAD_AFTER`].
pub fn is_old(stat: &Stat, now: Time) -> bool {
    stat.mtime < now.minus_seconds(DEAD_AFTER)
}

/// An unpredictable name `.bytekeep-<random><suffix>`, made by `make`, which answers `AlreadyExists` for one that is taken.
pub fn fresh<T>(suffix: &str, path: &std::path::Path, mut make: impl FnMut(&Name) -> Result<T>) -> Result<(Name, T)> {
    let mut failed = None;
    let mut name = None;
    // Only the last component of the path that tempfile makes up is used, and nothing is ever removed by it: its clean-up takes a path,
    // ours a descriptor. The base is absolute because tempfile asks for the working directory otherwise.
    let made = tempfile::Builder::new().prefix(".bytekeep-").suffix(suffix).rand_bytes(12).disable_cleanup(true).make_in("/", |path| {
        let fresh = path.file_name().and_then(Name::new).ok_or(io::ErrorKind::InvalidInput)?;
        let made = make(&fresh).map_err(|error| {
            let kind = error.kind();
            failed = Some(error);
            io::Error::from(kind)
        })?;
        name = Some(fresh);
        Ok(made)
    });
    match (made, name) {
        (Ok(made), Some(name)) => Ok((name, made.into_parts().0)),
        (Err(cause), _) => Err(failed.unwrap_or_else(|| Error::new("create a temp file in", path, cause))),
        (Ok(_), None) => Err(Error::new("create a temp file in", path, io::ErrorKind::InvalidInput)),
    }
}

/// Renames a directory that is wholly ours aside, so that nobody ever walks a half-deleted tree, and removes it there.
///
/// Where renaming is refused (EXDEV: the lower layer of an overlay) it is removed name by name.
pub fn remove_tree(parent: &Arc<Dir>, name: &Name) -> Result<()> {
    let aside = fresh(".old", parent.path(), |fresh| match parent.stat_of(fresh) {
        Ok(_) => Err(Error::new("rename to", parent.path_of(fresh), io::ErrorKind::AlreadyExists)),
        Err(_) => parent.rename(name, fresh),
    });
    match aside {
        Ok((aside, ())) => remove_below(parent, &aside),
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => remove_below(parent, name),
        Err(error) => Err(error),
    }
}

/// Nothing of ours is nested as deep: each level costs a descriptor, and memory for its whole path.
const DEEPEST: usize = 256;

/// Removes a directory with all below it, by descriptors; links are removed, never followed.
pub fn remove_below(parent: &Arc<Dir>, name: &Name) -> Result<()> {
    let mut open = vec![(Arc::new(parent.open_in(name)?), None::<Vec<Name>>)];
    while let Some((dir, names)) = open.last_mut() {
        let names = match names {
            Some(names) => names,
            None => names.insert(dir.names()?),
        };
        let Some(next) = names.pop() else {
            if let Some((above, own)) = dir.place().map(|(above, own)| (Arc::clone(above), own.clone())) {
                open.pop();
                above.rmdir(&own)?;
            } else {
                open.pop();
            }
            continue;
        };
        let dir = Arc::clone(dir);
        match dir.stat_of(&next) {
            Ok(stat) if stat.kind == Kind::Dir && open.len() >= DEEPEST && !seam::without("depth") => {
                let text = format!("it is nested more than {DEEPEST} levels deep, which nothing of ours is");
                return Err(Error::new("remove", parent.path_of(name), io::Error::other(text)));
            }
            Ok(stat) if stat.kind == Kind::Dir => open.push((Arc::new(dir.open_in(&next)?), None)),
            Ok(_) => match dir.unlink(&next) {
                Err(error) if error.is_gone() => tracing::debug!(cause = %error.sentence(), "somebody else removed it"),
                Err(error) => return Err(error),
                Ok(()) => {}
            },
            Err(error) if error.is_gone() => tracing::debug!(cause = %error.sentence(), "somebody else removed it"),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_ours() {
        let kind = |text: &str| recognise(&Name::new(text).unwrap());
        assert_eq!(kind(".bytekeep.lock"), Some(Leftover::Lock));
        assert_eq!(kind(".bytekeep-a1B2.tmp"), Some(Leftover::Temp));
        assert_eq!(kind(".bytekeep-a1B2.old"), Some(Leftover::Aside));
        for other in [".bytekeep-.tmp", ".bytekeep-a b.tmp", "bytekeep-a.tmp", ".bytekeep-a.pyc", ".bytekeep.lock2", "x.py"] {
            assert_eq!(kind(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_nested_too_deep_is_not_ours_and_takes_no_memory() {
        let top = tempfile::tempdir().unwrap();
        for (levels, goes) in [(DEEPEST - 1, true), (DEEPEST + 1, false)] {
            let deep: std::path::PathBuf = std::iter::repeat_n("d", levels).collect();
            std::fs::create_dir_all(top.path().join("aside").join(deep)).unwrap();
            let removed = remove_below(&Arc::new(Dir::open_root(top.path()).unwrap()), &Name::new("aside").unwrap());
            assert_eq!(removed.is_ok(), goes, "{levels} levels");
        }
    }

    #[test]
    fn a_tree_of_ours_goes_whole_and_links_are_not_followed() {
        let top = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(top.path().join("ours/a/b")).unwrap();
        #[allow(clippy::disallowed_methods, reason = "a test's own files")]
        {
            std::fs::write(top.path().join("ours/a/f"), b"").unwrap();
            std::fs::write(other.path().join("theirs"), b"").unwrap();
        }
        std::os::unix::fs::symlink(other.path(), top.path().join("ours/link")).unwrap();
        remove_tree(&Arc::new(Dir::open_root(top.path()).unwrap()), &Name::new("ours").unwrap()).unwrap();
        assert_eq!(std::fs::read_dir(top.path()).unwrap().count(), 0);
        assert!(other.path().join("theirs").exists());
    }
}
