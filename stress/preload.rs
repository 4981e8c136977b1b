//! Builds `shim.rs` and gives commands the environment in which it cuts their reads and writes short.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

const SOURCE: &str = include_str!("shim.rs");

/// Where calls are cut short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "each program has its own")]
pub(crate) enum What {
    Pipes,
    Files,
    All,
}

/// How much is disturbed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Disturbance {
    pub(crate) what: What,
    pub(crate) seed: u64,
    /// Of a hundred calls.
    pub(crate) chance: u64,
    /// Of a hundred disturbed ones: they fail with EINTR.
    pub(crate) interrupts: u64,
}

/// What it did since it was asked before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) calls: u64,
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) interrupts: u64,
}

/// The library, built.
#[derive(Debug)]
pub(crate) struct Preload {
    library: PathBuf,
    counts: PathBuf,
}

/// What would stand in the way.
pub(crate) fn possible() -> Result<(), String> {
    if !cfg!(all(target_os = "linux", target_env = "gnu", any(target_arch = "x86_64", target_arch = "aarch64"))) {
        return Err("the library that is preloaded knows glibc on x86_64 and aarch64".to_owned());
    }
    if !cfg!(feature = "fault") {
        return Err("the product is built without the feature `fault`, and its calls do not go through the C library".to_owned());
    }
    match rustc().arg("--version").output() {
        Ok(out) if out.status.success() => Ok(()),
        _ => Err("there is no rustc to build the library with".to_owned()),
    }
}

fn rustc() -> Command {
    Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
}

impl Preload {
    pub(crate) fn build(room: &Path) -> Result<Self> {
        let (source, library, counts) = (room.join("shim.rs"), room.join("shim.so"), room.join("shim.counts"));
        std::fs::write(&source, SOURCE)?;
        std::fs::write(&counts, [0; 32])?;
        let mut command = rustc();
        command.args(["--edition", "2024", "--crate-type", "cdylib", "-C", "panic=abort", "-C", "opt-level=2", "-o"]);
        let out = command.arg(&library).arg(&source).output().context("rustc does not start")?;
        if !out.status.success() {
            bail!("rustc does not build {}: {}", source.display(), String::from_utf8_lossy(&out.stderr));
        }
        Ok(Self { library, counts })
    }

    /// The environment that a command must have. Those that clear theirs (the product for its workers) need a wrapper that sets it again.
    pub(crate) fn environment(&self, how: Disturbance) -> Vec<(&'static str, OsString)> {
        let what = match how.what {
            What::Pipes => "pipes",
            What::Files => "files",
            What::All => "all",
        };
        vec![
            ("LD_PRELOAD", self.library.clone().into()),
            ("SHIM_COUNT", self.counts.clone().into()),
            ("SHIM_WHAT", what.into()),
            ("SHIM_SEED", how.seed.to_string().into()),
            ("SHIM_CHANCE", how.chance.to_string().into()),
            ("SHIM_EINTR", how.interrupts.to_string().into()),
        ]
    }

    /// What all disturbed processes did since this was asked before. Ask when they have ended.
    pub(crate) fn counts(&self) -> Result<Counts> {
        let bytes = std::fs::read(&self.counts)?;
        // not truncated: a process that still has it mapped would die of that
        File::options().write(true).open(&self.counts)?.write_all(&[0; 32])?;
        let number = |at: usize| bytes.get(8 * at..8 * at + 8).and_then(|eight| eight.try_into().ok()).map_or(0, u64::from_ne_bytes);
        Ok(Counts { calls: number(0), reads: number(1), writes: number(2), interrupts: number(3) })
    }
}
