//! Writing artifacts whole.

/// How safe from a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Durability {
    /// Nothing is flushed, as CPython does.
    None,
    /// Many files are flushed together.
    Batch,
    /// Every file on its own.
    Full,
}
