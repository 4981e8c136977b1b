//! Compiling again: `verify --recompile` and `seal --recompile` against artifacts that interpreters themselves wrote, and
//! `inspect --diff`.

#![cfg(feature = "cli")]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, reason = "tests write files of their own")]

mod support;
#[path = "support/whole.rs"]
mod whole;

use std::path::Path;

use bytekeep::base::seal::Artifact;
use support::Python;
use whole::{Tree, all_below, all_pythons, python, set_mtime};

const SOURCE: &str =
    "VALUE = 1\n\n\nclass Class:\n    def method(self):\n        return [7, 'text']\n\n    def other(self):\n        return self\n";

/// Compiles a file of the tree as Python itself does, under a name.
fn compile(tree: &Tree, python: &Python, source: &str, name: &Path) {
    let mut command = python.command();
    let program = "import sys, py_compile; py_compile.compile(sys.argv[1], None, sys.argv[2], True)";
    command.args(["-S", "-c", program]).arg(tree.path(source)).arg(name).current_dir(tree.root());
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}: {}", python.tag, String::from_utf8_lossy(&done.stderr));
}

/// A tree with an artifact that was made from `made`, beside a source of the same length and time that says `SOURCE` now.
fn tree_with(python: &Python, made: &str) -> Tree {
    let tree = Tree::new();
    assert_eq!(made.len(), SOURCE.len(), "what no header shows");
    tree.old_file("pkg/__init__.py", b"");
    tree.old_file("pkg/m.py", made.as_bytes());
    compile(&tree, python, "pkg/m.py", &tree.path("pkg/m.py"));
    tree.old_file("pkg/m.py", SOURCE.as_bytes());
    tree
}

fn is_adopted(path: &Path) -> Option<bool> {
    let bytes = std::fs::read(path).unwrap();
    Artifact::split(&bytes).unwrap().seal.map(|seal| seal.adopted)
}

#[test]
fn what_python_itself_compiled_is_equal_and_nothing_is_written() {
    for python in all_pythons() {
        let tree = tree_with(python, SOURCE);
        let before: Vec<_> =
            all_below(&tree.root()).iter().map(|path| (path.clone(), std::fs::metadata(path).unwrap().modified().unwrap())).collect();
        let outcome = tree.bytekeep(Some(python), ["verify", "--recompile", "--format", "json", "."]).run().exits(0);
        let entry = outcome.entry("pkg/m.py");
        assert_eq!((entry["verdict"].as_str(), entry["cause"].is_null()), (Some("unsealed"), true), "{entry}");
        let after: Vec<_> =
            all_below(&tree.root()).iter().map(|path| (path.clone(), std::fs::metadata(path).unwrap().modified().unwrap())).collect();
        assert_eq!(before, after);

        // The same under another name: told, and no problem.
        compile(&tree, python, "pkg/m.py", Path::new("built/elsewhere/m.py"));
        let outcome = tree.bytekeep(Some(python), ["verify", "--recompile", "--format", "json", "."]).run().exits(0);
        let entry = outcome.entry("pkg/m.py");
        assert_eq!(entry["cause"]["code"], "other-filename", "{entry}");
        assert!(entry["cause"]["text"].as_str().unwrap().contains("`built/elsewhere/m.py`"), "{entry}");
    }
}

#[test]
fn other_code_is_a_problem_that_names_the_function() {
    for python in all_pythons() {
        let tree = tree_with(python, &SOURCE.replace("[7, 'text']", "[8, 'text']"));
        let artifact = tree.artifact("pkg/m.py", python);
        tree.bytekeep(None, ["verify", "."]).run().exits(0);
        let outcome = tree.bytekeep(Some(python), ["verify", "--recompile", "--format", "json", "."]).run().exits(1);
        let entry = outcome.entry("pkg/m.py");
        assert_eq!((entry["cause"]["code"].as_str(), entry["wrong"].as_bool()), (Some("other-code"), Some(true)), "{entry}");
        assert!(entry["cause"]["text"].as_str().unwrap().contains("Class.method (line 5): co_co"), "{entry}");

        let outcome = tree.bytekeep(Some(python), ["seal", "--recompile", "--format", "json", "."]).run().exits(1);
        let entry = outcome.entry("pkg/m.py");
        assert_eq!((entry["action"].as_str(), entry["cause"]["code"].as_str()), (Some("failed"), Some("other-code")), "{entry}");
        assert_eq!(is_adopted(&artifact), None, "it is left as it is");
    }
}

