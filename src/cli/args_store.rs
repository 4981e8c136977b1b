//! The options of `store` and of the commands below it.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::args_common::{Common, Compiling, Interpreters, Select, Size, Tree, parse_size};

/// `store`.
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Any of these may run at any time, beside whatever uses the store.

Examples:
  bytekeep store stats                     what is in it, and what it saved
  bytekeep store verify                    prove every value
  bytekeep store prune --max-size 500M     what was not used for longest goes
  bytekeep store add .venv                 take in what pip, uv or Python itself compiled
  bytekeep store clean                     start over"
)]
pub(crate) struct Store {
    #[command(subcommand)]
    pub(crate) command: StoreCommand,
}

/// The commands below `store`.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Shows what is in the store, by interpreter, and what it was good for
    Stats(Place),
    /// Proves every value; tells what is bad, and exits with 1 then
    ///
    /// Nobody ever uses a bad value: whoever comes upon one removes it and compiles.
    Verify(Verify),
    /// Removes what was not used for longest, and what dead processes left
    ///
    /// Runs that put something keep the store below its limit by themselves, each a part of it; this looks at all of it.
    Prune(Prune),
    /// Removes all that is in the store
    Clean(Place),
    /// Prints where the store is
    Dir(Place),
    /// Takes in what stands in trees already; writes nothing there
    ///
    /// Each sound artifact whose code the store does not have is compiled again, and what is equal by value is put. Sealed ones too: a
    /// seal does not say which build of the interpreter made them. Code that is not what its source gives is left, and a problem.
    Add(Box<Add>),
}

impl StoreCommand {
    /// Which store it works on, where that is all there is to say.
    pub(crate) fn place(&self) -> Option<&Place> {
        match self {
            Self::Stats(place) | Self::Clean(place) | Self::Dir(place) => Some(place),
            Self::Verify(args) => Some(&args.place),
            Self::Prune(args) => Some(&args.place),
            Self::Add(_) => None,
        }
    }
}

/// Which store.
#[derive(Debug, Args)]
#[command(after_help = "The store of the user who runs it, unless one is named.")]
pub(crate) struct Place {
    /// The store [default: in the user's cache directory, /var/cache/bytekeep for root]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) store: Option<PathBuf>,
}

/// `store verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bytekeep store verify               is all of it what was put there?
  bytekeep store verify --remove-bad  and what is not goes")]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) place: Place,
    /// Remove what is bad; the exit status is 0 then
    #[arg(long)]
    pub(crate) remove_bad: bool,
}

/// `store prune`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bytekeep store prune --max-size 500M   down to 500 MiB
  bytekeep store prune --older-than 90   what nobody has used for three months")]
pub(crate) struct Prune {
    #[command(flatten)]
    pub(crate) place: Place,
    /// Remove what was not used for longest, so that at most SIZE stays (500M)
    ///
    /// Where it is not given, it is the limit that runs go by: see `bytekeep config`.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) max_size: Option<Size>,
    /// Remove what was not used for so many days; a use is marked once an hour
    #[arg(long, value_name = "DAYS")]
    pub(crate) older_than: Option<u32>,
}

/// `store add`.
#[derive(Debug, Args)]
#[command(after_help = "\
A seal says which magic number an artifact is for, and not which release compiled it; two releases with one magic number may give other code.

Examples:
  bytekeep store add .venv                                              the next environment starts no interpreter
  bytekeep store add --store /usr/lib/bytekeep/store /usr/lib/python3   fill the system's store")]
pub(crate) struct Add {
    #[command(flatten)]
    pub(crate) tree: Tree,
    #[command(flatten)]
    pub(crate) select: Select,
    #[command(flatten)]
    pub(crate) interpreters: Interpreters,
    #[command(flatten)]
    pub(crate) compiling: Compiling,
    #[command(flatten)]
    pub(crate) common: Common,
    /// Tell what would be put into the store, and put nothing; all is compiled and compared
    #[arg(long)]
    pub(crate) dry_run: bool,
}
