//! Arch: `local/NAME-VERSION/files` lists each file of an installed package. `mtree` beside it holds size and digest of every one of them
//! (pacman 4.1 and later), so whatever is listed is listed with a digest, and the packed file need not be read.

use std::path::Path;
use std::sync::Arc;

use super::reading::Reading;
use crate::base::sys::{Dir, Name};

/// Where its database is below a root.
pub(super) const PLACES: [&str; 1] = ["var/lib/pacman/local"];

/// Reads it. A package without a list is one whose files are not known.
pub(super) fn read(reading: &mut Reading<'_>, place: &Path) -> Result<(), String> {
    let local = Arc::new(Dir::open_root(place).map_err(|error| error.sentence())?);
    let mut packages = local.list().map_err(|error| error.sentence())?.dirs;
    packages.sort();
    let Some(files) = Name::from_bytes(b"files") else { return Ok(()) };
    for package in &packages {
        let dir = local.open_in(package).map_err(|error| error.sentence())?;
        let file = Reading::open(&dir, &files)?;
        let path = dir.path_of(&files);
        let mut is_listing = false;
        reading.lines(file, &path, |reading, line| match line {
            [b'%', ..] => is_listing = line == b"%FILES%",
            line if is_listing => reading.record(line),
            _ => {}
        })?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test's own files")]
mod tests {
    use super::super::reading::tests::{put, read as found};
    use super::*;

    #[test]
    fn files_and_nothing_else_is_read_of_a_list() {
        let top = tempfile::tempdir().unwrap();
        put(top.path(), "usr/lib/p/a.py", b"");
        put(top.path(), "db/ALPM_DB_VERSION", b"9\n");
        put(top.path(), "db/one-1-1/files", b"%FILES%\nusr/\nusr/lib/p/\nusr/lib/p/a.pyc\n\n%BACKUP%\nusr/lib/p/b.pyc\t0123\n");
        put(top.path(), "db/one-1-1/desc", b"%NAME%\none\n");
        put(top.path(), "db/two-1-1/files", b"%FILES%\nusr/lib/p/c.pyc\n");
        let db = top.path().join("db");
        assert_eq!(found(top.path(), |reading| read(reading, &db)).unwrap(), ["usr/lib/p/a.pyc", "usr/lib/p/c.pyc"]);
        std::fs::remove_file(db.join("two-1-1/files")).unwrap();
        assert!(found(top.path(), |reading| read(reading, &db)).unwrap_err().contains("two-1-1/files"));
    }
}
