//! A new header and a new seal around the code that is there, without any interpreter: what it mends, and what it refuses.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test's own files")]

#[path = "support/mod.rs"]
mod support;
#[path = "support/whole.rs"]
mod whole;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use support::Python;
use whole::{Outcome, Tree, all_below, all_pythons, may, python, root_or_skip, set_mtime, tool_or_skip, two_pythons};

const SEAL: usize = 96;
/// 1980-01-01: what zip files say where nobody says otherwise.
const ZIP: i64 = 315_532_800;
const SOURCES: [(&str, &[u8]); 3] = [
    ("a.py", b"VALUE = 1\n"),
    ("pkg/__init__.py", b"VALUE = 'pkg'\n"),
    ("pkg/mod.py", b"class C:\n    def f(self, x={1: 'one'}):\n        return [i for i in range(x)]\nVALUE = C.__name__\n"),
];

fn tree() -> Tree {
    let tree = Tree::new();
    for (name, text) in SOURCES {
        tree.old_file(name, text);
    }
    set_mtime(&tree.path("good.py"), 1_500_000_000);
    tree
}

fn set_all(tree: &Tree, seconds: i64) {
    all_below(&tree.root()).iter().filter(|path| path.extension().is_some_and(|end| end == "py")).for_each(|path| set_mtime(path, seconds));
}

/// The command where no interpreter can be found: none is named, and `PATH` is empty.
fn alone<'a>(tree: &Tree, args: impl IntoIterator<Item = &'a str>) -> Outcome {
    tree.bytekeep(None, args.into_iter().chain(["--format", "json"])).env("PATH", "").run()
}

fn artifacts(tree: &Tree) -> BTreeMap<PathBuf, Vec<u8>> {
    let all = all_below(&tree.root()).into_iter().filter(|path| path.extension().is_some_and(|end| end == "pyc"));
    all.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

fn header(python: &Python) -> usize {
    match python.version {
        (2, _) => 8,
        (3, ..7) => 12,
        _ => 16,
    }
}

fn code<'a>(python: &Python, artifact: &'a [u8]) -> &'a [u8] {
    &artifact[header(python)..artifact.len() - SEAL]
}

/// Imports by the interpreter, and asserts that it takes the cache and writes nothing.
fn is_used(tree: &Tree, python: &Python) {
    let before = artifacts(tree);
    for (module, value) in [("a", "1"), ("pkg", "pkg"), ("pkg.mod", "C"), ("good", "42")] {
        let mut command = python.command();
        let program = format!("import sys; sys.path.insert(0, '.'); import {module} as it; sys.stdout.write(str(it.VALUE))");
        // Without -B: what it does not believe it would write anew.
        command.args(["-v", "-S", "-c", &program]).current_dir(tree.root());
        let done = command.output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(String::from_utf8_lossy(&done.stdout), value, "{}: {said}", python.tag);
        assert!(said.lines().any(|line| line.contains("matches")), "{} {module}: {said}", python.tag);
        assert!(!said.lines().any(|line| line.contains("wrote ")), "{} {module}: {said}", python.tag);
    }
    assert_eq!(artifacts(tree), before, "{}", python.tag);
}

#[test]
fn a_tree_whose_times_were_all_set_is_restamped_without_any_interpreter() {
    for python in all_pythons() {
        let tree = tree();
        tree.compile(python).exits(0);
        let compiled = artifacts(&tree);
        assert_eq!(compiled.len(), 4);
        for seconds in [0, ZIP] {
            set_all(&tree, seconds);
            assert_eq!(tree.verify().exits(1).verdicts("misstamped"), 4);
            let outcome = alone(&tree, ["compile", "."]).exits(0);
            assert_eq!((outcome.actions("restamped"), outcome.wrong()), (4, 0), "{} {}", python.tag, outcome.shown());
            outcome.is("a.py", "misstamped", "restamped");
            assert_eq!(tree.verify().exits(0).verdicts("ok"), 4);
            let now = artifacts(&tree);
            for (path, bytes) in &now {
                assert_eq!(code(python, bytes), code(python, &compiled[path]), "{}: the code is the same", python.tag);
            }
            is_used(&tree, python);
            assert_eq!(alone(&tree, ["compile", "."]).exits(0).actions("none"), 4, "and it is done once");
            if !python.pypy {
                tree.bytekeep(Some(python), ["compile", "--force", "."]).run().exits(0);
                assert_eq!(artifacts(&tree), now, "{}: as if it were compiled anew", python.tag);
            }
        }
        assert_eq!(tree.litter(), Vec::<PathBuf>::new());
    }
}

