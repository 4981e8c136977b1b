//! Package transactions and the hooks behind them, many at once on one system: packages are installed, upgraded and removed as managers do
//! it, their hooks are called with each manager's own input and killed at random, people repair beside them, and readers prove every
//! artifact. No hook may fail; and when it is quiet, one more of them must leave each source with its artifact and nothing else.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::corpus::module;
use crate::run::{Random, Setting, Tally, children_of, interrupted, kill, measure, strays_after, without_options};
use crate::whole::{Look, files, is_artifact, leftovers, look};

/// Longer than any lock is waited for.
const HUNG: Duration = Duration::from_secs(120);
/// Where the packages have their modules, in that system.
const SITE: &str = "/usr/lib/python3/dist-packages";
/// Managers at work. Real ones keep each other out of the database, and not out of the directories.
const MANAGERS: usize = 3;
const PACKAGES: usize = 6;
const MODULES: usize = 5;

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seconds: u64,
    pub(crate) processes: usize,
}

struct Hooks<'a> {
    setting: &'a Setting,
    tally: &'a Tally,
    root: PathBuf,
    room: PathBuf,
    again: String,
    over: AtomicBool,
    numbers: AtomicU64,
    transactions: AtomicU64,
    runs: AtomicU64,
    kills: AtomicU64,
    proofs: AtomicU64,
}

pub(crate) fn run(setting: &Setting, plan: &Plan, tally: &Tally) -> Result<()> {
    let place = setting.room("hooks")?;
    let room = place.path().to_owned();
    let again = format!("hooks --seed {} --seconds {} --processes {}", setting.seed, plan.seconds, plan.processes);
    let [numbers, transactions, runs, kills, proofs] = [0; 5].map(AtomicU64::new);
    let over = AtomicBool::new(false);
    let hooks = Hooks { setting, tally, root: room.join("system"), room, again, over, numbers, transactions, runs, kills, proofs };
    std::fs::create_dir_all(hooks.real(SITE))?;
    std::fs::create_dir_all(hooks.root.join("usr/share/python3"))?;
    let version = setting.python.version.rsplit_once('.').map_or(setting.python.version.as_str(), |(minor, _)| minor);
    std::fs::write(hooks.root.join("usr/share/python3/debian_defaults"), format!("[DEFAULT]\nsupported-versions = python{version}\n"))?;
    hooks.blow(Duration::from_secs(plan.seconds), plan.processes)?;
    hooks.calm()?;
    let [transactions, runs, kills, proofs] =
        [&hooks.transactions, &hooks.runs, &hooks.kills, &hooks.proofs].map(|count| count.load(Ordering::Relaxed));
    println!("hooks: {transactions} transactions, {runs} runs, {kills} killed, {proofs} proofs by readers");
    tally.checked(runs + proofs);
    if transactions == 0 || proofs == 0 {
        hooks.complain("nothing happened: then this shows nothing");
    }
    Ok(())
}

