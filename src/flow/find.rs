//! One entry found out about: looked at, judged, decided on. The same before the lock and under it.

use std::sync::Arc;

use crate::base::seal::Seal;
use crate::base::source::Source;
use crate::base::sys::{Dir, Time};
use crate::model::{Cause, Entry, Head, Mode, Verdict};

use super::Run;
use super::again;
use super::folder::Folder;
use super::job::Command;
use super::judge::{self, Evidence, Judged, Seen};
use super::look::{self, Depth, Spot};
use super::policy::{self, Decision, Facts};
use super::restamp::kept_mode;

/// The code of an artifact that stays as it is, and of the note about the first one.
const LISTED: &str = "listed";

/// One entry, looked at and judged.
pub(super) struct Found {
    pub(super) judged: Judged,
    pub(super) decision: Decision,
    pub(super) wrong: bool,
    pub(super) tag: Option<Arc<str>>,
    pub(super) level: Option<u8>,
    /// The invalidation mode of what is there, where its header can be read.
    pub(super) mode: Option<Mode>,
    /// The run ended before all was seen: nothing is told of it.
    pub(super) stopped: bool,
    pub(super) bytes: u64,
    /// The source, where it was read for this, and a time before it was opened.
    pub(super) read: Option<(Source, Time)>,
    /// There is something to do, and what is known only when the source is read.
    pub(super) open: bool,
}

impl Found {
    /// Could it not be looked at for lack of descriptors?
    pub(super) fn is_out_of_descriptors(&self) -> bool {
        self.judged.cause.as_ref().is_some_and(|cause| cause.code == "descriptors")
    }
}

