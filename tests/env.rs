//! `--env`: what records say of an environment counts, what distributions left that are gone goes, and what is hostile in them leads
//! nowhere. Trees made by hand; what real installers leave is in `env_installers.rs`.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test's own files")]

#[path = "support/mod.rs"]
mod support;
#[path = "support/whole.rs"]
mod whole;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use whole::{Outcome, Tree, all_below, aloud, must, python};

const SITE: &str = "env/lib/python3.13/site-packages";

/// A distribution of the environment `env` with these sources, all of them there.
fn distribution(tree: &Tree, name: &str, sources: &[&str]) {
    for source in sources {
        tree.old_file(format!("{SITE}/{source}"), b"VALUE = 1\n");
    }
    record(tree, name, &format!("{},,\n", sources.join(",,\n")));
}

fn record(tree: &Tree, name: &str, rows: &str) -> PathBuf {
    tree.file(format!("{SITE}/{name}.dist-info/RECORD"), rows.as_bytes())
}

fn compile(tree: &Tree) -> Outcome {
    tree.bytekeep(Some(python()), ["compile", "--format", "json", "--env", "env"]).without("BYTEKEEP_IGNORE_RECORDS").run()
}

fn artifact(tree: &Tree, source: &str) -> PathBuf {
    tree.artifact(format!("{SITE}/{source}"), python())
}

/// An artifact whose source is gone.
fn orphan(tree: &Tree, source: &str) -> PathBuf {
    let path = tree.file(format!("{SITE}/{source}"), b"VALUE = 1\n");
    tree.bytekeep(Some(python()), ["compile"]).arg(&path).run().exits(0);
    std::fs::remove_file(path).unwrap();
    artifact(tree, source)
}

