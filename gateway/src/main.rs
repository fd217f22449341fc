//! The binary `openclaw` in all its roles: gateway, keeper, agent host, command line.
#![forbid(unsafe_code)]

mod config;
mod control;
mod edges;
mod gateway;
mod health;
mod options;
mod send;
mod state_directory;

use std::process::ExitCode;

use clap::Parser;
use options::{AgentHostKind, Command, GatewayCommand, Options};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code for a configuration or a command line that cannot be used.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    match Options::parse().command {
        Command::Gateway { options, command } => {
            let options = match command {
                Some(GatewayCommand::Run(options)) => options,
                None => options,
            };
            report(gateway::run(&options))
        }
        Command::Send(options) => report(send::send(&options)),
        Command::Health(options) => report(send::health(&options)),
        Command::Keeper { socket } => report(keeper_role(&socket)),
        Command::AgentHost { kind } => agent_host_role(kind),
    }
}

/// Prints a failure with its causes in one line.
fn report<E: std::error::Error>(result: Result<ExitCode, E>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) => {
            let mut text = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                text.push_str(": ");
                text.push_str(&cause.to_string());
                source = cause.source();
            }
            eprintln!("openclaw: {text}");
            ExitCode::from(EXIT_USAGE.min(1))
        }
    }
}

fn keeper_role(socket: &std::path::Path) -> Result<ExitCode, keeper::KeeperError> {
    keeper::run_from_stdin(socket)?;
    Ok(ExitCode::SUCCESS)
}

fn agent_host_role(kind: AgentHostKind) -> ExitCode {
    let kind = match kind {
        AgentHostKind::Echo => adapters::agent::host::HostKind::Echo,
        AgentHostKind::Stdio { command } => adapters::agent::host::HostKind::Stdio { command },
    };
    report(adapters::agent::host::run(kind))
}
