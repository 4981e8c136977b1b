//! Real runs that meet at locks: one that is stopped while it holds some, and several that want the same work.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::corpus::module;
use crate::run::{Setting, Tally, interrupted, kill};
use crate::strace_log;
use crate::whole::{Look, files, is_artifact, leftovers, look};

pub(crate) const LOCK: &str = ".bytekeep.lock";
/// What a run may take over its time-out, on a machine where others work too.
pub(crate) const SLACK: Duration = Duration::from_secs(25);
/// Longer than anything here takes.
pub(crate) const HUNG: Duration = Duration::from_secs(90);

/// A run of the command under test, whose streams go to files. Dropped: ended.
pub(crate) struct Run {
    child: Child,
    start: Instant,
    out: PathBuf,
    err: PathBuf,
}

/// What it came to.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) took: Duration,
    pub(crate) err: String,
    lines: Vec<serde_json::Value>,
}

impl Run {
    pub(crate) fn start(mut command: Command, room: &Path, name: &str) -> Result<Self> {
        let (out, err) = (room.join(format!("{name}.out")), room.join(format!("{name}.err")));
        command.stdin(Stdio::null()).stdout(File::create(&out)?).stderr(File::create(&err)?);
        let child = command.spawn().with_context(|| format!("{} does not start", command.get_program().display()))?;
        Ok(Self { child, start: Instant::now(), out, err })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Does it tell that it waits for a lock?
    fn waits(&self) -> Result<bool> {
        Ok(lines(&self.out)?.iter().any(|line| line["code"] == "waiting"))
    }

    /// `None` for a code also means that it had to be ended.
    pub(crate) fn end(mut self, limit: Duration) -> Result<Ended> {
        while !self.has_ended()? && self.start.elapsed() < limit && !interrupted() {
            std::thread::sleep(Duration::from_millis(3));
        }
        let took = self.start.elapsed();
        let code = if self.has_ended()? { self.child.wait()?.code() } else { None };
        let lines = lines(&self.out)?;
        let err = String::from_utf8_lossy(&std::fs::read(&self.err)?).into_owned();
        if interrupted() {
            bail!("interrupted");
        }
        Ok(Ended { code, took, err, lines })
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.id()).ok().and_then(Pid::from_raw).context("no process id")?;
        Ok(kill_process(pid, signal)?)
    }
}

fn lines(out: &Path) -> Result<Vec<serde_json::Value>> {
    let text = String::from_utf8_lossy(&std::fs::read(out)?).into_owned();
    // The last one may not be whole yet.
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            kill(self.id());
            if let Err(error) = self.child.wait() {
                println!("{} cannot be waited for: {error}", self.child.id());
            }
        }
    }
}

impl Ended {
    /// Is this in what it tells of waiting?
    fn tells_of(&self, pid: u32) -> bool {
        let told = self.lines.iter().filter(|line| line["code"] == "waiting").filter_map(|line| line["text"].as_str());
        told.into_iter().any(|text| text.contains(&pid.to_string()))
    }

    /// Its last line; nothing where it said none.
    pub(crate) fn summary(&self) -> &serde_json::Value {
        self.lines.last().unwrap_or(&serde_json::Value::Null)
    }

    /// Artifact, action and the code of its cause, of each entry.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        let told = self.lines.iter().filter(|line| line["kind"] == "entry");
        told.map(|line| {
            (
                line["path"].as_str().unwrap_or_default(),
                line["action"].as_str().unwrap_or_default(),
                line["cause"]["code"].as_str().unwrap_or_default(),
            )
        })
    }
}

/// `compile`, told as JSON.
pub(crate) fn compile(setting: &Setting, trees: &[&Path], room: &Path, jobs: usize, lock_timeout: u64) -> Command {
    let mut command = setting.bytekeep("compile", trees[0], jobs, &room.join("cache"));
    command.args(&trees[1..]).args(["--format", "json", "--lock-timeout", &lock_timeout.to_string()]);
    command
}

/// What one command's environment has of its own, to another that starts it.
pub(crate) fn pass_environment(from: &Command, to: &mut Command) {
    for (name, value) in from.get_envs() {
        match value {
            Some(value) => to.env(name, value),
            None => to.env_remove(name),
        };
    }
}

/// Modules of a few functions, or of thousands, which take an interpreter seconds.
pub(crate) fn write(dir: &Path, modules: usize, functions: usize) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    for number in 0..modules {
        std::fs::write(dir.join(format!("m{number}.py")), module(number, functions))?;
    }
    Ok(())
}

