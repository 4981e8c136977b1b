//! What is done about entries: look, take the lock, look again with the same functions, act.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use crate::base::keep;
use crate::base::leftover::{self, Leftover};
use crate::base::lock;
use crate::base::seal::{self, Seal};
use crate::base::seam;
use crate::base::source::Source;
use crate::base::sys::{self, Dir, Time};
use crate::base::whereabouts::Whereabouts;
use crate::base::write::Staged;
use crate::base::{Error, FlawKind};
use crate::model::{Cause, CompileError, Entry, Head, Made, Mode, Request, Verdict, Warning};

use super::again;
use super::commit::Pending;
use super::examine;
use super::folder::{Folder, Guarded, Item};
use super::job::{Command, Maker};
use super::judge::{self, Evidence, Judged, Seen};
use super::look::{self, Depth, Spot};
use super::policy::{self, Decision, Facts};
use super::queue::{Locking, Task};
use super::report::Action;
use super::restamp::kept_mode;
use super::{Run, Told};

/// One entry, looked at and judged.
pub(super) struct Found {
    pub(super) judged: Judged,
    pub(super) decision: Decision,
    pub(super) wrong: bool,
    pub(super) tag: Option<Arc<str>>,
    pub(super) level: Option<u8>,
    /// The run ended before all was seen: nothing is told of it.
    pub(super) stopped: bool,
    bytes: u64,
    /// The source, where it was read for this, and a time before it was opened.
    pub(super) read: Option<(Source, Time)>,
    /// There is something to do, and what is known only when the source is read.
    open: bool,
}

impl Found {
    /// Could it not be looked at for lack of descriptors?
    pub(super) fn is_out_of_descriptors(&self) -> bool {
        self.judged.cause.as_ref().is_some_and(|cause| cause.code == "descriptors")
    }
}

/// What a look says.
enum Work {
    None,
    Some,
    /// There were too few descriptors to look.
    AskAgain,
}

