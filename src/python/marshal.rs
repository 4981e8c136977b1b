//! A walk over marshalled code to its last byte: is this what a compiler writes, or a piece of it, or rubbish?
//!
//! It makes no objects and believes no number: every count is held against the bytes that are left, what is open stands on a stack
//! of its own with at most 2000 frames, and of each object that may be referred to only its class and its place are kept (4 bytes).
//! Time is linear in the length of the body.
//!
//! It is stricter than `marshal.loads` where no compiler writes what `loads` would take: text in ASCII fields that is none, references
//! to what is not finished, big integers with leading zeros, flags on singletons, fields of a code object that contradict each
//! other, bytes behind the end. Into the instructions and their tables looks who listens: `bytecode`.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::bytecode::Deep;
use super::code_object::{Dialect, FIELDS, Fields, is_text};
use super::input::Input;
use crate::base::seal::is_cut_seal;
use crate::base::seam::without;
use crate::base::{Flaw, FlawKind};
use crate::model::{Head, NO_MEMORY};

/// Nested objects, the root included: what every CPython allows.
const MAX_DEPTH: usize = 2000;
/// Room for so many references is made at the beginning, the rest as they come: a length alone claims no memory.
const REFS_AT_ONCE: usize = 1 << 16;
const VARARGS: u32 = 0x04;
const VARKEYWORDS: u32 = 0x08;

/// Who is told of each object while the walk goes on. `()` listens to nothing, and costs nothing.
pub(super) trait Listener {
    /// An object without parts stands in `bytes[place..end]`: also a reference, and an empty container.
    fn whole(&mut self, _place: usize, _end: usize) {}
    /// The parts of the object at `place` follow; of a code object its first integers are read.
    fn begun(&mut self, _place: usize) {}
    /// The last object that began and has not ended ends before `end`.
    fn ended(&mut self, _end: usize) {}
    /// All fields of a code object are read; it ends next. An error ends the walk.
    fn code(&mut self, _fields: &Fields, _bytes: &[u8]) -> Step<()> {
        Ok(())
    }
}

impl Listener for () {}

/// Where a walk ended that found something wrong: the flaw, and the way to it from the root.
#[derive(Debug)]
pub(super) struct Stop {
    pub(super) flaw: Flaw,
    pub(super) way: Vec<Turn>,
}

/// One step from an object to a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// An item of a tuple, a list, a set, a slice.
    Item(usize),
    /// A key or a value of a dict.
    Pair,
    /// A field of a code object; `None` behind the last.
    Field(Option<&'static str>),
}

/// Walks `artifact[head.len..]`, which must be one code object and nothing else.
pub(super) fn walk(head: &Head, artifact: &[u8]) -> Result<(), Flaw> {
    walk_with(head, artifact, &mut ()).map_err(|stop| stop.flaw)
}

/// The same, and looks into the instructions where it knows them.
pub(super) fn walk_deep(head: &Head, artifact: &[u8]) -> Result<(), Flaw> {
    match Deep::of(head.magic, artifact.len()) {
        Some(mut deep) => walk_with(head, artifact, &mut deep).map_err(|stop| stop.flaw),
        None => walk(head, artifact),
    }
}

/// The same, and tells `listener` what it meets.
pub(super) fn walk_with(head: &Head, artifact: &[u8], listener: &mut impl Listener) -> Result<(), Stop> {
    let stopped = |flaw| Stop { flaw, way: Vec::new() };
    let Some(dialect) = Dialect::of(head.magic) else {
        let text = format!("code of {} is not known to this program", head.tag);
        return Err(stopped(Flaw::new(FlawKind::Unknown, "unknown-body", text)));
    };
    if artifact.len() <= head.len {
        let flaw = Flaw::new(FlawKind::Truncated, "header-only", "it ends right behind its header");
        return Err(stopped(flaw.at(artifact.len() as u64)));
    }
    let mut walk = Walk {
        input: Input { bytes: artifact, at: head.len },
        dialect,
        refs: Vec::with_capacity((artifact.len() / 16).min(REFS_AT_ONCE)),
        stack: Vec::with_capacity(32),
        strings: 0,
        rereads: artifact.len().saturating_mul(4),
        listener,
    };
    if let Err(fault) = walk.root() {
        return Err(Stop { flaw: fault.flaw(), way: walk.way(fault) });
    }
    let end = walk.input.at;
    let rest = artifact.get(end..).unwrap_or_default();
    if rest.is_empty() {
        Ok(())
    } else if is_cut_seal(rest, end as u64) {
        let text = format!("its seal is cut: {} of its bytes are there", rest.len());
        Err(stopped(Flaw::new(FlawKind::Truncated, "cut-seal", text).at(artifact.len() as u64)))
    } else {
        let text = format!("{} bytes follow the end of its code", rest.len());
        Err(stopped(Flaw::new(FlawKind::Corrupt, "trailing", text).at(end as u64)))
    }
}

