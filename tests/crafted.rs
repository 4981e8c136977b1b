//! Artifacts made by hand, and pieces of real ones: whatever stands in them, no command takes much memory over them, none passes for whole
//! that is not, and the kept ones stay what they are.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, reason = "tests write files of their own")]

#[path = "support/crafted.rs"]
mod crafted;
#[path = "support/mod.rs"]
mod support;
#[path = "support/whole.rs"]
mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use bytekeep::flow::examine::examine;
use bytekeep::model::Format;
use bytekeep::python::Pyc;
use bytekeep::python::objects::{MOST, Objects};
use support::{Python, interpreters};
use whole::{BYTEKEEP, Tree, python};

/// Runs the command in each line of its input, which tabs divide, and tells the most memory that it had at once, in KiB, and how it ended.
const MEASURE: &str = r"
from __future__ import print_function
import os, sys
for line in sys.stdin.read().splitlines():
    words = line.split('\t')
    child = os.fork()
    if child == 0:
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1):
            os.dup2(null, number)
        os.execv(words[0], words)
    _, status, used = os.wait4(child, 0)
    print(used.ru_maxrss, os.WEXITSTATUS(status) if os.WIFEXITED(status) else 'a signal')
";
/// What a command may have, in KiB, the program itself and the file that it looks at included.
const BOUND: u64 = 64 << 10;

