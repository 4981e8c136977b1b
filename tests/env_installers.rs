//! Environments as real installers leave them, `pip` and `uv`: what they install, upgrade and remove, with `compile --env` after it,
//! beside it, and after they were killed.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test's own files")]

#[path = "support/mod.rs"]
mod support;
#[path = "support/wheels.rs"]
mod wheels;
#[path = "support/whole.rs"]
mod whole;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use support::Python;
use wheels::{Installer, artifacts, environment, installers, one_of_each, orphans, pythons_with_pip, records, site, wheel};
use whole::{Outcome, Tree, all_below};

const ONE: &[(&str, &str)] = &[
    ("one/__init__.py", "VALUE = 1\n"),
    ("one/changed.py", "VALUE = 1\n"),
    ("one/gone.py", "VALUE = 1\n"),
    ("one/sub/deep.py", "VALUE = 1\n"),
    ("one/data.txt", "no source\n"),
    ("one_top.py", "VALUE = 1\n"),
    ("shared/one.py", "VALUE = 1\n"),
];
const ONE_LATER: &[(&str, &str)] = &[
    ("one/__init__.py", "VALUE = 1\n"),
    ("one/changed.py", "VALUE = 20\n"),
    ("one/data.txt", "no source\n"),
    ("shared/one.py", "VALUE = 2\n"),
];
const TWO: &[(&str, &str)] = &[("two/__init__.py", "VALUE = 2\n"), ("two_top.py", "VALUE = 2\n"), ("shared/two.py", "VALUE = 2\n")];

fn compile(tree: &Tree) -> Outcome {
    tree.bytekeep(None, ["compile", "--format", "json", "--optimize", "0,1", "--env", "env"]).run()
}

/// Every recorded source has sealed artifacts of both levels, all that is there is sound, and nothing is left of what is gone.
#[track_caller]
fn in_order(tree: &Tree, site: &Path) {
    let words = ["verify", "--complete", "--require-seal", "--optimize", "0,1", "--format", "json", "--env", "env"];
    let outcome = tree.bytekeep(None, words).run().exits(0);
    assert_eq!(outcome.verdicts("orphan"), 0, "{}", outcome.shown());
    assert_eq!(orphans(site), Vec::<PathBuf>::new());
    assert!(tree.litter().is_empty(), "{:?}", tree.litter());
}

