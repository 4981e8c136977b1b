//! A memory of what was found sound.

/// Fingerprints of files that were found sound.
#[derive(Debug)]
pub struct Memo;
