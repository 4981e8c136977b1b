//! What package managers call: each one's own input, on real files, with real interpreters and without the managers. What they do
//! themselves is in `hook_dpkg`, `hook_rpm`, `hook_pacman` and `hook_conda`.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test's own files")]

#[path = "support/mod.rs"]
mod support;
#[path = "support/whole.rs"]
mod whole;

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::Python;
use whole::{Outcome, Run, Tree, all_below, all_pythons, aloud, may, must, python, root_or_skip, tool_or_skip};

const DIST: &str = "usr/lib/python3/dist-packages";
const NONE: [PathBuf; 0] = [];

/// Two interpreters that a Debian could support at the same time.
fn two() -> Vec<&'static Python> {
    let mut new: Vec<&Python> = all_pythons().iter().filter(|python| !python.pypy && python.version >= (3, 8)).collect();
    new.sort_by_key(|python| std::cmp::Reverse(python.version));
    new.dedup_by_key(|python| python.version);
    new.truncate(2);
    aloud(&format!("of a system: {}", new.iter().map(|python| &*python.tag).collect::<Vec<_>>().join(", ")));
    new
}

/// `python3.12`
fn name(python: &Python) -> String {
    format!("python{}.{}", python.version.0, python.version.1)
}

/// `/usr/lib/python3.12/site-packages`, below the root.
fn site(python: &Python) -> String {
    format!("usr/lib/{}/site-packages", name(python))
}

/// A system that says which versions it supports.
fn debian(supported: &[&Python]) -> Tree {
    let tree = Tree::new();
    std::fs::remove_file(tree.path("good.py")).unwrap();
    let names: Vec<String> = supported.iter().map(|python| name(python)).collect();
    let text = format!("[DEFAULT]\ndefault-version = {}\nsupported-versions = {}\n", names[0], names.join(", "));
    tree.file("usr/share/python3/debian_defaults", text.as_bytes());
    tree
}

/// `hook run` on the system that the tree is, by these interpreters; nothing of this machine's own is used.
fn hook(tree: &Tree, pythons: &[&Python], words: &[&str]) -> Run {
    let mut args = vec!["hook".to_owned(), "run".to_owned(), words[0].to_owned()];
    for python in pythons {
        args.extend(["--python".to_owned(), python.path.to_str().unwrap().to_owned()]);
    }
    args.extend(words[1..].iter().map(ToString::to_string));
    tree.bytekeep(None, args.iter().map(String::as_str)).env("CACHE_DIRECTORY", tree.outside("cache"))
}

/// The same, in the tree as the root.
fn below(tree: &Tree, pythons: &[&Python], words: &[&str]) -> Run {
    let root = tree.root();
    let mut all = vec![words[0], "--root", root.to_str().unwrap()];
    all.extend(&words[1..]);
    hook(tree, pythons, &all)
}

fn with_input(mut run: Run, tree: &Tree, input: &str) -> Outcome {
    let path = tree.outside("input");
    std::fs::write(&path, input).unwrap();
    run.command.stdin(File::open(path).unwrap());
    run.run()
}

/// The artifacts below the tree, as paths relative to it.
fn artifacts(tree: &Tree) -> Vec<String> {
    let is_artifact = |path: &PathBuf| path.extension().is_some_and(|end| end == "pyc");
    let name = |path: PathBuf| path.strip_prefix(tree.root()).unwrap().to_str().unwrap().to_owned();
    let mut found: Vec<String> = all_below(&tree.root()).into_iter().filter(is_artifact).map(name).collect();
    found.sort();
    found
}

fn expected(tree: &Tree, sources: &[&str], pythons: &[&Python]) -> Vec<String> {
    let artifact =
        |source: &&str, python: &Python| tree.artifact(source, python).strip_prefix(tree.root()).unwrap().to_str().unwrap().to_owned();
    let mut all: Vec<String> = sources.iter().flat_map(|source| pythons.iter().map(move |python| artifact(source, python))).collect();
    all.sort();
    all
}

/// Every artifact is whole, sealed, and there are these.
#[track_caller]
fn assert_artifacts(tree: &Tree, sources: &[&str], pythons: &[&Python]) {
    assert_eq!(artifacts(tree), expected(tree, sources, pythons));
    assert_eq!(tree.litter(), NONE);
    if !sources.is_empty() {
        tree.bytekeep(None, ["verify", "--require-seal", "."]).run().exits(0);
    }
}

