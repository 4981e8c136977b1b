//! The store: what one tree compiled, the next one finds, byte for byte as its own interpreter would have made it.

#![cfg(feature = "cli")]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, reason = "tests write files of their own")]

mod support;
#[path = "support/whole.rs"]
mod whole;

use std::path::{Path, PathBuf};

use bytekeep::base::seal::{self, Artifact};
use support::Python;
use whole::{Outcome, Tree, all_below, all_pythons, may, python, set_mtime, tool_or_skip};

/// What an interpreter says in its code: functions in functions, text of all kinds, its own file name too.
const SOURCE: &str = "'''Words.'''\nimport sys\nVALUE = 1\nNAME = 'm.py'\nTEXT = 'a' 'b', u'caf\\u00e9', b'x', 'm', '', '/'\nclass Class(object):\n    '''Words.'''\n    def method(self, a=1):\n        assert a\n        return [lambda x: (x, a) for x in (1, 2.5, 10**30)]\n    def file(self):\n        return sys._getframe().f_code.co_filename\n";

/// The trees of these tests have one store.
fn with_store(run: whole::Run, store: &Path) -> whole::Run {
    run.env("BYTEKEEP_STORE", store)
}

fn compile(tree: &Tree, python: &Python, store: &Path, args: &[&str]) -> Outcome {
    let words = ["compile", "--format", "json"].into_iter().chain(args.iter().copied());
    with_store(tree.bytekeep(Some(python), words), store).run()
}

fn counts(outcome: &Outcome) -> [u64; 3] {
    ["hits", "misses", "puts"].map(|name| outcome.summary()["store"][name].as_u64().unwrap())
}

/// The values in a store.
fn values(store: &Path) -> Vec<PathBuf> {
    all_below(store).into_iter().filter(|path| path.file_name().unwrap().len() == 64).collect()
}

/// A tree with one source beside `good.py`.
fn tree(content: &str) -> Tree {
    let tree = Tree::new();
    tree.old_file("m.py", content.as_bytes());
    tree
}

/// An interpreter that works as `python` does and tells in a file that it was started.
fn counted(tree: &Tree, python: &Python) -> (String, PathBuf) {
    let seen = tree.outside("seen");
    let script = tree.script("counted", &format!("#!/bin/sh\necho >>{}\nexec {} \"$@\"\n", seen.display(), python.path.display()));
    (script, seen)
}

#[test]
fn what_one_tree_compiled_the_next_one_has_as_if_its_interpreter_had_made_it() {
    for python in all_pythons() {
        let store = tempfile::tempdir().unwrap();
        let first = tree(SOURCE);
        // 2.7 has one name for both of the higher levels.
        let (levels, number) = if python.version.0 == 2 { ("0,2", 2) } else { ("0,1,2", 3) };
        let outcome = compile(&first, python, store.path(), &["--optimize", levels, "."]).exits(0);
        assert_eq!(counts(&outcome), [0, 2 * number, 2 * number], "{}", python.tag);
        let long = "d/".repeat(150);
        for dir in ["pkg", "p", "caf\u{e9}", "sp ace/m.py", long.as_str()] {
            let names = [format!("{dir}/m.py"), format!("{dir}/__init__.py"), format!("{dir}/m.pyw.py")];
            let (second, plain) = (Tree::new(), Tree::new());
            for (tree, name) in [&second, &plain].into_iter().flat_map(|tree| names.iter().map(move |name| (tree, name))) {
                tree.old_file(name, SOURCE.as_bytes());
                set_mtime(&tree.path("good.py"), 1_500_000_000);
            }
            // One name for both trees, since it stands in their code.
            let strip = |tree: &Tree| tree.root().into_os_string().into_string().unwrap();
            let mode = if python.version >= (3, 7) { "checked-hash" } else { "timestamp" };
            let args = ["--optimize", levels, "--invalidation-mode", mode, "--prepend-dir", "/usr/lib", "--strip-dir"];
            let outcome = compile(&second, python, store.path(), &[&args[..], &[&strip(&second), "."]].concat()).exits(0);
            assert_eq!(counts(&outcome), [4 * number, 0, 0], "{} {dir}", python.tag);
            assert!(outcome.entries().all(|entry| entry["stored"] == true), "{}", outcome.shown());
            compile(&plain, python, store.path(), &[&args[..], &[&strip(&plain), "--no-store", "."]].concat()).exits(0);
            let mut compared = 0;
            for made in all_below(&plain.root()).iter().filter(|path| path.extension().is_some_and(|end| end == "pyc" || end == "pyo")) {
                let relative = made.strip_prefix(plain.root()).unwrap();
                let same = std::fs::read(made).unwrap() == std::fs::read(second.path(relative)).unwrap();
                // PyPy's dumps are not the same from one process to the next.
                assert!(same || python.pypy, "{} {}", python.tag, relative.display());
                compared += 1;
            }
            assert_eq!(compared, 4 * number);
        }
    }
}

