//! Faults that somebody met, each as it was met. The whole command, with a real interpreter.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test's own files")]

#[path = "support/mod.rs"]
mod support;
#[path = "support/whole.rs"]
mod whole;

use std::os::unix::fs::{PermissionsExt, symlink};

use std::path::Path;

use whole::{Tree, all_below, all_pythons, must, python, python_for_all, root_or_skip, set_mtime};

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

/// A directory named like a left-over could not be unlinked, and made every run fail.
#[test]
fn what_no_process_leaves_behind_is_not_swept() {
    let tree = Tree::new();
    tree.compile(python()).exits(0);
    let cache = tree.path("__pycache__");
    let temp = tree.artifact("good.py", python()).file_name().unwrap().to_str().unwrap().to_owned() + ".123";
    let theirs = [temp.as_str(), ".bytekeep-abc.tmp", "other.cpython-313.pyc.7", ".bytekeep-def.tmp", ".bytekeep-ghi.old"];
    std::fs::create_dir(cache.join(theirs[0])).unwrap();
    std::fs::create_dir(cache.join(theirs[1])).unwrap();
    symlink("nowhere", cache.join(theirs[2])).unwrap();
    must("mkfifo", &[cache.join(theirs[3])]);
    std::fs::write(cache.join(theirs[4]), b"").unwrap();
    for name in theirs {
        must("touch", &[Path::new("-hd"), Path::new("2 days ago"), &cache.join(name)]);
    }
    for words in [&["compile", "."][..], &["compile", "-f", "."], &["clean", "--leftovers", "."], &["verify", "."]] {
        let python = (words[0] == "compile").then(python);
        let outcome = tree.bytekeep(python, words.iter().copied()).run().exits(0);
        assert!(!outcome.stdout.contains("leftover") && !outcome.stderr.contains("left-over"), "{words:?}: {}", outcome.shown());
    }
    assert!(theirs.iter().all(|name| cache.join(name).symlink_metadata().is_ok()), "{:?}", all_below(&cache));
}

/// What stood in the lock file's place was called a left-over, which `clean --leftovers` could not remove either.
#[test]
fn what_stands_in_the_lock_files_place_is_told_as_what_it_is() {
    type Put = fn(&Path, &Tree);
    let kinds: [(&str, Put); 4] = [
        ("a directory", |path, _| std::fs::create_dir(path).unwrap()),
        ("FIFO", |path, _| must("mkfifo", &[path])),
        ("a symbolic link", |path, _| symlink("nowhere", path).unwrap()),
        ("hard links", |path, tree| std::fs::hard_link(tree.path("good.py"), path).unwrap()),
    ];
    for (what, put) in kinds {
        let tree = Tree::new();
        tree.compile(python()).exits(0);
        let lock = tree.path("__pycache__/.bytekeep.lock");
        put(&lock, &tree);
        let verified = tree.verify().exits(0);
        verified.is(".bytekeep.lock", "unsafe", "none");
        assert!(verified.entry(".bytekeep.lock")["cause"]["text"].as_str().unwrap().contains(what), "{}", verified.shown());
        for words in [&["compile", "--force", "."][..], &["clean", "."]] {
            let python = (words[0] == "compile").then(python);
            let outcome = tree.bytekeep(python, words.iter().copied()).run().exits(1);
            assert!(outcome.stderr.contains(what) && outcome.stderr.contains("remove it by hand"), "{what}: {}", outcome.shown());
        }
        let cleaned = tree.bytekeep(None, ["clean", "--leftovers", "."]).run().exits(0);
        assert!(cleaned.stderr.contains(what) && cleaned.stderr.contains("by hand"), "{what}: {}", cleaned.shown());
        assert!(lock.symlink_metadata().is_ok(), "{what}: it was not ours to remove");
    }
}

