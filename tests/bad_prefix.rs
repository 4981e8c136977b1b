//! A tree of artifacts apart from their sources (`--pycache-prefix`): named, absent, emptied, trimmed. The whole command, with real interpreters.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test's own files")]

#[path = "support/mod.rs"]
mod support;
#[path = "support/whole.rs"]
mod whole;

use std::os::unix::fs::PermissionsExt;

use support::Python;
use whole::{Tree, all_below, all_pythons, aloud, must, python, root_or_skip};

/// It came with 3.8: who is older looks beside the sources, whatever is set.
#[test]
fn a_prefix_is_for_those_that_know_it() {
    let knows = |python: &Python| python.version >= (3, 8);
    for python in all_pythons() {
        let tree = Tree::new();
        let prefix = tree.outside("prefix");
        let outcome = tree.bytekeep(Some(python), ["compile", "good.py"]).arg("--pycache-prefix").arg(&prefix).run();
        if knows(python) {
            let outcome = outcome.exits(0);
            assert!(prefix.exists() && !tree.artifact("good.py", python).exists(), "{}", outcome.shown());
            std::fs::remove_dir_all(&prefix).unwrap();
        } else {
            let outcome = outcome.exits(2);
            assert!(outcome.stderr.contains("knows no pycache prefix") && outcome.errors() == 1, "{}", outcome.shown());
        }
        tree.bytekeep(Some(python), ["compile", "good.py"]).env("PYTHONPYCACHEPREFIX", &prefix).run().exits(0);
        assert_eq!(prefix.exists(), knows(python), "{}", python.tag);
        if !knows(python) {
            tree.assert_good(python);
            let verified = tree.bytekeep(Some(python), ["verify", "--complete", "."]).env("PYTHONPYCACHEPREFIX", &prefix).run().exits(0);
            assert!(verified.stderr.contains("1 ok"), "{}", verified.shown());
        }
    }
    let old = all_pythons().iter().find(|python| !knows(python));
    let (Some(old), true) = (old, knows(python())) else {
        aloud("SKIP: there are no interpreters with and without a pycache prefix");
        return;
    };
    let tree = Tree::new();
    let run = tree.bytekeep(Some(python()), ["compile", "."]).arg("--python").arg(&old.path);
    let outcome = run.env("PYTHONPYCACHEPREFIX", tree.outside("prefix")).run().exits(2);
    assert!(outcome.stderr.contains("PYTHONPYCACHEPREFIX") && outcome.stderr.contains(&old.tag), "{}", outcome.shown());
    assert_eq!(whole::all_below(&tree.root()), [tree.path("good.py")]);
}

#[test]
fn the_prefix_and_an_artifact_in_it_can_be_named() {
    let tree = Tree::new();
    let prefix = tree.outside("prefix");
    let run = |args: &[&str], path: &std::path::Path| {
        tree.bytekeep(Some(python()), args.iter().copied()).arg("--pycache-prefix").arg(&prefix).arg(path).run()
    };
    run(&["compile"], &tree.root()).exits(0);
    let artifact = whole::all_below(&prefix).into_iter().find(|path| path.is_file()).unwrap();
    let whole = std::fs::read(&artifact).unwrap();
    std::fs::write(&artifact, &whole[..whole.len() / 2]).unwrap();
    for named in [&prefix, &artifact] {
        let told = run(&["verify"], named).exits(1);
        assert!(told.stderr.contains("1 truncated"), "{}", told.shown());
    }
    run(&["repair"], &prefix).exits(0);
    assert_eq!(std::fs::read(&artifact).unwrap(), whole);
    assert!(run(&["verify"], &artifact).exits(0).stderr.contains("1 ok"));
    let inside = run(&["verify"], artifact.parent().unwrap()).exits(0);
    assert!(inside.stderr.contains("lies in the pycache prefix"), "{}", inside.shown());
}

