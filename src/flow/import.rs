//! What an import does with what was seen of an entry: a pure function, without I/O and without a clock, by the interpreter's rules and
//! not by ours. An import asks no seal; where one is there, it only tells what the import does not notice.

use crate::base::Flaw;
use crate::model::{Cause, Loading};

/// What an import comes to, from the best to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// The artifact is used.
    Cached,
    /// The artifact is used, and is not what the source says now.
    OtherCode,
    /// The source is compiled at the next start, and cached.
    Once,
    /// The source is compiled at every start, and the code thrown away.
    EveryStart,
    /// The import fails, at every start.
    Fails,
    /// It cannot be told.
    Unclear,
}

impl Outcome {
    /// All of them, the best first.
    pub const ALL: [Self; 6] = [Self::Cached, Self::OtherCode, Self::Once, Self::EveryStart, Self::Fails, Self::Unclear];

    /// The word that people and programs read.
    pub fn word(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::OtherCode => "other-code",
            Self::Once => "once",
            Self::EveryStart => "every-start",
            Self::Fails => "fails",
            Self::Unclear => "unclear",
        }
    }
}

/// What becomes of an entry at an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The end.
    pub outcome: Outcome,
    /// Why the artifact is not used, or not what it should be.
    pub cause: Option<Cause>,
    /// Why what is compiled is thrown away.
    pub obstacle: Option<Cause>,
    /// Is it the header alone that is in the way? A seal proves that the code was made from the very bytes that the source has.
    pub header_only: bool,
}

/// What was found of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceFound {
    /// There is none that an import would find.
    Absent,
    /// It cannot be told.
    Unclear(Cause),
    /// This user cannot find it.
    Hidden(Cause),
    /// It is there, and this user can read it; or cannot, and why.
    There(Option<Cause>),
}

/// What was found where the artifact belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArtifactFound {
    /// Nothing; the cause says what is elsewhere.
    Absent(Cause),
    /// It cannot be told.
    Unclear(Cause),
    /// Something that this user cannot open.
    Unreadable(Cause),
    /// Something that nobody can open as a file, and that no file replaces.
    InTheWay(Cause),
    /// Something that whoever opens it may wait at for ever.
    Blocking(Cause),
    /// A file with a header that importing does not accept.
    Rejected(Cause),
    /// A file with a header.
    Whole(Whole),
}

/// A file with a header that importing understands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    /// How the header names the source, and whether it fits.
    pub stamp: StampFound,
    /// What is wrong with the body, and what becomes of that when it is loaded.
    pub body: Option<(Loading, Flaw)>,
    /// What its seal finds in its bytes that loading does not.
    pub damage: Option<Flaw>,
    /// Was it made from the bytes that the source has now? `None`: nothing tells.
    pub same_source: Option<bool>,
}

/// A stamp against its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StampFound {
    /// Time and size that agree.
    Agrees,
    /// Time and size that do not.
    Disagrees,
    /// Right, and never found to agree.
    InVain,
    /// A hash that is compared, and whether it is the source's; `None`: it could not be read.
    Compared(Option<bool>),
    /// A hash that is believed, and whether it is the source's; `None`: it could not be read.
    Believed(Option<bool>),
}

/// All that was found of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The source.
    pub source: SourceFound,
    /// Where its artifact belongs.
    pub artifact: ArtifactFound,
    /// Why this user can keep nothing there.
    pub obstacle: Option<Cause>,
    /// Does an import open the source to find it, and take the artifact alone where it cannot?
    pub opens_source: bool,
}

/// What an import does. Pure: no I/O, no clock.
pub fn import(found: &Found) -> Answer {
    match &found.source {
        SourceFound::Unclear(cause) => ends(Outcome::Unclear, cause),
        SourceFound::Hidden(cause) => ends(Outcome::Fails, cause),
        SourceFound::Absent => alone(&found.artifact, None),
        SourceFound::There(Some(cause)) if found.opens_source => alone(&found.artifact, Some(cause)),
        SourceFound::There(unreadable) => beside_source(found, unreadable.as_ref()),
    }
}

