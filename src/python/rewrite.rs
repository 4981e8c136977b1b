//! Changes in an artifact that need no interpreter: another file name in its code, another header before it, and one numbering of
//! references out of the many that mean the same.
//!
//! Nothing is decoded and encoded again: single objects are replaced where they stand, so that all other bytes stay as the interpreter
//! wrote them, the numbers of references above all. All three take and give a payload: seal it again with [`crate::base::seal::sealed`].
//!
//! ```
//! use bytekeep::base::source::Source;
//! use bytekeep::base::sys::{Dir, Name};
//! use bytekeep::model::{Compiler, Format, Mode, Request};
//! use bytekeep::python::interpreter::Interpreter;
//! use bytekeep::python::memo::Probes;
//! use bytekeep::python::pool::{Limits, WorkerPool};
//! use bytekeep::python::{Pyc, rewrite};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let build = tempfile::tempdir()?;
//! # std::fs::write(build.path().join("one.py"), "def one():\n    return 1\n")?;
//! let source = Source::read(&Dir::open_root(build.path())?, &Name::new("one.py").ok_or("a name")?, 1 << 20)?;
//! let python = Interpreter::find("python3", true, &Probes::open(None))?;
//! let pool = WorkerPool::new(&python, Limits::default());
//! let compiled = |filename: &[u8], mode| -> Result<Vec<u8>, Box<dyn std::error::Error>> {
//!     let made = pool.compile(&Request { source: &source.bytes, filename, level: 0 })?;
//!     Ok(Pyc.dress(&python.target, mode, &source.stat, &source.bytes, &made.code))
//! };
//! // Compiled where it was built, and made what it would be where it will stand.
//! let built = compiled(b"/build/one.py", Mode::Timestamp)?;
//! let head = Pyc.head(&built[..16], Some(&python.target.tag), Some(&python.target)).map_err(|flaw| flaw.text)?;
//! let moved = rewrite::rename(&head, &built, b"/usr/lib/one.py")?;
//! let moved = rewrite::stamp(&head, &moved, Mode::UncheckedHash, &source)?;
//! let fresh = compiled(b"/usr/lib/one.py", Mode::UncheckedHash)?;
//! # let (head, then) = (Pyc.head(&moved[..16], None, Some(&python.target)), Pyc.head(&fresh[..16], None, Some(&python.target)));
//! # let (head, then) = (head.map_err(|flaw| flaw.text)?, then.map_err(|flaw| flaw.text)?);
//! # assert_eq!(head, then);
//! assert_eq!(rewrite::renumber(&head, &moved)?, rewrite::renumber(&head, &fresh)?);
//! # Ok(())
//! # }
//! ```

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::code_object::Dialect;
use super::objects::{Broken, Object, Objects};
use super::pyc::Pyc;
use crate::base::source::Source;
use crate::model::{Format, Head, Mode};

/// Longest text that has one byte for its length.
const SHORT: usize = 255;

/// Why a body is left as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It cannot be read.
    #[error("its code cannot be read: {}", .0.flaw.text)]
    Broken(Broken),
    /// What holds the file name holds something else too, so both would change.
    #[error("its file name is also a name in its code (at byte {place}), so it cannot be replaced: compile instead")]
    Shared {
        /// Where in the artifact.
        place: usize,
    },
    /// One code object names another file than the outermost.
    #[error("its code names several files (another one at byte {place}), so no name can stand for all: compile instead")]
    Several {
        /// Where in the artifact.
        place: usize,
    },
}

