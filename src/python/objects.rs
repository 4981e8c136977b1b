//! What a body holds, object by object, for whoever explains, compares or rewrites an artifact.
//!
//! It stands on the walk of [`super::marshal`]: what that refuses is not listed. An object is 16 bytes here, whatever it holds, and lies
//! in the order of the file: each before its parts. Nothing is copied and nothing recurses; a body of more than [`MOST`] objects is not
//! listed at all, so that no file takes more than 64 MiB.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::bytecode::Deep;
use super::code_object::{Dialect, Field, Fields};
use super::marshal::{self, Listener, Step, Stop, Turn};
use crate::base::{Flaw, FlawKind};
use crate::model::Head;

/// The most objects of a body that are listed, and of two that are compared: twenty times what the largest of 5,400 artifacts of installed
/// packages holds.
pub const MOST: usize = 1 << 20;

const NOWHERE: u32 = u32::MAX;
const TOO_MANY: &str = "too-many-objects";

/// One object in the file.
#[derive(Debug, Clone, Copy)]
struct Node {
    place: u32,
    end: u32,
    /// The first one behind it and its parts.
    after: u32,
    /// What a reference leads to.
    target: u32,
}

/// All objects of one artifact.
#[derive(Debug)]
pub struct Objects<'a> {
    bytes: &'a [u8],
    dialect: Dialect,
    nodes: Vec<Node>,
}

/// Why the objects cannot be listed.
#[derive(Debug)]
pub struct Broken {
    /// What is wrong, and at which byte.
    pub flaw: Flaw,
    /// The way there from the root, outermost first, as far as it was read: `co_consts`, `[3]`, `co_code`.
    pub way: Vec<String>,
}

impl From<Stop> for Broken {
    fn from(stop: Stop) -> Self {
        let words = stop.way.iter().map(|turn| match turn {
            Turn::Item(index) => format!("[{index}]"),
            Turn::Pair => "{}".to_owned(),
            Turn::Field(name) => name.unwrap_or("end").to_owned(),
        });
        Self { way: words.collect(), flaw: stop.flaw }
    }
}

struct Listing<'a> {
    bytes: &'a [u8],
    two: bool,
    nodes: Vec<Node>,
    /// The objects that may be referred to, and those of 2.7's string table.
    slots: Vec<u32>,
    strings: Vec<u32>,
    open: Vec<u32>,
    deep: Option<Deep>,
    is_full: bool,
}

impl Listing<'_> {
    fn add(&mut self, place: usize, end: usize) -> Option<u32> {
        let id = u32::try_from(self.nodes.len()).ok()?;
        if self.is_full || self.nodes.len() >= MOST || self.nodes.try_reserve(1).is_err() {
            // The walk goes on, for what may be wrong behind: it needs the room.
            self.is_full = true;
            (self.nodes, self.slots, self.strings) = (Vec::new(), Vec::new(), Vec::new());
            return None;
        }
        let byte = self.bytes.get(place).copied().unwrap_or_default();
        let index = || Some(u32::from_le_bytes(*self.bytes.get(place.checked_add(1)?..)?.first_chunk()?) as usize);
        let target = match byte & 0x7F {
            b'r' => index().and_then(|index| self.slots.get(index)),
            b'R' => index().and_then(|index| self.strings.get(index)),
            _ => None,
        };
        let (place, end) = (u32::try_from(place).ok()?, u32::try_from(end).ok()?);
        self.nodes.push(Node { place, end, after: id.saturating_add(1), target: target.copied().unwrap_or(NOWHERE) });
        if byte & 0x80 != 0 {
            self.slots.push(id);
        }
        if self.two && byte == b't' {
            self.strings.push(id);
        }
        Some(id)
    }
}

