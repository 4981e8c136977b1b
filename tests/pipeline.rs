//! The pipeline on a toy language: what each command does to real trees on a real file system.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test's own files")]

#[path = "support/toy.rs"]
mod toy;

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use bytekeep::base::lock::{Attempt, DirLock};
use bytekeep::base::sys::Dir;
use bytekeep::base::write::Durability;
use bytekeep::flow::{Action, Clean, Command, Event, Job, Maker, Options, Root, Summary, What, run};
use bytekeep::model::{CompileError, Compiler, Made, Request, Target, Verdict};
use toy::{Capitals, Toy};

struct Tree {
    top: tempfile::TempDir,
}

/// What was told, by path relative to the tree: verdict, action, cause's code.
type Said = BTreeMap<String, (Verdict, Action, Option<&'static str>)>;

impl Tree {
    fn new(files: &[&str]) -> Self {
        let tree = Self { top: tempfile::tempdir().unwrap() };
        for file in files {
            tree.source(file, file.as_bytes());
        }
        tree
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.top.path().join(relative)
    }

    /// A source that is old enough not to be racy.
    fn source(&self, relative: &str, bytes: &[u8]) {
        let path = self.path(relative);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        age(&path, 3600);
    }

    fn job<'a>(&self, command: Command, compiler: &'a Capitals, format: &'a Toy, stop: &'a AtomicBool, options: Options<'a>) -> Job<'a> {
        let makers = vec![Maker { compiler: compiler as &dyn Compiler, levels: vec![0] }];
        let roots = vec![Root { dir: self.top.path().into(), within: None, what: What::Tree }];
        Job { command, roots, format, makers, options, stop }
    }

    fn run(&self, command: Command, compiler: &Capitals, options: Options<'_>) -> (Summary, Said) {
        let (format, stop) = (Toy::new(), AtomicBool::new(false));
        let job = self.job(command, compiler, &format, &stop, options);
        listen(&job, self.top.path())
    }

    fn compile(&self) -> (Summary, Said) {
        self.run(Command::Compile, &Capitals::new(), Options::default())
    }

    fn verify(&self) -> (Summary, Said) {
        self.run(Command::Verify, &Capitals::new(), Options::default())
    }

    fn names(&self, relative: &str) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(self.path(relative)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn age(path: &Path, seconds: u64) {
    let time = SystemTime::now() - Duration::from_secs(seconds);
    std::fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

fn listen(job: &Job<'_>, top: &Path) -> (Summary, Said) {
    let said = Mutex::new(Said::new());
    let report = |event: &Event<'_>| {
        if let Event::Entry(entry) = event {
            let path = entry.artifact.strip_prefix(top).unwrap_or(entry.artifact).display().to_string();
            let before = said.lock().unwrap().insert(path.clone(), (entry.verdict, entry.action, entry.cause.map(|cause| cause.code)));
            assert_eq!(before, None, "{path} was told twice");
        }
    };
    let summary = run(job, &report).unwrap();
    (summary, said.into_inner().unwrap())
}

fn one(said: &Said, path: &str) -> (Verdict, Action, Option<&'static str>) {
    *said.get(path).unwrap_or_else(|| panic!("nothing was told of {path}: {said:?}"))
}

#[test]
fn what_is_missing_is_built_and_then_there_is_nothing_to_do() {
    for durability in [Durability::None, Durability::Batch, Durability::Full] {
        let tree = Tree::new(&["a.toy", "pkg/b.toy", "pkg/deep/c.toy"]);
        let compiler = Capitals::new();
        let (summary, said) = tree.run(Command::Compile, &compiler, Options { durability, ..Options::default() });
        assert_eq!(one(&said, "pkg/__toys__/b.0.toyc"), (Verdict::Missing, Action::Built, None));
        assert_eq!((summary.entries, summary.action(Action::Built), summary.is_good()), (3, 3, true));
        assert_eq!(tree.names("pkg/__toys__"), ["b.0.toyc"], "nothing else is left there");
        let (summary, _) = tree.run(Command::Compile, &compiler, Options { durability, ..Options::default() });
        assert_eq!((summary.verdict(Verdict::Ok), compiler.count()), (3, 3));
        let (summary, _) = tree.verify();
        assert_eq!((summary.verdict(Verdict::Ok), summary.entries), (3, 3));
    }
}

#[test]
fn every_cut_is_found_by_compile_and_mended() {
    let tree = Tree::new(&["a.toy"]);
    tree.compile();
    let path = tree.path("__toys__/a.0.toyc");
    let whole = std::fs::read(&path).unwrap();
    for cut in 0..whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let found = one(&tree.verify().1, "__toys__/a.0.toyc").0;
        let unsealed = whole.len() - 96;
        if cut == unsealed {
            assert_eq!(found, Verdict::Unsealed);
            continue;
        }
        assert!(matches!(found, Verdict::Truncated | Verdict::Corrupt), "cut at {cut}: {found}");
        assert_eq!(one(&tree.compile().1, "__toys__/a.0.toyc").1, Action::Built, "cut at {cut}");
        assert_eq!(&std::fs::read(&path).unwrap(), &whole, "cut at {cut}");
    }
}

#[test]
fn every_flipped_byte_is_found_by_verify_and_mended_by_repair() {
    let tree = Tree::new(&["a.toy"]);
    tree.compile();
    let path = tree.path("__toys__/a.0.toyc");
    let whole = std::fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut bad = whole.clone();
        bad[at] ^= 0x40;
        std::fs::write(&path, &bad).unwrap();
        let (summary, said) = tree.verify();
        let found = one(&said, "__toys__/a.0.toyc").0;
        // A seal whose version or flags say "newer" is left alone; all else is a problem.
        let newer = (whole.len() - 24..whole.len() - 20).contains(&at);
        assert_eq!((found == Verdict::Unknown, summary.is_good()), (newer, newer), "byte {at}: {found}");
        let (summary, _) = tree.run(Command::Repair, &Capitals::new(), Options::default());
        assert!(summary.is_good(), "byte {at}");
        if !newer {
            assert_eq!(&std::fs::read(&path).unwrap(), &whole, "byte {at}");
        }
    }
}

#[test]
fn an_edit_in_the_same_second_with_the_same_size_is_found() {
    let tree = Tree::new(&[]);
    std::fs::write(tree.path("a.toy"), b"one").unwrap();
    let then = std::fs::metadata(tree.path("a.toy")).unwrap().modified().unwrap();
    tree.compile();
    std::fs::write(tree.path("a.toy"), b"two").unwrap();
    std::fs::File::options().write(true).open(tree.path("a.toy")).unwrap().set_modified(then).unwrap();
    assert_eq!(one(&tree.compile().1, "__toys__/a.0.toyc"), (Verdict::SilentlyStale, Action::Built, Some("content")));
}

#[test]
fn an_edit_that_no_time_shows_is_found_by_the_full_look_alone() {
    let tree = Tree::new(&["a.toy"]);
    let then = std::fs::metadata(tree.path("a.toy")).unwrap().modified().unwrap();
    tree.compile();
    std::fs::write(tree.path("a.toy"), b"A.TOY").unwrap();
    std::fs::File::options().write(true).open(tree.path("a.toy")).unwrap().set_modified(then).unwrap();
    assert_eq!(one(&tree.compile().1, "__toys__/a.0.toyc").0, Verdict::Ok);
    assert_eq!(one(&tree.verify().1, "__toys__/a.0.toyc").0, Verdict::SilentlyStale);
}

#[test]
fn a_touched_source_is_misstamped_and_an_edited_one_stale() {
    let tree = Tree::new(&["a.toy", "b.toy"]);
    tree.compile();
    age(&tree.path("a.toy"), 7200);
    tree.source("b.toy", b"of another size");
    let (summary, said) = tree.verify();
    assert_eq!(one(&said, "__toys__/a.0.toyc").0, Verdict::Misstamped);
    assert_eq!(one(&said, "__toys__/b.0.toyc").0, Verdict::Stale);
    assert_eq!(summary.wrong, 2);
    let capitals = Capitals::new();
    let (summary, said) = tree.run(Command::Compile, &capitals, Options::default());
    assert!(summary.is_good());
    assert_eq!(one(&said, "__toys__/a.0.toyc").1, Action::Restamped);
    assert_eq!(one(&said, "__toys__/b.0.toyc").1, Action::Built);
    assert_eq!(capitals.count(), 1, "nothing is compiled that only needs another header");
    assert!(tree.verify().0.is_good());
}

#[test]
fn one_bad_source_stops_nothing_and_keeps_its_old_artifact() {
    let tree = Tree::new(&["a.toy", "bad.toy", "c.toy"]);
    tree.compile();
    let old = std::fs::read(tree.path("__toys__/bad.0.toyc")).unwrap();
    tree.source("bad.toy", b"!");
    tree.source("c.toy", b"changed");
    let (summary, said) = tree.compile();
    assert_eq!(one(&said, "__toys__/bad.0.toyc"), (Verdict::Stale, Action::Failed, Some("source")));
    assert_eq!(one(&said, "__toys__/c.0.toyc").1, Action::Built);
    assert_eq!(summary.wrong, 1);
    assert_eq!(std::fs::read(tree.path("__toys__/bad.0.toyc")).unwrap(), old);
}

#[test]
fn a_failed_first_compile_leaves_no_empty_directory() {
    let tree = Tree::new(&[]);
    tree.source("bad.toy", b"!");
    assert_eq!(tree.compile().0.wrong, 1);
    assert_eq!(tree.names(""), ["bad.toy"]);
}

#[test]
fn clean_removes_ours_and_only_ours() {
    let tree = Tree::new(&["a.toy", "gone.toy", "pkg/b.toy"]);
    tree.compile();
    std::fs::remove_file(tree.path("gone.toy")).unwrap();
    std::fs::write(tree.path("__toys__/numba.nbi"), b"theirs").unwrap();
    let (summary, said) = tree.run(Command::Clean, &Capitals::new(), Options::default());
    assert!(summary.is_good());
    assert_eq!(one(&said, "__toys__/a.0.toyc").1, Action::Removed);
    assert_eq!(one(&said, "__toys__/gone.0.toyc"), (Verdict::Orphan, Action::None, None));
    assert_eq!(tree.names("__toys__"), ["gone.0.toyc", "numba.nbi"]);
    assert_eq!(tree.names("pkg"), ["b.toy"], "an emptied directory goes");
    let clean = Clean { orphans: true, ..Clean::default() };
    tree.run(Command::Clean, &Capitals::new(), Options { clean, ..Options::default() });
    assert_eq!(tree.names("__toys__"), ["numba.nbi"]);
}

#[test]
fn leftovers_of_the_dead_are_swept_and_those_of_the_living_are_not() {
    let tree = Tree::new(&["a.toy"]);
    tree.compile();
    let litter = ["__toys__/.bytekeep-abc123.tmp", "__toys__/.bytekeep.lock"];
    for path in litter {
        std::fs::write(tree.path(path), b"").unwrap();
    }
    let dir = Arc::new(Dir::open_root(&tree.path("__toys__")).unwrap());
    let Attempt::Held(lock) = DirLock::try_take(&dir).unwrap() else { panic!("a dead lock file locks") };
    let (summary, said) = tree.verify();
    assert_eq!((said.len(), summary.is_good()), (1, true), "what belongs to a living process is told as a left-over: {said:?}");
    assert!(tree.compile().0.is_good(), "a run with nothing to do waits for a lock");
    drop(lock);
    std::fs::write(tree.path("__toys__/.bytekeep.lock"), b"").unwrap();
    let (_, said) = tree.verify();
    assert_eq!(one(&said, "__toys__/.bytekeep-abc123.tmp"), (Verdict::Leftover, Action::None, None));
    let (summary, said) = tree.compile();
    assert_eq!(one(&said, "__toys__/.bytekeep-abc123.tmp"), (Verdict::Leftover, Action::Swept, None));
    assert!(summary.is_good());
    assert_eq!(tree.names("__toys__"), ["a.0.toyc"]);
}

#[test]
fn a_locked_folder_is_waited_for_and_the_holder_told() {
    let tree = Tree::new(&["a/x.toy", "b/y.toy"]);
    tree.compile();
    tree.source("a/x.toy", b"new");
    tree.source("b/y.toy", b"new");
    let dir = Arc::new(Dir::open_root(&tree.path("a/__toys__")).unwrap());
    let Attempt::Held(lock) = DirLock::try_take(&dir).unwrap() else { panic!() };
    let (summary, said) =
        tree.run(Command::Compile, &Capitals::new(), Options { lock_timeout: Duration::from_millis(300), ..Options::default() });
    assert_eq!(one(&said, "a/__toys__/x.0.toyc"), (Verdict::Stale, Action::Skipped, Some("locked")));
    assert_eq!(one(&said, "b/__toys__/y.0.toyc").1, Action::Built, "the other folder waits too");
    assert_eq!(summary.wrong, 1);
    let waited = Mutex::new(None);
    let (format, stop, compiler) = (Toy::new(), AtomicBool::new(false), Capitals::new());
    let job = tree.job(Command::Compile, &compiler, &format, &stop, Options::default());
    let lock = Mutex::new(Some(lock));
    let summary = run(&job, &|event: &Event<'_>| {
        if let Event::Waiting { holder, .. } = event {
            *waited.lock().unwrap() = holder.pid;
            lock.lock().unwrap().take();
        }
    });
    assert!(summary.unwrap().is_good());
    assert_eq!(waited.into_inner().unwrap(), Some(std::process::id()));
}

