//! The command `bytekeep`.

fn main() {}