#[test]
fn a_trigger_of_dpkg_compiles_for_the_supported_versions_and_fails_for_no_source() {
    let pythons = two();
    let tree = debian(&pythons);
    let (good, deep) = (format!("{DIST}/p/good.py"), format!("{DIST}/p/deep/mod.py"));
    tree.file(&good, b"VALUE = 1\n");
    tree.file(&deep, b"VALUE = 2\n");
    tree.file(format!("{DIST}/p/bad.py"), b"x = (\n");
    tree.file("usr/share/app/nobodys.py", b"VALUE = 3\n");
    // An interpreter that this system does not support makes nothing in it.
    let other = all_pythons().iter().find(|one| !one.pypy && pythons.iter().all(|python| python.version != one.version));
    let named: Vec<&Python> = pythons.iter().copied().chain(other).collect();
    let words = ["dpkg", "triggered", "/usr/lib/python3/dist-packages /usr/lib/python3.0"];
    let root = tree.root();
    let first = hook(&tree, &named, &words).env("DPKG_ROOT", &root).run().exits(0);
    assert!(first.stderr.contains("bad.py") && first.stderr.contains("SyntaxError"), "{}", first.shown());
    assert!(first.stderr.contains("hint: mend the source\n"), "no option that it has not: {}", first.shown());
    let line = format!("bytekeep (dpkg): {} compiled, {} failed in ", 2 * pythons.len(), pythons.len());
    assert_eq!(first.stderr.matches(&line).count(), 1, "{}", first.shown());
    assert_artifacts(&tree, &[&good, &deep], &pythons);
    let inside = tree.bytekeep(None, ["inspect", tree.artifact(&good, pythons[0]).to_str().unwrap()]).run();
    assert!(inside.stdout.contains(&format!("compiled   from `/{good}`")), "code names its file as the system does: {}", inside.shown());
    let before = std::fs::metadata(tree.artifact(&good, pythons[0])).unwrap().modified().unwrap();
    hook(&tree, &named, &words).arg("--strict").env("DPKG_ROOT", &root).run().exits(1);
    assert_eq!(std::fs::metadata(tree.artifact(&good, pythons[0])).unwrap().modified().unwrap(), before, "what is right stays");
    // The name of a directory above all modules means them too.
    std::fs::remove_dir_all(tree.path(format!("{DIST}/p/deep/__pycache__"))).unwrap();
    below(&tree, &pythons, &["dpkg", "triggered", "/usr/lib/python3"]).run().exits(0);
    assert_artifacts(&tree, &[&good, &deep], &pythons);
}

#[test]
fn words_that_mean_nothing_are_no_failure() {
    let pythons = two();
    let tree = debian(&pythons);
    tree.file(format!("{DIST}/good.py"), b"VALUE = 1\n");
    for words in
        [&["dpkg", "abort-upgrade", "1.0"][..], &["dpkg", "triggered", "ldconfig"], &["dpkg"], &["dpkg", "--", "a later word", "-x"]]
    {
        let outcome = below(&tree, &pythons, words).run().exits(0);
        assert_eq!((&*outcome.stdout, &*outcome.stderr), ("", ""), "{words:?}");
    }
    assert_artifacts(&tree, &[], &pythons);
    let outcome = hook(&tree, &pythons, &["dpkg", "--root", "/nowhere/at/all", "configure"]).run().exits(0);
    assert!(outcome.stderr.contains("/nowhere/at/all"), "{}", outcome.shown());
    hook(&tree, &pythons, &["dpkg", "--strict", "--root", "/nowhere/at/all", "configure"]).run().exits(2);
}

#[test]
fn what_packages_do_not_want_compiled_is_not() {
    let pythons = two();
    let tree = debian(&pythons);
    let (good, late) = (format!("{DIST}/p/good.py"), format!("{DIST}/late/mod.py"));
    tree.file(&good, b"VALUE = 1\n");
    tree.file(&late, b"VALUE = 1\n");
    tree.file(format!("{DIST}/never/mod.py"), b"VALUE = 1\n");
    tree.file(format!("{DIST}/p/async_one.py"), b"VALUE = 1\n");
    let (major, minor) = pythons[0].version;
    let rules = format!("dir|-|/{DIST}/never\ndir|-{major}.{minor}|/{DIST}/late\nre|3.0-|/{DIST}/p|.*async.*\n");
    tree.file("usr/share/python3/bcep/some-package", rules.as_bytes());
    below(&tree, &pythons, &["dpkg", "configure", ""]).run().exits(0);
    let mut all = expected(&tree, &[&good], &pythons);
    all.extend(expected(&tree, &[&late], &pythons[..1]));
    all.sort();
    assert_eq!(artifacts(&tree), all);
}

#[test]
fn a_list_of_rpm_may_be_huge_and_names_folders() {
    let pythons = two();
    let tree = debian(&pythons);
    let sources: Vec<String> = (0..3).map(|n| format!("{}/p{n}/mod.py", site(pythons[0]))).collect();
    let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
    for source in &sources {
        tree.file(source, b"VALUE = 1\n");
    }
    // Beside what is listed: the directory is what counts.
    let beside = format!("{}/p0/beside.py", site(pythons[0]));
    tree.file(&beside, b"VALUE = 1\n");
    let not_listed = tree.file(format!("{}/p9/mod.py", site(pythons[0])), b"VALUE = 1\n");
    let lines: Vec<String> = sources.iter().map(|source| format!("/{source}\n/{source}c\n/usr/share/doc/{source}\n")).collect();
    let list = lines.concat().repeat(60_000) + "/usr/lib/../../etc/x.py\n\n/" + &"x".repeat(20_000) + ".py\n";
    let outcome = with_input(below(&tree, &pythons, &["rpm"]), &tree, &list).exits(0);
    assert!(outcome.stderr.contains("bytekeep (rpm): 4 compiled in"), "{}", outcome.shown());
    let all: Vec<&str> = sources.iter().copied().chain([beside.as_str()]).collect();
    assert_artifacts(&tree, &all, &pythons[..1]);
    // Before a removal: ours go, so that rpm's `rmdir` works.
    let doomed = format!("/{}\n/{beside}\n", sources[0]);
    with_input(below(&tree, &pythons, &["rpm", "--removed"]), &tree, &doomed).exits(0);
    assert!(!tree.path(sources[0]).with_file_name("__pycache__").exists() && tree.path(sources[0]).exists());
    assert_artifacts(&tree, &sources[1..], &pythons[..1]);
    // After one, without a list: the file system tells what went.
    std::fs::remove_file(tree.path(sources[1])).unwrap();
    with_input(below(&tree, &pythons, &["rpm", "--removed"]), &tree, "").exits(0);
    assert!(!tree.path(sources[1]).parent().unwrap().exists(), "an empty directory could be imported");
    assert_artifacts(&tree, &sources[2..], &pythons[..1]);
    assert!(not_listed.exists());
}