#[test]
fn a_second_tree_starts_no_interpreter() {
    for python in all_pythons() {
        let store = tempfile::tempdir().unwrap();
        let (first, second) = (tree(SOURCE), tree(SOURCE));
        let (script, seen) = counted(&first, python);
        for (tree, wanted) in [(&first, [0, 2, 2]), (&second, [2, 0, 0])] {
            // As an administrator's wrapper it is asked each time what it is; that is not counted.
            let asked = with_store(first.bytekeep(None, ["status", "--python", &script, "good.py"]), store.path());
            drop(std::fs::remove_file(&seen));
            asked.run();
            let asking = std::fs::read(&seen).unwrap().len();
            std::fs::remove_file(&seen).unwrap();
            let run = tree.bytekeep(None, ["compile", "--format", "json", "--jobs", "1", "--python", &script, "."]);
            assert_eq!(counts(&with_store(run, store.path()).run().exits(0)), wanted, "{}", python.tag);
            assert_eq!(std::fs::read(&seen).unwrap().len() - asking, usize::from(wanted[0] == 0), "{}", python.tag);
        }
        second.assert_good(python);
        assert_eq!(second.import(python, "m"), first.import(python, "m"));
    }
}

/// A wrapper with options of its own gives other code under the same version's text.
#[test]
fn what_a_wrapper_makes_of_code_is_its_own() {
    for python in all_pythons().iter().filter(|python| !python.pypy && python.version >= (3, 11)) {
        for (words, variable) in [("-X no_debug_ranges", ""), ("", "PYTHONNODEBUGRANGES=1"), ("-X int_max_str_digits=0", "")] {
            let store = tempfile::tempdir().unwrap();
            let (first, second) = (tree(SOURCE), tree(SOURCE));
            let script = format!("#!/bin/sh\n{variable} exec {} {words} \"$@\"\n", python.path.display());
            let wrapper = first.script("wrapper", &script);
            let run = first.bytekeep(None, ["compile", "--format", "json", "--python", &wrapper, "."]);
            assert_eq!(counts(&with_store(run, store.path()).run().exits(0)), [0, 2, 2], "{}", python.tag);
            assert_eq!(counts(&compile(&second, python, store.path(), &["."]).exits(0)), [0, 2, 2], "{} {words}{variable}", python.tag);
            second.assert_good(python);
        }
    }
}

#[test]
fn what_the_store_holds_says_where_its_code_comes_from_in_each_tree() {
    for python in all_pythons() {
        let store = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let tree = tree("import sys\nVALUE = (lambda: sys._getframe().f_code.co_filename)()\n");
            compile(&tree, python, store.path(), &["."]).exits(0);
            let told = tree.import(python, "m");
            assert!(told.ends_with("m.py") && !told.contains("bytekeep"), "{told}");
        }
    }
}

#[test]
fn a_bad_value_is_a_miss_and_is_made_anew() {
    let python = python();
    let store = tempfile::tempdir().unwrap();
    compile(&tree(SOURCE), python, store.path(), &["."]).exits(0);
    let all = values(store.path());
    assert_eq!(all.len(), 2);
    let damages: [fn(&mut Vec<u8>); 5] = [
        |bytes| bytes.truncate(100),
        |bytes| bytes[60] ^= 1,
        |bytes| bytes.clear(),
        |bytes| bytes.truncate(bytes.len() - 96),
        |bytes| bytes[16..].fill(0),
    ];
    for damage in damages {
        for path in &all {
            let mut bytes = std::fs::read(path).unwrap();
            damage(&mut bytes);
            std::fs::write(path, bytes).unwrap();
        }
        let tree = tree(SOURCE);
        let run = with_store(tree.bytekeep(Some(python), ["compile", "-v", "--format", "json", "."]), store.path());
        let outcome = run.run().exits(0);
        assert_eq!(counts(&outcome), [0, 2, 2], "{}", outcome.shown());
        assert!(all.iter().all(|path| outcome.stderr.contains(path.to_str().unwrap())), "{}", outcome.shown());
        tree.assert_good(python);
    }
    // One value in the other's place.
    std::fs::copy(&all[0], &all[1]).unwrap();
    let tree = tree(SOURCE);
    assert_eq!(counts(&compile(&tree, python, store.path(), &["."]).exits(0)), [1, 1, 1]);
    tree.assert_good(python);
}

