//! Twenty modules in every state that a command may find, put back before each case; and what must hold of them after it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use crate::corpus::module;
use crate::mount::{check, copy};
use crate::run::{Setting, measure, without_options};
use crate::whole::{Loader, Look, digest, files, is_artifact, is_leftover, leftovers, look};
use crate::writer::Writer;

/// A `?` before a name: not every architecture has it.
pub(crate) const CALLS: &str = "openat,?openat2,write,pwrite64,writev,copy_file_range,fallocate,?sync_file_range,fsync,fdatasync,syncfs,close,\
    ?rename,renameat,renameat2,?link,linkat,?unlink,unlinkat,?rmdir,?mkdir,mkdirat,flock,ftruncate,fchown,fchownat,fchmod,fchmodat,utimensat";

const SOURCES: usize = 20;
const LINKS: &[&str] = &["--link-mode", "hardlink"];
const PATIENCE: Duration = Duration::from_secs(5);

/// What is killed, on which tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    /// compile, no artifacts yet
    Fresh,
    /// compile over stale artifacts
    Stale,
    /// compile --force over good ones
    Force,
    Clean,
    Repair,
    Seal,
    /// compile over artifacts of these very sources, whose times were changed: no worker is started
    Restamp,
    /// compile, no artifacts yet, with an empty store
    Filling,
    /// compile, no artifacts yet, all of them in the store: no worker is started
    Warm,
    /// compile with hard links, no artifacts yet, with an empty store
    Linking,
    /// compile with hard links, no artifacts yet, all of them in the store, finished
    Linked,
    /// compile, and one of its workers is killed instead
    Worker,
}

impl Op {
    /// Is there a store?
    pub(crate) fn stores(self) -> bool {
        matches!(self, Self::Filling | Self::Warm) || self.links()
    }

    /// Are artifacts the store's own files?
    pub(crate) fn links(self) -> bool {
        matches!(self, Self::Linking | Self::Linked)
    }

    /// The store that it begins with.
    fn full(self) -> Option<&'static str> {
        match self {
            Self::Warm => Some("store-full"),
            Self::Linked => Some("store-linked"),
            _ => None,
        }
    }
}

type Contents = BTreeMap<PathBuf, Vec<u8>>;

/// One tree that is put back to what each command needs before each case.
pub(crate) struct Bench<'a> {
    pub(crate) setting: &'a Setting,
    pub(crate) tree: PathBuf,
    pub(crate) room: PathBuf,
    loader: Loader,
    pub(crate) ours: HashSet<u32>,
    /// what an artifact may be besides new, for each command
    old: HashMap<Op, Contents>,
    sources: Contents,
}

impl<'a> Bench<'a> {
    pub(crate) fn lay_out(setting: &'a Setting, room: &Path) -> Result<Self> {
        let loader = Loader::start(&setting.python)?;
        let ours = HashSet::from([loader.id()]);
        let (tree, room) = (room.join("tree"), room.to_owned());
        std::fs::create_dir(room.join("tmp"))?;
        let mut bench = Self { setting, tree, room, loader, ours, old: HashMap::new(), sources: Contents::new() };
        bench.write_sources(0, 2000)?;
        bench.must("compile")?;
        bench.write_sources(1, 1000)?;
        bench.sources = bench.contents(|path| path.extension().is_some_and(|suffix| suffix == "py"));
        bench.save(Op::Stale)?;
        bench.must("compile")?;
        for path in bench.contents(is_artifact).keys() {
            if !matches!(look(&std::fs::read(path)?), Look::Sealed { adopted: false, .. }) {
                bail!("after an unharmed compile {} is not sealed", path.display());
            }
        }
        bench.save(Op::Force)?;
        bench.save(Op::Clean)?;
        for (number, path) in bench.contents(is_artifact).keys().enumerate().filter(|(number, _)| number % 4 == 0) {
            damage(path, number / 4)?;
        }
        bench.save(Op::Repair)?;
        for path in bench.contents(is_artifact).keys() {
            std::fs::remove_file(path)?;
        }
        bench.save(Op::Fresh)?;
        bench.save(Op::Worker)?;
        bench.save(Op::Filling)?;
        for op in [Op::Warm, Op::Linking, Op::Linked] {
            bench.save(op)?;
        }
        for (op, store) in [Op::Warm, Op::Linked].into_iter().filter_map(|op| Some((op, op.full()?))) {
            bench.restore(Op::Fresh)?;
            let mut fill = bench.stored("compile", store);
            check(fill.args(if op.links() { LINKS } else { &[] }).arg(&bench.tree).arg("--python").arg(&setting.python.path))?;
        }
        // the links of that tree, which goes now
        bench.restore(Op::Fresh)?;
        check(&mut setting.compileall(&bench.tree, 1))?;
        bench.save(Op::Seal)?;
        bench.restore(Op::Force)?;
        for path in bench.sources.keys() {
            set_age(path, 500)?;
        }
        bench.save(Op::Restamp)?;
        Ok(bench)
    }

