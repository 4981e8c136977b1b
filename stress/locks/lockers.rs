//! Processes that take one directory's lock over and over: the product's own, and three stand-ins. `stress locker KIND DIR SECTIONS PAUSE`
//! is one of them. Each section makes a marker that must not be there, and takes it away.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytekeep::base::lock::{Attempt, DirLock};
use bytekeep::base::sys::Dir;

use crate::run::{interrupted, kill};

/// How many of them work against each other.
pub(crate) const PROCESSES: u64 = 4;
/// After so long one gives up, so that none outlives a harness that died.
const LIMIT: Duration = Duration::from_secs(90);

/// Whose lock it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// The library's, as the command takes it.
    Product,
    /// A stand-in as it should be: the inode compared after the lock, the file removed before its release.
    Good,
    /// A stand-in without the comparison.
    NoComparison,
    /// A stand-in that compares, and removes the file after the release.
    LateRemoval,
}

pub(crate) const KINDS: [(Kind, &str); 4] =
    [(Kind::Product, "product"), (Kind::Good, "good"), (Kind::NoComparison, "no-comparison"), (Kind::LateRemoval, "late-removal")];

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        KINDS.iter().find(|(kind, _)| *kind == self).map_or("?", |(_, name)| name)
    }

    /// Must it be found out?
    pub(crate) fn is_naive(self) -> bool {
        matches!(self, Self::NoComparison | Self::LateRemoval)
    }
}

/// What is held: dropped, it is let go.
enum Held {
    Product(#[allow(dead_code, reason = "held until it is dropped")] DirLock),
    StandIn { file: Option<File>, path: PathBuf, kind: Kind },
}

impl Drop for Held {
    fn drop(&mut self) {
        let Self::StandIn { file, path, kind } = self else { return };
        if *kind == Kind::LateRemoval {
            file.take();
        }
        if let Err(error) = std::fs::remove_file(&*path)
            && (*kind == Kind::Good || error.kind() != ErrorKind::NotFound)
        {
            println!("{} could not be removed: {error}", path.display());
        }
    }
}

fn try_take(kind: Kind, dir: &Arc<Dir>) -> Result<Option<Held>> {
    if kind == Kind::Product {
        return Ok(match DirLock::try_take(dir)? {
            Attempt::Held(lock) => Some(Held::Product(lock)),
            Attempt::Busy(_) => None,
        });
    }
    let path = dir.path().join("lock");
    let file = File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
    match fs2::FileExt::try_lock_exclusive(&file) {
        Err(error) if error.kind() == fs2::lock_contended_error().kind() => return Ok(None),
        locked => locked?,
    }
    if kind != Kind::NoComparison {
        let own = file.metadata()?;
        match std::fs::metadata(&path) {
            Ok(named) if (named.dev(), named.ino()) == (own.dev(), own.ino()) => {}
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => return Ok(None),
        }
    }
    Ok(Some(Held::StandIn { file: Some(file), path, kind }))
}

/// What lockers did, all together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) taken: u64,
    /// sections in which somebody else was
    pub(crate) two: u64,
    /// attempts that found it busy
    pub(crate) busy: u64,
    /// calls that strace says it delayed
    pub(crate) delayed: u64,
}

/// Whether this process was started to be one; then it has done its work.
pub(crate) fn asked() -> Option<Result<()>> {
    let all: Vec<_> = std::env::args().skip(1).collect();
    match &all.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["locker", kind, dir, sections, pause] => Some(work(kind, Path::new(dir), sections, pause)),
        _ => None,
    }
}

fn work(kind: &str, dir: &Path, sections: &str, pause: &str) -> Result<()> {
    let (kind, _) = KINDS.into_iter().find(|(_, name)| *name == kind).context("no lock is called so")?;
    let (sections, pause): (u64, u64) = (sections.parse()?, pause.parse()?);
    let (marker, dir) = (dir.join("marker"), Arc::new(Dir::open_root(dir)?));
    println!("ready");
    // All begin when the harness lets go of this.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    let start = Instant::now();
    let mut count = Count::default();
    while count.taken < sections && start.elapsed() < LIMIT {
        let Some(held) = try_take(kind, &dir)? else {
            count.busy += 1;
            std::thread::yield_now();
            continue;
        };
        count.taken += 1;
        let made = File::create_new(&marker);
        if pause > 0 {
            std::thread::sleep(Duration::from_micros(pause));
        }
        match made.and_then(|_| std::fs::remove_file(&marker)) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound) => count.two += 1,
            Err(error) => return Err(error).context("marker"),
        }
        drop(held);
    }
    println!("{} {} {}", count.taken, count.two, count.busy);
    Ok(())
}

/// Where something is delayed, and how.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Point {
    pub(crate) call: String,
    /// `delay_enter` or `delay_exit`
    pub(crate) when: &'static str,
}

