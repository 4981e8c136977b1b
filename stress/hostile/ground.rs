//! The place of a hostile case: a tree of another user, things outside that must stay as they are, and runs over the tree as root.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::user::{USER, reaches};
use crate::mount::check;
use crate::run::{self, Setting, interrupted, without_options};
use crate::whole::digest;

/// Stands in files that only root can read.
pub(super) const SECRET: &str = "bytekeep_secret_93c1";
/// The target is ten seconds; the machine may be busy.
const HUNG: Duration = Duration::from_secs(30);
const MOST_KIB: u64 = 256 << 10;

/// How the product's calls are met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Direct,
    /// `openat2` fails with this.
    Refused(&'static str),
    /// What comes between opening, locking and looking once more takes its time.
    Slow,
}

impl Way {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Refused(error) => error,
            Self::Slow => "slow",
        }
    }
}

pub(super) type Snapshot = BTreeMap<Vec<u8>, String>;

#[derive(Debug)]
pub(super) struct Ground<'a> {
    room: TempDir,
    pub(super) setting: &'a Setting,
    pub(super) tree: PathBuf,
    pub(super) outside: PathBuf,
    /// Of the interpreter.
    pub(super) tag: String,
    pub(super) magic: Vec<u8>,
    outside_before: Snapshot,
    known: HashSet<(u64, u64)>,
}

/// How a run ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) said: String,
    pub(super) peak_kib: u64,
    pub(super) wall: Duration,
    hung: bool,
    raw: bool,
}

impl<'a> Ground<'a> {
    /// In the scratch directory, or where the user cannot get there, in the system's. `None`: not there either.
    pub(super) fn new(setting: &'a Setting, name: &str) -> Result<Option<Self>> {
        const SAY: &str = "import sys, importlib.util as u; print(sys.implementation.cache_tag, u.MAGIC_NUMBER.hex())";
        let temp = std::env::temp_dir();
        for scratch in [&setting.scratch, &temp] {
            run::sweep(scratch)?;
            let room = Setting { scratch: scratch.clone(), ..setting.clone() }.room(name)?;
            std::fs::set_permissions(room.path(), std::fs::Permissions::from_mode(0o755))?;
            if !reaches(room.path())? {
                continue;
            }
            let (tree, outside) = (room.path().join("tree"), room.path().join("outside"));
            for dir in [&tree, &outside, &room.path().join("home"), &room.path().join("cache"), &room.path().join("markers")] {
                std::fs::create_dir(dir)?;
            }
            let said = check(Command::new(&setting.python.path).args(["-I", "-c", SAY]))?;
            let (tag, magic) = said.trim().split_once(' ').context("an interpreter without a tag")?;
            let magic = (0..magic.len()).step_by(2).map(|at| u8::from_str_radix(&magic[at..at + 2], 16)).collect::<Result<_, _>>()?;
            let (outside_before, known) = (Snapshot::new(), HashSet::new());
            return Ok(Some(Self { setting, tree, outside, tag: tag.to_owned(), magic, outside_before, known, room }));
        }
        Ok(None)
    }

    pub(super) fn top(&self) -> &Path {
        self.room.path()
    }

