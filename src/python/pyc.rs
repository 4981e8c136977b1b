//! Names, headers and labels of `.pyc` files, of every interpreter in [`super::magic`] at once.
//!
//! Header, all integers little-endian:
//!
//! | bytes | layout | who |
//! |---|---|---|
//! | 8 | magic, mtime `u32` | 2.7, 3.0 to 3.2 |
//! | 12 | magic, mtime `u32`, size `u32` | 3.3 to 3.6 |
//! | 16 | magic, flags `u32`, then mtime and size, or a source hash of 8 bytes | 3.7 and later (PEP 552) |
//!
//! The *label* of a seal is the first 8 bytes of BLAKE3 over: the cache tag (`cpython-313`), one byte 0, the optimisation level as a
//! decimal number (`0`, `1`, `2`), one byte 0, the build variant (empty, `t`, `d` or `td`). Neither tag nor level contains a byte 0, so
//! no two artifacts that differ in one of the three share what is hashed.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::sync::{Arc, LazyLock};

use siphasher::sip::{SipHasher13, SipHasher24};

use super::bytecode::Deep;
use super::code_object::Dialect;
use super::magic::{self, Standing};
use super::marshal;
use super::{differences, nameless};
use crate::base::seal::Digest;
use crate::base::sys::{Name, Stat, Time};
use crate::base::{Flaw, FlawKind};
use crate::model::{Compared, Format, Head, Layout, Level, Loading, Mode, Recognised, Stamp, Target};

/// The flags' bit for a stamp by hash, and the one that asks importing to compare it.
const HASH_BASED: u32 = 1;
const CHECK_SOURCE: u32 = 2;

static CACHE_DIR: LazyLock<Name> = LazyLock::new(|| Name::from_bytes(b"__pycache__").expect("it is one component"));

static EXAMPLE: LazyLock<Name> = LazyLock::new(|| Name::from_bytes(b"x.py").expect("it is one component"));

/// The format of `.pyc` files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pyc;

/// A source's mtime as 3.3 and later and PyPy keep it: `int()` of the float `st_mtime`.
///
/// The float rounds, so the last 119 nanoseconds of a second (today) count as the next one, and `int()` goes towards zero, so half a
/// second before 1970 is 0. Anything but this very arithmetic disagrees with the interpreter about some files.
pub fn py_mtime(time: Time) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "modulo 2^32 is what the header keeps")]
    let kept = whole_seconds(time) as u32;
    kept
}

#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "the very conversions that the interpreter makes")]
fn whole_seconds(time: Time) -> i64 {
    (time.sec as f64 + 1e-9 * f64::from(time.nsec)) as i64
}

/// How a reader of these headers compares times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clock {
    /// 2.7 and 3.0 to 3.2, written in C: whole seconds rounded down; the source's modulo 2^32 and the header's, which is read as signed.
    Floor,
    /// 3.3 to 3.6: the float, and times outside of 32 bits never agree.
    Unmasked,
    /// 3.7 and later: the float modulo 2^32.
    Masked,
}

impl Clock {
    fn of(header: usize) -> Self {
        match header {
            8 => Self::Floor,
            12 => Self::Unmasked,
            _ => Self::Masked,
        }
    }

    /// What to write.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "modulo 2^32 is what the header keeps")]
    fn kept(self, time: Time) -> u32 {
        match self {
            Self::Floor => time.sec as u32,
            Self::Unmasked | Self::Masked => py_mtime(time),
        }
    }

