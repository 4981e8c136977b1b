//! What artifacts hold, against what real interpreters say of them: each field of each code object, and when code is the same.
//!
//! A slice of each interpreter's library is compiled into a directory of the test; `BYTEKEEP_TEST_ALL=1` takes all of it, and
//! `BYTEKEEP_TEST_SOURCES=DIR:DIR` all sources below these directories in its place, in whatever versions they compile.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, reason = "tests write files of their own")]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use bytekeep::model::{Format, Head};
use bytekeep::python::Pyc;
use bytekeep::python::differences::differences;
use bytekeep::python::equal::{Filename, same_code};
use bytekeep::python::objects::{Code, Object, Objects, Value};
use support::{Python, interpreters};

/// Compiles files of the interpreter's own library: argument 1 is where to, 2 how many, 3 how: as they come, in reverse order after many
/// imports, or with what was dumped loaded and dumped again. With more arguments, all files below these directories.
const MAKE: &str = r"
from __future__ import print_function
import os, sys, marshal
out, count, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
try:
    from importlib.util import MAGIC_NUMBER as magic
except ImportError:
    import imp
    magic = imp.get_magic()
roots, files = sys.argv[4:], []
skipped = () if roots else ('site-packages', 'dist-packages', '__pycache__', 'bad', 'data')
for root in roots or [os.path.dirname(os.__file__)]:
    for top, dirs, names in os.walk(root):
        dirs[:] = sorted(d for d in dirs if d not in skipped)
        files += [os.path.join(top, n) for n in sorted(names) if n.endswith('.py')]
