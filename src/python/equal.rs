//! Is code the same *by value*? Bytes cannot tell: two compiles of one source differ in flags of references, in what is shared and in
//! the order of sets, while every field of every code object is equal.
//!
//! Each object gets a digest of its value, its parts before itself; a reference has the digest of what it leads to. So a walk takes
//! time and memory by the number of objects in the file (16 bytes each beside [`Objects`]), however often they are referred to, and
//! does not recurse.
//!
//! What counts is what the interpreter would see: `1`, `True` and `1.0` differ, and so do `0.0` and `-0.0`, two NaNs of different bits,
//! 2.7's `1` and `1L`, `str` and `unicode`. What does not count: which strings are interned, which objects are shared, short or long
//! forms, the order within a set.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use blake3::Hasher;

use super::objects::{Object, Objects, Value};

/// Does the name of the source that code carries (`co_filename`) count?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filename {
    /// It is a field like any other.
    Counts,
    /// Code that was compiled under another path is the same code. Import sets the path right as it loads.
    Aside,
}

/// The digest of a value: half a BLAKE3.
pub(super) type Digest = [u8; 16];

/// The digests of all objects of an artifact.
#[derive(Debug)]
pub(super) struct Values {
    digests: Vec<Digest>,
    filename: Filename,
}

impl Values {
    pub(super) fn of(objects: &Objects<'_>, filename: Filename) -> Self {
        let mut values = Self { digests: vec![Digest::default(); objects.len()], filename };
        // Those whose parts are still to come; the walk allows 2000 of them.
        let mut open: Vec<Object<'_>> = Vec::new();
        for object in objects.iter() {
            while let Some(done) = open.pop_if(|above| above.after() <= object.number()) {
                values.add(done);
            }
            if object.after() > object.number().saturating_add(1) {
                open.push(object);
            } else {
                values.add(object);
            }
        }
        while let Some(done) = open.pop() {
            values.add(done);
        }
        values
    }

    /// The digest of an object, or of what a reference leads to.
    pub(super) fn digest(&self, object: Object<'_>) -> Digest {
        self.digests.get(object.resolved().number()).copied().unwrap_or_default()
    }

    /// Takes the digest of an object whose parts have theirs.
    fn add(&mut self, object: Object<'_>) {
        if object.value() == Value::Reference {
            return;
        }
        let mut hasher = Hasher::new();
        self.feed(object, &mut hasher);
        if let (Some(slot), Some(half)) = (self.digests.get_mut(object.number()), hasher.finalize().as_bytes().first_chunk()) {
            *slot = *half;
        }
    }

    /// Feeds a value so that no other value is fed alike: a letter for its type, then what it holds.
    fn feed(&self, object: Object<'_>, to: &mut Hasher) {
        let mut plain = |letter: u8, bytes: &[u8]| {
            to.update(&[letter]).update(bytes);
        };
        match object.value() {
            Value::None => plain(b'N', b""),
            Value::False => plain(b'F', b""),
            Value::True => plain(b'T', b""),
            Value::Ellipsis => plain(b'.', b""),
            Value::StopIteration => plain(b'S', b""),
            Value::Int(number) => {
                let mut left = number.unsigned_abs();
                plain(b'i', &[u8::from(number < 0)]);
                while left > 0 {
                    to.update(&u16::try_from(left & 0x7FFF).unwrap_or_default().to_le_bytes());
                    left >>= 15;
                }
            }
            // Python 3 has one kind of integer, however it is written; to 2.7 a `long` is another than an `int`.
            Value::BigInt { negative, digits } => {
                plain(if object.is_of_two() { b'L' } else { b'i' }, &[u8::from(negative)]);
                to.update(digits);
            }
            Value::Float(bits) => plain(b'g', &bits.to_le_bytes()),
            Value::Complex(real, imaginary) => {
                plain(b'y', &real.to_le_bytes());
                to.update(&imaginary.to_le_bytes());
            }
            Value::NumberText(text) => plain(b'f', text),
            Value::Bytes(bytes) => plain(b's', bytes),
            Value::Str(text) => plain(b'u', text),
            Value::Tuple => self.feed_parts(b'(', object, to),
            Value::List => self.feed_parts(b'[', object, to),
            Value::Set => self.feed_set(b'<', object, to),
            Value::FrozenSet => self.feed_set(b'>', object, to),
            // In order: a program sees it, although `==` does not.
            Value::Dict => self.feed_parts(b'{', object, to),
            Value::FrozenDict => self.feed_parts(b'}', object, to),
            Value::Slice => self.feed_parts(b':', object, to),
            Value::Code => self.feed_code(object, to),
            Value::Reference => {}
        }
    }

