//! Bad environments: variables, limits, streams, clocks and interpreters. The whole command, with real interpreters.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test's own files")]

#[path = "support/mod.rs"]
mod support;
#[path = "support/whole.rs"]
mod whole;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use support::Python;
use whole::{Tree, all_pythons, aloud, is_root, must, python, python_for_all, root_or_skip, set_mtime, two_pythons};

const NONE: [PathBuf; 0] = [];

// ---- variables

#[test]
fn a_home_is_not_needed() {
    let tree = Tree::new();
    std::fs::write(tree.outside("file"), b"").unwrap();
    let file = tree.outside("file").into_os_string().into_string().unwrap();
    for home in [None, Some(""), Some("relative"), Some("/dev/null"), Some("/proc/none"), Some(file.as_str())] {
        for _ in 0..2 {
            let run = tree.bytekeep(Some(python()), ["compile", "--force", "."]);
            let run = home
                .map_or_else(|| tree.bytekeep(Some(python()), ["compile", "--force", "."]).without("HOME"), |home| run.env("HOME", home));
            let outcome = run.run().exits(0);
            assert!(!outcome.stderr.contains("error"), "{home:?}: {}", outcome.shown());
        }
        tree.bytekeep(None, ["verify", "."]).without("HOME").run().exits(0);
    }
    assert!(!tree.path("relative").exists() && !tree.path(".cache").exists(), "nothing is remembered in the tree");
    for cache in ["relative", "/dev/null", file.as_str()] {
        tree.bytekeep(Some(python()), ["compile", "."]).env("XDG_CACHE_HOME", cache).run().exits(0);
    }
    if !root_or_skip("a home of somebody else") {
        return;
    }
    let Some(python) = python_for_all() else { return };
    tree.open_to_all();
    must("chown", &["-R".as_ref(), "65534:65534".as_ref(), tree.root().as_os_str()]);
    let outcome = tree.bytekeep(Some(python), ["compile", "--force", "."]).by_nobody().run().exits(0);
    assert!(!outcome.stderr.contains("error"), "{}", outcome.shown());
    assert_eq!(
        std::fs::read_dir(tree.home()).into_iter().flatten().filter(|entry| entry.as_ref().unwrap().file_name() != ".cache").count(),
        0
    );
}

#[test]
fn variables_of_python_change_nothing() {
    let nonsense = [
        ("PYTHONPATH", "."),
        ("PYTHONSTARTUP", "encodings.py"),
        ("PYTHONOPTIMIZE", "2"),
        ("PYTHONDONTWRITEBYTECODE", "1"),
        ("PYTHONHASHSEED", "nonsense"),
        ("PYTHONMALLOC", "nonsense"),
        ("PYTHONIOENCODING", "no-such-codec:nonsense"),
        ("PYTHONUTF8", "nonsense"),
        ("PYTHONINSPECT", "1"),
        ("PYTHONVERBOSE", "1"),
        ("PYTHONDEBUG", "1"),
        ("PYTHONUNBUFFERED", "1"),
        ("PYTHONWARNINGS", "error"),
        ("PYTHONTRACEMALLOC", "nonsense"),
        ("PYTHONPROFILEIMPORTTIME", "1"),
        ("PYTHONINTMAXSTRDIGITS", "nonsense"),
        ("PYTHONCASEOK", "1"),
        ("PYTHONPLATLIBDIR", "nonsense"),
        ("PYTHONEXECUTABLE", "/nonsense"),
        ("PYTHONDEVMODE", "1"),
        ("PYTHON_GIL", "nonsense"),
        ("PYTHONWARNDEFAULTENCODING", "1"),
        ("PYTHONNODEBUGRANGES", "1"),
        ("PYTHONSAFEPATH", ""),
        ("LC_ALL", "no_SUCH.locale"),
        ("LANG", "C"),
        ("COLUMNS", "nonsense"),
        ("TERM", "nonsense"),
    ];
    for python in two_pythons() {
        let tree = Tree::new();
        // Nothing of the tree is ever imported, whatever a variable or the working directory says.
        for name in ["encodings.py", "warnings.py", "linecache.py", "marshal.py", "site.py", "sitecustomize.py", "usercustomize.py"] {
            tree.old_file(name, b"open('/dev/null/pwned')\nVALUE = {'a', 'b', 'c'} == 1\n");
        }
        tree.old_file("warns.py", b"VALUE = '\\d' is 1\n");
        tree.old_file("good.py", b"VALUE = 42\nassert VALUE in {'x', 'y', 'z'} or True\n");
        let names: Vec<PathBuf> = whole::all_below(&tree.root());
        let bytes = || -> Vec<Vec<u8>> { names.iter().map(|name| std::fs::read(tree.artifact(name, python)).unwrap()).collect() };
        tree.compile(python).exits(0);
        let plain = bytes();
        let mut run = tree.bytekeep(Some(python), ["compile", "--force", "--format", "json", "."]);
        for (name, value) in nonsense {
            run = run.env(name, value);
        }
        run.run().exits(0);
        assert!(plain == bytes(), "the same source gives the same bytes by {}", python.tag);
        // A home of Python's that is none: the interpreter does not start, and that is said once.
        let outcome = tree.bytekeep(Some(python), ["compile", "--force", "."]).env("PYTHONHOME", "/nonsense").run();
        if outcome.code != Some(0) {
            let outcome = outcome.exits(2);
            assert_eq!(outcome.errors(), 1, "{}", outcome.shown());
            assert!(outcome.stderr.contains(python.path.to_str().unwrap()), "{}", outcome.shown());
        }
        assert!(plain == bytes());
        tree.verify().exits(0);
    }
}

