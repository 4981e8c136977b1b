//! SIGKILL on entry of every system call that touches files, one case at a time. What is found afterwards must be whole, the next run
//! must heal it, and nothing may be left alive.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::bench::{Bench, OPS, Op};
use crate::run::{self, Random, Setting, Tally, interrupted, kill, measure, strays_after};
use crate::strace_log;

#[derive(Debug, Clone)]
struct Case {
    op: Op,
    name: &'static str,
    verb: &'static str,
    call: String,
    number: usize,
}

impl Case {
    fn again(&self, seed: u64) -> String {
        format!("kill --seed {seed} --case {}:{}:{}", self.name, self.call, self.number)
    }
}

pub(crate) fn run(setting: &Setting, seconds: Option<u64>, only: Option<&str>, random: &mut Random, tally: &Tally) -> Result<()> {
    if let Err(why) = strace_log::possible() {
        println!("SKIP kill: {why}");
        return Ok(());
    }
    let room = setting.room("kill")?;
    let mut bench = Bench::lay_out(setting, room.path())?;
    let start = Instant::now();
    let mut cases = Vec::new();
    for (op, name, verb) in OPS {
        let here = if op == Op::Worker { vec![("delay".to_owned(), 40)] } else { bench.count(op, &bench.arguments(op, verb))? };
        println!("kill: {name}: {} calls", here.iter().map(|(_, times)| times).sum::<usize>());
        for (call, times) in here {
            cases.extend((1..=times).map(|number| Case { op, name, verb, call: call.clone(), number }));
        }
    }
    // a short run must not spend itself on `close`
    random.shuffle_in_turn(&mut cases, |case| (case.op, case.call.clone()));
    if let Some(only) = only {
        cases.retain(|case| format!("{}:{}:{}", case.name, case.call, case.number) == only);
        if cases.is_empty() {
            bail!("no case is called {only}; a case is COMMAND:CALL:N");
        }
    }
    let (mut done, mut hit) = (0, 0);
    for case in &cases {
        if interrupted() || seconds.is_some_and(|limit| start.elapsed().as_secs() >= limit) {
            break;
        }
        let before = tally.violations();
        hit += usize::from(one(&mut bench, case, tally)?);
        tally.checked(1);
        done += 1;
        if tally.violations() > before && only.is_some() {
            println!("the tree stays in {}", run::keep(room)?.display());
            return Ok(());
        }
    }
    println!("kill: {done} of {} cases, {hit} hit, {:.1} s", cases.len(), start.elapsed().as_secs_f64());
    if only.is_none() && done > 0 && hit == 0 {
        tally.violation("no kill hit anything: nothing was shown", "kill");
    }
    Ok(())
}

/// One case. Says whether the kill hit.
fn one(bench: &mut Bench<'_>, case: &Case, tally: &Tally) -> Result<bool> {
    bench.restore(case.op)?;
    let again = case.again(bench.setting.seed);
    let complain = |what: String| tally.violation(&format!("{} killed at {} {}: {what}", case.name, case.call, case.number), &again);
    let hit = if case.op == Op::Worker {
        kill_worker(bench, case, &complain)?
    } else {
        let inject = format!("{}:signal=SIGKILL:when={}", case.call, case.number);
        measure(vec![bench.strace(&case.call, Some(&inject), &bench.arguments(case.op, case.verb))])?;
        std::fs::read_to_string(bench.room.join("log"))?.contains("killed by SIGKILL")
    };
    let left = strays_after(Duration::from_secs(2), &bench.ours);
    if left > 0 {
        complain(format!("{left} processes outlived it"));
    }
    bench.judge(case.op, false, &complain)?;
    bench.heal(case.op, &complain)?;
    Ok(hit)
}

fn kill_worker(bench: &Bench<'_>, case: &Case, complain: &dyn Fn(String)) -> Result<bool> {
    let arguments = bench.arguments(case.op, case.verb);
    let mut command = Command::new(&arguments[0]);
    command.args(&arguments[1..]).env("XDG_CACHE_HOME", bench.room.join("cache"));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    std::thread::sleep(Duration::from_millis(4 * u64::try_from(case.number)?));
    let tasks = std::fs::read_dir(format!("/proc/{}/task", child.id())).into_iter().flatten().flatten();
    let text: String = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok()).collect();
    let workers: Vec<u32> = text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
    for pid in &workers {
        kill(*pid);
    }
    let status = child.wait()?;
    if !matches!(status.code(), Some(0 | 1)) {
        complain(format!("it ended with {status} when its worker died"));
    }
    Ok(!workers.is_empty())
}