#[test]
fn pacman_hands_over_relative_paths_and_does_not_say_what_happened() {
    let python = two()[0];
    let tree = debian(&[python]);
    let (one, two) = (format!("{}/p/one.py", site(python)), format!("{}/p/two.py", site(python)));
    tree.file(&one, b"VALUE = 1\n");
    tree.file(&two, b"VALUE = 1\n");
    let list = format!("{}/p/\n{one}\n{two}\n", site(python));
    with_input(below(&tree, &[python], &["pacman"]), &tree, &list).exits(0);
    assert_artifacts(&tree, &[&one, &two], &[python]);
    // Of two packages in one directory one goes; and a file that never existed is named.
    std::fs::remove_file(tree.path(&two)).unwrap();
    let list = format!("{}/p/\n{two}\n{}/p/never.py\n{}/gone/x.py\n", site(python), site(python), site(python));
    with_input(below(&tree, &[python], &["pacman", "--removed"]), &tree, &list).exits(0);
    assert_artifacts(&tree, &[&one], &[python]);
    std::fs::remove_file(tree.path(&one)).unwrap();
    with_input(below(&tree, &[python], &["pacman", "--removed"]), &tree, &one).exits(0);
    assert!(
        !tree.path(&one).parent().unwrap().exists() && tree.path(site(python)).is_dir(),
        "nothing keeps a directory, and the site stays"
    );
}

#[test]
fn apk_names_directories() {
    let python = two()[0];
    let tree = debian(&[python]);
    let (here, there) = (format!("{}/p/sub/mod.py", site(python)), format!("{}/q/mod.py", site(python)));
    tree.file(&here, b"VALUE = 1\n");
    tree.file(&there, b"VALUE = 1\n");
    below(&tree, &[python], &["apk", &format!("/{}/p", site(python)), &format!("/{}/gone", site(python)), "/usr/share/x"]).run().exits(0);
    assert_artifacts(&tree, &[&here], &[python]);
    // Its last module went, and with our artifacts the directory: nothing is wrong with that.
    std::fs::remove_file(tree.path(&here)).unwrap();
    let outcome = below(&tree, &[python], &["apk", "--strict", &format!("/{}/p/sub", site(python))]).run().exits(0);
    assert!(!tree.path(&here).parent().unwrap().exists() && !outcome.stderr.contains("error"), "{}", outcome.shown());
}

#[test]
fn nothing_of_whoever_started_the_manager_counts() {
    let python = two()[0];
    let tree = debian(&[python]);
    let source = format!("{}/mod.py", site(python));
    tree.file(&source, b"VALUE = 1\n");
    std::fs::create_dir_all(tree.home().join(".config/bytekeep")).unwrap();
    std::fs::write(tree.home().join(".config/bytekeep/bytekeep.toml"), "nonsense = [").unwrap();
    let run = with_input(
        below(&tree, &[python], &["pacman", "--nice"])
            .env("PYTHONPYCACHEPREFIX", tree.outside("prefix"))
            .env("PYTHONHOME", "/nowhere")
            .env("PYTHONPATH", tree.root())
            .env("PYTHONOPTIMIZE", "2")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("SOURCE_DATE_EPOCH", "1")
            .env("PYC_INVALIDATION_MODE", "nonsense")
            .env("BYTEKEEP_MAX_TIME", "0")
            .env("BYTEKEEP_PYTHON", "/nowhere/python")
            .env("BYTEKEEP_OPTIMIZE", "1,2")
            .env("BYTEKEEP_STRICT", "1")
            .env("BYTEKEEP_JOBS", "nonsense")
            .env("BYTEKEEP_CONFIG", "/nowhere.toml")
            .env("BYTEKEEP_COLOR", "nonsense")
            .env("BYTEKEEP_FORMAT", "json")
            .env("BYTEKEEP_VERBOSE", "nonsense")
            .env("BYTEKEEP_QUIET", "1"),
        &tree,
        &source,
    );
    let told = run.exits(0);
    assert!(told.stderr.contains("1 compiled") && told.stdout.is_empty(), "{}", told.shown());
    assert_artifacts(&tree, &[&source], &[python]);
    assert!(!tree.outside("prefix").exists() && !tree.home().join(".cache").exists());
    // Timestamps, whatever a variable of a build says.
    let told = tree.bytekeep(None, ["inspect", tree.artifact(&source, python).to_str().unwrap()]).run().exits(0);
    assert!(told.stdout.contains("mode       timestamp"), "{}", told.shown());
}

/// An artifact as the interpreter itself makes it, without a seal.
fn compile_by_itself(tree: &Tree, python: &Python, source: &str) -> Vec<u8> {
    let mut command = Command::new(&python.path);
    command.args(["-m", "py_compile"]).arg(tree.path(source));
    tree.dress(&mut command);
    assert!(command.status().unwrap().success());
    std::fs::read(tree.artifact(source, python)).unwrap()
}

