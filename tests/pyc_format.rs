//! The format against real interpreters: what they write is sound, what they refuse is found.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, reason = "tests write and damage files of their own")]

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytekeep::base::seal::{Artifact, Digest};
use bytekeep::base::source::Source;
use bytekeep::base::sys::{Kind, Name, Stat, Time};
use bytekeep::base::{Flaw, FlawKind};
use bytekeep::model::{Format, Head, Layout, Level, Mode, Recognised, Stamp, Target};
use bytekeep::python::magic::{self, Standing};
use bytekeep::python::pyc::Pyc;
use support::{Python, interpreters};

const PAGE: usize = 4096;

/// Compiles copies of files of the interpreter's own library, and tells what the interpreter thinks of each artifact.
const MAKE: &str = r"
from __future__ import print_function
import os, sys, py_compile, shutil, binascii
out, count = sys.argv[1], int(sys.argv[2])
lib = os.path.dirname(os.__file__)
files = []
for top, dirs, names in os.walk(lib):
    dirs[:] = sorted(d for d in dirs if d not in ('site-packages', 'dist-packages', '__pycache__', 'bad', 'data', 'idlelib'))
    names = [os.path.join(top, n) for n in sorted(names) if n.endswith('.py')]
    files += [n for n in names if os.path.isfile(n) and 0 < os.path.getsize(n) < 60000]
files = files[::max(1, len(files) // count)]
modern = sys.version_info >= (3, 7)
old = sys.version_info < (3,)
if not old:
    import importlib.util, importlib._bootstrap_external as ext
def agrees(source, artifact):
    if old:
        return 1
    with open(artifact, 'rb') as file:
        data = file.read()
    stat = ext.SourceFileLoader('x', source).path_stats(source)
    try:
        if modern:
            ext._validate_timestamp_pyc(data, int(stat['mtime']), stat['size'], 'x', {})
        else:
            ext._validate_bytecode_header(data, source_stats=stat, name='x', path=artifact)
        return 1
    except ImportError:
        return 0
odd = [(-1, 500000000), (-2, 500000000), (2 ** 31 + 5, 0)] + ([(2 ** 32 + 7, 1)] if modern else [])
for index, original in enumerate(files):
    folder = os.path.join(out, str(index))
    os.mkdir(folder)
    source = os.path.join(folder, os.path.basename(original)[:-3] + ('.part.py' if index % 3 == 0 else '.py'))
    shutil.copyfile(original, source)
    if old:
        os.utime(source, (1600000000 + index, 1600000000 + index))
    else:
        nanos = [0, 500000000, 999999880, 999999881, 999999999][index % 5]
        second, nanos = odd[index // 7 % len(odd)] if index % 7 == 3 else (1600000000 + index, nanos)
        os.utime(source, ns=(0, second * 10 ** 9 + nanos))
    levels = [0] if old else [0, 1 + index % 2, 2 - index % 2]
    for turn, level in enumerate(levels):
        mode = (0 if turn == 0 else (index + turn) % 3) if modern else 0
        if old:
            artifact = source + 'c'
        else:
            artifact = importlib.util.cache_from_source(source, optimization='' if level == 0 else level)
        extra = {}
        if not old:
            extra['optimize'] = level
        if modern:
            extra['invalidation_mode'] = [py_compile.PycInvalidationMode.TIMESTAMP, py_compile.PycInvalidationMode.CHECKED_HASH,
                py_compile.PycInvalidationMode.UNCHECKED_HASH][mode]
        try:
            py_compile.compile(source, artifact, 'lib/' + os.path.basename(source), True, **extra)
        except py_compile.PyCompileError:
            continue
        told = '-'
        if modern:
            with open(source, 'rb') as file:
                told = binascii.hexlify(importlib.util.source_hash(file.read())).decode('ascii')
        print('\t'.join([source, artifact, str(level), str(mode), str(agrees(source, artifact) if mode == 0 else 0), told]))
";

/// Answers for each marshalled body on its input what `loads` makes of it.
const LOADS: &str = r"
import sys, marshal, struct, resource
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
inp = getattr(sys.stdin, 'buffer', sys.stdin)
while True:
    head = inp.read(4)
    if len(head) < 4:
        break
    data = inp.read(struct.unpack('<I', head)[0])
    try:
        answer = 'ok' if type(marshal.loads(data)).__name__ == 'code' else 'no code'
    except BaseException as error:
        answer = type(error).__name__ + ' ' + repr(error)
    sys.stdout.write(answer.replace('\n', ' ') + '\n')
    sys.stdout.flush()
";

struct Made {
    source: PathBuf,
    artifact: PathBuf,
    level: u8,
    mode: Mode,
    agrees: bool,
    hash: String,
}

fn make(python: &Python, dir: &Path, count: usize) -> Vec<Made> {
    let mut command = python.command();
    command.args(["-S", "-W", "ignore", "-c", MAKE]).arg(dir).arg(count.to_string());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}: {}", python.tag, String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let made: Vec<Made> = text
        .lines()
        .map(|line| {
            let part: Vec<&str> = line.split('\t').collect();
            Made {
                source: part[0].into(),
                artifact: part[1].into(),
                level: part[2].parse().unwrap(),
                mode: [Mode::Timestamp, Mode::CheckedHash, Mode::UncheckedHash][part[3].parse::<usize>().unwrap()],
                agrees: part[4] == "1",
                hash: part[5].to_owned(),
            }
        })
        .collect();
    assert!(made.len() >= count / 2, "{} compiled only {} files", python.tag, made.len());
    made
}

/// What `marshal.loads` answers for each body. A body that kills the interpreter gets the answer `died`.
fn loads(python: &Python, bodies: &[Vec<u8>]) -> Vec<String> {
    let mut answers: Vec<String> = Vec::new();
    while answers.len() < bodies.len() {
        let mut child =
            python.command().args(["-S", "-c", LOADS]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let todo = &bodies[answers.len()..];
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for body in todo {
                    let len = u32::try_from(body.len()).unwrap().to_le_bytes();
                    // The child may be dead: its answers tell.
                    if input.write_all(&len).and_then(|()| input.write_all(body)).is_err() {
                        return;
                    }
                }
            });
            answers.extend(BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap));
        });
        child.wait().unwrap();
        if answers.len() < bodies.len() {
            answers.push("died".to_owned());
        }
    }
    answers
}

