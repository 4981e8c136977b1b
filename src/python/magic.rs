//! The magic numbers of `.pyc` files: which interpreters write which, and what the header behind them is.
//!
//! A magic number is a little-endian `u16` and then `0D 0A`. CPython counts up, with fifty numbers for each minor version since 3.6;
//! PyPy has numbers of its own below 3000; [`ROWS`] says what is known of each.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::sync::{Arc, LazyLock};

/// How far a magic number is to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// A released interpreter writes it.
    Release,
    /// Only alphas and betas wrote it: their artifacts are left alone.
    Dev,
    /// Another implementation with code of its own: left alone.
    Foreign,
}

/// A range of magic numbers with the same meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The first number.
    pub first: u16,
    /// The last number, inclusive.
    pub last: u16,
    /// The cache tag of the interpreters that write it; for those that have none, what we call them (`cpython-27`).
    pub tag: &'static str,
    /// Length of the header in bytes: 8, 12 or 16.
    pub header: usize,
    /// Who writes it.
    pub standing: Standing,
}

const fn row(first: u16, last: u16, tag: &'static str, header: usize, standing: Standing) -> Row {
    Row { first, last, tag, header, standing }
}

use Standing::{Dev, Foreign, Release};

/// The table, ordered by number.
pub const ROWS: &[Row] = &[
    row(112, 112, "pypy35", 12, Dev),
    row(160, 160, "pypy36", 12, Dev),
    row(192, 192, "pypy36", 12, Release),
    row(224, 224, "pypy37", 16, Dev),
    row(240, 240, "pypy37", 16, Release),
    row(256, 256, "pypy38", 16, Release),
    row(320, 320, "pypy39", 16, Release),
    row(336, 336, "pypy39", 16, Release),
    row(384, 384, "pypy310", 16, Release),
    row(416, 416, "pypy311", 16, Release),
    row(432, 432, "pypy311", 16, Release),
    row(3000, 3111, "cpython-30", 8, Dev),
    row(3131, 3131, "cpython-30", 8, Release),
    row(3141, 3141, "cpython-31", 8, Dev),
    row(3151, 3151, "cpython-31", 8, Release),
    row(3160, 3170, "cpython-32", 8, Dev),
    row(3180, 3180, "cpython-32", 8, Release),
    row(3190, 3200, "cpython-33", 8, Dev),
    // 3210 is the first with the source's size.
    row(3210, 3220, "cpython-33", 12, Dev),
    row(3230, 3230, "cpython-33", 12, Release),
    row(3250, 3300, "cpython-34", 12, Dev),
    row(3310, 3310, "cpython-34", 12, Release),
    row(3320, 3340, "cpython-35", 12, Dev),
    // 3.5.2 changed it: the one change within a stable series.
    row(3350, 3351, "cpython-35", 12, Release),
    row(3360, 3378, "cpython-36", 12, Dev),
    row(3379, 3379, "cpython-36", 12, Release),
    row(3390, 3391, "cpython-37", 12, Dev),
    // 3392 is the first with the flags of PEP 552.
    row(3392, 3393, "cpython-37", 16, Dev),
    row(3394, 3394, "cpython-37", 16, Release),
    row(3400, 3412, "cpython-38", 16, Dev),
    row(3413, 3413, "cpython-38", 16, Release),
    row(3420, 3424, "cpython-39", 16, Dev),
    row(3425, 3425, "cpython-39", 16, Release),
    row(3430, 3438, "cpython-310", 16, Dev),
    row(3439, 3439, "cpython-310", 16, Release),
    row(3450, 3494, "cpython-311", 16, Dev),
    row(3495, 3495, "cpython-311", 16, Release),
    row(3500, 3530, "cpython-312", 16, Dev),
    row(3531, 3531, "cpython-312", 16, Release),
    row(3550, 3570, "cpython-313", 16, Dev),
    row(3571, 3571, "cpython-313", 16, Release),
    row(3600, 3626, "cpython-314", 16, Dev),
    row(3627, 3627, "cpython-314", 16, Release),
    row(3650, 3665, "cpython-315", 16, Dev),
    row(3666, 3666, "cpython-315", 16, Release),
    row(3700, 3749, "cpython-316", 16, Dev),
    row(21150, 21290, "graalpy", 16, Foreign),
    row(62171, 62201, "cpython-27", 8, Dev),
    // 62212 is 2.7 started with -U.
    row(62211, 62212, "cpython-27", 8, Release),
    row(62218, 62218, "pypy27", 8, Release),
];

/// Those that put their artifacts beside the sources, without a tag.
const UNTAGGED: [&str; 4] = ["cpython-27", "cpython-30", "cpython-31", "pypy27"];

/// The number in a magic, or `None` where the bytes `0D 0A` are not behind it.
pub fn number(magic: [u8; 4]) -> Option<u16> {
    let [low, high, cr, lf] = magic;
    (cr == b'\r' && lf == b'\n').then_some(u16::from_le_bytes([low, high]))
}

/// The four bytes of a number.
pub fn bytes(number: u16) -> [u8; 4] {
    let [low, high] = number.to_le_bytes();
    [low, high, b'\r', b'\n']
}

/// What is known of a number.
pub fn row_of(number: u16) -> Option<&'static Row> {
    ROWS.iter().find(|row| (row.first..=row.last).contains(&number))
}

/// Length of the header behind a number, known or not: a new number has the header of its neighbours.
pub fn header_len(number: u16) -> usize {
    match row_of(number) {
        Some(row) => row.header,
        None => match number {
            0..192 | 3210..3392 => 12,
            192..3000 | 3392..62000 => 16,
            3000..3210 | 62000.. => 8,
        },
    }
}

