//! The loop's part in the coming and going of gateways; what follows from it is decided by [`Succession`].

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::process::{Pid, WaitOptions};

use super::{CONNECTION, GATEWAY_PROCESS, INSTANCE_MAX, Keeper, KeeperError, ORPHANED_GRACE, Phase, say};
use crate::channel::{Channel, ChannelError, sentence};
use crate::connection::{Attached, Connection, Heard, Outgoing};
use crate::control::{Event, NAME_BYTES_MAX, Skill};
use crate::pidfd::is_dead;
use crate::roster::number;
use crate::sandbox::Started;
use crate::shown::ShownRings;
use crate::skills::{self, Running, SKILLS_MAX};
use crate::start::start;
use crate::succession::{Process, Step};

/// The most requests that are read of a gateway that is gone; a socket holds fewer.
const LAST_REQUESTS_MAX: usize = 4096;

impl Keeper {
    /// Serves a gateway from now on, and tells it what is held.
    pub(super) fn welcome(
        &mut self,
        channel: Channel,
        version: u32,
        process_id: u32,
    ) -> Result<(), KeeperError> {
        let mark = EventData::new_u64(CONNECTION);
        epoll::modify(&self.epoll, &channel, mark, EventFlags::IN)
            .map_err(self.system("watching the gateway"))?;
        let process = Process::peer(rustix::fd::AsFd::as_fd(&channel));
        let shown = ShownRings::new(self.open_files);
        let (shape, enforcement) = (self.succession.shape(), self.enforcement.clone());
        self.connection = Connection::welcome(channel, version, process_id, shape, shown, enforcement);
        self.watches_writable = false;
        for outgoing in self.succession.welcome(process, &self.roster) {
            self.connection.push(outgoing);
        }
        self.watch_gateway()
    }

    /// Deals with the end of a connection.
    pub(super) fn mind(&mut self, heard: Heard, now: Instant) {
        if let Heard::GatewayGone { process_id, reason } = heard {
            self.lose_gateway(process_id, &reason, now);
        }
    }

    fn lose_gateway(&mut self, process_id: u32, reason: &ChannelError, now: Instant) {
        // The end may have been found in sending; what was asked before it counts.
        for _ in 0..LAST_REQUESTS_MAX {
            let Heard::Request(request, descriptors) = self.connection.listen() else { break };
            self.carry_out(*request, descriptors, now);
        }
        // Nobody waits for what they say.
        self.roster.kill_skills(None);
        let unsent = self.connection.unsent();
        self.connection = Connection::Nobody;
        self.watches_writable = false;
        for outgoing in unsent {
            self.report_death(outgoing);
        }
        let Phase::Serving = self.phase else { return };
        let count = self.roster.agents().len();
        let why = match reason {
            ChannelError::Closed => String::new(),
            other => format!(" ({})", sentence(other)),
        };
        let step = self.succession.disconnected(now);
        match &step {
            // It failed to start, and has said why.
            Step::End(_) if count == 0 => return self.end(ORPHANED_GRACE, now),
            Step::End(_) => say(&format!("gateway {process_id} is gone without a shutdown{why}")),
            _ => say(&format!("gateway {process_id} is gone{why}; its {count} agents go on")),
        }
        self.end_or_wait(step, now);
    }

    /// The process of the gateway may have ended.
    pub(super) fn look_after_gateway(&mut self, now: Instant) {
        let Some(id) =
            self.succession.process().filter(|process| is_dead(*process)).map(|process| process.id)
        else {
            return;
        };
        if let Some(process_id) = self.connection.gateway() {
            // Its end of the connection is closed; this reads what it has said before.
            self.lose_gateway(process_id, &ChannelError::Closed, now);
        }
        if let Some(words) = reap(id) {
            say(&format!("gateway {} ended with {words}", number(id)));
        }
        if let Phase::Serving = self.phase {
            let step = self.succession.process_died(now);
            self.end_or_wait(step, now);
        }
    }

    /// Does what the succession says when a gateway has gone.
    fn end_or_wait(&mut self, step: Step, now: Instant) {
        if let Step::End(reason) = step {
            say(&format!("{reason}; ending {} agents", self.roster.agents().len()));
            self.end(ORPHANED_GRACE, now);
        }
    }

    /// Does what the succession says when time has passed.
    pub(super) fn follow(&mut self, step: Step, now: Instant) -> Result<(), KeeperError> {
        let Step::Start(how) = step else {
            self.end_or_wait(step, now);
            return Ok(());
        };
        let started = match start(&how, self.open_files) {
            Ok(process) => {
                say(&format!("started gateway {}; `openclaw gateway stop` ends it", number(process.id)));
                Some(process)
            }
            Err(error) => {
                say(&format!("no gateway could be started: {}", sentence(&error)));
                None
            }
        };
        let step = self.succession.started(started, now);
        self.end_or_wait(step, now);
        self.watch_gateway()
    }

