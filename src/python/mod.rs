//! Python: what CPython's and PyPy's artifacts look like. Bytes in, answers out; nothing here starts an interpreter or opens a file.
//!
//! - [`magic`] is the table of magic numbers: who writes which, and how long the header behind it is.
//! - [`pyc`] knows names, headers and labels: [`pyc::Pyc`] is the [`crate::model::Format`] of `.pyc` files.
//! - [`marshal`] walks the body behind the header to its last byte and trusts none of it.
//!
//! What the layers above may lean on:
//! - **Y1** No input makes this module panic, recurse, or allocate by a number that stands in the file.
//! - **Y2** A body that is cut anywhere is found, and so is a seal that is cut anywhere but at its first byte.
//! - **Y3** What a released interpreter wrote is never called damaged.

pub mod magic;
pub mod marshal;
pub mod pyc;