/// One removal hits many entries at once: those that are staged and those that are still to come.
#[test]
fn a_directory_removed_while_we_compile_is_made_again() {
    let files: Vec<String> = (0..400).map(|n| format!("m{n}.toy")).collect();
    let tree = Tree::new(&files.iter().map(String::as_str).collect::<Vec<_>>());
    let (cache, aside) = (tree.path("__toys__"), tree.path("aside"));
    let calls = Mutex::new(0);
    let compiler = Capitals::with(move |_| {
        let mut calls = calls.lock().unwrap();
        *calls += 1;
        match *calls {
            50 => std::fs::rename(&cache, &aside).unwrap(),
            // It fails where something new comes in meanwhile; then half of it is gone, which is worse.
            200 => drop(std::fs::remove_dir_all(&cache)),
            _ => {}
        }
    });
    let (summary, said) = tree.run(Command::Compile, &compiler, Options::default());
    let bad: Vec<_> = said.iter().filter(|(_, (_, action, _))| *action != Action::Built).collect();
    assert!(summary.is_good() && bad.is_empty(), "{summary:?} {bad:?}");
    assert_eq!(said.len(), 400);
    // What stood there before the last removal went with it; the next run fills the gap.
    assert!(tree.compile().0.is_good());
    assert_eq!(tree.verify().0.verdict(Verdict::Ok), 400);
}

