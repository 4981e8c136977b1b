//! Hostile bytes for every parser, millions of them: artifacts of real interpreters, cut, spliced and lied in. A parser may say no; it may
//! not panic, take long, or take memory that a length in the input asks for.
//!
//! Each parser runs in a process of its own whose address space is bounded. Then come the bombs: see `bombs`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytekeep::base::seal::{Artifact, is_cut_seal};
use bytekeep::model::Format;
use bytekeep::python::Pyc;
use bytekeep::python::frame::{Decoder, encode, fields};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::run::{Random, Setting, Tally, interrupted, pythons};

/// Seeds are small, so that a case is short; what an input of a few KiB may take beyond what the process has anyhow.
const MEMORY: u64 = 64 << 20;
const LARGEST: usize = 8 << 10;
/// For one case, on a machine that is busy with other things.
const LONG: Duration = Duration::from_secs(5);

type Parser = fn(&[u8], &mut Random) -> Result<(), String>;

const PARSERS: [(&str, Parser); 4] = [("seal", seal), ("header", header), ("marshal", marshal), ("frames", frames)];

/// Parsers with a fault, which must be found out.
const STAND_INS: [(&str, Parser); 3] = [("standin-trusting", trusting), ("standin-recursive", recursive), ("standin-unchecked", unchecked)];

/// A source with something of everything that ends up in an artifact.
const SOURCE: &str = "import os\nX = (1, 2.5, 3j, 'text', b'bytes', None, 1 << 70)\nclass C:\n    def f(self, a, *b, **c):\n        \
    try:\n            return [i for i in a if i]\n        except ValueError:\n            raise\n";

fn seal(bytes: &[u8], _: &mut Random) -> Result<(), String> {
    if let Ok(artifact) = Artifact::split(bytes) {
        drop(artifact.prove());
        is_cut_seal(bytes, artifact.payload.len() as u64);
        if artifact.seal.is_some() && artifact.payload.len() + 96 != bytes.len() {
            return Err(format!("a payload of {} bytes", artifact.payload.len()));
        }
    }
    Ok(())
}

fn header(bytes: &[u8], _: &mut Random) -> Result<(), String> {
    if let Ok(head) = Pyc.head(&bytes[..bytes.len().min(16)], None, None)
        && head.len > 16
    {
        return Err(format!("a header of {} bytes", head.len));
    }
    Ok(())
}

fn marshal(bytes: &[u8], _: &mut Random) -> Result<(), String> {
    let Ok(head) = Pyc.head(&bytes[..bytes.len().min(16)], None, None) else { return Ok(()) };
    let (body, deep) = (Pyc.body(&head, bytes), Pyc.deep_body(&head, bytes));
    for flaw in [&body, &deep].into_iter().filter_map(|looked| looked.as_ref().err()) {
        if flaw.offset.is_some_and(|at| at > bytes.len() as u64) {
            return Err(format!("a flaw behind the end: {flaw:?}"));
        }
    }
    if body.is_err() && deep.is_ok() { Err(format!("the deeper look does not see {body:?}")) } else { Ok(()) }
}

/// Any split of the stream gives the same frames.
fn frames(bytes: &[u8], random: &mut Random) -> Result<(), String> {
    let read = |split: &mut dyn FnMut(usize) -> usize| {
        let (mut decoder, mut rest, mut all) = (Decoder::default(), bytes, Vec::new());
        while !rest.is_empty() {
            let (now, later) = rest.split_at(split(rest.len()).clamp(1, rest.len()));
            decoder.push(now);
            rest = later;
            loop {
                match decoder.take() {
                    Ok(Some(frame)) => {
                        drop(fields(&frame.body));
                        all.push(frame);
                    }
                    Ok(None) => break,
                    Err(error) => return (all, Some(error)),
                }
            }
        }
        (all, None)
    };
    let whole = read(&mut |len| len);
    let torn = read(&mut |len| random.below(len) + 1);
    if whole == torn { Ok(()) } else { Err(format!("{whole:?} at once, {torn:?} in pieces")) }
}

/// Takes the memory that a length asks for, as who calls `with_capacity` does.
fn trusting(bytes: &[u8], _: &mut Random) -> Result<(), String> {
    for word in bytes.windows(4).skip(16).step_by(7) {
        let len = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        let taken = Vec::<u8>::with_capacity(usize::try_from(len).unwrap_or(0));
        if std::hint::black_box(&taken).capacity() > usize::MAX / 2 {
            return Err("too long".to_owned());
        }
    }
    Ok(())
}

