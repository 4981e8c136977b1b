//! What the tree's owner does meanwhile: processes of this program under another user id (`stress user SEED KIND A B …`).

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::run::Random;

/// Nobody, who owns the trees.
pub(super) const USER: u32 = 65534;

/// `swap` exchanges two names, `swapdir` makes what is missing of them, `swaphard` exchanges a file with a hard link to a third one, `link`
/// lays a hard link and takes it away, `flood` makes names like ours and steals ours.
#[derive(Debug, Clone)]
pub(super) struct Act {
    pub(super) kind: &'static str,
    pub(super) a: PathBuf,
    pub(super) b: PathBuf,
}

/// Whether this process was started to be one; then it has done its work.
pub(crate) fn asked() -> Option<Result<()>> {
    let all: Vec<OsString> = std::env::args_os().skip(1).collect();
    match &all[..] {
        [first, seed, acts @ ..] if first == "user" => Some(act_all(seed, acts)),
        _ => None,
    }
}

/// A running one; it ends with its standard input.
#[derive(Debug)]
pub(super) struct User {
    child: Child,
    acts: Vec<Act>,
}

impl User {
    /// `uid` 0: what only root can do here, and every user where `fs.protected_hardlinks` is 0.
    pub(super) fn start(uid: u32, seed: u64, acts: &[Act]) -> Result<Self> {
        // Its own executable by this name: the path to it may be closed to others.
        let mut command = Command::new("/proc/self/exe");
        command.arg("user").arg(seed.to_string()).uid(uid).gid(uid).current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped());
        for act in acts {
            command.arg(act.kind).arg(&act.a).arg(&act.b);
        }
        Ok(Self { child: command.spawn().context("the hostile user does not start")?, acts: acts.to_vec() })
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it: how often each act was done.
    pub(super) fn stop(mut self) -> Result<Vec<(Act, u64)>> {
        drop(self.child.stdin.take());
        let mut said = String::new();
        self.child.stdout.take().context("no pipe")?.read_to_string(&mut said)?;
        let status = self.child.wait()?;
        let counts: Vec<u64> = said.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        if !status.success() || counts.len() != self.acts.len() {
            bail!("the hostile user ended with {status}: {said}");
        }
        Ok(self.acts.into_iter().zip(counts).collect())
    }
}

/// Can the user get there at all?
pub(super) fn reaches(dir: &Path) -> Result<bool> {
    let user = User::start(USER, 0, &[Act { kind: "reach", a: dir.to_owned(), b: PathBuf::new() }])?;
    Ok(user.stop()?[0].1 > 0)
}

fn act_all(seed: &OsString, acts: &[OsString]) -> Result<()> {
    let seed: u64 = seed.to_str().context("no seed")?.parse()?;
    let over = AtomicBool::new(false);
    let counts = std::thread::scope(|scope| {
        let over = &over;
        let threads: Vec<_> = acts
            .chunks_exact(3)
            .enumerate()
            .map(|(number, act)| scope.spawn(move || repeat(act, &mut Random::new(seed.wrapping_add(number as u64)), over)))
            .collect();
        let waited = std::io::stdin().read_to_end(&mut Vec::new());
        over.store(true, Ordering::SeqCst);
        let counts: Result<Vec<u64>> = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| bail!("a panic"))).collect();
        waited.map_err(anyhow::Error::from).and(counts)
    })?;
    println!("{}", counts.iter().map(u64::to_string).collect::<Vec<_>>().join(" "));
    Ok(())
}

fn repeat(act: &[OsString], random: &mut Random, over: &AtomicBool) -> Result<u64> {
    let (kind, a, b) = (act[0].to_str().context("no kind")?, Path::new(&act[1]), Path::new(&act[2]));
    if kind == "reach" {
        return Ok(u64::from(std::fs::read_dir(a).is_ok()));
    }
    let (mut count, mut own) = (0, VecDeque::new());
    while !over.load(Ordering::Relaxed) {
        let done = match kind {
            "swap" => exchange(a, b),
            "swapdir" => exchange(a, b).or_else(|_| make(a).and(make(b)).map(|()| false)),
            "swaphard" => swap_hard(a, b, random),
            "link" => relink(a, b, random),
            "flood" => flood(a, b, random, &mut own),
            other => bail!("nobody does {other}"),
        };
        match done {
            Ok(done) => count += u64::from(done),
            // the other side removes and makes names too; who never gets anything done is told by the count
            Err(_) => pause(3, random),
        }
        // mostly in bursts, which hit between two calls; now and then so long that a whole step of the other side fits in
        let roll = random.below(64);
        pause(roll.saturating_sub(52) / 3, random);
    }
    Ok(count)
}

fn pause(length: usize, random: &mut Random) {
    if length > 0 {
        std::thread::sleep(Duration::from_micros(
            u64::try_from(random.below(40 * 8_usize.pow(u32::try_from(length).unwrap_or(1)))).unwrap_or(0),
        ));
    }
}

fn make(dir: &Path) -> std::io::Result<()> {
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

#[cfg(target_os = "linux")]
pub(super) fn exchange(a: &Path, b: &Path) -> std::io::Result<bool> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).map(|()| true)?)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn exchange(_a: &Path, _b: &Path) -> std::io::Result<bool> {
    Err(ErrorKind::Unsupported.into())
}

/// `b` is the file outside; beside `a` stands a name for the exchange.
fn swap_hard(a: &Path, b: &Path, random: &mut Random) -> std::io::Result<bool> {
    let beside = a.with_extension("hard");
    if random.below(8) == 0 || !beside.exists() {
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => std::fs::hard_link(b, &beside)?,
        }
    }
    match exchange(a, &beside) {
        Err(error) if error.kind() == ErrorKind::NotFound => std::fs::hard_link(b, a).map(|()| false),
        done => done,
    }
}

fn relink(a: &Path, b: &Path, random: &mut Random) -> std::io::Result<bool> {
    let made = std::fs::hard_link(b, a);
    pause(2, random);
    let removed = std::fs::remove_file(a);
    pause(2, random);
    made.and(removed).map(|()| true)
}

/// Names that a guesser would make, as files, links, directories; and whatever of this kind somebody else makes is taken away and a link put there.
fn flood(dir: &Path, target: &Path, random: &mut Random, own: &mut VecDeque<PathBuf>) -> std::io::Result<bool> {
    let name = dir.join(format!(".bytekeep-zz{:04x}.{}", random.below(0xffff), ["tmp", "old"][random.below(2)]));
    match random.below(4) {
        0 => std::fs::write(&name, "of the user\n")?,
        1 => symlink(target, &name)?,
        2 => make(&name)?,
        _ => symlink(target.join("new"), &name)?,
    }
    own.push_back(name);
    if own.len() > 100
        && let Some(old) = own.pop_front()
    {
        match std::fs::remove_file(&old).or_else(|_| std::fs::remove_dir(&old)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    for entry in std::fs::read_dir(dir)?.flatten() {
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if name.starts_with(b".bytekeep") && !name.starts_with(b".bytekeep-zz") {
            std::fs::rename(entry.path(), dir.join("stolen"))?;
            symlink(target, entry.path())?;
        }
    }
    Ok(true)
}
