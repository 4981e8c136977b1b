//! What ends the work before a run: somebody wants it to end, or the time of the whole run is over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::failure::Failure;

/// Until when lists and records are read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Until<'a> {
    stop: &'a AtomicBool,
    begun: Instant,
    limit: Option<Duration>,
}

impl<'a> Until<'a> {
    /// From now on.
    pub(crate) fn new(stop: &'a AtomicBool, limit: Option<Duration>) -> Self {
        Self { stop, begun: Instant::now(), limit }
    }

    /// Is the time over? An error where somebody wants it to end.
    pub(crate) fn is_over(&self) -> Result<bool, Failure> {
        if self.stop.load(Ordering::SeqCst) {
            return Err(Failure::new("interrupted"));
        }
        Ok(self.left().is_some_and(|left| left.is_zero()))
    }

    /// What is left of the time; `None` where it is not limited. Where nothing is left the run itself tells so.
    pub(crate) fn left(&self) -> Option<Duration> {
        self.limit.map(|limit| limit.saturating_sub(self.begun.elapsed()))
    }
}