impl Listener for Listing<'_> {
    fn whole(&mut self, place: usize, end: usize) {
        self.add(place, end);
    }

    fn begun(&mut self, place: usize) {
        if let Some(id) = self.add(place, place) {
            self.open.push(id);
        }
    }

    fn ended(&mut self, end: usize) {
        let after = u32::try_from(self.nodes.len()).unwrap_or(NOWHERE);
        if let Some(node) = self.open.pop().filter(|_| !self.is_full).and_then(|id| self.nodes.get_mut(id as usize)) {
            node.end = u32::try_from(end).unwrap_or(NOWHERE);
            node.after = after;
        }
    }

    fn code(&mut self, fields: &Fields, bytes: &[u8]) -> Step<()> {
        self.deep.as_mut().map_or(Ok(()), |deep| deep.code(fields, bytes))
    }
}

impl<'a> Objects<'a> {
    /// How its interpreter dumps.
    pub(super) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Lists the objects of `payload`, an artifact without its seal.
    pub fn read(head: &Head, payload: &'a [u8]) -> Result<Self, Broken> {
        Self::read_with(head, payload, None)
    }

    /// The same, and refuses what [`crate::model::Format::deep_body`] refuses.
    pub fn read_deep(head: &Head, payload: &'a [u8]) -> Result<Self, Broken> {
        Self::read_with(head, payload, Deep::of(head.magic, payload.len()))
    }

    fn read_with(head: &Head, payload: &'a [u8], deep: Option<Deep>) -> Result<Self, Broken> {
        let broken = |code, text| Broken { flaw: Flaw::new(FlawKind::Unknown, code, text), way: Vec::new() };
        let dialect = Dialect::of(head.magic).ok_or_else(|| broken("unknown-body", "its code is not known to this program"))?;
        let (nodes, slots, strings, open) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut listing = Listing { bytes: payload, two: dialect.two, nodes, slots, strings, open, deep, is_full: false };
        marshal::walk_with(head, payload, &mut listing)?;
        if listing.is_full || payload.len() >= NOWHERE as usize {
            return Err(broken(TOO_MANY, "it holds too many objects to list them"));
        }
        Ok(Self { bytes: payload, dialect, nodes: listing.nodes })
    }

    /// The code object that is all of it.
    pub fn root(&self) -> Object<'_> {
        Object { all: self, id: 0 }
    }

    /// Every object, each before its parts, references too.
    pub fn iter(&self) -> impl Iterator<Item = Object<'_>> {
        (0..self.nodes.len()).map(|id| Object { all: self, id: u32::try_from(id).unwrap_or(NOWHERE) })
    }

    /// All code objects, in the order of the file: an outer one before those within it.
    pub fn codes(&self) -> impl Iterator<Item = Code<'_>> {
        self.iter().filter_map(Object::code)
    }

    /// The magic number of the artifact.
    pub fn magic(&self) -> [u8; 4] {
        self.bytes.first_chunk().copied().unwrap_or_default()
    }

    /// May both be compared? What that takes goes by the objects of the two together.
    ///
    /// # Errors
    /// They hold more than [`MOST`].
    pub fn fits_beside(&self, other: &Self) -> Result<(), Flaw> {
        if self.len().saturating_add(other.len()) <= MOST {
            return Ok(());
        }
        Err(Flaw::new(FlawKind::Unknown, TOO_MANY, "the two hold too many objects to compare them"))
    }

    /// How many objects there are, references too.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Are there none? Never so: the root is one.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}

