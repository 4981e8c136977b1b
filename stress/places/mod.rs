//! Places that are full, read-only, layered, divided or that fail in the middle; limits; and what a file system may not have. What was
//! there must stay whole, exit 0 must mean that all is done, anything else must be told, and where there is room again the next run heals.

pub(crate) mod grounds;

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::bench::{Bench, Op};
use crate::mount::Place;
use crate::run::{Random, Setting, Tally, interrupted, kill, reap, strays_after, without_options, written};
use crate::standin;
use crate::whole::{files, is_artifact, leftovers};
use crate::writer::COMMANDS;
use grounds::{EVENTS, Event, FULL, Ground, LACKS};

const LIMIT: Duration = Duration::from_secs(40);
const DURABILITIES: [&str; 3] = ["batch", "full", "none"];

/// `GROUND:TREE:DURABILITY:NUMBER`, by its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Case {
    ground: String,
    op: Op,
    tree: &'static str,
    verb: &'static str,
    durability: &'static str,
    /// KiB or inodes that are left, a limit, or when it happens.
    number: u64,
    /// what writes instead of the command under test
    bug: Option<&'static str>,
}

impl Case {
    fn name(&self) -> String {
        let tree = self.bug.map_or_else(|| self.tree.to_owned(), |bug| format!("standin-{bug}"));
        format!("{}:{tree}:{}:{}", self.ground, self.durability, self.number)
    }
}

/// Stand-ins, and whether they must be found out.
const STAND_INS: [(&str, bool); 5] = [("whole", false), ("ignerr", true), ("short", true), ("litter", true), ("inplace", true)];

pub(crate) fn possible() -> Result<(), String> {
    if crate::mount::possible() { Ok(()) } else { Err("not root, or nothing can be mounted".to_owned()) }
}

/// What of it cannot be had here, by name.
pub(crate) fn missing() -> Vec<(&'static str, String)> {
    let tools = FULL.iter().filter_map(|full| full.missing().map(|why| (full.name, why)));
    let traced = crate::strace_log::possible().err().map(|why| ("what fails in the middle, and what a file system lacks", why));
    let others = [("ulimit -u", "setpriv"), ("ulimit -u", "prlimit")];
    let others = others.into_iter().filter(|(_, tool)| !crate::mount::on_path(tool)).map(|(name, tool)| (name, format!("no {tool}")));
    tools.chain(traced).chain(others).collect()
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    let traced = crate::strace_log::possible().is_ok();
    let ops = || COMMANDS.into_iter().filter(|writer| !writer.op.stores()).map(|writer| (writer.op, writer.name, writer.verb));
    let mut add = |ground: &str, durability, number, (op, tree, verb)| {
        all.push(Case { ground: ground.to_owned(), op, tree, verb, durability, number, bug: None });
    };
    for op in ops() {
        for full in FULL.iter().filter(|full| full.missing().is_none()) {
            for (at, durability) in DURABILITIES.into_iter().enumerate().take(if matches!(op.2, "compile" | "repair") { 3 } else { 1 }) {
                full.left.iter().skip(usize::from(full.large && at > 0)).for_each(|left| add(full.name, durability, *left, op));
            }
        }
        for ground in ["readonly", "bind-readonly", "noexec", "overlay", "across"] {
            add(ground, "batch", 0, op);
        }
        for (ground, numbers) in [
            ("overlay-full", &[0, 12, 40][..]),
            ("across-full", &[0, 12]),
            // bytes, in whole blocks of 512; 0 is a little less than most artifacts have
            ("fsize", &[0, 1]),
            ("nofile", &[8, 10, 12, 14, 17, 24]),
            ("nproc", &[1, 2, 3, 4, 6]),
        ] {
            let here = ground != "nproc" || (crate::mount::on_path("setpriv") && crate::mount::on_path("prlimit"));
            numbers.iter().filter(|_| here).for_each(|number| add(ground, "batch", *number, op));
        }
        for lack in LACKS.iter().filter(|_| traced) {
            lack.when.iter().for_each(|number| add(lack.name, "batch", *number, op));
        }
        for event in EVENTS.iter().filter(|event| traced && event.missing().is_none()) {
            let durabilities = if matches!(op.2, "compile" | "repair") { &DURABILITIES[..2] } else { &DURABILITIES[..1] };
            for durability in durabilities {
                for number in [1, 3, 8] {
                    add(event.name, durability, number, op);
                }
            }
        }
    }
    all
}

