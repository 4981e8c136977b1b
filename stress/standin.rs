//! Writers with one fault each, to show that the programs find it: `stress standin BUG FROM TO` writes the artifacts of one tree into
//! another, as a cache manager would.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::whole::{files, is_artifact};

/// And whether its crash states must show it: the first has no fault.
pub(crate) const BUGS: [(&str, bool); 6] =
    [("whole", false), ("nofsync", true), ("nodirsync", true), ("inplace", true), ("unlinkfirst", true), ("unlinkrename", true)];

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
    if !BUGS.iter().any(|(known, _)| *known == bug) {
        bail!("no stand-in is called {bug}");
    }
    for path in files(from).into_iter().filter(|path| is_artifact(path)) {
        let bytes = std::fs::read(&path)?;
        let artifact = to.join(path.strip_prefix(from)?);
        let dir = artifact.parent().context("no directory")?;
        if !dir.exists() {
            std::fs::create_dir_all(dir)?;
            flush_dir(bug, dir.parent().context("no directory")?)?;
        }
        write(bug, &artifact, &bytes)?;
        flush_dir(bug, dir)?;
    }
    Ok(())
}

fn write(bug: &str, artifact: &Path, bytes: &[u8]) -> Result<()> {
    let temp: PathBuf = if bug == "inplace" { artifact.to_owned() } else { artifact.with_extension("tmp") };
    if bug == "unlinkfirst" && artifact.exists() {
        std::fs::remove_file(artifact)?;
    }
    let mut file = File::create(&temp)?;
    file.write_all(bytes)?;
    if bug != "nofsync" {
        file.sync_all()?;
    }
    drop(file);
    if bug == "unlinkrename" && artifact.exists() {
        std::fs::remove_file(artifact)?;
    }
    if bug != "inplace" {
        std::fs::rename(temp, artifact)?;
    }
    Ok(())
}

fn flush_dir(bug: &str, dir: &Path) -> Result<()> {
    if bug != "nodirsync" {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}
