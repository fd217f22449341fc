//! The routing table of a configuration.

use engine::event::AgentIndex;
use engine::routing::{AgentSpec, RoutingTable, RuleError};

use crate::config::{AgentConfig, RoutingConfig};

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

/// All that is wrong, a line each.
pub fn list(errors: &[RuleError]) -> String {
    errors.iter().map(|error| format!("\n  {error}: {}", error.problem)).collect()
}
