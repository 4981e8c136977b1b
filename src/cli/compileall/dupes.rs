//! `--hardlink-dupes`: artifacts of several levels with the same bytes become one file with several names.
//!
//! A seal says which level it is for, so two sealed artifacts are never the same. What is shared goes without: it is judged by its
//! structure, as what CPython links is. Each name is whole at every moment: the one file is written aside and renamed, the links too.

use std::sync::Arc;

use crate::base::Result;
use crate::base::lock::{Attempt, DirLock};
use crate::base::seal::Artifact;
use crate::base::sys::{self, Dir, Name};
use crate::base::write::{Durability, Staged, commit};

/// An artifact larger than this stays as it is.
const LARGEST: u64 = 1 << 30;

/// Links what is alike of one source's artifacts, by their names, the levels ascending. Where somebody else is at work nothing is done.
pub(super) fn link(dir: &Arc<Dir>, names: &[Name], durability: Durability) -> Result<()> {
    if !names.windows(2).any(|pair| matches!(pair, [one, next] if differ(dir, one, next))) {
        return Ok(());
    }
    let lock = match DirLock::try_take(dir)? {
        Attempt::Held(lock) => Arc::new(lock),
        Attempt::Busy(holder) => {
            tracing::debug!(?holder, "duplicates are not linked, since somebody else is at work there");
            return Ok(());
        }
    };
    for pair in names.windows(2) {
        if let [one, next] = pair
            && differ(dir, one, next)
        {
            link_pair(&lock, one, next, durability)?;
        }
    }
    Ok(())
}

/// Are these two files?
fn differ(dir: &Dir, one: &Name, next: &Name) -> bool {
    matches!((dir.stat_of(one), dir.stat_of(next)), (Ok(one), Ok(next)) if !one.same_file(&next))
}

fn link_pair(lock: &Arc<DirLock>, one: &Name, next: &Name, durability: Durability) -> Result<()> {
    let dir = lock.dir();
    let read = |name: &Name| -> Result<Option<(Vec<u8>, sys::Stat, bool)>> {
        let (path, file) = (dir.path_of(name), dir.open_file(name)?);
        let stat = sys::stat(&file, &path)?;
        let Some(mut bytes) = sys::read_all(&file, stat.size, LARGEST, &path)? else { return Ok(None) };
        let (payload, sealed) = match Artifact::split(&bytes) {
            Ok(artifact) => (artifact.payload.len(), artifact.seal.is_some()),
            Err(_) => return Ok(None),
        };
        bytes.truncate(payload);
        Ok(Some((bytes, stat, sealed)))
    };
    let (Some((first, stat, sealed)), Some((second, ..))) = (read(one)?, read(next)?) else { return Ok(()) };
    if first != second {
        return Ok(());
    }
    let mut shared = stat;
    if sealed {
        let staged = Staged::write(lock, one, &first, &stat, stat.mtime)?;
        for outcome in commit(vec![staged], durability) {
            outcome?;
        }
        shared = dir.stat_of(one)?;
    }
    let Some(staged) = Staged::link(lock, next, false, dir, one, &shared)? else { return Ok(()) };
    for outcome in commit(vec![staged], durability) {
        outcome?;
    }
    Ok(())
}
