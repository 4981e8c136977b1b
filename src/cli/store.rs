//! The store that a run uses.

use std::path::PathBuf;

use super::args_common::Compiling;
use super::failure::Failure;
use super::setup::cache_dir;
use crate::base::error::chain;
use crate::base::{Error, sys};
use crate::flow::Command;
use crate::store::{Store, System};

/// With fewer descriptors than this there is none: a store keeps some open, and workers need them more.
const FEW_DESCRIPTORS: u64 = 64;

/// Opens it. One that was named must be of use; the default one is done without, and that is worth a word only where somebody else could
/// have written to it. The same goes for the system's, which serves also who has none. `store add` needs one, and fills that one whatever others have.
pub(crate) fn open(compiling: &Compiling, command: Command, notes: &mut Vec<String>) -> Result<Option<Store>, Failure> {
    let adds = command == Command::Add;
    if compiling.no_store {
        return if adds { Err(no_store()) } else { Ok(None) };
    }
    if !adds && sys::raise_open_file_limit() < FEW_DESCRIPTORS {
        tracing::debug!("there are too few descriptors for a store");
        return Ok(None);
    }
    let named = compiling.store.as_ref();
    let systems = |notes: &mut Vec<String>| system(compiling, notes).map(Store::of_system);
    let Some(path) = named.cloned().or_else(default_dir) else { return if adds { Err(no_store()) } else { Ok(systems(notes)) } };
    match Store::open(&path) {
        Ok(store) => {
            let system = if adds { None } else { system(compiling, notes) };
            Ok(Some(store.within(compiling.store_max_size.0).below(system)))
        }
        Err(error) if named.is_some() || adds => Err(unusable(error)),
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

fn system(compiling: &Compiling, notes: &mut Vec<String>) -> Option<System> {
    match System::open(&compiling.system_store) {
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

/// Where it is where nobody names one: root's serves all that the system installs, and lies where the system's caches do.
pub(crate) fn default_dir() -> Option<PathBuf> {
    let is_root = sys::effective_user() == 0 && std::env::var_os("CACHE_DIRECTORY").is_none();
    if is_root { Some(PathBuf::from("/var/cache/bytekeep")) } else { cache_dir() }
}