impl From<Broken> for Refusal {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

/// A payload whose code carries another file name, `filename` as the system has it. Header and all other objects stay, byte for byte.
///
/// It is what a compile under that name gives, byte for byte, where compiling twice does: CPython 2.7 and 3.11 on, earlier ones
/// with one hash seed (a name that is also some other string of the code may be shared there; by value it is the same).
///
/// # Errors
/// A body that is no code, or whose file name is shared with something else: such a source must be compiled.
pub fn rename(head: &Head, payload: &[u8], filename: &[u8]) -> Result<Vec<u8>, Refusal> {
    let objects = Objects::read(head, payload)?;
    let named = filename_fields(&objects)?;
    let is_named = |object: Object<'_>| named.get(object.number()).copied().unwrap_or(false);
    let mut spliced = Vec::new();
    let mut done = 0;
    let name = if objects.dialect().two { filename.to_vec() } else { as_text(filename) };
    for object in objects.iter() {
        let target = object.resolved();
        let is_reference = target.number() != object.number();
        if is_named(object) != is_named(target) {
            // A name elsewhere stands for the file name, or the other way round.
            return Err(Refusal::Shared { place: object.place() });
        }
        if is_named(object) && !is_reference {
            spliced.extend_from_slice(payload.get(done..object.place()).unwrap_or_default());
            let byte = object.type_code() | if object.is_flagged() { 0x80 } else { 0 };
            encode_name(byte, &name, objects.dialect(), &mut spliced);
            done = object.end();
        }
    }
    spliced.extend_from_slice(payload.get(done..).unwrap_or_default());
    Ok(spliced)
}

/// By the number of each object: is it the file name of a code object?
fn filename_fields(objects: &Objects<'_>) -> Result<Vec<bool>, Refusal> {
    let mut named = vec![false; objects.len()];
    let mut first = None;
    for field in objects.codes().filter_map(|code| code.field("co_filename")) {
        // An empty one in 2.7 is no different from any other.
        let text = field.text();
        if *first.get_or_insert(text) != text {
            return Err(Refusal::Several { place: field.place() });
        }
        if let Some(named) = named.get_mut(field.number()) {
            *named = true;
        }
    }
    Ok(named)
}

/// The new name in the place of the name whose first byte in the dump is `old`: as interned and as ready to be referred to as that, in the form that a dump has for it.
pub(super) fn encode_name(old: u8, name: &[u8], dialect: Dialect, into: &mut Vec<u8>) {
    let kind = old & 0x7F;
    let interned = matches!(kind, b't' | b'A' | b'Z');
    let code = match (dialect.two, dialect.refs && name.is_ascii(), name.len() <= SHORT, interned) {
        (true, ..) => kind,
        (false, true, true, true) => b'Z',
        (false, true, true, false) => b'z',
        (false, true, false, true) => b'A',
        (false, true, false, false) => b'a',
        (false, false, _, true) => b't',
        (false, false, _, false) => b'u',
    };
    into.push(code | (old & 0x80));
    match (code, u8::try_from(name.len())) {
        (b'z' | b'Z', Ok(len)) => into.push(len),
        // Paths have no 4 GiB.
        _ => into.extend_from_slice(&u32::try_from(name.len()).unwrap_or(u32::MAX).to_le_bytes()),
    }
    into.extend_from_slice(name);
}

/// A path as Python 3 has it as text, in marshal's UTF-8: a byte that is none becomes a lone surrogate (`surrogateescape`).
pub(super) fn as_text(path: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        text.extend_from_slice(chunk.valid().as_bytes());
        for byte in chunk.invalid() {
            // U+DC80 to U+DCFF.
            text.extend_from_slice(&[0xED, 0xB0 | (byte >> 6), 0x80 | (byte & 0x3F)]);
        }
    }
    text
}

/// A payload with another header around the same body: of this mode, for this source. An interpreter that knows no hashes (before 3.7) gets
/// a time whatever the mode.
///
/// It is what a compile in that mode gives where the body is, byte for byte. Whether the code was made from this source is the caller's to
/// prove: by a seal's digest of it, or by compiling again.
///
/// # Errors
/// A body that cannot be read: a new header would vouch for it.
pub fn stamp(head: &Head, payload: &[u8], mode: Mode, source: &Source) -> Result<Vec<u8>, Refusal> {
    Pyc.body(head, payload).map_err(|flaw| Broken { flaw, way: Vec::new() })?;
    let (target, body) = (head.target(), payload.get(head.len..).unwrap_or_default());
    Ok(Pyc.dress(&target, Pyc.kept_mode(&target, mode), &source.stat, &source.bytes, body))
}

