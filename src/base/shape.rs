//! The shape of damage: what the bytes of a broken file tell of how they came to be so. A pure function of the bytes and of what is
//! known of them; for whoever hunts the culprit. Nothing is concluded from it: a verdict never hangs on a shape.

use super::seal::{self, Artifact, SEAL_LEN};
use super::{Flaw, FlawKind};

/// What memory and most file systems write at once.
const PAGE: usize = 4096;
/// What the oldest disks write at once: nothing smaller is lost by one.
const SECTOR: usize = 512;
/// So many bytes before or behind a lost block may have been zeros all along.
const SLACK: usize = 64;
/// So many zeros at the end are no accident of what a compiler writes: the room that 3.11 leaves behind an instruction has up to 20.
const TAIL: usize = 32;
/// So close behind a boundary an error is told to lie behind it.
const CLOSE: usize = 256;
/// The most places of one kind that are told one by one.
const MOST: usize = 8;

/// One thing that is seen in the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// A stable word for programs: `empty`, `header-only`, `zeros`, `cut`, `hole`, `two-writers`…
    pub code: &'static str,
    /// A sentence fragment for people, lower case, with its offsets.
    pub text: String,
    /// Where it begins, in bytes from the start of the file.
    pub from: u64,
    /// Where it ends: the first byte behind it.
    pub to: u64,
    /// What commonly does this.
    pub hint: &'static str,
}

/// What is known of the bytes beside themselves.
#[derive(Debug, Clone, Copy, Default)]
pub struct Known<'a> {
    /// The length of the header, where one could be read.
    pub header: Option<usize>,
    /// What is wrong with the structure, where something is.
    pub flaw: Option<&'a Flaw>,
    /// Where else than at byte 0 something begins that looks like an artifact.
    pub beginnings: &'a [usize],
}

const LOST: &str = "a power cut or a crash before the data reached the disk (nothing was flushed), or a copy that left holes";
const SHORT: &str = "a full disk, a quota or a limit on file sizes (Pythons before 3.14 take a short write for a whole one and rename it \
    into place), or a copy that was interrupted";
const KILLED: &str = "a writer that was killed while it wrote in place, or a copy that was interrupted";
const WRITERS: &str = "two writers at once, or one over the work of another, in place and without a lock (Python 2.7, `rsync --inplace`, \
    `tar` over a tree in use)";
const APPENDED: &str = "an append, or a shorter file that was written over a longer one without cutting it first";
const ROTTEN: &str = "a disk or memory that loses bits, or somebody who edited it in place";
const MIXED: &str = "two writers at once, a block of another file, or a disk or memory that loses bits";
const NO_ARTIFACT: &str = "a placeholder of git-lfs, an error page of a download, or a source under a wrong name";

/// Tells the shape of a file that is known to be damaged. Of a sound one it would tell what is no damage.
pub fn shape(bytes: &[u8], known: &Known<'_>) -> Vec<Mark> {
    let len = bytes.len();
    if len == 0 {
        return vec![mark("empty", (0, 0), "it is empty".to_owned(), LOST)];
    }
    if bytes.iter().all(|byte| *byte == 0) {
        return vec![mark("zeros", (0, len), format!("all its {len} bytes are zeros: its length was kept, its data was not"), LOST)];
    }
    if known.header == Some(len) {
        let text = format!("it ends right behind its header of {len} bytes; Python fails on it for ever and does not mend it");
        return vec![mark("header-only", (len, len), text, SHORT)];
    }
    let mut marks = Vec::new();
    marks.extend(text_start(bytes, known));
    marks.extend(zeros(bytes, known));
    marks.extend(strangers(bytes, known));
    // Two files in one are told once.
    let is_told = marks.iter().any(|mark| mark.code == "two-writers");
    marks.extend(ending(bytes, known).filter(|end| !is_told || end.code != "two-writers"));
    if marks.is_empty() {
        marks.push(changed(len, known));
    }
    marks
}

fn mark(code: &'static str, (from, to): (usize, usize), text: String, hint: &'static str) -> Mark {
    Mark { code, text, from: from as u64, to: to as u64, hint }
}

