//! Alpine: `installed` has a line for each directory (`F:`) and file (`R:`) of a package, and behind a file its digest (`Z:`).

use std::path::Path;

use super::reading::Reading;
use crate::base::sys::{Dir, Name};

/// Where its database is below a root: apk-tools 2, and 3 where `/usr` is one with the rest.
pub(super) const PLACES: [&str; 2] = ["lib/apk/db", "usr/lib/apk/db"];

/// Reads it.
pub(super) fn read(reading: &mut Reading<'_>, place: &Path) -> Result<(), String> {
    let db = Dir::open_root(place).map_err(|error| error.sentence())?;
    let Some(name) = Name::from_bytes(b"installed") else { return Ok(()) };
    let file = Reading::open(&db, &name)?;
    let (mut dir, mut path) = (Vec::new(), Vec::new());
    reading.lines(file, &db.path_of(&name), |reading, line| match line {
        [b'F', b':', name @ ..] => dir = name.to_vec(),
        [b'R', b':', name @ ..] => {
            path.clear();
            path.extend([dir.as_slice(), b"/", name].concat());
        }
        [b'Z', b':', ..] => reading.record(&path),
        _ => {}
    })
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test's own files")]
mod tests {
    use super::super::reading::tests::{put, read as found};
    use super::*;

    #[test]
    fn a_file_is_listed_by_its_digest() {
        let top = tempfile::tempdir().unwrap();
        put(top.path(), "usr/lib/p/__pycache__/x", b"");
        let text = b"P:one\nV:1\nF:usr\nF:usr/lib/p\nM:0:0:755\nR:a.py\nZ:Q1abc=\nF:usr/lib/p/__pycache__\nR:a.pyc\na:0:0:644\nZ:Q1abc=\nR:b.pyc\n\nP:two\n";
        put(top.path(), "db/installed", text);
        let db = top.path().join("db");
        assert_eq!(found(top.path(), |reading| read(reading, &db)).unwrap(), ["usr/lib/p/__pycache__/a.pyc"]);
        std::fs::remove_file(db.join("installed")).unwrap();
        assert!(found(top.path(), |reading| read(reading, &db)).is_err());
    }
}