impl Hooks<'_> {
    fn real(&self, inside: &str) -> PathBuf {
        self.root.join(inside.trim_start_matches('/'))
    }

    fn complain(&self, what: &str) {
        self.tally.violation(&format!("hooks: {what}"), &self.again);
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn blow(&self, lasts: Duration, processes: usize) -> Result<()> {
        let seed = |thread: usize| Random::new(self.setting.seed.wrapping_mul(1000).wrapping_add(thread as u64));
        let faults: Vec<anyhow::Error> = std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for number in 0..MANAGERS {
                threads.push(scope.spawn(move || self.manager(number, seed(number))));
            }
            for number in MANAGERS..processes.max(MANAGERS + 1) {
                threads.push(scope.spawn(move || self.person(seed(number))));
            }
            threads.push(scope.spawn(|| self.reader()));
            let start = Instant::now();
            while start.elapsed() < lasts && !interrupted() && threads.iter().all(|thread| !thread.is_finished()) {
                std::thread::sleep(Duration::from_millis(50));
            }
            self.over.store(true, Ordering::SeqCst);
            let ended = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked"))));
            ended.filter_map(Result::err).collect()
        });
        faults.into_iter().next().map_or(Ok(()), Err)
    }

    /// One transaction after the other, each with its hook. The packages of managers share directories.
    fn manager(&self, own: usize, mut random: Random) -> Result<()> {
        while !self.is_over() {
            let package = format!("{SITE}/p{}", random.below(PACKAGES));
            let deep = if random.below(3) == 0 { format!("{package}/deep") } else { package };
            let names: Vec<String> = (0..MODULES).map(|n| format!("m{own}_{n}.py")).collect();
            match random.below(10) {
                0..6 => {
                    let there: Vec<String> = names.into_iter().filter(|_| random.below(4) > 0).collect();
                    self.install(&deep, own, &there, &mut random)?;
                    self.hook(&deep, &there, false, &mut random)?;
                }
                kind => {
                    let before = kind == 9;
                    if before {
                        self.hook(&deep, &names, true, &mut random)?;
                    }
                    self.remove(&deep, own, kind == 8)?;
                    self.hook(&deep, &names, !before, &mut random)?;
                }
            }
            self.transactions.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Files are put beside and renamed; those of the version before that are not in this one go.
    fn install(&self, dir: &str, own: usize, names: &[String], random: &mut Random) -> Result<()> {
        let real = self.real(dir);
        for name in names {
            let text = module(usize::try_from(self.numbers.fetch_add(1, Ordering::Relaxed))?, 4 + random.below(20));
            let (new, path) = (real.join(format!("{name}.dpkg-new")), real.join(name));
            // Another manager, or a hook, may take the directory away as long as nothing is in it.
            while !self.is_over() {
                std::fs::create_dir_all(&real)?;
                match std::fs::write(&new, &text).and_then(|()| std::fs::rename(&new, &path)) {
                    Ok(()) => break,
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error).context(path.display().to_string()),
                }
            }
        }
        for path in Self::owned(&real, own).filter(|path| !names.iter().any(|name| path.ends_with(name))) {
            std::fs::remove_file(path)?;
        }
        Ok(())
    }

    /// Sources go, and directories that are empty then; `roughly`: with all artifacts of the directory, as uv does it.
    fn remove(&self, dir: &str, own: usize, roughly: bool) -> Result<()> {
        let real = self.real(dir);
        for path in Self::owned(&real, own) {
            std::fs::remove_file(path)?;
        }
        if roughly {
            drop(std::fs::remove_dir_all(real.join("__pycache__")));
        }
        for above in real.ancestors().take_while(|above| *above != self.real(SITE)) {
            if std::fs::remove_dir(above).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn owned(dir: &Path, own: usize) -> impl Iterator<Item = PathBuf> + use<> {
        let start = format!("m{own}_");
        let all = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        all.filter(move |path| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&start)))
    }

    /// What this manager or that would call, with what it would hand over.
    fn hook(&self, dir: &str, names: &[String], removed: bool, random: &mut Random) -> Result<()> {
        let below = |dir: &str| names.iter().map(|name| format!("{dir}/{name}\n")).collect::<Vec<_>>().concat();
        let (absolute, relative) = (below(dir), below(dir.trim_start_matches('/')));
        let (words, input): (&[&str], &str) = match (random.below(4), removed) {
            (0, _) => (&["dpkg", "triggered", SITE], ""),
            (1, false) => (&["rpm"], &absolute),
            (1, true) => (&["rpm", "--removed"], if random.below(4) == 0 { "" } else { &absolute }),
            (2, false) => (&["pacman"], &relative),
            (2, true) => (&["pacman", "--removed"], &relative),
            _ => (&["apk", SITE], ""),
        };
        let mut command = self.hook_command(words);
        let mut file = tempfile::tempfile_in(&self.room)?;
        file.write_all(input.as_bytes())?;
        file.rewind()?;
        command.stdin(file);
        let doomed = (random.below(100) < 25).then(|| Duration::from_millis(u64::try_from(random.below(400)).unwrap_or(0)));
        self.one(&format!("hook run {}", words.join(" ")), command, doomed, &[0])
    }

    fn hook_command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.setting.bin);
        command.args(["hook", "run", "--jobs", "2", "--python"]).arg(&self.setting.python.path).arg("--root").arg(&self.root).args(words);
        command.env("CACHE_DIRECTORY", self.room.join("cache"));
        without_options(&mut command);
        command
    }

    fn person(&self, mut random: Random) -> Result<()> {
        while !self.is_over() {
            let run = ["repair", "compile", "verify", "seal"][random.below(4)];
            let command = self.setting.bytekeep(run, &self.real(SITE), 2, &self.room.join("home"));
            let doomed = (random.below(100) < 25).then(|| Duration::from_millis(u64::try_from(random.below(300)).unwrap_or(0)));
            // A tree that others take away while it is worked on is an error to who named it, and none of ours.
            self.one(run, command, doomed, &[0, 1, 2])?;
        }
        Ok(())
    }

    fn one(&self, run: &str, mut command: Command, doomed: Option<Duration>, good: &[i32]) -> Result<()> {
        let mut said = tempfile::tempfile_in(&self.room)?;
        if good.len() > 1 {
            command.stdin(Stdio::null());
        }
        let mut child =
            command.stdout(said.try_clone()?).stderr(said.try_clone()?).spawn().with_context(|| format!("{run} does not start"))?;
        let start = Instant::now();
        let mut killed = false;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            let hangs = start.elapsed() > HUNG;
            if hangs || doomed.is_some_and(|after| start.elapsed() >= after) {
                if hangs {
                    self.complain(&format!("{run} had not ended after {} s", HUNG.as_secs()));
                }
                killed = true;
                if self.kills.load(Ordering::Relaxed).is_multiple_of(2) {
                    children_of(child.id()).into_iter().for_each(kill);
                }
                kill(child.id());
                break child.wait()?;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        self.runs.fetch_add(1, Ordering::Relaxed);
        self.kills.fetch_add(u64::from(killed), Ordering::Relaxed);
        let is_good = status.code().is_some_and(|code| good.contains(&code)) || (killed && status.signal() == Some(9));
        if !is_good {
            let mut text = String::new();
            said.rewind()?;
            said.read_to_string(&mut text)?;
            self.complain(&format!("{run} ended with {status}: {}", text.trim().replace('\n', " | ")));
        }
        Ok(())
    }

    fn reader(&self) -> Result<()> {
        while !self.is_over() {
            for path in files(&self.real(SITE)).into_iter().filter(|path| is_artifact(path)) {
                let mut bytes = Vec::new();
                match File::open(&path).and_then(|mut file| file.read_to_end(&mut bytes)) {
                    Ok(_) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error).context(path.display().to_string()),
                }
                if let Look::Torn(why) = look(&bytes) {
                    self.complain(&format!("{}: {why}", path.display()));
                }
                self.proofs.fetch_add(1, Ordering::Relaxed);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// When it is quiet one more hook must mend all that the killed ones left.
    fn calm(&self) -> Result<()> {
        if interrupted() {
            return Ok(());
        }
        if strays_after(Duration::from_secs(3), &HashSet::new()) > 0 {
            self.complain("processes outlived who started them");
        }
        let cost = measure(vec![self.hook_command(&["dpkg", "--strict", "triggered", SITE])])?;
        if cost.code != Some(0) {
            self.complain(&format!("afterwards the hook exits {:?}: {}", cost.code, cost.text.trim().replace('\n', " | ")));
        }
        let site = self.real(SITE);
        for path in leftovers(&site) {
            self.complain(&format!("{} is left over", path.display()));
        }
        let all = files(&site);
        let is_source = |path: &&PathBuf| path.extension().is_some_and(|end| end == "py");
        let source_of = |artifact: &Path| {
            let stem = artifact.file_name()?.to_str()?.split('.').next()?.to_owned();
            Some(artifact.parent()?.parent()?.join(stem + ".py"))
        };
        let compiled: HashSet<PathBuf> = all.iter().filter(|path| is_artifact(path)).filter_map(|path| source_of(path)).collect();
        for source in all.iter().filter(is_source) {
            if !compiled.contains(source) {
                self.complain(&format!("{} has no artifact", source.display()));
            }
            self.tally.checked(1);
        }
        for source in compiled.iter().filter(|source| !source.exists()) {
            self.complain(&format!("{} went, and its artifact did not", source.display()));
        }
        for path in all.iter().filter(|path| is_artifact(path)) {
            if !matches!(look(&std::fs::read(path)?), Look::Sealed { .. }) {
                self.complain(&format!("{} has no seal", path.display()));
            }
        }
        let mut verify = self.setting.bytekeep("verify", &site, 2, &self.room.join("home"));
        verify.args(["--complete", "--require-seal", "--python"]).arg(&self.setting.python.path);
        let cost = measure(vec![verify])?;
        if cost.code != Some(0) {
            self.complain(&format!("afterwards verify exits {:?}: {}", cost.code, cost.text.trim().replace('\n', " | ")));
        }
        Ok(())
    }
}
