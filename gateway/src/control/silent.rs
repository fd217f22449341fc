//! Agents that are ended for what they do not say.

use std::time::Duration;

use engine::event::InstanceId;

use super::Parts;
use super::agents::Agents;

impl Agents {
    /// An agent gives no sign of life.
    pub(super) fn hung(&mut self, parts: &mut Parts, instance: InstanceId, silent: Duration) {
        self.end(parts, instance, format!("hung: no heartbeat for {} ms", silent.as_millis()));
    }

    /// An agent has not said its first words in time.
    pub(super) fn mute(&mut self, parts: &mut Parts, instance: InstanceId, waited: Duration) {
        self.end(parts, instance, format!("it said nothing within {:.1} s", waited.as_secs_f64()));
    }
}
