//! From what was seen of an entry to a verdict: a pure function, without I/O and without a clock. What is to be seen, and how closely,
//! is the affair of `look`.

use crate::base::seal::{Digest, Seal};
use crate::base::sys::Stat;
use crate::base::{Flaw, FlawKind};
use crate::model::{Cause, Head, Layout, Mode, Stamp, Verdict};

/// What was seen of a source.
#[derive(Debug)]
pub enum SourceSeen {
    /// There is none.
    Absent {
        /// Is there a link of its name that leads nowhere?
        dangling: bool,
    },
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
    /// Was its source written to later, within the second that its header keeps? Only asked where no seal says what it was made from.
    pub outrun: bool,
}

impl Seen {
    /// Does it carry a seal?
    pub fn is_sealed(&self) -> bool {
        matches!(self.seal, Ok(Some(_)))
    }

    pub(super) fn head_stamp(&self) -> Option<Stamp> {
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
                SourceSeen::Absent { .. } | SourceSeen::Seen { .. } => plain(Verdict::Missing),
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
            (SourceSeen::Absent { .. }, _) => without_source,
            (_, FlawKind::Truncated) => Verdict::Truncated,
            (_, FlawKind::Corrupt) => Verdict::Corrupt,
            (_, FlawKind::BadMagic) => Verdict::BadMagic,
        };
        return Judged { verdict, cause: Some(Cause::from(flaw)), damaged };
    }
    match &evidence.source {
        SourceSeen::Absent { .. } => plain(without_source),
        SourceSeen::Bad(verdict, cause) => with(*verdict, cause.clone()),
        SourceSeen::Seen { digest, hash, .. } => {
            let Ok(head) = &seen.head else { return plain(Verdict::Corrupt) };
            let (verdict, cause) = fit(head, seen, *digest, *hash, evidence.wanted_mode);
            Judged { verdict, cause, damaged: false }
        }
    }
}

/// Was the artifact with this seal compiled by us? Only then does the seal say from which source bytes.
pub(super) fn is_own(seal: &Seal) -> bool {
    !seal.adopted && seal.key.is_none()
}

/// Why there is nothing to compile, and whether that is a loss: what was listed and is gone is one. A link that leads nowhere is none:
/// editors leave such links as their locks.
pub(super) fn no_source(source: &SourceSeen) -> Option<(Cause, bool)> {
    match source {
        SourceSeen::Absent { dangling: true } => Some((Cause::new("dangling", "its source is a link that leads nowhere"), false)),
        SourceSeen::Absent { dangling: false } => Some((Cause::new("vanished", "its source vanished meanwhile"), true)),
        SourceSeen::Bad(..) | SourceSeen::Seen { .. } => None,
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
        (Some(true), None) if seen.outrun => Verdict::SilentlyStale,
        (Some(true) | None, Some(true) | None) => sound,
    };
    let cause = match verdict {
        Verdict::SilentlyStale if seen.outrun => {
            Cause::new("outrun", "its source was written to after it was made, within the second that its header keeps")
        }
        Verdict::Misstamped => Cause::new("stamp", "it was made from these very bytes, but its header says another time, size or hash"),
        Verdict::SilentlyStale => Cause::new("content", "it was made from other source bytes, and its header does not show it"),
        Verdict::Stale => Cause::new("changed", "the source has changed since it was made"),
        _ => {
            let Some(wanted) = wanted.filter(|wanted| *wanted != head.mode()) else { return (sound, seen.in_vain.then(|| in_vain(head))) };
            let text = format!("it is a {} artifact, and {} is wanted", head.mode().word(), wanted.word());
            // Without a seal nothing proves which bytes it was made from, so it cannot be given another stamp.
            let verdict = if sound == Verdict::Ok { Verdict::Misstamped } else { Verdict::Stale };
            return (verdict, Some(Cause::new(MODE, text)));
        }
    };
    (verdict, Some(cause))
}

/// The code of a whole artifact that is up to date, of another mode than the one that is wanted.
pub(super) const MODE: &str = "mode";

/// The code of [`in_vain`].
pub(super) const IN_VAIN: &str = "time";

/// Why an artifact in which nothing is wrong is of no use.
fn in_vain(head: &Head) -> Cause {
    let text = format!("its source's time is one that {} cannot keep, so it compiles the source at every import", head.tag);
    Cause::new(IN_VAIN, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::sys::{Kind, Time};
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
        let seen = Seen { stat: stat(), head, seal, label_fits: None, body: None, proof: None, time_agrees, in_vain: false, outrun: false };
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
        bad.source = SourceSeen::Absent { dangling: false };
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
