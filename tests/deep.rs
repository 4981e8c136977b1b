//! The deeper look against real interpreters: what they compile is sound to the last instruction, and each field is read as they read it.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, reason = "tests write and damage files of their own")]

#[path = "support/mod.rs"]
mod support;
#[path = "support/whole.rs"]
mod whole;

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use bytekeep::model::Format;
use bytekeep::python::Pyc;
use bytekeep::python::objects::{Code, Object, Objects, Value};
use support::{Python, interpreters};

const OPCODES: &str = include_str!("../src/python/opcodes.txt");

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// The section of a magic number in the kept tables.
fn section(number: u16) -> Option<&'static str> {
    let start = OPCODES.find(&format!("\nmagic {number} "))? + 1;
    let rest = &OPCODES[start..];
    Some(&rest[..rest.find("\nmagic ").map_or(rest.len(), |end| end + 1)])
}

fn number(python: &Python) -> u16 {
    u16::from_le_bytes([python.magic[0], python.magic[1]])
}

#[test]
fn the_opcode_tables_are_what_interpreters_say() {
    let mut compared = Vec::new();
    for python in interpreters() {
        let Some(kept) = section(number(&python)) else {
            println!("{}: magic number {} has no table, so its instructions are not looked into", python.tag, number(&python));
            continue;
        };
        let output = python.command().arg("-S").arg(script("opcodes.py")).output().unwrap();
        assert!(output.status.success(), "{}: {}", python.tag, String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said == kept, "{}: put into src/python/opcodes.txt what tests/data/opcodes.py prints:\n{said}", python.tag);
        compared.push(python.tag);
    }
    assert!(!compared.is_empty(), "no interpreter here has a table: nothing is compared");
    println!("compared: {}", compared.join(" "));
}

/// The next part of the stream: its length, and so many bytes.
fn part(stream: &mut impl Read) -> Option<Vec<u8>> {
    let mut len = [0; 4];
    match stream.read_exact(&mut len) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return None,
        other => other.unwrap(),
    }
    let mut bytes = vec![0; u32::from_le_bytes(len) as usize];
    stream.read_exact(&mut bytes).unwrap();
    Some(bytes)
}

fn crc(bytes: &[u8]) -> String {
    format!("{:x}", crc32fast::hash(bytes))
}

fn names<'o>(of: impl Iterator<Item = Object<'o>>) -> String {
    let all: Vec<&[u8]> = of.map(|name| name.text().unwrap()).collect();
    format!("{}:{}", all.len(), crc(&all.join(&0)))
}

fn constant(object: Object<'_>) -> String {
    let object = object.resolved();
    match object.value() {
        Value::None => "N".into(),
        Value::True => "T".into(),
        Value::False => "F".into(),
        Value::Ellipsis => ".".into(),
        Value::Int(value) if value.unsigned_abs() < 1 << 60 => format!("i{value}"),
        Value::Int(value) => {
            let digits: Vec<u8> =
                (0..5).flat_map(|at| u16::try_from(value.unsigned_abs() >> (15 * at) & 0x7FFF).unwrap().to_le_bytes()).collect();
            format!("{}{}", if value < 0 { '-' } else { '+' }, crc(&digits))
        }
        Value::BigInt { negative, digits } if digits.len() <= 8 => {
            let digits = digits.chunks_exact(2).rev().map(|digit| u16::from_le_bytes([digit[0], digit[1]]));
            let value = digits.fold(0_i64, |value, digit| value << 15 | i64::from(digit));
            format!("i{}", if negative { -value } else { value })
        }
        Value::BigInt { negative, digits } => format!("{}{}", if negative { '-' } else { '+' }, crc(digits)),
        Value::Float(bits) => format!("f{bits:x}"),
        Value::Complex(real, imaginary) => format!("x{real:x},{imaginary:x}"),
        Value::Bytes(bytes) => format!("b{}", crc(bytes)),
        Value::Str(text) => format!("u{}", crc(text)),
        Value::Tuple => format!("({})", object.parts().map(constant).collect::<Vec<_>>().join(" ")),
        Value::FrozenSet => format!(">{}", object.parts().count()),
        Value::Slice => ":".into(),
        Value::Code => "c".into(),
        other => panic!("a constant that no compiler writes: {other:?}"),
    }
}

/// The fields of a code object as `compiled.py` tells them.
fn fields(code: Code<'_>) -> String {
    let field = |name: &str| code.field(name).map(Object::resolved);
    let text = |name: &str| crc(field(name).and_then(Object::text).unwrap_or_default());
    let tuple = |name: &str| names(field(name).unwrap().parts());
    let numbers = code.numbers();
    // From 3.11 three lists are one, with the kinds beside it.
    let kinds = field("co_localspluskinds").and_then(Object::text);
    let of_kind = |bit: u8| {
        let all = field("co_localsplusnames").unwrap().parts().zip(kinds.unwrap());
        all.filter(move |(_, kind)| *kind & bit != 0).map(|(name, _)| name)
    };
    let (locals, lists) = if kinds.is_some() {
        (of_kind(0x20).count(), [0x20, 0x40, 0x80].map(|bit| names(of_kind(bit))))
    } else {
        (numbers.locals as usize, ["co_varnames", "co_cellvars", "co_freevars"].map(tuple))
    };
    let mut told: Vec<String> = [numbers.args, numbers.positional_only, numbers.keyword_only].map(|number| number.to_string()).to_vec();
    told.push(locals.to_string());
    told.extend([numbers.stack, numbers.flags, numbers.first_line].map(|number| number.to_string()));
    told.extend([text("co_code"), tuple("co_names")]);
    told.extend(lists);
    let lines = if code.field("co_linetable").is_some() { "co_linetable" } else { "co_lnotab" };
    told.extend([text("co_filename"), crc(code.name()), text("co_name"), text(lines), text("co_exceptiontable")]);
    told.extend(field("co_consts").unwrap().parts().map(constant));
    told.join(" ")
}

