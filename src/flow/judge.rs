//! Looking is apart from judging: `look` does the I/O and gathers [`Evidence`] to a depth, [`judge`] is a pure function from evidence
//! to a verdict. Racy times are decided here and nowhere else.

use std::io;

use crate::base::memo::Memo;
use crate::base::seal::{Artifact, Digest, SEAL_LEN, Seal};
use crate::base::source::{self, Source, SourceError};
use crate::base::sys::{self, Dir, Kind, Stat};
use crate::base::{Error, Flaw, FlawKind};
use crate::model::{Cause, Entry, Format, Head, Layout, Level, Mode, NO_MEMORY, Stamp, Target, Verdict};

/// Larger than any artifact that a source within reason can have: without a seal that says so, nothing of this size is read.
pub(super) const LARGEST: u64 = 256 << 20;
/// The largest source that is read to be compared.
const LARGEST_SOURCE: u64 = 1 << 30;
/// Up to this size a file is read as a whole, by one call.
const SMALL: u64 = 4 << 20;
/// So much of a larger one that has a seal is held at a time.
const PIECE: usize = 1 << 20;
/// Longest header.
const HEAD_LEN: usize = 16;
/// An artifact whose own time is not at least so many seconds after its source's is racy: an edit in the same second may hide.
const RACY_SECONDS: i64 = 2;

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// What a name and a few bytes tell: for removing.
    Name,
    /// Header against the source's `stat`; sealed: magic, label and length; unsealed: the structure, walked once and remembered.
    Quick,
    /// Every byte, and the source's too.
    Full,
}

/// Where an entry is looked for.
#[derive(Clone, Copy)]
pub(super) struct Spot<'a> {
    pub(super) format: &'a dyn Format,
    pub(super) layout: Layout,
    pub(super) sources: Option<&'a Dir>,
    pub(super) artifacts: Option<&'a Dir>,
    /// The interpreter that makes this entry, where it is at hand.
    pub(super) here: Option<&'a Target>,
    pub(super) memo: Option<&'a Memo>,
    pub(super) max_source: u64,
}

/// What was seen of a source.
#[derive(Debug)]
pub enum SourceSeen {
    /// There is none.
    Absent,
    /// There is something that cannot be used.
    Bad(Verdict, Cause),
    /// There is one.
    Seen {
        /// What it is, links resolved.
        stat: Stat,
        /// Digest of its bytes, where they were read.
        digest: Option<Digest>,
        /// The hash that a hash stamp would have, where its bytes were read for that.
        hash: Option<[u8; 8]>,
    },
}

/// What was seen of an artifact.
#[derive(Debug)]
pub enum ArtifactSeen {
    /// There is none.
    Absent,
    /// There is something that cannot be used.
    Bad(Verdict, Cause),
    /// There is one.
    Seen(Box<Seen>),
}

/// What was seen of an artifact that is a regular file.
#[derive(Debug)]
pub struct Seen {
    /// What it is.
    pub stat: Stat,
    /// Its header, or what is wrong with it.
    pub head: Result<Head, Flaw>,
    /// Its seal: none, or what is wrong with it.
    pub seal: Result<Option<Seal>, Flaw>,
    /// Does the seal's label fit the name? `None`: not sealed, or the name does not say the level.
    pub label_fits: Option<bool>,
    /// The structure, where it was walked.
    pub body: Option<Result<(), Flaw>>,
    /// The digest, where it was proved.
    pub proof: Option<Result<(), Flaw>>,
    /// Does a time stamp agree with the source, by the format's rule? `None`: a hash stamp, no source, or not asked.
    pub time_agrees: Option<bool>,
    /// Is the time stamp right, and one that its interpreter never finds to agree?
    pub in_vain: bool,
}

impl Seen {
    /// Does it carry a seal?
    pub fn is_sealed(&self) -> bool {
        matches!(self.seal, Ok(Some(_)))
    }

    fn head_stamp(&self) -> Option<Stamp> {
        self.head.as_ref().ok().map(|head| head.stamp)
    }
}