/// A prefix is wholly ours: with the last artifact of a directory go the directories that were made for it, and a tree that a dead process
/// was removing goes as well. What another tool keeps there stays.
#[test]
fn a_cleaned_prefix_is_empty() {
    let tree = Tree::new();
    let prefix = tree.outside("prefix");
    let run = |command, path: Option<&std::path::Path>| {
        let python = (command == "compile").then(python);
        let run = tree.bytekeep(python, [command]).arg("--pycache-prefix").arg(&prefix);
        path.into_iter().fold(run, whole::Run::arg).run().exits(0)
    };
    let root = tree.root();
    for path in [None, Some(&*root)] {
        run("compile", Some(&root));
        let top = prefix.join(root.strip_prefix("/").unwrap());
        for stale in [prefix.join(".bytekeep-a1.old"), top.join(".bytekeep-b2.old")].iter().take(if path.is_none() { 2 } else { 0 }) {
            std::fs::create_dir_all(stale.join("a")).unwrap();
            std::fs::write(stale.join("a/half.pyc"), "half").unwrap();
            let old = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
            std::fs::File::open(stale).unwrap().set_modified(old).unwrap();
        }
        let told = run("clean", path);
        assert_eq!(std::fs::read_dir(&prefix).unwrap().count(), 0, "{:?} {}", whole::all_below(&prefix), told.shown());
    }
    run("compile", Some(&root));
    let theirs = prefix.join(root.strip_prefix("/").unwrap()).join("test_x.cpython-313-pytest-8.0.0.pyc");
    std::fs::write(&theirs, "pytest's").unwrap();
    run("clean", None);
    let left: Vec<_> = whole::all_below(&prefix).into_iter().filter(|path| path.is_file()).collect();
    assert_eq!(left, [theirs]);
}

/// As the system reads it: from what is not there, `..` leads nowhere, until `compile` has made it as Python would.
#[test]
fn a_prefix_whose_path_leads_nowhere() {
    let tree = Tree::new();
    let real = tree.outside("real");
    let around = tree.outside("made").join("../real");
    let run = |command, prefix: &std::path::Path| {
        tree.bytekeep(Some(python()).filter(|_| command != "clean"), [command, "."]).arg("--pycache-prefix").arg(prefix).run()
    };
    assert!(run("verify", &around).exits(0).stderr.contains("0 entries"));
    run("compile", &around).exits(0);
    for prefix in [&around, &real] {
        let told = run("verify", prefix).exits(0);
        assert!(told.stderr.contains("1 ok"), "{}", told.shown());
    }
    let dangling = tree.outside("dangling");
    std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
    for prefix in [dangling.clone(), dangling.join("below")] {
        for command in ["compile", "verify", "status", "repair", "clean"] {
            let told = run(command, &prefix).exits(2);
            assert!(told.stderr.contains("leads nowhere") && told.errors() == 1, "{command}: {}", told.shown());
        }
    }
    assert!(dangling.is_symlink() && !tree.outside("nowhere").exists());
}

/// What is excluded was removed from a prefix once its source directory was gone, which is when orphans are removed.
#[test]
fn orphans_in_a_prefix_can_be_left_out() {
    let tree = Tree::new();
    tree.file("src/keep/mod.py", b"VALUE = 1\n");
    tree.file("src/other.py", b"VALUE = 1\n");
    tree.bytekeep(Some(python()), ["compile", "--pycache-prefix", "prefix", "src"]).run().exits(0);
    let whole = tree.root().canonicalize().unwrap().join("src/keep").display().to_string();
    std::fs::remove_dir_all(tree.path("src/keep")).unwrap();
    let removed = |exclude: &str| {
        let words = ["clean", "--orphans", "--dry-run", "--format", "json", "--pycache-prefix", "prefix", "--exclude", exclude];
        tree.bytekeep(None, words).run().exits(0).actions("removed")
    };
    assert_eq!(["nothing", &whole, "keep", "mod.py", "**/keep/*.py"].map(removed), [1, 0, 0, 0, 0]);
}

