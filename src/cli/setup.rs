//! From arguments to a job: roots, interpreters, options. Only this file of the command, and `differ`, know which language it serves.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::args::{Command as Chosen, Compile};
use super::args_common::{Common, Interpreters, ModeArg, Tree};
use super::args_store::{self, StoreCommand};
use super::env::{Owners, Remains};
use super::exclude::Excludes;
use super::explain::Asked;
use super::failure::Failure;
use super::placed::{Placed, Recorded};
use super::settings::Settings;
use super::until::Until;
use super::{store, text, whom};
use crate::base::memo::Memo;
use crate::base::sys::Time;
use crate::flow::{Clean, CodeNames, Command, Job, Maker, Options, Root, What};
use crate::model::{Cause, Compiler, Format, Layout, Mode, Recognised};
use crate::packages::Listed;
use crate::python::Pyc;
use crate::python::interpreter::{Interpreter, InterpreterError};
use crate::python::memo::Probes;
use crate::python::pool::{Limits, WorkerPool};
use crate::python::variables;
use crate::store::Store;

/// How long compiling one source may take where nobody says otherwise.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How the names of artifacts end in the records of package managers.
pub(crate) const ARTIFACT_ENDS: [&str; 2] = [".pyc", ".pyo"];

/// What artifacts look like.
pub(crate) fn format() -> &'static dyn Format {
    &Pyc
}

/// A run that is ready to start: it owns what its [`Job`] borrows.
pub(crate) struct Plan {
    /// Which column of the table.
    pub(crate) command: Command,
    /// Where.
    pub(crate) roots: Vec<Root>,
    /// Paths that cannot be used: entries that failed before the start.
    pub(crate) unusable: Vec<(PathBuf, Cause)>,
    /// What people are told before it starts.
    pub(crate) notes: Vec<String>,
    /// Why nothing can be compiled, where that is so and there may be something else to do.
    pub(crate) lacking: Option<InterpreterError>,
    /// What `explain` answers, and about whom.
    pub(crate) asked: Option<Asked>,
    pools: Vec<WorkerPool>,
    levels: Vec<u8>,
    excludes: Excludes,
    /// What distributions left that are gone: it goes in a run of its own.
    pub(crate) remains: Remains,
    /// The distribution of each source, where records said it.
    pub(crate) owners: Owners,
    proved: BTreeSet<PathBuf>,
    memo: Option<Memo>,
    /// `None`: what package managers list is not asked.
    listed: Option<Listed>,
    store: Option<Store>,
    options: Options<'static>,
}

/// What the environment says, apart from `BYTEKEEP_<OPTION>`. Empty variables count as not set.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    pub(crate) pycache_prefix: Option<PathBuf>,
    pub(crate) invalidation_mode: Option<String>,
    pub(crate) source_date_epoch: bool,
    pub(crate) timeout: Option<String>,
    /// `PYTHONDONTWRITEBYTECODE` and `PYTHONOPTIMIZE`: what they say depends on who reads them.
    dont_write: Option<String>,
    optimize: Option<String>,
    /// The environment that is active: where to work when no path is named.
    pub(crate) active: Option<PathBuf>,
}

impl Environment {
    /// That of this process.
    pub(crate) fn of_process() -> Self {
        let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let text = |name: &str| var(name).map(|value| value.to_string_lossy().into_owned());
        Self {
            pycache_prefix: var("PYTHONPYCACHEPREFIX").map(PathBuf::from),
            invalidation_mode: text("PYC_INVALIDATION_MODE"),
            source_date_epoch: var("SOURCE_DATE_EPOCH").is_some(),
            dont_write: text("PYTHONDONTWRITEBYTECODE"),
            optimize: text("PYTHONOPTIMIZE"),
            timeout: text("UV_COMPILE_BYTECODE_TIMEOUT"),
            active: var("VIRTUAL_ENV").or_else(|| var("CONDA_PREFIX")).map(PathBuf::from),
        }
    }
}