/// All that was seen of one entry.
#[derive(Debug)]
pub struct Evidence {
    /// The source.
    pub source: SourceSeen,
    /// The artifact.
    pub artifact: ArtifactSeen,
    /// Where the artifact stands.
    pub layout: Layout,
    /// The magic number that is wanted in it, where somebody will make it.
    pub wanted_magic: Option<[u8; 4]>,
    /// The invalidation mode that is wanted, where one is.
    pub wanted_mode: Option<Mode>,
}

impl Evidence {
    /// The artifact, where it is a regular file.
    pub fn seen(&self) -> Option<&Seen> {
        match &self.artifact {
            ArtifactSeen::Seen(seen) => Some(seen),
            _ => None,
        }
    }
}

/// A verdict with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// What is found.
    pub verdict: Verdict,
    /// Why, where there is more to say than the word.
    pub cause: Option<Cause>,
    /// Are the artifact's own bytes damaged? (An orphan may be damaged too.)
    pub damaged: bool,
}

/// Judges an entry by what was seen of it. Pure: no I/O, no clock.
pub fn judge(evidence: &Evidence) -> Judged {
    let plain = |verdict| Judged { verdict, cause: None, damaged: false };
    let with = |verdict, cause| Judged { verdict, cause: Some(cause), damaged: false };
    let seen = match &evidence.artifact {
        ArtifactSeen::Bad(verdict, cause) => return with(*verdict, cause.clone()),
        ArtifactSeen::Absent => {
            return match &evidence.source {
                SourceSeen::Bad(verdict, cause) => with(*verdict, cause.clone()),
                SourceSeen::Absent | SourceSeen::Seen { .. } => plain(Verdict::Missing),
            };
        }
        ArtifactSeen::Seen(seen) => seen,
    };
    let flaw = first_flaw(seen, evidence.wanted_magic);
    let without_source = match evidence.layout {
        Layout::Cache | Layout::Prefix => Verdict::Orphan,
        Layout::Beside => Verdict::Sourceless,
    };
    if let Some(flaw) = &flaw {
        let damaged = flaw.kind != FlawKind::Unknown;
        let verdict = match (&evidence.source, flaw.kind) {
            (_, FlawKind::Unknown) => Verdict::Unknown,
            (SourceSeen::Absent, _) => without_source,
            (_, FlawKind::Truncated) => Verdict::Truncated,
            (_, FlawKind::Corrupt) => Verdict::Corrupt,
            (_, FlawKind::BadMagic) => Verdict::BadMagic,
        };
        return Judged { verdict, cause: Some(Cause::from(flaw)), damaged };
    }
    match &evidence.source {
        SourceSeen::Absent => plain(without_source),
        SourceSeen::Bad(verdict, cause) => with(*verdict, cause.clone()),
        SourceSeen::Seen { digest, hash, .. } => {
            let Ok(head) = &seen.head else { return plain(Verdict::Corrupt) };
            let (verdict, cause) = fit(head, seen, *digest, *hash, evidence.wanted_mode);
            Judged { verdict, cause, damaged: false }
        }
    }
}

/// The first thing that is wrong with the artifact's own bytes, what is left alone first.
fn first_flaw(seen: &Seen, wanted_magic: Option<[u8; 4]>) -> Option<Flaw> {
    let seal_flaw = seen.seal.as_ref().err();
    if let Some(flaw) = seal_flaw.filter(|flaw| flaw.kind == FlawKind::Unknown) {
        return Some(flaw.clone());
    }
    let head = match &seen.head {
        Err(flaw) => return Some(flaw.clone()),
        Ok(head) => head,
    };
    if wanted_magic.is_some_and(|wanted| wanted != head.magic) {
        let text =
            format!("its magic number {} is not the one that this interpreter writes", u16::from_le_bytes([head.magic[0], head.magic[1]]));
        return Some(Flaw::new(FlawKind::BadMagic, "other-magic", text));
    }
    if let Some(flaw) = seal_flaw {
        return Some(flaw.clone());
    }
    if let Some(Err(flaw)) = &seen.proof {
        return Some(flaw.clone());
    }
    if seen.label_fits == Some(false) {
        let text = "it is sealed as the artifact of another interpreter or optimisation level";
        return Some(Flaw::new(FlawKind::Corrupt, "label", text));
    }
    match &seen.body {
        Some(Err(flaw)) => Some(flaw.clone()),
        _ => None,
    }
}

