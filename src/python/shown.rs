//! Values of code in a few words, for people.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::objects::{Code, Object, Value};

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

/// How many items a tuple, list or set says it has. Read, not counted: one long tuple may be a constant of very many code objects.
pub fn items(object: Object<'_>) -> usize {
    let bytes = object.bytes();
    let long = || bytes.get(1..).and_then(<[u8]>::first_chunk).map_or(0, |count| u32::from_le_bytes(*count) as usize);
    if object.type_code() == b')' { bytes.get(1).map_or(0, |count| usize::from(*count)) } else { long() }
}

/// A value in a few words, as a program would write it: on one line, and of a long one the beginning.
pub fn shown(object: Object<'_>) -> String {
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
        format!("'{before}{cut}{dots}'{}", length(!dots.is_empty() || from > 0, bytes))
    };
    let float = |bits: u64| {
        let number = f64::from_bits(bits);
        if number.is_nan() { format!("nan ({bits:#x})") } else { format!("{number:?}") }
    };
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
            format!("b'{before}{cut}{dots}'{}", length(!dots.is_empty() || from > 0, bytes))
        }
        Value::Str(text) => quoted(text),
        Value::Tuple => format!("a tuple of {}", items(object)),
        Value::List => format!("a list of {}", items(object)),
        Value::Set => format!("a set of {}", items(object)),
        Value::FrozenSet => format!("a frozenset of {}", items(object)),
        Value::Dict | Value::FrozenDict => "a dict".to_owned(),
        Value::Slice => "a slice".to_owned(),
        Value::Code => format!("code of {}", quoted(object.code().map(Code::name).unwrap_or_default())),
        Value::Reference => "a reference".to_owned(),
    }
}

/// How long a text is of which not all is shown.
fn length(is_cut: bool, bytes: &[u8]) -> String {
    if is_cut { format!(" ({} bytes)", bytes.len()) } else { String::new() }
}

/// An integer of up to 120 bits.
fn big(digits: &[u8]) -> Option<u128> {
    let pairs = digits.chunks_exact(2).filter_map(|pair| pair.first_chunk()).map(|pair| u128::from(u16::from_le_bytes(*pair)));
    if digits.len() > 16 { None } else { Some(pairs.rev().fold(0, |number, digit| number << 15 | digit)) }
}
