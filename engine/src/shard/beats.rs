//! The heartbeat of a shard's agents: what the policy of [`crate::heartbeat`] decides, done with their rings.

use super::{Notice, Shard};
use crate::heartbeat::{Signs, Verdict};
use crate::time::Moment;

impl Shard {
    /// Looks at the signs of life of those who are due, asks for more, and fences those who give none: nothing further is
    /// read from their rings, not even after their death, so what they do when they go on has no effect.
    #[cold]
    pub(super) fn look_at_beats(&mut self, now: Moment) {
        let Self { core, agents, outputs, heartbeats, .. } = self;
        let signs = |instance| {
            let receiver = agents.get(&instance).map(|agent| &agent.receiver);
            Signs {
                beat: receiver.map_or(0, |receiver| receiver.beat()),
                has_spoken: receiver.is_some_and(|receiver| receiver.peer_has_spoken()),
            }
        };
        let mut ended = Vec::new();
        let has_work = |instance| core.has_work(instance);
        heartbeats.look(now, has_work, signs, |instance, verdict| {
            let notice = match verdict {
                Verdict::Ask => {
                    if let Some(sender) = outputs.agents.get_mut(&instance) {
                        sender.ask_for_beat();
                    }
                    return;
                }
                Verdict::Hung(silent) => Notice::AgentHung { instance, silent },
                Verdict::Mute(waited) => Notice::AgentMute { instance, waited },
            };
            ended.push(instance);
            outputs.notify(notice);
        });
        for instance in ended {
            self.detach(instance);
        }
    }
}
