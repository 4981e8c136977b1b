//! What goes on at once in a storm: runs that are killed at random, edits, damage, and readers that prove what they see.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::corpus::module;
use crate::run::{Random, children_of, kill};
use crate::standin;
use crate::storm::{Kind, Storm};
use crate::whole::{Look, digest, look};

/// Longer than any lock is waited for.
const HUNG: Duration = Duration::from_secs(90);

impl Storm<'_> {
    pub(crate) fn command(&self, run: &str) -> Command {
        match run {
            // as on a full disk: it may fill no file beyond some blocks
            "compileall" | "cut short" if self.kind == Kind::Old => {
                let limit = if run == "cut short" { "ulimit -f 4; " } else { "" };
                let mut command = Command::new("sh");
                command.args(["-c", &format!("{limit}exec \"$@\""), "sh"]);
                command.arg(&self.setting.python.path).args(["-m", "compileall", "-q", "-f"]).arg(&self.tree);
                command
            }
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

    pub(crate) fn runner(&self, mut random: Random) -> Result<()> {
        while !self.over.load(Ordering::SeqCst) {
            let mut roll = random.below(100);
            let weights = self.kind.runs().iter().find(|(_, weight)| {
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
        let ours = !matches!(run, "compileall" | "cut short" | "import" | "standin");
        let mut command = if let Kind::StandIn(bug) = self.kind {
            let from = self.numbers.fetch_add(1, Ordering::Relaxed) % 2;
            standin::command(bug, &self.generation(usize::try_from(from)?), &self.tree)?
        } else {
            self.command(run)
        };
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
                // the whole, or the parent alone
                if self.kills.load(Ordering::Relaxed).is_multiple_of(2) {
                    children_of(child.id()).into_iter().for_each(kill);
                }
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

    /// One at a time, so that what is torn has no magic or no time: two in one file would tear it in ways that nobody could tell from ours.
    pub(crate) fn old_writer(&self, mut random: Random) -> Result<()> {
        while !self.over.load(Ordering::SeqCst) {
            let doomed = (random.below(100) < 70).then(|| Duration::from_millis(20 + u64::try_from(random.below(150)).unwrap_or(0)));
            self.one(if random.below(2) == 0 { "compileall" } else { "cut short" }, doomed)?;
        }
        Ok(())
    }

    /// Edits by rename as editors do and in place as others do, often several in one second, often without a change of size.
    pub(crate) fn editor(&self, sources: &[PathBuf], mut random: Random) -> Result<()> {
        while !self.over.load(Ordering::SeqCst) {
            let number = random.below(sources.len());
            let path = &sources[number];
            let version = usize::from(self.version.fetch_add(1, Ordering::Relaxed));
            let text = module(1000 + version, if self.kind == Kind::Old { 40 } else { 12 } + random.below(2));
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
    pub(crate) fn damager(&self, artifacts: &[PathBuf], mut random: Random) -> Result<()> {
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

    pub(crate) fn reader(&self, artifacts: &[PathBuf], mut random: Random) -> Result<()> {
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
        if self.damaged.lock().unwrap().contains(&digest(&bytes)) || (self.kind == Kind::Old && torn_by_the_old(&bytes)) {
            return Ok(None);
        }
        match look(&bytes) {
            Look::Torn(why) => Ok(Some(why)),
            // what was adopted may have been damaged before, in a way that shows in no structure
            Look::Sealed { adopted: true, .. } => Ok(None),
            Look::Sealed { .. } | Look::Unsealed => self.loader.lock().unwrap().refuses(&bytes),
        }
    }
}

/// Python 2.7 fills a file from its start: nothing, then no magic until all is written; where it imports, no time until then.
fn torn_by_the_old(bytes: &[u8]) -> bool {
    bytes.len() < 8 || bytes[..4] == [0; 4] || bytes[4..8] == [0; 4]
}

fn end(child: &mut Child) -> Result<()> {
    match child.kill() {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => Ok(()),
        Err(error) => Err(error.into()),
    }
}