    fn agrees(self, kept: u32, time: Time) -> bool {
        match self {
            // Where the sign bit is set (from 2038 on, and before 1970) 2.7 compiles such files again at every import.
            Self::Floor => i32::try_from(kept).is_ok() && self.kept(time) == kept,
            Self::Unmasked => whole_seconds(time) == i64::from(kept),
            Self::Masked => py_mtime(time) == kept,
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "modulo 2^32 is what the header keeps")]
fn kept_size(size: u64) -> u32 {
    size as u32
}

/// The stem of a source's name.
fn stem(source: &[u8]) -> Option<&[u8]> {
    source.strip_suffix(b".py").filter(|stem| !stem.is_empty())
}

fn source_of(stem: &[u8]) -> Option<Name> {
    if stem.is_empty() { None } else { Name::from_bytes(&[stem, b".py"].concat()) }
}

/// Splits at the last dot; `None` where there is none or nothing before it.
fn split_last(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let dot = name.iter().rposition(|&byte| byte == b'.').filter(|&dot| dot > 0)?;
    let (before, after) = name.split_at_checked(dot)?;
    Some((before, after.get(1..)?))
}

/// `x.cpython-313.pyc.140213`: what import, `py_compile` and `compileall` leave behind when they are killed. Only behind the name of an
/// artifact: `backup.pyc.1` may be anything.
fn foreign_temp(name: &[u8], layout: Layout) -> Option<Recognised> {
    let (before, _) = split_last(name).filter(|(_, number)| !number.is_empty() && number.iter().all(u8::is_ascii_digit))?;
    let artifact = match layout {
        Layout::Cache | Layout::Prefix => tagged(before),
        Layout::Beside => beside(before),
    };
    match artifact {
        Some(Recognised::Artifact { source, known: true, .. }) => Some(Recognised::ForeignTemp { source }),
        _ => None,
    }
}

/// 3.2 to 3.4 had no levels in names: `.pyo` for both.
fn writes_pyo(tag: &str) -> bool {
    magic::is_untagged(tag) || matches!(tag, "cpython-32" | "cpython-33" | "cpython-34")
}

fn tagged(name: &[u8]) -> Option<Recognised> {
    let (rest, level) = if let Some(rest) = name.strip_suffix(b".pyc") {
        match split_last(rest) {
            Some((before, last)) => match last.strip_prefix(b"opt-") {
                Some(level) if !level.is_empty() && level.iter().all(u8::is_ascii_digit) => (before, level_of(level)),
                // A word is another tool's: import hooks that change the code they load keep it under such names.
                Some(level) if !level.is_empty() && level.iter().all(u8::is_ascii_alphanumeric) => return None,
                _ => (rest, Level::Known(0)),
            },
            None => return None,
        }
    } else {
        (name.strip_suffix(b".pyo")?, Level::Other)
    };
    let (stem, tag) = split_last(rest)?;
    let source = source_of(stem)?;
    let known = magic::known_tag(tag);
    if name.ends_with(b".pyo") && !known.as_ref().is_some_and(|tag| writes_pyo(tag)) {
        return None;
    }
    let tag = match &known {
        Some(tag) => Arc::clone(tag),
        None => Arc::from(std::str::from_utf8(tag).ok().filter(|tag| !tag.is_empty())?),
    };
    Some(Recognised::Artifact { source, tag: Some(tag), level, known: known.is_some() })
}

fn level_of(text: &[u8]) -> Level {
    match text {
        b"1" => Level::Known(1),
        b"2" => Level::Known(2),
        // `opt-0` too: it is made on demand only, and no import looks for it.
        _ => Level::Other,
    }
}

/// A name with a tag is none that import looks for beside sources: whoever put it there (a pycache prefix in the tree, a copy that was
/// kept) knows what it is.
fn beside(name: &[u8]) -> Option<Recognised> {
    if matches!(tagged(name), Some(Recognised::Artifact { tag: Some(tag), .. }) if magic::looks_like_tag(&tag)) {
        return None;
    }
    let (stem, level) = match name.strip_suffix(b".pyc") {
        Some(stem) => (stem, Level::Known(0)),
        None => (name.strip_suffix(b".pyo")?, Level::Other),
    };
    Some(Recognised::Artifact { source: source_of(stem)?, tag: None, level, known: true })
}

fn u32_at(head: &[u8], at: usize) -> Option<u32> {
    head.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

/// What a magic number says beside the tag that the name says.
fn judge_magic(found: [u8; 4], tag: Option<&str>) -> Result<&'static magic::Row, Flaw> {
    let Some(number) = magic::number(found) else {
        let [a, b, c, d] = found;
        let text = if found == [0; 4] {
            "it begins with zeros instead of a magic number".to_owned()
        } else {
            format!("it begins with {a:02x} {b:02x} {c:02x} {d:02x}, which is no magic number")
        };
        return Err(Flaw::new(FlawKind::BadMagic, "no-magic", text).at(0));
    };
    let row = magic::row_of(number);
    // GraalPy and alphas are other people's business, but not under a name that promises a released interpreter of another tag.
    match (row, tag) {
        (Some(row), tag) if row.standing == Standing::Release && tag.is_none_or(|tag| tag == row.tag) => Ok(row),
        (Some(row), tag) if row.standing == Standing::Dev && tag.is_none_or(|tag| tag == row.tag) => {
            let text = format!("its magic number {number} is that of a pre-release of {}", row.tag);
            Err(Flaw::new(FlawKind::Unknown, "pre-release-magic", text).at(0))
        }
        (Some(row), _) if row.standing == Standing::Foreign => {
            Err(Flaw::new(FlawKind::Unknown, "foreign-magic", format!("its magic number {number} is that of {}", row.tag)).at(0))
        }
        (Some(row), tag) => {
            let text = format!("its magic number {number} is that of {}, not of {}", row.tag, tag.unwrap_or("this name"));
            Err(Flaw::new(FlawKind::BadMagic, "magic", text).at(0))
        }
        // PyPy changes its number between releases of one tag.
        (None, Some(tag)) if !(tag.starts_with("pypy") && magic::is_pypy3(number)) => {
            Err(Flaw::new(FlawKind::BadMagic, "magic", format!("its magic number {number} is not one of {tag}")).at(0))
        }
        (None, _) => {
            Err(Flaw::new(FlawKind::Unknown, "unknown-magic", format!("its magic number {number} is not known to this program")).at(0))
        }
    }
}

impl Format for Pyc {
    fn cache_dir(&self) -> &Name {
        &CACHE_DIR
    }

