//! One artifact's bytes looked through to the end, sound or not: for whoever wants to know what is wrong with it and how it came to be so.
//! What is found decides nothing: verdicts are `judge`'s.

use std::path::Path;
use std::sync::Arc;

use crate::base::seal::{self, Artifact, SEAL_LEN, Seal};
use crate::base::shape::{self, Known, Mark};
use crate::base::sys::{Dir, Name};
use crate::base::whereabouts::{self, Whereabouts};
use crate::base::{Flaw, FlawKind};
use crate::model::{Cause, Entry, Format, Head, Verdict};

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

/// A bad artifact before it goes, for whoever tells of it in a form of their own.
#[derive(Debug, Clone, Copy)]
pub struct Bad<'a> {
    /// Where it stands: absolute.
    pub path: &'a Path,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// What it is called, and what for.
    pub entry: &'a Entry,
    /// The directory of its source, where there is one.
    pub sources: Option<&'a Arc<Dir>>,
    /// Whose it is, and since when.
    pub stands: &'a Whereabouts,
    /// What was found.
    pub verdict: Verdict,
    /// Why.
    pub cause: Option<&'a Cause>,
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

/// The report that is kept beside a copy of what was bad, one fact a line.
pub(super) fn report(verdict: Verdict, cause: Option<&Cause>, examined: Option<&Examined<'_>>, stands: Option<&Whereabouts>) -> String {
    let mut text = String::new();
    let mut line = |word: &str, said: &str| text.extend([format!("{word:<10} {}\n", crate::base::keep::one_line(said))]);
    line("verdict", verdict.word());
    if let Some(cause) = cause {
        line("cause", &cause.text);
    }
    match examined {
        Some(examined) => {
            if let Some(head) = &examined.head {
                line("header", &format!("{}, {}", head.tag, head.mode().word()));
            }
            line("seal", if examined.seal.is_some() { "there" } else { "none that can be read" });
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
    if let Some(stands) = stands {
        line("file", &format!("{} bytes, {}", stands.file.size, whereabouts::owner(&stands.file)));
        line("", &whereabouts::times(&stands.file, stands.file_birth));
        line("directory", &whereabouts::owner(&stands.dir));
        line("", &whereabouts::times(&stands.dir, stands.dir_birth));
        if let Some(remark) = stands.remark() {
            line("remark", &remark);
        }
    }
    text
}