fn stat(path: &Path) -> Stat {
    let meta = path.metadata().unwrap();
    let time = |sec, nsec| Time { sec, nsec: u32::try_from(nsec).unwrap() };
    Stat {
        dev: meta.dev(),
        ino: meta.ino(),
        kind: Kind::File,
        mode: meta.mode(),
        uid: meta.uid(),
        gid: meta.gid(),
        nlink: meta.nlink(),
        size: meta.size(),
        mtime: time(meta.mtime(), meta.mtime_nsec()),
        ctime: time(meta.ctime(), meta.ctime_nsec()),
    }
}

fn name(path: &Path) -> Name {
    Name::new(path.file_name().unwrap()).unwrap()
}

fn judge(artifact: &[u8], tag: Option<&str>) -> Result<Head, Flaw> {
    let head = Pyc.head(&artifact[..artifact.len().min(16)], tag, None)?;
    Pyc.deep_body(&head, artifact)?;
    Ok(head)
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % limit
    }
}

#[test]
fn what_interpreters_write_is_read_and_written_the_same() {
    for python in interpreters() {
        let dir = tempfile::tempdir().unwrap();
        let target = Target { tag: Arc::from(&*python.tag), magic: python.magic, variant: Arc::from("") };
        let layout = Pyc.layout(&target);
        let made = make(&python, dir.path(), 60);
        for one in &made {
            let place = one.artifact.display();
            let (source_name, artifact_name) = (name(&one.source), name(&one.artifact));
            assert!(Pyc.is_source(&source_name));
            let Recognised::Artifact { source, tag, level, known: true } = Pyc.recognise(&artifact_name, layout) else {
                panic!("{place} is not recognised")
            };
            assert_eq!((source, level), (source_name.clone(), Level::Known(one.level)), "{place}");
            assert_eq!(tag.as_deref(), (layout == Layout::Cache).then_some(&*python.tag), "{place}");
            assert_eq!(Pyc.artifact_name(&source_name, &target, one.level).as_ref(), Some(&artifact_name), "{place}");

            let bytes = std::fs::read(&one.artifact).unwrap();
            let head = judge(&bytes, tag.as_deref()).unwrap_or_else(|flaw| panic!("{place}: {flaw:?}"));
            assert_eq!((head.magic, &*head.tag, head.mode()), (python.magic, &*python.tag, one.mode), "{place}");
            let content = std::fs::read(&one.source).unwrap();
            let source = Source { digest: Digest::of(&content), stat: stat(&one.source), bytes: content };
            assert_eq!(Pyc.agrees(&head, &source.stat), one.agrees, "{place} {:?} {:?}", head.stamp, source.stat.mtime);
            if one.hash != "-" {
                let hash = Pyc.source_hash(python.magic, &source.bytes);
                assert_eq!(format!("{:016x}", u64::from_be_bytes(hash)), one.hash, "{place}");
                if let Stamp::Hash { hash: stored, .. } = head.stamp {
                    assert_eq!(stored, hash, "{place}");
                }
            }
            assert!(Pyc.dress(&target, one.mode, &source.stat, &source.bytes, &bytes[head.len..]) == bytes, "{place} is dressed otherwise");
        }
        println!("{}: {} artifacts", python.tag, made.len());
    }
}

