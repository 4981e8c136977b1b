//! Programs that run long, want root, or measure.

fn main() {}
