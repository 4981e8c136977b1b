//! SIGKILL on entry of every system call that touches files, one case at a time. What is found afterwards must be whole, the next run
//! must heal it, and nothing may be left alive.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};

use crate::corpus::module;
use crate::mount::{check, copy, on_path};
use crate::run::{Random, Setting, Tally, interrupted, kill, measure, strays_after};
use crate::whole::{Loader, Look, digest, files, is_artifact, is_leftover, leftovers, look};

/// A `?` before a name: not every architecture has it.
const CALLS: &str = "openat,?openat2,write,pwrite64,writev,copy_file_range,fallocate,?sync_file_range,fsync,fdatasync,syncfs,close,\
    ?rename,renameat,renameat2,?link,linkat,?unlink,unlinkat,?rmdir,?mkdir,mkdirat,flock,ftruncate,fchown,fchownat,fchmod,fchmodat,utimensat";

const SOURCES: usize = 20;
const PATIENCE: Duration = Duration::from_secs(5);

/// What is killed, on which tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Op {
    /// compile, no artifacts yet
    Fresh,
    /// compile over stale artifacts
    Stale,
    /// compile --force over good ones
    Force,
    Clean,
    Repair,
    Seal,
    /// compile, and one of its workers is killed instead
    Worker,
}

const OPS: [(Op, &str, &str); 7] = [
    (Op::Fresh, "fresh", "compile"),
    (Op::Stale, "stale", "compile"),
    (Op::Force, "force", "compile"),
    (Op::Clean, "clean", "clean"),
    (Op::Repair, "repair", "repair"),
    (Op::Seal, "seal", "seal"),
    (Op::Worker, "worker", "compile"),
];

#[derive(Debug, Clone)]
struct Case {
    op: Op,
    name: &'static str,
    verb: &'static str,
    call: String,
    number: usize,
}

impl Case {
    fn again(&self, seed: u64) -> String {
        format!("kill --seed {seed} --case {}:{}:{}", self.name, self.call, self.number)
    }
}

type Contents = BTreeMap<PathBuf, Vec<u8>>;

pub(crate) fn possible() -> Result<(), String> {
    if !on_path("strace") {
        return Err("there is no strace".to_owned());
    }
    let tried = Command::new("strace").args(["-f", "-b", "execve", "-qq", "-o", "/dev/null", "true"]).output();
    match tried {
        Ok(out) if out.status.success() => Ok(()),
        Ok(out) => Err(format!("strace cannot trace here: {}", String::from_utf8_lossy(&out.stderr).trim())),
        Err(error) => Err(format!("strace does not start: {error}")),
    }
}

pub(crate) fn run(setting: &Setting, seconds: Option<u64>, only: Option<&str>, random: &mut Random, tally: &Tally) -> Result<()> {
    if let Err(why) = possible() {
        println!("SKIP kill: {why}");
        return Ok(());
    }
    let room = tempfile::Builder::new().prefix("kill-").tempdir_in(&setting.scratch)?;
    let mut bench = Bench::lay_out(setting, room.path())?;
    let start = Instant::now();
    let mut cases = Vec::new();
    for (op, name, verb) in OPS {
        let here = bench.count(op, verb)?;
        println!("kill: {name}: {} calls", here.iter().map(|(_, times)| times).sum::<usize>());
        for (call, times) in here {
            cases.extend((1..=times).map(|number| Case { op, name, verb, call: call.clone(), number }));
        }
    }
    random.shuffle(&mut cases);
    // in turn from each command and call: a short run must not spend itself on `close`
    let mut ranks: HashMap<(Op, String), usize> = HashMap::new();
    cases.sort_by_cached_key(|case| {
        let rank = ranks.entry((case.op, case.call.clone())).or_default();
        *rank += 1;
        *rank
    });
    if let Some(only) = only {
        cases.retain(|case| format!("{}:{}:{}", case.name, case.call, case.number) == only);
        if cases.is_empty() {
            bail!("no case is called {only}; a case is COMMAND:CALL:N");
        }
    }
    let (mut done, mut hit) = (0, 0);
    for case in &cases {
        if interrupted() || seconds.is_some_and(|limit| start.elapsed().as_secs() >= limit) {
            break;
        }
        let before = tally.violations();
        hit += usize::from(bench.one(case, tally)?);
        tally.checked(1);
        done += 1;
        if tally.violations() > before && only.is_some() {
            println!("the tree stays in {}", room.keep().display());
            return Ok(());
        }
    }
    println!("kill: {done} of {} cases, {hit} hit, {:.1} s", cases.len(), start.elapsed().as_secs_f64());
    if only.is_none() && done > 0 && hit == 0 {
        tally.violation("no kill hit anything: nothing was shown", "kill");
    }
    Ok(())
}