#[test]
fn every_cut_is_found() {
    for python in interpreters() {
        let dir = tempfile::tempdir().unwrap();
        let mut sizes: Vec<(u64, PathBuf)> =
            make(&python, dir.path(), 30).into_iter().map(|made| (made.artifact.metadata().unwrap().len(), made.artifact)).collect();
        sizes.sort();
        let mut cuts = 0;
        for (_, path) in sizes.iter().filter(|(size, _)| *size <= 12_000).step_by(4) {
            let bytes = std::fs::read(path).unwrap();
            for cut in 0..bytes.len() {
                match judge(&bytes[..cut], Some(&python.tag)) {
                    Err(flaw) => assert_eq!(flaw.kind, FlawKind::Truncated, "{} cut at {cut}: {flaw:?}", path.display()),
                    Ok(_) => panic!("{} cut at {cut} is called sound", path.display()),
                }
                cuts += 1;
            }
        }
        assert!(cuts > 0);
        println!("{}: {cuts} cuts", python.tag);
    }
}

#[test]
fn what_loads_refuses_is_found() {
    for python in interpreters() {
        let dir = tempfile::tempdir().unwrap();
        let artifacts: Vec<Vec<u8>> =
            make(&python, dir.path(), 40).iter().step_by(3).map(|made| std::fs::read(&made.artifact).unwrap()).collect();
        let head = judge(&artifacts[0], Some(&python.tag)).unwrap();

        let mut pages = Vec::new();
        let mut changed = Vec::new();
        let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
        for artifact in &artifacts {
            for page in (PAGE..artifact.len()).step_by(PAGE) {
                let end = artifact.len().min(page + PAGE);
                for end in [end, artifact.len()] {
                    let mut bad = artifact.clone();
                    bad[page..end].fill(0);
                    pages.push(bad);
                }
            }
            for _ in 0..20 {
                let mut bad = artifact.clone();
                let at = head.len + dice.below(bad.len() - head.len);
                bad[at] ^= if dice.below(2) == 0 { 1 << dice.below(8) } else { u8::try_from(1 + dice.below(255)).unwrap() };
                changed.push(bad);
            }
        }
        for (what, all) in [("zeroed pages and tails", pages), ("changed bytes", changed)] {
            let bodies: Vec<Vec<u8>> = all.iter().map(|bad| bad[head.len..].to_vec()).collect();
            let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
            for (bad, answer) in all.iter().zip(loads(&python, &bodies)) {
                let ours = judge(bad, Some(&python.tag));
                let refused = answer.starts_with("EOFError") || answer.contains("bad marshal data") || answer.starts_with("MemoryError");
                let must = if what == "changed bytes" { refused } else { answer != "ok" };
                assert!(!must || ours.is_err(), "{}: {what}: loads says {answer}, and it is called sound", python.tag);
                let kind = if refused {
                    "refused by loads"
                } else if answer == "ok" {
                    "loaded"
                } else {
                    "other error"
                };
                *counts.entry((kind, ours.map_or_else(|flaw| flaw.code, |_| "sound"))).or_default() += 1;
            }
            println!("{} {what}: {counts:?}", python.tag);
        }
    }
}

