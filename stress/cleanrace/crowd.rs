//! The race of `cleanrace`: runners of ours, some killed; installers that remove, rename and put back; walkers; and now and then a quiet point.

use std::collections::HashSet;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::cleanrace::cases::perform;
use crate::cleanrace::tree::{ASIDE, CACHE, DEB, PIP, UV, Yard, absent};
use crate::run::{Random, Setting, Tally, interrupted, kill, strays_after};
use crate::whole::leftovers;

/// Longer than any lock is waited for.
const HUNG: Duration = Duration::from_secs(90);

/// What a run is, and how often out of a hundred.
const RUNS: [(&[&str], usize); 9] = [
    (&["compile", "-v"], 28),
    (&["clean", "-v"], 24),
    (&["prefix-compile"], 12),
    (&["prefix-clean"], 10),
    (&["repair", "-v"], 8),
    (&["compile", "-v", "--force"], 6),
    (&["clean", "-v", "--orphans"], 5),
    (&["clean", "-v", "--leftovers"], 4),
    (&["clean", "-v", "--keep-tags", "cpython-399"], 3),
];

struct Race<'a> {
    yard: Yard<'a>,
    tally: &'a Tally,
    again: String,
    over: AtomicBool,
    /// Held by whoever works; taken whole for a quiet point.
    work: RwLock<()>,
    runs: AtomicU64,
    kills: AtomicU64,
    installs: AtomicU64,
    /// times that an installer met ENOTEMPTY while one of ours was at work
    met: AtomicU64,
    seen: AtomicU64,
    quiet: AtomicU64,
}

pub(crate) fn race(setting: &Setting, time: Duration, tally: &Tally) -> Result<()> {
    let room = setting.room("cleanrace")?;
    let count = || AtomicU64::new(0);
    let race = Race {
        yard: Yard::lay_out(setting, room.path(), None)?,
        tally,
        again: format!("cleanrace --seed {} --case race --seconds {}", setting.seed, time.as_secs()),
        over: AtomicBool::new(false),
        work: RwLock::new(()),
        runs: count(),
        kills: count(),
        installs: count(),
        met: count(),
        seen: count(),
        quiet: count(),
    };
    let ours = HashSet::from([race.yard.loader_id()]);
    let seed = |thread: u64| Random::new(setting.seed.wrapping_mul(1000).wrapping_add(thread));
    let faults: Vec<anyhow::Error> = std::thread::scope(|scope| {
        let race = &race;
        let mut threads = Vec::new();
        for number in 0..4 {
            threads.push(scope.spawn(move || race.runner(seed(number))));
        }
        threads.push(scope.spawn(move || race.uv(seed(900))));
        threads.push(scope.spawn(move || race.pip(seed(901))));
        threads.push(scope.spawn(move || race.deb(seed(902))));
        threads.push(scope.spawn(move || race.walker(false)));
        threads.push(scope.spawn(move || race.walker(true)));
        threads.push(scope.spawn(move || race.quiet_points()));
        let start = Instant::now();
        while start.elapsed() < time && !interrupted() && threads.iter().all(|thread| !thread.is_finished()) {
            std::thread::sleep(Duration::from_millis(50));
        }
        race.over.store(true, Ordering::SeqCst);
        threads.into_iter().filter_map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked"))).err()).collect()
    });
    if let Some(fault) = faults.into_iter().next() {
        return Err(fault);
    }
    if interrupted() {
        return Ok(());
    }
    race.calm(&ours)?;
    let all = [&race.runs, &race.kills, &race.installs, &race.met, &race.seen, &race.quiet].map(|count| count.load(Ordering::Relaxed));
    println!(
        "cleanrace: race: {} runs, {} killed, {} installs ({} times ENOTEMPTY while we were at work), {} artifacts seen by walkers, {} quiet points",
        all[0], all[1], all[2], all[3], all[4], all[5]
    );
    tally.checked(all[0] + all[4] + all[5]);
    Ok(())
}