impl Run<'_> {
    pub(super) fn facts<'f>(&'f self, judged: &Judged, seen: Option<&Seen>, tag: Option<&'f str>, level: Option<u8>) -> Facts<'f> {
        let options = &self.job.options;
        let has_maker = level.is_some() && tag.is_some_and(|tag| self.maker_of(tag).is_some());
        let sealed = seen.is_some_and(Seen::is_sealed);
        let own = seen.is_some_and(|seen| matches!(&seen.seal, Ok(Some(seal)) if judge::is_own(seal)));
        let (recompile, force, adopt, clean) = (options.recompile, options.force, options.adopt, &options.clean);
        Facts { damaged: judged.damaged, has_maker, sealed, own, recompile, old_enough: true, tag, force, adopt, clean }
    }

    /// Tells what is wanted of an entry besides being whole.
    pub(super) fn want(&self, evidence: &mut Evidence, entry: &Entry) {
        if self.job.command != Command::Compile {
            return;
        }
        let target = self.target_of(entry);
        evidence.wanted_magic = target.map(|target| target.magic);
        let head = evidence.seen().and_then(|seen| seen.head.as_ref().ok());
        let kept = |wanted| match (target, head) {
            (Some(target), _) => self.job.format.kept_mode(target, wanted),
            (None, Some(head)) => kept_mode(self.job.format, head, wanted),
            (None, None) => wanted,
        };
        evidence.wanted_mode = self.job.options.mode.map(kept);
    }

    /// The level of an entry: by its name; where that does not tell, by its seal; else the one that was asked for and is written under
    /// this name.
    pub(super) fn level_of(&self, entry: &Entry, tag: Option<&str>, seal: Option<&Seal>) -> Option<u8> {
        let named = || {
            let maker = self.job.makers.get(entry.maker.or_else(|| self.maker_of(tag?))?)?;
            maker.levels.iter().copied().find(|level| self.makes(maker, *level, &entry.source, &entry.artifact))
        };
        entry.level.number().or_else(|| look::labelled_level(self.job.format, tag?, seal?)).or_else(named)
    }

    pub(super) fn spot<'s>(&'s self, folder: &'s Folder, artifacts: Option<&'s Dir>, entry: &Entry) -> Spot<'s> {
        Spot {
            format: self.job.format,
            layout: folder.layout,
            sources: folder.sources.as_deref(),
            artifacts,
            here: self.target_of(entry),
            memo: self.job.options.memo,
            max_source: self.job.options.max_source,
            hasty: false,
        }
    }

    pub(super) fn depth(&self) -> Depth {
        match self.job.command {
            Command::Verify | Command::Repair | Command::Seal | Command::Add => Depth::Full,
            Command::Compile | Command::Status | Command::Explain => Depth::Quick,
            Command::Clean => Depth::Name,
        }
    }

    /// Looks, judges and decides: the same before the lock and under it.
    ///
    /// `hasty`: it does to know whether something is to be done.
    pub(super) fn find(&self, folder: &Folder, artifacts: Option<&Dir>, entry: &Entry, hasty: bool) -> Found {
        let hasty = hasty && self.job.command == Command::Compile;
        let (before, mut read) = (Time::now(), None);
        let mut evidence = if let Some((verdict, cause)) = &folder.trouble {
            let source = judge::SourceSeen::Absent { dangling: false };
            let artifact = judge::ArtifactSeen::Bad(*verdict, cause.clone());
            Evidence { source, artifact, layout: folder.layout, wanted_magic: None, wanted_mode: None }
        } else {
            let mut evidence = look::look(&Spot { hasty, ..self.spot(folder, artifacts, entry) }, entry, self.depth(), &mut read);
            self.want(&mut evidence, entry);
            evidence
        };
        let mut judged = judge::judge(&evidence);
        if judged.cause.as_ref().is_some_and(|cause| cause.code == judge::MODE) && self.why_listed(folder, entry).is_some() {
            // It is sound, so nothing more is wanted of it.
            evidence.wanted_mode = None;
            judged = judge::judge(&evidence);
        }
        if let judge::SourceSeen::Bad(_, cause) = &evidence.source
            && judged.cause.as_ref() != Some(cause)
        {
            tracing::debug!(cause = %cause.text, "its artifact is judged without it");
        }
        if let Some(cause) = judged.cause.as_ref().filter(|cause| cause.code == judge::IN_VAIN) {
            self.note_once(cause.code, &folder.path.join(&entry.artifact), &format!("{}; give the source another time", cause.text));
        }
        let seen = evidence.seen();
        let head = seen.and_then(|seen| seen.head.as_ref().ok());
        // An artifact that lost its magic number is made anew by who gives it this name.
        let lost = || self.maker_by_name(entry).map(|maker| Arc::clone(&maker.compiler.target().tag));
        let tag = entry.tag.clone().or_else(|| head.map(|head| Arc::clone(&head.tag))).or_else(lost);
        let seal = seen.and_then(|seen| seen.seal.as_ref().ok()?.as_ref());
        let level = self.level_of(entry, tag.as_deref(), seal);
        let mut facts = self.facts(&judged, seen, tag.as_deref(), level);
        facts.old_enough = self.made_before.is_none_or(|limit| seen.is_some_and(|seen| seen.stat.mtime < limit));
        let mut decision = policy::decide(self.job.command, judged.verdict, &facts);
        let unproved = decision == Decision::Leave && self.job.command == Command::Seal && judged.verdict == Verdict::Unsealed;
        if (decision == Decision::Seal || unproved) && level.is_none() {
            decision = Decision::Leave;
            let text =
                "its name does not say which optimisation level it has, and a seal does: `compile --adopt --optimize LEVEL` seals it";
            judged.cause = Some(Cause::new("level", text));
        }
        if unproved {
            judged.cause.get_or_insert_with(|| again::no_interpreter(tag.as_deref()));
        }
        if decision == Decision::Leave && self.job.command == Command::Repair && judged.verdict == Verdict::Misstamped {
            judged.cause = Some(again::only_compiled(tag.as_deref()));
        }
        self.spare(folder, entry, &mut decision, &mut judged);
        let mut wrong = decision == Decision::Leave && policy::is_wrong(self.job.command, judged.verdict, judged.damaged);
        // Of what is there without anybody to make it, a lost source is none of our business.
        let compiles = self.job.command == Command::Compile && !self.lacks_makers() && folder.trouble.is_none();
        if let Some((cause, lost)) = judge::no_source(&evidence.source).filter(|_| compiles) {
            decision = Decision::Leave;
            judged.cause = Some(cause);
            wrong = lost;
        }
        if let Some(cause) = self.asked_for_more(judged.verdict, head) {
            wrong = true;
            judged.cause.get_or_insert(cause);
        }
        let open = hasty && decision != Decision::Leave && seen.is_some_and(look::is_open);
        let (bytes, read) = (seen.map_or(0, |seen| seen.stat.size), read.map(|source| (source, before)));
        let mode = head.map(Head::mode);
        let mut found = Found { judged, decision, wrong, tag, level, mode, stopped: false, bytes, read, open };
        if self.job.command == Command::Add || (self.job.options.recompile && self.job.command == Command::Verify) {
            self.compile_again(folder, artifacts, entry, &mut found);
        }
        if self.job.command == Command::Verify && found.judged.verdict == Verdict::Unsealed && found.judged.cause.is_none() {
            found.judged.cause = head.and_then(|head| self.structure_alone(head));
        }
        found
    }

    /// Why records list the artifact of an entry by its bytes, where they do.
    fn why_listed(&self, folder: &Folder, entry: &Entry) -> Option<String> {
        let listed = self.job.options.listed?;
        listed(&folder.absolute_artifacts().join(&entry.artifact))
    }

    /// Leaves a sound artifact as it is where records list it by its bytes; of a damaged one it is only told: whoever
    /// compares it will find other bytes then.
    fn spare(&self, folder: &Folder, entry: &Entry, decision: &mut Decision, judged: &mut Judged) {
        let is_avoidable = policy::is_avoidable(self.job.command, *decision, judged.verdict);
        if !(is_avoidable || (judged.damaged && *decision != Decision::Leave)) {
            return;
        }
        let Some(why) = self.why_listed(folder, entry) else { return };
        if is_avoidable {
            let note = format!("{why}: it stays as it is, and so do others of its kind (`--ignore-records` changes them too)");
            self.note_once(LISTED, &folder.path.join(&entry.artifact), &note);
            *decision = Decision::Leave;
            judged.cause = Some(Cause::new(LISTED, format!("{why}, so it stays as it is")));
        } else if let Some(cause) = &mut judged.cause {
            cause.text.extend(["; ", &why]);
        }
    }

    /// What `verify` calls a problem only when asked.
    pub(super) fn asked_for_more(&self, verdict: Verdict, head: Option<&Head>) -> Option<Cause> {
        let options = &self.job.options;
        match verdict {
            Verdict::Missing if options.complete => Some(Cause::new("missing", "its source has no artifact")),
            Verdict::Unsealed if options.require_seal => Some(Cause::new("no-seal", "it carries no seal")),
            Verdict::Ok | Verdict::Unsealed if options.for_image => self.lost_in_an_image(head?),
            _ => None,
        }
    }

    /// How far it was looked into, where that is not to the last instruction.
    fn structure_alone(&self, head: &Head) -> Option<Cause> {
        let text = "its structure was looked through, not its instructions: no opcodes of";
        let told = || Cause::new("structure-alone", format!("{text} {} with its magic number are known", head.tag));
        (!self.job.format.knows_deep(head)).then(told)
    }

    /// An artifact that goes by a time does not survive an archive or an image that sets other times.
    pub(super) fn lost_in_an_image(&self, head: &Head) -> Option<Cause> {
        let held = "its header holds a time, which archives and images change";
        let cure = if kept_mode(self.job.format, head, Mode::UncheckedHash) == Mode::UncheckedHash {
            "`bytekeep compile --invalidation-mode unchecked-hash` renews it".to_owned()
        } else {
            format!("{} knows nothing else, so the times must be kept", head.tag)
        };
        (head.mode() == Mode::Timestamp).then(|| Cause::new("timestamp", format!("{held}; {cure}")))
    }
}
