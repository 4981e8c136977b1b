//! The command line: every command with its options, help and completion, once. Help, man pages and completions come from here.
//! Nothing here touches the world; [`setup`](super::setup) turns it into a job.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand};

use super::args_common::{
    Common, Compiling, Global, Interpreters, Limits, ModeArg, Recorded, Records, Select, Size, Tree, parse_size, parse_text,
};
use super::args_hook::{Hook, HookCommand};
use super::args_store::{Store, StoreCommand};
use super::settings::{self, Given};

/// Keeps compiled bytecode caches whole: writes .pyc files atomically, proves them by checksum, finds and rebuilds what is cut or corrupt.
#[derive(Debug, Parser)]
#[command(
    name = "bytekeep",
    version,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Run `bytekeep COMMAND --help` for the options of a command, with examples.",
    after_long_help = AFTER
)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Options of every command.
    #[command(flatten)]
    pub(crate) global: Global,
}

const AFTER: &str = "\
Environment:
  BYTEKEEP_<OPTION>, for each option in capitals with underscores (BYTEKEEP_LOCK_TIMEOUT=5), stands for the option; the command line wins.
  `hook` reads none of them.
  What is set once stands in bytekeep.toml: see bytekeep.toml(5), and `bytekeep config` for what counts and why.
  BYTEKEEP_LOG=debug tells on stderr what the library does, whatever -v says.
  NO_COLOR, FORCE_COLOR, CLICOLOR_FORCE and TERM=dumb are respected.

Exit status:
  0    all is well
  1    something is wrong with an entry: found by verify, or not mended by the others
  2    wrong usage, or nothing could be done at all
  130  interrupted; everything that was written is whole";

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Brings the cache of every source up to date
    Compile(Compile),
    /// Judges every artifact by every byte; writes nothing and needs no interpreter
    Verify(Verify),
    /// Verifies, then rebuilds or removes what is bad
    Repair(Repair),
    /// Removes artifacts and left-overs, and nothing of other tools
    Clean(Clean),
    /// Shows the state of a tree at a glance, by interpreter
    Status(Status),
    /// Says whether an interpreter, run by a certain user, uses the cache, and why not
    Explain(Explain),
    /// Tells everything that an artifact says of itself
    Inspect(Inspect),
    /// Puts a seal behind sound artifacts that have none
    Seal(Seal),
    /// Shows, proves, fills, prunes or empties the store that all trees share
    Store(Store),
    /// Takes the arguments of `python -m compileall` and behaves as it does
    Compileall(Compileall),
    /// Serves package managers: what their hooks call, and the files that make them call it
    Hook(Hook),
    /// Prints the settings that count, and where each comes from
    Config(Config),
    /// Prints the completions for a shell
    Completions(Completions),
}

impl Command {
    /// What its options say of the settings.
    pub(crate) fn given(&self) -> Given {
        let (common, limits, compiling) = match self {
            Self::Compile(args) => (&args.common, Some(&args.limits), Some(&args.limits.compiling)),
            Self::Repair(args) => (&args.common, Some(&args.limits), Some(&args.limits.compiling)),
            Self::Verify(args) => (&args.common, None, Some(&args.compiling)),
            Self::Seal(args) => (&args.common, None, Some(&args.compiling)),
            Self::Clean(args) => (&args.common, None, None),
            Self::Status(args) => (&args.common, None, None),
            Self::Explain(args) => (&args.common, None, None),
            Self::Compileall(args) => return args.given(),
            Self::Store(args) => match &args.command {
                StoreCommand::Add(args) => (&args.common, None, Some(&args.compiling)),
                command => return Given { store_dir: command.place().and_then(|place| place.store.clone()), ..Given::default() },
            },
            Self::Hook(Hook { command: HookCommand::Run(args) }) => (&args.common, Some(&args.limits), Some(&args.limits.compiling)),
            Self::Hook(_) | Self::Inspect(_) | Self::Config(_) | Self::Completions(_) => return Given::default(),
        };
        Given { jobs: common.jobs, ..given(limits, compiling) }
    }
}

