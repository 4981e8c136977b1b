//! The fields of a code object: which there are in which version, and what they must not contradict.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::input::Input;
use super::magic::{self, Standing};
use super::marshal::{Fault, Shape, Step};

/// A stack larger than this needs instructions to fill it.
const PLAUSIBLE_STACK: u32 = 1_000_000;

const FAST_LOCAL: u8 = 0x20;

/// One object in a code object, behind its first integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    /// The instructions.
    Code,
    /// A tuple of anything.
    Consts,
    /// A tuple of strings.
    Names,
    /// The tuple of strings that names the locals.
    Locals,
    /// What kind each of these is.
    Kinds,
    /// A string.
    Text,
    /// Not an object: the first line's number.
    FirstLine,
    /// Bytes.
    Table,
}

use Field::{Code, Consts, FirstLine, Kinds, Locals, Names, Table, Text};

/// The most fields that a code object has behind its first integers, the first line's number among them.
pub(super) const FIELDS: usize = 12;

/// A field by its name, as `inspect` tells it: that of the code object's attribute.
pub(super) type Named = (&'static str, Field);

const CODE: Named = ("co_code", Code);
const CONSTS: Named = ("co_consts", Consts);
const NAMES: Named = ("co_names", Names);
const VARNAMES: Named = ("co_varnames", Locals);
const FREEVARS: Named = ("co_freevars", Names);
const CELLVARS: Named = ("co_cellvars", Names);
const LOCALS: Named = ("co_localsplusnames", Locals);
const KINDS: Named = ("co_localspluskinds", Kinds);
const FILENAME: Named = ("co_filename", Text);
const NAME: Named = ("co_name", Text);
const QUALNAME: Named = ("co_qualname", Text);
const FIRST_LINE: Named = ("co_firstlineno", FirstLine);
const LNOTAB: Named = ("co_lnotab", Table);
const LINETABLE: Named = ("co_linetable", Table);
const EXCEPTIONTABLE: Named = ("co_exceptiontable", Table);

/// Up to 3.10.
const OLD: &[Named] = &[CODE, CONSTS, NAMES, VARNAMES, FREEVARS, CELLVARS, FILENAME, NAME, FIRST_LINE, LNOTAB];
/// From 3.11.
const NEW: &[Named] = &[CODE, CONSTS, NAMES, LOCALS, KINDS, FILENAME, NAME, QUALNAME, FIRST_LINE, LINETABLE, EXCEPTIONTABLE];
/// PyPy 3.11: the old order with two more.
const PYPY: &[Named] = &[CODE, CONSTS, NAMES, VARNAMES, FREEVARS, CELLVARS, FILENAME, NAME, QUALNAME, FIRST_LINE, LNOTAB, EXCEPTIONTABLE];

/// What differs between versions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dialect {
    /// 2.7: text is bytes, and a table of interned strings in place of references.
    pub(super) two: bool,
    /// 3.4 and later: references and the short forms of tuples and strings.
    pub(super) refs: bool,
    pub(super) slices: bool,
    pub(super) frozen_dicts: bool,
    pub(super) kwonly: bool,
    pub(super) posonly: bool,
    pub(super) nlocals: bool,
    /// `nlocals` is the number of names of locals.
    pub(super) counted: bool,
    /// Two bytes to each instruction.
    pub(super) words: bool,
    /// The bits that stand in localspluskinds.
    pub(super) kinds: u8,
    pub(super) fields: &'static [Named],
}

impl Dialect {
    pub(super) fn of(magic: [u8; 4]) -> Option<Self> {
        let number = magic::number(magic)?;
        let row = magic::row_of(number)?;
        let two = number >= 62000;
        let pypy = magic::is_pypy3(number);
        // The layout of code objects changed five times within the alphas of 3.11, and may still do so in those of 3.16.
        if row.standing == Standing::Foreign || (3450..=3494).contains(&number) || number >= 3700 && !two {
            return None;
        }
        let from = |cpython: u16, pypy_number: u16| !two && number >= if pypy { pypy_number } else { cpython };
        let new = from(3495, u16::MAX);
        Some(Self {
            two,
            refs: from(3250, 0),
            slices: from(3600, u16::MAX),
            frozen_dicts: from(3650, u16::MAX),
            kwonly: !two,
            posonly: from(3410, 256),
            nlocals: !new,
            counted: !pypy && number != 62218,
            words: from(3370, 320),
            kinds: match number {
                ..3500 => 0xE0,
                3500..3600 => 0xF0,
                _ => 0xFE,
            },
            fields: match (new, from(u16::MAX, 416)) {
                (true, _) => NEW,
                (_, true) => PYPY,
                _ => OLD,
            },
        })
    }
}

