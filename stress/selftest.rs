//! The proof that the programs can fail: the product with one safeguard left out must be found by the program whose affair that is, and
//! with all of them it must pass the same case.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run::{Setting, Tally, interrupted};
use crate::strace_log;

/// A safeguard as the product's fault seam calls it, and the run that must miss it.
const PROOFS: &[(&str, &[&str])] = &[
    ("file-flush", &["crashstates", "--case", "batch:fresh", "--sources", "10"]),
    ("directory-flush", &["crashstates", "--case", "batch:stale", "--sources", "10"]),
    ("name-flush", &["crashstates", "--case", "full:fresh", "--sources", "10"]),
    ("flush-before-rename", &["crashstates", "--case", "batch:stale", "--sources", "10"]),
    ("rename", &["crashstates", "--case", "batch:stale", "--sources", "10"]),
    ("rename", &["storm", "--case", "product", "--seconds", "4", "--processes", "4"]),
    ("proof", &["bitrot", "--seconds", "1"]),
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
    ("frame-checksum", &["workers", "--case", "flips:150:once"]),
    ("request-id", &["workers", "--case", "swaps:2:once"]),
    ("whole-frames", &["workers", "--case", "pauses:150:always"]),
    ("retry-from-start", &["workers", "--case", "exit1:450:once"]),
    ("only-ours", &["cleanrace", "--case", "foreign"]),
    ("unlock-removes", &["cleanrace", "--case", "rmdir"]),
    ("gone-directory", &["cleanrace", "--case", "aside"]),
    ("told-errors", &["cleanrace", "--case", "told:clean:unlinkat:EPERM:12"]),
    ("nofollow", &["hostile", "--case", "race:direct", "--seconds", "3"]),
    ("owner", &["hostile", "--case", "corpus:kinds"]),
    ("foreign-links", &["hostile", "--case", "corpus:kinds"]),
    ("private-sources", &["hostile", "--case", "corpus:kinds"]),
    ("hard-links", &["hostile", "--case", "corpus:kinds"]),
    ("names-again", &["hostile", "--case", "race:lock", "--seconds", "8"]),
    ("isolation", &["hostile", "--case", "code", "--quick"]),
    ("turns", &["hostile", "--case", "corpus:sparse"]),
    ("depth", &["hostile", "--case", "corpus:aside"]),
];

/// What would stand in the way.
pub(crate) fn possible() -> Result<(), String> {
    if !cfg!(feature = "fault") {
        return Err("the product is built without the feature `fault`".to_owned());
    }
    strace_log::possible()
}

pub(crate) fn run(setting: &Setting, tally: &Tally) -> Result<()> {
    if !cfg!(feature = "fault") {
        bail!("selftest: the product is built without the feature `fault`: cargo test --features fault --test stress -- selftest");
    }
    if let Err(why) = possible() {
        println!("SKIP selftest: {why}");
        return Ok(());
    }
    // What a finding leaves to be looked at is not wanted here.
    let scratch = setting.room("selftest")?;
    for (safeguard, arguments) in PROOFS {
        for (without, finds) in [("", false), (*safeguard, true)] {
            if interrupted() {
                return Ok(());
            }
            let out = Command::new(std::env::current_exe()?)
                .args(*arguments)
                .args(["--seed", &setting.seed.to_string()])
                .arg("--bin")
                .arg(&setting.bin)
                .arg("--python")
                .arg(&setting.python.path)
                .arg("--scratch")
                .arg(scratch.path())
                .env("BYTEKEEP_WITHOUT", without)
                .output()?;
            let said = String::from_utf8_lossy(&out.stdout);
            let last = said.trim().lines().last().context("a program says nothing")?;
            let what =
                if without.is_empty() { format!("{} with all", arguments[0]) } else { format!("{} without {without}", arguments[0]) };
            if last.starts_with("0 checked") && out.status.success() {
                let why = said.lines().find(|line| line.starts_with("SKIP ")).unwrap_or("it checks nothing");
                println!("SKIP selftest of {what}: {why}");
                continue;
            }
            println!("selftest: {what:40} {last}");
            tally.checked(1);
            match (out.status.code(), finds) {
                (Some(0), false) | (Some(1), true) if last.contains(" checked, ") => {}
                (Some(0 | 1), _) => {
                    tally.violation(
                        &format!("{what}: {last}"),
                        &format!("selftest, which ran {arguments:?} with BYTEKEEP_WITHOUT={without}"),
                    );
                }
                (code, _) => bail!("{what}: {code:?}: {said}{}", String::from_utf8_lossy(&out.stderr)),
            }
        }
    }
    Ok(())
}