#[test]
fn variables_of_ours_are_checked_as_options_are() {
    let tree = Tree::new();
    for (name, value) in
        [("BYTEKEEP_TIMEOUT", "soon"), ("BYTEKEEP_FORMAT", "xml"), ("UV_COMPILE_BYTECODE_TIMEOUT", "x"), ("PYC_INVALIDATION_MODE", "x")]
    {
        let outcome = tree.bytekeep(Some(python()), ["compile", "."]).env(name, value).run().exits(2);
        assert_eq!(outcome.errors(), 1, "{}", outcome.shown());
        assert!(outcome.stderr.contains(value), "{name}: {}", outcome.shown());
    }
    // An empty one counts as not set.
    let empty = [
        "BYTEKEEP_JOBS",
        "BYTEKEEP_PYCACHE_PREFIX",
        "BYTEKEEP_FORMAT",
        "BYTEKEEP_FORCE",
        "BYTEKEEP_EXCLUDE",
        "UV_COMPILE_BYTECODE_TIMEOUT",
    ];
    let run = empty.iter().fold(tree.bytekeep(Some(python()), ["compile", "."]), |run, name| run.env(name, ""));
    run.run().exits(0);
    tree.assert_good(python());
    let outcome = tree.bytekeep(Some(python()), ["compile", "."]).env("TMPDIR", "/no/such/place").run();
    assert!(matches!(outcome.code, Some(0 | 2)) && outcome.errors() <= 1, "{}", outcome.shown());
    assert!(outcome.code == Some(0) || outcome.stderr.contains("/no/such/place"), "{}", outcome.shown());
    // The interpreter is known by now, and its workers need the directory as well.
    tree.compile(python()).exits(0);
    let outcome = tree.bytekeep(Some(python()), ["compile", "--force", "."]).env("TMPDIR", "/no/such/place").run().exits(2);
    assert!(outcome.stderr.contains("/no/such/place") && outcome.stderr.contains("is TMPDIR writable?"), "{}", outcome.shown());
    assert_eq!(outcome.errors(), 1, "{}", outcome.shown());
    tree.bytekeep(Some(python()), ["compile", "."]).env("TZ", "nonsense").env("CACHE_DIRECTORY", "a:b").run().exits(0);
}

/// It came with 3.8: who is older looks beside the sources, whatever is set.
#[test]
fn a_prefix_is_for_those_that_know_it() {
    let knows = |python: &Python| python.version >= (3, 8);
    for python in all_pythons() {
        let tree = Tree::new();
        let prefix = tree.outside("prefix");
        let outcome = tree.bytekeep(Some(python), ["compile", "good.py"]).arg("--pycache-prefix").arg(&prefix).run();
        if knows(python) {
            let outcome = outcome.exits(0);
            assert!(prefix.exists() && !tree.artifact("good.py", python).exists(), "{}", outcome.shown());
            std::fs::remove_dir_all(&prefix).unwrap();
        } else {
            let outcome = outcome.exits(2);
            assert!(outcome.stderr.contains("knows no pycache prefix") && outcome.errors() == 1, "{}", outcome.shown());
        }
        tree.bytekeep(Some(python), ["compile", "good.py"]).env("PYTHONPYCACHEPREFIX", &prefix).run().exits(0);
        assert_eq!(prefix.exists(), knows(python), "{}", python.tag);
        if !knows(python) {
            tree.assert_good(python);
            let verified = tree.bytekeep(Some(python), ["verify", "--complete", "."]).env("PYTHONPYCACHEPREFIX", &prefix).run().exits(0);
            assert!(verified.stderr.contains("1 ok"), "{}", verified.shown());
        }
    }
    let old = all_pythons().iter().find(|python| !knows(python));
    let (Some(old), true) = (old, knows(python())) else {
        aloud("SKIP: there are no interpreters with and without a pycache prefix");
        return;
    };
    let tree = Tree::new();
    let run = tree.bytekeep(Some(python()), ["compile", "."]).arg("--python").arg(&old.path);
    let outcome = run.env("PYTHONPYCACHEPREFIX", tree.outside("prefix")).run().exits(2);
    assert!(outcome.stderr.contains("PYTHONPYCACHEPREFIX") && outcome.stderr.contains(&old.tag), "{}", outcome.shown());
    assert_eq!(whole::all_below(&tree.root()), [tree.path("good.py")]);
}