    pub(super) fn file(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.top().join(path);
        std::fs::create_dir_all(path.parent().context("no directory")?)?;
        std::fs::write(&path, content).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// What CPython calls the artifact of a module.
    pub(super) fn artifact(&self, dir: &str, module: &str) -> PathBuf {
        self.top().join(dir).join("__pycache__").join(format!("{module}.{}.pyc", self.tag))
    }

    /// A package outside with everything that tempts: sources, torn artifacts, left-overs; a directory like `/etc`; and secrets.
    pub(super) fn lay_out_outside(&self) -> Result<()> {
        for number in 0..5 {
            self.file(format!("outside/pkg/m{number}.py"), format!("OUTSIDE = {number}\n"))?;
            std::fs::create_dir_all(self.outside.join("pkg/__pycache__"))?;
            std::fs::write(self.artifact("outside/pkg", &format!("m{number}")), [&self.magic[..], b"torn"].concat())?;
            std::fs::write(self.artifact("outside/pkg", &format!("n{number}")), [&self.magic[..], b"torn"].concat())?;
        }
        for name in [".bytekeep.lock", ".bytekeep-abcdef.tmp", ".bytekeep-abcdef.old/file", &format!("m0.{}.pyc.12345", self.tag)] {
            let path = self.file(Path::new("outside/pkg/__pycache__").join(name), "")?;
            std::fs::File::options().write(true).open(path)?.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1_400_000_000))?;
        }
        for (name, text) in [("passwd", "root:x:0:0::/root:/bin/sh\n"), ("shadow", SECRET), ("m0.py", "ETC = 1\n")] {
            self.file(Path::new("outside/etc").join(name), text)?;
        }
        self.file("outside/precious", "precious\n")?;
        for (name, text) in [("secret.py", format!("TOKEN = '{SECRET}'\n")), ("wrong.py", format!("TOKEN = '{SECRET}' = =\n"))] {
            let path = self.file(Path::new("outside").join(name), text)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        }
        self.file("outside/victim.py", "VICTIM = 1\n")?;
        let compile = "import py_compile, sys; py_compile.compile(sys.argv[1], sys.argv[2], doraise=True)";
        check(
            Command::new(&self.setting.python.path)
                .args(["-I", "-c", compile])
                .args([self.outside.join("victim.py"), self.outside.join("victim.pyc")]),
        )?;
        Ok(())
    }

    /// Gives the tree to the user. Before the hard links to outside are laid.
    pub(super) fn give_away(&self) -> Result<()> {
        check(Command::new("chown").args(["-hR", &format!("{USER}:{USER}")]).arg(&self.tree)).map(drop)
    }

    /// From now on nothing outside may change, and nothing new may be somebody else's than its directory's owner's.
    pub(super) fn begin(&mut self) -> Result<()> {
        self.outside_before = snapshot(&self.outside)?;
        for root in [&self.outside, &self.tree] {
            self.known.extend(walk(root).map(|(_, meta)| (meta.dev(), meta.ino())));
        }
        Ok(())
    }

    /// What is not as it was outside, and what in the tree belongs to the wrong one.
    /// Told once.
    pub(super) fn changed(&mut self) -> Result<Vec<String>> {
        let after = snapshot(&self.outside)?;
        let mut all = Vec::new();
        for (name, now) in &after {
            match self.outside_before.get(name) {
                Some(before) if before == now => {}
                Some(before) => all.push(format!("outside, {} changed from {before} to {now}", name.escape_ascii())),
                None => all.push(format!("outside, {} is new", name.escape_ascii())),
            }
        }
        all.extend(
            self.outside_before
                .keys()
                .filter(|name| !after.contains_key(*name))
                .map(|name| format!("outside, {} is gone", name.escape_ascii())),
        );
        self.outside_before = after;
        for (path, meta) in walk(&self.tree) {
            if self.known.contains(&(meta.dev(), meta.ino())) {
                continue;
            }
            let owner = std::fs::symlink_metadata(path.parent().context("no directory")?)?.uid();
            // of a source that the user may not read the artifact is not the user's either
            let private =
                meta.uid() == 0 && meta.mode().trailing_zeros() >= 6 && path.to_string_lossy().contains("/hard/__pycache__/source.");
            if meta.uid() != owner && !private {
                self.known.insert((meta.dev(), meta.ino()));
                let path = path.strip_prefix(self.top())?.as_os_str().as_bytes().escape_ascii();
                all.push(format!("{path} is user {}'s, in a directory of user {owner}", meta.uid()));
            }
        }
        Ok(all)
    }

    /// The command under test, as root, in an environment without anything of the caller's.
    pub(super) fn bytekeep(&self, way: Way, arguments: &[OsString]) -> Command {
        let injected = |error: &str| {
            vec!["--seccomp-bpf".to_owned(), "-e".into(), "trace=openat2".into(), "-e".into(), format!("inject=openat2:error={error}")]
        };
        let options = match way {
            Way::Direct => Vec::new(),
            Way::Refused(error) => injected(error),
            Way::Slow => {
                let calls = "openat,?fstat,?newfstatat,?statx,flock";
                vec![
                    "-b".into(),
                    "execve".into(),
                    "-e".into(),
                    format!("trace={calls}"),
                    "-e".into(),
                    format!("inject={calls}:delay_enter=500"),
                ]
            }
        };
        let mut command = if way == Way::Direct { Command::new(&self.setting.bin) } else { Command::new("strace") };
        if way != Way::Direct {
            command.args(["-f", "-qq", "-e", "signal=none", "-o"]).arg(self.top().join("strace.log")).args(options).arg(&self.setting.bin);
        }
        command.args(arguments).current_dir("/").env("HOME", self.top().join("home")).env("XDG_CACHE_HOME", self.top().join("cache"));
        without_options(&mut command);
        command
    }

    /// How many calls the last run was refused.
    pub(super) fn refused(&self) -> u64 {
        let log = std::fs::read(self.top().join("strace.log")).unwrap_or_default();
        String::from_utf8_lossy(&log).lines().filter(|line| line.ends_with("(INJECTED)")).count() as u64
    }

    /// A command line of a verb; `force` is `compile --force`.
    pub(super) fn words(&self, verb: &str, path: &Path) -> Vec<OsString> {
        let (verb, more) = if verb == "force" { ("compile", Some("--force")) } else { (verb, None) };
        let mut all = self.setting.arguments(verb, path, 2);
        all.extend(more.map(OsString::from));
        all
    }
}