files = list(enumerate(f for f in files if os.path.isfile(f)))
if count:
    files = files[::max(1, len(files) // count)]
if how == 'imports':
    for name in 'argparse ast calendar csv decimal difflib email json logging optparse pickle random shelve tarfile unittest zipfile'.split():
        __import__(name)
    files.reverse()
header = magic + b'\0' * (4 if sys.version_info[0] < 3 else 8 if sys.version_info < (3, 7) else 12)
for index, path in files:
    with open(path, 'rb') as file:
        source = file.read()
    try:
        code = compile(source, path, 'exec', 0, True)
    except (SyntaxError, ValueError, TypeError, RuntimeError, MemoryError, OverflowError):
        continue  # what is bad on purpose, or too much for this version
    data = marshal.dumps(code)
    if how == 'again':
        data = marshal.dumps(marshal.loads(data))
    with open(os.path.join(out, '%d.pyc' % index), 'wb') as file:
        file.write(header + data)
";

/// Tells for each artifact on its input what `loads` makes of it: for each code object its fields, each by length and checksum of a text
/// that says the same on all versions.
const TELL: &str = r"
from __future__ import print_function
import sys, marshal, binascii, struct, resource
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
two = sys.version_info[0] < 3
skip = 8 if two else 12 if sys.version_info < (3, 7) else 16
text, Code = (unicode if two else str), type(compile('', '', 'exec'))
longs = (long,) if two else ()
def utf8(value):
    return value.encode('utf-8') if two else value.encode('utf-8', 'surrogatepass')
def plain(value):
    kind = type(value)
    if value is None: return b'N'
    if value is True: return b'T'
    if value is False: return b'F'
    if value is Ellipsis: return b'.'
    if kind in longs: return b'L' + ('%x' % value).encode('ascii')
    if kind is int: return b'i' + ('%x' % value).encode('ascii')
    if kind is float: return b'g' + struct.pack('<d', value)
    if kind is complex: return b'y' + struct.pack('<dd', value.real, value.imag)
    if kind is text: return b'u' + utf8(value)
    if kind is bytes: return b's' + value
    if kind is tuple: return b'(' + b','.join([plain(item) for item in value]) + b')'
    if kind is frozenset: return b'>' + b','.join(sorted([plain(item) for item in value])) + b')'
    if kind is slice: return b':' + b','.join([plain(item) for item in (value.start, value.stop, value.step)]) + b')'
    if kind is Code: return b'c' + plain(value.co_name)
    raise TypeError(kind)
numbers = 'co_argcount co_posonlyargcount co_kwonlyargcount co_stacksize co_flags co_firstlineno'.split()
others = ('co_code co_consts co_names co_varnames co_freevars co_cellvars co_filename co_name co_qualname co_exceptiontable '
    + ('co_linetable' if hasattr(Code, 'co_linetable') else 'co_lnotab')).split()
def told(code):
    for name in numbers:
        if hasattr(code, name):
            yield '%s=%d' % (name, getattr(code, name))
    if sys.version_info < (3, 11) or '__pypy__' in sys.builtin_module_names:
        yield 'co_nlocals=%d' % code.co_nlocals
    for name in others:
        if hasattr(code, name):
            data = plain(getattr(code, name))
            yield '%s=%d:%08x' % (name, len(data), binascii.crc32(data) & 0xFFFFFFFF)
for line in iter(sys.stdin.readline, ''):
    with open(line.rstrip('\n'), 'rb') as file:
        data = file.read()
    open_codes = [marshal.loads(data[skip:])]
    while open_codes:
        code = open_codes.pop()
        print(' '.join(told(code)))
        open_codes.extend([item for item in code.co_consts if type(item) is Code])
    print('')
    sys.stdout.flush()
";

/// How many files of each library.
fn count(slice: usize) -> usize {
    if std::env::var_os("BYTEKEEP_TEST_ALL").is_some() { 0 } else { slice }
}

/// Where the sources lie that are named, if any are.
fn named_sources() -> Vec<PathBuf> {
    std::env::var_os("BYTEKEEP_TEST_SOURCES").iter().flat_map(std::env::split_paths).collect()
}

fn make(python: &Python, dir: &Path, count: usize, how: &str, seed: &str) -> Vec<PathBuf> {
    make_of(python, dir, count, how, seed, &[])
}

fn make_of(python: &Python, dir: &Path, count: usize, how: &str, seed: &str, roots: &[PathBuf]) -> Vec<PathBuf> {
    let mut command = python.command();
    command.args(["-S", "-W", "ignore", "-c", MAKE]).arg(dir).arg(count.to_string()).arg(how).args(roots).env("PYTHONHASHSEED", seed);
    let done = command.stdin(Stdio::null()).output().unwrap();
    assert!(done.status.success(), "{}: {}", python.tag, String::from_utf8_lossy(&done.stderr));
    let mut made: Vec<PathBuf> = dir.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    made.sort();
    assert!(made.len() > 12, "{}: only {} artifacts", python.tag, made.len());
    made
}

fn head(artifact: &[u8]) -> Head {
    Pyc.head(&artifact[..16], None, None).unwrap()
}

fn with_objects<T>(path: &Path, then: impl FnOnce(&Objects<'_>) -> T) -> T {
    let bytes = std::fs::read(path).unwrap();
    let objects = Objects::read_deep(&head(&bytes), &bytes).unwrap_or_else(|broken| panic!("{}: {broken:?}", path.display()));
    then(&objects)
}

/// The text of a value, as `TELL` has it.
fn plain(object: Object<'_>, two: bool) -> Vec<u8> {
    let object = object.resolved();
    let items = |letter: &[u8], sorted: bool| {
        let mut items: Vec<Vec<u8>> = object.parts().map(|part| plain(part, two)).collect();
        if sorted {
            items.sort();
        }
        [letter, &items.join(&b','), b")"].concat()
    };
    match object.value() {
        Value::None => b"N".to_vec(),
        Value::True => b"T".to_vec(),
        Value::False => b"F".to_vec(),
        Value::Ellipsis => b".".to_vec(),
        Value::Int(number) => {
            let sign = if number < 0 { "-" } else { "" };
            format!("i{sign}{:x}", number.unsigned_abs()).into_bytes()
        }
        Value::BigInt { negative, digits } => {
            let sign = if negative { "-" } else { "" };
            let bits: Vec<u8> = digits
                .chunks(2)
                .flat_map(|pair| (0..15).map(|bit| u8::from(u16::from_le_bytes([pair[0], pair[1]]) >> bit & 1 == 1)))
                .collect();
            let hex: String = bits.chunks(4).rev().fold(String::new(), |mut hex, nibble| {
                let value = nibble.iter().rev().fold(0, |value, bit| value << 1 | bit);
                write!(hex, "{value:x}").unwrap();
                hex
            });
            let hex = hex.trim_start_matches('0');
            format!("{}{sign}{}", if two { 'L' } else { 'i' }, if hex.is_empty() { "0" } else { hex }).into_bytes()
        }
        Value::Float(bits) => [&b"g"[..], &bits.to_le_bytes()].concat(),
        Value::Complex(real, imaginary) => [&b"y"[..], &real.to_le_bytes(), &imaginary.to_le_bytes()].concat(),
        Value::Str(text) => [b"u", text].concat(),
        Value::Bytes(bytes) => [b"s", bytes].concat(),
        Value::Tuple => items(b"(", false),
        Value::FrozenSet => items(b">", true),
        Value::Slice => items(b":", false),
        Value::Code => [b"c", &plain(object.code().unwrap().field("co_name").unwrap(), two)[..]].concat(),
        other => panic!("no compiler writes {other:?}"),
    }
}

/// A field of a code object, as `TELL` has it.
fn field(code: Code<'_>, name: &str, two: bool) -> Option<Vec<u8>> {
    let known = |name| code.field(name).map(|object| plain(object, two));
    let kind = match name {
        "co_varnames" => 0x20,
        "co_cellvars" => 0x40,
        "co_freevars" => 0x80,
        "co_linetable" => return known("co_linetable").or_else(|| known("co_lnotab")),
        _ => return known(name),
    };
    let (Some(names), Some(kinds)) = (code.field("co_localsplusnames"), code.field("co_localspluskinds")) else { return known(name) };
    let kinds = kinds.text().unwrap();
    let chosen = names.resolved().parts().zip(kinds).filter(|(_, bits)| **bits & kind != 0);
    let items: Vec<Vec<u8>> = chosen.map(|(name, _)| plain(name, two)).collect();
    Some([&b"("[..], &items.join(&b','), b")"].concat())
}

/// What `TELL` tells of a code object, by ourselves: the same fields.
fn told(code: Code<'_>, theirs: &str, two: bool) -> String {
    let numbers: BTreeMap<&str, u32> = code.numbers().named().into_iter().collect();
    let fields = theirs.split(' ').map(|pair| pair.split('=').next().unwrap());
    let fields = fields.map(|name| {
        let checksum = || {
            let data = field(code, name, two).unwrap_or_else(|| panic!("{name} is not in the artifact"));
            format!("{name}={}:{:08x}", data.len(), crc32fast::hash(&data))
        };
        numbers.get(name).map_or_else(checksum, |number| format!("{name}={number}"))
    });
    fields.collect::<Vec<_>>().join(" ")
}

/// The code objects in the order in which `TELL` comes to them.
fn walk<'o>(objects: &'o Objects<'_>) -> Vec<Code<'o>> {
    let mut open = vec![objects.root().code().unwrap()];
    let mut all = Vec::new();
    while let Some(code) = open.pop() {
        all.push(code);
        open.extend(code.field("co_consts").unwrap().resolved().parts().filter_map(|part| part.resolved().code()));
    }
    all
}

#[test]
fn every_field_is_what_the_interpreter_reports() {
    for python in interpreters() {
        let dir = tempfile::tempdir().unwrap();
        let roots = named_sources();
        let made = make_of(&python, dir.path(), if roots.is_empty() { count(60) } else { 0 }, "plain", "0", &roots);
        let mut child = python.command();
        let mut child = child.args(["-S", "-c", TELL]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut paths = child.stdin.take().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut codes, mut fields, mut most) = (0, 0, 0);
        for path in &made {
            writeln!(paths, "{}", path.display()).unwrap();
            with_objects(path, |objects| {
                most = most.max(objects.len());
                for code in walk(objects) {
                    let theirs = lines.next().unwrap().unwrap();
                    assert_eq!(told(code, &theirs, python.version.0 == 2), theirs, "{} {:?}", path.display(), code.name());
                    fields += theirs.split(' ').count();
                    codes += 1;
                }
                assert_eq!(lines.next().unwrap().unwrap(), "", "{}: more code objects than were found", path.display());
            });
        }
        drop(paths);
        assert!(child.wait().unwrap().success(), "{}", python.tag);
        assert!(fields >= codes * 14, "{}: {fields} fields of {codes} code objects", python.tag);
        println!("{}: {} artifacts, {codes} code objects, {fields} fields; at most {most} objects in one", python.tag, made.len());
    }
}

#[test]
fn code_of_one_source_is_the_same_however_it_was_compiled() {
    let mut other = 0;
    for python in interpreters() {
        let dirs: Vec<_> = (0..4).map(|_| tempfile::tempdir().unwrap()).collect();
        let first = make(&python, dirs[0].path(), count(20), "plain", "0");
        let mut other_bytes = 0;
        for (dir, (how, seed)) in dirs[1..].iter().zip([("plain", "4711"), ("imports", "1"), ("again", "0")]) {
            let second = make(&python, dir.path(), count(20), how, seed);
            assert_eq!(first.len(), second.len());
            for (one, other) in first.iter().zip(&second) {
                let same = with_objects(one, |one| {
                    with_objects(other, |other| {
                        let told = differences(one, other, 3);
                        assert_eq!(told.found.len(), 0, "{} {how}: {told:?}", python.tag);
                        same_code(one, other, Filename::Counts)
                    })
                });
                assert!(same, "{} {how}: {}", python.tag, one.display());
                other_bytes += usize::from(std::fs::read(one).unwrap() != std::fs::read(other).unwrap());
            }
        }
        println!("{}: {} artifacts, compiled four times, {other_bytes} times with other bytes", python.tag, first.len());
        other += other_bytes;
    }
    // Else this would have compared bytes with themselves. (2.7 writes the same ones always.)
    assert!(other > 0, "no two compiles of any interpreter gave other bytes");
}

/// Compiles the source on its input and writes the artifact to its output.
const ONE: &str = r"
import sys, os, marshal
try:
    from importlib.util import MAGIC_NUMBER as magic
except ImportError:
    import imp
    magic = imp.get_magic()
source = getattr(sys.stdin, 'buffer', sys.stdin).read()
header = magic + b'\0' * (4 if sys.version_info[0] < 3 else 8 if sys.version_info < (3, 7) else 12)
os.write(1, header + marshal.dumps(compile(source, sys.argv[1], 'exec', 0, True)))
";

fn artifact(python: &Python, source: &str, name: &str) -> Vec<u8> {
    let mut child = python.command();
    let mut child = child.args(["-S", "-c", ONE, name]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(source.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{}: {source}", python.tag);
    done.stdout
}

#[test]
fn what_was_changed_is_told_with_its_function() {
    const SOURCE: &str = "import os\n\n\nclass Class(object):\n    def method(self, x):\n        y = lambda: [x, 1.5, (1, 2, 'two')]\n        \
                          return y, os.name\n\n\ndef last():\n    return 1, 'end'\n";
    // From, to, the function, and how the field begins (none: it is in one alone).
    const ROWS: &[(&str, &str, &str, Option<&str>)] = &[
        ("1.5", "1.25", "Class.method.<lambda>", Some("co_consts[")),
        ("(1, 2, 'two')", "(1, 2, 'three')", "Class.method.<lambda>", Some("co_consts[")),
        ("(1, 2, 'two')", "(1, 2.0, 'two')", "Class.method.<lambda>", Some("co_consts[")),
        ("(1, 2, 'two')", "(True, 2, 'two')", "Class.method.<lambda>", Some("co_consts[")),
        ("1.5", "-0.0", "Class.method.<lambda>", Some("co_co")),
        ("os.name", "os.path", "Class.method", Some("co_names[")),
        ("(self, x)", "(self, *x)", "Class.method", Some("co_argcount")),
        ("\n\n\ndef last", "\n\n\n\ndef last", "last", Some("co_firstlineno")),
        ("def last", "def latest", "last", None),
        ("def last():\n    return 1, 'end'\n", "", "last", None),
        ("return 1, 'end'", "return [1, 'end']", "last", Some("co_")),
    ];
    for python in interpreters() {
        let first = artifact(&python, SOURCE, "a.py");
        let one = Objects::read(&head(&first), &first).unwrap();
        for (from, to, function, field) in ROWS {
            assert!(SOURCE.contains(from), "{from}");
            let second = artifact(&python, &SOURCE.replace(from, to), "a.py");
            let other = Objects::read(&head(&second), &second).unwrap();
            let place = format!("{}: {from:?} {to:?}", python.tag);
            for (one, other) in [(&one, &other), (&other, &one)] {
                assert!(!same_code(one, other, Filename::Aside), "{place}");
                let told = differences(one, other, 50);
                assert_eq!((told.more, &told.filenames), (false, &None), "{place}: {told:?}");
                let functions: Vec<&str> = told.found.iter().map(|one| one.function.as_str()).collect();
                let names = told.found.iter().filter(|one| one.function == *function);
                let said = names.clone().any(|one| match (field, &one.field) {
                    (Some(field), Some(name)) => name.starts_with(field),
                    (field, name) => field.is_none() && name.is_none(),
                });
                assert!(said, "{place}: {told:?}");
                // Nothing is said of who has nothing to do with it: a line more shifts those behind it alone.
                assert!(functions.iter().all(|name| *name != "Class"), "{place}: {told:?}");
            }
        }
        let moved = artifact(&python, SOURCE, "b/a.py");
        let moved = Objects::read(&head(&moved), &moved).unwrap();
        assert!(same_code(&one, &moved, Filename::Aside) && !same_code(&one, &moved, Filename::Counts));
        let told = differences(&one, &moved, 5);
        assert_eq!((told.found.len(), told.filenames), (0, Some(("a.py".to_owned(), "b/a.py".to_owned()))));
    }
}

/// However different two modules are, no more is told than was asked for, and each is like itself.
#[test]
fn any_two_modules_are_compared() {
    for python in interpreters() {
        let dir = tempfile::tempdir().unwrap();
        let made = make(&python, dir.path(), 20, "plain", "0");
        for pair in made.windows(2) {
            with_objects(&pair[0], |one| {
                assert!(same_code(one, one, Filename::Counts));
                with_objects(&pair[1], |other| {
                    let told = differences(one, other, 7);
                    assert!(!told.found.is_empty() && told.found.len() <= 7 && told.filenames.is_some(), "{told:?}");
                    assert_eq!(told.found, differences(one, other, 100_000).found[..told.found.len()]);
                });
            });
        }
    }
}