#[test]
fn another_mode_and_back_is_what_compiling_in_that_mode_makes() {
    let modes = ["timestamp", "unchecked-hash", "checked-hash"];
    for python in all_pythons() {
        let tree = tree();
        let mut fresh = BTreeMap::new();
        for mode in modes {
            tree.bytekeep(Some(python), ["compile", "--force", "--invalidation-mode", mode, "."]).run().exits(0);
            fresh.insert(mode, artifacts(&tree));
        }
        let knows = python.version >= (3, 7);
        assert_eq!(fresh["timestamp"] != fresh["unchecked-hash"], knows, "{}", python.tag);
        for mode in ["unchecked-hash", "timestamp", "checked-hash", "unchecked-hash", "timestamp"] {
            let outcome = alone(&tree, ["compile", "--invalidation-mode", mode, "."]).exits(0);
            assert_eq!(outcome.actions("restamped"), if knows { 4 } else { 0 }, "{} {mode}: {}", python.tag, outcome.shown());
            assert_eq!(tree.verify().exits(0).verdicts("ok"), 4);
            for (path, bytes) in artifacts(&tree) {
                assert_eq!(code(python, &bytes), code(python, &fresh["checked-hash"][&path]));
                assert!(python.pypy || bytes == fresh[mode][&path], "{} {mode}: {}", python.tag, path.display());
            }
            is_used(&tree, python);
        }
        // What is asked for by nobody stays as it is.
        assert_eq!(alone(&tree, ["compile", "."]).exits(0).actions("none"), 4);
    }
}

#[test]
fn what_was_adopted_is_compiled_and_never_restamped() {
    let python = python();
    let tree = tree();
    tree.bytekeep(Some(python), ["compile", "pkg"]).run().exits(0);
    let mut compileall = python.command();
    assert!(compileall.args(["-m", "compileall", "-q", "a.py", "good.py"]).current_dir(tree.root()).status().unwrap().success());
    tree.bytekeep(None, ["seal", "."]).run().exits(0);
    set_all(&tree, ZIP);
    let before = std::fs::read(tree.artifact("a.py", python)).unwrap();
    let outcome = alone(&tree, ["compile", "."]).exits(1);
    outcome.is("a.py", "misstamped", "failed").fails("a.py", "no-interpreter", &[]);
    outcome.is("pkg/mod.py", "misstamped", "restamped");
    assert_eq!(std::fs::read(tree.artifact("a.py", python)).unwrap(), before);
    let outcome = tree.compile(python).exits(0);
    outcome.is("a.py", "misstamped", "built").is("good.py", "misstamped", "built");
    assert_eq!(outcome.actions("none"), 2);
    is_used(&tree, python);
    // By then it is ours.
    set_all(&tree, 0);
    alone(&tree, ["compile", "."]).exits(0).is("a.py", "misstamped", "restamped");
}