/// A payload of the same length and the same meaning in which only what is referred to may be, and is numbered so.
///
/// Which objects a dump makes ready to be referred to depends on who else held them in memory, so two compiles of one source may differ
/// in that alone (up to 3.10, and in the root of 3.14 and later): in this form they are equal. It does not make equal what differs in
/// sharing or interning.
///
/// # Errors
/// A body that is no code.
pub fn renumber(head: &Head, payload: &[u8]) -> Result<Vec<u8>, Refusal> {
    let objects = Objects::read(head, payload)?;
    let mut result = payload.to_vec();
    let mut used = vec![false; objects.len()];
    for object in objects.iter().filter(|object| object.type_code() == b'r') {
        if let Some(used) = used.get_mut(object.resolved().number()) {
            *used = true;
        }
    }
    // The new number of each object; a reference follows what it leads to, so that is known when it is met.
    let mut numbers = vec![0_u32; objects.len()];
    let mut next = 0_u32;
    for object in objects.iter() {
        let place = object.place();
        if object.type_code() == b'r' {
            let number = numbers.get(object.resolved().number()).copied().unwrap_or_default();
            if let Some(bytes) = result.get_mut(place.saturating_add(1)..).and_then(<[u8]>::first_chunk_mut) {
                *bytes = number.to_le_bytes();
            }
        } else if object.is_flagged() {
            if used.get(object.number()).copied().unwrap_or(false) {
                if let Some(number) = numbers.get_mut(object.number()) {
                    *number = next;
                }
                next = next.saturating_add(1);
            } else if let Some(byte) = result.get_mut(place) {
                *byte &= 0x7F;
            }
        }
    }
    Ok(result)
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "tests may panic")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A module of 3.13 with a function in it: `consts` of the module, and what stands where the two file names belong.
    fn artifact(consts: &[u8], inner: &[u8], outer: &[u8]) -> Vec<u8> {
        let code = |consts: &[u8], filename: &[u8]| {
            let mut body = vec![0xE3];
            body.extend([0; 20]);
            body.extend(b"s\x02\0\0\0\x95\0");
            body.extend(consts);
            body.extend(b")\0)\0s\0\0\0\0");
            body.extend(filename);
            body.extend(b"Z\x01fZ\x01f\x01\0\0\0s\0\0\0\0s\0\0\0\0");
            body
        };
        let root = code(&[&b")\x02"[..], &code(b")\0", inner), consts].concat(), outer);
        [&crate::python::magic::bytes(3571)[..], &[0; 12], &root].concat()
    }

    fn head(artifact: &[u8]) -> Head {
        Pyc.head(&artifact[..16], None, None).unwrap()
    }

    fn renamed(artifact: &[u8], to: &[u8]) -> Result<Vec<u8>, Refusal> {
        rename(&head(artifact), artifact, to)
    }

    #[test]
    fn each_form_of_a_name() {
        let old = artifact(b"N", b"\xda\x04a.py", b"r\x02\0\0\0");
        let long = "d/".repeat(165);
        let len = u32::try_from(long.len()).unwrap().to_le_bytes();
        for (to, form) in [
            (&b"b.py"[..], b"\xda\x04b.py".to_vec()),
            (b"", b"\xda\0".to_vec()),
            (long.as_bytes(), [&b"\xc1"[..], &len, long.as_bytes()].concat()),
            ("é.py".as_bytes(), [&b"\xf4\x05\0\0\0"[..], "é.py".as_bytes()].concat()),
            (b"\xff.py", b"\xf4\x06\0\0\0\xed\xb3\xbf.py".to_vec()),
        ] {
            let new = renamed(&old, to).unwrap();
            assert_eq!(new, artifact(b"N", &form, b"r\x02\0\0\0"), "{to:?}");
            assert!(Pyc.body(&head(&new), &new).is_ok());
            assert_eq!(renamed(&new, b"a.py").unwrap(), old, "and back");
        }
        let plain = artifact(b"N", b"\xfa\x04a.py", b"\xfa\x04a.py");
        assert_eq!(renamed(&plain, b"c").unwrap(), artifact(b"N", b"\xfa\x01c", b"\xfa\x01c"), "not interned, and twice as PyPy has it");
    }

    #[test]
    fn a_name_that_is_more_than_the_file_name_is_refused() {
        for (consts, inner, outer) in [
            // A constant is the file name of the function.
            (&b"r\x02\0\0\0"[..], &b"\xda\x04a.py"[..], &b"r\x02\0\0\0"[..]),
            // The file name of the module is a constant.
            (b"\xda\x04a.py", b"z\x04a.py", b"r\x02\0\0\0"),
        ] {
            let old = artifact(consts, inner, outer);
            let refusal = renamed(&old, b"b.py").unwrap_err();
            assert!(matches!(refusal, Refusal::Shared { .. }) && refusal.to_string().contains("compile instead"), "{refusal}");
        }
        let several = renamed(&artifact(b"N", b"z\x04a.py", b"z\x04b.py"), b"c.py").unwrap_err();
        assert!(matches!(several, Refusal::Several { .. }) && several.to_string().contains("compile instead"));
        assert!(matches!(renamed(&artifact(b"\x01", b"z\x01a", b"z\x01a"), b"c"), Err(Refusal::Broken(_))));
    }

    #[test]
    fn flags_that_nobody_uses_go_and_references_follow() {
        let of = |root: u8, unused: u8, reference: u8| {
            let mut made = artifact(&[unused | b'i', 1, 0, 0, 0], b"\xda\x04a.py", &[b'r', reference, 0, 0, 0]);
            made[16] = root;
            made
        };
        // Root, function, its file name: the name is number 2 of those that may be referred to, and the only one that is.
        let mut wanted = of(0x63, 0, 0);
        let inner = wanted.iter().rposition(|byte| *byte == 0xE3).unwrap();
        wanted[inner] = 0x63;
        for old in [of(0xE3, 0x80, 2), of(0x63, 0, 1), of(0xE3, 0, 2)] {
            assert_eq!(renumber(&head(&old), &old).unwrap(), wanted);
        }
        assert_eq!(renumber(&head(&wanted), &wanted).unwrap(), wanted, "once is enough");
        assert!(Pyc.body(&head(&wanted), &wanted).is_ok());
    }

    proptest! {
        #[test]
        fn any_body_is_answered(at in 16_usize..120, byte: u8, name in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut old = artifact(b"\xda\x01b", b"\xda\x04a.py", b"r\x02\0\0\0");
            let len = old.len();
            old[at % (len - 16) + 16] = byte;
            if let Ok(new) = renamed(&old, &name) {
                prop_assert!(Pyc.body(&head(&new), &new).is_ok());
            }
            if let Ok(new) = renumber(&head(&old), &old) {
                prop_assert_eq!(new.len(), old.len());
                prop_assert!(Pyc.body(&head(&new), &new).is_ok());
            }
        }
    }
}