/// Every eleventh file of each interpreter's library, levels 0 and 2 in turn, and sources that are odd; all files at both levels where
/// `BYTEKEEP_TEST_ALL` is set (that takes some minutes).
#[test]
fn what_interpreters_compile_is_sound_and_read_as_they_read_it() {
    let stride = if std::env::var_os("BYTEKEEP_TEST_ALL").is_some() { "1" } else { "11" };
    for python in interpreters() {
        let mut command = python.command();
        command.arg("-S").arg(script("compiled.py")).arg(stride).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stream = std::io::BufReader::new(child.stdout.take().unwrap());
        let (mut artifacts, mut codes, mut odd) = (0, 0, Vec::new());
        while let Some(name) = part(&mut stream) {
            let (body, told) = (part(&mut stream).unwrap(), part(&mut stream).unwrap());
            let name = format!("{} {}", python.tag, String::from_utf8_lossy(&name));
            let artifact = [&python.magic[..], &vec![0; bytekeep::python::magic::header_len(number(&python)) - 4], &body].concat();
            let head = Pyc.head(&artifact[..artifact.len().min(16)], None, None).unwrap();
            let objects = Objects::read_deep(&head, &artifact).unwrap_or_else(|broken| panic!("{name}: {broken:?}"));
            assert_eq!(Pyc.deep_body(&head, &artifact), Ok(()), "{name}");
            let told = String::from_utf8(told).unwrap();
            let mut theirs = told.lines();
            for code in objects.codes() {
                assert_eq!(
                    Some(fields(code).trim_end()),
                    theirs.next().map(str::trim_end),
                    "{name}: {}",
                    String::from_utf8_lossy(code.name())
                );
                codes += 1;
            }
            assert_eq!(theirs.next(), None, "{name}: a code object is not listed");
            artifacts += 1;
            odd.extend(name.split_once(" odd ").map(|(_, what)| what.to_owned()));
        }
        assert!(child.wait().unwrap().success(), "{}", python.tag);
        assert!(artifacts > 50, "{}: only {artifacts} artifacts", python.tag);
        // What each version knows by its grammar; what every version knows is below.
        let since = [
            ((3, 5), "await"),
            ((3, 8), "positional"),
            ((3, 10), "match"),
            ((3, 11), "groups"),
            ((3, 12), "types"),
            ((3, 14), "templates"),
        ];
        let expected = since.iter().filter(|(version, _)| python.version >= *version).map(|(_, what)| *what);
        for what in expected.chain(["long", "names", "locals", "cells", "places", "nested", "classes", "generators", "numbers", "strings"])
        {
            assert!(odd.iter().any(|done| done == what), "{}: `{what}` does not compile", python.tag);
        }
        println!("{}: {artifacts} artifacts, {codes} code objects", python.tag);
    }
}

/// One byte in the instructions of a function, which import takes without a word.
fn break_instruction(artifact: &Path) {
    let (mut bytes, stat) = (std::fs::read(artifact).unwrap(), artifact.metadata().unwrap());
    let head = Pyc.head(&bytes[..16], None, None).unwrap();
    let objects = Objects::read(&head, &bytes).unwrap();
    let code = objects.codes().nth(1).unwrap().field("co_code").unwrap();
    // Its first byte stands behind the type code and the length.
    let place = code.place() + 5;
    bytes[place] = 255;
    std::fs::write(artifact, bytes).unwrap();
    whole::set_mtime(artifact, std::os::unix::fs::MetadataExt::mtime(&stat));
}

/// A broken instruction does not show in the structure: `verify`, `inspect`, `seal` and `repair` look deep enough, `compile` at every
/// start of a program does not.
#[test]
fn a_broken_instruction_is_found_by_those_who_look_deep() {
    let python = whole::python();
    assert!(section(number(python)).is_some(), "{} has no table", python.tag);
    let tree = whole::Tree::new();
    tree.old_file("broken.py", b"def f():\n    return 1\n\nVALUE = 7\n");
    whole::set_mtime(&tree.path("good.py"), 1_500_000_000);
    let mut compileall = python.command();
    assert!(compileall.args(["-m", "compileall", "-q"]).arg(tree.root()).status().unwrap().success());
    let artifact = tree.artifact("broken.py", python);
    assert!(tree.verify().exits(0).is("broken.py", "unsealed", "none").wrong() == 0);
    break_instruction(&artifact);
    assert_eq!(tree.import(python, "broken"), "7", "import says nothing of it");

    let text = ["an instruction in it is none"];
    tree.verify().exits(1).is("broken.py", "corrupt", "none").fails("broken.py", "bytecode", &text).is("good.py", "unsealed", "none");
    tree.compile(python).exits(0).is("broken.py", "unsealed", "none");
    let path = artifact.to_str().unwrap();
    let inspected = tree.bytekeep(None, ["inspect", "--format", "json", path]).run().exits(1);
    assert_eq!((&inspected.lines[0]["structure"], &inspected.lines[0]["flaws"][0]["code"]), (&"broken".into(), &"bytecode".into()));
    let sealed = tree.bytekeep(None, ["seal", "--format", "json", "."]).run().exits(1);
    sealed.is("good.py", "unsealed", "sealed").fails("broken.py", "bytecode", &text);
    tree.bytekeep(Some(python), ["repair", "--format", "json", "."]).run().exits(0).is("broken.py", "corrupt", "built");
    tree.verify().exits(0).is("broken.py", "ok", "none");
}
