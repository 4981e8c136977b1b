//! The parts of `cleanrace` that need no luck: one command after the other, and what stands after it; a directory moved away between the
//! writing of an artifact and its rename; a prefix that is made, walked and cleaned.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cleanrace::tree::{CACHE, DEB, Yard};
use crate::run::interrupted;
use crate::whole::{files, is_artifact, leftovers};

type Complain<'c> = &'c dyn Fn(String);

/// Exit code, and all that was said.
pub(crate) fn perform(command: &mut Command) -> Result<(Option<i32>, String)> {
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("{} does not start", command.get_program().display()))?;
    if interrupted() {
        bail!("interrupted");
    }
    Ok((out.status.code(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned()))
}

fn must(command: &mut Command, complain: Complain<'_>) -> Result<()> {
    let (code, said) = perform(command)?;
    if code != Some(0) {
        complain(format!("{command:?} exits {code:?}: {}", said.trim().replace('\n', " | ")));
    }
    Ok(())
}

/// Every way to remove something, one after the other: what is not ours stays as it was.
pub(crate) fn foreign(yard: &Yard<'_>, complain: Complain<'_>) -> Result<u64> {
    let other = ["cpython-399"];
    let ways: &[&[&str]] = &[
        &["clean", "--orphans"],
        &["clean", "--leftovers"],
        &["clean", "--keep-tags", other[0]],
        &["clean", "--tag", &yard.tag],
        &["clean", "--sealed"],
        &["clean", "--older-than", "0"],
        &["repair"],
        &["seal"],
        &["compile", "--force", "--adopt"],
        &["clean", "--orphans", "--leftovers", "--keep-tags", &yard.tag],
    ];
    let mut checked = 0;
    if yard.cleaner.is_none() {
        for words in ways {
            let mut command = yard.ours(words);
            must(command.arg(&yard.tree), complain)?;
            checked += yard.check_theirs(&|what| complain(format!("{}: {what}", words.join(" "))));
            must(&mut yard.compile(), complain)?;
        }
    }
    must(&mut yard.clean(&yard.tree), complain)?;
    checked += yard.check_theirs(&|what| complain(format!("clean: {what}")));
    yard.check_cleaned(complain);
    Ok(checked)
}

/// After any run a directory of ours alone can be emptied by name and removed, as py3clean and pip end. Also after one that wrote nothing,
/// and after a killed one and the next.
pub(crate) fn rmdir(yard: &Yard<'_>, complain: Complain<'_>) -> Result<u64> {
    let mut checked = 0;
    let mut quiet = |after: &str| -> Result<()> {
        for path in leftovers(&yard.tree) {
            complain(format!("after {after} {} is there", path.display()));
        }
        for package in DEB {
            if let Some(why) = yard.py3clean(package)? {
                complain(format!("after {after} {why}"));
            }
            checked += 1;
        }
        Ok(())
    };
    must(&mut yard.clean(&yard.tree), complain)?;
    quiet("clean")?;
    if yard.cleaner.is_some() {
        return Ok(checked);
    }
    must(&mut yard.compile(), complain)?;
    quiet("compile")?;
    let bad: Vec<PathBuf> = DEB.iter().map(|package| yard.tree.join(package).join("bad.py")).collect();
    for (package, path) in DEB.iter().zip(&bad) {
        std::fs::write(path, "def f(:\n")?;
        let mut command = yard.ours(&["compile"]);
        let (code, said) = perform(command.arg(path))?;
        if code != Some(1) {
            complain(format!("compile of a source with an error exits {code:?}: {said}"));
        }
        if yard.tree.join(package).join(CACHE).exists() {
            complain(format!("{package}: a {CACHE} that was made for nothing stays"));
        }
    }
    quiet("a compile in vain")?;
    for path in &bad {
        std::fs::remove_file(path)?;
    }
    // A run that is killed keeps the directory until the next run has been there.
    for delay in [15, 40, 80, 120] {
        let mut child = yard.compile().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        std::thread::sleep(Duration::from_millis(delay));
        child.kill()?;
        child.wait()?;
        must(&mut yard.compile(), complain)?;
        quiet("a killed run and the next")?;
    }
    Ok(checked)
}

/// Somebody walks the tree while it is cleaned.
pub(crate) fn walk(yard: &Yard<'_>, complain: Complain<'_>) -> Result<u64> {
    let mut seen = 0;
    for _ in 0..2 {
        must(&mut yard.compile(), complain)?;
        seen += walked_while(yard, &yard.tree, &mut yard.clean(&yard.tree), complain)?;
    }
    Ok(seen)
}

/// A prefix, wholly ours, is made and cleaned while somebody walks it: each artifact is whole or absent, and in the end it is empty.
pub(crate) fn prefix(yard: &Yard<'_>, complain: Complain<'_>) -> Result<u64> {
    let mut seen = 0;
    for _ in 0..2 {
        seen += walked_while(yard, &yard.prefix, &mut yard.with_prefix("compile"), complain)?;
        seen += walked_while(yard, &yard.prefix, &mut yard.clean(&yard.prefix), complain)?;
        nothing_in(&yard.prefix, "clean", complain)?;
    }
    // What a run left that was killed while it removed a tree, and what another left in the middle of a write.
    must(&mut yard.with_prefix("compile"), complain)?;
    let top = yard.prefix.join(yard.tree.strip_prefix("/")?);
    let stale = [yard.prefix.join(".bytekeep-a1b2c3.old/a/b"), top.join("deb0/.bytekeep-d4e5f6.old")];
    for dir in &stale {
        std::fs::create_dir_all(dir)?;
        std::fs::write(dir.join("half.pyc"), "half")?;
    }
    std::fs::write(top.join("deb0/.bytekeep-a1b2c3.tmp"), "half")?;
    for aside in [&stale[0].ancestors().nth(2).unwrap_or(&stale[0]).to_owned(), &stale[1]] {
        let old = std::time::SystemTime::now() - Duration::from_secs(2 * 3600);
        std::fs::File::open(aside)?.set_modified(old)?;
    }
    must(&mut yard.clean(&yard.prefix), complain)?;
    nothing_in(&yard.prefix, "a clean after killed ones", complain)?;
    Ok(seen + 2)
}

