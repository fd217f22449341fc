//! The configuration, read again while the gateway runs: what can count at once does, the rest is named.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use adapters::edge::events::Event;
use adapters::openclaw::event::EventName;
use engine::events::Detail;
use engine::routing::RoutingTable;
use engine::shard::Command;
use serde_json::json;

use super::Control;
use super::agents::{Agents, agent_index, description};
use crate::admin::answer::Reloaded;
use crate::admin::order::ReloadKind;
use crate::admin::request::{Complaint, ErrorCode};
use crate::config::source::Text;
use crate::config::{self, AgentConfig, Config, Effort, InstancesPer, auth};
use crate::{routes, systemd};

/// Why the configuration is read again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Taken {
    /// Somebody has asked for it, and is told what came of it.
    Asked,
    /// A client has changed the file, and is told what came of it.
    Written,
    /// The file has changed.
    Seen,
}

impl Control {
    /// Reads the configuration again, or a text as if it stood there. If anything of it cannot be used, nothing changes.
    pub(super) fn reload(&mut self, kind: ReloadKind) -> Result<Reloaded, Complaint> {
        let source = Arc::clone(&self.parts.source);
        let document = match kind {
            ReloadKind::Take => return self.take(Taken::Asked),
            ReloadKind::Follow => return self.take(Taken::Written),
            ReloadKind::Try { config: None } => source.read().map(|text| text.document),
            ReloadKind::Try { config: Some(path) } => source.read_at(&path).map(|text| text.document),
            ReloadKind::Weigh(document) => Ok(document),
        };
        let next = document.and_then(|document| source.check(document));
        let next = next.map_err(|error| invalid(told(&error)))?;
        let pools = self.agents.kept(&next);
        self.table(&self.agents.with(&next, &pools), &next)?;
        Ok(sorted(self.config.keys.changed(&next.keys, &pools), &pools))
    }

    /// Looks whether the file says something else than when it was read last. What cannot be used is told and skipped.
    pub(super) fn file_changed(&mut self) {
        // Relaxed: a single flag, raised on this thread. Who goes down has nothing more to take.
        if !self.config.reload.watches || self.parts.draining.load(Ordering::Relaxed) {
            return;
        }
        let source = Arc::clone(&self.parts.source);
        if !source.path().exists() {
            tracing::warn!(
                file = %source.path().display(),
                "the configuration file is gone; the gateway goes on with what it has"
            );
            return;
        }
        // One that cannot be read is told when it is taken.
        if config::text(source.path()).is_ok_and(|text| source.hash(&text) == self.looked_at) {
            return;
        }
        // What is wrong, or has changed, is in the log.
        let _ = self.take(Taken::Seen);
    }

    /// A signal asks for it. What is wrong, or has changed, is in the log.
    pub(super) fn reload_unasked(&mut self) {
        // Relaxed: as above.
        if !self.parts.draining.load(Ordering::Relaxed) {
            let _ = self.take(Taken::Asked);
        }
    }

    /// Has count what can, and tells the service manager.
    fn take(&mut self, why: Taken) -> Result<Reloaded, Complaint> {
        systemd::reloading();
        let taken = self.take_file(why);
        match &taken {
            Ok(_) => systemd::ready(&self.summary()),
            Err(complaint) => {
                tracing::error!("the configuration is not reloaded: {}", complaint.message);
                systemd::ready(&format!("the configuration is not reloaded: {}", complaint.message));
            }
        }
        taken
    }

    fn take_file(&mut self, why: Taken) -> Result<Reloaded, Complaint> {
        let source = Arc::clone(&self.parts.source);
        let Text { document, hash, text: _ } = source.read().map_err(|error| invalid(told(&error)))?;
        self.looked_at.clone_from(&hash);
        let next = source.check(document).map_err(|error| invalid(told(&error)))?;
        let pools = self.agents.kept(&next);
        let agents = self.agents.with(&next, &pools);
        let table = Arc::new(self.table(&agents, &next)?);
        let changed = self.config.keys.changed(&next.keys, &pools);
        let access_changed = changed.keys().any(|key| auth::is_of_access(key));
        let mut reloaded = sorted(changed, &pools);
        self.routes_version += 1;
        for shard in &self.parts.shards {
            shard.tell(Command::Routes(Arc::clone(&table)));
        }
        self.agents.take_over(agents, &next);
        self.agents.skills.set_known(next.skills.clone());
        if access_changed {
            // Whoever was let in by what counted before is not any more.
            self.parts.access.change(&next.auth.settings);
            tracing::info!(mode = self.parts.access.mode().name(), "access has changed");
        }
        self.take_limits(&next);
        config::tell_unsupported(&next.unsupported);
        self.config.keys.take_over(&next.keys, &pools);
        tell(&reloaded);
        let changes = count(&reloaded);
        self.agents.bulletin.tell(self.now(), None, Detail::ConfigReloaded { changes });
        if source.set_applied(&hash) {
            // Text and numbers can always be written.
            let payload = serde_json::to_vec(&json!({"hash": hash})).unwrap_or_default();
            self.parts.shared.publish(Event::plain(EventName::ConfigChanged, payload));
        }
        match why {
            Taken::Written => {}
            Taken::Seen => self.untold.join(&reloaded),
            // Whoever changes the file and asks for a reload is told of the change, also if the gateway saw it first.
            Taken::Asked => reloaded.join(&std::mem::take(&mut self.untold)),
        }
        Ok(reloaded)
    }

