//! What the parent knows of a source's text: the codec that its cookie names, and the line to quote in a message.
//!
//! The worker can open nothing, so all of it comes from the bytes that were compiled.

use super::interpreter::Interpreter;
use super::message::{Origin, SyntaxFault};
use crate::model::{CompileError, SourceFault};

/// How a source's bytes become text, as far as we decode it ourselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Text {
    Utf8,
    Latin1,
    /// A codec that only Python has: quoted lossily.
    Other,
}

const BOM: &[u8] = b"\xef\xbb\xbf";

/// The lines of a source as Python counts them, without their ends: LF, CR, CR LF. A form feed ends no line.
fn lines(source: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(source.strip_prefix(BOM).unwrap_or(source));
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = text.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
            rest = None;
            return Some(text);
        };
        let step = if text[end..].starts_with(b"\r\n") { 2 } else { 1 };
        rest = Some(&text[end + step..]);
        Some(&text[..end])
    })
}

/// The encoding that the cookie of PEP 263 names, in the first two lines.
fn cookie(source: &[u8]) -> Option<&[u8]> {
    for line in lines(source).take(2) {
        let blank = line.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b'\x0c'));
        let Some(start) = blank else { continue };
        if line[start] != b'#' {
            return None;
        }
        let mut comment = &line[start..];
        while let Some(at) = comment.windows(6).position(|word| word == b"coding") {
            comment = &comment[at + 6..];
            let Some(b':' | b'=') = comment.first() else { continue };
            let name = comment[1..].trim_ascii_start();
            let end = name.iter().position(|byte| !(byte.is_ascii_alphanumeric() || b"-_.".contains(byte))).unwrap_or(name.len());
            if end > 0 {
                return Some(&name[..end]);
            }
        }
    }
    None
}

/// An encoding that the tokenizer knows without a codec, by the rule of `get_normal_name`, or that the worker has loaded.
fn text(source: &[u8]) -> Text {
    let Some(name) = cookie(source) else { return Text::Utf8 };
    let name = String::from_utf8_lossy(name).to_ascii_lowercase().replace('_', "-");
    let is = |known: &str| name == known || name.strip_prefix(known).is_some_and(|rest| rest.starts_with('-'));
    if is("utf-8") || matches!(name.as_str(), "utf8" | "ascii") {
        Text::Utf8
    } else if is("latin-1") || is("iso-8859-1") || is("iso-latin-1") || name == "latin1" {
        Text::Latin1
    } else {
        Text::Other
    }
}

/// The codec that must be loaded before a worker can compile this source, where it needs one.
pub(super) fn codec(source: &[u8]) -> Option<String> {
    match text(source) {
        Text::Other => cookie(source).map(|name| String::from_utf8_lossy(name).into_owned()),
        Text::Utf8 | Text::Latin1 => None,
    }
}

/// A line as text, counted from 1.
fn line(source: &[u8], number: u64) -> Option<String> {
    let index = usize::try_from(number.checked_sub(1)?).ok()?;
    let bytes = lines(source).nth(index)?;
    Some(match text(source) {
        Text::Latin1 => bytes.iter().copied().map(char::from).collect(),
        Text::Utf8 | Text::Other => String::from_utf8_lossy(bytes).into_owned(),
    })
}

/// Does this version count the offset of such an error in bytes of UTF-8 (and not in characters)?
///
/// Found by trying: the compiler's later stages, which quote no line, count bytes in every `CPython`; the parser of 3.9 to 3.12 does as long
/// as the source has neither cookie nor byte order mark; 2.7 always does. `PyPy` counts characters.
fn counts_bytes(interpreter: &Interpreter, source: &[u8], origin: Origin) -> bool {
    let (major, minor, _) = interpreter.version;
    if interpreter.implementation != "cpython" {
        return false;
    }
    match origin {
        _ if major == 2 => true,
        Origin::Later => true,
        Origin::Parser => (9..=12).contains(&minor) && cookie(source).is_none() && !source.starts_with(BOM),
        Origin::Tokenizer => false,
    }
}

/// A column in characters, from 1.
fn column(quoted: &str, offset: u64, bytes: bool) -> u64 {
    let Some(before) = usize::try_from(offset).ok().and_then(|offset| offset.checked_sub(1)) else { return 1 };
    if !bytes || before > quoted.len() {
        return offset;
    }
    let characters = quoted.char_indices().take_while(|(at, _)| *at < before).count();
    characters as u64 + 1
}

