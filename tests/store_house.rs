//! `bytekeep store`: what it tells, proves, takes in and removes, beside runs that use the store; and the system's store.

#![cfg(feature = "cli")]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, reason = "tests write files of their own")]

mod support;
#[path = "support/whole.rs"]
mod whole;

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use bytekeep::base::seal::{self, Artifact};
use support::Python;
use whole::{Outcome, Run, Tree, all_below, all_pythons, python, python_for_all, root_or_skip, set_mtime};

const SOURCE: &str = "'''Words.'''\nVALUE = 2.5\ndef function(a, b=1):\n    assert a\n    return [lambda x: (x, a) for x in (1, 2.5)]\n";

/// The command on a store of the test's own.
fn with_store(run: Run, store: &Path) -> Run {
    run.env("BYTEKEEP_STORE", store)
}

fn store_command(tree: &Tree, store: &Path, words: &[&str]) -> Outcome {
    with_store(tree.bytekeep(None, ["store"].into_iter().chain(words.iter().copied()).chain(["--format", "json"])), store).run()
}

fn on_tree(tree: &Tree, python: &Python, store: &Path, words: &[&str]) -> Outcome {
    with_store(tree.bytekeep(Some(python), words.iter().copied().chain(["--format", "json", "."])), store).run()
}

/// The last line, of a command on the store alone.
fn told(outcome: &Outcome) -> &serde_json::Value {
    outcome.lines.last().filter(|line| line["kind"] == "store").unwrap_or_else(|| panic!("{}", outcome.shown()))
}

fn counts(outcome: &Outcome) -> [u64; 3] {
    ["hits", "misses", "puts"].map(|name| outcome.summary()["store"][name].as_u64().unwrap())
}

fn values(store: &Path) -> Vec<PathBuf> {
    all_below(store).into_iter().filter(|path| path.file_name().unwrap().len() == 64).collect()
}

/// A tree with one source beside `good.py`.
fn tree() -> Tree {
    let tree = Tree::new();
    tree.old_file("m.py", SOURCE.as_bytes());
    set_mtime(&tree.path("good.py"), 1_500_000_000);
    tree
}

/// Everything in a tree, with its bytes and times.
fn state(tree: &Tree) -> Vec<(PathBuf, Vec<u8>, i64)> {
    let mut all: Vec<_> = all_below(&tree.root()).into_iter().filter(|path| path.is_file()).collect();
    all.sort();
    all.into_iter().map(|path| (path.clone(), std::fs::read(&path).unwrap(), path.metadata().unwrap().mtime_nsec())).collect()
}

/// Compiled by the interpreter itself, and by us: taken in both times, and the next tree needs no interpreter.
#[test]
fn what_stands_in_trees_is_taken_in() {
    for python in all_pythons() {
        for sealed in [false, true] {
            let (first, second) = (tree(), tree());
            let store = tempfile::tempdir().unwrap();
            if sealed {
                first.bytekeep(Some(python), ["compile", "--no-store", "."]).run().exits(0);
            } else {
                let done = python.command().args(["-m", "compileall", "-q", "."]).current_dir(first.root()).status().unwrap();
                assert!(done.success());
            }
            let before = state(&first);
            assert_eq!(before.len(), 4, "{}", python.tag);
            let outcome = on_tree(&first, python, store.path(), &["store", "add"]).exits(0);
            assert_eq!(counts(&outcome), [0, 2, 2], "{} {}", python.tag, outcome.shown());
            assert_eq!(outcome.summary()["command"], "store add");
            assert_eq!(counts(&on_tree(&first, python, store.path(), &["store", "add"]).exits(0)), [2, 0, 0], "{}", python.tag);
            let outcome = on_tree(&first, python, store.path(), &["store", "add", "--dry-run"]).exits(0);
            assert_eq!((counts(&outcome), outcome.summary()["dry_run"].as_bool()), ([2, 0, 0], Some(true)), "{}", outcome.shown());
            assert_eq!(state(&first), before, "{}: something was written to the tree", python.tag);
            assert_eq!(counts(&on_tree(&second, python, store.path(), &["compile"]).exits(0)), [2, 0, 0], "{}", python.tag);
            second.assert_good(python);
            assert_eq!(second.import(python, "m"), "2.5");
        }
    }
}