#[test]
fn the_parts_of_a_key_are_told() {
    let python = python();
    let tree = tree(SOURCE);
    let outcome = tree.bytekeep(Some(python), ["compile", "-vv", "m.py"]).run().exits(0);
    for part in ["source ", &format!("tag {}", python.tag), "magic ", "variant ", "level 0", "build ", "bytekeep store 1"] {
        assert!(outcome.stderr.contains(part), "{part}: {}", outcome.shown());
    }
}

#[test]
fn who_forces_or_wants_none_takes_nothing_from_the_store() {
    let python = python();
    let store = tempfile::tempdir().unwrap();
    let tree = tree(SOURCE);
    compile(&tree, python, store.path(), &["."]).exits(0);
    assert_eq!(counts(&compile(&tree, python, store.path(), &["--force", "."]).exits(0)), [0, 0, 2]);
    let outcome = compile(&tree, python, store.path(), &["--force", "--no-store", "."]).exits(0);
    assert!(outcome.summary()["store"].is_null());
    assert!(outcome.entries().all(|entry| entry["stored"].is_null()));
    // Who names one wants it, whatever a variable says.
    let words = ["compile", "--force", "--format", "json", "--store", store.path().to_str().unwrap(), "."];
    let run = || tree.bytekeep(Some(python), words).env("BYTEKEEP_NO_STORE", "1");
    assert_eq!(counts(&run().run().exits(0)), [0, 0, 2]);
    assert!(run().arg("--no-store").run().exits(0).summary()["store"].is_null());
}

#[test]
fn a_source_that_does_not_compile_is_never_stored() {
    let python = python();
    let store = tempfile::tempdir().unwrap();
    let tree = tree("x = )\n");
    for _ in 0..2 {
        let outcome = compile(&tree, python, store.path(), &["m.py"]).exits(1);
        outcome.fails("m.py", "source", &["x = )", tree.path("m.py").to_str().unwrap()]);
    }
    assert!(values(store.path()).is_empty());
}

/// `verify` asks the store for nothing, and says where the store would have given something else.
#[test]
fn verify_compares_with_what_the_store_has() {
    let python = python();
    let store = tempfile::tempdir().unwrap();
    let tree = tree(SOURCE);
    compile(&tree, python, store.path(), &["."]).exits(0);
    let verify = || with_store(tree.bytekeep(Some(python), ["verify", "--recompile", "--format", "json", "."]), store.path()).run();
    verify().exits(0);
    // Sealed anew by somebody who may, with another number in it.
    for path in values(store.path()) {
        let old = std::fs::read(&path).unwrap();
        let Artifact { payload, seal } = Artifact::split(&old).unwrap();
        let mut payload = payload.to_vec();
        if let Some(at) = payload.windows(8).position(|part| part == 2.5_f64.to_le_bytes()) {
            payload[at..at + 8].copy_from_slice(&3.5_f64.to_le_bytes());
        }
        let seal = seal.unwrap();
        std::fs::write(&path, seal::sealed(payload, seal.source, seal.label, false)).unwrap();
    }
    let outcome = verify().exits(1);
    assert_eq!(outcome.entry("m.py")["cause"]["code"], "store", "{}", outcome.shown());
}

#[test]
fn a_store_that_others_can_write_is_not_used() {
    use std::os::unix::fs::PermissionsExt;
    let python = python();
    let tree = tree(SOURCE);
    let store = tree.home().join(".cache/bytekeep");
    std::fs::create_dir_all(&store).unwrap();
    std::fs::set_permissions(&store, std::fs::Permissions::from_mode(0o777)).unwrap();
    let outcome = compile(&tree, python, &store, &["."]).exits(2);
    assert!(outcome.stderr.contains(store.to_str().unwrap()) && outcome.stderr.contains("--no-store"), "{}", outcome.shown());
    assert!(values(&store).is_empty());
}