/// One object where it stands.
#[derive(Debug, Clone, Copy)]
pub struct Object<'o> {
    all: &'o Objects<'o>,
    id: u32,
}

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Value<'o> {
    /// `None`.
    None,
    /// `False`.
    False,
    /// `True`.
    True,
    /// `...`.
    Ellipsis,
    /// `StopIteration`, which no compiler writes.
    StopIteration,
    /// An integer of up to 64 bits.
    Int(i64),
    /// An integer of any size: its sign, and two bytes for each 15 bits, lowest first.
    BigInt {
        /// Is it below zero?
        negative: bool,
        /// The digits, little-endian pairs.
        digits: &'o [u8],
    },
    /// A float by its bits.
    Float(u64),
    /// A complex number by the bits of its parts.
    Complex(u64, u64),
    /// A float or a complex number as text: no compiler since 2.4 writes one.
    NumberText(&'o [u8]),
    /// Bytes; what 2.7 calls `str` too.
    Bytes(&'o [u8]),
    /// Text: UTF-8 in which surrogates may stand. 2.7's `unicode`.
    Str(&'o [u8]),
    /// A tuple; its items are [`Object::parts`].
    Tuple,
    /// A list.
    List,
    /// A set.
    Set,
    /// A frozenset.
    FrozenSet,
    /// A dict; its parts are key, value, key, value.
    Dict,
    /// A frozen dict (3.15).
    FrozenDict,
    /// A slice of three parts (3.14).
    Slice,
    /// A code object; see [`Object::code`].
    Code,
    /// A reference; [`Object::resolved`] says to what.
    Reference,
}

impl<'o> Object<'o> {
    fn node(self) -> Node {
        self.all.nodes.get(self.id as usize).copied().unwrap_or(Node { place: 0, end: 0, after: self.id, target: NOWHERE })
    }

    /// Its number in the order of the file; the root is 0.
    pub fn number(self) -> usize {
        self.id as usize
    }

    /// The number of the first one behind it and its parts.
    pub(super) fn after(self) -> usize {
        self.node().after as usize
    }

    /// Does it stand in an artifact of 2.7?
    pub(super) fn is_of_two(self) -> bool {
        self.all.dialect.two
    }

    /// Where in the artifact it begins.
    pub fn place(self) -> usize {
        self.node().place as usize
    }

    /// Where the one behind it begins.
    pub fn end(self) -> usize {
        self.node().end as usize
    }

    /// The bytes that it takes, type code and parts included.
    pub fn bytes(self) -> &'o [u8] {
        self.all.bytes.get(self.place()..self.end()).unwrap_or_default()
    }

    /// Its type code without the flag.
    pub fn type_code(self) -> u8 {
        self.bytes().first().map_or(0, |byte| byte & 0x7F)
    }

    /// May it be referred to?
    pub fn is_flagged(self) -> bool {
        self.bytes().first().is_some_and(|byte| byte & 0x80 != 0)
    }

    /// The object itself, or what a reference leads to.
    #[must_use]
    pub fn resolved(self) -> Self {
        match self.node().target {
            NOWHERE => self,
            id => Self { id, ..self },
        }
    }

    /// The items of a container, keys and values of a dict, the fields of a code object: as they stand, so they may be references.
    pub fn parts(self) -> Parts<'o> {
        Parts { all: self.all, next: self.id.saturating_add(1), until: self.node().after }
    }

    /// What it is.
    pub fn value(self) -> Value<'o> {
        let bytes = self.bytes();
        let word = |at: usize| bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |eight| u64::from_le_bytes(*eight));
        let int = || bytes.get(1..).and_then(<[u8]>::first_chunk).map_or(0, |four| i32::from_le_bytes(*four));
        let long = bytes.get(5..).unwrap_or_default();
        match self.type_code() {
            b'N' => Value::None,
            b'F' => Value::False,
            b'T' => Value::True,
            b'.' => Value::Ellipsis,
            b'S' => Value::StopIteration,
            b'i' => Value::Int(int().into()),
            b'I' => Value::Int(word(1).cast_signed()),
            b'l' => Value::BigInt { negative: int() < 0, digits: long },
            b'g' => Value::Float(word(1)),
            b'y' => Value::Complex(word(1), word(9)),
            b'f' | b'x' => Value::NumberText(bytes.get(1..).unwrap_or_default()),
            b's' => Value::Bytes(long),
            b't' if self.all.dialect.two => Value::Bytes(long),
            b'u' | b't' | b'a' | b'A' => Value::Str(long),
            b'z' | b'Z' => Value::Str(bytes.get(2..).unwrap_or_default()),
            b')' | b'(' => Value::Tuple,
            b'[' => Value::List,
            b'<' => Value::Set,
            b'>' => Value::FrozenSet,
            b'{' => Value::Dict,
            b'}' => Value::FrozenDict,
            b':' => Value::Slice,
            b'c' => Value::Code,
            _ => Value::Reference,
        }
    }

    /// Its text or its bytes, where it holds any; what a reference leads to counts as it.
    pub fn text(self) -> Option<&'o [u8]> {
        match self.resolved().value() {
            Value::Str(text) | Value::Bytes(text) => Some(text),
            _ => None,
        }
    }

    /// As a code object.
    pub fn code(self) -> Option<Code<'o>> {
        (self.type_code() == b'c').then_some(Code { object: self })
    }
}

