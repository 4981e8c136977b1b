//! Code out of the store, or compiled and put there: see [`crate::store`].

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use crate::base::seal::Digest;
use crate::base::seam;
use crate::base::source::{Opened, Source};
use crate::base::sys::{Dir, Stat};
use crate::ignored;
use crate::model::{Cause, Compared, Entry, Head, Made, Mode, Target};
use crate::store::{Claim, Key, Lookup, Parts, Store};

use super::Run;
use super::act::Trouble;
use super::folder::Folder;
use super::job::{Command, Maker};
use super::reread::Sound;

/// A source with its code, on their way into an artifact.
pub(super) struct Coded<'s> {
    pub(super) source: Opened,
    pub(super) made: Made,
    /// Was the code in the store?
    pub(super) stored: bool,
    /// What is to be put there.
    pub(super) fresh: Option<Fresh<'s>>,
}

/// Code that was just compiled, for the store; with its claim, which others wait for.
pub(super) struct Fresh<'s> {
    wanted: Wanted<'s>,
    code: Vec<u8>,
    took: Duration,
    magic: [u8; 4],
    claim: Option<Claim<'s>>,
}

struct Code<'s> {
    made: Made,
    stored: bool,
    fresh: Option<Fresh<'s>>,
}

impl Code<'_> {
    fn stored(code: Vec<u8>) -> Self {
        Self { made: Made { code, took: Duration::ZERO, warnings: Vec::new() }, stored: true, fresh: None }
    }

    fn compiled(made: Made) -> Self {
        Self { made, stored: false, fresh: None }
    }
}

/// A source as the store knows it.
pub(super) struct Wanted<'s> {
    store: &'s Store,
    pub(super) key: Key,
    /// The file name that it is compiled under.
    placeholder: Vec<u8>,
}

/// The code of a source in the store is not that of an artifact, which differs so.
pub(super) fn other_stored(text: &str) -> Cause {
    Cause::new("store", format!("the store has other code for its source: {text}"))
}

