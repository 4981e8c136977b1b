//! A source, opened once: the bytes that are hashed are the bytes that are compiled, and size and time come from the same descriptor.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::Error;
use super::digests::Digests;
use super::seal::Digest;
use super::seam;
use super::sys::{self, Dir, Kind, Name, Stat, Time};

/// How often a source that changes while it is read is read again.
const TRIES: u32 = 5;

/// A source's bytes and what its descriptor said of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The whole content.
    pub bytes: Vec<u8>,
    /// `fstat` of the descriptor, the same before and after the read.
    pub stat: Stat,
    /// Digest of the bytes.
    pub digest: Digest,
}

/// Why a source cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// A system call failed.
    #[error(transparent)]
    System(#[from] Error),
    /// It is no regular file.
    #[error("the source `{}` is {}, not a file", path.display(), kind.noun())]
    NotAFile {
        /// Its path.
        path: PathBuf,
        /// What it is.
        kind: Kind,
    },
    /// It is a link that must not be followed: by root only where the link is root's or its target the link owner's.
    #[error("the source `{}` is a link of another user to a file that is not theirs", path.display())]
    ForeignLink {
        /// Its path.
        path: PathBuf,
    },
    /// It is a link to nothing.
    #[error("the source `{}` is a link to something that is not there", path.display())]
    Dangling {
        /// Its path.
        path: PathBuf,
    },
    /// It is larger than the limit.
    #[error("the source `{}` has {size} bytes, more than the limit of {limit}", path.display())]
    TooLarge {
        /// Its path.
        path: PathBuf,
        /// Its size, bytes.
        size: u64,
        /// The limit, bytes.
        limit: u64,
    },
    /// It changed during each of several reads.
    #[error("the source `{}` keeps changing while it is read", path.display())]
    Changing {
        /// Its path.
        path: PathBuf,
    },
}

impl SourceError {
    /// Is it not there, for sure? What only cannot be reached is: its artifact is no orphan.
    pub fn is_absent(&self) -> bool {
        match self {
            Self::System(error) => error.is_absent(),
            Self::Dangling { .. } => true,
            _ => false,
        }
    }
}

/// What a source is, without reading it: links are resolved where that is allowed.
pub fn look(dir: &Dir, name: &Name) -> std::result::Result<Stat, SourceError> {
    let seen = dir.stat_of(name)?;
    match seen.kind {
        Kind::File => Ok(seen),
        Kind::Link => {
            let target = target_of(dir, name)?;
            check_link(dir, name, &seen, &target)?;
            Ok(target)
        }
        kind => Err(SourceError::NotAFile { path: dir.path_of(name), kind }),
    }
}

fn target_of(dir: &Dir, name: &Name) -> std::result::Result<Stat, SourceError> {
    dir.stat_through(name)
        .map_err(|error| if error.is_absent() { SourceError::Dangling { path: dir.path_of(name) } } else { SourceError::System(error) })
}

fn check_link(dir: &Dir, name: &Name, link: &Stat, target: &Stat) -> std::result::Result<(), SourceError> {
    if target.kind != Kind::File {
        return Err(SourceError::NotAFile { path: dir.path_of(name), kind: target.kind });
    }
    // Root reads everything, so it must not be led to a secret by a link that somebody else laid.
    if sys::effective_user() == 0 && link.uid != 0 && link.uid != target.uid && !seam::without("foreign-links") {
        return Err(SourceError::ForeignLink { path: dir.path_of(name) });
    }
    Ok(())
}

fn open(dir: &Dir, name: &Name) -> std::result::Result<(File, Stat), SourceError> {
    let path = dir.path_of(name);
    let link = dir.stat_of(name)?;
    // Asked before the open: opening a device can have effects.
    let kind = link.kind;
    if !matches!(kind, Kind::File | Kind::Link) {
        return Err(SourceError::NotAFile { path, kind });
    }
    if kind == Kind::File {
        let file = dir.open_file(name)?;
        let stat = sys::stat(&file, &path)?;
        if stat.kind != Kind::File {
            return Err(SourceError::NotAFile { path, kind: stat.kind });
        }
        return Ok((file, stat));
    }
    check_link(dir, name, &link, &target_of(dir, name)?)?;
    let file = dir.open_through(name)?;
    let target = sys::stat(&file, &path)?;
    // What was opened is judged once more, and the link must still be the one that was judged.
    check_link(dir, name, &link, &target)?;
    if !dir.stat_of(name)?.same_file(&link) {
        return Err(SourceError::Changing { path });
    }
    Ok((file, target))
}

