//! Faults that somebody met, each as it was met. The whole command, with a real interpreter.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test's own files")]

#[path = "support/mod.rs"]
mod support;
#[path = "support/whole.rs"]
mod whole;

use std::os::unix::fs::{PermissionsExt, symlink};

use whole::{Tree, all_below, must, python, python_for_all, root_or_skip, set_mtime};

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

/// What lies in the library was taken for covered by it, although the library leaves it out: nothing of it was compiled.
#[test]
fn what_is_named_in_the_library_is_compiled_with_it_however_it_is_spelled() {
    let tree = Tree::new();
    let python = python();
    let asked = python.command().args(["-S", "-c", "import os, sys; sys.stdout.write(os.path.dirname(os.__file__))"]).output().unwrap();
    let real = std::path::PathBuf::from(String::from_utf8(asked.stdout).unwrap());
    // A library of its own, of links to the modules of the real one.
    let lib = format!("lib/python{}.{}", python.version.0, python.version.1);
    tree.file(format!("{lib}/site-packages/pkg/mod.py"), b"VALUE = 1\n");
    tree.file(format!("{lib}/test/bad_coding.py"), b"def (\n");
    for entry in std::fs::read_dir(&real).unwrap().flatten() {
        let at = tree.path(&lib).join(entry.file_name());
        if entry.file_name() != "__pycache__" && !at.exists() {
            symlink(entry.path(), at).unwrap();
        }
    }
    symlink(tree.path(&lib), tree.path("link")).unwrap();
    let absolute = |path: &str| tree.path(path).display().to_string();
    let (packages, test) = (format!("{lib}/site-packages"), format!("{lib}/test"));
    let module = format!("{packages}/pkg/mod.py");
    for (named, found) in [
        (vec![], [0, 0]),
        (vec![packages.clone()], [1, 0]),
        (vec![absolute(&packages)], [1, 0]),
        (vec!["link/site-packages".to_owned()], [1, 0]),
        (vec![module.clone(), absolute(&module), packages.clone()], [1, 0]),
        (vec![test.clone()], [0, 1]),
        (vec![absolute(&test)], [0, 1]),
        (vec![".".to_owned()], [1, 1]),
        (vec![absolute("")], [1, 1]),
    ] {
        let words = ["compile", "--dry-run", "--format", "json", "--stdlib"].into_iter().chain(named.iter().map(String::as_str));
        let outcome = tree.bytekeep(Some(python), words).env("PYTHONHOME", tree.root()).run().exits(0);
        let count =
            |name: &str| outcome.entries().filter(|entry| entry["source"].as_str().is_some_and(|path| path.ends_with(name))).count();
        assert_eq!([count("pkg/mod.py"), count("bad_coding.py")], found, "{named:?}: {}", outcome.shown());
        assert_eq!(count("/textwrap.py"), 1, "{named:?}: the library itself");
    }
}

/// `--exclude` did not hold for sources that were named by themselves.
#[test]
fn a_source_that_is_named_can_be_left_out() {
    let tree = Tree::new();
    tree.file("pkg/tests/bad.py", b"def (\n");
    tree.file("list", b"good.py\npkg/tests/bad.py\n");
    environment(&tree, "env", "pkg/bad.py", b"def (\n");
    for words in [
        &["--exclude", "**/tests", "--files-from", "list"][..],
        &["--exclude", "bad.py", "--files-from", "list"],
        &["--exclude", "pkg/tests", "pkg/tests/bad.py"],
        &["--exclude", "*.py", "pkg/tests/bad.py"],
        &["--exclude", "**/pkg", "--env", "env"],
        &["--exclude", "pkg", "--env", "env"],
        &["--exclude", "bad.py", "--env", "env"],
    ] {
        let words = ["compile", "--format", "json"].into_iter().chain(words.iter().copied());
        let outcome = tree.bytekeep(Some(python()), words).run().exits(0);
        assert!(outcome.entries().all(|entry| entry["source"] == "./good.py"), "{}", outcome.shown());
    }
}

/// An environment with one recorded source.
fn environment(tree: &Tree, dir: &str, source: &str, content: &[u8]) {
    let site = format!("{dir}/lib/python3.13/site-packages");
    tree.file(format!("{site}/{source}"), content);
    tree.file(format!("{site}/pkg-1.dist-info/RECORD"), format!("{source},,\n").as_bytes());
}

