//! Faults that somebody met, each as it was met. The whole command, with a real interpreter.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test's own files")]

#[path = "support/mod.rs"]
mod support;
#[path = "support/whole.rs"]
mod whole;

use std::os::unix::fs::{PermissionsExt, symlink};

use whole::{Tree, all_below, python, root_or_skip, set_mtime};

/// A root named through `..` was mirrored under a path that no Python looks at, said "up to date", and was missing to `verify`.
#[test]
fn a_prefix_and_a_root_may_be_named_through_the_directory_above() {
    let tree = Tree::new();
    tree.file("inner/mod.py", b"VALUE = 1\n");
    tree.file("beside/keep.txt", b"");
    let line = "cd beside && \"$@\"";
    let run = |args: &[&'static str]| tree.bytekeep(Some(python()), args.iter().copied()).by_shell(line).run();
    run(&["compile", "--pycache-prefix", "../prefix", "../inner"]).exits(0);
    let made: Vec<_> = all_below(&tree.path("prefix")).into_iter().filter(|path| path.is_file()).collect();
    let wanted = tree.path("prefix").join(tree.root().canonicalize().unwrap().strip_prefix("/").unwrap()).join("inner");
    assert!(made.len() == 1 && made[0].canonicalize().unwrap().starts_with(wanted.canonicalize().unwrap()), "{made:?}");
    let outcome = run(&["verify", "--complete", "--format", "json", "--pycache-prefix", "../prefix", "../inner"]).exits(0);
    assert_eq!(outcome.verdicts("ok"), 1, "{}", outcome.shown());
    run(&["verify", "--pycache-prefix", "../prefix"]).exits(0);
}

/// A time limit too large for the clock was a panic.
#[test]
fn a_limit_beyond_all_time_is_no_limit() {
    let tree = Tree::new();
    tree.bytekeep(Some(python()), ["compile", "--max-time", "1e19", "."]).run().exits(0);
    tree.assert_good(python());
}

/// A hard limit of memory below our own made every worker fail to start.
#[test]
fn a_hard_limit_of_memory_is_kept_to() {
    let tree = Tree::new();
    tree.bytekeep(Some(python()), ["compile", "."]).by_shell("ulimit -v 3000000; \"$@\"").run().exits(0);
    tree.assert_good(python());
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

/// `backup.pyc.1` and the like were taken for what a killed interpreter leaves behind.
#[test]
fn numbered_files_that_no_artifact_has_are_not_swept() {
    let tree = Tree::new();
    tree.compile(python()).exits(0);
    let theirs = ["backup.pyc.1", "__pycache__/notes.pyc.20240101"].map(|name| tree.file(name, b"mine"));
    let left = tree.artifact("good.py", python()).with_extension("pyc.4711");
    std::fs::write(&left, b"half").unwrap();
    for path in theirs.iter().chain([&left]) {
        set_mtime(path, 1_000_000_000);
    }
    tree.bytekeep(None, ["clean", "--tag", "cpython-399", "."]).run().exits(0);
    assert!(left.exists(), "a filter by tag says nothing of left-overs");
    tree.compile(python()).exits(0);
    assert!(theirs.iter().all(|path| path.exists()) && !left.exists());
}

/// Through a link, a directory of artifacts was judged as one of sources: good artifacts were called modules without a source.
#[test]
fn a_link_to_a_directory_of_artifacts_is_what_it_leads_to() {
    let tree = Tree::new();
    tree.compile(python()).exits(0);
    symlink("__pycache__", tree.path("link")).unwrap();
    let outcome = tree.bytekeep(None, ["verify", "--format", "json", "link"]).run().exits(0);
    assert_eq!((outcome.verdicts("ok"), outcome.verdicts("sourceless")), (1, 0), "{}", outcome.shown());
}

/// Whoever can write `pyvenv.cfg` decides which standard library an interpreter runs.
#[test]
fn root_does_not_believe_settings_of_an_environment_that_others_can_write() {
    if !root_or_skip("root's rule on the settings of an environment") {
        return;
    }
    let tree = Tree::new();
    tree.open_to_all();
    let real = python().path.canonicalize().unwrap();
    tree.file("venv/pyvenv.cfg", format!("home = {}\n", real.parent().unwrap().display()).as_bytes());
    tree.file("venv/mod.py", b"VALUE = 1\n");
    std::fs::create_dir(tree.path("venv/bin")).unwrap();
    symlink(&real, tree.path("venv/bin/python")).unwrap();
    tree.bytekeep(None, ["compile", "venv/mod.py"]).run().exits(0);
    std::fs::set_permissions(tree.path("venv/pyvenv.cfg"), std::fs::Permissions::from_mode(0o666)).unwrap();
    let outcome = tree.bytekeep(None, ["compile", "venv/mod.py"]).run().exits(2);
    assert!(outcome.stderr.contains("pyvenv.cfg") && outcome.stderr.contains("--python"), "{}", outcome.shown());
    // Settings that lead nowhere are written by nobody else, and are not to be believed either.
    std::fs::set_permissions(tree.path("venv/pyvenv.cfg"), std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(tree.path("venv/pyvenv.cfg"), "home = /no/such/place\n").unwrap();
    let outcome = tree.bytekeep(None, ["compile", "--force", "venv/mod.py"]).run().exits(2);
    assert!(outcome.stderr.contains("`/no/such/place`") && outcome.stderr.contains("is not there"), "{}", outcome.shown());
    assert!(!outcome.stderr.contains("others can write"), "{}", outcome.shown());
}
