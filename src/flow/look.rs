//! Looking at an entry: the I/O that gathers the [`Evidence`] for a verdict, to a depth. Whether a source's time is racy is decided here
//! and nowhere else.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::base::memo::Memo;
use crate::base::seal::{Artifact, SEAL_LEN, Seal};
use crate::base::source::{self, Source, SourceError};
use crate::base::sys::{self, Dir, Kind, Stat};
use crate::base::{Error, Flaw, FlawKind, seam};
use crate::model::{Cause, Entry, Format, Head, Layout, Level, NO_MEMORY, Stamp, Target, Verdict};

use super::judge::{ArtifactSeen, Evidence, Seen, SourceSeen};

/// Larger than any artifact that a source within reason can have: without a seal that says so, nothing of this size is read. Walking one
/// takes up to three times as much memory.
pub(super) const LARGEST: u64 = 192 << 20;
/// The largest source that is read to be compared.
pub(super) const LARGEST_SOURCE: u64 = 128 << 20;
/// Up to this size a file is read as a whole, by one call.
const SMALL: u64 = 4 << 20;
/// So much of a larger one that has a seal is held at a time.
const PIECE: usize = 1 << 20;
/// Longest header.
const HEAD_LEN: usize = 16;
/// An artifact whose own time is not at least so many seconds after its source's is racy: an edit in the same second may hide.
const RACY_SECONDS: i64 = 2;

/// Held by whoever holds a large file as a whole: a tree may have many, and as many threads would take memory for each.
static LARGE: Mutex<()> = Mutex::new(());

/// One after the other, where a file of this size is read as a whole.
pub(super) fn in_turn(size: u64) -> Option<MutexGuard<'static, ()>> {
    (size > SMALL && !seam::without("turns")).then(|| LARGE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// What a name and a few bytes tell: for removing.
    Name,
    /// Header against the source's `stat`; sealed: magic, label and length; unsealed: the structure, walked once and remembered.
    Quick,
    /// Every byte, and the source's too; unsealed: as deep into the body as the format knows it.
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
    /// Does it do to know that there is work? Then no source is read only to tell a wrong stamp from an edit.
    pub(super) hasty: bool,
}

/// Gathers what can be seen of an entry. Where the source was read for that and is not large, it is handed on as `kept`.
pub(super) fn look(spot: &Spot<'_>, entry: &Entry, depth: Depth, kept: &mut Option<Source>) -> Evidence {
    let mut source = match spot.sources {
        Some(dir) => see_source(dir, entry),
        None => SourceSeen::Absent { dangling: false },
    };
    let artifact = match spot.artifacts {
        Some(dir) => see_artifact(spot, dir, entry, depth, &mut source, kept),
        None => ArtifactSeen::Absent,
    };
    Evidence { source, artifact, layout: spot.layout, wanted_magic: None, wanted_mode: None }
}

fn see_source(dir: &Dir, entry: &Entry) -> SourceSeen {
    match source::look(dir, &entry.source) {
        Ok(stat) => SourceSeen::Seen { stat, digest: None, hash: None },
        Err(error) if error.is_absent() => absent(&error),
        Err(error) => bad_source(&error),
    }
}

