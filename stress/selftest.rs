//! The proof that the programs can fail: the product with one safeguard left out must be found by the program whose affair that is, and
//! with all of them it must pass the same case.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::run::{Setting, Tally, interrupted};
use crate::strace_log;

/// A safeguard as the product's fault seam calls it, and the run that must miss it.
const PROOFS: &[(&str, &[&str])] = &[
    ("file-flush", &["crashstates", "--case", "batch:fresh", "--sources", "10"]),
    ("directory-flush", &["crashstates", "--case", "batch:stale", "--sources", "10"]),
    ("name-flush", &["crashstates", "--case", "full:fresh", "--sources", "10"]),
    ("flush-before-rename", &["crashstates", "--case", "batch:stale", "--sources", "10"]),
    ("rename", &["crashstates", "--case", "batch:stale", "--sources", "10"]),
    ("proof", &["bitrot", "--seconds", "1"]),
    ("references", &["mutations", "--case", ":bit", "--seconds", "4"]),
    ("flush-errors", &["faults", "--case", "fresh:fsync:EIO:1"]),
    ("write-errors", &["places", "--case", "tmpfs:stale:batch:0"]),
    ("sigxfsz", &["places", "--case", "fsize:stale:batch:0"]),
    ("whole-writes", &["shortio", "--seconds", "2"]),
    ("whole-reads", &["shortio", "--seconds", "2"]),
    ("sweeping", &["kill", "--seconds", "6"]),
    ("inode-comparison", &["locks", "--case", "product:flock:delay_enter"]),
    ("remove-while-held", &["locks", "--case", "product:unlinkat:delay_enter"]),
    ("lock-mode", &["locks", "--case", "stranger", "--seconds", "1"]),
    ("second-look", &["locks", "--case", "once", "--seconds", "1"]),
    ("claims", &["claims", "--case", "once", "--seconds", "1"]),
    ("claim-recheck", &["claims", "--case", "late", "--seconds", "1"]),
    ("proof", &["stores", "--case", "copy:value:flip"]),
    ("proof", &["stores", "--case", "hardlink:value:flip"]),
    ("value-key", &["stores", "--case", "copy:value:other"]),
    ("link-fit", &["stores", "--case", "hardlink:value:other"]),
    ("file-flush", &["crashstates", "--case", "store:batch:hardlink", "--sources", "6"]),
    ("flushed-links", &["crashstates", "--case", "store:none+batch:hardlink", "--sources", "6"]),
    ("trust", &["hostile", "--case", "stores"]),
    ("frame-checksum", &["workers", "--case", "flips:150:once"]),
    ("request-id", &["workers", "--case", "swaps:2:once"]),
    ("whole-frames", &["workers", "--case", "pauses:150:always"]),
    ("retry-from-start", &["workers", "--case", "exit1:450:once"]),
    ("only-ours", &["cleanrace", "--case", "foreign"]),
    ("unlock-removes", &["cleanrace", "--case", "rmdir"]),
    ("gone-directory", &["cleanrace", "--case", "aside"]),
    ("told-errors", &["cleanrace", "--case", "told:clean:unlinkat:EPERM:12"]),
    ("nofollow", &["hostile", "--case", "race:direct", "--seconds", "3"]),
    ("nofollow", &["hostile", "--case", "race:env", "--seconds", "3"]),
    ("owner", &["hostile", "--case", "corpus:kinds"]),
    ("foreign-links", &["hostile", "--case", "corpus:kinds"]),
    ("private-sources", &["hostile", "--case", "corpus:kinds"]),
    ("hard-links", &["hostile", "--case", "corpus:kinds"]),
    ("isolation", &["hostile", "--case", "code", "--quick"]),
    ("turns", &["hostile", "--case", "corpus:sparse"]),
    ("depth", &["hostile", "--case", "corpus:aside"]),
];

/// On a machine that is busy with other things a run of some seconds may miss what it finds else.
const AGAIN: u64 = 3;

