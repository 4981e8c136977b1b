//! Keeps compiled bytecode caches whole.

pub mod base;
#[cfg(feature = "cli")]
pub mod cli;
pub mod flow;
pub mod model;
