//! Agent role: skills that agents ask for. Who starts them is not known here; how much one agent may
//! ask for is.

use std::collections::BTreeMap;

use shm_transport::envelope::{
    ArchivedSkillV1, Route, SKILL_BYTES_MAX, SKILL_NAME_BYTES_MAX, SKILLS_AT_ONCE_MAX, SkillOutcome,
    SkillResultV1,
};

use super::{Effects, ShardCore};
use crate::event::{AgentIndex, Effect, InstanceId};
use crate::planted::{self, Bug};

/// How many skills each incarnation has under way; only those that have some.
#[derive(Debug, Default)]
pub(super) struct Skills {
    under_way: BTreeMap<InstanceId, usize>,
}

impl ShardCore {
    /// An agent asks for a skill.
    pub(super) fn skill_asked(
        &mut self,
        instance: InstanceId,
        call: u64,
        asked: &ArchivedSkillV1,
        effects: &mut Effects<'_>,
    ) {
        if !self.agents.is_attached(instance) {
            self.counters.agent_strays += 1;
            return;
        }
        if self.agents.called(instance).is_some() && !planted::is(Bug::SkillRunAgain) {
            // It was said to the gateway before, which may have had it run. The agent gives it up when it is called.
            return;
        }
        let (name_bytes, input_bytes) = (asked.skill.len(), asked.input.len());
        let count = self.skills.under_way.get(&instance).copied().unwrap_or_default();
        let refusal = if name_bytes > SKILL_NAME_BYTES_MAX {
            let text = format!("no skill has a name of {name_bytes} bytes");
            Some((SkillOutcome::UnknownSkill, text))
        } else if input_bytes > SKILL_BYTES_MAX {
            let text = format!("an input of {input_bytes} bytes is larger than {SKILL_BYTES_MAX}");
            Some((SkillOutcome::TooLarge, text))
        } else if count >= SKILLS_AT_ONCE_MAX {
            let text = format!("{SKILLS_AT_ONCE_MAX} skills of this agent are under way already");
            Some((SkillOutcome::Busy, text))
        } else {
            None
        };
        if let Some((outcome, text)) = refusal {
            return self.tell_skill(instance, call, outcome, &text, effects);
        }
        self.skills.under_way.insert(instance, if planted::is(Bug::SkillNotCounted) { 1 } else { count + 1 });
        effects(Effect::Skill { instance, call, skill: &asked.skill, input: &asked.input });
    }

    /// A skill has ended, or was not started.
    pub(super) fn skill_ended(
        &mut self,
        instance: InstanceId,
        call: u64,
        outcome: SkillOutcome,
        output: &str,
        effects: &mut Effects<'_>,
    ) {
        if let Some(count) = self.skills.under_way.get_mut(&instance) {
            *count -= 1;
            if *count == 0 {
                self.skills.under_way.remove(&instance);
            }
        }
        let forgotten = planted::is(Bug::SkillFailureNotTold) && outcome != SkillOutcome::Done;
        // Who has died meanwhile needs no answer.
        if self.agents.is_attached(instance) && !forgotten {
            self.tell_skill(instance, call, outcome, output, effects);
        }
    }

    /// The incarnation of an agent is gone, and its skills with it.
    pub(super) fn forget_skills(&mut self, agent: AgentIndex) {
        if let Some(instance) = self.agents.instance_of(agent) {
            self.skills.under_way.remove(&instance);
        }
    }

    fn tell_skill(
        &mut self,
        instance: InstanceId,
        call: u64,
        outcome: SkillOutcome,
        output: &str,
        effects: &mut Effects<'_>,
    ) {
        let result = SkillResultV1 { outcome: outcome as u16, output: output.to_owned() };
        let route = Route { origin: call, ..Route::default() };
        effects(Effect::ToAgent { instance, route, body: self.encoder.encode(&result) });
    }
}
