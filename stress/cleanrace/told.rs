//! Each call of a run fails in turn, and whatever failed, by itself or because it was made to, must stand in the `-v` output with its path
//! and its cause: nothing is suppressed in silence.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};

use crate::cleanrace::cases::perform;
use crate::cleanrace::tree::{CACHE, DEB, KEPT, Yard};
use crate::mount::copy;
use crate::run::{Random, interrupted, without_options};
use crate::strace_log::{Failure, failures};

/// Not `write`: what is told is written too.
const CALLS: &str = "openat,?openat2,?unlink,unlinkat,?rmdir,?rename,renameat,renameat2,?mkdir,mkdirat,flock,fsync,fchmod,fchown,ftruncate,\
    utimensat,getdents64,newfstatat";

/// What each call is made to fail with. Not what is an answer there: that a name is free, that something is held or not there.
fn errnos(call: &str) -> &'static [&'static str] {
    match call {
        "unlink" | "unlinkat" | "rmdir" => &["ENOENT", "EACCES", "EPERM", "EIO", "ESTALE"],
        "rename" | "renameat" | "renameat2" => &["ENOENT", "EACCES", "EXDEV"],
        "openat" | "openat2" | "mkdir" | "mkdirat" => &["EACCES", "EIO"],
        "flock" => &["ENOLCK", "EIO"],
        _ => &["EIO", "EPERM"],
    }
}

/// Plain looking: whether something is there, free, or held. A name that is not there is no error of anything.
fn is_probing(failure: &Failure) -> bool {
    let looks = matches!(&*failure.call, "openat" | "openat2" | "newfstatat" | "readlink" | "access");
    match &*failure.errno {
        "ENOENT" => looks,
        "EEXIST" => matches!(&*failure.call, "openat" | "mkdir" | "mkdirat"),
        "EAGAIN" | "EWOULDBLOCK" => failure.call == "flock",
        _ => false,
    }
}

/// What is run, and on what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Op {
    Clean,
    CleanPrefix,
    Sweep,
    Compile,
}

const OPS: [(Op, &str); 4] = [(Op::Clean, "clean"), (Op::CleanPrefix, "clean-prefix"), (Op::Sweep, "sweep"), (Op::Compile, "compile")];

pub(crate) struct Told<'y, 'a> {
    yard: &'y Yard<'a>,
    /// two packages of the tree alone: each call is made to fail, and the fewer the better
    tree: PathBuf,
    prefix: PathBuf,
}

impl<'y, 'a> Told<'y, 'a> {
    pub(crate) fn lay_out(yard: &'y Yard<'a>) -> Result<Self> {
        let base = yard.room.join("told");
        std::fs::create_dir(&base)?;
        let told = Self { yard, tree: base.join("tree"), prefix: base.join("prefix") };
        std::fs::create_dir(&told.tree)?;
        for package in [KEPT[0], DEB[0]] {
            copy(&yard.tree.join(package), &told.tree.join(package))?;
        }
        let (code, said) = perform(yard.ours(&["compile"]).arg("--pycache-prefix").arg(&told.prefix).arg(&told.tree))?;
        anyhow::ensure!(code == Some(0), "compile exits {code:?}: {said}");
        for (op, name) in OPS {
            let as_of = told.template(name);
            std::fs::create_dir(&as_of)?;
            copy(&told.tree, &as_of.join("tree"))?;
            copy(&told.prefix, &as_of.join("prefix"))?;
            let cache = as_of.join("tree").join(DEB[0]).join(CACHE);
            match op {
                Op::Compile => std::fs::remove_dir_all(&cache)?,
                Op::Sweep => {
                    std::fs::create_dir(cache.join(".bytekeep-a1.old"))?;
                    std::fs::write(cache.join(".bytekeep-a1.old/half.pyc"), "half")?;
                    std::fs::write(cache.join(".bytekeep-b2.tmp"), "half")?;
                    std::fs::write(cache.join(".bytekeep.lock"), "1\nbytekeep clean\n1\n")?;
                    let old = SystemTime::now() - Duration::from_secs(2 * 3600);
                    std::fs::File::open(cache.join(".bytekeep-a1.old"))?.set_modified(old)?;
                }
                Op::Clean | Op::CleanPrefix => {}
            }
        }
        Ok(told)
    }