#[test]
fn the_prefix_and_an_artifact_in_it_can_be_named() {
    let tree = Tree::new();
    let prefix = tree.outside("prefix");
    let run = |args: &[&str], path: &std::path::Path| {
        tree.bytekeep(Some(python()), args.iter().copied()).arg("--pycache-prefix").arg(&prefix).arg(path).run()
    };
    run(&["compile"], &tree.root()).exits(0);
    let artifact = whole::all_below(&prefix).into_iter().find(|path| path.is_file()).unwrap();
    let whole = std::fs::read(&artifact).unwrap();
    std::fs::write(&artifact, &whole[..whole.len() / 2]).unwrap();
    for named in [&prefix, &artifact] {
        let told = run(&["verify"], named).exits(1);
        assert!(told.stderr.contains("1 truncated"), "{}", told.shown());
    }
    run(&["repair"], &prefix).exits(0);
    assert_eq!(std::fs::read(&artifact).unwrap(), whole);
    assert!(run(&["verify"], &artifact).exits(0).stderr.contains("1 ok"));
    let inside = run(&["verify"], artifact.parent().unwrap()).exits(0);
    assert!(inside.stderr.contains("lies in the pycache prefix"), "{}", inside.shown());
}

/// A prefix is wholly ours: with the last artifact of a directory go the directories that were made for it, and a tree that a dead process
/// was removing goes as well. What another tool keeps there stays.
#[test]
fn a_cleaned_prefix_is_empty() {
    let tree = Tree::new();
    let prefix = tree.outside("prefix");
    let run = |command, path: Option<&std::path::Path>| {
        let python = (command == "compile").then(python);
        let run = tree.bytekeep(python, [command]).arg("--pycache-prefix").arg(&prefix);
        path.into_iter().fold(run, whole::Run::arg).run().exits(0)
    };
    let root = tree.root();
    for path in [None, Some(&*root)] {
        run("compile", Some(&root));
        let top = prefix.join(root.strip_prefix("/").unwrap());
        for stale in [prefix.join(".bytekeep-a1.old"), top.join(".bytekeep-b2.old")].iter().take(if path.is_none() { 2 } else { 0 }) {
            std::fs::create_dir_all(stale.join("a")).unwrap();
            std::fs::write(stale.join("a/half.pyc"), "half").unwrap();
            let old = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
            std::fs::File::open(stale).unwrap().set_modified(old).unwrap();
        }
        let told = run("clean", path);
        assert_eq!(std::fs::read_dir(&prefix).unwrap().count(), 0, "{:?} {}", whole::all_below(&prefix), told.shown());
    }
    run("compile", Some(&root));
    let theirs = prefix.join(root.strip_prefix("/").unwrap()).join("test_x.cpython-313-pytest-8.0.0.pyc");
    std::fs::write(&theirs, "pytest's").unwrap();
    run("clean", None);
    let left: Vec<_> = whole::all_below(&prefix).into_iter().filter(|path| path.is_file()).collect();
    assert_eq!(left, [theirs]);
}

/// As the system reads it: from what is not there, `..` leads nowhere, until `compile` has made it as Python would.
#[test]
fn a_prefix_whose_path_leads_nowhere() {
    let tree = Tree::new();
    let real = tree.outside("real");
    let around = tree.outside("made").join("../real");
    let run = |command, prefix: &std::path::Path| {
        tree.bytekeep(Some(python()).filter(|_| command != "clean"), [command, "."]).arg("--pycache-prefix").arg(prefix).run()
    };
    assert!(run("verify", &around).exits(0).stderr.contains("0 entries"));
    run("compile", &around).exits(0);
    for prefix in [&around, &real] {
        let told = run("verify", prefix).exits(0);
        assert!(told.stderr.contains("1 ok"), "{}", told.shown());
    }
    let dangling = tree.outside("dangling");
    std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
    for prefix in [dangling.clone(), dangling.join("below")] {
        for command in ["compile", "verify", "status", "repair", "clean"] {
            let told = run(command, &prefix).exits(2);
            assert!(told.stderr.contains("leads nowhere") && told.errors() == 1, "{command}: {}", told.shown());
        }
    }
    assert!(dangling.is_symlink() && !tree.outside("nowhere").exists());
}

