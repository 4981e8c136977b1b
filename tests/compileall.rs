//! `bytekeep compileall` beside `python -m compileall`: the same arguments on the same tree at the same place, one after the other. Standard
//! output, exit code, the names of all files and the code in all artifacts must be the same, but for what the manual lists.
//!
//! By default the oldest CPython, one that strips names in the old way, and the newest; with `BYTEKEEP_COMPILEALL=all` every one.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, reason = "a test works on files of its own")]

mod support;
#[path = "support/whole.rs"]
mod whole;

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytekeep::base::seal::Artifact;
use bytekeep::model::{Compared, Format};
use bytekeep::python::Pyc;
use support::Python;
use whole::{BYTEKEEP, all_below, all_pythons, aloud, set_mtime};

/// Versions a case is for: from the first to the last minor one.
const ALL: (u8, u8) = (0, 99);
const HASHES: (u8, u8) = (7, 99);
const LEVELS: (u8, u8) = (9, 99);

/// Arguments, with variables as `NAME=value` before them.
const CASES: &[(&str, (u8, u8))] = &[
    ("t", ALL),
    ("-q t", ALL),
    ("-qq t", ALL),
    ("-l t", ALL),
    ("-r 1 t", ALL),
    ("-l -r~2 t", ALL),
    ("-r -1 t", ALL),
    ("-f t t", ALL),
    ("t t t/bad.py", ALL),
    ("-x su[b] t", ALL),
    ("-x ^t/(?!a) t", ALL),
    ("-x ( t", ALL),
    ("-i list", ALL),
    ("-q -i list t/a.py", ALL),
    ("-i nolist t", ALL),
    ("-qq -i nolist t", ALL),
    ("-d dest t", ALL),
    ("-d dest t/sub/b.py t/", ALL),
    ("-d '' t", ALL),
    ("-b t", ALL),
    ("-b -f t t", ALL),
    ("t/a.py nothere t/readme.txt t/link.py '' .", ALL),
    ("./t//sub t/../t", ALL),
    ("-j 1 t", ALL),
    ("-j -1 t/a.py t t/sub", ALL),
    ("--workers=1 -qf t", ALL),
    ("--bogus t", ALL),
    ("t -q t", ALL),
    ("-r x t", ALL),
    ("-h", ALL),
    ("PYTHONOPTIMIZE=1 t", ALL),
    ("PYTHONOPTIMIZE=2 -b t", ALL),
    ("PYTHONPYCACHEPREFIX=prefix t", ALL),
    ("PYTHONDONTWRITEBYTECODE=1 t", ALL),
    ("SOURCE_DATE_EPOCH=abc t t/a.py", ALL),
    ("--invalidation-mode checked-hash t t/a.py", HASHES),
    ("--inv=unchecked-hash t t/a.py", HASHES),
    ("SOURCE_DATE_EPOCH=1 --invalidation-mode timestamp t t/a.py", HASHES),
    ("--invalidation-mode never t", HASHES),
    ("-s t t", LEVELS),
    ("-s t/sub -p /inst t", LEVELS),
    ("-s sub t", LEVELS),
    ("-s t/a.py t", LEVELS),
    ("-p pre -q t t/a.py", LEVELS),
    ("-o 1 -o0 -o 1 t", LEVELS),
    ("-o -1 -o 2 t t", LEVELS),
    ("-o 3 t", LEVELS),
    ("-o 1 -o 3 t", LEVELS),
    ("-o -5 t", LEVELS),
    ("-b -o 0 -o 2 t", LEVELS),
    ("-o 0 -o 1 -o 2 --hardlink-dupes t", LEVELS),
    ("-o 0 -o 0 --hardlink-dupes t", LEVELS),
    ("-o 0 --hardlink-dupes t", LEVELS),
    ("-e t/sub t", LEVELS),
    ("-e t t", LEVELS),
    ("-d x -s y t", LEVELS),
];

struct Ground {
    top: tempfile::TempDir,
}

