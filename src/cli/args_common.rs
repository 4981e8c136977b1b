//! Options that several commands share, and the small values that they take.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum, ValueHint};

use crate::base::write::Durability;
use crate::model::Mode;
use crate::store::LinkMode;

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Tell more: each entry with its cause and warnings; twice, what the library does
    #[arg(long, short, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub(crate) verbose: u8,
    /// Tell nothing but errors
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value = "auto")]
    pub(crate) color: ColorArg,
    /// For whom to write: people (text), or programs (one JSON object a line on stdout; see bytekeep-json(5))
    #[arg(long, global = true, value_name = "FORMAT", value_enum, default_value = "human")]
    pub(crate) format: FormatArg,
    /// Exit with 0 where it would be 1: entries that are wrong are told, and that is all
    #[arg(long, global = true)]
    pub(crate) exit_zero: bool,
    /// Read this configuration instead of the user's own; see bytekeep.toml(5)
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    /// Read no configuration, the system's neither
    #[arg(long, global = true, conflicts_with = "config")]
    pub(crate) no_config: bool,
}

/// Where to work.
#[derive(Debug, Args)]
pub(crate) struct Tree {
    /// Directories (with all below them), sources or artifacts
    #[arg(value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) paths: Vec<PathBuf>,
    /// The artifacts stand in this tree instead of beside their sources, as with `PYTHONPYCACHEPREFIX`
    ///
    /// `PYTHONPYCACHEPREFIX` itself is read where this is not given, but by `clean`, which removes nothing that was not named. Python 3.7 and
    /// earlier know neither: there the option is refused, and the variable ignored.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) pycache_prefix: Option<PathBuf>,
}

/// Which of it.
#[derive(Debug, Args)]
pub(crate) struct Select {
    /// Leave out what matches, a directory with all below it; may be repeated
    ///
    /// The pattern (`*`, `?`, `[abc]`, and `**` for any directories) is matched against the path as it was named, the path relative to
    /// the named directory, and the file name.
    #[arg(long, value_name = "GLOB", value_parser = parse_text)]
    pub(crate) exclude: Vec<String>,
    /// Read more paths from a file, one a line; `-` is standard input. What is neither directory nor source nor artifact is passed over
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) files_from: Option<PathBuf>,
    /// The paths in the list end with a NUL byte instead of a newline
    ///
    /// A list that has its ends in the other way is refused.
    #[arg(long, short = '0', requires = "files_from")]
    pub(crate) null: bool,
    /// The paths in the list are relative to this directory, and no link leads them out of it
    ///
    /// Without it each path in the list is believed as if it stood on the command line, links included; so is one that is absolute or has
    /// `..` in it. Name a directory where the tree is another user's.
    #[arg(long, value_name = "DIR", requires = "files_from", value_hint = ValueHint::DirPath)]
    pub(crate) root: Option<PathBuf>,
}

/// What package managers record.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Records {
    /// Sound artifacts too that a package manager's records list with a size or digest
    ///
    /// Without it they stay as they are, byte for byte: `rpm -V`, `pacman -Qkk`, `dpkg -V`, `apk audit` and `conda doctor` compare them.
    /// The records of a system count for root, those of a distribution (RECORD) with --env. Records that cannot be read count as listing
    /// everything.
    #[arg(long)]
    pub(crate) ignore_records: bool,
}

/// Whose, by what installers have recorded.
#[derive(Debug, Args)]
pub(crate) struct Recorded {
    /// Work on what the distributions in this environment have recorded as theirs, and nothing else; may be repeated
    ///
    /// The environment is a virtual one, or the prefix of an interpreter, and that interpreter is the one that counts where `--python` names
    /// no other. Read are `*.dist-info/RECORD` and older lists; nothing is ever written to them, and neither a record nor a link leads out
    /// of the environment. A record that cannot be read is an entry that failed. Of editable installations it is told where they are.
    ///
    /// `compile` seals sound artifacts that pip, uv or Python itself made, but those whose digest or size is recorded; and it removes what
    /// distributions left that are gone: artifacts without a source, and the directories that held nothing else. It leaves these for a
    /// while where pip seems to be at work.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) env: Vec<PathBuf>,
}

/// By whom, or for whom.
#[derive(Debug, Args)]
pub(crate) struct Interpreters {
    /// An interpreter: a path, a name on PATH, or a version (3.12); may be repeated
    ///
    /// Without it: that of the environment which holds the tree, else `python3`. Where there is none, `compile` and `repair` do what
    /// needs none: artifacts of which only the header is wrong, or of another mode than asked for, get a new header.
    #[arg(long, short, value_name = "PYTHON", value_parser = parse_text)]
    pub(crate) python: Vec<String>,
    /// Optimisation levels, separated by commas
    #[arg(long, short = 'O', value_name = "LEVELS", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(0..=2), default_value = "0")]
    optimize: Vec<u8>,
}

impl Interpreters {
    /// One interpreter, or the default one, at level 0.
    pub(crate) fn one(python: Option<String>) -> Self {
        Self { python: python.into_iter().collect(), optimize: vec![0] }
    }

    /// The levels, ascending, each once.
    pub(crate) fn levels(&self) -> Vec<u8> {
        let mut levels = self.optimize.clone();
        levels.sort_unstable();
        levels.dedup();
        levels
    }
}