    fn feed_parts(&self, letter: u8, object: Object<'_>, to: &mut Hasher) {
        to.update(&[letter]);
        for part in object.parts() {
            to.update(&self.digest(part));
        }
    }

    fn feed_set(&self, letter: u8, object: Object<'_>, to: &mut Hasher) {
        to.update(&[letter]);
        let mut items: Vec<Digest> = object.parts().map(|part| self.digest(part)).collect();
        items.sort_unstable();
        to.update(items.as_flattened());
    }

    fn feed_code(&self, object: Object<'_>, to: &mut Hasher) {
        to.update(b"c");
        let Some(code) = object.code() else { return };
        for (_, number) in code.numbers().named() {
            to.update(&number.to_le_bytes());
        }
        for (name, field) in code.fields() {
            if name != "co_filename" || self.filename == Filename::Counts {
                to.update(&self.digest(field));
            }
        }
    }
}

/// Is the code of two artifacts the same by value? Headers do not count, but the magic number: code of two versions is never the same.
///
/// ```
/// use bytekeep::model::Format;
/// use bytekeep::python::Pyc;
/// use bytekeep::python::equal::{Filename, same_code};
/// use bytekeep::python::objects::Objects;
///
/// # let artifact = std::fs::read("tests/data/pyc/cpython-313.pyc").unwrap();
/// let head = Pyc.head(&artifact[..16], None, None).unwrap();
/// let code = Objects::read(&head, &artifact).unwrap();
/// let mut touched = artifact.clone();
/// // Another time in the header.
/// touched[8] ^= 1;
/// assert!(same_code(&code, &Objects::read(&head, &touched).unwrap(), Filename::Counts));
/// // A letter in the name of its outermost code.
/// let at = artifact.windows(8).position(|text| text == b"<module>").unwrap();
/// touched[at + 1] ^= 1;
/// assert!(!same_code(&code, &Objects::read(&head, &touched).unwrap(), Filename::Aside));
/// ```
#[must_use]
pub fn same_code(a: &Objects<'_>, b: &Objects<'_>, filename: Filename) -> bool {
    // One after the other: the digests of all of one artifact are much.
    let whole = |objects| Values::of(objects, filename).digest(Objects::root(objects));
    a.magic() == b.magic() && whole(a) == whole(b)
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "tests may panic")]
mod tests {
    use super::*;
    use crate::model::Format;
    use crate::python::Pyc;
    use crate::python::differences::differences;
    use crate::python::magic;

    /// A module of 3.13 or 2.7 whose constants are these objects.
    fn artifact(two: bool, constants: &[&[u8]]) -> Vec<u8> {
        let count = u32::try_from(constants.len()).unwrap().to_le_bytes();
        let constants = [&b"("[..], &count, &constants.concat()].concat();
        let head = [&magic::bytes(if two { 62211 } else { 3571 })[..], &[0; 12][..if two { 4 } else { 12 }]].concat();
        let (empty, name) = (b"(\0\0\0\0".as_slice(), if two { &b"s\x01\0\0\0m"[..] } else { b"z\x01m" });
        let body = if two {
            [&b"c"[..], &[0; 16], b"s\x01\0\0\0S", &constants, empty, empty, empty, empty, name, name, &[1, 0, 0, 0], b"s\0\0\0\0"].concat()
        } else {
            let (code, bytes) = (b"s\x02\0\0\0\x95\0", b"s\0\0\0\0");
            [&b"c"[..], &[0; 20], code, &constants, empty, empty, bytes, name, name, name, &[1, 0, 0, 0], bytes, bytes].concat()
        };
        [head, body].concat()
    }

    fn is_same(one: &[u8], other: &[u8]) -> bool {
        let read = |bytes| Objects::read(&Pyc.head(&one[..16], None, None).unwrap(), bytes).unwrap();
        let (one, other) = (read(one), read(other));
        let same = same_code(&one, &other, Filename::Counts);
        assert_eq!(differences(&one, &other, 5).found.is_empty(), same);
        assert_eq!(same, same_code(&other, &one, Filename::Counts));
        same
    }

    fn float(number: f64) -> Vec<u8> {
        [b"g", &number.to_bits().to_le_bytes()[..]].concat()
    }