/// What came of a call.
#[derive(Debug, PartialEq, Eq)]
struct Came {
    code: Option<i32>,
    stdout: String,
    names: Vec<PathBuf>,
}

impl Ground {
    fn new() -> Self {
        Self { top: tempfile::tempdir().unwrap() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.top.path().join("work").join(name)
    }

    /// The tree anew, at the same place, with the same times.
    fn renew(&self) {
        let work = self.at("");
        drop(std::fs::remove_dir_all(&work));
        std::fs::create_dir_all(self.at("t/sub/deep/er")).unwrap();
        std::fs::create_dir_all(self.at("t/__pycache__")).unwrap();
        for (name, text) in [
            ("t/a.py", &b"x = 1\n"[..]),
            ("t/bad.py", b"def f(:\n  pass\n"),
            ("t/later.py", b"def f():\n\treturn\nreturn 1\n"),
            ("t/indent.py", b"if 1:\nx\n"),
            ("t/sub/b.py", b"def f():\n    'doc'\n    assert f\n"),
            ("t/sub/cookie.py", b"# coding: nope\n"),
            ("t/sub/latin.py", b"# coding: latin-1\nx = '\xe9'\n"),
            ("t/sub/encoding.py", b"x = '\xff'\n"),
            ("t/sub/deep/nul.py", b"y = 1\0\n"),
            ("t/sub/deep/er/c.py", b"c = 1\n"),
            ("t/sub/it's.py", b"q = 1\n"),
            ("t/sub/\u{e9}.py", b"e = 1\n"),
            ("t/readme.txt", b"text\n"),
            ("t/__pycache__/other.py", b"never = 1\n"),
            ("list", b"t/a.py\r\n t/sub \n\n# no\nt/later.py"),
        ] {
            std::fs::write(self.at(name), text).unwrap();
            set_mtime(&self.at(name), 1_600_000_000);
        }
        symlink("a.py", self.at("t/link.py")).unwrap();
        symlink("../sub/b.py", self.at("t/sub/out.py")).unwrap();
        symlink("../a.py", self.at("t/sub/up.py")).unwrap();
        symlink("nowhere.py", self.at("t/dangling.py")).unwrap();
        symlink("sub", self.at("t/linked")).unwrap();
    }

    fn run(&self, mut command: Command, line: &str) -> (Came, String) {
        command.current_dir(self.at("")).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for name in ["PATH", "PYENV_ROOT"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        command.env("HOME", self.top.path()).env("LC_ALL", "C.UTF-8");
        command.env("BYTEKEEP_STORE", self.top.path().join("store")).env("BYTEKEEP_NO_CONFIG", "1");
        for word in line.split(' ') {
            match word.split_once('=') {
                Some((name, value)) if name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_') => command.env(name, value),
                _ => command.arg(word.replace('~', " ").replace("''", "")),
            };
        }
        let done = within(command);
        let mut names: Vec<PathBuf> =
            all_below(&self.at("")).into_iter().map(|path| path.strip_prefix(self.at("")).unwrap().to_path_buf()).collect();
        names.sort();
        let stdout = String::from_utf8(done.stdout).unwrap();
        (Came { code: done.status.code(), stdout, names }, String::from_utf8_lossy(&done.stderr).into_owned())
    }

    fn theirs(&self, python: &Python, line: &str) -> Came {
        let mut command = Command::new(&python.path);
        // Else what compileall imports is cached, in a prefix too.
        command.args(["-B", "-m", "compileall"]);
        self.run(command, line).0
    }

    fn ours(&self, python: &Python, line: &str) -> (Came, String) {
        self.ours_with(python, &[], line)
    }

    fn ours_with(&self, python: &Python, own: &[&str], line: &str) -> (Came, String) {
        let mut command = Command::new(BYTEKEEP);
        command.args(["compileall", "--python"]).arg(&python.path).args(own);
        self.run(command, line)
    }

    /// All artifacts, by their paths, with which of them are one file.
    fn artifacts(&self) -> BTreeMap<PathBuf, (Vec<u8>, u64)> {
        let is_artifact = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "pyc");
        let paths = all_below(&self.at("")).into_iter().filter(is_artifact);
        paths.map(|path| (path.clone(), (std::fs::read(&path).unwrap(), path.metadata().unwrap().ino()))).collect()
    }
}

/// Runs it to its end; one that hangs fails the test.
fn within(mut command: Command) -> std::process::Output {
    let mut child = command.spawn().unwrap();
    let stdout = reader(child.stdout.take().unwrap());
    let stderr = reader(child.stderr.take().unwrap());
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if started.elapsed() > Duration::from_secs(300) {
            drop(child.kill());
            panic!("it hangs: {command:?}");
        }
        std::thread::sleep(Duration::from_millis(4));
    };
    std::process::Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

fn reader(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        drop(from.read_to_end(&mut bytes));
        bytes
    })
}