#[test]
fn what_is_not_the_code_of_its_source_is_not_taken_in() {
    let python = python();
    let tree = tree();
    let store = tempfile::tempdir().unwrap();
    tree.bytekeep(Some(python), ["compile", "--no-store", "."]).run().exits(0);
    // By its seal it is whole and ours; another release with this magic number might have made it.
    let path = tree.artifact("m.py", python);
    let old = std::fs::read(&path).unwrap();
    let Artifact { payload, seal } = Artifact::split(&old).unwrap();
    let (mut payload, seal) = (payload.to_vec(), seal.unwrap());
    let at = payload.windows(8).position(|part| part == 2.5_f64.to_le_bytes()).unwrap();
    payload[at..at + 8].copy_from_slice(&3.5_f64.to_le_bytes());
    std::fs::write(&path, seal::sealed(payload, seal.source, seal.label, false)).unwrap();
    tree.verify().exits(0);
    let outcome = on_tree(&tree, python, store.path(), &["store", "add"]).exits(1);
    outcome.fails("m.py", "other-code", &[]);
    assert_eq!(counts(&outcome), [0, 2, 1]);
    // Where the store has the right code it is found without an interpreter's help too.
    tree.bytekeep(Some(python), ["compile", "--no-store", "--force", "m.py"]).run().exits(0);
    on_tree(&tree, python, store.path(), &["store", "add"]).exits(0);
    let mut payload = Artifact::split(&std::fs::read(&path).unwrap()).unwrap().payload.to_vec();
    payload[at..at + 8].copy_from_slice(&3.5_f64.to_le_bytes());
    std::fs::write(&path, seal::sealed(payload, seal.source, seal.label, false)).unwrap();
    on_tree(&tree, python, store.path(), &["store", "add"]).exits(1).fails("m.py", "store", &[]);
    // Nor what is stale or cut.
    std::fs::write(&path, &old[..old.len() / 2]).unwrap();
    tree.file("good.py", b"VALUE = 43\n");
    let outcome = on_tree(&tree, python, store.path(), &["store", "add"]).exits(1);
    assert_eq!((outcome.wrong(), counts(&outcome)), (2, [0; 3]), "{}", outcome.shown());
}

#[test]
fn who_asks_what_would_be_taken_in_gets_the_same_answer_and_nothing_is_put_anywhere() {
    let python = python();
    let (tree, top) = (tree(), tempfile::tempdir().unwrap());
    tree.bytekeep(Some(python), ["compile", "--no-store", "."]).run().exits(0);
    let store = top.path().join("store");
    let outcome = on_tree(&tree, python, &store, &["store", "add", "--dry-run"]).exits(0);
    assert_eq!(counts(&outcome), [0, 2, 2], "{}", outcome.shown());
    assert!(!store.exists());
    with_store(tree.bytekeep(Some(python), ["store", "add", "good.py"]), &store).run().exits(0);
    let used = |store: &Path| told(&store_command(&tree, store, &["stats"]).exits(0))["used"].clone();
    let before = (all_below(&store), used(&store));
    let human = with_store(tree.bytekeep(Some(python), ["store", "add", "--dry-run", "."]), &store).run().exits(0);
    assert!(human.stderr.contains("Would add 1 entry") && human.stderr.contains("1 there already"), "{}", human.shown());
    assert_eq!((all_below(&store), used(&store)), before);
    // What is not the code of its source is told as it would be.
    std::fs::write(tree.artifact("m.py", python), b"").unwrap();
    on_tree(&tree, python, &store, &["store", "add", "--dry-run"]).exits(1).is("m.py", "truncated", "none");
}

