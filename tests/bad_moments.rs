//! Bad moments: interrupted, out of time, killed, and locked out by others. The whole command, with real interpreters.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test's own files")]

#[path = "support/mod.rs"]
mod support;
#[path = "support/whole.rs"]
mod whole;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use whole::{Tree, must, python, tool_or_skip};

const NONE: [PathBuf; 0] = [];

// ---- signals

/// A tree that takes several seconds to compile.
fn slow_tree() -> Tree {
    let tree = Tree::new();
    for number in 0..60 {
        tree.file(format!("slow{number}.py"), format!("VALUE = {number}\n{}", "a = [b, c(d), e.f]\n".repeat(12_000)).as_bytes());
        tree.file(format!("quick{number}.py"), b"VALUE = 1\n");
    }
    tree
}

/// The processes that a process started.
fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let list = |task: PathBuf| std::fs::read_to_string(task.join("children")).unwrap_or_default();
    tasks.flat_map(|task| list(task.path()).split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()).collect()
}

/// Does a process run? One that ended and was not reaped does not.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

/// A set of signals of a process, as the kernel tells it.
fn status_mask(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix(name));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// What ignores a signal hands that on (`nohup`, a job in the background of a script), and the command keeps to it.
fn is_ignored(signal: u32) -> bool {
    status_mask(std::process::id(), "SigIgn:") & (1 << (signal - 1)) != 0
}

/// Waits until something is so.
#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(3));
    }
}

fn artifacts(tree: &Tree) -> usize {
    whole::all_below(&tree.root()).iter().filter(|path| path.extension().is_some_and(|suffix| suffix == "pyc")).count()
}

#[test]
fn an_interrupt_ends_the_run_soon_and_leaves_nothing() {
    for (signal, number, format) in [("INT", 2, "human"), ("TERM", 15, "json"), ("HUP", 1, "human")] {
        if is_ignored(number) {
            println!("SKIP SIG{signal}: it is ignored here");
            continue;
        }
        let tree = slow_tree();
        // What a small run takes, before and after, tells how busy this machine is.
        let small = || {
            let began = Instant::now();
            Tree::new().compile(python()).exits(0);
            began.elapsed()
        };
        let usual = small();
        // Unflushed, so that the first ones are seen early on a disk that is busy with other tests.
        let running = tree.bytekeep(Some(python()), ["compile", "--durability", "none", "--format", format, "."]).start();
        let pid = running.child.id();
        until("something is compiled", || artifacts(&tree) > 0);
        let workers = children(pid);
        let began = Instant::now();
        running.signal(signal);
        let outcome = running.wait().exits(130);
        let took = began.elapsed();
        let usual = usual.max(small());
        assert!(took < Duration::from_secs(1) + 10 * usual, "{took:?}, where a small run takes {usual:?}");
        if format == "json" {
            assert_eq!(outcome.summary()["stopped"], true, "{}", outcome.shown());
            assert!(outcome.actions("built") > 0, "{}", outcome.shown());
        } else {
            assert!(outcome.stderr.contains("Interrupted") && outcome.stderr.contains("Compiled"), "{}", outcome.shown());
        }
        assert_eq!(tree.litter(), NONE);
        until("the workers are gone", || !workers.iter().any(|pid| runs(*pid)));
        let done = artifacts(&tree);
        assert!(done > 0 && done < 121, "{done} were done");
        assert_eq!(tree.verify().exits(0).verdicts("ok"), done as u64);
    }
}

