//! Real interpreters compile; nothing they meet hangs, leaks, or changes another file's bytes.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::print_stderr, missing_docs, reason = "tests lay out their own files")]

#[path = "support/pythons.rs"]
mod pythons;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytekeep::model::{CompileError, Compiler, Made, Request, SourceFault};
use bytekeep::python::interpreter::Interpreter;
use bytekeep::python::pool::{Limits, WorkerPool};

fn pool(interpreter: &Interpreter, jobs: usize) -> WorkerPool {
    WorkerPool::new(interpreter, Limits { jobs, timeout: Some(Duration::from_secs(30)), ..Limits::default() })
}

fn compile(pool: &WorkerPool, filename: &str, source: &[u8]) -> Result<Made, CompileError> {
    compile_at(pool, filename, source, 0)
}

/// What can be compared: how long it took is left out.
fn compile_at(pool: &WorkerPool, filename: &str, source: &[u8], level: u8) -> Result<Made, CompileError> {
    let made = pool.compile(&Request { source, filename: filename.as_bytes(), level });
    made.map(|made| Made { took: std::time::Duration::ZERO, ..made })
}

fn fault(pool: &WorkerPool, filename: &str, source: &[u8]) -> SourceFault {
    match compile(pool, filename, source) {
        Err(CompileError::Source(fault)) => *fault,
        other => panic!("{:?} on {}", other, source.escape_ascii()),
    }
}

/// Many requests at one time, in this order, with as many callers as are useful.
fn compile_all(pool: &WorkerPool, files: &[(String, Vec<u8>, u8)]) -> Vec<Result<Made, CompileError>> {
    let next = AtomicUsize::new(0);
    let mut made: Vec<(usize, Result<Made, CompileError>)> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..pool.width())
            .map(|_| {
                scope.spawn(|| {
                    let mut own = Vec::new();
                    while let Some((at, (name, source, level))) = {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        files.get(at).map(|file| (at, file))
                    } {
                        own.push((at, compile_at(pool, name, source, *level)));
                    }
                    own
                })
            })
            .collect();
        callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
    });
    made.sort_by_key(|(at, _)| *at);
    made.into_iter().map(|(_, made)| made).collect()
}

fn library(interpreter: &Interpreter, most: usize) -> Vec<(String, Vec<u8>, u8)> {
    let walk = walkdir::WalkDir::new(&interpreter.stdlib).max_depth(2).sort_by_file_name().into_iter().flatten();
    let paths = walk.map(walkdir::DirEntry::into_path).filter(|path| path.extension().is_some_and(|suffix| suffix == "py"));
    paths.filter_map(|path| std::fs::read(&path).ok().map(|bytes| (path.display().to_string(), bytes, 0))).take(most).collect()
}

#[test]
fn the_same_source_gives_the_same_bytes_whatever_was_compiled_before() {
    for interpreter in pythons::all() {
        if interpreter.implementation == "pypy" {
            // PyPy itself is not stable: what is interned there depends on its garbage collector.
            continue;
        }
        let mut files = library(&interpreter, 250);
        files.push(("/a/cp.py".into(), b"# coding: cp1252\nx = '\x80 alone'\n".to_vec(), 0));
        files.push(("/a/bad.py".into(), b"def f(:\n".to_vec(), 0));
        files.push(("/a/deep.py".into(), [b"(".repeat(300), b")".repeat(300)].concat(), 0));
        files.push(("/a/warn.py".into(), b"x = 1\nx is 1\ny = '\\d'\n".to_vec(), 0));
        files.push(("/a/chars.py".into(), "# coding: utf-8\né = u'é{}\"'; x = ['{', '}', u'é', '\"', 'q']\n".as_bytes().to_vec(), 0));
        let again: Vec<_> = files
            .iter()
            .take(20)
            .cloned()
            .flat_map(|(name, source, _)| [0, 1, 2].map(|level| (name.clone(), source.clone(), level)))
            .collect();
        files.extend(again);
        let forward = compile_all(&pool(&interpreter, 2), &files);
        let mut turned: Vec<_> = files.clone();
        turned.reverse();
        let mut backward = compile_all(&pool(&interpreter, 1), &turned);
        backward.reverse();
        let good = forward.iter().filter(|made| made.is_ok()).count();
        assert!(good + 12 > files.len(), "{}: only {good} of {} compile", interpreter.target.tag, files.len());
        for ((one, other), file) in forward.iter().zip(&backward).zip(&files) {
            assert!(one == other, "{}: {} differs", interpreter.target.tag, file.0);
        }
        for at in (0..files.len()).step_by(37) {
            let (name, source, level) = &files[at];
            let alone = compile_at(&pool(&interpreter, 1), name, source, *level);
            assert!(alone == forward[at], "{}: {name} alone differs", interpreter.target.tag);
        }
    }
}

