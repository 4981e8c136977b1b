//! Bytes, digests, files and locks. Nothing here knows Python, decides what to do, or prints.
//!
//! What the layers above may lean on:
//!
//! Writing ([`mod@write`]):
//! - **W1** A name in a directory shows the complete old artifact, the complete new one, or nothing, at every instant.
//! - **W2** A staged file that is not committed is removed (a link of a whole one may stay); one whose process was killed is
//!   recognised by its name ([`leftover`]).
//! - **W3** In `batch` and `full`, [`write::commit`] reports success only after data and name were flushed.
//! - **W4** Nothing is renamed into a directory that was seen not to be what its name leads to any more. The look comes just before the
//!   rename and compares the last name only, in its parent as that was opened (the whole path where there is none open): directories
//!   further up may have been moved, and what is swapped between look and rename goes unseen. The artifact is whole then too, and lies
//!   in the directory that was meant when it was opened, wherever that is now; P1 is not touched.
//! - **W5** A second name that an artifact gets for others to link ([`write::Second`]) is given after its flush and before its own name:
//!   what has it is whole, and in `batch` and `full` as durable as the artifact itself.
//!
//! Locks ([`lock`]):
//! - **L1** Two [`lock::DirLock`]s that [exclude](lock::DirLock::excludes) never exist for one directory, one inode, at one time, as long
//!   as nobody else removes the lock file. Whoever may write the directory can do that. Where the directory goes with it, its holder
//!   works in the old one and the next holder in the new one, and W4 makes the first give up. Where the file goes alone, two work in
//!   one directory: work is done twice, and W1 still holds, for it leans on no lock.
//! - **L2** A lock dies with its process.
//! - **L3** Nothing here waits for a lock: taking one is an attempt, *busy* is an answer.
//!
//! Locks of bytes ([`bytelock`]), for what costs time only, have L2 and L3 too.
//!
//! Paths ([`sys`]):
//! - **P1** Below a tree's root nothing is opened, made, renamed or removed through a symbolic link: a [`sys::Dir`] is a descriptor,
//!   a [`sys::Name`] one component. One call takes several at a time, `openat2`, which is told to follow no link and not to leave.
//! - **P2** Opening never blocks on a FIFO and never takes a terminal.

pub mod bytelock;
pub mod children;
pub mod digests;
pub mod error;
pub mod keep;
pub mod leftover;
pub mod lock;
pub mod memo;
pub mod place;
pub mod seal;
pub mod seam;
pub mod shape;
pub mod share;
pub mod source;
mod stat;
pub mod sys;
mod together;
pub mod user;
pub mod whereabouts;
pub mod write;

pub use error::{Error, Flaw, FlawKind, Result};
