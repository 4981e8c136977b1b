//! Interpreters that die, hang, print, or answer nonsense cost one file at most.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::print_stderr, missing_docs, reason = "tests lay out their own files")]

#[path = "support/fakes.rs"]
mod fakes;
#[path = "support/pythons.rs"]
mod pythons;

use std::time::{Duration, Instant};

use bytekeep::model::{CompileError, Compiler, Made, Request};
use bytekeep::python::interpreter::Interpreter;
use bytekeep::python::pool::{Limits, WorkerPool};

fn model() -> Interpreter {
    pythons::all().into_iter().find(|one| one.version >= (3, 8, 0)).unwrap()
}

fn limits() -> Limits {
    Limits { jobs: 1, timeout: Some(Duration::from_secs(1)), ..Limits::default() }
}

/// Compiles twelve sources at one time, the fifth of which is bad.
fn twelve(pool: &WorkerPool) -> Vec<Result<Made, CompileError>> {
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..12)
            .map(|at| {
                scope.spawn(move || {
                    let source = if at == 4 { "BAD".to_owned() } else { format!("source {at:013}") };
                    pool.compile(&Request { source: source.as_bytes(), filename: b"/f.py", level: 0 })
                })
            })
            .collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    })
}

/// The bad one fails after two tries, everybody else gets their own answer.
fn only_the_bad_one_fails(behaviour: &str) -> CompileError {
    let top = tempfile::tempdir().unwrap();
    let pool = WorkerPool::new(&fakes::fake(top.path(), &model(), "", behaviour), limits());
    let mut error = None;
    for (at, made) in twelve(&pool).into_iter().enumerate() {
        match made {
            Ok(made) => assert_eq!(String::from_utf8_lossy(&made.code), format!("code of source {at:013}")),
            Err(cause) => {
                assert_eq!(at, 4, "{behaviour}: {cause}");
                error = Some(cause);
            }
        }
    }
    error.unwrap()
}

#[test]
fn whatever_a_worker_does_costs_one_file() {
    for (behaviour, words) in [
        ("os._exit(3) if bad else good(ident, body)", "exit status 3"),
        ("os.kill(os.getpid(), 9) if bad else good(ident, body)", "signal 9"),
        ("good(ident + 1 if bad else ident, body)", "a request that it does not have"),
        ("if bad:\n    write(frame(ident, b'Ccode')[:10])\n    os._exit(0)\ngood(ident, body)", "in the middle of an answer"),
        ("write(frame(ident, b'C' + fields(b'x'), flip=1)) if bad else good(ident, body)", "torn"),
        ("write(b'Traceback, most recent call') if bad else good(ident, body)", "garbage"),
        ("write(b'\\x8bBKf' + b'\\xff' * 12) if bad else good(ident, body)", "frame of 4294967295 bytes"),
        ("write(frame(ident, b'Znothing')) if bad else good(ident, body)", "no message"),
        ("if bad:\n    os.write(2, b'it hurts\\n')\n    os._exit(9)\ngood(ident, body)", "exit status 9: it hurts"),
    ] {
        match only_the_bad_one_fails(behaviour) {
            CompileError::Died { how, tries: 2 } => assert!(how.contains(words), "{behaviour}: {how}"),
            other => panic!("{behaviour}: {other:?}"),
        }
    }
}

#[test]
fn a_worker_that_hangs_or_stops_runs_into_the_time_limit() {
    for behaviour in
        ["if bad:\n    time.sleep(99)\ngood(ident, body)", "if bad:\n    os.kill(os.getpid(), signal.SIGSTOP)\ngood(ident, body)"]
    {
        assert_eq!(only_the_bad_one_fails(behaviour), CompileError::TimedOut { limit: Duration::from_secs(1), tries: 2 });
    }
}

#[test]
fn slow_bytes_are_put_together() {
    let top = tempfile::tempdir().unwrap();
    let slow = "for byte in frame(ident, b'C' + fields(b'code of ' + body[-20:], b'0')):\n    write(bytes([byte]))\n    time.sleep(0.001)";
    let pool = WorkerPool::new(&fakes::fake(top.path(), &model(), "", slow), Limits { timeout: Some(Duration::from_secs(20)), ..limits() });
    assert!(twelve(&pool).iter().all(Result::is_ok));
}

#[test]
fn an_interpreter_that_never_starts_is_said_to_be_unusable() {
    for (text, words) in [
        ("#!/bin/sh\necho no such luck >&2\nexit 4\n", "exit status 4: no such luck"),
        ("#!/bin/sh\necho hello\n", "garbage"),
        ("#!/no/such/shell\n", "cannot be started"),
    ] {
        let top = tempfile::tempdir().unwrap();
        let pool = WorkerPool::new(&fakes::script(top.path(), &model(), text), limits());
        for made in twelve(&pool) {
            match made {
                Err(CompileError::Unusable(how)) => assert!(how.contains(words), "{how}"),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn stray_prints_of_a_real_interpreter_harm_nobody() {
    let top = tempfile::tempdir().unwrap();
    for model in pythons::all() {
        // A wrapper that does not exec, and chatters on standard error.
        let text = format!("#!/bin/sh\necho chatter >&2\n{} \"$@\"\n", model.executable.display());
        let pool =
            WorkerPool::new(&fakes::script(top.path(), &model, &text), Limits { timeout: Some(Duration::from_secs(30)), ..limits() });
        let made = pool.compile(&Request { source: b"x = 1\n", filename: b"/f.py", level: 0 });
        assert!(made.is_ok(), "{}: {made:?}", model.target.tag);
    }
}

#[test]
fn a_stop_ends_a_hanging_compile_at_once() {
    let top = tempfile::tempdir().unwrap();
    let pool = WorkerPool::new(&fakes::fake(top.path(), &model(), "", "time.sleep(99)"), Limits { timeout: None, ..limits() });
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| twelve(&pool));
        std::thread::sleep(Duration::from_millis(400));
        let told = Instant::now();
        pool.stop();
        assert!(caller.join().unwrap().iter().all(|made| *made == Err(CompileError::Stopped)));
        assert!(told.elapsed() < Duration::from_secs(2), "{:?}", told.elapsed());
    });
    // For good: whoever asks later gets the same answer.
    let told = Instant::now();
    assert!(pool.is_stopped() && twelve(&pool).iter().all(|made| *made == Err(CompileError::Stopped)));
    assert!(told.elapsed() < Duration::from_secs(2), "{:?}", told.elapsed());
}

#[test]
fn full_pipes_both_ways_do_not_deadlock() {
    let model = model();
    let pool = WorkerPool::new(&model, Limits { timeout: Some(Duration::from_secs(30)), ..limits() });
    let lines: Vec<String> = (0..40_000).map(|at| format!("x{at} = '{at} and some more text'")).collect();
    let large = lines.join("\n");
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let made = pool.compile(&Request { source: large.as_bytes(), filename: b"/large.py", level: 0 });
                assert!(made.unwrap().code.len() > 1 << 20);
            });
        }
    });
}