/// A prefix that nothing was written to yet was an error of all commands but `compile`.
#[test]
fn a_prefix_that_is_not_there_yet_is_an_empty_one() {
    let tree = Tree::new();
    for command in ["verify", "status", "seal", "repair"] {
        let with = (command == "repair").then(python);
        tree.bytekeep(with, [command, "."]).env("PYTHONPYCACHEPREFIX", "not/there").run().exits(0);
    }
    tree.bytekeep(None, ["clean", "--pycache-prefix", "not/there", "."]).run().exits(0);
    let complete = ["verify", "--complete", "--format", "json", "."];
    let outcome = tree.bytekeep(Some(python()), complete).env("PYTHONPYCACHEPREFIX", "not/there").run().exits(1);
    assert_eq!(outcome.verdicts("missing"), 1, "{}", outcome.shown());
    assert!(!tree.path("not").exists());
    // What is no directory can never be one.
    let outcome = tree.bytekeep(None, ["verify", "."]).env("PYTHONPYCACHEPREFIX", "good.py").run().exits(2);
    assert!(outcome.stderr.contains("PYTHONPYCACHEPREFIX"), "{}", outcome.shown());
    // By itself it is a path like any other.
    let outcome = tree.bytekeep(None, ["verify", "--pycache-prefix", "not/there"]).run().exits(2);
    assert!(outcome.stderr.contains("No such file") && outcome.stderr.contains("hint"), "{}", outcome.shown());
}

/// A dry run made the prefix.
#[test]
fn a_plan_for_a_prefix_does_not_make_it() {
    let tree = Tree::new();
    tree.file("pkg/mod.py", b"VALUE = 1\n");
    let outcome =
        tree.bytekeep(Some(python()), ["compile", "--dry-run", "--format", "json", "--pycache-prefix", "not/there", "."]).run().exits(0);
    assert_eq!(outcome.actions("built"), 2, "{}", outcome.shown());
    assert!(!tree.path("not").exists());
}

/// The artifacts of a prefix in the tree were called modules without a source, and `clean --sourceless` would have removed a live cache.
#[test]
fn artifacts_with_a_tag_are_no_modules_of_the_directory_that_they_lie_in() {
    let tree = Tree::new();
    tree.bytekeep(Some(python()), ["compile", "--pycache-prefix", ".cache", "."]).run().exits(0);
    tree.compile(python()).exits(0);
    let artifact = tree.artifact("good.py", python());
    std::fs::create_dir(tree.path("bad")).unwrap();
    std::fs::write(&artifact, b"bad").unwrap();
    tree.bytekeep(Some(python()), ["repair", "--keep-bad", "bad", "."]).run().exits(0);
    let module = std::fs::copy(&artifact, tree.path("alone.pyc")).map(|_| tree.path("alone.pyc")).unwrap();
    let (kept, below) = (all_below(&tree.path("bad")), all_below(&tree.path(".cache")));
    assert_eq!(kept.len(), 3);
    let verified = tree.verify().exits(0);
    assert_eq!((verified.verdicts("sourceless"), verified.verdicts("ok")), (1, 1), "{}", verified.shown());
    tree.bytekeep(None, ["clean", "--sourceless", "."]).run().exits(0);
    assert!(!module.exists());
    assert_eq!((all_below(&tree.path("bad")), all_below(&tree.path(".cache"))), (kept, below));
}

/// One directory of a pycache prefix that cannot be read ended the whole run of `clean --max-size`.
#[test]
fn what_cannot_be_read_in_a_prefix_does_not_stop_its_trimming() {
    if !root_or_skip("a directory that its owner cannot read") {
        return;
    }
    let tree = Tree::new();
    tree.open_to_all();
    for package in ["a", "b"] {
        tree.file(format!("src/{package}/mod.py"), b"VALUE = 1\n");
    }
    tree.bytekeep(Some(python()), ["compile", "--pycache-prefix", "cache", "src"]).run().exits(0);
    must("chown", &["-R".as_ref(), "65534:65534".as_ref(), tree.root().as_os_str()]);
    let mirror =
        |package: &str| tree.path("cache").join(tree.root().canonicalize().unwrap().strip_prefix("/").unwrap()).join("src").join(package);
    std::fs::set_permissions(mirror("a"), std::fs::Permissions::from_mode(0o000)).unwrap();
    let outcome = tree.bytekeep(None, ["clean", "--max-size", "0", "--pycache-prefix", "cache"]).by_nobody().run().exits(1);
    assert!(outcome.stdout.contains("src/a") || outcome.stderr.contains("src/a"), "{}", outcome.shown());
    assert!(!mirror("b").exists(), "{}", outcome.shown());
    std::fs::set_permissions(mirror("a"), std::fs::Permissions::from_mode(0o700)).unwrap();
}