/// One tree that is put back to what each command needs before each case.
struct Bench<'a> {
    setting: &'a Setting,
    tree: PathBuf,
    room: PathBuf,
    loader: Loader,
    ours: HashSet<u32>,
    /// what an artifact may be besides new, for each command
    old: HashMap<Op, Contents>,
    sources: Contents,
}

impl<'a> Bench<'a> {
    fn lay_out(setting: &'a Setting, room: &Path) -> Result<Self> {
        let loader = Loader::start(&setting.python.path)?;
        let ours = HashSet::from([loader.id()]);
        let (tree, room) = (room.join("tree"), room.to_owned());
        let mut bench = Self { setting, tree, room, loader, ours, old: HashMap::new(), sources: Contents::new() };
        bench.write_sources(0, 2000)?;
        bench.must("compile")?;
        bench.write_sources(1, 1000)?;
        bench.sources = bench.contents(|path| path.extension().is_some_and(|suffix| suffix == "py"));
        bench.save(Op::Stale)?;
        bench.must("compile")?;
        for path in bench.contents(is_artifact).keys() {
            if !matches!(look(&std::fs::read(path)?), Look::Sealed { adopted: false, .. }) {
                bail!("after an unharmed compile {} is not sealed", path.display());
            }
        }
        bench.save(Op::Force)?;
        bench.save(Op::Clean)?;
        for (number, path) in bench.contents(is_artifact).keys().enumerate().filter(|(number, _)| number % 4 == 0) {
            damage(path, number / 4)?;
        }
        bench.save(Op::Repair)?;
        for path in bench.contents(is_artifact).keys() {
            std::fs::remove_file(path)?;
        }
        bench.save(Op::Fresh)?;
        bench.save(Op::Worker)?;
        check(&mut setting.compileall(&bench.tree, 1))?;
        bench.save(Op::Seal)?;
        Ok(bench)
    }

    fn write_sources(&self, version: usize, age: u64) -> Result<()> {
        for number in 0..SOURCES {
            let dir = self.tree.join(["pkg", "pkg/sub", "other"][number % 3]);
            std::fs::create_dir_all(&dir)?;
            let path = dir.join(format!("m{number}.py"));
            std::fs::write(&path, module(number + 1000 * version, 10 + version))?;
            std::fs::File::options().write(true).open(&path)?.set_modified(SystemTime::now() - Duration::from_secs(age))?;
        }
        Ok(())
    }

    fn template(&self, op: Op) -> PathBuf {
        self.room.join(format!("as-{op:?}"))
    }

    fn save(&mut self, op: Op) -> Result<()> {
        self.old.insert(op, self.contents(is_artifact));
        copy(&self.tree, &self.template(op))
    }

    fn restore(&self, op: Op) -> Result<()> {
        std::fs::remove_dir_all(&self.tree)?;
        copy(&self.template(op), &self.tree)
    }

    fn contents(&self, wanted: impl Fn(&Path) -> bool) -> Contents {
        let all = files(&self.tree).into_iter().filter(|path| wanted(path));
        all.filter_map(|path| std::fs::read(&path).ok().map(|bytes| (path, bytes))).collect()
    }

