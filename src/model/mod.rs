//! The words of this crate as types, and the two traits between the pipeline and a language: [`Format`] (what artifacts look like)
//! and [`Compiler`] (who makes them). No I/O here.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::seal::Digest;
use crate::base::sys::{Name, Stat};
use crate::base::{Error, Flaw, FlawKind};

mod compiler;

pub use compiler::{CompileError, Compiler, Made, Request, SourceFault, Warning};

/// What is found out about one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// Sealed, whole, and it fits its source.
    Ok,
    /// Without a seal, but its structure is sound and it fits its source.
    Unsealed,
    /// Made from other source bytes than the source has now, and the header says so.
    Stale,
    /// Made from the very bytes that the source has now, but the header says otherwise (times were changed, or another mode is wanted).
    Misstamped,
    /// Made from other source bytes, and the header does not show it: it would be used.
    SilentlyStale,
    /// It ends before it should.
    Truncated,
    /// Its bytes are not those that were written, or no artifact at all.
    Corrupt,
    /// Its magic number is not the one of the interpreter that its name says.
    BadMagic,
    /// Of a producer or a format version that we do not know: left alone.
    Unknown,
    /// No source belongs to it, and nobody would import it.
    Orphan,
    /// No source belongs to it, and it would be imported without one.
    Sourceless,
    /// There is a source and no artifact.
    Missing,
    /// The source, the artifact or its directory cannot be read or used by this user.
    Unreadable,
    /// Looking or writing there could lead out of the tree: a link, a FIFO, a device.
    Unsafe,
    /// Left behind by a process that is dead: a temp file, a lock file, a tree moved aside.
    Leftover,
}

impl Verdict {
    /// All of them, in the order in which people read them.
    pub const ALL: [Self; 15] = [
        Self::Ok,
        Self::Unsealed,
        Self::Stale,
        Self::Misstamped,
        Self::SilentlyStale,
        Self::Truncated,
        Self::Corrupt,
        Self::BadMagic,
        Self::Unknown,
        Self::Orphan,
        Self::Sourceless,
        Self::Missing,
        Self::Unreadable,
        Self::Unsafe,
        Self::Leftover,
    ];

    /// The word that people and programs read.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unsealed => "unsealed",
            Self::Stale => "stale",
            Self::Misstamped => "misstamped",
            Self::SilentlyStale => "silently-stale",
            Self::Truncated => "truncated",
            Self::Corrupt => "corrupt",
            Self::BadMagic => "bad-magic",
            Self::Unknown => "unknown",
            Self::Orphan => "orphan",
            Self::Sourceless => "sourceless",
            Self::Missing => "missing",
            Self::Unreadable => "unreadable",
            Self::Unsafe => "unsafe",
            Self::Leftover => "leftover",
        }
    }

    /// Does `verify` call it a problem (exit 1)?
    pub fn is_problem(self) -> bool {
        match self {
            Self::Stale | Self::Misstamped | Self::SilentlyStale | Self::Truncated | Self::Corrupt | Self::BadMagic | Self::Unreadable => {
                true
            }
            Self::Ok | Self::Unsealed | Self::Unknown | Self::Orphan | Self::Sourceless | Self::Missing | Self::Unsafe | Self::Leftover => {
                false
            }
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// Why a verdict or an action is what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// A stable word for programs.
    pub code: &'static str,
    /// For people: a sentence fragment, lower case, without the path of the artifact.
    pub text: String,
    /// Where the cause lies, where that is not the artifact itself: a source, a directory.
    pub path: Option<PathBuf>,
}

impl Cause {
    /// A cause that lies in the artifact itself.
    pub fn new(code: &'static str, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), path: None }
    }

    /// The same cause, with the place where it lies.
    #[must_use]
    pub fn at(mut self, path: impl Into<PathBuf>) -> Self {
        self.path = Some(path.into());
        self
    }
}

impl From<&Flaw> for Cause {
    fn from(flaw: &Flaw) -> Self {
        let place = flaw.offset.map(|offset| format!(" (at byte {offset})")).unwrap_or_default();
        Self::new(flaw.code, format!("{}{place}", flaw.text))
    }
}

impl From<&Error> for Cause {
    fn from(error: &Error) -> Self {
        use std::io::ErrorKind as Kind;
        let number = error.cause.raw_os_error();
        let code = match error.kind() {
            // Without stable kinds: ELOOP (links that lead round, or one where none is followed), and ENFILE and EMFILE.
            _ if matches!(number, Some(40 | 62)) => "link",
            _ if matches!(number, Some(23 | 24)) => "descriptors",
            // Nothing that the system said: what stands in the lock file's place is none.
            Kind::Other if error.operation == "lock" => "lock-file",
            Kind::OutOfMemory => "memory",
            Kind::NotFound => "gone",
            Kind::PermissionDenied => "permission",
            Kind::ReadOnlyFilesystem => "read-only",
            Kind::StorageFull => "disk-full",
            Kind::QuotaExceeded => "quota",
            Kind::FileTooLarge => "file-size-limit",
            Kind::InvalidFilename => "name-too-long",
            Kind::StaleNetworkFileHandle => "stale-handle",
            Kind::NotADirectory => "not-a-directory",
            // A mount point (EBUSY), a lease (EAGAIN), a program that runs (ETXTBSY).
            Kind::ResourceBusy | Kind::WouldBlock | Kind::ExecutableFileBusy => "busy",
            _ => "io",
        };
        Self::new(code, error.sentence()).at(error.path.clone())
    }
}

/// How an artifact says which source it was made from (PEP 552).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// By the source's modification time and size.
    Timestamp,
    /// By a hash of the source, which importing compares.
    CheckedHash,
    /// By a hash of the source, which importing believes.
    UncheckedHash,
}

