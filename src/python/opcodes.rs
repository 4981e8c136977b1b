//! The instructions of each interpreter that was at hand: `opcodes.txt`, which the interpreters themselves wrote.
//!
//! A magic number that is not there is not guessed at: within one minor version an opcode has changed its meaning from one alpha to the
//! next. What stands there is valid *on disk*: instructions that interpreters make for themselves while running (specialised,
//! instrumented) are no compiler's, and two versions die when they load them.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::sync::LazyLock;

static TEXT: &str = include_str!("opcodes.txt");

static TABLES: LazyLock<Vec<Table>> = LazyLock::new(|| sections(TEXT).filter_map(Table::read).collect());

/// What an operand means. The first few are held against a limit, which is the kind's own or the code object's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Operand {
    /// There is no such instruction.
    Invalid,
    /// Anything.
    Any,
    /// Nothing: it is zero.
    Zero,
    /// An index of `co_consts`.
    Const,
    /// An index of `co_names`.
    Name,
    /// An index of the locals.
    Local,
    /// An index of what is shared with other functions; from 3.11 of all the locals.
    Free,
    /// It needs a closer look: [`Opcode::more`] says which.
    More,
}

/// How many kinds there are that have a limit.
pub(super) const LIMITS: usize = 8;

/// What [`Operand::More`] stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum More {
    /// Nothing more.
    No,
    /// Two indices of the locals, four bits each.
    Locals,
    /// A number below this one.
    Below(u16),
    /// A distance from the next instruction on.
    Forward,
    /// A distance back from the next instruction.
    Backward,
    /// A distance from the beginning.
    To,
    /// The high bits of the next instruction's operand.
    Extended,
}

/// One instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opcode {
    pub(super) operand: Operand,
    /// So many low bits of the operand are flags.
    pub(super) shift: u8,
    /// So many words of cache follow it, zero on disk.
    pub(super) caches: u8,
    pub(super) more: More,
    /// 2.7: is there an operand?
    pub(super) has_operand: bool,
}

impl Opcode {
    const INVALID: Self = Self { operand: Operand::Invalid, shift: 0, caches: 0, more: More::No, has_operand: false };

    fn read(words: &[&str]) -> Option<Self> {
        let (operand, caches) = match *words {
            [operand] => (operand, 0),
            [operand, "caches", count] => (operand, count.parse().ok()?),
            _ => return None,
        };
        let (word, shift) = match operand.split_once(">>") {
            Some((word, bits)) => (word, bits.parse().ok()?),
            None => (operand, 0),
        };
        let below = word.strip_prefix('<').and_then(|limit| limit.parse().ok());
        let (operand, more) = match (word, below) {
            (_, Some(limit)) => (Operand::More, More::Below(limit)),
            ("any" | "none", _) => (Operand::Any, More::No),
            ("zero", _) => (Operand::Zero, More::No),
            ("const", _) => (Operand::Const, More::No),
            ("name", _) => (Operand::Name, More::No),
            ("local", _) => (Operand::Local, More::No),
            ("free", _) => (Operand::Free, More::No),
            ("locals", _) => (Operand::More, More::Locals),
            ("forward", _) => (Operand::More, More::Forward),
            ("backward", _) => (Operand::More, More::Backward),
            ("to", _) => (Operand::More, More::To),
            _ => return None,
        };
        Some(Self { operand, shift, caches, more, has_operand: word != "none" })
    }
}

/// How the places in the source are kept, instruction by instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lines {
    /// Up to 3.9: pairs of how many bytes and how many lines further.
    Lnotab,
    /// 3.10: the same pairs, and every byte of the instructions belongs to one.
    Deltas,
    /// From 3.11: lines and columns, in entries of several lengths.
    Locations,
    /// Some other way (PyPy 3.11).
    Own,
}

