//! Claims: what several runs over several trees want at one time is compiled once, and who dies or stops keeps nobody.

#![cfg(all(feature = "cli", target_os = "linux"))]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, reason = "tests write files of their own")]

mod support;
#[path = "support/whole.rs"]
mod whole;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use support::Python;
use whole::{Outcome, Run, Running, Tree, all_below, python};

const SOURCES: usize = 60;
/// What keeps a compiler busy for a while: that many functions.
const SLOW: usize = 120;
/// Much longer than any of this takes: nobody here is to wait in vain.
const LONG: &str = "600";

fn source(number: usize, functions: usize) -> String {
    let function =
        |at| format!("def f{at}(a, b={number}):\n    return [(x, a, b, 'text {at}') for x in range({at}) if x % {number} > a]\n");
    format!("VALUE = {number}\n{}", (0..functions).map(function).collect::<String>())
}

/// A tree with these sources, spread over some packages. `good.py` is the same everywhere, too.
fn tree(sources: usize, functions: usize) -> Tree {
    let tree = Tree::new();
    for number in 1..=sources {
        tree.old_file(format!("p{}/m{number}.py", number % 7), source(number, functions).as_bytes());
    }
    tree
}

fn compile(tree: &Tree, python: &Python, store: &Path, args: &[&str]) -> Run {
    let words = ["compile", "--format", "json", "--jobs", "2", "."].into_iter().chain(args.iter().copied());
    tree.bytekeep(Some(python), words).env("BYTEKEEP_STORE", store)
}

fn count(outcome: &Outcome, name: &str) -> usize {
    usize::try_from(outcome.summary()["store"][name].as_u64().unwrap()).unwrap()
}

/// All is compiled and sealed, and no name of ours is left.
#[track_caller]
fn assert_whole(tree: &Tree, python: &Python, entries: usize) {
    let outcome = tree.verify().exits(0);
    assert_eq!(outcome.verdicts("ok"), entries as u64, "{}", outcome.shown());
    assert_eq!(tree.litter(), Vec::<std::path::PathBuf>::new());
    tree.assert_good(python);
}

/// What is in a store beside values, the empty file of claims and the tag.
fn strange(store: &Path) -> Vec<std::path::PathBuf> {
    let known = |path: &Path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        match path.parent().unwrap().file_name().unwrap().to_str().unwrap() {
            "store-1" => path.is_dir() && name.len() == 2 || name == "record-2" || name == "claims" && path.metadata().unwrap().len() == 0,
            shard if shard.len() == 2 => name.len() == 64 && name.starts_with(shard),
            _ => name == "CACHEDIR.TAG" || name == "store-1",
        }
    };
    all_below(store).into_iter().filter(|path| !known(path)).collect()
}

#[test]
fn what_eight_runs_over_eight_trees_want_is_compiled_once() {
    let python = python();
    let store = tempfile::tempdir().unwrap();
    let trees: Vec<Tree> = (0..8).map(|_| tree(SOURCES, SLOW)).collect();
    let runs: Vec<Running> = trees.iter().map(|tree| compile(tree, python, store.path(), &["--lock-timeout", LONG]).start()).collect();
    let outcomes: Vec<Outcome> = runs.into_iter().map(|run| run.wait().exits(0)).collect();
    let sum = |name| outcomes.iter().map(|outcome| count(outcome, name)).sum::<usize>();
    assert_eq!([sum("puts"), sum("misses"), sum("hits")], [SOURCES + 1, SOURCES + 1, 7 * (SOURCES + 1)]);
    let compiling = outcomes.iter().filter(|outcome| count(outcome, "puts") > 0).count();
    assert!(compiling > 1, "one did it all, and nothing was shown");
    for (tree, outcome) in trees.iter().zip(&outcomes) {
        assert_eq!(outcome.actions("built"), SOURCES as u64 + 1, "{}", outcome.shown());
        assert_whole(tree, python, SOURCES + 1);
    }
    assert_eq!(strange(store.path()), Vec::<std::path::PathBuf>::new());
}

#[test]
fn the_same_source_all_over_a_tree_is_compiled_once() {
    let python = python();
    let store = tempfile::tempdir().unwrap();
    let tree = Tree::new();
    for number in 0..20 {
        tree.old_file(format!("p{number}/m.py"), source(1, 20 * SLOW).as_bytes());
    }
    let outcome = compile(&tree, python, store.path(), &["--lock-timeout", LONG]).run().exits(0);
    assert_eq!(["puts", "misses", "hits"].map(|name| count(&outcome, name)), [2, 2, 19], "{}", outcome.shown());
    assert_whole(&tree, python, 21);
}

#[test]
fn whoever_dies_holding_claims_keeps_nobody() {
    let python = python();
    let store = tempfile::tempdir().unwrap();
    let trees: Vec<Tree> = (0..6).map(|_| tree(SOURCES, SLOW)).collect();
    let start = |tree| compile(tree, python, store.path(), &["--lock-timeout", LONG]).start();
    let (mut killed, mut round) = (0, 0);
    while killed < 10 && round < 40 {
        let runs: Vec<Running> = trees.iter().map(start).collect();
        // Some die as soon as anything was compiled, some a little later.
        let values = || all_below(store.path()).into_iter().filter(|path| path.file_name().unwrap().len() == 64).count();
        let before = values();
        while values() < before + round % 5 && round < 20 && values() <= SOURCES {
            std::thread::sleep(Duration::from_millis(2));
        }
        for (number, run) in runs.into_iter().enumerate() {
            if number % 3 == round % 3 {
                run.wait().exits(0);
            } else {
                run.signal("KILL");
                killed += usize::from(run.wait().signal == Some(9));
            }
        }
        round += 1;
    }
    assert!(killed > 0, "nobody was killed at work");
    for tree in &trees {
        let outcome = start(tree).wait().exits(0);
        assert_eq!(count(&outcome, "puts"), 0, "{}", outcome.shown());
        assert_whole(tree, python, SOURCES + 1);
    }
}