    fn is_source(&self, name: &Name) -> bool {
        stem(name.as_bytes()).is_some()
    }

    fn recognise(&self, name: &Name, layout: Layout) -> Recognised {
        let name = name.as_bytes();
        let found = match layout {
            Layout::Cache | Layout::Prefix => tagged(name),
            Layout::Beside => beside(name),
        };
        match found {
            Some(artifact) => artifact,
            None => foreign_temp(name, layout).unwrap_or(Recognised::Foreign),
        }
    }

    fn kept_mode(&self, target: &Target, wanted: Mode) -> Mode {
        // Hashes came with PEP 552, and the header of 16 bytes with them.
        let [low, high, ..] = target.magic;
        if magic::header_len(u16::from_le_bytes([low, high])) == 16 { wanted } else { Mode::Timestamp }
    }

    fn layout(&self, target: &Target) -> Layout {
        if magic::is_untagged(&target.tag) { Layout::Beside } else { Layout::Cache }
    }

    /// `py_compile` and `compileall` of 2.7 do, and so did those before 3.4; importing removes the old file first.
    fn writes_in_place(&self, target: &Target) -> bool {
        Dialect::of(target.magic).is_none_or(|dialect| dialect.two)
    }

    fn knows_prefix(&self, target: &Target) -> bool {
        magic::number(target.magic).is_some_and(magic::knows_prefix)
    }

    fn example(&self) -> &Name {
        &EXAMPLE
    }

    fn artifact_name(&self, source: &Name, target: &Target, level: u8) -> Option<Name> {
        let stem = stem(source.as_bytes())?;
        let tag = &*target.tag;
        let mut name = stem.to_vec();
        if !magic::is_untagged(tag) {
            name.push(b'.');
            name.extend_from_slice(tag.as_bytes());
        }
        if level != 0 && writes_pyo(tag) {
            name.extend_from_slice(b".pyo");
        } else {
            if level != 0 {
                name.extend_from_slice(format!(".opt-{level}").as_bytes());
            }
            name.extend_from_slice(b".pyc");
        }
        Name::from_bytes(&name)
    }

    fn head(&self, head: &[u8], tag: Option<&str>, here: Option<&Target>) -> Result<Head, Flaw> {
        // Before anything else: what is damage in an artifact that we know may be how this one is meant to be.
        let is_here = here.is_some_and(|here| Some(&*here.tag) == tag);
        if let Some(tag) = tag.filter(|tag| !is_here && !magic::is_listed(tag)) {
            return Err(Flaw::new(FlawKind::Unknown, "unknown-tag", format!("artifacts of {tag} are not known to this program")));
        }
        if head.is_empty() {
            return Err(empty());
        }
        let Some(&found) = head.first_chunk::<4>() else { return Err(short_header(head.len())) };
        let (tag, header) = match here.filter(|here| here.magic == found) {
            Some(here) => (Arc::clone(&here.tag), magic::header_len(u16::from_le_bytes([found[0], found[1]]))),
            None => judge_magic(found, tag).map(|row| (magic::shared(row.tag), row.header))?,
        };
        let cut = || short_header(head.len());
        if head.len() < header {
            return Err(cut());
        }
        let word = |at| u32_at(head, at).ok_or_else(cut);
        let stamp = match header {
            8 => Stamp::Time { mtime: word(4)?, size: None },
            12 => Stamp::Time { mtime: word(4)?, size: Some(word(8)?) },
            _ => {
                let flags = word(4)?;
                if flags & !(HASH_BASED | CHECK_SOURCE) != 0 {
                    let text = format!("its header has flags that nobody writes ({flags:#x})");
                    return Err(Flaw::new(FlawKind::Corrupt, "flags", text).at(4));
                }
                if flags & HASH_BASED == 0 {
                    // Without the first bit importing ignores the second.
                    Stamp::Time { mtime: word(8)?, size: Some(word(12)?) }
                } else {
                    let hash = *head.get(8..).and_then(<[u8]>::first_chunk).ok_or_else(cut)?;
                    Stamp::Hash { checked: flags & CHECK_SOURCE != 0, hash }
                }
            }
        };
        Ok(Head { magic: found, tag, len: header, stamp })
    }

