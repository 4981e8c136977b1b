//! Every system call that touches files but those in [`share`](super::share), and the only unsafe code of the crate.
//!
//! A [`Dir`] is an open directory, a [`Name`] one component of a path. All calls are relative to a descriptor, so a directory that is
//! swapped for a link while we work cannot lead us out of the tree (P1). `std::fs` is not used for writing: it takes paths.
//!
//! With feature `fault` each call passes a numbered gate at which a test can end the process or make the call fail; see [`seam`].

#![expect(unsafe_code, reason = "sync_file_range has no safe wrapper; every other call goes through rustix")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};

use super::error::{Error, Result};
use super::seam;

#[cfg(target_os = "linux")]
use super::stat::pieces;
pub use super::stat::{Kind, Listing, Name, Stat, Time};

impl Stat {
    #[allow(clippy::cast_sign_loss, clippy::cast_possible_truncation, clippy::unnecessary_cast, reason = "widths differ by platform")]
    fn from_raw(raw: &rustix::fs::Stat) -> Self {
        let kind = match FileType::from_raw_mode(raw.st_mode as _) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Dir,
            FileType::Symlink => Kind::Link,
            _ => Kind::Special,
        };
        Self {
            dev: raw.st_dev as u64,
            ino: raw.st_ino as u64,
            kind,
            mode: raw.st_mode as u32 & 0o7777,
            uid: raw.st_uid,
            gid: raw.st_gid,
            nlink: raw.st_nlink as u64,
            size: raw.st_size as u64,
            mtime: Time { sec: raw.st_mtime as i64, nsec: raw.st_mtime_nsec as u32 },
            ctime: Time { sec: raw.st_ctime as i64, nsec: raw.st_ctime_nsec as u32 },
        }
    }
}

/// The effective user.
pub fn effective_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The effective group, and after it the others that this process is in.
pub fn effective_groups() -> Vec<u32> {
    let mut groups = vec![rustix::process::getegid().as_raw()];
    let others = rustix::process::getgroups().unwrap_or_default();
    groups.extend(others.into_iter().map(Gid::as_raw).filter(|gid| *gid != groups[0]).collect::<Vec<_>>());
    groups
}

/// What a path leads to, through links. To judge permissions by, and whether a directory is where it was: nothing is opened.
pub fn look_up(path: &Path) -> Result<Stat> {
    call("stat", path, || rustix::fs::stat(path)).map(|raw| Stat::from_raw(&raw))
}

/// Opens a file that somebody named for reading, through links: their word counts, and only for it. A FIFO does not block.
pub fn open_named(path: &Path) -> Result<File> {
    call("open", path, || rustix::fs::openat(rustix::fs::CWD, path, LOOK, Mode::empty())).map(File::from)
}

/// Is what a path leads to on a file system that is mounted read-only?
pub fn is_read_only(path: &Path) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|fs| fs.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

/// The process's own id.
pub fn process_id() -> u32 {
    std::process::id()
}

/// An open directory. Every name that is looked up in it is one component, and links are not followed.
#[derive(Debug)]
pub struct Dir {
    pub(super) fd: OwnedFd,
    path: PathBuf,
    parent: Option<(Arc<Dir>, Name)>,
}

const LOOK: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

impl Dir {
    /// Opens the directory that a user named. The path may lead through links: the user's word counts, and only here.
    pub fn open_root(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = call("open", path, || rustix::fs::openat(rustix::fs::CWD, path, flags, Mode::empty()))?;
        Ok(Self { fd, path: path.to_path_buf(), parent: None })
    }

    /// Opens a directory in this one; a link is refused.
    pub fn open_in(self: &Arc<Self>, name: &Name) -> Result<Self> {
        let path = self.path_of(name);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | no_link() | OFlags::CLOEXEC;
        let fd = call("open", &path, || rustix::fs::openat(&self.fd, name.as_os_str(), flags, Mode::empty()))?;
        Ok(Self { fd, path, parent: Some((Arc::clone(self), name.clone())) })
    }

