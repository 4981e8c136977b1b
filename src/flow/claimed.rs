//! Entries whose source somebody else is compiling at this moment: their folder is let go, others are taken first, and they come back when
//! the claim is gone, most likely to find what they want in the store. See [`crate::store::Claiming`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::store::{Claim, Claiming, Key, Store};

use super::Run;
use super::act::Trouble;
use super::folder::{Folder, Item};
use super::queue::{Locking, Task};

/// The entries of a folder that wait for claims of others.
#[derive(Default)]
pub(super) struct Claimed {
    waiting: Vec<(Item, Key)>,
    /// Is the folder in the queue for them?
    queued: bool,
}

/// The claims that a run found busy.
#[derive(Default)]
pub(super) struct Waits {
    /// Since when.
    since: Mutex<HashMap<Key, Instant>>,
    /// Was one waited for until the time-out? Then none is any more: whoever holds it may hold others.
    in_vain: AtomicBool,
}

impl Waits {
    /// For how long a key has been waited for.
    fn of(&self, key: &Key) -> Duration {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.entry(key.clone()).or_insert_with(Instant::now).elapsed()
    }

    /// It is waited for no longer.
    pub(super) fn end(&self, key: &Key) {
        self.since.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

impl Run<'_> {
    /// The claim of a key that the store does not have. `None`: it is compiled without one.
    pub(super) fn claim<'s>(&self, store: &'s Store, key: &Key) -> Result<Option<Claim<'s>>, Trouble> {
        match store.claim(key) {
            Claiming::Held(claim) => Ok(Some(claim)),
            Claiming::Useless => Ok(None),
            Claiming::Busy { .. } if self.has_waited(key) => {
                if !self.waits.in_vain.swap(true, Ordering::SeqCst) && !self.job.options.lock_timeout.is_zero() {
                    let seconds = self.job.options.lock_timeout.as_secs_f64();
                    let text =
                        format!("another process has claimed a source for {seconds} s: it is compiled here, and no claim is waited for");
                    self.note_once("claim", &store.path(), &text);
                }
                Ok(None)
            }
            Claiming::Busy { here } => {
                if !here {
                    // Who is at work on the same sources goes the same way through them: take another.
                    self.queue.spread();
                }
                Err(Trouble::Claimed(key.clone()))
            }
        }
    }

    fn has_waited(&self, key: &Key) -> bool {
        self.waits.in_vain.load(Ordering::SeqCst) || self.waits.of(key) >= self.job.options.lock_timeout
    }

    /// Comes back to an entry later. It holds nothing meanwhile: the folder is let go with the last entry that is at work in it.
    pub(super) fn wait_for_claim(&self, folder: &Arc<Folder>, item: Item, key: Key) {
        let mut claimed = folder.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        claimed.waiting.push((item, key));
        if !std::mem::replace(&mut claimed.queued, true) {
            self.queue.push_later(Task::Await(Arc::clone(folder), Instant::now()));
        }
    }

    /// Takes up again what waits no longer in a folder; for the rest it is looked again later.
    pub(super) fn await_claims(&self, folder: Arc<Folder>, since: Instant) {
        let Some(store) = self.job.options.store else { return };
        let mut claimed = folder.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = std::mem::take(&mut claimed.waiting);
        let (ready, waiting): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(_, key)| !store.is_claimed(key) || self.has_waited(key));
        claimed.queued = !waiting.is_empty();
        claimed.waiting = waiting;
        let todo: Vec<Item> = ready.into_iter().map(|(item, _)| item).collect();
        if claimed.queued {
            // Soon, where there was something to do: who has one claim has the next one in a moment.
            let since = if todo.is_empty() { since } else { Instant::now() };
            self.queue.push_later(Task::Await(Arc::clone(&folder), since));
        }
        drop(claimed);
        if !todo.is_empty() {
            self.queue.push(Task::Lock(Locking { folder, todo, busy: None, starved: None }));
        }
    }
}
