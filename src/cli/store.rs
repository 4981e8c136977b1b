//! The store that a run uses.

use std::path::Path;

use super::failure::Failure;
use super::settings::{Origin, Settings};
use crate::base::error::chain;
use crate::base::{Error, sys};
use crate::flow::{Command, FEW_DESCRIPTORS};
use crate::store::{Store, System};

/// Opens it. One that was named must be of use; the default one is done without, and that is worth a word only where somebody else could
/// have written to it. The same goes for the system's, which serves also who has none. `store add` needs one, and fills that one whatever
/// others have.
pub(crate) fn open(settings: &Settings, command: Command, dry_run: bool, notes: &mut Vec<String>) -> Result<Option<Store>, Failure> {
    let adds = command == Command::Add;
    if !settings.store_enabled.value {
        return if adds { Err(no_store()) } else { Ok(None) };
    }
    // Each folder that is open counts then; see `FEW_DESCRIPTORS`.
    if sys::raise_open_file_limit() < FEW_DESCRIPTORS && !adds {
        tracing::debug!(cause = "there are too few descriptors", "the store is not used");
        return Ok(None);
    }
    let systems = |notes: &mut Vec<String>| system(settings, notes).map(Store::of_system);
    let Some(path) = &settings.store_dir.value else { return if adds { Err(no_store()) } else { Ok(systems(notes)) } };
    let opened = if dry_run { existing_or_none(path) } else { Store::open(path) };
    match opened {
        Ok(store) => {
            let system = if adds { None } else { system(settings, notes) };
            Ok(Some(store.within(settings.store_max_size.value).below(system)))
        }
        Err(error) if settings.store_dir.origin != Origin::Default || adds => Err(unusable(error)),
        Err(error) => {
            if error.operation == "trust" {
                notes.push(format!("nothing is taken from the store, nor put there: {}", chain(&error)));
            } else {
                tracing::debug!(cause = %error.sentence(), "there is no store");
            }
            Ok(systems(notes))
        }
    }
}

/// The store that is there, else one with nothing in it that is nowhere: whoever only looks makes none.
fn existing_or_none(path: &Path) -> crate::base::Result<Store> {
    if let Some(store) = Store::existing(path)? {
        return Ok(store);
    }
    let nowhere = tempfile::tempdir().map_err(|cause| Error::new("create a directory for", path, cause))?;
    Store::open(nowhere.path())
}

fn system(settings: &Settings, notes: &mut Vec<String>) -> Option<System> {
    match System::open(&settings.store_system_dir.value) {
        Ok(system) => system,
        Err(error) => {
            if error.operation == "trust" {
                notes.push(format!(
                    "nothing is taken from the system's store, since not only root could have written to it: {}; its administrator sets \
                     owner and mode right",
                    chain(&error)
                ));
            } else {
                tracing::debug!(cause = %error.sentence(), "the system's store is not used");
            }
            None
        }
    }
}

/// One that was named is of no use.
pub(crate) fn unusable(error: Error) -> Failure {
    Failure::from(error)
        .during("cannot use the store")
        .hint("name a directory of your own that nobody else can write with `--store`, or let runs do without by `--no-store`")
}

fn no_store() -> Failure {
    Failure::new("there is no store to add to").hint("name one with `--store`")
}
