//! Writers with one fault each, to show that the programs find it: `stress standin BUG FROM TO` writes the artifacts of one tree into
//! another, as a cache manager would.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::whole::{files, is_artifact};

/// And whether its crash states must show it: the first has no fault.
pub(crate) const BUGS: [(&str, bool); 6] =
    [("whole", false), ("nofsync", true), ("nodirsync", true), ("inplace", true), ("unlinkfirst", true), ("unlinkrename", true)];

/// What they do wrong when a call fails; power cuts do not show it.
pub(crate) const CARELESS: [&str; 4] = ["ignerr", "ignfsync", "litter", "short"];

/// Several at once write into one temp file; alone it has no fault.
const SHARING: [&str; 1] = ["fixedtmp"];

/// Whether this process was started to be one; then it has done its work.
pub(crate) fn asked() -> Option<Result<()>> {
    let all: Vec<_> = std::env::args_os().skip(1).collect();
    match &all[..] {
        [first, bug, from, to] if first == "standin" => {
            Some(bug.to_str().context("no such fault").and_then(|bug| write_all(bug, Path::new(from), Path::new(to))))
        }
        _ => None,
    }
}

pub(crate) fn arguments(bug: &str, from: &Path, to: &Path) -> Result<Vec<std::ffi::OsString>> {
    Ok(vec![std::env::current_exe()?.into(), "standin".into(), bug.into(), from.into(), to.into()])
}

pub(crate) fn command(bug: &str, from: &Path, to: &Path) -> Result<Command> {
    let all = arguments(bug, from, to)?;
    let mut command = Command::new(&all[0]);
    command.args(&all[1..]);
    Ok(command)
}

fn write_all(bug: &str, from: &Path, to: &Path) -> Result<()> {
    if !BUGS.iter().any(|(known, _)| *known == bug) && !CARELESS.contains(&bug) && !SHARING.contains(&bug) {
        bail!("no stand-in is called {bug}");
    }
    let mut failed = Vec::new();
    for path in files(from).into_iter().filter(|path| is_artifact(path)) {
        let bytes = std::fs::read(&path)?;
        let artifact = to.join(path.strip_prefix(from)?);
        let dir = artifact.parent().context("no directory")?;
        if !dir.exists() {
            std::fs::create_dir_all(dir)?;
            flush_dir(bug, dir.parent().context("no directory")?)?;
        }
        let done = write(bug, &artifact, &bytes).and_then(|()| flush_dir(bug, dir));
        // what goes wrong with one is told, and the others are written
        if let Err(error) = done.with_context(|| artifact.display().to_string()) {
            failed.push(format!("{error:#}"));
        }
    }
    if !failed.is_empty() {
        bail!("{}", failed.join("\n"));
    }
    Ok(())
}

fn write(bug: &str, artifact: &Path, bytes: &[u8]) -> Result<()> {
    if bug == "inplace" {
        return fill(bug, artifact, bytes);
    }
    if bug == "unlinkfirst" && artifact.exists() {
        std::fs::remove_file(artifact)?;
    }
    // a name that the product knows as its own, so that its next run sweeps what a kill leaves
    let stem = artifact.file_stem().unwrap_or_default().to_string_lossy().replace(|c: char| !c.is_ascii_alphanumeric(), "");
    let own = if bug == "fixedtmp" { 0 } else { std::process::id() };
    let temp = artifact.with_file_name(format!(".bytekeep-{stem}x{own}.tmp"));
    let done = fill(bug, &temp, bytes).and_then(|()| {
        if bug == "unlinkrename" && artifact.exists() {
            std::fs::remove_file(artifact)?;
        }
        Ok(std::fs::rename(&temp, artifact)?)
    });
    if done.is_err() && bug != "litter" && temp.exists() {
        std::fs::remove_file(&temp)?;
    }
    done
}

fn fill(bug: &str, path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create(path)?;
    // What one call takes is all that there is for the one that ignores short writes.
    let written = match bug {
        "short" => file.write(bytes).map(drop),
        // in pieces, as through a small buffer, so that it shows how two mix
        "fixedtmp" => bytes.chunks(256).try_for_each(|piece| file.write_all(piece)),
        _ => file.write_all(bytes),
    };
    if bug != "ignerr" {
        written?;
    }
    if bug != "nofsync" {
        let flushed = file.sync_all();
        if bug != "ignfsync" {
            flushed?;
        }
    }
    Ok(())
}

fn flush_dir(bug: &str, dir: &Path) -> Result<()> {
    if bug != "nodirsync" {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}