/// What a module of the environment says, by its own interpreter, and that it came from its artifact.
fn import(tree: &Tree, module: &str) -> String {
    let mut command = std::process::Command::new(tree.path("env/bin/python"));
    tree.dress(&mut command);
    command.args(["-v", "-B", "-c", &format!("import sys, {module} as it; sys.stdout.write(str(it.VALUE))")]);
    let done = command.output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    let last = module.rsplit('.').next().unwrap();
    let cached = said.lines().any(|line| line.contains("code object from") && line.contains(&format!("{last}.cpython")));
    assert!(done.status.success() && cached, "{module}: {said}");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// A tree with an environment, and the wheels.
fn ground(python: &Python) -> (Tree, PathBuf, [PathBuf; 3]) {
    let tree = Tree::new();
    let site = site(&environment(&tree, python), python);
    let wheels = [("one", "1.0", ONE), ("one", "2.0", ONE_LATER), ("two", "1.0", TWO)]
        .map(|(name, version, files)| wheel(&tree, python, name, version, files));
    (tree, site, wheels)
}

#[test]
fn installed_upgraded_removed() {
    for (installer, python) in installers() {
        let (tree, site, [one, later, two]) = ground(python);
        // What nobody recorded is nobody's.
        std::fs::create_dir(site.join("stray")).unwrap();
        std::fs::write(site.join("stray.py"), "VALUE = 3\n").unwrap();
        std::fs::write(site.join("stray/m.py"), "VALUE = 3\n").unwrap();
        let before = all_below(&site);
        installer.install(&tree, &[&one, &two]);
        let recorded = records(&site);
        let outcome = compile(&tree).exits(0);
        assert_eq!(outcome.actions("built"), 18, "{installer:?}: {}", outcome.shown());
        in_order(&tree, &site);
        assert_eq!((import(&tree, "one.changed"), import(&tree, "shared.two")), ("1".into(), "2".into()));
        assert!(artifacts(&site).iter().all(|path| !path.to_string_lossy().contains("stray")));
        assert_eq!(compile(&tree).exits(0).actions("none"), 18);
        assert_eq!(records(&site), recorded, "{installer:?}");

        installer.install(&tree, &[&later]);
        let recorded = records(&site);
        compile(&tree).exits(0);
        in_order(&tree, &site);
        assert_eq!((import(&tree, "one.changed"), import(&tree, "shared.one")), ("20".into(), "2".into()));
        // uv takes the whole directory of artifacts with one of two packages that share it: the other's are made again.
        assert_eq!(import(&tree, "shared.two"), "2");
        assert!(!site.join("one/sub").exists() && !site.join("one_top.py").exists());
        assert_eq!(artifacts(&site).len(), 12, "{:?}", artifacts(&site));
        assert_eq!(records(&site), recorded, "{installer:?}");

        installer.uninstall(&tree, &["one"]);
        compile(&tree).exits(0);
        in_order(&tree, &site);
        assert_eq!(import(&tree, "shared.two"), "2");
        installer.uninstall(&tree, &["two"]);
        compile(&tree).exits(0);
        let (mut before, mut after) = (before, all_below(&site));
        before.sort();
        after.sort();
        assert_eq!(after, before, "{installer:?}: nothing is left, and what is nobody's stays");
    }
}

/// What `pip` compiled itself stands in its records without a digest.
#[test]
fn what_pip_compiled_is_sealed_where_it_stands() {
    for python in pythons_with_pip() {
        let (tree, site, [one, _, two]) = ground(python);
        let (pip, before) = (Installer::Pip(python), all_below(&site).len());
        pip.must(&tree, "install", &[one.to_str().unwrap(), two.to_str().unwrap()]);
        let (recorded, payloads) = (records(&site), contents(&site));
        assert_eq!(payloads.len(), 9, "{payloads:?}");
        let outcome = tree.bytekeep(None, ["compile", "--format", "json", "--env", "env"]).run().exits(0);
        assert_eq!((outcome.actions("sealed"), outcome.actions("built")), (9, 0), "{}", outcome.shown());
        for ((path, old), (_, new)) in payloads.iter().zip(contents(&site)) {
            assert_eq!((new.get(..old.len()), new.len()), (Some(old.as_slice()), old.len() + 96), "{}", path.display());
        }
        assert_eq!((records(&site), import(&tree, "one.gone")), (recorded, "1".into()));
        // Its own name is all that pip knows, and a seal is in the same file: nothing is left to clean.
        pip.uninstall(&tree, &["one", "two"]);
        assert_eq!(all_below(&site).len(), before, "{:?}", all_below(&site));
    }
}

/// The facts that the manual tells: of another level pip knows nothing, and its directory stays until the next `compile --env`.
#[test]
fn what_stays_after_pip_until_the_next_run() {
    for python in pythons_with_pip().iter().take(1) {
        let (tree, site, [one, ..]) = ground(python);
        let (pip, before) = (Installer::Pip(python), all_below(&site).len());
        pip.install(&tree, &[&one]);
        tree.bytekeep(None, ["compile", "--env", "env"]).run().exits(0);
        pip.uninstall(&tree, &["one"]);
        assert_eq!(all_below(&site).len(), before, "pip finds by itself what its own interpreter would have made");
        pip.install(&tree, &[&one]);
        compile(&tree).exits(0);
        pip.uninstall(&tree, &["one"]);
        assert_eq!(orphans(&site).len(), 6, "{:?}", all_below(&site));
        let outcome = tree.bytekeep(None, ["compile", "--dry-run", "--format", "json", "--env", "env"]).run().exits(0);
        assert_eq!(orphans(&site).len(), 6, "{}", outcome.shown());
        let outcome = compile(&tree).exits(0);
        assert_eq!(outcome.actions("removed"), 6, "{}", outcome.shown());
        assert_eq!(all_below(&site).len(), before, "{:?}", all_below(&site));
    }
}

fn contents(site: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    artifacts(site).into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn a_wheel_with_a_broken_source_is_told_and_all_else_is_compiled() {
    for (installer, python) in one_of_each() {
        let (tree, site, [one, ..]) = ground(python);
        let bad = wheel(&tree, python, "bad", "1.0", &[("bad/__init__.py", "VALUE = 1\n"), ("bad/broken.py", "def (\n")]);
        installer.install(&tree, &[&bad, &one]);
        let outcome = compile(&tree).exits(1);
        outcome.fails("bad/broken.py", "source", &["line 1"]);
        assert_eq!((outcome.actions("built"), outcome.wrong()), (14, 2), "{}", outcome.shown());
        assert_eq!((orphans(&site), import(&tree, "one.changed")), (Vec::new(), "1".into()));
    }
}

/// An upgrade that fails gives back what it had moved aside.
#[test]
fn an_upgrade_that_pip_takes_back_leaves_all_in_order() {
    for python in pythons_with_pip().iter().take(1) {
        let (tree, site, [one, ..]) = ground(python);
        let pip = Installer::Pip(python);
        pip.install(&tree, &[&one]);
        compile(&tree).exits(0);
        let (before, recorded) = (contents(&site), records(&site));
        // A directory where the new version has a file: pip cannot write that, and rolls back.
        std::fs::create_dir_all(site.join("taken/by")).unwrap();
        let later = wheel(&tree, python, "one", "3.0", &[("one/__init__.py", "VALUE = 3\n"), ("taken", "a file\n")]);
        let done = pip.command(&tree, "install", &["--no-compile", later.to_str().unwrap()]).output().unwrap();
        assert!(!done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        assert_eq!(records(&site), recorded, "{}", String::from_utf8_lossy(&done.stderr));
        compile(&tree).exits(0);
        in_order(&tree, &site);
        assert_eq!(contents(&site).len(), before.len());
        assert_eq!(import(&tree, "one.gone"), "1");
    }
}

/// Installers and `compile --env` at one time: pip does not fail for it, uv at most where any Python beside it would make it fail too, and the
/// next run finds all in order.
#[test]
fn an_installer_and_a_compile_at_one_time() {
    for (installer, python) in one_of_each() {
        let (tree, site, [one, later, two]) = ground(python);
        installer.install(&tree, &[&two]);
        for round in 0..4 {
            let (words, verb) = match round {
                3 => (vec!["one"], "uninstall"),
                round => (vec![if round % 2 == 0 { &one } else { &later }.to_str().unwrap()], "install"),
            };
            let mut command = installer.command(&tree, verb, &words);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            while child.try_wait().unwrap().is_none() {
                let outcome = compile(&tree);
                assert!(matches!(outcome.code, Some(0 | 1)), "{}", outcome.shown());
            }
            let done = child.wait_with_output().unwrap();
            let told = String::from_utf8_lossy(&done.stderr);
            // uv looks once into a `__pycache__` that it removes, and whoever imports or compiles may write there a moment later.
            let is_beaten = matches!(installer, Installer::Uv(..)) && told.contains("Directory not empty");
            assert!(done.status.success() || is_beaten, "{installer:?}, round {round}: {told}");
            if is_beaten {
                println!("{installer:?}, round {round}: run again after {}", told.trim());
                installer.must(&tree, verb, &words);
            }
            compile(&tree).exits(0);
            in_order(&tree, &site);
        }
        assert_eq!(import(&tree, "shared.two"), "2");
    }
}

/// One of the two is killed in the middle, wherever that is; the installer is run again, and the next compile mends the rest.
#[test]
fn killed_in_the_middle_and_mended_by_the_next() {
    for (installer, python) in one_of_each() {
        let (tree, site, [one, later, _]) = ground(python);
        for round in 0..4_u64 {
            let wheel = if round % 2 == 0 { &one } else { &later };
            let command =
                installer.command(&tree, "install", &[wheel.to_str().unwrap()]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            let mut child = command.unwrap();
            std::thread::sleep(Duration::from_millis(120 * round * round));
            drop(child.kill());
            child.wait().unwrap();
            let compiling = tree.bytekeep(None, ["compile", "--force", "--env", "env"]).start();
            std::thread::sleep(Duration::from_millis(15 * round));
            compiling.signal("KILL");
            compiling.wait();
            installer.must(
                &tree,
                "install",
                &["--reinstall", wheel.to_str().unwrap()].map(|word| match (&installer, word) {
                    (Installer::Pip(_), "--reinstall") => "--force-reinstall",
                    (_, word) => word,
                }),
            );
            // What pip left aside when it was killed is its owner's to remove.
            for stash in std::fs::read_dir(&site).unwrap().flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with('~')) {
                std::fs::remove_dir_all(stash.path()).unwrap();
            }
            compile(&tree).exits(0);
            let words = ["verify", "--complete", "--optimize", "0,1", "--env", "env"];
            tree.bytekeep(None, words).run().exits(0);
            assert_eq!(import(&tree, "one.changed"), if round % 2 == 0 { "1" } else { "20" });
            assert!(tree.litter().is_empty(), "{:?}", tree.litter());
        }
    }
}
