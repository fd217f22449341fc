//! Settings of the lives of agents: when they are started again, how many of a pool run, when one is sick.

use std::time::Duration;

use engine::supervision::fleet::FleetLimits;
use engine::supervision::pool::PoolLimits;
use engine::supervision::sickness::SicknessLimits;
use engine::supervision::{Limits, Patience, RestartPolicy};
use schemars::JsonSchema;
use serde::Deserialize;

use super::agents::FileAgent;
use super::heartbeat::FileHeartbeat;
use super::range;

const INSTANCES_MAX: u64 = 256;
/// Members of a pool of which each serves one conversation.
const CONVERSATIONS_DEFAULT: u64 = 16;
const IDLE_TIMEOUT_DEFAULT_MS: u64 = 60_000;
const AGENT_DRAIN_DEFAULT_MS: u64 = 30_000;
const RESTARTS_DEFAULT: u64 = 5;
const RESTARTS_MAX: u64 = 1_000;
const RESTART_WINDOW_DEFAULT_MS: u64 = 10_000;
const FLEET_DEFAULT: u64 = 1_000;
const FLEET_MAX: u64 = 100_000;
const FLEET_WINDOW_DEFAULT_MS: u64 = 10_000;
const ERROR_PERCENT_DEFAULT: u64 = 50;
const SICK_WINDOW_DEFAULT_MS: u64 = 10_000;
const SICK_WINDOWS_MAX: u64 = 1_000;
/// The longest window or wait of this file.
const LONG_MS: u64 = 86_400_000;

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct FileRestart {
    policy: Option<String>,
    max: Option<u64>,
    window_ms: Option<u64>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct FileSickness {
    error_percent: Option<u64>,
    latency_ms: Option<u64>,
    window_ms: Option<u64>,
    windows: Option<u64>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct FileSupervision {
    #[serde(default)]
    fleet: FileFleet,
    #[serde(default)]
    heartbeat: FileHeartbeat,
}

impl FileSupervision {
    pub(super) fn heartbeat(&self) -> &FileHeartbeat {
        &self.heartbeat
    }
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct FileFleet {
    max: Option<u64>,
    window_ms: Option<u64>,
}

/// What each process of an agent is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum InstancesPer {
    /// Whatever comes to its pool.
    #[default]
    Pool,
    /// One conversation; it ends with that.
    Conversation,
}

impl InstancesPer {
    const ALL: [Self; 2] = [Self::Pool, Self::Conversation];

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pool => "pool",
            Self::Conversation => "conversation",
        }
    }
}

/// How an agent is looked after, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentLife {
    /// When it is started again.
    pub patience: Patience,
    /// What each of its processes is for.
    pub per: InstancesPer,
    /// How many of its pool run.
    pub pool: PoolLimits,
    /// When it is thought to be sick.
    pub sickness: SicknessLimits,
    /// What it knows.
    pub skills: Vec<String>,
    /// Which channels it serves.
    pub channels: Vec<String>,
}

