//! The names of the bits in `co_flags`, by version: those of `dis.COMPILER_FLAG_NAMES` and `__future__`.

use super::magic;

/// The same in all versions that have them.
const COMMON: [(u32, &str); 10] = [
    (0x1, "OPTIMIZED"),
    (0x2, "NEWLOCALS"),
    (0x4, "VARARGS"),
    (0x8, "VARKEYWORDS"),
    (0x10, "NESTED"),
    (0x20, "GENERATOR"),
    (0x40, "NOFREE"),
    (0x80, "COROUTINE"),
    (0x100, "ITERABLE_COROUTINE"),
    (0x200, "ASYNC_GENERATOR"),
];

/// `from __future__ import …`, from the lowest bit on.
const FUTURES: [&str; 8] = [
    "FUTURE_DIVISION",
    "FUTURE_ABSOLUTE_IMPORT",
    "FUTURE_WITH_STATEMENT",
    "FUTURE_PRINT_FUNCTION",
    "FUTURE_UNICODE_LITERALS",
    "FUTURE_BARRY_AS_BDFL",
    "FUTURE_GENERATOR_STOP",
    "FUTURE_ANNOTATIONS",
];

/// The names of the bits that are set; a bit without a name is told as a number.
pub fn names(magic: [u8; 4], flags: u32) -> Vec<String> {
    let number = magic::number(magic).unwrap_or(0);
    // 3.8.2 moved the futures four bits up, within one magic number; what 3.8.0 wrote is told by the later names.
    let first = if (3400..62000).contains(&number) { 17 } else { 13 };
    let mut known: Vec<(u32, &str)> = COMMON.to_vec();
    // PyPy has meanings of its own for the higher bits.
    if !magic::is_pypy3(number) {
        known.extend(FUTURES.iter().zip(first..).map(|(name, bit)| (1 << bit, *name)));
        if (3550..62000).contains(&number) {
            known.push((0x200_0000, "NO_MONITORING_EVENTS"));
        }
        if (3600..62000).contains(&number) {
            known.extend([(0x400_0000, "HAS_DOCSTRING"), (0x800_0000, "METHOD")]);
        }
    }
    let (set, rest) = known.iter().filter(|(bit, _)| flags & bit != 0).fold((Vec::new(), flags), |(mut set, rest), (bit, name)| {
        set.push((*name).to_owned());
        (set, rest & !bit)
    });
    if rest == 0 { set } else { [set, vec![format!("{rest:#x}")]].concat() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_have_the_names_of_their_version() {
        let of = |number: u16, flags| names(magic::bytes(number), flags).join(" ");
        assert_eq!(of(3571, 0x3), "OPTIMIZED NEWLOCALS");
        assert_eq!(of(3571, 0x100_0000), "FUTURE_ANNOTATIONS");
        assert_eq!(of(3394, 0x10_0000), "FUTURE_ANNOTATIONS");
        assert_eq!(of(62211, 0x2040), "NOFREE FUTURE_DIVISION");
        assert_eq!(of(3627, 0x800_0003), "OPTIMIZED NEWLOCALS METHOD");
        assert_eq!(of(3571, 0x8000_0000), "0x80000000");
        assert_eq!(of(432, 0x400_0001), "OPTIMIZED 0x4000000");
        assert_eq!(of(3571, 0), "");
    }
}
