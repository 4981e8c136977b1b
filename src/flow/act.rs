//! What is done about entries: find out, take the lock, find out again with the same functions, act.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use crate::base::keep;
use crate::base::seal;
use crate::base::seam;
use crate::base::source::Source;
use crate::base::sys::{self, Time};
use crate::base::whereabouts::Whereabouts;
use crate::base::write::Staged;
use crate::base::{Error, FlawKind};
use crate::model::{Cause, CompileError, Entry, Made, Mode, Request, Verdict, Warning};
use crate::store::{Key, LinkMode};

use super::again;
use super::commit::Pending;
use super::examine::{self, Bad};
use super::find::Found;
use super::folder::{Folder, Guarded, Item};
use super::job::{Command, Maker};
use super::linked::Taken;
use super::look;
use super::policy::Decision;
use super::queue::{Locking, Task};
use super::report::Action;
use super::stored::Coded;
use super::{Run, Told};

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
        if found.decision == Decision::Restamp && self.job.options.dry_run {
            // A plan says only what would come of it: the quick look does not see every damage.
            match self.prove_plan(folder, entry, &mut found) {
                Err(Trouble::System(error)) if error.is_out_of_descriptors() && !self.is_starved() => return Work::AskAgain,
                Err(trouble) => {
                    self.tell_trouble_of(folder, entry, &mut found, trouble);
                    return Work::None;
                }
                Ok(()) => {}
            }
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

    /// Does what is to be done about one item, under the lock.
    pub(super) fn act(&self, guard: &Arc<Guarded>, item: Item) {
        match &item {
            Item::Entry(entry) => {
                // Into a directory that we made only an interpreter may have written, and what it wrote is as good as what it replaces.
                let artifacts = Some(&*guard.dir).filter(|_| !guard.made);
                let mut found = self.find(&guard.folder, artifacts, entry, false);
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
        match trouble {
            Trouble::System(error) if error.is_out_of_descriptors() && !self.is_starved() => {
                self.put_off(Task::Act(Arc::clone(guard), item));
            }
            Trouble::Gone => self.gone(&guard.folder, Some(guard.dir_id()), item),
            Trouble::System(error) if error.is_gone() => {
                tracing::debug!(cause = %error.sentence(), "begun anew");
                self.gone(&guard.folder, Some(guard.dir_id()), item);
            }
            Trouble::Claimed(key) => self.wait_for_claim(&guard.folder, item, key),
            trouble => self.tell_trouble_of(&guard.folder, entry, &mut found, trouble),
        }
    }

    /// Tells why nothing came of an entry.
    fn tell_trouble_of(&self, folder: &Folder, entry: &Entry, found: &mut Found, trouble: Trouble) {
        let (action, cause) = match trouble {
            Trouble::System(error) => (Action::Failed, Cause::from(&error)),
            Trouble::Cause(cause) => (Action::Failed, cause),
            Trouble::Skip(cause) => (Action::Skipped, cause),
            Trouble::Gone | Trouble::Claimed(_) | Trouble::Stop => return,
        };
        found.wrong = true;
        self.tell_entry(folder, entry, found, action, Some(&cause), &[]);
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
        let restamped = if found.decision == Decision::Restamp { self.restamp(guard, entry, found)? } else { None };
        if let Some(done) = restamped {
            return Ok(done);
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
        if !guard.is_in_place()? {
            // Nothing is compiled for a directory that went away.
            return Err(Trouble::Gone);
        }
        // Taken before the source is opened: an edit after this moment shows, see `judge`.
        let before = Time::now();
        let filename = guard.folder.absolute.join(&entry.source);
        let target = maker.compiler.target();
        // What is mended stays of the mode that it has: an image's artifacts go by a hash for a reason.
        let kept = found.mode.filter(|_| self.job.command == Command::Repair);
        let mode = self.job.options.mode.or(kept).unwrap_or(Mode::Timestamp);
        let source = self.open_source(sources, entry, mode)?;
        let told = |stored| Told { verdict: found.judged.verdict, cause: found.judged.cause.clone(), tag: found.tag.clone(), stored };
        let mut sharing = match self.job.options.link_mode {
            LinkMode::Copy => None,
            _ => self.sharing(guard, entry, maker, &source, level, mode).map_err(|why| self.copied(guard, entry, &why)).ok(),
        };
        let mut replaces = false;
        if let Some(sharing) = &mut sharing {
            sharing.absent = found.judged.verdict == Verdict::Missing;
            sharing.distrusts = self.job.command == Command::Repair || found.judged.damaged || found.judged.verdict.is_problem();
            match self.take_shared(sharing, guard, entry, &source, before) {
                Taken::Staged(staged) => {
                    self.stage_as(told(true), staged, guard, entry, Action::Built, Vec::new());
                    return Ok(Done::Staged);
                }
                Taken::Nothing { replaces: instead } => replaces = instead,
            }
        }
        let name = match &sharing {
            Some(sharing) => sharing.filename.clone(),
            None => self.code_name_of(&guard.folder, entry).into_os_string().into_encoded_bytes(),
        };
        let Coded { source, made, stored, fresh } = self.coded(maker, &guard.folder, sources, entry, source, level, &name)?;
        let payload = self.job.format.dress(target, mode, source.stat(), source.bytes(), &made.code);
        // A seal would prove whatever it was given. What the store has was looked at when it was made.
        let head = self.job.format.head(&payload[..payload.len().min(16)], Some(&target.tag), Some(target));
        match head.and_then(|head| if stored { Ok(()) } else { self.job.format.body(&head, &payload) }) {
            Err(flaw) if flaw.kind != FlawKind::Unknown => {
                let text = format!("what the interpreter answered is no code: {}", flaw.text);
                return Err(Trouble::Cause(Cause::new("compiler-wrong", text).at(filename)));
            }
            _ => {}
        }
        if let Some(fresh) = fresh {
            self.put(fresh, source.stat(), source.digest());
        }
        let label = self.job.format.label(&target.tag, level, &target.variant);
        let bytes = seal::sealed(payload, *source.digest(), label, false);
        let staged = match &sharing {
            Some(sharing) => self.stage_shared(sharing, guard, entry, &bytes, before, replaces),
            None => Staged::write(&guard.lock, &entry.artifact, &bytes, source.stat(), before),
        }?;
        self.has_built.store(true, Ordering::SeqCst);
        self.stage_as(told(stored), staged, guard, entry, Action::Built, made.warnings);
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

    /// The file name that the code of an entry shall carry.
    pub(super) fn code_name_of(&self, folder: &Folder, entry: &Entry) -> PathBuf {
        let filename = folder.absolute.join(&entry.source);
        let written = folder.sources.as_ref().map_or_else(|| filename.clone(), |sources| sources.path_of(&entry.source));
        self.code_name(&written, &filename)
    }

    /// Compiles a source as its folder names it.
    pub(super) fn compile(&self, maker: &Maker<'_>, folder: &Folder, entry: &Entry, source: &Source, level: u8) -> Result<Made, Trouble> {
        let name = self.code_name_of(folder, entry);
        self.compile_as(maker, folder, entry, source, level, std::os::unix::ffi::OsStrExt::as_bytes(name.as_os_str()))
    }

    /// Compiles a source under a name; what is wrong with it is told under its own.
    pub(super) fn compile_as(
        &self,
        maker: &Maker<'_>,
        folder: &Folder,
        entry: &Entry,
        source: &Source,
        level: u8,
        name: &[u8],
    ) -> Result<Made, Trouble> {
        let request = Request { source: &source.bytes, filename: name, level };
        maker.compiler.compile(&request).map_err(|error| self.compile_trouble(error, &folder.absolute.join(&entry.source)))
    }

    pub(super) fn maker_for(&self, entry: &Entry, found: &Found) -> Option<&Maker<'_>> {
        entry.maker.or_else(|| self.maker_of(found.tag.as_deref()?)).and_then(|index| self.job.makers.get(index))
    }

    pub(super) fn stage(&self, staged: Staged, guard: &Arc<Guarded>, entry: &Entry, found: &Found, action: Action, warnings: Vec<Warning>) {
        let told = Told { verdict: found.judged.verdict, cause: found.judged.cause.clone(), tag: found.tag.clone(), stored: false };
        self.stage_as(told, staged, guard, entry, action, warnings);
    }

    fn stage_as(&self, told: Told, staged: Staged, guard: &Arc<Guarded>, entry: &Entry, action: Action, warnings: Vec<Warning>) {
        self.queue.staged();
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

    /// Copies what is bad to where its owner wants to look at it, before it goes, with reports of what is wrong with it.
    pub(super) fn keep_bad(&self, guard: &Arc<Guarded>, entry: &Entry, found: &Found) -> Result<(), Trouble> {
        let Some(keep) = self.keep.as_ref().filter(|_| found.judged.damaged || found.judged.verdict.is_problem()) else { return Ok(()) };
        let from = guard.dir.path_of(&entry.artifact);
        let file = guard.dir.open_file(&entry.artifact)?;
        // Of the directory as it was before our own lock file changed its times.
        let stands = Whereabouts { dir: *guard.lock.dir_stat(), ..Whereabouts::of(&file, &guard.dir)? };
        let turn = look::in_turn(stands.file.size);
        let bytes = sys::read_all(&file, stands.file.size, look::LARGEST, &from)?;
        let examined = bytes.as_ref().map(|bytes| examine::examine(self.job.format, bytes, entry.tag.as_deref(), Some(&entry.source)));
        let report = examine::report(found.judged.verdict, found.judged.cause.as_ref(), examined.as_ref(), Some(&stands));
        drop(examined);
        let object = self.job.options.describe_bad.zip(bytes.as_deref()).map(|(describe, bytes)| {
            let (path, sources) = (&keep::absolute(&from), guard.folder.sources.as_ref());
            let (verdict, cause) = (found.judged.verdict, found.judged.cause.as_ref());
            describe(&Bad { path, bytes, entry, sources, stands: &stands, verdict, cause })
        });
        drop((bytes, turn));
        // Without the copy it does not go: an error here is this entry's, and never taken for one of its directory.
        let kept = keep::keep_copy(keep, &file, &from, &entry.artifact, &report, object.as_deref());
        kept.map_err(|error| Trouble::Cause(Cause::from(&error)))
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
        let told = Told { verdict: found.judged.verdict, cause: cause.cloned(), tag: found.tag.clone(), stored: false };
        self.tell(folder, entry, &told, action, warnings, found.wrong, found.bytes);
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
    /// Somebody else is compiling it.
    Claimed(Key),
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