impl Mode {
    /// The word of the command line and of CPython.
    pub fn word(self) -> &'static str {
        match self {
            Self::Timestamp => "timestamp",
            Self::CheckedHash => "checked-hash",
            Self::UncheckedHash => "unchecked-hash",
        }
    }
}

/// What the artifacts of one interpreter look like, and what it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// The cache tag, `cpython-313`; for interpreters without one (2.7) `cpython-27`.
    pub tag: Arc<str>,
    /// The magic number, all four bytes.
    pub magic: [u8; 4],
    /// The build variant: `t` free-threaded, `d` debug, `td` both, else empty. It is part of the seal's label.
    pub variant: Arc<str>,
}

/// Where artifacts stand relative to their sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// In a directory of their own beside the sources, with the tag in the name (`__pycache__`).
    Cache,
    /// Beside the sources, without a tag (2.7, and `compileall -b`).
    Beside,
    /// In a tree apart that mirrors the sources' absolute paths, with the tag in the name (`PYTHONPYCACHEPREFIX`).
    Prefix,
}

/// What a file name in a directory of artifacts means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recognised {
    /// An artifact.
    Artifact {
        /// The source that it belongs to by its name.
        source: Name,
        /// The tag in the name; `None` in layout [`Layout::Beside`], where only the magic number tells.
        tag: Option<Arc<str>>,
        /// The optimisation level that the name says.
        level: Level,
        /// Do we know this tag? Another one is left alone, whatever it holds.
        known: bool,
    },
    /// A temp file that the interpreter itself left behind (`x.cpython-313.pyc.140213`).
    ForeignTemp {
        /// The source that its artifact would belong to.
        source: Name,
    },
    /// Some other tool's file: none of our business, and never removed.
    Foreign,
}

/// An optimisation level as an artifact's name says it: 0, 1, 2; anything else is kept as text by the name alone and is [`Level::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// 0, 1 or 2.
    Known(u8),
    /// A level that we never make (`opt-3`, `opt-0`), or a name that does not say which (`.pyo` is 1 or 2).
    Other,
}

impl Level {
    /// The number, where it is known.
    pub fn number(self) -> Option<u8> {
        match self {
            Self::Known(number) => Some(number),
            Self::Other => None,
        }
    }
}

/// What the first bytes of an artifact say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The magic number.
    pub magic: [u8; 4],
    /// The tag of the interpreters that write this magic number.
    pub tag: Arc<str>,
    /// Length of the header in bytes; the body follows.
    pub len: usize,
    /// How it names its source.
    pub stamp: Stamp,
}

impl Head {
    /// The invalidation mode.
    pub fn mode(&self) -> Mode {
        match self.stamp {
            Stamp::Time { .. } => Mode::Timestamp,
            Stamp::Hash { checked: true, .. } => Mode::CheckedHash,
            Stamp::Hash { checked: false, .. } => Mode::UncheckedHash,
        }
    }

