//! The queue of a run. What is nearest to being finished comes first, so that few folders are open and locked at one time and memory
//! does not grow with the tree: acts before looks, looks before scans. Busy folders come back.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::base::sys::Dir;

use super::folder::{Folder, Guarded, Item, Open, Tree};

/// How soon a task is tried again: at first, and at the latest. Between them a quarter of the time that was waited already, so that many
/// who wait for one holder do not spend the processor on asking.
const SOONEST: Duration = Duration::from_millis(25);
const LATEST: Duration = Duration::from_millis(400);

/// One piece of a run.
pub(super) enum Task {
    /// List a directory and look for folders in it.
    Scan(Arc<Tree>, PathBuf),
    /// Look at some items of a folder.
    Look(Arc<Folder>, Vec<Item>),
    /// Take a folder's lock for what is to be done in it.
    Lock(Locking),
    /// Do it, under the lock.
    Act(Arc<Guarded>, Item),
    /// See whether others are done with what they compile and this folder wants too; when it was taken up or found busy last.
    Await(Arc<Folder>, Instant),
}

/// A folder on its way to its lock.
pub(super) struct Locking {
    pub(super) folder: Arc<Folder>,
    pub(super) todo: Vec<Item>,
    /// Somebody else has it.
    pub(super) busy: Option<Busy>,
    /// Since when there is no descriptor for it.
    pub(super) starved: Option<Instant>,
}

/// A lock that is waited for.
pub(super) struct Busy {
    pub(super) since: Instant,
    /// For how long it is.
    pub(super) limit: Duration,
    /// When it was tried last.
    pub(super) tried: Instant,
    /// The directory, as it was then.
    pub(super) dir: Arc<Dir>,
    /// Was it told that we wait?
    pub(super) told: bool,
}

#[derive(Default)]
struct State {
    acts: VecDeque<Task>,
    locks: Vec<Task>,
    looks: Vec<Task>,
    scans: Vec<Task>,
    later: VecDeque<(Instant, Task)>,
    /// Tasks that are in a thread's hands, and artifacts that are staged and not yet committed: either may bring new tasks.
    running: usize,
    staged: usize,
    /// Threads that wait for a task: where none does, nobody is woken, since waking is a system call even then.
    waiting: usize,
    closed: bool,
}

/// What a thread is told to do next.
pub(super) enum Next {
    /// This.
    Task(Task),
    /// Nothing now; what is staged may be what others wait for.
    Idle,
    /// The run is over.
    Done,
}

/// See the module.
#[derive(Default)]
pub(super) struct Queue {
    /// The folders that are open, and how many may be before another directory is scanned: each holds descriptors.
    open: Open,
    most_open: usize,
    /// Others are at work on the same sources: go another way than they do.
    spread: AtomicBool,
    state: Mutex<State>,
    wake: Condvar,
}