/// What is wrong, small enough to be passed up cheaply.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fault {
    kind: FlawKind,
    code: &'static str,
    text: &'static str,
    at: usize,
    /// The field of a finished code object that it lies in.
    field: Option<&'static str>,
}

impl Fault {
    #[cold]
    pub(super) fn corrupt(code: &'static str, text: &'static str, at: usize) -> Self {
        Self { kind: FlawKind::Corrupt, code, text, at, field: None }
    }

    #[cold]
    pub(super) fn within(self, field: &'static str) -> Self {
        Self { field: Some(field), ..self }
    }

    #[cold]
    pub(super) fn cut(end: usize) -> Self {
        Self { kind: FlawKind::Truncated, code: "cut", text: "it ends before its code does", at: end, field: None }
    }

    #[cold]
    fn memory(at: usize) -> Self {
        Self { kind: FlawKind::Unknown, code: NO_MEMORY, text: "there is not enough memory to look through it", at, field: None }
    }

    fn flaw(self) -> Flaw {
        Flaw::new(self.kind, self.code, self.text).at(self.at as u64)
    }
}

pub(super) type Step<T> = Result<T, Fault>;

/// What is known of a finished object: four bits of class, and the place of its first byte where that fits in 28 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape(u32);

impl Shape {
    pub(super) const OPEN: Self = Self(0);
    const OTHER: u32 = 1;
    pub(super) const STR: u32 = 2;
    pub(super) const BYTES: u32 = 3;
    pub(super) const TUPLE: u32 = 4;
    /// A tuple of strings alone; the empty one too.
    pub(super) const STRS: u32 = 5;
    const CODE: u32 = 6;
    /// A list, a set, a dict: none of them, nor a tuple with one, can stand in a set or be a key.
    const CHANGEABLE: u32 = 7;
    /// A tuple with one of these in it, at any depth of tuples.
    pub(super) const LOOSE: u32 = 8;
    const NO_PLACE: u32 = (1 << 28) - 1;

    fn new(class: u32, place: usize) -> Self {
        let place = u32::try_from(place).map_or(Self::NO_PLACE, |place| place.min(Self::NO_PLACE));
        Self(class << 28 | place)
    }

    pub(super) fn class(self) -> u32 {
        self.0 >> 28
    }

    pub(super) fn place(self) -> Option<usize> {
        let place = self.0 & Self::NO_PLACE;
        (place != Self::NO_PLACE).then_some(place as usize)
    }

    /// Number of items or bytes, read again where the object stands.
    pub(super) fn len(self, bytes: &[u8]) -> Option<usize> {
        let place = self.place()?;
        let (&code, rest) = bytes.get(place..)?.split_first()?;
        match code & 0x7F {
            b')' | b'z' | b'Z' => rest.first().map(|&len| usize::from(len)),
            _ => rest.first_chunk().map(|len| u32::from_le_bytes(*len) as usize),
        }
    }

    /// The text of a string in any form.
    pub(super) fn text(self, bytes: &[u8]) -> Option<&[u8]> {
        let place = self.place()?;
        let short = matches!(bytes.get(place)? & 0x7F, b'z' | b'Z');
        let data = place.checked_add(if short { 2 } else { 5 })?;
        bytes.get(data..data.checked_add(self.len(bytes)?)?)
    }

    /// The bytes of an object of class [`Shape::BYTES`].
    pub(super) fn bytes(self, bytes: &[u8]) -> Option<&[u8]> {
        let data = self.place()?.checked_add(5)?;
        bytes.get(data..data.checked_add(self.len(bytes)?)?)
    }
}

#[derive(Debug, Clone, Copy)]
enum Open {
    /// So many items are to come.
    Items { left: u32, class: u32 },
    /// Keys and values in turn, until a NULL in a key's place.
    Dict { value_next: bool },
    /// A code object.
    Code(Fields),
}

