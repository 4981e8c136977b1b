//! What goes on at once in a storm over a store.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::ground::{Ground, VERSIONS, keyed};
use super::poison::{MEMORIES, SHARDS, VALUES, left_in, put};
use crate::locks::holders::HUNG;
use crate::run::{Random, Setting, Tally, children_of, interrupted, kill, measure, strays_after};
use crate::whole::{Look, files, leftovers, look};

const TREES: usize = 6;
const MODULES: usize = 24;
/// Less than the values of all versions, so that something must always go.
const LIMIT: u64 = 100_000;

/// What is run, and how often out of a hundred.
const RUNS: [(&str, usize); 15] = [
    ("copy", 22),
    ("hardlink", 16),
    ("clone", 8),
    ("force", 3),
    ("repair", 6),
    ("verify", 4),
    ("clean", 12),
    ("import", 8),
    ("import and write", 3),
    ("store add", 4),
    ("store prune", 4),
    ("store clean", 2),
    ("store verify", 4),
    ("store mend", 2),
    ("store stats", 2),
];

/// Imports everything, and says what is not what it should be.
const IMPORT: &str = "
import sys, os, importlib
sys.path.insert(0, sys.argv[1])
for pkg in sorted(os.listdir(sys.argv[1])):
    for name in sorted(os.listdir(os.path.join(sys.argv[1], pkg))):
        if name.endswith('.py'):
            module = importlib.import_module(pkg + '.' + name[:-3])
            number = int(name[1:-3])
            if module.NUMBER % 1000 != number or module.f1(2) != (module.NUMBER + 1, 'n%d' % module.NUMBER):
                sys.exit('WRONG %s is %r and gives %r' % (name, module.NUMBER, module.f1(2)))
";

pub(super) struct Storm<'a> {
    ground: Ground<'a>,
    tally: &'a Tally,
    name: &'a str,
    again: String,
    store: PathBuf,
    processes: usize,
    lasts: Duration,
    over: AtomicBool,
    counts: [AtomicU64; 5],
    /// How often each run ended how.
    ends: Mutex<BTreeMap<String, u64>>,
    _place: tempfile::TempDir,
}

const STARTED: usize = 0;
const KILLED: usize = 1;
const PROOFS: usize = 2;
const POISONS: usize = 3;
const EDITS: usize = 4;

impl<'a> Storm<'a> {
    pub(super) fn gather(setting: &'a Setting, name: &'a str, processes: usize, seconds: u64, tally: &'a Tally) -> Result<Self> {
        let place = setting.room("stores")?;
        let ground = Ground::lay_out(setting, place.path(), TREES, MODULES)?;
        let store = ground.room.join("store");
        std::fs::create_dir(ground.room.join("outside"))?;
        Ok(Self {
            again: format!("stores --seed {} --seconds {seconds} --processes {processes} --case {name}", setting.seed),
            ground,
            tally,
            name,
            store,
            processes,
            lasts: Duration::from_secs(seconds),
            over: AtomicBool::new(false),
            counts: Default::default(),
            ends: Mutex::default(),
            _place: place,
        })
    }

    fn complain(&self, what: &str) {
        self.tally.violation(&format!("stores: {}: {what}", self.name), &self.again);
    }

