//! Root works on trees of another user who changes them meanwhile. Nothing outside the tree may change, nothing of root's may stay in it,
//! none of its code may run, and every run must end.

mod code;
mod corpus;
mod ground;
mod naive;
mod race;
mod stores;
mod user;

use anyhow::{Result, bail};

use crate::mount::on_path;
use crate::run::{Random, Setting, Tally, interrupted};
use crate::strace_log;
use ground::{Ground, Way};
pub(crate) use user::asked;

/// What is run, and how long.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// of all races together
    pub(crate) seconds: u64,
    pub(crate) case: Option<String>,
    /// a part of the cases
    pub(crate) quick: bool,
}

const CASES: [&str; 14] = [
    "standin:islink",
    "standin:lastpart",
    "standin:beneath",
    "corpus:direct",
    "corpus:ENOSYS",
    "corpus:EPERM",
    "code",
    "stores",
    "race:direct",
    "race:ENOSYS",
    "race:EPERM",
    "race:EAGAIN",
    "race:lock",
    "race:env",
];
const NOT_QUICK: [&str; 5] = ["corpus:ENOSYS", "corpus:EPERM", "race:EPERM", "race:EAGAIN", "race:lock"];

/// `corpus:PART`
fn part_of(case: &str) -> Option<&str> {
    let part = case.strip_prefix("corpus:")?;
    corpus::PARTS.contains(&part).then_some(case)
}

/// What would stand in the way of all of it.
pub(crate) fn possible() -> Result<(), String> {
    if !cfg!(target_os = "linux") {
        return Err("exchanging names is a call of Linux".to_owned());
    }
    if !rustix::process::geteuid().is_root() {
        return Err("not root, so no tree of another user can be made".to_owned());
    }
    if !on_path("mknod") || !on_path("chown") {
        return Err("there is no mknod or no chown".to_owned());
    }
    Ok(())
}

pub(crate) fn run(setting: &Setting, plan: &Plan, random: &mut Random, tally: &Tally) -> Result<()> {
    if let Err(why) = possible() {
        println!("SKIP hostile: {why}");
        return Ok(());
    }
    let cases: Vec<&str> = match &plan.case {
        Some(case) => CASES.into_iter().filter(|known| known == case).chain(part_of(case)).collect(),
        None => CASES.into_iter().filter(|case| !plan.quick || !NOT_QUICK.contains(case)).collect(),
    };
    if cases.is_empty() {
        bail!("no case is called {}; there are {}, and corpus:PART", plan.case.as_deref().unwrap_or_default(), CASES.join(" "));
    }
    let races = cases.iter().filter(|case| case.starts_with("race:")).count().max(1);
    #[allow(clippy::cast_precision_loss, reason = "a few seconds")]
    let each = plan.seconds as f64 / races as f64;
    for case in cases {
        if interrupted() {
            return Ok(());
        }
        let again = format!("hostile --seed {} --seconds {} --case {case}", setting.seed, plan.seconds);
        one(setting, plan, case, each, &again, random, tally)?;
    }
    Ok(())
}

fn one(setting: &Setting, plan: &Plan, case: &str, seconds: f64, again: &str, random: &mut Random, tally: &Tally) -> Result<()> {
    let (kind, which) = case.split_once(':').unwrap_or((case, ""));
    let way = match which {
        "ENOSYS" => Way::Refused("ENOSYS"),
        "EPERM" => Way::Refused("EPERM"),
        "EAGAIN" => Way::Refused("EAGAIN"),
        "lock" => Way::Slow,
        _ => Way::Direct,
    };
    if way != Way::Direct
        && let Err(why) = strace_log::possible()
    {
        println!("SKIP hostile {case}: {why}");
        return Ok(());
    }
    let Some(mut ground) = Ground::new(setting, "hostile")? else {
        println!("SKIP hostile {case}: another user reaches neither {} nor the directory for temporary files", setting.scratch.display());
        return Ok(());
    };
    match (kind, which) {
        ("corpus", _) => corpus::check_all(&mut ground, way, Some(which).filter(|_| part_of(case).is_some()), plan.quick, again, tally),
        ("stores", _) => stores::check_all(&ground, plan.quick, again, tally),
        ("code", _) => code::check_all(&mut ground, plan.quick, again, tally),
        ("standin", writer) => {
            let naive = naive::WRITERS.iter().any(|(name, naive)| *name == writer && *naive);
            let (inside, outside) = naive::compete(&ground, writer, naive, if plan.quick { 1.0 } else { 3.0 }, random)?;
            if inside == 0 || (outside > 0) != naive {
                tally.violation(&format!("{case}: {inside} written inside, {outside} outside"), again);
            }
            tally.checked(inside + outside);
            Ok(())
        }
        _ => {
            let (checked, found) = match way {
                _ if which == "env" => race::env_race(&mut ground, seconds, random)?,
                Way::Slow => race::lock_race(&mut ground, seconds, random)?,
                _ => race::race(&mut ground, way, seconds, random)?,
            };
            for fault in found {
                tally.violation(&format!("{case}: {fault}"), again);
            }
            tally.checked(checked);
            Ok(())
        }
    }
}
