//! The store that a run uses.

use super::failure::Failure;
use super::settings::{Origin, Settings};
use crate::base::error::chain;
use crate::base::sys;
use crate::flow::FEW_DESCRIPTORS;
use crate::store::Store;

/// Opens it. One that was named must be of use; the default one is done without, and that is worth a word only where somebody else could
/// have written to it.
pub(crate) fn open(settings: &Settings, notes: &mut Vec<String>) -> Result<Option<Store>, Failure> {
    let Some(path) = settings.store_dir.value.as_ref().filter(|_| settings.store_enabled.value) else { return Ok(None) };
    // Each folder that is open counts then; see `FEW_DESCRIPTORS`.
    if sys::raise_open_file_limit() < FEW_DESCRIPTORS {
        tracing::debug!(cause = "there are too few descriptors", "the store is not used");
        return Ok(None);
    }
    match (Store::open(path), &settings.store_dir.origin) {
        (Ok(store), _) => Ok(Some(store)),
        (Err(error), Origin::Default) => {
            if error.operation == "trust" {
                notes.push(format!("nothing is taken from the store, nor put there: {}", chain(&error)));
            } else {
                tracing::debug!(cause = %error.sentence(), "there is no store");
            }
            Ok(None)
        }
        (Err(error), _) => Err(Failure::from(error)
            .during("cannot use the store")
            .hint("name a directory of your own that nobody else can write, or give `--no-store`")),
    }
}
