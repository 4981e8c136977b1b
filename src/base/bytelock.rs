//! Locks of single bytes of a file, which die with their holder.
//!
//! They belong to the open file (`F_OFD_SETLK`), not to the process: whoever opens the file once more is another one, and a descriptor that
//! is closed elsewhere in the process lets nothing go, as with the older kind of `fcntl` locks. The bytes need not be there.

#![expect(unsafe_code, reason = "fcntl with a range has no safe wrapper")]

use std::fs::File;
use std::io;
use std::path::Path;

use super::error::{Error, Result};
use super::seam;

/// Tries to lock a byte: `false` where another open file holds it. What this one holds it may lock again.
pub fn try_lock(file: &File, at: u64, path: &Path) -> Result<bool> {
    match seam::gate("claim").and_then(|()| platform::set(file, at, true)) {
        Ok(()) => Ok(true),
        Err(cause) if matches!(cause.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::PermissionDenied) => Ok(false),
        Err(cause) => Err(Error::new("lock", path, cause)),
    }
}

/// Lets a byte go.
pub fn unlock(file: &File, at: u64, path: &Path) -> Result<()> {
    platform::set(file, at, false).map_err(|cause| Error::new("unlock", path, cause))
}

/// Does another open file hold a byte?
pub fn is_locked(file: &File, at: u64, path: &Path) -> Result<bool> {
    platform::is_held(file, at).map_err(|cause| Error::new("look for a lock of", path, cause))
}

#[cfg(target_os = "linux")]
mod platform {
    use std::fs::File;
    use std::io;
    use std::os::fd::AsRawFd;

    fn range(kind: libc::c_int, at: u64) -> libc::flock {
        // SAFETY: a struct of integers, for which zero is a value. The process id must be zero.
        let mut range: libc::flock = unsafe { std::mem::zeroed() };
        #[allow(clippy::cast_possible_truncation, reason = "constants of the platform, two bits wide")]
        {
            range.l_type = kind as libc::c_short;
            range.l_whence = libc::SEEK_SET as libc::c_short;
        }
        // Files end where a signed number does, on narrow machines early: then two bytes may be one.
        let last = u64::try_from(libc::off_t::MAX >> 1).unwrap_or(u64::MAX);
        range.l_start = libc::off_t::try_from(at & last).unwrap_or(0);
        range.l_len = 1;
        range
    }

    fn call(file: &File, command: libc::c_int, range: &mut libc::flock) -> io::Result<()> {
        // SAFETY: the descriptor is open and the struct ours for the length of the call.
        let answer = unsafe { libc::fcntl(file.as_raw_fd(), command, std::ptr::from_mut(range)) };
        if answer == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    pub(super) fn set(file: &File, at: u64, held: bool) -> io::Result<()> {
        call(file, libc::F_OFD_SETLK, &mut range(if held { libc::F_WRLCK } else { libc::F_UNLCK }, at))
    }

    pub(super) fn is_held(file: &File, at: u64) -> io::Result<bool> {
        let mut range = range(libc::F_WRLCK, at);
        call(file, libc::F_OFD_GETLK, &mut range)?;
        Ok(libc::c_int::from(range.l_type) != libc::F_UNLCK)
    }
}

#[cfg(not(target_os = "linux"))]
mod platform {
    use std::fs::File;
    use std::io;

    pub(super) fn set(_file: &File, _at: u64, _held: bool) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn is_held(_file: &File, _at: u64) -> io::Result<bool> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_byte_has_one_holder_and_its_neighbours_are_free() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("f");
        let open = || File::options().create(true).truncate(false).read(true).write(true).open(&path).unwrap();
        let (first, second) = (open(), open());
        for at in [0, 1, u64::MAX] {
            assert!(try_lock(&first, at, &path).unwrap());
            assert!(try_lock(&first, at, &path).unwrap(), "one's own");
            assert!(!try_lock(&second, at, &path).unwrap());
            assert!(is_locked(&second, at, &path).unwrap() && !is_locked(&first, at, &path).unwrap());
        }
        assert!(try_lock(&second, 2, &path).unwrap());
        unlock(&first, 1, &path).unwrap();
        assert!(!is_locked(&second, 1, &path).unwrap() && is_locked(&second, 0, &path).unwrap());
        // Another descriptor of the same file that is closed lets nothing go.
        drop(open());
        assert!(is_locked(&second, 0, &path).unwrap());
        drop(first);
        assert!(!is_locked(&second, 0, &path).unwrap());
        assert_eq!(path.metadata().unwrap().len(), 0);
    }
}