/// ` (a multiple of 4096)`, where it is one of a page or a sector.
fn boundary(at: usize) -> String {
    match [PAGE, SECTOR].into_iter().find(|block| at != 0 && at.is_multiple_of(*block)) {
        Some(block) => format!(" (a multiple of {block})"),
        None => String::new(),
    }
}

/// Text where a header belongs. It is not shown: by a link this may be a file that only root can read.
fn text_start(bytes: &[u8], known: &Known<'_>) -> Option<Mark> {
    let start = &bytes[..bytes.len().min(40)];
    let line = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let is_text = line.len() >= 4 && line.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\r' | b'\t'));
    let is_pointer = line.starts_with(b"version https://git-lfs");
    let text = if is_pointer { "it is a pointer of Git LFS, not the file itself" } else { "it begins with text" };
    (known.header.is_none() && is_text).then(|| mark("text", (0, line.len()), text.to_owned(), NO_ARTIFACT))
}

/// Whole blocks of zeros, and zeros up to the end.
fn zeros(bytes: &[u8], known: &Known<'_>) -> Vec<Mark> {
    let len = bytes.len();
    let error = known.flaw.and_then(|flaw| flaw.offset).and_then(|offset| usize::try_from(offset).ok());
    let mut marks = Vec::new();
    let (mut more, mut last) = (0_usize, (0, 0));
    let mut at = 0;
    while let Some(skipped) = bytes[at..].iter().position(|byte| *byte == 0) {
        let from = at + skipped;
        let to = bytes[from..].iter().position(|byte| *byte != 0).map_or(len, |run| from + run);
        at = to;
        let Some((from, to, block)) = lost(from, to, len, error) else { continue };
        if marks.len() >= MOST {
            more += 1;
            last = (if more == 1 { from } else { last.0 }, to);
            continue;
        }
        let number = to - from;
        let where_to = if to == len { "to its end".to_owned() } else { format!("to {}{}", to, boundary(to)) };
        let lies = match block {
            Some(block) => format!("{} of {block} bytes", plural(number.div_ceil(block), "whole block")),
            None => "not along blocks".to_owned(),
        };
        let text = format!("{number} bytes are zeros, from byte {from}{} {where_to}: {lies}", boundary(from));
        marks.push(mark("zeros", (from, to), text, if block.is_some() || to == len { LOST } else { ROTTEN }));
    }
    if more > 0 {
        marks.push(mark("zeros", last, format!("{more} more runs of zeros follow, up to byte {}", last.1), LOST));
    }
    marks
}

/// The part of a run of zeros that was lost in whole blocks, and their size; or the whole run where it reaches the end or has the error in it.
fn lost(from: usize, to: usize, len: usize, error: Option<usize>) -> Option<(usize, usize, Option<usize>)> {
    for block in [PAGE, SECTOR] {
        let start = from.next_multiple_of(block);
        let end = if to == len { to } else { to - to % block };
        let whole = end.checked_sub(start).is_some_and(|part| part >= block || to == len && part >= TAIL);
        if whole && start - from < SLACK && to - end < SLACK {
            return Some((start, end, Some(block)));
        }
    }
    let reaches_end = to == len && to - from >= TAIL;
    let is_the_error = to - from >= SECTOR && error.is_some_and(|error| from <= error && error <= to);
    (reaches_end || is_the_error).then_some((from, to, None))
}

/// What belongs to another file: its beginning or its seal in the middle of this one.
fn strangers(bytes: &[u8], known: &Known<'_>) -> Vec<Mark> {
    let len = bytes.len();
    let mut marks = Vec::new();
    for &at in known.beginnings.iter().take(MOST) {
        marks.push(mark("two-writers", (at, len), format!("another artifact begins at byte {at}{}", boundary(at)), WRITERS));
    }
    let mut told = 0;
    for at in seals(bytes) {
        let Some(end) = at.checked_add(SEAL_LEN).filter(|end| *end < len && told < MOST) else { continue };
        let Some(payload) = seal::claimed_payload(&bytes[..end]) else { continue };
        told += 1;
        let is_whole = payload == at as u64 && Artifact::split(&bytes[..end]).is_ok_and(|first| first.prove().is_ok());
        if is_whole {
            let text = format!("its first {end} bytes are a whole artifact with its seal; {} bytes of something else follow", len - end);
            marks.push(mark("two-writers", (end, len), text, WRITERS));
        } else {
            let text = format!("the seal of another artifact, of {payload} bytes, stands at byte {at}");
            marks.push(mark("two-writers", (at, end), text, WRITERS));
        }
    }
    marks
}

