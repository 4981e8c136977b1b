//! The lock of a directory: never two holders, wherever a call is delayed; a holder that is stopped, and another user, cost the time-out
//! and no more; and what many installers want is compiled once.

pub(crate) mod holders;
pub(crate) mod lockers;
pub(crate) mod stranger;

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::run::{self, Random, Setting, Tally, interrupted, strays_after};
use crate::strace_log;
use lockers::{Count, KINDS, Kind, PROCESSES, Point};

/// How much of it.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// of the product's lock, where nothing is delayed
    pub(crate) sections: u64,
    /// how long the sweep over the delay points may go on
    pub(crate) seconds: Option<u64>,
    /// KIND, KIND:CALL:WHEN, stopped, stranger, once
    pub(crate) case: Option<String>,
}

impl Plan {
    fn wants(&self, name: &str) -> bool {
        self.case.as_ref().is_none_or(|case| case == name)
    }
}

/// So many sections at each delay point.
const AT_A_POINT: u64 = 400;
/// The stand-ins do so much less where nothing is delayed.
const SHARE: u64 = 10;
/// So many delay points at one time: they sleep more than they work.
const AT_ONCE: usize = 3;
/// A case that is no race of lockers. Shortly?
type Whole = fn(&Setting, &Path, bool, &Tally) -> Result<()>;
const WHENS: [&str; 2] = ["delay_enter", "delay_exit"];

