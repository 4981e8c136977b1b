//! conda: `conda-meta/NAME-VERSION-BUILD.json` in each environment lists the files of a package, most with size and digest. What conda
//! itself compiled (packages for any Python) stands there without either: nobody compares it.

use std::path::Path;

use serde::Deserialize;

use super::reading::Reading;
use crate::base::sys::Dir;

/// Where its records are below an environment.
pub(super) const PLACES: [&str; 1] = ["conda-meta"];
/// The largest record that is read, bytes; the largest known has 20 MB.
const LARGEST: u64 = 128 << 20;

#[derive(Deserialize)]
struct Record {
    paths_data: Option<PathsData>,
}

#[derive(Deserialize)]
struct PathsData {
    #[serde(default)]
    paths: Vec<Recorded>,
}

#[derive(Deserialize)]
struct Recorded {
    #[serde(rename = "_path")]
    path: String,
    sha256: Option<String>,
    sha256_in_prefix: Option<String>,
    size_in_bytes: Option<u64>,
}

/// Reads them.
pub(super) fn read(reading: &mut Reading<'_>, place: &Path) -> Result<(), String> {
    let meta = Dir::open_root(place).map_err(|error| error.sentence())?;
    let mut names = meta.names().map_err(|error| error.sentence())?;
    names.retain(|name| name.as_bytes().ends_with(b".json"));
    names.sort();
    for name in &names {
        let (file, path) = (Reading::open(&meta, name)?, meta.path_of(name));
        let bytes = reading.whole(&file, &path, LARGEST)?;
        let unread = |cause| format!("cannot read `{}`: {cause}", path.display());
        let record: Record = serde_json::from_slice(&bytes).map_err(unread)?;
        for recorded in record.paths_data.into_iter().flat_map(|data| data.paths) {
            if recorded.sha256.is_some() || recorded.sha256_in_prefix.is_some() || recorded.size_in_bytes.is_some() {
                reading.record(recorded.path.as_bytes());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test's own files")]
mod tests {
    use super::super::reading::tests::{put, read as found};
    use super::*;

    #[test]
    fn what_has_a_size_or_a_digest_is_listed() {
        let top = tempfile::tempdir().unwrap();
        put(top.path(), "lib/p/__pycache__/x", b"");
        let record = r#"{"name": "one", "files": ["lib/p/__pycache__/d.pyc"], "paths_data": {"paths_version": 1, "paths": [
            {"_path": "lib/p/__pycache__/a.pyc", "path_type": "hardlink", "sha256": "00", "size_in_bytes": 3},
            {"_path": "lib/p/__pycache__/b.pyc", "path_type": "hardlink", "sha256_in_prefix": "00"},
            {"_path": "lib/p/__pycache__/c.pyc", "path_type": "pyc_file"}]}}"#;
        put(top.path(), "conda-meta/one-1-0.json", record.as_bytes());
        put(top.path(), "conda-meta/old-1-0.json", br#"{"files": ["lib/p/__pycache__/e.pyc"]}"#);
        put(top.path(), "conda-meta/history", b"==> now <==");
        let place = top.path().join("conda-meta");
        assert_eq!(found(top.path(), |reading| read(reading, &place)).unwrap(), ["lib/p/__pycache__/a.pyc", "lib/p/__pycache__/b.pyc"]);
        put(top.path(), "conda-meta/cut-1-0.json", br#"{"files": ["#);
        assert!(found(top.path(), |reading| read(reading, &place)).unwrap_err().contains("cut-1-0.json"));
    }
}