    /// Whose artifact it is, as far as a header says it: not which build variant.
    pub fn target(&self) -> Target {
        Target { tag: Arc::clone(&self.tag), magic: self.magic, variant: Arc::from("") }
    }
}

/// How a header names its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamp {
    /// By time and size.
    Time {
        /// The source's mtime as the format keeps it, seconds modulo 2^32.
        mtime: u32,
        /// The source's size modulo 2^32; `None` in 2.7, which does not keep it.
        size: Option<u32>,
    },
    /// By hash (PEP 552).
    Hash {
        /// Does importing compare the hash?
        checked: bool,
        /// The hash, as it stands in the file.
        hash: [u8; 8],
    },
}

/// What comparing an artifact's code with newly compiled code gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compared {
    /// It is the same.
    Same,
    /// It is the same but for the name of the source that it carries: this one.
    Renamed(String),
    /// It is another one: a sentence fragment for people that says where it differs.
    Other(String),
}

/// The code of the one flaw that says nothing of the bytes: there was no memory to look through them.
pub const NO_MEMORY: &str = "memory";

/// What becomes of a flaw in a body when its interpreter loads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loading {
    /// The interpreter does not look there, or we cannot tell.
    Unseen,
    /// It is loaded, and something else is run than what was written.
    Silent,
    /// Loading fails.
    Refused,
}

/// What the artifacts of a language look like. One implementation serves all interpreters and needs none of them.
pub trait Format: Send + Sync {
    /// The name of the directory beside the sources that holds artifacts (`__pycache__`).
    fn cache_dir(&self) -> &Name;

    /// Is a file of this name a source?
    fn is_source(&self, name: &Name) -> bool;

    /// The invalidation mode that an artifact of this target has where another is wanted: not every one knows all of them.
    fn kept_mode(&self, target: &Target, wanted: Mode) -> Mode {
        tracing::trace!(tag = &*target.tag, "any mode is known");
        wanted
    }

    /// What a name in a directory of artifacts means. In [`Layout::Beside`] a source or any other file is [`Recognised::Foreign`].
    fn recognise(&self, name: &Name, layout: Layout) -> Recognised;

    /// The layout of an interpreter's artifacts beside their sources: [`Layout::Cache`] or [`Layout::Beside`].
    fn layout(&self, target: &Target) -> Layout;

    /// Do interpreters of this target look for their artifacts in a tree apart ([`Layout::Prefix`]) where they are told to?
    fn knows_prefix(&self, target: &Target) -> bool;

    /// Do tools of this target write into an artifact that is there, instead of replacing the file?
    fn writes_in_place(&self, target: &Target) -> bool {
        tracing::trace!(tag = &*target.tag, "artifacts are replaced");
        false
    }

    /// The name of some source: by its artifacts' names it is seen who would write the same ones.
    fn example(&self) -> &Name;

    /// The name of the artifact of a source. `None`: the name is no source's.
    fn artifact_name(&self, source: &Name, target: &Target, level: u8) -> Option<Name>;

    /// Reads a header. `head` is the beginning of the artifact, at most 16 bytes, fewer only where the file is shorter; `tag` is the
    /// tag that the artifact's name says, where it says one. Flaws: `Truncated` (shorter than its header), `BadMagic` (not the magic of
    /// that tag, or none), `Unknown` (a magic or a flag that a newer producer may write), `Corrupt` (flags that nobody writes). `here` is
    /// an interpreter that is at hand and writes this artifact: its own magic is known, however new it is.
    fn head(&self, head: &[u8], tag: Option<&str>, here: Option<&Target>) -> Result<Head, Flaw>;

    /// Does a time stamp agree with a source's `stat`, by the rule of the interpreter that reads it? Always `false` for hash stamps.
    fn agrees(&self, head: &Head, source: &Stat) -> bool;

    /// Is a time stamp the very one that its interpreter writes for this source, and yet finds no agreement with? So it is with times that
    /// a header cannot keep: such sources are compiled at every import, whatever is cached.
    fn is_in_vain(&self, _head: &Head, _source: &Stat) -> bool {
        false
    }

    /// The hash that a hash stamp of this magic has for these source bytes.
    fn source_hash(&self, magic: [u8; 4], source: &[u8]) -> [u8; 8];

    /// Walks the body, `artifact[head.len..]`, to its last byte without trusting any of it. Linear in its length, no recursion.
    /// Flaws: `Truncated`, `Corrupt`, or `Unknown` where this magic's body is not understood; their offsets count from the start of `artifact`.
    fn body(&self, head: &Head, artifact: &[u8]) -> Result<(), Flaw>;