fn nothing_in(prefix: &Path, after: &str, complain: Complain<'_>) -> Result<()> {
    for entry in std::fs::read_dir(prefix)? {
        let left = files(prefix);
        complain(format!("after {after} {} is in the prefix; files: {left:?}", entry?.path().display()));
    }
    Ok(())
}

fn walked_while(yard: &Yard<'_>, top: &Path, command: &mut Command, complain: Complain<'_>) -> Result<u64> {
    let over = AtomicBool::new(false);
    let told = std::sync::Mutex::new(Vec::new());
    let seen = std::thread::scope(|scope| -> Result<u64> {
        let walker = scope.spawn(|| -> Result<u64> {
            let mut seen = 0;
            while !over.load(Ordering::SeqCst) {
                seen += yard.walk(top, &|what| told.lock().unwrap().push(what))?;
            }
            Ok(seen)
        });
        let done = must(command, complain);
        over.store(true, Ordering::SeqCst);
        let seen = walker.join().unwrap_or_else(|_| bail!("the walker panicked"));
        done.and(seen)
    })?;
    for what in told.into_inner().unwrap_or_default().into_iter().take(3) {
        complain(format!("a walker meets {what}"));
    }
    Ok(seen)
}

/// Removes a directory, also where somebody who has it open makes new files in it meanwhile.
fn remove_whole(dir: &Path) -> Result<()> {
    let start = Instant::now();
    loop {
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty && start.elapsed() < Duration::from_secs(5) => {}
            done => return Ok(done?),
        }
    }
}

/// Between the writing of artifacts and their renames their directory is renamed aside, with or without a new one in its place, or removed.
/// Exit 0 means that they stand under their names all the same.
pub(crate) fn aside(yard: &Yard<'_>, complain: Complain<'_>) -> Result<u64> {
    if let Err(why) = crate::strace_log::possible() {
        println!("SKIP cleanrace aside: {why}");
        return Ok(0);
    }
    let package = DEB[0];
    let (cache, stash) = (yard.tree.join(package).join(CACHE), yard.room.join("stash"));
    let mut checked = 0;
    for way in ["renamed aside", "renamed aside and made anew", "removed"] {
        let mut early = false;
        for _ in 0..5 {
            if cache.exists() {
                std::fs::remove_dir_all(&cache)?;
            }
            // Each thread flushes later than it would: time enough to see what is staged and to move it away.
            let mut command = Command::new("strace");
            command.args([
                "-f",
                "-b",
                "execve",
                "-qq",
                "-o",
                "/dev/null",
                "-e",
                "trace=fsync",
                "-e",
                "inject=fsync:delay_enter=700000:when=1",
            ]);
            let mut ours = yard.ours(&["compile", "--jobs", "2"]);
            ours.arg(yard.tree.join(package));
            command.arg(ours.get_program()).args(ours.get_args()).env("XDG_CACHE_HOME", yard.room.join("cache"));
            crate::run::without_options(&mut command);
            let said = yard.room.join("said");
            let out = std::fs::File::create(&said)?;
            let mut child = command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).spawn()?;
            let start = Instant::now();
            while leftovers(&cache).iter().all(|path| path.extension() != Some("tmp".as_ref())) {
                if start.elapsed() > Duration::from_secs(20) {
                    child.kill()?;
                    child.wait()?;
                    bail!("nothing was ever staged in {}", cache.display());
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            std::fs::rename(&cache, &stash)?;
            early = files(&stash).iter().all(|path| !is_artifact(path));
            if way == "renamed aside and made anew" && !cache.exists() {
                std::fs::create_dir(&cache)?;
            }
            if way == "removed" {
                remove_whole(&stash)?;
            }
            let status = child.wait()?;
            let text = std::fs::read_to_string(&said)?;
            if stash.exists() {
                for path in leftovers(&stash).iter().filter(|_| early) {
                    complain(format!("{way}: {} stays in what was renamed aside", path.display()));
                }
                std::fs::remove_dir_all(&stash)?;
            }
            if !early {
                continue;
            }
            if status.code() != Some(0) {
                complain(format!("{way}: compile ends with {status}: {}", text.trim().replace('\n', " | ")));
            }
            let there = files(&cache).iter().filter(|path| is_artifact(path)).count();
            let wanted = yard.sources.keys().filter(|below| below.starts_with(package)).count();
            if there != wanted {
                complain(format!("{way}: exit 0, and {there} of {wanted} artifacts are there"));
            }
            checked += yard.walk(&yard.tree.join(package), &|_| {})?;
            break;
        }
        if !early {
            println!("cleanrace: {way}: this machine is too slow to move a directory in time: says nothing");
        }
    }
    yard.walk(&yard.tree, complain)?;
    for path in leftovers(&yard.tree) {
        complain(format!("{} is left over", path.display()));
    }
    Ok(checked)
}