    fn agrees(&self, head: &Head, source: &Stat) -> bool {
        match head.stamp {
            Stamp::Time { mtime, size } => {
                Clock::of(head.len).agrees(mtime, source.mtime) && size.is_none_or(|size| size == kept_size(source.size))
            }
            Stamp::Hash { .. } => false,
        }
    }

    fn is_in_vain(&self, head: &Head, source: &Stat) -> bool {
        let Stamp::Time { mtime, size } = head.stamp else { return false };
        let clock = Clock::of(head.len);
        let is_own = clock.kept(source.mtime) == mtime && size.is_none_or(|size| size == kept_size(source.size));
        is_own && !clock.agrees(mtime, source.mtime)
    }

    /// `SipHash` with the magic as its key: 1-3 rounds in CPython since 3.11, 2-4 before and in PyPy.
    fn source_hash(&self, magic: [u8; 4], source: &[u8]) -> [u8; 8] {
        let key = u64::from(u32::from_le_bytes(magic));
        let [low, high, ..] = magic;
        let hash = if (3450..62000).contains(&u16::from_le_bytes([low, high])) {
            SipHasher13::new_with_keys(key, 0).hash(source)
        } else {
            SipHasher24::new_with_keys(key, 0).hash(source)
        };
        hash.to_le_bytes()
    }

    /// `artifact` without its seal: a whole seal counts as trailing bytes.
    fn body(&self, head: &Head, artifact: &[u8]) -> Result<(), Flaw> {
        has_header(head, artifact)?;
        marshal::walk(head, artifact)
    }

    fn deep_body(&self, head: &Head, artifact: &[u8]) -> Result<(), Flaw> {
        has_header(head, artifact)?;
        marshal::walk_deep(head, artifact)
    }

    fn way(&self, head: &Head, payload: &[u8], offset: u64, source: Option<&Name>) -> Option<String> {
        super::way::way(head, payload, offset, source.and_then(|source| stem(source.as_bytes())))
    }

    fn beginnings(&self, bytes: &[u8]) -> Vec<usize> {
        let begins = |at: &usize| -> Option<bool> {
            let start = bytes.get(*at..)?;
            let row = magic::row_of(magic::number(*start.first_chunk()?)?).filter(|row| row.standing == Standing::Release)?;
            let known_flags = row.header < 16 || u32_at(start, 4)? <= HASH_BASED | CHECK_SOURCE;
            // A code object, flagged or not.
            Some(known_flags && matches!(start.get(row.header)?, b'c' | 0xE3))
        };
        let returns = bytes.iter().enumerate().skip(3).filter(|(_, byte)| **byte == b'\r').map(|(at, _)| at.saturating_sub(2));
        returns.filter(|at| begins(at) == Some(true)).take(16).collect()
    }

    fn knows_deep(&self, head: &Head) -> bool {
        Deep::of(head.magic, 0).is_some()
    }

    fn compare(&self, head: &Head, artifact: &[u8], code: &[u8]) -> Result<Compared, Flaw> {
        differences::compare(head, artifact, code)
    }

    fn loading(&self, flaw: &Flaw) -> Loading {
        match flaw.code {
            // One object is read, and what follows is never looked at.
            "trailing" | "cut-seal" => Loading::Unseen,
            // Read as Latin-1.
            "ascii" => Loading::Silent,
            _ if flaw.kind == FlawKind::Unknown => Loading::Unseen,
            _ => Loading::Refused,
        }
    }

    fn label(&self, tag: &str, level: u8, variant: &str) -> [u8; 8] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(tag.as_bytes()).update(&[0]).update(level.to_string().as_bytes()).update(&[0]).update(variant.as_bytes());
        let mut label = [0; 8];
        hasher.finalize_xof().fill(&mut label);
        label
    }