/// An object whose parts are being read.
#[derive(Debug, Clone, Copy)]
struct Frame {
    /// Where it began.
    place: usize,
    /// Its place in the table of references.
    slot: Option<u32>,
    open: Open,
}

/// What reading one type code led to.
enum Read {
    /// An object, finished.
    Whole(Shape),
    /// A frame was pushed.
    Begun,
    /// The end of a dict.
    Null,
}

struct Walk<'a, L> {
    listener: &'a mut L,
    input: Input<'a>,
    dialect: Dialect,
    refs: Vec<Shape>,
    stack: Vec<Frame>,
    /// 2.7's interned strings so far.
    strings: u32,
    /// How many bytes may still be read again through references, so that time stays linear.
    rereads: usize,
}

impl<L: Listener> Walk<'_, L> {
    /// Which part of which object was being read.
    fn way(&self, fault: Fault) -> Vec<Turn> {
        let turn = |frame: &Frame| match frame.open {
            Open::Items { left, class } => {
                // A slice says no number: it has three.
                let count = Shape::new(class, frame.place).len(self.input.bytes);
                let count = if self.input.bytes.get(frame.place).is_some_and(|code| code & 0x7F == b':') { Some(3) } else { count };
                Turn::Item(count.unwrap_or(0).saturating_sub(left as usize))
            }
            Open::Dict { .. } => Turn::Pair,
            Open::Code(fields) => Turn::Field(self.dialect.fields.get(usize::from(fields.next)).map(|(name, _)| *name)),
        };
        let mut way: Vec<Turn> = self.stack.iter().map(turn).collect();
        if let (Some(Turn::Field(last)), Some(field)) = (way.last_mut(), fault.field) {
            *last = Some(field);
        }
        way
    }

    fn root(&mut self) -> Step<()> {
        let start = self.input.at;
        loop {
            let at = self.input.at;
            if self.stack.len() >= MAX_DEPTH {
                return Err(Fault::corrupt("depth", "it nests deeper than any interpreter reads", at));
            }
            // No object adds more than one.
            if self.refs.len() == self.refs.capacity() && self.refs.try_reserve(1).is_err() {
                return Err(Fault::memory(at));
            }
            let mut done = match self.object()? {
                Read::Begun => {
                    self.listener.begun(at);
                    continue;
                }
                Read::Whole(shape) => {
                    self.listener.whole(at, self.input.at);
                    shape
                }
                Read::Null => match self.stack.pop() {
                    Some(Frame { place, slot, open: Open::Dict { value_next: false } }) => {
                        self.listener.ended(self.input.at);
                        let class = if self.letter(place) == b'{' { Shape::CHANGEABLE } else { Shape::OTHER };
                        self.finish(class, place, slot)
                    }
                    _ => return Err(Fault::corrupt("null", "an object in it is missing", at)),
                },
            };
            // One finished object may finish those around it.
            loop {
                let Some(frame) = self.stack.last_mut() else {
                    if done.class() == Shape::CODE {
                        return Ok(());
                    }
                    return Err(Fault::corrupt("not-code", "it holds something else than code", start));
                };
                let class = match &mut frame.open {
                    Open::Items { left, class } => {
                        if done.class() >= Shape::CHANGEABLE {
                            *class = holding(self.input.bytes, frame.place, *class, at)?;
                        } else if *class == Shape::STRS && !is_text(self.dialect, done) {
                            *class = Shape::TUPLE;
                        }
                        *left = left.saturating_sub(1);
                        if *left > 0 {
                            break;
                        }
                        *class
                    }
                    Open::Dict { value_next } => {
                        if !*value_next && done.class() >= Shape::CHANGEABLE {
                            return Err(unhashable(at));
                        }
                        *value_next = !*value_next;
                        break;
                    }
                    Open::Code(fields) => {
                        if !fields.take(self.dialect, done, &mut self.input, &mut self.rereads, at)? {
                            break;
                        }
                        self.listener.code(fields, self.input.bytes)?;
                        Shape::CODE
                    }
                };
                let (place, slot) = (frame.place, frame.slot);
                self.stack.pop();
                self.listener.ended(self.input.at);
                done = self.finish(class, place, slot);
            }
        }
    }

    /// Zeros are no type code; several of them most likely stand for data that never reached the disk.
    #[cold]
    fn zero(&self, at: usize) -> Fault {
        if self.input.bytes.get(at..).unwrap_or_default().iter().take(8).all(|&byte| byte == 0) {
            Fault::corrupt("zeroed", "zeros stand where an object should be", at)
        } else {
            Fault::corrupt("type-code", "a byte in it is no type code", at)
        }
    }

    fn letter(&self, place: usize) -> u8 {
        self.input.bytes.get(place).map_or(0, |code| code & 0x7F)
    }

    fn finish(&mut self, class: u32, place: usize, slot: Option<u32>) -> Shape {
        let shape = Shape::new(class, place);
        if let Some(open) = slot.and_then(|slot| self.refs.get_mut(slot as usize)) {
            *open = shape;
        }
        shape
    }

    fn reserve(&mut self, flagged: bool) -> Option<u32> {
        if !flagged {
            return None;
        }
        let slot = u32::try_from(self.refs.len()).ok();
        self.refs.push(Shape::OPEN);
        slot
    }

    #[inline]
    fn leaf(&mut self, class: u32, place: usize, flagged: bool) -> Read {
        let shape = Shape::new(class, place);
        if flagged {
            self.refs.push(shape);
        }
        Read::Whole(shape)
    }

    fn items(&mut self, count: usize, class: u32, place: usize, flagged: bool) -> Step<Read> {
        if count > self.input.left() {
            return Err(Fault::cut(self.input.bytes.len()));
        }
        if count == 0 {
            return Ok(self.leaf(class, place, flagged));
        }
        let left = u32::try_from(count).map_err(|_| Fault::cut(self.input.bytes.len()))?;
        self.push(place, flagged, Open::Items { left, class })
    }

    #[expect(clippy::unnecessary_wraps, reason = "every arm of the caller is a step")]
    fn push(&mut self, place: usize, flagged: bool, open: Open) -> Step<Read> {
        let slot = self.reserve(flagged);
        self.stack.push(Frame { place, slot, open });
        Ok(Read::Begun)
    }

    fn object(&mut self) -> Step<Read> {
        let place = self.input.at;
        let byte = self.input.byte()?;
        let flagged = byte & 0x80 != 0;
        let Dialect { two, refs, slices, frozen_dicts, .. } = self.dialect;
        let code = byte & 0x7F;
        if flagged && (!refs || matches!(code, b'N' | b'F' | b'T' | b'.' | b'S' | b'0' | b'r')) {
            return Err(Fault::corrupt("type-code", "a byte in it is no type code", place));
        }
        match code {
            b'z' | b'Z' if refs => {
                let len = usize::from(self.input.byte()?);
                self.ascii(len, place, flagged)
            }
            b'r' if refs => {
                let index = self.input.int()?;
                let shape = usize::try_from(index).ok().and_then(|index| self.refs.get(index));
                match shape {
                    Some(&shape) if shape != Shape::OPEN => Ok(Read::Whole(shape)),
                    _ if without("references") => Ok(Read::Whole(Shape::new(Shape::OTHER, place))),
                    _ => Err(Fault::corrupt("reference", "a reference in it leads nowhere", place)),
                }
            }
            b's' => {
                let len = self.input.size()?;
                self.input.take(len)?;
                Ok(self.leaf(Shape::BYTES, place, flagged))
            }
            b'i' => {
                self.input.take(4)?;
                Ok(self.leaf(Shape::OTHER, place, flagged))
            }
            b'N' | b'F' | b'T' | b'.' | b'S' => Ok(Read::Whole(Shape::new(Shape::OTHER, place))),
            b')' if refs => {
                let count = usize::from(self.input.byte()?);
                self.items(count, Shape::STRS, place, flagged)
            }
            b'(' => {
                let count = self.input.size()?;
                self.items(count, Shape::STRS, place, flagged)
            }
            b'c' => self.code(place, flagged),
            b'a' | b'A' if refs => {
                let len = self.input.size()?;
                self.ascii(len, place, flagged)
            }
            b't' if two => {
                let len = self.input.size()?;
                self.input.take(len)?;
                self.strings = self.strings.saturating_add(1);
                Ok(self.leaf(Shape::BYTES, place, flagged))
            }
            b'R' if two => {
                let index = self.input.natural("reference", "a reference in it leads nowhere")?;
                if index >= self.strings {
                    return Err(Fault::corrupt("reference", "a reference in it leads nowhere", place));
                }
                Ok(self.leaf(Shape::BYTES, usize::MAX, flagged))
            }
            b'u' | b't' => {
                let len = self.input.size()?;
                if !is_utf8_with_surrogates(self.input.take(len)?) {
                    return Err(Fault::corrupt("utf-8", "text in it is not UTF-8", place));
                }
                Ok(self.leaf(if two { Shape::OTHER } else { Shape::STR }, place, flagged))
            }
            b'l' => self.big(place, flagged),
            b'g' | b'I' => {
                self.input.take(8)?;
                Ok(self.leaf(Shape::OTHER, place, flagged))
            }
            b'y' => {
                self.input.take(16)?;
                Ok(self.leaf(Shape::OTHER, place, flagged))
            }
            b'f' | b'x' => {
                for _ in 0..if code == b'x' { 2 } else { 1 } {
                    let len = usize::from(self.input.byte()?);
                    let text = self.input.take(len)?;
                    if !std::str::from_utf8(text).is_ok_and(|text| text.parse::<f64>().is_ok()) {
                        return Err(Fault::corrupt("float", "a number in it is none", place));
                    }
                }
                Ok(self.leaf(Shape::OTHER, place, flagged))
            }
            b'[' | b'<' | b'>' => {
                let count = self.input.size()?;
                self.items(count, if code == b'>' { Shape::OTHER } else { Shape::CHANGEABLE }, place, flagged)
            }
            b':' if slices => self.push(place, flagged, Open::Items { left: 3, class: Shape::OTHER }),
            b'{' => self.push(place, flagged, Open::Dict { value_next: false }),
            b'}' if frozen_dicts => self.push(place, flagged, Open::Dict { value_next: false }),
            b'0' => Ok(Read::Null),
            0 => Err(self.zero(place)),
            _ => Err(Fault::corrupt("type-code", "a byte in it is no type code", place)),
        }
    }

    #[inline]
    fn ascii(&mut self, len: usize, place: usize, flagged: bool) -> Step<Read> {
        if !self.input.take(len)?.is_ascii() {
            return Err(Fault::corrupt("ascii", "text in it is not ASCII where it says so", place));
        }
        Ok(self.leaf(Shape::STR, place, flagged))
    }

    /// A big integer: 15 bits to a digit, the last of which is not zero.
    fn big(&mut self, place: usize, flagged: bool) -> Step<Read> {
        let count = usize::try_from(self.input.int()?.unsigned_abs()).unwrap_or(usize::MAX);
        let digits = self.input.take(count.saturating_mul(2))?;
        let mut last = 1;
        for digit in digits.chunks_exact(2) {
            last = digit.first_chunk().map_or(0, |digit| u16::from_le_bytes(*digit));
            if last > 0x7FFF {
                return Err(Fault::corrupt("integer", "an integer in it is none", place));
            }
        }
        if last == 0 {
            return Err(Fault::corrupt("integer", "an integer in it is none", place));
        }
        Ok(self.leaf(Shape::OTHER, place, flagged))
    }

    /// The integers at the beginning of a code object.
    fn code(&mut self, place: usize, flagged: bool) -> Step<Read> {
        let Dialect { kwonly, posonly, nlocals, .. } = self.dialect;
        let mut next = |there: bool| if there { self.input.natural("code-field", "a number in a code object is negative") } else { Ok(0) };
        let args = next(true)?;
        let positional = next(posonly)?;
        let keyword = next(kwonly)?;
        let locals = next(nlocals)?;
        let stack = next(true)?;
        let flags = next(true)?;
        if positional > args {
            return Err(Fault::corrupt("code-field", "a code object has more positional arguments than arguments", place));
        }
        let starred = u32::from(flags & VARARGS != 0).saturating_add(u32::from(flags & VARKEYWORDS != 0));
        let args = args.saturating_add(keyword).saturating_add(starred);
        let fields = Fields { next: 0, args, stack, nlocals: locals, shapes: [Shape::OPEN; FIELDS] };
        self.push(place, flagged, Open::Code(fields))
    }
}

