//! The tables beside the instructions: which place in the source each came from, and who handles an exception there.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::marshal::{Fault, Step};

/// Begins an entry, in both tables of 3.11.
const FIRST: u8 = 0x80;

/// A table, and where in the artifact it begins.
pub(super) type Placed<'a> = (&'a [u8], usize);

#[cold]
fn wrong_lines(name: &'static str, text: &'static str, at: usize) -> Step<()> {
    Err(Fault::corrupt("line-table", text, at).within(name))
}

/// How many bytes of instructions the pairs of a table pass over.
fn passed(table: &[u8]) -> usize {
    table.as_chunks::<2>().0.iter().fold(0, |sum, [bytes, _]| sum.saturating_add(usize::from(*bytes)))
}

/// Up to 3.9: pairs of bytes, which end within the instructions.
pub(super) fn lnotab((table, place): Placed<'_>, len: usize) -> Step<()> {
    if !table.len().is_multiple_of(2) {
        return wrong_lines("co_lnotab", "its table of lines ends within an entry", place.saturating_add(table.len()));
    }
    if passed(table) > len {
        return wrong_lines("co_lnotab", "its table of lines goes on behind the instructions", place);
    }
    Ok(())
}

/// 3.10: pairs of bytes, which pass over every instruction.
pub(super) fn deltas((table, place): Placed<'_>, len: usize) -> Step<()> {
    if !table.len().is_multiple_of(2) {
        return wrong_lines("co_lnotab", "its table of lines ends within an entry", place.saturating_add(table.len()));
    }
    if passed(table) != len {
        return wrong_lines("co_lnotab", "its table of lines is for other instructions", place);
    }
    Ok(())
}

/// From 3.11: entries for up to eight words each, which pass over every instruction. Those with a short form have it as their kind.
pub(super) fn locations((table, place): Placed<'_>, len: usize) -> Step<()> {
    let (mut at, mut words) = (0_usize, 0_usize);
    while let Some(&first) = table.get(at) {
        let broken = || wrong_lines("co_linetable", "an entry of its table of lines is broken", place.saturating_add(at));
        if first & FIRST == 0 {
            return broken();
        }
        words = words.saturating_add(usize::from(first & 7)).saturating_add(1);
        let start = at.saturating_add(1);
        let rest = table.get(start..).unwrap_or_default();
        let taken = match first >> 3 & 15 {
            0..=9 if rest.first().is_some_and(|columns| columns & FIRST == 0) => 1,
            10..=12 if rest.first_chunk().is_some_and(|[column, end]: &[u8; 2]| (column | end) & FIRST == 0) => 2,
            13 => numbers(rest, 1),
            14 => numbers(rest, 4),
            15 => 0,
            _ => return broken(),
        };
        if taken == usize::MAX {
            return broken();
        }
        at = start.saturating_add(taken);
    }
    if words != len / 2 {
        return wrong_lines("co_linetable", "its table of lines is for other instructions", place);
    }
    Ok(())
}

/// How many bytes so many numbers take, six bits to a byte, the lowest first; `usize::MAX` where they are none.
fn numbers(rest: &[u8], count: u32) -> usize {
    let mut left = count;
    for (index, byte) in rest.iter().enumerate() {
        if byte & FIRST != 0 {
            break;
        }
        if byte & 0x40 == 0 {
            left = left.saturating_sub(1);
            if left == 0 {
                return index.saturating_add(1);
            }
        }
    }
    usize::MAX
}

/// From 3.11: from where to where an exception is handled, where, and how deep the stack is then. `begins`: does an instruction begin
/// at this word?
pub(super) fn exceptions((table, place): Placed<'_>, stack: u32, len: usize, begins: impl Fn(usize) -> bool) -> Step<()> {
    let wrong = |text, at: usize| Err(Fault::corrupt("exception-table", text, place.saturating_add(at)).within("co_exceptiontable"));
    let mut bytes = table.iter().copied().enumerate().peekable();
    let mut last = 0;
    while let Some(&(at, first)) = bytes.peek() {
        if first & FIRST == 0 {
            return wrong("an entry of its table of exceptions is broken", at);
        }
        let mut entry = [0_usize; 4];
        for (field, number) in entry.iter_mut().enumerate() {
            // The highest bits first, six to a byte.
            for index in 0_usize.. {
                let Some((_, byte)) = bytes.next() else { return wrong("its table of exceptions ends within an entry", table.len()) };
                if index > 5 || (byte & FIRST != 0) != (field == 0 && index == 0) {
                    return wrong("an entry of its table of exceptions is broken", at);
                }
                *number = *number << 6 | usize::from(byte & 0x3F);
                if byte & 0x40 == 0 {
                    break;
                }
            }
        }
        let [start, length, target, depth] = entry;
        let end = start.saturating_add(length);
        let is_start = begins(start) && (end == len / 2 || begins(end));
        if start < last || length == 0 || !is_start || !begins(target) || depth >> 1 > stack as usize {
            return wrong("an entry of its table of exceptions fits no instructions", at);
        }
        last = end;
    }
    Ok(())
}