    fn variants(&self) -> &'static [&'static str] {
        &["", "t", "d", "td"]
    }

    fn placeholder(&self, target: &Target, source: &Digest) -> Option<Vec<u8>> {
        Dialect::of(target.magic).map(|_| nameless::placeholder(source).into_bytes())
    }

    fn named(&self, target: &Target, code: &[u8], source: &Digest, filename: &[u8]) -> Option<Vec<u8>> {
        nameless::named(Dialect::of(target.magic)?, code, source, filename)
    }

    /// Versions before 3.7 have no stamp by hash: they get one by time whatever `mode` says, as their own compiler would write it.
    fn dress(&self, target: &Target, mode: Mode, source: &Stat, bytes: &[u8], code: &[u8]) -> Vec<u8> {
        let [low, high, ..] = target.magic;
        let header = magic::header_len(u16::from_le_bytes([low, high]));
        let mut payload = Vec::with_capacity(header.saturating_add(code.len()));
        payload.extend_from_slice(&target.magic);
        let flags = match mode {
            Mode::Timestamp => 0,
            Mode::CheckedHash => HASH_BASED | CHECK_SOURCE,
            Mode::UncheckedHash => HASH_BASED,
        };
        if header == 16 {
            payload.extend_from_slice(&u32::to_le_bytes(flags));
        }
        if header == 16 && flags != 0 {
            payload.extend_from_slice(&self.source_hash(target.magic, bytes));
        } else {
            payload.extend_from_slice(&Clock::of(header).kept(source.mtime).to_le_bytes());
            if header > 8 {
                payload.extend_from_slice(&kept_size(source.size).to_le_bytes());
            }
        }
        payload.extend_from_slice(code);
        payload
    }
}

fn has_header(head: &Head, artifact: &[u8]) -> Result<(), Flaw> {
    match artifact.len() {
        0 => Err(empty()),
        len if len < head.len => Err(short_header(len)),
        _ => Ok(()),
    }
}

fn empty() -> Flaw {
    Flaw::new(FlawKind::Truncated, "empty", "it is empty").at(0)
}

fn short_header(len: usize) -> Flaw {
    Flaw::new(FlawKind::Truncated, "short-header", format!("it ends within its header, after {len} bytes")).at(len as u64)
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "tests may panic")]
mod tests {
    use super::*;
    use crate::base::seal::Digest;
    use crate::base::source::Source;
    use crate::base::sys::Kind;
    use proptest::prelude::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn target(tag: &str, number: u16) -> Target {
        Target { tag: Arc::from(tag), magic: magic::bytes(number), variant: Arc::from("") }
    }

    fn artifact(source: &str, tag: Option<&str>, level: Level, known: bool) -> Recognised {
        Recognised::Artifact { source: name(source), tag: tag.map(Arc::from), level, known }
    }

    fn source(bytes: &[u8], mtime: Time) -> Source {
        let size = bytes.len() as u64;
        let stat = Stat { dev: 1, ino: 1, kind: Kind::File, mode: 0o644, uid: 0, gid: 0, nlink: 1, size, mtime, ctime: mtime };
        Source { bytes: bytes.to_vec(), stat, digest: Digest::of(bytes) }
    }

    #[test]
    fn sources() {
        for good in ["a.py", "foo.bar.py", "..py", "a\nb.py", " .py"] {
            assert!(Pyc.is_source(&name(good)), "{good:?}");
        }
        for bad in [".py", "a.pyc", "a.pyi", "a.PY", "py", "a.py.bak", "a.py "] {
            assert!(!Pyc.is_source(&name(bad)), "{bad:?}");
        }
        assert!(Pyc.is_source(&Name::from_bytes(b"\xff\xfe.py").unwrap()));
    }

