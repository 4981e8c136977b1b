//! Power cuts at every moment of a run, in memory: its calls are recorded, replayed on a disk that forgets, and every state that may be
//! left is judged. Without root, and the strongest there is.

pub(crate) mod replay;
pub(crate) mod states;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};

use crate::corpus::module;
use crate::crashstates::replay::Disk;
use crate::crashstates::states::{Artifact, Artifacts, States, lay_out, not_new};
use crate::mount::{check, copy};
use crate::run::{Random, Setting, Tally, interrupted, measure, without_options};
use crate::standin;
use crate::strace_log::{Log, strace};
use crate::whole::{digest, files, is_artifact};

/// What is run on which tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    /// compile, no artifacts yet
    Fresh,
    /// compile over stale artifacts
    Stale,
    /// repair; every second artifact is damaged
    Repair,
    /// compile; the sources' times were changed
    Restamp,
    /// compile, into another tree that is not there yet: many directories are made
    Prefix,
}

const OPS: [(Op, &str, &str); 5] = [
    (Op::Fresh, "fresh", "compile"),
    (Op::Stale, "stale", "compile"),
    (Op::Repair, "repair", "repair"),
    (Op::Restamp, "restamp", "compile"),
    (Op::Prefix, "prefix", "compile"),
];
/// And whether it must hold.
const MODES: [(&str, bool); 3] = [("batch", true), ("full", true), ("none", false)];
/// Runs with a store that lies on the same disk: the durability of a first run, which fills it from another tree, and of the one that is
/// judged; its link mode; whether it must hold. What the first one flushed not, nobody may lean on who promises more.
const STORES: [(Option<&str>, &str, &str, bool); 12] = [
    (None, "batch", "copy", true),
    (None, "full", "copy", true),
    (None, "batch", "hardlink", true),
    (None, "full", "hardlink", true),
    (None, "none", "hardlink", false),
    (Some("none"), "batch", "copy", true),
    (Some("none"), "full", "copy", true),
    (Some("batch"), "batch", "hardlink", true),
    (Some("batch"), "full", "hardlink", true),
    (Some("none"), "batch", "hardlink", true),
    (Some("none"), "full", "hardlink", true),
    (Some("none"), "none", "hardlink", false),
];
/// States of each of these that are laid out for real, for runs to make the best of; and in a short run, which leaves some out.
const SAMPLES: [usize; 2] = [12, 3];
/// On the disk, beside the tree.
const PREFIX: &str = "else/where";
/// More names that are not flushed make more states, and show no more.
const STORED: usize = 12;
const DIRECTORIES: [&str; 5] = ["pkg", "pkg/sub", "pkg/sub/deep", "other", "."];

/// How much of it.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) sources: usize,
    pub(crate) seconds: Option<u64>,
    /// MODE:OP, store:MODE:LINK, store:FIRST+MODE:LINK or standin:BUG:OP
    pub(crate) case: Option<String>,
}

impl Plan {
    fn wants(&self, name: &str) -> bool {
        self.case.as_ref().is_none_or(|case| case == name)
    }
}

/// What one run came to.
#[derive(Debug)]
struct Found {
    states: usize,
    prefix: usize,
    bad: usize,
    told: Vec<String>,
    not_durable: Vec<String>,
    /// What a run after a cut made wrong: never right, whatever the durability was.
    after: Vec<String>,
}