/// Does its interpreter know `PYTHONPYCACHEPREFIX`? It came with 3.8, whoever implements it.
pub fn knows_prefix(number: u16) -> bool {
    matches!(number, 256..3000 | 3400..62000)
}

/// Does its CPython take any value of a variable that is a switch for "on", also `0`? Up to 3.6.
pub fn has_plain_switches(number: u16) -> bool {
    matches!(number, 3000..3390 | 62000..)
}

/// Is it one of PyPy's for Python 3?
pub fn is_pypy3(number: u16) -> bool {
    number < 3000
}

/// Is it a tag, known or not: an implementation and a number? It must not be taken for a part of a module's name.
pub fn looks_like_tag(tag: &str) -> bool {
    ["cpython-", "pypy", "graalpy", "pyston-"]
        .iter()
        .filter_map(|name| tag.strip_prefix(name))
        .any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// Does an interpreter of this tag put its artifacts beside the sources, without a tag in the name?
pub fn is_untagged(tag: &str) -> bool {
    UNTAGGED.contains(&tag)
}

/// Is the tag in the table, whether or not names carry it?
pub fn is_listed(tag: &str) -> bool {
    ROWS.iter().any(|row| row.tag == tag && row.standing != Foreign)
}

/// A tag of the table that stands in names, shared: scanning a tree allocates none of its own.
pub fn known_tag(tag: &[u8]) -> Option<Arc<str>> {
    SHARED.iter().find(|known| known.as_bytes() == tag && !is_untagged(known)).cloned()
}

/// The table's own copy of a tag.
pub fn shared(tag: &str) -> Arc<str> {
    SHARED.iter().find(|known| &***known == tag).cloned().unwrap_or_else(|| Arc::from(tag))
}

static SHARED: LazyLock<Vec<Arc<str>>> = LazyLock::new(|| {
    let mut tags: Vec<&str> = ROWS.iter().filter(|row| row.standing != Foreign).map(|row| row.tag).collect();
    // PyPy 3.5 wrote the tag of its own version (`pypy3-60`), which no longer means anything.
    tags.retain(|tag| *tag != "pypy35");
    tags.sort_unstable();
    tags.dedup();
    tags.into_iter().map(Arc::from).collect()
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_ordered_and_does_not_overlap() {
        for pair in ROWS.windows(2) {
            let [a, b] = pair else { panic!("windows of two") };
            assert!(a.first <= a.last && a.last < b.first, "{a:?} {b:?}");
        }
        for row in ROWS {
            assert!([8, 12, 16].contains(&row.header));
            assert_eq!(header_len(row.first), row.header);
        }
    }

    #[test]
    fn releases_are_found_by_number() {
        for (number, tag, header) in
            [(62211, "cpython-27", 8), (3379, "cpython-36", 12), (3394, "cpython-37", 16), (3666, "cpython-315", 16), (432, "pypy311", 16)]
        {
            let row = row_of(number).unwrap();
            assert_eq!((row.tag, row.header, row.standing), (tag, header, Release));
        }
        // What no interpreter's own list says: other implementations, and versions that came after it was given up.
        for (first, last, tag, header, standing) in [
            (62212, 62212, "cpython-27", 8, Release),
            (62218, 62218, "pypy27", 8, Release),
            (3600, 3626, "cpython-314", 16, Dev),
            (3627, 3627, "cpython-314", 16, Release),
            (3650, 3665, "cpython-315", 16, Dev),
            (3700, 3749, "cpython-316", 16, Dev),
            (160, 160, "pypy36", 12, Dev),
            (192, 192, "pypy36", 12, Release),
            (224, 224, "pypy37", 16, Dev),
            (240, 240, "pypy37", 16, Release),
            (256, 256, "pypy38", 16, Release),
            (320, 320, "pypy39", 16, Release),
            (336, 336, "pypy39", 16, Release),
            (384, 384, "pypy310", 16, Release),
            (416, 416, "pypy311", 16, Release),
            (21150, 21290, "graalpy", 16, Foreign),
        ] {
            for number in [first, last] {
                let row = row_of(number).unwrap();
                assert_eq!((row.tag, row.header, row.standing), (tag, header, standing), "{number}");
            }
        }
        assert_eq!(row_of(21150).unwrap().standing, Foreign);
        assert!(row_of(0).is_none() && row_of(3667).is_none() && row_of(u16::MAX).is_none());
        assert_eq!(header_len(3801), 16);
    }

    #[test]
    fn tags_that_names_carry() {
        for tag in ["cpython-32", "cpython-36", "cpython-316", "pypy36", "pypy311"] {
            assert!(known_tag(tag.as_bytes()).is_some(), "{tag}");
        }
        for tag in ["cpython-27", "cpython-31", "cpython-317", "pypy312", "pypy35", "graalpy", "cpython-312-pytest-8", "", "\u{e9}"] {
            assert!(known_tag(tag.as_bytes()).is_none(), "{tag}");
        }
        for row in ROWS.iter().filter(|row| row.standing == Release) {
            let old = ["27", "30", "31", "32", "33", "34", "35", "36", "37"].iter().any(|version| row.tag.ends_with(version));
            assert_eq!(knows_prefix(row.first), !old, "{}", row.tag);
        }
        assert_eq!(number(bytes(3571)), Some(3571));
        assert_eq!(number([0; 4]), None);
    }
}
