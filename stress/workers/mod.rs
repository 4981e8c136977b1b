//! Workers that die, hang, print and lie at every byte of an exchange; and real ones whose pipes are small and cut short. Whatever they do,
//! an artifact is right or absent, and who is to blame is told.

pub(crate) mod cutpipes;
pub(crate) mod proxy;
pub(crate) mod readers;
pub(crate) mod slot;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::run::{Random, Setting, Tally, interrupted};
use crate::workers::proxy::{AT_BYTES, AT_FRAMES, Behaviour, HARMLESS, LEFT_SECONDS, RARE, When};
use crate::workers::slot::{SOURCES, Slot, Started};

/// The product's `--timeout`: machines are busy, and a good worker must never be taken for one that hangs.
pub(crate) const TIMEOUT: u64 = 3;
/// A worker may take so long until it says hello, and two of them are waited for.
const HELLO: u64 = 20;
/// Four requests, one of them without a source, of two tries each; and two workers in a row that never say hello, for each of two managers.
const MOST_STARTS: usize = 12;
/// Machines are busy.
const SLACK: u64 = 60;
/// Lanes of cases that work, and of those that mostly wait.
const LANES: [usize; 2] = [3, 12];

/// Which cases can be run at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Pace {
    Works,
    Waits,
    /// Before the hello: 20 s each, or 40.
    WaitsLong,
}

/// What an undisturbed exchange is: where its frames end.
struct Exchange {
    stream: Vec<u8>,
    ends: Vec<usize>,
}

impl Exchange {
    /// Where the worker is ready.
    fn hello(&self) -> usize {
        self.ends.get(1).copied().unwrap_or(0)
    }

    fn pace(&self, case: Behaviour) -> Pace {
        let known = AT_BYTES.iter().chain(&AT_FRAMES).find(|(kind, _)| *kind == case.kind);
        let by_frame = AT_FRAMES.iter().any(|(kind, _)| *kind == case.kind);
        let start = self.ends.iter().rev().find(|end| **end <= case.at).copied().unwrap_or(0);
        let in_a_length = (4..8).contains(&(case.at - start));
        let waits = known.is_none_or(|(_, waits)| *waits) || (matches!(case.kind, "flips" | "prints") && in_a_length);
        let early = if by_frame { case.at < 2 } else { case.at < self.hello() };
        match (waits && !HARMLESS.contains(&case.kind), early) {
            (true, true) => Pace::WaitsLong,
            (true, false) => Pace::Waits,
            (false, _) => Pace::Works,
        }
    }

    /// How many sources a misbehaviour may cost at most: those whose own answer, alone on a fresh worker, reaches so far.
    fn most_missing(&self, case: Behaviour) -> usize {
        if case.when == When::Once || HARMLESS.contains(&case.kind) {
            return 0;
        }
        let answers = self.ends.windows(2).skip(1).map(|two| two[1] - two[0]);
        if AT_FRAMES.iter().any(|(kind, _)| *kind == case.kind) {
            return if case.at > 2 { 0 } else { answers.count() };
        }
        // a process id may have more digits than the recorded one
        answers.filter(|len| self.hello() + len + 4 >= case.at).count()
    }

    fn cases(&self) -> Vec<Behaviour> {
        let mut all = Vec::new();
        let whens = [When::Once, When::Always];
        for when in whens {
            let at_bytes = AT_BYTES.iter().flat_map(|(kind, _)| (0..=self.stream.len()).map(move |at| (*kind, at)));
            let at_frames = AT_FRAMES.iter().flat_map(|(kind, _)| (0..self.ends.len()).map(move |at| (*kind, at)));
            let rare = RARE.iter().flat_map(|kind| self.ends.iter().map(move |end| (*kind, end - 3)));
            all.extend(at_bytes.chain(at_frames).chain(rare).map(|(kind, at)| Behaviour { kind, at, when }));
        }
        all.extend(["slow", "chatters"].map(|kind| Behaviour { kind, at: 0, when: When::Always }));
        all
    }
}

