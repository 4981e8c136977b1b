//! rpm: absolute paths on standard input. At an installation those of the transaction, and of everything that was installed before; before
//! a removal those that are about to go; after one (`%transfiletriggerpostun`) no list at all.

use std::path::Path;

use super::super::failure::Failure;
use super::super::until::Until;
use super::lines;
use super::owner;
use super::places::Places;

/// What was handed over. Without any list after a removal, all that is where rpm's packages have their modules.
pub(super) fn places(removed: bool, root: &Path, until: Until<'_>) -> Result<Places, Failure> {
    let mut places = Places::new(removed);
    let lines = lines::each(until, |line| if removed { places.add_doomed(line) } else { places.add_source(line) })?;
    if removed && lines == 0 {
        places.trees.extend(owner::sites_below(root, Path::new("/usr")).into_iter().map(|(_, dir)| dir));
    }
    Ok(places)
}