/// What is known of a source that was opened.
#[derive(Debug)]
pub enum Opened {
    /// All of it.
    Read(Source),
    /// It was read before and has not changed since: its digest is known, and its bytes were not read again.
    Known {
        /// `fstat` of the descriptor.
        stat: Stat,
        /// Digest of the bytes.
        digest: Digest,
    },
}

impl Opened {
    /// `fstat` of the descriptor.
    pub fn stat(&self) -> &Stat {
        match self {
            Self::Read(source) => &source.stat,
            Self::Known { stat, .. } => stat,
        }
    }

    /// Digest of the bytes.
    pub fn digest(&self) -> &Digest {
        match self {
            Self::Read(source) => &source.digest,
            Self::Known { digest, .. } => digest,
        }
    }

    /// The bytes; none where they were not read.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Read(source) => &source.bytes,
            Self::Known { .. } => &[],
        }
    }
}

impl Source {
    /// Opens a source, and reads it where `digests` does not know it; what is read is remembered there.
    pub fn open(dir: &Dir, name: &Name, limit: u64, digests: &Digests) -> std::result::Result<Opened, SourceError> {
        for _ in 0..TRIES {
            let path = dir.path_of(name);
            let now = Time::now();
            let (file, before) = open(dir, name)?;
            if let Some(digest) = digests.of(&file, &before).filter(|_| before.size <= limit) {
                return Ok(Opened::Known { stat: before, digest });
            }
            if let Some(source) = Self::read_open(&file, before, limit, &path)? {
                digests.add(&file, &source.stat, now, source.digest);
                return Ok(Opened::Read(source));
            }
        }
        Err(SourceError::Changing { path: dir.path_of(name) })
    }

    /// Opens and reads a source of at most `limit` bytes. One that changes during the read is read again.
    pub fn read(dir: &Dir, name: &Name, limit: u64) -> std::result::Result<Self, SourceError> {
        for _ in 0..TRIES {
            let path = dir.path_of(name);
            let (file, before) = open(dir, name)?;
            if let Some(source) = Self::read_open(&file, before, limit, &path)? {
                return Ok(source);
            }
        }
        Err(SourceError::Changing { path: dir.path_of(name) })
    }

    fn read_open(file: &File, before: Stat, limit: u64, path: &Path) -> std::result::Result<Option<Self>, SourceError> {
        let too_large = |size| SourceError::TooLarge { path: path.to_path_buf(), size, limit };
        if before.size > limit {
            return Err(too_large(before.size));
        }
        let bytes = sys::read_all(file, before.size, limit, path)?;
        let after = sys::stat(file, path)?;
        let Some(bytes) = bytes else { return Err(too_large(after.size)) };
        if !before.unchanged(&after) || bytes.len() as u64 != after.size {
            return Ok(None);
        }
        let digest = Digest::of(&bytes);
        Ok(Some(Self { bytes, stat: after, digest }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_read_with_its_stat_and_its_limit() {
        let top = tempfile::tempdir().unwrap();
        #[allow(clippy::disallowed_methods, reason = "a test's own file")]
        std::fs::write(top.path().join("a.py"), b"x = 1\n").unwrap();
        std::os::unix::fs::symlink("a.py", top.path().join("l.py")).unwrap();
        std::os::unix::fs::symlink("nowhere", top.path().join("d.py")).unwrap();
        let dir = Dir::open_root(top.path()).unwrap();
        let name = |text: &str| Name::new(text).unwrap();
        let source = Source::read(&dir, &name("a.py"), 6).unwrap();
        assert_eq!(source.bytes, b"x = 1\n");
        assert_eq!(source.stat.size, 6);
        assert_eq!(source.digest, Digest::of(b"x = 1\n"));
        assert_eq!(Source::read(&dir, &name("l.py"), 6).unwrap(), source);
        assert!(matches!(Source::read(&dir, &name("a.py"), 5), Err(SourceError::TooLarge { size: 6, limit: 5, .. })));
        let dangling = Source::read(&dir, &name("d.py"), 6).unwrap_err();
        assert!(dangling.is_absent() && matches!(dangling, SourceError::Dangling { .. }));
        assert!(Source::read(&dir, &name("no.py"), 6).unwrap_err().is_absent());
    }
}