    #[test]
    fn names_in_a_cache_directory() {
        for layout in [Layout::Cache, Layout::Prefix] {
            let see = |text| Pyc.recognise(&name(text), layout);
            assert_eq!(see("a.cpython-313.pyc"), artifact("a.py", Some("cpython-313"), Level::Known(0), true));
            assert_eq!(see("a.b.cpython-36.opt-2.pyc"), artifact("a.b.py", Some("cpython-36"), Level::Known(2), true));
            assert_eq!(see("a.opt-1.pypy311.pyc"), artifact("a.opt-1.py", Some("pypy311"), Level::Known(0), true));
            assert_eq!(see("a.pypy39.opt-1.pyc"), artifact("a.py", Some("pypy39"), Level::Known(1), true));
            assert_eq!(see("a.cpython-312.opt-beartype0v18.pyc"), Recognised::Foreign);
            assert_eq!(see("a.cpython-312.opt-3.pyc"), artifact("a.py", Some("cpython-312"), Level::Other, true));
            assert_eq!(see("a.cpython-312.opt-0.pyc"), artifact("a.py", Some("cpython-312"), Level::Other, true));
            assert_eq!(see("a.cpython-317.pyc"), artifact("a.py", Some("cpython-317"), Level::Known(0), false));
            assert_eq!(see("a.pypy312.pyc"), artifact("a.py", Some("pypy312"), Level::Known(0), false));
            assert_eq!(see("a.cpython-27.pyc"), artifact("a.py", Some("cpython-27"), Level::Known(0), false));
            assert_eq!(see("a.cpython-312.opt-.pyc"), artifact("a.cpython-312.py", Some("opt-"), Level::Known(0), false));
            assert_eq!(see("a.cpython-312.opt-a_b.pyc"), artifact("a.cpython-312.py", Some("opt-a_b"), Level::Known(0), false));
            assert!(matches!(see("x.cpython-312-pytest-8.3.pyc"), Recognised::Artifact { known: false, .. }));
            assert!(matches!(see("x.cpython-312-pytest-8.pyc"), Recognised::Artifact { known: false, .. }));
            assert_eq!(see("a.cpython-34.pyo"), artifact("a.py", Some("cpython-34"), Level::Other, true));
            assert!(matches!(see("a.cpython-313.pyc.140213"), Recognised::ForeignTemp { .. }));
            assert_eq!(see("notes.pyc.20240101"), Recognised::Foreign);
            for foreign in [
                "a.cpython-313.pyo",
                "a.nbi",
                "a.f-1.py313.1.nbc",
                ".bytekeep-abc.tmp",
                ".bytekeep.lock",
                "a.py",
                "a.pyc",
                ".cpython-313.pyc",
                "a.opt-1.pyc",
                ".pyc.1",
                "a.pyc.",
                "a.pyc.12x",
                "a..pyc",
            ] {
                assert_eq!(see(foreign), Recognised::Foreign, "{foreign}");
            }
            assert_eq!(Pyc.recognise(&Name::from_bytes(b"a.\xff.pyc").unwrap(), layout), Recognised::Foreign);
            let odd = Name::from_bytes(b"\xff\n.cpython-313.pyc").unwrap();
            assert!(
                matches!(Pyc.recognise(&odd, layout), Recognised::Artifact { source, known: true, .. } if source.as_bytes() == b"\xff\n.py")
            );
        }
    }

    #[test]
    fn names_beside_sources() {
        let see = |text| Pyc.recognise(&name(text), Layout::Beside);
        assert_eq!(see("foo.pyc"), artifact("foo.py", None, Level::Known(0), true));
        assert_eq!(see("foo.pyo"), artifact("foo.py", None, Level::Other, true));
        assert!(matches!(see("foo.pyc.77"), Recognised::ForeignTemp { .. }));
        for foreign in ["foo.py", ".pyc", ".pyo", "foo.so", "foo.pyc.bak"] {
            assert_eq!(see(foreign), Recognised::Foreign, "{foreign}");
        }
    }

    #[test]
    fn names_are_made_and_read_back() {
        for row in magic::ROWS.iter().filter(|row| row.standing == Standing::Release) {
            let target = target(row.tag, row.first);
            for level in 0..3 {
                let made = Pyc.artifact_name(&name("x.y.py"), &target, level).unwrap();
                let Recognised::Artifact { source, level: read, known: true, tag } = Pyc.recognise(&made, Pyc.layout(&target)) else {
                    panic!("{made:?}")
                };
                assert_eq!(source, name("x.y.py"));
                assert!(read == Level::Known(level) || read == Level::Other && writes_pyo(row.tag));
                assert_eq!(tag.as_deref(), (!magic::is_untagged(row.tag)).then_some(row.tag));
            }
        }
        assert_eq!(Pyc.artifact_name(&name("foo.py"), &target("cpython-27", 62211), 2), Some(name("foo.pyo")));
        assert_eq!(Pyc.artifact_name(&name("foo.txt"), &target("cpython-313", 3571), 0), None);
    }

