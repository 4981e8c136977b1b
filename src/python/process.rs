//! How an interpreter is started, for a probe or as a worker: the same flags and the same environment.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Once;

use tempfile::TempDir;

use super::interpreter::writable_by_others;
use crate::base::children::{ChildLimits, tie_to_this_thread};
use crate::base::seam::without;
use crate::base::sys::{self, Dir, Name, Stat, Time};
use crate::base::{self, leftover};
use crate::ignored;

/// How the names of [`empty_dir`]s begin.
pub(super) const EMPTY_DIR: &str = ".bytekeep-";

/// A directory that goes with this.
#[derive(Debug)]
pub(super) struct EmptyDir(Option<TempDir>);

impl EmptyDir {
    pub(super) fn path(&self) -> &Path {
        self.0.as_ref().map_or(Path::new("/"), TempDir::path)
    }
}

impl Drop for EmptyDir {
    /// By one call: `TempDir` would look into it first, and std panics where closing it then fails. That is left for the interpreter that
    /// put something in it.
    fn drop(&mut self) {
        let Some(dir) = self.0.take() else { return };
        let (above, name) = (dir.path().parent(), dir.path().file_name().and_then(Name::new));
        if let (Some(above), Some(name)) = (above, name)
            && Dir::open_root(above).and_then(|above| above.rmdir(&name)).is_ok_and(|removed| removed)
        {
            drop(dir.keep());
        }
    }
}

/// An empty directory that only this user can enter: some versions import from the working directory before our first statement runs.
pub(super) fn empty_dir() -> std::io::Result<EmptyDir> {
    let first = std::env::temp_dir();
    let cause = match empty_dir_in(&first) {
        Ok(dir) => return Ok(dir),
        Err(cause) => cause,
    };
    // As Python's `tempfile` goes on, but not to the working directory: whoever owns that could put another in the place of ours.
    for other in ["/tmp", "/var/tmp"].map(Path::new).into_iter().filter(|other| *other != first) {
        if let Ok(dir) = empty_dir_in(other) {
            TOLD.call_once(|| tracing::debug!(%cause, instead = %other.display(), "TMPDIR cannot be used"));
            return Ok(dir);
        }
    }
    let text = format!("no empty directory to start interpreters in: {cause}; is TMPDIR writable?");
    Err(std::io::Error::new(cause.kind(), text))
}

fn empty_dir_in(above: &Path) -> std::io::Result<EmptyDir> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(0o700);
    let made = tempfile::Builder::new().prefix(EMPTY_DIR).permissions(mode).tempdir_in(above)?;
    SWEPT.call_once(|| ignored!(sweep(above, Time::now()), "what dead processes left of such directories stays"));
    Ok(EmptyDir(Some(made)))
}

static TOLD: Once = Once::new();

static SWEPT: Once = Once::new();

/// Removes what killed processes left: old, empty, and only this user's. By age, since a lock would cost each interpreter a descriptor; one
/// that lives so long and loses its directory does not look for it any more.
fn sweep(above: &Path, now: Time) -> base::Result<()> {
    let above = Dir::open_root(above)?;
    for name in above.list()?.dirs.iter().filter(|name| name.as_bytes().starts_with(EMPTY_DIR.as_bytes())) {
        let dead = |stat: Stat| stat.uid == sys::effective_user() && stat.mode == 0o700 && leftover::is_old(&stat, now);
        // Others make and remove theirs meanwhile; and one that is not empty is somebody else's and stays.
        if above.stat_of(name).is_ok_and(dead) {
            ignored!(above.rmdir(name), "somebody else removed it");
        }
    }
    Ok(())
}

