//! What a run tells: plain data with public fields. Whoever listens turns it into lines, colours or JSON.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::import::Answer;
use crate::base::lock::Holder;
use crate::model::{Cause, Verdict, Warning};
use crate::store::Counts;

/// What was done about an entry (or would be, in a dry run).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// Nothing, and nothing was to be done.
    None,
    /// Compiled and written.
    Built,
    /// Header and seal were renewed around the code that was there.
    Restamped,
    /// A seal was put behind it where it stood.
    Sealed,
    /// Removed.
    Removed,
    /// A left-over was removed.
    Swept,
    /// There was something to do, and it was left undone for a reason that is not the entry's own (busy, stopped).
    Skipped,
    /// It was tried and did not succeed.
    Failed,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::None, Self::Built, Self::Restamped, Self::Sealed, Self::Removed, Self::Swept, Self::Skipped, Self::Failed];

    /// The word that people and programs read.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Built => "built",
            Self::Restamped => "restamped",
            Self::Sealed => "sealed",
            Self::Removed => "removed",
            Self::Swept => "swept",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
        }
    }
}

/// Something that a run tells, as it happens. For what is written: only after it stands there.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The last word on one entry.
    Entry(EntryEvent<'a>),
    /// `explain`'s answer for one entry.
    Answer(AnswerEvent<'a>),
    /// Another process holds a folder's lock, and we have waited for it for a second.
    Waiting {
        /// The directory of artifacts.
        dir: &'a Path,
        /// Who holds it, as far as it says.
        holder: &'a Holder,
    },
    /// Something worth knowing about the run as a whole, told once.
    Note {
        /// A stable word for programs.
        code: &'static str,
        /// A sentence for people.
        text: &'a str,
        /// Where it was met.
        path: &'a Path,
    },
    /// How far the run is: entries that are finished, of those that are known so far.
    Progress {
        /// Entries finished.
        done: u64,
        /// Entries known so far; grows while the tree is walked.
        known: u64,
    },
}

/// The last word on one entry, or on one left-over.
#[derive(Debug, Clone, Copy)]
pub struct EntryEvent<'a> {
    /// The artifact (or left-over).
    pub artifact: &'a Path,
    /// Its source, where it has one.
    pub source: Option<&'a Path>,
    /// The interpreter's cache tag, where known.
    pub tag: Option<&'a str>,
    /// The optimisation level, where known.
    pub level: Option<u8>,
    /// What was found.
    pub verdict: Verdict,
    /// What was done.
    pub action: Action,
    /// Why.
    pub cause: Option<&'a Cause>,
    /// What the compiler warned of.
    pub warnings: &'a [Warning],
    /// Does it make the run's exit code 1?
    pub wrong: bool,
    /// Length of the artifact in bytes, where it was looked at or written.
    pub bytes: u64,
    /// Was its code in the store, so that nothing was compiled?
    pub stored: bool,
}

/// What an import would do with one entry.
#[derive(Debug, Clone, Copy)]
pub struct AnswerEvent<'a> {
    /// Where its artifact is or would be.
    pub artifact: &'a Path,
    /// Its source, where it has one.
    pub source: Option<&'a Path>,
    /// The interpreter's cache tag.
    pub tag: Option<&'a str>,
    /// The optimisation level that was asked for.
    pub level: Option<u8>,
    /// The answer.
    pub answer: &'a Answer,
    /// Does it make the run's exit code 1?
    pub wrong: bool,
}

/// Somebody who listens to a run. Called from several threads.
pub trait Report: Sync {
    /// Something happened.
    fn event(&self, event: &Event<'_>);
}

/// Listens to nothing.
impl Report for () {
    fn event(&self, _event: &Event<'_>) {}
}

/// Listens with a function.
impl<F: Fn(&Event<'_>) + Sync> Report for F {
    fn event(&self, event: &Event<'_>) {
        self(event);
    }
}

/// What a run came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Entries by verdict.
    pub verdicts: BTreeMap<Verdict, u64>,
    /// Entries by action.
    pub actions: BTreeMap<Action, u64>,
    /// Entries by tag (empty where none is known) and verdict.
    pub tags: BTreeMap<String, BTreeMap<Verdict, u64>>,
    /// All entries.
    pub entries: u64,
    /// Entries with which something is wrong: found by `verify`, or not mended by the others.
    pub wrong: u64,
    /// Bytes of artifacts looked at or written.
    pub bytes: u64,
    /// Was the run stopped before its end, by [`Job::stop`](super::Job::stop) or since its compiler was stopped?
    pub stopped: bool,
    /// Was the time for the whole run ([`Options::max_time`](super::Options::max_time)) over before its end? Not where it was stopped.
    pub out_of_time: bool,
    /// What the store was good for since it was opened, where there is one.
    pub store: Option<Counts>,
    /// How long it took.
    pub elapsed: Duration,
}

impl Summary {
    /// How many entries had this verdict.
    pub fn verdict(&self, verdict: Verdict) -> u64 {
        self.verdicts.get(&verdict).copied().unwrap_or(0)
    }

    /// With how many entries this was done.
    pub fn action(&self, action: Action) -> u64 {
        self.actions.get(&action).copied().unwrap_or(0)
    }

    /// Is nothing wrong?
    pub fn is_good(&self) -> bool {
        self.wrong == 0 && !self.stopped && !self.out_of_time
    }

    /// Takes in what another run came to.
    pub fn absorb(&mut self, other: &Self) {
        let add = |mine: &mut BTreeMap<Verdict, u64>, more: &BTreeMap<Verdict, u64>| {
            for (verdict, count) in more {
                *mine.entry(*verdict).or_default() += count;
            }
        };
        add(&mut self.verdicts, &other.verdicts);
        for (action, count) in &other.actions {
            *self.actions.entry(*action).or_default() += count;
        }
        for (tag, verdicts) in &other.tags {
            add(self.tags.entry(tag.clone()).or_default(), verdicts);
        }
        self.entries += other.entries;
        self.wrong += other.wrong;
        self.bytes += other.bytes;
        self.stopped |= other.stopped;
        self.out_of_time |= other.out_of_time;
        self.store = other.store.or(self.store);
        self.elapsed += other.elapsed;
    }

    /// Counts one entry.
    pub(crate) fn count(&mut self, event: &EntryEvent<'_>) {
        *self.verdicts.entry(event.verdict).or_default() += 1;
        *self.actions.entry(event.action).or_default() += 1;
        let tag = self.tags.entry(event.tag.unwrap_or_default().to_owned()).or_default();
        *tag.entry(event.verdict).or_default() += 1;
        self.entries += 1;
        self.wrong += u64::from(event.wrong);
        self.bytes += event.bytes;
    }
}
