//! One pipeline, `scan → judge → act → report`, is compile, verify, repair, clean, seal, add, status and explain; a command is a column of one table
//! ([`policy`]). It names neither a language nor the command line: it holds a [`Format`](crate::model::Format) and
//! [`Compiler`](crate::model::Compiler)s.
//!
//! - Looking takes no lock. A folder where nothing is to be done is finished without one; else its lock is *tried*, and each entry is
//!   looked at and judged again under it, with the same functions, before anything is done.
//! - A header that is wrong around code that is right is renewed without a compiler (`restamp`), so also where there is none.
//! - Nobody waits for anything but the compiler and the disk while holding a lock: no order of folders can deadlock.
//! - A bad entry is an [`Event`], never an `Err`; an `Err` means that nothing could be done.
//! - No signal handler touches files: whoever wants the run to end sets [`Job::stop`](job::Job::stop).

mod act;
mod again;
mod claimed;
mod commit;
pub mod examine;
mod explain;
mod find;
mod folder;
pub mod import;
pub mod job;
pub mod judge;
mod linked;
mod locking;
pub(crate) mod look;
pub mod policy;
mod queue;
mod reach;
pub mod report;
mod reread;
mod restamp;
pub(crate) mod roots;
mod scan;
mod stored;
mod sweep;
mod trim;

use std::collections::{HashMap, HashSet};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::base::Error;
use crate::base::lock::DirLock;
use crate::base::sys::{self, Dir, Name, Time};
use crate::base::user::User;
use crate::base::write::Durability;
use crate::ignored;
use crate::model::{Cause, Entry, Verdict, Warning};
use crate::store::Store;

use commit::{Bounds, Inbox};
use folder::{Folder, Open};
use queue::{Next, Queue, Task};
use reach::Reach;

pub use import::{Answer, Outcome};
pub use job::{Clean, CodeNames, Command, Describe, Exclude, Explain, Job, JobError, Listed, Maker, Options, Root, What};
pub use report::{Action, AnswerEvent, EntryEvent, Event, Report, Summary};

/// With fewer descriptors than this, one folder is worked on after the other, and a store is better done without.
pub const FEW_DESCRIPTORS: u64 = 256;

/// For so long at least others in this process may give descriptors back.
const STARVED: Duration = Duration::from_secs(10);

/// Since when tasks are put off for want of descriptors without anything being done.
struct Starved {
    done: u64,
    since: Instant,
    over: bool,
}

/// A verdict on its way to be told.
#[derive(Debug, Clone)]
struct Told {
    verdict: Verdict,
    cause: Option<Cause>,
    tag: Option<Arc<str>>,
    /// Was its code in the store?
    stored: bool,
}

/// A run under way: what all its threads share.
struct Run<'r> {
    job: &'r Job<'r>,
    report: &'r dyn Report,
    queue: Queue,
    inbox: Inbox,
    /// A directory, and where below it the prefix is: not there yet where nothing was written to it.
    prefix: Option<(Arc<Dir>, PathBuf)>,
    /// Where copies of what is bad are kept.
    keep: Option<Dir>,
    open: Open,
    /// The locks that this run holds, by device and inode of their directories.
    held: Mutex<HashMap<(u64, u64), Weak<DirLock>>>,
    /// What the user may do for whom `explain` answers.
    reach: Option<Reach>,
    /// What `clean` removes was made before this.
    made_before: Option<Time>,
    summary: Mutex<Summary>,
    done: AtomicU64,
    known: AtomicU64,
    noted: Mutex<HashSet<&'static str>>,
    /// Why nothing can be done at all.
    fatal: Mutex<Option<String>>,
    /// Has the compiler been of use? Then what it cannot do later is not all.
    has_built: AtomicBool,
    starved: Mutex<Starved>,
    halted: AtomicBool,
    /// Was a lock waited for until the time-out?
    waited_in_vain: AtomicBool,
    /// What others are compiling, and this run wants too.
    waits: claimed::Waits,
    /// One lock is taken and noted after the other: else a thread would find busy, and not its own, what another is just taking.
    taking: Mutex<()>,
    deadline: Option<Instant>,
}

