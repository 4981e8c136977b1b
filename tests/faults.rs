//! Promise 1, exhaustively: a one-threaded job is killed before each of its system calls, has each of them fail, and each write cut
//! short; after each the tree is judged. No sleeping, no luck: the calls are numbered (feature `fault`).
//!
//! The job runs in a child: this very test binary, told by its environment to be the child.
#![cfg(feature = "fault")]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::exit,
    missing_docs,
    unreachable_pub,
    reason = "a test's own files and child"
)]

#[path = "support/toy.rs"]
mod toy;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Output};
use std::sync::atomic::AtomicBool;

use bytekeep::base::seal::{Artifact, sealed};
use bytekeep::base::write::Durability;
use bytekeep::flow::{Command, Event, Job, Maker, Options, Root, What, run};
use bytekeep::model::Compiler;
use toy::{Capitals, Toy};

const SOURCES: [&str; 3] = ["a.toy", "b.toy", "pkg/c.toy"];
const ERRNOS: [(i32, &str); 6] = [(28, "ENOSPC"), (5, "EIO"), (122, "EDQUOT"), (4, "EINTR"), (24, "EMFILE"), (13, "EACCES")];

fn job_in<T>(tree: &Path, command: Command, durability: Durability, then: impl FnOnce(&Job<'_>) -> T) -> T {
    let (format, stop, compiler) = (Toy::new(), AtomicBool::new(false), Capitals::new());
    let makers = vec![Maker { compiler: &compiler as &dyn Compiler, levels: vec![0] }];
    let roots = vec![Root { dir: tree.into(), within: None, what: What::Tree }];
    let options = Options { durability, jobs: 1, ..Options::default() };
    then(&Job { command, roots, format: &format, makers, options, stop: &stop })
}

fn word_of(command: Command) -> &'static str {
    match command {
        Command::Compile => "compile",
        Command::Clean => "clean",
        Command::Repair => "repair",
        Command::Seal => "seal",
        Command::Verify | Command::Status | Command::Explain | Command::Add => "verify",
    }
}

/// The child: runs one job and says what came of it. Exit code as the command's.
#[test]
fn child() {
    let Ok(tree) = std::env::var("FAULT_TREE") else { return };
    let command = match std::env::var("FAULT_COMMAND").unwrap().as_str() {
        "compile" => Command::Compile,
        "clean" => Command::Clean,
        "repair" => Command::Repair,
        "seal" => Command::Seal,
        _ => Command::Verify,
    };
    let durability = if std::env::var_os("FAULT_FULL").is_some() { Durability::Full } else { Durability::Batch };
    let code = job_in(Path::new(&tree), command, durability, |job| {
        let report = |event: &Event<'_>| {
            if let Event::Entry(entry) = event {
                let cause = entry.cause.map(|cause| cause.text.clone()).unwrap_or_default();
                println!("ENTRY {} {} {} {cause}", entry.artifact.display(), entry.verdict, entry.action.word());
            }
        };
        match run(job, &report) {
            Ok(summary) if summary.is_good() => 0,
            Ok(_) => 1,
            Err(error) => {
                println!("ERROR {error}: {}", std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default());
                2
            }
        }
    });
    println!("CALLS {}", bytekeep::base::seam::calls());
    std::process::exit(code);
}

fn spawn(tree: &Path, command: Command, fault: &str) -> Output {
    Process::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env("FAULT_TREE", tree)
        .env("FAULT_COMMAND", word_of(command))
        .env("BYTEKEEP_FAULT", fault)
        .output()
        .unwrap()
}

fn files(tree: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in walkdir::WalkDir::new(tree) {
        let entry = entry.unwrap();
        if entry.file_type().is_file() {
            found.insert(entry.path().strip_prefix(tree).unwrap().to_path_buf(), std::fs::read(entry.path()).unwrap());
        }
    }
    found
}

/// In memory where that can be had: thousands of runs that flush.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A tree as each command finds work in it, with what may stand there afterwards.
struct Case {
    command: Command,
    before: BTreeMap<PathBuf, Vec<u8>>,
    after: BTreeMap<PathBuf, Vec<u8>>,
}