impl Race<'_> {
    fn complain(&self, what: &str) {
        self.tally.violation(&format!("cleanrace: race: {what}"), &self.again);
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn runner(&self, mut random: Random) -> Result<()> {
        while !self.is_over() {
            let mut roll = random.below(100);
            let run = RUNS.iter().find(|(_, weight)| {
                let here = roll < *weight;
                roll = roll.saturating_sub(*weight);
                here
            });
            let words = run.map_or(RUNS[0].0, |(words, _)| words);
            let mut command = match words {
                ["prefix-compile"] => self.yard.with_prefix("compile"),
                ["prefix-clean"] => self.yard.with_prefix("clean"),
                _ => {
                    let mut command = self.yard.ours(words);
                    command.args(["--jobs", "2"]).arg(&self.yard.tree);
                    command
                }
            };
            let doomed = (random.below(100) < 15).then(|| Duration::from_millis(u64::try_from(random.below(150)).unwrap_or(0)));
            let _work = self.work.read().unwrap();
            self.one(&words.join(" "), &mut command, doomed)?;
        }
        Ok(())
    }

    fn one(&self, title: &str, command: &mut Command, doomed: Option<Duration>) -> Result<()> {
        let said = tempfile::NamedTempFile::new_in(&self.yard.room)?;
        let out = said.as_file().try_clone()?;
        let mut child =
            command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).spawn().with_context(|| format!("{title} does not start"))?;
        let start = Instant::now();
        let mut killed = false;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if doomed.is_some_and(|after| start.elapsed() >= after) || start.elapsed() > HUNG {
                if start.elapsed() > HUNG {
                    self.complain(&format!("{title} had not ended after {} s", HUNG.as_secs()));
                }
                killed = true;
                kill(child.id());
                break child.wait()?;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        self.runs.fetch_add(1, Ordering::Relaxed);
        self.kills.fetch_add(u64::from(killed), Ordering::Relaxed);
        let text = String::from_utf8_lossy(&std::fs::read(said.path())?).into_owned();
        // 1: a source that an installer took away under us
        let as_killed = killed && status.signal() == Some(9);
        if !matches!(status.code(), Some(0 | 1)) && !as_killed {
            self.complain(&format!("{title} ended with {status}: {}", text.trim().replace('\n', " | ")));
        }
        if status.code() == Some(1) && title.starts_with("clean") {
            self.complain(&format!("{title} says that something is wrong: {}", text.trim().replace('\n', " | ")));
        }
        Ok(())
    }

    /// Removes a directory of a package with all in it; while one of ours writes into it that takes more than one try.
    fn remove_all(&self, dir: &Path) -> Result<()> {
        let start = Instant::now();
        loop {
            match std::fs::remove_dir_all(dir) {
                Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty && start.elapsed() < HUNG => {
                    self.met.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && dir.exists() && start.elapsed() < HUNG => {}
                done => return absent(done).map(|_| ()).with_context(|| dir.display().to_string()),
            }
        }
    }

    fn installs(&self, mut random: Random, packages: &[&str], install: impl Fn(&Path, &mut Random) -> Result<()>) -> Result<()> {
        while !self.is_over() {
            std::thread::sleep(Duration::from_millis(u64::try_from(random.below(60))?));
            let _work = self.work.read().unwrap();
            install(Path::new(packages[random.below(packages.len())]), &mut random)?;
            self.installs.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Removes `__pycache__`, or the package, and puts the package back by hard links: in place, or beside it and renamed.
    fn uv(&self, random: Random) -> Result<()> {
        self.installs(random, &UV, |package, random| {
            let dir = self.yard.tree.join(package);
            let way = random.below(3);
            if way == 0 {
                return self.remove_all(&dir.join(CACHE));
            }
            self.remove_all(&dir)?;
            let new = if way == 1 { dir.clone() } else { self.yard.tree.join(".new") };
            std::fs::create_dir_all(&new)?;
            for entry in std::fs::read_dir(self.yard.room.join("wheels").join(package))? {
                let from = entry?.path();
                std::fs::hard_link(&from, new.join(from.file_name().context("no name")?))?;
            }
            // One of ours may have begun to fill a directory of this name again, or the new one.
            while way == 2
                && let Err(error) = std::fs::rename(&new, &dir)
            {
                anyhow::ensure!(error.kind() == std::io::ErrorKind::DirectoryNotEmpty, "{}: {error}", dir.display());
                self.met.fetch_add(1, Ordering::Relaxed);
                self.remove_all(&dir)?;
            }
            Ok(())
        })
    }

    /// Renames `__pycache__` aside; then removes that, or renames it back over whatever is there by now, as its rollback does.
    fn pip(&self, random: Random) -> Result<()> {
        self.installs(random, &PIP, |package, random| {
            let (dir, beside) = (self.yard.tree.join(package).join(CACHE), self.yard.tree.join(package).join(ASIDE));
            let stash = if random.below(2) == 0 { beside } else { self.yard.room.join("stash") };
            if absent(std::fs::rename(&dir, &stash))?.is_none() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(u64::try_from(random.below(80))?));
            if random.below(2) == 0 {
                return self.remove_all(&stash);
            }
            loop {
                self.remove_all(&dir)?;
                match std::fs::rename(&stash, &dir) {
                    Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => {
                        self.met.fetch_add(1, Ordering::Relaxed);
                    }
                    done => return done.with_context(|| stash.display().to_string()),
                }
            }
        })
    }

    /// Every artifact by name, then `rmdir`: "not empty" is right while one of ours is at work.
    fn deb(&self, random: Random) -> Result<()> {
        self.installs(random, &DEB, |package, _| {
            let kept = self.yard.py3clean(package.to_str().context("no name")?)?;
            self.met.fetch_add(u64::from(kept.is_some()), Ordering::Relaxed);
            Ok(())
        })
    }

    /// Walks the tree and the prefix, and copies the tree with `cp`, which must meet nothing worse than what vanishes.
    fn walker(&self, copies: bool) -> Result<()> {
        let complain = |what: String| self.complain(&format!("a walker meets {what}"));
        while !self.is_over() {
            let mut seen = 0;
            if copies {
                let to = self.yard.room.join("copy");
                let (_, said) = perform(Command::new("cp").arg("-a").arg(&self.yard.tree).arg(&to).env("LC_ALL", "C"))?;
                // The second: a file was renamed over it between cp's look and its opening, which is what a replacement should do.
                let fine = |line: &str| line.contains("No such file or directory") || line.contains("replaced while being copied");
                said.lines().filter(|line| !fine(line)).for_each(|line| self.complain(&format!("cp says: {line}")));
                seen += self.yard.walk(&to, &complain)?;
                self.remove_all(&to)?;
            } else {
                seen += self.yard.walk(&self.yard.tree, &complain)?;
                if self.yard.prefix.exists() {
                    seen += self.yard.walk(&self.yard.prefix, &complain)?;
                }
            }
            self.seen.fetch_add(seen, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Now and then all of ours are done: after one run that was not killed nothing of ours keeps anybody's `rmdir` from working.
    fn quiet_points(&self) -> Result<()> {
        while !self.is_over() {
            for _ in 0..20 {
                if self.is_over() {
                    return Ok(());
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            let _quiet = self.work.write().unwrap();
            self.yard.check_theirs(&|what| self.complain(&what));
            self.must(&mut self.yard.compile());
            for path in leftovers(&self.yard.tree) {
                self.complain(&format!("at a quiet point {} is there", path.display()));
            }
            for package in DEB {
                if let Some(why) = self.yard.py3clean(package)? {
                    self.complain(&format!("at a quiet point {why}"));
                }
            }
            self.quiet.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn must(&self, command: &mut Command) {
        match perform(command) {
            Ok((Some(0), _)) => {}
            Ok((code, said)) => self.complain(&format!("{command:?} exits {code:?}: {}", said.trim().replace('\n', " | "))),
            Err(error) => self.complain(&format!("{error:#}")),
        }
    }

    /// When all are done one `compile` leaves everything good, and one `clean` exactly what is not ours.
    fn calm(&self, ours: &HashSet<u32>) -> Result<()> {
        let left = strays_after(Duration::from_secs(3), ours);
        if left > 0 {
            self.complain(&format!("{left} processes outlived who started them"));
        }
        let yard = &self.yard;
        for verb in ["compile", "verify"] {
            self.must(yard.ours(&[verb]).arg(&yard.tree));
            self.must(&mut yard.with_prefix(verb));
        }
        for top in [&yard.tree, &yard.prefix] {
            for path in leftovers(top) {
                self.complain(&format!("{} is left over", path.display()));
            }
            self.tally.checked(yard.walk(top, &|what| self.complain(&format!("afterwards {what}")))?);
        }
        self.must(&mut yard.clean(&yard.tree));
        self.tally.checked(yard.check_theirs(&|what| self.complain(&what)));
        yard.check_cleaned(&|what| self.complain(&what));
        self.must(yard.with_prefix("clean").arg("--orphans").arg("--leftovers"));
        self.must(&mut yard.with_prefix("clean"));
        for path in walkdir::WalkDir::new(&yard.prefix).min_depth(1).into_iter().flatten() {
            self.complain(&format!("{} is in the prefix after clean", path.path().display()));
        }
        if strays_after(Duration::from_secs(1), ours) > 0 {
            self.complain("a process outlived the last run");
        }
        Ok(())
    }
}