    #[test]
    fn times_as_the_interpreter_keeps_them() {
        let at = |sec, nsec| py_mtime(Time { sec, nsec });
        assert_eq!(at(1_763_600_000, 0), 1_763_600_000);
        assert_eq!(at(1_763_600_000, 999_999_999), 1_763_600_001);
        assert_eq!(at(1_763_600_000, 999_999_880), 1_763_600_000);
        assert_eq!(at(1_763_600_000, 999_999_881), 1_763_600_001);
        // The kernel says -1 s and 500,000,000 ns for half a second before 1970.
        assert_eq!(at(-1, 500_000_000), 0);
        assert_eq!(at(-2, 500_000_000), u32::MAX);
        assert_eq!(at((1 << 32) + 5, 0), 5);
        assert_eq!(at(i64::MIN, 0), 0);
        let (floor, unmasked, masked) = (Clock::of(8), Clock::of(12), Clock::of(16));
        let late = Time { sec: 1_763_600_000, nsec: 999_999_999 };
        assert_eq!((floor.kept(late), unmasked.kept(late), masked.kept(late)), (1_763_600_000, 1_763_600_001, 1_763_600_001));
        assert!(floor.agrees(1_763_600_000, late) && !floor.agrees(1_763_600_001, late));
        for (time, wanted) in [
            (Time { sec: 1 << 31, nsec: 0 }, [false, true, true]),
            (Time { sec: (1 << 32) + 5, nsec: 0 }, [true, false, true]),
            (Time { sec: -7, nsec: 0 }, [false, false, true]),
            (Time { sec: -1, nsec: 500_000_000 }, [false, true, true]),
        ] {
            for (clock, wanted) in [floor, unmasked, masked].into_iter().zip(wanted) {
                assert_eq!(clock.agrees(clock.kept(time), time), wanted, "{clock:?} {time:?}");
            }
        }
    }

    #[test]
    fn source_hashes() {
        let vectors = [
            (3394, "06e194963fac82c1"),
            (3413, "104d74a34256f655"),
            (3425, "abeeac5cccf46907"),
            (3439, "c3b74919613be674"),
            (3495, "4384a52f77abf775"),
            (3531, "636bbff74880dda4"),
            (3571, "69784eb12d346688"),
            (3627, "e38f8ce4686af64b"),
            (3666, "8aa88d7c7be7cd67"),
            (336, "31ddd3941e1a9fb7"),
            (432, "84017188d371a778"),
        ];
        for (number, wanted) in vectors {
            let hash = Pyc.source_hash(magic::bytes(number), b"print(\"hello\")\n");
            assert_eq!(format!("{:016x}", u64::from_be_bytes(hash)), wanted, "{number}");
        }
    }

    #[test]
    fn what_is_dressed_reads_back() {
        let source = source(b"print(1)\n", Time { sec: 1_700_000_000, nsec: 5 });
        for row in magic::ROWS.iter().filter(|row| row.standing == Standing::Release) {
            let target = target(row.tag, row.first);
            for mode in [Mode::Timestamp, Mode::CheckedHash, Mode::UncheckedHash] {
                let payload = Pyc.dress(&target, mode, &source.stat, &source.bytes, b"code");
                let head = Pyc.head(&payload[..payload.len().min(16)], Some(row.tag), None).unwrap();
                assert_eq!(&payload[head.len..], b"code");
                assert_eq!((head.len, &*head.tag, head.magic), (row.header, row.tag, target.magic));
                let kept = if row.header == 16 { mode } else { Mode::Timestamp };
                assert_eq!(head.mode(), kept);
                assert_eq!(Pyc.agrees(&head, &source.stat), kept == Mode::Timestamp);
                if let Stamp::Hash { hash, .. } = head.stamp {
                    assert_eq!(hash, Pyc.source_hash(target.magic, &source.bytes));
                }
                for cut in 0..row.header {
                    assert_eq!(Pyc.head(&payload[..cut], Some(row.tag), None).unwrap_err().kind, FlawKind::Truncated, "{cut}");
                }
            }
        }
    }

