//! Bad places: odd names, odd trees, odd file systems. The whole command, with real interpreters.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test's own files")]

#[path = "support/mod.rs"]
mod support;
#[path = "support/whole.rs"]
mod whole;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use support::Python;
use whole::{Tree, all_below, may, must, python, python_for_all, root_or_skip, two_pythons};

const NONE: [PathBuf; 0] = [];

/// A sound artifact of this source text, as the interpreter itself makes it.
fn artifact_of(tree: &Tree, python: &Python, text: &str) -> Vec<u8> {
    std::fs::write(tree.outside("made.py"), text).unwrap();
    let mut command = Command::new(&python.path);
    let made = tree.outside("made.pyc");
    command.args(["-c", "import py_compile, sys; py_compile.compile(sys.argv[1], sys.argv[2], doraise=True)"]);
    tree.dress(command.arg(tree.outside("made.py")).arg(&made));
    assert!(command.status().unwrap().success());
    std::fs::read(made).unwrap()
}

// ---- names

#[test]
fn odd_names_are_compiled_and_shown_without_harm() {
    let tree = Tree::new();
    let names: &[&[u8]] = &[
        b"new\nline.py",
        b"caf\xe9.py",
        b"\x1b[31mred.py",
        b"-rf.py",
        b" blank .py",
        b"'quo\"te$(touch pwned)`.py",
        b"a.b.py",
        b"a.b.c.opt-1.py",
        b"m.cpython-313.py",
        "\u{202e}\u{fc}.py".as_bytes(),
        b"..py",
        b"100%s{}.py",
    ];
    for name in names {
        tree.file(OsStr::from_bytes(name), b"VALUE = 1\n");
    }
    tree.file(OsStr::from_bytes(b"bad\n\x1b[31m\xff.py"), b"x = = \x1b[31m\n");
    tree.file("script", b"#!/usr/bin/python3\nVALUE = 1\n");
    tree.file("upper.PY", b"VALUE = 1\n");
    for python in two_pythons() {
        let outcome = tree.bytekeep(Some(python), ["compile", "--format", "json", "."]).run().exits(1);
        for name in names {
            let artifact = tree.artifact(OsStr::from_bytes(name), python);
            assert!(artifact.is_file(), "{} by {}", name.escape_ascii(), python.tag);
        }
        assert_eq!(outcome.wrong(), 1, "{}", outcome.shown());
        assert_eq!(outcome.actions("built"), names.len() as u64 + 1, "{}", outcome.shown());
        let bytes = outcome.entries().find(|entry| entry["source"].as_str().is_some_and(|name| name.contains("caf"))).unwrap();
        assert_eq!(bytes["source"], "./caf\u{fffd}.py");
        assert_eq!(bytes["source_b64"], "Li9jYWbpLnB5", "all bytes of the name: {bytes}");
        tree.assert_good(python);
    }
    for words in [&["verify", "-v", "."][..], &["compile", "-v", "--force", "."], &["status", "."], &["repair", "--dry-run", "-v", "."]] {
        let with = (words[0] == "compile").then(python);
        let outcome = tree.bytekeep(with, words.iter().copied()).run();
        let all = format!("{}{}", outcome.stdout, outcome.stderr);
        assert!(!all.contains('\x1b') && !all.contains('\u{202e}'), "nothing of a name drives the terminal: {}", outcome.shown());
        assert!(!all.lines().any(|line| line.starts_with("line.py")), "no name breaks a line: {}", outcome.shown());
    }
    tree.verify().exits(0);
    let clean = tree.bytekeep(None, ["clean", "--format", "json", "."]).run().exits(0);
    assert_eq!(clean.actions("removed"), (names.len() as u64 + 1) * two_pythons().len() as u64, "{}", clean.shown());
    assert!(!tree.path("__pycache__").exists() && !tree.path("pwned").exists());
}

