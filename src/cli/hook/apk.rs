//! apk: directories as arguments, absolute. A `+` that marks directories in a package's `triggers` is no part of them.

use std::ffi::OsString;

use super::places::Places;

/// What was handed over.
pub(super) fn places(words: &[OsString]) -> Places {
    let mut places = Places::default();
    for word in words {
        if !places.add_tree(word) {
            tracing::debug!(word = %word.display(), "it is no directory to look at");
        }
    }
    places
}