/// How agent `name` is looked after.
pub(super) fn check_life(broken: &mut Vec<String>, key: &str, agent: &FileAgent) -> AgentLife {
    let per = check_per(broken, key, agent);
    let pool = check_pool(broken, key, agent, per);
    let mut bounded = |name: &str, value: Option<u64>, default: u64, min: u64, max: u64| {
        let value = value.unwrap_or(default);
        range(broken, &format!("{key}.{name}"), value, min, max);
        value
    };
    let drain = bounded("drainTimeoutMs", agent.drain_timeout_ms, AGENT_DRAIN_DEFAULT_MS, 0, LONG_MS);
    let FileRestart { policy, max, window_ms } = &agent.restart;
    let restarts = bounded("restart.max", *max, RESTARTS_DEFAULT, 0, RESTARTS_MAX);
    let window = bounded("restart.windowMs", *window_ms, RESTART_WINDOW_DEFAULT_MS, 1, LONG_MS);
    let FileSickness { error_percent, latency_ms, window_ms, windows } = &agent.sickness;
    let sickness = SicknessLimits {
        error_percent: bounded("sickness.errorPercent", *error_percent, ERROR_PERCENT_DEFAULT, 1, 100),
        latency_max: millis(bounded("sickness.latencyMs", *latency_ms, 0, 0, LONG_MS)),
        window: millis(bounded("sickness.windowMs", *window_ms, SICK_WINDOW_DEFAULT_MS, 1_000, LONG_MS)),
        windows: bounded("sickness.windows", *windows, 0, 0, SICK_WINDOWS_MAX) as u32,
    };
    let policy = match policy.as_deref() {
        None => RestartPolicy::default(),
        Some(name) => {
            RestartPolicy::ALL.into_iter().find(|policy| policy.name() == name).unwrap_or_else(|| {
                broken.push(format!(
                    "{key}.restart.policy = \"{name}\": must be \"permanent\", \"transient\" or \"temporary\""
                ));
                RestartPolicy::default()
            })
        }
    };
    for (name, words) in [("skills", &agent.skills), ("channels", &agent.channels)] {
        check_words(broken, &format!("{key}.{name}"), words);
    }
    let limits = Limits { restarts_max: restarts as usize, window: millis(window), ..Limits::default() };
    AgentLife {
        patience: Patience { policy, limits, drain: millis(drain) },
        per,
        pool,
        sickness,
        skills: agent.skills.clone(),
        channels: agent.channels.clone(),
    }
}

fn check_per(broken: &mut Vec<String>, key: &str, agent: &FileAgent) -> InstancesPer {
    let FileAgent { instances_per, instances, min_instances, .. } = agent;
    let Some(name) = instances_per else { return InstancesPer::default() };
    let Some(per) = InstancesPer::ALL.into_iter().find(|per| per.name() == name) else {
        broken.push(format!("{key}.instancesPer = \"{name}\": must be \"pool\" or \"conversation\""));
        return InstancesPer::default();
    };
    for (name, value) in [("instances", instances), ("minInstances", min_instances)] {
        if let Some(value) = value.filter(|_| per == InstancesPer::Conversation) {
            broken.push(format!(
                "{key}.{name} = {value}: with instancesPer = \"conversation\" there are as many as conversations, up to maxInstances"
            ));
        }
    }
    per
}

fn check_pool(broken: &mut Vec<String>, key: &str, agent: &FileAgent, per: InstancesPer) -> PoolLimits {
    let FileAgent { instances, min_instances, max_instances, spares, idle_timeout_ms, .. } = agent;
    if instances.is_some() && (min_instances.is_some() || max_instances.is_some()) {
        broken.push(format!("{key}.instances: is both of minInstances and maxInstances; give it or them"));
    }
    let spares = spares.unwrap_or(0);
    let (min, max) = if per == InstancesPer::Conversation {
        let max = max_instances.unwrap_or(CONVERSATIONS_DEFAULT);
        range(broken, &format!("{key}.maxInstances"), max, 1, INSTANCES_MAX);
        range(broken, &format!("{key}.spares"), spares, 0, max);
        (0, max)
    } else {
        let min = min_instances.or(*instances).unwrap_or(1);
        let max = max_instances.or(*instances).unwrap_or(min.max(1));
        let least = if instances.is_some() { "instances" } else { "minInstances" };
        range(broken, &format!("{key}.{least}"), min, 1, INSTANCES_MAX);
        if max != min {
            range(broken, &format!("{key}.maxInstances"), max, min, INSTANCES_MAX);
        }
        range(broken, &format!("{key}.spares"), spares, 0, max.saturating_sub(1));
        (min, max)
    };
    let idle = idle_timeout_ms.unwrap_or(IDLE_TIMEOUT_DEFAULT_MS);
    range(broken, &format!("{key}.idleTimeoutMs"), idle, 1_000, LONG_MS);
    PoolLimits {
        min: min as usize,
        max: max.min(INSTANCES_MAX) as usize,
        spares: spares as usize,
        idle_timeout: millis(idle),
    }
}

pub(super) fn check_words(broken: &mut Vec<String>, key: &str, words: &[String]) {
    for word in words {
        if word.is_empty() || word.contains(char::is_whitespace) {
            broken.push(format!("{key} has \"{word}\": must be a word"));
        }
    }
}

