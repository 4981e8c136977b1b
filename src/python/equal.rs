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
    a.magic() == b.magic() && Values::of(a, filename).digest(a.root()) == Values::of(b, filename).digest(b.root())
}