#[test]
fn adding_needs_a_store_and_an_interpreter() {
    let tree = tree();
    let outcome = tree.bytekeep(Some(python()), ["store", "add", "--no-store", "."]).run().exits(2);
    assert!(outcome.stderr.contains("no store") && outcome.stderr.contains("--store"), "{}", outcome.shown());
    let outcome = tree.bytekeep(None, ["store", "add", "--python", "/none/python", "."]).run().exits(2);
    assert!(outcome.stderr.contains("/none/python"), "{}", outcome.shown());
    assert_eq!(tree.bytekeep(None, ["store", "frobnicate"]).run().code, Some(2));
}

#[test]
fn what_is_in_the_store_and_what_it_was_good_for() {
    let python = python();
    let top = tempfile::tempdir().unwrap();
    let store = top.path().join("store");
    let none = store_command(&tree(), &store, &["stats"]).exits(0);
    assert_eq!((told(&none)["values"].as_u64(), told(&none)["used"]["since"].is_null()), (Some(0), true));
    assert!(!store.exists(), "who only looks makes nothing");
    on_tree(&tree(), python, &store, &["compile"]).exits(0);
    on_tree(&tree(), python, &store, &["compile"]).exits(0);
    // To verify saves nothing.
    let first = tree();
    on_tree(&first, python, &store, &["compile"]).exits(0);
    on_tree(&first, python, &store, &["verify", "--recompile"]).exits(0);
    let outcome = store_command(&first, &store, &["stats"]).exits(0);
    let bytes: u64 = values(&store).iter().map(|path| path.metadata().unwrap().len()).sum();
    let line = told(&outcome);
    assert_eq!((line["values"].as_u64(), line["bytes"].as_u64()), (Some(2), Some(bytes)));
    assert_eq!(line["interpreters"][&python.tag], serde_json::json!({"values": 2, "bytes": bytes}));
    assert_eq!(["hits", "misses", "puts"].map(|name| line["used"][name].as_u64().unwrap()), [4, 2, 2]);
    assert!(line["used"]["saved_seconds"].as_f64().unwrap() > 0.0);
    let human = with_store(first.bytekeep(None, ["store", "stats"]), &store).run().exits(0);
    for part in ["2 values", &python.tag, "66 %", store.to_str().unwrap()] {
        assert!(human.stdout.contains(part), "{part}: {}", human.shown());
    }
    let dir = with_store(first.bytekeep(None, ["store", "dir"]), &store).run().exits(0);
    assert_eq!(dir.stdout, format!("{}\n", store.display()));
}

#[test]
fn bad_values_are_found_and_removed_where_asked() {
    let (tree, python) = (tree(), python());
    let store = tempfile::tempdir().unwrap();
    on_tree(&tree, python, store.path(), &["compile"]).exits(0);
    assert_eq!(told(&store_command(&tree, store.path(), &["verify"]).exits(0))["values"], 2);
    let bad = values(store.path())[0].clone();
    let mut bytes = std::fs::read(&bad).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&bad, bytes).unwrap();
    let outcome = store_command(&tree, store.path(), &["verify"]).exits(1);
    assert_eq!(told(&outcome)["bad"], 1);
    let line = outcome.lines.iter().find(|line| line["kind"] == "value").unwrap();
    assert_eq!((line["path"].as_str(), line["removed"].as_bool()), (bad.to_str(), Some(false)), "{line}");
    assert!(line["cause"]["text"].as_str().unwrap().len() > 10);
    let human = with_store(tree.bytekeep(None, ["store", "verify"]), store.path()).run().exits(1);
    assert!(human.stdout.contains(bad.to_str().unwrap()) && human.stderr.contains("--remove-bad"), "{}", human.shown());
    assert_eq!(store_command(&tree, store.path(), &["verify", "--exit-zero"]).code, Some(0));
    assert_eq!(told(&store_command(&tree, store.path(), &["verify", "--remove-bad"]).exits(0))["removed"], 1);
    assert!(!bad.exists());
    assert_eq!(told(&store_command(&tree, store.path(), &["verify"]).exits(0))["values"], 1);
}

