//! What a person names, in every way to name it: directories, sources, artifacts, environments. The whole command, with real interpreters.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test's own files")]

#[path = "support/mod.rs"]
mod support;
#[path = "support/whole.rs"]
mod whole;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use whole::{Tree, all_below, all_pythons, must, python, python_for_all, root_or_skip};

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

/// Through a link, a directory of artifacts was judged as one of sources: good artifacts were called modules without a source.
#[test]
fn a_link_to_a_directory_of_artifacts_is_what_it_leads_to() {
    let tree = Tree::new();
    tree.compile(python()).exits(0);
    symlink("__pycache__", tree.path("link")).unwrap();
    let outcome = tree.bytekeep(None, ["verify", "--format", "json", "link"]).run().exits(0);
    assert_eq!((outcome.verdicts("ok"), outcome.verdicts("sourceless")), (1, 0), "{}", outcome.shown());
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