/// Before 3.11 the compiler makes some names when it first needs them, and keeps them: whether a string is one of them shows in the bytes.
#[test]
fn names_that_the_compiler_keeps_of_one_file_do_not_show_in_another() {
    let names = b"x = ['lambda', 'genexpr', 'listcomp', 'setcomp', 'dictcomp', 'top', 'return', 'annotations']\n";
    for interpreter in pythons::all().into_iter().filter(|one| one.implementation != "pypy") {
        let pool = pool(&interpreter, 1);
        let first = compile(&pool, "/names.py", names);
        compile(&pool, "/b.py", b"x = lambda: [a for a in {b for b in {c: 0 for c in (d for d in ())}}]\nclass A: pass\n").unwrap();
        assert!(first.is_ok() && first == compile(&pool, "/names.py", names), "{}", interpreter.target.tag);
    }
}

#[test]
fn a_file_swapped_for_a_fifo_or_a_secret_is_never_opened() {
    let top = tempfile::tempdir().unwrap();
    let secret = "TOP-SECRET-LINE\n".repeat(9);
    std::fs::write(top.path().join("secret"), &secret).unwrap();
    std::os::unix::fs::symlink("secret", top.path().join("link.py")).unwrap();
    let fifo = top.path().join("fifo.py");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for interpreter in pythons::all() {
        let tag = &interpreter.target.tag;
        let pool =
            WorkerPool::new(&interpreter, Limits { jobs: 1, timeout: Some(Duration::from_secs(5)), retries: 0, ..Limits::default() });
        for name in ["link.py", "fifo.py"] {
            let path = top.path().join(name).display().to_string();
            for source in [
                &b"x = 1\ny = $\n"[..],
                b"x = 1\nreturn 1\n",
                b"x = 1\n  y\n",
                b"x = (\n",
                b"# coding: cp1252\nx = $\n",
                b"# coding: utf-8\nx = u'\xff'\n",
            ] {
                let fault = fault(&pool, &path, source);
                assert!(!format!("{fault:?}").contains("SECRET"), "{tag}: {fault:?}");
            }
            for source in [&b"x = 1\nx is 1\n"[..], b"x = 1\ny = '\\d'\n", b"assert (1, 'x')\n"] {
                let made = compile(&pool, &path, source).unwrap();
                assert!(!format!("{:?}", made.warnings).contains("SECRET"), "{tag}");
            }
        }
        let warned = compile(&pool, "/w.py", b"x = 1\nassert (x, 'always true')\n").unwrap().warnings;
        let expected = usize::from(interpreter.implementation == "cpython");
        assert!(warned.len() >= expected && warned.iter().all(|warning| warning.line == 2), "{tag}: {warned:?}");
    }
}

#[test]
fn faults_have_line_column_and_the_line_itself() {
    for interpreter in pythons::all() {
        let tag = &interpreter.target.tag;
        let old = interpreter.version.0 == 2;
        let pool = pool(&interpreter, 1);
        for text in ["x = \"éé\" ; a = $", "x = \"ee\" ; a = )"] {
            for end in ["\n", "\r\n", "\r"] {
                let source = format!("# coding: utf-8{end}\x0c{end}{text}{end}");
                let fault = fault(&pool, "/f.py", source.as_bytes());
                assert_eq!((fault.kind.as_str(), fault.line, fault.column), ("SyntaxError", Some(3), Some(16)), "{tag}: {fault:?}");
                assert_eq!(fault.quoted.as_deref(), Some(text), "{tag}");
            }
        }
        let late = fault(&pool, "/f.py", "# coding: utf-8\nx = \"éé\" ; return 1\n".as_bytes());
        assert_eq!((late.line, late.column), (Some(2), if old { None } else { Some(12) }), "{tag}: {late:?}");
        let plain = fault(&pool, "/f.py", "x = \"éé\" ; f() = 1\n".as_bytes());
        assert_eq!((plain.line, plain.column), (Some(1), if old { None } else { Some(12) }), "{tag}: {plain:?}");
        assert_eq!(fault(&pool, "/f.py", b"if 1:\n  x\n y\n").kind, "IndentationError", "{tag}");
        let nul = fault(&pool, "/f.py", b"x = 1\0\n");
        assert!(nul.text.contains("null byte"), "{tag}: {nul:?}");
        let unknown = fault(&pool, "/f.py", b"# coding: no-such-codec\n");
        assert!(unknown.text.contains("no-such-codec"), "{tag}: {unknown:?}");
        for (source, fine) in [
            (&b"# coding: cp1252\nx = u'\x80'\n"[..], true),
            (b"# coding: koi8-r\nx = u'\xc1'\n", true),
            (b"# coding: utf-8-sig\nx = 1\n", true),
            (b"# coding: latin-1\nx = u'\xe9'\n", true),
            (b"# coding: ascii\nx = 1\n", true),
            (b"# coding: utf8\nx = u'\xc3\xa9'\n", true),
            (b"# coding: euc-jp\nx = u'\xa4\xa2'\n", true),
            (b"\xef\xbb\xbfx = u'\xc3\xa9'\n", true),
            (b"\xef\xbb\xbf# coding: cp1252\nx = 1\n", false),
            (b"# coding: utf-8\nx = u'\xe9'\n", false),
            (b"# coding: utf-8\nx = u'\\N{EM DASH}'\n", true),
            (b"", true),
        ] {
            assert_eq!(compile(&pool, "/c.py", source).is_ok(), fine, "{tag}: {}", source.escape_ascii());
        }
    }
}

