//! Power cuts on real file systems: the image behind a loop device is copied at one point in time, by a host file system that can share
//! blocks, and the copy is mounted as after a cut. An `fsync` of another file commits the journal: names become durable then, data not.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::crashstates::Bench;
use crate::crashstates::states::not_new;
use crate::mount::{self, Place, check, copy, on_path};
use crate::run::{Random, Setting, Tally, interrupted};
use crate::standin;

const SOURCES: usize = 20;

/// A file system to cut the power of.
#[derive(Debug, Clone, Copy)]
struct Kind {
    name: &'static str,
    /// what the kernel calls it
    system: &'static str,
    mkfs: &'static [&'static str],
    options: &'static str,
    size: u64,
}

const KINDS: [Kind; 4] = [
    Kind { name: "ext4", system: "ext4", mkfs: &["mkfs.ext4", "-q"], options: "loop", size: 128 << 20 },
    // without its heuristic a rename over an old file does not flush the new one
    Kind { name: "ext4-noauto", system: "ext4", mkfs: &["mkfs.ext4", "-q"], options: "loop,noauto_da_alloc", size: 128 << 20 },
    Kind { name: "xfs", system: "xfs", mkfs: &["mkfs.xfs", "-q"], options: "loop,nouuid", size: 320 << 20 },
    Kind { name: "btrfs", system: "btrfs", mkfs: &["mkfs.btrfs", "-q"], options: "loop", size: 256 << 20 },
];

/// Those that can copy a file at one point in time.
const HOSTS: [(&str, &[&str]); 2] = [("xfs", &["mkfs.xfs", "-q", "-m", "reflink=1"]), ("btrfs", &["mkfs.btrfs", "-q"])];

/// What writes, and whether it must hold: else it must lose something on some file system.
const WRITERS: [(&str, bool); 10] = [
    ("batch", true),
    ("full", true),
    ("copy+store", true),
    ("hardlink+store", true),
    ("clone+store", true),
    ("standin-whole", true),
    ("none", false),
    ("hardlink+store+none", false),
    ("standin-nofsync", false),
    ("standin-nodirsync", false),
];

fn usable(system: &str, mkfs: &str) -> Result<(), String> {
    if !on_path(mkfs) {
        return Err(format!("there is no {mkfs}"));
    }
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !known.split_whitespace().any(|name| name == system) {
        return Err("the kernel does not name it in /proc/filesystems".to_owned());
    }
    Ok(())
}

pub(crate) fn possible() -> Result<(), String> {
    if !mount::possible() {
        return Err("not root, or no mkfs.ext4".to_owned());
    }
    if !HOSTS.iter().any(|(system, mkfs)| usable(system, mkfs[0]).is_ok()) {
        return Err("no file system that can share blocks between files (mkfs.xfs or mkfs.btrfs)".to_owned());
    }
    Ok(())
}

/// File systems that are left out here, and why.
pub(crate) fn missing() -> Vec<(&'static str, String)> {
    KINDS.iter().filter_map(|kind| Some((kind.name, usable(kind.system, kind.mkfs[0]).err()?))).collect()
}