/// A code object whose fields are being read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields {
    pub(super) next: u8,
    pub(super) args: u32,
    pub(super) stack: u32,
    pub(super) nlocals: u32,
    /// What was read of each field so far, in the dialect's order.
    pub(super) shapes: [Shape; FIELDS],
}

impl Fields {
    /// Takes the next field, which ended before `input.at` and began at or before `at`. `true`: it was the last one.
    pub(super) fn take(&mut self, dialect: Dialect, shape: Shape, input: &mut Input<'_>, rereads: &mut usize, at: usize) -> Step<bool> {
        let wrong = |text| Err(Fault::corrupt("code-field", text, at));
        let field = dialect.fields.get(usize::from(self.next)).map(|(_, field)| *field);
        let class = shape.class();
        let fits = match field {
            Some(Code | Kinds | Table) => class == Shape::BYTES,
            Some(Consts) => matches!(class, Shape::TUPLE | Shape::STRS | Shape::LOOSE),
            Some(Names | Locals) => class == Shape::STRS,
            Some(Text) => is_text(dialect, shape),
            Some(FirstLine) | None => false,
        };
        if !fits {
            return wrong("a field of a code object is of the wrong kind");
        }
        if let Some(slot) = self.shapes.get_mut(usize::from(self.next)) {
            *slot = shape;
        }
        match field {
            Some(Code) => {
                let len = shape.len(input.bytes);
                if dialect.words && len.is_some_and(|len| len == 0 || len % 2 != 0) {
                    return wrong("the instructions of a code object end within one");
                }
                if self.stack >= PLAUSIBLE_STACK && len.is_none_or(|len| (self.stack as usize) / 8 > len) {
                    return wrong("a code object wants a stack of absurd size");
                }
            }
            Some(Locals) => {
                if dialect.nlocals
                    && let Some(len) = shape.len(input.bytes)
                {
                    if dialect.counted && self.nlocals as usize != len {
                        return wrong("a code object has names for another number of locals");
                    }
                    if self.args as usize > len {
                        return wrong("a code object has more arguments than locals");
                    }
                }
            }
            Some(Kinds) => self.check_kinds(dialect, shape, input.bytes, rereads, at)?,
            _ => {}
        }
        self.next = self.next.saturating_add(1);
        if dialect.fields.get(usize::from(self.next)).is_some_and(|(_, field)| *field == FirstLine) {
            input.natural("code-field", "a number in a code object is negative")?;
            self.next = self.next.saturating_add(1);
        }
        Ok(usize::from(self.next) >= dialect.fields.len())
    }

    /// What was read of the field of this name.
    pub(super) fn field(&self, dialect: Dialect, name: &str) -> Option<Shape> {
        let at = dialect.fields.iter().position(|(known, _)| *known == name)?;
        self.shapes.get(at).copied().filter(|shape| *shape != Shape::OPEN)
    }

    fn check_kinds(&self, dialect: Dialect, shape: Shape, bytes: &[u8], rereads: &mut usize, at: usize) -> Step<()> {
        let names = self.field(dialect, "co_localsplusnames").and_then(|names| names.len(bytes));
        let (Some(kinds), Some(names)) = (shape.bytes(bytes), names) else { return Ok(()) };
        let wrong = |text| Err(Fault::corrupt("code-field", text, at));
        if kinds.len() != names {
            return wrong("a code object has another number of locals than of their kinds");
        }
        let Some(left) = rereads.checked_sub(kinds.len()) else { return Ok(()) };
        *rereads = left;
        if kinds.iter().any(|kind| kind & !dialect.kinds != 0 || kind & 0xE0 == 0) {
            return wrong("a local of a code object is of no known kind");
        }
        if self.args as usize > kinds.iter().filter(|&kind| kind & FAST_LOCAL != 0).count() {
            return wrong("a code object has more arguments than locals");
        }
        Ok(())
    }
}

/// A string: of 2.7 the byte string.
pub(super) fn is_text(dialect: Dialect, shape: Shape) -> bool {
    shape.class() == if dialect.two { Shape::BYTES } else { Shape::STR }
}