    /// What of the settings counts at once and is kept by others than agents.
    fn take_limits(&mut self, next: &Config) {
        self.drain_timeout = next.drain_timeout;
        self.parts.log.set_levels(&next.levels);
        self.parts.shared.set_allowed_origins(next.allowed_origins.clone());
        let limits_changed = next.delivery.limits != self.config.delivery.limits;
        let patience_changed = next.heartbeat != self.config.heartbeat;
        for shard in &self.parts.shards {
            if limits_changed {
                shard.tell(Command::Limits(Box::new(next.delivery.limits)));
            }
            if patience_changed {
                shard.tell(Command::Patience(next.heartbeat));
            }
        }
        self.config.delivery = next.delivery;
        self.config.heartbeat = next.heartbeat;
        self.config.reload = next.reload;
        self.watch.set_debounce(next.reload.debounce);
    }

    /// The table of routes that these agents would make, with the rules of a configuration.
    fn table(&self, agents: &[AgentConfig], next: &Config) -> Result<RoutingTable, Complaint> {
        let members: Vec<&AgentConfig> = agents.iter().collect();
        let table = routes::table(self.routes_version + 1, &members, &next.routing, self.config.shard_count);
        table.map_err(|errors| {
            invalid(format!(
                "the rules of routing cannot be used{}\n  (agents that are new come with the next start of the gateway)",
                routes::list(&errors)
            ))
        })
    }

    /// How the gateway is, for the service manager.
    pub(super) fn summary(&self) -> String {
        format!("listening on {}, {} agents", self.parts.address, self.agents.agents.len())
    }
}

fn invalid(message: String) -> Complaint {
    Complaint::new(ErrorCode::InvalidConfig, message)
}

/// Changed keys by what they take.
fn sorted(changed: BTreeMap<String, Effort>, pools: &BTreeSet<String>) -> Reloaded {
    let mut reloaded = Reloaded::default();
    for (key, effort) in changed {
        match effort {
            Effort::None => reloaded.applied.push(key),
            Effort::Agent(pool) => reloaded.restart_agents.entry(pool).or_default().push(key),
            Effort::EveryAgent => {
                for pool in pools {
                    reloaded.restart_agents.entry(pool.clone()).or_default().push(key.clone());
                }
            }
            Effort::Gateway => reloaded.restart_gateway.push(key),
        }
    }
    reloaded
}

fn count(reloaded: &Reloaded) -> usize {
    let Reloaded { applied, restart_agents, restart_gateway } = reloaded;
    applied.len() + restart_gateway.len() + restart_agents.values().map(Vec::len).sum::<usize>()
}

/// Logs what has changed, key by key.
fn tell(reloaded: &Reloaded) {
    let Reloaded { applied, restart_agents, restart_gateway } = reloaded;
    for key in applied {
        tracing::info!(key, "this setting has changed and counts");
    }
    for (agent, keys) in restart_agents {
        for key in keys {
            tracing::info!(key, agent, "this setting counts for the next process of the agent");
        }
    }
    for key in restart_gateway {
        tracing::warn!(key, "this setting counts after the next start of the gateway");
    }
    tracing::info!(changes = count(reloaded), "the configuration is reloaded");
}

impl Reloaded {
    /// With what another answer has that is not in this one.
    fn join(&mut self, other: &Self) {
        let add = |keys: &mut Vec<String>, others: &[String]| {
            keys.extend(others.iter().filter(|key| !keys.contains(key)).cloned().collect::<Vec<_>>());
            keys.sort_unstable();
        };
        add(&mut self.applied, &other.applied);
        add(&mut self.restart_gateway, &other.restart_gateway);
        for (agent, keys) in &other.restart_agents {
            add(self.restart_agents.entry(agent.clone()).or_default(), keys);
        }
    }
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
