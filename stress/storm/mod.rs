//! Many processes over one tree: compile, repair, clean, verify, seal, compileall and imports, killed at random, while sources are edited
//! and artifacts damaged. Readers prove every artifact all the time. What a damager made is known by its digest and is nobody's fault.
//!
//! The same beside Python 2.7, whose compileall truncates in place; and the same readers over stand-ins with a fault, which they must find.

pub(crate) mod crowd;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::corpus::module;
use crate::mount::{check, copy};
use crate::run::{Python, Random, Setting, Tally, interrupted, measure, strays_after, verdict};
use crate::whole::{Digest, Loader, Look, files, is_artifact, leftovers, look};

const PACKAGES: usize = 4;
const MODULES: usize = 8;

/// What is at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// the product, beside compileall and imports
    Product,
    /// the product, beside a writer that truncates in place
    Old,
    /// stand-ins with this fault
    StandIn(&'static str),
}

/// And whether readers must find it out.
const STAND_INS: [(&str, bool); 4] = [("whole", false), ("fixedtmp", true), ("inplace", true), ("unlinkrename", true)];

impl Kind {
    /// What is run, and how often out of a hundred.
    pub(crate) fn runs(self) -> &'static [(&'static str, usize)] {
        match self {
            Self::Product => &[
                ("compile", 30),
                ("force", 15),
                ("repair", 15),
                ("verify", 10),
                ("seal", 6),
                ("compileall", 10),
                ("import", 8),
                ("clean", 6),
            ],
            Self::Old => &[("compile", 30), ("force", 20), ("repair", 20), ("verify", 15), ("seal", 15)],
            Self::StandIn(_) => &[("standin", 100)],
        }
    }

    fn name(self) -> String {
        match self {
            Self::Product => "product".to_owned(),
            Self::Old => "old".to_owned(),
            Self::StandIn(bug) => format!("standin:{bug}"),
        }
    }
}

pub(crate) struct Storm<'a> {
    pub(crate) kind: Kind,
    pub(crate) setting: &'a Setting,
    tally: &'a Tally,
    pub(crate) tree: PathBuf,
    pub(crate) room: PathBuf,
    again: String,
    pub(crate) over: AtomicBool,
    /// from then on artifacts may be absent
    pub(crate) cleaning: AtomicBool,
    pub(crate) damaged: Mutex<HashSet<Digest>>,
    pub(crate) loader: Mutex<Loader>,
    ours: HashSet<u32>,
    sources: Vec<PathBuf>,
    artifacts: Vec<PathBuf>,
    pub(crate) numbers: AtomicU64,
    pub(crate) runs: AtomicU64,
    pub(crate) kills: AtomicU64,
    pub(crate) proofs: AtomicU64,
    pub(crate) version: AtomicU8,
    _place: tempfile::TempDir,
}

/// What is asked of a storm.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seconds: u64,
    pub(crate) processes: usize,
    pub(crate) case: Option<String>,
}

pub(crate) fn run(setting: &Setting, plan: &Plan, tally: &Tally) -> Result<()> {
    let wanted = |kind: Kind| plan.case.as_ref().is_none_or(|case| *case == kind.name());
    let mut cases = 0;
    // short ones first: who cannot find a fault finds nothing
    for (bug, faulty) in STAND_INS.into_iter().filter(|(bug, _)| wanted(Kind::StandIn(bug))) {
        stand_in(setting, bug, faulty, tally)?;
        cases += 1;
    }
    if wanted(Kind::Old) {
        old(setting, plan, tally)?;
        cases += 1;
    }
    if wanted(Kind::Product) {
        let storm = Storm::gather(setting, Kind::Product, plan, tally)?;
        storm.blow(Duration::from_secs(plan.seconds), plan.processes)?;
        storm.calm()?;
        storm.told();
        cases += 1;
    }
    if cases == 0 {
        bail!("no case is called {}; a case is product, old or standin:BUG", plan.case.as_deref().unwrap_or(""));
    }
    Ok(())
}