#[test]
fn an_adopted_one_that_nobody_can_make_is_left_and_told_by_repair() {
    for python in two_pythons() {
        let tree = tree();
        tree.compile(python).exits(0);
        let mut compileall = python.command();
        assert!(compileall.args(["-m", "compileall", "-q", "-f", "a.py"]).current_dir(tree.root()).status().unwrap().success());
        tree.bytekeep(None, ["seal", "."]).run().exits(0);
        set_all(&tree, ZIP);
        tree.file("good.py", b"VALUE = 'of another size'\n");
        let adopted = tree.artifact("a.py", python);
        let before = std::fs::read(&adopted).unwrap();
        let left = |outcome: &Outcome| {
            outcome.is("a.py", "misstamped", "none").fails("a.py", "no-interpreter", &["adopted", &python.tag]);
            assert_eq!((outcome.wrong(), std::fs::read(&adopted).unwrap() == before), (1, true), "{}", outcome.shown());
        };
        let plan = alone(&tree, ["repair", "--dry-run", "."]).exits(1);
        plan.is("good.py", "stale", "removed").is("pkg/mod.py", "misstamped", "restamped");
        left(&plan);
        let outcome = alone(&tree, ["repair", "."]).exits(1);
        outcome.is("good.py", "stale", "removed");
        outcome.is("pkg/mod.py", "misstamped", "restamped").is("pkg/__init__.py", "misstamped", "restamped");
        left(&outcome);
        let told = tree.bytekeep(None, ["repair", "."]).env("PATH", "").run().exits(1);
        assert!(told.stderr.contains("`a.py`") && told.stderr.contains("--python") && told.errors() == 1, "{}", told.shown());
        // What is damaged too does harm, and goes.
        std::fs::write(&adopted, [&before[..before.len() / 2], &[!before[before.len() / 2]], &before[before.len() / 2 + 1..]].concat())
            .unwrap();
        alone(&tree, ["repair", "--dry-run", "."]).exits(0).is("a.py", "corrupt", "removed");
        std::fs::write(&adopted, &before).unwrap();
        tree.bytekeep(Some(python), ["repair", "--format", "json", "."]).run().exits(0).is("a.py", "misstamped", "built");
        tree.verify().exits(0);
    }
}

#[test]
fn a_source_with_other_bytes_is_never_vouched_for() {
    let python = python();
    let tree = tree();
    tree.compile(python).exits(0);
    let before = artifacts(&tree);
    tree.file("a.py", b"VALUE = 2\n");
    set_all(&tree, ZIP);
    for mode in ["timestamp", "unchecked-hash"] {
        let outcome = alone(&tree, ["compile", "--invalidation-mode", mode, "."]).exits(1);
        outcome.is("a.py", "stale", "failed").fails("a.py", "no-interpreter", &[]);
        assert_eq!(outcome.actions("restamped"), 3, "{}", outcome.shown());
        let path = tree.artifact("a.py", python);
        assert_eq!(std::fs::read(&path).unwrap(), before[&path], "it stays for whoever can make it");
    }
    tree.compile(python).exits(0).is("a.py", "stale", "built");
    assert_eq!(tree.import(python, "a"), "2");
}

