//! CPython's own `test_compileall.py` and `test_py_compile.py`, run by each interpreter as they are and then with the command line
//! redirected to ours (`tests/data/compileall_yardstick.py`): all that CPython passes, we pass.
//!
//! By default the oldest and the newest CPython that has these tests; with `BYTEKEEP_COMPILEALL=all` every one.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, reason = "a test works on files of its own")]

mod support;
#[path = "support/whole.rs"]
mod whole;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::Python;
use whole::{BYTEKEEP, all_pythons, aloud};

/// Far more than both take.
const PATIENCE: Duration = Duration::from_secs(1200);

const MODULES: [&str; 2] = ["test.test_compileall", "test.test_py_compile"];

/// The tests of one run by their outcomes, and what was redirected.
#[derive(Default)]
struct Ran {
    passes: BTreeSet<String>,
    fails: BTreeSet<String>,
    skips: BTreeSet<String>,
    counts: String,
    stderr: String,
}

fn has_tests(python: &Python) -> bool {
    let mut command = python.command();
    command.args(["-c", "import test.test_compileall, test.test_py_compile"]).stdin(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|end| end.success())
}

fn run(python: &Python, whose: &str) -> Ran {
    let top = tempfile::tempdir().unwrap();
    let runner = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/compileall_yardstick.py");
    let (stdout, stderr) = (top.path().join("stdout"), top.path().join("stderr"));
    let mut command = Command::new(&python.path);
    command.arg(runner).args([whose, BYTEKEEP]).args(MODULES).current_dir(top.path()).env_clear();
    for name in ["PATH", "PYENV_ROOT"] {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    command.env("HOME", top.path()).env("LC_ALL", "C.UTF-8").env("TMPDIR", top.path());
    command.env("BYTEKEEP_STORE", top.path().join("store")).env("BYTEKEEP_NO_CONFIG", "1");
    command.stdin(Stdio::null()).stdout(std::fs::File::create(&stdout).unwrap()).stderr(std::fs::File::create(&stderr).unwrap());
    let mut child = command.spawn().unwrap();
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if started.elapsed() > PATIENCE {
            drop(child.kill());
            panic!("{}: the tests do not end", python.tag);
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let read = |path: &Path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
    let mut ran = Ran { stderr: read(&stderr), ..Ran::default() };
    assert!(status.success(), "{} {whose}: {status}: {}", python.tag, ran.stderr);
    for line in read(&stdout).lines().filter_map(|line| line.strip_prefix("@ ")) {
        let (outcome, name) = line.split_once(' ').unwrap();
        match outcome {
            "passes" => drop(ran.passes.insert(name.to_owned())),
            "fails" => drop(ran.fails.insert(name.to_owned())),
            "skips" => drop(ran.skips.insert(name.to_owned())),
            _ => line.clone_into(&mut ran.counts),
        }
    }
    ran
}

fn compare(python: &Python) {
    let (theirs, ours) = (run(python, "theirs"), run(python, "ours"));
    let lost: Vec<&String> = theirs.passes.iter().filter(|name| !ours.passes.contains(*name) || ours.fails.contains(*name)).collect();
    aloud(&format!(
        "{}: of {} tests CPython passes {}, we {} (both skip {}); {}",
        python.tag,
        theirs.passes.len() + theirs.fails.len() + theirs.skips.len(),
        theirs.passes.len(),
        ours.passes.len(),
        theirs.skips.intersection(&ours.skips).count(),
        ours.counts,
    ));
    if !theirs.fails.is_empty() {
        aloud(&format!("{}: CPython itself fails {:?}", python.tag, theirs.fails));
    }
    assert!(theirs.passes.len() > 40, "{}: its tests were run: {}", python.tag, theirs.stderr);
    assert!(ours.counts.contains("command line: ") && !ours.counts.contains("command line: 0"), "{}: nothing was redirected", python.tag);
    assert!(lost.is_empty(), "{}: CPython passes and we do not: {lost:#?}\n{}", python.tag, ours.stderr);
}

#[test]
fn all_that_cpython_passes_we_pass() {
    let mut all: Vec<&Python> = all_pythons().iter().filter(|python| !python.pypy && python.version >= (3, 6)).collect();
    let found = all.len();
    all.retain(|python| has_tests(python));
    all.sort_by_key(|python| python.version);
    assert!(!all.is_empty(), "none of {found} interpreters has CPython's own tests");
    if std::env::var_os("BYTEKEEP_COMPILEALL").is_none_or(|which| which != "all") && all.len() > 2 {
        all.drain(1..all.len() - 1);
    }
    std::thread::scope(|scope| {
        // Two at a time.
        for half in all.chunks(all.len().div_ceil(2)) {
            scope.spawn(move || half.iter().for_each(|python| compare(python)));
        }
    });
}