/// Where seals stand by their last bytes.
fn seals(bytes: &[u8]) -> impl Iterator<Item = usize> {
    let first = seal::MAGIC[0];
    let candidates = bytes.iter().enumerate().filter(move |(_, byte)| **byte == first).map(|(at, _)| at);
    candidates.filter(|at| bytes[*at..].starts_with(&seal::MAGIC)).filter_map(|at| (at + seal::MAGIC.len()).checked_sub(SEAL_LEN))
}

/// What its end tells: cut, something missing before its seal, something behind its code.
fn ending(bytes: &[u8], known: &Known<'_>) -> Option<Mark> {
    let len = bytes.len();
    let trailing = known.flaw.filter(|flaw| flaw.code == "trailing").and_then(|flaw| usize::try_from(flaw.offset?).ok());
    if let Some(payload) = seal::claimed_payload(bytes) {
        let here = (len - SEAL_LEN) as u64;
        let at = known.flaw.and_then(|flaw| flaw.offset).map(|offset| format!("; it goes wrong at byte {offset}")).unwrap_or_default();
        return match (payload.checked_sub(here), trailing) {
            (Some(0), Some(end)) => {
                let text = format!("its code ends at byte {end} and its seal is that of {payload} bytes: the tail of a longer artifact");
                Some(mark("two-writers", (end, len), text, WRITERS))
            }
            (Some(0), None) => None,
            (Some(missing), _) => {
                let text = format!("{missing} bytes are missing before its seal, which says {payload} and stands behind {here}{at}");
                Some(mark("hole", (0, len - SEAL_LEN), text, "a copy that left out a part, or a tool that took it for text"))
            }
            (None, _) => {
                let text = format!("{} bytes too many stand before its seal, which says {payload}{at}", here - payload);
                Some(mark("extra", (0, len - SEAL_LEN), text, "a tool that took it for text and changed its line ends, or two writers"))
            }
        };
    }
    // A seal that is cut says how long the payload was, in its first bytes. Fewer than all eight are believed where the code ends there.
    let least = if known.flaw.is_some_and(|flaw| flaw.code == "cut-seal") { 1 } else { 8 };
    let cut_seal = (least..SEAL_LEN).rev().filter_map(|part| Some((part, len.checked_sub(part)?))).find(|(part, start)| {
        let (there, wanted) = (bytes.get(*start..).unwrap_or_default(), (*start as u64).to_le_bytes());
        there.iter().zip(&wanted).take(*part).all(|(there, wanted)| there == wanted)
    });
    if let Some((part, start)) = cut_seal {
        let text = format!("its seal is cut at byte {len}{}: {} bytes are missing, {part} are there", boundary(len), SEAL_LEN - part);
        return Some(mark("cut", (start, len), text, if boundary(len).is_empty() { KILLED } else { SHORT }));
    }
    let flaw = known.flaw?;
    if let Some(end) = trailing {
        let text = format!("{} bytes follow its code, which ends at byte {end}{}", len.saturating_sub(end), boundary(end));
        return Some(mark("trailing", (end, len), text, APPENDED));
    }
    if flaw.kind != FlawKind::Truncated {
        return None;
    }
    let (place, hint) = match boundary(len) {
        none if none.is_empty() => (", at no block's boundary".to_owned(), KILLED),
        multiple => (multiple, SHORT),
    };
    let text = format!("it ends at byte {len}{place}; how many bytes are missing is not known");
    Some(mark("cut", (len, len), text, hint))
}