/// Is a byte of the store's file of claims locked by anybody?
fn is_claimed(store: &Path) -> bool {
    let Ok(file) = std::fs::metadata(store.join("store-1/claims")) else { return false };
    let inode = format!(":{} ", file.ino());
    std::fs::read_to_string("/proc/locks").unwrap().lines().any(|line| line.contains("OFDLCK") && line.contains(&inode))
}

/// Are all threads of a process stopped, or ended?
fn is_stopped(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let state =
        |path: &Path| Some(std::fs::read_to_string(path.join("stat")).ok()?.rsplit_once(')')?.1.trim().starts_with(['T', 'Z', 'X']));
    threads.flatten().all(|thread| state(&thread.path()).unwrap_or(true))
}

/// A run that is stopped while it holds a claim; its tree has one source, which takes long.
fn stopped_holder(tree: &Tree, python: &Python, store: &Path) -> Running {
    loop {
        let mut run = compile(tree, python, store, &["--lock-timeout", LONG]).start();
        while !is_claimed(store) && run.child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        if run.child.try_wait().unwrap().is_none() {
            run.signal("STOP");
            while !is_stopped(run.child.id()) {
                std::thread::sleep(Duration::from_millis(1));
            }
            if is_claimed(store) {
                return run;
            }
            run.signal("CONT");
        }
        // This test slept, and it is done.
        run.wait();
        forget(tree, store);
    }
}

/// Removes all artifacts of a tree and all values of a store.
fn forget(tree: &Tree, store: &Path) {
    let is_artifact = |path: &Path| path.extension().is_some_and(|end| end == "pyc");
    let is_value = |path: &Path| path.file_name().unwrap().len() == 64;
    let made = all_below(&tree.root()).into_iter().filter(|path| is_artifact(path));
    made.chain(all_below(store).into_iter().filter(|path| is_value(path))).for_each(|path| std::fs::remove_file(path).unwrap());
}

#[test]
fn a_stopped_holder_costs_the_time_out_and_no_more() {
    let python = python();
    let store = tempfile::tempdir().unwrap();
    let large = || tree(1, 60 * SLOW);
    let (first, second, third) = (large(), large(), large());
    std::fs::remove_file(first.path("good.py")).unwrap();
    let holder = stopped_holder(&first, python, store.path());
    for timeout in ["0", "1"] {
        let outcome = compile(&second, python, store.path(), &["--lock-timeout", timeout]).run().exits(0);
        assert_eq!(count(&outcome, "hits") + count(&outcome, "puts"), 2, "{}", outcome.shown());
        assert!(outcome.entry("m1.py")["stored"].is_null(), "{}", outcome.shown());
        let told = outcome.lines.iter().any(|line| line["kind"] == "note" && line["code"] == "claim");
        assert_eq!(told, timeout == "1", "{}", outcome.shown());
        assert_whole(&second, python, 2);
        forget(&second, store.path());
    }
    // Whoever waits is served as soon as the holder goes on.
    let waiting = compile(&third, python, store.path(), &["--lock-timeout", LONG]).start();
    while !third.artifact("good.py", python).is_file() {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!third.artifact("p1/m1.py", python).exists(), "it did not wait");
    holder.signal("CONT");
    assert_eq!(count(&holder.wait().exits(0), "puts"), 1);
    let outcome = waiting.wait().exits(0);
    assert_eq!(outcome.entry("m1.py")["stored"], true, "{}", outcome.shown());
    for tree in [&first, &third] {
        assert_eq!(tree.litter(), Vec::<std::path::PathBuf>::new());
        assert_eq!(tree.import(python, "p1.m1"), "1");
    }
}

#[test]
fn who_waits_for_one_that_dies_or_fails_compiles_it_itself() {
    let python = python();
    for dies in [true, false] {
        let store = tempfile::tempdir().unwrap();
        let bad = |tree: &Tree| {
            let end = if dies { "" } else { "x = )\n" };
            tree.old_file("p1/m1.py", format!("{}{end}", source(1, 60 * SLOW)).as_bytes());
        };
        let (first, second) = (tree(1, 1), tree(1, 1));
        [&first, &second].into_iter().for_each(bad);
        std::fs::remove_file(first.path("good.py")).unwrap();
        let holder = stopped_holder(&first, python, store.path());
        let waiting = compile(&second, python, store.path(), &["--lock-timeout", LONG]).start();
        while !second.artifact("good.py", python).is_file() {
            std::thread::sleep(Duration::from_millis(5));
        }
        if dies {
            holder.signal("KILL");
            assert_eq!(holder.wait().signal, Some(9));
            let outcome = waiting.wait().exits(0);
            assert_eq!((count(&outcome, "puts"), count(&outcome, "hits")), (2, 0), "{}", outcome.shown());
            assert_whole(&second, python, 2);
        } else {
            holder.signal("CONT");
            for (tree, run) in [(&first, holder), (&second, waiting)] {
                run.wait().exits(1).fails("m1.py", "source", &["x = )", tree.path("p1/m1.py").to_str().unwrap()]);
            }
            assert!(!is_claimed(store.path()));
        }
    }
}