#[test]
fn a_name_may_be_as_long_as_a_name_can_be() {
    let tree = Tree::new();
    let long = format!("{}.py", "n".repeat(252));
    tree.file(&long, b"VALUE = 1\n");
    // The longest that has room for the tag.
    let python = python();
    let room = 255 - python.tag.len() - ".".len() - ".pyc".len();
    let just = format!("{}.py", "j".repeat(room));
    tree.file(&just, b"VALUE = 1\n");
    let outcome = tree.compile(python).exits(1);
    outcome.fails(&long, "name-too-long", &["nnnn", "too long"]);
    outcome.is(&just, "missing", "built");
    assert_eq!(outcome.wrong(), 1, "{}", outcome.shown());
    tree.assert_good(python);
    let told = tree.bytekeep(Some(python), ["compile", "."]).run().exits(1);
    assert!(told.stderr.contains("shorten the source's name"), "{}", told.shown());
    tree.verify().exits(0);
    assert_eq!(tree.litter(), NONE);
}

#[test]
fn what_has_no_suffix_is_no_source() {
    let tree = Tree::new();
    tree.file("script", b"VALUE = 1\n");
    let outcome = tree.bytekeep(Some(python()), ["compile", "script"]).run().exits(2);
    assert!(outcome.stderr.contains("`script` is neither a directory nor a source nor an artifact"), "{}", outcome.shown());
    let outcome = tree.bytekeep(Some(python()), ["compile", "good.py", "script"]).run().exits(2);
    assert!(outcome.stderr.contains("script"), "{}", outcome.shown());
    assert!(!tree.path("__pycache__").exists(), "nothing is done where a name is wrong");
}

// ---- trees

#[test]
fn links_between_directories_are_not_walked() {
    let tree = Tree::new();
    tree.file("pkg/sub/mod.py", b"VALUE = 1\n");
    symlink(".", tree.path("loop")).unwrap();
    symlink("..", tree.path("pkg/up")).unwrap();
    symlink("self", tree.path("self")).unwrap();
    symlink("/", tree.path("pkg/all")).unwrap();
    symlink("sub", tree.path("pkg/twin")).unwrap();
    let outcome = tree.compile(python()).exits(0);
    assert_eq!(outcome.summary()["entries"], 2, "{}", outcome.shown());
    tree.assert_good(python());
    // What is named may be a link, and then a link to the tree is as good as the tree.
    symlink(tree.root(), tree.outside("by-link")).unwrap();
    let link = tree.outside("by-link").into_os_string().into_string().unwrap();
    let outcome = tree.bytekeep(Some(python()), ["compile", "--format", "json", &link, ".", "loop", "pkg/up"]).run().exits(0);
    assert_eq!(outcome.summary()["entries"], 2, "{}", outcome.shown());
    tree.bytekeep(None, ["clean", &link]).run().exits(0);
    assert!(!tree.path("pkg/sub/__pycache__").exists());
}

#[test]
fn linked_sources_are_compiled_where_the_link_stands() {
    // As Debian lays out what several versions share: the directory is real, each source is a link.
    let tree = Tree::new();
    std::fs::create_dir_all(tree.outside("share/pkg")).unwrap();
    std::fs::create_dir_all(tree.path("dist-packages/pkg")).unwrap();
    for name in ["__init__.py", "mod.py"] {
        std::fs::write(tree.outside("share/pkg").join(name), "VALUE = 'shared'\n").unwrap();
        symlink(tree.outside("share/pkg").join(name), tree.path("dist-packages/pkg").join(name)).unwrap();
    }
    for python in two_pythons() {
        tree.compile(python).exits(0);
        assert!(tree.artifact("dist-packages/pkg/mod.py", python).is_file());
    }
    assert_eq!(all_below(&tree.outside("share")).len(), 3, "nothing is written beside what the links lead to");
    tree.verify().exits(0);
    std::fs::write(tree.outside("share/pkg/mod.py"), "VALUE = 'shared and changed'\n").unwrap();
    tree.verify().exits(1).is("mod.py", "stale", "none");
    let mut pythons = two_pythons();
    pythons.truncate(1);
    let outcome = tree.compile(pythons[0]).exits(0);
    outcome.is("mod.py", "stale", "built");
    assert_eq!(outcome.actions("built"), 1, "{}", outcome.shown());
}

