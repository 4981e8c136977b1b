//! A small tree, a stand-in interpreter beside it, and what of the two must hold after each run.

use std::collections::{BTreeMap, HashSet};
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::run::{Setting, children, interrupted, kill, written};
use crate::whole::{Loader, Look, digest, files, is_artifact, leftovers, look};
use crate::workers::TIMEOUT;
use crate::workers::proxy::{self, Behaviour, GOOD, MARK, RECORD};

/// Small, for every byte of what is said of them is a case; the second warns.
pub(crate) const SOURCES: [(&str, &str); 3] = [("a.py", "x = 1\n"), ("b.py", "def f(a):\n    return a is 1\n"), ("p/c.py", "'c'\n")];
/// Who has not ended by then is ended.
const HUNG: Duration = Duration::from_secs(240);

/// The processes that we wait for ourselves; whoever else comes to us is buried.
#[derive(Debug, Default)]
pub(crate) struct Started {
    pids: Mutex<HashSet<u32>>,
    slots: AtomicUsize,
}

impl Started {
    pub(crate) fn number(&self) -> usize {
        1 + self.slots.fetch_add(1, Ordering::Relaxed)
    }

    /// Buries those that ended after whoever started them.
    pub(crate) fn reap(&self) {
        // held, so that none that is being started is taken for one of them
        let ours = self.pids.lock().unwrap();
        for (pid, _) in children().into_iter().filter(|(pid, ended)| *ended && !ours.contains(pid)) {
            let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
            if let Err(error) = rustix::process::waitpid(pid, rustix::process::WaitOptions::NOHANG) {
                println!("a process that ended could not be waited for: {error}");
            }
        }
    }
}

/// What came of one run.
#[derive(Debug)]
pub(crate) struct Run {
    /// None: a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) wall: Duration,
    pub(crate) text: String,
    pub(crate) starts: usize,
    pub(crate) hit: bool,
}

impl Run {
    /// What it said, in one line.
    pub(crate) fn said(&self) -> String {
        self.text.trim().replace('\n', " / ")
    }
}

#[derive(Debug)]
pub(crate) struct Slot {
    dir: PathBuf,
    tree: PathBuf,
    /// What an undisturbed run makes.
    right: BTreeMap<PathBuf, Vec<u8>>,
}

impl Slot {
    pub(crate) fn lay_out(setting: &Setting, room: &Path, number: usize, started: &Started) -> Result<Self> {
        let dir = room.join(format!("slot{number}"));
        let tree = dir.join("tree");
        for name in ["tree/p", "tmp", "cache"] {
            std::fs::create_dir_all(dir.join(name))?;
        }
        for (name, text) in SOURCES {
            std::fs::write(tree.join(name), text)?;
            let past = std::time::SystemTime::now() - Duration::from_secs(1000);
            std::fs::File::options().write(true).open(tree.join(name))?.set_modified(past)?;
        }
        std::os::unix::fs::symlink(std::env::current_exe()?, dir.join("python"))?;
        let mut slot = Self { dir, tree, right: BTreeMap::new() };
        let run = slot.run(setting, started, GOOD)?;
        if run.code != Some(0) {
            bail!("with a worker that behaves the product exits {:?}: {}", run.code, run.said());
        }
        slot.right = slot.artifacts()?;
        let mut loader = Loader::start(&setting.python)?;
        started.pids.lock().unwrap().insert(loader.id());
        for (path, bytes) in &slot.right {
            let name = path.file_name().and_then(|name| name.to_str()).context("no name")?;
            let source = SOURCES.iter().find(|(source, _)| name.as_bytes()[0] == source.trim_start_matches("p/").as_bytes()[0]);
            let (_, source) = source.context("an artifact without a source")?;
            if look(bytes) != (Look::Sealed { source: digest(source.as_bytes()), adopted: false }) {
                bail!("an undisturbed run leaves {} unsealed, or sealed for another source", path.display());
            }
            if let Some(why) = loader.refuses(bytes)? {
                bail!("an undisturbed run leaves {}, of which {why}", path.display());
            }
        }
        let id = loader.id();
        drop(loader);
        started.pids.lock().unwrap().remove(&id);
        if slot.right.len() != SOURCES.len() {
            bail!("an undisturbed run makes {} artifacts of {} sources", slot.right.len(), SOURCES.len());
        }
        Ok(slot)
    }

    /// What a worker says from its hello to its last answer, with this much to do.
    pub(crate) fn record(&self, setting: &Setting, started: &Started) -> Result<Vec<u8>> {
        self.clear()?;
        let run = self.run(setting, started, RECORD)?;
        if run.code != Some(0) || run.starts != 1 {
            bail!("a worker that is recorded: exit {:?}, {} started: {}", run.code, run.starts, run.said());
        }
        Ok(std::fs::read(self.dir.join("record"))?)
    }