/// Waits for something that must come.
pub(crate) fn until(what: &str, mut there: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !there()? {
        if interrupted() || start.elapsed() > HUNG {
            bail!("{what}: not after {} s", start.elapsed().as_secs());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Has somebody this lock? By its file alone.
fn is_held(path: &Path) -> Result<bool> {
    match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        file => match fs2::FileExt::try_lock_shared(&file?) {
            Err(error) if error.kind() == fs2::lock_contended_error().kind() => Ok(true),
            tried => Ok(tried.map(|()| false)?),
        },
    }
}

/// What must hold when all is over: every artifact there and whole, and nothing else.
pub(crate) fn is_done(tree: &Path, sources: usize, complain: &dyn Fn(String)) -> Result<()> {
    let artifacts: Vec<PathBuf> = files(tree).into_iter().filter(|path| is_artifact(path)).collect();
    if artifacts.len() != sources {
        complain(format!("{} artifacts of {sources} sources", artifacts.len()));
    }
    for path in &artifacts {
        if !matches!(look(&std::fs::read(path)?), Look::Sealed { adopted: false, .. }) {
            complain(format!("{} is not sealed", path.display()));
        }
    }
    for path in leftovers(tree) {
        complain(format!("{} is left over", path.display()));
    }
    Ok(())
}

/// A run that is stopped while it holds two folders: another run waits for both at one time, once, and does all the rest.
pub(crate) fn stopped(setting: &Setting, room: &Path, quick: bool, tally: &Tally) -> Result<()> {
    // With 0 the second run gives up at once; the last one waits, and the stopped one goes on meanwhile.
    for wait in if quick { &[2][..] } else { &[0, 2, 5, 60] } {
        stopped_once(setting, room, *wait, tally)?;
    }
    Ok(())
}

fn stopped_once(setting: &Setting, room: &Path, wait: u64, tally: &Tally) -> Result<()> {
    let complain = |what: String| {
        tally.violation(
            &format!("locks: a stopped holder, --lock-timeout {wait}: {what}"),
            &format!("locks --seed {} --case stopped", setting.seed),
        );
    };
    let tree = room.join(format!("tree{wait}"));
    let slow = [tree.join("slow0"), tree.join("slow1")];
    let mut functions = 6000;
    let (first, before) = loop {
        for dir in &slow {
            write(dir, 1, functions)?;
        }
        let mut first = Run::start(compile(setting, &[&slow[0], &slow[1]], room, 2, 60), room, "first")?;
        let locks = slow.each_ref().map(|dir| dir.join("__pycache__").join(LOCK));
        let held = || Ok::<_, anyhow::Error>(is_held(&locks[0])? && is_held(&locks[1])?);
        until("two locks are held, or it is too late for that", || Ok(held()? || first.has_ended()?))?;
        if !first.has_ended()? {
            first.signal(Signal::STOP)?;
            let stat = format!("/proc/{}/stat", first.id());
            until("it is stopped", || {
                let stat = std::fs::read_to_string(&stat)?;
                Ok(stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['T', 'Z'])))
            })?;
            if held()? {
                break (first, files(&tree).into_iter().filter(|path| is_artifact(path)).count());
            }
            first.signal(Signal::CONT)?;
        }
        drop(first);
        functions *= 2;
        std::fs::remove_dir_all(&tree)?;
        if functions > 100_000 {
            bail!("no run can be stopped while it holds two locks");
        }
    };
    for name in ["other0", "other1", "other2"] {
        write(&tree.join(name), 4, 3)?;
    }
    let second = Run::start(compile(setting, &[&tree], room, 2, wait), room, "second")?;
    if wait >= 60 {
        until("the second waits", || second.waits())?;
        first.signal(Signal::CONT)?;
    }
    let second = second.end(Duration::from_secs(wait) + SLACK.max(HUNG))?;
    let count = |wanted: &str, code: &str| second.entries().filter(|(_, action, cause)| *action == wanted && *cause == code).count();
    if wait >= 60 {
        if second.code != Some(0) || count("skipped", "locked") > 0 {
            complain(format!("who waits for it exits {:?} when it goes on: {}", second.code, second.err.trim()));
        }
    } else {
        if second.code != Some(1) || count("skipped", "locked") != 2 - before {
            complain(format!(
                "who waits for it exits {:?} with {} entries locked out: {}",
                second.code,
                count("skipped", "locked"),
                second.err.trim()
            ));
        }
        if count("built", "") != 12 {
            complain(format!("only {} of 12 entries of other folders are done", count("built", "")));
        }
        if second.took < Duration::from_secs(wait) || second.took > Duration::from_secs(wait) + SLACK {
            complain(format!("it cost {:.1} s", second.took.as_secs_f64()));
        }
        if wait > 1 && !second.tells_of(first.id()) {
            complain(format!("nobody is told that process {} holds it", first.id()));
        }
        first.signal(Signal::CONT)?;
    }
    let first = first.end(HUNG.max(second.took + HUNG))?;
    if first.code != Some(0) {
        complain(format!("the stopped one exits {:?} when it goes on: {}", first.code, first.err.trim()));
    }
    is_done(&tree, 14, &complain)?;
    println!(
        "locks: stopped while it holds 2 folders, --lock-timeout {wait}: the other took {:.1} s, {} entries locked out",
        second.took.as_secs_f64(),
        count("skipped", "locked")
    );
    tally.checked(u64::try_from(second.entries().count() + first.entries().count())?);
    Ok(())
}