/// How fast all agents together may be started again.
pub(super) fn check_fleet(broken: &mut Vec<String>, file: &FileSupervision) -> FleetLimits {
    let max = file.fleet.max.unwrap_or(FLEET_DEFAULT);
    range(broken, "supervision.fleet.max", max, 1, FLEET_MAX);
    let window = file.fleet.window_ms.unwrap_or(FLEET_WINDOW_DEFAULT_MS);
    range(broken, "supervision.fleet.windowMs", window, 1, LONG_MS);
    FleetLimits { restarts_max: max as usize, window: millis(window) }
}

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;
    use crate::options::RunOptions;

    fn life_of(keys: &str) -> Result<Vec<(String, AgentLife)>, Vec<String>> {
        let text = format!("{{agents: {{entries: {{a: {{command: ['ls'], {keys}}}}}}}}}");
        let config = check(&text, &RunOptions::default())?;
        Ok(config.agents.into_iter().filter(|agent| agent.pool == "a").map(|a| (a.name, a.life)).collect())
    }

    /// How many members are declared, and how many of them always run. One row for each way to say it.
    #[test]
    fn pools_are_declared_whole() {
        let check = |keys, names: &[&str], min, max| {
            let members = life_of(keys).unwrap();
            assert_eq!(members.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), names, "{keys}");
            let PoolLimits { min: least, max: most, .. } = members[0].1.pool;
            assert_eq!((least, most), (min, max), "{keys}");
        };
        check("", &["a"], 1, 1);
        check("instances: 2", &["a~1", "a~2"], 2, 2);
        check("maxInstances: 2", &["a~1", "a~2"], 1, 2);
        check("minInstances: 2", &["a~1", "a~2"], 2, 2);
        check("minInstances: 2, maxInstances: 3, spares: 2", &["a~1", "a~2", "a~3"], 2, 3);
        check("instancesPer: 'pool'", &["a"], 1, 1);
        check("instancesPer: 'conversation', maxInstances: 1, spares: 1", &["a"], 0, 1);
        check("instancesPer: 'conversation', maxInstances: 2", &["a~1", "a~2"], 0, 2);
        let members = life_of("instancesPer: 'conversation'").unwrap();
        assert_eq!(members.len(), CONVERSATIONS_DEFAULT as usize);
        assert!(members.iter().all(|(_, life)| life.per == InstancesPer::Conversation));
    }

    /// Each rule, by the key that its breach names.
    #[test]
    fn rules_of_lives_are_checked() {
        let check = |keys, key: &str| {
            let broken = life_of(keys).unwrap_err();
            assert_eq!(broken.len(), 1, "{broken:?}");
            let start = format!("agents.entries.a.{key}");
            assert!(broken[0].starts_with(&start), "{broken:?}");
        };
        check("instances: 2, maxInstances: 3", "instances: is both");
        check("instances: 0", "instances = 0");
        check("minInstances: 0", "minInstances = 0");
        check("minInstances: 3, maxInstances: 2", "maxInstances = 2");
        check("maxInstances: 257", "maxInstances = 257");
        check("spares: 1", "spares = 1");
        check("instancesPer: 'session'", "instancesPer = \"session\"");
        check("instancesPer: 'conversation', instances: 2", "instances = 2: with");
        check("instancesPer: 'conversation', minInstances: 1", "minInstances = 1: with");
        check("instancesPer: 'conversation', maxInstances: 0", "maxInstances = 0");
        check("instancesPer: 'conversation', maxInstances: 257", "maxInstances = 257");
        check("instancesPer: 'conversation', maxInstances: 2, spares: 3", "spares = 3");
        check("idleTimeoutMs: 999", "idleTimeoutMs = 999");
        check("restart: {policy: 'always'}", "restart.policy = \"always\"");
        check("restart: {max: 1001}", "restart.max = 1001");
        check("restart: {windowMs: 0}", "restart.windowMs = 0");
        check("sickness: {errorPercent: 0}", "sickness.errorPercent = 0");
        check("sickness: {windowMs: 999}", "sickness.windowMs = 999");
        check("sickness: {windows: 1001}", "sickness.windows = 1001");
        check("drainTimeoutMs: 86400001", "drainTimeoutMs = 86400001");
        check("skills: ['two words']", "skills has");
        check("channels: ['']", "channels has");
    }
}