#[test]
fn what_others_made_is_sealed_but_not_where_records_list_it() {
    let python = two()[0];
    for (kind, sealed) in [("apk", true), ("rpm", true), ("pacman", true), ("pacman", false)] {
        let tree = debian(&[python]);
        let source = format!("{}/mod.py", site(python));
        tree.file(&source, b"VALUE = 1\n");
        if !sealed {
            if !root_or_skip("records of a system") {
                continue;
            }
            let artifact = tree.artifact(&source, python);
            let listed = format!("%FILES%\n{}\n", artifact.strip_prefix(tree.root()).unwrap().display());
            tree.file("var/lib/pacman/local/one-1-1/files", listed.as_bytes());
        }
        let before = compile_by_itself(&tree, python, &source);
        let dir = format!("/{}", site(python));
        let words = if kind == "apk" { vec![kind, &dir] } else { vec![kind] };
        with_input(below(&tree, &[python], &words), &tree, &format!("/{source}\n")).exits(0);
        let after = std::fs::read(tree.artifact(&source, python)).unwrap();
        assert!(after.starts_with(&before), "{kind}");
        assert_eq!(after.len() == before.len() + 96, sealed, "{kind}");
        // And gone with its source only where nobody else may list it.
        std::fs::remove_file(tree.path(&source)).unwrap();
        with_input(below(&tree, &[python], &words), &tree, &format!("/{source}\n")).exits(0);
        assert_eq!(tree.artifact(&source, python).exists(), !sealed, "{kind}");
    }
}

#[test]
fn what_is_bad_is_mended_and_what_is_foreign_stays() {
    let python = two()[0];
    let tree = debian(&[python]);
    let source = format!("{}/p/mod.py", site(python));
    tree.file(&source, b"VALUE = 1\n");
    let cache = format!("{}/p/__pycache__", site(python));
    below(&tree, &[python], &["apk", &format!("/{}", site(python))]).run().exits(0);
    let artifact = tree.artifact(&source, python);
    let whole = std::fs::read(&artifact).unwrap();
    std::fs::write(&artifact, &whole[..whole.len() / 2]).unwrap();
    for foreign in ["gone.py313.nbi", "gone.cpython-399.pyc.data", "notes.txt"] {
        tree.file(format!("{cache}/{foreign}"), b"mine");
    }
    below(&tree, &[python], &["apk", &format!("/{}", site(python))]).run().exits(0);
    assert_eq!(std::fs::read(&artifact).unwrap(), whole);
    std::fs::remove_file(tree.path(&source)).unwrap();
    below(&tree, &[python], &["apk", &format!("/{}", site(python))]).run().exits(0);
    assert!(!artifact.exists());
    assert_eq!(std::fs::read_dir(tree.path(cache)).unwrap().count(), 3, "what others put there stays, and its directory with it");
}

#[test]
fn no_link_below_a_root_leads_out_of_it() {
    let python = two()[0];
    let tree = debian(&[python]);
    let outside = tree.outside("secret");
    std::fs::create_dir_all(&outside).unwrap();
    std::fs::write(outside.join("mod.py"), "VALUE = 1\n").unwrap();
    tree.file(format!("{}/mod.py", site(python)), b"VALUE = 1\n");
    symlink(&outside, tree.path(site(python)).join("link")).unwrap();
    let list = format!("/{0}/link/mod.py\n/{0}/mod.py\n", site(python));
    with_input(below(&tree, &[python], &["rpm"]), &tree, &list).exits(0);
    assert!(!outside.join("__pycache__").exists());
    assert_artifacts(&tree, &[&format!("{}/mod.py", site(python))], &[python]);
}

// ---- dpkg by its lists

fn listed(tree: &Tree, package: &str, sources: &[&str]) {
    let text = sources.iter().map(|source| format!("/{source}\n")).collect::<Vec<_>>().concat();
    tree.file(format!("var/lib/dpkg/info/{package}.list"), format!("/.\n/usr\n{text}/usr/share/doc/{package}\n").as_bytes());
}

#[test]
fn lists_of_dpkg_say_what_changed() {
    let pythons = two();
    let tree = debian(&pythons);
    let (one, two, other) = (format!("{DIST}/one/mod.py"), format!("{DIST}/two/mod.py"), format!("{DIST}/other/mod.py"));
    for source in [&one, &two, &other] {
        tree.file(source, b"VALUE = 1\n");
    }
    listed(&tree, "one", &[&one]);
    listed(&tree, "two:amd64", &[&two]);
    let run = || below(&tree, &pythons, &["dpkg", "--post-invoke"]);
    let silent = |run: Run| {
        let outcome = run.run().exits(0);
        assert_eq!((&*outcome.stdout, &*outcome.stderr), ("", ""));
    };
    // Runs of dpkg on another system, and those that leave everything half done, are not ours.
    silent(run().env("DPKG_ROOT", "/somewhere/else"));
    silent(run().env("DPKG_ROOT", tree.root()).env("DPKG_ADMINDIR", "/somewhere/else"));
    silent(run().env("DPKG_HOOK_ACTION", "unpack"));
    silent(hook(&tree, &pythons, &["dpkg", "--post-invoke"]).env("DPKG_ROOT", tree.root()));
    assert_artifacts(&tree, &[], &pythons);
    // What had no time is not taken for done.
    run().arg("--max-time").arg("0.000001").run().exits(0);
    let done = run().env("DPKG_ROOT", tree.root()).env("DPKG_ADMINDIR", tree.path("var/lib/dpkg")).run().exits(0);
    assert!(done.stderr.contains(&format!("{} compiled", 2 * pythons.len())), "{}", done.shown());
    assert_artifacts(&tree, &[&one, &two], &pythons);
    // A run that touched no Python.
    listed(&tree, "three", &[]);
    std::fs::remove_dir_all(tree.path(format!("{DIST}/one/__pycache__"))).unwrap();
    silent(run());
    assert_artifacts(&tree, &[&two], &pythons);
    // An upgrade, in which a module goes and one comes, and a removal.
    let new = format!("{DIST}/one/new.py");
    tree.file(&new, b"VALUE = 2\n");
    listed(&tree, "one", &[&new]);
    std::fs::remove_file(tree.path(&one)).unwrap();
    std::fs::remove_file(tree.path(&two)).unwrap();
    std::fs::remove_file(tree.path("var/lib/dpkg/info/two:amd64.list")).unwrap();
    run().run().exits(0);
    assert_artifacts(&tree, &[&new], &pythons);
    assert!(!tree.path(format!("{DIST}/two")).exists());
    silent(run());
}