fn stand_ins() -> Vec<(Case, bool)> {
    let mut all = Vec::new();
    for (bug, faulty) in STAND_INS {
        for (ground, number) in [("tmpfs", 0), ("tmpfs", 12), ("tmpfs", 13), ("fsize", 0), ("fsize", 5)] {
            let (ground, tree, verb, durability) = (ground.to_owned(), "stale", "compile", "batch");
            all.push((Case { ground, op: Op::Stale, tree, verb, durability, number, bug: Some(bug) }, faulty));
        }
    }
    all
}

pub(crate) fn run(setting: &Setting, seconds: Option<u64>, only: Option<&str>, random: &mut Random, tally: &Tally) -> Result<()> {
    if let Err(why) = possible() {
        println!("SKIP places: {why}");
        return Ok(());
    }
    // In memory, and unmounted with all that is mounted below it, also by the next run.
    let room = Place::mounted(&setting.scratch, &["-t", "tmpfs", "-o", "size=256m,mode=755", "none"])?;
    let mut bench = Bench::lay_out(setting, room.dir())?;
    std::fs::remove_dir_all(&bench.tree)?;
    std::fs::create_dir(&bench.tree)?;
    let again = |case: &Case| format!("places --seed {} --case {}", setting.seed, case.name());
    let mut cases = cases();
    if let Some(only) = only {
        cases.extend(stand_ins().into_iter().map(|(case, _)| case));
        let matches = |case: &Case| case.name() == only || (case.bug.is_none() && case.name().starts_with(&format!("{only}:")));
        cases.retain(matches);
        if cases.is_empty() {
            bail!("no case is called {only}; a case is GROUND:TREE:DURABILITY:NUMBER, and GROUND or GROUND:TREE is all of its kind");
        }
    } else {
        for (name, why) in missing() {
            println!("SKIP {name}: {why}");
        }
        prove(&mut bench, tally)?;
        random.shuffle_in_turn(&mut cases, |case| case.ground.clone());
    }
    let (start, mut done, mut failed) = (Instant::now(), 0, 0);
    for case in &cases {
        if interrupted() || seconds.is_some_and(|limit| start.elapsed().as_secs() >= limit) {
            break;
        }
        let found = one(&mut bench, case).with_context(|| case.name())?;
        found.told.iter().for_each(|what| tally.violation(&format!("{}: {what}", case.name()), &again(case)));
        if only.is_some() {
            println!("places: {}: exit {:?}; said: {}", case.name(), found.code, found.said.trim());
        }
        tally.checked(1);
        done += 1;
        failed += usize::from(found.code != Some(0));
    }
    println!("places: {done} of {} cases, {failed} could not be done at first, {:.1} s", cases.len(), start.elapsed().as_secs_f64());
    Ok(())
}

/// Writers with a fault must be found out, and one without must not.
fn prove(bench: &mut Bench<'_>, tally: &Tally) -> Result<()> {
    for (bug, faulty) in STAND_INS {
        let mut told = Vec::new();
        for (case, _) in stand_ins().iter().filter(|(case, _)| case.bug == Some(bug)) {
            told.extend(one(bench, case)?.told.into_iter().map(|what| format!("{}: {what}", case.name())));
            tally.checked(1);
        }
        println!("places: standin-{bug}: {} violations{}", told.len(), if faulty { " (must find something)" } else { "" });
        if faulty && told.is_empty() {
            tally.violation(&format!("the stand-in {bug} passes: then the others show nothing"), "places");
        }
        told.iter().filter(|_| !faulty).for_each(|what| tally.violation(what, "places"));
    }
    Ok(())
}

struct Found {
    code: Option<i32>,
    said: String,
    told: Vec<String>,
}

