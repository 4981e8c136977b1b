//! Interpreters that are replaced, or go, while they are used.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test's own files")]

#[path = "support/fakes.rs"]
mod fakes;
#[path = "support/mod.rs"]
mod support;
#[path = "support/whole.rs"]
mod whole;

use bytekeep::python::interpreter::Interpreter;
use bytekeep::python::memo::Probes;
use support::Python;
use whole::{Tree, all_pythons, aloud, python};

/// Sources whose cookie needs a worker of its own each.
fn sources(tree: &Tree, count: usize) {
    for at in 0..count {
        tree.file(format!("mod{at}.py"), format!("# coding: cp1252\nVALUE = {at}\n").as_bytes());
    }
}

/// A script that is one interpreter for the first `starts`, and does `then` from there on.
fn turncoat(tree: &Tree, first: &Python, starts: usize, then: &str) -> String {
    let count = tree.outside("count");
    let text = format!(
        "#!/bin/sh\necho x >> {count}\nif [ $(wc -l < {count}) -gt {starts} ]; then\n{then}\nfi\nexec {first} \"$@\"\n",
        count = count.display(),
        first = first.path.display()
    );
    tree.script("turncoat", &text)
}

fn exec(python: &Python) -> String {
    format!("exec {} \"$@\"", python.path.display())
}

/// Another one that takes the same flags.
fn other() -> Option<&'static Python> {
    let found = all_pythons().iter().find(|other| other.tag != python().tag && !other.pypy && other.version >= (3, 11));
    if found.is_none() {
        aloud("SKIP: an interpreter that became another one: there is no other from 3.11 on");
    }
    found
}

/// Code of one interpreter under the header of another makes Python crash at import, and every seal would prove it.
#[test]
fn an_interpreter_that_became_another_one_compiles_nothing() {
    let Some(other) = other() else { return };
    let tree = Tree::new();
    sources(&tree, 6);
    // The probe is the first start.
    let script = turncoat(&tree, python(), 1, &exec(other));
    let outcome = tree.bytekeep(None, ["compile", "--jobs", "1", "--python", &script, "."]).run().exits(2);
    assert!(outcome.stderr.contains("another one now"), "{}", outcome.shown());
    assert!(!tree.path("__pycache__").exists(), "{}", outcome.shown());
}

#[test]
fn what_was_compiled_before_an_interpreter_was_replaced_or_went_is_told() {
    for then in other().map(exec).into_iter().chain(["exit 9".to_owned()]) {
        let tree = Tree::new();
        sources(&tree, 12);
        let script = turncoat(&tree, python(), 4, &then);
        let words = ["compile", "--format", "json", "--jobs", "1", "--python", &script, "."];
        let outcome = tree.bytekeep(None, words).run().exits(1);
        let built = outcome.actions("built");
        assert!(built > 0 && built + outcome.actions("failed") == 13, "{}", outcome.shown());
        for failed in outcome.entries().filter(|entry| entry["action"] == "failed") {
            // Where it dies it may be over a source's own codec, for all we know.
            let code = failed["cause"]["code"].as_str();
            assert!(code == Some("interpreter") || code == Some("compiler-died") && then == "exit 9", "{failed}");
        }
        // All that stands is sound, and made by the first.
        let outcome = tree.bytekeep(Some(python()), ["compile", "--format", "json", "."]).run().exits(0);
        assert_eq!((outcome.verdicts("ok"), outcome.actions("built")), (built, 13 - built), "{}", outcome.shown());
        tree.assert_good(python());
        for at in 0..12 {
            assert_eq!(tree.import(python(), &format!("mod{at}")), at.to_string());
        }
    }
}

/// It answers in sound frames, and what stands in them is no code.
#[test]
fn what_is_no_code_is_not_sealed() {
    let tree = Tree::new();
    let model = Interpreter::find(&python().path, true, &Probes::open(None)).unwrap();
    let fake = fakes::fake(&tree.outside(""), &model, "", "good(ident, body)");
    let script = turncoat(&tree, python(), 1, &format!("exec {} \"$@\"", fake.executable.display()));
    let outcome = tree.bytekeep(None, ["compile", "--format", "json", "--python", &script, "."]).run().exits(1);
    outcome.fails("good.py", "compiler-wrong", &["no code"]);
    assert!(!tree.artifact("good.py", python()).exists());
}