fn lies_within(python: &Python) -> Vec<PathBuf> {
    let script = "import sys, os\nfor p in sys.path + [os.path.dirname(os.__file__)]:\n  if os.path.isdir(p): print(os.path.realpath(p))";
    let output = python.command().args(["-c", script]).current_dir("/").output().unwrap();
    let mut dirs: Vec<PathBuf> = String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from).collect();
    dirs.retain(|dir| dir.parent().is_some());
    dirs.sort();
    dirs.dedup();
    let all = dirs.clone();
    dirs.retain(|dir| !all.iter().any(|other| other != dir && dir.starts_with(other)));
    dirs
}

/// What is installed on this machine: some of each interpreter's library, and all below the directories in `BYTEKEEP_TEST_PYCS`.
#[test]
fn nothing_installed_is_called_damaged() {
    let pythons = interpreters();
    let mut roots: Vec<(PathBuf, usize)> = pythons.iter().flat_map(lies_within).map(|dir| (dir, 1000)).collect();
    roots.extend(std::env::var_os("BYTEKEEP_TEST_PYCS").iter().flat_map(std::env::split_paths).map(|dir| (dir, usize::MAX)));
    let (mut files, mut bytes, mut unknown, mut spent) = (0, 0, 0, Duration::ZERO);
    let mut alarms = Vec::new();
    for (root, limit) in roots {
        let found = walkdir::WalkDir::new(root).into_iter().filter_entry(|entry| entry.path() != Path::new("/proc")).flatten();
        let pycs = found.filter(|entry| entry.file_type().is_file() && entry.path().extension().is_some_and(|end| end == "pyc"));
        for entry in pycs.take(limit) {
            let Ok(bytes_read) = std::fs::read(entry.path()) else { continue };
            // A seal is not the walk's business, and a bad one not this test's.
            let Ok(Artifact { payload: artifact, .. }) = Artifact::split(&bytes_read) else { continue };
            let in_cache = entry.path().parent().is_some_and(|dir| dir.ends_with("__pycache__"));
            let layout = if in_cache { Layout::Cache } else { Layout::Beside };
            let Recognised::Artifact { tag, known: true, .. } = Pyc.recognise(&name(entry.path()), layout) else { continue };
            let start = Instant::now();
            let judged = judge(artifact, tag.as_deref());
            spent += start.elapsed();
            files += 1;
            bytes += artifact.len();
            let Err(flaw) = judged else { continue };
            if flaw.kind == FlawKind::Unknown {
                unknown += 1;
                continue;
            }
            // A machine may hold damaged artifacts: only what its interpreter would load is a false alarm. Bytes behind the code are
            // none either, but then what is before them must load.
            let end = flaw.offset.filter(|_| flaw.code == "trailing").and_then(|end| usize::try_from(end).ok());
            let python = pythons.iter().find(|python| artifact.starts_with(&python.magic));
            let body = Pyc
                .head(&artifact[..artifact.len().min(16)], None, None)
                .map(|head| artifact[head.len.min(artifact.len())..end.unwrap_or(artifact.len())].to_vec());
            if let (Some(python), Ok(body)) = (python, body)
                && (loads(python, &[body]) == ["ok"]) == end.is_none()
            {
                alarms.push(format!("{}: {flaw:?}", entry.path().display()));
            } else {
                println!("damaged or not to be asked for: {}: {flaw:?}", entry.path().display());
            }
        }
    }
    let rate = f64::from(u32::try_from(bytes / 1000).unwrap()) / 1000.0 / spent.as_secs_f64();
    println!("{files} artifacts, {bytes} bytes, {unknown} unknown, {} false alarms, {rate:.0} MB/s", alarms.len());
    assert!(files > 0, "there is nothing to walk");
    assert!(alarms.is_empty(), "{}", alarms.join("\n"));
}

