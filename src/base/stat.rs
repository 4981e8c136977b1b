//! Names, and what the system says of them. Pure; the calls are in [`sys`](super::sys).

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// One component of a path: not empty, no slash, no NUL, neither `.` nor `..`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(OsString);

impl Name {
    /// The name, or `None` where it is not one component.
    pub fn new(name: impl Into<OsString>) -> Option<Self> {
        let name = name.into();
        let bytes = name.as_bytes();
        let plain = !bytes.is_empty() && bytes != b"." && bytes != b".." && !bytes.iter().any(|b| matches!(b, b'/' | 0));
        plain.then_some(Self(name))
    }

    /// The name from its raw bytes.
    pub fn from_bytes(name: &[u8]) -> Option<Self> {
        Self::new(OsString::from_vec(name.to_vec()))
    }

    /// The name as raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The name as a string of the system.
    pub fn as_os_str(&self) -> &OsStr {
        &self.0
    }
}

impl AsRef<Path> for Name {
    fn as_ref(&self) -> &Path {
        Path::new(&self.0)
    }
}

/// What kind of thing a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Link,
    /// A FIFO, socket or device.
    Special,
}

impl Kind {
    /// As a noun for messages.
    pub fn noun(self) -> &'static str {
        match self {
            Self::File => "a file",
            Self::Dir => "a directory",
            Self::Link => "a symbolic link",
            Self::Special => "a FIFO, socket or device",
        }
    }
}

/// A point in time: seconds since 1970, which may be negative, and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time {
    /// Whole seconds since 1970-01-01 UTC.
    pub sec: i64,
    /// Nanoseconds within the second, 0 to 999,999,999.
    pub nsec: u32,
}

impl Time {
    /// The system's clock now.
    pub fn now() -> Self {
        std::time::SystemTime::now().into()
    }

    /// This time so many whole seconds earlier.
    #[must_use]
    pub fn minus_seconds(self, seconds: i64) -> Self {
        Self { sec: self.sec.saturating_sub(seconds), nsec: self.nsec }
    }

    /// Day and time of day in UTC, without the nanoseconds: `2025-04-28`, `14:11:48`.
    pub fn calendar(self) -> (String, String) {
        let (days, second) = (self.sec.div_euclid(86_400), self.sec.rem_euclid(86_400));
        // Years begin in March here, so that the leap day is the last of its year; 719,468 days lie between 0000-03-01 and 1970-01-01.
        let days = days + 719_468;
        let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        let time = format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60);
        (format!("{year:04}-{month:02}-{day:02}"), time)
    }
}

/// All of it, `2025-04-28 14:11:48.000000000 UTC`: whole seconds tell of archives and copies.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (day, time) = self.calendar();
        write!(f, "{day} {time}.{:09} UTC", self.nsec)
    }
}

impl From<std::time::SystemTime> for Time {
    fn from(time: std::time::SystemTime) -> Self {
        match time.duration_since(std::time::UNIX_EPOCH) {
            Ok(since) => Self { sec: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nsec: since.subsec_nanos() },
            Err(before) => Self { sec: -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX) - 1, nsec: 0 },
        }
    }
}

/// What `stat` says, as far as we use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Device of the file system.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, set-id bits included.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// How many names it has; 0 when it was removed while open.
    pub nlink: u64,
    /// Length in bytes.
    pub size: u64,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
}

impl Stat {
    /// A number that equal files have: device and inode.
    pub fn id(&self) -> (u64, u64) {
        (self.dev, self.ino)
    }

    /// Are both the same file?
    pub fn same_file(&self, other: &Self) -> bool {
        self.id() == other.id()
    }

    /// Has nothing that an edit changes changed between the two looks?
    pub fn unchanged(&self, later: &Self) -> bool {
        self.same_file(later) && (self.size, self.mtime, self.ctime) == (later.size, later.mtime, later.ctime)
    }
}

/// The names in a directory.
#[derive(Debug, Default)]
pub struct Listing {
    /// Directories; a link to one is none.
    pub dirs: Vec<Name>,
    /// Everything else: files, links, and what is neither.
    pub others: Vec<Name>,
}

/// A relative path in pieces that are short enough for one call; none begins with a slash.
#[cfg(target_os = "linux")]
pub(super) fn pieces(path: &Path) -> Vec<&Path> {
    const LONGEST: usize = 4000;
    let mut rest = path.as_os_str().as_bytes();
    let mut all = Vec::new();
    while let Some(start) = rest.iter().position(|byte| *byte != b'/') {
        rest = &rest[start..];
        let cut = (rest.len() > LONGEST).then(|| rest[..LONGEST].iter().rposition(|byte| *byte == b'/')).flatten();
        let (piece, others) = rest.split_at(cut.unwrap_or(rest.len()));
        all.push(Path::new(OsStr::from_bytes(piece)));
        rest = others;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_long_path_is_cut_between_names() {
        assert_eq!(pieces(Path::new("a//b/c/")), [Path::new("a//b/c/")]);
        let long = std::iter::repeat_n("d".repeat(200), 100).collect::<Vec<_>>().join("//");
        let all = pieces(Path::new(&long));
        assert!(all.len() > 4 && all.iter().all(|piece| piece.is_relative() && piece.as_os_str().len() <= 4000));
        assert_eq!(all.iter().collect::<std::path::PathBuf>(), Path::new(&long).components().collect::<std::path::PathBuf>());
    }

    #[test]
    fn a_name_is_one_component() {
        for bad in ["", ".", "..", "a/b", "/", "a\0b"] {
            assert_eq!(Name::new(bad), None, "{bad:?}");
        }
        for good in ["a", ".a", "a.b", "-rf", "\n", "..."] {
            assert!(Name::new(good).is_some(), "{good:?}");
        }
    }
}