/// The name of an interpreter that stands where a system has its own; `None`, told aloud, where none does.
fn installed() -> Option<String> {
    let names = (8..30).rev().map(|minor| format!("python3.{minor}"));
    let found = names.into_iter().find(|name| Path::new("/usr/bin").join(name).is_file());
    aloud(&found.as_ref().map_or("SKIP: no /usr/bin/python3.N".to_owned(), |name| format!("of this system: /usr/bin/{name}")));
    found
}

fn support(tree: &Tree, names: &str) {
    tree.file("usr/share/python3/debian_defaults", format!("[DEFAULT]\nsupported-versions = {names}\n").as_bytes());
}

#[test]
fn what_no_interpreter_was_there_for_is_not_taken_for_done() {
    let Some(own) = installed() else { return };
    let tree = Tree::new();
    std::fs::remove_file(tree.path("good.py")).unwrap();
    support(&tree, &own);
    let (one, two) = (format!("{DIST}/one/mod.py"), format!("{DIST}/two/mod.py"));
    tree.file(&one, b"VALUE = 1\n");
    listed(&tree, "one", &[&one]);
    let run = || below(&tree, &[], &["dpkg", "--post-invoke"]);
    run().run().exits(0);
    assert_eq!(artifacts(&tree).len(), 1);
    // Between two versions of the package that says which are supported.
    tree.file(&two, b"VALUE = 1\n");
    listed(&tree, "two", &[&two]);
    std::fs::remove_file(tree.path("usr/share/python3/debian_defaults")).unwrap();
    run().run().exits(0);
    assert_eq!(artifacts(&tree).len(), 1);
    support(&tree, &own);
    run().run().exits(0);
    assert_eq!(artifacts(&tree).len(), 2);
}

#[test]
fn a_version_that_becomes_supported_is_compiled_for() {
    let pythons = two();
    let tree = debian(&pythons[..1]);
    let source = format!("{DIST}/one/mod.py");
    tree.file(&source, b"VALUE = 1\n");
    listed(&tree, "one", &[&source]);
    let run = || below(&tree, &pythons, &["dpkg", "--post-invoke"]).run().exits(0);
    run();
    assert_artifacts(&tree, &[&source], &pythons[..1]);
    support(&tree, &pythons.iter().map(|python| name(python)).collect::<Vec<_>>().join(", "));
    run();
    assert_artifacts(&tree, &[&source], &pythons);
    assert_eq!(run().stderr, "", "it was looked at once");
}

/// An interpreter of its own for a directory of modules, which says that it was started and then nothing; answers both.
fn silent_interpreter(tree: &Tree) -> (PathBuf, PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let started = tree.outside("started");
    let script = tree.file("bin/python3.12", format!("#!/bin/sh\n: >'{}'\nexec sleep 1000\n", started.display()).as_bytes());
    std::fs::set_permissions(script, std::fs::Permissions::from_mode(0o755)).unwrap();
    (tree.file("lib/python3.12/site-packages/mod.py", b"VALUE = 1\n"), started)
}

#[test]
fn whoever_ends_it_while_an_interpreter_is_asked_is_told_so() {
    let tree = Tree::new();
    let (source, started) = silent_interpreter(&tree);
    let input = tree.outside("input");
    std::fs::write(&input, source.to_str().unwrap()).unwrap();
    let mut run = hook(&tree, &[], &["pacman"]);
    run.command.stdin(File::open(input).unwrap());
    let running = run.start();
    while !started.exists() && is_alive(running.child.id()) {}
    running.signal("TERM");
    running.wait().exits(130);
}

#[test]
fn an_interpreter_that_does_not_answer_has_no_longer_than_the_whole_run() {
    let tree = Tree::new();
    let (source, _) = silent_interpreter(&tree);
    let run = hook(&tree, &[], &["pacman", "--strict", "--max-time", "2", "-v"]);
    let outcome = with_input(run, &tree, source.to_str().unwrap()).exits(1);
    let told = |text: &str| outcome.stderr.contains(text);
    // By its own patience it would have been 20 s.
    assert!(told("did not answer within") && !told("within 20 s"), "{}", outcome.shown());
    assert!(told("stopped by --max-time"), "{}", outcome.shown());
}

#[test]
fn what_says_nothing_of_a_system_holds_nobody_up() {
    let python = two()[0];
    let tree = Tree::new();
    std::fs::remove_file(tree.path("good.py")).unwrap();
    let source = format!("{DIST}/one/mod.py");
    tree.file(&source, b"VALUE = 1\n");
    std::fs::create_dir_all(tree.path("usr/share/python3/bcep")).unwrap();
    for fifo in ["debian_defaults", "bcep/one"] {
        must("mkfifo", &[tree.path("usr/share/python3").join(fifo)]);
    }
    below(&tree, &[python], &["dpkg", "triggered", &format!("/{DIST}")]).run().exits(0);
    assert_artifacts(&tree, &[&source], &[python]);
}

