//! What a run is asked to do: plain data, made by the command line or by a program.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::base::memo::Memo;
use crate::base::sys::{Name, Time};
use crate::base::user::User;
use crate::base::write::Durability;
use crate::model::{Compiler, Format, Mode};
use crate::store::{LinkMode, Store};

use super::examine::Bad;

/// What is done with verdicts: a column of the table in [`policy`](super::policy).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    /// Judge everything by every byte; write nothing.
    Verify,
    /// Judge quickly; write nothing.
    Status,
    /// Bring every entry up to date.
    Compile,
    /// Judge by every byte, then rebuild or remove what is bad.
    Repair,
    /// Remove artifacts of our kind.
    Clean,
    /// Put seals behind sound artifacts where they stand.
    Seal,
    /// Put the code of sound artifacts into the store, each proved to be that of its source; write nothing else.
    Add,
    /// Say of every source whether an import by the first maker, run by a certain user, would use an artifact; write nothing.
    Explain,
}

/// A part of the file system to work on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The directory. It may be named through links; below it no link is followed.
    pub dir: PathBuf,
    /// A directory with which the path of `dir` begins, where it was that one alone that a person named and the rest comes from data, as a
    /// list or a record: `dir` is reached from there, and a link on the way is refused.
    pub within: Option<PathBuf>,
    /// What in it.
    pub what: What,
}

/// What of a directory is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Everything below it.
    Tree,
    /// These sources, and their artifacts, directly in it.
    Sources(Vec<Name>),
    /// These artifacts, directly in the directory of artifacts of it (or beside the sources, whichever the names stand in).
    Artifacts {
        /// Their names.
        names: Vec<Name>,
        /// Do they stand beside the sources?
        beside: bool,
    },
    /// The whole directory of artifacts of it, and no source beyond those that belong there.
    CacheDir,
    /// Everything below it is artifacts: it is a pycache prefix, and the sources' paths follow from the artifacts'.
    Prefix,
}

/// An interpreter with the levels to make by it.
#[derive(Clone)]
pub struct Maker<'a> {
    /// Who compiles.
    pub compiler: &'a dyn Compiler,
    /// The levels that `compile` makes of every source, ascending, each once.
    pub levels: Vec<u8>,
}

/// Is a path (as the user would write it) left out of the run?
pub type Exclude<'a> = dyn Fn(&Path) -> bool + Sync + 'a;

/// Who keeps a record of an artifact's bytes (or why that cannot be told), by its absolute path: package managers compare what they brought.
/// Asked only before something sound would be rewritten or removed, or something damaged is. Called from several threads.
pub type Listed<'a> = dyn Fn(&Path) -> Option<String> + Sync + 'a;

/// Tells of a bad artifact in a form of its own. Called from several threads.
pub type Describe<'a> = dyn Fn(&Bad<'_>) -> Vec<u8> + Sync + 'a;

/// What a run is asked to do.
#[derive(Clone)]
pub struct Job<'a> {
    /// The column of the table.
    pub command: Command,
    /// Where. Roots that lie in one another or are named twice are worked on once; one that is left out in another stands by itself. One
    /// that is there and cannot be opened is told like any directory.
    pub roots: Vec<Root>,
    /// What artifacts look like.
    pub format: &'a dyn Format,
    /// Who makes them. Empty for commands that compile nothing.
    pub makers: Vec<Maker<'a>>,
    /// How.
    pub options: Options<'a>,
    /// Set it to end the run: it stops between entries, keeps what is written whole, and leaves nothing behind.
    pub stop: &'a AtomicBool,
}

/// The knobs of a run. [`Options::default`] is what the command does without any.
#[derive(Clone)]
pub struct Options<'a> {
    /// The invalidation mode of what is made. `None`: timestamps, and sound artifacts of any mode count as up to date.
    pub mode: Option<Mode>,
    /// `compile`: make everything anew.
    pub force: bool,
    /// `compile`: seal sound unsealed artifacts.
    pub adopt: bool,
    /// `verify`: an entry without an artifact is a problem.
    pub complete: bool,
    /// `verify`: an artifact without a seal is a problem.
    pub require_seal: bool,
    /// `verify`: a timestamp in an artifact is a problem, since archives and images change times.
    pub for_image: bool,
    /// `verify`, `seal`: compile again what is sound, where a maker is there for it, and compare the code by value. `verify` calls other
    /// code a problem; `seal` refuses it, and what is equal gets a seal that is not *adopted*, also where one was.
    pub recompile: bool,
    /// Tell what would be done and do nothing.
    pub dry_run: bool,
    /// `repair`: copy what is bad to this directory before it goes.
    pub keep_bad: Option<PathBuf>,
    /// What is written beside such a copy for programs (`.json`), besides the report for people. Not of what is too large to be looked
    /// through.
    pub describe_bad: Option<&'a Describe<'a>>,
    /// `clean`: which artifacts.
    pub clean: Clean,
    /// `explain`: for whom.
    pub explain: Explain,
    /// Artifacts stand in this tree instead of beside their sources.
    pub prefix: Option<PathBuf>,
    /// Paths to leave out, directories with all that is in them.
    pub exclude: Option<&'a Exclude<'a>>,
    /// Artifacts that stay as they are, byte for byte, while they are sound; `clean` leaves them in any case.
    pub listed: Option<&'a Listed<'a>>,
    /// What was found sound before.
    pub memo: Option<&'a Memo>,
    /// Compiled code that other trees share.
    pub store: Option<&'a Store>,
    /// How artifacts come from the store into a tree.
    pub link_mode: LinkMode,
    /// The file names that compiled code carries.
    pub code_names: CodeNames,
    /// How safe from a power cut.
    pub durability: Durability,
    /// Threads that judge; compiling has its own width.
    pub jobs: usize,
    /// How long to wait for locked folders.
    pub lock_timeout: Duration,
    /// How long the whole run may take.
    pub max_time: Option<Duration>,
    /// The largest source, bytes.
    pub max_source: u64,
}

