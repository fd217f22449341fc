//! The binary `openclaw`.
fn main() {}