#[test]
fn what_is_remembered_of_a_system_stays_in_it() {
    use std::os::unix::fs::PermissionsExt;
    let python = two()[0];
    let tree = debian(&[python]);
    let source = format!("{DIST}/one/mod.py");
    tree.file(&source, b"VALUE = 1\n");
    listed(&tree, "one", &[&source]);
    let (outside, cache) = (tree.outside("hostcache"), tree.path("var/cache"));
    std::fs::create_dir(&outside).unwrap();
    symlink(&outside, &cache).unwrap();
    let run = || below(&tree, &[python], &["dpkg", "--post-invoke"]).by_shell("umask 022; exec \"$@\"").run().exits(0);
    run();
    assert_artifacts(&tree, &[&source], &[python]);
    assert_eq!(all_below(&outside), NONE);
    // Where it is missing it is made as a system has it.
    std::fs::remove_file(&cache).unwrap();
    run();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&cache), mode(&cache.join("bytekeep"))), (0o755, 0o700));
    assert!(cache.join("bytekeep/dpkg-lists-1").is_file());
}

// ---- environments and work trees

#[test]
fn an_environment_is_compiled_by_its_own_interpreter() {
    for kind in ["pip", "uv", "conda"] {
        let tree = Tree::new();
        let python = python();
        must(python.path.to_str().unwrap(), &["-m", "venv", "--without-pip", tree.path("env").to_str().unwrap()]);
        let source = format!("env/lib/{}/site-packages/p/mod.py", name(python));
        tree.file(&source, b"VALUE = 1\n");
        let bad = tree.file(format!("env/lib/{}/site-packages/p/bad.py", name(python)), b"x = (\n");
        let variable = if kind == "conda" { "PREFIX" } else { "VIRTUAL_ENV" };
        hook(&tree, &[], &[kind]).env(variable, tree.path("env")).run().exits(0);
        assert_artifacts(&tree, &[&source], &[python]);
        let spoken = std::fs::read_to_string(tree.path("env/.messages.txt"));
        assert_eq!(spoken.is_ok_and(|text| text.contains("bytekeep (conda): 1 compiled, 1 failed")), kind == "conda");
        std::fs::remove_file(tree.path(&source)).unwrap();
        std::fs::remove_file(bad).unwrap();
        hook(&tree, &[], &[kind, tree.path("env").to_str().unwrap()]).run().exits(0);
        assert!(!tree.path(&source).parent().unwrap().exists());
        let nowhere = hook(&tree, &[], &[kind]).run().exits(0);
        assert!(nowhere.stderr.contains("no environment is named"), "{}", nowhere.shown());
    }
}

/// The one that was named is worked on wherever it stands; and where nothing is done, that is told, and counts where it is asked for.
#[test]
fn an_environment_is_done_or_it_is_told_why_not() {
    let python = python();
    let tree = Tree::new();
    let env = tree.path("lib/python3.9/env");
    let strict = |words: &[&str]| {
        let words: Vec<&str> = ["pip", "--strict"].into_iter().chain(words.iter().copied()).chain([env.to_str().unwrap()]).collect();
        hook(&tree, &[], &words).run()
    };
    must(python.path.to_str().unwrap(), &["-m", "venv", "--without-pip", env.to_str().unwrap()]);
    let source = format!("lib/python3.9/env/lib/{}/site-packages/p/mod.py", name(python));
    tree.file(&source, b"VALUE = 1\n");
    // No other version is a substitute.
    let other = all_pythons().iter().find(|one| !one.pypy && one.version != python.version).unwrap();
    let told = strict(&["--python", other.path.to_str().unwrap()]).exits(1);
    assert!(told.stderr.contains("nothing is compiled for") && told.stderr.contains("--python"), "{}", told.shown());
    assert!(strict(&[]).exits(0).stderr.contains("1 compiled"));
    assert_artifacts(&tree, &[&source], &[python]);
    if root_or_skip("an environment of somebody else") {
        let whose = |uid| std::os::unix::fs::lchown(env.join("bin"), Some(uid), Some(uid)).unwrap();
        whose(4242);
        let told = strict(&[]).exits(1);
        assert!(told.stderr.contains("nothing is compiled for") && told.stderr.contains("root does not start"), "{}", told.shown());
        let told = hook(&tree, &[], &["pip", env.to_str().unwrap()]).run().exits(0);
        assert!(told.stderr.contains("nothing is compiled for"), "{}", told.shown());
        whose(0);
    }
    std::fs::remove_dir_all(env.join("lib").join(name(python))).unwrap();
    let told = strict(&[]).exits(2);
    assert!(told.stderr.contains("nothing is done in") && told.stderr.contains("site-packages"), "{}", told.shown());
}

