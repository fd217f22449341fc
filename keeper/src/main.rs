//! The program `openclaw-keeper`: holds the agents of one gateway. Started by that gateway, not by people.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

use keeper::{KeeperError, Options};

const USAGE: &str = "openclaw-keeper holds the agents of a gateway and their rings. The gateway starts it and gives it \
its socket as standard input; people start `openclaw gateway`.\n\nusage: openclaw-keeper --socket PATH [--open-files COUNT] [--successor | --standby]";

/// How it is called wrongly.
const WRONG_USAGE: u8 = 2;

fn main() -> ExitCode {
    let (socket, options) = match parse(std::env::args_os().skip(1)) {
        Asked::Version => {
            println!("openclaw-keeper {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Asked::Run(socket, options) => (socket, options),
        Asked::StandBy(socket, options) => return ended(keeper::stand_by(&socket, options)),
        Asked::Wrong => {
            eprintln!("{USAGE}");
            return ExitCode::from(WRONG_USAGE);
        }
    };
    let listener = match std::io::stdin().as_fd().try_clone_to_owned() {
        Ok(listener) => listener,
        Err(error) => return failed(&error),
    };
    // The gateway keeps its memory in small pages, and a child begins as its parent is. Agents decide for themselves.
    let _ = rustix::thread::disable_transparent_huge_pages(false); // Where it is not known, nothing was disabled.
    ended(keeper::run(&socket, listener, options))
}

fn ended(result: Result<(), KeeperError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// What the command line asks for.
enum Asked {
    Run(PathBuf, Options),
    StandBy(PathBuf, Options),
    Version,
    Wrong,
}

fn parse(mut arguments: impl Iterator<Item = OsString>) -> Asked {
    let (mut socket, mut options, mut run) = (None, Options::default(), Asked::Run as fn(_, _) -> _);
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--version") => return Asked::Version,
            Some("--successor") => options.successor = true,
            Some("--standby") => run = Asked::StandBy,
            Some("--socket") => socket = arguments.next().map(PathBuf::from),
            Some("--open-files") => {
                let count = arguments.next().and_then(|count| count.to_str()?.parse().ok());
                let Some(count) = count else { return Asked::Wrong };
                options.open_files = Some(count);
            }
            _ => return Asked::Wrong,
        }
    }
    socket.map_or(Asked::Wrong, |socket| run(socket, options))
}

/// Says why it ends, with the causes, in one line.
fn failed(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("openclaw-keeper: {}", keeper::sentence(error));
    ExitCode::FAILURE
}