#[test]
fn pruning_removes_what_was_used_least_and_what_the_dead_left() {
    let (first, python) = (tree(), python());
    let store = tempfile::tempdir().unwrap();
    on_tree(&first, python, store.path(), &["compile"]).exits(0);
    for path in values(store.path()) {
        set_mtime(&path, 1_500_000_000);
    }
    let dead = store.path().join(".bytekeep-abc.old/ab");
    std::fs::create_dir_all(&dead).unwrap();
    std::fs::write(dead.join("c"), b"").unwrap();
    // One of the two is used, and that is marked.
    let second = Tree::new();
    let outcome = on_tree(&second, python, store.path(), &["compile"]).exits(0);
    assert_eq!(counts(&outcome), [1, 0, 0]);
    let line = store_command(&first, store.path(), &["prune", "--older-than", "30"]).exits(0);
    assert_eq!((told(&line)["removed"].as_u64(), told(&line)["values"].as_u64()), (Some(1), Some(1)), "{}", line.shown());
    assert!(!dead.exists());
    assert_eq!(counts(&on_tree(&tree(), python, store.path(), &["compile"]).exits(0)), [1, 1, 1]);
    assert_eq!(told(&store_command(&first, store.path(), &["prune"]).exits(0))["removed"], 0);
    assert_eq!(told(&store_command(&first, store.path(), &["prune", "--max-size", "0"]).exits(0))["removed"], 2);
    assert!(values(store.path()).is_empty());
}

/// The end of a run keeps the store below its limit, and takes the oldest values, not those that it just put.
#[test]
fn a_run_keeps_the_store_below_its_limit() {
    let python = python();
    let store = tempfile::tempdir().unwrap();
    let run = |from: usize| {
        let tree = Tree::new();
        for number in from..from + 8 {
            tree.old_file(format!("m{number}.py"), format!("VALUE = {number}\nTEXT = '{}'\n", "x".repeat(2000)).as_bytes());
        }
        let run = tree.bytekeep(Some(python), ["compile", "--format", "json", "--store-max-size", "40K", "."]);
        let outcome = with_store(run, store.path()).run().exits(0);
        tree.assert_good(python);
        outcome
    };
    for round in 0..5 {
        run(round * 8);
        let all = values(store.path());
        let bytes: u64 = all.iter().map(|path| path.metadata().unwrap().len()).sum();
        assert!(bytes <= 40 << 10, "{bytes}");
        // What this run put or used is as old as that.
        let fresh = all.iter().filter(|path| path.metadata().unwrap().mtime() > 1_600_000_000);
        fresh.for_each(|path| set_mtime(path, 1_500_000_000 + i64::try_from(round).unwrap()));
    }
    let [hits, ..] = counts(&run(32));
    assert!(hits >= 8, "the last ones are there: {hits}");
    assert_eq!(counts(&run(0))[0], 1, "the first ones are not, but for the one that all runs have");
}

