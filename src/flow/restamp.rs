//! What is made of the artifact that is there, without a compiler: a new header and seal, where a seal proves which source bytes it was
//! made from and the source still has these bytes; or a seal, where it has none.

use std::sync::{Arc, MutexGuard};

use crate::base::seal::{self, SEAL_LEN, Seal};
use crate::base::source::Source;
use crate::base::sys::{self, Dir, Time};
use crate::base::write::Staged;
use crate::model::{Cause, Entry, Format, Head, Mode, Verdict};

use super::Run;
use super::act::{Done, Trouble, refuse_signed, signed};
use super::find::Found;
use super::folder::{Folder, Guarded};
use super::judge::{self, Judged};
use super::look;
use super::policy;
use super::report::Action;
use super::reread::Reread;

/// A misstamped artifact, proved by every byte, and its source.
struct Proved {
    bytes: Vec<u8>,
    head: Head,
    seal: Seal,
    source: Source,
    /// Before the source was opened.
    before: Time,
    turn: Option<MutexGuard<'static, ()>>,
}

impl Run<'_> {
    /// Writes the artifact with a new header. `None`: its own bytes, or those of the source, are not what the quick look took them for,
    /// and `found` says now what they are, and what is to be done.
    pub(super) fn restamp(&self, guard: &Arc<Guarded>, entry: &Entry, found: &mut Found) -> Result<Option<Done>, Trouble> {
        let Some(Proved { bytes, head, seal, source, before, turn }) = self.prove(&guard.folder, &guard.dir, entry, found)? else {
            return Ok(None);
        };
        let mode = self.job.options.mode.map_or(head.mode(), |wanted| kept_mode(self.job.format, &head, wanted));
        let code = bytes.get(head.len..bytes.len().saturating_sub(SEAL_LEN)).unwrap_or_default();
        let payload = self.job.format.dress(&head.target(), mode, &source.stat, &source.bytes, code);
        // Before evidence is kept, which waits for its own turn.
        drop((bytes, turn));
        let sealed = seal::sealed(payload, source.digest, seal.label, false);
        self.keep_bad(guard, entry, found)?;
        let staged = Staged::write(&guard.lock, &entry.artifact, &sealed, &source.stat, before)?;
        drop(sealed);
        self.stage(staged, guard, entry, found, Action::Restamped, Vec::new());
        Ok(Some(Done::Staged))
    }

    /// The dry run's: would it be restamped? `found` says now what else would be done.
    pub(super) fn prove_plan(&self, folder: &Folder, entry: &Entry, found: &mut Found) -> Result<(), Trouble> {
        folder.artifacts.as_deref().map_or(Ok(()), |dir| self.prove(folder, dir, entry, found).map(drop))
    }

    /// The artifact and its source, where both are what the quick look took them for.
    fn prove(&self, folder: &Folder, dir: &Dir, entry: &Entry, found: &mut Found) -> Result<Option<Proved>, Trouble> {
        // Taken before the source is opened: an edit after this moment shows, see `judge`.
        let (read, before) = found.read.take().map_or_else(|| (None, Time::now()), |(source, before)| (Some(source), before));
        let limit = self.job.options.max_source.max(look::LARGEST_SOURCE);
        let Reread { file, bytes, head, seal, source, judged, turn, .. } = self.reread(folder, dir, entry, read, limit)?;
        if sys::is_signed(&file, &dir.path_of(&entry.artifact))? {
            return Err(Trouble::Cause(signed()));
        }
        let (Verdict::Misstamped, Some(head), Some(seal)) = (judged.verdict, head, seal.filter(judge::is_own)) else {
            self.decide_again(found, judged);
            return Ok(None);
        };
        Ok(Some(Proved { bytes, head, seal, source, before, turn }))
    }

    /// Puts a seal behind a sound artifact: a new file with the same payload, renamed over it.
    pub(super) fn adopt(&self, guard: &Arc<Guarded>, entry: &Entry, found: &Found) -> Result<Done, Trouble> {
        let (Some(tag), Some(level)) = (&found.tag, found.level) else {
            return Err(Trouble::Cause(Cause::new("level", "its name does not say which optimisation level it has")));
        };
        refuse_signed(guard, entry, found)?;
        let before = Time::now();
        let sound = self.reread_sound(&guard.folder, &guard.dir, entry)?;
        let proved = self.job.options.recompile;
        if sound.seal.is_some_and(|seal| !(proved && seal.adopted)) {
            return Ok(Done::Now(Action::None));
        }
        let variant = if proved { self.prove_code(&guard.folder, entry, found, &sound)? } else { "" };
        let label = self.job.format.label(tag, level, variant);
        let sealed = seal::sealed(sound.payload, sound.source.digest, label, !proved);
        let staged = Staged::write(&guard.lock, &entry.artifact, &sealed, &sound.stat, before)?;
        drop((sound.turn, sealed));
        self.stage(staged, guard, entry, found, Action::Sealed, Vec::new());
        Ok(Done::Staged)
    }

    fn decide_again(&self, found: &mut Found, judged: Judged) {
        let facts = self.facts(&judged, None, found.tag.as_deref(), found.level);
        found.decision = policy::decide(self.job.command, judged.verdict, &facts);
        found.wrong = found.decision == policy::Decision::Leave && policy::is_wrong(self.job.command, judged.verdict, judged.damaged);
        found.judged = judged;
    }
}

/// The mode that an artifact with this header has where another is wanted.
pub(super) fn kept_mode(format: &dyn Format, head: &Head, wanted: Mode) -> Mode {
    format.kept_mode(&head.target(), wanted)
}
