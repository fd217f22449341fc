//! Ring
fn main() {}
