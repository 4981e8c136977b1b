//! Code out of the store, or compiled and put there: see [`crate::store`].

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::base::seal::Digest;
use crate::base::source::Source;
use crate::model::{Compared, Entry, Head, Made, Target};
use crate::store::{Key, Lookup, Parts, Store};

use super::Run;
use super::act::Trouble;
use super::folder::Folder;
use super::job::Maker;

/// Code on its way into an artifact.
pub(super) struct Code {
    pub(super) made: Made,
    /// Was it in the store?
    pub(super) stored: bool,
}

/// A source as the store knows it.
pub(super) struct Wanted<'s> {
    store: &'s Store,
    pub(super) key: Key,
    /// The file name that it is compiled under.
    placeholder: Vec<u8>,
}

impl Run<'_> {
    /// The code of a source under the name that it shall carry.
    pub(super) fn code(
        &self,
        maker: &Maker<'_>,
        folder: &Folder,
        entry: &Entry,
        source: &Source,
        level: u8,
        name: &[u8],
    ) -> Result<Code, Trouble> {
        let compiled = |made| Code { made, stored: false };
        let Some(wanted) = self.wanted(maker, &source.digest, level) else {
            return self.compile_as(maker, folder, entry, source, level, name).map(compiled);
        };
        let target = maker.compiler.target();
        let named = |code: &[u8]| self.job.format.named(target, code, &source.digest, name);
        // Who says that everything is to be made anew does not believe what is there.
        if !self.job.options.force
            && let Some(code) = self.stored(&wanted, &source.digest, named)
        {
            return Ok(Code { made: Made { code, took: std::time::Duration::ZERO, warnings: Vec::new() }, stored: true });
        }
        let mut made = self.compile_as(maker, folder, entry, source, level, &wanted.placeholder)?;
        let Some(code) = named(&made.code) else {
            // Of an interpreter that dumps in a way of its own.
            tracing::debug!(path = %folder.absolute.join(&entry.source).display(), "its code is not stored: the file name in it is not found");
            return self.compile_as(maker, folder, entry, source, level, name).map(compiled);
        };
        if let Err(error) = wanted.store.put(&wanted.key, &source.digest, target.magic, made.took, &made.code) {
            self.store_failed(wanted.store, &error);
        }
        made.code = code;
        Ok(compiled(made))
    }

    /// What the store has for a source. What is bad is a miss, and told as such.
    fn stored<T>(&self, wanted: &Wanted<'_>, source: &Digest, named: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
        let path = || wanted.store.path_of(&wanted.key).display().to_string();
        match wanted.store.find(&wanted.key, source) {
            Ok(Lookup::Hit(value)) => named(value.code()),
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
        let code = self.stored(&wanted, source, |code| self.job.format.named(target, code, source, name.as_os_str().as_bytes()))?;
        self.job.format.compare(head, payload, &code).ok()
    }
}
