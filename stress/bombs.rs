//! Crafted artifacts, large ones: what `verify` and `inspect` take of time and memory over them, by their size.
//!
//! `tests/crafted.rs` holds the memory over small ones against 64 MiB in every run of the tests; time is measured here, where the program
//! is built as it is shipped.

use std::process::Command;
use std::time::SystemTime;

use anyhow::Result;

use crate::crafted;
use crate::run::{Setting, Tally, interrupted, measure};

/// About so many bytes each, where there can be many.
const SIZE: usize = 8 << 20;
/// Of processor time for each MB, beside what it takes to start and what the clock's ticks of 10 ms hide.
const MOST_MS: u64 = 50;
const START_MS: u64 = 60;
/// Beside three times the file: itself, and what the walk keeps.
const MOST_KIB: u64 = 64 << 10;

pub(crate) fn run(setting: &Setting, tally: &Tally) -> Result<()> {
    let room = setting.room("bombs")?;
    let (mut slowest, mut largest) = ((0, String::new()), (0, String::new()));
    for bomb in crafted::bombs(SIZE) {
        let dir = room.path().join(bomb.name);
        std::fs::create_dir_all(dir.join("__pycache__"))?;
        // A source that it fits, or else nobody looks into it.
        std::fs::File::create(dir.join("m.py"))?.set_modified(SystemTime::UNIX_EPOCH)?;
        let path = dir.join("__pycache__/m.cpython-313.pyc");
        std::fs::write(&path, &bomb.bytes)?;
        let mb = u64::try_from(bomb.bytes.len().div_ceil(1_000_000))?;
        for words in [&["verify"][..], &["inspect"], &["inspect", "--code"], &["inspect", "--format", "json"], &["inspect", "--diff"]] {
            let mut command = Command::new(&setting.bin);
            command.args(words).arg(&path).env("HOME", room.path());
            if words.contains(&"--diff") {
                command.arg(&path);
            }
            let cost = measure(vec![command])?;
            let files = if words.contains(&"--diff") { 2 } else { 1 };
            let what = format!("{} of {}", words.join(" "), bomb.name);
            let ms = u64::try_from(cost.cpu.as_millis())?;
            let bound = MOST_KIB + 3 * files * u64::try_from(bomb.bytes.len())? / 1024;
            let again = format!("fuzz --case bombs --seed {}", setting.seed);
            if !matches!(cost.code, Some(0 | 1)) {
                tally.violation(
                    &format!("bombs: {what}: ended with {:?}: {}", cost.code, cost.text.lines().next().unwrap_or_default()),
                    &again,
                );
            }
            if cost.peak_kib > bound {
                tally.violation(&format!("bombs: {what}: {} MiB over {mb} MB", cost.peak_kib >> 10), &again);
            }
            if ms > START_MS + MOST_MS * files * mb {
                tally.violation(&format!("bombs: {what}: {ms} ms over {mb} MB"), &again);
            }
            slowest = slowest.max((ms / (files * mb), what.clone()));
            largest = largest.max((cost.peak_kib >> 10, what));
            tally.checked(1);
            if interrupted() {
                return Ok(());
            }
        }
    }
    println!(
        "bombs of {} MB: slowest {} ms for each MB ({}), largest {} MiB ({})",
        SIZE / 1_000_000,
        slowest.0,
        slowest.1,
        largest.0,
        largest.1
    );
    Ok(())
}
