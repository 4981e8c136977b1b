//! Runs processes and says what they cost: wall, CPU, memory. And what every program shares: seed, tally, interpreter.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::hash::Hash;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// An interrupt ends the program in order, so that mounts and trees go; orphans of what we start come to us.
pub(crate) fn prepare() -> Result<()> {
    let flag = INTERRUPTED.get_or_init(|| Arc::new(AtomicBool::new(false)));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(flag))?;
    }
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    Ok(())
}

pub(crate) fn interrupted() -> bool {
    INTERRUPTED.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// What every program is given.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) bin: PathBuf,
    pub(crate) python: Python,
    pub(crate) scratch: PathBuf,
    pub(crate) seed: u64,
}

/// Options that somebody keeps in the environment would be tested instead; what `selftest` leaves out is none. Nor is there a store: a
/// run would find what an earlier one compiled, and do another number of calls. Who tests the store names one behind this. For the same
/// reason the records of this machine's package manager are not read.
pub(crate) fn without_options(command: &mut Command) {
    let is_option = |name: &OsStr| name.as_encoded_bytes().starts_with(b"BYTEKEEP_") && name != "BYTEKEEP_WITHOUT";
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_option(name)) {
        command.env_remove(name);
    }
    command.env("BYTEKEEP_NO_STORE", "1").env("BYTEKEEP_IGNORE_RECORDS", "1");
}

/// Takes away the rooms of programs that were killed.
pub(crate) fn sweep(scratch: &Path) -> Result<()> {
    for entry in std::fs::read_dir(scratch)?.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.strip_prefix("room-")?.split('-').nth(1)?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a tree of any depth: std's way keeps a descriptor open for each level.
pub(crate) fn remove(tree: &Path) -> Result<()> {
    crate::mount::check(Command::new("rm").arg("-rf").arg("--").arg(tree)).map(drop)
}

/// A directory in memory, where no disk slows what is done, if there is such a place.
pub(crate) fn memory(program: &str) -> Option<tempfile::TempDir> {
    let dir = Path::new("/dev/shm");
    let Ok(room) = tempfile::Builder::new().prefix(&format!("room-{program}-{}-", std::process::id())).tempdir_in(dir) else {
        println!("{program}: no /dev/shm: it takes longer");
        return None;
    };
    // another user's are not ours to remove
    if let Err(error) = sweep(dir) {
        println!("{program}: {error:#}");
    }
    Some(room)
}

/// A room that is to be looked at: no later run takes it away.
pub(crate) fn keep(room: tempfile::TempDir) -> Result<PathBuf> {
    let path = room.keep();
    let name = path.file_name().and_then(|name| name.to_str()).context("a room without a name")?;
    let kept = path.with_file_name(name.replacen("room-", "kept-", 1));
    std::fs::rename(&path, &kept)?;
    Ok(kept)
}

impl Setting {
    /// A directory for one program's trees, gone at its end; the next run of any takes away what a killed one left.
    pub(crate) fn room(&self, program: &str) -> Result<tempfile::TempDir> {
        Ok(tempfile::Builder::new().prefix(&format!("room-{program}-{}-", std::process::id())).tempdir_in(&self.scratch)?)
    }

    /// The command under test. What it remembers goes into `cache`.
    pub(crate) fn bytekeep(&self, verb: &str, tree: &Path, jobs: usize, cache: &Path) -> Command {
        let mut command = Command::new(&self.bin);
        command.args(self.arguments(verb, tree, jobs)).env("XDG_CACHE_HOME", cache);
        without_options(&mut command);
        command
    }

    pub(crate) fn arguments(&self, verb: &str, tree: &Path, jobs: usize) -> Vec<OsString> {
        let mut all: Vec<OsString> = vec![verb.into()];
        if matches!(verb, "compile" | "repair") {
            all.extend(["--python".into(), self.python.path.clone().into()]);
        }
        all.extend(["--jobs".into(), jobs.to_string().into()]);
        all.push(tree.into());
        all
    }

    pub(crate) fn compileall(&self, tree: &Path, jobs: usize) -> Command {
        let mut command = Command::new(&self.python.path);
        command.args(["-m", "compileall", "-q", "-j", &jobs.to_string()]).arg(tree);
        command
    }
}

/// Counts what was checked and prints each violation as it comes.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    checked: AtomicU64,
    violations: AtomicU64,
    /// what the command that repeats a violation says besides the case: ` --bin PATH`
    how: String,
    /// a stand-in's violations are wanted, and are nobody's to mend
    quiet: bool,
}