fn git(tree: &Tree, args: &[&str]) {
    let mut command = Command::new("git");
    command.args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main", "-c", "commit.gpgsign=false"]).args(args);
    tree.dress(&mut command);
    command.env("CACHE_DIRECTORY", tree.outside("cache")).env("GIT_CONFIG_GLOBAL", "/dev/null");
    let done = command.output().unwrap();
    assert!(done.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn a_checkout_leaves_no_artifact_without_a_source() {
    if !tool_or_skip("git") {
        return;
    }
    let tree = Tree::new();
    let python = python();
    tree.file("pkg/old.py", b"VALUE = 1\n");
    tree.file("alone/mod.py", b"VALUE = 1\n");
    git(&tree, &["init", "-q"]);
    tree.file(".git/info/exclude", b"__pycache__\n*.pyc\n/nested\n/env\n");
    git(&tree, &["add", "."]);
    git(&tree, &["commit", "-qm", "one"]);
    for hook in ["post-checkout", "post-merge", "post-rewrite"] {
        let path = tree
            .file(format!(".git/hooks/{hook}"), format!("#!/bin/sh\nexec {} hook run git -- {hook} \"$@\"\n", whole::BYTEKEEP).as_bytes());
        must("chmod", &["755", path.to_str().unwrap()]);
    }
    git(&tree, &["checkout", "-qb", "work"]);
    git(&tree, &["rm", "-q", "pkg/old.py"]);
    git(&tree, &["rm", "-q", "-r", "alone"]);
    tree.file("pkg/new.py", b"VALUE = 2\n");
    git(&tree, &["add", "."]);
    git(&tree, &["commit", "-qm", "two"]);
    git(&tree, &["checkout", "-q", "main"]);
    tree.compile(python).exits(0);
    // Of others: a repository in it, an environment, and a directory beside it.
    for foreign in ["nested", "env"] {
        tree.file(format!("{foreign}/gone.py"), b"VALUE = 1\n");
        tree.bytekeep(Some(python), ["compile", foreign]).run().exits(0);
        std::fs::remove_file(tree.path(format!("{foreign}/gone.py"))).unwrap();
    }
    tree.file("env/pyvenv.cfg", b"home = /usr/bin\n");
    std::fs::create_dir(tree.path("nested/.git")).unwrap();
    let (old, alone) = (tree.artifact("pkg/old.py", python), tree.artifact("alone/mod.py", python));
    assert!(old.exists() && alone.exists());
    // What git keeps itself, and what lies in the tree and is not in the repository.
    let kept = tree.artifact("kept.py", python);
    std::fs::copy(&old, &kept).unwrap();
    git(&tree, &["add", "-f", kept.to_str().unwrap()]);
    git(&tree, &["commit", "-qm", "kept"]);
    tree.file("loose/gone.py", b"VALUE = 1\n");
    tree.bytekeep(Some(python), ["compile", "loose"]).run().exits(0);
    std::fs::remove_file(tree.path("loose/gone.py")).unwrap();
    git(&tree, &["checkout", "-q", "work"]);
    git(&tree, &["checkout", "-q", "main"]);
    assert!(kept.exists(), "git put it there");
    tree.compile(python).exits(0);
    git(&tree, &["checkout", "-q", "work"]);
    assert!(tree.artifact("loose/gone.py", python).exists(), "not the repository's");
    assert!(!old.exists(), "its source went with the checkout");
    assert!(!tree.path("alone").exists(), "nothing is left of what git could not remove");
    assert!(tree.artifact("good.py", python).exists(), "what still has its source stays");
    assert!(tree.artifact("nested/gone.py", python).exists() && tree.artifact("env/gone.py", python).exists(), "other people's");
    assert!(!tree.artifact("pkg/new.py", python).exists(), "nothing is compiled that was not");
    // The same by a merge that is a fast-forward.
    git(&tree, &["checkout", "-q", "main"]);
    tree.compile(python).exits(0);
    assert!(old.exists());
    git(&tree, &["merge", "-q", "work"]);
    assert!(!old.exists());
    assert_eq!(tree.litter(), NONE);
}

#[test]
fn what_is_stale_in_a_work_tree_is_made_anew_by_whom_it_is_said() {
    if !tool_or_skip("git") {
        return;
    }
    let tree = Tree::new();
    let python = python();
    git(&tree, &["init", "-q"]);
    tree.old_file("mod.py", b"VALUE = 1\n");
    git(&tree, &["add", "mod.py"]);
    tree.compile(python).exits(0);
    tree.file("mod.py", b"VALUE = 22\n");
    tree.file("new.py", b"VALUE = 1\n");
    let before = std::fs::read(tree.artifact("mod.py", python)).unwrap();
    for words in [&["git", "post-checkout", "1", "1", "1"][..], &["git", "post-checkout", "1", "2", "0"], &["git", "pre-commit"], &["git"]]
    {
        let outcome = hook(&tree, &[python], words).run().exits(0);
        assert_eq!((&*outcome.stdout, &*outcome.stderr), ("", ""), "{words:?}");
    }
    hook(&tree, &[], &["git", "post-checkout", "1", "2", "1"]).run().exits(0);
    assert_eq!(std::fs::read(tree.artifact("mod.py", python)).unwrap(), before, "Python sees that it is stale");
    hook(&tree, &[python], &["git", "post-checkout", "1", "2", "1"]).env("GIT_DIR", ".git").run().exits(0);
    assert_eq!(tree.import(python, "mod"), "22");
    assert!(!tree.artifact("new.py", python).exists());
}

// ---- bad moments

#[test]
fn a_system_that_is_not_to_be_written_is_no_failure_and_no_message() {
    if !root_or_skip("a file system that is mounted read-only") {
        return;
    }
    let python = two()[0];
    let tree = debian(&[python]);
    let source = format!("{}/mod.py", site(python));
    tree.file(&source, b"VALUE = 1\n");
    let usr = tree.path("usr");
    let usr = usr.to_str().unwrap();
    if !may("mount", &["--bind", usr, usr]) {
        return;
    }
    must("mount", &["-o", "remount,ro,bind", usr]);
    let outcome = below(&tree, &[python], &["apk", &format!("/{}", site(python))]).run();
    let strict = below(&tree, &[python], &["apk", "--strict", &format!("/{}", site(python))]).run();
    must("umount", &[usr]);
    for outcome in [outcome.exits(0), strict.exits(0)] {
        assert_eq!((&*outcome.stdout, &*outcome.stderr), ("", ""));
    }
    assert_artifacts(&tree, &[], &[python]);
}

#[test]
fn a_hook_that_was_killed_is_mended_by_the_next() {
    let python = two()[0];
    let tree = debian(&[python]);
    let sources: Vec<String> = (0..400).map(|n| format!("{}/p{}/m{n}.py", site(python), n % 20)).collect();
    for source in &sources {
        tree.file(source, "def f(x):\n    return [x + 1 for x in range(x)]\n".repeat(30).as_bytes());
    }
    let words = ["apk", &format!("/{}", site(python))];
    for round in 0..4 {
        let running = below(&tree, &[python], &words).start();
        // As soon as there is more than the last one left, however fast the machine is.
        while artifacts(&tree).len() <= round * 50 && is_alive(running.child.id()) {}
        running.signal("KILL");
        drop(running.wait());
    }
    below(&tree, &[python], &words).run().exits(0);
    let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
    assert_artifacts(&tree, &sources, &[python]);
}

fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn whoever_hands_over_nothing_is_waited_for_at_low_priority_and_not_for_ever() {
    let python = two()[0];
    let tree = debian(&[python]);
    let source = format!("{}/mod.py", site(python));
    tree.file(&source, b"VALUE = 1\n");
    let mut run = below(&tree, &[python], &["pacman", "--nice"]);
    run.command.stdin(std::process::Stdio::piped());
    let mut running = run.start();
    let priority = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().and_then(|fields| fields.split(' ').nth(16)).map(str::to_owned)
    };
    if Path::new("/proc/self/stat").exists() {
        while is_alive(running.child.id()) && priority(running.child.id()).as_deref() != Some("19") {}
    }
    let mut input = running.child.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, source.as_bytes()).unwrap();
    drop(input);
    running.wait().exits(0);
    assert_artifacts(&tree, &[&source], &[python]);
    // Open to the end: what came by then was there in vain, and nobody waits for more.
    let mut run = below(&tree, &[python], &["pacman", "--max-time", "0.3"]);
    run.command.stdin(std::process::Stdio::piped());
    let mut running = run.start();
    let input = running.child.stdin.take();
    running.wait().exits(0);
    drop(input);
}