#[test]
fn two_runs_at_once_do_the_work_of_one() {
    let files: Vec<String> = (0..200).map(|n| format!("d{}/m{n}.toy", n % 7)).collect();
    let tree = Tree::new(&files.iter().map(String::as_str).collect::<Vec<_>>());
    let compiler = Capitals::with(|_| std::thread::sleep(Duration::from_millis(1)));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert!(tree.run(Command::Compile, &compiler, Options::default()).0.is_good()));
        }
    });
    assert_eq!(compiler.count(), 200);
    assert_eq!(tree.verify().0.verdict(Verdict::Ok), 200);
}

#[test]
fn links_and_strange_things_are_told_and_never_followed() {
    let tree = Tree::new(&["a.toy", "b.toy", "file/f.toy", "link/l.toy"]);
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("victim"), b"untouched").unwrap();
    std::fs::create_dir(tree.path("__toys__")).unwrap();
    symlink(outside.path().join("victim"), tree.path("__toys__/a.0.toyc")).unwrap();
    std::fs::create_dir(tree.path("__toys__/b.0.toyc")).unwrap();
    std::fs::write(tree.path("file/__toys__"), b"a file").unwrap();
    symlink(outside.path(), tree.path("link/__toys__")).unwrap();
    symlink(".", tree.path("loop")).unwrap();
    symlink("nowhere", tree.path("dangling.toy")).unwrap();
    for (summary, said) in [tree.compile(), tree.run(Command::Repair, &Capitals::new(), Options::default())] {
        assert_eq!(one(&said, "__toys__/a.0.toyc").0, Verdict::Unsafe);
        assert!(summary.wrong >= 1);
    }
    let (_, said) = tree.compile();
    assert_eq!(one(&said, "__toys__/b.0.toyc").0, Verdict::Unsafe);
    assert_eq!(one(&said, "file/__toys__/f.0.toyc"), (Verdict::Unsafe, Action::None, Some("not-a-directory")));
    assert_eq!(one(&said, "link/__toys__/l.0.toyc"), (Verdict::Unsafe, Action::None, Some("not-a-directory")));
    assert_eq!(std::fs::read(outside.path().join("victim")).unwrap(), b"untouched");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