/// The parts of an object, in order.
#[derive(Debug, Clone)]
pub struct Parts<'o> {
    all: &'o Objects<'o>,
    next: u32,
    until: u32,
}

impl<'o> Iterator for Parts<'o> {
    type Item = Object<'o>;

    fn next(&mut self) -> Option<Object<'o>> {
        if self.next >= self.until {
            return None;
        }
        let part = Object { all: self.all, id: self.next };
        self.next = part.node().after.max(self.next.saturating_add(1));
        Some(part)
    }
}

/// The numbers in a code object; 0 for those that its version does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// `co_argcount`.
    pub args: u32,
    /// `co_posonlyargcount` (3.8).
    pub positional_only: u32,
    /// `co_kwonlyargcount` (3.0).
    pub keyword_only: u32,
    /// `co_nlocals` (up to 3.10; later ones count the names).
    pub locals: u32,
    /// `co_stacksize`.
    pub stack: u32,
    /// `co_flags`.
    pub flags: u32,
    /// `co_firstlineno`.
    pub first_line: u32,
}

impl Numbers {
    /// All of them, by the names of the attributes.
    pub fn named(self) -> [(&'static str, u32); 7] {
        [
            ("co_argcount", self.args),
            ("co_posonlyargcount", self.positional_only),
            ("co_kwonlyargcount", self.keyword_only),
            ("co_nlocals", self.locals),
            ("co_stacksize", self.stack),
            ("co_flags", self.flags),
            ("co_firstlineno", self.first_line),
        ]
    }
}

/// A code object where it stands.
#[derive(Debug, Clone, Copy)]
pub struct Code<'o> {
    object: Object<'o>,
}

impl<'o> Code<'o> {
    /// As an object.
    pub fn object(self) -> Object<'o> {
        self.object
    }

    /// Its fields that are objects, by the names of the attributes, in the order of the file.
    pub fn fields(self) -> impl Iterator<Item = (&'static str, Object<'o>)> {
        let names = self.object.all.dialect.fields.iter().filter(|(_, field)| *field != Field::FirstLine).map(|(name, _)| *name);
        names.zip(self.object.parts())
    }

    /// One of them.
    pub fn field(self, name: &str) -> Option<Object<'o>> {
        self.fields().find(|(known, _)| *known == name).map(|(_, object)| object)
    }

    /// The qualified name where the version keeps it (3.11), else the name.
    pub fn name(self) -> &'o [u8] {
        self.field("co_qualname").or_else(|| self.field("co_name")).and_then(Object::text).unwrap_or_default()
    }

    /// The numbers.
    pub fn numbers(self) -> Numbers {
        let Dialect { posonly, kwonly, nlocals, fields, .. } = self.object.all.dialect;
        let all = self.object.all.bytes;
        let word = |at: usize| all.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |four| u32::from_le_bytes(*four));
        let mut at = self.object.place().saturating_add(1);
        let mut next = |there: bool| {
            if !there {
                return 0;
            }
            let number = word(at);
            at = at.saturating_add(4);
            number
        };
        let (args, positional_only, keyword_only) = (next(true), next(posonly), next(kwonly));
        let (locals, stack, flags) = (next(nlocals), next(true), next(true));
        // It stands between objects: right behind the one before it.
        let before = fields.iter().position(|(_, field)| *field == Field::FirstLine).unwrap_or(0).saturating_sub(1);
        let first_line = self.object.parts().nth(before).map_or(0, |object| word(object.end()));
        Numbers { args, positional_only, keyword_only, locals, stack, flags, first_line }
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "tests may panic")]
mod tests {
    use super::*;
    use crate::model::Format;
    use crate::python::Pyc;