impl Queue {
    pub(super) fn new(open: Open, most_open: usize) -> Self {
        Self { open, most_open, ..Self::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, task: Task) {
        let mut state = self.state();
        match task {
            Task::Act(..) => state.acts.push_back(task),
            Task::Lock(_) | Task::Await(..) => state.locks.push(task),
            Task::Look(..) => state.looks.push(task),
            Task::Scan(..) => state.scans.push(task),
        }
        self.wake_one(state);
    }

    /// Comes back to a task after a while.
    pub(super) fn push_later(&self, task: Task) {
        let waited = match &task {
            Task::Lock(locking) => locking.busy.as_ref().map(|busy| busy.since.elapsed()),
            Task::Await(_, since) => Some(since.elapsed()),
            _ => None,
        };
        let when = Instant::now() + waited.map_or(SOONEST, |waited| (waited / 4).clamp(SOONEST, LATEST));
        let mut state = self.state();
        let at = state.later.partition_point(|(other, _)| *other <= when);
        state.later.insert(at, (when, task));
        self.wake_one(state);
    }

    fn wake_one(&self, state: MutexGuard<'_, State>) {
        let waiting = state.waiting > 0;
        drop(state);
        if waiting {
            self.wake.notify_one();
        }
    }

    /// The next task. [`Next::Idle`] comes once each time that a thread has nothing to do; asked again with `patient`, it waits.
    /// A task that was handed out is counted until [`Queue::finished`].
    pub(super) fn next(&self, patient: bool) -> Next {
        let mut state = self.state();
        loop {
            if state.closed {
                return Next::Done;
            }
            let now = Instant::now();
            let due = state.later.front().is_some_and(|(when, _)| *when <= now);
            let task = match self.first(&mut state.acts).or_else(|| self.last(&mut state.locks)).or_else(|| self.last(&mut state.looks)) {
                Some(task) => Some(task),
                None if due => state.later.pop_front().map(|(_, task)| task),
                None if self.is_full(&state) => None,
                None => self.last(&mut state.scans),
            };
            if let Some(task) = task {
                state.running += 1;
                return Next::Task(task);
            }
            if state.running == 0 && state.staged == 0 && state.later.is_empty() {
                state.closed = true;
                self.wake.notify_all();
                return Next::Done;
            }
            if !patient {
                return Next::Idle;
            }
            let wait = state.later.front().map_or(Duration::from_millis(200), |(when, _)| when.saturating_duration_since(now));
            state.waiting += 1;
            state = self.wake.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
            state.waiting -= 1;
        }
    }

    /// From now on what is equally near is taken in any order, and no longer in that of the tree.
    pub(super) fn spread(&self) {
        self.spread.store(true, Ordering::Relaxed);
    }

    fn first(&self, tasks: &mut VecDeque<Task>) -> Option<Task> {
        if self.spread.load(Ordering::Relaxed) { tasks.swap_remove_front(any(tasks.len())) } else { tasks.pop_front() }
    }

    fn last(&self, tasks: &mut Vec<Task>) -> Option<Task> {
        let is_spread = self.spread.load(Ordering::Relaxed) && !tasks.is_empty();
        if is_spread { Some(tasks.swap_remove(any(tasks.len()))) } else { tasks.pop() }
    }

    /// Must folders be closed before another directory is scanned? With a single one allowed, all work in it must be done. What waits for
    /// a lock is open too, and ends some day: nobody waits for ever.
    fn is_full(&self, state: &State) -> bool {
        let waits = |(_, task): &(Instant, Task)| !matches!(task, Task::Scan(..));
        let busy = state.running > 0 || state.staged > 0 || state.later.iter().any(waits);
        busy && (self.most_open == 1 || self.open.count() >= self.most_open)
    }

    /// A task that [`Queue::next`] handed out is done.
    pub(super) fn finished(&self) {
        let mut state = self.state();
        state.running -= 1;
        let waited_for = state.running == 0 || self.open.count() + 1 >= self.most_open;
        drop(state);
        if waited_for {
            self.wake.notify_all();
        }
    }

    /// Is only the one who asks at work, with nothing staged?
    pub(super) fn is_alone(&self) -> bool {
        let state = self.state();
        state.running <= 1 && state.staged == 0
    }

    /// An artifact was staged and will be committed.
    pub(super) fn staged(&self) {
        self.state().staged += 1;
    }

    /// So many staged artifacts were committed.
    pub(super) fn committed(&self, count: usize) {
        let mut state = self.state();
        state.staged -= count;
        drop(state);
        self.wake.notify_all();
    }

    /// Ends the run: what is queued is dropped.
    pub(super) fn close(&self) {
        let dropped = {
            let mut state = self.state();
            state.closed = true;
            (
                std::mem::take(&mut state.acts),
                std::mem::take(&mut state.locks),
                std::mem::take(&mut state.looks),
                std::mem::take(&mut state.later),
            )
        };
        // Dropped outside the queue's own lock: guards of folders release their locks here.
        drop(dropped);
        self.wake.notify_all();
    }
}

/// Any number below this one, another in each process. 0 of none.
fn any(end: usize) -> usize {
    // Each state of this kind has keys of its own.
    let number = RandomState::new().hash_one(end) % u64::try_from(end.max(1)).unwrap_or(u64::MAX);
    usize::try_from(number).unwrap_or(0)
}