/// What is counted over all cases.
#[derive(Debug, Default)]
struct Counts {
    done: AtomicUsize,
    hit: AtomicUsize,
    survived: AtomicUsize,
}

pub(crate) fn run(setting: &Setting, seconds: Option<u64>, only: Option<&str>, random: &mut Random, tally: &Tally) -> Result<()> {
    let room = setting.room("workers")?;
    let start = Instant::now();
    let chosen = |part: &str| only.is_none_or(|only| only == part || only.starts_with(&format!("{part}:")));
    if chosen("pipes") {
        // the real ones first, for a part of the time: the others take what is left
        let version = only.and_then(|only| only.strip_prefix("pipes:"));
        let seconds = seconds.map(|all| if only.is_some() { all } else { (all / 3).min(60) });
        cutpipes::run(setting, seconds, version, random, tally, room.path())?;
    }
    if only.is_some() && chosen("pipes") {
        return Ok(());
    }
    let started = Started::default();
    let first = Slot::lay_out(setting, room.path(), 0, &started)?;
    let stream = first.record(setting, &started)?;
    let exchange = Exchange { ends: readers::ends(&stream), stream };
    println!("workers: an exchange of {} bytes, {} frames, {} sources", exchange.stream.len(), exchange.ends.len(), SOURCES.len());
    if exchange.ends.last() != Some(&exchange.stream.len()) || exchange.ends.len() < 5 {
        bail!("what a worker says is not a stream of at least five frames: the description in readers.rs is out of date");
    }
    if chosen("readers") {
        readers::prove(&exchange.stream, tally);
    }
    let mut cases = exchange.cases();
    random.shuffle_in_turn(&mut cases, |case| (case.kind, case.when));
    if let Some(only) = only.filter(|only| *only != "readers") {
        cases.retain(|case| case.name() == only || case.kind == only);
        if cases.is_empty() {
            bail!("no case is called {only}; a case is KIND, KIND:AT:once, KIND:AT:always, readers, pipes or pipes:VERSION");
        }
    } else if only.is_some() {
        return Ok(());
    }
    let one = cases.len() == 1;
    let short = |limit: u64| seconds.is_some_and(|all| all < limit) && !one;
    let before = cases.len();
    cases.retain(|case| match exchange.pace(*case) {
        Pace::Works => true,
        Pace::Waits => case.when == When::Once || !short(60),
        Pace::WaitsLong => !short(300),
    });
    if cases.len() < before {
        println!("SKIP {} cases that cost {TIMEOUT} to {HELLO} s several times: a longer run has them", before - cases.len());
    }
    let counts = Counts::default();
    let slots: Mutex<Vec<Slot>> = Mutex::new(vec![first]);
    let until = seconds.map(|all| start + Duration::from_secs(all));
    // what waits costs seconds behind its last start
    let early = until.map(|until| if short(60) { until.checked_sub(Duration::from_secs(2 * TIMEOUT)).unwrap_or(until) } else { until });
    let stage = Stage { setting, exchange: &exchange, started: &started, tally, counts: &counts, slots: &slots, room: room.path() };
    let (working, waiting): (Vec<_>, Vec<_>) = cases.iter().partition(|case| exchange.pace(**case) == Pace::Works);
    // whoever has little time lays out few trees
    let most = seconds.map_or(usize::MAX, |all| usize::try_from(all / 4).unwrap_or(1).max(1));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| stage.run(&waiting, LANES[1].min(most), early));
        stage.run(&working, LANES[0].min(most), until)?;
        waiting.join().expect("a stage panicked")
    })?;
    started.reap();
    let (done, hit, survived) = (counts.done.into_inner(), counts.hit.into_inner(), counts.survived.into_inner());
    println!(
        "workers: {done} of {} cases, {hit} hit, {survived} ended with everything done, {:.1} s",
        cases.len(),
        start.elapsed().as_secs_f64()
    );
    if done > 0 && hit == 0 {
        tally.violation("no worker misbehaved: nothing was shown", "workers");
    }
    Ok(())
}

