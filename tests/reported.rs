//! Faults that somebody met, each as it was met. The whole command, with a real interpreter.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test's own files")]

#[path = "support/mod.rs"]
mod support;
#[path = "support/whole.rs"]
mod whole;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use whole::{Tree, all_below, all_pythons, must, python, python_for_all, root_or_skip, set_mtime};

/// `backup.pyc.1` and the like were taken for what a killed interpreter leaves behind.
#[test]
fn numbered_files_that_no_artifact_has_are_not_swept() {
    let tree = Tree::new();
    tree.compile(python()).exits(0);
    let theirs = ["backup.pyc.1", "__pycache__/notes.pyc.20240101"].map(|name| tree.file(name, b"mine"));
    let left = tree.artifact("good.py", python()).with_extension("pyc.4711");
    std::fs::write(&left, b"half").unwrap();
    for path in theirs.iter().chain([&left]) {
        set_mtime(path, 1_000_000_000);
    }
    tree.bytekeep(None, ["clean", "--tag", "cpython-399", "."]).run().exits(0);
    assert!(left.exists(), "a filter by tag says nothing of left-overs");
    tree.compile(python()).exits(0);
    assert!(theirs.iter().all(|path| path.exists()) && !left.exists());
}

/// Whoever can write `pyvenv.cfg` decides which standard library an interpreter runs.
#[test]
fn root_does_not_believe_settings_of_an_environment_that_others_can_write() {
    if !root_or_skip("root's rule on the settings of an environment") {
        return;
    }
    let tree = Tree::new();
    tree.open_to_all();
    let real = python().path.canonicalize().unwrap();
    tree.file("venv/pyvenv.cfg", format!("home = {}\n", real.parent().unwrap().display()).as_bytes());
    tree.file("venv/mod.py", b"VALUE = 1\n");
    std::fs::create_dir(tree.path("venv/bin")).unwrap();
    symlink(&real, tree.path("venv/bin/python")).unwrap();
    tree.bytekeep(None, ["compile", "venv/mod.py"]).run().exits(0);
    std::fs::set_permissions(tree.path("venv/pyvenv.cfg"), std::fs::Permissions::from_mode(0o666)).unwrap();
    let outcome = tree.bytekeep(None, ["compile", "venv/mod.py"]).run().exits(2);
    assert!(outcome.stderr.contains("pyvenv.cfg") && outcome.stderr.contains("--python"), "{}", outcome.shown());
    // Settings that lead nowhere are written by nobody else, and are not to be believed either.
    std::fs::set_permissions(tree.path("venv/pyvenv.cfg"), std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(tree.path("venv/pyvenv.cfg"), "home = /no/such/place\n").unwrap();
    let outcome = tree.bytekeep(None, ["compile", "--force", "venv/mod.py"]).run().exits(2);
    assert!(outcome.stderr.contains("`/no/such/place`") && outcome.stderr.contains("is not there"), "{}", outcome.shown());
    assert!(!outcome.stderr.contains("others can write"), "{}", outcome.shown());
}

/// A directory named like a left-over could not be unlinked, and made every run fail.
#[test]
fn what_no_process_leaves_behind_is_not_swept() {
    let tree = Tree::new();
    tree.compile(python()).exits(0);
    let cache = tree.path("__pycache__");
    let temp = tree.artifact("good.py", python()).file_name().unwrap().to_str().unwrap().to_owned() + ".123";
    let theirs = [temp.as_str(), ".bytekeep-abc.tmp", "other.cpython-313.pyc.7", ".bytekeep-def.tmp", ".bytekeep-ghi.old"];
    std::fs::create_dir(cache.join(theirs[0])).unwrap();
    std::fs::create_dir(cache.join(theirs[1])).unwrap();
    symlink("nowhere", cache.join(theirs[2])).unwrap();
    must("mkfifo", &[cache.join(theirs[3])]);
    std::fs::write(cache.join(theirs[4]), b"").unwrap();
    for name in theirs {
        must("touch", &[Path::new("-hd"), Path::new("2 days ago"), &cache.join(name)]);
    }
    for words in [&["compile", "."][..], &["compile", "-f", "."], &["clean", "--leftovers", "."], &["verify", "."]] {
        let python = (words[0] == "compile").then(python);
        let outcome = tree.bytekeep(python, words.iter().copied()).run().exits(0);
        assert!(!outcome.stdout.contains("leftover") && !outcome.stderr.contains("left-over"), "{words:?}: {}", outcome.shown());
    }
    assert!(theirs.iter().all(|name| cache.join(name).symlink_metadata().is_ok()), "{:?}", all_below(&cache));
}

/// What stood in the lock file's place was called a left-over, which `clean --leftovers` could not remove either.
#[test]
fn what_stands_in_the_lock_files_place_is_told_as_what_it_is() {
    type Put = fn(&Path, &Tree);
    let kinds: [(&str, Put); 4] = [
        ("a directory", |path, _| std::fs::create_dir(path).unwrap()),
        ("FIFO", |path, _| must("mkfifo", &[path])),
        ("a symbolic link", |path, _| symlink("nowhere", path).unwrap()),
        ("hard links", |path, tree| std::fs::hard_link(tree.path("good.py"), path).unwrap()),
    ];
    for (what, put) in kinds {
        let tree = Tree::new();
        tree.compile(python()).exits(0);
        let lock = tree.path("__pycache__/.bytekeep.lock");
        put(&lock, &tree);
        let verified = tree.verify().exits(0);
        verified.is(".bytekeep.lock", "unsafe", "none");
        assert!(verified.entry(".bytekeep.lock")["cause"]["text"].as_str().unwrap().contains(what), "{}", verified.shown());
        for words in [&["compile", "--force", "."][..], &["clean", "."]] {
            let python = (words[0] == "compile").then(python);
            let outcome = tree.bytekeep(python, words.iter().copied()).run().exits(1);
            assert!(outcome.stderr.contains(what) && outcome.stderr.contains("remove it by hand"), "{what}: {}", outcome.shown());
        }
        let cleaned = tree.bytekeep(None, ["clean", "--leftovers", "."]).run().exits(0);
        assert!(cleaned.stderr.contains(what) && cleaned.stderr.contains("by hand"), "{what}: {}", cleaned.shown());
        assert!(lock.symlink_metadata().is_ok(), "{what}: it was not ours to remove");
    }
}

/// An artifact that could not be removed was told as the source's removal.
#[test]
fn what_cannot_be_removed_is_named() {
    if !root_or_skip("another user's artifacts") {
        return;
    }
    let Some(python) = python_for_all() else { return };
    let tree = Tree::new();
    tree.open_to_all();
    tree.compile(python).exits(0);
    let outcome = tree.bytekeep(None, ["clean", "."]).by_nobody().run().exits(1);
    assert!(outcome.stderr.contains("cannot remove `__pycache__/good."), "{}", outcome.shown());
    assert!(!outcome.stderr.contains("good.py`"), "{}", outcome.shown());
}

/// The name of a `.pyo` does not tell its level: `seal` failed on it, and `repair` removed what it was told how to make.
#[test]
fn the_level_that_a_name_does_not_tell_is_that_of_the_seal_or_the_one_that_is_asked_for() {
    for python in all_pythons().iter().filter(|python| python.version.0 == 2 && !python.pypy) {
        let tree = Tree::new();
        let artifact = tree.path("good.pyo");
        must(python.path.to_str().unwrap(), &[Path::new("-O"), Path::new("-m"), Path::new("compileall"), Path::new("-q"), &tree.root()]);
        assert!(artifact.is_file());
        let left = tree.bytekeep(None, ["seal", "."]).run().exits(0);
        assert!(left.stderr.contains("good.pyo") && left.stderr.contains("--optimize"), "{}", left.shown());
        tree.bytekeep(Some(python), ["compile", "--adopt", "--optimize", "1", "."]).run().exits(0);
        tree.verify().exits(0).is("good.pyo", "ok", "none");
        // The seal says that it is of level 1, whatever else is asked for.
        let sealed = std::fs::read(&artifact).unwrap();
        tree.bytekeep(Some(python), ["repair", "--optimize", "2", "."]).run().exits(0);
        assert_eq!(std::fs::read(&artifact).unwrap(), sealed);
        let mut flipped = sealed.clone();
        flipped[30] ^= 1;
        for (bad, levels) in [(&sealed[..20], "1"), (&flipped[..], "0,2")] {
            std::fs::write(&artifact, bad).unwrap();
            let repaired = tree.bytekeep(Some(python), ["repair", "--format", "json", "--optimize", levels, "."]).run().exits(0);
            assert_eq!(repaired.actions("built"), 1, "{}", repaired.shown());
            assert_eq!(tree.verify().exits(0).verdicts("ok"), 1);
            assert_eq!(std::fs::read(&artifact).unwrap()[8..100], sealed[8..100]);
        }
        // Where nothing tells, nobody can make it, and as it stands it hurts.
        std::fs::write(&artifact, &sealed[..20]).unwrap();
        let repaired = tree.bytekeep(Some(python), ["repair", "--format", "json", "."]).run().exits(0);
        assert_eq!(repaired.actions("removed"), 1, "{}", repaired.shown());
    }
}

/// The copies were written under temp names, which the same run swept as left-overs.
#[test]
fn copies_of_what_is_bad_may_be_kept_in_the_tree() {
    let tree = Tree::new();
    let names: Vec<_> = (0..40).map(|number| format!("m{number}.py")).collect();
    for name in &names {
        tree.file(name, b"VALUE = 1\n");
    }
    tree.compile(python()).exits(0);
    for name in &names {
        std::fs::write(tree.artifact(name, python()), b"bad").unwrap();
    }
    for number in 0..20 {
        std::fs::create_dir_all(tree.path(format!("bad/{number}"))).unwrap();
    }
    tree.bytekeep(Some(python()), ["repair", "--keep-bad", "bad", "."]).run().exits(0);
    assert_eq!(all_below(&tree.path("bad")).len(), 20 + 3 * names.len());
}

/// With a umask of 077 a shared directory got a cache that the group could write and not read.
#[test]
fn a_cache_in_a_directory_of_a_group_is_open_to_the_group() {
    let tree = Tree::new();
    tree.file("secret.py", b"VALUE = 1\n");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let set = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    set(&tree.path("good.py"), 0o664);
    set(&tree.path("secret.py"), 0o600);
    for (dir, cache, file) in [(0o2775, 0o2770, 0o660), (0o2755, 0o2750, 0o640), (0o755, 0o700, 0o600)] {
        set(&tree.root(), dir);
        tree.bytekeep(Some(python()), ["compile", "."]).by_shell("umask 077; \"$@\"").run().exits(0);
        let made = [tree.path("__pycache__"), tree.artifact("good.py", python()), tree.artifact("secret.py", python())];
        assert_eq!(
            made.each_ref().map(|path| format!("{:o}", mode(path))),
            [cache, file, 0o600].map(|mode: u32| format!("{mode:o}")),
            "{dir:o}"
        );
        std::fs::remove_dir_all(&made[0]).unwrap();
    }
}

/// A source that only root can read, in a user's directory by a hard link, was theirs to read as bytecode.
#[test]
fn what_only_root_can_read_is_not_given_away_as_bytecode() {
    use std::os::unix::fs::{MetadataExt, chown};
    if !root_or_skip("a directory of somebody else's") {
        return;
    }
    let tree = Tree::new();
    for (name, mode) in [("private.py", 0o600), ("group.py", 0o640), ("open.py", 0o644)] {
        let path = tree.file(name, b"TOKEN = 'secret'\n");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    chown(tree.root(), Some(65534), Some(65534)).unwrap();
    tree.compile(python()).exits(0);
    for (name, owner, others) in [("private.py", 0, 0), ("group.py", 0, 0), ("open.py", 65534, 0o044)] {
        let meta = std::fs::metadata(tree.artifact(name, python())).unwrap();
        assert_eq!((meta.uid(), meta.mode() & 0o044), (owner, others), "{name}");
    }
}

/// A level that is none was ignored without a word.
#[test]
fn a_level_of_logging_that_is_none_is_told() {
    let tree = Tree::new();
    tree.file("mod.py", b"VALUE = 1\n");
    let outcome = tree.bytekeep(None, ["verify", "."]).env("BYTEKEEP_LOG", "loud").run().exits(2);
    assert!(outcome.stderr.contains("BYTEKEEP_LOG=loud") && outcome.stderr.contains("debug"), "{}", outcome.shown());
    tree.bytekeep(None, ["verify", "."]).env("BYTEKEEP_LOG", "").run().exits(0);
}

/// An edit in the second in which an interpreter made its artifact hides behind an equal size. A seal would vouch for the edit.
#[test]
fn what_was_edited_in_the_second_of_its_making_is_not_sealed() {
    let tree = Tree::new();
    let set = |path: &std::path::Path, nanos: u32| {
        let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_700_000_000, nanos);
        std::fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    };
    let source = tree.file("edited.py", b"VALUE = 11\n");
    set(&source, 100_000_000);
    must(python().path.to_str().unwrap(), &["-m".as_ref(), "compileall".as_ref(), "-q".as_ref(), tree.root().as_os_str()]);
    set(&tree.artifact("edited.py", python()), 500_000_000);
    tree.bytekeep(None, ["verify", "edited.py"]).run().exits(0);
    std::fs::write(&source, b"VALUE = 22\n").unwrap();
    set(&source, 900_000_000);
    // Python itself does not see it.
    assert_eq!(tree.import(python(), "edited"), "11");
    let outcome = tree.bytekeep(None, ["seal", "--format", "json", "edited.py"]).run().exits(1);
    outcome.is("edited.py", "silently-stale", "none").fails("edited.py", "outrun", &["within the second"]);
    tree.bytekeep(Some(python()), ["compile", "edited.py"]).run().exits(0);
    assert_eq!(tree.import(python(), "edited"), "22");
    tree.bytekeep(None, ["verify", "--require-seal", "edited.py"]).run().exits(0);
}

/// What was mended in an image whose artifacts go by a hash went by a time afterwards.
#[test]
fn repair_keeps_the_invalidation_mode_and_makes_the_directory_for_evidence() {
    let tree = Tree::new();
    tree.file("mod.py", b"VALUE = 1\n");
    tree.bytekeep(Some(python()), ["compile", "--invalidation-mode", "unchecked-hash", "mod.py"]).run().exits(0);
    let artifact = tree.artifact("mod.py", python());
    let whole = std::fs::read(&artifact).unwrap();
    std::fs::write(&artifact, &whole[..whole.len() - 120]).unwrap();
    tree.bytekeep(Some(python()), ["repair", "--keep-bad", "evidence", "mod.py"]).run().exits(0);
    assert_eq!(std::fs::read(&artifact).unwrap(), whole);
    assert_eq!(all_below(&tree.path("evidence")).len(), 3, "a copy and its reports");
    let outcome = tree.bytekeep(Some(python()), ["repair", "--keep-bad", "no/such/place", "mod.py"]).run().exits(2);
    assert!(outcome.stderr.contains("no/such"), "{}", outcome.shown());
}