#[test]
fn a_tree_of_300_levels_and_one_beyond_the_longest_path() {
    let tree = Tree::new();
    let deep: PathBuf = std::iter::repeat_n("d", 300).collect();
    tree.file(deep.join("mod.py"), b"VALUE = 1\n");
    let outcome = tree.compile(python()).exits(0);
    assert_eq!(outcome.actions("built"), 2, "{}", outcome.shown());
    assert!(tree.artifact(deep.join("mod.py"), python()).is_file());
    tree.bytekeep(None, ["verify", "--format", "json", "."]).run().exits(0);
    // 5,000 bytes of path: each step is short enough, the whole is not.
    let mut command = Command::new(&python().path);
    let program = "
import os
for n in range(25):
    os.mkdir('l' * 200); os.chdir('l' * 200)
    if n in (3, 24): open('mod.py', 'w').write('VALUE = 1\\n')
";
    tree.dress(command.args(["-S", "-c", program]));
    assert!(command.status().unwrap().success());
    // Everything is reached from directory to directory, so the length of the whole does not matter.
    let outcome = tree.compile(python()).exits(0);
    assert_eq!(outcome.actions("built"), 2, "{}", outcome.shown());
    let outcome = tree.compile(python()).exits(0);
    assert_eq!(outcome.actions("built"), 0, "{}", outcome.shown());
    tree.verify().exits(0);
    tree.assert_good(python());
    tree.bytekeep(None, ["clean", "."]).run();
    assert!(!tree.artifact(deep.join("mod.py"), python()).exists());
}

#[test]
fn twenty_thousand_files_in_one_directory() {
    let tree = Tree::new();
    let count = 20_000;
    std::fs::create_dir(tree.path("many")).unwrap();
    for number in 0..count {
        std::fs::write(tree.path("many").join(format!("m{number}.py")), b"").unwrap();
    }
    let outcome = tree.bytekeep(Some(python()), ["compile", "--durability", "none", "."]).run().exits(0);
    assert!(outcome.stderr.contains("Compiled 20001 entries"), "{}", outcome.shown());
    let outcome = tree.bytekeep(Some(python()), ["compile", "."]).run().exits(0);
    assert!(outcome.stderr.contains("20001 up to date"), "{}", outcome.shown());
    tree.assert_good(python());
    assert_eq!(tree.litter(), NONE);
}

#[test]
fn a_path_may_be_named_twice_or_lie_inside_another() {
    let tree = Tree::new();
    tree.file("pkg/mod.py", b"VALUE = 1\n");
    for words in [
        &[".", "."][..],
        &[".", "pkg", "pkg/mod.py", "pkg/../pkg"],
        &["pkg/mod.py", ".", "./pkg/"],
        &["good.py", "good.py", "pkg", "pkg/mod.py"],
        &["pkg/__pycache__/..", "good.py"],
    ] {
        tree.bytekeep(Some(python()), ["compile", "."]).run().exits(0);
        let words = ["compile", "--force", "--format", "json"].into_iter().chain(words.iter().copied());
        let outcome = tree.bytekeep(Some(python()), words).run().exits(0);
        assert_eq!(outcome.actions("built"), 2, "{}", outcome.shown());
        assert_eq!(outcome.summary()["entries"], 2, "{}", outcome.shown());
    }
    tree.verify().exits(0);
}