/// A whole artifact against its source.
fn fit(head: &Head, seen: &Seen, digest: Option<Digest>, hash: Option<[u8; 8]>, wanted: Option<Mode>) -> (Verdict, Option<Cause>) {
    let stamp = match head.stamp {
        Stamp::Time { .. } => seen.time_agrees,
        Stamp::Hash { hash: then, .. } => hash.map(|now| now == then),
    };
    let seal = seen.seal.as_ref().ok().and_then(Option::as_ref);
    let bytes = seal.and_then(|seal| digest.map(|now| now == seal.source));
    // An unchecked hash is believed at import, so nothing but a look at the source's bytes ever shows that it is stale.
    let believed = stamp == Some(true) || matches!(head.stamp, Stamp::Hash { checked: false, .. });
    let sound = if seen.is_sealed() { Verdict::Ok } else { Verdict::Unsealed };
    let verdict = match (stamp, bytes) {
        // Another one would be as much in vain.
        (Some(false), Some(true) | None) if seen.in_vain => sound,
        (Some(false), Some(true)) => Verdict::Misstamped,
        (Some(false), _) | (_, Some(false)) => {
            if believed {
                Verdict::SilentlyStale
            } else {
                Verdict::Stale
            }
        }
        (Some(true) | None, Some(true) | None) => sound,
    };
    let cause = match verdict {
        Verdict::Misstamped => Cause::new("stamp", "it was made from these very bytes, but its header says another time, size or hash"),
        Verdict::SilentlyStale => Cause::new("content", "it was made from other source bytes, and its header does not show it"),
        Verdict::Stale => Cause::new("changed", "the source has changed since it was made"),
        _ => {
            let Some(wanted) = wanted.filter(|wanted| *wanted != head.mode()) else { return (sound, seen.in_vain.then(|| in_vain(head))) };
            let text = format!("it is a {} artifact, and {} is wanted", head.mode().word(), wanted.word());
            // Without a seal nothing proves which bytes it was made from, so it cannot be given another stamp.
            let verdict = if sound == Verdict::Ok { Verdict::Misstamped } else { Verdict::Stale };
            return (verdict, Some(Cause::new("mode", text)));
        }
    };
    (verdict, Some(cause))
}

/// The code of [`in_vain`].
pub(super) const IN_VAIN: &str = "time";

/// Why an artifact in which nothing is wrong is of no use.
fn in_vain(head: &Head) -> Cause {
    let text = format!("its source's time is one that {} cannot keep, so it compiles the source at every import", head.tag);
    Cause::new(IN_VAIN, text)
}

/// Gathers what can be seen of an entry.
pub(super) fn look(spot: &Spot<'_>, entry: &Entry, depth: Depth) -> Evidence {
    let mut source = match spot.sources {
        Some(dir) => see_source(dir, entry),
        None => SourceSeen::Absent,
    };
    let artifact = match spot.artifacts {
        Some(dir) => see_artifact(spot, dir, entry, depth, &mut source),
        None => ArtifactSeen::Absent,
    };
    Evidence { source, artifact, layout: spot.layout, wanted_magic: None, wanted_mode: None }
}

fn see_source(dir: &Dir, entry: &Entry) -> SourceSeen {
    match source::look(dir, &entry.source) {
        Ok(stat) => SourceSeen::Seen { stat, digest: None, hash: None },
        // A dangling link is no source either: editors leave such links as their locks.
        Err(error) if error.is_gone() => SourceSeen::Absent,
        Err(error) => bad_source(&error),
    }
}