    fn artifacts(&self) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
        let all = files(&self.tree).into_iter().filter(|path| is_artifact(path));
        all.map(|path| std::fs::read(&path).map(|bytes| (path, bytes))).collect::<std::io::Result<_>>().map_err(Into::into)
    }

    /// Back to a tree without artifacts.
    pub(crate) fn clear(&self) -> Result<()> {
        for dir in [self.tree.join("__pycache__"), self.tree.join("p/__pycache__")] {
            if dir.exists() {
                std::fs::remove_dir_all(dir)?;
            }
        }
        Ok(())
    }

    pub(crate) fn run(&self, setting: &Setting, started: &Started, behaviour: Behaviour) -> Result<Run> {
        behaviour.tell(&self.dir, &setting.python.path)?;
        let mut said = tempfile::tempfile_in(&self.dir)?;
        let mut setting = setting.clone();
        setting.python.path = self.dir.join("python");
        let mut command = setting.bytekeep("compile", &self.tree, 1, &self.dir.join("cache"));
        command.args(["--timeout", &TIMEOUT.to_string()]).env("TMPDIR", self.dir.join("tmp"));
        command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said.try_clone()?);
        let start = Instant::now();
        let mut child = {
            let mut ours = started.pids.lock().unwrap();
            let child = command.spawn().context("the product does not start")?;
            ours.insert(child.id());
            child
        };
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if start.elapsed() > HUNG || interrupted() {
                kill(child.id());
                break child.wait()?;
            }
            std::thread::sleep(Duration::from_millis(3));
        };
        started.pids.lock().unwrap().remove(&child.id());
        let wall = start.elapsed();
        if interrupted() {
            bail!("interrupted");
        }
        let mut text = String::new();
        said.rewind()?;
        said.read_to_string(&mut text)?;
        let (starts, hit) = proxy::starts(&self.dir);
        Ok(Run { code: status.code(), wall, text, starts, hit })
    }

    /// Says how many artifacts are not there. One that is must be what an undisturbed run makes, to the last byte.
    pub(crate) fn judge(&self, complain: &dyn Fn(String)) -> Result<usize> {
        let found = self.artifacts()?;
        for (path, bytes) in &found {
            match self.right.get(path) {
                Some(right) if right == bytes => {}
                Some(_) => complain(format!("{} is not what an undisturbed run makes: {}", path.display(), describe(bytes))),
                None => complain(format!("{} should not be there", path.display())),
            }
        }
        let left = leftovers(&self.tree);
        let sources = files(&self.tree).iter().filter(|path| path.extension().is_some_and(|suffix| suffix == "py")).count();
        if let Some(path) = left.first() {
            complain(format!("{} is left over", path.display()));
        }
        if files(&self.tree).len() != sources + found.len() + left.iter().filter(|path| path.is_file()).count() || sources != SOURCES.len()
        {
            complain("there are files that should not be there".to_owned());
        }
        if let Some(entry) = std::fs::read_dir(self.dir.join("tmp"))?.next() {
            complain(format!("{} is left over", entry?.path().display()));
        }
        Ok(self.right.len() - found.len().min(self.right.len()))
    }

    /// Is a source or the interpreter named, and something said of it?
    pub(crate) fn names_somebody(&self, text: &str) -> bool {
        let (tree, python) = (written(&self.tree), written(&self.dir.join("python")));
        text.lines().any(|line| (line.contains(&format!("{tree}/")) || line.contains(&python)) && line.contains(": "))
    }

    /// The next run, with workers that behave.
    pub(crate) fn heal(&self, setting: &Setting, started: &Started, complain: &dyn Fn(String)) -> Result<()> {
        let run = self.run(setting, started, GOOD)?;
        if run.code != Some(0) {
            complain(format!("the next run exits {:?}: {}", run.code, run.said()));
        }
        let missing = self.judge(&|what| complain(format!("after the next run {what}")))?;
        if missing > 0 {
            complain(format!("after the next run {missing} artifacts are not there"));
        }
        Ok(())
    }

    /// How many of the stand-in's processes are alive still; they are ended.
    pub(crate) fn strays_after(&self, limit: Duration) -> usize {
        let start = Instant::now();
        loop {
            let left = self.processes();
            if left.is_empty() || start.elapsed() > limit {
                for pid in &left {
                    kill(*pid);
                }
                return left.len();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// By what they were started as, or by the mark that stand-ins put in the environment of others.
    fn processes(&self) -> Vec<u32> {
        let python = format!("{}\0", self.dir.join("python").display());
        let mark = format!("{MARK}={}\0", self.dir.display());
        let Ok(all) = std::fs::read_dir("/proc") else { return Vec::new() };
        let pids = all.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let has = |pid: &u32, file: &str, what: &str| {
            let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            bytes.windows(what.len()).any(|part| part == what.as_bytes())
        };
        pids.filter(|pid| has(pid, "cmdline", &python) || has(pid, "environ", &mark)).collect()
    }
}

fn describe(bytes: &[u8]) -> String {
    match look(bytes) {
        Look::Sealed { adopted, .. } => format!("{} bytes, sealed{}", bytes.len(), if adopted { " and adopted" } else { "" }),
        Look::Unsealed => format!("{} bytes, unsealed", bytes.len()),
        Look::Torn(why) => why,
    }
}
