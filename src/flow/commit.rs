//! The thread that flushes and renames what the others have staged, so that flushing runs beside compiling.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::base::seam;
use crate::base::sys::Dir;
use crate::base::write::{self, Outcome, Staged};
use crate::model::{Cause, Entry, Warning};

use super::folder::{Folder, Item};
use super::queue::Queue;
use super::report::Action;
use super::{Run, Told};

/// A batch is committed when it has so many files, bytes or directories, or is so old: see [`Bounds::within`] for few descriptors.
const FILES: usize = 512;
const BYTES: u64 = 64 << 20;
const DIRECTORIES: usize = 64;
const FOLDERS: usize = 1024;
const AGE: Duration = Duration::from_millis(200);

/// Something that was staged, with what is told once it stands.
pub(super) struct Pending {
    pub(super) staged: Staged,
    pub(super) folder: Arc<Folder>,
    pub(super) entry: Entry,
    pub(super) told: Told,
    pub(super) action: Action,
    pub(super) warnings: Vec<Warning>,
}

/// How large a batch may grow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) files: usize,
    directories: usize,
    /// So many folders may be open before another directory is scanned.
    pub(super) folders: usize,
}

impl Bounds {
    /// Bounds that share the process's descriptors: an eighth for the files of a batch, as many for those that are staged meanwhile, half
    /// for folders, at four each.
    pub(super) fn within(descriptors: u64) -> Self {
        if descriptors < super::FEW_DESCRIPTORS {
            return Self { files: usize::try_from(descriptors / 16).unwrap_or(1).max(1), directories: 1, folders: 1 };
        }
        let share = usize::try_from(descriptors / 8).unwrap_or(usize::MAX);
        Self { files: share.clamp(1, FILES), directories: share.clamp(1, DIRECTORIES), folders: share.clamp(1, FOLDERS) }
    }
}

/// What is staged and waits for the committing thread. Not a channel: that would wake its reader for each file, and on a busy machine each
/// time take a processor from a compiler. The thread is woken when it has to set its alarm, and when a batch is full.
pub(super) struct Inbox {
    bounds: Bounds,
    state: Mutex<Waiting>,
    wake: Condvar,
    room: Condvar,
}

struct Waiting {
    pending: Vec<Pending>,
    bytes: u64,
    directories: HashSet<(u64, u64)>,
    since: Instant,
    /// Somebody waits for what is staged.
    flush: bool,
    /// Nothing more comes.
    over: bool,
    /// Nobody commits any more.
    closed: bool,
}

impl Waiting {
    fn is_full(&self, bounds: &Bounds) -> bool {
        self.pending.len() >= bounds.files || self.bytes >= BYTES || self.directories.len() >= bounds.directories
    }
}

impl Inbox {
    pub(super) fn new(bounds: Bounds) -> Self {
        let (pending, directories) = (Vec::new(), HashSet::new());
        let waiting = Waiting { pending, bytes: 0, directories, since: Instant::now(), flush: false, over: false, closed: false };
        Self { bounds, state: Mutex::new(waiting), wake: Condvar::new(), room: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what is staged; waits while a whole batch waits already. `false`: nobody commits any more.
    fn put(&self, pending: Pending) -> bool {
        // As much may be staged during a commit as goes into one: else the compilers would wait for the disk.
        let mut state = self.state();
        while !state.closed && state.pending.len() >= self.bounds.files {
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return false;
        }
        let first = state.pending.is_empty();
        if first {
            state.since = Instant::now();
        }
        state.bytes += pending.staged.size();
        state.directories.insert(pending.staged.dir_id());
        state.pending.push(pending);
        let wakes = first || state.is_full(&self.bounds);
        drop(state);
        if wakes {
            self.wake.notify_one();
        }
        true
    }

    /// Commits what is staged soon: somebody waits for it.
    pub(super) fn flush(&self) {
        let mut state = self.state();
        if state.pending.is_empty() || std::mem::replace(&mut state.flush, true) {
            return;
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Nothing more comes: what is staged is committed, and the committing thread ends.
    pub(super) fn end(&self) {
        self.state().over = true;
        self.wake.notify_one();
    }

    /// The next batch, when it is due. `None`: there is none any more.
    fn take(&self) -> Option<Vec<Pending>> {
        let mut state = self.state();
        loop {
            let age = state.since.elapsed();
            let some = !state.pending.is_empty();
            if state.over && !some {
                return None;
            }
            if some && (state.over || state.flush || age >= AGE || state.is_full(&self.bounds)) {
                state.bytes = 0;
                state.flush = false;
                state.directories.clear();
                let batch = std::mem::take(&mut state.pending);
                drop(state);
                self.room.notify_all();
                return Some(batch);
            }
            state = if some {
                self.wake.wait_timeout(state, AGE.saturating_sub(age)).unwrap_or_else(PoisonError::into_inner).0
            } else {
                self.wake.wait(state).unwrap_or_else(PoisonError::into_inner)
            };
        }
    }
}

/// Lets nobody wait for a thread that is gone, also when a listener made it panic.
struct Closed<'i>(&'i Inbox);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        let left = {
            let mut state = self.0.state();
            state.closed = true;
            std::mem::take(&mut state.pending)
        };
        self.0.room.notify_all();
        // Their temp files go with them, outside the inbox's lock.
        drop(left);
    }
}

impl Run<'_> {
    /// Commits until nothing more comes.
    pub(super) fn commit_all(&self) {
        let _closed = Closed(&self.inbox);
        while let Some(batch) = self.inbox.take() {
            self.commit(batch);
        }
    }