#[test]
fn empty_absent_and_single() {
    let tree = Tree::new();
    std::fs::create_dir(tree.path("empty")).unwrap();
    for command in ["compile", "verify", "repair", "clean", "status", "seal"] {
        let with = ["compile", "repair"].contains(&command).then(python);
        let outcome = tree.bytekeep(with, [command, "empty"]).run().exits(0);
        assert!(!outcome.stderr.contains("error"), "{}", outcome.shown());
        let outcome = tree.bytekeep(with, [command, "not-there"]).run().exits(2);
        assert!(outcome.stderr.contains("not-there") && outcome.stderr.contains("No such file"), "{}", outcome.shown());
        let outcome = tree.bytekeep(with, [command, "good.py", "not-there"]).run().exits(2);
        assert!(outcome.stderr.contains("nothing was done"), "{}", outcome.shown());
        tree.bytekeep(with, [command, ""]).run().exits(2);
    }
    assert_eq!(std::fs::read_dir(tree.path("empty")).unwrap().count(), 0);
    assert!(!tree.path("__pycache__").exists());
    tree.file("other.py", b"VALUE = 2\n");
    let outcome = tree.bytekeep(Some(python()), ["compile", "--format", "json", "good.py"]).run().exits(0);
    assert_eq!((outcome.actions("built"), outcome.summary()["entries"].as_u64()), (1, Some(1)), "{}", outcome.shown());
    tree.assert_good(python());
    tree.compile(python()).exits(0);
    let artifact = tree.artifact("good.py", python());
    for named in [artifact.to_str().unwrap(), "good.py", "__pycache__"] {
        let outcome = tree.bytekeep(None, ["verify", "--format", "json", named]).run().exits(0);
        assert_eq!(outcome.verdicts("ok"), if named == "__pycache__" { 2 } else { 1 }, "{}", outcome.shown());
    }
}

#[test]
fn files_of_other_tools_stay_byte_for_byte() {
    let tree = Tree::new();
    tree.file("numbers.py", b"VALUE = 1\n");
    let python = python();
    tree.compile(python).exits(0);
    let pyc = std::fs::read(tree.artifact("good.py", python)).unwrap();
    let tag = &python.tag;
    let others: Vec<(String, Vec<u8>)> = vec![
        ("numbers.f-1.py313.nbi".into(), b"numba's index".to_vec()),
        ("numbers.f-1.py313.1.nbc".into(), b"numba's code".to_vec()),
        (format!("test_x.{tag}-pytest-8.3.4.pyc"), pyc.clone()),
        ("test_x.cpython-312-pytest-8.3.pyc".into(), b"cut".to_vec()),
        (format!("test_x.{tag}-PYTEST.pyc"), b"an old one".to_vec()),
        ("_cffi_ext.c".into(), b"int x;".to_vec()),
        (format!("_cffi_ext.{tag}-x86_64-linux-gnu.so"), b"\x7fELF".to_vec()),
        ("good.unheard-of-99.pyc".into(), b"\x01\x02\x03\x04 an interpreter that nobody knows".to_vec()),
        ("good.unheard-of-100.pyc".into(), Vec::new()),
        ("good.unheard-of-101.pyc".into(), vec![0; 500]),
        ("notes.txt".into(), b"notes".to_vec()),
        (".gitignore".into(), b"*".to_vec()),
        ("good.cpython-313.pyc.bak".into(), b"a copy".to_vec()),
        ("sub/inner.txt".into(), b"a directory of somebody".to_vec()),
    ];
    for (name, content) in &others {
        tree.file(Path::new("__pycache__").join(name), content);
    }
    for words in [
        &["compile", "--force", "."][..],
        &["repair", "."],
        &["seal", "."],
        &["clean", "--orphans", "."],
        &["clean", "--leftovers", "."],
        &["clean", "--sourceless", "."],
        &["clean", "."],
        &["compile", "."],
    ] {
        let with = ["compile", "repair"].contains(&words[0]).then_some(python);
        tree.bytekeep(with, words.iter().copied()).run().exits(0);
        for (name, content) in &others {
            let there = std::fs::read(tree.path("__pycache__").join(name));
            assert_eq!(there.ok().as_ref(), Some(content), "{name} after {words:?}");
        }
    }
    tree.assert_good(python);
}

