//! The keeper's role alone, for tests: `keeper_process keeper --socket PATH`, listener on standard input.

use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [role, option, path] = arguments.as_slice() else { return usage() };
    if role != "keeper" || option != "--socket" {
        return usage();
    }
    let listener = std::io::stdin().as_fd().try_clone_to_owned().expect("standard input is open");
    match keeper::run(Path::new(path), listener) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keeper: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: keeper_process keeper --socket PATH");
    ExitCode::from(2)
}
