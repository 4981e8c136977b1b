//! Values of code in a few words, for people.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::objects::{Object, Value};

/// A text is shown up to this length, in characters.
const SHOWN: usize = 48;

/// Text of a file for people, as one line: it may hold anything. Whole where it is a path's length.
pub(super) fn text(bytes: &[u8]) -> String {
    let mut text = String::new();
    for c in String::from_utf8_lossy(bytes.get(..4096).unwrap_or(bytes)).chars() {
        if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
    }
    text
}

/// How many bytes two texts begin with alike.
pub(super) fn common(left: &[u8], right: &[u8]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

/// A value in a few words, as a program would write it.
pub(super) fn shown(object: Object<'_>) -> String {
    shown_from(object, 0)
}

/// The same; of a long text the part around this byte.
pub(super) fn shown_from(object: Object<'_>, at: usize) -> String {
    let from = if at < SHOWN { 0 } else { at.saturating_sub(SHOWN / 2) };
    let before = if from > 0 { "…" } else { "" };
    let quoted = |bytes: &[u8]| {
        // Not from within a character. A character takes four bytes at most.
        let rest = bytes.get(from..).unwrap_or_default();
        let skip = if from > 0 { rest.iter().take_while(|byte| (0x80..0xC0).contains(*byte)).count() } else { 0 };
        let rest = rest.get(skip..).unwrap_or_default();
        let text = String::from_utf8_lossy(rest.get(..SHOWN.saturating_mul(4)).unwrap_or(rest)).into_owned();
        let cut: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
        let dots = if text.chars().count() > SHOWN || rest.len() > SHOWN.saturating_mul(4) { "…" } else { "" };
        format!("'{before}{cut}{dots}'")
    };
    let float = |bits: u64| {
        let number = f64::from_bits(bits);
        if number.is_nan() { format!("nan ({bits:#x})") } else { format!("{number:?}") }
    };
    let count = || object.parts().count();
    match object.value() {
        Value::None => "None".to_owned(),
        Value::False => "False".to_owned(),
        Value::True => "True".to_owned(),
        Value::Ellipsis => "...".to_owned(),
        Value::StopIteration => "StopIteration".to_owned(),
        Value::Int(number) => number.to_string(),
        Value::BigInt { negative, digits } => match (big(digits), negative) {
            (Some(number), false) => number.to_string(),
            (Some(number), true) => format!("-{number}"),
            (None, _) => format!("an integer of {} digits of 15 bits", digits.len() / 2),
        },
        Value::Float(bits) => float(bits),
        Value::Complex(real, imaginary) => format!("complex({}, {})", float(real), float(imaginary)),
        Value::NumberText(text) => quoted(text.get(1..).unwrap_or_default()),
        Value::Bytes(bytes) => {
            let rest = bytes.get(from..).unwrap_or_default();
            let cut: String = rest.iter().take(SHOWN).flat_map(|byte| byte.escape_ascii()).map(char::from).collect();
            let dots = if rest.len() > SHOWN { "…" } else { "" };
            format!("b'{before}{cut}{dots}'")
        }
        Value::Str(text) => quoted(text),
        Value::Tuple => format!("a tuple of {}", count()),
        Value::List => format!("a list of {}", count()),
        Value::Set => format!("a set of {}", count()),
        Value::FrozenSet => format!("a frozenset of {}", count()),
        Value::Dict | Value::FrozenDict => format!("a dict of {}", count() / 2),
        Value::Slice => "a slice".to_owned(),
        Value::Code => "code".to_owned(),
        Value::Reference => "a reference".to_owned(),
    }
}

/// An integer of up to 120 bits.
fn big(digits: &[u8]) -> Option<u128> {
    let pairs = digits.chunks_exact(2).filter_map(|pair| pair.first_chunk()).map(|pair| u128::from(u16::from_le_bytes(*pair)));
    if digits.len() > 16 { None } else { Some(pairs.rev().fold(0, |number, digit| number << 15 | digit)) }
}
