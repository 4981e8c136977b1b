//! Bodies that were changed without an interpreter, against real interpreters: they load, and are what a compile gives.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub,
    reason = "a test's own files, and it tells what it ran on"
)]

#[path = "support/pythons.rs"]
mod pythons;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use bytekeep::base::source::Source;
use bytekeep::base::sys::{Dir, Name};
use bytekeep::model::{Compiler, Format, Head, Mode, Request};
use bytekeep::python::Pyc;
use bytekeep::python::interpreter::Interpreter;
use bytekeep::python::objects::Objects;
use bytekeep::python::pool::{Limits, WorkerPool};
use bytekeep::python::rewrite::{Refusal, rename, renumber, stamp};

const SAMPLES: usize = 40;

/// For triples of a file name and two bodies: does the first load with that name everywhere, and is it the same code as the second?
const JUDGE: &str = "
import marshal, struct, sys
inp = getattr(sys.stdin, 'buffer', sys.stdin)
def part():
    head = inp.read(4)
    return inp.read(struct.unpack('<I', head)[0]) if len(head) == 4 else None
def names(code):
    yield code.co_filename
    for one in code.co_consts:
        if isinstance(one, type(code)):
            for name in names(one):
                yield name
while True:
    name, mine, other = part(), part(), part()
    if name is None:
        break
    if sys.version_info >= (3,):
        name = name.decode('utf-8', 'surrogateescape')
    mine, other = marshal.loads(mine), marshal.loads(other)
    wrong = sorted(set(one for one in names(mine) if one != name))
    sys.stdout.write('ok\\n' if not wrong and mine == other else 'names %r equal %r\\n' % (wrong, mine == other))
    sys.stdout.flush()
";

/// Dumps the code of each source that its input names twice: as it comes, and while much of it is held by others too.
const TWICE: &str = "
import marshal, struct, sys
out = getattr(sys.stdout, 'buffer', sys.stdout)
def all_of(one, into):
    into.append(one)
    if isinstance(one, (tuple, frozenset)):
        for part in one:
            all_of(part, into)
    elif hasattr(one, 'co_consts'):
        for part in (one.co_code, one.co_consts, one.co_names, one.co_varnames, one.co_filename, one.co_name):
            all_of(part, into)
for line in sys.stdin:
    with open(line.rstrip('\\n'), 'rb') as file:
        text = file.read()
    try:
        first = marshal.dumps(compile(text, 'named.py', 'exec', dont_inherit=True))
    except (SyntaxError, ValueError):
        continue
    code, held = compile(text, 'named.py', 'exec', dont_inherit=True), []
    all_of(code, held)
    for dump in (first, marshal.dumps(code)):
        out.write(struct.pack('<I', len(dump)) + dump)
";

fn command(interpreter: &Interpreter) -> Command {
    let mut command = Command::new(&interpreter.executable);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PYTHON") || name == "SOURCE_DATE_EPOCH" {
            command.env_remove(name);
        }
    }
    command.env("PYTHONHASHSEED", "0").arg("-S").args(["-W", "ignore"]);
    command
}

fn feed(mut command: Command, input: Vec<u8>) -> Vec<u8> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let done = child.wait_with_output().unwrap();
    assert!(writer.join().unwrap().is_ok() && done.status.success(), "{}", done.status);
    done.stdout
}

fn sources(interpreter: &Interpreter) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = Vec::new();
    let mut dirs = vec![interpreter.stdlib.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in dir.read_dir().unwrap().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            if path.is_dir() && !["site-packages", "dist-packages", "test", "tests", "bad", "data"].iter().any(|skip| name == *skip) {
                dirs.push(path);
            } else if path.extension().is_some_and(|end| end == "py") && (1..60_000).contains(&entry.metadata().unwrap().len()) {
                all.push(path);
            }
        }
    }
    all.sort();
    let step = (all.len() / SAMPLES).max(1);
    all.into_iter().step_by(step).collect()
}

fn read(path: &Path) -> Source {
    let dir = Dir::open_root(path.parent().unwrap()).unwrap();
    Source::read(&dir, &Name::new(path.file_name().unwrap()).unwrap(), 1 << 20).unwrap()
}

struct Shop {
    interpreter: Interpreter,
    pool: WorkerPool,
}

impl Shop {
    fn of(interpreter: Interpreter) -> Self {
        let pool = WorkerPool::new(&interpreter, Limits { jobs: 1, timeout: Some(Duration::from_secs(60)), ..Limits::default() });
        Self { interpreter, pool }
    }

    /// The payload that a compile under this name gives. `None`: the source is bad on purpose.
    fn compile(&self, source: &Source, filename: &[u8]) -> Option<Vec<u8>> {
        let made = self.pool.compile(&Request { source: &source.bytes, filename, level: 0 }).ok()?;
        Some(Pyc.dress(&self.interpreter.target, Mode::Timestamp, &source.stat, &source.bytes, &made.code))
    }