    /// Has the epoll tell of the death of the gateway's process.
    fn watch_gateway(&self) -> Result<(), KeeperError> {
        let Some(process) = self.succession.process() else { return Ok(()) };
        epoll::add(&self.epoll, process, EventData::new_u64(GATEWAY_PROCESS), EventFlags::IN)
            .map_err(self.system("watching the process of the gateway"))
    }

    /// Buries an agent if it is dead, and tells who is to know.
    pub(super) fn bury(&mut self, instance: u64, now: Instant) {
        let Some(agent) = self.roster.agents().get(&instance) else {
            // The next gateway does not know of a skill of this one.
            if let Some(event) = self.roster.bury(instance, now)
                && self.connection.gateway().is_some()
            {
                self.connection.push(event.into());
            }
            return;
        };
        let (name, pidfd) = (agent.name.clone(), Arc::clone(&agent.pidfd));
        if let Some(event) = self.roster.bury(instance, now) {
            // The gateway may have a copy, so that to close it here does not take it off.
            let _ = epoll::delete(&self.epoll, &*pidfd); // It was added.
            self.report_death(Outgoing { event, attached: Attached::Name(name) });
        }
    }

    /// Starts a skill. Nothing is said until it has ended, unless it could not be started.
    pub(super) fn start_skill(&mut self, request: &Skill, descriptors: Vec<OwnedFd>, now: Instant) {
        if let Err((step, reason)) = self.try_start_skill(request, descriptors, now) {
            let failed = Event::SpawnFailed {
                instance: request.instance,
                generation: 0,
                step: step.to_owned(),
                reason,
            };
            self.connection.push(failed.into());
        }
    }

    fn try_start_skill(
        &mut self,
        request: &Skill,
        descriptors: Vec<OwnedFd>,
        now: Instant,
    ) -> Result<(), (&'static str, String)> {
        let Skill { instance, parent, ref name, .. } = *request;
        let refused = |reason: String| Err(("admission", reason));
        let roster = &self.roster;
        if !matches!(self.phase, Phase::Serving) {
            return refused("the keeper is ending its agents".to_owned());
        }
        if name.len() > NAME_BYTES_MAX || instance > INSTANCE_MAX {
            return refused(format!("instance {instance} or the name of {} bytes is too large", name.len()));
        }
        if roster.agents().contains_key(&instance) || roster.skills().contains_key(&instance) {
            return refused(format!("instance {instance} is alive"));
        }
        if !roster.agents().contains_key(&parent) {
            return refused(format!("its agent, instance {parent}, is not alive"));
        }
        if roster.skills().len() >= SKILLS_MAX {
            return refused(format!("{SKILLS_MAX} skills are alive, no more may be"));
        }
        let cgroup = self
            .subtree
            .create(name, instance, &request.limits)
            .map_err(|error| ("limits", sentence(&error)))?;
        let most = self.open_files.maximum;
        let Started { process, pidfd } =
            match skills::launch(request, descriptors, most, &cgroup, &self.enforcement) {
                Ok(started) => started,
                Err(error) => {
                    self.roster.bury_cgroup(cgroup, now);
                    return Err((error.step(), sentence(&error)));
                }
            };
        let watched = epoll::add(&self.epoll, &pidfd, EventData::new_u64(instance), EventFlags::IN);
        self.roster.add_skill(instance, Running { parent, process, pidfd, cgroup });
        if let Err(errno) = watched {
            self.roster.drop_unwatched_skill(instance, now);
            return Err(("watch", format!("epoll refuses the process: {errno}")));
        }
        Ok(())
    }

    /// Tells the gateway of a death, or keeps it for the next one. Other events are for nobody but the one that is gone.
    fn report_death(&mut self, outgoing: Outgoing) {
        if self.connection.gateway().is_some() {
            return self.connection.push(outgoing);
        }
        if let Outgoing {
            event: Event::Died { instance, process_id, exit, cause, usage, .. },
            attached: Attached::Name(name),
        } = outgoing
        {
            self.succession.miss(Event::Missed { instance, name, process_id, exit, cause, usage });
        }
    }
}

/// How a gateway that was started here ended. The first one is nobody's child that is known here.
fn reap(id: Pid) -> Option<String> {
    let (_, status) = rustix::process::waitpid(Some(id), WaitOptions::NOHANG).ok()??;
    Some(match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or(0)),
    })
}
