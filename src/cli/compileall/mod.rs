//! `bytekeep compileall`: takes the arguments of `python -m compileall` and behaves as it does, through the one pipeline.
//!
//! [`args`] reads the arguments, [`walk`] says what there is to do in which order, [`names`] what everything is called, [`board`] tells
//! each source in its turn, in the words of [`texts`]. Compiling, locks, the store and writing are the pipeline's; what it does otherwise than
//! CPython is on purpose, and stands in the manual.

pub(crate) mod args;
mod board;
mod dupes;
mod names;
mod texts;
mod walk;

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use self::args::{Asked, Dialect};
use self::board::Board;
use self::names::Naming;
use self::texts::{Outcome, Texts, Trouble};
use self::walk::{File, Step, Walk, Walker, as_path};
use super::args::Compileall;
use super::exit::Exit;
use super::failure::Failure;
use super::out::Out;
use super::settings::{Origin, Settings, variable};
use super::until::Until;
use super::{roots, setup, signals, store, whom};
use crate::base::memo::Memo;
use crate::base::sys::{Dir, Name};
use crate::base::write::Durability;
use crate::flow::{self, CodeNames, Command, Job, Maker, Options, Root, What};
use crate::model::{Format, Mode};
use crate::python::Pyc;
use crate::python::interpreter::Interpreter;
use crate::python::legacy::Legacy;
use crate::python::memo::Probes;
use crate::python::pool::{Limits, WorkerPool};
use crate::python::variables;
use crate::python::words::{self, Words};
use crate::store::{LinkMode, Store};

/// What compileall reads of its environment.
struct Environment {
    source_date_epoch: bool,
    prefix: Option<PathBuf>,
    optimize: Option<String>,
}

impl Environment {
    fn of_process() -> Self {
        Self {
            source_date_epoch: variable("SOURCE_DATE_EPOCH").is_some(),
            prefix: variable("PYTHONPYCACHEPREFIX").map(PathBuf::from),
            optimize: variable("PYTHONOPTIMIZE").map(|value| value.to_string_lossy().into_owned()),
        }
    }
}

/// Runs it with the arguments that stand behind its own options.
pub(super) fn run(own: &Compileall, arguments: &[OsString], settings: &Settings, out: &Out) -> Result<Exit, Failure> {
    let stop = signals::listen().map_err(|cause| Failure::from(cause).during("cannot listen to signals"))?;
    let python = interpreter(own, &stop)?;
    let dialect = Dialect::of(python.version);
    let asked = match args::parse(arguments, dialect) {
        Ok(asked) => asked,
        Err(error) => {
            out.message(&format!("{}compileall.py: error: {error}\n", dialect.usage()));
            return Ok(Exit::Unable);
        }
    };
    if asked.help {
        let help = words::help_of(&python.executable, "compileall");
        let (good, text) = help.map_err(|cause| Failure::from(cause).during("cannot ask the interpreter for its help"))?;
        out.data(&String::from_utf8_lossy(&text));
        return Ok(if good { Exit::Good } else { Exit::Wrong });
    }
    let words = Words::new(&python, &stop);
    let ended = Call { own, asked: &asked, python: &python, settings, out, words: &words, stop: &stop }.run();
    if stop.load(Ordering::SeqCst) {
        if asked.quiet < 2 {
            out.data("\n[interrupted]\n");
        }
        return Ok(Exit::Wrong);
    }
    ended
}

/// The interpreter that is chosen, or `python3`.
fn interpreter(own: &Compileall, stop: &Arc<AtomicBool>) -> Result<Interpreter, Failure> {
    let probes = Probes::open(setup::cache_dir()).keeping_pythonhome().until(Arc::clone(stop));
    let found = match &own.python {
        Some(spec) => Interpreter::find(spec, true, &probes),
        None => Interpreter::default_for(&[], &probes),
    };
    let python = found.map_err(|error| setup::lacks_interpreter(Command::Compile, error))?;
    if python.version < (3, 6, 0) {
        let text = format!("`{}` is Python {}.{}", python.executable.display(), python.version.0, python.version.1);
        return Err(Failure::new(text).during("compileall is understood as 3.6 and later have it").hint("use `bytekeep compile`"));
    }
    Ok(python)
}

/// One call, its arguments read.
struct Call<'a> {
    own: &'a Compileall,
    asked: &'a Asked,
    python: &'a Interpreter,
    settings: &'a Settings,
    out: &'a Out,
    words: &'a Words<'a>,
    stop: &'a Arc<AtomicBool>,
}

/// What the pipeline runs with.
struct Setup<'a> {
    format: &'a dyn Format,
    pool: &'a WorkerPool,
    /// What is made, ascending.
    levels: Vec<u8>,
    options: Options<'a>,
}