/// How commands that compile do it.
#[derive(Debug, Args)]
pub(crate) struct Limits {
    /// How safe from a power cut: not at all (as Python itself), in groups, or each file on its own [default: batch]
    #[arg(long, value_name = "HOW", value_enum)]
    pub(crate) durability: Option<DurabilityArg>,
    /// How artifacts come from the store into the tree: with files of its own, or with what other trees have too [default: copy]
    ///
    /// `copy` is right where you do not count gigabytes: files of their own, whose code says where its source is. `clone` makes many
    /// environments cost the disk of one on btrfs, XFS and the like, and is as safe as `copy`. `hardlink` does the same on any file
    /// system and is the fastest: for environments of one user that are made and thrown away, by tools that replace files and never
    /// write into them (`cp` over one, `rsync --inplace` would change it in all trees; 2.7 is copied for that). With both, trees share an
    /// artifact only where source, mtime and size are the same, as with sources that are hard links, or with `--invalidation-mode
    /// checked-hash` or `unchecked-hash`; and the code names its file `<module.py>`, which importing a module corrects and running a
    /// `.pyc` by its path does not. What cannot be shared is copied: `-v` says why. Needs the store.
    #[arg(long, value_name = "HOW", value_enum)]
    pub(crate) link_mode: Option<LinkModeArg>,
    #[command(flatten)]
    pub(crate) compiling: Compiling,
}

/// How much one source may ask for.
#[derive(Debug, Args)]
pub(crate) struct Compiling {
    /// Seconds that compiling one source may take; 0 is without limit [default: 60]
    ///
    /// `UV_COMPILE_BYTECODE_TIMEOUT` is read where neither this nor `BYTEKEEP_TIMEOUT` is given.
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub(crate) timeout: Option<Seconds>,
    /// The largest source that is compiled (K, M and G are understood)
    #[arg(long, value_name = "SIZE", default_value = "16M", value_parser = parse_size)]
    pub(crate) max_source: Size,
    /// Where compiled code is kept that all trees share [default: the user's cache directory, /var/cache/bytekeep for root]
    ///
    /// A source that any tree has had compiled by the same interpreter is not compiled again.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) store: Option<PathBuf>,
    /// How much the store may hold; what was not used for longest goes (K, M and G are understood) [default: 2G]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) store_max_size: Option<Size>,
    /// The administrator's store, which is asked before it and never written to [default: /usr/lib/bytekeep/store]
    ///
    /// It must belong to root to its last directory, and nobody else may be able to write it; else it is not used, and that is told.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) system_store: Option<PathBuf>,
    /// Take nothing from any store, and put nothing there, whatever names one
    #[arg(long)]
    pub(crate) no_store: bool,
}

/// How commands that walk trees do it.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// How much is done at one time; 0 is as much as there are processor cores [default: 0]
    #[arg(long, short, value_name = "N")]
    pub(crate) jobs: Option<u16>,
    /// Seconds to wait for what another process works on: a folder, or a source that it compiles for the store
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = parse_seconds)]
    pub(crate) lock_timeout: Seconds,
    /// Seconds that the whole run may take; what is left then is left
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub(crate) max_time: Option<Seconds>,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorArg {
    /// On a terminal
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// For whom to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatArg {
    /// Text for people
    Human,
    /// One JSON object a line
    Json,
}

/// [`Mode`] on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeArg {
    /// By the source's time and size
    Timestamp,
    /// By the source's hash, compared at import
    CheckedHash,
    /// By the source's hash, believed at import
    UncheckedHash,
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Timestamp => Self::Timestamp,
            ModeArg::CheckedHash => Self::CheckedHash,
            ModeArg::UncheckedHash => Self::UncheckedHash,
        }
    }
}

/// [`Durability`] on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DurabilityArg {
    /// Nothing is flushed
    None,
    /// Many files are flushed together
    Batch,
    /// Every file is flushed on its own
    Full,
}

impl From<DurabilityArg> for Durability {
    fn from(durability: DurabilityArg) -> Self {
        match durability {
            DurabilityArg::None => Self::None,
            DurabilityArg::Batch => Self::Batch,
            DurabilityArg::Full => Self::Full,
        }
    }
}

/// [`LinkMode`] on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LinkModeArg {
    /// Files of its own
    Copy,
    /// Files of its own that share their blocks with those of other trees (btrfs, XFS)
    Clone,
    /// Names of the same files that other trees have
    Hardlink,
}

impl From<LinkModeArg> for LinkMode {
    fn from(mode: LinkModeArg) -> Self {
        match mode {
            LinkModeArg::Copy => Self::Copy,
            LinkModeArg::Clone => Self::Clone,
            LinkModeArg::Hardlink => Self::Hardlink,
        }
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

/// A length of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seconds(pub(crate) Duration);

/// `16M` and the like.
pub(crate) fn parse_size(text: &str) -> Result<Size, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        unit => return Err(format!("unknown unit `{unit}`; use K, M or G")),
    };
    let number: u64 = digits.parse().map_err(|_| "not a size; write a number, with K, M or G behind it or without".to_owned())?;
    number.checked_mul(1 << shift).map(Size).ok_or_else(|| "too large".to_owned())
}

/// Seconds, with a fraction or without.
pub(crate) fn parse_seconds(text: &str) -> Result<Seconds, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map(Seconds).map_err(|error| error.to_string())
}

/// A text that is not empty: an empty pattern or name would match everything or nothing.
pub(crate) fn parse_text(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("it is empty".to_owned()) } else { Ok(text.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_seconds() {
        for (text, size) in [("0", 0), ("7", 7), ("7B", 7), ("2k", 2048), ("16M", 16 << 20), ("1GiB", 1 << 30)] {
            assert_eq!(parse_size(text), Ok(Size(size)), "{text}");
        }
        for text in ["", "M", "-1", "1.5M", "5X", "99999999999G", "1M2"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert_eq!(parse_seconds("1.5"), Ok(Seconds(Duration::from_millis(1500))));
        for text in ["", "-1", "x", "inf", "nan", "1e300"] {
            assert!(parse_seconds(text).is_err(), "{text}");
        }
    }
}