#[test]
fn of_several_cache_directories_the_first_one_counts() {
    let tree = Tree::new();
    let (one, two) = (tree.outside("one"), tree.outside("two"));
    let both = format!("{}:{}", one.display(), two.display());
    // Something that is no script: a script is asked each time and not remembered.
    tree.bytekeep(Some(python()), ["compile", "."]).env("CACHE_DIRECTORY", both).without("BYTEKEEP_STORE").run().exits(0);
    assert!(one.join("interpreters-3.json").is_file() && !two.exists());
    assert!(!tree.outside("one:").exists() && !tree.home().join(".cache").exists());
}

/// What `sudo` makes of it: root, with the home of the user who called.
#[test]
fn root_leaves_nothing_in_the_home_of_a_user() {
    use std::os::unix::fs::{MetadataExt, chown};
    if !root_or_skip("a home of somebody else") {
        return;
    }
    let tree = Tree::new();
    std::fs::create_dir_all(tree.outside("roots")).unwrap();
    let home = tree.outside("home");
    std::fs::create_dir_all(&home).unwrap();
    chown(&home, Some(1234), Some(1234)).unwrap();
    let run = || tree.bytekeep(Some(python()), ["compile", "--force", "."]).env("HOME", &home).run().exits(0);
    let outcome = run();
    assert!(!outcome.stderr.contains("error"), "{}", outcome.shown());
    assert_eq!(std::fs::read_dir(&home).unwrap().count(), 0);
    symlink(tree.outside("roots"), home.join(".cache")).unwrap();
    run();
    assert_eq!(std::fs::read_dir(tree.outside("roots")).unwrap().count(), 0, "led astray by a user's link");
    assert_eq!(std::fs::metadata(&home).unwrap().uid(), 1234);
}

/// A user who may write a directory gives the lock file's name to a file of root's, and waits for root to come by.
#[test]
fn a_hard_link_as_lock_file_gives_nothing_away() {
    let tree = Tree::new();
    tree.file("folder/one.py", b"x = 1\n");
    let victim = tree.outside("victim");
    std::fs::write(&victim, b"precious").unwrap();
    std::fs::create_dir_all(tree.path("folder/__pycache__")).unwrap();
    let lock = tree.path("folder/__pycache__/.bytekeep.lock");
    std::fs::hard_link(&victim, &lock).unwrap();
    for command in ["compile", "repair", "clean"] {
        let outcome = tree.bytekeep(Some(python()), [command, "folder"]).run();
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious", "{command}: {}", outcome.shown());
    }
    let outcome = tree.bytekeep(Some(python()), ["compile", "folder"]).run().exits(1);
    assert!(outcome.stderr.contains("it has other names"), "{}", outcome.shown());
    std::fs::remove_file(&lock).unwrap();
    tree.bytekeep(Some(python()), ["compile", "folder"]).run().exits(0);
}

#[test]
fn a_reproducible_build_gets_hashes() {
    for python in two_pythons() {
        let tree = Tree::new();
        let run = || tree.bytekeep(Some(python), ["compile", "--format", "json", "."]).env("SOURCE_DATE_EPOCH", "315532800").run();
        run().exits(0).is("good.py", "missing", "built");
        let bytes = std::fs::read(tree.artifact("good.py", python)).unwrap();
        let flags = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
        if python.version >= (3, 7) {
            assert_eq!(flags, 3, "checked by hash: {}", python.tag);
        }
        run().exits(0).is("good.py", "ok", "none");
        tree.assert_good(python);
        tree.verify().exits(0);
        set_mtime(&tree.path("good.py"), 1_000_000_000);
        if python.version >= (3, 7) {
            run().exits(0).is("good.py", "ok", "none");
            tree.assert_good(python);
        }
        let outcome = tree.bytekeep(None, ["verify", "--for-image", "."]).run();
        assert!(python.version < (3, 7) || outcome.code == Some(0), "{}", outcome.shown());
    }
}

#[test]
fn times_far_from_now() {
    let within = [0, 1, 315_532_800, 2_147_483_647, 2_147_483_648, 4_000_000_000, 4_294_967_295];
    let beyond = [4_294_967_296, 6_000_000_000, -1, -86_400];
    for python in two_pythons() {
        // Before 3.7 a time that does not fit into the header never agrees with it: see the next test.
        let beyond = if python.version >= (3, 7) { &beyond[..] } else { &[] };
        let times: Vec<i64> = within.iter().chain(beyond).copied().collect();
        let tree = Tree::new();
        for (number, time) in times.iter().copied().enumerate() {
            set_mtime(&tree.file(format!("at{number}.py"), b"VALUE = 1\n"), time);
        }
        let outcome = tree.compile(python).exits(0);
        assert_eq!(outcome.actions("built"), times.len() as u64 + 1, "{}", outcome.shown());
        tree.verify().exits(0);
        for (number, time) in times.iter().copied().enumerate() {
            assert_eq!(tree.import(python, &format!("at{number}")), "1", "{time} by {}", python.tag);
        }
        // Sources of the future are compared by their bytes each time; that is no reason to write anything.
        let outcome = tree.compile(python).exits(0);
        assert_eq!(outcome.actions("none"), times.len() as u64 + 1, "{}", outcome.shown());
        for number in 0..times.len() {
            let path = tree.path(format!("at{number}.py"));
            let time = std::fs::metadata(&path).unwrap().modified().unwrap();
            std::fs::write(&path, b"VALUE = 2\n").unwrap();
            std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_modified(time).unwrap();
        }
        let verified = tree.verify().exits(1);
        assert_eq!(verified.verdicts("silently-stale"), times.len() as u64, "{}", verified.shown());
        tree.bytekeep(Some(python), ["repair", "."]).run().exits(0);
        tree.verify().exits(0);
        assert_eq!(tree.import(python, "at0"), "2");
    }
}