impl Tally {
    pub(crate) fn new(how: String) -> Self {
        Self { how, ..Self::default() }
    }

    pub(crate) fn quiet() -> Self {
        Self { quiet: true, ..Self::default() }
    }

    pub(crate) fn checked(&self, more: u64) {
        self.checked.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn violation(&self, what: &str, again: &str) {
        // a broken tree would say the same a thousand times
        if self.violations.fetch_add(1, Ordering::Relaxed) < 50 && !self.quiet {
            let feature = if cfg!(feature = "fault") { " --features fault" } else { "" };
            println!("VIOLATION {what} | again: cargo test --release{feature} --test stress -- {again}{}", self.how);
        }
    }

    pub(crate) fn violations(&self) -> u64 {
        self.violations.load(Ordering::Relaxed)
    }

    pub(crate) fn close(&self) -> bool {
        let (checked, violations) = (self.checked.load(Ordering::Relaxed), self.violations());
        println!("{checked} checked, {violations} violations");
        violations == 0
    }
}

/// Reproducible choices (`SplitMix64`).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end.max(1)).unwrap_or(u64::MAX)).unwrap_or(0)
    }

    pub(crate) fn shuffle<T>(&mut self, all: &mut [T]) {
        for i in (1..all.len()).rev() {
            all.swap(i, self.below(i + 1));
        }
    }

    /// Shuffles, then takes one of each kind in turn: however early a run ends, it has seen some of everything.
    pub(crate) fn shuffle_in_turn<T, K: Eq + Hash>(&mut self, all: &mut [T], kind: impl Fn(&T) -> K) {
        self.shuffle(all);
        let mut ranks: HashMap<K, usize> = HashMap::new();
        all.sort_by_cached_key(|one| {
            let rank = ranks.entry(kind(one)).or_default();
            *rank += 1;
            *rank
        });
    }
}

/// The interpreter that compiles.
#[derive(Debug, Clone)]
pub(crate) struct Python {
    pub(crate) path: PathBuf,
    pub(crate) version: String,
    order: (u32, u32),
    /// how long an artifact's header is
    pub(crate) header: usize,
}

impl Python {
    /// The one that was named, else the newest final `CPython` under pyenv's root and on PATH.
    pub(crate) fn find(named: Option<&Path>) -> Result<Self> {
        if let Some(path) = named {
            return Self::ask(path).with_context(|| format!("{} does not answer as a CPython", path.display()));
        }
        let mut paths = under_pyenv("bin/python3");
        paths.extend((8..20).map(|minor| PathBuf::from(format!("python3.{minor}"))));
        paths.push("python3".into());
        let newest = paths.iter().filter_map(|path| Self::ask(path)).max_by_key(|python| python.order);
        newest.context("no CPython found; name one by --python PATH")
    }

    /// A Python 2.7, whose writers truncate in place.
    pub(crate) fn find_old() -> Option<Self> {
        const SAY: &str = "import sys; print('%s %d.%d.%d' % ((sys.executable,) + sys.version_info[:3]))";
        let paths = under_pyenv("bin/python2.7").into_iter().chain(["python2.7".into()]);
        paths.into_iter().find_map(|path| {
            let out = Command::new(path).args(["-E", "-S", "-c", SAY]).stderr(Stdio::null()).output().ok()?;
            let text = String::from_utf8(out.stdout).ok()?;
            let (path, version) = text.trim().rsplit_once(' ')?;
            version.starts_with("2.7.").then(|| Self { path: path.into(), version: version.into(), order: (2, 7), header: 8 })
        })
    }

