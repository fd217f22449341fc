//! What a gateway that has started says to the person who started it.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::Path;

use engine::driver::Chosen;

use crate::config::{self, Config};
use crate::options::RunOptions;
use crate::state_directory;

/// What a person reads who has started the gateway; the log tells less.
pub fn text(
    address: SocketAddr,
    options: &RunOptions,
    config: &Config,
    chosen: &Chosen,
    executable: &Path,
    keeper: u32,
) -> String {
    tracing::info!(%address, runtime = chosen.runtime.name(), reason = %chosen.reason, "gateway started");
    tracing::info!(mode = config.auth.settings.mode().name(), origins = ?config.allowed_origins, "access");
    let command = command_name(executable);
    let agents: Vec<_> = config.agents.iter().map(|agent| agent.name.as_str()).collect();
    let many = if agents.len() > 8 { format!("{} agents", agents.len()) } else { agents.join(", ") };
    let place = place(options, &config.state_directory);
    // One that the keeper has started is not in the terminal's session.
    let end = if std::os::unix::process::parent_id() == keeper {
        format!("{command} gateway stop --state-dir {}", config.state_directory.display())
    } else {
        "Ctrl-C".to_owned()
    };
    format!(
        "listening on ws://{address}{}\n  runtime  {} ({})\n  shards   {}, edge threads {}\n  agents   {many}\n  \
         state    {}\ntry it:  {command} send{place} --agent {} \"hello\"\nend it:  {end}",
        link(address, config),
        chosen.runtime.name(),
        chosen.reason,
        config.shard_count,
        config.edge_count,
        config.state_directory.display(),
        config::ECHO_AGENT,
    )
}

/// A line with the page of this gateway, for a person: it has the token, so it never goes into a file or a log.
fn link(address: SocketAddr, config: &Config) -> String {
    if !std::io::stdout().is_terminal() {
        return String::new();
    }
    format!("\n  link     {}", config.auth.link(address))
}

/// How the user calls this program: by name if it is found by name, else by the shortest path.
fn command_name(executable: &Path) -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).map(|folder| folder.join("openclaw")).find(|path| path.is_file());
    if found.and_then(|path| path.canonicalize().ok()).as_deref() == Some(executable) {
        return "openclaw".into();
    }
    let here = std::env::current_dir().unwrap_or_default();
    executable.strip_prefix(here).unwrap_or(executable).display().to_string()
}

/// The flags with which another command finds this gateway, its address and its token.
fn place(options: &RunOptions, state_directory: &Path) -> String {
    let mut flags = String::new();
    if state_directory::chosen(None).as_deref() != Some(state_directory) {
        flags.push_str(&format!(" --state-dir {}", state_directory.display()));
    }
    if let Some(config) = &options.config {
        flags.push_str(&format!(" --config {}", config.display()));
    }
    flags
}