#[test]
fn runs_go_on_while_the_store_is_cleaned() {
    let python = python();
    let top = tempfile::tempdir().unwrap();
    let store = top.path().join("store");
    let trees: Vec<Tree> = (0..3).map(|_| Tree::new()).collect();
    for tree in &trees {
        for number in 0..60 {
            tree.old_file(format!("m{number}.py"), format!("VALUE = {number}\n").as_bytes());
        }
    }
    for _ in 0..2 {
        let runs: Vec<_> = trees
            .iter()
            .map(|tree| {
                let words = ["compile", "--force", "--format", "json", "--durability", "none", "."];
                with_store(tree.bytekeep(Some(python), words), &store).start()
            })
            .collect();
        for word in ["clean", "prune", "clean", "stats", "clean", "verify", "clean"] {
            store_command(&trees[0], &store, &[word]).exits(0);
        }
        for (run, tree) in runs.into_iter().zip(&trees) {
            let outcome = run.wait().exits(0);
            assert_eq!(outcome.actions("built"), 61);
            assert!(outcome.lines.iter().all(|line| line["kind"] != "note"), "{}", outcome.shown());
            tree.verify().exits(0);
        }
    }
    store_command(&trees[0], &store, &["clean"]).exits(0);
    let left: Vec<_> = std::fs::read_dir(&store).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

/// A store that root has filled for all, and made readable.
fn systems_store(tree: &Tree, python: &Python, open: bool) -> PathBuf {
    let system = tree.outside("system");
    on_tree(tree, python, &system, &["compile", "good.py"]).exits(0);
    if open {
        for dir in [&system, &system.join("store-1")] {
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        // From then on what is put is for all; what was there is the administrator's to open.
        store_command(tree, &system, &["clean"]).exits(0);
        on_tree(tree, python, &system, &["store", "add"]).exits(0);
    }
    system
}

#[test]
fn a_users_run_reads_the_systems_store_and_leaves_it_as_it_is() {
    if !root_or_skip("the system's store") {
        return;
    }
    let Some(python) = python_for_all() else { return };
    let (first, second) = (tree(), tree());
    for tree in [&first, &second] {
        tree.open_to_all();
    }
    let system = systems_store(&first, python, true);
    let all = values(&system);
    assert_eq!(all.len(), 2);
    for path in &all {
        set_mtime(path, 1_500_000_000);
    }
    let compile = || {
        drop(std::fs::remove_dir_all(second.path("__pycache__")));
        for own in [second.root(), second.home()] {
            chown(own, Some(65534), Some(65534)).unwrap();
        }
        let run = second.bytekeep(Some(python), ["compile", "--format", "json", "."]).env("BYTEKEEP_SYSTEM_STORE", &system);
        run.by_nobody().run().exits(0)
    };
    let outcome = compile();
    assert_eq!(counts(&outcome), [2, 0, 0], "{}", outcome.shown());
    assert!(outcome.lines.iter().all(|line| line["kind"] != "note"), "{}", outcome.shown());
    assert!(all.iter().all(|path| path.metadata().unwrap().mtime() == 1_500_000_000), "a use was marked");
    assert!(values(&second.home()).is_empty());
    // So it is where they have none of their own.
    std::fs::set_permissions(second.home(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let outcome = compile();
    std::fs::set_permissions(second.home(), std::fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(counts(&outcome), [2, 0, 0], "{}", outcome.shown());
    assert!(outcome.lines.iter().any(|line| line["kind"] == "note" && line["code"] == "setup"));
    // A bad value is a miss, is told, and stays.
    let old = std::fs::read(&all[0]).unwrap();
    std::fs::write(&all[0], &old[1..]).unwrap();
    let outcome = compile();
    assert_eq!(counts(&outcome), [1, 1, 1]);
    let note = outcome.lines.iter().find(|line| line["kind"] == "note" && line["code"] == "system-store").unwrap();
    assert!(note["text"].as_str().unwrap().contains(all[0].to_str().unwrap()), "{note}");
    assert!(all[0].exists());
    std::fs::write(&all[0], old).unwrap();
    // What others could have written is not believed, and that is told; nor what is none.
    chown(system.join("store-1"), Some(65534), None).unwrap();
    drop(std::fs::remove_dir_all(second.home().join(".cache")));
    let outcome = compile();
    assert_eq!(counts(&outcome), [0, 2, 2]);
    let notes: Vec<_> = outcome.lines.iter().filter(|line| line["kind"] == "note").collect();
    assert!(notes.len() == 1 && notes[0]["text"].as_str().unwrap().contains(system.to_str().unwrap()), "{}", outcome.shown());
    std::fs::remove_dir_all(&system).unwrap();
    assert!(compile().lines.iter().all(|line| line["kind"] != "note"), "what is not there is no trouble");
}

#[test]
fn root_reads_no_users_store_as_the_systems() {
    if !root_or_skip("a user's store") {
        return;
    }
    let python = python();
    let tree = tree();
    let system = systems_store(&tree, python, false);
    let own = tree.outside("own");
    let compile = || {
        drop(std::fs::remove_dir_all(tree.path("__pycache__")));
        drop(std::fs::remove_dir_all(&own));
        let run = tree.bytekeep(Some(python), ["compile", "--format", "json", "."]).env("BYTEKEEP_SYSTEM_STORE", &system);
        with_store(run, &own).run().exits(0)
    };
    assert_eq!(counts(&compile())[0], 2);
    chown(&system, Some(65534), None).unwrap();
    let outcome = compile();
    assert_eq!(counts(&outcome)[0], 0);
    assert!(outcome.lines.iter().any(|line| line["kind"] == "note" && line["text"].as_str().unwrap().contains("root")));
    // Nor as its own.
    let run = with_store(tree.bytekeep(Some(python), ["compile", "."]), &system).run().exits(2);
    assert!(run.stderr.contains(system.to_str().unwrap()), "{}", run.shown());
}

/// What others may not read, they do not get out of a store that they may read.
#[test]
fn code_of_a_private_source_is_not_put_where_others_read() {
    let python = python();
    for (open, wanted) in [(false, 2), (true, 1)] {
        let (tree, store) = (tree(), tempfile::tempdir().unwrap());
        std::fs::set_permissions(tree.path("m.py"), std::fs::Permissions::from_mode(0o600)).unwrap();
        // Made, and opened to all by its owner.
        drop(bytekeep::store::Store::open(store.path()).unwrap());
        if open {
            for dir in [store.path().to_path_buf(), store.path().join("store-1")] {
                std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
            }
        }
        on_tree(&tree, python, store.path(), &["compile"]).exits(0);
        assert_eq!(values(store.path()).len(), wanted);
        let outcome = on_tree(&tree, python, store.path(), &["store", "add"]);
        assert_eq!(values(store.path()).len(), wanted, "{}", outcome.shown());
        assert_eq!(outcome.entry("m.py")["cause"]["code"].as_str(), open.then_some("private"), "{}", outcome.shown());
    }
}

/// A directory or a link where a value should be, and a file where values should lie: nobody can use those, and whoever starts over is rid of them.
#[test]
fn what_stands_in_the_way_of_values_is_found_and_goes() {
    let python = python();
    for what in ["dir", "link", "shard"] {
        for verb in [&["clean"][..], &["verify", "--remove-bad"]] {
            let (tree, store) = (tree(), tempfile::tempdir().unwrap());
            on_tree(&tree, python, store.path(), &["compile"]).exits(0);
            let value = values(store.path()).remove(0);
            let place = if what == "shard" { value.parent().unwrap().to_path_buf() } else { value.clone() };
            if what == "shard" {
                std::fs::remove_dir_all(&place).unwrap();
                std::fs::write(&place, b"in the way").unwrap();
            } else {
                std::fs::remove_file(&value).unwrap();
            }
            match what {
                "dir" => std::fs::create_dir_all(value.join("within")).unwrap(),
                "link" => std::os::unix::fs::symlink(tree.path("m.py"), &value).unwrap(),
                _ => {}
            }
            let found = store_command(&tree, store.path(), &["verify"]).exits(1);
            assert!(found.lines.iter().any(|line| line["kind"] == "value" && line["path"] == place.to_str().unwrap()), "{}", found.shown());
            for quiet in [&["stats"][..], &["prune", "--max-size", "1M"]] {
                store_command(&tree, store.path(), quiet).exits(0);
                assert!(place.symlink_metadata().is_ok(), "{quiet:?} leaves what it does not know");
            }
            store_command(&tree, store.path(), verb).exits(0);
            assert!(!place.is_file() && value.symlink_metadata().is_err(), "{verb:?} of what stands in place of a {what}");
            on_tree(&tree, python, store.path(), &["compile", "--force"]).exits(0);
            assert_eq!(values(store.path()).len(), 2);
            store_command(&tree, store.path(), &["verify"]).exits(0);
        }
    }
}
