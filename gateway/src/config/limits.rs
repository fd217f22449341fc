//! What agents may take, and whether this machine holds them to it.

use std::path::Path;

use keeper::cgroup::Cgroups;
use keeper::cgroup::enforcement::{Enforcement, Feature, State};
use keeper::cgroup::limits::{CPU_MILLICORES_MIN, MEMORY_BYTES_MIN, PROCESSES_MIN};
use keeper::control::Limits;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{AgentConfig, Config, Standing, range};

const MEMORY_MIN_MIB: u64 = 16;
const MEMORY_MAX_MIB: u64 = 16_777_216;
const PROCESSES_MIN_COUNT: u64 = 4;
const PROCESSES_MAX_COUNT: u64 = 4_194_304;
const IO_WRITE_MAX_MIB_PER_S: u64 = 1_048_576;
const CPUS_MIN: f64 = 0.01;

const _: () = assert!(MEMORY_MIN_MIB << 20 == MEMORY_BYTES_MIN, "the keeper's limit");
const _: () = assert!(PROCESSES_MIN_COUNT == PROCESSES_MIN as u64, "the keeper's limit");
const _: () = assert!((CPUS_MIN * 1000.0) as u32 == CPU_MILLICORES_MIN, "the keeper's limit");

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct FileLimits {
    memory_mib: Option<u64>,
    cpus: Option<f64>,
    processes: Option<u64>,
    io_write_mib_per_s: Option<u64>,
    require: Option<bool>,
}

impl FileLimits {
    /// Checks limits, which `cores` bounds.
    pub(super) fn check(&self, broken: &mut Vec<String>, key: &str, cores: u64) {
        if let Some(mib) = self.memory_mib {
            range(broken, &format!("{key}.memoryMib"), mib, MEMORY_MIN_MIB, MEMORY_MAX_MIB);
        }
        if let Some(cpus) = self.cpus
            && !(CPUS_MIN..=cores as f64).contains(&cpus)
        {
            broken.push(format!(
                "{key}.cpus = {cpus}: must be between {CPUS_MIN} and {cores}, the cores of this machine"
            ));
        }
        if let Some(count) = self.processes {
            range(broken, &format!("{key}.processes"), count, PROCESSES_MIN_COUNT, PROCESSES_MAX_COUNT);
        }
        if let Some(mib) = self.io_write_mib_per_s {
            range(broken, &format!("{key}.ioWriteMibPerS"), mib, 1, IO_WRITE_MAX_MIB_PER_S);
        }
    }

    /// The limits of an agent, where `defaults` stand in for what it does not say.
    pub(super) fn of_agent(
        &self,
        broken: &mut Vec<String>,
        agent_key: &str,
        defaults: &Self,
        cores: u64,
    ) -> Limits {
        self.check(broken, &format!("{agent_key}.limits"), cores);
        let mib = |own: Option<u64>, default: Option<u64>| Some(own.or(default)?.saturating_mul(1 << 20));
        Limits {
            memory_bytes: mib(self.memory_mib, defaults.memory_mib),
            cpu_millicores: self.cpus.or(defaults.cpus).map(|cpus| (cpus * 1000.0).round() as u32),
            processes: self
                .processes
                .or(defaults.processes)
                .map(|count| u32::try_from(count).unwrap_or(u32::MAX)),
            io_write_bytes_per_s: mib(self.io_write_mib_per_s, defaults.io_write_mib_per_s),
            require: self.require.or(defaults.require).unwrap_or(false),
        }
    }
}

/// What of the limits holds on this machine, for a gateway with this state directory and the rights of this process.
pub(super) fn enforcement(state_directory: &Path) -> Vec<Enforcement> {
    Cgroups::of_this_process(&[std::process::id()]).enforcement(state_directory)
}

/// A rule for each limit that an agent requires and that does not hold.
pub(super) fn unmet(agents: &[AgentConfig], enforcement: &[Enforcement]) -> Vec<String> {
    let mut broken = Vec::new();
    for Enforcement { feature, state } in enforcement {
        let (State::NotEnforced { reason, remedy }, Some(key)) = (state, feature.key()) else { continue };
        let mut pools: Vec<_> = agents
            .iter()
            .filter(|agent| agent.limits.require && feature.is_needed(&agent.limits))
            .map(|agent| agent.pool.as_str())
            .collect();
        pools.dedup();
        broken.extend(pools.into_iter().map(|pool| {
            format!("agents.entries.{pool}.limits.{key} cannot be enforced: {reason}; {remedy}, or take out limits.require")
        }));
    }
    broken
}

/// Says what does not hold though the configuration has it. Limits that nobody has set are not missed.
pub fn report(config: &Config, standing: &Standing) {
    for Enforcement { feature, state } in &standing.limits {
        let State::NotEnforced { reason, remedy } = state else { continue };
        let agents = config.agents.iter().filter(|agent| feature.is_needed(&agent.limits)).count();
        if agents > 0 {
            tracing::warn!(%reason, remedy, agents, "the {feature} is not enforced");
        } else if *feature == Feature::WholeTree {
            tracing::info!(
                %reason, remedy, "what agents start in sessions of their own is not ended with them"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(text: &str) -> FileLimits {
        json5::from_str(text).unwrap()
    }

    /// An agent's own limits win over the defaults, one by one; without any, nothing is limited.
    #[test]
    fn own_limits_win() {
        let defaults = limits("{memoryMib: 64, cpus: 0.5, require: true}");
        let own = limits("{memoryMib: 128, processes: 20, ioWriteMibPerS: 2}");
        let mut broken = Vec::new();
        let merged = own.of_agent(&mut broken, "k", &defaults, 2);
        let expected = Limits {
            memory_bytes: Some(128 << 20),
            cpu_millicores: Some(500),
            processes: Some(20),
            io_write_bytes_per_s: Some(2 << 20),
            require: true,
        };
        assert_eq!((merged, broken.len()), (expected, 0));
        let none = FileLimits::default();
        assert_eq!(none.of_agent(&mut broken, "k", &none, 2), Limits::default());
        let trusting = limits("{require: false}").of_agent(&mut broken, "k", &defaults, 2);
        assert!(!trusting.require);
    }

    /// Both sides of each limit.
    #[test]
    fn limits_have_limits() {
        let check = |text: &str| {
            let mut broken = Vec::new();
            limits(text).check(&mut broken, "k", 2);
            broken
        };
        for fine in [
            "{memoryMib: 16, cpus: 0.01, processes: 4, ioWriteMibPerS: 1}",
            "{memoryMib: 16777216, cpus: 2, processes: 4194304, ioWriteMibPerS: 1048576}",
        ] {
            assert_eq!(check(fine), [""; 0], "{fine}");
        }
        let low = [
            "k.memoryMib = 15: must be between 16 and 16777216",
            "k.cpus = 0.009: must be between 0.01 and 2, the cores of this machine",
            "k.processes = 3: must be between 4 and 4194304",
            "k.ioWriteMibPerS = 0: must be between 1 and 1048576",
        ];
        assert_eq!(check("{memoryMib: 15, cpus: 0.009, processes: 3, ioWriteMibPerS: 0}"), low);
        let high = check("{memoryMib: 16777217, cpus: 2.01, processes: 4194305, ioWriteMibPerS: 1048577}");
        assert_eq!(high.len(), 4, "{high:?}");
        assert_eq!(check("{cpus: NaN}").len(), 1);
    }
}
