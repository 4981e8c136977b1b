//! The answers of a worker, as values. Pure.

use std::time::Duration;

use super::frame::{self, FrameError};
use crate::model::{Made, Warning};

/// What a worker answers to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// Code.
    Made(Made),
    /// The source breaks the syntax.
    Syntax(SyntaxFault),
    /// Another exception.
    Other {
        /// Its class.
        kind: String,
        /// Its text.
        text: String,
    },
}

/// A `SyntaxError`, in the interpreter's own counting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SyntaxFault {
    pub(super) kind: String,
    pub(super) text: String,
    pub(super) line: Option<u64>,
    pub(super) offset: Option<u64>,
    pub(super) origin: Origin,
    pub(super) end_line: Option<u64>,
    pub(super) end_offset: Option<u64>,
}

/// What the exception quoted, which tells who raised it and so how its offset counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// No line: the compiler's later stages.
    Later,
    /// A line with its end: the parser.
    Parser,
    /// A line cut off at the error: the tokenizer.
    Tokenizer,
}

/// The request to compile, whole. `None`: the source is longer than a frame can be.
pub(super) fn request(id: u32, level: u8, filename: &[u8], source: &[u8]) -> Option<Vec<u8>> {
    frame::encode(id, b'C', &[&[level], filename, source])
}

/// Reads the body of an answer.
pub(super) fn answer(body: &[u8]) -> Result<Answer, FrameError> {
    let (kind, fields) = frame::fields(body)?;
    match (kind, fields.as_slice()) {
        (b'C', [code, took, warnings @ ..]) if !code.is_empty() && warnings.len().is_multiple_of(3) => {
            let mut seen: Vec<Warning> = Vec::new();
            for warning in warnings.chunks_exact(3) {
                let warning = Warning { kind: text(warning[0]), text: text(warning[1]), line: number(warning[2])?.unwrap_or_default() };
                // Code that is compiled twice (a `finally`) warns twice.
                if !seen.contains(&warning) {
                    seen.push(warning);
                }
            }
            let took = Duration::from_micros(number(took)?.unwrap_or_default());
            Ok(Answer::Made(Made { code: code.to_vec(), took, warnings: seen }))
        }
        (b'S', [kind, words, line, offset, origin, end_line, end_offset]) => Ok(Answer::Syntax(SyntaxFault {
            kind: text(kind),
            text: text(words),
            line: number(line)?.filter(|line| *line > 0),
            offset: number(offset)?,
            origin: match *origin {
                b"-" => Origin::Later,
                b"n" => Origin::Parser,
                b"t" => Origin::Tokenizer,
                _ => return Err(FrameError::Message),
            },
            end_line: number(end_line)?,
            end_offset: number(end_offset)?,
        })),
        (b'E', [kind, words]) => Ok(Answer::Other { kind: text(kind), text: text(words) }),
        _ => Err(FrameError::Message),
    }
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field).into_owned()
}

/// A number; negative ones and none mean "not known".
fn number(field: &[u8]) -> Result<Option<u64>, FrameError> {
    let text = std::str::from_utf8(field).map_err(|_| FrameError::Message)?;
    let digits = text.strip_prefix('-').unwrap_or(text);
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(FrameError::Message);
    }
    Ok(text.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(kind: u8, fields: &[&[u8]]) -> Vec<u8> {
        frame::encode(1, kind, fields).unwrap().split_off(16)
    }

    #[test]
    fn answers_are_read() {
        let made = answer(&body(b'C', &[b"code", b"1500", b"W", b"text", b"3", b"W", b"text", b"3"])).unwrap();
        let warning = Warning { kind: "W".into(), text: "text".into(), line: 3 };
        assert_eq!(made, Answer::Made(Made { code: b"code".to_vec(), took: Duration::from_micros(1500), warnings: vec![warning] }));
        let Answer::Syntax(fault) = answer(&body(b'S', &[b"SyntaxError", b"m", b"2", b"5", b"n", b"", b"-1"])).unwrap() else { panic!() };
        assert_eq!((fault.line, fault.offset, fault.end_line, fault.end_offset), (Some(2), Some(5), None, None));
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for body in [
            body(b'C', &[]),
            body(b'C', &[b""]),
            body(b'C', &[b"code"]),
            body(b'C', &[b"code", b"x"]),
            body(b'C', &[b"code", b"1", b"W"]),
            body(b'C', &[b"code", b"1", b"W", b"t", b"x"]),
            body(b'S', &[b"k"]),
            body(b'S', &[b"k", b"t", b"", b"", b"?", b"", b""]),
            body(b'E', &[b"k"]),
            body(b'?', &[]),
            Vec::new(),
        ] {
            assert_eq!(answer(&body), Err(FrameError::Message));
        }
    }
}