impl Run<'_> {
    /// Opens a source, and reads it unless it is known what is in it and nothing more is needed.
    pub(super) fn open_source(&self, sources: &Dir, entry: &Entry, mode: Mode) -> Result<Opened, Trouble> {
        let limit = self.job.options.max_source;
        // A header that goes by a hash of its own wants the bytes.
        let store = self.job.options.store.filter(|_| mode == Mode::Timestamp && !self.job.options.force);
        let opened = match store {
            Some(store) => Source::open(sources, &entry.source, limit, store.digests()),
            None => Source::read(sources, &entry.source, limit).map(Opened::Read),
        };
        opened.map_err(Trouble::of_source)
    }

    /// The code of a source under the name that it shall carry; what is in the store is not even read.
    #[allow(clippy::too_many_arguments, reason = "all that code depends on")]
    pub(super) fn coded(
        &self,
        maker: &Maker<'_>,
        folder: &Folder,
        sources: &Dir,
        entry: &Entry,
        opened: Opened,
        level: u8,
        name: &[u8],
    ) -> Result<Coded<'_>, Trouble> {
        let source = match opened {
            Opened::Read(source) => source,
            Opened::Known { stat, digest } => {
                if let Some(Code { made, stored, fresh }) = self.stored_code(maker, &digest, level, name) {
                    return Ok(Coded { source: Opened::Known { stat, digest }, made, stored, fresh });
                }
                Source::read(sources, &entry.source, self.job.options.max_source).map_err(Trouble::of_source)?
            }
        };
        let Code { made, stored, fresh } = self.code(maker, folder, entry, &source, level, name)?;
        Ok(Coded { source: Opened::Read(source), made, stored, fresh })
    }

    /// The code of a source that is in the store.
    fn stored_code(&self, maker: &Maker<'_>, digest: &Digest, level: u8, name: &[u8]) -> Option<Code<'_>> {
        let wanted = self.wanted(maker, digest, level)?;
        let named = |code: &[u8]| self.job.format.named(maker.compiler.target(), code, digest, name);
        self.taken(&wanted, digest, named).map(Code::stored)
    }

    /// The code of a source under the name that it shall carry.
    fn code(
        &self,
        maker: &Maker<'_>,
        folder: &Folder,
        entry: &Entry,
        source: &Source,
        level: u8,
        name: &[u8],
    ) -> Result<Code<'_>, Trouble> {
        let Some(wanted) = self.wanted(maker, &source.digest, level) else {
            return self.compile_as(maker, folder, entry, source, level, name).map(Code::compiled);
        };
        let target = maker.compiler.target();
        let named = |code: &[u8]| self.job.format.named(target, code, &source.digest, name);
        // Who says that everything is to be made anew does not believe what is there, nor what another one is just making.
        let mut claim = None;
        if !self.job.options.force {
            if let Some(code) = self.taken(&wanted, &source.digest, named) {
                self.waits.end(&wanted.key);
                return Ok(Code::stored(code));
            }
            claim = self.claim(wanted.store, &wanted.key)?;
            self.waits.end(&wanted.key);
            // Its last holder put the value before it let the claim go.
            if claim.is_some()
                && !seam::without("claim-recheck")
                && let Some(code) = self.taken(&wanted, &source.digest, named)
            {
                return Ok(Code::stored(code));
            }
            wanted.store.count_miss();
        }
        let mut made = self.compile_as(maker, folder, entry, source, level, &wanted.placeholder)?;
        let Some(code) = named(&made.code) else {
            // Of an interpreter that dumps in a way of its own.
            tracing::debug!(path = %folder.absolute.join(&entry.source).display(), "its code is not stored: the file name in it is not found");
            return self.compile_as(maker, folder, entry, source, level, name).map(Code::compiled);
        };
        let code = std::mem::replace(&mut made.code, code);
        let fresh = Fresh { wanted, code, took: made.took, magic: target.magic, claim };
        Ok(Code { made, stored: false, fresh: Some(fresh) })
    }

    /// Puts code into the store that was seen to be code, and lets its claim go: who waits for it wants nothing else.
    pub(super) fn put(&self, fresh: Fresh<'_>, stat: &Stat, source: &Digest) {
        let Fresh { wanted: Wanted { store, key, .. }, code, took, magic, claim } = fresh;
        if !store.may_keep(stat) {
            tracing::debug!(%key, "others may not read its source, and may read the store: it is not put there");
        } else if let Err(error) = store.put(&key, source, magic, took, &code) {
            self.store_failed(store, &error);
            store.claim_no_more();
        }
        drop(claim);
    }

    /// What is taken from the store.
    fn taken<T>(&self, wanted: &Wanted<'_>, source: &Digest, named: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
        let (code, took) = self.stored(wanted, source, named)?;
        wanted.store.count_hit(took);
        Some(code)
    }

    /// What the store has for a source. What is bad is a miss, and told as such.
    fn stored<T>(&self, wanted: &Wanted<'_>, source: &Digest, named: impl Fn(&[u8]) -> Option<T>) -> Option<(T, Duration)> {
        let path = || wanted.store.path_of(&wanted.key).display().to_string();
        match wanted.store.find(&wanted.key, source) {
            Ok(Lookup::Hit(value)) => Some((named(value.code())?, value.took())),
            Ok(Lookup::Miss) => None,
            Ok(Lookup::Bad(flaw)) => {
                tracing::debug!(path = path(), cause = flaw.text, "a stored value is bad and was removed; its source is compiled");
                None
            }
            Err(error) => {
                self.store_failed(wanted.store, &error);
                None
            }
        }
    }

    /// One failure may be all there is to say of a full disk, and there may be thousands.
    pub(super) fn store_failed(&self, store: &Store, error: &crate::base::Error) {
        tracing::debug!(cause = %error.sentence(), "the store is of no use here");
        self.note_once("store", &store.path(), &format!("the store cannot be used as it should: {}", error.sentence()));
    }

    pub(super) fn wanted(&self, maker: &Maker<'_>, source: &Digest, level: u8) -> Option<Wanted<'_>> {
        let store = self.job.options.store?;
        let Target { tag, magic, variant } = maker.compiler.target();
        let parts = Parts { source, tag, magic: *magic, variant, level, build: maker.compiler.build()? };
        let placeholder = self.job.format.placeholder(maker.compiler.target(), source)?;
        let key = parts.key();
        tracing::debug!(%key, "{parts}");
        Some(Wanted { store, key, placeholder })
    }

    /// `add`: puts the code of a sound artifact's source into the store, where it is that of the artifact; nothing where it has it.
    ///
    /// It is compiled again even where a seal proves the artifact to be ours. A seal says which magic number and variant made it, and not
    /// which build: with one magic number a later release may give other code, and under this build's key that would be a wrong answer.
    pub(super) fn add(&self, maker: &Maker<'_>, folder: &Folder, entry: &Entry, sound: &Sound, level: u8) -> Result<Compared, Trouble> {
        let not_stored =
            || Trouble::Skip(Cause::new("not-stored", "code of this interpreter is not stored: the file name in it is not found"));
        let source = &sound.source.digest;
        let target = maker.compiler.target();
        let wanted = self.wanted(maker, source, level).ok_or_else(not_stored)?;
        let name = self.code_name_of(folder, entry);
        let named = |code: &[u8]| self.job.format.named(target, code, source, name.as_os_str().as_bytes());
        let compare =
            |code: &[u8]| self.job.format.compare(&sound.head, &sound.payload, code).map_err(|flaw| Trouble::Cause(Cause::from(&flaw)));
        if let Some((code, took)) = self.stored(&wanted, source, named) {
            return match compare(&code)? {
                Compared::Other(text) => Err(Trouble::Cause(other_stored(&text))),
                same => {
                    wanted.store.count_hit(took);
                    Ok(same)
                }
            };
        }
        wanted.store.count_miss();
        let made = self.compile_as(maker, folder, entry, &sound.source, level, &wanted.placeholder)?;
        let compared = compare(&named(&made.code).ok_or_else(not_stored)?)?;
        if !matches!(compared, Compared::Other(_)) {
            if !wanted.store.may_keep(&sound.source.stat) {
                let text = "others may not read its source, and may read the store";
                return Err(Trouble::Skip(Cause::new("private", text)));
            }
            if self.job.options.dry_run {
                wanted.store.count_put(made.took);
            } else {
                wanted.store.put(&wanted.key, source, target.magic, made.took, &made.code)?;
            }
        }
        Ok(compared)
    }

    /// The end of a run's use of the store.
    pub(super) fn leave_store(&self, store: &Store) {
        if let Some((path, text)) = store.complaint() {
            self.note_once("system-store", path, text);
        }
        if self.job.options.dry_run {
            return;
        }
        if !store.is_read_only() {
            ignored!(store.digests().save(), "what was read of sources is not remembered");
        }
        store.keep_small();
        // To look something up in order to compare it saves nothing.
        if matches!(self.job.command, Command::Compile | Command::Repair | Command::Add) {
            store.note_use();
        }
    }

    /// Is what the store would have given the same as an artifact whose code was just compiled again? `None`: it has nothing.
    pub(super) fn compare_stored(
        &self,
        maker: &Maker<'_>,
        head: &Head,
        payload: &[u8],
        source: &Digest,
        level: u8,
        name: &Path,
    ) -> Option<Compared> {
        let wanted = self.wanted(maker, source, level)?;
        let target = maker.compiler.target();
        let named = |code: &[u8]| self.job.format.named(target, code, source, name.as_os_str().as_bytes());
        let (code, _) = self.stored(&wanted, source, named)?;
        self.job.format.compare(head, payload, &code).ok()
    }
}