#[test]
fn modules_without_a_source_are_told_and_stay() {
    let tree = Tree::new();
    let python = python();
    let sound = artifact_of(&tree, python, "VALUE = 'no source'\n");
    tree.file("bare.pyc", &sound);
    tree.file("broken.pyc", &sound[..sound.len() / 2]);
    tree.file("pkg/__init__.pyc", &sound);
    // In a cache directory an artifact without a source is never imported.
    tree.file(format!("__pycache__/gone.{}.pyc", python.tag), &sound);
    let outcome = tree.compile(python).exits(0);
    assert!(outcome.entries().all(|entry| entry["source"] == "./good.py"), "{}", outcome.shown());
    let outcome = tree.verify().exits(1);
    outcome.is("bare.pyc", "sourceless", "none").is("__init__.pyc", "sourceless", "none").is("broken.pyc", "sourceless", "none");
    assert_eq!((outcome.entry("bare.pyc")["wrong"].as_bool(), outcome.entry("broken.pyc")["wrong"].as_bool()), (Some(false), Some(true)));
    assert_eq!((outcome.verdicts("orphan"), outcome.verdicts("ok")), (1, 1), "{}", outcome.shown());
    tree.bytekeep(Some(python), ["repair", "."]).run().exits(1);
    tree.bytekeep(None, ["clean", "--orphans", "."]).run().exits(0);
    tree.bytekeep(None, ["clean", "."]).run().exits(0);
    for name in ["bare.pyc", "broken.pyc", "pkg/__init__.pyc"] {
        assert!(tree.path(name).is_file(), "{name}");
    }
    assert!(!tree.path("__pycache__").exists());
    assert_eq!(tree.import(python, "bare"), "no source");
    tree.bytekeep(None, ["clean", "--sourceless", "."]).run().exits(0);
    assert!(!tree.path("bare.pyc").exists() && !tree.path("pkg/__init__.pyc").exists());
    assert!(tree.path("good.py").is_file());
}

// ---- the directory of artifacts

#[test]
fn a_cache_directory_that_is_something_else() {
    for python in two_pythons() {
        let tree = Tree::new();
        tree.file("file/mod.py", b"VALUE = 1\n");
        tree.file("file/__pycache__", b"a file\n");
        tree.file("link/mod.py", b"VALUE = 1\n");
        symlink(tree.outside(""), tree.path("link/__pycache__")).unwrap();
        tree.file("dangling/mod.py", b"VALUE = 1\n");
        symlink("nowhere", tree.path("dangling/__pycache__")).unwrap();
        tree.file("fifo/mod.py", b"VALUE = 1\n");
        must("mkfifo", &[tree.path("fifo/__pycache__")]);
        let outcome = tree.compile(python).exits(1);
        for dir in ["file", "link", "dangling", "fifo"] {
            outcome.fails(&format!("{dir}/mod.py"), "not-a-directory", &["__pycache__", "not a directory"]);
            outcome.is(&format!("{dir}/mod.py"), "unsafe", "none");
        }
        assert_eq!(outcome.wrong(), 4, "{}", outcome.shown());
        tree.assert_good(python);
        assert_eq!(all_below(&tree.outside("")), NONE, "nothing is written through a link");
        for words in [&["verify", "."][..], &["clean", "."], &["status", "."], &["repair", "--dry-run", "."]] {
            tree.bytekeep((words[0] == "repair").then_some(python), words.iter().copied()).run();
        }
        assert_eq!(std::fs::read(tree.path("file/__pycache__")).unwrap(), b"a file\n");
        assert!(tree.path("link/__pycache__").is_symlink() && tree.path("dangling/__pycache__").is_symlink());
        // Elsewhere there is room for them, for those that look there.
        if python.version >= (3, 8) {
            let prefix = tree.outside("prefix").into_os_string().into_string().unwrap();
            tree.bytekeep(Some(python), ["compile", "--pycache-prefix", &prefix, "."]).run().exits(0);
        }
    }
}

