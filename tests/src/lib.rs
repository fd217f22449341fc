//! A gateway as a test sees it: a process, a port, a directory.
#![forbid(unsafe_code)]

pub mod browser;
pub mod client;
pub mod diary;
pub mod http;
pub mod operator;
pub mod process;
pub mod simulation;
pub mod storm;
pub mod tracer;

use std::path::PathBuf;

/// The binary `name` of this workspace, built beside the test that runs.
///
/// # Panics
/// If it has not been built: `cargo build --workspace --bins` does.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let folder = test.ancestors().nth(2).expect("a test lies in target/PROFILE/deps");
    let path = folder.join(name);
    assert!(path.is_file(), "{} is missing: cargo build --workspace --bins", path.display());
    path
}

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the workspace is there")
}