/// ext4 and xfs write a file out when it is closed after it was cut to nothing, and its removal waits for that: once for each folder's lock.
#[test]
fn a_first_run_cuts_no_file() {
    if !tool_or_skip("strace") {
        return;
    }
    let tree = tree(SOURCE);
    let store = tempfile::tempdir().unwrap();
    let log = tree.outside("log");
    let run = with_store(tree.bytekeep(Some(python()), ["compile", "--durability", "none", "."]), store.path());
    run.by(&["strace", "-f", "-y", "-e", "trace=ftruncate,truncate,flock", "-o", log.to_str().unwrap()]).run().exits(0);
    let calls = std::fs::read_to_string(&log).unwrap();
    assert!(calls.contains("flock(") && !calls.contains("truncate("), "{calls}");
}

/// Sources that two trees share by hard links are read for the first of them alone.
#[test]
fn what_is_hard_linked_is_not_read_again() {
    if !tool_or_skip("strace") {
        return;
    }
    let python = python();
    let store = tempfile::tempdir().unwrap();
    let first = tree(SOURCE);
    first.old_file("good.py", b"VALUE = 42\n");
    let second = Tree::new();
    let read = |tree: &Tree, wanted: [u64; 3]| {
        let log = tree.outside("log");
        let run = with_store(tree.bytekeep(Some(python), ["compile", "--format", "json", "--jobs", "1", "."]), store.path());
        // -y: the paths of descriptors.
        let outcome = run.by(&["strace", "-f", "-y", "-e", "trace=read,pread64", "-o", log.to_str().unwrap()]).run().exits(0);
        assert_eq!(counts(&outcome), wanted, "{}", outcome.shown());
        let calls = std::fs::read_to_string(&log).unwrap();
        calls.lines().filter(|line| line.contains(&format!("{}/", tree.root().display())) && line.contains(".py>")).count()
    };
    let link = |from: &Tree, to: &Tree| {
        for name in ["m.py", "good.py"] {
            drop(std::fs::remove_file(to.path(name)));
            std::fs::hard_link(from.path(name), to.path(name)).unwrap();
        }
    };
    // In an installer's cache first: what has one name is nobody else's.
    link(&first, &second);
    assert!(read(&first, [0, 2, 2]) >= 2);
    let third = Tree::new();
    link(&first, &third);
    assert_eq!(read(&third, [2, 0, 0]), 0);
    third.assert_good(python);
    third.verify().exits(0);
    // Written in place, with the old time and size: all trees have it now, and it is read.
    std::fs::remove_dir_all(third.path("__pycache__")).unwrap();
    std::fs::write(first.path("good.py"), b"VALUE = 43\n").unwrap();
    set_mtime(&first.path("good.py"), 1_500_000_000);
    assert!(read(&third, [1, 1, 1]) >= 1);
    assert_eq!(third.import(python, "good"), "43");
    third.verify().exits(0);
}

/// uv links environments together, source by source.
#[test]
fn environments_that_uv_links_together() {
    let python = python();
    let place = Tree::new();
    let uv = place.outside("tools/bin/uv");
    let made = may(python.path.to_str().unwrap(), &["-m", "venv", place.outside("tools").to_str().unwrap()])
        && may(place.outside("tools/bin/pip").to_str().unwrap(), &["install", "-q", "--disable-pip-version-check", "uv"]);
    if !made {
        return;
    }
    let store = tempfile::tempdir().unwrap();
    let mut wanted = None;
    for name in ["one", "two", "three"] {
        let env = place.path(name);
        let uv = |args: &[&str]| {
            let cache = place.outside("uv-cache");
            let words = [&["--cache-dir", cache.to_str().unwrap(), "--no-config", "-q"][..], args].concat();
            may(uv.to_str().unwrap(), &words)
        };
        let there = uv(&["venv", "--python", python.path.to_str().unwrap(), env.to_str().unwrap()])
            && uv(&["pip", "install", "--link-mode", "hardlink", "--python", env.to_str().unwrap(), "attrs", "idna"]);
        if !there {
            return;
        }
        // What was written within the last two seconds is not remembered.
        std::thread::sleep(std::time::Duration::from_millis(if wanted.is_none() { 2100 } else { 0 }));
        let outcome = with_store(place.bytekeep(None, ["compile", "--format", "json", name]), store.path()).run().exits(0);
        let [hits, misses, _] = counts(&outcome);
        match wanted {
            None => wanted = Some(misses),
            Some(all) => assert_eq!((hits, misses), (all, 0), "{name}: {}", outcome.stderr),
        }
        place.bytekeep(None, ["verify", name]).run().exits(0);
    }
    assert!(store.path().join("store-1/digests-1").is_file());
}