/// A sparse artifact took as much memory as it was long, and where there was none the process was aborted.
#[test]
fn a_large_artifact_is_no_reason_to_leave_out_the_others() {
    let tree = Tree::new();
    tree.file("large.py", b"VALUE = 1\n");
    let large = tree.artifact("large.py", python());
    for size in [190 << 20, 900 << 20] {
        tree.compile(python()).exits(0);
        std::fs::OpenOptions::new().write(true).open(&large).unwrap().set_len(size).unwrap();
        let limited = |words: &[&'static str]| tree.bytekeep(None, words.iter().copied()).by_shell("ulimit -v 180000; \"$@\"").run();
        let verified = limited(&["verify", "--format", "json", "."]).exits(1);
        verified.is("good.py", "ok", "none");
        if size > 192 << 20 {
            verified.is("large.py", "corrupt", "none");
        } else {
            verified.fails("large.py", "memory", &["large.", "out of memory"]);
        }
        tree.bytekeep(Some(python()), ["repair", "."]).run().exits(0);
        tree.verify().exits(0);
    }
}

/// `compile` took the path of an artifact and did nothing.
#[test]
fn an_artifact_that_is_named_is_compiled() {
    let tree = Tree::new();
    let artifact = tree.artifact("good.py", python());
    let level_two = artifact.with_extension("opt-2.pyc");
    tree.compile(python()).exits(0);
    let compile = |path: &Path, more: &[&'static str]| {
        tree.bytekeep(Some(python()), ["compile"].into_iter().chain(more.iter().copied())).arg(path).run()
    };
    compile(&artifact, &[]).exits(0);
    for path in [&artifact, &level_two] {
        std::fs::write(path, b"cut").unwrap();
        compile(path, &[]).exits(0);
        tree.verify().exits(0).is(path.file_name().unwrap().to_str().unwrap(), "ok", "none");
        let outcome = compile(path, &["--force", "--format", "json"]).exits(0);
        assert_eq!((outcome.actions("built"), outcome.entries().count()), (1, 1), "{}", outcome.shown());
    }
    let other = artifact.with_file_name("good.cpython-399.pyc");
    std::fs::write(&other, b"other").unwrap();
    let refused = compile(&other, &[]).exits(2);
    assert!(refused.stderr.contains("cpython-399") && refused.stderr.contains("--python"), "{}", refused.shown());
    std::fs::remove_file(tree.path("good.py")).unwrap();
    let alone = compile(&artifact, &[]).exits(1);
    assert!(alone.stderr.contains("no source"), "{}", alone.shown());
}

/// An artifact of 2.7 stands beside its source and says no tag.
#[test]
fn an_artifact_of_two_that_is_named_is_compiled() {
    for python in all_pythons().iter().filter(|python| python.version.0 == 2) {
        let tree = Tree::new();
        tree.file("good.pyc", b"");
        tree.file("good.pyo", b"");
        tree.bytekeep(Some(python), ["compile", "good.pyc"]).run().exits(0);
        tree.bytekeep(Some(python), ["compile", "--optimize", "2", "good.pyo"]).run().exits(0);
        assert_eq!(tree.verify().exits(0).verdicts("ok"), 2);
    }
}

/// An artifact that could not be removed was told as the source's removal.
#[test]
fn what_cannot_be_removed_is_named() {
    if !root_or_skip("another user's artifacts") {
        return;
    }
    let Some(python) = python_for_all() else { return };
    let tree = Tree::new();
    tree.open_to_all();
    tree.compile(python).exits(0);
    let outcome = tree.bytekeep(None, ["clean", "."]).by_nobody().run().exits(1);
    assert!(outcome.stderr.contains("cannot remove `__pycache__/good."), "{}", outcome.shown());
    assert!(!outcome.stderr.contains("good.py`"), "{}", outcome.shown());
}

/// The name of a `.pyo` does not tell its level: `seal` failed on it, and `repair` removed what it was told how to make.
#[test]
fn the_level_that_a_name_does_not_tell_is_that_of_the_seal_or_the_one_that_is_asked_for() {
    for python in all_pythons().iter().filter(|python| python.version.0 == 2 && !python.pypy) {
        let tree = Tree::new();
        let artifact = tree.path("good.pyo");
        must(python.path.to_str().unwrap(), &[Path::new("-O"), Path::new("-m"), Path::new("compileall"), Path::new("-q"), &tree.root()]);
        assert!(artifact.is_file());
        let left = tree.bytekeep(None, ["seal", "."]).run().exits(0);
        assert!(left.stderr.contains("good.pyo") && left.stderr.contains("--optimize"), "{}", left.shown());
        tree.bytekeep(Some(python), ["compile", "--adopt", "--optimize", "1", "."]).run().exits(0);
        tree.verify().exits(0).is("good.pyo", "ok", "none");
        // The seal says that it is of level 1, whatever else is asked for.
        let sealed = std::fs::read(&artifact).unwrap();
        tree.bytekeep(Some(python), ["repair", "--optimize", "2", "."]).run().exits(0);
        assert_eq!(std::fs::read(&artifact).unwrap(), sealed);
        let mut flipped = sealed.clone();
        flipped[30] ^= 1;
        for (bad, levels) in [(&sealed[..20], "1"), (&flipped[..], "0,2")] {
            std::fs::write(&artifact, bad).unwrap();
            let repaired = tree.bytekeep(Some(python), ["repair", "--format", "json", "--optimize", levels, "."]).run().exits(0);
            assert_eq!(repaired.actions("built"), 1, "{}", repaired.shown());
            assert_eq!(tree.verify().exits(0).verdicts("ok"), 1);
            assert_eq!(std::fs::read(&artifact).unwrap()[8..100], sealed[8..100]);
        }
        // Where nothing tells, nobody can make it, and as it stands it hurts.
        std::fs::write(&artifact, &sealed[..20]).unwrap();
        let repaired = tree.bytekeep(Some(python), ["repair", "--format", "json", "."]).run().exits(0);
        assert_eq!(repaired.actions("removed"), 1, "{}", repaired.shown());
    }
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

/// The copies were written under temp names, which the same run swept as left-overs.
#[test]
fn copies_of_what_is_bad_may_be_kept_in_the_tree() {
    let tree = Tree::new();
    let names: Vec<_> = (0..40).map(|number| format!("m{number}.py")).collect();
    for name in &names {
        tree.file(name, b"VALUE = 1\n");
    }
    tree.compile(python()).exits(0);
    for name in &names {
        std::fs::write(tree.artifact(name, python()), b"bad").unwrap();
    }
    for number in 0..20 {
        std::fs::create_dir_all(tree.path(format!("bad/{number}"))).unwrap();
    }
    tree.bytekeep(Some(python()), ["repair", "--keep-bad", "bad", "."]).run().exits(0);
    assert_eq!(all_below(&tree.path("bad")).len(), 20 + 3 * names.len());
}

/// With a umask of 077 a shared directory got a cache that the group could write and not read.
#[test]
fn a_cache_in_a_directory_of_a_group_is_open_to_the_group() {
    let tree = Tree::new();
    tree.file("secret.py", b"VALUE = 1\n");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let set = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    set(&tree.path("good.py"), 0o664);
    set(&tree.path("secret.py"), 0o600);
    for (dir, cache, file) in [(0o2775, 0o2770, 0o660), (0o2755, 0o2750, 0o640), (0o755, 0o700, 0o600)] {
        set(&tree.root(), dir);
        tree.bytekeep(Some(python()), ["compile", "."]).by_shell("umask 077; \"$@\"").run().exits(0);
        let made = [tree.path("__pycache__"), tree.artifact("good.py", python()), tree.artifact("secret.py", python())];
        assert_eq!(
            made.each_ref().map(|path| format!("{:o}", mode(path))),
            [cache, file, 0o600].map(|mode: u32| format!("{mode:o}")),
            "{dir:o}"
        );
        std::fs::remove_dir_all(&made[0]).unwrap();
    }
}

/// Limits of less than a second were told as one, and others were cut to whole seconds.
#[test]
fn a_limit_is_told_as_it_was_given() {
    let tree = Tree::new();
    tree.file("slow.py", format!("x = {}\n", vec!["(1,) * 99"; 300_000].join(" + ")).as_bytes());
    let late = tree.bytekeep(Some(python()), ["compile", "--timeout", "0.01", "slow.py"]).run().exits(1);
    assert!(late.stderr.contains("longer than 0.01 s"), "{}", late.shown());
    tree.file("__pycache__/.bytekeep.lock", b"");
    let line = "exec 9<>__pycache__/.bytekeep.lock; flock 9; \"$@\" 9>&-";
    if whole::tool_or_skip("flock") {
        let locked = tree.bytekeep(Some(python()), ["compile", "--lock-timeout", "0.2", "good.py"]).by_shell(line).run().exits(1);
        assert!(locked.stderr.contains("locked for 0.2 s"), "{}", locked.shown());
    }
}

/// Folders that waited for their locks kept what descriptors there were, and the run never ended.
#[test]
fn more_folders_may_be_locked_than_can_be_open() {
    let tree = Tree::new();
    for number in 0..8 {
        tree.file(format!("pkg{number}/mod.py"), b"VALUE = 1\n");
    }
    tree.compile(python()).exits(0);
    let locks: Vec<_> = (0..8)
        .map(|number| {
            let file = std::fs::File::create(tree.path(format!("pkg{number}/__pycache__/.bytekeep.lock"))).unwrap();
            file.lock().unwrap();
            file
        })
        .collect();
    let words = ["compile", "--force", "--lock-timeout", "0.2", "--format", "json", "."];
    let outcome = tree.bytekeep(Some(python()), words).by_shell("ulimit -n 16; \"$@\"").run().exits(1);
    assert_eq!((outcome.actions("skipped"), outcome.entries().count()), (8, 9), "{}", outcome.shown());
    drop(locks);
    tree.bytekeep(Some(python()), words).by_shell("ulimit -n 16; \"$@\"").run().exits(0);
}

/// A source and the directory that its artifact lies in were worked on as two: told twice, built twice, each waiting for the other's lock.
#[test]
fn a_directory_that_is_named_in_several_ways_is_worked_on_once() {
    let tree = Tree::new();
    for number in 0..40 {
        tree.file(format!("d/m{number}.py"), b"VALUE = 1\n");
    }
    tree.compile(python()).exits(0);
    let artifact = tree.artifact("d/m1.py", python());
    let named = ["d/m1.py", "d/__pycache__", "--format", "json"];
    let run = |words: &[&'static str], with: bool| {
        tree.bytekeep(with.then_some(python()), words.iter().copied().chain(named)).arg(&artifact).run()
    };
    let outcome = run(&["compile", "--force", "--lock-timeout", "0"], true).exits(0);
    assert_eq!((outcome.actions("built"), outcome.entries().count()), (40, 40), "{}", outcome.shown());
    std::fs::write(&artifact, b"cut").unwrap();
    let outcome = run(&["verify"], false).exits(1);
    assert_eq!((outcome.wrong(), outcome.entries().count()), (1, 40), "{}", outcome.shown());
    let outcome = run(&["repair", "--lock-timeout", "0"], true).exits(0);
    assert_eq!((outcome.actions("built"), outcome.entries().count()), (1, 40), "{}", outcome.shown());
    let outcome = run(&["clean"], false).exits(0);
    assert_eq!((outcome.actions("removed"), outcome.entries().count()), (40, 40), "{}", outcome.shown());
}

/// A source that only root can read, in a user's directory by a hard link, was theirs to read as bytecode.
#[test]
fn what_only_root_can_read_is_not_given_away_as_bytecode() {
    use std::os::unix::fs::{MetadataExt, chown};
    if !root_or_skip("a directory of somebody else's") {
        return;
    }
    let tree = Tree::new();
    for (name, mode) in [("private.py", 0o600), ("group.py", 0o640), ("open.py", 0o644)] {
        let path = tree.file(name, b"TOKEN = 'secret'\n");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    chown(tree.root(), Some(65534), Some(65534)).unwrap();
    tree.compile(python()).exits(0);
    for (name, owner, others) in [("private.py", 0, 0), ("group.py", 0, 0), ("open.py", 65534, 0o044)] {
        let meta = std::fs::metadata(tree.artifact(name, python())).unwrap();
        assert_eq!((meta.uid(), meta.mode() & 0o044), (owner, others), "{name}");
    }
}

/// A level that is none was ignored without a word.
#[test]
fn a_level_of_logging_that_is_none_is_told() {
    let tree = Tree::new();
    tree.file("mod.py", b"VALUE = 1\n");
    let outcome = tree.bytekeep(None, ["verify", "."]).env("BYTEKEEP_LOG", "loud").run().exits(2);
    assert!(outcome.stderr.contains("BYTEKEEP_LOG=loud") && outcome.stderr.contains("debug"), "{}", outcome.shown());
    tree.bytekeep(None, ["verify", "."]).env("BYTEKEEP_LOG", "").run().exits(0);
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

/// An edit in the second in which an interpreter made its artifact hides behind an equal size. A seal would vouch for the edit.
#[test]
fn what_was_edited_in_the_second_of_its_making_is_not_sealed() {
    let tree = Tree::new();
    let set = |path: &std::path::Path, nanos: u32| {
        let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_700_000_000, nanos);
        std::fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    };
    let source = tree.file("edited.py", b"VALUE = 11\n");
    set(&source, 100_000_000);
    must(python().path.to_str().unwrap(), &["-m".as_ref(), "compileall".as_ref(), "-q".as_ref(), tree.root().as_os_str()]);
    set(&tree.artifact("edited.py", python()), 500_000_000);
    tree.bytekeep(None, ["verify", "edited.py"]).run().exits(0);
    std::fs::write(&source, b"VALUE = 22\n").unwrap();
    set(&source, 900_000_000);
    // Python itself does not see it.
    assert_eq!(tree.import(python(), "edited"), "11");
    let outcome = tree.bytekeep(None, ["seal", "--format", "json", "edited.py"]).run().exits(1);
    outcome.is("edited.py", "silently-stale", "none").fails("edited.py", "outrun", &["within the second"]);
    tree.bytekeep(Some(python()), ["compile", "edited.py"]).run().exits(0);
    assert_eq!(tree.import(python(), "edited"), "22");
    tree.bytekeep(None, ["verify", "--require-seal", "edited.py"]).run().exits(0);
}

/// What was mended in an image whose artifacts go by a hash went by a time afterwards.
#[test]
fn repair_keeps_the_invalidation_mode_and_makes_the_directory_for_evidence() {
    let tree = Tree::new();
    tree.file("mod.py", b"VALUE = 1\n");
    tree.bytekeep(Some(python()), ["compile", "--invalidation-mode", "unchecked-hash", "mod.py"]).run().exits(0);
    let artifact = tree.artifact("mod.py", python());
    let whole = std::fs::read(&artifact).unwrap();
    std::fs::write(&artifact, &whole[..whole.len() - 120]).unwrap();
    tree.bytekeep(Some(python()), ["repair", "--keep-bad", "evidence", "mod.py"]).run().exits(0);
    assert_eq!(std::fs::read(&artifact).unwrap(), whole);
    assert_eq!(all_below(&tree.path("evidence")).len(), 3, "a copy and its reports");
    let outcome = tree.bytekeep(Some(python()), ["repair", "--keep-bad", "no/such/place", "mod.py"]).run().exits(2);
    assert!(outcome.stderr.contains("no/such"), "{}", outcome.shown());
}
