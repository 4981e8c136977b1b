//! One store for several trees: what is in it is poisoned, and many runs fill it, use it, prune it and clean it away at one time. No artifact
//! may ever be another one than compiling without a store gives.

mod crowd;
pub(crate) mod ground;
pub(crate) mod judge;
pub(crate) mod poison;

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::mount::{self, Place, on_path};
use crate::run::{Random, Setting, Tally, interrupted, memory};
use crowd::Storm;
use ground::Ground;

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// of all storms together
    pub(crate) seconds: u64,
    pub(crate) processes: usize,
    pub(crate) case: Option<String>,
    /// few sources, and one storm
    pub(crate) quick: bool,
}

pub(crate) fn run(setting: &Setting, plan: &Plan, random: &mut Random, tally: &Tally) -> Result<()> {
    let wants = |name: &str| plan.case.as_deref().is_none_or(|case| case == name);
    let only = plan.case.as_deref().filter(|case| case.contains(':'));
    if wants("poison") || wants("exchange") || only.is_some() || !["storm", "xfs"].iter().any(|name| wants(name)) {
        let room = memory("stores").map_or_else(|| setting.room("stores"), Ok)?;
        let ground = Ground::lay_out(setting, room.path(), 2, 6)?;
        if wants("exchange") {
            poison::exchange(&ground, tally)?;
        }
        let other = plan.case.as_deref().filter(|case| *case != "poison");
        if other != Some("exchange") {
            let limit = (plan.quick && other.is_none()).then(|| Duration::from_secs(plan.seconds));
            poison::table(&ground, limit, other, random, tally)?;
        }
    }
    let xfs = if plan.quick { Err("it is left out shortly".to_owned()) } else { xfs_possible() };
    let both = wants("storm") && wants("xfs") && xfs.is_ok();
    if wants("storm") && !interrupted() {
        storm(setting, &setting.scratch, "storm", plan, both, tally)?;
    }
    if wants("xfs") && !interrupted() {
        match xfs {
            // artifacts are cloned there
            Ok(()) => {
                let place =
                    Place::made(&setting.scratch, &setting.scratch, 1 << 30, &["mkfs.xfs", "-q", "-m", "reflink=1"], "loop,nouuid")?;
                storm(setting, place.dir(), "xfs", plan, both, tally)?;
            }
            Err(why) => println!("SKIP stores on xfs: {why}"),
        }
    }
    Ok(())
}

fn storm(setting: &Setting, scratch: &Path, name: &str, plan: &Plan, both: bool, tally: &Tally) -> Result<()> {
    let here = Setting { scratch: scratch.to_owned(), ..setting.clone() };
    let seconds = if both { plan.seconds.div_ceil(2) } else { plan.seconds };
    let storm = Storm::gather(&here, name, plan.processes, seconds, tally)?;
    storm.blow()?;
    storm.calm()
}

pub(crate) fn xfs_possible() -> Result<(), String> {
    if !mount::possible() {
        return Err("not root, or nothing can be mounted".to_owned());
    }
    if on_path("mkfs.xfs") { Ok(()) } else { Err("there is no mkfs.xfs".to_owned()) }
}