    fn write_sources(&self, version: usize, age: u64) -> Result<()> {
        for number in 0..SOURCES {
            let dir = self.tree.join(["pkg", "pkg/sub", "other"][number % 3]);
            std::fs::create_dir_all(&dir)?;
            let path = dir.join(format!("m{number}.py"));
            std::fs::write(&path, module(number + 1000 * version, 10 + version))?;
            set_age(&path, age)?;
        }
        Ok(())
    }

    fn store(&self) -> PathBuf {
        self.room.join("store")
    }

    /// A command on a store of this room.
    fn stored(&self, verb: &str, store: &str) -> Command {
        let mut command = Command::new(&self.setting.bin);
        without_options(&mut command);
        command.args(verb.split(' ')).env_remove("BYTEKEEP_NO_STORE").env("BYTEKEEP_STORE", self.room.join(store));
        command.env("XDG_CACHE_HOME", self.room.join("cache"));
        command
    }

    pub(crate) fn template(&self, op: Op) -> PathBuf {
        self.room.join(format!("as-{op:?}"))
    }

    fn save(&mut self, op: Op) -> Result<()> {
        self.old.insert(op, self.contents(is_artifact));
        copy(&self.tree, &self.template(op))
    }

    pub(crate) fn restore(&self, op: Op) -> Result<()> {
        std::fs::remove_dir_all(&self.tree)?;
        if op.stores() && self.store().exists() {
            std::fs::remove_dir_all(self.store())?;
        }
        if let Some(full) = op.full() {
            copy(&self.room.join(full), &self.store())?;
        }
        copy(&self.template(op), &self.tree)
    }

    fn contents(&self, wanted: impl Fn(&Path) -> bool) -> Contents {
        let all = files(&self.tree).into_iter().filter(|path| wanted(path));
        all.filter_map(|path| std::fs::read(&path).ok().map(|bytes| (path, bytes))).collect()
    }

    fn must(&self, verb: &str) -> Result<()> {
        check(&mut self.setting.bytekeep(verb, &self.tree, 1, &self.room.join("cache"))).map(drop)
    }

    pub(crate) fn arguments(&self, op: Op, verb: &str) -> Vec<OsString> {
        let mut all = vec![self.setting.bin.clone().into_os_string()];
        all.extend(self.setting.arguments(verb, &self.tree, 1));
        if op == Op::Force {
            all.push("--force".into());
        }
        if op.links() {
            all.extend(LINKS.iter().map(OsString::from));
        }
        all
    }

    /// strace counts per thread. Unless the writer's workers are to be hit too, it lets go of them at their `execve`.
    pub(crate) fn strace(&self, trace: &str, inject: Option<&str>, writer: Writer) -> Result<Command> {
        let mut command = Command::new("strace");
        command.args(if writer.inside { &["-f"][..] } else { &["-f", "-b", "execve"] });
        command.args(["-qq", "-y", "-o"]).arg(self.room.join("log"));
        command.arg("-e").arg(format!("trace={trace}"));
        if let Some(inject) = inject {
            command.arg("-e").arg(format!("inject={inject}"));
        }
        command.args(writer.arguments(self)?).env("XDG_CACHE_HOME", self.room.join("cache")).env("TMPDIR", self.room.join("tmp"));
        without_options(&mut command);
        if writer.op.stores() {
            command.env_remove("BYTEKEEP_NO_STORE").env("BYTEKEEP_STORE", self.store());
        }
        Ok(command)
    }

    /// How often each call is made by the thread that makes it most.
    pub(crate) fn count(&self, writer: Writer) -> Result<Vec<(String, usize)>> {
        self.restore(writer.op)?;
        let cost = measure(vec![self.strace(CALLS, None, writer)?])?;
        if cost.code != Some(0) {
            bail!("unharmed, {} does not exit 0 but {:?}: {}", writer.name, cost.code, cost.text.trim());
        }
        let mut each: HashMap<(String, String), usize> = HashMap::new();
        for line in std::fs::read_to_string(self.room.join("log"))?.lines() {
            let mut words = line.split_whitespace();
            let (Some(pid), Some(rest)) = (words.next(), words.next()) else { continue };
            if let Some((call, _)) = rest.split_once('(')
                && call.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            {
                *each.entry((pid.to_owned(), call.to_owned())).or_default() += 1;
            }
        }
        let mut most: BTreeMap<String, usize> = BTreeMap::new();
        for ((_, call), times) in each {
            let found = most.entry(call).or_default();
            *found = times.max(*found);
        }
        Ok(most.into_iter().collect())
    }

