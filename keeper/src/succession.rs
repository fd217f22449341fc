//! What becomes of the agents when their gateway is gone: what is held for the next one, for how long, and whether it
//! is started from here.
//!
//! | stage | what is the case | on the end of the connection | on the death of the process | when time is up |
//! |---|---|---|---|---|
//! | `Fresh` | nobody has come yet | – | – | end |
//! | `Served` | a gateway is served | `Leaving`, or end | as both, one after the other | – |
//! | `Leaving` | its connection has ended, its process perhaps not | – | `Due`, `Waiting` or end | end |
//! | `Due` | the next one is to be started | – | – | `Started`; end |
//! | `Started` | it has been, and has not said hello | – | `Due` or end | end |
//! | `Waiting` | somebody else is to start it | – | – | end |
//!
//! `–` cannot come. A hello leads to `Served`, in `Leaving` only one of the process that leaves. *End* is that of the agents, and then of the keeper. The
//! next gateway is not started before the process of the last one is gone, since that one has the lock of the state
//! directory until then, and may write to the rings.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use rustix::process::{Pid, PidfdFlags};

use crate::connection::{Attached, Outgoing};
use crate::control::{Event, Exit, Keep, LISTENERS_MAX, NAME_BYTES_MAX, Start};
use crate::restart::{CRASHES_MAX, Crashes, WINDOW};
use crate::roster::{Roster, number};

/// How long the first gateway may take to say hello.
const FIRST_PATIENCE: Duration = Duration::from_secs(10);
/// How long agents wait at least for a gateway that was to follow.
const HANDOVER_PATIENCE_MIN: Duration = Duration::from_secs(60);
/// The longest that agents wait.
const PATIENCE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// The most deaths that wait to be told.
const MISSED_MAX: usize = 4096;

/// A process that is watched for its death.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) id: Pid,
    pub(crate) pidfd: OwnedFd,
}

impl Process {
    /// `None`: it is gone already.
    pub(crate) fn watch(id: Pid) -> Option<Self> {
        Some(Self { id, pidfd: rustix::process::pidfd_open(id, PidfdFlags::empty()).ok()? })
    }

    /// The one that has made a connection.
    pub(crate) fn peer(socket: BorrowedFd<'_>) -> Option<Self> {
        Self::watch(sockopt::socket_peercred(socket).ok()?.pid)
    }
}

#[derive(Debug)]
enum Stage {
    Fresh { until: Instant },
    Served { process: Option<Process>, hands_over: bool },
    Leaving { process: Process, crashed: bool, until: Instant },
    Due { at: Instant, until: Instant },
    Started { process: Process, until: Instant },
    Waiting { until: Instant },
}

/// What the loop is to do.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Step {
    Nothing,
    /// Start the next gateway, and say how that went.
    Start(Start),
    /// End the agents and the keeper, for this reason.
    End(String),
}

#[derive(Debug)]
struct HeldListener {
    address: String,
    // Arc: it may be replaced while it waits to be sent.
    socket: Arc<OwnedFd>,
}

/// What is held for the next gateway beside the agents, and how it comes.
#[derive(Debug)]
pub(crate) struct Succession {
    stage: Stage,
    listeners: BTreeMap<String, HeldListener>,
    missed: VecDeque<Event>,
    untold: u64,
    /// As the last gateway that was up has said.
    keep: Option<Keep>,
    start: Option<Start>,
    crashes: Crashes,
}

