//! The real workers of every interpreter of this machine, over pipes of 4 KiB and with reads and writes cut short at random on both ends:
//! what they compile must be what it is without.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};

use crate::preload::{self, Counts, Disturbance, Preload, What};
use crate::run::{Random, Setting, Tally, interpreters, interrupted, measure};
use crate::whole::{Loader, Look, digest, files, is_artifact, leftovers, look};

/// Modules of the interpreter's own library.
const MODULES: usize = 100;
const LONGEST: u64 = 80 << 10;

/// One interpreter.
#[derive(Debug, Clone)]
struct Real {
    path: PathBuf,
    version: String,
    order: (u32, u32),
    pypy: bool,
    library: PathBuf,
}

impl Real {
    fn ask(path: &Path) -> Option<Self> {
        const SAY: &str = "import sys, os; v = sys.version_info; print('\\n'.join([sys.executable, \
            'pypy' if '__pypy__' in sys.builtin_module_names else 'cpython', '.'.join(map(str, v[:3])), str(v[0]), str(v[1]), \
            os.path.dirname(os.path.abspath(os.__file__))]))";
        let out = Command::new(path).args(["-s", "-E", "-c", SAY]).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
        let text = String::from_utf8(out.stdout).ok()?;
        let [path, name, version, major, minor, library] = text.lines().collect::<Vec<_>>().try_into().ok()?;
        let order = (major.parse().ok()?, minor.parse().ok()?);
        let pypy = name == "pypy";
        let version = if pypy { format!("pypy{version}") } else { version.to_owned() };
        (order == (2, 7) || order >= (3, 6)).then(|| Self { path: path.into(), version, order, pypy, library: library.into() })
    }

    fn all() -> Vec<Self> {
        let mut seen = HashSet::new();
        let fresh = |real: &Self| seen.insert(real.path.canonicalize().unwrap_or_else(|_| real.path.clone()));
        interpreters().iter().filter_map(|path| Self::ask(path)).filter(fresh).collect()
    }

    /// The same source gives the same bytes each time; early 3.15 and PyPy are known not to.
    fn is_stable(&self) -> bool {
        !self.pypy && self.order < (3, 15)
    }
}

type Artifacts = BTreeMap<PathBuf, Vec<u8>>;

pub(crate) fn run(
    setting: &Setting,
    seconds: Option<u64>,
    version: Option<&str>,
    random: &mut Random,
    tally: &Tally,
    room: &Path,
) -> Result<()> {
    if let Err(why) = preload::possible() {
        println!("SKIP workers over pipes that are cut short: {why}");
        return Ok(());
    }
    let mut all = Real::all();
    all.retain(|real| version.is_none_or(|version| real.version == version));
    if all.is_empty() {
        bail!("no interpreter {} was found", version.unwrap_or("at all"));
    }
    let preload = Preload::build(room)?;
    let start = Instant::now();
    let (mut done, mut files, mut total) = (0, 0, Counts::default());
    let mut versions = BTreeSet::new();
    let mut rounds = 0;
    // with little time one after the other, beginning with any
    random.shuffle(&mut all);
    'rounds: loop {
        for real in &all {
            if interrupted() || (done > 0 && seconds.is_some_and(|limit| start.elapsed().as_secs() >= limit)) {
                break 'rounds;
            }
            let dir = tempfile::Builder::new().prefix("pipes-").tempdir_in(room)?;
            let one = One { setting, real, preload: &preload, dir: dir.path(), tally };
            let (compiled, counts) = one.run(random).with_context(|| real.path.display().to_string())?;
            (done, files) = (done + 1, files + compiled);
            total = total + counts;
            versions.insert(&real.version);
        }
        rounds += 1;
        if seconds.is_none() && rounds == 3 {
            break;
        }
    }
    println!(
        "workers: pipes: {done} runs, {files} files, {:.1} s, {} calls: {} reads and {} writes cut, {} EINTR; {} of {} interpreters: {}",
        start.elapsed().as_secs_f64(),
        total.calls,
        total.reads,
        total.writes,
        total.interrupts,
        versions.len(),
        all.len(),
        versions.into_iter().map(String::as_str).collect::<Vec<_>>().join(" ")
    );
    Ok(())
}

struct One<'a> {
    setting: &'a Setting,
    real: &'a Real,
    preload: &'a Preload,
    dir: &'a Path,
    tally: &'a Tally,
}