    fn must(&self, verb: &str) -> Result<()> {
        check(&mut self.setting.bytekeep(verb, &self.tree, 1, &self.room.join("cache"))).map(drop)
    }

    fn arguments(&self, op: Op, verb: &str) -> Vec<std::ffi::OsString> {
        let mut all = vec![self.setting.bin.clone().into_os_string()];
        all.extend(self.setting.arguments(verb, &self.tree, 1));
        if op == Op::Force {
            all.push("--force".into());
        }
        all
    }

    /// strace counts per thread; it lets go of workers at their `execve`, so that only the parent's calls are counted and hit.
    fn strace(&self, trace: &str, inject: Option<&str>, arguments: &[std::ffi::OsString]) -> Command {
        let mut command = Command::new("strace");
        command.args(["-f", "-b", "execve", "-qq", "-o"]).arg(self.room.join("log"));
        command.arg("-e").arg(format!("trace={trace}"));
        if let Some(inject) = inject {
            command.arg("-e").arg(format!("inject={inject}"));
        }
        command.args(arguments).env("XDG_CACHE_HOME", self.room.join("cache"));
        command
    }

    /// How often each call is made by the thread that makes it most.
    fn count(&self, op: Op, verb: &str) -> Result<Vec<(String, usize)>> {
        if op == Op::Worker {
            return Ok(vec![("delay".to_owned(), 40)]);
        }
        self.restore(op)?;
        let cost = measure(vec![self.strace(CALLS, None, &self.arguments(op, verb))])?;
        if cost.code != Some(0) {
            bail!("an unharmed {verb} does not exit 0 but {:?}: {}", cost.code, cost.text.trim());
        }
        let mut each: HashMap<(String, String), usize> = HashMap::new();
        for line in std::fs::read_to_string(self.room.join("log"))?.lines() {
            let mut words = line.split_whitespace();
            let (Some(pid), Some(rest)) = (words.next(), words.next()) else { continue };
            if let Some((call, _)) = rest.split_once('(')
                && call.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            {
                *each.entry((pid.to_owned(), call.to_owned())).or_default() += 1;
            }
        }
        let mut most: BTreeMap<String, usize> = BTreeMap::new();
        for ((_, call), times) in each {
            let found = most.entry(call).or_default();
            *found = times.max(*found);
        }
        Ok(most.into_iter().collect())
    }

    /// One case. Says whether the kill hit.
    fn one(&mut self, case: &Case, tally: &Tally) -> Result<bool> {
        self.restore(case.op)?;
        let again = case.again(self.setting.seed);
        let complain = |what: String| tally.violation(&format!("{} killed at {} {}: {what}", case.name, case.call, case.number), &again);
        let hit = if case.op == Op::Worker {
            self.kill_worker(case, &complain)?
        } else {
            let inject = format!("{}:signal=SIGKILL:when={}", case.call, case.number);
            measure(vec![self.strace(&case.call, Some(&inject), &self.arguments(case.op, case.verb))])?;
            std::fs::read_to_string(self.room.join("log"))?.contains("killed by SIGKILL")
        };
        let left = strays_after(Duration::from_secs(2), &self.ours);
        if left > 0 {
            complain(format!("{left} processes outlived it"));
        }
        self.judge(case.op, false, &complain)?;
        let verbs: &[&str] = if case.op == Op::Repair { &["repair", "compile"] } else { &["compile"] };
        for verb in verbs {
            let cost = measure(vec![self.setting.bytekeep(verb, &self.tree, 1, &self.room.join("cache"))])?;
            if cost.code != Some(0) {
                complain(format!("the next {verb} exits {:?}: {}", cost.code, cost.text.trim()));
            }
            if cost.wall > PATIENCE {
                complain(format!("the next {verb} took {:.1} s", cost.wall.as_secs_f64()));
            }
        }
        self.judge(case.op, true, &complain)?;
        Ok(hit)
    }