/// A command that runs `program` in `executable` and knows nothing of the caller's settings. Standard streams are pipes.
///
/// The environment is empty but for what the interpreter needs to start at all: `PATH` for wrappers that are scripts, the search path
/// for a shared libpython, and `PYTHONHOME` where asked. The hash seed is fixed, since before 3.11 it decides the order of frozen sets;
/// `-I` and `-E` would make the interpreter ignore it.
pub(super) fn command(executable: &Path, flags: &[&str], program: &str, cwd: &Path, keep_home: bool, limits: ChildLimits) -> Command {
    let mut command = Command::new(executable);
    if !without("isolation") {
        command.args(["-S", "-s"]).args(flags).current_dir(cwd).env_clear();
    }
    command.args(["-B", "-c", program]);
    for name in ["PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"] {
        keep(&mut command, name);
    }
    if keep_home && !is_loose_home() {
        keep(&mut command, "PYTHONHOME");
    }
    command.env("PYTHONHASHSEED", "0").env("LC_ALL", "C.UTF-8");
    // glibc gives memory back and asks for it again around every source otherwise: 3 % of a worker's time. Other C libraries ignore these.
    for (name, bytes) in [("MALLOC_TRIM_THRESHOLD_", "268435456"), ("MALLOC_MMAP_THRESHOLD_", "33554432"), ("MALLOC_TOP_PAD_", "16777216")]
    {
        command.env(name, bytes);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A group of its own: a wrapper and what it starts die together, and Ctrl-C on the terminal is for us to handle.
    command.process_group(0);
    tie_to_this_thread(&mut command, limits);
    command
}

/// A command that runs an interpreter as its user does: with their environment, in their directory. What it prints is read, and no more.
pub(super) fn command_of_user(executable: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(executable);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
    tie_to_this_thread(&mut command, ChildLimits { address_space: None });
    command
}

/// Root takes no library from where others can write, as it takes no interpreter from there.
fn is_loose_home() -> bool {
    let homes = std::env::var_os("PYTHONHOME").filter(|_| sys::effective_user() == 0 && !without("isolation"));
    let loose = homes.iter().flat_map(std::env::split_paths).find_map(|home| writable_by_others(&home));
    if let Some(place) = &loose {
        tracing::debug!(place = %place.display(), "PYTHONHOME is left out, since others can write there");
    }
    loose.is_some()
}

fn keep(command: &mut Command, name: &str) {
    if let Some(value) = std::env::var_os(name).filter(|value| value.as_os_str() != OsStr::new("")) {
        command.env(name, value);
    }
}

/// The last line of what an interpreter wrote to standard error, for a message.
pub(super) fn last_line(text: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    Some(line.chars().take(300).collect())
}

/// How a child ended, for a message. `None`: it still runs after a moment's patience, or was reaped.
pub(super) fn ending(pid: u32, patience: std::time::Duration) -> Option<String> {
    let until = std::time::Instant::now() + patience;
    loop {
        match crate::base::children::ended(pid) {
            Ok(Some(Ok(code))) => return Some(format!("exit status {code}")),
            Ok(Some(Err(signal))) => return Some(format!("signal {signal}")),
            Ok(None) if std::time::Instant::now() < until => std::thread::sleep(std::time::Duration::from_millis(2)),
            Ok(None) => return None,
            Err(cause) => {
                tracing::debug!(%cause, "how a child ended is not known");
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{DirBuilderExt, symlink};

    use super::*;

    #[test]
    fn only_what_is_surely_dead_is_swept() {
        let top = tempfile::tempdir().unwrap();
        let make = |name: &str, mode: u32| std::fs::DirBuilder::new().mode(mode).create(top.path().join(name)).unwrap();
        make(".bytekeep-dead", 0o700);
        make(".bytekeep-open", 0o755);
        make(".bytekeep-full", 0o700);
        make(".bytekeep-full/within", 0o700);
        make("other", 0o700);
        symlink("other", top.path().join(".bytekeep-link")).unwrap();
        let names = || {
            let mut names: Vec<_> = top.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        let all = names();
        sweep(top.path(), Time::now()).unwrap();
        assert_eq!(names(), all, "a living process may have made them just now");
        sweep(top.path(), Time::now().minus_seconds(-7200)).unwrap();
        assert_eq!(names(), [".bytekeep-full", ".bytekeep-link", ".bytekeep-open", "other"]);
    }
}
