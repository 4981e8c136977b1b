//! An error at every system call that touches files, one case at a time. What was there must stay whole, exit 0 must mean that all is
//! done, anything else must be told with path and cause, and the next run must heal it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::io::Errno;

use crate::bench::{Bench, Op};
use crate::run::{self, Random, Setting, Tally, interrupted, kill, reap, strays_after, written};
use crate::strace_log::{Hit, hits};
use crate::whole::{is_artifact, is_leftover, leftovers};
use crate::writer::{COMMANDS, INSIDE, STAND_INS, Writer};

const LIMIT: Duration = Duration::from_secs(10);

const ERRNOS: [(&str, Errno); 9] = [
    ("ENOSPC", Errno::NOSPC),
    ("EIO", Errno::IO),
    ("EDQUOT", Errno::DQUOT),
    ("EROFS", Errno::ROFS),
    ("EACCES", Errno::ACCESS),
    ("EMFILE", Errno::MFILE),
    ("EINTR", Errno::INTR),
    ("ENOLCK", Errno::NOLCK),
    ("EXDEV", Errno::XDEV),
];

/// The errors that a call can have.
fn errnos(call: &str) -> &'static [&'static str] {
    match call {
        "openat" => &["ENOSPC", "EIO", "EDQUOT", "EROFS", "EACCES", "EMFILE", "EINTR"],
        "openat2" => &["EIO", "EACCES", "EMFILE", "EINTR"],
        "write" | "pwrite64" | "writev" | "copy_file_range" | "fallocate" | "fsync" | "fdatasync" | "syncfs" | "close" | "ftruncate" => {
            &["ENOSPC", "EIO", "EDQUOT", "EINTR"]
        }
        "sync_file_range" => &["ENOSPC", "EIO"],
        "flock" => &["ENOLCK", "EIO", "EINTR"],
        "rename" | "renameat" | "renameat2" | "link" | "linkat" => &["ENOSPC", "EIO", "EDQUOT", "EROFS", "EACCES", "EXDEV"],
        "mkdir" | "mkdirat" => &["ENOSPC", "EIO", "EDQUOT", "EROFS", "EACCES"],
        // unlink, rmdir, fchown, fchmod, utimensat
        _ => &["ENOSPC", "EIO", "EROFS", "EACCES"],
    }
}

#[derive(Debug, Clone)]
struct Case {
    writer: Writer,
    call: String,
    errno: &'static str,
    number: usize,
}

impl Case {
    fn name(&self) -> String {
        format!("{}:{}:{}:{}", self.writer.name, self.call, self.errno, self.number)
    }

    fn parse(name: &str) -> Option<Self> {
        let [writer, call, errno, number] = name.split(':').collect::<Vec<_>>().try_into().ok()?;
        let writer = Writer::named(writer)?;
        let (errno, _) = ERRNOS.into_iter().find(|(known, _)| *known == errno)?;
        Some(Self { writer, call: call.to_owned(), errno, number: number.parse().ok()? })
    }
}

pub(crate) fn run(setting: &Setting, seconds: Option<u64>, only: Option<&str>, random: &mut Random, tally: &Tally) -> Result<()> {
    if let Err(why) = crate::strace_log::possible() {
        println!("SKIP faults: {why}");
        return Ok(());
    }
    let room = setting.room("faults")?;
    let mut bench = Bench::lay_out(setting, room.path())?;
    let again = |case: &Case| format!("faults --seed {} --case {}", setting.seed, case.name());
    // one case, or all of one tree
    let tree = only.and_then(|only| COMMANDS.into_iter().chain(INSIDE).find(|writer| writer.name == only));
    if let (Some(only), None) = (only, tree) {
        let case = Case::parse(only).with_context(|| format!("no case is called {only}; a case is TREE or TREE:CALL:ERRNO:N"))?;
        let found = one(&mut bench, &case)?;
        println!("faults: hit {:?}; exit {:?}; said: {}", found.hits, found.code, found.said.trim());
        found.told.iter().for_each(|what| tally.violation(&format!("{}: {what}", case.name()), &again(&case)));
        tally.checked(1);
        if !found.told.is_empty() {
            println!("the tree stays in {}", run::keep(room)?.display());
        }
        return Ok(());
    }
    let start = Instant::now();
    prove(&mut bench, tally)?;
    let mut cases = Vec::new();
    for writer in COMMANDS.into_iter().chain(INSIDE).filter(|writer| tree.is_none_or(|one| one == *writer)) {
        let here = cases_of(&mut bench, writer)?;
        println!("faults: {}: {} cases", writer.name, here.len());
        cases.extend(here);
    }
    random.shuffle_in_turn(&mut cases, |case| (case.writer, case.call.clone(), case.errno));
    let (mut done, mut hit) = (0, 0);
    for case in &cases {
        if interrupted() || seconds.is_some_and(|limit| start.elapsed().as_secs() >= limit) {
            break;
        }
        let found = one(&mut bench, case)?;
        found.told.iter().for_each(|what| tally.violation(&format!("{}: {what}", case.name()), &again(case)));
        tally.checked(1);
        done += 1;
        hit += usize::from(!found.hits.is_empty());
    }
    println!("faults: {done} of {} cases, {hit} hit, {:.1} s", cases.len(), start.elapsed().as_secs_f64());
    if done > 0 && hit == 0 {
        tally.violation("no error hit anything: nothing was shown", "faults");
    }
    Ok(())
}

