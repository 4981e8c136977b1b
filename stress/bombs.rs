//! Crafted artifacts, large ones: what `verify` and `inspect` take of time and memory over them, by their size.
//!
//! `tests/crafted.rs` holds the memory over small ones against 64 MiB in every run of the tests; time is measured here, where the program
//! is built as it is shipped.

use std::process::Command;
use std::time::SystemTime;

use anyhow::Result;

use crate::crafted;
use crate::run::{Setting, Tally, interrupted, measure};

/// About so many bytes each, where there can be many; fewer in a short run.
const SIZE: usize = 8 << 20;
const SMALL: usize = 1 << 20;
/// Of processor time for each MB, beside what it takes to start and what the clock's ticks of 10 ms hide.
const MOST_MS: u64 = 50;
const START_MS: u64 = 60;
/// With the program and the file.
const MOST_KIB: u64 = 64 << 10;

pub(crate) fn run(setting: &Setting, shortly: bool, tally: &Tally) -> Result<()> {
    let room = setting.room("bombs")?;
    let (mut slowest, mut largest) = ((0, String::new()), (0, String::new()));
    let size = if shortly { SMALL } else { SIZE };
    for bomb in crafted::bombs(size) {
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
            let again = format!("fuzz --case bombs --seed {}", setting.seed);
            if !matches!(cost.code, Some(0 | 1)) {
                tally.violation(
                    &format!("bombs: {what}: ended with {:?}: {}", cost.code, cost.text.lines().next().unwrap_or_default()),
                    &again,
                );
            }
            if cost.peak_kib > MOST_KIB {
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
        size / 1_000_000,
        slowest.0,
        slowest.1,
        largest.0,
        largest.1
    );
    Ok(())
}