/// What each command took, and how it ended.
fn measure(tree: &Tree, commands: &[Vec<String>]) -> Vec<(u64, String)> {
    let mut command = python().command();
    command.args(["-S", "-c", MEASURE]).current_dir(tree.root()).env("HOME", tree.home());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let lines: Vec<String> = commands.iter().map(|words| format!("{BYTEKEEP}\t{}\n", words.join("\t"))).collect();
    child.stdin.take().unwrap().write_all(lines.concat().as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    let said = String::from_utf8(done.stdout).unwrap();
    let told: Vec<_> =
        said.lines().filter_map(|line| line.split_once(' ')).map(|(kib, end)| (kib.parse().unwrap(), end.to_owned())).collect();
    assert_eq!(told.len(), commands.len(), "{said}");
    told
}

/// Puts an artifact where it fits an empty source, so that all of it is looked at.
fn lay(tree: &Tree, bomb: &crafted::Bomb) -> String {
    whole::set_mtime(&tree.file(format!("{}.py", bomb.name), b""), 0);
    let path = format!("__pycache__/{}.cpython-313.pyc", bomb.name);
    tree.file(&path, &bomb.bytes);
    path
}

#[test]
fn no_crafted_artifact_takes_more_than_64_mib() {
    let mut most = BTreeMap::new();
    // As many objects as are listed; half as many, so that two are compared; more than are listed.
    for (size, ways) in [
        (MOST - 100, &[&["inspect", "--code"][..], &["inspect", "--format", "json"]][..]),
        (MOST / 2 - 100, &[&["inspect", "--diff"]]),
        (3 * MOST, &[&["inspect"]]),
    ] {
        let tree = Tree::new();
        let mut commands: Vec<Vec<String>> = Vec::new();
        // What is not sound is neither listed nor compared.
        for bomb in crafted::bombs(size).iter_mut().filter(|bomb| bomb.sound || size > MOST) {
            let mut files = vec![lay(&tree, bomb)];
            if ways[0].contains(&"--diff") {
                // Another constant where the last one is `None`, else another first line.
                let len = bomb.bytes.len();
                let (constant, line) = (len - 66, len - 15);
                let at = if bomb.bytes[constant] == b'N' { constant } else { line };
                bomb.bytes[at] = b'T';
                files.push(format!("other-{}.pyc", bomb.name));
                tree.file(&files[1], &bomb.bytes);
            }
            commands.extend(ways.iter().map(|way| way.iter().map(ToString::to_string).chain(files.clone()).collect()));
        }
        if size > MOST {
            commands.extend(["verify", "seal"].map(|word| vec![word.to_owned(), ".".to_owned()]));
        }
        for (words, (kib, end)) in commands.iter().zip(measure(&tree, &commands)) {
            assert!(kib <= BOUND && ["0", "1"].contains(&&*end), "{size} bytes: bytekeep {}: {kib} KiB, ended with {end}", words.join(" "));
            let word = words[..words.len() - 1].iter().filter(|word| !word.contains('.')).cloned().collect::<Vec<_>>().join(" ");
            let largest = most.entry(word).or_insert((0, String::new()));
            *largest = largest.clone().max((kib, words.last().unwrap().clone()));
        }
    }
    println!("the most in KiB: {most:?}");
}

/// A file of 4 GiB that takes no room on the disk.
#[test]
fn a_file_that_is_too_large_takes_nothing() {
    let tree = Tree::new();
    whole::set_mtime(&tree.file("sparse.py", b""), 0);
    let path = tree.file("__pycache__/sparse.cpython-313.pyc", &crafted::header(3571));
    std::fs::File::options().write(true).open(path).unwrap().set_len(4 << 30).unwrap();
    let path = "__pycache__/sparse.cpython-313.pyc";
    for words in
        [&["verify", "."][..], &["seal", "."], &["inspect", path], &["inspect", "--code", path], &["inspect", "--diff", path, path]]
    {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        let told = measure(&tree, std::slice::from_ref(&words));
        assert!(told[0].0 <= BOUND && ["1", "2"].contains(&&*told[0].1), "{words:?}: {told:?}");
    }
}

#[test]
fn crafted_artifacts_are_judged_as_what_they_are() {
    let tree = Tree::new();
    let bombs = crafted::bombs(5000);
    for bomb in &bombs {
        lay(&tree, bomb);
    }
    let verified = tree.verify().exits(1);
    for bomb in &bombs {
        let entry = verified.entry(&format!("{}.cpython-313.pyc", bomb.name));
        let verdict = entry["verdict"].as_str().unwrap();
        assert_eq!(verdict == "unsealed", bomb.sound, "{}: {entry}", bomb.name);
        assert!(bomb.sound || ["truncated", "corrupt"].contains(&verdict), "{}: {entry}", bomb.name);
    }
}

/// Is it refused by every look there is?
fn is_refused(artifact: &[u8]) -> bool {
    let Ok(head) = Pyc.head(&artifact[..artifact.len().min(16)], None, None) else { return true };
    Pyc.body(&head, artifact).is_err() && Pyc.deep_body(&head, artifact).is_err() && Objects::read(&head, artifact).is_err()
}

/// The smallest artifacts that an interpreter makes of its own library: argument 1 is how many, 2 where to.
const SMALL: &str = r"
import marshal, os, sys
try:
    from importlib.util import MAGIC_NUMBER as magic
except ImportError:
    import imp
    magic = imp.get_magic()
made = set()
for top, dirs, names in os.walk(os.path.dirname(os.__file__)):
    dirs[:] = sorted(d for d in dirs if d not in ('site-packages', '__pycache__', 'bad', 'data'))
    for path in [os.path.join(top, name) for name in names if name.endswith('.py')]:
        if os.path.isfile(path) and 200 < os.path.getsize(path) < 6000:
            with open(path, 'rb') as file:
                source = file.read()
            try:
                body = marshal.dumps(compile(source, 'small.py', 'exec', 0, True))
            except (SyntaxError, ValueError):
                continue
            if len(body) > 250:
                made.add(body)
header = magic + b'\0' * (4 if sys.version_info[0] < 3 else 8 if sys.version_info < (3, 7) else 12)
for number, body in enumerate(sorted(made, key=len)[:int(sys.argv[1])]):
    with open(os.path.join(sys.argv[2], '%d.pyc' % number), 'wb') as file:
        file.write(header + body)
";

fn small(python: &Python, count: usize, dir: &Path) -> Vec<Vec<u8>> {
    let mut command = python.command();
    command.args(["-S", "-W", "ignore", "-c", SMALL]).arg(count.to_string()).arg(dir);
    assert!(command.stdin(Stdio::null()).status().unwrap().success(), "{}", python.tag);
    dir.read_dir().unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect()
}

#[test]
fn no_prefix_of_a_real_artifact_passes_for_whole() {
    let pythons = interpreters();
    let (mut artifacts, mut prefixes) = (0, 0);
    for python in &pythons {
        let dir = tempfile::tempdir().unwrap();
        for whole in small(python, 56_usize.div_ceil(pythons.len()), dir.path()) {
            assert!(!is_refused(&whole), "{}", python.tag);
            for len in 0..whole.len() {
                let part = &whole[..len];
                assert!(is_refused(part), "{}: {len} of {} bytes", python.tag, whole.len());
                if len % 23 == 0 {
                    assert!(!examine(&Pyc, part, Some(&python.tag), None).shape.is_empty(), "{}: {len}", python.tag);
                }
            }
            artifacts += 1;
            prefixes += whole.len();
        }
    }
    println!("{prefixes} prefixes of {artifacts} artifacts of {} interpreters", pythons.len());
    assert!(artifacts >= 50, "only {artifacts} artifacts");
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/corpus")
}

/// The kept ones, by their names, and whether they are sound.
fn kept() -> BTreeMap<String, (Vec<u8>, bool)> {
    let shapes = crafted::NUMBERS.map(|number| (format!("shapes-{number}.pyc"), (crafted::shapes(number), true)));
    let bombs = crafted::bombs(300).into_iter().map(|bomb| (format!("{}.pyc", bomb.name), (bomb.bytes, bomb.sound)));
    bombs.chain(shapes).collect()
}

/// `BLESS=1 cargo test --test crafted` writes them anew. The fuzzer takes them as seeds.
#[test]
fn the_kept_artifacts_are_what_the_recipe_makes_and_are_judged_as_ever() {
    let all = kept();
    if std::env::var_os("BLESS").is_some_and(|bless| bless == "1") {
        for entry in corpus().read_dir().unwrap().flatten().filter(|entry| entry.path().extension().is_some_and(|end| end == "pyc")) {
            std::fs::remove_file(entry.path()).unwrap();
        }
        for (name, (bytes, _)) in &all {
            std::fs::write(corpus().join(name), bytes).unwrap();
        }
    }
    let there: BTreeSet<String> = corpus().read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let names: BTreeSet<String> = all.keys().cloned().collect();
    assert_eq!(there, names, "renew them with `BLESS=1 cargo test --test crafted`");
    let mut total = 0;
    for (name, (made, sound)) in all {
        let bytes = std::fs::read(corpus().join(&name)).unwrap();
        assert!(bytes == made, "{name} is not what the recipe makes; renew it with `BLESS=1 cargo test --test crafted`");
        let head = Pyc.head(&bytes[..16.min(bytes.len())], None, None).unwrap_or_else(|flaw| panic!("{name}: {flaw:?}"));
        assert_eq!(Pyc.deep_body(&head, &bytes).is_ok(), sound, "{name}: {:?}", Pyc.deep_body(&head, &bytes));
        for len in (0..bytes.len()).step_by(1 + bytes.len() / 1000) {
            assert!(is_refused(&bytes[..len]), "{name}: {len} of {} bytes", bytes.len());
        }
        total += bytes.len();
    }
    println!("{} artifacts, {total} bytes", names.len());
    assert!(total < 200_000, "{total} bytes are too many to keep");
}

/// Who reads "sound" learns how far it was looked into.
#[test]
fn what_was_judged_by_its_structure_alone_is_told() {
    let tree = Tree::new();
    for (number, tag) in [(3351, "cpython-35"), (3571, "cpython-313")] {
        tree.file(format!("__pycache__/m.{tag}.pyc"), &crafted::Code::new(number).artifact());
    }
    whole::set_mtime(&tree.file("m.py", b""), 0);
    let verified = tree.verify().exits(0);
    let cause = |name: &str| verified.entry(name)["cause"]["code"].clone();
    assert_eq!((cause("m.cpython-35.pyc"), cause("m.cpython-313.pyc")), ("structure-alone".into(), serde_json::Value::Null));
    let told = tree.bytekeep(None, ["verify", "-v", "."]).run().exits(0).shown();
    let lines: Vec<&str> = told.lines().filter(|line| line.contains("not its instructions")).collect();
    assert!(lines.len() == 1 && lines[0].contains("m.cpython-35.pyc"), "{told}");
    for (tag, deep) in [("cpython-35", false), ("cpython-313", true)] {
        let path = format!("__pycache__/m.{tag}.pyc");
        let json = tree.bytekeep(None, ["inspect", "--format", "json"]).arg(&path).run().exits(0).lines.remove(0);
        assert_eq!((&json["structure"], &json["deep"]), (&"sound".into(), &deep.into()), "{json}");
        let human = tree.bytekeep(None, ["inspect"]).arg(&path).run().exits(0).stdout;
        assert_eq!(human.contains("the instructions were not looked into"), !deep, "{human}");
    }
}

/// What is called sound is what the interpreters read.
#[test]
fn sound_ones_load_in_the_interpreter_that_they_are_for() {
    const LOAD: &str = r"
import marshal, sys
for path in sys.argv[2:]:
    with open(path, 'rb') as file:
        data = file.read()[int(sys.argv[1]):]
    try:
        marshal.loads(data)
    except Exception as error:
        sys.exit('%s: %r' % (path, error))
";
    let mut loaded = Vec::new();
    for python in interpreters() {
        let number = u16::from_le_bytes([python.magic[0], python.magic[1]]);
        let dir = tempfile::tempdir().unwrap();
        let shapes = (crafted::NUMBERS.contains(&number)).then(|| (format!("shapes-{number}.pyc"), (crafted::shapes(number), true)));
        let bombs = crafted::bombs(5000).into_iter().map(|bomb| (bomb.name.to_owned(), (bomb.bytes, bomb.sound)));
        // Over tuples that hold each other twice, hundreds deep, 3.13 never ends: it goes through them to intern what they hold.
        let bombs = bombs.filter(|(name, _)| number == 3571 && name != "doubled");
        let mine: Vec<_> = bombs.chain(shapes).filter(|(_, (_, sound))| *sound).collect();
        let paths: Vec<PathBuf> = mine.iter().map(|(name, _)| dir.path().join(name)).collect();
        for (path, (_, (bytes, _))) in paths.iter().zip(&mine) {
            std::fs::write(path, bytes).unwrap();
        }
        let header = bytekeep::python::magic::header_len(number);
        let done = python.command().args(["-S", "-c", LOAD]).arg(header.to_string()).args(&paths).output().unwrap();
        assert!(done.status.success(), "{}: {}", python.tag, String::from_utf8_lossy(&done.stderr));
        loaded.push(format!("{} {}", python.tag, paths.len()));
    }
    println!("loaded: {}", loaded.join(", "));
}

/// What no interpreter can put into a set, neither at once nor by a reference, the structure alone shows.
#[test]
fn what_cannot_be_hashed_is_refused_as_every_interpreter_refuses_it() {
    const REFUSED: &str = r"
import marshal, sys
for text in sys.argv[1:]:
    try:
        marshal.loads(bytes(bytearray(int(text[at:at + 2], 16) for at in range(0, len(text), 2))))
    except TypeError:
        print(text)
";
    for python in interpreters() {
        let number = u16::from_le_bytes([python.magic[0], python.magic[1]]);
        if !crafted::NUMBERS.contains(&number) {
            println!("{}: no layout of {number} is crafted", python.tag);
            continue;
        }
        let (list, set, dict) = (b"[\0\0\0\0".to_vec(), b"<\0\0\0\0".to_vec(), b"{0".to_vec());
        let one = |code: u8, item: &[u8]| crafted::items(code, &[item.to_vec()]);
        let bad = [&list, &set, &dict, &one(b'(', &list), &one(b'(', &one(b'(', &dict))];
        let keys = bad.map(|key| [b"{", &key[..], b"N0"].concat());
        let sets = bad.map(|item| [one(b'<', item), one(b'>', item)]);
        let bodies = sets
            .into_iter()
            .flatten()
            .chain(keys)
            .map(|const_| crafted::Code::new(number).consts(crafted::items(b'(', &[b"N".to_vec(), const_])));
        let mut asked = Vec::new();
        for code in bodies {
            let artifact = code.artifact();
            let head = Pyc.head(&artifact[..16], None, None).unwrap();
            assert_eq!(Pyc.body(&head, &artifact).unwrap_err().code, "unhashable", "{}: {artifact:02x?}", python.tag);
            asked.push(code.object().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat());
        }
        let done = python.command().args(["-S", "-c", REFUSED]).args(&asked).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&done.stdout).lines().collect::<Vec<_>>(), asked, "{}", python.tag);
    }
}