#[test]
fn a_monster_costs_one_file() {
    let deep = [b"x = ".to_vec(), b"(".repeat(50_000), b"1".to_vec(), b")".repeat(50_000), b"\n".to_vec()].concat();
    let minus = [b"x = ".to_vec(), b"-".repeat(50_000), b"1\n".to_vec()].concat();
    let plus = [b"x = 1".to_vec(), b"+y".repeat(50_000), b"\n".to_vec()].concat();
    for interpreter in pythons::all() {
        let mut files: Vec<_> = (0..20).map(|at| (format!("/f{at}.py"), format!("x = {at}\n").into_bytes(), 0)).collect();
        for (at, monster) in [(5, &deep), (6, &minus), (11, &plus)] {
            files.insert(at, ("/monster.py".into(), monster.clone(), 0));
        }
        let made = compile_all(&pool(&interpreter, 2), &files);
        for (made, file) in made.iter().zip(&files) {
            assert!(made.is_ok() || file.0 == "/monster.py", "{}: {} {made:?}", interpreter.target.tag, file.0);
        }
        assert!(made[5].is_err(), "{}", interpreter.target.tag);
    }
}

#[test]
fn nothing_of_the_working_directory_is_imported() {
    // The child of this very test runs in a directory full of traps.
    let top = tempfile::tempdir().unwrap();
    for name in [
        "linecache",
        "warnings",
        "encodings",
        "marshal",
        "os",
        "struct",
        "binascii",
        "codecs",
        "resource",
        "unicodedata",
        "sitecustomize",
        "imp",
    ] {
        std::fs::write(top.path().join(format!("{name}.py")), "open('/dev/tty')\nimport os\nos._exit(77)\n").unwrap();
    }
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "faults_have_line_column_and_the_line_itself", "--nocapture"]).current_dir(top.path());
    child.env("PYTHONPATH", top.path()).env("PYTHONSTARTUP", "warnings.py").env("PYTHONWARNINGS", "error").env("PYTHONOPTIMIZE", "2");
    let answer = child.output().unwrap();
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
}

#[test]
fn sixteen_descriptors_are_enough() {
    let mut child = std::process::Command::new("sh");
    child.args(["-c", "ulimit -n 16; exec \"$0\" --exact a_file_swapped_for_a_fifo_or_a_secret_is_never_opened --test-threads 1"]);
    let answer = child.arg(std::env::current_exe().unwrap()).output().unwrap();
    assert!(answer.status.success(), "{}{}", String::from_utf8_lossy(&answer.stdout), String::from_utf8_lossy(&answer.stderr));
}

/// Not a test by itself: two requests, each of which needs a worker, and no descriptor for any.
#[test]
#[ignore = "run by the test below"]
fn starves() {
    let interpreter = pythons::all().pop().unwrap();
    let pool = WorkerPool::new(&interpreter, Limits { jobs: 2, ..Limits::default() });
    assert_eq!(pool.width(), 6, "two workers are allowed");
    let mut held: Vec<std::fs::File> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    // Enough to manage two workers, not to start one.
    held.truncate(held.len() - 5);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let callers = [1, 2].map(|_| scope.spawn(|| compile(&pool, "/a.py", b"x = 1\n")));
        for caller in callers {
            match caller.join().unwrap() {
                Err(error @ CompileError::Start { .. }) => {
                    let told = error.to_string();
                    assert!(told.contains("no interpreter could be started") && told.contains("open files"), "{told}");
                }
                other => panic!("{other:?}"),
            }
        }
    });
    assert!(began.elapsed() > Duration::from_secs(5), "others had time to close theirs");
    drop(held);
    for _ in 0..2 {
        compile(&pool, "/a.py", b"x = 1\n").unwrap();
    }
    std::thread::sleep(Duration::from_millis(300));
    assert!(!children_of(std::process::id()).is_empty(), "a worker is kept again, since there is room");
}