/// The quick look hashes no byte of an artifact, so it takes a flipped bit for a wrong stamp; a seal over bytes that nobody proved would
/// hide it for good.
#[test]
fn damage_is_never_sealed_anew() {
    let python = python();
    let tree = tree();
    tree.compile(python).exits(0);
    set_all(&tree, ZIP);
    let path = tree.artifact("a.py", python);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(&path, &bytes).unwrap();
    for args in [&["compile", "."][..], &["compile", "--invalidation-mode", "unchecked-hash", "."]] {
        let outcome = alone(&tree, args.iter().copied()).exits(1);
        outcome.is("a.py", "corrupt", "failed").fails("a.py", "no-interpreter", &[]);
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
    tree.compile(python).exits(0).is("a.py", "corrupt", "built");
    assert_eq!(tree.import(python, "a"), "1");
}

#[test]
fn other_names_of_the_same_file_keep_their_bytes() {
    let python = python();
    let tree = tree();
    tree.compile(python).exits(0);
    let path = tree.artifact("a.py", python);
    let other = tree.outside("linked.pyc");
    std::fs::hard_link(&path, &other).unwrap();
    let (before, inode) = (std::fs::read(&path).unwrap(), path.metadata().unwrap().ino());
    set_all(&tree, 0);
    alone(&tree, ["compile", "."]).exits(0).is("a.py", "misstamped", "restamped");
    assert_eq!(std::fs::read(&other).unwrap(), before);
    assert_ne!(path.metadata().unwrap().ino(), inode);
    assert_ne!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn what_cannot_be_done_without_an_interpreter_is_told() {
    let python = python();
    let tree = tree();
    let outcome = alone(&tree, ["compile", "."]).exits(2);
    assert!(outcome.stderr.contains("cannot compile without an interpreter") && outcome.stderr.contains("--python"), "{}", outcome.shown());
    tree.compile(python).exits(0);
    set_all(&tree, ZIP);
    tree.file("new.py", b"VALUE = 0\n");
    let outcome = alone(&tree, ["compile", "."]).exits(1);
    outcome.is("new.py", "missing", "failed").fails("new.py", "no-interpreter", &[]);
    assert_eq!((outcome.actions("restamped"), outcome.wrong()), (4, 1), "{}", outcome.shown());
    assert!(outcome.lines.iter().any(|line| line["kind"] == "note" && line["text"].as_str().unwrap().contains("python3")));
    let told = tree.bytekeep(None, ["compile", "."]).env("PATH", "").run().exits(1);
    assert!(told.stderr.contains("`new.py`") && told.errors() == 1, "{}", told.shown());
    // To make everything anew takes an interpreter, and so does another one's library.
    alone(&tree, ["compile", "--force", "."]).exits(2);
    alone(&tree, ["compile", "--stdlib", "."]).exits(2);
    alone(&tree, ["compile", "--python", "no-such-python", "."]).exits(2);
    // An orphan is none of its business.
    std::fs::remove_file(tree.path("new.py")).unwrap();
    std::fs::remove_file(tree.path("a.py")).unwrap();
    assert_eq!(alone(&tree, ["compile", "."]).exits(0).verdicts("orphan"), 1);
    let one = tree.artifact("good.py", python);
    set_all(&tree, 0);
    assert_eq!(alone(&tree, ["compile", one.to_str().unwrap()]).exits(0).actions("restamped"), 1);
    assert_eq!(alone(&tree, ["compile", "pkg/mod.py"]).exits(0).actions("restamped"), 1);
}

#[test]
fn a_plan_says_so_and_changes_nothing() {
    let tree = tree();
    tree.compile(python()).exits(0);
    set_all(&tree, 0);
    let before = artifacts(&tree);
    for command in ["compile", "repair"] {
        assert_eq!(alone(&tree, [command, "--dry-run", "."]).exits(0).actions("restamped"), 4);
    }
    assert_eq!(artifacts(&tree), before);
}

/// The quick look of `compile` hashes no byte of an artifact: a plan that goes by it alone would promise what nobody does.
#[test]
fn a_plan_sees_the_damage_that_only_a_proof_shows() {
    for python in two_pythons() {
        let tree = tree();
        tree.compile(python).exits(0);
        set_all(&tree, ZIP);
        let path = tree.artifact("a.py", python);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        std::fs::write(&path, &bytes).unwrap();
        let before = artifacts(&tree);
        for mode in [None, Some("--invalidation-mode=unchecked-hash")] {
            let plan = alone(&tree, ["compile", "--dry-run", "."].into_iter().chain(mode)).exits(1);
            plan.is("a.py", "corrupt", "failed").fails("a.py", "no-interpreter", &[]);
            // 3.6 knows no hashes: there only the header is renewed.
            assert_eq!(plan.actions("restamped"), 3, "{}", plan.shown());
            let args = ["compile", "--dry-run", "--format", "json", "."].into_iter().chain(mode);
            let plan = tree.bytekeep(Some(python), args).run().exits(0);
            plan.is("a.py", "corrupt", "built").is("pkg/mod.py", "misstamped", "restamped");
        }
        assert_eq!(artifacts(&tree), before);
        alone(&tree, ["repair", "--dry-run", "."]).exits(0).is("a.py", "corrupt", "removed");
        // And what the plan says is what is done.
        tree.bytekeep(Some(python), ["compile", "--format", "json", "."]).run().exits(0).is("a.py", "corrupt", "built");
        assert_eq!(tree.import(python, "a"), "1");
    }
}

#[test]
fn under_a_lock_that_another_holds_nothing_is_restamped() {
    if !tool_or_skip("flock") {
        return;
    }
    let tree = tree();
    tree.compile(python()).exits(0);
    set_all(&tree, 0);
    let before = artifacts(&tree);
    tree.file("pkg/__pycache__/.bytekeep.lock", b"");
    let line = "exec 9<>pkg/__pycache__/.bytekeep.lock; flock 9; PATH= \"$@\" 9>&-";
    let outcome = tree.bytekeep(None, ["compile", "--format", "json", "--lock-timeout", "0", "."]).by_shell(line).run().exits(1);
    outcome.is("pkg/mod.py", "misstamped", "skipped").fails("pkg/mod.py", "locked", &[]).is("a.py", "misstamped", "restamped");
    let path = tree.artifact("pkg/mod.py", python());
    assert_eq!(std::fs::read(&path).unwrap(), before[&path]);
}

/// What nobody holds as a whole was taken for an empty file there, and so for damaged: `repair` removed it.
#[test]
fn what_is_too_large_to_be_restamped_is_told_and_left() {
    use bytekeep::base::seal::{self, Digest, Seal};
    let python = python();
    let tree = tree();
    tree.compile(python).exits(0);
    let path = tree.artifact("a.py", python);
    let sealed = std::fs::read(&path).unwrap();
    let own = Seal::parse(&sealed, sealed.len() as u64).unwrap().unwrap();
    // Behind its code nothing but zeros, which the seal proves too. Sparse.
    let mut payload = vec![0; 193 << 20];
    payload[..sealed.len() - SEAL].copy_from_slice(&sealed[..sealed.len() - SEAL]);
    let len = payload.len();
    let seal = seal::sealed(payload, Digest::of(b"VALUE = 1\n"), own.label, false).split_off(len);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(sealed.len() as u64 - SEAL as u64).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &seal, len as u64).unwrap();
    drop(file);
    assert_eq!(tree.verify().exits(0).verdicts("ok"), 4);
    let again = tree.bytekeep(Some(python), ["verify", "--recompile", "--format", "json", "."]).run().exits(1);
    again.is("a.py", "ok", "none").fails("a.py", "too-large-artifact", &["bytes"]);
    set_all(&tree, ZIP);
    for args in [&["compile", "--dry-run", "."][..], &["compile", "."], &["repair", "."]] {
        let outcome = alone(&tree, args.iter().copied()).exits(1);
        outcome.is("a.py", "misstamped", "failed").fails("a.py", "too-large-artifact", &[]);
        assert_eq!((outcome.wrong(), path.metadata().unwrap().len()), (1, (len + SEAL) as u64), "{}", outcome.shown());
    }
}

#[test]
fn what_goes_is_kept_where_its_owner_wants_it() {
    let tree = tree();
    tree.compile(python()).exits(0);
    set_all(&tree, 0);
    let before = artifacts(&tree);
    let keep = tree.outside("kept");
    std::fs::create_dir(&keep).unwrap();
    alone(&tree, ["repair", "--keep-bad", keep.to_str().unwrap(), "."]).exits(0).is("a.py", "misstamped", "restamped");
    let kept: Vec<Vec<u8>> = all_below(&keep).iter().filter(|path| path.is_file()).map(|path| std::fs::read(path).unwrap()).collect();
    assert!(before.values().all(|bytes| kept.contains(bytes)), "{:?}", all_below(&keep));
}

#[test]
fn what_was_signed_is_left_to_whoever_signed_it() {
    if !root_or_skip("signing a file") {
        return;
    }
    let tree = tree();
    tree.compile(python()).exits(0);
    let path = tree.artifact("a.py", python());
    let sign = "import os, sys; os.setxattr(sys.argv[1], 'security.ima', b'\\1\\1')";
    if !may(python().path.to_str().unwrap(), &["-c", sign, path.to_str().unwrap()]) {
        return;
    }
    set_all(&tree, 0);
    let before = std::fs::read(&path).unwrap();
    for args in [&["compile", "--dry-run", "."][..], &["compile", "."]] {
        let outcome = alone(&tree, args.iter().copied()).exits(1);
        outcome.is("a.py", "misstamped", "failed").fails("a.py", "signed", &[]).is("good.py", "misstamped", "restamped");
    }
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

/// The artifact's own time is from before its source was opened: so an edit right after it, of equal size and time, is seen.
#[test]
fn an_edit_right_after_it_is_seen() {
    let python = python();
    let tree = tree();
    tree.compile(python).exits(0);
    let path = tree.file("a.py", b"VALUE = 1\n");
    let then = path.metadata().unwrap().modified().unwrap();
    alone(&tree, ["compile", "."]).exits(0).is("a.py", "misstamped", "restamped");
    std::fs::write(&path, b"VALUE = 3\n").unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(then).unwrap();
    tree.compile(python).exits(0).is("a.py", "silently-stale", "built");
    assert_eq!(tree.import(python, "a"), "3");
}

#[test]
fn a_tree_apart_is_restamped_too() {
    let Some(python) = all_pythons().iter().find(|python| python.version >= (3, 8) && !python.pypy) else { return };
    let tree = tree();
    let prefix = tree.outside("prefix");
    let prefix = prefix.to_str().unwrap();
    tree.bytekeep(Some(python), ["compile", "--pycache-prefix", prefix, "."]).run().exits(0);
    set_all(&tree, ZIP);
    assert_eq!(alone(&tree, ["compile", "--pycache-prefix", prefix, "."]).exits(0).actions("restamped"), 4);
    set_all(&tree, 0);
    assert_eq!(alone(&tree, ["repair", "--pycache-prefix", prefix, "."]).exits(0).actions("restamped"), 4);
    tree.bytekeep(None, ["verify", "--pycache-prefix", prefix, "."]).run().exits(0);
    // None is made where nothing can be made in it.
    let none = tree.outside("none");
    alone(&tree, ["compile", "--pycache-prefix", none.to_str().unwrap(), "."]).exits(2);
    assert!(!none.exists());
}

#[test]
fn before_an_image_is_made_times_in_headers_are_told() {
    for python in two_pythons() {
        let tree = tree();
        tree.compile(python).exits(0);
        tree.bytekeep(None, ["verify", "."]).run().exits(0);
        let outcome = tree.bytekeep(None, ["verify", "--for-image", "--format", "json", "."]).run().exits(1);
        let cure = if python.version >= (3, 7) { "--invalidation-mode unchecked-hash" } else { "the times must be kept" };
        outcome.is("a.py", "ok", "none").fails("a.py", "timestamp", &[cure]);
        assert_eq!(outcome.wrong(), 4);
        let told = tree.bytekeep(None, ["verify", "--for-image", "."]).run().exits(1);
        assert!(told.stderr.contains("4 ok, 4 wrong") && told.stdout.contains(cure), "{}", told.shown());
        alone(&tree, ["compile", "--invalidation-mode", "unchecked-hash", "."]).exits(0);
        let after = i32::from(python.version < (3, 7));
        tree.bytekeep(None, ["verify", "--for-image", "."]).run().exits(after);
        // What an image does to times: nobody minds.
        set_all(&tree, ZIP);
        tree.bytekeep(None, ["verify", "--for-image", "."]).run().exits(after);
        if after == 0 {
            is_used(&tree, python);
            // And a hash that is believed must still be the source's.
            tree.file("a.py", b"VALUE = 9\n");
            tree.bytekeep(None, ["verify", "--for-image", "--format", "json", "."]).run().exits(1).is("a.py", "silently-stale", "none");
        }
    }
}

/// All file names in the code of an artifact, by the interpreter itself.
fn names_in(python: &Python, artifact: &Path) -> String {
    let program = "
import marshal, sys
def names(code):
    yield code.co_filename
    for one in code.co_consts:
        if isinstance(one, type(code)):
            for name in names(one):
                yield name
with open(sys.argv[1], 'rb') as file:
    data = file.read()
print(' '.join(sorted(set(names(marshal.loads(data[int(sys.argv[2]):]))))))
";
    let done = python.command().args(["-c", program]).arg(artifact).arg(header(python).to_string()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

#[test]
fn code_carries_the_names_that_compileall_gives() {
    for python in two_pythons() {
        let tree = tree();
        let top = tree.root().canonicalize().unwrap();
        let top = top.to_str().unwrap();
        let whole = |name: &str| format!("{top}/{name}");
        let theirs = python.version >= (3, 9);
        // What is stripped, what is put before, what is compiled; and the name of `pkg/mod.py` in the code.
        for (strip, prepend, named, name) in [
            (Some(whole("pkg")), None, whole("pkg"), "mod.py".to_owned()),
            (Some(top.to_owned()), Some("/usr/lib"), whole("pkg"), "/usr/lib/pkg/mod.py".to_owned()),
            (Some(top.to_owned()), Some("/"), whole("pkg"), "/pkg/mod.py".to_owned()),
            (Some("pkg".to_owned()), Some("/usr/lib"), "pkg".to_owned(), "/usr/lib/mod.py".to_owned()),
            (Some("pkg/../pkg".to_owned()), Some("/usr/lib"), "pkg/../pkg".to_owned(), "/usr/lib/mod.py".to_owned()),
            (None, Some("/usr/lib"), "pkg".to_owned(), "/usr/lib/pkg/mod.py".to_owned()),
            (None, Some("/usr/lib"), whole("pkg"), whole("pkg/mod.py")),
            (None, Some("rel"), "pkg/mod.py".to_owned(), "rel/pkg/mod.py".to_owned()),
        ] {
            let mut args = vec!["compile".to_owned(), "--force".to_owned(), named.clone()];
            let mut other = vec!["-m".to_owned(), "compileall".to_owned(), "-q".to_owned(), "-f".to_owned(), named.clone()];
            for (ours, short, value) in [("--strip-dir", "-s", strip.clone()), ("--prepend-dir", "-p", prepend.map(str::to_owned))] {
                if let Some(value) = value {
                    args.extend([ours.to_owned(), value.clone()]);
                    other.extend([short.to_owned(), value]);
                }
            }
            let artifact = tree.artifact("pkg/mod.py", python);
            tree.bytekeep(Some(python), args.iter().map(String::as_str)).run().exits(0);
            assert_eq!(names_in(python, &artifact), name, "{} {args:?}", python.tag);
            tree.verify();
            if theirs {
                assert!(python.command().args(&other).current_dir(top).status().unwrap().success());
                assert_eq!(names_in(python, &artifact), name, "{} {other:?}", python.tag);
            }
        }
        // Where it does not lie there nothing is stripped, and that is said once.
        let outcome = tree.bytekeep(Some(python), ["compile", "--force", "--strip-dir", "/else/where", "."]).run().exits(0);
        assert_eq!(outcome.stderr.matches("do not lie below `/else/where`").count(), 1, "{}", outcome.shown());
        assert_eq!(names_in(python, &tree.artifact("pkg/mod.py", python)), whole("pkg/mod.py"));
        // The header says nothing of it.
        let outcome = tree.bytekeep(Some(python), ["compile", "--format", "json", "--strip-dir", top, "."]).run().exits(0);
        assert_eq!(outcome.actions("none"), 4);
    }
}
