//! Another user who tries to hold root's locks: in directories that he cannot write it costs root nothing, in his own the time-out.
//! `stress stranger outside|inside DIR` is that user.

use std::fs::{File, Permissions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};

use crate::locks::holders::{HUNG, LOCK, Run, SLACK, compile, is_done, pass_environment, write};
use crate::run::{Setting, Tally, kill};
use crate::whole::{files, is_artifact};

/// `nobody`, as a number that needs no entry anywhere.
const USER: u32 = 65534;
/// How long root waits for a lock here.
const WAIT: u64 = 2;
/// Folders that are all held at one time: waiting for each in turn would show.
const MANY: usize = 60;

/// What root may be brought to by one of his ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cost {
    /// The folder is given up after the time-out.
    Locked,
    /// The folder's entries fail at once.
    Refused,
    Nothing,
    /// One of these, by chance.
    Any,
}

/// What stands in his folder, or happens there.
const WAYS: [(&str, Cost); 16] = [
    ("held", Cost::Locked),
    ("shared", Cost::Locked),
    ("long", Cost::Locked),
    ("no-modes", Cost::Locked),
    ("fifo", Cost::Refused),
    ("directory", Cost::Refused),
    ("socket", Cost::Refused),
    ("link-to-roots", Cost::Refused),
    ("link-to-fifo", Cost::Refused),
    ("dangling", Cost::Refused),
    ("hard-link", Cost::Refused),
    ("sparse", Cost::Nothing),
    ("directories-held", Cost::Nothing),
    ("sources-held", Cost::Nothing),
    ("swapped", Cost::Any),
    ("removed", Cost::Any),
];

pub(crate) fn possible() -> Result<(), String> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err("not root".to_owned()) }
}

/// Whether this process was started to be that user; then it has done its work.
pub(crate) fn asked() -> Option<Result<()>> {
    let all: Vec<_> = std::env::args_os().skip(1).collect();
    match &all[..] {
        [first, place, dir] if first == "stranger" && place == "outside" => Some(outside(Path::new(dir))),
        [first, place, dir] if first == "stranger" && place == "inside" => Some(inside(Path::new(dir))),
        _ => None,
    }
}

/// Set when the harness wants no more.
fn over() -> Arc<AtomicBool> {
    let over = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&over);
    std::thread::spawn(move || {
        let read = std::io::stdin().read_to_end(&mut Vec::new());
        debug_assert!(read.is_ok(), "a pipe");
        flag.store(true, Ordering::SeqCst);
    });
    over
}

fn lock_all(paths: impl IntoIterator<Item = PathBuf>, held: &mut Vec<File>) -> Result<()> {
    for path in paths {
        let file = File::open(&path).with_context(|| path.display().to_string())?;
        fs2::FileExt::try_lock_exclusive(&file)?;
        held.push(file);
    }
    Ok(())
}