/// What shows in a race alone, so that each may be tried some times; left out shortly.
const RACES: &[(&str, &[&str])] = &[
    ("rename", &["storm", "--case", "product", "--seconds", "6", "--processes", "8"]),
    ("link-inode", &["stores", "--case", "exchange"]),
    ("names-again", &["hostile", "--case", "race:lock", "--seconds", "10"]),
];
const TRIES: u64 = 8;

/// What would stand in the way.
pub(crate) fn possible() -> Result<(), String> {
    if !cfg!(feature = "fault") {
        return Err("the product is built without the feature `fault`".to_owned());
    }
    strace_log::possible()
}

pub(crate) fn run(setting: &Setting, quick: bool, tally: &Tally) -> Result<()> {
    if !cfg!(feature = "fault") {
        bail!("selftest: the product is built without the feature `fault`: cargo test --features fault --test stress -- selftest");
    }
    if let Err(why) = possible() {
        println!("SKIP selftest: {why}");
        return Ok(());
    }
    // What a finding leaves to be looked at is not wanted here.
    let scratch = setting.room("selftest")?;
    let mut passed = HashSet::new();
    let rows = PROOFS.iter().map(|row| (row, AGAIN)).chain(RACES.iter().filter(|_| !quick).map(|row| (row, TRIES)));
    for ((safeguard, arguments), tries) in rows {
        // several rows may want the same case
        if passed.insert(*arguments) {
            let whole = one(setting, scratch.path(), "", arguments, 0)?;
            told(&whole, "", arguments, !whole.finds, tally);
        }
        let mut missed = one(setting, scratch.path(), safeguard, arguments, 0)?;
        for again in 1..tries {
            if missed.finds || interrupted() {
                break;
            }
            missed = one(setting, scratch.path(), safeguard, arguments, again)?;
        }
        if interrupted() {
            return Ok(());
        }
        told(&missed, safeguard, arguments, missed.finds, tally);
    }
    if quick {
        println!("SKIP selftest of {} that show in a race alone: without --quick they are tried", RACES.len());
    }
    Ok(())
}

/// How a program ended.
struct Ended {
    finds: bool,
    last: String,
    /// Why it checked nothing, where it did not.
    skipped: Option<String>,
}

fn one(setting: &Setting, scratch: &Path, without: &str, arguments: &[&str], again: u64) -> Result<Ended> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments).args(["--seed", &(setting.seed + again).to_string()]).arg("--bin").arg(&setting.bin);
    command.arg("--python").arg(&setting.python.path).arg("--scratch").arg(scratch).env("BYTEKEEP_WITHOUT", without);
    let out = command.output()?;
    let said = String::from_utf8_lossy(&out.stdout);
    let last = said.trim().lines().last().unwrap_or_default().to_owned();
    match out.status.code() {
        Some(code @ (0 | 1)) if last.contains(" checked, ") => {
            let why = said.lines().find(|line| line.starts_with("SKIP ")).unwrap_or("it checks nothing");
            let skipped = last.starts_with("0 checked, 0 ").then(|| why.to_owned());
            Ok(Ended { finds: code == 1, last, skipped })
        }
        code => bail!("{arguments:?} without `{without}`: {code:?}: {said}{}", String::from_utf8_lossy(&out.stderr)),
    }
}

fn told(ended: &Ended, without: &str, arguments: &[&str], as_wanted: bool, tally: &Tally) {
    let what = if without.is_empty() { "all".to_owned() } else { format!("all but {without}") };
    let what = format!("{} with {what}", arguments[0]);
    if let Some(why) = &ended.skipped {
        println!("SKIP selftest of {what}: {why}");
        return;
    }
    println!("selftest: {what:44} {}", ended.last);
    tally.checked(1);
    if !as_wanted {
        let ran = format!("selftest, which ran {arguments:?} with BYTEKEEP_WITHOUT={without}");
        tally.violation(&format!("{what}: {}", ended.last), &ran);
    }
}