/// The interpreters that a test runs on, aloud.
fn pythons() -> Vec<&'static Python> {
    let mut all: Vec<&Python> = all_pythons().iter().filter(|python| !python.pypy && python.version >= (3, 6)).collect();
    all.sort_by_key(|python| python.version);
    assert!(!all.is_empty(), "no CPython from 3.6 on");
    if std::env::var_os("BYTEKEEP_COMPILEALL").is_none_or(|which| which != "all") {
        let middle = all.iter().rposition(|python| (9..13).contains(&python.version.1));
        let mut some = vec![0, all.len() - 1];
        some.extend(middle);
        some.sort_unstable();
        some.dedup();
        all = some.into_iter().map(|at| all[at]).collect();
    }
    aloud(&format!("compileall of {}", all.iter().map(|python| python.tag.as_str()).collect::<Vec<_>>().join(", ")));
    all
}

fn newest() -> &'static Python {
    pythons().pop().unwrap()
}

/// Header and code are the same, and so is who shares a file; the seal is ours alone.
fn assert_same_artifacts(theirs: &BTreeMap<PathBuf, (Vec<u8>, u64)>, ours: &BTreeMap<PathBuf, (Vec<u8>, u64)>, case: &str) {
    for (path, (expected, inode)) in theirs {
        let (bytes, own_inode) = &ours[path];
        let artifact = Artifact::split(bytes).unwrap();
        let head = Pyc.head(&expected[..16.min(expected.len())], None, None).unwrap();
        assert_eq!(expected[..head.len], artifact.payload[..head.len], "{case}: the header of {}", path.display());
        let compared = Pyc.compare(&head, expected, &artifact.payload[head.len..]);
        assert_eq!(compared, Ok(Compared::Same), "{case}: the code of {}", path.display());
        let shared = |all: &BTreeMap<PathBuf, (Vec<u8>, u64)>, inode| all.values().filter(|(_, other)| *other == inode).count();
        assert_eq!(shared(theirs, *inode), shared(ours, *own_inode), "{case}: names of {}", path.display());
        assert_eq!(artifact.seal.is_some(), shared(ours, *own_inode) == 1, "{case}: the seal of {}", path.display());
    }
}

#[test]
fn side_by_side() {
    for python in pythons() {
        let minor = python.version.1;
        let cases: Vec<&str> = CASES.iter().filter(|(_, (from, to))| (*from..=*to).contains(&minor)).map(|(line, _)| *line).collect();
        std::thread::scope(|scope| {
            // Two at a time: most of the time is spent in starting interpreters.
            for half in cases.chunks(cases.len().div_ceil(2)) {
                scope.spawn(move || half.iter().for_each(|line| beside(python, line)));
            }
        });
        aloud(&format!("{}: {} argument lists give the same", python.tag, cases.len()));
    }
}

