//! Debian: `info/NAME.md5sums` has the digest of each file of a package. Debian's own packages bring no artifacts (py3compile makes them,
//! and no record lists those); packages of others do.

use std::path::Path;

use super::reading::Reading;
use crate::base::sys::Dir;

/// Where its database is below a root.
pub(super) const PLACES: [&str; 1] = ["var/lib/dpkg/info"];

/// Reads it. Lines are digest, two blanks, and a path without the slash at its front.
pub(super) fn read(reading: &mut Reading<'_>, place: &Path) -> Result<(), String> {
    let info = Dir::open_root(place).map_err(|error| error.sentence())?;
    let mut names = info.names().map_err(|error| error.sentence())?;
    names.retain(|name| name.as_bytes().ends_with(b".md5sums"));
    names.sort();
    for name in &names {
        let file = Reading::open(&info, name)?;
        reading.lines(file, &info.path_of(name), |reading, line| {
            let at = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
            reading.record(line.get(at..).unwrap_or_default().trim_ascii_start());
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
    fn digests_list_a_file() {
        let top = tempfile::tempdir().unwrap();
        put(top.path(), "opt/p/__pycache__/x", b"");
        put(top.path(), "db/one.md5sums", b"0123  opt/p/a.py\n0123  opt/p/__pycache__/a b.pyc\n");
        put(top.path(), "db/one.list", b"/opt/p/__pycache__/c.pyc\n");
        let db = top.path().join("db");
        assert_eq!(found(top.path(), |reading| read(reading, &db)).unwrap(), ["opt/p/__pycache__/a b.pyc"]);
    }
}
