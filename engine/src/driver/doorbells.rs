//! The doorbells of a shard's agents: who is listened to, and who rings too often to be listened to just now.

use std::cell::Cell;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use super::signal::Signal;
use crate::event::InstanceId;
use crate::shard::Shard;

/// Tells the task that listens to one doorbell to stop listening for a while.
#[derive(Clone, Debug, Default)]
pub(super) struct Deaf {
    // Rc: the loop and its tasks live on one thread.
    pause: Rc<Cell<Option<Duration>>>,
}

impl Deaf {
    /// Asks for it.
    pub(super) fn ask(&self, pause: Duration) {
        self.pause.set(Some(pause));
    }

    /// For how long, if the shard has asked for it since the last call.
    pub(super) fn take(&self) -> Option<Duration> {
        self.pause.take()
    }
}

/// What listens to the doorbells, by incarnation. `Task` ends when it is dropped.
#[derive(Debug)]
pub(super) struct Doorbells<Task> {
    tasks: HashMap<InstanceId, (Task, Deaf)>,
}

impl<Task> Doorbells<Task> {
    pub(super) fn new() -> Self {
        Self { tasks: HashMap::new() }
    }

    /// Tells the shard who rang.
    pub(super) fn hear(&self, shard: &mut Shard, signal: &Signal) {
        for instance in signal.take_rung() {
            let Some(pause) = shard.rung(instance) else { continue };
            if let Some((_, deaf)) = self.tasks.get(&instance) {
                let pause_ms = pause.as_millis();
                tracing::warn!(
                    instance = instance.0,
                    pause_ms,
                    "an agent rings without cause, not listening"
                );
                deaf.ask(pause);
            }
        }
    }

    /// Begins to listen to new agents, and ends with those that are gone.
    pub(super) fn follow(
        &mut self,
        shard: &mut Shard,
        mut listen: impl FnMut(OwnedFd, InstanceId, Deaf) -> Task,
    ) {
        for new in shard.take_new_doorbells() {
            let deaf = Deaf::default();
            let task = listen(new.doorbell, new.instance, deaf.clone());
            self.tasks.insert(new.instance, (task, deaf));
        }
        for gone in shard.take_gone_doorbells() {
            self.tasks.remove(&gone);
        }
    }
}
