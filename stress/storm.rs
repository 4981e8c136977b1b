//! Many processes over one tree: compile, repair, clean, verify, seal, compileall and imports, killed at random, while sources are edited
//! and artifacts damaged. Readers prove every artifact all the time. What a damager made is known by its digest and is nobody's fault.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::corpus::module;
use crate::mount::check;
use crate::run::{Random, Setting, Tally, interrupted, measure, strays_after};
use crate::whole::{Digest, Loader, Look, digest, files, is_artifact, leftovers, look};

const PACKAGES: usize = 4;
const MODULES: usize = 8;
/// Longer than any lock is waited for.
const HUNG: Duration = Duration::from_secs(90);

/// What a run is, how often out of a hundred, and whether it is the product's.
const RUNS: [(&str, usize); 8] =
    [("compile", 30), ("force", 15), ("repair", 15), ("verify", 10), ("seal", 6), ("compileall", 10), ("import", 8), ("clean", 6)];

struct Storm<'a> {
    setting: &'a Setting,
    tally: &'a Tally,
    tree: PathBuf,
    room: PathBuf,
    again: String,
    over: AtomicBool,
    /// from then on artifacts may be absent
    cleaning: AtomicBool,
    damaged: Mutex<HashSet<Digest>>,
    loader: Mutex<Loader>,
    numbers: AtomicU64,
    runs: AtomicU64,
    kills: AtomicU64,
    proofs: AtomicU64,
    version: AtomicU8,
}

pub(crate) fn run(setting: &Setting, seconds: u64, processes: usize, tally: &Tally) -> Result<()> {
    let room = setting.room("storm")?;
    let loader = Loader::start(&setting.python.path)?;
    let ours = HashSet::from([loader.id()]);
    let storm = Storm {
        setting,
        tally,
        tree: room.path().join("tree"),
        room: room.path().to_owned(),
        again: format!("storm --seed {} --seconds {seconds} --processes {processes}", setting.seed),
        over: AtomicBool::new(false),
        cleaning: AtomicBool::new(false),
        damaged: Mutex::new(HashSet::new()),
        loader: Mutex::new(loader),
        numbers: AtomicU64::new(0),
        runs: AtomicU64::new(0),
        kills: AtomicU64::new(0),
        proofs: AtomicU64::new(0),
        version: AtomicU8::new(0),
    };
    let mut sources = Vec::new();
    for number in 0..PACKAGES * MODULES {
        let dir = storm.tree.join(format!("pkg{}", number % PACKAGES));
        std::fs::create_dir_all(&dir)?;
        let path = dir.join(format!("m{number}.py"));
        std::fs::write(&path, module(number, 12))?;
        sources.push(path);
    }
    check(&mut storm.command("compile"))?;
    let artifacts: Vec<PathBuf> = files(&storm.tree).into_iter().filter(|path| is_artifact(path)).collect();
    let seed = |thread: u64| Random::new(setting.seed.wrapping_mul(1000).wrapping_add(thread));
    let faults: Vec<anyhow::Error> = std::thread::scope(|scope| {
        let storm = &storm;
        let mut threads = Vec::new();
        for number in 0..u64::try_from(processes).unwrap_or(1) {
            threads.push(scope.spawn(move || storm.runner(seed(number))));
        }
        let (sources, artifacts) = (&sources, &artifacts);
        threads.push(scope.spawn(move || storm.editor(sources, seed(901))));
        threads.push(scope.spawn(move || storm.damager(artifacts, seed(902))));
        threads.push(scope.spawn(move || storm.reader(artifacts, seed(903))));
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(seconds) && !interrupted() && threads.iter().all(|thread| !thread.is_finished()) {
            storm.cleaning.store(start.elapsed() > Duration::from_secs(seconds) / 2, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(50));
        }
        storm.over.store(true, Ordering::SeqCst);
        threads.into_iter().filter_map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked"))).err()).collect()
    });
    if let Some(fault) = faults.into_iter().next() {
        return Err(fault);
    }
    if interrupted() {
        return Ok(());
    }
    storm.calm(&ours)?;
    let all = [&storm.runs, &storm.kills, &storm.proofs].map(|count| count.load(Ordering::Relaxed));
    println!(
        "storm: {} runs, {} killed, {} proofs by readers, {} kinds of damage",
        all[0],
        all[1],
        all[2],
        storm.damaged.lock().unwrap().len()
    );
    tally.checked(all[0] + all[2]);
    Ok(())
}