/// One more than were counted of each: a call that is made more often at an error is not left out.
fn cases_of(bench: &mut Bench<'_>, writer: Writer) -> Result<Vec<Case>> {
    let mut all = Vec::new();
    for (call, times) in bench.count(writer)? {
        for errno in errnos(&call) {
            all.extend((1..=times + 1).map(|number| Case { writer, call: call.clone(), errno, number }));
        }
    }
    Ok(all)
}

/// Writers with a fault must be found out, and one without must not. The calls are those whose errors std tells.
fn prove(bench: &mut Bench<'_>, tally: &Tally) -> Result<()> {
    for writer in STAND_INS.into_iter().filter(|one| one.bug != Some("unlinkrename")) {
        let faulty = writer.is_faulty();
        let mut cases = cases_of(bench, writer)?;
        cases.retain(|case| matches!(&*case.call, "write" | "fsync" | "rename") && case.errno == "EIO");
        // The first few of each: files and directories are flushed in turn.
        cases.retain(|case| case.number <= 3);
        let mut told = Vec::new();
        for case in &cases {
            told.extend(one(bench, case)?.told.into_iter().map(|what| (case, what)));
            tally.checked(1);
        }
        println!(
            "faults: {}: {} violations in {} cases{}",
            writer.name,
            told.len(),
            cases.len(),
            if faulty { " (must find something)" } else { "" }
        );
        if faulty && told.is_empty() {
            tally.violation(&format!("{} passes: then the others show nothing", writer.name), "faults");
        }
        for (case, what) in told.iter().filter(|_| !faulty) {
            tally.violation(&format!("{}: {what}", case.name()), &format!("faults --case {}", case.name()));
        }
    }
    Ok(())
}

struct Found {
    hits: Vec<Hit>,
    code: Option<i32>,
    said: String,
    told: Vec<String>,
}

fn one(bench: &mut Bench<'_>, case: &Case) -> Result<Found> {
    let op = case.writer.op;
    bench.restore(op)?;
    let (code, hung, said) = perform(bench, case)?;
    let told = std::cell::RefCell::new(Vec::new());
    let complain = |what: String| told.borrow_mut().push(what);
    let left = strays_after(Duration::from_secs(2), &bench.ours);
    reap(&bench.ours);
    let hits = hits(&bench.room.join("log"))?;
    // The injected close did not take place, as a real one that fails does: who reads at the other end waits for ever.
    let kept_open = |hit: &Hit| hit.call == "close" && hit.paths.iter().any(|path| path.to_string_lossy().contains(":["));
    if hung && hits.iter().any(kept_open) {
        println!("faults: {}: strace kept a pipe or socket open, and it waits for it: says nothing", case.name());
    } else if hung {
        complain(format!("it did not end in {} s", LIMIT.as_secs()));
    } else if left > 0 {
        complain(format!("{left} processes outlived it"));
    }
    bench.judge(op, false, &complain)?;
    let seen = Seen { tree: &bench.tree, python: &bench.setting.python.path, room: &bench.room, case, hits: &hits, code, said: &said };
    seen.left_over(hung, &complain);
    if !hung {
        seen.end(&complain);
    }
    let undone = bench.undone(op)?;
    seen.done(&undone, &complain);
    let clean = code == Some(0) && undone.is_empty() && leftovers(&bench.tree).is_empty();
    // the next run would find what it finds after any other
    if !clean {
        bench.heal(op, &complain)?;
    }
    Ok(Found { hits, code, said, told: told.into_inner() })
}