/// Interpreters before 3.7 compile some sources at every import, whatever is cached. It is told of these, and of no others; and there is
/// nothing to be done about them again and again.
#[test]
fn times_that_a_header_cannot_keep() {
    let times = [0, 2_147_483_647, 2_147_483_648, 4_294_967_295, 4_294_967_296, 6_000_000_000, 7_000_000_000, -1, -2, -86_400];
    for python in all_pythons().iter().filter(|python| python.version < (3, 7) && !python.pypy) {
        let tree = Tree::new();
        let sources: Vec<_> = (0..times.len()).map(|number| tree.path(format!("at{number}.py"))).collect();
        let write = |content: &[u8]| {
            for (path, time) in sources.iter().zip(times) {
                std::fs::write(path, content).unwrap();
                set_mtime(path, time);
            }
        };
        write(b"VALUE = 1\n");
        let all = times.len() as u64 + 1;
        assert_eq!(tree.compile(python).exits(0).actions("built"), all);
        let again = tree.compile(python).exits(0);
        assert_eq!(again.actions("none"), all, "{}", again.shown());
        let verified = tree.verify().exits(0);
        for (number, time) in times.into_iter().enumerate() {
            let (cached, value) = tree.import_anyhow(python, &format!("at{number}"));
            let entry = verified.entry(&format!("at{number}.py"));
            assert_eq!((&entry["verdict"], value.as_str()), (&"ok".into(), "1"), "{time} by {}", python.tag);
            assert_eq!(entry["cause"]["code"] == "time", !cached, "{time} by {}: {entry}", python.tag);
        }
        let told = tree.bytekeep(None, ["verify", "."]).run().exits(0);
        assert!(told.stderr.contains("at every import") && told.stderr.contains("give the source another time"), "{}", told.shown());
        // What is not used hides no edit, and what is used does.
        write(b"VALUE = 2\n");
        let edited = tree.verify().exits(1);
        for number in 0..times.len() {
            let used = verified.entry(&format!("at{number}.py"))["cause"].is_null();
            let name = format!("at{number}.py");
            assert_eq!(edited.entry(&name)["verdict"], if used { "silently-stale" } else { "stale" }, "{name} by {}", python.tag);
        }
        tree.bytekeep(Some(python), ["repair", "."]).run().exits(0);
        tree.verify().exits(0);
    }
}

// ---- streams and limits

#[test]
fn closed_and_broken_streams_are_no_panic() {
    let tree = Tree::new();
    for number in 0..1500 {
        std::fs::write(tree.path(format!("a_module_with_a_rather_long_name_{number}.py")), b"").unwrap();
    }
    tree.bytekeep(Some(python()), ["compile", "--durability", "none", "."]).run().exits(0);
    for line in ["\"$@\" >&-", "\"$@\" 2>&-", "\"$@\" <&- >&- 2>&-", "\"$@\" >/dev/null 2>/dev/full"] {
        tree.bytekeep(None, ["verify", "-v", "."]).by_shell(line).run().exits(0);
        tree.bytekeep(Some(python()), ["compile", "--format", "json", "good.py", "--force"]).by_shell(line).run().exits(0);
        tree.assert_good(python());
    }
    // Readers who leave early.
    for words in [&["verify", "-v", "."][..], &["verify", "--format", "json", "."], &["completions", "bash"], &["compile", "--help"]] {
        let line = "\"$@\" | head -n 1; exit \"${PIPESTATUS[0]}\"";
        let outcome = tree.bytekeep(None, words.iter().copied()).by_shell(line).run().exits(0);
        assert_eq!(outcome.stdout.lines().count(), 1, "{}", outcome.shown());
        assert!(!outcome.stderr.contains("Broken pipe"), "{}", outcome.shown());
    }
    let outcome =
        tree.bytekeep(None, ["verify", "-v", "."]).by_shell("\"$@\" 2>&1 >/dev/null | head -c 1; exit \"${PIPESTATUS[0]}\"").run();
    outcome.exits(0);
    // What was asked for and cannot be written is told.
    let outcome = tree.bytekeep(None, ["verify", "-v", "."]).by_shell("\"$@\" >/dev/full").run().exits(1);
    assert!(outcome.stderr.contains("cannot write to standard output") && outcome.stderr.contains("storage space"), "{}", outcome.shown());
    for words in [&["--help"][..], &["--version"], &["compile", "--help"], &["completions", "bash"]] {
        let outcome = tree.bytekeep(None, words.iter().copied()).by_shell("\"$@\" >/dev/full").run().exits(1);
        assert!(outcome.stderr.contains("cannot write to standard output"), "{words:?}: {}", outcome.shown());
    }
}