/// Artifacts of `sample.py`, kept as bytes: whatever interpreters come and go, these stay sound.
#[test]
fn the_kept_artifacts_are_sound() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pyc");
    let size = dir.join("sample.py").metadata().unwrap().len();
    let mut seen = 0;
    for entry in dir.read_dir().unwrap().flatten().filter(|entry| entry.path().extension().is_some_and(|end| end == "pyc")) {
        let bytes = std::fs::read(entry.path()).unwrap();
        let path = entry.path();
        let tag = path.file_stem().unwrap().to_str().unwrap();
        let head = judge(&bytes, Some(tag)).unwrap_or_else(|flaw| panic!("{tag}: {flaw:?}"));
        assert_eq!(&*head.tag, tag);
        let mtime = Time { sec: 1_700_000_000, nsec: 0 };
        assert!(Pyc.agrees(&head, &Stat { size, mtime, ..stat(&path) }), "{tag}");
        assert!(!Pyc.agrees(&head, &Stat { size, mtime: Time { sec: 1_700_000_001, nsec: 0 }, ..stat(&path) }), "{tag}");
        for cut in 0..bytes.len() {
            assert_eq!(judge(&bytes[..cut], Some(tag)).unwrap_err().kind, FlawKind::Truncated, "{tag} cut at {cut}");
        }
        seen += 1;
    }
    assert!(seen >= 12, "only {seen} artifacts are kept");
}

/// `importlib` lists the magic numbers of all versions before its own, in comments, up to 3.13.
fn listed_by(python: &Python) -> Vec<(String, u16)> {
    let script = "import importlib, os; print(os.path.join(os.path.dirname(importlib.__file__), '_bootstrap_external.py'))";
    let output = python.command().args(["-c", script]).current_dir("/").output().unwrap();
    let Ok(text) = std::fs::read_to_string(String::from_utf8_lossy(&output.stdout).trim()) else { return Vec::new() };
    let line = |line: &str| {
        let mut words = line.strip_prefix('#')?.trim_start().strip_prefix("Python")?.split_whitespace();
        let version = words.next()?.trim_end_matches(':');
        let (major, minor) = version.split_once('.')?;
        let minor: String = minor.chars().take_while(char::is_ascii_digit).collect();
        Some((format!("cpython-{major}{minor}"), words.next()?.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

#[test]
fn the_magic_numbers_that_interpreters_list_are_known() {
    let mut seen = BTreeMap::new();
    for (tag, number) in interpreters().iter().flat_map(listed_by) {
        // What 2.6 and older wrote is not read; the numbers of 3.0's first alphas stand without a version.
        if tag == "cpython-27" || tag.starts_with("cpython-3") {
            seen.insert(number, tag);
        }
    }
    assert!(seen.len() > 90, "no interpreter here lists magic numbers: {seen:?}");
    for (number, tag) in &seen {
        let row = magic::row_of(*number).unwrap_or_else(|| panic!("{number} of {tag} is not known"));
        assert_eq!(row.tag, tag, "{number}");
        let header = match number {
            ..3210 | 62000.. => 8,
            3210..3392 => 12,
            3392.. => 16,
        };
        assert_eq!(row.header, header, "{number}");
        let last = seen.iter().filter(|(_, other)| *other == tag).map(|(number, _)| number).max() == Some(number);
        // 3.5.2 changed it: both are releases'.
        assert_eq!(row.standing == Standing::Release, last || *number == 3350, "{number} of {tag}");
    }
    println!("{} magic numbers, {:?} to {:?}", seen.len(), seen.keys().next(), seen.keys().last());
    for python in interpreters() {
        let row = magic::row_of(u16::from_le_bytes([python.magic[0], python.magic[1]])).unwrap();
        assert_eq!((row.tag, row.standing), (&*python.tag, Standing::Release));
    }
}