fn stand_in(setting: &Setting, bug: &'static str, faulty: bool, tally: &Tally) -> Result<()> {
    let quiet = Tally::quiet();
    let plan = Plan { seconds: 2, processes: 4, case: None };
    let storm = Storm::gather(setting, Kind::StandIn(bug), &plan, if faulty { &quiet } else { tally })?;
    for generation in 0..2 {
        storm.edit_all(generation)?;
        check(&mut storm.command("compile"))?;
        copy(&storm.tree, &storm.generation(generation))?;
    }
    let start = Instant::now();
    // one that is faulty shows it at some moment, on a busy machine later
    while !interrupted() && start.elapsed() < Duration::from_secs(60) {
        storm.blow(Duration::from_secs(2), plan.processes)?;
        if !faulty || quiet.violations() > 0 {
            break;
        }
    }
    storm.told();
    if faulty && quiet.violations() == 0 && !interrupted() {
        tally.violation(&format!("storm: stand-in {bug} passes: then the others show nothing"), &storm.again);
    }
    println!("storm: {}: {} violations{}", storm.kind.name(), storm.tally.violations(), if faulty { " (must be some)" } else { "" });
    Ok(())
}

/// In rounds: after each one everything that is torn must be found, and then mended.
fn old(setting: &Setting, plan: &Plan, tally: &Tally) -> Result<()> {
    let Some(python) = Python::find_old() else {
        println!("SKIP storm old: no Python 2.7 found, whose writer truncates in place");
        return Ok(());
    };
    println!("storm: old: beside {} ({})", python.path.display(), python.version);
    let setting = Setting { python, ..setting.clone() };
    let storm = Storm::gather(&setting, Kind::Old, plan, tally)?;
    let start = Instant::now();
    let seconds = (plan.seconds / 4).max(4);
    let mut torn = 0;
    while !interrupted() && (torn == 0 || start.elapsed() < Duration::from_secs(seconds)) {
        storm.blow(Duration::from_secs(2), plan.processes)?;
        torn += storm.reckon()?;
        storm.calm()?;
        if torn == 0 && start.elapsed() > Duration::from_secs(seconds.max(60)) {
            tally.violation("storm: the old writer tears nothing: then this shows nothing", &storm.again);
            break;
        }
    }
    storm.told();
    println!("storm: old: {torn} torn by the old writer, all found and mended unless told otherwise");
    Ok(())
}

impl<'a> Storm<'a> {
    fn gather(setting: &'a Setting, kind: Kind, plan: &Plan, tally: &'a Tally) -> Result<Self> {
        let place = setting.room("storm")?;
        let room = place.path().to_owned();
        let loader = Loader::start(&setting.python)?;
        let (seconds, processes) = (plan.seconds, plan.processes);
        let mut storm = Self {
            kind,
            setting,
            tally,
            tree: room.join("tree"),
            again: format!("storm --seed {} --seconds {seconds} --processes {processes} --case {}", setting.seed, kind.name()),
            over: AtomicBool::new(false),
            cleaning: AtomicBool::new(false),
            damaged: Mutex::new(HashSet::new()),
            ours: HashSet::from([loader.id()]),
            loader: Mutex::new(loader),
            sources: Vec::new(),
            artifacts: Vec::new(),
            numbers: AtomicU64::new(0),
            runs: AtomicU64::new(0),
            kills: AtomicU64::new(0),
            proofs: AtomicU64::new(0),
            version: AtomicU8::new(0),
            room,
            _place: place,
        };
        for number in 0..PACKAGES * MODULES {
            let dir = storm.tree.join(format!("pkg{}", number % PACKAGES));
            std::fs::create_dir_all(&dir)?;
            storm.sources.push(dir.join(format!("m{number}.py")));
        }
        storm.edit_all(0)?;
        check(&mut storm.command("compile"))?;
        storm.artifacts = files(&storm.tree).into_iter().filter(|path| is_artifact(path)).collect();
        Ok(storm)
    }

    fn edit_all(&self, generation: usize) -> Result<()> {
        for (number, path) in self.sources.iter().enumerate() {
            std::fs::write(path, module(100 * generation + number, if self.kind == Kind::Old { 40 } else { 12 }))?;
        }
        Ok(())
    }

    /// What a stand-in copies from.
    pub(crate) fn generation(&self, number: usize) -> PathBuf {
        self.room.join(format!("generation{number}"))
    }

    pub(crate) fn complain(&self, what: &str) {
        self.tally.violation(&format!("storm: {}: {what}", self.kind.name()), &self.again);
    }

    fn told(&self) {
        let [runs, kills, proofs] = [&self.runs, &self.kills, &self.proofs].map(|count| count.load(Ordering::Relaxed));
        let damage = self.damaged.lock().unwrap().len();
        println!("storm: {}: {runs} runs, {kills} killed, {proofs} proofs by readers, {damage} kinds of damage", self.kind.name());
        self.tally.checked(runs + proofs);
    }

