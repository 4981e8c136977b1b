//! Reads and writes that do less than they were asked for, or are interrupted, at random and by a seed: no error, so each command must
//! exit 0 and leave byte for byte what it leaves undisturbed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::bench::{Bench, Op};
use crate::preload::{Counts, Disturbance, Preload, What};
use crate::run::{Random, Setting, Tally, interrupted, measure, reap, strays_after, without_options};
use crate::whole::files;
use crate::writer::{COMMANDS, Writer};

pub(crate) use crate::preload::possible;

const PATIENCE: Duration = Duration::from_secs(30);
const STAND_IN_RUNS: u64 = 12;

/// A tree and a command: those of `kill`, and `verify`, whose words must be the same.
type After = (BTreeMap<PathBuf, Vec<u8>>, String);

fn works() -> Vec<Writer> {
    let mut all: Vec<Writer> = COMMANDS.into_iter().filter(|writer| !writer.op.stores()).collect();
    all.push(Writer { op: Op::Repair, name: "verify", verb: "verify", ..COMMANDS[0] });
    all
}

fn stand_in(name: &'static str, bug: &'static str) -> Writer {
    Writer { op: Op::Stale, name, bug: Some(bug), ..COMMANDS[0] }
}

pub(crate) fn run(setting: &Setting, seconds: Option<u64>, only: Option<&str>, random: &mut Random, tally: &Tally) -> Result<()> {
    if let Err(why) = possible() {
        println!("SKIP shortio: {why}");
        return Ok(());
    }
    let room = setting.room("shortio")?;
    let mut bench = Bench::lay_out(setting, room.path())?;
    let preload = Preload::build(room.path())?;
    let stand_ins = [stand_in("standin-whole", "whole"), stand_in("standin-short", "short")];
    let all: Vec<Writer> = works().into_iter().chain(stand_ins).collect();
    let mut expected = Vec::new();
    for work in &all {
        bench.restore(work.op)?;
        expected.push(after(&bench, *work, None)?.1);
    }
    if let Some(only) = only {
        let (name, seed) = only.split_once(':').context("a case is TREE:SEED")?;
        let at = all.iter().position(|work| work.name == name).with_context(|| format!("no tree is called {name}"))?;
        let told = one(&mut bench, &preload, all[at], seed.parse()?, &expected[at])?.0;
        for what in told {
            tally.violation(&format!("{only}: {what}"), &format!("shortio --case {only}"));
        }
        tally.checked(1);
        return Ok(());
    }
    for (work, expected) in all.iter().zip(&expected).filter(|(work, _)| work.bug.is_some()) {
        let faulty = work.name != "standin-whole";
        let mut found = 0;
        for seed in 0..STAND_IN_RUNS {
            let told = one(&mut bench, &preload, *work, seed, expected)?.0;
            found += u64::from(!told.is_empty());
            told.iter().filter(|_| !faulty).for_each(|what| tally.violation(what, &format!("shortio --case {}:{seed}", work.name)));
            tally.checked(1);
        }
        println!("shortio: {}: found in {found} of {STAND_IN_RUNS} runs{}", work.name, if faulty { " (must be)" } else { "" });
        if faulty && found == 0 {
            tally.violation(&format!("{} passes: then the others show nothing", work.name), "shortio");
        }
    }
    let (start, mut runs, mut counts) = (Instant::now(), 0_u64, Counts::default());
    let works = works();
    'all: for _ in 0..seconds.map_or(1000_u64.div_ceil(works.len() as u64), |_| u64::MAX) {
        for (work, expected) in works.iter().zip(&expected) {
            if interrupted() || seconds.is_some_and(|limit| start.elapsed().as_secs() >= limit) {
                break 'all;
            }
            let seed = random.next() >> 32;
            let (told, more) = one(&mut bench, &preload, *work, seed, expected)?;
            let again = format!("shortio --case {}:{seed}", work.name);
            for what in told {
                tally.violation(&format!("{} with seed {seed}: {what}", work.name), &again);
            }
            tally.checked(1);
            runs += 1;
            counts = Counts {
                calls: counts.calls + more.calls,
                reads: counts.reads + more.reads,
                writes: counts.writes + more.writes,
                interrupts: counts.interrupts + more.interrupts,
            };
        }
    }
    println!(
        "shortio: {runs} runs in {:.1} s: of {} calls {} reads and {} writes were cut, {} interrupted",
        start.elapsed().as_secs_f64(),
        counts.calls,
        counts.reads,
        counts.writes,
        counts.interrupts
    );
    if runs > 20 && (counts.reads == 0 || counts.writes == 0 || counts.interrupts == 0) {
        tally.violation("nothing was cut or interrupted: nothing was shown", "shortio");
    }
    Ok(())
}

fn one(bench: &mut Bench<'_>, preload: &Preload, work: Writer, seed: u64, expected: &After) -> Result<(Vec<String>, Counts)> {
    bench.restore(work.op)?;
    let how = Disturbance { what: What::All, seed, chance: 10 + seed % 50, interrupts: 10 };
    let (cost, now) = after(bench, work, Some(preload.environment(how)))?;
    let told = std::cell::RefCell::new(Vec::new());
    let complain = |what: String| told.borrow_mut().push(what);
    let left = strays_after(Duration::from_secs(2), &bench.ours);
    reap(&bench.ours);
    if left > 0 {
        complain(format!("{left} processes outlived it"));
    }
    let usual = i32::from(work.verb == "verify");
    if cost.code != Some(usual) {
        complain(format!("exit {:?}, where it is {usual} undisturbed: {}", cost.code, cost.text.trim()));
    }
    if cost.wall > PATIENCE {
        complain(format!("it took {:.1} s", cost.wall.as_secs_f64()));
    }
    let names = expected.0.keys().chain(now.0.keys()).collect::<std::collections::BTreeSet<_>>();
    for path in names.into_iter().filter(|path| expected.0.get(*path) != now.0.get(*path)) {
        let size = |all: &After| all.0.get(path).map_or("absent".to_owned(), |bytes| format!("{} bytes", bytes.len()));
        complain(format!("{} is {}, and undisturbed it is {}", path.display(), size(&now), size(expected)));
    }
    if work.verb == "verify" && now.1 != expected.1 {
        complain(format!("it says {:?}, and undisturbed {:?}", now.1, expected.1));
    }
    Ok((told.into_inner(), preload.counts()?))
}

/// What a run leaves: every file of the tree, and of `verify` its findings.
fn after(
    bench: &Bench<'_>,
    work: Writer,
    environment: Option<Vec<(&'static str, std::ffi::OsString)>>,
) -> Result<(crate::run::Cost, After)> {
    let arguments = work.arguments(bench)?;
    let mut command = Command::new(&arguments[0]);
    command.args(&arguments[1..]).env("XDG_CACHE_HOME", bench.room.join("cache")).env("TMPDIR", bench.room.join("tmp"));
    without_options(&mut command);
    let undisturbed = environment.is_none();
    command.envs(environment.into_iter().flatten());
    let cost = measure(vec![command])?;
    if undisturbed && cost.code != Some(i32::from(work.verb == "verify")) {
        bail!("undisturbed, {arguments:?} exits {:?}: {}", cost.code, cost.text.trim());
    }
    // the last line has the time that it took
    let mut findings: Vec<&str> = cost.text.lines().filter(|line| !line.starts_with("Verified ")).collect();
    findings.sort_unstable();
    let findings = findings.join("\n");
    let all = files(&bench.tree).into_iter().map(|path| Ok((path.clone(), std::fs::read(path)?))).collect::<Result<_>>()?;
    Ok((cost, (all, findings)))
}