fn notes(outcome: &Outcome) -> String {
    outcome.lines.iter().filter(|line| line["kind"] == "note").filter_map(|line| line["text"].as_str()).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_is_left_goes_and_nothing_else() {
    let tree = Tree::new();
    distribution(&tree, "one", &["one/a.py", "one/deep/er/b.py", "top.py"]);
    let gone =
        ["one/old.py", "one/deep/old.py", "oldtop.py", "was/old.py", "was/sub/old.py", "was/a/b/c/old.py"].map(|path| orphan(&tree, path));
    // What would be imported, is somebody else's, or belongs to what nobody recorded.
    let sourceless = tree.file(format!("{SITE}/was2/sourceless.pyc"), b"");
    let foreign = tree.file(format!("{SITE}/was3/__pycache__/old.f-1.py313.nbi"), b"numba's");
    let (beside_foreign, unknown) =
        (orphan(&tree, "was3/old.py"), tree.file(format!("{SITE}/one/__pycache__/x.cpython-399.pyc"), b"newer"));
    let stray = [orphan(&tree, "stray/old.py"), tree.file(format!("{SITE}/stray/m.py"), b"VALUE = 1\n")];
    let kept_data = [orphan(&tree, "data/old.py"), tree.file(format!("{SITE}/data/settings.ini"), b"made at run time\n")];
    let outside = tree.artifact("nothing.py", python());
    std::fs::create_dir_all(outside.parent().unwrap()).unwrap();
    std::fs::write(&outside, b"not in a directory of packages").unwrap();
    // A distribution that lost a source is not gone.
    record(&tree, "lost", "lost/m.py,,\nlost/n.py,,\n");
    tree.old_file(format!("{SITE}/lost/n.py"), b"VALUE = 1\n");
    let lost = orphan(&tree, "lost/m.py");
    std::fs::create_dir_all(tree.path(format!("{SITE}/empty/dir"))).unwrap();
    let recorded = std::fs::read(tree.path(format!("{SITE}/one.dist-info/RECORD"))).unwrap();

    let dry = tree.bytekeep(Some(python()), ["compile", "--dry-run", "--format", "json", "--env", "env"]).run().exits(0);
    assert!(gone.iter().chain([&beside_foreign]).all(|path| path.exists()), "{}", dry.shown());
    assert_eq!(dry.actions("removed"), 7, "{}", dry.shown());
    let outcome = compile(&tree).exits(0);
    assert_eq!((outcome.actions("removed"), outcome.actions("built")), (7, 4), "{}", outcome.shown());
    for path in gone.iter().chain([&beside_foreign]) {
        assert!(!path.exists(), "{}", path.display());
    }
    assert!(!tree.path(format!("{SITE}/was")).exists(), "{:?}", all_below(&tree.path(format!("{SITE}/was"))));
    for path in [&sourceless, &foreign, &unknown, &lost, &outside].into_iter().chain(&stray).chain(&kept_data) {
        assert!(path.exists(), "{}", path.display());
    }
    assert!(tree.path(format!("{SITE}/empty/dir")).is_dir(), "an empty directory that held no artifacts is somebody's");
    assert_eq!(std::fs::read(tree.path(format!("{SITE}/one.dist-info/RECORD"))).unwrap(), recorded);
    assert!(!artifact(&tree, "stray/m.py").exists());
    assert_eq!(compile(&tree).exits(0).actions("none"), 4);
}

#[test]
fn what_pip_has_moved_aside_may_come_back() {
    let tree = Tree::new();
    distribution(&tree, "one", &["one/a.py"]);
    let (orphan, stashed) = (orphan(&tree, "other/m.py"), orphan(&tree, "~ne/m.py"));
    let outcome = compile(&tree).exits(0);
    assert!(orphan.exists() && notes(&outcome).contains("pip has moved"), "{}", outcome.shown());
    // Of a pip that was killed long ago nothing comes back, and what is in there is not ours to judge.
    must("mv", &[tree.path(format!("{SITE}/~ne")), tree.outside("~ne")]);
    let outcome = compile(&tree).exits(0);
    assert!(!orphan.exists() && notes(&outcome).is_empty(), "{}", outcome.shown());
    must("mv", &[tree.outside("~ne"), tree.path(format!("{SITE}/~ne"))]);
    compile(&tree).exits(0);
    assert!(stashed.exists());
}

#[test]
fn sound_artifacts_are_sealed_but_those_that_a_record_proves() {
    let tree = Tree::new();
    distribution(&tree, "one", &["one/a.py", "one/b.py"]);
    for source in ["one/a.py", "one/b.py"] {
        must(python().path.to_str().unwrap(), &["-m".as_ref(), "py_compile".as_ref(), tree.path(format!("{SITE}/{source}")).as_os_str()]);
    }
    let name = |source| artifact(&tree, source).strip_prefix(tree.path(SITE)).unwrap().display().to_string();
    record(&tree, "one", &format!("one/a.py,,\none/b.py,,\n{},,\n{},sha256=x,\n", name("one/a.py"), name("one/b.py")));
    let proved = std::fs::read(artifact(&tree, "one/b.py")).unwrap();
    let outcome = compile(&tree).exits(0);
    outcome.is("one/a.py", "unsealed", "sealed").is("one/b.py", "unsealed", "none");
    assert_eq!(std::fs::read(artifact(&tree, "one/b.py")).unwrap(), proved);
    // Proved or not: what is damaged is made anew.
    std::fs::write(artifact(&tree, "one/b.py"), &proved[..40]).unwrap();
    compile(&tree).exits(0).is("one/b.py", "truncated", "built");
    // conda's own records prove all of them.
    must(python().path.to_str().unwrap(), &["-m".as_ref(), "py_compile".as_ref(), tree.path(format!("{SITE}/one/a.py")).as_os_str()]);
    let path = artifact(&tree, "one/a.py").strip_prefix(tree.path("env")).unwrap().display().to_string();
    let record = format!(r#"{{"paths_data": {{"paths": [{{"_path": "{path}", "sha256_in_prefix": "x", "size_in_bytes": 1}}]}}}}"#);
    tree.file("env/conda-meta/one-1-0.json", record.as_bytes());
    compile(&tree).exits(0).is("one/a.py", "unsealed", "none");
}

#[test]
fn the_other_commands_go_by_records_too() {
    let tree = Tree::new();
    distribution(&tree, "first-1.0", &["pkg/a.py", "pkg/b.py"]);
    distribution(&tree, "second-1.0", &["pkg/c.py"]);
    tree.old_file(format!("{SITE}/pkg/stray.py"), b"VALUE = 1\n");
    tree.bytekeep(Some(python()), ["compile", "env"]).run().exits(0);
    for source in ["pkg/a.py", "pkg/stray.py"] {
        let path = artifact(&tree, source);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 100]).unwrap();
    }
    let orphan = orphan(&tree, "was/m.py");
    let run =
        |words: &[&str], code| tree.bytekeep(None, words.iter().copied().chain(["--format", "json", "--env", "env"])).run().exits(code);
    let outcome = run(&["verify"], 1);
    assert_eq!((outcome.verdicts("ok"), outcome.wrong(), outcome.verdicts("orphan")), (2, 1, 1), "{}", outcome.shown());
    let outcome = tree.bytekeep(None, ["status", "--env", "env"]).run().exits(1);
    assert!(outcome.stdout.contains("first-1.0") && !outcome.stdout.contains("second-1.0"), "{}", outcome.shown());
    let outcome = tree.bytekeep(Some(python()), ["repair", "--format", "json", "--env", "env"]).run().exits(0);
    assert_eq!((outcome.actions("built"), outcome.actions("removed")), (1, 0), "{}", outcome.shown());
    run(&["verify"], 0);
    assert!(orphan.exists(), "repair mends, and removes nothing that is sound");
    assert_eq!(tree.verify().exits(1).wrong(), 1, "the stray one is left");
}