    fn blow(&self, lasts: Duration, processes: usize) -> Result<()> {
        self.over.store(false, Ordering::SeqCst);
        let salt = self.numbers.load(Ordering::Relaxed);
        let seed = |thread: u64| Random::new(self.setting.seed.wrapping_mul(1000).wrapping_add(thread).wrapping_add(salt << 20));
        let faults: Vec<anyhow::Error> = std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for number in 0..u64::try_from(processes).unwrap_or(1) {
                threads.push(scope.spawn(move || self.runner(seed(number))));
            }
            threads.push(scope.spawn(move || self.reader(&self.artifacts, seed(903))));
            match self.kind {
                Kind::Product => threads.push(scope.spawn(move || self.damager(&self.artifacts, seed(902)))),
                Kind::Old => threads.push(scope.spawn(move || self.old_writer(seed(904)))),
                Kind::StandIn(_) => {}
            }
            if !matches!(self.kind, Kind::StandIn(_)) {
                threads.push(scope.spawn(move || self.editor(&self.sources, seed(901))));
            }
            let start = Instant::now();
            while start.elapsed() < lasts && !interrupted() && threads.iter().all(|thread| !thread.is_finished()) {
                self.cleaning.store(self.kind == Kind::Product && start.elapsed() > lasts / 2, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(50));
            }
            self.over.store(true, Ordering::SeqCst);
            threads
                .into_iter()
                .filter_map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked"))).err())
                .collect()
        });
        faults.into_iter().next().map_or(Ok(()), Err)
    }

    /// Everything that is torn now must be found by `verify`. How much that is.
    fn reckon(&self) -> Result<usize> {
        // what was torn in the storm is mended by now, mostly
        measure(vec![self.command("cut short")])?;
        let mut torn = Vec::new();
        for path in &self.artifacts {
            let bytes = std::fs::read(path)?;
            let whole = match look(&bytes) {
                Look::Torn(_) => false,
                Look::Sealed { .. } | Look::Unsealed => self.loader.lock().unwrap().refuses(&bytes)?.is_none(),
            };
            if !whole {
                torn.push(path);
            }
        }
        let mut verify = self.command("verify");
        verify.args(["--format", "json"]);
        let cost = measure(vec![verify])?;
        let found: HashSet<PathBuf> = cost.text.lines().filter_map(problem).collect();
        for path in torn.iter().filter(|path| !found.contains(**path)) {
            self.complain(&format!("{} is torn, and verify does not find it", path.display()));
        }
        if !torn.is_empty() && cost.code != Some(1) {
            self.complain(&format!("verify exits {:?} over {} torn artifacts", cost.code, torn.len()));
        }
        self.tally.checked(u64::try_from(torn.len())?);
        Ok(torn.len())
    }

    /// When the storm is over one repair and one compile must leave everything good.
    fn calm(&self) -> Result<()> {
        if interrupted() {
            return Ok(());
        }
        let left = strays_after(Duration::from_secs(3), &self.ours);
        if left > 0 {
            self.complain(&format!("{left} processes outlived who started them"));
        }
        for (run, must) in [("repair", 1), ("compile", 0), ("verify", 0)] {
            let cost = measure(vec![self.command(run)])?;
            if cost.code.is_none_or(|code| code > must) {
                self.complain(&format!("afterwards {run} exits {:?}: {}", cost.code, cost.text.trim().replace('\n', " | ")));
            }
        }
        for path in leftovers(&self.tree) {
            self.complain(&format!("{} is left over", path.display()));
        }
        for path in files(&self.tree).into_iter().filter(|path| is_artifact(path)) {
            if let Look::Torn(why) = look(&std::fs::read(&path)?) {
                self.complain(&format!("afterwards {}: {why}", path.display()));
            }
            self.tally.checked(1);
        }
        if !strays_after(Duration::from_secs(1), &self.ours).eq(&0) {
            self.complain("a process outlived the last run");
        }
        Ok(())
    }
}

/// The path of an entry of which `verify` says that something is wrong with it.
fn problem(line: &str) -> Option<PathBuf> {
    let bad = ["truncated", "corrupt", "bad-magic", "stale", "misstamped", "silently-stale", "unreadable"];
    let (path, verdict) = verdict(line)?;
    bad.contains(&&*verdict).then_some(path)
}