/// What is wrong with a source, with its line quoted from its own bytes.
pub(super) fn syntax_fault(interpreter: &Interpreter, source: &[u8], fault: SyntaxFault) -> CompileError {
    let quoted = fault.line.and_then(|number| line(source, number));
    let bytes = counts_bytes(interpreter, source, fault.origin);
    // 3.6 and 3.7 count from 0 in the later stages, where the others count from 1.
    let from_zero = interpreter.implementation == "cpython" && (3, 0, 0) < interpreter.version && interpreter.version < (3, 8, 0);
    let shift = u64::from(from_zero && fault.origin == Origin::Later);
    let place = |offset: Option<u64>| {
        let offset = offset? + shift;
        let quoted = quoted.as_deref()?;
        (offset > 0).then(|| column(quoted, offset, bytes))
    };
    let start = place(fault.offset);
    let end = if fault.end_line == fault.line { place(fault.end_offset) } else { None };
    let end_column = end.filter(|end| start.is_some_and(|start| *end > start));
    CompileError::Source(Box::new(SourceFault { kind: fault.kind, text: fault.text, line: fault.line, column: start, end_column, quoted }))
}

/// A fault without a place.
pub(super) fn other_fault(kind: String, text: String) -> CompileError {
    let text = if text.is_empty() { kind.clone() } else { text };
    CompileError::Source(Box::new(SourceFault { kind, text, line: None, column: None, end_column: None, quoted: None }))
}

/// A source that does not fit into a request.
pub(super) fn too_long(len: usize) -> CompileError {
    other_fault("OverflowError".to_owned(), format!("{len} bytes are more than an interpreter is asked to compile"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_read_as_the_tokenizer_reads_them() {
        for (source, name) in [
            (&b"# -*- coding: cp1252 -*-\n"[..], Some(&b"cp1252"[..])),
            (b"#!/usr/bin/python\n# vim: set fileencoding=koi8-r :\n", Some(b"koi8-r")),
            (b"\x0c\t # coding=utf-8-sig", Some(b"utf-8-sig")),
            (b"\n\n# coding: cp1252\n", None),
            (b"x = 1\n# coding: cp1252\n", None),
            (b"x = 1 # coding: cp1252\n", None),
            (b"# coding cp1252 coding:\tx.y\r\n", Some(b"x.y")),
            (b"\r# coding: a\r", Some(b"a")),
            (b"\xef\xbb\xbf# coding: utf8", Some(b"utf8")),
            (b"# coding:", None),
            (b"", None),
        ] {
            assert_eq!(cookie(source), name, "{}", source.escape_ascii());
        }
    }

    #[test]
    fn only_strange_codecs_are_loaded() {
        for name in ["utf-8", "UTF_8", "utf-8-unix", "utf8", "Latin-1", "iso_8859_1-dos", "latin1", "ascii"] {
            assert_eq!(codec(format!("# coding: {name}\n").as_bytes()), None, "{name}");
        }
        for name in ["cp1252", "koi8-r", "utf-16", "us-ascii", "iso-8859-15", "l1", "utf-7"] {
            assert_eq!(codec(format!("# coding: {name}\n").as_bytes()).as_deref(), Some(name));
        }
    }

    #[test]
    fn lines_end_as_python_says() {
        let source = b"a\rb\r\nc\x0cd\ne";
        assert_eq!(lines(source).collect::<Vec<_>>(), [&b"a"[..], b"b", b"c\x0cd", b"e"]);
        assert_eq!(line(source, 3).as_deref(), Some("c\x0cd"));
        assert_eq!((line(source, 0), line(source, 9)), (None, None));
        assert_eq!(line(b"# coding: latin-1\nx = '\xe9'", 2).as_deref(), Some("x = 'é'"));
        assert_eq!(line(b"\xef\xbb\xbfx = 1", 1).as_deref(), Some("x = 1"));
    }

    #[test]
    fn columns_count_characters() {
        assert_eq!(column("éé = $", 8, true), 6);
        assert_eq!(column("éé = $", 6, false), 6);
        assert_eq!(column("abc", 90, true), 90);
        assert_eq!(column("abc", 0, true), 1);
    }
}