/// Which artifacts `clean` removes. `orphans`, `leftovers` and `sourceless` name kinds, and may be combined; where none is named, the
/// artifacts that have a source and left-overs go. The others are conditions, all of which must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Clean {
    /// Those without a source, where nobody would import them.
    pub orphans: bool,
    /// Left-overs of dead processes.
    pub leftovers: bool,
    /// Those beside the sources that have no source, which Python would import.
    pub sourceless: bool,
    /// Only those that carry a seal of ours.
    pub sealed: bool,
    /// Only these tags.
    pub tags: Option<Vec<String>>,
    /// All tags but these.
    pub keep_tags: Option<Vec<String>>,
    /// Only those whose own modification time, when they were made, is before this.
    pub made_before: Option<Time>,
    /// In a pycache prefix: the oldest, so that at most so many bytes stay.
    pub keep_bytes: Option<u64>,
}

/// Which file name compiled code carries, where that is not its source's absolute path: `-s` and `-p` of `compileall`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CodeNames {
    /// Taken off, where the source lies below it. Absolute, and without `..`, as the sources' own paths are.
    pub strip: Option<PathBuf>,
    /// Put before what is left, or before the path as it was named where nothing is stripped; an absolute one of these stays as it is.
    pub prepend: Option<PathBuf>,
    /// Names that somebody has decided on already, by the sources' paths as they were named; they win over the other two.
    pub given: Arc<HashMap<PathBuf, PathBuf>>,
}

impl CodeNames {
    /// The name for a source: `written` is its path as it was named. `Err`: the same without stripping, since it does not lie there.
    ///
    /// # Errors
    /// No failure: what would be stripped is not there, which is worth a word.
    pub fn of(&self, written: &Path, absolute: &Path) -> Result<PathBuf, PathBuf> {
        if let Some(name) = self.given.get(written) {
            return Ok(name.clone());
        }
        let stripped = self.strip.as_ref().map(|strip| absolute.strip_prefix(strip));
        let rest = stripped.as_ref().and_then(|stripped| stripped.as_ref().ok()).copied();
        let name = match (&self.prepend, rest) {
            (Some(prepend), rest) => prepend.join(rest.unwrap_or(written)),
            (None, Some(rest)) => rest.to_path_buf(),
            (None, None) => absolute.to_path_buf(),
        };
        if stripped.is_some_and(|stripped| stripped.is_err()) { Err(name) } else { Ok(name) }
    }
}

/// For whom `explain` answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Explain {
    /// Who runs the interpreter. `None`: whoever runs this process.
    pub user: Option<User>,
    /// Is the interpreter told to write no artifacts?
    pub dont_write: bool,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            mode: None,
            force: false,
            adopt: false,
            complete: false,
            require_seal: false,
            for_image: false,
            recompile: false,
            dry_run: false,
            keep_bad: None,
            describe_bad: None,
            clean: Clean::default(),
            explain: Explain::default(),
            prefix: None,
            exclude: None,
            listed: None,
            memo: None,
            store: None,
            link_mode: LinkMode::Copy,
            code_names: CodeNames::default(),
            durability: Durability::Batch,
            jobs: std::thread::available_parallelism().map_or(1, usize::from),
            lock_timeout: Duration::from_secs(60),
            max_time: None,
            max_source: 16 << 20,
        }
    }
}

/// Why nothing could be done at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// A path that was named cannot be used.
    #[error(transparent)]
    Root(#[from] crate::base::Error),
    /// A path that was named is neither a directory, nor a source, nor an artifact.
    #[error("`{}` is {what}, neither a directory nor a source nor an artifact", path.display())]
    NotUsable {
        /// The path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The compiler cannot be used.
    #[error("{0}")]
    Compiler(String),
    /// No thread can be had.
    #[error("no thread can be started")]
    Threads(#[source] std::io::Error),
    /// Two makers would write the same artifact.
    #[error("{0}")]
    Conflict(String),
}
