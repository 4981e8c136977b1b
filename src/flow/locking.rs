//! Folders on their way to their lock: it is tried, never waited for, and a busy folder comes back later.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::base::Result;
use crate::base::lock::{self, Attempt, DirLock};
use crate::base::seam;
use crate::base::sys::{Dir, Stat};
use crate::model::Cause;

use super::folder::{Guarded, Item};
use super::job::Command;
use super::policy::Decision;
use super::queue::{Busy, Locking, Task};
use super::report::{Action, Event};
use super::{Run, STARVED};

/// After so long it is told that a lock is waited for.
const TELL_AFTER: Duration = Duration::from_secs(1);
/// So often a lock that is waited for is tried, and not only looked at.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// How many locks are noted before those that were let go are forgotten.
const HELD: usize = 1024;
/// After how many directories that went away while we write a folder is left alone.
const GONE_TRIES: u32 = 10;

impl Run<'_> {
    /// Takes a folder's lock and sends on what is to be done under it; a busy folder comes back later.
    pub(super) fn take_lock(&self, mut locking: Locking) {
        let too_often = {
            let mut lost = locking.folder.lost.lock().unwrap_or_else(PoisonError::into_inner);
            lost.queued = false;
            locking.todo.append(&mut lost.items);
            lost.times > GONE_TRIES
        };
        if too_often {
            self.give_up_gone(&locking);
            return;
        }
        if is_still_held(&locking) {
            return self.queue.push_later(Task::Lock(locking));
        }
        if locking.busy.is_some() && !self.is_still_wanted(&mut locking) {
            return;
        }
        let only_leftovers = locking.todo.iter().all(|item| !matches!(item, Item::Entry(_)));
        let taking = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        match self.try_lock(&locking) {
            Ok(Some((dir, made, Attempt::Held(lock)))) => {
                if !lock.excludes() && !self.is_noted("no-room") {
                    self.note_once(
                        "no-locks",
                        dir.path(),
                        "this file system has no usable locks: going on by atomic renames alone, so work may be done twice",
                    );
                }
                let lock = Arc::new(lock);
                self.note_held(&lock);
                drop(taking);
                let guard = Arc::new(Guarded { folder: locking.folder, dir, lock, made, in_place: Mutex::default() });
                for item in locking.todo {
                    self.queue.push(Task::Act(Arc::clone(&guard), item));
                }
            }
            // What looked left over belongs to somebody who is at work.
            Ok(Some((_, _, Attempt::Busy(_)))) if only_leftovers => self.forget(locking.todo.len()),
            Ok(Some((dir, _, Attempt::Busy(holder)))) => {
                // What this run is letting go just now is no longer its own, and free the next time.
                let is_first = locking.busy.is_none();
                let now = Instant::now();
                let fresh = || Busy { since: now, limit: self.patience(), tried: now, dir: Arc::clone(&dir), told: false };
                let busy = locking.busy.get_or_insert_with(fresh);
                (busy.tried, busy.dir) = (now, Arc::clone(&dir));
                // We are at work there ourselves, under another name of it: that ends without anybody's help.
                let ours = dir.stat().is_ok_and(|stat| self.holds(&stat));
                if !ours && !is_first && busy.since.elapsed() >= busy.limit {
                    let who = holder.pid.map(|pid| format!(" by process {pid}")).unwrap_or_default();
                    let seconds = self.job.options.lock_timeout.as_secs_f64();
                    let text = if busy.limit == self.job.options.lock_timeout {
                        format!("the directory was locked{who} for {seconds} s")
                    } else {
                        format!("the directory is locked{who}, and this run has waited {seconds} s for another already")
                    };
                    self.waited_in_vain.store(true, Ordering::SeqCst);
                    self.give_up(&locking, Action::Skipped, &Cause::new("locked", text).at(dir.path()));
                    return;
                }
                if !ours && !busy.told && busy.since.elapsed() >= TELL_AFTER {
                    busy.told = true;
                    self.report.event(&Event::Waiting { dir: dir.path(), holder: &holder });
                }
                self.queue.push_later(Task::Lock(locking));
            }
            // The directory is not there and nothing is to be made in it: removed meanwhile.
            Ok(None) => self.give_up_gone(&locking),
            Err(error) if error.is_gone() => {
                tracing::debug!(cause = %error.sentence(), "begun anew");
                self.begin_anew(locking);
            }
            Err(error) if error.is_out_of_descriptors() => {
                let since = *locking.starved.get_or_insert_with(Instant::now);
                if since.elapsed() >= self.job.options.lock_timeout.max(STARVED) {
                    return self.give_up(&locking, Action::Failed, &Cause::from(&error));
                }
                self.put_off(Task::Lock(locking));
            }
            Err(error) => self.give_up(&locking, Action::Failed, &Cause::from(&error)),
        }
    }

    /// How long a lock that is found busy now is waited for. After one was waited for in vain: not at all. Only so many folders are open at
    /// one time, so whoever keeps locks would else cost the time-out again for each such number of them.
    fn patience(&self) -> Duration {
        if self.waited_in_vain.load(Ordering::SeqCst) { Duration::ZERO } else { self.job.options.lock_timeout }
    }

    fn note_held(&self, lock: &Arc<DirLock>) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() >= HELD {
            held.retain(|_, lock| lock.strong_count() > 0);
        }
        held.insert(lock.dir_stat().id(), Arc::downgrade(lock));
    }

    /// Does this very run hold the lock of a directory? What its file says does not tell: process ids are the same in many containers.
    fn holds(&self, dir: &Stat) -> bool {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.get(&dir.id()).is_some_and(|lock| lock.strong_count() > 0)
    }

    /// Whoever held the lock is done, most likely with what we wanted to do as well: that is seen without taking the lock for it. `false`:
    /// nothing is left to do.
    fn is_still_wanted(&self, locking: &mut Locking) -> bool {
        let folder = Arc::clone(&locking.folder);
        let Ok(Some(dir)) = folder.open_artifacts() else { return true };
        if lock::is_there(&dir) || seam::without("second-look") {
            return true;
        }
        locking.todo.retain(|item| {
            let Item::Entry(entry) = item else { return true };
            let found = self.find(&folder, Some(&dir), entry, false);
            let done = found.decision == Decision::Leave && !found.is_out_of_descriptors();
            if done {
                self.tell_entry(&folder, entry, &found, Action::None, found.judged.cause.as_ref(), &[]);
            }
            !done
        });
        !locking.todo.is_empty()
    }

    /// Tries the lock of a folder's directory of artifacts, which is made where `compile` wants it; and was it made now?
    fn try_lock(&self, locking: &Locking) -> Result<Option<(Arc<Dir>, bool, Attempt)>> {
        let folder = &locking.folder;
        let makes = matches!(self.job.command, Command::Compile) && locking.todo.iter().any(|item| matches!(item, Item::Entry(_)));
        let (dir, made) = match folder.open_artifacts()? {
            // Before the lock: who cannot write there has none.
            Some(dir) if makes => match folder.reclaim(&dir) {
                Ok(reclaimed) => reclaimed.unwrap_or((dir, false)),
                Err(error) => {
                    tracing::debug!(cause = %error.sentence(), "an empty directory stays as it is");
                    (dir, false)
                }
            },
            Some(dir) => (dir, false),
            None if makes => folder.make_artifacts()?,
            None => return Ok(None),
        };
        let attempt = match DirLock::try_take(&dir) {
            // On a full disk `clean` is what makes room. An artifact that another run puts there meanwhile may go too, as it would a moment
            // later; left-overs, which might be somebody's, stay for the next run.
            Err(error) if self.job.command == Command::Clean && error.is_out_of_room() => {
                self.note_once("no-room", dir.path(), "there is no room for a lock file: removing without it");
                Attempt::Held(DirLock::without(&dir)?)
            }
            answer => answer?,
        };
        if let (Attempt::Held(lock), true) = (&attempt, made) {
            // If nothing comes of it, the directory that we made goes again: others' `rmdir` shall not fail for it.
            folder.remove_when_empty(lock);
        }
        Ok(Some((dir, made, attempt)))
    }

    /// The directory of artifacts went away between two steps: look anew, a few times.
    fn begin_anew(&self, locking: Locking) {
        for item in locking.todo {
            self.gone(&locking.folder, None, item);
        }
    }

    fn give_up_gone(&self, locking: &Locking) {
        let cause = Cause::new("gone", "its directory was removed meanwhile").at(&locking.folder.path);
        let action = if self.job.command == Command::Compile { Action::Skipped } else { Action::None };
        self.give_up(locking, action, &cause);
    }

    fn give_up(&self, locking: &Locking, action: Action, cause: &Cause) {
        for item in &locking.todo {
            match item {
                Item::Entry(entry) => {
                    let mut found = self.find(&locking.folder, locking.folder.artifacts.as_deref(), entry, false);
                    found.wrong = action != Action::None;
                    self.tell_entry(&locking.folder, entry, &found, action, Some(cause), &[]);
                }
                Item::Leftover(..) | Item::ForeignTemp(_) => self.tell_leftover(&locking.folder, item, action, Some(cause)),
            }
        }
    }
}

/// Is a lock that was busy a moment ago still held, as far as one look tells? A living holder takes the lock file away with it, so only
/// whether it lives must be asked of the lock, and not each time: many wait here for many.
fn is_still_held(locking: &Locking) -> bool {
    locking.busy.as_ref().is_some_and(|busy| {
        let time_out = busy.since.elapsed() >= busy.limit;
        !time_out && busy.tried.elapsed() < TRY_AGAIN && lock::is_there(&busy.dir)
    })
}
