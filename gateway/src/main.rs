//! The binary `openclaw` in all its roles: gateway, agent host, command line.
#![forbid(unsafe_code)]

mod admin;
mod agent_message;
mod announcement;
mod ask;
mod background;
mod call;
mod chat;
mod client;
mod colours;
mod config;
mod control;
mod doctor;
mod edges;
mod front;
mod gateway;
mod health;
mod journal;
mod log;
mod logs;
mod options;
mod pages;
mod privileges;
mod process_usage;
mod reach;
mod ring;
mod routes;
mod rpc;
mod send;
mod service;
mod settings;
mod start;
mod state_directory;
mod stores;
mod systemd;
mod table;
mod threads;
mod transcripts;

use std::io::Write;
use std::process::ExitCode;

use adapters::agent::host::HostKind;
use ask::AskError;
use clap::error::ErrorKind;
use clap::{ColorChoice, CommandFactory, FromArgMatches};
use clap_complete::Shell;
use client::TalkError;
use options::{AgentHostKind, AgentVerb, Command, CompletedShell, GatewayCommand, Options};
use ring::RingError;
use state_directory::Unreached;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match options().command {
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
                Some(GatewayCommand::Start(options)) => return report(start::start(&options)),
                Some(GatewayCommand::Install(options)) => return report(service::install(&options)),
                Some(GatewayCommand::Reinstall(options)) => return report(service::reinstall(&options)),
                Some(GatewayCommand::Uninstall(options)) => return report(service::uninstall(options)),
                Some(GatewayCommand::Call(options)) => return report(call::call(&options)),
                Some(GatewayCommand::Logs(options)) => return report(logs::run(&options)),
                None => options,
            };
            report(gateway::run(&options))
        }
        Command::Agent { command: Some(AgentVerb::Running(command)), .. } => report(ask::agents(&command)),
        Command::Agent { command: Some(AgentVerb::Config { command }), .. } => {
            report(settings::agent(command))
        }
        Command::Agent { message: Some(message), options, .. } => {
            report(agent_message::say(&message, &options))
        }
        Command::Agent { .. } => nothing_to_say(),
        Command::Start(options) => report(start::start(&options)),
        Command::Chat(options) => report(chat::chat(&options)),
        Command::Status(options) => report(call::status(&options)),
        Command::Logs(options) => report(logs::run(&options)),
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

/// The command line. What it prints of itself has colours only where they are wanted.
fn options() -> Options {
    let mut command = Options::command();
    if std::env::args_os().take_while(|argument| argument != "--").any(|argument| argument == colours::FLAG) {
        colours::off();
    }
    if !colours::wanted(true) {
        command = command.color(ColorChoice::Never);
    }
    let found = command.get_matches();
    Options::from_arg_matches(&found).unwrap_or_else(|error| error.exit())
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
            ExitCode::from(exit_code(&error))
        }
    }
}

/// What a command ends with that has failed so.
fn exit_code(error: &(dyn std::error::Error + 'static)) -> u8 {
    if let Some(error) = error.downcast_ref::<TalkError>() {
        return error.exit_code();
    }
    let unreached = match (error.downcast_ref(), error.downcast_ref()) {
        (Some(AskError::Unreached(unreached)), _) | (_, Some(RingError::Unreached(unreached))) => unreached,
        _ => return 1,
    };
    if matches!(unreached, Unreached::NoGateway { .. }) { client::EXIT_NOT_RUNNING } else { 1 }
}

/// `agent` alone is no command.
fn nothing_to_say() -> ExitCode {
    let problem =
        "give --message TEXT to say something to an agent, or one of the commands that --help lists";
    Options::command().error(ErrorKind::MissingRequiredArgument, problem).exit()
}

fn agent_host_role(kind: AgentHostKind) -> Result<ExitCode, adapters::agent::host::HostError> {
    let kind = match kind {
        AgentHostKind::Echo => HostKind::Echo,
        AgentHostKind::Stdio { command } => HostKind::Stdio { argv: command },
    };
    Ok(ExitCode::from(adapters::agent::host::run(kind)?))
}