    /// Like [`Format::body`], and looks into what that only measures, as deep as the format knows it. What it does not know of this
    /// magic it leaves alone: a producer newer than this program is never called damaged.
    fn deep_body(&self, head: &Head, artifact: &[u8]) -> Result<(), Flaw> {
        self.body(head, artifact)
    }

    /// Where in the body a byte of `payload` (an artifact without its seal) lies, in names that a programmer knows: for people. `None`:
    /// nothing is to be said. `source` is the name of the source.
    fn way(&self, _head: &Head, _payload: &[u8], _offset: u64, _source: Option<&Name>) -> Option<String> {
        None
    }

    /// Where in these bytes, but at their start, something begins that looks like an artifact; the first few places.
    fn beginnings(&self, _bytes: &[u8]) -> Vec<usize> {
        Vec::new()
    }

    /// Does [`Format::deep_body`] see more than [`Format::body`] in artifacts of this magic?
    fn knows_deep(&self, _head: &Head) -> bool {
        false
    }

    /// Is the code of an artifact, by value, the one that a compiler has just made? `artifact` is sound, without its seal; `code` is what
    /// [`Compiler::compile`] gave for the same magic. Flaws: one of the two cannot be read.
    fn compare(&self, head: &Head, artifact: &[u8], code: &[u8]) -> Result<Compared, Flaw> {
        let body = artifact.get(head.len..).unwrap_or_default();
        let place = body.iter().zip(code).take_while(|(there, made)| there == made).count();
        let other = |place| Compared::Other(format!("its code differs from byte {place} on"));
        Ok(if body == code { Compared::Same } else { other(place.saturating_add(head.len)) })
    }

    /// What an interpreter does that loads a body with this flaw, one that [`Format::body`] found.
    fn loading(&self, flaw: &Flaw) -> Loading {
        if flaw.kind == FlawKind::Unknown { Loading::Unseen } else { Loading::Refused }
    }

    /// What the seal's label is the digest of: tag, level, build variant.
    fn label(&self, tag: &str, level: u8, variant: &str) -> [u8; 8];

    /// All build variants whose labels may stand in an artifact.
    fn variants(&self) -> &'static [&'static str];

    /// A file name under which the code of a source is compiled for whoever comes, so that [`Format::named`] can give it another one later.
    /// `None`: code of this target carries its name in a way that is not known.
    fn placeholder(&self, target: &Target, source: &Digest) -> Option<Vec<u8>>;

    /// `code`, compiled under [`Format::placeholder`], with the file name `filename` instead: what a compile under that name gives.
    /// `None`: it is no such code.
    fn named(&self, target: &Target, code: &[u8], source: &Digest, filename: &[u8]) -> Option<Vec<u8>>;

    /// Puts the header before compiled code: the payload. `bytes` are the source's, and are not asked for in a header that goes by time.
    fn dress(&self, target: &Target, mode: Mode, source: &Stat, bytes: &[u8], code: &[u8]) -> Vec<u8>;
}

/// One artifact's place: what the entry of (source, interpreter, level) is called on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The source's name in the source directory.
    pub source: Name,
    /// The artifact's name in the directory of artifacts.
    pub artifact: Name,
    /// The tag, where the name says one or a target is wanted.
    pub tag: Option<Arc<str>>,
    /// The optimisation level.
    pub level: Level,
    /// Which of the job's makers fills it, where one does.
    pub maker: Option<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A new verdict does not compile here before it has a place, and so stands in [`Verdict::ALL`], and in every table that is made of it.
    #[test]
    fn all_verdicts_are_listed() {
        use Verdict as V;
        for (at, verdict) in V::ALL.into_iter().enumerate() {
            let place = match verdict {
                V::Ok => 0,
                V::Unsealed => 1,
                V::Stale => 2,
                V::Misstamped => 3,
                V::SilentlyStale => 4,
                V::Truncated => 5,
                V::Corrupt => 6,
                V::BadMagic => 7,
                V::Unknown => 8,
                V::Orphan => 9,
                V::Sourceless => 10,
                V::Missing => 11,
                V::Unreadable => 12,
                V::Unsafe => 13,
                V::Leftover => 14,
            };
            assert_eq!(at, place);
        }
    }
}
