//! Locks of directories.

/// Who holds a lock, as far as the lock file says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holder {
    /// Process id.
    pub pid: Option<u32>,
    /// The command's name.
    pub command: Option<String>,
    /// When it took the lock, seconds since 1970.
    pub since: Option<i64>,
}