    fn kill_worker(&self, case: &Case, complain: &dyn Fn(String)) -> Result<bool> {
        let arguments = self.arguments(case.op, case.verb);
        let mut command = Command::new(&arguments[0]);
        command.args(&arguments[1..]).env("XDG_CACHE_HOME", self.room.join("cache"));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        std::thread::sleep(Duration::from_millis(4 * u64::try_from(case.number)?));
        let tasks = std::fs::read_dir(format!("/proc/{}/task", child.id())).into_iter().flatten().flatten();
        let text: String = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok()).collect();
        let workers: Vec<u32> = text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
        for pid in &workers {
            kill(*pid);
        }
        let status = child.wait()?;
        if !matches!(status.code(), Some(0 | 1)) {
            complain(format!("it ended with {status} when its worker died"));
        }
        Ok(!workers.is_empty())
    }

    /// `healed`: after the next run, when everything must be there and nothing left over.
    fn judge(&mut self, op: Op, healed: bool, complain: &dyn Fn(String)) -> Result<()> {
        let Self { loader, old: all, sources, tree, .. } = self;
        let (old, good) = (&all[&op], &all[&Op::Force]);
        for path in good.keys() {
            let source = source_of(path, sources)?;
            let mine = old.get(path);
            let bytes = match std::fs::read(path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    if healed || (mine.is_some() && op != Op::Clean) {
                        complain(format!("{} is gone{}", path.display(), if healed { " after the next run" } else { "" }));
                    }
                    continue;
                }
                Err(error) => {
                    complain(format!("{}: {error}", path.display()));
                    continue;
                }
            };
            let damaged = op == Op::Repair || op == Op::Stale;
            if mine == Some(&bytes) && !(healed && damaged && old[path] != good[path]) {
                continue;
            }
            match look(&bytes) {
                Look::Sealed { source: found, adopted } if found == digest(source) => {
                    if adopted && mine.is_none_or(|mine| !bytes.starts_with(mine)) {
                        complain(format!("{} is adopted, and not what was there", path.display()));
                    }
                    if let Some(why) = loader.refuses(&bytes)? {
                        complain(format!("{} is sealed, and {why}", path.display()));
                    }
                }
                Look::Sealed { .. } => complain(format!("{} is sealed for another source", path.display())),
                Look::Unsealed => complain(format!("{} is neither the old one nor sealed", path.display())),
                Look::Torn(why) => complain(format!("{}: {why}", path.display())),
            }
        }
        for path in files(tree) {
            let known = sources.get(&path).map(|bytes| std::fs::read(&path).is_ok_and(|now| now == *bytes));
            let fine = known.unwrap_or_else(|| good.contains_key(&path) || is_leftover(&path));
            if !fine {
                complain(format!("{} should not be there so", path.display()));
            }
        }
        if healed && let Some(path) = leftovers(tree).first() {
            complain(format!("{} is left over after the next run", path.display()));
        }
        Ok(())
    }
}

fn source_of<'a>(artifact: &Path, sources: &'a Contents) -> Result<&'a Vec<u8>> {
    let dir = artifact.parent().and_then(Path::parent).context("an artifact outside a __pycache__")?;
    let stem = artifact.file_name().and_then(|name| name.to_str()).and_then(|name| name.split('.').next()).context("no stem")?;
    sources.get(&dir.join(format!("{stem}.py"))).with_context(|| format!("{} has no source", artifact.display()))
}

/// One of five kinds of damage, in a way that leaves the artifact's times what a bad disk would leave.
fn damage(path: &Path, kind: usize) -> Result<()> {
    let mut bytes = std::fs::read(path)?;
    let middle = bytes.len() / 2;
    match kind {
        0 => bytes.truncate(middle),
        1 => bytes[middle] ^= 4,
        2 => bytes[20..middle].fill(0),
        3 => bytes.truncate(16),
        _ => bytes.clear(),
    }
    Ok(std::fs::write(path, bytes)?)
}