/// How long a call is delayed, in microseconds.
const DELAY: u64 = 2000;
/// How long a section lasts where something is delayed: two that overlap by accident shall also meet.
const PAUSE: u64 = 300;

/// `sections` sections over all processes, each of them delayed at a point, where one is named.
pub(crate) fn compete(kind: Kind, dir: &Path, sections: u64, point: Option<&Point>) -> Result<Count> {
    std::fs::create_dir_all(dir)?;
    let logs: Vec<PathBuf> = (0..PROCESSES).map(|number| dir.with_extension(format!("log{number}"))).collect();
    let mut children = Vec::new();
    for log in &logs {
        let mut command = match point {
            None => Command::new(std::env::current_exe()?),
            Some(Point { call, when }) => {
                let mut command = Command::new("strace");
                command.args(["-f", "--seccomp-bpf", "-qq", "-e", "signal=none", "-o"]).arg(log);
                command.args(["-e", &format!("trace={call}"), "-e", &format!("inject={call}:{when}={DELAY}")]);
                command.arg(std::env::current_exe()?);
                command
            }
        };
        let pause = if point.is_some() { PAUSE } else { 0 };
        command.args(["locker", kind.name()]).arg(dir).args([sections.div_ceil(PROCESSES).to_string(), pause.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        children.push(command.spawn().with_context(|| format!("{} does not start", command.get_program().display()))?);
    }
    let mut count = Count::default();
    let done = children.iter_mut().try_for_each(expect_ready).and_then(|()| {
        for child in &mut children {
            drop(child.stdin.take());
        }
        children.iter_mut().try_for_each(|child| add_up(child, &mut count))
    });
    for child in &mut children {
        // strace passes nothing on when it is killed, but then the locker's own limit ends it.
        if done.is_err() && child.try_wait()?.is_none() {
            kill(child.id());
        }
        child.wait()?;
    }
    done?;
    for log in logs.iter().filter(|_| point.is_some()) {
        count.delayed += u64::try_from(std::fs::read_to_string(log)?.matches("(DELAYED)").count())?;
        std::fs::remove_file(log)?;
    }
    Ok(count)
}

fn expect_ready(child: &mut Child) -> Result<()> {
    let mut line = [0; 6];
    let said = child.stdout.as_mut().context("no pipe")?.read_exact(&mut line);
    if said.is_err() || line != *b"ready\n" {
        let mut text = String::new();
        child.stderr.take().context("no pipe")?.read_to_string(&mut text)?;
        bail!("a locker does not start: {}", text.trim());
    }
    Ok(())
}

fn add_up(child: &mut Child, count: &mut Count) -> Result<()> {
    let mut last = String::new();
    for line in BufReader::new(child.stdout.take().context("no pipe")?).lines() {
        last = line?;
    }
    if interrupted() {
        bail!("interrupted");
    }
    let Ok([taken, two, busy]) = <[u64; 3]>::try_from(last.split(' ').filter_map(|word| word.parse().ok()).collect::<Vec<_>>()) else {
        let mut text = String::new();
        child.stderr.take().context("no pipe")?.read_to_string(&mut text)?;
        bail!("a locker says {last:?}: {}", text.trim());
    };
    count.taken += taken;
    count.two += two;
    count.busy += busy;
    Ok(())
}

/// The calls that taking and releasing this lock make, by their log; without those that only the start makes.
pub(crate) fn calls_of(kind: Kind, dir: &Path) -> Result<Vec<String>> {
    const ROUNDS: usize = 20;
    std::fs::create_dir_all(dir)?;
    let log = dir.with_extension("log");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "signal=none", "-o"]).arg(&log).arg(std::env::current_exe()?);
    command.args(["locker", kind.name()]).arg(dir).args([&ROUNDS.to_string(), "0"]);
    let out = command.stdin(Stdio::null()).output()?;
    if !out.status.success() {
        bail!("a locker alone fails: {}", String::from_utf8_lossy(&out.stderr));
    }
    let text = std::fs::read_to_string(&log)?;
    // After the barrier nothing is called that is no part of a section.
    let sections = text.rsplit_once("read(0,").map_or(&*text, |(_, after)| after);
    let mut calls: Vec<(String, usize)> = Vec::new();
    for line in sections.lines() {
        let Some((name, _)) = line.split_once('(') else { continue };
        let name = name.rsplit(' ').next().unwrap_or_default();
        match calls.iter_mut().find(|(known, _)| known == name) {
            Some((_, times)) => *times += 1,
            None => calls.push((name.to_owned(), 1)),
        }
    }
    // `geteuid` and the like are no part of the protocol.
    Ok(calls.into_iter().filter(|(name, times)| *times >= ROUNDS && !name.starts_with("get")).map(|(name, _)| name).collect())
}