impl Run<'_> {
    /// Looks at some items of a folder; the last look of a folder sends on what is to be done.
    pub(super) fn look_at(&self, folder: &Arc<Folder>, items: Vec<Item>) {
        if self.job.command == Command::Explain {
            return self.explain(folder, items);
        }
        let (mut todo, mut later) = (Vec::new(), Vec::new());
        for item in items {
            match self.has_work(folder, &item) {
                Work::None => {}
                Work::Some => todo.push(item),
                Work::AskAgain => later.push(item),
            }
        }
        let mut all = folder.todo.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(todo);
        if !later.is_empty() {
            self.put_off(Task::Look(Arc::clone(folder), later));
        } else if folder.looks.fetch_sub(1, Ordering::SeqCst) == 1 && !all.is_empty() {
            let todo = std::mem::take(&mut *all);
            self.queue.push(Task::Lock(Locking { folder: Arc::clone(folder), todo, busy: None, starved: None }));
        }
    }

    /// Is something to be done about it? What is not is told at once.
    fn has_work(&self, folder: &Folder, item: &Item) -> Work {
        let Item::Entry(entry) = item else {
            return if self.has_leftover_work(folder, item) { Work::Some } else { Work::None };
        };
        let mut found = self.find(folder, folder.artifacts.as_deref(), entry, !self.job.options.dry_run);
        if found.is_out_of_descriptors() && !self.is_starved() {
            return Work::AskAgain;
        }
        if found.stopped {
            return Work::None;
        }
        if found.open {
            return Work::Some;
        }
        if found.decision == Decision::Build && self.lacks_makers() {
            // No lock is taken, and nothing touched, for what cannot be done.
            found.wrong = true;
            self.tell_entry(folder, entry, &found, Action::Failed, Some(&no_interpreter()), &[]);
            return Work::None;
        }
        if found.decision != Decision::Leave && !self.job.options.dry_run {
            return Work::Some;
        }
        let action = if found.decision == Decision::Leave { Action::None } else { planned(found.decision) };
        self.tell_entry(folder, entry, &found, action, found.judged.cause.as_ref(), &[]);
        Work::None
    }

    fn has_leftover_work(&self, folder: &Folder, item: &Item) -> bool {
        let Some(dir) = &folder.artifacts else { return false };
        let stat = dir.stat_of(item.name());
        let stands_in_the_way = matches!(item, Item::Leftover(_, Leftover::Lock)).then(|| stat.as_ref().ok().and_then(lock::obstacle));
        if let Some(what) = stands_in_the_way.flatten() {
            self.tell_obstacle(folder, item, &what);
            return false;
        }
        // Released between the listing and this look: it was alive, and is none. Or of another kind than what we and interpreters leave.
        if stat.as_ref().map_or_else(Error::is_gone, |stat| !item.may_be(stat.kind)) {
            self.forget(1);
            return false;
        }
        if let Err(error) = &stat {
            tracing::debug!(cause = %error.sentence(), "cannot tell what it is");
        }
        let old = || stat.as_ref().is_ok_and(|stat| leftover::is_old(stat, Time::now()));
        let dead = match item {
            Item::ForeignTemp(_) | Item::Leftover(_, Leftover::Aside) => old(),
            // Looked at without the lock: a living process may hold it. Then it is that process's, and no left-over.
            _ => !lock::is_held(dir),
        };
        let facts = self.facts(&Judged { verdict: Verdict::Leftover, cause: None, damaged: false }, None, None, None);
        let sweep = policy::decide(self.job.command, Verdict::Leftover, &facts) == Decision::Sweep;
        if dead && seam::without("sweeping") {
            self.forget(1);
            return false;
        }
        if dead && sweep && !self.job.options.dry_run {
            return true;
        }
        if dead {
            self.tell_leftover(folder, item, if sweep { Action::Swept } else { Action::None }, None);
        } else {
            self.forget(1);
        }
        false
    }

    pub(super) fn facts<'f>(&'f self, judged: &Judged, seen: Option<&Seen>, tag: Option<&'f str>, level: Option<u8>) -> Facts<'f> {
        let options = &self.job.options;
        let has_maker = level.is_some() && tag.is_some_and(|tag| self.maker_of(tag).is_some());
        let sealed = seen.is_some_and(Seen::is_sealed);
        let own = seen.is_some_and(|seen| judge::is_own(&seen.seal));
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
    fn level_of(&self, entry: &Entry, tag: Option<&str>, seal: Option<&Seal>) -> Option<u8> {
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

    fn depth(&self) -> Depth {
        match self.job.command {
            Command::Verify | Command::Repair | Command::Seal => Depth::Full,
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
        let evidence = if let Some((verdict, cause)) = &folder.trouble {
            let source = judge::SourceSeen::Absent { dangling: false };
            let artifact = judge::ArtifactSeen::Bad(*verdict, cause.clone());
            Evidence { source, artifact, layout: folder.layout, wanted_magic: None, wanted_mode: None }
        } else {
            let mut evidence = look::look(&Spot { hasty, ..self.spot(folder, artifacts, entry) }, entry, self.depth(), &mut read);
            self.want(&mut evidence, entry);
            evidence
        };
        let mut judged = judge::judge(&evidence);
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
        if decision == Decision::Seal && level.is_none() {
            decision = Decision::Leave;
            let text =
                "its name does not say which optimisation level it has, and a seal does: `compile --adopt --optimize LEVEL` seals it";
            judged.cause = Some(Cause::new("level", text));
        }
        if decision == Decision::Leave && self.job.command == Command::Seal && judged.verdict == Verdict::Unsealed {
            judged.cause.get_or_insert_with(|| again::no_interpreter(tag.as_deref()));
        }
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
        let mut found = Found { judged, decision, wrong, tag, level, stopped: false, bytes, read, open };
        if self.job.options.recompile && self.job.command == Command::Verify {
            self.compile_again(folder, artifacts, entry, &mut found);
        }
        found
    }

    /// What `verify` calls a problem only when asked.
    fn asked_for_more(&self, verdict: Verdict, head: Option<&Head>) -> Option<Cause> {
        let options = &self.job.options;
        match verdict {
            Verdict::Missing if options.complete => Some(Cause::new("missing", "its source has no artifact")),
            Verdict::Unsealed if options.require_seal => Some(Cause::new("no-seal", "it carries no seal")),
            Verdict::Ok | Verdict::Unsealed if options.for_image => self.lost_in_an_image(head?),
            _ => None,
        }
    }

    /// An artifact that goes by a time does not survive an archive or an image that sets other times.
    fn lost_in_an_image(&self, head: &Head) -> Option<Cause> {
        let held = "its header holds a time, which archives and images change";
        let cure = if kept_mode(self.job.format, head, Mode::UncheckedHash) == Mode::UncheckedHash {
            "`bytekeep compile --invalidation-mode unchecked-hash` renews it".to_owned()
        } else {
            format!("{} knows nothing else, so the times must be kept", head.tag)
        };
        (head.mode() == Mode::Timestamp).then(|| Cause::new("timestamp", format!("{held}; {cure}")))
    }

    /// Does what is to be done about one item, under the lock.
    pub(super) fn act(&self, guard: &Arc<Guarded>, item: Item) {
        match &item {
            Item::Entry(entry) => {
                let mut found = self.find(&guard.folder, Some(&guard.dir), entry, false);
                if seam::without("second-look") {
                    // What the first look of `compile` found to do.
                    found.decision = Decision::Build;
                }
                if found.is_out_of_descriptors() && !self.is_starved() {
                    return self.put_off(Task::Act(Arc::clone(guard), item));
                }
                match self.act_on(guard, entry, &mut found) {
                    Ok(Done::Staged) => {}
                    Ok(Done::Now(action)) => self.tell_entry(&guard.folder, entry, &found, action, found.judged.cause.as_ref(), &[]),
                    Err(trouble) => self.act_failed(guard, item, found, trouble),
                }
            }
            Item::Leftover(..) | Item::ForeignTemp(_) => self.sweep(guard, &item),
        }
    }

    fn act_failed(&self, guard: &Arc<Guarded>, item: Item, mut found: Found, trouble: Trouble) {
        let Item::Entry(entry) = &item else { return };
        let cause = match trouble {
            Trouble::System(error) if error.is_out_of_descriptors() && !self.is_starved() => {
                return self.put_off(Task::Act(Arc::clone(guard), item));
            }
            Trouble::Gone => return self.gone(&guard.folder, Some(guard.dir_id()), item),
            Trouble::System(error) if error.is_gone() => {
                tracing::debug!(cause = %error.sentence(), "begun anew");
                return self.gone(&guard.folder, Some(guard.dir_id()), item);
            }
            Trouble::System(error) => Cause::from(&error),
            Trouble::Cause(cause) => cause,
            Trouble::Skip(cause) => {
                found.wrong = true;
                return self.tell_entry(&guard.folder, entry, &found, Action::Skipped, Some(&cause), &[]);
            }
            Trouble::Stop => return,
        };
        found.wrong = true;
        self.tell_entry(&guard.folder, entry, &found, Action::Failed, Some(&cause), &[]);
    }

    /// The directory of artifacts, `dir` where it was open, was removed under us: the item begins anew, in the directory that is there
    /// then. Counted by directories that went away, not by items: one removal may hit hundreds of them.
    pub(super) fn gone(&self, folder: &Arc<Folder>, dir: Option<(u64, u64)>, item: Item) {
        let mut lost = folder.lost.lock().unwrap_or_else(PoisonError::into_inner);
        if !lost.queued && (dir.is_none() || dir != lost.last) {
            lost.last = dir;
            lost.times += 1;
        }
        lost.items.push(item);
        if !std::mem::replace(&mut lost.queued, true) {
            let locking = Locking { folder: Arc::clone(folder), todo: Vec::new(), busy: None, starved: None };
            self.queue.push_later(Task::Lock(locking));
        }
    }

    fn act_on(&self, guard: &Arc<Guarded>, entry: &Entry, found: &mut Found) -> Result<Done, Trouble> {
        let fresh = if found.decision == Decision::Restamp { self.restamped(guard, entry, found)? } else { None };
        if let Some(fresh) = fresh {
            self.keep_bad(guard, entry, found)?;
            let staged = Staged::write(&guard.lock, &entry.artifact, &fresh.bytes, &fresh.stat, fresh.before)?;
            drop(fresh);
            self.stage(staged, guard, entry, found, Action::Restamped, Vec::new());
            return Ok(Done::Staged);
        }
        match found.decision {
            // Somebody else did it between our first look and the lock.
            Decision::Leave => Ok(Done::Now(Action::None)),
            Decision::Build | Decision::Restamp => {
                refuse_signed(guard, entry, found)?;
                self.keep_bad(guard, entry, found)?;
                self.build(guard, entry, found)
            }
            Decision::Seal => self.adopt(guard, entry, found),
            Decision::Remove => {
                refuse_signed(guard, entry, found)?;
                self.keep_bad(guard, entry, found)?;
                match guard.dir.unlink(&entry.artifact) {
                    Err(error) if error.is_absent() => {
                        tracing::debug!(cause = %error.sentence(), "somebody else removed it");
                    }
                    Err(error) => return Err(error.into()),
                    Ok(()) => {}
                }
                guard.remove_when_empty();
                Ok(Done::Now(Action::Removed))
            }
            Decision::Sweep => Ok(Done::Now(Action::None)),
        }
    }

    fn build(&self, guard: &Arc<Guarded>, entry: &Entry, found: &Found) -> Result<Done, Trouble> {
        if self.lacks_makers() {
            return Err(Trouble::Cause(no_interpreter()));
        }
        let (Some(maker), Some(sources)) = (self.maker_for(entry, found), &guard.folder.sources) else {
            return Err(Trouble::Cause(again::no_interpreter(found.tag.as_deref())));
        };
        let Some(level) = found.level else {
            return Err(Trouble::Cause(Cause::new("level", "its name does not say an optimisation level that can be made")));
        };
        if !guard.dir.is_in_place(guard.lock.dir_stat())? {
            // Nothing is compiled for a directory that went away.
            return Err(Trouble::Gone);
        }
        // Taken before the source is opened: an edit after this moment shows, see `judge`.
        let before = Time::now();
        let source = Source::read(sources, &entry.source, self.job.options.max_source).map_err(Trouble::of_source)?;
        let filename = guard.folder.absolute.join(&entry.source);
        let made = self.compile(maker, &guard.folder, entry, &source, level)?;
        let target = maker.compiler.target();
        let mode = self.job.options.mode.unwrap_or(Mode::Timestamp);
        let payload = self.job.format.dress(target, mode, &source, &made.code);
        // A seal would prove whatever it was given.
        let head = self.job.format.head(&payload[..payload.len().min(16)], Some(&target.tag), Some(target));
        match head.and_then(|head| self.job.format.body(&head, &payload)) {
            Err(flaw) if flaw.kind != FlawKind::Unknown => {
                let text = format!("what the interpreter answered is no code: {}", flaw.text);
                return Err(Trouble::Cause(Cause::new("compiler-wrong", text).at(filename)));
            }
            _ => {}
        }
        let label = self.job.format.label(&target.tag, level, &target.variant);
        let bytes = seal::sealed(payload, source.digest, label, false);
        let staged = Staged::write(&guard.lock, &entry.artifact, &bytes, &source.stat, before)?;
        self.has_built.store(true, Ordering::SeqCst);
        self.stage(staged, guard, entry, found, Action::Built, made.warnings);
        Ok(Done::Staged)
    }

    fn code_name(&self, written: &Path, absolute: &Path) -> PathBuf {
        self.job.options.code_names.of(written, absolute).unwrap_or_else(|unstripped| {
            let strip = self.job.options.code_names.strip.as_deref().unwrap_or(Path::new(""));
            let text = format!("some sources do not lie below `{}`: nothing is stripped from their names", strip.display());
            self.note_once("strip-dir", absolute, &text);
            unstripped
        })
    }

    /// Compiles a source as its folder names it.
    pub(super) fn compile(&self, maker: &Maker<'_>, folder: &Folder, entry: &Entry, source: &Source, level: u8) -> Result<Made, Trouble> {
        let filename = folder.absolute.join(&entry.source);
        let written = folder.sources.as_ref().map_or_else(|| filename.clone(), |sources| sources.path_of(&entry.source));
        let named = self.code_name(&written, &filename);
        let request = Request { source: &source.bytes, filename: std::os::unix::ffi::OsStrExt::as_bytes(named.as_os_str()), level };
        maker.compiler.compile(&request).map_err(|error| self.compile_trouble(error, &filename))
    }

    pub(super) fn maker_for(&self, entry: &Entry, found: &Found) -> Option<&Maker<'_>> {
        entry.maker.or_else(|| self.maker_of(found.tag.as_deref()?)).and_then(|index| self.job.makers.get(index))
    }

    pub(super) fn stage(&self, staged: Staged, guard: &Arc<Guarded>, entry: &Entry, found: &Found, action: Action, warnings: Vec<Warning>) {
        self.queue.staged();
        let told = Told { verdict: found.judged.verdict, cause: found.judged.cause.clone(), tag: found.tag.clone() };
        let pending = Pending { staged, folder: Arc::clone(&guard.folder), entry: entry.clone(), told, action, warnings };
        self.commit_soon(pending);
    }

    fn compile_trouble(&self, error: CompileError, filename: &std::path::Path) -> Trouble {
        let text = error.to_string();
        match error {
            CompileError::Source(fault) => {
                Trouble::Cause(Cause::new("source", fault.describe(&filename.display().to_string())).at(filename))
            }
            CompileError::Died { .. } => Trouble::Cause(Cause::new("compiler-died", text).at(filename)),
            CompileError::Start { .. } => Trouble::Cause(Cause::new("descriptors", text).at(filename)),
            CompileError::TimedOut { .. } => Trouble::Cause(Cause::new("timeout", text).at(filename)),
            CompileError::Stopped => Trouble::Stop,
            // What is done stays, and what is not done is told, each entry.
            CompileError::Unusable(reason) if self.has_built.load(Ordering::SeqCst) => Trouble::Cause(Cause::new("interpreter", reason)),
            CompileError::Unusable(reason) => {
                self.fatal(reason);
                Trouble::Stop
            }
        }
    }

    /// Copies what is bad to where its owner wants to look at it, before it goes, with a report of what is wrong with it.
    fn keep_bad(&self, guard: &Arc<Guarded>, entry: &Entry, found: &Found) -> Result<(), Trouble> {
        let Some(keep) = self.keep.as_ref().filter(|_| found.judged.damaged || found.judged.verdict.is_problem()) else { return Ok(()) };
        let from = guard.dir.path_of(&entry.artifact);
        let file = guard.dir.open_file(&entry.artifact)?;
        let stands = Whereabouts::of(&file, &guard.dir)?;
        let turn = look::in_turn(stands.file.size);
        let bytes = sys::read_all(&file, stands.file.size, look::LARGEST, &from)?;
        let examined = bytes.as_ref().map(|bytes| examine::examine(self.job.format, bytes, entry.tag.as_deref(), Some(&entry.source)));
        let report = examine::report(found.judged.verdict, found.judged.cause.as_ref(), examined.as_ref(), Some(&stands));
        drop(examined);
        drop((bytes, turn));
        // Without the copy it does not go: an error here is this entry's, and never taken for one of its directory.
        let kept = keep::keep_copy(keep, &file, &from, &entry.artifact, &report);
        kept.map_err(|error| Trouble::Cause(Cause::from(&error)))
    }

    fn sweep(&self, guard: &Arc<Guarded>, item: &Item) {
        let name = item.name();
        let removed = match item {
            // The stale lock file became ours when we locked it, and goes with the release.
            Item::Leftover(_, Leftover::Lock) if guard.lock.was_left_behind() => Ok(()),
            Item::Leftover(_, Leftover::Lock) => return self.forget(1),
            _ => match guard.dir.stat_of(name) {
                Ok(stat) if !item.may_be(stat.kind) => return self.forget(1),
                Ok(_) if matches!(item, Item::Leftover(_, Leftover::Aside)) => leftover::remove_below(&guard.dir, name),
                Ok(stat) if matches!(item, Item::Leftover(..)) && !guard.lock.excludes() && !leftover::is_old(&stat, Time::now()) => {
                    return self.forget(1);
                }
                Ok(_) => guard.dir.unlink(name),
                Err(error) => Err(error),
            },
        };
        match removed {
            Err(error) if error.is_gone() => {
                tracing::debug!(cause = %error.sentence(), "somebody else removed it");
                self.forget(1);
            }
            Err(error) => self.tell_leftover(&guard.folder, item, Action::Failed, Some(&Cause::from(&error))),
            Ok(()) => {
                guard.remove_when_empty();
                self.tell_leftover(&guard.folder, item, Action::Swept, None);
            }
        }
    }

    pub(super) fn tell_entry(
        &self,
        folder: &Folder,
        entry: &Entry,
        found: &Found,
        action: Action,
        cause: Option<&Cause>,
        warnings: &[Warning],
    ) {
        let told = Told { verdict: found.judged.verdict, cause: cause.cloned(), tag: found.tag.clone() };
        self.tell(folder, entry, &told, action, warnings, found.wrong, found.bytes);
    }

    /// What stands where the lock file belongs is nobody's left-over, and keeps everybody out.
    fn tell_obstacle(&self, folder: &Folder, item: &Item, what: &str) {
        let path = folder.path.join(item.name());
        let text = format!("{what}, where the lock file belongs: nobody can lock this directory until it is removed by hand");
        let wrong = policy::is_wrong(self.job.command, Verdict::Unsafe, false);
        let action = if self.job.command == Command::Clean { Action::Skipped } else { Action::None };
        self.tell_path(&path, Verdict::Unsafe, action, Some(&Cause::new("lock-file", text).at(&path)), wrong);
    }

    pub(super) fn tell_leftover(&self, folder: &Folder, item: &Item, action: Action, cause: Option<&Cause>) {
        let path: PathBuf = folder.path.join(item.name());
        self.tell_path(&path, Verdict::Leftover, action, cause, action == Action::Failed);
    }
}

pub(super) enum Done {
    /// It will be told when it is committed.
    Staged,
    Now(Action),
}

/// Why an act came to nothing.
pub(super) enum Trouble {
    System(Error),
    /// The directory of artifacts went away.
    Gone,
    Cause(Cause),
    Skip(Cause),
    /// The run is ending; nothing is told.
    Stop,
}

impl Trouble {
    pub(super) fn of_source(error: crate::base::source::SourceError) -> Self {
        match error {
            crate::base::source::SourceError::System(error) if error.is_out_of_descriptors() => Self::System(error),
            error if error.is_absent() => Self::Skip(look::source_trouble(&error).1),
            error => Self::Cause(look::source_trouble(&error).1),
        }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::System(error)
    }
}

/// Why nothing is compiled in a run that found nobody to do it.
pub(super) fn no_interpreter() -> Cause {
    Cause::new("no-interpreter", "no interpreter was found to compile it")
}

pub(super) fn signed() -> Cause {
    Cause::new("signed", "it is signed (IMA or fs-verity) and belongs to whoever signed it")
}

/// What was signed belongs to whoever signed it.
pub(super) fn refuse_signed(guard: &Guarded, entry: &Entry, found: &Found) -> Result<(), Trouble> {
    if found.judged.verdict == Verdict::Missing {
        return Ok(());
    }
    match guard.dir.open_file(&entry.artifact) {
        Ok(old) if sys::is_signed(&old, &guard.dir.path_of(&entry.artifact))? => Err(Trouble::Cause(signed())),
        Ok(_) => Ok(()),
        Err(error) if error.is_absent() => Ok(()),
        // A look that fails does not say that it is unsigned.
        Err(error) => Err(error.into()),
    }
}

fn planned(decision: Decision) -> Action {
    match decision {
        Decision::Leave => Action::None,
        Decision::Build => Action::Built,
        Decision::Restamp => Action::Restamped,
        Decision::Seal => Action::Sealed,
        Decision::Remove => Action::Removed,
        Decision::Sweep => Action::Swept,
    }
}