fn one(bench: &mut Bench<'_>, case: &Case) -> Result<Found> {
    let ground = Ground::lay(bench, &case.ground, case.op, case.number)?;
    let before = std::cell::Cell::new(ground.lower()?);
    let told = std::cell::RefCell::new(Vec::new());
    let complain = |what: String| told.borrow_mut().push(what);
    let event = EVENTS.iter().find(|event| event.name == case.ground);
    let run = perform(bench, case, &ground, event)?;
    let left = strays_after(Duration::from_secs(2), &bench.ours);
    reap(&bench.ours);
    if run.hung {
        complain(format!("it did not end in {} s", LIMIT.as_secs()));
    } else if left > 0 {
        complain(format!("{left} processes outlived it"));
    }
    // What is broken for good has to be mounted anew before anything can be seen in it.
    let ground = ground.after(bench, event)?;
    bench.judge(case.op, false, &complain)?;
    // A lost handle of a temp or lock file is one that cannot be removed by.
    if !run.hung && !event.is_some_and(Event::breaks) && !case.ground.starts_with("nfs-stale") {
        for path in leftovers(&bench.tree) {
            complain(format!("{} is left over", path.display()));
        }
    }
    // What a stand-in leaves has another name.
    let temps = files(&bench.tree).into_iter().filter(|path| case.bug.is_some() && path.extension().is_some_and(|suffix| suffix == "tmp"));
    for path in temps {
        complain(format!("{} is left over", path.display()));
        std::fs::remove_file(path)?;
    }
    let undone = bench.undone(case.op)?;
    end(bench, case, &run, &undone, event, &complain);
    ground.relieve(bench)?;
    bench.heal(case.op, &complain)?;
    if ground.lower()? != before.take() {
        complain("the lower layer is not as it was".to_owned());
    }
    drop(ground);
    Ok(Found { code: run.code, said: run.said, told: told.into_inner() })
}

struct Run {
    code: Option<i32>,
    hung: bool,
    said: String,
    /// what was to happen in the middle has happened
    hit: bool,
}

/// A limit is set by a shell: in the process itself it would hold for the harness.
fn command(bench: &Bench<'_>, case: &Case, ground: &Ground) -> Result<Command> {
    let mut words = match case.bug {
        Some(bug) => standin::arguments(bug, &bench.template(Op::Force), &bench.tree)?,
        None => bench.arguments(case.op, case.verb),
    };
    if case.bug.is_none() && matches!(case.verb, "compile" | "repair") {
        words.extend(["--durability".into(), case.durability.into()]);
    }
    let limit = match &*case.ground {
        "fsize" => {
            let blocks = if case.number == 0 { middle(bench)? / 512 } else { case.number };
            // the stand-ins do not know the signal; that the product does is what is tested
            let trap = if case.bug.is_some() { "trap '' XFSZ; " } else { "" };
            Some(vec!["sh".into(), "-c".into(), format!("{trap}ulimit -f {blocks}; exec \"$0\" \"$@\"").into()])
        }
        "nofile" => Some(vec!["sh".into(), "-c".into(), format!("ulimit -n {}; exec \"$0\" \"$@\"", case.number).into()]),
        "nproc" => {
            let limit = format!("--nproc={0}:{0}", case.number);
            Some(["setpriv", "--ruid", NOBODY, "--bounding-set=-sys_resource,-sys_admin", "prlimit", &limit].map(Into::into).to_vec())
        }
        _ => None,
    };
    let mut command = if let Some(injected) = ground.strace(bench, case.number) { injected } else { Command::new("env") };
    for word in limit.into_iter().flatten().chain(words) {
        command.arg(word);
    }
    command.env("XDG_CACHE_HOME", bench.room.join("cache")).env("TMPDIR", ground.temp(bench)).env("RUST_BACKTRACE", "0");
    without_options(&mut command);
    Ok(command)
}

/// Whose processes count: nobody else's. The effective user stays root, who may enter everything; root's own are not limited.
const NOBODY: &str = "54397";

/// As long as the artifact in the middle.
fn middle(bench: &Bench<'_>) -> Result<u64> {
    let template = bench.template(Op::Force);
    let mut sizes: Vec<u64> = files(&template)
        .iter()
        .filter(|path| is_artifact(path))
        .map(|path| path.metadata().map(|meta| meta.len()))
        .collect::<Result<_, _>>()?;
    sizes.sort_unstable();
    Ok(sizes[sizes.len() / 2])
}

