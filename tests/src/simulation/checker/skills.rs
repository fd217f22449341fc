//! What agents ask of skills: each is answered once, none to somebody else, and no more run for an agent than may.

use std::collections::{BTreeMap, BTreeSet};

use engine::event::InstanceId;
use shm_transport::envelope::{SKILLS_AT_ONCE_MAX, SkillOutcome};

use super::Checker;

/// What one process has asked this run of the gateway for.
#[derive(Debug, Default)]
struct Asker {
    /// Those that were heard and not answered.
    open: BTreeSet<u64>,
    running: BTreeSet<u64>,
}

/// By who has asked.
#[derive(Debug, Default)]
pub(super) struct SkillHistory(BTreeMap<InstanceId, Asker>);

impl Checker {
    /// A shard hears a living process ask. What it has asked the gateway before for is given up, and not heard.
    pub(in crate::simulation) fn skill_asked(&mut self, instance: InstanceId, call: u64) {
        self.skills.0.entry(instance).or_default().open.insert(call);
    }

    /// A skill is to be started.
    pub(in crate::simulation) fn skill_started(&mut self, instance: InstanceId, call: u64) {
        let asker = self.skills.0.entry(instance).or_default();
        assert!(
            asker.open.contains(&call),
            "skill: call {call} of incarnation {instance:?} was not asked for"
        );
        let fresh = asker.running.insert(call);
        assert!(fresh, "skill: call {call} of incarnation {instance:?} is started twice");
        let count = asker.running.len();
        assert!(count <= SKILLS_AT_ONCE_MAX, "skill: {count} run for incarnation {instance:?}");
    }

    /// A skill has ended.
    pub(in crate::simulation) fn skill_ended(&mut self, instance: InstanceId, call: u64) {
        if let Some(asker) = self.skills.0.get_mut(&instance) {
            asker.running.remove(&call);
        }
    }

    /// A process is told what has come of one.
    pub(in crate::simulation) fn skill_answered(
        &mut self,
        instance: InstanceId,
        call: u64,
        outcome: Option<SkillOutcome>,
    ) {
        let asker = self.skills.0.get_mut(&instance);
        let asker = asker.unwrap_or_else(|| panic!("skill: incarnation {instance:?} has asked for nothing"));
        assert!(asker.open.remove(&call), "skill: call {call} of {instance:?} is answered twice");
        let running = asker.running.len();
        let busy = outcome == Some(SkillOutcome::Busy);
        assert!(!busy || running >= SKILLS_AT_ONCE_MAX, "skill: refused as busy, and {running} run");
    }

    /// The asker is dead, and its skills with it; `None`: all are.
    pub(super) fn skills_are_gone(&mut self, instance: Option<InstanceId>) {
        match instance {
            Some(instance) => _ = self.skills.0.remove(&instance),
            None => self.skills.0.clear(),
        }
    }

    /// Everything has been answered.
    pub(in crate::simulation) fn skills_are_answered(&self) {
        for (instance, asker) in &self.skills.0 {
            assert!(asker.open.is_empty(), "skill: {instance:?} is never answered: {:?}", asker.open);
        }
    }
}