impl Case {
    fn lay(&self) -> tempfile::TempDir {
        let top = scratch();
        for (path, bytes) in &self.before {
            let path = top.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, bytes).unwrap();
            let source = path.extension().is_some_and(|ext| ext == "toy");
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(if source { 1_000_000 } else { 2_000_000 });
            std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        }
        top
    }

    fn new(command: Command, prepare: impl Fn(&mut BTreeMap<PathBuf, Vec<u8>>)) -> Self {
        let sources = SOURCES.iter().map(|path| (PathBuf::from(path), path.as_bytes().to_vec())).collect();
        let fresh = Self { command: Command::Compile, before: sources, after: BTreeMap::new() };
        let top = fresh.lay();
        job_in(top.path(), Command::Compile, Durability::None, |job| run(job, &()).unwrap());
        let mut case = Self { command, before: files(top.path()), after: BTreeMap::new() };
        prepare(&mut case.before);
        let top = case.lay();
        assert_eq!(spawn(top.path(), command, "").status.code(), Some(0));
        case.after = files(top.path());
        case
    }
}

/// As if the source had had another time when it was compiled: a new header mends it.
fn misstamp(bytes: &mut Vec<u8>) {
    let seal = Artifact::split(bytes).unwrap().seal.unwrap();
    let mut payload = bytes[..bytes.len() - 96].to_vec();
    payload[4] ^= 1;
    *bytes = sealed(payload, seal.source, seal.label, false);
}

fn cases() -> Vec<Case> {
    let is_artifact = |path: &Path| path.extension().is_some_and(|ext| ext == "toyc");
    let restamp = Case::new(Command::Compile, |tree| {
        tree.iter_mut().filter(|(path, _)| is_artifact(path)).for_each(|(_, bytes)| misstamp(bytes));
    });
    let said = spawn(restamp.lay().path(), Command::Compile, "");
    assert_eq!(String::from_utf8_lossy(&said.stdout).matches("misstamped restamped").count(), SOURCES.len());
    vec![
        Case::new(Command::Compile, |tree| tree.retain(|path, _| !is_artifact(path))),
        Case::new(Command::Compile, |tree| {
            for (path, bytes) in tree.iter_mut().filter(|(path, _)| !is_artifact(path)) {
                bytes.extend_from_slice(format!("edited {}", path.display()).as_bytes());
            }
        }),
        restamp,
        Case::new(Command::Repair, |tree| tree.iter_mut().filter(|(path, _)| is_artifact(path)).for_each(|(_, bytes)| bytes[13] ^= 1)),
        Case::new(Command::Clean, |_| ()),
        Case::new(Command::Seal, |tree| {
            tree.iter_mut().filter(|(path, _)| is_artifact(path)).for_each(|(_, bytes)| bytes.truncate(bytes.len() - 96));
        }),
    ]
}

/// Every artifact is the old one, the new one, or (where the command removes, or there was none) absent; sources are untouched.
fn check_whole(case: &Case, tree: &Path, fault: &str) -> usize {
    let now = files(tree);
    let mut litter = 0;
    for (path, bytes) in &now {
        let name = path.file_name().unwrap().to_string_lossy();
        if name.starts_with(".bytekeep") {
            litter += 1;
            continue;
        }
        let known = [&case.before, &case.after].iter().any(|state| state.get(path) == Some(bytes));
        assert!(known, "{} {fault}: {} is neither the old nor the new one", word_of(case.command), path.display());
    }
    for path in case.before.keys().filter(|path| case.after.contains_key(*path)) {
        assert!(now.contains_key(path), "{} {fault}: {} is gone", word_of(case.command), path.display());
    }
    litter
}

fn heal(case: &Case, tree: &Path, fault: &str) {
    let again = spawn(tree, case.command, "");
    let said = String::from_utf8_lossy(&again.stdout);
    assert_eq!(again.status.code(), Some(0), "{} after {fault}: {said}", word_of(case.command));
    if case.command == Command::Seal {
        // It sweeps nothing by itself.
        spawn(tree, Command::Compile, "");
    }
    assert_eq!(check_whole(case, tree, fault), 0, "{} after {fault}: litter stays", word_of(case.command));
    for (path, bytes) in &case.after {
        assert_eq!(
            std::fs::read(tree.join(path)).ok().as_ref(),
            Some(bytes),
            "{} after {fault}: {}",
            word_of(case.command),
            path.display()
        );
    }
}

fn calls(output: &Output) -> u64 {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find_map(|line| line.strip_prefix("CALLS ")).expect("the child counts its calls").parse().unwrap()
}

#[test]
fn p1_killed_before_every_call() {
    for case in cases() {
        let total = calls(&spawn(case.lay().path(), case.command, ""));
        assert!(total > 20, "{total} calls");
        for number in 0..total {
            let (tree, fault) = (case.lay(), format!("kill:{number}"));
            let killed = spawn(tree.path(), case.command, &fault);
            check_whole(&case, tree.path(), &fault);
            if killed.status.code().is_none() {
                heal(&case, tree.path(), &fault);
            }
        }
    }
}