/// Runs a job to its end. What happens is told to `report`, from several threads; what it came to is returned.
///
/// # Errors
/// Only where nothing could be done at all: no thread can be had, an interpreter cannot be used. A root that is not there is told as an entry.
pub fn run(job: &Job<'_>, report: &dyn Report) -> Result<Summary, JobError> {
    let started = Instant::now();
    check_makers(job)?;
    let trees = roots::roots(job)?;
    let prefix = match &job.options.prefix {
        Some(path) => Some(open_prefix(path, job)?),
        None => None,
    };
    let keep = job.options.keep_bad.as_ref().map(|path| open_or_make(path)).transpose()?;
    let descriptors = sys::raise_open_file_limit();
    let open = Open::default();
    let bounds = Bounds::within(descriptors);
    let frugal = descriptors < FEW_DESCRIPTORS;
    let run = Run {
        job,
        report,
        queue: Queue::new(open.clone(), bounds.folders),
        open,
        keep,
        held: Mutex::default(),
        inbox: Inbox::new(bounds),
        prefix,
        reach: (job.command == Command::Explain).then(|| Reach::of(job.options.explain.user.clone().unwrap_or_else(User::caller))),
        made_before: trim::limit(job)?,
        summary: Mutex::default(),
        done: AtomicU64::new(0),
        known: AtomicU64::new(0),
        noted: Mutex::default(),
        fatal: Mutex::default(),
        has_built: AtomicBool::new(false),
        starved: Mutex::new(Starved { done: 0, since: started, over: false }),
        halted: AtomicBool::new(false),
        waited_in_vain: AtomicBool::new(false),
        waits: claimed::Waits::default(),
        taking: Mutex::default(),
        deadline: job.options.max_time.and_then(|limit| started.checked_add(limit)),
    };
    for maker in &job.makers {
        let target = maker.compiler.target();
        if job.options.mode.is_some_and(|wanted| job.format.kept_mode(target, wanted) != wanted) {
            let text = format!("{} knows no artifacts that go by a hash: its own go by time", target.tag);
            run.note_once("no-hashes", Path::new(""), &text);
        }
    }
    for tree in trees {
        run.queue.push(Task::Scan(tree, PathBuf::new()));
    }
    // What came before may have taken all of the time.
    run.watch();
    let threads = threads(job, descriptors);
    let left = AtomicUsize::new(0);
    let here = std::thread::current();
    let until_left = |number| {
        while left.load(Ordering::SeqCst) < number {
            run.watch();
            std::thread::park_timeout(Duration::from_millis(20));
        }
        left.store(0, Ordering::SeqCst);
    };
    std::thread::scope(|scope| {
        let run = &run;
        if frugal && is_compiling(job) {
            // Starting a compiler takes more descriptors than keeping one, and now the most are free.
            // Without a thread for it (`ulimit -u`) they are started later, if at all.
            let prepared = std::thread::Builder::new().spawn_scoped(scope, || {
                let _leave = Leave(&left, &here);
                job.makers.iter().for_each(|maker| maker.levels.iter().for_each(|level| maker.compiler.prepare(*level)));
            });
            until_left(usize::from(prepared.is_ok()));
        }
        // Not `scope.spawn`: that panics where no thread can be had, and those that run would wait for ever.
        std::thread::Builder::new().spawn_scoped(scope, move || {
            let _close = Close(&run.queue);
            run.commit_all();
        })?;
        let mut begun = 0;
        let mut refused = Ok(());
        for _ in 0..threads {
            let work = || {
                let _leave = Leave(&left, &here);
                run.work();
            };
            match std::thread::Builder::new().spawn_scoped(scope, work) {
                Ok(_) => begun += 1,
                Err(cause) if begun > 0 => tracing::debug!(%cause, "one thread less"),
                Err(cause) => refused = Err(cause),
            }
        }
        until_left(begun);
        run.inbox.end();
        if begun > 0 { Ok(()) } else { refused }
    })
    .map_err(JobError::Threads)?;
    if let Some(memo) = job.options.memo {
        ignored!(memo.save(), "what was found sound is not remembered");
    }
    if let Some(store) = job.options.store {
        run.leave_store(store);
    }
    if let Some(reason) = run.fatal.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(JobError::Compiler(reason));
    }
    let mut summary = run.summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.elapsed = started.elapsed();
    summary.store = job.options.store.map(Store::counts);
    let halted = run.halted.load(Ordering::SeqCst);
    // A compiler that another run has stopped leaves everything undone, and nobody has told so.
    let without_compiler = !halted && job.makers.iter().any(|maker| maker.compiler.is_stopped());
    summary.stopped = job.stop.load(Ordering::SeqCst) || without_compiler;
    summary.out_of_time = halted && !summary.stopped;
    Ok(summary)
}

