//! The routing table of a configuration.

use engine::event::AgentIndex;
use engine::routing::{AgentSpec, RoutingTable, RuleError};

use crate::config::{AgentConfig, ECHO_AGENT, RoutingConfig};

/// How clients of the OpenClaw protocol call the agent that is meant where none is named.
const MAIN_AGENT: &str = "main";
/// The version of the table that a gateway starts with.
pub const VERSION_FIRST: u64 = 1;

/// Makes the table of these agents, whose order is their number, and of these rules.
pub fn table(
    version: u64,
    agents: &[&AgentConfig],
    routing: &RoutingConfig,
    shard_count: usize,
) -> Result<RoutingTable, Vec<RuleError>> {
    let shard_count = u8::try_from(shard_count).unwrap_or(u8::MAX);
    let specs: Vec<_> = agents
        .iter()
        .zip(0u32..)
        .map(|(agent, index)| AgentSpec {
            index: AgentIndex(index),
            name: agent.name.clone(),
            pool: (agent.pool != agent.name).then(|| agent.pool.clone()),
            capabilities: agent.capabilities.clone(),
            home: AgentIndex(index).home(shard_count),
        })
        .collect();
    RoutingTable::build(version, &specs, &routing.rules, routing.default.as_deref())
}

/// Agents as clients name them, alone or as a pool, in the order of the configuration.
pub fn pools(agents: &[AgentConfig]) -> Vec<String> {
    let mut pools: Vec<String> = agents.iter().map(|agent| agent.pool.clone()).collect();
    // The members of a pool follow each other.
    pools.dedup();
    pools
}

/// Whom clients of the OpenClaw protocol mean that name no agent: the default of routing, else `main`, else the first
/// that is not built in.
pub fn default_agent<'a>(pools: &'a [String], default: Option<&'a str>) -> &'a str {
    let pools = || pools.iter().map(String::as_str);
    let named = default.or_else(|| pools().find(|pool| *pool == MAIN_AGENT));
    named.or_else(|| pools().find(|pool| *pool != ECHO_AGENT)).unwrap_or(ECHO_AGENT)
}

/// All that is wrong, a line each.
pub fn list(errors: &[RuleError]) -> String {
    errors.iter().map(|error| format!("\n  {error}: {}", error.problem)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who is meant where none is named. One row a rule.
    #[test]
    fn somebody_is_meant() {
        let check = |pools: &[&str], default, expected| {
            let pools: Vec<String> = pools.iter().map(|pool| (*pool).to_owned()).collect();
            assert_eq!(default_agent(&pools, default), expected, "{pools:?}, {default:?}");
        };
        check(&["coder", "echo", "main"], Some("echo"), "echo");
        check(&["coder", "echo", "main"], None, "main");
        check(&["echo", "writer"], None, "writer");
        check(&["echo"], None, "echo");
    }
}
