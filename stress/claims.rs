//! Several runs over as many trees with the same sources and one store: each source is compiled once, by whomever; and those that are
//! killed at any moment keep nobody, and leave nothing.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::locks::holders::{Ended, HUNG, Run, compile, is_done, pass_environment, write};
use crate::run::{Random, Setting, Tally, interrupted, kill, strays_after};
use crate::strace_log;
use crate::whole::files;

const RUNS: usize = 6;
const FOLDERS: usize = 4;
const MODULES: usize = 6;
const SOURCES: usize = FOLDERS * MODULES;
/// Rounds of each case where nobody says for how long.
const ROUNDS: u64 = 20;

/// How the runs meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    /// All are started at once.
    Once,
    /// The same, and each look into the store is answered late: what was not there may have been put meanwhile.
    Late,
    /// The same as `Once`, and some are killed.
    Kills,
}

const CASES: [(Case, &str); 3] = [(Case::Once, "once"), (Case::Late, "late"), (Case::Kills, "kills")];

pub(crate) fn run(setting: &Setting, seconds: Option<u64>, case: Option<&str>, random: &mut Random, tally: &Tally) -> Result<()> {
    let wanted: Vec<_> = CASES.into_iter().filter(|(_, name)| case.is_none_or(|case| case == *name)).collect();
    if wanted.is_empty() {
        bail!("no case is called {}; a case is once, late or kills", case.unwrap_or_default());
    }
    let share = seconds.map(|seconds| Duration::from_secs(seconds) / u32::try_from(wanted.len()).unwrap_or(1));
    for (case, name) in wanted {
        if case == Case::Late
            && let Err(why) = strace_log::possible()
        {
            println!("SKIP claims of runs that look late: {why}");
            continue;
        }
        let start = Instant::now();
        let mut round = 0;
        let (mut compiled, mut killed) = (0, 0);
        while !interrupted() && (round == 0 || share.map_or(round < ROUNDS, |share| start.elapsed() < share)) {
            let room = setting.room("claims")?;
            let again = format!("claims --seed {} --case {name}", setting.seed);
            let round_of = Round { setting, room: room.path(), tally, again };
            let (more, dead) = round_of.perform(case, random)?;
            (compiled, killed, round) = (compiled + more, killed + dead, round + 1);
        }
        println!(
            "claims: {name}: {round} rounds of {RUNS} runs over {RUNS} trees: {compiled} compiled by those that lived, of {} sources, {killed} killed, {:.1} s",
            usize::try_from(round)? * SOURCES,
            start.elapsed().as_secs_f64()
        );
    }
    let left = strays_after(Duration::from_secs(2), &HashSet::new());
    if left > 0 {
        tally.violation(&format!("claims: {left} processes outlived it"), "claims");
    }
    Ok(())
}

struct Round<'a> {
    setting: &'a Setting,
    room: &'a Path,
    tally: &'a Tally,
    again: String,
}

impl Round<'_> {
    fn complain(&self, what: &str) {
        self.tally.violation(&format!("claims: {what}"), &self.again);
    }

    fn store(&self) -> PathBuf {
        self.room.join("store")
    }

    fn trees(&self) -> Vec<PathBuf> {
        (0..RUNS).map(|number| self.room.join(format!("tree{number}"))).collect()
    }

    /// Nobody is to wait in vain here.
    fn start(&self, tree: &Path, case: Case, name: &str) -> Result<Run> {
        let mut command = compile(self.setting, &[tree], self.room, 2, HUNG.as_secs() * 2);
        command.arg("--store").arg(self.store());
        if case == Case::Late {
            let inner = command;
            command = Command::new("strace");
            let words = ["-f", "-b", "execve", "-qq", "-o", "/dev/null", "-e", "trace=openat2", "-e", "inject=openat2:delay_exit=20000"];
            command.args(words).arg(inner.get_program()).args(inner.get_args());
            pass_environment(&inner, &mut command);
        }
        Run::start(command, self.room, name)
    }

    /// How many sources were compiled by those that lived, and how many runs killed.
    fn perform(&self, case: Case, random: &mut Random) -> Result<(u64, u64)> {
        let trees = self.trees();
        for tree in &trees {
            for folder in 0..FOLDERS {
                // each has contents of its own
                for module in 0..MODULES {
                    let dir = tree.join(format!("p{folder}"));
                    std::fs::create_dir_all(&dir)?;
                    std::fs::write(dir.join(format!("m{module}.py")), crate::corpus::module(MODULES * folder + module, 60))?;
                }
            }
        }
        // What an interpreter is is found out once, and is nobody's work here.
        let first = self.room.join("first");
        write(&first, 1, 1)?;
        let mut known = compile(self.setting, &[&first], self.room, 1, 60);
        known.arg("--no-store");
        Run::start(known, self.room, "first")?.end(HUNG)?;
        let mut runs = Vec::new();
        for (number, tree) in trees.iter().enumerate() {
            runs.push(self.start(tree, case, &format!("run{number}"))?);
        }
        let mut killed = 0;
        if case == Case::Kills {
            // Until one is left: each at a moment of its own.
            while runs.len() > 1 && !interrupted() {
                let values = self.values();
                let wait = Duration::from_millis(random.next() % 25);
                std::thread::sleep(wait);
                let mut one = runs.swap_remove(random.below(runs.len()));
                if !one.has_ended()? && values < SOURCES {
                    kill(one.id());
                    killed += 1;
                }
                drop(one);
            }
        }
        let mut compiled = 0;
        let ended: Vec<Ended> = runs.into_iter().map(|run| run.end(HUNG)).collect::<Result<_>>()?;
        for run in &ended {
            compiled += self.came_to(run);
        }
        if case == Case::Kills {
            for (number, tree) in trees.iter().enumerate() {
                compiled += self.came_to(&self.start(tree, Case::Once, &format!("again{number}"))?.end(HUNG)?);
            }
        } else if compiled != u64::try_from(SOURCES)? {
            self.complain(&format!("{RUNS} runs compiled {compiled} times what are {SOURCES} sources"));
        }
        for tree in &trees {
            is_done(tree, SOURCES, &|what| self.complain(&what))?;
        }
        self.judge_store()?;
        self.tally.checked(u64::try_from(RUNS * SOURCES)?);
        Ok((compiled, killed))
    }

    fn came_to(&self, run: &Ended) -> u64 {
        if run.code != Some(0) {
            self.complain(&format!("a run exits {:?} after {:.1} s: {}", run.code, run.took.as_secs_f64(), run.err.trim()));
        }
        run.summary()["store"]["puts"].as_u64().unwrap_or(0)
    }

    fn values(&self) -> usize {
        let of_length = |path: &PathBuf| path.file_name().is_some_and(|name| name.len() == 64);
        if self.store().exists() { files(&self.store()).iter().filter(|path| of_length(path)).count() } else { 0 }
    }

    /// What is in it beside values: temp files of those that were killed, and an empty file of claims that nobody holds.
    fn judge_store(&self) -> Result<()> {
        if self.values() != SOURCES {
            self.complain(&format!("{} values for {SOURCES} sources", self.values()));
        }
        let claims = std::fs::metadata(self.store().join("store-1/claims"));
        let Ok(claims) = claims else {
            self.complain("there is no file of claims: then nothing was shown");
            return Ok(());
        };
        let held = std::fs::read_to_string("/proc/locks")?;
        let inode = format!(":{} ", claims.ino());
        if claims.len() > 0 || held.lines().any(|line| line.contains("OFDLCK") && line.contains(&inode)) {
            self.complain("claims are held when all is over, or something was written into their file");
        }
        Ok(())
    }
}