#[test]
fn a_full_disk_is_told_once_and_mended_later() {
    if !root_or_skip("a file system of its own") {
        return;
    }
    let python = two()[0];
    let tree = debian(&[python]);
    let packages = tree.path(site(python));
    std::fs::create_dir_all(&packages).unwrap();
    let packages = packages.to_str().unwrap();
    if !may("mount", &["-t", "tmpfs", "-o", "size=512k", "none", packages]) {
        return;
    }
    let sources: Vec<String> = (0..60).map(|n| format!("{}/m{n}.py", site(python))).collect();
    for source in &sources {
        tree.file(source, "def f(x):\n    return [x + 1 for x in range(x)]\n".repeat(40).as_bytes());
    }
    listed(&tree, "large", &sources.iter().map(String::as_str).collect::<Vec<_>>());
    let words = ["dpkg", "--post-invoke"];
    let full = below(&tree, &[python], &words).run();
    let litter = tree.litter();
    must("mount", &["-o", "remount,size=64m", packages]);
    // What had no room is not taken for done, though no list of dpkg's has changed since.
    let later = below(&tree, &[python], &words).run();
    let found = artifacts(&tree);
    let verified = tree.bytekeep(None, ["verify", "--require-seal", "."]).run();
    must("umount", &[packages]);
    assert!(full.exits(0).stderr.contains("failed"), "there was room for all of it");
    assert_eq!(litter, NONE);
    assert!(!later.exits(0).stderr.contains("failed"));
    verified.exits(0);
    assert_eq!(found.len(), sources.len());
}

#[test]
fn hooks_and_a_repair_at_one_time() {
    let python = two()[0];
    let tree = debian(&[python]);
    let sources: Vec<String> = (0..120).map(|n| format!("{}/p{}/m{n}.py", site(python), n % 7)).collect();
    for source in &sources {
        tree.file(source, b"VALUE = 1\n");
    }
    let words = ["apk", &format!("/{}", site(python))];
    let mut running: Vec<_> = (0..3).map(|_| below(&tree, &[python], &words).start()).collect();
    running.push(tree.bytekeep(Some(python), ["repair", "."]).start());
    // And a manager that takes directories away under them.
    for _ in 0..20 {
        for n in 0..7 {
            drop(std::fs::remove_dir_all(tree.path(format!("{}/p{n}/__pycache__", site(python)))));
        }
    }
    for one in running {
        one.wait().exits(0);
    }
    below(&tree, &[python], &words).run().exits(0);
    let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
    assert_artifacts(&tree, &sources, &[python]);
}

#[test]
fn the_root_of_a_system_is_a_path_like_any_other() {
    let python = two()[0];
    let tree = debian(&[python]);
    let source = format!("{}/mod.py", site(python));
    tree.file(&source, b"VALUE = 1\n");
    let link = tree.outside("link");
    symlink(tree.root(), &link).unwrap();
    let outcome = with_input(hook(&tree, &[python], &["pacman", "--root", link.to_str().unwrap()]), &tree, &source).exits(0);
    assert!(outcome.stderr.contains("1 compiled"), "{}", outcome.shown());
    assert!(Path::new(&tree.artifact(&source, python)).is_file());
}