impl Drop for Ground<'_> {
    fn drop(&mut self) {
        // Deeper than `TempDir` has descriptors for.
        if let Err(error) = run::remove(&self.tree) {
            println!("{} could not be taken away: {error:#}", self.tree.display());
        }
    }
}

fn walk(root: &Path) -> impl Iterator<Item = (PathBuf, std::fs::Metadata)> {
    let all = walkdir::WalkDir::new(root).max_open(64).into_iter().flatten();
    all.filter_map(|entry| Some((entry.path().to_owned(), entry.metadata().ok()?)))
}

/// Everything but the time of the last access, the number of names, and the time of the last change, which that number changes.
pub(super) fn snapshot(root: &Path) -> Result<Snapshot> {
    let mut all = Snapshot::new();
    for (path, meta) in walk(root) {
        let mut told = format!(
            "inode {} mode {:o} owner {}:{} size {} mtime {}.{}",
            meta.ino(),
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.size(),
            meta.mtime(),
            meta.mtime_nsec()
        );
        if meta.is_file() {
            write!(told, " content {}", u64::from_le_bytes(digest(&std::fs::read(&path)?)[..8].try_into()?))?;
        }
        all.insert(path.strip_prefix(root)?.as_os_str().as_bytes().to_vec(), told);
    }
    Ok(all)
}

/// Runs a command to its end, or ends it after thirty seconds.
pub(super) fn run(mut command: Command) -> Result<Ended> {
    let mut said = tempfile::tempfile()?;
    command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said.try_clone()?);
    let traced = command.get_program() == "strace";
    let start = Instant::now();
    let mut child = command.spawn().with_context(|| format!("{} does not start", command.get_program().display()))?;
    let (mut peak_kib, mut hung) = (0, false);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        let pid = if traced { first_child(child.id()).unwrap_or(child.id()) } else { child.id() };
        peak_kib = run::high_water(pid).unwrap_or(0).max(peak_kib);
        if start.elapsed() > HUNG && !hung {
            hung = true;
            run::kill(pid);
            run::kill(child.id());
        }
        std::thread::sleep(Duration::from_millis(3));
    };
    let mut bytes = Vec::new();
    said.rewind()?;
    said.read_to_end(&mut bytes)?;
    if interrupted() {
        bail!("interrupted");
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let raw = text.chars().any(|c| c.is_control() && !"\n\t".contains(c));
    Ok(Ended { status, said: text, peak_kib, wall: start.elapsed(), hung, raw })
}

fn first_child(pid: u32) -> Option<u32> {
    std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?.split_whitespace().next()?.parse().ok()
}

impl Ended {
    /// What a run must not do, whatever the tree is.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut all = Vec::new();
        let last = || self.said.lines().last().unwrap_or("").chars().take(300).collect::<String>().escape_debug().to_string();
        if self.hung {
            all.push(format!("it had not ended after {} s", HUNG.as_secs()));
        } else if !matches!(self.status.code(), Some(0..=2)) {
            let how = self.status.signal().map_or_else(|| self.status.to_string(), |signal| format!("signal {signal}"));
            all.push(format!("it ended with {how}: {}", last()));
        }
        if self.said.contains("panicked at") {
            all.push(format!("it panicked: {}", self.said.lines().find(|line| line.contains("panicked at")).unwrap_or("")));
        }
        if self.raw {
            let line = self.said.lines().find(|line| line.chars().any(|c| c.is_control() && c != '\t')).unwrap_or("");
            all.push(format!("control characters of a name reach the terminal: {}", line.escape_debug()));
        }
        if self.said.contains(SECRET) {
            let line = self.said.lines().find(|line| line.contains(SECRET)).unwrap_or("");
            all.push(format!("it tells what only root can read: {}", line.escape_debug()));
        }
        if self.peak_kib > MOST_KIB {
            all.push(format!("it took {} MiB", self.peak_kib >> 10));
        }
        all
    }
}

/// Gives one name to the user, and not what it leads to.
pub(super) fn give(path: &Path, uid: u32) -> Result<()> {
    lchown(path, Some(uid), Some(uid)).with_context(|| path.display().to_string())
}
