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
use crate::control::{Event, Keep, LISTENERS_MAX, NAME_BYTES_MAX, Start};
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
    pub(crate) fn miss(&mut self, death: Event) {
        if self.missed.len() >= MISSED_MAX {
            self.missed.pop_front();
            self.untold += 1;
        }
        self.missed.push_back(death);
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
                cgroup: agent.cgroup_place(),
            },
            attached: Attached::Agent(Arc::clone(&agent.held), Arc::clone(&agent.pidfd)),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Exit, Usage};

    fn how() -> Start {
        Start { argv: vec!["x".into()], working_directory: "/".into(), environment: Vec::new() }
    }

    /// With a gateway that is up, and whose death is known with the end of its connection.
    fn served(patience_ms: u64, restart: Option<Start>, now: Instant) -> Succession {
        let mut succession = Succession::new(now);
        succession.welcome(None, &Roster::new(now));
        succession.keep(Keep { shape: "s".into(), patience_ms, restart });
        succession
    }

    fn is_end(step: &Step) -> bool {
        matches!(step, Step::End(_))
    }

    /// A gateway that hands over is followed at once, however often; one that crashes five times, each time later. One row
    /// for each crash.
    #[test]
    fn handovers_are_no_crashes() {
        let now = Instant::now();
        let mut succession = served(60_000, None, now);
        for _ in 0..20 {
            succession.hand_over(Some(how()));
            assert_eq!(succession.disconnected(now), Step::Nothing);
            assert_eq!(succession.step(now), Step::Start(how()));
            succession.welcome(None, &Roster::new(now));
        }
        succession.keep(Keep { shape: "s".into(), patience_ms: 60_000, restart: Some(how()) });
        for delay_ms in [0, 100, 200, 400, 800] {
            assert_eq!(succession.disconnected(now), Step::Nothing);
            let at = now + Duration::from_millis(delay_ms);
            assert_eq!(succession.deadline(), Some(at));
            assert_eq!(succession.step(at), Step::Start(how()));
            if delay_ms > 0 {
                assert_eq!(succession.step(at - Duration::from_millis(1)), Step::Nothing);
            }
            succession.welcome(None, &Roster::new(now));
        }
        assert!(is_end(&succession.disconnected(now)));
    }

    /// How long is waited: not at all for one that was not up or whose agents are to end with it; for one that hands over at
    /// least a minute; for one that cannot be started until the same time, since it may be started by others.
    #[test]
    fn patience_has_an_end() {
        let (now, moment) = (Instant::now(), Duration::from_millis(1));
        let mut early = Succession::new(now);
        assert_eq!(early.step(now + FIRST_PATIENCE - moment), Step::Nothing);
        assert!(is_end(&early.step(now + FIRST_PATIENCE)));
        early.welcome(None, &Roster::new(now));
        assert_eq!(early.deadline(), None);
        assert!(is_end(&early.disconnected(now)));
        assert!(is_end(&served(0, Some(how()), now).disconnected(now)));

        let check = |succession: &Succession, patience: Duration| {
            assert_eq!(succession.step(now + patience - moment), Step::Nothing);
            assert!(is_end(&succession.step(now + patience)));
        };
        let mut waiting = served(500, None, now);
        assert_eq!(waiting.disconnected(now), Step::Nothing);
        check(&waiting, Duration::from_millis(500));
        let mut leaving = served(0, None, now);
        leaving.hand_over(None);
        assert_eq!(leaving.disconnected(now), Step::Nothing);
        check(&leaving, HANDOVER_PATIENCE_MIN);

        let mut broken = served(500, Some(how()), now);
        assert_eq!(broken.disconnected(now), Step::Nothing);
        for _ in 1..CRASHES_MAX {
            assert_eq!(broken.started(None, now), Step::Nothing);
        }
        assert!(is_end(&broken.started(None, now)));
    }

    /// Nothing follows before the process is dead, and a process that was started and dies counts as a crash.
    #[test]
    fn the_death_of_the_process_is_waited_for() {
        let now = Instant::now();
        let this = || Process::watch(rustix::process::getpid());
        let mut succession = served(1000, Some(how()), now);
        succession.welcome(this(), &Roster::new(now));
        assert_eq!(succession.process_died(now), Step::Nothing, "the connection ends first");
        assert_eq!(succession.disconnected(now), Step::Nothing);
        assert_eq!(succession.leaving(), Some(rustix::process::getpid()));
        assert_eq!(succession.step(now), Step::Nothing);
        assert!(is_end(&succession.step(now + Duration::from_secs(1))), "one that does not die");
        assert_eq!(succession.process_died(now), Step::Nothing);
        assert_eq!((succession.leaving(), succession.step(now)), (None, Step::Start(how())));
        assert_eq!(succession.started(this(), now), Step::Nothing);
        assert!(succession.process().is_some());
        assert_eq!(succession.process_died(now), Step::Nothing);
        assert_eq!(succession.deadline(), Some(now + Duration::from_millis(100)));
    }

    /// Deaths are told once, the newest if there were too many, before the end of what is held.
    #[test]
    fn deaths_are_bounded() {
        let now = Instant::now();
        let mut succession = Succession::new(now);
        for instance in 0..MISSED_MAX as u64 + 3 {
            succession.miss(Event::Missed {
                instance,
                name: "a".into(),
                process_id: 1,
                exit: Exit::Code(0),
                cause: None,
                usage: Usage::default(),
            });
        }
        let told = succession.welcome(None, &Roster::new(now));
        assert_eq!(told.len(), MISSED_MAX + 1);
        assert!(matches!(told[0].event, Event::Missed { instance: 3, .. }));
        assert_eq!(told[MISSED_MAX].event, Event::Held { instance_max: 0, untold: 3 });
        assert_eq!(succession.welcome(None, &Roster::new(now)).len(), 1);
    }
}