    /// `x = (7, "é")` of 3.13, with a nested code object that shares the file's name.
    fn artifact() -> Vec<u8> {
        let code = |consts: &[u8], filename: &[u8], name: &str, line: u8| {
            let mut body = vec![0xE3];
            body.extend([0; 20]);
            body.extend(b"s\x02\0\0\0\x95\0");
            body.extend(consts);
            body.extend(b")\0)\0s\0\0\0\0");
            body.extend(filename);
            for _ in 0..2 {
                body.extend([&b"Z"[..], &[u8::try_from(name.len()).unwrap()], name.as_bytes()].concat());
            }
            body.extend([line, 0, 0, 0]);
            body.extend(b"s\0\0\0\0s\0\0\0\0");
            body
        };
        let inner = code(b")\0", b"\xda\x04a.py", "f", 3);
        let consts = [&b")\x02"[..], &inner, b")\x02i\x07\0\0\0u\x02\0\0\0\xc3\xa9"].concat();
        // The inner code takes slot 1 and its file name slot 2.
        let root = code(&consts, b"r\x02\0\0\0", "<module>", 1);
        [&crate::python::magic::bytes(3571)[..], &[0; 12], &root].concat()
    }

    fn read(artifact: &[u8]) -> Result<Objects<'_>, Broken> {
        Objects::read(&Pyc.head(&artifact[..16], None, None).unwrap(), artifact)
    }

    #[test]
    fn objects_stand_as_in_the_file_and_references_lead_to_them() {
        let artifact = artifact();
        let objects = read(&artifact).unwrap();
        let names: Vec<_> = objects.codes().map(|code| (code.name().to_vec(), code.numbers().first_line)).collect();
        assert_eq!(names, [(b"<module>".to_vec(), 1), (b"f".to_vec(), 3)]);
        let [root, inner] = objects.codes().collect::<Vec<_>>()[..] else { panic!("two") };
        let filename = root.field("co_filename").unwrap();
        assert_eq!(filename.value(), Value::Reference);
        assert_eq!(filename.text(), Some(&b"a.py"[..]));
        assert_eq!(filename.resolved().number(), inner.field("co_filename").unwrap().number());
        let consts: Vec<_> = root.field("co_consts").unwrap().parts().collect();
        assert_eq!(consts.len(), 2);
        let pair: Vec<_> = consts[1].parts().map(Object::value).collect();
        assert_eq!(pair, [Value::Int(7), Value::Str("é".as_bytes())]);
        assert_eq!(consts[1].bytes(), b")\x02i\x07\0\0\0u\x02\0\0\0\xc3\xa9");
        assert_eq!(objects.root().end(), artifact.len());
    }

    #[test]
    fn the_way_to_what_is_broken_is_told() {
        let mut artifact = artifact();
        let at = artifact.windows(5).position(|five| five == b"i\x07\0\0\0").unwrap();
        artifact[at] = 0x01;
        let broken = read(&artifact).unwrap_err();
        assert_eq!((broken.flaw.offset, broken.way.join(" ")), (Some(at as u64), "co_consts [1] [0]".to_owned()));
    }

    #[test]
    fn a_body_of_too_many_objects_is_not_listed() {
        let count = u32::try_from(MOST + 1).unwrap();
        let many = [&b"("[..], &count.to_le_bytes(), &vec![b'N'; MOST + 1]].concat();
        let artifact = artifact();
        let at = artifact.windows(5).position(|five| five == b"i\x07\0\0\0").unwrap();
        let artifact = [&artifact[..at], &many, &artifact[at + 5..]].concat();
        assert_eq!(read(&artifact).unwrap_err().flaw.code, "too-many-objects");
    }
}