#[test]
fn p1_every_call_fails_once() {
    for case in cases() {
        let total = calls(&spawn(case.lay().path(), case.command, ""));
        for (errno, name) in ERRNOS {
            for number in 0..total {
                let (tree, fault) = (case.lay(), format!("fail:{number}:{errno}"));
                let output = spawn(tree.path(), case.command, &fault);
                let context = format!("{} {fault} ({name})", word_of(case.command));
                let said = String::from_utf8_lossy(&output.stdout).into_owned();
                let code = output.status.code();
                assert!(matches!(code, Some(0..=2)), "{context}: {code:?} {}", String::from_utf8_lossy(&output.stderr));
                // One removal that fails leaves the one thing that it was to remove.
                assert!(check_whole(&case, tree.path(), &context) <= 1, "{context}: litter: {said}");
                let mut now = files(tree.path());
                now.retain(|path, _| !path.to_string_lossy().contains(".bytekeep"));
                let done = now == case.after;
                if code == Some(0) {
                    assert!(done, "{context}: a silent success: {said}");
                } else {
                    let told =
                        said.lines().any(|line| line.starts_with("ERROR") || (line.starts_with("ENTRY") && line.contains("cannot ")));
                    assert!(told, "{context}: path and cause are not told: {said}");
                }
                heal(&case, tree.path(), &context);
            }
        }
    }
}

#[test]
fn p1_every_write_is_short_once() {
    for case in cases() {
        let total = calls(&spawn(case.lay().path(), case.command, ""));
        for number in 0..=total {
            let (tree, fault) = (case.lay(), format!("short:{number}"));
            let output = spawn(tree.path(), case.command, &fault);
            assert_eq!(output.status.code(), Some(0), "{fault}");
            assert_eq!(check_whole(&case, tree.path(), &fault), 0);
            assert_eq!(files(tree.path()), case.after, "{} {fault}", word_of(case.command));
        }
    }
}

/// Root works for the owner of a tree, and dies at any moment: the owner's next run does all of it, and is locked out by nothing.
#[test]
fn killed_as_root_nothing_keeps_the_owner_of_the_tree_out() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    use std::os::unix::process::CommandExt;
    const OWNER: u32 = 65534;
    if !std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0) {
        drop(std::io::Write::write_all(&mut std::io::stderr(), b"SKIP: killed as root: only root can play both\n"));
        return;
    }
    // Where another user can start it.
    let home = scratch();
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let child = home.path().join("child");
    std::fs::copy(std::env::current_exe().unwrap(), &child).unwrap();
    let by_owner = |tree: &Path| {
        let mut command = Process::new(&child);
        command.args(["--exact", "child", "--nocapture"]).env_clear().env("FAULT_TREE", tree).env("FAULT_COMMAND", "compile");
        command.uid(OWNER).gid(OWNER).current_dir("/").output().unwrap()
    };
    // A directory of artifacts that is there, and one that is not; and those of a group, whose members cannot give anything away.
    for (case, mode) in cases().into_iter().take(2).flat_map(|case| [(case, 0o755)]).chain([(cases().remove(0), 0o2775)]) {
        let lay = || {
            let tree = case.lay();
            for entry in walkdir::WalkDir::new(tree.path()) {
                let entry = entry.unwrap();
                chown(entry.path(), Some(OWNER), Some(OWNER)).unwrap();
                if entry.file_type().is_dir() {
                    std::fs::set_permissions(entry.path(), std::fs::Permissions::from_mode(mode)).unwrap();
                }
            }
            tree
        };
        let total = calls(&spawn(lay().path(), Command::Compile, ""));
        for number in 0..total {
            let (tree, fault) = (lay(), format!("kill:{number}"));
            let killed = spawn(tree.path(), Command::Compile, &fault);
            if killed.status.code().is_some() {
                continue;
            }
            let again = by_owner(tree.path());
            let said = String::from_utf8_lossy(&again.stdout);
            assert_eq!(again.status.code(), Some(0), "after {fault} of root's run: {said}");
            assert_eq!(check_whole(&case, tree.path(), &fault), 0, "after {fault}: litter stays: {said}");
            for (path, bytes) in &case.after {
                assert_eq!(std::fs::read(tree.path().join(path)).ok().as_ref(), Some(bytes), "after {fault}: {}", path.display());
            }
        }
    }
}