#[test]
fn seals_of_what_is_equal_are_not_adopted() {
    for python in all_pythons() {
        let tree = tree_with(python, SOURCE);
        let artifact = tree.artifact("pkg/m.py", python);
        tree.bytekeep(None, ["seal", "."]).run().exits(0);
        assert_eq!(is_adopted(&artifact), Some(true));
        for action in ["sealed", "none"] {
            let outcome = tree.bytekeep(Some(python), ["seal", "--recompile", "--format", "json", "."]).run().exits(0);
            assert_eq!(outcome.entry("pkg/m.py")["action"], action);
            assert_eq!(is_adopted(&artifact), Some(false));
        }
        tree.verify().exits(0);
        assert_eq!(tree.import(python, "pkg.m"), "1");

        let tree = tree_with(python, SOURCE);
        tree.bytekeep(Some(python), ["seal", "--recompile", "."]).run().exits(0);
        assert_eq!(is_adopted(&tree.artifact("pkg/m.py", python)), Some(false), "{}", python.tag);
    }
}

#[test]
fn an_adopted_seal_of_other_code_stays_and_is_told() {
    let python = python();
    let tree = tree_with(python, &SOURCE.replace("VALUE = 1", "VALUE = 2"));
    let artifact = tree.artifact("pkg/m.py", python);
    tree.bytekeep(None, ["seal", "."]).run().exits(0);
    let outcome = tree.bytekeep(Some(python), ["seal", "--recompile", "."]).run().exits(1);
    assert!(outcome.stderr.contains("<module> (line 1): co_co") && outcome.stderr.contains("compile --force"), "{}", outcome.stderr);
    assert_eq!(is_adopted(&artifact), Some(true));
}

#[test]
fn what_nobody_here_compiles_is_told_and_no_problem() {
    let pythons = all_pythons();
    let [one, .., other] = pythons else { return assert_eq!(pythons.len(), 1) };
    let tree = tree_with(one, SOURCE);
    let artifact = tree.artifact("pkg/m.py", one);
    for command in ["verify", "seal"] {
        let outcome = tree.bytekeep(Some(other), [command, "--recompile", "--format", "json", "."]).run().exits(0);
        let entry = outcome.entry("pkg/m.py");
        assert_eq!((entry["action"].as_str(), entry["cause"]["code"].as_str()), (Some("none"), Some("no-interpreter")), "{entry}");
    }
    assert_eq!(is_adopted(&artifact), None);
}

/// A `.pyo` is of level 1 or 2: who compiles it is there, and only what to compile is not known.
#[test]
fn a_level_that_no_name_says_is_told_as_that() {
    let Some(python) = all_pythons().iter().find(|python| python.version.0 == 2) else { return };
    let tree = tree_with(python, SOURCE);
    let artifact = tree.artifact("pkg/m.py", python);
    std::fs::rename(&artifact, artifact.with_extension("pyo")).unwrap();
    for args in [&["verify", "--recompile"][..], &["seal", "--recompile"], &["seal"]] {
        let outcome = tree.bytekeep(Some(python), args.iter().copied().chain(["--format", "json", "."])).run().exits(0);
        let entry = outcome.entry("pkg/m.py");
        assert_eq!((entry["action"].as_str(), entry["cause"]["code"].as_str()), (Some("none"), Some("level")), "{args:?} {entry}");
    }
}

#[test]
fn a_source_that_does_not_compile_or_takes_too_long_is_a_problem() {
    let python = python();
    let tree = tree_with(python, SOURCE);
    tree.old_file("pkg/m.py", SOURCE.replace("VALUE = 1", "VALUE = )").as_bytes());
    let outcome = tree.bytekeep(Some(python), ["verify", "--recompile", "--format", "json", "."]).run().exits(1);
    assert_eq!(outcome.entry("pkg/m.py")["cause"]["code"], "source");

    // Half a second of compiling and more: no machine is done with it in the given time.
    let slow = Tree::new();
    slow.old_file("pkg/m.py", "f(1, 2, [3, 4], x=5)\n".repeat(20_000).as_bytes());
    compile(&slow, python, "pkg/m.py", &slow.path("pkg/m.py"));
    let outcome = slow.bytekeep(Some(python), ["verify", "--recompile", "--timeout", "0.01", "--format", "json", "."]).run().exits(1);
    assert_eq!(outcome.entry("pkg/m.py")["cause"]["code"], "timeout");
}