/// Cases that are run at one time.
struct Stage<'a> {
    setting: &'a Setting,
    exchange: &'a Exchange,
    started: &'a Started,
    tally: &'a Tally,
    counts: &'a Counts,
    slots: &'a Mutex<Vec<Slot>>,
    room: &'a Path,
}

impl Stage<'_> {
    /// One case at least, however little time there is.
    fn run(&self, cases: &[Behaviour], lanes: usize, until: Option<Instant>) -> Result<()> {
        let next = AtomicUsize::new(0);
        let over = || interrupted() || until.is_some_and(|until| Instant::now() >= until);
        std::thread::scope(|scope| {
            let lanes: Vec<_> = (0..lanes.min(cases.len()))
                .map(|_| {
                    scope.spawn(|| -> Result<()> {
                        loop {
                            let number = next.fetch_add(1, Ordering::Relaxed);
                            if number > 0 && over() {
                                break;
                            }
                            let Some(case) = cases.get(number) else { break };
                            let kept = self.slots.lock().unwrap().pop();
                            let slot = match kept {
                                Some(slot) => slot,
                                None => Slot::lay_out(self.setting, self.room, self.started.number(), self.started)?,
                            };
                            self.one(&slot, *case)?;
                            self.slots.lock().unwrap().push(slot);
                        }
                        Ok(())
                    })
                })
                .collect();
            lanes.into_iter().try_for_each(|lane| lane.join().expect("a lane panicked"))
        })
    }

    fn one(&self, slot: &Slot, case: Behaviour) -> Result<()> {
        let again = format!("workers --seed {} --case {}", self.setting.seed, case.name());
        let complain = |what: String| self.tally.violation(&format!("a worker {}: {what}", case.name()), &again);
        slot.clear()?;
        let run = slot.run(self.setting, self.started, case)?;
        let Some(code) = run.code else {
            complain(format!("it had to be ended after {:.0} s, or a signal did: {}", run.wall.as_secs_f64(), run.said()));
            return Ok(());
        };
        let early = self.exchange.pace(case) == Pace::WaitsLong;
        let limit = SLACK + if early { 2 * HELLO } else { 2 * TIMEOUT * u64::try_from(SOURCES.len() + 1)? };
        if run.wall > Duration::from_secs(limit) {
            complain(format!("it took {:.0} s, with a limit of {TIMEOUT} s a source", run.wall.as_secs_f64()));
        }
        if run.starts > MOST_STARTS {
            complain(format!("it started {} workers for {} sources", run.starts, SOURCES.len()));
        }
        let missing = slot.judge(&complain)?;
        let most = self.exchange.most_missing(case);
        match (code, missing) {
            (0, 0) => _ = self.counts.survived.fetch_add(1, Ordering::Relaxed),
            (0, _) => complain(format!("exit 0, and {missing} artifacts are not there")),
            (1 | 2, 0) => complain(format!("exit {code}, and everything is there: {}", run.said())),
            (1 | 2, _) if missing > most => {
                complain(format!("exit {code}, {missing} artifacts are not there, and {most} at most may be missing: {}", run.said()));
            }
            (1 | 2, _) if slot.names_somebody(&run.text) => {}
            (code, _) => complain(format!("exit {code}, and nobody is named: {}", run.said())),
        }
        if run.text.contains("panicked") {
            complain(format!("it panicked: {}", run.said()));
        }
        let patience = if case.kind == "leaves" { LEFT_SECONDS + 3 } else { 5 };
        let strays = slot.strays_after(Duration::from_secs(patience));
        if strays > 0 {
            complain(format!("{strays} processes outlived it"));
        }
        slot.heal(self.setting, self.started, &complain)?;
        self.tally.checked(1);
        self.counts.hit.fetch_add(usize::from(run.hit), Ordering::Relaxed);
        // what came to us when its parent was killed waits for its burial
        if self.counts.done.fetch_add(1, Ordering::Relaxed) % 50 == 49 {
            self.started.reap();
        }
        Ok(())
    }
}