/// Exit code, whether it had to be ended, and what it said on stderr.
fn perform(bench: &Bench<'_>, case: &Case) -> Result<(Option<i32>, bool, String)> {
    let inject = format!("{}:error={}:when={}", case.call, case.errno, case.number);
    let mut command = bench.strace(&case.call, Some(&inject), case.writer)?;
    let errors = bench.room.join("stderr");
    command.stdin(Stdio::null()).stdout(File::create(bench.room.join("stdout"))?).stderr(File::create(&errors)?);
    let mut child = command.spawn().context("strace does not start")?;
    let start = Instant::now();
    let (status, hung) = loop {
        if let Some(status) = child.try_wait()? {
            break (status, false);
        }
        if interrupted() || start.elapsed() > LIMIT {
            kill(child.id());
            break (child.wait()?, true);
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    if interrupted() {
        bail!("interrupted");
    }
    Ok((status.code(), hung, String::from_utf8_lossy(&std::fs::read(errors)?).into_owned()))
}

/// What is known after a run.
struct Seen<'a> {
    tree: &'a Path,
    python: &'a Path,
    room: &'a Path,
    case: &'a Case,
    hits: &'a [Hit],
    code: Option<i32>,
    said: &'a str,
}

impl Seen<'_> {
    /// What could not be removed because its removal was made to fail stays for the next run; a directory is opened to remove it. So does a
    /// lock file whose lock could not be had: without it nobody knows who else has it.
    fn left_over(&self, hung: bool, complain: &dyn Fn(String)) {
        let excused = |path: &PathBuf| {
            let removes = |call: &str| call.starts_with("unlink") || call == "rmdir" || (call == "openat" && path.is_dir());
            let locks = |call: &str| call == "flock" && self.case.errno != "EINTR";
            self.hits.iter().any(|hit| (removes(&hit.call) || locks(&hit.call)) && hit.paths.contains(path))
        };
        let dirs = [self.tree.to_owned(), self.room.join("cache"), self.room.join("tmp")];
        for path in dirs.iter().flat_map(|dir| leftovers(dir)).filter(|path| !hung && !excused(path)) {
            complain(format!("{} is left over", path.display()));
        }
        for dir in &dirs[1..] {
            for path in leftovers(dir) {
                if let Err(error) = std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(&path)) {
                    complain(format!("{}: {error}", path.display()));
                }
            }
        }
    }

    fn end(&self, complain: &dyn Fn(String)) {
        let first = self.said.lines().next().unwrap_or("").trim();
        if self.said.contains("panicked") {
            complain(format!("it panics: {first}"));
        }
        match self.code {
            Some(0) => {
                let lost = |hit: &&Hit| match &*hit.call {
                    "fsync" | "fdatasync" | "syncfs" => hit.paths.iter().any(|path| path.starts_with(self.tree)),
                    "close" => hit.paths.iter().any(|path| self.is_temp(path)),
                    _ => false,
                };
                // EINTR says nothing of the data: a flush is tried again, a close has happened
                if self.case.errno != "EINTR"
                    && self.case.writer.op != Op::Clean
                    && let Some(hit) = self.hits.iter().find(lost)
                {
                    complain(format!("exit 0 in spite of {} {:?}", hit.call, hit.paths));
                }
            }
            Some(1 | 2) => self.message(first, complain),
            // the dynamic loader's own end, before there is a program
            Some(127) if self.hits.iter().flat_map(|hit| &hit.paths).any(|path| path.to_string_lossy().contains(".so")) => {}
            Some(code) => complain(format!("exit {code}: {first}")),
            None => complain(format!("it died by a signal: {first}")),
        }
    }

    fn message(&self, first: &str, complain: &dyn Fn(String)) {
        let standard = [self.room.join("stdout"), self.room.join("stderr")];
        if self.hits.iter().flat_map(|hit| &hit.paths).any(|path| standard.contains(path)) {
            return;
        }
        let named = |path: &Path| self.said.contains(&written(path));
        let inside = self.case.writer.inside;
        // what strikes an interpreter's own files is told with its name
        let interpreter = inside && named(self.python);
        if !named(self.tree) && !interpreter && !self.hits.iter().flat_map(|hit| &hit.paths).any(|path| named(path)) {
            complain(format!("exit {:?} names no path: {first}", self.code));
        }
        let words = ERRNOS.iter().find(|(name, _)| *name == self.case.errno).map(|(_, errno)| std::io::Error::from(*errno).to_string());
        let words = words.unwrap_or_default();
        let words = words.split(" (os error").next().unwrap_or_default();
        // what befell a worker is known to the worker alone
        if !inside && !self.said.contains(words) {
            complain(format!("exit {:?} does not say {words}: {first}", self.code));
        }
    }

    fn done(&self, undone: &[PathBuf], complain: &dyn Fn(String)) {
        let some = undone.first().map(|path| path.display().to_string()).unwrap_or_default();
        if self.code == Some(0) && !undone.is_empty() {
            complain(format!("exit 0 with {} not done, {some} among them", undone.len()));
        }
        let one_files = |hit: &Hit| {
            // a rename names its directories too: what it is about comes last
            hit.paths
                .last()
                .is_some_and(|path| self.is_temp(path) || is_artifact(path) || path.extension().is_some_and(|suffix| suffix == "py"))
                && hit.paths.iter().all(|path| path.starts_with(self.tree))
        };
        if !self.hits.is_empty() && self.hits.iter().all(one_files) && undone.len() > self.hits.len() {
            let last = self.hits[0].paths.last();
            complain(format!("{} are not done, {some} among them, for {} errors as at {last:?}", undone.len(), self.hits.len()));
        }
    }

    fn is_temp(&self, path: &Path) -> bool {
        path.starts_with(self.tree)
            && path.extension().is_some_and(|suffix| suffix == "tmp")
            && (is_leftover(path) || self.case.writer.bug.is_some())
    }
}