fn beside(python: &Python, line: &str) {
    let case = format!("{} {line}", python.tag);
    let ground = Ground::new();
    ground.renew();
    let theirs = ground.theirs(python, line);
    let artifacts = ground.artifacts();
    ground.renew();
    let (ours, stderr) = ground.ours(python, line);
    assert_eq!(ours.stdout, theirs.stdout, "{case}: {stderr}");
    assert_eq!(ours, theirs, "{case}: {stderr}");
    assert_same_artifacts(&artifacts, &ground.artifacts(), &case);
}

/// What CPython has made counts for us as for it, and the other way round.
#[test]
fn what_the_other_made_is_current() {
    for python in pythons() {
        let ground = Ground::new();
        ground.renew();
        std::fs::remove_dir_all(ground.at("t/sub")).unwrap();
        for bad in ["t/bad.py", "t/later.py", "t/indent.py"] {
            std::fs::remove_file(ground.at(bad)).unwrap();
        }
        let line = "t";
        assert!(ground.theirs(python, line).stdout.contains("Compiling"));
        let before = ground.artifacts();
        let (ours, _) = ground.ours(python, line);
        assert_eq!((ours.stdout.as_str(), ours.code), ("Listing 't'...\n", Some(0)), "{}", python.tag);
        assert_eq!(ground.artifacts(), before, "{}: it is left as it stands", python.tag);
        assert!(ground.ours(python, "-f t").0.stdout.contains("Compiling"));
        assert_eq!(ground.theirs(python, line).stdout, "Listing 't'...\n", "{}", python.tag);
    }
}

#[test]
fn variables_and_words_choose_the_interpreter() {
    let python = newest();
    let ground = Ground::new();
    ground.renew();
    let chosen = |own: &[&str], line: &str| {
        ground.renew();
        let mut command = Command::new(BYTEKEEP);
        command.args(own);
        ground.run(command, line).0
    };
    let artifact = PathBuf::from(format!("t/__pycache__/a.{}.pyc", python.tag));
    let path = python.path.to_str().unwrap();
    assert!(chosen(&["compileall"], &format!("BYTEKEEP_PYTHON={path} -q t/a.py")).names.contains(&artifact));
    assert!(chosen(&["compileall", &format!("--python={path}"), "--durability", "none"], "t/a.py").names.contains(&artifact));
    assert!(chosen(&["-v", "compileall", "--python", path], "-q t/a.py").names.contains(&artifact));
    let help = chosen(&["compileall"], "--help");
    assert!(help.code == Some(0) && help.stdout.contains("--python") && help.stdout.contains("--hardlink-dupes"), "{}", help.stdout);
    let missing = chosen(&["compileall", "--python", "/nowhere/python"], "-q t");
    assert_eq!(missing.code, Some(2));
}

