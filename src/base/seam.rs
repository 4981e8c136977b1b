//! The fault seam: what tests break on purpose. Without the feature `fault` all of it is nothing.
//!
//! `BYTEKEEP_FAULT` names one system call, counted from 0 in the order in which they are made, and what becomes of it: `kill:N` ends the
//! process before call N, `fail:N:ERRNO` makes it fail with that number, `short:N` lets a write take half its bytes.
//!
//! `BYTEKEEP_WITHOUT` names safeguards, divided by commas, that are left out: whoever looks for their absence must find it.

#[cfg(feature = "fault")]
mod on {
    use std::io;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    enum Plan {
        None,
        Kill(u64),
        Fail(u64, i32),
        Short(u64),
    }

    static CALLS: AtomicU64 = AtomicU64::new(0);
    static PLAN: OnceLock<Plan> = OnceLock::new();
    static WITHOUT: OnceLock<String> = OnceLock::new();

    fn plan() -> &'static Plan {
        PLAN.get_or_init(|| {
            let text = std::env::var("BYTEKEEP_FAULT").unwrap_or_default();
            let mut parts = text.split(':');
            let what = parts.next().unwrap_or_default();
            let number = parts.next().and_then(|n| n.parse().ok());
            let errno = parts.next().and_then(|n| n.parse().ok());
            match (what, number, errno) {
                ("kill", Some(n), _) => Plan::Kill(n),
                ("fail", Some(n), Some(errno)) => Plan::Fail(n, errno),
                ("short", Some(n), _) => Plan::Short(n),
                _ => Plan::None,
            }
        })
    }

    pub(in super::super) fn gate(_operation: &'static str) -> io::Result<()> {
        let number = CALLS.fetch_add(1, Ordering::SeqCst);
        match *plan() {
            Plan::Kill(n) if n == number => super::super::sys::kill_self(),
            Plan::Fail(n, errno) if n == number => Err(io::Error::from_raw_os_error(errno)),
            _ => Ok(()),
        }
    }

    pub(in super::super) fn shorten(bytes: &[u8]) -> &[u8] {
        match *plan() {
            Plan::Short(n) if n == CALLS.load(Ordering::SeqCst) => &bytes[..bytes.len().div_ceil(2)],
            _ => bytes,
        }
    }

    /// How many calls have passed the gate.
    pub fn calls() -> u64 {
        CALLS.load(Ordering::SeqCst)
    }

    /// Is this safeguard left out?
    pub fn without(safeguard: &str) -> bool {
        WITHOUT.get_or_init(|| std::env::var("BYTEKEEP_WITHOUT").unwrap_or_default()).split(',').any(|word| word == safeguard)
    }
}

#[cfg(not(feature = "fault"))]
mod off {
    #[allow(clippy::unnecessary_wraps, reason = "the same signature as with the feature")]
    #[inline]
    pub(in super::super) fn gate(_operation: &'static str) -> std::io::Result<()> {
        Ok(())
    }

    #[inline]
    pub(in super::super) fn shorten(bytes: &[u8]) -> &[u8] {
        bytes
    }

    /// Is this safeguard left out? Never.
    #[inline]
    pub fn without(_safeguard: &str) -> bool {
        false
    }
}

#[cfg(not(feature = "fault"))]
pub use off::without;
#[cfg(not(feature = "fault"))]
pub(super) use off::{gate, shorten};
#[cfg(feature = "fault")]
pub use on::{calls, without};
#[cfg(feature = "fault")]
pub(super) use on::{gate, shorten};