/// What comes before the first entry may take long too: whoever makes the list, and an interpreter that does not answer.
#[test]
fn an_interrupt_before_the_run_ends_it_as_well() {
    let tree = Tree::new();
    let temporary = tree.outside("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let started = tree.outside("started");
    let mute = tree.script("mute", &format!("#!/bin/sh\nsleep 600 &\necho $! >'{0}.new'\nmv '{0}.new' '{0}'\nwait\n", started.display()));
    must("mkfifo", &[tree.outside("list")]);
    let list = tree.outside("list").into_os_string().into_string().unwrap();
    let cases: [(&[&str], bool); 6] = [
        (&["compile", "--files-from", "-"], false),
        (&["compile", "--files-from", &list], false),
        (&["compile", "--python", &mute, "."], true),
        (&["verify", "--complete", "--python", &mute, "."], true),
        (&["status", "--python", &mute, "."], true),
        (&["repair", "--format", "json", "--python", &mute, "."], true),
    ];
    for (args, probes) in cases {
        for (signal, number) in [("INT", 2), ("TERM", 15)] {
            if is_ignored(number) {
                continue;
            }
            let mut run = tree.bytekeep(None, args.iter().copied()).env("TMPDIR", &temporary);
            run.command.stdin(Stdio::piped());
            let mut running = run.start();
            let stdin = running.child.stdin.take();
            let pid = running.child.id();
            let caught = || status_mask(pid, "SigCgt:") & (1 << (number - 1)) != 0;
            until("it listens to signals", || caught() && (!probes || started.exists()));
            running.signal(signal);
            let began = Instant::now();
            let outcome = running.wait().exits(130);
            // A probe has 20 seconds of its own, and a list all the time in the world.
            assert!(began.elapsed() < Duration::from_secs(15), "{args:?}: {:?}", began.elapsed());
            assert!(outcome.stderr.contains("Interrupted") && outcome.errors() == 0, "{}", outcome.shown());
            drop(stdin);
            if probes {
                let child: u32 = std::fs::read_to_string(&started).unwrap().trim().parse().unwrap();
                until("what the interpreter started is gone", || !runs(child));
                std::fs::remove_file(&started).unwrap();
            }
            assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0, "{args:?}");
        }
    }
    assert_eq!(tree.litter(), NONE);
}