    #[test]
    fn heads_that_are_wrong() {
        let head = |number: u16, flags: u8| [&magic::bytes(number)[..], &[flags], &[0; 11]].concat();
        let kind = |bytes: &[u8], tag| Pyc.head(bytes, tag, None).map_err(|flaw| flaw.kind);
        let name = Some("cpython-313");
        assert_eq!(kind(&[0; 16], name), Err(FlawKind::BadMagic));
        assert_eq!(kind(&[0; 16], None), Err(FlawKind::BadMagic));
        assert_eq!(kind(b"\xf3\x0d\r\r000000000000", name), Err(FlawKind::BadMagic));
        assert_eq!(kind(&head(3531, 0), name), Err(FlawKind::BadMagic));
        assert_eq!(kind(&head(3601, 0), name), Err(FlawKind::BadMagic));
        assert_eq!(kind(&head(9999, 0), name), Err(FlawKind::BadMagic));
        assert_eq!(kind(&head(3560, 0), name), Err(FlawKind::Unknown));
        assert_eq!(kind(&head(21200, 0), name), Err(FlawKind::Unknown));
        assert_eq!(kind(&head(9999, 0), None), Err(FlawKind::Unknown));
        assert_eq!(kind(&head(3560, 0), None), Err(FlawKind::Unknown));
        assert_eq!(kind(&head(448, 0), Some("pypy311")), Err(FlawKind::Unknown));
        assert_eq!(kind(&head(3571, 0), Some("pypy311")), Err(FlawKind::BadMagic));
        assert_eq!(kind(&head(3571, 0), Some("cpython-317")), Err(FlawKind::Unknown));
        assert_eq!(kind(&head(3701, 0), Some("cpython-316")), Err(FlawKind::Unknown));
        assert_eq!(kind(&head(3571, 4), name), Err(FlawKind::Corrupt));
        assert_eq!(kind(&head(3571, 0x83), None), Err(FlawKind::Corrupt));
        for (flags, mode) in [(0, Mode::Timestamp), (1, Mode::UncheckedHash), (2, Mode::Timestamp), (3, Mode::CheckedHash)] {
            assert_eq!(Pyc.head(&head(3571, flags), name, None).unwrap().mode(), mode);
        }
    }

    #[test]
    fn another_artifact_in_the_middle_is_seen() {
        let source = source(b"x", Time::default());
        for row in magic::ROWS.iter().filter(|row| row.standing == Standing::Release) {
            let one = Pyc.dress(&target(row.tag, row.first), Mode::Timestamp, &source.stat, &source.bytes, b"\xe3 and so on\r\n");
            assert_eq!(Pyc.beginnings(&one), [0; 0], "{}", row.tag);
            assert_eq!(Pyc.beginnings(&[&one[..], &one].concat()), [one.len()], "{}", row.tag);
        }
        assert_eq!(Pyc.beginnings(&b"\r\n".repeat(1000)), [0; 0]);
    }

    #[test]
    fn an_interpreter_that_is_here_is_known_however_new() {
        let target = Target { tag: Arc::from("cpython-399"), magic: magic::bytes(9999), variant: Arc::from("") };
        let bytes = [&target.magic[..], &[0; 12]].concat();
        assert_eq!(Pyc.head(&bytes, Some("cpython-399"), None).unwrap_err().kind, FlawKind::Unknown);
        let head = Pyc.head(&bytes, Some("cpython-399"), Some(&target)).unwrap();
        assert_eq!((&*head.tag, head.len), ("cpython-399", 16));
    }

    #[test]
    fn labels() {
        let wanted = blake3::hash(b"cpython-313\x002\0td");
        assert_eq!(Pyc.label("cpython-313", 2, "td"), wanted.as_bytes()[..8]);
        let mut all: Vec<_> = ["cpython-313", "cpython-312"]
            .iter()
            .flat_map(|tag| (0..3).flat_map(move |level| Pyc.variants().iter().map(move |variant| Pyc.label(tag, level, variant))))
            .collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 24);
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..40), number in proptest::sample::select(magic::ROWS)) {
            if let Ok(head) = Pyc.head(&bytes[..bytes.len().min(16)], Some(number.tag), None) {
                drop(Pyc.body(&head, &bytes));
            }
            let artifact = [&magic::bytes(number.last)[..], &bytes].concat();
            if let Ok(head) = Pyc.head(&artifact[..artifact.len().min(16)], None, None) {
                prop_assert!(Pyc.body(&head, &artifact).is_err());
            }
        }

        #[test]
        fn any_name_is_answered(bytes in "[a.]{0,3}[a-z.0-9\\-]{0,12}(\\.opt-[0-9a]{0,2})?(\\.pyc|\\.pyo)?(\\.[0-9]{0,3})?") {
            if let Some(name) = Name::from_bytes(bytes.as_bytes()) {
                for layout in [Layout::Cache, Layout::Beside, Layout::Prefix] {
                    if let Recognised::Artifact { source, .. } = Pyc.recognise(&name, layout) {
                        prop_assert!(Pyc.is_source(&source));
                    }
                }
            }
        }
    }
}
