//! SIGKILL on entry of every system call that touches files, one case at a time. What is found afterwards must be whole, the next run
//! must heal it, and nothing may be left alive.

use std::cell::RefCell;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::bench::{Bench, Op};
use crate::run::{self, Random, Setting, Tally, children_of, interrupted, kill, measure, strays_after, without_options};
use crate::strace_log;
use crate::writer::{COMMANDS, INSIDE, STAND_INS, Writer};

#[derive(Debug, Clone)]
struct Case {
    writer: Writer,
    call: String,
    number: usize,
}

impl Case {
    fn name(&self) -> String {
        format!("{}:{}:{}", self.writer.name, self.call, self.number)
    }

    fn parse(name: &str) -> Option<Self> {
        let [writer, call, number] = name.split(':').collect::<Vec<_>>().try_into().ok()?;
        let writer = if writer == WORKER.name { WORKER } else { Writer::named(writer)? };
        Some(Self { writer, call: call.to_owned(), number: number.parse().ok()? })
    }
}

/// Not a call of a worker's is the moment, but one after a delay.
const WORKER: Writer = Writer { op: Op::Worker, name: "worker", verb: "compile", bug: None, inside: false };

pub(crate) fn run(setting: &Setting, seconds: Option<u64>, only: Option<&str>, random: &mut Random, tally: &Tally) -> Result<()> {
    if let Err(why) = strace_log::possible() {
        println!("SKIP kill: {why}");
        return Ok(());
    }
    let room = setting.room("kill")?;
    let mut bench = Bench::lay_out(setting, room.path())?;
    let start = Instant::now();
    let mut cases = Vec::new();
    // one case, or all of one command
    let command = only.and_then(|only| COMMANDS.into_iter().chain(INSIDE).chain([WORKER]).find(|writer| writer.name == only));
    if let (Some(only), None) = (only, command) {
        cases.push(Case::parse(only).with_context(|| format!("no case is called {only}; a case is COMMAND or COMMAND:CALL:N"))?);
    } else {
        prove(&mut bench, random, tally)?;
        for writer in COMMANDS.into_iter().chain(INSIDE).chain([WORKER]).filter(|writer| command.is_none_or(|one| one == *writer)) {
            let here = if writer.op == Op::Worker { vec![("delay".to_owned(), 40)] } else { bench.count(writer)? };
            println!("kill: {}: {} calls", writer.name, here.iter().map(|(_, times)| times).sum::<usize>());
            for (call, times) in here {
                cases.extend((1..=times).map(|number| Case { writer, call: call.clone(), number }));
            }
        }
    }
    // a short run must not spend itself on `close`
    random.shuffle_in_turn(&mut cases, |case| (case.writer, case.call.clone()));
    let (mut done, mut hit) = (0, 0);
    for case in &cases {
        if interrupted() || seconds.is_some_and(|limit| start.elapsed().as_secs() >= limit) {
            break;
        }
        let before = tally.violations();
        let (struck, told) = one(&mut bench, case)?;
        tell(setting.seed, case, &told, tally);
        hit += usize::from(struck);
        tally.checked(1);
        done += 1;
        if tally.violations() > before && only.is_some() && command.is_none() {
            println!("the tree stays in {}", run::keep(room)?.display());
            return Ok(());
        }
    }
    println!("kill: {done} of {} cases, {hit} hit, {:.1} s", cases.len(), start.elapsed().as_secs_f64());
    if cases.len() > 1 && done > 0 && hit == 0 {
        tally.violation("no kill hit anything: nothing was shown", "kill");
    }
    Ok(())
}

fn tell(seed: u64, case: &Case, told: &[String], tally: &Tally) {
    for what in told {
        let text = format!("{} killed at {} {}: {what}", case.writer.name, case.call, case.number);
        tally.violation(&text, &format!("kill --seed {seed} --case {}", case.name()));
    }
}

/// Writers with a fault that kills show must be found out, and one without must not.
fn prove(bench: &mut Bench<'_>, random: &mut Random, tally: &Tally) -> Result<()> {
    for writer in STAND_INS.into_iter().filter(|one| matches!(one.bug, Some("whole" | "inplace" | "unlinkfirst" | "unlinkrename"))) {
        let mut cases = Vec::new();
        for (call, times) in bench.count(writer)?.into_iter().filter(|(call, _)| matches!(&**call, "write" | "fsync" | "rename")) {
            cases.extend((1..=times).map(|number| Case { writer, call: call.clone(), number }));
        }
        random.shuffle_in_turn(&mut cases, |case| case.call.clone());
        let (mut tried, mut found) = (0, false);
        for case in cases.iter().take(12) {
            let (_, told) = one(bench, case)?;
            tally.checked(1);
            tried += 1;
            found = !told.is_empty();
            if !writer.is_faulty() {
                tell(bench.setting.seed, case, &told, tally);
            }
            if found {
                break;
            }
        }
        println!("kill: {}: {} after {tried} cases", writer.name, if found { "found out" } else { "nothing found" });
        if writer.is_faulty() && !found {
            tally.violation(&format!("{} passes: then the others show nothing", writer.name), "kill");
        }
    }
    Ok(())
}

/// One case. Says whether the kill hit, and what is wrong.
fn one(bench: &mut Bench<'_>, case: &Case) -> Result<(bool, Vec<String>)> {
    let Writer { op, .. } = case.writer;
    bench.restore(op)?;
    let told = RefCell::new(Vec::new());
    let complain = |what: String| told.borrow_mut().push(what);
    let hit = if op == Op::Worker {
        kill_worker(bench, case, &complain)?
    } else {
        let inject = format!("{}:signal=SIGKILL:when={}", case.call, case.number);
        measure(vec![bench.strace(&case.call, Some(&inject), case.writer)?])?;
        std::fs::read_to_string(bench.room.join("log"))?.contains("killed by SIGKILL")
    };
    let left = strays_after(Duration::from_secs(2), &bench.ours);
    if left > 0 {
        complain(format!("{left} processes outlived it"));
    }
    bench.judge(op, false, &complain)?;
    bench.heal(op, &complain)?;
    Ok((hit, told.into_inner()))
}

fn kill_worker(bench: &Bench<'_>, case: &Case, complain: &dyn Fn(String)) -> Result<bool> {
    let arguments = case.writer.arguments(bench)?;
    let mut command = Command::new(&arguments[0]);
    command.args(&arguments[1..]).env("XDG_CACHE_HOME", bench.room.join("cache"));
    without_options(&mut command);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    std::thread::sleep(Duration::from_millis(4 * u64::try_from(case.number)?));
    let workers = children_of(child.id());
    for pid in &workers {
        kill(*pid);
    }
    let status = child.wait()?;
    if !matches!(status.code(), Some(0 | 1)) {
        complain(format!("it ended with {status} when its worker died"));
    }
    Ok(!workers.is_empty())
}
