//! `inspect` and the evidence that `repair --keep-bad` keeps: what is told of an artifact is what its interpreter says and what `verify`
//! judges, and no bytes make it fail.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test's own files")]

#[path = "support/mod.rs"]
mod support;
#[path = "support/whole.rs"]
mod whole;

use std::path::{Path, PathBuf};

use bytekeep::base::sys::Name;
use bytekeep::flow::examine::examine;
use bytekeep::model::Format;
use bytekeep::python::Pyc;
use serde_json::Value;
use support::Python;
use whole::{Outcome, Tree, all_pythons, aloud, python};

const SOURCE: &str = "\
from __future__ import division, unicode_literals
VALUE = 42
def outer(a, b=1, *rest, **others):
    def inner(n):
        yield n + a
    return inner
class Class(object):
    TEXT = 'caf\\u00e9', 3.5, 2 ** 100
    def method(self, x):
        return x, 'marker in method', b'bytes', None, True, -7
    twice = lambda self: 'in a lambda'
";

/// For each code object, an outer one before those within it: what the interpreter says of it, as a line of JSON.
const TELL: &str = r"
from __future__ import print_function
import sys, marshal, json, inspect, __future__
data = open(sys.argv[1], 'rb').read()
root = marshal.loads(data[int(sys.argv[2]):])
pypy = '__pypy__' in sys.builtin_module_names
bits = dict((getattr(inspect, name), name[3:]) for name in dir(inspect) if name.startswith('CO_'))
for name in __future__.all_feature_names:
    flag = getattr(__future__, name).compiler_flag
    if flag > 0x200:
        bits[flag] = 'FUTURE_' + {'barry_as_FLUFL': 'BARRY_AS_BDFL'}.get(name, name.upper())
def tell(code):
    names, rest = [], code.co_flags
    for bit in sorted(bits):
        if code.co_flags & bit and (bit < 0x400 or not pypy):
            names.append(bits[bit])
            rest &= ~bit
    if rest:
        names.append(hex(rest).rstrip('L'))
    print(json.dumps(dict(first_line=code.co_firstlineno, arguments=code.co_argcount, stack=code.co_stacksize,
        positional_only=getattr(code, 'co_posonlyargcount', 0), keyword_only=getattr(code, 'co_kwonlyargcount', 0),
        flags=names, instructions=len(code.co_code), constants=len(code.co_consts), own=code.co_name,
        at=[index for index, const in enumerate(code.co_consts) if const == u'marker in method'],
        name=getattr(code, 'co_qualname', None))))
    for const in code.co_consts:
        if inspect.iscode(const):
            tell(const)
tell(root)
";

