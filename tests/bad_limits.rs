//! Too little of something: descriptors, threads, memory, time, the size of a file. The whole command, with real interpreters.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test's own files")]

#[path = "support/mod.rs"]
mod support;
#[path = "support/whole.rs"]
mod whole;

use std::path::PathBuf;

use whole::{Tree, all_pythons, aloud, python, root_or_skip};

const NONE: [PathBuf; 0] = [];

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

/// Every directory that was named held a descriptor from the start.
#[test]
fn more_directories_can_be_named_than_opened() {
    let tree = Tree::new();
    for number in 0..80 {
        tree.file(format!("pkg{number}/mod.py"), b"VALUE = 1\n");
    }
    let listed: Vec<String> = (0..80).map(|number| format!("pkg{number}/mod.py\n")).collect();
    tree.file("list", listed.concat().as_bytes());
    for limit in [16, 24, 64] {
        let line = |words: &str| format!("ulimit -n {limit}; \"$@\" {words}");
        let compile = ["compile", "--force", "--format", "json"];
        for words in ["--files-from list", "pkg*", "pkg*/mod.py"] {
            let outcome = tree.bytekeep(Some(python()), compile).by_shell(&line(words)).run().exits(0);
            assert_eq!(outcome.actions("built"), 80, "{limit} {words}: {}", outcome.shown());
        }
        let outcome = tree.bytekeep(None, ["verify", "--format", "json"]).by_shell(&line("pkg*/__pycache__")).run().exits(0);
        assert_eq!(outcome.verdicts("ok"), 80, "{limit}: {}", outcome.shown());
    }
}

/// Folders that waited for their locks kept what descriptors there were, and the run never ended.
#[test]
fn more_folders_may_be_locked_than_can_be_open() {
    let tree = Tree::new();
    for number in 0..8 {
        tree.file(format!("pkg{number}/mod.py"), b"VALUE = 1\n");
    }
    tree.compile(python()).exits(0);
    let locks: Vec<_> = (0..8)
        .map(|number| {
            let file = std::fs::File::create(tree.path(format!("pkg{number}/__pycache__/.bytekeep.lock"))).unwrap();
            file.lock().unwrap();
            file
        })
        .collect();
    let words = ["compile", "--force", "--lock-timeout", "0.2", "--format", "json", "."];
    let outcome = tree.bytekeep(Some(python()), words).by_shell("ulimit -n 16; \"$@\"").run().exits(1);
    assert_eq!((outcome.actions("skipped"), outcome.entries().count()), (8, 9), "{}", outcome.shown());
    drop(locks);
    tree.bytekeep(Some(python()), words).by_shell("ulimit -n 16; \"$@\"").run().exits(0);
}

/// A time limit too large for the clock was a panic.
#[test]
fn a_limit_beyond_all_time_is_no_limit() {
    let tree = Tree::new();
    tree.bytekeep(Some(python()), ["compile", "--max-time", "1e19", "."]).run().exits(0);
    tree.assert_good(python());
}

/// A hard limit of memory below our own made every worker fail to start.
#[test]
fn a_hard_limit_of_memory_is_kept_to() {
    let tree = Tree::new();
    tree.bytekeep(Some(python()), ["compile", "."]).by_shell("ulimit -v 3000000; \"$@\"").run().exits(0);
    tree.assert_good(python());
}

/// Limits of less than a second were told as one, and others were cut to whole seconds.
#[test]
fn a_limit_is_told_as_it_was_given() {
    let tree = Tree::new();
    tree.file("slow.py", format!("x = {}\n", vec!["(1,) * 99"; 300_000].join(" + ")).as_bytes());
    let late = tree.bytekeep(Some(python()), ["compile", "--timeout", "0.01", "slow.py"]).run().exits(1);
    assert!(late.stderr.contains("longer than 0.01 s"), "{}", late.shown());
    tree.file("__pycache__/.bytekeep.lock", b"");
    let line = "exec 9<>__pycache__/.bytekeep.lock; flock 9; \"$@\" 9>&-";
    if whole::tool_or_skip("flock") {
        let locked = tree.bytekeep(Some(python()), ["compile", "--lock-timeout", "0.2", "good.py"]).by_shell(line).run().exits(1);
        assert!(locked.stderr.contains("locked for 0.2 s"), "{}", locked.shown());
    }
}

/// A sparse artifact took as much memory as it was long, and where there was none the process was aborted.
#[test]
fn a_large_artifact_is_no_reason_to_leave_out_the_others() {
    let tree = Tree::new();
    tree.file("large.py", b"VALUE = 1\n");
    let large = tree.artifact("large.py", python());
    for size in [190 << 20, 900 << 20] {
        tree.compile(python()).exits(0);
        std::fs::OpenOptions::new().write(true).open(&large).unwrap().set_len(size).unwrap();
        let limited = |words: &[&'static str]| tree.bytekeep(None, words.iter().copied()).by_shell("ulimit -v 180000; \"$@\"").run();
        let verified = limited(&["verify", "--format", "json", "."]).exits(1);
        verified.is("good.py", "ok", "none");
        if size > 192 << 20 {
            verified.is("large.py", "corrupt", "none");
        } else {
            verified.fails("large.py", "memory", &["large.", "out of memory"]);
        }
        tree.bytekeep(Some(python()), ["repair", "."]).run().exits(0);
        tree.verify().exits(0);
    }
}
