//! What package managers record of the files that they installed: read, and never written. Over `base` alone: this knows paths and names,
//! neither artifacts nor interpreters.

pub mod distinfo;
mod record;
