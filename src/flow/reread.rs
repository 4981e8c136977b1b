//! An artifact and its source, read as wholes and judged once more: on the very bytes that are used then, for a new seal must never vouch
//! for what nobody has proved.

use std::fs::File;
use std::sync::MutexGuard;

use crate::base::seal::{SEAL_LEN, Seal};
use crate::base::source::Source;
use crate::base::sys::{self, Dir, Stat};
use crate::model::{Cause, Entry, Head, Verdict};

use super::Run;
use super::act::Trouble;
use super::folder::Folder;
use super::judge::{self, Judged};
use super::look;

/// Both, read at one time.
pub(super) struct Reread {
    pub(super) file: File,
    pub(super) stat: Stat,
    /// All of the artifact, with its seal.
    pub(super) bytes: Vec<u8>,
    pub(super) head: Option<Head>,
    pub(super) seal: Option<Seal>,
    pub(super) source: Source,
    pub(super) judged: Judged,
    pub(super) turn: Option<MutexGuard<'static, ()>>,
}

/// An artifact that is as it should be, without its seal, and its source.
pub(super) struct Sound {
    pub(super) payload: Vec<u8>,
    pub(super) seal: Option<Seal>,
    pub(super) head: Head,
    pub(super) stat: Stat,
    pub(super) source: Source,
    pub(super) turn: Option<MutexGuard<'static, ()>>,
}

impl Run<'_> {
    /// Reads both; the source only where it was not `read` before, and at most `limit` bytes of it.
    pub(super) fn reread(&self, folder: &Folder, dir: &Dir, entry: &Entry, read: Option<Source>, limit: u64) -> Result<Reread, Trouble> {
        let Some(sources) = &folder.sources else { return Err(Trouble::Cause(Cause::new("no-source", "it has no source"))) };
        let path = dir.path_of(&entry.artifact);
        let file = dir.open_file(&entry.artifact)?;
        let stat = sys::stat(&file, &path)?;
        let turn = look::in_turn(stat.size);
        let Some(bytes) = sys::read_all(&file, stat.size, look::LARGEST, &path)? else {
            let text = format!("it has {} bytes, more than are read at one time", stat.size);
            return Err(Trouble::Cause(Cause::new("too-large-artifact", text)));
        };
        let source = match read {
            Some(source) => source,
            None => Source::read(sources, &entry.source, limit).map_err(Trouble::of_source)?,
        };
        let mut evidence = look::of_bytes(&self.spot(folder, Some(dir), entry), entry, stat, &bytes, &source);
        self.want(&mut evidence, entry);
        let judged = judge::judge(&evidence);
        let seen = evidence.seen();
        let head = seen.and_then(|seen| seen.head.clone().ok());
        let seal = seen.and_then(|seen| seen.seal.as_ref().ok().copied()?);
        Ok(Reread { file, stat, bytes, head, seal, source, judged, turn })
    }

    /// The same of what was judged to be sound, if it still is.
    pub(super) fn reread_sound(&self, folder: &Folder, dir: &Dir, entry: &Entry) -> Result<Sound, Trouble> {
        let Reread { stat, mut bytes, head, seal, source, judged, turn, .. } =
            self.reread(folder, dir, entry, None, self.job.options.max_source)?;
        let Some(head) = head.filter(|_| matches!(judged.verdict, Verdict::Ok | Verdict::Unsealed)) else {
            let otherwise = || Cause::new("changed", format!("it is no longer what it was judged to be: {}", judged.verdict));
            return Err(Trouble::Cause(judged.cause.unwrap_or_else(otherwise)));
        };
        bytes.truncate(bytes.len().saturating_sub(if seal.is_some() { SEAL_LEN } else { 0 }));
        Ok(Sound { payload: bytes, seal, head, stat, source, turn })
    }
}