/// The verdict and the cause of a source that cannot be used.
pub(super) fn source_trouble(error: &SourceError) -> (Verdict, Cause) {
    let text = error.to_string();
    match error {
        SourceError::System(error) if error.is_gone() => {
            (Verdict::Unreadable, Cause::new("vanished", "the source vanished").at(&error.path))
        }
        SourceError::System(error) => (Verdict::Unreadable, Cause::from(error)),
        SourceError::Dangling { path } => (Verdict::Unreadable, Cause::new("dangling", text).at(path)),
        SourceError::NotAFile { path, .. } => (Verdict::Unsafe, Cause::new("not-a-file", text).at(path)),
        SourceError::ForeignLink { path } => (Verdict::Unsafe, Cause::new("foreign-link", text).at(path)),
        SourceError::TooLarge { path, .. } => (Verdict::Unreadable, Cause::new("too-large", text).at(path)),
        SourceError::Changing { path } => (Verdict::Unreadable, Cause::new("changing", text).at(path)),
    }
}

fn bad_source(error: &SourceError) -> SourceSeen {
    let (verdict, cause) = source_trouble(error);
    SourceSeen::Bad(verdict, cause)
}

fn see_artifact(spot: &Spot<'_>, dir: &Dir, entry: &Entry, depth: Depth, source: &mut SourceSeen) -> ArtifactSeen {
    // The path is put together only for an error.
    let named = |mut error: Error| {
        error.path = dir.path_of(&entry.artifact);
        error
    };
    match see_file(spot, dir, entry, depth, source).map_err(named) {
        Ok(seen) => seen,
        Err(error) if error.is_gone() => ArtifactSeen::Absent,
        Err(error) if is_link(&error) => unsafe_kind(Kind::Link),
        Err(error) if error.cause.raw_os_error() == Some(NO_SUCH_DEVICE) => unsafe_kind(Kind::Special),
        Err(error) => ArtifactSeen::Bad(Verdict::Unreadable, Cause::from(&error)),
    }
}

/// ENXIO: a socket was opened. The number is the same on all systems that this crate is built for.
const NO_SUCH_DEVICE: i32 = 6;

/// ELOOP: a link was met where none is followed.
fn is_link(error: &Error) -> bool {
    matches!(error.cause.raw_os_error(), Some(40 | 62)) && error.kind() != io::ErrorKind::NotFound
}

fn unsafe_kind(kind: Kind) -> ArtifactSeen {
    ArtifactSeen::Bad(
        Verdict::Unsafe,
        Cause::new("not-a-file", format!("it is {}, not a file, and is neither followed nor replaced", kind.noun())),
    )
}

fn see_file(spot: &Spot<'_>, dir: &Dir, entry: &Entry, depth: Depth, source: &mut SourceSeen) -> Result<ArtifactSeen, Error> {
    let path = dir.path();
    let file = dir.open_file(&entry.artifact)?;
    let stat = sys::stat(&file, path)?;
    if stat.kind != Kind::File {
        return Ok(unsafe_kind(stat.kind));
    }
    let whole = if depth == Depth::Full && stat.size <= SMALL { sys::read_all(&file, stat.size, LARGEST, path)? } else { None };
    let (head_bytes, tail_bytes) = match &whole {
        Some(bytes) => (bytes[..bytes.len().min(HEAD_LEN)].to_vec(), bytes[bytes.len().saturating_sub(SEAL_LEN)..].to_vec()),
        None => read_ends(&file, stat.size, path)?,
    };
    let len = whole.as_ref().map_or(stat.size, |bytes| bytes.len() as u64);
    let seal = Seal::parse(&tail_bytes, len);
    let mut head = spot.format.head(&head_bytes, entry.tag.as_deref(), spot.here);
    let is_known = !matches!(&head, Err(flaw) if flaw.kind == FlawKind::Unknown);
    if stat.size > LARGEST && is_known && !matches!(seal, Ok(Some(_))) {
        head = Err(Flaw::new(FlawKind::Corrupt, "too-large-artifact", format!("it has {} bytes, more than any artifact", stat.size)));
    }
    let label_fits = match (&seal, &head) {
        (Ok(Some(seal)), Ok(head)) => label_fits(spot.format, seal, head, entry),
        _ => None,
    };
    let mut seen = Seen { stat, head, seal, label_fits, body: None, proof: None, time_agrees: None, in_vain: false };
    if let (Ok(head), SourceSeen::Seen { stat, .. }) = (&seen.head, &*source)
        && depth != Depth::Name
    {
        seen.time_agrees = matches!(head.stamp, Stamp::Time { .. }).then(|| spot.format.agrees(head, stat));
        seen.in_vain = spot.format.is_in_vain(head, stat);
    }
    if depth == Depth::Full || needs_walk(&seen, depth) {
        match (whole, &seen.seal) {
            (Some(bytes), _) => walk_or_prove(spot, &mut seen, &bytes, path)?,
            (None, Ok(Some(seal))) => seen.proof = Some(prove_in_pieces(&file, seal, path)?),
            // What cannot be an artifact by its ends is not read.
            (None, Err(_)) => {}
            (None, Ok(None)) if seen.head.is_err() => {}
            (None, Ok(None)) if depth == Depth::Quick && spot.memo.is_some_and(|memo| memo.knows(&stat)) => {}
            (None, Ok(None)) => {
                let bytes = sys::read_all(&file, stat.size, LARGEST, path)?.unwrap_or_default();
                walk_or_prove(spot, &mut seen, &bytes, path)?;
            }
        }
    }
    if needs_source_bytes(&seen, source, depth) {
        read_source(spot, entry, &seen, source);
    }
    Ok(ArtifactSeen::Seen(Box::new(seen)))
}