impl Storm<'_> {
    fn complain(&self, what: &str) {
        self.tally.violation(&format!("storm: {what}"), &self.again);
    }

    fn command(&self, run: &str) -> Command {
        match run {
            "compileall" => self.setting.compileall(&self.tree, 1),
            "import" => {
                const SAY: &str = "import sys, os, importlib; sys.path.insert(0, sys.argv[1])\n\
                    for d in sorted(os.listdir(sys.argv[1])):\n for f in sorted(os.listdir(os.path.join(sys.argv[1], d))):\n  \
                    if f.endswith('.py'): importlib.import_module(d + '.' + f[:-3])";
                let mut command = Command::new(&self.setting.python.path);
                command.args(["-c", SAY]).arg(&self.tree);
                command
            }
            _ => {
                let verb = if run == "force" { "compile" } else { run };
                let mut command = self.setting.bytekeep(verb, &self.tree, 2, &self.room.join("cache"));
                if run == "force" {
                    command.arg("--force");
                }
                command
            }
        }
    }

    fn runner(&self, mut random: Random) -> Result<()> {
        while !self.over.load(Ordering::SeqCst) {
            let mut roll = random.below(100);
            let weights = RUNS.iter().find(|(_, weight)| {
                let here = roll < *weight;
                roll = roll.saturating_sub(*weight);
                here
            });
            let run = weights.map_or("compile", |(run, _)| run);
            if run == "clean" && !self.cleaning.load(Ordering::SeqCst) {
                continue;
            }
            let doomed = (random.below(100) < 30).then(|| Duration::from_millis(u64::try_from(random.below(300)).unwrap_or(0)));
            self.one(run, doomed)?;
        }
        Ok(())
    }

    fn one(&self, run: &str, doomed: Option<Duration>) -> Result<()> {
        let mut said = tempfile::tempfile_in(&self.room)?;
        let ours = !matches!(run, "compileall" | "import");
        let mut command = self.command(run);
        command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said.try_clone()?);
        let mut child = command.spawn().with_context(|| format!("{run} does not start"))?;
        let start = Instant::now();
        let mut killed = false;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            // a damaged artifact may make an interpreter that imports it do anything
            let limit = if ours { HUNG } else { Duration::from_secs(20) };
            if doomed.is_some_and(|after| start.elapsed() >= after) || start.elapsed() > limit {
                if ours && start.elapsed() > limit {
                    self.complain(&format!("{run} had not ended after {} s", HUNG.as_secs()));
                }
                killed = true;
                end(&mut child)?;
                break child.wait()?;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        self.runs.fetch_add(1, Ordering::Relaxed);
        self.kills.fetch_add(u64::from(killed), Ordering::Relaxed);
        if ours && !matches!(status.code(), Some(0 | 1)) && !(killed && status.signal() == Some(9)) {
            let mut text = String::new();
            said.rewind()?;
            said.read_to_string(&mut text)?;
            self.complain(&format!("{run} ended with {status}: {}", text.lines().last().unwrap_or("")));
        }
        Ok(())
    }

    /// Edits by rename as editors do and in place as others do, often several in one second, often without a change of size.
    fn editor(&self, sources: &[PathBuf], mut random: Random) -> Result<()> {
        while !self.over.load(Ordering::SeqCst) {
            let number = random.below(sources.len());
            let path = &sources[number];
            let version = usize::from(self.version.fetch_add(1, Ordering::Relaxed));
            let text = module(1000 + version, 12 + random.below(2));
            if random.below(4) == 0 {
                std::fs::write(path, text)?;
            } else {
                self.replace(path, text.as_bytes())?;
            }
            std::thread::sleep(Duration::from_millis(u64::try_from(random.below(200))?));
        }
        Ok(())
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let temp = self.room.join(format!("new-{}", self.numbers.fetch_add(1, Ordering::Relaxed)));
        std::fs::write(&temp, bytes)?;
        Ok(std::fs::rename(&temp, path)?)
    }

    /// Marks first and damages then, so that no reader meets damage it does not know.
    fn damager(&self, artifacts: &[PathBuf], mut random: Random) -> Result<()> {
        while !self.over.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(20 + u64::try_from(random.below(150))?));
            let path = &artifacts[random.below(artifacts.len())];
            let Ok(mut file) = File::options().read(true).write(true).open(path) else { continue };
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            if bytes.is_empty() {
                continue;
            }
            let at = random.below(bytes.len());
            let kind = random.below(4);
            match kind {
                0 | 1 => bytes.truncate(at),
                2 => bytes[at] ^= 1 << random.below(8),
                _ => {
                    let end = bytes.len().min(at + 64);
                    bytes[at..end].fill(0);
                }
            }
            self.damaged.lock().unwrap().insert(digest(&bytes));
            if kind == 0 {
                file.set_len(u64::try_from(at)?)?;
            } else if let Err(error) = self.replace(path, &bytes) {
                // its directory may be gone by now
                let gone = error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound);
                if !gone {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn reader(&self, artifacts: &[PathBuf], mut random: Random) -> Result<()> {
        while !self.over.load(Ordering::SeqCst) {
            self.prove(&artifacts[random.below(artifacts.len())])?;
        }
        Ok(())
    }

    fn prove(&self, path: &Path) -> Result<()> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if !self.cleaning.load(Ordering::SeqCst) {
                    self.complain(&format!("{} is absent, and nobody cleans", path.display()));
                }
                return Ok(());
            }
            Err(error) => return Err(error).context(path.display().to_string()),
        };
        self.proofs.fetch_add(1, Ordering::Relaxed);
        let Some(why) = self.flaw(&mut file)? else { return Ok(()) };
        // the damager cuts in place: what a reader sees while that happens is no writer's fault, so the same inode is read again
        std::thread::sleep(Duration::from_millis(5));
        file.rewind()?;
        if self.flaw(&mut file)?.is_some() {
            self.complain(&format!("{}: {why}", path.display()));
        }
        Ok(())
    }

    fn flaw(&self, file: &mut File) -> Result<Option<String>> {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        if self.damaged.lock().unwrap().contains(&digest(&bytes)) {
            return Ok(None);
        }
        match look(&bytes) {
            Look::Torn(why) => Ok(Some(why)),
            // what was adopted may have been damaged before, in a way that shows in no structure
            Look::Sealed { adopted: true, .. } => Ok(None),
            Look::Sealed { .. } | Look::Unsealed => self.loader.lock().unwrap().refuses(&bytes),
        }
    }

    /// When the storm is over one repair and one compile must leave everything good.
    fn calm(&self, ours: &HashSet<u32>) -> Result<()> {
        let left = strays_after(Duration::from_secs(3), ours);
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
        if !strays_after(Duration::from_secs(1), ours).eq(&0) {
            self.complain("a process outlived the last run");
        }
        Ok(())
    }
}

fn end(child: &mut Child) -> Result<()> {
    match child.kill() {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => Ok(()),
        Err(error) => Err(error.into()),
    }
}