/// Ends another thread also where an assertion fails: else the test would never end.
struct Stop<'s>(&'s AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_cache_directory_that_goes_while_we_work() {
    let tree = Tree::new();
    for number in 0..30 {
        tree.file(format!("m{number}.py"), b"VALUE = 1\n");
        tree.file(format!("pkg{}/m.py", number % 6), b"VALUE = 1\n");
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                drop(std::fs::remove_dir_all(tree.path("__pycache__")));
                for number in 0..6 {
                    drop(std::fs::remove_dir(tree.path(format!("pkg{number}/__pycache__"))));
                }
            }
        });
        for _ in 0..6 {
            let outcome = tree.bytekeep(Some(python()), ["compile", "--force", "--format", "json", "."]).run();
            assert!(matches!(outcome.code, Some(0 | 1)), "{}", outcome.shown());
            for entry in outcome.entries().filter(|entry| entry["wrong"] == true) {
                assert_eq!((&entry["cause"]["code"], &entry["action"]), (&"gone".into(), &"skipped".into()), "{entry:.3000}");
            }
        }
    });
    tree.compile(python()).exits(0);
    tree.verify().exits(0);
    tree.assert_good(python());
    assert_eq!(tree.litter(), NONE);
}

// ---- file systems

/// Something mounted on a directory, unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn on(dir: &Path, words: &[&str]) -> Option<Self> {
        std::fs::create_dir_all(dir).unwrap();
        let words: Vec<&OsStr> = words.iter().map(OsStr::new).chain([dir.as_os_str()]).collect();
        may("mount", &words).then(|| Self(dir.to_path_buf()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let done = Command::new("umount").arg(&self.0).status();
        if !done.is_ok_and(|status| status.success()) {
            drop(Command::new("umount").arg("-l").arg(&self.0).status());
        }
    }
}

#[test]
fn a_full_disk_leaves_old_artifacts_whole_and_nothing_half() {
    if !root_or_skip("a small file system") {
        return;
    }
    let tree = Tree::new();
    let Some(_mounted) = Mounted::on(&tree.path("small"), &["-t", "tmpfs", "-o", "size=512k", "none"]) else { return };
    let text = |value: u32| format!("VALUE = {value}\nTEXT = '{}'\n", "x".repeat(9000));
    for number in 0..6 {
        tree.old_file(format!("small/old{number}.py"), text(1).as_bytes());
    }
    let run = |format: &'static str| tree.bytekeep(Some(python()), ["compile", "--format", format, "--durability", "batch", "."]).run();
    run("json").exits(0);
    for number in 0..6 {
        tree.file(format!("small/old{number}.py"), text(2).as_bytes());
    }
    for number in 0..30 {
        if std::fs::write(tree.path(format!("small/new{number}.py")), text(3)).is_err() {
            std::fs::remove_file(tree.path(format!("small/new{number}.py"))).unwrap();
            break;
        }
    }
    let outcome = run("json").exits(1);
    let full: Vec<_> = outcome.entries().filter(|entry| entry["wrong"] == true).collect();
    assert!(!full.is_empty());
    for entry in &full {
        assert_eq!((&entry["cause"]["code"], &entry["action"]), (&"disk-full".into(), &"failed".into()), "{entry:.2000}");
        assert!(entry["cause"]["text"].as_str().unwrap().contains("No space left"), "{entry:.2000}");
    }
    assert_eq!(tree.litter(), NONE, "what could not be written whole is gone");
    tree.assert_good(python());
    let verified = tree.verify();
    for verdict in ["truncated", "corrupt", "bad-magic", "silently-stale", "leftover"] {
        assert_eq!(verified.verdicts(verdict), 0, "{}", verified.shown());
    }
    let told = run("human").exits(1);
    assert_eq!(told.errors(), 1, "one message for one cause: {}", told.shown());
    assert!(told.stderr.contains("No space left on device") && told.stderr.contains("free some space"), "{}", told.shown());
    must("mount", &["-o".as_ref(), "remount,size=8m".as_ref(), tree.path("small").as_os_str()]);
    run("json").exits(0);
    tree.verify().exits(0);
}