fn given(limits: Option<&Limits>, compiling: Option<&Compiling>) -> Given {
    Given {
        jobs: None,
        durability: limits.and_then(|limits| limits.durability),
        store_dir: compiling.and_then(|compiling| compiling.store.clone()),
        // Who names one wants it, whatever a variable or a file says.
        store_enabled: compiling.filter(|compiling| compiling.no_store || compiling.store.is_some()).map(|compiling| !compiling.no_store),
        store_max_size: compiling.and_then(|compiling| compiling.store_max_size).map(|size| size.0),
        store_system_dir: compiling.and_then(|compiling| compiling.system_store.clone()),
        link_mode: limits.and_then(|limits| limits.link_mode),
    }
}

impl Compileall {
    fn given(&self) -> Given {
        given(Some(&self.limits), Some(&self.limits.compiling))
    }
}

/// `compile`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bytekeep compile .venv                                 every source of an environment, by its own interpreter
  bytekeep compile --env .venv                           what its distributions have recorded, and nothing is left of those gone
  bytekeep compile --python 3.12 --python 3.13 src       for two interpreters
  bytekeep compile --invalidation-mode unchecked-hash .  last step of an image build: whatever becomes of the times
  bytekeep compile --strip-dir build --prepend-dir / build  code that names its files as they will be installed
  bytekeep compile --stdlib --pycache-prefix /tmp/cache  Python's own library, without touching the system
  git ls-files -z '*.py' | bytekeep compile --files-from - -0")]
pub(crate) struct Compile {
    #[command(flatten)]
    pub(crate) tree: Tree,
    #[command(flatten)]
    pub(crate) select: Select,
    #[command(flatten)]
    pub(crate) interpreters: Interpreters,
    /// How an artifact says which source it belongs to; one of another mode gets a new header, or is made anew
    ///
    /// Without it artifacts are made with timestamps, or with `checked-hash` where `SOURCE_DATE_EPOCH` is set, and sound artifacts of
    /// any mode count as up to date. `PYC_INVALIDATION_MODE` is read where neither this nor `BYTEKEEP_INVALIDATION_MODE` is given.
    #[arg(long, value_name = "MODE", value_enum)]
    pub(crate) invalidation_mode: Option<ModeArg>,
    /// Make everything anew
    #[arg(long, short)]
    pub(crate) force: bool,
    /// Seal sound artifacts that have no seal, instead of only accepting them
    #[arg(long)]
    pub(crate) adopt: bool,
    #[command(flatten)]
    pub(crate) records: Records,
    /// Compile the interpreter's own library too, without the files that are bad on purpose
    #[arg(long)]
    pub(crate) stdlib: bool,
    #[command(flatten)]
    pub(crate) recorded: Recorded,
    /// Take this directory off the file names that the code carries (`-s` of compileall)
    ///
    /// These names are what tracebacks show where nobody corrects them; importing by a source does. They stand in the code and not in the
    /// header, so an artifact that is up to date keeps the name it has, unless `--force` makes it anew.
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub(crate) strip_dir: Option<PathBuf>,
    /// Put this directory before the file names that the code carries (`-p` of compileall)
    ///
    /// It comes before what `--strip-dir` leaves, or before the path as it was named; an absolute path that nothing is stripped from
    /// stays as it is.
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub(crate) prepend_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) limits: Limits,
    #[command(flatten)]
    pub(crate) common: Common,
    /// Tell what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
An artifact without a seal is looked through in two depths: its structure, to the last byte; and its instructions with the tables of lines
and exceptions, where the opcodes of its magic number are known: CPython 2.7 and 3.6 to 3.15, PyPy 3.9 (magic number 336) and 3.11 (432).
Of CPython 3.0 to 3.5, PyPy 2.7, 3.6 to 3.8, 3.10 and the 3.11 of magic number 416, and of alphas and betas, only the structure is looked
through, and `-v` says so.