fn perform(bench: &Bench<'_>, case: &Case, ground: &Ground, event: Option<&Event>) -> Result<Run> {
    let mut command = command(bench, case, ground)?;
    let log = bench.room.join("log");
    std::fs::write(&log, "")?;
    // stderr is a pipe: into a file it would be under the limits that are tested
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().context("it does not start")?;
    let mut pipe = child.stderr.take().context("no pipe")?;
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        pipe.read_to_end(&mut said).map(|_| said)
    });
    let (start, mut hit, mut waits) = (Instant::now(), false, event.is_some());
    let (status, hung) = loop {
        if let Some(status) = child.try_wait()? {
            break (status, false);
        }
        if waits && std::fs::read_to_string(&log)?.contains("stopped by SIGSTOP") {
            waits = false;
            hit = event.is_some_and(|event| ground.happen(bench, event));
        }
        // More than once: strace counts by thread, so another may stop it again.
        if event.is_some() && !waits {
            let stopped: PathBuf = format!("/proc/{0}/task/{0}/children", child.id()).into();
            let pids = std::fs::read_to_string(stopped).unwrap_or_default();
            for pid in pids.split_whitespace().filter_map(|pid| rustix::process::Pid::from_raw(pid.parse().ok()?)) {
                if let Err(error) = rustix::process::kill_process(pid, rustix::process::Signal::CONT)
                    && error != rustix::io::Errno::SRCH
                {
                    bail!("it cannot be made to go on: {error}");
                }
            }
        }
        if interrupted() || start.elapsed() > LIMIT {
            kill(child.id());
            break (child.wait()?, true);
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    if hung {
        strays_after(Duration::ZERO, &bench.ours);
    }
    let said = reader.join().map_err(|_| anyhow::anyhow!("the reader of stderr panicked"))??;
    if interrupted() {
        bail!("interrupted");
    }
    Ok(Run { code: status.code(), hung, said: String::from_utf8_lossy(&said).into_owned(), hit })
}

/// Exit code and message: 0 only where all is done, 1 or 2 only with path and cause.
fn end(bench: &Bench<'_>, case: &Case, run: &Run, undone: &[PathBuf], event: Option<&Event>, complain: &dyn Fn(String)) {
    let first = run.said.lines().next().unwrap_or("").trim();
    if run.hung {
        return;
    }
    if run.said.contains("panicked") {
        complain(format!("it panics: {first}"));
    }
    let words = grounds::words(&case.ground);
    let errors = run.said.lines().filter(|line| line.starts_with("error: ")).count();
    match run.code {
        Some(0) if !undone.is_empty() => complain(format!("exit 0 with {} not done, {} among them", undone.len(), undone[0].display())),
        Some(0) => {}
        Some(1 | 2) => {
            // whoever has no room left must be able to make some
            if grounds::must_do(&case.ground) || (case.op == Op::Clean && FULL.iter().any(|full| full.name == case.ground)) {
                complain(format!("exit {:?}, and nothing stood in the way: {first}", run.code));
            }
            let named = [&bench.tree, &bench.room, &bench.setting.python.path].iter().any(|path| run.said.contains(&written(path)));
            // where there is no thread to be had at all there is no path
            if !named && case.ground != "nproc" {
                complain(format!("exit {:?} names no path: {first}", run.code));
            }
            if !words.iter().any(|words| run.said.contains(words)) && event.is_none_or(|_| run.hit) {
                complain(format!("exit {:?} says nothing like {}: {first}", run.code, words[0]));
            }
            if case.bug.is_none() && grounds::is_shared(&case.ground) && errors > 1 {
                complain(format!("{errors} messages for one cause: {first}"));
            }
        }
        Some(code) => complain(format!("exit {code}: {first}")),
        None => complain(format!("it died by a signal: {first}")),
    }
    if case.ground == "across-full"
        && let Some(path) = undone.iter().find(|path| path.parent() != Some(&bench.tree.join("pkg/__pycache__")))
    {
        complain(format!("{} is not done, and there was room for it", path.display()));
    }
}