pub(crate) fn run(setting: &Setting, plan: &Plan, random: &mut Random, tally: &Tally) -> Result<()> {
    let start = Instant::now();
    let room = setting.room("locks")?;
    let memory = run::memory("locks");
    let memory = memory.as_ref().map_or(room.path(), tempfile::TempDir::path);
    let sections = Sections { setting, tally, room: room.path(), memory, naive: Mutex::default() };
    let mut known = sections.undelayed(plan)?;
    known |= sections.sweep(plan, random)?;
    let whole: [(&str, Whole); 3] = [("stopped", holders::stopped), ("stranger", stranger::run), ("once", holders::once)];
    for (name, program) in whole {
        if plan.wants(name) && !interrupted() {
            let here = room.path().join(name);
            std::fs::create_dir(&here)?;
            program(setting, &here, plan.seconds.is_some(), tally)?;
            let left = strays_after(Duration::from_secs(2), &HashSet::new());
            if left > 0 {
                tally.violation(&format!("locks: {name}: {left} processes outlived it"), &format!("locks --case {name}"));
            }
            known = true;
        }
    }
    if let (Some(case), false) = (&plan.case, known) {
        bail!("no case is called {case}; a case is LOCK, LOCK:CALL:delay_enter, LOCK:CALL:delay_exit, stopped, stranger or once");
    }
    println!("locks: {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

struct Sections<'a> {
    setting: &'a Setting,
    tally: &'a Tally,
    /// for delayed sections, and for the others
    room: &'a Path,
    memory: &'a Path,
    /// two holders of each naive stand-in, at all points
    naive: Mutex<BTreeMap<&'static str, u64>>,
}

impl Sections<'_> {
    /// Says whether a case was one of these.
    fn undelayed(&self, plan: &Plan) -> Result<bool> {
        let mut known = false;
        for (kind, name) in KINDS.into_iter().filter(|(_, name)| plan.wants(name)) {
            let sections = if kind == Kind::Product { plan.sections } else { plan.sections / SHARE };
            let start = Instant::now();
            let count = self.one(kind, None, sections, plan)?;
            println!(
                "locks: {name}: {} sections by {PROCESSES} processes in {:.1} s, {} attempts busy, {} with two holders",
                count.taken,
                start.elapsed().as_secs_f64(),
                count.busy,
                count.two
            );
            known = true;
        }
        Ok(known)
    }

    /// Every call that a lock makes, delayed as it begins and as it ends.
    fn sweep(&self, plan: &Plan, random: &mut Random) -> Result<bool> {
        if plan.case.as_ref().is_some_and(|case| !case.contains(':')) {
            return Ok(false);
        }
        if let Err(why) = strace_log::possible() {
            println!("SKIP the delay points of locks: {why}");
            return Ok(plan.case.is_some());
        }
        let start = Instant::now();
        let mut points = Vec::new();
        let asked = |name: &str| plan.case.as_ref().is_none_or(|case| case.starts_with(&format!("{name}:")));
        for (kind, _) in KINDS.into_iter().filter(|(_, name)| asked(name)) {
            let calls = lockers::calls_of(kind, &self.room.join(format!("calls-{}", kind.name())))?;
            println!("locks: {}: {}", kind.name(), calls.join(" "));
            points.extend(calls.iter().flat_map(|call| WHENS.map(|when| (kind, Point { call: call.clone(), when }))));
        }
        points.retain(|(kind, point)| plan.wants(&name_of(*kind, point)));
        if points.is_empty() && plan.case.is_some() {
            return Ok(false);
        }
        random.shuffle_in_turn(&mut points, |(kind, _)| *kind);
        // First where the naive ones show it best, so that a short sweep shows it too.
        points.sort_by_key(|(kind, point)| !(kind.is_naive() && point.call.starts_with("unlink") && point.when == "delay_enter"));
        let all = points.len();
        let points = Mutex::new(points.into_iter());
        let mut done = 0;
        let over = || interrupted() || plan.seconds.is_some_and(|limit| start.elapsed().as_secs() >= limit);
        let results: Vec<Result<usize>> = std::thread::scope(|scope| {
            let worker = || {
                let mut done = 0;
                while !over() {
                    let Some((kind, point)) = points.lock().unwrap().next() else { break };
                    let count = self.one(kind, Some(&point), AT_A_POINT, plan)?;
                    println!("locks: {:37} {:4} of {} with two holders", name_of(kind, &point), count.two, count.taken);
                    done += 1;
                }
                Ok(done)
            };
            let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(worker)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked")))).collect()
        });
        for result in results {
            done += result?;
        }
        println!("locks: {done} of {all} delay points, {:.1} s", start.elapsed().as_secs_f64());
        for (kind, name) in KINDS.into_iter().filter(|(kind, _)| kind.is_naive() && plan.case.is_none()) {
            if self.naive.lock().unwrap().get(name).is_none_or(|two| *two == 0) && !interrupted() {
                self.tally
                    .violation(&format!("locks: {}: nobody finds its two holders: then the others show nothing", kind.name()), "locks");
            }
        }
        Ok(true)
    }

    fn one(&self, kind: Kind, point: Option<&Point>, sections: u64, plan: &Plan) -> Result<Count> {
        let name = point.map_or_else(|| kind.name().to_owned(), |point| name_of(kind, point));
        let dir = if point.is_some() { self.room } else { self.memory }.join(name.replace(':', "-"));
        let count = lockers::compete(kind, &dir, sections, point)?;
        let complain = |what: &str| {
            self.tally.violation(&format!("locks: {name}: {what}"), &format!("locks --seed {} --case {name}", self.setting.seed));
        };
        self.tally.checked(count.taken);
        if count.taken < sections {
            complain(&format!("only {} of {sections} sections were had", count.taken));
        }
        // The stand-ins' few sections may be over before the next process has a processor.
        if count.busy == 0 && (kind == Kind::Product || point.is_some()) {
            complain("nobody ever found it busy: nothing was shown");
        }
        if point.is_some() && count.delayed < count.taken {
            complain(&format!("only {} calls were delayed in {} sections", count.delayed, count.taken));
        }
        if kind.is_naive() {
            *self.naive.lock().unwrap().entry(kind.name()).or_default() += count.two;
        }
        if count.two > 0 && (!kind.is_naive() || plan.case.is_some()) {
            complain(&format!("{} of {} sections had two holders", count.two, count.taken));
        }
        let left: Vec<_> = std::fs::read_dir(&dir)?.flatten().map(|entry| entry.file_name()).collect();
        if !left.is_empty() && !kind.is_naive() {
            complain(&format!("{left:?} is left over"));
        }
        Ok(count)
    }
}

fn name_of(kind: Kind, point: &Point) -> String {
    format!("{}:{}:{}", kind.name(), point.call, point.when)
}

/// What of it cannot run here.
pub(crate) fn missing() -> Vec<(&'static str, String)> {
    let points = strace_log::possible().err().map(|why| ("the delay points of locks", why));
    points.into_iter().chain(stranger::possible().err().map(|why| ("another user's ways to hold a lock", why))).collect()
}