/// In a tree that he can read and not write. He locks all that he can open, and tries without pause to open, make, link and lock the lock file.
fn outside(tree: &Path) -> Result<()> {
    let over = over();
    let mut held = Vec::new();
    let dirs: Vec<PathBuf> = walkdir::WalkDir::new(tree)
        .into_iter()
        .flatten()
        .filter(|entry| entry.file_type().is_dir())
        .map(walkdir::DirEntry::into_path)
        .collect();
    lock_all(dirs.iter().cloned().chain(files(tree)), &mut held)?;
    println!("ready");
    let (mut met, mut opened) = (0_u64, 0_u64);
    while !over.load(Ordering::SeqCst) {
        for dir in &dirs {
            let path = dir.join(LOCK);
            for (read, write, create) in [(true, false, false), (true, true, false), (false, true, false), (true, true, true)] {
                match File::options().read(read).write(write).create(create).truncate(false).open(&path) {
                    Ok(file) => {
                        opened += 1;
                        if fs2::FileExt::try_lock_shared(&file).is_ok() {
                            held.push(file);
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::PermissionDenied => met += u64::from(!create),
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
    println!("{met} {opened}");
    Ok(())
}

/// In folders of his own.
fn inside(tree: &Path) -> Result<()> {
    let over = over();
    let mut held = Vec::new();
    let mut threads = Vec::new();
    for way in WAYS.iter().map(|(way, _)| (*way).to_owned()).chain((0..MANY).map(|number| format!("many{number}"))) {
        let (dir, cache) = (tree.join(&way), tree.join(&way).join("__pycache__"));
        std::fs::create_dir(&cache)?;
        let lock = cache.join(LOCK);
        match &*way {
            "shared" => {
                let file = File::create(&lock)?;
                fs2::FileExt::try_lock_shared(&file)?;
                held.push(file);
            }
            "long" => {
                let mut file = File::create(&lock)?;
                file.write_all(&b"\x1b[31m1\r\n".repeat(100_000))?;
                lock_all([lock], &mut held)?;
            }
            "fifo" => mknodat(CWD, &lock, FileType::Fifo, Mode::from_raw_mode(0o666), 0)?,
            "directory" => std::fs::create_dir(&lock)?,
            // Not by `bind`, which takes no long path.
            "socket" => mknodat(CWD, &lock, FileType::Socket, Mode::from_raw_mode(0o666), 0)?,
            "link-to-roots" => symlink(tree.with_file_name("victim"), &lock)?,
            "link-to-fifo" => {
                mknodat(CWD, cache.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o666), 0)?;
                symlink("fifo", &lock)?;
            }
            "dangling" => symlink("nowhere", &lock)?,
            "hard-link" => {
                std::fs::write(dir.join("other"), "precious")?;
                std::fs::hard_link(dir.join("other"), &lock)?;
            }
            "sparse" => {
                let mut file = File::create(&lock)?;
                file.seek(SeekFrom::Start(1 << 40))?;
                file.write_all(b"\n")?;
            }
            "directories-held" => lock_all([dir, cache], &mut held)?,
            "sources-held" => lock_all(files(&dir), &mut held)?,
            "swapped" => {
                let other = cache.join("other");
                mknodat(CWD, &other, FileType::Fifo, Mode::from_raw_mode(0o666), 0)?;
                lock_all([make(&lock)?], &mut held)?;
                let over = Arc::clone(&over);
                threads.push(std::thread::spawn(move || {
                    while !over.load(Ordering::SeqCst) {
                        let swapped = renameat_with(CWD, &lock, CWD, &other, RenameFlags::EXCHANGE);
                        if swapped.is_err() && !lock.exists() {
                            drop(make(&lock));
                        }
                    }
                }));
            }
            "removed" => {
                let over = Arc::clone(&over);
                threads.push(std::thread::spawn(move || {
                    let mut number = 0_u64;
                    while !over.load(Ordering::SeqCst) {
                        // Moved aside with what root has just made in it; what cannot be removed at once stays there.
                        let aside = dir.join(format!("aside{number}"));
                        if std::fs::rename(&cache, &aside).is_err() || std::fs::remove_dir_all(&aside).is_err() {
                            std::thread::sleep(Duration::from_millis(1));
                        }
                        number += 1;
                    }
                }));
            }
            _ => {
                lock_all([make(&lock)?], &mut held)?;
                if way == "no-modes" {
                    std::fs::set_permissions(&lock, Permissions::from_mode(0o000))?;
                }
            }
        }
    }
    println!("ready");
    for thread in threads {
        if thread.join().is_err() {
            bail!("a thread panicked");
        }
    }
    while !over.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("0 0");
    Ok(())
}

/// Root has so few descriptors that one folder is open at a time: the time-out is not waited for each of them.
fn few_descriptors(setting: &Setting, room: &Path, theirs: &Path, complain: &dyn Fn(String), tally: &Tally) -> Result<()> {
    let many: Vec<PathBuf> = (0..MANY).map(|number| theirs.join(format!("many{number}"))).collect();
    let compile = compile(setting, &many.iter().map(PathBuf::as_path).collect::<Vec<_>>(), room, 1, WAIT);
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 128; exec \"$0\" \"$@\""]).arg(compile.get_program()).args(compile.get_args());
    pass_environment(&compile, &mut command);
    let limit = Duration::from_secs(WAIT) + SLACK;
    let ended = Run::start(command, room, "few")?.end(limit)?;
    let locked = ended.entries().filter(|(_, action, code)| (*action, *code) == ("skipped", "locked")).count();
    if ended.code != Some(1) || locked != MANY {
        complain(format!(
            "with few descriptors root's run exits {:?} after {:.1} s with {locked} of {MANY} entries locked out: {}",
            ended.code,
            ended.took.as_secs_f64(),
            ended.err.trim()
        ));
    }
    println!("locks: another user inside: {MANY} folders held, one open at a time: {:.1} s", ended.took.as_secs_f64());
    tally.checked(u64::try_from(MANY)?);
    Ok(())
}

fn make(path: &Path) -> Result<PathBuf> {
    File::create(path)?;
    Ok(path.to_owned())
}

/// That user at work. Dropped: ended.
struct Stranger {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Stranger {
    fn start(tool: &Path, place: &str, tree: &Path) -> Result<Self> {
        let mut command = Command::new(tool);
        command.args(["stranger", place]).arg(tree).uid(USER).gid(USER);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("another user's process does not start")?;
        let mut out = BufReader::new(child.stdout.take().context("no pipe")?);
        let mut line = String::new();
        out.read_line(&mut line)?;
        let stranger = Self { child, out };
        if line.trim() != "ready" {
            bail!("another user's process says {line:?}");
        }
        Ok(stranger)
    }

    /// How often he met a lock file, and how often he could open one.
    fn end(mut self) -> Result<(u64, u64)> {
        drop(self.child.stdin.take());
        let mut line = String::new();
        self.out.read_line(&mut line)?;
        let said = line.trim().split_once(' ').context("another user's process says nothing")?;
        Ok((said.0.parse()?, said.1.parse()?))
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        if let Ok(None) = self.child.try_wait() {
            std::thread::sleep(Duration::from_millis(50));
            kill(self.child.id());
        }
        if let Err(error) = self.child.wait() {
            println!("another user's process cannot be waited for: {error}");
        }
    }
}

pub(crate) fn run(setting: &Setting, room: &Path, quick: bool, tally: &Tally) -> Result<()> {
    if let Err(why) = possible() {
        println!("SKIP another user's ways to hold a lock: {why}");
        return Ok(());
    }
    // Rooms are closed to others: this one alone is opened.
    std::fs::set_permissions(room.parent().context("no room")?, Permissions::from_mode(0o711))?;
    std::fs::set_permissions(room, Permissions::from_mode(0o755))?;
    for dir in room.ancestors() {
        if std::fs::metadata(dir)?.mode() & 0o001 == 0 {
            println!("SKIP another user's ways to hold a lock: {} is closed to him; name a --scratch that is not", dir.display());
            return Ok(());
        }
    }
    let tool = room.join("stranger");
    std::fs::copy(std::env::current_exe()?, &tool)?;
    std::fs::set_permissions(&tool, Permissions::from_mode(0o755))?;
    cannot_write(setting, room, &tool, quick, tally)?;
    his_own(setting, room, &tool, tally)
}

/// Root works in a tree of its own: nothing that the other user does delays it, so nothing needs any time-out.
fn cannot_write(setting: &Setting, room: &Path, tool: &Path, quick: bool, tally: &Tally) -> Result<()> {
    let complain = |what: String| {
        tally.violation(&format!("locks: another user outside: {what}"), &format!("locks --seed {} --case stranger", setting.seed));
    };
    let tree = room.join("roots");
    for number in 0..4 {
        write(&tree.join(format!("p{number}")), 5, 20)?;
    }
    let first = Run::start(compile(setting, &[&tree], room, 2, 0), room, "before")?.end(HUNG)?;
    if first.code != Some(0) {
        bail!("a quiet compile exits {:?}: {}", first.code, first.err.trim());
    }
    let stranger = Stranger::start(tool, "outside", &tree)?;
    let rounds = if quick { 3 } else { 20 };
    for _ in 0..rounds {
        let mut command = compile(setting, &[&tree], room, 2, 0);
        command.arg("--force");
        let ended = Run::start(command, room, "root")?.end(HUNG)?;
        let built = ended.entries().filter(|(_, action, _)| *action == "built").count();
        if ended.code != Some(0) || built != 20 {
            complain(format!("root's run exits {:?} with {built} of 20 entries done: {}", ended.code, ended.err.trim()));
        }
        tally.checked(20);
    }
    let (met, opened) = stranger.end()?;
    if opened > 0 {
        complain(format!("he could open root's lock file {opened} times"));
    }
    if met == 0 && opened == 0 {
        complain("he never met root's lock file closed: nothing was shown".to_owned());
    }
    is_done(&tree, 20, &complain)?;
    println!("locks: another user outside: {rounds} runs of root's, {met} lock files met, {opened} opened");
    Ok(())
}

/// Root works in the other user's tree and in its own: what it costs is the time-out, once, and a message for each entry.
fn his_own(setting: &Setting, room: &Path, tool: &Path, tally: &Tally) -> Result<()> {
    let complain = |what: String| {
        tally.violation(&format!("locks: another user inside: {what}"), &format!("locks --seed {} --case stranger", setting.seed));
    };
    let (theirs, ours, victim) = (room.join("theirs"), room.join("ours"), room.join("victim"));
    std::fs::write(&victim, "root's")?;
    std::fs::set_permissions(&victim, Permissions::from_mode(0o666))?;
    let as_was = (std::fs::metadata(&victim)?.ino(), 0o666, 0);
    write(&ours, 6, 20)?;
    for (way, _) in WAYS {
        write(&theirs.join(way), 2, 3)?;
    }
    for number in 0..MANY {
        write(&theirs.join(format!("many{number}")), 1, 1)?;
    }
    for entry in walkdir::WalkDir::new(&theirs) {
        chown(entry?.path(), Some(USER), Some(USER))?;
    }
    let stranger = Stranger::start(tool, "inside", &theirs)?;
    let ended = Run::start(compile(setting, &[&theirs, &ours], room, 2, WAIT), room, "inside")?.end(Duration::from_secs(WAIT) + HUNG)?;
    if ended.code != Some(1) || ended.took > Duration::from_secs(WAIT) + SLACK {
        complain(format!("root's run exits {:?} after {:.1} s: {}", ended.code, ended.took.as_secs_f64(), ended.err.trim()));
    }
    if ended.err.chars().any(|c| c.is_control() && c != '\n') {
        complain(format!("what his lock file says reaches root's terminal: {:?}", ended.err));
    }
    let of = |dir: &Path| {
        let dir = dir.join("__pycache__");
        ended
            .entries()
            .filter(|(path, _, _)| is_artifact(Path::new(path)) && Path::new(path).parent() == Some(&*dir))
            .map(|(_, action, code)| (action, code))
            .collect::<Vec<_>>()
    };
    let fits = |cost: Cost, (action, code): (&str, &str)| match cost {
        Cost::Locked => (action, code) == ("skipped", "locked"),
        Cost::Refused => action == "failed" && !code.is_empty(),
        Cost::Nothing => action == "built",
        Cost::Any => action == "built" || (matches!(action, "failed" | "skipped") && !code.is_empty()),
    };
    let many = (0..MANY).map(|number| (format!("many{number}"), Cost::Locked, 1));
    for (way, cost, modules) in WAYS.iter().map(|(way, cost)| ((*way).to_owned(), *cost, 2)).chain(many) {
        let told = of(&theirs.join(&way));
        tally.checked(modules);
        if u64::try_from(told.len())? != modules || !told.iter().all(|entry| fits(cost, *entry)) {
            complain(format!("{way} should cost {cost:?}, and it is told: {told:?}"));
        }
    }
    if of(&ours) != [("built", ""); 6] {
        complain(format!("root's own folder is not done beside his: {:?}", of(&ours)));
    }
    few_descriptors(setting, room, &theirs, &complain, tally)?;
    for verb in ["verify", "clean"] {
        let mut command = setting.bytekeep(verb, &theirs, 2, &room.join("cache"));
        if verb == "clean" {
            command.args(["--lock-timeout", &WAIT.to_string()]);
        }
        let other = Run::start(command, room, verb)?.end(Duration::from_secs(WAIT) + HUNG)?;
        if !matches!(other.code, Some(0 | 1)) || other.took > Duration::from_secs(WAIT) + SLACK {
            complain(format!("{verb} exits {:?} after {:.1} s: {}", other.code, other.took.as_secs_f64(), other.err.trim()));
        }
        tally.checked(1);
    }
    stranger.end()?;
    let now = std::fs::metadata(&victim)?;
    if (now.ino(), now.mode() & 0o7777, now.uid()) != as_was || std::fs::read(&victim)? != b"root's" {
        complain("root's own file, to which he linked the lock file's name, is not what it was".to_owned());
    }
    if !std::fs::symlink_metadata(theirs.join("fifo/__pycache__").join(LOCK))?.file_type().is_fifo() {
        complain("his FIFO is gone".to_owned());
    }
    // What he held is a dead process's now.
    let after = Run::start(compile(setting, &[&theirs], room, 2, WAIT), room, "after")?.end(HUNG)?;
    let locked = after.entries().filter(|(_, _, code)| *code == "locked").count();
    let failed = after.entries().filter(|(_, action, _)| *action == "failed").count();
    if locked > 0 {
        complain(format!("{locked} entries are locked out when he is gone: {}", after.err.trim()));
    }
    println!(
        "locks: another user inside: {} ways and {MANY} folders held at once, --lock-timeout {WAIT}: {:.1} s; {failed} entries fail when he is gone",
        WAYS.len(),
        ended.took.as_secs_f64()
    );
    Ok(())
}