#[cold]
fn unhashable(at: usize) -> Fault {
    Fault::corrupt("unhashable", "a set or a key in it holds what can be changed", at)
}

/// The class of a container at `place` that holds something changeable.
#[cold]
fn holding(bytes: &[u8], place: usize, class: u32, at: usize) -> Step<u32> {
    match (bytes.get(place).map_or(0, |code| code & 0x7F), class) {
        (b'<' | b'>', _) => Err(unhashable(at)),
        (_, Shape::STRS | Shape::TUPLE) => Ok(Shape::LOOSE),
        (_, class) => Ok(class),
    }
}

/// UTF-8 in which surrogates may stand, alone or in pairs: compilers write them for `'\ud800'`, and Rust's own check refuses them.
fn is_utf8_with_surrogates(mut bytes: &[u8]) -> bool {
    loop {
        let Err(error) = std::str::from_utf8(bytes) else { return true };
        match bytes.get(error.valid_up_to()..) {
            Some([0xED, 0xA0..=0xBF, 0x80..=0xBF, rest @ ..]) => bytes = rest,
            _ => return false,
        }
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "tests may panic")]
mod tests {
    use super::super::magic::{self, Standing};
    use super::*;
    use crate::model::{Format, Stamp};
    use crate::python::pyc::Pyc;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn head(number: u16) -> Head {
        let len = magic::header_len(number);
        Head { magic: magic::bytes(number), tag: Arc::from("t"), len, stamp: Stamp::Time { mtime: 0, size: None } }
    }