Examples:
  bytekeep verify .venv                        every artifact, by every byte
  bytekeep verify --complete --python 3.13 src and each source has one for 3.13
  bytekeep verify --recompile .venv            and its code is what its source compiles to
  bytekeep verify --for-image .                before an image or archive is made of it
  bytekeep verify --format json . | jq -r 'select(.verdict == \"corrupt\").path'")]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) tree: Tree,
    #[command(flatten)]
    pub(crate) select: Select,
    #[command(flatten)]
    pub(crate) recorded: Recorded,
    #[command(flatten)]
    pub(crate) interpreters: Interpreters,
    /// A source without an artifact is a problem
    #[arg(long)]
    pub(crate) complete: bool,
    /// Compile again what is sound, and compare: code that is not what its source gives is a problem
    ///
    /// By value: two compiles of one source need not give the same bytes. Other code can also mean another release of the same Python,
    /// whose compiler was mended since. The file name in the code does not count. Needs the interpreter, found as `compile` finds it; what
    /// it does not make is left out, and told with `-v`. Writes nothing: `seal --recompile` keeps what was found.
    #[arg(long)]
    pub(crate) recompile: bool,
    /// An artifact without a seal is a problem
    #[arg(long)]
    pub(crate) require_seal: bool,
    /// A timestamp in an artifact is a problem: archives and images change times
    ///
    /// `bytekeep compile --invalidation-mode unchecked-hash` gives such artifacts another header, without an interpreter. Interpreters
    /// older than 3.7 know no other: for those the times must be kept.
    #[arg(long)]
    pub(crate) for_image: bool,
    #[command(flatten)]
    pub(crate) compiling: Compiling,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// `repair`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bytekeep repair .venv                      mend what is bad
  bytekeep repair --dry-run .venv            say what would be mended
  bytekeep repair --keep-bad /var/tmp/bad .  and keep the bad ones, to find out who wrote them")]
pub(crate) struct Repair {
    #[command(flatten)]
    pub(crate) tree: Tree,
    #[command(flatten)]
    pub(crate) select: Select,
    #[command(flatten)]
    pub(crate) recorded: Recorded,
    #[command(flatten)]
    pub(crate) interpreters: Interpreters,
    /// Copy what is bad to this directory before it goes, each with a report of what is wrong with it
    ///
    /// Beside each copy stand a report for people (`.txt`) and one for programs (`.json`): the object that `inspect --format json` writes,
    /// without the code, and with `verdict` and `cause`; see bytekeep-json(5).
    #[arg(long, value_name = "DIR")]
    pub(crate) keep_bad: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) limits: Limits,
    #[command(flatten)]
    pub(crate) common: Common,
    /// Tell what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `clean`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bytekeep clean --dry-run .                what would go
  bytekeep clean --keep-tags cpython-313 .  all but those of Python 3.13
  bytekeep clean --orphans --leftovers .    only what no source belongs to, and what dead processes left")]