#[test]
fn an_editable_installation_is_told_and_not_entered() {
    let tree = Tree::new();
    record(&tree, "dev-1.0", "__editable__.dev.pth,,\n");
    tree.file(format!("{SITE}/__editable__.dev.pth"), tree.outside("src").as_os_str().as_encoded_bytes());
    tree.file(format!("{SITE}/dev-1.0.dist-info/direct_url.json"), br#"{"url": "file:///over/there", "dir_info": {"editable": true}}"#);
    std::fs::create_dir(tree.outside("src")).unwrap();
    std::fs::write(tree.outside("src/m.py"), "VALUE = 1\n").unwrap();
    let outcome = compile(&tree).exits(0);
    assert!(notes(&outcome).contains("`dev-1.0` is an editable installation"), "{}", outcome.shown());
    assert!(notes(&outcome).contains("file:///over/there") && !tree.outside("src/__pycache__").exists());
    tree.bytekeep(Some(python()), ["compile", "--env", "env"]).arg(tree.outside("src")).run().exits(0);
    assert!(tree.outside("src/__pycache__").exists(), "named by itself it is compiled in the same run");
}

/// What is named beside an environment is compiled by its interpreter; two environments are still two.
#[test]
fn a_directory_beside_an_environment() {
    let tree = Tree::new();
    distribution(&tree, "one", &["one/a.py"]);
    let venv = |dir: &str| {
        tree.file(format!("{dir}/pyvenv.cfg"), b"home = /nowhere\n");
        std::fs::create_dir_all(tree.path(format!("{dir}/bin"))).unwrap();
        symlink(&python().path, tree.path(format!("{dir}/bin/python"))).unwrap();
    };
    venv("env");
    venv("other");
    tree.file("src/m.py", b"VALUE = 1\n");
    // virtualenv and uv record it nowhere, and each start imports it.
    tree.file(format!("{SITE}/_virtualenv.py"), b"VALUE = 1\n");
    tree.file("other/m.py", b"VALUE = 1\n");
    std::fs::write(tree.path("env/pyvenv.cfg"), format!("home = {}\n", python().path.parent().unwrap().display())).unwrap();
    let outcome = tree.bytekeep(None, ["compile", "--format", "json", "--env", "env", "src"]).run().exits(0);
    assert_eq!(outcome.actions("built"), 3, "{}", outcome.shown());
    let outcome = tree.bytekeep(None, ["compile", "--env", "env", "other"]).run().exits(2);
    assert!(outcome.stderr.contains("different virtual environments"), "{}", outcome.shown());
}

/// Without `pyvenv.cfg` it is the interpreter whose prefix this is, not the one on PATH.
#[test]
fn an_interpreter_of_its_own_prefix() {
    let two = whole::two_pythons();
    let [newest, other] = two.as_slice() else { return aloud("SKIP: only one interpreter of CPython 3") };
    let tree = Tree::new();
    distribution(&tree, "one", &["one/a.py"]);
    std::fs::create_dir(tree.path("env/bin")).unwrap();
    for python in [newest, other] {
        let exec = format!("#!/bin/sh\nexec '{}' \"$@\"\n", python.path.display());
        std::fs::write(tree.path("env/bin/python3"), exec).unwrap();
        must("chmod", &["755".as_ref(), tree.path("env/bin/python3").as_os_str()]);
        let outcome = tree.bytekeep(None, ["compile", "--format", "json", "--env", "env"]).run().exits(0);
        assert_eq!(outcome.actions("built"), 1, "{}", outcome.shown());
        assert!(tree.artifact(format!("{SITE}/one/a.py"), python).exists(), "{}", outcome.shown());
    }
}

/// Nothing outside is read for its sources, written, or removed, whatever records and links say.
#[test]
fn what_is_hostile_leads_nowhere() {
    let tree = Tree::new();
    distribution(&tree, "one", &["one/a.py"]);
    let outside = tree.outside("victim");
    for dir in ["pkg/__pycache__", "one/__pycache__"] {
        let bytes = std::fs::read(orphan(&tree, "made/m.py")).unwrap();
        let path = outside.join(dir).join(artifact(&tree, "made/m.py").file_name().unwrap());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    std::fs::write(outside.join("pkg/source.py"), "VALUE = 1\n").unwrap();
    let link = |to: &Path, from: &str| symlink(to, tree.path(format!("{SITE}/{from}"))).unwrap();
    link(&outside.join("pkg"), "linked");
    link(&outside.join("pkg/__pycache__"), "one/__pycache__");
    std::fs::create_dir_all(tree.path(format!("{SITE}/bare"))).unwrap();
    link(&outside.join("one/__pycache__"), "bare/__pycache__");
    symlink(&outside, tree.path("env/lib/python3.14")).unwrap();
    let up = "../".repeat(30);
    let absolute = outside.join("pkg/source.py").display().to_string();
    let rows = format!(
        "{absolute},,\n{up}{absolute},,\nlinked/source.py,,\n\"linked/so\"\"urce.py\",,\none/../linked/source.py,,\n\u{fe}.py,,\n..,,\n/,,\n.py,,\n"
    );
    record(&tree, "hostile", &rows);
    std::fs::write(tree.path(format!("{SITE}/hostile.dist-info/direct_url.json")), "[".repeat(60_000)).unwrap();
    let before = listed(&outside);
    let outcome = compile(&tree).exits(1);
    // The directory of artifacts that is a link, and no other.
    outcome.fails("one/a.py", "not-a-directory", &["symbolic link"]);
    assert_eq!(listed(&outside), before, "{}", outcome.shown());
    assert!(!tree.path(format!("{SITE}/made")).exists(), "{}", outcome.shown());
    for command in ["verify", "status", "repair"] {
        let outcome = tree.bytekeep(None, [command, "--format", "json", "--env", "env"]).run();
        assert!(matches!(outcome.code, Some(0 | 1)) && listed(&outside) == before, "{command}: {}", outcome.shown());
    }
}

/// What is left was found before the interpreter starts, and goes after that: a link that is laid meanwhile leads nowhere.
#[test]
fn a_link_that_is_laid_before_what_is_left_goes() {
    for swapped in ["was", "was/sub", "was/sub/__pycache__", "one"] {
        let tree = Tree::new();
        distribution(&tree, "one", &["one/a.py", "other.py"]);
        let place = tree.outside("place");
        for source in ["was/sub/m.py", "one/old.py"] {
            let orphan = orphan(&tree, source);
            for dir in ["__pycache__", "sub/__pycache__", "."] {
                std::fs::create_dir_all(place.join(dir)).unwrap();
                std::fs::copy(&orphan, place.join(dir).join(orphan.file_name().unwrap())).unwrap();
            }
        }
        std::fs::create_dir_all(place.join("empty/sub")).unwrap();
        let before = listed(&place);
        let swap = format!("[ -e {SITE}/away ] || {{ mv {SITE}/{swapped} {SITE}/away; ln -s '{}' {SITE}/{swapped}; }}", place.display());
        let exec = format!("#!/bin/sh\ncd '{}'\n{swap}\nexec '{}' \"$@\"\n", tree.root().display(), python().path.display());
        let python = tree.script("meanwhile", &exec);
        let outcome = tree.bytekeep(None, ["compile", "--format", "json", "--python", &python, "--env", "env"]).run();
        assert!(matches!(outcome.code, Some(0 | 1)), "{}", outcome.shown());
        assert!(tree.path(format!("{SITE}/away")).exists() && listed(&place) == before, "{swapped}: {}", outcome.shown());
    }
}

/// A directory of left-overs as deep as the system makes them.
#[test]
fn depth_is_no_trouble() {
    let tree = Tree::new();
    distribution(&tree, "one", &["one/a.py"]);
    let deep = "d/".repeat(900);
    let orphan = orphan(&tree, &format!("deep/{deep}m.py"));
    compile(&tree).exits(0);
    assert!(!orphan.exists() && !tree.path(format!("{SITE}/deep")).exists());
}

fn listed(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all: Vec<_> = all_below(dir).into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap_or_default())).collect();
    all.sort();
    all
}
