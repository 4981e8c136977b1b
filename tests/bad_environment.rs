//! Bad environments: variables, homes, streams and clocks. The whole command, with real interpreters.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test's own files")]

#[path = "support/mod.rs"]
mod support;
#[path = "support/whole.rs"]
mod whole;

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use whole::{Tree, all_pythons, must, python, python_for_all, root_or_skip, set_mtime, two_pythons};

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
    // As Python's own `tempfile`, which takes another place then.
    let outcome = tree.bytekeep(Some(python()), ["compile", "--force", "."]).env("TMPDIR", "/no/such/place").run().exits(0);
    assert_eq!(outcome.errors(), 0, "{}", outcome.shown());
    let outcome = tree.bytekeep(Some(python()), ["compile", "-v", "--force", "."]).env("TMPDIR", "/no/such/place").run().exits(0);
    assert!(outcome.stderr.contains("TMPDIR cannot be used") && outcome.stderr.contains("/no/such/place"), "{}", outcome.shown());
    tree.assert_good(python());
    tree.bytekeep(Some(python()), ["compile", "."]).env("TZ", "nonsense").env("CACHE_DIRECTORY", "a:b").run().exits(0);
}

#[test]
fn of_several_cache_directories_the_first_one_counts() {
    let tree = Tree::new();
    let (one, two) = (tree.outside("one"), tree.outside("two"));
    let both = format!("{}:{}", one.display(), two.display());
    // Something that is no script: a script is asked each time and not remembered.
    tree.bytekeep(Some(python()), ["compile", "."]).env("CACHE_DIRECTORY", both).without("BYTEKEEP_STORE").run().exits(0);
    assert!(one.join("interpreters-4.json").is_file() && !two.exists());
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
