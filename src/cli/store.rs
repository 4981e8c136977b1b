//! The store that a run uses.

use std::path::PathBuf;

use super::args_common::Compiling;
use super::failure::Failure;
use super::setup::cache_dir;
use crate::base::error::chain;
use crate::base::sys;
use crate::flow::FEW_DESCRIPTORS;
use crate::store::Store;

/// Opens it. One that was named must be of use; the default one is done without, and that is worth a word only where somebody else could
/// have written to it.
pub(crate) fn open(compiling: &Compiling, notes: &mut Vec<String>) -> Result<Option<Store>, Failure> {
    if compiling.no_store {
        return Ok(None);
    }
    // Each folder that is open counts then; see `FEW_DESCRIPTORS`.
    if sys::raise_open_file_limit() < FEW_DESCRIPTORS {
        tracing::debug!(cause = "there are too few descriptors", "the store is not used");
        return Ok(None);
    }
    let named = compiling.store.as_ref();
    let Some(path) = named.cloned().or_else(default_dir) else { return Ok(None) };
    match (Store::open(&path), named) {
        (Ok(store), _) => Ok(Some(store)),
        (Err(error), Some(_)) => Err(Failure::from(error)
            .during("cannot use the store")
            .hint("name a directory of your own that nobody else can write, or give `--no-store`")),
        (Err(error), None) => {
            if error.operation == "trust" {
                notes.push(format!("nothing is taken from the store, nor put there: {}", chain(&error)));
            } else {
                tracing::debug!(cause = %error.sentence(), "there is no store");
            }
            Ok(None)
        }
    }
}

/// Where it is where nobody names one: root's serves all that the system installs, and lies where the system's caches do.
fn default_dir() -> Option<PathBuf> {
    let is_root = sys::effective_user() == 0 && std::env::var_os("CACHE_DIRECTORY").is_none();
    if is_root { Some(PathBuf::from("/var/cache/bytekeep")) } else { cache_dir() }
}