    fn judge(number: u16, body: &[u8]) -> Result<(), Flaw> {
        let head = head(number);
        Pyc.body(&head, &[&vec![0; head.len][..], body].concat())
    }

    fn code_of(number: u16, body: &[u8]) -> &'static str {
        judge(number, body).map_or_else(|flaw| flaw.code, |()| "sound")
    }

    /// A code object of 3.13 around a constant.
    fn code(consts: &[u8]) -> Vec<u8> {
        let mut body = vec![0xE3];
        body.extend([0; 20]);
        body.extend(b"s\x02\0\0\0\x95\0");
        body.extend(b")\x01");
        body.extend(consts);
        body.extend(b")\0)\0s\0\0\0\0\xda\x04a.pyZ\x08<module>Z\x08<module>\x01\0\0\0s\0\0\0\0s\0\0\0\0");
        body
    }

    #[test]
    fn the_smallest_code_is_sound_and_every_cut_of_it_is_found() {
        let body = code(b"N");
        assert_eq!(code_of(3571, &body), "sound");
        for cut in 1..body.len() {
            assert_eq!(judge(3571, &body[..cut]).unwrap_err().kind, FlawKind::Truncated, "{cut}");
        }
        assert_eq!(code_of(3571, &[]), "header-only");
        assert_eq!(Pyc.body(&head(3571), &[]).unwrap_err().code, "empty");
        assert_eq!(Pyc.body(&head(3571), &[0; 9]).unwrap_err().code, "short-header");
    }

    #[test]
    fn what_follows_the_code_is_told() {
        let body = code(b"N");
        assert_eq!(code_of(3571, &[&body[..], b"x"].concat()), "trailing");
        let sealed = crate::base::seal::sealed([&vec![0; 16][..], &body].concat(), crate::base::seal::Digest::of(b""), [7; 8], false);
        let payload = 16 + body.len();
        for cut in payload + 1..sealed.len() {
            let flaw = Pyc.body(&head(3571), &sealed[..cut]).unwrap_err();
            assert_eq!((flaw.code, flaw.kind), ("cut-seal", FlawKind::Truncated), "{cut}");
        }
        assert_eq!(Pyc.body(&head(3571), &sealed).unwrap_err().code, "trailing");
    }

    #[test]
    fn constants_that_compilers_write() {
        for good in [
            &b"i\x01\0\0\0"[..],
            b"l\x02\0\0\0\0\0\x01\0",
            b"l\xfe\xff\xff\xff\0\0\x01\0",
            b"g01234567",
            b"y0123456701234567",
            b"u\x03\0\0\0\xed\xa0\x80",
            b"u\x06\0\0\0\xed\xa0\x80\xed\xb0\x80",
            b">\x01\0\0\0N",
            b"{NT0",
            b"\xa9\x01\xda\x01a",
            b")\x02[\x01\0\0\0{N[\0\0\0\x000z\x01a",
            b">\x02\0\0\0>\0\0\0\0)\x01>\0\0\0\0",
            b")\x02\xda\x01ar\x01\0\0\0",
        ] {
            assert_eq!(code_of(3571, &code(good)), "sound", "{good:?}");
        }
        assert_eq!(code_of(3627, &code(b":NNN")), "sound");
        assert_eq!(code_of(3666, &code(b"}NT0")), "sound");
    }

    #[test]
    fn constants_that_nobody_writes() {
        for (bad, wanted) in [
            (&b"?"[..], "type-code"),
            (b"\xce", "type-code"),
            (b"\xf2\0\0\0\0", "type-code"),
            (b":NNN", "type-code"),
            (b"}NT0", "type-code"),
            (b"R\0\0\0\0", "type-code"),
            (b"\0", "type-code"),
            (b"\0\0\0\0\0\0\0\0", "zeroed"),
            (b"0", "null"),
            (b"{N0", "null"),
            (b"l\x01\0\0\0\0\x80", "integer"),
            (b"l\x01\0\0\0\0\0", "integer"),
            (b"z\x01\xe9", "ascii"),
            (b"u\x01\0\0\0\xe9", "utf-8"),
            (b"u\x03\0\0\0\xed\x80", "utf-8"),
            (b"s\xff\xff\xff\xff", "size"),
            (b"(\xff\xff\xff\x7f", "cut"),
            (b"[\0\0\0\x20", "cut"),
            (b"f\x01x", "float"),
            (b"r\x09\0\0\0", "reference"),
            (b"r\xff\xff\xff\xff", "reference"),
            (b">\x01\0\0\0[\0\0\0\0", "unhashable"),
            (b"<\x01\0\0\0)\x02N)\x01{NN0", "unhashable"),
            (b"{<\0\0\0\0N0", "unhashable"),
            (b")\x02\xdb\0\0\0\0>\x01\0\0\0r\x01\0\0\0", "unhashable"),
            // The code object itself is still open.
            (b"r\0\0\0\0", "reference"),
            (b"\xa9\x01r\x01\0\0\0", "reference"),
        ] {
            // A cut-short constant swallows what follows it, so only the flaw that comes first is compared.
            assert_eq!(code_of(3571, &code(bad)), wanted, "{bad:?}");
        }
        assert_eq!(code_of(3571, b"N"), "not-code");
        assert_eq!(code_of(3571, b")\0"), "not-code");
    }

    #[test]
    fn fields_that_contradict_each_other() {
        let sound = code(b"N");
        let with = |at: usize, bytes: &[u8]| {
            let mut body = sound.clone();
            body[at..at + bytes.len()].copy_from_slice(bytes);
            body
        };
        assert_eq!(code_of(3571, &with(1, &[1])), "code-field");
        assert_eq!(code_of(3571, &with(5, &[1])), "code-field");
        assert_eq!(code_of(3571, &with(17, &[4])), "code-field");
        assert_eq!(code_of(3571, &with(20, &[0x80])), "code-field");
        assert_eq!(code_of(3571, &with(16, &[0x7F])), "code-field");
        assert_eq!(code_of(3571, &with(28, b"(")), "cut");
    }

    #[test]
    fn depth_is_bounded_and_costs_no_stack() {
        let nested = |depth: usize| code(&[&b")\x01".repeat(depth)[..], b"N"].concat());
        assert_eq!(code_of(3571, &nested(MAX_DEPTH - 3)), "sound");
        assert_eq!(code_of(3571, &nested(MAX_DEPTH - 2)), "depth");
        assert_eq!(code_of(3571, &nested(1_000_000)), "depth");
    }

    #[test]
    fn code_of_others_is_left_alone() {
        for number in [3450, 3494, 3700, 21200, 5, 9999] {
            assert_eq!(judge(number, &code(b"N")).unwrap_err().kind, FlawKind::Unknown, "{number}");
        }
    }

    fn any_release() -> impl Strategy<Value = u16> {
        let releases: Vec<u16> = magic::ROWS.iter().filter(|row| row.standing == Standing::Release).map(|row| row.last).collect();
        proptest::sample::select(releases)
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(number in any_release(), body in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(judge(number, &body).is_err());
        }

        #[test]
        fn any_type_codes_are_answered(number in any_release(), body in "c?[().0<>AFINSTZ\\[acfgilrstuxyz{:}\\x00-\\x03]{0,300}") {
            prop_assert!(judge(number, body.as_bytes()).is_err());
        }

        #[test]
        fn any_changed_byte_is_answered(at in 0_usize..80, byte: u8, more in 0_usize..80, other: u8) {
            let mut body = code(b")\x02\xda\x01ar\x01\0\0\0");
            let len = body.len();
            body[at % len] = byte;
            body[more % len] = other;
            drop(judge(3571, &body));
        }
    }
}
