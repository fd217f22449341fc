//! Settings of the journal, of delivery and of routing.

use std::time::Duration;

use engine::core::CoreLimits;
use engine::retry::Jitter;
use engine::routing::{Action, Rule};
use schemars::JsonSchema;
use serde::Deserialize;
use shm_transport::envelope::DurabilityClass;

use super::{AgentConfig, range};

const SEGMENT_DEFAULT_MIB: u64 = 64;
const SEGMENT_MAX_MIB: u64 = 1024;
const RETAIN_DEFAULT_MIB: u64 = 128;
const RETAIN_MAX_MIB: u64 = 65_536;
const DEDUP_DEFAULT_HOURS: u64 = 24;
const DEDUP_MAX_HOURS: u64 = 8760;
const DEDUP_DEFAULT_IDS: u64 = 10_000_000;
const DEDUP_MAX_IDS: u64 = 500_000_000;
const ATTEMPTS_DEFAULT: u64 = 5;
const ATTEMPTS_MAX: u64 = 100;
const DEAD_LETTERS_DEFAULT: u64 = 10_000;
const DEAD_LETTERS_MAX: u64 = 100_000;
const RULES_MAX: usize = engine::routing::RULES_MAX;

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct FileJournal {
    durability: Option<String>,
    segment_mib: Option<u64>,
    retain_mib: Option<u64>,
    dedup_hours: Option<u64>,
    dedup_ids: Option<u64>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct FileDelivery {
    attempts_max: Option<u64>,
    jitter: Option<String>,
    dead_letters_max: Option<u64>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct FileRouting {
    default: Option<String>,
    #[serde(default)]
    rules: Vec<FileRule>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct FileRule {
    channel: Option<String>,
    text_contains: Option<String>,
    text_prefix: Option<String>,
    label: Option<String>,
    agent: Option<String>,
    capability: Option<String>,
}

/// Settings of the journal and of delivery, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryConfig {
    /// Bytes of a segment of the journal.
    pub segment_bytes: u64,
    /// For how long an id is remembered at least.
    pub ids_keep: Duration,
    /// How many ids are remembered at least, per shard.
    pub ids_max: u32,
    /// What a shard may hold, and how patient it is.
    pub limits: CoreLimits,
}

/// Settings of routing, checked except for what only the whole table shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutingConfig {
    /// Who gets what no rule says.
    pub default: Option<String>,
    /// The rules, in order.
    pub rules: Vec<Rule>,
}

pub(super) fn check(
    broken: &mut Vec<String>,
    journal: &FileJournal,
    delivery: &FileDelivery,
) -> DeliveryConfig {
    let mut bounded = |key: &str, value: Option<u64>, default: u64, min: u64, max: u64| {
        let value = value.unwrap_or(default);
        range(broken, key, value, min, max);
        value
    };
    let segment = bounded("journal.segmentMib", journal.segment_mib, SEGMENT_DEFAULT_MIB, 1, SEGMENT_MAX_MIB);
    let retain = bounded("journal.retainMib", journal.retain_mib, RETAIN_DEFAULT_MIB, 1, RETAIN_MAX_MIB);
    let hours = bounded("journal.dedupHours", journal.dedup_hours, DEDUP_DEFAULT_HOURS, 0, DEDUP_MAX_HOURS);
    let ids = bounded("journal.dedupIds", journal.dedup_ids, DEDUP_DEFAULT_IDS, 1, DEDUP_MAX_IDS);
    let attempts = bounded("delivery.attemptsMax", delivery.attempts_max, ATTEMPTS_DEFAULT, 1, ATTEMPTS_MAX);
    let dead = bounded(
        "delivery.deadLettersMax",
        delivery.dead_letters_max,
        DEAD_LETTERS_DEFAULT,
        1,
        DEAD_LETTERS_MAX,
    );
    let mut limits = CoreLimits::default();
    match journal.durability.as_deref() {
        None | Some("memory") => limits.durability = DurabilityClass::Memory,
        Some("durable") => limits.durability = DurabilityClass::Durable,
        Some(other) => {
            broken.push(format!("journal.durability = \"{other}\": must be \"memory\" or \"durable\""));
        }
    }
    match delivery.jitter.as_deref() {
        None | Some("added") => limits.retry.jitter = Jitter::Added,
        Some("full") => limits.retry.jitter = Jitter::Full,
        Some(other) => broken.push(format!("delivery.jitter = \"{other}\": must be \"added\" or \"full\"")),
    }
    limits.retry.attempts_max = attempts as u16;
    limits.dead_letters.letters_max = dead as usize;
    limits.log.retain_bytes = retain << 20;
    limits.dedup.ids_max = ids as u32;
    limits.dedup.ids_hard_max = 2 * ids as u32;
    limits.dedup.keep_s = (hours * 3600) as u32;
    DeliveryConfig {
        segment_bytes: segment << 20,
        ids_keep: Duration::from_secs(hours * 3600),
        ids_max: ids as u32,
        limits,
    }
}

/// Checks what a rule says by itself; names are checked when the table is built of rules and agents.
pub(super) fn check_routing(
    broken: &mut Vec<String>,
    file: FileRouting,
    agents: &[AgentConfig],
) -> RoutingConfig {
    let known = |name: &str| agents.iter().any(|agent| agent.pool == name);
    if let Some(name) = &file.default
        && !known(name)
    {
        broken.push(format!("routing.default = \"{name}\": no agent is named so"));
    }
    if file.rules.len() > RULES_MAX {
        broken
            .push(format!("routing.rules has {} rules: at most {RULES_MAX} are possible", file.rules.len()));
    }
    let mut rules = Vec::with_capacity(file.rules.len());
    for (rule, index) in file.rules.into_iter().zip(0..) {
        let key = format!("routing.rules[{index}]");
        let FileRule { channel, text_contains, text_prefix, label, agent, capability } = rule;
        let action = match (agent, capability) {
            (Some(name), None) => {
                if !known(&name) {
                    broken.push(format!("{key}.agent = \"{name}\": no agent is named so"));
                }
                Action::Pool(name)
            }
            (None, Some(capability)) => {
                if !agents.iter().any(|agent| agent.capabilities.contains(&capability)) {
                    broken.push(format!("{key}.capability = \"{capability}\": no agent has it"));
                }
                Action::Capability(capability)
            }
            (Some(_), Some(_)) | (None, None) => {
                broken.push(format!("{key}: must have either agent or capability"));
                continue;
            }
        };
        if channel.is_none() && text_contains.is_none() && text_prefix.is_none() && label.is_none() {
            broken.push(format!("{key}: must have channel, textContains, textPrefix or label"));
        }
        rules.push(Rule { channel, text: text_contains, text_prefix, label, action });
    }
    RoutingConfig { default: file.default, rules }
}