impl Succession {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            stage: Stage::Fresh { until: now + FIRST_PATIENCE },
            listeners: BTreeMap::new(),
            missed: VecDeque::new(),
            untold: 0,
            keep: None,
            start: None,
            crashes: Crashes::default(),
        }
    }

    pub(crate) fn shape(&self) -> Option<String> {
        self.keep.as_ref().map(|keep| keep.shape.clone())
    }

    /// Holds a listening socket.
    pub(crate) fn listener(
        &mut self,
        name: String,
        address: String,
        fds: Vec<OwnedFd>,
    ) -> Result<(), String> {
        if name.len() > NAME_BYTES_MAX || address.len() > NAME_BYTES_MAX {
            return Err(format!("name or address of a listener is longer than {NAME_BYTES_MAX} bytes"));
        }
        let count = fds.len();
        let Ok([socket]) = <[OwnedFd; 1]>::try_from(fds) else {
            return Err(format!("listener {name} came with {count} descriptors, expected 1"));
        };
        if !sockopt::socket_acceptconn(&socket).unwrap_or(false) {
            return Err(format!("listener {name} does not listen"));
        }
        if self.listeners.len() >= LISTENERS_MAX && !self.listeners.contains_key(&name) {
            return Err(format!("listener {name} is not held, at most {LISTENERS_MAX} are"));
        }
        self.listeners.insert(name, HeldListener { address, socket: Arc::new(socket) });
        Ok(())
    }

    /// The gateway is up.
    pub(crate) fn keep(&mut self, keep: Keep) {
        self.start.clone_from(&keep.restart);
        self.keep = Some(keep);
    }

    /// The gateway will leave.
    pub(crate) fn hand_over(&mut self, start: Option<Start>) {
        if let Stage::Served { hands_over, .. } = &mut self.stage {
            *hands_over = true;
            self.start = start.or(self.start.take());
        }
    }

    /// Keeps a death for the next gateway, in the place of the oldest if there are too many.
    pub(crate) fn miss(&mut self, name: String, instance: u64, process_id: u32, exit: Exit) {
        if self.missed.len() >= MISSED_MAX {
            self.missed.pop_front();
            self.untold += 1;
        }
        self.missed.push_back(Event::Missed { instance, name, process_id, exit });
    }

    /// A gateway is welcome: all that is held, for it to be told.
    pub(crate) fn welcome(&mut self, process: Option<Process>, roster: &Roster) -> Vec<Outgoing> {
        self.stage = Stage::Served { process, hands_over: false };
        let missed = self.missed.drain(..).map(Outgoing::from);
        let listeners = self.listeners.iter().map(|(name, held)| Outgoing {
            event: Event::Listener { name: name.clone(), address: held.address.clone() },
            attached: Attached::Socket(Arc::clone(&held.socket)),
        });
        let agents = roster.agents().iter().map(|(&instance, agent)| Outgoing {
            event: Event::Alive {
                instance,
                generation: agent.generation,
                name: agent.name.clone(),
                process_id: number(agent.process),
                definition: agent.definition,
            },
            attached: Attached::Agent(Arc::clone(&agent.held)),
        });
        let untold = std::mem::take(&mut self.untold);
        let end = Event::Held { instance_max: roster.instance_max(), untold };
        missed.chain(listeners).chain(agents).chain([end.into()]).collect()
    }

    /// What to watch for the death of a gateway.
    pub(crate) fn process(&self) -> Option<&Process> {
        match &self.stage {
            Stage::Served { process, .. } => process.as_ref(),
            Stage::Leaving { process, .. } | Stage::Started { process, .. } => Some(process),
            Stage::Fresh { .. } | Stage::Due { .. } | Stage::Waiting { .. } => None,
        }
    }

    /// The process of a gateway whose connection has ended and that may still live.
    pub(crate) fn leaving(&self) -> Option<Pid> {
        match &self.stage {
            Stage::Leaving { process, .. } => Some(process.id),
            _ => None,
        }
    }

    /// The connection of the gateway has ended.
    pub(crate) fn disconnected(&mut self, now: Instant) -> Step {
        let Stage::Served { process, hands_over } = &mut self.stage else { return Step::Nothing };
        let (process, hands_over) = (process.take(), *hands_over);
        let Some(patience_ms) = self.keep.as_ref().map(|keep| keep.patience_ms) else {
            return Step::End("it was not up yet".to_owned());
        };
        let patience = Duration::from_millis(patience_ms).min(PATIENCE_MAX);
        let patience = if hands_over { patience.max(HANDOVER_PATIENCE_MIN) } else { patience };
        if patience.is_zero() {
            return Step::End("agents are to end with their gateway".to_owned());
        }
        let until = now + patience;
        match process {
            Some(process) => {
                self.stage = Stage::Leaving { process, crashed: !hands_over, until };
                Step::Nothing
            }
            None => self.follow(!hands_over, until, now),
        }
    }

    /// The watched process is dead.
    pub(crate) fn process_died(&mut self, now: Instant) -> Step {
        match &self.stage {
            Stage::Leaving { crashed, until, .. } => self.follow(*crashed, *until, now),
            Stage::Started { until, .. } => self.follow(true, *until, now),
            Stage::Fresh { .. } | Stage::Served { .. } | Stage::Due { .. } | Stage::Waiting { .. } => {
                Step::Nothing
            }
        }
    }

    /// The next gateway has been started, or could not be.
    pub(crate) fn started(&mut self, process: Option<Process>, now: Instant) -> Step {
        let Stage::Due { until, .. } = self.stage else { return Step::Nothing };
        match process {
            Some(process) => {
                self.stage = Stage::Started { process, until };
                Step::Nothing
            }
            None => self.follow(true, until, now),
        }
    }

    /// Decides how the next gateway comes.
    fn follow(&mut self, crashed: bool, until: Instant, now: Instant) -> Step {
        if self.start.is_none() {
            self.stage = Stage::Waiting { until };
            return Step::Nothing;
        }
        let at = if crashed { self.crashes.note(now) } else { Some(now) };
        let Some(at) = at else {
            let window = WINDOW.as_secs();
            return Step::End(format!("more than {CRASHES_MAX} gateways have crashed within {window} s"));
        };
        self.stage = Stage::Due { at, until };
        Step::Nothing
    }

    /// When [`Self::step`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Served { .. } => None,
            Stage::Due { at, until } => Some(at.min(until)),
            Stage::Fresh { until }
            | Stage::Leaving { until, .. }
            | Stage::Started { until, .. }
            | Stage::Waiting { until } => Some(until),
        }
    }

    /// What is to be done by now.
    pub(crate) fn step(&self, now: Instant) -> Step {
        match self.stage {
            Stage::Due { at, until } if now >= at && now < until => {
                self.start.clone().map_or(Step::Nothing, Step::Start)
            }
            _ if self.deadline().is_some_and(|deadline| now >= deadline) => {
                Step::End("no gateway has come".to_owned())
            }
            _ => Step::Nothing,
        }
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}