    fn head(&self, payload: &[u8]) -> Head {
        Pyc.head(&payload[..16], Some(&self.interpreter.target.tag), Some(&self.interpreter.target)).unwrap()
    }

    fn judge(&self, rows: &[(Vec<u8>, Vec<u8>, Vec<u8>)]) {
        let mut input = Vec::new();
        for (name, mine, other) in rows {
            let (a, b) = (self.head(mine).len, self.head(other).len);
            for part in [&name[..], &mine[a..], &other[b..]] {
                input.extend(u32::try_from(part.len()).unwrap().to_le_bytes());
                input.extend(part);
            }
        }
        let mut command = command(&self.interpreter);
        command.args(["-c", JUDGE]);
        let answers = String::from_utf8(feed(command, input)).unwrap();
        assert_eq!(answers.lines().count(), rows.len());
        for (answer, (name, ..)) in answers.lines().zip(rows) {
            assert_eq!(answer, "ok", "{} {}", self.interpreter.target.tag, String::from_utf8_lossy(name));
        }
    }
}

fn new_names(old: &str) -> Vec<Vec<u8>> {
    let long = format!("/{}{old}", "a-directory/".repeat(27));
    assert!(long.len() > 320);
    let mut latin = format!("/opt/{old}").into_bytes();
    latin[2] = 0xE9;
    vec![format!("/usr/lib/{old}").into_bytes(), long.into_bytes(), format!("/opt/Bücher-\u{1F40D}/{old}").into_bytes(), latin]
}

#[test]
fn another_file_name_is_what_a_compile_under_it_gives() {
    for interpreter in pythons::all() {
        let shop = Shop::of(interpreter);
        let tag = shop.interpreter.target.tag.clone();
        let pypy = shop.interpreter.implementation == "pypy";
        let (mut rows, mut equal, mut tried) = (Vec::new(), 0, 0);
        for path in sources(&shop.interpreter) {
            let source = read(&path);
            let old = format!("lib/{}", path.file_name().unwrap().to_str().unwrap());
            let Some(payload) = shop.compile(&source, old.as_bytes()) else { continue };
            for name in new_names(&old) {
                let renamed = rename(&shop.head(&payload), &payload, &name).unwrap_or_else(|refusal| panic!("{tag} {old}: {refusal}"));
                let back = rename(&shop.head(&renamed), &renamed, old.as_bytes()).unwrap();
                assert_eq!(back, payload, "{tag} {old}: there and back");
                assert!(Pyc.body(&shop.head(&renamed), &renamed).is_ok());
                let fresh = shop.compile(&source, &name).unwrap();
                equal += usize::from(renamed == fresh);
                tried += 1;
                rows.push((name, renamed, fresh));
            }
        }
        println!("{tag}: {equal} of {tried} equal a fresh compile byte for byte");
        assert!(tried >= SAMPLES * 2, "{tag}: only {tried}");
        // PyPy gives not even the same bytes twice, now and then.
        assert!(equal == tried || (pypy && equal * 10 >= tried * 9), "{tag}: {equal} of {tried}");
        shop.judge(&rows);
    }
}

/// Compiles each source that its input names into a file of the number of its line, in this invalidation mode.
const BY_ITSELF: &str = "
import py_compile, sys
mode = sys.argv[1]
for number, line in enumerate(sys.stdin):
    more = {'invalidation_mode': py_compile.PycInvalidationMode[mode]} if sys.version_info >= (3, 7) else {}
    py_compile.compile(line.rstrip('\\n'), cfile='%s/%d.pyc' % (sys.argv[2], number), doraise=True, **more)
";

