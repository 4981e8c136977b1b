//! Many `clean` and `compile` against each other and against installers that remove `__pycache__` whole, rename it aside or end with
//! `rmdir`, and against walkers that copy the tree. Before the race, what needs no luck: see `cases` and `told`;
//! the race itself is in `crowd`.

pub(crate) mod cases;
pub(crate) mod cleaners;
pub(crate) mod crowd;
pub(crate) mod told;
pub(crate) mod tree;

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::cleanrace::cleaners::BUGS;
use crate::cleanrace::crowd::race;
use crate::cleanrace::told::Told;
use crate::cleanrace::tree::Yard;
use crate::run::{Random, Setting, Tally, interrupted};

/// The cases that need no luck, in the order in which they are run.
const CASES: [&str; 6] = ["foreign", "rmdir", "walk", "prefix", "aside", "told"];

pub(crate) fn run(setting: &Setting, seconds: Option<u64>, only: Option<&str>, random: &mut Random, tally: &Tally) -> Result<()> {
    let (start, seconds) = (Instant::now(), Duration::from_secs(seconds.unwrap_or(60)));
    let wanted = |name: &str| only.is_none_or(|only| only.split(':').next() == Some(name));
    if let Some(only) = only.filter(|only| !CASES.into_iter().chain(["standins", "race"]).any(|name| only.split(':').next() == Some(name)))
    {
        bail!("no case is called {only}: {} standins race", CASES.join(" "));
    }
    for name in CASES.into_iter().filter(|name| wanted(name)) {
        let again = |what: &str| {
            let case = what.split(": ").next().filter(|case| case.starts_with("told:")).unwrap_or(name);
            tally.violation(&format!("cleanrace: {name}: {what}"), &format!("cleanrace --seed {} --case {case}", setting.seed));
        };
        let detail = only.and_then(|only| only.split_once(':')).map(|(_, detail)| detail);
        // A tenth of the time: the race wants the most.
        let limit = if only.is_some() { seconds } else { seconds / 10 };
        let checked = case(setting, name, None, detail, limit, random, &|what| again(&what))?;
        println!("cleanrace: {name}: {checked} checked, {:.1} s", start.elapsed().as_secs_f64());
        tally.checked(checked);
    }
    if wanted("standins") {
        prove(setting, random, tally)?;
    }
    if wanted("race") && !interrupted() {
        // However slow the machine, some of it is a race.
        race(setting, seconds.saturating_sub(start.elapsed()).max(Duration::from_secs(3)), tally)?;
    }
    Ok(())
}

fn case(
    setting: &Setting,
    name: &str,
    cleaner: Option<&'static str>,
    detail: Option<&str>,
    limit: Duration,
    random: &mut Random,
    complain: &dyn Fn(String),
) -> Result<u64> {
    let room = setting.room("cleanrace")?;
    let yard = Yard::lay_out(setting, room.path(), cleaner)?;
    match name {
        "foreign" => cases::foreign(&yard, complain),
        "rmdir" => cases::rmdir(&yard, complain),
        "walk" => cases::walk(&yard, complain),
        "prefix" => cases::prefix(&yard, complain),
        "aside" => cases::aside(&yard, complain),
        _ => {
            if let Err(why) = crate::strace_log::possible() {
                println!("SKIP cleanrace told: {why}");
                return Ok(0);
            }
            Told::lay_out(&yard)?.run(limit, detail, random, complain)
        }
    }
}

/// Cleaners with a fault must be found out by the case whose affair that is, and one without must pass all of them.
fn prove(setting: &Setting, random: &mut Random, tally: &Tally) -> Result<()> {
    for (bug, must) in BUGS {
        let traced = crate::strace_log::possible().is_ok();
        let cases = ["foreign", "rmdir", "walk", "told"]
            .into_iter()
            .filter(|name| (must.is_empty() || *name == must) && (traced || *name != "told"));
        for name in cases {
            let found = Cell::new(0_u32);
            let complain = |what: String| {
                found.set(found.get() + 1);
                if must.is_empty() {
                    tally.violation(&format!("the stand-in without a fault, {name}: {what}"), "cleanrace --case standins");
                }
            };
            tally.checked(case(setting, name, Some(bug), None, Duration::from_secs(1), random, &complain)?);
            println!(
                "cleanrace: stand-in {bug}, {name}: {} violations{}",
                found.get(),
                if must.is_empty() { "" } else { " (must find something)" }
            );
            if !must.is_empty() && found.get() == 0 {
                tally.violation(&format!("the stand-in {bug} passes {name}: then the others show nothing"), "cleanrace --case standins");
            }
        }
    }
    Ok(())
}
