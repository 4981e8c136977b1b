//! What can go wrong below every format: one type for a failed system call, one for bytes that are not what they should be.

use std::io;
use std::path::PathBuf;

/// A system call that failed: what was tried, on which path, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} `{}`", path.display())]
pub struct Error {
    /// What was tried, as a verb phrase: "open", "rename", "lock".
    pub operation: &'static str,
    /// The path as the caller would write it. Only for people: no call is made with it.
    pub path: PathBuf,
    /// The system's answer.
    #[source]
    pub cause: io::Error,
}

impl Error {
    /// An error of `operation` on `path`.
    pub fn new(operation: &'static str, path: impl Into<PathBuf>, cause: impl Into<io::Error>) -> Self {
        Self { operation, path: path.into(), cause: cause.into() }
    }

    /// The same error once more, for another who waited for the same call.
    #[must_use]
    pub fn again(&self) -> Self {
        let cause = self.cause.raw_os_error().map_or_else(|| self.kind().into(), io::Error::from_raw_os_error);
        Self { operation: self.operation, path: self.path.clone(), cause }
    }

    /// The kind of the system's answer.
    pub fn kind(&self) -> io::ErrorKind {
        self.cause.kind()
    }

    /// Is the thing, or a directory above it, not there (any more)? ESTALE counts: a network file system says so of what was removed.
    pub fn is_gone(&self) -> bool {
        matches!(self.kind(), io::ErrorKind::NotFound | io::ErrorKind::StaleNetworkFileHandle)
    }

    /// Is it not there, for sure? ESTALE does not count: what a network file system lost may be there all the same.
    pub fn is_absent(&self) -> bool {
        self.kind() == io::ErrorKind::NotFound
    }

    /// Are there too few descriptors (EMFILE, ENFILE)? That says nothing of the path.
    pub fn is_out_of_descriptors(&self) -> bool {
        matches!(self.cause.raw_os_error(), Some(23 | 24))
    }

    /// Is there no room for another file (ENOSPC, EDQUOT)?
    pub fn is_out_of_room(&self) -> bool {
        matches!(self.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// Operation and path as a plain sentence together with the system's words.
    pub fn sentence(&self) -> String {
        format!("{self}: {}", self.cause)
    }
}

/// The result of a system call.
pub type Result<T> = std::result::Result<T, Error>;

/// What is wrong with the bytes of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Flaw {
    /// The class of the damage, which decides the verdict.
    pub kind: FlawKind,
    /// A stable word for programs: `cut`, `empty`, `digest`, `label`, `newer-seal`…
    pub code: &'static str,
    /// A sentence fragment for people, lower case, without the path.
    pub text: String,
    /// Where in the file, in bytes from its start, as far as known.
    pub offset: Option<u64>,
}

impl Flaw {
    /// A flaw without a known place.
    pub fn new(kind: FlawKind, code: &'static str, text: impl Into<String>) -> Self {
        Self { kind, code, text: text.into(), offset: None }
    }

    /// The same flaw, with its place in the file.
    #[must_use]
    pub fn at(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }
}

/// The classes of [`Flaw`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlawKind {
    /// The bytes end before they should.
    Truncated,
    /// The bytes are not what was written, or not what they claim to be.
    Corrupt,
    /// The magic number is not the one that belongs to this name.
    BadMagic,
    /// Newer than this program, or of a producer that it does not know: to be left alone.
    Unknown,
}

/// Goes on after an error that is safe to ignore here, and tells it (promise 7): nothing is suppressed in silence.
#[macro_export]
#[doc(hidden)]
macro_rules! ignored {
    ($result:expr, $why:literal) => {
        if let Err(error) = $result
            && !$crate::base::seam::without("told-errors")
        {
            tracing::debug!(cause = %$crate::base::error::chain(&error), "{}", $why);
        }
    };
}

/// An error and its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