/// The table of the manual: where we differ on purpose. Each case shows what CPython does and what we do, so that neither can change
/// without a word.
#[test]
fn differences_are_those_of_the_manual() {
    let manual =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("man/bytekeep-compileall.1")).unwrap().replace('\\', "");
    let differ = |row: &str| assert!(manual.contains(row), "the manual has no row `{row}`");
    let python = newest();
    let ground = Ground::new();
    let artifact = ground.at(&format!("t/__pycache__/a.{}.pyc", python.tag));

    differ("a cut or damaged artifact with a good header");
    ground.renew();
    ground.theirs(python, "-q t/a.py");
    let whole = std::fs::read(&artifact).unwrap();
    std::fs::write(&artifact, &whole[..whole.len() - 5]).unwrap();
    assert_eq!(ground.theirs(python, "t/a.py").stdout, "", "CPython takes it for current");
    let (ours, _) = ground.ours(python, "t/a.py");
    assert_eq!((ours.stdout.as_str(), ours.code), ("Compiling 't/a.py'...\n", Some(0)));

    differ("a source changed within the same second");
    ground.renew();
    ground.theirs(python, "-q t/a.py");
    std::fs::write(ground.at("t/a.py"), "x = 1234\n").unwrap();
    set_mtime(&ground.at("t/a.py"), 1_600_000_000);
    assert_eq!(ground.theirs(python, "t/a.py").stdout, "", "CPython takes it for current");
    assert_eq!(ground.ours(python, "t/a.py").0.stdout, "Compiling 't/a.py'...\n");

    differ("a source over --max-source");
    ground.renew();
    assert_eq!(ground.theirs(python, "-q t/a.py").code, Some(0));
    ground.renew();
    let (ours, _) = ground.ours_with(python, &["--max-source", "3"], "-q t/a.py");
    assert_eq!(ours.code, Some(1));
    assert!(ours.stdout.starts_with("*** Error compiling 't/a.py'...\nbytekeep: "), "{}", ours.stdout);

    differ("PYTHONOPTIMIZE above 2");
    ground.renew();
    assert_eq!(ground.theirs(python, "PYTHONOPTIMIZE=3 t/a.py").code, Some(0));
    ground.renew();
    let (ours, stderr) = ground.ours(python, "PYTHONOPTIMIZE=3 t/a.py");
    assert!(ours.code == Some(2) && stderr.contains("PYTHONOPTIMIZE"), "{stderr}");

    differ("the name of a temporary file in an error");
    ground.renew();
    std::fs::remove_dir_all(ground.at("t/__pycache__")).unwrap();
    std::fs::write(ground.at("t/__pycache__"), "").unwrap();
    let theirs = ground.theirs(python, "t/a.py");
    let (ours, _) = ground.ours(python, "t/a.py");
    let (stem, number) = theirs.stdout.trim_end().trim_end_matches('\'').rsplit_once('.').unwrap();
    assert!(number.bytes().all(|byte| byte.is_ascii_digit()), "{theirs:?}");
    assert_eq!((ours.stdout, ours.code), (format!("{stem}'\n"), theirs.code));

    differ("PYTHONWARNINGS and other variables");
    ground.renew();
    std::fs::write(ground.at("t/a.py"), "x = 'a' is 'b'\n").unwrap();
    assert_eq!(ground.theirs(python, "PYTHONWARNINGS=error t/a.py").code, Some(1));
    assert_eq!(ground.ours(python, "PYTHONWARNINGS=error t/a.py").0.code, Some(0));

    differ("a write that stops short");
    // 1 KiB is the most that a file may have.
    let limited = |program: &str, args: &[&str]| {
        ground.renew();
        std::fs::write(ground.at("t/a.py"), format!("x = '{}'\n", "abcdefgh".repeat(400))).unwrap();
        let mut command = Command::new("bash");
        command.args(["-c", "ulimit -f 1; exec \"$@\"", "bash", program]).args(args);
        let (came, _) = ground.run(command, "-q t/a.py");
        (came.code, std::fs::read(&artifact).map_or(0, |bytes| bytes.len()))
    };
    let path = python.path.to_str().unwrap();
    let theirs = limited(path, &["-m", "compileall"]);
    assert!(theirs == (Some(0), 1024) || theirs == (Some(1), 0), "half a file, or from a mended version none: {theirs:?}");
    assert_eq!(limited(BYTEKEEP, &["compileall", "--python", path]), (Some(1), 0), "nothing, and that is told");

    differ("a list (-i) with names that are no UTF-8");
    ground.renew();
    std::fs::write(ground.at("list"), b"t/a.py\nt/\xff.py\n").unwrap();
    assert_eq!(ground.theirs(python, "-q -i list").code, Some(1));
    assert_eq!(ground.ours(python, "-q -i list").0.code, Some(0));

    differ("a file whose whole name is .py");
    ground.renew();
    std::fs::write(ground.at("t/.py"), "x = 1\n").unwrap();
    let came = ground.theirs(python, "-q t/.py");
    assert_eq!((came.code, ground.at(&format!("t/__pycache__/py.{}.pyc", python.tag)).exists()), (Some(0), true));
    ground.renew();
    std::fs::write(ground.at("t/.py"), "x = 1\n").unwrap();
    let (ours, _) = ground.ours(python, "-q t/.py");
    assert!(ours.code == Some(1) && ours.stdout.contains("its name is an ending alone"), "{}", ours.stdout);
    assert!(!ground.at(&format!("t/__pycache__/py.{}.pyc", python.tag)).exists());
    std::fs::remove_file(ground.at("t/.py")).unwrap();

    // The order with several workers is chance there, so only ours can be shown.
    differ("lines with -j N");
    ground.renew();
    let serial = ground.ours(python, "t").0;
    ground.renew();
    assert_eq!(ground.ours(python, "-j 3 t").0, serial);

    // No difference: a place for temporary files that is not there is no trouble to either.
    ground.renew();
    let theirs = ground.theirs(python, "TMPDIR=/no/such/place t/a.py");
    ground.renew();
    assert_eq!(ground.ours(python, "TMPDIR=/no/such/place t/a.py").0, theirs);

    // Every other test here holds this one.
    differ("bytes of artifacts");
}

