//! The options of `hook` and of the commands below it.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum, ValueHint};

use super::args_common::{Common, Interpreters, Limits, ModeArg};

/// `hook`.
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  bytekeep hook install pacman     from now on pacman calls it
  bytekeep hook print dpkg         the file that this would put there
  bytekeep hook status             what is installed, and whether it is current"
)]
pub(crate) struct Hook {
    #[command(subcommand)]
    pub(crate) command: HookCommand,
}

/// The commands below `hook`.
#[derive(Debug, Subcommand)]
pub(crate) enum HookCommand {
    /// Does what a package manager's hook is there for; this is what the manager calls
    Run(Box<Run>),
    #[command(flatten)]
    Files(FilesCommand),
}

/// Those that work on the files by which a manager knows of us.
#[derive(Debug, Subcommand)]
pub(crate) enum FilesCommand {
    /// Prints the file to install, and says where it goes
    Print(Print),
    /// Puts that file in its place
    Install(Place),
    /// Takes away exactly what `install` put there
    Uninstall(Place),
    /// Tells what is installed, and whether it is current
    Status(Status),
}

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Debian, Ubuntu
    Dpkg,
    /// Fedora, openSUSE
    Rpm,
    /// Arch
    Pacman,
    /// Alpine
    Apk,
    /// An environment after pip has worked in it
    Pip,
    /// An environment after uv has worked in it
    Uv,
    /// An environment of conda
    Conda,
    /// A work tree of git
    Git,
}

impl Kind {
    /// Its word on the command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Dpkg => "dpkg",
            Self::Rpm => "rpm",
            Self::Pacman => "pacman",
            Self::Apk => "apk",
            Self::Pip => "pip",
            Self::Uv => "uv",
            Self::Conda => "conda",
            Self::Git => "git",
        }
    }
}

/// `hook run`.
#[derive(Debug, Args)]
#[command(after_help = "\
What each kind reads:
  dpkg    the words that a postinst gets (`triggered \"NAME NAME\"`), and DPKG_ROOT; with --post-invoke dpkg's own lists of files
  rpm     absolute paths on standard input; with --removed those that are about to go
  pacman  paths on standard input, relative to the root
  apk     directories as arguments
  pip uv  environments as arguments, else the active one
  conda   PREFIX; it speaks in PREFIX/.messages.txt
  git     the name of the hook, and what git gave it

That says where to look; what stands there says what to do. Only interpreters that own a path are started: those that Debian supports for
/usr/lib/python3/dist-packages, python3.12 for /usr/lib/python3.12, its own one for a virtual environment. With --python only those of them
that it names. Variables of Python, UV_COMPILE_BYTECODE_TIMEOUT, BYTEKEEP_<OPTION> and the configuration of users do not count here.

Exit status: 0 whatever single files did, unless --strict is given. Without --max-time it ends after ten minutes. With
--post-invoke the next run does what is left then; else `bytekeep compile` does.

Examples:
  bytekeep hook run dpkg -- \"$@\"                    in a postinst
  bytekeep hook run pacman --nice                   in a hook of pacman
  bytekeep hook run git -- post-merge \"$@\"          in .git/hooks/post-merge")]
pub(crate) struct Run {
    /// Who calls
    #[arg(value_name = "KIND", value_enum)]
    pub(crate) kind: Kind,
    /// What it hands over as arguments
    #[arg(value_name = "WORD")]
    pub(crate) words: Vec<OsString>,
    /// rpm, pacman: what is named is gone or about to go
    #[arg(long)]
    pub(crate) removed: bool,
    /// dpkg: called by dpkg itself at the end of its run, and not by a trigger
    #[arg(long)]
    pub(crate) post_invoke: bool,
    /// The manager works on the system below this directory
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) root: Option<PathBuf>,
    /// Exit with 1 where a source cannot be compiled, or anything else is wrong with an entry
    #[arg(long)]
    pub(crate) strict: bool,
    /// Work at low priority
    #[arg(long)]
    pub(crate) nice: bool,
    #[command(flatten)]
    pub(crate) interpreters: Interpreters,
    /// How an artifact says which source it belongs to
    #[arg(long, value_name = "MODE", value_enum)]
    pub(crate) invalidation_mode: Option<ModeArg>,
    #[command(flatten)]
    pub(crate) limits: Limits,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// `hook print`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bytekeep hook print pacman        the hook files of pacman
  bytekeep hook print rpm >> x.spec  file triggers, for the spec of a package")]
pub(crate) struct Print {
    /// Whose
    #[arg(value_name = "KIND", value_enum)]
    pub(crate) kind: Kind,
}

/// `hook install`, `hook uninstall`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bytekeep hook install dpkg               in this system
  bytekeep hook install pacman --root /mnt  in the one below /mnt
  bytekeep hook install git                in the repository here
  bytekeep hook uninstall pacman           both of its files go again")]
pub(crate) struct Place {
    /// Whose
    #[arg(value_name = "KIND", value_enum)]
    pub(crate) kind: Kind,
    /// The system below this directory is meant; of git, the repository there
    ///
    /// The hook then calls `/usr/bin/bytekeep` of that system, and the command that is running where this is not given.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) root: Option<PathBuf>,
    /// Also replace what is somebody else's, and replace or remove what was edited since it was installed
    #[arg(long)]
    pub(crate) force: bool,
}

/// `hook status`.
#[derive(Debug, Args)]
#[command(after_help = "\
  current      bytekeep's, as this version would write it
  outdated     bytekeep's, of another version, or for a command elsewhere: `bytekeep hook install` renews it
  edited       bytekeep's, edited since: left alone unless --force is given
  foreign      not bytekeep's
  disabled     a link to /dev/null, as administrators disable a hook: left alone
  absent       not there
  packaged     a package has it
  unsupported  there is no file to install; `bytekeep hook print` says what to do instead

Exit status: 1 where one is outdated or edited.

Examples:
  bytekeep hook status        all kinds
  bytekeep hook status dpkg   one of them")]
pub(crate) struct Status {
    /// Whose [default: all]
    #[arg(value_name = "KIND", value_enum)]
    pub(crate) kind: Option<Kind>,
    /// The system below this directory is meant; of git, the repository there
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) root: Option<PathBuf>,
}