impl One<'_> {
    /// How many files were compiled, and what was cut.
    fn run(&self, random: &mut Random) -> Result<(usize, Counts)> {
        let again = format!("workers --seed {} --case pipes:{}", self.setting.seed, self.real.version);
        let complain = |what: String| self.tally.violation(&format!("pipes of {}: {what}", self.real.version), &again);
        let tree = self.dir.join("tree");
        let modules = self.lay_out(&tree, random)?;
        let cost = measure(vec![self.command(&self.real.path, &tree)])?;
        let right = artifacts(&tree)?;
        if right.len() < modules * 9 / 10 {
            bail!("undisturbed, {} of {modules} modules are compiled: {}", right.len(), cost.text.trim());
        }
        for path in right.keys() {
            std::fs::remove_file(path)?;
        }
        let how = Disturbance {
            what: What::Pipes,
            seed: random.next() >> 1,
            chance: 40 + random.next() % 60,
            // 2.7 takes EINTR for an error; without a handler of signals no kernel gives it one
            interrupts: if self.real.order >= (3, 5) { 15 } else { 0 },
        };
        let wrapper = self.wrapper(how)?;
        let mut command = self.command(&wrapper, &tree);
        command.envs(self.preload.environment(how));
        self.preload.counts()?;
        let disturbed = measure(vec![command])?;
        let counts = self.preload.counts()?;
        if disturbed.code != cost.code {
            complain(format!("exit {:?} instead of {:?}: {}", disturbed.code, cost.code, disturbed.text.trim().replace('\n', " / ")));
        }
        self.compare(&tree, &right, &complain)?;
        if counts.reads == 0 || counts.writes == 0 || (counts.interrupts == 0 && how.interrupts > 0) {
            complain(format!("nothing was cut short: {counts:?}"));
        }
        self.tally.checked(u64::try_from(right.len())?);
        Ok((right.len(), counts))
    }

    fn lay_out(&self, tree: &Path, random: &mut Random) -> Result<usize> {
        let walk = walkdir::WalkDir::new(&self.real.library).max_depth(2).sort_by_file_name().into_iter();
        let walk =
            walk.filter_entry(|entry| !["site-packages", "dist-packages", "lib2to3", "test"].iter().any(|name| entry.file_name() == *name));
        let fits = |path: &PathBuf| path.metadata().is_ok_and(|seen| (1..LONGEST).contains(&seen.len()));
        let is_source = |path: &PathBuf| path.extension().is_some_and(|suffix| suffix == "py");
        let mut all: Vec<PathBuf> = walk.flatten().map(walkdir::DirEntry::into_path).filter(|path| is_source(path) && fits(path)).collect();
        random.shuffle(&mut all);
        all.truncate(MODULES);
        for path in &all {
            let to = tree.join(path.strip_prefix(&self.real.library)?);
            std::fs::create_dir_all(to.parent().context("no directory")?)?;
            std::fs::write(&to, std::fs::read(path)?)?;
            std::fs::File::options().write(true).open(&to)?.set_modified(SystemTime::now() - Duration::from_secs(1000))?;
        }
        Ok(all.len())
    }

    fn command(&self, python: &Path, tree: &Path) -> Command {
        let mut setting = self.setting.clone();
        python.clone_into(&mut setting.python.path);
        setting.bytekeep("compile", tree, 2, &self.dir.join("cache"))
    }

    /// The product gives its workers an environment of its own, so the library is named again.
    fn wrapper(&self, how: Disturbance) -> Result<PathBuf> {
        let path = self.dir.join("python");
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
        let settings: Vec<String> =
            self.preload.environment(how).iter().map(|(name, value)| format!("{name}={}", quoted(&value.to_string_lossy()))).collect();
        let python = quoted(&self.real.path.to_string_lossy());
        std::fs::write(&path, format!("#!/bin/sh\nexport {}\nexec {python} \"$@\"\n", settings.join(" ")))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(path)
    }

    fn compare(&self, tree: &Path, right: &Artifacts, complain: &dyn Fn(String)) -> Result<()> {
        let found = artifacts(tree)?;
        let mut loader = if self.real.is_stable() { None } else { Some(Loader::with(&self.real.path, 16)?) };
        for (path, bytes) in right {
            let Some(mine) = found.get(path) else {
                complain(format!("{} is not there", path.display()));
                continue;
            };
            let (Look::Sealed { source, adopted: false }, Look::Sealed { source: wanted, .. }) = (look(mine), look(bytes)) else {
                complain(format!("{}: {:?}", path.display(), look(mine)));
                continue;
            };
            if source != wanted {
                complain(format!("{} is sealed for another source ({:?})", path.display(), &source[..4]));
            }
            match &mut loader {
                None if mine != bytes => complain(format!("{} is not what it is without", path.display())),
                None => {}
                Some(loader) => {
                    if let Some(why) = loader.refuses(mine)? {
                        complain(format!("{}: {why} (artifact {:?})", path.display(), &digest(mine)[..4]));
                    }
                }
            }
        }
        if found.len() > right.len() {
            complain(format!("{} artifacts of {}", found.len(), right.len()));
        }
        if let Some(path) = leftovers(tree).first() {
            complain(format!("{} is left over", path.display()));
        }
        Ok(())
    }
}

fn artifacts(tree: &Path) -> Result<Artifacts> {
    let all = files(tree).into_iter().filter(|path| is_artifact(path));
    all.map(|path| std::fs::read(&path).map(|bytes| (path, bytes))).collect::<std::io::Result<_>>().map_err(Into::into)
}
