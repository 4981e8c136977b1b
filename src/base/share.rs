//! System calls by which two places have the bytes of one file: another name for it, or a file of its own with the same blocks. And what
//! a file has beside its bytes that another place may not agree with.
//!
//! Apart from [`sys`] for its length alone; the same rules hold.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

use super::error::Result;
use super::sys::{self, Dir, Name};

/// So long is no security label of any system, bytes.
const LONGEST_LABEL: usize = 4096;

impl Dir {
    /// Gives a file another name, in this directory; nothing may be there (`AlreadyExists`).
    pub fn link_new(&self, to: &Name, from: &Dir, name: &Name) -> Result<()> {
        let flags = AtFlags::empty();
        sys::call_on("link", self, to, || rustix::fs::linkat(&from.fd, name.as_os_str(), &self.fd, to.as_os_str(), flags))
    }

    /// What a file must carry to be at home in this directory. See [`Labels`].
    pub fn labels(&self) -> Result<Labels> {
        Labels::of(&self.fd, self.path())
    }

    /// Do new files in it get an access list that files elsewhere do not have?
    pub fn has_default_list(&self) -> Result<bool> {
        Ok(attribute(&self.fd, c"system.posix_acl_default", self.path())?.is_some())
    }
}

/// The security labels of a file or directory: a file in two places has the same in both, so both places must agree on them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Labels {
    selinux: Option<Vec<u8>>,
    smack: Option<Vec<u8>>,
}

impl Labels {
    /// Of an open file.
    pub fn of_file(file: &File, path: &Path) -> Result<Self> {
        Self::of(file, path)
    }

    fn of(fd: &impl AsFd, path: &Path) -> Result<Self> {
        Ok(Self { selinux: attribute(fd, c"security.selinux", path)?, smack: attribute(fd, c"security.SMACK64", path)? })
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.selinux.is_none() && self.smack.is_none()
    }
}

/// An extended attribute. `None`: there is none, or no such thing on this file system.
fn attribute(fd: &impl AsFd, name: &std::ffi::CStr, path: &Path) -> Result<Option<Vec<u8>>> {
    #[cfg(target_os = "linux")]
    {
        let mut value = vec![0_u8; LONGEST_LABEL];
        match sys::call("read the attributes of", path, || rustix::fs::fgetxattr(fd, name, &mut value[..])) {
            Ok(len) => {
                value.truncate(len);
                Ok(Some(value))
            }
            Err(error) if matches!(error.cause.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP | libc::ENOSYS)) => Ok(None),
            Err(error) => Err(error),
        }
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _: (&dyn std::any::Any, usize, &Path) = (&name.to_bytes().len(), LONGEST_LABEL, path);
        let _ = fd.as_fd();
        Ok(None)
    }
}

/// Lets an empty file have all of another one's bytes by sharing its blocks: whoever writes to one of them later gets blocks of its own.
///
/// Not every file system can (`Unsupported`), and none with files of another (`CrossesDevices`).
pub fn clone(file: &File, from: &File, path: &Path) -> Result<()> {
    #[cfg(target_os = "linux")]
    return sys::call("clone to", path, || rustix::fs::ioctl_ficlone(file, from));
    #[cfg(not(target_os = "linux"))]
    {
        let _: (&File, &File) = (file, from);
        Err(super::Error::new("clone to", path, std::io::ErrorKind::Unsupported))
    }
}

/// Marks a file as used now by the time of its last access. Its own mtime stays: that says before which edits of a source it was made.
pub fn mark_used(file: &File, path: &Path) -> Result<()> {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let stays = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    sys::call("set the time of", path, || rustix::fs::futimens(file, &Timestamps { last_access: now, last_modification: stays }))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test's own files")]
mod tests {
    use super::*;
    use crate::base::sys::Time;

    #[test]
    fn a_second_name_is_the_same_file_and_never_displaces_another() {
        let top = tempfile::tempdir().unwrap();
        let name = |text: &str| Name::new(text).unwrap();
        std::fs::write(top.path().join("a"), b"a").unwrap();
        std::fs::write(top.path().join("c"), b"c").unwrap();
        let dir = Dir::open_root(top.path()).unwrap();
        dir.link_new(&name("b"), &dir, &name("a")).unwrap();
        assert!(dir.stat_of(&name("a")).unwrap().same_file(&dir.stat_of(&name("b")).unwrap()));
        assert_eq!(dir.link_new(&name("c"), &dir, &name("a")).unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(top.path().join("c")).unwrap(), b"c");
    }

    #[test]
    fn a_mark_of_use_leaves_the_time_of_making() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("a");
        std::fs::write(&path, b"a").unwrap();
        let file = File::open(&path).unwrap();
        let made = Time { sec: 1_500_000_000, nsec: 7 };
        sys::set_mtime(&file, made, &path).unwrap();
        mark_used(&file, &path).unwrap();
        assert_eq!(sys::stat(&file, &path).unwrap().mtime, made);
        let accessed = std::fs::metadata(&path).unwrap().accessed().unwrap();
        assert!(accessed > std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_600_000_000));
    }

    #[test]
    fn a_default_list_is_seen() {
        let top = tempfile::tempdir().unwrap();
        let dir = Dir::open_root(top.path()).unwrap();
        assert!(!dir.has_default_list().unwrap());
        let done = std::process::Command::new("setfacl").args(["-d", "-m", "u:1:rw"]).arg(top.path()).status();
        if done.is_ok_and(|done| done.success()) {
            assert!(dir.has_default_list().unwrap());
        } else {
            eprintln!("SKIP default access lists: no setfacl, or none on this file system");
        }
    }
}