impl Plan {
    /// Of a command that works on trees; `None` for the others. An error where `stop` is set on the way means no more than that.
    pub(crate) fn new(
        chosen: &Chosen,
        settings: &Settings,
        environment: &Environment,
        stop: &Arc<AtomicBool>,
    ) -> Result<Option<Self>, Failure> {
        let (durability, link_mode) = (settings.durability.value.into(), settings.link_mode.value.into());
        let mut options = Options { jobs: settings.width(), durability, link_mode, ..Options::default() };
        let mut compiling = None;
        let one = if let Chosen::Explain(args) = chosen { Some(Interpreters::one(args.python.clone())) } else { None };
        let (command, tree, select, interpreters, common) = match chosen {
            Chosen::Compile(args) => {
                options.mode = mode(args.invalidation_mode, environment)?;
                (options.force, options.adopt, options.dry_run) = (args.force, args.adopt, args.dry_run);
                options.code_names = code_names(args)?;
                compiling = Some(&args.limits.compiling);
                (Command::Compile, &args.tree, &args.select, Some(&args.interpreters), &args.common)
            }
            Chosen::Verify(args) => {
                (options.complete, options.require_seal, options.for_image) = (args.complete, args.require_seal, args.for_image);
                options.recompile = args.recompile;
                compiling = Some(&args.compiling);
                (Command::Verify, &args.tree, &args.select, Some(&args.interpreters), &args.common)
            }
            Chosen::Repair(args) => {
                (options.keep_bad, options.dry_run) = (args.keep_bad.clone(), args.dry_run);
                compiling = Some(&args.limits.compiling);
                (Command::Repair, &args.tree, &args.select, Some(&args.interpreters), &args.common)
            }
            Chosen::Clean(args) => {
                options.dry_run = args.dry_run;
                options.clean = Clean {
                    orphans: args.orphans,
                    leftovers: args.leftovers,
                    sourceless: args.sourceless,
                    sealed: args.sealed,
                    tags: (!args.tag.is_empty()).then(|| args.tag.clone()),
                    keep_tags: (!args.keep_tags.is_empty()).then(|| args.keep_tags.clone()),
                    made_before: args.older_than.map(|days| Time::now().minus_seconds(i64::from(days) * 86_400)),
                    keep_bytes: args.max_size.map(|size| size.0),
                };
                (Command::Clean, &args.tree, &args.select, None, &args.common)
            }
            Chosen::Status(args) => (Command::Status, &args.tree, &args.select, Some(&args.interpreters), &args.common),
            Chosen::Explain(args) => {
                options.explain.user = Some(whom::user(args.user.as_deref())?);
                (Command::Explain, &args.tree, &args.select, one.as_ref(), &args.common)
            }
            Chosen::Seal(args) => {
                (options.recompile, options.dry_run) = (args.recompile, args.dry_run);
                compiling = Some(&args.compiling);
                let interpreters = Some(&args.interpreters).filter(|named| args.recompile || !named.python.is_empty());
                (Command::Seal, &args.tree, &args.select, interpreters, &args.common)
            }
            Chosen::Store(args_store::Store { command: StoreCommand::Add(args) }) => {
                compiling = Some(&args.compiling);
                options.dry_run = args.dry_run;
                (Command::Add, &args.tree, &args.select, Some(&args.interpreters), &args.common)
            }
            Chosen::Inspect(_)
            | Chosen::Config(_)
            | Chosen::Completions(_)
            | Chosen::Store(_)
            | Chosen::Hook(_)
            | Chosen::Compileall(_) => return Ok(None),
        };
        set_common(&mut options, common);
        if let Some(compiling) = compiling {
            options.max_source = compiling.max_source.0;
        }
        let timeout = compile_timeout(compiling.and_then(|compiling| compiling.timeout), environment)?;
        options.prefix = prefix(command, tree, environment)?;
        let compile = if let Chosen::Compile(args) = chosen { Some(args) } else { None };
        let until = Until::new(stop, options.max_time);
        let mut place = Placed::new(command, tree, select, &Recorded::of(chosen), options.prefix.as_deref(), environment, until)?;
        options.adopt |= !place.envs.is_empty();
        // Reading lists and records is a part of the run.
        options.max_time = until.left();
        let dir = cache_dir();
        // Outside of hooks `PYTHONHOME` is the user's own wish.
        let probes = Probes::open(dir.clone()).keeping_pythonhome().until(Arc::clone(stop));
        let mut lacking = None;
        let found = match interpreters {
            // Who asks for no completeness starts no interpreter.
            Some(args) if command == Command::Verify && !options.complete && !options.recompile && args.python.is_empty() => Vec::new(),
            Some(args) => match find(command, options.recompile, args, &mut place, &probes) {
                Ok(found) => found,
                Err(Lack::Grave(failure)) => return Err(failure),
                // Headers are renewed without an interpreter, unless it was said by whom everything is to be made.
                Err(Lack::Interpreter(error)) if compile.is_none_or(|args| args.force || args.stdlib) => {
                    return Err(lacks_interpreter(command, error));
                }
                Err(Lack::Interpreter(error)) => {
                    place.notes.push(format!(
                        "nothing is compiled, and only headers are renewed, since no interpreter was found: {}",
                        crate::base::error::chain(&error)
                    ));
                    lacking = Some(error);
                    Vec::new()
                }
            },
            None => Vec::new(),
        };
        // What is missing shows at a glance, as far as it is known what there should be.
        options.complete |= command == Command::Status && !found.is_empty();
        if options.complete && found.is_empty() {
            place.notes.push("it is not known what `--complete` should expect: name interpreters with `--python`".to_owned());
        }
        if compile.is_some_and(|args| args.stdlib) {
            place.add_stdlib(&found.iter().map(|one| one.stdlib.as_path()).collect::<Vec<_>>())?;
        }
        if command == Command::Compile && lacking.is_none() {
            refuse_others(&tree.paths, &found)?;
        }
        let mut unusable = std::mem::take(&mut place.roots.unusable);
        unusable.retain(|(path, _)| !place.excludes.matches(path));
        let mut roots = place.roots.into_list();
        if command != Command::Compile {
            roots.append(&mut place.remains.roots);
        }
        if tree.pycache_prefix.is_none() && roots.iter().all(|root| root.what != What::Prefix) {
            options.prefix = heeded(options.prefix, &found)?;
        }
        let mut levels = interpreters.map(Interpreters::levels).unwrap_or_default();
        if let (Chosen::Explain(args), Some(python)) = (chosen, found.first()) {
            let switch = |value: &Option<String>| value.as_ref().map_or(0, |value| variables::switch(python.target.magic, value));
            options.explain.dont_write = switch(&environment.dont_write) > 0;
            levels = vec![args.optimize.map_or_else(|| whom::level(python, switch(&environment.optimize)), Ok)?];
        }
        let limits = Limits { jobs: settings.width(), timeout, keep_pythonhome: true, ..Limits::default() };
        let asked = options.explain.user.clone().zip(found.first()).map(|(user, python)| Asked {
            tag: python.target.tag.to_string(),
            python: python.executable.clone(),
            level: levels.first().copied().unwrap_or(0),
            user,
            paths: place.paths,
            prefix: options.prefix.clone(),
        });
        let is_compiling = !found.is_empty() && (!options.dry_run || command == Command::Add);
        let open = |_| store::open(settings, command, options.dry_run, &mut place.notes);
        let store = compiling.filter(|_| is_compiling).map(open).transpose()?.flatten();
        let ignores_records = match chosen {
            Chosen::Compile(args) => args.records.ignore_records,
            Chosen::Clean(args) => args.records.ignore_records,
            Chosen::Seal(args) => args.records.ignore_records,
            _ => false,
        };
        let listed = (!ignores_records).then(|| Listed::new(&ARTIFACT_ENDS, Arc::clone(stop), options.max_time));
        let memo = dir.filter(|_| matches!(command, Command::Compile | Command::Status)).map(Memo::open);
        Ok(Some(Self {
            command,
            asked,
            pools: found.iter().map(|interpreter| WorkerPool::new(interpreter, limits.clone())).collect(),
            levels,
            excludes: place.excludes,
            remains: if command == Command::Compile { place.remains } else { Remains::default() },
            owners: place.owners,
            proved: place.proved,
            unusable,
            roots,
            notes: place.notes,
            lacking,
            memo,
            listed,
            store,
            options,
        }))
    }