    fn template(&self, name: &str) -> PathBuf {
        self.yard.room.join(format!("told-as-{name}"))
    }

    fn restore(&self, name: &str) -> Result<()> {
        for (from, to) in [("tree", &self.tree), ("prefix", &self.prefix)] {
            if to.exists() {
                std::fs::remove_dir_all(to)?;
            }
            copy(&self.template(name).join(from), to)?;
        }
        Ok(())
    }

    fn command(&self, op: Op) -> Command {
        let words: &[&str] = match op {
            Op::Clean | Op::CleanPrefix => &["clean", "-v", "--jobs", "1"],
            Op::Sweep => &["clean", "-v", "--jobs", "1", "--leftovers"],
            Op::Compile => &["compile", "-v", "--jobs", "1"],
        };
        let mut command = match (self.yard.cleaner, op) {
            (Some(_), _) => self.yard.clean(&self.tree),
            _ => self.yard.ours(words),
        };
        match (self.yard.cleaner, op) {
            (Some(_), _) => &mut command,
            (None, Op::CleanPrefix) => command.arg("--pycache-prefix").arg(&self.prefix),
            (None, _) => command.arg(&self.tree),
        };
        command
    }

    fn traced(&self, op: Op, calls: &str, inject: Option<&str>) -> Result<(Vec<Failure>, String, String)> {
        let log = self.yard.room.join("told-log");
        let plain = self.command(op);
        let mut command = Command::new("strace");
        command.args(["-f", "-b", "execve", "-qq", "-y", "-o"]).arg(&log).arg("-e").arg(format!("trace={calls}"));
        if let Some(inject) = inject {
            command.arg("-e").arg(format!("inject={inject}"));
        }
        command.arg(plain.get_program()).args(plain.get_args()).env("XDG_CACHE_HOME", self.yard.room.join("cache")).env("LC_ALL", "C");
        without_options(&mut command);
        let (_, said) = perform(&mut command)?;
        Ok((failures(&log)?, said, std::fs::read_to_string(&log)?))
    }

    /// All cases, or as many as there is time for. How many calls failed that somebody had to tell of.
    pub(crate) fn run(&self, limit: Duration, only: Option<&str>, random: &mut Random, complain: &dyn Fn(String)) -> Result<u64> {
        let ops = OPS.iter().filter(|(op, _)| self.yard.cleaner.is_none() || *op == Op::Clean);
        let mut cases: Vec<(Op, &str, String, &str, usize)> = Vec::new();
        let mut checked = 0;
        for (op, name) in ops {
            self.restore(name)?;
            let (failed, said, log) = self.traced(*op, CALLS, None)?;
            checked += self.judge(&format!("{name}, unharmed"), &failed, &said, complain);
            for (call, times) in self.count(&log) {
                for errno in errnos(&call) {
                    cases.extend((1..=times).map(|number| (*op, *name, call.clone(), *errno, number)));
                }
            }
        }
        // std tells whoever removes by it no more than that
        cases.retain(|(_, _, call, _, _)| self.yard.cleaner.is_none() || matches!(&**call, "unlink" | "rmdir"));
        random.shuffle_in_turn(&mut cases, |(op, _, call, errno, _)| (*op, call.clone(), *errno));
        let (start, mut done) = (Instant::now(), 0);
        let title = |case: &(Op, &str, String, &str, usize)| format!("{}:{}:{}:{}", case.1, case.2, case.3, case.4);
        if let Some(only) = only {
            cases.retain(|case| title(case) == only);
            anyhow::ensure!(!cases.is_empty(), "no case is called told:{only}; a case is told:RUN:CALL:ERRNO:N");
        }
        for case in &cases {
            if interrupted() || start.elapsed() >= limit {
                break;
            }
            let (op, name, call, errno, number) = case;
            self.restore(name)?;
            let (failed, said, _) = self.traced(*op, call, Some(&format!("{call}:error={errno}:when={number}")))?;
            checked += self.judge(&format!("told:{}", title(case)), &failed, &said, complain);
            done += 1;
        }
        if self.yard.cleaner.is_none() {
            println!("cleanrace: told: {done} of {} cases, {checked} failures that had to be told", cases.len());
            checked += self.as_another_user(complain)?;
        }
        Ok(checked)
    }

