//! Whose a file is, and since when: what the system says of it and of its directory, for whoever hunts the culprit.

use std::fs::File;

use super::sys::{self, Dir, Stat, Time};
use super::{Result, user};

/// A file and its directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whereabouts {
    /// The file.
    pub file: Stat,
    /// When it was made, where the file system keeps that.
    pub file_birth: Option<Time>,
    /// Its directory.
    pub dir: Stat,
    /// When that was made.
    pub dir_birth: Option<Time>,
}

impl Whereabouts {
    /// Asks for those of an open file, which stands in `dir`.
    pub fn of(file: &File, dir: &Dir) -> Result<Self> {
        let stat = sys::stat(file, dir.path())?;
        Ok(Self { file: stat, file_birth: sys::birth(file), dir: dir.stat()?, dir_birth: dir.birth() })
    }

    /// What the times say, in a sentence, where they say something.
    pub fn remark(&self) -> Option<String> {
        let (file, birth) = (&self.file, self.file_birth);
        // What is written whole and renamed is as old as its content; times that were set back (an archive) are earlier than the birth.
        match birth {
            Some(birth) if file.mtime.minus_seconds(2) > birth && file.mtime <= file.ctime => {
                Some(format!("it was made at {birth} and its content was changed later, at {}: in place, not by a rename", file.mtime))
            }
            _ if file.nlink > 1 => Some(format!("it has {} names: who writes in place by another of them changes it here too", file.nlink)),
            _ => None,
        }
    }
}

/// `uid 0 (root), gid 0 (root), mode 644`; a number without a name stands alone.
pub fn owner(stat: &Stat) -> String {
    let (user, group) = user::names(stat.uid, stat.gid);
    let named = |name: Option<String>| name.map(|name| format!(" ({name})")).unwrap_or_default();
    format!("uid {}{}, gid {}{}, mode {:o}", stat.uid, named(user), stat.gid, named(group), stat.mode)
}

/// `modified …, changed …, made …`.
pub fn times(stat: &Stat, birth: Option<Time>) -> String {
    let birth = birth.map_or_else(|| "not known".to_owned(), |birth| birth.to_string());
    format!("content {}, inode {}, made {birth}", stat.mtime, stat.ctime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a test's own files")]
    fn a_file_that_is_written_in_place_is_told_and_one_that_was_renamed_is_not() {
        let top = tempfile::tempdir().unwrap();
        let dir = Dir::open_root(top.path()).unwrap();
        let path = top.path().join("f");
        std::fs::write(&path, b"one").unwrap();
        let file = File::open(&path).unwrap();
        let mut seen = Whereabouts::of(&file, &dir).unwrap();
        assert_eq!(seen.file.size, 3);
        assert_eq!(seen.remark(), None);
        seen.file_birth = Some(seen.file.mtime.minus_seconds(100));
        assert!(seen.remark().unwrap().contains("in place"));
        seen.file.mtime = seen.file.mtime.minus_seconds(1000);
        assert_eq!(seen.remark(), None);
        std::fs::hard_link(&path, top.path().join("g")).unwrap();
        let linked = Whereabouts { file_birth: None, ..Whereabouts::of(&file, &dir).unwrap() };
        assert!(linked.remark().unwrap().contains("2 names"));
    }
}