fn a_dry_run_tells_and_does_nothing() {
    let tree = Tree::new(&["a.toy"]);
    let options = || Options { dry_run: true, ..Options::default() };
    let (_, said) = tree.run(Command::Compile, &Capitals::new(), options());
    assert_eq!(one(&said, "__toys__/a.0.toyc"), (Verdict::Missing, Action::Built, None));
    assert_eq!(tree.names(""), ["a.toy"]);
    tree.compile();
    tree.run(Command::Clean, &Capitals::new(), options());
    assert_eq!(tree.names("__toys__"), ["a.0.toyc"]);
}

#[test]
fn seal_adopts_what_is_sound() {
    let tree = Tree::new(&["a.toy"]);
    tree.compile();
    let path = tree.path("__toys__/a.0.toyc");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 96]).unwrap();
    assert_eq!(one(&tree.run(Command::Seal, &Capitals::new(), Options::default()).1, "__toys__/a.0.toyc").1, Action::Sealed);
    assert_eq!(one(&tree.verify().1, "__toys__/a.0.toyc").0, Verdict::Ok);
    let adopted = bytekeep::base::seal::Seal::parse(&std::fs::read(&path).unwrap(), whole.len() as u64).unwrap().unwrap();
    assert!(adopted.adopted, "an adopted seal says so");
}