#[test]
fn clean_makes_room_where_there_is_none_for_a_lock_file() {
    if !root_or_skip("a small file system") {
        return;
    }
    let tree = Tree::new();
    let Some(_mounted) = Mounted::on(&tree.path("small"), &["-t", "tmpfs", "-o", "size=1m,nr_inodes=40", "none"]) else { return };
    for number in 0..6 {
        tree.file(format!("small/m{number}.py"), b"VALUE = 1\n");
    }
    tree.compile(python()).exits(0);
    let mut number = 0;
    while std::fs::write(tree.path(format!("small/filler{number}")), b"").is_ok() {
        number += 1;
    }
    tree.bytekeep(None, ["clean", "small"]).run().exits(0);
    assert!(!tree.path("small/__pycache__").exists());
    std::fs::remove_file(tree.path("small/filler0")).unwrap();
    tree.compile(python()).exits(0);
    assert_eq!(tree.litter(), NONE);
}

#[test]
fn a_read_only_file_system_is_told_once() {
    if !root_or_skip("a read-only file system") {
        return;
    }
    let tree = Tree::new();
    let Some(_mounted) = Mounted::on(&tree.path("fixed"), &["-t", "tmpfs", "-o", "size=2m", "none"]) else { return };
    tree.file("fixed/made/done.py", b"VALUE = 1\n");
    tree.bytekeep(Some(python()), ["compile", "fixed"]).run().exits(0);
    for number in 0..5 {
        tree.file(format!("fixed/made/more{number}.py"), b"VALUE = 1\n");
        tree.file(format!("fixed/pkg{number}/mod.py"), b"VALUE = 1\n");
    }
    must("mount", &["-o".as_ref(), "remount,ro".as_ref(), tree.path("fixed").as_os_str()]);
    let outcome = tree.compile(python()).exits(1);
    assert_eq!(outcome.wrong(), 10, "{}", outcome.shown());
    outcome.fails("more3.py", "read-only", &["Read-only file system"]).fails("pkg3/mod.py", "read-only", &["Read-only file system"]);
    outcome.is("done.py", "ok", "none");
    tree.assert_good(python());
    let told = tree.bytekeep(Some(python()), ["compile", "."]).run().exits(1);
    assert_eq!(told.errors(), 1, "one message for one cause: {}", told.shown());
    assert!(told.stderr.contains("10 entries in 6 folders") && told.stderr.contains("--pycache-prefix"), "{}", told.shown());
    tree.verify().exits(0);
    let cleaned = tree.bytekeep(None, ["clean", "--format", "json", "fixed"]).run().exits(1);
    cleaned.fails("done.py", "read-only", &["Read-only file system"]);
    let prefix = tree.outside("prefix").into_os_string().into_string().unwrap();
    tree.bytekeep(Some(python()), ["compile", "--pycache-prefix", &prefix, "."]).run().exits(0);
}

#[test]
fn an_overlay_is_worked_on_and_its_lower_layer_left_alone() {
    if !root_or_skip("an overlay") {
        return;
    }
    let tree = Tree::new();
    let Some(_space) = Mounted::on(&tree.outside("space"), &["-t", "tmpfs", "-o", "size=16m", "none"]) else { return };
    let lower = tree.outside("space/lower");
    for dir in ["lower/pkg", "upper", "work"] {
        std::fs::create_dir_all(tree.outside("space").join(dir)).unwrap();
    }
    for name in ["good.py", "pkg/mod.py", "pkg/edited.py", "pkg/torn.py"] {
        std::fs::write(lower.join(name), "VALUE = 42\n").unwrap();
        whole::set_mtime(&lower.join(name), 1_500_000_000);
    }
    tree.bytekeep(Some(python()), ["compile"]).arg(&lower).run().exits(0);
    let torn = format!("pkg/__pycache__/torn.{}.pyc", python().tag);
    std::fs::write(lower.join(&torn), b"").unwrap();
    let before: Vec<(PathBuf, Option<Vec<u8>>)> =
        all_below(&lower).into_iter().map(|path| (path.clone(), std::fs::read(path).ok())).collect();
    let layers = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        tree.outside("space/upper").display(),
        tree.outside("space/work").display()
    );
    let Some(_overlay) = Mounted::on(&tree.root(), &["-t", "overlay", "-o", &layers, "none"]) else { return };
    tree.file("pkg/edited.py", b"VALUE = 43 + 0\n");
    tree.verify().exits(1).is("edited.py", "stale", "none");
    let outcome = tree.compile(python()).exits(0);
    outcome.is("edited.py", "stale", "built").is("torn.py", "truncated", "built").is("mod.py", "ok", "none");
    tree.verify().exits(0);
    tree.assert_good(python());
    assert_eq!(tree.import(python(), "pkg.edited"), "43");
    // The directories of artifacts come from the lower layer, where renaming them aside is refused.
    let outcome = tree.bytekeep(None, ["clean", "--format", "json", "."]).run().exits(0);
    assert_eq!(outcome.actions("removed"), 4, "{}", outcome.shown());
    assert!(!tree.path("__pycache__").exists() && !tree.path("pkg/__pycache__").exists());
    tree.compile(python()).exits(0);
    assert_eq!(tree.litter(), NONE);
    for (path, content) in before {
        assert_eq!(std::fs::read(&path).ok(), content, "{}", path.display());
    }
}