    /// Does it only tell what it would do?
    pub(crate) fn is_dry_run(&self) -> bool {
        self.options.dry_run
    }

    /// Runs something with the job that takes away what distributions left that are gone, where `spent` was used of the time.
    pub(crate) fn with_tidying<T>(&self, stop: &AtomicBool, spent: Duration, run: impl FnOnce(&Job<'_>) -> T) -> T {
        self.with_job(stop, |job| {
            let mut job = job.clone();
            (job.command, job.roots) = (Command::Clean, self.remains.roots.clone());
            job.makers.clear();
            job.options.clean = Clean { orphans: true, leftovers: true, ..Clean::default() };
            job.options.max_time = job.options.max_time.map(|limit| limit.saturating_sub(spent));
            (job.options.prefix, job.options.store) = (None, None);
            run(&job)
        })
    }

    /// Runs something with the job.
    pub(crate) fn with_job<T>(&self, stop: &AtomicBool, run: impl FnOnce(&Job<'_>) -> T) -> T {
        let exclude = |path: &Path| self.excludes.matches(path);
        let describe = |bad: &crate::flow::examine::Bad<'_>| super::inspect::of_bad(bad, format(), self.options.max_source);
        let mut options: Options<'_> = self.options.clone();
        options.describe_bad = Some(&describe);
        if !self.excludes.is_empty() {
            options.exclude = Some(&exclude);
        }
        let proved = |path: &Path| self.proved.contains(path).then(|| "the record of its distribution lists its bytes".to_owned());
        let listed = |path: &Path| self.listed.as_ref().and_then(|listed| listed.why(path).or_else(|| proved(path)));
        options.listed = Some(&listed);
        options.memo = self.memo.as_ref();
        options.store = self.store.as_ref();
        let makers = self.pools.iter().map(|pool| Maker { compiler: pool as &dyn Compiler, levels: self.levels.clone() }).collect();
        run(&Job { command: self.command, roots: self.roots.clone(), format: format(), makers, options, stop })
    }
}

fn set_common(options: &mut Options<'_>, common: &Common) {
    options.lock_timeout = common.lock_timeout.0;
    options.max_time = common.max_time.map(|time| time.0);
}

/// The mode that is asked for: by the option, by the variable that uv and pip read, or by what a reproducible build sets.
fn mode(option: Option<ModeArg>, environment: &Environment) -> Result<Option<Mode>, Failure> {
    if let Some(mode) = option {
        return Ok(Some(mode.into()));
    }
    if let Some(word) = &environment.invalidation_mode {
        let plain = word.to_ascii_lowercase().replace('_', "-");
        let mode = [Mode::Timestamp, Mode::CheckedHash, Mode::UncheckedHash].into_iter().find(|mode| mode.word() == plain);
        return mode.map(Some).ok_or_else(|| {
            Failure::new(format!("PYC_INVALIDATION_MODE is `{word}`, which is no invalidation mode"))
                .hint("set it to `timestamp`, `checked-hash` or `unchecked-hash`, or give `--invalidation-mode`")
        });
    }
    Ok(environment.source_date_epoch.then_some(Mode::CheckedHash))
}

/// The file names that code shall carry; what is stripped is found from the working directory, as sources are.
fn code_names(args: &Compile) -> Result<CodeNames, Failure> {
    let strip = args.strip_dir.as_ref().map(|dir| {
        crate::flow::roots::absolute(dir)
            .map_err(|error| Failure::of_path("cannot find what `--strip-dir` names", dir, error.cause).hint("name a directory"))
    });
    Ok(CodeNames { strip: strip.transpose()?, prepend: args.prepend_dir.clone(), ..CodeNames::default() })
}

/// The same with the environment of this process.
pub(crate) fn timeout(option: Option<super::args_common::Seconds>) -> Result<Option<Duration>, Failure> {
    compile_timeout(option, &Environment::of_process())
}

/// `None` is without limit.
fn compile_timeout(option: Option<super::args_common::Seconds>, environment: &Environment) -> Result<Option<Duration>, Failure> {
    let limit = match (option, &environment.timeout) {
        (Some(seconds), _) => seconds.0,
        (None, Some(word)) => {
            let parsed = super::args_common::parse_seconds(word);
            parsed
                .map_err(|why| {
                    Failure::new(format!("UV_COMPILE_BYTECODE_TIMEOUT is `{word}`: {why}")).hint("set it to seconds, or give `--timeout`")
                })?
                .0
        }
        (None, None) => TIMEOUT,
    };
    Ok((!limit.is_zero()).then_some(limit))
}

/// The tree apart from the sources that holds the artifacts, absolute as Python makes it.
fn prefix(command: Command, tree: &Tree, environment: &Environment) -> Result<Option<PathBuf>, Failure> {
    // What is removed must have been named: a variable that somebody once set is not enough.
    let fallback = environment.pycache_prefix.as_ref().filter(|_| command != Command::Clean);
    let Some(dir) = tree.pycache_prefix.as_ref().or(fallback) else { return Ok(None) };
    let trouble = |cause| unusable_prefix(dir, tree, cause);
    match dir.metadata() {
        Ok(seen) if !seen.is_dir() => return Err(trouble(std::io::ErrorKind::NotADirectory.into())),
        // A link to nothing can be neither used nor made.
        Err(_) if dir.ancestors().take_while(|above| !above.exists()).any(Path::is_symlink) => {
            return Err(trouble(std::io::Error::other("a link on the way to it leads nowhere")));
        }
        // Not there yet, it is as good as empty.
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => return Err(trouble(cause)),
        _ => {}
    }
    std::path::absolute(dir).map(Some).map_err(trouble)
}

pub(crate) fn unusable_prefix(dir: &Path, tree: &Tree, cause: std::io::Error) -> Failure {
    let hint = match (tree.pycache_prefix.is_some(), cause.kind()) {
        (true, std::io::ErrorKind::NotFound) => "`bytekeep compile` makes it when it writes there",
        (true, _) => "name a directory, or leave `--pycache-prefix` away",
        (false, std::io::ErrorKind::NotFound) => "PYTHONPYCACHEPREFIX names it; `bytekeep compile` makes it when it writes there",
        (false, _) => "PYTHONPYCACHEPREFIX names it: set it to a directory, or unset it",
    };
    Failure::of_path("cannot use the pycache prefix", dir, cause).hint(hint)
}

/// The prefix that a variable names, as far as it concerns these interpreters: who does not know it puts artifacts beside the sources.
fn heeded(prefix: Option<PathBuf>, found: &[Interpreter]) -> Result<Option<PathBuf>, Failure> {
    let knows = |interpreter: &&Interpreter| format().knows_prefix(&interpreter.target);
    let without = found.iter().find(|interpreter| !knows(interpreter));
    match (prefix, found.iter().find(knows), without) {
        (Some(_), Some(one), Some(other)) => Err(Failure::new(format!(
            "PYTHONPYCACHEPREFIX is set, which {} goes by and {} does not know",
            one.target.tag, other.target.tag
        ))
        .hint("run it once for each `--python`, or unset the variable")),
        (Some(_), None, Some(_)) => Ok(None),
        (prefix, ..) => Ok(prefix),
    }
}

/// Where this user's own caches are kept. `None`: nowhere, and nothing is remembered.
pub(crate) fn cache_dir() -> Option<PathBuf> {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let absolute = |dir: std::ffi::OsString| Some(PathBuf::from(dir)).filter(|dir| dir.is_absolute());
    let var = |name: &str| absolute(std::env::var_os(name)?);
    // Under systemd the unit's own directory, the first one where it has several; else as the XDG specification has it, which ignores
    // relative paths.
    let units = std::env::var_os("CACHE_DIRECTORY").unwrap_or_default();
    let first = units.as_bytes().split(|byte| *byte == b':').next().unwrap_or_default();
    if let Some(dir) = absolute(std::ffi::OsString::from_vec(first.to_vec())) {
        return Some(dir);
    }
    let caches = var("XDG_CACHE_HOME").or_else(|| Some(var("HOME")?.join(".cache")))?;
    Some(caches.join("bytekeep"))
}

/// Refuses artifacts that were named and that none of the interpreters makes, by the tags in their names.
fn refuse_others(paths: &[PathBuf], found: &[Interpreter]) -> Result<(), Failure> {
    for path in paths {
        let Ok(Root { what: What::Artifacts { names, beside: false }, .. }) = Root::of(path, format()) else { continue };
        let recognised = names.first().map(|name| format().recognise(name, Layout::Cache));
        let Some(Recognised::Artifact { tag: Some(tag), .. }) = recognised else { continue };
        if found.iter().all(|interpreter| interpreter.target.tag != tag) {
            let shown = text::path(path, None);
            return Err(Failure::new(format!("`{shown}` is an artifact of {tag}, which none of the interpreters makes"))
                .hint("name the interpreter that it is for with `--python`, or name the source"));
        }
    }
    Ok(())
}

/// The interpreters of the environments that hold these paths. One that does not work only leaves open what it would expect.
fn of_trees(place: &Placed, probes: &Probes) -> Vec<Interpreter> {
    let mut found: Vec<Interpreter> = Vec::new();
    let trees = place.paths.iter().filter_map(|path| Interpreter::of_tree(path));
    let executables: BTreeSet<PathBuf> = trees.chain(place.envs.iter().filter_map(|env| Interpreter::of_prefix(env))).collect();
    for executable in executables {
        match Interpreter::find(&executable, false, probes) {
            Ok(interpreter) if found.iter().all(|known| known.target != interpreter.target) => found.push(interpreter),
            Ok(_) => {}
            Err(cause) => tracing::debug!(%cause, "what this environment expects stays open"),
        }
    }
    found
}

/// The interpreters of a run. `verify` and `status` need none: without `--python` the tree itself says what is expected.
fn find(command: Command, recompile: bool, args: &Interpreters, place: &mut Placed, probes: &Probes) -> Result<Vec<Interpreter>, Lack> {
    let mut found: Vec<Interpreter> = Vec::new();
    for spec in &args.python {
        let interpreter = Interpreter::find(spec, true, probes)
            .map_err(|error| Lack::Grave(Failure::from(error).during(format!("cannot use the interpreter `{}`", text::message(spec)))))?;
        if found.iter().all(|known| known.target != interpreter.target) {
            found.push(interpreter);
        }
    }
    if !args.python.is_empty() {
        return Ok(found);
    }
    if matches!(command, Command::Verify | Command::Status) && !recompile {
        return Ok(of_trees(place, probes));
    }
    // The interpreter of the environments counts for all that is named with them, unless that lies in another environment.
    let own: BTreeSet<PathBuf> = place.envs.iter().filter_map(|env| Interpreter::of_prefix(env)).collect();
    let own = own
        .first()
        .filter(|one| own.len() == 1 && place.paths.iter().filter_map(|path| Interpreter::of_tree(path)).all(|other| other == **one));
    let chosen = match own {
        Some(executable) => Interpreter::find(executable, false, probes),
        None => Interpreter::default_for(&place.paths, probes),
    };
    match (command, chosen) {
        (_, Ok(interpreter)) => Ok(vec![interpreter]),
        (Command::Repair, Err(error)) if error != InterpreterError::Stopped => {
            place.notes.push(format!(
                "what is bad is removed, not rebuilt, unless a new header mends it, since no interpreter was found: {}",
                crate::base::error::chain(&error)
            ));
            Ok(Vec::new())
        }
        // These say what is to be decided, and end with it.
        (
            _,
            Err(
                error @ (InterpreterError::Stopped
                | InterpreterError::Ambiguous { .. }
                | InterpreterError::Writable { .. }
                | InterpreterError::NoHome { .. }),
            ),
        ) => Err(Lack::Grave(lacks_interpreter(command, error))),
        (_, Err(error)) => Err(Lack::Interpreter(error)),
    }
}

/// Why there are no interpreters.
enum Lack {
    /// The run ends with it.
    Grave(Failure),
    /// None is there: what needs none can still be done.
    Interpreter(InterpreterError),
}

/// What is told where nothing can be done without one.
pub(crate) fn lacks_interpreter(command: Command, error: InterpreterError) -> Failure {
    Failure::from(error)
        .during(format!("cannot {} without an interpreter", super::hints::verb(command)))
        .hint("name one with `--python`: a path, a name or a version")
}

#[cfg(test)]
mod tests {
    use super::super::args_common::Seconds;
    use super::*;

    #[test]
    fn the_mode_that_is_asked_for() {
        let with = |word: &str, epoch| Environment {
            invalidation_mode: Some(word.to_owned()).filter(|word| !word.is_empty()),
            source_date_epoch: epoch,
            ..Environment::default()
        };
        for (option, environment, expected) in [
            (None, with("", false), None),
            (None, with("", true), Some(Mode::CheckedHash)),
            (None, with("TIMESTAMP", true), Some(Mode::Timestamp)),
            (None, with("unchecked-hash", false), Some(Mode::UncheckedHash)),
            (None, with("CHECKED_HASH", false), Some(Mode::CheckedHash)),
            (Some(ModeArg::Timestamp), with("CHECKED_HASH", true), Some(Mode::Timestamp)),
        ] {
            assert_eq!(mode(option, &environment).unwrap(), expected, "{environment:?}");
        }
        assert!(mode(None, &with("sometimes", false)).is_err());
    }

    #[test]
    fn the_time_limit_of_one_source() {
        let with = |word: &str| Environment { timeout: Some(word.to_owned()), ..Environment::default() };
        let seconds = |number| Some(Duration::from_secs(number));
        assert_eq!(compile_timeout(None, &Environment::default()).unwrap(), seconds(60));
        assert_eq!(compile_timeout(None, &with("5")).unwrap(), seconds(5));
        assert_eq!(compile_timeout(Some(Seconds(Duration::ZERO)), &with("5")).unwrap(), None);
        assert!(compile_timeout(None, &with("soon")).is_err());
    }
}
