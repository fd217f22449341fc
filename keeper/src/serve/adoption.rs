//! The loop's part in taking over the agents of a keeper that has died, from the gateway that holds them.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::process::Pid;
use shm_transport::segment::{AttachError, Segment, inspect};

use super::Keeper;
use crate::cgroup::AgentCgroup;
use crate::channel::sentence;
use crate::control::{AGENTS_MAX, Adopt, Event};
use crate::launch::Held;
use crate::roster::Agent;

/// Why an agent is not taken over.
#[derive(Debug, thiserror::Error)]
enum AdoptError {
    #[error("it came with {count} descriptors, expected 6")]
    Descriptors { count: usize },
    #[error("{process_id} is no process id")]
    ProcessId { process_id: u32 },
    #[error("instance {instance} cannot be held: it is there already, too large, or one too many")]
    Instance { instance: u64 },
    #[error("its rings are refused")]
    Rings(#[from] AttachError),
    #[error("the {half} half is of instance {found}, expected {expected}")]
    OtherInstance { half: &'static str, found: u64, expected: u64 },
    #[error("its half to read cannot be opened")]
    ReadOnly(#[source] rustix::io::Errno),
    #[error("its process cannot be watched")]
    Watch(#[source] std::io::Error),
}

impl Keeper {
    /// Holds an agent from now on. One that has died meanwhile is found dead, and told.
    pub(super) fn adopt(&mut self, request: Adopt, descriptors: Vec<OwnedFd>) {
        let (instance, generation) = (request.instance, request.generation);
        if let Err(error) = self.try_adopt(request, descriptors) {
            let (step, reason) = ("adoption".to_owned(), sentence(&error));
            self.connection.push(Event::SpawnFailed { instance, generation, step, reason }.into());
        }
    }

    fn try_adopt(&mut self, request: Adopt, descriptors: Vec<OwnedFd>) -> Result<(), AdoptError> {
        let Adopt { instance, generation, name, process_id, definition, cgroup } = request;
        let count = descriptors.len();
        let Ok([engine, agent, doorbell, engine_passage, agent_passage, pidfd]) =
            <[OwnedFd; 6]>::try_from(descriptors)
        else {
            return Err(AdoptError::Descriptors { count });
        };
        let process = i32::try_from(process_id).ok().and_then(Pid::from_raw);
        let process = process.ok_or(AdoptError::ProcessId { process_id })?;
        let roster = self.roster.agents();
        if instance > super::INSTANCE_MAX || roster.contains_key(&instance) || roster.len() >= AGENTS_MAX {
            return Err(AdoptError::Instance { instance });
        }
        let mut ring_bytes = [0; 2];
        for ((half, file), bytes) in [("engine", &engine), ("agent", &agent)].into_iter().zip(&mut ring_bytes)
        {
            let page = inspect(half, file)?;
            if page.instance != instance {
                return Err(AdoptError::OtherInstance { half, found: page.instance, expected: instance });
            }
            *bytes = page.geometry.capacity_bytes();
        }
        let engine_half = Segment::reopened(engine).map_err(AdoptError::ReadOnly)?;
        let held = Arc::new(Held { engine_half, agent_half: agent, doorbell, engine_passage, agent_passage });
        let pidfd = Arc::new(pidfd);
        epoll::add(&self.epoll, &pidfd, EventData::new_u64(instance), EventFlags::IN)
            .map_err(|errno| AdoptError::Watch(errno.into()))?;
        let cgroup = self.subtree.adopted(cgroup);
        let is_child = false;
        let agent =
            Agent { generation, process, pidfd, is_child, name, definition, ring_bytes, held, cgroup };
        self.roster.add(instance, agent);
        Ok(())
    }

    /// Kills what an earlier keeper has left and nobody has handed over. Once.
    pub(super) fn settle(&mut self, now: Instant) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        let is_held = |left: &AgentCgroup| {
            self.roster.agents().values().any(|agent| agent.cgroup.leaf() == left.leaf())
        };
        let left: Vec<_> = self.subtree.leftovers().into_iter().filter(|left| !is_held(left)).collect();
        for leftover in left {
            leftover.kill();
            self.roster.bury_cgroup(leftover, now);
        }
        let alive: Vec<Pid> = self.roster.processes().collect();
        self.ledger.kill_leftovers(&|process| alive.contains(&process));
        self.ledger.begin(alive.into_iter());
    }
}
