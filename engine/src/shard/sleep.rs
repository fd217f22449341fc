//! Before a shard sleeps and after: who rings it meanwhile.

use super::{QUIET_SLEEPS_MAX, Shard};

impl Shard {
    /// Arms the rings before the thread sleeps. `false`: something came meanwhile, take another turn.
    ///
    /// Who is held back by somebody that is behind is left out: what it has sent is no reason to stay awake, and the
    /// one that is behind rings when it has made room.
    pub fn prepare_sleep(&mut self) -> bool {
        self.counters.publish(&self.core.counters());
        let Self { journal, edges, shards, agents, hot, outputs, .. } = self;
        let edges_behind = outputs.edges_behind();
        let shards_behind = outputs.shards_behind();
        let journal_behind = outputs.journal_behind();
        let mut quiet = matches!(journal.arm(), Ok(false));
        if !journal_behind && !shards_behind {
            for receiver in edges {
                quiet &= matches!(receiver.arm(), Ok(false));
            }
        }
        if !journal_behind && !edges_behind {
            for receiver in shards.iter_mut().flatten() {
                quiet &= matches!(receiver.arm(), Ok(false));
            }
        }
        if !journal_behind && !shards_behind && !edges_behind {
            hot.retain(|instance| {
                let Some(agent) = agents.get_mut(instance) else { return false };
                if agent.receiver.awaits_release() {
                    // The journal rings when it has what was read.
                    return true;
                }
                match agent.receiver.arm() {
                    Ok(false) => agent.quiet_sleeps += 1,
                    // It has rung, if at all, for what is read in the next turn: it must not turn cold before.
                    Ok(true) => quiet = false,
                    Err(poison) => {
                        outputs.fenced.push((*instance, poison));
                        quiet = false;
                    }
                }
                // A cold ring stays armed until its agent rings or is written to.
                agent.hot = agent.quiet_sleeps < QUIET_SLEEPS_MAX;
                agent.hot
            });
        }
        quiet &= self.mailbox.is_empty();
        if !quiet {
            self.awake();
        }
        quiet
    }

    /// Disarms the rings that are looked at on every turn.
    pub fn awake(&mut self) {
        for receiver in self.internal() {
            receiver.disarm();
        }
        for instance in &self.hot {
            if let Some(agent) = self.agents.get_mut(instance) {
                agent.receiver.disarm();
            }
        }
    }
}
