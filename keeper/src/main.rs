//! The program `openclaw-keeper`: holds the agents of one gateway. Started by that gateway, not by people.
#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "openclaw-keeper holds the agents of a gateway and their rings. The gateway starts it and gives it \
its socket as standard input; people start `openclaw gateway`.\n\nusage: openclaw-keeper --socket PATH";

/// How it is called wrongly.
const WRONG_USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let socket = match arguments.as_slice() {
        [option, path] if option == "--socket" => PathBuf::from(path),
        [option] if option == "--version" => {
            println!("openclaw-keeper {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(WRONG_USAGE);
        }
    };
    let listener = match std::io::stdin().as_fd().try_clone_to_owned() {
        Ok(listener) => listener,
        Err(error) => return failed(&error),
    };
    match keeper::run(&socket, listener) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// Says why it ends, with the causes, in one line.
fn failed(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("openclaw-keeper: {}", keeper::sentence(error));
    ExitCode::FAILURE
}