#[test]
fn few_descriptors_make_it_slow_and_nothing_else() {
    for limit in [16, 24, 64] {
        let tree = Tree::new();
        for number in 0..40 {
            tree.file(format!("pkg{}/deeper/m{number}.py", number % 9), b"VALUE = 1\n");
        }
        let line = format!("ulimit -n {limit}; \"$@\"");
        let outcome = tree.bytekeep(Some(python()), ["compile", "--format", "json", "."]).by_shell(&line).run().exits(0);
        assert_eq!(outcome.actions("built"), 41, "{}", outcome.shown());
        let outcome = tree.bytekeep(None, ["verify", "--format", "json", "."]).by_shell(&line).run().exits(0);
        assert_eq!(outcome.verdicts("ok"), 41, "{}", outcome.shown());
        tree.assert_good(python());
        tree.bytekeep(None, ["clean", "."]).by_shell(&line).run().exits(0);
        assert_eq!(tree.litter(), NONE);
    }
}

/// One worker of one interpreter is all that there is room for: they give way to one another.
#[test]
fn several_interpreters_share_few_descriptors() {
    let all: Vec<_> = all_pythons().iter().filter(|python| python.version.0 == 3).collect();
    for (count, limit) in [(2, 16), (3, 16), (3, 24), (all.len(), 48)] {
        if all.len() < count {
            aloud(&format!("SKIP: there are no {count} interpreters"));
            continue;
        }
        let tree = Tree::new();
        for number in 0..12 {
            tree.file(format!("pkg{}/m{number}.py", number % 3), b"VALUE = 1\n");
        }
        let line = format!("ulimit -n {limit}; \"$@\"");
        let mut run = tree.bytekeep(None, ["compile", "--jobs", "4", "--format", "json", "."]);
        for python in &all[all.len() - count..] {
            run = run.arg("--python").arg(&python.path);
        }
        let outcome = run.by_shell(&line).run().exits(0);
        assert_eq!(outcome.actions("built"), 13 * count as u64, "{count} with {limit}: {}", outcome.shown());
        all[all.len() - count..].iter().for_each(|python| tree.assert_good(python));
    }
}

/// Where not even one worker can be started, each entry says so; and not each of them after a long time.
#[test]
fn too_few_descriptors_for_any_worker_are_told() {
    let tree = Tree::new();
    // What the interpreter is must be known: asking it takes as many.
    tree.compile(python()).exits(0);
    for number in 0..40 {
        tree.file(format!("m{number}.py"), b"VALUE = 1\n");
    }
    let outcome = tree.bytekeep(Some(python()), ["compile", "--format", "json", "."]).by_shell("ulimit -n 9; \"$@\"").run().exits(1);
    assert_eq!((outcome.actions("failed"), outcome.actions("built")), (40, 0), "{}", outcome.shown());
    outcome.fails("m7.py", "descriptors", &["Too many open files"]);
    assert_eq!(tree.litter(), NONE);
}

/// Each directory that is worked on holds descriptors, so many small ones want more than they may have.
#[test]
fn many_small_directories_get_by_with_usual_limits() {
    for limit in [256, 400, 1024] {
        let tree = Tree::new();
        for number in 0..600 {
            tree.file(format!("pkg{number}/m.py"), b"VALUE = 1\n");
        }
        let line = format!("ulimit -n {limit}; \"$@\"");
        let outcome = tree.bytekeep(Some(python()), ["compile", "--format", "json", "."]).by_shell(&line).run().exits(0);
        assert_eq!(outcome.actions("built"), 601, "{limit}");
        let outcome = tree.bytekeep(None, ["verify", "--format", "json", "."]).by_shell(&line).run().exits(0);
        assert_eq!(outcome.verdicts("ok"), 601, "{limit}");
    }
}

#[test]
fn a_limit_on_file_sizes_is_an_error_of_what_is_too_large() {
    let tree = Tree::new();
    tree.file("large.py", format!("VALUE = 1\nTEXT = '{}'\n", "x".repeat(40_000)).as_bytes());
    let run =
        |format: &'static str| tree.bytekeep(Some(python()), ["compile", "--format", format, "."]).by_shell("ulimit -f 8; \"$@\"").run();
    let outcome = run("json").exits(1);
    outcome.fails("large.py", "file-size-limit", &["File too large"]);
    assert_eq!(outcome.wrong(), 1, "{}", outcome.shown());
    tree.assert_good(python());
    let outcome = run("human").exits(1);
    assert!(outcome.stderr.contains("large.py") && outcome.stderr.contains("ulimit -f"), "{}", outcome.shown());
    assert_eq!(tree.litter(), NONE);
    tree.compile(python()).exits(0);
}

