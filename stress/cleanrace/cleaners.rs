//! Cleaners with one fault each, to show that `cleanrace` finds it: `stress cleaner BUG TAG PLACE` removes the artifacts of one tag below a
//! directory, as a cache manager would.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// And what must find it out: the first has no fault.
pub(crate) const BUGS: [(&str, &str); 5] = [("whole", ""), ("rm-all", "foreign"), ("litter", "rmdir"), ("half", "walk"), ("shut", "told")];

/// Whether this process was started to be one; then it has done its work.
pub(crate) fn asked() -> Option<Result<()>> {
    let all: Vec<_> = std::env::args_os().skip(1).collect();
    match &all[..] {
        [first, bug, tag, place] if first == "cleaner" => {
            Some(bug.to_str().zip(tag.to_str()).context("no such fault").and_then(|(bug, tag)| clean_all(bug, tag, Path::new(place))))
        }
        _ => None,
    }
}

pub(crate) fn command(bug: &str, tag: &str, place: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap_or_default());
    command.args(["cleaner", bug, tag]).arg(place);
    command
}

fn clean_all(bug: &str, tag: &str, place: &Path) -> Result<()> {
    if !BUGS.iter().any(|(known, _)| *known == bug) {
        bail!("no stand-in is called {bug}");
    }
    let suffix = format!(".{tag}.pyc");
    let all: Vec<_> = walkdir::WalkDir::new(place).contents_first(true).into_iter().flatten().collect();
    let mut failed = Vec::new();
    for dir in all.iter().filter(|entry| entry.file_type().is_dir()).map(walkdir::DirEntry::path) {
        // a second suffix would be another tool's, and `sub` in a cache is nobody's we know
        let in_cache = |path: &Path| path.components().filter(|part| part.as_os_str() == "__pycache__").count();
        let is_ours = |path: &Path| bug == "rm-all" || path.to_string_lossy().ends_with(&suffix);
        let here =
            all.iter().filter(|entry| entry.file_type().is_file() && entry.path().parent() == Some(dir)).map(walkdir::DirEntry::path);
        let ours: Vec<&Path> = here.filter(|path| is_ours(path) && path.extension() != Some("py".as_ref())).collect();
        if ours.is_empty() || (in_cache(dir) > 0 && !dir.ends_with("__pycache__")) {
            continue;
        }
        let lock = dir.join(".bytekeep.lock");
        let done = std::fs::write(&lock, "").map_err(|error| cannot("lock", &lock, &error)).and_then(|()| empty(bug, &ours));
        if let Err(why) = done {
            failed.push(why);
        }
        let unlocked = if bug == "litter" { Ok(()) } else { std::fs::remove_file(&lock) };
        for (path, gone) in [(lock.as_path(), unlocked), (dir, std::fs::remove_dir(dir))] {
            if let Err(error) = gone {
                tell(bug, &cannot("remove", path, &error));
            }
        }
    }
    for why in &failed {
        tell(bug, why);
    }
    if !failed.is_empty() && bug != "shut" {
        bail!("{} files stay", failed.len());
    }
    Ok(())
}

fn empty(bug: &str, ours: &[&Path]) -> Result<(), String> {
    let mut failed = Vec::new();
    for path in ours {
        if bug == "half" {
            let cut = std::fs::File::options().write(true).open(path).and_then(|file| file.set_len(50));
            cut.map_err(|error| cannot("cut", path, &error))?;
            std::thread::sleep(Duration::from_millis(3));
        }
        if let Err(error) = std::fs::remove_file(path) {
            failed.push(cannot("remove", path, &error));
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.concat()) }
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> String {
    format!("cannot {what} `{}`: {error}\n", path.display())
}

fn tell(bug: &str, why: &str) {
    if bug != "shut" {
        eprint!("{why}");
    }
}