fn is_compiling(job: &Job<'_>) -> bool {
    matches!(job.command, Command::Compile | Command::Repair | Command::Add) || job.options.recompile
}

/// How many threads: as many as judge, or as keep the compilers busy; few where descriptors are few.
fn threads(job: &Job<'_>, descriptors: u64) -> usize {
    let width = job.makers.iter().map(|maker| maker.compiler.width()).max().unwrap_or(1);
    let wanted = if is_compiling(job) { width.max(job.options.jobs) } else { job.options.jobs };
    let few = usize::try_from(descriptors / 16).unwrap_or(usize::MAX);
    wanted.clamp(1, few.max(1))
}

fn check_makers(job: &Job<'_>) -> Result<(), JobError> {
    let mut seen = HashSet::new();
    for maker in &job.makers {
        let target = maker.compiler.target();
        if job.options.prefix.is_some() && !job.format.knows_prefix(target) {
            let text = format!("{} knows no pycache prefix: it looks for its artifacts beside their sources only", target.tag);
            return Err(JobError::Conflict(text));
        }
        let names = maker.levels.iter().filter_map(|level| job.format.artifact_name(job.format.example(), target, *level));
        for name in names {
            if !seen.insert(name.clone()) {
                let name = name.as_os_str().display();
                return Err(JobError::Conflict(format!(
                    "two of the interpreters and levels named would write the same artifact (`{name}`)"
                )));
            }
        }
    }
    Ok(())
}

/// Opens the directory for evidence; where only that is missing it is made, for this user alone.
fn open_or_make(path: &Path) -> crate::base::Result<Dir> {
    match (Dir::open_root(path), path.file_name().and_then(Name::new)) {
        (Err(error), Some(name)) if error.is_absent() => {
            let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
            Dir::open_root(above)?.make_dir(&name, 0o700)?;
            Dir::open_root(path)
        }
        (opened, _) => opened,
    }
}

/// Opens the directory that artifacts stand in instead of beside their sources; `compile` makes it, with those above it, and flushes
/// their names: what is written there later is durable only if the way to it is.
fn open_prefix(path: &Path, job: &Job<'_>) -> Result<(Arc<Dir>, PathBuf), JobError> {
    let makes = job.command == Command::Compile && !job.options.dry_run && !job.makers.is_empty();
    if makes {
        let absolute = std::path::absolute(path).map_err(|cause| Error::new("find", path, cause))?;
        let missing: Vec<&Path> = absolute.ancestors().take_while(|above| !above.exists()).collect();
        for dir in missing.into_iter().rev() {
            let (Some(above), Some(name)) = (dir.parent(), dir.file_name().and_then(Name::new)) else { continue };
            let above = Dir::open_root(above)?;
            above.make_dir(&name, 0o777)?;
            if job.options.durability != Durability::None {
                above.sync()?;
            }
        }
    }
    match Dir::open_root(path) {
        Ok(dir) => Ok((Arc::new(dir), PathBuf::new())),
        // Not there yet, and nothing is written now: everything is missing in it.
        Err(error) if error.is_gone() && !makes => {
            let there = path.ancestors().find(|above| above.is_dir()).ok_or(error)?;
            // Up to a `..`: that leads nowhere from what is not there.
            let below =
                path.strip_prefix(there).unwrap_or(path).components().take_while(|part| matches!(part, Component::Normal(_))).collect();
            Ok((Arc::new(Dir::open_root(there)?), below))
        }
        Err(error) => Err(error.into()),
    }
}