// ---- interpreters

#[test]
fn an_interpreter_that_cannot_be_used_is_one_clear_error() {
    let tree = Tree::new();
    let real = python().path.display().to_string();
    let posing = |version: &str| {
        format!(
            "#!{real} -S\nimport sys\nsys.version_info = {version}\nat = sys.argv.index('-c')\nprogram = sys.argv[at + 1]\n\
             sys.argv = ['-c'] + sys.argv[at + 2:]\nexec(program, {{'__name__': '__main__'}})\n"
        )
    };
    std::fs::write(tree.outside("plain"), "no program\n").unwrap();
    std::fs::write(tree.outside("gone.txt"), "").unwrap();
    symlink("no-target", tree.outside("dangling")).unwrap();
    let outside = |name: &str| tree.outside(name).into_os_string().into_string().unwrap();
    let rows: Vec<(String, &str)> = vec![
        (outside("missing"), "there is no interpreter"),
        (outside("dangling"), "there is no interpreter"),
        ("no-such-python".into(), "there is no interpreter"),
        ("3.99".into(), "python3.99"),
        ("2.6".into(), "python2.6"),
        (outside("plain"), "plain"),
        (tree.root().into_os_string().into_string().unwrap(), "tree"),
        ("/dev/null".into(), "/dev/null"),
        ("/bin/true".into(), "/bin/true"),
        ("/bin/false".into(), "exit status 1"),
        (tree.script("silent", "#!/bin/sh\nexit 0\n"), "silent"),
        (tree.script("loud", "#!/bin/sh\necho it is broken >&2\nexit 3\n"), "it is broken"),
        (tree.script("liar", "#!/bin/sh\necho '{\"version\": 1}'\n"), "liar"),
        (tree.script("killed", "#!/bin/sh\nkill -SEGV $$\n"), "killed"),
        (tree.script("endless", "#!/bin/sh\nexec yes\n"), "endless"),
        (tree.script("nowhere", "#!/no/such/python\n"), "nowhere"),
        (tree.script("garbage", "\x7fELF garbage"), "garbage"),
        (tree.script("old", &posing("(3, 5, 10, 'final', 0)")), "3.5.10"),
        (tree.script("older", &posing("(3, 2, 6, 'final', 0)")), "3.2.6"),
    ];
    for (spec, told) in rows {
        let outcome = tree.bytekeep(None, ["compile", "--python", &spec, "."]).run().exits(2);
        assert_eq!(outcome.errors(), 1, "{}", outcome.shown());
        assert!(outcome.stderr.contains(told), "{spec}: {}", outcome.shown());
        assert!(outcome.stderr.lines().count() <= 6, "{spec}: {}", outcome.shown());
        assert!(!tree.path("__pycache__").exists(), "{spec}");
        // A good one beside it does not help: nothing is done.
        tree.bytekeep(Some(python()), ["compile", "--python", &spec, "."]).run().exits(2);
    }
    // One that answers as Python does and then does not work.
    let turncoat =
        format!("#!/bin/sh\nif [ -e '{0}' ]; then exit 7; fi\n'{real}' \"$@\"\nstatus=$?\n: >'{0}'\nexit $status\n", outside("asked"));
    let turncoat = tree.script("turncoat", &turncoat);
    let outcome = tree.bytekeep(None, ["compile", "--python", &turncoat, "."]).run().exits(2);
    assert!(outcome.stderr.contains("turncoat") && outcome.errors() == 1, "{}", outcome.shown());
    assert_eq!(tree.litter(), NONE);
    // No interpreter at all: whoever compiles needs one, whoever finds nothing to compile or only verifies does not.
    for path in ["", "/no/such/place"] {
        let outcome = tree.bytekeep(None, ["compile", "."]).env("PATH", path).run().exits(2);
        assert!(outcome.errors() == 1 && outcome.stderr.contains("--python"), "{}", outcome.shown());
    }
    tree.bytekeep(Some(python()), ["compile", "."]).run().exits(0);
    for path in ["", "/no/such/place"] {
        let outcome = tree.bytekeep(None, ["compile", "."]).env("PATH", path).run().exits(0);
        assert!(outcome.errors() == 0 && outcome.stderr.contains("nothing is compiled"), "{}", outcome.shown());
        for command in ["verify", "status", "clean", "seal"] {
            tree.bytekeep(None, [command, "--exclude", "good.py", "."]).env("PATH", path).run().exits(0);
        }
        tree.bytekeep(None, ["verify", "."]).env("PATH", path).run().exits(0);
    }
}