impl Call<'_> {
    fn run(&self) -> Result<Exit, Failure> {
        let environment = Environment::of_process();
        let texts = Texts { quiet: self.asked.quiet, words: self.words };
        if let Some(pattern) = &self.asked.pattern
            && let Some(why) = self.words.pattern(pattern.as_bytes()).map_err(Failure::new)?
        {
            self.out.message(&format!("{why}\n"));
            return Ok(Exit::Wrong);
        }
        let mut dests: Vec<Vec<u8>> = self.asked.dests.iter().map(|dest| dest.as_bytes().to_vec()).collect();
        if let Some(list) = &self.asked.list {
            match self.listed(list) {
                Ok(listed) => dests.extend(listed),
                Err(why) => {
                    tracing::debug!(cause = why, "the list cannot be read");
                    if self.asked.quiet < 2 && !self.stop.load(Ordering::SeqCst) {
                        self.out.data(&format!("Error reading file list {}\n", list.to_string_lossy()));
                    }
                    return Ok(Exit::Wrong);
                }
            }
        }
        if dests.is_empty() {
            // As there, what says which files and names is not heeded then.
            let Asked { force, quiet, legacy, workers, mode, .. } = *self.asked;
            let asked = Asked { force, quiet, legacy, workers, mode, ..Asked::default() };
            let path = self.search_path()?;
            let call = Call { asked: &asked, ..*self };
            let walker = Walker { asked: &asked, version: self.python.version, texts: &texts, words: self.words, stop: self.stop };
            return call.compile(&walker.of_path(&path), &texts, &environment);
        }
        let walker = Walker { asked: self.asked, version: self.python.version, texts: &texts, words: self.words, stop: self.stop };
        self.compile(&walker.of_dests(&dests).map_err(Failure::new)?, &texts, &environment)
    }

    /// Names in a file or on standard input, a line each.
    fn listed(&self, list: &OsStr) -> Result<Vec<Vec<u8>>, String> {
        let bytes = roots::read_until(Path::new(list), Until::new(self.stop, None)).map_err(|_| "it is no list".to_owned())?;
        let is_blank = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, 0x0b | 0x1c..=0x1f);
        let mut lines: Vec<&[u8]> = bytes.split(|byte| matches!(byte, b'\n' | b'\r')).collect();
        let mut names = Vec::new();
        if lines.last().is_some_and(|last| last.is_empty()) {
            lines.pop();
        }
        let mut from = 0;
        for line in lines {
            let end = from + line.len();
            // The second half of a line's end in two bytes.
            let is_half = line.is_empty() && from > 0 && bytes.get(from - 1..=from) == Some(b"\r\n");
            from = end + 1;
            if is_half {
                continue;
            }
            let start = line.iter().position(|byte| !is_blank(byte)).unwrap_or(line.len());
            let end = line.iter().rposition(|byte| !is_blank(byte)).map_or(start, |last| last + 1);
            names.push(line.get(start..end).unwrap_or_default().to_vec());
        }
        Ok(names)
    }

    fn search_path(&self) -> Result<Vec<Vec<u8>>, Failure> {
        let mut path = words::search_path(self.python, self.stop).map_err(Failure::new)?;
        // `-m` puts the directory there that it was started in; 3.6 leaves the empty name, as `-c` does.
        if self.python.version >= (3, 7, 0)
            && let Some(first) = path.first_mut().filter(|first| first.is_empty())
            && let Ok(here) = std::env::current_dir()
        {
            *first = here.into_os_string().into_vec();
        }
        Ok(path)
    }

    fn compile(&self, walk: &Walk, texts: &Texts<'_>, environment: &Environment) -> Result<Exit, Failure> {
        let on = environment.optimize.as_ref().map_or(0, |value| variables::switch(self.python.target.magic, value));
        let own_level = whom::level(self.python, on)?;
        let is_valid = |level: &i64| (-1..=2).contains(level);
        let wanted = if self.asked.levels.is_empty() { vec![-1] } else { self.asked.levels.clone() };
        let invalid = wanted.iter().copied().find(|level| !is_valid(level));
        let effective = |level: i64| u8::try_from(level).unwrap_or(own_level);
        // Made one after the other, ascending: what comes behind one that fails is not made.
        let mut levels: Vec<u8> = wanted.iter().copied().take_while(is_valid).map(effective).collect();
        if self.asked.legacy {
            // All of them have one name: the last one stays.
            levels = levels.last().copied().into_iter().collect();
        }
        levels.sort_unstable();
        levels.dedup();
        let knows_prefix = Pyc.knows_prefix(&self.python.target) && !self.asked.legacy;
        let prefix = environment.prefix.as_ref().filter(|_| knows_prefix).and_then(|prefix| std::path::absolute(prefix).ok());
        let naming = Naming { tag: &self.python.target.tag, legacy: self.asked.legacy, prefix: prefix.as_deref() };
        let artifact = |index: usize, level: i64| {
            let level = if level < 0 { i64::from(own_level) } else { level };
            walk.files.get(index).map(|file| naming.artifact(&file.path, level)).unwrap_or_default()
        };
        let artifacts = |index: usize| wanted.iter().map(move |level| artifact(index, *level));
        let is_current = |index: usize| {
            let source = walk.files.get(index).map(|file| as_path(&file.path));
            source.is_some_and(|source| artifacts(index).all(|artifact| self.has_header_of(as_path(&artifact), source)))
        };
        let board = Board::new(walk, texts, self.out, &is_current, &artifact, invalid);

        let mode = self.asked.mode.or(environment.source_date_epoch.then_some(Mode::CheckedHash)).unwrap_or(Mode::Timestamp);
        let format: &dyn Format = if self.asked.legacy { &Legacy } else { &Pyc };
        let by_hash = format.kept_mode(&self.python.target, mode) != Mode::Timestamp;
        let width = self.width();
        let (compiling, mut notes) = (&self.own.limits.compiling, Vec::new());
        let timeout = setup::timeout(compiling.timeout)?;
        let limits = Limits { jobs: width, timeout, keep_pythonhome: true, ..Limits::default() };
        let pool = WorkerPool::new(self.python, limits);
        let store: Option<Store> = store::open(self.settings, Command::Compile, false, &mut notes)?;
        for note in &notes {
            tracing::debug!(note, "of the store");
        }
        let memo = setup::cache_dir().map(Memo::open);
        let options = Options {
            mode: Some(mode),
            // By a hash nothing counts as current there.
            force: self.asked.force || by_hash,
            prefix: prefix.clone(),
            memo: memo.as_ref(),
            store: store.as_ref(),
            // Of a link the code carries no name of its own.
            link_mode: LinkMode::Copy,
            durability: self.settings.durability.value.into(),
            jobs: width,
            lock_timeout: self.own.lock_timeout.0,
            max_source: compiling.max_source.0,
            ..Options::default()
        };
        let setup = Setup { format, pool: &pool, levels, options };
        board.go_on();
        for files in rounds(walk) {
            let ready: Vec<usize> =
                files.into_iter().filter(|index| self.is_for_pipeline(*index, &board, &setup, invalid, artifacts)).collect();
            board.begin(&ready, setup.levels.len());
            let told = self.pipeline(&ready, &board, &setup, setup.options.force);
            if self.stop.load(Ordering::SeqCst) {
                return Ok(Exit::Wrong);
            }
            let again = board.end(told.as_deref());
            if !again.is_empty() {
                board.begin(&again, setup.levels.len());
                let told = self.pipeline(&again, &board, &setup, true);
                // What is left even then is what nobody here may touch.
                board.end(told.as_deref()).into_iter().for_each(|index| board.settle(index, Outcome::Current));
            }
            if self.asked.hardlink_dupes && !self.asked.legacy {
                for index in ready.into_iter().filter(|index| board.is_done(*index)) {
                    let paths: Vec<Vec<u8>> = artifacts(index).collect();
                    let Some(file) = walk.files.get(index) else { continue };
                    let linked = link_dupes(file, &paths, setup.options.prefix.as_deref(), setup.options.durability);
                    crate::ignored!(linked, "duplicates are files of their own");
                }
            }
        }
        board.go_on();
        Ok(if board.has_failed() { Exit::Wrong } else { Exit::Good })
    }

    /// How much is done at one time: what `-j` says; else what was set for all runs; else one, as compileall does.
    fn width(&self) -> usize {
        match self.asked.workers {
            None if self.settings.jobs.origin == Origin::Default => 1,
            None => self.settings.width(),
            Some(0) => std::thread::available_parallelism().map_or(1, usize::from),
            Some(workers) => usize::try_from(workers).unwrap_or(1).clamp(1, 1024),
        }
    }

    /// Is a source the pipeline's to do? The others are settled: what stands in their artifacts' place is no file of its own, which
    /// compileall leaves alone; or there is no level that could be made.
    fn is_for_pipeline<I: Iterator<Item = Vec<u8>>>(
        &self,
        index: usize,
        board: &Board<'_>,
        setup: &Setup<'_>,
        invalid: Option<i64>,
        artifacts: impl Fn(usize) -> I,
    ) -> bool {
        let in_the_way = artifacts(index).find_map(|artifact| {
            let seen = as_path(&artifact).symlink_metadata().ok()?;
            let what = match seen.file_type() {
                kind if kind.is_symlink() => "symlink and will be changed into a regular",
                kind if !kind.is_file() => "non-regular file and will be changed into a regular one",
                _ => return None,
            };
            Some((artifact, what))
        });
        if let Some((artifact, what)) = in_the_way {
            let current = !self.asked.force && (board.is_current)(index);
            board.settle(index, if current { Outcome::Current } else { Outcome::Failed(Trouble::InTheWay(artifact, what)) });
            return false;
        }
        match invalid.filter(|_| setup.levels.is_empty()) {
            Some(level) => {
                board.settle(index, Outcome::Failed(Trouble::Level(level)));
                false
            }
            None => true,
        }
    }

    /// Does an artifact begin as one that is made now with a time would? All that compileall looks at.
    fn has_header_of(&self, artifact: &Path, source: &Path) -> bool {
        let Ok(seen) = source.metadata() else { return false };
        let time = seen.mtime().to_le_bytes();
        let time = time.get(..4).unwrap_or_default();
        let magic = &self.python.target.magic;
        let expected = if self.python.version < (3, 7, 0) { [magic, time].concat() } else { [magic, &[0; 4][..], time].concat() };
        let mut head = vec![0; expected.len()];
        // A FIFO would be waited for.
        let is_file = artifact.metadata().is_ok_and(|seen| seen.is_file());
        is_file && std::fs::File::open(artifact).and_then(|mut file| file.read_exact(&mut head)).is_ok() && head == expected
    }

    /// Lets the pipeline do these sources. `Some`: why it could do nothing.
    fn pipeline(&self, files: &[usize], board: &Board<'_>, setup: &Setup<'_>, force: bool) -> Option<String> {
        if files.is_empty() {
            return None;
        }
        let (mut names, mut places, mut given): (Vec<Root>, HashMap<_, usize>, HashMap<PathBuf, PathBuf>) = Default::default();
        for file in files.iter().filter_map(|index| board.walk.files.get(*index)) {
            let at = *places.entry((file.dir.clone(), file.within.clone())).or_insert(names.len());
            if at == names.len() {
                names.push(Root { dir: file.dir.clone(), within: file.within.clone(), what: What::Sources(Vec::new()) });
            }
            if let Some(Root { what: What::Sources(names), .. }) = names.get_mut(at) {
                names.push(file.name.clone());
            }
            given.insert(file.dir.join(&file.name), as_path(&file.code_name).to_path_buf());
        }
        let code_names = CodeNames { given: Arc::new(given), ..CodeNames::default() };
        let job = Job {
            command: Command::Compile,
            roots: names,
            format: setup.format,
            makers: vec![Maker { compiler: setup.pool, levels: setup.levels.clone() }],
            options: Options { force, code_names, ..setup.options.clone() },
            stop: self.stop,
        };
        let error = flow::run(&job, board).err()?;
        Some(crate::base::error::chain(&error))
    }
}