    fn count(&self, which: usize) -> u64 {
        self.counts[which].fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn blow(&self) -> Result<()> {
        let seed = |thread: u64| Random::new(self.ground.setting.seed.wrapping_mul(1000).wrapping_add(thread));
        let faults: Vec<anyhow::Error> = std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for number in 0..u64::try_from(self.processes).unwrap_or(1) {
                threads.push(scope.spawn(move || self.runner(seed(number))));
            }
            threads.push(scope.spawn(move || self.reader(seed(901))));
            threads.push(scope.spawn(move || self.editor(seed(902))));
            threads.push(scope.spawn(move || {
                self.poisoner(seed(903));
                Ok(())
            }));
            let start = Instant::now();
            while start.elapsed() < self.lasts && !interrupted() && threads.iter().all(|thread| !thread.is_finished()) {
                std::thread::sleep(Duration::from_millis(20));
            }
            self.over.store(true, Ordering::SeqCst);
            let ended = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked"))));
            ended.filter_map(Result::err).collect()
        });
        faults.into_iter().next().map_or(Ok(()), Err)
    }

    fn command(&self, run: &str, random: &mut Random) -> Command {
        let tree = &self.ground.trees[random.below(TREES)];
        let stored = |verb: &str, words: &[&str]| {
            let mut command = self.ground.on_tree(verb, tree, 2, &self.store);
            command.args(words).env("BYTEKEEP_STORE_MAX_SIZE", LIMIT.to_string());
            command
        };
        match run {
            "copy" | "hardlink" | "clone" => {
                let durability = ["none", "batch", "full"][random.below(3)];
                stored("compile", &["--link-mode", run, "--durability", durability])
            }
            "force" => stored("compile", &["--force", "--link-mode", ["copy", "hardlink"][random.below(2)]]),
            "repair" | "verify" | "clean" => stored(run, &[]),
            "import" | "import and write" => {
                let mut command = Command::new(&self.ground.setting.python.path);
                command.args(if run == "import" { &["-B", "-c", IMPORT][..] } else { &["-c", IMPORT] }).arg(tree);
                command
            }
            "store add" => {
                let mut command = self.ground.on_store(&["add", "--jobs", "2", "--python"], &self.store);
                command.arg(&self.ground.setting.python.path).arg(tree);
                command
            }
            "store prune" => self.ground.on_store(&["prune", "--max-size", ["0", "20K", "60K"][random.below(3)]], &self.store),
            "store mend" => self.ground.on_store(&["verify", "--remove-bad"], &self.store),
            store => self.ground.on_store(&[store.trim_start_matches("store ")], &self.store),
        }
    }

    /// The codes that a run may end with beside edits and poison.
    fn may(run: &str) -> &'static [i32] {
        match run {
            // whatever is in the store costs time only
            "copy" | "hardlink" | "clone" | "force" | "repair" | "clean" | "import" | "import and write" => &[0],
            "store clean" | "store prune" | "store stats" | "store mend" => &[0],
            // what it finds is told: stale and poisoned things
            _ => &[0, 1],
        }
    }

    fn runner(&self, mut random: Random) -> Result<()> {
        while !self.over.load(Ordering::SeqCst) {
            let mut roll = random.below(100);
            let chosen = RUNS.iter().find(|(_, weight)| {
                let here = roll < *weight;
                roll = roll.saturating_sub(*weight);
                here
            });
            let run = chosen.map_or("copy", |(run, _)| run);
            let doomed = (random.below(100) < 25).then(|| Duration::from_millis(random.next() % 200));
            self.one(run, doomed, &mut random)?;
        }
        Ok(())
    }

    fn one(&self, run: &str, doomed: Option<Duration>, random: &mut Random) -> Result<()> {
        let mut said = tempfile::tempfile_in(&self.ground.room)?;
        let mut command = self.command(run, random);
        command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said.try_clone()?);
        let mut child = command.spawn().with_context(|| format!("{run} does not start"))?;
        let (start, mut killed) = (Instant::now(), false);
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            let hung = start.elapsed() > HUNG;
            if hung {
                self.complain(&format!("{run} had not ended after {} s", HUNG.as_secs()));
            }
            if hung || doomed.is_some_and(|after| start.elapsed() >= after) {
                killed = true;
                // the whole, or the parent alone
                if random.below(2) == 0 {
                    children_of(child.id()).into_iter().for_each(kill);
                }
                kill(child.id());
                break child.wait()?;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        self.count(STARTED);
        self.counts[KILLED].fetch_add(u64::from(killed), Ordering::Relaxed);
        let end = status.code().map_or("killed".to_owned(), |code| code.to_string());
        *self.ends.lock().unwrap().entry(format!("{run}: {end}")).or_default() += 1;
        let mut text = Vec::new();
        said.rewind()?;
        said.read_to_end(&mut text)?;
        let text = String::from_utf8_lossy(&text);
        let fine = status.code().map_or(killed, |code| Self::may(run).contains(&code));
        if !killed && (!fine || text.contains("panicked")) {
            self.complain(&format!("{run} ended with {status}: {}", text.trim().replace('\n', " | ")));
        }
        Ok(())
    }

    /// By rename as editors and installers do; a fourth of them in place, which is seen through every hard link. Old times too, as
    /// packages have them: within a second nobody could tell one version from another by its time, or by its size.
    fn editor(&self, mut random: Random) -> Result<()> {
        while !self.over.load(Ordering::SeqCst) {
            let (tree, number) = (&self.ground.trees[random.below(TREES)], random.below(MODULES));
            let (path, text) = (tree.join(&self.ground.modules[number]), Ground::text(number, random.below(VERSIONS)));
            if random.below(4) == 0 {
                std::fs::write(&path, text)?;
            } else {
                let temp = self.ground.room.join(format!("edit-{}", self.count(EDITS)));
                std::fs::write(&temp, text)?;
                std::fs::rename(&temp, &path)?;
            }
            std::thread::sleep(Duration::from_millis(random.next() % 120));
        }
        Ok(())
    }

    /// What it puts there never comes into a tree: it is always another file than one that a tree may have a link of.
    fn poisoner(&self, mut random: Random) {
        while !self.over.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5 + random.next() % 60));
            let values = keyed(&self.store);
            if values.is_empty() {
                continue;
            }
            let value = &values[random.below(values.len())];
            let (kind, path) = match random.below(20) {
                0 => (SHARDS[random.below(SHARDS.len())], value.parent().unwrap_or(&self.store).to_owned()),
                1 => (VALUES[random.below(VALUES.len())], self.store.join("store-1").join(MEMORIES[random.below(MEMORIES.len())])),
                _ => (VALUES[random.below(VALUES.len())], value.clone()),
            };
            // the store may be cleaned away at any moment
            match put(kind, &path, &values, &self.ground.room.join("outside"), &mut random) {
                Ok(()) => drop(self.count(POISONS)),
                Err(error) if !path.parent().is_some_and(Path::exists) || !path.exists() => {
                    drop(error);
                }
                Err(error) => println!("stores: {kind} at {}: {error:#}", path.display()),
            }
        }
    }

    fn reader(&self, mut random: Random) -> Result<()> {
        while !self.over.load(Ordering::SeqCst) {
            let (tree, number) = (&self.ground.trees[random.below(TREES)], random.below(MODULES));
            let path = self.ground.artifact(tree, &self.ground.modules[number]);
            let bytes = match File::open(&path) {
                Ok(mut file) => {
                    let mut bytes = Vec::new();
                    file.read_to_end(&mut bytes)?;
                    bytes
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error).context(path.display().to_string()),
            };
            self.count(PROOFS);
            if let Some(why) = self.ground.flaw(tree, number, &bytes)? {
                self.complain(&format!("{}: {why}", path.display()));
            }
        }
        Ok(())
    }

    /// When it is over, one repair and one compile leave everything whole; the store is mended, small, and empty when it is cleaned.
    pub(super) fn calm(&self) -> Result<()> {
        if interrupted() {
            return Ok(());
        }
        let ours = HashSet::from([self.ground.judge_id()]);
        let left = strays_after(Duration::from_secs(3), &ours);
        if left > 0 {
            self.complain(&format!("{left} processes outlived who started them"));
        }
        let must = |run: &str, command: Command| -> Result<()> {
            let cost = measure(vec![command])?;
            if cost.code != Some(0) {
                self.complain(&format!("afterwards {run} exits {:?}: {}", cost.code, cost.text.trim().replace('\n', " | ")));
            }
            Ok(())
        };
        for (number, tree) in self.ground.trees.iter().enumerate() {
            let mode = ["copy", "hardlink", "clone"][number % 3];
            for run in ["repair", "compile", "verify"] {
                let mut command = self.ground.on_tree(run, tree, 2, &self.store);
                command.env("BYTEKEEP_STORE_MAX_SIZE", LIMIT.to_string());
                if run != "verify" {
                    command.args(["--link-mode", mode]);
                }
                must(run, command)?;
            }
            for why in self.ground.at_rest(tree)? {
                self.complain(&format!("afterwards {why}"));
            }
            let mut import = Command::new(&self.ground.setting.python.path);
            must("import", {
                import.args(["-B", "-c", IMPORT]).arg(tree);
                import
            })?;
            self.tally.checked(u64::try_from(MODULES)?);
        }
        self.judge_store(&must)?;
        let left = strays_after(Duration::from_secs(2), &ours);
        if left > 0 {
            self.complain(&format!("{left} processes outlived the last runs"));
        }
        let [started, killed, proofs, poisons, edits] = self.counts.each_ref().map(|count| count.load(Ordering::Relaxed));
        println!("stores: {}: {started} runs, {killed} killed, {edits} edits, {poisons} poisoned, {proofs} proofs", self.name);
        println!("stores: {}: {:?}", self.name, self.ends.lock().unwrap());
        self.tally.checked(started + proofs);
        Ok(())
    }

    fn judge_store(&self, must: &dyn Fn(&str, Command) -> Result<()>) -> Result<()> {
        let values = || keyed(&self.store).into_iter().filter(|path| !path.components().any(|part| part.as_os_str() == "links"));
        // what is no file at all stays in the way until somebody looks
        must("store verify --remove-bad", self.ground.on_store(&["verify", "--remove-bad"], &self.store))?;
        must("store verify", self.ground.on_store(&["verify"], &self.store))?;
        for path in values() {
            if let Look::Torn(why) = look(&std::fs::read(&path)?) {
                self.complain(&format!("after store verify {}: {why}", path.display()));
            }
        }
        let bytes: u64 = values().filter_map(|path| path.metadata().ok()).map(|meta| meta.len()).sum();
        // the runs after the storm put at most what one tree has, each
        if bytes > 2 * LIMIT {
            self.complain(&format!("the store has {bytes} bytes of values, with a limit of {LIMIT}"));
        }
        must("store prune", self.ground.on_store(&["prune", "--max-size", "20K"], &self.store))?;
        let bytes: u64 = values().filter_map(|path| path.metadata().ok()).map(|meta| meta.len()).sum();
        if bytes > 20 << 10 {
            self.complain(&format!("after store prune --max-size 20K it has {bytes} bytes of values"));
        }
        let held = std::fs::read_to_string("/proc/locks")?;
        for file in files(&self.store) {
            use std::os::unix::fs::MetadataExt;
            let inode = format!(":{} ", file.metadata().map_or(0, |meta| meta.ino()));
            if held.lines().any(|line| line.contains(&inode) && line.contains("OFDLCK")) {
                self.complain(&format!("{} is locked when all is over", file.display()));
            }
        }
        must("store clean", self.ground.on_store(&["clean"], &self.store))?;
        for path in left_in(&self.store).into_iter().chain(leftovers(&self.store)) {
            self.complain(&format!("{} is left over after store clean", path.display()));
        }
        Ok(())
    }
}
