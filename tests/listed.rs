//! What the records of a package manager list by its bytes stays as it is; here those of conda, which anybody may have in a home.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test's own files")]

#[path = "support/mod.rs"]
mod support;
#[path = "support/whole.rs"]
mod whole;

use std::path::PathBuf;

use support::Python;
use whole::{Outcome, Tree, must, python, set_mtime};

/// A tree with an environment's records: `listed.py` came with its artifact, `other.py` was compiled by its interpreter, as by an installer.
struct Env {
    tree: Tree,
    python: &'static Python,
}

impl Env {
    fn new() -> Self {
        let (tree, python) = (Tree::new(), python());
        for name in ["lib/listed.py", "lib/other.py"] {
            tree.old_file(name, b"VALUE = 42\n");
        }
        let env = Self { tree, python };
        env.compile_foreign();
        env.record(&format!(r#"{{"_path": "lib/__pycache__/listed.{}.pyc", "path_type": "hardlink", "size_in_bytes": 100}}"#, python.tag));
        env
    }

    fn compile_foreign(&self) {
        let python = self.python.path.to_str().unwrap();
        must(python, &["-m".as_ref(), "compileall".as_ref(), "-q".as_ref(), "-f".as_ref(), self.tree.path("lib").as_os_str()]);
    }

    fn record(&self, paths: &str) {
        self.tree.file("conda-meta/listed-1-0.json", format!(r#"{{"paths_data": {{"paths": [{paths}]}}}}"#).as_bytes());
    }

    fn artifact(&self, name: &str) -> PathBuf {
        self.tree.artifact(format!("lib/{name}.py"), self.python)
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.artifact(name)).unwrap()
    }

    fn run(&self, args: &[&str]) -> Outcome {
        let with_python = !matches!(args[0], "clean");
        let args = args.iter().copied().chain(["--format", "json", "lib"]);
        self.tree.bytekeep(with_python.then_some(self.python), args).without("BYTEKEEP_IGNORE_RECORDS").run()
    }
}

#[test]
fn a_sound_one_is_neither_sealed_nor_made_anew_nor_removed() {
    for args in [
        &["seal"][..],
        &["seal", "--recompile"],
        &["compile", "--adopt"],
        &["compile", "--force"],
        &["compile", "--invalidation-mode", "unchecked-hash"],
        &["repair"],
        &["clean"],
    ] {
        let env = Env::new();
        let before = env.bytes("listed");
        let outcome = env.run(args).exits(0);
        assert_eq!(env.bytes("listed"), before, "{args:?}");
        outcome.is("listed.py", "unsealed", "none");
        if args[0] != "repair" {
            let cause = outcome.entry("listed.py")["cause"].clone();
            let is_told = cause["code"] == "listed" || args.contains(&"--invalidation-mode");
            assert!(is_told, "{args:?}: {}", outcome.shown());
            assert_ne!(outcome.entry("other.py")["action"], "none", "{args:?}: what nobody lists is not spared");
        }
        if args[0] != "repair" && args[0] != "clean" {
            let mut with = args.to_vec();
            with.push("--ignore-records");
            env.run(&with).exits(0);
            assert_ne!(env.bytes("listed"), before, "{with:?}");
            env.run(&["verify", "--require-seal"]).exits(0).is("listed.py", "ok", "none");
        }
    }
    let env = Env::new();
    env.run(&["clean", "--ignore-records"]).exits(0);
    assert!(!env.artifact("listed").exists());
}

#[test]
fn a_bad_one_is_made_anew_and_who_lists_it_is_told() {
    for command in ["compile", "repair"] {
        let env = Env::new();
        let bytes = env.bytes("listed");
        std::fs::write(env.artifact("listed"), &bytes[..bytes.len() - 3]).unwrap();
        let outcome = env.run(&[command]).exits(0);
        outcome.is("listed.py", "truncated", "built");
        assert!(outcome.entry("listed.py")["cause"]["text"].as_str().unwrap().contains("conda lists it"), "{}", outcome.shown());
        assert_eq!(env.tree.import(env.python, "lib.listed"), "42");
        // Stale is bad too: its interpreter would not use it.
        let env = Env::new();
        set_mtime(&env.tree.file("lib/listed.py", b"VALUE = 43\n"), 1_600_000_000);
        env.run(&[command]).exits(0).is("listed.py", "stale", "built");
        assert_eq!(env.tree.import(env.python, "lib.listed"), "43");
    }
}

#[test]
fn records_that_cannot_be_read_list_everything() {
    let env = Env::new();
    env.tree.file("conda-meta/cut-1-0.json", b"{\"paths_data\": ");
    let before = ["listed", "other"].map(|name| env.bytes(name));
    let outcome = env.run(&["seal"]).exits(0);
    outcome.is("listed.py", "unsealed", "none").is("other.py", "unsealed", "none");
    assert!(outcome.entry("other.py")["cause"]["text"].as_str().unwrap().contains("cut-1-0.json"), "{}", outcome.shown());
    assert_eq!(["listed", "other"].map(|name| env.bytes(name)), before);
}

#[test]
fn people_are_told_once() {
    let env = Env::new();
    let tag = &env.python.tag;
    let paths = ["listed", "other"].map(|name| format!(r#"{{"_path": "lib/__pycache__/{name}.{tag}.pyc", "sha256": "00"}}"#));
    env.record(&paths.join(","));
    let outcome = env.tree.bytekeep(Some(env.python), ["seal", "lib"]).without("BYTEKEEP_IGNORE_RECORDS").run().exits(0);
    assert_eq!(outcome.stderr.matches("conda lists it").count(), 1, "{}", outcome.shown());
    assert!(outcome.stderr.contains("--ignore-records"), "{}", outcome.shown());
    let outcome = env.tree.bytekeep(Some(env.python), ["seal", "-v", "lib"]).without("BYTEKEEP_IGNORE_RECORDS").run().exits(0);
    assert_eq!(outcome.stderr.matches("conda lists it").count(), 3, "{}", outcome.shown());
}