fn inspect(tree: &Tree, paths: &[PathBuf], options: &[&'static str]) -> Outcome {
    let mut run = tree.bytekeep(None, ["inspect"].into_iter().chain(options.iter().copied()));
    for path in paths {
        run = run.arg(path);
    }
    run.run()
}

fn told(tree: &Tree, path: &Path) -> Value {
    inspect(tree, &[path.to_path_buf()], &["--format", "json"]).lines.remove(0)
}

fn header(python: &Python) -> usize {
    match python.version {
        (2, _) => 8,
        (3, 0..=6) => 12,
        _ => 16,
    }
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn the_code_is_told_as_its_interpreter_tells_it() {
    for python in all_pythons() {
        let tree = Tree::new();
        tree.old_file("told.py", SOURCE.as_bytes());
        tree.compile(python).exits(0);
        let artifact = tree.artifact("told.py", python);
        let output = python.command().args(["-S", "-c", TELL]).arg(&artifact).arg(header(python).to_string()).output().unwrap();
        assert!(output.status.success(), "{}: {}", python.tag, String::from_utf8_lossy(&output.stderr));
        let wanted: Vec<Value> = output.stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
        let json = told(&tree, &artifact);
        let objects = json["code"]["objects"].as_array().unwrap();
        assert_eq!((objects.len(), wanted.len()), (6, 6), "{}: {json}", python.tag);
        for (told, wanted) in objects.iter().zip(&wanted) {
            for field in ["first_line", "arguments", "stack", "positional_only", "keyword_only", "flags", "instructions", "constants"] {
                assert_eq!(told[field], wanted[field], "{} {field}: {told} {wanted}", python.tag);
            }
            assert!(wanted["name"].is_null() || told["name"] == wanted["name"], "{}: {told} {wanted}", python.tag);
            assert!(told["name"].as_str().unwrap().ends_with(wanted["own"].as_str().unwrap()), "{}: {told}", python.tag);
        }
        let names: Vec<&str> = objects.iter().map(|one| one["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["<module>", "outer", "outer.<locals>.inner", "Class", "Class.method", "Class.<lambda>"], "{}", python.tag);
        assert_eq!((&json["code"]["count"], &json["code"]["other_filenames"]), (&6.into(), &0.into()));
        assert_eq!(json["code"]["filename"], tree.path("told.py").canonicalize().unwrap().to_str().unwrap());
        assert_eq!((&json["shape"], &json["source"]["header_fits"]), (&Value::Array(Vec::new()), &true.into()));

        // A place in the file has the name of the function around it.
        let bytes = std::fs::read(&artifact).unwrap();
        let place = bytes.windows(6).position(|six| six == b"marker").unwrap() as u64;
        let payload = &bytes[..bytes.len() - 96];
        let head = Pyc.head(&bytes[..16], None, None).unwrap();
        let way = Pyc.way(&head, payload, place, Name::new("told.py").as_ref()).unwrap();
        let index = wanted.iter().find_map(|code| code["at"][0].as_u64()).unwrap();
        assert_eq!(way, format!("told.Class.method → co_consts[{index}]"), "{}", python.tag);

        let human = inspect(&tree, &[artifact], &["--code"]).exits(0);
        for words in [
            "good",
            "written by bytekeep",
            "told.py` there, fits the header, fits the seal",
            "Class.method: line 9, 2 arguments",
            "'marker in method'",
        ] {
            assert!(human.stdout.contains(words), "{} {words}: {}", python.tag, human.stdout);
        }
    }
}

#[test]
fn a_time_that_a_header_cannot_keep_is_no_fault_of_the_artifact() {
    let mut ran = 0;
    for python in all_pythons().iter().filter(|python| python.version <= (3, 6) && !python.pypy) {
        let tree = Tree::new();
        for (name, time) in [("late.py", 1_i64 << 31), ("early.py", -7)] {
            whole::set_mtime(&tree.file(name, b"VALUE = 1\n"), time);
        }
        tree.compile(python).exits(0);
        let verified = tree.verify().exits(0);
        for name in ["late.py", "early.py"] {
            let artifact = tree.artifact(name, python);
            let (entry, json) = (verified.entry(artifact.file_name().unwrap().to_str().unwrap()), told(&tree, &artifact));
            assert_eq!(entry["verdict"], "ok", "{}: {entry}", python.tag);
            assert_eq!(json["source"]["header_fits"], true, "{}: {json}", python.tag);
            assert_eq!(json["source"]["in_vain"], entry["cause"]["code"] == "time", "{}: {json} {entry}", python.tag);
            let human = inspect(&tree, &[artifact], &[]).exits(0);
            assert_eq!(human.stdout.contains("compiled at every import"), json["source"]["in_vain"] == true, "{}", human.stdout);
            ran += u32::from(json["source"]["in_vain"] == true);
        }
    }
    if ran == 0 {
        aloud("SKIP: no interpreter here has times that its header cannot keep");
    }
}

/// A seal that cannot be read is there all the same.
#[test]
fn a_seal_that_cannot_be_read_is_not_told_as_none() {
    type Row = (&'static str, fn(&mut Vec<u8>), bool);
    let tree = Tree::new();
    let rows: [Row; 6] = [
        ("newer", |bytes| *bytes.iter_mut().rev().nth(23).unwrap() = 2, true),
        ("flags", |bytes| *bytes.iter_mut().rev().nth(21).unwrap() = 4, true),
        ("length", |bytes| *bytes.iter_mut().rev().nth(95).unwrap() ^= 1, true),
        ("cut", |bytes| bytes.truncate(bytes.len() - 40), true),
        ("gone", |bytes| bytes.truncate(bytes.len() - 96), false),
        ("torn", |bytes| bytes.truncate(bytes.len() - 100), false),
    ];
    for (name, ..) in &rows {
        tree.old_file(format!("{name}.py"), b"VALUE = 1\n");
    }
    tree.compile(python()).exits(0);
    for (name, damage, is_there) in rows {
        let artifact = tree.artifact(format!("{name}.py"), python());
        edit(&artifact, damage);
        let told = inspect(&tree, &[artifact], &[]);
        let words = if is_there { "seal       there, and it cannot be read" } else { "seal       none: " };
        assert!(told.stdout.contains(words), "{name}: {}", told.stdout);
    }
}

#[test]
fn the_label_of_a_pyo_is_judged_as_verify_does() {
    let Some(python) = all_pythons().iter().find(|python| python.version.0 == 2) else { return aloud("SKIP: no Python 2.7 for `.pyo`") };
    for level in ["1", "2"] {
        let tree = Tree::new();
        tree.bytekeep(Some(python), ["compile", "--optimize", level, "."]).run().exits(0);
        let artifact = tree.path("good.pyo");
        tree.verify().exits(0).is("good.pyo", "ok", "none");
        inspect(&tree, std::slice::from_ref(&artifact), &[]).exits(0);
        assert_eq!(told(&tree, &artifact)["seal"]["label_fits"], true, "{level}");
        // One without optimisation is neither.
        tree.compile(python).exits(0);
        std::fs::copy(tree.path("good.pyc"), &artifact).unwrap();
        tree.verify().exits(1).is("good.pyo", "corrupt", "none");
        inspect(&tree, std::slice::from_ref(&artifact), &[]).exits(1);
    }
}

#[test]
fn the_source_of_an_artifact_in_a_prefix_is_found_by_what_the_code_says() {
    let tree = Tree::new();
    let prefix = tree.outside("prefix");
    tree.bytekeep(Some(python()), ["compile", "."]).arg("--pycache-prefix").arg(&prefix).run().exits(0);
    let artifact = whole::all_below(&prefix).into_iter().find(|path| path.extension().is_some_and(|end| end == "pyc")).unwrap();
    let json = told(&tree, &artifact);
    assert_eq!((&json["source"]["state"], &json["source"]["digest_fits"]), (&"there".into(), &true.into()), "{json}");
    tree.file("good.py", b"VALUE = 43\n");
    assert_eq!(told(&tree, &artifact)["source"]["digest_fits"], false);
    // Elsewhere the path does not say the same as the code.
    let copy = tree.outside("elsewhere").join(artifact.file_name().unwrap());
    std::fs::create_dir(tree.outside("elsewhere")).unwrap();
    std::fs::copy(&artifact, &copy).unwrap();
    assert_eq!(told(&tree, &copy)["source"]["state"], "not looked for");
}

/// In every mode, at every level, with every kind of time: one judgement.
#[test]
fn what_verify_finds_good_is_good_and_what_it_finds_bad_is_bad() {
    for python in all_pythons() {
        let levels = if python.version.0 == 2 { "0,2" } else { "0,1,2" };
        let modes = ["timestamp", "checked-hash", "unchecked-hash"];
        for mode in modes.into_iter().take(if header(python) == 16 { 3 } else { 1 }) {
            let tree = Tree::new();
            for (index, time) in [1_500_000_000, 1_i64 << 31, -7, (1 << 32) + 7].into_iter().enumerate() {
                whole::set_mtime(&tree.file(format!("m{index}.py"), b"VALUE = 1\n"), time);
            }
            tree.bytekeep(Some(python), ["compile", "--optimize", levels, "--invalidation-mode", mode, "."]).run().exits(0);
            let check = |code| {
                let verified = tree.verify().exits(code);
                let entries: Vec<&Value> = verified.entries().collect();
                let paths: Vec<PathBuf> = entries.iter().map(|entry| tree.path(entry["path"].as_str().unwrap())).collect();
                let inspected = inspect(&tree, &paths, &["--format", "json"]).exits(code);
                assert!(entries.len() >= 10 && entries.len() == inspected.lines.len(), "{}: {}", python.tag, verified.shown());
                for (entry, json) in entries.iter().zip(&inspected.lines) {
                    assert_eq!(json["good"], entry["verdict"] == "ok", "{} {mode}: {entry} {json}", python.tag);
                }
            };
            check(0);
            tree.old_file("m0.py", b"VALUE = 2\n");
            edit(&tree.artifact("m1.py", python), |bytes| bytes[20] ^= 1);
            check(1);
        }
    }
}

/// A source whose artifact has several pages.
fn long_source() -> String {
    let lines = (0..900).map(|number| format!("    'text number {number:05}',\n"));
    format!("VALUE = 1\ndef function():\n  return [\n{}  ]\n", lines.collect::<String>())
}

/// A name, what is done to the artifact, the mark's code, and words of it.
type Damage = (&'static str, fn(&mut Vec<u8>), &'static str, &'static [&'static str]);

const DAMAGES: &[Damage] = &[
    ("page", |bytes| bytes.truncate(8192), "cut", &["ends at byte 8192 (a multiple of 4096)", "a full disk"]),
    ("odd", |bytes| bytes.truncate(5001), "cut", &["ends at byte 5001, at no block's boundary", "killed"]),
    ("seal", |bytes| bytes.truncate(bytes.len() - 40), "cut", &["its seal is cut", "40 bytes are missing"]),
    ("zeros", |bytes| bytes[4096..8192].fill(0), "zeros", &["from byte 4096 (a multiple of 4096) to 8192", "a power cut"]),
    ("tail", |bytes| bytes[4096..].fill(0), "zeros", &["from byte 4096", "to its end"]),
    ("nothing", Vec::clear, "empty", &["it is empty"]),
    ("header", |bytes| bytes.truncate(16), "header-only", &["right behind its header of 16 bytes"]),
    ("hole", |bytes| drop(bytes.drain(2000..2500)), "hole", &["500 bytes are missing before its seal"]),
    ("appended", |bytes| bytes.extend(bytes.clone()), "two-writers", &["another artifact begins at byte"]),
    ("flip", |bytes| bytes[3000] ^= 1, "changed", &["no block is zeroed"]),
];

#[test]
fn the_shape_of_the_damage_is_told_and_kept_with_the_evidence() {
    let python = python();
    let tree = Tree::new();
    for (name, ..) in DAMAGES {
        tree.old_file(format!("{name}.py"), long_source().as_bytes());
    }
    tree.compile(python).exits(0);
    std::fs::create_dir(tree.outside("bad")).unwrap();
    let mut told_before = Vec::new();
    for (name, damage, code, words) in DAMAGES {
        let artifact = tree.artifact(format!("{name}.py"), python);
        edit(&artifact, damage);
        let json = told(&tree, &artifact);
        assert!(json["shape"].as_array().unwrap().iter().any(|mark| mark["code"] == *code), "{name}: {json}");
        let human = inspect(&tree, std::slice::from_ref(&artifact), &[]).exits(1);
        told_before.push((artifact, json));
        for word in *words {
            assert!(human.stdout.contains(word), "{name}: {word}: {}", human.stdout);
        }
        assert!(human.stdout.contains("uid ") && human.stdout.contains("directory"), "{}", human.stdout);
    }
    tree.bytekeep(Some(python), ["repair", "."]).arg("--keep-bad").arg(tree.outside("bad")).run().exits(0);
    let kept = whole::all_below(&tree.outside("bad"));
    assert_eq!(kept.len(), 3 * DAMAGES.len(), "{kept:?}");
    let kept_as = |name: &str, end: &str| {
        let path = kept.iter().find(|path| path.to_string_lossy().ends_with(&format!("-{name}.{}.pyc{end}", python.tag))).unwrap();
        std::fs::read_to_string(path).unwrap()
    };
    for ((name, _, code, _), (artifact, mut before)) in DAMAGES.iter().zip(told_before) {
        let mut json: serde_json::Value = serde_json::from_str(&kept_as(name, ".json")).unwrap();
        let (verdict, cause) = (json["verdict"].take(), json["cause"].take());
        assert!(verdict == "corrupt" || verdict == "truncated", "{name}: {verdict} {code}");
        assert!(cause["code"].is_string() && cause["text"].is_string(), "{name}: {cause}");
        // What `inspect` said then, but for the words for paths, and the code, which is in the copy.
        assert_eq!(json["path"], artifact.canonicalize().unwrap().to_str().unwrap(), "{name}");
        assert_eq!(json["source"]["state"], "there", "{name}");
        for one in [&mut json, &mut before] {
            one["path"].take();
            one["source"]["path"].take();
            one["code"].take();
            one.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        }
        assert_eq!(json, before, "{name}");
    }
    for (name, .., words) in DAMAGES {
        let note = kept_as(name, ".txt");
        for word in words.iter().chain(&["verdict", "uid ", "content "]) {
            assert!(note.contains(word), "{name}: {word}: {note}");
        }
    }
    tree.verify().exits(0);
}

/// Who looks for the culprit thinks of names, not of numbers.
#[test]
fn owners_are_told_by_name_where_they_have_one() {
    if !whole::root_or_skip("giving a file to another user") {
        return;
    }
    let table = std::fs::read_to_string("/etc/passwd").unwrap();
    let Some(line) = table.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|line| line.len() > 3 && line[2] != "0") else {
        return whole::aloud("SKIP: /etc/passwd knows nobody but root");
    };
    let tree = Tree::new();
    tree.old_file("told.py", SOURCE.as_bytes());
    tree.compile(python()).exits(0);
    let artifact = tree.artifact("told.py", python());
    edit(&artifact, |bytes| bytes.truncate(100));
    for (uid, name) in [(line[2].parse().unwrap(), Some(line[0])), (4_000_000_000, None)] {
        std::os::unix::fs::chown(&artifact, Some(uid), Some(0)).unwrap();
        let json = told(&tree, &artifact);
        assert_eq!((json["file"]["uid"].as_u64(), json["file"]["user"].as_str()), (Some(uid.into()), name), "{json}");
        assert_eq!((json["file"]["gid"].as_u64(), json["file"]["group"].as_str()), (Some(0), Some("root")), "{json}");
        let human = inspect(&tree, std::slice::from_ref(&artifact), &[]).exits(1);
        let words = name.map_or_else(|| format!("uid {uid}, gid 0 (root)"), |name| format!("uid {uid} ({name}), gid 0 (root)"));
        assert!(human.stdout.contains(&words), "{words}: {}", human.stdout);
    }
}

/// What is cut anywhere is told as cut, there, and as nothing else; where the seal began to be written, with what is missing.
#[test]
fn every_cut_has_its_shape() {
    for python in all_pythons() {
        let tree = Tree::new();
        tree.old_file("told.py", SOURCE.as_bytes());
        tree.compile(python).exits(0);
        let whole = std::fs::read(tree.artifact("told.py", python)).unwrap();
        let (payload, header) = (whole.len() - 96, header(python));
        for len in 0..whole.len() {
            let examined = examine(&Pyc, &whole[..len], Some(&python.tag), None);
            let told: Vec<_> = examined.shape.iter().map(|mark| (mark.code, mark.to)).collect();
            let wanted = match len {
                0 => vec![("empty", 0)],
                _ if len == header => vec![("header-only", len as u64)],
                // It is whole without the seal.
                _ if len == payload => Vec::new(),
                _ => vec![("cut", len as u64)],
            };
            assert_eq!(told, wanted, "{} {len}: {:?}", python.tag, examined.shape);
            if len > payload {
                let missing = format!("{} bytes are missing", whole.len() - len);
                assert!(examined.shape[0].text.contains(&missing), "{} {len}: {:?}", python.tag, examined.shape);
            }
            assert_eq!(examined.way.is_some(), header < len && len < payload, "{} {len}", python.tag);
        }
    }
}

/// Copies were named by the path as it was written: of two trees with equal relative paths only the first was kept, and of one artifact
/// only its first damage.
#[test]
fn evidence_of_two_trees_and_of_two_days_is_all_kept() {
    let tree = Tree::new();
    std::fs::create_dir(tree.outside("bad")).unwrap();
    let kept = || whole::all_below(&tree.outside("bad")).iter().filter(|path| path.extension().is_some_and(|end| end == "pyc")).count();
    let repair = |dir: &str, bytes: &[u8]| {
        tree.file(format!("{dir}/m.py"), b"VALUE = 1\n");
        let compiled = |command| {
            let mut run = tree.bytekeep(Some(python()), [command, "m.py"]);
            run.command.current_dir(tree.path(dir));
            run
        };
        compiled("compile").run().exits(0);
        edit(&tree.artifact(format!("{dir}/m.py"), python()), |all| *all = bytes.to_vec());
        compiled("repair").arg("--keep-bad").arg(tree.outside("bad")).run().exits(0);
        kept()
    };
    assert_eq!(repair("one", b"torn"), 1);
    assert_eq!(repair("two", b"torn"), 2);
    assert_eq!(repair("one", b"torn otherwise"), 3);
    assert_eq!(repair("one", b"torn"), 3, "what is kept already is not kept twice");
}

/// A tree is data: the name of a directory in it writes no line into the report.
#[test]
fn a_path_stays_one_line_of_the_report() {
    let tree = Tree::new();
    std::fs::create_dir(tree.outside("bad")).unwrap();
    tree.old_file("d\nverdict    ok\x1b[2J/m.py", b"VALUE = 1\n");
    tree.compile(python()).exits(0);
    edit(&tree.artifact("d\nverdict    ok\x1b[2J/m.py", python()), |bytes| bytes.truncate(100));
    tree.bytekeep(Some(python()), ["repair", "."]).arg("--keep-bad").arg(tree.outside("bad")).run().exits(0);
    let kept = whole::all_below(&tree.outside("bad"));
    let note = std::fs::read_to_string(kept.iter().find(|path| path.extension().is_some_and(|end| end == "txt")).unwrap()).unwrap();
    let verdicts: Vec<&str> = note.lines().filter(|line| line.starts_with("verdict")).collect();
    assert_eq!(verdicts, ["verdict    truncated"], "{note}");
    assert!(!note.contains('\x1b') && note.starts_with('/'), "{note}");
}

#[test]
fn no_bytes_make_it_fail() {
    let python = python();
    let tree = Tree::new();
    let evil = "class A:\n  def f(self):\n    return ('\\x1b[2J', b'\\x07', 1.5, 2j, ...)\nVALUE = 1\n";
    tree.old_file("evil.py", evil.as_bytes());
    tree.compile(python).exits(0);
    let whole = std::fs::read(tree.artifact("evil.py", python)).unwrap();
    let dir = tree.outside("hostile");
    std::fs::create_dir(&dir).unwrap();
    let mut paths = Vec::new();
    let mut add = |name: String, bytes: &[u8]| {
        let path = dir.join(name);
        std::fs::write(&path, bytes).unwrap();
        paths.push(path);
    };
    for cut in 0..whole.len() {
        add(format!("cut{cut}.{}.pyc", python.tag), &whole[..cut]);
    }
    let mut random = 0x9E37_79B9_u32;
    for number in 0..whole.len() {
        let mut bytes = whole[..whole.len() - 96 * (number % 2)].to_vec();
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let at = number % bytes.len();
        bytes[at] = random.to_be_bytes()[0];
        add(format!("flip{number}.{}.pyc", python.tag), &bytes);
    }
    let noise: Vec<u8> = (0..100_000)
        .map(|_| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            random.to_be_bytes()[0]
        })
        .collect();
    add("noise.pyc".to_owned(), &noise);
    let bomb = |body: &[u8]| [&whole[..16], body].concat();
    add(format!("noise.{}.pyc", python.tag), &bomb(&noise));
    for (name, body) in [
        ("count", b"\xe3(\xff\xff\xff\x7f".to_vec()),
        ("deep", b")\x01".repeat(1_000_000)),
        ("returns", b"\r\n".repeat(1_000_000)),
        ("seals", b"\x8BBKSEAL\n".repeat(200_000)),
        ("zeros", b"\0\0\0\0\0\0\0\x01".repeat(200_000)),
    ] {
        add(format!("{name}.{}.pyc", python.tag), &bomb(&body));
    }
    for options in [&["--format", "json"][..], &["--code"]] {
        let outcome = inspect(&tree, &paths, options).exits(1);
        if options.len() == 2 {
            assert_eq!(outcome.lines.len(), paths.len());
        } else {
            assert_eq!(outcome.stdout.matches(": bad\n").count() + outcome.stdout.matches(": good\n").count(), paths.len());
            let control = outcome.stdout.lines().find(|line| line.chars().any(char::is_control));
            assert_eq!(control, None, "no control character reaches a terminal");
        }
    }
    let sound = inspect(&tree, &[tree.artifact("evil.py", python)], &["--code"]).exits(0);
    assert!(sound.stdout.contains("a tuple of 5") || sound.stdout.contains("\\x1b[2J"), "{}", sound.stdout);
    assert!(!sound.stdout.contains('\x1b'), "{}", sound.stdout);
}

#[test]
fn what_is_too_large_is_refused_with_a_hint() {
    let tree = Tree::new();
    let path = tree.path("sparse.pyc");
    std::fs::File::create(&path).unwrap().set_len(4 << 30).unwrap();
    let outcome = inspect(&tree, &[path], &[]).exits(2);
    assert!(outcome.stderr.contains("--max-size SIZE"), "{}", outcome.shown());
}
