//! What parent and worker say to each other: frames over a pair of pipes, and the messages in them. Pure; no I/O.
//!
//! A frame is magic (4), length of the body (u32), request id (u32), CRC-32 over length, id and body (u32), body; little-endian.
//! A body is a kind (one byte) and fields, each a length (u32) and its bytes.

use crate::base::seam::without;

/// The first bytes of a frame.
const MAGIC: [u8; 4] = *b"\x8bBKf";
const HEAD: usize = 16;

/// The longest body: a bound on what a broken worker can make us keep.
pub const LONGEST: usize = 1 << 30;

/// A frame that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Which request it belongs to.
    pub id: u32,
    /// The message.
    pub body: Vec<u8>,
}

/// A stream that is not one of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first bytes are not a frame's.
    #[error("answered garbage")]
    Garbage,
    /// The checksum does not fit.
    #[error("answered a torn frame")]
    Checksum,
    /// Longer than any answer may be.
    #[error("answered a frame of {0} bytes")]
    TooLong(u32),
    /// The message in it is not one.
    #[error("answered something that is no message")]
    Message,
}

/// The four bytes at `at`; the caller has seen that they are there.
fn word(bytes: &[u8], at: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(four)
}

/// One frame around `body`. `None`: the body is longer than a frame may be.
pub fn encode(id: u32, kind: u8, fields: &[&[u8]]) -> Option<Vec<u8>> {
    let len = 1 + fields.iter().map(|field| 4 + field.len()).sum::<usize>();
    if len > LONGEST {
        return None;
    }
    let mut frame = Vec::with_capacity(HEAD + len);
    frame.extend_from_slice(&MAGIC);
    frame.extend_from_slice(&u32::try_from(len).ok()?.to_le_bytes());
    frame.extend_from_slice(&id.to_le_bytes());
    frame.extend_from_slice(&[0; 4]);
    frame.push(kind);
    for field in fields {
        frame.extend_from_slice(&u32::try_from(field.len()).ok()?.to_le_bytes());
        frame.extend_from_slice(field);
    }
    let sum = checksum(&frame);
    frame[12..HEAD].copy_from_slice(&sum.to_le_bytes());
    Some(frame)
}

/// The checksum of a whole frame: over everything but the magic and itself.
fn checksum(frame: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&frame[4..12]);
    sum.update(&frame[HEAD..]);
    sum.finalize()
}

/// Puts frames together again, however the stream was split.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
}

impl Decoder {
    /// Takes what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame; `None` while it is not whole yet. After an error the stream is of no more use.
    pub fn take(&mut self) -> Result<Option<Frame>, FrameError> {
        let seen = self.buffer.len().min(MAGIC.len());
        if self.buffer[..seen] != MAGIC[..seen] {
            return Err(FrameError::Garbage);
        }
        if self.buffer.len() < HEAD {
            return Ok(None);
        }
        let len = word(&self.buffer, 4);
        let Some(end) = usize::try_from(len).ok().filter(|len| *len <= LONGEST).map(|len| HEAD + len) else {
            return Err(FrameError::TooLong(len));
        };
        if self.buffer.len() < end {
            return Ok(None);
        }
        let rest = self.buffer.split_off(end);
        let mut frame = std::mem::replace(&mut self.buffer, rest);
        if checksum(&frame) != word(&frame, 12) && !without("frame-checksum") {
            return Err(FrameError::Checksum);
        }
        let id = word(&frame, 8);
        frame.drain(..HEAD);
        Ok(Some(Frame { id, body: frame }))
    }

    /// Did the stream end inside a frame?
    pub fn is_torn(&self) -> bool {
        !self.buffer.is_empty()
    }
}

/// Takes a body apart: its kind and its fields.
pub fn fields(body: &[u8]) -> Result<(u8, Vec<&[u8]>), FrameError> {
    let (kind, mut rest) = body.split_first().ok_or(FrameError::Message)?;
    let mut fields = Vec::new();
    while !rest.is_empty() {
        if rest.len() < 4 {
            return Err(FrameError::Message);
        }
        let len = usize::try_from(word(rest, 0)).map_err(|_| FrameError::Message)?;
        rest = &rest[4..];
        if rest.len() < len {
            return Err(FrameError::Message);
        }
        let (field, tail) = rest.split_at(len);
        fields.push(field);
        rest = tail;
    }
    Ok((*kind, fields))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_field_that_ends_early_is_an_error() {
        let frame = encode(1, b'x', &[b"abc", b""]).unwrap();
        let body = &frame[HEAD..];
        assert_eq!(fields(body).unwrap(), (b'x', vec![&b"abc"[..], b""]));
        // A cut right behind the kind or behind a field leaves a message with fewer fields, which its reader refuses.
        for cut in [0, 2, 3, 4, 5, 6, 7, 9, 10, 11] {
            assert!(fields(&body[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn a_length_beyond_the_bound_is_refused_before_anything_is_kept() {
        let mut decoder = Decoder::default();
        decoder.push(&MAGIC);
        decoder.push(&u32::MAX.to_le_bytes());
        decoder.push(&[0; 8]);
        assert_eq!(decoder.take(), Err(FrameError::TooLong(u32::MAX)));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_frames(
            messages in prop::collection::vec((any::<u32>(), any::<u8>(), prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..4)), 0..6),
            cuts in prop::collection::vec(1usize..40, 1..200),
        ) {
            let mut stream = Vec::new();
            for (id, kind, parts) in &messages {
                let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
                stream.extend(encode(*id, *kind, &parts).unwrap());
            }
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            let mut rest = &stream[..];
            let mut cuts = cuts.iter().cycle();
            while !rest.is_empty() {
                let cut = (*cuts.next().unwrap()).min(rest.len());
                decoder.push(&rest[..cut]);
                rest = &rest[cut..];
                while let Some(frame) = decoder.take().unwrap() {
                    seen.push(frame);
                }
            }
            prop_assert!(!decoder.is_torn());
            prop_assert_eq!(seen.len(), messages.len());
            for (frame, (id, kind, parts)) in seen.iter().zip(&messages) {
                prop_assert_eq!(frame.id, *id);
                let (seen_kind, seen_parts) = fields(&frame.body).unwrap();
                prop_assert_eq!(seen_kind, *kind);
                prop_assert_eq!(seen_parts, parts.iter().map(Vec::as_slice).collect::<Vec<_>>());
            }
        }

        #[test]
        fn a_changed_byte_is_never_an_answer(body in prop::collection::vec(any::<u8>(), 0..60), at in any::<prop::sample::Index>(), flip in 1u8..=255) {
            let mut frame = encode(7, b'x', &[&body]).unwrap();
            let at = at.index(frame.len());
            frame[at] ^= flip;
            let mut decoder = Decoder::default();
            decoder.push(&frame);
            // A longer length only waits for more: the time limit ends that.
            prop_assert!(!matches!(decoder.take(), Ok(Some(_))));
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            let answer = decoder.take();
            prop_assert!(answer.is_err() || answer == Ok(None));
            prop_assert!(fields(&bytes).is_ok() || fields(&bytes) == Err(FrameError::Message));
        }
    }
}
