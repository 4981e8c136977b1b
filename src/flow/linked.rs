//! Artifacts that trees share, as links or clones out of the store: see [`crate::store::link`].
//!
//! What cannot be shared is copied: each entry by its own reasons, told once a run.

use std::sync::{Arc, PoisonError};

use crate::base::seal::{Artifact, Digest};
use crate::base::source::{Opened, Source};
use crate::base::sys::{Stat, Time};
use crate::base::write::{Durability, Second, Staged};
use crate::model::{Entry, Mode, Target};
use crate::store::link::{Found, Shared, Variant, Wanted, shared_mode};
use crate::store::{Key, LinkMode, Links, Store};

use super::Run;
use super::folder::Guarded;
use super::job::Maker;
use super::look;

/// EMLINK: a file has as many names as its file system can count. The number is the same on all systems that this crate is built for.
const TOO_MANY_LINKS: i32 = 31;

/// How the artifact of an entry is shared with other trees.
pub(super) struct Sharing<'s> {
    store: &'s Store,
    links: &'s Links,
    how: LinkMode,
    /// Its keys, as it would be flushed and not flushed.
    keys: [Key; 2],
    /// The source that they are of.
    source: Digest,
    head: Vec<u8>,
    label: [u8; 8],
    /// The file name in its code, the same in all trees.
    pub(super) filename: Vec<u8>,
    /// What it takes its permission bits from.
    pub(super) from: Stat,
    by_time: bool,
    /// Does nothing stand in its place? Then a link needs no other name first.
    pub(super) absent: bool,
    /// Was what stands there found bad, or is that what this run is for? It may be a link of the very same file.
    pub(super) distrusts: bool,
}

/// What the store has for it.
pub(super) enum Taken {
    Staged(Staged),
    /// Nothing, or nothing for this tree. `replaces`: nor for any other one from now on.
    Nothing {
        replaces: bool,
    },
}

/// May an artifact of another tree vouch for a source here?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    Fits,
    /// It is newer than the look at the source, so an edit between the two would not show. Nothing hides when the source is read once more.
    Later,
    /// So old that the source would be read at every look for ever, and a new one would not.
    Old,
}

/// `shared` and `before` are times before the first tree's source was opened, and this one's.
///
/// An edit shows where the source's mtime is later than the artifact's own, less what a file system may round off. So an older artifact
/// hides nothing: more sources are read. A newer one than `before` could hide an edit that was made after the source was read here.
fn age(shared: Time, source: Time, before: Time, by_time: bool) -> Age {
    if shared > before {
        Age::Later
    } else if by_time && look::is_racy(source, shared) && !look::is_racy(source, before) {
        Age::Old
    } else {
        Age::Fits
    }
}