/// Goes down a level for each byte of a type that holds others.
fn recursive(bytes: &[u8], _: &mut Random) -> Result<(), String> {
    fn level(bytes: &[u8], depth: usize) -> usize {
        let room = std::hint::black_box([depth; 1 << 11]);
        match bytes {
            [b'(' | b')' | b'[' | 0x01 | 0x00, rest @ ..] => level(rest, depth + 1) + room[0],
            _ => depth,
        }
    }
    let deepest = (0..bytes.len()).step_by(5).map(|at| level(&bytes[at..], 0)).max();
    if deepest == Some(usize::MAX) { Err("too deep".to_owned()) } else { Ok(()) }
}

/// Slices by what is written in the stream.
fn unchecked(bytes: &[u8], _: &mut Random) -> Result<(), String> {
    let len = bytes.get(4).copied().map_or(0, usize::from);
    if len > 0 && bytes[bytes.len().min(16)..][..len.saturating_sub(1)].len() > bytes.len() {
        return Err("too long".to_owned());
    }
    Ok(())
}

/// Whether this process was started to be one of the parsers; then it has done its work.
pub(crate) fn asked() -> Option<Result<()>> {
    let all: Vec<String> = std::env::args().skip(1).collect();
    match &all[..] {
        [first, parser, seeds, seed, seconds, cases] if first == "fuzz-one" => Some(child(parser, Path::new(seeds), seed, seconds, cases)),
        _ => None,
    }
}

fn child(name: &str, seeds: &Path, seed: &str, seconds: &str, cases: &str) -> Result<()> {
    let (_, parser) =
        PARSERS.into_iter().chain(STAND_INS).find(|(known, _)| *known == name).with_context(|| format!("no parser is called {name}"))?;
    let (seed, seconds, cases): (u64, u64, u64) = (seed.parse()?, seconds.parse()?, cases.parse()?);
    let mut all = Vec::new();
    for entry in std::fs::read_dir(seeds)? {
        all.push(std::fs::read(entry?.path())?);
    }
    all.sort();
    if name == "frames" {
        all = streams(&all);
    }
    let pages: u64 = std::fs::read_to_string("/proc/self/statm")?.split(' ').next().context("no size")?.parse()?;
    let limit = Some(pages * 4096 + MEMORY);
    setrlimit(Resource::As, Rlimit { current: limit, maximum: limit })?;
    let (start, mut done) = (Instant::now(), 0);
    while done < cases && start.elapsed() < Duration::from_secs(seconds) {
        // each case follows from its own number, so that one can be seen again without those before it
        let mut random = Random::new(seed.wrapping_add(done.wrapping_mul(0x9E37)));
        let input = mutated(&all, &mut random);
        let begun = Instant::now();
        let answer = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| parser(&input, &mut random)));
        let wrong = match answer {
            Ok(Ok(())) if begun.elapsed() > LONG => Some(format!("it took {:.1} s", begun.elapsed().as_secs_f64())),
            Ok(Ok(())) => None,
            Ok(Err(why)) => Some(why),
            Err(_) => Some("it panics".to_owned()),
        };
        if let Some(why) = wrong {
            bail!("{why}; case {done}, input {input:02x?}");
        }
        done += 1;
    }
    println!("{done}");
    Ok(())
}

/// What a worker may answer: frames around pieces of artifacts.
fn streams(artifacts: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let whole = |artifact: &Vec<u8>| {
        let (first, second) = artifact.split_at(artifact.len() / 2);
        [encode(1, 2, &[first]), encode(2, 3, &[second, b"", first]), encode(3, 0, &[])].into_iter().flatten().flatten().collect()
    };
    artifacts.iter().map(whole).collect()
}

fn mutated(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    const LIES: [u32; 10] = [0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0x0100_0000];
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len().max(1));
        match random.below(8) {
            0 => bytes.truncate(at),
            1 | 2 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            3 if !bytes.is_empty() => bytes[at] = u8::try_from(random.below(256)).unwrap_or(0),
            // a length that lies
            4 | 5 if at + 4 <= bytes.len() => bytes[at..at + 4].copy_from_slice(&LIES[random.below(LIES.len())].to_le_bytes()),
            6 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len());
                let piece = other[from..other.len().min(from + random.below(200))].to_vec();
                bytes.splice(at.min(bytes.len())..at.min(bytes.len()), piece);
            }
            // one type code again and again: depth
            _ if !bytes.is_empty() => {
                let code = bytes[at];
                let run = std::iter::repeat_n([code, 1, 0, 0, 0], random.below(300)).flatten();
                bytes.splice(at..at, run);
            }
            _ => {}
        }
        bytes.truncate(LARGEST);
    }
    bytes
}