#[test]
fn without_permission_one_message_says_so_and_a_prefix_helps() {
    if !root_or_skip("another user") {
        return;
    }
    let Some(python) = python_for_all() else { return };
    let tree = Tree::new();
    for number in 0..4 {
        tree.file(format!("pkg{number}/mod.py"), b"VALUE = 1\n");
    }
    tree.file("mine/mod.py", b"VALUE = 1\n");
    tree.file("closed/mod.py", b"VALUE = 1\n");
    tree.open_to_all();
    must("chown", &["-R".as_ref(), "65534:65534".as_ref(), tree.path("mine").as_os_str(), tree.home().as_os_str()]);
    std::fs::set_permissions(tree.path("closed"), std::fs::Permissions::from_mode(0o700)).unwrap();
    let compile = |format: &'static str| tree.bytekeep(Some(python), ["compile", "--format", format, "."]).by_nobody().run();
    let told = compile("human").exits(1);
    assert_eq!(told.errors(), 1, "one message for one cause: {}", told.shown());
    assert!(told.stderr.contains("Permission denied") && told.stderr.contains("--pycache-prefix"), "{}", told.shown());
    let outcome = compile("json").exits(1);
    outcome.fails("pkg2/mod.py", "permission", &["Permission denied"]).fails("good.py", "permission", &["Permission denied"]);
    assert!(outcome.entries().any(|entry| entry["path"] == "./closed" && entry["verdict"] == "unreadable"), "{}", outcome.shown());
    assert!(tree.artifact("mine/mod.py", python).is_file(), "what is ours to write is written");
    assert!(!tree.path("__pycache__").exists());
    let outcome = tree.bytekeep(None, ["verify", "--format", "json", "."]).by_nobody().run().exits(1);
    assert_eq!((outcome.verdicts("ok"), outcome.wrong()), (1, 1), "{}", outcome.shown());
    std::fs::set_permissions(tree.path("closed"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let prefix = tree.home().join("prefix").into_os_string().into_string().unwrap();
    tree.bytekeep(Some(python), ["compile", "--pycache-prefix", &prefix, "."]).by_nobody().run().exits(0);
    // A cache directory that may not be entered, and one of somebody else's that may not be written.
    tree.bytekeep(Some(python), ["compile", "."]).run().exits(0);
    std::fs::set_permissions(tree.path("pkg1/__pycache__"), std::fs::Permissions::from_mode(0o700)).unwrap();
    tree.file("pkg2/mod.py", b"VALUE = 'edited'\n");
    let outcome = compile("json").exits(1);
    outcome.fails("pkg1/mod.py", "permission", &["Permission denied"]).fails("pkg2/mod.py", "permission", &["Permission denied"]);
    assert_eq!(outcome.wrong(), 2, "{}", outcome.shown());
    assert_eq!(tree.litter(), NONE);
}