/// `quick`: with a store on xfs alone, which can clone.
pub(crate) fn run(
    setting: &Setting,
    quick: bool,
    seconds: Option<u64>,
    only: Option<&str>,
    random: &mut Random,
    tally: &Tally,
) -> Result<()> {
    if let Err(why) = possible() {
        println!("SKIP powercut: {why}");
        return Ok(());
    }
    for (name, why) in missing() {
        println!("SKIP powercut on {name}: {why}");
    }
    let start = Instant::now();
    let room = setting.room("powercut")?;
    let bench = Bench::lay_out(setting, room.path(), SOURCES, random.below(1 << 20))?;
    let host = host(&setting.scratch)?;
    let mut cases = 0;
    for (writer, holds) in WRITERS {
        let mut lost = 0;
        let mut all = true;
        let mut line = format!("powercut: {writer}:");
        let here = |kind: &&Kind| !quick || link_of(writer).is_none() || kind.name == "xfs" || only.is_some();
        for kind in KINDS.iter().filter(|kind| usable(kind.system, kind.mkfs[0]).is_ok()).filter(here) {
            write!(line, " {}", kind.name)?;
            // what comes out of a store is written the same way over what stands there
            for (tree, as_was) in [("fresh", "Fresh"), ("over", "Stale")].into_iter().take(if link_of(writer).is_some() { 1 } else { 2 }) {
                for cut in ["exit", "fsync"] {
                    let name = format!("{writer}:{}:{tree}:{cut}", kind.name);
                    let late = seconds.is_some_and(|limit| start.elapsed().as_secs() >= limit);
                    if interrupted() || late || only.is_some_and(|only| only != name) {
                        all = false;
                        continue;
                    }
                    let case = Case {
                        bench: &bench,
                        setting,
                        host: host.dir(),
                        kind,
                        writer,
                        old: &bench.template(as_was),
                        foreign: cut == "fsync",
                    };
                    let found = case.run().with_context(|| name.clone())?;
                    write!(line, " {tree}/{cut} {}+{}", found.torn.len(), found.not_new.len())?;
                    lost += found.torn.len() + found.not_new.len();
                    cases += 1;
                    tally.checked(u64::try_from(SOURCES)?);
                    let again = format!("powercut --seed {} --case {name}", setting.seed);
                    if holds {
                        for what in found.torn.iter().chain(&found.not_new) {
                            tally.violation(&format!("{name}: {what}"), &again);
                        }
                    }
                }
            }
        }
        if all || only.is_none_or(|only| only.starts_with(&format!("{writer}:"))) {
            println!("{line}{}", if holds { "" } else { " (must lose something)" });
        }
        if !holds && all && lost == 0 && !line.ends_with(':') {
            let what = format!("{writer} loses nothing on any file system: then the others show nothing");
            tally.violation(&what, &format!("powercut --seed {}", setting.seed));
        }
    }
    if cases == 0 && only.is_some() {
        bail!("no case is called {}; a case is WRITER:FILESYSTEM:TREE:CUT", only.unwrap_or(""));
    }
    println!("powercut: {cases} cuts, torn+not new of {SOURCES} files each, {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// How a writer with a store links out of it.
fn link_of(writer: &str) -> Option<&str> {
    writer.split_once("+store").map(|(link, _)| link)
}

fn host(scratch: &Path) -> Result<Place> {
    for (system, mkfs) in HOSTS.iter().filter(|(system, mkfs)| usable(system, mkfs[0]).is_ok()) {
        match Place::made(scratch, scratch, 4 << 30, mkfs, "loop") {
            Ok(place) => {
                println!("powercut: images lie on {system}");
                return Ok(place);
            }
            Err(error) => println!("SKIP powercut with images on {system}: {error:#}"),
        }
    }
    bail!("no file system that can share blocks could be mounted")
}

struct Case<'a> {
    bench: &'a Bench<'a>,
    setting: &'a Setting,
    host: &'a Path,
    kind: &'a Kind,
    writer: &'a str,
    old: &'a Path,
    foreign: bool,
}

/// What the cut left.
struct Found {
    /// neither the old artifact nor a new one
    torn: Vec<String>,
    /// whole, but not what exit 0 promised
    not_new: Vec<String>,
}

impl Case<'_> {
    fn run(&self) -> Result<Found> {
        let place = Place::made(&self.setting.scratch, self.host, self.kind.size, self.kind.mkfs, self.kind.options)?;
        let (tree, other) = (place.dir().join("tree"), place.dir().join("other"));
        copy(self.old, &tree)?;
        let mut other = std::fs::File::create(other)?;
        other.write_all(b"x\n")?;
        if link_of(self.writer).is_some() {
            let first = place.dir().join("first");
            copy(&self.bench.template("Fresh"), &first)?;
            check(Command::new("sync").arg("-f").arg(place.dir()))?;
            // what this one leaves unflushed in the store, nobody may lean on
            check(&mut self.stored(&first, "none", place.dir()))?;
        } else {
            check(Command::new("sync").arg("-f").arg(place.dir()))?;
        }
        check(&mut self.command(&tree, place.dir())?)?;
        if self.foreign {
            other.write_all(b"y\n")?;
            other.sync_all()?;
        }
        drop(other);
        let place = place.cut(&self.setting.scratch, self.kind.options)?;
        let tree = place.dir().join("tree");
        let (mut torn, mut old) = (Vec::new(), Vec::new());
        for (path, artifact) in self.bench.artifacts(self.old)? {
            let why = match std::fs::read(tree.join(&path)) {
                Ok(bytes) if artifact.old.as_ref() == Some(&bytes) => {
                    old.push(format!("{} is the old one after exit 0", path.display()));
                    continue;
                }
                Ok(bytes) => not_new(&artifact, &bytes),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && artifact.old.is_none() => {
                    old.push(format!("{} is not there after exit 0", path.display()));
                    continue;
                }
                Err(error) => Some(error.to_string()),
            };
            torn.extend(why.map(|why| format!("{}: {why}", path.display())));
        }
        if link_of(self.writer).is_some() {
            torn.extend(self.after(place.dir())?);
        }
        Ok(Found { torn, not_new: old })
    }

    /// What a run after the cut makes wrong of a third tree, out of the store that is left.
    fn after(&self, place: &Path) -> Result<Vec<String>> {
        let third = place.join("third");
        copy(&self.bench.template("Fresh"), &third)?;
        check(&mut self.stored(&third, "batch", place))?;
        let mut wrong = Vec::new();
        for (path, artifact) in self.bench.artifacts(self.old)? {
            let why = std::fs::read(third.join(&path)).map_or_else(|error| Some(error.to_string()), |bytes| not_new(&artifact, &bytes));
            wrong.extend(why.map(|why| format!("a later run makes {}: {why}", path.display())));
        }
        Ok(wrong)
    }

    fn stored(&self, tree: &Path, durability: &str, place: &Path) -> Command {
        let mut command = self.bench.command("compile", tree);
        command.args(["--durability", durability, "--link-mode", link_of(self.writer).unwrap_or("copy")]);
        command.env_remove("BYTEKEEP_NO_STORE").env("BYTEKEEP_STORE", place.join("store"));
        command
    }

    fn command(&self, tree: &Path, place: &Path) -> Result<Command> {
        if link_of(self.writer).is_some() {
            return Ok(self.stored(tree, if self.writer.ends_with("+none") { "none" } else { "batch" }, place));
        }
        if let Some(bug) = self.writer.strip_prefix("standin-") {
            return standin::command(bug, &self.bench.template("new"), tree);
        }
        let mut command = self.bench.command("compile", tree);
        command.args(["--durability", self.writer]);
        Ok(command)
    }
}
