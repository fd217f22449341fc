//! The binary `openclaw` in all its roles: gateway, agent host, command line.
#![forbid(unsafe_code)]

mod admin;
mod announcement;
mod ask;
mod config;
mod control;
mod doctor;
mod edges;
mod front;
mod gateway;
mod health;
mod journal;
mod log;
mod options;
mod pages;
mod privileges;
mod process_usage;
mod reach;
mod ring;
mod routes;
mod rpc;
mod send;
mod settings;
mod state_directory;
mod systemd;
mod table;
mod transcripts;

use std::io::Write;
use std::process::ExitCode;

use adapters::agent::host::HostKind;
use ask::AskError;
use clap::{CommandFactory, Parser};
use clap_complete::Shell;
use options::{AgentHostKind, Command, CompletedShell, GatewayCommand, Options};
use ring::RingError;
use state_directory::Unreached;

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
                Some(GatewayCommand::Validate(options)) => return report(settings::validate(&options)),
                Some(GatewayCommand::Health(options)) => return report(send::health(&options)),
                Some(GatewayCommand::Probe(options)) => return report(send::probe(&options)),
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
        Command::Session { command } => report(ask::sessions(&command)),
        Command::Send(options) => report(send::send(&options)),
        Command::Health(options) => report(send::health(&options)),
        Command::Config { command } => report(settings::config(&command)),
        Command::Token { command } => report(settings::token(&command)),
        Command::Completions { shell } => complete(shell),
        Command::Ring { command } => report(ring::run(&command)),
        Command::Doctor(options) => report(doctor::run(&options)),
        Command::AgentHost { kind } => report(agent_host_role(kind)),
    }
}

/// Prints the script of a shell.
fn complete(shell: CompletedShell) -> ExitCode {
    let shell = match shell {
        CompletedShell::Bash => Shell::Bash,
        CompletedShell::Zsh => Shell::Zsh,
        CompletedShell::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Options::command(), "openclaw", &mut script);
    match std::io::stdout().write_all(&script) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Prints a failure with its causes in one line. What commands end with is told in `docs/cli.md`.
fn report<E: std::error::Error + 'static>(result: Result<ExitCode, E>) -> ExitCode {
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
            if is_not_running(&error) { ExitCode::from(send::EXIT_NOT_RUNNING) } else { ExitCode::FAILURE }
        }
    }
}

/// Whether a command failed only because no gateway runs.
fn is_not_running(error: &(dyn std::error::Error + 'static)) -> bool {
    let unreached = match (error.downcast_ref(), error.downcast_ref()) {
        (Some(AskError::Unreached(unreached)), _) | (_, Some(RingError::Unreached(unreached))) => unreached,
        _ => return false,
    };
    matches!(unreached, Unreached::NoGateway { .. })
}

fn agent_host_role(kind: AgentHostKind) -> Result<ExitCode, adapters::agent::host::HostError> {
    let kind = match kind {
        AgentHostKind::Echo => HostKind::Echo,
        AgentHostKind::Stdio { command } => HostKind::Stdio { argv: command },
    };
    Ok(ExitCode::from(adapters::agent::host::run(kind)?))
}
