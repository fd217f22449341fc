//! Agents that say what they should not: lies, repetitions, and words of the dead.

use shm_transport::envelope::{BlockV1, Body, EndV1, Kind, Route};

use super::packet::Packet;
use super::world::World;

impl World {
    /// It talks of turns of others, or of nothing, or in kinds that are not its own.
    pub(super) fn agent_lies(&mut self, agent: usize) {
        let own: Vec<u64> = self.workers.all[agent].work.iter().map(|work| work.route.turn).collect();
        let waiting: Vec<u64> = self.workers.all[agent].ring.iter().map(|packet| packet.route.turn).collect();
        let others = self.checker.some_turn(&mut self.random);
        let worker = &mut self.workers.all[agent];
        if !worker.attached || worker.fenced {
            return;
        }
        let called = worker.called;
        let turn =
            others.filter(|turn| !own.contains(turn) && !waiting.contains(turn)).unwrap_or(u64::MAX >> 9);
        // A lie about a turn that it really holds cannot be told from work.
        if self.checker.holds(agent, turn) {
            return;
        }
        // Nor, after the death of a gateway, one about a turn that it may have held.
        if called && self.checker.is_for(turn, agent) {
            return;
        }
        let route = Route { turn, attempt: 1, ..Route::default() };
        let packet = match self.random.u8(..16) {
            0 => Packet::new(route, Body::STOP),
            1 => Packet::new(route, Body::JOURNALED),
            2 => Packet::new(route, Body::ACCEPTED),
            3 => Packet::new(route, Body::WORKING),
            4..8 => Packet::of(
                &mut self.workers.encoder,
                route,
                &BlockV1 { block_type: 0, content: "a lie".into() },
            ),
            _ => Packet::of(&mut self.workers.encoder, route, &EndV1 { content: "a lie".into() }),
        };
        // Read at once: later it might hold the turn.
        if packet.kind() == Kind::Block || packet.kind() == Kind::End {
            let Some(instance) = self.workers.all[agent].instance else { return };
            return self.hear_from_agent(agent, instance, &packet);
        }
        self.workers.all[agent].words.push_back(packet);
    }

    /// It says again what it has said before.
    pub(super) fn agent_repeats(&mut self, agent: usize) {
        let worker = &mut self.workers.all[agent];
        if worker.said.is_empty() || !worker.attached || worker.called {
            return;
        }
        let at = self.random.usize(..worker.said.len());
        let packet = worker.said[at].clone();
        let Some(instance) = worker.instance.filter(|_| !worker.fenced) else { return };
        // The same turn may be in its hands again, for another attempt: then it would be no repetition, but wrong work.
        if !self.checker.holds(agent, packet.route.turn) {
            self.hear_from_agent(agent, instance, &packet);
        }
    }

    /// Words of an incarnation that is dead are read after all.
    pub(super) fn agent_haunts(&mut self, agent: usize) {
        if let Some((instance, packet)) = self.workers.all[agent].haunting.pop_front() {
            self.hear_from_agent(agent, instance, &packet);
        }
    }
}