impl Run<'_> {
    /// One thread's life.
    fn work(&self) {
        let mut patient = false;
        loop {
            match self.queue.next(patient) {
                Next::Done => return,
                // Nothing to do for us: then what is staged shall not wait for more.
                Next::Idle => {
                    self.inbox.flush();
                    patient = true;
                }
                Next::Task(task) => {
                    patient = false;
                    let finish = Finish(&self.queue);
                    match task {
                        Task::Scan(tree, relative) => self.scan(&tree, &relative),
                        Task::Look(folder, items) => self.look_at(&folder, items),
                        Task::Lock(locking) => self.take_lock(locking),
                        Task::Await(folder, since) => self.await_claims(folder, since),
                        Task::Act(guard, item) => self.act(&guard, item),
                    }
                    drop(finish);
                }
            }
        }
    }

    /// Ends the run when somebody asks for it or its time is over.
    fn watch(&self) {
        let over = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if (over || self.job.stop.load(Ordering::SeqCst)) && !self.halted.swap(true, Ordering::SeqCst) {
            self.queue.close();
            // One source may take a compiler longer than the whole run has.
            self.job.makers.iter().for_each(|maker| maker.compiler.stop());
        }
    }

    /// Ends the run because its compiler cannot be used.
    fn fatal(&self, reason: String) {
        self.fatal.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        self.queue.close();
    }

    /// Comes back to a task for which there are no descriptors: others in this process will close theirs, above all what is staged.
    ///
    /// Ask [`Run::is_starved`] before: where nobody will close any, that would be for ever.
    fn put_off(&self, task: Task) {
        self.inbox.flush();
        self.queue.push_later(task);
    }

    /// Have there been too few descriptors for so long, while nothing else was under way, that there will never be more?
    fn is_starved(&self) -> bool {
        let done = self.done.load(Ordering::Relaxed);
        let mut starved = self.starved.lock().unwrap_or_else(PoisonError::into_inner);
        if !starved.over && (starved.done != done || !self.queue.is_alone()) {
            (starved.done, starved.since) = (done, Instant::now());
        }
        starved.over |= starved.since.elapsed() >= STARVED;
        starved.over
    }

    /// So many more items are known of.
    fn know(&self, count: usize) {
        self.known.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// So many items turned out to be none.
    fn forget(&self, count: usize) {
        self.known.fetch_sub(count as u64, Ordering::Relaxed);
    }

    #[allow(clippy::too_many_arguments, reason = "one place where an event is put together")]
    fn tell(&self, folder: &Folder, entry: &Entry, told: &Told, action: Action, warnings: &[Warning], wrong: bool, bytes: u64) {
        let artifact = folder.path.join(&entry.artifact);
        let has_source = !matches!(told.verdict, Verdict::Orphan | Verdict::Sourceless);
        let source = folder.sources.as_ref().filter(|_| has_source).map(|dir| dir.path_of(&entry.source));
        self.emit(&EntryEvent {
            artifact: &artifact,
            source: source.as_deref(),
            tag: told.tag.as_deref(),
            level: entry.level.number(),
            verdict: told.verdict,
            action,
            cause: told.cause.as_ref(),
            warnings,
            wrong,
            bytes,
            stored: told.stored,
        });
    }

    fn emit(&self, event: &EntryEvent<'_>) {
        self.summary.lock().unwrap_or_else(PoisonError::into_inner).count(event);
        self.report.event(&Event::Entry(*event));
        self.progress();
    }

    /// One more is finished.
    fn progress(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        self.report.event(&Event::Progress { done, known: self.known.load(Ordering::Relaxed).max(done) });
    }

    fn count_answer(&self, wrong: bool) {
        let mut summary = self.summary.lock().unwrap_or_else(PoisonError::into_inner);
        summary.entries += 1;
        summary.wrong += u64::from(wrong);
    }

    /// Tells something of a path that is no entry: a left-over, a directory.
    fn tell_path(&self, path: &Path, verdict: Verdict, action: Action, cause: Option<&Cause>, wrong: bool) {
        let (source, tag, level, warnings, bytes) = (None, None, None, &[][..], 0);
        self.emit(&EntryEvent { artifact: path, source, tag, level, verdict, action, cause, warnings, wrong, bytes, stored: false });
    }

    fn tell_directory(&self, error: &Error) {
        self.tell_path(&error.path, Verdict::Unreadable, Action::Failed, Some(&Cause::from(error)), true);
    }

    fn tell_trouble(&self, path: &Path, verdict: Verdict, cause: &Cause) {
        self.tell_path(path, verdict, Action::None, Some(cause), policy::is_wrong(self.job.command, verdict, false));
    }

    fn is_noted(&self, code: &'static str) -> bool {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).contains(code)
    }

    fn note_once(&self, code: &'static str, path: &Path, text: &str) {
        if self.noted.lock().unwrap_or_else(PoisonError::into_inner).insert(code) {
            self.report.event(&Event::Note { code, text, path });
        }
    }
}

/// Ends the run with the committing thread, also when a listener made that panic: nothing that is staged would ever be finished.
struct Close<'q>(&'q Queue);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Counts a task as finished, also when it panics.
struct Finish<'q>(&'q Queue);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.finished();
    }
}

/// Counts a thread as gone, also when it panics, and wakes the one that waits for all of them.
struct Leave<'r>(&'r AtomicUsize, &'r std::thread::Thread);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
        self.1.unpark();
    }
}