/// The recorded paths were cleaned and then compared with the environment's as it was spelled.
#[test]
fn an_environment_may_be_spelled_in_any_way() {
    let tree = Tree::new();
    environment(&tree, "env", "pkg/a.py", b"VALUE = 1\n");
    let absolute = tree.path("env").display().to_string();
    for (dir, env) in [
        (".", "env"),
        (".", "./env"),
        (".", "env/"),
        (".", "env/../env"),
        (".", "env/lib/.."),
        ("env", "."),
        ("env", "../env"),
        ("env/lib", ".."),
        (".", &absolute),
    ] {
        let outcome = tree
            .bytekeep(Some(python()), ["compile", "--force", "--format", "json", "--env", env])
            .by_shell(&format!("cd {dir} && \"$@\""))
            .run()
            .exits(0);
        assert_eq!(outcome.actions("built"), 1, "{env} in {dir}: {}", outcome.shown());
    }
}

/// A list that spans two environments was compiled as a whole by the interpreter of its first path.
#[test]
fn a_list_of_several_environments_is_refused_as_arguments_are() {
    let tree = Tree::new();
    let real = python().path.canonicalize().unwrap();
    for env in ["one", "two"] {
        tree.file(format!("{env}/pyvenv.cfg"), format!("home = {}\n", real.parent().unwrap().display()).as_bytes());
        tree.file(format!("{env}/mod.py"), b"VALUE = 1\n");
        std::fs::create_dir(tree.path(env).join("bin")).unwrap();
        symlink(&real, tree.path(env).join("bin/python")).unwrap();
    }
    tree.file("list", b"one/mod.py\nlist\ntwo/mod.py\n");
    for words in [&["one/mod.py", "two/mod.py"][..], &["--files-from", "list"], &["--files-from", "list", "--root", "."]] {
        let outcome = tree.bytekeep(None, ["compile"].into_iter().chain(words.iter().copied())).run().exits(2);
        assert!(outcome.stderr.contains("different virtual environments"), "{}", outcome.shown());
    }
    assert!(!tree.path("one/__pycache__").exists());
    tree.bytekeep(Some(python()), ["compile", "--files-from", "list"]).run().exits(0);
    assert!(tree.artifact("two/mod.py", python()).exists());
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

/// One directory that may not be read ended the whole run when it was named itself.
#[test]
fn a_named_directory_that_is_closed_is_one_entry() {
    if !root_or_skip("a directory of somebody else's") {
        return;
    }
    let Some(python) = python_for_all() else { return };
    let tree = Tree::new();
    tree.file("mine/mod.py", b"VALUE = 1\n");
    tree.file("closed/mod.py", b"VALUE = 1\n");
    tree.file("list", b"mine/mod.py\nclosed\nclosed/mod.py\n");
    tree.open_to_all();
    must("chown", &["-R".as_ref(), "65534:65534".as_ref(), tree.path("mine").as_os_str()]);
    std::fs::set_permissions(tree.path("closed"), std::fs::Permissions::from_mode(0o700)).unwrap();
    for words in [&["--files-from", "list"][..], &["closed", "closed/mod.py", "mine"]] {
        let words = ["compile", "--force", "--format", "json"].into_iter().chain(words.iter().copied());
        let outcome = tree.bytekeep(Some(python), words).by_nobody().run().exits(1);
        outcome.is("mine/mod.py", "missing", "built");
        outcome.fails("closed", "permission", &["Permission denied"]);
        // That it is there, and only cannot be seen, was told as its absence.
        outcome.fails("closed/mod.py", "permission", &["Permission denied"]);
        assert_eq!(outcome.wrong(), 2, "{}", outcome.shown());
        std::fs::remove_dir_all(tree.path("mine/__pycache__")).unwrap();
    }
    tree.bytekeep(Some(python), ["compile", "mine", "not-there"]).by_nobody().run().exits(2);
    let outcome = tree.bytekeep(None, ["verify", "--format", "json", "closed"]).by_nobody().run().exits(1);
    outcome.fails("closed", "permission", &["Permission denied"]);
}

/// Every directory that was named held a descriptor from the start.
#[test]
fn more_directories_can_be_named_than_opened() {
    let tree = Tree::new();
    for number in 0..80 {
        tree.file(format!("pkg{number}/mod.py"), b"VALUE = 1\n");
    }
    let listed: Vec<String> = (0..80).map(|number| format!("pkg{number}/mod.py\n")).collect();
    tree.file("list", listed.concat().as_bytes());
    for limit in [16, 24, 64] {
        let line = |words: &str| format!("ulimit -n {limit}; \"$@\" {words}");
        let compile = ["compile", "--force", "--format", "json"];
        for words in ["--files-from list", "pkg*", "pkg*/mod.py"] {
            let outcome = tree.bytekeep(Some(python()), compile).by_shell(&line(words)).run().exits(0);
            assert_eq!(outcome.actions("built"), 80, "{limit} {words}: {}", outcome.shown());
        }
        let outcome = tree.bytekeep(None, ["verify", "--format", "json"]).by_shell(&line("pkg*/__pycache__")).run().exits(0);
        assert_eq!(outcome.verdicts("ok"), 80, "{limit}: {}", outcome.shown());
    }
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