#[test]
fn repair_keeps_the_evidence_where_asked() {
    let tree = Tree::new(&["a.toy"]);
    let keep = tempfile::tempdir().unwrap();
    tree.compile();
    std::fs::write(tree.path("__toys__/a.0.toyc"), b"torn").unwrap();
    let options = Options { keep_bad: Some(keep.path().into()), ..Options::default() };
    let (summary, said) = tree.run(Command::Repair, &Capitals::new(), options);
    assert!(summary.is_good());
    assert_eq!(one(&said, "__toys__/a.0.toyc").1, Action::Built);
    let kept: Vec<_> = std::fs::read_dir(keep.path()).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect();
    assert!(kept.len() == 2 && kept.contains(&b"torn".to_vec()), "{kept:?}");
}

#[test]
fn artifacts_follow_their_sources_mode() {
    let tree = Tree::new(&["a.toy"]);
    std::fs::set_permissions(tree.path("a.toy"), std::fs::Permissions::from_mode(0o4740)).unwrap();
    tree.compile();
    let mode = std::fs::metadata(tree.path("__toys__/a.0.toyc")).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode & !0o022, 0o640);
}

#[test]
fn a_prefix_mirrors_the_tree_and_the_tree_stays_clean() {
    let tree = Tree::new(&["pkg/a.toy"]);
    let prefix = tempfile::tempdir().unwrap();
    let options = || Options { prefix: Some(prefix.path().join("made/here")), ..Options::default() };
    assert!(tree.run(Command::Compile, &Capitals::new(), options()).0.is_good());
    assert_eq!(tree.names("pkg"), ["a.toy"]);
    let mirrored = prefix.path().join("made/here").join(tree.path("pkg/a.0.toyc").strip_prefix("/").unwrap());
    assert!(mirrored.exists());
    let (summary, _) = tree.run(Command::Verify, &Capitals::new(), options());
    assert_eq!(summary.verdict(Verdict::Ok), 1);
    let (summary, _) = tree.run(Command::Compile, &Capitals::new(), options());
    assert_eq!(summary.verdict(Verdict::Ok), 1);
}

#[test]
fn a_root_named_twice_or_inside_another_is_worked_on_once() {
    let tree = Tree::new(&["a.toy", "pkg/b.toy"]);
    let (format, stop, compiler) = (Toy::new(), AtomicBool::new(false), Capitals::new());
    let mut job = tree.job(Command::Compile, &compiler, &format, &stop, Options::default());
    let root = |path: &str| Root { dir: tree.path(path), within: None, what: What::Tree };
    job.roots.extend([root("pkg"), root(""), Root { dir: tree.path("pkg"), within: None, what: What::Sources(vec![toy::name("b.toy")]) }]);
    let (summary, _) = listen(&job, tree.top.path());
    assert_eq!((summary.entries, compiler.count()), (2, 2));
}

#[test]
fn a_root_that_another_leaves_out_is_worked_on_by_itself() {
    let tree = Tree::new(&["a.toy", "out/b.toy", "out/deep/c.toy", "in/d.toy"]);
    std::os::unix::fs::symlink("out", tree.path("link")).unwrap();
    let (format, stop, compiler) = (Toy::new(), AtomicBool::new(false), Capitals::new());
    let left_out = tree.path("out");
    let exclude = move |path: &Path| path.starts_with(&left_out);
    let options = Options { exclude: Some(&exclude), ..Options::default() };
    let mut job = tree.job(Command::Compile, &compiler, &format, &stop, options);
    // By another name it is not left out; the tree inside it and the one that is walked anyway are worked on once.
    let root = |path: &str| Root { dir: tree.path(path), within: None, what: What::Tree };
    job.roots.extend([root("link/deep"), root("link"), root("in")]);
    let (summary, _) = listen(&job, tree.top.path());
    assert_eq!((summary.entries, compiler.count()), (4, 4));
    // By the same name it is.
    job.roots = vec![Root { dir: tree.path("out"), within: None, what: What::Sources(vec![toy::name("b.toy")]) }];
    assert_eq!(listen(&job, tree.top.path()).0.entries, 0);
}