/// Nothing of all that: bytes were changed where they stand.
fn changed(len: usize, known: &Known<'_>) -> Mark {
    let error = known.flaw.and_then(|flaw| flaw.offset).and_then(|offset| usize::try_from(offset).ok()).filter(|error| *error < len);
    match error {
        Some(0) => {
            let text = "nothing is cut and no block is zeroed, and its very first bytes are wrong".to_owned();
            mark("changed", (0, len), text, "another program's file under this name, or a disk or memory that loses bits")
        }
        Some(error) if known.flaw.is_some_and(|flaw| flaw.kind == FlawKind::Truncated) => {
            let text =
                format!("its seal counts {error} bytes, which are here, and its code goes on beyond them: it is another's, or was changed");
            mark("changed", (0, error), text, MIXED)
        }
        Some(error) if error >= PAGE && error % PAGE < CLOSE => {
            let page = error - error % PAGE;
            let text = format!(
                "the first error, at byte {error}, lies right behind a multiple of {PAGE}: what stands from {page} on may be another file's"
            );
            mark("changed", (page, len), text, MIXED)
        }
        Some(error) => {
            let text = format!("nothing is cut and no block is zeroed: bytes were changed at or before byte {error}");
            mark("changed", (0, error), text, ROTTEN)
        }
        None => mark("changed", (0, len), "nothing is cut and no block is zeroed: bytes were changed somewhere".to_owned(), ROTTEN),
    }
}