#[test]
fn an_old_python_that_is_supported_is_no_error() {
    let Some(old) = whole::all_pythons().iter().find(|python| python.version.0 == 2) else {
        aloud("SKIP: there is no Python 2.7");
        return;
    };
    let tree = Tree::new();
    tree.file("printed.py", b"print 'two'\nVALUE = 1\n");
    tree.compile(old).exits(0);
    assert!(tree.path("good.pyc").is_file() && !tree.path("__pycache__").exists());
    tree.assert_good(old);
    tree.compile(python()).exits(1).fails("printed.py", "source", &["printed.py\", line 1", "print 'two'"]);
    tree.assert_good(python());
    let outcome = tree.verify().exits(0);
    assert_eq!(outcome.verdicts("ok"), 3, "{}", outcome.shown());
}

#[test]
fn root_starts_no_interpreter_that_others_can_write() {
    if !is_root() {
        aloud("SKIP: root's rule on interpreters: only root has it");
        return;
    }
    let tree = Tree::new();
    tree.open_to_all();
    let mark = tree.outside("started");
    let text = format!("#!/bin/sh\n: >'{}'\nexec '{}' \"$@\"\n", mark.display(), python().path.display());
    tree.file("venv/pyvenv.cfg", b"home = /usr/bin\n");
    tree.file("venv/lib/mod.py", b"VALUE = 1\n");
    let executable = tree.file("venv/bin/python", text.as_bytes());
    std::fs::set_permissions(&executable, std::fs::Permissions::from_mode(0o755)).unwrap();
    let allow = |mode| std::fs::set_permissions(&executable, std::fs::Permissions::from_mode(mode)).unwrap();
    let bin = tree.path("venv/bin");
    let chown = |who: &str, path: &Path| must("chown", &["-h".as_ref(), who.as_ref(), path.as_os_str()]);
    let refused = |what: &str| {
        let outcome = tree.bytekeep(None, ["compile", "venv"]).run().exits(2);
        assert_eq!(outcome.errors(), 1, "{what}: {}", outcome.shown());
        assert!(outcome.stderr.contains("--python") && outcome.stderr.contains("venv/bin/python"), "{what}: {}", outcome.shown());
        assert!(!mark.exists(), "{what}: it was started all the same");
    };
    allow(0o757);
    refused("a file that all can write");
    allow(0o775);
    refused("a file that its group can write");
    allow(0o755);
    chown("65534", &executable);
    refused("a file of somebody else");
    chown("0", &executable);
    chown("65534", &bin);
    refused("a directory of somebody else");
    chown("0", &bin);
    std::fs::set_permissions(&bin, std::fs::Permissions::from_mode(0o777)).unwrap();
    refused("a directory that all can write");
    std::fs::set_permissions(&bin, std::fs::Permissions::from_mode(0o755)).unwrap();
    let away = bin.join("real");
    std::fs::rename(&executable, &away).unwrap();
    symlink("real", &executable).unwrap();
    chown("65534", &executable);
    refused("a link of somebody else");
    // By name it is the caller's own word.
    let outcome = tree.bytekeep(None, ["compile", "--python", "venv/bin/python", "venv"]).run().exits(0);
    assert!(mark.exists() && outcome.stderr.contains("Compiled 1 "), "{}", outcome.shown());
    std::fs::remove_file(&mark).unwrap();
    // And what nobody else can write needs no word.
    chown("0", &executable);
    tree.bytekeep(None, ["compile", "--force", "venv"]).run().exits(0);
    assert!(mark.exists());
}

#[test]
fn threads_that_cannot_be_had_are_told_and_nobody_waits_for_them() {
    let tools = ["setpriv", "prlimit"];
    if !root_or_skip("a limit on processes") || !tools.into_iter().all(whole::tool_or_skip) {
        return;
    }
    let tree = Tree::new();
    tree.file("pkg/mod.py", b"VALUE = 1\n");
    // The limit is the real user's, and root's own processes are not limited.
    for limit in 1..6 {
        let line = format!(
            "exec timeout -k 1 60 setpriv --ruid 54398 --bounding-set=-sys_resource,-sys_admin prlimit --nproc={limit}:{limit} \"$@\""
        );
        let outcome = tree.bytekeep(Some(python()), ["compile", "--force", "."]).by_shell(&line).run();
        assert!(matches!(outcome.code, Some(0..=2)), "{limit}: {}", outcome.shown());
        assert!(!outcome.stderr.contains("panicked"), "{limit}: {}", outcome.shown());
        if outcome.code != Some(0) {
            assert!(outcome.stderr.contains("Resource temporarily unavailable"), "{limit}: {}", outcome.shown());
        }
    }
    tree.compile(python()).exits(0);
    tree.assert_good(python());
    assert_eq!(tree.litter(), NONE);
}