    /// Hands over what is staged.
    pub(super) fn commit_soon(&self, pending: Pending) {
        if !self.inbox.put(pending) {
            // Only where a listener panicked: then the run ends, and what was staged is removed by its own drop.
            tracing::debug!("the committing thread is gone");
            self.queue.close();
        }
    }

    fn commit(&self, pending: Vec<Pending>) {
        let _committed = Committed(&self.queue, pending.len());
        let (staged, told): (Vec<Staged>, Vec<_>) =
            pending.into_iter().map(|one| (one.staged, (one.folder, one.entry, one.told, one.action, one.warnings))).unzip();
        let places: Vec<_> = staged.iter().map(|one| (one.size(), one.dir_id(), one.second().cloned())).collect();
        let outcomes = write::commit(staged, self.job.options.durability);
        let mut stands: HashMap<(u64, u64), Stands> = HashMap::new();
        for (((folder, entry, mut told, action, warnings), outcome), (size, dir, second)) in told.into_iter().zip(outcomes).zip(places) {
            if let Some(second) = second {
                self.told_second(&second);
            }
            match outcome {
                Ok(Outcome::Written) => match stands.entry(dir).or_insert_with(|| stands_now(&folder, dir)) {
                    Stands::Here => self.tell(&folder, &entry, &told, action, &warnings, false, size),
                    Stands::Gone => self.gone(&folder, Some(dir), Item::Entry(entry)),
                    Stands::Moved(cause) => {
                        told.cause = Some(cause.clone());
                        self.tell(&folder, &entry, &told, Action::Failed, &warnings, true, 0);
                    }
                },
                Ok(Outcome::Gone) => self.gone(&folder, Some(dir), Item::Entry(entry)),
                Err(error) => {
                    told.cause = Some(Cause::from(&error));
                    self.tell(&folder, &entry, &told, Action::Failed, &warnings, true, 0);
                }
            }
        }
    }
}

/// Where a directory of artifacts is after something was written into it.
enum Stands {
    /// Where its path says.
    Here,
    /// Removed or replaced; its sources, or its prefix, are where they were.
    Gone,
    /// It went with a directory above it.
    Moved(Cause),
}

/// What was written stands in the directory that was opened, wherever that is now; what was asked for is that it stands under its path.
fn stands_now(folder: &Folder, dir: (u64, u64)) -> Stands {
    if seam::without("gone-directory") {
        return Stands::Here;
    }
    let is_home = |home: &Dir| Dir::is_at(home.path(), home.stat()?.id());
    let stands = Dir::is_at(&folder.path, dir).and_then(|here| match folder.home_dir() {
        _ if here => Ok(Stands::Here),
        Some(home) if is_home(home)? => Ok(Stands::Gone),
        _ => {
            let text = "it, or a directory above it, was moved or replaced meanwhile: what was written went with it";
            Ok(Stands::Moved(Cause::new("moved", text).at(&folder.path)))
        }
    });
    stands.unwrap_or_else(|error| Stands::Moved(Cause::from(&error)))
}

/// Counts artifacts as committed, also when a listener panics: others wait for them.
struct Committed<'q>(&'q Queue, usize);

impl Drop for Committed<'_> {
    fn drop(&mut self) {
        self.0.committed(self.1);
    }
}