/// `--hardlink-dupes`, of one source.
fn link_dupes(file: &File, artifacts: &[Vec<u8>], prefix: Option<&Path>, durability: Durability) -> crate::base::Result<()> {
    let Some(above) = artifacts.first().and_then(|first| as_path(first).parent()) else { return Ok(()) };
    let dir = match prefix {
        Some(prefix) => Arc::new(Dir::open_root(prefix)?).open_beneath(above.strip_prefix(prefix).unwrap_or(above))?,
        None => Arc::new(file.open_dir()?.open_in(Pyc.cache_dir())?),
    };
    let names: Vec<Name> = artifacts.iter().filter_map(|path| as_path(path).file_name().and_then(Name::new)).collect();
    dupes::link(&dir, &names, durability)
}

/// The sources in their order, each once in a round: what is named twice is looked at twice, one after the other.
fn rounds(walk: &Walk) -> Vec<Vec<usize>> {
    let mut rounds = Vec::new();
    let mut round = Vec::new();
    let mut seen: HashSet<((u64, u64), Name)> = HashSet::new();
    let mut dirs: HashMap<&Path, (u64, u64)> = HashMap::new();
    for step in &walk.steps {
        let Step::File(index) = step else { continue };
        let Some(file) = walk.files.get(*index) else { continue };
        let id = *dirs.entry(&file.dir).or_insert_with(|| file.dir.metadata().map_or((0, 0), |seen| (seen.dev(), seen.ino())));
        let key = (id, file.name.clone());
        if seen.contains(&key) {
            rounds.push(std::mem::take(&mut round));
            seen.clear();
        }
        seen.insert(key);
        round.push(*index);
    }
    rounds.push(round);
    rounds
}
