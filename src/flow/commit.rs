//! The thread that flushes and renames what the others have staged, so that flushing runs beside compiling.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

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

/// What the committing thread is told.
pub(super) enum ToCommit {
    One(Box<Pending>),
    /// Somebody waits for what is staged.
    Flush,
    /// The run is over: commit what is staged and end.
    Stop,
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

struct Batch {
    pending: Vec<Pending>,
    bytes: u64,
    directories: HashSet<(u64, u64)>,
    since: Instant,
}

impl Run<'_> {
    /// Commits until it is told to stop.
    pub(super) fn commit_all(&self, receiver: &Receiver<ToCommit>, bounds: Bounds) {
        let mut batch = Batch { pending: Vec::new(), bytes: 0, directories: HashSet::new(), since: Instant::now() };
        loop {
            let wait = if batch.pending.is_empty() { Duration::from_secs(3600) } else { AGE.saturating_sub(batch.since.elapsed()) };
            let full = match receiver.recv_timeout(wait) {
                Ok(ToCommit::One(pending)) => {
                    if batch.pending.is_empty() {
                        batch.since = Instant::now();
                    }
                    batch.bytes += pending.staged.size();
                    batch.directories.insert(pending.staged.dir_id());
                    batch.pending.push(*pending);
                    batch.pending.len() >= bounds.files
                        || batch.bytes >= BYTES
                        || batch.directories.len() >= bounds.directories
                        || batch.since.elapsed() >= AGE
                }
                Ok(ToCommit::Flush) | Err(RecvTimeoutError::Timeout) => true,
                Ok(ToCommit::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    self.commit(&mut batch);
                    return;
                }
            };
            if full {
                self.commit(&mut batch);
            }
        }
    }

    fn commit(&self, batch: &mut Batch) {
        let pending = std::mem::take(&mut batch.pending);
        batch.bytes = 0;
        batch.directories.clear();
        if pending.is_empty() {
            return;
        }
        let _committed = Committed(&self.queue, pending.len());
        let (staged, told): (Vec<Staged>, Vec<_>) =
            pending.into_iter().map(|one| (one.staged, (one.folder, one.entry, one.told, one.action, one.warnings))).unzip();
        let places: Vec<_> = staged.iter().map(|one| (one.size(), one.dir_id())).collect();
        let outcomes = write::commit(staged, self.job.options.durability);
        for (((folder, entry, mut told, action, warnings), outcome), (size, dir)) in told.into_iter().zip(outcomes).zip(places) {
            match outcome {
                Ok(Outcome::Written) => self.tell(&folder, &entry, &told, action, &warnings, false, size),
                Ok(Outcome::Gone) => self.gone(&folder, Some(dir), Item::Entry(entry)),
                Err(error) => {
                    told.cause = Some(Cause::from(&error));
                    self.tell(&folder, &entry, &told, Action::Failed, &warnings, true, 0);
                }
            }
        }
    }
}

/// Counts artifacts as committed, also when a listener panics: others wait for them.
struct Committed<'q>(&'q Queue, usize);

impl Drop for Committed<'_> {
    fn drop(&mut self) {
        self.0.committed(self.1);
    }
}