    fn ask(path: &Path) -> Option<Self> {
        const SAY: &str = "import sys; v = sys.version_info; i = sys.implementation; \
            print(sys.executable, i.name, '.'.join(map(str, v[:3])), v[0], v[1], v[3], sep='\\n')";
        let out = Command::new(path).args(["-I", "-c", SAY]).stderr(Stdio::null()).output().ok()?;
        let text = String::from_utf8(out.stdout).ok()?;
        let [path, name, version, major, minor, level] = text.lines().collect::<Vec<_>>().try_into().ok()?;
        let order = (major.parse().ok()?, minor.parse().ok()?);
        (name == "cpython" && level == "final").then(|| Self { path: path.into(), version: version.into(), order, header: 16 })
    }
}

/// The newest of each minor version that is here, a 2.7 and `chosen` among them.
pub(crate) fn pythons(chosen: &Python) -> Vec<Python> {
    let mut all = BTreeMap::new();
    for python in under_pyenv("bin/python3").iter().filter_map(|path| Python::ask(path)).chain(Python::find_old()).chain([chosen.clone()]) {
        all.insert(python.order, python);
    }
    all.into_values().collect()
}

/// pyenv's, every `python3` on PATH, and what `BYTEKEEP_TEST_PYTHONS` names: interpreters, or directories with `bin/python` below.
pub(crate) fn interpreters() -> Vec<PathBuf> {
    let below = |dir: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let mut all: Vec<PathBuf> = entries.map(|entry| entry.path().join("bin/python")).collect();
        all.sort();
        all
    };
    let mut paths = under_pyenv("bin/python");
    paths.sort();
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    paths.extend(std::env::split_paths(&on_path).map(|dir| dir.join("python3")));
    for named in std::env::split_paths(&std::env::var_os("BYTEKEEP_TEST_PYTHONS").unwrap_or_default()) {
        paths.extend(if named.is_dir() { [below(&named), vec![named.join("bin/python")]].concat() } else { vec![named] });
    }
    paths.retain(|path| path.exists());
    paths
}

/// A program of every interpreter under pyenv's root.
pub(crate) fn under_pyenv(program: &str) -> Vec<PathBuf> {
    let root = std::env::var_os("PYENV_ROOT").map(PathBuf::from).or_else(|| Some(std::env::home_dir()?.join(".pyenv")));
    let versions = root.and_then(|root| std::fs::read_dir(root.join("versions")).ok());
    versions.into_iter().flatten().flatten().map(|entry| entry.path().join(program)).collect()
}

/// What a run cost and said.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cost {
    pub(crate) wall: Duration,
    /// of it and of all its descendants that were waited for
    pub(crate) cpu: Duration,
    /// of the process itself, without its descendants
    pub(crate) peak_kib: u64,
    pub(crate) code: Option<i32>,
    pub(crate) text: String,
}

