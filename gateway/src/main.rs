//! The binary `openclaw` in all its roles: gateway, keeper, agent host, command line.
#![forbid(unsafe_code)]

mod admin;
mod ask;
mod config;
mod control;
mod doctor;
mod edges;
mod gateway;
mod health;
mod journal;
mod log;
mod options;
mod pages;
mod process_usage;
mod ring;
mod routes;
mod rpc;
mod send;
mod state_directory;
mod systemd;
mod table;

use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

use adapters::agent::host::HostKind;
use clap::Parser;
use options::{AgentHostKind, Command, GatewayCommand, Options};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Options::parse().command {
        Command::Gateway { options, command } => {
            let options = match command {
                Some(GatewayCommand::Run(options)) => options,
                Some(GatewayCommand::Stats(options)) => return report(ask::stats(&options)),
                Some(GatewayCommand::Events(options)) => return report(ask::events(&options)),
                Some(GatewayCommand::Reload(options)) => return report(ask::reload(&options)),
                Some(GatewayCommand::Status(options)) => return report(ask::status(&options)),
                Some(GatewayCommand::Stop(options)) => return report(ask::stop(&options)),
                Some(GatewayCommand::Restart(options)) => return report(ask::restart(&options)),
                None => options,
            };
            report(gateway::run(&options))
        }
        Command::Agent { command } => report(ask::agents(&command)),
        Command::Explain(options) => report(ask::explain(&options)),
        Command::Dlq { command } => report(ask::dead_letters(&command)),
        Command::Send(options) => report(send::send(&options)),
        Command::Health(options) => report(send::health(&options)),
        Command::Ring { command } => report(ring::run(&command)),
        Command::Doctor(options) => report(doctor::run(&options)),
        Command::Keeper { socket } => report(keeper_role(&socket)),
        Command::AgentHost { kind } => report(agent_host_role(kind)),
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
            ExitCode::FAILURE
        }
    }
}

/// Why this process cannot take the role of the keeper.
#[derive(Debug, thiserror::Error)]
enum RoleError {
    /// Standard input is not to be had.
    #[error("the keeper is started by the gateway, which hands it its socket as standard input")]
    NoSocket(#[source] std::io::Error),
    /// The keeper ended without being told to.
    #[error(transparent)]
    Keeper(#[from] keeper::KeeperError),
    /// The agent host ended with nothing to say for it.
    #[error(transparent)]
    AgentHost(#[from] adapters::agent::host::HostError),
}

fn keeper_role(socket: &Path) -> Result<ExitCode, RoleError> {
    let listener = std::io::stdin().as_fd().try_clone_to_owned().map_err(RoleError::NoSocket)?;
    keeper::run(socket, listener)?;
    Ok(ExitCode::SUCCESS)
}

fn agent_host_role(kind: AgentHostKind) -> Result<ExitCode, RoleError> {
    let kind = match kind {
        AgentHostKind::Echo => HostKind::Echo,
        AgentHostKind::Stdio { command } => HostKind::Stdio { argv: command },
    };
    Ok(ExitCode::from(adapters::agent::host::run(kind)?))
}