/// Without paths all of `sys.path` is done, also where one of its directories fails. The interpreter's own library goes to a prefix.
#[test]
fn all_of_the_path_is_done() {
    let manual = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("man/bytekeep-compileall.1")).unwrap();
    assert!(manual.contains("a directory of sys.path that fails"), "the manual tells it");
    let python = newest();
    let ground = Ground::new();
    let line = "PYTHONPATH=t/sub:t/sub/deep/er PYTHONPYCACHEPREFIX=prefix";
    let compiled = |came: &Came| came.names.iter().any(|name| name.ends_with(format!("sub/deep/er/c.{}.pyc", python.tag)));
    ground.renew();
    let theirs = ground
        .run(
            {
                let mut command = Command::new(&python.path);
                command.args(["-m", "compileall", "-qq"]);
                command
            },
            line,
        )
        .0;
    assert!(theirs.code == Some(1) && !compiled(&theirs), "CPython stops at the first directory that fails");
    ground.renew();
    let ours = ground
        .run(
            {
                let mut command = Command::new(BYTEKEEP);
                command.args(["compileall", "--python"]).arg(&python.path).arg("-qq");
                command
            },
            line,
        )
        .0;
    assert!(ours.code == Some(1) && compiled(&ours), "{}", ours.stdout);
}

#[test]
fn artifacts_are_sound_to_verify() {
    let python = newest();
    let ground = Ground::new();
    ground.renew();
    for line in ["-qq t", "-qq -b -o 0 -o 2 t", "-qq -o 0 -o 1 -o 2 --hardlink-dupes t"] {
        ground.ours(python, line);
    }
    let mut command = Command::new(BYTEKEEP);
    command.args(["verify", "-q"]);
    let (came, stderr) = ground.run(command, "t");
    assert_eq!(came.code, Some(0), "{stderr}");
    let mut command = Command::new(BYTEKEEP);
    command.arg("inspect");
    let (came, stderr) = ground.run(command, "t/a.pyc");
    assert_eq!(came.code, Some(0), "{}{stderr}", came.stdout);
}

/// An interrupt ends it as it ends compileall.
#[test]
fn an_interrupt_is_told() {
    let python = newest();
    let ground = Ground::new();
    ground.renew();
    // A list that never ends.
    let fifo = ground.at("fifo");
    whole::must("mkfifo", &[&fifo]);
    let mut command = Command::new(BYTEKEEP);
    command.args(["compileall", "--python"]).arg(&python.path).args(["-i", "fifo"]).current_dir(ground.at(""));
    command.env("HOME", ground.top.path()).env("BYTEKEEP_NO_CONFIG", "1").env("BYTEKEEP_STORE", ground.at("store"));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Once it reads, it listens: opening for writing waits for that.
    let open = std::fs::OpenOptions::new().write(true).open(&fifo).unwrap();
    whole::must("kill", &["-INT".to_owned(), child.id().to_string()]);
    let mut stdout = String::new();
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    assert_eq!((child.wait().unwrap().code(), stdout.as_str()), (Some(1), "\n[interrupted]\n"));
    drop(open);
}