    /// Opens a directory some levels below this one; a link anywhere on the way is refused, and so is every `..`.
    ///
    /// One `openat2` where the system has it (a path that is too long in pieces), else component by component.
    pub fn open_beneath(self: &Arc<Self>, relative: &Path) -> Result<Arc<Self>> {
        if relative.as_os_str().is_empty() {
            return Ok(Arc::clone(self));
        }
        // BENEATH alone lets `..` pass as long as it stays below; the fallback cannot. Refused here, both answer alike.
        if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(Error::new("open", self.path.join(relative), io::ErrorKind::InvalidInput));
        }
        #[cfg(target_os = "linux")]
        {
            use rustix::fs::ResolveFlags;
            let path = self.path.join(relative);
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | no_link() | OFlags::CLOEXEC;
            let strict = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let resolve = if seam::without("nofollow") { ResolveFlags::empty() } else { strict };
            let mut fd: Option<OwnedFd> = None;
            for piece in pieces(relative) {
                let above = fd.as_ref().map_or(self.fd.as_fd(), AsFd::as_fd);
                match call("open", &path, || rustix::fs::openat2(above, piece, flags, Mode::empty(), resolve)) {
                    Ok(next) => fd = Some(next),
                    // Old kernels and seccomp filters (containers) refuse the call itself; EAGAIN is a rename race.
                    Err(error) if matches!(error.cause.raw_os_error(), Some(libc::ENOSYS | libc::EPERM | libc::EAGAIN)) => {
                        return self.open_by_steps(relative);
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(fd.map_or_else(|| Arc::clone(self), |fd| Arc::new(Self { fd, path, parent: None })))
        }
        #[cfg(not(target_os = "linux"))]
        self.open_by_steps(relative)
    }

    /// Opens a file some levels below this directory for reading: [`Dir::open_beneath`] and [`Dir::open_file`] in one call, where the
    /// system has one.
    pub fn open_file_beneath(self: &Arc<Self>, relative: &Path) -> Result<File> {
        #[cfg(target_os = "linux")]
        {
            use rustix::fs::ResolveFlags;
            let path = self.path.join(relative);
            let strict = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            match call("open", &path, || rustix::fs::openat2(&self.fd, relative, LOOK | OFlags::NOFOLLOW, Mode::empty(), strict)) {
                Err(error) if matches!(error.cause.raw_os_error(), Some(libc::ENOSYS | libc::EPERM | libc::EAGAIN)) => {}
                opened => return opened.map(File::from),
            }
        }
        let invalid = || Error::new("open", self.path.join(relative), io::ErrorKind::InvalidInput);
        let name = relative.file_name().and_then(Name::new).ok_or_else(invalid)?;
        self.open_beneath(relative.parent().ok_or_else(invalid)?)?.open_file(&name)
    }

    fn open_by_steps(self: &Arc<Self>, relative: &Path) -> Result<Arc<Self>> {
        // Put together once: a path for each step of each directory takes minutes of copying in a tree of thousands of levels.
        let path = self.path.join(relative);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | no_link() | OFlags::CLOEXEC;
        let mut fd: Option<OwnedFd> = None;
        for part in relative {
            let name = Name::new(part).ok_or_else(|| Error::new("open", &path, io::ErrorKind::InvalidInput))?;
            let above = fd.as_ref().map_or(self.fd.as_fd(), AsFd::as_fd);
            fd = Some(call("open", &path, || rustix::fs::openat(above, name.as_os_str(), flags, Mode::empty()))?);
        }
        // As `openat2` leaves it: a chain of open parents would take a descriptor a level.
        Ok(fd.map_or_else(|| Arc::clone(self), |fd| Arc::new(Self { fd, path, parent: None })))
    }

    /// The path as a person would write it. For messages; of a root it is also what [`Dir::is_in_place`] asks for.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a name in this directory, for messages.
    pub fn path_of(&self, name: &Name) -> PathBuf {
        self.path.join(name)
    }

    /// What this directory itself is.
    pub fn stat(&self) -> Result<Stat> {
        call("stat", &self.path, || rustix::fs::fstat(&self.fd)).map(|raw| Stat::from_raw(&raw))
    }

    /// When this directory was made, where the file system keeps that.
    pub fn birth(&self) -> Option<Time> {
        birth(&self.fd)
    }

    /// What a name in it is; a link is told as a link.
    pub fn stat_of(&self, name: &Name) -> Result<Stat> {
        self.stat_at(name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// What a name in it leads to, through links. Only for sources that are links (whether root may follow one is checked by the caller).
    pub fn stat_through(&self, name: &Name) -> Result<Stat> {
        self.stat_at(name, AtFlags::empty())
    }

    fn stat_at(&self, name: &Name, flags: AtFlags) -> Result<Stat> {
        call_on("stat", self, name, || rustix::fs::statat(&self.fd, name.as_os_str(), flags)).map(|raw| Stat::from_raw(&raw))
    }

    /// Is this directory, whose own stat is `own`, still what its path names? One that went away or was replaced is an answer, not an
    /// error (W4).
    pub fn is_in_place(&self, own: &Stat) -> Result<bool> {
        let named = match &self.parent {
            Some((parent, name)) => parent.stat_of(name),
            None => look_up(&self.path),
        };
        match named {
            Ok(named) => Ok(named.same_file(own)),
            Err(error) if error.is_gone() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Does its whole path, as it is written, lead to it now? [`Dir::is_in_place`] asks for the last component alone, and a directory
    /// above may have been moved. A path that is too long to ask for counts as one that leads here.
    pub fn is_at(path: &Path, own: (u64, u64)) -> Result<bool> {
        match look_up(path) {
            Ok(named) => Ok(named.id() == own),
            Err(error) if error.is_gone() || error.kind() == io::ErrorKind::NotADirectory => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::InvalidFilename => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Opens a file for reading; a link is refused, a FIFO does not block.
    pub fn open_file(&self, name: &Name) -> Result<File> {
        call_on("open", self, name, || rustix::fs::openat(&self.fd, name.as_os_str(), LOOK | OFlags::NOFOLLOW, Mode::empty()))
            .map(File::from)
    }

    /// Opens a file for reading through links.
    pub fn open_through(&self, name: &Name) -> Result<File> {
        call_on("open", self, name, || rustix::fs::openat(&self.fd, name.as_os_str(), LOOK, Mode::empty())).map(File::from)
    }

    /// Makes a new file, open for writing; it must not be there.
    pub fn create_new(&self, name: &Name, mode: u32) -> Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
        call_on("create", self, name, || rustix::fs::openat(&self.fd, name.as_os_str(), flags, mode_bits(mode))).map(File::from)
    }

    /// Opens a lock file for reading and writing (a lock on NFS wants both). With a mode it is made, and must not be there; without one
    /// it must be there.
    pub fn open_lock_file(&self, name: &Name, make: Option<u32>) -> Result<File> {
        let new = if make.is_some() { OFlags::CREATE | OFlags::EXCL } else { OFlags::empty() };
        let flags = new | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let mode = mode_bits(make.unwrap_or_default());
        call_on("open", self, name, || rustix::fs::openat(&self.fd, name.as_os_str(), flags, mode)).map(File::from)
    }

    /// Renames within this directory, replacing what is there.
    pub fn rename(&self, from: &Name, to: &Name) -> Result<()> {
        call_on("rename to", self, to, || rustix::fs::renameat(&self.fd, from.as_os_str(), &self.fd, to.as_os_str()))
    }

    /// The same, where nothing of that name may be there (`AlreadyExists`). Not every file system can (`InvalidInput`, `Unsupported`).
    pub fn rename_new(&self, from: &Name, to: &Name) -> Result<()> {
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        call_on("rename to", self, to, || rustix::fs::renameat_with(&self.fd, from.as_os_str(), &self.fd, to.as_os_str(), flags))
    }

    /// Removes a name that is no directory.
    pub fn unlink(&self, name: &Name) -> Result<()> {
        call_on("remove", self, name, || rustix::fs::unlinkat(&self.fd, name.as_os_str(), AtFlags::empty()))
    }

    /// Removes an empty directory. `Ok(false)`: it is not empty, or it is gone, or something else stands there now; which one is told.
    pub fn rmdir(&self, name: &Name) -> Result<bool> {
        match call_on("remove", self, name, || rustix::fs::unlinkat(&self.fd, name.as_os_str(), AtFlags::REMOVEDIR)) {
            Ok(()) => Ok(true),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
            {
                tracing::debug!(cause = %error.sentence(), "a directory is not removed");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes a directory. `Ok(false)`: something of that name is there already.
    pub fn make_dir(&self, name: &Name, mode: u32) -> Result<bool> {
        match call_on("create", self, name, || rustix::fs::mkdirat(&self.fd, name.as_os_str(), mode_bits(mode))) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Flushes the directory: names made, renamed and removed in it are durable afterwards.
    pub fn sync(&self) -> Result<()> {
        call("flush", &self.path, || rustix::fs::fsync(&self.fd))
    }

    /// The names in it, without `.` and `..`, in no order.
    pub fn names(&self) -> Result<Vec<Name>> {
        let Listing { mut dirs, others } = self.list()?;
        dirs.extend(others);
        Ok(dirs)
    }

    /// The names in it by kind. Read through the descriptor: no path is walked, and what was opened is what is listed.
    pub fn list(&self) -> Result<Listing> {
        use rustix::fs::FileType;
        let mut listing = Listing::default();
        for entry in call("list", &self.path, || rustix::fs::Dir::read_from(&self.fd))? {
            let entry = entry.map_err(|cause| Error::new("list", &self.path, cause))?;
            let Some(name) = Name::from_bytes(entry.file_name().to_bytes()) else { continue };
            let is_dir = match entry.file_type() {
                FileType::Directory => true,
                // Some file systems do not say. A name that is gone by now is no directory; what cannot be looked at fails, and is
                // told, where it is entered.
                FileType::Unknown => self.stat_of(&name).map_or_else(|error| !error.is_absent(), |stat| stat.kind == Kind::Dir),
                _ => false,
            };
            if is_dir { listing.dirs.push(name) } else { listing.others.push(name) }
        }
        Ok(listing)
    }

    /// The name under which it was opened, and the directory in which that was; `None` for a root and for what
    /// [`Dir::open_beneath`] opened.
    pub fn place(&self) -> Option<(&Arc<Dir>, &Name)> {
        self.parent.as_ref().map(|(parent, name)| (parent, name))
    }

    /// Sets owner and group of the directory itself.
    pub fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        call("change the owner of", &self.path, || rustix::fs::fchown(&self.fd, uid.map(Uid::from_raw), gid.map(Gid::from_raw)))
    }

    /// Sets the permission bits of the directory itself.
    pub fn set_mode(&self, mode: u32) -> Result<()> {
        call("change the mode of", &self.path, || rustix::fs::fchmod(&self.fd, mode_bits(mode)))
    }

    /// Is it on a network file system, where a lock may be refused, hang, or mean nothing?
    pub fn on_network(&self) -> bool {
        #[cfg(target_os = "linux")]
        {
            // NFS, SMB, CIFS, SMB2, AFS, Coda, NCP, 9p, Ceph: linux/magic.h
            const NETWORK: [u32; 9] =
                [0x6969, 0x517B, 0xFF53_4D42, 0xFE53_4D42, 0x5346_414F, 0x7375_7245, 0x564C, 0x0102_1997, 0x00C3_6400];
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::unnecessary_cast,
                reason = "widths differ by platform"
            )]
            return match rustix::fs::fstatfs(&self.fd) {
                Ok(fs) => NETWORK.contains(&(fs.f_type as u32)),
                Err(cause) => {
                    tracing::debug!(path = %self.path.display(), cause = %cause, "taken for a local file system");
                    false
                }
            };
        }
        #[cfg(not(target_os = "linux"))]
        false
    }
}

fn no_link() -> OFlags {
    if seam::without("nofollow") { OFlags::empty() } else { OFlags::NOFOLLOW }
}

fn mode_bits(mode: u32) -> Mode {
    #[allow(clippy::cast_possible_truncation, clippy::unnecessary_cast, reason = "mode_t is narrower on macOS")]
    Mode::from_raw_mode((mode & 0o7777) as _)
}

/// What an open file is.
pub fn stat(file: &File, path: &Path) -> Result<Stat> {
    call("stat", path, || rustix::fs::fstat(file)).map(|raw| Stat::from_raw(&raw))
}

/// When an open file was made, where the file system keeps that. For people: no decision hangs on it.
pub fn birth(file: &impl AsFd) -> Option<Time> {
    let file = File::from(file.as_fd().try_clone_to_owned().ok()?);
    Some(file.metadata().ok()?.created().ok()?.into())
}

/// Reads from an offset until the buffer is full or the file ends; the number of bytes read.
pub fn read_at(file: &File, buffer: &mut [u8], offset: u64, path: &Path) -> Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        let step = call("read", path, || rustix::io::pread(file, &mut buffer[done..], offset + done as u64))?;
        done += step;
        if step == 0 || seam::without("whole-reads") {
            break;
        }
    }
    Ok(done)
}

/// Reads a whole file from its start. `None`: it is longer than `limit` bytes; no more than that is read of it. A lack of memory for it is
/// an error like any other.
pub fn read_all(file: &File, size_hint: u64, limit: u64, path: &Path) -> Result<Option<Vec<u8>>> {
    if size_hint > limit {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    // One byte more than expected, so that the last read already says "end".
    let mut len = usize::try_from(size_hint).unwrap_or(usize::MAX).saturating_add(1);
    loop {
        let done = bytes.len();
        bytes.try_reserve_exact(len - done).map_err(|_| Error::new("read", path, io::ErrorKind::OutOfMemory))?;
        bytes.resize(len, 0);
        let got = read_at(file, &mut bytes[done..], done as u64, path)?;
        bytes.truncate(done + got);
        if bytes.len() < len || len as u64 > limit {
            return Ok((bytes.len() as u64 <= limit).then_some(bytes));
        }
        len = len.saturating_mul(2);
    }
}

/// Writes everything. A short write is followed by the rest; writing nothing is an error: a full disk must never look like success.
pub fn write_all(file: &File, mut bytes: &[u8], path: &Path) -> Result<()> {
    while !bytes.is_empty() {
        let part = seam::shorten(bytes);
        let step = call("write", path, || rustix::io::write(file, part))?;
        if step == 0 {
            return Err(Error::new("write", path, io::ErrorKind::WriteZero));
        }
        bytes = if seam::without("whole-writes") { &[] } else { &bytes[step..] };
    }
    Ok(())
}

/// Cuts a file to nothing. Only for lock files, whose content is a courtesy: an artifact is never changed in place.
pub fn empty(file: &File, path: &Path) -> Result<()> {
    call("truncate", path, || rustix::fs::ftruncate(file, 0))
}

/// Flushes a file's bytes and length to the medium.
pub fn sync(file: &File, path: &Path) -> Result<()> {
    call("flush", path, || rustix::fs::fsync(file))
}

/// Asks the kernel to begin writing a file out, without waiting. Only a hint: what counts is the later [`sync`].
pub fn start_writeout(file: &File) {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        // SAFETY: the descriptor is open for the length of the call, and the call touches no memory of ours.
        let answer = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
        if answer != 0 {
            tracing::debug!(cause = %io::Error::last_os_error(), "the kernel takes no hint to begin writing; the flush does it");
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _: &File = file;
}

/// Closes a file that was written, telling a late write error. EINTR counts as closed: the descriptor is gone either way.
pub fn close(file: File, path: &Path) -> Result<()> {
    seam::gate("close").map_err(|cause| Error::new("close", path, cause))?;
    let fd: OwnedFd = file.into();
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::IntoRawFd;
        // SAFETY: the descriptor was owned and is given up here; nobody uses it after.
        let answer = unsafe { libc::close(fd.into_raw_fd()) };
        if answer != 0 {
            let cause = io::Error::last_os_error();
            if cause.kind() != io::ErrorKind::Interrupted {
                return Err(Error::new("close", path, cause));
            }
        }
    }
    #[cfg(not(target_os = "linux"))]
    drop(fd);
    Ok(())
}

/// Sets the permission bits of an open file.
pub fn set_mode(file: &File, mode: u32, path: &Path) -> Result<()> {
    call("change the mode of", path, || rustix::fs::fchmod(file, mode_bits(mode)))
}

/// Sets owner and group of an open file.
pub fn set_owner(file: &File, uid: Option<u32>, gid: Option<u32>, path: &Path) -> Result<()> {
    call("change the owner of", path, || rustix::fs::fchown(file, uid.map(Uid::from_raw), gid.map(Gid::from_raw)))
}

/// Sets the modification time of an open file.
pub fn set_mtime(file: &File, time: Time, path: &Path) -> Result<()> {
    let time = Timespec { tv_sec: time.sec, tv_nsec: time.nsec.into() };
    call("set the time of", path, || rustix::fs::futimens(file, &Timestamps { last_access: time, last_modification: time }))
}

/// Is the file signed by IMA or sealed by fs-verity? Such a file belongs to whoever signed it and is not replaced.
pub fn is_signed(file: &File, path: &Path) -> Result<bool> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{StatxAttributes, StatxFlags};
        use rustix::io::Errno;
        let failed = |cause| Err(Error::new("look for a signature of", path, io::Error::from(cause)));
        match rustix::fs::fgetxattr(file, c"security.ima", &mut [0_u8; 0][..]) {
            Ok(_) => return Ok(true),
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(cause) => return failed(cause),
        }
        match rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::empty()) {
            Ok(seen) => Ok(seen.stx_attributes.contains(StatxAttributes::VERITY)),
            // An old kernel, or a sandbox that does not know the call.
            Err(Errno::NOSYS | Errno::PERM) => Ok(false),
            Err(cause) => failed(cause),
        }
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _: (&File, &Path) = (file, path);
        Ok(false)
    }
}

/// Tries to take the exclusive lock of an open file: `false` where somebody else holds it.
///
/// fs2's methods are called by their path: `file.try_lock_exclusive()` would compile too, but a method of std with the same name wins
/// silently as soon as std has one, with other errors.
pub fn try_lock(file: &File, path: &Path) -> Result<bool> {
    seam::gate("lock").map_err(|cause| Error::new("lock", path, cause))?;
    lock_answer(|| fs2::FileExt::try_lock_exclusive(file), path)
}

/// Tries to take a shared lock, to see whether somebody holds the exclusive one.
pub fn try_lock_shared(file: &File, path: &Path) -> Result<bool> {
    lock_answer(|| fs2::FileExt::try_lock_shared(file), path)
}

fn lock_answer(attempt: impl Fn() -> io::Result<()>, path: &Path) -> Result<bool> {
    loop {
        return match attempt() {
            Ok(()) => Ok(true),
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
            Err(cause) if cause.kind() == fs2::lock_contended_error().kind() => Ok(false),
            Err(cause) => Err(Error::new("lock", path, cause)),
        };
    }
}

/// Raises the soft limit of open files (`RLIMIT_NOFILE`) to the hard one, which belongs to the administrator, and answers what holds then.
///
/// This is a change of the whole process, which stays, and which processes that are started later inherit.
pub fn raise_open_file_limit() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum {
        let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
        match setrlimit(Resource::Nofile, raised) {
            Ok(()) => limit = raised,
            Err(cause) => tracing::debug!(%cause, "the limit of open files stays as it is"),
        }
    }
    limit.current.unwrap_or(1 << 20)
}

pub(super) fn call_on<T>(operation: &'static str, dir: &Dir, name: &Name, run: impl FnMut() -> rustix::io::Result<T>) -> Result<T> {
    // The path is put together only for an error: most calls succeed.
    retried(operation, run).map_err(|cause| Error::new(operation, dir.path_of(name), cause))
}

pub(super) fn call<T>(operation: &'static str, path: &Path, run: impl FnMut() -> rustix::io::Result<T>) -> Result<T> {
    retried(operation, run).map_err(|cause| Error::new(operation, path, cause))
}

/// One call through the seam; EINTR is tried again.
fn retried<T>(operation: &'static str, mut run: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        let answer = seam::gate(operation).and_then(|()| run().map_err(io::Error::from));
        match answer {
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            answer => return answer,
        }
    }
}

/// Ends this process as a kill from outside would.
#[cfg(feature = "fault")]
pub(super) fn kill_self() -> ! {
    let own = rustix::process::getpid();
    crate::ignored!(rustix::process::kill_process(own, rustix::process::Signal::KILL), "aborting instead");
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_below_the_root_is_never_followed() {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(top.path().join("real/deep")).unwrap();
        std::os::unix::fs::symlink("real", top.path().join("link")).unwrap();
        let root = Arc::new(Dir::open_root(top.path()).unwrap());
        assert!(root.open_beneath(Path::new("real/deep")).is_ok());
        assert!(root.open_beneath(Path::new("link/deep")).is_err());
        assert!(root.open_in(&Name::new("link").unwrap()).is_err());
        assert!(root.open_by_steps(Path::new("link/deep")).is_err());
        assert!(root.open_by_steps(Path::new("real/deep")).is_ok());
    }

    #[test]
    fn beneath_means_downwards_only() {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(top.path().join("real/deep")).unwrap();
        let root = Arc::new(Dir::open_root(top.path()).unwrap());
        let real = Arc::new(root.open_in(&Name::new("real").unwrap()).unwrap());
        // `openat2` would let the first ones pass: they stay below.
        for upwards in ["real/../real", "deep/..", "..", "../real", ".", "./deep", "/", "/etc"] {
            for dir in [&root, &real] {
                assert_eq!(dir.open_beneath(Path::new(upwards)).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{upwards}");
                assert!(dir.open_by_steps(Path::new(upwards)).is_err(), "{upwards}");
            }
        }
    }

    #[test]
    fn reading_stops_at_the_limit() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("f");
        #[allow(clippy::disallowed_methods, reason = "a test's own file")]
        std::fs::write(&path, vec![7_u8; 5000]).unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(read_all(&file, 5000, 5000, &path).unwrap().unwrap().len(), 5000);
        assert_eq!(read_all(&file, 10, 5000, &path).unwrap().unwrap().len(), 5000, "a file that grew since its stat");
        assert!(read_all(&file, 5000, 4999, &path).unwrap().is_none());
        assert!(read_all(&file, 10, 4999, &path).unwrap().is_none());
    }
}
