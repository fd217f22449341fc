//! The configuration, read again while the gateway runs: what can count at once does, the rest is named.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use engine::events::Detail;
use engine::shard::Command;

use super::Control;
use super::agents::{Agents, agent_index, description};
use crate::admin::answer::Reloaded;
use crate::admin::order::ReloadKind;
use crate::admin::request::{Complaint, ErrorCode};
use crate::config::{self, AgentConfig, Config, Effort, InstancesPer, auth};
use crate::routes;

impl Control {
    /// Reads the configuration again. If anything of it cannot be used, nothing changes.
    pub(super) fn reload(&mut self, kind: ReloadKind) -> Result<Reloaded, Complaint> {
        let (trial, other_file) = match kind {
            ReloadKind::Take => (false, None),
            ReloadKind::Try { config } => (true, config),
        };
        let invalid = |message: String| {
            if !trial {
                tracing::error!("the configuration is not reloaded: {message}");
            }
            Complaint::new(ErrorCode::InvalidConfig, message)
        };
        let mut options = self.parts.options.clone();
        options.config = other_file.or(options.config);
        let next = config::load(&options, &self.parts.standing).map_err(|error| invalid(told(&error)))?;
        let pools = self.agents.kept(&next);
        let agents = self.agents.with(&next, &pools);
        let members: Vec<&AgentConfig> = agents.iter().collect();
        let version = self.routes_version + 1;
        let table = routes::table(version, &members, &next.routing, self.config.shard_count);
        let table = table.map_err(|errors| {
            invalid(format!(
                "the rules of routing cannot be used{}\n  (agents that are new come with the next start of the gateway)",
                routes::list(&errors)
            ))
        })?;
        let changed = self.config.keys.changed(&next.keys, &pools);
        let access_changed = changed.keys().any(|key| auth::is_of_access(key));
        let reloaded = sorted(changed);
        if trial {
            return Ok(reloaded);
        }
        self.routes_version = version;
        let table = Arc::new(table);
        for shard in &self.parts.shards {
            shard.tell(Command::Routes(Arc::clone(&table)));
        }
        self.agents.take_over(agents, &next);
        self.agents.skills.set_known(next.skills.clone());
        self.drain_timeout = next.drain_timeout;
        if access_changed {
            // Whoever was let in by what counted before is not any more.
            self.parts.access.change(&next.auth.settings);
            tracing::info!(mode = self.parts.access.mode().name(), "access has changed");
        }
        config::tell_unsupported(&next.unsupported);
        self.config.keys.take_over(&next.keys, &pools);
        let Reloaded { applied, restart_agents, restart_gateway } = &reloaded;
        tracing::info!(?applied, ?restart_agents, ?restart_gateway, "the configuration is reloaded");
        let changes =
            applied.len() + restart_gateway.len() + restart_agents.values().map(Vec::len).sum::<usize>();
        self.agents.bulletin.tell(self.now(), None, Detail::ConfigReloaded { changes });
        Ok(reloaded)
    }
}

/// Changed keys by what they take.
fn sorted(changed: BTreeMap<String, Effort>) -> Reloaded {
    let mut reloaded =
        Reloaded { applied: Vec::new(), restart_agents: BTreeMap::new(), restart_gateway: Vec::new() };
    for (key, effort) in changed {
        match effort {
            Effort::None => reloaded.applied.push(key),
            Effort::Agent(pool) => reloaded.restart_agents.entry(pool).or_default().push(key),
            Effort::Gateway => reloaded.restart_gateway.push(key),
        }
    }
    reloaded
}

/// An error with its causes.
fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

impl Agents {
    /// The pools of this gateway that another configuration has too, with the same members for the same.
    fn kept(&self, next: &Config) -> BTreeSet<String> {
        let names = |agents: &mut dyn Iterator<Item = &AgentConfig>| {
            let mut pools = BTreeMap::<String, Vec<(String, InstancesPer)>>::new();
            for agent in agents {
                pools.entry(agent.pool.clone()).or_default().push((agent.name.clone(), agent.life.per));
            }
            pools
        };
        let own = names(&mut self.agents.iter().map(|agent| &agent.config));
        let next = names(&mut next.agents.iter());
        own.into_iter()
            .filter(|(pool, members)| next.get(pool) == Some(members))
            .map(|(pool, _)| pool)
            .collect()
    }

    /// The agents of this gateway, as another configuration has them where it has them.
    fn with(&self, next: &Config, pools: &BTreeSet<String>) -> Vec<AgentConfig> {
        let by_name: BTreeMap<_, _> = next.agents.iter().map(|agent| (&agent.name, agent)).collect();
        let each = self.agents.iter().map(|agent| {
            let own = &agent.config;
            by_name.get(&own.name).filter(|_| pools.contains(&own.pool)).map_or(own, |next| next).clone()
        });
        each.collect()
    }

    /// From now on these are the agents. What they run counts from their next start on.
    fn take_over(&mut self, agents: Vec<AgentConfig>, next: &Config) {
        self.fleet.set_limits(next.fleet);
        for (index, config) in agents.into_iter().enumerate() {
            self.registry.describe(agent_index(index), &description(&config));
            self.pools.set_limits(index, config.life.pool);
            let agent = &mut self.agents[index];
            agent.supervisor.set_patience(config.life.patience);
            agent.config = config;
        }
    }
}
