//! Frames as they are described, and two readers of them: one that does what a pipe seems to promise, and one that does not trust it. The
//! first must fail on spoiled streams and the second must not, else the streams prove nothing.
//!
//! A frame: magic (4), length of the body, id, CRC-32 over length, id and body (4 each, little-endian), body.

use crate::run::Tally;

pub(crate) const HEAD: usize = 16;
const MAGIC: &[u8] = b"\x8bBKf";

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_le_bytes)
}

pub(crate) fn checksum(frame: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&frame[4..12]);
    sum.update(&frame[HEAD..]);
    sum.finalize()
}

/// How long the first frame is, where it is whole.
pub(crate) fn whole(bytes: &[u8]) -> Option<usize> {
    let len = HEAD + usize::try_from(word(bytes, 4)).ok()?;
    (bytes.len() >= HEAD && bytes.len() >= len).then_some(len)
}

/// Where each frame of a good stream ends.
pub(crate) fn ends(stream: &[u8]) -> Vec<usize> {
    let mut all = Vec::new();
    let mut at = 0;
    while let Some(len) = whole(&stream[at..]) {
        at += len;
        all.push(at);
    }
    all
}

type Answers = Vec<(u32, Vec<u8>)>;

/// Reads once for each frame and believes what it got: `data = os.read(fd, 65536)`.
fn naive(reads: &[Vec<u8>]) -> Answers {
    let mut all = Vec::new();
    for mut rest in reads.iter().map(Vec::as_slice) {
        while rest.len() >= HEAD {
            let end = usize::try_from(word(rest, 4)).map_or(rest.len(), |len| (HEAD + len).min(rest.len()));
            all.push((word(rest, 8), rest[HEAD..end].to_vec()));
            rest = &rest[end..];
        }
    }
    all
}

/// Reads until a frame is whole, checks it, and stops at the first that is none.
fn careful(reads: &[Vec<u8>]) -> Answers {
    let (mut all, mut held) = (Vec::new(), Vec::new());
    for read in reads {
        held.extend_from_slice(read);
        while let Some(len) = whole(&held) {
            let frame: Vec<u8> = held.drain(..len).collect();
            if frame[..4] != *MAGIC || checksum(&frame) != word(&frame, 12) {
                return all;
            }
            all.push((word(&frame, 8), frame[HEAD..].to_vec()));
        }
    }
    all
}

/// The reads of a stream that is spoiled at a byte.
type Spoil<'a> = dyn Fn(usize) -> Vec<Vec<u8>> + 'a;

/// The same streams that the product is given, at every byte.
pub(crate) fn prove(stream: &[u8], tally: &Tally) {
    let truth = careful(&[stream.to_vec()]);
    let spoils: [(&str, bool, &Spoil<'_>); 5] = [
        ("dies", false, &|at| vec![stream[..at].to_vec()]),
        ("flips", false, &|at| {
            let mut all = stream.to_vec();
            all[at] ^= 1 << (at % 8);
            vec![all]
        }),
        ("prints", false, &|at| vec![[&stream[..at], b"Traceback\n", &stream[at..]].concat()]),
        ("pauses", true, &|at| vec![stream[..at].to_vec(), stream[at..].to_vec()]),
        ("slow", true, &|_| stream.iter().map(|byte| vec![*byte]).collect()),
    ];
    for (name, harmless, spoil) in spoils {
        let mut wrong = [0, 0];
        for at in 0..stream.len() {
            for (reader, wrong) in [naive(&spoil(at)), careful(&spoil(at))].iter().zip(&mut wrong) {
                // what was answered must be true; nothing may be missing where nothing was spoiled
                *wrong += usize::from(!truth.starts_with(reader) || (harmless && *reader != truth));
            }
        }
        println!("workers: readers, {name}: a naive one is wrong at {} of {} bytes, a careful one at {}", wrong[0], stream.len(), wrong[1]);
        tally.checked(2);
        if wrong[0] == 0 {
            tally.violation(&format!("a naive reader is never wrong when a worker {name}"), "workers --case readers");
        }
        if wrong[1] > 0 {
            tally.violation(&format!("a careful reader is wrong when a worker {name}"), "workers --case readers");
        }
    }
}