pub(crate) fn run(setting: &Setting, plan: &Plan, random: &mut Random, tally: &Tally) -> Result<()> {
    if let Err(why) = crate::strace_log::possible() {
        println!("SKIP crashstates: {why}");
        return Ok(());
    }
    let start = Instant::now();
    let sources = plan.sources.max(1);
    let again = |name: &str| format!("crashstates --seed {} --sources {sources} --case {name}", setting.seed);
    let (mut cases, mut rounds) = (0, 0);
    loop {
        let room = setting.room("crashstates")?;
        let salt = random.below(1 << 20);
        let bench = Bench::lay_out(setting, room.path(), sources, salt)?;
        println!("crashstates: {sources} sources in {} directories", DIRECTORIES.len());
        for (mode, holds) in MODES {
            if plan.case.as_ref().is_some_and(|case| case.starts_with("store:")) {
                break;
            }
            for (op, op_name, verb) in OPS {
                let name = format!("{mode}:{op_name}");
                if interrupted() || !plan.wants(&name) {
                    continue;
                }
                let mut arguments = vec![setting.bin.clone().into_os_string()];
                arguments.extend(setting.arguments(verb, &bench.tree, 2));
                arguments.extend(["--durability".into(), mode.into()]);
                if op == Op::Prefix {
                    arguments.extend(["--pycache-prefix".into(), bench.disk.join(PREFIX).into()]);
                }
                let found = bench.one(op, &arguments, &name)?;
                judge(&name, &found, holds, &again(&name), tally);
                cases += 1;
            }
        }
        let few = setting.room("crashstates")?;
        let bench = Bench::lay_out(setting, few.path(), sources.min(STORED), salt)?;
        let short = plan.case.is_none() && sources < 60;
        for (first, mode, link, holds) in STORES {
            let name = format!("store:{}{mode}:{link}", first.map(|first| format!("{first}+")).unwrap_or_default());
            // each kind of it once
            let left_out = mode == "full" || matches!((first, mode, link), (None, _, "copy") | (None, "none", _) | (Some("batch"), ..));
            if interrupted() || !plan.wants(&name) || (short && left_out) {
                continue;
            }
            let found = bench.with_store((first, mode, link), SAMPLES[usize::from(short)], random, &name)?;
            found.after.iter().for_each(|what| tally.violation(&format!("{name}: {what}"), &again(&name)));
            judge(&name, &found, holds, &again(&name), tally);
            cases += 1;
        }
        // few files: what they are there for shows at once
        let small = setting.room("crashstates")?;
        let bench = Bench::lay_out(setting, small.path(), 10, salt)?;
        for (bug, faulty) in standin::BUGS {
            // what was not there cannot be lost by removing it, and nothing that is new can be written over
            for (op, op_name, _) in &OPS[usize::from(faulty && bug.starts_with("unlink"))..2] {
                let name = format!("standin:{bug}:{op_name}");
                if interrupted() || !plan.wants(&name) {
                    continue;
                }
                let found = bench.one(*op, &standin::arguments(bug, &bench.template("new"), &bench.tree)?, &name)?;
                judge(&name, &found, !faulty, &again(&name), tally);
                cases += 1;
            }
        }
        rounds += 1;
        if interrupted() || plan.seconds.is_none_or(|limit| start.elapsed().as_secs() >= limit) {
            break;
        }
    }
    if cases == 0 && !interrupted() {
        bail!("no case is called {}; a case is MODE:OP, store:MODE:LINK or standin:BUG:OP", plan.case.as_deref().unwrap_or(""));
    }
    println!("crashstates: {cases} runs in {rounds} rounds, {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn judge(name: &str, found: &Found, holds: bool, again: &str, tally: &Tally) {
    let Found { states, prefix, bad, told, not_durable, .. } = found;
    let proof = if holds { "" } else { " (must find something)" };
    println!(
        "crashstates: {name:24} {states:8} states, {prefix} by prefix; {bad} torn; {} not durable at exit 0{proof}",
        not_durable.len()
    );
    tally.checked(u64::try_from(*states).unwrap_or(u64::MAX));
    if !holds {
        if *bad == 0 && not_durable.is_empty() {
            tally.violation(&format!("{name} loses nothing: then the others show nothing"), again);
        }
        return;
    }
    if *bad > 0 {
        let first = told.join("; ");
        tally.violation(&format!("{name}: {bad} of {states} states are torn: {first}"), again);
    }
    for what in not_durable {
        tally.violation(&format!("{name}: at exit 0 {what}"), again);
    }
}

/// One tree that is put back to what each run needs, and what its artifacts may be.
pub(crate) struct Bench<'a> {
    setting: &'a Setting,
    /// All that is watched: the tree, and what is made beside it.
    disk: PathBuf,
    pub(crate) tree: PathBuf,
    room: PathBuf,
    sources: usize,
}

impl<'a> Bench<'a> {
    pub(crate) fn lay_out(setting: &'a Setting, room: &Path, sources: usize, salt: usize) -> Result<Self> {
        // no part of it may be a link: the log has the paths that programs name
        let room = room.canonicalize()?;
        let disk = room.join("disk");
        let bench = Self { setting, tree: disk.join("tree"), disk, room, sources };
        bench.write_sources(salt, 2000)?;
        bench.compile()?;
        bench.write_sources(salt + 1000, 1000)?;
        copy(&bench.tree, &bench.template("Stale"))?;
        bench.compile()?;
        copy(&bench.tree, &bench.template("new"))?;
        copy(&bench.tree, &bench.template("Restamp"))?;
        for path in files(&bench.template("Restamp")).into_iter().filter(|path| path.extension().is_some_and(|suffix| suffix == "py")) {
            std::fs::File::options().write(true).open(&path)?.set_modified(SystemTime::now() - Duration::from_secs(500))?;
        }
        let artifacts: Vec<_> = files(&bench.tree).into_iter().filter(|path| is_artifact(path)).collect();
        for path in artifacts.iter().step_by(2) {
            let mut bytes = std::fs::read(path)?;
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
            std::fs::write(path, bytes)?;
        }
        copy(&bench.tree, &bench.template("Repair"))?;
        for path in artifacts {
            std::fs::remove_file(&path)?;
            let dir = path.parent().context("no directory")?;
            if std::fs::read_dir(dir)?.next().is_none() {
                std::fs::remove_dir(dir)?;
            }
        }
        copy(&bench.tree, &bench.template("Fresh"))?;
        Ok(bench)
    }