/// Names come from the file, and a file may hold anything: none of them begins a line of its own.
#[test]
fn names_with_line_ends_stay_in_their_line() {
    let python = python();
    let tree = tree_with(python, &SOURCE.replace("method", "m_thod").replace("[7,", "[8,"));
    let path = tree.artifact("pkg/m.py", python);
    let mut bytes = std::fs::read(&path).unwrap();
    while let Some(at) = bytes.windows(6).position(|window| window == b"m_thod") {
        bytes[at..at + 6].copy_from_slice(b"x\nok \x1b");
    }
    std::fs::write(&path, bytes).unwrap();
    let diff = tree.bytekeep(None, ["inspect", "--diff"]).arg(&path).arg(tree_with(python, SOURCE).artifact("pkg/m.py", python)).run();
    assert!(diff.stdout.contains(r"x\nok "), "{}", diff.stdout);
    let again = tree.bytekeep(Some(python), ["verify", "--recompile", "."]).run().exits(1);
    for told in [&diff.stdout, &again.stdout] {
        assert!(!told.contains('\x1b') && !told.lines().any(|line| line.starts_with("ok ")), "{told}");
    }
}

#[test]
fn two_artifacts_are_told_apart() {
    let python = python();
    let (one, same) = (tree_with(python, SOURCE), tree_with(python, SOURCE));
    let other = tree_with(python, &SOURCE.replace("def other", "def ether").replace("VALUE = 1", "VALUE = 2"));
    set_mtime(&same.path("pkg/m.py"), 1_600_000_000);
    compile(&same, python, "pkg/m.py", &same.path("pkg/m.py"));
    let diff = |with: &Tree, json| {
        let format = if json { "json" } else { "human" };
        let run = one.bytekeep(None, ["inspect", "--diff", "--format", format]);
        run.arg(one.artifact("pkg/m.py", python)).arg(with.artifact("pkg/m.py", python)).run()
    };
    let outcome = diff(&same, true).exits(0);
    let told = &outcome.lines[0];
    assert_eq!((told["kind"].as_str(), told["same_code"].as_bool()), (Some("difference"), Some(true)), "{told}");
    let fields: Vec<_> = told["header"].as_array().unwrap().iter().map(|field| field["field"].as_str().unwrap()).collect();
    assert!(fields.contains(&"mtime") && !fields.contains(&"seal"), "{told}");
    assert_eq!(told["filenames"]["first"], one.path("pkg/m.py").to_str().unwrap(), "{told}");

    let outcome = diff(&other, true).exits(1);
    let told = &outcome.lines[0];
    assert_eq!(told["same_code"].as_bool(), Some(false));
    let alone: Vec<_> = told["code"].as_array().unwrap().iter().filter(|one| one["field"].is_null()).collect();
    let named: Vec<_> = alone.iter().map(|one| (one["function"].as_str().unwrap(), one["first"].is_null())).collect();
    assert_eq!(named, [("Class.other", false), ("Class.ether", true)], "{told}");
    let outcome = diff(&other, false);
    assert!(outcome.stdout.contains("Class.ether (line 8): only in the second"), "{}", outcome.stdout);

    // Of another interpreter: headers alone.
    if let Some(old) = all_pythons().iter().find(|old| old.magic != python.magic) {
        let tree = tree_with(old, SOURCE);
        let run = one.bytekeep(None, ["inspect", "--diff"]).arg(one.artifact("pkg/m.py", python)).arg(tree.artifact("pkg/m.py", old));
        let outcome = run.run().exits(1);
        assert!(outcome.stdout.contains("different interpreters") && outcome.stdout.contains("magic"), "{}", outcome.stdout);
    }
    // Cut, or no artifact at all.
    let path = other.artifact("pkg/m.py", python);
    let bytes = std::fs::read(&path).unwrap();
    for cut in [0, 10, 16, 40, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        let outcome = diff(&other, true).exits(1);
        assert!(outcome.lines[0]["same_code"].is_null() && outcome.lines[0]["cause"].is_string(), "{:?}", outcome.lines);
    }
    one.bytekeep(None, ["inspect", "--diff", "good.py"]).run().exits(2);
}
