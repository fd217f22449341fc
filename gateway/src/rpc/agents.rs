//! Agents as clients name them, what they know, and which tools they have.
//!
//! The members of a pool are one agent. Agents bring their tools along and use them by themselves, so the gateway has
//! none to list.

use adapters::openclaw::backend::Outcome;
use adapters::openclaw::params::Params;
use adapters::openclaw::session_key;
use adapters::refusal::RpcError;
use serde_json::{Value, json};

use super::{Known, json as write};
use crate::admin::{Admin, agents};

/// The name of the session that an agent is talked to in where none is named.
const MAIN_SESSION: &str = "main";
/// Where the skills of agents come from.
const SKILL_SOURCE: &str = "configuration";

/// `agents.list`.
pub fn list(known: &Known) -> Value {
    let agent = |name: &String| json!({"id": name, "name": name, "kind": "agent"});
    json!({
        "defaultId": known.default_agent,
        "mainKey": MAIN_SESSION,
        "scope": "per-sender",
        "selectionRequired": false,
        "agents": known.agents.iter().map(agent).collect::<Vec<_>>(),
    })
}

/// The agent that `agentId` names, or `sessionKey` where that is absent, or the default.
pub fn named(known: &Known, params: &Params<'_>) -> Result<String, RpcError> {
    let session = params.text("sessionKey");
    let of_session = session.as_deref().and_then(session_key::agent_of);
    let name = params.text("agentId").map(std::borrow::Cow::into_owned);
    let name = name.or_else(|| of_session.map(str::to_owned));
    let name = name.unwrap_or_else(|| known.default_agent.clone());
    if known.agents.contains(&name) || name == known.default_agent {
        return Ok(name);
    }
    Err(RpcError::invalid(format!("unknown agent id \"{name}\"")))
}

/// `tools.catalog`.
pub fn tools_catalog(known: &Known, params: &Params<'_>) -> Outcome {
    let agent = named(known, params)?;
    Ok(write(&json!({"agentId": agent, "profiles": [], "groups": []})))
}

/// `tools.effective`.
pub fn tools_effective(known: &Known, params: &Params<'_>) -> Outcome {
    let agent = named(known, params)?;
    // Nothing of what an agent has is kept from it.
    Ok(write(&json!({"agentId": agent, "profile": "full", "groups": []})))
}

/// `skills.status`: what the configuration says that an agent knows.
pub async fn skills_status(known: &Known, admin: &Admin, params: &Params<'_>) -> Outcome {
    let agent = named(known, params)?;
    let rows =
        agents::described(admin).await.map_err(|complaint| RpcError::unavailable(complaint.message))?;
    let found = rows.into_iter().find(|row| row.pool == agent || row.name == agent);
    let skills = found.map(|row| row.skills).unwrap_or_default();
    let workspace = known.state_directory.join("agents").join(&agent).join("workspace");
    Ok(write(&json!({
        "agentId": agent,
        "workspaceDir": workspace.display().to_string(),
        // Skills are words of the configuration; there is no folder of them.
        "managedSkillsDir": "",
        "skills": skills.iter().map(|skill| entry(skill)).collect::<Vec<_>>(),
    })))
}

/// A skill, with all that the incumbent's command line looks at.
fn entry(name: &str) -> Value {
    let none = json!({"bins": [], "anyBins": [], "env": [], "config": [], "os": []});
    json!({
        "name": name,
        "description": "",
        "source": SKILL_SOURCE,
        "bundled": false,
        "filePath": "",
        "baseDir": "",
        "skillKey": name,
        "always": false,
        "disabled": false,
        "blockedByAllowlist": false,
        "blockedByAgentFilter": false,
        "eligible": true,
        "modelVisible": true,
        "commandVisible": false,
        "requirements": none,
        "missing": none,
        "configChecks": [],
        "install": [],
    })
}