/// The first 16 and the last 96 bytes.
fn read_ends(file: &std::fs::File, size: u64, path: &std::path::Path) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let mut head = [0; HEAD_LEN];
    let got = sys::read_at(file, &mut head, 0, path)?;
    let mut tail = [0; SEAL_LEN];
    let ended = sys::read_at(file, &mut tail, size.saturating_sub(SEAL_LEN as u64), path)?;
    Ok((head[..got].to_vec(), tail[..ended].to_vec()))
}

/// Hashes a large file without holding it.
fn prove_in_pieces(file: &std::fs::File, seal: &Seal, path: &std::path::Path) -> Result<Result<(), Flaw>, Error> {
    let mut proving = seal.proving();
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < seal.payload_len {
        let wanted = usize::try_from(seal.payload_len - at).map_or(PIECE, |left| left.min(PIECE));
        let got = sys::read_at(file, &mut piece[..wanted], at, path)?;
        if got == 0 {
            break;
        }
        proving.feed(&piece[..got]);
        at += got as u64;
    }
    Ok(proving.end())
}

/// The level that a seal's label says, for an artifact of this tag.
pub(super) fn labelled_level(format: &dyn Format, tag: &str, seal: &Seal) -> Option<u8> {
    (0..=2).find(|level| format.variants().iter().any(|variant| format.label(tag, *level, variant) == seal.label))
}

fn label_fits(format: &dyn Format, seal: &Seal, head: &Head, entry: &Entry) -> Option<bool> {
    let tag = entry.tag.as_deref().unwrap_or(&head.tag);
    let levels: &[u8] = match entry.level {
        Level::Known(0) => &[0],
        Level::Known(1) => &[1],
        Level::Known(2) => &[2],
        Level::Known(_) => return None,
        // `.pyo` is level 1 or 2 alike.
        Level::Other => &[1, 2],
    };
    let fits = levels.iter().any(|level| format.variants().iter().any(|variant| format.label(tag, *level, variant) == seal.label));
    Some(fits)
}

/// Must the structure of an unsealed artifact be walked? Not where its header already says that it will be made anew.
fn needs_walk(seen: &Seen, depth: Depth) -> bool {
    depth == Depth::Quick && matches!(seen.seal, Ok(None)) && seen.head.is_ok() && (seen.time_agrees != Some(false) || seen.in_vain)
}

fn walk_or_prove(spot: &Spot<'_>, seen: &mut Seen, bytes: &[u8], path: &std::path::Path) -> Result<(), Error> {
    match (&seen.seal, &seen.head) {
        (Ok(Some(_)), _) => seen.proof = Some(Artifact::split(bytes).and_then(|artifact| artifact.prove())),
        (Ok(None), Ok(head)) => {
            let body = spot.format.body(head, bytes);
            if body.as_ref().is_err_and(|flaw| flaw.code == NO_MEMORY) {
                return Err(Error::new("look through", path, io::ErrorKind::OutOfMemory));
            }
            if let (Ok(()), Some(memo)) = (&body, spot.memo) {
                memo.add(&seen.stat);
            }
            seen.body = Some(body);
        }
        _ => {}
    }
    Ok(())
}

