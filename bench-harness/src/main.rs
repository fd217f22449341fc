//! bench-harness.
fn main() {}
