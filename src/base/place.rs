//! Files of a system's own, as a configuration is: few, small, put in their places whole.
//!
//! Not by [`write`](super::write), which makes artifacts: those take owner and mode from their source, and are never executable.

use std::path::{Component, Path};
use std::sync::Arc;

use super::error::{Error, Result};
use super::leftover;
use super::sys::{self, Dir, Kind, Name};
use crate::ignored;

/// What is larger is no file of ours, and is not read.
const LIMIT: u64 = 1 << 20;

/// Opens a directory some levels below another, following no link. With `make` those that are missing are made, for all to read;
/// without it `None` is the answer.
pub fn dir_below(top: &Path, relative: &Path, make: bool) -> Result<Option<Arc<Dir>>> {
    let mut dir = Arc::new(Dir::open_root(top)?);
    for part in relative.components() {
        let name = match part {
            Component::Normal(name) => Name::new(name),
            _ => None,
        };
        let name = name.ok_or_else(|| Error::new("open", top.join(relative), std::io::ErrorKind::InvalidInput))?;
        let next = match dir.open_in(&name) {
            Err(error) if error.is_absent() && !make => return Ok(None),
            Err(error) if error.is_absent() => {
                if dir.make_dir(&name, 0o755)? {
                    // Past a mask that would keep a package manager which is not root from reading it.
                    let made = dir.open_in(&name)?;
                    made.set_mode(0o755)?;
                    Ok(made)
                } else {
                    dir.open_in(&name)
                }
            }
            opened => opened,
        }?;
        dir = Arc::new(next);
    }
    Ok(Some(dir))
}

/// What stands at a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Absent,
    /// A file, with its bytes and permission bits.
    File(Vec<u8>, u32),
    /// A link to `/dev/null`: whoever made it wants nothing to be there.
    Null,
    /// Another link, a directory, a device, or a file of more than a megabyte.
    Other,
}

/// Looks at a name, through no link.
pub fn read(dir: &Dir, name: &Name) -> Result<Found> {
    let stat = match dir.stat_of(name) {
        Err(error) if error.is_absent() => return Ok(Found::Absent),
        stat => stat?,
    };
    let path = dir.path_of(name);
    if stat.kind != Kind::File {
        let is_null = std::fs::read_link(&path).is_ok_and(|to| to == Path::new("/dev/null"));
        return Ok(if is_null { Found::Null } else { Found::Other });
    }
    let bytes = sys::read_all(&dir.open_file(name)?, stat.size, LIMIT, &path)?;
    Ok(bytes.map_or(Found::Other, |bytes| Found::File(bytes, stat.mode)))
}

/// Writes a file whole and durably, with exactly these permission bits, in place of what stands there.
pub fn put(dir: &Dir, to: &Name, content: &[u8], mode: u32) -> Result<()> {
    let (temp, file) = leftover::fresh(".tmp", dir.path(), |name| dir.create_new(name, 0o600))?;
    let path = dir.path_of(to);
    let written = sys::write_all(&file, content, &path)
        .and_then(|()| sys::set_mode(&file, mode, &path))
        .and_then(|()| sys::sync(&file, &path))
        .and_then(|()| sys::close(file, &path))
        .and_then(|()| dir.rename(&temp, to));
    if written.is_err() {
        ignored!(dir.unlink(&temp), "a temp file stays behind");
    }
    written?;
    dir.sync()
}

/// Removes a file, durably.
pub fn remove(dir: &Dir, name: &Name) -> Result<()> {
    dir.unlink(name)?;
    dir.sync()
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test's own files")]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_put_whole_with_its_bits_and_no_link_is_followed() {
        let top = tempfile::tempdir().unwrap();
        let dir = dir_below(top.path(), Path::new("etc/x.d"), true).unwrap().unwrap();
        let name = Name::new("hook").unwrap();
        assert_eq!(read(&dir, &name).unwrap(), Found::Absent);
        let outside = top.path().join("outside");
        std::fs::write(&outside, "kept").unwrap();
        std::os::unix::fs::symlink(&outside, top.path().join("etc/x.d/hook")).unwrap();
        assert_eq!(read(&dir, &name).unwrap(), Found::Other);
        std::fs::remove_file(top.path().join("etc/x.d/hook")).unwrap();
        std::os::unix::fs::symlink("/dev/null", top.path().join("etc/x.d/hook")).unwrap();
        assert_eq!(read(&dir, &name).unwrap(), Found::Null);
        put(&dir, &name, b"new", 0o755).unwrap();
        assert_eq!(read(&dir, &name).unwrap(), Found::File(b"new".to_vec(), 0o755));
        assert_eq!(std::fs::read(&outside).unwrap(), b"kept");
        assert_eq!(std::fs::read_dir(top.path().join("etc/x.d")).unwrap().count(), 1, "nothing else is left");
        remove(&dir, &name).unwrap();
        assert_eq!(read(&dir, &name).unwrap(), Found::Absent);
        assert_eq!(std::fs::metadata(top.path().join("etc/x.d")).unwrap().permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn what_lies_below_is_reached_through_no_link_and_never_above() {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir(top.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", top.path().join("etc")).unwrap();
        assert!(dir_below(top.path(), Path::new("etc/x"), true).is_err());
        assert!(dir_below(top.path(), Path::new("../x"), true).is_err());
        assert!(dir_below(top.path(), Path::new("none/x"), false).unwrap().is_none());
        assert_eq!(std::fs::read_dir(top.path().join("real")).unwrap().count(), 0);
    }
}