/// What is data is reached from what was named: by its descriptor, which is had once, and through no link.
#[test]
fn what_lies_within_a_root_is_reached_without_links() {
    let tree = Tree::new(&["base/a/one.toy", "base/b/two.toy", "outside/a/one.toy", "outside/b/two.toy"]);
    std::os::unix::fs::symlink("../outside/b", tree.path("base/link")).unwrap();
    let swapped = AtomicBool::new(false);
    let (base, away, outside) = (tree.path("base"), tree.path("away"), tree.path("outside"));
    // Asked for each source of the first one, when that is open and the others are not.
    let exclude = |_: &Path| {
        if !swapped.swap(true, Ordering::SeqCst) {
            std::fs::rename(&base, &away).unwrap();
            std::os::unix::fs::symlink(&outside, &base).unwrap();
        }
        false
    };
    let (format, stop, compiler) = (Toy::new(), AtomicBool::new(false), Capitals::new());
    let options = Options { exclude: Some(&exclude), jobs: 1, ..Options::default() };
    let mut job = tree.job(Command::Compile, &compiler, &format, &stop, options);
    let within =
        |dir: &str, name: &str| Root { dir: base.join(dir), within: Some(base.clone()), what: What::Sources(vec![toy::name(name)]) };
    job.roots = vec![within("a", "one.toy"), within("b", "two.toy"), within("link", "two.toy")];
    let (summary, said) = listen(&job, tree.top.path());
    // What was written went with what was moved away, and that is told.
    assert_eq!((summary.action(Action::Built), summary.wrong), (0, 3), "{said:?}");
    assert!(tree.path("away/b/__toys__/two.0.toyc").exists() && !tree.path("outside/b/__toys__").exists(), "{said:?}");
    job.roots = vec![Root { within: Some(tree.path("elsewhere")), ..within("a", "one.toy") }];
    assert!(run(&job, &|_: &Event<'_>| ()).is_err());
}

#[test]
fn in_a_prefix_each_name_of_a_directory_has_artifacts_of_its_own() {
    let tree = Tree::new(&["real/a.toy"]);
    std::os::unix::fs::symlink("real", tree.path("link")).unwrap();
    let prefix = tempfile::tempdir().unwrap();
    let run = |command| {
        let (format, stop, compiler) = (Toy::new(), AtomicBool::new(false), Capitals::new());
        let options = Options { prefix: Some(prefix.path().into()), complete: true, ..Options::default() };
        let mut job = tree.job(command, &compiler, &format, &stop, options);
        // The tree above walks through no link.
        job.roots.extend(["link", "real", "real"].map(|path| Root { dir: tree.path(path), within: None, what: What::Tree }));
        let (summary, said) = listen(&job, tree.top.path());
        assert!(summary.is_good(), "{said:?}");
        summary.entries
    };
    assert_eq!(run(Command::Compile), 2);
    assert_eq!(run(Command::Verify), 2);
}

#[test]
fn one_large_folder_keeps_all_workers_busy() {
    let files: Vec<String> = (0..64).map(|n| format!("m{n}.toy")).collect();
    let tree = Tree::new(&files.iter().map(String::as_str).collect::<Vec<_>>());
    let (now, most) = (Arc::new(Mutex::new(0_u32)), Arc::new(Mutex::new(0_u32)));
    let peak = Arc::clone(&most);
    let compiler = Capitals::with(move |_| {
        *now.lock().unwrap() += 1;
        std::thread::sleep(Duration::from_millis(5));
        let mut here = now.lock().unwrap();
        let mut most = most.lock().unwrap();
        *most = (*most).max(*here);
        *here -= 1;
    });
    assert!(tree.run(Command::Compile, &compiler, Options::default()).0.is_good());
    assert_eq!(*peak.lock().unwrap(), 4, "the compiler's width");
}

#[test]
fn stop_ends_the_run_soon_and_leaves_nothing() {
    let files: Vec<String> = (0..200).map(|n| format!("m{n}.toy")).collect();
    let tree = Tree::new(&files.iter().map(String::as_str).collect::<Vec<_>>());
    let (format, stop) = (Toy::new(), Arc::new(AtomicBool::new(false)));
    let flag = Arc::clone(&stop);
    let compiler = Capitals::with(move |_| {
        flag.store(true, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(30));
    });
    let job = tree.job(Command::Compile, &compiler, &format, &stop, Options::default());
    let began = Instant::now();
    let summary = run(&job, &()).unwrap();
    assert!(summary.stopped && !summary.is_good());
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(compiler.count() < 200);
    let names = if tree.path("__toys__").exists() { tree.names("__toys__") } else { Vec::new() };
    assert!(names.iter().all(|name| name.ends_with(".toyc")), "{names:?}");
}

#[test]
fn a_root_that_is_not_there_is_an_entry_that_failed() {
    let tree = Tree::new(&["there/b.toy"]);
    let (format, stop, compiler) = (Toy::new(), AtomicBool::new(false), Capitals::new());
    let mut job = tree.job(Command::Compile, &compiler, &format, &stop, Options::default());
    let root = |path: &str| Root { dir: tree.path(path), within: None, what: What::Tree };
    job.roots = vec![root("nowhere"), root("there")];
    let (summary, said) = listen(&job, tree.top.path());
    assert_eq!((summary.action(Action::Built), summary.action(Action::Failed), summary.wrong), (1, 1, 1), "{said:?}");
    assert!(Root::of(&tree.path("nowhere"), &format).is_err());
    tree.source("a.txt", b"");
    assert!(Root::of(&tree.path("a.txt"), &format).is_err());
}

#[test]
fn a_prefix_is_kept_within_its_size_and_age() {
    let tree = Tree::new(&["a.toy", "b.toy", "c.toy"]);
    let prefix = tempfile::tempdir().unwrap();
    tree.run(Command::Compile, &Capitals::new(), Options { prefix: Some(prefix.path().into()), ..Options::default() });
    let mirrored = |name: &str| prefix.path().join(tree.path(name).strip_prefix("/").unwrap());
    for (name, seconds) in [("a.0.toyc", 300), ("b.0.toyc", 200), ("c.0.toyc", 100)] {
        age(&mirrored(name), seconds);
    }
    let size = std::fs::metadata(mirrored("a.0.toyc")).unwrap().len();
    let clean = |clean: Clean| {
        let (format, stop, compiler) = (Toy::new(), AtomicBool::new(false), Capitals::new());
        let options = Options { prefix: Some(prefix.path().into()), clean, ..Options::default() };
        let mut job = tree.job(Command::Clean, &compiler, &format, &stop, options);
        job.roots = vec![Root { dir: prefix.path().into(), within: None, what: What::Prefix }];
        assert!(run(&job, &()).unwrap().is_good());
        ["a.0.toyc", "b.0.toyc", "c.0.toyc"].map(|name| mirrored(name).exists())
    };
    assert_eq!(clean(Clean { keep_bytes: Some(3 * size), ..Clean::default() }), [true, true, true]);
    assert_eq!(clean(Clean { keep_bytes: Some(3 * size - 1), ..Clean::default() }), [false, true, true]);
    let made_before = Some(bytekeep::base::sys::Time::now().minus_seconds(150));
    assert_eq!(clean(Clean { made_before, ..Clean::default() }), [false, false, true]);
}

#[test]
fn files_of_one_directory_are_one_root_however_many_are_named() {
    let files: Vec<String> = (0..300).map(|n| format!("m{n}.toy")).collect();
    let tree = Tree::new(&files.iter().map(String::as_str).collect::<Vec<_>>());
    let (format, stop, compiler) = (Toy::new(), AtomicBool::new(false), Capitals::new());
    let mut job = tree.job(Command::Compile, &compiler, &format, &stop, Options { lock_timeout: Duration::ZERO, ..Options::default() });
    job.roots = files.iter().map(|file| Root::of(&tree.path(file), &format).unwrap()).collect();
    let summary = run(&job, &|event: &Event<'_>| assert!(!matches!(event, Event::Waiting { .. }), "it waits for itself")).unwrap();
    assert_eq!((summary.action(Action::Built), summary.wrong), (300, 0));
}

#[test]
fn a_listener_that_panics_ends_the_run() {
    let tree = Tree::new(&["a.toy", "b.toy"]);
    let (format, stop, compiler) = (Toy::new(), AtomicBool::new(false), Capitals::new());
    let job = tree.job(Command::Compile, &compiler, &format, &stop, Options::default());
    let listener = |event: &Event<'_>| assert!(!matches!(event, Event::Entry(_)), "a listener's own fault");
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&job, &listener).map(|_| ())));
    assert!(ended.is_err(), "the panic is passed on");
    let litter: Vec<_> = tree.names("__toys__").into_iter().filter(|name| name.starts_with(".bytekeep")).collect();
    assert_eq!(litter, [""; 0]);
}