fn ends(outcome: Outcome, cause: &Cause) -> Answer {
    Answer { outcome, cause: Some(cause.clone()), obstacle: None, header_only: false }
}

/// A module that exists for this import as an artifact only.
fn alone(artifact: &ArtifactFound, unreadable: Option<&Cause>) -> Answer {
    match artifact {
        ArtifactFound::Absent(cause) => ends(Outcome::Fails, unreadable.unwrap_or(cause)),
        ArtifactFound::Unclear(cause) => ends(Outcome::Unclear, cause),
        ArtifactFound::Unreadable(cause)
        | ArtifactFound::InTheWay(cause)
        | ArtifactFound::Blocking(cause)
        | ArtifactFound::Rejected(cause) => ends(Outcome::Fails, cause),
        ArtifactFound::Whole(whole) => {
            let text = "it has no source that could be looked at, and is imported as it stands";
            let plain =
                Answer { outcome: Outcome::Cached, cause: Some(Cause::new("sourceless", text)), obstacle: None, header_only: false };
            loaded(whole).unwrap_or(plain)
        }
    }
}

fn beside_source(found: &Found, unreadable: Option<&Cause>) -> Answer {
    let compiled = |cause: &Cause, header_only| match (unreadable, &found.obstacle) {
        (Some(unreadable), _) => ends(Outcome::Fails, unreadable),
        (None, None) => Answer { outcome: Outcome::Once, cause: Some(cause.clone()), obstacle: None, header_only },
        (None, obstacle) => Answer { outcome: Outcome::EveryStart, cause: Some(cause.clone()), obstacle: obstacle.clone(), header_only },
    };
    let whole = match &found.artifact {
        ArtifactFound::Absent(cause) | ArtifactFound::Unreadable(cause) | ArtifactFound::Rejected(cause) => return compiled(cause, false),
        ArtifactFound::InTheWay(cause) => {
            let answer = compiled(cause, false);
            let outcome = if answer.outcome == Outcome::Once { Outcome::EveryStart } else { answer.outcome };
            return Answer { outcome, ..answer };
        }
        ArtifactFound::Unclear(cause) => return ends(Outcome::Unclear, cause),
        ArtifactFound::Blocking(cause) => return ends(Outcome::Fails, cause),
        ArtifactFound::Whole(whole) => whole,
    };
    let header_only = whole.same_source == Some(true) && whole.body.is_none() && whole.damage.is_none();
    // To compare it the source is read, by this user.
    let stamp = match whole.stamp {
        StampFound::Compared(_) if unreadable.is_some() => StampFound::Compared(None),
        stamp => stamp,
    };
    match stamp {
        StampFound::Agrees | StampFound::Believed(_) | StampFound::Compared(Some(true)) => {}
        StampFound::Disagrees => {
            return compiled(&Cause::new("stale", "its header says another time or size than the source has"), header_only);
        }
        StampFound::InVain => {
            let text = "its source's time is one that this interpreter cannot keep: no header ever agrees with it";
            let answer = compiled(&Cause::new("time", text), false);
            let outcome = if answer.outcome == Outcome::Once { Outcome::EveryStart } else { answer.outcome };
            return Answer { outcome, ..answer };
        }
        StampFound::Compared(Some(false)) => {
            return compiled(&Cause::new("hash", "its header has the hash of another source"), header_only);
        }
        StampFound::Compared(None) => {
            let unread = Cause::new("source-unreadable", "its header has a hash to be compared, and its source cannot be read");
            return ends(Outcome::Fails, unreadable.unwrap_or(&unread));
        }
    }
    loaded(whole).unwrap_or(Answer { outcome: Outcome::Cached, cause: None, obstacle: None, header_only: false })
}