const RUNS: usize = 4;
const FOLDERS: usize = 3;
const MODULES: usize = 6;

/// How several runs are brought to want the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meet {
    /// All are started at once.
    Start,
    /// The harness holds every lock until all of them wait.
    Wait,
    /// Each is delayed before it takes a lock, when it has looked.
    Delay,
}

/// Several runs over one fresh tree: each entry is compiled once, by whomever.
pub(crate) fn once(setting: &Setting, room: &Path, quick: bool, tally: &Tally) -> Result<()> {
    let rounds = if quick { 1 } else { 8 };
    for meet in [Meet::Wait, Meet::Delay, Meet::Start] {
        if meet == Meet::Delay
            && let Err(why) = strace_log::possible()
        {
            println!("SKIP runs that are delayed before they take a lock: {why}");
            continue;
        }
        let mut built = 0;
        for _ in 0..rounds {
            built += once_more(setting, room, meet, tally)?;
        }
        println!("locks: {RUNS} runs at once ({meet:?}): {built} compiled of {} sources", rounds * FOLDERS * MODULES);
    }
    Ok(())
}

fn once_more(setting: &Setting, room: &Path, meet: Meet, tally: &Tally) -> Result<usize> {
    let complain =
        |what: String| tally.violation(&format!("locks: once ({meet:?}): {what}"), &format!("locks --seed {} --case once", setting.seed));
    let tree = room.join("tree");
    if tree.exists() {
        std::fs::remove_dir_all(&tree)?;
    }
    let mut locks = Vec::new();
    for number in 0..FOLDERS {
        let dir = tree.join(format!("p{number}"));
        write(&dir, MODULES, 40)?;
        if meet == Meet::Wait {
            std::fs::create_dir(dir.join("__pycache__"))?;
            let path = dir.join("__pycache__").join(LOCK);
            let file = File::create(&path)?;
            fs2::FileExt::try_lock_exclusive(&file)?;
            locks.push((path, file));
        }
    }
    let mut runs = Vec::new();
    for number in 0..RUNS {
        let mut command = compile(setting, &[&tree], room, 1, 60);
        if meet == Meet::Delay {
            let inner = command;
            command = Command::new("strace");
            command.args(["-f", "-b", "execve", "-qq", "-o", "/dev/null", "-e", "trace=flock", "-e", "inject=flock:delay_enter=250000"]);
            command.arg(inner.get_program()).args(inner.get_args());
            pass_environment(&inner, &mut command);
        }
        runs.push(Run::start(command, room, &format!("run{number}"))?);
    }
    if meet == Meet::Wait {
        for run in &mut runs {
            until("a run waits for a lock", || run.waits())?;
        }
        for (path, file) in locks {
            std::fs::remove_file(path)?;
            drop(file);
        }
    }
    let mut built: HashMap<String, usize> = HashMap::new();
    for run in runs {
        let ended = run.end(HUNG)?;
        if ended.code != Some(0) {
            complain(format!("a run exits {:?}: {}", ended.code, ended.err.trim()));
        }
        let mut told = 0;
        for (path, action, _) in ended.entries() {
            told += 1;
            *built.entry(path.to_owned()).or_default() += usize::from(action == "built");
        }
        if told != FOLDERS * MODULES {
            complain(format!("a run tells of {told} entries"));
        }
        tally.checked(u64::try_from(told)?);
    }
    if let Some((path, times)) = built.iter().find(|(_, times)| **times != 1) {
        complain(format!("{path} is compiled {times} times, {} compiled in all", built.values().sum::<usize>()));
    }
    is_done(&tree, FOLDERS * MODULES, &complain)?;
    Ok(built.values().sum())
}
