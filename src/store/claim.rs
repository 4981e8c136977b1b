//! Claims: who compiles for a key says so, and the others do something else meanwhile.
//!
//! A claim is a locked byte of one empty file, the byte whose number is the beginning of the key. It takes one system call, dies with its
//! holder whichever way that one ends, and leaves nothing to be swept; a file for each key would take seven, most of them changes of a
//! directory that everybody changes, and have left-overs. Where the file is removed the next ones make another.
//!
//! - **T5** A claim saves time and decides nothing: whoever has none may compile as well, and values are put and believed without it. So
//!   two keys with one beginning, a file that was removed, a file system without locks, or a holder who does not go on cost time only.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::{Key, Store, name};
use crate::base::{Result, bytelock, seam};
use crate::ignored;

/// The file in a store's directory.
const FILE: &str = "claims";

/// The claims of a process.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Opened when the first claim is tried. `None`: there are no claims here.
    file: OnceLock<Option<File>>,
    /// What is held here: a lock belongs to the open file, which all threads share.
    held: Mutex<HashSet<u64>>,
    /// It was seen that they are of no use.
    off: AtomicBool,
}

/// What became of an attempt.
#[derive(Debug)]
pub enum Claiming<'s> {
    /// It is ours.
    Held(Claim<'s>),
    /// Somebody is compiling for this key.
    Busy {
        /// Another thread of this process.
        here: bool,
    },
    /// There are no claims here: go on without.
    Useless,
}

/// The claim of a key, let go when dropped. Put the value before: who waits looks for it then.
#[derive(Debug)]
#[must_use]
pub struct Claim<'s> {
    store: &'s Store,
    file: &'s File,
    byte: u64,
}

impl Store {
    /// Tries to claim a key. Never waits.
    ///
    /// Whoever gets it looks for the value once more: its last holder may have put it since.
    pub fn claim(&self, key: &Key) -> Claiming<'_> {
        let Some(file) = self.claims_file().filter(|_| !seam::without("claims")) else { return Claiming::Useless };
        let byte = key.beginning();
        let mut held = self.claims.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.contains(&byte) {
            return Claiming::Busy { here: true };
        }
        match bytelock::try_lock(file, byte, &self.claims_path()) {
            Ok(true) => {
                held.insert(byte);
                Claiming::Held(Claim { store: self, file, byte })
            }
            Ok(false) => Claiming::Busy { here: false },
            Err(error) => {
                tracing::debug!(cause = %error.sentence(), "going on without claims");
                self.claim_no_more();
                Claiming::Useless
            }
        }
    }

    /// Is somebody compiling for this key, as far as one look tells?
    pub fn is_claimed(&self, key: &Key) -> bool {
        let Some(file) = self.claims_file() else { return false };
        let byte = key.beginning();
        if self.claims.held.lock().unwrap_or_else(PoisonError::into_inner).contains(&byte) {
            return true;
        }
        bytelock::is_locked(file, byte, &self.claims_path()).unwrap_or_else(|error| {
            tracing::debug!(cause = %error.sentence(), "cannot tell whether the key is claimed");
            false
        })
    }

    /// Values cannot be put: then nobody shall wait for ours.
    pub fn claim_no_more(&self) {
        self.claims.off.store(true, Ordering::Relaxed);
    }

    fn claims_file(&self) -> Option<&File> {
        if self.claims.off.load(Ordering::Relaxed) {
            return None;
        }
        let open = || {
            // A lock there can hang although it is only tried.
            if self.dir.on_network() {
                return None;
            }
            let opened = self.open_claims();
            opened.inspect_err(|error| tracing::debug!(cause = %error.sentence(), "there are no claims")).ok()
        };
        self.claims.file.get_or_init(open).as_ref()
    }

    fn open_claims(&self) -> Result<File> {
        let name = name(FILE)?;
        match self.dir.open_lock_file(&name, None) {
            Err(error) if error.is_gone() => match self.dir.open_lock_file(&name, Some(0o600)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.dir.open_lock_file(&name, None),
                made => made,
            },
            opened => opened,
        }
    }

    fn claims_path(&self) -> PathBuf {
        self.dir.path().join(FILE)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut held = self.store.claims.held.lock().unwrap_or_else(PoisonError::into_inner);
        ignored!(bytelock::unlock(self.file, self.byte, &self.store.claims_path()), "a key stays claimed until this process ends");
        // After the lock, and within this one: who found it free in between would have a lock that we let go.
        held.remove(&self.byte);
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;
    use crate::base::seal::Digest;
    use crate::store::Parts;

    fn key(level: u8) -> Key {
        let source = Digest::of(b"x");
        Parts { source: &source, tag: "toy-1", magic: [1, 2, 13, 10], variant: "", level, build: "" }.key()
    }

    #[test]
    fn a_key_is_claimed_by_one_until_it_is_let_go() {
        let top = tempfile::tempdir().unwrap();
        let (here, there) = (Store::open(top.path()).unwrap(), Store::open(top.path()).unwrap());
        let Claiming::Held(claim) = here.claim(&key(0)) else { panic!("busy") };
        assert!(matches!(here.claim(&key(0)), Claiming::Busy { here: true }));
        assert!(matches!(there.claim(&key(0)), Claiming::Busy { here: false }));
        assert!(here.is_claimed(&key(0)) && there.is_claimed(&key(0)) && !there.is_claimed(&key(1)));
        assert!(matches!(there.claim(&key(1)), Claiming::Held(_)));
        drop(claim);
        assert!(!there.is_claimed(&key(0)));
        let Claiming::Held(_claim) = there.claim(&key(0)) else { panic!("busy") };
        assert!(matches!(here.claim(&key(0)), Claiming::Busy { here: false }));
        here.claim_no_more();
        assert!(matches!(here.claim(&key(0)), Claiming::Useless));
    }

    #[test]
    fn a_store_without_a_usable_file_has_no_claims() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(top.path()).unwrap();
        store.dir.make_dir(&name(FILE).unwrap(), 0o700).unwrap();
        assert!(matches!(store.claim(&key(0)), Claiming::Useless));
        assert!(!store.is_claimed(&key(0)));
    }

    #[test]
    fn threads_of_one_process_and_of_another_never_hold_it_together() {
        let top = tempfile::tempdir().unwrap();
        let stores = [Store::open(top.path()).unwrap(), Store::open(top.path()).unwrap()];
        let (inside, taken) = (AtomicBool::new(false), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for store in stores.iter().chain(&stores) {
                let (inside, taken) = (&inside, &taken);
                scope.spawn(move || {
                    for _ in 0..2000 {
                        if let Claiming::Held(_claim) = store.claim(&key(0)) {
                            assert!(!inside.swap(true, Ordering::SeqCst), "two holders");
                            taken.fetch_add(1, Ordering::SeqCst);
                            inside.store(false, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        assert!(taken.into_inner() > 0);
    }
}