/// An artifact that is loaded, where something is wrong with it.
fn loaded(whole: &Whole) -> Option<Answer> {
    match &whole.body {
        Some((Loading::Refused, flaw)) => return Some(ends(Outcome::Fails, &Cause::from(flaw))),
        Some((Loading::Silent, flaw)) => return Some(ends(Outcome::OtherCode, &Cause::from(flaw))),
        Some((Loading::Unseen, _)) | None => {}
    }
    if let Some(flaw) = &whole.damage {
        return Some(ends(Outcome::OtherCode, &Cause::from(flaw)));
    }
    let stale = whole.same_source == Some(false) || whole.stamp == StampFound::Believed(Some(false));
    let text = "it was made from other bytes than the source has now, and is believed all the same";
    stale.then(|| ends(Outcome::OtherCode, &Cause::new("content", text)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::FlawKind;
    use proptest::prelude::*;

    fn cause(code: &'static str) -> Cause {
        Cause::new(code, "")
    }

    fn flaw() -> Flaw {
        Flaw::new(FlawKind::Corrupt, "flaw", "")
    }

    fn whole(stamp: StampFound) -> Whole {
        Whole { stamp, body: None, damage: None, same_source: None }
    }

    fn found(artifact: ArtifactFound) -> Found {
        Found { source: SourceFound::There(None), artifact, obstacle: None, opens_source: false }
    }

    fn told(found: &Found) -> (Outcome, &'static str, &'static str) {
        let answer = import(found);
        let code = |cause: &Option<Cause>| cause.as_ref().map_or("", |cause| cause.code);
        (answer.outcome, code(&answer.cause), code(&answer.obstacle))
    }

    #[test]
    fn with_a_source_that_can_be_read() {
        use ArtifactFound as A;
        use Outcome as O;
        use StampFound as S;
        let stamped = |stamp| A::Whole(whole(stamp));
        let with_body = |loading| A::Whole(Whole { body: Some((loading, flaw())), ..whole(S::Agrees) });
        let rows = [
            (A::Absent(cause("missing")), O::Once, "missing", O::EveryStart, "wall"),
            (A::Unreadable(cause("unreadable")), O::Once, "unreadable", O::EveryStart, "wall"),
            (A::Rejected(cause("magic")), O::Once, "magic", O::EveryStart, "wall"),
            (A::InTheWay(cause("not-a-file")), O::EveryStart, "not-a-file", O::EveryStart, "wall"),
            (A::Blocking(cause("fifo")), O::Fails, "fifo", O::Fails, ""),
            (A::Unclear(cause("link")), O::Unclear, "link", O::Unclear, ""),
            (stamped(S::Agrees), O::Cached, "", O::Cached, ""),
            (stamped(S::Disagrees), O::Once, "stale", O::EveryStart, "wall"),
            (stamped(S::InVain), O::EveryStart, "time", O::EveryStart, "wall"),
            (stamped(S::Compared(Some(true))), O::Cached, "", O::Cached, ""),
            (stamped(S::Compared(Some(false))), O::Once, "hash", O::EveryStart, "wall"),
            (stamped(S::Believed(Some(true))), O::Cached, "", O::Cached, ""),
            (stamped(S::Believed(Some(false))), O::OtherCode, "content", O::OtherCode, ""),
            (stamped(S::Believed(None)), O::Cached, "", O::Cached, ""),
            (with_body(Loading::Refused), O::Fails, "flaw", O::Fails, ""),
            (with_body(Loading::Silent), O::OtherCode, "flaw", O::OtherCode, ""),
            (with_body(Loading::Unseen), O::Cached, "", O::Cached, ""),
            (A::Whole(Whole { damage: Some(flaw()), ..whole(S::Agrees) }), O::OtherCode, "flaw", O::OtherCode, ""),
            (A::Whole(Whole { same_source: Some(false), ..whole(S::Agrees) }), O::OtherCode, "content", O::OtherCode, ""),
            // A body that would be refused is never loaded where the header is out of date.
            (A::Whole(Whole { body: Some((Loading::Refused, flaw())), ..whole(S::Disagrees) }), O::Once, "stale", O::EveryStart, "wall"),
        ];
        for (artifact, outcome, code, walled, obstacle) in rows {
            let mut found = found(artifact);
            assert_eq!(told(&found), (outcome, code, ""), "{found:?}");
            found.obstacle = Some(cause("wall"));
            assert_eq!(told(&found), (walled, code, obstacle), "{found:?}");
        }
    }

    #[test]
    fn without_one() {
        use ArtifactFound as A;
        use Outcome as O;
        use StampFound as S;
        let rows = [
            (A::Absent(cause("missing")), O::Fails, "secret", "missing"),
            (A::Rejected(cause("magic")), O::Fails, "magic", "magic"),
            (A::Whole(whole(S::Disagrees)), O::Cached, "sourceless", "sourceless"),
            (A::Whole(Whole { body: Some((Loading::Refused, flaw())), ..whole(S::Agrees) }), O::Fails, "flaw", "flaw"),
        ];
        for (artifact, outcome, code, absent) in rows {
            let mut found = found(artifact);
            (found.source, found.opens_source) = (SourceFound::There(Some(cause("secret"))), true);
            assert_eq!(told(&found), (outcome, code, ""), "{found:?}");
            found.source = SourceFound::Absent;
            assert_eq!(told(&found), (outcome, absent, ""), "{found:?}");
            found.source = SourceFound::Hidden(cause("hidden"));
            assert_eq!(told(&found), (O::Fails, "hidden", ""), "{found:?}");
        }
        // Who only asks for the source's time and size does not need to read it, as long as it need not be compiled or compared.
        for (stamp, outcome) in
            [(S::Agrees, O::Cached), (S::Believed(None), O::Cached), (S::Disagrees, O::Fails), (S::Compared(Some(true)), O::Fails)]
        {
            let mut found = found(A::Whole(whole(stamp)));
            found.source = SourceFound::There(Some(cause("secret")));
            assert_eq!(told(&found).0, outcome, "{stamp:?}");
        }
    }

    #[test]
    fn a_seal_tells_that_the_header_alone_is_wrong() {
        let artifact = |same_source| ArtifactFound::Whole(Whole { same_source, ..whole(StampFound::Disagrees) });
        assert!(import(&found(artifact(Some(true)))).header_only);
        assert!(!import(&found(artifact(Some(false)))).header_only);
        assert!(!import(&found(artifact(None))).header_only);
    }

    fn stamps() -> impl Strategy<Value = StampFound> {
        use StampFound as S;
        let hash = || prop::option::of(any::<bool>());
        prop_oneof![Just(S::Agrees), Just(S::Disagrees), Just(S::InVain), hash().prop_map(S::Compared), hash().prop_map(S::Believed)]
    }

    proptest! {
        /// Something that an obstacle would throw away is compiled in the first place; and whoever can keep it compiles it once, but where
        /// nothing can be kept for another reason.
        #[test]
        fn an_obstacle_changes_once_into_every_start_and_nothing_else(stamp in stamps(), same in prop::option::of(any::<bool>()), readable: bool) {
            let mut found = found(ArtifactFound::Whole(Whole { same_source: same, ..whole(stamp) }));
            found.source = SourceFound::There((!readable).then(|| cause("secret")));
            let free = import(&found);
            found.obstacle = Some(cause("wall"));
            let walled = import(&found);
            if free.outcome == Outcome::Once {
                prop_assert_eq!(walled.outcome, Outcome::EveryStart);
                prop_assert!(walled.obstacle.is_some());
            } else {
                prop_assert_eq!(free.outcome, walled.outcome);
            }
            prop_assert!(free.outcome == Outcome::Cached || free.cause.is_some());
        }
    }
}
