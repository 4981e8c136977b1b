//! One artifact's bytes looked through to the end, sound or not: for whoever wants to know what is wrong with it and how it came to be so.
//! What is found decides nothing: verdicts are `judge`'s.

use crate::base::seal::{self, Artifact, SEAL_LEN, Seal};
use crate::base::shape::{self, Known, Mark};
use crate::base::source::Source;
use crate::base::sys::{Name, Time};
use crate::base::whereabouts::{self, Whereabouts};
use crate::base::{Flaw, FlawKind, keep};
use crate::model::{Cause, Format, Head, Stamp, Verdict};

/// All that one artifact's bytes say.
#[derive(Debug)]
pub struct Examined<'a> {
    /// The bytes without the seal, as far as that can be told.
    pub payload: &'a [u8],
    /// The header, where it can be read.
    pub head: Option<Head>,
    /// The seal, where there is one that can be read.
    pub seal: Option<Seal>,
    /// The structure, where the header says how to read it.
    pub structure: Option<Result<(), Flaw>>,
    /// All that is wrong: with the seal, with its digest, with the header, with the structure.
    pub flaws: Vec<Flaw>,
    /// Where in the code the first wrong byte lies, in names: see [`Format::way`].
    pub way: Option<String>,
    /// What the bytes tell of how they were damaged; nothing where they are not.
    pub shape: Vec<Mark>,
}

/// Looks through an artifact. `tag` is the one that its name says, `source` the name of its source, where these are known.
pub fn examine<'a>(format: &dyn Format, bytes: &'a [u8], tag: Option<&str>, source: Option<&Name>) -> Examined<'a> {
    let mut flaws = Vec::new();
    let artifact = Artifact::split(bytes).map_err(|flaw| flaws.push(flaw)).ok();
    let seal = artifact.and_then(|artifact| artifact.seal);
    if let Some(flaw) = artifact.and_then(|artifact| artifact.prove().err()) {
        flaws.push(flaw);
    }
    // A seal that contradicts its payload is still none of it.
    let behind = if bytes.ends_with(&seal::MAGIC) { SEAL_LEN } else { 0 };
    let payload = bytes.get(..bytes.len().saturating_sub(behind)).unwrap_or_default();
    let head = format.head(&payload[..payload.len().min(16)], tag, None);
    let structure = head.as_ref().ok().map(|head| format.deep_body(head, payload));
    let broken = head.as_ref().err().or(structure.as_ref().and_then(|structure| structure.as_ref().err())).cloned();
    flaws.extend(broken.clone());
    let head = head.ok();
    let offset = broken.as_ref().and_then(|flaw| flaw.offset);
    let way = head.as_ref().zip(offset).and_then(|(head, offset)| format.way(head, payload, offset, source));
    // What is only unknown is not damaged.
    let is_damaged = flaws.iter().any(|flaw| flaw.kind != FlawKind::Unknown);
    let shape = if is_damaged {
        let beginnings = format.beginnings(bytes);
        shape::shape(bytes, &Known { header: head.as_ref().map(|head| head.len), flaw: broken.as_ref(), beginnings: &beginnings })
    } else {
        Vec::new()
    };
    Examined { payload, head, seal, structure, flaws, way, shape }
}

/// Does what an artifact says of its source fit that source?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fits {
    /// The header; `None`: it cannot be read.
    pub header: Option<bool>,
    /// Is the source's time one that this header cannot keep? Then the artifact is right and of no use.
    pub in_vain: bool,
    /// The digest in the seal; `None`: there is no seal that can be read.
    pub digest: Option<bool>,
}

/// Holds a header and a seal against a source.
pub fn fits(format: &dyn Format, head: Option<&Head>, seal: Option<&Seal>, source: &Source) -> Fits {
    let in_vain = head.is_some_and(|head| format.is_in_vain(head, &source.stat));
    let header = head.map(|head| match head.stamp {
        Stamp::Time { .. } => in_vain || format.agrees(head, &source.stat),
        Stamp::Hash { hash, .. } => format.source_hash(head.magic, &source.bytes) == hash,
    });
    Fits { header, in_vain, digest: seal.map(|seal| source.digest == seal.source) }
}

/// What a report is about, besides the bytes.
pub(super) struct About<'a> {
    pub(super) verdict: Verdict,
    pub(super) cause: Option<&'a Cause>,
    /// Does the seal carry the label of what the name says, where both say something?
    pub(super) label_fits: Option<bool>,
    /// The source against what the artifact says of it; or why it cannot be held against it.
    pub(super) source: Result<Fits, Cause>,
    pub(super) stands: &'a Whereabouts,
}

/// The report that is kept beside a copy of what was bad, one fact a line.
pub(super) fn report(about: &About<'_>, examined: Option<&Examined<'_>>) -> String {
    let mut text = String::new();
    let mut line = |word: &str, said: &str| text.extend([format!("{word:<10} {}\n", keep::one_line(said))]);
    line("verdict", about.verdict.word());
    if let Some(cause) = about.cause {
        line("cause", &cause.text);
    }
    match examined {
        Some(examined) => {
            if let Some(head) = &examined.head {
                line("header", &shown(head));
            }
            match &examined.seal {
                None => line("seal", "none that can be read"),
                Some(seal) => {
                    let origin = if seal.adopted { "adopted: it does not prove their origin" } else { "written by bytekeep" };
                    let label = match about.label_fits {
                        Some(true) => ", its label fits the name",
                        Some(false) => ", its label does not fit the name: the artifact belongs elsewhere",
                        None => "",
                    };
                    line("seal", &format!("over {} bytes, {origin}{label}", seal.payload_len));
                    line("made from", &format!("BLAKE3 {}", seal.source.hex()));
                }
            }
            line("source", &shown_source(&about.source));
            for flaw in &examined.flaws {
                line("flaw", &Cause::from(flaw).text);
            }
            if let Some(way) = &examined.way {
                line("in", way);
            }
            for mark in &examined.shape {
                line("shape", &mark.text);
                line("often by", mark.hint);
            }
        }
        None => line("shape", "not told: it is too large to look through"),
    }
    let stands = about.stands;
    line("file", &format!("{} bytes, {}", stands.file.size, whereabouts::owner(&stands.file)));
    line("", &whereabouts::times(&stands.file, stands.file_birth));
    line("directory", &whereabouts::owner(&stands.dir));
    line("", &whereabouts::times(&stands.dir, stands.dir_birth));
    if let Some(remark) = stands.remark() {
        line("remark", &remark);
    }
    text
}

fn shown(head: &Head) -> String {
    let magic = u16::from_le_bytes([head.magic[0], head.magic[1]]);
    let says = match head.stamp {
        Stamp::Time { mtime, size } => {
            let (day, time) = Time { sec: mtime.into(), nsec: 0 }.calendar();
            format!("{day} {time} UTC{}", size.map(|size| format!(", {size} bytes")).unwrap_or_default())
        }
        Stamp::Hash { hash, .. } => format!("hash {}", hash.map(|byte| format!("{byte:02x}")).concat()),
    };
    format!("magic {magic} of {}, {}: source of {says}", head.tag, head.mode().word())
}

fn shown_source(source: &Result<Fits, Cause>) -> String {
    let fits = match source {
        Ok(fits) => fits,
        Err(cause) => return format!("not compared: {}", cause.text),
    };
    let word = |fits: Option<bool>, what: &str| match fits {
        Some(true) => format!(", fits the {what}"),
        Some(false) => format!(", does not fit the {what}"),
        None => String::new(),
    };
    format!("there{}{}", word(fits.header, "header"), word(fits.digest, "seal"))
}