    pub(crate) fn template(&self, op: &str) -> PathBuf {
        self.room.join(format!("as-{op}"))
    }

    fn write_sources(&self, version: usize, age: u64) -> Result<()> {
        for number in 0..self.sources {
            let dir = self.tree.join(DIRECTORIES[number % DIRECTORIES.len()]);
            std::fs::create_dir_all(&dir)?;
            let path = dir.join(format!("m{number}.py"));
            std::fs::write(&path, module(number + version, 3 + number % 5))?;
            std::fs::File::options().write(true).open(&path)?.set_modified(SystemTime::now() - Duration::from_secs(age))?;
        }
        Ok(())
    }

    pub(crate) fn command(&self, verb: &str, tree: &Path) -> Command {
        self.setting.bytekeep(verb, tree, 2, &self.room.join("cache"))
    }

    fn compile(&self) -> Result<()> {
        check(&mut self.command("compile", &self.tree)).map(drop)
    }

    /// What stands in a tree now, and what must come of it.
    pub(crate) fn artifacts(&self, tree: &Path) -> Result<Artifacts> {
        let new = self.template("new");
        let mut all = Artifacts::new();
        for path in files(&new).into_iter().filter(|path| is_artifact(path)) {
            let path = path.strip_prefix(&new)?;
            let stem = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.split('.').next()).context("no stem")?;
            let dir = path.parent().and_then(Path::parent).context("an artifact outside a __pycache__")?;
            let source = digest(&std::fs::read(new.join(dir).join(format!("{stem}.py")))?);
            all.insert(path.to_owned(), Artifact { old: std::fs::read(tree.join(path)).ok(), source, changes: false });
        }
        if all.len() != self.sources {
            bail!("an unharmed compile of {} sources left {} artifacts", self.sources, all.len());
        }
        Ok(all)
    }

    fn one(&self, op: Op, arguments: &[OsString], name: &str) -> Result<Found> {
        std::fs::remove_dir_all(&self.disk)?;
        std::fs::create_dir(&self.disk)?;
        let as_was = if op == Op::Prefix { "Fresh".to_owned() } else { format!("{op:?}") };
        copy(&self.template(&as_was), &self.tree)?;
        let mut artifacts = Artifacts::new();
        for (path, mut artifact) in self.artifacts(&self.tree)? {
            artifact.changes = op == Op::Restamp;
            artifacts.insert(self.place(op, &path)?, artifact);
        }
        let mut disk = Disk::of(&self.disk)?;
        let log = self.room.join("log");
        let mut command = strace(&log);
        command.args(arguments).env("XDG_CACHE_HOME", self.room.join("cache"));
        without_options(&mut command);
        let cost = measure(vec![command])?;
        if cost.code != Some(0) {
            bail!("{name} does not exit 0 but {:?}: {}", cost.code, cost.text.trim());
        }
        let log = Log::read(&log)?;
        let mut states = States::new(&artifacts);
        states.cut(&disk, "before the first call");
        for call in &log.calls {
            if disk.replay(call, &log)? {
                states.cut(&disk, &format!("cut after line {} ({})", call.ended, call.name));
            }
            if interrupted() {
                bail!("interrupted");
            }
        }
        self.compare(&disk)?;
        let (states_found, not_durable) = (states.count(), states.not_durable(&disk));
        Ok(Found { states: states_found, prefix: states.prefix, bad: states.bad, told: states.told, not_durable, after: Vec::new() })
    }

    /// One or two runs with a store on the disk: the states of the last one, and what a later run makes of some of all.
    fn with_store(
        &self,
        (first, mode, link): (Option<&str>, &str, &str),
        samples: usize,
        random: &mut Random,
        name: &str,
    ) -> Result<Found> {
        std::fs::remove_dir_all(&self.disk)?;
        std::fs::create_dir(&self.disk)?;
        let (other, store) = (self.disk.join("first"), self.disk.join("store"));
        for tree in [&self.tree, &other] {
            copy(&self.template("Fresh"), tree)?;
        }
        let mut artifacts = Artifacts::new();
        for (path, artifact) in self.artifacts(&self.tree)? {
            artifacts.insert(Path::new("tree").join(path), artifact);
        }
        let mut disk = Disk::of(&self.disk)?;
        let path = self.room.join("log");
        let mut before = 0;
        for (number, (mode, tree)) in first.map(|first| (first, &other)).into_iter().chain([(mode, &self.tree)]).enumerate() {
            let mut command = strace(&path);
            command.args(if number == 0 { &[][..] } else { &["-A"] }).arg(&self.setting.bin);
            command.args(self.setting.arguments("compile", tree, 2)).args(["--durability", mode, "--link-mode", link]);
            self.stored(&mut command, &store);
            before = if number == 0 { 0 } else { Log::read(&path)?.calls.len() };
            let cost = measure(vec![command])?;
            if cost.code != Some(0) {
                bail!("{name} does not exit 0 but {:?}: {}", cost.code, cost.text.trim());
            }
        }
        let log = Log::read(&path)?;
        let mut states = States::new(&artifacts);
        let moments: Vec<usize> = (0..samples).map(|_| random.below(log.calls.len())).collect();
        let mut after = Vec::new();
        for (number, call) in log.calls.iter().enumerate() {
            let changed = disk.replay(call, &log)?;
            if changed && number >= before {
                states.cut(&disk, &format!("cut after line {} ({})", call.ended, call.name));
            }
            for _ in moments.iter().filter(|moment| **moment == number) {
                let why = self.after_the_cut(&disk, link, &artifacts, random)?;
                after.extend(why.map(|why| format!("a run after a cut after line {} ({}): {why}", call.ended, call.name)));
            }
            if interrupted() {
                bail!("interrupted");
            }
        }
        self.compare(&disk)?;
        let not_durable = states.not_durable(&disk);
        Ok(Found { states: states.count(), prefix: states.prefix, bad: states.bad, told: states.told, not_durable, after })
    }

    fn stored(&self, command: &mut Command, store: &Path) {
        command.env("XDG_CACHE_HOME", self.room.join("cache"));
        without_options(command);
        command.env_remove("BYTEKEEP_NO_STORE").env("BYTEKEEP_STORE", store);
    }

    /// One of the states is laid out, and a third tree compiled from the store that is left. What is wrong with it.
    fn after_the_cut(&self, disk: &Disk, link: &str, artifacts: &Artifacts, random: &mut Random) -> Result<Option<String>> {
        let place = self.room.join("after");
        crate::run::remove(&place)?;
        std::fs::create_dir(&place)?;
        lay_out(disk, random, &place)?;
        let tree = place.join("third");
        copy(&self.template("Fresh"), &tree)?;
        let mut command = Command::new(&self.setting.bin);
        command.args(self.setting.arguments("compile", &tree, 2)).args(["--link-mode", link]);
        self.stored(&mut command, &place.join("store"));
        let cost = measure(vec![command])?;
        if cost.code != Some(0) {
            return Ok(Some(format!("it exits {:?}: {}", cost.code, cost.text.trim())));
        }
        for (path, artifact) in artifacts {
            let path = tree.join(path.strip_prefix("tree")?);
            let why = std::fs::read(&path).map_or_else(|error| Some(error.to_string()), |bytes| not_new(artifact, &bytes));
            if let Some(why) = why {
                return Ok(Some(format!("{}: {why}", path.display())));
            }
        }
        Ok(None)
    }

    /// Where an artifact of the tree stands on the disk.
    fn place(&self, op: Op, path: &Path) -> Result<PathBuf> {
        if op != Op::Prefix {
            return Ok(Path::new("tree").join(path));
        }
        let (dir, name) = (path.parent().and_then(Path::parent).context("no directory")?, path.file_name().context("no name")?);
        Ok(Path::new(PREFIX).join(self.tree.join(dir).strip_prefix("/")?).join(name))
    }

    /// The replayed tree must be the real one: else a call was missed, and nothing was shown.
    fn compare(&self, disk: &Disk) -> Result<()> {
        let real: Vec<PathBuf> = files(&self.disk);
        for path in &real {
            let short = path.strip_prefix(&self.disk)?;
            if disk.bytes(short) != Some(&std::fs::read(path)?[..]) {
                bail!("the replayed {} is not the real one", short.display());
            }
        }
        if disk.files() != real.len() {
            bail!("the replayed tree has {} files, the real one {}", disk.files(), real.len());
        }
        Ok(())
    }
}