#[test]
#[cfg(target_os = "linux")]
fn workers_that_all_lack_descriptors_do_not_wait_for_one_another() {
    let mut child = std::process::Command::new("sh");
    child.args(["-c", "ulimit -n 48; exec timeout 60 \"$0\" --exact starves --ignored --test-threads 1"]);
    let answer = child.arg(std::env::current_exe().unwrap()).output().unwrap();
    assert!(answer.status.success(), "{}{}", String::from_utf8_lossy(&answer.stdout), String::from_utf8_lossy(&answer.stderr));
}

#[test]
fn a_run_with_a_compiler_that_was_stopped_is_not_good() {
    use bytekeep::flow::{self, Command, Job, Maker, Options, Root};
    use bytekeep::python::Pyc;
    let top = tempfile::tempdir().unwrap();
    let path = top.path().join("a.py");
    std::fs::write(&path, "x = 1\n").unwrap();
    let pool = pool(&pythons::all().pop().unwrap(), 1);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let job = || Job {
        command: Command::Compile,
        roots: vec![Root::of(&path, &Pyc).unwrap()],
        format: &Pyc,
        makers: vec![Maker { compiler: &pool, levels: vec![0] }],
        options: Options { max_time: Some(Duration::ZERO), ..Options::default() },
        stop: &stop,
    };
    let late = flow::run(&job(), &()).unwrap();
    assert!(late.out_of_time && !late.stopped && !late.is_good(), "{late:?}");
    let later = flow::run(&Job { options: Options::default(), ..job() }, &()).unwrap();
    assert!(later.stopped && !later.out_of_time && !later.is_good(), "{later:?}");
}

/// Not a test by itself: holds workers, one of them in an endless compile, until it is killed.
#[test]
#[ignore = "run by the test below"]
fn holds_workers() {
    let endless: Vec<u8> = (0..600_000).flat_map(|n| format!("a{n} = [b{n}, {n}]\n").into_bytes()).collect();
    let interpreter = pythons::all().pop().unwrap();
    let pool = WorkerPool::new(&interpreter, Limits { jobs: 2, address_space: None, ..Limits::default() });
    compile(&pool, "/a.py", b"x = 1\n").unwrap();
    std::fs::write(std::env::var("BYTEKEEP_TEST_READY").unwrap(), "").unwrap();
    drop(compile(&pool, "/endless.py", &endless));
    std::thread::sleep(Duration::from_secs(60));
}

fn children_of(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()).collect()
}

fn lives(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
#[cfg(target_os = "linux")]
fn a_killed_parent_leaves_no_worker() {
    let top = tempfile::tempdir().unwrap();
    let ready = top.path().join("ready");
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "holds_workers", "--ignored"])
        .env("BYTEKEEP_TEST_READY", &ready)
        .env("TMPDIR", top.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let wait = |what: &dyn Fn() -> bool| {
        let until = Instant::now() + Duration::from_secs(20);
        while !what() {
            assert!(Instant::now() < until, "waited too long");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    wait(&|| ready.exists());
    std::thread::sleep(Duration::from_millis(300));
    let workers = children_of(child.id());
    assert!(!workers.is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    wait(&|| workers.iter().all(|pid| !lives(*pid)));
}

#[test]
fn a_dropped_pool_leaves_no_process_and_no_directory() {
    let before: Vec<u32> = children_of(std::process::id());
    for interpreter in pythons::all() {
        let pool = pool(&interpreter, 2);
        assert_eq!(pool.width(), 6);
        compile(&pool, "/a.py", b"x = 1\n").unwrap();
        let own: Vec<u32> = children_of(std::process::id()).into_iter().filter(|pid| !before.contains(pid)).collect();
        let dirs: Vec<_> = own.iter().filter_map(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).ok()).collect();
        drop(pool);
        // Children of tests that run beside this one live on; none of a dropped pool is among them for long.
        assert!(own.iter().any(|pid| !lives(*pid)), "{}", interpreter.target.tag);
        assert!(dirs.iter().any(|dir| !dir.exists()), "{}", interpreter.target.tag);
    }
}