pub(crate) struct Clean {
    #[command(flatten)]
    pub(crate) tree: Tree,
    #[command(flatten)]
    pub(crate) select: Select,
    /// Only artifacts whose source is gone (this and the next two may be combined)
    #[arg(long)]
    pub(crate) orphans: bool,
    /// Only what dead processes left behind
    #[arg(long)]
    pub(crate) leftovers: bool,
    /// Only modules that exist as bytecode only, which Python would import
    #[arg(long)]
    pub(crate) sourceless: bool,
    /// Only artifacts that carry a seal: what bytekeep wrote
    #[arg(long)]
    pub(crate) sealed: bool,
    /// Only artifacts of this interpreter tag (cpython-313); may be repeated
    #[arg(long, value_name = "TAG", value_delimiter = ',')]
    pub(crate) tag: Vec<String>,
    /// All artifacts but those of this interpreter tag; may be repeated
    #[arg(long, value_name = "TAG", value_delimiter = ',', conflicts_with = "tag")]
    pub(crate) keep_tags: Vec<String>,
    /// Only artifacts that were made so many days ago or earlier
    #[arg(long, value_name = "DAYS")]
    pub(crate) older_than: Option<u32>,
    #[command(flatten)]
    pub(crate) records: Records,
    /// Only the oldest artifacts of a pycache prefix, so that at most SIZE stays (2G)
    #[arg(long, value_name = "SIZE", value_parser = parse_size, requires = "pycache_prefix", conflicts_with = "paths")]
    pub(crate) max_size: Option<Size>,
    #[command(flatten)]
    pub(crate) common: Common,
    /// Tell what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `status`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bytekeep status .venv                what is up to date and what is not, by interpreter
  bytekeep status --format json .venv  the same for programs")]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) tree: Tree,
    #[command(flatten)]
    pub(crate) select: Select,
    #[command(flatten)]
    pub(crate) recorded: Recorded,
    #[command(flatten)]
    pub(crate) interpreters: Interpreters,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// `explain`.
#[derive(Debug, Args)]
#[command(after_help = "\
Judged as importing judges: by the header, by whether the body can be loaded, and by what the user may read and write. Permissions are those
of owner, group and mode; access control lists, capabilities and security modules are not looked at. PYTHONPYCACHEPREFIX,
PYTHONDONTWRITEBYTECODE and PYTHONOPTIMIZE count as this command finds them: set them as the program has them. A script that is run by its
path is never cached. Directories below PATH that are links are not entered: name what they lead to. No source is compiled to see whether
it can be: one with an error in it counts as one that is compiled and cached.

Exit status: 0 where every module comes from the cache and is what its source says, 1 where not, 2 where nothing could be asked.

Examples:
  bytekeep explain /venv --user app                 will user app start fast?
  bytekeep explain --python 3.12 --user 1000:1000 . a user without a name
  bytekeep explain -v .                             each module by itself
  bytekeep explain --format json . | jq -r 'select(.outcome == \"every-start\").source'")]
pub(crate) struct Explain {
    #[command(flatten)]
    pub(crate) tree: Tree,
    #[command(flatten)]
    pub(crate) select: Select,
    /// The interpreter that runs the program: a path, a name on PATH, or a version (3.12)
    ///
    /// Without it: that of the environment which holds the tree, else `python3`.
    #[arg(long, short, value_name = "PYTHON", value_parser = parse_text)]
    pub(crate) python: Option<String>,
    /// The optimisation level that it is started with (1 is `-O`, 2 is `-OO`) [default: what `PYTHONOPTIMIZE` says, else 0]
    #[arg(long, short = 'O', value_name = "LEVEL", value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) optimize: Option<u8>,
    /// The user who runs it: a name, a number, or numbers of user and group (1000:1000) [default: whoever runs this command]
    #[arg(long, value_name = "USER", value_parser = parse_text)]
    pub(crate) user: Option<String>,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// `inspect`.
#[derive(Debug, Args)]
#[command(after_help = "\
An artifact without a seal is looked through in two depths: its structure, to the last byte; and its instructions with the tables of lines
and exceptions, where the opcodes of its magic number are known: CPython 2.7 and 3.6 to 3.15, PyPy 3.9 (magic number 336) and 3.11 (432).
Of CPython 3.0 to 3.5, PyPy 2.7, 3.6 to 3.8, 3.10 and the 3.11 of magic number 416, and of alphas and betas, only the structure is looked
through, and that is said.

Examples:
  bytekeep inspect pkg/__pycache__/mod.cpython-313.pyc
  bytekeep inspect --code mod.pyc                          with all its functions
  bytekeep inspect --format json pkg/__pycache__/*.pyc
  bytekeep inspect --diff a/__pycache__/mod.cpython-313.pyc b/__pycache__/mod.cpython-313.pyc")]
pub(crate) struct Inspect {
    /// Artifacts
    #[arg(value_name = "FILE", required = true, value_hint = clap::ValueHint::FilePath)]
    pub(crate) files: Vec<PathBuf>,
    /// List every code object, with flags and constants, not just the first ones
    #[arg(long)]
    pub(crate) code: bool,
    /// Tell how two artifacts differ: headers, seals, and code by value; exit with 1 where the code is not the same
    ///
    /// Of code it is told which function differs and in which field. Which strings are shared, the order within sets and the file name
    /// that the code carries do not make it other code. Code of two different interpreters is not compared.
    #[arg(long)]
    pub(crate) diff: bool,
    /// The largest artifact or source that is read
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_size)]
    pub(crate) max_size: Size,
}

/// `seal`.
#[derive(Debug, Args)]
#[command(after_help = "\
A seal that is put behind an artifact that somebody else made proves its bytes from now on, not where they came from: it is an *adopted*
one. With --recompile it is as good as that of `compile`.

Examples:
  bytekeep seal .venv              seal what pip, uv or Python itself compiled
  bytekeep seal --recompile .venv  and only what is proved to be the code of its source
  bytekeep seal --dry-run .venv    say what would be sealed")]
pub(crate) struct Seal {
    #[command(flatten)]
    pub(crate) tree: Tree,
    #[command(flatten)]
    pub(crate) select: Select,
    #[command(flatten)]
    pub(crate) interpreters: Interpreters,
    /// Compile each again first, and seal only what is equal by value
    ///
    /// Such a seal is not an *adopted* one; one that was adopted before is renewed where the code is equal. Code that is not what its source
    /// gives is left as it is, and a problem. Needs the interpreter, found as `compile` finds it; what it does not make is left.
    #[arg(long)]
    pub(crate) recompile: bool,
    #[command(flatten)]
    pub(crate) records: Records,
    #[command(flatten)]
    pub(crate) compiling: Compiling,
    #[command(flatten)]
    pub(crate) common: Common,
    /// Tell what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `compileall`.
#[derive(Debug, Args)]
#[command(
    override_usage = "bytekeep compileall [--python <PYTHON>] [OPTIONS] [ARGUMENTS OF compileall]...",
    after_help = "\
Options of bytekeep stand in front; from the first argument on that is none of them, all is read as the chosen Python's compileall reads it.
Of the options of every command -v, --color, --config and --no-config count; what is told and how it ends is compileall's.
The arguments, and those of older versions:
  -h                       the interpreter's own help for compileall (--help in front is this one)
  -l, -r N                 no directory below, or so many levels of them (10 in 3.6 to 3.8)
  -f                       compile all anew
  -q, -qq                  tell errors only, or nothing
  -b                       put a.pyc beside a.py
  -d DIR                   the code names its files as if they were in DIR
  -s DIR, -p DIR           take DIR off the names in the code, put DIR before them (3.9 and later)
  -x REGEXP                leave out paths in which it is found; a regular expression of that Python
  -i FILE                  compile what stands in FILE too, a path a line; `-` is standard input
  -j N, --workers N        so many at one time; 0 is as much as there are processor cores; what is told keeps its order
  --invalidation-mode M    timestamp, checked-hash or unchecked-hash (3.7 and later)
  -o LEVEL                 optimisation level, may be repeated (3.9 and later)
  -e DIR                   leave out links that lead out of DIR (3.9 and later)
  --hardlink-dupes         one file for levels whose code is the same (3.9 and later)
  FILE|DIR                 what to compile; without it all that `sys.path` names, without directories below

SOURCE_DATE_EPOCH, PYTHONPYCACHEPREFIX and PYTHONOPTIMIZE count as for that Python; PYTHONWARNINGS and other variables of Python do not.
What is told on standard output, and the exit status (0, 1, and 2 for wrong usage), are those of compileall, with these differences:
  a cut or damaged artifact with a good header  compileall keeps it without -f; here it is made anew
  a source changed within the same second       compileall keeps the old artifact; here it is seen
  a write that stops short (full disk)          compileall may keep half a file and exit 0; here the old one stays, and it exits 1
  a directory of sys.path that fails            compileall stops there; here the others are done too
  a source over --max-source                    compileall compiles it; here it is an error of that file
  a compiler that dies or hangs                 compileall dies or hangs with it; here it is an error of that file
  PYTHONOPTIMIZE above 2                        compileall makes artifacts that nobody reads; here it is refused with 2
  lines with -j N                               compileall tells as its workers end; here they come as with -j 1
  a file whose whole name is .py                compileall makes of it what belongs to py.py; here it is an error of that file
  a list (-i) with names that are no UTF-8      compileall ends with a traceback; here they are names like any other
  the name of a temporary file in an error      compileall shows a number behind the artifact's name; here it is the artifact's
  bytes of artifacts                            a seal stands behind the code, but in what --hardlink-dupes links; see bytekeep-seal(5)

Examples:
  bytekeep compileall -q /usr/lib/python3/dist-packages      as python3 -m compileall
  bytekeep compileall --python 3.12 -q -j 0 -o 0 -o 1 build  for another Python, at two levels
  BYTEKEEP_PYTHON=3.12 bytekeep compileall -s build -p / build"
)]
pub(crate) struct Compileall {
    /// The interpreter: a path, a name on PATH, or a version (3.12) [default: `python3`]
    #[arg(long, value_name = "PYTHON", value_parser = parse_text)]
    pub(crate) python: Option<String>,
    #[command(flatten)]
    pub(crate) limits: Limits,
    /// Seconds to wait for what another process works on: a folder, or a source that it compiles for the store
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = super::args_common::parse_seconds)]
    pub(crate) lock_timeout: super::args_common::Seconds,
    /// Arguments of `python -m compileall`
    #[arg(value_name = "ARGUMENTS", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) arguments: Vec<OsString>,
}

/// `config`.
#[derive(Debug, Args)]
#[command(after_help = "\
Options of the other commands win over all of it. bytekeep.toml(5) lists what can be set, and where the files stand.

Examples:
  bytekeep config                       what counts here, for this user
  bytekeep config --no-config           and without the files
  bytekeep config --config ci.toml      is this file in order?
  bytekeep config --format json | jq -r 'select(.key == \"jobs\").value'")]
pub(crate) struct Config {}

/// `completions`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bytekeep completions bash > ~/.local/share/bash-completion/completions/bytekeep
  bytekeep completions fish > ~/.config/fish/completions/bytekeep.fish")]
pub(crate) struct Completions {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

/// The definition that is parsed, documented and completed: the derived one, with `BYTEKEEP_<OPTION>` for every option by one rule.
pub(crate) fn definition() -> clap::Command {
    throughout(Cli::command(), with_environment)
}

/// Splits the arguments of the process where those of `python -m compileall` begin: behind the command's name, and those of our own options
/// that stand right behind it.
pub(crate) fn split_compileall(arguments: &[OsString]) -> (&[OsString], &[OsString]) {
    let whole = (arguments, &[][..]);
    let Some(at) = arguments.iter().position(|word| word == "compileall") else { return whole };
    let before = arguments.get(..=at).unwrap_or(arguments);
    let matches = definition_here(before).try_get_matches_from(before);
    if !matches.is_ok_and(|matches| matches.subcommand_name() == Some("compileall")) {
        // A value or a path of that name, or something else is wrong.
        return whole;
    }
    let definition = definition();
    let Some(own) = definition.find_subcommand("compileall") else { return whole };
    let mut end = at + 1;
    while let Some(word) = arguments.get(end).and_then(|word| word.to_str()).and_then(|word| word.strip_prefix("--")) {
        let (name, glued) = word.split_once('=').map_or((word, false), |(name, _)| (name, true));
        if word == "help" {
            end += 1;
            break;
        }
        let Some(option) = own.get_arguments().find(|option| option.get_long() == Some(name)) else { break };
        let takes_next = option.get_action().takes_values() && !glued;
        end += 1 + usize::from(takes_next);
    }
    // The value of the last option may be missing: that is told by whoever reads it.
    arguments.split_at_checked(end.min(arguments.len())).unwrap_or(whole)
}

/// A command with every option changed, its own and those of the commands below it.
fn throughout(command: clap::Command, change: fn(clap::Arg) -> clap::Arg) -> clap::Command {
    command.mut_args(change).mut_subcommands(move |below| throughout(below, change))
}

fn with_environment(arg: clap::Arg) -> clap::Arg {
    let Some(long) = arg.get_long() else { return arg };
    let name = format!("BYTEKEEP_{}", long.to_uppercase().replace('-', "_"));
    // What the settings read themselves is read once: they know files too, and say where a value comes from.
    if settings::reads(&name) {
        return arg;
    }
    // Help names the rule once instead of the variable under each option, and never shows values: pages are the same on every host.
    let arg = if arg.get_env().is_none() { arg.env(name) } else { arg };
    let arg = arg.hide_env(true);
    if matches!(arg.get_action(), ArgAction::SetTrue) { arg.value_parser(FalseyValueParser::new()) } else { arg }
}

/// The definition for these arguments: without the variables that are empty, which count as not set; for `hook` without any.
pub(crate) fn definition_here(arguments: &[OsString]) -> clap::Command {
    // A hook runs for somebody else, often as root, with variables of whoever started the package manager. Those of the global options
    // are read above the commands, so which command it is must be known first.
    if arguments.iter().any(|word| word == "hook") {
        let bare = throughout(definition(), |arg| arg.env(None));
        let matches = bare.clone().ignore_errors(true).try_get_matches_from(arguments);
        if matches.is_ok_and(|matches| matches.subcommand_name() == Some("hook")) {
            return bare;
        }
    }
    throughout(definition(), |arg| {
        let is_empty = arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
        if is_empty { arg.env(None) } else { arg }
    })
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        let matches = definition().try_get_matches_from(line.split(' '))?;
        Cli::from_arg_matches(&matches)
    }

    #[test]
    fn the_definition_is_sound() {
        definition().debug_assert();
    }

    #[test]
    fn every_option_has_a_variable_and_a_help() {
        let definition = definition();
        let commands = definition.get_subcommands().flat_map(|command| std::iter::once(command).chain(command.get_subcommands()));
        for command in commands {
            assert!(command.get_about().is_some() && command.get_after_help().is_some(), "{}", command.get_name());
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{} {}", command.get_name(), arg.get_id());
                let variable = arg.get_long().map(|long| format!("BYTEKEEP_{}", long.to_uppercase().replace('-', "_")));
                let here = variable.filter(|name| !settings::reads(name));
                assert_eq!(arg.get_env().and_then(|name| name.to_str()), here.as_deref(), "{} {}", command.get_name(), arg.get_id());
            }
        }
    }

    #[test]
    fn rows_of_good_lines() {
        for line in [
            "bytekeep compile a b --python 3.12 --python /usr/bin/python3 --optimize 0,1 --optimize 2 -j0 -v -v",
            "bytekeep compile --files-from - -0 --root /r --durability full --timeout 0 --max-time 1.5 --lock-timeout 0 --max-source 1G",
            "bytekeep compile --stdlib --pycache-prefix p -q --color never --exit-zero",
            "bytekeep compile --env e --adopt --ignore-records --force --dry-run --invalidation-mode unchecked-hash",
            "bytekeep compile build --strip-dir build --prepend-dir /usr/lib",
            "bytekeep verify a --complete --require-seal --for-image --format json --exclude *.bak",
            "bytekeep repair a --keep-bad d --dry-run --python 3.13",
            "bytekeep clean a --orphans --leftovers --sourceless --sealed --tag cpython-313,cpython-312",
            "bytekeep clean --pycache-prefix p --keep-tags cpython-313",
            "bytekeep -v status a",
            "bytekeep explain a b --python 3.12 -O2 --user app --pycache-prefix p --format json",
            "bytekeep inspect a.pyc --code --format json",
            "bytekeep inspect --diff a.pyc b.pyc",
            "bytekeep verify a --recompile --python 3.13 --timeout 5 --max-source 1M",
            "bytekeep seal a",
            "bytekeep seal a --recompile --python 3.13",
            "bytekeep store stats --format json",
            "bytekeep store prune --store s --max-size 1G --older-than 30",
            "bytekeep store verify --remove-bad -q",
            "bytekeep store add a b --python 3.13 --store s --timeout 5",
            "bytekeep compile a --store-max-size 1G --system-store /s",
            "bytekeep hook run dpkg -- triggered /usr/lib/python3/dist-packages",
            "bytekeep hook run dpkg --post-invoke --nice --max-time 60",
            "bytekeep hook run rpm --removed --strict",
            "bytekeep hook run git post-checkout 1 2 1 --python 3.13",
            "bytekeep hook print pacman",
            "bytekeep hook install apk --root r",
            "bytekeep hook uninstall apk --root r",
            "bytekeep hook status",
            "bytekeep hook status conda --root r",
            "bytekeep config",
            "bytekeep config --no-config --format json",
            "bytekeep compile a --config f.toml",
            "bytekeep completions zsh",
            "bytekeep compileall --python 3.12 --durability none",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
        }
    }

    #[test]
    fn rows_of_bad_lines() {
        for line in [
            "bytekeep",
            "bytekeep frobnicate",
            "bytekeep compile a --optimize 3",
            "bytekeep compile a --timeout -1",
            "bytekeep compile a --max-source 5X",
            "bytekeep compile a -0",
            "bytekeep compile a --root r",
            "bytekeep compile a -q -v",
            "bytekeep clean a --tag x --keep-tags y",
            "bytekeep explain a --python 3.12 --python 3.13",
            "bytekeep explain a --optimize 0,1",
            "bytekeep inspect",
            "bytekeep store",
            "bytekeep store prune a",
            "bytekeep store prune --max-size x",
            "bytekeep hook",
            "bytekeep hook run",
            "bytekeep hook run portage",
            "bytekeep hook print",
            "bytekeep config a",
            "bytekeep config --config f.toml --no-config",
            "bytekeep completions tcsh",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn arguments_of_compileall_are_split_off() {
        for (line, own) in [
            ("bytekeep compileall -q t", 2),
            ("bytekeep compileall --python 3.12 --store=s --lock-timeout 5 --workers 3 --python x", 7),
            ("bytekeep -v compileall --no-store --help", 5),
            ("bytekeep compileall --help", 3),
            ("bytekeep compileall -h", 2),
            ("bytekeep compileall", 2),
            ("bytekeep compileall compileall", 2),
            ("bytekeep compile compileall -q", 4),
            ("compileall -q", 2),
            ("bytekeep compileall --python", 3),
        ] {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert_eq!(split_compileall(&words).0.len(), own, "{line}");
        }
    }

    #[test]
    fn an_option_counts_once_however_it_is_given() {
        let Command::Compile(compile) = parse("bytekeep compile a --optimize 2,0 --optimize 2").unwrap().command else { unreachable!() };
        assert_eq!(compile.interpreters.levels(), [0, 2]);
        assert_eq!(compile.limits.compiling.max_source.0, 16 << 20);
        assert_eq!(compile.common.lock_timeout.0, std::time::Duration::from_secs(60));
    }
}