fn plural(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::super::seal::{Digest, sealed};
    use super::*;
    use proptest::prelude::*;

    /// A sealed file of about 10 kB without zeros but in its seal.
    fn whole() -> Vec<u8> {
        let payload = (0..10_000_u32).map(|n| u8::try_from(n % 251).unwrap() + 1).collect();
        sealed(payload, Digest::of(b"src"), [1; 8], false)
    }

    fn told(bytes: &[u8], flaw: Option<&Flaw>) -> Vec<(&'static str, u64, u64)> {
        let known = Known { header: Some(16), flaw, beginnings: &[] };
        shape(bytes, &known).into_iter().map(|mark| (mark.code, mark.from, mark.to)).collect()
    }

    fn cut_at(len: usize) -> Flaw {
        Flaw::new(FlawKind::Truncated, "cut", "it ends before its code does").at(len as u64)
    }

    #[test]
    fn what_is_not_there() {
        assert_eq!(told(b"", None), [("empty", 0, 0)]);
        assert_eq!(told(&[7; 16], None), [("header-only", 16, 16)]);
        assert_eq!(told(&[0; 5000], None), [("zeros", 0, 5000)]);
        let whole = whole();
        assert_eq!(told(&whole[..8192], Some(&cut_at(8192))), [("cut", 8192, 8192)]);
        let first = |bytes: &[u8], error: usize| {
            let flaw = cut_at(error);
            shape(bytes, &Known { header: Some(16), flaw: Some(&flaw), beginnings: &[] }).remove(0)
        };
        let text = |len: usize| first(&whole[..len], len);
        assert!(text(8192).text.contains("a multiple of 4096") && text(8192).hint.contains("full disk"));
        assert!(text(512).text.contains("a multiple of 512"));
        assert!(text(8191).text.contains("no block's boundary") && !text(8191).hint.contains("full disk"));
        // The seal says how long it was.
        assert_eq!(told(&whole[..10_020], None), [("cut", 10_000, 10_020)]);
        assert!(text(10_020).text.contains("76 bytes are missing"));
        let holed = [&whole[..3000], &whole[4000..]].concat();
        let hole = first(&holed, 9000);
        assert!(hole.code == "hole" && hole.text.contains("1000 bytes are missing"), "{hole:?}");
        assert_eq!(told(&[&whole[..3000], b"more", &whole[3000..]].concat(), None)[0].0, "extra");
    }

    #[test]
    fn what_is_zeroed_from_where_to_where() {
        for (from, to, block) in [(4096, 8192, "1 whole block of 4096"), (512, 2048, "3 whole blocks of 512")] {
            let mut bytes = whole();
            bytes[from..to].fill(0);
            let marks = shape(&bytes, &Known { header: Some(16), ..Known::default() });
            assert_eq!(marks.iter().map(|mark| (mark.code, mark.from, mark.to)).collect::<Vec<_>>(), [("zeros", from as u64, to as u64)]);
            assert!(marks[0].text.contains(block), "{}", marks[0].text);
        }
        let mut tail = whole();
        tail[4096..].fill(0);
        let marks = told(&tail, None);
        assert_eq!(marks, [("zeros", 4096, 10_096)]);
        let mut odd = whole();
        odd[5001..].fill(0);
        assert_eq!(told(&odd, None), [("zeros", 5001, 10_096)]);
        // A constant of zeros is none of these; where the first error lies in it, it is told.
        let mut inside = whole();
        inside[1000..1700].fill(0);
        assert_eq!(told(&inside, None)[0].0, "changed");
        assert_eq!(told(&inside, Some(&Flaw::new(FlawKind::Corrupt, "zeroed", "").at(1000))), [("zeros", 1000, 1700)]);
    }

    #[test]
    fn two_files_in_one() {
        let whole = whole();
        let other = sealed(vec![9; 300], Digest::of(b"other"), [2; 8], false);
        let mut over = whole.clone();
        over[..other.len()].copy_from_slice(&other);
        let marks = shape(&over, &Known { header: Some(16), ..Known::default() });
        assert_eq!((marks[0].code, marks[0].from), ("two-writers", 396), "{marks:?}");
        assert!(marks[0].text.contains("first 396 bytes are a whole artifact"));
        let at_its_end = Flaw::new(FlawKind::Corrupt, "trailing", "").at(300);
        assert_eq!(told(&over, Some(&at_its_end)), [("two-writers", 396, 10_096)], "told once");
        let flaw = Flaw::new(FlawKind::Corrupt, "trailing", "").at(5000);
        assert_eq!(told(&whole, Some(&flaw)), [("two-writers", 5000, 10_096)]);
        assert_eq!(told(&whole[..9000], Some(&flaw)), [("trailing", 5000, 9000)]);
        let begins = shape(&whole, &Known { header: Some(16), beginnings: &[4096], ..Known::default() });
        assert!(begins[0].text.contains("begins at byte 4096 (a multiple of 4096)"), "{begins:?}");
    }

    #[test]
    fn nothing_of_all_that() {
        let whole = whole();
        assert_eq!(told(&whole, None), [("changed", 0, 10_096)]);
        let at = |offset| Flaw::new(FlawKind::Corrupt, "type-code", "").at(offset);
        assert_eq!(told(&whole, Some(&at(5000))), [("changed", 0, 5000)]);
        assert_eq!(told(&whole, Some(&at(4100))), [("changed", 4096, 10_096)]);
        assert_eq!(told(&whole, Some(&cut_at(10_000))), [("changed", 0, 10_000)]);
        let text = shape(b"version https://git-lfs.github.com/spec/v1\n", &Known::default());
        assert!(text[0].code == "text" && text[0].text.contains("Git LFS"), "{text:?}");
        let text = shape(b"TOKEN = 'secret'\n", &Known::default());
        assert!(text[0].code == "text" && !text[0].text.contains("secret"), "{text:?}");
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_shape(
            runs in proptest::collection::vec((proptest::sample::select(&[0_u8, 0x8B, b'a'][..]), 1_usize..900), 0..30),
            offset in proptest::option::of(0_u64..20_000),
            beginnings in proptest::collection::vec(0_usize..20_000, 0..20),
        ) {
            let bytes: Vec<u8> = runs.iter().flat_map(|(byte, len)| std::iter::repeat_n(*byte, *len)).collect();
            for code in ["trailing", "cut"] {
                let flaw = offset.map(|offset| Flaw::new(FlawKind::Truncated, code, "").at(offset));
                let marks = shape(&bytes, &Known { header: None, flaw: flaw.as_ref(), beginnings: &beginnings });
                prop_assert!(!marks.is_empty() && marks.len() <= 3 * MOST + 3);
            }
        }
    }
}