/// `cases` of each parser, or fewer where `seconds` for each are over.
pub(crate) fn run(setting: &Setting, seconds: Option<u64>, cases: u64, only: Option<&str>, tally: &Tally) -> Result<()> {
    let room = setting.room("fuzz")?;
    let seeds = room.path().join("seeds");
    let versions = lay_out(setting, room.path(), &seeds)?;
    println!("fuzz: seeds of {}", versions.join(", "));
    let (parser, number) = only.map_or((None, None), |only| match only.split_once(':') {
        Some((parser, number)) => (Some(parser), number.parse::<u64>().ok()),
        None => (Some(only), None),
    });
    if parser == Some("bombs") {
        return crate::bombs::run(setting, seconds.is_some(), tally);
    }
    if parser.is_some_and(|parser| PARSERS.iter().all(|(known, _)| *known != parser)) {
        bail!("no parser is called {}; a case is PARSER, PARSER:CASES or bombs", parser.unwrap_or_default());
    }
    let cases = number.unwrap_or(cases);
    for (name, _) in STAND_INS.into_iter().filter(|_| parser.is_none()) {
        let found = one(setting, name, &seeds, 20, 100_000)?.err().filter(|_| !interrupted());
        println!("fuzz: {name}: {} (must be found out)", found.as_deref().unwrap_or("nothing").chars().take(80).collect::<String>());
        if found.is_none() && !interrupted() {
            tally.violation(&format!("{name} passes: then the others show nothing"), "fuzz");
        }
    }
    for (name, _) in PARSERS.into_iter().filter(|(name, _)| parser.is_none_or(|parser| parser == *name)) {
        let start = Instant::now();
        let answer = one(setting, name, &seeds, seconds.unwrap_or(3600), cases)?;
        if interrupted() {
            return Ok(());
        }
        match answer {
            Ok(done) => {
                println!("fuzz: {name}: {done} inputs, {:.1} s", start.elapsed().as_secs_f64());
                tally.checked(done);
            }
            Err(why) => tally.violation(&format!("fuzz: {name}: {why}"), &format!("fuzz --seed {} --case {name}", setting.seed)),
        }
    }
    if parser.is_none() { crate::bombs::run(setting, seconds.is_some(), tally) } else { Ok(()) }
}

/// How many inputs it stood, or what happened.
fn one(setting: &Setting, name: &str, seeds: &Path, seconds: u64, cases: u64) -> Result<Result<u64, String>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["fuzz-one", name]).arg(seeds).args([setting.seed, seconds, cases].map(|number| number.to_string()));
    // To find the names of a backtrace takes more memory than it has, and then it waits for itself.
    let out = command.env("RUST_BACKTRACE", "0").stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&out.stdout);
    let last = said.trim().lines().last().unwrap_or_default();
    if let (true, Ok(done)) = (out.status.success(), last.parse::<u64>()) {
        return Ok(Ok(done));
    }
    let cause = String::from_utf8_lossy(&out.stderr);
    let cause = cause.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    Ok(Err(format!("{cause} {last} ({})", out.status)))
}

/// What each interpreter here makes of the source, sealed and not, and the artifacts that are kept in the repository.
fn lay_out(setting: &Setting, room: &Path, seeds: &Path) -> Result<Vec<String>> {
    std::fs::create_dir(seeds)?;
    let (mut versions, mut kept_count) = (Vec::new(), 0);
    for kept in ["tests/data/corpus", "tests/data/pyc"] {
        for path in crate::whole::files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(kept)) {
            if path.extension().is_some_and(|end| end == "pyc") {
                std::fs::copy(&path, seeds.join(path.file_name().context("no name")?))?;
                kept_count += 1;
            }
        }
    }
    for python in pythons(&setting.python) {
        let tree = room.join(&python.version);
        std::fs::create_dir(&tree)?;
        std::fs::write(tree.join("m.py"), SOURCE)?;
        let here = Setting { python: python.clone(), ..setting.clone() };
        crate::mount::check(&mut here.bytekeep("compile", &tree, 1, &room.join("cache")))?;
        for path in crate::whole::files(&tree).into_iter().filter(|path| crate::whole::is_artifact(path)) {
            let bytes = std::fs::read(&path)?;
            std::fs::write(seeds.join(format!("{}-sealed", python.version)), &bytes)?;
            std::fs::write(seeds.join(&python.version), &bytes[..bytes.len() - 96])?;
            versions.push(python.version.clone());
        }
    }
    versions.push(format!("{kept_count} kept ones"));
    Ok(versions)
}