impl Run<'_> {
    /// How the artifact that is to be made is shared with other trees.
    ///
    /// # Errors
    /// Why it is not, for [`Run::copied`].
    pub(super) fn sharing(
        &self,
        guard: &Guarded,
        entry: &Entry,
        maker: &Maker<'_>,
        source: &Opened,
        level: u8,
        mode: Mode,
    ) -> Result<Sharing<'_>, String> {
        let (options, target) = (&self.job.options, maker.compiler.target());
        let how = options.link_mode;
        let Some(store) = options.store else { return Err("there is no store to share it from".to_owned()) };
        if options.code_names != super::CodeNames::default() {
            return Err("a name of its own was asked for its code (`--strip-dir`, `--prepend-dir`)".to_owned());
        }
        if how == LinkMode::Hardlink && self.job.format.writes_in_place(target) {
            let Target { tag, .. } = target;
            return Err(format!("tools of {tag} write into the artifact that is there, and would change that of every tree"));
        }
        let wanted = self.wanted(maker, source.digest(), level).ok_or("it is not known what its code depends on")?;
        let links = store.links().map_err(|error| error.sentence())?;
        if let Some(why) = links.refusal(how, &guard.lock).map_err(|error| error.sentence())? {
            return Err(why);
        }
        // As tracebacks have names that are no files: nobody looks for a file of this name and quotes a line of that.
        let filename = [b"<", entry.source.as_bytes(), b">"].concat();
        let head = self.job.format.dress(target, mode, source.stat(), source.bytes(), &[]);
        let file_mode = shared_mode(source.stat().mode);
        let variant = Variant { code: &wanted.key, head: &head, filename: &filename, mode: file_mode };
        let keys = [variant.key(true), variant.key(false)];
        let label = self.job.format.label(&target.tag, level, &target.variant);
        let by_time = self.job.format.kept_mode(target, mode) == Mode::Timestamp;
        // A clone is a file of its own, and as open as any.
        let from = Stat { mode: if how == LinkMode::Hardlink { file_mode } else { source.stat().mode }, ..*source.stat() };
        let source = *source.digest();
        Ok(Sharing { store, links, how, keys, source, head, label, filename, from, by_time, absent: false, distrusts: false })
    }

    /// What the store has for it, in this tree, under a temp name.
    pub(super) fn take_shared(&self, sharing: &Sharing<'_>, guard: &Arc<Guarded>, entry: &Entry, source: &Opened, before: Time) -> Taken {
        // Who says that everything is to be made anew does not believe what is there.
        if self.job.options.force {
            return Taken::Nothing { replaces: true };
        }
        let mut replaces = false;
        let wanted =
            Wanted { source: source.digest(), label: sharing.label, head: &sharing.head, proved_anew: sharing.distrusts, flushed: false };
        let flushes = self.job.options.durability != Durability::None;
        // What was not flushed, nobody may link who promises that it is.
        let keys = if sharing.how == LinkMode::Hardlink && flushes { &sharing.keys[..1] } else { &sharing.keys[..] };
        for (key, flushed) in keys.iter().zip([true, false]) {
            match sharing.links.find(key, &Wanted { flushed, ..wanted }) {
                Ok(Found::Hit(shared)) => {
                    let taken = match sharing.how {
                        LinkMode::Hardlink => self.link(sharing, &shared, guard, entry, source, before),
                        _ => self.clone_shared(sharing, &shared, guard, entry, before),
                    };
                    match taken {
                        Taken::Nothing { replaces: this } => replaces |= this,
                        Taken::Staged(_) => {
                            sharing.store.count_linked();
                            return taken;
                        }
                    }
                }
                Ok(Found::Miss) => {}
                Ok(Found::Bad(flaw)) => {
                    let path = sharing.links.path_of(key).display().to_string();
                    tracing::debug!(
                        path,
                        cause = flaw.text,
                        "a shared artifact is bad, and so it is in each tree that has it; it is made anew"
                    );
                }
                Err(error) => self.store_failed(sharing.store, &error),
            }
        }
        Taken::Nothing { replaces }
    }

    fn link(&self, sharing: &Sharing<'_>, shared: &Shared, guard: &Arc<Guarded>, entry: &Entry, source: &Opened, before: Time) -> Taken {
        let anew = Taken::Nothing { replaces: true };
        match sharing.links.is_at_home(shared, sharing.from.mode, &guard.dir) {
            Ok(true) => {}
            Ok(false) => return anew,
            Err(error) => {
                self.copied(guard, entry, &error.sentence());
                return Taken::Nothing { replaces: false };
            }
        }
        match age(shared.stat.mtime, source.stat().mtime, before, sharing.by_time) {
            Age::Fits => {}
            Age::Later if self.is_still(guard, entry, source, shared.stat.mtime) => {}
            Age::Later | Age::Old => return anew,
        }
        match Staged::link(&guard.lock, &entry.artifact, sharing.absent, &shared.dir, &shared.name, &shared.stat) {
            Ok(Some(staged)) => Taken::Staged(staged),
            Ok(None) => Taken::Nothing { replaces: false },
            Err(error) if error.cause.raw_os_error() == Some(TOO_MANY_LINKS) => {
                tracing::debug!(cause = %error.sentence(), "another file begins");
                anew
            }
            Err(error) => {
                self.copied(guard, entry, &error.sentence());
                Taken::Nothing { replaces: false }
            }
        }
    }

    /// Is the source what it was, after this time too?
    fn is_still(&self, guard: &Guarded, entry: &Entry, source: &Opened, after: Time) -> bool {
        let Some(sources) = &guard.folder.sources else { return false };
        after <= Time::now()
            && Source::read(sources, &entry.source, self.job.options.max_source)
                .is_ok_and(|again| again.digest == *source.digest() && again.stat.mtime == source.stat().mtime)
    }

    fn clone_shared(&self, sharing: &Sharing<'_>, shared: &Shared, guard: &Arc<Guarded>, entry: &Entry, before: Time) -> Taken {
        match Staged::clone_of(&guard.lock, &entry.artifact, &shared.file, shared.stat.size, &sharing.from, before) {
            Ok(staged) => Taken::Staged(staged),
            Err(error) => {
                self.copied(guard, entry, &error.sentence());
                Taken::Nothing { replaces: false }
            }
        }
    }

    /// Writes the first of those that will be shared.
    pub(super) fn stage_shared(
        &self,
        sharing: &Sharing<'_>,
        guard: &Arc<Guarded>,
        entry: &Entry,
        bytes: &[u8],
        before: Time,
        replaces: bool,
    ) -> crate::base::Result<Staged> {
        let write = || Staged::write(&guard.lock, &entry.artifact, bytes, &sharing.from, before);
        // The keys are of the source that was seen first. Where another one was read since, what came of it is not theirs.
        let seal = Artifact::split(bytes).ok().and_then(|artifact| artifact.seal);
        if !bytes.starts_with(&sharing.head) || seal.is_none_or(|seal| seal.source != sharing.source) {
            return write();
        }
        let flushes = self.job.options.durability != Durability::None;
        match sharing.how {
            LinkMode::Copy => write(),
            LinkMode::Clone => {
                match sharing.links.put(&sharing.keys[1], bytes, shared_mode(sharing.from.mode), before) {
                    Ok(shared) => {
                        if let Taken::Staged(staged) = self.clone_shared(sharing, &shared, guard, entry, before) {
                            return Ok(staged);
                        }
                    }
                    Err(error) => self.store_failed(sharing.store, &error),
                }
                write()
            }
            LinkMode::Hardlink => {
                let second = sharing.links.second(&sharing.keys[usize::from(!flushes)], replaces)?;
                Ok(write()?.named_too(second))
            }
        }
    }

    /// Was an artifact to be shared, and is not?
    pub(super) fn told_second(&self, second: &Second) {
        match (second.given.get(), self.job.options.store.map(Store::links)) {
            (Some(Ok(stat)), Some(Ok(links))) if self.job.options.durability != Durability::None => links.made(stat),
            (Some(Err(error)), _) => self.copied_once(&second.top.path().display().to_string(), &error.sentence()),
            _ => {}
        }
    }

    /// Tells why an artifact that was to be shared is copied.
    pub(super) fn copied(&self, guard: &Guarded, entry: &Entry, why: &str) {
        self.copied_once(&guard.dir.path_of(&entry.artifact).display().to_string(), why);
    }

    /// For those who asked for more words: a copy does as well, and there may be thousands.
    fn copied_once(&self, path: &str, why: &str) {
        if self.noted.lock().unwrap_or_else(PoisonError::into_inner).insert("copied") {
            tracing::debug!(path, cause = why, "some artifacts are not shared but copied, this one first");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_artifact_is_shared_and_a_newer_one_only_after_another_look() {
        let at = |sec| Time { sec, nsec: 0 };
        let source = at(1000);
        assert_eq!(age(at(1500), source, at(2000), true), Age::Fits);
        assert_eq!(age(at(2000), source, at(2000), true), Age::Fits);
        assert_eq!(age(Time { sec: 2000, nsec: 1 }, source, at(2000), true), Age::Later);
        assert_eq!(age(at(9000), source, at(2000), true), Age::Later);
        // Made within the seconds in which an edit may hide: here they are over.
        assert_eq!(age(at(1001), source, at(2000), true), Age::Old);
        assert_eq!(age(at(900), source, at(2000), true), Age::Old);
        // Here they are not.
        assert_eq!(age(at(1000), source, at(1001), true), Age::Fits);
        assert_eq!(age(at(500), at(3000), at(2000), true), Age::Fits, "a source from the future");
        // A header with a hash is compared with the source at every look.
        assert_eq!(age(at(900), source, at(2000), false), Age::Fits);
    }
}