/// The instructions of one magic number.
#[derive(Debug)]
pub(super) struct Table {
    number: u16,
    /// Two bytes to each instruction; else one, or three with an operand.
    pub(super) words: bool,
    /// Jumps count instructions; else bytes.
    pub(super) jumps_in_words: bool,
    pub(super) lines: Lines,
    /// The opcode that extends the next one's operand.
    pub(super) extended: u8,
    pub(super) opcodes: [Opcode; 256],
}

impl Table {
    /// The table of a magic number, where there is one.
    pub(super) fn of(number: u16) -> Option<&'static Self> {
        // 2.7 started with -U writes another number and the same instructions.
        let number = if number == 62212 { 62211 } else { number };
        TABLES.iter().find(|table| table.number == number)
    }

    /// Reads a section. `None`, and so no check at all, where a line of it is not understood.
    fn read(section: &str) -> Option<Self> {
        let mut lines = section.lines();
        let first: Vec<&str> = lines.next()?.split(' ').collect();
        let ["magic", number, _, "width", width, "jumps", jumps, "lines", places, "extended", extended] = *first else { return None };
        let mut opcodes = [Opcode::INVALID; 256];
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let (number, [_, operand @ ..]) = words.split_first()? else { return None };
            *opcodes.get_mut(number.parse::<usize>().ok()?)? = Opcode::read(operand)?;
        }
        let extended: u8 = extended.parse().ok()?;
        let extends = opcodes.get_mut(usize::from(extended))?;
        (extends.operand, extends.more) = (Operand::More, More::Extended);
        Some(Self {
            number: number.parse().ok()?,
            words: width == "words",
            jumps_in_words: jumps == "instructions",
            lines: match places {
                "lnotab" => Lines::Lnotab,
                "deltas" => Lines::Deltas,
                "locations" => Lines::Locations,
                "own" => Lines::Own,
                _ => return None,
            },
            extended,
            opcodes,
        })
    }
}

/// The sections of the file, each from its line `magic …` on.
fn sections(text: &str) -> impl Iterator<Item = &str> {
    let starts = text.match_indices("\nmagic ").map(|(at, _)| at.saturating_add(1));
    let ends = starts.clone().skip(1).chain([text.len()]);
    starts.zip(ends).filter_map(|(start, end)| text.get(start..end))
}

#[cfg(test)]
mod tests {
    use super::super::magic::{self, Standing};
    use super::*;

    #[test]
    fn every_section_is_understood_and_is_a_release_s() {
        let all: Vec<&str> = sections(TEXT).collect();
        assert!(all.len() >= 13, "{} sections", all.len());
        for section in all {
            let first = section.lines().next().unwrap();
            let table = Table::read(section).unwrap_or_else(|| panic!("{first}"));
            let row = magic::row_of(table.number).unwrap();
            assert_eq!((row.standing, Some(row.tag)), (Standing::Release, first.split(' ').nth(2)), "{first}");
            assert!(Table::of(table.number).is_some());
            let lines = section.lines().count() - 1;
            assert_eq!(table.opcodes.iter().filter(|opcode| opcode.operand != Operand::Invalid).count(), lines, "{first}");
            // Nothing that interpreters make for themselves: loading it kills 3.12 and 3.13.
            assert!(!section.contains("INSTRUMENTED") && !section.contains("SPECIALIZED"), "{first}");
        }
        assert!(Table::of(3570).is_none());
    }

    #[test]
    fn a_line_that_is_not_understood_leaves_the_whole_section_out() {
        let first = "magic 3571 cpython-313 width words jumps instructions lines locations extended 71\n71 EXTENDED_ARG any\n";
        assert!(Table::read(first).is_some());
        for bad in ["300 X any", "1 X anything", "1 X any caches", "1 X name>>x", "1", "x X any"] {
            assert!(Table::read(&format!("{first}{bad}\n")).is_none(), "{bad}");
        }
        let opcode = Opcode::read(&["name>>2", "caches", "9"]).unwrap();
        assert_eq!((opcode.operand, opcode.shift, opcode.caches), (Operand::Name, 2, 9));
        assert_eq!(Opcode::read(&["<192"]).unwrap().more, More::Below(192));
    }
}