    /// How often each call is made on paths of the tree or the prefix, by the thread that makes it most, with what comes before.
    fn count(&self, log: &str) -> Vec<(String, usize)> {
        let mut each: BTreeMap<(String, String), (usize, usize)> = BTreeMap::new();
        let base = self.tree.parent().unwrap_or(&self.tree).to_string_lossy().into_owned();
        for line in log.lines() {
            let mut words = line.split_whitespace();
            let (Some(pid), Some(rest)) = (words.next(), words.next()) else { continue };
            let Some((call, _)) = rest.split_once('(').filter(|(call, _)| call.chars().all(|c| c.is_ascii_alphanumeric())) else {
                continue;
            };
            let (all, last) = each.entry((call.to_owned(), pid.to_owned())).or_default();
            *all += 1;
            if line.contains(&base) {
                *last = *all;
            }
        }
        let mut most: BTreeMap<String, usize> = BTreeMap::new();
        for ((call, _), (_, last)) in each.into_iter().filter(|(_, (_, last))| *last > 0) {
            let found = most.entry(call).or_default();
            *found = last.max(*found);
        }
        most.into_iter().collect()
    }

    fn judge(&self, title: &str, failed: &[Failure], said: &str, complain: &dyn Fn(String)) -> u64 {
        let ours = |path: &PathBuf| path.starts_with(&self.tree) || path.starts_with(&self.prefix);
        let joined = said.replace("\n  Caused by:", " Caused by:");
        let lines: Vec<&str> = joined.lines().collect();
        let mut checked = 0;
        for failure in failed.iter().filter(|failure| !is_probing(failure) && failure.paths.iter().any(ours)) {
            checked += 1;
            // Of a temp file its artifact or its directory is told: nobody knows it by its own name.
            let names = failure.paths.iter().filter(|path| ours(path)).flat_map(|path| {
                let temp = path.to_string_lossy().ends_with(".tmp").then(|| path.parent().unwrap_or(path).to_owned());
                [Some(path.clone()), temp].into_iter().flatten()
            });
            let names: Vec<String> = names.map(|path| path.to_string_lossy().into_owned()).collect();
            let told = lines.iter().any(|line| line.contains(&failure.words) && names.iter().any(|name| line.contains(name)));
            if !told {
                let path = failure.paths.last().map(|path| path.display().to_string()).unwrap_or_default();
                complain(format!("{title}: {} of {path} failed with {}, and no line of -v tells it", failure.call, failure.errno));
            }
        }
        checked
    }

    /// A directory that is not ours to write: nothing of strace, and no root.
    fn as_another_user(&self, complain: &dyn Fn(String)) -> Result<u64> {
        if !rustix::process::geteuid().is_root() {
            println!("SKIP cleanrace told as another user: not root");
            return Ok(0);
        }
        self.restore("clean")?;
        // The room itself is for its owner alone: the other user must be able to look, and not to write.
        let shown = tempfile::Builder::new().prefix("cleanrace-").tempdir()?;
        open_to_all(shown.path(), 0o755)?;
        copy(&self.tree, &shown.path().join("tree"))?;
        let bin = shown.path().join("bytekeep");
        std::fs::copy(&self.yard.setting.bin, &bin)?;
        let mut command = Command::new(&bin);
        command.args(["clean", "-v"]).arg(shown.path().join("tree")).env("LC_ALL", "C").env("XDG_CACHE_HOME", shown.path());
        command.uid(65534).gid(65534).current_dir("/");
        without_options(&mut command);
        let (code, said) = perform(&mut command)?;
        let cache = shown.path().join("tree").join(DEB[0]).join(CACHE).to_string_lossy().into_owned();
        if code != Some(1) || !said.lines().any(|line| line.contains(&cache) && line.contains("ermission denied")) {
            complain(format!("told as another user: exit {code:?}: {}", said.trim().replace('\n', " | ")));
        }
        Ok(1)
    }
}

fn open_to_all(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).with_context(|| path.display().to_string())
}
