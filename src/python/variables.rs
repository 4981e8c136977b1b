//! What environment variables that are switches mean to an interpreter: one and the same value turns them on for some and not for others.

use super::magic;

/// How far `value` turns a switch such as `PYTHONOPTIMIZE` or `PYTHONDONTWRITEBYTECODE` on for the interpreter with this magic number;
/// 0: not at all.
///
/// To all of them an empty variable is none. CPython 3.7 and later take a number for what it says, 0 too, and what is no number for 1.
/// CPython before (as C's `atoi`) and PyPy take whatever is set for 1 at least. (Found by running 2.7, 3.6 to 3.15, PyPy 3.11.)
pub fn switch(magic: [u8; 4], value: &str) -> u32 {
    let number = magic::number(magic).unwrap_or_default();
    if value.is_empty() {
        return 0;
    }
    let text = value.trim_start_matches(|letter: char| letter.is_ascii_whitespace());
    let whole = |text: &str| text.parse::<i32>().ok().and_then(|number| u32::try_from(number).ok());
    if magic::is_pypy3(number) {
        return whole(text.trim_end()).unwrap_or(1).max(1);
    }
    if magic::has_plain_switches(number) {
        let digits = text.strip_prefix('+').unwrap_or(text);
        let end = digits.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(digits.len());
        return digits.get(..end).and_then(whole).unwrap_or(1).max(1);
    }
    whole(text).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_interpreters_read_them() {
        // The value; then what 2.7 and 3.6 make of it, 3.7 and later, and PyPy.
        for (value, old, new, pypy) in [
            ("", 0, 0, 0),
            ("0", 1, 0, 1),
            ("00", 1, 0, 1),
            ("-0", 1, 0, 1),
            ("1", 1, 1, 1),
            ("2", 2, 2, 2),
            (" 2", 2, 2, 2),
            ("2 ", 2, 1, 2),
            ("+2", 2, 2, 2),
            ("2x", 2, 1, 1),
            ("2.5", 2, 1, 1),
            ("-2", 1, 1, 1),
            ("x", 1, 1, 1),
            ("10", 10, 10, 10),
        ] {
            for (number, wanted) in [(62211, old), (3379, old), (3394, new), (3571, new), (3666, new), (432, pypy)] {
                assert_eq!(switch(magic::bytes(number), value), wanted, "{number} `{value}`");
            }
        }
    }
}