#[test]
fn evidence_that_cannot_be_kept_keeps_what_is_bad() {
    let tree = Tree::new(&["a.toy", "gone.toy"]);
    tree.compile();
    let path = tree.path("__toys__/a.0.toyc");
    std::fs::write(&path, b"torn").unwrap();
    let (format, stop, compiler) = (Toy::new(), AtomicBool::new(false), Capitals::new());
    let options = |keep: &Path| Options { keep_bad: Some(keep.into()), ..Options::default() };
    let job = tree.job(Command::Repair, &compiler, &format, &stop, options(&tree.path("no/where")));
    assert!(run(&job, &()).is_err(), "nothing is done without the place for it");
    assert_eq!(std::fs::read(&path).unwrap(), b"torn");
    // A damaged orphan, and one larger than what is kept: sparse.
    std::fs::remove_file(tree.path("gone.toy")).unwrap();
    std::fs::write(tree.path("__toys__/gone.0.toyc"), b"torn too").unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(300 << 20).unwrap();
    let keep = tempfile::tempdir().unwrap();
    let (summary, said) = tree.run(Command::Repair, &compiler, options(keep.path()));
    assert!(summary.is_good(), "{said:?}");
    let mut kept: Vec<_> = std::fs::read_dir(keep.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    kept.sort();
    assert_eq!(kept.len(), 4, "{kept:?}");
    let sizes: Vec<u64> =
        kept.iter().filter(|path| path.extension().unwrap() == "toyc").map(|path| path.metadata().unwrap().len()).collect();
    assert!(sizes.contains(&8) && sizes.contains(&(256 << 20)), "{sizes:?}");
    assert!(
        kept.iter().any(|path| path.extension().unwrap() == "txt" && std::fs::read_to_string(path).unwrap().contains("only the first"))
    );
}

#[test]
fn verify_compiles_again_what_is_sound_and_nothing_else() {
    let tree = Tree::new(&["same.toy", "other.toy", "cut.toy", "stale.toy"]);
    tree.compile();
    let artifact = |stem: &str| tree.path(&format!("__toys__/{stem}.0.toyc"));
    let bytes = std::fs::read(artifact("other")).unwrap();
    let mut unsealed = bytes[..bytes.len() - 96].to_vec();
    *unsealed.last_mut().unwrap() ^= 1;
    std::fs::write(artifact("other"), unsealed).unwrap();
    let bytes = std::fs::read(artifact("cut")).unwrap();
    std::fs::write(artifact("cut"), &bytes[..bytes.len() - 1]).unwrap();
    tree.source("stale.toy", b"something longer than it was");
    let compiler = Capitals::new();
    let (summary, said) = tree.run(Command::Verify, &compiler, Options { recompile: true, ..Options::default() });
    assert_eq!((compiler.count(), summary.wrong), (2, 3));
    assert_eq!(one(&said, "__toys__/same.0.toyc"), (Verdict::Ok, Action::None, None));
    assert_eq!(one(&said, "__toys__/other.0.toyc"), (Verdict::Unsealed, Action::None, Some("other-code")));
    let (summary, _) = tree.verify();
    assert_eq!(summary.wrong, 2, "without a compiler nobody sees it");
}

/// A compiler that was stopped.
struct Stopped(Capitals);

impl Compiler for Stopped {
    fn target(&self) -> &Target {
        self.0.target()
    }

    fn width(&self) -> usize {
        1
    }

    fn compile(&self, _request: &Request<'_>) -> Result<Made, CompileError> {
        Err(CompileError::Stopped)
    }

    fn is_stopped(&self) -> bool {
        true
    }
}

#[test]
fn what_could_not_be_compiled_again_before_the_end_is_not_called_ok() {
    let tree = Tree::new(&["a.toy"]);
    tree.compile();
    let (format, stop, capitals, stopped) = (Toy::new(), AtomicBool::new(false), Capitals::new(), Stopped(Capitals::new()));
    let mut job = tree.job(Command::Verify, &capitals, &format, &stop, Options { recompile: true, ..Options::default() });
    job.makers = vec![Maker { compiler: &stopped, levels: vec![0] }];
    let (summary, said) = listen(&job, tree.top.path());
    assert!(said.is_empty() && summary.stopped && !summary.is_good(), "{said:?}");
}