fn absent(error: &SourceError) -> SourceSeen {
    SourceSeen::Absent { dangling: matches!(error, SourceError::Dangling { .. }) }
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

fn see_artifact(
    spot: &Spot<'_>,
    dir: &Dir,
    entry: &Entry,
    depth: Depth,
    source: &mut SourceSeen,
    kept: &mut Option<Source>,
) -> ArtifactSeen {
    // The path is put together only for an error.
    let named = |mut error: Error| {
        error.path = dir.path_of(&entry.artifact);
        error
    };
    match see_file(spot, dir, entry, depth, source, kept).map_err(named) {
        Ok(seen) => seen,
        // A lost handle (NFS) does not say that it is not there.
        Err(error) if error.is_absent() => ArtifactSeen::Absent,
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

fn see_file(
    spot: &Spot<'_>,
    dir: &Dir,
    entry: &Entry,
    depth: Depth,
    source: &mut SourceSeen,
    kept: &mut Option<Source>,
) -> Result<ArtifactSeen, Error> {
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
        (Ok(Some(seal)), Ok(head)) => {
            label_fits(spot.format, seal, entry.tag.as_deref().unwrap_or(&head.tag), named_level(spot, entry, head))
        }
        _ => None,
    };
    let mut seen = Seen { stat, head, seal, label_fits, body: None, proof: None, time_agrees: None, in_vain: false, outrun: false };
    if let (Ok(head), SourceSeen::Seen { stat, .. }) = (&seen.head, &*source)
        && depth != Depth::Name
    {
        seen.time_agrees = matches!(head.stamp, Stamp::Time { .. }).then(|| spot.format.agrees(head, stat));
        seen.in_vain = spot.format.is_in_vain(head, stat);
        seen.outrun = seen.time_agrees == Some(true) && !seen.is_sealed() && is_outrun(&seen.stat, stat);
    }
    if depth == Depth::Full || needs_walk(&seen, depth) {
        match (whole, &seen.seal) {
            (Some(bytes), _) => walk_or_prove(spot, depth, &mut seen, &bytes, path)?,
            (None, Ok(Some(seal))) => seen.proof = Some(prove_in_pieces(&file, seal, path)?),
            // What cannot be an artifact by its ends is not read.
            (None, Err(_)) => {}
            (None, Ok(None)) if seen.head.is_err() => {}
            (None, Ok(None)) if depth == Depth::Quick && spot.memo.is_some_and(|memo| memo.knows(&stat)) => {}
            (None, Ok(None)) => {
                let _turn = in_turn(stat.size);
                let bytes = sys::read_all(&file, stat.size, LARGEST, path)?.unwrap_or_default();
                walk_or_prove(spot, depth, &mut seen, &bytes, path)?;
            }
        }
    }
    if needs_source_bytes(&seen, source, depth) && !(spot.hasty && is_open(&seen)) {
        *kept = read_source(spot, entry, &seen, source).filter(|read| read.stat.size <= SMALL);
    }
    Ok(ArtifactSeen::Seen(Box::new(seen)))
}

/// The same of an artifact that was read as a whole, and a source too: every byte is looked at.
pub(super) fn of_bytes(spot: &Spot<'_>, entry: &Entry, stat: Stat, bytes: &[u8], source: &Source) -> Evidence {
    let head = spot.format.head(&bytes[..bytes.len().min(HEAD_LEN)], entry.tag.as_deref(), spot.here);
    let split = Artifact::split(bytes);
    let proof = split.as_ref().ok().filter(|artifact| artifact.seal.is_some()).map(Artifact::prove);
    let seal = split.map(|artifact| artifact.seal);
    let (mut label_fit, mut time_agrees, mut in_vain, mut hash, mut body) = (None, None, false, None, None);
    if let Ok(head) = &head {
        if let Ok(Some(seal)) = &seal {
            label_fit = label_fits(spot.format, seal, entry.tag.as_deref().unwrap_or(&head.tag), named_level(spot, entry, head));
        } else {
            body = Some(spot.format.deep_body(head, bytes));
        }
        match head.stamp {
            Stamp::Time { .. } => time_agrees = Some(spot.format.agrees(head, &source.stat)),
            Stamp::Hash { .. } => hash = Some(spot.format.source_hash(head.magic, &source.bytes)),
        }
        in_vain = spot.format.is_in_vain(head, &source.stat);
    }
    let outrun = time_agrees == Some(true) && matches!(seal, Ok(None)) && is_outrun(&stat, &source.stat);
    let seen = Seen { stat, head, seal, label_fits: label_fit, body, proof, time_agrees, in_vain, outrun };
    let source = SourceSeen::Seen { stat: source.stat, digest: Some(source.digest), hash };
    Evidence { source, artifact: ArtifactSeen::Seen(Box::new(seen)), layout: spot.layout, wanted_magic: None, wanted_mode: None }
}

/// Was the source written to after the artifact, and within one second? Where the artifact's time has no fraction, or is of another
/// second, somebody has set it (archives do), and it says nothing.
pub(super) fn is_outrun(artifact: &sys::Stat, source: &sys::Stat) -> bool {
    artifact.mtime < source.mtime && artifact.mtime.sec == source.mtime.sec && artifact.mtime.nsec != 0
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

/// The level that an artifact's name says. `None`: it says none, as beside the sources where others belong into a directory of their own
/// (`compileall -b`), unless it is known what is to be made there.
fn named_level(spot: &Spot<'_>, entry: &Entry, head: &Head) -> Option<Level> {
    let is_guest = spot.layout == Layout::Beside && entry.maker.is_none() && spot.format.layout(&head.target()) != Layout::Beside;
    (!is_guest).then_some(entry.level)
}

/// The level that a seal's label says, for an artifact of this tag.
pub(super) fn labelled_level(format: &dyn Format, tag: &str, seal: &Seal) -> Option<u8> {
    (0..=2).find(|level| format.variants().iter().any(|variant| format.label(tag, *level, variant) == seal.label))
}

/// Does a seal's label fit what the artifact's name says? `None`: the name says a level that nobody makes.
pub(crate) fn label_fits(format: &dyn Format, seal: &Seal, tag: &str, level: impl Into<Option<Level>>) -> Option<bool> {
    let levels: &[u8] = match level.into() {
        None => &[0, 1, 2],
        Some(Level::Known(0)) => &[0],
        Some(Level::Known(1)) => &[1],
        Some(Level::Known(2)) => &[2],
        Some(Level::Known(_)) => return None,
        // `.pyo` is level 1 or 2 alike.
        Some(Level::Other) => &[1, 2],
    };
    let fits = levels.iter().any(|level| format.variants().iter().any(|variant| format.label(tag, *level, variant) == seal.label));
    Some(fits)
}

/// Must the structure of an unsealed artifact be walked? Not where its header already says that it will be made anew.
fn needs_walk(seen: &Seen, depth: Depth) -> bool {
    depth == Depth::Quick && matches!(seen.seal, Ok(None)) && seen.head.is_ok() && (seen.time_agrees != Some(false) || seen.in_vain)
}

fn walk_or_prove(spot: &Spot<'_>, depth: Depth, seen: &mut Seen, bytes: &[u8], path: &std::path::Path) -> Result<(), Error> {
    match (&seen.seal, &seen.head) {
        (Ok(Some(_)), _) => seen.proof = Some(Artifact::split(bytes).and_then(|artifact| artifact.prove())),
        (Ok(None), Ok(head)) => {
            let body = if depth == Depth::Full { spot.format.deep_body(head, bytes) } else { spot.format.body(head, bytes) };
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
        (Depth::Quick, true, Stamp::Time { .. }) => is_racy(stat.mtime, seen.stat.mtime) || seen.time_agrees == Some(false),
    }
}

/// May an edit of a source with this mtime hide from an artifact with that one?
pub(super) fn is_racy(source: sys::Time, artifact: sys::Time) -> bool {
    source > artifact.minus_seconds(RACY_SECONDS)
}

/// Is it work whatever its source holds, and only open which? So it is where a time disagrees and a seal says from which bytes it is.
pub(super) fn is_open(seen: &Seen) -> bool {
    seen.time_agrees == Some(false) && !seen.in_vain && seen.is_sealed()
}

fn read_source(spot: &Spot<'_>, entry: &Entry, seen: &Seen, source: &mut SourceSeen) -> Option<Source> {
    let dir = spot.sources?;
    // Verifying judges what is there, however large; the limit is for compiling.
    let limit = spot.max_source.max(LARGEST_SOURCE);
    let _turn = if let SourceSeen::Seen { stat, .. } = source { in_turn(stat.size) } else { None };
    match Source::read(dir, &entry.source, limit) {
        Ok(read) => {
            let hash = match &seen.head {
                Ok(head) if matches!(head.stamp, Stamp::Hash { .. }) => Some(spot.format.source_hash(head.magic, &read.bytes)),
                _ => None,
            };
            *source = SourceSeen::Seen { stat: read.stat, digest: Some(read.digest), hash };
            return Some(read);
        }
        Err(error) if error.is_absent() => *source = absent(&error),
        Err(error) => *source = bad_source(&error),
    }
    None
}