    /// The next, unharmed run, and what must hold after it.
    pub(crate) fn heal(&mut self, op: Op, complain: &dyn Fn(String)) -> Result<()> {
        let verbs: &[&str] = if op == Op::Repair { &["repair", "compile"] } else { &["compile"] };
        for verb in verbs {
            let cost = measure(vec![self.setting.bytekeep(verb, &self.tree, 1, &self.room.join("cache"))])?;
            if cost.code != Some(0) {
                complain(format!("the next {verb} exits {:?}: {}", cost.code, cost.text.trim()));
            }
            if cost.wall > PATIENCE {
                complain(format!("the next {verb} took {:.1} s", cost.wall.as_secs_f64()));
            }
        }
        if op.stores() && self.store().exists() {
            let cost = measure(vec![self.stored("store verify", "store")])?;
            if cost.code != Some(0) {
                complain(format!("not all values in the store are whole: {}", cost.text.trim()));
            }
        }
        self.judge(op, true, &complain)?;
        Ok(())
    }

    /// The artifacts that are not as the command leaves them when it has done all its work.
    pub(crate) fn undone(&self, op: Op) -> Result<Vec<PathBuf>> {
        let mut all = Vec::new();
        for path in self.old[&Op::Force].keys() {
            let done = match std::fs::read(path) {
                Err(_) => op == Op::Clean,
                Ok(bytes) => match look(&bytes) {
                    // before it was restamped it was as well sealed
                    Look::Sealed { .. } if op == Op::Restamp && self.old[&op].get(path) == Some(&bytes) => false,
                    Look::Sealed { source, .. } => op != Op::Clean && source == digest(source_of(path, &self.sources)?),
                    _ => false,
                },
            };
            if !done {
                all.push(path.clone());
            }
        }
        Ok(all)
    }

    /// `healed`: after the next run, when everything must be there and nothing left over.
    pub(crate) fn judge(&mut self, op: Op, healed: bool, complain: &dyn Fn(String)) -> Result<()> {
        let Self { loader, old: all, sources, tree, .. } = self;
        let (old, good) = (&all[&op], &all[&Op::Force]);
        for path in good.keys() {
            let source = source_of(path, sources)?;
            let mine = old.get(path);
            let bytes = match std::fs::read(path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    if healed || (mine.is_some() && op != Op::Clean) {
                        complain(format!("{} is gone{}", path.display(), if healed { " after the next run" } else { "" }));
                    }
                    continue;
                }
                Err(error) => {
                    complain(format!("{}: {error}", path.display()));
                    continue;
                }
            };
            if healed && op == Op::Restamp && mine == Some(&bytes) {
                complain(format!("{} has its old header after the next run", path.display()));
            }
            let damaged = op == Op::Repair || op == Op::Stale;
            if mine == Some(&bytes) && !(healed && damaged && old[path] != good[path]) {
                continue;
            }
            match look(&bytes) {
                Look::Sealed { source: found, adopted } if found == digest(source) => {
                    if adopted && mine.is_none_or(|mine| !bytes.starts_with(mine)) {
                        complain(format!("{} is adopted, and not what was there", path.display()));
                    }
                    if let Some(why) = loader.refuses(&bytes)? {
                        complain(format!("{} is sealed, and {why}", path.display()));
                    }
                }
                Look::Sealed { .. } => complain(format!("{} is sealed for another source", path.display())),
                Look::Unsealed => complain(format!("{} is neither the old one nor sealed", path.display())),
                Look::Torn(why) => complain(format!("{}: {why}", path.display())),
            }
        }
        for path in files(tree) {
            let known = sources.get(&path).map(|bytes| std::fs::read(&path).is_ok_and(|now| now == *bytes));
            let fine = known.unwrap_or_else(|| good.contains_key(&path) || is_leftover(&path));
            if !fine {
                complain(format!("{} should not be there so", path.display()));
            }
        }
        if healed && let Some(path) = leftovers(tree).first() {
            complain(format!("{} is left over after the next run", path.display()));
        }
        Ok(())
    }
}

fn source_of<'a>(artifact: &Path, sources: &'a Contents) -> Result<&'a Vec<u8>> {
    let dir = artifact.parent().and_then(Path::parent).context("an artifact outside a __pycache__")?;
    let stem = artifact.file_name().and_then(|name| name.to_str()).and_then(|name| name.split('.').next()).context("no stem")?;
    sources.get(&dir.join(format!("{stem}.py"))).with_context(|| format!("{} has no source", artifact.display()))
}

fn set_age(path: &Path, seconds: u64) -> Result<()> {
    Ok(std::fs::File::options().write(true).open(path)?.set_modified(SystemTime::now() - Duration::from_secs(seconds))?)
}

/// One of five kinds of damage, in a way that leaves the artifact's times what a bad disk would leave.
fn damage(path: &Path, kind: usize) -> Result<()> {
    let mut bytes = std::fs::read(path)?;
    let middle = bytes.len() / 2;
    match kind {
        0 => bytes.truncate(middle),
        1 => bytes[middle] ^= 4,
        2 => bytes[20..middle].fill(0),
        3 => bytes.truncate(16),
        _ => bytes.clear(),
    }
    Ok(std::fs::write(path, bytes)?)
}
