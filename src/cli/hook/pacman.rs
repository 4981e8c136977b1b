//! pacman: paths on standard input, relative to the root, with a slash behind directories. They do not say what happened: one hook file
//! is for what was installed or upgraded, one for what was removed. Removed ones may never have existed.

use super::super::failure::Failure;
use super::super::until::Until;
use super::lines;
use super::places::Places;

/// What was handed over. After a removal the files are gone: what is left in their directories tells what to do, and what other
/// packages still have there counts as ever.
pub(super) fn places(removed: bool, until: Until<'_>) -> Result<Places, Failure> {
    let mut places = Places::new(removed);
    lines::each(until, |line| places.add_source(line))?;
    Ok(places)
}
