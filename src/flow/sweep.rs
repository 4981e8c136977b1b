//! Left-overs of dead processes: which are, and that they go.

use std::path::PathBuf;
use std::sync::Arc;

use crate::base::Error;
use crate::base::leftover::{self, Leftover};
use crate::base::lock;
use crate::base::seam;
use crate::base::sys::Time;
use crate::model::{Cause, Verdict};

use super::Run;
use super::folder::{Folder, Guarded, Item};
use super::job::Command;
use super::judge::Judged;
use super::policy::{self, Decision};
use super::report::Action;

impl Run<'_> {
    pub(super) fn has_leftover_work(&self, folder: &Folder, item: &Item) -> bool {
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

    pub(super) fn sweep(&self, guard: &Arc<Guarded>, item: &Item) {
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

    /// What stands where the lock file belongs is nobody's left-over, and keeps everybody out.
    pub(super) fn tell_obstacle(&self, folder: &Folder, item: &Item, what: &str) {
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