    #[test]
    fn what_is_written_otherwise_is_the_same() {
        let rows: &[&[&[u8]]] = &[
            // Short, long, ASCII, interned.
            &[b"z\x01a", b"Z\x01a", b"a\x01\0\0\0a", b"A\x01\0\0\0a", b"u\x01\0\0\0a", b"t\x01\0\0\0a", b"\xfa\x01a"],
            &[b")\x01N", b"(\x01\0\0\0N", b"\xa9\x01N", b"\xa8\x01\0\0\0N"],
            &[b"i\x07\0\0\0", b"\xe9\x07\0\0\0", b"l\x01\0\0\0\x07\0", b"I\x07\0\0\0\0\0\0\0"],
            &[b"i\xff\xff\xff\xff", b"l\xff\xff\xff\xff\x01\0", b"I\xff\xff\xff\xff\xff\xff\xff\xff"],
            &[b"I\0\x80\0\0\0\0\0\0", b"i\0\x80\0\0", b"l\x02\0\0\0\0\0\x01\0"],
            // Sets in any order, also with what is shared.
            &[b">\x02\0\0\0z\x01az\x01b", b">\x02\0\0\0z\x01bz\x01a", b"\xbe\x02\0\0\0Z\x01bz\x01a"],
            &[b")\x02z\x01az\x01a", b")\x02\xfa\x01ar\0\0\0\0"],
        ];
        for forms in rows {
            for form in *forms {
                assert!(is_same(&artifact(false, &[forms[0]]), &artifact(false, &[form])), "{}", form.escape_ascii());
            }
        }
        assert!(is_same(&artifact(true, &[b"s\x01\0\0\0a"]), &artifact(true, &[b"t\x01\0\0\0a"])));
    }

    #[test]
    fn what_a_program_can_tell_apart_is_not_the_same() {
        let (nan, other_nan) = (float(f64::from_bits(0x7FF8 << 48)), float(f64::from_bits(0xFFF8 << 48)));
        let (one, zero, minus) = (float(1.0), float(0.0), float(-0.0));
        let complex = [b"y".as_slice(), &one[1..], &zero[1..]].concat();
        let all: &[&[u8]] = &[
            b"N",
            b"T",
            b"F",
            b".",
            b"i\x01\0\0\0",
            b"i\0\0\0\0",
            b"i\xff\xff\xff\xff",
            &one,
            &zero,
            &minus,
            &nan,
            &other_nan,
            &complex,
            b"z\0",
            b"z\x011",
            b"s\0\0\0\0",
            b"s\x01\0\0\x001",
            b")\0",
            b")\x01N",
            b")\x02NN",
            b"[\0\0\0\0",
            b"<\0\0\0\0",
            b">\0\0\0\0",
            b"{0",
            b")\x01)\0",
            b")\x01)\x01N",
            b"{NT0",
            b"{TN0",
        ];
        for (at, one) in all.iter().enumerate() {
            for (other_at, other) in all.iter().enumerate() {
                let same = is_same(&artifact(false, &[one]), &artifact(false, &[other]));
                assert_eq!(same, at == other_at, "{} {}", one.escape_ascii(), other.escape_ascii());
            }
        }
        assert!(!is_same(&artifact(false, &[b"N", b"T"]), &artifact(false, &[b"T", b"N"])));
        assert!(!is_same(&artifact(true, &[b"s\x01\0\0\0a"]), &artifact(true, &[b"u\x01\0\0\0a"])));
        assert!(!is_same(&artifact(true, &[b"i\x01\0\0\0"]), &artifact(true, &[b"l\x01\0\0\0\x01\0"])));
    }

    #[test]
    fn references_that_would_unfold_without_end_cost_nothing() {
        // Each pair holds the one before it twice: 2^1000 leaves.
        let bomb = |leaf: &[u8]| {
            let mut constants = vec![[&[leaf[0] | 0x80], &leaf[1..]].concat()];
            for level in 0..1000u32 {
                constants.push([&b"\xa9\x02"[..], b"r", &level.to_le_bytes(), b"r", &level.to_le_bytes()].concat());
            }
            artifact(false, &constants.iter().map(Vec::as_slice).collect::<Vec<_>>())
        };
        assert!(is_same(&bomb(b"i\x01\0\0\0"), &bomb(b"i\x01\0\0\0")));
        assert!(!is_same(&bomb(b"i\x01\0\0\0"), &bomb(b"i\x02\0\0\0")));
    }

    #[test]
    fn as_deep_as_any_interpreter_reads() {
        let deep = |leaf: &[u8]| artifact(false, &[&[b")\x01".repeat(1990), leaf.to_vec()].concat()]);
        assert!(is_same(&deep(b"N"), &deep(b"N")) && !is_same(&deep(b"N"), &deep(b"T")));
    }
}
