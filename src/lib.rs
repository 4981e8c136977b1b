//! Keeps compiled bytecode caches whole.

pub mod base;
pub mod flow;
pub mod model;
pub mod python;