/// Runs commands at the same time to their end, and says what all of them cost together.
pub(crate) fn measure(commands: Vec<Command>) -> Result<Cost> {
    let mut said = tempfile::tempfile()?;
    let stop = Arc::new(AtomicBool::new(false));
    let known: HashSet<u32> = children().into_iter().map(|(pid, _)| pid).collect();
    let cpu = children_cpu();
    let start = Instant::now();
    let mut started = Vec::new();
    for mut command in commands {
        command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said.try_clone()?);
        started.push(command.spawn().with_context(|| format!("{} does not start", command.get_program().display()))?);
    }
    let first = started.first().map(std::process::Child::id);
    let watcher = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let mut peak = 0;
            while !stop.load(Ordering::Relaxed) {
                peak = first.and_then(high_water).unwrap_or(0).max(peak);
                std::thread::sleep(Duration::from_millis(10));
            }
            peak
        }
    });
    let mut code = Some(0);
    for child in &mut started {
        let status = child.wait()?;
        if status.code() != Some(0) {
            code = status.code();
        }
    }
    let wall = start.elapsed();
    stop.store(true, Ordering::Relaxed);
    reap(&known);
    let peak_kib = watcher.join().unwrap_or(0);
    let mut text = Vec::new();
    said.rewind()?;
    said.read_to_end(&mut text)?;
    if interrupted() {
        bail!("interrupted");
    }
    Ok(Cost { wall, cpu: children_cpu().saturating_sub(cpu), peak_kib, code, text: String::from_utf8_lossy(&text).into_owned() })
}

/// CPU time of all descendants that were waited for. The kernel counts it for user space in hundredths of a second.
fn children_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = |field: usize| stat.rsplit(')').next()?.split_whitespace().nth(field - 3)?.parse::<u64>().ok();
    Duration::from_millis(10 * (ticks(16).unwrap_or(0) + ticks(17).unwrap_or(0)))
}

pub(crate) fn high_water(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.split_whitespace().next()?.parse().ok()
}

/// The children of this process, with those that came to us because whoever started them died; and whether each has ended.
pub(crate) fn children() -> Vec<(u32, bool)> {
    let me = std::process::id().to_string();
    let Ok(all) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = all.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mine = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit(')').next()?.split_whitespace();
        let ended = matches!(fields.next()?, "Z" | "X");
        (fields.next()? == me).then_some((pid, ended))
    };
    pids.filter_map(mine).collect()
}

/// The processes that another started, and that live.
pub(crate) fn children_of(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let text: String = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok()).collect();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Processes that outlived who started them. Those in `ours` we started.
pub(crate) fn strays(ours: &HashSet<u32>) -> Vec<u32> {
    children().into_iter().filter(|(pid, ended)| !ended && !ours.contains(pid)).map(|(pid, _)| pid).collect()
}

/// Waits for what came to us, so that its CPU time is counted: the server that forks the workers of `compileall -j2` is nobody's child.
pub(crate) fn reap(known: &HashSet<u32>) {
    let start = Instant::now();
    loop {
        for (pid, _) in children().into_iter().filter(|(pid, ended)| *ended && !known.contains(pid)) {
            let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
            if let Err(error) = rustix::process::waitpid(pid, rustix::process::WaitOptions::NOHANG) {
                println!("a process that ended could not be waited for: {error}");
            }
        }
        if strays(known).is_empty() || start.elapsed() > Duration::from_secs(1) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How many processes want to run, averaged over a minute: measured figures are worth little where others work too.
pub(crate) fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

/// Of a line of `--format json` that tells of an entry, its path and verdict.
pub(crate) fn verdict(line: &str) -> Option<(PathBuf, String)> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    (line.get("kind")? == "entry").then_some(())?;
    Some((line.get("path")?.as_str()?.into(), line.get("verdict")?.as_str()?.to_owned()))
}

/// How a message writes a path: what lies below the working directory is written from there. Part of the whole path, too.
pub(crate) fn written(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}

/// Waits until no stray is left; ends those that stay, and says how many they were.
pub(crate) fn strays_after(limit: Duration, ours: &HashSet<u32>) -> usize {
    let start = Instant::now();
    loop {
        let left = strays(ours);
        if left.is_empty() || start.elapsed() > limit {
            for pid in &left {
                kill(*pid);
            }
            return left.len();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// SIGKILL to one process that we started or that came to us.
pub(crate) fn kill(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw)
        && let Err(error) = rustix::process::kill_process(pid, rustix::process::Signal::KILL)
        && error != rustix::io::Errno::SRCH
    {
        println!("pid {} could not be ended: {error}", pid.as_raw_nonzero());
    }
}