/// Not our own header against our own: what the interpreter itself writes, in each mode and for odd times.
#[test]
fn another_header_is_what_the_interpreter_itself_writes() {
    for interpreter in pythons::all() {
        let shop = Shop::of(interpreter);
        let tag = shop.interpreter.target.tag.clone();
        let dir = tempfile::tempdir().unwrap();
        let mut copies = Vec::new();
        for (number, path) in sources(&shop.interpreter).iter().enumerate() {
            let copy = dir.path().join(format!("m{number}.py"));
            std::fs::copy(path, &copy).unwrap();
            if shop.compile(&read(&copy), b"bad-on-purpose.py").is_some() {
                copies.push(copy);
            }
        }
        assert!(copies.len() >= SAMPLES / 2, "{tag}: only {}", copies.len());
        let list = copies.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join("\n");
        let modes: &[(&str, Mode)] = match shop.interpreter.version {
            (3, 7.., _) => &[("TIMESTAMP", Mode::Timestamp), ("CHECKED_HASH", Mode::CheckedHash), ("UNCHECKED_HASH", Mode::UncheckedHash)],
            _ => &[("TIMESTAMP", Mode::Timestamp)],
        };
        // By time and mode.
        let mut made = Vec::new();
        for seconds in [0, 315_532_800, 1_700_000_000, 5_000_000_000] {
            for copy in &copies {
                let time = std::time::UNIX_EPOCH + Duration::from_secs(seconds);
                std::fs::File::options().write(true).open(copy).unwrap().set_modified(time).unwrap();
            }
            for (word, mode) in modes {
                let into = tempfile::tempdir().unwrap();
                let mut command = command(&shop.interpreter);
                command.args(["-c", BY_ITSELF, word]).arg(into.path());
                feed(command, list.clone().into_bytes());
                let one =
                    |(number, copy): (usize, &PathBuf)| (read(copy), std::fs::read(into.path().join(format!("{number}.pyc"))).unwrap());
                // The sources as they were then, and what was written of them.
                let all: Vec<(Source, Vec<u8>)> = copies.iter().enumerate().map(one).collect();
                made.push((*mode, all));
            }
        }
        let pypy = shop.interpreter.implementation == "pypy";
        for (_, from) in &made {
            for (mode, to) in &made {
                for ((_, old), (source, wanted)) in from.iter().zip(to) {
                    let head = shop.head(old);
                    let stamped = stamp(&head, old, *mode, source).unwrap();
                    assert_eq!(stamped[..head.len], wanted[..head.len], "{tag} {mode:?} {:?}", source.stat.mtime);
                    // PyPy gives not even the same bytes twice, now and then.
                    assert!(pypy || stamped == *wanted, "{tag} {mode:?} {:?}", source.stat.mtime);
                }
            }
        }
        let (source, old) = &made[0].1[0];
        let head = shop.head(old);
        assert!(matches!(stamp(&head, &old[..old.len() - 1], Mode::Timestamp, source), Err(Refusal::Broken(_))), "{tag}: it is cut");
        if modes.len() == 1 {
            assert_eq!(stamp(&head, old, Mode::UncheckedHash, source).unwrap(), *old, "{tag} knows no hashes");
        }
    }
}

#[test]
fn a_name_that_the_code_uses_too_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("named.py");
    std::fs::write(&path, b"import same\nsame.same = 'same'\ndef same(same):\n    return same\n").unwrap();
    let mut refused = 0;
    for interpreter in pythons::all() {
        let shop = Shop::of(interpreter);
        let source = read(&path);
        let payload = shop.compile(&source, b"same").unwrap();
        match rename(&shop.head(&payload), &payload, b"other") {
            Err(refusal @ Refusal::Shared { .. }) => {
                assert!(refusal.to_string().contains("compile instead"));
                refused += 1;
            }
            // Where the name is an object of its own, it goes without the others.
            Ok(renamed) => shop.judge(&[(b"other".to_vec(), renamed, shop.compile(&source, b"other").unwrap())]),
            Err(refusal) => panic!("{}: {refusal}", shop.interpreter.target.tag),
        }
    }
    println!("refused by {refused}");
    assert!(refused > 0);
}

#[test]
fn one_numbering_whoever_holds_the_code() {
    for interpreter in pythons::all() {
        let shop = Shop::of(interpreter);
        let tag = shop.interpreter.target.tag.clone();
        let all = sources(&shop.interpreter);
        let source = read(&all[0]);
        let list = all.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join("\n");
        let mut command = command(&shop.interpreter);
        command.args(["-c", TWICE]);
        let dumps = feed(command, list.into_bytes());
        let mut payloads = Vec::new();
        let mut rest = &dumps[..];
        while let Some((len, more)) = rest.split_first_chunk::<4>() {
            let (dump, more) = more.split_at(u32::from_le_bytes(*len) as usize);
            payloads.push(Pyc.dress(&shop.interpreter.target, Mode::Timestamp, &source.stat, &source.bytes, dump));
            rest = more;
        }
        let flagged = |bytes: &[u8]| Objects::read(&shop.head(bytes), bytes).unwrap().iter().filter(|one| one.is_flagged()).count();
        let (mut rows, mut before, mut after, mut flags) = (Vec::new(), 0, 0, (0, 0));
        for pair in payloads.chunks(2) {
            let new = [&pair[0], &pair[1]].map(|old| renumber(&shop.head(old), old).unwrap());
            before += usize::from(pair[0] == pair[1]);
            after += usize::from(new[0] == new[1]);
            for (old, new) in pair.iter().zip(new) {
                assert_eq!(old.len(), new.len());
                assert!(Pyc.body(&shop.head(&new), &new).is_ok());
                assert_eq!(renumber(&shop.head(&new), &new).unwrap(), new, "once is enough");
                flags = (flags.0 + flagged(old), flags.1 + flagged(&new));
                rows.push((b"named.py".to_vec(), new, old.clone()));
            }
        }
        let pairs = payloads.len() / 2;
        println!("{tag}: of {pairs} pairs {before} are equal, renumbered {after}; {} flags became {}", flags.0, flags.1);
        assert!(pairs >= SAMPLES / 2 && after == pairs, "{tag}: {after} of {pairs}");
        assert_eq!(shop.interpreter.version >= (3, 0, 0), flags.1 < flags.0, "2.7 has none");
        shop.judge(&rows);
    }
}