#[test]
fn a_run_that_is_out_of_time_ends_soon_and_says_so() {
    let tree = Tree::new();
    let large: Vec<u8> = (0..600_000).flat_map(|n| format!("a{n} = [b, c(d{n}), e.f]\n").into_bytes()).collect();
    assert!(large.len() > 10 << 20);
    tree.file("large.py", &large);
    for args in [&["--format", "json"][..], &[], &["--quiet"]] {
        let began = Instant::now();
        let run = tree
            .bytekeep(Some(python()), ["compile", "--max-time", "1", "--max-source", "1G", "."].into_iter().chain(args.iter().copied()));
        let running = run.start();
        let pid = running.child.id();
        until("a worker is at work", || !children(pid).is_empty());
        let workers = children(pid);
        let outcome = running.wait().exits(1);
        // The time that was given, a moment to end, and what a machine needs that is busy with other tests.
        assert!(began.elapsed() > Duration::from_secs(1) && began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
        if args.contains(&"json") {
            let summary = outcome.summary();
            assert_eq!((&summary["out_of_time"], &summary["stopped"]), (&true.into(), &false.into()), "{}", outcome.shown());
            assert!(outcome.entries().all(|entry| entry["wrong"] == false), "{}", outcome.shown());
        } else {
            let told: Vec<&str> = outcome.stderr.lines().collect();
            assert!(matches!(told[..], [line] if line.starts_with("Stopped by --max-time")), "{}", outcome.shown());
        }
        assert_eq!(tree.litter(), NONE);
        assert!(!tree.artifact("large.py", python()).exists());
        until("the workers are gone", || !workers.iter().any(|pid| runs(*pid)));
    }
    std::fs::remove_file(tree.path("large.py")).unwrap();
    let outcome = tree.bytekeep(Some(python()), ["compile", "--max-time", "60", "--format", "json", "."]).run().exits(0);
    assert_eq!((&outcome.summary()["out_of_time"], &outcome.summary()["stopped"]), (&false.into(), &false.into()));
}

#[test]
fn a_killed_run_leaves_no_worker_and_the_next_one_mends() {
    let tree = slow_tree();
    for round in 0..4_u64 {
        let running = tree.bytekeep(Some(python()), ["compile", "--force", "."]).start();
        let pid = running.child.id();
        until("workers run", || children(pid).len() >= 2 || artifacts(&tree) > 30);
        std::thread::sleep(Duration::from_millis(70 * round));
        let workers = children(pid);
        running.signal("KILL");
        assert_eq!(running.wait().signal, Some(9));
        until("no worker outlives it", || !workers.iter().any(|pid| runs(*pid)));
        let verified = tree.verify();
        for verdict in ["truncated", "corrupt", "bad-magic", "silently-stale"] {
            assert_eq!(verified.verdicts(verdict), 0, "{}", verified.shown());
        }
    }
    for number in 0..60 {
        std::fs::remove_file(tree.path(format!("slow{number}.py"))).unwrap();
    }
    tree.bytekeep(None, ["clean", "--orphans", "."]).run().exits(0);
    tree.compile(python()).exits(0);
    assert_eq!(tree.litter(), NONE, "what the dead left is swept");
    tree.assert_good(python());
    assert_eq!(tree.verify().exits(0).verdicts("ok"), 61);
}

// ---- locks

/// Another process that holds a lock, killed when dropped.
struct Holder(Child);

impl Holder {
    fn of(file: &Path) -> Self {
        let mut command = Command::new("flock");
        command.arg("--no-fork").arg(file).args(["sleep", "600"]).stdin(Stdio::null());
        let holder = Self(command.spawn().unwrap());
        let free = || Command::new("flock").args(["--nonblock", "--conflict-exit-code", "9"]).arg(file).arg("true").status().unwrap();
        until("the lock is held", || free().code() == Some(9));
        holder
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_lock_that_is_held_is_waited_for_and_the_rest_goes_on() {
    if !tool_or_skip("flock") {
        return;
    }
    let tree = Tree::new();
    tree.file("busy/one.py", b"VALUE = 1\n");
    tree.file("busy/two.py", b"VALUE = 1\n");
    let lock = tree.file("busy/__pycache__/.bytekeep.lock", b"4194000\nsomebody compile\n1700000000\n");
    let holder = Holder::of(&lock);
    let run = |format: &'static str, wait: &'static str| {
        tree.bytekeep(Some(python()), ["compile", "--format", format, "--lock-timeout", wait, "."])
    };
    let outcome = run("json", "2").run().exits(1);
    outcome.fails("busy/one.py", "locked", &["4194000"]).fails("busy/two.py", "locked", &[]);
    outcome.is("busy/one.py", "missing", "skipped");
    let waiting = outcome.lines.iter().find(|line| line["kind"] == "note" && line["code"] == "waiting").unwrap();
    assert!(waiting["text"].as_str().unwrap().contains("PID 4194000 (somebody compile)"), "{waiting}");
    tree.assert_good(python());
    let outcome = run("human", "1.5").run().exits(1);
    assert!(outcome.stderr.contains("waiting for the lock on `busy/__pycache__`, held by PID 4194000"), "{}", outcome.shown());
    assert!(outcome.stderr.contains("--lock-timeout"), "{}", outcome.shown());
    assert_eq!(outcome.errors(), 1, "one message for one cause: {}", outcome.shown());
    let outcome = run("human", "0").run().exits(1);
    assert!(!outcome.stderr.contains("waiting"), "{}", outcome.shown());
    // Verifying and cleaning neither wait for ever nor take what is another's.
    tree.bytekeep(None, ["verify", "."]).run().exits(0);
    tree.bytekeep(None, ["clean", "--lock-timeout", "1", "busy"]).run();
    assert!(lock.is_file(), "a lock that is held is nobody's left-over");
    // Let go while we wait: then it is done.
    let running = run("json", "60").start();
    std::thread::sleep(Duration::from_millis(300));
    drop(holder);
    let outcome = running.wait().exits(0);
    assert_eq!(outcome.actions("built"), 2, "{}", outcome.shown());
    assert_eq!(tree.litter(), NONE);
    tree.verify().exits(0);
}

/// With few descriptors one folder is open at a time, and each one that was locked cost the time-out anew.
#[test]
fn many_locks_that_are_held_cost_the_time_out_once() {
    if !tool_or_skip("flock") {
        return;
    }
    let tree = Tree::new();
    let mut holders = Vec::new();
    for number in 0..8 {
        tree.file(format!("busy{number}/mod.py"), b"VALUE = 1\n");
        holders.push(Holder::of(&tree.file(format!("busy{number}/__pycache__/.bytekeep.lock"), b"")));
    }
    let start = Instant::now();
    let compile = tree.bytekeep(Some(python()), ["compile", "--format", "json", "--lock-timeout", "4", "."]);
    let outcome = compile.by_shell("ulimit -n 128; \"$@\"").run().exits(1);
    let took = start.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?} instead of 4 s: {}", outcome.shown());
    assert_eq!(outcome.actions("skipped"), 8, "{}", outcome.shown());
    for number in 0..8 {
        outcome.fails(&format!("busy{number}/mod.py"), "locked", &["4 s"]);
    }
    outcome.is("good.py", "missing", "built");
}

/// "Not empty" is an answer, and is told with its path like every error after which a run goes on. `compile` does not even ask where it
/// has written something: that would be told of each directory.
#[test]
fn a_directory_that_does_not_go_is_told() {
    let tree = Tree::new();
    let compiled = tree.bytekeep(Some(python()), ["compile", "-v", "."]).run().exits(0);
    assert!(!compiled.stderr.contains("not empty"), "{}", compiled.shown());
    let cache = tree.root().join("__pycache__");
    std::fs::write(cache.join("notes.txt"), "a person's").unwrap();
    let cleaned = tree.bytekeep(None, ["clean", "-v", "."]).run().exits(0);
    let told = |line: &str| line.contains("__pycache__`: Directory not empty");
    assert!(cleaned.stderr.lines().any(told), "{}", cleaned.shown());
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 1);
}

#[test]
fn two_compiles_and_a_clean_at_once() {
    let tree = Tree::new();
    for number in 0..60 {
        tree.file(format!("pkg{}/m{number}.py", number % 4), b"VALUE = 1\n");
    }
    for _ in 0..5 {
        let start = |words: &[&'static str]| tree.bytekeep((words[0] == "compile").then(python), words.iter().copied()).start();
        let runs = [
            start(&["compile", "--format", "json", "."]),
            start(&["clean", "--format", "json", "."]),
            start(&["compile", "--format", "json", "--force", "."]),
        ];
        for running in runs {
            running.wait().exits(0);
        }
        let verified = tree.verify().exits(0);
        assert_eq!(verified.verdicts("leftover"), 0, "{}", verified.shown());
        assert_eq!(tree.litter(), NONE);
    }
    // Only the first of several has anything to do.
    tree.bytekeep(None, ["clean", "."]).run().exits(0);
    let runs: Vec<_> = (0..3).map(|_| tree.bytekeep(Some(python()), ["compile", "--format", "json", "."]).start()).collect();
    let built: u64 = runs.into_iter().map(|running| running.wait().exits(0).actions("built")).sum();
    assert_eq!(built, 61, "one compile an entry");
    tree.assert_good(python());
    assert_eq!(tree.verify().exits(0).verdicts("ok"), 61);
}

/// Killed runs left the empty directories in which interpreters are started, for ever.
#[test]
fn what_killed_runs_left_for_temporary_files_goes_after_an_hour() {
    let tree = Tree::new();
    let temporary = tree.path("temporary");
    let old = std::time::SystemTime::now() - Duration::from_secs(2 * 3600);
    for (name, is_old) in [(".bytekeep-dead00", true), (".bytekeep-young0", false), (".bytekeep-filled", true), ("others", true)] {
        let dir = temporary.join(name);
        std::fs::create_dir_all(&dir).unwrap();
        if name.ends_with("filled") {
            std::fs::write(dir.join("notes"), b"").unwrap();
        }
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
        if is_old {
            std::fs::File::open(&dir).unwrap().set_modified(old).unwrap();
        }
    }
    tree.bytekeep(Some(python()), ["compile", "good.py"]).env("TMPDIR", &temporary).run().exits(0);
    let mut left: Vec<_> = std::fs::read_dir(&temporary).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, [".bytekeep-filled", ".bytekeep-young0", "others"]);
}

// ---- moved away

/// What was asked for is that the artifacts stand under these paths, not that they went along with a directory that was moved.
#[test]
fn what_is_moved_away_while_it_is_compiled_is_told() {
    for moves in ["mv pkg old; cp -r old pkg; rm -rf pkg/sub/__pycache__", "mv pkg old"] {
        let tree = Tree::new();
        for at in 0..3 {
            tree.file(format!("pkg/sub/mod{at}.py"), format!("VALUE = {at}\n").as_bytes());
        }
        // The probe is its first start. At the second, that of the worker, the folder is open and locked.
        let text = format!(
            "#!/bin/sh\necho x >> {count}\nif [ $(wc -l < {count}) -gt 1 ] && mkdir {count}ed; then cd {tree} && {moves}; cd - > /dev/null; fi\nexec {python} \"$@\"\n",
            count = tree.outside("count").display(),
            tree = tree.root().display(),
            python = python().path.display()
        );
        let script = tree.script("python", &text);
        let outcome = tree.bytekeep(None, ["compile", "--format", "json", "--python", &script, "pkg"]).run().exits(1);
        assert_eq!(outcome.actions("failed"), 3, "{}", outcome.shown());
        outcome.fails("mod1.py", "moved", &["moved or replaced"]);
        if tree.path("pkg").exists() {
            let outcome = tree.bytekeep(Some(python()), ["compile", "--format", "json", "pkg"]).run().exits(0);
            assert_eq!(outcome.actions("built"), 3, "{}", outcome.shown());
        }
    }
}