/// Must the source's bytes be read to judge?
///
/// The header has whole seconds, so an edit within the second in which the artifact was made hides behind an equal size. The artifact's
/// own time was taken before its source was opened; a source that is not clearly older than that is compared by its bytes.
fn needs_source_bytes(seen: &Seen, source: &SourceSeen, depth: Depth) -> bool {
    let SourceSeen::Seen { stat, .. } = source else { return false };
    let Some(stamp) = seen.head_stamp() else { return false };
    match (depth, seen.is_sealed(), stamp) {
        (Depth::Name, _, _) => false,
        (_, false, Stamp::Time { .. }) => false,
        (_, _, Stamp::Hash { .. }) | (Depth::Full, true, _) => true,
        (Depth::Quick, true, Stamp::Time { .. }) => {
            let racy = stat.mtime > seen.stat.mtime.minus_seconds(RACY_SECONDS);
            racy || seen.time_agrees == Some(false)
        }
    }
}

fn read_source(spot: &Spot<'_>, entry: &Entry, seen: &Seen, source: &mut SourceSeen) {
    let Some(dir) = spot.sources else { return };
    // Verifying judges what is there, however large; the limit is for compiling.
    let limit = spot.max_source.max(LARGEST_SOURCE);
    match Source::read(dir, &entry.source, limit) {
        Ok(read) => {
            let hash = match &seen.head {
                Ok(head) if matches!(head.stamp, Stamp::Hash { .. }) => Some(spot.format.source_hash(head.magic, &read.bytes)),
                _ => None,
            };
            *source = SourceSeen::Seen { stat: read.stat, digest: Some(read.digest), hash };
        }
        Err(error) if error.is_gone() => *source = SourceSeen::Absent,
        Err(error) => *source = bad_source(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::sys::Time;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn stat() -> Stat {
        let time = Time { sec: 100, nsec: 0 };
        Stat { dev: 1, ino: 2, kind: Kind::File, mode: 0o644, uid: 0, gid: 0, nlink: 1, size: 200, mtime: time, ctime: time }
    }

    fn evidence(
        stamp: Stamp,
        sealed_of: Option<&[u8]>,
        time_agrees: Option<bool>,
        source: Option<&[u8]>,
        hash: Option<[u8; 8]>,
    ) -> Evidence {
        let seal = sealed_of.map(|bytes| Seal::over(b"payload", Digest::of(bytes), [0; 8], false));
        let head = Head { magic: *b"abcd", tag: Arc::from("cpython-313"), len: 16, stamp };
        let (head, seal) = (Ok(head), Ok(seal));
        let seen = Seen { stat: stat(), head, seal, label_fits: None, body: None, proof: None, time_agrees, in_vain: false };
        let source = SourceSeen::Seen { stat: stat(), digest: source.map(Digest::of), hash };
        Evidence { source, artifact: ArtifactSeen::Seen(Box::new(seen)), layout: Layout::Cache, wanted_magic: None, wanted_mode: None }
    }

    const TIME: Stamp = Stamp::Time { mtime: 100, size: Some(3) };
    const CHECKED: Stamp = Stamp::Hash { checked: true, hash: [1; 8] };
    const UNCHECKED: Stamp = Stamp::Hash { checked: false, hash: [1; 8] };

    #[test]
    fn a_whole_artifact_against_its_source() {
        let rows: &[(&str, Evidence, Verdict)] = &[
            ("sealed, agrees, bytes not read", evidence(TIME, Some(b"new"), Some(true), None, None), Verdict::Ok),
            ("sealed, agrees, bytes equal", evidence(TIME, Some(b"new"), Some(true), Some(b"new"), None), Verdict::Ok),
            ("sealed, agrees, other bytes", evidence(TIME, Some(b"old"), Some(true), Some(b"new"), None), Verdict::SilentlyStale),
            ("sealed, disagrees, bytes equal", evidence(TIME, Some(b"new"), Some(false), Some(b"new"), None), Verdict::Misstamped),
            ("sealed, disagrees, other bytes", evidence(TIME, Some(b"old"), Some(false), Some(b"new"), None), Verdict::Stale),
            ("unsealed, agrees", evidence(TIME, None, Some(true), None, None), Verdict::Unsealed),
            ("unsealed, disagrees", evidence(TIME, None, Some(false), None, None), Verdict::Stale),
            ("checked hash, equal", evidence(CHECKED, None, None, Some(b"new"), Some([1; 8])), Verdict::Unsealed),
            ("checked hash, other", evidence(CHECKED, None, None, Some(b"new"), Some([2; 8])), Verdict::Stale),
            ("unchecked hash, other", evidence(UNCHECKED, None, None, Some(b"new"), Some([2; 8])), Verdict::SilentlyStale),
            (
                "sealed unchecked hash, other bytes",
                evidence(UNCHECKED, Some(b"old"), None, Some(b"new"), Some([2; 8])),
                Verdict::SilentlyStale,
            ),
            ("sealed checked hash, other bytes", evidence(CHECKED, Some(b"old"), None, Some(b"new"), Some([2; 8])), Verdict::Stale),
            (
                "sealed hash, right bytes, wrong hash",
                evidence(CHECKED, Some(b"new"), None, Some(b"new"), Some([2; 8])),
                Verdict::Misstamped,
            ),
        ];
        for (name, evidence, verdict) in rows {
            assert_eq!(judge(evidence).verdict, *verdict, "{name}");
        }
    }

    #[test]
    fn another_mode_than_wanted_is_misstamped_where_a_seal_proves_the_bytes() {
        let mut sealed = evidence(TIME, Some(b"new"), Some(true), None, None);
        sealed.wanted_mode = Some(Mode::UncheckedHash);
        assert_eq!(judge(&sealed).verdict, Verdict::Misstamped);
        let mut unsealed = evidence(TIME, None, Some(true), None, None);
        unsealed.wanted_mode = Some(Mode::UncheckedHash);
        assert_eq!(judge(&unsealed).verdict, Verdict::Stale);
    }

    #[test]
    fn damage_comes_before_staleness_and_unknown_before_all() {
        let flaw = |kind| Flaw::new(kind, "code", "text");
        let mut bad = evidence(TIME, None, Some(false), None, None);
        let ArtifactSeen::Seen(seen) = &mut bad.artifact else { unreachable!() };
        seen.body = Some(Err(flaw(FlawKind::Truncated)));
        let judged = judge(&bad);
        assert_eq!((judged.verdict, judged.damaged), (Verdict::Truncated, true));
        bad.source = SourceSeen::Absent;
        let judged = judge(&bad);
        assert_eq!((judged.verdict, judged.damaged), (Verdict::Orphan, true));
        bad.layout = Layout::Beside;
        assert_eq!(judge(&bad).verdict, Verdict::Sourceless);
        let ArtifactSeen::Seen(seen) = &mut bad.artifact else { unreachable!() };
        seen.seal = Err(flaw(FlawKind::Unknown));
        let judged = judge(&bad);
        assert_eq!((judged.verdict, judged.damaged), (Verdict::Unknown, false));
    }

    proptest! {
        /// A slow, obvious statement of what the verdict of a sealed time-stamped artifact means.
        #[test]
        fn a_sealed_verdict_says_what_import_would_do(agrees: bool, same: bool) {
            let digest_of: &[u8] = if same { b"new" } else { b"old" };
            let verdict = judge(&evidence(TIME, Some(digest_of), Some(agrees), Some(b"new"), None)).verdict;
            let import_uses_it = agrees;
            prop_assert_eq!(matches!(verdict, Verdict::Ok | Verdict::SilentlyStale), import_uses_it);
            prop_assert_eq!(matches!(verdict, Verdict::Ok | Verdict::Misstamped), same);
        }
    }
}
