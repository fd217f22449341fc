//! `agent`: agents in a table, one with all that is known, restarted, drained, left alone, released.

use std::io::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::{AskError, Gateway, elapsed, elapsed_ms, logs};
use crate::admin::answer::{Acted, AgentRow, Agents};
use crate::admin::request::Op;
use crate::options::{AgentActOptions, AgentCommand, AgentListOptions, AgentStatusOptions};
use crate::table::{self, Align, print_json};

/// How often `--wait` looks.
const LOOK: Duration = Duration::from_millis(50);
/// How long an agent has to run before `--wait` believes that it does.
const PROBATION_MS: u64 = 1000;

const COLUMNS: [(&str, Align); 8] = [
    ("NAME", Align::Left),
    ("STATE", Align::Left),
    ("PID", Align::Right),
    ("RESTARTS", Align::Right),
    ("OPEN", Align::Right),
    ("QUEUE", Align::Right),
    ("UPTIME", Align::Right),
    ("LAST CAUSE", Align::Left),
];

pub(super) fn run(command: &AgentCommand) -> Result<(), AskError> {
    match command {
        AgentCommand::List(options) => list(options),
        AgentCommand::Status(options) => status(options),
        AgentCommand::Restart(options) => act(Op::AgentRestart, None, options),
        AgentCommand::Drain(options) => act(Op::AgentDrain, None, options),
        AgentCommand::Quarantine(options) => {
            act(Op::AgentQuarantine, options.reason.as_deref(), &options.act)
        }
        AgentCommand::Release(options) => act(Op::AgentRelease, None, options),
        AgentCommand::Logs(options) => logs::run(options),
    }
}

/// All agents to which the fields apply, page by page.
pub(super) fn agents(gateway: &mut Gateway, fields: &Value) -> Result<Agents, AskError> {
    let mut all = Agents { total: 0, agents: Vec::new(), next: None };
    loop {
        let mut page = fields.clone();
        page["offset"] = json!(all.agents.len());
        let Agents { total, agents, next } = gateway.ask(Op::AgentList, page)?;
        all.total = total;
        all.agents.extend(agents);
        if next.is_none_or(|next| next != all.agents.len()) {
            return Ok(all);
        }
    }
}

fn list(options: &AgentListOptions) -> Result<(), AskError> {
    let AgentListOptions { state, skill, capability, channel, version_of, json, place } = options;
    let fields = json!({"state": state, "skill": skill, "capability": capability, "channel": channel,
        "version": version_of});
    let found = agents(&mut Gateway::connect(place)?, &fields)?;
    if *json {
        return print_json(&found).map_err(AskError::Print);
    }
    let rows: Vec<_> = found.agents.iter().map(row).collect();
    let text = table::render(&COLUMNS, &rows).join("\n");
    writeln!(std::io::stdout(), "{text}").map_err(AskError::Print)
}

fn row(agent: &AgentRow) -> [String; 8] {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let state = if agent.sick.is_some() { format!("{} (sick)", agent.state) } else { agent.state.clone() };
    [
        agent.name.clone(),
        state,
        or_none(agent.process_id.map(|process| process.to_string())),
        agent.restarts.to_string(),
        agent.open.to_string(),
        agent.queued.to_string(),
        or_none(agent.started_ms.map(elapsed)),
        or_none(agent.cause.clone()),
    ]
}

fn status(options: &AgentStatusOptions) -> Result<(), AskError> {
    let AgentStatusOptions { name, json, place } = options;
    let found = agents(&mut Gateway::connect(place)?, &json!({"agent": name}))?;
    if *json {
        return print_json(&found).map_err(AskError::Print);
    }
    let text: Vec<_> = found.agents.iter().map(|agent| lines(agent).join("\n")).collect();
    writeln!(std::io::stdout(), "{}", text.join("\n\n")).map_err(AskError::Print)
}

/// All that is known of an agent, a line each.
fn lines(agent: &AgentRow) -> Vec<String> {
    let words = |words: &[String]| (!words.is_empty()).then(|| words.join(" "));
    let pending = agent.restart_pending.then(|| "a restart is under way, or will come to it".to_owned());
    let told = [
        ("name", Some(agent.name.clone())),
        ("pool", (agent.pool != agent.name).then(|| agent.pool.clone())),
        ("state", Some(format!("{}, for {}", agent.state, elapsed(agent.since_ms)))),
        ("pending", pending),
        ("cause", agent.cause.clone()),
        ("sick", agent.sick.clone()),
        ("process", agent.process_id.map(|process| process.to_string())),
        ("uptime", agent.started_ms.map(elapsed)),
        ("restarts", Some(format!("{} ({})", agent.restarts, agent.policy))),
        ("messages", Some(format!("{} in hand, {} waiting", agent.open, agent.queued))),
        ("software", (!agent.version.is_empty()).then(|| agent.version.clone())),
        ("skills", words(&agent.skills)),
        ("channels", words(&agent.channels)),
        ("capabilities", words(&agent.capabilities)),
    ];
    told.into_iter().filter_map(|(name, value)| Some(format!("{name:<13}{}", value?))).collect()
}

fn act(op: Op, reason: Option<&str>, options: &AgentActOptions) -> Result<(), AskError> {
    let AgentActOptions { name, wait, json, place } = options;
    let mut gateway = Gateway::connect(place)?;
    let acted: Acted = gateway.ask(op, json!({"agent": name, "reason": reason}))?;
    if *wait {
        settle(&mut gateway, name, &acted.agents, matches!(op, Op::AgentRestart | Op::AgentRelease))?;
    }
    if *json {
        return print_json(&acted).map_err(AskError::Print);
    }
    let verb = match (op, wait) {
        (Op::AgentRestart, false) => "is being restarted",
        (Op::AgentRestart, true) => "has been restarted",
        (Op::AgentDrain, false) => "is being drained",
        (Op::AgentDrain, true) => "has been drained",
        (Op::AgentQuarantine, _) => "is quarantined",
        _ => "is released",
    };
    let lines: Vec<_> = acted.agents.iter().map(|agent| format!("{agent} {verb}")).collect();
    writeln!(std::io::stdout(), "{}", lines.join("\n")).map_err(AskError::Print)
}

/// Waits until agents stand still. `running`: they should run then, or rest in their pool.
fn settle(gateway: &mut Gateway, name: &str, acted: &[String], running: bool) -> Result<(), AskError> {
    loop {
        let Agents { agents, .. } = agents(gateway, &json!({"agent": name}))?;
        let meant: Vec<_> = agents.iter().filter(|agent| acted.contains(&agent.name)).collect();
        let moving = |agent: &&&AgentRow| {
            let young = running && agent.started_ms.is_some_and(|started| elapsed_ms(started) < PROBATION_MS);
            young
                || agent.restart_pending
                || matches!(&*agent.state, "draining" | "initialising" | "backing-off")
        };
        if meant.iter().any(|agent| moving(&agent)) {
            std::thread::sleep(LOOK);
            continue;
        }
        let still = |agent: &&&AgentRow| !matches!(&*agent.state, "running" | "created");
        let names: Vec<_> = meant.iter().filter(still).map(|agent| agent.name.as_str()).collect();
        if running && !names.is_empty() {
            return Err(AskError::NotRunning { names: names.join(", "), many: names.len() > 1 });
        }
        return Ok(());
    }
}
